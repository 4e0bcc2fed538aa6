//! Reading requests: path, parameters, time, metadata.

use crate::db::reply::{Answer, bad_request, status, text_reply};
use caelum_broker::Metadata;
use caelum_rest::names;
use caelum_swiftkit::Timestamp;
use http::HeaderMap;
use http::request::Parts;
use std::collections::HashMap;

/// Names that only the cluster itself may use begin with it.
pub(crate) const RESERVED: char = '\0';

/// `/DEVICE/PARTITION/ACCOUNT[/CONTAINER[/OBJECT]]`, decoded. For REPLICATE the account is the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub device: String,
    pub partition: String,
    pub account: String,
    pub container: Option<String>,
    pub object: Option<String>,
}

impl Target {
    /// `min` and `max` count the names from the device on. Errors: 412 for what is not UTF-8, 400.
    pub fn parse(path: &str, min: usize, max: usize, utf8_text: &'static str) -> Answer<Self> {
        let Ok(path) = percent_encoding::percent_decode_str(path).decode_utf8() else {
            return Err(text_reply(412, "text/html; charset=UTF-8", utf8_text).into());
        };
        let invalid = || bad_request(format!("Invalid path: {}", quote(&path)));
        let mut parts: Vec<&str> = path.strip_prefix('/').ok_or_else(invalid)?.splitn(max.max(5), '/').collect();
        if max < 5 {
            // One slash at the end is allowed, nothing after it.
            parts = path.get(1..).unwrap_or("").splitn(max + 1, '/').collect();
            if parts.len() > max && parts.get(max).is_some_and(|p| !p.is_empty()) {
                return Err(invalid());
            }
            parts.truncate(max);
        }
        if parts.len() < min || parts.iter().take(min).any(|p| p.is_empty()) {
            return Err(invalid());
        }
        let get = |i: usize| parts.get(i).filter(|p| !p.is_empty()).map(|p| (*p).to_string());
        let plain = |p: &str| p != "." && p != "..";
        let (device, partition) = (get(0).unwrap_or_default(), get(1).unwrap_or_default());
        if !plain(&device) {
            return Err(bad_request(format!("Invalid device: {}", quote(&device))));
        }
        if !plain(&partition) {
            return Err(bad_request(format!("Invalid partition: {}", quote(&partition))));
        }
        Ok(Self { device, partition, account: get(2).unwrap_or_default(), container: get(3), object: get(4) })
    }

    /// Names of the reserved namespace must be consistent. Errors: 400.
    pub fn check_reserved(&self) -> Answer<()> {
        let odd = |name: &str| name.contains(RESERVED) && !name.starts_with(RESERVED);
        let fail = |text: String| Err(text_reply(400, "text/html; charset=UTF-8", text).into());
        if odd(&self.account) {
            return fail("Invalid reserved-namespace account".into());
        }
        let Some(container) = &self.container else { return Ok(()) };
        let reserved = container.starts_with(RESERVED);
        let internal = self.account.starts_with('.');
        if odd(container) {
            return fail("Invalid reserved-namespace container".into());
        }
        let Some(object) = self.object.as_deref().filter(|_| !internal) else { return Ok(()) };
        if odd(object) {
            return fail("Invalid reserved-namespace object".into());
        }
        match (reserved, object.starts_with(RESERVED)) {
            (true, false) => fail("Invalid user-namespace object in reserved-namespace container".into()),
            (false, true) => fail("Invalid reserved-namespace object in user-namespace container".into()),
            _ => Ok(()),
        }
    }
}

/// Percent-encoding as Swift does it: slashes stay.
pub(crate) fn quote(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

/// A header's text; `None` when absent or not UTF-8.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

/// A header that says yes.
pub(crate) fn yes(headers: &HeaderMap, name: &str) -> bool {
    header(headers, name).is_some_and(truth)
}

pub(crate) fn truth(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "t" | "y")
}

/// Errors: 400 when absent or no time.
pub(crate) fn timestamp(headers: &HeaderMap) -> Answer<Timestamp> {
    match header(headers, "x-timestamp") {
        None => Err(bad_request("Missing X-Timestamp header")),
        Some(text) => Timestamp::parse(text.trim()).ok_or_else(|| bad_request("Invalid X-Timestamp header")),
    }
}

/// Query parameters; of repeated ones the last counts.
pub(crate) struct Params(HashMap<String, Vec<u8>>);

