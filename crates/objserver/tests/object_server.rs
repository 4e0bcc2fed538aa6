//! The object server over its HTTP interface.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use caelum_base::{Env, ManualClock, SystemRng};
use caelum_diskfile::Reserve;
use caelum_objserver::{ObjectServer, ObjectServerConfig};
use caelum_rest::{Body, HttpService, Interim, full, read_limited, stream_channel};
use caelum_swiftkit::{Nodes, SwiftConf, md5_hex};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const NOW: i64 = 1_700_000_000;

/// Stands for a container server: notes what it is told and answers with a status.
struct Containers {
    status: Mutex<u16>,
    seen: Mutex<Vec<(String, http::HeaderMap)>>,
}

impl HttpService for Containers {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        self.seen.lock().unwrap().push((format!("{} {}", req.method(), req.uri()), req.headers().clone()));
        let status = *self.status.lock().unwrap();
        Box::pin(async move { Response::builder().status(status).body(full("")).unwrap() })
    }
}

struct Bed {
    server: Arc<ObjectServer>,
    containers: Arc<Containers>,
    clock: Arc<ManualClock>,
    root: PathBuf,
    _dir: tempfile::TempDir,
}

fn bed_with(change: impl FnOnce(&mut ObjectServerConfig)) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    std::fs::create_dir(root.join("sda")).unwrap();
    let conf = "[swift-hash]\nswift_hash_path_suffix = s\n[storage-policy:0]\nname = gold\ndefault = yes\n[storage-policy:1]\nname = ec\n\
                policy_type = erasure_coding\nec_type = isa_l_rs_vand\nec_num_data_fragments = 2\nec_num_parity_fragments = 1\n";
    let clock = Arc::new(ManualClock::at(caelum_base::Timestamp::from_secs(NOW)));
    let nodes = Nodes::default();
    let containers = Arc::new(Containers { status: Mutex::new(201), seen: Mutex::default() });
    nodes.set_local("10.0.0.1", 6201, containers.clone());
    let env = Env { clock: clock.clone(), rng: Arc::new(SystemRng) };
    let mut config = ObjectServerConfig::new(&root, Arc::new(SwiftConf::parse(conf).unwrap()), nodes, env);
    config.disk.mount_check = false;
    config.disk.reserve = Reserve::Bytes(0);
    change(&mut config);
    Bed { server: ObjectServer::new(config), containers, clock, root, _dir: dir }
}

fn bed() -> Bed {
    bed_with(|_| {})
}

fn ts(secs: i64) -> String {
    format!("{}.00000", NOW + secs)
}

type Got = (u16, http::HeaderMap, Bytes);

impl Bed {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Got {
        let mut req = Request::builder().method(method).uri(path);
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let (parts, body) = self.server.call(req.body(body).unwrap()).await.into_parts();
        (parts.status.as_u16(), parts.headers, read_limited(body, 1 << 24).await.unwrap_or_default())
    }

    async fn put(&self, name: &str, secs: i64, body: &[u8], more: &[(&str, &str)]) -> Got {
        let (t, n) = (ts(secs), body.len().to_string());
        let mut h = vec![("X-Timestamp", t.as_str()), ("Content-Type", "a/b"), ("Content-Length", n.as_str())];
        h.extend(more);
        self.send("PUT", &format!("/sda/1/a/c/{name}"), &h, full(body.to_vec())).await
    }

    async fn get(&self, name: &str, headers: &[(&str, &str)]) -> Got {
        self.send("GET", &format!("/sda/1/a/c/{name}"), headers, full("")).await
    }

    fn queued(&self) -> usize {
        let disks = self.server.disks();
        disks.pending_updates("sda", disks.policy(0).unwrap()).unwrap().len()
    }
}

fn header<'a>(got: &'a Got, name: &str) -> &'a str {
    got.1.get(name).map_or("", |v| v.to_str().unwrap())
}

