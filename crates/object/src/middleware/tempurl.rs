//! Temporary URLs: whoever holds one may use one object, or all with a prefix, for a while.
//!
//! The signature covers method, expiry and path (and the address range, when there is one), not headers. So
//! an upload may not carry headers that would make the new object show another's content, and what signatures
//! do not cover in the query is dropped.

use super::common::{SLASH, SLASH_AND_BLANK, basename, facts, mount, python_int, quote_set};
use super::digest::{AllowedDigests, DigestName, Scope, parse_signature, same, signing_keys};
use crate::env::{AuthorizeOverride, Authorizer, Caller, Environ, Req, Resp, SwiftPath};
use crate::http::{Params, error, error_html, http_date, set, set_path_and_query, text, unauthorized};
use crate::proxy::InfoSource;
use async_trait::async_trait;
use caelum_base::Env;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// The caller of a request that came with a valid temporary URL.
pub const CALLER: &str = ".wsgi.tempurl";

/// Headers that point to other data. An upload with one of them is refused, so that a temporary URL for
/// reading what a stranger has just uploaded gives away nothing else.
const POINTERS: [&str; 3] = ["x-object-manifest", "x-symlink-target", "x-copy-from"];

/// Names of headers; one that ends with `*` means all that begin so.
#[derive(Clone, Debug, Default)]
pub struct HeaderList(Vec<String>);

impl HeaderList {
    /// From names separated by blanks.
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_ascii_lowercase).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|n| n.strip_suffix('*').map_or(n == name, |prefix| name.starts_with(prefix)))
    }
}

/// The layer's options, named as in `proxy-server.conf`.
#[derive(Clone, Debug)]
pub struct TempUrlOptions {
    pub methods: Vec<Method>,
    pub incoming_remove_headers: HeaderList,
    pub incoming_allow_headers: HeaderList,
    pub outgoing_remove_headers: HeaderList,
    pub outgoing_allow_headers: HeaderList,
    pub allowed_digests: AllowedDigests,
}

impl Default for TempUrlOptions {
    fn default() -> Self {
        Self {
            methods: vec![Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE],
            incoming_remove_headers: HeaderList::parse("x-timestamp x-open-expired"),
            incoming_allow_headers: HeaderList::default(),
            outgoing_remove_headers: HeaderList::parse("x-object-meta-*"),
            outgoing_allow_headers: HeaderList::parse("x-object-meta-public-*"),
            allowed_digests: AllowedDigests::default(),
        }
    }
}

impl TempUrlOptions {
    /// What `/info` tells under `tempurl`.
    pub fn info(&self) -> serde_json::Value {
        let mut info = serde_json::json!({
            "methods": self.methods.iter().map(Method::as_str).collect::<Vec<_>>(),
            "incoming_remove_headers": self.incoming_remove_headers.0,
            "incoming_allow_headers": self.incoming_allow_headers.0,
            "outgoing_remove_headers": self.outgoing_remove_headers.0,
            "outgoing_allow_headers": self.outgoing_allow_headers.0,
            "allowed_digests": self.allowed_digests.names(),
        });
        if !self.allowed_digests.deprecated().is_empty() {
            info["deprecated_digests"] = self.allowed_digests.deprecated().into();
        }
        info
    }
}

/// What a URL says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub sig: Option<String>,
    pub expires: Option<String>,
    pub prefix: Option<String>,
    pub filename: Option<String>,
    pub inline: bool,
    pub ip_range: Option<String>,
    /// A parameter of the signature stands more than once.
    pub ambiguous: bool,
}

impl Given {
    pub fn of(req: &Req) -> Self {
        let params = Params::of(req);
        let first = |name| params.all(name).next().map(str::to_string);
        let signed = ["temp_url_sig", "temp_url_expires", "temp_url_prefix", "temp_url_ip_range"];
        Self {
            sig: first("temp_url_sig"),
            expires: first("temp_url_expires"),
            prefix: first("temp_url_prefix"),
            filename: first("filename"),
            inline: params.has("inline"),
            ip_range: first("temp_url_ip_range"),
            ambiguous: signed.iter().any(|n| params.all(n).nth(1).is_some()),
        }
    }

    /// The query that goes on: nothing that the signature does not cover, but for how the answer is shown.
    fn query(&self, sig: &str) -> String {
        let mut p = Params::default();
        p.set("temp_url_sig", sig);
        p.set("temp_url_expires", self.expires.clone().unwrap_or_default());
        let named = [("temp_url_prefix", &self.prefix), ("temp_url_ip_range", &self.ip_range), ("filename", &self.filename)];
        for (name, value) in named {
            if let Some(value) = value {
                p.set(name, value.clone());
            }
        }
        if self.inline {
            p.set("inline", "");
        }
        p.encode()
    }
}

