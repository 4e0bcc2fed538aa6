use super::servers::{db_config, object};
use super::{Common, Section, own_addresses, proxy};
use caelum_base::{Error, Result};
use caelum_consistency::account::{ReaperConfig, reap_accounts};
use caelum_consistency::container::{
    ReconcilerConfig, SharderConfig, SyncConfig, UpdaterConfig, reconcile, shard_containers, sync_containers, update_accounts,
};
use caelum_consistency::db::figures;
use caelum_consistency::db::{DbDaemonConfig, audit_accounts, audit_containers, replicate_accounts, replicate_containers, run_forever};
use caelum_consistency::object::expirer::{self, ExpirerConfig};
use caelum_consistency::object::{Config, RsyncConfig, SyncMethod, auditor, reconstructor, relinker, replicator, updater};
use caelum_consistency::recon::Figures;
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
        Some("dispersion") => {
            let s = c.conf.section("dispersion")?;
            let client = proxy::internal(c, &s)?;
            super::dispersion::run(c, &s, role == "dispersion-report", client).await
        }
        Some("object") => objects(c, role, once, stop).await,
        _ => databases(c, role, once, stop).await,
    }
}

/// Where nodes of another Swift take whole databases. Those of this program take them over HTTP.
fn rsync_module(s: &Section, kind: &str) -> String {
    match s.get("rsync_module").map(|m| m.trim_end_matches('/')).filter(|m| !m.is_empty()) {
        Some(module) => module.to_string(),
        None => format!("{{replication_ip}}::{kind}"),
    }
}

/// How many daemons share the work, and which of them this is. Errors: `Invalid` for one beyond them all.
fn share(s: &Section) -> Result<(u32, u32)> {
    let (processes, process) = (s.number("processes", 0)?, s.number("process", 0)?);
    match processes > 0 && process >= processes {
        true => Err(Error::invalid("process must be less than processes")),
        false => Ok((processes, process)),
    }
}

async fn databases(c: &Common, role: &str, once: bool, stop: watch::Receiver<bool>) -> Result<()> {
    let s = c.conf.section(role)?;
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
    let kind = if role.starts_with("account") { "account" } else { "container" };
    d.rsync_module = Some(rsync_module(&s, kind));
    let noted = Figures { cache: Some(s.str("recon_cache_path", "/var/cache/swift").into()), kind, env: c.env.clone() };
    match role {
        "account-replicator" => passes(role, &s, 30, once, stop, || noted.noted(replicate_accounts(&d), figures::replication)).await,
        "container-replicator" => passes(role, &s, 30, once, stop, || noted.noted(replicate_containers(&d), figures::replication)).await,
        "account-auditor" => {
            passes(role, &s, 1_800, once, stop, || noted.noted(audit_accounts(&d), |s, t| figures::audit(kind, s, t))).await
        }
        "container-auditor" => {
            passes(role, &s, 1_800, once, stop, || noted.noted(audit_containers(&d), |s, t| figures::audit(kind, s, t))).await
        }
        "account-reaper" => {
            let r = ReaperConfig { delay_reaping: s.seconds("delay_reaping", Duration::ZERO)?, ..ReaperConfig::default() };
            passes(role, &s, 3_600, once, stop, || reap_accounts(&d, &r)).await
        }
        "container-updater" => {
            let u = UpdaterConfig { account_suppression: s.seconds("account_suppression_time", Duration::from_secs(60))? };
            passes(role, &s, 300, once, stop, || noted.noted(update_accounts(&d, &u), |_, t| figures::sweep(t))).await
        }
        "container-sharder" => {
            let sharder = SharderConfig::from_options(&|key| s.get(key).map(str::to_string))?;
            passes(role, &s, 30, once, stop, || noted.noted(shard_containers(&d, &sharder), figures::sharding)).await
        }
        "container-sync" => {
            let sync = SyncConfig {
                client: proxy::internal(c, &s)?,
                realms: SyncRealms::parse(&server.sync_realms),
                allowed_sync_hosts: server.allowed_sync_hosts.clone(),
                container_time: s.seconds("container_time", Duration::from_secs(60))?,
                timeout: s.seconds("conn_timeout", Duration::from_secs(5))?.max(Duration::from_secs(60)),
            };
            passes(role, &s, 300, once, stop, || sync_containers(&d, &sync)).await
        }
        "container-reconciler" => {
            let (processes, process) = share(&s)?;
            let r = ReconcilerConfig { client: proxy::internal(c, &s)?, concurrency: s.number("concurrency", 1)?, processes, process };
            passes(role, &s, 30, once, stop, || reconcile(&d, &r)).await
        }
        _ => Err(Error::invalid(format!("{role} is no role"))),
    }
}

/// One step of a part-power increase on this node's devices. Errors: `Unavailable` when a file could not be moved.
async fn relink(o: &Config, step: relinker::Step) -> Result<()> {
    let stats = relinker::run_once(o, step).await;
    tracing::info!(?step, ?stats, "relinked");
    if stats.errors > 0 { Err(Error::unavailable(format!("{} files could not be relinked", stats.errors))) } else { Ok(()) }
}

/// How objects travel: as the file says; without a word of it over HTTP, which needs no other program.
fn sync_method(s: &Section) -> Result<SyncMethod> {
    match s.get("sync_method").unwrap_or("ssync") {
        "ssync" => Ok(SyncMethod::Ssync),
        "rsync" => {
            let d = RsyncConfig::default();
            Ok(SyncMethod::Rsync(RsyncConfig {
                program: d.program,
                module: s.get("rsync_module").filter(|m| !m.is_empty()).map_or(d.module, str::to_string),
                timeout: s.seconds("rsync_timeout", d.timeout)?,
                io_timeout: s.number("rsync_io_timeout", d.io_timeout)?,
                bwlimit: s.number("rsync_bwlimit", d.bwlimit)?,
                compress: s.yes("rsync_compress", d.compress),
            }))
        }
        other => Err(Error::invalid(format!("sync_method = {other}: there are rsync and ssync"))),
    }
}

