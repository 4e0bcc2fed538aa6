//! Messages between services: calls with a direct reply, casts to one worker, fan-out, and
//! notifications.
//!
//! Invariants:
//! - A message is a wake-up or a question, never the only copy of work: losing any message costs
//!   time, not state. Nothing here is durable.
//! - Every queue is bounded. A full queue makes the sender wait up to its deadline; a slow fan-out
//!   subscriber loses the oldest messages and is told how many.
//! - A caller always gets an answer: the reply, the handler's error as data, `Unavailable` when
//!   nobody serves the topic or the handler went away, or `Timeout` at the deadline.
//!
//! Services use [`Bus`]; a [`Driver`] carries bytes. [`Memory`] connects the services of one
//! process; a network driver implements the same trait and changes no service.

mod memory;
mod notify;

pub use memory::Memory;
pub use notify::{Notification, Payload, Priority};

use async_trait::async_trait;
use caelum_base::{Env, Error, Result, WireError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// An encoded message; cheap to clone, so that a fan-out copies nothing.
pub type Bytes = Arc<[u8]>;

/// Answers one request. The future may be dropped when the process stops.
pub type RawHandler = Arc<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, WireError>> + Send>> + Send + Sync>;

/// Limits of one server of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Messages handled at the same time.
    pub concurrency: usize,
    /// Messages that wait.
    pub queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { concurrency: 64, queue: 1_024 }
    }
}

/// Carries bytes between topics. Topics are plain names such as `compute-host.node1`.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Serves a topic until the guard is dropped. Several servers of a topic share its messages.
    fn serve(&self, topic: &str, handler: RawHandler, options: Options) -> Box<dyn Guard>;

    /// One question to one server. The outer error is the driver's, the inner one the handler's.
    async fn call(&self, topic: &str, message: Bytes, deadline: Duration) -> Result<Result<Vec<u8>, WireError>>;

    /// Hands a message to one server. `Ok` means that it is queued.
    async fn cast(&self, topic: &str, message: Bytes, deadline: Duration) -> Result<()>;

    /// Hands a message to all subscribers there are now; never waits. Returns how many.
    fn fanout(&self, topic: &str, message: Bytes) -> usize;

    /// Receives the topic's fan-outs from now on; at most `queue` wait.
    fn subscribe(&self, topic: &str, queue: usize) -> Box<dyn RawSubscription>;
}

/// Something that ends when it is dropped.
pub trait Guard: Send + Sync {}

/// What a subscriber gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    Message(T),
    /// So many messages were dropped here because the subscriber was slow.
    Missed(u64),
}

/// The receiving end of fan-outs.
#[async_trait]
pub trait RawSubscription: Send {
    /// `None` when the bus is gone.
    async fn next(&mut self) -> Option<Next<Bytes>>;
}

/// Typed receiving end of fan-outs.
pub struct Subscription<T> {
    raw: Box<dyn RawSubscription>,
    topic: String,
    _type: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Subscription<T> {
    /// The next message; `None` when the bus is gone. Messages that are not a `T` are logged and
    /// counted as missed.
    pub async fn next(&mut self) -> Option<Next<T>> {
        Some(match self.raw.next().await? {
            Next::Missed(n) => Next::Missed(n),
            Next::Message(bytes) => match serde_json::from_slice(&bytes) {
                Ok(m) => Next::Message(m),
                Err(e) => {
                    tracing::warn!(topic = self.topic, error = %e, "bus: unreadable message");
                    Next::Missed(1)
                }
            },
        })
    }
}

/// A running server of a topic; dropping it stops the server, callers that wait get `Unavailable`.
#[must_use = "the topic is served as long as this lives"]
pub struct Served {
    _guard: Box<dyn Guard>,
}

/// Typed messages over a driver. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    driver: Arc<dyn Driver>,
    env: Env,
}

/// Topic of the notifications, as in oslo.messaging.
pub const NOTIFICATIONS: &str = "notifications";

