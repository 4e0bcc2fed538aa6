//! `/v1/account/container`.

use super::acl::clean_acl;
use super::backend::{Core, NodeIter, primaries};
use super::getter::{Getter, Kind, Wanted};
use super::quorum::ToNodes;
use super::request::Rq;
use crate::env::Resp;
use crate::http::{error, error_html, error_plain, is_true, set, text};
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::sync::Arc;

/// Headers that container servers keep as they are.
const PASS: &[&str] = &["x-container-read", "x-container-write", "x-container-sync-key", "x-container-sync-to", "x-versions-location"];

/// Parameters of listings that must be UTF-8.
const LISTING_PARAMS: &[&str] =
    &["marker", "end_marker", "prefix", "delimiter", "path", "format", "reverse", "states", "includes", "limit"];

fn not_utf8(name: &str) -> Resp {
    error_plain(400, format!("\"{name}\" parameter not valid UTF-8"))
}

/// Refuses a listing one of whose parameters is not text.
pub(super) fn check_text(query: &str) -> Option<Resp> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| LISTING_PARAMS.contains(name));
    let bad = pairs.find(|(_, value)| percent_encoding::percent_decode_str(value).decode_utf8().is_err());
    bad.map(|(name, _)| not_utf8(name))
}

impl Core {
    pub(crate) async fn container(self: Arc<Self>, mut rq: Rq) -> Resp {
        match rq.method().as_str() {
            "GET" => match self.check_listing(&rq) {
                Some(refusal) => refusal,
                None => self.container_read(rq).await,
            },
            "HEAD" => self.container_read(rq).await,
            method => {
                let private = method == "UPDATE";
                if let Some(refusal) = rq.authorize(None).await {
                    return refusal;
                }
                match method {
                    _ if private => self.container_update(rq).await,
                    "PUT" => self.container_put(&mut rq).await,
                    "POST" => self.container_post(&mut rq).await,
                    _ => self.container_delete(rq).await,
                }
            }
        }
    }

