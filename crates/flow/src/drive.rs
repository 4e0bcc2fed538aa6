//! Executes one flow: forward, or back.
//!
//! `Exec::at` always mirrors the row's position; every write is conditional on it, so a write that
//! was applied although its answer got lost is never applied twice.

use crate::engine::{Core, describe};
use crate::rows::{self, Fence, FlowRow};
use crate::step::{Act, Point, Run, Signal, TxRunFn, TxUndoFn, Undo};
use crate::{Cause, Failure, Flow, Step, StepCx};
use caelum_base::{Error, ErrorKind, Result};
use caelum_store::Tx;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::watch;

/// A kind of flow with its type hidden.
pub(crate) trait Runner<C>: Send + Sync {
    fn cancellable(&self) -> bool;
    fn drive(&self, core: Arc<Core>, app: Arc<C>, row: FlowRow, dirty: bool, signal: watch::Receiver<Signal>) -> BoxFuture<'static, ()>;
}

struct Kind<F, C> {
    steps: Arc<[Step<F, C>]>,
}

pub(crate) fn runner<F: Flow<C>, C: Send + Sync + 'static>() -> Arc<dyn Runner<C>> {
    Arc::new(Kind { steps: F::steps().into() })
}

pub(crate) fn to_body<F: serde::Serialize>(flow: &F) -> Result<String> {
    serde_json::to_string(flow).map_err(|e| Error::internal("flow does not serialise").caused_by(e))
}

impl<F: Flow<C>, C: Send + Sync + 'static> Runner<C> for Kind<F, C> {
    fn cancellable(&self) -> bool {
        F::CANCELLABLE
    }

    fn drive(&self, core: Arc<Core>, app: Arc<C>, row: FlowRow, dirty: bool, signal: watch::Receiver<Signal>) -> BoxFuture<'static, ()> {
        let steps = self.steps.clone();
        async move {
            let state: F = match serde_json::from_str(&row.body) {
                Ok(s) => s,
                Err(e) => {
                    tracing::error!(flow = row.info.id, kind = F::KIND, error = %e, "flows: unreadable state; the flow waits for a program that can read it");
                    return;
                }
            };
            let cx = StepCx {
                app,
                db: core.db.clone(),
                env: core.env.clone(),
                flow_id: row.info.id.as_str().into(),
                resource_id: row.info.resource_id.as_str().into(),
                deadline: row.info.deadline,
                attempt: 1,
                signal,
            };
            let running = row.info.state == "running";
            let fence = Fence {
                id: row.info.id.clone(),
                owner: row.info.owner.clone(),
                epoch: row.epoch,
                state: if running { "running" } else { "unwinding" },
                step: i64::try_from(row.info.step).unwrap_or(0),
            };
            let mut exec = Exec { core, cx, steps, state: Arc::new(state), at: fence, began: false };
            let end = if running { exec.forward(row.info.step, dirty).await } else { Ok(rows::failure_from_json(row.error.as_deref())) };
            let end = match end {
                Ok(failure) => exec.unwind(failure).await,
                Err(halt) => Err(halt),
            };
            match end {
                Err(Halt::Lost) => tracing::warn!(flow = row.info.id, kind = F::KIND, "flows: the flow has another owner now"),
                Err(Halt::Done | Halt::Drain | Halt::Crash) | Ok(()) => {}
            }
        }
        .boxed()
    }
}

/// Why an execution ends without anything left to do here.
#[derive(Debug)]
enum Halt {
    Done,
    Lost,
    Drain,
    Crash,
}

enum Attempt<T> {
    Ok(T),
    Err(Error),
    /// Stopped in the middle.
    Cut(Cause),
}

/// How a step ended: on to the next with a new state, or the failure with the number of steps to
/// take back.
enum Moved {
    On,
    Failed(Failure, usize),
}

struct Exec<F, C> {
    core: Arc<Core>,
    cx: StepCx<C>,
    steps: Arc<[Step<F, C>]>,
    state: Arc<F>,
    at: Fence,
    /// The running attempt reached code that has effects outside a transaction.
    began: bool,
}

/// Whether an error leaves open that something changed.
fn uncertain(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Internal)
}

