//! `POST /servers/{id}/action`: changes of power, rebuild, resize, images, locks.

use super::server_create::{admin_pass, disk_config, ip, user_data as check_user_data};
use super::servers::{check_unlocked, lookup, lookup_unlocked, user_data};
use super::views::{Kind, Viewer};
use super::wire::{self, LooseText, gate, given};
use crate::State;
use crate::flows::power::{ChangePower, PowerOp};
use crate::flows::rebuild::Rebuild;
use crate::flows::resize::{ResizeServer, Stage};
use crate::logic::ops::Begin;
use crate::logic::{actions, images, ops};
use crate::store::servers::{Lock, Server, Task, VmState};
use crate::store::{flavors, keypairs, quota, servers};
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_MEMBER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const PATH: &str = "/servers/{id}/action";

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn admin(name: &'static str) -> Access {
    Access::rule(name, ADMIN, PROJECT)
}

pub const OPS: &[Op<State>] = &[
    Op::post("server_start", PATH, member("os_compute_api:servers:start"), h!(start)).action("os-start"),
    Op::post("server_stop", PATH, member("os_compute_api:servers:stop"), h!(stop)).action("os-stop"),
    Op::post("server_reboot", PATH, member("os_compute_api:servers:reboot"), h!(reboot)).action("reboot"),
    Op::post("server_pause", PATH, member("os_compute_api:os-pause-server:pause"), h!(pause)).action("pause"),
    Op::post("server_unpause", PATH, member("os_compute_api:os-pause-server:unpause"), h!(unpause)).action("unpause"),
    Op::post("server_suspend", PATH, member("os_compute_api:os-suspend-server:suspend"), h!(suspend)).action("suspend"),
    Op::post("server_resume", PATH, member("os_compute_api:os-suspend-server:resume"), h!(resume)).action("resume"),
    Op::post("server_lock", PATH, member("os_compute_api:os-lock-server:lock"), h!(lock)).action("lock"),
    Op::post("server_unlock", PATH, member("os_compute_api:os-lock-server:unlock"), h!(unlock)).action("unlock"),
    Op::post("server_console_log", PATH, member("os_compute_api:os-console-output"), h!(console_log)).action("os-getConsoleOutput"),
    Op::post("server_rebuild", PATH, member("os_compute_api:servers:rebuild"), h!(rebuild)).action("rebuild").max_body(1 << 20),
    Op::post("server_create_image", PATH, member("os_compute_api:servers:create_image"), h!(create_image)).action("createImage"),
    Op::post("server_create_backup", PATH, member("os_compute_api:os-create-backup"), h!(create_backup)).action("createBackup"),
    Op::post("server_resize", PATH, member("os_compute_api:servers:resize"), h!(resize)).action("resize"),
    Op::post("server_confirm_resize", PATH, member("os_compute_api:servers:confirm_resize"), h!(confirm)).action("confirmResize"),
    Op::post("server_revert_resize", PATH, member("os_compute_api:servers:revert_resize"), h!(revert)).action("revertResize"),
    Op::post("server_shelve", PATH, member("os_compute_api:os-shelve:shelve"), h!(shelve)).action("shelve"),
    Op::post("server_unshelve", PATH, member("os_compute_api:os-shelve:unshelve"), h!(unshelve)).action("unshelve"),
    Op::post("server_shelve_offload", PATH, admin("os_compute_api:os-shelve:shelve_offload"), h!(shelve_offload)).action("shelveOffload"),
    Op::post("server_force_delete", PATH, member("os_compute_api:os-deferred-delete:force"), h!(force_delete)).action("forceDelete"),
    Op::post("server_restore", PATH, member("os_compute_api:os-deferred-delete:restore"), h!(restore)).action("restore"),
    Op::post("server_change_password", PATH, member("os_compute_api:os-admin-password"), h!(change_password)).action("changePassword"),
    Op::post("server_inject_network", PATH, admin("os_compute_api:os-admin-actions:inject_network_info"), h!(inject_network))
        .action("injectNetworkInfo"),
    Op::post("server_reset_state", PATH, admin("os_compute_api:os-admin-actions:reset_state"), h!(reset_state)).action("os-resetState"),
];

fn begin(
    cx: &Ctx<State>,
    s: &Server,
    action: &'static str,
    event: &'static str,
    verb: &'static str,
    states: &'static [VmState],
    task: Option<Task>,
) -> Begin {
    Begin {
        server_id: s.id.clone(),
        user_id: cx.auth().user_id().to_string(),
        request_id: cx.request_id.clone(),
        action,
        event,
        verb,
        states,
        task,
    }
}

