use super::Cloud;
use crate::auth::query_pairs;
use crate::checksum::{Algorithm, of};
use caelum_object::http::text;
use http::HeaderValue;

#[tokio::test]
async fn objects_come_and_go() {
    let c = Cloud::new();
    assert_eq!(c.code("owner", "PUT", "/s3/bucket/k", &[], "x").await, "NoSuchBucket");
    assert_eq!(c.ok("PUT", "/s3/bucket", &[], "").await.header("location"), "/bucket");
    assert_eq!(c.code("owner", "PUT", "/bucket", &[], "").await, "BucketAlreadyOwnedByYou");
    let put = c
        .ok(
            "PUT",
            "/bucket/a%20b/ü",
            &[("x-amz-meta-color", "blue"), ("x-amz-meta-my_key^c3", "u"), ("content-type", "text/x"), ("cache-control", "no-store")],
            "hello",
        )
        .await;
    assert_eq!((put.status, put.header("etag"), put.header("content-type")), (200, "\"5d41402abc4b2a76b9719d911017c592\"", ""));
    let get = c.ok("GET", "/bucket/a%20b/ü", &[], "").await;
    assert_eq!(get.header("x-amz-meta-my_key^c3"), "u");
    assert_eq!((get.text.as_str(), get.header("x-amz-meta-color"), get.header("content-type")), ("hello", "blue", "text/x"));
    assert!(get.headers.keys().all(|n| !n.as_str().contains("sysmeta") && !n.as_str().starts_with("x-backend")));
    assert_eq!(get.header("x-amz-request-id"), "tx-test");
    let part = c.ok("GET", "/bucket/a%20b/ü", &[("range", "bytes=1-2")], "").await;
    assert_eq!((part.status, part.text.as_str(), part.header("content-range")), (206, "el", "bytes 1-2/5"));
    assert_eq!(c.code("owner", "GET", "/bucket/a%20b/ü", &[("range", "bytes=9-")], "").await, "InvalidRange");
    let head = c.ok("HEAD", "/bucket/a%20b/ü", &[("range", "bytes=1-2")], "").await;
    assert_eq!((head.status, head.header("content-length"), head.text.as_str()), (206, "2", ""));
    let etag = ("if-none-match", "\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(c.send("owner", "GET", "/bucket/a%20b/ü", &[etag], "").await.status, 304);
    assert_eq!(c.code("owner", "GET", "/bucket/a%20b/ü", &[("if-match", "\"x\"")], "").await, "PreconditionFailed");
    let over = c.ok("GET", "/bucket/a%20b/ü?response-content-type=a%2Fb", &[], "").await;
    assert_eq!(over.header("content-type"), "a/b");
    assert_eq!(c.code("owner", "GET", "/bucket/none", &[], "").await, "NoSuchKey");
    assert_eq!(c.code("owner", "DELETE", "/bucket", &[], "").await, "BucketNotEmpty");
    assert_eq!(c.ok("DELETE", "/bucket/a%20b/ü", &[], "").await.status, 204);
    assert_eq!(c.ok("DELETE", "/bucket/a%20b/ü", &[], "").await.status, 204);
    assert_eq!(c.ok("DELETE", "/bucket", &[], "").await.status, 204);
    assert_eq!(c.code("owner", "HEAD", "/bucket", &[], "").await, "404");
    let list = c.ok("GET", "/", &[], "").await;
    assert!(list.tags("Name").is_empty() && list.tag("ID").as_deref() == Some("p1-name:alice"), "{}", list.text);
}

#[tokio::test]
async fn digests_and_checksums() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("content-md5", "XUFAKrxLKna5cZ2REBfFkw==")], "x").await, "BadDigest");
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("content-md5", "zz")], "x").await, "InvalidDigest");
    let sum = of(Algorithm::Crc64Nvme, b"hello");
    let header = ("x-amz-checksum-crc64nvme", sum.as_str());
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[header], "hellO").await, "BadDigest");
    assert!(c.store.object("AUTH_p1", "bucket", "k").is_none());
    assert_eq!(c.ok("PUT", "/bucket/k", &[header], "hello").await.header("x-amz-checksum-crc64nvme"), sum);
    let head = c.ok("HEAD", "/bucket/k", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert_eq!((head.header("x-amz-checksum-crc64nvme"), head.header("x-amz-checksum-type")), (sum.as_str(), "FULL_OBJECT"));
    assert_eq!(c.ok("HEAD", "/bucket/k", &[], "").await.header("x-amz-checksum-crc64nvme"), "");
    // A trailer's checksum is kept as well.
    let chunked = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc64nvme:{sum}\r\n\r\n");
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-trailer", "x-amz-checksum-crc64nvme"),
        ("content-encoding", "aws-chunked,gzip"),
    ];
    c.ok("PUT", "/bucket/t", &headers, &chunked).await;
    let get = c.ok("GET", "/bucket/t", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert_eq!(
        (get.text.as_str(), get.header("x-amz-checksum-crc64nvme"), get.header("content-encoding")),
        ("hello", sum.as_str(), "gzip")
    );
    assert_eq!(c.code("owner", "PUT", "/bucket/u", &headers, &chunked[..12]).await, "IncompleteBody");
    let attributes = c.ok("GET", "/bucket/t?attributes", &[("x-amz-object-attributes", "ETag,Checksum,ObjectSize")], "").await;
    assert_eq!((attributes.tag("ChecksumCRC64NVME"), attributes.tag("ObjectSize")), (Some(sum), Some("5".into())));
}

