//! A container as a web site: index pages, error pages and listings for browsers, as the container's metadata says
//! (`X-Container-Meta-Web-Index`, `-Error`, `-Listings`, `-Listings-CSS`, `-Listings-Label`, `-Directory-Type`).
//!
//! It works for anonymous readers, for temporary URLs and for those who ask for it with `X-Web-Mode: true`.

mod page;

use super::common::{SLASH, facts, quote_set};
use super::tempurl::{CALLER, Given};
use crate::env::{Environ, Req, Resp, SwiftPath, quote};
use crate::http::{Origin, error, is_success, is_true, is_true_text, read_all, respond, set, text};
use crate::proxy::{ContainerInfo, InfoSource};
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::Value;
use std::sync::Arc;

/// Largest listing in bytes.
const MAX_LISTING: usize = 64 << 20;

/// The layer; it stands behind the authentication.
#[derive(Clone)]
pub struct StaticWeb {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    /// Scheme and host of redirects (`url_base`), in place of those that the client used.
    url_base: Option<String>,
}

/// What a container's metadata says about its site; empty: nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Site {
    index: String,
    error: String,
    listings: String,
    label: String,
    css: String,
    directory_type: String,
}

impl Site {
    fn of(info: &ContainerInfo) -> Self {
        if !info.exists() {
            return Self::default();
        }
        let get = |name| info.meta(name).unwrap_or_default().trim().to_string();
        Self {
            index: get("web-index"),
            error: get("web-error"),
            listings: get("web-listings"),
            label: get("web-listings-label"),
            css: get("web-listings-css"),
            directory_type: get("web-directory-type"),
        }
    }

    fn is_off(&self) -> bool {
        self.listings.is_empty() && self.index.is_empty()
    }
}

/// One request under way.
struct Visit {
    layer: StaticWeb,
    method: Method,
    headers: HeaderMap,
    extensions: http::Extensions,
    query: Option<String>,
    environ: Environ,
    origin: Origin,
    given: Given,
    path: SwiftPath,
    container: String,
    /// As the client sent it, decoded.
    text: String,
    site: Site,
}

fn found(resp: &Resp) -> bool {
    is_success(resp) || resp.status().is_redirection()
}

impl StaticWeb {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, url_base: Option<&str>) -> Self {
        let base = url_base.and_then(|b| {
            let (scheme, rest) = b.split_once("://")?;
            Some(format!("{scheme}://{}", rest.split('/').next()?))
        });
        Self { next, info, url_base: base }
    }

    async fn handle(self, req: Req) -> Resp {
        let environ = facts(&req);
        let stranger = environ.caller.as_ref().is_none_or(|c| c.user_name == CALLER);
        let visitor = stranger || is_true(req.headers(), "x-web-mode");
        let reads = matches!(*req.method(), Method::GET | Method::HEAD);
        let path = SwiftPath::parse(req.uri().path()).filter(|_| reads && visitor && environ.authorizer.is_some());
        let Some(path) = path else { return self.next.call(req).await };
        let Some(container) = path.container.clone() else { return self.next.call(req).await };
        let is_object = path.object.is_some();
        let info = self.info.container_info(&environ.preauthorized("SW"), &path.account, &container).await;
        let origin = Origin::of(&req);
        let given = Given::of(&req);
        let text = percent_encoding::percent_decode_str(req.uri().path()).decode_utf8_lossy().into_owned();
        let (parts, body) = req.into_parts();
        let visit = Visit {
            layer: self,
            method: parts.method,
            headers: parts.headers,
            extensions: parts.extensions,
            query: parts.uri.query().map(str::to_string),
            environ,
            origin,
            given,
            path,
            container,
            text,
            site: Site::of(&info),
        };
        let resp = if is_object { visit.object().await } else { visit.container(&info, body).await };
        if visit.method == Method::HEAD { resp.map(|_| caelum_rest::empty()) } else { resp }
    }
}

impl Visit {
    /// The client's request again, for another path; with its conditions, ranges and whose it is.
    async fn again(&self, path: &str, source: &'static str, body: Body) -> Resp {
        let target = match &self.query {
            Some(q) => format!("{}?{q}", quote(path)),
            None => quote(path),
        };
        let mut req = Request::new(body);
        let Ok(uri) = target.parse() else { return error(404) };
        *req.uri_mut() = uri;
        *req.method_mut() = self.method.clone();
        *req.headers_mut() = self.headers.clone();
        *req.extensions_mut() = self.extensions.clone();
        if !source.is_empty() {
            let agent = text(&self.headers, "user-agent").unwrap_or_default();
            set(req.headers_mut(), "user-agent", format!("{agent} StaticWeb").trim());
            req.extensions_mut().insert(Environ { source, ..self.environ.clone() });
        }
        self.layer.next.call(req).await
    }

    fn root(&self) -> String {
        format!("/{}/{}/{}", self.path.version, quote(&self.path.account), quote(&self.container))
    }

    /// `resp`, in the words of the site's own error page if it has one: `<status><web-error>`.
    async fn with_error_page(&self, resp: Resp) -> Resp {
        if self.site.error.is_empty() {
            return resp;
        }
        let status = resp.status();
        let target = format!("{}/{}{}", self.root(), status.as_u16(), quote(&self.site.error));
        let mut page = self.layer.next.call(self.origin.request(Method::GET, &target, "SW", "StaticWeb")).await;
        if !is_success(&page) {
            return resp;
        }
        *page.status_mut() = status;
        page
    }

