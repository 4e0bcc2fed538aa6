use super::{admin, authorize, since, uuid};
use crate::logic::request::{self, Members, Traits};
use crate::store::{self, Provider};
use crate::{State, logic::candidates::Node};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("resource_provider_list", "/resource_providers", admin("placement:resource_providers:list"), h!(list)),
    Op::post("resource_provider_create", "/resource_providers", admin("placement:resource_providers:create"), h!(create)),
    Op::get("resource_provider_show", "/resource_providers/{uuid}", admin("placement:resource_providers:show"), h!(show)),
    Op::put("resource_provider_update", "/resource_providers/{uuid}", admin("placement:resource_providers:update"), h!(update)),
    Op::delete("resource_provider_delete", "/resource_providers/{uuid}", admin("placement:resource_providers:delete"), h!(delete)),
    Op::get(
        "aggregate_list",
        "/resource_providers/{uuid}/aggregates",
        admin("placement:resource_providers:aggregates:list"),
        h!(aggregates),
    )
    .since(1, 1),
    Op::put(
        "aggregate_update",
        "/resource_providers/{uuid}/aggregates",
        admin("placement:resource_providers:aggregates:update"),
        h!(aggregates_put),
    )
    .since(1, 1),
    Op::get("provider_trait_list", "/resource_providers/{uuid}/traits", admin("placement:resource_providers:traits:list"), h!(traits))
        .since(1, 6),
    Op::put(
        "provider_trait_update",
        "/resource_providers/{uuid}/traits",
        admin("placement:resource_providers:traits:update"),
        h!(traits_put),
    )
    .since(1, 6),
    Op::delete(
        "provider_trait_delete",
        "/resource_providers/{uuid}/traits",
        admin("placement:resource_providers:traits:delete"),
        h!(traits_delete),
    )
    .since(1, 6),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderBody {
    name: String,
    uuid: Option<String>,
    #[serde(default, deserialize_with = "super::present")]
    parent_provider_uuid: Option<Option<String>>,
}

fn view(cx: &Ctx<State>, p: &Provider) -> Value {
    let url = format!("{}/resource_providers/{}", path_of(&cx.base_url), p.id);
    let mut links = vec![
        json!({"rel": "self", "href": url}),
        json!({"rel": "inventories", "href": format!("{url}/inventories")}),
        json!({"rel": "usages", "href": format!("{url}/usages")}),
    ];
    for (minor, rel) in [(1, "aggregates"), (6, "traits"), (11, "allocations")] {
        if since(cx, minor) {
            links.push(json!({"rel": rel, "href": format!("{url}/{rel}")}));
        }
    }
    let mut v = json!({"uuid": p.id, "name": p.name, "generation": p.generation, "links": links});
    if since(cx, 14) {
        v["parent_provider_uuid"] = json!(p.parent);
        v["root_provider_uuid"] = json!(p.root);
    }
    v
}

/// Links are paths, as upstream's: `/placement/resource_providers/…`.
fn path_of(base_url: &str) -> &str {
    base_url.splitn(4, '/').nth(3).map_or("", |rest| &base_url[base_url.len() - rest.len() - 1..])
}

/// Every provider with inventories, traits and aggregates.
pub fn nodes(tx: &mut caelum_store::Tx<'_>) -> Result<std::collections::BTreeMap<String, Node>> {
    let mut inventories = store::all_inventories(tx)?;
    let mut traits = store::all_traits(tx)?;
    let mut aggregates = store::all_aggregates(tx)?;
    let node = |p: Provider| {
        let id = p.id.clone();
        let node = Node {
            inventories: inventories.remove(&id).unwrap_or_default(),
            traits: traits.remove(&id).unwrap_or_default(),
            aggregates: aggregates.remove(&id).unwrap_or_default(),
            provider: p,
        };
        (id, node)
    };
    Ok(store::providers(tx)?.into_iter().map(node).collect())
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (mut traits, mut members, mut resources) = (Traits::default(), Members::default(), Default::default());
    let mut plain: Vec<(String, String)> = Vec::new();
    for (k, v) in cx.query.iter() {
        match k {
            "required" if since(&cx, 18) => traits.add(v)?,
            "member_of" if since(&cx, 3) => members.add(v)?,
            "resources" if since(&cx, 4) => resources = request::resources(v)?,
            "name" => plain.push((k.into(), v.into())),
            "uuid" => plain.push((k.into(), uuid(v)?)),
            "in_tree" if since(&cx, 14) => plain.push((k.into(), uuid(v)?)),
            _ => {
                return Err(Error::invalid(format!(
                    "Invalid query string parameters: Additional properties are not allowed ('{k}' was unexpected)"
                )));
            }
        }
    }
    let all = cx.state.db.read(nodes).await?;
    let root_of = |id: &str| all.get(id).map(|n| n.provider.root.clone());
    let keep = |n: &&Node| {
        plain.iter().all(|(k, v)| match k.as_str() {
            "name" => n.provider.name == *v,
            "uuid" => n.provider.id == *v,
            _ => Some(&n.provider.root) == root_of(v).as_ref(),
        }) && traits.admit(&n.traits)
            && members.admit(&n.aggregates)
            && resources.iter().all(|(c, amount): (&String, &i64)| n.inventories.get(c).is_some_and(|i| i.fits(*amount)))
    };
    let found: Vec<Value> = all.values().filter(keep).map(|n| view(&cx, &n.provider)).collect();
    Reply::ok(&json!({"resource_providers": found}))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let body: ProviderBody = cx.json().await?;
    let name = checked_name(&body.name)?;
    let id = body.uuid.as_deref().map_or_else(|| Ok(cx.env.uuid()), uuid)?;
    let parent = body.parent_provider_uuid.flatten();
    let made = cx.state.db.write(move |tx| store::provider_create(tx, &id, &name, parent.as_deref())).await?;
    let location = format!("{}/resource_providers/{}", cx.base_url, made.id);
    let reply = if cx.version >= Version(1, 20) { Reply::ok(&view(&cx, &made))? } else { Reply::empty(201) };
    Ok(reply.header("location", location))
}

