//! `/recon/…`: what operators' tools (`swift-recon`) ask of a node.

use super::{Req, Resp, respond};
use caelum_base::Env;
use caelum_rest::HttpService;
use caelum_swiftkit::{Policies, Timestamp, md5_hex};
use futures_util::future::BoxFuture;
use http::Method;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a kernel page on the machines we build for.
const PAGE: u64 = 4_096;
/// Version told to operators' tools.
const VERSION: &str = concat!("caelum-", env!("CARGO_PKG_VERSION"));

/// Where a node has what is asked for.
#[derive(Clone)]
pub struct ReconConfig {
    /// The directory with one directory (or mount) for each device.
    pub devices: PathBuf,
    /// Directory of the ring files and `swift.conf`.
    pub swift_dir: PathBuf,
    /// Where daemons leave their figures.
    pub cache: PathBuf,
    pub policies: Policies,
    pub env: Env,
}

/// The layer.
pub struct Recon {
    next: Arc<dyn HttpService>,
    config: Arc<ReconConfig>,
}

impl Recon {
    pub fn new(next: Arc<dyn HttpService>, config: ReconConfig) -> Self {
        Self { next, config: Arc::new(config) }
    }
}

impl HttpService for Recon {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        if !req.uri().path().starts_with("/recon/") {
            return self.next.call(req);
        }
        let (config, path, head) = (self.config.clone(), req.uri().path().to_string(), *req.method() == Method::HEAD);
        Box::pin(async move {
            let resp = answer(config, path).await;
            if head { resp.map(|_| caelum_rest::empty()) } else { resp }
        })
    }
}

async fn answer(config: Arc<ReconConfig>, path: String) -> Resp {
    let job = tokio::task::spawn_blocking(move || {
        let rest = path.strip_prefix("/recon/").unwrap_or_default().trim_end_matches('/');
        let (check, kind) = rest.split_once('/').map_or((rest, None), |(c, k)| (c, Some(k)));
        match content(&config, check, kind) {
            Some(Ok(v)) => respond::json(&v),
            Some(Err(e)) => {
                tracing::warn!(error = %e, check, "recon");
                respond::text(500, "Internal server error.")
            }
            None => respond::text(404, &format!("Invalid path: {path}")),
        }
    });
    job.await.unwrap_or_else(|_| respond::error(500))
}

type Content = std::io::Result<Value>;

fn content(config: &ReconConfig, check: &str, kind: Option<&str>) -> Option<Content> {
    let object = |keys: &[&str]| Some(Ok(cached(config, "object", keys)));
    Some(match (check, kind) {
        ("version", _) => Ok(json!({ "version": VERSION })),
        ("time", _) => Ok(json!(Timestamp::at(config.env.now()).as_f64())),
        ("mem", _) => mem(),
        ("load", _) => load(),
        ("mounted", _) => mounted(),
        ("sockstat", _) => sockstat(),
        ("devices", _) => devices(config),
        ("unmounted", _) => unmounted(config),
        ("diskusage", _) => diskusage(config),
        ("quarantined", _) => quarantined(config),
        ("ringmd5", _) => ring_md5(config),
        ("swiftconfmd5", _) => Ok(conf_md5(config)),
        ("driveaudit", _) => Ok(cached(config, "drive", &["drive_audit_errors"])),
        ("relinker", _) => Ok(cached(config, "relinker", &["devices", "workers"])),
        ("sharding", _) => Ok(cached(config, "container", &["sharding_stats", "sharding_time", "sharding_last"])),
        ("async", _) => return object(&["async_pending", "async_pending_last"]),
        ("replication", None | Some("object")) => {
            let keys = ["replication_time", "replication_stats", "replication_last", "object_replication_time", "object_replication_last"];
            return object(&keys);
        }
        ("replication", Some(k @ ("account" | "container"))) => {
            Ok(cached(config, k, &["replication_time", "replication_stats", "replication_last"]))
        }
        ("updater", Some("object")) => return object(&["object_updater_sweep", "object_updater_stats", "object_updater_last"]),
        ("updater", Some("container")) => Ok(cached(config, "container", &["container_updater_sweep"])),
        ("auditor", Some("object")) => return object(&["object_auditor_stats_ALL", "object_auditor_stats_ZBF"]),
        ("auditor", Some(k @ ("account" | "container"))) => {
            let keys = ["audits_passed", "auditor_pass_completed", "audits_since", "audits_failed"].map(|s| format!("{k}_{s}"));
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            Ok(cached(config, k, &keys))
        }
        ("expirer", Some("object")) => return object(&["object_expiration_pass", "expired_last_pass"]),
        ("reconstruction", Some("object")) => return object(&["object_reconstruction_last", "object_reconstruction_time"]),
        _ => return None,
    })
}

/// What daemons have left in their file; `null` where there is nothing.
fn cached(config: &ReconConfig, kind: &str, keys: &[&str]) -> Value {
    let raw = std::fs::read(config.cache.join(format!("{kind}.recon"))).unwrap_or_default();
    let data: Value = serde_json::from_slice(&raw).unwrap_or(Value::Null);
    Value::Object(keys.iter().map(|k| ((*k).to_string(), data.get(*k).cloned().unwrap_or(Value::Null))).collect())
}

