//! The store that `caelum up` serves with nothing configured: one node whose account, container and object servers
//! run in this process, its data below the data directory.
//!
//! What is durable: the devices' directories, in Swift's own layout, the secrets that names are hashed with, and what
//! [`layout`] writes down.

use super::daemons::{Daemons, Parts};
use super::keys::IdentityKeys;
use super::layout::{self, ACCOUNT_PORT, CONTAINER_PORT, IP, OBJECT_PORT, prepare, rings};
use crate::{DataDir, Settings};
use caelum_base::{Env, Error, Result, Secret};
use caelum_broker::Pool;
use caelum_diskfile::Manager;
use caelum_object::auth::TempAuthOptions;
use caelum_object::pipeline::{self, BeforeAuth, Options};
use caelum_object::proxy::Sorting;
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer};
use caelum_rest::{HttpService, OpInfo, Server, ServerHandle};
use caelum_s3::{AnyCredentials, EventOptions, KeystoneCredentials, S3Credentials, S3Deps, S3Layer, S3Options};
use caelum_swiftkit::{HashPath, Nodes, SwiftConf};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The running store.
pub struct ObjectStore {
    service: pipeline::Service,
    listener: Option<ServerHandle>,
    daemons: Daemons,
}

impl ObjectStore {
    /// Starts the storage servers, the pipeline in front of them and the daemons behind them.
    pub async fn start(settings: &Settings, env: &Env, identity: &caelum_identity::Service) -> Result<Self> {
        let root = settings.data.join("objects");
        let wanted = settings.config.list("object.devices").to_vec();
        let devices = tokio::task::spawn_blocking({
            let root = root.clone();
            move || prepare(&root, &wanted)
        });
        let devices = devices.await.map_err(|e| Error::internal(format!("object devices: {e}")))??;
        let policies = layout::policies(settings.config.list("object.policies"))?;
        let rings = rings(&devices, &policies)?;
        layout::remember(&settings.data, &policies)?;
        let swift = Arc::new(SwiftConf { hash: hash_path(&settings.data, env)?, policies });
        let nodes = Nodes::default();
        let sync_realms = realms(&settings.data)?;
        let (disks, pool) = storage(&root, &swift, &nodes, env, &sync_realms);
        let options = options(settings)?;
        let service = pipeline::start(pipeline::Deps {
            env: env.clone(),
            rings: rings.clone(),
            nodes: nodes.clone(),
            swift: swift.clone(),
            cache: None,
            validator: Some(identity.validator()),
            before_auth: Some(s3(identity.keys(), &options, super::events::of_settings(settings)?)),
            options,
        })?;
        let daemons = Daemons::start(&Parts {
            devices: root,
            swift,
            rings,
            nodes,
            env: env.clone(),
            pool,
            disks,
            client: service.internal(),
            ip: IP.into(),
            account_port: ACCOUNT_PORT,
            container_port: CONTAINER_PORT,
            object_port: OBJECT_PORT,
            n_devices: devices.len(),
            sync_realms,
            // A tenant must not choose whom this host talks to.
            sync_hosts: Vec::new(),
        });
        let listener = match settings.config.str("object.listen") {
            "" => None,
            text => {
                let addr: SocketAddr =
                    text.parse().map_err(|_| Error::invalid("object.listen must be ADDRESS:PORT, for example 127.0.0.1:8080"))?;
                Some(Server::bind(addr).await?.start(service.api())?)
            }
        };
        Ok(Self { service, listener, daemons })
    }

    pub fn api(&self) -> Arc<dyn HttpService> {
        self.service.api()
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.service.operations()
    }

    /// Lets running requests finish on the store's own listener, then ends background work.
    pub async fn stop(&self) {
        if let Some(l) = &self.listener {
            l.halt();
        }
        self.daemons.stop().await;
    }
}

/// The S3 API with the identity service's access keys.
fn s3(keys: Arc<caelum_identity::Keys>, o: &Options, events: EventOptions) -> BeforeAuth {
    let keystone = KeystoneCredentials {
        keys: Arc::new(IdentityKeys(keys)),
        resellers: o.keystone.resellers.clone(),
        reseller_admin_role: o.keystone.reseller_admin_role.clone(),
    };
    let is_encrypted = o.keymaster.is_some() && !o.disable_encryption;
    // Any region's name will do: it is part of what clients sign.
    s3_layer(vec![Arc::new(keystone)], S3Options { region: String::new(), is_encrypted, events, ..S3Options::default() })
}

