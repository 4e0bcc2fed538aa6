//! Publishing to a message broker by AMQP 0-9-1. Source: the protocol's specification and RabbitMQ's "Publisher
//! confirms".
//!
//! A connection opens one channel in confirm mode and publishes persistent messages one after another: a message counts
//! as published once the broker has taken responsibility for it. Whatever goes wrong ends the connection; the caller
//! makes a new one and repeats the message, so that a message may arrive twice.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use caelum_base::{Error, Result, Secret};
use caelum_safeio::tls::Tls;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    host: String,
    port: u16,
    is_tls: bool,
    vhost: String,
    user: String,
    password: Secret<String>,
    /// Empty: the default exchange, where the routing key is a queue's name.
    exchange: String,
    routing_key: String,
}

impl Broker {
    /// `amqp[s]://USER:PASSWORD@HOST[:PORT][/VHOST] EXCHANGE [ROUTING_KEY]`, parts of the URL percent-encoded where
    /// they need it; `-` is the default exchange. Errors say what is wrong, never the password.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |m: &str| Error::invalid(format!("a message broker is given as amqp://USER:PASSWORD@HOST:PORT/VHOST EXCHANGE KEY: {m}"));
        let mut words = text.split_whitespace();
        let (url, exchange, key) = (words.next().unwrap_or_default(), words.next(), words.next().unwrap_or_default());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no URL"))?;
        let is_tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(bad("the URL begins with amqp:// or amqps://")),
        };
        let (at, vhost) = rest.split_once('/').unwrap_or((rest, "%2F"));
        let (login, place) = at.rsplit_once('@').ok_or_else(|| bad("no user"))?;
        let (user, password) = login.split_once(':').ok_or_else(|| bad("no password"))?;
        let (host, port) = match place.rsplit_once(':').filter(|(h, _)| !h.ends_with(':') && (!h.starts_with('[') || h.ends_with(']'))) {
            Some((h, p)) => (h, p.parse().map_err(|_| bad("the port is no number"))?),
            None => (place, if is_tls { 5671 } else { 5672 }),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).to_string();
        let decode = |t: &str| percent_encoding::percent_decode_str(t).decode_utf8().map(|s| s.into_owned()).map_err(|_| bad("not UTF-8"));
        let exchange = exchange.ok_or_else(|| bad("no exchange"))?;
        let exchange = if exchange == "-" { "" } else { exchange }.to_string();
        if host.is_empty() || words.next().is_some() || [&exchange, key, vhost].iter().any(|t| t.len() > 255) {
            return Err(bad("a part is missing, too long, or too much"));
        }
        let (vhost, user, password) = (decode(vhost)?, decode(user)?, Secret::new(decode(password)?));
        Ok(Self { host, port, is_tls, vhost, user, password, exchange, routing_key: key.into() })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;
/// What we offer and accept, in bytes.
const MAX_FRAME: u32 = 131_072;
const MIN_FRAME: u32 = 4096;
const WAIT: Duration = Duration::from_secs(10);

const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_TUNE: (u16, u16) = (10, 30);
const CONNECTION_OPEN_OK: (u16, u16) = (10, 41);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);
const BASIC: u16 = 60;
const BASIC_ACK: (u16, u16) = (BASIC, 80);
const BASIC_NACK: (u16, u16) = (BASIC, 120);

fn broken(e: std::io::Error) -> Error {
    Error::unavailable("The connection to the message broker broke.").caused_by(e)
}

fn unexpected() -> Error {
    Error::unavailable("The message broker said something unexpected.")
}

