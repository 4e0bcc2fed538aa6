//! What the proxy remembers of accounts and containers.

use super::cache::Cache;
use super::info::{AccountInfo, ContainerInfo};
use super::shards::Namespace;
use caelum_base::Env;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

const MAX_ENTRIES: usize = 50_000;

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
}

/// Where a container's facts are kept. Account names hold no slash.
pub(crate) fn container_key(account: &str, container: &str) -> String {
    let mut key = String::with_capacity(account.len() + container.len() + 1);
    key.push_str(account);
    key.push('/');
    key.push_str(container);
    key
}

impl InfoCache {
    pub(crate) fn new(env: Env, shared: Option<Arc<dyn Cache>>) -> Self {
        Self { accounts: Table::new(env.clone()), containers: Table::new(env.clone()), updating: Table::new(env), shared }
    }

    pub(crate) fn forget(&self, account: &str, container: Option<&str>) {
        match container {
            Some(c) => self.containers.remove(&container_key(account, c)),
            None => self.accounts.remove(account),
        }
    }
}
