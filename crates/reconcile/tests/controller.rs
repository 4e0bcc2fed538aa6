//! Controllers in paused time: every wait is instant and exact.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caelum_base::{Env, Error, Result};
use caelum_reconcile::{BoxFuture, Controller, Next, Options, Reconcile};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[derive(Default)]
struct Probe {
    runs: Mutex<HashMap<String, Vec<Instant>>>,
    now_running: Mutex<HashMap<String, usize>>,
    most: Mutex<usize>,
    takes: Duration,
    scans: Mutex<usize>,
    keys: Mutex<Vec<String>>,
    /// Failures to come, per key.
    fail: Mutex<HashMap<String, u32>>,
    again: Option<Duration>,
}

impl Probe {
    fn count(&self, key: &str) -> usize {
        self.runs.lock().unwrap().get(key).map_or(0, Vec::len)
    }
}

impl Reconcile for Probe {
    fn reconcile<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Next>> {
        Box::pin(async move {
            self.runs.lock().unwrap().entry(key.into()).or_default().push(Instant::now());
            {
                let mut running = self.now_running.lock().unwrap();
                let n = running.entry(key.into()).or_default();
                *n += 1;
                assert_eq!(*n, 1, "{key} runs twice at once");
                let total = running.values().sum::<usize>();
                let mut most = self.most.lock().unwrap();
                *most = (*most).max(total);
            }
            sleep(self.takes).await;
            *self.now_running.lock().unwrap().get_mut(key).unwrap() -= 1;
            if key == "panic" && self.count(key) == 1 {
                panic!("on purpose");
            }
            if let Some(n) = self.fail.lock().unwrap().get_mut(key).filter(|n| **n > 0) {
                *n -= 1;
                return Err(Error::unavailable("not now"));
            }
            Ok(self.again.map_or(Next::Done, Next::Again))
        })
    }

    fn scan(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async {
            *self.scans.lock().unwrap() += 1;
            Ok(self.keys.lock().unwrap().clone())
        })
    }
}

fn spawn(options: Options, probe: Probe) -> (Controller, Arc<Probe>) {
    let probe = Arc::new(probe);
    (Controller::spawn("test", Env::system(), options, probe.clone()), probe)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test(start_paused = true)]
async fn wakes_are_merged_and_a_wake_during_a_run_causes_one_more() {
    let (c, p) = spawn(Options::default(), Probe { takes: ms(100), ..Probe::default() });
    for _ in 0..10 {
        c.wake("a");
    }
    sleep(ms(50)).await;
    assert_eq!(p.count("a"), 1);
    for _ in 0..10 {
        c.wake("a");
    }
    c.idle().await;
    assert_eq!(p.count("a"), 2);
    c.wake("a");
    c.idle().await;
    assert_eq!(p.count("a"), 3);
    c.stop(ms(0)).await;
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_bounded_and_used() {
    let (c, p) = spawn(Options { concurrency: 3, ..Options::default() }, Probe { takes: ms(10), ..Probe::default() });
    for i in 0..50 {
        c.wake(&i.to_string());
    }
    c.idle().await;
    assert_eq!(*p.most.lock().unwrap(), 3);
    assert_eq!(p.runs.lock().unwrap().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn errors_and_panics_back_off_per_key_up_to_the_cap() {
    let options = Options { backoff: (ms(100), ms(400)), ..Options::default() };
    let (c, p) = spawn(options, Probe::default());
    p.fail.lock().unwrap().insert("bad".into(), 5);
    c.wake("bad");
    c.wake("good");
    c.wake("panic");
    c.idle().await;
    assert_eq!((p.count("good"), p.count("panic")), (1, 2));
    let at = p.runs.lock().unwrap()["bad"].clone();
    let waits: Vec<u128> = at.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect();
    for (wait, full) in waits.iter().zip([100, 200, 400, 400, 400]) {
        assert!((full / 2..=full + 2).contains(wait), "{waits:?}");
    }
    assert_eq!(waits.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn again_is_a_timer_that_a_wake_overtakes() {
    let (c, p) =
        spawn(Options { scan: Duration::from_secs(3600), ..Options::default() }, Probe { again: Some(ms(1000)), ..Probe::default() });
    c.wake("a");
    c.idle().await;
    sleep(ms(500)).await;
    assert_eq!(p.count("a"), 1);
    c.wake("a");
    sleep(ms(10)).await;
    assert_eq!(p.count("a"), 2);
    sleep(ms(900)).await;
    assert_eq!(p.count("a"), 2, "the old timer is gone");
    sleep(ms(200)).await;
    assert_eq!(p.count("a"), 3);
}

#[tokio::test(start_paused = true)]
async fn scans_at_the_start_and_periodically() {
    let probe = Probe { keys: Mutex::new(vec!["a".into(), "b".into()]), ..Probe::default() };
    let (c, p) = spawn(Options { scan: ms(1000), ..Options::default() }, probe);
    c.idle().await;
    assert_eq!((p.count("a"), p.count("b"), *p.scans.lock().unwrap()), (1, 1, 1));
    sleep(ms(3500)).await;
    c.idle().await;
    assert_eq!((p.count("a"), *p.scans.lock().unwrap()), (4, 4));
    c.wake_all();
    c.idle().await;
    assert_eq!(*p.scans.lock().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_overflow_is_made_good_by_a_scan() {
    let keys: Vec<String> = (0..15).map(|i| i.to_string()).collect();
    let probe = Probe { keys: Mutex::default(), takes: ms(10), ..Probe::default() };
    let (c, p) = spawn(Options { concurrency: 2, queue: 10, scan: Duration::from_secs(3600), ..Options::default() }, probe);
    c.idle().await;
    *p.keys.lock().unwrap() = keys.clone();
    for k in &keys {
        c.wake(k);
    }
    c.idle().await;
    assert!(keys.iter().all(|k| p.count(k) > 0));
    assert!(*p.scans.lock().unwrap() >= 2);
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_running_work_but_not_for_ever() {
    let (c, p) = spawn(Options { concurrency: 1, ..Options::default() }, Probe { takes: ms(1000), ..Probe::default() });
    c.wake("a");
    c.wake("b");
    sleep(ms(10)).await;
    let begun = Instant::now();
    c.stop(ms(5000)).await;
    assert!(begun.elapsed() < ms(1100));
    assert_eq!((p.count("a"), p.count("b")), (1, 0));

    let (c, _) = spawn(Options::default(), Probe { takes: Duration::from_secs(200), ..Probe::default() });
    c.wake("a");
    sleep(ms(10)).await;
    let begun = Instant::now();
    c.stop(ms(50)).await;
    assert!(begun.elapsed() < ms(100));
}