#[tokio::test]
async fn an_object_s_life() {
    let b = bed();
    let body = vec![5; 3 << 20];
    let r = b.put("o", 0, &body, &[("X-Object-Meta-A", "1"), ("Expires", "never"), ("X-Unknown", "x")]).await;
    assert_eq!((r.0, header(&r, "etag")), (201, format!("\"{}\"", md5_hex(&body)).as_str()));
    let r = b.get("o", &[]).await;
    assert_eq!(
        (r.0, r.2.len(), header(&r, "x-object-meta-a"), header(&r, "expires"), header(&r, "x-unknown")),
        (200, 3 << 20, "1", "never", "")
    );
    assert_eq!((header(&r, "x-timestamp"), header(&r, "x-backend-data-timestamp")), (ts(0).as_str(), ts(0).as_str()));
    assert_eq!(header(&r, "last-modified"), "Tue, 14 Nov 2023 22:13:20 GMT");

    assert_eq!(b.put("o", 0, b"x", &[]).await.0, 409);
    let r = b.send("POST", "/sda/1/a/c/o", &[("X-Timestamp", &ts(1)), ("X-Object-Meta-B", "2")], full("")).await;
    assert_eq!((r.0, header(&r, "x-backend-content-type")), (202, "a/b"));
    assert_eq!(b.send("POST", "/sda/1/a/c/o", &[("X-Timestamp", &ts(1))], full("")).await.0, 409);
    let r = b.send("HEAD", "/sda/1/a/c/o", &[], full("")).await;
    assert_eq!((header(&r, "x-object-meta-a"), header(&r, "x-object-meta-b"), header(&r, "content-length")), ("", "2", "3145728"));
    assert!(r.2.is_empty());

    let r = b.send("DELETE", "/sda/1/a/c/o", &[("X-Timestamp", &ts(2))], full("")).await;
    assert_eq!((r.0, header(&r, "x-backend-timestamp")), (204, ts(2).as_str()));
    let r = b.get("o", &[]).await;
    assert_eq!((r.0, header(&r, "x-backend-timestamp")), (404, ts(2).as_str()));
    assert_eq!(b.get("o", &[("If-Match", "*")]).await.0, 412);
    assert_eq!(b.put("o", 1, b"x", &[]).await.0, 409);
    assert_eq!(b.send("POST", "/sda/1/a/c/o", &[("X-Timestamp", &ts(9))], full("")).await.0, 404);
}

#[tokio::test]
async fn parts_and_conditions() {
    let b = bed();
    let body: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
    b.put("o", 0, &body, &[("X-Object-Sysmeta-Other", "zz")]).await;
    let r = b.get("o", &[("Range", "bytes=65530-65545")]).await;
    assert_eq!((r.0, header(&r, "content-range"), &r.2[..]), (206, "bytes 65530-65545/200000", &body[65530..=65545]));
    let r = b.get("o", &[("Range", "bytes=0-1,150000-,-2")]).await;
    assert_eq!((r.0, header(&r, "content-length")), (206, r.2.len().to_string().as_str()));
    let boundary = header(&r, "content-type").strip_prefix("multipart/byteranges;boundary=").unwrap().to_string();
    let mut want = Vec::new();
    for (s, e) in [(0, 2), (150_000, 200_000), (199_998, 200_000)] {
        want.extend_from_slice(
            format!("--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes {s}-{}/200000\r\n\r\n", e - 1).as_bytes(),
        );
        want.extend_from_slice(&body[s..e]);
        want.extend_from_slice(b"\r\n");
    }
    want.extend_from_slice(format!("--{boundary}--").as_bytes());
    assert_eq!(&r.2[..], &want[..]);
    let r = b.get("o", &[("Range", "bytes=200000-")]).await;
    assert_eq!((r.0, header(&r, "content-range")), (416, "bytes */200000"));
    assert_eq!(b.get("o", &[("Range", "bytes=5-1")]).await.0, 200);
    let ignore = ("X-Backend-Ignore-Range-If-Metadata-Present", "X-None, X-Object-Sysmeta-Other");
    assert_eq!(b.get("o", &[("Range", "bytes=0-1"), ignore]).await.0, 200);

    let etag = md5_hex(&body);
    for (name, value, status) in [
        ("If-None-Match", "*", 304),
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", "\"x\"", 200),
        ("If-Match", "\"x\"", 412),
        ("If-Match", &format!("\"x\", \"{etag}\""), 200),
        ("If-Modified-Since", "Tue, 14 Nov 2023 22:13:20 GMT", 304),
        ("If-Modified-Since", "Tue, 14 Nov 2023 22:13:19 GMT", 200),
        ("If-Unmodified-Since", "Tue, 14 Nov 2023 22:13:19 GMT", 412),
        ("If-Unmodified-Since", "rubbish", 200),
    ] {
        let r = b.get("o", &[(name, value)]).await;
        assert_eq!((r.0, r.2.is_empty()), (status, status != 200), "{name}: {value}");
    }
    let at = ("X-Backend-Etag-Is-At", "X-None,X-Object-Sysmeta-Other");
    assert_eq!(b.get("o", &[("If-Match", "zz"), at]).await.0, 200);
    assert_eq!(b.put("o", 1, b"x", &[("If-None-Match", "*")]).await.0, 412);
}

