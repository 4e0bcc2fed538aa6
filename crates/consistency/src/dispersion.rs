//! Whether everything is where the rings say: containers and objects made for the purpose, one for each partition of a
//! sample, are asked for on each of their devices. Names and figures are upstream's, so either program reports on what
//! the other has made.

use crate::container::{InternalClient, quote};
use caelum_rest::{Body, empty, full, read_limited};
use caelum_ring::{Device, Ring};
use caelum_swiftkit::{HashPath, Nodes};
use futures_util::StreamExt;
use http::Request;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Largest page of a listing in bytes.
const MAX_PAGE: usize = 64 << 20;
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What both steps work with.
#[derive(Clone)]
pub struct Dispersion {
    pub client: InternalClient,
    pub nodes: Nodes,
    pub containers: Arc<Ring>,
    pub objects: Arc<Ring>,
    pub hash: HashPath,
    /// Where the sample is.
    pub account: String,
    /// Index and name of the policy whose ring is looked at.
    pub policy: (u32, String),
    /// Share of the partitions in the sample, in percent.
    pub coverage: f64,
    /// Requests at once.
    pub concurrency: usize,
    /// Attempts after the first.
    pub retries: u32,
    pub node_timeout: Duration,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Containers,
    Objects,
}

impl Kind {
    fn one(self) -> &'static str {
        match self {
            Self::Containers => "container",
            Self::Objects => "object",
        }
    }
}

/// What a report found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub kind: Kind,
    /// Things of the sample in the listing.
    pub listed: usize,
    /// Partitions that they are in.
    pub partitions: usize,
    /// All partitions of the ring.
    pub partition_count: usize,
    pub replicas: usize,
    pub expected: usize,
    pub found: usize,
    /// Partitions by the number of copies they lack.
    pub missing: BTreeMap<usize, usize>,
    pub retries: u64,
    pub seconds: u64,
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let one = self.kind.one();
        writeln!(f, "Queried {} {one}s for dispersion reporting, {}s, {} retries", self.listed, self.seconds, self.retries)?;
        if self.listed > self.partitions {
            writeln!(f, "There were {} overlapping partitions", self.listed - self.partitions)?;
        }
        for (missing, partitions) in self.missing.iter().filter(|(m, _)| **m > 0) {
            let mark = match self.replicas.saturating_sub(*missing) {
                0 => "!!! ",
                1 => "! ",
                _ => "",
            };
            let count = if *missing == self.replicas { "all".to_string() } else { missing.to_string() };
            let (verb, noun) = if *partitions == 1 { ("was", "partition") } else { ("were", "partitions") };
            let copies = if *missing == 1 { "copy" } else { "copies" };
            writeln!(f, "{mark}There {verb} {partitions} {noun} missing {count} {copies}.")?;
        }
        writeln!(f, "{:.2}% of {one} copies found ({} of {})", percent(self.found, self.expected), self.found, self.expected)?;
        write!(f, "Sample represents {:.2}% of the {one} partition space", percent(self.partitions, self.partition_count))
    }
}

impl Dispersion {
    fn ring(&self, kind: Kind) -> &Ring {
        match kind {
            Kind::Containers => &self.containers,
            Kind::Objects => &self.objects,
        }
    }

    /// The container that holds the sample's objects.
    fn holder(&self) -> String {
        format!("dispersion_objects_{}", self.policy.0)
    }

    fn prefix(&self, kind: Kind) -> String {
        match kind {
            Kind::Containers => format!("dispersion_{}_", self.policy.0),
            Kind::Objects => "dispersion_".into(),
        }
    }

    fn partition(&self, kind: Kind, name: &str) -> u32 {
        match kind {
            Kind::Containers => self.containers.partition(&self.hash.container(&self.account, name)),
            Kind::Objects => self.objects.partition(&self.hash.object(&self.account, &self.holder(), name)),
        }
    }

    fn path(&self, kind: Kind, name: &str) -> String {
        match kind {
            Kind::Containers => format!("/{}/{}", quote(&self.account), quote(name)),
            Kind::Objects => format!("/{}/{}/{}", quote(&self.account), self.holder(), quote(name)),
        }
    }

    /// Names in so many different partitions as the coverage asks for.
    fn sample(&self, kind: Kind) -> Vec<String> {
        let count = self.ring(kind).partition_count();
        let wanted = (self.coverage / 100.0 * f64::from(count)).clamp(0.0, f64::from(count)) as usize;
        let prefix = self.prefix(kind);
        let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
        for suffix in 0_u64.. {
            if out.len() >= wanted {
                break;
            }
            let name = format!("{prefix}{suffix}");
            if seen.insert(self.partition(kind, &name)) {
                out.push(name);
            }
        }
        out
    }

