//! Metadata definitions: a catalogue of what properties mean. Nothing in the cloud acts on it.

use super::{ADMIN, READER, is_admin, own_project, rule, view};
use crate::State;
use crate::logic::metadefs::{self as logic, Kind};
use crate::store::{Namespace, Part};
use caelum_base::{Error, Result};
use caelum_policy::{RuleDefault, Target};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::{Dir, Filter, Query, Stored};
use serde_json::{Map, Value, json};

const READ: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))";
pub const HELPERS: &[RuleDefault] = &[RuleDefault::helper("metadef_default", ""), RuleDefault::helper("metadef_admin", ADMIN)];

const fn read(name: &'static str) -> Access {
    rule(name, READ)
}

const fn write(name: &'static str) -> Access {
    rule(name, "rule:metadef_admin")
}

pub const OPS: &[Op<State>] = &[
    Op::post("namespace_create", "/metadefs/namespaces", write("add_metadef_namespace"), h!(create)),
    Op::get("namespace_list", "/metadefs/namespaces", rule("get_metadef_namespaces", READER), h!(index)),
    Op::get("namespace_show", "/metadefs/namespaces/{ns}", read("get_metadef_namespace"), h!(show)),
    Op::put("namespace_update", "/metadefs/namespaces/{ns}", write("modify_metadef_namespace"), h!(update)),
    Op::delete("namespace_delete", "/metadefs/namespaces/{ns}", write("delete_metadef_namespace"), h!(delete)),
    Op::post("object_create", "/metadefs/namespaces/{ns}/objects", write("add_metadef_object"), h!(|cx| part_create(cx, Kind::Object))),
    Op::get("object_list", "/metadefs/namespaces/{ns}/objects", read("get_metadef_objects"), h!(|cx| part_list(cx, Kind::Object))),
    Op::delete(
        "object_delete_all",
        "/metadefs/namespaces/{ns}/objects",
        write("delete_metadef_namespace"),
        h!(|cx| part_clear(cx, Kind::Object)),
    ),
    Op::get("object_show", "/metadefs/namespaces/{ns}/objects/{part}", read("get_metadef_object"), h!(|cx| part_show(cx, Kind::Object))),
    Op::put(
        "object_update",
        "/metadefs/namespaces/{ns}/objects/{part}",
        write("modify_metadef_object"),
        h!(|cx| part_update(cx, Kind::Object)),
    ),
    Op::delete(
        "object_delete",
        "/metadefs/namespaces/{ns}/objects/{part}",
        write("delete_metadef_object"),
        h!(|cx| part_delete(cx, Kind::Object)),
    ),
    Op::post(
        "property_create",
        "/metadefs/namespaces/{ns}/properties",
        write("add_metadef_property"),
        h!(|cx| part_create(cx, Kind::Property)),
    ),
    Op::get(
        "property_list",
        "/metadefs/namespaces/{ns}/properties",
        read("get_metadef_properties"),
        h!(|cx| part_list(cx, Kind::Property)),
    ),
    Op::delete(
        "property_delete_all",
        "/metadefs/namespaces/{ns}/properties",
        write("delete_metadef_namespace"),
        h!(|cx| part_clear(cx, Kind::Property)),
    ),
    Op::get(
        "property_show",
        "/metadefs/namespaces/{ns}/properties/{part}",
        read("get_metadef_property"),
        h!(|cx| part_show(cx, Kind::Property)),
    ),
    Op::put(
        "property_update",
        "/metadefs/namespaces/{ns}/properties/{part}",
        write("modify_metadef_property"),
        h!(|cx| part_update(cx, Kind::Property)),
    ),
    Op::delete(
        "property_delete",
        "/metadefs/namespaces/{ns}/properties/{part}",
        write("remove_metadef_property"),
        h!(|cx| part_delete(cx, Kind::Property)),
    ),
    Op::post("metadef_tags_create", "/metadefs/namespaces/{ns}/tags", write("add_metadef_tags"), h!(tags_create)),
    Op::get("metadef_tag_list", "/metadefs/namespaces/{ns}/tags", read("get_metadef_tags"), h!(|cx| part_list(cx, Kind::Tag))),
    Op::delete(
        "metadef_tag_delete_all",
        "/metadefs/namespaces/{ns}/tags",
        write("delete_metadef_tags"),
        h!(|cx| part_clear(cx, Kind::Tag)),
    ),
    Op::post("metadef_tag_create", "/metadefs/namespaces/{ns}/tags/{part}", write("add_metadef_tag"), h!(tag_create)),
    Op::get("metadef_tag_show", "/metadefs/namespaces/{ns}/tags/{part}", read("get_metadef_tag"), h!(|cx| part_show(cx, Kind::Tag))),
    Op::put(
        "metadef_tag_update",
        "/metadefs/namespaces/{ns}/tags/{part}",
        write("modify_metadef_tag"),
        h!(|cx| part_update(cx, Kind::Tag)),
    ),
    Op::delete(
        "metadef_tag_delete",
        "/metadefs/namespaces/{ns}/tags/{part}",
        write("delete_metadef_tag"),
        h!(|cx| part_delete(cx, Kind::Tag)),
    ),
    Op::get("resource_type_list", "/metadefs/resource_types", read("list_metadef_resource_types"), h!(resource_types)),
    Op::post(
        "resource_type_associate",
        "/metadefs/namespaces/{ns}/resource_types",
        write("add_metadef_resource_type_association"),
        h!(|cx| part_create(cx, Kind::ResourceType)),
    ),
    Op::get(
        "resource_type_associations",
        "/metadefs/namespaces/{ns}/resource_types",
        read("get_metadef_resource_type"),
        h!(|cx| part_list(cx, Kind::ResourceType)),
    ),
    Op::delete(
        "resource_type_dissociate",
        "/metadefs/namespaces/{ns}/resource_types/{part}",
        write("remove_metadef_resource_type_association"),
        h!(|cx| part_delete(cx, Kind::ResourceType)),
    ),
];

