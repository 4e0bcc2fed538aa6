//! Objects: put, get, head, access list, attributes.

use super::{nothing, tell, xml};
use crate::acl::{AccessList, MAX_XML, OBJECT_ACL, OBJECT_ACL_LATER};
use crate::checksum::Algorithm;
use crate::context::{Cx, Need, Rights, Subject, discard};
use crate::errors::{S3Result, err, invalid_argument, invalid_request, not_implemented};
use crate::payload::{CHECKSUM_SYSMETA, parse_stored, stored_checksum};
use crate::state::{Bucket, Setting};
use crate::tags;
use crate::xml::Xml;
use caelum_object::env::Resp;
use caelum_object::http::{Ranges, content_range, http_date, parse_http_date, set, text, unquote_etag};
use caelum_object::middleware::Protection;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// The tag that S3's clients see of a multipart object: `<md5>-<parts>`.
pub const ETAG_SYSMETA: &str = "x-object-sysmeta-s3api-etag";
pub const UPLOAD_ID_SYSMETA: &str = "x-object-sysmeta-s3api-upload-id";
pub const REDIRECT_SYSMETA: &str = "x-object-sysmeta-s3api-website-redirect-location";
/// User metadata in bytes at most.
const MAX_USER_META: usize = 2048;

/// Headers that are stored and returned as they are.
pub const KEPT: [&str; 6] = ["cache-control", "content-disposition", "content-encoding", "content-language", "expires", "x-robots-tag"];

/// A value that is not ASCII as a MIME word.
fn sanitized(value: &HeaderValue) -> String {
    use base64::Engine;
    match value.to_str() {
        Ok(t) => t.to_string(),
        Err(_) => {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            format!("=?UTF-8?B?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
        }
    }
}

/// The metadata of a new object, as Swift names it. Errors: `MetadataTooLarge`.
pub fn metadata(headers: &HeaderMap) -> S3Result<HeaderMap> {
    let mut out = HeaderMap::new();
    let mut size = 0;
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix("x-amz-meta-").filter(|k| !k.is_empty()) else { continue };
        let all: Vec<String> = headers.get_all(name).iter().map(sanitized).collect();
        let value = all.join(",");
        size += key.len() + value.len();
        // `^` begins what stands for another byte (`caelum_rest::names`).
        let name = format!("x-object-meta-{}", key.replace('^', "^5e"));
        if let (Ok(n), Ok(v)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            out.insert(n, v);
        }
    }
    if size > MAX_USER_META {
        return Err(err("MetadataTooLarge").with("Size", size.to_string()).with("MaxSizeAllowed", MAX_USER_META.to_string()));
    }
    for name in KEPT {
        let Some(v) = text(headers, name) else { continue };
        // How the body travelled is no property of the object.
        let v = if name == "content-encoding" {
            v.split(',').map(str::trim).filter(|e| !e.eq_ignore_ascii_case("aws-chunked") && !e.is_empty()).collect::<Vec<_>>().join(",")
        } else {
            v.to_string()
        };
        if !v.is_empty() {
            set(&mut out, name, v);
        }
    }
    for name in ["x-delete-at", "x-delete-after"] {
        if let Some(v) = text(headers, name) {
            set(&mut out, name, v);
        }
    }
    if let Some(v) = text(headers, "x-amz-website-redirect-location") {
        if !(v.starts_with('/') || v.starts_with("http://") || v.starts_with("https://")) {
            return Err(err("InvalidRequest").text("The website redirect location must have a prefix of 'http://' or 'https://' or '/'."));
        }
        set(&mut out, REDIRECT_SYSMETA, v);
    }
    Ok(out)
}

/// What S3 adds to a new object: access list, tags, lock.
pub async fn additions(cx: &Cx, state: &Bucket) -> S3Result<HeaderMap> {
    let mut out = HeaderMap::new();
    let user = cx.user();
    let bucket_owner = state.acl.owner.clone().unwrap_or_else(|| user.clone());
    let asked = AccessList::of_headers(&cx.headers, &user, &bucket_owner)?;
    if asked.is_some() {
        // Giving rights away is an action of its own.
        cx.decide("s3:PutObjectAcl", cx.bucket(), Some(cx.key()), state, Need::Bucket("WRITE")).await?;
    }
    let list = asked.map_or_else(|| AccessList::canned("private", &user, &bucket_owner), Ok)?;
    if cx.caller.is_some() {
        set(&mut out, OBJECT_ACL, list.to_stored()?);
    }
    if let Some(t) = cx.header("x-amz-tagging") {
        cx.decide("s3:PutObjectTagging", cx.bucket(), Some(cx.key()), state, Need::Bucket("WRITE")).await?;
        let t = tags::from_query(t, tags::MAX_OBJECT_TAGS)?;
        set(&mut out, tags::OBJECT_TAGS, tags::to_query(&t));
    }
    super::lock::of_new_object(cx, state, &mut out).await?;
    Ok(out)
}

