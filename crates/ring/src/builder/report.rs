//! How good an assignment is.

use super::tree::{Counts, Name, Tree};
use super::{Builder, DispersionGraph};
use crate::python;
use crate::runtime::NO_DEVICE;
use caelum_base::{Error, Result};

/// Stands for "infinitely too full": a device without weight that holds partitions.
pub const MAX_BALANCE: f64 = 999.99;

/// One failure domain in a [`DispersionReport`].
#[derive(Clone, Debug, PartialEq)]
pub struct TierReport {
    /// `r1`, `r1z1`, `r1z1-10.0.0.1`, `r1z1-10.0.0.1/sda`.
    pub name: String,
    /// Replicas of a partition that it should hold at most.
    pub max_replicas: i64,
    pub placed_parts: i64,
    /// Per cent of those placed that exceed the maximum.
    pub dispersion: f64,
    /// Partitions by number of replicas here.
    pub replicas: Vec<i64>,
}

/// Where replicas are closer together than they need to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DispersionReport {
    pub max_dispersion: f64,
    /// The domain with `max_dispersion`; `None` when nothing is at risk.
    pub worst_tier: Option<String>,
    /// All domains that the filter let through, in order of place.
    pub tiers: Vec<TierReport>,
}

impl Builder {
    /// For each device in order of id how many per cent it holds more than its weight asks for.
    pub fn balance_per_device(&self) -> Result<Vec<(u32, f64)>> {
        let per_weight = self.parts_per_weight()?;
        let balance = |weight: f64, parts: i64| match (weight > 0.0, parts) {
            (true, _) => 100.0 * parts as f64 / (weight * per_weight) - 100.0,
            (false, 0) => 0.0,
            (false, _) => MAX_BALANCE,
        };
        Ok(self.iter().map(|d| (d.device.id, balance(d.device.weight, d.parts))).collect())
    }

    /// The worst device's deviation in per cent. Errors: `Invalid` when nothing has weight.
    pub fn balance(&self) -> Result<f64> {
        Ok(self.balance_per_device()?.into_iter().map(|(_, b)| b.abs()).fold(0.0, f64::max))
    }

    /// Counts anew how replicas are spread, which also sets `dispersion`.
    pub fn measure_dispersion(&mut self) {
        let tree = Tree::of(self);
        let allowed = self.most_allowed(&tree);
        let rows = self.replicas.ceil() as usize;
        let mut graph = vec![vec![0_i64; rows + 1]; tree.nodes.len()];
        let mut counts = Counts::new(&tree);
        let mut at_risk = 0.0;
        for part in 0..self.parts() {
            counts.clear();
            let mut touched = Vec::with_capacity(rows * 4);
            for path in self.assignment.iter().filter_map(|row| tree.path(*row.get(part)?)) {
                counts.add(path, 1);
                touched.extend(path);
            }
            touched.sort_unstable();
            touched.dedup();
            // Each replica counts once, on the level where the spread is worst.
            let mut risk = [0.0_f64; super::tree::DEVICE_DEPTH + 1];
            for n in touched {
                let held = counts.get(n);
                if let Some(slot) = graph[n].get_mut(held as usize) {
                    *slot += 1;
                }
                risk[tree.nodes[n].depth] += (held as f64 - allowed[n]).max(0.0);
            }
            at_risk += risk.into_iter().fold(0.0, f64::max);
        }
        let parts = self.parts() as i64;
        let mut out: DispersionGraph = Vec::new();
        for (n, mut held) in graph.into_iter().enumerate().skip(1) {
            let with_any: i64 = held.iter().sum();
            if with_any > 0 {
                held[0] = parts - with_any;
                out.push((tree.names(n).into_iter().cloned().collect(), held));
            }
        }
        out.sort();
        self.graph = out;
        self.dispersion = Some(100.0 * at_risk / (self.parts() as f64 * self.replicas));
        self.version += 1;
    }

