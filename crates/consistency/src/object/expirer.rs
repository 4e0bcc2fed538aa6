//! Deletes objects whose time has come.
//!
//! When an object with `X-Delete-At` is written, an entry goes into a container of the account `.expiring_objects`: the
//! container is named by the time (in steps of a day, less an offset that spreads the load), the entry
//! `TIME-account/container/object`. This daemon deletes those objects through the proxy's pipeline, provided that they
//! still are to go at that time, and then removes the entries.

use super::node::quote;
use super::{Config, all, node};
use crate::recon::Times;
use caelum_rest::{Body, HttpService, empty, read_limited};
use caelum_swiftkit::{Timestamp, md5_hex};
use http::Request;
use serde_json::Value;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Account of the queue.
pub const QUEUE_ACCOUNT: &str = ".expiring_objects";
/// Entries that are not an expiry but a deletion that was accepted for later.
const ASYNC_DELETE: &str = "application/async-deleted";
const PAGE: usize = 10_000;
/// Largest page of a listing in bytes.
const MAX_PAGE: usize = 32 << 20;

/// Options of the expirer.
#[derive(Clone)]
pub struct ExpirerConfig {
    /// The proxy's pipeline for requests of the cluster itself: no authentication, all accounts.
    pub client: Arc<dyn HttpService>,
    /// How many expirers share the work, and which of them this is, from 0; 0: all alone.
    pub processes: u32,
    pub process: u32,
    /// Failed deletions are tried again this long.
    pub reclaim_age: Duration,
    /// Accounts or `account/container`s whose objects stay a while longer.
    pub delays: Vec<(String, Duration)>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub expired: u64,
    pub failures: u64,
    /// Entries or containers whose names mean nothing.
    pub unexpected: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, o: Self) {
        self.expired += o.expired;
        self.failures += o.failures;
        self.unexpected += o.unexpected;
    }
}

struct Task {
    container: String,
    entry: String,
    at: Timestamp,
    target: String,
    is_async: bool,
}

/// `TIME-account/container/object`.
fn parse_entry(name: &str) -> Option<(Timestamp, &str)> {
    let (time, path) = name.split_once('-')?;
    let mut parts = path.splitn(3, '/');
    let whole = (0..3).all(|_| parts.next().is_some_and(|p| !p.is_empty()));
    Some((Timestamp::parse(time)?, path)).filter(|_| whole)
}

async fn one_pass(config: &Config, expirer: &ExpirerConfig) -> Stats {
    let mut stats = Stats::default();
    let containers = match containers(config, expirer).await {
        Ok(list) => list,
        Err(e) => {
            tracing::warn!(error = e, "cannot list the queue of expiring objects");
            stats.failures += 1;
            return stats;
        }
    };
    for container in containers {
        if let Err(e) = expire_container(config, expirer, &container, &mut stats).await {
            tracing::warn!(container, error = e, "expiring objects");
            stats.failures += 1;
        }
    }
    stats
}

/// One pass over the queue.
pub async fn run_once(config: &Config, expirer: &ExpirerConfig) -> Stats {
    let figures = |s: &Stats, t: &Times| serde_json::json!({ "object_expiration_pass": t.elapsed, "expired_last_pass": s.expired });
    config.figures().noted(one_pass(config, expirer), figures).await
}

/// Passes until `stop`.
pub async fn run_forever(config: Config, expirer: ExpirerConfig, stop: watch::Receiver<bool>) {
    let report = |s: Stats| tracing::info!(?s, "object expiry pass");
    super::forever(config.interval, stop, || run_once(&config, &expirer), report).await;
}

fn now(config: &Config) -> Timestamp {
    Timestamp::at(config.env.now())
}

async fn request(expirer: &ExpirerConfig, method: &str, path: &str, headers: &[(&str, String)]) -> Result<http::Response<Body>, String> {
    let mut req = Request::builder().method(method).uri(path).header("User-Agent", "object-expirer");
    for (k, v) in headers {
        req = req.header(*k, v);
    }
    Ok(expirer.client.call(req.body(empty()).map_err(|e| e.to_string())?).await)
}

