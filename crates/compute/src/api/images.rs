//! `/images` (until 2.35): the image service's images in compute's old form, with the user's rights.

use super::forms;
use crate::State;
use crate::logic::network::path;
use caelum_base::{Error, Result};
use caelum_rest::{Access, Ctx, Op, Reply, full, h};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const ONE: &str = "/images/{id}";
const META: &str = "/images/{id}/metadata";
const KEY: &str = "/images/{id}/metadata/{key}";

pub const OPS: &[Op<State>] = &[
    Op::get("image_list", "/images", Access::Token, h!(list)).until(2, 35),
    Op::get("image_list_detail", "/images/detail", Access::Token, h!(detail)).until(2, 35),
    Op::get("image_show", ONE, Access::Token, h!(show)).until(2, 35),
    Op::delete("image_delete", ONE, Access::Token, h!(delete)).until(2, 35),
    Op::get("image_metadata_list", META, Access::Token, h!(metadata)).until(2, 38),
    Op::post("image_metadata_create", META, Access::Token, h!(metadata_add)).until(2, 38),
    Op::put("image_metadata_update", META, Access::Token, h!(metadata_replace)).until(2, 38),
    Op::get("image_metadata_show", KEY, Access::Token, h!(metadata_show)).until(2, 38),
    Op::put("image_metadata_put", KEY, Access::Token, h!(metadata_put)).until(2, 38),
    Op::delete("image_metadata_delete", KEY, Access::Token, h!(metadata_delete)).until(2, 38),
];

/// What the image service says of every image; everything else is a property.
const CORE: &[&str] = &[
    "id",
    "name",
    "status",
    "created_at",
    "updated_at",
    "size",
    "virtual_size",
    "min_disk",
    "min_ram",
    "visibility",
    "protected",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "owner",
    "tags",
    "self",
    "file",
    "schema",
    "container_format",
    "disk_format",
    "locations",
    "direct_url",
    "stores",
];

