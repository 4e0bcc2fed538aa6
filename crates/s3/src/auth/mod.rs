//! Who signed a request: Amazon's signature versions 2 and 4, in headers and in the query. Sources: Amazon S3's API
//! reference, "Authenticating Requests", and the S3 REST authentication of version 2.
//!
//! Invariants: a signature counts for 15 minutes, or as long as a presigned URL says (seven days at most); every
//! `x-amz-` header that a request carries is covered by its signature; a request with two signatures, or an empty one,
//! is refused; signatures are compared in constant time.

mod v2;
mod v4;

pub use v4::{EMPTY, SigningContext};

use crate::errors::{S3Error, S3Result, err};
use base64::Engine;
use caelum_base::{Secret, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use sha1::Sha1;
use sha2::Sha256;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How old or new a signature may be (`allowable_clock_skew`).
pub const SKEW: Duration = Duration::from_secs(15 * 60);
/// How long a presigned URL may count.
pub const MAX_PRESIGNED_SECS: i64 = 604_800;

/// What of a request is signed.
pub struct SignedRequest<'a> {
    pub method: &'a Method,
    /// As the client sent it, percent-encoded, with everything a front door may have stripped.
    pub path: &'a str,
    /// The bucket, when it stands in the host name.
    pub host_bucket: Option<&'a str>,
    pub query: &'a [(String, String)],
    pub headers: &'a HeaderMap,
    /// SHA-256 of the body in hex, for requests that do not name it in `x-amz-content-sha256`.
    pub body_hash: Option<&'a str>,
}

/// Where a signature stands and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    V2Header { access: String, signature: String },
    V2Query { access: String, signature: String, expires: i64 },
    V4 { parts: v4::Parts, in_query: bool },
}

/// A query string's parameters in order, decoded.
pub fn query_pairs(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |t: &str| percent_decode_str(&t.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.unwrap_or_default().split('&').filter(|p| !p.is_empty());
    pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

/// The only value of a header. Errors: `InvalidRequest`-like refusals for one sent twice.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> S3Result<Option<&'a str>> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(err("AccessDenied").text(format!("The header {name} stands twice in the request.")));
    }
    first.to_str().map(Some).map_err(|_| err("AccessDenied"))
}

/// The only value of a query parameter.
fn single_param<'a>(query: &'a [(String, String)], name: &str) -> S3Result<Option<&'a str>> {
    let mut all = query.iter().filter(|(k, _)| k == name);
    let first = all.next().map(|(_, v)| v.as_str());
    if all.next().is_some() {
        return Err(err("AccessDenied").text(format!("The parameter {name} stands twice in the request.")));
    }
    Ok(first)
}

/// Whether a request says that it is signed as S3 requests are.
pub fn looks_signed(headers: &HeaderMap, query: Option<&str>) -> bool {
    let header = |v: &http::HeaderValue| v.as_bytes().starts_with(b"AWS ") || v.as_bytes().starts_with(b"AWS4-HMAC-SHA256");
    if headers.get_all(http::header::AUTHORIZATION).iter().any(header) {
        return true;
    }
    let names = ["AWSAccessKeyId", "X-Amz-Credential", "X-Amz-Algorithm"];
    query.is_some_and(|q| names.iter().any(|n| q.contains(n)) && query_pairs(query).iter().any(|(k, _)| names.contains(&k.as_str())))
}

