//! Uploads in parts: create, upload, complete, abort.
//!
//! As in Swift's s3api: an upload is the empty object `<key>/<upload id>` in the container `<bucket>+segments`, its
//! parts are `<key>/<upload id>/<number>` there, and what is completed is a static large object of those parts.

use super::copy;
use super::object::{ETAG_SYSMETA, UPLOAD_ID_SYSMETA, additions, answer_headers, check_write_conditions, metadata};
use super::{nothing, tell, xml};
use crate::checksum::Algorithm;
use crate::context::{Cx, Need, Subject, discard, is_absent};
use crate::errors::{S3Result, err, invalid_argument, invalid_request};
use crate::payload::{CHECKSUM_SYSMETA, stored_checksum};
use crate::state::Bucket;
use crate::xml::{Xml, parse};
use base64::Engine;
use caelum_object::env::Resp;
use caelum_object::http::{ManifestHook, Ranges, read_all, set, text, unquote_etag};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use md5::{Digest, Md5};
use serde_json::{Value, json};
use std::sync::Arc;

const HAS_TYPE: &str = "x-object-sysmeta-s3api-has-content-type";
const TYPE: &str = "x-object-sysmeta-s3api-content-type";
/// The checksum algorithm that an upload was created with, and its kind.
const ALGORITHM: &str = "x-object-sysmeta-s3api-checksum-algorithm";
const MAX_COMPLETE: usize = 4 << 20;

pub async fn create(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let state = cx.authorize("s3:PutObject", Some(&key), Need::Bucket("WRITE")).await?;
    let mut headers = metadata(&cx.headers)?;
    headers.extend(additions(cx, &state).await?);
    match cx.header("content-type").filter(|t| !t.is_empty()) {
        Some(t) => {
            set(&mut headers, HAS_TYPE, "yes");
            set(&mut headers, TYPE, t);
        }
        None => set(&mut headers, HAS_TYPE, "no"),
    }
    set(&mut headers, "content-type", "application/directory");
    let algorithm = match cx.header("x-amz-checksum-algorithm") {
        None => None,
        Some(name) => Some(Algorithm::by_name(name).ok_or_else(|| invalid_request("Checksum algorithm provided is unsupported."))?),
    };
    let default = if algorithm == Some(Algorithm::Crc64Nvme) { "FULL_OBJECT" } else { "COMPOSITE" };
    let kind = cx.header("x-amz-checksum-type").unwrap_or(default).to_string();
    if !matches!(kind.as_str(), "FULL_OBJECT" | "COMPOSITE") {
        return Err(invalid_argument("x-amz-checksum-type", &kind, "Value for x-amz-checksum-type header is invalid."));
    }
    check_kind(algorithm, &kind, cx.header("x-amz-checksum-type").is_some())?;
    if let Some(a) = algorithm {
        set(&mut headers, ALGORITHM, format!("{};{kind}", a.name()));
    }
    ensure_segments(cx, &state).await?;
    let id = base64::engine::general_purpose::URL_SAFE.encode(cx.inner.deps.env.uuid());
    let resp = cx.call(Method::PUT, &cx.segments(), &format!("{key}/{id}")).headers(headers).send().await;
    discard(cx.expect(resp, Subject::Put(cx.bucket())).await?).await;
    let mut x = Xml::document("InitiateMultipartUploadResult", true);
    x.leaf("Bucket", cx.bucket()).leaf("Key", &key).leaf("UploadId", &id);
    let mut r = xml(x.finish());
    if let Some(a) = algorithm {
        set(r.headers_mut(), "x-amz-checksum-algorithm", a.name());
        set(r.headers_mut(), "x-amz-checksum-type", kind);
    }
    Ok(r)
}

/// Only a CRC can be told from those of parts, and CRC64NVME is told in no other way.
fn check_kind(algorithm: Option<Algorithm>, kind: &str, is_asked: bool) -> S3Result<()> {
    let fits = match algorithm {
        None if is_asked => {
            return Err(invalid_request("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."));
        }
        None => true,
        Some(Algorithm::Sha1 | Algorithm::Sha256) => kind == "COMPOSITE",
        Some(Algorithm::Crc64Nvme) => kind == "FULL_OBJECT",
        Some(Algorithm::Crc32 | Algorithm::Crc32c) => true,
    };
    let name = algorithm.map_or("", Algorithm::name).to_lowercase();
    let text = format!("The {kind} checksum type cannot be used with the {name} checksum algorithm.");
    if fits { Ok(()) } else { Err(invalid_request(&text)) }
}

