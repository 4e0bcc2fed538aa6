use super::world::{P1, world, world_with};
use serde_json::{Value, json};

const SERVER: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const SERVER2: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const IMAGE: &str = "cccccccc-0000-4000-8000-000000000001";

#[tokio::test]
async fn a_blank_volume_lives_and_goes() {
    let w = world().await;
    let id = w.volume("member", json!({"metadata": {"Type": "Test"}})).await;
    let (status, body) = w.call("reader", "GET", &format!("/v3/{P1}/volumes/{id}"), None).await;
    assert_eq!(status, 200);
    let v = &body["volume"];
    assert_eq!((&v["status"], &v["bootable"], &v["size"]), (&json!("available"), &json!("false"), &json!(1)));
    assert_eq!(v["metadata"], json!({"Type": "Test"}));
    assert!(v.get("os-vol-host-attr:host").is_none(), "hosts are for administrators");
    assert_eq!(w.files(), [format!("volume-{id}")]);
    assert_eq!(std::fs::metadata(w.dir.path().join(format!("volumes/volume-{id}"))).unwrap().len(), 1 << 30);
    let (status, _) = w.call("member", "DELETE", &format!("/v3/volumes/{id}"), None).await;
    assert_eq!(status, 202);
    w.idle().await;
    assert_eq!(w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await.0, 404);
    assert!(w.files().is_empty());
}

#[tokio::test]
async fn strangers_see_nothing_and_readers_change_nothing() {
    let w = world().await;
    let id = w.volume("member", json!({})).await;
    let none = "bbbbbbbb-0000-4000-8000-000000000009";
    for (method, body) in [("GET", None), ("PUT", Some(json!({"volume": {"name": "x"}}))), ("DELETE", None)] {
        let theirs = w.call("other", method, &format!("/v3/volumes/{id}"), body.clone()).await;
        let nobodys = w.call("other", method, &format!("/v3/volumes/{none}"), body).await;
        assert_eq!(theirs.0, 404);
        assert_eq!(theirs.1.to_string().replace(&id, ""), nobodys.1.to_string().replace(none, ""));
    }
    assert_eq!(w.call("reader", "DELETE", &format!("/v3/volumes/{id}"), None).await.0, 403);
    assert_eq!(w.call("reader", "POST", "/v3/volumes", Some(json!({"volume": {"size": 1}}))).await.0, 403);
    for source in ["snapshot_id", "source_volid"] {
        let body = json!({"volume": {"size": 1, source: id}});
        assert_eq!(w.call("other", "POST", "/v3/volumes", Some(body)).await.0, 404, "{source}");
    }
    let body = json!({"snapshot": {"volume_id": id, "force": true}});
    assert_eq!(w.call("other", "POST", "/v3/snapshots", Some(body)).await.0, 404);
    let body = json!({"attachment": {"volume_uuid": id, "instance_uuid": SERVER}});
    assert_eq!(w.call("other", "POST", "/v3/attachments", Some(body)).await.0, 404);
    assert_eq!(w.call("other", "GET", &format!("/v3/volumes?all_tenants=1&project_id={P1}"), None).await.1["volumes"], json!([]));
    assert_eq!(w.call("", "GET", &format!("/v3/volumes/{id}"), None).await.0, 401);
}

#[tokio::test]
async fn bad_input_is_refused() {
    let w = world().await;
    for volume in [
        json!({"size": "#$%"}),
        json!({"size": ""}),
        json!({"size": "0"}),
        json!({"size": "-1"}),
        json!({}),
        json!({"size": 1.5}),
        json!({"size": 1, "name": "x".repeat(256)}),
        json!({"size": 1, "metadata": {"": "x"}}),
        json!({"size": 1, "metadata": {"a": 1}}),
        json!({"size": 1, "imageRef": "nope"}),
        json!({"size": 1, "availability_zone": "moon"}),
        json!({"size": i64::MAX}),
        json!([]),
    ] {
        let (status, body) = w.call("member", "POST", "/v3/volumes", Some(json!({"volume": volume}))).await;
        assert_eq!(status, 400, "{volume} {body}");
    }
    let (status, _) = w.call("member", "POST", "/v3/volumes", Some(json!({"volume": {"size": 1, "volume_type": "nope"}}))).await;
    assert_eq!(status, 404);
    for path in ["/v3/volumes/", "/v3/volumes/invalid", "/v3/volumes?marker=x"] {
        assert_eq!(w.call("member", "GET", path, None).await.0, 404, "{path}");
    }
    assert_eq!(w.call("member", "PUT", "/v3/volumes/", Some(json!({"volume": {}}))).await.0, 404);
    for q in ["limit=-1", "limit=x", "sort_key=nope", "sort_dir=up", "all_tenants=maybe"] {
        assert_eq!(w.call("member", "GET", &format!("/v3/volumes?{q}"), None).await.0, 400, "{q}");
    }
    assert_eq!(w.call("", "GET", "/", None).await.0, 300);
    assert_eq!(w.call("", "GET", "/v3/", None).await.0, 200);
    assert!(w.files().is_empty());
}

