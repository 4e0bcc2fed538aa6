//! One test per security advisory of OpenStack Swift that applies to this store.

use super::cluster::{Cloud, now};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Account listings in XML put container names out unescaped.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2013_016_names_in_listings_are_escaped() {
    let cloud = Cloud::new().await;
    let evil = "<&\"'>]]>";
    let quoted = "%3C%26%22%27%3E%5D%5D%3E";
    assert_eq!(cloud.as_a("PUT", &format!("/v1/AUTH_a/{quoted}"), &[], "").await.status, 201);
    assert_eq!(cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{quoted}"), &[], "x").await.status, 201);
    for target in ["/v1/AUTH_a", "/v1/AUTH_a/c"] {
        let xml = cloud.as_a("GET", &format!("{target}?format=xml"), &[], "").await.text();
        assert!(xml.contains("&lt;&amp;") && !xml.contains("<&") && !xml.contains("]]>"), "{xml}");
        let json = cloud.as_a("GET", &format!("{target}?format=json"), &[], "").await;
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&json.body).unwrap();
        assert!(rows.iter().any(|r| r["name"] == evil), "{rows:?}");
        assert!(cloud.as_a("GET", target, &[], "").await.text().lines().any(|l| l == evil));
    }
    let xml = cloud.as_a("GET", &format!("/v1/AUTH_a/{quoted}?format=xml"), &[], "").await.text();
    assert!(!xml.contains("name=\"<"), "the container's own name stands in an attribute: {xml}");
}

/// `X-Timestamp` from a client made tombstones without number.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2013_022_clients_do_not_set_times() {
    let cloud = Cloud::new().await;
    for i in 0..20 {
        let stamp = format!("{}.00000", 1_000_000_000 + i);
        let gone = cloud.as_a("DELETE", "/v1/AUTH_a/c/none", &[("x-timestamp", &stamp)], "").await;
        assert_eq!(gone.status, 404);
    }
    let mut stones = 0;
    for file in files(cloud.dir.path()) {
        stones += usize::from(file.ends_with(".ts"));
    }
    assert!(stones <= 3, "{stones} tombstones for one name on three nodes");
    let put = cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[("x-timestamp", "9999999999.00000")], "x").await;
    assert_eq!(put.status, 201);
    let stamp: f64 = cloud.as_a("HEAD", "/v1/AUTH_a/c/o", &[], "").await.header("x-timestamp").unwrap().parse().unwrap();
    assert!(stamp < now() as f64 + 60.0, "{stamp}");
}

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            p if p.is_dir() => out.extend(files(&p)),
            p => out.push(p.display().to_string()),
        }
    }
    out
}

/// The time that a wrong signature took to be refused told how much of it was right.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2014_002_signatures_are_compared_in_constant_time() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "x").await;
    let good = cloud.temp_url("GET", "/v1/AUTH_a/c/o");
    assert_eq!(cloud.call("GET", &good, &[], "").await.status, 200);
    // Every wrong signature gets one and the same answer, wherever it goes wrong.
    let sig = good.split("temp_url_sig=").nth(1).unwrap().split('&').next().unwrap();
    let mut answers = Vec::new();
    for at in [0, 31, 63] {
        let mut wrong = sig.to_string().into_bytes();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        let target = good.replace(sig, std::str::from_utf8(&wrong).unwrap());
        let mut a = cloud.call("GET", &target, &[], "").await;
        for name in ["x-trans-id", "x-openstack-request-id", "date"] {
            a.headers.remove(name);
        }
        answers.push((a.status, a.headers, a.body));
    }
    assert!(answers.iter().all(|a| *a == answers[0] && a.0 == 401));
    // The primitive itself: the source has no other comparison of signatures.
    let source = concat!(include_str!("../../src/middleware/tempurl.rs"), include_str!("../../src/middleware/formpost/mod.rs"));
    assert!(source.contains("same(&sig") && !source.contains("sig ==") && !source.contains("== sig"));
}

/// The account's name went into `WWW-Authenticate` as it came.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2014_020_challenges_carry_no_markup() {
    let cloud = Cloud::new().await;
    for account in ["%22%3E%3Cscript%3E", "%0d%0aSet-Cookie:%20x", "a%22,Basic%20realm=%22x"] {
        let answer = cloud.call("GET", &format!("/v1/{account}/c"), &[], "").await;
        assert!(matches!(answer.status, 401 | 404 | 412), "{account}: {}", answer.status);
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.matches('"').count() <= 2 && !challenge.contains(['<', '>', '\r', '\n']), "{challenge}");
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(!answer.text().contains("<script>"), "{}", answer.text());
    }
}

