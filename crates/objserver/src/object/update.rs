//! Telling containers of changes: at once if they answer in time, else by the device's queue.

use super::target::Target;
use super::{Shared, headers, respond};
use caelum_diskfile::{Metadata, PendingUpdate};
use caelum_rest::empty;
use caelum_swiftkit::Timestamp;
use http::request::Parts;
use http::{HeaderName, Method, Request};
use std::sync::Arc;

/// Account of the queue of expiring objects.
const EXPIRER_ACCOUNT: &str = ".expiring_objects";
/// Its containers cover a day each …
const DIVISOR: i64 = 86_400;
/// … spread over this many.
const CONTAINERS_PER_DAY: u128 = 100;
const DELETE_TYPE: &str = "text/plain";
const EMPTY_ETAG: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The request that causes updates.
#[derive(Clone)]
pub(super) struct Origin {
    pub server: Arc<Shared>,
    pub parts: Arc<Parts>,
    pub target: Target,
    pub at: Timestamp,
}

type Headers = Vec<(String, String)>;

/// One update on its way.
struct Delivery {
    host: String,
    device: String,
    partition: String,
    update: PendingUpdate,
}

fn set(headers: &mut Headers, key: &str, value: &str) {
    match headers.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(key)) {
        Some(e) => e.1 = value.to_string(),
        None => headers.push((key.to_string(), value.to_string())),
    }
}

/// `X-Object-Sysmeta-Container-Update-Override-*`, and the older `X-Backend-…` with less weight, replace what
/// the container is told; of each, footers win over headers.
pub(super) fn apply_overrides<'a>(
    update: &mut Headers,
    metadata: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    footers: &'a [(String, String)],
) {
    for prefix in ["x-backend-container-update-override-", "x-object-sysmeta-container-update-override-"] {
        for (k, v) in metadata.clone().chain(footers.iter().map(|(k, v)| (k.as_str(), v.as_str()))) {
            if let Some(rest) = k.to_ascii_lowercase().strip_prefix(prefix) {
                set(update, &headers::title(&format!("x-{rest}")), v);
            }
        }
    }
}

fn csv(text: &str) -> Vec<String> {
    text.split(',').map(|s| s.trim().to_string()).collect()
}

impl Origin {
    fn header(&self, name: &str) -> Option<String> {
        headers::text(&self.parts.headers, name).map(|v| v.into_owned())
    }

    fn common(&self, out: &mut Headers, policy: u32) {
        set(out, "X-Trans-Id", &self.header("x-trans-id").unwrap_or_else(|| "-".into()));
        let host = self.header("host").unwrap_or_else(|| "localhost".into());
        set(out, "Referer", &format!("{} http://{host}{}", self.parts.method, self.parts.uri.path()));
        set(out, "X-Backend-Storage-Policy-Index", &policy.to_string());
        set(out, "User-Agent", &format!("object-server {}", std::process::id()));
    }

    /// Where the update goes when not to the container itself: `account/container`.
    fn container_path(&self) -> Option<String> {
        let path = match self.header("x-backend-quoted-container-path") {
            Some(q) => percent_encoding::percent_decode_str(&q).decode_utf8().ok()?.into_owned(),
            None => {
                let v = self.parts.headers.get("x-backend-container-path")?;
                String::from_utf8(v.as_bytes().to_vec()).ok()?
            }
        };
        let ok = path.split('/').count() == 2 && path.split('/').all(|p| !p.is_empty());
        if !ok {
            tracing::error!(path, "invalid X-Backend-Container-Path, should be of the form account/container");
        }
        ok.then_some(path)
    }
}