/// The tag of an object for clients, without quotes.
pub fn etag_of(headers: &HeaderMap) -> Option<String> {
    let own = text(headers, ETAG_SYSMETA).or_else(|| text(headers, "x-object-sysmeta-swift3-etag")).filter(|e| !e.is_empty());
    if let Some(e) = own {
        return Some(e.to_string());
    }
    let plain = unquote_etag(text(headers, "etag")?).to_string();
    let is_slo = text(headers, "x-static-large-object").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    Some(if is_slo { format!("{plain}-N") } else { plain })
}

/// Checks the conditions of a write against what is there. Held under the key's lock until the write is done.
pub async fn check_write_conditions(cx: &Cx, key: &str) -> S3Result<()> {
    let (if_match, if_none) = (cx.header("if-match"), cx.header("if-none-match"));
    if cx.headers.contains_key("if-modified-since") || cx.headers.contains_key("if-unmodified-since") {
        return Err(not_implemented("Writes with conditions on times are not supported."));
    }
    if if_none.is_some_and(|v| v.trim() != "*") {
        return Err(not_implemented("If-None-Match of a write can only be *."));
    }
    if if_match.is_none() && if_none.is_none() {
        return Ok(());
    }
    let head = cx.call(Method::HEAD, cx.bucket(), key).granted().header("x-newest", "true").send().await;
    let there = head.status().is_success();
    if !there && head.status().as_u16() != 404 {
        return Err(err("ServiceUnavailable"));
    }
    let failed = |c: &str| err("PreconditionFailed").with("Condition", c);
    if if_none.is_some() && there {
        return Err(failed("If-None-Match"));
    }
    if let Some(wanted) = if_match {
        if !there {
            return Err(crate::errors::no_such_key(key));
        }
        let tag = etag_of(head.headers()).unwrap_or_default();
        let fits = wanted.split(',').any(|t| t.trim() == "*" || unquote_etag(t.trim()) == tag);
        if !fits {
            return Err(failed("If-Match"));
        }
    }
    Ok(())
}

/// Adds the headers of an answer to a write.
pub fn answer_headers(from: &HeaderMap, out: &mut HeaderMap) {
    if let Some(v) = text(from, "x-object-version-id").filter(|v| *v != "null") {
        set(out, "x-amz-version-id", v);
    }
    if let Some(v) = text(from, "x-backend-crypto-cipher").filter(|c| *c == "AES_CTR_256") {
        let _ = v;
        set(out, "x-amz-server-side-encryption", "AES256");
    }
}

pub async fn put(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let state = cx.authorize("s3:PutObject", Some(&key), Need::Bucket("WRITE")).await?;
    let mut headers = metadata(&cx.headers)?;
    headers.extend(additions(cx, &state).await?);
    let kind = cx.header("content-type").filter(|t| !t.is_empty()).unwrap_or("binary/octet-stream").to_string();
    set(&mut headers, "content-type", kind);
    if let Some(md5) = cx.header("content-md5") {
        set(&mut headers, "etag", super::md5_of_header(md5)?);
    }
    let g = cx.upload_body().await?;
    if g.length.is_some_and(|l| l > 5 << 30) {
        return Err(err("EntityTooLarge").with("ProposedSize", g.length.unwrap_or(0).to_string()));
    }
    let checksum = g.checksum.clone();
    let size = g.length;
    if let Some((a, v)) = &checksum {
        set(&mut headers, CHECKSUM_SYSMETA, stored_checksum(*a, "FULL_OBJECT", v));
    }
    let inner = cx.inner.clone();
    let conditional = cx.headers.contains_key("if-match") || cx.headers.contains_key("if-none-match");
    let _held = if conditional { Some(inner.lock(&cx.account, cx.bucket(), &key).await) } else { None };
    super::lock::check_overwrite(cx, &state, &key).await?;
    check_write_conditions(cx, &key).await?;
    let mut call = cx.on_target(Method::PUT).headers(headers);
    if cx.headers.contains_key("if-none-match") {
        call = call.header("if-none-match", "*");
    }
    let resp = call.send_guarded(g).await?;
    let resp = cx.expect(resp, Subject::Put(cx.bucket())).await?;
    let etag = text(resp.headers(), "etag").map(|e| unquote_etag(e).to_string());
    let mut r = nothing(200);
    if let Some(e) = &etag {
        set(r.headers_mut(), "etag", format!("\"{e}\""));
    }
    if let Some((a, v)) = checksum {
        set(r.headers_mut(), a.header(), v);
        set(r.headers_mut(), "x-amz-checksum-type", "FULL_OBJECT");
    }
    answer_headers(resp.headers(), r.headers_mut());
    let version = text(resp.headers(), "x-object-version-id").map(str::to_string);
    discard(resp).await;
    tell(cx, &state, "ObjectCreated:Put", &key, (size, etag.as_deref(), version.as_deref())).await;
    Ok(r)
}