/// One page of names (and content types); empty at the end or when there is no such thing.
async fn page(expirer: &ExpirerConfig, path: &str, marker: &str) -> Result<Vec<(String, String)>, String> {
    let marker = quote(marker).replace('/', "%2F");
    let uri = format!("{path}?format=json&limit={PAGE}&marker={marker}");
    let answer = request(expirer, "GET", &uri, &[]).await?;
    match answer.status().as_u16() {
        404 | 204 => return Ok(Vec::new()),
        200..300 => {}
        code => return Err(format!("{code} for {path}")),
    }
    let body = read_limited(answer.into_body(), MAX_PAGE).await.map_err(|e| e.message)?;
    let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let text = |v: &Value, k: &str| v.get(k).and_then(Value::as_str).unwrap_or("").to_string();
    Ok(list.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|v| (text(v, "name"), text(v, "content_type"))).collect())
}

/// Containers of the queue whose time has come.
async fn containers(config: &Config, expirer: &ExpirerConfig) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut marker = String::new();
    loop {
        let names = page(expirer, &format!("/v1/{QUEUE_ACCOUNT}"), &marker).await?;
        let Some((last, _)) = names.last() else { return Ok(out) };
        marker.clone_from(last);
        for (name, _) in names {
            match Timestamp::parse(&name) {
                Some(t) if t > now(config) => return Ok(out),
                Some(_) => out.push(name),
                None => tracing::warn!(container = name, "unexpected container in the queue of expiring objects"),
            }
        }
    }
}

async fn expire_container(config: &Config, expirer: &ExpirerConfig, container: &str, stats: &mut Stats) -> Result<(), String> {
    let path = format!("/v1/{QUEUE_ACCOUNT}/{}", quote(container));
    let mut marker = String::new();
    loop {
        let names = page(expirer, &path, &marker).await?;
        let Some((last, _)) = names.last() else {
            if marker.is_empty() {
                // Nothing left in it: 409 when another node has just put something there.
                request(expirer, "DELETE", &path, &[]).await?;
            }
            return Ok(());
        };
        marker.clone_from(last);
        let (tasks, more) = tasks(config, expirer, container, names, stats);
        *stats += all(tasks, config.concurrency, |task| async move {
            match expire(config, expirer, &task).await {
                Ok(()) => Stats { expired: 1, ..Stats::default() },
                Err(e) => {
                    tracing::warn!(object = task.target, error = e, "not expired");
                    Stats { failures: 1, ..Stats::default() }
                }
            }
        })
        .await;
        if !more {
            return Ok(());
        }
    }
}

/// What is to be done of a page, and whether the next page may hold more that is due.
fn tasks(config: &Config, expirer: &ExpirerConfig, container: &str, names: Vec<(String, String)>, stats: &mut Stats) -> (Vec<Task>, bool) {
    let now = now(config);
    let mut out = Vec::new();
    for (entry, content_type) in names {
        let Some((at, target)) = parse_entry(&entry) else {
            stats.unexpected += 1;
            continue;
        };
        if at > now {
            return (out, false);
        }
        let is_async = content_type == ASYNC_DELETE;
        let target = target.to_string();
        let waits = !is_async && at.plus(expirer.delay(&target)) > now;
        if !waits && expirer.is_mine(container, &entry) {
            out.push(Task { container: container.to_string(), entry, at, target, is_async });
        }
    }
    (out, true)
}

/// The options `delay_reaping_ACCOUNT` and `delay_reaping_ACCOUNT/CONTAINER` (percent-encoded), in seconds. Errors:
/// `Invalid` for other forms.
pub fn delays<'a>(options: impl Iterator<Item = (&'a str, &'a str)>) -> caelum_base::Result<Vec<(String, Duration)>> {
    let mut out = Vec::new();
    for (key, value) in options {
        let Some(target) = key.strip_prefix("delay_reaping_") else { continue };
        let invalid = |why: &str| caelum_base::Error::invalid(format!("{key} {why}"));
        let target = percent_encoding::percent_decode_str(target).decode_utf8_lossy().into_owned();
        if target.split('/').count() > 2 || target.split('/').any(str::is_empty) {
            return Err(invalid("should be in the form delay_reaping_<account> or delay_reaping_<account>/<container>"));
        }
        let seconds = value.trim().parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        out.push((target, seconds.ok_or_else(|| invalid("must be a float greater than or equal to 0"))?));
    }
    Ok(out)
}

