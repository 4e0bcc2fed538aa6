//! Flavors, their access lists and extra specs through the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use caelum_base::Timestamp;
use caelum_compute::store::flavors::Flavor;
use caelum_store::Query;
use serde_json::{Value, json};
use support::{Cloud, OTHER, PROJECT, cloud};

/// A cloud without the default flavors.
async fn bare() -> Cloud {
    let c = cloud().await;
    c.service.state().db.write(|tx| tx.delete_where::<Flavor>(&Query::new())).await.unwrap();
    c
}

fn flavor(name: &str) -> Value {
    json!({"flavor": {"name": name, "ram": 512, "vcpus": "1", "disk": 10}})
}

#[tokio::test]
async fn defaults_are_made_once() {
    let c = cloud().await;
    let db = &c.service.state().db;
    caelum_compute::logic::flavors::ensure_default_flavors(db, Timestamp(1)).await.unwrap();
    assert_eq!(c.call("admin", "", "DELETE /v2.1/flavors/84", Value::Null).await.0, 202);
    caelum_compute::logic::flavors::ensure_default_flavors(db, Timestamp(2)).await.unwrap();
    let (status, body) = c.get("member", "", "/v2.1/flavors").await;
    assert_eq!(status, 200);
    let names: Vec<_> = body["flavors"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m1.tiny", "m1.small", "m1.medium", "m1.nano"]);
}

#[tokio::test]
async fn create_show_page_and_delete() {
    let c = bare().await;
    assert_eq!(c.call("member", "", "POST /v2.1/flavors", flavor("a")).await.0, 403);
    let (status, body) = c.call("admin", "", "POST /v2.1/flavors", flavor("a")).await;
    assert_eq!(status, 200, "{body}");
    let f = &body["flavor"];
    assert_eq!((&f["swap"], &f["vcpus"], &f["rxtx_factor"]), (&json!(""), &json!(1), &json!(1.0)));
    let id = f["id"].as_str().unwrap().to_string();
    assert_eq!(f["links"][0]["href"], format!("http://cloud/compute/v2.1/flavors/{id}"));
    assert_eq!(c.call("admin", "", "POST /v2.1/flavors", flavor("a")).await.0, 409);
    for (field, value) in [
        ("ram", json!(0)),
        ("vcpus", json!(0)),
        ("disk", json!(-1)),
        ("name", json!(" x")),
        ("id", json!("a/b")),
        ("rxtx_factor", json!(0)),
        ("foo", json!(1)),
        ("description", json!("x")),
    ] {
        let mut bad = flavor("b");
        bad["flavor"][field] = value;
        assert_eq!(c.call("admin", "", "POST /v2.1/flavors", bad).await.0, 400, "{field}");
    }
    let (_, body) = c.get("member", "2.75", &format!("/v2.1/flavors/{id}")).await;
    assert_eq!((&body["flavor"]["swap"], &body["flavor"]["extra_specs"]), (&json!(0), &json!({})));
    assert_eq!(body["flavor"]["description"], Value::Null);
    let described = json!({"flavor": {"description": "big"}});
    assert_eq!(c.call("admin", "2.54", &format!("PUT /v2.1/flavors/{id}"), described.clone()).await.0, 404);
    let (status, body) = c.call("admin", "2.55", &format!("PUT /v2.1/flavors/{id}"), described).await;
    assert_eq!((status, &body["flavor"]["description"]), (200, &json!("big")));
    c.call("admin", "", "POST /v2.1/flavors", flavor("b")).await;
    let (_, body) = c.get("member", "", "/v2.1/flavors/detail?limit=1&sort_key=name&sort_dir=desc").await;
    assert_eq!(body["flavors"][0]["name"], "b");
    let next = body["flavors_links"][0]["href"].as_str().unwrap().replace("http://cloud/compute", "");
    let (_, body) = c.get("member", "", &next).await;
    assert_eq!(body["flavors"][0]["name"], "a");
    assert_eq!(c.get("member", "", "/v2.1/flavors?minRam=513").await.1, json!({"flavors": []}));
    for bad in ["minRam=x", "marker=nope", "limit=-1", "sort_key=foo"] {
        assert_eq!(c.get("member", "", &format!("/v2.1/flavors?{bad}")).await.0, 400, "{bad}");
    }
    assert_eq!(c.call("admin", "", &format!("DELETE /v2.1/flavors/{id}"), Value::Null).await.0, 202);
    assert_eq!(c.get("admin", "", &format!("/v2.1/flavors/{id}")).await.0, 404);
}

#[tokio::test]
async fn private_flavors_are_for_projects_with_access() {
    let c = bare().await;
    let mut private = flavor("secret");
    private["flavor"]["os-flavor-access:is_public"] = json!("False");
    private["flavor"]["id"] = json!(77);
    assert_eq!(c.call("admin", "", "POST /v2.1/flavors", private).await.0, 200);
    assert_eq!(c.get("member", "", "/v2.1/flavors/77").await.0, 404);
    let add = json!({"addTenantAccess": {"tenant": PROJECT}});
    assert_eq!(c.call("member", "", "POST /v2.1/flavors/77/action", add.clone()).await.0, 403);
    let (status, body) = c.call("admin", "", "POST /v2.1/flavors/77/action", add.clone()).await;
    assert_eq!((status, body), (200, json!({"flavor_access": [{"flavor_id": "77", "tenant_id": PROJECT}]})));
    assert_eq!(c.call("admin", "", "POST /v2.1/flavors/77/action", add).await.0, 409);
    assert_eq!(c.get("member", "", "/v2.1/flavors/77").await.0, 200);
    assert_eq!(c.get("other", "", "/v2.1/flavors").await.1, json!({"flavors": []}));
    assert_eq!(c.get("admin", "", "/v2.1/flavors?is_public=None").await.1["flavors"][0]["id"], "77");
    assert_eq!(c.get("admin", "", "/v2.1/flavors").await.1, json!({"flavors": []}));
    let remove = json!({"removeTenantAccess": {"tenant": OTHER}});
    assert_eq!(c.call("admin", "", "POST /v2.1/flavors/77/action", remove).await.0, 404);
    assert_eq!(c.call("admin", "", "POST /v2.1/flavors/77/action", json!({"explode": {}})).await.0, 400);
}

#[tokio::test]
async fn extra_specs() {
    let c = bare().await;
    let mut f = flavor("f");
    f["flavor"]["id"] = json!("f");
    c.call("admin", "", "POST /v2.1/flavors", f).await;
    let path = "/v2.1/flavors/f/os-extra_specs";
    let specs = json!({"extra_specs": {"hw:numa_nodes": "1", "hw:cpu_policy": "shared"}});
    assert_eq!(c.call("reader", "", &format!("POST {path}"), specs.clone()).await.0, 403);
    assert_eq!(c.call("admin", "", &format!("POST {path}"), specs.clone()).await, (200, specs.clone()));
    assert_eq!(c.get("reader", "", path).await, (200, specs));
    let put = format!("PUT {path}/hw:numa_nodes");
    assert_eq!(c.call("admin", "", &put, json!({"hw:numa_nodes": "2"})).await, (200, json!({"hw:numa_nodes": "2"})));
    assert_eq!(c.call("admin", "", &put, json!({"hw:cpu_policy": "shared"})).await.0, 400);
    assert_eq!(c.call("admin", "", &put, json!({"hw:numa_nodes": "2", "x": "y"})).await.0, 400);
    assert_eq!(c.call("admin", "2.86", &put, json!({"hw:numa_nodes": "foo"})).await.0, 400);
    assert_eq!(c.get("reader", "", &format!("{path}/hw:numa_nodes")).await, (200, json!({"hw:numa_nodes": "2"})));
    assert_eq!(c.call("admin", "", &format!("DELETE {path}/hw:numa_nodes"), Value::Null).await.0, 200);
    assert_eq!(c.call("admin", "", &format!("DELETE {path}/hw:numa_nodes"), Value::Null).await.0, 404);
    assert_eq!(c.get("reader", "", &format!("{path}/hw:numa_nodes")).await.0, 404);
}