/// An object's headers as S3's clients see them.
pub fn shown(cx: &Cx, from: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in from {
        let n = name.as_str();
        let meta = n.strip_prefix("x-object-meta-").map(|m| format!("x-amz-meta-{}", m.replace("^5e", "^")));
        if let Some(m) = meta.and_then(|m| HeaderName::from_bytes(m.as_bytes()).ok()) {
            out.append(m, value.clone());
        } else if KEPT.contains(&n) || matches!(n, "accept-ranges" | "content-length" | "content-type" | "content-range" | "last-modified")
        {
            out.append(name.clone(), value.clone());
        }
    }
    if let Some(e) = etag_of(from) {
        set(&mut out, "etag", format!("\"{e}\""));
    }
    for (name, other) in [("x-object-version-id", "x-amz-version-id"), ("x-parts-count", "x-amz-mp-parts-count")] {
        if let Some(v) = text(from, name) {
            set(&mut out, other, v);
        }
    }
    if text(from, "x-amz-version-id") == Some("null") && !cx.params.has("versionId") {
        out.remove("x-amz-version-id");
    }
    answer_headers(from, &mut out);
    if let Some(at) = text(from, "x-delete-at").and_then(|t| t.parse().ok()) {
        set(&mut out, "x-amz-expiration", format!("expiry-date=\"{}\", rule-id=\"swift-object-expiration\"", http_date(at)));
    }
    let n = tags::of_object(from).len();
    if n > 0 {
        set(&mut out, "x-amz-tagging-count", n.to_string());
    }
    if let Some(v) = text(from, REDIRECT_SYSMETA) {
        set(&mut out, "x-amz-website-redirect-location", v);
    }
    super::lock::show(from, &mut out);
    let wants = cx.header("x-amz-checksum-mode").is_some_and(|m| m.eq_ignore_ascii_case("ENABLED"));
    if let Some((a, kind, v)) = text(from, CHECKSUM_SYSMETA).and_then(parse_stored).filter(|_| wants && !from.contains_key("content-range"))
    {
        set(&mut out, a.header(), v);
        set(&mut out, "x-amz-checksum-type", kind);
    }
    out
}

fn part_number(cx: &Cx) -> S3Result<Option<u64>> {
    let Some(t) = cx.params.get("partNumber") else { return Ok(None) };
    let max = cx.inner.deps.options.max_parts;
    let bad = || invalid_argument("partNumber", t, &format!("Part number must be an integer between 1 and {max}, inclusive"));
    t.parse().ok().filter(|n| (1..=max).contains(n)).map(Some).ok_or_else(bad)
}

const OVERRIDES: [&str; 6] = ["cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"];

/// Version ids are times. Errors: `InvalidArgument`; `NoSuchVersion` where versions were never kept.
pub fn version_id(cx: &Cx, state: &Bucket) -> S3Result<Option<String>> {
    let Some(v) = cx.params.get("versionId").filter(|v| !v.is_empty()) else { return Ok(None) };
    if v != "null" {
        if caelum_swiftkit::Timestamp::parse(v).is_none() {
            return Err(invalid_argument("versionId", v, "Invalid version id specified"));
        }
        if !state.has_versions() {
            return Err(err("NoSuchVersion").with("Key", cx.key()).with("VersionId", v));
        }
    }
    Ok(Some(v.to_string()))
}

