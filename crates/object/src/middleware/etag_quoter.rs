//! ETags in quotes, as the standard wants them, for accounts and containers that have asked for it
//! (`X-Account-Rfc-Compliant-Etags`, `X-Container-Rfc-Compliant-Etags`).

use super::common::{facts, is_api_version};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{is_true_text, set, text};
use crate::proxy::InfoSource;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::Arc;

/// The layer.
#[derive(Clone)]
pub struct EtagQuoter {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    enable_by_default: bool,
}

impl EtagQuoter {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, enable_by_default: bool) -> Self {
        Self { next, info, enable_by_default }
    }

    /// What `/info` tells under `etag_quoter`.
    pub fn info(enable_by_default: bool) -> serde_json::Value {
        serde_json::json!({"enable_by_default": enable_by_default})
    }

    async fn handle(self, req: Req) -> Resp {
        let path = SwiftPath::parse(req.uri().path()).filter(|p| is_api_version(&p.version));
        let Some(path) = path else { return self.next.call(req).await };
        let Some(container) = path.container.as_ref().filter(|_| path.object.is_some()) else {
            return self.switch(req, path.container.is_some()).await;
        };
        let asked = facts(&req).preauthorized("EQ");
        let info = self.info.container_info(&asked, &path.account, container).await;
        if !info.exists() {
            return self.next.call(req).await;
        }
        let wanted = match info.sysmeta("rfc-compliant-etags") {
            Some(flag) => is_true_text(flag),
            None => {
                let account = self.info.account_info(&asked, &path.account).await;
                account.exists() && account.sysmeta("rfc-compliant-etags").map_or(self.enable_by_default, is_true_text)
            }
        };
        let mut resp = self.next.call(req).await;
        if wanted && let Some(tag) = text(resp.headers(), "etag").filter(|t| !is_quoted(t)) {
            let quoted = format!("\"{tag}\"");
            set(resp.headers_mut(), "etag", quoted);
        }
        resp
    }

    /// An account's or container's switch is kept as system metadata and shown under its own name.
    async fn switch(&self, mut req: Req, container: bool) -> Resp {
        let kind = if container { "container" } else { "account" };
        let (shown, kept) = (format!("x-{kind}-rfc-compliant-etags"), format!("x-{kind}-sysmeta-rfc-compliant-etags"));
        let headers = req.headers_mut();
        if let Some(value) = text(headers, &shown).map(str::to_string) {
            let flag = if value.is_empty() {
                ""
            } else if is_true_text(&value) {
                "True"
            } else {
                "False"
            };
            set(headers, &kept, flag);
        }
        if text(headers, &format!("x-remove-{kind}-rfc-compliant-etags")).is_some_and(|v| !v.is_empty()) {
            set(headers, &kept, "");
        }
        let mut resp = self.next.call(req).await;
        if let Some(value) = resp.headers_mut().remove(&kept) {
            set(resp.headers_mut(), &shown, value.as_bytes());
        }
        resp
    }
}

fn is_quoted(tag: &str) -> bool {
    (tag.starts_with('"') || tag.starts_with("W/\"")) && tag.ends_with('"')
}

impl HttpService for EtagQuoter {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{AccountInfo, ContainerInfo, FixedInfo};
    use crate::testing::{FakeStore, send};

    async fn etag(account: &str, container: &str, default: bool) -> String {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        store.container("a", "c");
        let flag = |v: &str| [("rfc-compliant-etags".to_string(), v.to_string())].into();
        info.set_account("a", AccountInfo { status: 204, sysmeta: flag(account), ..AccountInfo::default() });
        info.set_container("a", "c", ContainerInfo { status: 204, sysmeta: flag(container), ..ContainerInfo::default() });
        let app: Arc<dyn HttpService> = Arc::new(EtagQuoter::new(store.service(), Arc::new(info), default));
        let (_, headers, _) = send(&app, "PUT", "/v1/a/c/o", &[], "").await;
        headers["etag"].to_str().unwrap().to_string()
    }

    #[tokio::test]
    async fn who_has_asked_for_it() {
        let (bare, quoted) = ("d41d8cd98f00b204e9800998ecf8427e", "\"d41d8cd98f00b204e9800998ecf8427e\"");
        for (account, container, default, tag) in [
            ("", "", false, bare),
            ("", "", true, quoted),
            ("True", "", false, quoted),
            ("True", "False", true, bare),
            ("False", "", true, bare),
            ("", "True", false, quoted),
        ] {
            assert_eq!(etag(account, container, default).await, tag, "{account} {container} {default}");
        }
        assert!(is_quoted("W/\"x\"") && !is_quoted("\"x"));
    }

    #[tokio::test]
    async fn switches() {
        let store = FakeStore::new();
        store.container("a", "c");
        let app: Arc<dyn HttpService> = Arc::new(EtagQuoter::new(store.service(), Arc::new(FixedInfo::default()), false));
        for (name, value, kept) in [
            ("x-container-rfc-compliant-etags", "yes", Some("True")),
            ("x-container-rfc-compliant-etags", "no", Some("False")),
            ("x-remove-container-rfc-compliant-etags", "x", Some("")),
        ] {
            send(&app, "POST", "/v1/a/c", &[(name, value)], "").await;
            let seen = store.last("POST /v1/a/c").unwrap().0;
            assert_eq!(seen.get("x-container-sysmeta-rfc-compliant-etags").map(|v| v.to_str().unwrap()), kept, "{name}: {value}");
            let shown = send(&app, "HEAD", "/v1/a/c", &[], "").await.1;
            assert_eq!(shown.get("x-container-rfc-compliant-etags").map(|v| v.to_str().unwrap()), kept.filter(|k| !k.is_empty()));
        }
    }
}
