//! Lets in what other clusters' container sync sends: requests signed with the realm's key, which operators share, and
//! the container's, which its owner has set on both sides.

use super::common::{facts, is_api_version, mount};
use super::digest::{DigestName, same};
use crate::env::{AuthorizeOverride, Environ, Req, Resp, SwiftPath, quote};
use crate::http::{error_html, error_plain, set, text, unauthorized};
use crate::proxy::InfoSource;
use caelum_base::{Env, Secret, Timestamp};
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::parse_ini;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the file is looked at when it does not say so itself.
const CHECK_EVERY: Duration = Duration::from_secs(300);

/// A realm of `container-sync-realms.conf`.
#[derive(Clone, Debug, Default)]
struct Realm {
    key: Option<Secret<String>>,
    /// Accepted too, while keys are being changed.
    key2: Option<Secret<String>>,
    /// Endpoints by cluster.
    clusters: BTreeMap<String, String>,
}

/// Clusters that sync with each other, by the realm's name in capitals.
#[derive(Clone, Debug)]
pub struct Realms {
    realms: BTreeMap<String, Realm>,
    check_every: Duration,
}

impl Default for Realms {
    fn default() -> Self {
        Self { realms: BTreeMap::new(), check_every: CHECK_EVERY }
    }
}

impl Realms {
    /// From the text of `container-sync-realms.conf`.
    pub fn parse(conf: &str) -> Self {
        let mut this = Self::default();
        for (section, options) in parse_ini(conf) {
            if section == "DEFAULT" {
                let every = options.iter().find(|(k, _)| k == "mtime_check_interval").and_then(|(_, v)| v.parse::<f64>().ok());
                if let Some(seconds) = every.filter(|s| s.is_finite() && *s >= 0.0) {
                    this.check_every = Duration::from_secs_f64(seconds.min(86_400.0));
                }
                continue;
            }
            let realm = this.realms.entry(section.to_uppercase()).or_default();
            for (name, value) in options {
                let name = name.to_lowercase();
                match name.as_str() {
                    "key" => realm.key = Some(Secret::new(value)),
                    "key2" => realm.key2 = Some(Secret::new(value)),
                    _ => {
                        if let Some(cluster) = name.strip_prefix("cluster_") {
                            realm.clusters.insert(cluster.to_uppercase(), value);
                        }
                    }
                }
            }
        }
        this
    }

    fn keys(&self, realm: &str) -> Vec<Secret<String>> {
        let Some(realm) = self.realms.get(&realm.to_uppercase()) else { return Vec::new() };
        // A second key alone admits nobody.
        realm.key.iter().chain(realm.key.as_ref().and(realm.key2.as_ref())).cloned().collect()
    }

    /// Where a cluster of a realm is reached.
    pub fn endpoint(&self, realm: &str, cluster: &str) -> Option<&str> {
        Some(self.realms.get(&realm.to_uppercase())?.clusters.get(&cluster.to_uppercase())?.as_str())
    }

    fn info(&self, current: Option<&str>) -> serde_json::Value {
        let current = current.and_then(|c| c.trim_matches('/').split_once('/')).map(|(r, c)| (r.to_uppercase(), c.to_uppercase()));
        let mut realms = serde_json::Map::new();
        for (name, realm) in self.realms.iter().filter(|(_, r)| !r.clusters.is_empty()) {
            let mut clusters = serde_json::Map::new();
            for cluster in realm.clusters.keys() {
                let here = current.as_ref().is_some_and(|(r, c)| r == name && c == cluster);
                clusters.insert(cluster.clone(), if here { serde_json::json!({"current": true}) } else { serde_json::json!({}) });
            }
            realms.insert(name.clone(), serde_json::json!({"clusters": clusters}));
        }
        serde_json::json!({"realms": realms})
    }
}

/// The signature of a synced request: `path` is quoted, `timestamp` its `X-Timestamp`.
pub fn signature(method: &str, path: &str, timestamp: &str, nonce: &str, realm_key: &str, user_key: &str) -> String {
    DigestName::Sha1.hmac(realm_key.as_bytes(), format!("{method}\n{path}\n{timestamp}\n{nonce}\n{user_key}").as_bytes())
}

