//! The in-process driver through the typed interface.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caelum_base::{Env, Error, ErrorKind, Result};
use caelum_bus::{Bus, NOTIFICATIONS, Next, Notification, Options, Priority};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

const SOON: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
enum Ask {
    Double(i64),
    Refuse,
    Panic,
    Hang,
}

async fn answer(q: Ask) -> Result<i64> {
    match q {
        Ask::Double(n) => Ok(n * 2),
        Ask::Refuse => Err(Error::not_found("no such port").code("PortNotFound").caused_by(Error::internal("private"))),
        Ask::Panic => panic!("on purpose"),
        Ask::Hang => std::future::pending().await,
    }
}

fn bus() -> Bus {
    Bus::memory(Env::system())
}

async fn ask(bus: &Bus, q: Ask) -> Result<i64> {
    bus.call("t", &q, SOON).await
}

#[tokio::test]
async fn call_answers_or_says_why_not() {
    let bus = bus();
    assert_eq!(ask(&bus, Ask::Double(1)).await.unwrap_err().kind, ErrorKind::Unavailable);
    let served = bus.serve("t", answer, Options::default());
    assert_eq!(ask(&bus, Ask::Double(21)).await.unwrap(), 42);
    let e = ask(&bus, Ask::Refuse).await.unwrap_err();
    assert_eq!((e.kind, e.message.as_str(), e.code), (ErrorKind::NotFound, "no such port", "PortNotFound"));
    assert!(!e.chain().contains("private"));
    assert_eq!(ask(&bus, Ask::Panic).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(ask(&bus, Ask::Double(2)).await.unwrap(), 4);
    let late = bus.call::<_, i64>("t", &Ask::Hang, Duration::from_millis(20)).await;
    assert_eq!(late.unwrap_err().kind, ErrorKind::Timeout);
    let wrong = bus.call::<_, i64>("t", &"nonsense", SOON).await;
    assert_eq!(wrong.unwrap_err().kind, ErrorKind::Internal);
    drop(served);
    assert_eq!(ask(&bus, Ask::Double(1)).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_that_goes_tells_those_who_wait() {
    let bus = bus();
    let entered = Arc::new(Notify::new());
    let e = entered.clone();
    let hang = move |(): ()| {
        e.notify_one();
        std::future::pending::<Result<()>>()
    };
    let served = bus.serve("t", hang, Options { concurrency: 1, queue: 1 });
    let spawn = || {
        tokio::spawn({
            let bus = bus.clone();
            async move { bus.call::<_, ()>("t", &(), SOON).await }
        })
    };
    let calls = [spawn(), spawn(), spawn()];
    entered.notified().await;
    tokio::task::yield_now().await;
    drop(served);
    for c in calls {
        assert_eq!(c.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_cast_goes_to_one_worker_and_a_full_queue_pushes_back() {
    let bus = bus();
    let seen = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let serve = || {
        let (seen, gate) = (seen.clone(), gate.clone());
        let work = move |_: i64| {
            let (seen, gate) = (seen.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                seen.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        };
        bus.serve("t", work, Options { concurrency: 1, queue: 2 })
    };
    let _both = (serve(), serve());
    // Two in hand, two waiting.
    for i in 0..4 {
        bus.cast("t", &i, SOON).await.unwrap();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    let full = bus.cast("t", &4, Duration::from_millis(20)).await;
    assert_eq!(full.unwrap_err().kind, ErrorKind::TooMany);
    gate.add_permits(4);
    while seen.load(Ordering::SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    bus.cast("t", &5, SOON).await.unwrap();
    assert_eq!(bus.cast("nobody", &5, SOON).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_slow_subscriber_loses_the_oldest_and_learns_how_many() {
    let bus = bus();
    assert_eq!(bus.fanout("f", &0).unwrap(), 0);
    let (mut slow, mut quick) = (bus.subscribe::<i64>("f", 2), bus.subscribe::<i64>("f", 100));
    for i in 1..=5 {
        assert_eq!(bus.fanout("f", &i).unwrap(), 2);
    }
    assert_eq!(slow.next().await, Some(Next::Missed(3)));
    assert_eq!(slow.next().await, Some(Next::Message(4)));
    assert_eq!(slow.next().await, Some(Next::Message(5)));
    for i in 1..=5 {
        assert_eq!(quick.next().await, Some(Next::Message(i)));
    }
    drop(slow);
    assert_eq!(bus.fanout("f", &6).unwrap(), 1);
}

#[tokio::test]
async fn notifications_have_the_envelope() {
    let bus = bus();
    let mut all = bus.subscribe::<serde_json::Value>(NOTIFICATIONS, 10);
    bus.notify("nova-compute:node1", "instance.create.end", Priority::Info, &serde_json::json!({"uuid": "x"})).unwrap();
    let Some(Next::Message(m)) = all.next().await else { panic!("nothing came") };
    assert_eq!(m["priority"], "INFO");
    assert_eq!(m["event_type"], "instance.create.end");
    let n: Notification = serde_json::from_value(m).unwrap();
    assert_eq!((n.publisher_id.as_str(), n.timestamp.len()), ("nova-compute:node1", 26));
}

#[tokio::test]
async fn many_callers_share_a_few_workers() {
    let bus = bus();
    let _served = bus.serve("t", answer, Options { concurrency: 3, queue: 4 });
    let calls = (0..500).map(|i| {
        tokio::spawn({
            let bus = bus.clone();
            async move { ask(&bus, Ask::Double(i)).await }
        })
    });
    for (i, c) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(c.await.unwrap().unwrap(), i64::try_from(i).unwrap() * 2);
    }
}