/// What the upload was begun with.
fn algorithm_of(upload: &HeaderMap) -> Option<(Algorithm, &str)> {
    let (name, kind) = text(upload, ALGORITHM)?.split_once(';')?;
    Some((Algorithm::by_name(name)?, kind))
}

/// The container for parts has the bucket's policy and lists.
async fn ensure_segments(cx: &Cx, state: &Bucket) -> S3Result<()> {
    let segments = cx.segments();
    if cx.container_info(&segments).await?.is_some() {
        return Ok(());
    }
    let mut call = cx.call(Method::PUT, &segments, "").granted();
    if let Some(policy) = cx.inner.deps.options.policies.get(&state.info.storage_policy) {
        call = call.header("x-storage-policy", policy);
    }
    for (name, list) in [("x-container-read", &state.info.read_acl), ("x-container-write", &state.info.write_acl)] {
        if let Some(list) = list {
            call = call.header(name, list);
        }
    }
    let resp = call.send().await;
    if let Some(info) = &cx.inner.deps.info {
        info.forget(&cx.account, Some(&segments));
    }
    discard(cx.expect(resp, Subject::Bucket(cx.bucket())).await?).await;
    Ok(())
}

/// The upload's marker. The id is part of a name in storage, so that it must look like one.
pub async fn marker(cx: &Cx) -> S3Result<Option<HeaderMap>> {
    let id = upload_id(cx)?;
    let resp = cx.call(Method::HEAD, &cx.segments(), &format!("{}/{id}", cx.key())).granted().send().await;
    match cx.expect(resp, Subject::Bucket(cx.bucket())).await {
        Ok(r) => Ok(Some(r.into_parts().0.headers)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

pub fn upload_id(cx: &Cx) -> S3Result<String> {
    let id = cx.params.get("uploadId").unwrap_or_default();
    let valid = !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'='));
    if valid { Ok(id.to_string()) } else { Err(no_such_upload(id)) }
}

pub fn no_such_upload(id: &str) -> crate::errors::S3Error {
    err("NoSuchUpload").with("UploadId", id)
}

/// The metadata of the upload, or of the object that it has become.
pub async fn upload(cx: &Cx) -> S3Result<(HeaderMap, bool)> {
    if let Some(h) = marker(cx).await? {
        return Ok((h, true));
    }
    let id = upload_id(cx)?;
    let resp = cx.call(Method::HEAD, cx.bucket(), cx.key()).granted().send().await;
    if resp.status().is_success() && text(resp.headers(), UPLOAD_ID_SYSMETA) == Some(id.as_str()) {
        return Ok((resp.into_parts().0.headers, false));
    }
    Err(no_such_upload(&id))
}

fn part_number(cx: &Cx) -> S3Result<u64> {
    let t = cx.params.get("partNumber").unwrap_or_default();
    let max = cx.inner.deps.options.max_parts;
    let bad = || invalid_argument("partNumber", t, &format!("Part number must be an integer between 1 and {max}, inclusive"));
    t.parse().ok().filter(|n| (1..=max).contains(n)).ok_or_else(bad)
}

pub async fn upload_part(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    if !cx.params.has("partNumber") {
        return Err(invalid_argument("partNumber", "", "Missing partNumber."));
    }
    let number = part_number(cx)?;
    cx.authorize("s3:PutObject", Some(&key), Need::Bucket("WRITE")).await?;
    // Once completed, the parts are an object's data.
    let Some(begun) = marker(cx).await? else { return Err(no_such_upload(&upload_id(cx)?)) };
    let name = format!("{key}/{}/{number}", upload_id(cx)?);
    if cx.headers.contains_key("x-amz-copy-source") {
        return copy_part(cx, &name).await;
    }
    if let Some((a, _)) = algorithm_of(&begun) {
        cx.want_checksum(a)?;
    }
    let g = cx.upload_body().await?;
    if g.length.is_some_and(|l| l > 5 << 30) {
        return Err(err("EntityTooLarge"));
    }
    let checksum = g.checksum.clone();
    let mut call = cx.call(Method::PUT, &cx.segments(), &name).header("content-type", "application/octet-stream");
    if let Some(md5) = cx.header("content-md5") {
        call = call.header("etag", &super::md5_of_header(md5)?);
    }
    if let Some((a, v)) = &checksum {
        call = call.header(CHECKSUM_SYSMETA, &stored_checksum(*a, "FULL_OBJECT", v));
    }
    let resp = call.send_guarded(g).await?;
    let resp = cx.expect(resp, Subject::Put(cx.bucket())).await?;
    let mut r = nothing(200);
    if let Some(e) = text(resp.headers(), "etag") {
        set(r.headers_mut(), "etag", format!("\"{}\"", unquote_etag(e)));
    }
    if let Some((a, v)) = checksum {
        set(r.headers_mut(), a.header(), v);
    }
    answer_headers(resp.headers(), r.headers_mut());
    discard(resp).await;
    Ok(r)
}

async fn copy_part(cx: &mut Cx, name: &str) -> S3Result<Resp> {
    let source = copy::source(cx).await?;
    let mut call = cx.call(Method::PUT, &cx.segments(), name).header("x-copy-from", &source.path());
    if let Some(range) = cx.header("x-amz-copy-source-range") {
        let bad = |m: &str| invalid_argument("x-amz-copy-source-range", range, m);
        let ranges = Ranges::parse(range).filter(|r| r.0.len() == 1 && matches!(r.0[0], (Some(_), Some(_))));
        let ranges = ranges.ok_or_else(|| {
            bad("The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
        })?;
        let last = ranges.0[0].1.unwrap_or(0);
        if last >= source.size() {
            return Err(bad(&format!("Range specified is not valid for source object of size: {}", source.size())));
        }
        call = call.header("range", range);
    }
    call = call.header("x-fresh-metadata", "true");
    for n in [ETAG_SYSMETA, UPLOAD_ID_SYSMETA, "x-object-sysmeta-swift3-etag", CHECKSUM_SYSMETA, crate::acl::OBJECT_ACL] {
        if source.headers.contains_key(n) {
            call = call.header(n, "");
        }
    }
    if let Some(v) = &source.version {
        call = call.query("version-id", v);
    }
    let resp = cx.expect(call.send().await, Subject::Put(cx.bucket())).await?;
    let mut r = xml(copy::result("CopyPartResult", resp.headers(), None));
    if let Some(v) = &source.version {
        set(r.headers_mut(), "x-amz-copy-source-version-id", v);
    }
    discard(resp).await;
    Ok(r)
}

/// A part as the client names it on completion.
struct Part {
    number: u64,
    etag: String,
    checksum: Option<(Algorithm, String)>,
}

fn read_parts(body: &[u8], max: u64) -> S3Result<Vec<Part>> {
    if body.is_empty() {
        return Err(invalid_request("You must specify at least one part"));
    }
    let bad = || err("MalformedXML");
    let e = parse(body, "CompleteMultipartUpload").map_err(|_| bad())?;
    let mut out: Vec<Part> = Vec::new();
    for p in e.children("Part") {
        let number = p.text_of("PartNumber").and_then(|t| t.parse().ok()).filter(|n| (1..=max).contains(n)).ok_or_else(bad)?;
        if out.last().is_some_and(|l| l.number >= number) {
            return Err(err("InvalidPartOrder"));
        }
        let etag = unquote_etag(p.text_of("ETag").ok_or_else(bad)?).to_ascii_lowercase();
        if etag.len() != 32 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(err("InvalidPart").with("PartNumber", number.to_string()).with("ETag", etag));
        }
        let checksum = crate::checksum::ALL.into_iter().find_map(|a| Some((a, p.text_of(a.element())?.to_string())));
        out.push(Part { number, etag, checksum });
    }
    if out.is_empty() { Err(bad()) } else { Ok(out) }
}

/// `<md5 of the parts' md5s>-<parts>`
fn combined_etag(parts: &[Part]) -> String {
    let mut h = Md5::new();
    for p in parts {
        let bytes: Vec<u8> = (0..16).filter_map(|i| u8::from_str_radix(p.etag.get(2 * i..2 * i + 2)?, 16).ok()).collect();
        h.update(&bytes);
    }
    format!("{}-{}", caelum_swiftkit::to_hex(&h.finalize()), parts.len())
}

/// Parts that are looked at at the same time.
const PARTS_AT_ONCE: usize = 8;

/// The checksum and the size of a part that is there. One that was stored without a checksum (copied, or uploaded by
/// Swift's API) is read.
async fn part_facts(cx: &Cx, name: String, a: Algorithm) -> S3Result<(String, u64)> {
    let segments = cx.segments();
    let missing = || err("InvalidPart");
    let resp = cx.call(Method::HEAD, &segments, &name).granted().send().await;
    let resp = match cx.expect(resp, Subject::Bucket(cx.bucket())).await {
        Ok(r) => r,
        Err(e) if is_absent(&e) => return Err(missing()),
        Err(e) => return Err(e),
    };
    let size = text(resp.headers(), "content-length").and_then(|t| t.parse().ok()).unwrap_or(0);
    let stored = text(resp.headers(), CHECKSUM_SYSMETA).and_then(crate::payload::parse_stored).filter(|(b, ..)| *b == a);
    if let Some((_, _, v)) = stored {
        return Ok((v.to_string(), size));
    }
    let resp = cx.call(Method::GET, &segments, &name).granted().send().await;
    let mut body = cx.expect(resp, Subject::Bucket(cx.bucket())).await?.into_body();
    let (mut h, mut n) = (a.hasher(), 0);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|_| err("ServiceUnavailable"))?.data_ref() {
            n += data.len() as u64;
            h.update(data);
        }
    }
    if n == size { Ok((h.finish(), size)) } else { Err(err("ServiceUnavailable")) }
}

