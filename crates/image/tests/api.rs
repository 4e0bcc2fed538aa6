//! The image service through its HTTP interface: metadata, visibility, sharing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{Cloud, V21};

#[tokio::test(flavor = "multi_thread")]
async fn versions_answer_without_a_token() {
    let c = Cloud::new().await;
    let r = c.raw("", Method::GET, "/", &[], "").await;
    assert_eq!(r.status, 300);
    assert_eq!(r.json()["versions"][0]["status"], "CURRENT");
    assert_eq!(c.raw("", Method::GET, "/versions", &[], "").await.status, 200);
    assert_eq!(c.raw("", Method::GET, "/v2/images", &[], "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn life_of_an_image() {
    let c = Cloud::new().await;
    let body = json!({"name": "n", "disk_format": "raw", "container_format": "bare", "visibility": "private", "ramdisk_id": "r", "tags": ["b", "a"]});
    let r = c.raw("a", Method::POST, "/v2/images", &[("content-type", "application/json")], body.to_string()).await;
    assert_eq!((r.status, r.header("openstack-image-import-methods")), (201, "glance-direct,web-download"));
    let v = r.json();
    let id = v["id"].as_str().unwrap().to_string();
    assert!(r.header("location").ends_with(&format!("/v2/images/{id}")));
    assert_eq!(
        (&v["status"], &v["ramdisk_id"], &v["tags"], &v["owner"]),
        (&json!("queued"), &json!("r"), &json!(["a", "b"]), &json!("pa"))
    );
    assert_eq!((&v["size"], &v["checksum"], &v["file"]), (&Value::Null, &Value::Null, &json!(format!("/v2/images/{id}/file"))));
    assert!(v.get("direct_url").is_none() && v.get("locations").is_none());

    let path = format!("/v2/images/{id}");
    let patch = json!([{"op": "replace", "path": "/name", "value": "m"}, {"op": "add", "path": "/x", "value": "y"}, {"op": "remove", "path": "/ramdisk_id"}]);
    let r = c.patch("a", &path, V21, patch).await;
    assert_eq!((r.status, &r.json()["name"], &r.json()["x"], r.json().get("ramdisk_id")), (200, &json!("m"), &json!("y"), None));
    assert_eq!(c.patch("a", &path, "application/json", json!([])).await.status, 415);
    assert_eq!(c.patch("a", &path, V21, json!({})).await.status, 400);
    assert_eq!(c.patch("a", &path, V21, json!([{"op": "add", "path": "/os_glance_x", "value": "y"}])).await.status, 403);
    assert_eq!(c.patch("a", &path, V21, json!([{"op": "replace", "path": "/owner", "value": "pb"}])).await.status, 403);
    assert_eq!(c.patch("a", &path, V21, json!([{"op": "replace", "path": "/visibility", "value": "public"}])).await.status, 403);

    assert_eq!(c.raw("a", Method::PUT, &format!("{path}/tags/new%20tag"), &[], "").await.status, 204);
    assert_eq!(c.raw("a", Method::DELETE, &format!("{path}/tags/a"), &[], "").await.status, 204);
    assert_eq!(c.raw("a", Method::DELETE, &format!("{path}/tags/a"), &[], "").await.status, 404);
    assert_eq!(c.get("a", &path).await.json()["tags"], json!(["b", "new tag"]));

    assert_eq!(c.patch("a", &path, V21, json!([{"op": "replace", "path": "/protected", "value": true}])).await.status, 200);
    assert_eq!(c.raw("a", Method::DELETE, &path, &[], "").await.status, 403);
    assert_eq!(c.patch("a", &path, V21, json!([{"op": "replace", "path": "/protected", "value": false}])).await.status, 200);
    assert_eq!(c.raw("a", Method::DELETE, &path, &[], "").await.status, 204);
    assert_eq!(c.get("a", &path).await.status, 404);
    assert_eq!(c.raw("a", Method::DELETE, &path, &[], "").await.status, 404);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(c.raw("a", method, "/v2/images/", &[], "").await.status, 404, "an empty id is not the list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_is_checked() {
    let c = Cloud::new().await;
    let id = "6f2c1b1e-0000-4000-8000-000000000001";
    for (token, body, want) in [
        ("a", json!({"id": id}), 201),
        ("b", json!({"id": id}), 409),
        ("a", json!({"disk_format": "wrong"}), 400),
        ("a", json!({"container_format": "wrong", "disk_format": "vhd"}), 400),
        ("a", json!({"os_glance_foo": "bar"}), 403),
        ("a", json!({"visibility": "public"}), 403),
        ("a", json!({"visibility": "community"}), 201),
        ("admin", json!({"visibility": "public"}), 201),
        ("a", json!({"owner": "pb"}), 403),
        ("admin", json!({"owner": "pb"}), 201),
        ("reader", json!({"name": "x"}), 403),
        ("a", json!([]), 400),
        ("a", json!({"name": {"a": 1}}), 400),
    ] {
        assert_eq!(c.post(token, "/v2/images", body.clone()).await.status, want, "{token} {body}");
    }
    assert_eq!(c.get("b", &format!("/v2/images/{id}")).await.status, 404);
    assert_eq!(c.post("a", "/v2/images", json!({})).await.json()["visibility"], "shared");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_images_look_like_absent_ones() {
    let c = Cloud::new().await;
    let own = c.image("a", json!({"visibility": "private"})).await;
    let random = "6f2c1b1e-0000-4000-8000-000000000002";
    for id in [own.as_str(), random] {
        let path = format!("/v2/images/{id}");
        for (method, tail, body) in [
            (Method::GET, "", json!(null)),
            (Method::DELETE, "", json!(null)),
            (Method::GET, "/file", json!(null)),
            (Method::GET, "/members", json!(null)),
            (Method::POST, "/members", json!({"member": "pb"})),
            (Method::PUT, "/tags/x", json!(null)),
            (Method::POST, "/actions/deactivate", json!(null)),
            (Method::GET, "/tasks", json!(null)),
            (Method::POST, "/import", json!({"method": {"name": "glance-direct"}})),
            (Method::GET, "/members/pa", json!(null)),
            (Method::PUT, "/members/pa", json!({"status": "accepted"})),
            (Method::DELETE, "/members/pa", json!(null)),
        ] {
            let r = c.raw("b", method.clone(), &format!("{path}{tail}"), &[("content-type", "application/json")], body.to_string()).await;
            assert_eq!(r.status, 404, "{method} {tail}");
        }
        let octets = [("content-type", "application/octet-stream")];
        for tail in ["/file", "/stage"] {
            assert_eq!(c.raw("b", Method::PUT, &format!("{path}{tail}"), &octets, "x").await.status, 404, "{tail}");
        }
        assert_eq!(c.patch("b", &path, V21, json!([{"op": "add", "path": "/x", "value": "y"}])).await.status, 404);
    }
    // A reader of the project sees, but does not touch.
    let path = format!("/v2/images/{own}");
    assert_eq!(c.get("reader", &path).await.status, 200);
    assert_eq!(c.raw("reader", Method::DELETE, &path, &[], "").await.status, 403);
    assert_eq!(c.raw("reader", Method::PUT, &format!("{path}/tags/x"), &[], "").await.status, 403);
    // Others see a public image, but do not touch it.
    let public = format!("/v2/images/{}", c.image("admin", json!({"visibility": "public"})).await);
    assert_eq!(c.get("b", &public).await.status, 200);
    assert_eq!(c.raw("b", Method::DELETE, &public, &[], "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_filter_sort_and_page() {
    let c = Cloud::new().await;
    for i in 0..5 {
        c.image(
            "a",
            json!({"name": format!("n{i}"), "visibility": "private", "tags": ["t", format!("t{i}")], "min_disk": i, "k": format!("v{i}")}),
        )
        .await;
    }
    c.image("b", json!({"name": "other", "visibility": "private", "tags": ["t"]})).await;
    c.image("b", json!({"name": "commons", "visibility": "community"})).await;
    c.image("a", json!({"name": "hidden", "os_hidden": true})).await;
    for (query, want) in [
        ("sort=name:asc", "n0 n1 n2 n3 n4"),
        ("tag=t&tag=t1", "n1"),
        ("name=n3", "n3"),
        ("name=in:n1,n2&sort_key=name&sort_dir=asc", "n1 n2"),
        ("k=v4", "n4"),
        ("k=zzz", ""),
        ("min_disk_min=3&sort=name:asc", "n3 n4"),
        ("visibility=community", "commons"),
        ("visibility=all&sort=name:asc", "commons n0 n1 n2 n3 n4"),
        ("os_hidden=true", "hidden"),
        ("owner=pb", ""),
        ("status=active", ""),
        ("created_at=gt:2000-01-01T00:00:00Z&limit=1&sort=name:asc", "n0"),
        ("created_at=lt:2000-01-01T00:00:00Z", ""),
        ("limit=0", ""),
    ] {
        assert_eq!(c.names("a", query).await, want, "{query}");
    }
    assert_eq!(c.get("a", "/v2/images?sort=owner").await.status, 400);
    assert_eq!(c.get("a", "/v2/images?marker=6f2c1b1e-0000-4000-8000-000000000009").await.status, 400);
    // Pages.
    let (mut url, mut seen) = ("/v2/images?limit=2&sort=name:asc".to_string(), Vec::new());
    for _ in 0..5 {
        let v = c.get("a", &url).await.json();
        seen.extend(v["images"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_string()));
        assert_eq!(v["schema"], "/v2/schemas/images");
        match v["next"].as_str() {
            Some(next) => url = next.to_string(),
            None => break,
        }
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sharing() {
    let c = Cloud::new().await;
    let id = c.image("a", json!({"name": "s"})).await;
    let members = format!("/v2/images/{id}/members");
    assert_eq!(c.get("b", &format!("/v2/images/{id}")).await.status, 404);
    assert_eq!(c.post("a", &members, json!({})).await.status, 400);
    assert_eq!(c.post("a", &members, json!({"member": ""})).await.status, 400);
    let r = c.post("a", &members, json!({"member": "pb"})).await;
    assert_eq!((r.status, &r.json()["status"], &r.json()["schema"]), (200, &json!("pending"), &json!("/v2/schemas/member")));
    assert_eq!(c.post("a", &members, json!({"member": "pb"})).await.status, 409);
    // A pending member finds it by id, but not in the list.
    assert_eq!(c.get("b", &format!("/v2/images/{id}")).await.status, 200);
    assert_eq!(c.names("b", "").await, "");
    assert_eq!(c.names("b", "member_status=pending&visibility=shared").await, "s");
    let me = format!("{members}/pb");
    assert_eq!(c.put("a", &me, json!({"status": "accepted"})).await.status, 403);
    assert_eq!(c.put("b", &me, json!({"status": "notavalidstatus"})).await.status, 400);
    assert_eq!(c.put("b", &format!("{members}/pc"), json!({"status": "accepted"})).await.status, 404);
    assert_eq!(c.put("b", &me, json!({"status": "accepted"})).await.status, 200);
    assert_eq!(c.names("b", "").await, "s");
    // A member is no owner.
    assert_eq!(c.post("b", &members, json!({"member": "pc"})).await.status, 403);
    assert_eq!(c.raw("b", Method::DELETE, &me, &[], "").await.status, 403);
    assert_eq!(c.get("b", &members).await.json()["members"][0]["status"], "accepted");
    // Members see only their own membership.
    assert_eq!(c.post("a", &members, json!({"member": "pc"})).await.status, 200);
    assert_eq!(c.get("b", &members).await.json()["members"].as_array().unwrap().len(), 1);
    assert_eq!(c.get("a", &members).await.json()["members"].as_array().unwrap().len(), 2);
    assert_eq!(c.get("b", &format!("{members}/pc")).await.status, 404);
    assert_eq!(c.raw("a", Method::DELETE, &me, &[], "").await.status, 204);
    assert_eq!(c.get("b", &format!("/v2/images/{id}")).await.status, 404);
    let private = c.image("a", json!({"visibility": "private"})).await;
    assert_eq!(c.post("a", &format!("/v2/images/{private}/members"), json!({"member": "pb"})).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents() {
    let c = Cloud::new().await;
    for name in ["image", "images", "member", "members", "task", "tasks"] {
        assert_eq!(c.get("a", &format!("/v2/schemas/{name}")).await.json()["name"], name);
    }
    assert_eq!(c.get("a", "/v2/info/import").await.json()["import-methods"]["value"], json!(["glance-direct", "web-download"]));
    assert_eq!(c.get("a", "/v2/info/stores").await.json()["stores"][0]["id"], "local");
    assert_eq!(c.get("a", "/v2/info/stores/detail").await.status, 403);
    assert_eq!(c.get("admin", "/v2/info/stores/detail").await.status, 200);
    assert_eq!(c.get("a", "/v2/tasks").await.status, 403);
    assert_eq!(c.get("admin", "/v2/cache").await.status, 404);
}
