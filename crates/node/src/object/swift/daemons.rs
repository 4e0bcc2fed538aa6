use super::servers::{db_config, object};
use super::{Common, Section, own_addresses, proxy};
use caelum_base::{Error, Result};
use caelum_consistency::account::{ReaperConfig, reap_accounts};
use caelum_consistency::container::{
    ReconcilerConfig, SharderConfig, SyncConfig, UpdaterConfig, reconcile, shard_containers, sync_containers, update_accounts,
};
use caelum_consistency::db::{DbDaemonConfig, audit_accounts, audit_containers, replicate_accounts, replicate_containers, run_forever};
use caelum_consistency::object::expirer::{self, ExpirerConfig};
use caelum_consistency::object::{Config, auditor, reconstructor, relinker, replicator, updater};
use caelum_objserver::db::SyncRealms;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// One pass and the end, or passes until told to stop.
async fn passes<S: Debug, F: Future<Output = S>>(
    role: &str,
    s: &Section,
    every: u64,
    once: bool,
    stop: watch::Receiver<bool>,
    mut pass: impl FnMut() -> F,
) -> Result<()> {
    let report = |stats: S| tracing::info!(role, ?stats, "pass");
    if once {
        report(pass().await);
        return Ok(());
    }
    let interval = s.seconds("interval", Duration::from_secs(every))?;
    run_forever(interval, stop, pass, report).await;
    Ok(())
}

pub async fn run(c: &Common, role: &str, once: bool, stop: watch::Receiver<bool>) -> Result<()> {
    match role.split('-').next() {
        Some("object") => objects(c, role, once, stop).await,
        _ => databases(c, role, once, stop).await,
    }
}

async fn databases(c: &Common, role: &str, once: bool, stop: watch::Receiver<bool>) -> Result<()> {
    let s = c.conf.section(role);
    let server = db_config(c, &s)?;
    let port = if role.starts_with("account") { 6202 } else { 6201 };
    let mut d =
        DbDaemonConfig::new(&server.devices, (*c.swift).clone(), c.rings.clone(), c.nodes.clone(), c.env.clone(), server.pool.clone());
    d.mount_check = server.mount_check;
    d.local = own_addresses(&s, &c.rings, port)?;
    d.concurrency = s.number("concurrency", d.concurrency)?;
    d.node_timeout = s.seconds("node_timeout", d.node_timeout)?;
    d.per_diff = s.number("per_diff", d.per_diff)?;
    d.max_diffs = s.number("max_diffs", d.max_diffs)?;
    d.reclaim_age = s.seconds("reclaim_age", d.reclaim_age)?;
    d.rsync_module = s.get("rsync_module").filter(|m| !m.is_empty()).map(str::to_string);
    match role {
        "account-replicator" => passes(role, &s, 30, once, stop, || replicate_accounts(&d)).await,
        "container-replicator" => passes(role, &s, 30, once, stop, || replicate_containers(&d)).await,
        "account-auditor" => passes(role, &s, 1_800, once, stop, || audit_accounts(&d)).await,
        "container-auditor" => passes(role, &s, 1_800, once, stop, || audit_containers(&d)).await,
        "account-reaper" => {
            let r = ReaperConfig { delay_reaping: s.seconds("delay_reaping", Duration::ZERO)?, ..ReaperConfig::default() };
            passes(role, &s, 3_600, once, stop, || reap_accounts(&d, &r)).await
        }
        "container-updater" => {
            let u = UpdaterConfig { account_suppression: s.seconds("account_suppression_time", Duration::from_secs(60))? };
            passes(role, &s, 300, once, stop, || update_accounts(&d, &u)).await
        }
        "container-sharder" => {
            let sharder = sharder(&s)?;
            passes(role, &s, 30, once, stop, || shard_containers(&d, &sharder)).await
        }
        "container-sync" => {
            let sync = SyncConfig {
                client: internal(c)?,
                realms: SyncRealms::parse(&server.sync_realms),
                allowed_sync_hosts: server.allowed_sync_hosts.clone(),
                container_time: s.seconds("container_time", Duration::from_secs(60))?,
                timeout: s.seconds("conn_timeout", Duration::from_secs(5))?.max(Duration::from_secs(60)),
            };
            passes(role, &s, 300, once, stop, || sync_containers(&d, &sync)).await
        }
        "container-reconciler" => {
            let r = ReconcilerConfig { client: internal(c)?, concurrency: s.number("concurrency", 1)? };
            passes(role, &s, 30, once, stop, || reconcile(&d, &r)).await
        }
        _ => Err(Error::invalid(format!("{role} is no role"))),
    }
}