/// The checksum of the whole that those of the stored parts make, when the upload is to have one; what the client says
/// of it, of the parts and of the size must fit.
async fn combined_checksum(cx: &Cx, upload: &HeaderMap, id: &str, parts: &[Part]) -> S3Result<Option<String>> {
    let Some((a, kind)) = algorithm_of(upload) else { return Ok(None) };
    let mut facts: Vec<(String, u64)> = Vec::with_capacity(parts.len());
    for some in parts.chunks(PARTS_AT_ONCE) {
        let mut running: Vec<BoxFuture<'_, S3Result<(String, u64)>>> = Vec::with_capacity(PARTS_AT_ONCE);
        for p in some {
            running.push(Box::pin(part_facts(cx, format!("{}/{id}/{}", cx.key(), p.number), a)));
        }
        facts.extend(futures_util::future::try_join_all(running).await?);
    }
    let odd = parts.iter().zip(&facts).find(|(p, (v, _))| p.checksum.as_ref().is_some_and(|(b, given)| *b != a || given != v));
    if let Some((p, _)) = odd {
        return Err(err("InvalidPart").with("UploadId", id).with("PartNumber", p.number.to_string()));
    }
    let size: u64 = facts.iter().map(|(_, n)| n).sum();
    if let Some(said) = cx.header("x-amz-mp-object-size").filter(|t| t.parse() != Ok(size)) {
        let text = format!("The provided 'x-amz-mp-object-size' header value {said} does not match what was computed: {size}");
        return Err(invalid_request(&text));
    }
    let value = if kind == "FULL_OBJECT" {
        let whole = crate::checksum::of_parts(a, facts.iter().map(|(v, n)| (v.as_str(), *n)));
        whole.ok_or_else(|| err("InternalError"))?
    } else {
        let mut h = a.hasher();
        for (v, _) in &facts {
            h.update(&base64::engine::general_purpose::STANDARD.decode(v).map_err(|_| err("InternalError"))?);
        }
        format!("{}-{}", h.finish(), parts.len())
    };
    let given = cx.header(a.header()).map(|g| g.split('-').next().unwrap_or(g));
    if given.is_some_and(|g| value.split('-').next() != Some(g)) {
        return Err(err("BadDigest").text(format!("The {} you specified did not match the calculated checksum.", a.name())));
    }
    Ok(Some(stored_checksum(a, kind, &value)))
}

