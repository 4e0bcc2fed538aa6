//! A small shared cache: what upstream keeps in memcached. One process needs none of it outside; several
//! proxies share a memcached (see [`super::memcache`]).

use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::Env;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Values by key, each for a limited time; any of them may be gone at any moment. A cache that fails
/// answers as an empty one.
#[async_trait]
pub trait Cache: Send + Sync {
    async fn get(&self, key: &str) -> Option<Bytes>;

    async fn set(&self, key: &str, value: Bytes, ttl: Duration);

    async fn delete(&self, key: &str);

    /// Adds to a counter that begins at 0 and never goes below it; answers its new value, `None` when the
    /// cache fails.
    async fn incr(&self, key: &str, delta: i64, ttl: Duration) -> Option<u64>;
}

/// A [`Cache`] inside this process, bounded in entries and bytes.
pub struct MemoryCache {
    env: Env,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    entries: HashMap<String, (Bytes, i64)>,
    bytes: usize,
}

const MAX_ENTRIES: usize = 65_536;
const MAX_BYTES: usize = 64 << 20;
const MAX_VALUE: usize = 1 << 20;

impl Held {
    fn remove(&mut self, key: &str) {
        if let Some((value, _)) = self.entries.remove(key) {
            self.bytes -= key.len() + value.len();
        }
    }

    fn insert(&mut self, key: &str, value: Bytes, until: i64, now: i64) {
        self.remove(key);
        if value.len() > MAX_VALUE {
            return;
        }
        if self.entries.len() >= MAX_ENTRIES || self.bytes + value.len() > MAX_BYTES {
            self.make_room(now);
        }
        self.bytes += key.len() + value.len();
        self.entries.insert(key.to_string(), (value, until));
    }

    /// Drops what has ended; when that is not a quarter, drops whatever the map names first.
    fn make_room(&mut self, now: i64) {
        self.entries.retain(|_, (_, until)| *until > now);
        let mut spare = self.entries.len().saturating_sub(MAX_ENTRIES / 4 * 3);
        let mut bytes: usize = self.entries.iter().map(|(k, (v, _))| k.len() + v.len()).sum();
        self.entries.retain(|k, (v, _)| {
            let keep = spare == 0 && bytes <= MAX_BYTES / 4 * 3;
            if !keep {
                spare = spare.saturating_sub(1);
                bytes -= k.len() + v.len();
            }
            keep
        });
        self.bytes = bytes;
    }
}

impl MemoryCache {
    pub fn new(env: Env) -> Self {
        Self { env, held: Mutex::default() }
    }

    fn now(&self) -> i64 {
        self.env.now().0
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get(&self, key: &str) -> Option<Bytes> {
        let held = self.held.lock().expect("no holder of this lock panics");
        held.entries.get(key).filter(|(_, until)| *until > self.now()).map(|(v, _)| v.clone())
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) {
        let now = self.env.now();
        self.held.lock().expect("no holder of this lock panics").insert(key, value, now.plus(ttl).0, now.0);
    }

    async fn delete(&self, key: &str) {
        self.held.lock().expect("no holder of this lock panics").remove(key);
    }

    async fn incr(&self, key: &str, delta: i64, ttl: Duration) -> Option<u64> {
        let now = self.env.now();
        let mut held = self.held.lock().expect("no holder of this lock panics");
        let old = held.entries.get(key).filter(|(_, until)| *until > now.0);
        let count = old.and_then(|(v, _)| std::str::from_utf8(v).ok()?.parse::<u64>().ok()).unwrap_or(0);
        let count = count.saturating_add_signed(delta);
        held.insert(key, Bytes::from(count.to_string()), now.plus(ttl).0, now.0);
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::{ManualClock, SeededRng, Timestamp};
    use std::sync::Arc;

    #[tokio::test]
    async fn values_end_and_counters_count() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let cache = MemoryCache::new(Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(1)) });
        cache.set("a", Bytes::from_static(b"1"), Duration::from_secs(10)).await;
        assert_eq!(cache.get("a").await.as_deref(), Some(&b"1"[..]));
        assert_eq!(cache.incr("n", 5, Duration::from_secs(10)).await, Some(5));
        assert_eq!(cache.incr("n", -7, Duration::from_secs(10)).await, Some(0));
        clock.advance(Duration::from_secs(10));
        assert_eq!(cache.get("a").await, None);
        cache.set("b", Bytes::from(vec![0; MAX_VALUE + 1]), Duration::from_secs(10)).await;
        assert_eq!(cache.get("b").await, None);
        for i in 0..MAX_ENTRIES + 10 {
            cache.set(&i.to_string(), Bytes::new(), Duration::from_secs(10)).await;
        }
        let held = cache.held.lock().unwrap();
        assert!(held.entries.len() <= MAX_ENTRIES, "{}", held.entries.len());
        assert_eq!(held.bytes, held.entries.iter().map(|(k, (v, _))| k.len() + v.len()).sum::<usize>());
    }
}
