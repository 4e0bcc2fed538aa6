//! Help for tests of `store/` modules: the same test on every engine there is.

use crate::{Db, Migration, StoreUrl};
use caelum_base::{Result, Secret};

/// A fresh database per engine: SQLite always, PostgreSQL when `CAELUM_TEST_PG_URL`
/// names a server (`./test` starts one). On PostgreSQL the service's schema is dropped first, so
/// tests that share a service name must not run at once: give each test its own name.
pub async fn engines(service: &'static str, migrations: &'static [Migration]) -> Result<Vec<Db>> {
    let mut out = vec![Db::open(&StoreUrl::Scratch, service, migrations).await?];
    if let Ok(url) = std::env::var("CAELUM_TEST_PG_URL") {
        let url = StoreUrl::Postgres(Secret::new(url));
        // Under a name without migrations: the service's own may be there from an earlier run.
        let admin = Db::open(&url, "testing", &[]).await?;
        admin.write(move |tx| tx.exec(&format!("DROP SCHEMA IF EXISTS caelum_{service} CASCADE"), &[])).await?;
        drop(admin);
        out.push(Db::open(&url, service, migrations).await?);
    }
    Ok(out)
}