const TOO_SMALL: &str = "EntityTooSmall";

/// The object's headers, from the upload's.
fn object_headers(upload: &HeaderMap, id: &str, etag: &str) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in upload {
        let n = name.as_str();
        let kept = matches!(
            n,
            "content-encoding" | "content-language" | "content-disposition" | "expires" | "cache-control" | "x-robots-tag" | "x-delete-at"
        );
        let sys = [crate::acl::OBJECT_ACL, super::object::REDIRECT_SYSMETA].contains(&n);
        if kept || sys || n.starts_with("x-object-meta-") || n.starts_with("x-object-transient-sysmeta-s3api-") {
            out.append(name.clone(), value.clone());
        }
    }
    let kind = match text(upload, HAS_TYPE) {
        Some("yes") => text(upload, TYPE),
        Some(_) => None,
        None => text(upload, "content-type"),
    };
    set(&mut out, "content-type", kind.unwrap_or("binary/octet-stream"));
    set(&mut out, UPLOAD_ID_SYSMETA, id);
    set(&mut out, ETAG_SYSMETA, etag);
    // The base is left out: the manifest's layer puts its own in front.
    set(&mut out, "x-object-sysmeta-container-update-override-etag", format!("; s3_etag={etag}"));
    set(&mut out, "accept", "application/json");
    out
}

