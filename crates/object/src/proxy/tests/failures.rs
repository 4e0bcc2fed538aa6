use super::*;
use caelum_rest::BoxError;

const ONE_DEAD: &[Fault] = &[Fault::Status(503), Fault::Status(507), Fault::Hang, Fault::StallAfter(1), Fault::FailAfter(1)];

fn big() -> Bytes {
    Bytes::from((0..5u32 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>())
}

#[tokio::test]
async fn a_dead_primary_is_replaced_by_a_handoff() {
    for fault in ONE_DEAD {
        let c = Cluster::with_container().await;
        let (primaries, handoffs) = c.places("o");
        primaries[1].fault(*fault);
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[], "hello").await.status, 201, "{fault:?}");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(handoffs[0].get("/a/c/o").is_some(), "{fault:?}");
        assert!(primaries[1].get("/a/c/o").is_none(), "{fault:?}");
        assert_eq!(c.call("GET", "/v1/a/c/o", &[], "").await.text(), "hello", "{fault:?}");
    }
}

#[tokio::test]
async fn large_uploads_survive_one_failure_of_three() {
    for fault in ONE_DEAD {
        let c = Cluster::with_container().await;
        let (primaries, _) = c.places("o");
        primaries[0].fault(*fault);
        let put = c.call("PUT", "/v1/a/c/o", &[], big()).await;
        assert_eq!(put.status, 201, "{fault:?}");
        primaries[0].fault(Fault::None);
        let get = c.call("GET", "/v1/a/c/o", &[], "").await;
        assert_eq!((get.status, get.body == big(), get.broken), (200, true, false), "{fault:?}");
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_below_a_quorum() {
    for size in [5, 1 << 20] {
        for fault in [Fault::Status(503), Fault::FailAfter(1), Fault::Hang, Fault::StallAfter(1)] {
            let c = Cluster::with_container().await;
            let (primaries, handoffs) = c.places("o");
            for s in primaries.iter().skip(1).chain(&handoffs) {
                s.fault(fault);
            }
            let put = c.call("PUT", "/v1/a/c/o", &[], big().slice(..size)).await;
            assert_eq!(put.status, 503, "{size} {fault:?}");
        }
    }
}

#[tokio::test]
async fn conditions_and_conflicts() {
    for size in [5, 1 << 20] {
        let c = Cluster::with_container().await;
        let data = big().slice(..size);
        let wrong = c.call("PUT", "/v1/a/c/o", &[("etag", "00000000000000000000000000000000")], data.clone()).await;
        assert_eq!(wrong.status, 422, "{size}");
        assert_eq!(c.call("GET", "/v1/a/c/o", &[], "").await.status, 404);
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[("if-none-match", "*")], data.clone()).await.status, 201);
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[("if-none-match", "*")], data.clone()).await.status, 412);
        let late = c.call("PUT", "/v1/a/c/o", &[("x-timestamp", "1000000000.00000")], data).await;
        assert_eq!(late.status, 202, "{size}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_leaves_nothing() {
    for declared in [None, Some("100"), Some("1000000")] {
        let c = Cluster::with_container().await;
        let (tx, body) = caelum_rest::stream_channel(4);
        tx.send(Ok(Bytes::from(vec![1; 50]))).await.unwrap();
        tx.send(Err(BoxError::from("gone"))).await.unwrap();
        let headers = declared.map_or(("transfer-encoding", "chunked"), |n| ("content-length", n));
        let put = c.call_with("PUT", "/v1/a/c/o", &[headers], body, anyone()).await;
        assert_eq!(put.status, 499, "{declared:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(c.servers.iter().all(|s| s.get("/a/c/o").is_none()), "{declared:?}");
    }
    let c = Cluster::with_container().await;
    let (_tx, silent) = caelum_rest::stream_channel(4);
    assert_eq!(c.call_with("PUT", "/v1/a/c/o", &[("content-length", "100000")], silent, anyone()).await.status, 408);
    assert!(c.servers.iter().all(|s| s.get("/a/c/o").is_none()));
}

#[tokio::test]
async fn reading_goes_on_at_another_node() {
    let c = Cluster::with_container().await;
    assert_eq!(c.call("PUT", "/v1/a/c/o", &[], big()).await.status, 201);
    let (primaries, _) = c.places("o");
    for fault in [Fault::BreakAfter(1_000_000), Fault::SilentAfter(1_000_000), Fault::BreakAfter(0)] {
        primaries[0].fault(fault);
        primaries[1].fault(fault);
        let get = c.call("GET", "/v1/a/c/o", &[], "").await;
        assert_eq!((get.status, get.broken, get.body == big()), (200, false, true), "{fault:?}");
        let get = c.call("GET", "/v1/a/c/o", &[("range", "bytes=100-3000000")], "").await;
        assert_eq!((get.status, get.broken, get.body == big().slice(100..=3_000_000)), (206, false, true), "{fault:?}");
    }
    primaries[2].fault(Fault::BreakAfter(10));
    let get = c.call("GET", "/v1/a/c/o", &[], "").await;
    assert!(get.broken, "an answer that cannot be completed must not look whole");
}

/// Of what a server knew to be right there is no sum to compare with: silence is no reason to doubt it, a failure is.
#[tokio::test]
async fn known_bytes_are_gone_on_with_after_silence_only() {
    let c = Cluster::with_container().await;
    assert_eq!(c.call("PUT", "/v1/a/c/o", &[], big()).await.status, 201);
    let (primaries, _) = c.places("o");
    for (fault, tries) in [(Fault::SilentAfter(1_000_000), 3), (Fault::BreakAfter(1_000_000), 12)] {
        for p in &primaries[..2] {
            p.fault(fault);
            p.0.lock().unwrap().knows = true;
        }
        let mut broken = 0;
        for _ in 0..tries {
            let get = c.call("GET", "/v1/a/c/o", &[], "").await;
            assert!(get.broken || get.body == big(), "{fault:?}");
            broken += u32::from(get.broken);
        }
        assert_eq!(broken > 0, fault == Fault::BreakAfter(1_000_000), "{broken}");
    }
}

/// A server that finds at the end that what it sent was damaged breaks off.
#[tokio::test]
async fn damaged_bytes_never_pass_as_whole() {
    for at in [10, 2_000_000] {
        let c = Cluster::with_container().await;
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[], big()).await.status, 201);
        let (primaries, _) = c.places("o");
        for p in &primaries[..2] {
            p.fault(Fault::BreakAfter(1_000_000));
            let mut state = p.0.lock().unwrap();
            let stored = state.things.get_mut("/a/c/o").unwrap();
            let mut data = stored.data.to_vec();
            data[at] ^= 1;
            stored.data = data.into();
        }
        let mut broken = 0;
        for headers in [&[][..], &[("range", "bytes=0-")]].repeat(10) {
            let get = c.call("GET", "/v1/a/c/o", headers, "").await;
            assert!(get.broken || get.body == big(), "{at} {headers:?}");
            broken += u32::from(get.broken);
        }
        // What was sent before the damaged byte is right: another copy completes it.
        assert_eq!(broken > 0, at == 10, "{broken}");
    }
}

