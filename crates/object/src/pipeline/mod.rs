//! The whole pipeline: which layers stand before the controllers, in which order.
//!
//! A store of its own has all of them, in the order of Swift's sample configuration; `proxy-server.conf` of a cluster
//! names those it wants, and its order counts.

mod assembly;
mod filter;
mod operations;
mod options;

pub use filter::{Filter, with_required};
pub use operations::{Operation, Operations, Resource, infos, operations};
pub use options::{Options, VersionOptions};

use crate::auth::TempAuth;
use crate::env::{Environ, Req, Resp, environ};
use crate::middleware::Symlink;
use crate::proxy::{Cache, InfoSource, MemoryCache, Proxy, ProxyDeps};
use assembly::Assembly;
use caelum_base::{Env, Result};
use caelum_rest::{HttpService, OpInfo, TokenValidator};
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use std::sync::Arc;

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
    let (proxy, deps) = app(deps);
    let env = deps.env.clone();
    let front = assemble(deps, &proxy, |assembly, proxy| assembly.build(proxy))?;
    Ok(Service { front, proxy, env })
}

/// A pipeline for requests of the program's own, of the layers that `deps.options.order` names: nobody is asked. Not
/// for a listener. Errors: `Invalid` for an option.
pub fn internal_client(deps: Deps) -> Result<Arc<dyn HttpService>> {
    let (proxy, deps) = app(deps);
    let env = deps.env.clone();
    let next = assemble(deps, &proxy, |assembly, proxy| assembly.build_internal(proxy))?;
    Ok(Arc::new(Internal { next, env }))
}

/// The application behind all layers, with which they share their cache.
fn app(mut deps: Deps) -> (Arc<Proxy>, Deps) {
    let cache = deps.cache.take().unwrap_or_else(|| Arc::new(MemoryCache::new(deps.env.clone())));
    let proxy = Proxy::new(ProxyDeps {
        rings: deps.rings.clone(),
        nodes: deps.nodes.clone(),
        swift: deps.swift.clone(),
        env: deps.env.clone(),
        options: deps.options.proxy.clone(),
        cache: Some(cache.clone()),
    });
    (proxy, Deps { cache: Some(cache), ..deps })
}

type Build = fn(Assembly<'_>, Arc<dyn HttpService>) -> Result<Arc<dyn HttpService>>;

fn assemble(deps: Deps, proxy: &Arc<Proxy>, build: Build) -> Result<Arc<dyn HttpService>> {
    let Deps { env, rings, swift, cache, validator, options, before_auth, .. } = deps;
    let cache = cache.unwrap_or_else(|| Arc::new(MemoryCache::new(env.clone())));
    let order = options.order.clone().unwrap_or_else(|| Filter::ALL.to_vec());
    let users = options.tempauth.clone().filter(|_| order.contains(&Filter::TempAuth));
    let tempauth = users.map(|t| Arc::new(TempAuth::new(t, env.clone(), cache.clone())));
    let mut around = Around { env, info: proxy.clone(), cache, swift, tempauth, sections: Map::new() };
    around.sections.insert("swift".into(), options.swift_section(&around.swift));
    build(Assembly::new(&options, &mut around, &order, rings, validator, before_auth), proxy.clone())
}