/// Sends an update of the object's row to the containers that the request names and waits a moment.
pub(super) async fn container(origin: &Origin, op: &str, mut out: Headers) {
    let hosts = csv(&origin.header("x-container-host").unwrap_or_default());
    let devices = csv(&origin.header("x-container-device").unwrap_or_default());
    let partition = origin.header("x-container-partition").unwrap_or_default();
    if hosts.len() != devices.len() {
        tracing::error!(?hosts, ?devices, "container update failed: different numbers of hosts and devices in request");
        return;
    }
    if partition.is_empty() {
        return;
    }
    origin.common(&mut out, origin.target.policy);
    let t = &origin.target;
    let update = PendingUpdate {
        op: op.to_string(),
        account: t.account.clone(),
        container: t.container.clone(),
        object: t.object.clone(),
        headers: out,
        container_path: origin.container_path(),
        db_state: origin.header("x-container-root-db-state"),
        successes: Vec::new(),
    };
    let jobs: Vec<_> = hosts
        .into_iter()
        .zip(devices)
        .map(|(host, device)| {
            let d = Delivery { host, device, partition: partition.clone(), update: update.clone() };
            tokio::spawn(deliver(origin.clone(), d))
        })
        .collect();
    let all = futures_util::future::join_all(jobs);
    if tokio::time::timeout(origin.server.config.container_update_timeout, all).await.is_err() {
        tracing::debug!(object = %t.object, "container updates go on without the client");
    }
}

async fn deliver(origin: Origin, mut d: Delivery) {
    if !d.host.is_empty() && !d.device.is_empty() && !d.partition.is_empty() {
        match send(&origin, &d).await {
            Ok(None) => return,
            Ok(Some(redirect)) => d.update.container_path = Some(redirect),
            Err(reason) => {
                tracing::warn!(host = %d.host, device = %d.device, reason, "container update failed (saving for async update later)");
            }
        }
    }
    queue(&origin, d.update).await;
}

fn full_path(u: &PendingUpdate) -> String {
    match &u.container_path {
        Some(p) => format!("/{p}/{}", u.object),
        None => format!("/{}/{}/{}", u.account, u.container, u.object),
    }
}

const KEEP: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// `Some`: the container is sharded, the update belongs to this one.
async fn send(origin: &Origin, d: &Delivery) -> Result<Option<String>, String> {
    let (ip, port) = d.host.rsplit_once(':').ok_or("no port")?;
    let port: u16 = port.parse().map_err(|_| "no port")?;
    let path = format!("/{}/{}{}", d.device, d.partition, full_path(&d.update));
    let uri = percent_encoding::utf8_percent_encode(&path, KEEP).to_string();
    let method = Method::from_bytes(d.update.op.as_bytes()).map_err(|e| e.to_string())?;
    let mut req = Request::builder().method(method).uri(uri).body(empty()).map_err(|e| e.to_string())?;
    for (k, v) in &d.update.headers {
        if let (Ok(k), Some(v)) = (HeaderName::from_bytes(k.as_bytes()), respond::header_value(v)) {
            req.headers_mut().insert(k, v);
        }
    }
    req.headers_mut().insert(http::header::CONTENT_LENGTH, 0.into());
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    let resp = origin.server.config.nodes.send(ip, port, req, origin.server.config.node_timeout).await.map_err(|e| e.to_string())?;
    if resp.status().is_success() {
        return Ok(None);
    }
    if resp.status() == http::StatusCode::MOVED_PERMANENTLY
        && let Some(path) = redirect(&resp)
    {
        return Ok(Some(path));
    }
    Err(format!("{} response", resp.status().as_u16()))
}

fn redirect(resp: &super::Resp) -> Option<String> {
    let h = resp.headers();
    let location = headers::text(h, "location")?;
    Timestamp::parse(&headers::text(h, "x-backend-redirect-timestamp")?)?;
    let uri: http::Uri = location.parse().ok()?;
    let mut path = uri.path().to_string();
    if headers::is_true(h, "x-backend-location-is-quoted") {
        path = percent_encoding::percent_decode_str(&path).decode_utf8().ok()?.into_owned();
    }
    let mut segments = path.strip_prefix('/')?.splitn(3, '/');
    let (a, c) = (segments.next()?, segments.next()?);
    (!a.is_empty() && !c.is_empty()).then(|| format!("{a}/{c}"))
}

async fn queue(origin: &Origin, update: PendingUpdate) {
    let header = |k: &str| update.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(k)).and_then(|(_, v)| Timestamp::parse(v));
    let at = header("x-meta-timestamp").or_else(|| header("x-timestamp")).unwrap_or(origin.at);
    let (disks, t) = (origin.server.disks.clone(), origin.target.clone());
    let job = tokio::task::spawn_blocking(move || {
        let policy = disks.policy(t.policy)?;
        let names = (update.account.as_str(), update.container.as_str(), update.object.as_str());
        disks.queue_update(&t.device, policy, &update, at, names)
    });
    match job.await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::error!(error = %e, "an update could not be queued"),
        Err(e) => tracing::error!(error = %e, "an update could not be queued"),
    }
}

