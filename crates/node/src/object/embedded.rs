//! The store that `caelum up` serves with nothing configured: one node whose account, container and object servers
//! run in this process, its data below the data directory.
//!
//! What is durable: the devices' directories, in Swift's own layout, and the secrets that names are hashed with.
//! The rings are computed, the same at each start: a device's place depends on its name alone, so that a device more
//! moves no more data than it gets.

use super::daemons::{Daemons, Parts};
use super::keys::IdentityKeys;
use crate::{DataDir, Settings};
use caelum_base::{Env, Error, Result, Secret};
use caelum_broker::Pool;
use caelum_diskfile::Manager;
use caelum_object::auth::TempAuthOptions;
use caelum_object::middleware::digest::AllowedDigests;
use caelum_object::pipeline::{self, BeforeAuth, Options};
use caelum_objserver::object::{ObjectServer, ObjectServerConfig};
use caelum_objserver::{AccountServer, AccountServerConfig, ContainerServer};
use caelum_rest::{HttpService, OpInfo, Server, ServerHandle};
use caelum_ring::{Device, Ring, Rings};
use caelum_s3::{AnyCredentials, KeystoneCredentials, S3Credentials, S3Deps, S3Layer, S3Options};
use caelum_swiftkit::{HashPath, Nodes, Policies, StoragePolicy, SwiftConf};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Partitions of the embedded rings: 2^10. It must never change, as data lies in directories named by partition.
const PART_POWER: u32 = 10;
/// Copies at most.
const MAX_REPLICAS: usize = 3;
/// Under these the rings name the servers of this process; nothing listens there.
const IP: &str = "127.0.0.1";
const OBJECT_PORT: u16 = 6200;
const CONTAINER_PORT: u16 = 6201;
const ACCOUNT_PORT: u16 = 6202;

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
        let swift =
            Arc::new(SwiftConf { hash: hash_path(&settings.data, env)?, policies: policies(settings.config.list("object.policies"))? });
        let rings = rings(&devices, &swift.policies);
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
            before_auth: Some(s3(identity.keys(), &options)),
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
fn s3(keys: Arc<caelum_identity::Keys>, o: &Options) -> BeforeAuth {
    let keystone = KeystoneCredentials {
        keys: Arc::new(IdentityKeys(keys)),
        resellers: o.keystone.resellers.clone(),
        reseller_admin_role: o.keystone.reseller_admin_role.clone(),
    };
    let is_encrypted = o.keymaster.is_some() && !o.disable_encryption;
    // Any region's name will do: it is part of what clients sign.
    s3_layer(vec![Arc::new(keystone)], S3Options { region: String::new(), is_encrypted, ..S3Options::default() })
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

fn make_dir(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::unavailable(format!("cannot create {}: {e}", path.display())))
}

