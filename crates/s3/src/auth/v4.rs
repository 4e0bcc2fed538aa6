//! Signature version 4: HMAC-SHA256 over a canonical form of the request, and over each chunk of a chunked body.

use super::{MAX_PRESIGNED_SECS, SKEW, SignedRequest, mismatch, sha256_mac, single_param};
use crate::errors::{S3Error, S3Result, err};
use caelum_base::{Secret, Timestamp};
use caelum_object::http::{parse_http_date, text};
use caelum_swiftkit::to_hex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

/// What an authorization says, from the header or from the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    pub access: String,
    /// date/region/service/terminal
    pub scope: [String; 4],
    pub signed_headers: Vec<String>,
    pub signature: String,
}

/// What checks the chunks of a body: the key for the request's scope, and the signature before the next chunk.
#[derive(Clone)]
pub struct SigningContext {
    key: Secret<Vec<u8>>,
    date: String,
    scope: String,
    previous: String,
}

const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const KEEP_PATH: &AsciiSet = &KEEP.remove(b'/');

fn malformed(message: impl Into<String>) -> S3Error {
    err("AuthorizationHeaderMalformed").text(message)
}

fn parts(credential: &str, signed: &str, signature: &str) -> S3Result<Parts> {
    // The access key may contain slashes (and colons): the scope is the last four parts.
    let mut pieces: Vec<&str> = credential.rsplitn(5, '/').collect();
    pieces.reverse();
    let [access, date, region, service, terminal] = pieces.as_slice() else {
        return Err(malformed(
            "The authorization header is malformed; the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
        ));
    };
    let signed_headers: Vec<String> = signed.split(';').map(str::to_ascii_lowercase).filter(|h| !h.is_empty()).collect();
    if access.is_empty() || signed_headers.is_empty() || signed_headers.len() > 128 {
        return Err(malformed("The authorization header requires three components: Credential, SignedHeaders, and Signature."));
    }
    if signature.is_empty() {
        return Err(err("AccessDenied").text("The signature is empty."));
    }
    Ok(Parts {
        access: (*access).into(),
        scope: [(*date).into(), (*region).into(), (*service).into(), (*terminal).into()],
        signed_headers,
        signature: signature.into(),
    })
}

/// From what follows `AWS4-HMAC-SHA256` in the header.
pub fn of_header(text: &str) -> S3Result<Parts> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for piece in text.split(',') {
        let Some((name, value)) = piece.trim().split_once('=') else { continue };
        if found.insert(name, value.trim()).is_some() {
            return Err(err("AccessDenied").text(format!("{name} stands twice in the authorization header.")));
        }
    }
    let get = |name: &str| found.get(name).copied().unwrap_or_default();
    if !found.contains_key("Signature") {
        return Err(malformed(
            "The authorization header is malformed; the authorization header requires three components: Credential, SignedHeaders, and Signature.",
        ));
    }
    parts(get("Credential"), get("SignedHeaders"), get("Signature"))
}

