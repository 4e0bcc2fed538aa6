//! Which nodes have failed so often of late that they are passed over.

use caelum_base::Env;
use caelum_ring::Device;
use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Nodes are told apart by address, port and device.
type Key = (String, u16, String);

#[derive(Clone, Copy)]
struct Errors {
    count: u32,
    /// Microseconds since 1970.
    last: i64,
}

pub(crate) struct ErrorLimiter {
    env: Env,
    interval: Duration,
    limit: u32,
    /// How many nodes have errors at all: usually none, and then nothing is looked up.
    known: AtomicUsize,
    stats: RwLock<HashMap<Key, Errors>>,
}

fn key(d: &Device) -> Key {
    (d.ip.clone(), d.port, d.device.clone())
}

impl ErrorLimiter {
    pub(crate) fn new(env: Env, interval: Duration, limit: u32) -> Self {
        Self { env, interval, limit, known: AtomicUsize::new(0), stats: RwLock::default() }
    }

    pub(crate) fn is_limited(&self, d: &Device) -> bool {
        if self.known.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let key = key(d);
        let Some(errors) = self.stats.read().expect("no holder of this lock panics").get(&key).copied() else { return false };
        if errors.last < self.env.now().minus(self.interval).0 {
            let mut stats = self.stats.write().expect("no holder of this lock panics");
            stats.remove(&key);
            self.known.store(stats.len(), Ordering::Relaxed);
            return false;
        }
        errors.count > self.limit
    }

    fn add(&self, d: &Device, count: impl FnOnce(u32) -> u32) {
        let now = self.env.now().0;
        let mut stats = self.stats.write().expect("no holder of this lock panics");
        let old = stats.get(&key(d)).map_or(0, |e| e.count);
        let new = count(old);
        stats.insert(key(d), Errors { count: new, last: now });
        self.known.store(stats.len(), Ordering::Relaxed);
        if new > self.limit && old <= self.limit {
            tracing::error!(ip = %d.ip, port = d.port, device = %d.device, seconds = self.interval.as_secs(), "node is passed over");
        }
    }

    /// Counts an error.
    pub(crate) fn increment(&self, d: &Device) {
        self.add(d, |n| n.saturating_add(1));
    }

    /// Passes the node over from now on (a full or unmounted disk).
    pub(crate) fn suppress(&self, d: &Device) {
        self.add(d, |_| self.limit.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::{ManualClock, SeededRng, Timestamp};
    use std::sync::Arc;

    #[test]
    fn errors_add_up_and_are_forgotten() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(1)) };
        let limiter = ErrorLimiter::new(env, Duration::from_secs(60), 2);
        let (a, b) = (Device { device: "a".into(), ..Device::default() }, Device { device: "b".into(), ..Device::default() });
        limiter.increment(&a);
        limiter.increment(&a);
        assert!(!limiter.is_limited(&a));
        limiter.increment(&a);
        assert!(limiter.is_limited(&a) && !limiter.is_limited(&b));
        limiter.suppress(&b);
        assert!(limiter.is_limited(&b));
        clock.advance(Duration::from_secs(61));
        assert!(!limiter.is_limited(&a) && !limiter.is_limited(&b));
        limiter.increment(&a);
        assert!(!limiter.is_limited(&a));
    }
}
