//! Moves objects that were written under another storage policy than their container's (two nodes may have
//! created the container at the same time, or one was away). The queue is the account
//! `.misplaced_objects`: a container per hour, an entry `POLICY:/account/container/object` per object.
//!
//! A moved object's time is the original's with an offset of 3, the deletion of what it leaves behind has
//! offset 1, so that a user's later write wins over both and a repeated move changes nothing.

use super::client::{Answer, InternalClient, call, path, to_container_nodes};
use super::misplaced::{MISPLACED_ACCOUNT, queue_container};
use crate::db::DbDaemonConfig;
use caelum_broker::{ReplicationInfo, compare_policies};
use caelum_swiftkit::Timestamp;
use futures_util::StreamExt;
use http::HeaderMap;
use serde_json::Value;

/// How the reconciler is set up beside [`DbDaemonConfig`].
#[derive(Clone)]
pub struct ReconcilerConfig {
    pub client: InternalClient,
    pub concurrency: usize,
    /// How many reconcilers share the work, and which of them this is, from 0; 0: all alone.
    pub processes: u32,
    pub process: u32,
}

/// What a pass did, in queue entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconcilerStats {
    pub success: u64,
    /// Left in the queue for the next pass.
    pub retry: u64,
    pub invalid: u64,
}

/// One pass over the queue.
pub async fn reconcile(config: &DbDaemonConfig, reconciler: &ReconcilerConfig) -> ReconcilerStats {
    let run = Run { config, reconciler };
    let mut stats = ReconcilerStats::default();
    for container in run.containers().await {
        run.container(&container, &mut stats).await;
    }
    stats
}

struct Run<'a> {
    config: &'a DbDaemonConfig,
    reconciler: &'a ReconcilerConfig,
}

#[derive(Clone, Debug, PartialEq)]
struct Item {
    entry: String,
    policy: u32,
    account: String,
    container: String,
    object: String,
    deletion: bool,
    /// Of the misplaced object.
    at: Timestamp,
    /// Of the entry.
    recorded: Timestamp,
}

impl Item {
    fn parse(v: &Value) -> Option<Self> {
        let text = |k: &str| v.get(k)?.as_str();
        let entry = text("name")?;
        let (policy, rest) = entry.split_once(':')?;
        let mut parts = rest.strip_prefix('/')?.splitn(3, '/');
        let mut next = || parts.next().filter(|p| !p.is_empty()).map(str::to_string);
        let (account, container, object) = (next()?, next()?, next()?);
        let deletion = match text("content_type")? {
            "application/x-put" => false,
            "application/x-delete" => true,
            _ => return None,
        };
        let recorded = caelum_base::Timestamp::parse(text("last_modified")?)?;
        Some(Self {
            entry: entry.to_string(),
            policy: policy.parse().ok()?,
            account,
            container,
            object,
            deletion,
            at: Timestamp::decode(text("hash")?)?.0,
            recorded: Timestamp::at(recorded),
        })
    }

    fn path(&self) -> String {
        path(&[&self.account, &self.container, &self.object])
    }
}

/// The same time, `by` steps later within it.
fn later(t: Timestamp, by: u64) -> String {
    t.with_offset(t.offset + by).internal()
}

