use super::Cloud;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn tags_of_objects_and_buckets() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/k", &[("x-amz-meta-m", "1"), ("x-amz-tagging", "a=1&b=2")], "x").await;
    assert_eq!(c.ok("GET", "/bucket/k?tagging", &[], "").await.tags("Key"), ["a", "b"]);
    let body = "<Tagging><TagSet><Tag><Key>c</Key><Value>3</Value></Tag></TagSet></Tagging>";
    c.ok("PUT", "/bucket/k?tagging", &[], body).await;
    assert_eq!(c.ok("GET", "/bucket/k?tagging", &[], "").await.tags("Key"), ["c"]);
    assert_eq!(c.ok("HEAD", "/bucket/k", &[], "").await.header("x-amz-meta-m"), "1", "other metadata stays");
    c.ok("DELETE", "/bucket/k?tagging", &[], "").await;
    assert!(c.ok("GET", "/bucket/k?tagging", &[], "").await.tags("Key").is_empty());
    assert_eq!(c.code("owner", "PUT", "/bucket/k", &[("x-amz-tagging", "a=1&a=2")], "x").await, "InvalidTag");
    assert_eq!(c.code("owner", "GET", "/bucket?tagging", &[], "").await, "NoSuchTagSet");
    c.ok("PUT", "/bucket?tagging", &[], body).await;
    assert_eq!(c.ok("GET", "/bucket?tagging", &[], "").await.tags("Value"), ["3"]);
    c.ok("DELETE", "/bucket?tagging", &[], "").await;
    assert_eq!(c.code("owner", "GET", "/bucket?tagging", &[], "").await, "NoSuchTagSet");
}

#[tokio::test]
async fn cross_origin_requests() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    assert_eq!(c.code("owner", "GET", "/bucket?cors", &[], "").await, "NoSuchCORSConfiguration");
    let config = "<CORSConfiguration><CORSRule><AllowedOrigin>https://a.example</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";
    c.ok("PUT", "/bucket?cors", &[], config).await;
    assert_eq!(c.ok("GET", "/bucket?cors", &[], "").await.tag("AllowedOrigin").as_deref(), Some("https://a.example"));
    let ask = |method: &'static str| [("origin", "https://a.example"), ("access-control-request-method", method)];
    let ok = c.send("", "OPTIONS", "/s3/p1:bucket/k", &ask("GET"), "").await;
    assert_eq!((ok.status, ok.header("access-control-allow-origin")), (200, "https://a.example"));
    assert_eq!(c.send("", "OPTIONS", "/s3/p1:bucket/k", &ask("PUT"), "").await.status, 403);
    assert_eq!(c.send("", "OPTIONS", "/s3/p1:no-bucket/k", &ask("GET"), "").await.status, 403);
    let get = c.send("owner", "GET", "/bucket/none", &[("origin", "https://a.example")], "").await;
    assert_eq!((get.status, get.header("access-control-allow-origin")), (404, "https://a.example"));
    c.ok("DELETE", "/bucket?cors", &[], "").await;
    assert_eq!(c.send("", "OPTIONS", "/s3/p1:bucket/k", &ask("GET"), "").await.status, 403);
}

