use super::super::digest::DigestName;
use super::*;
use crate::proxy::{AccountInfo, ContainerInfo, FixedInfo};
use crate::testing::{FakeStore, send};
use caelum_base::{ManualClock, SeededRng, Timestamp};

const LATER: i64 = 1_700_000_600;

fn pipeline() -> (FakeStore, Arc<dyn HttpService>) {
    let (store, info) = (FakeStore::new(), FixedInfo::default());
    store.container("a", "c");
    let key = |k: &str| [("temp-url-key".to_string(), k.to_string())].into_iter().collect();
    info.set_account("a", AccountInfo { status: 204, meta: key("acc"), ..AccountInfo::default() });
    info.set_container("a", "c", ContainerInfo { status: 204, meta: key("con"), ..ContainerInfo::default() });
    let env = Env { clock: Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000))), rng: Arc::new(SeededRng::new(7)) };
    let layer = FormPost::new(store.service(), Arc::new(info), AllowedDigests::default(), env);
    (store, Arc::new(layer))
}

/// A form as browsers send it.
struct Fill {
    path: &'static str,
    fields: Vec<(&'static str, String)>,
    body: String,
}

impl Fill {
    fn new(path: &'static str) -> Self {
        Self { path, fields: Vec::new(), body: String::new() }
            .field("redirect", "")
            .field("max_file_size", "1024")
            .field("max_file_count", "2")
            .field("expires", LATER)
    }

    fn field(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.retain(|(n, _)| *n != name);
        self.fields.push((name, value.to_string()));
        self
    }

    fn signed(self, digest: DigestName, key: &str) -> Self {
        let get = |n: &str| self.fields.iter().find(|(f, _)| *f == n).unwrap().1.clone();
        let or0 = |n: &str| Some(get(n)).filter(|v| !v.is_empty()).unwrap_or("0".into());
        let path = percent_encoding::percent_decode_str(self.path).decode_utf8().unwrap().into_owned();
        let message = [path, get("redirect"), or0("max_file_size"), or0("max_file_count"), or0("expires")].join("\n");
        let signature = digest.hmac(key.as_bytes(), message.as_bytes());
        self.field("signature", signature)
    }

    fn file(mut self, name: &str, head: &str, data: &str) -> Self {
        self.body.push_str(&format!("--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n{head}\r\n{data}\r\n"));
        self
    }

    fn text(&self) -> String {
        let field = |(n, v): &(&str, String)| format!("--XX\r\nContent-Disposition: form-data; name=\"{n}\"\r\n\r\n{v}\r\n");
        format!("{}{}--XX--\r\n", self.fields.iter().map(field).collect::<String>(), self.body)
    }