/// Makes the devices' directories and gives their names. A directory given by option appears as a link whose name
/// stays the same whatever other directories are given later.
fn prepare(root: &Path, wanted: &[String]) -> Result<Vec<String>> {
    make_dir(root)?;
    if wanted.is_empty() {
        make_dir(&root.join("d0"))?;
        return Ok(vec!["d0".into()]);
    }
    let mut names = Vec::new();
    for text in wanted {
        let target = PathBuf::from(text);
        if !target.is_absolute() {
            return Err(Error::invalid(format!("object.devices: {text} is not an absolute path")));
        }
        make_dir(&target)?;
        let name = device_name(root, &target)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The name that a directory has had from its first day on.
fn device_name(root: &Path, target: &Path) -> Result<String> {
    for n in 1..=10_000 {
        let link = root.join(format!("d{n}"));
        match std::fs::read_link(&link) {
            Ok(to) if to == target => return Ok(format!("d{n}")),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::os::unix::fs::symlink(target, &link)
                    .map_err(|e| Error::unavailable(format!("cannot create {}: {e}", link.display())))?;
                return Ok(format!("d{n}"));
            }
            Err(e) => return Err(Error::unavailable(format!("cannot read {}: {e}", link.display()))),
        }
    }
    Err(Error::invalid("object.devices: too many directories"))
}

/// How much a device wants a partition. Devices are ranked by it, so that one more takes over an even share of the
/// partitions and the others keep theirs.
fn wants(device: &str, partition: u32) -> u64 {
    let hash = caelum_swiftkit::md5_hex(format!("{device}/{partition}").as_bytes());
    u64::from_str_radix(&hash[..16], 16).unwrap_or(0)
}

fn ring(names: &[String], port: u16) -> Ring {
    let device = |(id, name): (usize, &String)| {
        Some(Device {
            id: u32::try_from(id).unwrap_or(0),
            region: 1,
            zone: 1,
            ip: IP.into(),
            port,
            replication_ip: IP.into(),
            replication_port: port,
            device: name.clone(),
            weight: 100.0,
            meta: String::new(),
        })
    };
    let replicas = names.len().min(MAX_REPLICAS);
    let mut rows = vec![Vec::with_capacity(1 << PART_POWER); replicas];
    for partition in 0..1u32 << PART_POWER {
        let mut ids: Vec<usize> = (0..names.len()).collect();
        ids.sort_by_key(|i| std::cmp::Reverse((wants(&names[*i], partition), names[*i].clone())));
        for (row, id) in rows.iter_mut().zip(ids) {
            row.push(u32::try_from(id).unwrap_or(0));
        }
    }
    Ring::new(names.iter().enumerate().map(device).collect(), rows, PART_POWER)
}

fn rings(names: &[String], policies: &Policies) -> Rings {
    let objects = policies.iter().map(|p| (p.index, ring(names, OBJECT_PORT))).collect();
    Rings::fixed(ring(names, ACCOUNT_PORT), ring(names, CONTAINER_PORT), objects)
}

/// A policy's number is its place in the list: data lies under it.
fn policies(names: &[String]) -> Result<Policies> {
    let policy = |(i, name): (usize, &String)| StoragePolicy {
        index: u32::try_from(i).unwrap_or(0),
        name: name.clone(),
        is_default: i == 0,
        ..StoragePolicy::zero()
    };
    Policies::new(names.iter().enumerate().map(policy).collect())
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
    config.recon_cache = root.join("recon");
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
    o.formpost_digests = AllowedDigests::parse("sha1 sha256 sha512")?;
    o.sync_realms = Some(settings.data.join(REALMS));
    o.sync_realms_only = true;
    // As many as an S3 upload may have.
    o.slo.max_manifest_segments = 10_000;
    // The servers are in this process: there is no network to lose an answer on, only a slow disk.
    o.proxy.node_timeout = Duration::from_secs(60);
    o.proxy.recoverable_node_timeout = Duration::from_secs(60);
    Ok(o)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("d{i}")).collect()
    }

    #[test]
    fn rings_are_even_and_change_little() {
        let (three, four) = (ring(&names(3), 1), ring(&names(4), 1));
        assert_eq!((three.replica_count(), four.replica_count(), ring(&names(1), 1).replica_count()), (3, 3, 1));
        let mut count = [0usize; 4];
        let mut moved = 0;
        for p in 0..four.partition_count() {
            let now: Vec<u32> = four.primaries(p).iter().map(|d| d.id).collect();
            assert_eq!(now.len(), 3);
            now.iter().for_each(|id| count[*id as usize] += 1);
            moved += now.iter().filter(|id| **id == 3).count();
        }
        assert!(count.iter().all(|c| (690..850).contains(c)), "{count:?}");
        // Nothing moves but to the new device.
        assert_eq!(moved, count[3]);
        assert_eq!(ring(&names(3), 1).replica2part2dev, three.replica2part2dev);
    }

    #[test]
    fn devices_keep_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (root, a, b) = (dir.path().join("objects"), dir.path().join("a"), dir.path().join("b"));
        let text = |p: &Path| p.display().to_string();
        assert_eq!(prepare(&root, &[]).unwrap(), ["d0"]);
        assert_eq!(prepare(&root, &[text(&a), text(&b)]).unwrap(), ["d1", "d2"]);
        assert_eq!(prepare(&root, &[text(&b)]).unwrap(), ["d2"]);
        assert_eq!(prepare(&root, &[text(&dir.path().join("c")), text(&b)]).unwrap(), ["d2", "d3"]);
        assert!(prepare(&root, &["relative".into()]).is_err());
    }

    #[test]
    fn named_policies() {
        let p = policies(&["gold".into(), "silver".into()]).unwrap();
        assert_eq!((p.default_policy().name.as_str(), p.by_name("Silver").unwrap().index), ("gold", 1));
        assert!(policies(&["a".into(), "a".into()]).is_err());
        assert_eq!(policies(&[]).unwrap().default_policy().name, "Policy-0");
        assert!(rings(&names(1), &p).object(1).is_some());
    }

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
