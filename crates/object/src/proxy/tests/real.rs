//! The proxy over real storage servers on temporary directories.

use super::*;
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer, ContainerServerConfig, ObjectServer, ObjectServerConfig};
use caelum_swiftkit::{PolicyKind, StoragePolicy};
use std::path::PathBuf;

pub(super) const EC_SEGMENT: u64 = 65_536;

pub(super) struct Real {
    pub proxy: Arc<Proxy>,
    /// What requests go to: the proxy, or layers before it.
    pub front: Arc<dyn HttpService>,
    pub dir: tempfile::TempDir,
    pub n: u16,
    nodes: Nodes,
    objects: Vec<Arc<dyn HttpService>>,
    _handles: Vec<caelum_rest::ServerHandle>,
}

fn policies() -> Policies {
    let kind = PolicyKind::ErasureCoding { ec_type: "isa_l_rs_vand".into(), data: 3, parity: 2, segment_size: EC_SEGMENT, duplication: 1 };
    let ec = StoragePolicy { index: 1, name: "ec".into(), is_default: false, kind, ..StoragePolicy::zero() };
    Policies::new(vec![StoragePolicy::zero(), ec]).unwrap()
}

fn ring_of(replicas: u32, n: u32, first: u16) -> Ring {
    let ports: Vec<u16> = (first..first + u16::try_from(n).unwrap()).collect();
    ring_at(replicas, &ports)
}

fn ring_at(replicas: u32, ports: &[u16]) -> Ring {
    let n = u32::try_from(ports.len()).unwrap();
    let device = |i: u32| Device {
        id: i,
        region: 1,
        zone: i + 1,
        ip: "127.0.0.1".into(),
        port: ports[usize::try_from(i).unwrap()],
        device: "sda".into(),
        weight: 1.0,
        ..Device::default()
    };
    let rows = (0..replicas).map(|r| (0..16).map(|p| (p + r) % n).collect()).collect();
    Ring::new((0..n).map(|i| Some(device(i))).collect(), rows, 4)
}

impl Real {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    /// The object servers behind sockets.
    pub(super) async fn over_http() -> Self {
        let mut ports = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..6 {
            let server = caelum_rest::Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            ports.push(server.addr().unwrap().port());
            servers.push(server);
        }
        let mut c = Self::build(options(), Some(&ports));
        let objects = std::mem::take(&mut c.objects);
        c._handles = servers.into_iter().zip(objects).map(|(s, o)| s.start(o).unwrap()).collect();
        c
    }

    pub(super) fn with(options: ProxyOptions) -> Self {
        Self::build(options, None)
    }

    fn build(options: ProxyOptions, sockets: Option<&[u16]>) -> Self {
        let mut servers: Vec<Arc<dyn HttpService>> = Vec::new();
        let dir = tempfile::tempdir().unwrap();
        let env = Env::system();
        let hash = caelum_swiftkit::HashPath { prefix: Vec::new(), suffix: HASH_SUFFIX.to_vec() };
        let swift = Arc::new(SwiftConf { hash, policies: policies() });
        let nodes = Nodes::default();
        let n = 6;
        for i in 0..n {
            let devices = dir.path().join(format!("n{i}"));
            std::fs::create_dir_all(devices.join("sda")).unwrap();
            let db = || AccountServerConfig::new(&devices, (*swift).clone(), nodes.clone(), env.clone());
            nodes.set_local("127.0.0.1", 6_100 + i, AccountServer::new(db()).service());
            let container: ContainerServerConfig = db();
            nodes.set_local("127.0.0.1", 6_120 + i, ContainerServer::new(container).service());
            let mut object = ObjectServerConfig::new(&devices, swift.clone(), nodes.clone(), env.clone());
            object.disk.mount_check = false;
            let object = ObjectServer::new(object);
            servers.push(object.clone());
            if sockets.is_none() {
                nodes.set_local("127.0.0.1", 6_140 + i, object);
            }
        }
        let n32 = u32::from(n);
        let local: Vec<u16> = (6_140..6_140 + n).collect();
        let ports = sockets.unwrap_or(&local);
        let objects = vec![(0, ring_at(3, ports)), (1, ring_at(5, ports))];
        let rings = Rings::fixed(ring_of(3, n32, 6_100), ring_of(3, n32, 6_120), objects);
        let of_proxy = nodes.clone();
        let proxy = Proxy::new(ProxyDeps { rings, nodes, swift, env, options, cache: None });
        Self { front: proxy.clone(), proxy, dir, n, nodes: of_proxy, objects: servers, _handles: Vec::new() }
    }

