//! The API as a client sees it, without sockets.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use caelum_base::{Clock, Env, ManualClock, Secret, SystemRng, Timestamp};
use caelum_identity::{Bootstrap, BootstrapService, Deps, Service, ServiceUser, start};
use caelum_rest::{HttpService, full, read_limited};
use caelum_store::StoreUrl;
use http::{Method, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

struct Cloud {
    service: Service,
    api: Arc<dyn HttpService>,
    clock: Arc<ManualClock>,
    admin: String,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: u16,
    body: Value,
    token: String,
}

async fn cloud() -> Cloud {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_795_173_300)));
    let env = Env { clock: clock.clone(), rng: Arc::new(SystemRng) };
    let mut deps = Deps::new(env, StoreUrl::Scratch, "http://cloud/identity", dir.path().join("identity"));
    deps.bcrypt_cost = 4;
    let service = start(deps).await.unwrap();
    for _ in 0..2 {
        service.bootstrap(bootstrap()).await.unwrap();
    }
    let mut c = Cloud { api: service.api(), service, clock, admin: String::new(), _dir: dir };
    c.admin = c.login("admin", "secret", Some(("admin", "default"))).await.token;
    c
}

fn bootstrap() -> Bootstrap {
    Bootstrap {
        admin_password: Secret::new("secret".into()),
        demo_password: Some(Secret::new("demo-secret".into())),
        region: "RegionOne".into(),
        services: vec![
            BootstrapService { kind: "identity".into(), name: "keystone".into(), url: "http://cloud/identity".into() },
            BootstrapService { kind: "volumev3".into(), name: "cinderv3".into(), url: "http://cloud/volume/v3/$(project_id)s".into() },
        ],
        service_users: vec![ServiceUser { name: "nova".into(), password: None }],
    }
}

fn password_auth(user: &str, password: &str, scope: Value) -> Value {
    let mut v = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}}}}});
    if !scope.is_null() {
        v["auth"]["scope"] = scope;
    }
    v
}

impl Cloud {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut b = Request::builder().method(method).uri(path);
        for (k, v) in headers {
            b = b.header(*k, *v);
        }
        let body = body.map_or_else(caelum_rest::empty, |v| full(v.to_string()));
        let r = self.api.call(b.body(body).unwrap()).await;
        let status = r.status().as_u16();
        let token = r.headers().get("x-subject-token").map(|t| t.to_str().unwrap().to_string()).unwrap_or_default();
        let bytes = read_limited(r.into_body(), 1 << 20).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status, body, token }
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then_some(body);
        self.send(method.parse().unwrap(), path, &[("x-auth-token", token)], body).await
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Value {
        let a = self.call(&self.admin, method, path, body).await;
        assert!(a.status < 300, "{method} {path}: {} {}", a.status, a.body);
        a.body
    }

    async fn auth(&self, body: Value) -> Answer {
        self.send(Method::POST, "/v3/auth/tokens", &[], Some(body)).await
    }

    async fn login(&self, user: &str, password: &str, project: Option<(&str, &str)>) -> Answer {
        let scope = project.map_or(Value::Null, |(p, d)| json!({"project": {"name": p, "domain": {"id": d}}}));
        self.auth(password_auth(user, password, scope)).await
    }

    /// Whether a token is still good.
    async fn works(&self, token: &str) -> bool {
        self.call(token, "GET", "/v3/auth/projects", Value::Null).await.status == 200
    }

    async fn user(&self, name: &str) -> String {
        let body = json!({"user": {"name": name, "password": "pw", "email": "x@example.org"}});
        id(&self.admin("POST", "/v3/users", body).await["user"])
    }

    async fn project(&self, name: &str, parent: Option<&str>) -> String {
        id(&self.admin("POST", "/v3/projects", json!({"project": {"name": name, "parent_id": parent}})).await["project"])
    }

    async fn role(&self, name: &str) -> String {
        id(&self.admin("GET", &format!("/v3/roles?name={name}"), Value::Null).await["roles"][0])
    }

    async fn put(&self, path: &str) {
        self.admin("PUT", path, Value::Null).await;
    }
}

fn id(v: &Value) -> String {
    v["id"].as_str().unwrap_or_else(|| panic!("no id in {v}")).to_string()
}

