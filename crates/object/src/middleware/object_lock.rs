//! Object lock, whichever API is spoken: what S3 has locked cannot be destroyed, and cannot be unlocked, by Swift's.
//!
//! The innermost layer, so that requests which other layers make (large objects, bulk deletes, copies, versions) pass it
//! as well. In a container with object lock it refuses to delete or replace a protected version, to let one expire, to
//! touch the parts of uploads, and to change how versions are kept; it keeps the lock when metadata is replaced, and
//! gives new versions the container's default. Locks are lifted, shortened and bypassed through S3 alone, whose layer
//! has looked at all this itself ([`Environ::lock_settled`]). Whoever deletes an account, and whoever can write on the
//! nodes' disks, is not stopped.

use super::common::{allow_reserved, facts};
use crate::env::{Environ, Req, Resp, SwiftPath};
use crate::http::{Origin, error_plain, is_true_text, set, text};
use crate::proxy::{ContainerInfo, InfoSource};
use caelum_base::{Env, Timestamp};
use caelum_rest::HttpService;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method};
use std::sync::Arc;
use std::time::Duration;

/// The container's setting, in S3's XML, behind `x-container-sysmeta-`.
pub const SETTING: &str = "s3api-object-lock";
pub const MODE: &str = "x-object-transient-sysmeta-s3api-lock-mode";
/// Seconds since 1970.
pub const UNTIL: &str = "x-object-transient-sysmeta-s3api-lock-until";
pub const HOLD: &str = "x-object-transient-sysmeta-s3api-legal-hold";
/// What makes an object a link.
const LINK: &str = "x-object-sysmeta-symlink-target";
const PROTECTED: &str = "Access Denied because object protected by object lock.";
const SEGMENT: &str = "Access Denied because object lock protects the parts of uploads.";
const EXPIRES: &str = "Access Denied because an object protected by object lock cannot expire.";
const VERSIONING: &str = "The versioning of a container with object lock cannot be changed.";

/// What protects a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Mode, and until when in seconds since 1970.
    pub retention: Option<(String, i64)>,
    pub is_held: bool,
}

impl Protection {
    pub fn of(headers: &HeaderMap) -> Self {
        let until = text(headers, UNTIL).and_then(|t| t.parse().ok());
        let retention = text(headers, MODE).map(str::to_string).zip(until);
        Self { retention, is_held: text(headers, HOLD) == Some("ON") }
    }

    /// Whether the version must stay. `bypasses`: the caller may and wants to go round governance.
    pub fn forbids(&self, now: Timestamp, bypasses: bool) -> bool {
        let retained = self.retention.as_ref().is_some_and(|(mode, until)| *until > now.secs() && !(mode == "GOVERNANCE" && bypasses));
        self.is_held || retained
    }
}

/// The retention that a container gives new versions: mode, and for how many seconds.
pub fn default_retention(setting: &str) -> Option<(String, u64)> {
    let of = |name: &str| {
        let rest = setting.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    let number = |name: &str, days: u64| of(name).and_then(|t| t.parse::<u64>().ok()).map(|n| n * days * 86_400);
    Some((of("Mode")?.to_string(), number("Days", 1).or_else(|| number("Years", 365))?))
}

fn setting(info: &ContainerInfo) -> Option<&str> {
    info.sysmeta(SETTING).filter(|s| !s.is_empty())
}

/// Which container's lock counts for a name, and what the name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Own,
    /// Where the container's versions are.
    Versions,
    /// Where parts of its uploads are.
    Segments,
}

fn kind(container: &str) -> (&str, Kind) {
    if let Some(own) = container.strip_prefix("\0versions\0") {
        return (own, Kind::Versions);
    }
    container.strip_suffix("+segments").map_or((container, Kind::Own), |own| (own, Kind::Segments))
}

#[derive(Clone)]
pub struct ObjectLock {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    env: Env,
}

/// The next layer, and of which request one to it is made.
type Asking<'a> = (&'a Arc<dyn HttpService>, &'a Origin, &'a Environ);

/// Refuses to delete a version before anything of it is touched. `place` is its path in the hidden container.
///
/// Errors: the refusal, or 503 when it cannot be found out.
pub(super) async fn check_version(asking: Asking<'_>, info: &ContainerInfo, place: &str, now: Timestamp) -> Result<(), Resp> {
    if asking.2.lock_settled || setting(info).is_none() {
        return Ok(());
    }
    match head(asking, place).await? {
        Some(h) if Protection::of(&h).forbids(now, false) => Err(error_plain(403, PROTECTED)),
        _ => Ok(()),
    }
}

/// What is there now; `None`: nothing.
async fn head((next, origin, environ): Asking<'_>, place: &str) -> Result<Option<HeaderMap>, Resp> {
    let mut head = origin.request(Method::HEAD, place, "OL", "");
    head.extensions_mut().insert(Environ { lock_settled: true, ..environ.preauthorized("OL") });
    set(head.headers_mut(), "x-newest", "true");
    allow_reserved(&mut head);
    let resp = next.call(head).await;
    match resp.status().as_u16() {
        200..300 => Ok(Some(resp.into_parts().0.headers)),
        404 | 410 => Ok(None),
        _ => Err(error_plain(503, "It could not be found out whether the object is locked.")),
    }
}

/// A request without its body.
struct Asked {
    parts: Parts,
    origin: Origin,
    environ: Environ,
    /// The object's path, encoded.
    target: String,
}

