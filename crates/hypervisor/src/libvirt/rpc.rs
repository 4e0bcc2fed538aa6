//! Asynchronous client of libvirt's wire protocol over a Unix socket.
//!
//! Many calls share one socket; each has a serial number, a deadline and a waiting task. One task
//! reads: replies go to their callers, domain events to a channel, keepalive pings are answered.
//! When the socket dies every waiting call fails `Unavailable` and the next call connects
//! again, at most once per back-off step. A call whose deadline passes fails `Timeout`; its effect is
//! then unknown and the caller must look.
//!
//! Framing: length (itself included), program, version, procedure, type, serial, status; then XDR.

use super::error::decode_error;
use super::xdr::{Reader, Writer};
use caelum_base::{Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, broadcast, oneshot};
use tokio::time::Instant;

const PROGRAM_REMOTE: u32 = 0x2000_8086;
const PROGRAM_KEEPALIVE: u32 = 0x6b65_6570;
const VERSION: u32 = 1;
const HEADER: usize = 28;
/// libvirt's own limit of one message.
const MAX_MESSAGE: usize = 32 << 20;
const TYPE_CALL: u32 = 0;
const TYPE_REPLY: u32 = 1;
const TYPE_EVENT: u32 = 2;
const STATUS_OK: u32 = 0;
const KEEPALIVE_PING: u32 = 1;
const KEEPALIVE_PONG: u32 = 2;
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The first call of a daemon's life probes QEMU, which takes seconds.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Procedure numbers of libvirt's remote program (its stable wire interface).
pub mod procedure {
    pub const CONNECT_OPEN: u32 = 1;
    pub const CONNECT_GET_VERSION: u32 = 4;
    pub const NODE_GET_INFO: u32 = 6;
    pub const CONNECT_GET_CAPABILITIES: u32 = 7;
    pub const DOMAIN_GET_XML_DESC: u32 = 14;
    pub const DOMAIN_LOOKUP_BY_UUID: u32 = 24;
    pub const DOMAIN_REBOOT: u32 = 27;
    pub const DOMAIN_RESUME: u32 = 28;
    pub const DOMAIN_SUSPEND: u32 = 34;
    pub const AUTH_LIST: u32 = 66;
    pub const CONNECT_GET_LIB_VERSION: u32 = 157;
    pub const DOMAIN_ATTACH_DEVICE_FLAGS: u32 = 160;
    pub const DOMAIN_DETACH_DEVICE_FLAGS: u32 = 161;
    pub const DOMAIN_MANAGED_SAVE: u32 = 182;
    pub const DOMAIN_HAS_MANAGED_SAVE_IMAGE: u32 = 183;
    pub const DOMAIN_MANAGED_SAVE_REMOVE: u32 = 184;
    pub const DOMAIN_CREATE_WITH_FLAGS: u32 = 196;
    pub const DOMAIN_GET_STATE: u32 = 212;
    pub const DOMAIN_UNDEFINE_FLAGS: u32 = 231;
    pub const DOMAIN_DESTROY_FLAGS: u32 = 234;
    pub const DOMAIN_RESET: u32 = 245;
    pub const DOMAIN_BLOCK_RESIZE: u32 = 251;
    pub const DOMAIN_SHUTDOWN_FLAGS: u32 = 258;
    pub const CONNECT_LIST_ALL_DOMAINS: u32 = 273;
    pub const EVENT_REGISTER_ANY: u32 = 316;
    pub const EVENT_LIFECYCLE: u32 = 318;
    pub const EVENT_REBOOT: u32 = 319;
    pub const EVENT_DEVICE_REMOVED: u32 = 333;
    pub const DOMAIN_DEFINE_XML_FLAGS: u32 = 350;
    #[cfg(test)]
    pub const CONNECT_CLOSE: u32 = 2;
}

/// One message the daemon sent unasked: its procedure and body.
#[derive(Clone, Debug)]
pub struct RawEvent {
    pub procedure: u32,
    pub body: Arc<[u8]>,
}

type Waiting = HashMap<u32, oneshot::Sender<Result<Vec<u8>>>>;

