//! Making rings: which device gets which partition.
//!
//! A builder holds what operators declare (devices, weights, replicas) and the assignment so far.
//! [`Builder::rebalance`] moves as few partitions as it can towards what the declaration asks for. Source:
//! Swift's documentation, `overview_ring` (building the ring, overload, dispersion).

mod plan;
mod rebalance;
mod report;
mod store;
mod tree;

use crate::runtime::{Device, NO_DEVICE, Ring};
use caelum_base::{Error, Result};
use caelum_swiftkit::pickle::Value;

pub use rebalance::Rebalanced;
pub use report::{DispersionReport, MAX_BALANCE, TierReport};
pub use store::{decode, encode, load, save};

/// A device as builders know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuilderDevice {
    pub device: Device,
    /// Part-replicas assigned.
    pub parts: i64,
    /// Part-replicas it should gain; negative when it has too many. Set by the last rebalance.
    pub parts_wanted: i64,
    /// What other programs have put into the builder file about it, kept as it is.
    pub extra: Vec<(Value, Value)>,
}

/// How many partitions hold how many replicas in a place: index is the number of replicas.
type DispersionGraph = Vec<(Vec<tree::Name>, Vec<i64>)>;

/// A ring under construction; the content of a `.builder` file.
#[derive(Clone, Debug, PartialEq)]
pub struct Builder {
    pub part_power: u32,
    /// While the part power is being increased.
    pub next_part_power: Option<u32>,
    /// May be fractional: the last replica then covers only part of the ring.
    pub replicas: f64,
    /// A partition that moved stays for this many hours.
    pub min_part_hours: i64,
    /// By id, with holes where devices were removed.
    pub devices: Vec<Option<BuilderDevice>>,
    /// Devices or replicas changed since the last rebalance.
    pub devices_changed: bool,
    /// Counts changes.
    pub version: i64,
    /// How far beyond its weight a device may be filled for the sake of dispersion; 0.1 is 10 %.
    pub overload: f64,
    /// Empty before the first rebalance.
    pub assignment: Vec<Vec<u32>>,
    /// Hours since each partition moved, at `moves_epoch`; at most 255.
    pub last_moves: Vec<u8>,
    /// Seconds since 1970.
    pub moves_epoch: i64,
    pub gather_start: i64,
    /// Per cent of part-replicas that are placed worse than they could be; `None` when never computed.
    pub dispersion: Option<f64>,
    graph: DispersionGraph,
    /// Ids of devices that the next rebalance removes.
    pub removed: Vec<u32>,
    /// Given with the first save.
    pub id: Option<String>,
}

impl Builder {
    /// Errors: `Invalid` in upstream's words when a number is out of range.
    pub fn new(part_power: i64, replicas: f64, min_part_hours: i64) -> Result<Self> {
        if part_power > 32 {
            return Err(Error::invalid(format!("part_power must be at most 32 (was {part_power})")));
        }
        let Ok(power) = u32::try_from(part_power) else {
            return Err(Error::invalid(format!("part_power must be at least 0 (was {part_power})")));
        };
        if replicas.is_nan() || replicas < 1.0 {
            return Err(Error::invalid(format!("replicas must be at least 1 (was {replicas:.6})")));
        }
        if min_part_hours < 0 {
            return Err(Error::invalid(format!("min_part_hours must be non-negative (was {min_part_hours})")));
        }
        Ok(Self {
            part_power: power,
            next_part_power: None,
            replicas,
            min_part_hours,
            devices: Vec::new(),
            devices_changed: false,
            version: 0,
            overload: 0.0,
            assignment: Vec::new(),
            last_moves: vec![0; 1_usize << power],
            moves_epoch: 0,
            gather_start: 0,
            dispersion: Some(0.0),
            graph: Vec::new(),
            removed: Vec::new(),
            id: None,
        })
    }

    pub fn parts(&self) -> usize {
        1 << self.part_power
    }

