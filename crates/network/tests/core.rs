//! Networks, subnets, ports and binding over the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{DEMO, kind, net};
use serde_json::json;

#[tokio::test]
async fn a_port_gets_an_address_a_tap_and_becomes_active() {
    let t = net().await;
    let n = t.network("demo").await;
    assert_eq!(n["mtu"], 1450);
    assert!(n.get("provider:network_type").is_none());
    let s = t.subnet("demo", &n, "10.0.0.0/24").await;
    assert_eq!(s["gateway_ip"], "10.0.0.1");
    let (_, ports) = t.get("demo", &format!("/v2.0/ports?network_id={}", n["id"].as_str().unwrap())).await;
    assert_eq!(ports["ports"][0]["device_owner"], "network:dhcp");
    let attrs =
        json!({"network_id": n["id"], "binding:host_id": "host1", "device_owner": "compute:nova", "device_id": "s1", "project_id": DEMO});
    let p = t.make("admin", "port", "/v2.0/ports", attrs).await;
    assert_eq!(p["binding:vif_type"], "bridge");
    assert_eq!(p["security_groups"].as_array().unwrap().len(), 1);
    let mut events = t.service.port_events();
    t.service.settled().await;
    let id = p["id"].as_str().unwrap();
    let (_, shown) = t.get("demo", &format!("/v2.0/ports/{id}")).await;
    assert_eq!(shown["port"]["status"], "ACTIVE");
    assert!(shown["port"].get("binding:host_id").is_none());
    let state = t.plane.state();
    let tap = &state.ports[id];
    assert_eq!(tap.tap, format!("tap{}", &id[..11]));
    assert_eq!(tap.rules.len(), 4);
    let group = tap.rules.iter().find_map(|r| r.remote_group.clone()).unwrap();
    assert_eq!(state.groups[&group], tap.addresses);
    let dhcp = state.networks[n["id"].as_str().unwrap()].dhcp.as_ref().unwrap();
    assert_eq!(dhcp.hosts.len(), 1);
    assert_eq!(t.delete("demo", &format!("/v2.0/ports/{id}")).await, 204);
    t.service.settled().await;
    assert!(t.plane.state().ports.is_empty());
    let mut seen = Vec::new();
    while let Ok(e) = events.try_recv() {
        seen.push(e.status);
    }
    assert_eq!(seen.last().map(String::as_str), Some("DELETED"));
    let net_path = format!("/v2.0/networks/{}", n["id"].as_str().unwrap());
    assert_eq!(t.delete("demo", &net_path).await, 204);
    t.service.settled().await;
    assert!(t.plane.state().networks.is_empty());
}