/// Limits on metadata held for each request, not for their sum.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2014_034_metadata_in_steps() {
    let cloud = Cloud::new().await;
    for (target, kind) in [("/v1/AUTH_a", "account"), ("/v1/AUTH_a/c", "container")] {
        let mut refused = None;
        for step in 0..10 {
            let names: Vec<String> = (0..20).map(|i| format!("x-{kind}-meta-s{step}n{i}")).collect();
            let headers: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
            let answer = cloud.as_a("POST", target, &headers, "").await;
            if answer.status == 400 {
                refused = Some(step);
                break;
            }
            assert_eq!(answer.status, 204, "{kind} step {step}: {}", answer.text());
        }
        assert_eq!(refused, Some(4), "{kind}: 90 items are allowed in all");
        let count = cloud
            .as_a("HEAD", target, &[], "")
            .await
            .headers
            .keys()
            .filter(|k| k.as_str().starts_with(&format!("x-{kind}-meta-s")))
            .count();
        assert!(count <= 90, "{kind}: {count}");
    }
}

/// Who could write to a versioned container could delete from the one with the old versions.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2015_006_deletes_by_version_need_rights_there() {
    let cloud = Cloud::new().await;
    cloud.as_b("PUT", "/v1/AUTH_b/old", &[], "").await;
    cloud.as_b("PUT", "/v1/AUTH_b/old/001o/1600000000.00000", &[], "precious").await;
    let headers = [("x-versions-location", "old"), ("x-container-write", "b:owner")];
    let made = cloud.as_a("PUT", "/v1/AUTH_a/v", &headers, "").await.status;
    assert!(matches!(made, 201 | 202), "{made}");
    cloud.as_a("PUT", "/v1/AUTH_a/v/o", &[], "1").await;
    cloud.as_a("PUT", "/v1/AUTH_a/v/o", &[], "2").await;
    cloud.as_a("DELETE", "/v1/AUTH_a/v/o", &[], "").await;
    assert_eq!(cloud.as_b("GET", "/v1/AUTH_b/old/001o/1600000000.00000", &[], "").await.text(), "precious");
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "kept").await;
    for query in ["?version-id=1600000000.00000", "?version-id=null"] {
        let answer = cloud.as_b("DELETE", &format!("/v1/AUTH_a/c/o{query}"), &[], "").await;
        assert!(matches!(answer.status, 400 | 403), "{query}: {}", answer.status);
    }
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c/o", &[], "").await.text(), "kept");
}

/// An upload by temporary URL could make an object that showed others, or the URL's own, by a header.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2015_016_put_tempurl() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/secret", &[], "secret").await;
    let target = cloud.temp_url("PUT", "/v1/AUTH_a/c/mine");
    for (name, value) in [("x-object-manifest", "c/secret"), ("x-symlink-target", "c/secret"), ("X-Object-Manifest", "c/")] {
        let answer = cloud.call("PUT", &target, &[(name, value)], "").await;
        assert_eq!(answer.status, 400, "{name}");
    }
    let slo = r#"[{"path":"/c/secret"}]"#;
    let answer = cloud.call("PUT", &format!("{target}&multipart-manifest=put"), &[], slo).await;
    assert_eq!(answer.status, 201);
    let read = cloud.call("GET", &cloud.temp_url("GET", "/v1/AUTH_a/c/mine"), &[], "").await;
    assert_eq!(read.text(), slo, "stored as it is, no manifest");
}

/// `X-Copy-From` with a temporary URL for uploads read whatever its account held.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2026_041_tempurl_copy_from() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/secret", &[], "secret").await;
    let target = cloud.temp_url("PUT", "/v1/AUTH_a/c/mine");
    for name in ["x-copy-from", "X-Copy-From", "x-CoPy-FrOm"] {
        let answer = cloud.call("PUT", &target, &[(name, "c/secret"), ("content-length", "0")], "").await;
        assert_eq!(answer.status, 400);
    }
    let answer = cloud.call("COPY", &cloud.temp_url("COPY", "/v1/AUTH_a/c/secret"), &[("destination", "c/mine")], "").await;
    assert_eq!(answer.status, 401);
    assert_eq!(cloud.names("c").await, ["secret"]);
}

/// The same without a signature: headers that copy mean nothing beyond the caller's own rights.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2026_030_copies_read_with_the_callers_rights() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/secret", &[], "secret").await;
    for headers in [
        vec![("x-copy-from", "/c/secret"), ("x-copy-from-account", "AUTH_a")],
        vec![("x-amz-copy-source", "/c/secret")],
        vec![("x-copy-from", "../../AUTH_a/c/secret")],
        vec![("x-object-manifest", "../AUTH_a/c/secret")],
    ] {
        cloud.as_b("PUT", "/v1/AUTH_b/c/stolen", &headers, "").await;
        let read = cloud.as_b("GET", "/v1/AUTH_b/c/stolen", &[], "").await;
        assert!(!read.text().contains("secret"), "{headers:?}");
    }
    let link = [("x-symlink-target", "c/secret"), ("x-symlink-target-account", "AUTH_a"), ("content-type", "application/symlink")];
    cloud.as_b("PUT", "/v1/AUTH_b/c/link", &link, "").await;
    let read = cloud.as_b("GET", "/v1/AUTH_b/c/link", &[], "").await;
    assert!(matches!(read.status, 403 | 404) && !read.text().contains("secret"), "{}", read.status);
}

