//! Copies on the server's side.

use super::object::{ETAG_SYSMETA, KEPT, UPLOAD_ID_SYSMETA, additions, answer_headers, check_write_conditions, metadata};
use super::{tell, xml, xml_seconds};
use crate::context::{Cx, Need, Subject, discard};
use crate::errors::{S3Result, err, invalid_argument, invalid_request};
use crate::payload::CHECKSUM_SYSMETA;
use crate::state::Bucket;
use crate::tags::OBJECT_TAGS;
use crate::target::is_bucket_name;
use crate::xml::Xml;
use caelum_object::env::{Resp, quote};
use caelum_object::http::{parse_http_date, set, text, unquote_etag};
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

/// What `x-amz-copy-source` names.
pub struct Source {
    pub bucket: String,
    pub key: String,
    pub version: Option<String>,
    /// The source as a HEAD sees it.
    pub headers: HeaderMap,
}

fn parse(value: &str) -> S3Result<(String, String, Option<String>)> {
    let bad = |m: &str| invalid_argument("x-amz-copy-source", value, m);
    const MUST: &str = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
    let (path, query) = value.split_once('?').map_or((value, None), |(p, q)| (p, Some(q)));
    let version = match query.map(|q| q.split_once('=')) {
        None => None,
        Some(Some(("versionId", v))) if !v.is_empty() && !v.contains('&') => Some(v.to_string()),
        Some(_) => return Err(bad("Unsupported copy source parameter.")),
    };
    let path = percent_decode_str(path).decode_utf8().map_err(|_| bad(MUST))?;
    let (bucket, key) = path.trim_start_matches('/').split_once('/').ok_or_else(|| bad(MUST))?;
    if key.is_empty() || key.contains('\0') || !is_bucket_name(bucket, false) {
        return Err(bad(MUST));
    }
    Ok((bucket.to_string(), key.to_string(), version))
}

/// Finds the source, checks that the caller may read it and that its conditions hold.
pub async fn source(cx: &Cx) -> S3Result<Source> {
    let value = cx.header("x-amz-copy-source").unwrap_or_default().to_string();
    let (bucket, key, version) = parse(&value)?;
    let state = cx.state_of(&bucket).await?;
    let action = if version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
    let rights = cx.decide(action, &bucket, Some(&key), &state, Need::Object("READ")).await?;
    if version.as_deref().is_some_and(|v| v != "null") && !state.has_versions() {
        return Err(err("NoSuchVersion").with("Key", key));
    }
    let mut call = cx.call(Method::HEAD, &bucket, &key);
    if rights == crate::context::Rights::Granted {
        call = call.granted();
    }
    for name in ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"] {
        if let Some(v) = cx.header(&format!("x-amz-copy-source-{name}")) {
            call = call.header(name, v);
        }
    }
    call = call.header("x-backend-etag-is-at", "X-Object-Sysmeta-S3Api-Etag,X-Object-Sysmeta-Swift3-Etag");
    if let Some(v) = &version {
        call = call.query("version-id", v);
    }
    let resp = call.send().await;
    if resp.status() == http::StatusCode::NOT_FOUND {
        let missing = if version.is_some() { err("NoSuchVersion").with("Key", key) } else { crate::errors::no_such_key(&key) };
        return Err(missing);
    }
    let resp = cx.expect(resp, Subject::Bucket(&bucket)).await?;
    if resp.status() == http::StatusCode::NOT_MODIFIED {
        return Err(err("PreconditionFailed"));
    }
    Ok(Source { bucket, key, version, headers: resp.into_parts().0.headers })
}

impl Source {
    /// `X-Copy-From`.
    pub fn path(&self) -> String {
        format!("/{}/{}", quote(&self.bucket), quote(&self.key))
    }

    pub fn size(&self) -> u64 {
        text(&self.headers, "content-length").and_then(|t| t.parse().ok()).unwrap_or(0)
    }
}

/// What the answer to a copy says.
pub fn result(root: &str, headers: &HeaderMap, checksum: Option<&str>) -> String {
    let modified = text(headers, "last-modified").and_then(parse_http_date).unwrap_or(0);
    let mut x = Xml::document(root, true);
    let etag = text(headers, "etag").map(unquote_etag).unwrap_or_default();
    x.leaf("LastModified", xml_seconds(modified)).leaf("ETag", format!("\"{etag}\""));
    if let Some((a, kind, v)) = checksum.and_then(crate::payload::parse_stored) {
        x.leaf(a.element(), v).leaf("ChecksumType", kind);
    }
    x.finish()
}

