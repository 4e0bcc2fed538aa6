use super::*;
use crate::testing::{FakeStore, Stored, read, request, send};
use caelum_base::{ManualClock, SeededRng, Timestamp};
use http::HeaderName;
use serde_json::Value;

/// Stored objects as Swift 2.38.3's keymaster and encrypter wrote them, with the secrets of [`keymaster`].
const UPSTREAM: &str = include_str!("upstream.json");

fn keymaster(extra: &[(&'static str, &'static str)]) -> Arc<Keymaster> {
    let mut all = vec![
        ("encryption_root_secret", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        ("encryption_root_secret_new", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
    ];
    all.extend(extra);
    Arc::new(Keymaster::from_options(all).unwrap())
}

fn env() -> Env {
    Env { clock: Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000))), rng: Arc::new(SeededRng::new(7)) }
}

fn pipeline(extra: &[(&'static str, &'static str)]) -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    store.container("a", "c");
    let layer = Encryption::new(store.service(), keymaster(extra), env());
    (store, Arc::new(layer))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// Puts an object into the store as upstream has stored it.
async fn plant(store: &FakeStore, path: &str, case: &Value) {
    let body = unhex(case["body"].as_str().unwrap());
    let (status, _, _) = send(&store.service(), "PUT", path, &[("content-type", "text/plain")], body).await;
    assert_eq!(status, 201);
    let place = SwiftPath::parse(path).unwrap();
    store.edit("a", "c", &place.object.unwrap(), |o: &mut Stored| {
        for (name, value) in case["headers"].as_object().unwrap() {
            if name != "etag" {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                o.headers.insert(name, value.as_str().unwrap().parse().unwrap());
            }
        }
    });
}

#[tokio::test]
async fn reads_what_upstream_wrote() {
    let (store, app) = pipeline(&[]);
    let cases: Value = serde_json::from_str(UPSTREAM).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let path = case["path"].as_str().unwrap();
        plant(&store, path, case).await;
        let (status, headers, body) = send(&app, "GET", path, &[], "").await;
        assert_eq!((status, body.as_str()), (200, case["plain"].as_str().unwrap()), "{name}");
        assert_eq!(headers["etag"].to_str().unwrap().trim_matches('"'), case["etag"].as_str().unwrap(), "{name}");
        assert!(!headers.keys().any(|k| k.as_str().contains("crypto-") && !k.as_str().starts_with("x-backend")), "{headers:?}");
        match name.as_str() {
            "plain" => {
                assert_eq!(headers["x-object-meta-color"], "blue");
                assert_eq!(headers["x-object-meta-uml"].as_bytes(), "ä".as_bytes());
                assert_eq!(headers["x-backend-crypto-cipher"], "AES_CTR_256");
            }
            "empty" => assert_eq!(headers["x-object-meta-a"], "b"),
            _ => {}
        }
        let (_, _, part) = send(&app, "GET", path, &[("range", "bytes=17-40")], "").await;
        let plain = case["plain"].as_str().unwrap();
        if plain.len() > 17 {
            assert_eq!(part, plain[17..plain.len().min(41)], "{name}");
        }
    }
    let (status, _, body) = send(&app, "GET", "/v1/a/c", &[], "").await;
    let rows: Value = serde_json::from_str(&body).unwrap();
    let hash = |n: &str| rows.as_array().unwrap().iter().find(|r| r["name"] == n).unwrap()["hash"].as_str().unwrap().to_string();
    assert_eq!(status, 200);
    assert_eq!(hash("l"), "abc; slo_etag=def");
    assert_eq!(hash("o"), cases["plain"]["etag"].as_str().unwrap());
    assert_eq!(hash("å"), cases["v3new"]["etag"].as_str().unwrap());
    assert_eq!(hash("e"), "d41d8cd98f00b204e9800998ecf8427e");
}

