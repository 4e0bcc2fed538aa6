//! The layer: tells S3 requests from others, finds out who signed them, answers them.

use crate::auth::{EMPTY, SignedRequest, claim, looks_signed, query_pairs};
use crate::context::{Cx, Rights};
use crate::credentials::{Key, S3Credentials};
use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::notify::{EventOptions, Notifier};
use crate::target::{Target, bucket_in_host, parse};
use crate::{cors, ops, payload, website};
use caelum_base::Env;
use caelum_object::env::{Req, Resp, SwiftPath, environ};
use caelum_object::http::{Origin, Params, content_length, read_all, set, text};
use caelum_object::proxy::InfoSource;
use caelum_rest::{BaseUrl, Body, HttpService};
use caelum_swiftkit::to_hex;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Body as _;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Mutex;

/// How S3 is offered.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Paths below it (`/s3`) are S3's, signed or not. Requests that carry an S3 signature are S3's anywhere.
    pub mount: Option<String>,
    /// The only region of signatures; empty accepts any.
    pub region: String,
    /// `bucket.<domain>` names a bucket.
    pub storage_domains: Vec<String>,
    /// `bucket.account.<domain>` serves a bucket's website.
    pub website_domains: Vec<String>,
    /// Bucket names must fit DNS.
    pub dns_names: bool,
    /// In front of a project's id: `AUTH_`.
    pub account_prefix: String,
    /// Rows of a page at most.
    pub max_listing: usize,
    /// Smallest part of an upload but the last, in bytes.
    pub min_part_size: u64,
    /// Parts of an upload at most.
    pub max_parts: u64,
    /// Objects are encrypted at rest, so that `AES256` may be asked for.
    pub is_encrypted: bool,
    /// Where events may be sent.
    pub events: EventOptions,
    /// How often buckets with lifecycle rules are looked at; `None`: never by itself.
    pub lifecycle_every: Option<Duration>,
    /// Names of the storage policies by index, so that the parts of uploads are kept as their bucket is.
    pub policies: BTreeMap<u32, String>,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            mount: Some("/s3".into()),
            region: "us-east-1".into(),
            storage_domains: Vec::new(),
            website_domains: Vec::new(),
            dns_names: true,
            account_prefix: "AUTH_".into(),
            max_listing: 1000,
            min_part_size: 5 << 20,
            max_parts: 10_000,
            is_encrypted: false,
            events: EventOptions::default(),
            lifecycle_every: Some(Duration::from_secs(3600)),
            policies: BTreeMap::new(),
        }
    }
}

/// What the layer works with.
pub struct S3Deps {
    pub env: Env,
    pub credentials: Arc<dyn S3Credentials>,
    /// Cached facts of containers; without it every request asks for them.
    pub info: Option<Arc<dyn InfoSource>>,
    pub options: S3Options,
}

const STRIPES: usize = 64;

/// What requests share.
pub struct Inner {
    pub next: Arc<dyn HttpService>,
    pub deps: S3Deps,
    pub notifier: Notifier,
    /// Conditional writes of one key wait for each other.
    stripes: Vec<Mutex<()>>,
}

impl Inner {
    /// Held while a key is looked at and then written.
    pub async fn lock(&self, account: &str, bucket: &str, key: &str) -> tokio::sync::MutexGuard<'_, ()> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut h = DefaultHasher::new();
        (account, bucket, key).hash(&mut h);
        let i = usize::try_from(h.finish() % STRIPES as u64).unwrap_or(0);
        self.stripes[i].lock().await
    }
}

/// S3 in front of Swift's pipeline.
pub struct S3Layer(pub(crate) Arc<Inner>);

impl S3Layer {
    #[expect(clippy::new_ret_no_self, reason = "layers are handed on as what they are to the next one")]
    pub fn new(next: Arc<dyn HttpService>, deps: S3Deps) -> Arc<dyn HttpService> {
        Self::build(next, deps)
    }

    /// The same with its own type, for [`Self::lifecycle_run_once`].
    pub fn build(next: Arc<dyn HttpService>, deps: S3Deps) -> Arc<Self> {
        let notifier = Notifier::new(deps.env.clone(), deps.options.events.clone());
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let every = deps.options.lifecycle_every;
        let inner = Arc::new(Inner { next, deps, notifier, stripes });
        if let (Some(every), Ok(runtime)) = (every, tokio::runtime::Handle::try_current()) {
            runtime.spawn(follow_lifecycles(Arc::downgrade(&inner), every));
        }
        Arc::new(Self(inner))
    }
}

