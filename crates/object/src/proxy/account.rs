//! `/v1/account`.

use super::backend::{Core, NodeIter, is_success};
use super::getter::{Getter, Kind, Wanted};
use super::quorum::ToNodes;
use super::request::Rq;
use crate::env::{Environ, Resp, quote};
use crate::http::{Params, error, error_html, respond, set};
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::sync::Arc;

const ACL: &str = "x-account-sysmeta-core-access-control";

impl Core {
    pub(crate) async fn account(self: Arc<Self>, rq: Rq) -> Resp {
        if let Some(refusal) = rq.authorize(None).await {
            return refusal;
        }
        if let Some(refusal) = self.account_name_too_long(&rq.account) {
            return refusal;
        }
        let refusal = super::container::check_text(rq.parts.uri.query().unwrap_or_default()).filter(|_| *rq.method() == Method::GET);
        if let Some(refusal) = refusal {
            return refusal;
        }
        match *rq.method() {
            Method::GET | Method::HEAD => self.account_read(rq).await,
            Method::PUT | Method::POST => self.account_write(rq).await,
            _ => self.account_delete(rq).await,
        }
    }

    /// Names of the program's own accounts may be twice as long.
    pub(crate) fn name_limit(&self, account: &str, limit: usize) -> usize {
        if account.starts_with(&self.options.auto_create_account_prefix) { limit * 2 } else { limit }
    }

    fn account_name_too_long(&self, account: &str) -> Option<Resp> {
        let limit = self.name_limit(account, self.options.limits.max_account_name_length);
        let text = || format!("Account name length of {} longer than {limit}", account.chars().count());
        (account.chars().count() > limit).then(|| error_html(400, text()))
    }

    async fn account_read(self: Arc<Self>, rq: Rq) -> Resp {
        let ring = self.rings.account();
        let part = ring.partition(&self.swift.hash.account(&rq.account));
        let mut params = Params::parse(rq.parts.uri.query());
        params.set("format", "json");
        let wanted = Wanted {
            kind: Kind::Account,
            method: rq.method().clone(),
            part,
            entity: format!("{}?{}", rq.entity, params.encode()),
            headers: rq.forwarded_headers(),
            policy: None,
        };
        let moment = self.infos.moment();
        let mut resp = Getter::new(&self, &ring, wanted).respond().await;
        self.learn_account(&rq.account, moment, resp.status().as_u16(), resp.headers()).await;
        if resp.status().as_u16() == 404 {
            resp = match self.absent_account(resp.headers()) {
                200 => self.empty_account(&rq),
                410 => error(410),
                _ => resp,
            };
        }
        let recheck = self.options.recheck_account_existence.as_secs().to_string();
        set(resp.headers_mut(), "x-backend-recheck-account-existence", recheck);
        if rq.environ.is_owner {
            show_acl(resp.headers_mut());
        } else {
            self.hide_owner_headers(resp.headers_mut());
        }
        resp
    }

    pub(crate) fn hide_owner_headers(&self, headers: &mut HeaderMap) {
        for name in &self.options.swift_owner_headers {
            headers.remove(name.as_str());
        }
    }

    /// What an account looks like that will be made by the first write to it.
    fn empty_account(&self, rq: &Rq) -> Resp {
        let body = if *rq.method() == Method::HEAD { "" } else { "[]" };
        let mut resp = respond(200, "application/json; charset=utf-8", body);
        let headers = resp.headers_mut();
        for name in ["x-account-container-count", "x-account-object-count", "x-account-bytes-used"] {
            set(headers, name, "0");
        }
        let now = self.timestamp().normal();
        set(headers, "x-timestamp", &now);
        set(headers, "x-put-timestamp", now);
        set(headers, "x-backend-fake-account-listing", "yes");
        resp
    }

    async fn account_write(self: Arc<Self>, rq: Rq) -> Resp {
        if let Some(refusal) = super::constraints::check_metadata(rq.headers(), "account", &self.options.limits) {
            return refusal;
        }
        let headers = rq.backend_headers("account", true, &[]);
        let mut resp = self.to_account(&rq.account, rq.method().clone(), headers.clone()).await;
        if resp.status().as_u16() == 404 && *rq.method() == Method::POST && self.options.account_autocreate {
            self.autocreate_account(&rq.environ, rq.headers(), &rq.account).await;
            resp = self.to_account(&rq.account, Method::POST, headers).await;
        }
        show_acl(resp.headers_mut());
        resp
    }

    async fn account_delete(self: Arc<Self>, rq: Rq) -> Resp {
        // A query shows that something else was meant, for a layer that is not there.
        if rq.parts.uri.query().is_some_and(|q| !q.is_empty()) {
            return error(400);
        }
        let headers = rq.backend_headers("account", false, &[]);
        self.to_account(&rq.account, Method::DELETE, headers).await
    }

    async fn to_account(self: &Arc<Self>, account: &str, method: Method, headers: HeaderMap) -> Resp {
        let ring = self.rings.account();
        let part = ring.partition(&self.swift.hash.account(account));
        let nodes = NodeIter::new(self, &ring, part, self.options.policy(None));
        let n = nodes.n_primaries;
        let what = format!("Account {method}");
        let entity = format!("/{}", quote(account));
        let request = ToNodes { core: self.clone(), method, part, entity, headers: vec![headers; n], body: Bytes::new(), digest: None };
        self.infos.forget(account, None).await;
        let resp = request.ask(nodes, n, &[], &what).await;
        self.infos.forget(account, None).await;
        resp
    }

    /// Makes an account that is written to for the first time.
    pub(crate) async fn autocreate_account(self: &Arc<Self>, environ: &Environ, from: &HeaderMap, account: &str) -> bool {
        let mut headers = HeaderMap::new();
        set(&mut headers, "x-timestamp", self.timestamp().internal());
        set(&mut headers, "x-trans-id", &environ.trans_id);
        set(&mut headers, "x-openstack-request-id", &environ.trans_id);
        for (name, value) in from.iter().filter(|(n, _)| super::request::is_sysmeta(n.as_str(), "account")) {
            headers.insert(name.clone(), value.clone());
        }
        let made = self.to_account(account, Method::PUT, headers).await;
        if !is_success(made.status().as_u16()) {
            tracing::warn!(account, status = made.status().as_u16(), "could not make an account");
        }
        made.status().is_success()
    }
}

/// The account's ACL as its header. An empty one is none.
fn show_acl(headers: &mut HeaderMap) {
    let Some(value) = headers.remove(ACL) else { return };
    let parsed: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(value.as_bytes()).ok();
    if let Some(acl) = parsed.filter(|a| !a.is_empty()) {
        set(headers, "x-account-access-control", ascii_json(&serde_json::Value::Object(acl)));
    }
}

/// JSON without spaces, keys in order, in ASCII.
fn ascii_json(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
