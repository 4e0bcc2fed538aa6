//! Auditing: every database is opened and its figures are added up; a damaged one is quarantined, so that
//! replication brings a good copy.

use super::{DbDaemonConfig, Found, blocking, walk};
use caelum_broker::{AccountBroker, BrokerError, ContainerBroker, Kind};
use futures_util::StreamExt;

/// What a pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    pub passed: u64,
    pub failed: u64,
}

/// One pass over this node's accounts.
pub async fn audit_accounts(config: &DbDaemonConfig) -> AuditStats {
    let pool = config.pool.clone();
    pass(config, Kind::Account, move |found| {
        let broker = AccountBroker::new(&pool, &found.path);
        let info = broker.get_info()?;
        let total = broker.policy_stats()?.iter().fold((0, 0, 0), |t, p| (t.0 + p.1, t.1 + p.2, t.2 + p.3));
        let told = (info.container_count, info.object_count, info.bytes_used);
        if total == told {
            Ok(())
        } else {
            let text = format!("account {}: policies add up to {total:?}, not {told:?}", info.account);
            Err(BrokerError::Invalid(text))
        }
    })
    .await
}

/// One pass over this node's containers.
pub async fn audit_containers(config: &DbDaemonConfig) -> AuditStats {
    let pool = config.pool.clone();
    pass(config, Kind::Container, move |found| ContainerBroker::new(&pool, &found.path)?.get_info().map(|_| ())).await
}

async fn pass(
    config: &DbDaemonConfig,
    kind: Kind,
    check: impl Fn(&Found) -> caelum_broker::Result<()> + Clone + Send + 'static,
) -> AuditStats {
    let names = device_names(config).await;
    let found = walk(config, names, kind.datadir());
    let results = futures_util::stream::unfold(found, |mut rx| async move { rx.recv().await.map(|f| (f, rx)) })
        .map(|found| {
            let check = check.clone();
            blocking(move || check(&found).inspect_err(|e| tracing::error!(file = %found.path.display(), error = %e, "audit failed")))
        })
        .buffer_unordered(config.concurrency.max(1));
    results
        .fold(AuditStats::default(), |mut stats, result| async move {
            match result {
                Ok(()) => stats.passed += 1,
                Err(_) => stats.failed += 1,
            }
            stats
        })
        .await
}

/// Every directory below `devices`, in the ring or not.
pub(crate) async fn device_names(config: &DbDaemonConfig) -> Vec<String> {
    let devices = config.devices.clone();
    let names = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(&devices).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    });
    names.await.unwrap_or_default()
}