fn properties(image: &Value) -> Map<String, Value> {
    let all = image.as_object().into_iter().flatten();
    all.filter(|(k, v)| !CORE.contains(&k.as_str()) && !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn short(cx: &Ctx<State>, image: &Value) -> Value {
    let id = image["id"].as_str().unwrap_or_default();
    let mut links = forms::links(cx, &format!("/images/{id}"));
    if let Some(links) = links.as_array_mut() {
        let href = format!("{}/images/{id}", cx.base_url);
        links.push(json!({"rel": "alternate", "type": "application/vnd.openstack.image", "href": href}));
    }
    json!({"id": id, "name": image["name"], "links": links})
}

fn long(cx: &Ctx<State>, image: &Value) -> Value {
    let (status, progress) = match image["status"].as_str().unwrap_or_default() {
        "queued" => ("SAVING", 25),
        "saving" | "uploading" | "importing" => ("SAVING", 50),
        "active" => ("ACTIVE", 100),
        "deleted" | "pending_delete" => ("DELETED", 0),
        "killed" => ("ERROR", 0),
        _ => ("UNKNOWN", 0),
    };
    let meta = properties(image);
    let mut v = short(cx, image);
    for (name, value) in [
        ("minRam", image["min_ram"].clone()),
        ("minDisk", image["min_disk"].clone()),
        ("created", image["created_at"].clone()),
        ("updated", image["updated_at"].clone()),
        ("status", json!(status)),
        ("progress", json!(progress)),
        ("OS-EXT-IMG-SIZE:size", json!(image["size"].as_i64().unwrap_or(0))),
    ] {
        v[name] = value;
    }
    if let Some(server) = meta.get("instance_uuid").and_then(Value::as_str) {
        v["server"] = json!({"id": server, "links": forms::links(cx, &format!("/servers/{server}"))});
    }
    if let Some(auto) = meta.get("auto_disk_config").and_then(forms::boolean) {
        v["OS-DCF:diskConfig"] = json!(if auto { "AUTO" } else { "MANUAL" });
    }
    v["metadata"] = Value::Object(meta);
    v
}

#[derive(Deserialize)]
struct Images {
    images: Vec<Value>,
}

/// The list's filters in the image service's words.
fn filters(cx: &Ctx<State>) -> Result<String> {
    let encode = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let mut out = Vec::new();
    for (key, value) in cx.query.iter().filter(|(_, v)| !v.is_empty()) {
        let name = match key {
            "name" | "marker" => key.to_string(),
            "limit" => {
                let n: usize = value.parse().map_err(|_| Error::invalid("limit param must be an integer"))?;
                out.push(format!("limit={}", n.min(forms::MAX_LIMIT)));
                continue;
            }
            "status" => {
                let status = if value.eq_ignore_ascii_case("saving") { "queued".to_string() } else { value.to_ascii_lowercase() };
                out.push(format!("status={}", encode(&status)));
                continue;
            }
            "changes-since" => {
                out.push(format!("updated_at=gte%3A{}", encode(value)));
                continue;
            }
            // A server's URL or id.
            "server" => {
                out.push(format!("instance_uuid={}", encode(value.rsplit('/').next().unwrap_or(value))));
                continue;
            }
            "type" => "image_type".to_string(),
            "minRam" => "min_ram".to_string(),
            "minDisk" => "min_disk".to_string(),
            other => match other.strip_prefix("property-") {
                Some(p) => encode(p),
                None => continue,
            },
        };
        out.push(format!("{name}={}", encode(value)));
    }
    Ok(if out.is_empty() { String::new() } else { format!("?{}", out.join("&")) })
}

async fn select(cx: &Ctx<State>) -> Result<(Vec<Value>, Option<String>)> {
    let found: Images = cx.state.peers.image.get(format!("/v2/images{}", filters(cx)?)).as_user(&cx.auth().token).fetch().await?;
    let limit = cx.query.int("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let full_page = limit == Some(found.images.len());
    let next = found.images.last().filter(|_| full_page).and_then(|i| i["id"].as_str()).map(String::from);
    Ok((found.images, next))
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    let (rows, next) = select(&cx).await?;
    let mut body = json!({"images": rows.iter().map(|i| short(&cx, i)).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "images", "/images", next);
    Reply::ok(&body)
}

async fn detail(cx: Ctx<State>) -> Result<Reply> {
    let (rows, next) = select(&cx).await?;
    let mut body = json!({"images": rows.iter().map(|i| long(&cx, i)).collect::<Vec<_>>()});
    forms::add_next(&cx, &mut body, "images", "/images/detail", next);
    Reply::ok(&body)
}

fn no_image() -> Error {
    Error::not_found("Image not found.")
}

fn gone(e: Error) -> Error {
    if e.is_not_found() { no_image() } else { e }
}

/// Path of the image the request names; what cannot be an id is not found.
fn image_path(cx: &Ctx<State>) -> Result<String> {
    Ok(format!("/v2/images/{}", path(cx.param("id")).map_err(|_| no_image())?))
}

async fn fetch(cx: &Ctx<State>) -> Result<Value> {
    cx.state.peers.image.get(image_path(cx)?).as_user(&cx.auth().token).fetch().await.map_err(gone)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let image = fetch(&cx).await?;
    Reply::ok(&json!({"image": long(&cx, &image)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    cx.state.peers.image.delete(image_path(&cx)?).as_user(&cx.auth().token).done().await.map_err(gone)?;
    Ok(Reply::no_content())
}

/// Properties as text, which compute's metadata are.
fn texts(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().map(|(k, v)| if v.is_string() { (k, v) } else { (k, json!(v.to_string())) }).collect()
}

async fn metadata(cx: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"metadata": texts(properties(&fetch(&cx).await?))}))
}

async fn metadata_show(cx: Ctx<State>) -> Result<Reply> {
    let (meta, key) = (texts(properties(&fetch(&cx).await?)), cx.param("key"));
    let value = meta.get(key).ok_or_else(|| Error::not_found("Metadata item was not found"))?;
    Reply::ok(&json!({"meta": {key: value}}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    meta: BTreeMap<String, String>,
}

/// Sends a JSON patch that turns the image's properties from `old` into `new`.
async fn patch(cx: &Ctx<State>, old: &Map<String, Value>, new: &Map<String, Value>) -> Result<Value> {
    let pointer = |k: &str| format!("/{}", k.replace('~', "~0").replace('/', "~1"));
    let mut steps: Vec<Value> = Vec::new();
    for (k, v) in new.iter().filter(|(k, v)| old.get(*k) != Some(v)) {
        if CORE.contains(&k.as_str()) {
            return Err(Error::invalid(format!("{k} is not a property.")));
        }
        steps.push(json!({"op": if old.contains_key(k) { "replace" } else { "add" }, "path": pointer(k), "value": v}));
    }
    steps.extend(old.keys().filter(|k| !new.contains_key(*k)).map(|k| json!({"op": "remove", "path": pointer(k)})));
    let body = full(Value::Array(steps).to_string());
    let call = cx.state.peers.image.patch(image_path(cx)?).as_user(&cx.auth().token);
    call.stream(body, "application/openstack-images-v2.1-json-patch").fetch().await.map_err(gone)
}

fn owned(map: BTreeMap<String, String>) -> Result<Map<String, Value>> {
    let long = |t: &str| t.chars().count() > 255;
    if map.iter().any(|(k, v)| k.is_empty() || long(k) || long(v)) {
        return Err(Error::invalid("Metadata keys and values have at most 255 characters."));
    }
    Ok(map.into_iter().map(|(k, v)| (k, json!(v))).collect())
}

async fn metadata_add(mut cx: Ctx<State>) -> Result<Reply> {
    let new = owned(cx.json::<Metadata>().await?.metadata)?;
    let old = properties(&fetch(&cx).await?);
    let mut all = old.clone();
    all.extend(new);
    Reply::ok(&json!({"metadata": texts(properties(&patch(&cx, &old, &all).await?))}))
}

async fn metadata_replace(mut cx: Ctx<State>) -> Result<Reply> {
    let new = owned(cx.json::<Metadata>().await?.metadata)?;
    let old = properties(&fetch(&cx).await?);
    Reply::ok(&json!({"metadata": texts(properties(&patch(&cx, &old, &new).await?))}))
}

async fn metadata_put(mut cx: Ctx<State>) -> Result<Reply> {
    let new = owned(cx.json::<Meta>().await?.meta)?;
    let key = cx.param("key").to_string();
    if new.len() != 1 || !new.contains_key(&key) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    let old = properties(&fetch(&cx).await?);
    let mut all = old.clone();
    all.extend(new.clone());
    patch(&cx, &old, &all).await?;
    Reply::ok(&json!({"meta": new}))
}

async fn metadata_delete(cx: Ctx<State>) -> Result<Reply> {
    let old = properties(&fetch(&cx).await?);
    let mut rest = old.clone();
    rest.remove(cx.param("key")).ok_or_else(|| Error::not_found("Invalid metadata key"))?;
    patch(&cx, &old, &rest).await?;
    Ok(Reply::no_content())
}