    pub(super) async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.send(method, path, headers, caelum_rest::full(body)).await
    }

    pub(super) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        self.send_with(method, path, headers, body, |_| ()).await
    }

    pub(super) async fn send_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
        change: impl FnOnce(&mut Req),
    ) -> Answer {
        let mut req = Request::builder().method(method).uri(path);
        for (n, v) in headers {
            req = req.header(*n, *v);
        }
        let mut req = req.body(body).unwrap();
        req.extensions_mut().insert(Environ { is_owner: true, ..anyone() });
        change(&mut req);
        let (head, body) = self.front.call(req).await.into_parts();
        let collected = body.collect().await;
        let broken = collected.is_err();
        let body = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Answer { status: head.status.as_u16(), headers: head.headers, body, broken }
    }

    /// Data files of a policy's objects, by node.
    pub(super) fn data_files(&self, below: &str) -> Vec<PathBuf> {
        fn walk(dir: &std::path::Path, out: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, out);
                } else if path.extension().is_some_and(|e| e == "data") {
                    out.push(path);
                }
            }
        }
        let mut out = Vec::new();
        for i in 0..self.n {
            walk(&self.dir.path().join(format!("n{i}/sda/{below}")), &mut out);
        }
        out
    }
}

pub(super) fn pattern(n: usize) -> Bytes {
    Bytes::from((0..n).map(|i| (i % 253) as u8 ^ (i / 7_919) as u8).collect::<Vec<u8>>())
}

