//! Moving partitions towards the plan.
//!
//! First everything that must move is gathered: replicas of removed devices, those a changed replica count
//! adds, those that sit closer together than the plan allows. Then what should move: replicas on devices
//! that hold too many. Each gathered replica goes down the tree into the domain that still wants most among
//! those that may take another one. A partition that moved recently stays, and at most one of its replicas
//! moves per rebalance, so that two good ones stay where readers find them; only a removed device overrides
//! that. A replica that is on the move anyway may be placed anew as often as it helps.

use super::Builder;
use super::plan::Plan;
use super::tree::{Counts, Path, Tree};
use crate::runtime::NO_DEVICE;
use caelum_base::{Error, Result, Rng};
use std::collections::BTreeMap;

/// Most rounds of gathering for balance. More than three rarely find anything.
const MAX_ROUNDS: usize = 12;

/// What a rebalance did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalanced {
    /// Part-replicas that are on another device than before.
    pub changed: usize,
    pub balance: f64,
    pub removed_devices: usize,
}

/// Replicas without a device, by partition.
type Homeless = BTreeMap<usize, Vec<usize>>;

struct Work<'a> {
    builder: &'a mut Builder,
    tree: Tree,
    plan: Plan,
    counts: Counts,
    /// Partitions that have given up a replica in this rebalance.
    moved: Vec<bool>,
    /// By row and partition: placed in this rebalance.
    fresh: Vec<Vec<bool>>,
    /// Part-replicas that each domain still wants, devices with too many not counted against it.
    wanted: Vec<i64>,
    rng: &'a dyn Rng,
}

impl Builder {
    /// Assigns partitions anew as weights, spread, overload and `min_part_hours` ask for. `now` in
    /// seconds since 1970. Errors: `Invalid` when the devices cannot hold the replicas; the builder is then
    /// as before.
    pub fn rebalance(&mut self, rng: &dyn Rng, now: i64) -> Result<Rebalanced> {
        let mut next = self.clone();
        let done = next.rebalance_in_place(rng, now)?;
        *self = next;
        Ok(done)
    }

    fn rebalance_in_place(&mut self, rng: &dyn Rng, now: i64) -> Result<Rebalanced> {
        let with_weight = self.iter().filter(|d| d.device.weight > 0.0).count();
        if (with_weight as f64) < self.replicas {
            return Err(self.too_few_devices(with_weight));
        }
        let old = self.assignment.clone();
        self.update_last_moves(now);
        let tree = Tree::of(self);
        let plan = self.plan(&tree)?;
        let mut homeless = Homeless::new();
        self.resize(&mut homeless);
        let mut work = Work {
            counts: Counts::new(&tree),
            moved: vec![false; self.parts()],
            fresh: self.assignment.iter().map(|row| vec![false; row.len()]).collect(),
            wanted: vec![0; tree.nodes.len()],
            builder: self,
            tree,
            plan,
            rng,
        };
        work.set_parts_wanted();
        work.gather_removed(&mut homeless);
        work.gather_dispersion(&mut homeless);
        let removed_devices = work.builder.drop_removed();
        work.balance(homeless)?;
        self.devices_changed = false;
        let changed = changed(&old, &self.assignment);
        self.measure_dispersion();
        Ok(Rebalanced { changed, balance: self.balance()?, removed_devices })
    }

    /// Makes the rows as many and as long as the replica count says.
    fn resize(&mut self, homeless: &mut Homeless) {
        let parts = self.parts();
        let mut lengths = vec![parts; self.replicas as usize];
        let part_row = (parts as f64 * self.replicas.fract()) as usize;
        if self.replicas.fract() > 0.0 {
            lengths.push(part_row);
        }
        self.assignment.resize(lengths.len(), Vec::new());
        for (replica, (row, length)) in self.assignment.iter_mut().zip(&lengths).enumerate() {
            for part in row.len()..*length {
                homeless.entry(part).or_default().push(replica);
            }
            row.resize(*length, NO_DEVICE);
        }
        self.count_parts();
    }

    fn drop_removed(&mut self) -> usize {
        let removed = std::mem::take(&mut self.removed);
        for id in &removed {
            if let Some(slot) = self.devices.get_mut(*id as usize) {
                *slot = None;
            }
        }
        while self.devices.last().is_some_and(Option::is_none) {
            self.devices.pop();
        }
        removed.len()
    }
}

fn changed(old: &[Vec<u32>], new: &[Vec<u32>]) -> usize {
    let was = |replica: usize, part: usize| old.get(replica).and_then(|row| row.get(part));
    new.iter().enumerate().map(|(r, row)| row.iter().enumerate().filter(|(p, id)| was(r, *p) != Some(*id)).count()).sum()
}

