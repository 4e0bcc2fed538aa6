//! Picking, leases and hand-over; [`crate::drive`] executes.

use crate::drive::{self, Runner};
use crate::rows::{self, FlowInfo, NewFlow};
use crate::step::{Hook, Signal};
use crate::{Cause, Flow, FlowId, Outcome};
use caelum_base::{Env, Error, Result};
use caelum_store::{Db, Tx};
use std::collections::{HashMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// Time after its deadline that a flow may need to unwind before an audit speaks of it.
const OVERDUE: Duration = Duration::from_secs(300);

/// Limits and periods of an engine.
#[derive(Clone, Debug)]
pub struct FlowOptions {
    /// Steps that run at the same time. Flows that wait for a retry do not count.
    pub concurrency: usize,
    /// Flows held in memory at the same time; more wait in the table.
    pub active: usize,
    /// How long a flow stays ours without a sign of life.
    pub lease: Duration,
    /// Period of looking for orphans, cancels from elsewhere and leases to renew.
    pub poll: Duration,
    /// First and longest wait before a failed step is tried again.
    pub retry: (Duration, Duration),
    /// First and longest wait before a failed undo is tried again.
    pub undo_retry: (Duration, Duration),
    /// Longest single attempt of an undo.
    pub undo_attempt: Duration,
    /// Failed flows kept for operators.
    pub history: u32,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            concurrency: 256,
            active: 4_096,
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(5),
            retry: (Duration::from_millis(50), Duration::from_secs(10)),
            undo_retry: (Duration::from_millis(100), Duration::from_secs(30)),
            undo_attempt: Duration::from_secs(300),
            history: 1_000,
        }
    }
}

/// The flows of one service: the handle that starts and cancels them, and the engine. Cheap to
/// clone; may live inside the context `C` it runs with.
pub struct Flows<C> {
    pub(crate) core: Arc<Core>,
    kinds: Arc<RwLock<HashMap<&'static str, Arc<dyn Runner<C>>>>>,
    _context: PhantomData<fn(C)>,
}

impl<C> Clone for Flows<C> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), kinds: self.kinds.clone(), _context: PhantomData }
    }
}

/// What does not depend on the context.
pub(crate) struct Core {
    pub db: Db,
    pub env: Env,
    pub owner: String,
    pub options: FlowOptions,
    pub hook: Option<Hook>,
    pub slots: Semaphore,
    sched: Mutex<Sched>,
    work: Notify,
    phase: watch::Sender<Phase>,
    /// Counts flows that ended here.
    ended: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    /// Let running steps finish until then.
    Draining(Instant),
    Crashed,
    Stopped,
}

#[derive(Default)]
struct Sched {
    queue: VecDeque<(FlowId, bool)>,
    queued: HashSet<FlowId>,
    active: HashMap<FlowId, Active>,
}

struct Active {
    signal: watch::Sender<Signal>,
    /// 0 until the row was read.
    epoch: i64,
    /// Woken while active: look again afterwards.
    again: bool,
}