    fn check_listing(&self, rq: &Rq) -> Option<Resp> {
        let query = rq.parts.uri.query().unwrap_or_default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !LISTING_PARAMS.contains(&name) {
                continue;
            }
            let Ok(value) = percent_encoding::percent_decode_str(value).decode_utf8() else { return Some(not_utf8(name)) };
            let limit = self.options.limits.container_listing_limit;
            let digits = name == "limit" && !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            if digits && value.parse::<usize>().map_or(true, |n| n > limit) {
                return Some(error_html(412, format!("Maximum limit is {limit}")));
            }
        }
        None
    }

    /// The answer of a container server to a GET or HEAD.
    pub(crate) async fn container_from_servers(self: &Arc<Self>, rq: &Rq, query: &str, headers: HeaderMap) -> Resp {
        let ring = self.rings.container();
        let part = ring.partition(&self.swift.hash.container(&rq.account, rq.container()));
        let entity = if query.is_empty() { rq.entity.clone() } else { format!("{}?{query}", rq.entity) };
        let wanted = Wanted { kind: Kind::Container, method: rq.method().clone(), part, entity, headers, policy: None };
        Getter::new(self, &ring, wanted).respond().await
    }

    async fn container_read(self: Arc<Self>, rq: Rq) -> Resp {
        let own = rq.account.starts_with(&self.options.auto_create_account_prefix);
        if !own {
            let account = self.account_info(&rq.environ, &rq.account).await;
            if !(account.exists() && account.really_exists) {
                if let Some(refusal) = rq.authorize(None).await {
                    return refusal;
                }
                return error(if account.status == 503 { 503 } else { 404 });
            }
        }
        let moment = self.infos.moment();
        let mut resp = if *rq.method() == Method::GET { self.container_listing(&rq).await } else { self.container_head(&rq).await };
        if !is_true(resp.headers(), "x-backend-cached-results") {
            let recheck = self.options.recheck_container_existence.as_secs().to_string();
            let status = resp.status().as_u16();
            self.learn_container(&rq.environ, &rq.account, rq.container(), moment, status, resp.headers()).await;
            set(resp.headers_mut(), "x-backend-recheck-container-existence", recheck);
        }
        let acl = text(resp.headers(), "x-container-read").map(str::to_string);
        if let Some(refusal) = rq.authorize(acl.as_deref()).await {
            return refusal;
        }
        if !rq.environ.is_owner {
            self.hide_owner_headers(resp.headers_mut());
        }
        if rq.is_reseller() {
            let sharding = is_true(resp.headers(), "x-container-sysmeta-sharding");
            set(resp.headers_mut(), "x-container-sharding", if sharding { "True" } else { "False" });
        }
        resp
    }

    async fn container_head(self: &Arc<Self>, rq: &Rq) -> Resp {
        let query = rq.parts.uri.query().unwrap_or_default();
        self.container_from_servers(rq, query, rq.forwarded_headers()).await
    }

    /// Canonical ACLs, no headers that only owners may set.
    fn clean_container_headers(&self, rq: &mut Rq) -> Option<Resp> {
        for name in ["x-container-read", "x-container-write"] {
            let Some(value) = text(rq.headers(), name) else { continue };
            match clean_acl(name, value) {
                Ok(clean) => set(&mut rq.parts.headers, name, clean),
                Err(why) => return Some(error_html(400, why)),
            }
        }
        if let Some(refusal) = super::constraints::check_metadata(rq.headers(), "container", &self.options.limits) {
            return Some(refusal);
        }
        if !rq.environ.is_owner {
            let hidden = &self.options.swift_owner_headers;
            for name in hidden {
                rq.parts.headers.remove(name.as_str());
                if let Some(rest) = name.strip_prefix("x-") {
                    rq.parts.headers.remove(format!("x-remove-{rest}"));
                }
            }
        }
        if rq.is_reseller() && rq.headers().contains_key("x-container-sharding") {
            let on = is_true(rq.headers(), "x-container-sharding");
            set(&mut rq.parts.headers, "x-container-sysmeta-sharding", if on { "True" } else { "False" });
        }
        None
    }

    /// The policy that a PUT names. Errors: 400.
    fn wanted_policy(&self, rq: &Rq) -> Result<Option<u32>, Resp> {
        let Some(name) = text(rq.headers(), "x-storage-policy").filter(|n| !n.is_empty()) else { return Ok(None) };
        match self.swift.policies.by_name(name) {
            None => Err(error_plain(400, format!("Invalid X-Storage-Policy '{name}'"))),
            Some(p) if p.is_deprecated => Err(error_html(400, format!("Storage Policy '{}' is deprecated", p.name))),
            Some(p) => Ok(Some(p.index)),
        }
    }

    async fn container_put(self: Arc<Self>, rq: &mut Rq) -> Resp {
        if let Some(refusal) = self.clean_container_headers(rq) {
            return refusal;
        }
        let policy = match self.wanted_policy(rq) {
            Ok(p) => p,
            Err(refusal) => return refusal,
        };
        let limit = self.name_limit(&rq.account, self.options.limits.max_container_name_length);
        let length = rq.container().chars().count();
        if length > limit {
            return error_html(400, format!("Container name length of {length} longer than {limit}"));
        }
        let mut account = self.account_info(&rq.environ, &rq.account).await;
        if account.status == 503 {
            return error(503);
        }
        if !account.really_exists && self.options.account_autocreate {
            if !self.autocreate_account(&rq.environ, rq.headers(), &rq.account).await {
                return error(503);
            }
            account = self.account_info(&rq.environ, &rq.account).await;
        }
        if !(account.exists() && account.really_exists) {
            return error(404);
        }
        let most = self.options.max_containers_per_account;
        if most > 0 && account.container_count >= most && !self.options.max_containers_whitelist.contains(&rq.account) {
            let there = self.container_info(&rq.environ, &rq.account, rq.container()).await;
            if !there.exists() {
                return error_html(403, format!("Reached container limit of {most}"));
            }
        }
        let headers = self.with_account_updates(rq, policy);
        self.to_container(rq, Method::PUT, headers, Bytes::new()).await
    }

    async fn container_post(self: Arc<Self>, rq: &mut Rq) -> Resp {
        if let Some(refusal) = self.clean_container_headers(rq) {
            return refusal;
        }
        if let Some(refusal) = self.account_missing(rq).await {
            return refusal;
        }
        let n = self.container_primaries(rq);
        let headers = rq.backend_headers("container", true, PASS);
        self.to_container(rq, Method::POST, vec![headers; n], Bytes::new()).await
    }

    async fn container_delete(self: Arc<Self>, rq: Rq) -> Resp {
        if let Some(refusal) = self.account_missing(&rq).await {
            return refusal;
        }
        let headers = self.with_account_updates(&rq, None);
        let resp = self.to_container(&rq, Method::DELETE, headers, Bytes::new()).await;
        // No server had it.
        if resp.status().as_u16() == 202 { error(404) } else { resp }
    }

    /// Rows for a container's database, from the program's own parts.
    async fn container_update(self: Arc<Self>, mut rq: Rq) -> Resp {
        let Some(policy) = text(rq.headers(), "x-backend-storage-policy-index").and_then(|i| i.parse().ok()) else {
            return error(400);
        };
        let body = rq.take_body();
        let Some(body) = crate::http::read_all(body, 64 << 20).await else { return error(400) };
        let n = self.container_primaries(&rq);
        let mut headers = rq.backend_headers("container", true, PASS);
        set(&mut headers, "x-backend-storage-policy-index", u32::to_string(&policy));
        set(&mut headers, "content-length", body.len().to_string());
        let method = rq.method().clone();
        self.to_container(&rq, method, vec![headers; n], body).await
    }

    async fn account_missing(self: &Arc<Self>, rq: &Rq) -> Option<Resp> {
        let account = self.account_info(&rq.environ, &rq.account).await;
        match account.status {
            503 => Some(error(503)),
            _ if account.exists() && account.really_exists => None,
            _ => Some(error(404)),
        }
    }

    fn container_primaries(&self, rq: &Rq) -> usize {
        let ring = self.rings.container();
        ring.primaries(ring.partition(&self.swift.hash.container(&rq.account, rq.container()))).len()
    }

    /// One set of headers for each container server, which together name all account servers to tell.
    fn with_account_updates(&self, rq: &Rq, policy: Option<u32>) -> Vec<HeaderMap> {
        let mut one = rq.backend_headers("container", true, PASS);
        match policy {
            Some(index) => set(&mut one, "x-backend-storage-policy-index", index.to_string()),
            None => {
                let default = self.swift.policies.default_policy().index;
                set(&mut one, "x-backend-storage-policy-default", default.to_string());
            }
        }
        let n = self.container_primaries(rq);
        let mut all = vec![one; n];
        if n == 0 {
            return all;
        }
        let ring = self.rings.account();
        let part = ring.partition(&self.swift.hash.account(&rq.account));
        for (i, node) in primaries(&ring, part).iter().enumerate() {
            let (headers, d) = (&mut all[i % n], node.dev());
            set(headers, "x-account-partition", part.to_string());
            append(headers, "x-account-host", &format!("{}:{}", d.ip, d.port));
            append(headers, "x-account-device", &d.device);
        }
        all
    }

    async fn to_container(self: &Arc<Self>, rq: &Rq, method: Method, headers: Vec<HeaderMap>, body: Bytes) -> Resp {
        let ring = self.rings.container();
        let part = ring.partition(&self.swift.hash.container(&rq.account, rq.container()));
        let nodes = NodeIter::new(self, &ring, part, self.options.policy(None));
        let n = nodes.n_primaries;
        let what = format!("Container {method}");
        let request = ToNodes { core: self.clone(), method, part, entity: rq.entity.clone(), headers, body, digest: None };
        let forget = || self.infos.forget(&rq.account, Some(rq.container()));
        forget().await;
        let resp = request.ask(nodes, n, &[], &what).await;
        forget().await;
        resp
    }
}

/// Adds to a comma-separated header.
pub(crate) fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    let joined = text(headers, name).map_or_else(|| value.to_string(), |old| format!("{old},{value}"));
    set(headers, name, joined);
}
