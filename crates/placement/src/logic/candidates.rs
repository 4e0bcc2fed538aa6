//! Which sets of providers could satisfy a request: a pure function of a snapshot.
//!
//! Candidates are found tree by tree and the search stops at the limit, so that a request with many
//! groups cannot ask for the whole product.

use super::request::{Group, Request};
use crate::store::{Inventory, Provider};
use std::collections::{BTreeMap, BTreeSet};

/// Most candidates returned whatever the request says.
pub const MAX_CANDIDATES: usize = 1_000;
const SHARING: &str = "MISC_SHARES_VIA_AGGREGATE";

/// A provider with everything the search looks at.
#[derive(Clone, Debug)]
pub struct Node {
    pub provider: Provider,
    pub inventories: BTreeMap<String, Inventory>,
    pub traits: Vec<String>,
    pub aggregates: Vec<String>,
}

/// One way to satisfy a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Provider → class → amount.
    pub allocations: BTreeMap<String, BTreeMap<String, i64>>,
    /// Group suffix → providers.
    pub mappings: BTreeMap<String, BTreeSet<String>>,
}

impl Candidate {
    fn add(&mut self, suffix: &str, provider: &str, class: &str, amount: i64) {
        *self.allocations.entry(provider.to_string()).or_default().entry(class.to_string()).or_default() += amount;
        self.mappings.entry(suffix.to_string()).or_default().insert(provider.to_string());
    }
}

struct Search<'a> {
    request: &'a Request,
    nodes: &'a BTreeMap<String, Node>,
    limit: usize,
    found: Vec<Candidate>,
}

/// All candidates up to the request's limit, in the order of root provider ids. Without `nested`
/// (before 1.29) a group's resources come from root providers and sharing providers alone.
pub fn find(request: &Request, nodes: &BTreeMap<String, Node>, nested: bool) -> Vec<Candidate> {
    let limit = request.limit.unwrap_or(MAX_CANDIDATES).min(MAX_CANDIDATES);
    let mut search = Search { request, nodes, limit, found: Vec::new() };
    for (id, root) in nodes.iter().filter(|(id, n)| n.provider.root == **id) {
        if !request.root.admit(&root.traits) {
            continue;
        }
        let mut tree: Vec<&Node> = nodes.values().filter(|n| n.provider.root == *id && (nested || n.provider.id == *id)).collect();
        // Sharing providers join every tree that has an aggregate in common with them.
        let shares = |n: &&Node| {
            n.provider.root != *id
                && n.traits.iter().any(|t| t == SHARING)
                && tree.iter().any(|t| t.aggregates.iter().any(|a| n.aggregates.contains(a)))
        };
        let sharing: Vec<&Node> = nodes.values().filter(shares).collect();
        tree.extend(sharing);
        let suffixes: Vec<&String> = request.groups.keys().collect();
        search.group(&tree, &suffixes, Candidate::default());
        if search.found.len() >= limit {
            break;
        }
    }
    search.found
}

impl Search<'_> {
    fn group(&mut self, tree: &[&Node], suffixes: &[&String], partial: Candidate) {
        if self.found.len() >= self.limit {
            return;
        }
        let Some((suffix, rest)) = suffixes.split_first() else {
            if self.acceptable(tree, &partial) && !self.found.contains(&partial) {
                self.found.push(partial);
            }
            return;
        };
        let group = &self.request.groups[*suffix];
        if suffix.is_empty() {
            let classes: Vec<(&String, &i64)> = group.resources.iter().collect();
            self.spread(tree, group, &classes, partial, rest);
        } else {
            self.single(tree, suffix, group, &partial, rest);
        }
    }

    /// A suffixed group: all from one provider.
    fn single(&mut self, tree: &[&Node], suffix: &str, group: &Group, partial: &Candidate, rest: &[&String]) {
        for node in tree.iter().filter(|n| in_tree(group, n) && group.traits.admit(&n.traits) && group.members.admit(&n.aggregates)) {
            let taken = partial.mappings.iter().any(|(s, ps)| !s.is_empty() && ps.contains(&node.provider.id));
            if self.request.isolate && taken {
                continue;
            }
            if !group.resources.iter().all(|(c, n)| node.inventories.get(c).is_some_and(|i| i.fits(*n))) {
                continue;
            }
            let mut next = partial.clone();
            next.mappings.entry(suffix.to_string()).or_default().insert(node.provider.id.clone());
            for (class, amount) in &group.resources {
                next.add(suffix, &node.provider.id, class, *amount);
            }
            self.group(tree, rest, next);
        }
    }

    /// The group without suffix: each class from any provider of the tree.
    fn spread(&mut self, tree: &[&Node], group: &Group, classes: &[(&String, &i64)], partial: Candidate, rest: &[&String]) {
        if self.found.len() >= self.limit {
            return;
        }
        let Some(((class, amount), others)) = classes.split_first() else {
            if self.spread_admitted(tree, group, &partial) {
                self.group(tree, rest, partial);
            }
            return;
        };
        for node in tree.iter().filter(|n| in_tree(group, n) && n.inventories.get(*class).is_some_and(|i| i.fits(**amount))) {
            if node.traits.iter().any(|t| group.traits.forbidden.contains(t)) {
                continue;
            }
            let mut next = partial.clone();
            next.add("", &node.provider.id, class, **amount);
            self.spread(tree, group, others, next, rest);
        }
    }

    /// Required traits of the unsuffixed group may stand on any provider used; aggregates on it or its root.
    fn spread_admitted(&self, tree: &[&Node], group: &Group, partial: &Candidate) -> bool {
        let Some(used) = partial.mappings.get("") else { return true };
        let traits: Vec<String> = used.iter().filter_map(|id| self.nodes.get(id)).flat_map(|n| n.traits.clone()).collect();
        let root = tree.first().and_then(|n| self.nodes.get(&n.provider.root));
        let members = |id: &String| {
            let own = self.nodes.get(id).map(|n| n.aggregates.clone()).unwrap_or_default();
            let shared = root.map(|r| r.aggregates.clone()).unwrap_or_default();
            group.members.admit(&own.into_iter().chain(shared).collect::<Vec<_>>())
        };
        group.traits.any.iter().all(|alternatives| alternatives.iter().any(|t| traits.contains(t))) && used.iter().all(members)
    }

    /// The whole fits: amounts of different groups on one provider add up, subtrees are shared.
    fn acceptable(&self, tree: &[&Node], c: &Candidate) -> bool {
        let fits = c.allocations.iter().all(|(id, resources)| {
            let Some(node) = tree.iter().find(|n| n.provider.id == *id) else { return false };
            resources.iter().all(|(class, n)| node.inventories.get(class).is_some_and(|i| i.used + n <= i.capacity() && *n <= i.max_unit))
        });
        fits && self.request.same_subtree.iter().all(|suffixes| self.same_subtree(c, suffixes))
    }

    fn same_subtree(&self, c: &Candidate, suffixes: &[String]) -> bool {
        let used: Vec<&String> = suffixes.iter().filter_map(|s| c.mappings.get(s)).flatten().collect();
        used.iter().any(|top| used.iter().all(|id| self.is_below(id, top)))
    }

    fn is_below(&self, id: &str, top: &str) -> bool {
        let mut at = Some(id.to_string());
        while let Some(here) = at {
            if here == top {
                return true;
            }
            at = self.nodes.get(&here).and_then(|n| n.provider.parent.clone());
        }
        false
    }
}