/// A client that went away in the middle of a large object left the proxy reading from the storage nodes.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2016_004_aborted_large_object() {
    let cloud = Cloud::new().await;
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    for i in 0..4 {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/seg/{i}"), &[], piece.clone()).await;
    }
    cloud.as_a("PUT", "/v1/AUTH_a/c/dlo", &[("x-object-manifest", "c/seg/")], "").await;
    let server = cloud.serve().await;
    let client = |target: String| {
        let (addr, token) = (server.addr, cloud.a.clone());
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut link = tokio::net::TcpStream::connect(addr).await.unwrap();
            let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\n\r\n");
            link.write_all(head.as_bytes()).await.unwrap();
            let mut some = [0; 1_000];
            let n = link.read(&mut some).await.unwrap();
            assert!(some[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&some[..n]));
        }
    };
    for _ in 0..50 {
        client("/v1/AUTH_a/c/dlo".into()).await;
    }
    let begin = Instant::now();
    let whole = cloud.as_a("GET", "/v1/AUTH_a/c/dlo", &[], "").await;
    assert_eq!(whole.body.len(), 4 << 20);
    // All connections end once nobody holds them.
    server.stop(Duration::from_secs(10)).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "connections stay open: {:?}", begin.elapsed());
}

/// `X-Container-Host` from a client told a storage node where to send the container's update.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2026_024_update_headers_are_not_the_clients() {
    let cloud = Cloud::new().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = trap.local_addr().unwrap().to_string();
    for kind in ["container", "account", "delete-at"] {
        let names = ["host", "device", "partition"].map(|n| format!("x-{kind}-{n}"));
        let backend = ["host", "device", "partition"].map(|n| format!("x-backend-{kind}-{n}"));
        let values = [host.as_str(), "sda", "1"];
        let mut headers: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values).collect();
        headers.extend(backend.iter().map(String::as_str).zip(values));
        headers.push(("x-delete-at", "9999999999"));
        assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/o", &headers, "x").await.status, 201);
        assert_eq!(cloud.as_a("DELETE", "/v1/AUTH_a/c/o", &headers, "").await.status, 204);
        assert!(cloud.as_a("PUT", &format!("/v1/AUTH_a/for-{kind}"), &headers, "").await.status < 300);
    }
    let connection = tokio::time::timeout(Duration::from_millis(300), trap.accept()).await;
    assert!(connection.is_err(), "somebody called the client's address");
}

/// `Accept` was parsed by an expression that took exponential time.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2026_031_accept_is_cheap() {
    let cloud = Cloud::new().await;
    for accept in [
        format!("text/plain;{}", "a=\"".repeat(2_500)),
        format!("text/plain{}", ";a=b".repeat(2_000)),
        format!("text/plain;a=\"{}", "\\".repeat(7_000)),
        vec!["text/plain"; 700].join(","),
        " ".repeat(8_000),
        format!("{}!", ";".repeat(8_000)),
    ] {
        let begin = Instant::now();
        let answer = cloud.as_a("GET", "/v1/AUTH_a/c", &[("accept", &accept)], "").await;
        assert!(matches!(answer.status, 200 | 204 | 400 | 406), "{}", answer.status);
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    }
}

/// A body in the S3 way of chunks that broke off made the reader loop for ever. Here: any body that breaks off.
#[tokio::test(flavor = "multi_thread")]
async fn ossa_2026_014_truncated_bodies_end() {
    let cloud = Cloud::new().await;
    let headers = [
        ("x-auth-token", cloud.a.as_str()),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
    ];
    let (tx, body) = caelum_rest::stream_channel(4);
    tx.send(Ok(Bytes::from_static(b"100;chunk-signature=0\r\nabc"))).await.unwrap();
    tx.send(Err("reset".into())).await.unwrap();
    drop(tx);
    let put = cloud.stream("PUT", "/v1/AUTH_a/c/cut", &headers, body);
    let answer = tokio::time::timeout(Duration::from_secs(5), put).await.expect("it ends");
    assert_eq!(answer.status, 499);
    assert_eq!(cloud.names("c").await, Vec::<String>::new());
}
