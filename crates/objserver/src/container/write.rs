//! Creating, changing and deleting containers; merging rows; telling the account.

use super::{AUTO_CREATE, Inner, SHARDS, answer, is_saved};
use crate::db::{
    Answer, Target, bad_request, header, json, metadata, read_body, set, sync_store::update_sync_store, text_reply, truth,
    validate_sync_to, yes,
};
use caelum_broker::{BrokerError, ContainerBroker, ContainerInfo, ObjectRow, ShardRange};
use caelum_rest::Body;
use caelum_swiftkit::Timestamp;
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use std::sync::Arc;

/// Whether an absent container is made on the way.
pub(super) fn should_create(account: &str, headers: &HeaderMap) -> bool {
    match header(headers, "x-backend-auto-create").filter(|v| !v.is_empty()) {
        Some(v) => truth(v),
        None => account.starts_with(AUTO_CREATE) && !account.starts_with(SHARDS),
    }
}

/// Makes the container if that is asked for. True when this call made it. Errors: 404 when it is not
/// there and not to be made, 400 when its policy is not given.
pub(super) fn autocreate(broker: &mut ContainerBroker, target: &Target, at: Timestamp, policy: Option<i64>, create: bool) -> Answer<bool> {
    if broker.db().exists() {
        return Ok(false);
    }
    if !create {
        return Err(answer(404).into());
    }
    let text = "X-Backend-Storage-Policy-Index header is required";
    let policy = policy.ok_or_else(|| text_reply(400, "text/html; charset=UTF-8", text))?;
    initialize(broker, target, &at.normal(), policy)
}

