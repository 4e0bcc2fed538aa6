//! The driver within one process.
//!
//! A topic is one bounded queue. Each server of it runs a dispatcher that takes a message only
//! when it may handle one more; so a message waits in the shared queue, not behind a busy server.

use crate::{Bytes, Driver, Guard, Next, Options, RawHandler, RawSubscription};
use async_trait::async_trait;
use caelum_base::{Error, Result, WireError};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};

/// Services of one process.
#[derive(Clone, Default)]
pub struct Memory {
    topics: Arc<Mutex<Topics>>,
}

#[derive(Default)]
struct Topics {
    queues: HashMap<String, Arc<Queue>>,
    subscribers: HashMap<String, Vec<Weak<Inbox>>>,
}

type Reply = oneshot::Sender<Result<Vec<u8>, WireError>>;

struct Envelope {
    message: Bytes,
    /// None for a cast.
    reply: Option<Reply>,
    /// The place in the queue, free again when the message is taken.
    _place: OwnedSemaphorePermit,
}

struct Queue {
    waiting: Mutex<VecDeque<Envelope>>,
    arrived: Notify,
    places: Arc<Semaphore>,
    /// Servers alive; 0 means that nobody will ever look.
    servers: Mutex<usize>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nobody(topic: &str) -> Error {
    Error::unavailable(format!("Nobody serves {topic}."))
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a message; waits for a place in the queue.
    async fn send(&self, topic: &str, message: Bytes, reply: Option<Reply>) -> Result<()> {
        let queue = lock(&self.topics).queues.get(topic).cloned().ok_or_else(|| nobody(topic))?;
        // Closed when the last server goes.
        let place = queue.places.clone().acquire_owned().await.map_err(|_| nobody(topic))?;
        let servers = lock(&queue.servers);
        if *servers == 0 {
            return Err(nobody(topic));
        }
        lock(&queue.waiting).push_back(Envelope { message, reply, _place: place });
        drop(servers);
        queue.arrived.notify_one();
        Ok(())
    }
}

struct Server {
    topics: Arc<Mutex<Topics>>,
    topic: String,
    queue: Arc<Queue>,
    dispatcher: AbortHandle,
}

impl Guard for Server {}

impl Drop for Server {
    fn drop(&mut self) {
        self.dispatcher.abort();
        let mut topics = lock(&self.topics);
        let mut servers = lock(&self.queue.servers);
        *servers -= 1;
        if *servers > 0 {
            // This server may have swallowed a wake-up.
            self.queue.arrived.notify_one();
            return;
        }
        self.queue.places.close();
        topics.queues.remove(&self.topic);
        // Dropping the reply ends tells the callers.
        lock(&self.queue.waiting).clear();
    }
}

async fn dispatch(queue: Arc<Queue>, handler: RawHandler, concurrency: usize) {
    // Dropping the set with this task aborts the handlers, whose callers then hear of it.
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        if running.len() >= concurrency {
            running.join_next().await;
            continue;
        }
        let next = lock(&queue.waiting).pop_front();
        let Some(envelope) = next else {
            queue.arrived.notified().await;
            continue;
        };
        if !lock(&queue.waiting).is_empty() {
            queue.arrived.notify_one();
        }
        if envelope.reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            continue;
        }
        let handler = handler.clone();
        running.spawn(async move {
            let Envelope { message, reply, _place } = envelope;
            drop(_place);
            let answer = handler(message).await;
            match reply {
                // The caller may have given up.
                Some(reply) => drop(reply.send(answer)),
                None => {
                    if let Err(e) = answer {
                        tracing::warn!(kind = e.kind, error = e.message, "bus: a cast failed");
                    }
                }
            }
        });
    }
}

#[async_trait]
impl Driver for Memory {
    fn serve(&self, topic: &str, handler: RawHandler, options: Options) -> Box<dyn Guard> {
        let mut topics = lock(&self.topics);
        let queue = topics.queues.entry(topic.to_string()).or_insert_with(|| {
            Arc::new(Queue {
                waiting: Mutex::default(),
                arrived: Notify::new(),
                places: Arc::new(Semaphore::new(options.queue.max(1))),
                servers: Mutex::new(0),
            })
        });
        *lock(&queue.servers) += 1;
        let queue = queue.clone();
        drop(topics);
        let dispatcher = tokio::spawn(dispatch(queue.clone(), handler, options.concurrency.max(1))).abort_handle();
        Box::new(Server { topics: self.topics.clone(), topic: topic.to_string(), queue, dispatcher })
    }

    async fn call(&self, topic: &str, message: Bytes, deadline: Duration) -> Result<Result<Vec<u8>, WireError>> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.send(topic, message, Some(reply)).await?;
            answer.await.map_err(|_| Error::unavailable(format!("{topic} went away before it answered.")))
        };
        let late = |_| Error::timeout(format!("{topic} did not answer in time."));
        tokio::time::timeout(deadline, exchange).await.map_err(late)?
    }

    async fn cast(&self, topic: &str, message: Bytes, deadline: Duration) -> Result<()> {
        let full = |_| Error::too_many(format!("{topic} has too much to do."));
        tokio::time::timeout(deadline, self.send(topic, message, None)).await.map_err(full)?
    }

    fn fanout(&self, topic: &str, message: Bytes) -> usize {
        let mut topics = lock(&self.topics);
        let Some(list) = topics.subscribers.get_mut(topic) else { return 0 };
        list.retain(|w| match w.upgrade() {
            Some(inbox) => {
                inbox.push(message.clone());
                true
            }
            None => false,
        });
        let n = list.len();
        if n == 0 {
            topics.subscribers.remove(topic);
        }
        n
    }

    fn subscribe(&self, topic: &str, queue: usize) -> Box<dyn RawSubscription> {
        let inbox = Arc::new(Inbox { limit: queue.max(1), state: Mutex::default(), arrived: Notify::new() });
        let mut topics = lock(&self.topics);
        let list = topics.subscribers.entry(topic.to_string()).or_default();
        list.retain(|w| w.strong_count() > 0);
        list.push(Arc::downgrade(&inbox));
        Box::new(Subscriber { inbox, _topics: self.topics.clone() })
    }
}

struct Inbox {
    limit: usize,
    state: Mutex<InboxState>,
    arrived: Notify,
}

#[derive(Default)]
struct InboxState {
    messages: VecDeque<Bytes>,
    missed: u64,
}

impl Inbox {
    fn push(&self, m: Bytes) {
        let mut s = lock(&self.state);
        if s.messages.len() >= self.limit {
            s.messages.pop_front();
            s.missed += 1;
        }
        s.messages.push_back(m);
        drop(s);
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Next<Bytes>> {
        let mut s = lock(&self.state);
        match std::mem::take(&mut s.missed) {
            0 => s.messages.pop_front().map(Next::Message),
            n => Some(Next::Missed(n)),
        }
    }
}

struct Subscriber {
    inbox: Arc<Inbox>,
    _topics: Arc<Mutex<Topics>>,
}

#[async_trait]
impl RawSubscription for Subscriber {
    async fn next(&mut self) -> Option<Next<Bytes>> {
        loop {
            if let Some(n) = self.inbox.take() {
                return Some(n);
            }
            self.inbox.arrived.notified().await;
        }
    }
}