#[tokio::test]
async fn versions_are_kept() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    assert!(c.ok("GET", "/bucket?versioning", &[], "").await.tag("Status").is_none());
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    c.ok("PUT", "/bucket?versioning", &[], on).await;
    assert_eq!(c.ok("GET", "/bucket?versioning", &[], "").await.tag("Status").as_deref(), Some("Enabled"));
    assert_eq!(
        c.code("owner", "PUT", "/bucket?versioning", &[], "<VersioningConfiguration/>").await,
        "IllegalVersioningConfigurationException"
    );
    let one = c.ok("PUT", "/bucket/k", &[], "one").await.header("x-amz-version-id").to_string();
    c.later(Duration::from_secs(2));
    let two = c.ok("PUT", "/bucket/k", &[], "two").await.header("x-amz-version-id").to_string();
    assert!(!one.is_empty() && one != two);
    assert_eq!(c.ok("GET", "/bucket/k", &[], "").await.text, "two");
    let old = c.ok("GET", &format!("/bucket/k?versionId={one}"), &[], "").await;
    assert_eq!((old.text.as_str(), old.header("x-amz-version-id")), ("one", one.as_str()));
    assert_eq!(c.ok("GET", "/bucket?versions", &[], "").await.tags("VersionId"), [two.clone(), one.clone()]);
    // A version's own tags.
    let tag = "<Tagging><TagSet><Tag><Key>v</Key><Value>1</Value></Tag></TagSet></Tagging>";
    c.ok("PUT", &format!("/bucket/k?tagging&versionId={one}"), &[], tag).await;
    assert_eq!(c.ok("GET", &format!("/bucket/k?tagging&versionId={one}"), &[], "").await.tags("Key"), ["v"]);
    assert!(c.ok("GET", "/bucket/k?tagging", &[], "").await.tags("Key").is_empty());
    c.later(Duration::from_secs(2));
    let gone = c.ok("DELETE", "/bucket/k", &[], "").await;
    assert_eq!(gone.header("x-amz-delete-marker"), "true");
    let marker = gone.header("x-amz-version-id").to_string();
    assert_eq!(c.code("owner", "GET", "/bucket/k", &[], "").await, "NoSuchKey");
    let list = c.ok("GET", "/bucket?versions", &[], "").await;
    assert_eq!((list.tags("DeleteMarker").len(), list.tags("Version").len()), (1, 2));
    assert_eq!(c.code("owner", "GET", &format!("/bucket/k?versionId={marker}"), &[], "").await, "MethodNotAllowed");
    c.ok("DELETE", &format!("/bucket/k?versionId={marker}"), &[], "").await;
    assert_eq!(c.ok("GET", "/bucket/k", &[], "").await.text, "two", "the version before is current again");
    c.ok("DELETE", &format!("/bucket/k?versionId={two}"), &[], "").await;
    assert_eq!(c.ok("GET", "/bucket/k", &[], "").await.text, "one");
    assert_eq!(c.code("owner", "GET", "/bucket/k?versionId=1234567890.00000", &[], "").await, "NoSuchVersion");
    assert_eq!(c.code("owner", "GET", "/bucket/k?versionId=x", &[], "").await, "InvalidArgument");
    let copy = format!("/bucket/k?versionId={one}");
    c.ok("PUT", "/bucket/copied", &[("x-amz-copy-source", &copy)], "").await;
    assert_eq!(c.ok("GET", "/bucket/copied", &[], "").await.text, "one");
}

