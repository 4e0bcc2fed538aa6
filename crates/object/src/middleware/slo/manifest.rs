//! The two forms of a manifest: what clients send and what is stored.

use crate::env::Resp;
use crate::http::{Ranges, error_html, error_with_type, is_true_text, respond};
use crate::middleware::common::swift_bytes;
use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use caelum_swiftkit::python::{json_quoted, json_string};
use caelum_swiftkit::{md5_hex, to_hex};
use md5::{Digest, Md5};
use serde_json::Value;

/// Longest stored manifest that is read, in bytes: eight times what clients may send, as storing adds types and times.
pub(super) const MAX_STORED: usize = 64 * 1024 * 1024;

/// Python's decoder: bits left over are ignored, padding was taken off before.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// A segment as a client names it.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Data(Bytes),
    Object { path: String, etag: Option<String>, size: Option<i64>, range: Option<Ranges> },
}

fn decode(text: &str) -> Option<Bytes> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if padding < (4 - digits.len() % 4) % 4 {
        return None;
    }
    LENIENT.decode(digits).ok().map(Into::into)
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

fn parse_data(value: &Value) -> Result<Wanted, String> {
    match value.as_str().and_then(decode) {
        None => Err("data must be valid base64".into()),
        Some(d) if d.is_empty() => Err("too small; each segment must be at least 1 byte.".into()),
        Some(d) => Ok(Wanted::Data(d)),
    }
}

fn parse_object(segment: &serde_json::Map<String, Value>, last: bool, own: (&str, &str)) -> Result<Wanted, String> {
    let Some(path) = segment["path"].as_str() else { return Err("\"path\" must be a string".into()) };
    let etag = match segment.get("etag") {
        None | Some(Value::Null) => None,
        Some(Value::String(s)) => Some(s.clone()),
        Some(_) => return Err("\"etag\" must be a string or null (if provided)".into()),
    };
    if !path.trim_matches('/').contains('/') {
        return Err("path does not refer to an object. Path must be of the form /container/object.".into());
    }
    let size = match segment.get("size_bytes") {
        None | Some(Value::Null) => None,
        Some(v) => Some(integer(v).ok_or("invalid size_bytes")?),
    };
    if size.is_some_and(|s| s < 1) && !last {
        return Err("too small; each segment must be at least 1 byte.".into());
    }
    if path.trim_start_matches('/').split_once('/') == Some(own) {
        return Err("manifest must not include itself as a segment".into());
    }
    let range = match segment.get("range") {
        None | Some(Value::Null) => None,
        Some(Value::String(s)) if s.is_empty() => None,
        Some(v) => {
            let text = v.as_str().map_or_else(|| v.to_string(), str::to_string);
            let range = Ranges::parse(&format!("bytes={text}")).ok_or("invalid range")?;
            if range.0.len() > 1 {
                return Err("multiple ranges (only one allowed)".into());
            }
            if size.is_some_and(|s| range.for_length(u64::try_from(s).unwrap_or(0)).len() != 1) {
                return Err("unsatisfiable range".into());
            }
            Some(range)
        }
    };
    Ok(Wanted::Object { path: path.to_string(), etag, size, range })
}

fn parse_segment(value: &Value, last: bool, own: (&str, &str)) -> Result<Wanted, String> {
    let Some(segment) = value.as_object() else { return Err("not a JSON object".into()) };
    let (kind, allowed): (_, &[&str]) = if segment.contains_key("data") {
        ("data", &["data"])
    } else if segment.contains_key("path") {
        ("path", &["path", "etag", "size_bytes", "range"])
    } else {
        return Err("expected keys to include one of 'data' or 'path'".into());
    };
    let mut extra: Vec<&String> = segment.keys().filter(|k| !allowed.contains(&k.as_str())).collect();
    if !extra.is_empty() {
        extra.sort();
        let mut text = String::from("extraneous keys ");
        for (i, key) in extra.into_iter().enumerate() {
            text.push_str(if i == 0 { "" } else { ", " });
            text.push_str(&json_quoted(key));
        }
        return Err(text);
    }
    if kind == "data" { parse_data(&segment["data"]) } else { parse_object(segment, last, own) }
}

