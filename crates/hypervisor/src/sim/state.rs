//! The simulated guests and, when a directory is given, one small JSON file per guest.
//!
//! A file is written beside its final name and renamed, so a killed process leaves the old or the
//! new version, never half of one. It is not synced: a simulated guest need not survive power loss.

use crate::{GuestObserved, GuestSpec, PowerState};
use caelum_base::{Error, Result, is_uuid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One simulated guest as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SimGuest {
    pub spec: GuestSpec,
    pub power: PowerState,
    /// How often the guest's firmware ran, for the console log.
    pub boots: u32,
}

impl SimGuest {
    pub(super) fn observed(&self) -> GuestObserved {
        GuestObserved {
            id: self.spec.id.clone(),
            domain: self.spec.domain.clone(),
            power: self.power,
            volume_ids: self.spec.volumes.iter().map(|v| v.volume_id.clone()).collect(),
            port_ids: self.spec.nics.iter().map(|n| n.port_id.clone()).collect(),
        }
    }
}

pub(super) struct State {
    pub guests: BTreeMap<String, SimGuest>,
    dir: Option<PathBuf>,
}

impl State {
    /// Reads every guest in `dir`; a file that cannot be read is reported and left where it is.
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self> {
        let mut guests = BTreeMap::new();
        if let Some(dir) = &dir {
            std::fs::create_dir_all(dir).map_err(|e| io("create", dir, e))?;
            for entry in std::fs::read_dir(dir).map_err(|e| io("read", dir, e))? {
                let path = entry.map_err(|e| io("read", dir, e))?.path();
                if path.extension().is_none_or(|e| e != "json") {
                    continue;
                }
                let bytes = std::fs::read(&path).map_err(|e| io("read", &path, e))?;
                match serde_json::from_slice::<SimGuest>(&bytes) {
                    Ok(guest) => drop(guests.insert(guest.spec.id.clone(), guest)),
                    Err(e) => tracing::error!(path = %path.display(), error = %e, "a simulated guest's file cannot be read"),
                }
            }
        }
        Ok(Self { guests, dir })
    }

    pub(super) fn get(&mut self, id: &str) -> Result<&mut SimGuest> {
        self.guests.get_mut(id).ok_or_else(|| absent(id))
    }

    /// Stores the guest, in memory last, so that memory never shows what the directory lacks.
    pub(super) fn put(&mut self, guest: SimGuest) -> Result<()> {
        if let Some(dir) = &self.dir {
            let path = file(dir, &guest.spec.id)?;
            let temp = path.with_extension("tmp");
            let bytes = serde_json::to_vec(&guest).map_err(|e| Error::internal("cannot encode a guest").caused_by(e))?;
            std::fs::write(&temp, bytes).map_err(|e| io("write", &temp, e))?;
            std::fs::rename(&temp, &path).map_err(|e| io("rename", &temp, e))?;
        }
        self.guests.insert(guest.spec.id.clone(), guest);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<Option<SimGuest>> {
        if let (Some(dir), true) = (&self.dir, self.guests.contains_key(id)) {
            let path = file(dir, id)?;
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &path, e)),
                _ => {}
            }
        }
        Ok(self.guests.remove(id))
    }
}

fn absent(id: &str) -> Error {
    Error::not_found(format!("Instance {id} could not be found on this host."))
}

fn file(dir: &Path, id: &str) -> Result<PathBuf> {
    if !is_uuid(id) {
        return Err(Error::invalid("A guest's id must be a UUID."));
    }
    Ok(dir.join(format!("{id}.json")))
}

fn io(verb: &str, path: &Path, e: std::io::Error) -> Error {
    Error::internal(format!("cannot {verb} {}", path.display())).caused_by(e)
}
