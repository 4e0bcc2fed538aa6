//! Compute host over libvirt and QEMU.
//!
//! The truth about a guest is what libvirt says now plus the guest's directory; this process remembers
//! nothing that matters. `spec.json` in the directory marks a spawn whose files are complete; the definition lives in libvirt. A crash
//! between the two is repaired by repeating the call: files are made anew without the mark, kept with it.
//! Calls about one guest run one after the other, except that nobody waits behind a graceful shutdown or a slow unplug: delete always wins.

mod attach;
mod conn;
mod daemon;
mod error;
mod facts;
mod power;
mod probe;
mod rpc;
mod watch;
mod xdr;
pub(crate) mod xml;
mod xml_read;

use crate::disk::{Base, Disks};
use crate::{
    GuestEvent, GuestObserved, GuestSpec, HostInfo, Hypervisor, ImageSource, Nic, PowerAction, PowerState, RootDisk, VncEndpoint,
    VolumeDisk,
};
use async_trait::async_trait;
use caelum_base::{Env, Error, Result};
use caelum_safeio::inspect::Format;
use caelum_safeio::qemuimg;
use conn::{Conn, Domain};
use daemon::DaemonConfig;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// Where the host keeps its files and which daemon it uses.
#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    /// Holds `instances/` and `libvirt/`.
    pub data_dir: PathBuf,
    /// Name of the host in the cloud; the machine's own when absent.
    pub hostname: Option<String>,
    /// Socket of a daemon somebody else runs; our own is used when absent.
    pub socket: Option<PathBuf>,
    /// How long a guest may take to let go of a device, all tries together.
    pub detach_limit: Duration,
}

impl LibvirtConfig {
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, hostname: None, socket: None, detach_limit: Duration::from_secs(30) }
    }
}

/// A compute host whose guests are libvirt domains.
pub struct LibvirtHost {
    inner: Arc<Inner>,
    watcher: tokio::task::JoinHandle<()>,
}

struct Inner {
    config: LibvirtConfig,
    daemon: DaemonConfig,
    env: Env,
    conn: Conn,
    disks: Disks,
    facts: xml::HostFacts,
    hostname: String,
    events: broadcast::Sender<GuestEvent>,
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    cpu_info: tokio::sync::OnceCell<serde_json::Value>,
    busy: Mutex<HashMap<String, Busy>>,
}

impl Drop for LibvirtHost {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl LibvirtHost {
    /// Finds out what the host can do, finds or starts the daemon and connects. The first start on a
    /// machine takes a few seconds because libvirt asks QEMU what it can do.
    pub async fn open(config: LibvirtConfig, env: Env) -> Result<Self> {
        let dir = config.data_dir.join("libvirt");
        tokio::fs::create_dir_all(&dir).await.map_err(|e| Error::unavailable("The data directory cannot be made.").caused_by(e))?;
        // libvirt and QEMU have other working directories.
        let data_dir = tokio::fs::canonicalize(&config.data_dir).await.map_err(|e| Error::internal("no data directory").caused_by(e))?;
        let config = LibvirtConfig { data_dir, ..config };
        let dir = config.data_dir.join("libvirt");
        let disks = Disks::open(config.data_dir.join("instances"), env.clone())?;
        let kvm = probe::kvm_works(&dir).await?;
        let daemon_config = DaemonConfig { dir, socket: config.socket.clone(), hide_kvm: !kvm };
        let daemon = daemon::ensure(&daemon_config, &env).await?;
        let facts = xml::HostFacts { kvm, cpu_tuning: facts::cpu_tuning(), direct_io: disks.direct_io() };
        tracing::info!(?facts, socket = %daemon.socket.display(), own = daemon.own, "compute host is ready");
        let conn = Conn { client: rpc::Client::new(daemon.socket, "qemu:///system", watch::EVENT_IDS) };
        let hostname = match &config.hostname {
            Some(h) => h.clone(),
            None => facts::hostname(),
        };
        let (events, _) = broadcast::channel(4096);
        let inner = Arc::new(Inner {
            config,
            daemon: daemon_config,
            env,
            conn,
            disks,
            facts,
            hostname,
            events,
            locks: Mutex::default(),
            cpu_info: tokio::sync::OnceCell::new(),
            busy: Mutex::default(),
        });
        inner.conn.hypervisor_version().await?;
        let watcher = tokio::spawn(watch::run(inner.clone()));
        Ok(Self { inner, watcher })
    }

    /// `kvm` or `qemu`.
    pub fn virt_type(&self) -> &'static str {
        if self.inner.facts.kvm { "kvm" } else { "qemu" }
    }