#[tokio::test]
async fn bad_requests() {
    let b = bed();
    assert_eq!(b.put("o", 0, b"x", &[("ETag", "nope")]).await.0, 422);
    assert_eq!(b.put("o", 0, b"x", &[("X-Delete-At", "x")]).await.2, "Non-integer X-Delete-At");
    assert_eq!(b.put("o", 0, b"x", &[("X-Delete-At", "1")]).await.2, "X-Delete-At in past");
    assert_eq!(b.put("o", 0, b"x", &[("X-Delete-After", "-1")]).await.2, "X-Delete-After in past");
    assert_eq!(b.put(&"n".repeat(1024), 0, b"x", &[]).await.0, 201);
    assert_eq!(b.put(&"n".repeat(1025), 0, b"x", &[]).await.2, "Object name length of 1025 longer than 1024");
    assert_eq!(b.put("o", 0, b"x", &[("X-Object-Meta-A", &"v".repeat(257))]).await.0, 400);
    assert_eq!(b.put("o", 0, b"xy", &[("X-Backend-Storage-Policy-Index", "7")]).await.0, 503);
    assert_eq!(b.put("%ff", 0, b"xy", &[]).await.0, 412);
    // `swift-recon` asks so what kind of server this is.
    let (status, headers, _) = b.send("OPTIONS", "/", &[], full("")).await;
    assert_eq!((status, headers["allow"].to_str().unwrap()), (200, "DELETE, GET, HEAD, OPTIONS, POST, PUT, REPLICATE, SSYNC"));
    assert!(headers["server"].to_str().unwrap().starts_with("object-server/"));
    let t = ("X-Timestamp", ts(0));
    let base = [(t.0, t.1.as_str()), ("Content-Type", "a/b")];
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &base, full("")).await.0, 411);
    let short = [&base[..], &[("Content-Length", "10")]].concat();
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &short, full("short")).await.0, 499);
    let (tx, body) = stream_channel(4);
    tx.send(Ok(Bytes::from_static(b"12345"))).await.unwrap();
    tx.send(Err("gone".into())).await.unwrap();
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &short, body).await.0, 499);
    let large = [&base[..], &[("Content-Length", "5368709123")]].concat();
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &large, full("x")).await.0, 413);
    for path in ["/sda/1/a/c", "/../1/a/c/o", "/sda/../a/c/o", "/sda/1/a//o"] {
        assert_eq!(b.send("GET", path, &[], full("")).await.0, 400, "{path}");
    }
    assert_eq!(b.send("GET", "/sdb/1/a/c/o", &[], full("")).await.0, 507);
    assert_eq!(b.send("BREW", "/sda/1/a/c/o", &[], full("")).await.0, 405);
    assert_eq!(b.get("o", &[]).await.0, 404, "nothing of all this was stored");
}