impl Bus {
    pub fn new(driver: Arc<dyn Driver>, env: Env) -> Self {
        Self { driver, env }
    }

    /// A bus within this process.
    pub fn memory(env: Env) -> Self {
        Self::new(Arc::new(Memory::new()), env)
    }

    /// Answers the questions on a topic: `async fn(Req) -> Result<Rep>`. Casts arrive here too;
    /// their answers are dropped, their errors logged.
    pub fn serve<Req, Rep, Fut>(&self, topic: &str, handler: impl Fn(Req) -> Fut + Send + Sync + 'static, options: Options) -> Served
    where
        Req: DeserializeOwned + Send + 'static,
        Rep: Serialize + Send + 'static,
        Fut: Future<Output = Result<Rep>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let raw: RawHandler = Arc::new(move |bytes: Bytes| {
            let handler = handler.clone();
            Box::pin(async move {
                let request = serde_json::from_slice(&bytes).map_err(|e| WireError::from(&unreadable("request", e)))?;
                // The bytes need not live as long as the answer takes.
                drop(bytes);
                match handler(request).await {
                    Ok(reply) => serde_json::to_vec(&reply).map_err(|e| WireError::from(&unreadable("reply", e))),
                    Err(e) => {
                        // The cause stays here; only this log has it.
                        tracing::debug!(error = %e.chain(), "bus: a handler returned an error");
                        Err(WireError::from(&e))
                    }
                }
            })
        });
        Served { _guard: self.driver.serve(topic, raw, options) }
    }

    /// Asks one server of the topic and waits for the answer, at most `deadline`.
    pub async fn call<Req: Serialize + ?Sized, Rep: DeserializeOwned>(
        &self,
        topic: &str,
        request: &Req,
        deadline: Duration,
    ) -> Result<Rep> {
        let reply = self.driver.call(topic, encode(request)?, deadline).await??;
        serde_json::from_slice(&reply).map_err(|e| unreadable("reply", e))
    }

    /// Hands a message to one server of the topic and does not wait for its effect. Errors:
    /// `Unavailable` when nobody serves the topic, `TooMany` when its queue stays full until the
    /// deadline.
    pub async fn cast<M: Serialize + ?Sized>(&self, topic: &str, message: &M, deadline: Duration) -> Result<()> {
        self.driver.cast(topic, encode(message)?, deadline).await
    }

    /// Hands a message to all present subscribers of the topic; never waits. Returns how many.
    pub fn fanout<M: Serialize + ?Sized>(&self, topic: &str, message: &M) -> Result<usize> {
        Ok(self.driver.fanout(topic, encode(message)?))
    }

    /// Receives the topic's fan-outs from now on; of those that wait, at most `queue` are kept.
    pub fn subscribe<T: DeserializeOwned>(&self, topic: &str, queue: usize) -> Subscription<T> {
        let raw = self.driver.subscribe(topic, queue);
        Subscription { raw, topic: topic.to_string(), _type: std::marker::PhantomData }
    }

    /// Publishes a notification in OpenStack's envelope on [`NOTIFICATIONS`].
    pub fn notify<P: Serialize>(&self, publisher_id: &str, event_type: &str, priority: Priority, payload: &P) -> Result<()> {
        let payload = serde_json::to_value(payload).map_err(|e| unreadable("notification", e))?;
        let n = Notification {
            message_id: self.env.uuid(),
            publisher_id: publisher_id.to_string(),
            event_type: event_type.to_string(),
            priority,
            payload,
            timestamp: notify::timestamp(self.env.now()),
        };
        self.fanout(NOTIFICATIONS, &n).map(|_| ())
    }
}

fn encode<M: Serialize + ?Sized>(m: &M) -> Result<Bytes> {
    serde_json::to_vec(m).map(Into::into).map_err(|e| unreadable("message", e))
}

/// Both ends are programs of ours: an unreadable message is a bug or a mixed version.
fn unreadable(what: &str, e: serde_json::Error) -> Error {
    Error::internal(format!("bus: unreadable {what}")).caused_by(e)
}
