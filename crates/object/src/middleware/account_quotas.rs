//! Limits of an account: bytes and objects, in all and per storage policy. Only resellers set them
//! (`X-Account-Quota-Bytes`, `X-Account-Quota-Count`, each with `-Policy-<name>`); everybody may see them.
//!
//! They are checked before an upload against the account's counters, which follow the containers' with some
//! delay, so parallel uploads can take an account a little over its quota. An upload of unknown length is
//! broken off where it goes beyond (upstream lets it pass).

use super::capped::capped;
use super::common::{facts, request_length};
use crate::env::{Authorizer, Environ, Req, Resp, SwiftPath};
use crate::http::{error, error_html, set, text};
use crate::proxy::{AccountInfo, InfoSource};
use async_trait::async_trait;
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::Policies;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use std::sync::Arc;

const EXCEEDED: &str = "Upload exceeds quota.";
const KINDS: [&str; 2] = ["quota-bytes", "quota-count"];

/// The layer; it stands behind the authentication.
#[derive(Clone)]
pub struct AccountQuotas {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    policies: Arc<Policies>,
}

/// Refuses what the caller might otherwise do; those who may not do it at all hear that first.
struct Exceeded {
    inner: Arc<dyn Authorizer>,
    text: &'static str,
}

#[async_trait]
impl Authorizer for Exceeded {
    async fn authorize(&self, method: &Method, path: &str, environ: &Environ, acl: Option<&str>) -> Option<Resp> {
        match self.inner.authorize(method, path, environ, acl).await {
            Some(refusal) => Some(refusal),
            None => Some(error_html(413, self.text)),
        }
    }

    fn has_sync_key(&self, _: &str) -> bool {
        // The controllers let such a request in without asking for more; the quota holds for it too.
        false
    }
}

