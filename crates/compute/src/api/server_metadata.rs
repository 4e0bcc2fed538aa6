//! `/servers/{id}/metadata`, `/servers/{id}/tags`, `/servers/{id}/ips`.

use super::servers::{check_unlocked, lookup};
use super::views::addresses;
use super::wire;
use crate::State;
use crate::logic::netinfo;
use crate::store::quota_sets;
use crate::store::servers::{self, Server};
use caelum_base::{Error, Result};
use caelum_policy::personas::{PROJECT, PROJECT_MEMBER_OR_ADMIN, PROJECT_READER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const fn member(name: &'static str) -> Access {
    Access::rule(name, PROJECT_MEMBER_OR_ADMIN, PROJECT)
}

const fn reader(name: &'static str) -> Access {
    Access::rule(name, PROJECT_READER_OR_ADMIN, PROJECT)
}

const META: &str = "/servers/{id}/metadata";
const META_KEY: &str = "/servers/{id}/metadata/{key}";
const TAGS: &str = "/servers/{id}/tags";
const TAG: &str = "/servers/{id}/tags/{tag}";

pub const OPS: &[Op<State>] = &[
    Op::get("server_metadata_list", META, reader("os_compute_api:server-metadata:index"), h!(metadata_list)),
    Op::post("server_metadata_update", META, member("os_compute_api:server-metadata:create"), h!(metadata_update)),
    Op::put("server_metadata_replace", META, member("os_compute_api:server-metadata:update_all"), h!(metadata_replace)),
    Op::get("server_metadata_show", META_KEY, reader("os_compute_api:server-metadata:show"), h!(metadata_show)),
    Op::put("server_metadata_set", META_KEY, member("os_compute_api:server-metadata:update"), h!(metadata_set)),
    Op::delete("server_metadata_delete", META_KEY, member("os_compute_api:server-metadata:delete"), h!(metadata_delete)),
    Op::get("server_tag_list", TAGS, reader("os_compute_api:os-server-tags:index"), h!(tag_list)).since(2, 26),
    Op::put("server_tag_replace", TAGS, member("os_compute_api:os-server-tags:update_all"), h!(tag_replace)).since(2, 26),
    Op::delete("server_tag_delete_all", TAGS, member("os_compute_api:os-server-tags:delete_all"), h!(tag_delete_all)).since(2, 26),
    Op::get("server_tag_show", TAG, reader("os_compute_api:os-server-tags:show"), h!(tag_show)).since(2, 26),
    Op::put("server_tag_add", TAG, member("os_compute_api:os-server-tags:update"), h!(tag_add)).since(2, 26),
    Op::delete("server_tag_delete", TAG, member("os_compute_api:os-server-tags:delete"), h!(tag_delete)).since(2, 26),
    Op::get("server_address_list", "/servers/{id}/ips", reader("os_compute_api:ips:index"), h!(address_list)),
    Op::get("server_address_show", "/servers/{id}/ips/{network}", reader("os_compute_api:ips:show"), h!(address_show)),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataBody {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaBody {
    meta: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagsBody {
    tags: Vec<String>,
}

/// Changes the row in one transaction; metadata must stay within the project's limit.
async fn change(cx: &Ctx<State>, f: impl Fn(&mut Server) -> Result<()> + Send + Sync + 'static) -> Result<Server> {
    let (id, env) = (cx.param("id").to_string(), cx.env.clone());
    cx.state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            f(&mut s)?;
            let limit = quota_sets::effective(tx, &s.project_id)?.get("metadata_items").copied().unwrap_or(-1);
            if limit >= 0 && i64::try_from(s.metadata.len()).unwrap_or(i64::MAX) > limit {
                return Err(Error::over_quota("Maximum number of metadata items exceeds the quota."));
            }
            s.updated_at = env.now();
            tx.update(&mut s)?;
            Ok(s.value)
        })
        .await
}

async fn metadata_list(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"metadata": lookup(&cx).await?.metadata}))
}

async fn metadata_update(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let body: MetadataBody = cx.json().await?;
    wire::metadata(&body.metadata)?;
    let s = change(&cx, move |s| {
        s.metadata.extend(body.metadata.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"metadata": s.metadata}))
}

async fn metadata_replace(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let body: MetadataBody = cx.json().await?;
    wire::metadata(&body.metadata)?;
    let s = change(&cx, move |s| {
        s.metadata.clone_from(&body.metadata);
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"metadata": s.metadata}))
}

fn no_key() -> Error {
    Error::not_found("Metadata item was not found")
}

async fn metadata_show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let key = cx.param("key");
    let value = s.metadata.get(key).ok_or_else(no_key)?;
    Reply::ok(&json!({"meta": {key: value}}))
}

async fn metadata_set(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let body: MetaBody = cx.json().await?;
    wire::metadata(&body.meta)?;
    if body.meta.len() != 1 || !body.meta.contains_key(cx.param("key")) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    let meta = body.meta.clone();
    change(&cx, move |s| {
        s.metadata.extend(body.meta.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"meta": meta}))
}

async fn metadata_delete(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let key = cx.param("key").to_string();
    change(&cx, move |s| s.metadata.remove(&key).map(drop).ok_or_else(no_key)).await?;
    Ok(Reply::no_content())
}

/// Most tags of one server.
const MAX_TAGS: usize = 50;

async fn tag_list(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"tags": lookup(&cx).await?.tags}))
}

async fn tag_replace(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let body: TagsBody = cx.json().await?;
    body.tags.iter().try_for_each(|t| wire::tag(t))?;
    let tags: BTreeSet<String> = body.tags.into_iter().collect();
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(format!("The number of tags exceeded the per-server limit {MAX_TAGS}")));
    }
    let s = change(&cx, move |s| {
        s.tags.clone_from(&tags);
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"tags": s.tags}))
}

async fn tag_delete_all(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    change(&cx, |s| {
        s.tags.clear();
        Ok(())
    })
    .await?;
    Ok(Reply::no_content())
}

fn no_tag(s: &Server, tag: &str) -> Error {
    Error::not_found(format!("Server {} has no tag '{tag}'", s.id))
}

async fn tag_show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let tag = cx.param("tag");
    if s.tags.contains(tag) { Ok(Reply::no_content()) } else { Err(no_tag(&s, tag)) }
}

async fn tag_add(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let tag = cx.param("tag").to_string();
    wire::tag(&tag)?;
    let known = s.tags.contains(&tag);
    let location = format!("{}/v2.1/servers/{}/tags/{}", cx.base_url, s.id, tag);
    change(&cx, move |s| {
        s.tags.insert(tag.clone());
        if s.tags.len() > MAX_TAGS {
            return Err(Error::invalid(format!("The number of tags exceeded the per-server limit {MAX_TAGS}")));
        }
        Ok(())
    })
    .await?;
    Ok(Reply::empty(if known { 204 } else { 201 }).header("location", location))
}

async fn tag_delete(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    check_unlocked(&cx, &s)?;
    let tag = cx.param("tag").to_string();
    change(&cx, move |s| if s.tags.remove(&tag) { Ok(()) } else { Err(no_tag(s, &tag)) }).await?;
    Ok(Reply::no_content())
}

async fn address_list(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let s = netinfo::fresh(&cx.state, s.value).await;
    Reply::ok(&json!({"addresses": addresses(&s, false)}))
}

async fn address_show(cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let s = netinfo::fresh(&cx.state, s.value).await;
    let name = cx.param("network");
    let all = addresses(&s, false);
    let list = all.get(name).ok_or_else(|| Error::not_found("Instance is not a member of specified network"))?;
    Reply::ok(&json!({name: list}))
}
