//! Archives in these tests were made by GNU tar 1.34 and Python's `tarfile`.

use super::*;
use crate::env::Environ;
use crate::testing::{FakeStore, request, send, values};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::io::{Read, Write};

const A: &str = "/v1/AUTH_a";
const GNU: &str = "H4sIAAAAAAACA+3bXW6CQBSG4VnKrEA4wwxz2wV41xWgkmpKoQH6s/yipk3VVOLFTFt4nxsIakj8OOcMRNdN3ScqrHTgnTtsB+fbw75k3ngrx+\
    OSOhGlnYrgpeuLVmvVNk1/7X1jr/9T633+xaJ/78Pmn1t7JX93lr/Y3Cmdkn9w27KqGoW5OtT/ZteGnAG3938xuaf/R81/pdd/qP/nmdD/Y3hr\
    2mpDG5x3/98WbchrYLz+z/t/ZvJMaYmxOKX/90m1qx9Dz3/vb8jfZHaY/yZw9OSv1CJZJHfLpn5YhrsGxup/SPvkWtjP/9QovWT+x6n/+k9iOE\
    8k//H5b0/7f+ZS41n/x1ANrZ8qmHn9d89F25W/tP43l+s/I2b//P9+FvV/bIDfvxH52pf0h+MDb09X0FdP8PmBC0877v4BAAAAAJi6sub+HwAA\
    AACAqVsVXVmVr2UV8Bw3//5LxBr+/xctf6oAAAAAAAAAmKYPi2N/fwBQAAA=";
const GNU_BZIP2: &str = "QlpoOTFBWSZTWdn2JSkAAif/pP2lAUBAAf+AQAQviH7v38AQAAAAgGgwAXhZYEoqeRpGg9QAGhoANqAABommqe0mpoAAAAAAABFJBM1CNBkyA9\
    TQA0NPUaaZN7ksvU9vHzoNXpmrintt6S6TiqQgduueqkRJEBjyKi2AwAjM09d0pRdKoy5uY7RtLJUCzlIMAZ4SlkU1kimilbSGhEuEgECSIQrI\
    S8SQnv/aPhqz+BBKFw2hMGUComFTjq6l4TUQhBjFJYS0xBChb6syKGMcgNfG+MGjUGGhoQDgKqQR2tzRc/AQEJB8wVxAQIobAwxGQCsRGsRF84\
    YLMwaBzkUkBxWBAKFIAwh3pZuL0NA7KIRDsQh07zkU8JKnJtr7SVZF/aeb/FY9HxbL3OI57b6tZWfOOLIqs2V03nCUGAgoEjAT2CTBN1YJk+hJ\
    kUaBNolGCDFuErU3sIcAkxPx364b4Dky6WzICB/i7kinChIbPsSlIA==";
const PAX_0_0: &str = "H4sIAAAAAAACA+3YzW6CQBQFYNY+BU+gzH+7YN2umm76AIhjJSJjmDG1ffoitomdGKlNZqL1fC40jpNgDvdeoDSNmyRhZR0lRP/e8d/7z4Qpqj\
    jZf09oRkiSiiSCjXVF2x1Ka4w79buhdf/PXYlyl38xdlsXNn/J+Yn8hZ+/kiJJM+Qf3ELXtUngVvX1P6vakDPgD/1fSIX+HzX/aVpeTv9n3Qv9\
    P4Y309YztMHb7v+Log15DgzXv9//uZAsSUmMi1P0fzepq2YZev4rdUb+TPJu/tPA0SP/r/yfi+2jLma6tZMmgKH6p9yb/6yb/1mSbmPO/xvt/0\
    SKdF24Rd6fCM1FGmFMh63/wPkNz3/u1b9kVOH6P4baNK+oghuv/4P5b9dFa3Xc6/9u3PvPfxihmP8xUJk+PL2M97GPbfWhc9aHMvq50mxW09qU\
    S5uzEb07XDHzudUuJ4xkinpru13vTtucZ/fy+D4qKeH8/H3fRymO7stwzXBG/Yco+l/XPz12/0cpnv9Fsarw9A8AAAAAAADgv9MN7v8BAAAAAA\
    AAAAAAAAAAAAAArtknix0qDwBQAAA=";
