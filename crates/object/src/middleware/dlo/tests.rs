use super::*;
use crate::testing::{FakeStore, request, send, values};
use caelum_swiftkit::md5_hex;
use std::time::Duration;

const A: &str = "/v1/AUTH_a";

async fn setup(page: usize) -> (FakeStore, Arc<dyn HttpService>) {
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    store.container("AUTH_a", "s");
    let pace = Pace { per_second: 0, max_time: Duration::from_secs(5), ..Pace::default() };
    let dlo: Arc<dyn HttpService> = Arc::new(Dlo { page, ..Dlo::new(store.service(), Env::system(), pace) });
    for (name, body) in [("p/1", "aaaaa"), ("p/2", "bbbbb"), ("p/3", "ccccc"), ("q", "no")] {
        send(&dlo, "PUT", &format!("{A}/s/{name}"), &[], body).await;
    }
    let (status, _, _) = send(&dlo, "PUT", &format!("{A}/c/m"), &[("x-object-manifest", "s/p%2F"), ("content-type", "t/p")], "own").await;
    assert_eq!(status, 201);
    (store, dlo)
}

#[tokio::test]
async fn whole_ranges_and_conditions() {
    let (store, dlo) = setup(LISTING_LIMIT).await;
    let m = format!("{A}/c/m");
    let (status, h, body) = send(&dlo, "GET", &m, &[], "").await;
    assert_eq!((status, body.as_str(), h["content-length"].to_str().unwrap()), (200, "aaaaabbbbbccccc", "15"));
    let tag = md5_hex(["aaaaa", "bbbbb", "ccccc"].map(|s| md5_hex(s.as_bytes())).concat().as_bytes());
    assert_eq!(values(&h, ["etag", "x-object-manifest"]), [format!("\"{tag}\"").as_str(), "s/p%2F"]);
    for (range, want, content_range) in
        [("bytes=4-5", "ab", "bytes 4-5/15"), ("bytes=-6", "bccccc", "bytes 9-14/15"), ("bytes=14-", "c", "bytes 14-14/15")]
    {
        let (status, h, body) = send(&dlo, "GET", &m, &[("range", range)], "").await;
        assert_eq!((status, body.as_str(), h["content-range"].to_str().unwrap()), (206, want, content_range));
    }
    let (status, h, _) = send(&dlo, "GET", &m, &[("range", "bytes=15-")], "").await;
    assert_eq!((status, h["content-range"].to_str().unwrap()), (416, "bytes */15"));
    assert_eq!(send(&dlo, "GET", &m, &[("range", "bytes=0-1,3-4")], "").await.0, 200, "several ranges are ignored");
    assert_eq!(send(&dlo, "GET", &m, &[("range", "bytes=-0")], "").await.0, 416);
    assert_eq!(send(&dlo, "GET", &m, &[("if-none-match", &tag)], "").await.0, 304);
    assert_eq!(send(&dlo, "GET", &m, &[("if-match", "x")], "").await.0, 412);
    let (status, h, _) = send(&dlo, "HEAD", &m, &[], "").await;
    assert_eq!((status, h["content-length"].to_str().unwrap()), (200, "15"));
    let (_, _, body) = send(&dlo, "GET", &format!("{m}?multipart-manifest=get"), &[], "").await;
    assert_eq!(body, "own");
    let listing = store.take_log().into_iter().find(|l| l.contains("prefix")).unwrap();
    assert_eq!(listing, "GET /v1/AUTH_a/s?format=json&prefix=p/");
}

#[tokio::test]
async fn more_than_one_page() {
    let (_, dlo) = setup(2).await;
    // The store's pages are large; what counts is that a full first page is not taken for everything.
    let small: Arc<dyn HttpService> = dlo;
    let m = format!("{A}/c/m");
    let (status, h, body) = send(&small, "GET", &m, &[], "").await;
    assert_eq!((status, h.contains_key("content-length"), body.as_str()), (200, false, "aaaaabbbbbccccc"));
    let (status, h, body) = send(&small, "GET", &m, &[("range", "bytes=2-3")], "").await;
    assert_eq!((status, body.as_str(), h["content-range"].to_str().unwrap()), (206, "aa", "bytes 2-3/15"));
    let (status, _, body) = send(&small, "GET", &m, &[("range", "bytes=-3")], "").await;
    assert_eq!((status, body.as_str()), (200, "aaaaabbbbbccccc"), "nobody knows where the end is");
}

#[tokio::test]
async fn replaced_missing_and_no_segments() {
    let (store, dlo) = setup(LISTING_LIMIT).await;
    let m = format!("{A}/c/m");
    store.fault("GET /v1/AUTH_a/s/p/1", 404);
    assert_eq!(send(&dlo, "GET", &m, &[], "").await.0, 409);
    store.fault("GET /v1/AUTH_a/s/p/1", 500);
    assert_eq!(send(&dlo, "GET", &m, &[], "").await.0, 503);
    store.fault("GET /v1/AUTH_a/s/p/1", 0);
    store.fault("GET /v1/AUTH_a/s", 403);
    assert_eq!(send(&dlo, "GET", &m, &[], "").await.0, 403);
    store.fault("GET /v1/AUTH_a/s", 0);
    let (_, h, body) = {
        send(&dlo, "PUT", &format!("{A}/c/empty"), &[("x-object-manifest", "s/nothing")], "x").await;
        send(&dlo, "GET", &format!("{A}/c/empty"), &[], "").await
    };
    assert_eq!(
        (body.as_str(), h["content-length"].to_str().unwrap(), h["etag"].to_str().unwrap()),
        ("", "0", "\"d41d8cd98f00b204e9800998ecf8427e\"")
    );
    // A segment that is shorter than its row said: the answer breaks off.
    store.edit("AUTH_a", "s", "p/3", |o| o.headers.insert("content-type", "x;swift_bytes=50".parse().unwrap()).map_or((), drop));
    let resp = dlo.call(request("GET", &m, &[], "")).await;
    assert_eq!(resp.headers()["content-length"], "60");
    assert!(http_body_util::BodyExt::collect(resp.into_body()).await.is_err());
}

#[tokio::test]
async fn manifests_must_name_a_container_and_a_prefix() {
    let (_, dlo) = setup(LISTING_LIMIT).await;
    for bad in ["", "c", "/p", "c/", "c//p", "c/p?x", "c/p&x"] {
        let (status, _, body) = send(&dlo, "PUT", &format!("{A}/c/x"), &[("x-object-manifest", bad)], "").await;
        assert_eq!((status, body.as_str()), (400, "X-Object-Manifest must be in the format container/prefix"), "{bad}");
    }
}