const CONTAINER: [(&str, &str); 3] =
    [("X-Container-Host", "10.0.0.1:6201,10.0.0.2:1"), ("X-Container-Device", "sdb,sdc"), ("X-Container-Partition", "9")];

#[tokio::test]
async fn containers_are_told_or_the_update_waits() {
    let b = bed();
    let more = [&CONTAINER[..], &[("X-Backend-Container-Update-Override-Size", "77"), ("X-Trans-Id", "tx1")]].concat();
    assert_eq!(b.put("%C3%B6", 0, b"abc", &more).await.0, 201);
    {
        let seen = b.containers.seen.lock().unwrap();
        let (line, h) = &seen[0];
        assert_eq!(line, "PUT /sdb/9/a/c/%C3%B6");
        let get = |k: &str| h.get(k).unwrap().to_str().unwrap().to_string();
        assert_eq!((get("x-size"), get("x-etag"), get("x-timestamp")), ("77".into(), md5_hex(b"abc"), ts(0)));
        assert_eq!(
            (get("x-content-type"), get("x-trans-id"), get("x-backend-storage-policy-index")),
            ("a/b".into(), "tx1".into(), "0".into())
        );
    }
    // The second host does not answer; its update is in the queue.
    let disks = b.server.disks();
    let policy = disks.policy(0).unwrap();
    let files = disks.pending_updates("sda", policy).unwrap();
    assert_eq!(files.len(), 1);
    let queued = caelum_diskfile::PendingUpdate::load(&std::fs::read(&files[0].path).unwrap()).unwrap();
    assert_eq!((queued.op.as_str(), queued.account.as_str(), queued.container.as_str(), queued.object.as_str()), ("PUT", "a", "c", "ö"));
    disks.remove_update(&files[0]).unwrap();

    *b.containers.status.lock().unwrap() = 507;
    let one = [("X-Container-Host", "10.0.0.1:6201"), ("X-Container-Device", "sdb"), ("X-Container-Partition", "9")];
    let t = ts(5);
    let del = [&one[..], &[("X-Timestamp", t.as_str())]].concat();
    assert_eq!(b.send("DELETE", "/sda/1/a/c/%C3%B6", &del, full("")).await.0, 204);
    assert_eq!(b.containers.seen.lock().unwrap().last().unwrap().0, "DELETE /sdb/9/a/c/%C3%B6");
    assert_eq!(b.queued(), 1);
}

#[tokio::test]
async fn expiring_objects() {
    let b = bed();
    let at = (NOW + 100).to_string();
    let host = [("X-Delete-At-Host", "10.0.0.1:6201"), ("X-Delete-At-Device", "sdb"), ("X-Delete-At-Partition", "3")];
    let more = [&host[..], &[("X-Delete-At", at.as_str()), ("X-Delete-At-Container", "1699999900")]].concat();
    assert_eq!(b.put("o", 0, b"abc", &more).await.0, 201);
    {
        let seen = b.containers.seen.lock().unwrap();
        assert_eq!(seen[0].0, format!("PUT /sdb/3/.expiring_objects/1699999900/{at}-a/c/o"));
        assert_eq!(seen[0].1.get("x-content-type").unwrap(), "text/plain;swift_expirer_bytes=3");
    }
    b.clock.advance(std::time::Duration::from_secs(200));
    assert_eq!(b.get("o", &[]).await.0, 404);
    assert_eq!(b.get("o", &[("X-Backend-Open-Expired", "true")]).await.0, 200);
    let del = |at: &'static str| [("X-Timestamp", "1700000200.00000"), ("X-If-Delete-At", at)];
    assert_eq!(b.send("DELETE", "/sda/1/a/c/o", &del("1700000101"), full("")).await.0, 412);
    assert_eq!(b.send("DELETE", "/sda/1/a/c/none", &del("1700000100"), full("")).await.0, 404);
    assert_eq!(b.send("DELETE", "/sda/1/a/c/o", &del("1700000100"), full("")).await.0, 204);
    assert_eq!(b.queued(), 1, "the entry in the expirer's queue is to go");
}

