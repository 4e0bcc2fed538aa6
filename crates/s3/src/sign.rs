//! Signing, for tests: what a client does.

use crate::auth::{Claim, SignedRequest, claim, query_pairs};
use caelum_base::{Secret, Timestamp};
use caelum_object::env::Req;
use caelum_swiftkit::to_hex;
use http::HeaderValue;
use sha2::{Digest, Sha256};

/// Signs a request with version 4 in its header; the payload's hash is of `body`.
pub fn sign(mut req: Req, access: &str, secret: &str, now: Timestamp, body: &[u8]) -> Req {
    let h = req.headers_mut();
    if !h.contains_key("x-amz-content-sha256") {
        h.insert("x-amz-content-sha256", HeaderValue::from_str(&to_hex(&Sha256::digest(body))).unwrap());
    }
    sign_as_it_is(req, access, secret, now, body)
}

/// The same without naming the payload's hash.
pub fn sign_as_it_is(mut req: Req, access: &str, secret: &str, now: Timestamp, body: &[u8]) -> Req {
    let stamp = now.iso_z().replace(['-', ':'], "");
    let h = req.headers_mut();
    h.insert("x-amz-date", HeaderValue::from_str(&stamp).unwrap());
    let mut names: Vec<&str> =
        h.keys().map(|n| n.as_str()).filter(|n| *n == "host" || n.starts_with("x-amz-") || *n == "content-md5").collect();
    names.sort_unstable();
    let names = names.join(";");
    let text = |signature: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential={access}/{}/us-east-1/s3/aws4_request, SignedHeaders={names}, Signature={signature}",
            &stamp[..8]
        )
    };
    let mut headers = req.headers().clone();
    headers.insert("authorization", HeaderValue::from_str(&text("x")).unwrap());
    let query = query_pairs(req.uri().query());
    let hash = to_hex(&Sha256::digest(body));
    let signed = SignedRequest {
        method: req.method(),
        path: req.uri().path(),
        host_bucket: None,
        query: &query,
        headers: &headers,
        body_hash: Some(&hash),
    };
    let Some(Claim::V4 { parts, .. }) = claim(&headers, &query).unwrap() else { panic!("no claim") };
    let context = parts.context(&signed, false, &Secret::new(secret.to_string())).unwrap();
    let signature = parts.expected(&signed, false, &context).unwrap();
    req.headers_mut().insert("authorization", HeaderValue::from_str(&text(&signature)).unwrap());
    req
}
