//! Buckets as web sites: index and error documents, redirects. Source: Amazon S3's user guide, "Hosting a static
//! website".
//!
//! A site is reached as `bucket.account.<website domain>`, without a signature; what may be read is what the bucket's
//! lists and policy let everybody read.

use crate::context::Cx;
use crate::errors::{S3Error, S3Result, err, invalid_argument};
use crate::ops;
use crate::state::Setting;
use crate::target::{Target, is_bucket_name, parse as parse_target};
use crate::xml::{Element, parse};
use caelum_object::env::Resp;
use caelum_object::http::{respond, set, text};
use http::Method;

const MAX_RULES: usize = 50;

/// From the host's first part, `bucket.account`.
pub fn target(site: &str, path: &str) -> S3Result<Target> {
    let (bucket, account) = site.rsplit_once('.').ok_or_else(|| err("NoSuchBucket").with("BucketName", site))?;
    if !is_bucket_name(bucket, true) || account.is_empty() {
        return Err(err("InvalidBucketName").with("BucketName", bucket));
    }
    let mut t = parse_target(path, Some(bucket), true)?;
    t.account = Some(account.to_string());
    Ok(t)
}

fn is_protocol(t: Option<&str>) -> bool {
    t.is_none_or(|p| matches!(p, "http" | "https"))
}

/// Checks a `WebsiteConfiguration`. Errors: `MalformedXML`, `InvalidArgument`.
pub fn check(body: &[u8]) -> S3Result<Element> {
    let bad = || err("MalformedXML");
    let e = parse(body, "WebsiteConfiguration").map_err(|_| bad())?;
    if let Some(all) = e.child("RedirectAllRequestsTo") {
        let host = all.text_of("HostName").unwrap_or_default();
        if e.children.len() > 1 || host.is_empty() || !is_protocol(all.text_of("Protocol")) {
            return Err(bad());
        }
        return Ok(e);
    }
    let suffix = e.child("IndexDocument").and_then(|i| i.text_of("Suffix"));
    match suffix {
        Some(s) if !s.is_empty() && !s.contains('/') => {}
        Some(s) => return Err(invalid_argument("IndexDocument", s, "The IndexDocument Suffix is not well formed")),
        None => {
            return Err(invalid_argument(
                "IndexDocument",
                "null",
                "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty",
            ));
        }
    }
    if e.child("ErrorDocument").is_some_and(|d| d.text_of("Key").is_none_or(str::is_empty)) {
        return Err(bad());
    }
    let rules: Vec<&Element> = e.child("RoutingRules").into_iter().flat_map(|r| r.children("RoutingRule")).collect();
    if rules.len() > MAX_RULES {
        return Err(bad());
    }
    for r in rules {
        let to = r.child("Redirect").ok_or_else(bad)?;
        let code = to.text_of("HttpRedirectCode").is_none_or(|c| c.parse::<u16>().is_ok_and(|c| (301..400).contains(&c)));
        let both = to.child("ReplaceKeyWith").is_some() && to.child("ReplaceKeyPrefixWith").is_some();
        if to.children.is_empty() || !code || both || !is_protocol(to.text_of("Protocol")) {
            return Err(bad());
        }
    }
    Ok(e)
}

fn redirect(status: u16, location: &str) -> Resp {
    let mut r = respond(status, "text/html; charset=utf-8", "");
    set(r.headers_mut(), "location", location);
    r
}

fn here(cx: &Cx) -> String {
    cx.header("host").unwrap_or_default().to_string()
}

/// Where the first fitting rule leads. `status`: of the answer without rules; `None` before it is known.
fn routed(cx: &Cx, config: &Element, key: &str, status: Option<u16>) -> Option<Resp> {
    let rules = config.child("RoutingRules")?;
    for r in rules.children("RoutingRule") {
        let condition = r.child("Condition");
        let prefix = condition.and_then(|c| c.text_of("KeyPrefixEquals"));
        let code = condition.and_then(|c| c.text_of("HttpErrorCodeReturnedEquals")).and_then(|t| t.parse::<u16>().ok());
        let fits = prefix.is_none_or(|p| key.starts_with(p)) && code == status.filter(|_| code.is_some());
        // A rule about errors waits for one.
        if !fits || (code.is_none() && status.is_some()) {
            continue;
        }
        let to = r.child("Redirect")?;
        let new_key = match (to.text_of("ReplaceKeyWith"), to.text_of("ReplaceKeyPrefixWith")) {
            (Some(k), _) => k.to_string(),
            (None, Some(p)) => format!("{p}{}", key.strip_prefix(prefix.unwrap_or_default()).unwrap_or(key)),
            (None, None) => key.to_string(),
        };
        let host = to.text_of("HostName").map_or_else(|| here(cx), str::to_string);
        let protocol = to.text_of("Protocol").unwrap_or("http");
        let code = to.text_of("HttpRedirectCode").and_then(|c| c.parse().ok()).unwrap_or(301);
        return Some(redirect(code, &format!("{protocol}://{host}/{}", caelum_object::env::quote(&new_key))));
    }
    None
}

