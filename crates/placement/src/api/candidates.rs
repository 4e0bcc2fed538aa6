use super::providers::nodes;
use super::{admin, authorize, since};
use crate::logic::candidates::{Candidate, Node, find};
use crate::logic::request::Request;
use crate::{State, store};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const OPS: &[Op<State>] =
    &[Op::get("allocation_candidate_list", "/allocation_candidates", admin("placement:allocation_candidates:list"), h!(list)).since(1, 10)];

async fn list(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let request = Request::parse(&cx.query)?;
    let nested = since(&cx, 29);
    let asked = request.clone();
    let found = cx.state.db.read(move |tx| {
        for group in asked.groups.values() {
            for class in group.resources.keys() {
                if !store::is_class(tx, class)? {
                    return Err(Error::invalid(format!("Invalid resource class in resources parameter: No such resource class {class}.")));
                }
            }
            for name in group.traits.names().chain(asked.root.names()) {
                if !store::is_trait(tx, name)? {
                    return Err(Error::invalid(format!("No such trait(s): {name}.")));
                }
            }
        }
        let nodes = nodes(tx)?;
        Ok((find(&asked, &nodes, nested), nodes))
    });
    let (candidates, nodes) = found.await?;
    let requests: Vec<Value> = candidates.iter().map(|c| request_view(&cx, c)).collect();
    Reply::ok(&json!({"allocation_requests": requests, "provider_summaries": summaries(&cx, &request, &candidates, &nodes)}))
}

fn request_view(cx: &Ctx<State>, c: &Candidate) -> Value {
    let mut v = json!({});
    if since(cx, 12) {
        let by_provider: Map<String, Value> = c.allocations.iter().map(|(p, r)| (p.clone(), json!({"resources": r}))).collect();
        v["allocations"] = by_provider.into();
    } else {
        let list: Vec<Value> = c.allocations.iter().map(|(p, r)| json!({"resource_provider": {"uuid": p}, "resources": r})).collect();
        v["allocations"] = list.into();
    }
    if since(cx, 34) {
        v["mappings"] = json!(c.mappings);
    }
    v
}

/// Providers of the candidates; since 1.29 every provider of their trees.
fn summaries(cx: &Ctx<State>, request: &Request, candidates: &[Candidate], nodes: &BTreeMap<String, Node>) -> Map<String, Value> {
    let used: BTreeSet<&String> = candidates.iter().flat_map(|c| c.allocations.keys()).collect();
    let roots: BTreeSet<&String> = used.iter().filter_map(|id| nodes.get(*id)).map(|n| &n.provider.root).collect();
    let shown = nodes.iter().filter(|(id, n)| used.contains(id) || (since(cx, 29) && roots.contains(&n.provider.root)));
    shown.map(|(id, n)| (id.clone(), summary(cx, request, n))).collect()
}

fn summary(cx: &Ctx<State>, request: &Request, n: &Node) -> Value {
    let asked = |class: &String| since(cx, 27) || request.groups.values().any(|g| g.resources.contains_key(class));
    let resources: Map<String, Value> = n
        .inventories
        .iter()
        .filter(|(c, _)| asked(c))
        .map(|(c, i)| (c.clone(), json!({"capacity": i.capacity(), "used": i.used})))
        .collect();
    let mut v = json!({"resources": resources});
    if since(cx, 17) {
        v["traits"] = json!(n.traits);
    }
    if since(cx, 29) {
        v["parent_provider_uuid"] = json!(n.provider.parent);
        v["root_provider_uuid"] = json!(n.provider.root);
    }
    v
}
