//! The generated tests of the create and delete flows.

use super::fakes::{Fake, IMAGE, NET, flavor, sim};
use crate::flows::create::{CreateServer, NicRequest};
use crate::flows::delete::DeleteServer;
use crate::logic::volumes::{DiskRequest, Source};
use crate::store::servers::{ImageFacts, Server, ServerPort, ServerVolume, Task, VmState};
use crate::{Config, Hosts, Peers, State, store};
use caelum_base::{Env, Timestamp};
use caelum_flow::Flows;
use caelum_flow::testing::{World, crash_after_each_write, fail_at_each_step, repeat_each_step};
use caelum_hypervisor::{Hypervisor, PowerState};
use caelum_store::{Db, StoreUrl};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const ID: &str = "33333333-3333-4333-8333-333333333333";
const BDM: &str = "44444444-4444-4444-8444-444444444444";

pub(crate) fn blank_server() -> Server {
    Server {
        id: ID.into(),
        number: 1,
        project_id: "p1".into(),
        user_id: "u".into(),
        name: "vm".into(),
        description: None,
        hostname: "vm".into(),
        image: Some(ImageFacts { id: IMAGE.into(), disk_format: "qcow2".into(), ..ImageFacts::default() }),
        flavor: flavor("t1", 1, 512, 1),
        key_name: None,
        public_key: None,
        has_user_data: false,
        config_drive: true,
        metadata: Default::default(),
        tags: BTreeSet::new(),
        pinned_zone: None,
        zone: String::new(),
        host: None,
        scheduler_hints: Default::default(),
        group_id: None,
        security_groups: vec!["default".into()],
        ports: Vec::new(),
        volumes: vec![ServerVolume { bdm_id: BDM.into(), delete_on_termination: true, ..ServerVolume::default() }],
        state: VmState::Building,
        task: Some(Task::Scheduling),
        power: PowerState::NoState,
        fault: None,
        lock: None,
        resize: None,
        rescue_image: None,
        shelved_image: None,
        access_ipv4: String::new(),
        access_ipv6: String::new(),
        disk_config: "MANUAL".into(),
        reservation_id: "r-1".into(),
        launch_index: 0,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        launched_at: None,
        network_seen_at: Timestamp(0),
        guest_password: String::new(),
    }
}

/// A fake cloud with one host and the user's port; kept beside the state for the snapshot.
struct Slate {
    fake: Arc<Fake>,
    host: Arc<caelum_hypervisor::SimHost>,
    port: String,
}

async fn slate() -> (Arc<State>, Slate) {
    let env = Env::system();
    let fake = Fake::new(env.clone());
    let host = sim("host1", 2048, &env);
    let port = fake.user_port();
    let peers = Peers {
        network: fake.client("network"),
        image: fake.client("image"),
        placement: fake.client("placement"),
        block: Some(fake.client("block-storage")),
    };
    let db = Db::open(&StoreUrl::Scratch, "compute", store::MIGRATIONS).await.unwrap();
    let named: Arc<dyn Hypervisor> = host.clone();
    let flows = Flows::new(db.clone(), env.clone(), "idle");
    let state = State::new(env, db.clone(), Config::default(), peers, Hosts::new(vec![("host1".into(), named)]), flows);
    crate::reconcile::hosts::report(&state, "host1").await.unwrap();
    state.lend_token(ID, &caelum_base::Secret::new("member".into()));
    db.write(|tx| tx.insert(&blank_server()).map(drop)).await.unwrap();
    (Arc::new(state), Slate { fake, host, port })
}

fn create(port: &str) -> CreateServer {
    CreateServer {
        server_id: ID.into(),
        project_id: "p1".into(),
        action_id: "none".into(),
        nics: vec![
            NicRequest { network_id: NET.into(), ..NicRequest::default() },
            NicRequest { port_id: Some(port.into()), network_id: NET.into(), ..NicRequest::default() },
        ],
        security_groups: Vec::new(),
        disks: vec![DiskRequest { bdm_id: BDM.into(), source: Source::Blank, size_gb: 1, volume_type: None }],
        forced_host: None,
        requested_host: None,
        timeout_s: 60,
        host: String::new(),
        zone: String::new(),
        ports: Vec::new(),
        volumes: Vec::new(),
    }
}

/// What is in the world, by number: ports, of them the server's, volumes, attachments, allocations, guests.
async fn count(s: &Slate) -> [usize; 6] {
    let ports = s.fake.ports.lock().unwrap().clone();
    let guests = s.host.list().await.unwrap().len();
    [
        ports.len(),
        ports.values().filter(|p| p["device_id"] == ID).count(),
        s.fake.volumes.lock().unwrap().len(),
        s.fake.attachments.lock().unwrap().len(),
        s.fake.allocations.lock().unwrap().len(),
        guests,
    ]
}

/// The slates by state, so that a snapshot finds its own.
type Known = Arc<Mutex<Vec<(usize, Arc<Slate>)>>>;

fn find(known: &Known, state: &Arc<State>) -> Arc<Slate> {
    let at = Arc::as_ptr(state) as usize;
    known.lock().unwrap().iter().rev().find(|(p, _)| *p == at).map(|(_, s)| s.clone()).unwrap()
}