struct Shared {
    /// `None` once the socket is dead: nobody may wait on it any more.
    waiting: StdMutex<Option<Waiting>>,
    events: broadcast::Sender<RawEvent>,
    lost: Arc<tokio::sync::Notify>,
}

struct Connection {
    writer: Arc<Mutex<OwnedWriteHalf>>,
    shared: Arc<Shared>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.shared.fail_all("libvirt's connection was closed");
    }
}

impl Connection {
    fn alive(&self) -> bool {
        self.shared.lock().is_some()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail_all(&self, why: &str) {
        for (_, waiter) in self.lock().take().unwrap_or_default() {
            // The caller may have given up at its deadline.
            let _ = waiter.send(Err(gone(why)));
        }
        self.lost.notify_one();
    }
}

fn gone(why: &str) -> Error {
    Error::unavailable("The host's libvirt daemon does not answer.").caused_by(why.to_owned())
}

#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    retry_at: Option<Instant>,
    backoff: Duration,
}

/// A client that connects when first used and again after the socket died.
pub struct Client {
    socket: PathBuf,
    uri: String,
    link: Mutex<Link>,
    serial: std::sync::atomic::AtomicU32,
    events: broadcast::Sender<RawEvent>,
    lost: Arc<tokio::sync::Notify>,
    /// Event ids registered on every new connection.
    event_ids: &'static [u32],
}

impl Client {
    pub fn new(socket: PathBuf, uri: &str, event_ids: &'static [u32]) -> Self {
        let (events, _) = broadcast::channel(4096);
        let serial = std::sync::atomic::AtomicU32::new(1);
        Self { socket, uri: uri.to_owned(), link: Mutex::default(), serial, events, lost: Arc::default(), event_ids }
    }

    /// Messages the daemon sends unasked.
    pub fn events(&self) -> broadcast::Receiver<RawEvent> {
        self.events.subscribe()
    }

    /// Calls a procedure and waits for its reply until `deadline` has passed.
    pub async fn call(&self, procedure: u32, args: Writer, deadline: Duration) -> Result<Vec<u8>> {
        let work = async {
            let connection = self.connection().await?;
            self.call_on(&connection, procedure, args).await
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(r) => r,
            Err(_) => Err(Error::timeout("The host's libvirt daemon did not answer in time.").caused_by(format!("procedure {procedure}"))),
        }
    }