/// What a client sent. `own`: container and object of the manifest itself.
///
/// Errors: 400 that lists everything wrong.
pub(super) fn parse_wanted(body: &[u8], own: (&str, &str)) -> Result<Vec<Wanted>, Resp> {
    let value: Value = serde_json::from_slice(body).map_err(|_| error_html(400, "Manifest must be valid JSON.\n"))?;
    let Value::Array(items) = value else { return Err(error_html(400, "Manifest must be a list.\n")) };
    let (mut out, mut errors) = (Vec::with_capacity(items.len()), String::new());
    let count = items.len();
    for (i, item) in items.iter().enumerate() {
        match parse_segment(item, i + 1 == count, own) {
            Ok(s) => out.push(s),
            Err(why) => errors.push_str(&format!("Index {i}: {why}\n")),
        }
    }
    if count > 0 && items.iter().all(|i| i.get("data").is_some()) {
        errors.push_str("Inline data segments require at least one object-backed segment.\n");
    }
    if errors.is_empty() { Ok(out) } else { Err(respond(400, "text/plain", errors)) }
}

/// A stored segment.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Data(Bytes),
    Object {
        /// `container/object`, without a slash before it.
        name: String,
        hash: String,
        bytes: u64,
        /// First and last byte.
        range: Option<(u64, u64)>,
        sub_slo: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub kind: Kind,
    /// Bytes it contributes.
    pub length: u64,
}

fn stored_segment(value: &Value) -> Option<Segment> {
    if let Some(data) = value.get("data") {
        let data: Bytes = STANDARD.decode(data.as_str()?).ok()?.into();
        return Some(Segment { length: data.len() as u64, kind: Kind::Data(data) });
    }
    let name = value.get("name")?.as_str()?.trim_start_matches('/').to_string();
    let hash = value.get("hash").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut bytes = u64::try_from(integer(value.get("bytes")?)?).ok()?;
    let sub_slo = match value.get("sub_slo") {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => is_true_text(s),
        _ => false,
    };
    if sub_slo && let Some(n) = value.get("content_type").and_then(Value::as_str).and_then(swift_bytes) {
        bytes = n;
    }
    let range = match value.get("range").and_then(Value::as_str) {
        None => None,
        Some(r) => {
            let (a, b) = r.split_once('-')?;
            let (a, b): (u64, u64) = (a.parse().ok()?, b.parse().ok()?);
            Some((a, b)).filter(|(a, b)| a <= b)
        }
    };
    let length = range.map_or(bytes, |(a, b)| b - a + 1);
    Some(Segment { kind: Kind::Object { name, hash, bytes, range, sub_slo }, length })
}

/// A stored manifest's segments.
///
/// Errors: 500 for content that is no manifest.
pub(super) fn parse_stored(body: &[u8]) -> Result<Vec<Segment>, Resp> {
    let broken = || error_html(500, "Unable to load SLO manifest");
    let values: Vec<Value> = serde_json::from_slice(body).map_err(|_| broken())?;
    values.iter().map(|v| stored_segment(v).ok_or_else(broken)).collect()
}

/// Etag and length of the whole: MD5 over the segments' etags, with the range behind those that have one.
pub(super) fn etag_and_size(segments: &[Segment]) -> (String, Option<u64>) {
    let (mut md5, mut size) = (Md5::new(), Some(0_u64));
    for s in segments {
        match &s.kind {
            Kind::Data(d) => md5.update(md5_hex(d)),
            Kind::Object { hash, range: Some((a, b)), .. } => md5.update(format!("{hash}:{a}-{b};")),
            Kind::Object { hash, .. } => md5.update(hash),
        }
        size = size.and_then(|n| n.checked_add(s.length));
    }
    (to_hex(&md5.finalize()), size)
}

/// The stored form turned back into what a client would send (`format=raw`).
///
/// Errors: 500 for content that is no manifest.
pub(super) fn raw_form(body: &[u8]) -> Result<Value, Resp> {
    let broken = || error_html(500, "Unable to load SLO manifest");
    let mut values: Vec<Value> = serde_json::from_slice(body).map_err(|_| broken())?;
    for value in &mut values {
        let Some(map) = value.as_object_mut() else { return Err(error_with_type(500, "text/html; charset=UTF-8")) };
        if map.contains_key("data") {
            continue;
        }
        for gone in ["content_type", "last_modified", "sub_slo"] {
            map.remove(gone);
        }
        for (old, new) in [("name", "path"), ("bytes", "size_bytes"), ("hash", "etag")] {
            let v = map.remove(old).unwrap_or(Value::Null);
            map.insert(new.into(), v);
        }
    }
    Ok(Value::Array(values))
}

/// A segment with its text in the stored manifest.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub value: Value,
}

