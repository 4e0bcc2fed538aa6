use crate::env::Req;
use crate::http::respond;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::Method;
use std::sync::Arc;

/// Answers `/crossdomain.xml` with the policy that old browser plug-ins ask for.
pub struct CrossDomain {
    next: Arc<dyn HttpService>,
    policy: String,
}

impl CrossDomain {
    /// `policy` is the XML inside the document (`cross_domain_policy`); everybody may without one.
    pub fn new(next: Arc<dyn HttpService>, policy: Option<&str>) -> Self {
        let policy = policy.unwrap_or(r#"<allow-access-from domain="*" secure="false" />"#);
        Self { next, policy: policy.into() }
    }
}

impl HttpService for CrossDomain {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        if req.uri().path() != "/crossdomain.xml" || *req.method() != Method::GET {
            return self.next.call(req);
        }
        let body = format!(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE cross-domain-policy SYSTEM \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\" >\n\
             <cross-domain-policy>\n{}\n</cross-domain-policy>",
            self.policy
        );
        Box::pin(async move { respond(200, "application/xml", body) })
    }
}