    async fn post(&self, app: &Arc<dyn HttpService>) -> (u16, HeaderMap, String) {
        post(app, self.path, self.text()).await
    }
}

async fn post(app: &Arc<dyn HttpService>, path: &str, body: impl Into<bytes::Bytes>) -> (u16, HeaderMap, String) {
    send(app, "POST", path, &[("content-type", "multipart/form-data; boundary=XX"), ("origin", "http://x")], body).await
}

#[tokio::test]
async fn stores_files() {
    let (store, app) = pipeline();
    for (key, digest) in [("acc", DigestName::Sha256), ("con", DigestName::Sha512)] {
        let form = Fill::new("/v1/a/c").field("x_delete_at", " 1800000000").signed(digest, key);
        let form =
            form.file("one.txt", "Content-Type: text/x-one\r\n", "first\r\n--X").file("zwei ä.bin", "Content-Encoding: gzip\r\n", "second");
        let (status, headers, body) = form.post(&app).await;
        assert_eq!((status, body.as_str()), (201, "201 Created"), "{key}");
        assert_eq!(headers["content-type"], "text/plain");
    }
    assert_eq!(store.names("a", "c"), ["one.txt", "zwei ä.bin"]);
    let one = store.object("a", "c", "one.txt").unwrap();
    assert_eq!(one.body, "first\r\n--X");
    assert_eq!((one.headers["content-type"].to_str().unwrap(), one.headers["x-delete-at"].to_str().unwrap()), ("text/x-one", "1800000000"));
    assert_eq!(store.object("a", "c", "zwei ä.bin").unwrap().headers["content-encoding"], "gzip");
    let (_, environ) = store.last("PUT /v1/a/c/one.txt").unwrap();
    let environ = environ.unwrap();
    assert!(environ.source == "FP" && environ.authorizer.is_none());
}

#[tokio::test]
async fn prefixes_and_given_types() {
    let (store, app) = pipeline();
    let send = |path: &'static str| {
        Fill::new(path).field("content-type", "text/given").signed(DigestName::Sha256, "acc").file("n", "Content-Type: text/own\r\n", "x")
    };
    assert_eq!(send("/v1/a/c/pre").post(&app).await.0, 201);
    assert_eq!(send("/v1/a/c/p%20q/").post(&app).await.0, 201);
    assert_eq!(send("/v1/a/c/").post(&app).await.0, 201);
    assert_eq!(store.names("a", "c"), ["n", "p q/n", "pren"]);
    assert_eq!(store.object("a", "c", "n").unwrap().headers["content-type"], "text/given");
}

#[tokio::test]
async fn redirects_tell_what_happened() {
    let (_, app) = pipeline();
    let form = Fill::new("/v1/a/c").field("redirect", "http://x/y\"><script>").signed(DigestName::Sha256, "acc");
    let (status, headers, body) = form.file("n", "", "x").post(&app).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (303, "http://x/y\"><script>?status=201&message="));
    assert_eq!(
        body,
        "<html><body><p><a href=\"http://x/y%22%3E%3Cscript%3E?status=201&message=\">Click to continue...</a></p></body></html>"
    );
    let form = Fill::new("/v1/a/c").field("redirect", "http://x/?a").field("max_file_count", "0").signed(DigestName::Sha256, "acc");
    let (status, headers, _) = form.file("n", "", "x").post(&app).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (303, "http://x/?a&status=400&message=max%20file%20count%20exceeded"));
    let form = Fill::new("/v1/a/c").field("redirect", "http://x/\r\nSet-Cookie: a").signed(DigestName::Sha256, "acc");
    assert_eq!(form.file("n", "", "x").post(&app).await.0, 400);
}

#[tokio::test]
async fn signatures_cover_the_limits() {
    let (store, app) = pipeline();
    let good = || Fill::new("/v1/a/c").signed(DigestName::Sha256, "acc");
    for (form, status, text) in [
        (good().field("max_file_size", "2048"), 401, "FormPost: Invalid Signature"),
        (good().field("max_file_count", "1"), 401, "FormPost: Invalid Signature"),
        (good().field("redirect", "http://evil/"), 401, "FormPost: Invalid Signature"),
        (good().field("expires", LATER + 1), 401, "FormPost: Invalid Signature"),
        (good().field("signature", ""), 401, "FormPost: Invalid Signature"),
        (good().field("signature", "00"), 401, "FormPost: Invalid Signature"),
        (Fill::new("/v1/a/c").signed(DigestName::Sha256, "wrong"), 401, "FormPost: Invalid Signature"),
        (Fill::new("/v1/a").signed(DigestName::Sha256, "acc"), 401, "FormPost: Invalid Signature"),
        (Fill::new("/v2/a/c").signed(DigestName::Sha256, "acc"), 401, "FormPost: Invalid Signature"),
        (Fill::new("/v1/b/c").signed(DigestName::Sha256, "acc"), 401, "FormPost: Invalid Signature"),
        (Fill::new("/v1/a/other").signed(DigestName::Sha256, "con"), 401, "FormPost: Invalid Signature"),
        (good().field("expires", 1), 401, "FormPost: Form Expired"),
        (good().field("expires", "soon"), 400, "FormPost: expired not an integer"),
        (good().field("max_file_size", "much"), 400, "FormPost: max_file_size not an integer"),
        (good().field("max_file_count", "1.5"), 400, "FormPost: max_file_count not an integer"),
        (good().field("x_delete_at", "x"), 400, "FormPost: x_delete_at not an integer: Unix timestamp required."),
        (good().field("x_delete_after", "x"), 400, "FormPost: x_delete_after not an integer: Number of seconds required."),
    ] {
        let form = form.file("n", "", "x");
        let (got, _, body) = form.post(&app).await;
        assert_eq!((got, body.as_str()), (status, text), "{:?}", form.fields);
    }
    assert_eq!(store.names("a", "c"), Vec::<String>::new());
}

