//! Uploads from a form in a browser, signed with a key of the account or container.
//!
//! The form's fields before a file count for it: they carry the signature over path, redirect, largest size,
//! largest number and expiry. Each file becomes a PUT of its own, streamed as it arrives.

mod parts;

use super::common::{NO_SLASH, SLASH, facts, is_api_version, mount, python_int, quote_set};
use super::digest::{AllowedDigests, parse_signature, same, signing_keys};
use crate::env::{AuthorizeOverride, Req, Resp, SwiftPath};
use crate::http::{Origin, error, error_html, error_plain, read_all, respond, set, status_line, text};
use crate::proxy::InfoSource;
use caelum_base::{Env, Secret};
use caelum_rest::{Body, HttpService};
use futures_util::future::{BoxFuture, join};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use parts::{FormError, Parts, attributes, find_attribute};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest value of a field in bytes; the rest of it is dropped.
const MAX_VALUE: usize = 4_096;
/// Fields and files of one form at most.
const MAX_PARTS: usize = 10_000;
/// What is kept of a refusal's body.
const MAX_REFUSAL: usize = 65_536;

/// The layer; it stands before the authentication.
#[derive(Clone)]
pub struct FormPost {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    allowed_digests: AllowedDigests,
    env: Env,
}

/// Fields by name in lower case.
type Fields = BTreeMap<String, String>;

/// What one file came to.
struct Stored {
    status: u16,
    headers: HeaderMap,
    body: bytes::Bytes,
}

/// What the whole form came to.
#[derive(Default)]
struct Outcome {
    stored: Option<Stored>,
    /// Refused by the layer itself.
    message: &'static str,
}

fn invalid(why: impl std::fmt::Display) -> Resp {
    error_plain(400, format!("FormPost: {why}"))
}

fn denied(why: &str) -> Resp {
    let mut r = error_html(401, format!("FormPost: {why}"));
    set(r.headers_mut(), "www-authenticate", "Swift realm=\"unknown\"");
    r
}

impl From<FormError> for Resp {
    fn from(e: FormError) -> Self {
        match e {
            FormError::Start => invalid("invalid starting boundary"),
            FormError::Head => invalid("part headers too long"),
            FormError::Broken(_) => error(499),
        }
    }
}

/// Each word with a capital.
fn title(text: &str) -> String {
    let word = |w: &str| w.chars().next().map_or_else(String::new, |c| format!("{}{}", c.to_ascii_uppercase(), &w[1..]));
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

impl FormPost {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, allowed_digests: AllowedDigests, env: Env) -> Self {
        Self { next, info, allowed_digests, env }
    }

    /// What `/info` tells under `formpost`.
    pub fn info(allowed: &AllowedDigests) -> serde_json::Value {
        let mut info = serde_json::json!({"allowed_digests": allowed.names()});
        if !allowed.deprecated().is_empty() {
            info["deprecated_digests"] = allowed.deprecated().into();
        }
        info
    }

    async fn handle(self, req: Req) -> Resp {
        let boundary = Some(&req)
            .filter(|r| *r.method() == Method::POST)
            .and_then(|r| text(r.headers(), "content-type"))
            .map(attributes)
            .filter(|(kind, _)| kind == "multipart/form-data")
            .and_then(|(_, all)| find_attribute(&all, "boundary").map(str::to_string));
        let Some(boundary) = boundary else { return self.next.call(req).await };
        let form = Form::new(&self, &req);
        let keys = form.keys().await;
        match form.translate(req.into_body(), &boundary, &keys).await {
            Ok(resp) => resp,
            Err(refusal) => refusal,
        }
    }
}

/// One form under way.
struct Form<'a> {
    layer: &'a FormPost,
    origin: Origin,
    environ: crate::env::Environ,
    /// Encoded, as the client sent it.
    path: String,
    /// What stood before it.
    mount: String,
}

impl<'a> Form<'a> {
    fn new(layer: &'a FormPost, req: &Req) -> Self {
        Self { layer, origin: Origin::of(req), environ: facts(req), path: req.uri().path().to_string(), mount: mount(req) }
    }