fn not_found(name: &str) -> Error {
    Error::not_found(format!("Metadata definition namespace={name} was not found."))
}

fn missing(kind: Kind, ns: &str, name: &str) -> Error {
    Error::not_found(format!("The metadata definition {} with name={name} was not found in namespace={ns}.", kind.noun()))
}

fn target(n: &Namespace) -> Target<'_> {
    Target::new().with_opt("project_id", n.owner.as_deref()).with("visibility", n.visibility.as_str())
}

fn visible(cx: &Ctx<State>, n: &Namespace) -> bool {
    n.visibility == "public" || is_admin(cx) || (own_project(cx).is_some() && own_project(cx) == n.owner.as_deref())
}

/// The namespace of the path, when the caller may do this to it. Errors: `NotFound` when it may not
/// know of it.
async fn find(cx: &Ctx<State>) -> Result<Stored<Namespace>> {
    cx.filtered();
    let name = cx.param("ns");
    let n = cx.state.db.get::<Namespace>(name).await?.filter(|n| visible(cx, n)).ok_or_else(|| not_found(name))?;
    cx.authorize(&target(&n))?;
    Ok(n)
}

/// Changes the namespace of the path.
async fn change<F>(cx: &Ctx<State>, f: F) -> Result<Stored<Namespace>>
where
    F: Fn(&mut Namespace) -> Result<()> + Send + Sync + 'static,
{
    find(cx).await?;
    let (name, now) = (cx.param("ns").to_string(), cx.env.now());
    cx.state
        .db
        .write(move |tx| {
            let mut n = tx.get::<Namespace>(&name)?.ok_or_else(|| not_found(&name))?;
            let before = n.name.clone();
            f(&mut n)?;
            n.updated_at = now;
            if n.name == before {
                tx.update(&mut n)?;
            } else {
                // The name is the id: a renamed namespace is a new row.
                tx.delete_id::<Namespace>(&before)?;
                n = tx.insert(&n.value)?;
            }
            Ok(n)
        })
        .await
}

fn part_view(ns: &str, kind: Kind, name: &str, p: &Part) -> Value {
    let mut out = p.body.clone();
    out.insert("name".into(), json!(name));
    if kind != Kind::Property {
        out.insert("created_at".into(), json!(p.created_at.iso_z()));
        out.insert("updated_at".into(), json!(p.updated_at.iso_z()));
    }
    if kind == Kind::Object {
        out.insert("self".into(), json!(format!("/v2/metadefs/namespaces/{ns}/objects/{name}")));
        out.insert("schema".into(), json!("/v2/schemas/metadefs/object"));
    }
    Value::Object(out)
}

