//! Versions, quota, usage and groups through the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::{Value, json};
use support::{OTHER, PROJECT, cloud, server};

const ID: &str = "bbbbbbbb-0000-4000-8000-000000000001";

#[tokio::test]
async fn versions_need_no_token() {
    let c = cloud().await;
    let (status, v) = c.get("", "", "/").await;
    assert_eq!((status, &v["versions"][0]["id"]), (200, &json!("v2.0")));
    for version in v["versions"].as_array().unwrap() {
        let path = version["links"][0]["href"].as_str().unwrap().replace("http://cloud/compute", "");
        let (status, one) = c.get("", "", &path).await;
        assert_eq!((status, &one["version"]["links"][0]), (200, &version["links"][0]));
    }
    assert_eq!(c.get("", "", "/v2.1").await.1["version"]["version"], "2.104");
    assert_eq!(c.get("", "", "/v2.1/limits").await.0, 401);
}

#[tokio::test]
async fn extensions() {
    let c = cloud().await;
    assert_eq!(c.get("reader", "", "/v2.1/extensions/os-consoles").await.1["extension"]["alias"], "os-consoles");
    assert_eq!(c.get("reader", "", "/v2.1/extensions/nope").await.0, 404);
    let (_, v) = c.get("reader", "", "/v2.1/extensions").await;
    assert!(v["extensions"].as_array().unwrap().iter().any(|e| e["name"] == "Hosts"));
}

#[tokio::test]
async fn limits_and_quota() {
    let c = cloud().await;
    c.put(server(ID)).await;
    let (_, v) = c.get("reader", "", "/v2.1/limits").await;
    let absolute = &v["limits"]["absolute"];
    assert_eq!((&absolute["totalRAMUsed"], &absolute["maxTotalCores"], &absolute["maxImageMeta"]), (&json!(512), &json!(20), &json!(128)));
    let (_, v) = c.get("reader", "2.57", "/v2.1/limits").await;
    assert_eq!(v["limits"]["absolute"].as_object().unwrap().len(), 11);
    assert_eq!(c.get("reader", "", &format!("/v2.1/limits?tenant_id={OTHER}")).await.0, 403);
    assert_eq!(c.get("reader", "2.75", "/v2.1/limits?foo=1").await.0, 400);

    let path = format!("/v2.1/os-quota-sets/{PROJECT}");
    assert_eq!(c.get("other", "", &path).await.0, 403);
    let (_, v) = c.get("reader", "", &path).await;
    assert_eq!(
        (&v["quota_set"]["id"], &v["quota_set"]["injected_files"], &v["quota_set"]["fixed_ips"]),
        (&json!(PROJECT), &json!(5), &json!(-1))
    );
    let put = format!("PUT {path}");
    assert_eq!(c.call("member", "", &put, json!({"quota_set": {"ram": 1}})).await.0, 403);
    assert_eq!(c.call("admin", "", &put, json!({"quota_set": {"ram": 1}})).await.0, 400);
    assert_eq!(c.call("admin", "", &put, json!({"quota_set": {"ram": 1, "force": "True"}})).await.1["quota_set"]["ram"], 1);
    assert_eq!(c.call("admin", "", &put, json!({"quota_set": {"ram": "5120"}})).await.0, 200);
    for (version, bad) in [
        ("", json!({"foo": 1})),
        ("", json!({"ram": -2})),
        ("", json!({"ram": "x"})),
        ("2.36", json!({"fixed_ips": 1})),
        ("2.57", json!({"injected_files": 1})),
    ] {
        assert_eq!(c.call("admin", version, &put, json!({"quota_set": bad})).await.0, 400);
    }
    let (_, v) = c.get("admin", "2.57", &format!("{path}/detail")).await;
    assert_eq!(v["quota_set"]["ram"], json!({"limit": 5120, "in_use": 512, "reserved": 0}));
    assert!(v["quota_set"].get("fixed_ips").is_none());
    let user = format!("{path}?user_id=u");
    assert_eq!(c.call("admin", "", &format!("PUT {user}"), json!({"quota_set": {"ram": 9999}})).await.0, 400);
    c.call("admin", "", &format!("PUT {user}"), json!({"quota_set": {"ram": 2048}})).await;
    assert_eq!(c.get("admin", "", &user).await.1["quota_set"]["ram"], 2048);
    assert_eq!(c.get("admin", "", &format!("{path}/defaults")).await.1["quota_set"]["ram"], 51_200);
    assert_eq!(c.call("admin", "", &format!("DELETE {path}"), Value::Null).await.0, 202);
    assert_eq!(c.get("admin", "", &path).await.1["quota_set"]["ram"], 51_200);
    let class = "/v2.1/os-quota-class-sets/default";
    assert_eq!(c.get("member", "", class).await.0, 403);
    assert_eq!(
        c.call("admin", "2.50", &format!("PUT {class}"), json!({"quota_class_set": {"cores": 120}})).await.1["quota_class_set"]["cores"],
        120
    );
    assert_eq!(c.get("admin", "2.50", class).await.1["quota_class_set"]["id"], "default");
    assert_eq!(c.get("reader", "", &path).await.1["quota_set"]["cores"], 120);
}