    async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Result<(u16, Body), String> {
        let mut req = Request::builder().method(method).uri(path);
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let answer = self.client.call(req.body(body).map_err(|e| e.to_string())?).await;
        Ok((answer.status().as_u16(), answer.into_body()))
    }

    /// Errors: the last attempt's answer.
    async fn put(&self, kind: Kind, name: &str) -> Result<(), String> {
        let path = format!("/v1{}", self.path(kind, name));
        let mut last = String::new();
        for attempt in 0..=self.retries {
            if attempt > 0 {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            let length = name.len().to_string();
            let answer = match kind {
                Kind::Containers => {
                    self.request("PUT", &path, &[("X-Storage-Policy", &self.policy.1), ("Content-Length", "0")], empty()).await
                }
                Kind::Objects => {
                    let headers = [("X-Object-Meta-Dispersion", name), ("Content-Length", &length)];
                    self.request("PUT", &path, &headers, full(name.to_string())).await
                }
            };
            match answer {
                Ok((200..=299, _)) => return Ok(()),
                Ok((code, _)) => last = format!("PUT {path}: {code}"),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Makes the sample; the number of things made. Errors: one could not be made.
    pub async fn populate(&self, kind: Kind) -> Result<usize, String> {
        if kind == Kind::Objects {
            self.put(Kind::Containers, &self.holder()).await?;
        }
        let names = self.sample(kind);
        let total = names.len();
        let mut puts = futures_util::stream::iter(names)
            .map(|name| async move { self.put(kind, &name).await })
            .buffer_unordered(self.concurrency.max(1));
        while let Some(one) = puts.next().await {
            one?;
        }
        Ok(total)
    }

    /// The sample's names. Errors: the listing cannot be read.
    async fn listed(&self, kind: Kind) -> Result<Vec<String>, String> {
        let base = match kind {
            Kind::Containers => format!("/v1/{}", quote(&self.account)),
            Kind::Objects => format!("/v1/{}/{}", quote(&self.account), self.holder()),
        };
        let (prefix, mut marker, mut out) = (self.prefix(kind), String::new(), Vec::new());
        loop {
            let uri = format!("{base}?format=json&prefix={prefix}&marker={}", quote(&marker));
            let (code, body) = self.request("GET", &uri, &[], empty()).await?;
            match code {
                404 => return Ok(out),
                200..=299 => {}
                _ => return Err(format!("GET {base}: {code}")),
            }
            let raw = read_limited(body, MAX_PAGE).await.map_err(|e| e.message)?;
            let page: Vec<Value> = serde_json::from_slice(&raw).unwrap_or_default();
            let names: Vec<String> = page.iter().filter_map(|e| Some(e.get("name")?.as_str()?.to_string())).collect();
            let Some(last) = names.last() else { return Ok(out) };
            marker.clone_from(last);
            out.extend(names);
        }
    }

    /// Whether a device has a thing; asked again while it gives no clear answer.
    async fn has(&self, kind: Kind, name: &str, part: u32, device: &Device, retries: &AtomicU64) -> bool {
        let path = format!("/{}/{part}{}", device.device, self.path(kind, name));
        let policy = self.policy.0.to_string();
        for attempt in 0..=self.retries {
            if attempt > 0 {
                retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            let mut req = Request::builder().method("HEAD").uri(&path);
            if kind == Kind::Objects {
                req = req.header("X-Backend-Storage-Policy-Index", &policy);
            }
            let Ok(req) = req.body(empty()) else { return false };
            match self.nodes.send(&device.ip, device.port, req, self.node_timeout).await.map(|r| r.status().as_u16()) {
                Ok(200..=299) => return true,
                Ok(404) => return false,
                Ok(507) => {
                    tracing::error!(ip = device.ip, port = device.port, device = device.device, "this device is not mounted");
                    return false;
                }
                Ok(status) => tracing::error!(ip = device.ip, port = device.port, device = device.device, status, "HEAD {path}"),
                Err(e) => tracing::error!(error = %e, "HEAD {path}"),
            }
        }
        false
    }

    /// Looks for the sample's copies. `None`: there is no sample. Errors: it cannot be listed.
    pub async fn report(&self, kind: Kind) -> Result<Option<Report>, String> {
        let names = self.listed(kind).await?;
        if names.is_empty() {
            return Ok(None);
        }
        let (ring, begun, retries) = (self.ring(kind), tokio::time::Instant::now(), AtomicU64::new(0));
        let mut by_partition: BTreeMap<u32, &String> = BTreeMap::new();
        for name in &names {
            by_partition.entry(self.partition(kind, name)).or_insert(name);
        }
        let counter = &retries;
        let mut counts = futures_util::stream::iter(by_partition.iter())
            .map(|(part, name)| async move {
                let (mut found, primaries) = (0, ring.primaries(*part));
                for device in &primaries {
                    found += usize::from(self.has(kind, name, *part, device, counter).await);
                }
                (found, primaries.len())
            })
            .buffer_unordered(self.concurrency.max(1));
        let (mut found, mut expected, mut missing) = (0, 0, BTreeMap::new());
        while let Some((n, of)) = counts.next().await {
            found += n;
            expected += of;
            *missing.entry(of - n).or_insert(0) += 1;
        }
        drop(counts);
        missing.remove(&0);
        Ok(Some(Report {
            kind,
            listed: names.len(),
            partitions: by_partition.len(),
            partition_count: ring.partition_count() as usize,
            replicas: ring.replica_count(),
            expected,
            found,
            missing,
            retries: retries.into_inner(),
            seconds: begun.elapsed().as_secs(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_rest::HttpService;
    use http::Response;
    use std::sync::Mutex;

    /// Front and storage in one: what was put can be listed, and each device has it unless told otherwise.
    #[derive(Default)]
    struct Store {
        put: Mutex<BTreeSet<String>>,
        lost: Mutex<BTreeSet<String>>,
    }

    impl Store {
        fn answer(&self, req: &Request<Body>) -> Response<Body> {
            let path = req.uri().path().to_string();
            let query = req.uri().query().unwrap_or("").to_string();
            let status = |code: u16| Response::builder().status(code).body(empty()).unwrap();
            match req.method().as_str() {
                "PUT" => {
                    self.put.lock().unwrap().insert(path.trim_start_matches("/v1").into());
                    status(201)
                }
                "GET" => {
                    let base = format!("{}/", path.trim_start_matches("/v1"));
                    let get = |k: &str| query.split('&').find_map(|p| p.strip_prefix(k)).unwrap_or("").to_string();
                    let (prefix, marker) = (get("prefix="), get("marker="));
                    let put = self.put.lock().unwrap();
                    let names = put.iter().filter_map(|p| p.strip_prefix(&base)).filter(|n| !n.contains('/'));
                    let page: Vec<Value> = names
                        .filter(|n| n.starts_with(&prefix) && **n > *marker)
                        .take(10)
                        .map(|n| serde_json::json!({ "name": n }))
                        .collect();
                    Response::new(full(serde_json::to_vec(&page).unwrap()))
                }
                _ => {
                    let entity = path.splitn(4, '/').nth(3).map(|e| format!("/{e}")).unwrap_or_default();
                    let there = self.put.lock().unwrap().contains(&entity) && !self.lost.lock().unwrap().contains(&path);
                    status(if there { 204 } else { 404 })
                }
            }
        }
    }

    impl HttpService for Store {
        fn call(&self, req: Request<Body>) -> futures_util::future::BoxFuture<'static, Response<Body>> {
            Box::pin(std::future::ready(self.answer(&req)))
        }
    }

    fn dispersion(store: &Arc<Store>) -> Dispersion {
        let device = |id: u32| Device { id, ip: "127.0.0.1".into(), port: 6000, device: format!("d{id}"), ..Device::default() };
        let rows: Vec<Vec<u32>> = (0..3).map(|r| (0..16).map(|p| (p + r) % 4).collect()).collect();
        let ring = Arc::new(Ring::new((0..4).map(|id| Some(device(id))).collect(), rows, 4));
        let nodes = Nodes::default();
        nodes.set_local("127.0.0.1", 6000, store.clone());
        Dispersion {
            client: store.clone(),
            nodes,
            containers: ring.clone(),
            objects: ring,
            hash: HashPath { prefix: Vec::new(), suffix: b"x".to_vec() },
            account: "AUTH_a".into(),
            policy: (0, "gold".into()),
            coverage: 100.0,
            concurrency: 4,
            retries: 0,
            node_timeout: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn what_is_lost_is_told() {
        let store = Arc::new(Store::default());
        let d = dispersion(&store);
        for kind in [Kind::Containers, Kind::Objects] {
            assert_eq!(d.report(kind).await, Ok(None));
            assert_eq!(d.populate(kind).await, Ok(16));
            let r = d.report(kind).await.unwrap().unwrap();
            assert_eq!((r.listed, r.partitions, r.expected, r.found, r.missing.len()), (16, 16, 48, 48, 0));
        }
        let name = d.sample(Kind::Objects).remove(3);
        let part = d.partition(Kind::Objects, &name);
        for device in &d.objects.primaries(part)[..2] {
            store.lost.lock().unwrap().insert(format!("/{}/{part}{}", device.device, d.path(Kind::Objects, &name)));
        }
        let text = d.report(Kind::Objects).await.unwrap().unwrap().to_string();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "! There was 1 partition missing 2 copies.",
                "95.83% of object copies found (46 of 48)",
                "Sample represents 100.00% of the object partition space"
            ]
        );
    }
}
