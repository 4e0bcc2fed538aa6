//! `/flavors`, with access lists.

use super::forms;
use crate::State;
use crate::logic::flavors as logic;
use crate::store::flavors::{Flavor, usable};
use caelum_base::{Error, Result};
use caelum_policy::personas::{ADMIN, PROJECT};
use caelum_rest::{Access, Ctx, Op, Page, Reply, Version, h};
use caelum_store::Query;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Ordering;

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

/// Shows extra specs inside flavors and servers from 2.61 on.
pub const SPECS_RULE: &str = "os_compute_api:os-flavor-extra-specs:index";

pub const OPS: &[Op<State>] = &[
    Op::get("flavor_list", "/flavors", Access::Token, h!(list)),
    Op::get("flavor_list_detail", "/flavors/detail", Access::Token, h!(detail)),
    Op::get("flavor_show", "/flavors/{id}", Access::Token, h!(show)),
    Op::post("flavor_create", "/flavors", admin("os_compute_api:os-flavor-manage:create"), h!(create)),
    Op::put("flavor_update", "/flavors/{id}", admin("os_compute_api:os-flavor-manage:update"), h!(update)).since(2, 55).max_body(400_000),
    Op::delete("flavor_delete", "/flavors/{id}", admin("os_compute_api:os-flavor-manage:delete"), h!(delete)),
    Op::get("flavor_access_list", "/flavors/{id}/os-flavor-access", admin("os_compute_api:os-flavor-access"), h!(access)),
    Op::post("flavor_access_add", "/flavors/{id}/action", admin("os_compute_api:os-flavor-access:add_tenant_access"), h!(grant))
        .action("addTenantAccess"),
    Op::post("flavor_access_remove", "/flavors/{id}/action", admin("os_compute_api:os-flavor-access:remove_tenant_access"), h!(revoke))
        .action("removeTenantAccess"),
];

/// A flavor as `/flavors` shows it. `specs` says whether the caller may read extra specs.
pub fn view(cx: &Ctx<State>, f: &Flavor, specs: bool) -> Value {
    let swap = if f.swap_mb == 0 && cx.version < Version(2, 75) { json!("") } else { json!(f.swap_mb) };
    let mut v = json!({
        "id": f.id, "name": f.name, "ram": f.ram_mb, "disk": f.root_gb, "swap": swap, "vcpus": f.vcpus,
        "OS-FLV-EXT-DATA:ephemeral": f.ephemeral_gb, "OS-FLV-DISABLED:disabled": f.disabled,
        "os-flavor-access:is_public": f.is_public, "rxtx_factor": f.rxtx_factor,
        "links": forms::links(cx, &format!("/flavors/{}", f.id)),
    });
    if cx.version >= Version(2, 55) {
        v["description"] = json!(f.description);
    }
    if cx.version >= Version(2, 61) && specs {
        v["extra_specs"] = json!(f.extra_specs);
    }
    v
}