#[tokio::test]
async fn usage() {
    let c = cloud().await;
    c.put(server(ID)).await;
    let span = "start=2023-11-14T00:00:00.000000&end=2023-11-15T22:13:20";
    let (status, v) = c.get("admin", "", &format!("/v2.1/os-simple-tenant-usage?{span}&detailed=1")).await;
    let usage = &v["tenant_usages"][0];
    assert_eq!((status, usage.as_object().unwrap().len(), &usage["total_hours"]), (200, 8, &json!(24.0)));
    assert_eq!(usage["server_usages"][0]["instance_id"], ID);
    assert_eq!(c.get("member", "", "/v2.1/os-simple-tenant-usage").await.0, 403);
    assert_eq!(c.get("reader", "", &format!("/v2.1/os-simple-tenant-usage/{PROJECT}")).await.1["tenant_usage"]["tenant_id"], PROJECT);
    assert_eq!(c.get("other", "", &format!("/v2.1/os-simple-tenant-usage/{PROJECT}")).await.0, 403);
    assert_eq!(c.get("admin", "", "/v2.1/os-simple-tenant-usage?start=2024-01-02&end=2024-01-01").await.0, 400);
    assert_eq!(c.get("admin", "", "/v2.1/os-simple-tenant-usage?start=x").await.0, 400);
}

#[tokio::test]
async fn server_groups() {
    let c = cloud().await;
    let new = |policy: &str| json!({"server_group": {"name": "g", "policies": [policy]}});
    assert_eq!(c.call("reader", "", "POST /v2.1/os-server-groups", new("affinity")).await.0, 403);
    assert_eq!(c.call("member", "", "POST /v2.1/os-server-groups", new("soft-affinity")).await.0, 400);
    assert_eq!(c.call("member", "", "POST /v2.1/os-server-groups", new("nope")).await.0, 400);
    let (status, v) = c.call("member", "", "POST /v2.1/os-server-groups", new("affinity")).await;
    assert_eq!((status, v["server_group"].as_object().unwrap().len()), (200, 5));
    let id = v["server_group"]["id"].as_str().unwrap().to_string();
    let mut s = server(ID);
    s.group_id = Some(id.clone());
    c.put(s).await;
    let path = format!("/v2.1/os-server-groups/{id}");
    let (_, v) = c.get("reader", "2.64", &path).await;
    assert_eq!(
        (&v["server_group"]["policy"], &v["server_group"]["rules"], &v["server_group"]["members"]),
        (&json!("affinity"), &json!({}), &json!([ID]))
    );
    assert_eq!(c.get("other", "", &path).await.0, 404);
    assert_eq!(c.get("other", "", "/v2.1/os-server-groups").await.1, json!({"server_groups": []}));
    assert_eq!(c.get("admin", "", "/v2.1/os-server-groups?all_projects").await.1["server_groups"][0]["id"], id);
    let ruled = json!({"server_group": {"name": "r", "policy": "anti-affinity", "rules": {"max_server_per_host": 3}}});
    assert_eq!(
        c.call("member", "2.64", "POST /v2.1/os-server-groups", ruled).await.1["server_group"]["rules"],
        json!({"max_server_per_host": 3})
    );
    let wrong = json!({"server_group": {"name": "r", "policy": "affinity", "rules": {"max_server_per_host": 3}}});
    assert_eq!(c.call("member", "2.64", "POST /v2.1/os-server-groups", wrong).await.0, 400);
    assert_eq!(c.call("reader", "", &format!("DELETE {path}"), Value::Null).await.0, 403);
    assert_eq!(c.call("member", "", &format!("DELETE {path}"), Value::Null).await.0, 204);
    assert_eq!(c.get("member", "", &path).await.0, 404);
}
