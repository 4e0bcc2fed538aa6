use super::*;
use crate::env::{AuthorizeOverride, Caller, Req, environ};
use crate::middleware::CatchErrors;
use crate::proxy::{AccountInfo, Cache, FixedInfo, MemoryCache};
use caelum_base::{Env, ManualClock, SeededRng, Timestamp};
use caelum_rest::{BaseUrl, Body, HttpService, StaticValidator};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A controller that asks with the list given for the container, and answers 200 with what it knows.
#[derive(Default)]
struct Controller {
    acl: Option<String>,
    seen: Mutex<Vec<(HeaderMap, Environ)>>,
}

impl HttpService for Controller {
    fn call(&self, req: Req) -> BoxFuture<'static, http::Response<Body>> {
        let env = environ(&req).unwrap().clone();
        self.seen.lock().unwrap().push((req.headers().clone(), env.clone()));
        let (method, path, acl) = (req.method().clone(), req.uri().path().to_string(), self.acl.clone());
        Box::pin(async move {
            if let Some(a) = &env.authorizer
                && let Some(refusal) = a.authorize(&method, &path, &env, acl.as_deref()).await
            {
                return refusal;
            }
            error(200)
        })
    }
}

struct World {
    front: CatchErrors,
    controller: Arc<Controller>,
    info: Arc<FixedInfo>,
    clock: Arc<ManualClock>,
    cache: Arc<MemoryCache>,
}

const USERS: &[(&str, &str)] = &[
    ("user_test_tester", "testing .admin"),
    ("user_test_other", "pass"),
    ("user_test2_tester2", "testing2 .admin"),
    ("user_admin_admin", "adminkey .admin .reseller_admin"),
    ("user_r_reader", "k .reseller_reader"),
    ("user64_dW5kZXJfc2NvcmU_YV9i", "key64 $HOST/v1/AUTH_special"),
];

fn world(acl: Option<&str>) -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000)));
    let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(3)) };
    let validator = StaticValidator::default()
        .with("member", "p1", &["member", "reader"])
        .with("reader", "p1", &["reader"])
        .with("nobody", "p1", &["unrelated"])
        .with("other", "p2", &["member", "admin"])
        .with("reseller", "p3", &["reselleradmin"])
        .with("svc", "p4", &["service"]);
    let options: Vec<(String, String)> = USERS.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
    let temp = TempAuthOptions::from_options(&options).unwrap();
    let info = Arc::new(FixedInfo::default());
    let cache = Arc::new(MemoryCache::new(env.clone()));
    let keystone = Arc::new(Keystone::new(Some(Arc::new(validator)), KeystoneOptions::default()));
    let tempauth = Arc::new(TempAuth::new(temp, env.clone(), cache.clone()));
    let deps = AuthDeps { info: info.clone(), keystone: Some(keystone.clone()), tempauth: Some(tempauth.clone()), ignore_overrides: false };
    let controller = Arc::new(Controller { acl: acl.map(str::to_string), seen: Mutex::default() });
    let auth = Arc::new(Auth::new(controller.clone(), deps));
    let tokens = Arc::new(AuthToken::new(auth, keystone, Some(tempauth), AuthTokenOptions::default()));
    World { front: CatchErrors::new(tokens, env, ""), controller, info, clock, cache }
}

impl World {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Resp {
        let mut r = Request::builder().method(method).uri(path);
        for (k, v) in headers {
            r = r.header(*k, *v);
        }
        let mut req = r.body(caelum_rest::empty()).unwrap();
        req.extensions_mut().insert(BaseUrl("http://h:8080".into()));
        self.front.call(req).await
    }

    async fn status(&self, method: &str, path: &str, token: &str) -> u16 {
        let headers = [("x-auth-token", token)];
        self.ask(method, path, if token.is_empty() { &[] } else { &headers }).await.status().as_u16()
    }

    async fn temp_token(&self, user: &str, key: &str) -> String {
        let r = self.ask("GET", "/auth/v1.0", &[("x-auth-user", user), ("x-auth-key", key)]).await;
        assert_eq!(r.status(), 200);
        r.headers()["x-auth-token"].to_str().unwrap().to_string()
    }

    fn last(&self) -> (HeaderMap, Environ) {
        self.controller.seen.lock().unwrap().last().cloned().unwrap()
    }
}

