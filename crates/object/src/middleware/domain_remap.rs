//! Accounts and containers in the host's name: `container.AUTH-account.example.com/object` is
//! `/v1/AUTH_account/container/object`.

use super::common::{NO_SLASH, quote_set};
use super::hosts::{locations, split_origin, split_port, storage_domains};
use crate::env::{Req, Resp, quote};
use crate::http::{error, error_plain, set_path_and_query, text};
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::Arc;

/// The layer's options, named as in `proxy-server.conf`.
#[derive(Clone, Debug)]
pub struct DomainRemapOptions {
    /// Domains whose subdomains are accounts; comma-separated.
    pub storage_domain: String,
    /// First part of the path that is made.
    pub path_root: String,
    /// Prefixes of accounts; host names are not told apart by case, so their spelling is put right by these.
    pub reseller_prefixes: Vec<String>,
    /// For accounts without a known prefix; `None`: they are not looked at.
    pub default_reseller_prefix: Option<String>,
    /// Clients send `/v1` in front all the same.
    pub mangle_client_paths: bool,
}

impl Default for DomainRemapOptions {
    fn default() -> Self {
        Self {
            storage_domain: "example.com".into(),
            path_root: "v1".into(),
            reseller_prefixes: vec!["AUTH".into()],
            default_reseller_prefix: None,
            mangle_client_paths: false,
        }
    }
}

impl DomainRemapOptions {
    /// What `/info` tells under `domain_remap`.
    pub fn info(&self) -> serde_json::Value {
        serde_json::json!({"default_reseller_prefix": self.default_reseller_prefix})
    }

    /// The account that a label of the host's name means; `None`: no account of ours.
    fn account(&self, label: &str) -> Option<String> {
        if self.reseller_prefixes.is_empty() {
            return Some(label.to_string());
        }
        let label = if label.contains('_') { label.to_string() } else { label.replacen('-', "_", 1) };
        let given = label.split('_').next().unwrap_or_default();
        match self.reseller_prefixes.iter().find(|p| p.eq_ignore_ascii_case(given)) {
            Some(prefix) => Some(format!("{prefix}{}", &label[prefix.len()..])),
            None => self.default_reseller_prefix.as_ref().map(|p| format!("{p}_{label}")),
        }
    }
}

/// The layer.
#[derive(Clone)]
pub struct DomainRemap {
    next: Arc<dyn HttpService>,
    options: Arc<DomainRemapOptions>,
    domains: Arc<Vec<String>>,
}

impl DomainRemap {
    pub fn new(next: Arc<dyn HttpService>, options: DomainRemapOptions) -> Self {
        let domains = Arc::new(storage_domains(&options.storage_domain));
        Self { next, options: Arc::new(options), domains }
    }

    async fn handle(self, mut req: Req) -> Resp {
        let host = text(req.headers(), "host").unwrap_or_default().to_string();
        let (domain, _port) = split_port(&host);
        let Some(ours) = self.domains.iter().find(|d| domain.ends_with(d.as_str())) else { return self.next.call(req).await };
        let labels: Vec<&str> = domain[..domain.len() - ours.len()].trim_matches('.').split('.').collect();
        let (container, account) = match labels[..] {
            [container, account] => (Some(container), account),
            [account] => (None, account),
            _ => return error_plain(400, "Bad domain in host header"),
        };
        let Some(account) = self.options.account(account) else { return self.next.call(req).await };
        let requested = req.uri().path().to_string();
        let root = format!("{}/", self.options.path_root.trim_matches('/'));
        let mut rest = requested.strip_prefix('/').unwrap_or(&requested);
        if self.options.mangle_client_paths && format!("{rest}/").starts_with(&root) {
            rest = rest.get(root.len()..).unwrap_or_default();
        }
        let mut path = format!("/{root}{}", quote_set(&account, NO_SLASH));
        if let Some(container) = container {
            path.push('/');
            path.push_str(&quote_set(container, NO_SLASH));
        }
        path.push('/');
        path.push_str(rest);
        let query = req.uri().query().unwrap_or_default().to_string();
        if !set_path_and_query(&mut req, &path, &query) {
            return error(414);
        }
        let mut resp = self.next.call(req).await;
        // Answers quote paths in their own way.
        let plain = |p: &str| percent_encoding::percent_decode_str(p).decode_utf8_lossy().into_owned();
        let (made, asked) = (quote(&plain(&path)), quote(&plain(&requested)));
        locations(&mut resp, |location| {
            let (origin, rest) = split_origin(location);
            Some(format!("{origin}{asked}{}", rest.strip_prefix(made.as_str())?))
        });
        resp
    }
}

