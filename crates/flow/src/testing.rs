//! The three generated tests every flow has: fail at each step, repeat each step, crash after each
//! write. They compare the world after the flow with a clean slate or with a flawless run.
//!
//! `build` makes a fresh world (database with [`crate::MIGRATION_SQL`], context, whatever the flow
//! works on); `snapshot` describes what must be equal, without times and random ids.

use crate::step::{Act, Hook, Point};
use crate::{Flow, FlowOptions, Flows, Outcome};
use caelum_base::{Env, Error};
use caelum_store::Db;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What one run of a flow works on.
pub struct World<C> {
    pub db: Db,
    pub context: Arc<C>,
}

impl<C> Clone for World<C> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), context: self.context.clone() }
    }
}

/// A flow that hangs is a failed test.
const PATIENCE: Duration = Duration::from_secs(30);

/// Retries at once, so that tests are fast.
pub fn quick() -> FlowOptions {
    let soon = (Duration::from_millis(1), Duration::from_millis(5));
    FlowOptions { retry: soon, undo_retry: soon, poll: Duration::from_millis(50), ..FlowOptions::default() }
}

fn engine<F: Flow<C>, C: Send + Sync + 'static>(world: &World<C>, hook: Hook) -> Flows<C> {
    Flows::with_hook(world.db.clone(), Env::system(), "test", quick(), hook).register::<F>()
}

/// Runs the flow once; after a crash, a second engine continues it. Tells whether it crashed.
async fn run<F: Flow<C>, C: Send + Sync + 'static>(world: &World<C>, flow: &F, hook: Hook) -> (Outcome, bool) {
    let first = engine::<F, C>(world, hook);
    let (starter, f) = (first.clone(), flow.clone());
    let id = world.db.write(move |tx| starter.start(tx, "resource", "project", &f)).await.expect("the flow starts");
    first.spawn(world.context.clone());
    let crashed = tokio::select! {
        () = first.crashed() => true,
        r = tokio::time::timeout(PATIENCE, first.wait(&id)) => { r.expect("the flow ends in time").expect("the database answers"); false }
    };
    // The crash may come with the very last write; then there is nothing left to continue.
    let second = engine::<F, C>(world, Arc::new(|_| Act::Go));
    if crashed {
        second.spawn(world.context.clone());
    }
    let outcome = tokio::time::timeout(PATIENCE, second.wait(&id)).await.expect("the flow ends in time").expect("the database answers");
    second.stop(PATIENCE).await;
    first.stop(PATIENCE).await;
    (outcome, crashed)
}

fn refuse() -> Error {
    Error::conflict("made to fail")
}

/// Each step refuses once, and once fails without telling whether it had its effect; the world
/// must be as before the flow.
///
/// # Panics
/// When it is not.
pub async fn fail_at_each_step<F, C, S, B, BF, P, PF>(build: B, flow: F, snapshot: P)
where
    F: Flow<C>,
    C: Send + Sync + 'static,
    S: PartialEq + Debug,
    B: Fn() -> BF,
    BF: Future<Output = World<C>>,
    P: Fn(World<C>) -> PF,
    PF: Future<Output = S>,
{
    for (n, step) in F::steps().iter().enumerate() {
        for late in [false, true] {
            let world = build().await;
            let before = snapshot(world.clone()).await;
            let hook: Hook = Arc::new(move |p| match p {
                Point::BeforeStep(i) if i == n && !late => Act::Fail(refuse()),
                // Transaction steps have no such moment.
                Point::AfterStep(i) if i == n && late => Act::Fail(Error::internal("made to fail")),
                _ => Act::Go,
            });
            let (outcome, _) = run(&world, &flow, hook).await;
            if outcome.is_done() {
                assert!(late && matches!(step.run, crate::step::Run::Tx(_)), "{} succeeded although step {} failed", F::KIND, step.name);
                continue;
            }
            let after = snapshot(world).await;
            assert_eq!(
                after,
                before,
                "{}: step {} failed (after its effect: {late}); something was left or is missing",
                F::KIND,
                step.name
            );
        }
    }
}

