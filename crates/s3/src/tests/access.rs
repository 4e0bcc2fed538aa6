use super::Cloud;
use serde_json::json;

#[tokio::test]
async fn strangers_learn_nothing() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/k", &[], "x").await;
    assert_eq!(c.code("nobody", "GET", "/bucket", &[], "").await, "InvalidAccessKeyId");
    assert_eq!(c.code("", "GET", "/s3/bucket/k", &[], "").await, "AccessDenied");
    // A bucket of another account, there or not: the same answer.
    let there = c.send("other", "GET", "/p1:bucket/k", &[], "").await;
    let not = c.send("other", "GET", "/p1:no-bucket/k", &[], "").await;
    assert_eq!((there.code(), &there.text), ("AccessDenied".into(), &not.text));
    for (method, target) in [
        ("PUT", "/p1:bucket/k"),
        ("DELETE", "/p1:bucket/k"),
        ("GET", "/p1:bucket"),
        ("DELETE", "/p1:bucket"),
        ("GET", "/p1:bucket?acl"),
        ("PUT", "/p1:bucket?acl"),
        ("GET", "/p1:bucket?policy"),
        ("GET", "/p1:bucket/k?tagging"),
        ("GET", "/p1:bucket?versions"),
        ("POST", "/p1:bucket/k?uploads"),
    ] {
        assert_eq!(c.code("other", method, target, &[], "").await, "AccessDenied", "{method} {target}");
    }
    // The caller's own bucket of that name is not the other's.
    assert_eq!(c.code("other", "GET", "/bucket/k", &[], "").await, "NoSuchBucket");
    assert_eq!(c.code("other", "PUT", "/p2:own-bucket/x", &[("x-amz-copy-source", "/bucket/k")], "").await, "NoSuchBucket");
}

#[tokio::test]
async fn a_user_without_the_owners_role_needs_a_grant() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/k", &[], "x").await;
    assert_eq!(c.code("reader", "GET", "/bucket/k", &[], "").await, "AccessDenied");
    assert_eq!(c.code("reader", "PUT", "/new-bucket", &[], "").await, "AccessDenied");
    c.ok("PUT", "/bucket/k?acl", &[("x-amz-grant-read", "id=bob-id")], "").await;
    assert_eq!(c.code("reader", "GET", "/bucket/k", &[], "").await, "200");
    assert_eq!(c.code("reader", "DELETE", "/bucket/k", &[], "").await, "AccessDenied");
    assert_eq!(c.code("reader", "GET", "/bucket/k?acl", &[], "").await, "AccessDenied");
    c.ok("PUT", "/bucket?acl", &[("x-amz-grant-write", "id=p1"), ("x-amz-grant-read", "id=\"p1-name:bob\"")], "").await;
    assert_eq!(c.code("reader", "PUT", "/bucket/new", &[], "y").await, "200");
    assert_eq!(c.ok("GET", "/bucket/new?acl", &[], "").await.tags("ID")[0], "p1-name:bob");
    assert_eq!(c.send("reader", "GET", "/bucket", &[], "").await.tags("Key").len(), 2);
    assert_eq!(c.code("reader", "DELETE", "/bucket", &[], "").await, "AccessDenied");
    assert_eq!(c.code("reader", "PUT", "/bucket?policy", &[], "{}").await, "AccessDenied");
}

#[tokio::test]
async fn public_buckets() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[("x-amz-acl", "public-read")], "").await;
    let (sent, _) = c.store.last("PUT /v1/AUTH_p1/bucket").unwrap();
    assert!(!sent.contains_key("x-container-read"), "a container's list would open every object");
    c.ok("PUT", "/bucket/open", &[("x-amz-acl", "public-read")], "x").await;
    c.ok("PUT", "/bucket/shut", &[], "y").await;
    assert_eq!(c.send("", "GET", "/s3/p1:bucket/open", &[], "").await.text, "x");
    assert_eq!(c.code("", "GET", "/s3/p1:bucket/shut", &[], "").await, "AccessDenied");
    assert_eq!(c.send("", "GET", "/s3/p1:bucket", &[], "").await.tags("Key").len(), 2);
    assert_eq!(c.code("", "PUT", "/s3/p1:bucket/new", &[], "x").await, "AccessDenied");
    assert_eq!(c.code("", "GET", "/s3/p1:bucket/open?response-content-type=a", &[], "").await, "InvalidRequest");
    let acl = c.ok("GET", "/bucket?acl", &[], "").await;
    assert!(acl.text.contains("groups/global/AllUsers") && acl.tags("Permission") == ["FULL_CONTROL", "READ"]);
    // The document that was read can be sent back.
    c.ok("PUT", "/bucket?acl", &[], &acl.text).await;
    assert_eq!(c.code("owner", "PUT", "/bucket?acl", &[("x-amz-acl", "nonsense")], "").await, "InvalidArgument");
    assert_eq!(c.code("owner", "PUT", "/bucket?acl", &[], "<x/>").await, "MalformedACLError");
    c.ok("PUT", "/bucket?acl", &[("x-amz-acl", "private")], "").await;
    assert_eq!(c.code("", "GET", "/s3/p1:bucket", &[], "").await, "AccessDenied");
}

