//! What is in a bucket: both versions of the listing.

use super::{number, xml, xml_time};
use crate::context::{Cx, Need, Subject};
use crate::errors::{S3Result, invalid_argument};
use crate::xml::Xml;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_object::env::Resp;
use caelum_object::http::is_true_text;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// How names stand in the answer.
pub struct Encoding(bool);

impl Encoding {
    /// Errors: `InvalidArgument` for encodings other than `url`.
    pub fn of(cx: &Cx) -> S3Result<Self> {
        match cx.params.get("encoding-type") {
            None => Ok(Self(false)),
            Some("url") => Ok(Self(true)),
            Some(other) => Err(invalid_argument("encoding-type", other, "Invalid Encoding Method specified in Request")),
        }
    }

    pub fn apply(&self, name: &str) -> String {
        if self.0 { utf8_percent_encode(name, KEEP).to_string() } else { name.to_string() }
    }

    pub fn write(&self, x: &mut Xml) {
        if self.0 {
            x.leaf("EncodingType", "url");
        }
    }
}

/// The tag of a row as S3's clients see it, with its quotes.
pub fn etag_of(row: &Value) -> String {
    let get = |n: &str| row.get(n).and_then(Value::as_str);
    // What other layers have not taken apart still stands behind the hash.
    let hash = get("hash").unwrap_or_default();
    let behind = |name: &str| hash.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
    let of = |name: &str| get(name).or_else(|| behind(name)).map(|e| e.trim_matches('"').to_string());
    match (of("s3_etag"), of("slo_etag")) {
        (Some(e), _) => format!("\"{e}\""),
        (None, Some(e)) => format!("\"{e}-N\""),
        (None, None) => format!("\"{}\"", hash.split(';').next().unwrap_or_default().trim().trim_matches('"')),
    }
}

pub fn write_owner(x: &mut Xml, user: &str) {
    x.open("Owner").leaf("ID", user).leaf("DisplayName", user).close();
}

/// The rows of a page, one more than asked for when there are more.
pub fn rows_of(v: Value) -> Vec<Value> {
    match v {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

pub fn row_name(row: &Value) -> &str {
    row.get("name").or_else(|| row.get("subdir")).and_then(Value::as_str).unwrap_or_default()
}

struct Page<'a> {
    is_v2: bool,
    encoding: Encoding,
    asked: u64,
    rows: &'a [Value],
    is_truncated: bool,
    with_owner: bool,
}

fn marker_of(cx: &Cx, is_v2: bool) -> S3Result<Option<String>> {
    if !is_v2 {
        return Ok(cx.params.get("marker").map(str::to_string));
    }
    let Some(token) = cx.params.get("continuation-token") else { return Ok(cx.params.get("start-after").map(str::to_string)) };
    let text = STANDARD.decode(token).ok().and_then(|b| String::from_utf8(b).ok());
    let bad = || invalid_argument("continuation-token", token, "The continuation token provided is incorrect");
    text.filter(|t| !t.is_empty()).map(Some).ok_or_else(bad)
}

pub async fn list(cx: &mut Cx) -> S3Result<Resp> {
    let is_v2 = match cx.params.get("list-type") {
        None | Some("1") => false,
        Some("2") => true,
        Some(other) => return Err(invalid_argument("list-type", other, "Invalid List Type specified in Request")),
    };
    let state = cx.authorize("s3:ListBucket", None, Need::Bucket("READ")).await?;
    let encoding = Encoding::of(cx)?;
    let max = cx.inner.deps.options.max_listing as u64;
    let asked = number(cx, "max-keys", max)?;
    let keys = asked.min(max);
    let mut call = cx.on_target(Method::GET).query("limit", &(keys + 1).to_string());
    for name in ["prefix", "delimiter"] {
        if let Some(v) = cx.params.get(name).filter(|v| !v.is_empty()) {
            call = call.query(name, v);
        }
    }
    if let Some(m) = marker_of(cx, is_v2)?.filter(|m| !m.is_empty()) {
        call = call.query("marker", &m);
    }
    let (rows, _) = call.json(Subject::Bucket(cx.bucket())).await?;
    let mut rows = rows_of(rows);
    let keys = usize::try_from(keys).unwrap_or(0);
    let is_truncated = keys > 0 && rows.len() > keys;
    rows.truncate(keys);
    let with_owner = !is_v2 || cx.params.get("fetch-owner").is_some_and(is_true_text);
    let page = Page { is_v2, encoding, asked, rows: &rows, is_truncated, with_owner };
    let owner = state.acl.owner.clone().unwrap_or_else(|| cx.user());
    Ok(xml(write(cx, &page, &owner)))
}

fn write(cx: &Cx, p: &Page<'_>, owner: &str) -> String {
    let name = |t: &str| p.encoding.apply(t);
    let param = |n: &str| cx.params.get(n).map(&name);
    let last = p.rows.last().map(row_name).filter(|_| p.is_truncated);
    let mut x = Xml::document("ListBucketResult", true);
    x.leaf("Name", cx.bucket()).leaf("Prefix", param("prefix").unwrap_or_default());
    if p.is_v2 {
        x.leaf_if("NextContinuationToken", last.map(|l| STANDARD.encode(l)).as_deref());
        x.leaf_if("ContinuationToken", cx.params.get("continuation-token"));
        x.leaf_if("StartAfter", param("start-after").as_deref());
        x.leaf("KeyCount", p.rows.len().to_string());
    } else {
        x.leaf("Marker", param("marker").unwrap_or_default());
        let next = last.filter(|_| cx.params.has("delimiter")).map(&name);
        x.leaf_if("NextMarker", next.as_deref());
    }
    x.leaf("MaxKeys", p.asked.to_string());
    x.leaf_if("Delimiter", param("delimiter").filter(|d| !d.is_empty()).as_deref());
    p.encoding.write(&mut x);
    x.leaf("IsTruncated", p.is_truncated.to_string());
    for row in p.rows.iter().filter(|r| r.get("subdir").is_none()) {
        x.open("Contents").leaf("Key", name(row_name(row)));
        x.leaf("LastModified", xml_time(row.get("last_modified").and_then(Value::as_str).unwrap_or_default()));
        x.leaf("ETag", etag_of(row)).leaf("Size", row.get("bytes").and_then(Value::as_u64).unwrap_or(0).to_string());
        if p.with_owner {
            write_owner(&mut x, owner);
        }
        x.leaf("StorageClass", "STANDARD").close();
    }
    for row in p.rows.iter().filter(|r| r.get("subdir").is_some()) {
        x.open("CommonPrefixes").leaf("Prefix", name(row_name(row))).close();
    }
    x.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tags_of_rows() {
        assert_eq!(etag_of(&json!({"hash": "abc"})), "\"abc\"");
        assert_eq!(etag_of(&json!({"hash": "abc", "s3_etag": "\"def-2\""})), "\"def-2\"");
        assert_eq!(etag_of(&json!({"hash": "abc", "slo_etag": "\"def\""})), "\"def-N\"");
        assert_eq!(etag_of(&json!({"hash": "abc; s3_etag=def-2; slo_etag=x"})), "\"def-2\"");
    }
}
