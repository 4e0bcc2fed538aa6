//! memcached as the cache that proxies share. Keys are hashed and spread over servers as Swift's client does,
//! so that proxies of both kinds share entries. Source: memcached's `protocol.txt`, Swift's `memcached.py`.

use super::cache::Cache;
use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::Env;
use caelum_swiftkit::md5_hex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// Points of each server on the circle.
const POINTS: usize = 50;
/// Servers tried for one operation.
const TRIES: usize = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that failed is left alone this long.
const REST: Duration = Duration::from_secs(60);
/// Longer times are given to the server as moments.
const MAX_DELTA: u64 = 30 * 24 * 3_600;
/// Tells readers that the value is JSON.
const JSON_FLAG: u32 = 2;
const MAX_VALUE: usize = 1 << 20;
const MAX_LINE: u64 = 512;
/// Idle connections kept for each server.
const IDLE: usize = 16;

type Link = BufStream<TcpStream>;

struct Server {
    address: String,
    idle: Mutex<Vec<Link>>,
    /// Microseconds since 1970.
    rests_until: AtomicI64,
}

/// A client for one or more memcached servers. A server that fails is passed over for a minute; when none
/// answers, the cache is as good as empty.
pub struct Memcache {
    env: Env,
    servers: Vec<Server>,
    circle: BTreeMap<String, usize>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Memcache {
    /// `servers` as `host:port`.
    pub fn new(env: Env, servers: &[String]) -> Self {
        let mut circle = BTreeMap::new();
        for (i, s) in servers.iter().enumerate() {
            for point in 0..POINTS {
                circle.insert(md5_hex(format!("{s}-{point}").as_bytes()), i);
            }
        }
        let server = |a: &String| Server { address: a.clone(), idle: Mutex::default(), rests_until: AtomicI64::new(0) };
        Self { env, servers: servers.iter().map(server).collect(), circle }
    }

    /// The servers for a key, in the order in which they are tried.
    fn candidates(&self, hash: &str) -> Vec<usize> {
        let points: Vec<usize> = self.circle.values().copied().collect();
        if points.is_empty() {
            return Vec::new();
        }
        // Upstream steps once before it looks.
        let start = self.circle.range(..=hash.to_string()).count() + 1;
        let mut out = Vec::new();
        for i in 0..points.len() {
            let server = points[(start + i) % points.len()];
            if !out.contains(&server) {
                out.push(server);
            }
            if out.len() == TRIES.min(self.servers.len()) {
                break;
            }
        }
        out
    }

    async fn link(server: &Server) -> io::Result<Link> {
        let idle = server.idle.lock().expect("no holder of this lock panics").pop();
        match idle {
            Some(link) => Ok(link),
            None => {
                let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&server.address)).await??;
                stream.set_nodelay(true)?;
                Ok(BufStream::new(stream))
            }
        }
    }

    /// Runs an exchange with the first server that takes part in it.
    async fn run(&self, key: &str, command: Command) -> Option<Outcome> {
        let hash = md5_hex(key.as_bytes());
        for i in self.candidates(&hash) {
            let server = &self.servers[i];
            if server.rests_until.load(Ordering::Relaxed) > self.env.now().0 {
                continue;
            }
            let work = async {
                let mut link = Self::link(server).await?;
                let out = command.exchange(&mut link, &hash).await?;
                io::Result::Ok((link, out))
            };
            match tokio::time::timeout(IO_TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((link, out)) => {
                    let mut idle = server.idle.lock().expect("no holder of this lock panics");
                    if idle.len() < IDLE {
                        idle.push(link);
                    }
                    return Some(out);
                }
                Err(e) => {
                    tracing::warn!(server = %server.address, error = %e, "memcached");
                    // Kept connections of a server that was restarted are dead: only a fresh one tells.
                    let had_idle = !std::mem::take(&mut *server.idle.lock().expect("no holder of this lock panics")).is_empty();
                    if !had_idle {
                        server.rests_until.store(self.env.now().plus(REST).0, Ordering::Relaxed);
                    }
                }
            }
        }
        None
    }

    fn expiry(&self, ttl: Duration) -> u64 {
        let seconds = ttl.as_secs().max(1);
        let now = u64::try_from(self.env.now().secs()).unwrap_or(0);
        if seconds > MAX_DELTA { now + seconds } else { seconds }
    }
}

