//! What replication does for containers beside rows: policies, shard ranges, misplaced objects.

use super::http::Remote;
use super::{DbDaemonConfig, blocking};
use async_trait::async_trait;
use caelum_broker::{AccountBroker, ContainerBroker, DbState, Replica, ReplicationInfo, Rows, ShardRange, compare_policies};
use serde_json::Value;

/// Whether rows are to be sent after the first exchange.
pub(crate) enum Next {
    Rows,
    /// The container is being sharded; its rows go to the shards.
    Deferred(bool),
}

/// Differences between the kinds.
#[async_trait]
pub(crate) trait Kind: Replica {
    /// Further arguments of `sync`.
    fn sync_args(&self, _config: &DbDaemonConfig, _info: &ReplicationInfo) -> Vec<Value> {
        Vec::new()
    }

    /// The other's facts have come.
    async fn learn(&self, _remote: &Remote<'_>, _info: &ReplicationInfo, _theirs: &Value) -> caelum_broker::Result<()> {
        Ok(())
    }

    async fn before_rows(&self, _remote: &Remote<'_>, _info: &ReplicationInfo, _theirs: &Value) -> caelum_broker::Result<Next> {
        Ok(Next::Rows)
    }

    /// All replicas have been tried.
    async fn afterwards(&self, _config: &DbDaemonConfig, _info: &ReplicationInfo, _answers: &[bool]) -> caelum_broker::Result<()> {
        Ok(())
    }

    /// Whether a copy that does not belong here may go.
    fn removable(&self) -> caelum_broker::Result<bool> {
        Ok(true)
    }

    /// Whether everybody who must know of a deletion knows.
    fn reported(&self) -> caelum_broker::Result<bool> {
        Ok(true)
    }

    /// The database is about to go.
    fn leaving(&self) {}
}

impl Kind for AccountBroker {}

#[async_trait]
impl Kind for ContainerBroker {
    fn sync_args(&self, config: &DbDaemonConfig, info: &ReplicationInfo) -> Vec<Value> {
        if config.swift.policies.iter().count() < 2 {
            return Vec::new();
        }
        vec![info.status_changed_at.clone().into(), info.count.into(), info.storage_policy_index.into()]
    }

    async fn learn(&self, remote: &Remote<'_>, info: &ReplicationInfo, theirs: &Value) -> caelum_broker::Result<()> {
        let text = |k: &str| theirs.get(k).and_then(Value::as_str).unwrap_or("").to_string();
        let other = ReplicationInfo {
            created_at: text("created_at"),
            put_timestamp: text("put_timestamp"),
            delete_timestamp: text("delete_timestamp"),
            status_changed_at: text("status_changed_at"),
            count: theirs.get("count").and_then(Value::as_i64).unwrap_or(0),
            storage_policy_index: theirs.get("storage_policy_index").and_then(Value::as_i64).unwrap_or(info.storage_policy_index),
            ..ReplicationInfo::default()
        };
        let (broker, mine) = (self.clone(), info.clone());
        blocking(move || {
            if other.storage_policy_index != mine.storage_policy_index && compare_policies(&mine, &other).is_gt() {
                broker.set_storage_policy_index(other.storage_policy_index, &broker.db().now().normal())?;
            }
            let times = |i: &ReplicationInfo| [i.created_at.clone(), i.put_timestamp.clone(), i.delete_timestamp.clone()];
            if times(&mine) != times(&other) && !other.created_at.is_empty() {
                broker.merge_timestamps(&other.created_at, &other.put_timestamp, &other.delete_timestamp)?;
            }
            Ok(())
        })
        .await?;
        if theirs.get("shard_max_row").and_then(Value::as_i64).unwrap_or(-1) >= 0
            && let Some((200..=299, body)) = remote.call("get_shard_ranges", Vec::new()).await
        {
            let ranges: Vec<ShardRange> = serde_json::from_slice(&body).unwrap_or_default();
            let broker = self.clone();
            blocking(move || {
                let own = broker.own_shard_range()?;
                let keep = |r: &ShardRange| own.epoch.is_none() || r.name != own.name || r.epoch.is_some();
                broker.merge_shard_ranges(ranges.into_iter().filter(keep).collect())
            })
            .await?;
        }
        Ok(())
    }

    async fn before_rows(&self, remote: &Remote<'_>, info: &ReplicationInfo, theirs: &Value) -> caelum_broker::Result<Next> {
        let broker = self.clone();
        let (ranges, initiated, state) = blocking(move || {
            let nothing_left = || -> caelum_broker::Result<bool> { Ok(broker.get_objects(1, "", "", Rows::Both, 0)?.is_empty()) };
            let state = broker.db_state()?;
            if state == DbState::Sharded && nothing_left()? {
                tracing::debug!(file = %broker.db().file().display(), "sharded, nothing more to replicate");
            }
            Ok((broker.all_shard_ranges()?, broker.sharding_initiated()?, state))
        })
        .await?;
        let sent = if theirs.get("shard_max_row").is_none() {
            false
        } else if ranges.is_empty() {
            true
        } else {
            let ranges = serde_json::to_value(ranges).unwrap_or(Value::Null);
            remote.ok("merge_shard_ranges", vec![ranges, info.id.clone().into()]).await
        };
        if initiated {
            tracing::debug!(state = state.as_str(), "rows wait for cleaving");
            return Ok(Next::Deferred(sent));
        }
        Ok(if sent { Next::Rows } else { Next::Deferred(false) })
    }

    async fn afterwards(&self, config: &DbDaemonConfig, info: &ReplicationInfo, answers: &[bool]) -> caelum_broker::Result<()> {
        let (broker, config, max_row) = (self.clone(), config.clone(), info.max_row);
        let majority = answers.iter().filter(|a| **a).count() > answers.len() / 2;
        blocking(move || {
            let info = broker.get_info()?;
            if info.account == crate::container::MISPLACED_ACCOUNT {
                return Ok(());
            }
            caelum_objserver::db::sync_store::update_sync_store(&broker)?;
            crate::container::feed_misplaced(&config, &broker, &info, max_row, majority)
        })
        .await
    }

    fn removable(&self) -> caelum_broker::Result<bool> {
        Ok(!self.sharding_required()?)
    }

    fn reported(&self) -> caelum_broker::Result<bool> {
        let i = self.get_info()?;
        Ok(i.reported_put_timestamp == i.put_timestamp
            && i.reported_delete_timestamp == i.delete_timestamp
            && i.reported_object_count == i.object_count
            && i.reported_bytes_used == i.bytes_used)
    }

    fn leaving(&self) {
        if let Some(link) = caelum_objserver::db::sync_store::sync_link(self.db().file()) {
            // There is none for most containers.
            let _ = std::fs::remove_file(link);
        }
    }
}
