//! Signature version 2: HMAC-SHA1 over a text of its own kind.

use super::{SKEW, SignedRequest};
use crate::errors::{S3Result, err};
use caelum_base::Timestamp;
use caelum_object::http::{parse_http_date, text};
use http::HeaderMap;
use std::collections::BTreeMap;

/// Query parameters that are part of what is signed.
const SUB_RESOURCES: &[&str] = &[
    "acl",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "policyStatus",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "retention",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// The request's time must be near now. Errors: `AccessDenied` without a time, `RequestTimeTooSkewed`.
pub fn check_date(headers: &HeaderMap, now: Timestamp) -> S3Result<()> {
    let named = text(headers, "x-amz-date").or_else(|| text(headers, "date"));
    let time = named.and_then(|t| parse_http_date(t).or_else(|| super::v4::basic_time(t).map(Timestamp::secs)));
    let time = time.ok_or_else(|| err("AccessDenied").text("AWS authentication requires a valid Date or x-amz-date header"))?;
    let skew = i64::try_from(SKEW.as_secs()).unwrap_or(0);
    if (time - now.secs()).abs() > skew { Err(err("RequestTimeTooSkewed")) } else { Ok(()) }
}

pub fn string_to_sign(r: &SignedRequest<'_>, expires: Option<i64>) -> String {
    let get = |name| text(r.headers, name).unwrap_or_default().trim();
    let mut amz: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in r.headers.iter().filter(|(n, _)| n.as_str().starts_with("x-amz-")) {
        amz.entry(name.as_str()).or_default().push(std::str::from_utf8(value.as_bytes()).unwrap_or_default().trim());
    }
    let date = match expires {
        Some(e) => e.to_string(),
        None if amz.contains_key("x-amz-date") => String::new(),
        None => get("date").to_string(),
    };
    let mut out = format!("{}\n{}\n{}\n{date}\n", r.method, get("content-md5"), get("content-type"));
    for (name, values) in amz {
        out.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    if let Some(bucket) = r.host_bucket {
        out.push_str(&format!("/{bucket}"));
    }
    out.push_str(r.path);
    let mut params: Vec<(&str, &str)> =
        r.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).filter(|(k, _)| SUB_RESOURCES.contains(k)).collect();
    params.sort_unstable();
    for (i, (name, value)) in params.into_iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        if !value.is_empty() {
            out.push_str(&format!("={value}"));
        }
    }
    out
}
