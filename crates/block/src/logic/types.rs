//! Volume types: those every cloud has, and which one a volume gets.

use crate::State;
use crate::state::BACKEND;
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

/// What the backend offers, as extra specs ask for it.
const OFFERED: [(&str, &str); 8] = [
    ("volume_backend_name", BACKEND),
    ("storage_protocol", "file"),
    ("vendor_name", "Caelum"),
    ("multiattach", "True"),
    ("thin_provisioning_support", "True"),
    ("thick_provisioning_support", "False"),
    ("QoS_support", "False"),
    ("replication_enabled", "False"),
];

/// Whether an extra spec's requirement holds for an offered value.
fn satisfies(offered: &str, wanted: &str) -> bool {
    let wanted = wanted.trim();
    if let Some(v) = wanted.strip_prefix("<is>") {
        return offered.eq_ignore_ascii_case(v.trim());
    }
    if let Some(v) = wanted.strip_prefix("<in>") {
        return offered.contains(v.trim());
    }
    if wanted.starts_with("<or>") {
        return wanted.split("<or>").any(|v| v.trim() == offered);
    }
    offered.eq_ignore_ascii_case(wanted.strip_prefix("s==").unwrap_or(wanted).trim())
}

/// The first extra spec the backend cannot meet. Keys with another scope than `capabilities` are
/// no requirements.
pub fn unmet(kind: &VolumeType) -> Option<&str> {
    let needs = kind.extra_specs.iter().filter_map(|(k, v)| match k.split_once(':') {
        Some(("capabilities", k)) => Some((k, v)),
        Some(_) => None,
        None => Some((k.as_str(), v)),
    });
    let met = |k: &str, v: &str| OFFERED.iter().any(|(o, have)| *o == k && satisfies(have, v));
    needs.into_iter().find(|(k, v)| !met(k, v)).map(|(k, _)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_specs_are_requirements() {
        let with = |k: &str, v: &str| VolumeType { extra_specs: [(k.to_string(), v.to_string())].into(), ..VolumeType::default() };
        for (k, v) in [
            ("multiattach", "<is> True"),
            ("vendor_name", "Caelum"),
            ("capabilities:storage_protocol", "<or> nfs <or> file"),
            ("hw:any", "x"),
        ] {
            assert_eq!(unmet(&with(k, v)), None, "{k}={v}");
        }
        for (k, v) in [("storage_protocol", "iSCSI"), ("replication_enabled", "<is> True"), ("spec", "1")] {
            assert_eq!(unmet(&with(k, v)), Some(k), "{k}={v}");
        }
    }
}