fn sharder(s: &Section) -> Result<SharderConfig> {
    let d = SharderConfig::default();
    let threshold = s.number("shard_container_threshold", d.threshold)?;
    Ok(SharderConfig {
        auto_shard: s.yes("auto_shard", d.auto_shard),
        threshold,
        rows_per_shard: s.number("rows_per_shard", threshold / 2)?,
        scanner_batch: s.number("shard_scanner_batch_size", d.scanner_batch)?,
        cleave_batch: s.number("cleave_batch_size", d.cleave_batch)?,
        cleave_rows: s.number("cleave_row_batch_size", d.cleave_rows)?,
        ..d
    })
}

/// The way of the program's own requests, with the proxy's defaults.
fn internal(c: &Common) -> Result<std::sync::Arc<dyn caelum_rest::HttpService>> {
    Ok(proxy::service(c)?.internal())
}

/// One step of a part-power increase on this node's devices. Errors: `Unavailable` when a file could not be moved.
async fn relink(o: &Config, step: relinker::Step) -> Result<()> {
    let stats = relinker::run_once(o, step).await;
    tracing::info!(?step, ?stats, "relinked");
    if stats.errors > 0 { Err(Error::unavailable(format!("{} files could not be relinked", stats.errors))) } else { Ok(()) }
}

async fn objects(c: &Common, role: &str, once: bool, stop: watch::Receiver<bool>) -> Result<()> {
    let s = c.conf.section(role);
    let (_, disks) = object(c)?;
    let own = own_addresses(&s, &c.rings, 6200)?;
    let port = own.first().map(|(_, p)| *p);
    let mut o = Config::new(disks, c.rings.clone(), c.nodes.clone(), own.into_iter().map(|(ip, _)| ip).collect(), port);
    o.concurrency = s.number("concurrency", o.concurrency)?;
    o.node_timeout = s.seconds("node_timeout", o.node_timeout)?;
    o.http_timeout = s.seconds("http_timeout", o.http_timeout)?;
    o.handoffs_first = s.yes("handoffs_first", o.handoffs_first);
    o.files_per_second = s.number("files_per_second", o.files_per_second)?;
    o.bytes_per_second = s.number("bytes_per_second", o.bytes_per_second)?;
    match role {
        "object-replicator" => passes(role, &s, 30, once, stop, || replicator::run_once(&o)).await,
        "object-reconstructor" => passes(role, &s, 30, once, stop, || reconstructor::run_once(&o)).await,
        "object-updater" => passes(role, &s, 300, once, stop, || updater::run_once(&o)).await,
        "object-auditor" => passes(role, &s, 30, once, stop, || auditor::run_once(&o, auditor::Pass::All)).await,
        "object-relink" => relink(&o, relinker::Step::Relink).await,
        "object-relink-cleanup" => relink(&o, relinker::Step::Cleanup).await,
        "object-expirer" => {
            let expiry = ExpirerConfig {
                client: internal(c)?,
                processes: s.number("processes", 0)?,
                process: s.number("process", 0)?,
                reclaim_age: s.seconds("reclaim_age", Duration::from_secs(7 * 86_400))?,
                delays: Vec::new(),
            };
            passes(role, &s, 300, once, stop, || expirer::run_once(&o, &expiry)).await
        }
        _ => Err(Error::invalid(format!("{role} is no role"))),
    }
}