    fn redirect(&self) -> Resp {
        let mut resp = error(301);
        let place = format!("{}{}/", self.layer.url_base.as_deref().unwrap_or_default(), quote(&self.text));
        set(resp.headers_mut(), "location", place);
        resp
    }

    async fn container(&self, info: &ContainerInfo, body: Body) -> Resp {
        if let Some(authorizer) = &self.environ.authorizer
            && let Some(refusal) = authorizer.authorize(&self.method, &quote(&self.text), &self.environ, info.read_acl.as_deref()).await
        {
            return self.with_error_page(refusal).await;
        }
        if self.site.is_off() {
            return if is_true(&self.headers, "x-web-mode") { error(404) } else { self.again(&self.text, "", body).await };
        }
        if !self.text.ends_with('/') {
            return self.redirect();
        }
        if self.site.index.is_empty() {
            return self.listing("").await;
        }
        let resp = self.again(&format!("{}{}", self.text, self.site.index), "SW", caelum_rest::empty()).await;
        if resp.status() == StatusCode::NOT_FOUND {
            self.listing("").await
        } else if found(&resp) {
            resp
        } else {
            self.with_error_page(resp).await
        }
    }

    /// An object of the directory's type with nothing in it stands for a folder.
    fn is_marker(&self, resp: &Resp) -> bool {
        let kind = if self.site.directory_type.is_empty() { "application/directory" } else { &self.site.directory_type };
        let length = text(resp.headers(), "content-length").and_then(|l| l.parse::<u64>().ok()).unwrap_or(0);
        text(resp.headers(), "content-type") == Some(kind) && length <= 1
    }

    async fn object(&self) -> Resp {
        let resp = self.again(&self.text, "SW", caelum_rest::empty()).await;
        let marker = found(&resp) && self.is_marker(&resp);
        if !marker && resp.status() != StatusCode::NOT_FOUND || self.site.is_off() {
            return resp;
        }
        let open = self.text.ends_with('/');
        if !self.site.index.is_empty() {
            let path = format!("{}{}{}", self.text, if open { "" } else { "/" }, self.site.index);
            let resp = self.again(&path, "SW", caelum_rest::empty()).await;
            if found(&resp) {
                return if open { resp } else { self.redirect() };
            }
            if resp.status() != StatusCode::NOT_FOUND {
                return self.with_error_page(resp).await;
            }
        }
        let object = self.path.object.as_deref().unwrap_or_default();
        if open {
            return self.listing(object).await;
        }
        let folder = format!("limit=1&delimiter=/&prefix={}", quote_set(&format!("{object}/"), SLASH));
        match self.rows(&folder).await {
            Ok(rows) if !rows.is_empty() => self.redirect(),
            _ => self.with_error_page(error(404)).await,
        }
    }

    /// A page of the container's listing. The caller's rights are asked for. Errors: the answer, when it is none.
    async fn rows(&self, query: &str) -> Result<Vec<Value>, Resp> {
        let target = format!("{}?format=json&{query}", self.root());
        let resp = self.layer.next.call(self.origin.request(Method::GET, &target, "SW", "StaticWeb")).await;
        if !is_success(&resp) {
            return Err(resp);
        }
        let body = read_all(resp.into_body(), MAX_LISTING).await.ok_or_else(|| error(503))?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn listing(&self, prefix: &str) -> Resp {
        let label = match self.site.label.as_str() {
            "" => self.text.clone(),
            label => format!("{label}/{}", self.text.splitn(5, '/').nth(4).unwrap_or_default()),
        };
        if !is_true_text(&self.site.listings) {
            let page = page::disabled(&self.site, &label, prefix);
            return self.with_error_page(respond(404, "text/html; charset=UTF-8", page)).await;
        }
        let query = match prefix {
            "" => "delimiter=/".to_string(),
            _ => format!("delimiter=/&prefix={}", quote_set(prefix, SLASH)),
        };
        let rows = match self.rows(&query).await {
            Ok(rows) => rows,
            Err(resp) => return self.with_error_page(resp).await,
        };
        if !prefix.is_empty() && rows.is_empty() {
            return self.with_error_page(error(404)).await;
        }
        let (links, shown) = self.temp_url();
        let parent = prefix.len() > shown.len();
        let page = page::listing(&self.site, &label, prefix, &rows, &links, parent);
        let mut resp = respond(200, "text/html; charset=UTF-8", page);
        set(resp.headers_mut(), "x-backend-content-generator", "staticweb");
        resp
    }

    /// What is put behind links so that the visitor's temporary URL goes on to hold, and the prefix that it
    /// reaches to.
    fn temp_url(&self) -> (String, &str) {
        let by_url = self.environ.caller.as_ref().is_some_and(|c| c.user_name == CALLER);
        let Some(prefix) = self.given.prefix.as_deref().filter(|_| by_url) else { return (String::new(), "") };
        let quoted = |t: &Option<String>| quote_set(t.as_deref().unwrap_or_default(), SLASH);
        let mut parts = vec![
            format!("temp_url_prefix={}", quote_set(prefix, SLASH)),
            format!("temp_url_expires={}", quoted(&self.given.expires)),
            format!("temp_url_sig={}", quoted(&self.given.sig)),
        ];
        if self.given.ip_range.as_deref().is_some_and(|r| !r.is_empty()) {
            parts.push(format!("temp_url_ip_range={}", quoted(&self.given.ip_range)));
        }
        if self.given.inline {
            parts.push("inline".into());
        }
        (format!("?{}", parts.join("&amp;")), prefix)
    }
}

impl HttpService for StaticWeb {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests;
