use super::inventories::{Inventories, check, replace_in};
use super::{admin, authorize, since, uuid};
use crate::State;
use crate::store::{self, NewAllocations};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("allocation_show", "/allocations/{consumer}", admin("placement:allocations:list"), h!(show)),
    Op::put("allocation_update", "/allocations/{consumer}", admin("placement:allocations:update"), h!(put)),
    Op::delete("allocation_delete", "/allocations/{consumer}", admin("placement:allocations:delete"), h!(delete)),
    Op::post("allocation_manage", "/allocations", admin("placement:allocations:manage"), h!(post)).since(1, 13),
    Op::get(
        "provider_allocation_list",
        "/resource_providers/{uuid}/allocations",
        admin("placement:resource_providers:allocations:list"),
        h!(on_provider),
    ),
    Op::post("reshaper", "/reshaper", admin("placement:reshaper:reshape"), h!(reshape)).since(1, 30),
];

#[derive(Clone, Deserialize)]
struct Resources {
    resources: BTreeMap<String, i64>,
    #[serde(default, rename = "generation")]
    _generation: Option<i64>,
}

/// Allocations of a body: an object by provider (1.12), a list before.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Wanted {
    ByProvider(BTreeMap<String, Resources>),
    List(Vec<ListItem>),
}

#[derive(Clone, Deserialize)]
struct ListItem {
    resource_provider: ProviderId,
    resources: BTreeMap<String, i64>,
}

#[derive(Clone, Deserialize)]
struct ProviderId {
    uuid: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    allocations: Wanted,
    project_id: Option<String>,
    user_id: Option<String>,
    #[serde(default, deserialize_with = "super::present")]
    consumer_generation: Option<Option<i64>>,
    consumer_type: Option<String>,
    #[serde(default, rename = "mappings")]
    _mappings: Option<Value>,
}

impl Body {
    /// Errors: `Invalid` for what the version requires and the body lacks.
    fn checked(self, cx: &Ctx<State>, consumer: &str, may_be_empty: bool) -> Result<NewAllocations> {
        let missing = |name: &str| Error::invalid(format!("JSON does not validate: '{name}' is a required property"));
        let mut allocations: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        match self.allocations {
            Wanted::ByProvider(m) => allocations.extend(m.into_iter().map(|(p, r)| (p, r.resources))),
            Wanted::List(l) => allocations.extend(l.into_iter().map(|i| (i.resource_provider.uuid, i.resources))),
        }
        if allocations.is_empty() && !may_be_empty {
            return Err(Error::invalid("JSON does not validate: {} does not have enough properties"));
        }
        for (provider, resources) in &allocations {
            uuid(provider)?;
            if resources.is_empty() || resources.values().any(|n| *n < 1) {
                return Err(Error::invalid("JSON does not validate: resources must be positive amounts"));
            }
        }
        if since(cx, 8) && (self.project_id.is_none() || self.user_id.is_none()) {
            return Err(missing(if self.project_id.is_none() { "project_id" } else { "user_id" }));
        }
        let generation = match (since(cx, 28), self.consumer_generation) {
            (true, None) => return Err(missing("consumer_generation")),
            (true, given) => given,
            (false, _) => None,
        };
        let kind = match (since(cx, 38), self.consumer_type) {
            (true, None) => return Err(missing("consumer_type")),
            (_, k) => k.unwrap_or_else(|| "unknown".into()),
        };
        let incomplete = "00000000-0000-0000-0000-000000000000";
        Ok(NewAllocations {
            consumer: uuid(consumer)?,
            project_id: self.project_id.unwrap_or_else(|| incomplete.into()),
            user_id: self.user_id.unwrap_or_else(|| incomplete.into()),
            kind,
            allocations,
            generation,
        })
    }
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("consumer").to_string();
    let found = cx.state.db.read(move |tx| {
        let mut by_provider: BTreeMap<String, Value> = BTreeMap::new();
        for a in store::allocations_of(tx, &id)? {
            let generation = store::provider(tx, &a.provider)?.generation;
            let entry = by_provider.entry(a.provider).or_insert_with(|| json!({"generation": generation, "resources": {}}));
            entry["resources"][&a.class] = json!(a.used);
        }
        Ok((store::consumer(tx, &id)?, by_provider))
    });
    let (consumer, by_provider) = found.await?;
    let mut v = json!({"allocations": by_provider});
    if let Some(c) = consumer {
        if since(&cx, 12) {
            v["project_id"] = json!(c.project_id);
            v["user_id"] = json!(c.user_id);
        }
        if since(&cx, 28) {
            v["consumer_generation"] = json!(c.generation);
        }
        if since(&cx, 38) {
            v["consumer_type"] = json!(c.kind);
        }
    }
    Reply::ok(&v)
}

