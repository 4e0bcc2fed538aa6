//! REPLICATE: what database replicators ask of each other. The body is a JSON array of the operation's
//! name and its arguments; the path's last part is the database's hash.

use crate::db::{Answer, Disks, Resp, Target, bad_request, json, ok_body, status};
use caelum_broker::{
    AccountBroker, ContainerBroker, Pool, Replica, ReplicationInfo, ShardRange, compare_policies, parse_metadata, storage_directory,
};
use caelum_swiftkit::python;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows merged at a time when a whole database arrives.
const PAGE: usize = 1_000;

/// Operations that only containers know.
pub(crate) trait Extra: Replica {
    /// Before a sync: settle differences that rows cannot.
    fn before_sync(&self, _remote: &ReplicationInfo) -> Answer<()> {
        Ok(())
    }

    fn operation(&self, _op: &str, _args: &[Value]) -> Answer {
        Err(bad_request("Invalid operation"))
    }

    /// A database being sharded is not replaced as a whole.
    fn may_be_replaced(&self) -> Answer<bool> {
        Ok(true)
    }

    /// Carries over what rows do not.
    fn carry_over(&self, _to: &Self) -> Answer<()> {
        Ok(())
    }
}

impl Extra for AccountBroker {}

impl Extra for ContainerBroker {
    fn before_sync(&self, remote: &ReplicationInfo) -> Answer<()> {
        let info = self.info()?;
        let wrong = info.storage_policy_index != remote.storage_policy_index && compare_policies(&info, remote).is_gt();
        if wrong && !remote.status_changed_at.is_empty() {
            let now = self.db().now().normal();
            self.set_storage_policy_index(remote.storage_policy_index, &now)?;
        }
        Ok(())
    }

    fn operation(&self, op: &str, args: &[Value]) -> Answer {
        match op {
            "merge_shard_ranges" => {
                let ranges: Vec<ShardRange> = from(args, 0)?;
                self.merge_shard_ranges(without_epoch(self, ranges)?)?;
                Ok(status(202))
            }
            "get_shard_ranges" => {
                let ranges = serde_json::to_value(self.all_shard_ranges()?).unwrap_or(Value::Null);
                Ok(json_reply(&ranges))
            }
            _ => Err(bad_request("Invalid operation")),
        }
    }

    fn may_be_replaced(&self) -> Answer<bool> {
        Ok(!self.sharding_initiated()?)
    }

    fn carry_over(&self, to: &Self) -> Answer<()> {
        let ranges = self.all_shard_ranges()?;
        to.merge_shard_ranges(without_epoch(to, ranges)?)?;
        Ok(())
    }
}

/// A remote view of the container's own range that knows no epoch does not undo one that does.
fn without_epoch(broker: &ContainerBroker, ranges: Vec<ShardRange>) -> Answer<Vec<ShardRange>> {
    let own = broker.own_shard_range()?;
    Ok(ranges.into_iter().filter(|r| own.epoch.is_none() || r.name != own.name || r.epoch.is_some()).collect())
}

fn from<T: serde::de::DeserializeOwned>(args: &[Value], i: usize) -> Answer<T> {
    let value = args.get(i).cloned().ok_or_else(|| bad_request("Missing argument"))?;
    serde_json::from_value(value).map_err(|e| bad_request(e.to_string()))
}

