//! What a request is about: device, partition, object, policy.

use super::{Resp, headers, respond};
use caelum_diskfile::{DiskError, DiskFile, Look, Manager, Opened};
use caelum_swiftkit::MAX_OBJECT_NAME;
use http::request::Parts;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub device: String,
    pub partition: String,
    pub account: String,
    pub container: String,
    pub object: String,
    pub policy: u32,
}

/// Prefix of the reserved namespace.
const RESERVED: char = '\0';

fn decoded(parts: &Parts) -> Result<String, Resp> {
    percent_encoding::percent_decode_str(parts.uri.path())
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| respond::error_text(412, "Invalid UTF8 or contains NULL"))
}

pub(super) fn policy(parts: &Parts, disks: &Manager) -> Result<u32, Resp> {
    let text = headers::text(&parts.headers, "x-backend-storage-policy-index").unwrap_or_default();
    let index = if text.is_empty() { Some(0) } else { text.trim().parse().ok() };
    let known = index.filter(|i| disks.policy(*i).is_ok());
    known.ok_or_else(|| respond::text(503, &format!("No policy with index {text}")))
}

fn place(path: &str, device: Option<&str>, partition: Option<&str>) -> Result<(String, String), Resp> {
    let bad = |what: &str| respond::text(400, &format!("Invalid {what}: {path}"));
    let ok = |s: &&str| !s.is_empty() && *s != "." && *s != "..";
    let device = device.filter(ok).ok_or_else(|| bad("path"))?;
    let partition = partition.filter(ok).ok_or_else(|| bad("path"))?;
    Ok((device.to_string(), partition.to_string()))
}

impl Target {
    /// `/DEVICE/PARTITION/ACCOUNT/CONTAINER/OBJECT`.
    pub fn parse(parts: &Parts, disks: &Manager) -> Result<Self, Resp> {
        let path = decoded(parts)?;
        let policy = policy(parts, disks)?;
        let bad = || respond::text(400, &format!("Invalid path: {}", parts.uri.path()));
        let mut segments = path.strip_prefix('/').ok_or_else(bad)?.splitn(5, '/');
        let (device, partition) = place(parts.uri.path(), segments.next(), segments.next())?;
        let mut name = || segments.next().filter(|s| !s.is_empty()).map(str::to_string).ok_or_else(bad);
        let (account, container, object) = (name()?, name()?, name()?);
        reserved(&account, &container, &object)?;
        Ok(Self { device, partition, account, container, object, policy })
    }

    /// `/DEVICE/PARTITION[/REST]`: device, partition, rest, policy.
    pub fn parse_place(parts: &Parts, disks: &Manager) -> Result<(String, String, Option<String>, u32), Resp> {
        let path = decoded(parts)?;
        let policy = policy(parts, disks)?;
        let bad = || respond::text(400, &format!("Invalid path: {}", parts.uri.path()));
        let mut segments = path.strip_prefix('/').ok_or_else(bad)?.splitn(3, '/');
        let (device, partition) = place(parts.uri.path(), segments.next(), segments.next())?;
        let rest = segments.next().filter(|r| !r.is_empty()).map(str::to_string);
        Ok((device, partition, rest, policy))
    }

    pub fn object(&self, disks: &Arc<Manager>, look: Look) -> Result<DiskFile, DiskError> {
        disks.object(&self.device, &self.partition, self.policy, (&self.account, &self.container, &self.object), look)
    }

    /// As [`Manager::recent`].
    pub fn recent(&self, disks: &Arc<Manager>, look: &Look) -> Option<(DiskFile, Opened)> {
        disks.recent(&self.device, &self.partition, self.policy, (&self.account, &self.container, &self.object), look)
    }

    pub fn check_name_length(&self) -> Result<(), Resp> {
        let n = self.object.len();
        if n > MAX_OBJECT_NAME {
            return Err(respond::text(400, &format!("Object name length of {n} longer than {MAX_OBJECT_NAME}")));
        }
        Ok(())
    }
}

/// Names of the reserved namespace begin with its mark, and user and reserved names do not mix.
fn reserved(account: &str, container: &str, object: &str) -> Result<(), Resp> {
    let bad = |what: &str| Err(respond::error_text(400, what));
    let misplaced = |n: &str| n.contains(RESERVED) && !n.starts_with(RESERVED);
    if misplaced(account) {
        return bad("Invalid reserved-namespace account");
    }
    if misplaced(container) {
        return bad("Invalid reserved-namespace container");
    }
    if account.starts_with('.') {
        return Ok(());
    }
    if misplaced(object) {
        return bad("Invalid reserved-namespace object");
    }
    match (container.starts_with(RESERVED), object.starts_with(RESERVED)) {
        (true, false) => bad("Invalid user-namespace object in reserved-namespace container"),
        (false, true) => bad("Invalid reserved-namespace object in user-namespace container"),
        _ => Ok(()),
    }
}

/// Options of looking at an object that requests carry in headers.
pub(super) fn next_part_power(parts: &Parts) -> Option<u32> {
    headers::text(&parts.headers, "x-backend-next-part-power")?.trim().parse().ok().filter(|p| *p <= 32)
}
