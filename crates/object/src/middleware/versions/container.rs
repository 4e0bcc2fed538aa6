//! Requests to containers: turning versioning on and off, listings, deleting what is left.

use super::names::{parse_version, versions_container};
use super::{Context, Inner, ask, done, info_of, listing, question};
use crate::env::{Req, Resp, SwiftPath, environ, quote};
use crate::http::{error_html, is_success, is_true_text, set, text};
use crate::middleware::common::{allow_reserved, container_path, listing_rows, parse_header, unquote, with_json};
use crate::proxy::info::ContainerInfo;
use http::{HeaderMap, Method};
use serde_json::Value;

const ENABLED: &str = "x-versions-enabled";
const SYSMETA_ENABLED: &str = "x-container-sysmeta-versions-enabled";
const SYSMETA_CONTAINER: &str = "x-container-sysmeta-versions-container";

pub(super) async fn container(layer: &Inner, req: Req, path: &SwiftPath, container: &str) -> Result<Resp, Resp> {
    match *req.method() {
        Method::PUT | Method::POST if req.headers().contains_key(ENABLED) => enable(layer, req, path, container).await,
        Method::DELETE => delete(layer, req, path, container).await,
        _ => show(layer, req, path, container).await,
    }
}

/// Tells the client what the sysmeta says.
fn announce(h: &mut HeaderMap) {
    if let Some(value) = text(h, SYSMETA_ENABLED).map(str::to_string) {
        set(h, ENABLED, value);
    }
}

async fn show(layer: &Inner, req: Req, path: &SwiftPath, container: &str) -> Result<Resp, Resp> {
    let cx = Context::new(&layer.next, &req, "OV");
    let request = listing::Request::of(&req);
    let get = req.method() == Method::GET;
    let mut resp = layer.next.call(req).await;
    announce(resp.headers_mut());
    let location = text(resp.headers(), SYSMETA_CONTAINER).filter(|l| !l.is_empty()).map(unquote);
    if let Some(location) = &location {
        add_bytes(&cx, path, location, resp.headers_mut()).await;
    }
    if !is_success(&resp) || !get {
        return Ok(resp);
    }
    // What a listing of versions shows may be more than this answer knows of.
    let location = location.or_else(|| versions_container(container)).unwrap_or_default();
    let mark = if request.versions() { "" } else { "symlink_path" };
    let (resp, mut rows) = match listing_rows(resp, mark).await {
        Ok(found) => found,
        Err(resp) => return Ok(resp),
    };
    for row in &mut rows {
        as_version(row, container, &location, request.versions());
    }
    if request.versions() {
        return listing::list(layer, &cx, resp, path, &location, rows, request).await;
    }
    Ok(with_json(resp, &Value::Array(rows)))
}

/// The container's bytes are those of its versions too.
async fn add_bytes(cx: &Context, path: &SwiftPath, location: &str, h: &mut HeaderMap) {
    const BYTES: &str = "x-container-bytes-used";
    let number = |h: &HeaderMap| text(h, BYTES).and_then(|b| b.parse::<u64>().ok());
    let Some(own) = number(h) else { return };
    let mut head = cx.request(Method::HEAD, &container_path("v1", &path.account, location));
    allow_reserved(&mut head);
    let resp = cx.call(head).await;
    if is_success(&resp) {
        let all = own.saturating_add(number(resp.headers()).unwrap_or(0));
        set(h, BYTES, all.to_string());
    }
    done(resp).await;
}

/// A row that is a link to a version shows the version.
fn as_version(row: &mut Value, container: &str, location: &str, versions: bool) {
    let Some(map) = row.as_object_mut() else { return };
    let (Some(link), Some(etag), Some(bytes)) = (
        map.get("symlink_path").and_then(Value::as_str).and_then(SwiftPath::parse),
        map.get("symlink_etag").and_then(Value::as_str).map(str::to_string),
        map.get("symlink_bytes").and_then(Value::as_u64),
    ) else {
        return;
    };
    if link.container.as_deref() != Some(location) {
        return;
    }
    let hash = map.get("hash").and_then(Value::as_str).unwrap_or_default();
    let rest: String = parse_header(hash).1.iter().map(|(k, v)| format!("; {k}={v}")).collect();
    map.insert("hash".into(), format!("{etag}{rest}").into());
    map.remove("symlink_etag");
    map.remove("symlink_bytes");
    map.insert("bytes".into(), bytes.into());
    map.insert("version_symlink".into(), true.into());
    if let Some((object, id)) = link.object.as_deref().and_then(parse_version).filter(|_| !versions) {
        let target = crate::middleware::common::object_path("v1", &link.account, container, object);
        map.insert("symlink_path".into(), format!("{target}?version-id={id}").into());
    }
}

