//! Advisories about S3, by their names.

use super::Cloud;
use std::time::Duration;

/// Documents with entities once read files of the server (CVE-2022-47950).
#[tokio::test]
async fn ossa_2023_001_no_document_has_entities() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/k", &[], "x").await;
    let id = c.ok("POST", "/bucket/k?uploads", &[], "").await.tag("UploadId").unwrap();
    let complete = format!("/bucket/k?uploadId={id}");
    let places = [
        ("PUT", "/other-bucket", "CreateBucketConfiguration"),
        ("PUT", "/bucket?acl", "AccessControlPolicy"),
        ("PUT", "/bucket?cors", "CORSConfiguration"),
        ("PUT", "/bucket?lifecycle", "LifecycleConfiguration"),
        ("PUT", "/bucket?website", "WebsiteConfiguration"),
        ("PUT", "/bucket?notification", "NotificationConfiguration"),
        ("PUT", "/bucket?versioning", "VersioningConfiguration"),
        ("PUT", "/bucket?tagging", "Tagging"),
        ("PUT", "/bucket?object-lock", "ObjectLockConfiguration"),
        ("POST", "/bucket?delete", "Delete"),
        ("PUT", "/bucket/k?acl", "AccessControlPolicy"),
        ("PUT", "/bucket/k?tagging", "Tagging"),
        ("POST", complete.as_str(), "CompleteMultipartUpload"),
    ];
    let heads = [
        "<!DOCTYPE r [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>",
        "<!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY x \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>",
        "<!DOCTYPE r [<!ENTITY % p SYSTEM \"http://127.0.0.1:1/x.dtd\"> %p;]>",
        "<!DOCTYPE r SYSTEM \"http://127.0.0.1:1/x.dtd\">",
        "",
    ];
    for (method, target, root) in places {
        for head in heads {
            let body = format!("<?xml version=\"1.0\"?>{head}<{root}><Key>&x;</Key><LocationConstraint>&x;</LocationConstraint></{root}>");
            let a = c.send("owner", method, target, &[], &body).await;
            assert_eq!(a.status, 400, "{method} {target} {head}: {}", a.text);
            assert!(!a.text.contains("root:") && !a.text.contains("aaaaaaaaaa"), "{}", a.text);
        }
    }
}

/// A body that ended within a chunk once kept a worker busy for ever.
#[tokio::test]
async fn ossa_2026_014_cut_chunks_end() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let headers = [("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"), ("x-amz-decoded-content-length", "5")];
    for cut in 0..body.len() - 4 {
        let put = c.send("owner", "PUT", "/bucket/k", &headers, &body[..cut]);
        let a = tokio::time::timeout(Duration::from_secs(5), put).await.expect("an answer");
        assert_eq!(a.code(), "IncompleteBody", "{cut}");
    }
    assert!(c.store.object("AUTH_p1", "bucket", "k").is_none());
}

/// Headers of Swift's own that once came through from S3 clients.
#[tokio::test]
async fn ossa_2026_030_headers_of_swift_mean_nothing() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/secret", &[], "secret").await;
    let headers = [
        ("x-copy-from", "/bucket/secret"),
        ("x-copy-from-account", "AUTH_p2"),
        ("x-symlink-target", "bucket/secret"),
        ("x-object-manifest", "bucket/sec"),
        ("x-object-sysmeta-s3api-acl", "{}"),
        ("x-object-sysmeta-slo-etag", "x"),
        ("x-backend-allow-reserved-names", "true"),
        ("x-container-host", "127.0.0.1:1"),
        ("x-timestamp", "1.0"),
    ];
    c.ok("PUT", "/bucket/k?multipart-manifest=put&symlink=get", &headers, "own").await;
    let o = c.store.object("AUTH_p1", "bucket", "k").unwrap();
    assert_eq!(o.body, "own");
    for (name, _) in headers.iter().filter(|(n, _)| *n != "x-object-sysmeta-s3api-acl" && *n != "x-timestamp") {
        assert!(!o.headers.contains_key(*name), "{name}");
    }
    let acl = o.headers["x-object-sysmeta-s3api-acl"].to_str().unwrap();
    assert!(acl.contains("Owner"), "{acl}");
}

/// A signature that was seen once was good for ever.
#[tokio::test]
async fn ossa_2020_003_signatures_age() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    let now = caelum_base::Clock::now(&*c.clock);
    let signed = || crate::sign::sign(c.request("GET", "/bucket", &[], b""), "owner", "secret", now, b"");
    assert_eq!(c.raw(signed()).await.status, 200);
    c.later(Duration::from_secs(16 * 60));
    assert_eq!(c.raw(signed()).await.code(), "RequestTimeTooSkewed");
}
