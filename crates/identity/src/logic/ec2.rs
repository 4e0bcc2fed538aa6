//! Signatures made with EC2 keys: AWS versions 2 and 4 of requests to EC2-like APIs, and of S3's
//! string to sign.

use crate::token::payload::hex;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use caelum_base::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// A signed request as the service that got it describes it.
#[derive(Clone, Deserialize)]
pub struct Signed {
    pub access: String,
    #[serde(default)]
    pub signature: String,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub verb: String,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub body_hash: String,
    /// S3: the string to sign in URL-safe base 64.
    pub token: Option<String>,
}

/// How old or new a signed request may be.
const SKEW: Duration = Duration::from_secs(15 * 60);

fn sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut m = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    m.update(data);
    m.finalize().into_bytes().to_vec()
}

fn sha1(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut m = <Hmac<Sha1> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    m.update(data);
    m.finalize().into_bytes().to_vec()
}

fn quote(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Version 4's key for `date/region/service/aws4_request`.
fn signing_key(secret: &str, scope: &[&str]) -> Option<Vec<u8>> {
    let [date, region, service, "aws4_request"] = scope else { return None };
    let mut key = sha256(format!("AWS4{secret}").as_bytes(), date.as_bytes());
    for part in [*region, *service, "aws4_request"] {
        key = sha256(&key, part.as_bytes());
    }
    Some(key)
}

fn same(a: &str, b: &str) -> bool {
    !a.is_empty() && bool::from(subtle::ConstantTimeEq::ct_eq(a.as_bytes(), b.as_bytes()))
}

/// Whether an S3 string to sign carries `secret`'s signature.
pub fn s3_fits(signed: &Signed, secret: &str) -> bool {
    let Some(text) = signed.token.as_ref().and_then(|t| URL_SAFE.decode(t).ok()) else { return false };
    if !text.starts_with(b"AWS4") {
        return same(&signed.signature, &STANDARD.encode(sha1(secret.as_bytes(), &text)));
    }
    let Ok(text) = String::from_utf8(text) else { return false };
    let lines: Vec<&str> = text.split('\n').collect();
    let ["AWS4-HMAC-SHA256", _, scope, _] = lines.as_slice() else { return false };
    let scope: Vec<&str> = scope.split('/').collect();
    if !scope.get(2).is_some_and(|s| matches!(*s, "s3" | "iam" | "sts")) {
        return false;
    }
    signing_key(secret, &scope).is_some_and(|k| same(&signed.signature, &hex(&sha256(&k, text.as_bytes()))))
}

/// Whether a request to an EC2-like API carries `secret`'s signature; clients may leave the port out.
pub fn request_fits(signed: &Signed, secret: &str) -> bool {
    let bare = signed.host.split(':').next().unwrap_or_default();
    [signed.host.as_str(), bare].iter().any(|host| {
        let made = if authorization(signed).is_some() || signed.params.contains_key("X-Amz-Algorithm") {
            version_4(signed, secret, host)
        } else {
            version_2(signed, secret, host)
        };
        made.is_some_and(|m| same(&signed.signature, &m))
    })
}

fn header<'a>(signed: &'a Signed, name: &str) -> Option<&'a str> {
    signed.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

fn authorization(signed: &Signed) -> Option<&str> {
    header(signed, "Authorization")?.strip_prefix("AWS4-HMAC-SHA256")
}

/// `Credential` or `SignedHeaders`, from the header or from the query.
fn auth_part<'a>(signed: &'a Signed, name: &str) -> Option<&'a str> {
    if let Some(a) = authorization(signed) {
        return a.split(',').filter_map(|p| p.trim().split_once('=')).find(|(k, _)| *k == name).map(|(_, v)| v);
    }
    signed.params.get(&format!("X-Amz-{name}")).map(String::as_str)
}