fn scope(project: &str) -> Value {
    json!({"project": {"id": project}})
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_who_where_and_what() {
    let c = cloud().await;
    let a = c.login("demo", "demo-secret", Some(("demo", "default"))).await;
    assert_eq!(a.status, 201);
    assert!(a.token.len() <= 255, "{}", a.token.len());
    let t = &a.body["token"];
    assert_eq!(t["project"]["name"], "demo");
    let names: Vec<&str> = t["roles"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["member", "reader"]);
    let volume = t["catalog"].as_array().unwrap().iter().find(|s| s["type"] == "volumev3").unwrap();
    let project = t["project"]["id"].as_str().unwrap();
    assert_eq!(volume["endpoints"][0]["url"], format!("http://cloud/volume/v3/{project}"));
    let shown = c.send(Method::GET, "/v3/auth/tokens?nocatalog", &[("x-auth-token", &c.admin), ("x-subject-token", &a.token)], None).await;
    assert_eq!((shown.status, &shown.body["token"]["expires_at"]), (200, &t["expires_at"]));
    assert!(shown.body["token"].get("catalog").is_none());
    let unscoped = c.login("demo", "demo-secret", None).await.body;
    assert!(unscoped["token"].get("roles").is_none() && unscoped["token"].get("catalog").is_none());
    let system = c.auth(password_auth("admin", "secret", json!({"system": {"all": true}}))).await;
    assert_eq!((system.status, &system.body["token"]["system"]["all"]), (201, &json!(true)));
    let domain = c.auth(password_auth("admin", "secret", json!({"domain": {"name": "Default"}}))).await;
    assert_eq!((domain.status, &domain.body["token"]["domain"]["id"]), (201, &json!("default")));
    assert_eq!(c.auth(password_auth("demo", "demo-secret", json!({"system": {"all": true}}))).await.status, 401);
    assert_eq!(c.login("demo", "demo-secret", Some(("admin", "default"))).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn rescoping_keeps_the_end_and_the_chain() {
    let c = cloud().await;
    let first = c.login("demo", "demo-secret", None).await;
    c.clock.advance(Duration::from_secs(100));
    let scope = json!({"project": {"name": "demo", "domain": {"name": "Default"}}});
    let body = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": first.token}}, "scope": scope}});
    let second = c.auth(body.clone()).await;
    assert_eq!(second.status, 201);
    assert_eq!(second.body["token"]["expires_at"], first.body["token"]["expires_at"]);
    assert_eq!(second.body["token"]["audit_ids"][1], first.body["token"]["audit_ids"][0]);
    assert_eq!(second.body["token"]["methods"], json!(["password", "token"]));
    c.clock.advance(Duration::from_secs(3600));
    assert_eq!(c.auth(body).await.status, 404, "an expired token is no token");
    assert!(!c.works(&second.token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_loss_of_a_right_ends_tokens_at_once() {
    let c = cloud().await;
    let member = c.role("member").await;
    let demo_project = id(&c.admin("GET", "/v3/projects?name=demo", Value::Null).await["projects"][0]);
    for event in [
        "logout",
        "password",
        "self password",
        "disable user",
        "delete user",
        "disable project",
        "role",
        "group",
        "delete group",
        "delete project",
        "disable domain",
    ] {
        let domain = id(&c.admin("POST", "/v3/domains", json!({"domain": {"name": event}})).await["domain"]);
        let user = id(&c.admin("POST", "/v3/users", json!({"user": {"name": event, "password": "pw", "domain_id": domain}})).await["user"]);
        let project = id(&c.admin("POST", "/v3/projects", json!({"project": {"name": event, "domain_id": domain}})).await["project"]);
        let group = id(&c.admin("POST", "/v3/groups", json!({"group": {"name": event, "domain_id": domain}})).await["group"]);
        let by_group = event.contains("group");
        if by_group {
            c.put(&format!("/v3/groups/{group}/users/{user}")).await;
            c.put(&format!("/v3/projects/{project}/groups/{group}/roles/{member}")).await;
        } else {
            c.put(&format!("/v3/projects/{project}/users/{user}/roles/{member}")).await;
        }
        c.put(&format!("/v3/projects/{demo_project}/users/{user}/roles/{member}")).await;
        let auth = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": user, "password": "pw"}}}, "scope": scope(&project)}});
        let token = c.auth(auth.clone()).await.token;
        assert!(c.works(&token).await, "{event}");
        let off = |what: &str| json!({what: {"enabled": false}});
        match event {
            "logout" => {
                let r = c.send(Method::DELETE, "/v3/auth/tokens", &[("x-auth-token", &token), ("x-subject-token", &token)], None).await;
                assert_eq!(r.status, 204);
            }
            "password" => drop(c.admin("PATCH", &format!("/v3/users/{user}"), json!({"user": {"password": "new"}})).await),
            "self password" => {
                let body = json!({"user": {"password": "new", "original_password": "pw"}});
                assert_eq!(c.send(Method::POST, &format!("/v3/users/{user}/password"), &[], Some(body)).await.status, 204);
            }
            "disable user" => drop(c.admin("PATCH", &format!("/v3/users/{user}"), off("user")).await),
            "delete user" => drop(c.admin("DELETE", &format!("/v3/users/{user}"), Value::Null).await),
            "disable project" => drop(c.admin("PATCH", &format!("/v3/projects/{project}"), off("project")).await),
            "delete project" => drop(c.admin("DELETE", &format!("/v3/projects/{project}"), Value::Null).await),
            "role" => drop(c.admin("DELETE", &format!("/v3/projects/{project}/users/{user}/roles/{member}"), Value::Null).await),
            "group" => drop(c.admin("DELETE", &format!("/v3/groups/{group}/users/{user}"), Value::Null).await),
            "delete group" => drop(c.admin("DELETE", &format!("/v3/groups/{group}"), Value::Null).await),
            _ => drop(c.admin("PATCH", &format!("/v3/domains/{domain}"), off("domain")).await),
        }
        assert!(!c.works(&token).await, "{event}");
        assert!(c.works(&c.admin).await);
        // Giving the right back does not bring the token back.
        if event == "role" {
            c.put(&format!("/v3/projects/{project}/users/{user}/roles/{member}")).await;
            assert!(!c.works(&token).await);
            c.clock.advance(Duration::from_micros(1));
            assert!(c.works(&c.auth(auth).await.token).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_look_alike_and_lock() {
    let c = cloud().await;
    let wrong = c.login("demo", "wrong", None).await;
    let nobody = c.login("nobody", "wrong", None).await;
    assert_eq!((wrong.status, &wrong.body), (401, &nobody.body));
    c.login("demo", "wrong", None).await;
    assert_eq!(c.login("demo", "demo-secret", None).await.status, 401, "locked");
    c.clock.advance(Duration::from_secs(6));
    assert_eq!(c.login("demo", "demo-secret", None).await.status, 201);
    assert_eq!(c.login("nova", "", None).await.status, 401, "no password, no login");
    let long = "x".repeat(5000);
    assert_eq!(c.login("demo", &long, None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn former_passwords_are_refused_to_their_owner() {
    let c = cloud().await;
    let user = c.user("u").await;
    let change = async |old: &str, new: &str| {
        let body = json!({"user": {"password": new, "original_password": old}});
        c.send(Method::POST, &format!("/v3/users/{user}/password"), &[], Some(body)).await.status
    };
    assert_eq!(change("pw", "pw").await, 400);
    assert_eq!(change("pw", "two").await, 204);
    assert_eq!(change("two", "pw").await, 400);
    assert_eq!(change("wrong", "three").await, 401);
    assert_eq!(change("two", "three").await, 204);
    assert_eq!(change("three", "pw").await, 204, "long enough ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_learns_nothing() {
    let c = cloud().await;
    let demo = c.login("demo", "demo-secret", Some(("demo", "default"))).await;
    let other = c.project("other", None).await;
    let user = c.user("somebody").await;
    for (method, path) in [
        ("GET", "/v3/users".to_string()),
        ("GET", format!("/v3/users/{user}")),
        ("GET", "/v3/users/0123".to_string()),
        ("GET", format!("/v3/projects/{other}")),
        ("GET", "/v3/projects/0123".to_string()),
        ("DELETE", format!("/v3/projects/{other}")),
        ("GET", "/v3/role_assignments".to_string()),
        ("PUT", format!("/v3/projects/{other}/users/{user}/roles/0123")),
        ("GET", "/v3/credentials/0123".to_string()),
        ("GET", format!("/v3/users/{user}/application_credentials")),
    ] {
        let a = c.call(&demo.token, method, &path, Value::Null).await;
        assert_eq!(a.status, 403, "{method} {path}");
        assert_eq!(c.send(method.parse().unwrap(), &path, &[], None).await.status, 401, "{method} {path}");
    }
    let own = demo.body["token"]["user"]["id"].as_str().unwrap();
    assert_eq!(c.call(&demo.token, "GET", &format!("/v3/users/{own}"), Value::Null).await.status, 200);
    let a = c.call(&c.admin, "GET", "/v3/users/0123", Value::Null).await;
    assert_eq!((a.status, &a.body["error"]["message"]), (404, &json!("Could not find user: 0123.")));
    // Headers that internal middleware would set elsewhere mean nothing.
    let spoofed =
        c.send(Method::GET, "/v3/users", &[("x-user-id", own), ("x-roles", "admin"), ("x-identity-status", "Confirmed")], None).await;
    assert_eq!(spoofed.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn domain_managers_stay_in_their_domain() {
    let c = cloud().await;
    let domain = id(&c.admin("POST", "/v3/domains", json!({"domain": {"name": "d"}})).await["domain"]);
    let user = c.user("boss").await;
    let (manager, member, admin) = (c.role("manager").await, c.role("member").await, c.role("admin").await);
    c.put(&format!("/v3/domains/{domain}/users/{user}/roles/{manager}")).await;
    let token = c.auth(password_auth("boss", "pw", json!({"domain": {"id": domain}}))).await.token;
    let made = c.call(&token, "POST", "/v3/users", json!({"user": {"name": "inside", "domain_id": domain}})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let inside = id(&made.body["user"]);
    let made = c.call(&token, "POST", "/v3/projects", json!({"project": {"name": "p", "domain_id": domain}})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let project = id(&made.body["project"]);
    let grant = |user: &str, role: &str| format!("/v3/projects/{project}/users/{user}/roles/{role}");
    assert_eq!(c.call(&token, "PUT", &grant(&inside, &member), Value::Null).await.status, 204);
    assert_eq!(c.call(&token, "PUT", &grant(&inside, &admin), Value::Null).await.status, 403);
    assert_eq!(c.call(&token, "PUT", &grant(&user, &member), Value::Null).await.status, 403, "a user of another domain");
    assert_eq!(c.call(&token, "POST", "/v3/users", json!({"user": {"name": "x", "domain_id": "default"}})).await.status, 403);
    let list = c.call(&token, "GET", "/v3/users", Value::Null).await;
    assert_eq!(list.body["users"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn delegated_tokens_do_not_escape() {
    let c = cloud().await;
    let demo = c.login("demo", "demo-secret", Some(("demo", "default"))).await;
    let user = demo.body["token"]["user"]["id"].as_str().unwrap().to_string();
    let project = demo.body["token"]["project"]["id"].as_str().unwrap().to_string();
    let creds = format!("/v3/users/{user}/application_credentials");
    let made = c.call(&demo.token, "POST", &creds, json!({"application_credential": {"name": "a"}})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let ac = &made.body["application_credential"];
    let method = json!({"id": ac["id"], "secret": ac["secret"]});
    let auth = json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": method}}});
    let token = c.auth(auth.clone()).await;
    assert_eq!((token.status, token.body["token"]["project"]["id"].as_str()), (201, Some(project.as_str())));
    let admin_id = id(&c.admin("GET", "/v3/users?name=admin", Value::Null).await["users"][0]);
    let trust = json!({"trust": {"trustor_user_id": user, "trustee_user_id": admin_id, "project_id": project, "impersonation": true, "roles": [{"name": "member"}]}});
    for (path, body) in [
        (creds.clone(), json!({"application_credential": {"name": "b"}})),
        (format!("/v3/users/{user}/credentials/OS-EC2"), json!({"tenant_id": project})),
        ("/v3/credentials".to_string(), json!({"credential": {"type": "totp", "blob": "x", "user_id": user}})),
        ("/v3/OS-TRUST/trusts".to_string(), trust.clone()),
    ] {
        assert_eq!(c.call(&token.token, "POST", &path, body).await.status, 403, "{path}");
    }
    let rescope = |t: &str| json!({"auth": {"identity": {"methods": ["token"], "token": {"id": t}}, "scope": scope(&project)}});
    assert_eq!(c.auth(rescope(&token.token)).await.status, 403);
    // Access rules: nothing else is let through.
    let rules = json!([{"service": "identity", "method": "GET", "path": "/v3/users/*"}]);
    let made = c.call(&demo.token, "POST", &creds, json!({"application_credential": {"name": "narrow", "access_rules": rules}})).await;
    let ac = &made.body["application_credential"];
    let method = json!({"id": ac["id"], "secret": ac["secret"]});
    let narrow = c.auth(json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": method}}})).await;
    assert_eq!(c.call(&narrow.token, "GET", &format!("/v3/users/{user}"), Value::Null).await.status, 200);
    assert_eq!(c.call(&narrow.token, "GET", "/v3/auth/projects", Value::Null).await.status, 403);
    // A trust gives the trustee the trustor's role, until it is deleted.
    let made = c.call(&demo.token, "POST", "/v3/OS-TRUST/trusts", trust.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let trust_id = id(&made.body["trust"]);
    let by_trust = c.auth(password_auth("admin", "secret", json!({"OS-TRUST:trust": {"id": trust_id}}))).await;
    assert_eq!((by_trust.status, &by_trust.body["token"]["user"]["id"]), (201, &json!(user)));
    assert_eq!(c.auth(rescope(&by_trust.token)).await.status, 403);
    assert_eq!(c.call(&by_trust.token, "POST", "/v3/OS-TRUST/trusts", trust).await.status, 403);
    assert_eq!(c.call(&demo.token, "DELETE", &format!("/v3/OS-TRUST/trusts/{trust_id}"), Value::Null).await.status, 204);
    assert!(!c.works(&by_trust.token).await);
    // Losing the role ends the application credential's tokens too.
    c.admin("DELETE", &format!("/v3/projects/{project}/users/{user}/roles/{}", c.role("member").await), Value::Null).await;
    assert!(!c.works(&token.token).await);
    assert_eq!(c.auth(auth).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn inheritance_and_implications_reach_the_token() {
    let c = cloud().await;
    let top = c.project("top", None).await;
    let leaf = c.project("leaf", Some(&top)).await;
    let user = c.user("heir").await;
    let manager = c.role("manager").await;
    c.put(&format!("/v3/OS-INHERIT/projects/{top}/users/{user}/roles/{manager}/inherited_to_projects")).await;
    assert_eq!(c.auth(password_auth("heir", "pw", scope(&top))).await.status, 401, "not on the project itself");
    let t = c.auth(password_auth("heir", "pw", scope(&leaf))).await;
    let names: Vec<&str> = t.body["token"]["roles"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["manager", "member", "reader"]);
    let list = c.admin("GET", &format!("/v3/role_assignments?effective&user.id={user}&include_names=True"), Value::Null).await;
    assert_eq!(list["role_assignments"].as_array().unwrap().len(), 3);
    assert_eq!(list["role_assignments"][0]["scope"]["project"]["name"], "leaf");
    let tree = c.admin("GET", &format!("/v3/projects/{top}?subtree_as_ids"), Value::Null).await;
    assert_eq!(tree["project"]["subtree"], json!({leaf.clone(): null}));
    assert_eq!(c.call(&c.admin, "DELETE", &format!("/v3/projects/{top}"), Value::Null).await.status, 403, "not a leaf");
    let mut parent = leaf;
    for depth in 3..8 {
        let body = json!({"project": {"name": format!("level {depth}"), "parent_id": parent}});
        let a = c.call(&c.admin, "POST", "/v3/projects", body).await;
        assert_eq!(a.status, if depth <= 5 { 201 } else { 403 }, "level {depth}");
        if a.status != 201 {
            break;
        }
        parent = id(&a.body["project"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_politely() {
    let c = cloud().await;
    for (path, body, want) in [
        ("/v3/users", json!({"user": {"name": ""}}), 400),
        ("/v3/users", json!({"user": {"name": "x".repeat(256)}}), 400),
        ("/v3/users", json!({"user": {"name": "u", "enabled": "False"}}), 400),
        ("/v3/users", json!({"user": {"name": "u", "password": 7}}), 400),
        ("/v3/users", json!({"user": {"name": "u", "domain_id": "nowhere"}}), 404),
        ("/v3/users", json!({"user": {"name": "u", "options": {"odd": true}}}), 400),
        ("/v3/users", json!({"user": []}), 400),
        ("/v3/users", json!({}), 400),
        ("/v3/projects", json!({"project": {"name": "x".repeat(65)}}), 400),
        ("/v3/projects", json!({"project": {"name": "p", "tags": ["a", "a"]}}), 400),
        ("/v3/projects", json!({"project": {"name": "p", "parent_id": "nowhere"}}), 404),
        ("/v3/roles", json!({"role": {"name": "admin"}}), 409),
        ("/v3/endpoints", json!({"endpoint": {"interface": "odd", "url": "http://x", "service_id": "x"}}), 400),
        ("/v3/auth/tokens", json!({"auth": {}}), 400),
        ("/v3/auth/tokens", json!({"auth": {"identity": {"methods": []}}}), 400),
        ("/v3/auth/tokens", json!({"auth": {"identity": {"methods": ["magic"]}}}), 401),
        ("/v3/auth/tokens", json!({"auth": {"identity": {"methods": ["password"]}}}), 400),
    ] {
        let a = c.call(&c.admin, "POST", path, body.clone()).await;
        assert_eq!(a.status, want, "{path} {body} → {}", a.body);
        assert_eq!(a.body["error"]["code"], want);
    }
    let a = c.call(&c.admin, "POST", "/v3/projects", json!({"project": {"name": "demo"}})).await;
    assert_eq!(a.body["error"]["message"], "Conflict occurred attempting to store project - Duplicate entry.");
    for token in ["", "x", &"A".repeat(200), &"A".repeat(9000), "gAAAAA\u{e9}"] {
        assert_eq!(c.call(token, "GET", "/v3/users", Value::Null).await.status, 401);
    }
    assert_eq!(c.call(&c.admin, "GET", "/v3/users?limit=-1", Value::Null).await.status, 400);
    let page = c.admin("GET", "/v3/users?limit=1", Value::Null).await;
    let next = page["links"]["next"].as_str().unwrap();
    assert!(next.starts_with("http://cloud/identity/v3/users?limit=1&marker="), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn service_tokens_need_no_password_and_keys_may_rotate() {
    let c = cloud().await;
    let source = c.service.token_source("nova");
    let token = source.token().await.unwrap();
    assert_eq!(source.token().await.unwrap().expose(), token.expose(), "kept");
    let auth = c.service.validator().validate(token.expose()).await.unwrap();
    assert_eq!(auth.project.as_ref().unwrap().name, "service");
    assert!(auth.creds.has_role("admin") && auth.creds.has_role("service"));
    c.service.rotate_keys().unwrap();
    assert!(c.works(token.expose()).await && c.works(&c.admin).await);
    c.clock.advance(Duration::from_secs(3_400));
    assert_ne!(source.token().await.unwrap().expose(), token.expose(), "renewed before it ends");
    assert!(c.clock.now() < auth.expires_at);
    assert!(c.service.token_source("nobody").token().await.is_err());
    c.service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_writes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let run = async || {
        let store = StoreUrl::SqliteDir(dir.path().to_path_buf());
        let mut deps = Deps::new(Env::system(), store, "http://cloud/identity", dir.path().join("identity"));
        deps.bcrypt_cost = 4;
        start(deps).await.unwrap()
    };
    let (one, two) = (run().await, run().await);
    one.bootstrap(bootstrap()).await.unwrap();
    let token = one.token_source("nova").token().await.unwrap();
    let validator = two.validator();
    assert!(validator.validate(token.expose()).await.is_ok(), "keys and tables are shared");
    one.set_password("nova", &Secret::new("new".into())).await.unwrap();
    assert!(one.validator().validate(token.expose()).await.is_err());
    let ends = tokio::time::timeout(Duration::from_secs(2), async {
        while validator.validate(token.expose()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ends.await.expect("revoked in the other process too");
    one.stop().await;
    two.stop().await;
}
