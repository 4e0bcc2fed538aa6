use super::{admin, authorize, custom_name};
use crate::{State, store};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("trait_list", "/traits", admin("placement:traits:list"), h!(traits)).since(1, 6),
    Op::get("trait_show", "/traits/{name}", admin("placement:traits:show"), h!(trait_show)).since(1, 6),
    Op::put("trait_create", "/traits/{name}", admin("placement:traits:update"), h!(trait_put)).since(1, 6),
    Op::delete("trait_delete", "/traits/{name}", admin("placement:traits:delete"), h!(trait_delete)).since(1, 6),
    Op::get("resource_class_list", "/resource_classes", admin("placement:resource_classes:list"), h!(classes)).since(1, 2),
    Op::post("resource_class_create", "/resource_classes", admin("placement:resource_classes:create"), h!(class_create)).since(1, 2),
    Op::get("resource_class_show", "/resource_classes/{name}", admin("placement:resource_classes:show"), h!(class_show)).since(1, 2),
    Op::put("resource_class_update", "/resource_classes/{name}", admin("placement:resource_classes:update"), h!(class_put)).since(1, 7),
    Op::delete("resource_class_delete", "/resource_classes/{name}", admin("placement:resource_classes:delete"), h!(class_delete))
        .since(1, 2),
];

async fn traits(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let (name, associated) = (cx.query.get("name").map(String::from), cx.query.bool("associated"));
    let list = cx.state.db.read(move |tx| {
        let mut all = store::traits(tx)?;
        if let Some(filter) = name {
            match (filter.strip_prefix("startswith:"), filter.strip_prefix("in:")) {
                (Some(p), _) => all.retain(|t| t.starts_with(p)),
                (None, Some(l)) => all.retain(|t| l.split(',').any(|n| n == t)),
                (None, None) => return Err(Error::invalid("Badly formatted name parameter. Expected name query string parameter in form: ?name=[in|startswith]:[name1,name2|prefix].")),
            }
        }
        if let Some(wanted) = associated {
            let used: Vec<String> = tx.query("SELECT DISTINCT trait AS t FROM provider_traits", &[])?.iter().map(|r| r.text("t")).collect::<Result<_>>()?;
            all.retain(|t| used.contains(t) == wanted);
        }
        Ok(all)
    });
    Reply::ok(&json!({"traits": list.await?}))
}

async fn trait_show(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = cx.param("name").to_string();
    let known = name.clone();
    if !cx.state.db.read(move |tx| store::is_trait(tx, &known)).await? {
        return Err(Error::not_found(format!("No such trait: {name}.")));
    }
    Ok(Reply::no_content())
}

async fn trait_put(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = custom_name(cx.param("name"))?;
    let location = format!("{}/traits/{name}", cx.base_url);
    let new = cx.state.db.write(move |tx| store::trait_create(tx, &name)).await?;
    Ok(Reply::empty(if new { 201 } else { 204 }).header("location", location))
}

async fn trait_delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = cx.param("name").to_string();
    cx.state.db.write(move |tx| store::trait_delete(tx, &name)).await?;
    Ok(Reply::no_content())
}

fn class_view(name: &str) -> Value {
    json!({"name": name, "links": [{"rel": "self", "href": format!("/resource_classes/{name}")}]})
}

async fn classes(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let list = cx.state.db.read(store::classes).await?;
    Reply::ok(&json!({"resource_classes": list.iter().map(|n| class_view(n)).collect::<Vec<_>>()}))
}

async fn class_show(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = cx.param("name").to_string();
    let known = name.clone();
    if !cx.state.db.read(move |tx| store::is_class(tx, &known)).await? {
        return Err(Error::not_found(format!("No such resource class {name}")));
    }
    Reply::ok(&class_view(&name))
}

async fn class_create(mut cx: Ctx<State>) -> Result<Reply> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: String,
    }
    authorize(&cx)?;
    let name = custom_name(&cx.json::<Body>().await?.name)?;
    let location = format!("{}/resource_classes/{name}", cx.base_url);
    let made = name.clone();
    if !cx.state.db.write(move |tx| store::class_create(tx, &made)).await? {
        return Err(Error::conflict(format!("Conflicting resource class already exists: {name}")));
    }
    Ok(Reply::empty(201).header("location", location))
}

async fn class_put(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = custom_name(cx.param("name"))?;
    let location = format!("{}/resource_classes/{name}", cx.base_url);
    let new = cx.state.db.write(move |tx| store::class_create(tx, &name)).await?;
    let status = if new && cx.version >= Version(1, 7) { 201 } else { 204 };
    Ok(Reply::empty(status).header("location", location))
}

async fn class_delete(cx: Ctx<State>) -> Result<Reply> {
    authorize(&cx)?;
    let name = cx.param("name").to_string();
    cx.state.db.write(move |tx| store::class_delete(tx, &name)).await?;
    Ok(Reply::no_content())
}
