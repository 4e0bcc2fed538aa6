//! Bytes on the wire that two programs could read in two ways.

use super::cluster::Cloud;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes and reads until the peer closes or says nothing more.
async fn raw(addr: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut link = TcpStream::connect(addr).await.unwrap();
    let _ = link.write_all(bytes).await;
    let mut out = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(700), link.read(&mut piece)).await {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|a| a.get(..3)?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_end_the_connection() {
    let cloud = Cloud::new().await;
    let server = cloud.serve().await;
    let (addr, token) = (server.addr, cloud.a.clone());
    let put = |head: &str, body: &str| format!("PUT /v1/AUTH_a/c/x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\n{head}\r\n{body}");
    // Behind each stands a second request that must not be carried out.
    let hidden = format!("DELETE /v1/AUTH_a/c/keep HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\n\r\n");
    cloud.as_a("PUT", "/v1/AUTH_a/c/keep", &[], "x").await;
    // Of both lengths the chunks count alone (RFC 9112, section 6.3): what a reader of the other would take for the
    // next request is data.
    let both = put("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()));
    let answer = raw(addr, both.as_bytes()).await;
    assert!(statuses(&answer).len() <= 1, "{answer}");
    assert_eq!(cloud.as_a("HEAD", "/v1/AUTH_a/c/keep", &[], "").await.status, 200);
    for (what, text) in [
        ("two lengths", put("Content-Length: 0\r\nContent-Length: 5\r\n", &hidden)),
        ("signed length", put("Content-Length: +5\r\n", &hidden)),
        ("negative length", put("Content-Length: -1\r\n", &hidden)),
        ("hexadecimal length", put("Content-Length: 0x5\r\n", &hidden)),
        ("long length", put("Content-Length: 18446744073709551616\r\n", &hidden)),
        ("list of lengths", put("Content-Length: 5, 0\r\n", &hidden)),
        ("unknown coding", put("Transfer-Encoding: xchunked\r\n", &hidden)),
        ("chunked is not last", put("Transfer-Encoding: chunked, identity\r\n", &format!("0\r\n\r\n{hidden}"))),
        ("blank before the colon", put("Content-Length : 5\r\n", &hidden)),
        ("folded header", put("X-Object-Meta-A: b\r\n c\r\nContent-Length: 0\r\n", "")),
        ("NUL in a header", put("X-Object-Meta-A: b\0c\r\nContent-Length: 0\r\n", "")),
        ("bare CR in a header", put("X-Object-Meta-A: b\rc\r\nContent-Length: 0\r\n", "")),
        ("two hosts", put("Host: other\r\nContent-Length: 0\r\n", "")),
        ("chunk size overflow", put("Transfer-Encoding: chunked\r\n", &format!("ffffffffffffffff1\r\n{hidden}"))),
        ("negative chunk size", put("Transfer-Encoding: chunked\r\n", &format!("-1\r\n{hidden}"))),
        ("chunk without end", put("Transfer-Encoding: chunked\r\n", &format!("3\r\nabcX\r\n0\r\n\r\n{hidden}"))),
    ] {
        let answer = raw(addr, text.as_bytes()).await;
        let codes = statuses(&answer);
        assert!(codes.iter().all(|c| matches!(c, 400..=499)) && codes.len() <= 1, "{what}: {answer}");
        assert_eq!(cloud.as_a("HEAD", "/v1/AUTH_a/c/keep", &[], "").await.status, 200, "{what}: the hidden request was carried out");
    }
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_on_a_good_link_is_unaffected() {
    let cloud = Cloud::new().await;
    let server = cloud.serve().await;
    let token = &cloud.a;
    let put = format!(
        "PUT /v1/AUTH_a/c/x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Roles: admin\r\nX-Object-Sysmeta-A: b\r\nETag: 0\r\n\r\n"
    );
    let get = format!("GET /v1/AUTH_a/c/x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\nConnection: close\r\n\r\n");
    let answer = raw(server.addr, format!("{put}{get}").as_bytes()).await;
    assert_eq!(statuses(&answer), [201, 200], "{answer}");
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    // A refused upload: its body is not read as the next request.
    let refused = format!("PUT /v1/AUTH_b/c/x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\nContent-Length: {}\r\n\r\n{get}", get.len());
    let answer = raw(server.addr, format!("{refused}{get}").as_bytes()).await;
    let codes = statuses(&answer);
    assert!(codes == [403, 200] || codes == [403], "{answer}");
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_of_everything() {
    let cloud = Cloud::new().await;
    let server = cloud.serve().await;
    let token = &cloud.a;
    let get =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {token}\r\n{more}Connection: close\r\n\r\n");
    for (what, text, allowed) in [
        ("long line", get(&format!("/v1/AUTH_a/c/{}", "x".repeat(9_000)), ""), vec![400, 414]),
        ("long value", get("/v1/AUTH_a/c", &format!("X-A: {}\r\n", "x".repeat(8_193))), vec![400, 431]),
        ("many headers", get("/v1/AUTH_a/c", &"X-A: b\r\n".repeat(130)), vec![400, 431]),
        ("many ranges", get("/v1/AUTH_a/c", &format!("Range: bytes={}\r\n", vec!["0-0"; 1_500].join(","))), vec![204, 400, 416]),
        ("host with a slash", get("/v1/AUTH_a/c", "").replace("Host: h", "Host: h/../x"), vec![204, 400]),
        ("host with user", get("/v1/AUTH_a/c", "").replace("Host: h", "Host: a@b"), vec![204, 400]),
        ("other host in the target", get("http://evil.example/v1/AUTH_a/c", ""), vec![400]),
        ("no target", get("", ""), vec![400]),
        ("relative target", get("v1/AUTH_a/c", ""), vec![400]),
        ("fragment", get("/v1/AUTH_a/c#x", ""), vec![200, 204, 400, 404]),
    ] {
        let answer = raw(server.addr, text.as_bytes()).await;
        let codes = statuses(&answer);
        assert!(codes.len() == 1 && allowed.contains(&codes[0]), "{what}: {codes:?} {}", &answer[..answer.len().min(300)]);
        assert!(!answer.contains("evil.example"), "{what}");
    }
    server.stop(Duration::from_secs(5)).await;
}
