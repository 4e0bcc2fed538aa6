//! The engine on every database: order, undo, restart, fencing, cancel, deadline, drain.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caelum_base::{Env, Error, Result};
use caelum_flow::testing::{World, crash_after_each_write, fail_at_each_step, quick, repeat_each_step};
use caelum_flow::{Act, Cause, Failure, Flow, FlowOptions, Flows, MIGRATION_SQL, Outcome, Point, Step, StepCx};
use caelum_store::{Db, Migration, Tx, params, testing::engines};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

static MIGRATIONS: [Migration; 2] = [
    Migration { version: 1, name: "flows", sql: MIGRATION_SQL },
    Migration { version: 2, name: "things", sql: "CREATE TABLE things (id TEXT PRIMARY KEY, status TEXT NOT NULL);" },
];

/// The outside world of the test flow.
#[derive(Default)]
struct Lab {
    things: Mutex<BTreeSet<String>>,
    log: Mutex<Vec<String>>,
    undo_failures: AtomicU32,
    step_failures: AtomicU32,
    entered: Notify,
}

impl Lab {
    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Make {
    name: String,
    hang: bool,
    deadline_ms: u64,
    made: Vec<String>,
}

fn make(name: &str) -> Make {
    Make { name: name.into(), hang: false, deadline_ms: 60_000, made: vec![] }
}

async fn add(cx: StepCx<Lab>, mut f: Make, part: &str) -> Result<Make> {
    let id = format!("{}/{part}", f.name);
    cx.note(format!("+{id}"));
    cx.things.lock().unwrap().insert(id.clone());
    f.made.push(id);
    Ok(f)
}

async fn remove(cx: StepCx<Lab>, f: Make, part: &str) -> Result<()> {
    cx.note(format!("-{}/{part}", f.name));
    cx.things.lock().unwrap().remove(&format!("{}/{part}", f.name));
    Ok(())
}

async fn slow(cx: StepCx<Lab>, f: Make) -> Result<Make> {
    if cx.step_failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        return Err(Error::too_many("later"));
    }
    let f = add(cx.clone(), f, "b").await?;
    cx.entered.notify_one();
    if f.hang {
        std::future::pending::<()>().await;
    }
    Ok(f)
}

async fn unslow(cx: StepCx<Lab>, f: Make) -> Result<()> {
    if cx.undo_failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
        return Err(Error::invalid("not yet"));
    }
    remove(cx, f, "b").await
}

impl Flow<Lab> for Make {
    const KIND: &'static str = "make";