async fn line(link: &mut Link) -> io::Result<String> {
    let mut out = Vec::new();
    (&mut *link).take(MAX_LINE).read_until(b'\n', &mut out).await?;
    match out.strip_suffix(b"\r\n") {
        Some(l) => String::from_utf8(l.to_vec()).map_err(|_| bad("an answer that is no text")),
        None => Err(bad("an answer that ends early or is too long")),
    }
}

async fn send(link: &mut Link, head: &str, value: Option<&[u8]>) -> io::Result<()> {
    link.write_all(head.as_bytes()).await?;
    link.write_all(b"\r\n").await?;
    if let Some(value) = value {
        link.write_all(value).await?;
        link.write_all(b"\r\n").await?;
    }
    link.flush().await
}

async fn get(link: &mut Link, key: &str) -> io::Result<Option<Bytes>> {
    send(link, &format!("get {key}"), None).await?;
    let mut found = None;
    loop {
        let l = line(link).await?;
        if l == "END" {
            return Ok(found);
        }
        let words: Vec<&str> = l.split(' ').collect();
        let ["VALUE", name, _, length, ..] = words.as_slice() else { return Err(bad(&l)) };
        let length = length.parse::<usize>().ok().filter(|n| *n <= 2 * MAX_VALUE).ok_or_else(|| bad("a value that is too long"))?;
        let mut data = vec![0; length + 2];
        link.read_exact(&mut data).await?;
        data.truncate(length);
        if *name == key {
            found = Some(Bytes::from(data));
        }
    }
}

async fn stored(link: &mut Link, head: &str, value: &[u8]) -> io::Result<bool> {
    send(link, head, Some(value)).await?;
    match line(link).await?.as_str() {
        "STORED" => Ok(true),
        "NOT_STORED" => Ok(false),
        other => Err(bad(other)),
    }
}

async fn count(link: &mut Link, verb: &str, key: &str, by: u64) -> io::Result<Option<u64>> {
    send(link, &format!("{verb} {key} {by}"), None).await?;
    match line(link).await?.trim() {
        "NOT_FOUND" => Ok(None),
        n => n.parse().map(Some).map_err(|_| bad(n)),
    }
}

enum Command {
    Get,
    Set { value: Bytes, expiry: u64 },
    Delete,
    Count { delta: i64, expiry: u64 },
}

enum Outcome {
    Value(Option<Bytes>),
    Count(u64),
    Done,
}

impl Command {
    async fn exchange(&self, link: &mut Link, key: &str) -> io::Result<Outcome> {
        match self {
            Self::Get => get(link, key).await.map(Outcome::Value),
            Self::Set { value, expiry } => {
                stored(link, &format!("set {key} {JSON_FLAG} {expiry} {}", value.len()), value).await?;
                Ok(Outcome::Done)
            }
            Self::Delete => {
                send(link, &format!("delete {key}"), None).await?;
                line(link).await?;
                Ok(Outcome::Done)
            }
            Self::Count { delta, expiry } => {
                let (verb, by) = (if *delta < 0 { "decr" } else { "incr" }, delta.unsigned_abs());
                if let Some(n) = count(link, verb, key, by).await? {
                    return Ok(Outcome::Count(n));
                }
                let first = if *delta < 0 { 0 } else { by };
                let text = first.to_string();
                if stored(link, &format!("add {key} 0 {expiry} {}", text.len()), text.as_bytes()).await? {
                    return Ok(Outcome::Count(first));
                }
                // Somebody else has just begun the counter.
                let n = count(link, verb, key, by).await?;
                n.map(Outcome::Count).ok_or_else(|| bad("a counter that comes and goes"))
            }
        }
    }
}

#[async_trait]
impl Cache for Memcache {
    async fn get(&self, key: &str) -> Option<Bytes> {
        match self.run(key, Command::Get).await? {
            Outcome::Value(found) => found,
            _ => None,
        }
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) {
        let expiry = self.expiry(ttl);
        // What cannot be kept must not leave an older value behind.
        let command = if value.len() > MAX_VALUE { Command::Delete } else { Command::Set { value, expiry } };
        self.run(key, command).await;
    }

    async fn delete(&self, key: &str) {
        self.run(key, Command::Delete).await;
    }

