//! Database replication. Every database on this node is compared with its other replicas: by the hash
//! over its rows first; what differs is sent row by row, or whole where a replica is missing or far
//! behind. A database that does not belong here goes once all that should have it have it.
//!
//! A pass may be broken off anywhere: rows merged twice change nothing, and sync points move only after
//! the rows they stand for have been accepted.

use super::http::Remote;
use super::replicas::{Kind, Next};
use super::{DbDaemonConfig, Found, blocking, walk};
use caelum_broker::{AccountBroker, ContainerBroker, ReplicationInfo, lock_directory};
use caelum_ring::{Device, Ring};
use futures_util::StreamExt;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a pass did. Counts of databases, or of exchanges with one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicateStats {
    pub attempted: u64,
    pub success: u64,
    pub failure: u64,
    /// Nothing new to send.
    pub no_change: u64,
    /// Same rows, other numbers.
    pub hashmatch: u64,
    /// Rows sent.
    pub diff: u64,
    /// More rows than a pass sends.
    pub diff_capped: u64,
    /// Whole databases sent to nodes without one.
    pub pushed: u64,
    /// Whole databases sent to nodes far behind.
    pub remote_merge: u64,
    /// Rows held back because the container is being sharded.
    pub deferred: u64,
    /// Databases removed from this node.
    pub removed: u64,
}

#[derive(Default)]
struct Counters([AtomicU64; 11]);

#[derive(Clone, Copy)]
enum Count {
    Attempted,
    Success,
    Failure,
    NoChange,
    HashMatch,
    Diff,
    DiffCapped,
    Pushed,
    RemoteMerge,
    Deferred,
    Removed,
}

impl Counters {
    fn add(&self, c: Count) {
        self.0[c as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn stats(&self) -> ReplicateStats {
        let n = |c: Count| self.0[c as usize].load(Ordering::Relaxed);
        ReplicateStats {
            attempted: n(Count::Attempted),
            success: n(Count::Success),
            failure: n(Count::Failure),
            no_change: n(Count::NoChange),
            hashmatch: n(Count::HashMatch),
            diff: n(Count::Diff),
            diff_capped: n(Count::DiffCapped),
            pushed: n(Count::Pushed),
            remote_merge: n(Count::RemoteMerge),
            deferred: n(Count::Deferred),
            removed: n(Count::Removed),
        }
    }
}

/// One pass over this node's accounts.
pub async fn replicate_accounts(config: &DbDaemonConfig) -> ReplicateStats {
    pass::<AccountBroker>(config, config.rings.account(), |c, i| {
        c.swift.hash.account(i.wire.get("account").and_then(Value::as_str).unwrap_or(""))
    })
    .await
}

/// One pass over this node's containers.
pub async fn replicate_containers(config: &DbDaemonConfig) -> ReplicateStats {
    pass::<ContainerBroker>(config, config.rings.container(), container_hash).await
}

fn container_hash(c: &DbDaemonConfig, i: &ReplicationInfo) -> caelum_swiftkit::NameHash {
    let text = |k: &str| i.wire.get(k).and_then(Value::as_str).unwrap_or("");
    c.swift.hash.container(text("account"), text("container"))
}

/// Replicates one container now. Answers as [`Pass::exchange`].
pub(crate) async fn replicate_container(config: &DbDaemonConfig, found: &Found, device: &Device) -> caelum_broker::Result<Vec<bool>> {
    let pass = Pass { config, ring: config.rings.container(), counters: Counters::default(), hash: container_hash };
    pass.exchange::<ContainerBroker>(found, device).await
}

struct Pass<'a> {
    config: &'a DbDaemonConfig,
    ring: Arc<Ring>,
    counters: Counters,
    hash: fn(&DbDaemonConfig, &ReplicationInfo) -> caelum_swiftkit::NameHash,
}

async fn pass<B: Kind>(
    config: &DbDaemonConfig,
    ring: Arc<Ring>,
    hash: fn(&DbDaemonConfig, &ReplicationInfo) -> caelum_swiftkit::NameHash,
) -> ReplicateStats {
    let local = config.local_devices(&ring);
    if local.is_empty() {
        tracing::warn!("no device of the ring is this node's: nothing to replicate");
    }
    let names = local.iter().map(|d| d.device.clone()).collect();
    let found = walk(config, names, B::KIND.datadir());
    let pass = Pass { config, ring, counters: Counters::default(), hash };
    let databases = futures_util::stream::unfold(found, |mut rx| async move { rx.recv().await.map(|f| (f, rx)) });
    databases
        .for_each_concurrent(config.concurrency.max(1), |found| {
            let (pass, device) = (&pass, local.iter().find(|d| d.device == found.device));
            async move {
                if let Some(device) = device {
                    pass.database::<B>(found, device).await;
                }
            }
        })
        .await;
    pass.counters.stats()
}

impl Pass<'_> {
    async fn database<B: Kind>(&self, found: Found, device: &Device) {
        self.counters.add(Count::Attempted);
        match self.try_database::<B>(&found, device).await {
            Ok(true) => self.counters.add(Count::Success),
            Ok(false) => self.counters.add(Count::Failure),
            Err(e) => {
                tracing::error!(file = %found.path.display(), error = %e, "replication");
                self.counters.add(Count::Failure);
            }
        }
    }

