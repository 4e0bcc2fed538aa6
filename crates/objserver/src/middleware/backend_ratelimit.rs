//! Limits on requests per device (upstream's `backend_ratelimit`).

use super::{Req, Resp, respond};
use caelum_base::{Env, Timestamp};
use caelum_rest::HttpService;
use futures_util::future::BoxFuture;
use http::Method;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

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

/// What limits may be set for.
pub const LIMITED_METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "UPDATE", "REPLICATE"];
/// Devices told apart; more share nothing and are not limited.
const MAX_DEVICES: usize = 10_000;

/// When the next request of each device and method (`""`: any) is due, in microseconds.
#[derive(Clone)]
struct Limiter {
    limits: Arc<RwLock<RateLimits>>,
    due: Arc<Mutex<HashMap<(String, &'static str), f64>>>,
}

impl Limiter {
    fn new(limits: &RateLimits) -> Self {
        Self { limits: Arc::new(RwLock::new(limits.clone())), due: Arc::default() }
    }

    /// 529 when the device has had its share.
    fn check(&self, env: &Env, method: &Method, path: &str) -> Option<Resp> {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        if limits.all <= 0.0 && limits.by_method.is_empty() {
            return None;
        }
        let method = LIMITED_METHODS.iter().find(|m| **m == method.as_str())?;
        let mut segments = path.strip_prefix('/')?.splitn(3, '/');
        let (device, partition) = (segments.next()?, segments.next()?);
        partition.parse::<u64>().ok()?;
        let now = env.now().0 as f64;
        let rate = limits.by_method.iter().find(|(m, _)| m == method).map_or(0.0, |(_, r)| *r);
        let buffer = limits.buffer_secs.max(0.0) * 1e6;
        let ok = self.allowed(device, "", limits.all, buffer, now) && self.allowed(device, method, rate, buffer, now);
        (!ok).then(|| respond::error(529))
    }

    fn allowed(&self, device: &str, method: &'static str, rate: f64, buffer: f64, now: f64) -> bool {
        if rate <= 0.0 {
            return true;
        }
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= MAX_DEVICES {
            return true;
        }
        let at = due.entry((device.to_string(), method)).or_insert(now - buffer);
        if *at > now {
            return false;
        }
        *at = at.max(now - buffer) + 1e6 / rate;
        true
    }
}

/// Gives the limits in force; `None`: what was said before stays. It may read files.
type Load = dyn Fn() -> Option<RateLimits> + Send + Sync;

/// The layer.
#[derive(Clone)]
pub struct BackendRateLimit {
    next: Arc<dyn HttpService>,
    limiter: Limiter,
    env: Env,
    load: Arc<Load>,
    every: Duration,
    look_again: Arc<Mutex<Timestamp>>,
}

impl BackendRateLimit {
    /// `load` is asked now and every so often (zero: never again).
    pub fn new(
        next: Arc<dyn HttpService>,
        env: Env,
        every: Duration,
        load: impl Fn() -> Option<RateLimits> + Send + Sync + 'static,
    ) -> Self {
        let limiter = Limiter::new(&load().unwrap_or_default());
        let look_again = Arc::new(Mutex::new(env.now().plus(every)));
        Self { next, limiter, env, load: Arc::new(load), every, look_again }
    }

    /// Reads the limits again in the background when it is time to.
    fn refresh(&self) {
        let now = self.env.now();
        let mut due = self.look_again.lock().unwrap_or_else(PoisonError::into_inner);
        if self.every.is_zero() || now < *due {
            return;
        }
        *due = now.plus(self.every);
        let (limiter, load) = (self.limiter.clone(), self.load.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(limits) = load() {
                *limiter.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
            }
        });
    }
}

impl HttpService for BackendRateLimit {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        self.refresh();
        match self.limiter.check(&self.env, req.method(), req.uri().path()) {
            Some(refusal) => Box::pin(async move { refusal }),
            None => self.next.call(req),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::{ManualClock, SystemRng};

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

    struct Fine;
    impl HttpService for Fine {
        fn call(&self, _: Req) -> BoxFuture<'static, Resp> {
            Box::pin(async { respond::text(200, "fine") })
        }
    }

    #[tokio::test]
    async fn limits_are_read_again() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SystemRng) };
        let said = Arc::new(Mutex::new(RateLimits::default()));
        let source = said.clone();
        let load = move || Some(source.lock().unwrap().clone());
        let layer = BackendRateLimit::new(Arc::new(Fine), env, Duration::from_secs(60), load);
        let get = async || {
            let req = http::Request::get("/sda/1/a/c/o").body(caelum_rest::empty()).unwrap();
            layer.call(req).await.status().as_u16()
        };
        assert_eq!((get().await, get().await), (200, 200));
        *said.lock().unwrap() = RateLimits { all: 1.0, by_method: Vec::new(), buffer_secs: 0.0 };
        assert_eq!((get().await, get().await), (200, 200), "it is not yet time");
        clock.advance(Duration::from_secs(60));
        for _ in 0..1_000 {
            get().await;
            if layer.limiter.limits.read().unwrap().all > 0.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!((get().await, get().await), (200, 529));
    }
}
