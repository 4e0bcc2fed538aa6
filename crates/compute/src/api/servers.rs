//! `/servers`: list, show, update, delete; creating is in `server_create`, filters in `server_list`.

use super::server_create::{self, ip};
use super::server_list;
use super::views::{Kind, Viewer};
use super::wire::{self, gate, given};
use crate::State;
use crate::logic::{delete, netinfo};
use crate::store::servers::{self, Server, ServerData, Task, VmState};
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_policy::{RuleDefault, Target};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use caelum_store::Stored;
use serde::Deserialize;
use serde_json::json;

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::post("server_create", "/servers", member("os_compute_api:servers:create"), h!(server_create::server_create)).max_body(1 << 20),
    Op::get("server_list", "/servers", reader("os_compute_api:servers:index"), h!(server_list::server_list)),
    Op::get("server_list_detail", "/servers/detail", reader("os_compute_api:servers:detail"), h!(server_list::server_list_detail)),
    Op::get("server_show", "/servers/{id}", reader("os_compute_api:servers:show"), h!(server_show)),
    Op::put("server_update", "/servers/{id}", member("os_compute_api:servers:update"), h!(server_update)),
    Op::delete("server_delete", "/servers/{id}", member("os_compute_api:servers:delete"), h!(server_delete)),
];

const fn rule(name: &'static str, check: &'static str) -> RuleDefault {
    RuleDefault { name, check, scopes: PROJECT }
}

/// Rules that handlers ask beside their own operation's.
pub const RULES: &[RuleDefault] = &[
    rule("os_compute_api:servers:index:get_all_tenants", ADMIN),
    rule("os_compute_api:servers:detail:get_all_tenants", ADMIN),
    rule("os_compute_api:servers:allow_all_filters", ADMIN),
    rule("os_compute_api:servers:show:host_status", ADMIN),
    rule("os_compute_api:servers:show:host_status:unknown-only", ADMIN),
    rule("os_compute_api:servers:create:forced_host", ADMIN),
    rule("compute:servers:create:requested_destination", ADMIN),
    rule("os_compute_api:servers:create:zero_disk_flavor", ADMIN),
    rule("os_compute_api:servers:create:attach_volume", PROJECT_MEMBER_OR_ADMIN),
    rule("os_compute_api:servers:create:attach_network", PROJECT_MEMBER_OR_ADMIN),
    rule("network:attach_external_network", ADMIN),
    rule("os_compute_api:os-extended-server-attributes", ADMIN),
    rule("os_compute_api:os-lock-server:unlock:unlock_override", ADMIN),
    rule("os_compute_api:os-instance-actions:events", ADMIN),
    rule("os_compute_api:os-instance-actions:events:details", ADMIN),
];

/// The server of the path, if the caller may do this operation on it. Another project's server is
/// the same 404 as none.
pub async fn lookup(cx: &Ctx<State>) -> Result<Stored<Server>> {
    let id = cx.param("id").to_string();
    let found = cx.state.db.get::<Server>(&id).await?.ok_or_else(|| servers::not_found(&id))?;
    cx.authorize_found(&found.project_id, || servers::not_found(&id))?;
    Ok(found)
}

/// [`lookup`] for changes: a locked server refuses all but administrators.
pub async fn lookup_unlocked(cx: &Ctx<State>) -> Result<Stored<Server>> {
    let s = lookup(cx).await?;
    check_unlocked(cx, &s)?;
    Ok(s)
}

pub fn check_unlocked(cx: &Ctx<State>, s: &Server) -> Result<()> {
    let target = Target::project(&s.project_id);
    if s.lock.is_some() && !cx.allows("os_compute_api:os-lock-server:unlock:unlock_override", &target) {
        return Err(Error::conflict(format!("Instance {} is locked", s.id)));
    }
    Ok(())
}

