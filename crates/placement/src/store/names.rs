use caelum_base::{Error, Result};
use caelum_store::{Tx, params};
use std::collections::BTreeSet;
use std::sync::LazyLock;

static STANDARD_TRAITS: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| include_str!("../logic/standard_traits.txt").lines().collect());
static STANDARD_CLASSES: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("../logic/standard_classes.txt").lines().collect());

fn custom(tx: &mut Tx<'_>, table: &str) -> Result<Vec<String>> {
    tx.query(&format!("SELECT name FROM {table} ORDER BY name"), &[])?.iter().map(|r| r.text("name")).collect()
}

fn exists(tx: &mut Tx<'_>, table: &str, name: &str) -> Result<bool> {
    Ok(tx.query_opt(&format!("SELECT name FROM {table} WHERE name = $1"), params![name])?.is_some())
}

/// Standard and custom traits, sorted.
pub fn traits(tx: &mut Tx<'_>) -> Result<Vec<String>> {
    let mut all: Vec<String> = STANDARD_TRAITS.iter().map(|t| (*t).to_string()).collect();
    all.extend(custom(tx, "custom_traits")?);
    all.sort();
    Ok(all)
}

pub fn is_trait(tx: &mut Tx<'_>, name: &str) -> Result<bool> {
    Ok(STANDARD_TRAITS.contains(name) || exists(tx, "custom_traits", name)?)
}

/// Makes a custom trait; `false` when it exists already.
pub fn trait_create(tx: &mut Tx<'_>, name: &str) -> Result<bool> {
    Ok(tx.exec("INSERT INTO custom_traits (name) VALUES ($1) ON CONFLICT DO NOTHING", params![name])? > 0)
}

/// Errors: `Invalid` for a standard trait, `NotFound`, `Conflict` while a provider has it.
pub fn trait_delete(tx: &mut Tx<'_>, name: &str) -> Result<()> {
    if STANDARD_TRAITS.contains(name) {
        return Err(Error::invalid(format!("Cannot delete standard trait {name}.")));
    }
    if tx.query_opt("SELECT trait FROM provider_traits WHERE trait = $1", params![name])?.is_some() {
        return Err(Error::conflict(format!("The trait {name} is in use by a resource provider.")));
    }
    if tx.exec("DELETE FROM custom_traits WHERE name = $1", params![name])? == 0 {
        return Err(Error::not_found(format!("No such trait: {name}.")));
    }
    Ok(())
}

/// Standard classes in their order, then custom ones.
pub fn classes(tx: &mut Tx<'_>) -> Result<Vec<String>> {
    let mut all: Vec<String> = STANDARD_CLASSES.iter().map(|t| (*t).to_string()).collect();
    all.extend(custom(tx, "custom_classes")?);
    Ok(all)
}

pub fn is_class(tx: &mut Tx<'_>, name: &str) -> Result<bool> {
    Ok(STANDARD_CLASSES.contains(&name) || exists(tx, "custom_classes", name)?)
}

/// Makes a custom class; `false` when it exists already.
pub fn class_create(tx: &mut Tx<'_>, name: &str) -> Result<bool> {
    Ok(tx.exec("INSERT INTO custom_classes (name) VALUES ($1) ON CONFLICT DO NOTHING", params![name])? > 0)
}

/// Errors: `Invalid` for a standard class, `NotFound`, `Conflict` while an inventory uses it.
pub fn class_delete(tx: &mut Tx<'_>, name: &str) -> Result<()> {
    if STANDARD_CLASSES.contains(&name) {
        return Err(Error::invalid(format!("Cannot delete standard resource class {name}")));
    }
    if tx.query_opt("SELECT class FROM inventories WHERE class = $1", params![name])?.is_some() {
        return Err(Error::conflict(format!("Resource class {name} in use in inventory")).code("placement.resource_class.in_use"));
    }
    if tx.exec("DELETE FROM custom_classes WHERE name = $1", params![name])? == 0 {
        return Err(Error::not_found(format!("No such resource class {name}")));
    }
    Ok(())
}