/// All parts of a kind: a list, or for properties a map by name.
fn parts_view(n: &Namespace, kind: Kind) -> Value {
    if kind == Kind::Property {
        return json!(n.properties.iter().map(|(k, p)| (k.clone(), Value::Object(p.body.clone()))).collect::<Map<_, _>>());
    }
    json!(kind.of(n).iter().map(|(k, p)| part_view(&n.name, kind, k, p)).collect::<Vec<_>>())
}

fn namespace_view(n: &Namespace, whole: bool) -> Value {
    let mut out = json!({
        "namespace": n.name, "display_name": n.display_name, "description": n.description, "visibility": n.visibility,
        "protected": n.protected, "owner": n.owner, "created_at": n.created_at.iso_z(), "updated_at": n.updated_at.iso_z(),
        "self": format!("/v2/metadefs/namespaces/{}", n.name), "schema": "/v2/schemas/metadefs/namespace",
        "resource_type_associations": parts_view(n, Kind::ResourceType),
    });
    if let Some(o) = out.as_object_mut().filter(|_| whole) {
        for (key, kind) in [("objects", Kind::Object), ("properties", Kind::Property), ("tags", Kind::Tag)] {
            if !kind.of(n).is_empty() {
                o.insert(key.into(), parts_view(n, kind));
            }
        }
    }
    out
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let mut n = logic::namespace(&body, cx.env.now())?;
    n.owner = n.owner.or_else(|| own_project(&cx).map(String::from));
    cx.authorize(&target(&n))?;
    let (shown, location) = (namespace_view(&n, true), format!("{}/v2/metadefs/namespaces/{}", cx.base_url, n.name));
    let name = n.name.clone();
    let made = cx.state.db.write(move |tx| tx.insert(&n).map(drop)).await;
    made.map_err(
        |e| if e.is_conflict() { Error::conflict(format!("The metadata definition namespace={name} already exists.")) } else { e },
    )?;
    Ok(Reply::json(201, &shown)?.header("location", location))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new().with_opt("project_id", own_project(&cx)))?;
    let page = caelum_rest::Page::from_query(&cx.query, 1_000)?;
    let limit = if page.explicit { page.limit } else { 25 };
    let key = match cx.query.get("sort_key").unwrap_or("created_at") {
        "created_at" => "created_at",
        "updated_at" => "updated_at",
        "namespace" => "id",
        other => return Err(Error::invalid(format!("Invalid sort key: {other}"))),
    };
    let dir = Dir::parse(cx.query.get("sort_dir").unwrap_or("desc")).ok_or_else(|| Error::invalid("Invalid sort direction"))?;
    let mut q = Query::new().sort(key, dir).limit(limit).marker(page.marker);
    if !is_admin(&cx) {
        let own = own_project(&cx).map(|p| Filter::Eq("owner", p.into()));
        q = q.filter(Filter::Any(std::iter::once(Filter::Eq("visibility", "public".into())).chain(own).collect()));
    }
    match cx.query.get("visibility") {
        None => {}
        Some(v @ ("public" | "private")) => q = q.eq("visibility", v),
        Some(v) => return Err(Error::invalid(format!("Invalid visibility value: {v}"))),
    }
    let list = cx.state.db.list::<Namespace>(q).await?;
    let next = list.last().filter(|_| list.len() == limit).map(|n| n.name.clone());
    let types: Vec<&str> = cx.query.get("resource_types").map(|t| t.split(',').collect()).unwrap_or_default();
    let wanted = list.iter().filter(|n| types.is_empty() || types.iter().any(|t| n.resource_types.contains_key(*t)));
    let mut out = Map::new();
    out.insert("namespaces".into(), json!(wanted.map(|n| namespace_view(n, false)).collect::<Vec<_>>()));
    out.insert("schema".into(), json!("/v2/schemas/metadefs/namespaces"));
    out.extend(view::page_links(&cx, "/v2/metadefs/namespaces", next.as_deref()));
    Reply::ok(&out)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&namespace_view(&find(&cx).await?.value, true))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let new = logic::namespace(&body, cx.env.now())?;
    let n = change(&cx, move |n| {
        let new = new.clone();
        (n.name, n.display_name, n.description) = (new.name, new.display_name, new.description);
        (n.visibility, n.protected) = (new.visibility, new.protected);
        if new.owner.is_some() {
            n.owner = new.owner;
        }
        Ok(())
    });
    Reply::ok(&namespace_view(&n.await?.value, false))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let n = find(&cx).await?;
    if n.protected {
        return Err(Error::forbidden(format!("Metadata definition namespace={} is protected and cannot be deleted.", n.name)));
    }
    cx.state.db.write(move |tx| tx.delete(&n)).await?;
    Ok(Reply::no_content())
}

