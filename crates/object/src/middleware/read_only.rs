//! No writes: to the whole cluster (`read_only`), or to accounts whose system metadata `X-Account-Sysmeta-Read-Only`
//! says so, which also goes the other way.

use super::common::{facts, is_api_version};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{error_html, error_plain, is_true_text, text};
use crate::proxy::InfoSource;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::Arc;

/// The layer.
#[derive(Clone)]
pub struct ReadOnly {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    read_only: bool,
    allow_deletes: bool,
}

impl ReadOnly {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, read_only: bool, allow_deletes: bool) -> Self {
        Self { next, info, read_only, allow_deletes }
    }

    async fn handle(self, req: Req) -> Resp {
        let writes = match req.method().as_str() {
            "COPY" | "POST" | "PUT" => true,
            "DELETE" => !self.allow_deletes,
            _ => false,
        };
        let path = SwiftPath::parse(req.uri().path()).filter(|p| writes && is_api_version(&p.version));
        let Some(path) = path else { return self.next.call(req).await };
        let mut account = path.account;
        // A copy may go to another account.
        if req.method().as_str() == "COPY"
            && let Some(to) = text(req.headers(), "destination-account")
        {
            let Ok(to) = percent_encoding::percent_decode_str(to).decode_utf8() else { return bad_account() };
            if to.is_empty() || to.contains('/') {
                return bad_account();
            }
            account = to.into_owned();
        }
        let info = self.info.account_info(&facts(&req).preauthorized("RO"), &account).await;
        if info.sysmeta("read-only").map_or(self.read_only, is_true_text) {
            return error_html(405, "Writes are disabled for this account.");
        }
        self.next.call(req).await
    }
}

fn bad_account() -> Resp {
    error_plain(412, "Account name cannot contain slashes")
}

impl HttpService for ReadOnly {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{AccountInfo, FixedInfo};
    use crate::testing::{FakeStore, send};

    fn pipeline(read_only: bool, allow_deletes: bool) -> Arc<dyn HttpService> {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        for (account, value) in [("shut", "true"), ("open", "false"), ("other", "")] {
            store.container(account, "c");
            let sysmeta = [("read-only".to_string(), value.to_string())].into();
            info.set_account(account, AccountInfo { status: 204, sysmeta, ..AccountInfo::default() });
        }
        Arc::new(ReadOnly::new(store.service(), Arc::new(info), read_only, allow_deletes))
    }

    #[tokio::test]
    async fn accounts_and_the_cluster() {
        for (all, account, status) in
            [(false, "shut", 405), (false, "open", 201), (false, "other", 201), (true, "open", 201), (true, "other", 405)]
        {
            let app = pipeline(all, false);
            let (got, _, body) = send(&app, "PUT", &format!("/v1/{account}/c/o"), &[], "x").await;
            assert_eq!(got, status, "{all} {account}");
            assert!(status == 201 || body == "Writes are disabled for this account.");
            assert_eq!(send(&app, "GET", &format!("/v1/{account}/c"), &[], "").await.0, 200);
        }
        assert_eq!(send(&pipeline(true, false), "DELETE", "/v1/other/c/o", &[], "").await.0, 405);
        assert_eq!(send(&pipeline(true, true), "DELETE", "/v1/other/c/o", &[], "").await.0, 404);
    }

    #[tokio::test]
    async fn copies_count_where_they_go() {
        let app = pipeline(false, false);
        assert_eq!(send(&app, "COPY", "/v1/open/c/o", &[("destination-account", "shut")], "").await.0, 405);
        assert_ne!(send(&app, "COPY", "/v1/shut/c/o", &[("destination-account", "op%65n")], "").await.0, 405);
        assert_eq!(send(&app, "COPY", "/v1/open/c/o", &[("destination-account", "a/b")], "").await.0, 412);
    }
}
