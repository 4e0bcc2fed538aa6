//! The generated flow tests: every step fails, repeats and crashes.

use super::create::{CreateVolume, Source};
use super::delete::DeleteVolume;
use super::snapshot::CreateSnapshot;
use crate::store::{Metadata, Volume};
use crate::tests::world::{World as Setup, world};
use crate::{State, store};
use caelum_flow::testing::{World, crash_after_each_write, fail_at_each_step, repeat_each_step};
use caelum_store::{Db, StoreUrl};
use std::sync::Arc;

const ID: &str = "dddddddd-0000-4000-8000-000000000001";
const SNAPSHOT: &str = "dddddddd-0000-4000-8000-000000000002";

/// A context whose flows engine is the harness's; the directory goes with the process.
async fn fresh(with_volume: bool) -> World<State> {
    let Setup { service, dir, .. } = world().await;
    service.stop().await;
    let old = service.state();
    let db = Db::open(&StoreUrl::Scratch, "block", store::MIGRATIONS).await.unwrap();
    let state = State {
        env: old.env.clone(),
        db: db.clone(),
        flows: old.flows.clone(),
        driver: old.driver.clone(),
        image: old.image.clone(),
        compute: None,
        node: old.node.clone(),
        options: old.options.clone(),
    };
    if with_volume {
        let v = Volume { id: ID.into(), size: 1, format: "raw".into(), status: "deleting".into(), ..Volume::default() };
        state.driver.create_blank(&v.disk()).await.unwrap();
        db.write(move |tx| tx.insert(&v)).await.unwrap();
    }
    std::mem::forget(dir);
    World { db, context: Arc::new(state) }
}

async fn files(w: World<State>) -> Vec<String> {
    w.context.driver.list().await.unwrap()
}

async fn files_and_rows(w: World<State>) -> (Vec<String>, bool) {
    (w.context.driver.list().await.unwrap(), w.db.get::<Volume>(ID).await.unwrap().is_some())
}

fn create() -> CreateVolume {
    CreateVolume {
        volume_id: ID.into(),
        project_id: "p".into(),
        request_id: "req".into(),
        format: "raw".into(),
        bytes: 1 << 20,
        source: Source::Blank,
        timeout_secs: 60,
        refusal: None,
        image_metadata: Metadata::new(),
    }
}

#[tokio::test]
async fn create_leaves_nothing_behind() {
    fail_at_each_step(|| fresh(false), create(), files).await;
    repeat_each_step(|| fresh(false), create(), files).await;
    crash_after_each_write(|| fresh(false), create(), files).await;
}

#[tokio::test]
async fn delete_ends_however_often_it_is_interrupted() {
    let flow = DeleteVolume { volume_id: ID.into(), project_id: "p".into(), request_id: "req".into(), snapshots: vec![] };
    crash_after_each_write_forward(flow).await;
}

/// A delete does not go back, so only the way forward is tested.
async fn crash_after_each_write_forward(flow: DeleteVolume) {
    use caelum_flow::{Flows, testing::quick};
    let w = fresh(true).await;
    let engine = Flows::with_options(w.db.clone(), w.context.env.clone(), "test", quick()).register::<DeleteVolume>();
    for _ in 0..2 {
        let (starter, f) = (engine.clone(), flow.clone());
        let id = w.db.write(move |tx| starter.start(tx, ID, "p", &f)).await.unwrap();
        engine.spawn(w.context.clone());
        assert!(engine.wait(&id).await.unwrap().is_done());
        assert_eq!(files_and_rows(w.clone()).await, (vec![], false), "also when it runs twice");
    }
    engine.stop(std::time::Duration::from_secs(1)).await;
}

#[tokio::test]
async fn snapshot_leaves_nothing_behind() {
    let flow = CreateSnapshot {
        snapshot_id: SNAPSHOT.into(),
        project_id: "p".into(),
        request_id: "req".into(),
        volume_id: ID.into(),
        format: "raw".into(),
        bytes: 1 << 30,
        group_snapshot_id: None,
    };
    fail_at_each_step(|| fresh(true), flow.clone(), files).await;
    repeat_each_step(|| fresh(true), flow.clone(), files).await;
    crash_after_each_write(|| fresh(true), flow, files).await;
}