fn object_config(c: &Common, s: &Section, interval: u64) -> Result<Config> {
    let (_, disks) = object(c)?;
    let own = own_addresses(s, &c.rings, 6200)?;
    let port = own.first().map(|(_, p)| *p);
    let mut o = Config::new(disks, c.rings.clone(), c.nodes.clone(), own.into_iter().map(|(ip, _)| ip).collect(), port);
    o.concurrency = s.number("concurrency", o.concurrency)?;
    o.interval = s.seconds("interval", Duration::from_secs(interval))?;
    o.node_timeout = s.seconds("node_timeout", o.node_timeout)?;
    o.http_timeout = s.seconds("http_timeout", o.http_timeout)?;
    o.sync = sync_method(s)?;
    o.handoff_delete = match s.get("handoff_delete").unwrap_or("auto") {
        "auto" => 0,
        _ => s.number("handoff_delete", 0)?,
    };
    o.handoffs_first = s.yes("handoffs_first", o.handoffs_first);
    o.files_per_second = s.number("files_per_second", o.files_per_second)?;
    o.bytes_per_second = s.number("bytes_per_second", o.bytes_per_second)?;
    o.recon_cache = Some(s.str("recon_cache_path", "/var/cache/swift").into());
    o.handoffs_only = s.yes("handoffs_only", o.handoffs_first);
    o.rebuild_handoff_node_count = s.number("rebuild_handoff_node_count", o.rebuild_handoff_node_count)?;
    o.relinks_per_second = s.number("files_per_second", o.relinks_per_second)?;
    o.clobber_hardlink_collisions = s.yes("clobber_hardlink_collisions", false);
    (o.only_devices, o.only_partitions, o.only_policies) = (c.devices.clone(), c.partitions.clone(), c.policies.clone());
    Ok(o)
}

async fn objects(c: &Common, role: &str, once: bool, stop: watch::Receiver<bool>) -> Result<()> {
    let s = c.conf.section(if role.starts_with("object-relink") { "object-relinker" } else { role })?;
    let every = if matches!(role, "object-updater" | "object-expirer") { 300 } else { 30 };
    let o = object_config(c, &s, every)?;
    let done = |stats: &dyn Debug| tracing::info!(role, ?stats, "pass");
    match (role, once) {
        ("object-replicator", true) => done(&replicator::run_once(&o).await),
        ("object-replicator", false) => replicator::run_forever(o, stop).await,
        ("object-reconstructor", true) => done(&reconstructor::run_once(&o).await),
        ("object-reconstructor", false) => reconstructor::run_forever(o, stop).await,
        ("object-updater", true) => done(&updater::run_once(&o).await),
        ("object-updater", false) => updater::run_forever(o, stop).await,
        ("object-auditor", true) => done(&auditor::run_once(&o, auditor::Pass::All).await),
        ("object-auditor", false) => auditor::run_forever(o, auditor::Pass::All, stop).await,
        ("object-relink", _) => relink(&o, relinker::Step::Relink).await?,
        ("object-relink-cleanup", _) => relink(&o, relinker::Step::Cleanup).await?,
        ("object-expirer", _) => {
            let (processes, process) = share(&s)?;
            let expiry = ExpirerConfig {
                client: proxy::internal(c, &s)?,
                processes,
                process,
                reclaim_age: s.seconds("reclaim_age", Duration::from_secs(7 * 86_400))?,
                delays: expirer::delays(s.options.iter().map(|(k, v)| (k.as_str(), v.as_str())))?,
            };
            if once {
                done(&expirer::run_once(&o, &expiry).await);
            } else {
                expirer::run_forever(o, expiry, stop).await;
            }
        }
        _ => return Err(Error::invalid(format!("{role} is no role"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::swift::Conf;
    use std::path::Path;

    #[test]
    fn shares() {
        let of = |text: &str| share(&Conf::parse(Path::new("x.conf"), &format!("[x]\n{text}")).section("x").unwrap());
        assert_eq!(of("").unwrap(), (0, 0));
        assert_eq!(of("processes = 2\nprocess = 1\n").unwrap(), (2, 1));
        assert!(of("processes = 2\nprocess = 2\n").is_err());
    }

    #[test]
    fn where_databases_go() {
        let module = |text: &str| {
            let conf = Conf::parse(Path::new("container-server.conf"), &format!("[container-replicator]\n{text}"));
            rsync_module(&conf.section("container-replicator").unwrap(), "container")
        };
        assert_eq!(module(""), "{replication_ip}::container");
        assert_eq!(module("rsync_module = {ip}::c_{device}/\n"), "{ip}::c_{device}");
    }

    #[test]
    fn ways_of_objects() {
        let method = |text: &str| sync_method(&Conf::parse(Path::new("object-server.conf"), text).section("object-replicator").unwrap());
        assert_eq!(method("[object-replicator]\n").unwrap(), SyncMethod::Ssync);
        let rsync = "[object-replicator]\nsync_method = rsync\nrsync_module = {replication_ip}::object_{device}\nrsync_io_timeout = 7\n";
        let SyncMethod::Rsync(r) = method(rsync).unwrap() else { panic!("not rsync") };
        assert_eq!((r.module.as_str(), r.io_timeout, r.timeout), ("{replication_ip}::object_{device}", 7, Duration::from_secs(900)));
        assert!(method("[object-replicator]\nsync_method = scp\n").is_err());
    }
}