/// The realms' file, read again after it has changed.
pub struct RealmsFile {
    path: PathBuf,
    env: Env,
    state: Mutex<Known>,
}

struct Known {
    realms: Arc<Realms>,
    changed: Option<std::time::SystemTime>,
    check_at: Timestamp,
}

impl RealmsFile {
    /// A file that is not there (yet) is an empty one.
    pub fn new(path: PathBuf, env: Env) -> Self {
        let state = Known { realms: Arc::default(), changed: None, check_at: Timestamp(i64::MIN) };
        Self { path, env, state: Mutex::new(state) }
    }

    async fn current(&self) -> Arc<Realms> {
        let now = self.env.now();
        let known = {
            let mut state = self.state.lock().expect("no holder of this lock panics");
            if now < state.check_at {
                return state.realms.clone();
            }
            // Others go on with what is known while one looks.
            state.check_at = now.plus(state.realms.check_every);
            state.changed
        };
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || -> std::io::Result<Option<(std::time::SystemTime, Realms)>> {
            let changed = std::fs::metadata(&path)?.modified()?;
            if Some(changed) == known {
                return Ok(None);
            }
            let text = std::fs::read_to_string(&path)?;
            Ok(Some((changed, Realms::parse(&text))))
        });
        let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let mut state = self.state.lock().expect("no holder of this lock panics");
        match read {
            Ok(Some((changed, realms))) => {
                state.check_at = now.plus(realms.check_every);
                state.changed = Some(changed);
                state.realms = Arc::new(realms);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, path = %self.path.display(), "container sync realms"),
        }
        state.realms.clone()
    }
}

/// The layer; it stands before the authentication.
#[derive(Clone)]
pub struct ContainerSync {
    next: Arc<dyn HttpService>,
    info: Arc<dyn InfoSource>,
    realms: Arc<RealmsFile>,
    allow_full_urls: bool,
}

impl ContainerSync {
    /// `allow_full_urls`: containers may name any URL to sync to, not only `//realm/cluster/account/container`.
    pub fn new(next: Arc<dyn HttpService>, info: Arc<dyn InfoSource>, realms: Arc<RealmsFile>, allow_full_urls: bool) -> Self {
        Self { next, info, realms, allow_full_urls }
    }

    /// What `/info` tells under `container_sync`. `current` is this cluster, as `//REALM/CLUSTER`.
    pub fn info(realms: &Realms, current: Option<&str>) -> serde_json::Value {
        realms.info(current)
    }

    async fn handle(self, mut req: Req) -> Resp {
        let path = SwiftPath::parse(req.uri().path()).filter(|p| is_api_version(&p.version));
        let Some((path, container)) = path.and_then(|p| p.container.clone().map(|c| (p, c))) else { return self.next.call(req).await };
        let asked = facts(&req).preauthorized("CS");
        let sync_to = text(req.headers(), "x-container-sync-to").filter(|v| !v.is_empty()).map(str::to_string);
        if let Some(sync_to) = sync_to {
            let changes = path.object.is_none() && matches!(*req.method(), Method::PUT | Method::POST);
            if changes && self.info.container_info(&asked, &path.account, &container).await.sysmeta("versions-container").is_some() {
                return error_html(400, "Cannot configure container sync on a container with object versioning configured.");
            }
            if !self.allow_full_urls && !sync_to.starts_with("//") {
                let why = "Full URLs are not allowed for X-Container-Sync-To values. Only realm values of the format \
                           //realm/cluster/account/container are allowed.\n";
                return error_html(400, why);
            }
        }
        let Some(auth) = text(req.headers(), "x-container-sync-auth").filter(|a| !a.is_empty()).map(str::to_string) else {
            return self.next.call(req).await;
        };
        let info = self.info.container_info(&asked, &path.account, &container).await;
        let realms = self.realms.current().await;
        if let Err(why) = check(&mut req, &auth, &realms, info.sync_key.as_deref()) {
            tracing::info!(why, account = path.account, container, "container sync refused");
            return refused(req.uri().path());
        }
        // The other cluster acts on behalf of the container's owner; nobody else is to be asked.
        req.extensions_mut().insert(Environ { authorizer: None, caller: None, is_owner: false, source: "", ..asked });
        req.extensions_mut().insert(AuthorizeOverride);
        req.extensions_mut().insert(crate::env::SyncOverride);
        self.next.call(req).await
    }
}

