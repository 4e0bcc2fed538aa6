//! Ordered, checksummed schema changes, applied when a service opens its database.

use crate::{Db, Value};
use caelum_base::{Error, Result};

/// One schema change. Never edited once released; `sql` may hold several statements. `BLOB` is
/// written for both engines.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: i64,
    pub name: &'static str,
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)";

/// FNV-1a: recognises an edited migration; not a security measure.
fn checksum(sql: &str) -> String {
    let h = sql.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{h:016x}")
}

/// Processes that start at once on one PostgreSQL server meet in the catalog: one makes the tables, the
/// others' transactions fail, and find everything there when they look again.
const TRIES: u64 = 5;

pub(crate) async fn run(db: &Db, service: &'static str, migrations: &'static [Migration]) -> Result<()> {
    let postgres = db.engine() == "postgresql";
    for attempt in 1..TRIES {
        match apply(db, service, migrations).await {
            Err(_) if postgres => tokio::time::sleep(std::time::Duration::from_millis(50 * attempt)).await,
            other => return other,
        }
    }
    apply(db, service, migrations).await
}

async fn apply(db: &Db, service: &'static str, migrations: &'static [Migration]) -> Result<()> {
    let postgres = db.engine() == "postgresql";
    db.write(move |tx| {
        tx.exec(TABLE, &[])?;
        let rows = tx.query("SELECT version, checksum FROM schema_migrations ORDER BY version", &[])?;
        for row in &rows {
            let version = row.int("version")?;
            let known = migrations.iter().find(|m| m.version == version);
            let known = known.ok_or_else(|| {
                Error::unavailable(format!("the {service} database has schema version {version}, newer than this program"))
            })?;
            if checksum(known.sql) != row.text("checksum")? {
                return Err(Error::internal(format!("{service}: migration {version} was edited after it was applied")));
            }
        }
        for m in &migrations[rows.len().min(migrations.len())..] {
            for statement in split(m.sql) {
                let statement = if postgres { statement.replace(" BLOB", " BYTEA") } else { statement };
                tx.exec(&statement, &[])?;
            }
            let params = [Value::Int(m.version), m.name.into(), checksum(m.sql).into()];
            tx.exec("INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)", &params)?;
        }
        Ok(())
    })
    .await
}

/// Statements end with `;` at the end of a line; lines that begin with `--` are comments.
fn split(sql: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut current = String::new();
    for line in sql.lines().filter(|l| !l.trim_start().starts_with("--")) {
        current.push_str(line);
        current.push('\n');
        if line.trim_end().ends_with(';') {
            out.push(std::mem::take(&mut current));
        }
    }
    if !current.trim().is_empty() {
        out.push(current);
    }
    out
}