async fn part_list(cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    let n = find(&cx).await?;
    let (key, schema) = match kind {
        Kind::Object => ("objects", "/v2/schemas/metadefs/objects"),
        Kind::Property => ("properties", "/v2/schemas/metadefs/properties"),
        Kind::Tag => ("tags", "/v2/schemas/metadefs/tags"),
        Kind::ResourceType => return Reply::ok(&json!({"resource_type_associations": parts_view(&n, kind)})),
    };
    let first = format!("/v2/metadefs/namespaces/{}/{key}", n.name);
    Reply::ok(&json!({key: parts_view(&n, kind), "first": first, "schema": schema}))
}

async fn part_show(cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    let n = find(&cx).await?;
    let name = cx.param("part");
    let part = kind.of(&n).get(name).ok_or_else(|| missing(kind, &n.name, name))?;
    Reply::ok(&part_view(&n.name, kind, name, part))
}

async fn part_create(mut cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let (name, part) = logic::part(kind, &body, None, cx.env.now())?;
    add(&cx, kind, name, part).await
}

async fn tag_create(cx: Ctx<State>) -> Result<Reply> {
    let (name, part) = logic::part(Kind::Tag, &Map::new(), Some(cx.param("part")), cx.env.now())?;
    add(&cx, Kind::Tag, name, part).await
}

async fn add(cx: &Ctx<State>, kind: Kind, name: String, part: Part) -> Result<Reply> {
    let shown = part_view(cx.param("ns"), kind, &name, &part);
    change(cx, move |n| logic::insert(n, kind, name.clone(), part.clone())).await?;
    Reply::json(201, &shown)
}

/// Replaces all tags, or adds to them when the client says so.
async fn tags_create(mut cx: Ctx<State>) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let list = body.get("tags").and_then(Value::as_array).ok_or_else(|| Error::invalid("'tags' must be a list"))?;
    let mut tags = Vec::new();
    for item in list {
        let item = item.as_object().ok_or_else(|| Error::invalid("a tag must be an object"))?;
        tags.push(logic::part(Kind::Tag, item, None, cx.env.now())?);
    }
    let append = cx.headers.get("x-openstack-append").and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let shown: Vec<Value> = tags.iter().map(|(name, p)| part_view("", Kind::Tag, name, p)).collect();
    change(&cx, move |n| {
        if !append {
            n.tags.clear();
        }
        tags.iter().try_for_each(|(name, part)| logic::insert(n, Kind::Tag, name.clone(), part.clone()))
    })
    .await?;
    Reply::json(201, &json!({"tags": shown}))
}

async fn part_update(mut cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    let body: Map<String, Value> = cx.json().await?;
    let (name, part) = logic::part(kind, &body, None, cx.env.now())?;
    let (old, new) = (cx.param("part").to_string(), name.clone());
    let n = change(&cx, move |n| {
        let ns = n.name.clone();
        let before = kind.of_mut(n).remove(&old).ok_or_else(|| missing(kind, &ns, &old))?;
        logic::insert(n, kind, new.clone(), Part { created_at: before.created_at, ..part.clone() })
    });
    let n = n.await?;
    let part = kind.of(&n).get(&name).ok_or_else(|| missing(kind, &n.name, &name))?;
    Reply::ok(&part_view(&n.name, kind, &name, part))
}

async fn part_delete(cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    let name = cx.param("part").to_string();
    change(&cx, move |n| {
        let ns = n.name.clone();
        kind.of_mut(n).remove(&name).map(drop).ok_or_else(|| missing(kind, &ns, &name))
    })
    .await?;
    Ok(Reply::no_content())
}

async fn part_clear(cx: Ctx<State>, kind: Kind) -> Result<Reply> {
    change(&cx, move |n| {
        kind.of_mut(n).clear();
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}

async fn resource_types(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize(&Target::new().with_opt("project_id", own_project(&cx)).with("visibility", "public"))?;
    Reply::ok(&json!({"resource_types": logic::RESOURCE_TYPES.map(|name| json!({"name": name}))}))
}
