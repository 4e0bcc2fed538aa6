//! The object store's proxy: the Swift API in front of the storage nodes.
//!
//! The pipeline is a chain of [`caelum_rest::HttpService`]s, each of which may answer, change the request on its
//! way in or the response on its way out, or make requests of its own to what follows it.

pub mod auth;
pub mod env;
pub mod http;
pub mod middleware;
pub mod pipeline;
pub mod proxy;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
