//! The whole pipeline, in upstream's order.

mod operations;
mod options;

pub use operations::{Operation, Operations, Resource, infos, operations};
pub use options::Options;

use crate::auth::{Auth, AuthDeps, Keystone, TempAuth};
use crate::env::{Environ, Req, Resp, environ};
use crate::middleware::account_quotas::AccountQuotas;
use crate::middleware::cname_lookup::CnameLookup;
use crate::middleware::container_quotas::ContainerQuotas;
use crate::middleware::container_sync::{ContainerSync, Realms, RealmsFile};
use crate::middleware::crypto::Encryption;
use crate::middleware::domain_remap::DomainRemap;
use crate::middleware::etag_quoter::EtagQuoter;
use crate::middleware::formpost::FormPost;
use crate::middleware::ratelimit::RateLimit;
use crate::middleware::read_only::ReadOnly;
use crate::middleware::staticweb::StaticWeb;
use crate::middleware::tempurl::TempUrl;
use crate::middleware::{About, AccessLog, CatchErrors, CrossDomain, Gatekeeper, HealthCheck, Info, ListingFormats, NameCheck};
use crate::middleware::{Bulk, Copy, Dlo, ObjectVersioning, Slo, Symlink, VersionedWrites};
use crate::proxy::{Cache, InfoSource, MemoryCache, Proxy, ProxyDeps};
use caelum_base::{Env, Result};
use caelum_rest::{HttpService, OpInfo, TokenValidator};
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

/// What a layer from outside this crate can work with.
pub struct Around {
    pub env: Env,
    pub info: Arc<dyn InfoSource>,
    pub cache: Arc<dyn Cache>,
    pub swift: Arc<SwiftConf>,
    pub tempauth: Option<Arc<TempAuth>>,
    /// Sections of `/info`, to which the layer may add its own.
    pub sections: Map<String, Value>,
}

/// Puts a layer before the authentication; it gets what follows it.
pub type BeforeAuth = Box<dyn FnOnce(Arc<dyn HttpService>, &mut Around) -> Arc<dyn HttpService> + Send>;

/// What the pipeline is made from.
pub struct Deps {
    pub env: Env,
    pub rings: Rings,
    pub nodes: Nodes,
    pub swift: Arc<SwiftConf>,
    /// Shared with other proxies; `None`: this process's own.
    pub cache: Option<Arc<dyn Cache>>,
    /// Tokens of an identity service; `None`: there is none.
    pub validator: Option<Arc<dyn TokenValidator>>,
    pub options: Options,
    pub before_auth: Option<BeforeAuth>,
}

/// The object store's API, ready to serve.
#[derive(Clone)]
pub struct Service {
    front: Arc<dyn HttpService>,
    proxy: Arc<Proxy>,
    env: Env,
}

/// Gives requests that come without one the environ of the program's own.
struct Internal {
    next: Arc<dyn HttpService>,
    env: Env,
}

impl HttpService for Internal {
    fn call(&self, mut req: Req) -> BoxFuture<'static, Resp> {
        if environ(&req).is_none() {
            let trans_id = format!("tx{}-{:010x}", &self.env.hex_id()[..21], self.env.now().secs());
            req.extensions_mut().insert(Environ::internal(trans_id, ""));
        }
        self.next.call(req)
    }
}

impl Service {
    /// Serves clients: paths `/v1/account…`, `/info`, `/healthcheck` and what the layers add.
    pub fn api(&self) -> Arc<dyn HttpService> {
        self.front.clone()
    }

    /// What is known of accounts, containers and objects.
    pub fn info(&self) -> Arc<dyn InfoSource> {
        self.proxy.clone()
    }

    /// Serves requests of the program's own, whatever account they are for: nobody is asked, and no layer but
    /// symbolic links stands before the controllers, as in upstream's internal client. Not for a listener.
    pub fn internal(&self) -> Arc<dyn HttpService> {
        Arc::new(Internal { next: Arc::new(Symlink::new(self.proxy.clone())), env: self.env.clone() })
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        infos()
    }
}

/// Builds the pipeline from its last layer to its first. Errors: `Invalid` for an option.
pub fn start(deps: Deps) -> Result<Service> {
    let Deps { env, rings, nodes, swift, cache, validator, options, before_auth } = deps;
    let cache = cache.unwrap_or_else(|| Arc::new(MemoryCache::new(env.clone())));
    let proxy = Proxy::new(ProxyDeps {
        rings,
        nodes,
        swift: swift.clone(),
        env: env.clone(),
        options: options.proxy.clone(),
        cache: Some(cache.clone()),
    });
    let tempauth = options.tempauth.clone().map(|t| Arc::new(TempAuth::new(t, env.clone(), cache.clone())));
    let keystone = validator.map(|v| Arc::new(Keystone::new(v, options.keystone.clone())));
    let mut around = Around { env, info: proxy.clone(), cache, swift, tempauth, sections: Map::new() };
    around.sections.insert("swift".into(), options.swift_section(&around.swift));
    let at = behind_auth(proxy.clone(), &options, &mut around);
    let auth = AuthDeps { info: around.info.clone(), keystone, tempauth: around.tempauth.clone() };
    if around.tempauth.is_some() {
        around.sections.insert("tempauth".into(), json!({"account_acls": true}));
    }
    let at: Arc<dyn HttpService> = Arc::new(Auth::new(at, auth));
    let front = before(at, &options, &mut around, before_auth)?;
    Ok(Service { front, proxy, env: around.env })
}

