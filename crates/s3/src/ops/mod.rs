//! The operations, and which request is which.

mod bucket;
mod config;
mod copy;
mod delete;
mod listing;
mod lock;
mod multipart;
mod object;
mod parts;
mod tagging;
mod versions;

pub use delete::remove;
pub use multipart::abort_upload;
pub use object::get as read;
pub use parts::all_uploads;

use crate::context::Cx;
use crate::errors::{S3Result, err, not_implemented};
use crate::notify::Event;
use crate::state::{Bucket, Setting};
use base64::Engine;
use caelum_object::env::Resp;
use caelum_object::http::{respond, set};
use http::Method;

/// Parts of the API that are named in the query and that are not here.
const ABSENT: &[&str] = &[
    "accelerate",
    "analytics",
    "intelligent-tiering",
    "inventory",
    "metadataTable",
    "metrics",
    "replication",
    "requestPayment",
    "restore",
    "select",
    "session",
    "torrent",
];

fn sub<'a>(cx: &Cx, names: &[&'a str]) -> Option<&'a str> {
    names.iter().find(|n| cx.params.has(n)).copied()
}

pub async fn answer(cx: &mut Cx) -> S3Result<Resp> {
    if let Some(name) = sub(cx, ABSENT) {
        return Err(not_implemented(&format!("The sub-resource {name} is not implemented.")));
    }
    match (&cx.target.bucket, &cx.target.key) {
        (None, _) => match cx.method {
            Method::GET => bucket::list(cx).await,
            _ => Err(not_allowed(cx, "SERVICE")),
        },
        (Some(_), None) => on_bucket(cx).await,
        (Some(_), Some(_)) => on_object(cx).await,
    }
}

fn not_allowed(cx: &Cx, resource: &str) -> crate::errors::S3Error {
    err("MethodNotAllowed").with("Method", cx.method.as_str()).with("ResourceType", resource)
}

const BUCKET_SUBS: &[&str] = &[
    "acl",
    "cors",
    "delete",
    "encryption",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "tagging",
    "uploads",
    "versioning",
    "versions",
    "website",
];

async fn on_bucket(cx: &mut Cx) -> S3Result<Resp> {
    let part = sub(cx, BUCKET_SUBS);
    match (cx.method.clone(), part) {
        (Method::GET, Some("uploads")) => parts::list_uploads(cx).await,
        (Method::GET, Some("versions")) => versions::list(cx).await,
        (Method::GET, Some("location")) => bucket::location(cx).await,
        (Method::GET, Some("versioning")) => versions::get(cx).await,
        (Method::PUT, Some("versioning")) => versions::put(cx).await,
        (Method::GET, Some("acl")) => bucket::get_acl(cx).await,
        (Method::PUT, Some("acl")) => bucket::put_acl(cx).await,
        (Method::POST, Some("delete")) => delete::several(cx).await,
        (Method::GET, Some("object-lock")) => lock::get_configuration(cx).await,
        (Method::PUT, Some("object-lock")) => lock::put_configuration(cx).await,
        (Method::GET, Some("tagging")) => tagging::get_bucket(cx).await,
        (Method::PUT, Some("tagging")) => tagging::put_bucket(cx).await,
        (Method::DELETE, Some("tagging")) => tagging::delete_bucket(cx).await,
        (Method::GET, Some(name)) => config::get(cx, name).await,
        (Method::PUT, Some(name)) => config::put(cx, name).await,
        (Method::DELETE, Some(name)) => config::delete(cx, name).await,
        (Method::GET, None) => listing::list(cx).await,
        (Method::HEAD, _) => bucket::head(cx).await,
        (Method::PUT, None) => bucket::create(cx).await,
        (Method::DELETE, None) => bucket::delete(cx).await,
        (Method::POST, _) => Err(not_implemented("Uploads by forms are not implemented.")),
        _ => Err(not_allowed(cx, "BUCKET")),
    }
}

const OBJECT_SUBS: &[&str] = &["acl", "attributes", "legal-hold", "retention", "tagging", "uploads", "uploadId"];

