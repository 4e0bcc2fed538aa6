use super::*;
use crate::proxy::{AccountInfo, ContainerInfo, FixedInfo};
use crate::testing::{FakeStore, request, send};
use caelum_base::{ManualClock, SeededRng, Timestamp};

const NOW: i64 = 1_700_000_000;
const LATER: i128 = 1_700_000_600;

fn env() -> Env {
    Env { clock: Arc::new(ManualClock::at(Timestamp::from_secs(NOW))), rng: Arc::new(SeededRng::new(7)) }
}

/// The account's keys are `acc` and `acc2`, the container's `con` and `con2`.
async fn pipeline(options: TempUrlOptions) -> (FakeStore, Arc<dyn HttpService>) {
    let (store, info) = (FakeStore::new(), FixedInfo::default());
    let keys = |a: &str, b: &str| [("temp-url-key".to_string(), a.to_string()), ("temp-url-key-2".into(), b.into())].into_iter().collect();
    info.set_account("a", AccountInfo { status: 204, meta: keys("acc", "acc2"), ..AccountInfo::default() });
    for c in ["c", "other"] {
        store.container("a", c);
    }
    info.set_container("a", "c", ContainerInfo { status: 204, meta: keys("con", "con2"), ..ContainerInfo::default() });
    let head = [("x-object-meta-secret", "s"), ("x-object-meta-public-x", "p"), ("content-type", "text/plain")];
    send(&store.service(), "PUT", "/v1/a/c/o", &head, "data").await;
    send(&store.service(), "PUT", "/v1/a/c/dir/f", &[("content-disposition", "kept")], "file").await;
    store.take_log();
    let layer = TempUrl::new(store.service(), Arc::new(info), options, env());
    (store, Arc::new(layer))
}

fn url(method: &str, path: &str, key: &str) -> String {
    let sig = sign(DigestName::Sha256, key, method, path, LATER, None);
    format!("{path}?temp_url_sig={sig}&temp_url_expires={LATER}")
}

#[test]
fn signatures_are_upstreams() {
    // Figures from Swift 2.38.3's get_hmac.
    let a = sign(DigestName::Sha256, "käy", "GET", "/v1/a/c/å x", LATER, None);
    assert_eq!(a, "e661b828b851a004bf10bceb9dfc022ea9bb60ca74c9da28b6bc639591773424");
    let b = sign(DigestName::Sha512, "käy", "PUT", "prefix:/v1/a/c/p", LATER, Some("10.0.0.0/8"));
    assert_eq!(&b[..40], "f6a2ef686488429feb88aaadaaace7e0a2126458");
}

#[tokio::test]
async fn gives_one_object_for_a_while() {
    let (store, app) = pipeline(TempUrlOptions::default()).await;
    for key in ["acc", "acc2", "con", "con2"] {
        let (status, headers, body) = send(&app, "GET", &url("GET", "/v1/a/c/o", key), &[], "").await;
        assert_eq!((status, body.as_str()), (200, "data"), "{key}");
        assert_eq!(headers["content-disposition"], "attachment; filename=\"o\"; filename*=UTF-8''o");
        assert_eq!(headers["expires"], "Tue, 14 Nov 2023 22:23:20 GMT");
        assert!(!headers.contains_key("x-object-meta-secret") && headers.contains_key("x-object-meta-public-x"));
    }
    let (_, environ) = store.last("GET /v1/a/c/o").unwrap();
    let environ = environ.unwrap();
    assert_eq!(environ.caller.unwrap().groups, [CALLER]);
    assert!(!environ.is_owner);
    for (method, target) in [
        ("GET", url("GET", "/v1/a/c/o", "wrong")),
        ("GET", url("PUT", "/v1/a/c/o", "acc")),
        ("PUT", url("GET", "/v1/a/c/o", "acc")),
        ("DELETE", url("GET", "/v1/a/c/o", "acc")),
        ("COPY", url("COPY", "/v1/a/c/o", "acc")),
        ("GET", url("GET", "/v1/a/c/o", "acc").replace("/c/o", "/c/dir/f")),
        ("GET", url("GET", "/v1/a/other/o", "con")),
        ("GET", url("GET", "/v1/a/c", "acc")),
        ("GET", url("GET", "/v1/a", "acc")),
        ("GET", url("GET", "/v1/a/c/o", "acc").replace("/v1/", "/v1.0/")),
        ("GET", url("GET", "/v1/a/c//", "acc")),
    ] {
        let (status, headers, body) = send(&app, method, &target, &[], "").await;
        assert_eq!((status, body.as_str()), (401, "401 Unauthorized: Temp URL invalid\n"), "{method} {target}");
        assert_eq!(headers["www-authenticate"], "Swift realm=\"unknown\"");
    }
}