    /// Removes every guest of ours, then ends our own daemon. For `caelum down --wipe` only.
    pub async fn wipe(&self) -> Result<()> {
        for finding in self.audit(&HashSet::new(), true).await? {
            tracing::info!(finding, "wiped");
        }
        self.watcher.abort();
        if self.inner.config.socket.is_none() {
            daemon::stop(&self.inner.daemon.dir).await?;
            daemon::end_reaper(&self.inner.daemon.dir).await;
        }
        Ok(())
    }
}

/// Rounds of ending and forgetting a domain; one does unless a start is under way.
const REMOVE_TRIES: u32 = 4;

/// Work of ours that shows in a guest's state without being news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    /// Its QEMU is killed: that is no crash.
    Dying,
    /// Paused for a moment.
    Snapshot,
}

/// Marks a guest busy as long as it lives.
struct Mark<'a> {
    inner: &'a Inner,
    id: &'a str,
}

impl<'a> Mark<'a> {
    fn new(inner: &'a Inner, id: &'a str, busy: Busy) -> Self {
        inner.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), busy);
        Self { inner, id }
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}

fn absent(id: &str) -> Error {
    Error::not_found(format!("Instance {id} could not be found on this host."))
}

impl Inner {
    /// The lock of one guest; held while its definition or files change.
    fn lock(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, w| w.strong_count() > 0);
        if let Some(l) = locks.get(id).and_then(Weak::upgrade) {
            return l;
        }
        let l = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(id.to_owned(), Arc::downgrade(&l));
        l
    }

    async fn domain(&self, id: &str) -> Result<Domain> {
        self.conn.lookup(id).await?.ok_or_else(|| absent(id))
    }

    async fn define(&self, spec: &GuestSpec) -> Result<Domain> {
        let xml = xml::domain(spec, &self.disks.paths(&spec.id)?, &self.facts)?;
        self.conn.define(&xml).await
    }

    /// What changes the host runs to its end even when the caller goes away: a delete that comes then
    /// waits for the lock and finds everything there is.
    async fn spawn(self: Arc<Self>, spec: &GuestSpec, images: &dyn ImageSource) -> Result<()> {
        // Checked before anything is made: a spec no host can run leaves nothing behind.
        xml::domain(spec, &self.disks.paths(&spec.id)?, &self.facts)?;
        // Fetched without the lock: a delete does not wait for an image.
        let mut base = None;
        if self.disks.stored_spec(&spec.id)?.is_none() {
            base = self.disks.base(&spec.root, images).await?;
        }
        let held = self.lock(&spec.id).lock_owned().await;
        if base.is_none() && self.disks.stored_spec(&spec.id)?.is_none() {
            base = self.disks.base(&spec.root, images).await?;
        }
        let spec = spec.clone();
        let work = tokio::spawn(async move {
            let _held = held;
            self.spawn_locked(&spec, base).await
        });
        work.await.map_err(|e| Error::internal("the spawn broke off").caused_by(e))?
    }

    async fn spawn_locked(&self, spec: &GuestSpec, base: Option<Base>) -> Result<()> {
        match self.disks.stored_spec(&spec.id)? {
            Some(stored) if stored == *spec => match self.conn.lookup(&spec.id).await? {
                Some(domain) if spec.running => self.start(&domain).await,
                Some(_) => Ok(()),
                None => self.apply(spec).await,
            },
            // It existed before, so its disks stay even when it cannot be started now.
            Some(_) => self.apply(spec).await,
            None => self.spawn_new(spec, base).await,
        }
    }

    /// Makes a guest that was not there; on error nothing of it is left.
    async fn spawn_new(&self, spec: &GuestSpec, base: Option<Base>) -> Result<()> {
        let made = async {
            self.remove_domain(&spec.id).await?;
            self.disks.make(spec, base).await?;
            let domain = self.define(spec).await?;
            if spec.running { self.conn.create(&domain).await } else { Ok(()) }
        };
        let Err(e) = made.await else { return Ok(()) };
        tracing::warn!(guest = spec.id, error = %e.chain(), "spawn failed, its parts are removed");
        let removed = match self.remove_domain(&spec.id).await {
            Ok(()) => self.disks.remove(&spec.id).await,
            Err(e) => Err(e),
        };
        if let Err(e) = removed {
            tracing::error!(guest = spec.id, error = %e.chain(), "parts of a failed spawn are left for the audit");
        }
        Err(e)
    }

    /// Defines the guest as described over its existing files and gives it its power state.
    async fn apply(&self, spec: &GuestSpec) -> Result<()> {
        if let Some(domain) = self.conn.lookup(&spec.id).await? {
            self.force_off(&domain).await?;
        }
        self.disks.refresh(spec).await?;
        let domain = self.define(spec).await?;
        if spec.running { self.conn.create(&domain).await } else { Ok(()) }
    }

    /// Ends and forgets the domain; its files stay.
    async fn remove_domain(&self, id: &str) -> Result<()> {
        let gone = |e: &Error| e.is_conflict() || e.is_not_found();
        for _ in 0..REMOVE_TRIES {
            let Some(domain) = self.conn.lookup(id).await? else { return Ok(()) };
            self.force_off(&domain).await?;
            // A start that a process asked for before it died may be under way and not show yet;
            // undefined in that moment the domain would run on without a definition.
            match self.conn.destroy(&domain).await {
                Err(e) if !gone(&e) => return Err(e),
                _ => {}
            }
            match self.conn.undefine(&domain).await {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => {}
            }
        }
        match self.conn.lookup(id).await? {
            None => Ok(()),
            Some(_) => Err(Error::unavailable(format!("Instance {id} does not go away."))),
        }
    }

    async fn destroy(&self, id: &str) -> Result<()> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let _mark = Mark::new(self, id, Busy::Dying);
        if let Some(domain) = self.conn.lookup(id).await? {
            self.kill_without_flush(&domain).await?;
        }
        self.remove_domain(id).await?;
        self.disks.remove(id).await
    }

    /// Kills QEMU at once where all its disks are about to be removed anyway: ended politely it first writes
    /// its caches to the disk, which takes seconds on a busy host. Guests with volumes end politely.
    async fn kill_without_flush(&self, domain: &Domain) -> Result<()> {
        if self.config.socket.is_some() || !xml_read::ours(&self.conn.xml(domain, false).await?, "vol").is_empty() {
            return Ok(());
        }
        let pid_file = self.daemon.dir.join("run/qemu").join(format!("{}.pid", domain.name));
        let Some(pid) = tokio::fs::read_to_string(pid_file).await.ok().and_then(|t| t.trim().parse::<i32>().ok()) else {
            return Ok(());
        };
        let command = tokio::fs::read(format!("/proc/{pid}/cmdline")).await.unwrap_or_default();
        if pid > 1 && String::from_utf8_lossy(&command).contains(&domain.guest_id()) {
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        Ok(())
    }

    async fn observe(&self, domain: &Domain) -> Result<GuestObserved> {
        let power = self.power_state(domain).await?;
        let xml = self.conn.xml(domain, false).await?;
        let ids = |kind| xml_read::ours(&xml, kind).into_iter().map(|d| d.id).collect();
        Ok(GuestObserved { id: domain.guest_id(), domain: domain.name.clone(), power, volume_ids: ids("vol"), port_ids: ids("nic") })
    }

    /// Domains of ours: those with a directory, and those whose metadata says so.
    async fn our_domains(&self) -> Result<Vec<Domain>> {
        let dirs: HashSet<String> = self.disks.guests()?.into_iter().collect();
        let mut out = Vec::new();
        for domain in self.conn.list_all().await? {
            if dirs.contains(&domain.guest_id()) || self.conn.xml(&domain, false).await.is_ok_and(|x| x.contains(xml::NAMESPACE)) {
                out.push(domain);
            }
        }
        Ok(out)
    }

    async fn list(&self) -> Result<Vec<GuestObserved>> {
        let mut out = Vec::new();
        for domain in self.our_domains().await? {
            match self.observe(&domain).await {
                Ok(g) => out.push(g),
                // It went away while we looked.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    async fn snapshot(&self, id: &str) -> Result<PathBuf> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        let domain = self.domain(id).await?;
        let spec = self.disks.stored_spec(id)?.ok_or_else(|| absent(id))?;
        if matches!(spec.root, RootDisk::Volume) {
            return Err(Error::invalid("The server's root disk is a volume."));
        }
        let disk = self.disks.paths(id)?.root();
        let copy = self.disks.scratch(".overlay")?;
        // QEMU writes its caches into the file when it pauses. Only the overlay has to be copied
        // meanwhile: what it stands on never changes.
        let _mark = Mark::new(self, id, Busy::Snapshot);
        let running = self.conn.state(&domain).await?.0 == conn::state::RUNNING;
        if running {
            self.conn.suspend(&domain).await?;
        }
        let copied = tokio::fs::copy(&disk, &copy).await;
        if running {
            self.conn.resume(&domain).await?;
        }
        let target = self.disks.scratch(".qcow2")?;
        let done = match copied {
            Ok(_) => qemuimg::convert(&copy, Format::Qcow2, &target, Format::Qcow2, &[], qemuimg::Limits::BULK).await,
            Err(e) => Err(Error::internal("cannot copy the root disk").caused_by(e)),
        };
        let _ = tokio::fs::remove_file(&copy).await;
        if let Err(e) = done {
            let _ = tokio::fs::remove_file(&target).await;
            return Err(e);
        }
        Ok(target)
    }

    async fn vnc(&self, id: &str) -> Result<VncEndpoint> {
        let domain = self.domain(id).await?;
        let xml = self.conn.xml(&domain, false).await?;
        if let Some(path) = xml_read::attribute(&xml, "graphics", "socket") {
            if std::path::Path::new(path).exists() {
                return Ok(VncEndpoint::Unix { path: path.into() });
            }
        } else if let Some(port) = xml_read::attribute(&xml, "graphics", "port").and_then(|p| p.parse().ok()) {
            return Ok(VncEndpoint::Tcp { host: "127.0.0.1".to_owned(), port });
        }
        Err(Error::conflict(format!("Instance {id} is not running.")))
    }

    async fn audit(&self, known: &HashSet<String>, heal: bool) -> Result<Vec<String>> {
        if heal {
            self.disks.sweep()?;
        }
        let domains: HashSet<String> = self.our_domains().await?.iter().map(Domain::guest_id).collect();
        let dirs: HashSet<String> = self.disks.guests()?.into_iter().collect();
        let mut all: Vec<&String> = domains.union(&dirs).filter(|id| !known.contains(*id)).collect();
        all.sort();
        let mut out = Vec::new();
        for id in all {
            out.push(match (domains.contains(id), dirs.contains(id)) {
                (true, true) => format!("guest {id}: nobody knows it"),
                (true, false) => format!("domain {id}: nobody knows it, and it has no files"),
                _ => format!("files of guest {id}: nobody knows it"),
            });
            if heal {
                self.destroy(id).await?;
            }
        }
        Ok(out)
    }
}

#[async_trait]
impl Hypervisor for LibvirtHost {
    async fn host(&self) -> Result<HostInfo> {
        self.inner.host_info().await
    }

    async fn spawn(&self, spec: &GuestSpec, images: &dyn ImageSource) -> Result<()> {
        self.inner.clone().spawn(spec, images).await
    }

    async fn destroy(&self, guest_id: &str) -> Result<()> {
        self.inner.destroy(guest_id).await
    }

    async fn power(&self, guest_id: &str, action: PowerAction) -> Result<()> {
        self.inner.power(guest_id, action).await
    }

    async fn redefine(&self, spec: &GuestSpec) -> Result<()> {
        xml::domain(spec, &self.inner.disks.paths(&spec.id)?, &self.inner.facts)?;
        let lock = self.inner.lock(&spec.id);
        let _held = lock.lock().await;
        self.inner.disks.stored_spec(&spec.id)?.ok_or_else(|| absent(&spec.id))?;
        self.inner.apply(spec).await
    }

    async fn attach_volume(&self, guest_id: &str, disk: &VolumeDisk) -> Result<String> {
        self.inner.attach_volume(guest_id, disk).await
    }

    async fn detach_volume(&self, guest_id: &str, volume_id: &str) -> Result<()> {
        self.inner.detach(guest_id, "vol", volume_id).await
    }

    async fn resize_volume(&self, guest_id: &str, volume_id: &str, size_bytes: u64) -> Result<()> {
        self.inner.resize_volume(guest_id, volume_id, size_bytes).await
    }

    async fn attach_nic(&self, guest_id: &str, nic: &Nic) -> Result<()> {
        self.inner.attach_nic(guest_id, nic).await
    }

    async fn detach_nic(&self, guest_id: &str, port_id: &str) -> Result<()> {
        self.inner.detach(guest_id, "nic", port_id).await
    }

    async fn console_log(&self, guest_id: &str, max_bytes: u64) -> Result<Vec<u8>> {
        self.inner.console_log(guest_id, max_bytes).await
    }

    async fn vnc(&self, guest_id: &str) -> Result<VncEndpoint> {
        self.inner.vnc(guest_id).await
    }

    async fn snapshot_root(&self, guest_id: &str) -> Result<PathBuf> {
        self.inner.snapshot(guest_id).await
    }

    async fn list(&self) -> Result<Vec<GuestObserved>> {
        self.inner.list().await
    }

    async fn get(&self, guest_id: &str) -> Result<Option<GuestObserved>> {
        let Some(domain) = self.inner.conn.lookup(guest_id).await? else { return Ok(None) };
        match self.inner.observe(&domain).await {
            Ok(g) => Ok(Some(g)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.inner.events.subscribe()
    }

    async fn audit(&self, known: &HashSet<String>, heal: bool) -> Result<Vec<String>> {
        self.inner.audit(known, heal).await
    }
}