    /// Returns when a connection was lost since the last call.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Whether a connection is open now; does not try.
    pub async fn is_connected(&self) -> bool {
        self.link.lock().await.connection.as_ref().is_some_and(|c| c.alive())
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        // Held while connecting: callers that arrive meanwhile share the one attempt.
        let mut link = self.link.lock().await;
        if let Some(c) = link.connection.as_ref().filter(|c| c.alive()) {
            return Ok(c.clone());
        }
        link.connection = None;
        if let Some(at) = link.retry_at {
            tokio::time::sleep_until(at).await;
        }
        // Written before the attempt: a caller cancelled at its deadline counts as a failure.
        link.backoff = (link.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        link.retry_at = Some(Instant::now() + link.backoff);
        let connection = Arc::new(self.connect().await?);
        link.connection = Some(connection.clone());
        link.retry_at = None;
        link.backoff = Duration::ZERO;
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection> {
        let open = tokio::time::timeout(CONNECT_DEADLINE, super::daemon::connect(&self.socket));
        let stream = match open.await {
            Ok(Ok(s)) => s,
            Ok(Err(e)) => return Err(gone(&format!("connect {}: {e}", self.socket.display()))),
            Err(_) => return Err(gone("connect timed out")),
        };
        let (read, write) = stream.into_split();
        let shared =
            Arc::new(Shared { waiting: StdMutex::new(Some(Waiting::new())), events: self.events.clone(), lost: self.lost.clone() });
        let writer = Arc::new(Mutex::new(write));
        let reader = tokio::spawn(read_loop(read, writer.clone(), shared.clone()));
        let connection = Connection { writer, shared, reader };
        let greet = async {
            let reply = self.call_on(&connection, procedure::AUTH_LIST, Writer::new()).await?;
            let mut r = Reader::new(&reply);
            let n = r.u32()?;
            for _ in 0..n.min(20) {
                if r.u32()? != 0 {
                    return Err(Error::unavailable("The host's libvirt daemon demands a log-in; its Unix socket must need none for root."));
                }
            }
            self.call_on(&connection, procedure::CONNECT_OPEN, Writer::new().optional(Some(&self.uri)).u32(0)).await?;
            for id in self.event_ids {
                self.call_on(&connection, procedure::EVENT_REGISTER_ANY, Writer::new().u32(*id).u32(0)).await?;
            }
            Ok(())
        };
        match tokio::time::timeout(OPEN_DEADLINE, greet).await {
            Ok(r) => r.map(|()| connection),
            Err(_) => Err(gone("the daemon accepts connections but does not answer")),
        }
    }

    async fn call_on(&self, connection: &Connection, procedure: u32, args: Writer) -> Result<Vec<u8>> {
        let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        match connection.shared.lock().as_mut() {
            Some(waiting) => drop(waiting.insert(serial, tx)),
            None => return Err(gone("the connection is closed")),
        }
        // Removes the entry when this call is dropped at its deadline.
        let _guard = Forget { shared: &connection.shared, serial };
        let packet = frame(PROGRAM_REMOTE, procedure, TYPE_CALL, serial, &args.into_bytes());
        send(&connection.writer, packet).await?;
        rx.await.unwrap_or_else(|_| Err(gone("the connection broke")))
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    serial: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(w) = self.shared.lock().as_mut() {
            w.remove(&self.serial);
        }
    }
}

/// Writes a whole packet in a task of its own: a caller cancelled half-way must not leave half a packet.
async fn send(writer: &Arc<Mutex<OwnedWriteHalf>>, packet: Vec<u8>) -> Result<()> {
    let writer = writer.clone();
    let task = tokio::spawn(async move { writer.lock().await.write_all(&packet).await });
    match task.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(gone(&e.to_string())),
        Err(e) => Err(gone(&e.to_string())),
    }
}

fn frame(program: u32, procedure: u32, kind: u32, serial: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    for word in [length, program, VERSION, procedure, kind, serial, STATUS_OK] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(body);
    out
}

async fn read_loop(mut read: OwnedReadHalf, writer: Arc<Mutex<OwnedWriteHalf>>, shared: Arc<Shared>) {
    let why = loop {
        if let Err(e) = read_one(&mut read, &writer, &shared).await {
            break e;
        }
    };
    shared.fail_all(&why.chain());
}

async fn read_one(read: &mut OwnedReadHalf, writer: &Arc<Mutex<OwnedWriteHalf>>, shared: &Shared) -> Result<()> {
    let broken = |e: std::io::Error| gone(&e.to_string());
    let length = read.read_u32().await.map_err(broken)? as usize;
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(gone("a message of impossible length"));
    }
    let mut packet = vec![0; length - 4];
    read.read_exact(&mut packet).await.map_err(broken)?;
    let mut head = Reader::new(&packet);
    let (program, _version, number) = (head.u32()?, head.u32()?, head.u32()?);
    let (kind, serial, status) = (head.u32()?, head.u32()?, head.u32()?);
    let body = &packet[HEADER - 4..];
    match (program, kind) {
        (PROGRAM_KEEPALIVE, _) if number == KEEPALIVE_PING => {
            send(writer, frame(PROGRAM_KEEPALIVE, KEEPALIVE_PONG, TYPE_EVENT, 0, &[])).await?;
        }
        (PROGRAM_REMOTE, TYPE_REPLY) => {
            let waiter = shared.lock().as_mut().and_then(|w| w.remove(&serial));
            if let Some(waiter) = waiter {
                let answer = if status == STATUS_OK { Ok(body.to_vec()) } else { Err(decode_error(body)) };
                // The caller may have given up at its deadline.
                let _ = waiter.send(answer);
            }
        }
        (PROGRAM_REMOTE, TYPE_EVENT) => {
            // Without a receiver nobody waits for events.
            let _ = shared.events.send(RawEvent { procedure: number, body: body.into() });
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
#[path = "rpc_tests.rs"]
mod tests;