impl AccountQuotas {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, policies: Arc<Policies>) -> Self {
        Self { next, info, policies }
    }

    async fn handle(self, mut req: Req) -> Resp {
        let Some(path) = SwiftPath::parse(req.uri().path()) else { return self.next.call(req).await };
        let Some(container) = path.container else { return self.account(req).await };
        let environ = facts(&req);
        let reseller = environ.caller.as_ref().is_some_and(|c| c.reseller_admin);
        if *req.method() != Method::PUT || path.object.is_none() || reseller {
            return self.next.call(req).await;
        }
        let unknown = request_length(&req).is_none();
        let length = request_length(&req).unwrap_or(0);
        let asked = environ.preauthorized("AQ");
        let account = self.info.account_info(&asked, &path.account).await;
        let mut room =
            limit(account.sysmeta("quota-bytes").or_else(|| account.meta("quota-bytes"))).map(|q| q.saturating_sub(account.bytes));
        let mut exceeded = over_account(&account, length).then_some(EXCEEDED);
        if exceeded.is_none() && has_policy_quota(&account) {
            let policy = self.info.container_info(&asked, &path.account, &container).await.storage_policy;
            exceeded = over_policy(&account, policy, length).then_some("Upload exceeds policy quota.");
            let used = account.storage_policies.get(&policy).map_or(0, |u| u.bytes);
            let of_policy = limit(account.sysmeta(&format!("quota-bytes-policy-{policy}"))).map(|q| q.saturating_sub(used));
            room = [room, of_policy].into_iter().flatten().min();
        }
        let Some(text) = exceeded else {
            let Some(room) = room.filter(|_| unknown) else { return self.next.call(req).await };
            let (parts, body) = req.into_parts();
            let (body, overrun) = capped(body, room);
            let resp = self.next.call(Request::from_parts(parts, body)).await;
            return if overrun.happened() { error_html(413, EXCEEDED) } else { resp };
        };
        let Some(inner) = environ.authorizer.clone() else { return error_html(413, text) };
        // Whether the caller may write there depends on the container's ACL, which the controller reads.
        let authorizer: Arc<dyn Authorizer> = Arc::new(Exceeded { inner, text });
        req.extensions_mut().insert(Environ { authorizer: Some(authorizer), ..environ });
        self.next.call(req).await
    }

    async fn account(&self, mut req: Req) -> Resp {
        if matches!(*req.method(), Method::POST | Method::PUT) {
            let reseller = facts(&req).caller.is_some_and(|c| c.reseller_admin);
            let headers = req.headers_mut();
            for legacy in ["x-account-meta-quota-bytes", "x-remove-account-meta-quota-bytes"] {
                let name = legacy.replace("-meta-", "-");
                if let (Some(value), true) = (text(headers, legacy).map(str::to_string), text(headers, &name).is_none_or(str::is_empty)) {
                    set(headers, &name, value);
                }
            }
            for kind in KINDS {
                if let Err(refusal) = self.translate(headers, kind, reseller) {
                    return refusal;
                }
            }
        }
        let mut resp = self.next.call(req).await;
        self.show(resp.headers_mut());
        resp
    }

    /// Quota headers become system metadata, when the caller may set them.
    fn translate(&self, headers: &mut HeaderMap, kind: &str, reseller: bool) -> Result<(), Resp> {
        let mut wanted = Vec::new();
        let has = |headers: &HeaderMap, name: &str| text(headers, name).is_some_and(|v| !v.is_empty());
        let value = text(headers, &format!("x-account-{kind}")).map(str::to_string);
        let value = if has(headers, &format!("x-remove-account-{kind}")) { Some(String::new()) } else { value };
        wanted.extend(value.map(|v| (format!("x-account-sysmeta-{kind}"), v)));
        for policy in self.policies.iter() {
            let tail = format!("account-{kind}-policy-{}", policy.name.to_ascii_lowercase());
            let value = if has(headers, &format!("x-remove-{tail}")) {
                Some(String::new())
            } else {
                let value = text(headers, &format!("x-{tail}")).map(str::to_string);
                headers.remove(format!("x-{tail}"));
                value
            };
            wanted.extend(value.map(|v| (format!("x-account-sysmeta-{kind}-policy-{}", policy.index), v)));
        }
        if !reseller {
            return if wanted.is_empty() { Ok(()) } else { Err(error(403)) };
        }
        if wanted.iter().any(|(_, v)| !v.bytes().all(|b| b.is_ascii_digit())) {
            return Err(error(400));
        }
        wanted.into_iter().for_each(|(name, value)| set(headers, &name, value));
        Ok(())
    }

    fn show(&self, headers: &mut HeaderMap) {
        for kind in KINDS {
            let mut shown = vec![(format!("x-account-sysmeta-{kind}"), format!("x-account-{kind}"))];
            shown.extend(self.policies.iter().map(|p| {
                (format!("x-account-sysmeta-{kind}-policy-{}", p.index), format!("x-account-{kind}-policy-{}", p.name.to_ascii_lowercase()))
            }));
            for (stored, name) in shown {
                if let Some(value) = text(headers, &stored).filter(|v| !v.is_empty()).map(str::to_string) {
                    set(headers, &name, value);
                }
            }
        }
    }
}

/// No limit when it is unset or no number.
fn limit(value: Option<&str>) -> Option<u64> {
    value?.trim().parse().ok()
}

fn over_account(info: &AccountInfo, length: u64) -> bool {
    let bytes = limit(info.sysmeta("quota-bytes").or_else(|| info.meta("quota-bytes")));
    let count = limit(info.sysmeta("quota-count"));
    bytes.is_some_and(|q| info.bytes.saturating_add(length) > q) || count.is_some_and(|q| info.total_object_count.saturating_add(1) > q)
}

fn has_policy_quota(info: &AccountInfo) -> bool {
    info.sysmeta.iter().any(|(k, v)| k.starts_with("quota-") && k.contains("-policy-") && !v.is_empty())
}

