//! The operations of the API in one table. What is not in it is answered 405, so that the table is what is served.

use crate::env::Req;
use crate::http::{error, set};
use caelum_policy::{RuleDefault, Scope};
use caelum_rest::{Access, Body, HttpService, OpInfo, Version};
use futures_util::future::BoxFuture;
use http::Method;
use std::sync::Arc;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Account,
    Container,
    Object,
}

impl Resource {
    /// Of `/v1/account/container/object`; `None` for other paths, which other layers answer.
    pub fn of(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.splitn(4, '/');
        if !matches!(parts.next()?, "v1" | "v1.0") {
            return None;
        }
        let mut given = || parts.next().is_some_and(|p| !p.is_empty());
        match (given(), given(), given()) {
            (true, false, false) => Some(Self::Account),
            (true, true, false) => Some(Self::Container),
            (true, true, true) => Some(Self::Object),
            _ => None,
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Account => "/v1/{account}",
            Self::Container => "/v1/{account}/{container}",
            Self::Object => "/v1/{account}/{container}/{object}",
        }
    }
}

/// One operation.
pub struct Operation {
    pub name: &'static str,
    pub method: Method,
    pub on: Resource,
    /// Who may call it unless a container's list says otherwise.
    pub access: Access,
}

const SCOPES: &[Scope] = &[Scope::Project];

/// Access is decided by the account's owner and the container's lists, not by policy files: the rules are named here
/// for tables and tests.
const READ: Access = Access::Rule(RuleDefault { name: "object:read", check: "role:reader or role:ResellerAdmin", scopes: SCOPES });
const WRITE: Access = Access::Rule(RuleDefault { name: "object:write", check: "role:member or role:ResellerAdmin", scopes: SCOPES });
const RULE_ALL: Access = Access::Rule(RuleDefault { name: "object:rule_all", check: "role:ResellerAdmin", scopes: SCOPES });

const fn op(name: &'static str, method: Method, on: Resource, access: Access) -> Operation {
    Operation { name, method, on, access }
}

fn copy() -> Method {
    Method::from_bytes(b"COPY").unwrap_or(Method::PUT)
}

/// Every operation on accounts, containers and objects.
pub fn operations() -> Vec<Operation> {
    use Resource::{Account, Container, Object};
    vec![
        op("account_show", Method::GET, Account, READ),
        op("account_head", Method::HEAD, Account, READ),
        op("account_create", Method::PUT, Account, RULE_ALL),
        op("account_update", Method::POST, Account, WRITE),
        op("account_delete", Method::DELETE, Account, RULE_ALL),
        op("account_options", Method::OPTIONS, Account, Access::Public),
        op("container_show", Method::GET, Container, READ),
        op("container_head", Method::HEAD, Container, READ),
        op("container_create", Method::PUT, Container, WRITE),
        op("container_update", Method::POST, Container, WRITE),
        op("container_delete", Method::DELETE, Container, WRITE),
        op("container_options", Method::OPTIONS, Container, Access::Public),
        op("object_show", Method::GET, Object, READ),
        op("object_head", Method::HEAD, Object, READ),
        op("object_create", Method::PUT, Object, WRITE),
        op("object_copy", copy(), Object, WRITE),
        op("object_update", Method::POST, Object, WRITE),
        op("object_delete", Method::DELETE, Object, WRITE),
        op("object_options", Method::OPTIONS, Object, Access::Public),
    ]
}

/// The operations for tables and generated tests, those of other layers included.
pub fn infos() -> Vec<OpInfo> {
    let info = |name, method, path: &str, access| OpInfo {
        service: "object",
        name,
        method,
        path: path.into(),
        action: None,
        access,
        since: Version(0, 0),
        until: Version(u32::MAX, u32::MAX),
    };
    let mut out: Vec<OpInfo> = operations().into_iter().map(|o| info(o.name, o.method, o.on.path(), o.access)).collect();
    out.push(info("info_show", Method::GET, "/info", Access::Public));
    out.push(info("healthcheck", Method::GET, "/healthcheck", Access::Public));
    out.push(info("crossdomain_show", Method::GET, "/crossdomain.xml", Access::Public));
    out
}

/// The layer that admits the operations of the table and no other method. It stands right behind the authentication:
/// what the layers there ask of the proxy among themselves does not pass it.
pub struct Operations {
    next: Arc<dyn HttpService>,
    table: Vec<Operation>,
}

impl Operations {
    pub fn new(next: Arc<dyn HttpService>) -> Self {
        Self { next, table: operations() }
    }
}

impl HttpService for Operations {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let Some(resource) = Resource::of(req.uri().path()) else { return self.next.call(req) };
        let mut here = self.table.iter().filter(|o| o.on == resource);
        if here.clone().any(|o| o.method == *req.method()) {
            return self.next.call(req);
        }
        let allowed = here.by_ref().map(|o| o.method.as_str()).collect::<Vec<_>>().join(", ");
        Box::pin(async move {
            let mut r = error(405);
            set(r.headers_mut(), "allow", allowed);
            r
        })
    }
}
