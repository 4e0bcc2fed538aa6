//! Limits on requests per device (upstream's `backend_ratelimit`).

use super::{Resp, respond};
use caelum_base::Env;
use http::Method;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests per second and device; 0: no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateLimits {
    /// Over all methods.
    pub all: f64,
    /// By method name.
    pub by_method: Vec<(String, f64)>,
    /// Seconds of unused allowance that may be used at once. Upstream's default: 1.
    pub buffer_secs: f64,
}

const LIMITED: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "UPDATE", "REPLICATE"];
/// Devices told apart; more share nothing and are not limited.
const MAX_DEVICES: usize = 10_000;

/// When the next request of each device and method (`""`: any) is due, in microseconds.
#[derive(Clone)]
pub(super) struct Limiter {
    limits: RateLimits,
    due: Arc<Mutex<HashMap<(String, &'static str), f64>>>,
}

impl Limiter {
    pub fn new(limits: &RateLimits) -> Self {
        Self { limits: limits.clone(), due: Arc::default() }
    }

    fn rate(&self, method: &str) -> f64 {
        self.limits.by_method.iter().find(|(m, _)| m == method).map_or(0.0, |(_, r)| *r)
    }

    /// 529 when the device has had its share.
    pub fn check(&self, env: &Env, method: &Method, path: &str) -> Option<Resp> {
        if self.limits.all <= 0.0 && self.limits.by_method.is_empty() {
            return None;
        }
        let method = LIMITED.iter().find(|m| **m == method.as_str())?;
        let mut segments = path.strip_prefix('/')?.splitn(3, '/');
        let (device, partition) = (segments.next()?, segments.next()?);
        partition.parse::<u64>().ok()?;
        let now = env.now().0 as f64;
        let ok = self.allowed(device, "", self.limits.all, now) && self.allowed(device, method, self.rate(method), now);
        (!ok).then(|| respond::error(529))
    }

    fn allowed(&self, device: &str, method: &'static str, rate: f64, now: f64) -> bool {
        if rate <= 0.0 {
            return true;
        }
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= MAX_DEVICES {
            return true;
        }
        let buffer = self.limits.buffer_secs.max(0.0) * 1e6;
        let at = due.entry((device.to_string(), method)).or_insert(now - buffer);
        if *at > now {
            return false;
        }
        *at = at.max(now - buffer) + 1e6 / rate;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::{ManualClock, SystemRng, Timestamp};
    use std::time::Duration;

    #[test]
    fn a_device_at_its_limit() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SystemRng) };
        let l = Limiter::new(&RateLimits { all: 0.0, by_method: vec![("PUT".into(), 10.0)], buffer_secs: 0.0 });
        let put = |path: &str| l.check(&env, &Method::PUT, path).is_none();
        assert!(put("/sda/1/a/c/o") && !put("/sda/1/a/c/o"));
        assert!(put("/sdb/1/a/c/o") && put("/healthcheck") && l.check(&env, &Method::GET, "/sda/1/a").is_none());
        clock.advance(Duration::from_millis(101));
        assert!(put("/sda/2/a/c/o"));
    }
}