impl Run<'_> {
    /// Queue containers: that of now, which the account may not know yet, then the others, latest first.
    async fn containers(&self) -> Vec<String> {
        let current = queue_container(&self.config.now().internal());
        let mut names = self.listed().await;
        names.retain(|n| *n != current);
        names.insert(0, current);
        names
    }

    async fn listed(&self) -> Vec<String> {
        let uri = format!("{}?format=json", path(&[MISPLACED_ACCOUNT]));
        let Some(answer) = call(&self.reconciler.client, "GET", &uri, &[], caelum_rest::empty()).await else { return Vec::new() };
        if !answer.ok() {
            return Vec::new();
        }
        let mut names: Vec<String> = answer.json().await.iter().filter_map(|c| c.get("name")?.as_str().map(str::to_string)).collect();
        names.reverse();
        names
    }

    async fn container(&self, container: &str, stats: &mut ReconcilerStats) {
        let (mut marker, mut any) = (String::new(), false);
        loop {
            let quoted = super::updater::quote(&marker).replace('/', "%2F");
            let uri = format!("{}?format=json&marker={quoted}", path(&[MISPLACED_ACCOUNT, container]));
            let Some(answer) = call(&self.reconciler.client, "GET", &uri, &[], caelum_rest::empty()).await else { return };
            if !answer.ok() {
                return;
            }
            let rows = answer.json().await;
            let Some(last) = rows.last().and_then(|r| r.get("name")?.as_str().map(str::to_string)) else { break };
            (marker, any) = (last, true);
            let items: Vec<Option<Item>> = rows.iter().map(Item::parse).collect();
            let mine = items.into_iter().filter(|i| i.as_ref().is_none_or(|i| self.is_mine(i)));
            let done = futures_util::stream::iter(mine)
                .map(|item| async {
                    match item {
                        None => None,
                        Some(item) => Some(self.item(container, &item).await),
                    }
                })
                .buffer_unordered(self.reconciler.concurrency.max(1));
            let outcomes: Vec<Option<bool>> = done.collect().await;
            for outcome in outcomes {
                match outcome {
                    None => stats.invalid += 1,
                    Some(true) => stats.success += 1,
                    Some(false) => stats.retry += 1,
                }
            }
        }
        let age = self.config.now().minus(self.config.reclaim_age);
        if !any && Timestamp::parse(container).is_some_and(|t| t < age) {
            let uri = path(&[MISPLACED_ACCOUNT, container]);
            // 409 when something has come in since.
            call(&self.reconciler.client, "DELETE", &uri, &[], caelum_rest::empty()).await;
        }
    }

    /// Each object is one reconciler's, by the hash of its name.
    fn is_mine(&self, item: &Item) -> bool {
        let ReconcilerConfig { processes, process, .. } = *self.reconciler;
        let hash = || u128::from_be_bytes(self.config.swift.hash.object(&item.account, &item.container, &item.object));
        processes == 0 || hash() % u128::from(processes) == u128::from(process)
    }

    async fn item(&self, queue: &str, item: &Item) -> bool {
        let done = self.settle(item).await.unwrap_or(false);
        if done {
            let at = later(item.recorded.max(item.at), 2);
            to_container_nodes(self.config, "DELETE", &[MISPLACED_ACCOUNT, queue, &item.entry], &[("X-Timestamp", at)]).await;
        } else {
            tracing::info!(object = item.path(), policy = item.policy, "misplaced object must be tried again");
        }
        done
    }

    /// `None` or false: try again later.
    async fn settle(&self, item: &Item) -> Option<bool> {
        let policy = self.container_policy(item).await?;
        if policy == item.policy {
            return Some(true);
        }
        for p in [policy, item.policy] {
            // While the number of partitions changes, objects are hard to find.
            if self.config.rings.object(p)?.next_part_power.is_some() {
                return Some(false);
            }
        }
        let there = self.send("HEAD", item, policy, &[], caelum_rest::empty()).await?;
        if there.code / 100 == 5 {
            return Some(false);
        }
        let there_at = Timestamp::parse(there.header("X-Backend-Timestamp")).unwrap_or(Timestamp::ZERO);
        if there_at >= item.at {
            return Some(self.clean_up(item).await);
        }
        let source = self.send("GET", item, item.policy, &[], caelum_rest::empty()).await?;
        let source_at = Timestamp::parse(source.header("X-Backend-Timestamp")).unwrap_or(Timestamp::ZERO);
        if source.code == 404 && item.deletion {
            let headers = [("X-Timestamp", later(item.at, 3))];
            let deleted = self.send("DELETE", item, policy, &headers, caelum_rest::empty()).await?;
            return Some(deleted.ok() && self.clean_up(item).await);
        }
        if !source.ok() || source_at < item.at {
            let expired = item.at < self.config.now().minus(self.config.reclaim_age);
            if expired {
                tracing::error!(object = item.path(), policy = item.policy, "misplaced object was not found and has expired");
            }
            return Some(expired);
        }
        let mut headers = kept(&source.headers);
        headers.push(("X-Timestamp".into(), later(source_at.max(item.at), 3)));
        let headers: Vec<(&str, String)> = headers.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        let copied = self.send("PUT", item, policy, &headers, source.body).await?;
        Some(copied.ok() && self.clean_up(item).await)
    }

    /// Deletes what is left under the wrong policy.
    async fn clean_up(&self, item: &Item) -> bool {
        let headers = [("X-Timestamp", later(item.at, 1))];
        let answer = self.send("DELETE", item, item.policy, &headers, caelum_rest::empty()).await;
        answer.is_some_and(|a| a.ok() || a.code == 404)
    }

    async fn send(&self, method: &str, item: &Item, policy: u32, headers: &[(&str, String)], body: caelum_rest::Body) -> Option<Answer> {
        let mut all = vec![("X-Backend-Storage-Policy-Index", policy.to_string())];
        all.extend_from_slice(headers);
        call(&self.reconciler.client, method, &item.path(), &all, body).await
    }

    /// What most of the container's nodes have, by the rules of replication. `None`: not enough answer.
    async fn container_policy(&self, item: &Item) -> Option<u32> {
        let answers = to_container_nodes(self.config, "HEAD", &[&item.account, &item.container], &[]).await;
        let n = answers.len();
        let mut infos: Vec<ReplicationInfo> =
            answers.iter().flatten().filter(|(code, _)| matches!(code, 200..=299 | 404)).map(|(_, headers)| info(headers)).collect();
        if infos.len() < caelum_swiftkit::quorum_size(n) {
            return None;
        }
        infos.sort_by(compare_policies);
        u32::try_from(infos.first()?.storage_policy_index).ok()
    }
}