impl<C: Send + Sync + 'static> Flows<C> {
    /// `owner` names this engine for ever (the node's name); no two live engines may share it.
    pub fn new(db: Db, env: Env, owner: &str) -> Self {
        Self::with_options(db, env, owner, FlowOptions::default())
    }

    pub fn with_options(db: Db, env: Env, owner: &str, options: FlowOptions) -> Self {
        Self::build(db, env, owner, options, None)
    }

    /// An engine with failpoints, for tests.
    pub fn with_hook(db: Db, env: Env, owner: &str, options: FlowOptions, hook: Hook) -> Self {
        Self::build(db, env, owner, options, Some(hook))
    }

    fn build(db: Db, env: Env, owner: &str, options: FlowOptions, hook: Option<Hook>) -> Self {
        let core = Core {
            db,
            env,
            owner: owner.to_string(),
            slots: Semaphore::new(options.concurrency.max(1)),
            options,
            hook,
            sched: Mutex::default(),
            work: Notify::new(),
            phase: watch::Sender::new(Phase::Idle),
            ended: watch::Sender::new(0),
        };
        Self { core: Arc::new(core), kinds: Arc::default(), _context: PhantomData }
    }

    /// Makes a kind of flow known. Before [`Flows::spawn`]: rows of unknown kinds are left alone.
    #[must_use]
    pub fn register<F: Flow<C>>(self) -> Self {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert(F::KIND, drive::runner::<F, C>());
        self
    }

    fn runner(&self, kind: &str) -> Option<Arc<dyn Runner<C>>> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }

    /// Writes the flow in the caller's transaction; it begins after the commit. Flows of one
    /// resource run one after the other; an empty `resource_id` orders with nothing.
    pub fn start<F: Flow<C>>(&self, tx: &mut Tx<'_>, resource_id: &str, project_id: &str, flow: &F) -> Result<FlowId> {
        if self.runner(F::KIND).is_none() {
            return Err(Error::internal(format!("flow {} is not registered", F::KIND)));
        }
        let core = &self.core;
        let (id, now) = (core.env.uuid(), core.env.now());
        let ours = *core.phase.borrow() == Phase::Running;
        let new = NewFlow {
            id: &id,
            kind: F::KIND,
            resource_id,
            project_id,
            owner: if ours { &core.owner } else { "" },
            epoch: i64::from(ours),
            lease_until: if ours { now.plus(core.options.lease) } else { caelum_base::Timestamp(0) },
            deadline: now.plus(flow.deadline()),
            now,
            body: drive::to_body(flow)?,
        };
        rows::insert(tx, new)?;
        let (core, woken) = (self.core.clone(), id.clone());
        tx.after_commit(move || core.wake(woken, false));
        Ok(id)
    }

    /// Marks the running, cancellable flows of a resource in the caller's transaction; they unwind
    /// after the commit. Returns how many.
    pub fn cancel(&self, tx: &mut Tx<'_>, resource_id: &str) -> Result<usize> {
        let ids = rows::cancel(tx, resource_id, |kind| self.runner(kind).is_some_and(|r| r.cancellable()))?;
        let n = ids.len();
        let core = self.core.clone();
        tx.after_commit(move || ids.iter().for_each(|id| core.signal(id, |s| s.cancel = true)));
        Ok(n)
    }

    /// The unfinished and failed flows of a resource, oldest first.
    pub fn of_resource(&self, tx: &mut Tx<'_>, resource_id: &str) -> Result<Vec<FlowInfo>> {
        Ok(rows::of_resource(tx, resource_id)?.into_iter().map(|r| r.info).collect())
    }

    /// Whether a flow of the resource has not ended.
    pub fn busy(&self, tx: &mut Tx<'_>, resource_id: &str) -> Result<bool> {
        Ok(rows::first_of_resource(tx, resource_id, "")?.is_some())
    }

    /// Flows that should have ended long ago, one line each: something keeps their undos from
    /// succeeding. For audits.
    pub async fn overdue(&self) -> Result<Vec<String>> {
        let now = self.core.env.now();
        let rows = self.core.db.read(move |tx| rows::overdue(tx, now)).await?;
        let late = rows.into_iter().map(|r| r.info).filter(|i| now.since(i.deadline) > OVERDUE);
        Ok(late
            .map(|i| {
                format!("flow {} {} of {}: {} at step {}, due since {}", i.kind, i.id, i.resource_id, i.state, i.step, i.deadline.iso_z())
            })
            .collect())
    }

    /// Waits for the end of a flow. A flow without a row counts as done.
    pub async fn wait(&self, id: &str) -> Result<Outcome> {
        let mut ended = self.core.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let key = id.to_string();
            match self.core.db.read(move |tx| rows::get(tx, &key)).await? {
                None => return Ok(Outcome::Done),
                Some(r) if r.info.state == "failed" => return Ok(Outcome::Failed(rows::failure_from_json(r.error.as_deref()))),
                Some(_) => {}
            }
            // Another engine may end it; then only the table tells.
            let _ = tokio::time::timeout(Duration::from_millis(500), ended.changed()).await;
        }
    }

    /// Waits until no flow is unfinished. For tests.
    pub async fn idle(&self) -> Result<()> {
        let mut ended = self.core.ended.subscribe();
        loop {
            ended.mark_unchanged();
            if self.core.db.read(rows::unfinished).await? == 0 {
                return Ok(());
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), ended.changed()).await;
        }
    }

    /// Starts the engine. A second call does nothing.
    pub fn spawn(&self, context: Arc<C>) {
        let first = self.core.phase.send_if_modified(|p| {
            let first = *p == Phase::Idle;
            if first {
                *p = Phase::Running;
            }
            first
        });
        if first {
            tokio::spawn(self.clone().run(context));
        }
    }

    /// Stops picking, lets running steps finish for at most `grace`, interrupts the rest and gives
    /// the flows back.
    pub async fn stop(&self, grace: Duration) {
        let until = Instant::now() + grace;
        let mut phase = self.core.phase.subscribe();
        self.core.phase.send_if_modified(|p| {
            let next = match *p {
                Phase::Idle => Phase::Stopped,
                Phase::Running => Phase::Draining(until),
                other => other,
            };
            std::mem::replace(p, next) != next
        });
        let _ = phase.wait_for(|p| matches!(p, Phase::Stopped | Phase::Crashed)).await;
    }

    /// Waits until a hook made the engine crash.
    pub(crate) async fn crashed(&self) {
        let mut phase = self.core.phase.subscribe();
        let _ = phase.wait_for(|p| *p == Phase::Crashed).await;
    }

    async fn run(self, context: Arc<C>) {
        let core = self.core.clone();
        core.take_over().await;
        let mut phase = core.phase.subscribe();
        let mut tick = tokio::time::interval(core.options.poll);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = JoinSet::new();
        while *core.phase.borrow() == Phase::Running {
            while let Some((id, dirty, signal)) = core.pick() {
                tasks.spawn(self.clone().execute(context.clone(), id, dirty, signal));
            }
            tokio::select! {
                () = core.work.notified() => {}
                _ = phase.changed() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                _ = tick.tick() => {
                    if let Err(e) = core.tick().await {
                        tracing::warn!(error = %e.chain(), "flows: cannot look after the table");
                    }
                }
            }
        }
        let draining = *core.phase.borrow();
        if let Phase::Draining(until) = draining {
            core.drain(tasks, until).await;
        }
    }

    async fn execute(self, context: Arc<C>, id: FlowId, dirty: bool, signal: watch::Receiver<Signal>) {
        let core = self.core.clone();
        let guard = Leave { core: &core, id: &id };
        match self.adopt(&id).await {
            Ok(Some((row, runner))) => runner.drive(core.clone(), context, row, dirty, signal).await,
            Ok(None) => {}
            Err(e) => tracing::warn!(flow = id, error = %e.chain(), "flows: cannot read a flow; it is tried again"),
        }
        drop(guard);
    }

    /// Reads the row of a flow that is to run now and here.
    async fn adopt(&self, id: &str) -> Result<Option<(rows::FlowRow, Arc<dyn Runner<C>>)>> {
        let key = id.to_string();
        let read = move |tx: &mut Tx<'_>| {
            let Some(row) = rows::get(tx, &key)? else { return Ok(None) };
            let before = match row.info.resource_id.as_str() {
                "" => None,
                r => rows::first_of_resource(tx, r, &key)?,
            };
            let blocked = before.is_some_and(|(_, t)| t < row.info.created_at.0);
            Ok((!blocked).then_some(row))
        };
        let Some(row) = self.core.db.read(read).await? else { return Ok(None) };
        if row.info.owner != self.core.owner || row.info.state == "failed" {
            return Ok(None);
        }
        let Some(runner) = self.runner(&row.info.kind) else {
            tracing::error!(flow = id, kind = row.info.kind, "flows: nobody knows this kind of flow; it waits");
            return Ok(None);
        };
        self.core.adopted(id, row.epoch, row.cancel);
        Ok(Some((row, runner)))
    }
}