async fn put(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let body: Body = cx.json().await?;
    let set = body.checked(&cx, cx.param("consumer"), since(&cx, 28))?;
    cx.state.db.write(move |tx| store::replace_allocations(tx, std::slice::from_ref(&set))).await?;
    Ok(Reply::no_content())
}

fn many(cx: &Ctx<State>, bodies: BTreeMap<String, Body>) -> Result<Vec<NewAllocations>> {
    bodies.into_iter().map(|(consumer, b)| b.checked(cx, &consumer, true)).collect()
}

async fn post(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let bodies: BTreeMap<String, Body> = cx.json().await?;
    let sets = many(&cx, bodies)?;
    cx.state.db.write(move |tx| store::replace_allocations(tx, &sets)).await?;
    Ok(Reply::no_content())
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("consumer").to_string();
    cx.state.db.write(move |tx| store::delete_allocations(tx, &id)).await?;
    Ok(Reply::no_content())
}

async fn on_provider(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let found = cx.state.db.read(move |tx| {
        let p = store::provider(tx, &id)?;
        let mut by_consumer: BTreeMap<String, Value> = BTreeMap::new();
        for a in store::allocations_on(tx, &id)? {
            let generation = store::consumer(tx, &a.consumer)?.map(|c| c.generation);
            let entry = by_consumer.entry(a.consumer).or_insert_with(|| json!({"resources": {}, "consumer_generation": generation}));
            entry["resources"][&a.class] = json!(a.used);
        }
        Ok((p.generation, by_consumer))
    });
    let (generation, mut by_consumer) = found.await?;
    if !since(&cx, 28) {
        by_consumer.values_mut().filter_map(Value::as_object_mut).for_each(|o| drop(o.remove("consumer_generation")));
    }
    Reply::ok(&json!({"allocations": by_consumer, "resource_provider_generation": generation}))
}

/// Moves inventories and allocations between providers in one transaction.
async fn reshape(mut cx: Ctx<State>) -> Result<Reply> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Reshape {
        inventories: BTreeMap<String, Inventories>,
        allocations: BTreeMap<String, Body>,
    }
    authorize(&cx)?;
    let body: Reshape = cx.json().await?;
    for set in body.inventories.values() {
        set.inventories.iter().try_for_each(|(c, i)| check(c, i, true))?;
    }
    let sets = many(&cx, body.allocations)?;
    let inventories = body.inventories;
    let done = cx.state.db.write(move |tx| {
        // Old and new inventories exist together while the allocations move; then the old ones go.
        let mut generations = BTreeMap::new();
        for (id, new) in &inventories {
            let mut both = new.clone();
            for (class, i) in store::inventories(tx, id)? {
                both.inventories.entry(class).or_insert(i);
            }
            generations.insert(id.clone(), replace_in(tx, id, &both)?);
        }
        store::replace_allocations(tx, &sets)?;
        for (id, new) in &inventories {
            let generation = store::provider(tx, id)?.generation;
            replace_in(tx, id, &Inventories { resource_provider_generation: generation, ..new.clone() })?;
        }
        Ok(())
    });
    done.await?;
    Ok(Reply::no_content())
}
