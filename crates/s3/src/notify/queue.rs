//! Events on their way to where they are told.
//!
//! Invariants: an event waits in memory and, when there is a directory for it, in a file, so that it outlives this
//! process (not a power failure: files are not synced). Everything is limited: events and bytes in all, events of one
//! destination, so that one that does not answer takes no place from others, and the time that an event is tried for.
//! Events of a destination go out in order; a destination that fails is left alone for a growing while. An event whose
//! answer was lost is sent again: who is told may be told twice.

use super::amqp::{Broker, Publisher};
use super::{EventOptions, Webhooks};
use bytes::Bytes;
use caelum_base::{Env, Error, ErrorKind, Result, Timestamp};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

pub const MAX_EVENTS: usize = 10_000;
/// Of one destination.
pub const MAX_LANE: usize = 2000;
const MAX_BYTES: usize = 32 << 20;
/// Destinations that are told at the same time.
const AT_ONCE: usize = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const MAX_AGE: Duration = Duration::from_secs(86_400);

struct Item {
    file: Option<PathBuf>,
    made: Timestamp,
    body: Bytes,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Item>,
    n_failures: u32,
    not_before: Option<Instant>,
    is_busy: bool,
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, Lane>,
    n_events: usize,
    n_bytes: usize,
    n_made: u64,
}

pub struct Queue {
    env: Env,
    started: Timestamp,
    options: EventOptions,
    state: Mutex<State>,
    wake: Notify,
}

impl State {
    fn has_room(&self, to: &str, body: &Bytes) -> bool {
        let lane = self.lanes.get(to).map_or(0, |l| l.waiting.len());
        self.n_events < MAX_EVENTS && lane < MAX_LANE && self.n_bytes + body.len() <= MAX_BYTES
    }

    fn add(&mut self, to: &str, item: Item) {
        self.n_events += 1;
        self.n_bytes += item.body.len();
        self.lanes.entry(to.to_string()).or_default().waiting.push_back(item);
    }

    /// A destination whose turn it is, and when else one will be.
    fn due(&mut self, now: Instant) -> (Option<String>, Option<Instant>) {
        let mut next: Option<Instant> = None;
        for (to, lane) in &mut self.lanes {
            if lane.is_busy || lane.waiting.is_empty() {
                continue;
            }
            match lane.not_before.filter(|t| *t > now) {
                Some(t) => next = Some(next.map_or(t, |n| n.min(t))),
                None => {
                    lane.is_busy = true;
                    return (Some(to.clone()), None);
                }
            }
        }
        (None, next)
    }
}

impl Queue {
    pub fn new(env: Env, options: EventOptions) -> Self {
        Self { started: env.now(), env, options, state: Mutex::default(), wake: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Takes an event; says so in the log when there is no room for it.
    pub async fn push(&self, to: String, body: Bytes) {
        let n = {
            let mut state = self.state();
            state.n_made += 1;
            if !state.has_room(&to, &body) {
                tracing::warn!(to = shown(&to), "an event is lost: too many wait");
                return;
            }
            state.n_made
        };
        let made = self.env.now();
        let file = match &self.options.spool {
            None => None,
            Some(dir) => {
                let path = dir.join(format!("{:016x}-{n:08x}.json", made.0));
                let text = json!({"to": to, "made": made.0, "body": String::from_utf8_lossy(&body)}).to_string();
                let written = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || write(&path, &text)
                });
                match written.await {
                    Ok(Ok(())) => Some(path),
                    Ok(Err(e)) => {
                        tracing::warn!(error = %e, "an event waits in memory only");
                        None
                    }
                    Err(_) => None,
                }
            }
        };
        self.state().add(&to, Item { file, made, body });
        self.wake.notify_one();
    }