    /// `keep` tells by name which domains to look at.
    pub fn dispersion_report(&mut self, keep: &dyn Fn(&str) -> bool, recalculate: bool) -> DispersionReport {
        if recalculate || self.graph.is_empty() {
            self.measure_dispersion();
        }
        let tree = Tree::of(self);
        let allowed = self.most_allowed(&tree);
        let by_name: std::collections::BTreeMap<Vec<&Name>, f64> = (1..tree.nodes.len()).map(|n| (tree.names(n), allowed[n])).collect();
        let mut out = DispersionReport::default();
        for (place, replicas) in &self.graph {
            let name = self.place_name(place);
            if !keep(&name) {
                continue;
            }
            let max_replicas = by_name.get(&place.iter().collect::<Vec<_>>()).copied().unwrap_or(0.0) as i64;
            let weighted = |f: &dyn Fn(i64) -> i64| replicas.iter().enumerate().map(|(i, n)| n * f(i as i64)).sum::<i64>();
            let at_risk = weighted(&|i| (i - max_replicas).max(0));
            let placed_parts = weighted(&|i| i);
            let dispersion = 100.0 * at_risk as f64 / placed_parts.max(1) as f64;
            if dispersion > out.max_dispersion {
                out.max_dispersion = dispersion;
                out.worst_tier = Some(name.clone());
            }
            out.tiers.push(TierReport { name, max_replicas, placed_parts, dispersion, replicas: replicas.clone() });
        }
        out
    }

    fn place_name(&self, place: &[Name]) -> String {
        let mut out = String::new();
        for (depth, name) in place.iter().enumerate() {
            match (depth, name) {
                (0, Name::Number(n)) => out.push_str(&format!("r{n}")),
                (1, Name::Number(n)) => out.push_str(&format!("z{n}")),
                (_, Name::Server(ip)) => out.push_str(&format!("-{ip}")),
                (_, Name::Device(id)) => match self.device(*id) {
                    Some(d) => out.push_str(&format!("/{}", d.device.device)),
                    None => out.push_str(&format!("/IDd{id}")),
                },
                _ => {}
            }
        }
        out
    }

    /// Looks for contradictions: everything assigned, to devices that exist, no partition twice on one.
    /// Errors: `Invalid` naming the first.
    pub fn validate(&self) -> Result<()> {
        if self.assignment.is_empty() {
            return Err(Error::invalid("_replica2part2dev empty; did you forget to rebalance?"));
        }
        let on_devices: i64 = self.iter().map(|d| d.parts).sum();
        let in_map = self.assignment.iter().map(Vec::len).sum::<usize>() as i64;
        if on_devices != in_map {
            return Err(Error::invalid(format!("All partitions are not double accounted for: {on_devices} != {in_map}")));
        }
        for (replica, row) in self.assignment.iter().enumerate() {
            if row.len() < self.parts() && replica + 1 < self.replicas.ceil() as usize {
                return Err(Error::invalid(format!(
                    "The partition assignments of replica {replica} were shorter than expected ({} < {}) - this should only \
                     happen for the last replica",
                    row.len(),
                    self.parts()
                )));
            }
        }
        for part in 0..self.parts() {
            let mut seen: Vec<u32> = Vec::with_capacity(self.assignment.len());
            for replica in self.rows_of(part) {
                let id = self.assignment[replica][part];
                if id == NO_DEVICE || self.device(id).is_none() {
                    return Err(Error::invalid(format!("Partition {part}, replica {replica} was not allocated to a device.")));
                }
                seen.push(id);
            }
            if (1..seen.len()).any(|i| seen[..i].contains(&seen[i])) {
                return Err(Error::invalid(format!("The partition {part} has been assigned to duplicate devices {seen:?}")));
            }
        }
        Ok(())
    }

    pub(super) fn too_few_devices(&self, with_weight: usize) -> Error {
        let replicas = python::float(self.replicas);
        Error::invalid(format!("Replica count of {replicas} requires more than {with_weight} devices"))
    }
}