#[tokio::test]
async fn a_volume_from_an_image_is_checked() {
    let w = world().await;
    w.images.add(IMAGE, "raw", b"boot sector", b"boot sector");
    let id = w.volume("member", json!({"imageRef": IMAGE})).await;
    let (_, body) = w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await;
    assert_eq!(body["volume"]["bootable"], "true");
    assert_eq!(body["volume"]["volume_image_metadata"]["image_id"], IMAGE);
    assert_eq!(body["volume"]["volume_image_metadata"]["hw_disk_bus"], "virtio");
    assert_eq!(w.read(&format!("volume-{id}"), 12), b"boot sector\0");

    w.images.add(IMAGE, "raw", b"boot sector", b"something else");
    let bad = w.volume("member", json!({"imageRef": IMAGE})).await;
    assert_eq!(w.status(&bad).await, "error");
    let (_, body) = w.call("member", "GET", &format!("/v3/messages?resource_uuid={bad}"), None).await;
    assert!(body["messages"][0]["user_message"].as_str().unwrap().contains("hash"), "{body}");
    assert_eq!(w.files(), [format!("volume-{id}")], "a failed volume leaves no file");
    assert_eq!(w.call("member", "DELETE", &format!("/v3/volumes/{bad}"), None).await.0, 202);
    w.idle().await;
    assert_eq!(w.status(&bad).await, "gone");
}

#[tokio::test]
async fn a_qcow2_image_is_converted_or_refused_with_a_reason() {
    let w = world().await;
    w.images.add(IMAGE, "qcow2", b"this is no qcow2", b"this is no qcow2");
    let id = w.volume("member", json!({"imageRef": IMAGE})).await;
    assert_eq!(w.status(&id).await, "error");
    let path = w.dir.path().join("x.qcow2");
    let made = caelum_safeio::qemuimg::create(&path, caelum_safeio::inspect::Format::Qcow2, Some(64 << 20), None).await;
    if made.is_err() {
        return; // No qemu-img here.
    }
    let data = std::fs::read(&path).unwrap();
    w.images.add(IMAGE, "qcow2", &data, &data);
    let id = w.volume("member", json!({"imageRef": IMAGE})).await;
    assert_eq!(w.status(&id).await, "available");
    assert_eq!(std::fs::metadata(w.dir.path().join(format!("volumes/volume-{id}"))).unwrap().len(), 1 << 30);
}

#[tokio::test]
async fn snapshots_and_clones_hold_the_bytes_with_and_without_sharing() {
    for reflink in [true, false] {
        let w = world_with(reflink).await;
        w.images.add(IMAGE, "raw", b"precious", b"precious");
        let id = w.volume("member", json!({"imageRef": IMAGE})).await;
        let (status, body) = w.call("member", "POST", "/v3/snapshots", Some(json!({"snapshot": {"volume_id": id, "name": "s"}}))).await;
        assert_eq!(status, 202, "{body}");
        let snap = body["snapshot"]["id"].as_str().unwrap().to_string();
        w.idle().await;
        let (_, body) = w.call("reader", "GET", &format!("/v3/snapshots/{snap}"), None).await;
        assert_eq!(
            (&body["snapshot"]["status"], &body["snapshot"]["os-extended-snapshot-attributes:progress"]),
            (&json!("available"), &json!("100%"))
        );
        assert_eq!(w.call("member", "DELETE", &format!("/v3/volumes/{id}"), None).await.0, 400, "it has a snapshot");
        let from = w.volume("member", json!({"snapshot_id": snap, "size": 2})).await;
        let clone = w.volume("member", json!({"source_volid": id})).await;
        for v in [&from, &clone] {
            assert_eq!(w.read(&format!("volume-{v}"), 8), b"precious");
        }
        assert_eq!(w.call("member", "DELETE", &format!("/v3/snapshots/{snap}"), None).await.0, 202);
        w.idle().await;
        assert_eq!(w.call("member", "DELETE", &format!("/v3/volumes/{id}"), None).await.0, 202);
        w.idle().await;
        assert_eq!(w.files().len(), 2);
        assert!(w.service.audit(false).await.unwrap().is_empty());
    }
}