    /// None when the path names no container: every file is refused then.
    async fn keys(&self) -> Vec<Secret<String>> {
        let Some(path) = SwiftPath::parse(&self.path).filter(|p| is_api_version(&p.version)) else { return Vec::new() };
        let Some(container) = path.container else { return Vec::new() };
        let asked = self.environ.preauthorized("FP");
        let account_info = self.layer.info.account_info(&asked, &path.account).await;
        let container_info = self.layer.info.container_info(&asked, &path.account, &container).await;
        signing_keys(&account_info, &container_info).into_iter().map(|(k, _)| k).collect()
    }

    async fn translate(&self, body: Body, boundary: &str, keys: &[Secret<String>]) -> Result<Resp, Resp> {
        let mut parts = Parts::start(body, boundary).await?;
        let (mut fields, mut outcome, mut files, mut count) = (Fields::new(), Outcome::default(), 0i128, 0);
        while let Some(head) = parts.next().await? {
            count += 1;
            if count > MAX_PARTS {
                return Err(invalid("too many fields"));
            }
            let header = |name: &str| find_attribute(&head, name);
            let (kind, all) = attributes(header("content-disposition").unwrap_or_default());
            let Some(filename) = find_attribute(&all, "filename").filter(|f| kind == "form-data" && !f.is_empty()) else {
                let value = field(&mut parts).await?;
                if let Some(name) = find_attribute(&all, "name") {
                    fields.insert(name.to_lowercase(), value);
                }
                continue;
            };
            files += 1;
            let most = number(&fields, "max_file_count").ok_or_else(|| invalid("max_file_count not an integer"))?;
            if files > most {
                outcome = Outcome { stored: None, message: "max file count exceeded" };
                break;
            }
            let mut of_file = fields.clone();
            for name in ["content-type", "content-encoding"] {
                if let (Some(value), false) = (header(name), fields.contains_key(name)) {
                    let value = if value.is_empty() && name == "content-type" { "application/octet-stream" } else { value };
                    of_file.insert(name.into(), value.into());
                }
            }
            let stored = self.store(&mut parts, &of_file, filename, keys).await?;
            let good = (200..300).contains(&stored.status);
            outcome = Outcome { stored: Some(stored), message: "" };
            if !good {
                break;
            }
        }
        if outcome.stored.is_none() && outcome.message.is_empty() {
            outcome.message = "no files to process";
        }
        answer(outcome, fields.get("redirect").map_or("", String::as_str))
    }