fn text(args: &[Value], i: usize) -> String {
    match args.get(i) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

fn number(args: &[Value], i: usize) -> i64 {
    args.get(i).and_then(Value::as_i64).unwrap_or(-1)
}

fn json_reply(value: &Value) -> Resp {
    let mut out = Vec::new();
    python::json(&mut out, value);
    ok_body("application/json", out)
}

/// One REPLICATE request for a database of kind `B`.
pub(crate) fn serve<B: Extra>(disks: &Disks, pool: &Arc<Pool>, target: &Target, body: &[u8]) -> Answer {
    let device = disks.writable(&target.device)?;
    let Value::Array(mut args) = json::<Value>(body)? else { return Err(bad_request("Invalid object type")) };
    if args.is_empty() {
        return Err(bad_request("Invalid object type"));
    }
    let Value::String(op) = args.remove(0) else { return Err(bad_request("Invalid operation")) };
    let hash = &target.account;
    if !plain_name(hash) {
        return Err(bad_request("Invalid hash"));
    }
    let path = device.join(storage_directory(B::KIND.datadir(), &target.partition, hash)).join(format!("{hash}.db"));
    match op.as_str() {
        "rsync_then_merge" => return rsync_then_merge::<B>(pool, &device, &path, &args),
        "complete_rsync" => return complete_rsync::<B>(pool, &device, path, &args),
        _ => {}
    }
    // A replicator that is told of no database pushes one with rsync, which makes no directories.
    let tmp = device.join("tmp");
    std::fs::create_dir_all(&tmp).map_err(|e| caelum_broker::BrokerError::Io(tmp, e))?;
    let broker = B::at(pool, &path)?;
    if !broker.database().exists() {
        return Err(status(404).into());
    }
    match op.as_str() {
        "sync" => sync(&broker, &args),
        "merge_syncs" => {
            broker.database().merge_syncs(&sync_points(&args)?, true)?;
            Ok(status(202))
        }
        "merge_items" => {
            let rows: Vec<B::Row> = from(&args, 0)?;
            let source = text(&args, 1);
            broker.merge_rows(rows, Some(source.as_str()).filter(|s| !s.is_empty()))?;
            Ok(status(202))
        }
        other => broker.operation(other, &args),
    }
}

/// A file name and nothing more.
fn plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

fn sync_points(args: &[Value]) -> Answer<Vec<(String, i64)>> {
    let Some(Value::Array(points)) = args.first() else { return Err(bad_request("Missing argument")) };
    points
        .iter()
        .map(|p| {
            let id = p.get("remote_id").and_then(Value::as_str)?;
            Some((id.to_string(), p.get("sync_point").and_then(Value::as_i64)?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| bad_request("Invalid sync point"))
}

/// Compares the two replicas, takes over metadata and times, and says how far we have the other's rows.
fn sync<B: Extra>(broker: &B, args: &[Value]) -> Answer {
    if args.len() < 7 {
        return Err(bad_request("Missing argument"));
    }
    let remote = ReplicationInfo {
        max_row: number(args, 0),
        hash: text(args, 1),
        id: text(args, 2),
        created_at: text(args, 3),
        put_timestamp: text(args, 4),
        delete_timestamp: text(args, 5),
        metadata: text(args, 6),
        ..ReplicationInfo::default()
    };
    let remote = match args.len() {
        10.. => {
            ReplicationInfo { status_changed_at: text(args, 7), count: number(args, 8), storage_policy_index: number(args, 9), ..remote }
        }
        _ => remote,
    };
    if args.len() >= 10 {
        broker.before_sync(&remote)?;
    }
    let mut info = broker.info()?;
    let metadata = parse_metadata(&remote.metadata);
    if !metadata.is_empty() {
        broker.database().update_metadata(&metadata, false)?;
    }
    let times = |i: &ReplicationInfo| (i.created_at.clone(), i.put_timestamp.clone(), i.delete_timestamp.clone());
    if times(&info) != times(&remote) {
        broker.merge_times(&remote.created_at, &remote.put_timestamp, &remote.delete_timestamp)?;
    }
    let mut point = broker.database().get_sync(&remote.id, true)?;
    if remote.hash == info.hash && point < remote.max_row {
        broker.database().merge_syncs(&[(remote.id.clone(), remote.max_row)], true)?;
        point = remote.max_row;
    }
    info.wire.insert("point".into(), point.into());
    Ok(json_reply(&Value::Object(info.wire)))
}

/// The file that was pushed to the device's `tmp`.
fn pushed(device: &Path, args: &[Value]) -> Answer<(String, PathBuf)> {
    let name = text(args, 0);
    if !plain_name(&name) {
        return Err(bad_request("Invalid file name"));
    }
    let path = device.join("tmp").join(&name);
    Ok((name, path))
}

/// A whole database has been pushed to a node that had none.
fn complete_rsync<B: Extra>(pool: &Arc<Pool>, device: &Path, mut path: PathBuf, args: &[Value]) -> Answer {
    let (name, tmp) = pushed(device, args)?;
    if let Some(Value::String(file)) = args.get(1) {
        if !plain_name(file) || !file.ends_with(".db") {
            return Err(bad_request("Invalid file name"));
        }
        path.set_file_name(file);
    }
    if path.exists() || !tmp.exists() {
        return Err(status(404).into());
    }
    single::<B>(pool, &tmp)?.adopt(&name)?;
    pool.forget(&tmp);
    install(&tmp, &path)?;
    Ok(status(204))
}

/// A whole database has been pushed to a node that has one: what is only in the old one is merged into
/// the new one, which then takes its place.
fn rsync_then_merge<B: Extra>(pool: &Arc<Pool>, device: &Path, path: &Path, args: &[Value]) -> Answer {
    let (name, tmp) = pushed(device, args)?;
    let old = B::at(pool, path)?;
    let possible = || -> Answer<bool> { Ok(old.database().exists() && tmp.exists() && old.may_be_replaced()?) };
    if !possible()? {
        return Err(status(404).into());
    }
    let new = single::<B>(pool, &tmp)?;
    let mut point = -1;
    loop {
        let rows = old.rows_since(point, PAGE)?;
        let Some(last) = rows.last() else { break };
        point = B::row_id(last);
        new.merge_rows(rows, None)?;
    }
    let syncs: Vec<_> = old.database().get_syncs(true)?.into_iter().map(|p| (p.remote_id, p.sync_point)).collect();
    new.database().merge_syncs(&syncs, true)?;
    old.carry_over(&new)?;
    new.adopt(&name)?;
    new.database().update_metadata(&old.database().metadata()?, false)?;
    if !possible()? {
        return Err(status(404).into());
    }
    let file = old.database().file().to_path_buf();
    pool.forget(&tmp);
    pool.forget(&file);
    install(&tmp, &file)?;
    Ok(status(204))
}

/// The pushed file as a database of its own, whatever its name.
fn single<B: Extra>(pool: &Arc<Pool>, tmp: &Path) -> Answer<B> {
    // The name has no extension, so nothing else in the directory is taken for an epoch of it.
    Ok(B::at(pool, tmp)?)
}

fn install(tmp: &Path, path: &Path) -> Answer<()> {
    let moved = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::rename(tmp, path))
        .and_then(|()| path.parent().map_or(Ok(()), |d| std::fs::File::open(d).and_then(|f| f.sync_all())));
    moved.map_err(|e| caelum_broker::BrokerError::Io(path.to_path_buf(), e).into())
}
