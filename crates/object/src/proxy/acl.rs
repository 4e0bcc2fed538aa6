//! `X-Container-Read` and `X-Container-Write`. Source: Swift's documentation, `overview_acl`.

use caelum_swiftkit::python::repr;

/// Puts an ACL into its canonical form. `name` is the header's, lower case. Errors: what is wrong, as
/// clients of Swift see it.
pub fn clean_acl(name: &str, value: &str) -> Result<String, String> {
    let mut out: Vec<String> = Vec::new();
    for raw in value.split(',').map(str::trim).filter(|v| !v.is_empty()) {
        let Some((first, second)) = raw.split_once(':').map(|(a, b)| (a.trim(), b.trim())) else {
            out.push(raw.to_string());
            continue;
        };
        if !first.starts_with('.') {
            out.push(raw.to_string());
        } else if matches!(first, ".r" | ".ref" | ".referer" | ".referrer") {
            if name.contains("write") {
                return Err(format!("Referrers not allowed in write ACL: {}", repr(raw)));
            }
            let (minus, host) = second.strip_prefix('-').map_or(("", second), |h| ("-", h.trim()));
            let host = if host == "*" { host } else { host.strip_prefix('*').map_or(host, str::trim) };
            if host.is_empty() || host == "." {
                return Err(format!("No host/domain value after referrer designation in ACL: {}", repr(raw)));
            }
            out.push(format!(".r:{minus}{host}"));
        } else {
            return Err(format!("Unknown designator {} in ACL: {}", repr(first), repr(raw)));
        }
    }
    Ok(out.join(","))
}

/// The referrer designations (without `.r:`) and the groups (percent-decoded) of a canonical ACL.
pub fn parse_acl(acl: &str) -> (Vec<String>, Vec<String>) {
    let (mut referrers, mut groups) = (Vec::new(), Vec::new());
    for entry in acl.split(',').filter(|_| !acl.is_empty()) {
        match entry.strip_prefix(".r:") {
            Some(host) => referrers.push(host.to_string()),
            None => groups.push(percent_encoding::percent_decode_str(entry).decode_utf8_lossy().into_owned()),
        }
    }
    (referrers, groups)
}

/// Whether a `Referer` header fits the designations; later ones win.
pub fn referrer_allowed(referrer: Option<&str>, designations: &[String]) -> bool {
    let host = referrer.and_then(host_of).unwrap_or_else(|| "unknown".into());
    let fits = |d: &str| d == host || (d.starts_with('.') && host.ends_with(d));
    let mut allowed = false;
    for d in designations {
        match d.strip_prefix('-') {
            Some(d) if fits(d) => allowed = false,
            None if d == "*" || fits(d) => allowed = true,
            _ => {}
        }
    }
    allowed
}

/// The host of a URL, lower case.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("//")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        for (raw, clean) in [
            ("bob, sue", "bob,sue"),
            ("bob , sue", "bob,sue"),
            ("bob,,,sue", "bob,sue"),
            (".referrer : *", ".r:*"),
            (".ref:*.example.com", ".r:.example.com"),
            (".r:*, .rlistings", ".r:*,.rlistings"),
            (".r: - .thief.com , a:b", ".r:-.thief.com,a:b"),
            (".r:-*.thief.com", ".r:-.thief.com"),
            ("*:*", "*:*"),
            ("", ""),
        ] {
            assert_eq!(clean_acl("x-container-read", raw).as_deref(), Ok(clean), "{raw}");
        }
    }

    #[test]
    fn refusals() {
        let read = |v| clean_acl("x-container-read", v).unwrap_err();
        assert_eq!(read(".r:"), "No host/domain value after referrer designation in ACL: '.r:'");
        assert_eq!(read(".r:-"), "No host/domain value after referrer designation in ACL: '.r:-'");
        assert_eq!(read(".unknown:test"), "Unknown designator '.unknown' in ACL: '.unknown:test'");
        assert_eq!(clean_acl("x-container-write", ".r:*").unwrap_err(), "Referrers not allowed in write ACL: '.r:*'");
    }

    #[test]
    fn referrers() {
        let (r, g) = parse_acl(".r:*,.r:-.thief.com,a%2Cb,AUTH_x:bob");
        assert_eq!((r.len(), g), (2, vec!["a,b".to_string(), "AUTH_x:bob".to_string()]));
        assert!(referrer_allowed(Some("http://good.com/x"), &r));
        assert!(referrer_allowed(None, &r));
        assert!(!referrer_allowed(Some("http://WWW.thief.com:80/"), &r));
        let only = vec!["www.example.com".to_string()];
        assert!(referrer_allowed(Some("https://user@www.example.com/a"), &only));
        assert!(!referrer_allowed(Some("www.example.com"), &only) && !referrer_allowed(None, &[]));
        assert_eq!(parse_acl(""), (vec![], vec![]));
    }
}
