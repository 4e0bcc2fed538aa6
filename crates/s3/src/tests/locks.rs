//! Object lock against Swift's API.

use super::Cloud;
use std::time::Duration;

const LOCK: [(&str, &str); 2] = [("x-amz-object-lock-mode", "COMPLIANCE"), ("x-amz-object-lock-retain-until-date", "2020-09-14T12:00:00Z")];
const AT: &str = "/v1/AUTH_p1/bucket/k";

async fn locked() -> (Cloud, String) {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    let v = c.ok("PUT", "/bucket/k", &LOCK, "precious").await.header("x-amz-version-id").to_string();
    c.later(Duration::from_secs(2));
    (c, v)
}

async fn is_safe(c: &Cloud, v: &str) {
    let get = c.ok("GET", &format!("/bucket/k?versionId={v}"), &[], "").await;
    assert_eq!((get.text.as_str(), get.header("x-amz-object-lock-mode")), ("precious", "COMPLIANCE"));
}

#[tokio::test]
async fn swift_cannot_destroy_what_is_locked() {
    let (c, v) = locked().await;
    let version = format!("{AT}?version-id={v}");
    let gone = c.swift("DELETE", &version, &[], "").await;
    assert_eq!((gone.status, gone.text.as_str()), (403, "Access Denied because object protected by object lock."));
    assert_eq!(c.swift("GET", AT, &[], "").await.text, "precious", "it is still the current version");
    // A version is not written over, and a delete leaves a marker.
    assert_eq!(c.swift("PUT", AT, &[], "newer").await.status, 201);
    c.later(Duration::from_secs(2));
    assert_eq!(c.swift("DELETE", AT, &[], "").await.status, 204);
    is_safe(&c, &v).await;
    // Nor does the container go, or the keeping of versions.
    assert_eq!(c.swift("DELETE", "/v1/AUTH_p1/bucket", &[], "").await.status, 409);
    for off in ["false", "no", ""] {
        let r = c.swift("POST", "/v1/AUTH_p1/bucket", &[("x-versions-enabled", off)], "").await;
        assert_eq!(r.status, 409, "{off}");
    }
    c.later(Duration::from_secs(2));
    assert_eq!(c.swift("DELETE", &version, &[], "").await.status, 403);
    c.later(Duration::from_secs(2 * 86_400));
    assert_eq!(c.swift("DELETE", &version, &[], "").await.status, 204, "its time is over");
}

#[tokio::test]
async fn swift_cannot_unlock() {
    let (c, v) = locked().await;
    // A POST replaces all metadata but the lock, and cannot make it expire.
    let post = c.swift("POST", AT, &[("x-object-meta-new", "1")], "").await;
    assert_eq!(post.status, 202, "{}", post.text);
    is_safe(&c, &v).await;
    assert_eq!(c.ok("HEAD", "/bucket/k", &[], "").await.header("x-amz-meta-new"), "1");
    for name in ["x-delete-at", "x-delete-after"] {
        c.swift("POST", AT, &[(name, "1900000000")], "").await;
        let head = c.ok("HEAD", &format!("/bucket/k?versionId={v}"), &[], "").await;
        assert_eq!(head.header("x-amz-expiration"), "", "{name}");
        assert_eq!(c.code("owner", "PUT", "/bucket/x", &[LOCK[0], LOCK[1], (name, "1900000000")], "x").await, "InvalidRequest");
    }
    // What was to expire does not, once it is held.
    let held = c.ok("PUT", "/bucket/h", &[("x-delete-at", "1900000000")], "x").await.header("x-amz-version-id").to_string();
    c.ok("PUT", &format!("/bucket/h?legal-hold&versionId={held}"), &[], "<LegalHold><Status>ON</Status></LegalHold>").await;
    assert_eq!(c.ok("HEAD", "/bucket/h", &[], "").await.header("x-amz-expiration"), "");
    assert_eq!(c.swift("DELETE", &format!("/v1/AUTH_p1/bucket/h?version-id={held}"), &[], "").await.status, 403);
}

#[tokio::test]
async fn the_default_counts_for_swift() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    let config = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    c.ok("PUT", "/bucket?object-lock", &[], config).await;
    assert_eq!(c.swift("PUT", AT, &[], "x").await.status, 201);
    let head = c.ok("HEAD", "/bucket/k", &[], "").await;
    assert_eq!(
        (head.header("x-amz-object-lock-mode"), head.header("x-amz-object-lock-retain-until-date")),
        ("GOVERNANCE", "2020-09-14T12:00:00.000Z")
    );
    let v = head.header("x-amz-version-id").to_string();
    assert_eq!(c.swift("DELETE", &format!("{AT}?version-id={v}"), &[], "").await.status, 403, "governance is bypassed through S3 only");
    // The name may expire; what it stood for is kept.
    assert_eq!(c.swift("PUT", AT, &[("x-delete-after", "60")], "short").await.status, 201);
    let short = c.ok("HEAD", "/bucket/k", &[], "").await.header("x-amz-version-id").to_string();
    c.later(Duration::from_secs(3_600));
    assert_eq!(c.ok("GET", &format!("/bucket/k?versionId={short}"), &[], "").await.text, "short");
    assert_eq!(c.swift("DELETE", &format!("{AT}?version-id={short}"), &[], "").await.status, 403);
    c.ok("DELETE", &format!("/bucket/k?versionId={v}"), &[("x-amz-bypass-governance-retention", "true")], "").await;
}

#[tokio::test]
async fn parts_of_locked_uploads_stay() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    let id = c.ok("POST", "/bucket/k?uploads", &LOCK, "").await.tag("UploadId").unwrap();
    let etag = c.ok("PUT", &format!("/bucket/k?partNumber=1&uploadId={id}"), &[], "precious").await.header("etag").to_string();
    let body = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>");
    let done = c.ok("POST", &format!("/bucket/k?uploadId={id}"), &[], &body).await;
    let v = done.header("x-amz-version-id").to_string();
    c.later(Duration::from_secs(2));
    let part = format!("/v1/AUTH_p1/bucket+segments/k/{id}/1");
    for (method, body) in [("DELETE", ""), ("PUT", "other"), ("POST", "")] {
        assert_eq!(c.swift(method, &part, &[], body).await.status, 403, "{method}");
    }
    let all = format!("{AT}?multipart-manifest=delete&version-id={v}");
    c.swift("DELETE", &all, &[], "").await;
    is_safe(&c, &v).await;
    // A marker in front of a version leaves the version's data alone, by either API.
    c.ok("DELETE", "/bucket/k", &[], "").await;
    is_safe(&c, &v).await;
    c.later(Duration::from_secs(2 * 86_400));
    c.ok("DELETE", &format!("/bucket/k?versionId={v}"), &[], "").await;
    assert!(c.store.object("AUTH_p1", "bucket+segments", &format!("k/{id}/1")).is_none());
}