fn may_see_specs(cx: &Ctx<State>) -> bool {
    let creds = &cx.auth().creds;
    cx.allows(SPECS_RULE, &caelum_policy::Target::new().with_opt("project_id", creds.project_id.as_deref()))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let (flavors, next) = select(&cx).await?;
    let short = |f: &Flavor| {
        let mut v = json!({"id": f.id, "name": f.name, "links": forms::links(&cx, &format!("/flavors/{}", f.id))});
        if cx.version >= Version(2, 55) {
            v["description"] = json!(f.description);
        }
        v
    };
    let mut body = json!({"flavors": flavors.iter().map(short).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "flavors", "/flavors", next);
    Reply::ok(&body)
}

async fn detail(cx: Ctx<State>) -> Result<Reply> {
    let (flavors, next) = select(&cx).await?;
    let specs = may_see_specs(&cx);
    let mut body = json!({"flavors": flavors.iter().map(|f| view(&cx, f, specs)).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "flavors", "/flavors/detail", next);
    Reply::ok(&body)
}

const LIST_PARAMS: &[&str] = &["limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir"];

/// The flavors a list request asks for and the caller may see. There are at most some hundreds, so
/// sorting and paging happen here.
async fn select(cx: &Ctx<State>) -> Result<(Vec<Flavor>, Option<String>)> {
    forms::known_params(cx, Version(2, 75), LIST_PARAMS)?;
    let page = Page::from_query(&cx.query, forms::MAX_LIMIT)?;
    let min = |key: &str| -> Result<i64> {
        let Some(text) = cx.query.get(key) else { return Ok(0) };
        text.parse().map_err(|_| Error::invalid(format!("Invalid {key} filter [{text}]")))
    };
    let (min_ram, min_disk, public) = (min("minRam")?, min("minDisk")?, wanted_public(cx)?);
    let project = cx.auth().creds.project_id.clone();
    let shown = |f: &Flavor| match public {
        None => true,
        Some(true) => f.visible_to(project.as_deref()),
        Some(false) => !f.is_public,
    };
    let all = cx.state.db.list::<Flavor>(Query::new()).await?;
    let mut rows: Vec<Flavor> = all.into_iter().map(|f| f.into_inner()).collect();
    rows.retain(|f| f.ram_mb >= min_ram && f.root_gb >= min_disk && !f.disabled && shown(f));
    sort(cx, &mut rows)?;
    forms::page_of(rows, &page, |f| f.id.clone())
}

/// `is_public` of administrators; everybody else sees public flavors and those of their project.
fn wanted_public(cx: &Ctx<State>) -> Result<Option<bool>> {
    if !cx.auth().is_admin() {
        return Ok(Some(true));
    }
    match cx.query.get("is_public") {
        None => Ok(Some(true)),
        Some(t) if t.eq_ignore_ascii_case("none") => Ok(None),
        Some(t) => cx.query.bool("is_public").map(Some).ok_or_else(|| Error::invalid(format!("Invalid is_public filter [{t}]"))),
    }
}

fn sort(cx: &Ctx<State>, rows: &mut [Flavor]) -> Result<()> {
    let key = cx.query.get("sort_key").unwrap_or("flavorid");
    let by: fn(&Flavor, &Flavor) -> Ordering = match key {
        "flavorid" => |a, b| a.id.cmp(&b.id),
        "name" => |a, b| a.name.cmp(&b.name),
        "memory_mb" => |a, b| a.ram_mb.cmp(&b.ram_mb),
        "vcpus" => |a, b| a.vcpus.cmp(&b.vcpus),
        "root_gb" => |a, b| a.root_gb.cmp(&b.root_gb),
        "ephemeral_gb" => |a, b| a.ephemeral_gb.cmp(&b.ephemeral_gb),
        "swap" => |a, b| a.swap_mb.cmp(&b.swap_mb),
        "rxtx_factor" => |a, b| a.rxtx_factor.total_cmp(&b.rxtx_factor),
        "is_public" => |a, b| a.is_public.cmp(&b.is_public),
        "disabled" => |a, b| a.disabled.cmp(&b.disabled),
        "created_at" | "id" => |a, b| a.created_at.cmp(&b.created_at),
        "updated_at" => |a, b| a.updated_at.cmp(&b.updated_at),
        "vcpu_weight" => |_, _| Ordering::Equal,
        _ => return Err(Error::invalid(format!("Invalid sort key: {key}"))),
    };
    let descending = match cx.query.get("sort_dir").unwrap_or("asc") {
        "asc" => false,
        "desc" => true,
        other => return Err(Error::invalid(format!("Unknown sort direction {other}, must be 'desc' or 'asc'"))),
    };
    rows.sort_by(|a, b| {
        let order = by(a, b).then_with(|| a.id.cmp(&b.id));
        if descending { order.reverse() } else { order }
    });
    Ok(())
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (id, project, admin) = (cx.param("id").to_string(), cx.auth().creds.project_id.clone(), cx.auth().is_admin());
    let f = cx.state.db.read(move |tx| usable(tx, &id, project.as_deref(), admin)).await?;
    Reply::ok(&json!({"flavor": view(&cx, &f, may_see_specs(&cx))}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    flavor: Create,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    id: Option<Value>,
    #[serde(deserialize_with = "forms::int_or_text")]
    ram: i64,
    #[serde(deserialize_with = "forms::int_or_text")]
    vcpus: i64,
    #[serde(deserialize_with = "forms::int_or_text")]
    disk: i64,
    #[serde(default, rename = "OS-FLV-EXT-DATA:ephemeral", deserialize_with = "forms::int_or_text")]
    ephemeral: i64,
    #[serde(default, deserialize_with = "forms::int_or_text")]
    swap: i64,
    rxtx_factor: Option<Value>,
    #[serde(default, rename = "os-flavor-access:is_public", deserialize_with = "forms::opt_bool")]
    is_public: Option<bool>,
    #[serde(default, deserialize_with = "forms::nullable")]
    description: Option<Option<String>>,
}

impl Create {
    fn flavor(self, cx: &Ctx<State>) -> Result<Flavor> {
        forms::check_name("name", &self.name)?;
        let id = match self.id {
            None | Some(Value::Null) => cx.env.uuid(),
            Some(Value::String(t)) if t == "auto" => cx.env.uuid(),
            Some(Value::String(t)) => checked_id(t)?,
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => checked_id(n.to_string())?,
            Some(other) => return Err(Error::invalid(format!("Invalid input for field/attribute id. Value: {other}."))),
        };
        if self.description.is_some() && cx.version < Version(2, 55) {
            return Err(Error::invalid("Additional properties are not allowed ('description' was unexpected)"));
        }
        let mut f = logic::blank(&id, &self.name, cx.env.now());
        f.description = checked_description(self.description.flatten())?;
        f.ram_mb = forms::check_range("ram", self.ram, 1)?;
        f.vcpus = forms::check_range("vcpus", self.vcpus, 1)?;
        f.root_gb = forms::check_range("disk", self.disk, 0)?;
        f.ephemeral_gb = forms::check_range("OS-FLV-EXT-DATA:ephemeral", self.ephemeral, 0)?;
        f.swap_mb = forms::check_range("swap", self.swap, 0)?;
        f.rxtx_factor = self.rxtx_factor.map_or(Ok(1.0), |v| rxtx(&v))?;
        f.is_public = self.is_public.unwrap_or(true);
        Ok(f)
    }
}

fn checked_id(id: String) -> Result<String> {
    let chars = id.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._-".contains(&b));
    if !chars || id.is_empty() || id.len() > 255 || id.trim() != id {
        return Err(Error::invalid(format!("Invalid input for field/attribute id. Value: {id}.")));
    }
    Ok(id)
}

fn checked_description(text: Option<String>) -> Result<Option<String>> {
    match &text {
        Some(t) if t.chars().count() > 65_535 || t.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            Err(Error::invalid("Invalid input for field/attribute description. It has at most 65535 printable characters."))
        }
        _ => Ok(text),
    }
}

fn rxtx(value: &Value) -> Result<f64> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(t) if t.bytes().all(|b| b.is_ascii_digit() || b == b'.') => t.parse().ok(),
        _ => None,
    };
    let number = number.filter(|n| *n > 0.0 && *n <= 3.40282e38);
    number.ok_or_else(|| Error::invalid(format!("Invalid input for field/attribute rxtx_factor. Value: {value}.")))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: CreateBody = cx.json().await?;
    let flavor = body.flavor.flavor(&cx)?;
    let f = flavor.clone();
    cx.state.db.write(move |tx| logic::create(tx, &flavor)).await?;
    Reply::ok(&json!({"flavor": view(&cx, &f, may_see_specs(&cx))}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBody {
    flavor: Update,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(deserialize_with = "Option::deserialize")]
    description: Option<String>,
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: UpdateBody = cx.json().await?;
    let description = checked_description(body.flavor.description)?;
    let (id, now) = (cx.param("id").to_string(), cx.env.now());
    let write = move |tx: &mut caelum_store::Tx<'_>| {
        let mut f = logic::require(tx, &id)?;
        f.description.clone_from(&description);
        f.updated_at = now;
        tx.update(&mut f)?;
        Ok(f.into_inner())
    };
    let f = cx.state.db.write(write).await?;
    Reply::ok(&json!({"flavor": view(&cx, &f, may_see_specs(&cx))}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = cx.param("id").to_string();
    let write = move |tx: &mut caelum_store::Tx<'_>| {
        if tx.delete_id::<Flavor>(&id)? { Ok(()) } else { Err(logic::not_found(&id)) }
    };
    cx.state.db.write(write).await?;
    Ok(Reply::empty(202))
}

fn access_view(f: &Flavor) -> Value {
    let rows: Vec<_> = f.projects.iter().map(|p| json!({"flavor_id": f.id, "tenant_id": p})).collect();
    json!({"flavor_access": rows})
}

async fn access(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let id = cx.param("id").to_string();
    let f = cx.state.db.read(move |tx| logic::require(tx, &id)).await?;
    if f.is_public {
        return Err(Error::not_found("Access list not available for public flavors."));
    }
    Reply::ok(&access_view(&f))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tenant {
    tenant: String,
}

fn checked_tenant(t: Tenant) -> Result<String> {
    let fine = (1..=255).contains(&t.tenant.len()) && t.tenant.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fine { Ok(t.tenant) } else { Err(Error::invalid(format!("{} is not a valid project id.", t.tenant))) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    #[serde(rename = "addTenantAccess")]
    tenant: Tenant,
}

async fn grant(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Grant = cx.json().await?;
    let (id, project) = (cx.param("id").to_string(), checked_tenant(body.tenant)?);
    let f = cx.state.db.write(move |tx| logic::grant(tx, &id, &project)).await?;
    Reply::ok(&access_view(&f))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(rename = "removeTenantAccess")]
    tenant: Tenant,
}

async fn revoke(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Revoke = cx.json().await?;
    let (id, project) = (cx.param("id").to_string(), checked_tenant(body.tenant)?);
    let f = cx.state.db.write(move |tx| logic::revoke(tx, &id, &project)).await?;
    Reply::ok(&access_view(&f))
}