#[tokio::test]
async fn the_newest_wins_when_asked_for() {
    let c = Cluster::with_container().await;
    c.call("PUT", "/v1/a/c/o", &[], "old").await;
    let (primaries, _) = c.places("o");
    primaries[0].fault(Fault::Status(503));
    primaries[1].fault(Fault::Hang);
    assert_eq!(c.call("PUT", "/v1/a/c/o", &[], "new").await.status, 201);
    primaries[0].fault(Fault::None);
    primaries[1].fault(Fault::None);
    for _ in 0..10 {
        assert_eq!(c.call("GET", "/v1/a/c/o", &[("x-newest", "true")], "").await.text(), "new");
    }
}

#[tokio::test]
async fn a_node_that_fails_often_is_passed_over() {
    let c = Cluster::with_container().await;
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    let (primaries, _) = c.places("o");
    primaries[0].fault(Fault::Status(507));
    for _ in 0..20 {
        assert_eq!(c.call("GET", "/v1/a/c/o", &[], "").await.status, 200);
    }
    primaries[0].clear_seen();
    for _ in 0..20 {
        c.call("GET", "/v1/a/c/o", &[], "").await;
    }
    assert!(primaries[0].seen(&Method::GET).is_empty());
}

#[tokio::test]
async fn deletes_and_posts_need_a_quorum() {
    let c = Cluster::with_container().await;
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    for s in &c.servers {
        s.fault(Fault::Status(503));
    }
    assert_eq!(c.call("DELETE", "/v1/a/c/o", &[], "").await.status, 503);
    assert_eq!(c.call("POST", "/v1/a/c/o", &[], "").await.status, 503);
    assert_eq!(c.call("GET", "/v1/a/c/o", &[], "").await.status, 503);
    assert_eq!(c.call("PUT", "/v1/a/c2", &[], "").await.status, 503);
}