/// Container of the expiring objects' queue for this object and time.
fn expirer_container(origin: &Origin, at: i64) -> String {
    let t = &origin.target;
    let hash = origin.server.config.disk.swift.hash.object(&t.account, &t.container, &t.object);
    let shard = (u128::from_be_bytes(hash) % CONTAINERS_PER_DAY) as i64;
    headers::normal_delete_at(at.div_euclid(DIVISOR) * DIVISOR - shard)
}

/// Enters the object in the queue of expiring objects, or removes an entry that no longer holds.
pub(super) async fn delete_at_changed(origin: &Origin, metadata: &Metadata, old: Option<i64>, new: Option<i64>) {
    let (old, new) = (old.filter(|o| *o != 0), new.filter(|n| *n != 0));
    if headers::is_true(&origin.parts.headers, "x-backend-replication") {
        return;
    }
    if let Some(at) = new {
        let bytes: u64 = metadata.get("Content-Length").and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        let extra = vec![
            ("X-Content-Type".to_string(), format!("{DELETE_TYPE};swift_expirer_bytes={bytes}")),
            ("X-Content-Type-Timestamp".to_string(), metadata.get("X-Timestamp").unwrap_or_default().to_string()),
        ];
        expirer_put(origin, at, extra).await;
    }
    if let Some(at) = old.filter(|_| old != new) {
        let clean = origin.header("x-backend-clean-expiring-object-queue").is_none_or(|v| headers::truth(&v));
        if clean {
            let container = expirer_container(origin, at);
            queue(origin, expirer_update(origin, "DELETE", container, at, Vec::new())).await;
        }
    }
}

fn expirer_update(origin: &Origin, op: &str, container: String, at: i64, extra: Headers) -> PendingUpdate {
    let t = &origin.target;
    let mut out = vec![("X-Timestamp".to_string(), origin.at.internal())];
    origin.common(&mut out, 0);
    for (k, v) in extra {
        set(&mut out, &k, &v);
    }
    PendingUpdate {
        op: op.to_string(),
        account: EXPIRER_ACCOUNT.to_string(),
        container,
        object: format!("{}-{}/{}/{}", headers::normal_delete_at(at), t.account, t.container, t.object),
        headers: out,
        container_path: None,
        db_state: None,
        successes: Vec::new(),
    }
}

async fn expirer_put(origin: &Origin, at: i64, extra: Headers) {
    // Without it, enough other object servers have been told to.
    let Some(hosts) = origin.header("x-delete-at-host") else { return };
    let given = origin.header("x-delete-at-container").filter(|c| !c.is_empty());
    // What the proxy says fits the host it names.
    let container = match given.and_then(|c| c.trim().parse().ok()) {
        Some(c) => headers::normal_delete_at(c),
        None => expirer_container(origin, at),
    };
    let mut out = vec![
        ("X-Size".to_string(), "0".to_string()),
        ("X-Content-Type".to_string(), DELETE_TYPE.to_string()),
        ("X-Etag".to_string(), EMPTY_ETAG.to_string()),
    ];
    out.extend(extra);
    let update = expirer_update(origin, "PUT", container, at, out);
    let partition = origin.header("x-delete-at-partition").unwrap_or_default();
    let devices = csv(&origin.header("x-delete-at-device").unwrap_or_default());
    let mut targets: Vec<(String, String)> =
        csv(&hosts).into_iter().zip(devices).filter(|(h, d)| !h.is_empty() && !d.is_empty() && !partition.is_empty()).collect();
    if targets.is_empty() {
        targets.push((String::new(), String::new()));
    }
    let jobs = targets.into_iter().map(|(host, device)| {
        let d = Delivery { host, device, partition: partition.clone(), update: update.clone() };
        tokio::spawn(deliver(origin.clone(), d))
    });
    let all = futures_util::future::join_all(jobs);
    if tokio::time::timeout(origin.server.config.container_update_timeout, all).await.is_err() {
        tracing::debug!("updates of the expirer's queue go on without the client");
    }
}