/// Ends with the layer.
async fn follow_lifecycles(layer: Weak<Inner>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = layer.upgrade() else { return };
        let pass = S3Layer(inner).lifecycle_run_once().await;
        tracing::info!(?pass, "lifecycle rules followed");
    }
}

/// How a request came to be S3's.
struct Entry {
    /// The path below the mount, as sent.
    path: String,
    host_bucket: Option<String>,
    is_website: bool,
    is_signed: bool,
}

impl Inner {
    fn entry(&self, req: &Req) -> Option<Entry> {
        let o = &self.deps.options;
        let path = req.uri().path();
        let host = text(req.headers(), "host").or_else(|| req.uri().authority().map(|a| a.as_str())).unwrap_or_default();
        let is_signed = looks_signed(req.headers(), req.uri().query());
        let below = o.mount.as_deref().and_then(|m| path.strip_prefix(m)).filter(|r| r.is_empty() || r.starts_with('/'));
        if let Some(site) = bucket_in_host(host, &o.website_domains).filter(|_| !is_signed) {
            return Some(Entry { path: path.into(), host_bucket: Some(site.into()), is_website: true, is_signed });
        }
        let host_bucket = bucket_in_host(host, &o.storage_domains).map(str::to_string);
        if !is_signed && below.is_none() && host_bucket.is_none() {
            return None;
        }
        Some(Entry { path: below.unwrap_or(path).to_string(), host_bucket, is_website: false, is_signed })
    }

    async fn answer(self: Arc<Self>, req: Req, entry: Entry) -> Resp {
        let request_id = environ(&req).map(|e| e.trans_id.clone()).filter(|t| !t.is_empty());
        let request_id = request_id.unwrap_or_else(|| self.deps.env.request_id());
        let is_head = req.method() == Method::HEAD;
        let asked = cors::Asked::of(&req);
        let mut resp = match self.clone().open(req, &entry, &request_id).await {
            Ok(mut cx) => match (entry.is_website, asked.is_preflight) {
                (_, true) => cors::preflight(&cx, &asked).await.unwrap_or_else(|e| e.response(&request_id, is_head)),
                (true, false) => website::serve(&mut cx).await,
                (false, false) => {
                    let mut resp = ops::answer(&mut cx).await.unwrap_or_else(|e| e.response(&request_id, is_head));
                    cors::annotate(&cx, &asked, resp.headers_mut()).await;
                    resp
                }
            },
            Err(e) => e.response(&request_id, is_head),
        };
        set(resp.headers_mut(), "x-amz-request-id", &request_id);
        set(resp.headers_mut(), "x-amz-id-2", &request_id);
        resp
    }

    /// Finds out who asks and about what.
    async fn open(self: Arc<Self>, req: Req, entry: &Entry, request_id: &str) -> S3Result<Cx> {
        let o = &self.deps.options;
        let base_url = req.extensions().get::<BaseUrl>().map(|b| b.0.clone()).unwrap_or_default();
        let mut origin = Origin::of(&req);
        let (parts, mut body) = req.into_parts();
        let query = query_pairs(parts.uri.query());
        let mut headers = parts.headers;
        let target = if entry.is_website {
            website::target(entry.host_bucket.as_deref().unwrap_or_default(), &entry.path)?
        } else {
            parse(&entry.path, entry.host_bucket.as_deref(), o.dns_names)?
        };
        let claim = claim(&headers, &query)?;
        if entry.is_signed && claim.is_none() {
            return Err(err("AccessDenied").text("The request is not signed in a way that is understood."));
        }
        let mut key = None;
        let mut context = None;
        if let Some(claim) = &claim {
            // Version 4 signs the path as the client sent it, with what a front door has stripped; version 2 signs the
            // bucket and the key.
            let sent = format!("{}{}", path_of(&base_url), parts.uri.path());
            let path = if claim.version() == "AWS" { entry.path.as_str() } else { sent.as_str() };
            let host_bucket = entry.host_bucket.as_deref();
            let mut signed = SignedRequest { method: &parts.method, path, host_bucket, query: &query, headers: &headers, body_hash: None };
            claim.check(&signed, &o.region, self.deps.env.now())?;
            let found = self.key_of(claim.access()).await?;
            let mut own_hash = None;
            if claim.needs_hash() && !headers.contains_key("x-amz-content-sha256") {
                (own_hash, body) = hash_of_body(&parts.method, body).await?;
            }
            signed.body_hash = own_hash.as_deref();
            context = claim
                .verify(&signed, &found.secret)
                .map_err(|e| if own_hash.as_deref().is_some_and(|h| h != EMPTY) { payload::missing_hash() } else { e })?;
            key = Some(found);
        }
        if query.iter().any(|(k, _)| k.eq_ignore_ascii_case("x-amz-security-token")) || headers.contains_key("x-amz-security-token") {
            return Err(err("InvalidToken"));
        }
        if claim.as_ref().is_some_and(crate::auth::Claim::in_query) {
            hoist(&query, &mut headers);
        }
        let needs_hash = claim.as_ref().is_some_and(crate::auth::Claim::needs_hash);
        check_headers(&headers, o)?;
        let completes = parts.method == Method::POST && query.iter().any(|(k, _)| k == "uploadId");
        let plan = payload::plan(&about_body(&headers, completes), context.filter(|_| needs_hash))?;
        let (account, is_owner) = account_of(&target, key.as_ref(), &o.account_prefix)?;
        let caller = key.map(|k| Arc::new(k.caller));
        if let Some(e) = &mut origin.environ {
            e.caller.clone_from(&caller);
        }
        let is_bodyless = matches!(parts.method, Method::GET | Method::HEAD);
        Ok(Cx {
            method: parts.method,
            headers,
            params: Params::parse(parts.uri.query()),
            target,
            account,
            caller,
            is_owner,
            claim,
            origin,
            rights: Rights::Caller,
            body: std::sync::Mutex::new((!is_bodyless).then_some((plan, body))),
            base_url,
            request_id: request_id.to_string(),
            inner: self,
        })
    }