#[tokio::test]
async fn conditions_on_what_upstream_wrote() {
    let (store, app) = pipeline(&[("active_root_secret_id", "new")]);
    let cases: Value = serde_json::from_str(UPSTREAM).unwrap();
    plant(&store, "/v1/a/c/o", &cases["plain"]).await;
    let etag = cases["plain"]["etag"].as_str().unwrap();
    let quoted = format!("\"{etag}\"");
    for (name, value, status) in [
        ("if-match", quoted.as_str(), 200),
        ("if-match", etag, 200),
        ("if-match", "\"0\", *", 200),
        ("if-match", "\"0\"", 412),
        ("if-none-match", quoted.as_str(), 304),
        ("if-none-match", "\"0\"", 200),
        ("if-none-match", "*", 304),
    ] {
        let (got, headers, _) = send(&app, "GET", "/v1/a/c/o", &[(name, value)], "").await;
        assert_eq!(got, status, "{name}: {value}");
        assert_eq!(headers["etag"].to_str().unwrap(), etag, "{name}: {value}");
    }
    let many = vec!["\"x\""; 300].join(",");
    assert_eq!(send(&app, "GET", "/v1/a/c/o", &[("if-match", &many)], "").await.0, 400);
}

#[tokio::test]
async fn writes_and_reads_back() {
    let (store, app) = pipeline(&[]);
    let data: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8 & 0x7f).collect();
    let md5 = caelum_swiftkit::md5_hex(&data);
    let head = [("etag", md5.as_str()), ("x-object-meta-color", "blue"), ("x-object-meta-gone", ""), ("content-type", "text/plain")];
    let (status, headers, _) = send(&app, "PUT", "/v1/a/c/o", &head, data.clone()).await;
    assert_eq!(status, 201);
    assert_eq!(headers["etag"], md5.as_str());
    let stored = store.object("a", "c", "o").unwrap();
    assert_ne!(stored.body, data);
    assert!(!stored.headers.values().any(|v| v.as_bytes().windows(4).any(|w| w == b"blue")), "{:?}", stored.headers);
    assert!(!stored.headers.values().any(|v| v == md5.as_str()));

    let text = String::from_utf8(data).unwrap();
    let (status, headers, body) = send(&app, "GET", "/v1/a/c/o", &[("origin", "http://x")], "").await;
    assert_eq!((status, body == text), (200, true));
    assert_eq!(headers["x-object-meta-color"], "blue");
    assert_eq!(headers["access-control-expose-headers"], "x-object-meta-color");
    assert_eq!(send(&app, "GET", "/v1/a/c/o", &[("if-match", &md5)], "").await.0, 200);
    assert_eq!(send(&app, "HEAD", "/v1/a/c/o", &[("if-none-match", &md5)], "").await.0, 304);

    let (status, headers, body) = send(&app, "GET", "/v1/a/c/o", &[("range", "bytes=0-3,1000-1033,69999-")], "").await;
    assert_eq!(status, 206);
    let boundary = headers["content-type"].to_str().unwrap().split("boundary=").nth(1).unwrap().to_string();
    let part = |first: usize, last: usize| {
        let range = format!("Content-Range: bytes {first}-{last}/70000");
        format!("--{boundary}\r\nContent-Type: text/plain\r\n{range}\r\n\r\n{}\r\n", &text[first..=last])
    };
    assert_eq!(body, format!("{}{}{}--{boundary}--", part(0, 3), part(1000, 1033), part(69_999, 69_999)));

    assert_eq!(send(&app, "POST", "/v1/a/c/o", &[("x-object-meta-color", "red")], "").await.0, 202);
    let (_, headers, _) = send(&app, "HEAD", "/v1/a/c/o", &[], "").await;
    assert_eq!((headers["x-object-meta-color"].to_str().unwrap(), headers["etag"].to_str().unwrap()), ("red", md5.as_str()));
}

#[tokio::test]
async fn wrong_etags_and_empty_bodies() {
    let (store, app) = pipeline(&[]);
    let (status, _, _) = send(&app, "PUT", "/v1/a/c/o", &[("etag", "d41d8cd98f00b204e9800998ecf8427e")], "data").await;
    assert_eq!(status, 422);
    assert!(store.object("a", "c", "o").is_none());
    let (status, headers, _) = send(&app, "PUT", "/v1/a/c/e", &[("etag", "d41d8cd98f00b204e9800998ecf8427e")], "").await;
    assert_eq!((status, headers["etag"].to_str().unwrap()), (201, "d41d8cd98f00b204e9800998ecf8427e"));
    let stored = store.object("a", "c", "e").unwrap();
    assert!(!stored.headers.keys().any(|k| k.as_str().contains("crypto")), "{:?}", stored.headers);
    assert_eq!(send(&app, "PUT", "/v1/a/c/e", &[("etag", "0123")], "").await.0, 422);
}