/// Errors: why not, for the log.
fn check(req: &mut Req, auth: &str, realms: &Realms, user_key: Option<&str>) -> Result<(), &'static str> {
    let words: Vec<&str> = auth.split_whitespace().collect();
    let [realm, nonce, given] = words[..] else { return Err("not three words") };
    let keys = realms.keys(realm);
    if keys.is_empty() {
        return Err("no such realm here");
    }
    let user_key = user_key.filter(|k| !k.is_empty()).ok_or("the container has no key")?;
    // The time of the write is signed; clients' own has been set aside at the front.
    if let Some(stamp) = req.headers_mut().remove("x-backend-inbound-x-timestamp") {
        req.headers_mut().insert("x-timestamp", stamp);
    }
    let timestamp = text(req.headers(), "x-timestamp").unwrap_or("0");
    let path = percent_encoding::percent_decode_str(req.uri().path()).decode_utf8().map_err(|_| "the path is not UTF-8")?;
    let paths = [quote(&path), format!("{}{}", mount(req), quote(&path))];
    let expected = |k: &Secret<String>, p: &str| signature(req.method().as_str(), p, timestamp, nonce, k.expose(), user_key);
    if keys.iter().any(|k| paths.iter().any(|p| same(given, &expected(k, p)))) { Ok(()) } else { Err("wrong signature") }
}

fn refused(path: &str) -> Resp {
    let challenge = unauthorized(path);
    let realm = text(challenge.headers(), "www-authenticate").and_then(|v| v.split_once(' ')).map_or("", |(_, r)| r);
    let mut resp = error_plain(401, "X-Container-Sync-Auth header not valid; contact cluster operator for support.");
    set(resp.headers_mut(), "www-authenticate", format!("SwiftContainerSync {realm}"));
    resp
}

impl HttpService for ContainerSync {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{ContainerInfo, FixedInfo};
    use crate::testing::{FakeStore, read, request, send};
    use caelum_base::{ManualClock, SeededRng};

    const CONF: &str = "[DEFAULT]\nmtime_check_interval = 10\n[us]\nkey = realm1\nkey2 = realm2\ncluster_East = http://e/v1/\n\
                        cluster_west = http://w/v1/\n[half]\nkey2 = only\n[none]\ncluster_x = http://x/\n";

    #[test]
    fn signatures_are_upstreams() {
        // Figure from Swift 2.38.3's ContainerSyncRealms.get_sig.
        let sig = signature("PUT", "/v1/a/c/%C3%A5%20x", "1700000000.00000", "nonce", "realmkäy", "userkey");
        assert_eq!(sig, "f249d7d92fd06e2c1f7fa4cb579512fca730d4ef");
    }

    #[test]
    fn realms() {
        let realms = Realms::parse(CONF);
        assert_eq!(realms.check_every, Duration::from_secs(10));
        assert_eq!((realms.keys("US").len(), realms.keys("half").len(), realms.keys("none").len(), realms.keys("x").len()), (2, 0, 0, 0));
        assert_eq!(realms.endpoint("us", "EAST"), Some("http://e/v1/"));
        assert!(!format!("{realms:?}").contains("realm1"));
        let info =
            serde_json::json!({"realms": {"US": {"clusters": {"EAST": {"current": true}, "WEST": {}}}, "NONE": {"clusters": {"X": {}}}}});
        assert_eq!(realms.info(Some("//us/east")), info);
    }

    struct Fixture {
        store: FakeStore,
        app: Arc<dyn HttpService>,
        clock: Arc<ManualClock>,
        dir: tempfile::TempDir,
    }

