//! The operation registry and what is made from it: routing, authorization, microversions, request
//! ids, error bodies, body limits, paging and serving.
//!
//! A service declares each operation as one [`Op`] record: method, path, policy rule with its default
//! check, versions, handler. From the records come the router, the policy enforcer's defaults, the
//! coverage table and the generated tests.
//!
//! Invariants:
//! - An operation cannot be declared without saying who may call it ([`Access`]).
//! - A handler of a ruled operation that answers without having asked the policy is answered 500:
//!   forgetting authorization fails closed.
//! - Identity comes from the validated token only. No request header other than `X-Auth-Token` and
//!   `X-Service-Token` influences it.
//! - Every response carries a request id; an error's private cause goes to the log, never out.

mod access_rules;
mod api;
mod auth;
mod body;
mod ctx;
mod dialect;
mod front;
mod heads;
mod interim;
pub mod names;
mod node_wire;
mod op;
mod paging;
mod query;
mod reply;
mod server;
mod version;

pub use access_rules::check as check_access_rules;
pub use api::{Api, ApiBuilder, OpInfo};
pub use auth::{Auth, Named, StaticValidator, TokenValidator};
pub use body::{Body, BoxError, empty, full, read_limited, stream_channel};
pub use ctx::Ctx;
pub use dialect::Dialect;
pub use front::{Front, redirect};
pub use interim::{Interim, InterimHeaders};
pub use node_wire::NodeWire;
pub use op::{Access, Handler, Op};
pub use paging::{Page, next_link};
pub use query::QueryParams;
pub use reply::Reply;
pub use server::{RemoteAddr, Server, ServerHandle, to_the_end};
pub use version::{Microversions, Version};

use futures_util::future::BoxFuture;
use http::{Request, Response};

/// Anything that answers HTTP requests: a service's [`Api`], the [`Front`], a test double.
pub trait HttpService: Send + Sync {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// Boxes an `async fn(Ctx<S>) -> Result<Reply>` for an [`Op`].
#[macro_export]
macro_rules! h {
    ($f:expr) => {
        |cx| Box::pin($f(cx))
    };
}

/// Request extension: the URL under which the client reached this service (`http://host/compute`),
/// without a trailing slash. Set by [`Front`]; links in responses are built from it.
#[derive(Clone, Debug)]
pub struct BaseUrl(pub String);
