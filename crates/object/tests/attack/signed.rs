//! What a signature covers and how far it reaches, with real authorization behind it.

use super::cluster::{Cloud, now};
use caelum_object::middleware::digest::DigestName;
use caelum_object::middleware::tempurl::sign;

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_url_opens_one_thing_for_a_while() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    for name in ["o", "p"] {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &[], name).await;
    }
    let good = cloud.temp_url("GET", "/v1/AUTH_a/c/o");
    assert_eq!(cloud.call("GET", &good, &[], "").await.text(), "o");
    assert_eq!(cloud.call("HEAD", &good, &[], "").await.status, 200);
    for (method, target) in [
        ("GET", good.replace("/c/o?", "/c/p?")),
        ("GET", good.replace("/c/o?", "/c?")),
        ("GET", good.replace("/c/o?", "?")),
        ("GET", good.replace("/c/o?", "/c/o/?")),
        ("GET", good.replace("/c/o?", "/c/%6f%00?")),
        ("GET", good.replace("AUTH_a", "AUTH_b")),
        ("PUT", good.clone()),
        ("POST", good.clone()),
        ("DELETE", good.clone()),
        ("COPY", good.clone()),
    ] {
        let answer = cloud.call(method, &target, &[("destination", "c/q")], "").await;
        assert!(matches!(answer.status, 401 | 412), "{method} {target}: {}", answer.status);
    }
    // With a signature that is wrong a good token does not help, and does not hurt with a right one.
    assert_eq!(cloud.as_a("GET", &good.replace("/c/o?", "/c/p?"), &[], "").await.status, 401);
    assert_eq!(cloud.as_b("GET", &good, &[], "").await.text(), "o");
    let sig = sign(DigestName::Sha256, "key", "GET", "/v1/AUTH_a/c/o", now() - 960, None);
    let late = format!("/v1/AUTH_a/c/o?temp_url_sig={sig}&temp_url_expires={}", now() - 960);
    assert_eq!(cloud.call("GET", &late, &[], "").await.status, 401, "16 minutes late");
    // A changed key ends all URLs made with it.
    cloud.as_a("POST", "/v1/AUTH_a", &[("x-account-meta-temp-url-key", "other")], "").await;
    assert_eq!(cloud.call("GET", &good, &[], "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_key_does_not_reach_its_neighbours() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/other", &[], "").await;
    cloud.as_a("PUT", "/v1/AUTH_a/other/secret", &[], "secret").await;
    cloud.as_a("POST", "/v1/AUTH_a/c", &[("x-container-meta-temp-url-key", "key")], "").await;
    assert_eq!(cloud.call("PUT", &cloud.temp_url("PUT", "/v1/AUTH_a/c/o"), &[], "x").await.status, 201);
    assert_eq!(cloud.call("GET", &cloud.temp_url("GET", "/v1/AUTH_a/other/secret"), &[], "").await.status, 401);
    // A link that the owner has made from there leads out of the container: not with this key.
    let link = [("x-symlink-target", "other/secret"), ("content-length", "0")];
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/link", &link, "").await.status, 201);
    let answer = cloud.call("GET", &cloud.temp_url("GET", "/v1/AUTH_a/c/link"), &[], "").await;
    assert!(matches!(answer.status, 401 | 403) && !answer.text().contains("secret"), "{}", answer.status);
    cloud.set_key().await;
    assert_eq!(
        cloud.call("GET", &cloud.temp_url("GET", "/v1/AUTH_a/c/link"), &[], "").await.text(),
        "secret",
        "the account's key reaches it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_owner_are_not_shown_by_url() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[("x-object-meta-internal", "1"), ("x-object-meta-public-a", "2")], "x").await;
    let got = cloud.call("GET", &cloud.temp_url("GET", "/v1/AUTH_a/c/o"), &[], "").await;
    assert_eq!((got.header("x-object-meta-internal"), got.header("x-object-meta-public-a")), (None, Some("2")));
    let name = cloud.call("GET", &format!("{}&filename=a%22%0d%0aSet-Cookie:%20x", cloud.temp_url("GET", "/v1/AUTH_a/c/o")), &[], "").await;
    assert_eq!(name.status, 200);
    assert!(!name.headers.contains_key("set-cookie"));
}

fn form(path: &str, key: &str, name: &str, expires: i128) -> String {
    let message = format!("{path}\n\n100\n1\n{expires}");
    let signature = DigestName::Sha256.hmac(key.as_bytes(), message.as_bytes());
    let fields = [
        ("redirect", String::new()),
        ("max_file_size", "100".into()),
        ("max_file_count", "1".into()),
        ("expires", expires.to_string()),
        ("signature", signature),
    ];
    let field = |(n, v): &(&str, String)| format!("--B\r\nContent-Disposition: form-data; name=\"{n}\"\r\n\r\n{v}\r\n");
    let head: String = fields.iter().map(field).collect();
    format!("{head}--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\ndata\r\n--B--\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_write_where_they_are_signed_for() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    let kind = [("content-type", "multipart/form-data; boundary=B")];
    let later = now() + 600;
    assert_eq!(cloud.call("POST", "/v1/AUTH_a/c/up/", &kind, form("/v1/AUTH_a/c/up/", "key", "x.txt", later)).await.status, 201);
    assert_eq!(cloud.names("c").await, ["up/x.txt"]);
    // A name that looks like a way out stays a name.
    assert_eq!(
        cloud.call("POST", "/v1/AUTH_a/c/up/", &kind, form("/v1/AUTH_a/c/up/", "key", "../../../AUTH_b/c/x", later)).await.status,
        201
    );
    assert_eq!(cloud.names("c").await, ["up/../../../AUTH_b/c/x", "up/x.txt"]);
    assert_eq!(cloud.as_b("GET", "/v1/AUTH_b/c", &[], "").await.text(), "");
    for (target, body) in [
        ("/v1/AUTH_a/c/", form("/v1/AUTH_a/c/up/", "key", "y", later)),
        ("/v1/AUTH_b/c/up/", form("/v1/AUTH_b/c/up/", "key", "y", later)),
        ("/v1/AUTH_a/c/up/", form("/v1/AUTH_a/c/up/", "wrong", "y", later)),
        ("/v1/AUTH_a/c/up/", form("/v1/AUTH_a/c/up/", "key", "y", now() - 960)),
    ] {
        assert_eq!(cloud.call("POST", target, &kind, body).await.status, 401, "{target}");
    }
    assert_eq!(cloud.names("c").await.len(), 2);
}