    async fn try_database<B: Kind>(&self, found: &Found, device: &Device) -> caelum_broker::Result<bool> {
        Ok(self.exchange::<B>(found, device).await?.iter().all(|a| *a))
    }

    /// Whether each replica has been brought up to date, this one included if it belongs here. Empty for a
    /// database that was forgotten.
    async fn exchange<B: Kind>(&self, found: &Found, device: &Device) -> caelum_broker::Result<Vec<bool>> {
        let now = self.config.now();
        let (age, sync_age) = (now.minus(self.config.reclaim_age), now.minus(self.config.reclaim_age * 2));
        let (pool, path, age_secs) = (self.config.pool.clone(), found.path.clone(), self.config.reclaim_age);
        let (broker, info, reclaimable) = blocking(move || {
            let broker = B::at(&pool, &path)?;
            remove_old_tmp(broker.database().dir(), age_secs);
            broker.reclaim_older(age, sync_age)?;
            let info = broker.info()?;
            let reclaimable = broker.reclaimable(age)?;
            let gone = reclaimable && broker.reported()?;
            Ok((broker, info, (reclaimable, gone)))
        })
        .await?;
        if reclaimable.0 {
            if reclaimable.1 {
                self.remove(&broker).await?;
            }
            return Ok(Vec::new());
        }
        let partition = self.ring.partition(&(self.hash)(self.config, &info));
        let primaries: Vec<Device> = self.ring.primaries(partition).into_iter().cloned().collect();
        let mine = primaries.iter().position(|d| d.id == device.id);
        let belongs = partition == found.partition && mine.is_some();
        if partition != found.partition {
            tracing::error!(file = %found.path.display(), partition, "lies in the wrong partition, will be moved");
        }
        let mut answers = self.to_replicas(&broker, &info, partition, &primaries, mine).await;
        if let Err(e) = broker.afterwards(self.config, &info, &answers).await {
            tracing::error!(file = %found.path.display(), error = %e, "after replication");
        }
        if !belongs && !answers.is_empty() && answers.iter().all(|a| *a) {
            let (b, before) = (broker.clone(), info.max_row);
            let may_go = blocking(move || Ok(b.removable()? && b.database().max_row(None)? == before)).await?;
            if may_go {
                self.remove(&broker).await?;
            }
        }
        if belongs {
            answers.push(true);
        }
        Ok(answers)
    }

    /// Replicates to the others in ring order beginning after this node, so that each has another first.
    async fn to_replicas<B: Kind>(
        &self,
        broker: &B,
        info: &ReplicationInfo,
        partition: u32,
        primaries: &[Device],
        mine: Option<usize>,
    ) -> Vec<bool> {
        let mut targets: Vec<Device> = match mine {
            Some(i) => primaries[i + 1..].iter().chain(&primaries[..i]).cloned().collect(),
            None => primaries.to_vec(),
        };
        let mut handoffs = self.ring.handoffs(partition).cloned().collect::<Vec<_>>().into_iter();
        let (mut answers, mut at) = (Vec::new(), 0);
        while let Some(target) = targets.get(at).cloned() {
            at += 1;
            match self.to_replica(broker, info, partition, &target).await {
                Ok(Some(done)) => answers.push(done),
                Ok(None) => {
                    // Its disk is gone: another node stands in.
                    targets.extend(handoffs.next());
                    answers.push(false);
                }
                Err(e) => {
                    tracing::error!(device = target.device, error = %e, "replication");
                    answers.push(false);
                }
            }
        }
        answers
    }