#[tokio::test]
async fn head_goes_with_any_of_the_signatures() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    for method in ["HEAD", "GET", "PUT", "POST"] {
        assert_eq!(send(&app, "HEAD", &url(method, "/v1/a/c/o", "acc"), &[], "").await.0, 200, "{method}");
    }
    assert_eq!(send(&app, "HEAD", &url("DELETE", "/v1/a/c/o", "acc"), &[], "").await.0, 401);
    let options = TempUrlOptions { methods: vec![Method::GET], ..TempUrlOptions::default() };
    let (_, app) = pipeline(options).await;
    assert_eq!(send(&app, "HEAD", &url("GET", "/v1/a/c/o", "acc"), &[], "").await.0, 401);
}

#[tokio::test]
async fn signatures_missing_empty_or_twice() {
    let (store, app) = pipeline(TempUrlOptions::default()).await;
    let good = url("GET", "/v1/a/c/o", "acc");
    let sig = good.split("temp_url_sig=").nth(1).unwrap().split('&').next().unwrap().to_string();
    for target in [
        format!("/v1/a/c/o?temp_url_sig={sig}"),
        format!("/v1/a/c/o?temp_url_expires={LATER}"),
        format!("/v1/a/c/o?temp_url_sig=&temp_url_expires={LATER}"),
        format!("/v1/a/c/o?temp_url_sig={sig}&temp_url_expires="),
        format!("{good}&temp_url_sig={sig}"),
        format!("{good}&temp_url_expires=1"),
        format!("{good}&temp_url_prefix=o"),
        format!("{good}&temp_url_ip_range=10.0.0.1"),
        good.replace(&sig, &sig.to_uppercase()),
        good.replace(&sig, &format!("md5:{sig}")),
        good.replace(&sig, "sha256:"),
    ] {
        assert_eq!(send(&app, "GET", &target, &[], "").await.0, 401, "{target}");
    }
    assert_eq!(store.take_log(), Vec::<String>::new());
    assert_eq!(send(&app, "GET", "/v1/a/c/o", &[], "").await.0, 200, "no temporary URL at all");
}

#[tokio::test]
async fn digests_and_their_forms() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    let target =
        |d: DigestName| format!("/v1/a/c/o?temp_url_sig={}&temp_url_expires={LATER}", sign(d, "acc", "GET", "/v1/a/c/o", LATER, None));
    assert_eq!(send(&app, "GET", &target(DigestName::Sha512), &[], "").await.0, 200);
    assert_eq!(send(&app, "GET", &target(DigestName::Sha1), &[], "").await.0, 200, "deprecated, and still taken");
    let allowed_digests = AllowedDigests::parse("sha1").unwrap();
    let (_, old) = pipeline(TempUrlOptions { allowed_digests, ..TempUrlOptions::default() }).await;
    assert_eq!(send(&old, "GET", &target(DigestName::Sha1), &[], "").await.0, 200);
    assert_eq!(send(&old, "GET", &target(DigestName::Sha256), &[], "").await.0, 401);

    use base64::Engine;
    let hex = sign(DigestName::Sha256, "acc", "GET", "/v1/a/c/o", LATER, None);
    let raw: Vec<u8> = (0..64).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    for text in [base64::engine::general_purpose::STANDARD.encode(&raw), base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&raw)] {
        let target = format!("/v1/a/c/o?temp_url_sig=sha256:{}&temp_url_expires={LATER}", text.replace('+', "%2B"));
        assert_eq!(send(&app, "GET", &target, &[], "").await.0, 200, "{text}");
        let target = target.replace("sha256:", "sha512:");
        assert_eq!(send(&app, "GET", &target, &[], "").await.0, 401, "{text}");
    }
}