const PAX_0_1: &str = "H4sIAAAAAAACA+3Zy06DQBQGYNY8BQ/Q0LmPLtiqK2NifIApnVhSLg3Q2Pj0IriwxJRonLGV/+sCAk3a5uecM9C0Kttl4BbpaCn7bWe87fcp10\
    wLOhynjFAaRDLwYN+0pu6+Sl1V7an3TZ0f/7gLkb7nb+L20LrNXwlxIn85zl8rGUQE+Tu3sXleBTBXff2vs9rlDPhB/5dKo/97zX8VpefT/3n3\
    Qv/34aWq8zXa4Lz7/8bULq+B6fof938hFQ8i6mNxiv7fLvOs3Lqe/1p/I3+uRDf/mePokf9H/g/mcGfN2tbNsnRgqv6ZGM1/3s1/EkQHn/N/pv\
    2fKhntTLtJ+guhPEshxrTb+nec3/T8F6P6V5xprP99yKvyGVUw8/r/NP+bnakb63f9z4gaP//pFgCY/z4wFd3eP8VD7HGTvdqE96GEx2fKfbHK\
    q3TbJDzk9OiMKeywehgOhPLodGF2CeWUaLYQ5FotmGJUiGF/+KQFwYD/2/rv4nrs07rJchvTK61/tQ+crn/2xf2fYhz//3hRZHj6BwAAAAAAAP\
    Df2RL3/wAAAAAAAAAAAAAAAAAAAACX7A3kTCxIAFAAAA==";
const PAX_1_0: &str = "H4sIAAAAAAACA+3YzU6DQBQFYNY8BU9A585vXXSrroyJ8QHGdmJRCs2AsfHpReiiwaRE40xqe74uIEMXbQ733oFlXbWzJCzWMUr1x8742J+TMN\
    xIGtaJM6IkU0kEb01rffdTfF23x743dX385/6J5Vf+Nm93bdj8tZRH8lfj/I1WScaQf3BrV5Z1Apeqr/9V4UPOgF/0f6UN+n/U/J+y5en0f9F9\
    0P9jeK99uUIbvOz+v7Y+5D0wXf/j/i+VFklGMTan6P/trCyq19Dz35gf5C+07OY/Dxw98t/nf293t86unG9mVQBT9c/laP6Lbv6zJNvFnP8X2v\
    9Jq2xr2/WivxGqk5RiTIet/8D5Tc9/Oap/LbjB/j+Gsq6eUQUXXv8H87/ZWt+4uPt/UjR+/yOIY/7HwHl2c/eYD7HnG/tS+wWlo9Wi6lZZKuhw\
    tbIbN+wahoVUsMPL3tmyKT7cQvQZY4afcP13sT30qV0XpctpbuZ/2geO1z+n789/mgvM/yhESoKY4alkVzrlmpOUw/m+blG5Z21T4O0vAAAAAA\
    AAwLlzFZ7/AQAAAAAAAAAAAAAAAAAA/rtPmb9hVABQAAA=";