#[tokio::test]
async fn concurrent_gets_do_not_wait_for_a_slow_node() {
    let policy = PolicyOptions { concurrent_gets: true, concurrency_timeout: Duration::from_millis(20), ..PolicyOptions::default() };
    let c = Cluster::with(ProxyOptions { policy_defaults: policy, node_timeout: Duration::from_secs(20), ..ProxyOptions::default() });
    c.call("PUT", "/v1/a/c", &[], "").await;
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    let (primaries, _) = c.places("o");
    primaries[0].fault(Fault::Hang);
    primaries[1].fault(Fault::Hang);
    let info = c.proxy.container_info(&anyone(), "a", "c").await;
    assert!(info.exists());
    let started = std::time::Instant::now();
    assert_eq!(c.call("GET", "/v1/a/c/o", &[], "").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn over_sockets_too() {
    for fault in [Fault::None, Fault::Status(507), Fault::Hang, Fault::StallAfter(1), Fault::FailAfter(1)] {
        let c = Cluster::over_http(options()).await;
        let (primaries, handoffs) = c.places("o");
        primaries[2].fault(fault);
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[("if-none-match", "*")], big()).await.status, 201, "{fault:?}");
        let before_data = matches!(fault, Fault::Status(_) | Fault::Hang);
        assert_eq!(handoffs[0].get("/a/c/o").is_some(), before_data, "{fault:?}");
        primaries[2].fault(Fault::None);
        let get = c.call("GET", "/v1/a/c/o", &[], "").await;
        assert_eq!((get.status, get.body == big(), get.broken), (200, true, false), "{fault:?}");
        primaries[0].fault(Fault::BreakAfter(3_000_000));
        primaries[1].fault(Fault::SilentAfter(3_000_000));
        let get = c.call("GET", "/v1/a/c/o", &[], "").await;
        let whole = fault == Fault::None || before_data;
        assert!(get.broken != (get.body == big()) && (!whole || !get.broken), "{fault:?}");
        primaries[0].fault(Fault::None);
        primaries[1].fault(Fault::None);
        // Refused before the data is read.
        let (_tx, endless) = caelum_rest::stream_channel(1);
        let again = c.call_with("PUT", "/v1/a/c/o", &[("if-none-match", "*"), ("content-length", "1000000")], endless, anyone()).await;
        assert_eq!(again.status, 412, "{fault:?}");
        assert_eq!(c.call("PUT", "/v1/a/c/o", &[("etag", "0")], big()).await.status, 422, "{fault:?}");
        assert_eq!(c.call("PUT", "/v1/a/c/s", &[], "small").await.status, 201, "{fault:?}");
        assert_eq!(c.call("GET", "/v1/a/c/s", &[], "").await.text(), "small");
        assert_eq!(c.call("DELETE", "/v1/a/c/o", &[], "").await.status, 204, "{fault:?}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_leaves_nothing_behind_sockets() {
    let c = Cluster::over_http(options()).await;
    for header in [("transfer-encoding", "chunked"), ("content-length", "1000000")] {
        let (tx, body) = caelum_rest::stream_channel(4);
        tx.send(Ok(Bytes::from(vec![1; 50_000]))).await.unwrap();
        tx.send(Err(BoxError::from("gone"))).await.unwrap();
        assert_eq!(c.call_with("PUT", "/v1/a/c/o", &[header], body, anyone()).await.status, 499);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(c.servers.iter().all(|s| s.get("/a/c/o").is_none()), "{header:?}");
    }
}

#[tokio::test]
async fn a_stalled_upload_is_not_taken_into_memory() {
    let c = Cluster::with(ProxyOptions { node_timeout: Duration::from_millis(700), ..options() });
    c.call("PUT", "/v1/a/c", &[], "").await;
    for s in &c.servers {
        s.fault(Fault::StallAfter(1));
    }
    let (tx, body) = caelum_rest::stream_channel(1);
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        while tx.send(Ok(Bytes::from(vec![0; 65_536]))).await.is_ok() {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let put = c.call_with("PUT", "/v1/a/c/o", &[("transfer-encoding", "chunked")], body, anyone()).await;
    assert_eq!(put.status, 503);
    let pieces = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(pieces < 20, "{pieces} pieces of 64 KiB were taken");
}

#[tokio::test]
async fn a_listing_that_stops_does_not_wait_forever() {
    let c = Cluster::with_container().await;
    for s in &c.servers {
        let rows = vec![serde_json::json!({"name": "x"}); 100];
        s.0.lock().unwrap().listings.insert("/a/c".into(), (HeaderMap::new(), serde_json::Value::from(rows).to_string()));
        s.fault(Fault::SilentAfter(10));
    }
    let started = std::time::Instant::now();
    let listing = c.call("GET", "/v1/a/c", &[], "").await;
    assert!(listing.broken && started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn proxies_share_what_they_know() {
    let shared: Arc<dyn Cache> = Arc::new(MemoryCache::new(Env::system()));
    let one = Cluster::with_cache(options(), Some(shared.clone()));
    let two = Cluster { proxy: one.sibling(Some(shared.clone())), ..Cluster::with_cache(options(), None) };
    assert_eq!(one.call("PUT", "/v1/a/c", &[("x-container-read", "bob")], "").await.status, 201);
    assert_eq!(one.call("PUT", "/v1/a/c/o", &[], "x").await.status, 201);
    assert!(shared.get("container/a/c").await.is_some() && shared.get("account/a").await.is_some());
    for s in &one.servers {
        s.clear_seen();
    }
    let info = two.proxy.container_info(&anyone(), "a", "c").await;
    assert_eq!(info.read_acl.as_deref(), Some("bob"));
    assert!(one.servers.iter().all(|s| s.seen(&Method::HEAD).is_empty()), "the answer was in the cache");
    assert_eq!(two.call("DELETE", "/v1/a/c", &[], "").await.status, 204);
    assert!(shared.get("container/a/c").await.is_none());
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(!one.proxy.container_info(&anyone(), "a", "c").await.exists());
}

#[tokio::test]
async fn writes_stay_near_when_told_so() {
    let policy = PolicyOptions { write_affinity: Affinity::write("r1z4, r1z5").unwrap(), ..PolicyOptions::default() };
    let c = Cluster::with(ProxyOptions { policy_defaults: policy, ..options() });
    c.call("PUT", "/v1/a/c", &[], "").await;
    for i in 0..8 {
        let (path, entity) = (format!("/v1/a/c/o{i}"), format!("/a/c/o{i}"));
        assert_eq!(c.call("PUT", &path, &[], "x").await.status, 201);
        assert!(c.servers[3].get(&entity).is_some() && c.servers[4].get(&entity).is_some(), "{i}");
        assert_eq!(c.servers.iter().filter(|s| s.get(&entity).is_some()).count(), 3);
        assert_eq!(c.call("GET", &path, &[], "").await.text(), "x");
        assert_eq!(c.call("DELETE", &path, &[], "").await.status, 204, "{i}");
        assert_eq!(c.call("GET", &path, &[], "").await.status, 404);
    }
}

#[tokio::test]
async fn reads_ask_the_nearest_first() {
    let policy = PolicyOptions {
        sorting_method: Sorting::Affinity,
        read_affinity: Affinity::read("r1z1=1, r1z2=2, r1=3").unwrap(),
        ..PolicyOptions::default()
    };
    let c = Cluster::with(ProxyOptions { policy_defaults: policy, ..options() });
    c.call("PUT", "/v1/a/c", &[], "").await;
    c.call("PUT", "/v1/a/c/o", &[], "x").await;
    let (primaries, _) = c.places("o");
    let nearest = (0..5).find(|i| primaries.iter().any(|p| Arc::ptr_eq(&p.0, &c.servers[*i].0))).unwrap();
    for _ in 0..10 {
        c.call("GET", "/v1/a/c/o", &[], "").await;
    }
    let seen = |i: usize| c.servers[i].seen(&Method::GET).len();
    assert_eq!((seen(nearest), (0..5).map(seen).sum::<usize>()), (10, 10));
}