fn in_tree(group: &Group, node: &Node) -> bool {
    group.in_tree.as_ref().is_none_or(|t| node.provider.root == *t || node.provider.id == *t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_rest::QueryParams;

    fn node(id: &str, parent: Option<&str>, inventory: &[(&str, i64, i64)], traits: &[&str]) -> (String, Node) {
        let root = parent.unwrap_or(id).to_string();
        let provider = Provider { id: id.into(), name: id.into(), parent: parent.map(String::from), root, generation: 0 };
        let inv = |(c, total, used): &(&str, i64, i64)| {
            let i =
                Inventory { total: *total, reserved: 0, min_unit: 1, max_unit: *total, step_size: 1, allocation_ratio: 1.0, used: *used };
            ((*c).to_string(), i)
        };
        (
            id.into(),
            Node {
                provider,
                inventories: inventory.iter().map(inv).collect(),
                traits: traits.iter().map(|t| (*t).to_string()).collect(),
                aggregates: vec![],
            },
        )
    }

    fn check(query: &str, nodes: &[(String, Node)]) -> Vec<String> {
        let request = Request::parse(&QueryParams::parse(Some(query)).expect("query")).expect("request");
        let found = find(&request, &nodes.iter().cloned().collect(), true);
        found
            .iter()
            .map(|c| {
                c.allocations
                    .iter()
                    .map(|(p, r)| format!("{p}={}", r.iter().map(|(c, n)| format!("{c}{n}")).collect::<Vec<_>>().join("+")))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    }

    #[test]
    fn capacity_traits_and_groups() {
        let nodes = [
            node("a", None, &[("VCPU", 4, 0), ("MEMORY_MB", 100, 0)], &["T"]),
            node("b", None, &[("VCPU", 4, 4), ("MEMORY_MB", 100, 0)], &["T"]),
            node("c", None, &[("VCPU", 4, 0), ("MEMORY_MB", 100, 0)], &[]),
            node("c1", Some("c"), &[("VGPU", 1, 0)], &["G"]),
            node("c2", Some("c"), &[("VGPU", 2, 0)], &["G"]),
        ];
        assert_eq!(check("resources=VCPU:2,MEMORY_MB:50", &nodes), ["a=MEMORY_MB50+VCPU2", "c=MEMORY_MB50+VCPU2"]);
        assert_eq!(check("resources=VCPU:2&required=T", &nodes), ["a=VCPU2"]);
        assert_eq!(check("resources=VCPU:2&required=!T", &nodes), ["c=VCPU2"]);
        assert_eq!(check("resources=VCPU:1&resources1=VGPU:1&required1=G", &nodes), ["c=VCPU1 c1=VGPU1", "c=VCPU1 c2=VGPU1"]);
        let two = "resources1=VGPU:1&resources2=VGPU:1&group_policy=";
        // The same amounts twice: which group gets which provider differs.
        assert_eq!(check(&format!("{two}isolate"), &nodes), ["c1=VGPU1 c2=VGPU1", "c1=VGPU1 c2=VGPU1"]);
        assert_eq!(check(&format!("{two}none"), &nodes).len(), 3);
        assert!(check("resources=VCPU:5", &nodes).is_empty());
        assert_eq!(check("resources=VCPU:1&limit=1", &nodes).len(), 1);
        assert!(check("resources=VCPU:1&in_tree=zz", &nodes).is_empty());
    }

    #[test]
    fn bad_requests_are_refused() {
        for q in [
            "",
            "resources=VCPU",
            "resources=VCPU:0",
            "resources=VCPU:-1",
            "resources=VCPU:1&limit=0",
            "resources=VCPU:1&bogus=1",
            "resources=VCPU:1&required=A,!A",
            "resources=VCPU:1&member_of=x",
            "resources1=A:1&resources2=B:1",
            "required1=T&resources=VCPU:1",
        ] {
            assert!(Request::parse(&QueryParams::parse(Some(q)).expect("query")).is_err(), "{q}");
        }
    }
}