fn mem() -> Content {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let items = text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_string(), json!(v.trim())));
    Ok(Value::Object(items.collect()))
}

fn load() -> Content {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |i: usize| words.get(i).and_then(|w| w.parse::<f64>().ok());
    let processes = words.get(4).and_then(|w| w.parse::<i64>().ok());
    Ok(json!({ "1m": number(0), "5m": number(1), "15m": number(2), "tasks": words.get(3), "processes": processes }))
}

fn mounted() -> Content {
    let text = std::fs::read_to_string("/proc/mounts")?;
    let item = |l: &str| {
        let mut w = l.split(' ');
        Some(json!({ "device": w.next()?, "path": w.next()? }))
    };
    Ok(Value::Array(text.lines().filter_map(item).collect()))
}

fn sockstat() -> Content {
    let mut out = Map::new();
    let number = |w: &[&str], i: usize| w.get(i).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    for line in std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default().lines() {
        let w: Vec<&str> = line.split_whitespace().collect();
        if w.starts_with(&["TCP:", "inuse"]) {
            out.insert("tcp_in_use".into(), json!(number(&w, 2)));
            out.insert("orphan".into(), json!(number(&w, 4)));
            out.insert("time_wait".into(), json!(number(&w, 6)));
            out.insert("tcp_mem_allocated_bytes".into(), json!(number(&w, 10) * PAGE));
        }
    }
    for line in std::fs::read_to_string("/proc/net/sockstat6").unwrap_or_default().lines() {
        let w: Vec<&str> = line.split_whitespace().collect();
        if w.starts_with(&["TCP6:", "inuse"]) {
            out.insert("tcp6_in_use".into(), json!(number(&w, 2)));
        }
    }
    Ok(Value::Object(out))
}

fn root(config: &ReconConfig) -> &Path {
    &config.devices
}

fn devices(config: &ReconConfig) -> Content {
    Ok(json!({ root(config).to_string_lossy(): device_names(config) }))
}

/// Names of the devices' directories.
fn device_names(config: &ReconConfig) -> Vec<String> {
    let entries = std::fs::read_dir(root(config)).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn is_mounted(config: &ReconConfig, device: &str) -> bool {
    caelum_diskfile::is_mount(&root(config).join(device))
}

fn unmounted(config: &ReconConfig) -> Content {
    let names = device_names(config);
    Ok(names.iter().filter(|d| !is_mounted(config, d)).map(|d| json!({ "device": d, "mounted": false })).collect())
}

fn diskusage(config: &ReconConfig) -> Content {
    let item = |d: &String| match caelum_diskfile::usage(&root(config).join(d)).ok().filter(|_| is_mounted(config, d)) {
        Some((size, used, avail)) => json!({ "device": d, "mounted": true, "size": size, "used": used, "avail": avail }),
        None => json!({ "device": d, "mounted": false, "size": "", "used": "", "avail": "" }),
    };
    Ok(device_names(config).iter().map(item).collect())
}

fn quarantined(config: &ReconConfig) -> Content {
    let mut counts = [("objects", 0_u64), ("containers", 0), ("accounts", 0)];
    let mut policies: Map<String, Value> = Map::new();
    for device in device_names(config) {
        let Ok(kinds) = std::fs::read_dir(root(config).join(device).join("quarantined")) else { continue };
        for kind in kinds.flatten() {
            let n = std::fs::read_dir(kind.path()).map_or(0, |d| d.flatten().filter(|e| e.path().is_dir()).count() as u64);
            let name = kind.file_name().to_string_lossy().into_owned();
            if n == 0 {
                continue;
            }
            let base = name.split('-').next().unwrap_or_default();
            if let Some((_, c)) = counts.iter_mut().find(|(k, _)| *k == base) {
                *c += n;
            }
            if base == "objects" {
                let policy = name.split_once('-').map_or("0", |(_, p)| p);
                let before = policies.get(policy).and_then(|p| p.get("objects")).and_then(Value::as_u64).unwrap_or(0);
                policies.insert(policy.to_string(), json!({ "objects": before + n }));
            }
        }
    }
    let [(_, objects), (_, containers), (_, accounts)] = counts;
    Ok(json!({ "objects": objects, "containers": containers, "accounts": accounts, "policies": policies }))
}

fn ring_md5(config: &ReconConfig) -> Content {
    let mut names = vec!["account".to_string(), "container".to_string()];
    names.extend(config.policies.iter().map(|p| p.dir("object")));
    let mut out = Map::new();
    for name in names {
        let path = config.swift_dir.join(format!("{name}.ring.gz"));
        if let Ok(raw) = std::fs::read(&path) {
            out.insert(path.to_string_lossy().into_owned(), json!(md5_hex(&raw)));
        }
    }
    Ok(Value::Object(out))
}

fn conf_md5(config: &ReconConfig) -> Value {
    let path = config.swift_dir.join("swift.conf");
    let sum = std::fs::read(&path).ok().map(|raw| md5_hex(&raw));
    json!({ path.to_string_lossy(): sum })
}