fn info(h: &HeaderMap) -> ReplicationInfo {
    let text = |k: &str| h.get(k).and_then(|v| v.to_str().ok()).unwrap_or("0000000000.00000").to_string();
    let number = |k: &str| h.get(k).and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
    ReplicationInfo {
        put_timestamp: text("X-Backend-PUT-Timestamp"),
        delete_timestamp: text("X-Backend-DELETE-Timestamp"),
        status_changed_at: text("X-Backend-Status-Changed-At"),
        count: number("X-Container-Object-Count"),
        storage_policy_index: number("X-Backend-Storage-Policy-Index"),
        ..ReplicationInfo::default()
    }
}

/// What a copied object keeps of its headers: all but those of the answer that they came with. Which of them are stored is
/// up to the object servers (`allowed_headers`).
pub(super) fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    const OF_THE_ANSWER: [&str; 13] = [
        "accept-ranges",
        "connection",
        "content-range",
        "date",
        "keep-alive",
        "last-modified",
        "server",
        "transfer-encoding",
        "vary",
        "x-openstack-request-id",
        "x-timestamp",
        "x-trans-id",
        "x-trans-id-extra",
    ];
    let is_kept = |k: &str| !OF_THE_ANSWER.contains(&k) && !k.starts_with("x-backend-");
    headers
        .iter()
        .filter(|(k, _)| is_kept(k.as_str()))
        .filter_map(|(k, v)| Some((k.as_str().to_string(), std::str::from_utf8(v.as_bytes()).ok()?.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_copy() {
        let mut h = HeaderMap::new();
        for k in [
            "x-robots-tag",
            "content-language",
            "x-object-sysmeta-a",
            "x-custom",
            "content-length",
            "date",
            "x-backend-timestamp",
            "x-timestamp",
        ] {
            h.insert(k, http::HeaderValue::from_static("1"));
        }
        let names: Vec<String> = kept(&h).into_iter().map(|(k, _)| k).collect();
        assert_eq!(names, ["x-robots-tag", "content-language", "x-object-sysmeta-a", "x-custom", "content-length"]);
    }

    #[test]
    fn entries() {
        let v = serde_json::json!({
            "name": "1:/AUTH_a/c/o/p", "hash": "1600000000.00000+5+0", "content_type": "application/x-put",
            "last_modified": "2020-09-13T12:26:41.000000", "bytes": 0,
        });
        let i = Item::parse(&v).unwrap();
        assert_eq!((i.policy, i.account.as_str(), i.container.as_str(), i.object.as_str()), (1, "AUTH_a", "c", "o/p"));
        assert_eq!((i.at.internal().as_str(), i.recorded.internal().as_str()), ("1600000000.00000", "1600000001.00000"));
        assert_eq!(later(i.at, 3), "1600000000.00000_0000000000000003");
        for (k, bad) in [("name", "x:/a/c/o"), ("name", "1:/a/c"), ("content_type", "text/plain"), ("hash", "e"), ("last_modified", "x")] {
            let mut w = v.clone();
            w[k] = bad.into();
            assert_eq!(Item::parse(&w), None, "{k} {bad}");
        }
    }
}