#[tokio::test]
async fn conditional_writes() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/k", &[("if-none-match", "*")], "1").await;
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("if-none-match", "*")], "2").await, "PreconditionFailed");
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("if-none-match", "\"a\"")], "2").await, "NotImplemented");
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("if-match", "\"a\"")], "2").await, "PreconditionFailed");
    assert_eq!(c.code("owner", "PUT", "/bucket/n", &[("if-match", "\"a\"")], "2").await, "NoSuchKey");
    c.ok("PUT", "/bucket/k", &[("if-match", "\"c4ca4238a0b923820dcc509a6f75849b\"")], "2").await;
    // Of many at once one wins.
    let all = (0..8).map(|i| {
        let c = &c;
        async move { c.send("owner", "PUT", "/bucket/race", &[("if-none-match", "*")], &i.to_string()).await.status }
    });
    let mut statuses = futures_util::future::join_all(all).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412]);
}

#[tokio::test]
async fn listings() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    for k in ["a/1", "a/2", "b", "c%3C%26", "d%20d"] {
        c.ok("PUT", &format!("/bucket/{k}"), &[], k).await;
    }
    let l = c.ok("GET", "/bucket?delimiter=%2F", &[], "").await;
    assert_eq!(l.tags("Key"), ["b", "c&lt;&amp;", "d d"]);
    assert_eq!((l.tags("Prefix"), l.tag("IsTruncated").unwrap()), (vec![String::new(), "a/".into()], "false".into()));
    let l = c.ok("GET", "/bucket?max-keys=2&delimiter=%2F&encoding-type=url", &[], "").await;
    assert_eq!((l.tag("NextMarker"), l.tags("Key").len()), (Some("b".into()), 1));
    let l = c.ok("GET", "/bucket?marker=b&encoding-type=url", &[], "").await;
    assert_eq!(l.tags("Key"), ["c%3C%26", "d%20d"]);
    let one = c.ok("GET", "/bucket?list-type=2&max-keys=2", &[], "").await;
    assert_eq!((one.tags("Key"), one.tag("KeyCount")), (vec!["a/1".into(), "a/2".into()], Some("2".into())));
    assert!(one.tag("Owner").is_none());
    let token = one.tag("NextContinuationToken").unwrap();
    let token = crate::context::query_quote(&token);
    let two = c.ok("GET", &format!("/bucket?list-type=2&continuation-token={token}&fetch-owner=true"), &[], "").await;
    assert_eq!((two.tags("Key").len(), two.tags("DisplayName")[0].as_str()), (3, "p1-name:alice"));
    assert_eq!(c.ok("GET", "/bucket?list-type=2&start-after=b", &[], "").await.tags("Key").len(), 2);
    let none = c.ok("GET", "/bucket?max-keys=0", &[], "").await;
    assert_eq!((none.tags("Key").len(), none.tag("IsTruncated").unwrap()), (0, "false".into()));
    for bad in ["max-keys=-1", "max-keys=x", "encoding-type=x", "list-type=3", "list-type=2&continuation-token=%25"] {
        assert_eq!(c.code("owner", "GET", &format!("/bucket?{bad}"), &[], "").await, "InvalidArgument", "{bad}");
    }
}