fn page(e: &S3Error, is_head: bool) -> Resp {
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (title, _) = caelum_object::http::reason(e.status);
    let body = format!(
        "<html>\n<head><title>{0} {title}</title></head>\n<body>\n<h1>{0} {title}</h1>\n<ul>\n<li>Code: {1}</li>\n<li>Message: {2}</li>\n</ul>\n</body>\n</html>\n",
        e.status,
        escape(e.code),
        escape(&e.message)
    );
    respond(e.status, "text/html; charset=utf-8", if is_head { String::new() } else { body })
}

/// Answers a visitor.
pub async fn serve(cx: &mut Cx) -> Resp {
    let is_head = cx.method == Method::HEAD;
    if !matches!(cx.method, Method::GET | Method::HEAD) {
        return page(&err("MethodNotAllowed"), is_head);
    }
    match site(cx).await {
        Ok(r) => r,
        Err(e) => page(&e, is_head),
    }
}

async fn site(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.bucket_state().await?;
    let stored = state.setting(Setting::Website).ok_or_else(|| err("NoSuchWebsiteConfiguration").with("BucketName", cx.bucket()))?;
    let config = parse(stored.as_bytes(), "WebsiteConfiguration").map_err(|_| err("InternalError"))?;
    let key = cx.key().to_string();
    if let Some(all) = config.child("RedirectAllRequestsTo") {
        let (host, protocol) = (all.text_of("HostName").unwrap_or_default(), all.text_of("Protocol").unwrap_or("http"));
        return Ok(redirect(301, &format!("{protocol}://{host}/{}", caelum_object::env::quote(&key))));
    }
    if let Some(r) = routed(cx, &config, &key, None) {
        return Ok(r);
    }
    let suffix = config.child("IndexDocument").and_then(|i| i.text_of("Suffix")).unwrap_or("index.html").to_string();
    let wanted = if key.is_empty() || key.ends_with('/') { format!("{key}{suffix}") } else { key.clone() };
    let e = match fetch(cx, &wanted).await {
        Ok(r) => return Ok(moved(r)),
        Err(e) => e,
    };
    // A directory without its slash.
    if e.status == 404 && !key.is_empty() && !key.ends_with('/') && fetch(cx, &format!("{key}/{suffix}")).await.is_ok() {
        return Ok(redirect(302, &format!("/{}/", caelum_object::env::quote(&key))));
    }
    if let Some(r) = routed(cx, &config, &key, Some(e.status)) {
        return Ok(r);
    }
    if (400..500).contains(&e.status)
        && let Some(document) = config.child("ErrorDocument").and_then(|d| d.text_of("Key")).map(str::to_string)
        && let Ok(mut r) = fetch(cx, &document).await
    {
        *r.status_mut() = http::StatusCode::from_u16(e.status).unwrap_or(http::StatusCode::NOT_FOUND);
        return Ok(r);
    }
    Err(e)
}

/// An object may lead elsewhere by itself.
fn moved(r: Resp) -> Resp {
    match text(r.headers(), "x-amz-website-redirect-location") {
        Some(to) => redirect(301, to),
        None => r,
    }
}

async fn fetch(cx: &mut Cx, key: &str) -> S3Result<Resp> {
    cx.target.key = Some(key.to_string());
    ops::read(cx).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let code = |t: &str| check(format!("<WebsiteConfiguration>{t}</WebsiteConfiguration>").as_bytes()).err().map(|e| e.code);
        assert_eq!(code("<IndexDocument><Suffix>index.html</Suffix></IndexDocument>"), None);
        assert_eq!(code("<IndexDocument><Suffix>a/b</Suffix></IndexDocument>"), Some("InvalidArgument"));
        assert_eq!(code(""), Some("InvalidArgument"));
        assert_eq!(code("<RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>"), None);
        assert_eq!(
            code("<RedirectAllRequestsTo><HostName>h</HostName><Protocol>ftp</Protocol></RedirectAllRequestsTo>"),
            Some("MalformedXML")
        );
        let rule = |r: &str| {
            code(&format!(
                "<IndexDocument><Suffix>i</Suffix></IndexDocument><RoutingRules><RoutingRule><Redirect>{r}</Redirect></RoutingRule></RoutingRules>"
            ))
        };
        assert_eq!(rule("<HttpRedirectCode>200</HttpRedirectCode>"), Some("MalformedXML"));
        assert_eq!(rule("<ReplaceKeyWith>a</ReplaceKeyWith>"), None);
    }

    #[test]
    fn hosts() {
        let t = target("my.site.AUTH_p1", "/a/").unwrap();
        assert_eq!((t.bucket.as_deref(), t.account.as_deref(), t.key.as_deref()), (Some("my.site"), Some("AUTH_p1"), Some("a/")));
        assert!(target("nodots", "/").is_err());
    }
}