/// An action with a null body.
async fn null_body(cx: &mut Ctx<State>) -> Result<()> {
    let body: BTreeMap<String, Value> = cx.json().await?;
    match body.values().next() {
        None | Some(Value::Null) => Ok(()),
        // Old clients send an empty object.
        Some(Value::Object(o)) if o.is_empty() => Ok(()),
        Some(v) => Err(Error::invalid(format!("Invalid input for the action. Value: {v}. None is expected."))),
    }
}

async fn power(cx: &Ctx<State>, op: PowerOp, b: Begin) -> Result<Reply> {
    let grace_s = if matches!(op, PowerOp::Stop | PowerOp::SoftReboot) { cx.state.config.shutdown_grace.as_secs() } else { 0 };
    let id = b.server_id.clone();
    ops::begin(&cx.state, b, move |_, s, action_id| {
        ops::host(s)?;
        Ok(ChangePower { server_id: id.clone(), action_id: action_id.to_string(), op, grace_s })
    })
    .await?;
    Ok(Reply::empty(202))
}

macro_rules! simple_power {
    ($($name:ident: $op:ident, $action:literal, $event:literal, $verb:literal, $states:expr, $task:ident;)*) => {$(
        async fn $name(mut cx: Ctx<State>) -> Result<Reply> {
            let s = lookup_unlocked(&cx).await?;
            null_body(&mut cx).await?;
            let b = begin(&cx, &s, $action, $event, $verb, $states, Some(Task::$task));
            power(&cx, PowerOp::$op, b).await
        }
    )*};
}