const NAMES: &str = "H4sIAAAAAAACA+2Z32qDMBSHvfYp8gT5Y6JeydqOQQtljA4GvRrRZLNgVUxk9rn2CHuwza4w2NZetBBX1vMhGILhdxE/TvRggsnoTnZTLZVuPC\
    fQHYfuNGDia/w5z/qpwEOdNwCtsbLp473LRDB0fz2dzZe4k9Y2uDW6wevVWj/aTa2Tp6pSRK209cNg34PaSly0ZZYnpqolUhrJIn17LdXqWRqf\
    CzSfTcaLft3Dza91XbLxGUdr26clDIe+BwwOJllVWrLdEGcZW6kjIQ76Tyn/7j+NYxp7iIL/zpFpBhJcsv+Y9Je2GamlMS/qb/xnP+s/jxj4Pw\
    QdKHDREJkaUhWt1e4yjvafxhHn4D/4D7gmI7sTgMv34Hj/oziOwH/wH3BNWaXOM07wX/AQ/Af/Aef1PyBEVW1anNf5P2QC/Af/AdfgM+j/UbGn\
    /8eh/zcEAUO5arJcNkbbZDK7HS+WPgtRLW2epFK9kw76cv+YfouviGPRTvn+D+H/H9R/AAAAwBkf12yT5wAoAAA=";

fn bytes(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn plain(gz: &str) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&bytes(gz)[..]).read_to_end(&mut out).unwrap();
    out
}

fn layer(store: &FakeStore) -> Arc<dyn HttpService> {
    Arc::new(Bulk::new(store.service(), BulkConfig::default()))
}

async fn extract(p: &Arc<dyn HttpService>, target: &str, archive: Vec<u8>) -> Value {
    let (status, h, body) = send(p, "PUT", target, &[("accept", "application/json"), ("x-object-meta-all", "1")], archive).await;
    assert_eq!((status, h["content-type"].to_str().unwrap()), (200, "application/json"));
    serde_json::from_str(&body).unwrap()
}

fn sparse() -> Vec<u8> {
    let mut out = vec![0; 300_000];
    out[131_072..131_075].copy_from_slice(b"mid");
    out[262_144..262_147].copy_from_slice(b"end");
    out
}

#[tokio::test]
async fn every_form_of_archive() {
    for (kind, archive) in [
        ("tar", plain(GNU)),
        ("tar.gz", bytes(GNU)),
        (".TAR.BZ2.", bytes(GNU_BZIP2)),
        ("tar.gz", bytes(PAX_0_0)),
        ("tar.gz", bytes(PAX_0_1)),
        ("tar.gz", bytes(PAX_1_0)),
    ] {
        let store = FakeStore::new();
        let p = layer(&store);
        let answer = extract(&p, &format!("{A}?extract-archive={kind}"), archive).await;
        assert_eq!(answer["Response Status"], "201 Created", "{answer}");
        assert_eq!((&answer["Errors"], &answer["Number Files Created"]), (&json!([]), &json!(4)));
        // The link, the hard link (a link to what came before) and what lies in no container are left out.
        assert_eq!(store.names("AUTH_a", "cont"), ["a.txt", "dir/b c", &"n".repeat(150), "sparse"]);
        let get = |n: &str| store.object("AUTH_a", "cont", n).unwrap();
        assert_eq!((&get("a.txt").body[..], &get("dir/b c").body[..]), (&b"hello"[..], &b"world"[..]));
        assert_eq!(get("a.txt").headers["x-object-meta-all"], "1");
        assert!(get("sparse").body == sparse(), "{kind}");
    }
}

#[tokio::test]
async fn names_are_data() {
    let store = FakeStore::new();
    let p = layer(&store);
    let answer = extract(&p, &format!("{A}/box/up?extract-archive=tar.gz"), bytes(NAMES)).await;
    assert_eq!(answer["Response Status"], "400 Bad Request");
    assert_eq!(answer["Errors"], json!([["box/up/bad%FF/x", "412 Precondition Failed"]]));
    let want = ["up/../../etc/passwd", "up/abs/olute", "up/c/../../x", "up/c2//double", "up/cont/meta", "up/nob"];
    assert_eq!(store.names("AUTH_a", "box"), want);
    let h = store.object("AUTH_a", "box", "up/cont/meta").unwrap().headers;
    assert_eq!(values(&h, ["content-type", "x-object-meta-lunch", "x-object-meta-x"]), ["food/diet", "sopa de alb\u{f3}ndigas", "y"]);
    let store = FakeStore::new();
    let p = layer(&store);
    extract(&p, &format!("{A}?extract-archive=tar.gz"), bytes(NAMES)).await;
    assert_eq!(store.names("AUTH_a", ".."), ["../etc/passwd"]);
    assert_eq!(store.names("AUTH_a", "abs"), ["olute"]);
}

