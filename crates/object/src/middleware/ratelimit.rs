//! Limits on writes per second: to containers of an account, to objects of a container (the larger the container, the
//! fewer), listings of a container, and all writes to an account. Who is a little too fast waits; who
//! would wait too long is refused. The counters stand in the cache, so that all proxies share them.

use super::common::{facts, is_api_version};
use crate::env::{Environ, Req, Resp, SwiftPath};
use crate::http::error_html;
use crate::proxy::{Cache, InfoSource};
use bytes::Bytes;
use caelum_base::{Env, Error, Result};
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// What those on the black list wait before they are refused.
const BLACK_LIST_SLEEP: Duration = Duration::from_secs(1);
/// Counters that nobody touches for so long are forgotten.
const KEEP: Duration = Duration::from_secs(86_400);

/// Rates by container size. Between two sizes the rate changes evenly; below the first there is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(Vec<(u64, f64)>);

impl Rates {
    /// From options `<prefix><size> = <rate>`. Errors: `Invalid` naming the option.
    pub fn from_options<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>, prefix: &str) -> Result<Self> {
        let mut out: Vec<(u64, f64)> = Vec::new();
        for (name, value) in options {
            let Some(size) = name.strip_prefix(prefix) else { continue };
            let bad = || Error::invalid(format!("{name} = {value}: sizes and rates are numbers"));
            let rate: f64 = value.trim().parse().map_err(|_| bad())?;
            if !rate.is_finite() || rate < 0.0 {
                return Err(bad());
            }
            out.push((size.parse().map_err(|_| bad())?, rate));
        }
        out.sort_by_key(|(size, _)| *size);
        Ok(Self(out))
    }

    /// Requests per second for a container with so many objects; `None`: as many as they like.
    fn of(&self, size: u64) -> Option<f64> {
        if size == 0 {
            return None;
        }
        let at = self.0.iter().rposition(|(s, _)| size >= *s)?;
        let (from, rate) = self.0[at];
        let rate = match self.0.get(at + 1) {
            Some((to, next)) if *to > from => rate + (next - rate) * ((size - from) as f64) / ((to - from) as f64),
            _ => rate,
        };
        (rate > 0.0).then_some(rate)
    }
}

/// The layer's options, named as in `proxy-server.conf`.
#[derive(Clone, Debug)]
pub struct RateLimitOptions {
    /// Container PUTs and DELETEs per account and second; 0: no limit.
    pub account_ratelimit: f64,
    pub max_sleep_time_seconds: f64,
    /// Waits longer than this are logged; 0: none.
    pub log_sleep_time_seconds: f64,
    /// Counter steps per second.
    pub clock_accuracy: u32,
    /// How much of the unused rate may be used later, in seconds.
    pub rate_buffer_seconds: u32,
    pub account_whitelist: Vec<String>,
    pub account_blacklist: Vec<String>,
    pub container_ratelimits: Rates,
    pub container_listing_ratelimits: Rates,
}

impl Default for RateLimitOptions {
    fn default() -> Self {
        Self {
            account_ratelimit: 0.0,
            max_sleep_time_seconds: 60.0,
            log_sleep_time_seconds: 0.0,
            clock_accuracy: 1_000,
            rate_buffer_seconds: 5,
            account_whitelist: Vec::new(),
            account_blacklist: Vec::new(),
            container_ratelimits: Rates::default(),
            container_listing_ratelimits: Rates::default(),
        }
    }
}

impl RateLimitOptions {
    /// What `/info` tells under `ratelimit`.
    pub fn info(&self) -> serde_json::Value {
        serde_json::json!({
            "account_ratelimit": self.account_ratelimit,
            "max_sleep_time_seconds": self.max_sleep_time_seconds,
            "container_ratelimits": self.container_ratelimits.0,
            "container_listing_ratelimits": self.container_listing_ratelimits.0,
        })
    }
}

/// Request extension: the request has been counted.
#[derive(Clone, Copy, Debug)]
struct Counted;

/// The layer.
#[derive(Clone)]
pub struct RateLimit {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    cache: Arc<dyn Cache>,
    options: Arc<RateLimitOptions>,
    env: Env,
}