#[tokio::test]
async fn what_is_foreign_does_not_exist() {
    let t = net().await;
    let n = t.network("demo").await;
    let s = t.subnet("demo", &n, "10.0.0.0/24").await;
    let p = t.make("demo", "port", "/v2.0/ports", json!({"network_id": n["id"]})).await;
    let g = t.make("demo", "security_group", "/v2.0/security-groups", json!({"name": "g"})).await;
    let random = "0f0f0f0f-0000-4000-8000-000000000000";
    for (path, thing) in [("networks", &n), ("subnets", &s), ("ports", &p), ("security-groups", &g)] {
        let id = thing["id"].as_str().unwrap();
        let foreign = t.get("other", &format!("/v2.0/{path}/{id}")).await;
        let missing = t.get("other", &format!("/v2.0/{path}/{random}")).await;
        assert_eq!(foreign.0, 404);
        assert_eq!(foreign.1.to_string().replace(id, random), missing.1.to_string());
        assert_eq!(t.delete("other", &format!("/v2.0/{path}/{id}")).await, 404);
        assert_eq!(t.delete("viewer", &format!("/v2.0/{path}/{id}")).await, 403);
        let (_, list) = t.get("other", &format!("/v2.0/{path}")).await;
        assert!(!list.to_string().contains(id), "{path}");
    }
    for body in [json!({"network_id": n["id"]}), json!({"network_id": random})] {
        assert_eq!(t.post("other", "/v2.0/ports", json!({"port": body})).await.0, 404);
    }
    let own = t.network("other").await;
    let (status, body) = t.post("other", "/v2.0/ports", json!({"port": {"network_id": own["id"], "security_groups": [g["id"]]}})).await;
    assert_eq!((status, kind(&body)), (404, "SecurityGroupNotFound"));
    let stolen = json!({"port": {"network_id": own["id"], "fixed_ips": [{"subnet_id": s["id"]}]}});
    assert_eq!(t.post("other", "/v2.0/ports", stolen).await.0, 400);
    assert_eq!(t.post("viewer", "/v2.0/networks", json!({"network": {}})).await.0, 403);
    let router_like = json!({"port": {"network_id": n["id"], "device_owner": "network:router_interface"}});
    assert_eq!(t.post("demo", "/v2.0/ports", router_like).await.0, 403);
    assert_eq!(t.post("demo", "/v2.0/ports", json!({"port": {"network_id": n["id"], "binding:host_id": "host1"}})).await.0, 403);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_name() {
    let t = net().await;
    let n = t.network("demo").await;
    let s = t.subnet("demo", &n, "10.0.0.0/24").await;
    let id = n["id"].clone();
    for (singular, path, attrs, status) in [
        ("network", "/v2.0/networks", json!({"nme": "x"}), 400),
        ("network", "/v2.0/networks", json!({"name": "x".repeat(256)}), 400),
        ("network", "/v2.0/networks", json!({"shared": true}), 403),
        ("network", "/v2.0/networks", json!({"provider:network_type": "flat"}), 403),
        ("network", "/v2.0/networks", json!({"admin_state_up": "perhaps"}), 400),
        ("network", "/v2.0/networks", json!({"mtu": 67}), 400),
        ("subnet", "/v2.0/subnets", json!({"network_id": id, "cidr": "10.0.0.128/25", "ip_version": 4}), 400),
        ("subnet", "/v2.0/subnets", json!({"network_id": id, "cidr": "10.1.0.1/24", "ip_version": 4}), 400),
        ("subnet", "/v2.0/subnets", json!({"network_id": id, "cidr": "10.1.0.0/24", "ip_version": 6}), 400),
        ("subnet", "/v2.0/subnets", json!({"network_id": id, "cidr": "::ffff:10.0.0.0/120", "ip_version": 6}), 400),
        ("port", "/v2.0/ports", json!({}), 400),
        ("port", "/v2.0/ports", json!({"network_id": "x"}), 400),
        ("port", "/v2.0/ports", json!({"network_id": id, "fixed_ips": [{"ip_address": "10.9.9.9"}]}), 400),
        ("port", "/v2.0/ports", json!({"network_id": id, "fixed_ips": [{"ip_address": "10.0.0.255"}]}), 400),
        ("port", "/v2.0/ports", json!({"network_id": id, "mac_address": "01:00:00:00:00:01"}), 400),
        ("port", "/v2.0/ports", json!({"network_id": id, "allowed_address_pairs": [{"ip_address": "0.0.0.0/0"}]}), 400),
        ("port", "/v2.0/ports", json!({"network_id": id, "extra_dhcp_opts": [{"opt_name": "x", "opt_value": "a\nb"}]}), 400),
    ] {
        let (got, body) = t.post("demo", path, json!({ singular: attrs.clone() })).await;
        assert_eq!(got, status, "{attrs} {body}");
    }
    assert_eq!(t.post("demo", "/v2.0/networks", json!([])).await.0, 400);
    let path = format!("/v2.0/subnets/{}", s["id"].as_str().unwrap());
    assert_eq!(t.put("demo", &path, json!({"subnet": {"cidr": "10.5.0.0/24"}})).await.0, 400);
    assert_eq!(t.get("demo", "/v2.0/networks?limit=-1").await.0, 400);
    assert_eq!(t.get("demo", "/v2.0/networks?nonsense=1").await.0, 400);
    assert_eq!(t.get("nobody", "/v2.0/networks").await.0, 401);
}

#[tokio::test]
async fn sixty_four_clients_race_for_the_last_address() {
    let t = std::sync::Arc::new(net().await);
    let n = t.network("demo").await;
    let pools = json!([{"start": "10.0.0.10", "end": "10.0.0.11"}]);
    let attrs = json!({"network_id": n["id"], "cidr": "10.0.0.0/24", "ip_version": 4, "allocation_pools": pools});
    t.make("demo", "subnet", "/v2.0/subnets", attrs).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (t, id) = (t.clone(), n["id"].clone());
        tasks.spawn(async move { t.post("demo", "/v2.0/ports", json!({"port": {"network_id": id}})).await });
    }
    let mut won = 0;
    while let Some(r) = tasks.join_next().await {
        match r.unwrap() {
            (201, _) => won += 1,
            (409, body) => assert_eq!(kind(&body), "IpAddressGenerationFailure"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1, "DHCP has one of the two addresses");
    assert!(t.service.audit(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn ipv6_addresses_follow_from_the_mac() {
    let t = net().await;
    let n = t.network("demo").await;
    let before = t.make("demo", "port", "/v2.0/ports", json!({"network_id": n["id"]})).await;
    assert_eq!(before["fixed_ips"], json!([]));
    t.subnet("demo", &n, "10.0.0.0/24").await;
    let attrs =
        json!({"network_id": n["id"], "cidr": "2001:db8::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let s = t.make("demo", "subnet", "/v2.0/subnets", attrs).await;
    let p = t.make("demo", "port", "/v2.0/ports", json!({"network_id": n["id"], "mac_address": "fa:16:3e:00:00:01"})).await;
    let ips: Vec<&str> = p["fixed_ips"].as_array().unwrap().iter().filter_map(|f| f["ip_address"].as_str()).collect();
    assert!(ips.contains(&"2001:db8::f816:3eff:fe00:1"), "{ips:?}");
    assert_eq!(ips.len(), 2);
    assert_eq!(t.delete("demo", &format!("/v2.0/subnets/{}", s["id"].as_str().unwrap())).await, 204);
    let (_, p) = t.get("demo", &format!("/v2.0/ports/{}", p["id"].as_str().unwrap())).await;
    assert_eq!(p["port"]["fixed_ips"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn port_updates_keep_what_is_wanted() {
    let t = net().await;
    let n = t.network("demo").await;
    let s = t.subnet("demo", &n, "10.0.0.0/24").await;
    let p = t.make("demo", "port", "/v2.0/ports", json!({"network_id": n["id"]})).await;
    let path = format!("/v2.0/ports/{}", p["id"].as_str().unwrap());
    let first = p["fixed_ips"][0].clone();
    let more = json!({"port": {"fixed_ips": [first, {"subnet_id": s["id"]}, {"ip_address": "10.0.0.77"}]}});
    let (status, body) = t.put("demo", &path, more).await;
    assert_eq!(status, 200, "{body}");
    let ips = body["port"]["fixed_ips"].as_array().unwrap().clone();
    assert_eq!(ips.len(), 3);
    assert!(ips.contains(&first));
    let (status, body) = t.put("demo", &path, json!({"port": {"fixed_ips": []}})).await;
    assert_eq!((status, body["port"]["fixed_ips"].as_array().map(Vec::len)), (200, Some(0)));
    let (_, ports) = t.get("demo", "/v2.0/ports?fixed_ips=ip_address%3D10.0.0.77").await;
    assert_eq!(ports["ports"].as_array().map(Vec::len), Some(0));
    assert!(t.service.audit(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let t = net().await;
    for name in ["c", "a", "b"] {
        t.make("demo", "network", "/v2.0/networks", json!({"name": name})).await;
    }
    let names = |v: &serde_json::Value| -> Vec<String> {
        v["networks"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_string()).collect()
    };
    let (_, l) = t.get("demo", "/v2.0/networks?sort_key=name&sort_dir=desc").await;
    assert_eq!(names(&l), ["c", "b", "a"]);
    let (_, l) = t.get("demo", "/v2.0/networks?sort_key=name&sort_dir=asc&limit=2").await;
    assert_eq!(names(&l), ["a", "b"]);
    assert_eq!(l["networks_links"][0]["rel"], "next");
    let marker = l["networks"][1]["id"].as_str().unwrap();
    let (_, l) = t.get("demo", &format!("/v2.0/networks?sort_key=name&sort_dir=asc&limit=2&marker={marker}")).await;
    assert_eq!(names(&l), ["c"]);
    let (_, l) = t.get("demo", &format!("/v2.0/networks?sort_key=name&sort_dir=asc&limit=2&marker={marker}&page_reverse=True")).await;
    assert_eq!(names(&l), ["a"]);
    let (_, l) = t.get("demo", "/v2.0/networks?name=a&name=b&fields=id&fields=name").await;
    assert_eq!(l["networks"].as_array().unwrap().len(), 2);
    assert_eq!(l["networks"][0].as_object().unwrap().len(), 2);
    let (_, l) = t.get("demo", "/v2.0/networks?shared=False&status=ACTIVE").await;
    assert_eq!(names(&l).len(), 3);
}

#[tokio::test]
async fn a_restart_makes_the_host_whole_again() {
    let dir = std::env::temp_dir().join(format!("caelum-network-restart-{}", std::process::id()));
    let url = caelum_store::StoreUrl::SqliteDir(dir.clone());
    let t = common::net_at(url.clone()).await;
    let n = t.network("demo").await;
    t.subnet("demo", &n, "10.0.0.0/24").await;
    t.make("admin", "port", "/v2.0/ports", json!({"network_id": n["id"], "binding:host_id": "host1", "project_id": DEMO})).await;
    t.service.settled().await;
    let before = t.plane.state();
    assert_eq!(before.ports.len(), 1);
    t.service.stop().await;
    drop(t);
    let t = common::net_at(url).await;
    t.service.settled().await;
    let after = t.plane.state();
    assert_eq!((&after.ports, &after.networks, &after.groups), (&before.ports, &before.networks, &before.groups));
    assert!(after.generation > before.generation);
    t.service.stop().await;
    std::fs::remove_dir_all(dir).unwrap();
}