    /// `None`: the device is not there.
    async fn to_replica<B: Kind>(
        &self,
        broker: &B,
        info: &ReplicationInfo,
        partition: u32,
        target: &Device,
    ) -> caelum_broker::Result<Option<bool>> {
        let hash = caelum_broker::parse_db_filename(broker.database().file()).0;
        let remote = Remote { nodes: &self.config.nodes, device: target, partition, hash: &hash, timeout: self.config.node_timeout };
        let mut args: Vec<Value> = vec![
            info.max_row.into(),
            info.hash.clone().into(),
            info.id.clone().into(),
            info.created_at.clone().into(),
            info.put_timestamp.clone().into(),
            info.delete_timestamp.clone().into(),
            info.metadata.clone().into(),
        ];
        args.extend(broker.sync_args(self.config, info));
        let Some((code, body)) = remote.call("sync", args).await else { return Ok(Some(false)) };
        match code {
            404 => {
                self.counters.add(Count::Pushed);
                let name = broker.database().file().file_name().map(|n| n.to_string_lossy().into_owned());
                self.push(broker, &remote, info, "complete_rsync", name, self.config.node_timeout).await.map(Some)
            }
            507 => Ok(None),
            200..=299 => {
                let theirs: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                self.reconcile(broker, &remote, info, &theirs).await.map(Some)
            }
            _ => Ok(Some(false)),
        }
    }

    async fn reconcile<B: Kind>(
        &self,
        broker: &B,
        remote: &Remote<'_>,
        info: &ReplicationInfo,
        theirs: &Value,
    ) -> caelum_broker::Result<bool> {
        let text = |k: &str| theirs.get(k).and_then(Value::as_str).unwrap_or("").to_string();
        let number = |k: &str| theirs.get(k).and_then(Value::as_i64).unwrap_or(-1);
        let (id, their_hash, point, their_max) = (text("id"), text("hash"), number("point"), number("max_row"));
        let (b, metadata, remote_id) = (broker.clone(), text("metadata"), id.clone());
        let sent = blocking(move || {
            let metadata = caelum_broker::parse_metadata(&metadata);
            if !metadata.is_empty() {
                b.database().update_metadata(&metadata, false)?;
            }
            b.database().get_sync(&remote_id, false)
        })
        .await?;
        broker.learn(remote, info, theirs).await?;
        if let Next::Deferred(done) = broker.before_rows(remote, info, theirs).await? {
            self.counters.add(Count::Deferred);
            return Ok(done);
        }
        if point.max(sent) >= info.max_row {
            self.counters.add(Count::NoChange);
            return Ok(true);
        }
        if their_hash == info.hash {
            self.counters.add(Count::HashMatch);
            let b = broker.clone();
            blocking(move || b.database().merge_syncs(&[(id, point)], false)).await?;
            return Ok(true);
        }
        let per_diff = i64::try_from(self.config.per_diff).unwrap_or(i64::MAX);
        if their_max * 2 < info.max_row && info.max_row - their_max > per_diff {
            self.counters.add(Count::RemoteMerge);
            let rows = u64::try_from(info.count).unwrap_or(0);
            let timeout = self.config.node_timeout + Duration::from_secs(rows / 2_000);
            return self.push(broker, remote, info, "rsync_then_merge", None, timeout).await;
        }
        self.rows(broker, remote, point.max(sent), id, &info.id).await
    }