impl RateLimit {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, cache: Arc<dyn Cache>, options: RateLimitOptions, env: Env) -> Self {
        Self { next, info, cache, options: Arc::new(options), env }
    }

    async fn handle(self, mut req: Req) -> Resp {
        let path = SwiftPath::parse(req.uri().path()).filter(|p| is_api_version(&p.version));
        let Some(path) = path.filter(|_| req.extensions().get::<Counted>().is_none()) else { return self.next.call(req).await };
        req.extensions_mut().insert(Counted);
        let (environ, method) = (facts(&req).preauthorized("RL"), req.method().clone());
        match self.refusal(&environ, &method, &path).await {
            Some(refusal) => refusal,
            None => self.next.call(req).await,
        }
    }

    async fn refusal(&self, environ: &Environ, method: &Method, path: &SwiftPath) -> Option<Resp> {
        let account = self.info.account_info(environ, &path.account).await;
        let global = account.sysmeta("global-write-ratelimit");
        let listed = |list: &[String]| list.contains(&path.account);
        if listed(&self.options.account_whitelist) || global == Some("WHITELIST") {
            return None;
        }
        if listed(&self.options.account_blacklist) || global == Some("BLACKLIST") {
            tracing::error!(account = path.account, "497: the account is on the black list");
            tokio::time::sleep(BLACK_LIST_SLEEP).await;
            return Some(error_html(497, "Your account has been blacklisted"));
        }
        for (key, rate) in self.limits(environ, method, path, global).await {
            let Ok(wait) = self.wait(&key, rate).await else {
                tracing::error!(%method, account = path.account, container = path.container, "498: would have to wait too long");
                return Some(error_html(498, "Slow down"));
            };
            let log = self.options.log_sleep_time_seconds;
            if log > 0.0 && wait.as_secs_f64() > log {
                tracing::warn!(?wait, account = path.account, container = path.container, "a request waits for its rate");
            }
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        None
    }

    /// Counters that the request falls under, with their rates.
    async fn limits(&self, environ: &Environ, method: &Method, path: &SwiftPath, global: Option<&str>) -> Vec<(String, f64)> {
        let mut out = Vec::new();
        let account = &path.account;
        let written = matches!(method.as_str(), "PUT" | "DELETE" | "POST" | "COPY");
        if let Some(container) = &path.container {
            let object = path.object.is_some();
            let listed = !object && *method == Method::GET;
            if !object && self.options.account_ratelimit > 0.0 && matches!(*method, Method::PUT | Method::DELETE) {
                out.push((format!("ratelimit/{account}"), self.options.account_ratelimit));
            }
            let rates = if listed { &self.options.container_listing_ratelimits } else { &self.options.container_ratelimits };
            if (listed || object && written) && !rates.0.is_empty() {
                let size = self.info.container_info(environ, account, container).await.object_count;
                let key = if listed { "ratelimit_listing" } else { "ratelimit" };
                out.extend(rates.of(size).map(|r| (format!("{key}/{account}/{container}"), r)));
            }
        }
        let global = global.and_then(|g| g.trim().parse::<f64>().ok()).filter(|r| written && *r > 0.0 && r.is_finite());
        out.extend(global.map(|r| (format!("ratelimit/global-write/{account}"), r)));
        out
    }

    /// How long a request has to wait. Errors: longer than it may.
    async fn wait(&self, key: &str, rate: f64) -> std::result::Result<Duration, ()> {
        let o = &self.options;
        let accuracy = i64::from(o.clock_accuracy.max(1));
        let now = i64::try_from(i128::from(self.env.now().0) * i128::from(accuracy) / 1_000_000).unwrap_or(i64::MAX);
        // A number of steps, far below what an i64 holds.
        let step = (accuracy as f64 / rate).round() as i64;
        let Some(running) = self.cache.incr(key, step, KEEP).await else { return Ok(Duration::ZERO) };
        let running = i64::try_from(running).unwrap_or(i64::MAX);
        let mut need = 0;
        if now - running > i64::from(o.rate_buffer_seconds) * accuracy {
            self.cache.set(key, Bytes::from((now + step).to_string()), KEEP).await;
        } else {
            need = (running - now - step).max(0);
        }
        let most = o.max_sleep_time_seconds * accuracy as f64;
        if most - need as f64 <= accuracy as f64 * 0.01 {
            // It does not take place, so it does not count.
            self.cache.incr(key, -step, KEEP).await;
            return Err(());
        }
        Ok(Duration::from_secs_f64(need as f64 / accuracy as f64))
    }
}

impl HttpService for RateLimit {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{AccountInfo, ContainerInfo, FixedInfo, MemoryCache};
    use crate::testing::{FakeStore, send};
    use caelum_base::{ManualClock, SeededRng, Timestamp};