    /// Delivers until it is dropped, first what an earlier process has left.
    pub async fn run(self: Arc<Self>) {
        if let Some(dir) = self.options.spool.clone() {
            // Later ones are this process's own, which it knows.
            let before = format!("{:016x}", self.started.0);
            let left = tokio::task::spawn_blocking(move || read(&dir, &before)).await.unwrap_or_default();
            let mut state = self.state();
            for (to, item) in left {
                if state.has_room(&to, &item.body) {
                    state.add(&to, item);
                }
            }
        }
        let mut running = tokio::task::JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            let (due, next) = if running.len() < AT_ONCE { self.state().due(Instant::now()) } else { (None, None) };
            if let Some(to) = due {
                running.spawn(self.clone().lane(to));
                continue;
            }
            let sleep = tokio::time::sleep_until(next.unwrap_or_else(|| Instant::now() + LONGEST_PAUSE));
            tokio::select! {
                () = self.wake.notified() => {}
                _ = running.join_next(), if !running.is_empty() => {}
                () = sleep => {}
            }
        }
    }

    /// Tells one destination what waits for it, until there is no more or it fails.
    async fn lane(self: Arc<Self>, to: String) {
        let mut destination = Destination::of(&to, &self.options);
        loop {
            let first = {
                let mut state = self.state();
                let Some(lane) = state.lanes.get_mut(&to) else { return };
                match lane.waiting.front() {
                    Some(i) => (i.body.clone(), i.made),
                    None => {
                        state.lanes.remove(&to);
                        return;
                    }
                }
            };
            let (body, made) = first;
            let result = match &mut destination {
                Ok(d) => d.tell(&self.options, &format!("{:016x}", made.0), &body).await,
                Err(e) => Err(Error::invalid(e.message.clone())),
            };
            let is_old = self.env.now().since(made) > MAX_AGE;
            match result {
                Ok(()) => {}
                Err(e) if e.kind == ErrorKind::Invalid || is_old => {
                    tracing::warn!(to = shown(&to), error = e.chain(), "an event is lost");
                }
                Err(e) => {
                    tracing::info!(to = shown(&to), error = e.chain(), "an event waits");
                    let mut state = self.state();
                    let Some(lane) = state.lanes.get_mut(&to) else { return };
                    let pause = self.options.retry.saturating_mul(1 << lane.n_failures.min(16)).min(LONGEST_PAUSE);
                    lane.n_failures += 1;
                    lane.not_before = Some(Instant::now() + pause);
                    lane.is_busy = false;
                    return;
                }
            }
            self.done(&to).await;
        }
    }

    /// Forgets the first event of a destination.
    async fn done(&self, to: &str) {
        let item = {
            let mut state = self.state();
            let item = state.lanes.get_mut(to).and_then(|l| {
                l.n_failures = 0;
                l.waiting.pop_front()
            });
            if let Some(i) = &item {
                state.n_events -= 1;
                state.n_bytes -= i.body.len();
            }
            item
        };
        if let Some(file) = item.and_then(|i| i.file) {
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(file)).await;
            if let Ok(Err(e)) = removed {
                tracing::warn!(error = %e, "an event that was told is told again after a restart");
            }
        }
    }
}

/// What of a destination may stand in the log: URLs may hold a secret in their path.
fn shown(to: &str) -> &str {
    let Some((_, rest)) = to.split_once("://") else { return to };
    let end = rest.find(['/', '?']).map_or(to.len(), |n| to.len() - rest.len() + n);
    &to[..end]
}

enum Destination {
    Webhook { url: String, webhooks: Webhooks },
    Broker { broker: Box<Broker>, open: Option<Publisher> },
}

impl Destination {
    fn of(to: &str, options: &EventOptions) -> Result<Self> {
        if to.contains("://") {
            let webhooks = options.webhooks.clone().ok_or_else(|| Error::invalid("Webhooks are switched off."))?;
            return Ok(Self::Webhook { url: to.into(), webhooks });
        }
        let broker = options.brokers.get(to).ok_or_else(|| Error::invalid("There is no such destination any more."))?;
        Ok(Self::Broker { broker: Box::new(broker.clone()), open: None })
    }