pub async fn object(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    if cx.headers.contains_key("x-amz-copy-source-range") {
        let range = cx.header("x-amz-copy-source-range").unwrap_or_default();
        return Err(invalid_argument("x-amz-copy-source-range", range, "Illegal copy header"));
    }
    let state = cx.authorize("s3:PutObject", Some(&key), Need::Bucket("WRITE")).await?;
    let source = source(cx).await?;
    let replaces = cx.header("x-amz-metadata-directive") == Some("REPLACE");
    let itself = source.bucket == cx.bucket() && source.key == key && source.version.is_none();
    if itself && !replaces && !cx.headers.contains_key("x-amz-website-redirect-location") {
        return Err(invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    let size = source.size();
    if size > 5 << 30 {
        return Err(invalid_request("The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"));
    }
    let headers = target_headers(cx, &state, &source, replaces).await?;
    let inner = cx.inner.clone();
    let _held = inner.lock(&cx.account, cx.bucket(), &key).await;
    super::lock::check_overwrite(cx, &state, &key).await?;
    check_write_conditions(cx, &key).await?;
    // Reading the source has been allowed above, so that nobody is asked again.
    let mut call = cx.on_target(Method::PUT).headers(headers);
    if let Some(v) = &source.version {
        call = call.query("version-id", v);
    }
    let resp = cx.expect(call.send().await, Subject::Put(cx.bucket())).await?;
    let stored = text(&source.headers, CHECKSUM_SYSMETA).filter(|c| c.contains("FULL_OBJECT"));
    let mut r = xml(result("CopyObjectResult", resp.headers(), stored));
    answer_headers(resp.headers(), r.headers_mut());
    if let Some(v) = &source.version {
        set(r.headers_mut(), "x-amz-copy-source-version-id", v);
    }
    let etag = text(resp.headers(), "etag").map(|e| unquote_etag(e).to_string());
    let version = text(resp.headers(), "x-object-version-id").map(str::to_string);
    discard(resp).await;
    tell(cx, &state, "ObjectCreated:Copy", &key, (Some(size), etag.as_deref(), version.as_deref())).await;
    Ok(r)
}

/// The copy's metadata. Nothing comes from the source by itself: how its data was laid out, its list and its lock are
/// not the copy's.
async fn target_headers(cx: &Cx, state: &Bucket, source: &Source, replaces: bool) -> S3Result<HeaderMap> {
    let mut headers = additions(cx, state).await?;
    set(&mut headers, "x-copy-from", source.path());
    set(&mut headers, "x-fresh-metadata", "true");
    if replaces {
        headers.extend(metadata(&cx.headers)?);
        set(&mut headers, "content-type", cx.header("content-type").unwrap_or("binary/octet-stream"));
    } else {
        for (name, value) in &source.headers {
            let n = name.as_str();
            if n.starts_with("x-object-meta-") || KEPT.contains(&n) || n == "content-type" {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Some(v) = cx.header("x-amz-website-redirect-location") {
            set(&mut headers, super::object::REDIRECT_SYSMETA, v);
        }
    }
    // System metadata is copied whatever is said; what it says of the source's layout is blanked out.
    for name in [ETAG_SYSMETA, UPLOAD_ID_SYSMETA, "x-object-sysmeta-swift3-etag", CHECKSUM_SYSMETA] {
        if source.headers.contains_key(name) {
            set(&mut headers, name, "");
        }
    }
    // A checksum of all the data stays true.
    if let Some(c) = text(&source.headers, CHECKSUM_SYSMETA).filter(|c| c.contains("FULL_OBJECT")) {
        set(&mut headers, CHECKSUM_SYSMETA, c);
    }
    let copies_tags = cx.header("x-amz-tagging-directive") != Some("REPLACE");
    if let Some(tags) = text(&source.headers, OBJECT_TAGS).filter(|_| copies_tags) {
        let state = cx.state_of(&source.bucket).await?;
        cx.decide("s3:GetObjectTagging", &source.bucket, Some(&source.key), &state, Need::Object("READ")).await?;
        set(&mut headers, OBJECT_TAGS, tags);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let ok = |t: &str| parse(t).unwrap();
        assert_eq!(ok("/bucket/a%20b/c"), ("bucket".into(), "a b/c".into(), None));
        assert_eq!(ok("bucket/a%3Fb?versionId=12.3").2.as_deref(), Some("12.3"));
        for bad in ["", "/", "bucket", "bucket/", "bucket/k?x=1", "bucket/k?versionId=", "bucket/%00", "b+segments/k", "bucket/%ff"] {
            assert_eq!(parse(bad).unwrap_err().code, "InvalidArgument", "{bad}");
        }
    }
}