struct Leave<'a> {
    core: &'a Core,
    id: &'a str,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let again = self.core.lock().active.remove(self.id).is_some_and(|a| a.again);
        if again {
            self.core.wake(self.id.to_string(), true);
        }
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Sched> {
        self.sched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a flow. The queue is bounded: what does not fit is found by the next poll.
    pub fn wake(&self, id: FlowId, dirty: bool) {
        let mut s = self.lock();
        if let Some(a) = s.active.get_mut(&id) {
            a.again = true;
        } else if s.queue.len() < self.options.active && s.queued.insert(id.clone()) {
            s.queue.push_back((id, dirty));
        }
        drop(s);
        self.work.notify_one();
    }

    fn signal(&self, id: &str, f: impl Fn(&mut Signal)) {
        if let Some(a) = self.lock().active.get(id) {
            a.signal.send_modify(f);
        }
    }

    fn signal_all(&self, f: impl Fn(&mut Signal)) {
        self.lock().active.values().for_each(|a| a.signal.send_modify(&f));
    }

    fn pick(&self) -> Option<(FlowId, bool, watch::Receiver<Signal>)> {
        let mut s = self.lock();
        if s.active.len() >= self.options.active {
            return None;
        }
        let (id, dirty) = s.queue.pop_front()?;
        s.queued.remove(&id);
        let (signal, rx) = watch::channel(Signal::default());
        s.active.insert(id.clone(), Active { signal, epoch: 0, again: false });
        Some((id, dirty, rx))
    }

    fn adopted(&self, id: &str, epoch: i64, cancel: bool) {
        if let Some(a) = self.lock().active.get_mut(id) {
            a.epoch = epoch;
            if cancel {
                a.signal.send_modify(|s| s.cancel = true);
            }
        }
    }

    pub fn ended(&self) {
        self.ended.send_modify(|n| *n += 1);
    }

    /// As if the process had died.
    pub fn crash(&self) {
        self.phase.send_replace(Phase::Crashed);
        self.signal_all(|s| s.kill = true);
    }

    /// A random share between a half and all of `first * 2^n`, at most `longest`: retries of many
    /// flows must not come in step.
    pub fn backoff(&self, (first, longest): (Duration, Duration), n: u32) -> Duration {
        let full = first.saturating_mul(2u32.saturating_pow(n)).min(longest);
        let r = self.env.bytes(1).first().copied().unwrap_or(0);
        full / 2 + full.mul_f64(f64::from(r) / 512.0)
    }

    /// Takes what the previous engine of this name left; repeats until the database answers.
    async fn take_over(&self) {
        let mut n = 0;
        loop {
            let (owner, lease, now) = (self.owner.clone(), self.options.lease, self.env.now());
            let claimed = self.db.write(move |tx| rows::claim(tx, &owner, true, now, lease)).await;
            match claimed {
                Ok(_) => return,
                Err(e) if *self.phase.borrow() == Phase::Running => {
                    tracing::warn!(error = %e.chain(), "flows: cannot take over unfinished flows");
                    tokio::time::sleep(self.backoff(self.options.retry, n)).await;
                    n += 1;
                }
                Err(_) => return,
            }
        }
    }

    async fn tick(&self) -> Result<()> {
        let now = self.env.now();
        let (owner, keep) = (self.owner.clone(), i64::from(self.options.history));
        let running: Vec<(FlowId, i64)> = self.lock().active.iter().map(|(id, a)| (id.clone(), a.epoch)).collect();
        let (expired, prune) = self.db.read(move |tx| Ok((rows::expired(tx, now)?, rows::prune_before(tx, keep)?))).await?;
        let owned = self.db.read(move |tx| rows::owned(tx, &owner)).await?;
        let by_id: HashMap<&str, &rows::Owned> = owned.iter().map(|o| (o.id.as_str(), o)).collect();
        for (id, epoch) in running.iter().filter(|(_, e)| *e > 0) {
            match by_id.get(id.as_str()) {
                Some(o) if o.epoch == *epoch => {
                    if o.cancel {
                        self.signal(id, |s| s.cancel = true);
                    }
                }
                _ => self.signal(id, |s| s.lost = true),
            }
        }
        let soon = now.plus(self.options.lease * 2 / 3);
        if owned.iter().any(|o| o.lease_until < soon) {
            let (owner, until) = (self.owner.clone(), now.plus(self.options.lease));
            self.db.write(move |tx| rows::renew(tx, &owner, until)).await?;
        }
        if expired > 0 {
            let (owner, lease) = (self.owner.clone(), self.options.lease);
            let n = self.db.write(move |tx| rows::claim(tx, &owner, false, now, lease)).await?;
            tracing::info!(flows = n, "flows: took over orphans");
        }
        if let Some(before) = prune {
            self.db.write(move |tx| rows::prune(tx, before)).await?;
        }
        let owner = self.owner.clone();
        for o in self.db.read(move |tx| rows::owned(tx, &owner)).await? {
            let known = self.lock().active.contains_key(&o.id);
            if !known {
                self.wake(o.id, true);
            }
        }
        Ok(())
    }

    async fn drain(&self, mut tasks: JoinSet<()>, until: Instant) {
        self.signal_all(|s| s.drain = true);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, all).await.is_err() {
            self.signal_all(|s| s.kill = true);
            while tasks.join_next().await.is_some() {}
        }
        let owner = self.owner.clone();
        if let Err(e) = self.db.write(move |tx| rows::release(tx, &owner)).await {
            tracing::warn!(error = %e.chain(), "flows: cannot give flows back; their leases run out");
        }
        self.phase.send_replace(Phase::Stopped);
    }
}

pub(crate) fn describe(cause: Cause) -> Error {
    match cause {
        Cause::Cancelled => Error::conflict("The operation was cancelled.").code("cancelled"),
        Cause::Deadline | Cause::Error => Error::timeout("The operation did not finish in time.").code("deadline"),
    }
}
