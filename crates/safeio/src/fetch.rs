//! The one way out to an address a tenant chose.
//!
//! Invariants: only `http`, and `https` where the policy has TLS, to allowed ports; the name is resolved once, every address it
//! resolves to must be global (or on the operator's allow-list), and the connection goes to one
//! of exactly those addresses, so a second DNS answer has no effect. Every redirect starts over.
//! Size, time and number of redirects are limited. Nothing is kept; a crash loses the transfer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use caelum_base::{Error, Result};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::Tls;

/// What may be fetched, and how much.
#[derive(Clone, Debug)]
pub struct FetchPolicy {
    pub ports: Vec<u16>,
    /// Networks allowed although they are not global (private mirrors); their ports are free.
    pub allowed_networks: Vec<IpNet>,
    pub body_max_bytes: u64,
    /// For the whole transfer, redirects included.
    pub timeout: Duration,
    pub redirects_max: usize,
    /// Speaks `https`; `None`: such URLs are refused.
    pub tls: Option<Tls>,
}

impl Default for FetchPolicy {
    fn default() -> Self {
        Self {
            ports: vec![80, 443, 8080, 8443],
            allowed_networks: Vec::new(),
            body_max_bytes: 64 << 30,
            timeout: Duration::from_secs(3600),
            redirects_max: 3,
            tls: None,
        }
    }
}

/// A checked URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl Target {
    /// Opens the connection, in the clear or not. What the host says of itself in a TLS handshake must fit its name.
    async fn open(&self, policy: &FetchPolicy) -> Result<Box<dyn Stream>> {
        let stream = connect(self, policy).await?;
        match (&policy.tls, self.is_tls) {
            (Some(tls), true) => Ok(Box::new(tls.connect(&self.host, stream).await?)),
            (_, false) => Ok(Box::new(stream)),
            (None, true) => Err(Error::invalid("The URL uses https, which this service cannot fetch.")),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Downloads `url`, giving each piece of the body to `sink`; returns the number of bytes.
pub async fn fetch(url: &str, policy: &FetchPolicy, mut sink: impl FnMut(Bytes) -> Result<()>) -> Result<u64> {
    let transfer = async {
        let mut target = parse(url, policy)?;
        for _ in 0..=policy.redirects_max {
            match get(&target, policy, &mut sink).await? {
                Reply::Done(n) => return Ok(n),
                Reply::Redirect(location) => target = follow(&target, &location, policy)?,
            }
        }
        Err(Error::invalid("The URL redirects too often."))
    };
    match tokio::time::timeout(policy.timeout, transfer).await {
        Ok(result) => result,
        Err(_) => Err(Error::timeout("The download took too long.")),
    }
}

/// Whether a URL could be fetched or posted to at all: its form, not where it leads. Errors: `Invalid`.
pub fn check_url(url: &str, policy: &FetchPolicy) -> Result<()> {
    parse(url, policy).map(|_| ())
}

/// Sends `body` to `url` with the checks of [`fetch`]; returns the status. Redirects are not followed, and what the
/// server says is not read. At most ten seconds.
pub async fn post(url: &str, policy: &FetchPolicy, content_type: &str, body: Bytes) -> Result<u16> {
    let target = parse(url, policy)?;
    let exchange = async {
        let stream = target.open(policy).await?;
        let broken = |e: hyper::Error| Error::unavailable("The request failed.").caused_by(e);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::post(target.uri.path_and_query().map_or("/", |p| p.as_str()))
            .header(header::HOST, target.uri.authority().map_or("", |a| a.as_str()))
            .header(header::CONTENT_TYPE, content_type)
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| Error::invalid("The URL is invalid.").caused_by(e))?;
        let answer = async { sender.send_request(request).await.map_err(broken).map(|r| r.status().as_u16()) };
        tokio::pin!(answer, connection);
        tokio::select! {
            biased;
            status = &mut answer => status,
            _ = &mut connection => answer.await,
        }
    };
    match tokio::time::timeout(policy.timeout.min(Duration::from_secs(10)), exchange).await {
        Ok(result) => result,
        Err(_) => Err(Error::timeout("The request took too long.")),
    }
}

enum Reply {
    Done(u64),
    Redirect(String),
}

async fn get(target: &Target, policy: &FetchPolicy, sink: &mut impl FnMut(Bytes) -> Result<()>) -> Result<Reply> {
    let stream = target.open(policy).await?;
    let broken = |e: hyper::Error| Error::unavailable("The download failed.").caused_by(e);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let path = target.uri.path_and_query().map_or("/", |p| p.as_str());
    let host = target.uri.authority().map_or("", |a| a.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::invalid("The URL is invalid.").caused_by(e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            return location.map(|l| Reply::Redirect(l.to_owned())).ok_or_else(|| Error::invalid("The URL redirects nowhere."));
        }
        if status != http::StatusCode::OK {
            return Err(Error::invalid(format!("The URL answered with status {}.", status.as_u16())));
        }
        let mut body = response.into_body();
        let mut total = 0_u64;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                total += data.len() as u64;
                if total > policy.body_max_bytes {
                    return Err(Error::too_large("The download is larger than allowed."));
                }
                sink(data)?;
            }
        }
        Ok(Reply::Done(total))
    };
    tokio::pin!(exchange, connection);
    // The connection may end first, having handed over all it read.
    tokio::select! {
        biased;
        reply = &mut exchange => reply,
        _ = &mut connection => exchange.await,
    }
}