pub async fn get(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let action = if cx.params.has("versionId") { "s3:GetObjectVersion" } else { "s3:GetObject" };
    let state = cx.authorize(action, Some(&key), Need::Object("READ")).await?;
    let overrides: Vec<(&str, String)> =
        OVERRIDES.iter().filter_map(|n| cx.params.get(&format!("response-{n}")).map(|v| (*n, v.to_string()))).collect();
    if !overrides.is_empty() && cx.caller.is_none() {
        return Err(invalid_request("Request specific response headers cannot be used for anonymous GET requests."));
    }
    let part = part_number(cx)?;
    if part.is_some() && cx.headers.contains_key("range") {
        return Err(invalid_request("Cannot specify both Range header and partNumber query parameter"));
    }
    let mut call = cx.on_target(cx.method.clone());
    for name in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range", "if-range"] {
        if let Some(v) = cx.header(name) {
            // Tags of large objects that Swift's API has made are shown with `-N`.
            let plain = v.replace("-N\"", "\"");
            let both = if name.ends_with("match") && plain != v { format!("{v}, {plain}") } else { v.to_string() };
            call = call.header(name, &both);
        }
    }
    call = call.header("x-backend-etag-is-at", "X-Object-Sysmeta-S3Api-Etag,X-Object-Sysmeta-Swift3-Etag");
    if let Some(v) = version_id(cx, &state)? {
        call = call.query("version-id", &v);
    }
    if let Some(n) = part {
        call = call.query("part-number", &n.to_string());
    }
    let resp = cx.expect(call.send().await, Subject::Object(&key)).await?;
    let mut r = finish_get(cx, resp, part, overrides)?;
    if let Some(rules) = state.setting(Setting::Lifecycle).filter(|_| !r.headers().contains_key("x-amz-expiration")) {
        let modified = text(r.headers(), "last-modified").and_then(parse_http_date).unwrap_or(i64::MAX / 2);
        let size = text(r.headers(), "content-length").and_then(|t| t.parse().ok()).unwrap_or(0);
        if let Some(e) = crate::lifecycle::expiration_of(rules, &key, modified, size) {
            set(r.headers_mut(), "x-amz-expiration", e);
        }
    }
    Ok(r)
}

fn finish_get(cx: &Cx, resp: Resp, part: Option<u64>, overrides: Vec<(&str, String)>) -> S3Result<Resp> {
    let (mut parts, body) = resp.into_parts();
    let is_slo = text(&parts.headers, "x-static-large-object").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let mut headers = shown(cx, &parts.headers);
    let length: u64 = text(&parts.headers, "content-length").and_then(|t| t.parse().ok()).unwrap_or(0);
    if let Some(n) = part.filter(|_| !is_slo) {
        if n > 1 {
            return Err(err("InvalidPartNumber"));
        }
        if length > 0 && parts.status == 200 {
            parts.status = http::StatusCode::PARTIAL_CONTENT;
            set(&mut headers, "content-range", content_range((0, length), length));
        }
    }
    let range = text(&cx.headers, "range").filter(|_| cx.method == Method::HEAD && parts.status == 200);
    if let Some(ranges) = range.and_then(Ranges::parse) {
        match ranges.for_length(length).as_slice() {
            [] => return Err(err("InvalidRange")),
            [one] => {
                parts.status = http::StatusCode::PARTIAL_CONTENT;
                set(&mut headers, "content-range", content_range(*one, length));
                set(&mut headers, "content-length", (one.1 - one.0).to_string());
            }
            _ => {}
        }
    }
    for (name, value) in overrides {
        set(&mut headers, name, value);
    }
    if parts.status == 304 {
        headers.remove("content-length");
        headers.remove("content-type");
    }
    let mut r = http::Response::new(body);
    *r.status_mut() = parts.status;
    *r.headers_mut() = headers;
    Ok(r)
}

/// The object that the request is about, as a HEAD sees it.
pub async fn head(cx: &Cx, state: &Bucket) -> S3Result<HeaderMap> {
    let mut call = cx.on_target(Method::HEAD).granted();
    if let Some(v) = version_id(cx, state)? {
        call = call.query("version-id", &v);
    }
    let resp = cx.expect(call.send().await, Subject::Object(cx.key())).await?;
    Ok(resp.into_parts().0.headers)
}

/// Changes metadata that may be changed after the upload, of the version that the request names.
///
/// A POST replaces all of it, so that what is there goes along.
pub async fn change(cx: &Cx, state: &Bucket, headers: &HeaderMap, changes: &[(&str, Option<String>)]) -> S3Result<()> {
    let mut new = HeaderMap::new();
    for (name, value) in headers {
        let n = name.as_str();
        if n.starts_with("x-object-meta-") || n.starts_with("x-object-transient-sysmeta-s3api-") || KEPT.contains(&n) || n == "x-delete-at"
        {
            new.append(name.clone(), value.clone());
        }
    }
    for (name, value) in changes {
        match value {
            Some(v) => set(&mut new, name, v),
            None => drop(new.remove(*name)),
        }
    }
    if Protection::of(&new).forbids(cx.now(), false) {
        // What is locked does not expire.
        new.remove("x-delete-at");
    }
    let version = version_id(cx, state)?.filter(|v| v != "null");
    let call = match version.as_deref().and_then(caelum_swiftkit::Timestamp::parse) {
        Some(v) if state.has_versions() => {
            // Where upstream's object versioning keeps them: newest first by an inverted time.
            let inverted = caelum_swiftkit::Timestamp::from_raw(999_999_999_999_999 - v.raw);
            let (container, object) = (format!("\0versions\0{}", cx.bucket()), format!("\0{}\0{}", cx.key(), inverted.internal()));
            cx.call(Method::POST, &container, &object).internal()
        }
        _ => cx.on_target(Method::POST).granted(),
    };
    let resp = call.headers(new).send().await;
    discard(cx.expect(resp, Subject::Object(cx.key())).await?).await;
    Ok(())
}