/// Seconds since 1970 of `1700000000` or `2023-11-14T22:13:20Z`; `None` for other text and for what is over.
fn expiry(text: &str, env: &Env) -> Option<i128> {
    let seconds = python_int(text).or_else(|| iso_seconds(text).map(i128::from))?;
    (seconds != 0 && seconds.saturating_mul(1_000_000) >= i128::from(env.now().0)).then_some(seconds)
}

/// Fields may lack their leading zero.
fn iso_seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let field = |t: &str, width: usize| {
        (!t.is_empty() && t.len() <= width && t.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{t:0>width$}"))
    };
    let (mut d, mut t) = (date.split('-'), time.split(':'));
    let year = d.next().filter(|y| y.len() == 4)?;
    let clean = format!(
        "{}-{}-{}T{}:{}:{}Z",
        field(year, 4)?,
        field(d.next()?, 2)?,
        field(d.next()?, 2)?,
        field(t.next()?, 2)?,
        field(t.next()?, 2)?,
        field(t.next()?, 2)?
    );
    if d.next().is_some() || t.next().is_some() {
        return None;
    }
    caelum_base::Timestamp::parse(&clean).map(caelum_base::Timestamp::secs)
}

/// `10.0.0.0/8`, `10.0.0.0/255.0.0.0` or one address. Bits set beyond the prefix are an error.
fn in_range(range: &str, remote: Option<IpAddr>) -> bool {
    let net = match range.split_once('/') {
        None => range.parse::<IpAddr>().ok().map(IpNet::from),
        Some((ip, mask)) if mask.contains('.') => {
            ip.parse().ok().zip(mask.parse().ok()).and_then(|(ip, mask)| IpNet::with_netmask(ip, mask).ok())
        }
        Some(_) => range.parse::<IpNet>().ok(),
    };
    net.filter(|n| n.addr() == n.network()).zip(remote).is_some_and(|(n, r)| n.contains(&r) || n.contains(&r.to_canonical()))
}

/// The signature's message and its HMAC.
pub fn sign(digest: DigestName, key: &str, method: &str, path: &str, expires: i128, ip_range: Option<&str>) -> String {
    let ip = ip_range.map_or_else(String::new, |r| format!("ip={r}\n"));
    digest.hmac(key.as_bytes(), format!("{ip}{method}\n{expires}\n{path}").as_bytes())
}

fn disposition(kind: &str, filename: &str) -> String {
    format!("{kind}; filename=\"{}\"; filename*=UTF-8''{}", quote_set(filename, SLASH_AND_BLANK), quote_set(filename, SLASH))
}

/// May act on the account or the container that the key belongs to, since manifests and symlinks lead to
/// other objects; the layer itself has made sure of the path.
struct Limited {
    account: String,
    container: Option<String>,
}

#[async_trait]
impl Authorizer for Limited {
    async fn authorize(&self, _: &Method, path: &str, _: &Environ, _: Option<&str>) -> Option<Resp> {
        let fits = SwiftPath::parse(path)
            .is_some_and(|p| p.account == self.account && (self.container.is_none() || p.container == self.container));
        if fits { None } else { Some(unauthorized(path)) }
    }
}

/// The layer; it stands before the authentication.
#[derive(Clone)]
pub struct TempUrl {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    options: Arc<TempUrlOptions>,
    env: Env,
}

/// A URL whose signature is right.
struct Valid {
    object: String,
    sig: String,
    expires: i128,
    scope: Limited,
}

