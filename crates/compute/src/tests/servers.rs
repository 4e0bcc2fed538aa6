//! The main life of servers.

use super::bench;
use super::fakes::{IMAGE, NET};
use caelum_hypervisor::{Fault, FaultPoint, Hypervisor};
use serde_json::{Value, json};

#[tokio::test]
async fn a_server_is_built_shown_and_removed() {
    let b = bench(4096).await;
    let s = b.boot(json!({"metadata": {"a": "b"}})).await;
    assert_eq!(s["status"], "ACTIVE", "{s}");
    assert_eq!(s["addresses"]["private"][0]["OS-EXT-IPS:type"], "fixed");
    assert_eq!(s["OS-EXT-STS:power_state"], 1);
    assert_eq!(s["metadata"]["a"], "b");
    let id = s["id"].as_str().unwrap();
    assert_eq!(b.hosts[0].list().await.unwrap().len() + b.hosts[1].list().await.unwrap().len(), 1);
    let (status, _) = b.call("member", 1, "DELETE", &format!("/v2.1/servers/{id}"), Value::Null).await;
    assert_eq!(status, 204);
    b.idle().await;
    let (status, _) = b.call("member", 1, "GET", &format!("/v2.1/servers/{id}"), Value::Null).await;
    assert_eq!(status, 404);
    assert!(b.fake.is_clean());
    assert!(b.fake.ports.lock().unwrap().is_empty());
    assert_eq!(b.hosts[0].list().await.unwrap().len() + b.hosts[1].list().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_users_port_survives_its_server() {
    let b = bench(4096).await;
    let port = b.fake.user_port();
    let s = b.boot(json!({"networks": [{"port": port}]})).await;
    assert_eq!(s["status"], "ACTIVE", "{s}");
    let (_, again) = b.call("member", 1, "POST", "/v2.1/servers", json!({"server": {"name": "x", "imageRef": IMAGE, "flavorRef": "t1", "networks": [{"port": port}]}})).await;
    assert_eq!(again["conflictingRequest"]["code"], 409);
    b.call("member", 1, "DELETE", &format!("/v2.1/servers/{}", s["id"].as_str().unwrap()), Value::Null).await;
    b.idle().await;
    let ports = b.fake.ports.lock().unwrap();
    assert_eq!(ports[&port]["device_id"], "");
}

#[tokio::test]
async fn foreign_servers_do_not_exist_and_readers_do_not_write() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let path = format!("/v2.1/servers/{}", s["id"].as_str().unwrap());
    for (method, body) in [("GET", Value::Null), ("DELETE", Value::Null), ("PUT", json!({"server": {"name": "x"}}))] {
        assert_eq!(b.call("other", 1, method, &path, body.clone()).await.0, 404, "{method}");
    }
    assert_eq!(b.call("reader", 1, "GET", &path, Value::Null).await.0, 200);
    assert_eq!(b.call("reader", 1, "DELETE", &path, Value::Null).await.0, 403);
    let (_, list) = b.call("other", 1, "GET", "/v2.1/servers", Value::Null).await;
    assert_eq!(list["servers"], json!([]));
    assert_eq!(b.call("member", 1, "GET", "/v2.1/servers?all_tenants=1", Value::Null).await.0, 403);
}

#[tokio::test]
async fn bad_bodies_are_400() {
    let b = bench(4096).await;
    let base = || json!({"name": "x", "imageRef": IMAGE, "flavorRef": "t1"});
    let cases = [
        json!({"flavorRef": "nope"}), json!({"imageRef": "x/../y"}), json!({"imageRef": NET}), json!({"name": ""}), json!({"name": 5}),
        json!({"metadata": {"": "x"}}), json!({"metadata": {"k": 1}}), json!({"networks": [{"uuid": "nope"}]}), json!({"user_data": "%%"}),
        json!({"min_count": 2, "max_count": 1}), json!({"unknown": 1}), json!({"tags": ["x"]}), json!({"key_name": "nope"}),
        json!({"availability_zone": "nope"}), json!({"accessIPv4": "1.2.3"}), json!({"networks": [{"uuid": NET, "fixed_ip": "x"}]}),
        json!({"security_groups": [{"name": "nope"}]}), json!({"block_device_mapping_v2": [{"boot_index": "z"}]}),
    ];
    for case in cases {
        let mut server = base();
        for (k, v) in case.as_object().unwrap() {
            server[k] = v.clone();
        }
        let (status, body) = b.call("member", 1, "POST", "/v2.1/servers", json!({"server": server})).await;
        assert_eq!(status, 400, "{case}: {body}");
    }
    assert_eq!(b.get("/v2.1/servers").await["servers"], json!([]));
}

#[tokio::test]
async fn a_failed_spawn_leaves_an_error_with_a_reason_and_nothing_else() {
    let b = bench(4096).await;
    for h in &b.hosts {
        h.inject(FaultPoint::Spawn, Fault { times: u32::MAX, ..Fault::fail(caelum_base::ErrorKind::Conflict, "no such machine type") });
    }
    let s = b.boot(json!({})).await;
    assert_eq!(s["status"], "ERROR");
    assert_eq!(s["fault"]["message"], "no such machine type");
    assert_eq!(s["fault"]["code"], 500);
    assert!(b.fake.is_clean());
    let path = format!("/v2.1/servers/{}", s["id"].as_str().unwrap());
    assert_eq!(b.call("member", 1, "DELETE", &path, Value::Null).await.0, 204);
    b.idle().await;
    assert_eq!(b.call("member", 1, "GET", &path, Value::Null).await.0, 404);
}

#[tokio::test]
async fn two_clients_for_the_last_room_get_one_server() {
    let b = bench(512).await;
    let body = || json!({"server": {"name": "x", "imageRef": IMAGE, "flavorRef": "t1"}});
    let calls = (0..4).map(|_| b.call("member", 1, "POST", "/v2.1/servers", body()));
    futures_util::future::join_all(calls).await;
    b.idle().await;
    let list = b.get("/v2.1/servers/detail").await;
    let statuses: Vec<&str> = list["servers"].as_array().unwrap().iter().map(|s| s["status"].as_str().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|s| **s == "ACTIVE").count(), 2, "two hosts with room for one each: {statuses:?}");
    assert_eq!(b.fake.allocations.lock().unwrap().len(), 2);
    let failed = list["servers"].as_array().unwrap().iter().find(|s| s["status"] == "ERROR").unwrap();
    assert!(failed["fault"]["message"].as_str().unwrap().contains("No valid host"));
}

