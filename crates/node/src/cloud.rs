//! The services of one process and how they know each other.

use crate::hosts::{self, Host};
use crate::object::ObjectStore;
use crate::{DataDir, Settings};
use caelum_base::{Env, Error, Result, Secret};
use caelum_client::{Locals, ServiceClient};
use caelum_identity::{Bootstrap, BootstrapService, ServiceUser};
use caelum_network::PublicNetwork;
use caelum_rest::{Front, HttpService, OpInfo, Server, ServerHandle, TokenValidator};
use caelum_store::StoreUrl;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Service type, code name, path of the front door, path of the API below it, other types in the catalog.
const SERVICES: &[(&str, &str, &str, &str, &[&str])] = &[
    ("identity", "keystone", "/identity", "", &[]),
    ("image", "glance", "/image", "", &[]),
    ("placement", "placement", "/placement", "", &[]),
    ("compute", "nova", "/compute", "/v2.1", &[]),
    ("network", "neutron", "/network", "", &[]),
    ("block-storage", "cinder", "/volume", "/v3", &["volumev3"]),
    ("object-store", "swift", "/object", "/v1/AUTH_$(project_id)s", &[]),
];

/// Running services.
pub struct Cloud {
    front: Arc<dyn HttpService>,
    host: Host,
    identity: caelum_identity::Service,
    image: caelum_image::Service,
    placement: caelum_placement::Service,
    network: caelum_network::Service,
    block: caelum_block::Service,
    object: ObjectStore,
    compute: caelum_compute::Service,
    metadata: ServerHandle,
    locals: Arc<Locals>,
}

/// Makes clients of the services for each other.
struct Peers<'a> {
    locals: Arc<Locals>,
    identity: &'a caelum_identity::Service,
    url: &'a str,
}

impl Peers<'_> {
    /// A client of `kind` that acts as the service user `user`.
    fn client(&self, kind: &'static str, user: &str) -> ServiceClient {
        let path = SERVICES.iter().find(|s| s.0 == kind).map_or("", |s| s.2);
        ServiceClient::new(kind, self.locals.transport(kind, format!("{}{path}", self.url)), self.identity.token_source(user))
    }
}

/// What every service is given.
struct Common {
    env: Env,
    store: StoreUrl,
    validator: Arc<dyn TokenValidator>,
    auth_url: String,
    data: DataDir,
    /// Name of this host; flows are owned under it.
    node: String,
}

fn store_url(settings: &Settings) -> Result<StoreUrl> {
    let text = settings.config.secret("store.url").expose();
    if text.is_empty() { Ok(StoreUrl::SqliteDir(settings.data.join("db"))) } else { StoreUrl::parse(text) }
}

impl Cloud {
    /// Starts every service; `url` is the front door's.
    pub async fn start(settings: &Settings, env: Env, url: &str, progress: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let data = settings.data.clone();
        let store = store_url(settings)?;
        let identity = start_identity(settings, &env, store.clone(), url).await?;
        progress("identity");
        let metadata = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let metadata_secret = data.secret("metadata-proxy", &env)?;
        let host = hosts::open(settings, &env, metadata.addr()?, metadata_secret.clone()).await?;
        progress(&format!("host {} with {}", host.name, host.driver));
        let locals = Arc::new(Locals::default());
        locals.set("identity", identity.api());
        let peers = Peers { locals: locals.clone(), identity: &identity, url };
        let common = Common {
            env: env.clone(),
            store,
            validator: identity.validator(),
            auth_url: format!("{url}/identity/v3"),
            data,
            node: host.name.clone(),
        };
        let placement = start_placement(&common).await?;
        locals.set("placement", placement.api());
        let image = start_image(&common, settings).await?;
        locals.set("image", image.api());
        let network = start_network(&common, &peers, settings, &host).await?;
        locals.set("network", network.api());
        let block = start_block(&common, &peers).await?;
        locals.set("block-storage", block.api());
        let object = ObjectStore::start(settings, &env, &identity).await?;
        locals.set("object-store", object.api());
        let compute = start_compute(&common, &peers, settings, &host, metadata_secret, url).await?;
        locals.set("compute", compute.api());
        progress("image, placement, network, block storage, object storage, compute");
        let metadata = metadata.start(compute.metadata())?;
        let front = front(url, &locals, identity.api(), compute.console());
        Ok(Self { front, host, identity, image, placement, network, block, object, compute, metadata, locals })
    }

    pub fn front(&self) -> Arc<dyn HttpService> {
        self.front.clone()
    }

    pub fn driver(&self) -> &str {
        &self.host.driver
    }

