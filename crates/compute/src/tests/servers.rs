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
    let (_, again) = b
        .call(
            "member",
            1,
            "POST",
            "/v2.1/servers",
            json!({"server": {"name": "x", "imageRef": IMAGE, "flavorRef": "t1", "networks": [{"port": port}]}}),
        )
        .await;
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
        json!({"flavorRef": "nope"}),
        json!({"imageRef": "x/../y"}),
        json!({"imageRef": NET}),
        json!({"name": ""}),
        json!({"name": 5}),
        json!({"metadata": {"": "x"}}),
        json!({"metadata": {"k": 1}}),
        json!({"networks": [{"uuid": "nope"}]}),
        json!({"user_data": "%%"}),
        json!({"min_count": 2, "max_count": 1}),
        json!({"unknown": 1}),
        json!({"tags": ["x"]}),
        json!({"key_name": "nope"}),
        json!({"availability_zone": "nope"}),
        json!({"accessIPv4": "1.2.3"}),
        json!({"networks": [{"uuid": NET, "fixed_ip": "x"}]}),
        json!({"security_groups": [{"name": "nope"}]}),
        json!({"block_device_mapping_v2": [{"boot_index": "z"}]}),
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

#[tokio::test]
async fn actions_move_a_server_through_its_states() {
    let b = bench(8192).await;
    let s = b.boot(json!({})).await;
    let id = s["id"].as_str().unwrap();
    let steps = [
        (json!({"os-stop": null}), 202, "SHUTOFF"),
        (json!({"os-stop": null}), 409, "SHUTOFF"),
        (json!({"os-start": null}), 202, "ACTIVE"),
        (json!({"reboot": {"type": "SOFT"}}), 202, "ACTIVE"),
        (json!({"reboot": {"type": "HARD"}}), 202, "ACTIVE"),
        (json!({"pause": null}), 202, "PAUSED"),
        (json!({"unpause": null}), 202, "ACTIVE"),
        (json!({"suspend": null}), 202, "SUSPENDED"),
        (json!({"resume": null}), 202, "ACTIVE"),
        (json!({"rebuild": {"imageRef": IMAGE, "name": "again"}}), 202, "ACTIVE"),
        (json!({"resize": {"flavorRef": "t2"}}), 202, "VERIFY_RESIZE"),
        (json!({"revertResize": null}), 202, "ACTIVE"),
        (json!({"resize": {"flavorRef": "t2"}}), 202, "VERIFY_RESIZE"),
        (json!({"confirmResize": null}), 204, "ACTIVE"),
        (json!({"resize": {"flavorRef": "t2"}}), 400, "ACTIVE"),
        (json!({"shelve": null}), 202, "SHELVED_OFFLOADED"),
        (json!({"unshelve": null}), 202, "ACTIVE"),
        (json!({"os-resetState": {"state": "error"}}), 202, "ERROR"),
        (json!({"restore": null}), 409, "ERROR"),
        (json!({"nonsense": null}), 400, "ERROR"),
    ];
    for (action, code, status) in steps {
        let (got, body) = b.act(id, action.clone()).await;
        assert_eq!(got, code, "{action}: {body}");
        let s = b.get(&format!("/v2.1/servers/{id}")).await;
        assert_eq!(s["server"]["status"], status, "{action}: {s}");
    }
    let booked = b.fake.allocations.lock().unwrap()[id].1.clone();
    assert_eq!(booked["MEMORY_MB"], 1024);
    let list = b.get(&format!("/v2.1/servers/{id}/os-instance-actions")).await;
    assert!(list["instanceActions"].as_array().unwrap().len() > 10);
}

#[tokio::test]
async fn a_locked_server_refuses_its_owner_but_not_an_administrator() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let id = s["id"].as_str().unwrap();
    let path = format!("/v2.1/servers/{id}/action");
    assert_eq!(b.call("member", 1, "POST", &path, json!({"lock": null})).await.0, 202);
    assert_eq!(b.call("member", 1, "POST", &path, json!({"os-stop": null})).await.0, 409);
    assert_eq!(b.call("member", 1, "DELETE", &format!("/v2.1/servers/{id}"), Value::Null).await.0, 409);
    assert_eq!(b.call("admin", 1, "POST", &path, json!({"os-stop": null})).await.0, 202);
    b.idle().await;
    assert_eq!(b.call("member", 1, "POST", &path, json!({"unlock": null})).await.0, 202);
    assert_eq!(b.call("member", 1, "POST", &path, json!({"os-start": null})).await.0, 202);
    b.idle().await;
}

