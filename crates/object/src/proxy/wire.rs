//! Uploads in two phases over a socket, as upstream's nodes speak: the request's body is a chunked message,
//! and after the node's second `100 Continue` another one follows it with the word to commit. No HTTP
//! library does that. Source: Swift's `MIMEPutter`, eventlet's `wsgi.Input`.

use super::backend::SMALL_BODY;
use super::put::Piece;
use bytes::Bytes;
use caelum_rest::{Body, Interim};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Upstream's `conn_timeout`.
const CONNECT: Duration = Duration::from_millis(500);
const MAX_HEAD: usize = 65_536;
/// A node of this program says so in its `100 Continue`: for it the commit is part of the one body.
const INLINE: &str = "x-obj-commit-inline";

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends a request whose body comes in pieces; an empty piece ends the first message. What `100 Continue`
/// responses say goes to `interim`. Errors: the connection fails or the answer is no HTTP.
pub(crate) async fn upload(
    ip: &str,
    port: u16,
    request: Request<()>,
    pieces: mpsc::Receiver<Piece>,
    interim: Interim,
) -> io::Result<Response<Body>> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((ip, port))).await??;
    stream.set_nodelay(true)?;
    let (reading, mut writing) = stream.into_split();
    writing.write_all(&head(&request, ip, port)).await?;
    let (told, begin) = tokio::sync::oneshot::channel();
    let sending = tokio::spawn(send(writing, pieces, begin));
    let answer = receive(BufReader::new(reading), interim, told).await;
    // Whatever is not sent by now is not wanted.
    sending.abort();
    answer
}

fn head(request: &Request<()>, ip: &str, port: u16) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let mut out = format!("{} {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n", request.method()).into_bytes();
    for (name, value) in request.headers().iter().filter(|(n, _)| *n != http::header::HOST && *n != http::header::CONNECTION) {
        out.extend_from_slice(&caelum_rest::names::name_to_wire(name.as_str()));
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Writes the pieces as chunks once the node wants them. An error among them closes the connection, so
/// that the node does not take what it has for the whole.
async fn send(mut to: OwnedWriteHalf, mut pieces: mpsc::Receiver<Piece>, begin: tokio::sync::oneshot::Receiver<bool>) -> io::Result<()> {
    let Ok(inline) = begin.await else { return Ok(()) };
    while let Some(piece) = pieces.recv().await {
        let data = piece.map_err(|_| bad("broken off"))?;
        if data.is_empty() {
            if !inline {
                to.write_all(b"0\r\n\r\n").await?;
            }
            continue;
        }
        to.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
        to.write_all(&data).await?;
        to.write_all(b"\r\n").await?;
    }
    to.write_all(b"0\r\n\r\n").await?;
    // The node may answer for a while yet; closing this half would look like giving up.
    std::future::pending().await
}

async fn receive(
    mut from: BufReader<OwnedReadHalf>,
    interim: Interim,
    told: tokio::sync::oneshot::Sender<bool>,
) -> io::Result<Response<Body>> {
    let mut told = Some(told);
    loop {
        let (status, headers) = answer_head(&mut from).await?;
        if status.is_informational() {
            if let Some(told) = told.take() {
                // The sender has gone only when the upload has been given up.
                let _ = told.send(headers.contains_key(INLINE));
            }
            let texts: Vec<(&str, &str)> = headers.iter().filter_map(|(k, v)| Some((k.as_str(), v.to_str().ok()?))).collect();
            interim.announce(&texts);
            continue;
        }
        let length = headers.get(http::header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
        let mut body = vec![0; length.unwrap_or(0).min(SMALL_BODY)];
        from.read_exact(&mut body).await?;
        let mut response = Response::new(caelum_rest::full(Bytes::from(body)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        return Ok(response);
    }
}

async fn answer_head(from: &mut BufReader<OwnedReadHalf>) -> io::Result<(StatusCode, HeaderMap)> {
    let mut left = MAX_HEAD;
    let first = text_line(from, &mut left).await?;
    let status = first.strip_prefix("HTTP/1.").and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| bad("the answer is not HTTP"))?;
    let mut headers = HeaderMap::new();
    loop {
        let line = text_line(from, &mut left).await?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let Some((name, value)) = line.split_once(':') else { return Err(bad("a header without a colon")) };
        if let (Ok(n), Ok(v)) = (HeaderName::from_bytes(name.trim().as_bytes()), HeaderValue::from_bytes(value.trim().as_bytes())) {
            headers.append(n, v);
        }
    }
}

async fn text_line(from: &mut BufReader<OwnedReadHalf>, left: &mut usize) -> io::Result<String> {
    let mut line = Vec::new();
    let mut limited = (&mut *from).take(*left as u64);
    limited.read_until(b'\n', &mut line).await?;
    *left -= line.len();
    if line.pop() != Some(b'\n') {
        return Err(bad("the answer ends early or its head is too long"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
