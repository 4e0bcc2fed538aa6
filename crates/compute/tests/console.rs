//! Consoles: tokens through the API, the page, and bytes through the WebSocket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use caelum_base::Result;
use caelum_hypervisor::{GuestSpec, Hypervisor, ImageSource, RootDisk};
use caelum_rest::{Server, ServerHandle};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::time::Duration;
use support::{Cloud, cloud, cloud_with, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const ID: &str = "bbbbbbbb-0000-4000-8000-000000000001";

struct Images;

#[async_trait::async_trait]
impl ImageSource for Images {
    async fn fetch(&self, _: &str, _: &std::path::Path) -> Result<()> {
        Ok(())
    }
}

async fn running(c: &Cloud) {
    c.put(server(ID)).await;
    let spec = GuestSpec {
        id: ID.into(),
        domain: "instance-00000001".into(),
        name: "web".into(),
        project_id: "p".into(),
        user_id: "u".into(),
        vcpus: 1,
        memory_mib: 64,
        root_gib: 1,
        ephemeral_gib: 0,
        swap_mib: 0,
        extra_specs: Default::default(),
        image_props: Default::default(),
        root: RootDisk::Image { image_id: "i".into(), format: "raw".into(), sha512: String::new(), size_bytes: 1 },
        volumes: Vec::new(),
        nics: Vec::new(),
        config_drive: None,
        running: true,
    };
    c.host.spawn(&spec, &Images).await.unwrap();
}

async fn ready() -> (Cloud, ServerHandle) {
    let listener = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.addr().unwrap();
    let c = cloud_with(|config| config.console_url = format!("http://{addr}/vnc_auto.html")).await;
    running(&c).await;
    let handle = listener.start(c.service.console()).unwrap();
    (c, handle)
}

async fn url(c: &Cloud) -> String {
    let body = json!({"remote_console": {"protocol": "vnc", "type": "novnc"}});
    let (status, v) = c.call("member", "2.6", &format!("POST /v2.1/servers/{ID}/remote-consoles"), body).await;
    assert_eq!(status, 200, "{v}");
    v["remote_console"]["url"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn tokens() {
    let (c, _server) = ready().await;
    let path = format!("POST /v2.1/servers/{ID}/remote-consoles");
    let body = |protocol: &str, kind: &str| json!({"remote_console": {"protocol": protocol, "type": kind}});
    assert_eq!(c.call("other", "2.6", &path, body("vnc", "novnc")).await.0, 404);
    assert_eq!(c.call("reader", "2.6", &path, body("vnc", "novnc")).await.0, 403);
    assert_eq!(c.call("member", "2.6", &path, body("spice", "spice-html5")).await.0, 400);
    assert_eq!(c.call("member", "2.6", &path, body("vnc", "xxx")).await.0, 400);
    assert_eq!(c.call("member", "2.5", &path, body("vnc", "novnc")).await.0, 404);
    let old = json!({"os-getVNCConsole": {"type": "novnc"}});
    let (status, v) = c.call("member", "2.1", &format!("POST /v2.1/servers/{ID}/action"), old).await;
    assert_eq!((status, &v["console"]["type"]), (200, &json!("novnc")));
    let url = url(&c).await;
    let token = url.rsplit("%3D").next().unwrap();
    let path = format!("/v2.1/os-console-auth-tokens/{token}");
    assert_eq!(c.get("member", "2.31", &path).await.0, 403);
    let (_, v) = c.get("admin", "2.31", &path).await;
    assert_eq!((&v["console"]["instance_uuid"], &v["console"]["host"]), (&json!(ID), &json!("127.0.0.1")));
    assert_eq!(c.get("admin", "2.31", "/v2.1/os-console-auth-tokens/nope").await.0, 404);
}

#[tokio::test]
async fn a_server_that_does_not_run_has_no_console() {
    let c = cloud_with(|config| config.console_url = "http://h/vnc_auto.html".into()).await;
    c.put(server(ID)).await;
    let body = json!({"remote_console": {"protocol": "vnc", "type": "novnc"}});
    assert_eq!(c.call("member", "2.6", &format!("POST /v2.1/servers/{ID}/remote-consoles"), body.clone()).await.0, 409);
    let none = cloud().await;
    running(&none).await;
    assert_eq!(none.call("member", "2.6", &format!("POST /v2.1/servers/{ID}/remote-consoles"), body).await.0, 400);
}

/// One raw exchange; the answer until the connection ends or `enough` is in it.
async fn raw(addr: std::net::SocketAddr, request: &str, enough: &str) -> String {
    let mut s = TcpStream::connect(addr).await.unwrap();
    s.write_all(request.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while !String::from_utf8_lossy(&out).contains(enough) {
            match s.read(&mut buffer).await {
                Ok(n) if n > 0 => out.extend_from_slice(&buffer[..n]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), reading).await.expect("the answer ends");
    String::from_utf8_lossy(&out).into_owned()
}

fn upgrade(path: &str, addr: std::net::SocketAddr, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n{more}\r\n"
    )
}

#[tokio::test]
async fn the_page_and_the_socket() {
    let (c, handle) = ready().await;
    let url = url(&c).await;
    let page = url.split_once(&handle.addr.to_string()).unwrap().1.to_string();
    let html = raw(handle.addr, &format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "</html>").await;
    assert!(html.starts_with("HTTP/1.1 200") && html.contains("noVNC") && html.contains("<script"), "{html}");
    assert!(raw(handle.addr, "GET /viewer.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "RFB").await.contains("text/javascript"));
    assert!(
        raw(handle.addr, "GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "\r\n\r\n").await.starts_with("HTTP/1.1 404")
    );

    let socket = page.split_once("path=").unwrap().1.replace("%3F", "?").replace("%3D", "=");
    let mut request = format!("ws://{}/{socket}", handle.addr).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "binary".parse().unwrap());
    request.headers_mut().insert("origin", format!("http://{}", handle.addr).parse().unwrap());
    let stream = TcpStream::connect(handle.addr).await.unwrap();
    let (mut ws, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "binary");
    let hello = tokio::time::timeout(Duration::from_secs(5), ws.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(hello.into_data().as_ref(), b"RFB 003.008\n");
    ws.send(Message::Binary(b"RFB 003.008\n".as_ref().into())).await.unwrap();
    ws.close(None).await.unwrap();
}

#[tokio::test]
async fn wrong_tokens_and_foreign_pages_are_refused_without_a_word() {
    let (c, handle) = ready().await;
    let url = url(&c).await;
    let token = url.rsplit("%3D").next().unwrap();
    for (path, more, status) in [
        ("/websockify?token=bad".to_string(), "", "403"),
        ("/websockify".to_string(), "", "403"),
        (format!("/?token={token}"), "Origin: http://evil.example\r\n", "403"),
        (format!("/?token={token}"), "Origin: null\r\n", "403"),
    ] {
        let answer = raw(handle.addr, &upgrade(&path, handle.addr, more), "never").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with("\r\n\r\n"), "{path} {more}: {answer}");
    }
    let answer = raw(handle.addr, &upgrade(&format!("/?token={token}"), handle.addr, ""), "RFB").await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols") && answer.to_lowercase().contains("upgrade: websocket"), "{answer}");
}