#[tokio::test]
async fn delete_wins_over_a_create_that_waits() {
    let b = bench(4096).await;
    *b.fake.no_plug.lock().unwrap() = true;
    let body = json!({"server": {"name": "x", "imageRef": IMAGE, "flavorRef": "t1"}});
    let (_, made) = b.call("member", 1, "POST", "/v2.1/servers", body).await;
    let path = format!("/v2.1/servers/{}", made["server"]["id"].as_str().unwrap());
    assert_eq!(b.get(&path).await["server"]["status"], "BUILD");
    assert_eq!(b.call("member", 1, "DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(b.call("member", 1, "DELETE", &path, Value::Null).await.0, 204);
    b.idle().await;
    assert_eq!(b.call("member", 1, "GET", &path, Value::Null).await.0, 404);
    assert!(b.fake.is_clean() && b.fake.ports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn quota_is_counted_and_refused() {
    let b = bench(65536).await;
    let body = |n: i64| json!({"server": {"name": "x", "imageRef": IMAGE, "flavorRef": "t1", "min_count": n, "max_count": n}});
    let (status, body_) = b.call("member", 1, "POST", "/v2.1/servers", body(11)).await;
    assert_eq!(status, 403, "{body_}");
    assert!(body_["forbidden"]["message"].as_str().unwrap().contains("instances"));
    assert_eq!(b.call("member", 1, "POST", "/v2.1/servers", body(10)).await.0, 202);
    assert_eq!(b.call("member", 1, "POST", "/v2.1/servers", body(1)).await.0, 403);
    b.idle().await;
}

#[tokio::test]
async fn boots_from_volumes_and_cleans_up() {
    let b = bench(4096).await;
    let volume = b.fake.user_volume();
    let disks = json!([
        {"boot_index": 0, "source_type": "image", "destination_type": "volume", "uuid": IMAGE, "volume_size": 1, "delete_on_termination": true},
        {"boot_index": -1, "source_type": "volume", "destination_type": "volume", "uuid": volume},
    ]);
    let s = b.boot(json!({"imageRef": "", "block_device_mapping_v2": disks})).await;
    assert_eq!(s["status"], "ACTIVE", "{s}");
    assert_eq!(s["image"], "");
    assert_eq!(s["os-extended-volumes:volumes_attached"].as_array().unwrap().len(), 2);
    b.call("member", 1, "DELETE", &format!("/v2.1/servers/{}", s["id"].as_str().unwrap()), Value::Null).await;
    b.idle().await;
    assert!(b.fake.is_clean());
    assert_eq!(b.fake.volumes.lock().unwrap().keys().collect::<Vec<_>>(), [&volume]);
}

#[tokio::test]
async fn lists_filter_and_page() {
    let b = bench(65536).await;
    for name in ["web-1", "web-2", "db"] {
        b.boot(json!({"name": name})).await;
    }
    let names = |v: &Value| v["servers"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&b.get("/v2.1/servers").await), ["db", "web-2", "web-1"]);
    assert_eq!(names(&b.get("/v2.1/servers?name=%5Eweb.*2$").await), ["web-2"]);
    assert_eq!(names(&b.get("/v2.1/servers?status=active&name=db").await), ["db"]);
    assert_eq!(names(&b.get("/v2.1/servers?status=shutoff").await), Vec::<String>::new());
    let page = b.get("/v2.1/servers?limit=2").await;
    assert_eq!(names(&page), ["db", "web-2"]);
    let marker = page["servers"][1]["id"].as_str().unwrap();
    assert!(page["servers_links"][0]["href"].as_str().unwrap().contains(marker));
    assert_eq!(names(&b.get(&format!("/v2.1/servers?limit=2&marker={marker}")).await), ["web-1"]);
    assert_eq!(b.call("member", 1, "GET", "/v2.1/servers?limit=-1", Value::Null).await.0, 400);
    assert_eq!(b.call("member", 1, "GET", "/v2.1/servers?changes-since=x", Value::Null).await.0, 400);
}