/// Resolves once, checks every address, and connects to one of those.
async fn connect(target: &Target, policy: &FetchPolicy) -> Result<TcpStream> {
    let unreachable = || Error::unavailable("The host of the URL could not be reached.");
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(|e| unreachable().caused_by(e))?.collect();
    for address in &addresses {
        let listed = policy.allowed_networks.iter().any(|n| n.contains(&address.ip()));
        let open = is_global(address.ip()) && policy.ports.contains(&target.port);
        if !listed && !open {
            return Err(Error::invalid("The URL leads to an address or port that is not allowed."));
        }
    }
    match tokio::time::timeout(Duration::from_secs(30), TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(unreachable().caused_by(e)),
        Err(_) => Err(unreachable()),
    }
}

fn parse(url: &str, policy: &FetchPolicy) -> Result<Target> {
    let bad = |why: &str| Error::invalid(format!("The URL {why}."));
    if url.len() > 2048 || !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains(['\\', '#']) {
        return Err(bad("is too long or holds a character that is not allowed"));
    }
    let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| bad("is invalid").caused_by(e))?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") if policy.tls.is_some() => true,
        Some("https") => return Err(bad("uses https, which this service cannot fetch")),
        _ => return Err(bad("does not begin with http://")),
    };
    let authority = uri.authority().ok_or_else(|| bad("has no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("holds credentials"));
    }
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok() || is_name(host),
    };
    if !valid || (authority.port().is_none() && authority.as_str().len() != host.len()) {
        return Err(bad("has an invalid host or port"));
    }
    let host = bare.unwrap_or(host).to_owned();
    Ok(Target { uri, host, port, is_tls })
}

/// A DNS name whose last label is not a number, so that `127.1`, `0x7f000001` and the like are not
/// handed to a resolver that would read them as addresses.
fn is_name(host: &str) -> bool {
    let labels_ok =
        host.split('.').all(|l| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    let last = host.rsplit('.').next().unwrap_or("");
    host.len() <= 253 && labels_ok && !last.starts_with(|c: char| c.is_ascii_digit())
}

fn follow(from: &Target, location: &str, policy: &FetchPolicy) -> Result<Target> {
    if location.starts_with('/') && !location.starts_with("//") {
        let authority = from.uri.authority().map_or("", |a| a.as_str());
        let scheme = if from.is_tls { "https" } else { "http" };
        return parse(&format!("{scheme}://{authority}{location}"), policy);
    }
    parse(location, policy)
}

/// Whether an address belongs to the public Internet; addresses that embed an IPv4 address
/// (mapped, NAT64, 6to4, Teredo) are not taken, as a gateway could turn them inwards.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => is_global_v4(a),
        IpAddr::V6(a) => {
            let s = a.segments();
            let unicast = s[0] & 0xe000 == 0x2000;
            // 2001::/23 (Teredo, ORCHID), 2001:db8::/32, 2002::/16 (6to4), 3fff::/20.
            let special = (s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8)) || s[0] == 0x2002 || (s[0] == 0x3fff && s[1] < 0x1000);
            unicast && !special
        }
    }
}