/// Texts of at most 255 bytes; longer ones were refused with the configuration.
fn put_short(out: &mut BytesMut, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    out.put_u8(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.put_slice(bytes);
}

fn put_long(out: &mut BytesMut, data: &[u8]) {
    out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_slice(data);
}

fn method((class, id): (u16, u16)) -> BytesMut {
    let mut b = BytesMut::with_capacity(64);
    b.put_u16(class);
    b.put_u16(id);
    b
}

fn put_frame(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    out.put_u8(kind);
    out.put_u16(channel);
    put_long(out, payload);
    out.put_u8(FRAME_END);
}

/// An open channel in confirm mode.
pub struct Publisher {
    stream: Box<dyn Stream>,
    max_frame: u32,
    n_published: u64,
}

impl Publisher {
    /// Errors: `Unavailable`, whatever the reason; the broker's own words are the cause.
    pub async fn open(broker: &Broker, tls: Option<&Tls>) -> Result<Self> {
        match tokio::time::timeout(WAIT, Self::connect(broker, tls)).await {
            Ok(result) => result,
            Err(_) => Err(Error::timeout("The message broker took too long.")),
        }
    }

    async fn connect(broker: &Broker, tls: Option<&Tls>) -> Result<Self> {
        let tcp = tokio::net::TcpStream::connect((broker.host.as_str(), broker.port)).await.map_err(broken)?;
        tcp.set_nodelay(true).map_err(broken)?;
        let stream: Box<dyn Stream> = match (broker.is_tls, tls) {
            (false, _) => Box::new(tcp),
            (true, Some(tls)) => Box::new(tls.connect(&broker.host, tcp).await?),
            (true, None) => return Err(Error::unavailable("There are no certificate authorities to check the message broker with.")),
        };
        let mut p = Self { stream, max_frame: MIN_FRAME, n_published: 0 };
        p.stream.write_all(b"AMQP\0\0\x09\x01").await.map_err(broken)?;
        p.expect(CONNECTION_START).await?;
        let mut m = method((10, 11));
        m.put_u32(0);
        put_short(&mut m, "PLAIN");
        put_long(&mut m, format!("\0{}\0{}", broker.user, broker.password.expose()).as_bytes());
        put_short(&mut m, "en_US");
        p.send(0, &[&m]).await?;
        let mut tune = p.expect(CONNECTION_TUNE).await?;
        if tune.len() < 8 {
            return Err(unexpected());
        }
        tune.advance(2);
        let offered = tune.get_u32();
        p.max_frame = if offered == 0 { MAX_FRAME } else { offered.min(MAX_FRAME) };
        if p.max_frame < MIN_FRAME {
            return Err(unexpected());
        }
        let mut m = method((10, 31));
        m.put_u16(1);
        m.put_u32(p.max_frame);
        // No heartbeats: nothing is waited for longer than the time limit of an answer.
        m.put_u16(0);
        let mut open = method((10, 40));
        put_short(&mut open, &broker.vhost);
        open.put_u16(0);
        p.send(0, &[&m, &open]).await?;
        p.expect(CONNECTION_OPEN_OK).await?;
        let mut m = method((20, 10));
        m.put_u8(0);
        p.send(1, &[&m]).await?;
        p.expect(CHANNEL_OPEN_OK).await?;
        let mut m = method((85, 10));
        m.put_u8(0);
        p.send(1, &[&m]).await?;
        p.expect(CONFIRM_SELECT_OK).await?;
        Ok(p)
    }

    /// Publishes a persistent message and waits until the broker has it. Errors: `Unavailable`; the message may have
    /// arrived all the same.
    pub async fn publish(&mut self, broker: &Broker, id: &str, body: &Bytes) -> Result<()> {
        let mut out = BytesMut::with_capacity(body.len() + 512);
        let mut m = method((BASIC, 40));
        m.put_u16(0);
        put_short(&mut m, &broker.exchange);
        put_short(&mut m, &broker.routing_key);
        m.put_u8(0);
        put_frame(&mut out, METHOD, 1, &m);
        let mut h = BytesMut::with_capacity(64);
        h.put_u16(BASIC);
        h.put_u16(0);
        h.put_u64(body.len() as u64);
        // Which properties follow: content type, delivery mode, message id.
        h.put_u16(1 << 15 | 1 << 12 | 1 << 7);
        put_short(&mut h, "application/json");
        h.put_u8(2);
        put_short(&mut h, id);
        put_frame(&mut out, HEADER, 1, &h);
        for piece in body.chunks(self.max_frame as usize - 8) {
            put_frame(&mut out, BODY, 1, piece);
        }
        self.n_published += 1;
        let exchange = async {
            self.stream.write_all(&out).await.map_err(broken)?;
            self.stream.flush().await.map_err(broken)?;
            self.confirmed().await
        };
        match tokio::time::timeout(WAIT, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Error::timeout("The message broker took too long.")),
        }
    }

    async fn confirmed(&mut self) -> Result<()> {
        loop {
            let (id, mut args) = self.method().await?;
            if args.len() < 9 || !matches!(id, BASIC_ACK | BASIC_NACK) {
                return Err(unexpected());
            }
            let (tag, is_multiple) = (args.get_u64(), args.get_u8() & 1 == 1);
            if tag == self.n_published || (is_multiple && tag == 0) {
                return if id == BASIC_ACK { Ok(()) } else { Err(Error::unavailable("The message broker refused the message.")) };
            }
        }
    }

    async fn send(&mut self, channel: u16, methods: &[&[u8]]) -> Result<()> {
        let mut out = BytesMut::with_capacity(512);
        for m in methods {
            put_frame(&mut out, METHOD, channel, m);
        }
        self.stream.write_all(&out).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    async fn expect(&mut self, wanted: (u16, u16)) -> Result<Bytes> {
        let (id, args) = self.method().await?;
        if id == wanted { Ok(args) } else { Err(unexpected()) }
    }

    /// The next method; the broker's farewell is an error with its words.
    async fn method(&mut self) -> Result<((u16, u16), Bytes)> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await.map_err(broken)?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            if size > MAX_FRAME {
                return Err(unexpected());
            }
            let mut data = vec![0; size as usize + 1];
            self.stream.read_exact(&mut data).await.map_err(broken)?;
            if data.pop() != Some(FRAME_END) {
                return Err(unexpected());
            }
            match head[0] {
                HEARTBEAT => continue,
                METHOD if data.len() >= 4 => {}
                _ => return Err(unexpected()),
            }
            let mut data = Bytes::from(data);
            let id = (data.get_u16(), data.get_u16());
            if matches!(id, CONNECTION_CLOSE | CHANNEL_CLOSE) {
                return Err(farewell(data));
            }
            return Ok((id, data));
        }
    }
}