fn index(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl<F: Flow<C>, C: Send + Sync + 'static> Exec<F, C> {
    fn hook(&self, p: Point) -> Act {
        match &self.core.hook {
            Some(h) => h(p),
            None => Act::Go,
        }
    }

    fn crash(&self) -> Halt {
        self.core.crash();
        Halt::Crash
    }

    fn stop_between_steps(&self) -> Option<Cause> {
        if self.cx.signal.borrow().cancel {
            return Some(Cause::Cancelled);
        }
        self.cx.time_left().is_zero().then_some(Cause::Deadline)
    }

    fn halted(&self) -> Option<Halt> {
        let s = *self.cx.signal.borrow();
        if s.lost {
            return Some(Halt::Lost);
        }
        (s.drain || s.kill).then_some(Halt::Drain)
    }

    /// Steps from `first` on. `Ok` means the flow failed and the row says that it unwinds.
    async fn forward(&mut self, first: usize, dirty: bool) -> Result<Failure, Halt> {
        // After an interruption every step up to the first that saves may have had effects.
        let mut touched = if dirty { self.first_saved(first) + 1 } else { first };
        let mut i = first;
        let (failure, undo) = loop {
            if let Some(h) = self.halted() {
                return Err(h);
            }
            if let Some(cause) = self.stop_between_steps() {
                break (self.failure(cause, i, None), touched.max(i));
            }
            if i >= self.steps.len() {
                // Only reached by a flow without steps or with a shorter list than its row.
                match self.commit(i, None).await? {
                    Moved::On => return Err(Halt::Done),
                    Moved::Failed(f, n) => break (f, n),
                }
            }
            match self.step(i, touched > i).await? {
                Moved::On => {
                    i += 1;
                    touched = touched.max(i);
                    if i == self.steps.len() {
                        return Err(Halt::Done);
                    }
                }
                Moved::Failed(f, n) => break (f, n.max(touched)),
            }
        };
        tracing::info!(flow = self.at.id, kind = F::KIND, step = failure.step, cause = ?failure.cause, error = %failure.error.chain(), "flow failed; unwinding");
        self.begin_unwind(&failure, undo.min(self.steps.len())).await?;
        Ok(failure)
    }

    fn first_saved(&self, from: usize) -> usize {
        let at = self.steps.iter().skip(from).position(|s| s.save);
        at.map_or(self.steps.len().saturating_sub(1), |n| from + n)
    }

    fn failure(&self, cause: Cause, i: usize, last: Option<Error>) -> Failure {
        let step = self.steps.get(i).or(self.steps.last()).map_or("", |s| s.name).to_string();
        let error = match (cause, last) {
            (Cause::Deadline, Some(e)) => {
                Error::timeout(format!("The operation did not finish in time. {}", e.message)).code("deadline").caused_by(e)
            }
            (Cause::Error, Some(e)) => e,
            _ => describe(cause),
        };
        Failure { cause, step, error }
    }

    /// Attempts of step `i` and the write after it. `dirty`: an earlier attempt may have had
    /// effects.
    async fn step(&mut self, i: usize, mut dirty: bool) -> Result<Moved, Halt> {
        let steps = self.steps.clone();
        let step = &steps[i];
        let mut last = None;
        let mut attempt = 0u32;
        loop {
            attempt += 1;
            self.cx.attempt = attempt;
            self.began = false;
            let undo_to = |dirty: bool| if dirty { i + 1 } else { i };
            let error = match self.attempt(i, step).await? {
                Attempt::Ok(None) => return Ok(Moved::On),
                Attempt::Ok(Some(state)) => {
                    self.state = Arc::new(state);
                    if !step.save && i + 1 < steps.len() {
                        return Ok(Moved::On);
                    }
                    return self.commit(i + 1, None).await;
                }
                Attempt::Cut(cause) => return Ok(Moved::Failed(self.failure(cause, i, last), undo_to(dirty || self.began))),
                Attempt::Err(e) => e,
            };
            dirty |= uncertain(&error);
            if !error.is_retryable() || attempt >= step.attempts {
                return Ok(Moved::Failed(self.failure(Cause::Error, i, Some(error)), undo_to(dirty)));
            }
            tracing::debug!(flow = self.at.id, step = step.name, attempt, error = %error.chain(), "step is tried again");
            last = Some(error);
            let wait = self.core.backoff(self.core.options.retry, attempt - 1);
            if let Attempt::Cut(cause) = self
                .interruptible(
                    async {
                        tokio::time::sleep(wait).await;
                        Ok(())
                    },
                    true,
                )
                .await?
            {
                return Ok(Moved::Failed(self.failure(cause, i, last), undo_to(dirty)));
            }
        }
    }

    /// One attempt. `Ok(None)`: a transaction step, already committed.
    async fn attempt(&mut self, i: usize, step: &Step<F, C>) -> Result<Attempt<Option<F>>, Halt> {
        let core = self.core.clone();
        let slot = self.interruptible(async { core.slots.acquire().await.map_err(|_| Error::unavailable("stopping")) }, true).await?;
        let _slot = match slot {
            Attempt::Ok(p) => p,
            Attempt::Err(e) => return Ok(Attempt::Err(e)),
            Attempt::Cut(c) => return Ok(Attempt::Cut(c)),
        };
        if let Some(h) = self.halted() {
            return Err(h);
        }
        match self.hook(Point::BeforeStep(i)) {
            Act::Fail(e) => return Ok(Attempt::Err(e)),
            Act::Crash => return Err(self.crash()),
            Act::Go | Act::Repeat => {}
        }
        let run = match &step.run {
            Run::Async(run) => run,
            Run::Tx(f) => {
                return Ok(match self.commit(i + 1, Some(f.clone())).await? {
                    Moved::On => Attempt::Ok(None),
                    Moved::Failed(f, _) => match f.cause {
                        Cause::Error => Attempt::Err(f.error),
                        cause => Attempt::Cut(cause),
                    },
                });
            }
        };
        self.began = true;
        loop {
            let fut = run(self.cx.clone(), (*self.state).clone());
            let r = self.interruptible(fut, true).await?;
            let Attempt::Ok(state) = r else {
                return Ok(match r {
                    Attempt::Err(e) => Attempt::Err(e),
                    Attempt::Cut(c) => Attempt::Cut(c),
                    Attempt::Ok(s) => Attempt::Ok(Some(s)),
                });
            };
            match self.hook(Point::AfterStep(i)) {
                Act::Go => return Ok(Attempt::Ok(Some(state))),
                Act::Fail(e) => return Ok(Attempt::Err(e)),
                Act::Crash => return Err(self.crash()),
                Act::Repeat => {}
            }
        }
    }

    /// Runs `fut` until it ends or something stops it; panics become errors.
    async fn interruptible<T>(&self, fut: impl Future<Output = Result<T>>, forward: bool) -> Result<Attempt<T>, Halt> {
        let mut signal = self.cx.signal.clone();
        let left = self.cx.time_left();
        let stop = async move {
            if signal.wait_for(|s| s.lost || s.kill || (forward && s.cancel)).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let guarded = AssertUnwindSafe(fut).catch_unwind();
        tokio::select! {
            biased;
            () = stop => {
                let s = *self.cx.signal.borrow();
                if s.lost {
                    Err(Halt::Lost)
                } else if s.kill {
                    Err(Halt::Drain)
                } else {
                    Ok(Attempt::Cut(Cause::Cancelled))
                }
            }
            r = guarded => Ok(match r {
                Ok(Ok(v)) => Attempt::Ok(v),
                Ok(Err(e)) => Attempt::Err(e),
                Err(_) => Attempt::Err(Error::internal("a step panicked")),
            }),
            () = tokio::time::sleep(left), if forward => Ok(Attempt::Cut(Cause::Deadline)),
        }
    }

    /// Saves that `next` steps are done, with the effects of a transaction step; after the last
    /// step also ends the flow.
    async fn commit(&mut self, next: usize, run: Option<TxRunFn<F, C>>) -> Result<Moved, Halt> {
        let last = next >= self.steps.len();
        let mut n = 0;
        loop {
            let (state, cx, at, run) = (self.state.clone(), self.cx.clone(), self.at.clone(), run.clone());
            let ran_tx = run.is_some();
            let core = self.core.clone();
            let write = move |tx: &mut Tx<'_>| {
                let mut s = (*state).clone();
                if let Some(run) = &run {
                    run(tx, &cx, &mut s)?;
                }
                if last {
                    rows::finish(tx, &at)?;
                    s.on_done(tx, &cx)?;
                    wake_next(tx, &core, &cx.resource_id, &at.id)?;
                } else {
                    rows::save(tx, &at, cx.env.now(), "running", index(next), None, to_body(&s)?)?;
                }
                Ok(s)
            };
            match self.core.db.write(write).await {
                Ok(s) => {
                    self.state = Arc::new(s);
                    self.at.step = index(next);
                    if last {
                        self.core.ended();
                    }
                    self.after_write()?;
                    return Ok(Moved::On);
                }
                Err(e) if e.code == rows::LOST => return Err(Halt::Lost),
                Err(e) if e.code == rows::CANCELLED => {
                    return Ok(Moved::Failed(self.failure(Cause::Cancelled, next.saturating_sub(1), None), next));
                }
                // A transaction step retries as any step does; a plain save repeats here, because
                // the step itself must not.
                Err(e) if ran_tx || !e.is_retryable() => {
                    return Ok(Moved::Failed(self.failure(Cause::Error, next.saturating_sub(1), Some(e)), next));
                }
                Err(e) => {
                    tracing::warn!(flow = self.at.id, error = %e.chain(), "flows: cannot save; trying again");
                    self.pause(n).await?;
                    n += 1;
                }
            }
        }
    }

    fn after_write(&self) -> Result<(), Halt> {
        match self.hook(Point::AfterWrite) {
            Act::Crash => Err(self.crash()),
            _ => Ok(()),
        }
    }

    /// Waits between repeated writes and undos; only loss of the row and shutdown end it.
    async fn pause(&self, n: u32) -> Result<(), Halt> {
        if let Some(h) = self.halted() {
            return Err(h);
        }
        let wait = self.core.backoff(self.core.options.undo_retry, n);
        let mut signal = self.cx.signal.clone();
        let _ = tokio::time::timeout(wait, signal.wait_for(|s| s.lost || s.drain || s.kill)).await;
        self.halted().map_or(Ok(()), Err)
    }

    async fn begin_unwind(&mut self, failure: &Failure, undo: usize) -> Result<(), Halt> {
        let mut n = 0;
        loop {
            let body = match to_body(&*self.state) {
                Ok(b) => b,
                Err(e) => {
                    tracing::error!(flow = self.at.id, error = %e.chain(), "flows: state cannot be saved");
                    return Err(Halt::Drain);
                }
            };
            let (at, now, error) = (self.at.clone(), self.core.env.now(), rows::failure_to_json(failure));
            let write = move |tx: &mut Tx<'_>| rows::save(tx, &at, now, "unwinding", index(undo), Some(error.clone()), body.clone());
            match self.core.db.write(write).await {
                Ok(()) => {
                    self.at.state = "unwinding";
                    self.at.step = index(undo);
                    return self.after_write();
                }
                Err(e) if e.code == rows::LOST => return Err(Halt::Lost),
                Err(e) => {
                    tracing::warn!(flow = self.at.id, error = %e.chain(), "flows: cannot save; trying again");
                    self.pause(n).await?;
                    n += 1;
                }
            }
        }
    }

    /// Takes steps back, last first, then ends the flow.
    async fn unwind(&mut self, failure: Failure) -> Result<(), Halt> {
        let failure = Arc::new(failure);
        let steps = self.steps.clone();
        loop {
            let done = usize::try_from(self.at.step).unwrap_or(0).min(steps.len());
            // Steps without an undo cost no write.
            let Some(i) = (0..done).rev().find(|i| !matches!(steps[*i].undo, Undo::None)) else {
                return self.end_failed(0, None, &failure).await;
            };
            let left = (0..i).rev().find(|j| !matches!(steps[*j].undo, Undo::None)).map_or(0, |j| j + 1);
            let undo_tx = match &steps[i].undo {
                Undo::Tx(f) => Some(f.clone()),
                Undo::Async(_) => {
                    self.undo(i, &steps[i]).await?;
                    None
                }
                Undo::None => None,
            };
            if left == 0 {
                return self.end_failed(0, undo_tx, &failure).await;
            }
            self.save_unwound(left, undo_tx, &failure).await?;
        }
    }

    /// Runs an undo until it succeeds.
    async fn undo(&mut self, i: usize, step: &Step<F, C>) -> Result<(), Halt> {
        let Undo::Async(undo) = &step.undo else { return Ok(()) };
        let mut n = 0;
        loop {
            if let Some(h) = self.halted() {
                return Err(h);
            }
            self.cx.attempt = n + 1;
            let error = match self.hook(Point::BeforeUndo(i)) {
                Act::Crash => return Err(self.crash()),
                Act::Fail(e) => e,
                Act::Go | Act::Repeat => {
                    let core = self.core.clone();
                    let fut = undo(self.cx.clone(), (*self.state).clone());
                    let limited = async {
                        let _slot = core.slots.acquire().await;
                        let timeout = |_| Error::timeout("the undo took too long");
                        tokio::time::timeout(core.options.undo_attempt, fut).await.map_err(timeout)?
                    };
                    match self.interruptible(limited, false).await? {
                        Attempt::Ok(()) => match self.hook(Point::AfterUndo(i)) {
                            Act::Go => return Ok(()),
                            Act::Crash => return Err(self.crash()),
                            Act::Repeat => continue,
                            Act::Fail(e) => e,
                        },
                        Attempt::Err(e) => e,
                        Attempt::Cut(_) => continue,
                    }
                }
            };
            tracing::warn!(flow = self.at.id, kind = F::KIND, step = step.name, attempt = n + 1, error = %error.chain(), "undo failed; trying again");
            self.pause(n).await?;
            n = n.saturating_add(1);
        }
    }

    async fn save_unwound(&mut self, left: usize, undo: Option<TxUndoFn<F, C>>, failure: &Failure) -> Result<(), Halt> {
        let error = rows::failure_to_json(failure);
        let (state, cx, at) = (self.state.clone(), self.cx.clone(), self.at.clone());
        let write = move |tx: &mut Tx<'_>| {
            if let Some(undo) = &undo {
                undo(tx, &cx, &state)?;
            }
            rows::save(tx, &at, cx.env.now(), "unwinding", index(left), Some(error.clone()), to_body(&*state)?)
        };
        self.persist(write).await?;
        self.at.step = index(left);
        self.after_write()
    }

    async fn end_failed(&mut self, left: usize, undo: Option<TxUndoFn<F, C>>, failure: &Arc<Failure>) -> Result<(), Halt> {
        let (state, cx, at, failure, core) = (self.state.clone(), self.cx.clone(), self.at.clone(), failure.clone(), self.core.clone());
        let write = move |tx: &mut Tx<'_>| {
            if let Some(undo) = &undo {
                undo(tx, &cx, &state)?;
            }
            let error = rows::failure_to_json(&failure);
            rows::save(tx, &at, cx.env.now(), "failed", index(left), Some(error), to_body(&*state)?)?;
            state.on_failed(tx, &cx, &failure)?;
            wake_next(tx, &core, &cx.resource_id, &at.id)
        };
        self.persist(write).await?;
        self.core.ended();
        self.after_write()
    }

    /// Repeats a write of the way back until it succeeds.
    async fn persist(&self, write: impl Fn(&mut Tx<'_>) -> Result<()> + Send + Sync + 'static) -> Result<(), Halt> {
        let write = Arc::new(write);
        let mut n = 0;
        loop {
            let w = write.clone();
            match self.core.db.write(move |tx| w(tx)).await {
                Ok(()) => return Ok(()),
                Err(e) if e.code == rows::LOST => return Err(Halt::Lost),
                Err(e) => {
                    tracing::warn!(flow = self.at.id, kind = F::KIND, error = %e.chain(), "flow cannot end; trying again");
                    self.pause(n).await?;
                    n = n.saturating_add(1);
                }
            }
        }
    }
}

/// Wakes the flow of the same resource that waited for this one.
fn wake_next(tx: &mut Tx<'_>, core: &Arc<Core>, resource_id: &str, id: &str) -> Result<()> {
    if resource_id.is_empty() {
        return Ok(());
    }
    if let Some((next, _)) = rows::first_of_resource(tx, resource_id, id)? {
        let core = core.clone();
        tx.after_commit(move || core.wake(next, false));
    }
    Ok(())
}
