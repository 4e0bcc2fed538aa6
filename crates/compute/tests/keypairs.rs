//! Key pairs through the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::{Value, json};
use support::cloud;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJHVGXLBGwVuNOJdmFxlWGLLGVLo5tnkz2wXR9Gk2sJH me@here";

fn body(name: &str, public: Option<&str>) -> Value {
    match public {
        Some(p) => json!({"keypair": {"name": name, "public_key": p}}),
        None => json!({"keypair": {"name": name}}),
    }
}

#[tokio::test]
async fn import_list_show_delete() {
    let c = cloud().await;
    let (status, v) = c.call("member", "", "POST /v2.1/os-keypairs", body("k", Some(KEY))).await;
    assert_eq!(status, 200, "{v}");
    assert_eq!(v["keypair"]["user_id"], "user-member");
    assert!(v["keypair"].get("private_key").is_none() && v["keypair"].get("type").is_none());
    assert_eq!(c.call("member", "", "POST /v2.1/os-keypairs", body("k", Some(KEY))).await.0, 409);
    assert_eq!(c.call("other", "2.2", "POST /v2.1/os-keypairs", body("k", Some(KEY))).await.0, 201);
    for (name, key) in [("", KEY), ("key_/.\\@:", KEY), (&"k".repeat(256), KEY), ("a", " "), ("a", "ssh-rsa JUNK nova@ubuntu")] {
        assert_eq!(c.call("member", "", "POST /v2.1/os-keypairs", body(name, Some(key))).await.0, 400, "{name} {key}");
    }
    let (_, v) = c.get("member", "2.35", "/v2.1/os-keypairs?limit=1").await;
    assert_eq!(v["keypairs"][0]["keypair"]["type"], "ssh");
    assert!(v["keypairs_links"][0]["href"].as_str().unwrap().ends_with("marker=k"));
    let (_, v) = c.get("member", "", "/v2.1/os-keypairs/k").await;
    assert_eq!((&v["keypair"]["deleted"], &v["keypair"]["public_key"]), (&json!(false), &json!(KEY)));
    assert_eq!(c.get("reader", "", "/v2.1/os-keypairs/k").await.0, 404);
    assert_eq!(c.get("other", "2.10", "/v2.1/os-keypairs/k?user_id=user-member").await.0, 403);
    assert_eq!(c.get("admin", "2.10", "/v2.1/os-keypairs/k?user_id=user-member").await.0, 200);
    assert_eq!(c.call("member", "2.2", "DELETE /v2.1/os-keypairs/k", Value::Null).await.0, 204);
    assert_eq!(c.call("member", "", "DELETE /v2.1/os-keypairs/k", Value::Null).await.0, 404);
    assert_eq!(c.call("other", "", "DELETE /v2.1/os-keypairs/k", Value::Null).await.0, 202);
}

#[tokio::test]
async fn generation_ends_at_2_92() {
    let c = cloud().await;
    let (status, v) = c.call("member", "2.2", "POST /v2.1/os-keypairs", body("g", None)).await;
    assert_eq!(status, 201);
    assert!(v["keypair"]["private_key"].as_str().unwrap().contains("OPENSSH PRIVATE KEY"));
    let x509 = json!({"keypair": {"name": "w", "type": "x509"}});
    let (status, v) = c.call("member", "2.2", "POST /v2.1/os-keypairs", x509.clone()).await;
    assert_eq!((status, &v["keypair"]["type"]), (201, &json!("x509")));
    assert_eq!(c.call("member", "2.1", "POST /v2.1/os-keypairs", x509).await.0, 400);
    assert_eq!(c.call("member", "2.92", "POST /v2.1/os-keypairs", body("h", None)).await.0, 400);
    assert_eq!(c.call("member", "2.92", "POST /v2.1/os-keypairs", body("h.x@y", Some(KEY))).await.0, 201);
    // Numbers stay unique after a deletion in the middle.
    c.call("member", "", "DELETE /v2.1/os-keypairs/g", Value::Null).await;
    c.call("member", "", "POST /v2.1/os-keypairs", body("i", Some(KEY))).await;
    let (_, a) = c.get("member", "", "/v2.1/os-keypairs/i").await;
    let (_, b) = c.get("member", "", "/v2.1/os-keypairs/h.x@y").await;
    assert_ne!(a["keypair"]["id"], b["keypair"]["id"]);
}