#[tokio::test]
async fn owners_readers_and_strangers() {
    let w = world(None);
    for (token, read, write) in [
        ("member", 200, 200),
        ("reader", 200, 403),
        ("nobody", 403, 403),
        ("other", 403, 403),
        ("reseller", 200, 200),
        ("forged", 401, 401),
        ("", 401, 401),
    ] {
        for path in ["/v1/AUTH_p1", "/v1/AUTH_p1/c", "/v1/AUTH_p1/c/o"] {
            assert_eq!(w.status("GET", path, token).await, read, "{token} reads {path}");
            assert_eq!(w.status("POST", path, token).await, write, "{token} writes {path}");
        }
        let delete = if token == "reseller" { 200 } else { read.max(403).min(if write == 401 { 401 } else { 403 }) };
        assert_eq!(w.status("DELETE", "/v1/AUTH_p1", token).await, delete, "{token} deletes the account");
    }
    let r = w.ask("GET", "/v1/AUTH_p1/c", &[]).await;
    assert_eq!(r.headers()["www-authenticate"], "Swift realm=\"AUTH_p1\"");
    assert_eq!(w.status("GET", "/v1/AUTH_", "member").await, 403);
    assert_eq!(w.status("OPTIONS", "/v1/AUTH_p1/c", "").await, 200);
    w.status("GET", "/v1/AUTH_p1/c", "member").await;
    let (headers, env) = w.last();
    assert!(env.is_owner && !headers.contains_key("x-auth-token"));
    w.status("GET", "/v1/AUTH_p1/c", "reader").await;
    assert!(!w.last().1.is_owner);
}

#[tokio::test]
async fn container_lists() {
    for (acl, path, token, want) in [
        ("p2:user-other", "/v1/AUTH_p1/c", "other", 200),
        ("p2:*", "/v1/AUTH_p1/c/o", "other", 200),
        ("*:user-other", "/v1/AUTH_p1/c/o", "other", 200),
        ("*:*", "/v1/AUTH_p1/c/o", "other", 200),
        ("*:*", "/v1/AUTH_p1/c/o", "", 401),
        ("p3:user-other,p2:user-x", "/v1/AUTH_p1/c/o", "other", 403),
        ("member", "/v1/AUTH_p1/c/o", "other", 403),
        ("Unrelated", "/v1/AUTH_p1/c/o", "nobody", 200),
        (".r:*", "/v1/AUTH_p1/c/o", "", 200),
        (".r:*", "/v1/AUTH_p1/c/o", "forged", 200),
        (".r:*", "/v1/AUTH_p1/c", "", 401),
        (".r:*,.rlistings", "/v1/AUTH_p1/c", "", 200),
        (".r:*,.rlistings", "/v1/AUTH_p1/c", "other", 200),
        (".r:www.x.org", "/v1/AUTH_p1/c/o", "", 401),
        (".r:*", "/v1/OTHER_p1/c/o", "", 401),
    ] {
        assert_eq!(world(Some(acl)).status("GET", path, token).await, want, "{acl} {path} {token}");
    }
    let w = world(Some(".r:.x.org"));
    assert_eq!(w.ask("GET", "/v1/AUTH_p1/c/o", &[("referer", "http://www.x.org/p")]).await.status(), 200);
    assert_eq!(w.ask("GET", "/v1/AUTH_p1/c/o", &[("referer", "http://www.x.org.evil/p")]).await.status(), 401);
}

#[tokio::test]
async fn names_in_lists_count_in_the_default_domain_only() {
    let w = world(Some("p2:user-other"));
    let acl = Some("name:user-other");
    let keystone = Keystone::new(Some(Arc::new(StaticValidator::default())), KeystoneOptions::default());
    let caller = Caller {
        user_id: "u".into(),
        user_name: "user-other".into(),
        project_id: Some("p2".into()),
        project_name: Some("name".into()),
        user_domain_id: Some("default".into()),
        project_domain_id: Some("default".into()),
        ..Caller::default()
    };
    let env = Environ::internal("tx", "");
    let method = Method::GET;
    let path = SwiftPath::parse("/v1/AUTH_p1/c/o").unwrap();
    let r = Request_ { method: &method, path, referer: None };
    assert!(!keystone.admits(&r, &caller, acl, &*w.info, &env).await, "an account nobody knows");
    let account = |domain: Option<&str>| AccountInfo {
        status: 204,
        really_exists: true,
        sysmeta: domain.map(|d| ("project-domain-id".to_string(), d.to_string())).into_iter().collect(),
        ..AccountInfo::default()
    };
    for (domain, want) in [(None, true), (Some("default"), true), (Some("d2"), false), (Some("_unknown"), false)] {
        w.info.set_account("AUTH_p1", account(domain));
        assert_eq!(keystone.admits(&r, &caller, acl, &*w.info, &env).await, want, "{domain:?}");
    }
    w.info.set_account("AUTH_p1", account(None));
    let foreign = Caller { user_domain_id: Some("d2".into()), ..caller.clone() };
    assert!(!keystone.admits(&r, &foreign, acl, &*w.info, &env).await);
}