/// The S3 layer: signed requests anywhere, and everything below `/s3`. The users of tempauth may sign as well.
pub fn s3_layer(mut sources: Vec<Arc<dyn S3Credentials>>, mut options: S3Options) -> BeforeAuth {
    Box::new(move |next, around| {
        if let Some(t) = &around.tempauth {
            sources.push(t.clone());
        }
        options.policies = around.swift.policies.iter().map(|p| (p.index, p.name.clone())).collect();
        around.sections.insert(
            "s3api".into(),
            serde_json::json!({
                "max_bucket_listing": options.max_listing,
                "max_parts_listing": options.max_listing,
                "max_upload_part_num": options.max_parts,
                "max_multi_delete_objects": 1_000,
                "allow_multipart_uploads": true,
                "min_segment_size": options.min_part_size,
                "s3_acl": false,
            }),
        );
        let deps =
            S3Deps { env: around.env.clone(), credentials: Arc::new(AnyCredentials(sources)), info: Some(around.info.clone()), options };
        S3Layer::new(next, deps)
    })
}

/// The prefix and suffix that names are hashed with: without them nobody can tell where data lies, and without the
/// same ones nobody finds it again.
fn hash_path(data: &DataDir, env: &Env) -> Result<HashPath> {
    let part = |name: &str| data.secret(name, env).map(|s: Secret<String>| s.expose().clone().into_bytes());
    Ok(HashPath { prefix: part("object-hash-prefix")?, suffix: part("object-hash-suffix")? })
}

/// Where realms of container sync are written down, as in Swift.
const REALMS: &str = "container-sync-realms.conf";

fn realms(data: &DataDir) -> Result<String> {
    match std::fs::read_to_string(data.join(REALMS)) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::unavailable(format!("cannot read {}: {e}", data.join(REALMS).display()))),
    }
}

/// The three storage servers, reached without a socket. Gives what daemons share with them.
fn storage(root: &Path, swift: &Arc<SwiftConf>, nodes: &Nodes, env: &Env, realms: &str) -> (Arc<Manager>, Arc<Pool>) {
    let mut config = AccountServerConfig::new(root, (**swift).clone(), nodes.clone(), env.clone());
    config.sync_realms = realms.to_string();
    config.allowed_sync_hosts = Vec::new();
    let pool = config.pool.clone();
    nodes.set_local(IP, ACCOUNT_PORT, AccountServer::new(config.clone()).service());
    nodes.set_local(IP, CONTAINER_PORT, ContainerServer::new(config).service());
    let mut config = ObjectServerConfig::new(root, swift.clone(), nodes.clone(), env.clone());
    config.disk.mount_check = false;
    // Here the kernel knows best what to keep; upstream's few MiB are for clusters far larger than their memory.
    config.disk.keep_cache_size = 256 << 20;
    // The container is in this process: a client sees what it wrote in the listing, however busy the disk is.
    config.container_update_timeout = Duration::from_secs(10);
    let objects = ObjectServer::new(config);
    let disks = objects.disks();
    nodes.set_local(IP, OBJECT_PORT, objects);
    (disks, pool)
}

/// Users of tempauth, `account:user = key group …`, separated by semicolons.
fn tempauth(text: &str) -> Result<Option<TempAuthOptions>> {
    let mut options = Vec::new();
    for entry in text.split(';').map(str::trim).filter(|e| !e.is_empty()) {
        let invalid = || Error::invalid("object.tempauth_users: users are given as ACCOUNT:USER = KEY GROUP …, separated by semicolons");
        let (who, what) = entry.split_once('=').ok_or_else(invalid)?;
        let (account, user) = who.trim().split_once(':').ok_or_else(invalid)?;
        let coded = |t: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD_NO_PAD, t);
        options.push((format!("user64_{}_{}", coded(account), coded(user)), what.trim().to_string()));
    }
    if options.is_empty() { Ok(None) } else { TempAuthOptions::from_options(&options).map(Some) }
}

fn options(settings: &Settings) -> Result<Options> {
    let config = &settings.config;
    let mut o = Options { tempauth: tempauth(config.secret("object.tempauth_users").expose())?, ..Options::default() };
    o.proxy.allow_account_management = true;
    // Forms made by hand and by older tools are signed with HMAC-SHA-1, which nobody has broken.
    o.sync_realms = Some(settings.data.join(REALMS));
    o.sync_realms_only = true;
    // As many as an S3 upload may have.
    o.slo.max_manifest_segments = 10_000;
    // The servers are in this process: there is no network to lose an answer on, only a slow disk.
    o.proxy.node_timeout = Duration::from_secs(60);
    o.proxy.recoverable_node_timeout = Duration::from_secs(60);
    o.proxy.policy_defaults.sorting_method = Sorting::Ring;
    // A disk that is gone says so at once; one that is back is to be used at once.
    o.proxy.error_suppression_interval = Duration::from_secs(5);
    Ok(o)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        assert!(tempauth("").unwrap().is_none());
        let users = tempauth("test:tester = testing .admin; a_b:c = k").unwrap().unwrap().users;
        assert_eq!(users["test:tester"].groups, [".admin"]);
        assert_eq!(users["a_b:c"].key.expose(), "k");
        assert!(tempauth("nonsense").is_err());
        assert!(tempauth("a:b =").is_err());
    }
}
