//! A whole cloud in one test: the real services on a scratch database, a simulated host, a real socket
//! on a free port. Nothing is shared between two of them.

use caelum_base::{Env, Result};
use caelum_config::{Layers, Schema};
use caelum_node::{DataDir, Node, OPTIONS, Settings};
use caelum_rest::{Body, full, read_limited};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

/// Password of the users that tests make.
pub const PASSWORD: &str = "secret-word";

/// A running cloud and a client for it.
pub struct TestCloud {
    pub node: Node,
    pub url: String,
    dir: TempDir,
    http: Client<HttpConnector, Body>,
}

/// An answer: status, `X-Subject-Token` if any, JSON body (`Null` when it is none).
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub token: Option<String>,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// A string at a JSON pointer; panics with the whole answer when it is not there.
    pub fn str(&self, pointer: &str) -> String {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {self:?}")).to_string()
    }

    /// Checks the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

impl TestCloud {
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With further options.
    pub async fn start_with(options: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| caelum_base::Error::unavailable("temporary directory").caused_by(e))?;
        Self::start_in(dir, options).await
    }

    async fn start_in(dir: TempDir, options: &[(&str, &str)]) -> Result<Self> {
        let base = [
            ("hypervisor.driver", "sim"),
            ("api.listen", "127.0.0.1:0"),
            ("identity.bcrypt_rounds", "4"),
            ("host.name", "test-host"),
            ("log.filter", "warn"),
        ];
        let pairs = base.iter().chain(options).map(|(k, v)| ((*k).to_string(), (*v).to_string()));
        let mut layers = Layers::new().cli(pairs);
        if let Ok(url) = std::env::var("CAELUM_TEST_STORE_URL") {
            layers = layers.env([("CAELUM_STORE_URL".to_string(), url)]);
        }
        let config = Schema::new(vec![OPTIONS])?.load(&layers)?;
        let settings = Settings { data: DataDir::open(dir.path())?, config };
        let node = Node::start(settings, &|_| {}).await?;
        let url = node.summary().url;
        Ok(Self { node, url, dir, http: Client::builder(TokioExecutor::new()).build(HttpConnector::new()) })
    }

    /// Stops the process's work and starts again on the same data, as after `caelum down` and `up`.
    pub async fn restart(self, options: &[(&str, &str)]) -> Result<Self> {
        self.node.stop(Duration::from_secs(5)).await;
        Self::start_in(self.dir, options).await
    }

    pub async fn stop(self) {
        self.node.stop(Duration::from_secs(5)).await;
    }

    fn password(&self, user: &str) -> String {
        let path = self.dir.path().join(format!("secrets/{user}-password"));
        std::fs::read_to_string(path).expect("the password of a bootstrap user").trim().to_string()
    }

    /// A token of a bootstrap user (`admin`, `demo`) on the project of the same name.
    pub async fn bootstrap_token(&self, user: &str) -> String {
        self.login(user, &self.password(user), user).await
    }

    /// A token of any user of the default domain on a project.
    pub async fn login(&self, user: &str, password: &str, project: &str) -> String {
        self.login_scoped(user, password, json!({"project": {"name": project, "domain": {"id": "default"}}})).await
    }

    /// A token of any user of the default domain with this `scope` (`{"system": {"all": true}}`, …).
    pub async fn login_scoped(&self, user: &str, password: &str, scope: Value) -> String {
        let identity =
            json!({"methods": ["password"], "password": {"user": {"name": user, "domain": {"id": "default"}, "password": password}}});
        self.authenticate(json!({"identity": identity, "scope": scope})).await
    }

    /// A token for the body of an authentication request.
    pub async fn authenticate(&self, auth: Value) -> String {
        let answer = self.call(Method::POST, "/identity/v3/auth/tokens", "", Some(json!({"auth": auth}))).await.expect(201);
        answer.token.expect("X-Subject-Token")
    }

    /// Makes a user of the default domain whose password is [`PASSWORD`]; gives its id.
    pub async fn user(&self, name: &str) -> String {
        let admin = self.bootstrap_token("admin").await;
        let body = json!({"user": {"name": name, "password": PASSWORD, "domain_id": "default"}});
        self.call(Method::POST, "/identity/v3/users", &admin, Some(body)).await.expect(201).str("/user/id")
    }

    /// Gives a user roles on `target` (`projects/ID`, `domains/ID`, `system`).
    pub async fn grant(&self, target: &str, user_id: &str, roles: &[&str]) {
        let admin = self.bootstrap_token("admin").await;
        for role in roles {
            let found = self.call(Method::GET, &format!("/identity/v3/roles?name={role}"), &admin, None).await;
            let path = format!("/identity/v3/{target}/users/{user_id}/roles/{}", found.str("/roles/0/id"));
            self.call(Method::PUT, &path, &admin, None).await.expect(204);
        }
    }

    /// Makes a project of the default domain, or finds it; gives its id.
    pub async fn project(&self, name: &str) -> String {
        let admin = self.bootstrap_token("admin").await;
        let body = json!({"project": {"name": name, "domain_id": "default"}});
        let made = self.call(Method::POST, "/identity/v3/projects", &admin, Some(body)).await;
        if made.status == 201 {
            return made.str("/project/id");
        }
        self.call(Method::GET, &format!("/identity/v3/projects?name={name}"), &admin, None).await.str("/projects/0/id")
    }

    /// Makes a project with a user of these roles; gives a token of it.
    pub async fn persona(&self, project: &str, user: &str, roles: &[&str]) -> String {
        let project_id = self.project(project).await;
        let user_id = self.user(user).await;
        self.grant(&format!("projects/{project_id}"), &user_id, roles).await;
        self.login(user, PASSWORD, project).await
    }

    /// One request over the socket. An empty token sends none.
    pub async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        self.call_with(method, path, token, &[], body).await
    }

    /// With further headers.
    pub async fn call_with(&self, method: Method, path: &str, token: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut headers = headers.to_vec();
        if body.is_some() && !headers.iter().any(|(k, _)| k.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type", "application/json"));
        }
        self.call_bytes(method, path, token, &headers, body.map(|v| v.to_string().into_bytes())).await
    }

    /// With a body of any bytes and exactly these headers besides the token.
    pub async fn call_bytes(&self, method: Method, path: &str, token: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        let mut req = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if !token.is_empty() {
            req = req.header("x-auth-token", token);
        }
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let body = body.map_or_else(caelum_rest::empty, full);
        let response = self.http.request(req.body(body).expect("a valid request")).await;
        let response = response.unwrap_or_else(|e| panic!("no answer to {path} {headers:?}: {e:?}"));
        let (parts, body) = response.into_parts();
        let bytes = read_limited(body.map_err(Into::into).boxed_unsync(), 64 << 20).await.expect("a whole body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let token = parts.headers.get("x-subject-token").and_then(|v| v.to_str().ok()).map(String::from);
        Answer { status: parts.status.as_u16(), token, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), text }
    }

    /// Asks `path` until `done` is satisfied; panics after 20 s with the last answer.
    pub async fn until(&self, path: &str, token: &str, done: impl Fn(&Answer) -> bool) -> Answer {
        let started = Env::system().now();
        loop {
            let answer = self.call(Method::GET, path, token, None).await;
            if done(&answer) {
                return answer;
            }
            assert!(Env::system().now().since(started) < Duration::from_secs(20), "{path} did not get there: {answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