    /// Ends background work, users of a service before the service.
    pub async fn stop(&self) {
        self.metadata.halt();
        self.compute.stop().await;
        self.block.stop().await;
        self.object.stop().await;
        self.network.stop().await;
        self.image.stop().await;
        self.identity.stop().await;
    }

    /// Everything leaked or stuck.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        // Compute first: what it ends or gives back, the others look at afterwards.
        let mut out = self.compute.audit(heal).await?;
        out.extend(self.block.audit(heal).await?);
        out.extend(self.network.audit(heal).await?);
        out.extend(self.image.audit(heal).await?);
        out.extend(self.placement.audit(heal).await?);
        Ok(out)
    }

    /// Each service's version document through its own router.
    pub async fn check(&self) -> Vec<Value> {
        let mut out = Vec::new();
        for (kind, ..) in SERVICES {
            let transport = self.locals.transport(kind, "");
            let req = http::Request::get("/").body(caelum_rest::empty());
            let (ok, detail) = match req {
                Ok(req) => match transport.send(req).await {
                    Ok(r) if !r.status().is_server_error() => (true, "answers".to_string()),
                    Ok(r) => (false, format!("answers {}", r.status())),
                    Err(e) => (false, e.message),
                },
                Err(e) => (false, e.to_string()),
            };
            out.push(json!({"name": kind, "ok": ok, "detail": detail}));
        }
        let detail = match self.host.hypervisor.host().await {
            Ok(h) => (true, format!("{} ({}), {} vCPUs, {} MiB", h.hostname, h.virt_type, h.vcpus, h.memory_mib)),
            Err(e) => (false, e.message),
        };
        out.push(json!({"name": "hypervisor", "ok": detail.0, "detail": detail.1}));
        out
    }

    /// What happened to a resource, oldest first.
    pub async fn why(&self, id: &str) -> Result<Vec<String>> {
        for lines in [self.compute.why(id).await?, self.block.why(id).await?] {
            if !lines.is_empty() {
                return Ok(lines);
            }
        }
        Err(Error::not_found(format!("nothing is known of {id}")))
    }

    /// Every operation of every service.
    pub fn operations(&self) -> Vec<OpInfo> {
        let all = [
            self.identity.operations(),
            self.image.operations(),
            self.placement.operations(),
            self.network.operations(),
            self.block.operations(),
            self.object.operations(),
            self.compute.operations(),
        ];
        all.into_iter().flatten().collect()
    }
}

fn front(url: &str, locals: &Arc<Locals>, identity: Arc<dyn HttpService>, console: Arc<dyn HttpService>) -> Arc<dyn HttpService> {
    let mut front = Front::new().alias("/v3", identity).mount("/vnc", console);
    for (kind, _, path, ..) in SERVICES {
        front = front.mount(path, locals.service(kind, format!("{url}{path}")));
    }
    Arc::new(front)
}

async fn start_identity(settings: &Settings, env: &Env, store: StoreUrl, url: &str) -> Result<caelum_identity::Service> {
    let data = &settings.data;
    let mut deps = caelum_identity::Deps::new(env.clone(), store, format!("{url}/identity"), data.join("keys"));
    deps.bcrypt_cost = u32::try_from(settings.config.int("identity.bcrypt_rounds")).unwrap_or(12);
    deps.token_ttl = settings.config.duration("identity.token_expiration");
    deps.policy = data.policy("identity")?;
    let identity = caelum_identity::start(deps).await?;
    let admin = data.secret("admin-password", env)?;
    let demo = data.secret("demo-password", env)?;
    let region = settings.config.str("region.name");
    let mut services = Vec::new();
    for (kind, name, path, api, aliases) in SERVICES {
        for kind in std::iter::once(kind).chain(*aliases) {
            let url = if *kind == "identity" { format!("{url}{path}/v3") } else { format!("{url}{path}{api}") };
            services.push(BootstrapService { kind: (*kind).to_string(), name: (*name).to_string(), url });
        }
    }
    let user = |name: &&str| ServiceUser { name: (*name).to_string(), password: None };
    let service_users = SERVICES.iter().skip(1).map(|(_, name, ..)| user(name)).collect();
    identity
        .bootstrap(Bootstrap {
            admin_password: admin.clone(),
            demo_password: Some(demo.clone()),
            region: region.to_string(),
            services,
            service_users,
        })
        .await?;
    let auth_url = format!("{url}/identity/v3");
    data.write("clouds.yaml", &crate::paths::clouds_yaml(&auth_url, region, &admin, &demo))?;
    data.write("openrc", &crate::paths::openrc(&auth_url, region, "demo", "demo", &demo))?;
    data.write("openrc-admin", &crate::paths::openrc(&auth_url, region, "admin", "admin", &admin))?;
    Ok(identity)
}