/// The layers between authentication and controllers.
fn behind_auth(proxy: Arc<Proxy>, o: &Options, a: &mut Around) -> Arc<dyn HttpService> {
    let mut at: Arc<dyn HttpService> = proxy;
    if let Some(keymaster) = &o.keymaster {
        let layer = Encryption::new(at, keymaster.clone(), a.env.clone());
        at = Arc::new(if o.disable_encryption { layer.read_only() } else { layer });
        a.sections.insert("encryption".into(), json!({"enabled": !o.disable_encryption}));
    }
    at = Arc::new(Symlink::new(at));
    a.sections.insert("symlink".into(), Symlink::info());
    let policies = Arc::new(a.swift.policies.clone());
    at = Arc::new(ObjectVersioning::new(at, a.info.clone(), policies.clone(), a.env.clone()));
    a.sections.insert("object_versioning".into(), json!({}));
    at = Arc::new(VersionedWrites::new(at, a.info.clone(), a.env.clone()));
    a.sections.insert("versioned_writes".into(), VersionedWrites::info());
    at = Arc::new(Dlo::new(at, a.env.clone(), o.dlo_pace));
    a.sections.insert("dlo".into(), json!({"max_segments_per_get": 10_000}));
    at = Arc::new(Slo::new(at, a.info.clone(), a.swift.hash.clone(), a.env.clone(), o.slo.clone()));
    a.sections.insert("slo".into(), o.slo.info());
    at = Arc::new(AccountQuotas::new(at, a.info.clone(), policies));
    a.sections.insert("account_quotas".into(), json!({}));
    at = Arc::new(ContainerQuotas::new(at, a.info.clone()));
    a.sections.insert("container_quotas".into(), json!({}));
    at = Arc::new(Copy::new(at));
    a.sections.insert("staticweb".into(), json!({}));
    Arc::new(StaticWeb::new(at, a.info.clone(), o.staticweb_url_base.as_deref()))
}

/// Where the host's name says what the path leaves out.
fn named_hosts(mut at: Arc<dyn HttpService>, o: &Options, a: &mut Around) -> Arc<dyn HttpService> {
    if let Some(options) = &o.domain_remap {
        a.sections.insert("domain_remap".into(), options.info());
        at = Arc::new(DomainRemap::new(at, options.clone()));
    }
    if let Some((options, resolver)) = &o.cname_lookup {
        a.sections.insert("cname_lookup".into(), options.info());
        at = Arc::new(CnameLookup::new(at, a.cache.clone(), resolver.clone(), options));
    }
    at
}

/// The layers up to authentication.
fn before(mut at: Arc<dyn HttpService>, o: &Options, a: &mut Around, hook: Option<BeforeAuth>) -> Result<Arc<dyn HttpService>> {
    at = Arc::new(Operations::new(at));
    let about = Arc::new(OnceLock::new());
    at = Arc::new(Info::new(at, about.clone()));
    if let Some(hook) = hook {
        at = hook(at, a);
    }
    if let Some((all, allow_deletes)) = o.read_only {
        at = Arc::new(ReadOnly::new(at, a.info.clone(), all, allow_deletes));
        if all {
            a.sections.insert("read_only".into(), json!({}));
        }
    }
    if let Some(options) = &o.ratelimit {
        a.sections.insert("ratelimit".into(), options.info());
        at = Arc::new(RateLimit::new(at, a.info.clone(), a.cache.clone(), options.clone(), a.env.clone()));
    }
    at = Arc::new(FormPost::new(at, a.info.clone(), o.formpost_digests.clone(), a.env.clone()));
    a.sections.insert("formpost".into(), FormPost::info(&o.formpost_digests));
    at = Arc::new(TempUrl::new(at, a.info.clone(), o.tempurl.clone(), a.env.clone()));
    a.sections.insert("tempurl".into(), o.tempurl.info());
    at = Arc::new(Bulk::new(at, o.bulk));
    for (name, section) in o.bulk.info() {
        a.sections.insert(name.into(), section);
    }
    if let Some(file) = &o.sync_realms {
        let realms = Arc::new(RealmsFile::new(file.clone(), a.env.clone()));
        at = Arc::new(ContainerSync::new(at, a.info.clone(), realms, !o.sync_realms_only));
        let known = Realms::parse(&std::fs::read_to_string(file).unwrap_or_default());
        a.sections.insert("container_sync".into(), ContainerSync::info(&known, o.sync_current.as_deref()));
    }
    at = Arc::new(ListingFormats::new(at));
    if let Some(by_default) = o.etag_quoter {
        at = Arc::new(EtagQuoter::new(at, a.info.clone(), by_default));
        a.sections.insert("etag_quoter".into(), EtagQuoter::info(by_default));
    }
    if let Some(options) = &o.name_check {
        at = Arc::new(NameCheck::new(at, options.clone())?);
    }
    at = named_hosts(at, o, a);
    at = Arc::new(AccessLog::new(at));
    at = Arc::new(CrossDomain::new(at, o.cross_domain_policy.as_deref()));
    a.sections.insert("crossdomain".into(), json!({}));
    at = Arc::new(HealthCheck::new(at, o.disable_path.clone()));
    at = Arc::new(Gatekeeper::new(at, o.allow_reserved_names_header));
    // Every layer has been made and has said what it can do.
    let _ = about.set(About::new(a.env.clone(), o.info.clone(), a.sections.clone(), Map::new()));
    Ok(Arc::new(CatchErrors::new(at, a.env.clone(), &o.trans_id_suffix)))
}