#[tokio::test]
async fn copies() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/other-bucket", &[], "").await;
    let sum = of(Algorithm::Crc32, b"data");
    c.ok(
        "PUT",
        "/bucket/src",
        &[("x-amz-meta-a", "1"), ("x-amz-tagging", "t=1"), ("content-type", "x/y"), ("x-amz-checksum-crc32", &sum)],
        "data",
    )
    .await;
    let copy = ("x-amz-copy-source", "/bucket/src");
    let r = c.ok("PUT", "/other-bucket/dst", &[copy], "").await;
    assert_eq!(r.tag("ETag").as_deref(), Some("&quot;8d777f385d3dfec8815d20f7496026dc&quot;"));
    let head = c.ok("HEAD", "/other-bucket/dst", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert_eq!((head.header("x-amz-meta-a"), head.header("content-type"), head.header("x-amz-tagging-count")), ("1", "x/y", "1"));
    assert_eq!(head.header("x-amz-checksum-crc32"), sum);
    let replace = ("x-amz-metadata-directive", "REPLACE");
    c.ok("PUT", "/other-bucket/dst", &[copy, replace, ("x-amz-meta-b", "2"), ("x-amz-tagging-directive", "REPLACE")], "").await;
    let head = c.ok("HEAD", "/other-bucket/dst", &[], "").await;
    assert_eq!((head.header("x-amz-meta-a"), head.header("x-amz-meta-b"), head.header("x-amz-tagging-count")), ("", "2", ""));
    assert_eq!(c.code("owner", "PUT", "/bucket/src", &[copy], "").await, "InvalidRequest");
    c.ok("PUT", "/bucket/src", &[copy, replace, ("x-amz-meta-b", "3")], "").await;
    assert_eq!(c.ok("GET", "/bucket/src", &[], "").await.text, "data");
    for (source, code) in [("/bucket/none", "NoSuchKey"), ("/no-bucket/x", "NoSuchBucket"), ("bucket", "InvalidArgument")] {
        assert_eq!(c.code("owner", "PUT", "/bucket/x", &[("x-amz-copy-source", source)], "").await, code, "{source}");
    }
    let unless = ("x-amz-copy-source-if-none-match", "\"8d777f385d3dfec8815d20f7496026dc\"");
    assert_eq!(c.code("owner", "PUT", "/bucket/x", &[copy, unless], "").await, "PreconditionFailed");
}

#[tokio::test]
async fn many_are_deleted_at_once() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/a", &[], "1").await;
    c.ok("PUT", "/bucket/b%26", &[], "2").await;
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>b&amp;</Key></Object><Object><Key>none</Key></Object></Delete>";
    let r = c.ok("POST", "/bucket?delete", &[], body).await;
    assert_eq!(r.tags("Key"), ["a", "b&amp;", "none"]);
    assert!(c.store.names("AUTH_p1", "bucket").is_empty());
    let hostile = "<!DOCTYPE d [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><Delete><Object><Key>&x;</Key></Object></Delete>";
    assert_eq!(c.code("owner", "POST", "/bucket?delete", &[], hostile).await, "MalformedXML");
    let unchecked = c.code("owner", "POST", "/bucket?delete", &[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], body).await;
    assert_eq!(unchecked, "InvalidRequest");
}

