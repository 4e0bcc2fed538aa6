use caelum_base::{Error, Result};
use caelum_store::{Row, Tx, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub id: String,
    pub name: String,
    pub parent: Option<String>,
    pub root: String,
    pub generation: i64,
}

/// Capacity of one resource class. Units are the class's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    pub total: i64,
    #[serde(default)]
    pub reserved: i64,
    #[serde(default = "one")]
    pub min_unit: i64,
    #[serde(default = "max_unit")]
    pub max_unit: i64,
    #[serde(default = "one")]
    pub step_size: i64,
    #[serde(default = "ratio")]
    pub allocation_ratio: f64,
    /// Sum of the allocations; never from a request.
    #[serde(skip)]
    pub used: i64,
}

fn one() -> i64 {
    1
}

fn max_unit() -> i64 {
    i64::from(i32::MAX)
}

fn ratio() -> f64 {
    1.0
}

impl Inventory {
    /// Units that may be allocated in all.
    pub fn capacity(&self) -> i64 {
        // Capacities are far below 2^53; truncation is upstream's rule.
        ((self.total - self.reserved) as f64 * self.allocation_ratio) as i64
    }

    /// Whether `amount` more fits and respects the unit rules.
    pub fn fits(&self, amount: i64) -> bool {
        amount >= self.min_unit && amount <= self.max_unit && amount % self.step_size == 0 && self.used + amount <= self.capacity()
    }
}

fn provider_row(r: &Row) -> Result<Provider> {
    Ok(Provider {
        id: r.text("id")?,
        name: r.text("name")?,
        parent: r.opt_text("parent")?,
        root: r.text("root")?,
        generation: r.int("generation")?,
    })
}

const COLUMNS: &str = "id, name, parent, root, generation";

/// Errors: `NotFound`.
pub fn provider(tx: &mut Tx<'_>, id: &str) -> Result<Provider> {
    let row = tx.query_opt(&format!("SELECT {COLUMNS} FROM providers WHERE id = $1"), params![id])?;
    row.as_ref().map(provider_row).transpose()?.ok_or_else(|| Error::not_found(format!("No resource provider with uuid {id} found")))
}

pub fn providers(tx: &mut Tx<'_>) -> Result<Vec<Provider>> {
    tx.query(&format!("SELECT {COLUMNS} FROM providers ORDER BY id"), &[])?.iter().map(provider_row).collect()
}

fn duplicate(name: &str) -> Error {
    Error::conflict(format!("Conflicting resource provider name: {name} already exists.")).code("placement.duplicate_name")
}

/// Errors: `Conflict` for a name or id that is taken, `Invalid` for an unknown parent.
pub fn provider_create(tx: &mut Tx<'_>, id: &str, name: &str, parent: Option<&str>) -> Result<Provider> {
    let root = match parent {
        None => id.to_string(),
        Some(p) => provider(tx, p).map_err(|_| Error::invalid(format!("parent provider UUID '{p}' does not exist")))?.root,
    };
    let sql = "INSERT INTO providers (id, name, parent, root, generation) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING";
    if tx.exec(sql, params![id, name, parent, root.clone()])? == 0 {
        return Err(duplicate(name));
    }
    provider(tx, id)
}

/// Renames and re-parents. Errors: `Conflict` for a taken name, `Invalid` for a parent that is unknown or below the provider.
pub fn provider_update(tx: &mut Tx<'_>, old: &Provider, name: &str, parent: Option<&str>) -> Result<Provider> {
    if name != old.name && tx.query_opt("SELECT id FROM providers WHERE name = $1", params![name])?.is_some() {
        return Err(duplicate(name));
    }
    let mut root = old.root.clone();
    if parent != old.parent.as_deref() {
        root = match parent {
            None => old.id.clone(),
            Some(p) => new_root(tx, old, p)?,
        };
        let subtree = subtree(tx, &old.id)?;
        for id in subtree {
            tx.exec("UPDATE providers SET root = $1 WHERE id = $2", params![root.clone(), id])?;
        }
    }
    let sql = "UPDATE providers SET name = $1, parent = $2, root = $3 WHERE id = $4 AND generation = $5";
    if tx.exec(sql, params![name, parent, root, old.id.clone(), old.generation])? == 0 {
        return Err(Error::generation("Resource provider was changed by another request."));
    }
    provider(tx, &old.id)
}

fn new_root(tx: &mut Tx<'_>, old: &Provider, parent: &str) -> Result<String> {
    if subtree(tx, &old.id)?.iter().any(|id| id == parent) {
        return Err(Error::invalid("creating loop in the provider tree is not allowed."));
    }
    Ok(provider(tx, parent).map_err(|_| Error::invalid(format!("parent provider UUID '{parent}' does not exist")))?.root)
}

/// The provider and everything below it.
fn subtree(tx: &mut Tx<'_>, id: &str) -> Result<Vec<String>> {
    let all = providers(tx)?;
    let mut out = vec![id.to_string()];
    let mut i = 0;
    while i < out.len() {
        let below = all.iter().filter(|p| p.parent.as_deref() == Some(out[i].as_str())).map(|p| p.id.clone());
        let below: Vec<String> = below.collect();
        out.extend(below);
        i += 1;
    }
    Ok(out)
}

/// Errors: `NotFound`, `Conflict` while it has children or allocations.
pub fn provider_delete(tx: &mut Tx<'_>, id: &str) -> Result<()> {
    provider(tx, id)?;
    if tx.query_opt("SELECT id FROM providers WHERE parent = $1", params![id])?.is_some() {
        return Err(Error::conflict("Unable to delete parent resource provider: It has child resource providers.")
            .code("placement.resource_provider.cannot_delete_parent"));
    }
    if tx.query_opt("SELECT consumer FROM allocations WHERE provider = $1", params![id])?.is_some() {
        return Err(Error::conflict(format!("Unable to delete resource provider {id}: Resource provider has allocations."))
            .code("placement.resource_provider.inuse"));
    }
    for table in ["inventories", "provider_traits", "provider_aggregates"] {
        tx.exec(&format!("DELETE FROM {table} WHERE provider = $1"), params![id])?;
    }
    tx.exec("DELETE FROM providers WHERE id = $1", params![id]).map(drop)
}

