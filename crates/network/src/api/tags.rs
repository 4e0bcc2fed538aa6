//! Tags of every kind of resource: one set of handlers, one table of paths per kind.

use super::{authorize_found, member, reader};
use crate::logic::net::invalid_input;
use crate::logic::{State, not_found};
use crate::store::{FloatingIp, Network, Port, Router, SecurityGroup, Standard, Subnet, SubnetPool};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use serde_json::{Value, json};

/// Tags of one resource.
const MAX_TAGS: usize = 50;
const MAX_TAG_CHARS: usize = 255;

macro_rules! tag_ops {
    ($($t:ty, $what:literal, $plural:literal, $path:literal;)*) => {
        pub const OPS: &[Op<State>] = &[$(
            Op::get(concat!($what, "_tag_list"), concat!("/", $path, "/{id}/tags"), reader(concat!("get_", $plural, "_tags")), h!(index::<$t>)),
            Op::put(concat!($what, "_tag_replace"), concat!("/", $path, "/{id}/tags"), member(concat!("update_", $plural, "_tags")), h!(replace::<$t>)),
            Op::delete(concat!($what, "_tag_clear"), concat!("/", $path, "/{id}/tags"), member(concat!("delete_", $plural, "_tags")), h!(clear::<$t>)),
            Op::get(concat!($what, "_tag_show"), concat!("/", $path, "/{id}/tags/{tag}"), reader(concat!("get_", $plural, "_tags")), h!(show::<$t>)),
            Op::put(concat!($what, "_tag_add"), concat!("/", $path, "/{id}/tags/{tag}"), member(concat!("update_", $plural, "_tags")), h!(add::<$t>)),
            Op::delete(concat!($what, "_tag_delete"), concat!("/", $path, "/{id}/tags/{tag}"), member(concat!("delete_", $plural, "_tags")), h!(remove::<$t>)),
        )*];
    };
}

tag_ops! {
    Network, "network", "networks", "networks";
    Subnet, "subnet", "subnets", "subnets";
    SubnetPool, "subnetpool", "subnetpools", "subnetpools";
    Port, "port", "ports", "ports";
    Router, "router", "routers", "routers";
    FloatingIp, "floatingip", "floatingips", "floatingips";
    SecurityGroup, "security_group", "security_groups", "security-groups";
}

fn label<R: Standard>() -> &'static str {
    match R::TABLE.name {
        "networks" => "network",
        "subnets" => "subnet",
        "subnetpools" => "subnetpool",
        "ports" => "port",
        "routers" => "router",
        "floating_ips" => "floatingip",
        _ => "security_group",
    }
}

async fn found<R: Standard>(cx: &Ctx<State>) -> Result<R> {
    let r: R = super::find(cx, label::<R>()).await?;
    authorize_found(cx, label::<R>(), r.id(), r.project())?;
    Ok(r)
}

fn check(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.chars().count() > MAX_TAG_CHARS || tag.chars().any(|c| c.is_control()) || tag.contains(',') {
        return Err(invalid_input("tags", "a tag has 1 to 255 printable characters and no comma"));
    }
    Ok(())
}

fn missing(tag: &str) -> Error {
    Error::not_found(format!("Tag {tag} could not be found.")).code("TagNotFound")
}

/// Changes the tags in one transaction.
async fn change<R: Standard>(
    cx: &Ctx<State>,
    id: String,
    f: impl Fn(&mut Vec<String>) -> Result<()> + Send + Sync + 'static,
) -> Result<Vec<String>> {
    cx.state
        .write(move |w| {
            let mut r = w.tx.get::<R>(&id)?.ok_or_else(|| not_found(label::<R>(), &id))?;
            let before = r.std().tags.clone();
            f(&mut r.std_mut().tags)?;
            if r.std().tags.len() > MAX_TAGS {
                return Err(invalid_input("tags", format!("a resource has at most {MAX_TAGS} tags")));
            }
            if r.std().tags != before {
                let now = w.now;
                r.std_mut().touch(now);
                w.tx.update(&mut r)?;
            }
            Ok(r.std().tags.clone())
        })
        .await
}

async fn index<R: Standard>(cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    Reply::ok(&json!({"tags": r.std().tags}))
}

async fn show<R: Standard>(cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    let tag = cx.param("tag");
    if r.std().tags.iter().any(|t| t == tag) { Ok(Reply::no_content()) } else { Err(missing(tag)) }
}

async fn replace<R: Standard>(mut cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    let mut body: serde_json::Map<String, Value> = cx.json().await?;
    let Some(Value::Array(list)) = body.remove("tags") else {
        return Err(Error::invalid("Invalid tags body").code("HTTPBadRequest"));
    };
    let mut tags: Vec<String> = Vec::new();
    for v in list {
        let Value::String(t) = v else { return Err(invalid_input("tags", "a tag is not a string")) };
        check(&t)?;
        if tags.contains(&t) {
            return Err(invalid_input("tags", format!("Duplicate items in the list: '{t}'")));
        }
        tags.push(t);
    }
    let tags = change::<R>(&cx, r.id().to_string(), move |old| {
        old.clone_from(&tags);
        Ok(())
    });
    Reply::ok(&json!({"tags": tags.await?}))
}

async fn add<R: Standard>(cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    let tag = cx.param("tag").to_string();
    check(&tag)?;
    change::<R>(&cx, r.id().to_string(), move |old| {
        if !old.contains(&tag) {
            old.push(tag.clone());
        }
        Ok(())
    })
    .await?;
    Ok(Reply::empty(201))
}

async fn remove<R: Standard>(cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    let tag = cx.param("tag").to_string();
    change::<R>(&cx, r.id().to_string(), move |old| {
        let at = old.iter().position(|t| *t == tag).ok_or_else(|| missing(&tag))?;
        old.remove(at);
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}

async fn clear<R: Standard>(cx: Ctx<State>) -> Result<Reply> {
    let r: R = found(&cx).await?;
    change::<R>(&cx, r.id().to_string(), |old| {
        old.clear();
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}