fn document(etag: &str, commit: bool) -> Vec<u8> {
    let footer = format!("{{\"X-Object-Sysmeta-Ec-Frag-Index\": \"1\", \"X-Object-Meta-Late\": \"yes\", \"Etag\": \"{etag}\"}}");
    let mut out = format!(
        "--bb\r\nX-Document: object body\r\n\r\nfragment\r\n--bb\r\nX-Document: object metadata\r\nContent-MD5: {}\r\n\r\n{footer}",
        md5_hex(footer.as_bytes())
    );
    if commit {
        out.push_str("\r\n--bb\r\nX-Document: put commit\r\n\r\ncommit_confirmation");
    }
    out.push_str("\r\n--bb--");
    out.into_bytes()
}

#[tokio::test]
async fn footers_and_two_phases() {
    let b = bed();
    let t = ts(0);
    let base = [
        ("X-Timestamp", t.as_str()),
        ("Content-Type", "a/b"),
        ("X-Backend-Storage-Policy-Index", "1"),
        ("X-Backend-Obj-Multipart-Mime-Boundary", "bb"),
        ("X-Backend-Obj-Metadata-Footer", "yes"),
        ("X-Backend-Obj-Multiphase-Commit", "yes"),
        ("Expect", "100-continue"),
    ];
    let bad = document("0123", true);
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &base, full(bad)).await.0, 422);
    let good = md5_hex(b"fragment");
    assert_eq!(b.send("PUT", "/sda/1/a/c/o", &base, full(document(&good, false))).await.0, 400);
    let policy = ("X-Backend-Storage-Policy-Index", "1");
    assert_eq!(b.get("o", &[policy]).await.0, 404, "written, but not committed");
    let r = b.get("o", &[policy, ("X-Backend-Fragment-Preferences", "[]")]).await;
    // It is no fragment of liberasurecode's.
    assert_eq!(r.0, 404);

    let (interim, mut heard) = Interim::channel();
    let t = ts(1);
    let mut req = Request::builder().method("PUT").uri("/sda/1/a/c/o");
    for (k, v) in base.iter().skip(1) {
        req = req.header(*k, *v);
    }
    let (tx, body) = stream_channel(4);
    let mut req = req.header("X-Timestamp", &t).body(body).unwrap();
    req.extensions_mut().insert(interim);
    let answer = tokio::spawn(b.server.call(req));
    let told = heard.recv().await.unwrap();
    assert!(
        told.contains(&("X-Obj-Multiphase-Commit".into(), "yes".into())) && told.contains(&("X-Obj-Metadata-Footer".into(), "yes".into()))
    );
    let doc = document(&good, true);
    let cut = doc.windows(20).position(|w| w == b"X-Document: put comm").unwrap();
    tx.send(Ok(Bytes::copy_from_slice(&doc[..cut]))).await.unwrap();
    assert!(heard.recv().await.unwrap().is_empty(), "stored; commit or not");
    tx.send(Ok(Bytes::copy_from_slice(&doc[cut..]))).await.unwrap();
    drop(tx);
    assert_eq!(answer.await.unwrap().status().as_u16(), 201);
    let r = b.send("HEAD", "/sda/1/a/c/o", &[policy], full("")).await;
    assert_eq!((r.0, header(&r, "x-object-meta-late"), header(&r, "x-backend-durable-timestamp")), (200, "yes", t.as_str()));
    assert_eq!(header(&r, "x-backend-fragments"), format!("{{\"{t}\":[1]}}"));
}