async fn on_object(cx: &mut Cx) -> S3Result<Resp> {
    // Names of versions containers and of segments are not reachable as buckets; keys with NUL never arrive here.
    if cx.key().len() > 1024 {
        return Err(err("KeyTooLongError").with("Size", cx.key().len().to_string()).with("MaxSizeAllowed", "1024"));
    }
    match (cx.method.clone(), sub(cx, OBJECT_SUBS)) {
        (Method::GET, Some("acl")) => object::get_acl(cx).await,
        (Method::PUT, Some("acl")) => object::put_acl(cx).await,
        (Method::GET, Some("attributes")) => object::attributes(cx).await,
        (Method::GET, Some("legal-hold")) => lock::get_hold(cx).await,
        (Method::PUT, Some("legal-hold")) => lock::put_hold(cx).await,
        (Method::GET, Some("retention")) => lock::get_retention(cx).await,
        (Method::PUT, Some("retention")) => lock::put_retention(cx).await,
        (Method::GET, Some("tagging")) => tagging::get_object(cx).await,
        (Method::PUT, Some("tagging")) => tagging::put_object(cx).await,
        (Method::DELETE, Some("tagging")) => tagging::delete_object(cx).await,
        (Method::POST, Some("uploads")) => multipart::create(cx).await,
        (Method::POST, Some("uploadId")) => multipart::complete(cx).await,
        (Method::PUT, Some("uploadId")) => multipart::upload_part(cx).await,
        (Method::GET, Some("uploadId")) => parts::list_parts(cx).await,
        (Method::DELETE, Some("uploadId")) => multipart::abort(cx).await,
        (Method::GET | Method::HEAD, None) => object::get(cx).await,
        (Method::PUT, None) if cx.params.has("partNumber") => Err(crate::errors::invalid_argument("partNumber", "", "Missing uploadId.")),
        (Method::PUT, None) if cx.headers.contains_key("x-amz-copy-source") => copy::object(cx).await,
        (Method::PUT, None) => object::put(cx).await,
        (Method::DELETE, None) => delete::one(cx).await,
        (Method::POST, None) => Err(not_implemented("Uploads by forms are not implemented.")),
        _ => Err(not_allowed(cx, "OBJECT")),
    }
}

/// An answer with a document.
pub fn xml(body: String) -> Resp {
    respond(200, "application/xml", body)
}

/// An answer without one.
pub fn nothing(status: u16) -> Resp {
    let mut r = respond(status, "", "");
    r.headers_mut().remove("content-type");
    if status == 204 {
        r.headers_mut().remove("content-length");
    }
    set(r.headers_mut(), "server", "Caelum");
    r.headers_mut().remove("server");
    r
}

/// The hex digest of a `Content-MD5`. Errors: `InvalidDigest`.
pub fn md5_of_header(value: &str) -> S3Result<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok().filter(|b| b.len() == 16);
    bytes.map(|b| caelum_swiftkit::to_hex(&b)).ok_or_else(|| err("InvalidDigest").with("ContentMD5", value))
}

/// A number in the query. Errors: `InvalidArgument` for anything else, and above `max`.
pub fn number(cx: &Cx, name: &str, default: u64) -> S3Result<u64> {
    let Some(text) = cx.params.get(name).filter(|t| !t.is_empty()) else { return Ok(default) };
    let bad = |m: String| crate::errors::invalid_argument(name, text, &m);
    let n: u64 = text.parse().map_err(|_| bad("Provided argument is not an integer or within integer range".into()))?;
    if n > 2_147_483_647 { Err(bad(format!("Argument {name} must be an integer between 0 and 2147483647"))) } else { Ok(n) }
}

/// `2009-02-13T23:31:31.000Z`, rounded up to the second as in `Last-Modified`, from a listing's time.
pub fn xml_time(iso: &str) -> String {
    let t = caelum_base::Timestamp::parse(iso).unwrap_or_default();
    let seconds = t.secs() + i64::from(t.0.rem_euclid(1_000_000) > 0);
    xml_seconds(seconds)
}

pub fn xml_seconds(seconds: i64) -> String {
    caelum_base::Timestamp::from_secs(seconds).iso_z().replace('Z', ".000Z")
}

/// Tells whoever wants to know.
pub async fn tell(cx: &Cx, state: &Bucket, name: &str, key: &str, about: (Option<u64>, Option<&str>, Option<&str>)) {
    let Some(config) = state.setting(Setting::Notification) else { return };
    let user = cx.user();
    cx.inner.notifier.tell(config, &event(cx, state, &user, name, key, about)).await;
}

/// Tells those whom a new configuration names.
async fn tell_first(cx: &Cx, state: &Bucket, config: &crate::xml::Element) {
    let user = cx.user();
    cx.inner.notifier.test(config, &event(cx, state, &user, "TestEvent", "", (None, None, None))).await;
}

fn event<'a>(
    cx: &'a Cx,
    state: &'a Bucket,
    user: &'a str,
    name: &'a str,
    key: &'a str,
    (size, etag, version_id): (Option<u64>, Option<&'a str>, Option<&'a str>),
) -> Event<'a> {
    Event {
        name,
        bucket: cx.bucket(),
        key,
        size,
        etag,
        version_id,
        user,
        owner: state.acl.owner.as_deref().unwrap_or(user),
        time: cx.now(),
        request_id: &cx.request_id,
        region: cx.region(),
        remote: cx.origin.environ.as_ref().and_then(|e| e.remote).map(|r| r.to_string()),
    }
}