impl ObjectLock {
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, env: Env) -> Self {
        Self { next, info, env }
    }

    async fn handle(self, req: Req) -> Resp {
        let environ = facts(&req);
        let path = SwiftPath::parse(req.uri().path()).filter(|p| p.container.is_some() && !environ.lock_settled);
        let Some(path) = path else { return self.next.call(req).await };
        let (own, kind) = kind(path.container.as_deref().unwrap_or_default());
        let is_container = path.object.is_none();
        if is_container && !(kind == Kind::Own && changes_versioning(req.headers())) {
            return self.next.call(req).await;
        }
        let info = self.info.container_info(&environ.preauthorized("OL"), &path.account, own).await;
        let Some(setting) = setting(&info) else { return self.next.call(req).await };
        if is_container {
            return error_plain(409, VERSIONING);
        }
        let origin = Origin::of(&req);
        let (parts, body) = req.into_parts();
        let mut asked = Asked { parts, origin, environ, target: path.encode() };
        match self.check(&mut asked, kind, setting).await {
            Ok(()) => self.next.call(Req::from_parts(asked.parts, body)).await,
            Err(refusal) => refusal,
        }
    }

    /// A change of an object in a container with this setting.
    async fn check(&self, r: &mut Asked, kind: Kind, setting: &str) -> Result<(), Resp> {
        match r.parts.method {
            _ if kind == Kind::Segments => match self.there(r).await? {
                Some(_) => Err(error_plain(403, SEGMENT)),
                None => Ok(()),
            },
            Method::PUT => self.put(r, kind, setting).await,
            Method::POST => self.post(r).await,
            _ => self.keep(r).await,
        }
    }

    async fn there(&self, r: &Asked) -> Result<Option<HeaderMap>, Resp> {
        head((&self.next, &r.origin, &r.environ), &r.target).await
    }

    /// Refuses where what is there is protected.
    async fn keep(&self, r: &Asked) -> Result<(), Resp> {
        match self.there(r).await? {
            // A link to the current version repeats its headers; the version has its own protection.
            Some(h) if h.contains_key(LINK) => Ok(()),
            Some(h) if Protection::of(&h).forbids(self.env.now(), false) => Err(error_plain(403, PROTECTED)),
            _ => Ok(()),
        }
    }

    async fn put(&self, r: &mut Asked, kind: Kind, setting: &str) -> Result<(), Resp> {
        let h = &r.parts.headers;
        let is_link = h.contains_key(LINK);
        let is_marker = text(h, "content-type").is_some_and(|t| t.starts_with("application/x-deleted;swift_versions_deleted"));
        // A version's name is new.
        if kind == Kind::Own {
            self.keep(r).await?;
        }
        if (kind == Kind::Own && is_link) || is_marker {
            return Ok(());
        }
        let now = self.env.now();
        let h = &mut r.parts.headers;
        if let (false, Some((mode, secs))) = (h.contains_key(MODE), default_retention(setting)) {
            set(h, MODE, mode);
            set(h, UNTIL, now.plus(Duration::from_secs(secs)).secs().to_string());
        }
        may_not_expire(h, &Protection::of(h), now)
    }

    /// Metadata is replaced as a whole; the lock stays.
    async fn post(&self, r: &mut Asked) -> Result<(), Resp> {
        let Some(there) = self.there(r).await? else { return Ok(()) };
        let h = &mut r.parts.headers;
        for name in [MODE, UNTIL, HOLD] {
            h.remove(name);
            if let Some(v) = there.get(name) {
                h.insert(name, v.clone());
            }
        }
        may_not_expire(h, &Protection::of(&there), self.env.now())
    }
}

fn may_not_expire(headers: &HeaderMap, protection: &Protection, now: Timestamp) -> Result<(), Resp> {
    let expires = ["x-delete-at", "x-delete-after"].iter().any(|n| text(headers, n).is_some_and(|v| !v.is_empty()));
    if expires && protection.forbids(now, false) { Err(error_plain(403, EXPIRES)) } else { Ok(()) }
}

/// As the layers of versions have translated it.
fn changes_versioning(headers: &HeaderMap) -> bool {
    let stops = text(headers, "x-container-sysmeta-versions-enabled").is_some_and(|v| !is_true_text(v));
    stops || text(headers, "x-container-sysmeta-versions-location").is_some_and(|v| !v.is_empty())
}

impl HttpService for ObjectLock {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        if matches!(*req.method(), Method::PUT | Method::POST | Method::DELETE) {
            return Box::pin(self.clone().handle(req));
        }
        self.next.call(req)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forbids() {
        let now = Timestamp::from_secs(1000);
        let p = |mode: &str, until, is_held| Protection { retention: Some((mode.into(), until)), is_held };
        assert!(p("COMPLIANCE", 1001, false).forbids(now, true));
        assert!(p("GOVERNANCE", 1001, false).forbids(now, false));
        assert!(!p("GOVERNANCE", 1001, false).forbids(now, true));
        assert!(!p("COMPLIANCE", 1000, false).forbids(now, false));
        assert!(p("GOVERNANCE", 1, true).forbids(now, true), "a hold stands by itself");
    }

    #[test]
    fn defaults_and_names() {
        let setting = |t: &str| {
            format!(
                "<ObjectLockConfiguration><Rule><DefaultRetention><Mode>GOVERNANCE</Mode>{t}</DefaultRetention></Rule></ObjectLockConfiguration>"
            )
        };
        assert_eq!(default_retention(&setting("<Days>2</Days>")), Some(("GOVERNANCE".into(), 172_800)));
        assert_eq!(default_retention(&setting("<Years>1</Years>")), Some(("GOVERNANCE".into(), 31_536_000)));
        assert_eq!(default_retention("<ObjectLockConfiguration></ObjectLockConfiguration>"), None);
        assert_eq!(kind("\0versions\0b"), ("b", Kind::Versions));
        assert_eq!(kind("b+segments"), ("b", Kind::Segments));
        assert_eq!(kind("b"), ("b", Kind::Own));
    }
}
