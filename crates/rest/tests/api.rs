//! Routing, authentication, authorization, versions and errors through the public interface.

use caelum_base::{Env, Error, Result};
use caelum_policy::personas;
use caelum_rest::{
    Access, Api, Body, Ctx, Dialect, Front, HttpService, Microversions, Op, Reply, StaticValidator, Version, empty, full, h, read_limited,
};
use http::{Method, Request, Response};
use serde_json::{Value, json};
use std::sync::Arc;

struct State;

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let id = cx.param("id").to_string();
    cx.authorize_found("p1", || Error::not_found(format!("Thing {id} could not be found.")))?;
    Reply::ok(&json!({"id": id, "version": cx.version.to_string(), "base": cx.base_url}))
}

async fn forgetful(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({}))
}

async fn start(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_project("p1")?;
    Ok(Reply::empty(202))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let v: Value = cx.json().await?;
    Reply::json(201, &v)
}

async fn versions(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&json!({"versions": []}))
}

const READ: Access = Access::rule("svc:things:show", personas::PROJECT_READER_OR_ADMIN, personas::PROJECT);
const WRITE: Access = Access::rule("svc:things:write", personas::PROJECT_MEMBER_OR_ADMIN, personas::PROJECT);
const OPS: &[Op<State>] = &[
    Op::get("thing_show", "/things/{id}", READ, h!(show)),
    Op::post("thing_create", "/things", WRITE, h!(create)).max_body(64),
    Op::get("thing_forget", "/forget", READ, h!(forgetful)),
    Op::post("thing_start", "/things/{thing_id}/action", WRITE, h!(start)).action("os-start"),
    Op::post("thing_stop", "/things/{thing_id}/action", WRITE, h!(start)).action("os-stop").since(2, 10),
];
const ROOT: &[Op<State>] = &[Op::get("versions", "/", Access::Public, h!(versions))];

fn api() -> Arc<dyn HttpService> {
    let validator = StaticValidator::default()
        .with("member", "p1", &["member", "reader"])
        .with("reader", "p1", &["reader"])
        .with("other", "p2", &["member", "reader"])
        .with("admin", "p0", &["admin", "member", "reader"]);
    let mv = Microversions {
        service_type: "compute",
        legacy_header: Some("x-openstack-nova-api-version"),
        min: Version(2, 1),
        max: Version(2, 20),
    };
    let api = Api::builder("compute", Dialect::Nova).versions(mv).project_prefix("/v2").mount("/v2", OPS).mount("", ROOT);
    let api = api.build(Arc::new(State), Env::system(), Arc::new(validator)).expect("api");
    Arc::new(Front::new().mount("/svc", Arc::new(api)))
}

async fn call(method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> (u16, Response<()>, Value) {
    let mut b = Request::builder().method(method).uri(path).header("host", "h:1");
    for (k, v) in headers {
        b = b.header(*k, *v);
    }
    let r = api().call(b.body(body).expect("request")).await;
    let (parts, body) = r.into_parts();
    let bytes = read_limited(body, 1 << 20).await.expect("body");
    let status = parts.status.as_u16();
    (status, Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn get(path: &str, token: &str) -> (u16, Response<()>, Value) {
    call(Method::GET, path, &[("x-auth-token", token)], empty()).await
}

async fn post(path: &str, token: &str, version: &str, body: &'static str) -> (u16, Response<()>, Value) {
    let headers = [("x-auth-token", token), ("openstack-api-version", version), ("content-type", "application/json")];
    call(Method::POST, path, &headers, full(body)).await
}

#[tokio::test]
async fn routes_authenticates_and_authorizes() {
    let (s, r, v) = get("/svc/v2/things/a", "reader").await;
    assert_eq!((s, v["base"].as_str()), (200, Some("http://h:1/svc")));
    assert!(r.headers()["x-openstack-request-id"].to_str().expect("id").starts_with("req-"));
    assert_eq!(get("/svc/v2/things/a", "admin").await.0, 200);
    let (s, _, foreign) = get("/svc/v2/things/a", "other").await;
    assert_eq!((s, foreign["itemNotFound"]["message"].as_str()), (404, Some("Thing a could not be found.")));
    let (s, r, v) = get("/svc/v2/things/a", "forged").await;
    assert_eq!((s, v["error"]["code"].as_i64()), (401, Some(401)));
    assert!(r.headers().contains_key("www-authenticate"));
    assert_eq!(call(Method::GET, "/svc/v2/nothing", &[], empty()).await.0, 401);
    assert_eq!(get("/svc/v2/nothing", "reader").await.0, 404);
    assert_eq!(call(Method::DELETE, "/svc/v2/things/a", &[("x-auth-token", "reader")], empty()).await.0, 405);
    assert_eq!(call(Method::GET, "/svc/", &[], empty()).await.0, 200);
    assert_eq!(get("/elsewhere", "reader").await.0, 404);
}

#[tokio::test]
async fn a_handler_that_forgets_to_authorize_is_a_500() {
    assert_eq!(get("/svc/v2/forget", "member").await.0, 500);
}

#[tokio::test]
async fn actions_versions_and_bodies() {
    assert_eq!(post("/svc/v2/things/a/action", "member", "compute 2.1", r#"{"os-start":null}"#).await.0, 202);
    assert_eq!(post("/svc/v2/things/a/action", "reader", "compute 2.1", r#"{"os-start":null}"#).await.0, 403);
    assert_eq!(post("/svc/v2/things/a/action", "member", "compute 2.9", r#"{"os-stop":null}"#).await.0, 404);
    let (s, r, _) = post("/svc/v2/things/a/action", "member", "compute 2.10", r#"{"os-stop":null}"#).await;
    assert_eq!((s, r.headers()["openstack-api-version"].to_str().ok()), (202, Some("compute 2.10")));
    assert_eq!(post("/svc/v2/things/a/action", "member", "compute 2.1", r#"{"nope":null}"#).await.0, 400);
    assert_eq!(post("/svc/v2/things/a/action", "member", "compute 2.1", r#"{"a":1,"b":2}"#).await.0, 400);
    assert_eq!(post("/svc/v2/things/a/action", "member", "compute 9.1", "{}").await.0, 406);
    assert_eq!(post("/svc/v2/things", "member", "compute 2.1", r#"{"a":1}"#).await.0, 201);
    assert_eq!(post("/svc/v2/things", "member", "compute 2.1", r#"{"a":"#).await.0, 400);
    let long = r#"{"a":"0123456789012345678901234567890123456789012345678901234567890123456789"}"#;
    assert_eq!(post("/svc/v2/things", "member", "compute 2.1", long).await.0, 413);
}

#[tokio::test]
async fn a_project_in_the_path_must_be_the_callers() {
    // StaticValidator's project ids are short; a UUID in the path is therefore foreign.
    let (s, _, _) = get("/svc/v2/0123456789abcdef0123456789abcdef/things/a", "reader").await;
    assert_eq!(s, 400);
    assert_eq!(get("/svc/v2/0123456789abcdef0123456789abcdef/things/a", "admin").await.0, 200);
}

#[tokio::test]
async fn two_tokens_are_none() {
    let (s, _, _) = call(Method::GET, "/svc/v2/things/a", &[("x-auth-token", "reader"), ("x-auth-token", "admin")], empty()).await;
    assert_eq!(s, 401);
}
