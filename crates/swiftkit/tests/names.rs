//! Names of headers that the HTTP library refuses, between two processes: over sockets, and as bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

use caelum_rest::{Body, HttpService, Server, ServerHandle, full, read_limited};
use caelum_swiftkit::Nodes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers with the headers and the body it got, the body filled up to the size in the query.
struct Echo;

impl HttpService for Echo {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            let (parts, body) = req.into_parts();
            let size = parts.uri.query().and_then(|q| q.parse().ok()).unwrap_or(0);
            let mut body = read_limited(body, 8 << 20).await.unwrap().to_vec();
            body.resize(body.len().max(size), b'x');
            let mut r = Response::new(full(body));
            for (n, v) in parts.headers.iter().filter(|(n, _)| n.as_str().starts_with("x-")) {
                r.headers_mut().append(n, v.clone());
            }
            r
        })
    }
}

async fn server() -> ServerHandle {
    Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(Arc::new(Echo)).unwrap()
}

fn request(names: &[&str], body: &[u8]) -> Request<Body> {
    let mut req = Request::put("/sda/0/a_b/c^5f/o").body(full(body.to_vec())).unwrap();
    for n in names {
        req.headers_mut().insert(http::HeaderName::from_bytes(n.as_bytes()).unwrap(), "a=5Fb_c".parse().unwrap());
    }
    req
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    headers.keys().map(http::HeaderName::as_str).filter(|n| n.starts_with("x-")).collect()
}

const BODY: &[u8] = b"HTTP/1.1 200 OK\r\nx-object-meta-a_b: 1\r\nX-Object-Meta-A=5Fb: 1\r\n\r\n";

#[tokio::test]
async fn both_ends_are_ours() {
    let (server, nodes) = (server().await, Nodes::default());
    for n in 0..20 {
        let odd: &[&str] = if n % 2 == 0 { &["x-object-meta-my_key", "x-object-meta-^c3^bc", "x-plain"] } else { &["x-plain"] };
        let body = BODY.repeat(if n == 7 { 20_000 } else { n });
        let r = nodes.send("127.0.0.1", server.addr.port(), request(odd, &body), Duration::from_secs(5)).await.unwrap();
        assert_eq!(names(r.headers()), odd);
        assert!(odd.iter().all(|n| r.headers()[*n] == "a=5Fb_c"));
        assert_eq!(read_limited(r.into_body(), 8 << 20).await.unwrap(), body);
    }
}

/// Everything the server says until it closes the connection.
async fn exchange(server: &ServerHandle, input: &[u8], piece: usize) -> Vec<u8> {
    let mut s = TcpStream::connect(server.addr).await.unwrap();
    s.set_nodelay(true).unwrap();
    for piece in input.chunks(piece) {
        s.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut out = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), s.read_to_end(&mut out)).await.expect("the connection was not closed").unwrap();
    out
}

#[tokio::test]
async fn requests_sent_ahead() {
    let server = server().await;
    // A large answer is still being written when the next is ready.
    let size = 4 << 20;
    let odd = "X-Object-Meta-My=5FKey: v\r\nX-Object-Meta-\u{fc}: v\r\nX-Object-Meta-C^d: v\r\n";
    let body = String::from_utf8(BODY.to_vec()).unwrap();
    let put = format!("PUT /?{size} HTTP/1.1\r\nHost: a\r\n{odd}Content-Length: {}\r\n\r\n{body}", body.len());
    let get = format!("GET / HTTP/1.1\r\nHost: a\r\n{odd}\r\n");
    let last = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{odd}\r\n");
    for piece in [1, 13, 4096] {
        let got = exchange(&server, format!("{put}{get}{put}{last}").as_bytes(), piece).await;
        let got = String::from_utf8(got).unwrap().replace(&"x".repeat(size - body.len()), "");
        assert_eq!(got.matches("x-object-meta-my=5Fkey: v\r\n").count(), 4, "{got}");
        assert_eq!(got.matches("x-object-meta-\u{fc}: v\r\n").count(), 4, "{got}");
        assert_eq!(got.matches("x-object-meta-c^d: v\r\n").count(), 4, "{got}");
        assert_eq!(got.matches(&body).count(), 2, "{got}");
    }
}

#[tokio::test]
async fn an_underscore_of_a_client_is_none_of_ours() {
    let server = server().await;
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Object-Meta-A_b: 1\r\nX-Amz-Meta-A_b: 2\r\n\r\n";
    let got = String::from_utf8(exchange(&server, head.as_bytes(), 4096).await).unwrap();
    assert!(got.contains("x-object-meta-a_b: 1\r\n") && got.contains("x-amz-meta-a_b: 2\r\n"), "{got}");
    for bad in ["X-Object-Meta-A B: 1", "X-Amz-Meta-A=5Fb: 1", "X-Object-Meta-A\u{1}=: 1"] {
        let got = exchange(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{bad}\r\n\r\n").as_bytes(), 4096).await;
        assert!(got.starts_with(b"HTTP/1.1 400 "), "{bad}");
    }
}

/// A node that answers byte by byte, with an interim response before.
#[tokio::test]
async fn answers_in_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut s, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") {
                got.push(s.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Object-Meta-My=5Fkey: v\r\nContent-Length: 24\r\n\r\nX-Object-Meta-A=5Fb: 1\r\n";
            for b in answer.as_bytes() {
                s.write_all(&[*b]).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let nodes = Nodes::default();
    for _ in 0..2 {
        let req = Request::get("/sda/0/a/c/o").body(caelum_rest::empty()).unwrap();
        let r = nodes.send("127.0.0.1", port, req, Duration::from_secs(5)).await.unwrap();
        assert_eq!(names(r.headers()), ["x-object-meta-my_key"]);
        assert_eq!(read_limited(r.into_body(), 100).await.unwrap(), "X-Object-Meta-A=5Fb: 1\r\n");
    }
}