async fn start_placement(c: &Common) -> Result<caelum_placement::Service> {
    let deps = caelum_placement::Deps {
        env: c.env.clone(),
        store: c.store.clone(),
        validator: c.validator.clone(),
        policy: c.data.policy("placement")?,
        auth_url: c.auth_url.clone(),
    };
    caelum_placement::start(deps).await
}

async fn start_image(c: &Common, settings: &Settings) -> Result<caelum_image::Service> {
    let deps = caelum_image::Deps {
        env: c.env.clone(),
        store: c.store.clone(),
        validator: c.validator.clone(),
        policy: c.data.policy("image")?,
        auth_url: c.auth_url.clone(),
        dir: c.data.join("images"),
        max_size: settings.config.size("image.max_size"),
    };
    caelum_image::start(deps).await
}

async fn start_network(c: &Common, peers: &Peers<'_>, settings: &Settings, host: &Host) -> Result<caelum_network::Service> {
    let deps = caelum_network::Deps {
        env: c.env.clone(),
        store: c.store.clone(),
        validator: c.validator.clone(),
        policy: c.data.policy("network")?,
        auth_url: c.auth_url.clone(),
        compute: Some(peers.client("compute", "neutron")),
        hosts: vec![(host.name.clone(), host.plane.clone())],
        options: caelum_network::Options::default(),
    };
    let network = caelum_network::start(deps).await?;
    let projects: Value = peers.client("identity", "neutron").get("/v3/projects?name=admin&domain_id=default").fetch().await?;
    let admin = projects.pointer("/projects/0/id").and_then(Value::as_str).ok_or_else(|| Error::internal("the admin project is gone"))?;
    let (cidr, gateway) = hosts::public_range(settings)?;
    let public = PublicNetwork {
        project_id: admin.to_string(),
        name: hosts::PUBLIC.into(),
        physical_network: hosts::PUBLIC.into(),
        cidr,
        gateway,
        pool: None,
    };
    network.ensure_public_network(&public).await?;
    Ok(network)
}

async fn start_block(c: &Common, peers: &Peers<'_>) -> Result<caelum_block::Service> {
    let deps = caelum_block::Deps {
        env: c.env.clone(),
        store: c.store.clone(),
        validator: c.validator.clone(),
        policy: c.data.policy("block-storage")?,
        auth_url: c.auth_url.clone(),
        node: c.node.clone(),
        image: peers.client("image", "cinder"),
        compute: Some(peers.client("compute", "cinder")),
        dir: c.data.root().to_path_buf(),
        options: caelum_block::Options::default(),
    };
    caelum_block::start(deps).await
}

async fn start_compute(
    c: &Common,
    peers: &Peers<'_>,
    settings: &Settings,
    host: &Host,
    metadata_secret: Secret<String>,
    url: &str,
) -> Result<caelum_compute::Service> {
    let ratio = settings.config.int("compute.cpu_allocation_ratio");
    let config = caelum_compute::Config {
        // At most 64: exact.
        cpu_allocation_ratio: ratio as f64,
        console_url: format!("{url}/vnc/vnc_auto.html"),
        metadata_secret,
        ..caelum_compute::Config::default()
    };
    let deps = caelum_compute::Deps {
        env: c.env.clone(),
        store: c.store.clone(),
        validator: c.validator.clone(),
        policy: c.data.policy("compute")?,
        auth_url: c.auth_url.clone(),
        node: c.node.clone(),
        config,
        network: peers.client("network", "nova"),
        image: peers.client("image", "nova"),
        placement: peers.client("placement", "nova").microversion("placement 1.39"),
        block: Some(peers.client("block-storage", "nova").microversion("volume 3.71")),
        hosts: vec![(host.name.clone(), host.hypervisor.clone())],
    };
    caelum_compute::start(deps).await
}

/// Every operation of every service, from services started on a scratch directory.
pub async fn operations() -> Result<Vec<OpInfo>> {
    let dir = std::env::temp_dir().join(format!("caelum-operations-{}", std::process::id()));
    let schema = caelum_config::Schema::new(vec![crate::OPTIONS])?;
    let cli = [("hypervisor.driver", "sim"), ("identity.bcrypt_rounds", "4")].map(|(k, v)| (k.to_string(), v.to_string()));
    let config = schema.load(&caelum_config::Layers::new().cli(cli))?;
    let settings = Settings { data: DataDir::open(&dir)?, config };
    let cloud = Arc::new(Cloud::start(&settings, Env::system(), "http://127.0.0.1:5000", &|_| {}).await?);
    let out = cloud.operations();
    cloud.stop().await;
    // A scratch directory left behind harms nobody.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(out)
}
