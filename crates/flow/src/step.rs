use caelum_base::{Env, Error, Result, Timestamp};
use caelum_store::{Db, Tx};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(crate) type RunFn<S, C> = Arc<dyn Fn(StepCx<C>, S) -> BoxFuture<'static, Result<S>> + Send + Sync>;
pub(crate) type UndoFn<S, C> = Arc<dyn Fn(StepCx<C>, S) -> BoxFuture<'static, Result<()>> + Send + Sync>;
pub(crate) type TxRunFn<S, C> = Arc<dyn Fn(&mut Tx<'_>, &StepCx<C>, &mut S) -> Result<()> + Send + Sync>;
pub(crate) type TxUndoFn<S, C> = Arc<dyn Fn(&mut Tx<'_>, &StepCx<C>, &S) -> Result<()> + Send + Sync>;

pub(crate) enum Run<S, C> {
    Async(RunFn<S, C>),
    Tx(TxRunFn<S, C>),
}

pub(crate) enum Undo<S, C> {
    None,
    Async(UndoFn<S, C>),
    Tx(TxUndoFn<S, C>),
}

/// One step of a flow.
pub struct Step<S, C> {
    pub(crate) name: &'static str,
    pub(crate) run: Run<S, C>,
    pub(crate) undo: Undo<S, C>,
    pub(crate) save: bool,
    pub(crate) attempts: u32,
}

impl<S: 'static, C: 'static> Step<S, C> {
    /// A step with effects outside the database: `async fn(StepCx<C>, S) -> Result<S>`. Retryable
    /// errors are repeated with back-off until the flow's deadline.
    pub fn new<Fut>(name: &'static str, run: impl Fn(StepCx<C>, S) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<S>> + Send + 'static,
    {
        let run: RunFn<S, C> = Arc::new(move |cx, s| run(cx, s).boxed());
        Self { name, run: Run::Async(run), undo: Undo::None, save: true, attempts: u32::MAX }
    }

    /// A step that is one transaction on the flow's database. It commits together with the saved
    /// position, so it happens exactly once and costs no write of its own.
    pub fn tx(name: &'static str, run: impl Fn(&mut Tx<'_>, &StepCx<C>, &mut S) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { name, run: Run::Tx(Arc::new(run)), undo: Undo::None, save: true, attempts: u32::MAX }
    }

    /// What takes the step back: `async fn(StepCx<C>, S) -> Result<()>`, repeated until it
    /// succeeds. Gets the state before the step when the step did not finish.
    #[must_use]
    pub fn undo<Fut>(mut self, undo: impl Fn(StepCx<C>, S) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.undo = Undo::Async(Arc::new(move |cx, s| undo(cx, s).boxed()));
        self
    }

    /// An undo that is one transaction, committed together with the saved position.
    #[must_use]
    pub fn undo_tx(mut self, undo: impl Fn(&mut Tx<'_>, &StepCx<C>, &S) -> Result<()> + Send + Sync + 'static) -> Self {
        self.undo = Undo::Tx(Arc::new(undo));
        self
    }

    /// Does not save after this step: after a crash it runs again, and what it put into the state
    /// is lost. Its undo, and everything before the next save, must work without that.
    /// Has no effect on a transaction step.
    #[must_use]
    pub fn unsaved(mut self) -> Self {
        self.save = matches!(self.run, Run::Tx(_));
        self
    }

    /// Attempts before a retryable error counts as final; at least 1. Default: until the deadline.
    #[must_use]
    pub fn attempts(mut self, n: u32) -> Self {
        self.attempts = n.max(1);
        self
    }
}

/// What a step knows about its surroundings; dereferences to the service's context.
pub struct StepCx<C> {
    pub(crate) app: Arc<C>,
    pub(crate) db: Db,
    pub(crate) env: Env,
    pub(crate) flow_id: Arc<str>,
    pub(crate) resource_id: Arc<str>,
    pub(crate) deadline: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) signal: watch::Receiver<Signal>,
}

impl<C> Clone for StepCx<C> {
    fn clone(&self) -> Self {
        Self {
            app: self.app.clone(),
            db: self.db.clone(),
            env: self.env.clone(),
            flow_id: self.flow_id.clone(),
            resource_id: self.resource_id.clone(),
            deadline: self.deadline,
            attempt: self.attempt,
            signal: self.signal.clone(),
        }
    }
}

impl<C> Deref for StepCx<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.app
    }
}

impl<C> StepCx<C> {
    /// The service's context.
    pub fn app(&self) -> &Arc<C> {
        &self.app
    }

    /// The flow's database.
    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn env(&self) -> &Env {
        &self.env
    }

    pub fn flow_id(&self) -> &str {
        &self.flow_id
    }

    pub fn resource_id(&self) -> &str {
        &self.resource_id
    }

    /// 1 for the first try since the engine began with this step.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Time left until the flow's deadline; zero when it has passed.
    pub fn time_left(&self) -> Duration {
        self.deadline.since(self.env.now())
    }

    /// Returns when the flow is cancelled; never otherwise. The engine drops the step anyway: for
    /// work that was spawned and must be told.
    pub async fn cancelled(&self) {
        let mut rx = self.signal.clone();
        if rx.wait_for(|s| s.cancel).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What the engine tells one execution.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signal {
    pub cancel: bool,
    /// Another owner has the row.
    pub lost: bool,
    /// Stop after the running step.
    pub drain: bool,
    /// Stop now.
    pub kill: bool,
}

/// Where an execution is, for [`Hook`]s. Steps by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    BeforeStep(usize),
    /// The step took effect; nothing is saved yet.
    AfterStep(usize),
    BeforeUndo(usize),
    AfterUndo(usize),
    /// A write of the row is durable. Never followed by [`Act::Fail`] or [`Act::Repeat`].
    AfterWrite,
}

/// What a hook makes the engine do.
#[derive(Debug)]
pub enum Act {
    Go,
    /// As if the step had returned this error.
    Fail(Error),
    /// Run the step or undo again with the same input.
    Repeat,
    /// As if the process had died here: nothing more is done or released.
    Crash,
}

/// Failpoints for tests, see [`crate::testing`].
pub type Hook = Arc<dyn Fn(Point) -> Act + Send + Sync>;