    /// Uploads the part that `parts` has reached.
    async fn store(&self, parts: &mut Parts, fields: &Fields, filename: &str, keys: &[Secret<String>]) -> Result<Stored, Resp> {
        if keys.is_empty() {
            return Err(denied("Invalid Signature"));
        }
        let limit = number(fields, "max_file_size").ok_or_else(|| invalid("max_file_size not an integer"))?;
        let headers = self.headers(fields)?;
        self.check_signature(fields, keys)?;
        let (tx, body) = caelum_rest::stream_channel(4);
        let mut sub = self.origin.preauthorized("FP").request_with(Method::PUT, &self.target(filename), "FP", "FormPost", body);
        sub.headers_mut().extend(headers);
        sub.extensions_mut().insert(AuthorizeOverride);

        let pump = async move {
            let mut seen: i128 = 0;
            loop {
                let chunk = match parts.chunk().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => return Ok(()),
                    Err(e) => {
                        let _ = tx.send(Err("the client broke off".into())).await;
                        return Err(Resp::from(FormError::Broken(e)));
                    }
                };
                seen += i128::try_from(chunk.len()).unwrap_or(i128::MAX);
                if seen > limit {
                    let _ = tx.send(Err("the file is too large".into())).await;
                    return Err(invalid("max_file_size exceeded"));
                }
                // Nobody reads any more: the request has been answered.
                if tx.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let (resp, pumped) = join(self.layer.next.call(sub), pump).await;
        pumped?;
        let (parts, body) = resp.into_parts();
        let body = read_all(body, MAX_REFUSAL).await.unwrap_or_default();
        Ok(Stored { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// The container's path, a slash and the name; behind a prefix the name alone.
    fn target(&self, filename: &str) -> String {
        let slash = !self.path.ends_with('/') && self.path.matches('/').count() < 4;
        format!("{}{}{}", self.path, if slash { "/" } else { "" }, quote_set(filename, SLASH))
    }

    fn headers(&self, fields: &Fields) -> Result<HeaderMap, Resp> {
        let mut headers = HeaderMap::new();
        set(&mut headers, "transfer-encoding", "chunked");
        let dates = [
            ("x_delete_at", "x-delete-at", "x_delete_at not an integer: Unix timestamp required."),
            ("x_delete_after", "x-delete-after", "x_delete_after not an integer: Number of seconds required."),
        ];
        for (field, header, why) in dates {
            if let Some(value) = fields.get(field) {
                set(&mut headers, header, python_int(value).ok_or_else(|| invalid(why))?.to_string());
            }
        }
        for name in ["content-type", "content-encoding"] {
            let Some(value) = fields.get(name) else { continue };
            let value = if value.is_empty() && name == "content-type" { "application/octet-stream" } else { value };
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid(format!("invalid {name}")))?;
            headers.insert(http::HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    fn check_signature(&self, fields: &Fields, keys: &[Secret<String>]) -> Result<(), Resp> {
        let expires = number(fields, "expires").ok_or_else(|| invalid("expired not an integer"))?;
        if expires.saturating_mul(1_000_000) < i128::from(self.layer.env.now().0) {
            return Err(denied("Form Expired"));
        }
        let field = |name: &str, default: &'static str| {
            fields.get(name).map(String::as_str).filter(|v| !v.is_empty()).unwrap_or(default).to_string()
        };
        let path = percent_encoding::percent_decode_str(&self.path).decode_utf8().map_err(|_| denied("Invalid Signature"))?;
        let rest = [field("redirect", ""), field("max_file_size", "0"), field("max_file_count", "0"), field("expires", "0")].join("\n");
        let messages = [format!("{path}\n{rest}"), format!("{}{path}\n{rest}", self.mount)];
        let given = parse_signature(&field("signature", "")).filter(|(d, _)| self.layer.allowed_digests.has(*d));
        let (digest, signature) = given.ok_or_else(|| denied("Invalid Signature"))?;
        let signs = |k: &Secret<String>, m: &String| same(&signature, &digest.hmac(k.expose().as_bytes(), m.as_bytes()));
        let fits = |k: &Secret<String>| messages.iter().any(|m| signs(k, m));
        if keys.iter().any(fits) { Ok(()) } else { Err(denied("Invalid Signature")) }
    }
}

/// 0 when the field is absent or empty; `None` when it is no number.
fn number(fields: &Fields, name: &str) -> Option<i128> {
    match fields.get(name).map(String::as_str) {
        None | Some("") => Some(0),
        Some(text) => python_int(text),
    }
}

async fn field(parts: &mut Parts) -> Result<String, Resp> {
    let mut data = Vec::new();
    while let Some(chunk) = parts.chunk().await.map_err(FormError::from)? {
        let room = MAX_VALUE - data.len();
        data.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    let value = String::from_utf8(data).map_err(|_| invalid("form field is not UTF-8"))?;
    Ok(value.trim_end_matches(['\r', '\n', '-']).to_string())
}

fn answer(outcome: Outcome, redirect: &str) -> Result<Resp, Resp> {
    let status = outcome.stored.as_ref().map_or(400, |s| s.status);
    let shown = |headers: &mut HeaderMap| {
        for (name, value) in outcome.stored.iter().flat_map(|s| &s.headers).filter(|(n, _)| n.as_str().starts_with("access-control")) {
            headers.append(name.clone(), value.clone());
        }
    };
    if redirect.is_empty() {
        let line = status_line(status);
        let mut body = if outcome.message.is_empty() { line } else { format!("{line}\r\nFormPost: {}", title(outcome.message)) }.into();
        if let Some(s) = outcome.stored.as_ref().filter(|s| !(200..300).contains(&s.status) && !s.body.is_empty()) {
            body = s.body.clone();
        }
        let mut resp = respond(status, "text/plain", body);
        shown(resp.headers_mut());
        return Ok(resp);
    }
    let more = if redirect.contains('?') { '&' } else { '?' };
    let target = format!("{redirect}{more}status={status}&message={}", quote_set(outcome.message, NO_SLASH));
    let location = HeaderValue::from_bytes(target.as_bytes()).map_err(|_| invalid("invalid redirect"))?;
    let href = target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E");
    let mut resp = respond(303, "", format!("<html><body><p><a href=\"{href}\">Click to continue...</a></p></body></html>"));
    resp.headers_mut().remove("content-type");
    resp.headers_mut().insert(http::header::LOCATION, location);
    shown(resp.headers_mut());
    Ok(resp)
}

impl HttpService for FormPost {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests;
