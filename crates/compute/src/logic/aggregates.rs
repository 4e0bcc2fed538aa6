//! Aggregates of hosts. A host is in at most one availability zone.

use super::hosts::COMPUTE;
use crate::store::aggregates::Aggregate;
use crate::store::services::ServiceRow;
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored, Tx};
use std::collections::BTreeMap;

const ZONE: &str = "availability_zone";

pub fn require(tx: &mut Tx<'_>, number: i64) -> Result<Stored<Aggregate>> {
    let found = tx.first::<Aggregate>(&Query::new().eq("number", number))?;
    found.ok_or_else(|| Error::not_found(format!("Aggregate {number} could not be found.")))
}

fn taken(e: Error, name: &str) -> Error {
    if e.code == "duplicate" { Error::conflict(format!("Aggregate {name} already exists.")) } else { e }
}

/// Gives the next number and inserts.
pub fn create(tx: &mut Tx<'_>, mut a: Aggregate) -> Result<Aggregate> {
    if tx.first::<Aggregate>(&Query::new().eq("name", a.name.as_str()))?.is_some() {
        return Err(Error::conflict(format!("Aggregate {} already exists.", a.name)));
    }
    let last = tx.first::<Aggregate>(&Query::new().sort("number", caelum_store::Dir::Desc))?;
    a.number = last.map_or(0, |l| l.number) + 1;
    tx.insert(&a).map(Stored::into_inner)
}

pub fn save(tx: &mut Tx<'_>, a: &mut Stored<Aggregate>) -> Result<()> {
    let other = tx.first::<Aggregate>(&Query::new().eq("name", a.name.as_str()))?;
    if other.is_some_and(|o| o.id != a.id) {
        return Err(Error::conflict(format!("Aggregate {} already exists.", a.name)));
    }
    tx.update(a).map_err(|e| taken(e, &a.name))
}

/// Errors: `Conflict` when a host of `a` is in another zone already.
fn check_zone(tx: &mut Tx<'_>, a: &Aggregate) -> Result<()> {
    let Some(zone) = a.zone() else { return Ok(()) };
    for other in tx.list::<Aggregate>(&Query::new())? {
        let clash = other.zone().is_some_and(|z| z != zone) && other.hosts.iter().any(|h| a.hosts.contains(h));
        if other.id != a.id && clash {
            return Err(Error::conflict(format!(
                "Cannot perform action on aggregate {}. Reason: One or more hosts already in availability zone(s) {}.",
                a.number,
                other.zone().unwrap_or_default()
            )));
        }
    }
    Ok(())
}

pub fn add_host(tx: &mut Tx<'_>, a: &mut Aggregate, host: &str) -> Result<()> {
    let service = tx.first::<ServiceRow>(&Query::new().eq("host", host).eq("binary_name", COMPUTE))?;
    if service.is_none() {
        return Err(Error::not_found(format!("Compute host {host} could not be found.")));
    }
    if !a.hosts.insert(host.to_string()) {
        return Err(Error::conflict(format!("Aggregate {} already has host {host}.", a.number)));
    }
    check_zone(tx, a)
}

pub fn remove_host(a: &mut Aggregate, host: &str) -> Result<()> {
    if a.hosts.remove(host) {
        return Ok(());
    }
    Err(Error::not_found(format!("Aggregate {} has no host {host}.", a.number)))
}

/// Sets keys; `None` removes one.
pub fn set_metadata(tx: &mut Tx<'_>, a: &mut Aggregate, new: &BTreeMap<String, Option<String>>) -> Result<()> {
    for (key, value) in new {
        match value {
            Some(v) if key == ZONE && (v.is_empty() || v.contains(':')) => {
                return Err(Error::invalid("Invalid availability_zone."));
            }
            Some(v) => a.metadata.insert(key.clone(), v.clone()),
            None => a.metadata.remove(key),
        };
    }
    check_zone(tx, a)
}
