use super::*;
use http::{HeaderName, HeaderValue};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let one = |(k, v): &(&str, &str)| (HeaderName::from_bytes(k.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap());
    pairs.iter().map(one).collect()
}

struct Case {
    method: Method,
    path: &'static str,
    query: Vec<(String, String)>,
    headers: HeaderMap,
}

impl Case {
    fn new(method: &str, path: &'static str, query: &str, pairs: &[(&str, &str)]) -> Self {
        Self { method: method.parse().unwrap(), path, query: query_pairs(Some(query)), headers: headers(pairs) }
    }

    fn request(&self) -> SignedRequest<'_> {
        SignedRequest {
            method: &self.method,
            path: self.path,
            host_bucket: None,
            query: &self.query,
            headers: &self.headers,
            body_hash: None,
        }
    }

    fn verify(&self, now: &str) -> S3Result<Option<SigningContext>> {
        let claim = claim(&self.headers, &self.query)?.ok_or_else(|| err("AccessDenied"))?;
        claim.check(&self.request(), "us-east-1", Timestamp::parse(now).unwrap())?;
        claim.verify(&self.request(), &Secret::new(SECRET.to_string()))
    }
}

fn credential(signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},Signature={signature}"
    )
}

const NOW: &str = "2013-05-24T00:05:00Z";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn get_object(signature: &str) -> Case {
    let auth = credential("host;range;x-amz-content-sha256;x-amz-date", signature);
    Case::new(
        "GET",
        "/test.txt",
        "",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("authorization", &auth),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", "20130524T000000Z"),
        ],
    )
}

const GET_SIGNATURE: &str = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

/// The examples of "Signature Calculations for the Authorization Header".
#[test]
fn published_header_examples() {
    assert!(get_object(GET_SIGNATURE).verify(NOW).is_ok());
    let auth = credential(
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    let put = Case::new(
        "PUT",
        "/test$file.text",
        "",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("authorization", &auth),
            ("x-amz-date", "20130524T000000Z"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        ],
    );
    assert!(put.verify(NOW).is_ok());
    for (query, signature) in [
        ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let auth = credential("host;x-amz-content-sha256;x-amz-date", signature);
        let list = Case::new(
            "GET",
            "/",
            query,
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("authorization", &auth),
                ("x-amz-content-sha256", EMPTY),
                ("x-amz-date", "20130524T000000Z"),
            ],
        );
        assert!(list.verify(NOW).is_ok(), "{query}");
    }
}

const PRESIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

/// The example of "Authenticating Requests: Using Query Parameters".
#[test]
fn published_presigned_example() {
    let host = ("host", "examplebucket.s3.amazonaws.com");
    let ok = Case::new("GET", "/test.txt", PRESIGNED, &[host]);
    assert!(ok.verify("2013-05-24T23:59:00Z").is_ok());
    assert_eq!(ok.verify("2013-05-25T00:00:01Z").unwrap_err().code, "AccessDenied");
    assert_eq!(ok.verify("2013-05-23T23:00:00Z").unwrap_err().code, "RequestTimeTooSkewed");
    // OSSA-2026-030: what the signature does not cover must not take part.
    let unsigned = Case::new("GET", "/test.txt", PRESIGNED, &[host, ("x-amz-copy-source", "/other/secret")]);
    let e = unsigned.verify("2013-05-24T01:00:00Z").unwrap_err();
    assert_eq!((e.code, e.status), ("AccessDenied", 403));
    let long = PRESIGNED.replace("86400", "604801");
    assert_eq!(Case::new("GET", "/test.txt", &long, &[host]).verify(NOW).unwrap_err().code, "AuthorizationQueryParametersError");
    let twice = format!("{PRESIGNED}&X-Amz-Signature=00");
    assert_eq!(Case::new("GET", "/test.txt", &twice, &[host]).verify(NOW).unwrap_err().code, "AccessDenied");
    let mut both = get_object(GET_SIGNATURE);
    both.query = query_pairs(Some(PRESIGNED));
    assert_eq!(both.verify(NOW).unwrap_err().code, "AccessDenied");
}

