//! Failure domains as a tree: the cluster, its regions, their zones, servers and devices.

use super::Builder;
use std::collections::HashMap;

/// Deepest level: a device.
pub(super) const DEVICE_DEPTH: usize = 4;

/// Levels below the cluster: a device's region, zone, server, and itself.
pub(super) type Path = [usize; DEVICE_DEPTH];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Name {
    Cluster,
    Number(u32),
    Server(String),
    Device(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub name: Name,
    pub parent: usize,
    pub depth: usize,
    /// Those that hold a device with weight, in order of name.
    pub children: Vec<usize>,
    /// Devices with weight below.
    pub devices: usize,
}

/// Nodes by index; the cluster is node 0, children come after their parents.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub nodes: Vec<Node>,
    /// By device id; `None` where there is no device.
    pub paths: Vec<Option<Path>>,
}

impl Tree {
    pub fn of(builder: &Builder) -> Self {
        let root = Node { name: Name::Cluster, parent: 0, depth: 0, children: Vec::new(), devices: 0 };
        let mut tree = Self { nodes: vec![root], paths: vec![None; builder.devices.len()] };
        let mut known: HashMap<(usize, Name), usize> = HashMap::new();
        for d in builder.iter().map(|d| &d.device) {
            let names = [Name::Number(d.region), Name::Number(d.zone), Name::Server(d.ip.clone()), Name::Device(d.id)];
            let (mut at, mut path) = (0, [0; DEVICE_DEPTH]);
            for (depth, name) in names.into_iter().enumerate() {
                let nodes = &mut tree.nodes;
                at = *known.entry((at, name.clone())).or_insert_with(|| {
                    nodes.push(Node { name, parent: at, depth: depth + 1, children: Vec::new(), devices: 0 });
                    nodes.len() - 1
                });
                path[depth] = at;
            }
            if d.weight > 0.0 {
                tree.nodes[0].devices += 1;
                for n in path {
                    tree.nodes[n].devices += 1;
                }
            }
            tree.paths[d.id as usize] = Some(path);
        }
        for n in 1..tree.nodes.len() {
            if tree.nodes[n].devices > 0 {
                let parent = tree.nodes[n].parent;
                tree.nodes[parent].children.push(n);
            }
        }
        for n in 0..tree.nodes.len() {
            let mut children = std::mem::take(&mut tree.nodes[n].children);
            children.sort_by(|a, b| tree.nodes[*a].name.cmp(&tree.nodes[*b].name));
            tree.nodes[n].children = children;
        }
        tree
    }

    pub fn path(&self, id: u32) -> Option<Path> {
        self.paths.get(id as usize).copied().flatten()
    }

    /// From the region down to the node itself.
    pub fn names(&self, mut node: usize) -> Vec<&Name> {
        let mut out = Vec::with_capacity(DEVICE_DEPTH);
        while node != 0 {
            out.push(&self.nodes[node].name);
            node = self.nodes[node].parent;
        }
        out.reverse();
        out
    }
}

/// Part-replicas per node for the partition under consideration; cleared by undoing what was counted.
#[derive(Debug)]
pub(super) struct Counts {
    at: Vec<i64>,
    touched: Vec<usize>,
}

impl Counts {
    pub fn new(tree: &Tree) -> Self {
        Self { at: vec![0; tree.nodes.len()], touched: Vec::new() }
    }

    pub fn clear(&mut self) {
        for n in self.touched.drain(..) {
            self.at[n] = 0;
        }
    }

    pub fn add(&mut self, path: Path, n: i64) {
        for node in path {
            self.at[node] += n;
            self.touched.push(node);
        }
    }

    pub fn get(&self, node: usize) -> i64 {
        self.at[node]
    }
}
