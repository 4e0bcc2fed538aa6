//! Placement through its HTTP interface.

use caelum_base::Env;
use caelum_placement::{Deps, Service, start};
use caelum_rest::{StaticValidator, full, read_limited};
use caelum_store::StoreUrl;
use http::{Method, Request};
use serde_json::{Value, json};
use std::sync::Arc;

async fn service() -> Service {
    let validator = StaticValidator::default().with("svc", "service", &["service", "admin"]).with("user", "p1", &["member", "reader"]);
    let deps = Deps {
        env: Env::system(),
        store: StoreUrl::Scratch,
        validator: Arc::new(validator),
        policy: Default::default(),
        auth_url: String::new(),
    };
    start(deps).await.expect("start")
}

async fn call(s: &Service, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let req = Request::builder().method(method).uri(path).header("x-auth-token", token).header("openstack-api-version", "placement 1.39");
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let r = s.api().call(req.body(full(text)).expect("request")).await;
    let status = r.status().as_u16();
    let bytes = read_limited(r.into_body(), 1 << 20).await.expect("body");
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn provider(s: &Service, name: &str, vcpus: i64) -> String {
    let (status, v) = call(s, "svc", Method::POST, "/resource_providers", json!({"name": name})).await;
    assert_eq!(status, 200);
    let id = v["uuid"].as_str().expect("uuid").to_string();
    let body = json!({"resource_provider_generation": 0, "inventories": {"VCPU": {"total": vcpus}, "MEMORY_MB": {"total": 1000, "reserved": 100}}});
    assert_eq!(call(s, "svc", Method::PUT, &format!("/resource_providers/{id}/inventories"), body).await.0, 200);
    id
}

fn claim(provider: &str, vcpus: i64, generation: Value) -> Value {
    json!({"allocations": {provider: {"resources": {"VCPU": vcpus}}}, "project_id": "p1", "user_id": "u1", "consumer_generation": generation, "consumer_type": "INSTANCE"})
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_respect_capacity_and_generations() {
    let s = service().await;
    let p = provider(&s, "host", 4).await;
    let env = Env::system();
    let consumer = format!("/allocations/{}", env.uuid());
    assert_eq!(call(&s, "svc", Method::PUT, &consumer, claim(&p, 3, Value::Null)).await.0, 204);
    let (status, v) = call(&s, "svc", Method::PUT, &consumer, claim(&p, 3, Value::Null)).await;
    assert_eq!((status, v["errors"][0]["code"].as_str()), (409, Some("placement.concurrent_update")));
    assert_eq!(call(&s, "svc", Method::PUT, &format!("/allocations/{}", env.uuid()), claim(&p, 2, Value::Null)).await.0, 409);
    assert_eq!(call(&s, "svc", Method::PUT, &consumer, claim(&p, 4, json!(1))).await.0, 204);
    let (_, v) = call(&s, "svc", Method::GET, &consumer, Value::Null).await;
    assert_eq!((v["consumer_generation"].as_i64(), v["allocations"][&p]["resources"]["VCPU"].as_i64()), (Some(2), Some(4)));
    let (_, v) = call(&s, "svc", Method::GET, "/allocation_candidates?resources=VCPU:1", Value::Null).await;
    assert_eq!(v["allocation_requests"].as_array().map(Vec::len), Some(0));
    let (_, v) = call(&s, "svc", Method::GET, &format!("/resource_providers/{p}/usages"), Value::Null).await;
    assert_eq!(v["usages"], json!({"VCPU": 4, "MEMORY_MB": 0}));
    assert_eq!(call(&s, "svc", Method::DELETE, &format!("/resource_providers/{p}"), Value::Null).await.0, 409);
    assert_eq!(call(&s, "svc", Method::DELETE, &consumer, Value::Null).await.0, 204);
    assert_eq!(call(&s, "svc", Method::DELETE, &consumer, Value::Null).await.0, 404);
    assert!(s.audit(false).await.expect("audit").is_empty());
    assert_eq!(call(&s, "svc", Method::DELETE, &format!("/resource_providers/{p}"), Value::Null).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_has_one_winner() {
    let s = Arc::new(service().await);
    let p = provider(&s, "host", 1).await;
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let (s, p) = (s.clone(), p.clone());
        let path = format!("/allocations/{}", Env::system().uuid());
        tasks.push(tokio::spawn(async move { call(&s, "svc", Method::PUT, &path, claim(&p, 1, Value::Null)).await.0 }));
    }
    let mut winners = 0;
    for t in tasks {
        match t.await.expect("task") {
            204 => winners += 1,
            status => assert_eq!(status, 409),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_see_their_usage_and_nothing_else() {
    let s = service().await;
    let p = provider(&s, "host", 4).await;
    let path = format!("/allocations/{}", Env::system().uuid());
    assert_eq!(call(&s, "svc", Method::PUT, &path, claim(&p, 3, Value::Null)).await.0, 204);
    let (status, v) = call(&s, "user", Method::GET, "/usages?project_id=p1", Value::Null).await;
    assert_eq!((status, &v["usages"]["INSTANCE"]), (200, &json!({"VCPU": 3, "consumer_count": 1})));
    assert_eq!(call(&s, "user", Method::GET, "/usages?project_id=p2", Value::Null).await.0, 403);
    for path in ["/resource_providers", "/allocation_candidates?resources=VCPU:1", "/traits", "/resource_classes", &path] {
        assert_eq!(call(&s, "user", Method::GET, path, Value::Null).await.0, 403, "{path}");
    }
    assert_eq!(call(&s, "forged", Method::GET, "/traits", Value::Null).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_and_changes_nothing() {
    let s = service().await;
    let p = provider(&s, "host", 4).await;
    let inventories = format!("/resource_providers/{p}/inventories");
    for (method, path, body) in [
        (Method::POST, "/resource_providers", json!({"name": ""})),
        (Method::POST, "/resource_providers", json!({"name": "x", "uuid": "nope"})),
        (Method::POST, "/resource_providers", json!({"name": "x", "bogus": 1})),
        (Method::PUT, &inventories, json!({"resource_provider_generation": 1, "inventories": {"NOPE": {"total": 1}}})),
        (Method::PUT, &inventories, json!({"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 0}}})),
        (Method::PUT, &inventories, json!({"resource_provider_generation": 1, "inventories": {"VCPU": {"total": 1, "reserved": 2}}})),
        (Method::PUT, "/traits/lower", Value::Null),
        (Method::GET, "/allocation_candidates?resources=NOPE:1", Value::Null),
    ] {
        assert_eq!(call(&s, "svc", method, path, body.clone()).await.0, 400, "{path} {body}");
    }
    let stale = json!({"resource_provider_generation": 0, "inventories": {}});
    assert_eq!(call(&s, "svc", Method::PUT, &inventories, stale).await.0, 409);
    let (_, v) = call(&s, "svc", Method::GET, &inventories, Value::Null).await;
    assert_eq!(v["inventories"]["VCPU"]["total"], json!(4));
    assert_eq!(call(&s, "svc", Method::POST, "/resource_providers", json!({"name": "host"})).await.0, 409);
}