/// Raises the generation if it is still `seen`. Errors: `Generation`.
pub fn bump(tx: &mut Tx<'_>, id: &str, seen: i64) -> Result<i64> {
    let n = tx.exec("UPDATE providers SET generation = generation + 1 WHERE id = $1 AND generation = $2", params![id, seen])?;
    if n == 0 {
        return Err(Error::generation("resource provider generation conflict").code("placement.concurrent_update"));
    }
    Ok(seen + 1)
}

fn inventory_row(r: &Row) -> Result<(String, Inventory)> {
    let inventory = Inventory {
        total: r.int("total")?,
        reserved: r.int("reserved")?,
        min_unit: r.int("min_unit")?,
        max_unit: r.int("max_unit")?,
        step_size: r.int("step_size")?,
        allocation_ratio: r.real("ratio")?,
        used: r.int("used")?,
    };
    Ok((r.text("class")?, inventory))
}

/// By class.
pub fn inventories(tx: &mut Tx<'_>, provider: &str) -> Result<BTreeMap<String, Inventory>> {
    tx.query("SELECT * FROM inventories WHERE provider = $1", params![provider])?.iter().map(inventory_row).collect()
}

/// By provider and class.
pub fn all_inventories(tx: &mut Tx<'_>) -> Result<BTreeMap<String, BTreeMap<String, Inventory>>> {
    let mut out: BTreeMap<String, BTreeMap<String, Inventory>> = BTreeMap::new();
    for r in tx.query("SELECT * FROM inventories", &[])? {
        let (class, inventory) = inventory_row(&r)?;
        out.entry(r.text("provider")?).or_default().insert(class, inventory);
    }
    Ok(out)
}

/// Sets one inventory, keeping what is used of it.
pub fn inventory_put(tx: &mut Tx<'_>, provider: &str, class: &str, i: &Inventory) -> Result<()> {
    let sql = "INSERT INTO inventories (provider, class, total, reserved, min_unit, max_unit, step_size, ratio, used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0) \
               ON CONFLICT (provider, class) DO UPDATE SET total = excluded.total, reserved = excluded.reserved, min_unit = excluded.min_unit, \
               max_unit = excluded.max_unit, step_size = excluded.step_size, ratio = excluded.ratio";
    tx.exec(sql, params![provider, class, i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio]).map(drop)
}

/// Errors: `NotFound`, `Conflict` while allocations use it.
pub fn inventory_delete(tx: &mut Tx<'_>, provider: &str, class: &str) -> Result<()> {
    let row = tx.query_opt("SELECT used FROM inventories WHERE provider = $1 AND class = $2", params![provider, class])?;
    let row = row.ok_or_else(|| Error::not_found(format!("No inventory of class {class} found for delete")))?;
    if row.int("used")? > 0 {
        let message =
            format!("Unable to delete inventory for resource provider {provider} because the inventory is in use: {class} in use.");
        return Err(Error::conflict(message).code("placement.inventory.inuse"));
    }
    tx.exec("DELETE FROM inventories WHERE provider = $1 AND class = $2", params![provider, class]).map(drop)
}

fn set(tx: &mut Tx<'_>, table: &str, column: &str, provider: &str, values: &[String]) -> Result<()> {
    tx.exec(&format!("DELETE FROM {table} WHERE provider = $1"), params![provider])?;
    for v in values {
        tx.exec(
            &format!("INSERT INTO {table} (provider, {column}) VALUES ($1, $2) ON CONFLICT DO NOTHING"),
            params![provider, v.as_str()],
        )?;
    }
    Ok(())
}

fn get(tx: &mut Tx<'_>, table: &str, column: &str, provider: &str) -> Result<Vec<String>> {
    let sql = format!("SELECT {column} AS v FROM {table} WHERE provider = $1 ORDER BY {column}");
    tx.query(&sql, params![provider])?.iter().map(|r| r.text("v")).collect()
}

fn all(tx: &mut Tx<'_>, table: &str, column: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for r in tx.query(&format!("SELECT provider, {column} AS v FROM {table} ORDER BY {column}"), &[])? {
        out.entry(r.text("provider")?).or_default().push(r.text("v")?);
    }
    Ok(out)
}

/// Traits by provider.
pub fn all_traits(tx: &mut Tx<'_>) -> Result<BTreeMap<String, Vec<String>>> {
    all(tx, "provider_traits", "trait")
}

/// Aggregates by provider.
pub fn all_aggregates(tx: &mut Tx<'_>) -> Result<BTreeMap<String, Vec<String>>> {
    all(tx, "provider_aggregates", "aggregate")
}

pub fn set_traits(tx: &mut Tx<'_>, provider: &str, traits: &[String]) -> Result<()> {
    set(tx, "provider_traits", "trait", provider, traits)
}

pub fn traits_of(tx: &mut Tx<'_>, provider: &str) -> Result<Vec<String>> {
    get(tx, "provider_traits", "trait", provider)
}

pub fn set_aggregates(tx: &mut Tx<'_>, provider: &str, aggregates: &[String]) -> Result<()> {
    set(tx, "provider_aggregates", "aggregate", provider, aggregates)
}

pub fn aggregates(tx: &mut Tx<'_>, provider: &str) -> Result<Vec<String>> {
    get(tx, "provider_aggregates", "aggregate", provider)
}
