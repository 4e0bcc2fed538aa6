//! Zones, services, hypervisors and aggregates through the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::{Value, json};
use support::{cloud, server};

const ID: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const PROVIDER: &str = "cccccccc-0000-4000-8000-000000000001";

#[tokio::test]
async fn services_and_zones() {
    let c = cloud().await;
    c.report().await;
    assert_eq!(c.get("member", "", "/v2.1/os-services").await.0, 403);
    let (_, v) = c.get("admin", "2.53", "/v2.1/os-services?binary=nova-compute").await;
    let s = &v["services"][0];
    assert_eq!((&s["host"], &s["state"], &s["status"], &s["zone"]), (&json!("host1"), &json!("up"), &json!("enabled"), &json!("nova")));
    let id = s["id"].as_str().unwrap().to_string();
    assert_eq!(c.get("admin", "", "/v2.1/os-services?host=xxx").await.1, json!({"services": []}));
    let (_, v) = c.get("reader", "", "/v2.1/os-availability-zone").await;
    assert_eq!(v["availabilityZoneInfo"], json!([{"zoneName": "nova", "zoneState": {"available": true}, "hosts": null}]));
    assert_eq!(c.get("reader", "", "/v2.1/os-availability-zone/detail").await.0, 403);
    let put = format!("PUT /v2.1/os-services/{id}");
    for bad in [json!({}), json!({"status": "x"}), json!({"status": "enabled", "disabled_reason": "x"}), json!({"foo": 1})] {
        assert_eq!(c.call("admin", "2.53", &put, bad).await.0, 400);
    }
    let off = json!({"status": "disabled", "disabled_reason": "repair", "forced_down": true});
    let (status, v) = c.call("admin", "2.53", &put, off).await;
    assert_eq!((status, &v["service"]["state"], &v["service"]["disabled_reason"]), (200, &json!("down"), &json!("repair")));
    assert_eq!(
        c.call("admin", "2.53", "PUT /v2.1/os-services/dddddddd-0000-4000-8000-000000000001", json!({"status": "enabled"})).await.0,
        404
    );
    let (_, v) = c.get("admin", "", "/v2.1/os-availability-zone/detail").await;
    let zone = v["availabilityZoneInfo"].as_array().unwrap().iter().find(|z| z["zoneName"] == "nova").unwrap();
    assert_eq!((&zone["zoneState"]["available"], &zone["hosts"]["host1"]["nova-compute"]["available"]), (&json!(false), &json!(false)));
    let name = json!({"host": "host1", "binary": "nova-compute"});
    let (_, v) = c.call("admin", "", "PUT /v2.1/os-services/enable", name.clone()).await;
    assert_eq!(v["service"], json!({"host": "host1", "binary": "nova-compute", "status": "enabled"}));
    assert_eq!(c.call("admin", "", "PUT /v2.1/os-services/disable-log-reason", name).await.0, 400);
    c.put(server(ID)).await;
    assert_eq!(c.call("admin", "2.53", &format!("DELETE /v2.1/os-services/{id}"), Value::Null).await.0, 409);
}

