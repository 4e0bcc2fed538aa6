use super::pipeline::{Entry, Pipeline};
use super::{Common, Conf, Section, devices};
use caelum_base::{Error, Result};
use caelum_diskfile::{Manager, Reserve};
use caelum_objserver::middleware::{BackendRateLimit, HealthCheck, LIMITED_METHODS, RateLimits, Recon, ReconConfig};
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer};
use caelum_rest::HttpService;
use std::sync::Arc;
use std::time::Duration;

/// `10737418240` or `1%`.
fn reserve(s: &Section) -> Result<Reserve> {
    let text = s.str("fallocate_reserve", "1%");
    Reserve::parse(&text).ok_or_else(|| Error::invalid(format!("fallocate_reserve = {text}: bytes, or a percentage")))
}

/// A storage server's pipeline, and its application's options. Daemons' files may have no pipeline.
fn application(c: &Common, kind: &str) -> Result<(Vec<Entry>, Section)> {
    if !c.conf.has("pipeline:main") {
        return Ok((Vec::new(), c.conf.paste(&format!("app:{kind}-server"))?));
    }
    let pipeline = Pipeline::read(&c.conf)?;
    if pipeline.app.factory != format!("egg:swift#{kind}") {
        return Err(pipeline.app.unknown());
    }
    Ok((pipeline.filters, pipeline.app.section))
}

/// Puts the filters before a server. Errors: `Invalid` naming file, section and filter for one that is not known here.
fn behind(c: &Common, filters: Vec<Entry>, server: Arc<dyn HttpService>) -> Result<Arc<dyn HttpService>> {
    let mut at = server;
    for entry in filters.into_iter().rev() {
        let s = &entry.section;
        let name = entry.factory.strip_prefix("egg:swift#").map(str::to_string);
        let module = |f: &str| f.strip_prefix("swift.common.middleware.")?.strip_suffix(":filter_factory").map(str::to_string);
        at = match name.or_else(|| module(&entry.factory)).as_deref() {
            Some("healthcheck") => Arc::new(HealthCheck::new(at, s.given("disable_path").map(Into::into))),
            Some("recon") => Arc::new(Recon::new(at, recon(c, s))),
            Some("backend_ratelimit") => backend_ratelimit(c, s, at)?,
            _ => return Err(entry.unknown()),
        };
    }
    Ok(at)
}

fn recon(c: &Common, s: &Section) -> ReconConfig {
    ReconConfig {
        devices: devices(s),
        swift_dir: c.swift_dir.clone(),
        cache: s.str("recon_cache_path", "/var/cache/swift").into(),
        policies: c.swift.policies.clone(),
        env: c.env.clone(),
    }
}

/// The limits in a filter's section. Errors: `Invalid` naming the option.
fn limits(s: &Section) -> Result<RateLimits> {
    let rate = |key: &str, default: f64| match s.number(key, default) {
        Ok(n) if n.is_finite() && n >= 0.0 => Ok(n),
        Ok(_) => Err(s.bad(key, "a number that is not negative")),
        Err(e) => Err(e),
    };
    let mut by_method = Vec::new();
    for method in LIMITED_METHODS {
        let per_second = rate(&format!("{}_requests_per_device_per_second", method.to_lowercase()), 0.0)?;
        if per_second > 0.0 {
            by_method.push((method.to_string(), per_second));
        }
    }
    Ok(RateLimits {
        all: rate("requests_per_device_per_second", 0.0)?,
        by_method,
        buffer_secs: rate("requests_per_device_rate_buffer", 1.0)?,
    })
}

fn backend_ratelimit(c: &Common, s: &Section, next: Arc<dyn HttpService>) -> Result<Arc<dyn HttpService>> {
    let own = limits(s)?;
    let named = s.given("backend_ratelimit_conf_path");
    let path = named.map_or_else(|| c.swift_dir.join("backend-ratelimit.conf"), Into::into);
    let (s, is_named) = (s.clone(), named.is_some());
    let every = s.seconds("config_reload_interval", Duration::from_secs(60))?;
    // The file's options win over the filter's; without the file the filter's stand.
    let load = move || {
        let over = match Conf::read(&path).and_then(|conf| conf.own("backend_ratelimit")) {
            Ok(over) => over,
            Err(e) => {
                if is_named || path.exists() {
                    tracing::warn!(error = e.message, "the limits stay as they are");
                }
                return Some(own.clone()).filter(|_| !path.exists());
            }
        };
        let mut both = s.clone();
        both.options.extend(over.options);
        limits(&both).inspect_err(|e| tracing::warn!(error = e.message, "the limits stay as they are")).ok()
    };
    Ok(Arc::new(BackendRateLimit::new(next, c.env.clone(), every, load)))
}

/// What account and container servers and their daemons have in common.
pub fn db_config(c: &Common, s: &Section) -> Result<AccountServerConfig> {
    let mut config = AccountServerConfig::new(devices(s), (*c.swift).clone(), c.nodes.clone(), c.env.clone());
    config.mount_check = s.yes("mount_check", true);
    config.reserve = reserve(s)?;
    config.node_timeout = s.seconds("node_timeout", config.node_timeout)?;
    if let Some(hosts) = s.list("allowed_sync_hosts") {
        config.allowed_sync_hosts = hosts;
    }
    // A cluster without realms has no such file.
    config.sync_realms = std::fs::read_to_string(c.swift_dir.join("container-sync-realms.conf")).unwrap_or_default();
    Ok(config)
}

pub fn account(c: &Common) -> Result<Arc<dyn HttpService>> {
    let (filters, app) = application(c, "account")?;
    behind(c, filters, AccountServer::new(db_config(c, &app)?).service())
}

pub fn container(c: &Common) -> Result<Arc<dyn HttpService>> {
    let (filters, app) = application(c, "container")?;
    behind(c, filters, ContainerServer::new(db_config(c, &app)?).service())
}

/// The object server and its devices.
pub fn object(c: &Common) -> Result<(Arc<dyn HttpService>, Arc<Manager>)> {
    let (filters, s) = application(c, "object")?;
    let mut config = ObjectServerConfig::new(devices(&s), c.swift.clone(), c.nodes.clone(), c.env.clone());
    config.disk.mount_check = s.yes("mount_check", true);
    config.disk.reserve = reserve(&s)?;
    config.disk.reclaim_age = s.seconds("reclaim_age", config.disk.reclaim_age)?;
    config.disk.commit_window = s.seconds("commit_window", config.disk.commit_window)?;
    config.disk.keep_cache_size = s.number("keep_cache_size", config.disk.keep_cache_size)?;
    config.disk.replication_concurrency_per_device =
        s.number("replication_concurrency_per_device", config.disk.replication_concurrency_per_device)?;
    config.node_timeout = s.seconds("node_timeout", config.node_timeout)?;
    config.client_timeout = s.seconds("client_timeout", config.client_timeout)?;
    config.container_update_timeout = s.seconds("container_update_timeout", config.container_update_timeout)?;
    config.max_upload_time = s.seconds("max_upload_time", config.max_upload_time)?;
    config.replication_concurrency = s.number("replication_concurrency", config.replication_concurrency)?;
    if let Some(names) = s.list("allowed_headers") {
        config.allowed_headers = names.iter().map(|n| n.to_lowercase()).collect();
    }
    let server = ObjectServer::new(config);
    let disks = server.disks();
    Ok((behind(c, filters, server)?, disks))
}