fn size_hook(min: u64) -> ManifestHook {
    ManifestHook(Arc::new(move |segments: &mut Vec<Value>| {
        let n = segments.len().saturating_sub(1);
        let small = segments.iter().take(n).filter(|s| s.get("bytes").and_then(Value::as_u64).is_some_and(|b| b < min));
        small.map(|s| (s.get("name").and_then(Value::as_str).unwrap_or_default().to_string(), TOO_SMALL.to_string())).collect()
    }))
}

fn completed(cx: &Cx, etag: &str, checksum: Option<&str>) -> Resp {
    let mut x = Xml::document("CompleteMultipartUploadResult", true);
    let host = cx.header("host").unwrap_or_default();
    let base = if cx.base_url.is_empty() { format!("http://{host}") } else { cx.base_url.clone() };
    let path = caelum_object::env::quote(&format!("/{}/{}", cx.bucket(), cx.key()));
    x.leaf("Location", format!("{base}{path}")).leaf("Bucket", cx.bucket()).leaf("Key", cx.key()).leaf("ETag", format!("\"{etag}\""));
    if let Some((a, kind, v)) = checksum.and_then(crate::payload::parse_stored) {
        x.leaf(a.element(), v).leaf("ChecksumType", kind);
    }
    xml(x.finish())
}

pub async fn complete(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    let state = cx.authorize("s3:PutObject", Some(&key), Need::Bucket("WRITE")).await?;
    let id = upload_id(cx)?;
    let (head, is_marker) = upload(cx).await?;
    let wanted_etag = cx.headers.get(http::header::IF_MATCH).is_some() || cx.headers.get(http::header::IF_NONE_MATCH).is_some();
    let body = cx.read_body(MAX_COMPLETE).await?;
    let parts = read_parts(&body, cx.inner.deps.options.max_parts)?;
    let etag = combined_etag(&parts);
    if !is_marker {
        // Completed before: the same again is no mistake.
        let same = text(&head, ETAG_SYSMETA) == Some(etag.as_str());
        return if same { Ok(completed(cx, &etag, text(&head, CHECKSUM_SYSMETA))) } else { Err(no_such_upload(&id)) };
    }
    let checksum = combined_checksum(cx, &head, &id, &parts).await?;
    let mut headers = object_headers(&head, &id, &etag);
    if let Some(c) = &checksum {
        set(&mut headers, CHECKSUM_SYSMETA, c);
    }
    let manifest: Vec<Value> =
        parts.iter().map(|p| json!({"path": format!("/{}/{key}/{id}/{}", cx.segments(), p.number), "etag": p.etag})).collect();
    let inner = cx.inner.clone();
    let _held = if wanted_etag { Some(inner.lock(&cx.account, cx.bucket(), &key).await) } else { None };
    super::lock::check_overwrite(cx, &state, &key).await?;
    check_write_conditions(cx, &key).await?;
    let min = cx.inner.deps.options.min_part_size;
    let call = cx.on_target(Method::PUT).query("multipart-manifest", "put").headers(headers);
    let resp = call.send_bytes(Value::Array(manifest).to_string(), |r| drop(r.extensions_mut().insert(size_hook(min)))).await;
    let resp = check_manifest(cx, resp).await?;
    let mut r = completed(cx, &etag, checksum.as_deref());
    answer_headers(&resp, r.headers_mut());
    let gone = cx.call(Method::DELETE, &cx.segments(), &format!("{key}/{id}")).granted().send().await;
    discard(gone).await;
    tell(cx, &state, "ObjectCreated:CompleteMultipartUpload", &key, (None, Some(&etag), text(&resp, "x-object-version-id"))).await;
    Ok(r)
}

