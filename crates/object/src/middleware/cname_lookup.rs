//! Domains of customers: a `Host` outside the storage domain is looked up in the DNS, and where its CNAME lies in the
//! storage domain the request goes on as if it had come for that.

use super::hosts::{locations, split_origin, split_port, storage_domains};
use crate::env::{Req, Resp};
use crate::http::{error_plain, set, text};
use crate::proxy::Cache;
use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::{Env, Error, Result};
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A name without CNAME is not looked up again for so long.
const NO_CNAME_FOR: Duration = Duration::from_secs(60);
/// For each server and attempt.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
const CNAME: u16 = 5;

/// What the DNS says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Without the last dot, and how long that holds.
    Cname(String, Duration),
    /// The name has none, or does not exist.
    None,
    /// Nobody answered.
    Failed,
}

/// Asks the DNS.
#[async_trait]
pub trait Resolver: Send + Sync {
    async fn cname(&self, name: &str) -> Lookup;
}

/// The layer's options, named as in `proxy-server.conf`.
#[derive(Clone, Debug)]
pub struct CnameLookupOptions {
    pub storage_domain: String,
    /// CNAMEs that are followed one after another.
    pub lookup_depth: usize,
}

impl Default for CnameLookupOptions {
    fn default() -> Self {
        Self { storage_domain: "example.com".into(), lookup_depth: 1 }
    }
}

impl CnameLookupOptions {
    /// What `/info` tells under `cname_lookup`.
    pub fn info(&self) -> serde_json::Value {
        serde_json::json!({"lookup_depth": self.lookup_depth})
    }
}

/// The layer; it stands before [`super::domain_remap`].
#[derive(Clone)]
pub struct CnameLookup {
    next: Arc<dyn HttpService>,
    cache: Arc<dyn Cache>,
    resolver: Arc<dyn Resolver>,
    domains: Arc<Vec<String>>,
    depth: usize,
}

impl CnameLookup {
    pub fn new(next: Arc<dyn HttpService>, cache: Arc<dyn Cache>, resolver: Arc<dyn Resolver>, options: &CnameLookupOptions) -> Self {
        let domains = Arc::new(storage_domains(&options.storage_domain));
        Self { next, cache, resolver, domains, depth: options.lookup_depth }
    }

    fn is_ours(&self, domain: &str) -> bool {
        let dotted = format!(".{domain}");
        self.domains.iter().any(|d| dotted.ends_with(d.as_str()))
    }

    /// From the cache or the DNS; `None`: there is no CNAME.
    async fn cname(&self, domain: &str) -> Option<String> {
        let key = format!("cname-{domain}");
        if let Some(known) = self.cache.get(&key).await {
            return String::from_utf8(known.to_vec()).ok().filter(|k| !k.is_empty());
        }
        let (found, ttl) = match self.resolver.cname(domain).await {
            Lookup::Cname(name, ttl) => (Some(name), ttl),
            Lookup::None => (None, NO_CNAME_FOR),
            Lookup::Failed => return None,
        };
        if !ttl.is_zero() {
            self.cache.set(&key, Bytes::from(found.clone().unwrap_or_default()), ttl).await;
        }
        found
    }

    /// The name in the storage domain. Errors: the text of the refusal.
    async fn resolve(&self, given: &str) -> std::result::Result<String, String> {
        let mut name = given.to_string();
        for _ in 0..self.depth {
            match self.cname(&name).await.filter(|f| *f != name) {
                Some(found) if self.is_ours(&found) => return Ok(found),
                Some(found) => name = found,
                None => return Err("CNAME lookup failed to resolve to a valid domain".into()),
            }
        }
        Err(format!("CNAME lookup failed after {} tries", self.depth))
    }

    async fn handle(self, mut req: Req) -> Resp {
        let host = text(req.headers(), "host").unwrap_or_default().to_string();
        let (domain, port) = split_port(&host);
        let bare = domain.trim_start_matches('[').trim_end_matches(']');
        if self.domains.is_empty() || bare.parse::<IpAddr>().is_ok() || self.is_ours(domain) {
            return self.next.call(req).await;
        }
        let found = match self.resolve(domain).await {
            Ok(found) => found,
            Err(why) => return error_plain(400, why),
        };
        let internal = format!("{found}{port}");
        set(req.headers_mut(), "host", &internal);
        let mut resp = self.next.call(req).await;
        locations(&mut resp, |location| {
            let (origin, rest) = split_origin(location);
            let (scheme, place) = origin.split_once("://")?;
            (place == internal).then(|| format!("{scheme}://{host}{rest}"))
        });
        resp
    }
}