/// The signature of a request; `None` for anonymous ones.
///
/// Errors: what clients are told of a malformed, doubled or empty signature.
pub fn claim(headers: &HeaderMap, query: &[(String, String)]) -> S3Result<Option<Claim>> {
    let header = single(headers, "authorization")?;
    let v4_query = ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"].iter().any(|n| query.iter().any(|(k, _)| k == n));
    let v2_query = query.iter().any(|(k, _)| k == "AWSAccessKeyId");
    let signed_header = header.filter(|h| h.starts_with("AWS"));
    if usize::from(signed_header.is_some()) + usize::from(v4_query) + usize::from(v2_query) > 1 {
        return Err(err("AccessDenied").text("Only one kind of authentication is allowed in a request."));
    }
    if v4_query {
        return Ok(Some(Claim::V4 { parts: v4::of_query(query)?, in_query: true }));
    }
    if v2_query {
        let get = |name| single_param(query, name).and_then(|v| v.filter(|v| !v.is_empty()).ok_or_else(|| err("AccessDenied")));
        let expires = get("Expires")?.parse().map_err(|_| err("AccessDenied").text("Invalid date (should be seconds since epoch)"))?;
        return Ok(Some(Claim::V2Query { access: get("AWSAccessKeyId")?.into(), signature: get("Signature")?.into(), expires }));
    }
    let Some(text) = signed_header else {
        // Anonymous, or a scheme that this layer does not know.
        return Ok(None);
    };
    if let Some(rest) = text.strip_prefix("AWS4-HMAC-SHA256") {
        return Ok(Some(Claim::V4 { parts: v4::of_header(rest)?, in_query: false }));
    }
    let malformed = || err("AccessDenied").text("AWS authentication requires an access key and a signature.");
    let (access, signature) = text.strip_prefix("AWS ").and_then(|t| t.rsplit_once(':')).ok_or_else(malformed)?;
    if access.is_empty() || signature.trim().is_empty() {
        return Err(malformed());
    }
    Ok(Some(Claim::V2Header { access: access.trim().into(), signature: signature.trim().into() }))
}

impl Claim {
    /// The access key of whoever signed.
    pub fn access(&self) -> &str {
        match self {
            Self::V2Header { access, .. } | Self::V2Query { access, .. } => access,
            Self::V4 { parts, .. } => &parts.access,
        }
    }

    /// The signature covers a hash of the body.
    pub fn needs_hash(&self) -> bool {
        matches!(self, Self::V4 { in_query: false, .. })
    }

    pub fn in_query(&self) -> bool {
        matches!(self, Self::V2Query { .. } | Self::V4 { in_query: true, .. })
    }

    /// `REST-QUERY-STRING`, as policies name it.
    pub fn auth_type(&self) -> &'static str {
        if self.in_query() { "REST-QUERY-STRING" } else { "REST-HEADER" }
    }

    pub fn version(&self) -> &'static str {
        if matches!(self, Self::V4 { .. }) { "AWS4-HMAC-SHA256" } else { "AWS" }
    }

    /// Checks times, scope and that everything is signed that must be: all that needs no secret.
    pub fn check(&self, r: &SignedRequest<'_>, region: &str, now: Timestamp) -> S3Result<()> {
        match self {
            Self::V2Header { .. } => v2::check_date(r.headers, now),
            Self::V2Query { expires, .. } => {
                if *expires < now.secs() {
                    return Err(err("AccessDenied").text("Request has expired"));
                }
                if *expires >= i64::from(u32::MAX) {
                    return Err(err("AccessDenied").text("Invalid date (should be seconds since epoch)"));
                }
                Ok(())
            }
            Self::V4 { parts, in_query } => parts.check(r, *in_query, region, now),
        }
    }

    /// Compares the signature with the one that the secret makes. What version 4 needs to check a chunked body
    /// comes back.
    ///
    /// Errors: `SignatureDoesNotMatch`.
    pub fn verify(&self, r: &SignedRequest<'_>, secret: &Secret<String>) -> S3Result<Option<SigningContext>> {
        match self {
            Self::V2Header { signature, .. } => {
                let text = v2::string_to_sign(r, None);
                same(&base64(&sha1_mac(secret.expose().as_bytes(), text.as_bytes())), signature).map(|()| None)
            }
            Self::V2Query { signature, expires, .. } => {
                let text = v2::string_to_sign(r, Some(*expires));
                same(&base64(&sha1_mac(secret.expose().as_bytes(), text.as_bytes())), signature).map(|()| None)
            }
            Self::V4 { parts, in_query } => {
                let context = parts.context(r, *in_query, secret)?;
                same(&parts.expected(r, *in_query, &context)?, &parts.signature)?;
                Ok(Some(context))
            }
        }
    }
}

fn base64(data: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(data)
}

fn same(expected: &str, given: &str) -> S3Result<()> {
    let fits = !given.is_empty() && bool::from(expected.as_bytes().ct_eq(given.as_bytes()));
    if fits { Ok(()) } else { Err(mismatch()) }
}

fn mismatch() -> S3Error {
    err("SignatureDoesNotMatch")
}

pub(crate) fn sha256_mac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut m = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    m.update(data);
    m.finalize().into_bytes().into()
}

fn sha1_mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut m = <Hmac<Sha1> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    m.update(data);
    m.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests;