/// From the parameters of a presigned URL.
pub fn of_query(query: &[(String, String)]) -> S3Result<Parts> {
    let bad = |m: &str| err("AuthorizationQueryParametersError").text(m);
    let get = |name: &str| single_param(query, name).map(Option::unwrap_or_default);
    if get("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(bad("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    for name in ["X-Amz-Credential", "X-Amz-Signature", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Expires"] {
        if single_param(query, name)?.is_none() {
            return Err(bad(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            ));
        }
    }
    parts(get("X-Amz-Credential")?, get("X-Amz-SignedHeaders")?, get("X-Amz-Signature")?)
}

/// `20150830T123600Z`
pub fn basic_time(t: &str) -> Option<Timestamp> {
    if t.len() != 16 || !t.is_ascii() || !t.ends_with('Z') {
        return None;
    }
    let (d, c) = t.split_once('T')?;
    let (y, m, day) = (d.get(..4)?, d.get(4..6)?, d.get(6..8)?);
    let (h, mi, s) = (c.get(..2)?, c.get(2..4)?, c.get(4..6)?);
    Timestamp::parse(&format!("{y}-{m}-{day}T{h}:{mi}:{s}Z"))
}

fn basic_text(t: Timestamp) -> String {
    t.iso_z().replace(['-', ':'], "")
}

/// The time of the signature, as the string to sign has it.
fn signing_date(r: &SignedRequest<'_>, in_query: bool) -> S3Result<(Timestamp, String)> {
    let missing = || err("AccessDenied").text("AWS authentication requires a valid Date or x-amz-date header");
    let named = if in_query { single_param(r.query, "X-Amz-Date")? } else { text(r.headers, "x-amz-date") };
    if let Some(t) = named {
        return Ok((basic_time(t).ok_or_else(missing)?, t.to_string()));
    }
    let date = text(r.headers, "date").filter(|_| !in_query);
    let time = date.and_then(|d| parse_http_date(d).map(Timestamp::from_secs).or_else(|| basic_time(d))).ok_or_else(missing)?;
    Ok((time, basic_text(time)))
}

impl Parts {
    pub fn check(&self, r: &SignedRequest<'_>, in_query: bool, region: &str, now: Timestamp) -> S3Result<()> {
        let (time, date) = signing_date(r, in_query)?;
        self.check_scope(&date, in_query, region)?;
        self.check_age(r, in_query, time, now)?;
        if !self.signed_headers.iter().any(|h| h == "host") {
            return Err(err("AccessDenied").text("The Host header is not signed."));
        }
        for name in r.headers.keys().map(http::HeaderName::as_str) {
            if name.starts_with("x-amz-") && !self.signed_headers.iter().any(|h| h == name) {
                let e = err("AccessDenied").text("There were headers present in the request which were not signed");
                return Err(e.with("HeadersNotSigned", name));
            }
        }
        Ok(())
    }

    fn check_scope(&self, date: &str, in_query: bool, region: &str) -> S3Result<()> {
        let bad = |m: String| if in_query { err("AuthorizationQueryParametersError").text(m) } else { malformed(m) };
        let [day, named, service, terminal] = &self.scope;
        if !date.starts_with(day.as_str()) || day.len() != 8 {
            return Err(bad(format!("Invalid credential date \"{day}\". This date is not the same as X-Amz-Date: \"{date}\".")));
        }
        if !region.is_empty() && !named.eq_ignore_ascii_case(region) {
            let text = format!("The authorization header is malformed; the region '{named}' is wrong; expecting '{region}'");
            return Err(bad(text).with("Region", region));
        }
        if service != "s3" {
            return Err(bad(format!("incorrect service \"{service}\". This endpoint belongs to \"s3\".")));
        }
        if terminal != "aws4_request" {
            return Err(bad(format!("incorrect terminal \"{terminal}\". This endpoint uses \"aws4_request\".")));
        }
        Ok(())
    }

    fn check_age(&self, r: &SignedRequest<'_>, in_query: bool, time: Timestamp, now: Timestamp) -> S3Result<()> {
        let skewed = || err("RequestTimeTooSkewed").with("ServerTime", now.iso_z());
        if !in_query {
            return if now.since(time) > SKEW || time.since(now) > SKEW { Err(skewed()) } else { Ok(()) };
        }
        let bad = |m: &str| err("AuthorizationQueryParametersError").text(m);
        let expires = single_param(r.query, "X-Amz-Expires")?.unwrap_or_default();
        let expires: i64 = expires.parse().map_err(|_| bad("X-Amz-Expires should be a number"))?;
        if expires < 0 {
            return Err(bad("X-Amz-Expires must be non-negative"));
        }
        if expires > MAX_PRESIGNED_SECS {
            return Err(bad(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
            ));
        }
        if time.since(now) > SKEW {
            return Err(skewed());
        }
        if time.secs() + expires < now.secs() {
            return Err(err("AccessDenied").text("Request has expired"));
        }
        Ok(())
    }

    /// The key for this request's scope.
    pub fn context(&self, r: &SignedRequest<'_>, in_query: bool, secret: &Secret<String>) -> S3Result<SigningContext> {
        let (_, date) = signing_date(r, in_query)?;
        let mut key = format!("AWS4{}", secret.expose()).into_bytes();
        for piece in &self.scope {
            key = sha256_mac(&key, piece.as_bytes()).to_vec();
        }
        Ok(SigningContext { key: Secret::new(key), date, scope: self.scope.join("/"), previous: self.signature.clone() })
    }

    /// The signature that the request should have.
    pub fn expected(&self, r: &SignedRequest<'_>, in_query: bool, context: &SigningContext) -> S3Result<String> {
        let request = self.canonical_request(r, in_query)?;
        let hash = to_hex(&Sha256::digest(request.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{hash}", context.date, context.scope);
        Ok(to_hex(&sha256_mac(context.key.expose(), text.as_bytes())))
    }

    pub(super) fn canonical_request(&self, r: &SignedRequest<'_>, in_query: bool) -> S3Result<String> {
        let quote = |t: &str| utf8_percent_encode(t, KEEP).to_string();
        let path = percent_encoding::percent_encode(&percent_decode_str(r.path).collect::<Vec<u8>>(), KEEP_PATH).to_string();
        let mut query: Vec<(String, String)> =
            r.query.iter().filter(|(k, _)| k != "X-Amz-Signature").map(|(k, v)| (quote(k), quote(v))).collect();
        query.sort_unstable();
        let query: Vec<String> = query.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut names = self.signed_headers.clone();
        names.sort_unstable();
        let mut headers = String::new();
        for name in &names {
            let values: Vec<String> = r
                .headers
                .get_all(name.as_str())
                .iter()
                .map(|v| String::from_utf8_lossy(v.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            if values.is_empty() {
                return Err(mismatch());
            }
            headers.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        let payload = match text(r.headers, "x-amz-content-sha256") {
            Some(p) => p.to_string(),
            None if in_query => single_param(r.query, "X-Amz-Content-Sha256")?.unwrap_or("UNSIGNED-PAYLOAD").to_string(),
            None => r.body_hash.ok_or_else(mismatch)?.to_string(),
        };
        Ok(format!("{}\n{path}\n{}\n{headers}\n{}\n{payload}", r.method, query.join("&"), names.join(";")))
    }
}

/// SHA-256 of nothing.
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl SigningContext {
    fn check(&mut self, text: &str, signature: &str) -> bool {
        let expected = to_hex(&sha256_mac(self.key.expose(), text.as_bytes()));
        let fits = bool::from(expected.as_bytes().ct_eq(signature.as_bytes()));
        self.previous = signature.to_string();
        fits
    }

    /// Whether the next chunk, whose SHA-256 is given in hex, has this signature.
    pub fn chunk(&mut self, sha256: &str, signature: &str) -> bool {
        let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{}\n{EMPTY}\n{sha256}", self.date, self.scope, self.previous);
        self.check(&text, signature)
    }

    /// Whether the trailers (`name:value\n` each) have this signature.
    pub fn trailer(&mut self, canonical: &str, signature: &str) -> bool {
        let hash = to_hex(&Sha256::digest(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{}\n{hash}", self.date, self.scope, self.previous);
        self.check(&text, signature)
    }
}

impl std::fmt::Debug for SigningContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningContext").field("scope", &self.scope).finish_non_exhaustive()
    }
}