/// Each step, and each undo, runs twice with the same input; the world must be as after a flawless
/// run, or as before the flow.
///
/// # Panics
/// When it is not.
pub async fn repeat_each_step<F, C, S, B, BF, P, PF>(build: B, flow: F, snapshot: P)
where
    F: Flow<C>,
    C: Send + Sync + 'static,
    S: PartialEq + Debug,
    B: Fn() -> BF,
    BF: Future<Output = World<C>>,
    P: Fn(World<C>) -> PF,
    PF: Future<Output = S>,
{
    let world = build().await;
    let clean = snapshot(world.clone()).await;
    let (outcome, _) = run(&world, &flow, Arc::new(|_| Act::Go)).await;
    assert!(outcome.is_done(), "{} fails even when nothing goes wrong: {outcome:?}", F::KIND);
    let wanted = snapshot(world).await;
    let steps = F::steps();
    for (n, step) in steps.iter().enumerate() {
        let world = build().await;
        let once = Arc::new(AtomicUsize::new(0));
        let hook: Hook = Arc::new(move |p| match p {
            Point::AfterStep(i) if i == n && once.fetch_add(1, Ordering::SeqCst) == 0 => Act::Repeat,
            _ => Act::Go,
        });
        let (outcome, _) = run(&world, &flow, hook).await;
        assert!(outcome.is_done(), "{}: step {} cannot be repeated: {outcome:?}", F::KIND, step.name);
        assert_eq!(snapshot(world).await, wanted, "{}: step {} was repeated", F::KIND, step.name);

        let world = build().await;
        let (once, last) = (Arc::new(AtomicUsize::new(0)), steps.len() - 1);
        let hook: Hook = Arc::new(move |p| match p {
            Point::BeforeStep(i) if i == last => Act::Fail(refuse()),
            Point::AfterUndo(i) if i == n && once.fetch_add(1, Ordering::SeqCst) == 0 => Act::Repeat,
            _ => Act::Go,
        });
        run(&world, &flow, hook).await;
        assert_eq!(snapshot(world).await, clean, "{}: the undo of step {} was repeated", F::KIND, step.name);
    }
}

/// The process dies after each write, and after each effect before its write, on the way forward
/// and on the way back; a new engine continues. The world must be as after a flawless run, or as
/// before the flow.
///
/// # Panics
/// When it is not.
pub async fn crash_after_each_write<F, C, S, B, BF, P, PF>(build: B, flow: F, snapshot: P)
where
    F: Flow<C>,
    C: Send + Sync + 'static,
    S: PartialEq + Debug,
    B: Fn() -> BF,
    BF: Future<Output = World<C>>,
    P: Fn(World<C>) -> PF,
    PF: Future<Output = S>,
{
    let world = build().await;
    let clean = snapshot(world.clone()).await;
    let (outcome, _) = run(&world, &flow, Arc::new(|_| Act::Go)).await;
    assert!(outcome.is_done(), "{} fails even when nothing goes wrong: {outcome:?}", F::KIND);
    let wanted = snapshot(world).await;
    let last = F::steps().len().saturating_sub(1);
    for back in [false, true] {
        for nth in 0.. {
            let world = build().await;
            let seen = Arc::new(AtomicUsize::new(0));
            let hook: Hook = Arc::new(move |p| match p {
                Point::BeforeStep(i) if back && i == last => Act::Fail(refuse()),
                Point::AfterStep(_) | Point::AfterUndo(_) | Point::AfterWrite if seen.fetch_add(1, Ordering::SeqCst) == nth => Act::Crash,
                _ => Act::Go,
            });
            let (outcome, crashed) = run(&world, &flow, hook).await;
            // A crash on the way to a failure that only the first engine makes leads to success.
            let expected = if outcome.is_done() { &wanted } else { &clean };
            assert!(back || outcome.is_done(), "{}: crash {nth} made it fail: {outcome:?}", F::KIND);
            assert_eq!(&snapshot(world).await, expected, "{}: crash {nth}, on the way back: {back}", F::KIND);
            if !crashed {
                break;
            }
        }
    }
}