#[tokio::test]
async fn plain_objects_stay_readable_and_new_ones_may_stay_plain() {
    let store = FakeStore::new();
    store.container("a", "c");
    send(&store.service(), "PUT", "/v1/a/c/old", &[("x-object-meta-a", "b")], "plain").await;
    let layer = Encryption::new(store.service(), keymaster(&[]), env()).read_only();
    let app: Arc<dyn HttpService> = Arc::new(layer);
    let (status, headers, body) = send(&app, "GET", "/v1/a/c/old", &[], "").await;
    assert_eq!((status, body.as_str(), headers["x-object-meta-a"].to_str().unwrap()), (200, "plain", "b"));
    let etag = caelum_swiftkit::md5_hex(b"plain");
    assert_eq!(send(&app, "GET", "/v1/a/c/old", &[("if-none-match", &etag)], "").await.0, 304);
    send(&app, "PUT", "/v1/a/c/new", &[], "still plain").await;
    assert_eq!(store.object("a", "c", "new").unwrap().body, "still plain");
}

#[tokio::test]
async fn damaged_metadata_is_a_clear_error() {
    let (store, app) = pipeline(&[]);
    send(&app, "PUT", "/v1/a/c/o", &[("x-object-meta-a", "b")], "data").await;
    for (name, value, answer) in [
        (BODY_META, "%7B%7D", "Error decrypting object"),
        (BODY_META, "nonsense", "Error decrypting object"),
        (ETAG, "abcd", "Error decrypting header"),
        ("x-object-transient-sysmeta-crypto-meta-a", "abcd", "Error decrypting header"),
    ] {
        let old = store.object("a", "c", "o").unwrap().headers[name].clone();
        store.edit("a", "c", "o", |o| drop(o.headers.insert(HeaderName::from_static(name), value.parse().unwrap())));
        let (status, _, body) = send(&app, "GET", "/v1/a/c/o", &[], "").await;
        assert_eq!((status, body.as_str()), (500, answer), "{name}");
        store.edit("a", "c", "o", |o| drop(o.headers.insert(HeaderName::from_static(name), old)));
    }
    let bad = "x; swift_meta=%7B%7D".parse().unwrap();
    store.edit("a", "c", "o", |o| drop(o.headers.insert(HeaderName::from_static(LISTING_ETAG), bad)));
    let (status, _, body) = send(&app, "GET", "/v1/a/c", &[], "").await;
    assert_eq!(status, 200);
    assert!(body.contains("\"hash\": \"<unknown>\""), "{body}");
}

