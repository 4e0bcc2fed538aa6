use super::pipeline::Pipeline;
use super::{Common, Section, devices};
use caelum_base::{Error, Result};
use caelum_diskfile::{Manager, Reserve};
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer};
use caelum_rest::HttpService;
use std::path::PathBuf;
use std::sync::Arc;

/// `10737418240` or `1%`.
fn reserve(s: &Section) -> Result<Reserve> {
    let text = s.str("fallocate_reserve", "1%");
    let bad = || Error::invalid(format!("fallocate_reserve = {text}: bytes, or a percentage"));
    match text.strip_suffix('%') {
        Some(p) => p.trim().parse().ok().filter(|p| (0.0..100.0).contains(p)).map(Reserve::Percent).ok_or_else(bad),
        None => text.parse().map(Reserve::Bytes).map_err(|_| bad()),
    }
}

/// What stands before a storage server's application.
struct Front {
    app: Section,
    /// The file whose existence takes the server out of service.
    disable_path: Option<PathBuf>,
}

/// A storage server's pipeline; daemons' files may have none. Errors: `Invalid` for a filter that is not known here.
fn front(c: &Common, kind: &str) -> Result<Front> {
    let section = format!("app:{kind}-server");
    if !c.conf.has("pipeline:main") {
        return Ok(Front { app: c.conf.paste(&section)?, disable_path: None });
    }
    let pipeline = Pipeline::read(&c.conf)?;
    let known = ["egg:swift#healthcheck", "egg:swift#recon"];
    if let Some(entry) = pipeline.filters.iter().find(|e| !known.contains(&e.factory.as_str())) {
        return Err(entry.unknown());
    }
    if pipeline.app.factory != format!("egg:swift#{kind}") {
        return Err(pipeline.app.unknown());
    }
    let disable_path = pipeline.find("egg:swift#healthcheck").and_then(|s| s.given("disable_path")).map(Into::into);
    Ok(Front { app: pipeline.app.section, disable_path })
}

/// What account and container servers and their daemons have in common.
pub fn db_config(c: &Common, s: &Section) -> Result<AccountServerConfig> {
    let mut config = AccountServerConfig::new(devices(s), (*c.swift).clone(), c.nodes.clone(), c.env.clone());
    config.mount_check = s.yes("mount_check", true);
    config.reserve = match reserve(s)? {
        Reserve::Bytes(n) => caelum_objserver::db::Reserve::Bytes(n),
        Reserve::Percent(p) => caelum_objserver::db::Reserve::Percent(p),
    };
    config.node_timeout = s.seconds("node_timeout", config.node_timeout)?;
    if let Some(hosts) = s.list("allowed_sync_hosts") {
        config.allowed_sync_hosts = hosts;
    }
    // A cluster without realms has no such file.
    config.sync_realms = std::fs::read_to_string(c.swift_dir.join("container-sync-realms.conf")).unwrap_or_default();
    Ok(config)
}

pub fn account(c: &Common) -> Result<Arc<dyn HttpService>> {
    let front = front(c, "account")?;
    let config = AccountServerConfig { disable_path: front.disable_path, ..db_config(c, &front.app)? };
    Ok(AccountServer::new(config).service())
}

pub fn container(c: &Common) -> Result<Arc<dyn HttpService>> {
    let front = front(c, "container")?;
    let config = AccountServerConfig { disable_path: front.disable_path, ..db_config(c, &front.app)? };
    Ok(ContainerServer::new(config).service())
}

/// The object server and its devices.
pub fn object(c: &Common) -> Result<(Arc<dyn HttpService>, Arc<Manager>)> {
    let front = front(c, "object")?;
    let s = front.app;
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
    config.swift_dir.clone_from(&c.swift_dir);
    config.recon_cache = s.str("recon_cache_path", "/var/cache/swift").into();
    config.disable_path = front.disable_path;
    let server = ObjectServer::new(config);
    let disks = server.disks();
    Ok((server, disks))
}