impl Work<'_> {
    /// Whole part-replicas for each domain from the plan's fractions, exact at every level: the largest
    /// remainders are rounded up.
    fn set_parts_wanted(&mut self) {
        let parts = self.builder.parts() as f64;
        let mut share = vec![0_i64; self.tree.nodes.len()];
        share[0] = self.builder.assignment.iter().map(Vec::len).sum::<usize>() as i64;
        for n in 0..self.tree.nodes.len() {
            let children = &self.tree.nodes[n].children;
            if children.is_empty() {
                continue;
            }
            let mut rest = share[n];
            let mut remainders = Vec::with_capacity(children.len());
            for c in children {
                let exact = self.plan.target[*c] * parts;
                let whole = ((exact + 1e-6).floor() as i64).min(rest);
                share[*c] = whole;
                rest -= whole;
                remainders.push((exact - whole as f64, *c));
            }
            remainders.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            for (_, c) in remainders.iter().cycle().take(usize::try_from(rest).unwrap_or(0)) {
                share[*c] += 1;
            }
        }
        let all = -((parts * self.builder.replicas) as i64);
        for d in self.builder.devices.iter_mut().flatten() {
            let Some(path) = self.tree.paths[d.device.id as usize] else { continue };
            d.parts_wanted = if d.device.weight > 0.0 { share[path[3]] - d.parts } else { all };
        }
    }

    fn parts_wanted(&self, id: u32) -> i64 {
        self.builder.device(id).map_or(0, |d| d.parts_wanted)
    }

    fn can_move(&self, part: usize) -> bool {
        i64::from(self.builder.last_moves[part]) >= self.builder.min_part_hours && !self.moved[part]
    }

    /// Rows and devices that hold the partition now.
    fn holders(&self, part: usize) -> Vec<(usize, u32)> {
        let held = self.builder.rows_of(part).map(|row| (row, self.builder.assignment[row][part]));
        held.filter(|(_, id)| *id != NO_DEVICE).collect()
    }

    /// Counts the partition's replicas per domain.
    fn count(&mut self, holders: &[(usize, u32)]) {
        self.counts.clear();
        for path in holders.iter().filter_map(|(_, id)| self.tree.path(*id)) {
            self.counts.add(path, 1);
        }
    }

    /// Takes a replica off its device.
    fn gather(&mut self, part: usize, replica: usize, homeless: &mut Homeless) {
        let id = std::mem::replace(&mut self.builder.assignment[replica][part], NO_DEVICE);
        if let Some(d) = self.builder.device_mut(id) {
            d.parts -= 1;
            d.parts_wanted += 1;
        }
        if let Some(path) = self.tree.path(id) {
            self.counts.add(path, -1);
        }
        homeless.entry(part).or_default().push(replica);
        if !self.fresh[replica][part] {
            self.moved[part] = true;
            self.builder.last_moves[part] = 0;
        }
    }

    fn gather_removed(&mut self, homeless: &mut Homeless) {
        let removed = self.builder.removed.clone();
        if removed.is_empty() {
            return;
        }
        for part in 0..self.builder.parts() {
            for (row, id) in self.holders(part) {
                if removed.contains(&id) {
                    self.gather(part, row, homeless);
                }
            }
        }
    }

    fn gather_dispersion(&mut self, homeless: &mut Homeless) {
        for part in 0..self.builder.parts() {
            if !self.can_move(part) {
                continue;
            }
            let mut holders = self.holders(part);
            self.count(&holders);
            holders.sort_by_key(|(_, id)| self.parts_wanted(*id));
            for (row, id) in holders {
                let Some(path) = self.tree.path(id) else { continue };
                // Two replicas on one device are none the safer for waiting.
                let doubled = self.counts.get(path[3]) > 1;
                let crowded = path.iter().any(|n| self.counts.get(*n) > self.plan.max(*n));
                if crowded && (doubled || self.can_move(part)) {
                    self.gather(part, row, homeless);
                }
            }
        }
    }

    fn balance(&mut self, mut homeless: Homeless) -> Result<()> {
        let mut best = i64::MAX;
        for round in 0..MAX_ROUNDS {
            self.gather_overweight(&mut homeless, round);
            if homeless.is_empty() {
                break;
            }
            self.place(std::mem::take(&mut homeless))?;
            let excess: i64 = self.builder.iter().filter(|d| d.device.weight > 0.0).map(|d| (-d.parts_wanted).max(0)).sum();
            if excess == 0 && round > 0 || round >= 3 && excess >= best {
                break;
            }
            best = excess;
        }
        Ok(())
    }

    /// From devices that hold too many. In the even rounds only replicas for which the plan has a better
    /// place; in the odd ones any, which loosens what blocks the others.
    fn gather_overweight(&mut self, homeless: &mut Homeless, round: usize) {
        let parts = self.builder.parts();
        // Where the walk begins changes, so that not always the same partitions move.
        let turn = parts / 4 + self.rng.below(parts as u64 / 2 + 1) as usize;
        let start = (usize::try_from(self.builder.gather_start).unwrap_or(0) + turn) % parts;
        self.builder.gather_start = start as i64;
        self.sum_wanted();
        for part in (start..parts).chain(0..start) {
            let free = self.can_move(part);
            let mut holders = self.holders(part);
            let all = holders.clone();
            holders.retain(|(row, id)| self.parts_wanted(*id) < 0 && (free || self.fresh[*row][part]));
            if holders.is_empty() {
                continue;
            }
            self.count(&all);
            holders.sort_by_key(|(_, id)| self.parts_wanted(*id));
            let better = |w: &Self| holders.iter().find(|(_, id)| w.has_better_place(*id)).copied();
            let forced = round % 2 == 1 || round == 0;
            let Some((row, id)) = better(self).or(holders.first().copied().filter(|_| forced)) else { continue };
            if let Some(path) = self.better_place(id) {
                // Spoken for, so that one vacancy does not draw replicas from everywhere.
                for n in path {
                    self.wanted[n] -= 1;
                }
            }
            self.gather(part, row, homeless);
        }
    }

    fn has_better_place(&self, id: u32) -> bool {
        self.better_place(id).is_some()
    }

    /// A device that wants more and to which the counted partition's replica on `id` could go without
    /// leaving a domain short of the plan or over it.
    fn better_place(&self, id: u32) -> Option<Path> {
        let path = self.tree.path(id)?;
        // The deepest domain that would fall below its least binds the replica.
        let bound = path.iter().rposition(|n| self.counts.get(*n) - 1 < self.plan.min(*n));
        if bound == Some(path.len() - 1) && self.builder.device(id).is_some_and(|d| d.device.weight > 0.0) {
            return None;
        }
        let root = bound.filter(|b| *b < path.len() - 1).map_or(0, |b| path[b]);
        self.vacancy(root, &path)
    }

    fn vacancy(&self, node: usize, from: &Path) -> Option<Path> {
        for c in &self.tree.nodes[node].children {
            let own = from.contains(c);
            let takes = self.wanted[*c] > 0 && (own || self.counts.get(*c) < self.plan.max(*c));
            if !takes {
                continue;
            }
            let child = &self.tree.nodes[*c];
            if !child.children.is_empty() {
                if let Some(found) = self.vacancy(*c, from) {
                    return Some(found);
                }
            } else if !own {
                return self.path_to(*c);
            }
        }
        None
    }

    fn path_to(&self, leaf: usize) -> Option<Path> {
        let mut path = Path::default();
        let mut at = leaf;
        for slot in path.iter_mut().rev() {
            *slot = at;
            at = self.tree.nodes[at].parent;
        }
        (at == 0).then_some(path)
    }

    fn sum_wanted(&mut self) {
        self.wanted.fill(0);
        for d in self.builder.devices.iter().flatten() {
            for n in self.tree.path(d.device.id).into_iter().flatten() {
                self.wanted[n] += d.parts_wanted.max(0);
            }
        }
    }

    /// Gives every homeless replica a device. Errors: `Invalid` when one fits nowhere.
    fn place(&mut self, homeless: Homeless) -> Result<()> {
        self.sum_wanted();
        let mut order: Vec<(usize, Vec<usize>)> = homeless.into_iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.rng.below(i as u64 + 1) as usize);
        }
        let ids: Vec<(usize, u32)> = self.builder.iter().filter_map(|d| Some((self.tree.path(d.device.id)?[3], d.device.id))).collect();
        let mut device_at = vec![NO_DEVICE; self.tree.nodes.len()];
        for (node, id) in ids {
            device_at[node] = id;
        }
        for (part, replicas) in order {
            self.builder.last_moves[part] = 0;
            let holders = self.holders(part);
            self.count(&holders);
            for replica in replicas {
                let Some(leaf) = self.home() else {
                    return Err(Error::invalid(format!("no home for {part}/{replica}")));
                };
                let Some(path) = self.path_to(leaf) else { continue };
                self.counts.add(path, 1);
                for n in path {
                    self.wanted[n] -= 1;
                }
                if let Some(d) = self.builder.device_mut(device_at[leaf]) {
                    d.parts += 1;
                    d.parts_wanted -= 1;
                }
                self.builder.assignment[replica][part] = device_at[leaf];
                self.fresh[replica][part] = true;
            }
        }
        Ok(())
    }

    /// The leaf for one more replica of the counted partition.
    fn home(&self) -> Option<usize> {
        let mut at = 0;
        while !self.tree.nodes[at].children.is_empty() {
            at = self.roomiest(at, true).or_else(|| self.roomiest(at, false))?;
        }
        Some(at)
    }

    /// The child that wants most among those below their maximum, or (`strict` false, when replicas that
    /// may not move yet block the plan) among those with a device that does not hold the partition.
    fn roomiest(&self, node: usize, strict: bool) -> Option<usize> {
        let mut best: Option<(i64, usize)> = None;
        let mut ties = 0;
        for c in &self.tree.nodes[node].children {
            let held = self.counts.get(*c);
            let fits = if strict { held < self.plan.max(*c) } else { held < self.tree.nodes[*c].devices as i64 };
            if !fits {
                continue;
            }
            let wanted = self.wanted[*c];
            match best {
                Some((most, _)) if wanted < most => {}
                Some((most, _)) if wanted == most => {
                    ties += 1;
                    if self.rng.below(ties + 1) == 0 {
                        best = Some((wanted, *c));
                    }
                }
                _ => (best, ties) = (Some((wanted, *c)), 0),
            }
        }
        best.map(|(_, c)| c)
    }
}
