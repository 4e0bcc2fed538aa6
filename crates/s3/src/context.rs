//! A request while it is being answered: who asks, about what, with which rights; and the requests to the layers
//! below that it takes.

use crate::acl::{AccessList, canonical_id};
use crate::auth::Claim;
use crate::checksum::Algorithm;
use crate::errors::{S3Error, S3Result, err, invalid_request, no_such_bucket, no_such_key};
use crate::layer::Inner;
use crate::payload::{Guarded, Plan};
use crate::policy::{Facts, Question, Verdict};
use crate::state::{Bucket, Setting};
use crate::target::Target;
use caelum_base::Timestamp;
use caelum_object::auth::RefuseAll;
use caelum_object::env::{Caller, Environ, Footers, Req, Resp, SwiftPath};
use caelum_object::http::{Origin, Params, drain, read_all, set, text};
use caelum_object::proxy::ContainerInfo;
use caelum_rest::Body;
use http::{HeaderMap, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::{Arc, Mutex};

/// Largest answer of a listing that is read into memory.
const MAX_ANSWER: usize = 32 << 20;

/// With whose rights requests go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// This layer has decided that the request may be done.
    Granted,
    /// The layers below decide, by roles and container lists.
    Caller,
}

/// What may grant something besides ownership and policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing does.
    Owner,
    /// The bucket's list with this permission, or the container's.
    Bucket(&'static str),
    /// The object's list with this permission, or the container's.
    Object(&'static str),
}

pub struct Cx {
    pub inner: Arc<Inner>,
    pub method: Method,
    pub headers: HeaderMap,
    pub params: Params,
    pub target: Target,
    pub account: String,
    pub caller: Option<Arc<Caller>>,
    pub is_owner: bool,
    pub claim: Option<Claim>,
    pub origin: Origin,
    pub rights: Rights,
    /// Taken once. The lock makes what only one task uses shareable between threads.
    pub body: Mutex<Option<(Plan, Body)>>,
    /// `http://host/prefix`
    pub base_url: String,
    pub request_id: String,
}

/// Percent-encoding of a query's values.
pub fn query_quote(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Cx {
    pub fn now(&self) -> Timestamp {
        self.inner.deps.env.now()
    }

    /// The region's name; the first one's when any will do.
    pub fn region(&self) -> &str {
        let region = &self.inner.deps.options.region;
        if region.is_empty() { "us-east-1" } else { region }
    }

    /// The same request with rights that were settled for one of its keys.
    #[must_use]
    pub fn with_rights(&self, rights: Rights) -> Self {
        Self {
            inner: self.inner.clone(),
            method: self.method.clone(),
            headers: self.headers.clone(),
            params: self.params.clone(),
            target: self.target.clone(),
            account: self.account.clone(),
            caller: self.caller.clone(),
            is_owner: self.is_owner,
            claim: self.claim.clone(),
            origin: self.origin.clone(),
            rights,
            body: Mutex::new(None),
            base_url: self.base_url.clone(),
            request_id: self.request_id.clone(),
        }
    }

    /// By which lists name the caller; `anonymous` when nobody signed.
    pub fn user(&self) -> String {
        self.caller.as_ref().map_or_else(|| "anonymous".into(), |c| canonical_id(c))
    }

    pub fn bucket(&self) -> &str {
        self.target.bucket.as_deref().unwrap_or_default()
    }

    pub fn key(&self) -> &str {
        self.target.key.as_deref().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    pub fn segments(&self) -> String {
        format!("{}+segments", self.bucket())
    }

    /// A request to the layers below.
    pub fn call(&self, method: Method, container: &str, object: &str) -> Call<'_> {
        let name = |t: &str| (!t.is_empty()).then(|| t.to_string());
        let path = SwiftPath { version: "v1".into(), account: self.account.clone(), container: name(container), object: name(object) };
        Call { cx: self, method, path, query: Vec::new(), headers: HeaderMap::new(), rights: self.rights, is_internal: false }
    }

    /// To the bucket itself, or to the object that the request is about.
    pub fn on_target(&self, method: Method) -> Call<'_> {
        self.call(method, self.bucket(), self.key())
    }

    /// The container's metadata as it is now (or was a moment ago). Errors: `NoSuchBucket`.
    pub async fn bucket_state(&self) -> S3Result<Bucket> {
        self.state_of(self.bucket()).await
    }

    pub async fn state_of(&self, bucket: &str) -> S3Result<Bucket> {
        let info = self.container_info(bucket).await?;
        info.map(|i| Bucket::new(i, bucket)).ok_or_else(|| no_such_bucket(bucket))
    }

    /// `None` when there is no such container.
    pub async fn container_info(&self, name: &str) -> S3Result<Option<Arc<ContainerInfo>>> {
        let info = match (&self.inner.deps.info, &self.origin.environ) {
            (Some(source), Some(environ)) => source.container_info(&environ.preauthorized("S3"), &self.account, name).await,
            _ => {
                let r = self.call(Method::HEAD, name, "").granted().send().await;
                Arc::new(ContainerInfo::from_headers(r.status().as_u16(), r.headers()))
            }
        };
        match info.status {
            200..300 => Ok(Some(info)),
            404 | 410 => Ok(None),
            _ => Err(err("ServiceUnavailable")),
        }
    }

    /// Sets (or with an empty text removes) settings of the bucket. The caller's rights must have been settled.
    pub async fn store_settings(&self, bucket: &str, settings: &[(Setting, String)], more: &[(&str, &str)]) -> S3Result<()> {
        let mut call = self.call(Method::POST, bucket, "").granted();
        for (setting, value) in settings {
            call = call.header(&setting.header(), value);
        }
        for (name, value) in more {
            call = call.header(name, value);
        }
        let resp = call.send().await;
        if let Some(info) = &self.inner.deps.info {
            info.forget(&self.account, Some(bucket));
        }
        self.expect(resp, Subject::Bucket(bucket)).await.map(|_| ())
    }

    /// Settles whether the request may do `action`, on the bucket or one of its keys.
    ///
    /// Errors: `AccessDenied`, `NoSuchBucket`.
    pub async fn authorize(&mut self, action: &str, key: Option<&str>, need: Need) -> S3Result<Bucket> {
        let bucket = self.bucket().to_string();
        let state = match self.state_of(&bucket).await {
            // Who owns nothing here does not learn what there is.
            Err(e) if e.code == "NoSuchBucket" && !self.is_owner && self.target.account.is_some() => return Err(err("AccessDenied")),
            other => other?,
        };
        self.rights = self.decide(action, &bucket, key, &state, need).await?;
        Ok(state)
    }

    /// The same about any bucket of the account.
    pub async fn decide(&self, action: &str, bucket: &str, key: Option<&str>, state: &Bucket, need: Need) -> S3Result<Rights> {
        let denied = || err("AccessDenied");
        match self.policy_verdict(action, bucket, key, state).await? {
            Verdict::Allow => return Ok(Rights::Granted),
            // The owner can always repair a policy.
            Verdict::Deny if self.is_owner && action.ends_with("BucketPolicy") => {}
            Verdict::Deny => return Err(denied()),
            Verdict::Silent => {}
        }
        if self.is_owner {
            return Ok(Rights::Granted);
        }
        let caller = self.caller.as_deref();
        match need {
            Need::Owner => Err(denied()),
            Need::Bucket(permission) if state.acl.grants(caller, permission) => Ok(Rights::Granted),
            Need::Object(permission) => {
                let mut head = self.call(Method::HEAD, bucket, key.unwrap_or_default()).granted();
                if let Some(v) = self.params.get("versionId") {
                    head = head.query("version-id", v);
                }
                let head = head.send().await;
                let granted = if head.status() == http::StatusCode::NOT_FOUND {
                    // Who may list the bucket may know that there is no such key.
                    let lists = self.policy_verdict("s3:ListBucket", bucket, None, state).await?;
                    lists != Verdict::Deny && (lists == Verdict::Allow || state.acl.grants(caller, "READ"))
                } else {
                    head.status().is_success() && AccessList::of_object(head.headers()).grants(caller, permission)
                };
                Ok(if granted { Rights::Granted } else { Rights::Caller })
            }
            Need::Bucket(_) => Ok(Rights::Caller),
        }
    }

    async fn policy_verdict(&self, action: &str, bucket: &str, key: Option<&str>, state: &Bucket) -> S3Result<Verdict> {
        let policy = match &state.policy {
            None => return Ok(Verdict::Silent),
            Some(Err(())) if self.is_owner => return Ok(Verdict::Silent),
            Some(Err(())) => return Ok(Verdict::Deny),
            Some(Ok(p)) => p,
        };
        let mut facts = self.facts();
        if let Some(key) = key.filter(|_| policy.asks_for_object_tags()) {
            let head = self.call(Method::HEAD, bucket, key).granted().send().await;
            for (k, v) in crate::tags::of_object(head.headers()) {
                facts.insert(format!("s3:existingobjecttag/{}", k.to_lowercase()), vec![v]);
            }
        }
        let resource = match key {
            Some(key) => format!("arn:aws:s3:::{bucket}/{key}"),
            None => format!("arn:aws:s3:::{bucket}"),
        };
        Ok(policy.decide(&Question { caller: self.caller.as_deref(), action, resource: &resource, facts: &facts }))
    }

    /// What conditions of policies can be about.
    fn facts(&self) -> Facts {
        let mut f = Facts::new();
        let now = self.now();
        let mut put = |k: &str, v: String| drop(f.insert(k.to_string(), vec![v]));
        put("aws:currenttime", now.iso_z());
        put("aws:epochtime", now.secs().to_string());
        put("aws:securetransport", self.base_url.starts_with("https:").to_string());
        if let Some(ip) = self.origin.environ.as_ref().and_then(|e| e.remote) {
            put("aws:sourceip", ip.to_string());
        }
        for (header, key) in [("referer", "aws:referer"), ("user-agent", "aws:useragent")] {
            if let Some(v) = self.header(header) {
                put(key, v.to_string());
            }
        }
        match &self.caller {
            Some(c) => {
                put("aws:userid", c.user_id.clone());
                put("aws:username", c.user_name.clone());
                put("aws:principaltype", "User".into());
            }
            None => put("aws:principaltype", "Anonymous".into()),
        }
        if let Some(claim) = &self.claim {
            put("s3:authtype", claim.auth_type().into());
            put("s3:signatureversion", claim.version().into());
        }
        for (param, key) in
            [("prefix", "s3:prefix"), ("delimiter", "s3:delimiter"), ("max-keys", "s3:max-keys"), ("versionId", "s3:versionid")]
        {
            if let Some(v) = self.params.get(param) {
                put(key, v.to_string());
            }
        }
        for (name, value) in &self.headers {
            let name = name.as_str();
            if name.starts_with("x-amz-") || matches!(name, "if-match" | "if-none-match") {
                put(
                    &format!("s3:{}", name.replace("x-amz-object-lock-", "object-lock-")),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                );
            }
        }
        if let Some(tags) = self.header("x-amz-tagging").and_then(|t| crate::tags::from_query(t, 10).ok()) {
            f.insert("s3:requestobjecttagkeys".into(), tags.iter().map(|(k, _)| k.clone()).collect());
            for (k, v) in tags {
                f.insert(format!("s3:requestobjecttag/{}", k.to_lowercase()), vec![v]);
            }
        }
        f
    }

    fn take_body(&mut self) -> Option<(Plan, Body)> {
        self.body.get_mut().expect("no holder of this lock panics").take()
    }

    /// The request's body of at most `limit` bytes, checked. Errors: `MaxMessageLengthExceeded` and those of the
    /// checks.
    pub async fn read_body(&mut self, limit: usize) -> S3Result<bytes::Bytes> {
        let Some((plan, body)) = self.take_body() else { return Ok(bytes::Bytes::new()) };
        if plan.length.is_some_and(|l| l > limit as u64) {
            return Err(err("MaxMessageLengthExceeded"));
        }
        let md5 = self.header("content-md5").map(str::to_string);
        let g = plan.guard(body).await?;
        let failure = g.failure.clone();
        let data = read_all(g.body, limit).await;
        if let Some(e) = failure.take() {
            return Err(e);
        }
        let data = data.ok_or_else(|| err("MaxMessageLengthExceeded"))?;
        if let Some(md5) = md5 {
            let hex = crate::ops::md5_of_header(&md5)?;
            if hex != caelum_swiftkit::md5_hex(&data) {
                return Err(err("BadDigest"));
            }
        }
        Ok(data)
    }

    /// Sees to it that the body's checksum is of the algorithm that an upload was begun with. Errors: another one was sent.
    pub fn want_checksum(&mut self, algorithm: Algorithm) -> S3Result<()> {
        let Some((plan, _)) = self.body.get_mut().expect("no holder of this lock panics") else { return Ok(()) };
        match plan.algorithm().filter(|a| *a != algorithm) {
            Some(other) => Err(invalid_request(&format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                algorithm.name().to_lowercase(),
                other.name().to_lowercase()
            ))),
            None => {
                plan.compute(algorithm);
                Ok(())
            }
        }
    }

    /// The body, checked while it passes. Errors: `MissingContentLength`.
    pub async fn upload_body(&mut self) -> S3Result<Guarded> {
        let (plan, body) = self.take_body().ok_or_else(|| err("MissingContentLength"))?;
        if plan.length.is_none() {
            return Err(err("MissingContentLength"));
        }
        plan.guard(body).await
    }

    /// The answer, when it is one of success (or 304); else what clients of S3 are told.
    pub async fn expect(&self, resp: Resp, about: Subject<'_>) -> S3Result<Resp> {
        let status = resp.status().as_u16();
        if (200..300).contains(&status) || status == 304 {
            return Ok(resp);
        }
        let path = resp.headers().clone();
        let said = read_all(resp.into_body(), 65_536).await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(match (status, about) {
            (404 | 410, Subject::Bucket(b)) => no_such_bucket(b),
            (404 | 410, Subject::Put(b)) => no_such_bucket(b),
            (404 | 410, Subject::Object(k)) if self.params.has("versionId") && !k.is_empty() => {
                let e = err("NoSuchVersion").with("Key", k);
                let marker = ["x-backend-content-type", "content-type"]
                    .iter()
                    .any(|n| text(&path, n).is_some_and(|t| t.starts_with("application/x-deleted")));
                if marker { err("MethodNotAllowed").header("x-amz-delete-marker", "true") } else { e }
            }
            (404 | 410, Subject::Object(k)) => match self.bucket_state().await {
                Ok(_) => no_such_key(k),
                Err(e) => e,
            },
            (401 | 403, _) if said.contains("quota") => err("AccessDenied").text(said),
            (401 | 403, _) => err("AccessDenied"),
            (412, _) => err("PreconditionFailed"),
            (416, _) => err("InvalidRange"),
            (409, Subject::Bucket(_)) => err("BucketNotEmpty"),
            (422, _) => err("BadDigest"),
            (411, _) => err("MissingContentLength"),
            (413, _) => {
                if said.contains("quota") {
                    err("EntityTooLarge").text(said)
                } else {
                    err("EntityTooLarge")
                }
            }
            (408 | 499, _) => err("RequestTimeout").header("connection", "close"),
            (400, _) => crate::errors::invalid_request(&said),
            (429 | 498, _) => err("SlowDown"),
            (405, _) => err("MethodNotAllowed"),
            (409 | 503 | 507, _) => err("ServiceUnavailable"),
            (501, _) => err("NotImplemented"),
            _ => {
                tracing::error!(status, "unexpected answer to an S3 request");
                err("InternalError")
            }
        })
    }
}