#[tokio::test]
async fn policies_decide() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/in/k", &[], "x").await;
    let statement = |effect: &str, who: serde_json::Value, action: &str, resource: &str| json!({"Effect": effect, "Principal": who, "Action": action, "Resource": format!("arn:aws:s3:::bucket{resource}")});
    let policy = json!({"Version": "2012-10-17", "Statement": [
        statement("Allow", json!({"AWS": "arn:aws:iam::p2:root"}), "s3:GetObject", "/in/*"),
        statement("Deny", json!("*"), "s3:DeleteObject", "/in/*"),
        {"Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::bucket",
         "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}, "StringLike": {"s3:prefix": "in/*"}}},
    ]});
    assert_eq!(c.code("owner", "GET", "/bucket?policy", &[], "").await, "NoSuchBucketPolicy");
    assert_eq!(c.ok("PUT", "/bucket?policy", &[], &policy.to_string()).await.status, 204);
    let got: serde_json::Value = serde_json::from_str(&c.ok("GET", "/bucket?policy", &[], "").await.text).unwrap();
    assert_eq!(got, policy);
    assert_eq!(c.send("other", "GET", "/p1:bucket/in/k", &[], "").await.text, "x");
    assert_eq!(c.code("other", "PUT", "/p1:bucket/in/k", &[], "z").await, "AccessDenied");
    assert_eq!(c.code("other", "GET", "/p1:bucket/out", &[], "").await, "AccessDenied");
    assert_eq!(c.code("", "GET", "/s3/p1:bucket?prefix=in%2Fx", &[], "").await, "200");
    assert_eq!(c.code("", "GET", "/s3/p1:bucket", &[], "").await, "AccessDenied");
    // Denied to the owner, too; also among many.
    assert_eq!(c.code("owner", "DELETE", "/bucket/in/k", &[], "").await, "AccessDenied");
    let many = c.ok("POST", "/bucket?delete", &[], "<Delete><Object><Key>in/k</Key></Object><Object><Key>o</Key></Object></Delete>").await;
    assert_eq!((many.tags("Code"), many.tags("Deleted").len()), (vec!["AccessDenied".to_string()], 1));
    // A copy reads its source.
    c.ok("PUT", "/bucket?policy", &[], &json!({"Statement": statement("Deny", json!("*"), "s3:GetObject", "/in/*")}).to_string()).await;
    assert_eq!(c.code("owner", "PUT", "/bucket/copy", &[("x-amz-copy-source", "/bucket/in/k")], "").await, "AccessDenied");
    // Whoever locks himself out can still take the policy away.
    c.ok("PUT", "/bucket?policy", &[], &json!({"Statement": {"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}}).to_string()).await;
    assert_eq!(c.code("owner", "GET", "/bucket", &[], "").await, "AccessDenied");
    assert_eq!(c.ok("DELETE", "/bucket?policy", &[], "").await.status, 204);
    assert_eq!(c.code("owner", "GET", "/bucket", &[], "").await, "200");
    assert_eq!(c.code("owner", "PUT", "/bucket?policy", &[], "{\"Statement\": []}").await, "MalformedPolicy");
    let long = json!({"Statement": statement("Allow", json!("*"), "s3:GetObject", &format!("/{}", "x".repeat(8000)))}).to_string();
    assert_eq!(c.send("owner", "PUT", "/bucket?policy", &[], &long).await.status, 400);
}

#[tokio::test]
async fn other_requests_pass() {
    let c = Cloud::new();
    c.store.container("AUTH_p1", "bucket");
    let r = c.send("", "GET", "/v1/AUTH_p1/bucket", &[], "").await;
    assert_eq!(r.status, 403, "the layers below decide");
    assert_eq!(c.store.take_log().len(), 1);
    assert_eq!(c.code("owner", "GET", "/bucket?inventory", &[], "").await, "NotImplemented");
    assert_eq!(c.code("owner", "GET", "/bucket?replication", &[], "").await, "NotImplemented");
    assert_eq!(c.code("owner", "POST", "/bucket", &[], "").await, "NotImplemented");
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("x-amz-storage-class", "GLACIER")], "").await, "InvalidStorageClass");
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("x-amz-server-side-encryption", "aws:kms")], "").await, "NotImplemented");
    assert_eq!(c.code("owner", "GET", "/bucket%2Bsegments/k", &[], "").await, "InvalidBucketName");
    assert_eq!(c.code("owner", "GET", "/%00versions%00bucket/k", &[], "").await, "InvalidURI");
    assert_eq!(c.code("owner", "GET", &format!("/bucket/{}", "k".repeat(1025)), &[], "").await, "KeyTooLongError");
}

#[tokio::test]
async fn bucket_in_the_host_name() {
    let c = Cloud::with(|o| o.storage_domains = vec!["s3.test".into()]);
    c.ok("PUT", "/bucket", &[], "").await;
    let mut req = c.request("PUT", "/some/key", &[], b"v");
    req.headers_mut().insert("host", "bucket.s3.test".parse().unwrap());
    let now = caelum_base::Timestamp::parse("2020-09-13T12:00:00Z").unwrap();
    let r = c.raw(crate::sign::sign(req, "owner", "secret", now, b"v")).await;
    assert_eq!(r.status, 200, "{}", r.text);
    assert_eq!(c.store.names("AUTH_p1", "bucket"), ["some/key"]);
}