impl Params {
    pub fn parse(parts: &Parts) -> Self {
        let mut out = HashMap::new();
        for pair in parts.uri.query().unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |t: &str| percent_encoding::percent_decode_str(&t.replace('+', " ")).collect::<Vec<u8>>();
            out.insert(String::from_utf8_lossy(&decode(name)).into_owned(), decode(value));
        }
        Self(out)
    }

    /// Errors: 400 when it is not UTF-8.
    pub fn get(&self, name: &str) -> Answer<Option<String>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => match String::from_utf8(value.clone()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(bad_request(format!("\"{name}\" parameter not valid UTF-8"))),
            },
        }
    }

    pub fn text(&self, name: &str) -> Answer<String> {
        Ok(self.get(name)?.unwrap_or_default())
    }

    /// Page size. Errors: 412 beyond `max`.
    pub fn limit(&self, max: usize) -> Answer<usize> {
        let Some(text) = self.get("limit")?.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit())) else {
            return Ok(max);
        };
        match text.parse::<usize>() {
            Ok(n) if n <= max => Ok(n),
            _ => Err(text_reply(412, "text/html; charset=UTF-8", format!("Maximum limit is {max}")).into()),
        }
    }
}

/// A header's name as upstream stores it: every word with a capital.
pub(crate) fn title_case(name: &str) -> String {
    let mut after_letter = false;
    name.chars()
        .map(|c| {
            let out = if after_letter { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
            after_letter = c.is_ascii_alphabetic();
            out
        })
        .collect()
}

/// Whether a header is user or system metadata of this kind (`account`, `container`).
pub(crate) fn is_meta(kind: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["meta-", "sysmeta-"].iter().any(|what| {
        name.strip_prefix("x-")
            .and_then(|n| n.strip_prefix(kind))
            .and_then(|n| n.strip_prefix('-'))
            .is_some_and(|n| n.strip_prefix(what).is_some_and(|rest| !rest.is_empty()))
    })
}

/// The headers to keep, as of `at`. Errors: 400 for values that are not UTF-8.
pub(crate) fn metadata(headers: &HeaderMap, at: Timestamp, keep: impl Fn(&str) -> bool) -> Answer<Metadata> {
    let mut out = Metadata::new();
    for (name, value) in headers {
        if keep(name.as_str()) {
            let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
                return Err(text_reply(400, "text/html; charset=UTF-8", "Metadata must be valid UTF-8").into());
            };
            let name = names::name_to_wire(name.as_str());
            let Ok(name) = std::str::from_utf8(&name) else { return Err(status(400).into()) };
            out.insert(title_case(name), (value.to_string(), at.internal()));
        }
    }
    Ok(out)
}

/// Reads a body of JSON. Errors: 400, 413.
pub(crate) fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body).map_err(|e| bad_request(e.to_string()))
}

/// Largest body of a REPLICATE, UPDATE or shard request in bytes.
pub(crate) const MAX_BODY: usize = 128 << 20;

pub(crate) async fn read_body(body: caelum_rest::Body) -> Answer<bytes::Bytes> {
    caelum_rest::read_limited(body, MAX_BODY).await.map_err(|e| match e.kind {
        caelum_base::ErrorKind::TooLarge => status(413).into(),
        _ => status(400).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, min: usize, max: usize) -> Result<Target, u16> {
        Target::parse(path, min, max, "x").map_err(|f| f.0.status().as_u16())
    }

    #[test]
    fn paths() {
        let t = parse("/sda/1/a%20b/c/o/p%2F/q", 4, 5).unwrap();
        assert_eq!((t.account.as_str(), t.object.as_deref()), ("a b", Some("o/p//q")));
        assert_eq!(parse("/sda/1/a/c/", 4, 5).unwrap().object, None);
        assert_eq!(parse("/sda/1/a/", 3, 3).unwrap().container, None);
        assert_eq!(parse("/sda/1/a/x", 3, 3), Err(400));
        assert_eq!(parse("/sda/1/a", 4, 5), Err(400));
        assert_eq!(parse("/sda/1//c", 4, 5), Err(400));
        assert_eq!(parse("/../1/a/c", 4, 5), Err(400));
        assert_eq!(parse("/sda/../a/c", 4, 5), Err(400));
        assert_eq!(parse("/sda/1/a/%ff", 4, 5), Err(412));
    }

    #[test]
    fn reserved_names() {
        let ok = |p: &str| parse(p, 3, 5).unwrap().check_reserved().is_ok();
        assert!(ok("/d/1/a/%00c/%00o") && ok("/d/1/.a/c/%00o"));
        assert!(!ok("/d/1/a/%00c/o") && !ok("/d/1/a/c/%00o") && !ok("/d/1/a/c%00d"));
    }

    #[test]
    fn names_of_metadata() {
        assert_eq!(title_case("x-container-meta-a1b-cd"), "X-Container-Meta-A1B-Cd");
        assert!(is_meta("container", "X-Container-Meta-a") && is_meta("container", "x-container-sysmeta-b"));
        assert!(!is_meta("container", "x-container-meta-") && !is_meta("container", "x-account-meta-a"));
        assert!(!is_meta("container", "x-container-read"));
    }
}