async fn begin(c: &Cloud, key: &str, headers: &[(&str, &str)]) -> String {
    c.ok("POST", &format!("/bucket/{key}?uploads"), headers, "").await.tag("UploadId").unwrap()
}

fn complete(parts: &[(u32, &str)]) -> String {
    let one = |(n, e): &(u32, &str)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>");
    format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.iter().map(one).collect::<String>())
}

#[tokio::test]
async fn uploads_in_parts() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    let id = begin(&c, "big", &[("content-type", "a/b"), ("x-amz-meta-m", "1"), ("x-amz-tagging", "t=1")]).await;
    let at = |n: u32| format!("/bucket/big?partNumber={n}&uploadId={id}");
    let one = c.ok("PUT", &at(1), &[], "hello").await;
    c.ok("PUT", "/bucket/src", &[], "0123456789").await;
    let two = c.ok("PUT", &at(2), &[("x-amz-copy-source", "bucket/src"), ("x-amz-copy-source-range", "bytes=3-9")], "").await;
    c.ok("PUT", &at(10), &[], "!").await;
    assert_eq!(c.code("owner", "PUT", &at(0), &[], "x").await, "InvalidArgument");
    assert_eq!(c.code("owner", "PUT", &at(10_001), &[], "x").await, "InvalidArgument");
    let range = ("x-amz-copy-source-range", "bytes=3-10");
    assert_eq!(c.code("owner", "PUT", &at(3), &[("x-amz-copy-source", "bucket/src"), range], "").await, "InvalidArgument");
    let l = c.ok("GET", &format!("/bucket/big?uploadId={id}&max-parts=2"), &[], "").await;
    assert_eq!((l.tags("PartNumber"), l.tag("NextPartNumberMarker").unwrap()), (vec!["1".into(), "2".into()], "2".into()));
    assert_eq!(c.ok("GET", "/bucket?uploads", &[], "").await.tags("UploadId"), std::slice::from_ref(&id));
    let (e1, e2) = (one.header("etag"), two.tag("ETag").unwrap());
    let finish = format!("/bucket/big?uploadId={id}");
    let code = |parts: Vec<(u32, String)>| {
        let (c, finish) = (&c, &finish);
        async move {
            let parts: Vec<(u32, &str)> = parts.iter().map(|(n, e)| (*n, e.as_str())).collect();
            c.code("owner", "POST", finish, &[], &complete(&parts)).await
        }
    };
    assert_eq!(code(vec![(2, e2.clone()), (1, e1.into())]).await, "InvalidPartOrder");
    assert_eq!(code(vec![(1, e1.into()), (4, e1.into())]).await, "InvalidPart");
    assert_eq!(code(vec![(1, e2.clone()), (2, e2.clone())]).await, "InvalidPart");
    let last = "\"9033e0e305f247c0c3c80d0c7848c8b3\"";
    assert_eq!(code(vec![(10, last.into())]).await, "200");
    // The same again succeeds; other parts do not.
    assert_eq!(code(vec![(10, last.into())]).await, "200");
    assert_eq!(code(vec![(1, e1.into())]).await, "NoSuchUpload");
    let get = c.ok("GET", "/bucket/big", &[], "").await;
    assert_eq!((get.text.as_str(), get.header("content-type"), get.header("x-amz-meta-m")), ("!", "a/b", "1"));
    assert!(get.header("etag").ends_with("-1\""), "{}", get.header("etag"));
    assert_eq!(get.header("x-amz-tagging-count"), "1");
}

