//! What the proxy remembers of accounts and containers.

use super::cache::Cache;
use super::info::{AccountInfo, ContainerInfo};
use super::info_json::{account_from_json, account_to_json, container_from_json, container_to_json};
use super::shards::Namespace;
use caelum_base::Env;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

const MAX_ENTRIES: usize = 50_000;
/// With a shared cache, how long this process relies on its own copy.
const LOCAL_TTL: Duration = Duration::from_secs(1);

/// A bounded map whose entries end.
pub(crate) struct Table<T> {
    env: Env,
    held: RwLock<HashMap<String, (Arc<T>, i64)>>,
}

impl<T> Table<T> {
    pub(crate) fn new(env: Env) -> Self {
        Self { env, held: RwLock::default() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<T>> {
        let held = self.held.read().expect("no holder of this lock panics");
        held.get(key).filter(|(_, until)| *until > self.env.now().0).map(|(v, _)| v.clone())
    }

    pub(crate) fn set(&self, key: &str, value: Arc<T>, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let now = self.env.now();
        let mut held = self.held.write().expect("no holder of this lock panics");
        if held.len() >= MAX_ENTRIES {
            held.retain(|_, (_, until)| *until > now.0);
            let mut spare = held.len().saturating_sub(MAX_ENTRIES / 4 * 3);
            held.retain(|_, _| {
                let keep = spare == 0;
                spare = spare.saturating_sub(1);
                keep
            });
        }
        held.insert(key.to_string(), (value, now.plus(ttl).0));
    }

    pub(crate) fn remove(&self, key: &str) {
        self.held.write().expect("no holder of this lock panics").remove(key);
    }
}

/// Account and container facts: in this process, and in a cache that proxies share when there is one.
pub(crate) struct InfoCache {
    pub accounts: Table<AccountInfo>,
    pub containers: Table<ContainerInfo>,
    /// Where rows of a sharded container's objects go.
    pub updating: Table<Vec<Namespace>>,
    pub shared: Option<Arc<dyn Cache>>,
    /// Counts what was forgotten.
    forgotten: AtomicU64,
}

/// Where a container's facts are kept. Account names hold no slash.
pub(crate) fn container_key(account: &str, container: &str) -> String {
    let mut key = String::with_capacity(account.len() + container.len() + 1);
    key.push_str(account);
    key.push('/');
    key.push_str(container);
    key
}

/// The name that upstream gives an entry.
fn shared_key(account: &str, container: Option<&str>) -> String {
    container.map_or_else(|| format!("account/{account}"), |c| format!("container/{account}/{c}"))
}

impl InfoCache {
    pub(crate) fn new(env: Env, shared: Option<Arc<dyn Cache>>) -> Self {
        Self {
            accounts: Table::new(env.clone()),
            containers: Table::new(env.clone()),
            updating: Table::new(env),
            shared,
            forgotten: AtomicU64::new(0),
        }
    }

    /// Drops what this process knows.
    fn forget_here(&self, account: &str, container: Option<&str>) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        match container {
            Some(c) => self.containers.remove(&container_key(account, c)),
            None => self.accounts.remove(account),
        }
    }

    /// To be taken before servers are asked: an answer on its way while something is written may be older
    /// than the write, and is not kept.
    pub(crate) fn moment(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Drops what proxies know.
    pub(crate) async fn forget(&self, account: &str, container: Option<&str>) {
        self.forget_here(account, container);
        if let Some(shared) = &self.shared {
            shared.delete(&shared_key(account, container)).await;
        }
    }

    /// The same without waiting for the others.
    pub(crate) fn forget_soon(&self, account: &str, container: Option<&str>) {
        self.forget_here(account, container);
        if let Some(shared) = self.shared.clone() {
            let key = shared_key(account, container);
            tokio::spawn(async move { shared.delete(&key).await });
        }
    }

    /// How long this process may rely on something that another proxy may change.
    pub(crate) fn local_ttl(&self, ttl: Duration) -> Duration {
        if self.shared.is_some() { ttl.min(LOCAL_TTL) } else { ttl }
    }

    pub(crate) async fn shared_container(&self, account: &str, container: &str) -> Option<ContainerInfo> {
        container_from_json(&self.shared.as_ref()?.get(&shared_key(account, Some(container))).await?)
    }

    pub(crate) async fn shared_account(&self, account: &str) -> Option<AccountInfo> {
        account_from_json(&self.shared.as_ref()?.get(&shared_key(account, None)).await?)
    }

    pub(crate) async fn share_container(&self, account: &str, container: &str, info: &ContainerInfo, ttl: Duration) {
        if let Some(shared) = &self.shared {
            let json = container_to_json(info).to_string();
            shared.set(&shared_key(account, Some(container)), json.into(), ttl).await;
        }
    }

    pub(crate) async fn share_account(&self, account: &str, info: &AccountInfo, ttl: Duration) {
        if let Some(shared) = &self.shared {
            shared.set(&shared_key(account, None), account_to_json(info).to_string().into(), ttl).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::{ManualClock, SeededRng, Timestamp};

    #[tokio::test]
    async fn entries_end_and_are_bounded() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(1)) };
        let table: Table<u32> = Table::new(env.clone());
        table.set("a", Arc::new(1), Duration::from_secs(10));
        table.set("never", Arc::new(1), Duration::ZERO);
        assert_eq!((table.get("a").as_deref(), table.get("never")), (Some(&1), None));
        clock.advance(Duration::from_secs(10));
        assert_eq!(table.get("a"), None);
        for i in 0..MAX_ENTRIES + 5 {
            table.set(&i.to_string(), Arc::new(1), Duration::from_secs(10));
        }
        assert!(table.held.read().unwrap().len() <= MAX_ENTRIES);
        let infos = InfoCache::new(env, None);
        let before = infos.moment();
        infos.forget("a", None).await;
        assert_ne!(before, infos.moment());
    }
}