async fn attach(w: &super::world::World, token: &str, volume: &str, server: &str) -> (u16, Value) {
    w.call(token, "POST", "/v3/attachments", Some(json!({"attachment": {"volume_uuid": volume, "instance_uuid": server}}))).await
}

#[tokio::test]
async fn an_attachment_goes_through_its_life() {
    let w = world().await;
    let id = w.volume("member", json!({})).await;
    let (status, body) = attach(&w, "member", &id, SERVER).await;
    assert_eq!(status, 200, "{body}");
    let a = body["attachment"]["id"].as_str().unwrap().to_string();
    assert_eq!(w.status(&id).await, "reserved");
    assert_eq!(attach(&w, "member", &id, SERVER2).await.0, 400, "attached twice");
    assert_eq!(w.call("member", "DELETE", &format!("/v3/volumes/{id}"), None).await.0, 400, "deleted while attaching");
    let connector = json!({"attachment": {"connector": {"host": "h1", "mountpoint": "/dev/vdb"}}});
    let (status, body) = w.call("svc", "PUT", &format!("/v3/attachments/{a}"), Some(connector)).await;
    assert_eq!(status, 200, "{body}");
    let data = &body["attachment"]["connection_info"]["data"];
    assert_eq!((&data["format"], &data["size_bytes"]), (&json!("raw"), &json!(1u64 << 30)));
    assert!(data["path"].as_str().unwrap().ends_with(&format!("volumes/volume-{id}")));
    assert_eq!(w.status(&id).await, "attaching");
    let (_, seen) = w.call("member", "GET", &format!("/v3/attachments/{a}"), None).await;
    assert_eq!(seen["attachment"]["connection_info"], json!({}), "host paths are not for users");
    assert_eq!(w.call("svc", "POST", &format!("/v3/attachments/{a}/action"), Some(json!({"os-complete": {}}))).await.0, 204);
    let (_, body) = w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await;
    assert_eq!(body["volume"]["status"], "in-use");
    assert_eq!(body["volume"]["attachments"][0]["device"], "/dev/vdb");
    // Compute uses it: only compute may end it.
    w.attached.lock().unwrap().insert((SERVER.into(), id.clone()));
    for token in ["member", "admin"] {
        assert_eq!(w.call(token, "DELETE", &format!("/v3/attachments/{a}"), None).await.0, 409, "{token}");
        let detach = json!({"os-detach": {"attachment_id": a}});
        assert_eq!(w.call(token, "POST", &format!("/v3/volumes/{id}/action"), Some(detach)).await.0, 409, "{token}");
        let force = json!({"os-terminate_connection": {"connector": {}}});
        assert_eq!(w.call(token, "POST", &format!("/v3/volumes/{id}/action"), Some(force)).await.0, 409, "{token}");
    }
    assert_eq!(w.call("other", "DELETE", &format!("/v3/attachments/{a}"), None).await.0, 404);
    assert_eq!(w.call("svc", "DELETE", &format!("/v3/attachments/{a}"), None).await.0, 200);
    assert_eq!(w.status(&id).await, "available");
}

#[tokio::test]
async fn multiattach_volumes_take_several_servers() {
    let w = world().await;
    let id = w.volume("member", json!({"volume_type": "multiattach"})).await;
    let (_, one) = attach(&w, "member", &id, SERVER).await;
    let (status, two) = attach(&w, "member", &id, SERVER2).await;
    assert_eq!(status, 200, "{two}");
    assert_eq!(attach(&w, "member", &id, SERVER).await.0, 400, "one server once");
    for a in [&one, &two] {
        let path = format!("/v3/attachments/{}", a["attachment"]["id"].as_str().unwrap());
        assert_eq!(w.call("svc", "DELETE", &path, None).await.0, 200);
    }
    assert_eq!(w.status(&id).await, "available");
}

