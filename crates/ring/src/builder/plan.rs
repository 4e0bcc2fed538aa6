//! How many replicas of a partition each failure domain should hold.
//!
//! Three answers: what weights ask for, what the widest spread asks for, and, between the two as far as the
//! overload allows, the target. A replicanth is a fraction of a replica: 1.5 means one replica of every
//! partition and a second one of every other.

use super::Builder;
use super::tree::{DEVICE_DEPTH, Tree};
use caelum_base::{Error, Result};

const TINY: f64 = 1e-10;

/// Replicas per node of the tree.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub target: Vec<f64>,
}

impl Plan {
    /// Fewest replicas of any partition.
    pub fn min(&self, node: usize) -> i64 {
        (self.target[node] + TINY).floor() as i64
    }

    /// Most replicas of any partition.
    pub fn max(&self, node: usize) -> i64 {
        (self.target[node] - TINY).ceil() as i64
    }
}

impl Builder {
    /// Part-replicas per unit of weight. Errors: `Invalid` when nothing has weight.
    pub fn parts_per_weight(&self) -> Result<f64> {
        let total: f64 = self.iter().map(|d| d.device.weight).sum();
        if total == 0.0 {
            return Err(Error::invalid("There are no devices in this ring, or all devices have been deleted"));
        }
        Ok(self.parts() as f64 * self.replicas / total)
    }

    /// Errors: `Invalid` when the devices cannot hold the replicas.
    pub(super) fn plan(&self, tree: &Tree) -> Result<Plan> {
        let weighted = self.weighted(tree)?;
        let wanted = self.wanted(tree, &weighted)?;
        let required = required(tree, &weighted, &wanted);
        if required <= 0.0 {
            return Ok(Plan { target: wanted });
        }
        let share = self.overload.min(required) / required;
        let target = weighted.iter().zip(&wanted).map(|(by_weight, by_spread)| by_weight + (by_spread - by_weight) * share);
        Ok(Plan { target: target.collect() })
    }

    /// The overload with which the widest spread is reached.
    pub fn required_overload(&self) -> Result<f64> {
        let tree = Tree::of(self);
        let weighted = self.weighted(&tree)?;
        let wanted = self.wanted(&tree, &weighted)?;
        Ok(required(&tree, &weighted, &wanted).max(0.0))
    }

    /// Most replicas of a partition that a spread as even as possible puts into each domain: the number
    /// that dispersion is measured against.
    pub(super) fn most_allowed(&self, tree: &Tree) -> Vec<f64> {
        self.even(tree, f64::ceil)
    }

    fn even(&self, tree: &Tree, round: fn(f64) -> f64) -> Vec<f64> {
        let mut out = vec![0.0; tree.nodes.len()];
        out[0] = self.replicas;
        // Parents come before children.
        for n in 0..tree.nodes.len() {
            let children = &tree.nodes[n].children;
            for c in children {
                let share = round(out[n] / children.len() as f64);
                out[*c] = if tree.nodes[*c].depth == DEVICE_DEPTH { share.min(1.0) } else { share };
            }
        }
        out
    }

    /// By weight; a device holds at most one replica of a partition, what exceeds that goes to the others.
    fn weighted(&self, tree: &Tree) -> Result<Vec<f64>> {
        self.parts_per_weight()?;
        let devices: Vec<(u32, f64)> = self.iter().filter(|d| d.device.weight > 0.0).map(|d| (d.device.id, d.device.weight)).collect();
        let weights: Vec<f64> = devices.iter().map(|(_, w)| *w).collect();
        let bounds = vec![(0.0, 1.0); devices.len()];
        let shares = shares(self.replicas, &weights, &bounds);
        let mut out = vec![0.0; tree.nodes.len()];
        for ((id, _), share) in devices.iter().zip(shares) {
            out[0] += share;
            for n in tree.path(*id).into_iter().flatten() {
                out[n] += share;
            }
        }
        Ok(out)
    }