#[tokio::test]
async fn completed_uploads_lie_as_upstream_lays_them() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    let id = begin(&c, "dir/big", &[("x-amz-checksum-algorithm", "CRC32")]).await;
    let mut parts = Vec::new();
    for (n, data) in [(1, "hello"), (2, "wo")] {
        let sum = of(Algorithm::Crc32, data.as_bytes());
        let r = c.ok("PUT", &format!("/bucket/dir/big?partNumber={n}&uploadId={id}"), &[("x-amz-checksum-crc32", &sum)], data).await;
        parts.push((n, r.header("etag").to_string(), sum));
    }
    let one = |(n, e, s): &(i32, String, String)| {
        format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag><ChecksumCRC32>{s}</ChecksumCRC32></Part>")
    };
    let body = format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.iter().map(one).collect::<String>());
    let r = c.ok("POST", &format!("/bucket/dir/big?uploadId={id}"), &[], &body).await;
    // md5(md5("hello") + md5("wo")) with Python.
    assert_eq!(r.tag("ETag").as_deref(), Some("&quot;7a56938a85b70c2ed52fdc01f67353e0-2&quot;"));
    let o = c.store.object("AUTH_p1", "bucket", "dir/big").unwrap();
    let h = |n: &str| text(&o.headers, n).unwrap_or_default().to_string();
    assert_eq!(h("x-static-large-object"), "True");
    assert_eq!(h("x-object-sysmeta-s3api-upload-id"), id);
    let s3_etag = h("x-object-sysmeta-s3api-etag");
    assert!(
        h("x-object-sysmeta-container-update-override-etag").contains(&format!("; s3_etag={s3_etag}; slo_etag=")),
        "{o:?}",
        o = h("x-object-sysmeta-container-update-override-etag")
    );
    assert!(String::from_utf8_lossy(&o.body).contains(&format!("\"name\": \"/bucket+segments/dir/big/{id}/1\"")));
    assert_eq!(c.store.names("AUTH_p1", "bucket+segments"), [format!("dir/big/{id}/1"), format!("dir/big/{id}/2")]);
    let head = c.ok("HEAD", "/bucket/dir/big", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert!(head.header("x-amz-checksum-crc32").ends_with("-2") && head.header("x-amz-checksum-type") == "COMPOSITE");
    let list = c.ok("GET", "/bucket", &[], "").await;
    assert_eq!((list.tag("ETag"), list.tag("Size")), (Some(format!("&quot;{s3_etag}&quot;")), Some("7".into())));
    assert!(!c.ok("GET", "/", &[], "").await.text.contains("segments"));
    // Clients of Swift's API see the tag beside the hash.
    let mut swift = c.request("GET", "/v1/AUTH_p1/bucket?format=json", &[], b"");
    swift.extensions_mut().insert(caelum_object::env::Environ::internal("tx-test", ""));
    let rows: serde_json::Value = serde_json::from_str(&c.raw(swift).await.text).unwrap();
    assert_eq!(rows[0]["s3_etag"], format!("\"{s3_etag}\""));
    assert_eq!(rows[0]["hash"], o.etag);
    let part = c.ok("GET", "/bucket/dir/big?partNumber=2", &[], "").await;
    assert_eq!((part.status, part.text.as_str(), part.header("x-amz-mp-parts-count")), (206, "wo", "2"));
    assert_eq!(c.code("owner", "GET", "/bucket/dir/big", &[("if-match", &format!("\"{s3_etag}\""))], "").await, "200");
    // A copy is one object with a tag of its own.
    let copied = c.ok("PUT", "/bucket/copied", &[("x-amz-copy-source", "/bucket/dir/big")], "").await;
    let plain = format!("\"{}\"", caelum_swiftkit::md5_hex(b"hellowo"));
    assert_eq!(copied.tag("ETag").unwrap().replace("&quot;", "\""), plain);
    let get = c.ok("GET", "/bucket/copied", &[("if-match", &plain)], "").await;
    assert_eq!((get.text.as_str(), get.header("etag")), ("hellowo", plain.as_str()));
    c.ok("DELETE", "/bucket/dir/big", &[], "").await;
    assert!(c.store.names("AUTH_p1", "bucket+segments").is_empty());
}