#[tokio::test]
async fn hypervisors() {
    let c = cloud().await;
    c.report().await;
    c.put(server(ID)).await;
    let (_, v) = c.get("admin", "", "/v2.1/os-hypervisors/detail").await;
    let h = &v["hypervisors"][0];
    assert_eq!(
        (&h["vcpus_used"], &h["memory_mb_used"], &h["running_vms"], &h["hypervisor_hostname"]),
        (&json!(1), &json!(512), &json!(1), &json!("host1"))
    );
    assert!(h["cpu_info"].is_string() && h["id"].is_i64());
    let path = format!("/v2.1/os-hypervisors/{}", h["id"]);
    assert!(c.get("admin", "", &format!("{path}/uptime")).await.1["hypervisor"]["uptime"].as_str().unwrap().contains("load average"));
    assert_eq!(c.get("admin", "", &path).await.1["hypervisor"]["hypervisor_hostname"], "host1");
    assert_eq!(c.get("admin", "", "/v2.1/os-hypervisors/999").await.0, 404);
    assert_eq!(c.get("admin", "", "/v2.1/os-hypervisors/host1/servers").await.1["hypervisors"][0]["servers"][0]["uuid"], ID);
    assert_eq!(c.get("admin", "", "/v2.1/os-hypervisors/nope/search").await.0, 404);
    let (_, v) = c.get("admin", "", "/v2.1/os-hypervisors/statistics").await;
    assert_eq!((&v["hypervisor_statistics"]["count"], v["hypervisor_statistics"].as_object().unwrap().len()), (&json!(1), 12));
    let (_, v) = c.get("admin", "2.53", "/v2.1/os-hypervisors?with_servers=true").await;
    assert_eq!((&v["hypervisors"][0]["id"], &v["hypervisors"][0]["servers"][0]["uuid"]), (&json!(PROVIDER), &json!(ID)));
    let (_, v) = c.get("admin", "2.88", &format!("/v2.1/os-hypervisors/{PROVIDER}")).await;
    assert!(v["hypervisor"].get("cpu_info").is_none() && v["hypervisor"]["uptime"].is_string());
    assert_eq!(c.get("admin", "2.88", "/v2.1/os-hypervisors/statistics").await.0, 404);
    assert_eq!(c.get("member", "", "/v2.1/os-hypervisors").await.0, 403);
    let (_, v) = c.get("admin", "", "/v2.1/os-hosts/host1").await;
    assert_eq!((&v["host"][0]["resource"]["project"], &v["host"][1]["resource"]["memory_mb"]), (&json!("(total)"), &json!(512)));
    assert_eq!(c.get("admin", "", "/v2.1/os-hosts?zone=nova").await.1["hosts"][0]["service"], "compute");
    assert_eq!(c.get("admin", "", "/v2.1/os-migrations").await.1, json!({"migrations": []}));
}

#[tokio::test]
async fn aggregates() {
    let c = cloud().await;
    c.report().await;
    let new = |name: &str, zone: &str| json!({"aggregate": {"name": name, "availability_zone": zone}});
    assert_eq!(c.call("member", "", "POST /v2.1/os-aggregates", new("a", "z")).await.0, 403);
    let (status, v) = c.call("admin", "2.41", "POST /v2.1/os-aggregates", new("a", "z")).await;
    assert_eq!((status, &v["aggregate"]["id"], v["aggregate"].get("hosts")), (200, &json!(1), None));
    assert!(v["aggregate"]["uuid"].is_string());
    assert_eq!(c.call("admin", "", "POST /v2.1/os-aggregates", new("a", "z")).await.0, 409);
    assert_eq!(c.call("admin", "", "POST /v2.1/os-aggregates", new("", "z")).await.0, 400);
    let act = "POST /v2.1/os-aggregates/1/action";
    assert_eq!(c.call("admin", "", act, json!({"add_host": {"host": "nope"}})).await.0, 404);
    assert_eq!(c.call("admin", "", act, json!({"add_host": {"host": "host1"}})).await.1["aggregate"]["hosts"], json!(["host1"]));
    assert_eq!(c.call("admin", "", act, json!({"add_host": {"host": "host1"}})).await.0, 409);
    assert_eq!(c.get("reader", "", "/v2.1/os-availability-zone").await.1["availabilityZoneInfo"][0]["zoneName"], "z");
    c.call("admin", "", "POST /v2.1/os-aggregates", new("b", "y")).await;
    assert_eq!(c.call("admin", "", "POST /v2.1/os-aggregates/2/action", json!({"add_host": {"host": "host1"}})).await.0, 409);
    let meta = json!({"set_metadata": {"metadata": {"ssd": "true"}}});
    assert_eq!(c.call("admin", "", act, meta).await.1["aggregate"]["metadata"], json!({"availability_zone": "z", "ssd": "true"}));
    let (_, v) = c.call("admin", "", "PUT /v2.1/os-aggregates/1", json!({"aggregate": {"name": "c", "availability_zone": "x"}})).await;
    assert_eq!((&v["aggregate"]["name"], &v["aggregate"]["availability_zone"]), (&json!("c"), &json!("x")));
    assert_eq!(c.call("admin", "", "DELETE /v2.1/os-aggregates/1", Value::Null).await.0, 400);
    assert_eq!(c.call("admin", "", act, json!({"remove_host": {"host": "host1"}})).await.0, 200);
    assert_eq!(c.call("admin", "", act, json!({"remove_host": {"host": "host1"}})).await.0, 404);
    assert_eq!(c.call("admin", "", "DELETE /v2.1/os-aggregates/1", Value::Null).await.0, 200);
    assert_eq!(c.get("admin", "", "/v2.1/os-aggregates/1").await.0, 404);
    assert_eq!(c.get("admin", "", "/v2.1/os-aggregates/-1").await.0, 404);
}