    /// As spread out as the tree allows, by weight within that.
    fn wanted(&self, tree: &Tree, weighted: &[f64]) -> Result<Vec<f64>> {
        let even = self.even(tree, |share| share);
        let mut out = vec![0.0; tree.nodes.len()];
        out[0] = self.replicas;
        for n in 0..tree.nodes.len() {
            let node = &tree.nodes[n];
            if out[n] > node.devices as f64 + TINY {
                return Err(Error::invalid(format!("More replicanths ({}) than devices ({})", out[n], node.devices)));
            }
            if node.children.is_empty() {
                continue;
            }
            let weights: Vec<f64> = node.children.iter().map(|c| weighted[*c]).collect();
            let room = |c: &usize| tree.nodes[*c].devices as f64;
            let low = |c: &usize| even[*c].floor().min(room(c));
            let spread: Vec<(f64, f64)> = node.children.iter().map(|c| (low(c), even[*c].ceil().min(room(c)))).collect();
            let most: f64 = spread.iter().map(|b| b.1).sum();
            // Domains with too few devices push more than an even share on the others.
            let bounds = if most + TINY < out[n] { node.children.iter().map(|c| (low(c), room(c))).collect() } else { spread };
            for (c, share) in node.children.iter().zip(shares(out[n], &weights, &bounds)) {
                out[*c] = share;
            }
        }
        Ok(out)
    }
}

/// The largest relative growth from a device's share by weight to the one wanted.
fn required(tree: &Tree, weighted: &[f64], wanted: &[f64]) -> f64 {
    let leaves = (0..tree.nodes.len()).filter(|n| tree.nodes[*n].depth == DEVICE_DEPTH && weighted[*n] > 0.0);
    let growth = leaves.map(|n| (wanted[n] - weighted[n]) / weighted[n]);
    // Rounding alone asks for no overload.
    growth.fold(0.0, |most, g| if g > TINY { f64::max(most, g) } else { most })
}

/// Divides `total` in proportion to `weights` within each one's bounds: every share is `weight · x`, cut to
/// its bounds, for the one `x` that makes the sum right.
fn shares(total: f64, weights: &[f64], bounds: &[(f64, f64)]) -> Vec<f64> {
    let share = |x: f64, i: usize| (weights[i] * x).clamp(bounds[i].0, bounds[i].1);
    let sum = |x: f64| (0..weights.len()).map(|i| share(x, i)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    let ceiling: f64 = bounds.iter().map(|b| b.1).sum();
    if ceiling <= total {
        return bounds.iter().map(|b| b.1).collect();
    }
    while sum(high) < total && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if sum(middle) < total { low = middle } else { high = middle }
    }
    let mut out: Vec<f64> = (0..weights.len()).map(|i| share(high, i)).collect();
    // What bisection leaves is settled among those strictly within their bounds.
    let within: Vec<usize> = (0..out.len()).filter(|i| out[*i] > bounds[*i].0 + TINY && out[*i] < bounds[*i].1 - TINY).collect();
    let rest = total - out.iter().sum::<f64>();
    let weight: f64 = within.iter().map(|i| weights[*i]).sum();
    for i in within {
        out[i] += rest * weights[i] / weight;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_their_bounds_and_sum() {
        let free = [(0.0, 1.0); 4];
        assert_eq!(shares(3.0, &[1.0, 1.0, 1.0, 1.0], &free), vec![0.75; 4]);
        let s = shares(3.0, &[10.0, 1.0, 1.0, 1.0], &free);
        assert!((s[0] - 1.0).abs() < 1e-9 && (s[1] - 2.0 / 3.0).abs() < 1e-9, "{s:?}");
        let s = shares(3.0, &[2.0, 1.0], &[(1.0, 2.0), (1.0, 2.0)]);
        assert!((s.iter().sum::<f64>() - 3.0).abs() < 1e-12 && (s[0] - 2.0).abs() < 1e-9, "{s:?}");
        assert_eq!(shares(4.0, &[1.0, 1.0], &[(0.0, 2.0), (0.0, 2.0)]), vec![2.0, 2.0]);
    }
}