fn is_global_v4(a: Ipv4Addr) -> bool {
    let o = a.octets();
    let special = o[0] == 0
        || (o[0] == 100 && o[1] & 0xc0 == 64)
        || (o[0] == 192 && o[1] == 0 && matches!(o[2], 0 | 2))
        || (o[0] == 192 && o[1] == 88 && o[2] == 99)
        || (o[0] == 198 && matches!(o[1], 18 | 19))
        || o[0] >= 224;
    !(special || a.is_loopback() || a.is_private() || a.is_link_local() || a.is_documentation())
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn hostile_urls_are_refused() {
        let policy = FetchPolicy::default();
        for url in [
            "http://127.1/",
            "http://0/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://localhost./",
            "http://[fe80::1%25lo]/",
            "file:///etc/passwd",
            "gopher://a/",
            "dict://a/",
            "ftp://a/",
            "ldap://a/",
            "jar:a",
            "data:,a",
            "https://a.example/",
            "http://ok@bad/",
            "http://u:p@bad/",
            "http://bad#@ok/",
            "http://ok\\@bad/",
            "http://１27.0.0.1/",
            "http://a。b/",
            "http://a\t/",
            "http://a\n/",
            "http://a:99999/",
            "http://a:/",
            "//a/",
            "",
            "http://",
        ] {
            assert_eq!(parse(url, &policy).unwrap_err().kind, ErrorKind::Invalid, "{url}");
        }
        assert_eq!(parse("HTTP://mirror.example:8080/x?y", &policy).unwrap().port, 8080);
    }

    #[test]
    fn inner_addresses_are_not_global() {
        for a in [
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "169.254.169.254",
            "fe80::a9fe:a9fe",
            "fd00:ec2::254",
            "100.100.100.200",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "fc00::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!is_global(a.parse().unwrap()), "{a}");
        }
        for a in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450::1", "100.128.0.1", "172.32.0.1"] {
            assert!(is_global(a.parse().unwrap()), "{a}");
        }
    }

    /// Answers every request with `reply`; returns the base URL.
    async fn server(reply: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut s, _)) = listener.accept().await {
                let mut b = [0; 2048];
                let _ = s.read(&mut b).await;
                let _ = s.write_all(reply.as_bytes()).await;
            }
        });
        base
    }

    #[tokio::test]
    async fn posts_go_where_fetches_may() {
        let open = FetchPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..FetchPolicy::default() };
        let base = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let body = Bytes::from_static(b"{}");
        assert_eq!(post(&base, &open, "application/json", body.clone()).await.unwrap(), 204);
        assert_eq!(post(&base, &FetchPolicy::default(), "application/json", body).await.unwrap_err().kind, ErrorKind::Invalid);
        assert!(check_url("http://127.1/", &open).is_err() && check_url("http://a.example/x", &open).is_ok());
    }

    #[tokio::test]
    async fn transfers_within_limits() {
        let open = FetchPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], body_max_bytes: 5, ..FetchPolicy::default() };
        let base = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        let mut got = Vec::new();
        let n = fetch(&base, &open, |b| {
            got.extend_from_slice(&b);
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!((n, got.as_slice()), (5, &b"hello"[..]));
        let kind = |r: Result<u64>| r.unwrap_err().kind;
        assert_eq!(kind(fetch(&base, &FetchPolicy::default(), |_| Ok(())).await), ErrorKind::Invalid);
        for (reply, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!", ErrorKind::TooLarge),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ErrorKind::Unavailable),
            ("HTTP/1.1 302 F\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n", ErrorKind::Invalid),
            ("HTTP/1.1 307 F\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n", ErrorKind::Invalid),
            ("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", ErrorKind::Invalid),
        ] {
            assert_eq!(kind(fetch(&server(reply).await, &open, |_| Ok(())).await), expected, "{reply}");
        }
    }
}