#[tokio::test]
async fn the_old_way_to_attach_works() {
    let w = world().await;
    let id = w.volume("member", json!({})).await;
    let path = format!("/v3/volumes/{id}/action");
    assert_eq!(w.call("member", "POST", &path, Some(json!({"os-reserve": {}}))).await.0, 202);
    assert_eq!(w.status(&id).await, "attaching");
    assert_eq!(w.call("member", "POST", &path, Some(json!({"os-unreserve": {}}))).await.0, 202);
    assert_eq!(w.status(&id).await, "available");
    let body = json!({"os-attach": {"instance_uuid": SERVER, "mountpoint": "/dev/vdb"}});
    assert_eq!(w.call("member", "POST", &path, Some(body)).await.0, 202);
    let (_, v) = w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await;
    assert_eq!((&v["volume"]["status"], &v["volume"]["attachments"][0]["device"]), (&json!("in-use"), &json!("/dev/vdb")));
    // Also from an error that an administrator set.
    assert_eq!(w.call("admin", "POST", &path, Some(json!({"os-reset_status": {"status": "error"}}))).await.0, 202);
    assert_eq!(w.call("member", "POST", &path, Some(json!({"os-detach": {}}))).await.0, 202);
    assert_eq!(w.status(&id).await, "available");
}

#[tokio::test]
async fn extend_upload_and_flags() {
    let w = world().await;
    w.images.add(IMAGE, "raw", b"content", b"content");
    let id = w.volume("member", json!({"imageRef": IMAGE})).await;
    let path = format!("/v3/volumes/{id}/action");
    for (size, status) in [(json!(1), 400), (json!(0), 400), (json!("x"), 400), (Value::Null, 400), (json!(2), 202)] {
        let got = w.call("member", "POST", &path, Some(json!({"os-extend": {"new_size": size}}))).await;
        assert_eq!(got.0, status, "{size} {}", got.1);
    }
    w.idle().await;
    let (_, v) = w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await;
    assert_eq!((&v["volume"]["size"], &v["volume"]["status"]), (&json!(2), &json!("available")));
    for flag in [true, false] {
        assert_eq!(w.call("member", "POST", &path, Some(json!({"os-update_readonly_flag": {"readonly": flag}}))).await.0, 202);
        assert_eq!(w.call("member", "POST", &path, Some(json!({"os-set_bootable": {"bootable": flag}}))).await.0, 200);
        let (_, v) = w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await;
        assert_eq!(v["volume"]["metadata"]["readonly"], if flag { "True" } else { "False" });
        assert_eq!(v["volume"]["bootable"], flag.to_string());
    }
    assert_eq!(w.call("member", "POST", &path, Some(json!({"os-reset_status": {"status": "error"}}))).await.0, 403);
    assert_eq!(w.call("admin", "POST", &path, Some(json!({"os-retype": {"new_type": "__DEFAULT__"}}))).await.0, 202);
    let (_, page) = w.call("member", "GET", "/v3/volumes/detail?limit=1&metadata=%7B%7D&with_count=1", None).await;
    assert_eq!((page["volumes"].as_array().unwrap().len(), &page["count"]), (1, &json!(1)));
    assert!(page["volumes_links"][0]["href"].as_str().unwrap().contains(&id));
}

#[tokio::test]
async fn a_volume_becomes_an_image() {
    let w = world().await;
    let id = w.volume("member", json!({})).await;
    let body = json!({"os-volume_upload_image": {"image_name": "i", "disk_format": "qcow2"}});
    let (status, body) = w.call("member", "POST", &format!("/v3/volumes/{id}/action"), Some(body)).await;
    assert_eq!(status, 202, "{body}");
    w.idle().await;
    assert_eq!(w.status(&id).await, "available");
    let image = body["os-volume_upload_image"]["image_id"].as_str().unwrap();
    let all = w.images.0.lock().unwrap();
    // Without qemu-img the image is taken back instead.
    if let Some((record, data)) = all.get(image) {
        assert_eq!(record["status"], "active");
        assert!(data.starts_with(b"QFI\xfb"));
    }
    drop(all);
    assert_eq!(w.files(), [format!("volume-{id}")]);
}