#[tokio::test]
async fn too_large_too_many_none() {
    let (store, app) = pipeline();
    let good = || Fill::new("/v1/a/c").signed(DigestName::Sha256, "acc");
    let (status, _, body) = good().file("big", "", &"x".repeat(1_025)).post(&app).await;
    assert_eq!((status, body.as_str()), (400, "FormPost: max_file_size exceeded"));
    assert!(store.object("a", "c", "big").is_none(), "nothing of it may stay");
    assert_eq!(good().file("fits", "", &"x".repeat(1_024)).post(&app).await.0, 201);
    let (status, _, body) = good().file("1", "", "").file("2", "", "").file("3", "", "").post(&app).await;
    assert_eq!((status, body.as_str()), (400, "400 Bad Request\r\nFormPost: Max File Count Exceeded"));
    assert_eq!(store.names("a", "c"), ["1", "2", "fits"]);
    let (status, _, body) = good().post(&app).await;
    assert_eq!((status, body.as_str()), (400, "400 Bad Request\r\nFormPost: No Files To Process"));
}

#[tokio::test]
async fn refusals_of_the_store_come_through() {
    let (store, app) = pipeline();
    store.fault("PUT /v1/a/c/n", 507);
    let (status, _, body) = Fill::new("/v1/a/c").signed(DigestName::Sha256, "acc").file("n", "", "x").file("m", "", "x").post(&app).await;
    assert_eq!(status, 507);
    assert!(body.starts_with("<html>"), "{body}");
    assert!(store.object("a", "c", "m").is_none(), "the first failure ends the form");
}

#[tokio::test]
async fn broken_forms() {
    let (store, app) = pipeline();
    let (status, _, body) = post(&app, "/v1/a/c", "garbage").await;
    assert_eq!((status, body.as_str()), (400, "FormPost: invalid starting boundary"));
    assert_eq!(post(&app, "/v1/a/c", "").await.0, 400);
    assert_eq!(post(&app, "/v1/a/c", b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--XX--".to_vec()).await.0, 400);
    let long = format!("--XX\r\nContent-Disposition: {}", "x".repeat(50_000));
    assert_eq!(post(&app, "/v1/a/c", long).await.0, 400);
    let many = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n".repeat(10_001);
    assert_eq!(post(&app, "/v1/a/c", many).await.0, 400);
    let (status, _, _) = send(&app, "POST", "/v1/a/c/o", &[("content-type", "multipart/form-data")], "").await;
    assert_eq!(status, 404, "no boundary: an ordinary POST");

    // The client breaks off within a file: nothing is stored.
    let whole = Fill::new("/v1/a/c").signed(DigestName::Sha256, "acc").file("cut", "", "0123456789").text();
    let (tx, body) = caelum_rest::stream_channel(4);
    tx.send(Ok(whole[..whole.len() - 15].to_string().into())).await.unwrap();
    tx.send(Err("reset".into())).await.unwrap();
    drop(tx);
    let mut req = crate::testing::request("POST", "/v1/a/c", &[("content-type", "multipart/form-data; boundary=XX")], "");
    *req.body_mut() = body;
    assert_eq!(app.call(req).await.status(), 499);
    assert!(store.object("a", "c", "cut").is_none());
}