/// The user data where the version shows it.
pub async fn user_data(cx: &Ctx<State>, s: &Server) -> Result<Option<String>> {
    if !s.has_user_data || cx.version < Version(2, 3) {
        return Ok(None);
    }
    Ok(cx.state.db.get::<ServerData>(&s.id).await?.and_then(|d| d.value.user_data))
}

async fn server_show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let s = netinfo::fresh(&cx.state, s.value).await;
    let data = user_data(&cx, &s).await?;
    Reply::ok(&json!({"server": Viewer::of(&cx).server(&s, Kind::Full, data.as_deref())}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBody {
    server: UpdateIn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateIn {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, rename = "accessIPv4")]
    access_ipv4: Option<String>,
    #[serde(default, rename = "accessIPv6")]
    access_ipv6: Option<String>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
}

async fn server_update(mut cx: Ctx<State>) -> Result<Reply> {
    let found = lookup(&cx).await?;
    let body: UpdateBody = cx.json().await?;
    let change = read_update(&cx, body.server)?;
    let (env, id) = (cx.env.clone(), found.id.clone());
    let s = cx
        .state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            change.apply(&mut s);
            s.updated_at = env.now();
            tx.update(&mut s)?;
            Ok(s.value)
        })
        .await?;
    let data = user_data(&cx, &s).await?;
    Reply::ok(&json!({"server": Viewer::of(&cx).server(&s, Kind::Update, data.as_deref())}))
}

struct Change {
    name: Option<String>,
    description: Option<Option<String>>,
    access_ipv4: Option<String>,
    access_ipv6: Option<String>,
    disk_config: Option<String>,
    hostname: Option<String>,
}

impl Change {
    fn apply(&self, s: &mut Server) {
        let set = |field: &mut String, value: &Option<String>| {
            if let Some(v) = value {
                field.clone_from(v);
            }
        };
        set(&mut s.name, &self.name);
        set(&mut s.access_ipv4, &self.access_ipv4);
        set(&mut s.access_ipv6, &self.access_ipv6);
        set(&mut s.disk_config, &self.disk_config);
        set(&mut s.hostname, &self.hostname);
        if let Some(d) = &self.description {
            s.description.clone_from(d);
        }
    }
}

fn read_update(cx: &Ctx<State>, b: UpdateIn) -> Result<Change> {
    gate(cx, "description", b.description.is_some(), 19, u32::MAX)?;
    gate(cx, "hostname", b.hostname.is_some(), 90, u32::MAX)?;
    Ok(Change {
        name: b.name.map(|n| wire::name("name", &n)).transpose()?,
        description: b.description.map(wire::description).transpose()?,
        access_ipv4: b.access_ipv4.map(|t| ip(Some(t), false)).transpose()?,
        access_ipv6: b.access_ipv6.map(|t| ip(Some(t), true)).transpose()?,
        disk_config: b.disk_config.map(|d| server_create::disk_config(Some(d))).transpose()?,
        hostname: b.hostname.map(|h| wire::hostname(&h, cx.version >= Version(2, 94))).transpose()?,
    })
}

async fn server_delete(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    delete::server_delete(&cx.state, &s.id, cx.auth().user_id(), &cx.request_id).await?;
    Ok(Reply::no_content())
}

/// Errors: `Conflict` in upstream's words when the server is in none of `states` or busy.
pub fn in_state(s: &Server, what: &str, states: &[VmState]) -> Result<()> {
    if !states.contains(&s.state) {
        return Err(Error::conflict(format!("Cannot '{what}' instance {} while it is in vm_state {}", s.id, s.state.name())));
    }
    not_busy(s, what)
}

/// Errors: `Conflict` while an operation runs.
pub fn not_busy(s: &Server, what: &str) -> Result<()> {
    match s.task {
        None => Ok(()),
        Some(Task::Deleting) => Err(servers::not_found(&s.id)),
        Some(t) => Err(Error::conflict(format!("Cannot '{what}' instance {} while it is in task_state {}", s.id, t.name()))),
    }
}