impl TempUrl {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, options: TempUrlOptions, env: Env) -> Self {
        Self { next, info, options: Arc::new(options), env }
    }

    async fn handle(self, mut req: Req) -> Resp {
        let given = Given::of(&req);
        if *req.method() == Method::OPTIONS || (given.sig.is_none() && given.expires.is_none()) {
            return self.next.call(req).await;
        }
        let (method, path) = (req.method().clone(), req.uri().path().to_string());
        let checked = self.check(method.clone(), (path.clone(), mount(&req)), facts(&req), &given).await;
        let Some(valid) = checked else { return invalid(&method) };
        if !matches!(*req.method(), Method::GET | Method::HEAD)
            && let Some(name) = POINTERS.iter().find(|n| req.headers().contains_key(**n))
        {
            return error_html(400, format!("The header '{}' is not allowed in this tempurl", title(name)));
        }
        self.clean(req.headers_mut(), true);
        let read = matches!(*req.method(), Method::GET | Method::HEAD);
        if !set_path_and_query(&mut req, &path, &given.query(&valid.sig)) {
            return error(414);
        }
        let caller = Caller { user_name: CALLER.into(), groups: vec![CALLER.into()], ..Caller::default() };
        let environ = facts(&req);
        let authorizer: Arc<dyn Authorizer> = Arc::new(valid.scope);
        req.extensions_mut().insert(Environ {
            caller: Some(Arc::new(caller)),
            authorizer: Some(authorizer),
            is_owner: false,
            internal: false,
            ..environ
        });
        req.extensions_mut().insert(AuthorizeOverride);
        let mut resp = self.next.call(req).await;
        self.clean(resp.headers_mut(), false);
        if !read || !resp.status().is_success() {
            return resp;
        }
        let site = text(resp.headers(), "x-backend-content-generator") == Some("staticweb");
        // A container's root is for static web sites only, and whether one answers is known only now.
        if !site && valid.object.is_empty() {
            return invalid(&method);
        }
        present(resp.headers_mut(), &given, site, &path);
        let expires = u64::try_from(valid.expires).unwrap_or(u64::MAX);
        set(resp.headers_mut(), "expires", http_date(expires));
        resp
    }

    /// `place` is the path and where the API is mounted.
    async fn check(&self, method: Method, place: (String, String), environ: Environ, given: &Given) -> Option<Valid> {
        let (path, mount) = place;
        let expires = expiry(given.expires.as_deref()?, &self.env)?;
        let (digest, sig) = parse_signature(given.sig.as_deref()?)?;
        if given.ambiguous || sig.is_empty() || !self.options.allowed_digests.has(digest) || !self.options.methods.contains(&method) {
            return None;
        }
        let read = matches!(method, Method::GET | Method::HEAD);
        let path = SwiftPath::parse(&path).filter(|p| p.version == "v1")?;
        let (container, object) = (path.container?, path.object.unwrap_or_default());
        let root = read && given.prefix.as_deref() == Some("") && object.is_empty();
        if !root && object.trim_matches('/').is_empty() {
            return None;
        }
        if given.ip_range.as_deref().is_some_and(|r| !r.is_empty() && !in_range(r, environ.remote)) {
            return None;
        }
        let signed = match &given.prefix {
            None => ("", format!("/v1/{}/{container}/{object}", path.account)),
            Some(prefix) if object.starts_with(prefix.as_str()) => ("prefix:", format!("/v1/{}/{container}/{prefix}", path.account)),
            Some(_) => return None,
        };
        let texts = [format!("{}{}", signed.0, signed.1), format!("{}{mount}{}", signed.0, signed.1)];
        let asked = environ.preauthorized("TU");
        let account_info = self.info.account_info(&asked, &path.account).await;
        let container_info = self.info.container_info(&asked, &path.account, &container).await;
        let own = [method.as_str()];
        let methods: &[&str] = if method == Method::HEAD { &["HEAD", "GET", "POST", "PUT"] } else { &own };
        let range = given.ip_range.as_deref().filter(|r| !r.is_empty());
        for (key, scope) in signing_keys(&account_info, &container_info) {
            let fits = |text: &String| methods.iter().any(|m| same(&sig, &sign(digest, key.expose(), m, text, expires, range)));
            if texts.iter().any(fits) {
                let container = (scope == Scope::Container).then_some(container);
                return Some(Valid { object, sig, expires, scope: Limited { account: path.account, container } });
            }
        }
        None
    }

    fn clean(&self, headers: &mut HeaderMap, incoming: bool) {
        let o = &self.options;
        let (remove, allow) = if incoming {
            (&o.incoming_remove_headers, &o.incoming_allow_headers)
        } else {
            (&o.outgoing_remove_headers, &o.outgoing_allow_headers)
        };
        let gone: Vec<HeaderName> = headers.keys().filter(|n| remove.has(n.as_str()) && !allow.has(n.as_str())).cloned().collect();
        for name in gone {
            headers.remove(&name);
        }
    }
}

/// How a browser is to treat the answer: as the URL says, else as the object says, else as a file with the
/// object's name.
fn present(headers: &mut HeaderMap, given: &Given, site: bool, path: &str) {
    let filename = given.filename.as_deref().filter(|f| !f.is_empty());
    let value = match (given.inline || site, filename) {
        (true, Some(f)) => disposition("inline", f),
        (true, None) => "inline".into(),
        (false, Some(f)) => disposition("attachment", f),
        (false, None) if headers.contains_key(header::CONTENT_DISPOSITION) => return,
        (false, None) => {
            let name = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
            disposition("attachment", basename(name.trim_end_matches('/')))
        }
    };
    set(headers, "content-disposition", value);
}

fn invalid(method: &Method) -> Resp {
    let mut r = if *method == Method::HEAD { error(401) } else { error_html(401, "401 Unauthorized: Temp URL invalid\n") };
    set(r.headers_mut(), "www-authenticate", "Swift realm=\"unknown\"");
    r
}

/// `x-copy-from` as `X-Copy-From`.
fn title(name: &str) -> String {
    let word = |w: &str| w.chars().next().map_or_else(String::new, |c| format!("{}{}", c.to_ascii_uppercase(), &w[1..]));
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

impl HttpService for TempUrl {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests;