pub async fn get_acl(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let state = cx.authorize("s3:GetObjectAcl", Some(&key), Need::Object("READ_ACP")).await?;
    if cx.rights == Rights::Caller {
        return Err(err("AccessDenied"));
    }
    let headers = head(cx, &state).await?;
    let owner = state.acl.owner.clone().unwrap_or_else(|| cx.user());
    Ok(xml(AccessList::of_object(&headers).to_xml(&owner)))
}

pub async fn put_acl(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let state = cx.authorize("s3:PutObjectAcl", Some(&key), Need::Object("WRITE_ACP")).await?;
    if cx.rights == Rights::Caller {
        return Err(err("AccessDenied"));
    }
    let headers = head(cx, &state).await?;
    let bucket_owner = state.acl.owner.clone().unwrap_or_else(|| cx.user());
    let owner = AccessList::of_object(&headers).owner.unwrap_or_else(|| bucket_owner.clone());
    let body = cx.read_body(MAX_XML).await?;
    let list = match AccessList::of_headers(&cx.headers, &owner, &bucket_owner)? {
        Some(list) if body.is_empty() => list,
        Some(_) => return Err(invalid_request("Headers and a document cannot both give a list.")),
        None if body.is_empty() => return Err(err("MissingSecurityHeader").with("MissingHeaderName", "x-amz-acl")),
        None => AccessList::from_xml(&body, &owner)?,
    };
    change(cx, &state, &headers, &[(OBJECT_ACL_LATER, Some(list.to_stored()?))]).await?;
    tell(cx, &state, "ObjectAcl:Put", &key, (None, None, None)).await;
    Ok(nothing(200))
}

pub async fn attributes(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let action = if cx.params.has("versionId") { "s3:GetObjectVersion" } else { "s3:GetObject" };
    let state = cx.authorize(action, Some(&key), Need::Object("READ")).await?;
    let named: Vec<String> = cx.header("x-amz-object-attributes").unwrap_or_default().split(',').map(|t| t.trim().to_string()).collect();
    const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];
    if named.iter().any(|n| !KNOWN.contains(&n.as_str())) {
        return Err(invalid_argument("x-amz-object-attributes", &named.join(","), "Invalid attribute name specified."));
    }
    let mut call = cx.on_target(Method::HEAD);
    if let Some(v) = version_id(cx, &state)? {
        call = call.query("version-id", &v);
    }
    let resp = cx.expect(call.send().await, Subject::Object(&key)).await?;
    let h = resp.headers();
    let has = |n: &str| named.iter().any(|x| x == n);
    let mut x = Xml::document("GetObjectAttributesResponse", true);
    let etag = etag_of(h).unwrap_or_default();
    if has("ETag") {
        x.leaf("ETag", &etag);
    }
    if let Some((a, kind, v)) = text(h, CHECKSUM_SYSMETA).and_then(parse_stored).filter(|_| has("Checksum")) {
        x.open("Checksum").leaf(Algorithm::element(a), v).leaf("ChecksumType", kind).close();
    }
    if let Some(n) = etag.split_once('-').and_then(|(_, n)| n.parse::<u64>().ok()).filter(|_| has("ObjectParts")) {
        x.open("ObjectParts").leaf("TotalPartsCount", n.to_string()).close();
    }
    if has("StorageClass") {
        x.leaf("StorageClass", "STANDARD");
    }
    if has("ObjectSize") {
        x.leaf("ObjectSize", text(h, "content-length").unwrap_or("0"));
    }
    let mut r = xml(x.finish());
    for (name, value) in shown(cx, h) {
        if let Some(name) = name.filter(|n| matches!(n.as_str(), "last-modified" | "x-amz-version-id")) {
            r.headers_mut().insert(name, value);
        }
    }
    Ok(r)
}
