//! Keyed controllers: what must stay true is made true again, one key at a time.
//!
//! A key comes in from a wake-up, a timer or the periodic scan; [`Reconcile::reconcile`] reads
//! stored state, decides and acts. Nothing about a key is remembered in between except when to
//! look again.
//!
//! Invariants:
//! - One key is never reconciled twice at the same time; a wake-up during a run causes exactly one
//!   more run, which begins after that run ended and so sees whatever the wake-up announced.
//! - A wake-up is never lost: when too many distinct keys wait, the surplus is forgotten and a full
//!   scan follows as soon as there is room.
//! - Errors are repeated per key with exponential back-off; a panic counts as an error.
//!
//! Nothing is durable. After a crash the first scan, made at the start, finds everything.

use caelum_base::{Env, Error, Result};
use futures_util::FutureExt;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When a key wants to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something wakes it, or at the next scan.
    Done,
    /// After this time; an earlier wake-up comes first.
    Again(Duration),
}

/// A boxed future, so that the trait is object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Reads, decides, acts; idempotent. Use `Box::pin(async move { … })` in the methods.
pub trait Reconcile: Send + Sync + 'static {
    /// Makes one key right. A key that no longer exists is `Done`, not an error.
    fn reconcile<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Next>>;

    /// All keys that may need work.
    fn scan(&self) -> BoxFuture<'_, Result<Vec<String>>>;
}

/// Limits and periods of a controller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keys reconciled at the same time.
    pub concurrency: usize,
    /// Distinct keys that wake-ups may make wait, timers and back-offs included.
    pub queue: usize,
    /// Period of the full scan.
    pub scan: Duration,
    /// First and longest wait after an error.
    pub backoff: (Duration, Duration),
    /// Longest single run; then it is dropped and counts as an error.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 16,
            queue: 100_000,
            scan: Duration::from_secs(60),
            backoff: (Duration::from_millis(200), Duration::from_secs(60)),
            timeout: Duration::from_secs(300),
        }
    }
}

/// A handle on a running controller. Cheap to clone; the controller runs until
/// [`Controller::stop`] or until the last handle is dropped.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close(Duration::ZERO);
    }
}

struct Shared {
    name: &'static str,
    options: Options,
    env: Env,
    state: Mutex<State>,
    work: Notify,
    /// Changes whenever the controller may have become idle.
    settled: watch::Sender<u64>,
    stopped: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<String>,
    /// Timers and back-offs by time; the number keeps equal times apart.
    later: BTreeMap<(Instant, u64), String>,
    keys: HashMap<String, Key>,
    counter: u64,
    running: usize,
    /// Keys were forgotten, or it is time.
    scan_due: bool,
    scanning: bool,
    scan_failures: u32,
    /// Set when stopping: when running work is interrupted.
    close: Option<Instant>,
}

#[derive(Default)]
struct Key {
    place: Place,
    failures: u32,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Ready,
    Later((Instant, u64)),
    Running,
    /// Woken while running.
    RunningAgain,
}

impl Controller {
    /// Starts a controller; its first act is a scan.
    pub fn spawn(name: &'static str, env: Env, options: Options, reconcile: Arc<dyn Reconcile>) -> Self {
        let shared = Arc::new(Shared {
            name,
            options,
            env,
            state: Mutex::new(State { scan_due: true, ..State::default() }),
            work: Notify::new(),
            settled: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        });
        tokio::spawn(run(shared.clone(), reconcile));
        Self { _alive: Arc::new(Alive(shared.clone())), shared }
    }

    /// Asks for a look at the key soon. Never waits; may be called from anywhere.
    pub fn wake(&self, key: &str) {
        self.shared.wake(key);
    }

    /// Asks for a full scan soon.
    pub fn wake_all(&self) {
        self.shared.lock().scan_due = true;
        self.shared.work.notify_one();
    }