#[tokio::test]
async fn replication() {
    let b = bed();
    b.put("old", 0, b"1", &[]).await;
    let disks = b.server.disks();
    let hash = disks.object_hash("a", "c", "new");
    let known = disks.object_hash("a", "c", "old");
    let body = format!(
        ":MISSING_CHECK: START\r\n{hash} {}\r\n{known} {}\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\nPUT /a/c/new\r\nContent-Length: 3\r\n\
         Content-Type: x/y\r\nETag: {}\r\nX-Timestamp: {}\r\nX-Object-Meta-K: v\r\nX-Delete-At: 1600000000\r\n\r\nabcDELETE /a/c/old\r\nX-Timestamp: {}\r\n\r\n:UPDATES: END\r\n",
        ts(1),
        ts(0),
        md5_hex(b"abc"),
        ts(1),
        ts(2)
    );
    let r = b.send("SSYNC", "/sda/1", &[], full(body)).await;
    assert_eq!(r.0, 200);
    assert_eq!(
        String::from_utf8_lossy(&r.2),
        format!("\r\n:MISSING_CHECK: START\r\n{hash} dm\r\n\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\n:UPDATES: END\r\n")
    );
    let r = b.get("new", &[("X-Backend-Replication", "true")]).await;
    assert_eq!((r.0, &r.2[..], header(&r, "x-object-meta-k"), header(&r, "content-type")), (200, &b"abc"[..], "v", "x/y"));
    assert_eq!(b.get("old", &[]).await.0, 404);
    for bad in [
        "",
        "rubbish\r\n",
        ":MISSING_CHECK: START\r\n../../x 1\r\n",
        ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\nGET /a/c/o\r\n\r\n",
    ] {
        let r = b.send("SSYNC", "/sda/1", &[], full(bad)).await;
        assert!(String::from_utf8_lossy(&r.2).contains(":ERROR: "), "{bad}");
    }
    // A subrequest that breaks off is not taken for the object.
    let cut = format!(
        ":MISSING_CHECK: START\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\nPUT /a/c/cut\r\nContent-Length: 9\r\nContent-Type: x\r\nX-Timestamp: {}\r\n\r\nabc",
        ts(1)
    );
    b.send("SSYNC", "/sda/1", &[], full(cut)).await;
    assert_eq!(b.get("cut", &[]).await.0, 404);

    let r = b.send("REPLICATE", "/sda/1", &[], full("")).await;
    let hashes = caelum_diskfile::load_hashes(&r.2).unwrap();
    assert_eq!(hashes.keys().collect::<Vec<_>>().len(), 2);
    let suffix = hashes.keys().next().unwrap();
    let r = b.send("REPLICATE", &format!("/sda/1/{suffix}"), &[], full("")).await;
    assert_eq!(&r.2[..], b"\x80\x02N.");
    assert_eq!(std::fs::read_to_string(b.root.join("sda/objects/1/hashes.invalid")).unwrap(), format!("{suffix}\n"));
    assert_eq!(b.send("REPLICATE", "/sdz/1", &[], full("")).await.0, 507);
}

#[tokio::test]
async fn a_damaged_object_is_never_served_as_whole() {
    let b = bed();
    for (name, size) in [("small", 1_000), ("large", 3_000_000)] {
        b.put(name, 0, &vec![1; size], &[]).await;
        let disks = b.server.disks();
        let object = disks.object("sda", "1", 0, ("a", "c", name), caelum_diskfile::Look::default()).unwrap();
        let path = object.dir().join(format!("{}.data", ts(0)));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 999).unwrap();
        let req = Request::builder().uri(format!("/sda/1/a/c/{name}")).body(full("")).unwrap();
        let (parts, body) = b.server.call(req).await.into_parts();
        let whole = read_limited(body, 1 << 24).await;
        assert!(parts.status.as_u16() == 404 || whole.is_err(), "{name}");
        assert_eq!(b.get(name, &[]).await.0, 404, "{name}");
    }
}