#[test]
fn expiry_forms() {
    let env = env();
    for (text, seconds) in [
        ("1700000000", Some(1_700_000_000)),
        ("2023-11-14T22:13:20Z", Some(1_700_000_000)),
        ("2023-11-14T22:13:21Z", Some(1_700_000_001)),
        ("2024-1-2T3:4:5Z", Some(1_704_164_645)),
        ("1699999999", None),
        ("2023-11-14T22:13:19Z", None),
        ("2023-11-14 22:13:21", None),
        ("2023-11-14T22:13:21+00:00", None),
        ("23-11-14T22:13:21Z", None),
        ("tomorrow", None),
        ("-1", None),
        ("", None),
        ("99999999999999999999999", Some(99_999_999_999_999_999_999_999)),
    ] {
        assert_eq!(expiry(text, &env), seconds, "{text}");
    }
}

#[tokio::test]
async fn expired_urls_and_iso_dates() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    let at = |seconds: i128, text: &str| {
        format!("/v1/a/c/o?temp_url_sig={}&temp_url_expires={text}", sign(DigestName::Sha256, "acc", "GET", "/v1/a/c/o", seconds, None))
    };
    assert_eq!(send(&app, "GET", &at(NOW.into(), "1700000000"), &[], "").await.0, 200);
    assert_eq!(send(&app, "GET", &at(1_699_999_999, "1699999999"), &[], "").await.0, 401);
    assert_eq!(send(&app, "GET", &at(LATER, "2023-11-14T22:23:20Z"), &[], "").await.0, 200);
    assert_eq!(send(&app, "GET", &at(LATER, "2023-11-14T22:23:21Z"), &[], "").await.0, 401);
}

#[tokio::test]
async fn prefixes() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    let target = |object: &str, prefix: &str| {
        let sig = sign(DigestName::Sha256, "acc", "GET", &format!("prefix:/v1/a/c/{prefix}"), LATER, None);
        format!("/v1/a/c/{object}?temp_url_sig={sig}&temp_url_expires={LATER}&temp_url_prefix={prefix}")
    };
    assert_eq!(send(&app, "GET", &target("dir/f", "dir/"), &[], "").await.0, 200);
    assert_eq!(send(&app, "GET", &target("dir/f", ""), &[], "").await.0, 200);
    assert_eq!(send(&app, "GET", &target("o", "dir/"), &[], "").await.0, 401);
    assert_eq!(send(&app, "GET", &target("", ""), &[], "").await.0, 401, "a listing is not a static web site");
    assert_eq!(send(&app, "GET", &target("", "x"), &[], "").await.0, 401);
    assert_eq!(send(&app, "GET", &url("GET", "prefix:/v1/a/c/dir/", "acc").replace("prefix:", ""), &[], "").await.0, 401);
}

#[tokio::test]
async fn address_ranges() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    for (range, remote, status) in [
        ("10.0.0.0/8", Some("10.9.8.7"), 200),
        ("10.0.0.0/255.0.0.0", Some("10.9.8.7"), 200),
        ("10.0.0.0/8", Some("::ffff:10.9.8.7"), 200),
        ("10.0.0.0/8", Some("11.0.0.1"), 401),
        ("10.0.0.1/8", Some("10.0.0.1"), 401),
        ("10.0.0.1", Some("10.0.0.1"), 200),
        ("10.0.0.1", Some("10.0.0.2"), 401),
        ("2001:db8::/32", Some("2001:db8::1"), 200),
        ("2001:db8::/32", Some("10.0.0.1"), 401),
        ("10.0.0.0/8", None, 401),
        ("10.0.0.0/33", Some("10.0.0.1"), 401),
        ("localhost", Some("127.0.0.1"), 401),
    ] {
        let sig = sign(DigestName::Sha256, "acc", "GET", "/v1/a/c/o", LATER, Some(range));
        let target = format!("/v1/a/c/o?temp_url_sig={sig}&temp_url_expires={LATER}&temp_url_ip_range={range}");
        let mut req = request("GET", &target, &[], "");
        let environ = facts(&req);
        req.extensions_mut().insert(Environ { remote: remote.map(|r| r.parse().unwrap()), ..environ });
        assert_eq!(app.call(req).await.status(), status, "{range} {remote:?}");
    }
    // The range is part of what is signed.
    let sig = sign(DigestName::Sha256, "acc", "GET", "/v1/a/c/o", LATER, Some("10.0.0.0/8"));
    assert_eq!(send(&app, "GET", &format!("/v1/a/c/o?temp_url_sig={sig}&temp_url_expires={LATER}"), &[], "").await.0, 401);
}