    fn pipeline(options: RateLimitOptions, sysmeta: &[(&str, &str)]) -> (Arc<ManualClock>, Arc<dyn HttpService>) {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        for c in ["c", "big"] {
            store.container("a", c);
        }
        let sysmeta = sysmeta.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        info.set_account("a", AccountInfo { status: 204, sysmeta, ..AccountInfo::default() });
        info.set_container("a", "big", ContainerInfo { status: 204, object_count: 150, ..ContainerInfo::default() });
        info.set_container("a", "c", ContainerInfo { status: 204, ..ContainerInfo::default() });
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(7)) };
        let cache = Arc::new(MemoryCache::new(env.clone()));
        (clock, Arc::new(RateLimit::new(store.service(), Arc::new(info), cache, options, env)))
    }

    #[test]
    fn rates_by_size() {
        let options =
            [("container_ratelimit_100", "100"), ("container_ratelimit_200", "50"), ("container_ratelimit_500", "20"), ("other", "x")];
        let rates = Rates::from_options(options, "container_ratelimit_").unwrap();
        for (size, rate) in [
            (0, None),
            (99, None),
            (100, Some(100.0)),
            (150, Some(75.0)),
            (200, Some(50.0)),
            (350, Some(35.0)),
            (500, Some(20.0)),
            (9_999, Some(20.0)),
        ] {
            assert_eq!(rates.of(size), rate, "{size}");
        }
        for bad in [
            ("container_ratelimit_x", "1"),
            ("container_ratelimit_1", "many"),
            ("container_ratelimit_1", "-1"),
            ("container_ratelimit_1", "nan"),
        ] {
            assert!(Rates::from_options([bad], "container_ratelimit_").is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn who_is_too_fast_is_refused() {
        let options = RateLimitOptions {
            container_ratelimits: Rates(vec![(100, 1.0)]),
            container_listing_ratelimits: Rates(vec![(100, 1.0)]),
            account_ratelimit: 1.0,
            // So that nobody sleeps in this test.
            max_sleep_time_seconds: 0.02,
            ..RateLimitOptions::default()
        };
        let (clock, app) = pipeline(options, &[]);
        for (method, target, first) in [("PUT", "/v1/a/big/o", 201), ("GET", "/v1/a/big", 200), ("DELETE", "/v1/a/none", 404)] {
            assert_eq!(send(&app, method, target, &[], "").await.0, first, "{method}");
            let (status, _, body) = send(&app, method, target, &[], "").await;
            assert_eq!((status, body.as_str()), (498, "Slow down"), "{method}");
            clock.advance(Duration::from_secs(1));
            assert_eq!(send(&app, method, target, &[], "").await.0, if method == "PUT" { 201 } else { first }, "{method}");
        }
        for _ in 0..5 {
            assert_eq!(send(&app, "PUT", "/v1/a/c/o", &[], "").await.0, 201, "small containers are not limited");
            assert_eq!(send(&app, "GET", "/v1/a/big/o", &[], "").await.0, 200, "reads are not limited");
        }
    }

    #[tokio::test]
    async fn who_is_a_little_too_fast_waits() {
        let options = RateLimitOptions { container_ratelimits: Rates(vec![(100, 20.0)]), ..RateLimitOptions::default() };
        let (_, app) = pipeline(options, &[]);
        let begin = tokio::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 201);
        }
        // The process's clock stands still: the second waits 50 ms, the third 100 ms.
        let spent = begin.elapsed();
        assert!(spent >= Duration::from_millis(140) && spent < Duration::from_secs(5), "{spent:?}");
    }

    #[tokio::test]
    async fn unused_rate_is_kept_for_a_while() {
        let options =
            RateLimitOptions { container_ratelimits: Rates(vec![(100, 1.0)]), max_sleep_time_seconds: 0.02, ..RateLimitOptions::default() };
        let (clock, app) = pipeline(options, &[]);
        assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 201);
        clock.advance(Duration::from_secs(4));
        let mut done = 0;
        while send(&app, "PUT", "/v1/a/big/o", &[], "").await.0 == 201 {
            done += 1;
        }
        assert_eq!(done, 4);
        clock.advance(Duration::from_secs(60));
        assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 201);
        assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 498, "beyond the buffer it is lost");
    }

    #[tokio::test]
    async fn lists_and_the_accounts_own_limit() {
        let tight = || RateLimitOptions {
            container_ratelimits: Rates(vec![(1, 0.1)]),
            max_sleep_time_seconds: 0.02,
            ..RateLimitOptions::default()
        };
        let (_, app) = pipeline(tight(), &[("global-write-ratelimit", "WHITELIST")]);
        for _ in 0..3 {
            assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 201);
        }
        let (_, app) = pipeline(tight(), &[("global-write-ratelimit", "BLACKLIST")]);
        let (status, _, body) = send(&app, "GET", "/v1/a/c", &[], "").await;
        assert_eq!((status, body.as_str()), (497, "Your account has been blacklisted"));
        let (_, app) =
            pipeline(RateLimitOptions { max_sleep_time_seconds: 0.02, ..RateLimitOptions::default() }, &[("global-write-ratelimit", "1")]);
        assert_eq!(send(&app, "PUT", "/v1/a/c/o", &[], "").await.0, 201);
        assert_eq!(send(&app, "POST", "/v1/a", &[], "").await.0, 498);
        assert_eq!(send(&app, "GET", "/v1/a/c/o", &[], "").await.0, 200);
        let named = RateLimitOptions { account_whitelist: vec!["a".into()], ..tight() };
        let (_, app) = pipeline(named, &[("global-write-ratelimit", "BLACKLIST")]);
        assert_eq!(send(&app, "PUT", "/v1/a/big/o", &[], "").await.0, 201);
    }
}
