//! Authentication and authorization: who calls, and what they may do.
//!
//! Callers have a token of the identity service, or one of tempauth's; or a layer before this one (S3) has
//! found out who they are. Identity comes from nothing else. Whoever has no valid token is nobody, and nobody may
//! do what a container's list grants everybody.
//!
//! Invariant: a request whose environ has an authorizer is not yet authorized. The front gives every request one
//! that refuses, so that a pipeline without this layer admits nothing.

mod acl;
mod keystone;
mod layer;
mod rules;
mod tempauth;
mod token;

pub use acl::{AccountAcl, Acl, check_account_acl};
pub use keystone::{DOMAIN_SYSMETA, Keystone, KeystoneOptions, ServiceRoles};
pub use layer::{Auth, AuthDeps};
pub use rules::{Reseller, Resellers};
pub use tempauth::{KnownUser, TempAuth, TempAuthOptions, TempUser};
pub use token::{AuthToken, AuthTokenOptions};

use crate::env::{Authorizer, Environ, Resp, SwiftPath};
use crate::http::{error, unauthorized};
use async_trait::async_trait;
use http::Method;

/// What of a request decides over it.
pub struct Request<'a> {
    pub method: &'a Method,
    pub path: SwiftPath,
    pub referer: Option<&'a str>,
}

/// Refuses everything: what a request has until this layer has seen it.
pub struct RefuseAll;

#[async_trait]
impl Authorizer for RefuseAll {
    async fn authorize(&self, _: &Method, path: &str, environ: &Environ, _: Option<&str>) -> Option<Resp> {
        Some(denied(path, environ.caller.is_some()))
    }
}

/// 403 for somebody, 401 for nobody.
pub fn denied(path: &str, known: bool) -> Resp {
    if known { error(403) } else { unauthorized(path) }
}

#[cfg(test)]
mod tests;