#[tokio::test]
async fn uploads_end_or_are_refused() {
    let c = Cloud::with(|o| o.min_part_size = 6);
    c.ok("PUT", "/bucket", &[], "").await;
    let id = begin(&c, "k", &[]).await;
    let mut tags = Vec::new();
    for n in 1..3 {
        tags.push(c.ok("PUT", &format!("/bucket/k?partNumber={n}&uploadId={id}"), &[], "small").await.header("etag").to_string());
    }
    let body = complete(&[(1, &tags[0]), (2, &tags[1])]);
    assert_eq!(c.code("owner", "POST", &format!("/bucket/k?uploadId={id}"), &[], &body).await, "EntityTooSmall");
    assert_eq!(c.ok("DELETE", &format!("/bucket/k?uploadId={id}"), &[], "").await.status, 204);
    assert!(c.store.names("AUTH_p1", "bucket+segments").is_empty());
    for (method, target) in [("DELETE", ""), ("GET", ""), ("PUT", "&partNumber=1"), ("POST", "")] {
        let answer = c.code("owner", method, &format!("/bucket/k?uploadId={id}{target}"), &[], &body).await;
        assert_eq!(answer, "NoSuchUpload", "{method}");
    }
    for hostile in ["..%2F..%2Fx", "", "a%00b", "a/b"] {
        assert_eq!(c.code("owner", "GET", &format!("/bucket/k?uploadId={hostile}"), &[], "").await, "NoSuchUpload", "{hostile}");
    }
}

#[tokio::test]
async fn ossa_2026_030_presigned_urls_cover_what_they_say() {
    // OSSA-2026-030 end to end: a header that the signature does not cover is refused before anything is looked up.
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/secret", &[], "s").await;
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=owner%2F20200913%2Fus-east-1%2Fs3%2Faws4_request\
                 &X-Amz-Date=20200913T120000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host";
    let mut pairs = query_pairs(Some(query));
    pairs.push(("X-Amz-Signature".into(), "x".into()));
    let mut headers = http::HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("s3.test"));
    let method = http::Method::PUT;
    let signed = crate::auth::SignedRequest {
        method: &method,
        path: "/bucket/new",
        host_bucket: None,
        query: &pairs,
        headers: &headers,
        body_hash: None,
    };
    let Some(crate::auth::Claim::V4 { parts, .. }) = crate::auth::claim(&headers, &pairs).unwrap() else { panic!() };
    let context = parts.context(&signed, true, &caelum_base::Secret::new("secret".into())).unwrap();
    let signature = parts.expected(&signed, true, &context).unwrap();
    let target = format!("/bucket/new?{query}&X-Amz-Signature={signature}");
    let evil = c.raw(c.request("PUT", &target, &[("x-amz-copy-source", "/bucket/secret")], b"")).await;
    assert_eq!((evil.status, evil.code().as_str()), (403, "AccessDenied"));
    assert!(c.store.object("AUTH_p1", "bucket", "new").is_none());
    // Headers of Swift's own copies mean nothing here.
    let odd = c.raw(c.request("PUT", &target, &[("x-copy-from", "/bucket/secret")], b"own")).await;
    assert_eq!(odd.status, 200, "{}", odd.text);
    assert_eq!(c.store.object("AUTH_p1", "bucket", "new").unwrap().body, "own");
    let again = c.raw(c.request("GET", &target, &[], b"")).await;
    assert_eq!(again.code(), "SignatureDoesNotMatch");
}