#[tokio::test]
async fn locked_versions_stay() {
    let c = Cloud::new();
    assert_eq!(c.code("owner", "PUT", "/none?object-lock", &[], "").await, "NoSuchBucket");
    c.ok("PUT", "/bucket", &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    assert_eq!(c.ok("GET", "/bucket?object-lock", &[], "").await.tag("ObjectLockEnabled").as_deref(), Some("Enabled"));
    let off = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    assert_eq!(c.code("owner", "PUT", "/bucket?versioning", &[], off).await, "InvalidBucketState");
    let lock = [("x-amz-object-lock-mode", "COMPLIANCE"), ("x-amz-object-lock-retain-until-date", "2020-09-14T12:00:00Z")];
    let v = c.ok("PUT", "/bucket/k", &lock, "x").await.header("x-amz-version-id").to_string();
    let head = c.ok("HEAD", "/bucket/k", &[], "").await;
    assert_eq!(
        (head.header("x-amz-object-lock-mode"), head.header("x-amz-object-lock-retain-until-date")),
        ("COMPLIANCE", "2020-09-14T12:00:00.000Z")
    );
    let at = format!("/bucket/k?versionId={v}");
    let bypass = [("x-amz-bypass-governance-retention", "true")];
    assert_eq!(c.code("owner", "DELETE", &at, &bypass, "").await, "AccessDenied");
    let many = format!("<Delete><Object><Key>k</Key><VersionId>{v}</VersionId></Object></Delete>");
    assert_eq!(c.ok("POST", "/bucket?delete", &bypass, &many).await.tags("Code"), ["AccessDenied"]);
    let until = |t: &str| format!("<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{t}</RetainUntilDate></Retention>");
    let retention = format!("/bucket/k?retention&versionId={v}");
    assert_eq!(c.code("owner", "PUT", &retention, &bypass, &until("2020-09-13T13:00:00Z")).await, "AccessDenied", "shorter");
    c.ok("PUT", &retention, &[], &until("2020-09-15T12:00:00Z")).await;
    c.later(2 * DAY);
    c.ok("PUT", &format!("/bucket/k?legal-hold&versionId={v}"), &[], "<LegalHold><Status>ON</Status></LegalHold>").await;
    c.later(2 * DAY);
    assert_eq!(c.code("owner", "DELETE", &at, &[], "").await, "AccessDenied", "held");
    c.ok("PUT", &format!("/bucket/k?legal-hold&versionId={v}"), &[], "<LegalHold><Status>OFF</Status></LegalHold>").await;
    c.ok("DELETE", &at, &[], "").await;
    // The bucket's default, in the weaker mode.
    let config = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    c.ok("PUT", "/bucket?object-lock", &[], config).await;
    let v = c.ok("PUT", "/bucket/g", &[], "x").await.header("x-amz-version-id").to_string();
    let at = format!("/bucket/g?versionId={v}");
    assert_eq!(c.code("owner", "DELETE", &at, &[], "").await, "AccessDenied");
    assert_eq!(c.ok("DELETE", "/bucket/g", &[], "").await.header("x-amz-delete-marker"), "true", "markers may come");
    c.ok("DELETE", &at, &bypass, "").await;
    c.ok("PUT", "/plain-bucket", &[], "").await;
    assert_eq!(c.code("owner", "PUT", "/plain-bucket/k", &lock, "x").await, "InvalidRequest");
    assert_eq!(c.code("owner", "GET", "/plain-bucket?object-lock", &[], "").await, "ObjectLockConfigurationNotFoundError");
}

#[tokio::test]
async fn objects_end_by_rules() {
    let c = Cloud::new();
    c.ok("PUT", "/bucket", &[], "").await;
    c.ok("PUT", "/bucket/tmp/a", &[], "x").await;
    c.ok("PUT", "/bucket/tmp/b", &[("x-amz-tagging", "keep=no")], "x").await;
    c.ok("PUT", "/bucket/other", &[], "x").await;
    let id = c.ok("POST", "/bucket/tmp/up?uploads", &[], "").await.tag("UploadId").unwrap();
    c.ok("PUT", &format!("/bucket/tmp/up?partNumber=1&uploadId={id}"), &[], "part").await;
    let config = "<LifecycleConfiguration><Rule><ID>one</ID><Status>Enabled</Status><Filter><And><Prefix>tmp/</Prefix><Tag><Key>keep</Key><Value>no</Value></Tag></And></Filter><Expiration><Days>1</Days></Expiration></Rule>\
        <Rule><ID>two</ID><Status>Enabled</Status><Filter><Prefix>tmp/</Prefix></Filter><Expiration><Days>3</Days></Expiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>";
    c.ok("PUT", "/bucket?lifecycle", &[], config).await;
    assert_eq!(c.ok("GET", "/bucket?lifecycle", &[], "").await.tags("ID"), ["one", "two"]);
    assert!(c.ok("HEAD", "/bucket/tmp/a", &[], "").await.header("x-amz-expiration").contains("rule-id=\"two\""));
    let pass = c.layer.lifecycle_run_once().await;
    assert_eq!((pass.n_buckets, pass.n_expired, pass.n_aborted, pass.n_failed), (1, 0, 0, 0));
    c.later(2 * DAY);
    assert_eq!(c.layer.lifecycle_run_once().await.n_expired, 1);
    assert_eq!(c.store.names("AUTH_p1", "bucket"), ["other", "tmp/a"]);
    c.later(2 * DAY);
    let pass = c.layer.lifecycle_run_once().await;
    assert_eq!((pass.n_expired, pass.n_aborted), (1, 1));
    assert_eq!(c.store.names("AUTH_p1", "bucket"), ["other"]);
    assert!(c.store.names("AUTH_p1", "bucket+segments").is_empty());
    c.ok("DELETE", "/bucket?lifecycle", &[], "").await;
    assert_eq!(c.layer.lifecycle_run_once().await.n_buckets, 0);
    assert_eq!(c.code("owner", "PUT", "/bucket?lifecycle", &[], "<LifecycleConfiguration/>").await, "MalformedXML");
}

#[tokio::test]
async fn buckets_as_sites() {
    let c = Cloud::with(|o| o.website_domains = vec!["site.test".into()]);
    c.ok("PUT", "/bucket", &[("x-amz-acl", "public-read")], "").await;
    for (k, v) in [("index.html", "home"), ("docs/index.html", "docs"), ("404.html", "lost")] {
        c.ok("PUT", &format!("/bucket/{k}"), &[("x-amz-acl", "public-read")], v).await;
    }
    c.ok("PUT", "/bucket/private", &[], "p").await;
    let get = |path: &'static str| {
        let c = &c;
        async move {
            let mut req = c.request("GET", path, &[], b"");
            req.headers_mut().insert("host", "bucket.AUTH_p1.site.test".parse().unwrap());
            c.raw(req).await
        }
    };
    assert_eq!(get("/").await.status, 404, "no configuration");
    let config = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument><ErrorDocument><Key>404.html</Key></ErrorDocument>\
        <RoutingRules><RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition><Redirect><ReplaceKeyPrefixWith>docs/</ReplaceKeyPrefixWith></Redirect></RoutingRule></RoutingRules></WebsiteConfiguration>";
    c.ok("PUT", "/bucket?website", &[], config).await;
    assert_eq!(get("/").await.text, "home");
    assert_eq!(get("/docs/").await.text, "docs");
    let to = get("/docs").await;
    assert_eq!((to.status, to.header("location")), (302, "/docs/"));
    let lost = get("/none").await;
    assert_eq!((lost.status, lost.text.as_str()), (404, "lost"));
    assert_eq!(get("/private").await.status, 403);
    let moved = get("/old/x").await;
    assert_eq!((moved.status, moved.header("location")), (301, "http://bucket.AUTH_p1.site.test/docs/x"));
    let mut req = c.request("PUT", "/new", &[], b"x");
    req.headers_mut().insert("host", "bucket.AUTH_p1.site.test".parse().unwrap());
    assert_eq!(c.raw(req).await.status, 405);
}