    /// Present devices in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &BuilderDevice> {
        self.devices.iter().flatten()
    }

    pub fn device(&self, id: u32) -> Option<&BuilderDevice> {
        self.devices.get(id as usize)?.as_ref()
    }

    fn device_mut(&mut self, id: u32) -> Option<&mut BuilderDevice> {
        self.devices.get_mut(id as usize)?.as_mut()
    }

    /// Two unless ids need more.
    pub fn device_id_bytes(&self) -> usize {
        if self.devices.len().saturating_sub(1) >= usize::from(u16::MAX) { 4 } else { 2 }
    }

    /// Adds a device under the lowest free id and gives that id. The device's own `id` is ignored.
    pub fn add(&mut self, mut device: Device) -> u32 {
        let free = self.devices.iter().position(Option::is_none).unwrap_or(self.devices.len());
        if free == self.devices.len() {
            self.devices.push(None);
        }
        let id = u32::try_from(free).unwrap_or(NO_DEVICE);
        device.id = id;
        self.devices[free] = Some(BuilderDevice { device, ..BuilderDevice::default() });
        self.touch();
        id
    }

    fn touch(&mut self) {
        self.devices_changed = true;
        self.version += 1;
    }

    /// Changes where a device stands or what it weighs. Errors: `Invalid` when it is marked for removal
    /// or does not exist.
    pub fn change(&mut self, id: u32, what: &str, change: impl FnOnce(&mut Device)) -> Result<()> {
        if self.removed.contains(&id) {
            return Err(Error::invalid(format!("Can not set {what} of dev_id {id} because it is marked for removal")));
        }
        let Some(d) = self.device_mut(id) else { return Err(Error::invalid(format!("no device {id}"))) };
        change(&mut d.device);
        self.touch();
        Ok(())
    }

    /// Changes what does not decide about places (address, name, meta); nothing needs to move.
    pub fn change_info(&mut self, id: u32, change: impl FnOnce(&mut Device)) {
        if let Some(d) = self.device_mut(id) {
            change(&mut d.device);
        }
    }

    /// Marks a device; the next rebalance moves its partitions away at once and drops it.
    pub fn remove(&mut self, id: u32) {
        if let Some(d) = self.device_mut(id) {
            d.device.weight = 0.0;
            self.removed.push(id);
            self.touch();
        }
    }

    pub fn set_replicas(&mut self, replicas: f64) {
        let slots = |r: f64| (self.parts() as f64 * r) as u64;
        if slots(self.replicas) != slots(replicas) {
            self.devices_changed = true;
        }
        self.replicas = replicas;
    }

    /// Lets every partition move again.
    pub fn pretend_min_part_hours_passed(&mut self) {
        self.moves_epoch = 0;
        self.last_moves.fill(u8::MAX);
    }

    /// Seconds until partitions that moved last may move again.
    pub fn min_part_seconds_left(&self, now: i64) -> i64 {
        (self.min_part_hours * 3_600 - (now - self.moves_epoch)).max(0)
    }

    /// The ring to distribute.
    pub fn ring(&self) -> Ring {
        let devices = self.devices.iter().map(|d| d.as_ref().map(|d| d.device.clone())).collect();
        let mut ring = Ring::new(devices, self.assignment.clone(), self.part_power);
        // Upstream leaves it out of a ring that has no assignment.
        ring.next_part_power = self.next_part_power.filter(|_| !self.assignment.is_empty());
        ring.version = u64::try_from(self.version).unwrap_or(0);
        ring
    }

    /// A builder for a ring whose builder file was lost. What only the builder knew starts anew.
    pub fn from_ring(ring: &Ring, min_part_hours: i64) -> Result<Self> {
        let mut out = Self::new(i64::from(ring.part_power()), ring.replicas().max(1.0), min_part_hours)?;
        out.version = i64::try_from(ring.version).unwrap_or(0);
        out.dispersion = None;
        let wrap = |d: &Device| BuilderDevice { device: d.clone(), ..BuilderDevice::default() };
        out.devices = ring.devices.iter().map(|d| d.as_ref().map(wrap)).collect();
        out.assignment = ring.replica2part2dev.clone();
        out.count_parts();
        Ok(out)
    }

    fn count_parts(&mut self) {
        let mut counts = vec![0_i64; self.devices.len()];
        for id in self.assignment.iter().flatten() {
            if let Some(n) = counts.get_mut(*id as usize) {
                *n += 1;
            }
        }
        for (d, n) in self.devices.iter_mut().zip(counts) {
            if let Some(d) = d {
                d.parts = n;
            }
        }
    }

    /// Replicas of a partition: the rows that reach it.
    fn rows_of(&self, part: usize) -> impl Iterator<Item = usize> {
        self.assignment.iter().enumerate().filter(move |(_, row)| part < row.len()).map(|(i, _)| i)
    }

    /// First step of an increase. False: one is under way.
    pub fn prepare_increase_part_power(&mut self) -> bool {
        if self.next_part_power.is_some() {
            return false;
        }
        self.next_part_power = Some(self.part_power + 1);
        self.version += 1;
        true
    }

    /// Doubles the partitions; each new pair stays where its parent was. False: not prepared, done already,
    /// or the largest part power is reached.
    pub fn increase_part_power(&mut self) -> bool {
        if self.next_part_power != Some(self.part_power + 1) || self.part_power >= 32 {
            return false;
        }
        for row in &mut self.assignment {
            *row = row.iter().flat_map(|id| [*id, *id]).collect();
        }
        self.last_moves = self.last_moves.iter().flat_map(|h| [*h, *h]).collect();
        for d in self.devices.iter_mut().flatten() {
            d.parts *= 2;
        }
        self.part_power += 1;
        self.version += 1;
        true
    }

    /// Gives up a prepared increase; links made for it can be cleaned up, then it is finished. False: nothing
    /// to cancel.
    pub fn cancel_increase_part_power(&mut self) -> bool {
        if self.next_part_power != Some(self.part_power + 1) {
            return false;
        }
        self.next_part_power = Some(self.part_power);
        self.version += 1;
        true
    }

    /// Last step. False: not at that step.
    pub fn finish_increase_part_power(&mut self) -> bool {
        if self.next_part_power != Some(self.part_power) {
            return false;
        }
        self.next_part_power = None;
        self.version += 1;
        true
    }

    /// Brings `last_moves` up to `now` (seconds since 1970).
    pub fn update_last_moves(&mut self, now: i64) {
        let hours = (now - self.moves_epoch) / 3_600;
        if hours <= 0 {
            return;
        }
        let add = u8::try_from(hours).unwrap_or(u8::MAX);
        for h in &mut self.last_moves {
            *h = h.saturating_add(add);
        }
        self.moves_epoch = now;
    }
}
