//! Volume types: those every cloud has, and which one a volume gets.

use crate::State;
use crate::store::rows::type_by_ref;
use crate::store::{DefaultType, VolumeType};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored, Tx};

pub const FALLBACK: &str = "__DEFAULT__";

/// Makes the types a new cloud begins with.
pub async fn bootstrap(state: &State) -> Result<()> {
    let env = state.env.clone();
    let wanted = state.options.default_type.clone();
    state
        .db
        .write(move |tx| {
            if tx.count::<VolumeType>(&Query::new())? > 0 {
                return Ok(());
            }
            let mut types = vec![
                (FALLBACK, "Default Volume Type", None),
                ("multiattach", "Volumes several servers may have at once", Some(("multiattach", "<is> True"))),
            ];
            if wanted != FALLBACK && wanted != "multiattach" {
                types.push((wanted.as_str(), "Files on the storage node", None));
            }
            for (name, description, spec) in types {
                tx.insert(&VolumeType {
                    id: env.uuid(),
                    name: name.into(),
                    description: Some(description.into()),
                    is_public: true,
                    extra_specs: spec.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                    created_at: env.now(),
                    ..VolumeType::default()
                })?;
            }
            Ok(())
        })
        .await
}

pub fn missing(wanted: &str) -> Error {
    Error::not_found(format!("Volume type {wanted} could not be found."))
}

/// The type a project's volumes get that name none.
pub fn default_for(tx: &mut Tx<'_>, configured: &str, project_id: &str) -> Result<Stored<VolumeType>> {
    if let Some(d) = tx.get::<DefaultType>(project_id)?
        && let Some(t) = tx.get::<VolumeType>(&d.volume_type_id)?
    {
        return Ok(t);
    }
    for name in [configured, FALLBACK] {
        if let Some(t) = type_by_ref(tx, name)? {
            return Ok(t);
        }
    }
    Err(Error::not_found("Default volume type can not be found."))
}

/// A type the project may use, by id or name. Errors: `NotFound`, also for private ones.
pub fn usable(tx: &mut Tx<'_>, wanted: &str, project_id: &str, admin: bool) -> Result<Stored<VolumeType>> {
    let found = type_by_ref(tx, wanted)?;
    found.filter(|t| admin || t.visible_to(Some(project_id))).ok_or_else(|| missing(wanted))
}