impl HttpService for CnameLookup {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

/// A resolver that asks recursive name servers over UDP.
pub struct Dns {
    servers: Vec<SocketAddr>,
    env: Env,
}

impl Dns {
    /// `nameservers` are addresses, each with or without a port; none: those of `/etc/resolv.conf`. Errors: `Invalid`
    /// for what is no address, or when there is no server at all.
    pub fn new(nameservers: &[String], resolv_conf: &str, env: Env) -> Result<Self> {
        let of_system = resolv_conf.lines().filter_map(|l| l.trim().strip_prefix("nameserver")).map(|l| l.trim().to_string());
        let all: Vec<String> = if nameservers.is_empty() { of_system.collect() } else { nameservers.to_vec() };
        let parse = |text: &String| {
            let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
            address.or_else(|_| text.parse()).map_err(|_| {
                Error::invalid(
                    "Invalid cname_lookup/nameservers configuration found. All nameservers must be valid IPv4 or IPv6, \
                     followed by an optional :<integer> port.",
                )
            })
        };
        let servers: Vec<SocketAddr> = all.iter().map(parse).collect::<Result<_>>()?;
        if servers.is_empty() {
            return Err(Error::invalid("cname_lookup: there is no name server to ask"));
        }
        Ok(Self { servers, env })
    }

    async fn ask(&self, server: SocketAddr, query: &[u8]) -> std::io::Result<Option<Lookup>> {
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(query).await?;
        let mut buffer = [0; 4_096];
        // What does not fit the question may have been forged; the right answer may still come.
        loop {
            let n = socket.recv(&mut buffer).await?;
            if let Some(answer) = answer(query, &buffer[..n]) {
                return Ok(answer);
            }
        }
    }
}

#[async_trait]
impl Resolver for Dns {
    async fn cname(&self, name: &str) -> Lookup {
        let mut id = [0; 2];
        self.env.rng.fill(&mut id);
        let Some(query) = query(id, name) else { return Lookup::None };
        for _ in 0..ATTEMPTS {
            for server in &self.servers {
                if let Ok(Ok(Some(answer))) = tokio::time::timeout(PATIENCE, self.ask(*server, &query)).await {
                    return answer;
                }
            }
        }
        Lookup::Failed
    }
}

/// A question for the CNAME of a name (RFC 1035, section 4.1); `None` for what is no domain name.
fn query(id: [u8; 2], name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut out = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|l| (1..=63).contains(l))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 5, 0, 1]);
    (name.len() <= 253).then_some(out)
}

