//! What identity keeps.
//!
//! Durable: everything in `schema.sql`. Rebuilt: the token cache and the catalog, from these tables.
//! Tokens are not stored; they carry what is needed to check them against these tables.
//! `meta.epoch` counts writes: it is raised in every writing transaction, and whatever was derived
//! from the tables at an older epoch is derived again.

mod assignments;
mod records;

pub use assignments::{Actor, Assignment, Grants, Target};
pub use records::*;

use caelum_base::{Error, Result};
use caelum_store::{Migration, Tx, params};

pub const MIGRATIONS: &[Migration] = &[Migration { version: 1, name: "init", sql: include_str!("schema.sql") }];

/// Raises the epoch; part of every writing transaction.
pub fn bump_epoch(tx: &mut Tx<'_>) -> Result<()> {
    tx.exec("UPDATE meta SET value = value + 1 WHERE name = 'epoch'", &[]).map(drop)
}

pub fn read_epoch(tx: &mut Tx<'_>) -> Result<i64> {
    let row = tx.query_opt("SELECT value FROM meta WHERE name = 'epoch'", &[])?;
    row.ok_or_else(|| Error::internal("the identity database has no epoch"))?.int("value")
}

/// Groups a user is in.
pub fn groups_of(tx: &mut Tx<'_>, user_id: &str) -> Result<Vec<String>> {
    let rows = tx.query("SELECT group_id FROM memberships WHERE user_id = $1 ORDER BY group_id", params![user_id])?;
    rows.iter().map(|r| r.text("group_id")).collect()
}

/// Users in a group.
pub fn members_of(tx: &mut Tx<'_>, group_id: &str) -> Result<Vec<String>> {
    let rows = tx.query("SELECT user_id FROM memberships WHERE group_id = $1 ORDER BY user_id", params![group_id])?;
    rows.iter().map(|r| r.text("user_id")).collect()
}

/// `(prior, implied)` of every role implication.
pub fn implications(tx: &mut Tx<'_>) -> Result<Vec<(String, String)>> {
    let rows = tx.query("SELECT prior_id, implied_id FROM implied_roles ORDER BY prior_id, implied_id", &[])?;
    rows.iter().map(|r| Ok((r.text("prior_id")?, r.text("implied_id")?))).collect()
}

/// What a revocation fits: every `Some` must match.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    pub audit_id: Option<String>,
    pub audit_chain_id: Option<String>,
    pub user_id: Option<String>,
    /// Project or domain id, or `system`.
    pub target_id: Option<String>,
}

/// Revokes what fits and was issued up to `now` (microseconds).
pub fn revoke(tx: &mut Tx<'_>, id: &str, now: i64, r: &Revocation) -> Result<()> {
    tx.exec(
        "INSERT INTO revocations (id, audit_id, audit_chain_id, user_id, target_id, issued_before) VALUES ($1, $2, $3, $4, $5, $6)",
        params![id, &r.audit_id, &r.audit_chain_id, &r.user_id, &r.target_id, now],
    )
    .map(drop)
}

/// Whether any revocation fits a token with these facts.
pub fn is_revoked(tx: &mut Tx<'_>, audit_ids: &[String], user_id: &str, target_id: Option<&str>, issued_at: i64) -> Result<bool> {
    let row = tx.query_opt(
        "SELECT 1 AS hit FROM revocations WHERE issued_before >= $5 AND \
         ((audit_id = $1) OR (audit_chain_id = $2) OR \
          (user_id = $3 AND audit_id IS NULL AND audit_chain_id IS NULL AND (target_id IS NULL OR target_id = $4)) OR \
          (user_id IS NULL AND audit_id IS NULL AND audit_chain_id IS NULL AND target_id = $4)) LIMIT 1",
        params![audit_ids.first(), audit_ids.last(), user_id, target_id.unwrap_or(""), issued_at],
    )?;
    Ok(row.is_some())
}

/// Forgets revocations that can fit no living token.
pub fn prune_revocations(tx: &mut Tx<'_>, before: i64) -> Result<u64> {
    tx.exec("DELETE FROM revocations WHERE issued_before < $1", params![before])
}
