//! Metadata definitions through the HTTP interface.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use http::Method;
use serde_json::{Value, json};
use support::Cloud;

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_their_parts() {
    let c = Cloud::new().await;
    let base = "/v2/metadefs/namespaces";
    let kind = c.get("a", "/v2/metadefs/resource_types").await.json()["resource_types"][0]["name"].as_str().unwrap().to_string();
    let body = json!({"namespace": "OS::N", "visibility": "public", "display_name": "d", "description": "x", "protected": true, "resource_type_associations": [{"name": kind}]});
    assert_eq!(c.post("a", base, body.clone()).await.status, 403);
    assert_eq!(c.post("admin", base, body.clone()).await.status, 201);
    assert_eq!(c.post("admin", base, body).await.status, 409);
    let ns = format!("{base}/OS::N");
    assert_eq!(c.get("a", &ns).await.json()["visibility"], "public");
    assert_eq!(c.get("a", base).await.json()["namespaces"][0]["namespace"], "OS::N");
    assert_eq!(c.raw("admin", Method::DELETE, &ns, &[], "").await.status, 403);
    let update = json!({"namespace": "OS::N", "visibility": "private", "protected": false, "description": "x", "display_name": "d"});
    assert_eq!(c.put("a", &ns, update.clone()).await.status, 403);
    let r = c.put("admin", &ns, update).await;
    assert_eq!((r.status, &r.json()["visibility"], &r.json()["protected"]), (200, &json!("private"), &json!(false)));
    // Private: for others it is not there.
    assert_eq!((c.get("a", &ns).await.status, c.get("a", &format!("{ns}/tags")).await.status), (404, 404));
    for (plural, one, changed) in [
        ("objects", json!({"name": "o"}), json!({"name": "o2"})),
        (
            "properties",
            json!({"name": "p", "title": "t", "type": "string", "enum": ["a"]}),
            json!({"name": "p", "title": "t2", "type": "string"}),
        ),
    ] {
        let path = format!("{ns}/{plural}");
        assert_eq!(c.post("admin", &path, one.clone()).await.status, 201);
        assert_eq!(c.post("admin", &path, one.clone()).await.status, 409);
        assert_eq!(c.post("a", &path, one.clone()).await.status, 404);
        let name = one["name"].as_str().unwrap();
        assert_eq!(c.get("admin", &format!("{path}/{name}")).await.json()["name"], name);
        let r = c.put("admin", &format!("{path}/{name}"), changed.clone()).await;
        assert_eq!((r.status, &r.json()["name"], &r.json()["title"]), (200, &changed["name"], &changed["title"]));
        let new = changed["name"].as_str().unwrap();
        assert_eq!(c.raw("admin", Method::DELETE, &format!("{path}/{new}"), &[], "").await.status, 204);
        assert_eq!(c.raw("admin", Method::DELETE, &format!("{path}/{new}"), &[], "").await.status, 404);
    }
    let tags = format!("{ns}/tags");
    assert_eq!(c.post("admin", &tags, json!({"tags": [{"name": "a"}, {"name": "b"}]})).await.status, 201);
    assert_eq!(c.raw("admin", Method::POST, &format!("{tags}/c"), &[], "").await.status, 201);
    assert_eq!(c.put("admin", &format!("{tags}/c"), json!({"name": "d"})).await.json()["name"], "d");
    assert_eq!(c.get("admin", &tags).await.json()["tags"].as_array().unwrap().len(), 3);
    assert_eq!(c.raw("admin", Method::DELETE, &tags, &[], "").await.status, 204);
    assert_eq!(c.get("admin", &tags).await.json()["tags"], json!([]));
    let types = format!("{ns}/resource_types");
    assert_eq!(c.raw("admin", Method::DELETE, &format!("{types}/{kind}"), &[], "").await.status, 204);
    assert_eq!(c.post("admin", &types, json!({"name": kind})).await.json()["name"], json!(kind));
    assert_eq!(c.get("admin", &types).await.json()["resource_type_associations"][0]["name"], json!(kind));
    assert_eq!(c.raw("admin", Method::DELETE, &ns, &[], "").await.status, 204);
    assert_eq!(c.get("admin", &ns).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas() {
    let c = Cloud::new().await;
    for (path, name) in [
        ("namespace", "namespace"),
        ("namespaces", "namespaces"),
        ("resource_type", "resource_type_association"),
        ("resource_types", "resource_type_associations"),
        ("object", "object"),
        ("objects", "objects"),
        ("property", "property"),
        ("properties", "properties"),
        ("tag", "tag"),
        ("tags", "tags"),
    ] {
        let v: Value = c.get("a", &format!("/v2/schemas/metadefs/{path}")).await.json();
        assert_eq!(v["name"], name);
    }
}