#[tokio::test]
async fn uploads_may_not_point_elsewhere() {
    let (store, app) = pipeline(TempUrlOptions::default()).await;
    let target = url("PUT", "/v1/a/c/new", "acc");
    for (name, shown) in
        [("x-object-manifest", "X-Object-Manifest"), ("x-symlink-target", "X-Symlink-Target"), ("x-copy-from", "X-Copy-From")]
    {
        let (status, _, body) = send(&app, "PUT", &target, &[(name, "c/o")], "x").await;
        assert_eq!((status, body), (400, format!("The header '{shown}' is not allowed in this tempurl")));
    }
    assert!(store.object("a", "c", "new").is_none());
    let (status, _, _) = send(&app, "PUT", &format!("{target}&multipart-manifest=put&symlink=get"), &[("x-timestamp", "1")], "x").await;
    assert_eq!(status, 201);
    let log = store.take_log();
    assert!(!log[0].contains("multipart-manifest") && !log[0].contains("symlink"), "{log:?}");
    assert!(!store.last("PUT /v1/a/c/new").unwrap().0.contains_key("x-timestamp"));
    assert_eq!(send(&app, "GET", &url("GET", "/v1/a/c/o", "acc"), &[("x-copy-from", "c/o")], "").await.0, 200);
}

#[tokio::test]
async fn how_a_browser_is_to_show_it() {
    let (_, app) = pipeline(TempUrlOptions::default()).await;
    let shown = |path: &'static str, more: &'static str| {
        let app = app.clone();
        async move {
            let (status, headers, _) = send(&app, "GET", &format!("{}{more}", url("GET", path, "acc")), &[], "").await;
            assert_eq!(status, 200);
            headers["content-disposition"].to_str().unwrap().to_string()
        }
    };
    assert_eq!(shown("/v1/a/c/dir/f", "").await, "kept");
    assert_eq!(shown("/v1/a/c/dir/f", "&inline").await, "inline");
    assert_eq!(shown("/v1/a/c/o", "&filename=").await, "attachment; filename=\"o\"; filename*=UTF-8''o");
    assert_eq!(
        shown("/v1/a/c/o", "&filename=a+b%22%0d%0aX:%C3%A4").await,
        "attachment; filename=\"a b%22%0D%0AX%3A%C3%A4\"; filename*=UTF-8''a%20b%22%0D%0AX%3A%C3%A4"
    );
    assert_eq!(shown("/v1/a/c/o", "&inline&filename=x/y").await, "inline; filename=\"x/y\"; filename*=UTF-8''x/y");
}

#[tokio::test]
async fn a_key_reaches_no_further_than_its_owner() {
    let limits = |container: Option<&str>| Limited { account: "a".into(), container: container.map(Into::into) };
    let environ = Environ::internal("t", "");
    for (limit, path, admitted) in [
        (limits(None), "/v1/a/other/o", true),
        (limits(None), "/v1/b/c/o", false),
        (limits(Some("c")), "/v1/a/c/p", true),
        (limits(Some("c")), "/v1/a/c", true),
        (limits(Some("c")), "/v1/a/other/o", false),
        (limits(Some("c")), "/v1/a", false),
        (limits(Some("c")), "/v1", false),
    ] {
        let refusal = limit.authorize(&Method::GET, path, &environ, None).await;
        assert_eq!(refusal.is_none(), admitted, "{path}");
    }
}
