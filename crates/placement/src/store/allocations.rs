use super::providers::{bump, inventories, provider};
use caelum_base::{Error, Result};
use caelum_store::{Row, Tx, Value, params};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    pub id: String,
    pub project_id: String,
    pub user_id: String,
    /// `INSTANCE`, `MIGRATION`, … or `unknown`.
    pub kind: String,
    pub generation: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    pub consumer: String,
    pub provider: String,
    pub class: String,
    pub used: i64,
}

/// What one consumer shall hold: provider → class → amount. Empty removes the consumer.
#[derive(Clone, Debug)]
pub struct NewAllocations {
    pub consumer: String,
    pub project_id: String,
    pub user_id: String,
    pub kind: String,
    pub allocations: BTreeMap<String, BTreeMap<String, i64>>,
    /// `None`: not checked (before 1.28). `Some(None)`: the consumer must be new.
    pub generation: Option<Option<i64>>,
}

fn row(r: &Row) -> Result<Allocation> {
    Ok(Allocation { consumer: r.text("consumer")?, provider: r.text("provider")?, class: r.text("class")?, used: r.int("used")? })
}

pub fn consumer(tx: &mut Tx<'_>, id: &str) -> Result<Option<Consumer>> {
    let found = tx.query_opt("SELECT id, project_id, user_id, kind, generation FROM consumers WHERE id = $1", params![id])?;
    let Some(r) = found else { return Ok(None) };
    Ok(Some(Consumer {
        id: r.text("id")?,
        project_id: r.text("project_id")?,
        user_id: r.text("user_id")?,
        kind: r.text("kind")?,
        generation: r.int("generation")?,
    }))
}

pub fn allocations_of(tx: &mut Tx<'_>, consumer: &str) -> Result<Vec<Allocation>> {
    tx.query("SELECT consumer, provider, class, used FROM allocations WHERE consumer = $1 ORDER BY provider, class", params![consumer])?
        .iter()
        .map(row)
        .collect()
}

pub fn allocations_on(tx: &mut Tx<'_>, provider: &str) -> Result<Vec<Allocation>> {
    tx.query("SELECT consumer, provider, class, used FROM allocations WHERE provider = $1 ORDER BY consumer, class", params![provider])?
        .iter()
        .map(row)
        .collect()
}

/// Amounts by consumer type and class, and consumers by type.
pub fn usages(tx: &mut Tx<'_>, project: &str, user: Option<&str>, kind: Option<&str>) -> Result<Vec<(String, String, i64, i64)>> {
    let mut sql = String::from(
        "SELECT c.kind AS kind, a.class AS class, CAST(SUM(a.used) AS BIGINT) AS used, COUNT(DISTINCT c.id) AS n \
         FROM allocations a JOIN consumers c ON c.id = a.consumer WHERE c.project_id = $1",
    );
    let mut ps: Vec<Value> = vec![project.into()];
    for (column, value) in [("user_id", user), ("kind", kind)] {
        if let Some(v) = value {
            ps.push(v.into());
            sql.push_str(&format!(" AND c.{column} = ${}", ps.len()));
        }
    }
    sql.push_str(" GROUP BY c.kind, a.class ORDER BY c.kind, a.class");
    tx.query(&sql, &ps)?.iter().map(|r| Ok((r.text("kind")?, r.text("class")?, r.int("used")?, r.int("n")?))).collect()
}

fn release(tx: &mut Tx<'_>, consumer: &str) -> Result<usize> {
    let old = allocations_of(tx, consumer)?;
    for a in &old {
        tx.exec(
            "UPDATE inventories SET used = used - $1 WHERE provider = $2 AND class = $3",
            params![a.used, a.provider.as_str(), a.class.as_str()],
        )?;
    }
    tx.exec("DELETE FROM allocations WHERE consumer = $1", params![consumer])?;
    Ok(old.len())
}

/// Errors: `NotFound` when the consumer holds nothing.
pub fn delete_allocations(tx: &mut Tx<'_>, consumer: &str) -> Result<()> {
    if release(tx, consumer)? == 0 {
        return Err(Error::not_found(format!("No allocations for consumer '{consumer}'")));
    }
    tx.exec("DELETE FROM consumers WHERE id = $1", params![consumer]).map(drop)
}

/// Replaces what the consumers hold, all or nothing. Capacity is checked after everything the
/// consumers held before is given back, so that a move between them fits.
///
/// Errors: `Generation` (code `placement.concurrent_update`) for a consumer or provider that changed,
/// `Conflict` when capacity or unit rules are violated, `Invalid` for unknown providers or classes.
pub fn replace_allocations(tx: &mut Tx<'_>, sets: &[NewAllocations]) -> Result<()> {
    for set in sets {
        check_consumer(tx, set)?;
        release(tx, &set.consumer)?;
    }
    let mut touched = BTreeSet::new();
    for set in sets {
        for (provider_id, resources) in &set.allocations {
            for (class, amount) in resources {
                claim(tx, &set.consumer, provider_id, class, *amount)?;
            }
            touched.insert(provider_id.clone());
        }
        write_consumer(tx, set)?;
    }
    for id in touched {
        let p = provider(tx, &id)?;
        bump(tx, &id, p.generation)?;
    }
    Ok(())
}

fn check_consumer(tx: &mut Tx<'_>, set: &NewAllocations) -> Result<()> {
    let Some(wanted) = set.generation else { return Ok(()) };
    let have = consumer(tx, &set.consumer)?.map(|c| c.generation);
    if have == wanted {
        return Ok(());
    }
    let text = |g: Option<i64>| g.map_or_else(|| "null".to_string(), |g| g.to_string());
    let message = format!("consumer generation conflict - expected {} but got {}", text(have), text(wanted));
    Err(Error::generation(message).code("placement.concurrent_update"))
}

fn write_consumer(tx: &mut Tx<'_>, set: &NewAllocations) -> Result<()> {
    if set.allocations.is_empty() {
        return tx.exec("DELETE FROM consumers WHERE id = $1", params![set.consumer.as_str()]).map(drop);
    }
    let sql = "INSERT INTO consumers (id, project_id, user_id, kind, generation) VALUES ($1, $2, $3, $4, 1) \
               ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, user_id = excluded.user_id, kind = excluded.kind, generation = consumers.generation + 1";
    tx.exec(sql, params![set.consumer.as_str(), set.project_id.as_str(), set.user_id.as_str(), set.kind.as_str()]).map(drop)
}

fn claim(tx: &mut Tx<'_>, consumer: &str, provider_id: &str, class: &str, amount: i64) -> Result<()> {
    let inventory = inventories(tx, provider_id)?.remove(class);
    let Some(inventory) = inventory else {
        provider(tx, provider_id)
            .map_err(|_| Error::invalid(format!("Allocation for resource provider '{provider_id}' that does not exist.")))?;
        return Err(Error::conflict(format!(
            "Unable to allocate inventory: Inventory for '{class}' on resource provider '{provider_id}' invalid."
        )));
    };
    if !inventory.fits(amount) {
        let message = format!(
            "Unable to allocate inventory: Unable to create allocation for '{class}' on resource provider '{provider_id}'. The requested amount would exceed the capacity."
        );
        return Err(Error::conflict(message));
    }
    tx.exec("UPDATE inventories SET used = used + $1 WHERE provider = $2 AND class = $3", params![amount, provider_id, class])?;
    let sql = "INSERT INTO allocations (consumer, provider, class, used) VALUES ($1, $2, $3, $4)";
    tx.exec(sql, params![consumer, provider_id, class, amount]).map(drop)
}