/// Reads a name; answers it and where it ends.
fn name_at(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end) = (String::new(), None);
    // Each pointer goes backwards in a packet of honest make; this ends loops in others.
    for _ in 0..128 {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = std::str::from_utf8(packet.get(at + 1..at + 1 + length)?).ok()?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                at += 1 + length;
            }
            _ if length & 0xc0 == 0xc0 => {
                end.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | usize::from(*packet.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

/// What a packet answers. Outer `None`: it is no answer to this question. Inner `None`: the server could not say.
fn answer(query: &[u8], packet: &[u8]) -> Option<Option<Lookup>> {
    let (asked, question_end) = name_at(query, 12)?;
    let echoed = packet.get(..2) == query.get(..2) && packet.get(2)? & 0x80 != 0;
    let (echo, _) = name_at(packet, 12)?;
    let same_question = echo.eq_ignore_ascii_case(&asked) && packet.get(question_end..question_end + 4) == query.get(question_end..);
    if !echoed || !same_question || number(packet, 4)? != 1 {
        return None;
    }
    match packet.get(3)? & 0x0f {
        0 => {}
        3 => return Some(Some(Lookup::None)),
        _ => return Some(None),
    }
    let mut at = question_end + 4;
    for _ in 0..number(packet, 6)? {
        let (owner, end) = name_at(packet, at)?;
        let (kind, length) = (number(packet, end)?, usize::from(number(packet, end + 8)?));
        if kind == CNAME && owner.eq_ignore_ascii_case(&asked) {
            let ttl = u32::from(number(packet, end + 4)?) << 16 | u32::from(number(packet, end + 6)?);
            let (name, _) = name_at(packet, end + 10)?;
            return Some(Some(Lookup::Cname(name, Duration::from_secs(ttl.into()))));
        }
        at = end + 10 + length;
    }
    Some(Some(Lookup::None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::MemoryCache;
    use crate::testing::{FakeStore, send};
    use std::collections::HashMap;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Table {
        names: HashMap<&'static str, Lookup>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Resolver for Table {
        async fn cname(&self, name: &str) -> Lookup {
            self.asked.lock().unwrap().push(name.to_string());
            self.names.get(name).cloned().unwrap_or(Lookup::None)
        }
    }

    fn to(name: &str) -> Lookup {
        Lookup::Cname(name.into(), Duration::from_secs(60))
    }

    fn pipeline(depth: usize) -> (FakeStore, Arc<Table>, Arc<dyn HttpService>) {
        let names = [
            ("my.org", to("c.AUTH_a.example.com")),
            ("far.org", to("my.org")),
            ("loop.org", to("loop.org")),
            ("else.org", to("x.net")),
            ("down.org", Lookup::Failed),
        ];
        let (store, table) = (FakeStore::new(), Arc::new(Table { names: names.into(), ..Table::default() }));
        let options = CnameLookupOptions { lookup_depth: depth, ..CnameLookupOptions::default() };
        let cache = Arc::new(MemoryCache::new(Env::system()));
        (store.clone(), table.clone(), Arc::new(CnameLookup::new(store.service(), cache, table, &options)))
    }

    #[tokio::test]
    async fn hosts_are_mapped() {
        let (store, table, app) = pipeline(2);
        for (host, seen) in [
            ("my.org", Some("c.AUTH_a.example.com")),
            ("my.org:8080", Some("c.AUTH_a.example.com:8080")),
            ("far.org", Some("c.AUTH_a.example.com")),
            ("x.example.com", Some("x.example.com")),
            ("example.com", Some("example.com")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("loop.org", None),
            ("else.org", None),
            ("down.org", None),
            ("unknown.org", None),
        ] {
            let (status, _, body) = send(&app, "GET", "/v1/a", &[("host", host)], "").await;
            let got = store.last("GET /v1/a").map(|(h, _)| h["host"].to_str().unwrap().to_string());
            match seen {
                Some(seen) => assert_eq!((status, got.as_deref()), (200, Some(seen)), "{host}"),
                None => assert!(status == 400 && body.starts_with("CNAME lookup failed"), "{host} {body}"),
            }
        }
        let asked = table.asked.lock().unwrap().clone();
        assert_eq!(asked.iter().filter(|n| *n == "my.org").count(), 1, "{asked:?}");
        let (_, _, app) = pipeline(1);
        let (_, _, body) = send(&app, "GET", "/v1/a", &[("host", "far.org")], "").await;
        assert_eq!(body, "CNAME lookup failed after 1 tries");
    }

    #[test]
    fn packets() {
        let query = query([1, 2], "my.org").unwrap();
        let mut packet = query.clone();
        (packet[2], packet[3], packet[7]) = (0x81, 0x80, 1);
        packet.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 44, 0, 4, 1, b'x', 0xc0, 15]);
        let found = Lookup::Cname("x.org".into(), Duration::from_secs(300));
        assert_eq!(answer(&query, &packet), Some(Some(found)));
        let mut gone = packet.clone();
        gone[3] = 0x83;
        assert_eq!(answer(&query, &gone), Some(Some(Lookup::None)));
        gone[3] = 0x82;
        assert_eq!(answer(&query, &gone), Some(None));
        for i in 0..packet.len() {
            assert!(!matches!(answer(&query, &packet[..i]), Some(Some(Lookup::Cname(..)))), "cut at {i}");
        }
        for (at, value) in [(0, 9), (2, 1), (13, b'z'), (5, 2)] {
            let mut forged = packet.clone();
            forged[at] = value;
            assert_eq!(answer(&query, &forged), None, "byte {at}");
        }
        let mut endless = packet.clone();
        let n = endless.len();
        endless[n - 1] = u8::try_from(n - 2).unwrap();
        assert_eq!(answer(&query, &endless), None);
        assert_eq!(super::query([0, 0], &"a".repeat(64)), None);
        assert_eq!(super::query([0, 0], "a..b"), None);
    }

    #[tokio::test]
    async fn a_real_exchange() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (n, from) = server.recv_from(&mut buffer).await.unwrap();
            let mut packet = buffer[..n].to_vec();
            (packet[2], packet[3], packet[7]) = (0x81, 0x80, 1);
            packet.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 3, 1, b'y', 0]);
            let mut forged = packet.clone();
            forged[0] ^= 1;
            server.send_to(&forged, from).await.unwrap();
            server.send_to(&packet, from).await.unwrap();
        });
        let dns = Dns::new(&[address], "", Env::system()).unwrap();
        assert_eq!(dns.cname("my.org").await, Lookup::Cname("y".into(), Duration::from_secs(9)));
        answering.await.unwrap();
        assert!(Dns::new(&["host".into()], "", Env::system()).is_err());
        assert!(Dns::new(&[], "", Env::system()).is_err());
        let system = Dns::new(&[], "# x\nnameserver 10.0.0.1\nnameserver ::1\n", Env::system()).unwrap();
        assert_eq!(system.servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