fn checked_name(name: &str) -> Result<String> {
    if (1..=200).contains(&name.chars().count()) {
        Ok(name.to_string())
    } else {
        Err(Error::invalid("JSON does not validate: name must have 1 to 200 characters"))
    }
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let p = cx.state.db.read(move |tx| store::provider(tx, &id)).await?;
    Reply::ok(&view(&cx, &p))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let body: ProviderBody = cx.json().await?;
    let (id, name, parent) = (cx.param("uuid").to_string(), checked_name(&body.name)?, body.parent_provider_uuid);
    let may_move = since(&cx, 37);
    let p = cx.state.db.write(move |tx| {
        let old = store::provider(tx, &id)?;
        let wanted = parent.clone().unwrap_or_else(|| old.parent.clone());
        if wanted != old.parent && old.parent.is_some() && !may_move {
            return Err(Error::invalid("re-parenting a provider is not currently allowed."));
        }
        store::provider_update(tx, &old, &name, wanted.as_deref())
    });
    Reply::ok(&view(&cx, &p.await?))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    cx.state.db.write(move |tx| store::provider_delete(tx, &id)).await?;
    Ok(Reply::no_content())
}

async fn aggregates(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let (p, list) = cx.state.db.read(move |tx| Ok((store::provider(tx, &id)?, store::aggregates(tx, &id)?))).await?;
    aggregates_view(&cx, p.generation, &list)
}

fn aggregates_view(cx: &Ctx<State>, generation: i64, list: &[String]) -> Result<Reply> {
    let mut v = json!({"aggregates": list});
    if since(cx, 19) {
        v["resource_provider_generation"] = json!(generation);
    }
    Reply::ok(&v)
}

async fn aggregates_put(mut cx: Ctx<State>) -> Result<Reply> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        aggregates: Vec<String>,
        resource_provider_generation: i64,
    }
    authorize(&cx)?;
    let (list, generation) = if since(&cx, 19) {
        let body: Body = cx.json().await?;
        (body.aggregates, Some(body.resource_provider_generation))
    } else {
        (cx.json().await?, None)
    };
    list.iter().try_for_each(|a| uuid(a).map(drop))?;
    let id = cx.param("uuid").to_string();
    let kept = list.clone();
    let generation = cx.state.db.write(move |tx| {
        let p = store::provider(tx, &id)?;
        store::set_aggregates(tx, &id, &list)?;
        store::bump(tx, &id, generation.unwrap_or(p.generation))
    });
    aggregates_view(&cx, generation.await?, &kept)
}

async fn traits(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let (p, list) = cx.state.db.read(move |tx| Ok((store::provider(tx, &id)?, store::traits_of(tx, &id)?))).await?;
    Reply::ok(&json!({"traits": list, "resource_provider_generation": p.generation}))
}

async fn traits_put(mut cx: Ctx<State>) -> Result<Reply> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        traits: Vec<String>,
        resource_provider_generation: i64,
    }
    authorize(&cx)?;
    let body: Body = cx.json().await?;
    let id = cx.param("uuid").to_string();
    let kept = body.traits.clone();
    let generation = cx.state.db.write(move |tx| {
        store::provider(tx, &id)?;
        for t in &body.traits {
            if !store::is_trait(tx, t)? {
                return Err(Error::invalid(format!("No such trait: {t}.")));
            }
        }
        store::set_traits(tx, &id, &body.traits)?;
        store::bump(tx, &id, body.resource_provider_generation)
    });
    Reply::ok(&json!({"traits": kept, "resource_provider_generation": generation.await?}))
}

async fn traits_delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let id = cx.param("uuid").to_string();
    let done = cx.state.db.write(move |tx| {
        let p = store::provider(tx, &id)?;
        store::set_traits(tx, &id, &[])?;
        store::bump(tx, &id, p.generation).map(drop)
    });
    done.await?;
    Ok(Reply::no_content())
}
