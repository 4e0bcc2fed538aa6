//! Where data goes while a primary device cannot take it. Every node must name the same devices in the
//! same order, or later readers and replicators would not look where writers put it: the walk starts
//! at a partition that the MD5 of the partition's decimal number chooses and takes first devices in
//! regions not yet used, then zones, then servers, then any.

use crate::runtime::{Device, NO_DEVICE, Ring};
use md5::{Digest, Md5};
use std::collections::{HashMap, HashSet};

/// Region, zone and address; a level of the walk compares a prefix.
type Place<'a> = (u32, u32, &'a str);

/// How many distinct places hold at least one partition; the walk stops looking for a new one when it
/// has used all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    regions: usize,
    zones: usize,
    ips: usize,
    devices: usize,
}

impl Totals {
    pub(crate) fn of(ring: &Ring) -> Self {
        let mut assigned = vec![false; ring.devices.len()];
        for row in &ring.replica2part2dev {
            for id in row {
                if let Some(a) = usize::try_from(*id).ok().and_then(|i| assigned.get_mut(i)) {
                    *a = true;
                }
            }
        }
        let (mut regions, mut zones, mut ips, mut devices) = (HashSet::new(), HashSet::new(), HashSet::new(), 0);
        for d in ring.devices.iter().zip(&assigned).filter(|(_, a)| **a).filter_map(|(d, _)| d.as_ref()) {
            devices += 1;
            regions.insert(d.region);
            zones.insert((d.region, d.zone));
            ips.insert((d.region, d.zone, d.ip.as_str()));
        }
        Self { regions: regions.len(), zones: zones.len(), ips: ips.len(), devices }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Region,
    Zone,
    Ip,
    Device,
}

/// Iterator over a partition's handoff devices, see [`Ring::handoffs`].
#[derive(Debug)]
pub struct Handoffs<'a> {
    ring: &'a Ring,
    totals: Totals,
    used: HashSet<u32>,
    places: HashMap<u32, HashMap<u32, HashSet<&'a str>>>,
    level: Option<Level>,
    start: usize,
    step: usize,
    parts: usize,
    /// Position of the walk: partition and row. `wrapped` once it has passed the end.
    part: usize,
    row: usize,
    wrapped: bool,
}

impl<'a> Handoffs<'a> {
    pub(crate) fn new(ring: &'a Ring, partition: u32, totals: Totals) -> Self {
        let parts = ring.replica2part2dev.first().map_or(0, Vec::len);
        let digest = Md5::digest(partition.to_string().as_bytes());
        let top = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        let start = top.checked_shr(ring.part_shift).unwrap_or(0) as usize;
        let step = (parts / 65_536).max(1);
        let mut walk = Self {
            ring,
            totals,
            used: HashSet::new(),
            places: HashMap::new(),
            level: (parts > 0).then_some(Level::Region),
            start,
            step,
            parts,
            part: start,
            row: 0,
            wrapped: false,
        };
        for d in ring.primaries(partition) {
            walk.mark(d);
        }
        walk.skip_exhausted();
        walk
    }

    fn mark(&mut self, d: &'a Device) {
        self.used.insert(d.id);
        self.places.entry(d.region).or_default().entry(d.zone).or_default().insert(d.ip.as_str());
    }

    fn is_new(&self, (region, zone, ip): Place<'a>) -> bool {
        let zones = self.places.get(&region);
        match self.level {
            Some(Level::Region) => zones.is_none(),
            Some(Level::Zone) => zones.is_none_or(|z| !z.contains_key(&zone)),
            Some(Level::Ip) => zones.and_then(|z| z.get(&zone)).is_none_or(|i| !i.contains(ip)),
            Some(Level::Device) => true,
            None => false,
        }
    }

    fn exhausted(&self, level: Level) -> bool {
        match level {
            Level::Region => self.places.len() >= self.totals.regions,
            Level::Zone => self.places.values().map(HashMap::len).sum::<usize>() >= self.totals.zones,
            Level::Ip => {
                let ips: usize = self.places.values().flat_map(HashMap::values).map(HashSet::len).sum();
                ips >= self.totals.ips
            }
            Level::Device => self.used.len() >= self.totals.devices,
        }
    }

    /// Begins the next level whenever the present one has nothing left to find.
    fn skip_exhausted(&mut self) {
        while let Some(level) = self.level
            && self.exhausted(level)
        {
            self.next_level();
        }
    }

    fn next_level(&mut self) {
        self.level = match self.level {
            Some(Level::Region) => Some(Level::Zone),
            Some(Level::Zone) => Some(Level::Ip),
            Some(Level::Ip) => Some(Level::Device),
            _ => None,
        };
        (self.part, self.row, self.wrapped) = (self.start, 0, false);
    }

    /// The device at the walk's position, which moves on. `None` at the end of the level.
    fn advance(&mut self) -> Option<u32> {
        loop {
            if self.row >= self.ring.replica2part2dev.len() {
                self.row = 0;
                self.part += self.step;
            }
            if !self.wrapped && self.part >= self.parts {
                self.wrapped = true;
                // Where upstream goes on after the end: partition 0 is left out when the step is one.
                self.part = self.step - ((self.parts.saturating_sub(self.start)) % self.step);
            }
            if self.wrapped && self.part >= self.start {
                return None;
            }
            let id = self.ring.replica2part2dev[self.row].get(self.part).copied();
            self.row += 1;
            if let Some(id) = id.filter(|id| *id != NO_DEVICE) {
                return Some(id);
            }
        }
    }
}

impl<'a> Iterator for Handoffs<'a> {
    type Item = &'a Device;

    fn next(&mut self) -> Option<&'a Device> {
        while self.level.is_some() {
            let Some(id) = self.advance() else {
                self.next_level();
                self.skip_exhausted();
                continue;
            };
            if self.used.contains(&id) {
                continue;
            }
            let ring = self.ring;
            if let Some(d) = ring.device(id)
                && self.is_new((d.region, d.zone, &d.ip))
            {
                self.mark(d);
                self.skip_exhausted();
                return Some(d);
            }
        }
        None
    }
}