#[tokio::test]
async fn broken_archives() {
    let store = FakeStore::new();
    let p = layer(&store);
    let whole = plain(GNU);
    let mut bad_sum = whole.clone();
    bad_sum[0] ^= 1;
    let mut tail = whole.clone();
    tail.truncate(whole.len() / 4);
    for (kind, archive, text) in [
        ("tar", vec![], "Invalid Tar File: empty file"),
        ("tar", b"too short".to_vec(), "Invalid Tar File: truncated header"),
        ("tar", bad_sum, "Invalid Tar File: bad checksum"),
        ("tar", vec![0; 1024], "Invalid Tar File: No Valid Files"),
        ("tar.gz", whole.clone(), "Invalid Tar File: not a gzip file"),
        ("tar.bz2", whole.clone(), "Invalid Tar File: invalid compressed data"),
    ] {
        let answer = extract(&p, &format!("{A}?extract-archive={kind}"), archive).await;
        assert_eq!((&answer["Response Status"], &answer["Response Body"]), (&json!("400 Bad Request"), &json!(text)), "{kind}");
    }
    let (status, _, body) = send(&p, "PUT", &format!("{A}?extract-archive=zip"), &[], "x").await;
    assert_eq!((status, body.as_str()), (400, "Unsupported archive format"));
    // The archive ends within a file: that file is not stored short.
    let mut one = tar_of(&[("c/f", 100_000)]);
    one.truncate(50_000);
    let answer = extract(&p, &format!("{A}?extract-archive=tar"), one).await;
    assert_eq!(answer["Response Body"], "Invalid Tar File: unexpected end of data");
    assert!(store.object("AUTH_a", "c", "f").is_none());
}

