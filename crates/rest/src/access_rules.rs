//! Access rules of application credentials: the only requests their tokens may make.
//!
//! The identity service puts them into `creds.extra["access_rules"]`; an empty list allows nothing.
//! A request that another service sends on the user's behalf (with a token that has the role `service`) is
//! not checked: the user's own request was.

use crate::Auth;
use caelum_base::{Error, Result};
use http::Method;
use serde_json::Value;

/// Older names of a service type that rules may use.
fn same_service(rule: &str, service: &str) -> bool {
    rule == service || (service == "block-storage" && matches!(rule, "volumev3" | "volume" | "block-store"))
}

/// `*` and `{name}` stand for one path segment, a final `**` for any number of them.
fn path_fits(pattern: &str, path: &str) -> bool {
    let mut have = path.trim_end_matches('/').split('/');
    for want in pattern.trim_end_matches('/').split('/') {
        if want == "**" {
            return true;
        }
        let Some(segment) = have.next() else { return false };
        let any = want == "*" || (want.starts_with('{') && want.ends_with('}'));
        if !(any && !segment.is_empty() || want == segment) {
            return false;
        }
    }
    have.next().is_none()
}

/// Errors: `Forbidden` when the token has rules and none fits. `paths` are the request's path as sent
/// and as routed.
pub fn check(auth: &Auth, service: &str, method: &Method, paths: [&str; 2]) -> Result<()> {
    let Some(rules) = auth.creds.extra.get("access_rules") else { return Ok(()) };
    // Any valid token may be sent as a service token; only a service's counts.
    if auth.creds.has_service_role("service") {
        return Ok(());
    }
    let text = |rule: &Value, key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let fits = |rule: &Value| {
        let pattern = text(rule, "path");
        same_service(&text(rule, "service"), service)
            && text(rule, "method") == method.as_str()
            && paths.iter().any(|p| path_fits(&pattern, p))
    };
    if rules.as_array().is_some_and(|r| r.iter().any(fits)) {
        return Ok(());
    }
    Err(Error::forbidden("The application credential's access rules do not allow this request."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, want) in [
            ("/v2.1/servers/*/ips", "/v2.1/servers/abc/ips", true),
            ("/v2.1/servers/*/ips", "/v2.1/servers/abc", false),
            ("/v2.1/servers/{server_id}", "/v2.1/servers/abc", true),
            ("/v2.1/servers/*", "/v2.1/servers/abc/ips", false),
            ("/v2.1/servers/*", "/v2.1/servers/", false),
            ("/v2.1/**", "/v2.1/servers/abc/ips", true),
            ("/v2.1/servers", "/v2.1/servers/", true),
        ] {
            assert_eq!(path_fits(pattern, path), want, "{pattern} {path}");
        }
    }
}
