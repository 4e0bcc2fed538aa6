//! What may be done with flavors.

use crate::store::flavors::Flavor;
use caelum_base::{Error, Result, Timestamp};
use caelum_store::{Db, Query, Stored, Tx};

/// Flavors that every new cloud has: id, name, MiB of RAM, vCPUs, GiB of root disk.
const DEFAULTS: &[(&str, &str, i64, i64, i64)] = &[
    ("42", "m1.nano", 192, 1, 1),
    ("84", "m1.micro", 256, 1, 1),
    ("1", "m1.tiny", 512, 1, 1),
    ("2", "m1.small", 2_048, 1, 20),
    ("3", "m1.medium", 4_096, 2, 40),
];

/// Makes the default flavors in a cloud that has none. One that was deleted or changed afterwards
/// stays as it is: nothing is done when any flavor exists.
pub async fn ensure_default_flavors(db: &Db, now: Timestamp) -> Result<()> {
    db.write(move |tx| {
        if tx.first::<Flavor>(&Query::new())?.is_some() {
            return Ok(());
        }
        for (id, name, ram_mb, vcpus, root_gb) in DEFAULTS {
            let mut f = blank(id, name, now);
            (f.ram_mb, f.vcpus, f.root_gb) = (*ram_mb, *vcpus, *root_gb);
            tx.insert(&f)?;
        }
        Ok(())
    })
    .await
}

/// A public flavor without sizes.
pub fn blank(id: &str, name: &str, now: Timestamp) -> Flavor {
    Flavor {
        id: id.to_string(),
        name: name.to_string(),
        description: None,
        ram_mb: 0,
        vcpus: 0,
        root_gb: 0,
        ephemeral_gb: 0,
        swap_mb: 0,
        rxtx_factor: 1.0,
        is_public: true,
        disabled: false,
        extra_specs: Default::default(),
        projects: Default::default(),
        created_at: now,
        updated_at: now,
    }
}

/// Errors: `Conflict` when the id or the name is taken.
pub fn create(tx: &mut Tx<'_>, flavor: &Flavor) -> Result<()> {
    if tx.get::<Flavor>(&flavor.id)?.is_some() {
        return Err(Error::conflict(format!("Flavor with ID {} already exists.", flavor.id)));
    }
    tx.insert(flavor).map(drop).map_err(|e| match e.code {
        "duplicate" => Error::conflict(format!("Flavor with name {} already exists.", flavor.name)),
        _ => e,
    })
}

/// Any flavor, for administrators.
pub fn require(tx: &mut Tx<'_>, id: &str) -> Result<Stored<Flavor>> {
    tx.get::<Flavor>(id)?.ok_or_else(|| not_found(id))
}

pub fn not_found(id: &str) -> Error {
    Error::not_found(format!("Flavor {id} could not be found."))
}

/// Lets a project use a flavor that is not public.
pub fn grant(tx: &mut Tx<'_>, id: &str, project: &str) -> Result<Flavor> {
    let mut f = require(tx, id)?;
    if f.is_public {
        return Err(Error::conflict("Can not add access to a public flavor."));
    }
    if !f.projects.insert(project.to_string()) {
        return Err(Error::conflict(format!("Flavor access already exists for flavor {id} and project {project} combination.")));
    }
    tx.update(&mut f)?;
    Ok(f.into_inner())
}

/// Takes that back.
pub fn revoke(tx: &mut Tx<'_>, id: &str, project: &str) -> Result<Flavor> {
    let mut f = require(tx, id)?;
    if !f.projects.remove(project) {
        return Err(Error::not_found(format!("Flavor access not found for {id} / {project} combination.")));
    }
    tx.update(&mut f)?;
    Ok(f.into_inner())
}