impl ExpirerConfig {
    fn delay(&self, target: &str) -> Duration {
        let mut parts = target.splitn(3, '/');
        let (account, container) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let of = |key: &str| self.delays.iter().find(|(k, _)| k == key).map(|(_, d)| *d);
        of(&format!("{account}/{container}")).or_else(|| of(account)).unwrap_or_default()
    }

    /// Each entry is one expirer's, by the MD5 of its name.
    fn is_mine(&self, container: &str, entry: &str) -> bool {
        if self.processes == 0 {
            return true;
        }
        let sum = u128::from_str_radix(&md5_hex(format!("{container}/{entry}").as_bytes()), 16).unwrap_or(0);
        sum % u128::from(self.processes) == u128::from(self.process)
    }
}

async fn expire(config: &Config, expirer: &ExpirerConfig, task: &Task) -> Result<(), String> {
    let mut headers = vec![("X-Timestamp", task.at.normal())];
    if !task.is_async {
        headers.push(("X-If-Delete-At", task.at.normal()));
        headers.push(("X-Backend-Clean-Expiring-Object-Queue", "no".into()));
    }
    let answer = request(expirer, "DELETE", &format!("/v1/{}", quote(&task.target)), &headers).await?;
    let code = answer.status().as_u16();
    // 409: a newer write has replaced it.
    let gone = (200..300).contains(&code) || code == 409 || task.is_async && code == 404;
    // It may be on nodes that do not answer now; after the reclaim age it would be back in any case.
    let given_up = matches!(code, 404 | 412) && task.at.plus(expirer.reclaim_age) <= now(config);
    if !gone && !given_up {
        return Err(format!("{code} to DELETE"));
    }
    pop(config, task).await
}

/// Removes an entry from the queue: on all replicas of its container, directly.
async fn pop(config: &Config, task: &Task) -> Result<(), String> {
    let ring = config.rings.container();
    let partition = ring.partition(&config.disks.config.swift.hash.container(QUEUE_ACCOUNT, &task.container));
    let headers = [("X-Timestamp".to_string(), now(config).internal())];
    let name = quote(&format!("/{QUEUE_ACCOUNT}/{}/{}", task.container, task.entry));
    let requests = ring.primaries(partition).into_iter().map(|d| {
        let path = format!("/{}/{partition}{name}", d.device);
        let headers = &headers;
        async move { node::status(config, d, "DELETE", &path, headers).await }
    });
    let mut last = Err("no node for the queue".to_string());
    for answer in futures_util::future::join_all(requests).await {
        match answer {
            // One is enough: the others learn it by replication.
            Ok(r) if r.status().is_success() || r.status() == 404 => return Ok(()),
            Ok(r) => last = Err(format!("{} from the queue's container", r.status())),
            Err(e) => last = Err(e),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delayed_accounts() {
        let read = |k, v| delays([("interval", "5"), (k, v)].into_iter());
        assert_eq!(read("delay_reaping_a%20b/c", "1.5").unwrap(), [("a b/c".to_string(), Duration::from_millis(1_500))]);
        assert_eq!(read("delay_reaping_a", "0").unwrap(), [("a".to_string(), Duration::ZERO)]);
        for (k, v) in [("delay_reaping_", "1"), ("delay_reaping_a/", "1"), ("delay_reaping_a/b/c", "1"), ("delay_reaping_a", "-1")] {
            assert!(read(k, v).is_err(), "{k} = {v}");
        }
    }

    #[test]
    fn entries() {
        let (at, path) = parse_entry("0000001234-a/c/o/with-more").unwrap();
        assert_eq!((at.seconds(), path), (1_234, "a/c/o/with-more"));
        for bad in ["", "x-a/c/o", "12-a/c", "12-a//o", "12"] {
            assert!(parse_entry(bad).is_none(), "{bad}");
        }
    }
}