impl HttpService for DomainRemap {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeStore, send};

    async fn seen(options: DomainRemapOptions, host: &str, target: &str) -> String {
        let store = FakeStore::new();
        let app: Arc<dyn HttpService> = Arc::new(DomainRemap::new(store.service(), options));
        send(&app, "GET", target, &[("host", host)], "").await;
        store.take_log().pop().unwrap_or_default()
    }

    #[tokio::test]
    async fn hosts_become_paths() {
        let plain = DomainRemapOptions::default;
        let with = |p: &str| DomainRemapOptions { default_reseller_prefix: Some(p.into()), ..plain() };
        let mangle = || DomainRemapOptions { mangle_client_paths: true, ..plain() };
        let several = || DomainRemapOptions { storage_domain: "example.com, .other.net".into(), ..plain() };
        for (options, host, target, path) in [
            (plain(), "AUTH_a.example.com", "/c/o?x=y", "/v1/AUTH_a/c/o?x=y"),
            (plain(), "auth-a.example.com:8080", "/", "/v1/AUTH_a/"),
            (plain(), "c.auth_a.example.com", "/o/p%20q", "/v1/AUTH_a/c/o/p%20q"),
            (plain(), "c.auth-a-b.example.com", "/", "/v1/AUTH_a-b/c/"),
            (plain(), "other.example.com", "/c", "/c"),
            (with("TEST"), "other.example.com", "/c", "/v1/TEST_other/c"),
            (plain(), "example.com", "/v1/a", "/v1/a"),
            (plain(), "example.org", "/v1/a", "/v1/a"),
            (plain(), "AUTH_a.notexample.com", "/v1/a", "/v1/a"),
            (mangle(), "c.AUTH_a.example.com", "/v1/o", "/v1/AUTH_a/c/o"),
            (mangle(), "c.AUTH_a.example.com", "/v1", "/v1/AUTH_a/c/"),
            (plain(), "c.AUTH_a.example.com", "/v1/o", "/v1/AUTH_a/c/v1/o"),
            (several(), "AUTH_a.other.net", "/c", "/v1/AUTH_a/c"),
        ] {
            assert_eq!(seen(options, host, target).await, format!("GET {path}"), "{host} {target}");
        }
        let app: Arc<dyn HttpService> = Arc::new(DomainRemap::new(FakeStore::new().service(), plain()));
        let (status, _, body) = send(&app, "GET", "/", &[("host", "x.c.AUTH_a.example.com")], "").await;
        assert_eq!((status, body.as_str()), (400, "Bad domain in host header"));
    }

    struct Moved(&'static str);

    impl HttpService for Moved {
        fn call(&self, _: Request<Body>) -> BoxFuture<'static, Response<Body>> {
            let mut resp = error(301);
            crate::http::set(resp.headers_mut(), "location", self.0);
            Box::pin(async move { resp })
        }
    }

    #[tokio::test]
    async fn answers_name_what_was_asked_for() {
        for (location, shown) in [
            ("http://c.AUTH_a.example.com/v1/AUTH_a/c/x%20y/", "http://c.AUTH_a.example.com/x%20y/"),
            ("/v1/AUTH_a/c/x%20y/", "/x%20y/"),
            ("/v1/AUTH_b/c/x/", "/v1/AUTH_b/c/x/"),
            ("ftp://x/v1/AUTH_a/c/x%20y/", "ftp://x/v1/AUTH_a/c/x%20y/"),
        ] {
            let app: Arc<dyn HttpService> = Arc::new(DomainRemap::new(Arc::new(Moved(location)), DomainRemapOptions::default()));
            let (_, headers, _) = send(&app, "GET", "/x%20y", &[("host", "c.AUTH_a.example.com")], "").await;
            assert_eq!(headers["location"], shown);
        }
    }
}