use super::Request as Request_;

#[tokio::test]
async fn the_domain_of_a_new_account_is_noted() {
    let w = world(None);
    w.status("PUT", "/v1/AUTH_p1/c", "member").await;
    assert_eq!(w.last().0[DOMAIN_SYSMETA], "default");
    w.status("PUT", "/v1/AUTH_p1/c/o", "member").await;
    assert!(!w.last().0.contains_key(DOMAIN_SYSMETA));
    w.status("PUT", "/v1/AUTH_p1", "reseller").await;
    assert_eq!(w.last().0[DOMAIN_SYSMETA], "_unknown");
    let known = BTreeMap::from([("project-domain-id".to_string(), "default".to_string())]);
    let info = AccountInfo { status: 204, really_exists: true, sysmeta: known.into_iter().collect(), ..AccountInfo::default() };
    w.info.set_account("AUTH_p1", info);
    w.status("POST", "/v1/AUTH_p1", "member").await;
    assert!(!w.last().0.contains_key(DOMAIN_SYSMETA));
}

#[tokio::test]
async fn service_accounts_need_a_service() {
    let options = [("reseller_prefix", "AUTH, SERVICE"), ("SERVICE_service_roles", "service"), ("operator_roles", "member")];
    let options: Vec<(String, String)> = options.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
    let validator = StaticValidator::default().with("member", "p1", &["member"]).with("svc", "p4", &["service"]);
    let keystone = Keystone::new(Some(Arc::new(validator)), KeystoneOptions::from_options(&options));
    let get = Method::GET;
    for (service, want) in [(None, false), (Some("svc"), true)] {
        let caller = keystone.caller("member", service, &ServiceRoles::default(), &get, "/v1/SERVICE_p1").await.unwrap().unwrap();
        assert_eq!(keystone.owns("SERVICE_p1", &caller), want);
        assert!(keystone.owns("AUTH_p1", &caller));
    }
    // A service token that is not valid makes the request nobody's.
    assert!(keystone.caller("member", Some("forged"), &ServiceRoles::default(), &get, "/v1/AUTH_p1").await.unwrap().is_none());
}

/// Counts answers that say where tokens are to be had.
fn asks_for_token(r: &Resp) -> bool {
    r.headers().get_all("www-authenticate").iter().any(|v| v == "Keystone uri=\"http://k/v3\"")
}

#[tokio::test]
async fn requests_without_a_valid_token() {
    let controller = Arc::new(Controller { acl: Some(".r:*".into()), seen: Mutex::default() });
    let env = Env { clock: Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000))), rng: Arc::new(SeededRng::new(3)) };
    for delay in [true, false] {
        let validator = StaticValidator::default().with("member", "p1", &["member"]);
        let keystone = Arc::new(Keystone::new(Some(Arc::new(validator)), KeystoneOptions::default()));
        let info = Arc::new(FixedInfo::default());
        let deps = AuthDeps { info, keystone: Some(keystone.clone()), tempauth: None, ignore_overrides: false };
        let uri = Some("http://k/v3".to_string());
        let options = AuthTokenOptions { delay_auth_decision: delay, www_authenticate_uri: uri, ..AuthTokenOptions::default() };
        let layer = AuthToken::new(Arc::new(Auth::new(controller.clone(), deps)), keystone, None, options);
        let front = CatchErrors::new(Arc::new(layer), env.clone(), "");
        for (token, path, want) in [
            ("member", "/v1/AUTH_p1/c/o", 200),
            ("forged", "/v1/AUTH_p1/c/o", if delay { 200 } else { 401 }),
            ("", "/v1/AUTH_p1/c/o", if delay { 200 } else { 401 }),
            ("forged", "/v1/AUTH_p1/c", 401),
        ] {
            let mut req = Request::builder().uri(path).body(caelum_rest::empty()).unwrap();
            if !token.is_empty() {
                req.headers_mut().insert("x-auth-token", token.parse().unwrap());
            }
            let r = front.call(req).await;
            assert_eq!((r.status().as_u16(), asks_for_token(&r)), (want, want == 401), "{delay} {token} {path}");
        }
    }
}