fn over_policy(info: &AccountInfo, policy: u32, length: u64) -> bool {
    let usage = info.storage_policies.get(&policy).copied().unwrap_or_default();
    let bytes = limit(info.sysmeta(&format!("quota-bytes-policy-{policy}")));
    let count = limit(info.sysmeta(&format!("quota-count-policy-{policy}")));
    bytes.is_some_and(|q| usage.bytes.saturating_add(length) > q) || count.is_some_and(|q| usage.object_count.saturating_add(1) > q)
}

impl HttpService for AccountQuotas {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Caller;
    use crate::proxy::{ContainerInfo, FixedInfo};
    use crate::testing::{FakeStore, read, request, send};
    use caelum_swiftkit::SwiftConf;

    struct Yes(bool);

    #[async_trait]
    impl Authorizer for Yes {
        async fn authorize(&self, _: &Method, _: &str, _: &Environ, _: Option<&str>) -> Option<Resp> {
            (!self.0).then(|| error(403))
        }
    }

    fn pipeline(quotas: &[(&str, &str)]) -> (FakeStore, Arc<dyn HttpService>) {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        store.container("a", "c");
        let sysmeta = quotas.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let usage = crate::proxy::info::PolicyUsage { container_count: 1, object_count: 4, bytes: 50 };
        let account = AccountInfo {
            status: 204,
            bytes: 100,
            total_object_count: 9,
            sysmeta,
            storage_policies: [(1, usage)].into(),
            ..AccountInfo::default()
        };
        info.set_account("a", account);
        info.set_container("a", "c", ContainerInfo { status: 204, storage_policy: 1, ..ContainerInfo::default() });
        let conf = SwiftConf::parse("[storage-policy:0]\nname = gold\ndefault = yes\n[storage-policy:1]\nname = Silver\n").unwrap();
        let layer = AccountQuotas::new(store.service(), Arc::new(info), Arc::new(conf.policies));
        (store, Arc::new(layer))
    }

    #[tokio::test]
    async fn uploads_within_and_beyond() {
        for (quota, length, refused) in [
            (("quota-bytes", "110"), 10, None),
            (("quota-bytes", "110"), 11, Some("Upload exceeds quota.")),
            (("quota-bytes", "0"), 0, Some("Upload exceeds quota.")),
            (("quota-bytes", "none"), 10, None),
            (("quota-count", "10"), 10, None),
            (("quota-count", "9"), 0, Some("Upload exceeds quota.")),
            (("quota-bytes-policy-1", "60"), 10, None),
            (("quota-bytes-policy-1", "60"), 11, Some("Upload exceeds policy quota.")),
            (("quota-bytes-policy-0", "0"), 10, None),
            (("quota-count-policy-1", "5"), 10, None),
            (("quota-count-policy-1", "4"), 0, Some("Upload exceeds policy quota.")),
        ] {
            let (store, app) = pipeline(&[quota]);
            let (status, headers, body) = send(&app, "PUT", "/v1/a/c/o", &[], "x".repeat(length)).await;
            match refused {
                None => assert_eq!(status, 201, "{quota:?} {length}"),
                Some(text) => {
                    assert_eq!((status, body.as_str()), (413, text), "{quota:?} {length}");
                    assert_eq!(headers["content-type"], "text/html; charset=UTF-8");
                    assert!(store.object("a", "c", "o").is_none());
                }
            }
        }
    }

    #[tokio::test]
    async fn uploads_of_unknown_length() {
        for (quota, length, status) in [
            (("quota-bytes", "110"), 10, 201),
            (("quota-bytes", "110"), 11, 413),
            (("quota-bytes-policy-1", "60"), 11, 413),
            (("quota-count", "10"), 11, 201),
        ] {
            let (store, app) = pipeline(&[quota]);
            let mut req = request("PUT", "/v1/a/c/o", &[("transfer-encoding", "chunked")], "x".repeat(length));
            req.headers_mut().remove("content-length");
            assert_eq!(app.call(req).await.status(), status, "{quota:?} {length}");
            assert_eq!(store.object("a", "c", "o").is_some(), status == 201);
        }
    }