    fn steps() -> Vec<Step<Self, Lab>> {
        vec![
            Step::new("a", |cx, f| add(cx, f, "a")).undo(|cx, f| remove(cx, f, "a")),
            Step::new("peek", |_, f| async { Ok(f) }).unsaved(),
            Step::tx("record", |tx, _, f: &mut Self| {
                // Happens exactly once: a second insert would fail.
                tx.exec("INSERT INTO things (id, status) VALUES ($1, 'new')", params![f.name.as_str()]).map(|_| ())
            })
            .undo_tx(|tx, _, f| tx.exec("DELETE FROM things WHERE id = $1", params![f.name.as_str()]).map(|_| ())),
            Step::new("b", slow).undo(unslow),
            Step::new("c", |cx, f| add(cx, f, "c")).undo(|cx, f| remove(cx, f, "c")),
        ]
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    fn on_done(&self, tx: &mut Tx<'_>, _: &Lab) -> Result<()> {
        tx.exec("UPDATE things SET status = 'done' WHERE id = $1", params![self.name.as_str()]).map(|_| ())
    }

    fn on_failed(&self, _: &mut Tx<'_>, cx: &Lab, failure: &Failure) -> Result<()> {
        cx.note(format!("failed {:?} at {}", failure.cause, failure.step));
        Ok(())
    }
}

async fn start(db: &Db, flows: &Flows<Lab>, f: Make) -> String {
    let flows = flows.clone();
    db.write(move |tx| flows.start(tx, &f.name, "p", &f)).await.unwrap()
}

async fn cancel(db: &Db, flows: &Flows<Lab>, resource: &'static str) -> usize {
    let flows = flows.clone();
    db.write(move |tx| flows.cancel(tx, resource)).await.unwrap()
}

fn new(db: &Db, owner: &str) -> (Flows<Lab>, Arc<Lab>) {
    (Flows::with_options(db.clone(), Env::system(), owner, quick()).register::<Make>(), Arc::new(Lab::default()))
}

async fn things(db: &Db, lab: &Lab) -> (Vec<String>, Vec<(String, String)>) {
    let rows = db.read(|tx| tx.query("SELECT id, status FROM things ORDER BY id", &[])).await.unwrap();
    let rows = rows.iter().map(|r| (r.text("id").unwrap(), r.text("status").unwrap())).collect();
    (lab.things.lock().unwrap().iter().cloned().collect(), rows)
}

fn failure(o: Outcome) -> Failure {
    match o {
        Outcome::Failed(f) => f,
        Outcome::Done => panic!("the flow succeeded"),
    }
}

#[tokio::test]
async fn a_flow_runs_to_its_end_and_leaves_no_row() {
    for db in engines("flow_runs", &MIGRATIONS).await.unwrap() {
        let (flows, lab) = new(&db, "n1");
        flows.spawn(lab.clone());
        lab.step_failures.store(3, Ordering::SeqCst);
        let id = start(&db, &flows, make("x")).await;
        assert!(flows.wait(&id).await.unwrap().is_done());
        let (outside, rows) = things(&db, &lab).await;
        assert_eq!(outside, ["x/a", "x/b", "x/c"]);
        assert_eq!(rows, [("x".into(), "done".into())]);
        let left = db.read(|tx| tx.query("SELECT id FROM flows", &[])).await.unwrap();
        assert!(left.is_empty());
        flows.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn cancel_interrupts_the_running_step_and_undoes_it_too() {
    for db in engines("flow_cancel", &MIGRATIONS).await.unwrap() {
        let (flows, lab) = new(&db, "n1");
        flows.spawn(lab.clone());
        lab.undo_failures.store(3, Ordering::SeqCst);
        let id = start(&db, &flows, Make { hang: true, ..make("x") }).await;
        lab.entered.notified().await;
        assert_eq!(cancel(&db, &flows, "x").await, 1);
        let f = failure(flows.wait(&id).await.unwrap());
        assert_eq!((f.cause, f.step.as_str(), f.error.code), (Cause::Cancelled, "b", "cancelled"));
        assert_eq!(things(&db, &lab).await, (vec![], vec![]));
        assert_eq!(*lab.log.lock().unwrap(), ["+x/a", "+x/b", "-x/b", "-x/a", "failed Cancelled at b"]);
        assert_eq!(cancel(&db, &flows, "x").await, 0);
        flows.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn the_deadline_unwinds_and_says_what_the_last_error_was() {
    let db = &engines("flow_deadline", &MIGRATIONS).await.unwrap()[0];
    let (flows, lab) = new(db, "n1");
    flows.spawn(lab.clone());
    lab.step_failures.store(u32::MAX, Ordering::SeqCst);
    let id = start(db, &flows, Make { deadline_ms: 60, ..make("x") }).await;
    let f = failure(flows.wait(&id).await.unwrap());
    assert_eq!((f.cause, f.error.code), (Cause::Deadline, "deadline"));
    assert!(f.error.message.contains("later"), "{}", f.error.message);
    assert_eq!(things(db, &lab).await, (vec![], vec![]));
    let id = start(db, &flows, Make { hang: true, deadline_ms: 60, ..make("y") }).await;
    lab.step_failures.store(0, Ordering::SeqCst);
    assert_eq!(failure(flows.wait(&id).await.unwrap()).cause, Cause::Deadline);
    assert_eq!(things(db, &lab).await, (vec![], vec![]));
}

#[tokio::test]
async fn flows_of_one_resource_run_in_order() {
    for db in engines("flow_order", &MIGRATIONS).await.unwrap() {
        let (flows, lab) = new(&db, "n1");
        flows.spawn(lab.clone());
        start(&db, &flows, Make { hang: true, ..make("x") }).await;
        lab.entered.notified().await;
        let (f, second) = (flows.clone(), make("x"));
        let id = db
            .write(move |tx| {
                f.cancel(tx, "x")?;
                f.start(tx, "x", "p", &second)
            })
            .await
            .unwrap();
        assert!(flows.wait(&id).await.unwrap().is_done());
        let log = lab.log.lock().unwrap().clone();
        assert_eq!(log, ["+x/a", "+x/b", "-x/b", "-x/a", "failed Cancelled at b", "+x/a", "+x/b", "+x/c"]);
    }
}

#[tokio::test]
async fn a_taken_over_flow_stops_at_its_old_owner() {
    for db in engines("flow_fence", &MIGRATIONS).await.unwrap() {
        let (old, old_lab) = new(&db, "old");
        old.spawn(old_lab.clone());
        let id = start(&db, &old, Make { hang: true, ..make("x") }).await;
        old_lab.entered.notified().await;
        // The old owner was away for longer than its lease.
        db.write(|tx| tx.exec("UPDATE flows SET owner = '', epoch = epoch + 1, lease_until = 0", &[])).await.unwrap();
        let (fresh, lab) = new(&db, "new");
        fresh.spawn(lab.clone());
        // Whoever claims it first, one of them, it hangs again and is cancelled from elsewhere.
        tokio::select! { () = lab.entered.notified() => {}, () = old_lab.entered.notified() => {} }
        let (other, _) = new(&db, "api");
        assert_eq!(cancel(&db, &other, "x").await, 1);
        assert_eq!(failure(other.wait(&id).await.unwrap()).cause, Cause::Cancelled);
        let ended = [&old_lab, &lab].iter().filter(|l| l.log.lock().unwrap().iter().any(|e| e.starts_with("failed"))).count();
        assert_eq!(ended, 1);
        fresh.stop(Duration::from_secs(5)).await;
        old.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn drain_gives_flows_back_and_the_next_engine_goes_on_at_once() {
    for db in engines("flow_drain", &MIGRATIONS).await.unwrap() {
        let (first, lab) = new(&db, "n1");
        first.spawn(lab.clone());
        let id = start(&db, &first, Make { hang: true, ..make("x") }).await;
        lab.entered.notified().await;
        first.stop(Duration::from_millis(20)).await;
        assert_eq!(lab.log.lock().unwrap().len(), 2, "an interrupted step is not undone by a drain");
        let row = db.read(|tx| tx.query_opt("SELECT owner, step FROM flows", &[])).await.unwrap().unwrap();
        assert_eq!((row.text("owner").unwrap(), row.int("step").unwrap()), (String::new(), 3));
        let second = Flows::with_options(db.clone(), Env::system(), "n2", FlowOptions { poll: Duration::from_secs(60), ..quick() })
            .register::<Make>();
        second.spawn(lab.clone());
        lab.entered.notified().await;
        cancel(&db, &second, "x").await;
        assert!(!second.wait(&id).await.unwrap().is_done());
        assert_eq!(things(&db, &lab).await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn an_uncertain_error_undoes_its_own_step_and_a_refusal_does_not() {
    for (error, undone) in [(true, true), (false, false)] {
        let db = engines("flow_uncertain", &MIGRATIONS).await.unwrap().remove(0);
        let hook = Arc::new(move |p| match p {
            Point::AfterStep(3) if error => Act::Fail(Error::internal("?")),
            Point::BeforeStep(3) if !error => Act::Fail(Error::conflict("no")),
            _ => Act::Go,
        });
        let flows = Flows::with_hook(db.clone(), Env::system(), "n1", quick(), hook).register::<Make>();
        let lab = Arc::new(Lab::default());
        flows.spawn(lab.clone());
        let id = start(&db, &flows, make("x")).await;
        assert_eq!(failure(flows.wait(&id).await.unwrap()).step, "b");
        assert_eq!(lab.log.lock().unwrap().iter().any(|e| e == "-x/b"), undone);
        assert_eq!(things(&db, &lab).await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn history_is_bounded() {
    let db = engines("flow_history", &MIGRATIONS).await.unwrap().remove(0);
    let hook = Arc::new(|p| if p == Point::BeforeStep(0) { Act::Fail(Error::conflict("no")) } else { Act::Go });
    let options = FlowOptions { history: 5, poll: Duration::from_millis(10), ..quick() };
    let flows = Flows::with_hook(db.clone(), Env::system(), "n1", options, hook).register::<Make>();
    flows.spawn(Arc::default());
    for i in 0..20 {
        start(&db, &flows, make(&format!("x{i}"))).await;
    }
    flows.idle().await.unwrap();
    let mut n = 20;
    for _ in 0..500 {
        n = db.read(|tx| tx.query("SELECT id FROM flows", &[])).await.unwrap().len();
        if n == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(n, 5);
}

async fn world(name: &'static str) -> World<Lab> {
    World { db: engines(name, &MIGRATIONS).await.unwrap().remove(0), context: Arc::default() }
}

async fn picture(w: World<Lab>) -> (Vec<String>, Vec<(String, String)>) {
    things(&w.db, &w.context).await
}

#[tokio::test]
async fn generated_fail_at_each_step() {
    fail_at_each_step(|| world("flow_fail"), make("x"), picture).await;
}

#[tokio::test]
async fn generated_repeat_each_step() {
    repeat_each_step(|| world("flow_repeat"), make("x"), picture).await;
}

#[tokio::test]
async fn generated_crash_after_each_write() {
    crash_after_each_write(|| world("flow_crash"), make("x"), picture).await;
}