/// What a request to the layers below is about, for its errors.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    Bucket(&'a str),
    /// A new object of this bucket.
    Put(&'a str),
    Object(&'a str),
}

/// A request to the layers below, being put together.
pub struct Call<'a> {
    cx: &'a Cx,
    method: Method,
    path: SwiftPath,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    rights: Rights,
    is_internal: bool,
}

impl Call<'_> {
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        set(&mut self.headers, name, value);
        self
    }

    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Nobody is asked: this layer knows that it may.
    #[must_use]
    pub fn granted(mut self) -> Self {
        self.rights = Rights::Granted;
        self
    }

    /// Reserved names may be used.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.is_internal = true;
        set(&mut self.headers, "x-backend-allow-reserved-names", "true");
        self.granted()
    }

    fn request(self, body: Body) -> Req {
        let pairs: Vec<String> = self.query.iter().map(|(k, v)| format!("{}={}", query_quote(k), query_quote(v))).collect();
        let target = match pairs.as_slice() {
            [] => self.path.encode(),
            pairs => format!("{}?{}", self.path.encode(), pairs.join("&")),
        };
        let mut req = self.cx.origin.request_with(self.method, &target, "S3", "", body);
        req.headers_mut().extend(self.headers);
        let environ = self.cx.origin.environ.clone().unwrap_or_else(|| Environ::internal(&self.cx.request_id, "S3"));
        let environ = match self.rights {
            Rights::Granted => Environ { authorizer: None, is_owner: true, ..environ },
            Rights::Caller => Environ { authorizer: Some(environ.authorizer.clone().unwrap_or_else(|| Arc::new(RefuseAll))), ..environ },
        };
        let environ = Environ {
            source: "S3",
            caller: self.cx.caller.clone(),
            internal: self.is_internal || environ.internal,
            lock_settled: true,
            ..environ
        };
        req.extensions_mut().insert(environ);
        req
    }

    pub async fn send(self) -> Resp {
        let next = self.cx.inner.next.clone();
        let is_bodyless = matches!(self.method, Method::GET | Method::HEAD | Method::DELETE);
        let call = if is_bodyless { self } else { self.header("content-length", "0") };
        next.call(call.request(caelum_rest::empty())).await
    }

    pub async fn send_bytes(self, body: impl Into<bytes::Bytes>, extend: impl FnOnce(&mut Req)) -> Resp {
        let body = body.into();
        let next = self.cx.inner.next.clone();
        let call = self.header("content-length", &body.len().to_string());
        let mut req = call.request(caelum_rest::full(body));
        extend(&mut req);
        next.call(req).await
    }

    /// With a guarded body; what it failed of wins over the answer.
    pub async fn send_guarded(self, g: Guarded) -> S3Result<Resp> {
        let next = self.cx.inner.next.clone();
        let call = match g.length {
            Some(n) => self.header("content-length", &n.to_string()),
            None => self.header("transfer-encoding", "chunked"),
        };
        let mut req = call.request(g.body);
        if g.has_footers {
            req.extensions_mut().insert(Footers);
        }
        let resp = next.call(req).await;
        match g.failure.take() {
            Some(e) => Err(e),
            None => Ok(resp),
        }
    }

    /// The answer as JSON, with its headers. Errors: as [`Cx::expect`].
    pub async fn json(self, about: Subject<'_>) -> S3Result<(serde_json::Value, HeaderMap)> {
        let cx = self.cx;
        let resp = self.query("format", "json").send().await;
        let resp = cx.expect(resp, about).await?;
        let (parts, body) = resp.into_parts();
        let data = read_all(body, MAX_ANSWER).await.ok_or_else(|| err("ServiceUnavailable"))?;
        if data.is_empty() {
            return Ok((serde_json::Value::Array(Vec::new()), parts.headers));
        }
        let value = serde_json::from_slice(&data).map_err(|_| err("InternalError"))?;
        Ok((value, parts.headers))
    }
}

/// Lets go of an answer that nobody reads.
pub async fn discard(resp: Resp) {
    drain(resp.into_body()).await;
}

/// Which refusals mean that there is no such thing.
pub fn is_absent(e: &S3Error) -> bool {
    matches!(e.code, "NoSuchKey" | "NoSuchVersion" | "NoSuchBucket" | "NoSuchUpload")
}