    #[tokio::test]
    async fn who_may_not_write_hears_that_and_resellers_are_free() {
        let (_, app) = pipeline(&[("quota-bytes", "0")]);
        for (admitted, status) in [(true, 413), (false, 403)] {
            let mut req = request("PUT", "/v1/a/c/o", &[], "x");
            let environ = Environ { authorizer: Some(Arc::new(Yes(admitted))), ..facts(&req) };
            req.extensions_mut().insert(environ);
            assert_eq!(app.call(req).await.status(), status);
        }
        let mut req = request("PUT", "/v1/a/c/o", &[], "x");
        let caller = Arc::new(Caller { reseller_admin: true, ..Caller::default() });
        let environ = Environ { caller: Some(caller), ..facts(&req) };
        req.extensions_mut().insert(environ);
        assert_eq!(app.call(req).await.status(), 201);
        assert_eq!(send(&app, "POST", "/v1/a/c/o", &[], "").await.0, 202, "only uploads count");
        assert_eq!(send(&app, "GET", "/v1/a/c/o", &[], "").await.0, 200);
    }

    #[tokio::test]
    async fn only_resellers_set_quotas() {
        let (store, app) = pipeline(&[]);
        for name in
            ["x-account-quota-bytes", "x-account-meta-quota-bytes", "x-remove-account-quota-count", "x-account-quota-count-policy-silver"]
        {
            assert_eq!(send(&app, "POST", "/v1/a", &[(name, "1")], "").await.0, 403, "{name}");
        }
        assert_eq!(send(&app, "POST", "/v1/a", &[("x-account-meta-color", "1")], "").await.0, 200);
        let as_reseller = |headers: &'static [(&'static str, &'static str)]| {
            let app = app.clone();
            async move {
                let mut req = request("POST", "/v1/a", headers, "");
                let caller = Arc::new(Caller { reseller_admin: true, ..Caller::default() });
                let environ = Environ { caller: Some(caller), ..facts(&req) };
                req.extensions_mut().insert(environ);
                read(app.call(req).await).await.0
            }
        };
        let headers: &[_] = &[
            ("x-account-meta-quota-bytes", "10"),
            ("x-account-quota-count", "5"),
            ("x-remove-account-quota-count", "x"),
            ("x-account-quota-bytes-policy-silver", "7"),
        ];
        assert_eq!(as_reseller(headers).await, 200);
        let (seen, _) = store.last("POST /v1/a").unwrap();
        assert_eq!(seen["x-account-sysmeta-quota-bytes"], "10");
        assert_eq!(seen["x-account-sysmeta-quota-count"], "");
        assert_eq!(seen["x-account-sysmeta-quota-bytes-policy-1"], "7");
        assert!(!seen.contains_key("x-account-quota-bytes-policy-silver"));
        assert_eq!(as_reseller(&[("x-account-quota-bytes", "-1")]).await, 400);
        assert_eq!(as_reseller(&[("x-account-quota-bytes", "1e3")]).await, 400);
    }

    #[test]
    fn everybody_sees_them() {
        let (_, app) = (0, pipeline(&[]).1);
        drop(app);
        let conf = SwiftConf::parse("[storage-policy:0]\nname = gold\ndefault = yes\n").unwrap();
        let layer = AccountQuotas::new(FakeStore::new().service(), Arc::new(FixedInfo::default()), Arc::new(conf.policies));
        let mut headers = HeaderMap::new();
        set(&mut headers, "x-account-sysmeta-quota-bytes", "10");
        set(&mut headers, "x-account-sysmeta-quota-count-policy-0", "3");
        layer.show(&mut headers);
        assert_eq!(
            (headers["x-account-quota-bytes"].to_str().unwrap(), headers["x-account-quota-count-policy-gold"].to_str().unwrap()),
            ("10", "3")
        );
    }
}
