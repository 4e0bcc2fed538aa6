//! Requests that two programs could read differently, sent over raw sockets.

#![allow(clippy::unwrap_used, reason = "tests")]

use caelum_rest::{Body, HttpService, Server, ServerHandle, full, read_limited};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers with the body it got and keeps the paths.
#[derive(Default)]
struct Echo(Mutex<Vec<String>>);

impl HttpService for Echo {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        self.0.lock().unwrap().push(req.uri().path().to_string());
        Box::pin(async move { Response::new(full(read_limited(req.into_body(), 1 << 20).await.unwrap())) })
    }
}

async fn server() -> (Arc<Echo>, ServerHandle) {
    let echo = Arc::new(Echo::default());
    let handle = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().start(echo.clone()).unwrap();
    (echo, handle)
}

/// Everything the server says until it closes the connection.
async fn exchange(server: &ServerHandle, pieces: &[&str]) -> String {
    let mut s = TcpStream::connect(server.addr).await.unwrap();
    for piece in pieces {
        // The server may have closed already.
        if s.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut out = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), s.read_to_end(&mut out)).await;
    // A reset after the answer is an end too.
    read.expect("the connection was not closed").ok();
    String::from_utf8(out).unwrap()
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn doubtful_heads_are_refused_and_end_the_connection() {
    let (echo, server) = server().await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "transfer-encoding: Chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "X: a\r\n Transfer-Encoding: chunked\r\n",
        "X: a\r\n\tmore\r\n",
        "X: a\nTransfer-Encoding: chunked\r\n",
        "X: a\rTransfer-Encoding: chunked\r\n",
        "X: a\r\r\n",
        "Content-Length: 5\n",
        "Content-Length: 5\u{b}\r\n",
        "X\0: a\r\n",
        "no colon\r\n",
    ] {
        let request = format!("PUT /doubtful HTTP/1.1\r\nHost: a\r\n{lines}\r\n0\r\n\r\n{HIDDEN}");
        let whole = exchange(&server, &[&request]).await;
        assert!(whole.starts_with("HTTP/1.1 400 ") && whole.matches("HTTP/1.1").count() == 1, "{lines:?}: {whole}");
        let (a, b) = request.split_at(30);
        let (b, c) = b.split_at(20);
        let cut = exchange(&server, &[a, b, c]).await;
        assert!(cut.starts_with("HTTP/1.1 400 ") && cut.matches("HTTP/1.1").count() == 1, "{lines:?}: {cut}");
    }
    for request in ["GET /doubtful HTTP/1.1\nHost: a\n\n", "PUT /doubtful HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let said = exchange(&server, &[request]).await;
        assert!(said.contains(" 400 Bad Request\r\n"), "{request:?}: {said}");
    }
    assert!(echo.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_doubtful_request_behind_good_ones() {
    let (echo, server) = server().await;
    let good = "PUT /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nde\r\n1\r\n\n\r\n0\r\n\r\n";
    let bad = format!("PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{HIDDEN}");
    let all = format!("{good}{bad}");
    for cut in [0, 10, 60, 70, 120, 150, all.len() - 20] {
        let (a, b) = all.split_at(cut);
        let said = exchange(&server, &[a, b]).await;
        let statuses: Vec<&str> = said.split("HTTP/1.1 ").skip(1).map(|s| &s[..3]).collect();
        assert_eq!(statuses, ["200", "200", "400"], "{cut}: {said}");
        assert!(said.contains("\r\n\r\nabc") && said.contains("\r\n\r\nde\n"), "{said}");
    }
    assert_eq!(echo.0.lock().unwrap().concat(), "/1/2".repeat(7));
}

#[tokio::test]
async fn ordinary_connections_stay_open() {
    let (echo, server) = server().await;
    let mut s = TcpStream::connect(server.addr).await.unwrap();
    let big = "x".repeat(300_000);
    for round in 0..3 {
        for (head, body, answer) in [
            ("GET /g HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_string(), String::new(), ""),
            (format!("PUT /p HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", big.len()), big.clone(), &big),
            (
                "PUT /c HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: chunked\r\nTrailer: T\r\n\r\n".into(),
                format!("{:X}\r\n{big}\r\n0\r\nT: x\r\n\r\n", big.len()),
                &big,
            ),
        ] {
            s.write_all(head.as_bytes()).await.unwrap();
            s.write_all(body.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            while !got.windows(4).any(|w| w == b"\r\n\r\n") {
                assert!(s.read_buf(&mut got).await.unwrap() > 0, "{round} {head}");
            }
            let at = got.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            assert!(got.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&got));
            while got.len() < at + answer.len() {
                assert!(s.read_buf(&mut got).await.unwrap() > 0);
            }
            assert_eq!(&got[at..], answer.as_bytes());
        }
    }
    assert_eq!(echo.0.lock().unwrap().concat(), "/g/p/c".repeat(3));
}