/// Reply code and text of a close.
fn farewell(mut args: Bytes) -> Error {
    if args.len() < 3 {
        return unexpected();
    }
    let (code, length) = (args.get_u16(), usize::from(args.get_u8()));
    let text = String::from_utf8_lossy(&args[..length.min(args.len())]).into_owned();
    Error::unavailable("The message broker closed the connection.").caused_by(std::io::Error::other(format!("{code} {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers() {
        let b = Broker::parse("amqp://u%40x:p%3Aw@mq.example/%2Fv caelum s3.events").unwrap();
        let parts = (b.user.as_str(), b.password.expose().as_str(), b.host.as_str(), b.port, b.vhost.as_str());
        assert_eq!(parts, ("u@x", "p:w", "mq.example", 5672, "/v"));
        assert_eq!((b.exchange.as_str(), b.routing_key.as_str(), b.is_tls), ("caelum", "s3.events", false));
        let b = Broker::parse("amqps://u:p@[::1] - queue").unwrap();
        assert_eq!((b.host.as_str(), b.port, b.exchange.as_str(), b.vhost.as_str(), b.is_tls), ("::1", 5671, "", "/", true));
        assert_eq!(Broker::parse("amqp://u:p@[::1]:1234 x").unwrap().port, 1234);
        for bad in [
            "",
            "http://u:p@h x",
            "amqp://h x",
            "amqp://u@h x",
            "amqp://u:p@h",
            "amqp://u:p@h:x e",
            "amqp://u:p@/ e",
            "amqp://u:p@h e k more",
        ] {
            let e = Broker::parse(bad).unwrap_err().to_string();
            assert!(!e.contains("u:p"), "{e}");
        }
        assert!(!format!("{b:?}").contains("\"p\""));
    }

    /// A broker that speaks just enough: it takes each message after what `script` says.
    async fn broker(script: &'static [&'static [u8]]) -> (Broker, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut s, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            for piece in script {
                let mut b = vec![0; 65_536];
                let n = s.read(&mut b).await.unwrap();
                seen.extend_from_slice(&b[..n]);
                s.write_all(piece).await.unwrap();
            }
            // Not closed before it is known that there is no more.
            let mut b = Vec::new();
            let _ = s.read_to_end(&mut b).await;
            seen.extend(b);
            seen
        });
        (Broker::parse(&format!("amqp://u:p@127.0.0.1:{port} ex key")).unwrap(), task)
    }

    const START: &[u8] = b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce";
    const TUNE: &[u8] = b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c\xce";
    const OPEN_OK: &[u8] = b"\x08\0\0\0\0\0\0\xce\x01\0\0\0\0\0\x05\0\x0a\0\x29\0\xce";
    const CHANNEL_OK: &[u8] = b"\x01\0\x01\0\0\0\x08\0\x14\0\x0b\0\0\0\0\xce";
    const SELECT_OK: &[u8] = b"\x01\0\x01\0\0\0\x04\0\x55\0\x0b\xce";
    const ACK: &[u8] = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0\xce";
    const NACK: &[u8] = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x78\0\0\0\0\0\0\0\x01\0\xce";
    const REFUSED: &[u8] = b"\x01\0\0\0\0\0\x0f\0\x0a\0\x32\x01\x93\x04gone\0\0\0\0\xce";

    #[tokio::test]
    async fn messages_are_confirmed() {
        let (b, seen) = broker(&[START, TUNE, OPEN_OK, CHANNEL_OK, SELECT_OK, ACK]).await;
        let mut p = match Publisher::open(&b, None).await {
            Ok(p) => p,
            Err(e) => panic!("{}", e.chain()),
        };
        p.publish(&b, "id", &Bytes::from_static(b"{\"a\":1}")).await.unwrap();
        drop(p);
        let seen = seen.await.unwrap();
        assert!(seen.starts_with(b"AMQP\0\0\x09\x01"));
        let has = |t: &[u8]| seen.windows(t.len()).any(|w| w == t);
        assert!(has(b"\0u\0p") && has(b"\x02ex\x03key") && has(b"\x10application/json\x02\x02id") && has(b"{\"a\":1}\xce"));
    }

    #[tokio::test]
    async fn refusals_and_nonsense() {
        let open = async |script| {
            let (b, _) = broker(script).await;
            let mut p = Publisher::open(&b, None).await?;
            p.publish(&b, "id", &Bytes::from_static(b"x")).await
        };
        let said = open(&[START, REFUSED]).await.unwrap_err().chain();
        assert!(said.contains("403 gone"), "{said}");
        assert!(open(&[START, TUNE, OPEN_OK, CHANNEL_OK, SELECT_OK, NACK]).await.is_err());
        // A frame larger than was agreed on, one without an end, and another protocol.
        assert!(open(&[b"\x01\0\0\xff\xff\xff\xff"]).await.is_err());
        assert!(open(&[b"\x01\0\0\0\0\0\x04\0\x0a\0\x0a\0"]).await.is_err());
        assert!(open(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]).await.is_err());
    }
}
