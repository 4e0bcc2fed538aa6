//! Quota: limits per project over class over built-in; usage is counted from the rows, in the
//! transaction that adds to it.

use super::{Backup, Group, Quota, Snapshot, Volume, VolumeType};
use caelum_base::{Error, Result};
use caelum_store::{Query, Tx};
use std::collections::BTreeMap;

/// Built-in limits (the service's documented defaults); -1 is unlimited.
pub const DEFAULTS: [(&str, i64); 7] = [
    ("volumes", 10),
    ("snapshots", 10),
    ("gigabytes", 1000),
    ("backups", 10),
    ("backup_gigabytes", 1000),
    ("per_volume_gigabytes", -1),
    ("groups", 10),
];

pub fn project_key(project_id: &str) -> String {
    format!("project:{project_id}")
}

pub fn class_key(class: &str) -> String {
    format!("class:{class}")
}

/// What a request adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    pub volumes: i64,
    pub snapshots: i64,
    pub gigabytes: i64,
    pub backups: i64,
    pub backup_gigabytes: i64,
    pub groups: i64,
    /// Size a single volume would have.
    pub volume_size: i64,
    /// Name of the volume type, for `volumes_<type>` and the like.
    pub volume_type: Option<&'a str>,
    pub volume_type_id: Option<&'a str>,
}

/// Every limit of the default class, with the per-type ones (unlimited unless set).
pub fn defaults(tx: &mut Tx<'_>) -> Result<BTreeMap<String, i64>> {
    let mut out: BTreeMap<String, i64> = DEFAULTS.iter().map(|(k, v)| ((*k).to_string(), *v)).collect();
    for t in tx.list::<VolumeType>(&Query::new())? {
        for kind in ["volumes", "snapshots", "gigabytes"] {
            out.insert(format!("{kind}_{}", t.name), -1);
        }
    }
    if let Some(class) = tx.get::<Quota>(&class_key("default"))? {
        out.extend(class.value.limits);
    }
    Ok(out)
}

/// The limits that hold for a project.
pub fn limits(tx: &mut Tx<'_>, project_id: &str) -> Result<BTreeMap<String, i64>> {
    let mut out = defaults(tx)?;
    if let Some(own) = tx.get::<Quota>(&project_key(project_id))? {
        out.extend(own.value.limits);
    }
    Ok(out)
}

/// What a project has, optionally of one type only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub volumes: i64,
    pub snapshots: i64,
    pub gigabytes: i64,
    pub backups: i64,
    pub backup_gigabytes: i64,
    pub groups: i64,
}

impl Usage {
    pub fn of(&self, resource: &str) -> i64 {
        match resource {
            "volumes" => self.volumes,
            "snapshots" => self.snapshots,
            "gigabytes" => self.gigabytes,
            "backups" => self.backups,
            "backup_gigabytes" => self.backup_gigabytes,
            "groups" => self.groups,
            _ => 0,
        }
    }
}

pub fn usage(tx: &mut Tx<'_>, project_id: &str, volume_type_id: Option<&str>) -> Result<Usage> {
    let mut q = Query::new().eq("project_id", project_id);
    let whole = q.clone();
    if let Some(t) = volume_type_id {
        q = q.eq("volume_type_id", t);
    }
    let mut out = Usage {
        volumes: tx.count::<Volume>(&q)?,
        snapshots: tx.count::<Snapshot>(&q)?,
        gigabytes: tx.sum::<Volume>("size", &q)? + tx.sum::<Snapshot>("size", &q)?,
        ..Usage::default()
    };
    if volume_type_id.is_none() {
        out.backups = tx.count::<Backup>(&whole)?;
        out.backup_gigabytes = tx.sum::<Backup>("size", &whole)?;
        out.groups = tx.count::<Group>(&whole)?;
    }
    Ok(out)
}

fn exceeds(limit: Option<&i64>, used: i64, more: i64) -> Option<i64> {
    let limit = *limit?;
    (more > 0 && limit >= 0 && used + more > limit).then_some(limit)
}

/// Errors: `OverQuota` in upstream's words when the request does not fit.
pub fn check(tx: &mut Tx<'_>, project_id: &str, w: &Wanted<'_>) -> Result<()> {
    let limits = limits(tx, project_id)?;
    if let Some(limit) = exceeds(limits.get("per_volume_gigabytes"), 0, w.volume_size) {
        return Err(Error::over_quota(format!(
            "VolumeSizeExceedsLimit: Requested volume size {}G is larger than maximum allowed limit {limit}G.",
            w.volume_size
        )));
    }
    refuse(&limits, &usage(tx, project_id, None)?, w, "")?;
    let (Some(name), Some(id)) = (w.volume_type, w.volume_type_id) else { return Ok(()) };
    let kinds = ["volumes", "snapshots", "gigabytes"];
    if kinds.iter().any(|k| limits.get(&format!("{k}_{name}")).is_some_and(|l| *l >= 0)) {
        let used = usage(tx, project_id, Some(id))?;
        let only = Wanted { backups: 0, backup_gigabytes: 0, groups: 0, ..*w };
        refuse(&limits, &used, &only, &format!("_{name}"))?;
    }
    Ok(())
}

fn refuse(limits: &BTreeMap<String, i64>, used: &Usage, w: &Wanted<'_>, suffix: &str) -> Result<()> {
    let limit = |k: &str| limits.get(&format!("{k}{suffix}"));
    if exceeds(limit("gigabytes"), used.gigabytes, w.gigabytes).is_some() {
        let quota = limit("gigabytes").copied().unwrap_or(-1);
        return Err(Error::over_quota(format!(
            "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes{suffix} quota. Requested {}G, quota is {quota}G and {}G has been consumed.",
            w.gigabytes, used.gigabytes
        )));
    }
    if let Some(limit) = exceeds(limit("volumes"), used.volumes, w.volumes) {
        return Err(Error::over_quota(format!(
            "VolumeLimitExceeded: Maximum number of volumes allowed ({limit}) exceeded for quota 'volumes{suffix}'."
        )));
    }
    if let Some(limit) = exceeds(limit("snapshots"), used.snapshots, w.snapshots) {
        return Err(Error::over_quota(format!("SnapshotLimitExceeded: Maximum number of snapshots allowed ({limit}) exceeded")));
    }
    if let Some(limit) = exceeds(limit("backup_gigabytes"), used.backup_gigabytes, w.backup_gigabytes) {
        return Err(Error::over_quota(format!(
            "VolumeBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota. Requested {}G, quota is {limit}G and {}G has been consumed.",
            w.backup_gigabytes, used.backup_gigabytes
        )));
    }
    if let Some(limit) = exceeds(limit("backups"), used.backups, w.backups) {
        return Err(Error::over_quota(format!("BackupLimitExceeded: Maximum number of backups allowed ({limit}) exceeded")));
    }
    if let Some(limit) = exceeds(limit("groups"), used.groups, w.groups) {
        return Err(Error::over_quota(format!("GroupLimitExceeded: Maximum number of groups allowed ({limit}) exceeded")));
    }
    Ok(())
}