    /// Sends the rows after number `point`.
    async fn rows<B: Kind>(
        &self,
        broker: &B,
        remote: &Remote<'_>,
        mut point: i64,
        remote_id: String,
        own_id: &str,
    ) -> caelum_broker::Result<bool> {
        self.counters.add(Count::Diff);
        let b = broker.clone();
        let syncs = blocking(move || b.database().get_syncs(true)).await?;
        for _ in 0..self.config.max_diffs {
            let (b, n) = (broker.clone(), self.config.per_diff);
            let rows = blocking(move || b.rows_since(point, n)).await?;
            let Some(last) = rows.last().map(B::row_id) else {
                let syncs: Vec<Value> =
                    syncs.iter().map(|s| serde_json::json!({"remote_id": s.remote_id, "sync_point": s.sync_point})).collect();
                if !remote.ok("merge_syncs", vec![syncs.into()]).await {
                    return Ok(false);
                }
                let b = broker.clone();
                blocking(move || b.database().merge_syncs(&[(remote_id, point)], false)).await?;
                return Ok(true);
            };
            let rows = serde_json::to_value(rows).unwrap_or(Value::Null);
            if !remote.ok("merge_items", vec![rows, own_id.into()]).await {
                return Ok(false);
            }
            point = last;
        }
        self.counters.add(Count::DiffCapped);
        Ok(false)
    }

    /// Sends the whole database, then has the other put it in its place.
    async fn push<B: Kind>(
        &self,
        broker: &B,
        remote: &Remote<'_>,
        info: &ReplicationInfo,
        then: &str,
        name: Option<String>,
        timeout: Duration,
    ) -> caelum_broker::Result<bool> {
        let (b, uuid) = (broker.clone(), self.config.env.hex_id());
        let copy = blocking(move || {
            let copy = b.database().dir().join(format!("{uuid}.tmp"));
            b.database().copy_to(&copy).map(|()| copy)
        })
        .await?;
        let sent = match remote.push(&copy, &info.id).await {
            Some(sent) => sent,
            None => self.rsync(&copy, remote.device, &info.id).await,
        };
        // The copy has served; reclaiming removes what a crash leaves.
        let _ = tokio::fs::remove_file(&copy).await;
        if !sent {
            return Ok(false);
        }
        let mut args = vec![Value::from(info.id.clone())];
        args.extend(name.map(Value::from));
        let long = Remote { timeout, ..*remote };
        Ok(long.ok(then, args).await)
    }

    async fn rsync(&self, file: &Path, target: &Device, name: &str) -> bool {
        let Some(module) = &self.config.rsync_module else { return false };
        let module = module
            .replace("{replication_ip}", &bracketed(&target.replication_ip))
            .replace("{ip}", &bracketed(&target.ip))
            .replace("{replication_port}", &target.replication_port.to_string())
            .replace("{port}", &target.port.to_string())
            .replace("{device}", &target.device);
        let seconds = self.config.node_timeout.as_secs().max(1);
        let mut command = tokio::process::Command::new("rsync");
        command
            .args(["--quiet", "--no-motd", "--whole-file"])
            .arg(format!("--timeout={seconds}"))
            .arg("--contimeout=1")
            .arg(file)
            .arg(format!("{module}/{}/tmp/{name}", target.device))
            .kill_on_drop(true);
        match command.status().await {
            Ok(status) => status.success(),
            Err(e) => {
                tracing::error!(error = %e, "rsync cannot be run");
                false
            }
        }
    }

    async fn remove<B: Kind>(&self, broker: &B) -> caelum_broker::Result<()> {
        let (b, pool) = (broker.clone(), self.config.pool.clone());
        blocking(move || {
            let dir = b.database().dir().to_path_buf();
            let _lock = lock_directory(&dir, caelum_broker::PENDING_TIMEOUT)?;
            b.leaving();
            pool.forget(&dir);
            std::fs::remove_dir_all(&dir).map_err(|e| caelum_broker::BrokerError::Io(dir.clone(), e))?;
            for parent in dir.ancestors().skip(1).take(2) {
                if std::fs::remove_dir(parent).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await?;
        self.counters.add(Count::Removed);
        Ok(())
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() }
}

/// Temporary files that a crash has left behind.
fn remove_old_tmp(dir: &Path, age: Duration) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let old = || entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok()).is_some_and(|e| e > age);
        if entry.file_name().to_string_lossy().ends_with(".tmp") && old() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