/// Knows a token that has ended.
struct Ended(StaticValidator);

#[async_trait]
impl caelum_rest::TokenValidator for Ended {
    async fn validate(&self, token: &str) -> caelum_base::Result<Arc<caelum_rest::Auth>> {
        if token == "ended" { Err(caelum_base::Error::unauthenticated("ended")) } else { self.0.validate(token).await }
    }

    async fn validate_expired(&self, token: &str) -> caelum_base::Result<Arc<caelum_rest::Auth>> {
        self.0.validate(token).await
    }
}

#[tokio::test]
async fn services_go_on_with_tokens_that_have_ended() {
    let tokens = StaticValidator::default().with("ended", "p1", &["member"]).with("svc", "p4", &["service"]);
    let tokens = Ended(tokens.with("other", "p4", &["member"]));
    let keystone = Keystone::new(Some(Arc::new(tokens)), KeystoneOptions::default());
    let (get, required) = (Method::GET, ServiceRoles { required: true, ..ServiceRoles::default() });
    let lax = ServiceRoles::default();
    for (token, service, services, want) in [
        ("ended", None, &lax, None),
        ("ended", Some("svc"), &lax, Some("service")),
        ("ended", Some("other"), &lax, None),
        ("svc", Some("other"), &lax, Some("member")),
        ("svc", Some("other"), &required, None),
    ] {
        let caller = keystone.caller(token, service, services, &get, "/v1/AUTH_p1").await.unwrap();
        assert_eq!(caller.and_then(|c| c.service_roles.first().cloned()).as_deref(), want, "{token} {service:?}");
    }
}

#[tokio::test]
async fn tokens_of_configured_users() {
    let w = world(None);
    let r = w.ask("GET", "/auth/v1.0", &[("x-auth-user", "test:tester"), ("x-auth-key", "testing")]).await;
    assert_eq!(r.headers()["x-storage-url"], "http://h:8080/v1/AUTH_test");
    assert_eq!(r.headers()["x-auth-token-expires"], "86400");
    let token = r.headers()["x-auth-token"].to_str().unwrap().to_string();
    assert!(token.starts_with("AUTH_tk") && token.len() == 39);
    assert_eq!(w.temp_token("test:tester", "testing").await, token, "one token per user");
    // As upstream's proxies, which share the cache, read it.
    let remembered = w.cache.get("AUTH_/user/test:tester").await.unwrap();
    assert_eq!(remembered, format!("\"{token}\""));
    let r = w.ask("GET", "/auth/v1/test/auth", &[("x-storage-user", "tester"), ("x-storage-pass", "testing")]).await;
    assert_eq!(r.headers()["x-storage-token"].to_str().unwrap(), token);
    for (method, path, want) in [
        ("GET", "/v1/AUTH_test", 200),
        ("PUT", "/v1/AUTH_test/c", 200),
        ("PUT", "/v1/AUTH_test", 403),
        ("DELETE", "/v1/AUTH_test", 403),
        ("GET", "/v1/AUTH_test2", 403),
    ] {
        assert_eq!(w.status(method, path, &token).await, want, "{method} {path}");
    }
    let other = w.temp_token("test:other", "pass").await;
    assert_eq!(w.status("GET", "/v1/AUTH_test", &other).await, 403);
    let admin = w.temp_token("admin:admin", "adminkey").await;
    assert_eq!(w.status("DELETE", "/v1/AUTH_test", &admin).await, 200);
    assert_eq!(w.status("GET", "/v1/AUTH_.expiring", &admin).await, 403);
    assert_eq!(w.status("GET", "/v1/AUTH_", &admin).await, 403);
    let reader = w.temp_token("r:reader", "k").await;
    assert_eq!((w.status("GET", "/v1/AUTH_test", &reader).await, w.status("PUT", "/v1/AUTH_test/c", &reader).await), (200, 403));
    let r = w.ask("GET", "/auth/v1.0", &[("x-auth-user", "under_score:a_b"), ("x-auth-key", "key64")]).await;
    assert_eq!(r.headers()["x-storage-url"], "http://h:8080/v1/AUTH_special");
    w.clock.advance(Duration::from_secs(86_400));
    assert_eq!(w.status("GET", "/v1/AUTH_test", &token).await, 401);
    assert_ne!(w.temp_token("test:tester", "testing").await, token);
}

