//! Creating, changing and deleting accounts; container servers' reports.

use super::{Inner, gone};
use crate::db::{Answer, Target, bad_request, header, is_meta, metadata, status, timestamp};
use caelum_broker::{AccountBroker, BrokerError, ContainerRow};
use caelum_swiftkit::Timestamp;
use http::HeaderMap;
use std::path::Path;
use std::time::Duration;

/// Accounts that come into being by being used.
const AUTO_CREATE: &str = ".";
/// How long a report of a request that a client waits for may wait.
const PENDING: Duration = Duration::from_secs(3);

fn save_metadata(headers: &HeaderMap, broker: &AccountBroker, at: Timestamp) -> Answer<()> {
    let update = metadata(headers, at, |name| is_meta("account", name))?;
    if !update.is_empty() {
        broker.db().update_metadata(&update, true)?;
    }
    Ok(())
}

/// False when another was faster.
fn initialize(broker: &AccountBroker, target: &Target, at: Timestamp) -> Answer<bool> {
    match broker.initialize(&target.account, &at.internal()) {
        Ok(()) => Ok(true),
        Err(BrokerError::Exists(_)) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn put(s: &Inner, headers: &HeaderMap, target: &Target) -> Answer {
    let device = s.disks.writable(&target.device)?;
    match &target.container {
        Some(container) => put_container(s, headers, &device, target, container),
        None => put_account(s, headers, &device, target),
    }
}

fn put_container(s: &Inner, headers: &HeaderMap, device: &Path, target: &Target, container: &str) -> Answer {
    let at = match header(headers, "x-timestamp") {
        None => Timestamp::at(s.config.env.now()),
        Some(_) => timestamp(headers)?,
    };
    let time = |name: &str| match header(headers, name) {
        Some(t) if Timestamp::parse(t).is_some() => Ok(t.to_string()),
        _ => Err(bad_request(format!("Missing or invalid {name} header"))),
    };
    let number = |name: &str| {
        let n = header(headers, name).and_then(|t| t.trim().parse::<i64>().ok());
        n.ok_or_else(|| bad_request(format!("Missing or invalid {name} header")))
    };
    let row = ContainerRow {
        name: container.to_string(),
        put_timestamp: time("x-put-timestamp")?,
        delete_timestamp: time("x-delete-timestamp")?,
        object_count: number("x-object-count")?,
        bytes_used: number("x-bytes-used")?,
        storage_policy_index: header(headers, "x-backend-storage-policy-index").and_then(|t| t.parse().ok()).unwrap_or(0),
        ..ContainerRow::default()
    };
    let mut broker = s.broker(device, target);
    if headers.contains_key("x-trans-id") {
        broker.db_mut().pending_timeout = PENDING;
    }
    if target.account.starts_with(AUTO_CREATE) && !broker.db().exists() {
        initialize(&broker, target, at)?;
    }
    let override_deleted = header(headers, "x-account-override-deleted").is_some_and(|v| v.eq_ignore_ascii_case("yes"));
    if !broker.db().exists() || !override_deleted && broker.is_deleted()? {
        return Err(status(404).into());
    }
    let deleted = row.delete_timestamp > row.put_timestamp;
    broker.put_container(row)?;
    Ok(status(if deleted { 204 } else { 201 }))
}

fn put_account(s: &Inner, headers: &HeaderMap, device: &Path, target: &Target) -> Answer {
    let at = timestamp(headers)?;
    let broker = s.broker(device, target);
    let created = if !broker.db().exists() {
        initialize(&broker, target, at)?
    } else if broker.get_info()?.is_status_deleted() {
        return gone(&broker, 403, "Recently deleted").and_then(|r| Err(r.into()));
    } else {
        let created = broker.is_deleted()?;
        broker.db().update_put_timestamp(&at.internal())?;
        if broker.is_deleted()? {
            return Err(status(409).into());
        }
        created
    };
    save_metadata(headers, &broker, at)?;
    Ok(status(if created { 201 } else { 202 }))
}

pub(super) fn delete(s: &Inner, headers: &HeaderMap, target: &Target) -> Answer {
    let device = s.disks.readable(&target.device)?;
    let at = timestamp(headers)?;
    let broker = s.broker(&device, target);
    if broker.is_deleted()? {
        return gone(&broker, 404, "").and_then(|r| Err(r.into()));
    }
    broker.delete_db(&at.internal())?;
    gone(&broker, 204, "")
}

pub(super) fn post(s: &Inner, headers: &HeaderMap, target: &Target, at: Timestamp) -> Answer {
    let device = s.disks.writable(&target.device)?;
    let broker = s.broker(&device, target);
    if broker.is_deleted()? {
        return gone(&broker, 404, "").and_then(|r| Err(r.into()));
    }
    save_metadata(headers, &broker, at)?;
    Ok(status(204))
}
