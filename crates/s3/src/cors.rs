//! Which other sites' pages may use a bucket. Source: Amazon S3's user guide, "Using cross-origin resource sharing".

use crate::context::Cx;
use crate::errors::{S3Result, err};
use crate::policy::matches;
use crate::state::Setting;
use crate::xml::{Element, parse};
use caelum_object::env::{Req, Resp};
use caelum_object::http::{respond, set, text};
use http::{HeaderMap, Method};

const MAX_RULES: usize = 100;

/// What a page's browser asks.
pub struct Asked {
    origin: Option<String>,
    method: String,
    headers: Vec<String>,
    pub is_preflight: bool,
}

impl Asked {
    pub fn of(req: &Req) -> Self {
        let h = req.headers();
        let wanted = text(h, "access-control-request-method").map(str::to_string);
        let is_preflight = req.method() == Method::OPTIONS;
        let named = text(h, "access-control-request-headers").unwrap_or_default();
        Self {
            origin: text(h, "origin").map(str::to_string),
            method: if is_preflight { wanted.unwrap_or_default() } else { req.method().to_string() },
            headers: named.split(',').map(|t| t.trim().to_ascii_lowercase()).filter(|t| !t.is_empty()).collect(),
            is_preflight,
        }
    }
}

/// Checks a `CORSConfiguration`. Errors: `MalformedXML`, `InvalidRequest`.
pub fn check(body: &[u8]) -> S3Result<Element> {
    let e = parse(body, "CORSConfiguration").map_err(|_| err("MalformedXML"))?;
    let rules: Vec<&Element> = e.children("CORSRule").collect();
    if rules.is_empty() || rules.len() > MAX_RULES {
        return Err(err("MalformedXML"));
    }
    for r in rules {
        let count = |n| r.children(n).count();
        if count("AllowedOrigin") == 0 || count("AllowedMethod") == 0 {
            return Err(err("MalformedXML"));
        }
        if let Some(m) = r.children("AllowedMethod").find(|m| !["GET", "PUT", "POST", "DELETE", "HEAD"].contains(&m.text.trim())) {
            let text = format!("Found unsupported HTTP method in CORS config. Unsupported method is {}", m.text.trim());
            return Err(crate::errors::invalid_request(&text));
        }
        let stars = |n| r.children(n).any(|o| o.text.matches('*').count() > 1);
        if stars("AllowedOrigin") || stars("AllowedHeader") {
            return Err(crate::errors::invalid_request("AllowedOrigin and AllowedHeader can not have more than one wildcard."));
        }
        if r.text_of("MaxAgeSeconds").is_some_and(|t| t.parse::<u32>().is_err()) {
            return Err(err("MalformedXML"));
        }
    }
    Ok(e)
}

/// The headers that the first fitting rule gives.
fn decide(config: &str, asked: &Asked) -> Option<Vec<(&'static str, String)>> {
    let origin = asked.origin.as_deref()?;
    let e = parse(config.as_bytes(), "CORSConfiguration").ok()?;
    let rule = e.children("CORSRule").find(|r| {
        let has_origin = r.children("AllowedOrigin").any(|o| matches(o.text.trim(), origin));
        let has_method = r.children("AllowedMethod").any(|m| m.text.trim() == asked.method);
        let has_headers =
            asked.headers.iter().all(|h| r.children("AllowedHeader").any(|a| matches(&a.text.trim().to_ascii_lowercase(), h)));
        has_origin && has_method && (!asked.is_preflight || has_headers)
    })?;
    let any = rule.children("AllowedOrigin").any(|o| o.text.trim() == "*");
    let list = |n| rule.children(n).map(|c| c.text.trim().to_string()).collect::<Vec<_>>().join(", ");
    let mut out = vec![
        ("access-control-allow-origin", if any { "*".into() } else { origin.to_string() }),
        ("access-control-allow-methods", list("AllowedMethod")),
        ("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method".into()),
    ];
    if !any {
        out.push(("access-control-allow-credentials", "true".into()));
    }
    if !asked.headers.is_empty() {
        out.push(("access-control-allow-headers", asked.headers.join(", ")));
    }
    if let Some(age) = rule.text_of("MaxAgeSeconds") {
        out.push(("access-control-max-age", age.to_string()));
    }
    let exposed = list("ExposeHeader");
    if !exposed.is_empty() {
        out.push(("access-control-expose-headers", exposed));
    }
    Some(out)
}

/// Answers the question that a browser asks before a request. Anybody may ask it.
pub async fn preflight(cx: &Cx, asked: &Asked) -> S3Result<Resp> {
    let forbidden = || err("AccessForbidden");
    if asked.origin.is_none() || asked.method.is_empty() || cx.target.bucket.is_none() {
        return Err(err("InvalidRequest").text("Insufficient information. Origin and Access-Control-Request-Method are needed."));
    }
    let state = cx.bucket_state().await.map_err(|_| forbidden())?;
    let found = state.setting(Setting::Cors).and_then(|c| decide(c, asked)).ok_or_else(forbidden)?;
    let mut r = respond(200, "application/xml", "");
    for (name, value) in found {
        set(r.headers_mut(), name, value);
    }
    Ok(r)
}

/// Adds what the bucket's rules say to the answer of a page's request.
pub async fn annotate(cx: &Cx, asked: &Asked, headers: &mut HeaderMap) {
    if asked.origin.is_none() || cx.target.bucket.is_none() {
        return;
    }
    let Ok(state) = cx.bucket_state().await else { return };
    for (name, value) in state.setting(Setting::Cors).and_then(|c| decide(c, asked)).unwrap_or_default() {
        set(headers, name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "<CORSConfiguration><CORSRule><AllowedOrigin>https://*.example.com</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>\
        <AllowedHeader>x-amz-*</AllowedHeader><MaxAgeSeconds>60</MaxAgeSeconds><ExposeHeader>ETag</ExposeHeader></CORSRule>\
        <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";

    fn asked(origin: &str, method: &str, headers: &[&str]) -> Asked {
        let headers = headers.iter().map(|h| (*h).to_string()).collect();
        Asked { origin: Some(origin.into()), method: method.into(), headers, is_preflight: true }
    }

    #[test]
    fn the_first_rule_that_fits() {
        let get = |a: &Asked, n: &str| decide(CONFIG, a).and_then(|h| h.into_iter().find(|(k, _)| *k == n).map(|(_, v)| v));
        let a = asked("https://www.example.com", "PUT", &["x-amz-date"]);
        assert_eq!(get(&a, "access-control-allow-origin").as_deref(), Some("https://www.example.com"));
        assert_eq!(get(&a, "access-control-max-age").as_deref(), Some("60"));
        assert_eq!(get(&asked("https://evil.org", "GET", &[]), "access-control-allow-origin").as_deref(), Some("*"));
        assert!(decide(CONFIG, &asked("https://evil.org", "PUT", &[])).is_none());
        assert!(decide(CONFIG, &asked("https://www.example.com", "PUT", &["content-type"])).is_none());
    }

    #[test]
    fn configurations() {
        assert!(check(CONFIG.as_bytes()).is_ok());
        let rule = |r: &str| check(format!("<CORSConfiguration><CORSRule>{r}</CORSRule></CORSConfiguration>").as_bytes());
        assert!(check(b"<CORSConfiguration/>").is_err());
        assert!(rule("<AllowedMethod>GET</AllowedMethod>").is_err());
        assert!(rule("<AllowedOrigin>*</AllowedOrigin><AllowedMethod>OPTIONS</AllowedMethod>").is_err());
        assert!(rule("<AllowedOrigin>*.a.*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>").is_err());
    }
}
