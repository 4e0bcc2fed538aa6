//! What a flow costs: writes of the row, and that many flows make progress together.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caelum_base::{Env, Result};
use caelum_flow::{Act, Flow, Flows, MIGRATION_SQL, Point, Step, StepCx};
use caelum_store::{Migration, testing::engines};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

static MIGRATIONS: [Migration; 1] = [Migration { version: 1, name: "flows", sql: MIGRATION_SQL }];

#[derive(Clone, Serialize, Deserialize)]
struct Eight;

async fn nothing(_: StepCx<()>, f: Eight) -> Result<Eight> {
    Ok(f)
}

impl Flow<()> for Eight {
    const KIND: &'static str = "eight";
    fn steps() -> Vec<Step<Self, ()>> {
        ["1", "2", "3", "4", "5", "6", "7", "8"].map(|n| Step::new(n, nothing)).into()
    }
    fn deadline(&self) -> Duration {
        Duration::from_secs(60)
    }
}

#[tokio::test]
async fn eight_steps_cost_one_insert_and_eight_writes() {
    let db = engines("flow_cost", &MIGRATIONS).await.unwrap().remove(0);
    let writes = Arc::new(AtomicUsize::new(0));
    let w = writes.clone();
    let hook = Arc::new(move |p| {
        w.fetch_add(usize::from(p == Point::AfterWrite), Ordering::SeqCst);
        Act::Go
    });
    let flows = Flows::with_hook(db.clone(), Env::system(), "n1", caelum_flow::FlowOptions::default(), hook).register::<Eight>();
    flows.spawn(Arc::new(()));
    for i in 0..100 {
        let f = flows.clone();
        db.write(move |tx| f.start(tx, &format!("r{i}"), "p", &Eight)).await.unwrap();
    }
    flows.idle().await.unwrap();
    flows.stop(Duration::from_secs(5)).await;
    assert_eq!(writes.load(Ordering::SeqCst), 800);
}