fn names(listing: &Answer) -> Vec<String> {
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&listing.body).unwrap();
    rows.iter().map(|r| r["name"].as_str().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_once() {
    let c = Real::new();
    assert_eq!(c.call("GET", "/v1/a", &[], "").await.text(), "[]");
    assert_eq!(c.call("PUT", "/v1/a/c", &[("x-container-meta-x", "1"), ("x-container-read", ".r:*")], "").await.status, 201);
    assert_eq!(c.call("PUT", "/v1/a/c", &[], "").await.status, 202);
    let head = c.call("HEAD", "/v1/a/c", &[], "").await;
    assert_eq!((head.status, head.header("x-container-meta-x"), head.header("x-container-read")), (204, Some("1"), Some(".r:*")));
    assert_eq!(head.header("x-storage-policy"), Some("Policy-0"));
    let put = c.call("PUT", "/v1/a/c/one", &[("x-object-meta-k", "v")], "hello").await;
    assert_eq!((put.status, put.header("etag")), (201, Some("5d41402abc4b2a76b9719d911017c592")));
    let get = c.call("GET", "/v1/a/c/one", &[], "").await;
    assert_eq!((get.status, get.text(), get.header("x-object-meta-k")), (200, "hello", Some("v")));
    assert_eq!(get.header("etag"), Some("5d41402abc4b2a76b9719d911017c592"));
    let not_modified = c.call("GET", "/v1/a/c/one", &[("if-none-match", "5d41402abc4b2a76b9719d911017c592")], "").await;
    assert_eq!((not_modified.status, not_modified.body.len()), (304, 0));
    assert_eq!(c.call("GET", "/v1/a/c/one", &[("if-match", "x")], "").await.status, 412);
    assert_eq!(c.call("GET", "/v1/a/c/one", &[("range", "bytes=9-")], "").await.status, 416);
    assert_eq!(c.call("GET", "/v1/a/c/one", &[("range", "bytes=-2")], "").await.text(), "lo");
    let multi = c.call("GET", "/v1/a/c/one", &[("range", "bytes=0-1,3-4")], "").await;
    assert!(multi.status == 206 && multi.header("content-type").unwrap().starts_with("multipart/byteranges"));
    let large = pattern(5 << 20);
    assert_eq!(c.call("PUT", "/v1/a/c/two", &[("content-type", "a/b")], large.clone()).await.status, 201);
    let get = c.call("GET", "/v1/a/c/two", &[], "").await;
    assert!(get.status == 200 && get.body == large);
    assert_eq!(c.data_files("objects").len(), 6);
    assert_eq!(names(&c.call("GET", "/v1/a/c", &[], "").await), ["one", "two"]);
    assert_eq!(names(&c.call("GET", "/v1/a/c?prefix=t", &[], "").await), ["two"]);
    assert_eq!(c.call("HEAD", "/v1/a/c", &[], "").await.header("x-container-object-count"), Some("2"));
    assert_eq!(c.call("POST", "/v1/a/c/one", &[("x-object-meta-k", "w")], "").await.status, 202);
    assert_eq!(c.call("HEAD", "/v1/a/c/one", &[], "").await.header("x-object-meta-k"), Some("w"));
    assert_eq!(c.call("PUT", "/v1/a/c/one", &[("etag", "00000000000000000000000000000000")], "x").await.status, 422);
    assert_eq!(c.call("PUT", "/v1/a/c/one", &[("if-none-match", "*")], "x").await.status, 412);
    assert_eq!(c.call("PUT", "/v1/a/c/one", &[("if-none-match", "*")], large.clone()).await.status, 412);
    assert_eq!(c.call("DELETE", "/v1/a/c", &[], "").await.status, 409);
    assert_eq!(c.call("DELETE", "/v1/a/c/one", &[], "").await.status, 204);
    assert_eq!(c.call("DELETE", "/v1/a/c/two", &[], "").await.status, 204);
    assert_eq!(c.call("GET", "/v1/a/c/one", &[], "").await.status, 404);
    assert_eq!(c.call("GET", "/v1/a/c", &[], "").await.text(), "[]");
    assert_eq!(names(&c.call("GET", "/v1/a", &[], "").await), ["c"]);
    assert_eq!(c.call("DELETE", "/v1/a/c", &[], "").await.status, 204);
    assert_eq!(c.call("GET", "/v1/a/c", &[], "").await.status, 404);
    assert_eq!(c.call("DELETE", "/v1/a/c", &[], "").await.status, 404);
    assert_eq!(c.call("PUT", "/v1/a/c/one", &[], "x").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_are_stored() {
    let c = Real::new();
    c.call("PUT", "/v1/a/c", &[], "").await;
    for size in [10, 300_000] {
        let data = pattern(size);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-object-sysmeta-late", http::HeaderValue::from_static("yes"));
        let frames = vec![Ok::<_, caelum_rest::BoxError>(http_body::Frame::data(data.clone())), Ok(http_body::Frame::trailers(trailers))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let length = size.to_string();
        let headers = [("content-length", length.as_str())];
        let footers = |r: &mut Req| {
            r.extensions_mut().insert(crate::env::Footers);
        };
        let put = c.send_with("PUT", "/v1/a/c/o", &headers, body, footers).await;
        assert_eq!(put.status, 201, "{size}");
        let get = c.call("GET", "/v1/a/c/o", &[], "").await;
        assert!(get.body == data && get.header("x-object-sysmeta-late") == Some("yes"), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_uploads_leave_no_file() {
    let c = Real::new();
    c.call("PUT", "/v1/a/c", &[], "").await;
    for length in ["1000", "1000000"] {
        let (tx, body) = caelum_rest::stream_channel(4);
        tx.send(Ok(Bytes::from(vec![1; 900]))).await.unwrap();
        tx.send(Err(caelum_rest::BoxError::from("gone"))).await.unwrap();
        assert_eq!(c.send("PUT", "/v1/a/c/o", &[("content-length", length)], body).await.status, 499);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(c.data_files("objects").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn erasure_coded_objects() {
    let c = Real::new();
    assert_eq!(c.call("PUT", "/v1/a/e", &[("x-storage-policy", "ec")], "").await.status, 201);
    let segment = EC_SEGMENT as usize;
    for size in [0, 1, 1_000, segment, segment + 1, 5 * segment + 12_345] {
        let data = pattern(size);
        let put = c.call("PUT", "/v1/a/e/o", &[("x-object-meta-k", "v"), ("content-type", "a/b")], data.clone()).await;
        assert_eq!(put.status, 201, "{size}");
        let etag = caelum_swiftkit::md5_hex(&data);
        assert_eq!(put.header("etag"), Some(etag.as_str()), "{size}");
        assert_eq!(c.data_files("objects-1").len(), 5, "{size}");
        assert!(c.data_files("objects-1").iter().all(|f| f.to_str().unwrap().ends_with("#d.data")), "{:?}", c.data_files("objects-1"));
        let get = c.call("GET", "/v1/a/e/o", &[], "").await;
        assert_eq!((get.status, get.body == data, get.broken), (200, true, false), "{size}");
        assert_eq!((get.header("etag"), get.header("x-object-meta-k")), (Some(etag.as_str()), Some("v")));
        assert_eq!(get.header("content-length"), Some(size.to_string().as_str()));
        assert!(!get.headers.keys().any(|k| k.as_str().contains("sysmeta-ec")));
        let head = c.call("HEAD", "/v1/a/e/o", &[], "").await;
        assert_eq!((head.status, head.header("etag")), (200, Some(etag.as_str())));
        assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
        assert_eq!(c.call("GET", "/v1/a/e/o", &[("if-none-match", &etag)], "").await.status, 304);
        assert_eq!(c.call("HEAD", "/v1/a/e/o", &[("if-none-match", &etag)], "").await.status, 304);
    }
    let data = pattern(5 * segment + 12_345);
    for (a, b) in [(0, 0), (10, segment), (segment - 1, segment), (2 * segment + 5, 5 * segment + 12_344)] {
        let get = c.call("GET", "/v1/a/e/o", &[("range", &format!("bytes={a}-{b}"))], "").await;
        assert_eq!((get.status, get.body == data.slice(a..=b)), (206, true), "{a}-{b}");
        assert_eq!(get.header("content-range"), Some(format!("bytes {a}-{b}/{}", data.len()).as_str()));
    }
    let get = c.call("GET", "/v1/a/e/o", &[("range", "bytes=-100")], "").await;
    assert!(get.body == data.slice(data.len() - 100..));
    assert_eq!(c.call("GET", "/v1/a/e/o", &[("range", "bytes=9999999-")], "").await.status, 416);
    let multi = c.call("GET", "/v1/a/e/o", &[("range", "bytes=0-1,70000-70001")], "").await;
    assert!(multi.status == 206 && multi.body.windows(2).any(|w| w == &data[70_000..70_002]));
    assert_eq!(c.call("PUT", "/v1/a/e/o", &[("etag", "0")], data.clone()).await.status, 422);
    let rows = c.call("GET", "/v1/a/e", &[], "").await;
    assert!(rows.text().contains(&data.len().to_string()) && rows.text().contains(&caelum_swiftkit::md5_hex(&data)));
    // Any two of five may be lost.
    for f in c.data_files("objects-1").into_iter().take(2) {
        std::fs::remove_file(f).unwrap();
    }
    let get = c.call("GET", "/v1/a/e/o", &[], "").await;
    assert_eq!((get.status, get.body == data), (200, true));
    for f in c.data_files("objects-1").into_iter().take(1) {
        std::fs::remove_file(f).unwrap();
    }
    assert_eq!(c.call("GET", "/v1/a/e/o", &[], "").await.status, 503);
    // Three of five nodes know nothing of it, and that decides.
    assert_eq!(c.call("DELETE", "/v1/a/e/o", &[], "").await.status, 404);
    assert_eq!(c.call("GET", "/v1/a/e/o", &[], "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_over_sockets() {
    let c = Real::over_http().await;
    assert_eq!(c.call("PUT", "/v1/a/e", &[("x-storage-policy", "ec")], "").await.status, 201);
    for size in [0, 5, 300_000] {
        let data = pattern(size);
        let name = format!("/v1/a/e/o{size}");
        assert_eq!(c.call("PUT", &name, &[], data.clone()).await.status, 201, "{size}");
        let get = c.call("GET", &name, &[], "").await;
        assert_eq!((get.status, get.body == data), (200, true), "{size}");
        assert_eq!(c.call("PUT", &name, &[("if-none-match", "*")], data.clone()).await.status, 412, "{size}");
    }
    assert_eq!(c.data_files("objects-1").len(), 15);
    assert!(c.data_files("objects-1").iter().all(|f| f.to_str().unwrap().ends_with("#d.data")));
    let (tx, body) = caelum_rest::stream_channel(4);
    tx.send(Ok(Bytes::from(vec![1; 200_000]))).await.unwrap();
    tx.send(Err(caelum_rest::BoxError::from("gone"))).await.unwrap();
    assert_eq!(c.send("PUT", "/v1/a/e/broken", &[("content-length", "1000000")], body).await.status, 499);
    assert_eq!(c.call("GET", "/v1/a/e/broken", &[], "").await.status, 404);
}

/// A server whose answers break off.
struct Cut(Arc<dyn HttpService>, usize);

impl HttpService for Cut {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Resp> {
        let (answer, n) = (self.0.call(req), self.1);
        let next = |(mut body, left): (Body, usize)| async move {
            let mut data = match body.frame().await?.map(http_body::Frame::into_data) {
                Ok(data) => data.unwrap_or_default(),
                Err(e) => return Some((Err(e), (body, 0))),
            };
            let cut: caelum_rest::BoxError = "cut off".into();
            if left == 0 && !data.is_empty() {
                return Some((Err(cut), (body, 0)));
            }
            data.truncate(left);
            let left = left - data.len();
            Some((Ok(http_body::Frame::data(data)), (body, left)))
        };
        Box::pin(
            async move { answer.await.map(|b| http_body_util::StreamBody::new(futures_util::stream::unfold((b, n), next)).boxed_unsync()) },
        )
    }
}

fn split<'a>(text: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(n) = rest.windows(at.len()).position(|w| w == at) {
        out.push(&rest[..n]);
        rest = &rest[n + at.len()..];
    }
    out.push(rest);
    out
}

/// The body of an answer with several ranges, its boundary replaced.
pub(super) fn document(a: &Answer) -> Vec<u8> {
    let kind = a.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges;boundary=").unwrap();
    assert_eq!(a.header("content-length"), Some(a.body.len().to_string().as_str()));
    let pieces: Vec<&[u8]> = split(&a.body, boundary.as_bytes());
    pieces.join(&b"BOUNDARY"[..])
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_survive_failures() {
    let c = Real::with(ProxyOptions { error_suppression_limit: u32::MAX, ..ProxyOptions::default() });
    let data: Bytes = (0..60_000).map(|i| format!("{i:09}\n")).collect::<String>().into();
    c.call("PUT", "/v1/a/c", &[], "").await;
    assert_eq!(c.call("PUT", "/v1/a/c/o", &[("content-type", "a/b; c=d")], data.clone()).await.status, 201);
    let holders: Vec<usize> =
        (0..6).filter(|i| c.data_files("objects").iter().any(|f| f.starts_with(c.dir.path().join(format!("n{i}"))))).collect();
    assert_eq!(holders.len(), 3);
    let set = |i: usize, cut: Option<usize>| {
        let server = c.objects[i].clone();
        let server = cut.map_or(server.clone(), |n| Arc::new(Cut(server, n)) as Arc<dyn HttpService>);
        c.nodes.set_local("127.0.0.1", 6_140 + u16::try_from(i).unwrap(), server);
    };
    for range in [
        "bytes=0-9,100000-399999,-20",
        "bytes=500000-,0-200000,300000-300009,300010-300019,300020-300029,7-7",
        "bytes=0-299999,0-299999,0-299999",
        "bytes=5-5,7-7",
    ] {
        let whole = c.call("GET", "/v1/a/c/o", &[("range", range)], "").await;
        assert_eq!((whole.status, whole.broken), (206, false), "{range}");
        let want = document(&whole);
        for n in [0, 1, 20, 110, 150, 200, 270, 300, 301, 1_000, 150_000, 290_000, 310_000, 500_000, want.len() - 50, want.len() - 3] {
            // The second holder breaks off elsewhere.
            set(holders[0], Some(n));
            set(holders[1], Some(n / 2 + 77));
            for _ in 0..3 {
                let get = c.call("GET", "/v1/a/c/o", &[("range", range)], "").await;
                assert_eq!((get.status, get.broken), (206, false), "{range} {n}");
                assert!(document(&get) == want, "{range} {n}");
            }
        }
        holders.iter().for_each(|i| set(*i, Some(0)));
        assert_eq!(c.call("GET", "/v1/a/c/o", &[("range", range)], "").await.status, 503, "{range}");
        holders.iter().for_each(|i| set(*i, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_fragments_need_no_other_request() {
    let c = Real::with(ProxyOptions::default());
    c.call("PUT", "/v1/a/e", &[("x-storage-policy", "ec")], "").await;
    let segment = 65_536;
    for size in [0, 1, segment - 1, segment, segment + 1, 3 * segment, 3 * segment + 77] {
        let data = pattern(size);
        c.call("PUT", "/v1/a/e/o", &[], data.clone()).await;
        let edges = [0, 1, segment - 1, segment, segment + 1, 3 * segment - 1, 3 * segment + 76, 3 * segment + 77, 10 * segment];
        let pairs = edges.iter().flat_map(|a| edges.iter().filter(move |b| a <= b).map(move |b| format!("{a}-{b}")));
        let open = edges.iter().flat_map(|a| [format!("{a}-"), format!("-{a}")]);
        for range in pairs.chain(open) {
            let want = crate::http::Ranges::parse(&format!("bytes={range}")).unwrap().for_length(size as u64);
            let get = c.call("GET", "/v1/a/e/o", &[("range", &format!("bytes={range}"))], "").await;
            assert!(!get.broken);
            match want.first() {
                None => assert_eq!((get.status, get.header("content-range")), (416, Some(format!("bytes */{size}").as_str())), "{range}"),
                Some(_) if size == 0 => assert_eq!((get.status, get.body.len()), (200, 0), "{range}"),
                Some((a, b)) => {
                    assert_eq!(get.status, 206, "{size} {range}");
                    assert!(get.body == data.slice(*a as usize..*b as usize), "{size} {range}");
                    assert_eq!(get.header("content-range"), Some(crate::http::content_range((*a, *b), size as u64).as_str()));
                }
            }
        }
    }
    let head = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for i in 0..6 {
        let counted = Heads(c.objects[i].clone(), head.clone());
        c.nodes.set_local("127.0.0.1", 6_140 + u16::try_from(i).unwrap(), Arc::new(counted));
    }
    assert_eq!(c.call("GET", "/v1/a/e/o", &[("range", "bytes=70000-70009")], "").await.body.len(), 10);
    assert_eq!(head.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(c.call("GET", "/v1/a/e/o", &[("range", "bytes=70000-70009"), ("if-match", "x")], "").await.status, 412);
    assert_eq!(head.load(std::sync::atomic::Ordering::Relaxed), 1, "one node is enough to refuse");
}

/// Counts HEAD requests.
struct Heads(Arc<dyn HttpService>, Arc<std::sync::atomic::AtomicUsize>);

impl HttpService for Heads {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Resp> {
        self.1.fetch_add(usize::from(req.method() == http::Method::HEAD), std::sync::atomic::Ordering::Relaxed);
        self.0.call(req)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_survive_failures() {
    let c = Real::new();
    let data = pattern(700_000);
    c.call("PUT", "/v1/a/e", &[("x-storage-policy", "ec")], "").await;
    let port = |i: usize| 6_140 + u16::try_from(i).unwrap();
    let dead = Fake::default();
    dead.fault(Fault::Status(507));
    c.nodes.set_local("127.0.0.1", port(0), Arc::new(dead));
    assert_eq!(c.call("PUT", "/v1/a/e/o0", &[], data.clone()).await.status, 201);
    // The fragment that was the dead node's is on a handoff.
    assert_eq!(c.data_files("objects-1").len(), 5);
    c.nodes.set_local("127.0.0.1", port(0), c.objects[0].clone());
    assert!(c.call("GET", "/v1/a/e/o0", &[], "").await.body == data);
    for i in 1..3 {
        c.nodes.set_local("127.0.0.1", port(i), Arc::new(Cut(c.objects[i].clone(), 100_000)));
    }
    for _ in 0..5 {
        let get = c.call("GET", "/v1/a/e/o0", &[], "").await;
        assert_eq!((get.status, get.broken, get.body == data), (200, false, true));
    }
    for i in 3..5 {
        c.nodes.set_local("127.0.0.1", port(i), Arc::new(Cut(c.objects[i].clone(), 100_000)));
    }
    let get = c.call("GET", "/v1/a/e/o0", &[], "").await;
    assert!(get.broken || get.body == data, "what cannot be read must not look whole");
}
