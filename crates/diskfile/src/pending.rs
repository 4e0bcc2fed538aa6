//! Container updates that could not be delivered: one pickle each in `async_pending[-N]/SUFFIX/HASH-TIME`.

use crate::commit::make_dirs;
use crate::manager::list_or_empty;
use crate::{DiskResult, Manager, hashes};
use caelum_swiftkit::pickle::{self, Value};
use caelum_swiftkit::{StoragePolicy, Timestamp};
use std::fs::File;
use std::path::PathBuf;

/// A queued update.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingUpdate {
    /// `PUT` or `DELETE`.
    pub op: String,
    pub account: String,
    pub container: String,
    pub object: String,
    /// Headers of the request to the container server.
    pub headers: Vec<(String, String)>,
    /// Where the update goes when not to the container itself (a shard): `account/container`.
    pub container_path: Option<String>,
    pub db_state: Option<String>,
    /// Ids of devices that have it already; kept by the updater.
    pub successes: Vec<i64>,
}

/// A file of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingFile {
    pub path: PathBuf,
    pub hash: String,
    pub timestamp: Timestamp,
}

impl PendingUpdate {
    fn to_value(&self) -> Value {
        let text = |t: &Option<String>| t.as_ref().map_or(Value::None, Value::str);
        let headers = self.headers.iter().map(|(k, v)| (Value::str(k), Value::str(v))).collect();
        let mut items = vec![
            (Value::str("op"), Value::str(&self.op)),
            (Value::str("account"), Value::str(&self.account)),
            (Value::str("container"), Value::str(&self.container)),
            (Value::str("obj"), Value::str(&self.object)),
            (Value::str("headers"), Value::Dict(headers)),
            (Value::str("db_state"), text(&self.db_state)),
        ];
        if self.container_path.is_some() {
            items.push((Value::str("container_path"), text(&self.container_path)));
        }
        if !self.successes.is_empty() {
            items.push((Value::str("successes"), Value::List(self.successes.iter().copied().map(Value::Int).collect())));
        }
        Value::Dict(items)
    }

    fn from_value(v: &Value) -> Option<Self> {
        let text = |k: &str| v.get(k).and_then(Value::text);
        let headers = match v.get("headers")? {
            Value::Dict(items) => items.iter().filter_map(|(k, v)| Some((k.text()?, scalar(v)?))).collect(),
            _ => return None,
        };
        Some(Self {
            op: text("op")?,
            account: text("account")?,
            container: text("container")?,
            object: text("obj")?,
            headers,
            container_path: text("container_path"),
            db_state: text("db_state"),
            successes: v.get("successes").and_then(Value::items).unwrap_or(&[]).iter().filter_map(Value::int).collect(),
        })
    }

    /// Errors: not such a pickle.
    pub fn load(raw: &[u8]) -> Result<Self, String> {
        let v = pickle::loads(raw).map_err(|e| e.to_string())?;
        Self::from_value(&v).ok_or_else(|| "not an update".to_string())
    }

    pub fn dump(&self) -> Vec<u8> {
        pickle::dumps(&self.to_value())
    }
}

fn scalar(v: &Value) -> Option<String> {
    v.text().or_else(|| v.int().map(|i| i.to_string()))
}

impl Manager {
    /// Queues an update; an older one of the same object and time is replaced. Durable on return.
    pub fn queue_update(
        &self,
        device: &str,
        policy: &StoragePolicy,
        update: &PendingUpdate,
        at: Timestamp,
        named: (&str, &str, &str),
    ) -> DiskResult<()> {
        let root = self.config.devices.join(device);
        let hash = self.object_hash(named.0, named.1, named.2);
        let dir = root.join(policy.dir("async_pending")).join(hash.get(29..).unwrap_or_default());
        let tmp = root.join(policy.dir("tmp"));
        std::fs::create_dir_all(&tmp)?;
        let changed = make_dirs(&dir)?;
        hashes::replace_file(&tmp, &dir.join(format!("{hash}-{}", at.internal())), &update.dump())?;
        for d in changed {
            File::open(d)?.sync_all()?;
        }
        Ok(())
    }

    /// Files of the queue in upstream's order: by suffix, then newest first, so that older updates of the same object
    /// can be dropped. Names that are none of the queue's are left out.
    pub fn pending_updates(&self, device: &str, policy: &StoragePolicy) -> DiskResult<Vec<PendingFile>> {
        let root = self.device_path(device)?.join(policy.dir("async_pending"));
        let mut suffixes = list_or_empty(&root)?;
        suffixes.sort();
        let mut out = Vec::new();
        for suffix in suffixes {
            let dir = root.join(suffix);
            let mut names = list_or_empty(&dir)?;
            names.sort_by(|a, b| b.cmp(a));
            for name in names {
                let Some((hash, t)) = name.split_once('-') else { continue };
                if let Some(timestamp) = Timestamp::parse(t) {
                    out.push(PendingFile { path: dir.join(&name), hash: hash.to_string(), timestamp });
                }
            }
        }
        Ok(out)
    }

    /// Replaces a queued update after some of its recipients have it.
    pub fn rewrite_update(&self, device: &str, policy: &StoragePolicy, file: &PendingFile, update: &PendingUpdate) -> DiskResult<()> {
        let tmp = self.config.devices.join(device).join(policy.dir("tmp"));
        std::fs::create_dir_all(&tmp)?;
        Ok(hashes::replace_file(&tmp, &file.path, &update.dump())?)
    }

    /// Removes a delivered update and its directory once empty.
    pub fn remove_update(&self, file: &PendingFile) -> DiskResult<()> {
        crate::clean::remove_file(&file.path)?;
        if let Some(dir) = file.path.parent() {
            // Not empty: more to deliver.
            let _ = std::fs::remove_dir(dir);
        }
        Ok(())
    }
}
