use crate::env::{Req, Resp};
use crate::http::{Params, error, respond, set, unauthorized};
use caelum_base::{Env, Secret};
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::python::json_string;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde_json::{Map, Value, json};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use std::sync::{Arc, OnceLock};

/// What `/info` tells and to whom.
#[derive(Clone, Debug, Default)]
pub struct InfoOptions {
    /// Nobody may ask (`expose_info = no`).
    pub hidden: bool,
    /// Sections (`swift.version`) that are left out (`disallowed_sections`).
    pub disallowed: Vec<String>,
    /// Key that signs requests for the admin section (`admin_key`).
    pub admin_key: Option<Secret<String>>,
}

/// Answers `/info`: what this store can do, one section per layer.
pub struct Info {
    next: Arc<dyn HttpService>,
    about: Arc<OnceLock<About>>,
}

/// What there is to tell. Layers outside the one that tells it add to it, so it is filled in last.
pub struct About(State);

impl About {
    /// `sections` as the layers of this pipeline declare them.
    pub fn new(env: Env, options: InfoOptions, sections: Map<String, Value>, admin: Map<String, Value>) -> Self {
        let mut public = Value::Object(sections);
        for section in &options.disallowed {
            remove(&mut public, section);
        }
        Self(State { env, options, public, admin })
    }
}

struct State {
    env: Env,
    options: InfoOptions,
    public: Value,
    admin: Map<String, Value>,
}

impl Info {
    /// `about` must be filled before the first request; until then the answer is 503.
    pub fn new(next: Arc<dyn HttpService>, about: Arc<OnceLock<About>>) -> Self {
        Self { next, about }
    }
}

/// Takes `a.b` out of nested objects.
fn remove(value: &mut Value, path: &str) {
    let mut at = value;
    let mut keys = path.split('.').peekable();
    while let Some(key) = keys.next() {
        let Some(map) = at.as_object_mut() else { return };
        if keys.peek().is_none() {
            map.remove(key);
            return;
        }
        let Some(inner) = map.get_mut(key) else { return };
        at = inner;
    }
}

/// Whether `sig` (hexadecimal; SHA-1 as upstream makes it, or a longer one) signs `text`.
fn signed(key: &str, text: &str, sig: &str) -> bool {
    fn check<M: Mac + KeyInit>(key: &str, text: &str, sig: &[u8]) -> bool {
        let Ok(mut mac) = <M as KeyInit>::new_from_slice(key.as_bytes()) else { return false };
        mac.update(text.as_bytes());
        // Compares in constant time.
        mac.verify_slice(sig).is_ok()
    }
    let Some(bytes) = from_hex(sig) else { return false };
    match bytes.len() {
        20 => check::<Hmac<Sha1>>(key, text, &bytes),
        32 => check::<Hmac<Sha256>>(key, text, &bytes),
        64 => check::<Hmac<Sha512>>(key, text, &bytes),
        _ => false,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

impl State {
    fn answer(&self, req: &Req) -> Resp {
        let method = req.method();
        if *method == Method::OPTIONS {
            let mut r = respond(200, "text/html; charset=UTF-8", "");
            set(r.headers_mut(), "allow", "HEAD, GET, OPTIONS");
            return r;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut r = error(405);
            set(r.headers_mut(), "allow", "HEAD, GET, OPTIONS");
            return r;
        }
        if self.options.hidden {
            return error(403);
        }
        let params = Params::of(req);
        let (sig, expires) = (params.get("swiftinfo_sig").unwrap_or_default(), params.get("swiftinfo_expires").unwrap_or_default());
        let mut value = self.public.clone();
        if !sig.is_empty() || !expires.is_empty() {
            let Some(key) = &self.options.admin_key else { return error(403) };
            let Ok(until) = expires.trim().parse::<i64>() else { return unauthorized("/info") };
            // Who may read may also ask for the head.
            let methods: &[&str] = if *method == Method::HEAD { &["HEAD", "GET"] } else { &["GET"] };
            let right = methods.iter().any(|m| signed(key.expose(), &format!("{m}\n{until}\n/info"), sig));
            if until < self.env.now().secs() || !right {
                return unauthorized("/info");
            }
            let mut admin = self.admin.clone();
            admin.insert("disallowed_sections".into(), json!(self.options.disallowed));
            if let Some(map) = value.as_object_mut() {
                map.insert("admin".into(), Value::Object(admin));
            }
        }
        let mut r = respond(200, "application/json; charset=UTF-8", json_string(&value));
        if let Some(origin) = req.headers().get("origin") {
            r.headers_mut().insert("access-control-allow-origin", origin.clone());
            set(r.headers_mut(), "access-control-expose-headers", "x-trans-id");
        }
        r
    }
}

impl HttpService for Info {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        if req.uri().path() != "/info" {
            return self.next.call(req);
        }
        let answer = self.about.get().map_or_else(|| error(503), |about| about.0.answer(&req));
        Box::pin(async move { answer })
    }
}