/// What the manifest's layer says of the parts, in S3's words.
async fn check_manifest(cx: &Cx, resp: Resp) -> S3Result<HeaderMap> {
    let status = resp.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(resp.into_parts().0.headers);
    }
    if status != 400 {
        return Err(cx.expect(resp, Subject::Put(cx.bucket())).await.err().unwrap_or_else(|| err("InternalError")));
    }
    let said = read_all(resp.into_body(), 16 << 20).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    Err(if said.contains(TOO_SMALL) {
        err("EntityTooSmall").with("MinSizeAllowed", cx.inner.deps.options.min_part_size.to_string())
    } else if said.contains("Etag Mismatch") || said.contains("404 Not Found") {
        err("InvalidPart").with("UploadId", upload_id(cx)?)
    } else {
        invalid_request(said.lines().next().unwrap_or_default())
    })
}

pub async fn abort(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    cx.authorize("s3:AbortMultipartUpload", Some(&key), Need::Bucket("WRITE")).await?;
    if marker(cx).await?.is_none() {
        return Err(no_such_upload(&upload_id(cx)?));
    }
    abort_upload(cx, &key, &upload_id(cx)?).await?;
    Ok(nothing(204))
}

/// Removes an upload's marker, then its parts: without the marker nothing can be completed from them.
pub async fn abort_upload(cx: &Cx, key: &str, id: &str) -> S3Result<()> {
    let segments = cx.segments();
    let delete = |name: String| {
        let call = cx.call(Method::DELETE, &segments, &name);
        async move { call.send().await }
    };
    let resp = delete(format!("{key}/{id}")).await;
    if resp.status() != http::StatusCode::NOT_FOUND {
        discard(cx.expect(resp, Subject::Bucket(cx.bucket())).await?).await;
    }
    // A marker that stayed behind after the upload was completed is all that goes.
    let head = cx.call(Method::HEAD, cx.bucket(), key).granted().header("x-newest", "true").send().await;
    if text(head.headers(), UPLOAD_ID_SYSMETA) == Some(id) {
        return Ok(());
    }
    let mut last = String::new();
    loop {
        let call = cx.call(Method::GET, &segments, "").granted().query("prefix", &format!("{key}/{id}/")).query("marker", &last);
        let (rows, _) = call.json(Subject::Bucket(cx.bucket())).await?;
        let names: Vec<String> = super::listing::rows_of(rows).iter().filter_map(|r| Some(r.get("name")?.as_str()?.to_string())).collect();
        let Some(end) = names.last() else { return Ok(()) };
        last.clone_from(end);
        for name in names {
            let resp = delete(name).await;
            if resp.status().is_server_error() {
                return Err(err("ServiceUnavailable"));
            }
            discard(resp).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml_of(parts: &[(u64, &str)]) -> String {
        let one = |(n, e): &(u64, &str)| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"{e}\"</ETag></Part>");
        format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.iter().map(one).collect::<String>())
    }

    const A: &str = "0cc175b9c0f1b6a831c399e269772661";
    const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

    #[test]
    fn tags_of_the_whole() {
        let parts = read_parts(xml_of(&[(1, A), (3, B)]).as_bytes(), 10_000).unwrap();
        // md5(md5("a") + md5("b")), computed with another tool.
        assert_eq!(combined_etag(&parts), "96e024ba2074fe77e8e965ba43a704be-2");
        let code = |t: String| read_parts(t.as_bytes(), 10_000).err().map(|e| e.code);
        assert_eq!(code(xml_of(&[(2, A), (1, B)])), Some("InvalidPartOrder"));
        assert_eq!(code(xml_of(&[(1, A), (1, B)])), Some("InvalidPartOrder"));
        assert_eq!(code(xml_of(&[(1, "x")])), Some("InvalidPart"));
        assert_eq!(code(xml_of(&[(10_001, A)])), Some("MalformedXML"));
        assert_eq!(code(xml_of(&[])), Some("MalformedXML"));
        assert_eq!(code(String::new()), Some("InvalidRequest"));
    }

    #[test]
    fn small_parts_are_named() {
        let mut list = vec![json!({"name": "/c/1", "bytes": 4}), json!({"name": "/c/2", "bytes": 5}), json!({"name": "/c/3", "bytes": 1})];
        assert_eq!((size_hook(5).0)(&mut list), [("/c/1".to_string(), TOO_SMALL.to_string())]);
    }
}