    async fn key_of(&self, access: &str) -> S3Result<Key> {
        match self.deps.credentials.secret(access).await {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err(err("InvalidAccessKeyId").with("AWSAccessKeyId", access)),
            Err(e) => {
                tracing::error!(error = e.chain(), "access keys cannot be looked up");
                Err(err("ServiceUnavailable"))
            }
        }
    }
}

/// The headers that are about a request's body: with the end of an upload, checksums are the object's.
fn about_body(headers: &HeaderMap, completes: bool) -> Cow<'_, HeaderMap> {
    if !completes {
        return Cow::Borrowed(headers);
    }
    let mut out = headers.clone();
    for a in crate::checksum::ALL {
        out.remove(a.header());
    }
    Cow::Owned(out)
}

/// Bodies up to this size, in bytes, are hashed before the signature is checked when a client has signed their hash
/// without naming it.
const MAX_UNNAMED: usize = 1 << 20;

/// The SHA-256 of a body that no header names, and the body again. Some clients (curl before 8.0 among them) sign it
/// without sending it. What they sign is compared with what has arrived, so that nothing goes unsigned; Amazon refuses
/// these requests, and so are larger bodies here.
async fn hash_of_body(method: &Method, body: Body) -> S3Result<(Option<String>, Body)> {
    let size = body.size_hint();
    if size.exact() == Some(0) || matches!(*method, Method::GET | Method::HEAD) {
        return Ok((Some(EMPTY.into()), body));
    }
    if size.lower() > MAX_UNNAMED as u64 {
        return Err(payload::missing_hash());
    }
    let data = read_all(body, MAX_UNNAMED).await.ok_or_else(payload::missing_hash)?;
    Ok((Some(to_hex(&Sha256::digest(&data))), caelum_rest::full(data)))
}

/// The path of a URL, without a slash at its end.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    rest.find('/').map_or("", |at| rest[at..].trim_end_matches('/'))
}

/// Whose account a request is about, and whether the caller owns it.
fn account_of(target: &Target, key: Option<&Key>, prefix: &str) -> S3Result<(String, bool)> {
    let named = target.account.as_ref().map(|a| if a.starts_with(prefix) { a.clone() } else { format!("{prefix}{a}") });
    match (named, key) {
        (None, Some(k)) => Ok((k.account.clone(), k.is_owner)),
        (Some(a), Some(k)) => {
            let owns = k.caller.reseller_admin || (a == k.account && k.is_owner);
            Ok((a, owns))
        }
        (Some(a), None) => Ok((a, false)),
        // Nobody's buckets: without a signature the account must be named.
        (None, None) => Err(err("AccessDenied")),
    }
}