#[tokio::test]
async fn events_reach_a_webhook() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tx, mut rx) = tokio::sync::mpsc::channel::<String>(8);
    tokio::spawn(async move {
        while let Ok((mut s, _)) = listener.accept().await {
            let mut all = Vec::new();
            let mut b = [0; 4096];
            while let Ok(n) = s.read(&mut b).await {
                all.extend_from_slice(&b[..n]);
                if n == 0 || all.ends_with(b"}") {
                    break;
                }
            }
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = tx.send(String::from_utf8_lossy(&all).into_owned()).await;
        }
    });
    let c = Cloud::with(|o| o.events.webhooks = crate::Webhooks::parse(&["127.0.0.1".into()], None).unwrap());
    c.ok("PUT", "/bucket", &[], "").await;
    let config = format!(
        "<NotificationConfiguration><TopicConfiguration><Topic>arn:aws:sns:::http://127.0.0.1:{port}/hook</Topic><Event>s3:ObjectCreated:*</Event></TopicConfiguration></NotificationConfiguration>"
    );
    c.ok("PUT", "/bucket?notification", &[], &config).await;
    c.ok("PUT", "/bucket/k", &[], "hello").await;
    assert!(rx.recv().await.unwrap().contains("s3:TestEvent"));
    let said = tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap().unwrap();
    assert!(
        said.starts_with("POST /hook ") && said.contains("\"eventName\":\"ObjectCreated:Put\"") && said.contains("\"size\":5"),
        "{said}"
    );
    let amqp = config.replace("http://", "amqp://");
    assert_eq!(c.code("owner", "PUT", "/bucket?notification", &[], &amqp).await, "InvalidArgument");
    let off = Cloud::new();
    off.ok("PUT", "/bucket", &[], "").await;
    assert_eq!(off.code("owner", "PUT", "/bucket?notification", &[], &config).await, "NotImplemented");
}
