//! Raw requests over TCP: framing, targets, headers.

use super::alive;
use caelum_testkit::TestCloud;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Everything the server answered to these bytes until it closed, or fell silent for half a second.
async fn raw(addr: &str, bytes: &[u8]) -> String {
    let mut link = TcpStream::connect(addr).await.expect("connect");
    // The server may close while we still write.
    let _ = link.write_all(bytes).await;
    let (mut out, mut buf) = (Vec::new(), vec![0; 65_536]);
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(500), link.read(&mut buf)).await {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Statuses of all responses in a text.
fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|r| r.get(..3)?.parse().ok()).collect()
}

fn address(cloud: &TestCloud) -> String {
    cloud.url.trim_start_matches("http://").to_string()
}

/// A request that would be answered 200 if the line or headers under test were not wrong.
fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n").into_bytes()
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /identity/v3/auth/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\r\n{body}")
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_is_ambiguous_is_refused() {
    let cloud = TestCloud::start().await.expect("cloud");
    let addr = address(&cloud);
    let smuggled = "GET /identity/v3 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let chunked = "2\r\n{}\r\n0\r\n\r\n";
    let long = "x".repeat(70_000);
    let many: String = (0..130).map(|i| format!("X-H{i}: 1\r\n")).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("CL then TE", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", &format!("{chunked}{smuggled}"))),
        ("TE then CL", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", &format!("{chunked}{smuggled}"))),
        ("two CLs", post("Content-Length: 2\r\nContent-Length: 3\r\n", &format!("{{}}{smuggled}"))),
        ("CL list", post("Content-Length: 2, 3\r\n", &format!("{{}}{smuggled}"))),
        ("CL +2", post("Content-Length: +2\r\n", "{}")),
        ("CL 0x2", post("Content-Length: 0x2\r\n", "{}")),
        ("CL -1", post("Content-Length: -1\r\n", "{}")),
        ("CL 2^64", post("Content-Length: 18446744073709551616\r\n", "{}")),
        ("CL inner space", post("Content-Length: 1 2\r\n", "{}")),
        ("TE chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", chunked)),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", chunked)),
        ("TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked)),
        ("obs-fold", get("/identity/v3", "X-A: 1\r\n 2\r\n")),
        ("space before colon", get("/identity/v3", "X-A : 1\r\n")),
        ("bare CR", get("/identity/v3", "X-A: 1\rX-B: 2\r\n")),
        ("NUL in header", get("/identity/v3", "X-A: 1\0\r\n")),
        ("chunk size overflow", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
        ("chunk size text", post("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n")),
        ("chunk ext with LF", post("Transfer-Encoding: chunked\r\n", "2;a\nb\r\n{}\r\n0\r\n\r\n")),
        ("long header", get("/identity/v3", &format!("X-A: {long}\r\n"))),
        ("long line", get(&format!("/identity/v3?{long}"), "")),
        ("130 headers", get("/identity/v3", &many)),
        ("no Host", b"GET /identity/v3 HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec()),
        ("two Hosts", get("/identity/v3", "Host: elsewhere\r\n")),
        ("Host with path", b"GET /identity/v3 HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n".to_vec()),
        ("Host with at", b"GET /identity/v3 HTTP/1.1\r\nHost: a@b\r\nConnection: close\r\n\r\n".to_vec()),
        ("Host with hash", b"GET /identity/v3 HTTP/1.1\r\nHost: a#b\r\nConnection: close\r\n\r\n".to_vec()),
        ("absolute form of another host", get("http://elsewhere/identity/v3", "")),
        ("no version", b"GET /identity/v3\r\n\r\n".to_vec()),
        ("HTTP/9.9", b"GET /identity/v3 HTTP/9.9\r\nHost: localhost\r\n\r\n".to_vec()),
        ("raw non-ASCII path", b"GET /identity/\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec()),
        ("NUL path", b"GET /identity/\0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec()),
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("garbage", vec![0xff; 4096]),
    ];
    let mut findings = Vec::new();
    let answers = futures(cases.iter().map(|(_, bytes)| raw(&addr, bytes))).await;
    for ((name, _), text) in cases.iter().zip(answers) {
        let got = statuses(&text);
        // Closing without a word is fine, a second answer is a smuggled request.
        if got.len() > 1 || got.iter().any(|s| !(400..500).contains(s) && *s != 505) {
            findings.push(format!("{name}: {got:?} {}", text.chars().take(200).collect::<String>()));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    alive(&cloud).await;
    cloud.stop().await;
}

/// Runs them side by side, in order of their start.
async fn futures<F: Future<Output = String>>(all: impl Iterator<Item = F>) -> Vec<String> {
    futures_util::future::join_all(all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_play_tricks_find_nothing() {
    let cloud = TestCloud::start().await.expect("cloud");
    let addr = address(&cloud);
    let token = cloud.bootstrap_token("admin").await;
    let auth = format!("X-Auth-Token: {token}\r\n");
    let mut targets: Vec<String> = [
        "/compute/../identity/v3/users",
        "/compute/%2e%2e/identity/v3/users",
        "/compute/v2.1/servers/%2e%2e",
        "/compute/v2.1/servers/..%2f..%2fflavors",
        "/compute/v2.1/servers/..;/flavors",
        "/compute/v2.1//servers",
        "/compute//v2.1/servers",
        "/compute/./v2.1/servers",
        "/compute/v2.1/./servers",
        "/compute/v2.1/servers/%00",
        "/compute/v2.1/servers/%0d%0aX-A:%201",
        "/compute/v2.1/servers/%c0%ae%c0%ae",
        "/compute/v2.1/servers/%ff",
        "/compute/v2.1/servers/%252e%252e",
        "/compute/v2.1/images/..%2f..%2f..%2fidentity",
        "/image/v2/images/%2e%2e",
        "/image/v2/images/%00",
        "/image/v2/images/..%2ffile",
        "/image/v2/metadefs/namespaces/%00",
        "/network/v2.0/networks/%00",
        "/network/v2.0/networks/%0a",
        "/volume/v3/volumes/%00",
        "/volume/v3/volumes/..%2fsnapshots",
        "/identity/v3/users/%00",
        "/identity/v3/projects/%f0%9f%92%a9",
        "/placement/resource_providers/%00",
        "/placement/traits/%00",
        "/computex/v2.1/servers",
        "/COMPUTE/v2.1/servers",
        "*",
    ]
    .map(String::from)
    .to_vec();
    for service in ["/compute/v2.1/servers", "/network/v2.0/ports", "/volume/v3/volumes", "/image/v2/images", "/identity/v3/users"] {
        for id in [
            "x".repeat(256),
            "7F3E1C52-1111-4000-8000-000000000000".into(),
            "7f3e1c52111140008000000000000000".into(),
            "0".into(),
            "-1".into(),
            "%27%20OR%201%3D1".into(),
            "%25".into(),
        ] {
            targets.push(format!("{service}/{id}"));
        }
    }
    let answers = futures(targets.iter().map(|t| {
        let request = get(t, &auth);
        let addr = addr.clone();
        async move { raw(&addr, &request).await }
    }))
    .await;
    let mut findings = Vec::new();
    for (target, text) in targets.iter().zip(answers) {
        let got = statuses(&text);
        if got.len() != 1 || !(400..500).contains(&got[0]) || text.contains("\r\nX-A:") {
            findings.push(format!("{target}: {got:?} {}", text.lines().last().unwrap_or("")));
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    cloud.stop().await;
}

/// What proxies and authentication middleware elsewhere say about the caller.
const SPOOFED: &[(&str, &str)] = &[
    ("X-Roles", "admin,service"),
    ("X-Role", "admin"),
    ("X-User-Id", "admin"),
    ("X-User", "admin"),
    ("X-User-Name", "admin"),
    ("X-User-Domain-Id", "default"),
    ("X-Project-Id", "admin"),
    ("X-Project-Name", "admin"),
    ("X-Project-Domain-Id", "default"),
    ("X-Tenant-Id", "admin"),
    ("X-Tenant-Name", "admin"),
    ("X-Tenant", "admin"),
    ("X-Domain-Id", "default"),
    ("X-Domain-Name", "Default"),
    ("X-Identity-Status", "Confirmed"),
    ("X-Service-Identity-Status", "Confirmed"),
    ("X-Service-Roles", "admin,service"),
    ("X-Service-User-Id", "nova"),
    ("X-Service-Project-Id", "service"),
    ("X-Service-Token", "gAAAAAforged"),
    ("X-Is-Admin-Project", "True"),
    ("X-Is-Admin", "1"),
    ("X_Roles", "admin"),
    ("X_Identity_Status", "Confirmed"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "https"),
    ("Forwarded", "for=127.0.0.1;host=evil.example"),
    ("X-Real-IP", "127.0.0.1"),
    ("X-Instance-ID", "7f3e1c52-1111-4000-8000-000000000000"),
    ("X-Instance-ID-Signature", "0"),
    ("X-Backend-Allow", "1"),
    ("X-Container-Host", "127.0.0.1"),
    ("X-Account-Update", "1"),
    ("X-Timestamp", "0"),
    ("X-Http-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Original-Url", "/identity/v3/users"),
    ("X-Rewrite-Url", "/identity/v3/users"),
    ("X-Remote-User", "admin"),
    ("Remote-User", "admin"),
    ("OpenStack-Identity", "admin"),
    ("X-Trust-Id", "x"),
    ("X-Auth-Key", "x"),
    ("X-Storage-Token", "x"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_header_but_the_token_says_who_one_is() {
    let cloud = TestCloud::start().await.expect("cloud");
    let reader = cloud.persona("headers", "reader", &["reader"]).await;
    let admin = cloud.bootstrap_token("admin").await;
    let network = json!({"network": {"name": "spoofed"}});
    let mut findings = Vec::new();
    for set in SPOOFED.iter().map(|h| vec![*h]).chain([SPOOFED.to_vec()]) {
        for (token, expected) in [(reader.as_str(), 403), ("", 401)] {
            let made = cloud.call_with(http::Method::POST, "/network/v2.0/networks", token, &set, Some(network.clone())).await;
            let users = cloud.call_with(http::Method::GET, "/identity/v3/users", token, &set, None).await;
            let hosts = cloud.call_with(http::Method::GET, "/compute/v2.1/os-hypervisors", token, &set, None).await;
            for a in [made, users, hosts] {
                if a.status != expected || a.text.contains("evil.example") {
                    findings.push(format!("{set:?}: {} {}", a.status, a.text));
                }
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    let twice = raw(&address(&cloud), &get("/identity/v3/users", &format!("X-Auth-Token: {reader}\r\nX-Auth-Token: {admin}\r\n"))).await;
    assert_eq!(statuses(&twice), [401], "{twice}");
    let trailer = format!(
        "GET /identity/v3/users HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Auth-Token\r\nConnection: close\r\n\r\n0\r\nX-Auth-Token: {admin}\r\n\r\n"
    );
    let trailer = raw(&address(&cloud), trailer.as_bytes()).await;
    assert_eq!(statuses(&trailer), [401], "{trailer}");
    cloud.stop().await;
}