    /// Waits until nothing is queued, running or to be scanned. Timers ([`Next::Again`]) do not
    /// count, back-offs after errors do. Returns too when the controller stopped.
    pub async fn idle(&self) {
        let mut settled = self.shared.settled.subscribe();
        let mut stopped = self.shared.stopped.subscribe();
        loop {
            settled.mark_unchanged();
            if self.shared.lock().is_idle() {
                return;
            }
            tokio::select! {
                r = settled.changed() => if r.is_err() { return },
                _ = stopped.wait_for(|s| *s) => return,
            }
        }
    }

    /// Begins nothing more, lets running work end for at most `grace`, then interrupts it.
    pub async fn stop(&self, grace: Duration) {
        self.shared.close(grace);
        let _ = self.shared.stopped.subscribe().wait_for(|s| *s).await;
    }
}

impl State {
    fn is_idle(&self) -> bool {
        let retrying = self.keys.values().any(|k| k.failures > 0);
        self.ready.is_empty() && self.running == 0 && !self.scan_due && !self.scanning && !retrying
    }

    fn make_ready(&mut self, key: &str) {
        let Some(k) = self.keys.get_mut(key) else { return };
        if let Place::Later(at) = k.place {
            self.later.remove(&at);
        }
        k.place = Place::Ready;
        self.ready.push_back(key.to_string());
    }

    fn make_later(&mut self, key: &str, at: Instant) {
        self.counter += 1;
        let at = (at, self.counter);
        if let Some(k) = self.keys.get_mut(key) {
            k.place = Place::Later(at);
            self.later.insert(at, key.to_string());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, grace: Duration) {
        let mut s = self.lock();
        let at = Instant::now() + grace;
        s.close = Some(s.close.map_or(at, |c| c.min(at)));
        drop(s);
        self.work.notify_one();
    }

    fn wake(&self, key: &str) {
        self.admit(key, false);
    }

    /// Keys of a scan always find room: their number is that of real things, and a scan that
    /// overflowed would only cause the next.
    fn admit(&self, key: &str, scanned: bool) {
        let mut s = self.lock();
        match s.keys.get(key).map(|k| k.place) {
            Some(Place::Ready | Place::RunningAgain) => return,
            Some(Place::Running) => {
                if let Some(k) = s.keys.get_mut(key) {
                    k.place = Place::RunningAgain;
                }
                return;
            }
            Some(Place::Later(_)) => s.make_ready(key),
            None if !scanned && s.keys.len() >= self.options.queue => s.scan_due = true,
            None => {
                s.keys.insert(key.to_string(), Key::default());
                s.make_ready(key);
            }
        }
        drop(s);
        self.work.notify_one();
    }

    /// The next key to run, moved to running.
    fn pick(&self) -> Option<String> {
        let mut s = self.lock();
        let now = Instant::now();
        while let Some(entry) = s.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            s.make_ready(&key);
        }
        if s.running >= self.options.concurrency.max(1) {
            return None;
        }
        let key = s.ready.pop_front()?;
        if let Some(k) = s.keys.get_mut(&key) {
            k.place = Place::Running;
        }
        s.running += 1;
        Some(key)
    }

    /// Whether a scan is to begin; then marks it begun. After an overflow it waits for room, or it
    /// would only overflow again.
    fn begin_scan(&self) -> bool {
        let mut s = self.lock();
        let room = s.ready.len() <= self.options.queue / 2;
        let begin = s.scan_due && !s.scanning && room;
        if begin {
            s.scan_due = false;
            s.scanning = true;
        }
        begin
    }

    fn next_timer(&self) -> Option<Instant> {
        self.lock().later.first_key_value().map(|((at, _), _)| *at)
    }