    async fn incr(&self, key: &str, delta: i64, ttl: Duration) -> Option<u64> {
        match self.run(key, Command::Count { delta, expiry: self.expiry(ttl) }).await? {
            Outcome::Count(n) => Some(n),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    type Store = Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>;

    /// The part of memcached that the client uses.
    async fn serve(stream: TcpStream, store: Store) -> io::Result<()> {
        let mut link = BufStream::new(stream);
        loop {
            let l = line(&mut link).await?;
            let w: Vec<&str> = l.split(' ').collect();
            let answer = match w[0] {
                "get" => match store.lock().unwrap().get(w[1]) {
                    Some((flags, v)) => format!("VALUE {} {flags} {}\r\n{}\r\nEND", w[1], v.len(), String::from_utf8_lossy(v)),
                    None => "END".into(),
                },
                "delete" => store.lock().unwrap().remove(w[1]).map_or("NOT_FOUND", |_| "DELETED").into(),
                "incr" | "decr" => {
                    let mut s = store.lock().unwrap();
                    match s.get_mut(w[1]) {
                        Some((_, v)) => {
                            let old: u64 = String::from_utf8_lossy(v).parse().unwrap();
                            let by: u64 = w[2].parse().unwrap();
                            let new = if w[0] == "incr" { old + by } else { old.saturating_sub(by) };
                            *v = new.to_string().into_bytes();
                            new.to_string()
                        }
                        None => "NOT_FOUND".into(),
                    }
                }
                _ => {
                    let mut data = vec![0; w[4].parse::<usize>().unwrap() + 2];
                    link.read_exact(&mut data).await?;
                    data.truncate(data.len() - 2);
                    store.lock().unwrap().insert(w[1].into(), (w[2].into(), data));
                    "STORED".into()
                }
            };
            send(&mut link, &answer, None).await?;
        }
    }

    async fn server() -> (String, Store) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, store) = (listener.local_addr().unwrap().to_string(), Store::default());
        let shared = store.clone();
        tokio::spawn(async move {
            while let Ok((s, _)) = listener.accept().await {
                tokio::spawn(serve(s, shared.clone()));
            }
        });
        (address, store)
    }

    #[tokio::test]
    async fn values_and_counters() {
        let (address, store) = server().await;
        let cache = Memcache::new(Env::system(), &[address]);
        let ttl = Duration::from_secs(60);
        assert_eq!(cache.get("k").await, None);
        cache.set("k", Bytes::from_static(b"{\"a\":1}"), ttl).await;
        assert_eq!(cache.get("k").await.as_deref(), Some(&b"{\"a\":1}"[..]));
        // md5("k"), flagged as JSON.
        assert_eq!(store.lock().unwrap()["8ce4b16b22b58894aa86c421e8759df3"].0, "2");
        cache.delete("k").await;
        assert_eq!(cache.get("k").await, None);
        assert_eq!(cache.incr("n", 2, ttl).await, Some(2));
        assert_eq!(cache.incr("n", 3, ttl).await, Some(5));
        assert_eq!(cache.incr("n", -9, ttl).await, Some(0));
        assert_eq!(cache.incr("m", -9, ttl).await, Some(0));
        cache.set("k", Bytes::from(vec![b'1'; MAX_VALUE + 1]), ttl).await;
        assert_eq!(cache.get("k").await, None);
    }

    #[tokio::test]
    async fn a_dead_server_is_passed_over() {
        let (alive, _) = server().await;
        let cache = Memcache::new(Env::system(), &["127.0.0.1:1".into(), alive]);
        for i in 0..20 {
            let key = format!("k{i}");
            cache.set(&key, Bytes::from_static(b"1"), Duration::from_secs(60)).await;
            assert_eq!(cache.get(&key).await.as_deref(), Some(&b"1"[..]), "{key}");
        }
        let none = Memcache::new(Env::system(), &["127.0.0.1:1".into()]);
        assert_eq!(none.incr("n", 1, Duration::from_secs(60)).await, None);
        assert_eq!(Memcache::new(Env::system(), &[]).get("k").await, None);
    }

    /// From Swift's `MemcacheRing` with the same servers.
    #[test]
    fn spread_like_upstream() {
        let servers: Vec<String> = (1..=4).map(|i| format!("10.0.0.{i}:11211")).collect();
        let cache = Memcache::new(Env::system(), &servers);
        for (key, order) in GOLDEN {
            assert_eq!(cache.candidates(&md5_hex(key.as_bytes())), order, "{key}");
        }
    }

    const GOLDEN: [(&str, [usize; 3]); 8] = [
        ("k", [2, 3, 1]),
        ("container/a/c", [1, 0, 3]),
        ("account/AUTH_test", [0, 2, 3]),
        ("x1", [3, 1, 0]),
        ("x2", [2, 3, 1]),
        ("x3", [2, 1, 0]),
        ("x4", [2, 1, 0]),
        ("x5", [3, 1, 0]),
    ];
}