/// The same port id in every world, so that one flow value fits all.
async fn world(known: Known, built: bool) -> World<State> {
    let (state, mut slate) = slate().await;
    let fixed = "55555555-5555-4555-8555-555555555555".to_string();
    {
        let mut ports = slate.fake.ports.lock().unwrap();
        let mut p = ports.remove(&slate.port).unwrap();
        p["id"] = json!(fixed);
        ports.insert(fixed.clone(), p);
    }
    slate.port = fixed;
    let db = state.db.clone();
    if built {
        build(&state, &slate).await;
    }
    known.lock().unwrap().push((Arc::as_ptr(&state) as usize, Arc::new(slate)));
    World { db, context: state }
}

/// Puts a finished server into the world by hand.
async fn build(state: &Arc<State>, s: &Slate) {
    let view = state.host_view("host1").unwrap();
    s.fake.allocations.lock().unwrap().insert(ID.into(), (view.provider_id, json!({"VCPU": 1})));
    let mut row = blank_server();
    row.host = Some("host1".into());
    row.ports = vec![ServerPort { port_id: s.port.clone(), ..ServerPort::default() }];
    s.fake.ports.lock().unwrap().get_mut(&s.port).unwrap()["device_id"] = json!(ID);
    let made = crate::logic::network::NewPort { network_id: NET, project_id: "p1", server_id: ID, host: "host1", ..Default::default() };
    let made = crate::logic::network::port_create(state, &made).await.unwrap();
    row.ports.push(ServerPort { port_id: made.id, ours: true, ..ServerPort::default() });
    row.volumes[0].volume_id = s.fake.user_volume();
    crate::logic::volumes::attach(state, ID, "host1", &mut row.volumes[0]).await.unwrap();
    let spec = crate::logic::guest::spec(state, &row, true).await.unwrap();
    s.host.spawn(&spec, &crate::logic::images::Source(state.clone())).await.unwrap();
    state
        .db
        .write(move |tx| {
            let mut old = crate::store::servers::require(tx, ID)?;
            old.value = row.clone();
            tx.update(&mut old)
        })
        .await
        .unwrap();
}

macro_rules! generated {
    ($name:ident, $run:ident, $built:expr, $flow:expr) => {
        #[tokio::test]
        async fn $name() {
            let known: Known = Arc::default();
            let (a, b) = (known.clone(), known.clone());
            $run(
                move || world(a.clone(), $built),
                $flow,
                move |w: World<State>| {
                    let slate = find(&b, &w.context);
                    async move { count(&slate).await }
                },
            )
            .await;
        }
    };
}

const PORT: &str = "55555555-5555-4555-8555-555555555555";

fn delete() -> DeleteServer {
    DeleteServer { server_id: ID.into(), action_id: "none".into(), user_ports: BTreeSet::from([PORT.to_string()]) }
}

generated!(create_fails_at_each_step, fail_at_each_step, false, create(PORT));
generated!(create_repeats_each_step, repeat_each_step, false, create(PORT));
generated!(create_crashes_after_each_write, crash_after_each_write, false, create(PORT));

/// Runs the delete under a hook until it ends or crashes, then once more without; nothing may be left.
async fn delete_after(patience_ms: u64, hook: caelum_flow::Hook) {
    let known: Known = Arc::default();
    let w = world(known.clone(), true).await;
    let slate = find(&known, &w.context);
    let quick = caelum_flow::testing::quick();
    let first = Flows::with_hook(w.db.clone(), Env::system(), "test", quick.clone(), hook).register::<DeleteServer>();
    let starter = first.clone();
    let id = w.db.write(move |tx| starter.start(tx, ID, "p1", &delete())).await.unwrap();
    first.spawn(w.context.clone());
    let _ = tokio::time::timeout(std::time::Duration::from_millis(patience_ms), first.wait(&id)).await;
    first.stop(std::time::Duration::from_secs(1)).await;
    let second = Flows::with_options(w.db.clone(), Env::system(), "test", quick).register::<DeleteServer>();
    second.spawn(w.context.clone());
    second.idle().await.unwrap();
    if let Some(s) = w.db.get::<Server>(ID).await.unwrap() {
        assert_eq!(s.state, VmState::Error, "a failed delete says so");
        let starter = second.clone();
        let id = w.db.write(move |tx| starter.start(tx, ID, "p1", &delete())).await.unwrap();
        assert!(second.wait(&id).await.unwrap().is_done());
    }
    assert!(w.db.get::<Server>(ID).await.unwrap().is_none());
    // The user's port and the volume that was not to go.
    assert_eq!(count(&slate).await, [1, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn delete_ends_whatever_fails_and_whenever_it_crashes() {
    use caelum_flow::{Act, Point};
    for n in 0..4 {
        delete_after(
            5_000,
            Arc::new(move |p| match p {
                Point::BeforeStep(i) if i == n => Act::Fail(caelum_base::Error::conflict("no")),
                _ => Act::Go,
            }),
        )
        .await;
        delete_after(100, Arc::new(move |p| if p == Point::AfterStep(n) { Act::Crash } else { Act::Go })).await;
        let once = std::sync::atomic::AtomicUsize::new(0);
        delete_after(
            5_000,
            Arc::new(move |p| match p {
                Point::AfterStep(i) if i == n && once.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => Act::Repeat,
                _ => Act::Go,
            }),
        )
        .await;
    }
}