    fn finished(&self, key: &str, result: Result<Next>) {
        let mut s = self.lock();
        s.running -= 1;
        let (mut again, mut failures) = (false, 0);
        if let Some(k) = s.keys.get_mut(key) {
            again = k.place == Place::RunningAgain;
            k.failures = if result.is_err() { k.failures.saturating_add(1) } else { 0 };
            failures = k.failures;
        }
        match result {
            // A wake-up brings news, and news is not made to wait for a back-off.
            _ if again => s.make_ready(key),
            Ok(Next::Done) => {
                s.keys.remove(key);
            }
            Ok(Next::Again(after)) => s.make_later(key, Instant::now() + after),
            Err(e) => {
                let wait = self.backoff(failures);
                tracing::warn!(controller = self.name, key, failures, retry_in_ms = wait.as_millis(), error = %e.chain(), "reconcile failed");
                s.make_later(key, Instant::now() + wait);
            }
        }
        drop(s);
        self.settled.send_modify(|n| *n += 1);
    }

    /// A random share between a half and all of the full wait, so that keys do not come in step.
    fn backoff(&self, failures: u32) -> Duration {
        let (first, longest) = self.options.backoff;
        let full = first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(longest);
        let r = self.env.bytes(1).first().copied().unwrap_or(0);
        full / 2 + full.mul_f64(f64::from(r) / 512.0)
    }

    /// Ends a scan; `Some` is when to repeat a failed one.
    fn scanned(&self, result: Result<Vec<String>>) -> Option<Duration> {
        let retry = match result {
            Ok(keys) => {
                self.lock().scan_failures = 0;
                for key in keys {
                    self.admit(&key, true);
                }
                None
            }
            Err(e) => {
                let mut s = self.lock();
                s.scan_failures = s.scan_failures.saturating_add(1);
                let failures = s.scan_failures;
                drop(s);
                tracing::warn!(controller = self.name, error = %e.chain(), "scan failed");
                Some(self.backoff(failures))
            }
        };
        self.lock().scanning = false;
        self.settled.send_modify(|n| *n += 1);
        retry
    }
}

async fn guarded<T>(limit: Duration, what: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, AssertUnwindSafe(what).catch_unwind()).await {
        Ok(Ok(r)) => r,
        Ok(Err(_)) => Err(Error::internal("a reconciler panicked")),
        Err(_) => Err(Error::timeout("a reconciler took too long")),
    }
}

enum Ended {
    Key(String, Result<Next>),
    Scan(Result<Vec<String>>),
}

async fn run(shared: Arc<Shared>, reconcile: Arc<dyn Reconcile>) {
    let mut tasks: JoinSet<Ended> = JoinSet::new();
    let limit = shared.options.timeout;
    let mut next_scan = Instant::now() + shared.options.scan;
    let until = loop {
        if let Some(until) = shared.lock().close {
            break until;
        }
        if shared.begin_scan() {
            next_scan = Instant::now() + shared.options.scan;
            let r = reconcile.clone();
            tasks.spawn(async move { Ended::Scan(guarded(limit, r.scan()).await) });
        }
        while let Some(key) = shared.pick() {
            let r = reconcile.clone();
            tasks.spawn(async move {
                let result = guarded(limit, r.reconcile(&key)).await;
                Ended::Key(key, result)
            });
        }
        let timer = shared.next_timer().map_or(next_scan, |t| t.min(next_scan));
        tokio::select! {
            () = shared.work.notified() => {}
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                Ok(Ended::Key(key, result)) => shared.finished(&key, result),
                Ok(Ended::Scan(result)) => if let Some(retry) = shared.scanned(result) {
                    next_scan = next_scan.min(Instant::now() + retry);
                },
                // Panics are caught inside; nobody aborts these tasks here.
                Err(e) => tracing::error!(controller = shared.name, error = %e, "a controller's task was lost"),
            },
            () = tokio::time::sleep_until(timer) => {
                if Instant::now() >= next_scan {
                    shared.lock().scan_due = true;
                    next_scan = Instant::now() + shared.options.scan;
                }
            }
        }
    };
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout_at(until, all).await.is_err() {
        tasks.shutdown().await;
    }
    shared.stopped.send_replace(true);
}