#[tokio::test]
async fn a_transfer_needs_the_key_and_moves_the_volume() {
    let w = world().await;
    let id = w.volume("member", json!({})).await;
    let (status, body) = w.call("member", "POST", "/v3/volume-transfers", Some(json!({"transfer": {"volume_id": id}}))).await;
    assert_eq!(status, 202, "{body}");
    let t = &body["transfer"];
    let path = format!("/v3/volume-transfers/{}", t["id"].as_str().unwrap());
    assert_eq!(w.status(&id).await, "awaiting-transfer");
    assert_eq!(w.call("other", "GET", &path, None).await.0, 404);
    let accept = |key: &Value| json!({"accept": {"auth_key": key}});
    assert_eq!(w.call("other", "POST", &format!("{path}/accept"), Some(accept(&json!("0000")))).await.0, 400);
    assert_eq!(w.call("other", "POST", &format!("{path}/accept"), Some(accept(&t["auth_key"]))).await.0, 202);
    assert_eq!(w.call("member", "GET", &format!("/v3/volumes/{id}"), None).await.0, 404);
    assert_eq!(w.call("other", "GET", &format!("/v3/volumes/{id}"), None).await.1["volume"]["status"], "available");
}

#[tokio::test]
async fn a_backup_brings_the_bytes_back() {
    let w = world().await;
    w.images.add(IMAGE, "raw", b"precious", b"precious");
    let id = w.volume("member", json!({"imageRef": IMAGE, "metadata": {"k": "v"}})).await;
    let (status, body) = w.call("member", "POST", "/v3/backups", Some(json!({"backup": {"volume_id": id}}))).await;
    assert_eq!(status, 202, "{body}");
    let path = format!("/v3/backups/{}", body["backup"]["id"].as_str().unwrap());
    w.idle().await;
    assert_eq!(w.call("other", "POST", &format!("{path}/restore"), Some(json!({"restore": {}}))).await.0, 404);
    let (status, body) = w.call("member", "POST", &format!("{path}/restore"), Some(json!({"restore": {}}))).await;
    assert_eq!(status, 202, "{body}");
    w.idle().await;
    let restored = body["restore"]["volume_id"].as_str().unwrap();
    assert_eq!(w.read(&format!("volume-{restored}"), 8), b"precious");
    let (_, v) = w.call("member", "GET", &format!("/v3/volumes/{restored}"), None).await;
    assert_eq!(
        (&v["volume"]["status"], &v["volume"]["bootable"], &v["volume"]["metadata"]["k"]),
        (&json!("available"), &json!("true"), &json!("v"))
    );
    assert_eq!(w.call("member", "DELETE", &path, None).await.0, 202);
    w.idle().await;
    assert!(!w.files().iter().any(|f| f.starts_with("backup")));
}

#[tokio::test]
async fn quotas_can_be_set_and_are_reported() {
    let w = world().await;
    let path = format!("/v3/os-quota-sets/{P1}");
    assert_eq!(w.call("member", "PUT", &path, Some(json!({"quota_set": {"volumes": 1}}))).await.0, 403);
    assert_eq!(w.call("admin", "PUT", &path, Some(json!({"quota_set": {"nonsense": 1}}))).await.0, 400);
    let (status, body) = w.call("admin", "PUT", &path, Some(json!({"quota_set": {"volumes": 1, "gigabytes_file": 1}}))).await;
    assert_eq!((status, &body["quota_set"]["volumes"]), (200, &json!(1)));
    w.volume("member", json!({})).await;
    let (status, body) = w.call("member", "POST", "/v3/volumes", Some(json!({"volume": {"size": 1}}))).await;
    assert_eq!(status, 413, "{body}");
    let (_, body) = w.call("member", "GET", &format!("{path}?usage=True"), None).await;
    assert_eq!(body["quota_set"]["gigabytes_file"], json!({"limit": 1, "in_use": 1, "reserved": 0}));
    assert_eq!(w.call("other", "GET", &path, None).await.0, 403);
    assert_eq!(w.call("member", "GET", "/v3/limits", None).await.1["limits"]["absolute"]["totalVolumesUsed"], 1);
}