#[tokio::test]
async fn metadata_limits_hold_for_the_plain_values() {
    let (_, app) = pipeline(&[]);
    let long = "v".repeat(257);
    let (status, _, body) = send(&app, "PUT", "/v1/a/c/o", &[("x-object-meta-a", &long)], "x").await;
    assert_eq!((status, body.as_str()), (400, "Metadata value longer than 256: x-object-meta-a"));
    assert_eq!(send(&app, "PUT", "/v1/a/c/o", &[("x-object-meta-a", &long[1..])], "x").await.0, 201);
    let names: Vec<String> = (0..91).map(|i| format!("x-object-meta-{i}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    let (status, _, body) = send(&app, "POST", "/v1/a/c/o", &headers, "").await;
    assert_eq!((status, body.as_str()), (400, "Too many metadata items; max 90"));
    assert_eq!(send(&app, "POST", "/v1/a/c/o", &headers[..90], "").await.0, 202);
}

#[tokio::test]
async fn parts_in_any_pieces() {
    use super::bodies::DecryptingParts;
    use http_body_util::BodyExt;
    let (key, iv) = ([1; 32], [2; 16]);
    let plain: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
    let mut sealed = plain.clone();
    Ctr::new(&key, &iv).apply(&mut sealed);
    let mut wire = Vec::new();
    for (a, b) in [(0usize, 9usize), (100, 299)] {
        wire.extend(format!("\r\n--B\r\ncontent-range: bytes {a}-{b}/300\r\n\r\n").bytes());
        wire.extend(&sealed[a..=b]);
    }
    wire.extend(b"\r\n--B--");
    for size in [1, 2, 3, 7, 50, 1_000] {
        let (tx, body) = caelum_rest::stream_channel(1_000);
        for piece in wire.chunks(size) {
            tx.send(Ok(piece.to_vec().into())).await.unwrap();
        }
        drop(tx);
        let out = DecryptingParts::new(body, move |o| Ctr::at(&key, &iv, o)).collect().await.unwrap().to_bytes();
        let find = |part: &[u8]| out.windows(part.len()).any(|w| w == part);
        assert!(find(&plain[0..=9]) && find(&plain[100..=299]) && out.ends_with(b"\r\n--B--"), "pieces of {size}");
        assert_eq!(out.len(), wire.len());
    }
    let (tx, body) = caelum_rest::stream_channel(1);
    tx.send(Ok(vec![b'x'; 20_000].into())).await.unwrap();
    drop(tx);
    assert!(DecryptingParts::new(body, move |o| Ctr::at(&key, &iv, o)).collect().await.is_err());
}

#[tokio::test]
async fn other_requests_pass() {
    let (store, app) = pipeline(&[]);
    assert_eq!(send(&app, "GET", "/v1/a", &[], "").await.0, 200);
    assert_eq!(send(&app, "DELETE", "/v1/a/c/none", &[], "").await.0, 404);
    send(&app, "PUT", "/v1/a/c/o", &[], "data").await;
    let mut raw = request("GET", "/v1/a/c/o", &[], "");
    raw.extensions_mut().insert(CryptoOverride);
    let resp = app.call(raw).await;
    assert!(resp.headers().contains_key(BODY_META));
    let (_, _, body) = read(resp).await;
    assert_ne!(body, "data");
    assert_eq!(store.names("a", "c"), ["o"]);
}

/// What this layer stores, in the form of [`UPSTREAM`].
async fn stored_form(extra: &[(&'static str, &'static str)], path: &str, body: &str) -> Value {
    let (store, app) = pipeline(extra);
    let head = [("x-object-meta-color", "blå"), ("content-type", "text/plain")];
    assert_eq!(send(&app, "PUT", path, &head, body.to_string()).await.0, 201);
    let stored = store.object("a", "c", &SwiftPath::parse(path).unwrap().object.unwrap()).unwrap();
    let headers = stored.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().into()));
    let headers: serde_json::Map<String, Value> = headers.collect();
    let plain_etag = caelum_swiftkit::md5_hex(body.as_bytes());
    serde_json::json!({"path": path, "plain": body, "body": caelum_swiftkit::to_hex(&stored.body), "headers": headers, "etag": plain_etag})
}

/// Swift 2.38.3's decrypter has read what stands in `ours.json`: bodies, ranges, metadata, ETags, conditions
/// and the listing's ETags were right. This keeps the form as it was then.
#[tokio::test]
async fn what_upstream_has_read() {
    let mut all = serde_json::Map::new();
    for (name, extra, path) in [
        ("default", vec![], "/v1/a/c/o"),
        ("unicode", vec![("meta_version_to_write", "2")], "/v1/a/c/%C3%A5%20%F0%9F%98%80"),
        ("v3new", vec![("meta_version_to_write", "3"), ("active_root_secret_id", "new")], "/v1/a/c/%C3%A5"),
        ("v1slash", vec![("meta_version_to_write", "1")], "/v1/a/c//o"),
    ] {
        all.insert(name.into(), stored_form(&extra, path, &"some plain text ".repeat(9)).await);
    }
    let golden: Value = serde_json::from_str(include_str!("ours.json")).unwrap();
    assert_eq!(Value::Object(all), golden);
}
