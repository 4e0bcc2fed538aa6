//! Composite rings: one ring put together from several builders, each with its own regions and its own whole
//! number of replicas, so that every region is certain to hold a set of its own. Source: Swift's documentation,
//! `ring` (composite rings).

use crate::builder::{self, Builder};
use crate::runtime::{NO_DEVICE, Ring};
use crate::write::replace;
use caelum_base::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a composite ring was made of when it was last composed; the content of a composite builder file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composite {
    /// Counts compositions.
    pub version: u64,
    pub components: Vec<Component>,
}

/// One builder of a composite ring.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    pub id: String,
    /// The builder's at that time.
    pub version: i64,
    pub replicas: f64,
    pub file: PathBuf,
}

/// Puts builders together: their replicas one after the other, device ids shifted by the devices before. Errors:
/// `Invalid` naming what does not fit: fewer than two builders, different part powers, fractional replicas,
/// changes not yet balanced, a region or a device in two of them.
pub fn compose(builders: &[Builder]) -> Result<Ring> {
    let [first, _, ..] = builders else { return Err(Error::invalid("Two or more component builders are required.")) };
    let (mut regions, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (i, b) in builders.iter().enumerate() {
        if b.part_power != first.part_power {
            return Err(Error::invalid(format!("All builders must have same value for 'part_power': {} at index {i}", b.part_power)));
        }
        if b.replicas.fract() != 0.0 {
            return Err(Error::invalid(format!("Non integer replica count {} found at index {i}", b.replicas)));
        }
        if b.devices_changed || b.assignment.is_empty() {
            return Err(Error::invalid(format!("Builder needs rebalance to apply changes at index {i}")));
        }
        let own: BTreeSet<u32> = b.iter().map(|d| d.device.region).collect();
        if !regions.is_disjoint(&own) {
            return Err(Error::invalid("Same region found in different rings"));
        }
        regions.extend(own);
        for d in b.iter().map(|d| &d.device) {
            if !places.insert((d.ip.as_str(), d.port, d.device.as_str())) {
                let text = format!("Duplicate ip/port/device combination {}/{}/{} at index {i}", d.ip, d.port, d.device);
                return Err(Error::invalid(text));
            }
        }
    }
    let (mut devices, mut rows) = (Vec::new(), Vec::new());
    for b in builders {
        let offset = u32::try_from(devices.len()).map_err(|_| Error::invalid("too many devices"))?;
        let shifted = |id: &u32| if *id == NO_DEVICE { NO_DEVICE } else { id + offset };
        rows.extend(b.assignment.iter().map(|row| row.iter().map(shifted).collect()));
        devices.extend(b.devices.iter().map(|d| {
            d.as_ref().map(|d| {
                let mut d = d.device.clone();
                d.id += offset;
                d
            })
        }));
    }
    Ok(Ring::new(devices, rows, first.part_power))
}

impl Composite {
    /// Reads a composite builder file. Blocks. Errors: `NotFound`, `Invalid`.
    pub fn load(path: &Path) -> Result<Self> {
        let raw = std::fs::read(path).map_err(|e| Error::not_found(format!("{}: {e}", path.display())))?;
        let wrong = || Error::invalid("File does not contain valid composite ring data");
        let v: Value = serde_json::from_slice(&raw).map_err(|_| wrong())?;
        let files = v.get("component_builder_files").and_then(Value::as_object).ok_or_else(wrong)?;
        let component = |c: &Value| {
            let id = c.get("id")?.as_str()?.to_string();
            let file = files.get(&id)?.as_str()?.into();
            Some(Component { version: c.get("version")?.as_i64()?, replicas: c.get("replicas")?.as_f64()?, id, file })
        };
        let list = v.get("components").and_then(Value::as_array).ok_or_else(wrong)?;
        let components = list.iter().map(component).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        Ok(Self { version: v.get("version").and_then(Value::as_u64).ok_or_else(wrong)?, components })
    }

    /// What `show` prints.
    pub fn describe(&self) -> Value {
        let components: Vec<Value> =
            self.components.iter().map(|c| json!({ "id": c.id, "replicas": c.replicas, "version": c.version })).collect();
        let files = self.components.iter().map(|c| (c.id.clone(), Value::from(c.file.display().to_string()))).collect();
        json!({ "component_builder_files": Value::Object(files), "components": components, "version": self.version })
    }

    /// Writes a composite builder file in place of what is there. Blocks.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut v = self.describe();
        v["saved_path"] = std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string().into();
        v["serialization_version"] = 1.into();
        replace(path, v.to_string().as_bytes())
    }

    /// Composes anew from these builder files, or from those of the last time when there are none. Unless `force`,
    /// they must be the builders of the last time in the same order, none older and at least one newer. Blocks.
    pub fn compose(&mut self, files: &[PathBuf], force: bool) -> Result<Ring> {
        let known: Vec<PathBuf> = self.components.iter().map(|c| c.file.clone()).collect();
        let files = if files.is_empty() { &known } else { files };
        let builders = files.iter().map(|f| builder::load(f)).collect::<Result<Vec<_>>>()?;
        let mut next = Vec::new();
        for (i, (b, file)) in builders.iter().zip(files).enumerate() {
            let id = b.id.clone().ok_or_else(|| Error::invalid(format!("Problem with builder at index {i}: it has no id")))?;
            if next.iter().any(|c: &Component| c.id == id) {
                return Err(Error::invalid(format!("Builder id '{id}' used at several indexes, {i} among them")));
            }
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            next.push(Component { id, version: b.version, replicas: b.replicas, file });
        }
        if !force && !self.components.is_empty() {
            self.check(&next)?;
        }
        let ring = compose(&builders)?;
        self.components = next;
        self.version += 1;
        Ok(ring)
    }

    fn check(&self, next: &[Component]) -> Result<()> {
        if next.len() != self.components.len() {
            return Err(Error::invalid(format!("{} builders where {} were composed before", next.len(), self.components.len())));
        }
        for (i, (old, new)) in self.components.iter().zip(next).enumerate() {
            let wrong = |what: String| Err(Error::invalid(format!("Invalid builder change at index {i}: {what}")));
            if old.id != new.id {
                return wrong(format!("Attribute mismatch for id: '{}' != '{}'", old.id, new.id));
            }
            if old.replicas != new.replicas {
                return wrong(format!("Attribute mismatch for replicas: {} != {}", old.replicas, new.replicas));
            }
            if new.version < old.version {
                return wrong(format!("Older builder version: {} < {}", new.version, old.version));
            }
        }
        if self.components.iter().zip(next).all(|(old, new)| old.version == new.version) {
            return Err(Error::invalid("None of the component builders has been modified since the existing composite ring was built."));
        }
        Ok(())
    }
}
