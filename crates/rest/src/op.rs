use crate::version::Version;
use crate::{Ctx, Reply};
use caelum_base::{Result, limits};
use caelum_policy::{RuleDefault, Scope};
use futures_util::future::BoxFuture;
use http::Method;

/// Who may call an operation.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// Anyone, without a token (version documents, authentication).
    Public,
    /// Anyone with a valid token.
    Token,
    /// A valid token that the rule admits; the handler must ask (`Ctx::authorize…`).
    Rule(RuleDefault),
}

impl Access {
    /// A rule with its default check and the scopes it takes.
    pub const fn rule(name: &'static str, check: &'static str, scopes: &'static [Scope]) -> Self {
        Self::Rule(RuleDefault { name, check, scopes })
    }
}

/// What runs an operation.
pub type Handler<S> = fn(Ctx<S>) -> BoxFuture<'static, Result<Reply>>;

/// One operation of an API.
///
/// `path` is relative to the mount (`/servers/{id}`). Several records may share method and path if
/// they differ in `action` or in their version ranges.
pub struct Op<S: 'static> {
    /// Verb-noun, noun first, unique in the service: `server_create`.
    pub name: &'static str,
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub handler: Handler<S>,
    /// The only key of the request body that selects this record (`os-start`, `reboot`).
    pub action: Option<&'static str>,
    pub since: Version,
    pub until: Version,
    /// Largest body in bytes; ignored for streams.
    pub max_body: usize,
    /// The handler reads the body itself as a stream.
    pub streams: bool,
}

impl<S> Op<S> {
    pub const fn new(method: Method, name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self {
            name,
            method,
            path,
            access,
            handler,
            action: None,
            since: Version(0, 0),
            until: Version(u32::MAX, u32::MAX),
            max_body: limits::MAX_BODY_BYTES,
            streams: false,
        }
    }

    pub const fn get(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::GET, name, path, access, handler)
    }

    pub const fn post(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::POST, name, path, access, handler)
    }

    pub const fn put(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::PUT, name, path, access, handler)
    }

    pub const fn patch(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::PATCH, name, path, access, handler)
    }

    pub const fn delete(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::DELETE, name, path, access, handler)
    }

    pub const fn head(name: &'static str, path: &'static str, access: Access, handler: Handler<S>) -> Self {
        Self::new(Method::HEAD, name, path, access, handler)
    }

    /// Selected by this body key: `POST /servers/{id}/action` with `{"os-start": null}`.
    #[must_use]
    pub const fn action(mut self, key: &'static str) -> Self {
        self.action = Some(key);
        self
    }

    /// First microversion that has the operation.
    #[must_use]
    pub const fn since(mut self, major: u32, minor: u32) -> Self {
        self.since = Version(major, minor);
        self
    }

    /// Last microversion that has the operation.
    #[must_use]
    pub const fn until(mut self, major: u32, minor: u32) -> Self {
        self.until = Version(major, minor);
        self
    }

    #[must_use]
    pub const fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The handler takes the body as a stream with `Ctx::take_body`.
    #[must_use]
    pub const fn streams(mut self) -> Self {
        self.streams = true;
        self
    }
}
