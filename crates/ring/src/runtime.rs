//! Lookups in a finished ring. Source: Swift's documentation, `overview_ring`.

use crate::handoffs::{Handoffs, Totals};
use caelum_swiftkit::NameHash;
use std::sync::OnceLock;

/// A device as rings name it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    pub id: u32,
    pub region: u32,
    pub zone: u32,
    pub ip: String,
    pub port: u16,
    pub replication_ip: String,
    pub replication_port: u16,
    /// Directory below the server's `devices`.
    pub device: String,
    pub weight: f64,
    pub meta: String,
}

/// Absent replica in [`Ring::replica2part2dev`] (fractional replicas).
pub const NO_DEVICE: u32 = u32::MAX;

/// A loaded ring. Its fields are not changed after the first lookup.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// By id; removed devices leave holes.
    pub devices: Vec<Option<Device>>,
    /// For each replica the device id of each partition. The last row may be shorter (fractional replicas).
    pub replica2part2dev: Vec<Vec<u32>>,
    /// 32 minus the part power.
    pub part_shift: u32,
    /// Set while the part power is being increased.
    pub next_part_power: Option<u32>,
    /// Counts changes; 0 when the file does not tell.
    pub version: u64,
    totals: OnceLock<Totals>,
}

impl Ring {
    /// A ring from its parts: devices by id and for each replica the device of each of the `2^part_power`
    /// partitions.
    pub fn new(devices: Vec<Option<Device>>, replica2part2dev: Vec<Vec<u32>>, part_power: u32) -> Self {
        Self { devices, replica2part2dev, part_shift: 32 - part_power.min(32), ..Self::default() }
    }

    /// The devices that take a partition's data while primaries are away, in the order in which every
    /// node tries them: no primary, each once.
    pub fn handoffs(&self, partition: u32) -> Handoffs<'_> {
        Handoffs::new(self, partition, *self.totals.get_or_init(|| Totals::of(self)))
    }

    /// The partition of a name.
    pub fn partition(&self, hash: &NameHash) -> u32 {
        let top = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        top.checked_shr(self.part_shift).unwrap_or(0)
    }

    pub fn part_power(&self) -> u32 {
        32 - self.part_shift
    }

    pub fn partition_count(&self) -> u32 {
        1 << self.part_power()
    }

    /// Replicas; the last row of a fractional ring counts by its length.
    pub fn replicas(&self) -> f64 {
        match (self.replica2part2dev.first(), self.replica2part2dev.last()) {
            (Some(first), Some(last)) if !first.is_empty() => {
                (self.replica2part2dev.len() - 1) as f64 + last.len() as f64 / first.len() as f64
            }
            _ => 0.0,
        }
    }

    /// Replicas, rounded up when fractional.
    pub fn replica_count(&self) -> usize {
        self.replica2part2dev.len()
    }

    pub fn device(&self, id: u32) -> Option<&Device> {
        self.devices.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// The primary devices of a partition in replica order, each device once. The index in the result is the
    /// replica's (and, for erasure coding, the fragment's) number only where no device repeats.
    pub fn primaries(&self, partition: u32) -> Vec<&Device> {
        let mut out: Vec<&Device> = Vec::with_capacity(self.replica2part2dev.len());
        for row in &self.replica2part2dev {
            let id = usize::try_from(partition).ok().and_then(|p| row.get(p)).copied().unwrap_or(NO_DEVICE);
            if let Some(d) = self.device(id).filter(|d| !out.iter().any(|o| o.id == d.id)) {
                out.push(d);
            }
        }
        out
    }
}