/// Presigned URLs may carry headers in their query; the signature covers them.
fn hoist(query: &[(String, String)], headers: &mut HeaderMap) {
    const OWN: [&str; 6] = ["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-amz-signature"];
    for (name, value) in query {
        let name = name.to_ascii_lowercase();
        if !name.starts_with("x-amz-") || OWN.contains(&name.as_str()) {
            continue;
        }
        if let (Ok(n), Ok(v)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            && !headers.contains_key(&n)
        {
            headers.insert(n, v);
        }
    }
}

/// Headers that mean the same everywhere.
fn check_headers(headers: &HeaderMap, o: &S3Options) -> S3Result<()> {
    let get = |name| text(headers, name);
    if get("x-amz-storage-class").is_some_and(|c| c != "STANDARD") {
        return Err(err("InvalidStorageClass"));
    }
    if headers.contains_key("x-amz-mfa") {
        return Err(not_implemented("MFA Delete is not supported."));
    }
    match get("x-amz-server-side-encryption") {
        None => {}
        Some("AES256") if o.is_encrypted => {}
        Some(v @ ("AES256" | "aws:kms" | "aws:kms:dsse")) => {
            let _ = v;
            return Err(not_implemented("Server-side encryption is not supported."));
        }
        Some(v) => return Err(invalid_argument("x-amz-server-side-encryption", v, "The encryption method specified is not supported")),
    }
    if headers
        .keys()
        .any(|n| n.as_str().contains("server-side-encryption-customer") || n.as_str().contains("server-side-encryption-aws-kms"))
    {
        return Err(not_implemented("Server-side encryption with customers' keys is not supported."));
    }
    for (name, values) in [("x-amz-metadata-directive", ["COPY", "REPLACE"]), ("x-amz-tagging-directive", ["COPY", "REPLACE"])] {
        if let Some(v) = get(name).filter(|v| !values.contains(v)) {
            return Err(invalid_argument(name, v, "Unknown directive."));
        }
    }
    Ok(())
}

/// Listings longer than this go on as they are; the longest page of Swift's is shorter.
const MAX_LISTING_BYTES: u64 = 32 << 20;

fn is_container_listing(req: &Req) -> bool {
    let is_get = req.method() == Method::GET;
    is_get && SwiftPath::parse(req.uri().path()).is_some_and(|p| p.container.is_some() && p.object.is_none())
}

/// In listings for clients of Swift's API the S3 tag of an object gets a field of its own (`s3_etag`).
async fn plain_etags(resp: Resp) -> Resp {
    let is_json = text(resp.headers(), "content-type").is_some_and(|t| t.starts_with("application/json"));
    let length = content_length(&resp);
    if !resp.status().is_success() || !is_json || length.is_none_or(|l| l > MAX_LISTING_BYTES) {
        return resp;
    }
    let (mut parts, body) = resp.into_parts();
    let Some(data) = read_all(body, usize::try_from(MAX_LISTING_BYTES).unwrap_or(usize::MAX)).await else {
        return err("ServiceUnavailable").response("", false);
    };
    let has_tags = memchr::memmem::find(&data, b"s3_etag=").is_some();
    let rows = if has_tags { serde_json::from_slice::<Vec<Value>>(&data).ok() } else { None };
    let Some(mut rows) = rows else { return Resp::from_parts(parts, caelum_rest::full(data)) };
    for row in &mut rows {
        let Some(hash) = row.get("hash").and_then(Value::as_str).map(str::to_string) else { continue };
        let mut kept = Vec::new();
        for piece in hash.split(';').map(str::trim) {
            match piece.strip_prefix("s3_etag=") {
                Some(tag) => row["s3_etag"] = format!("\"{}\"", tag.trim_matches('"')).into(),
                None => kept.push(piece),
            }
        }
        row["hash"] = kept.join("; ").into();
    }
    let data = Value::Array(rows).to_string();
    set(&mut parts.headers, "content-length", data.len().to_string());
    Resp::from_parts(parts, caelum_rest::full(data))
}

impl HttpService for S3Layer {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        match self.0.entry(&req) {
            None if is_container_listing(&req) => {
                let answer = self.0.next.call(req);
                Box::pin(async move { plain_etags(answer.await).await })
            }
            None => self.0.next.call(req),
            Some(entry) => Box::pin(self.0.clone().answer(req, entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_front_door_has_stripped() {
        assert_eq!(path_of("http://h:8080/object-store"), "/object-store");
        assert_eq!(path_of("http://h:8080"), "");
        assert_eq!(path_of(""), "");
    }

    #[test]
    fn headers_in_presigned_urls() {
        let mut h = HeaderMap::new();
        h.insert("x-amz-acl", HeaderValue::from_static("private"));
        let q = query_pairs(Some("x-amz-acl=public-read&X-Amz-Meta-A=b&X-Amz-Signature=s&prefix=p"));
        hoist(&q, &mut h);
        assert_eq!((h["x-amz-acl"].to_str().unwrap(), h["x-amz-meta-a"].to_str().unwrap(), h.len()), ("private", "b", 2));
    }
}
