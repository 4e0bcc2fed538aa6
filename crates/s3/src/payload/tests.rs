use super::*;
use crate::auth::{SignedRequest, claim};
use crate::checksum::of;
use caelum_base::Secret;
use http::Method;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let one = |(k, v): &(&str, &str)| (HeaderName::from_bytes(k.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap());
    pairs.iter().map(one).collect()
}

/// Reads a body through; data and trailers, or the failure.
async fn through(plan: Plan, body: Vec<u8>) -> Result<(Vec<u8>, Option<HeaderMap>), &'static str> {
    let pieces: Vec<Result<http_body::Frame<Bytes>, BoxError>> =
        body.chunks(1000).map(|c| Ok(http_body::Frame::data(Bytes::copy_from_slice(c)))).collect();
    let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync();
    let g = plan.guard(body).await.map_err(|e| e.code)?;
    let failure = g.failure.clone();
    match g.body.collect().await {
        Ok(all) => {
            let trailers = all.trailers().cloned();
            Ok((all.to_bytes().to_vec(), trailers))
        }
        Err(_) => Err(failure.take().map_or("nothing noted", |e| e.code)),
    }
}

/// The example of "Transferring Payload in Multiple Chunks": 65 KiB + 1 KiB of `a`.
fn example() -> (HeaderMap, Vec<u8>) {
    let auth = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,\
                Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let h = headers(&[
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("authorization", auth),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
    ]);
    let mut body = Vec::new();
    for (size, signature) in [
        (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ] {
        body.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
        body.extend(std::iter::repeat_n(b'a', size));
        body.extend_from_slice(b"\r\n");
    }
    (h, body)
}

fn signed_plan(h: &HeaderMap) -> Plan {
    let c = claim(h, &[]).unwrap().unwrap();
    let r = SignedRequest {
        method: &Method::PUT,
        path: "/examplebucket/chunkObject.txt",
        host_bucket: None,
        query: &[],
        headers: h,
        body_hash: None,
    };
    let context = c.verify(&r, &Secret::new(SECRET.to_string())).unwrap();
    plan(h, context).unwrap()
}

#[tokio::test]
async fn published_chunked_example() {
    let (h, body) = example();
    assert_eq!(body.len(), 66_824);
    let (data, _) = through(signed_plan(&h), body.clone()).await.unwrap();
    assert!(data.len() == 66_560 && data.iter().all(|b| *b == b'a'));
    let mut bad = body.clone();
    bad[66_000] = b'b';
    assert_eq!(through(signed_plan(&h), bad).await.unwrap_err(), "SignatureDoesNotMatch");
    // OSSA-2026-014: truncated anywhere, the body ends in an error.
    for n in [0, 1, 50, 85, 86, 65_000, 65_623, 66_700, 66_824 - 80, 66_824 - 90] {
        let e = through(signed_plan(&h), body[..n].to_vec()).await.unwrap_err();
        assert_eq!(e, "IncompleteBody", "{n}");
    }
    let mut h2 = h.clone();
    h2.insert("x-amz-decoded-content-length", HeaderValue::from_static("66559"));
    let context = claim(&h, &[]).unwrap().unwrap();
    let r = SignedRequest {
        method: &Method::PUT,
        path: "/examplebucket/chunkObject.txt",
        host_bucket: None,
        query: &[],
        headers: &h,
        body_hash: None,
    };
    let context = context.verify(&r, &Secret::new(SECRET.to_string())).unwrap();
    assert_eq!(through(plan(&h2, context).unwrap(), body).await.unwrap_err(), "IncompleteBody");
}

fn unsigned(sha: &str, more: &[(&str, &str)]) -> S3Result<Plan> {
    let mut all = vec![("x-amz-content-sha256", sha)];
    all.extend_from_slice(more);
    plan(&headers(&all), None)
}

#[tokio::test]
async fn trailers_are_checked_and_kept() {
    const MODE: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let sum = of(Algorithm::Crc32, b"hello");
    let with = |trailer: &str| format!("5\r\nhello\r\n0\r\n{trailer}\r\n").into_bytes();
    let p = || unsigned(MODE, &[("x-amz-decoded-content-length", "5"), ("x-amz-trailer", "x-amz-checksum-crc32")]).unwrap();
    let (data, trailers) = through(p(), with(&format!("x-amz-checksum-crc32:{sum}\r\n"))).await.unwrap();
    assert_eq!(data, b"hello");
    assert_eq!(trailers.unwrap()[CHECKSUM_SYSMETA], format!("CRC32;FULL_OBJECT;{sum}"));
    let code = |t: String| async move { through(p(), with(&t)).await.unwrap_err() };
    assert_eq!(code("x-amz-checksum-crc32:AAAAAA==\r\n".into()).await, "BadDigest");
    assert_eq!(code("x-amz-checksum-crc32:zz\r\n".into()).await, "InvalidRequest");
    assert_eq!(code("x-amz-checksum-sha1:AAAAAA==\r\n".into()).await, "MalformedTrailerError");
    assert_eq!(code(format!("x-amz-checksum-crc32:{sum}\r\nx-amz-meta-a:b\r\n")).await, "MalformedTrailerError");
    assert_eq!(code(String::new()).await, "MalformedTrailerError");
    // Nothing to read: checked before anybody could.
    let empty = unsigned(MODE, &[("x-amz-decoded-content-length", "0"), ("x-amz-trailer", "x-amz-checksum-crc32")]).unwrap();
    assert_eq!(through(empty, b"0\r\nx-amz-checksum-crc32:AAAAAQ==\r\n\r\n".to_vec()).await.unwrap_err(), "BadDigest");
    let small = unsigned(MODE, &[("x-amz-decoded-content-length", "10")]).unwrap();
    assert_eq!(through(small, b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()).await.unwrap_err(), "InvalidChunkSizeError");
    let negative = unsigned(MODE, &[("x-amz-decoded-content-length", "5")]).unwrap();
    assert_eq!(through(negative, b"-5\r\nhello\r\n0\r\n\r\n".to_vec()).await.unwrap_err(), "IncompleteBody");
}

#[tokio::test]
async fn plain_bodies_fit_their_hash_and_checksum() {
    let hash = to_hex(&Sha256::digest(b"hello"));
    let ok = unsigned(&hash, &[("content-length", "5")]).unwrap();
    assert_eq!(through(ok, b"hello".to_vec()).await.unwrap().0, b"hello");
    let p = || unsigned(&hash, &[("content-length", "5")]).unwrap();
    assert_eq!(through(p(), b"hellO".to_vec()).await.unwrap_err(), "XAmzContentSHA256Mismatch");
    assert_eq!(through(p(), b"hell".to_vec()).await.unwrap_err(), "IncompleteBody");
    let empty = unsigned(&hash, &[("content-length", "0")]).unwrap();
    assert_eq!(through(empty, Vec::new()).await.unwrap_err(), "XAmzContentSHA256Mismatch");
    let sum = of(Algorithm::Sha256, b"hello");
    let with = |v: &str| unsigned("UNSIGNED-PAYLOAD", &[("content-length", "5"), ("x-amz-checksum-sha256", v)]);
    assert!(through(with(&sum).unwrap(), b"hello".to_vec()).await.is_ok());
    assert_eq!(through(with(&sum).unwrap(), b"hellO".to_vec()).await.unwrap_err(), "BadDigest");
}

#[test]
fn plans_that_make_no_sense() {
    let code = |r: S3Result<Plan>| r.err().map(|e| e.code);
    assert_eq!(code(unsigned("nonsense", &[])), Some("InvalidArgument"));
    assert_eq!(code(unsigned("STREAMING-UNSIGNED-PAYLOAD-TRAILER", &[])), Some("MissingContentLength"));
    assert_eq!(code(unsigned("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", &[])), Some("NotImplemented"));
    let length = ("x-amz-decoded-content-length", "1");
    assert_eq!(code(unsigned("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", &[length])), Some("XAmzContentSHA256Mismatch"));
    let sum = of(Algorithm::Crc32, b"");
    let two = [("x-amz-checksum-crc32", sum.as_str()), ("x-amz-trailer", "x-amz-checksum-crc32c")];
    assert_eq!(code(unsigned("UNSIGNED-PAYLOAD", &two)), Some("InvalidRequest"));
    assert_eq!(code(unsigned("UNSIGNED-PAYLOAD", &[("x-amz-checksum-md4", "x")])), Some("InvalidRequest"));
    assert_eq!(code(unsigned("UNSIGNED-PAYLOAD", &[("x-amz-checksum-crc32", "x")])), Some("InvalidRequest"));
    assert_eq!(code(unsigned("UNSIGNED-PAYLOAD", &[("x-amz-trailer", "x-amz-meta-a")])), Some("InvalidRequest"));
}