#[test]
fn what_does_not_fit_is_refused() {
    let code = |c: &Case, now: &str| c.verify(now).unwrap_err().code;
    assert_eq!(code(&get_object(""), NOW), "AccessDenied");
    assert_eq!(code(&get_object(&GET_SIGNATURE.replace('f', "0")), NOW), "SignatureDoesNotMatch");
    // Replay.
    assert_eq!(code(&get_object(GET_SIGNATURE), "2013-05-24T00:15:01Z"), "RequestTimeTooSkewed");
    assert_eq!(code(&get_object(GET_SIGNATURE), "2013-05-23T23:44:00Z"), "RequestTimeTooSkewed");
    let mut c = get_object(GET_SIGNATURE);
    c.headers.insert("x-amz-meta-a", HeaderValue::from_static("b"));
    assert_eq!(code(&c, NOW), "AccessDenied");
    let mut c = get_object(GET_SIGNATURE);
    c.headers.append("authorization", HeaderValue::from_static("AWS a:b"));
    assert_eq!(code(&c, NOW), "AccessDenied");
    let mut c = get_object(GET_SIGNATURE);
    c.headers.remove("range");
    assert_eq!(code(&c, NOW), "SignatureDoesNotMatch");
    for (from, to, expected) in [
        ("us-east-1", "eu-west-1", "AuthorizationHeaderMalformed"),
        ("20130524/", "20130523/", "AuthorizationHeaderMalformed"),
        ("/s3/", "/iam/", "AuthorizationHeaderMalformed"),
        ("aws4_request", "aws5_request", "AuthorizationHeaderMalformed"),
        ("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/", "AKIA/", "AuthorizationHeaderMalformed"),
        ("SignedHeaders=host;", "SignedHeaders=", "AccessDenied"),
        (",Signature=", ",Signature=a,Signature=", "AccessDenied"),
        (",Signature=", ",Sig=", "AuthorizationHeaderMalformed"),
    ] {
        let mut c = get_object(GET_SIGNATURE);
        let text = credential("host;range;x-amz-content-sha256;x-amz-date", GET_SIGNATURE).replace(from, to);
        c.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
        assert_eq!(code(&c, NOW), expected, "{from} → {to}");
    }
}

/// The examples of "Signing and authenticating REST requests" (version 2).
#[test]
fn published_version_2_examples() {
    let get = Case::new(
        "GET",
        "/awsexamplebucket1/photos/puppy.jpg",
        "",
        &[
            ("host", "s3.us-west-1.amazonaws.com"),
            ("date", "Tue, 27 Mar 2007 19:36:42 +0000"),
            ("authorization", "AWS AKIAIOSFODNN7EXAMPLE:qgk2+6Sv9/oM7G3qLEjTH1a1l1g="),
        ],
    );
    let c = claim(&get.headers, &get.query).unwrap().unwrap();
    assert!(c.verify(&get.request(), &Secret::new(SECRET.to_string())).is_ok());
    let put = Case::new(
        "PUT",
        "/awsexamplebucket1/photos/puppy.jpg",
        "",
        &[
            ("content-type", "image/jpeg"),
            ("content-length", "94328"),
            ("date", "Tue, 27 Mar 2007 21:15:45 +0000"),
            ("authorization", "AWS AKIAIOSFODNN7EXAMPLE:iqRzw+ileNPu1fhspnRs8nOjjIA="),
        ],
    );
    let c = claim(&put.headers, &put.query).unwrap().unwrap();
    assert!(c.verify(&put.request(), &Secret::new(SECRET.to_string())).is_ok());
    // The bucket in the host name stands in the path that is signed.
    let mut r = put.request();
    r.path = "/photos/puppy.jpg";
    r.host_bucket = Some("awsexamplebucket1");
    assert!(c.verify(&r, &Secret::new(SECRET.to_string())).is_ok());
    assert!(c.verify(&r, &Secret::new("other".to_string())).is_err());
    let query = "AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1175139620&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D";
    let presigned = Case::new("GET", "/johnsmith/photos/puppy.jpg", query, &[("host", "s3.amazonaws.com")]);
    let c = claim(&presigned.headers, &presigned.query).unwrap().unwrap();
    let check = |t| c.check(&presigned.request(), "", Timestamp::from_secs(t));
    assert!(check(1_175_139_620).is_ok());
    assert_eq!(check(1_175_139_621).unwrap_err().text("").code, "AccessDenied");
    assert!(c.verify(&presigned.request(), &Secret::new(SECRET.to_string())).is_ok());
}

#[test]
fn signed_or_not() {
    let h = headers(&[("authorization", "Bearer x")]);
    assert!(!looks_signed(&h, Some("prefix=X-Amz-Credential")));
    assert_eq!(claim(&h, &[]).unwrap(), None);
    assert!(looks_signed(&h, Some("X-Amz-Credential=a")));
    assert!(looks_signed(&headers(&[("authorization", "AWS a:b")]), None));
    for bad in ["AWS ", "AWS a", "AWS :b", "AWS a:", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 x"] {
        assert!(claim(&headers(&[("authorization", bad)]), &[]).is_err(), "{bad}");
    }
}
