//! Deletes: of one object, of one version, of many.

use super::object::ETAG_SYSMETA;
use super::{nothing, tell, xml};
use crate::context::{Cx, Need, Subject, discard, is_absent};
use crate::errors::{S3Result, err, invalid_request};
use crate::state::Bucket;
use crate::xml::{Xml, parse};
use caelum_object::env::Resp;
use caelum_object::http::{is_success, read_all, set, text};
use futures_util::StreamExt;
use http::{HeaderMap, Method};
use serde_json::Value;

const MAX_KEYS: usize = 1000;
const MAX_BODY: usize = 2 * MAX_KEYS * 1024;
const AT_ONCE: usize = 4;
const DELETE_MARKER: &str = "application/x-deleted;swift_versions_deleted=1";

/// What came of a delete.
#[derive(Default)]
pub struct Gone {
    pub version: Option<String>,
    pub is_marker: bool,
}

pub async fn one(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let version = cx.params.get("versionId").filter(|v| !v.is_empty()).map(str::to_string);
    let action = if version.is_some() { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
    let state = cx.authorize(action, Some(&key), Need::Bucket("WRITE")).await?;
    if let Some(e) = cx.header("if-match").filter(|_| version.is_none()) {
        let _ = e;
        super::object::check_write_conditions(cx, &key).await?;
    }
    let gone = remove(cx, &state, &key, version.as_deref()).await?;
    let mut r = nothing(204);
    if let Some(v) = &gone.version {
        set(r.headers_mut(), "x-amz-version-id", v);
    }
    if gone.is_marker {
        set(r.headers_mut(), "x-amz-delete-marker", "true");
    }
    Ok(r)
}

/// Deletes an object or one of its versions; what is not there counts as deleted.
pub async fn remove(cx: &Cx, state: &Bucket, key: &str, version: Option<&str>) -> S3Result<Gone> {
    let named = |v: &str| v != "null";
    if let Some(v) = version.filter(|v| named(v)) {
        if caelum_swiftkit::Timestamp::parse(v).is_none() {
            return Err(crate::errors::invalid_argument("versionId", v, "Invalid version id specified"));
        }
        if !state.has_versions() {
            return Ok(Gone { version: Some(v.into()), is_marker: false });
        }
    }
    super::lock::check_delete(cx, state, key, version).await?;
    // A version that stays keeps its parts.
    let keeps = version.is_none() && state.versioning() == Some(true);
    let manifest = if keeps { Vec::new() } else { manifest_query(cx, key, version).await? };
    let mut call = cx.call(Method::DELETE, cx.bucket(), key).header("accept", "application/json");
    for (name, value) in &manifest {
        call = call.query(name, value);
    }
    if let Some(v) = version {
        call = call.query("version-id", v);
        if manifest.is_empty() {
            call = call.query("symlink", "get");
        }
    }
    let resp = match cx.expect(call.send().await, Subject::Object(key)).await {
        Ok(r) => r,
        Err(e) if e.code == "MethodNotAllowed" || (is_absent(&e) && e.code != "NoSuchBucket") => {
            return Ok(Gone { version: version.map(str::to_string), is_marker: false });
        }
        Err(e) => return Err(e),
    };
    let (parts, body) = resp.into_parts();
    let said = read_all(body, 1 << 20).await.unwrap_or_default();
    check_segments(&manifest, &said)?;
    if text(&parts.headers, "x-object-current-version-id") == Some("null") {
        restore(cx, key).await;
    }
    Ok(told(cx, state, key, version, &parts.headers).await)
}

async fn told(cx: &Cx, state: &Bucket, key: &str, version: Option<&str>, headers: &HeaderMap) -> Gone {
    let of = text(headers, "x-object-version-id").filter(|v| *v != "null").or(version).map(str::to_string);
    let keeps = version.is_none() && state.versioning() == Some(true);
    let was_marker = text(headers, "x-backend-content-type") == Some(DELETE_MARKER) || text(headers, "content-type") == Some(DELETE_MARKER);
    let name = if keeps { "ObjectRemoved:DeleteMarkerCreated" } else { "ObjectRemoved:Delete" };
    tell(cx, state, name, key, (None, None, of.as_deref())).await;
    Gone { version: of, is_marker: keeps || was_marker }
}

/// Large objects go with their segments.
async fn manifest_query(cx: &Cx, key: &str, version: Option<&str>) -> S3Result<Vec<(&'static str, &'static str)>> {
    let mut head = cx.call(Method::HEAD, cx.bucket(), key).granted().query("symlink", "get");
    if let Some(v) = version {
        head = head.query("version-id", v);
    }
    let resp = head.send().await;
    let h = resp.headers();
    let is_slo = is_success(&resp) && text(h, "x-static-large-object").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    Ok(match (is_slo, h.contains_key(ETAG_SYSMETA)) {
        (false, _) => Vec::new(),
        // The segments of an upload are nobody else's, so that they may go later.
        (true, true) => vec![("multipart-manifest", "delete"), ("async", "on")],
        (true, false) => vec![("multipart-manifest", "delete")],
    })
}

fn check_segments(manifest: &[(&str, &str)], said: &[u8]) -> S3Result<()> {
    if manifest.is_empty() || said.is_empty() {
        return Ok(());
    }
    let Ok(v) = serde_json::from_slice::<Value>(said) else { return Ok(()) };
    match v.get("Errors").and_then(Value::as_array) {
        Some(errors) if !errors.is_empty() => {
            tracing::warn!(n_errors = errors.len(), "segments of a deleted object could not be deleted");
            Err(err("InternalError"))
        }
        _ => Ok(()),
    }
}

/// After the current version is gone the one before it becomes current.
async fn restore(cx: &Cx, key: &str) {
    let list = cx.call(Method::GET, cx.bucket(), "").granted().query("prefix", key).query("versions", "").query("limit", "1000");
    let Ok((rows, _)) = list.json(Subject::Bucket(cx.bucket())).await else { return };
    for row in super::listing::rows_of(rows) {
        let get = |n: &str| row.get(n).and_then(Value::as_str).unwrap_or_default();
        if get("name") != key || get("content_type") == DELETE_MARKER {
            return;
        }
        let put = cx.call(Method::PUT, cx.bucket(), key).granted().query("version-id", get("version_id")).send().await;
        let ok = is_success(&put);
        discard(put).await;
        if ok {
            return;
        }
    }
}

struct Wanted {
    key: String,
    version: Option<String>,
}

fn read(body: &[u8]) -> S3Result<(Vec<Wanted>, bool)> {
    if body.is_empty() {
        return Err(err("MissingRequestBodyError"));
    }
    let e = parse(body, "Delete").map_err(|_| err("MalformedXML"))?;
    let mut out = Vec::new();
    for o in e.children("Object") {
        // Space belongs to a key.
        let key = o.child("Key").map(|k| k.text.clone()).filter(|k| !k.is_empty() && k.len() <= 1024 && !k.contains('\0'));
        let version = o.text_of("VersionId").filter(|v| !v.is_empty()).map(str::to_string);
        out.push(Wanted { key: key.ok_or_else(|| err("UserKeyMustBeSpecified"))?, version });
    }
    if out.is_empty() || out.len() > MAX_KEYS {
        return Err(err("MalformedXML"));
    }
    Ok((out, e.text_of("Quiet").is_some_and(|q| q.eq_ignore_ascii_case("true"))))
}

pub async fn several(cx: &mut Cx) -> S3Result<Resp> {
    let checked = cx.headers.contains_key("content-md5")
        || cx.headers.keys().any(|n| n.as_str().starts_with("x-amz-checksum-"))
        || cx.headers.contains_key("x-amz-trailer")
        || cx.header("x-amz-content-sha256").is_some_and(|h| h.len() == 64);
    if !checked {
        return Err(invalid_request("Missing required header for this request: Content-MD5 OR x-amz-checksum-*"));
    }
    let body = cx.read_body(MAX_BODY).await?;
    let (list, is_quiet) = read(&body)?;
    let state = cx.bucket_state().await?;
    if cx.is_owner && state.policy.is_none() {
        cx.rights = crate::context::Rights::Granted;
    }
    let shared: &Cx = cx;
    let about = &state;
    let results: Vec<(Wanted, S3Result<Gone>)> = futures_util::stream::iter(list)
        .map(|w| async move {
            let r = allowed_remove(shared, about, &w).await;
            (w, r)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut x = Xml::document("DeleteResult", true);
    for (w, result) in results {
        match result {
            Ok(_) if is_quiet => {}
            Ok(gone) => {
                x.open("Deleted").leaf("Key", &w.key).leaf_if("VersionId", w.version.as_deref());
                if gone.is_marker {
                    x.leaf("DeleteMarker", "true").leaf_if("DeleteMarkerVersionId", gone.version.as_deref());
                }
                x.close();
            }
            Err(e) => {
                x.open("Error").leaf("Key", &w.key).leaf_if("VersionId", w.version.as_deref());
                x.leaf("Code", e.code).leaf("Message", &e.message).close();
            }
        }
    }
    Ok(xml(x.finish()))
}

async fn allowed_remove(cx: &Cx, state: &Bucket, w: &Wanted) -> S3Result<Gone> {
    let action = if w.version.is_some() { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
    let rights = cx.decide(action, cx.bucket(), Some(&w.key), state, Need::Bucket("WRITE")).await?;
    let view = cx.with_rights(rights);
    remove(&view, state, &w.key, w.version.as_deref()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_to_delete() {
        let (list, quiet) = read(
            b"<Delete><Quiet>true</Quiet><Object><Key> a </Key></Object><Object><Key>b</Key><VersionId>1.2</VersionId></Object></Delete>",
        )
        .unwrap();
        assert!(quiet && list[0].key == " a " && list[1].version.as_deref() == Some("1.2"));
        let many = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(MAX_KEYS + 1));
        assert_eq!(read(many.as_bytes()).err().unwrap().code, "MalformedXML");
        assert_eq!(read(b"<Delete/>").err().unwrap().code, "MalformedXML");
        assert_eq!(read(b"").err().unwrap().code, "MissingRequestBodyError");
        assert_eq!(read(b"<Delete><Object><Key></Key></Object></Delete>").err().unwrap().code, "UserKeyMustBeSpecified");
    }
}
