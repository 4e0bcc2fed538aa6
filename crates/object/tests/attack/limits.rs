//! Quotas hold on what comes of a request, whichever way it comes; and no request costs much.

use super::cluster::Cloud;
use bytes::Bytes;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn container_quotas_hold_for_every_way_in() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    cloud.as_a("PUT", "/v1/AUTH_a/big", &[], "").await;
    cloud.as_a("PUT", "/v1/AUTH_a/big/o", &[], vec![b'x'; 200]).await;
    cloud.as_a("PUT", "/v1/AUTH_a/q", &[("x-container-meta-quota-bytes", "100")], "").await;
    let full = "Upload exceeds quota.";
    let put = cloud.as_a("PUT", "/v1/AUTH_a/q/o", &[], vec![b'x'; 101]).await;
    assert_eq!((put.status, put.text().as_str()), (413, full));
    let copied = cloud.as_a("PUT", "/v1/AUTH_a/q/o", &[("x-copy-from", "big/o")], "").await;
    assert_eq!((copied.status, copied.text().as_str()), (413, full), "copied in");
    let copied = cloud.as_a("COPY", "/v1/AUTH_a/big/o", &[("destination", "q/o")], "").await;
    assert_eq!(copied.status, 413, "copied to");
    let (tx, body) = caelum_rest::stream_channel(4);
    for _ in 0..3 {
        tx.send(Ok(Bytes::from(vec![b'x'; 50]))).await.unwrap();
    }
    drop(tx);
    let chunked = cloud.stream("PUT", "/v1/AUTH_a/q/o", &[("x-auth-token", &cloud.a)], body).await;
    assert_eq!((chunked.status, chunked.text().as_str()), (413, full), "of unknown length");
    let by_url = cloud.call("PUT", &cloud.temp_url("PUT", "/v1/AUTH_a/q/o"), &[], vec![b'x'; 101]).await;
    assert_eq!(by_url.status, 413, "by temporary URL");
    assert_eq!(cloud.names("q").await, Vec::<String>::new());
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/q/o", &[], vec![b'x'; 100]).await.status, 201);
    // Who may not write there learns nothing of the quota.
    assert_eq!(cloud.as_b("PUT", "/v1/AUTH_a/q/o", &[], vec![b'x'; 101]).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn account_quotas_hold_and_only_resellers_set_them() {
    let cloud = Cloud::new().await;
    for name in
        ["x-account-meta-quota-bytes", "x-account-quota-bytes", "x-remove-account-quota-bytes", "x-account-quota-bytes-policy-policy-0"]
    {
        assert_eq!(cloud.as_a("POST", "/v1/AUTH_a", &[(name, "1000000")], "").await.status, 403, "{name}");
    }
    let reseller = cloud.reseller.clone();
    let set = cloud.call("POST", "/v1/AUTH_a", &[("x-auth-token", &reseller), ("x-account-quota-bytes", "100")], "").await;
    assert_eq!(set.status, 204, "{}", set.text());
    assert_eq!(cloud.as_a("HEAD", "/v1/AUTH_a", &[], "").await.header("x-account-quota-bytes"), Some("100"));
    let put = cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], vec![b'x'; 101]).await;
    assert_eq!((put.status, put.text().as_str()), (413, "Upload exceeds quota."));
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], vec![b'x'; 100]).await.status, 201);
    assert_eq!(cloud.as_b("PUT", "/v1/AUTH_a/c/o", &[], vec![b'x'; 101]).await.status, 403);
    assert_eq!(cloud.call("PUT", "/v1/AUTH_a/c/o", &[], vec![b'x'; 101]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_at_its_limits() {
    let cloud = Cloud::new().await;
    let case = |name: usize, value: usize| (format!("x-object-meta-{}", "n".repeat(name)), "v".repeat(value));
    for (name, value, status) in [(128, 1, 201), (129, 1, 400), (1, 256, 201), (1, 257, 400)] {
        let (n, v) = case(name, value);
        assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[(&n, &v)], "").await.status, status, "{name} {value}");
    }
    for (count, size, status) in [(90, 1, 201), (91, 1, 400), (10, 250, 201), (17, 256, 400)] {
        let names: Vec<String> = (0..count).map(|i| format!("x-object-meta-{i:03}")).collect();
        let value = "v".repeat(size);
        let headers: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), value.as_str())).collect();
        let answer = cloud.as_a("PUT", "/v1/AUTH_a/c/o", &headers, "").await;
        assert_eq!(answer.status, status, "{count} of {size}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_checked() {
    let cloud = Cloud::new().await;
    for query in [
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "limit=10001",
        "limit=0",
        "format=evil",
        "prefix=%ff",
        "marker=%ff",
        "delimiter=%00",
        "reverse=maybe",
        "path=x",
        "states=x",
        "limit=1&limit=2",
        "prefix=%25&marker=_",
        "end_marker=a&marker=b",
        "delimiter=abc",
        "format=json&format=xml",
        "policy=x",
    ] {
        for target in ["/v1/AUTH_a", "/v1/AUTH_a/c"] {
            let answer = cloud.as_a("GET", &format!("{target}?{query}"), &[], "").await;
            assert!(answer.status < 500, "{target}?{query}: {}", answer.status);
        }
    }
    let over = cloud.as_a("GET", "/v1/AUTH_a/c?limit=10001", &[], "").await;
    assert_eq!((over.status, over.text().as_str()), (412, "Maximum limit is 10000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_cheap_and_never_ours_to_blame() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], vec![b'x'; 1_000]).await;
    let ranges = vec!["0-0"; 2_000].join(",");
    let overlapping = (0..1_000).map(|i| format!("{i}-999")).collect::<Vec<_>>().join(",");
    let tags = vec!["\"x\""; 1_500].join(",");
    for (name, value) in [
        ("range", format!("bytes={ranges}")),
        ("range", format!("bytes={overlapping}")),
        ("range", "bytes=-99999999999999999999".into()),
        ("range", "bytes=5-2".into()),
        ("range", "bytes".into()),
        ("if-match", tags.clone()),
        ("if-none-match", tags),
        ("if-modified-since", "Mon, 99 Foo 99999 99:99:99 GMT".into()),
        ("if-modified-since", "-".repeat(8_000)),
        ("origin", "x".repeat(8_000)),
        ("x-delete-at", "x".into()),
        ("x-newest", "maybe".into()),
        ("x-trans-id-extra", "x".repeat(8_000)),
        ("accept-encoding", "gzip,".repeat(1_000)),
        ("referer", "http://[".into()),
    ] {
        let begin = Instant::now();
        for method in ["GET", "HEAD", "PUT", "POST"] {
            let answer = cloud.as_a(method, "/v1/AUTH_a/c/o", &[(name, &value)], "y").await;
            assert!(answer.status < 500, "{method} {name}: {}", answer.status);
        }
        assert!(begin.elapsed() < Duration::from_secs(4), "{name}: {:?}", begin.elapsed());
    }
    for (headers, body) in [
        (vec![("x-delete-at", "1")], "x"),
        (vec![("x-delete-at", "-5")], "x"),
        (vec![("x-delete-after", "-5")], "x"),
        (vec![("etag", "nonsense")], "x"),
        (vec![("x-object-manifest", "no-slash")], ""),
        (vec![("x-copy-from", "%ff/x")], ""),
        (vec![("x-copy-from", "none")], ""),
        (vec![("x-symlink-target", "c")], ""),
        (vec![("x-symlink-target", "c/o"), ("x-symlink-target-etag", "wrong")], ""),
    ] {
        let answer = cloud.as_a("PUT", "/v1/AUTH_a/c/p", &headers, body).await;
        assert!((400..500).contains(&answer.status), "{headers:?}: {}", answer.status);
    }
    for manifest in [
        "",
        "{",
        "[",
        "{}",
        "[1]",
        "null",
        "[{}]",
        r#"[{"path":1}]"#,
        r#"[{"path":"x"}]"#,
        r#"[{"path":"/c/p","size_bytes":-1}]"#,
        r#"[{"path":"/c/o","range":"0-"}]"#,
        r#"[{"data":"*"}]"#,
        "\u{feff}[1]",
    ] {
        let answer = cloud.as_a("PUT", "/v1/AUTH_a/c/m?multipart-manifest=put", &[], manifest).await;
        assert!((400..500).contains(&answer.status) || answer.status == 200 || manifest.contains("0-"), "{manifest}: {}", answer.status);
        assert!(answer.status < 500, "{manifest}");
    }
    let deep = "[".repeat(100_000);
    let answer = cloud.as_a("PUT", "/v1/AUTH_a/c/m?multipart-manifest=put", &[], deep).await;
    assert_eq!(answer.status, 400);
    let big = vec![b' '; (8 << 20) + 1];
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/m?multipart-manifest=put", &[], big).await.status, 413);
}