#[tokio::test]
async fn unknown_users_and_wrong_keys_are_refused_alike() {
    let w = world(None);
    let mut answers = Vec::new();
    for (user, key) in [("test:tester", "wrong"), ("test:nobody", "testing"), ("test:tester", ""), ("test:", "x"), ("test:nobody", "")] {
        let r = w.ask("GET", "/auth/v1.0", &[("x-auth-user", user), ("x-auth-key", key)]).await;
        answers.push((r.status(), r.headers()["www-authenticate"].clone(), r.headers()["content-length"].clone()));
    }
    assert!(answers.iter().all(|a| *a == answers[0] && a.0 == 401), "{answers:?}");
    for (method, path, headers, want) in [
        ("POST", "/auth/v1.0", vec![], 405),
        ("GET", "/auth/", vec![], 404),
        ("GET", "/auth/v3", vec![], 400),
        ("GET", "/auth/v1.0", vec![("x-auth-user", "nocolon")], 401),
        ("GET", "/auth/v1/test/auth", vec![("x-auth-user", "test2:tester2"), ("x-auth-key", "testing2")], 401),
        ("GET", "/auth/v1/test", vec![], 400),
    ] {
        assert_eq!(w.ask(method, path, &headers).await.status().as_u16(), want, "{method} {path}");
    }
    assert_eq!(w.status("GET", "/v1/AUTH_test", "AUTH_tkdeadbeef").await, 401);
}

#[tokio::test]
async fn account_lists_of_tempauth() {
    let w = world(None);
    let token = w.temp_token("test2:tester2", "testing2").await;
    let grant = |list: &str| {
        let sysmeta = [("core-access-control".to_string(), list.to_string())].into_iter().collect();
        w.info.set_account("AUTH_test", AccountInfo { status: 204, really_exists: true, sysmeta, ..AccountInfo::default() });
    };
    for (list, read, write, post, owner) in [
        (r#"{"admin":["test2:tester2"]}"#, 200, 200, 200, true),
        (r#"{"read-write":["test2"]}"#, 200, 200, 403, false),
        (r#"{"read-only":["test2:tester2"]}"#, 200, 403, 403, false),
        (r#"{"read-only":["test3"]}"#, 403, 403, 403, false),
        ("{}", 403, 403, 403, false),
    ] {
        grant(list);
        assert_eq!(w.status("PUT", "/v1/AUTH_test/c", &token).await, write, "{list}");
        assert_eq!(w.status("POST", "/v1/AUTH_test", &token).await, post, "{list}");
        assert_eq!(w.status("GET", "/v1/AUTH_test", &token).await, read, "{list}");
        assert_eq!(w.last().1.is_owner, owner, "{list}");
    }
    let own = w.temp_token("test:tester", "testing").await;
    let r = w.ask("POST", "/v1/AUTH_test", &[("x-auth-token", &own), ("x-account-access-control", r#"{"admin":["x"]}"#)]).await;
    assert_eq!(r.status(), 200);
    let (headers, _) = w.last();
    assert_eq!(headers["x-account-sysmeta-core-access-control"], r#"{"admin":["x"]}"#);
    assert!(!headers.contains_key("x-account-access-control"));
    let r = w.ask("POST", "/v1/AUTH_test", &[("x-auth-token", &own), ("x-account-access-control", "nonsense")]).await;
    assert_eq!(r.status(), 400);
}

#[tokio::test]
async fn only_layers_settle_authorization() {
    let w = world(None);
    // Nothing in the headers makes a caller.
    let forged = [("x-identity-status", "Confirmed"), ("x-user-id", "u"), ("x-project-id", "p1"), ("x-roles", "admin,ResellerAdmin")];
    assert_eq!(w.ask("GET", "/v1/AUTH_p1", &forged).await.status(), 401);
    // Two tokens are none.
    assert_eq!(w.ask("GET", "/v1/AUTH_p1", &[("x-auth-token", "member"), ("x-auth-token", "other")]).await.status(), 401);
    // A layer that only says that it has settled the matter has to put its own authorizer there.
    let mut req = Request::builder().uri("/v1/AUTH_p1").body(caelum_rest::empty()).unwrap();
    req.extensions_mut().insert(AuthorizeOverride);
    assert_eq!(w.front.call(req).await.status(), 401);
}