    fn fixture(full_urls: bool) -> Fixture {
        let (store, info) = (FakeStore::new(), FixedInfo::default());
        for c in ["c", "plain", "versioned"] {
            store.container("a", c);
            let sysmeta = (c == "versioned").then(|| ("versions-container".to_string(), "v".to_string())).into_iter().collect();
            let sync_key = (c == "c").then(|| "user".to_string());
            info.set_container("a", c, ContainerInfo { status: 204, sync_key, sysmeta, ..ContainerInfo::default() });
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("realms"), CONF).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_700_000_000)));
        let env = Env { clock: clock.clone(), rng: Arc::new(SeededRng::new(1)) };
        let file = Arc::new(RealmsFile::new(dir.path().join("realms"), env));
        Fixture { app: Arc::new(ContainerSync::new(store.service(), Arc::new(info), file, full_urls)), store, clock, dir }
    }

    async fn put(f: &Fixture, path: &str, auth: &str) -> (u16, http::HeaderMap, String) {
        let headers = [("x-container-sync-auth", auth), ("x-backend-inbound-x-timestamp", "1600000000.00000")];
        read(f.app.call(request("PUT", path, &headers, "x")).await).await
    }

    #[tokio::test]
    async fn signed_requests_are_let_in() {
        let f = fixture(true);
        let path = "/v1/a/c/%C3%A5%20x";
        let sig = |key: &str, path: &str| signature("PUT", path, "1600000000.00000", "n", key, "user");
        for key in ["realm1", "realm2"] {
            assert_eq!(put(&f, path, &format!("US n {}", sig(key, path))).await.0, 201, "{key}");
        }
        let (headers, environ) = f.store.last(&format!("PUT {path}")).unwrap();
        assert_eq!(headers["x-timestamp"], "1600000000.00000");
        assert!(environ.unwrap().authorizer.is_none());
        let good = sig("realm1", path);
        for auth in [
            format!("us m {good}"),
            format!("us n {good}x"),
            format!("us n {}", sig("wrong", path)),
            format!("half n {}", sig("only", path)),
            format!("none n {good}"),
            format!("nowhere n {good}"),
            "us n".into(),
            format!("us n {good} more"),
        ] {
            let (status, headers, body) = put(&f, path, &auth).await;
            assert_eq!(
                (status, body.as_str()),
                (401, "X-Container-Sync-Auth header not valid; contact cluster operator for support."),
                "{auth}"
            );
            assert_eq!(headers["www-authenticate"], "SwiftContainerSync realm=\"a\"");
            assert_eq!(headers["content-type"], "text/plain");
        }
        let plain = "/v1/a/plain/o";
        assert_eq!(put(&f, plain, &format!("us n {}", sig("realm1", plain))).await.0, 401, "no key on this side");
    }

    #[tokio::test]
    async fn where_to_sync() {
        let f = fixture(false);
        let set = |c: &str, to: &'static str| (format!("/v1/a/{c}"), [("x-container-sync-to", to)]);
        for (container, to, status) in
            [("c", "//us/east/a/c", 204), ("c", "http://h/v1/a/c", 400), ("versioned", "//us/east/a/c", 400), ("versioned", "", 204)]
        {
            let (target, headers) = set(container, to);
            assert_eq!(send(&f.app, "POST", &target, &headers, "").await.0, status, "{container} {to}");
        }
        let f = fixture(true);
        assert_eq!(send(&f.app, "POST", "/v1/a/c", &[("x-container-sync-to", "http://h/v1/a/c")], "").await.0, 204);
    }

    #[tokio::test]
    async fn the_file_is_read_again_when_it_changes() {
        let f = fixture(true);
        let path = "/v1/a/c/o";
        let auth = format!("us n {}", signature("PUT", path, "1600000000.00000", "n", "changed", "user"));
        assert_eq!(put(&f, path, &auth).await.0, 401);
        let file = f.dir.path().join("realms");
        std::fs::write(&file, CONF.replace("realm1", "changed")).unwrap();
        let later = std::fs::metadata(&file).unwrap().modified().unwrap() + Duration::from_secs(5);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_eq!(put(&f, path, &auth).await.0, 401, "not yet");
        f.clock.advance(Duration::from_secs(10));
        assert_eq!(put(&f, path, &auth).await.0, 201);
        std::fs::remove_file(&file).unwrap();
        f.clock.advance(Duration::from_secs(10));
        assert_eq!(put(&f, path, &auth).await.0, 201, "what is known stays when the file goes");
    }
}