/// An archive of files full of `x`.
fn tar_of(files: &[(&str, usize)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, size) in files {
        let mut h = vec![0_u8; 512];
        h[..name.len()].copy_from_slice(name.as_bytes());
        h[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        h[156] = b'0';
        h[257..263].copy_from_slice(b"ustar\0");
        h[148..156].fill(b' ');
        let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
        h[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        h[154] = 0;
        out.extend(h);
        out.extend(vec![b'x'; *size]);
        out.resize(out.len().div_ceil(512) * 512, 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[tokio::test]
async fn limits_and_failures() {
    let store = FakeStore::new();
    let config = BulkConfig { max_containers_per_extraction: 2, max_failed_extractions: 2, ..BulkConfig::default() };
    let p: Arc<dyn HttpService> = Arc::new(Bulk::new(store.service(), config));
    let many = tar_of(&[("a/1", 1), ("b/1", 1), ("c/1", 1)]);
    let answer = extract(&p, &format!("{A}?extract-archive=tar"), many).await;
    assert_eq!((&answer["Response Status"], &answer["Number Files Created"]), (&json!("400 Bad Request"), &json!(2)));
    assert_eq!(answer["Response Body"], "More than 2 containers to create from tar.");
    for n in ["1", "2", "3"] {
        store.fault(&format!("PUT /v1/AUTH_a/a/{n}"), 507);
    }
    let files = tar_of(&[("a/1", 70_000), ("a/2", 1), ("a/3", 1), ("b/2", 1)]);
    let answer = extract(&p, &format!("{A}?extract-archive=tar"), files).await;
    assert_eq!(answer["Response Status"], "502 Bad Gateway");
    assert_eq!(answer["Errors"], json!([["a/1", "507 Insufficient Storage"], ["a/2", "507 Insufficient Storage"]]));
    assert!(store.object("AUTH_a", "b", "2").is_none(), "too many failures end it");
    store.fault("HEAD /v1/AUTH_a/z", 403);
    store.fault("PUT /v1/AUTH_a/z/1", 403);
    let answer = extract(&p, &format!("{A}?extract-archive=tar"), tar_of(&[("z/1", 1)])).await;
    assert_eq!(answer["Errors"], json!([["/v1/AUTH_a/z", "403 Forbidden"], ["z/1", "403 Forbidden"]]));
    store.fault("PUT /v1/AUTH_a/a/1", 401);
    let answer = extract(&p, &format!("{A}?extract-archive=tar"), tar_of(&[("a/1", 1), ("a/9", 1)])).await;
    assert_eq!((&answer["Response Status"], &answer["Errors"]), (&json!("401 Unauthorized"), &json!([["a/1", "401 Unauthorized"]])));
}

#[tokio::test]
async fn a_bomb_costs_little_memory_and_ends() {
    let store = FakeStore::new();
    let p = layer(&store);
    // 64 MiB of a directory's data, which nobody wants, in 64 KiB.
    let mut inner = tar_of(&[("c/d", 0)]);
    inner.truncate(512);
    inner[156] = b'V';
    inner[124..135].copy_from_slice(b"00400000000");
    inner[148..156].fill(b' ');
    let sum: u64 = inner.iter().map(|b| u64::from(*b)).sum();
    inner[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    let mut gz = GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(&inner).unwrap();
    for _ in 0..64 {
        gz.write_all(&vec![0; 1 << 20]).unwrap();
    }
    gz.write_all(&tar_of(&[("c/after", 1)])).unwrap();
    let answer = extract(&p, &format!("{A}?extract-archive=tar.gz"), gz.finish().unwrap()).await;
    assert_eq!((&answer["Number Files Created"], answer["Errors"].clone()), (&json!(1), json!([])));
}

#[tokio::test]
async fn deletes_objects_then_containers() {
    let store = FakeStore::new();
    for c in ["c", "d"] {
        store.container("AUTH_a", c);
    }
    let p = layer(&store);
    for o in ["c/1", "c/a%20b", "c/%C3%A9"] {
        send(&p, "PUT", &format!("{A}/{o}"), &[], "x").await;
    }
    store.take_log();
    let list = "c\n/c/1\nc/a%20b\n\n/d/none\nc/%C3%A9\nc/%ff\n";
    let headers = [("accept", "application/json"), ("content-type", "text/plain"), ("x-auth-token", "token")];
    let (status, _, body) = send(&p, "POST", &format!("{A}?bulk-delete"), &headers, list).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["Response Status"]), (200, &json!("400 Bad Request")));
    assert_eq!((&answer["Number Deleted"], &answer["Number Not Found"]), (&json!(4), &json!(1)));
    assert_eq!(answer["Errors"], json!([["c/%FF", "412 Precondition Failed"]]));
    assert_eq!(store.take_log().last().unwrap(), "DELETE /v1/AUTH_a/c");
    // The authentication comes after this layer.
    let (sent, _) = store.last("DELETE /v1/AUTH_a/c/1").unwrap();
    assert_eq!(values(&sent, ["x-auth-token", "content-type"]), ["token", "-"]);
}

#[tokio::test]
async fn refused_lists() {
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    let config = BulkConfig { max_deletes_per_request: 3, max_failed_deletes: 2, ..BulkConfig::default() };
    let p: Arc<dyn HttpService> = Arc::new(Bulk::new(store.service(), config));
    let target = format!("{A}?bulk-delete=1");
    for (headers, body, want) in [
        (
            vec![],
            "",
            "Number Deleted: 0\nNumber Not Found: 0\nResponse Body: Invalid bulk delete.\nResponse Status: 400 Bad Request\nErrors:\n",
        ),
        (vec![("content-type", "application/json")], "c/1", "Response Status: 406 Not Acceptable"),
        (vec![("accept", "image/png")], "c/1", "Response Status: 406 Not Acceptable"),
        (
            vec![],
            "c/1\nc/2\nc/3\nc/4\n",
            "Response Body: Maximum Bulk Deletes: 3 per request\nResponse Status: 413 Request Entity Too Large",
        ),
        (vec![], "\n\n\n\n", "413 Request Entity Too Large"),
    ] {
        let (_, _, posted) = send(&p, "POST", &target, &headers, body).await;
        assert!(posted.contains(want), "{posted}");
        // A DELETE without a length has no list.
        let (_, _, text) = send(&p, "DELETE", &target, &headers, body).await;
        assert!(text.contains("411 Length Required") || text.contains("406"), "{text}");
    }
    let long = "x".repeat(MAX_PATH * 2 + 1);
    let (_, _, text) = send(&p, "POST", &target, &[], long).await;
    assert!(text.contains("Response Body: Invalid File Name\nResponse Status: 400 Bad Request"), "{text}");
    store.fault("DELETE /v1/AUTH_a/c/1", 503);
    store.fault("DELETE /v1/AUTH_a/c/2", 403);
    let (_, h, text) = send(&p, "POST", &target, &[("accept", "text/xml")], "c/1\nc/2\nc/3").await;
    assert_eq!(h["content-type"], "text/xml");
    assert!(text.contains("<response_status>400 Bad Request</response_status>"), "{text}");
    assert!(text.contains("<response_body>Max delete failures exceeded</response_body>"), "{text}");
    let (_, _, text) = send(&p, "POST", &target, &[], "c/1").await;
    assert!(text.contains("Response Status: 502 Bad Gateway\nErrors:\nc/1, 503 Service Unavailable\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_kept_alive() {
    struct Slow;
    impl HttpService for Slow {
        fn call(&self, _: Req) -> BoxFuture<'static, Resp> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(25)).await;
                crate::http::error(204)
            })
        }
    }
    let p: Arc<dyn HttpService> = Arc::new(Bulk::new(Arc::new(Slow), BulkConfig::default()));
    let (_, _, body) = send(&p, "POST", &format!("{A}?bulk-delete"), &[("accept", "text/xml")], "c/1").await;
    assert!(body.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n \r\n\r\n<delete>\n"), "{body}");
    let (_, _, body) = send(&p, "POST", &format!("{A}?bulk-delete"), &[], "c/1").await;
    assert!(body.starts_with("  \r\n\r\nNumber Deleted: 1\n"), "{body}");
    // A client that leaves ends the work.
    let mut resp = p.call(request("POST", &format!("{A}?bulk-delete"), &[], "c/1\nc/2\nc/3")).await;
    assert!(resp.body_mut().frame().await.is_some());
    drop(resp);
}

#[tokio::test]
async fn the_caller_is_asked_for() {
    use async_trait::async_trait;
    struct Nobody;
    #[async_trait]
    impl crate::env::Authorizer for Nobody {
        async fn authorize(&self, _: &Method, _: &str, _: &Environ, _: Option<&str>) -> Option<Resp> {
            Some(crate::http::error(403))
        }
    }
    let store = FakeStore::new();
    store.container("AUTH_a", "c");
    let p = layer(&store);
    send(&p, "PUT", &format!("{A}/c/1"), &[], "x").await;
    for (method, target, body) in
        [("POST", format!("{A}?bulk-delete"), b"c/1".to_vec()), ("PUT", format!("{A}?extract-archive=tar"), tar_of(&[("c/1", 5)]))]
    {
        let mut req = request(method, &target, &[], body);
        req.extensions_mut().get_mut::<Environ>().unwrap().authorizer = Some(Arc::new(Nobody));
        let (_, _, text) = crate::testing::read(p.call(req).await).await;
        assert!(text.contains("c/1, 403 Forbidden"), "{text}");
    }
    assert_eq!(&store.object("AUTH_a", "c", "1").unwrap().body[..], b"x");
}