/// The stored manifest: keys in the order real nodes write them.
pub(super) fn store_form(entries: &[Entry]) -> String {
    const ORDER: [&str; 8] = ["data", "name", "bytes", "hash", "content_type", "last_modified", "range", "sub_slo"];
    let mut out = String::from("[");
    for (i, entry) in entries.iter().enumerate() {
        out.push_str(if i == 0 { "{" } else { ", {" });
        let Some(map) = entry.value.as_object() else { continue };
        let known = ORDER.iter().filter_map(|k| map.get(*k).map(|v| (*k, v)));
        let other = map.iter().filter(|(k, _)| !ORDER.contains(&k.as_str())).map(|(k, v)| (k.as_str(), v));
        for (j, (key, value)) in known.chain(other).enumerate() {
            out.push_str(if j == 0 { "" } else { ", " });
            out.push_str(&json_quoted(key));
            out.push_str(": ");
            out.push_str(&json_string(value));
        }
        out.push('}');
    }
    out.push(']');
    out
}

/// The text of inline data as it is stored.
pub(super) fn encode_data(data: &[u8]) -> String {
    STANDARD.encode(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(body: &str) -> String {
        match parse_wanted(body.as_bytes(), ("man", "ifest")) {
            Ok(_) => "fine".into(),
            Err(r) => crate::testing::read(r).await.2,
        }
    }

    #[tokio::test]
    async fn refusals() {
        for (body, want) in [
            ("{", "Manifest must be valid JSON.\n"),
            ("{}", "Manifest must be a list.\n"),
            ("[1]", "Index 0: not a JSON object\n"),
            ("[{\"a\":1}]", "Index 0: expected keys to include one of 'data' or 'path'\n"),
            (r#"[{"path":"/c/o","b\"":1,"a":2}]"#, "Index 0: extraneous keys \"a\", \"b\\\"\"\n"),
            (r#"[{"path":3}]"#, "Index 0: \"path\" must be a string\n"),
            (r#"[{"path":"/c/o","etag":3}]"#, "Index 0: \"etag\" must be a string or null (if provided)\n"),
            (r#"[{"path":"/c/"}]"#, "Index 0: path does not refer to an object. Path must be of the form /container/object.\n"),
            (r#"[{"path":"/c/o","size_bytes":"x"}]"#, "Index 0: invalid size_bytes\n"),
            (
                r#"[{"path":"/c/o","size_bytes":0},{"path":"/c/o","size_bytes":"12"}]"#,
                "Index 0: too small; each segment must be at least 1 byte.\n",
            ),
            (r#"[{"path":"man/ifest"}]"#, "Index 0: manifest must not include itself as a segment\n"),
            (r#"[{"path":"/c/o","range":"5-1"}]"#, "Index 0: invalid range\n"),
            (r#"[{"path":"/c/o","range":"1-2,4-5"}]"#, "Index 0: multiple ranges (only one allowed)\n"),
            (r#"[{"path":"/c/o","size_bytes":5,"range":"5-9"}]"#, "Index 0: unsatisfiable range\n"),
            (r#"[{"path":"/c/o"},{"data":"$$"}]"#, "Index 1: data must be valid base64\n"),
            (r#"[{"path":"/c/o"},{"data":"YQ"}]"#, "Index 1: data must be valid base64\n"),
            (r#"[{"path":"/c/o"},{"data":""}]"#, "Index 1: too small; each segment must be at least 1 byte.\n"),
            (r#"[{"data":"YQ=="}]"#, "Inline data segments require at least one object-backed segment.\n"),
            (r#"[{"path":"/c/o","size_bytes":"5","range":"-2"},{"data":"YQ===="}]"#, "fine"),
            ("[]", "fine"),
        ] {
            assert_eq!(refusal(body).await, want, "{body}");
        }
    }

    #[test]
    fn etags_as_real_nodes_compute_them() {
        let stored =
            br#"[{"name": "/c/a", "bytes": 5, "hash": "aaaa", "content_type": "x/y", "last_modified": "2020-01-01T00:00:00.000000"},
            {"name": "/c/b", "bytes": 10, "hash": "bbbb", "range": "2-4", "content_type": "x", "last_modified": ""},
            {"data": "YWJj"},
            {"name": "/c/s", "bytes": 1, "hash": "cccc", "sub_slo": true, "content_type": "x;swift_bytes=77"}]"#;
        let s = parse_stored(stored).unwrap();
        assert_eq!(s.iter().map(|s| s.length).collect::<Vec<_>>(), [5, 3, 3, 77]);
        let (etag, size) = etag_and_size(&s);
        // hashlib.md5(b"aaaa" b"bbbb:2-4;" + md5(b"abc").hexdigest().encode() + b"cccc").hexdigest()
        assert_eq!(etag, md5_hex(b"aaaabbbb:2-4;900150983cd24fb0d6963f7d28e17f72cccc"));
        assert_eq!(size, Some(88));
    }
}