#[tokio::test]
async fn volumes_come_and_go() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let path = format!("/v2.1/servers/{}/os-volume_attachments", s["id"].as_str().unwrap());
    let volume = b.fake.user_volume();
    let (status, body) = b.call("member", 1, "POST", &path, json!({"volumeAttachment": {"volumeId": volume}})).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["volumeAttachment"]["device"], "/dev/vdb");
    b.idle().await;
    assert_eq!(b.fake.volumes.lock().unwrap()[&volume]["status"], "in-use");
    assert_eq!(b.call("member", 1, "POST", &path, json!({"volumeAttachment": {"volumeId": volume}})).await.0, 400);
    let (_, list) = b.call("member", 89, "GET", &path, Value::Null).await;
    assert!(list["volumeAttachments"][0]["bdm_uuid"].is_string() && list["volumeAttachments"][0]["id"].is_null());
    assert_eq!(b.call("member", 1, "DELETE", &format!("{path}/{volume}"), Value::Null).await.0, 202);
    b.idle().await;
    assert_eq!(b.fake.volumes.lock().unwrap()[&volume]["status"], "available");
    assert_eq!(b.call("member", 1, "DELETE", &format!("{path}/{volume}"), Value::Null).await.0, 404);
    // A host that refuses leaves nothing attached.
    for h in &b.hosts {
        h.inject(FaultPoint::AttachVolume, Fault { times: u32::MAX, ..Fault::fail(caelum_base::ErrorKind::Conflict, "no slot") });
    }
    b.call("member", 1, "POST", &path, json!({"volumeAttachment": {"volumeId": volume}})).await;
    b.idle().await;
    assert_eq!(b.fake.volumes.lock().unwrap()[&volume]["status"], "available");
    assert_eq!(b.get(&path).await["volumeAttachments"], json!([]));
}

#[tokio::test]
async fn interfaces_come_and_go() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let path = format!("/v2.1/servers/{}/os-interface", s["id"].as_str().unwrap());
    let port = b.fake.user_port();
    let (status, body) = b.call("member", 1, "POST", &path, json!({"interfaceAttachment": {"port_id": port}})).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["interfaceAttachment"]["port_id"], port.as_str());
    let (status, made) = b.call("member", 1, "POST", &path, json!({"interfaceAttachment": {"net_id": NET}})).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(b.get(&path).await["interfaceAttachments"].as_array().unwrap().len(), 3);
    let made = made["interfaceAttachment"]["port_id"].as_str().unwrap();
    for id in [made, port.as_str()] {
        assert_eq!(b.call("member", 1, "DELETE", &format!("{path}/{id}"), Value::Null).await.0, 202);
        b.idle().await;
    }
    let ports = b.fake.ports.lock().unwrap();
    assert!(!ports.contains_key(made), "a port that compute made goes");
    assert_eq!(ports[&port]["device_id"], "", "the user's stays");
}

#[tokio::test]
async fn rows_follow_guests_that_stop_or_vanish() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let id = s["id"].as_str().unwrap();
    let path = format!("/v2.1/servers/{id}");
    let (_, shown) = b.call("admin", 1, "GET", &path, Value::Null).await;
    let host = shown["server"]["OS-EXT-SRV-ATTR:host"].as_str().unwrap().to_string();
    let sim = &b.hosts[usize::from(host == "host2")];
    sim.stop_by_itself(id, caelum_hypervisor::PowerState::Shutdown).unwrap();
    crate::reconcile::power::sync_host(b.service.state(), &host).await.unwrap();
    assert_eq!(b.get(&path).await["server"]["status"], "SHUTOFF");
    sim.lose(id).unwrap();
    crate::reconcile::power::sync_host(b.service.state(), &host).await.unwrap();
    let s = b.get(&path).await;
    assert_eq!(s["server"]["status"], "ERROR");
    assert!(s["server"]["fault"]["message"].as_str().unwrap().contains("not on its host"));
    b.act(id, json!({"reboot": {"type": "HARD"}})).await;
    assert_eq!(b.get(&path).await["server"]["status"], "ACTIVE");
}

#[tokio::test]
async fn versions_show_what_they_should() {
    let b = bench(4096).await;
    let s = b.boot(json!({})).await;
    let path = format!("/v2.1/servers/{}", s["id"].as_str().unwrap());
    let at = [
        (9, "locked"),
        (16, "host_status"),
        (19, "description"),
        (26, "tags"),
        (63, "trusted_image_certificates"),
        (71, "server_groups"),
        (73, "locked_reason"),
        (96, "pinned_availability_zone"),
        (100, "scheduler_hints"),
    ];
    for (minor, field) in at {
        let (_, before) = b.call("admin", minor - 1, "GET", &path, Value::Null).await;
        let (_, since) = b.call("admin", minor, "GET", &path, Value::Null).await;
        assert!(before["server"].get(field).is_none(), "{field} before 2.{minor}");
        assert!(since["server"].get(field).is_some(), "{field} from 2.{minor}");
    }
    let (_, member) = b.call("member", 100, "GET", &path, Value::Null).await;
    assert!(member["server"].get("OS-EXT-SRV-ATTR:host").is_none() && member["server"].get("host_status").is_none());
    assert_eq!(member["server"]["flavor"]["original_name"], "ft1");
}