fn query(signed: &Signed, without: &str) -> String {
    let pairs: Vec<String> =
        signed.params.iter().filter(|(k, _)| *k != without).map(|(k, v)| format!("{}={}", quote(k), quote(v))).collect();
    pairs.join("&")
}

fn version_2(signed: &Signed, secret: &str, host: &str) -> Option<String> {
    let text = format!("{}\n{host}\n{}\n{}", signed.verb, signed.path, query(signed, "Signature"));
    match signed.params.get("SignatureMethod")?.as_str() {
        "HmacSHA256" => Some(STANDARD.encode(sha256(secret.as_bytes(), text.as_bytes()))),
        "HmacSHA1" => Some(STANDARD.encode(sha1(secret.as_bytes(), text.as_bytes()))),
        _ => None,
    }
}

fn version_4(signed: &Signed, secret: &str, host: &str) -> Option<String> {
    let names = auth_part(signed, "SignedHeaders")?;
    let mut headers = String::new();
    for name in names.split(';') {
        let value = if name.eq_ignore_ascii_case("host") { host } else { header(signed, name)? };
        headers.push_str(&format!("{}:{}\n", name.to_ascii_lowercase(), value.trim()));
    }
    let request =
        format!("{}\n{}\n{}\n{headers}\n{names}\n{}", signed.verb, signed.path, query(signed, "X-Amz-Signature"), signed.body_hash);
    let (_, scope) = auth_part(signed, "Credential")?.split_once('/')?;
    let date = header(signed, "X-Amz-Date").or_else(|| signed.params.get("X-Amz-Date").map(String::as_str))?;
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let key = signing_key(secret, &scope.split('/').collect::<Vec<_>>())?;
    Some(hex(&sha256(&key, text.as_bytes())))
}

/// Whether the signed time, if any is given, is near now. A version-2 or -4 request must have one.
pub fn fresh(signed: &Signed, now: Timestamp) -> bool {
    let amz = header(signed, "X-Amz-Date").or_else(|| signed.params.get("X-Amz-Date").map(String::as_str));
    let time = match (amz, signed.params.get("Timestamp")) {
        (Some(t), _) => basic_time(t),
        (None, Some(t)) => Timestamp::parse(t),
        // S3's string to sign is checked for age by the service that got it.
        (None, None) => return signed.token.is_some(),
    };
    time.is_some_and(|t| now.since(t) <= SKEW && t.since(now) <= SKEW)
}

/// `20150830T123600Z`
fn basic_time(t: &str) -> Option<Timestamp> {
    let (d, c) = t.split_once('T')?;
    let (y, m, day) = (d.get(..4)?, d.get(4..6)?, d.get(6..8)?);
    let (h, mi, s) = (c.get(..2)?, c.get(2..4)?, c.get(4..6)?);
    Timestamp::parse(&format!("{y}-{m}-{day}T{h}:{mi}:{s}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    /// The worked example of AWS's own description of version 4.
    #[test]
    fn agrees_with_the_published_example() {
        let auth = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=x";
        let mut signed = Signed {
            access: "AKIDEXAMPLE".into(),
            signature: "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7".into(),
            host: "iam.amazonaws.com:8000".into(),
            verb: "GET".into(),
            path: "/".into(),
            params: text(&[("Action", "ListUsers"), ("Version", "2010-05-08")]),
            headers: text(&[
                ("Authorization", auth),
                ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("X-Amz-Date", "20150830T123600Z"),
            ]),
            body_hash: hex(&Sha256::digest(b"")),
            token: None,
        };
        assert!(request_fits(&signed, SECRET));
        let then = Timestamp::parse("2015-08-30T12:40:00Z").unwrap();
        assert!(fresh(&signed, then) && !fresh(&signed, then.plus(Duration::from_secs(16 * 60))));
        signed.path = "/other".into();
        assert!(!request_fits(&signed, SECRET));
        signed.signature.clear();
        assert!(!request_fits(&signed, SECRET));
    }
}