simple_power! {
    start: Start, "start", "compute_start_instance", "start", &[VmState::Stopped], PoweringOn;
    stop: Stop, "stop", "compute_stop_instance", "stop", &[VmState::Active, VmState::Error], PoweringOff;
    pause: Pause, "pause", "compute_pause_instance", "pause", &[VmState::Active], Pausing;
    unpause: Unpause, "unpause", "compute_unpause_instance", "unpause", &[VmState::Paused], Unpausing;
    suspend: Suspend, "suspend", "compute_suspend_instance", "suspend", &[VmState::Active], Suspending;
    resume: Resume, "resume", "compute_resume_instance", "resume", &[VmState::Suspended], Resuming;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebootBody {
    reboot: RebootIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebootIn {
    #[serde(rename = "type")]
    kind: String,
}

async fn reboot(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: RebootBody = cx.json().await?;
    const HARD: &[VmState] = &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended, VmState::Error];
    let (op, states, task): (_, &'static [VmState], _) = match body.reboot.kind.to_ascii_uppercase().as_str() {
        "SOFT" => (PowerOp::SoftReboot, &[VmState::Active], Task::Rebooting),
        "HARD" => (PowerOp::HardReboot, HARD, Task::RebootingHard),
        other => return Err(Error::invalid(format!("Invalid input for field/attribute type. Value: {other}."))),
    };
    let b = begin(&cx, &s, "reboot", "compute_reboot_instance", "reboot", states, Some(task));
    power(&cx, op, b).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockIn {
    #[serde(default)]
    locked_reason: Option<String>,
}

async fn lock(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let body: BTreeMap<String, Option<LockIn>> = cx.json().await?;
    let reason = body.into_values().next().flatten().and_then(|l| l.locked_reason);
    gate(&cx, "locked_reason", reason.is_some(), 73, u32::MAX)?;
    if reason.as_ref().is_some_and(|r| r.is_empty() || r.chars().count() > 255) {
        return Err(Error::invalid("Invalid input for field/attribute locked_reason."));
    }
    let by = if cx.auth().is_admin() && cx.auth().creds.project_id.as_deref() != Some(&s.project_id) { "admin" } else { "owner" };
    set_lock(&cx, &s, Some(Lock { by: by.to_string(), reason })).await
}

async fn unlock(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    null_body(&mut cx).await?;
    if s.lock.as_ref().is_some_and(|l| l.by == "admin") {
        cx.require("os_compute_api:os-lock-server:unlock:unlock_override", &Target::project(&s.project_id))?;
    }
    set_lock(&cx, &s, None).await
}

async fn set_lock(cx: &Ctx<State>, s: &Server, lock: Option<Lock>) -> Result<Reply> {
    let (id, env) = (s.id.clone(), cx.env.clone());
    cx.state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            s.lock.clone_from(&lock);
            s.updated_at = env.now();
            tx.update(&mut s)
        })
        .await?;
    Ok(Reply::empty(202))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleIn {
    #[serde(default)]
    length: Option<Value>,
}

/// Most bytes of a console log in one answer.
const MAX_CONSOLE: u64 = 1 << 20;

async fn console_log(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let body: BTreeMap<String, Option<ConsoleIn>> = cx.json().await?;
    let lines = match body.into_values().next().flatten().and_then(|c| c.length) {
        None | Some(Value::Null) => None,
        Some(v) => {
            let n = v.as_i64().or_else(|| v.as_str().and_then(|t| t.parse().ok()));
            let n =
                n.filter(|n| *n >= -1).ok_or_else(|| Error::invalid(format!("Invalid input for field/attribute length. Value: {v}.")))?;
            usize::try_from(n).ok()
        }
    };
    let host = ops::host(&s)?;
    let bytes = match cx.state.hosts.get(&host)?.console_log(&s.id, MAX_CONSOLE).await {
        Err(e) if e.is_not_found() => return Err(Error::conflict(format!("Instance {} is not ready", s.id))),
        other => other?,
    };
    Reply::ok(&json!({"output": actions::last_lines(&bytes, lines)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebuildBody {
    rebuild: RebuildIn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RebuildIn {
    #[serde(rename = "imageRef")]
    image: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "adminPass")]
    admin_pass: Option<String>,
    #[serde(default)]
    preserve_ephemeral: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    key_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    user_data: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    trusted_image_certificates: Option<Option<Vec<String>>>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default, rename = "accessIPv4")]
    access_ipv4: Option<String>,
    #[serde(default, rename = "accessIPv6")]
    access_ipv6: Option<String>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(default)]
    personality: Option<Vec<Value>>,
}

async fn rebuild(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: RebuildBody = cx.json().await?;
    let r = body.rebuild;
    let pass = admin_pass(&cx, r.admin_pass.as_deref())?;
    let change = read_rebuild(&cx, &s, r).await?;
    let id = s.id.clone();
    const STATES: &[VmState] = &[VmState::Active, VmState::Stopped, VmState::Error];
    let b = begin(&cx, &s, "rebuild", "compute_rebuild_instance", "rebuild", STATES, Some(Task::Rebuilding));
    let s = ops::begin(&cx.state, b, move |tx, s, action_id| {
        ops::host(s)?;
        let was_stopped = s.state == VmState::Stopped;
        change.apply(tx, s)?;
        Ok(Rebuild { server_id: id.clone(), action_id: action_id.to_string(), was_stopped })
    })
    .await?;
    let data = user_data(&cx, &s).await?;
    let view = Viewer::of(&cx);
    let mut shown = json!(view.server(&s, Kind::Rebuild, data.as_deref()));
    shown["adminPass"] = json!(pass);
    Ok(Reply::json(202, &json!({"server": shown}))?.header("location", format!("{}/v2.1/servers/{}", view.base, s.id)))
}

async fn read_rebuild(cx: &Ctx<State>, s: &Server, r: RebuildIn) -> Result<actions::RebuildChange> {
    let last = u32::MAX;
    gate(cx, "description", r.description.is_some(), 19, last)?;
    gate(cx, "key_name", r.key_name.is_some(), 54, last)?;
    gate(cx, "user_data", r.user_data.is_some(), 57, last)?;
    gate(cx, "personality", r.personality.is_some(), 1, 56)?;
    gate(cx, "hostname", r.hostname.is_some(), 90, last)?;
    gate(cx, "trusted_image_certificates", r.trusted_image_certificates.is_some(), 63, last)?;
    if r.personality.is_some_and(|p| !p.is_empty()) || r.preserve_ephemeral == Some(true) {
        return Err(Error::invalid("This cloud rebuilds without personality files and without keeping the ephemeral disk."));
    }
    if let Some(m) = &r.metadata {
        wire::metadata(m)?;
    }
    if let Some(Some(d)) = &r.user_data {
        check_user_data(d)?;
    }
    let image = images::image_of_user(&cx.state, &cx.auth().token, &s.project_id, &r.image).await?;
    let same = s.image.as_ref().is_some_and(|i| i.id == image.id);
    if s.volume_backed() && !same {
        return Err(Error::invalid("Unable to rebuild with a different image for a volume-backed server."));
    }
    crate::logic::create::flavor_fits(&s.flavor, &image, s.volume_backed(), true)?;
    let public_key = match r.key_name {
        None => None,
        Some(None) => Some(None),
        Some(Some(name)) => {
            let (user, key) = (s.user_id.clone(), name.clone());
            let found = cx.state.db.read(move |tx| keypairs::by_name(tx, &user, &key)).await?;
            let found = found.ok_or_else(|| Error::invalid("Invalid key_name provided."))?;
            Some(Some((name, found.public_key.clone())))
        }
    };
    Ok(actions::RebuildChange {
        image: Some(image),
        name: r.name.map(|n| wire::name("name", &n)).transpose()?,
        metadata: r.metadata,
        description: r.description.map(wire::description).transpose()?,
        key: public_key,
        user_data: r.user_data,
        hostname: r.hostname.map(|h| wire::hostname(&h, cx.version >= Version(2, 94))).transpose()?,
        access_ipv4: r.access_ipv4.map(|t| ip(Some(t), false)).transpose()?,
        access_ipv6: r.access_ipv6.map(|t| ip(Some(t), true)).transpose()?,
        disk_config: r.disk_config.map(|d| disk_config(Some(d))).transpose()?,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateImageBody {
    #[serde(rename = "createImage")]
    inner: CreateImageIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateImageIn {
    name: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

async fn create_image(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: CreateImageBody = cx.json().await?;
    let name = wire::name("name", &body.inner.name)?;
    wire::metadata(&body.inner.metadata)?;
    let more: Map<String, Value> = body.inner.metadata.into_iter().map(|(k, v)| (k, json!(v))).collect();
    const STATES: &[VmState] = &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended];
    let b = begin(&cx, &s, "createImage", "compute_snapshot_instance", "createImage", STATES, Some(Task::ImageSnapshot));
    let image_id = actions::snapshot(&cx.state, cx.auth(), &s, b, &name, &more).await?;
    if cx.version >= Version(2, 45) {
        return Reply::json(202, &json!({"image_id": image_id}));
    }
    // The id alone counts; the address is this service's own image proxy.
    Ok(Reply::empty(202).header("location", format!("{}/images/{image_id}", cx.base_url)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupBody {
    #[serde(rename = "createBackup")]
    inner: BackupIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupIn {
    name: String,
    backup_type: String,
    rotation: wire::LooseInt,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

async fn create_backup(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let b: BackupBody = cx.json().await?;
    let name = wire::name("name", &b.inner.name)?;
    wire::metadata(&b.inner.metadata)?;
    let keep = usize::try_from(b.inner.rotation.0).map_err(|_| Error::invalid("Invalid input for field/attribute rotation."))?;
    if s.volume_backed() {
        return Err(Error::invalid("Backup is not supported for volume-backed instances."));
    }
    let mut more: Map<String, Value> = b.inner.metadata.into_iter().map(|(k, v)| (k, json!(v))).collect();
    more.insert("image_type".into(), json!("backup"));
    more.insert("backup_type".into(), json!(b.inner.backup_type));
    const STATES: &[VmState] = &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended];
    let begin = begin(&cx, &s, "createBackup", "compute_backup_instance", "createBackup", STATES, Some(Task::ImageSnapshot));
    let image_id = if keep == 0 { None } else { Some(actions::snapshot(&cx.state, cx.auth(), &s, begin, &name, &more).await?) };
    images::rotate_backups(&cx.state, &cx.auth().token, &s.id, &b.inner.backup_type, keep).await?;
    match image_id {
        Some(id) if cx.version >= Version(2, 45) => Reply::json(202, &json!({"image_id": id})),
        Some(id) => Ok(Reply::empty(202).header("location", format!("{}/images/{id}", cx.base_url))),
        None => Ok(Reply::empty(202)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeBody {
    resize: ResizeIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeIn {
    #[serde(rename = "flavorRef")]
    flavor: LooseText,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
}

async fn resize(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: ResizeBody = cx.json().await?;
    let disk_config = body.resize.disk_config.map(|d| disk_config(Some(d))).transpose()?;
    let flavor_id = body.resize.flavor.0;
    let (project, admin) = (cx.auth().creds.project_id.clone(), cx.auth().is_admin());
    let id = s.id.clone();
    const STATES: &[VmState] = &[VmState::Active, VmState::Stopped];
    let b = begin(&cx, &s, "resize", "compute_prep_resize", "resize", STATES, Some(Task::ResizePrep));
    ops::begin(&cx.state, b, move |tx, s, action_id| {
        ops::host(s)?;
        let new = flavors::usable(tx, &flavor_id, project.as_deref(), admin).map_err(|e| Error::invalid(e.message))?.value;
        actions::check_resize(s, &new)?;
        let more = |a: i64, b: i64| (b - a).max(0);
        let deltas = quota::Usage { instances: 0, cores: more(s.flavor.vcpus, new.vcpus), ram_mb: more(s.flavor.ram_mb, new.ram_mb) };
        quota::check(tx, &s.project_id, deltas)?;
        if let Some(d) = &disk_config {
            s.disk_config.clone_from(d);
        }
        Ok(ResizeServer {
            server_id: id.clone(),
            action_id: action_id.to_string(),
            stage: Stage::Resize,
            old: s.flavor.clone(),
            new,
            old_state: s.state,
        })
    })
    .await?;
    Ok(Reply::empty(202))
}

async fn settle(cx: &Ctx<State>, s: &Server, stage: Stage, b: Begin) -> Result<()> {
    let id = s.id.clone();
    ops::begin(&cx.state, b, move |_, s, action_id| {
        let r = s.resize.clone().ok_or_else(|| Error::invalid("Instance has not been resized."))?;
        let new = s.flavor.clone();
        Ok(ResizeServer { server_id: id.clone(), action_id: action_id.to_string(), stage, old: r.old_flavor, new, old_state: r.old_state })
    })
    .await
    .map(drop)
}

async fn confirm(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    null_body(&mut cx).await?;
    let b = begin(&cx, &s, "confirmResize", "compute_confirm_resize", "confirmResize", &[VmState::Resized], None);
    settle(&cx, &s, Stage::Confirm, b).await?;
    Ok(Reply::no_content())
}

async fn revert(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    null_body(&mut cx).await?;
    let task = Some(Task::ResizeReverting);
    let b = begin(&cx, &s, "revertResize", "compute_revert_resize", "revertResize", &[VmState::Resized], task);
    settle(&cx, &s, Stage::Revert, b).await?;
    Ok(Reply::empty(202))
}

async fn shelve(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    null_body(&mut cx).await?;
    const STATES: &[VmState] = &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended];
    let b = begin(&cx, &s, "shelve", "compute_shelve_instance", "shelve", STATES, Some(Task::Shelving));
    actions::shelve(&cx.state, cx.auth(), &s, b).await?;
    Ok(Reply::empty(202))
}

async fn unshelve(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: BTreeMap<String, Option<BTreeMap<String, Value>>> = cx.json().await?;
    let wish = body.into_values().next().flatten().unwrap_or_default();
    if !wish.is_empty() {
        return Err(Error::invalid("Unshelving to a chosen zone or host is not offered."));
    }
    const STATES: &[VmState] = &[VmState::Shelved, VmState::ShelvedOffloaded];
    let b = begin(&cx, &s, "unshelve", "compute_unshelve_instance", "unshelve", STATES, Some(Task::Unshelving));
    actions::unshelve(&cx.state, &s, b).await?;
    Ok(Reply::empty(202))
}

async fn shelve_offload(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    null_body(&mut cx).await?;
    // Shelving offloads at once here, so there is never a server that is only shelved.
    ops::check(&s, "shelveOffload", &[VmState::Shelved])?;
    Ok(Reply::empty(202))
}

async fn force_delete(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    crate::logic::delete::server_delete(&cx.state, &s.id, cx.auth().user_id(), &cx.request_id).await?;
    Ok(Reply::empty(202))
}

async fn restore(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    // Deleted servers are gone at once; what can be found was never deleted.
    Err(Error::conflict(format!("Cannot 'restore' instance {} while it is in vm_state {}", s.id, s.state.name())))
}

#[derive(Deserialize)]
struct PasswordBody {
    #[serde(rename = "changePassword")]
    inner: PasswordIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordIn {
    #[serde(rename = "adminPass")]
    pass: String,
}

async fn change_password(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup_unlocked(&cx).await?;
    let body: PasswordBody = cx.json().await?;
    admin_pass(&cx, Some(&body.inner.pass))?;
    ops::check(&s, "changePassword", &[VmState::Active])?;
    Err(Error::not_implemented("Unable to set password on instance"))
}

/// Reads the ports' addresses again; guests learn of theirs by DHCP.
async fn inject_network(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    null_body(&mut cx).await?;
    crate::logic::netinfo::refresh(&cx.state, &s.id).await?;
    Ok(Reply::empty(202))
}

#[derive(Deserialize)]
struct ResetBody {
    #[serde(rename = "os-resetState")]
    inner: ResetIn,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetIn {
    state: String,
}

async fn reset_state(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let body: ResetBody = cx.json().await?;
    let wanted = match body.inner.state.as_str() {
        "active" => VmState::Active,
        "error" => VmState::Error,
        other => return Err(Error::invalid(format!("Invalid input for field/attribute state. Value: {other}."))),
    };
    actions::reset_state(&cx.state, &s.id, wanted).await?;
    Ok(Reply::empty(202))
}
