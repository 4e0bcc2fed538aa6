//! Limits of a container: bytes and objects (`X-Container-Meta-Quota-Bytes`, `X-Container-Meta-Quota-Count`), set
//! by whoever may change the container. As with accounts, counters follow with some delay; an upload of unknown
//! length is broken off where it goes beyond (upstream lets it pass).

use super::capped::capped;
use super::common::{facts, request_length};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{error_html, text};
use crate::proxy::InfoSource;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use std::sync::Arc;

const EXCEEDED: &str = "Upload exceeds quota.";

/// The layer; it stands behind the authentication and the copy layer.
#[derive(Clone)]
pub struct ContainerQuotas {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
}

impl ContainerQuotas {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>) -> Self {
        Self { next, info }
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = SwiftPath::parse(req.uri().path()) else { return self.next.call(req).await };
        let Some(container) = path.container else { return self.next.call(req).await };
        match (path.object.is_some(), req.method()) {
            (false, &Method::PUT | &Method::POST) => match bad_quota(&req) {
                Some(refusal) => refusal,
                None => self.next.call(req).await,
            },
            (true, &Method::PUT) => self.upload(req, &path.account, &container).await,
            _ => self.next.call(req).await,
        }
    }

    async fn upload(&self, req: Req, account: &str, container: &str) -> Resp {
        let (environ, target) = (facts(&req), req.uri().path().to_string());
        let info = self.info.container_info(&environ.preauthorized("CQ"), account, container).await;
        if !info.exists() {
            return self.next.call(req).await;
        }
        let limit = |name| info.meta(name).filter(|v| is_number(v)).map(|v| v.parse().unwrap_or(u64::MAX));
        let (bytes, count, length) = (limit("quota-bytes"), limit("quota-count"), request_length(&req));
        let over = bytes.is_some_and(|q| info.bytes.saturating_add(length.unwrap_or(0)) > q)
            || count.is_some_and(|q| info.object_count.saturating_add(1) > q);
        if over {
            // Who could not write there anyway is told that, and nothing of the container.
            if let Some(authorizer) = &environ.authorizer
                && let Some(refusal) = authorizer.authorize(&Method::PUT, &target, &environ, info.write_acl.as_deref()).await
            {
                return refusal;
            }
            return error_html(413, EXCEEDED);
        }
        let (Some(bytes), None) = (bytes, length) else { return self.next.call(req).await };
        let (parts, body) = req.into_parts();
        let (body, overrun) = capped(body, bytes.saturating_sub(info.bytes));
        let resp = self.next.call(Request::from_parts(parts, body)).await;
        if overrun.happened() { error_html(413, EXCEEDED) } else { resp }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn bad_quota(req: &Req) -> Option<Resp> {
    for (name, why) in [("bytes", "Invalid bytes quota."), ("count", "Invalid count quota.")] {
        let value = req.headers().get(format!("x-container-meta-quota-{name}"));
        let text = text(req.headers(), &format!("x-container-meta-quota-{name}"));
        if value.is_some_and(|v| !v.is_empty()) && !text.is_some_and(is_number) {
            return Some(error_html(400, why));
        }
    }
    None
}

impl HttpService for ContainerQuotas {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{ContainerInfo, FixedInfo};
    use crate::testing::{FakeStore, send};

    fn pipeline(quotas: &[(&str, &str)]) -> Arc<dyn HttpService> {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        store.container("a", "c");
        let meta = quotas.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        info.set_container("a", "c", ContainerInfo { status: 204, bytes: 100, object_count: 9, meta, ..ContainerInfo::default() });
        Arc::new(ContainerQuotas::new(store.service(), Arc::new(info)))
    }

    #[tokio::test]
    async fn uploads_within_and_beyond() {
        for (quota, length, status) in [
            (("quota-bytes", "110"), 10, 201),
            (("quota-bytes", "110"), 11, 413),
            (("quota-bytes", "0"), 0, 413),
            (("quota-bytes", "100"), 0, 201),
            (("quota-bytes", "-1"), 10, 201),
            (("quota-bytes", "99999999999999999999999"), 10, 201),
            (("quota-count", "10"), 10, 201),
            (("quota-count", "9"), 0, 413),
        ] {
            let (got, _, body) = send(&pipeline(&[quota]), "PUT", "/v1/a/c/o", &[], "x".repeat(length)).await;
            assert_eq!(got, status, "{quota:?} {length}");
            assert!(status == 201 || body == "Upload exceeds quota.");
        }
        for (length, status) in [(10, 201), (11, 413)] {
            let mut req = crate::testing::request("PUT", "/v1/a/c/o", &[("transfer-encoding", "chunked")], "x".repeat(length));
            req.headers_mut().remove("content-length");
            let (got, _, body) = crate::testing::read(pipeline(&[("quota-bytes", "110")]).call(req).await).await;
            assert!(got == status && (got == 201 || body == EXCEEDED), "{length} bytes of unknown length: {got} {body}");
        }
        let app = pipeline(&[("quota-bytes", "0")]);
        assert_eq!(send(&app, "PUT", "/v1/a/none/o", &[], "x").await.0, 404);
        assert_eq!(send(&app, "DELETE", "/v1/a/c/o", &[], "").await.0, 404);
    }

    #[tokio::test]
    async fn quotas_must_be_numbers() {
        let app = pipeline(&[]);
        for (name, value, text) in [
            ("x-container-meta-quota-bytes", "-1", "Invalid bytes quota."),
            ("x-container-meta-quota-bytes", "1e3", "Invalid bytes quota."),
            ("x-container-meta-quota-count", "many", "Invalid count quota."),
        ] {
            for method in ["PUT", "POST"] {
                let (status, _, body) = send(&app, method, "/v1/a/c", &[(name, value)], "").await;
                assert_eq!((status, body.as_str()), (400, text));
            }
        }
        assert_eq!(
            send(&app, "POST", "/v1/a/c", &[("x-container-meta-quota-bytes", ""), ("x-container-meta-quota-count", "0")], "").await.0,
            204
        );
    }
}