    /// Errors: `Invalid` for what will never be taken; others may be tried again.
    async fn tell(&mut self, options: &EventOptions, id: &str, body: &Bytes) -> Result<()> {
        match self {
            Self::Webhook { url, webhooks } => {
                let status = caelum_safeio::fetch::post(url, &webhooks.policy_for(url), "application/json", body.clone()).await?;
                match status {
                    200..300 => Ok(()),
                    408 | 425 | 429 | 500.. => Err(Error::unavailable(format!("The webhook answered with status {status}."))),
                    _ => Err(Error::invalid(format!("The webhook answered with status {status}."))),
                }
            }
            Self::Broker { broker, open } => {
                let mut publisher = match open.take() {
                    Some(p) => p,
                    None => Publisher::open(broker, options.tls.as_ref()).await?,
                };
                publisher.publish(broker, id, body).await?;
                *open = Some(publisher);
                Ok(())
            }
        }
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = path.with_extension("new");
    let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    std::io::Write::write_all(&mut f, text.as_bytes())?;
    std::fs::rename(new, path)
}

/// What has waited in a directory since before a time, oldest first. What cannot be read is left there.
fn read(dir: &Path, before: &str) -> Vec<(String, Item)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    names.retain(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n < before));
    names.sort();
    names.truncate(MAX_EVENTS);
    let one = |path: &PathBuf| {
        let v: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let made = Timestamp(v.get("made")?.as_i64()?);
        let body = Bytes::from(v.get("body")?.as_str()?.to_string());
        Some((v.get("to")?.as_str()?.to_string(), Item { file: Some(path.clone()), made, body }))
    };
    names.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged() {
        assert_eq!(shown("https://h.example:1/secret?x"), "https://h.example:1");
        assert_eq!(shown("http://h?x"), "http://h");
        assert_eq!(shown("name"), "name");
    }

    fn queue(spool: Option<PathBuf>) -> Arc<Queue> {
        let webhooks = Webhooks::parse(&["127.0.0.0/8".to_string()], None).unwrap();
        let retry = Duration::from_millis(20);
        Arc::new(Queue::new(Env::system(), EventOptions { webhooks, spool, retry, ..EventOptions::default() }))
    }

    /// Answers with each of these in turn, then 200; gives what it was told.
    async fn hook(answers: &'static [u16]) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut answers = answers.iter().copied().chain(std::iter::repeat(200));
            while let Ok((mut s, _)) = listener.accept().await {
                let mut all = String::new();
                let mut b = [0; 4096];
                while !all.ends_with('}') {
                    match s.read(&mut b).await {
                        Ok(n) if n > 0 => all.push_str(&String::from_utf8_lossy(&b[..n])),
                        _ => break,
                    }
                }
                let _ = tx.send(all[all.find('{').unwrap_or(0)..].to_string());
                let status = answers.next().unwrap_or(200);
                let _ = s.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        });
        (url, rx)
    }

    async fn told(rx: &mut tokio::sync::mpsc::UnboundedReceiver<String>) -> String {
        tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn failures_are_tried_again_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let q = queue(Some(dir.path().join("spool")));
        let run = tokio::spawn(q.clone().run());
        // 503 is tried again, 400 is not.
        let (url, mut rx) = hook(&[503, 500, 200, 400]).await;
        for n in 1..=3 {
            q.push(url.clone(), Bytes::from(format!("{{\"n\":{n}}}"))).await;
        }
        for n in [1, 1, 1, 2, 3] {
            assert_eq!(told(&mut rx).await, format!("{{\"n\":{n}}}"));
        }
        while !q.state().lanes.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let state = q.state();
        assert_eq!((state.n_events, state.n_bytes), (0, 0));
        assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
        run.abort();
    }

    #[tokio::test]
    async fn events_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (url, mut rx) = hook(&[]).await;
        let q = queue(Some(dir.path().into()));
        q.push(url.clone(), Bytes::from_static(b"{\"n\":1}")).await;
        q.push(url, Bytes::from_static(b"{\"n\":2}")).await;
        std::fs::write(dir.path().join("0.json"), "rubbish").unwrap();
        drop(q);
        let run = tokio::spawn(queue(Some(dir.path().into())).run());
        assert_eq!((told(&mut rx).await, told(&mut rx).await), ("{\"n\":1}".into(), "{\"n\":2}".into()));
        run.abort();
    }

    #[tokio::test]
    async fn room_is_limited() {
        let q = queue(None);
        for _ in 0..MAX_LANE + 5 {
            q.push("http://127.0.0.1:1/".into(), Bytes::from_static(b"{}")).await;
        }
        assert_eq!(q.state().n_events, MAX_LANE);
        q.push("http://127.0.0.1:2/".into(), Bytes::from_static(b"{}")).await;
        assert_eq!(q.state().n_events, MAX_LANE + 1, "another destination has room");
        q.push("http://127.0.0.1:3/".into(), Bytes::from(vec![b'x'; MAX_BYTES])).await;
        assert_eq!(q.state().n_events, MAX_LANE + 1);
    }
}