/// False when another was faster.
fn initialize(broker: &mut ContainerBroker, target: &Target, at: &str, policy: i64) -> Answer<bool> {
    match broker.initialize(&target.account, target.container.as_deref().unwrap_or(""), at, policy) {
        Ok(()) => Ok(true),
        Err(BrokerError::Exists(_)) => {
            broker.reload()?;
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

fn check_sync_to(s: &Inner, headers: &HeaderMap) -> Answer<()> {
    if let Some(value) = header(headers, "x-container-sync-to") {
        validate_sync_to(value, &s.config.allowed_sync_hosts, &s.realms)
            .map_err(|text| text_reply(400, "text/html; charset=UTF-8", text))?;
    }
    Ok(())
}

/// Stores the request's metadata headers.
fn save_metadata(headers: &HeaderMap, broker: &ContainerBroker, at: Timestamp) -> Answer<()> {
    const SYNC_TO: &str = "X-Container-Sync-To";
    let update = metadata(headers, at, is_saved)?;
    if update.is_empty() {
        return Ok(());
    }
    if let Some((to, _)) = update.get(SYNC_TO)
        && broker.metadata()?.get(SYNC_TO).is_none_or(|(old, _)| old != to)
    {
        broker.set_sync_points(Some(-1), Some(-1))?;
    }
    broker.db().update_metadata(&update, true)?;
    note_sync(broker);
    Ok(())
}

/// The link is only a hint for the daemon; the request does not fail for it.
fn note_sync(broker: &ContainerBroker) {
    if let Err(e) = update_sync_store(broker) {
        tracing::error!(file = %broker.db().file().display(), error = %e, "sync store not updated");
    }
}

/// What the account servers are to learn, and the answer when they know the account.
struct Outcome {
    info: ContainerInfo,
    reply: super::Resp,
}

pub(super) async fn put_or_delete(s: Arc<Inner>, parts: Parts, target: Target, at: Timestamp, body: Body) -> Answer {
    let put = parts.method == Method::PUT;
    let shard = header(&parts.headers, "x-backend-record-type").is_some_and(|t| t.eq_ignore_ascii_case("shard"));
    if put && shard {
        let body = read_body(body).await?;
        return s.run(move |s| put_shards(s, &parts.headers, &target, at, &body)).await;
    }
    let parts = Arc::new(parts);
    let (p, t) = (parts.clone(), target.clone());
    let outcome = s.run(move |s| if put { put_container(s, &p.headers, &t, at) } else { delete_container(s, &t, at) }).await?;
    if tell_account(&s, &parts, &target, &outcome.info).await? {
        return Err(answer(404).into());
    }
    Ok(outcome.reply)
}

fn put_container(s: &Inner, headers: &HeaderMap, target: &Target, at: Timestamp) -> Answer<Outcome> {
    check_sync_to(s, headers)?;
    let device = s.disks.writable(&target.device)?;
    let wanted = s.policy_index(headers)?;
    let default = || {
        let text = header(headers, "x-backend-storage-policy-default")?;
        text.trim().parse::<u32>().ok().filter(|i| s.config.swift.policies.get(*i).is_some()).map(i64::from)
    };
    let policy = wanted.or_else(default).unwrap_or_else(|| i64::from(s.config.swift.policies.default_policy().index));
    let mut broker = s.broker(&device, target)?;
    let created = create_or_update(&mut broker, target, &at.internal(), policy, wanted)?;
    save_metadata(headers, &broker, at)?;
    let info = broker.get_info()?;
    let mut reply = answer(if created { 201 } else { 202 });
    set(&mut reply, "X-Backend-Storage-Policy-Index", &info.storage_policy_index.to_string());
    Ok(Outcome { info, reply })
}

fn create_or_update(broker: &mut ContainerBroker, target: &Target, at: &str, policy: i64, wanted: Option<i64>) -> Answer<bool> {
    if !broker.db().exists() && initialize(broker, target, at, policy)? {
        return Ok(true);
    }
    let recreated = broker.is_deleted()?;
    if recreated {
        broker.set_storage_policy_index(policy, at)?;
    } else if let Some(wanted) = wanted {
        let current = broker.storage_policy_index()?;
        if wanted != current {
            let mut r = answer(409);
            set(&mut r, "X-Backend-Storage-Policy-Index", &current.to_string());
            return Err(r.into());
        }
    }
    broker.db().update_put_timestamp(at)?;
    if broker.is_deleted()? {
        return Err(answer(409).into());
    }
    if recreated {
        broker.db().update_status_changed_at(at)?;
    }
    Ok(recreated)
}

fn delete_container(s: &Inner, target: &Target, at: Timestamp) -> Answer<Outcome> {
    let device = s.disks.readable(&target.device)?;
    let broker = s.broker(&device, target)?;
    if !broker.db().exists() {
        return Err(answer(404).into());
    }
    if !broker.is_empty()? {
        return Err(answer(409).into());
    }
    let before = broker.get_info()?;
    let existed = Timestamp::parse(&before.put_timestamp).is_some_and(|t| t > Timestamp::ZERO) && !before.is_deleted();
    broker.delete_db(&at.internal())?;
    let info = broker.get_info()?;
    if !info.is_deleted() {
        return Err(answer(409).into());
    }
    note_sync(&broker);
    Ok(Outcome { info, reply: answer(if existed { 204 } else { 404 }) })
}

fn put_shards(s: &Inner, headers: &HeaderMap, target: &Target, at: Timestamp, body: &[u8]) -> Answer {
    check_sync_to(s, headers)?;
    let device = s.disks.writable(&target.device)?;
    let policy = s.policy_index(headers)?;
    let ranges: Vec<ShardRange> =
        serde_json::from_slice(body).map_err(|e| text_reply(400, "text/html; charset=UTF-8", format!("Invalid body: {e}")))?;
    let mut broker = s.broker(&device, target)?;
    let created = autocreate(&mut broker, target, at, policy, should_create(&target.account, headers))?;
    save_metadata(headers, &broker, at)?;
    broker.merge_shard_ranges(ranges)?;
    let mut reply = answer(if created { 201 } else { 202 });
    set(&mut reply, "X-Backend-Storage-Policy-Index", &broker.storage_policy_index()?.to_string());
    Ok(reply)
}

pub(super) fn post(s: &Inner, headers: &HeaderMap, target: &Target, at: Timestamp) -> Answer {
    check_sync_to(s, headers)?;
    let device = s.disks.writable(&target.device)?;
    let broker = s.broker(&device, target)?;
    if broker.is_deleted()? {
        return Err(answer(404).into());
    }
    if !yes(headers, "x-backend-no-timestamp-update") {
        broker.db().update_put_timestamp(&at.internal())?;
    }
    save_metadata(headers, &broker, at)?;
    Ok(answer(204))
}

/// Merges rows that another container's sharding, or the reconciler, sends.
pub(super) fn update(s: &Inner, headers: &HeaderMap, target: &Target, at: Timestamp, body: &[u8]) -> Answer {
    let device = s.disks.writable(&target.device)?;
    let policy = s.policy_index(headers)?;
    let mut broker = s.broker(&device, target)?;
    autocreate(&mut broker, target, at, policy, should_create(&target.account, headers))?;
    let rows: Vec<ObjectRow> = json(body)?;
    broker.merge_items(rows, None)?;
    Ok(answer(202))
}

/// Tells each account server named in the request. True when all of them do not know the account.
/// Errors: 400 when hosts and devices do not match.
async fn tell_account(s: &Inner, parts: &Parts, target: &Target, info: &ContainerInfo) -> Answer<bool> {
    let list =
        |name: &str| -> Vec<String> { header(&parts.headers, name).unwrap_or("").split(',').map(|v| v.trim().to_string()).collect() };
    let (hosts, devices) = (list("x-account-host"), list("x-account-device"));
    let partition = header(&parts.headers, "x-account-partition").unwrap_or("");
    if hosts.len() != devices.len() {
        tracing::error!("account update: different numbers of hosts and devices in the request");
        return Err(answer(400).into());
    }
    if partition.is_empty() {
        return Ok(false);
    }
    let updates = hosts.iter().zip(&devices).map(|(host, device)| tell_one(s, parts, target, info, host, device, partition));
    let codes = futures_util::future::join_all(updates).await;
    Ok(!codes.is_empty() && codes.iter().all(|c| *c == Some(404)))
}

async fn tell_one(
    s: &Inner,
    parts: &Parts,
    target: &Target,
    info: &ContainerInfo,
    host: &str,
    device: &str,
    partition: &str,
) -> Option<u16> {
    let (ip, port) = host.rsplit_once(':').and_then(|(ip, port)| Some((ip.trim_matches(['[', ']']), port.parse().ok()?)))?;
    let container = target.container.as_deref().unwrap_or("");
    let path = crate::db::quote(&format!("/{device}/{partition}/{}/{container}", target.account));
    let trans_id = header(&parts.headers, "x-trans-id").unwrap_or("-");
    let mut req = Request::put(path)
        .header("X-PUT-Timestamp", &info.put_timestamp)
        .header("X-DELETE-Timestamp", &info.delete_timestamp)
        .header("X-Object-Count", info.object_count)
        .header("X-Bytes-Used", info.bytes_used)
        .header("X-Trans-Id", trans_id)
        .header("X-Backend-Storage-Policy-Index", info.storage_policy_index)
        .header("User-Agent", format!("container-server {}", std::process::id()))
        .header("Content-Length", 0);
    if header(&parts.headers, "x-account-override-deleted").is_some_and(|v| v.eq_ignore_ascii_case("yes")) {
        req = req.header("X-Account-Override-Deleted", "yes");
    }
    let req = req.body(caelum_rest::empty()).ok()?;
    match s.config.nodes.send(ip, port, req, s.config.node_timeout).await {
        Ok(r) => {
            let code = r.status();
            if !code.is_success() && code != http::StatusCode::NOT_FOUND {
                tracing::error!(host, device, status = code.as_u16(), "account update failed, will retry later");
            }
            Some(code.as_u16())
        }
        Err(e) => {
            tracing::error!(host, device, error = %e, "account update failed, will retry later");
            None
        }
    }
}

/// A required number in a header.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Answer<i64> {
    let text = header(headers, name).ok_or_else(|| bad_request(format!("Missing {name} header")))?;
    text.trim().parse().map_err(|_| bad_request(format!("Invalid {name} header")))
}