#[tokio::test]
async fn a_hash_that_is_signed_but_not_named() {
    use crate::sign::sign_as_it_is;
    let c = Cloud::new();
    let now = caelum_base::Clock::now(&*c.clock);
    let send = async |method: &str, target: &str, body: &[u8], signed: &[u8]| {
        c.raw(sign_as_it_is(c.request(method, target, &[], body), "owner", "secret", now, signed)).await.code()
    };
    assert_eq!(send("PUT", "/bucket", b"", b"").await, "200");
    assert_eq!(send("PUT", "/bucket/k", b"data", b"data").await, "200");
    assert_eq!(send("GET", "/bucket/k", b"", b"").await, "200");
    assert_eq!(send("GET", "/bucket/k", b"", b"x").await, "SignatureDoesNotMatch");
    // A signature that does not cover the data is none.
    assert_eq!(send("PUT", "/bucket/k", b"datA", b"data").await, "InvalidRequest");
    assert_eq!(send("PUT", "/bucket/k", b"evil", b"").await, "InvalidRequest");
    let big = vec![b'x'; (1 << 20) + 1];
    assert_eq!(send("PUT", "/bucket/k", &big, &big).await, "InvalidRequest");
    assert_eq!(send("PUT", "/bucket/k", &big[1..], &big[1..]).await, "200");
}

#[tokio::test]
async fn checksums_of_whole_uploads() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/src", &[], "copied").await;
    let data = ["hello", "a second part", "copied"];
    let whole = of(Algorithm::Crc64Nvme, data.concat().as_bytes());
    let id = begin(&c, "k", &[("x-amz-checksum-algorithm", "CRC64NVME")]).await;
    let at = |n: usize| format!("/bucket/k?partNumber={n}&uploadId={id}");
    let sum = of(Algorithm::Crc64Nvme, data[0].as_bytes());
    // With the client's checksum, without one, and copied.
    let e1 = c.ok("PUT", &at(1), &[("x-amz-checksum-crc64nvme", &sum)], data[0]).await.header("etag").to_string();
    let e2 = c.ok("PUT", &at(2), &[], data[1]).await.header("etag").to_string();
    let e3 = c.ok("PUT", &at(3), &[("x-amz-copy-source", "bucket/src")], "").await.tag("ETag").unwrap();
    let other = of(Algorithm::Crc32, b"x");
    assert_eq!(c.code("owner", "PUT", &at(4), &[("x-amz-checksum-crc32", &other)], "x").await, "InvalidRequest");
    let body = complete(&[(1, &e1), (2, &e2), (3, &e3)]);
    let finish = format!("/bucket/k?uploadId={id}");
    assert_eq!(c.code("owner", "POST", &finish, &[("x-amz-checksum-crc64nvme", &sum)], &body).await, "BadDigest");
    assert_eq!(c.code("owner", "POST", &finish, &[("x-amz-mp-object-size", "3")], &body).await, "InvalidRequest");
    let wrong = body.replacen("</Part>", "<ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME></Part>", 1);
    assert_eq!(c.code("owner", "POST", &finish, &[], &wrong).await, "InvalidPart");
    let done = c.ok("POST", &finish, &[("x-amz-checksum-crc64nvme", &whole), ("x-amz-mp-object-size", "24")], &body).await;
    assert_eq!(
        (done.tag("ChecksumCRC64NVME").as_deref(), done.tag("ChecksumType").as_deref()),
        (Some(whole.as_str()), Some("FULL_OBJECT"))
    );
    let head = c.ok("HEAD", "/bucket/k", &[("x-amz-checksum-mode", "ENABLED")], "").await;
    assert_eq!((head.header("x-amz-checksum-crc64nvme"), head.header("x-amz-checksum-type")), (whole.as_str(), "FULL_OBJECT"));
    for (algorithm, kind) in [("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")] {
        let asked = [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", kind)];
        assert_eq!(c.code("owner", "POST", "/bucket/n?uploads", &asked, "").await, "InvalidRequest");
    }
    assert_eq!(c.code("owner", "POST", "/bucket/n?uploads", &[("x-amz-checksum-type", "COMPOSITE")], "").await, "InvalidRequest");
    // What is an object's data by now is not replaced.
    assert_eq!(c.code("owner", "PUT", &at(1), &[], "other").await, "NoSuchUpload");
}
