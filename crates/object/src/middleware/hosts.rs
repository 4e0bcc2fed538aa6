//! Puts what the client asked for back into the addresses of an answer.

use crate::env::Resp;
use crate::http::{set, text};

/// Changes `Location` and `Content-Location` by `change`, which answers `None` to leave one as it is.
pub fn locations(resp: &mut Resp, change: impl Fn(&str) -> Option<String>) {
    for name in ["location", "content-location"] {
        if let Some(new) = text(resp.headers(), name).and_then(&change) {
            set(resp.headers_mut(), name, new);
        }
    }
}

/// `http://host` (empty when there is none) and the rest.
pub fn split_origin(location: &str) -> (&str, &str) {
    let Some(at) = ["http://", "https://"].iter().find_map(|s| location.starts_with(s).then_some(s.len())) else { return ("", location) };
    let end = location[at..].find('/').map_or(location.len(), |p| at + p);
    location.split_at(end)
}

/// The domains of an option, comma-separated, each with a dot in front; those given without one come first.
pub fn storage_domains(option: &str) -> Vec<String> {
    let all = || option.split(',').map(str::trim).filter(|d| !d.is_empty());
    let plain = all().filter(|d| !d.starts_with('.')).map(|d| format!(".{d}"));
    plain.chain(all().filter(|d| d.starts_with('.')).map(str::to_string)).collect()
}

/// `host` and `:port` (or nothing) of a `Host` header.
pub fn split_port(host: &str) -> (&str, &str) {
    match host.rfind(':') {
        Some(at) if !host.ends_with(']') => host.split_at(at),
        _ => (host, ""),
    }
}