/// A container goes with its hidden one, which must be empty.
async fn delete(layer: &Inner, req: Req, path: &SwiftPath, container: &str) -> Result<Resp, Resp> {
    let info = info_of(&*layer.info, environ(&req).cloned(), &path.account, container).await;
    if let Some(versions) = info.sysmeta("versions-container").map(unquote) {
        let cx = Context::new(&layer.next, &req, "OV");
        // Before anything is said or done about the versions.
        let (environ, method, here) = question(&req)?;
        ask(&environ, &method, &here, None).await?;
        let target = container_path("v1", &path.account, &versions);
        let hidden = |method| {
            let mut r = cx.request(method, &target);
            allow_reserved(&mut r);
            r
        };
        // Not from the cache: it must be known that there are none.
        let head = cx.call(hidden(Method::HEAD)).await;
        let count = text(head.headers(), "x-container-object-count").and_then(|c| c.parse::<u64>().ok()).unwrap_or(0);
        let status = head.status();
        done(head).await;
        if status.is_success() && count > 0 {
            return Err(error_html(409, "Delete all versions before deleting container."));
        }
        if !status.is_success() && status.as_u16() != 404 {
            return Err(error_html(500, "Error deleting versioned container"));
        }
        let resp = cx.call(hidden(Method::DELETE)).await;
        let status = resp.status();
        done(resp).await;
        if !status.is_success() && status.as_u16() != 404 {
            return Err(error_html(500, "Error deleting versioned container"));
        }
    }
    Ok(layer.next.call(req).await)
}

/// The hidden container's policy: that of the user's.
fn policy_name(layer: &Inner, req: &Req, info: &ContainerInfo) -> Result<Option<String>, Deprecated> {
    if !info.exists() {
        let put = req.method() == Method::PUT;
        return Ok(text(req.headers(), "x-storage-policy").filter(|_| put).map(str::to_string));
    }
    let policy = layer.policies.get(info.storage_policy);
    if policy.is_some_and(|p| p.is_deprecated) {
        return Err(Deprecated);
    }
    Ok(policy.map(|p| p.name.clone()))
}

struct Deprecated;

async fn enable(layer: &Inner, mut req: Req, path: &SwiftPath, container: &str) -> Result<Resp, Resp> {
    let info = info_of(&*layer.info, environ(&req).cloned(), &path.account, container).await;
    if info.sysmeta("versions-location").is_some() || info.versions.as_deref().is_some_and(|v| !v.is_empty()) {
        return Err(error_html(
            400,
            "Cannot enable object versioning on a container that is already using the legacy versioned writes feature.",
        ));
    }
    if info.sync_to.as_deref().is_some_and(|s| !s.is_empty()) {
        return Err(error_html(400, "Cannot enable object versioning on a container configured as source of container syncing."));
    }
    let on = text(req.headers(), ENABLED).is_some_and(is_true_text);
    set(req.headers_mut(), SYSMETA_ENABLED, if on { "True" } else { "False" });
    if !on {
        let mut resp = layer.next.call(req).await;
        announce(resp.headers_mut());
        return Ok(resp);
    }
    let Some(hidden) = versions_container(container) else {
        return Err(error_html(400, "Invalid reserved-namespace container"));
    };
    let (environ, method, here) = question(&req)?;
    let policy = policy_name(layer, &req, &info);
    let Ok(policy) = policy else {
        ask(&environ, &method, &here, None).await?;
        return Err(error_html(400, "Cannot enable object versioning on a container that uses a deprecated storage policy."));
    };
    let cx = Context::new(&layer.next, &req, "OV");
    let target = container_path(&path.version, &path.account, &hidden);
    let request = |method| {
        let mut r = cx.request(method, &target);
        if let Some(p) = &policy {
            set(r.headers_mut(), "x-storage-policy", p);
        }
        set(r.headers_mut(), "content-length", "0");
        allow_reserved(&mut r);
        r
    };
    // Nothing is made for somebody who may not change the container.
    ask(&environ, &method, &here, None).await?;
    let made = cx.call(request(Method::PUT)).await;
    let status = made.status();
    done(made).await;
    if !status.is_success() && status.as_u16() != 409 {
        return Err(error_html(500, "Error enabling object versioning"));
    }
    set(req.headers_mut(), SYSMETA_CONTAINER, quote(&hidden));
    let mut resp = layer.next.call(req).await;
    if !is_success(&resp) {
        done(cx.call(request(Method::DELETE)).await).await;
    }
    announce(resp.headers_mut());
    Ok(resp)
}
