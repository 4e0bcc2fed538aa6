//! libvirt's calls as typed functions. One function is one call of the wire protocol.

use super::rpc::{Client, OPEN_DEADLINE, procedure as p};
use super::xdr::{Reader, Writer};
use caelum_base::{Error, Result};
use std::time::Duration;

/// Deadline of calls that ask or change a definition.
const QUICK: Duration = Duration::from_secs(30);
/// Deadline of calls that start or end a QEMU process or save its memory.
const SLOW: Duration = Duration::from_secs(180);

/// A domain as the daemon names it. `id` is -1 when it is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    pub name: String,
    pub uuid: [u8; 16],
    pub id: i32,
}

impl Domain {
    pub fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { name: r.string()?, uuid: r.fixed()?, id: r.i32()? })
    }

    fn args(&self) -> Writer {
        Writer::new().string(&self.name).fixed(&self.uuid).i32(self.id)
    }

    /// The UUID in lower case with hyphens.
    pub fn guest_id(&self) -> String {
        let mut out = String::with_capacity(36);
        for (i, b) in self.uuid.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                out.push('-');
            }
            out.push_str(&format!("{b:02x}"));
        }
        out
    }
}

/// Bytes of a UUID given with or without hyphens.
pub fn uuid_bytes(id: &str) -> Result<[u8; 16]> {
    let invalid = || Error::invalid("A guest's id must be a UUID.");
    let hex: Vec<u8> = id.bytes().filter(|b| *b != b'-').collect();
    if hex.len() != 32 {
        return Err(invalid());
    }
    let mut out = [0; 16];
    for (o, pair) in out.iter_mut().zip(hex.chunks(2)) {
        let text = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *o = u8::from_str_radix(text, 16).map_err(|_| invalid())?;
    }
    Ok(out)
}

/// `virDomainState`.
pub mod state {
    pub const RUNNING: i32 = 1;
    pub const BLOCKED: i32 = 2;
    pub const PAUSED: i32 = 3;
    pub const SHUTDOWN: i32 = 4;
    pub const SHUTOFF: i32 = 5;
    pub const CRASHED: i32 = 6;
    pub const PMSUSPENDED: i32 = 7;
}

/// Hardware of the host as the daemon counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    pub memory_kib: u64,
    pub cpus: u32,
    pub nodes: u32,
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
}

const UNDEFINE_EVERYTHING: u32 = 1 | 2 | 4 | 16;
const XML_SECURE_INACTIVE: u32 = 2;
const ACPI_POWER_BUTTON: u32 = 1;
const DEVICE_LIVE: u32 = 1;
const DEVICE_CONFIG: u32 = 2;
const RESIZE_BYTES: u32 = 1;

/// Which of a domain's definitions a device change applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    LiveAndConfig,
    Live,
    Config,
}

impl Scope {
    fn flags(self) -> u32 {
        match self {
            Self::LiveAndConfig => DEVICE_LIVE | DEVICE_CONFIG,
            Self::Live => DEVICE_LIVE,
            Self::Config => DEVICE_CONFIG,
        }
    }
}

/// Typed calls over one [`Client`].
pub struct Conn {
    pub client: Client,
}

impl Conn {
    async fn ask(&self, procedure: u32, args: Writer) -> Result<Vec<u8>> {
        self.client.call(procedure, args, QUICK).await
    }

    async fn act(&self, procedure: u32, args: Writer) -> Result<Vec<u8>> {
        self.client.call(procedure, args, SLOW).await
    }

    /// Version of the hypervisor, packed as libvirt does (7.2.0 is 7002000).
    pub async fn hypervisor_version(&self) -> Result<u64> {
        Reader::new(&self.client.call(p::CONNECT_GET_VERSION, Writer::new(), OPEN_DEADLINE).await?).u64()
    }

    pub async fn lib_version(&self) -> Result<u64> {
        Reader::new(&self.ask(p::CONNECT_GET_LIB_VERSION, Writer::new()).await?).u64()
    }

    pub async fn capabilities(&self) -> Result<String> {
        Reader::new(&self.client.call(p::CONNECT_GET_CAPABILITIES, Writer::new(), OPEN_DEADLINE).await?).string()
    }

    pub async fn node_info(&self) -> Result<NodeInfo> {
        let reply = self.ask(p::NODE_GET_INFO, Writer::new()).await?;
        let mut r = Reader::new(&reply);
        // The CPU model: 32 characters, each in a unit of its own.
        for _ in 0..32 {
            r.u32()?;
        }
        let memory_kib = r.u64()?;
        let cpus = r.u32()?;
        let _mhz = r.u32()?;
        Ok(NodeInfo { memory_kib, cpus, nodes: r.u32()?, sockets: r.u32()?, cores: r.u32()?, threads: r.u32()? })
    }

    pub async fn lookup(&self, guest_id: &str) -> Result<Option<Domain>> {
        match self.ask(p::DOMAIN_LOOKUP_BY_UUID, Writer::new().fixed(&uuid_bytes(guest_id)?)).await {
            Ok(reply) => Domain::read(&mut Reader::new(&reply)).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub async fn list_all(&self) -> Result<Vec<Domain>> {
        let reply = self.ask(p::CONNECT_LIST_ALL_DOMAINS, Writer::new().i32(1).u32(0)).await?;
        let mut r = Reader::new(&reply);
        let n = r.u32()?;
        (0..n).map(|_| Domain::read(&mut r)).collect()
    }

    pub async fn define(&self, xml: &str) -> Result<Domain> {
        let reply = self.ask(p::DOMAIN_DEFINE_XML_FLAGS, Writer::new().string(xml).u32(0)).await?;
        Domain::read(&mut Reader::new(&reply))
    }

    /// Starts the domain; a saved memory image is restored. One that runs is no error: a process that
    /// died may have asked for it, and the daemon finished that in the meantime.
    pub async fn create(&self, domain: &Domain) -> Result<()> {
        match self.act(p::DOMAIN_CREATE_WITH_FLAGS, domain.args().u32(0)).await {
            Err(e) if e.is_conflict() && self.state(domain).await.is_ok_and(|s| s.0 == state::RUNNING) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Ends the QEMU process.
    pub async fn destroy(&self, domain: &Domain) -> Result<()> {
        self.act(p::DOMAIN_DESTROY_FLAGS, domain.args().u32(0)).await.map(drop)
    }

    /// Forgets the domain and everything the daemon keeps for it.
    pub async fn undefine(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_UNDEFINE_FLAGS, domain.args().u32(UNDEFINE_EVERYTHING)).await.map(drop)
    }

    /// Presses the power button.
    pub async fn shutdown(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_SHUTDOWN_FLAGS, domain.args().u32(ACPI_POWER_BUTTON)).await.map(drop)
    }

    pub async fn reset(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_RESET, domain.args().u32(0)).await.map(drop)
    }

    /// Asks the guest's operating system to reboot (power button with restart afterwards).
    pub async fn reboot(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_REBOOT, domain.args().u32(ACPI_POWER_BUTTON)).await.map(drop)
    }

    pub async fn suspend(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_SUSPEND, domain.args()).await.map(drop)
    }

    pub async fn resume(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_RESUME, domain.args()).await.map(drop)
    }

    /// Saves the memory into a file the daemon manages and ends the QEMU process.
    pub async fn managed_save(&self, domain: &Domain) -> Result<()> {
        self.act(p::DOMAIN_MANAGED_SAVE, domain.args().u32(0)).await.map(drop)
    }

    pub async fn managed_save_remove(&self, domain: &Domain) -> Result<()> {
        self.ask(p::DOMAIN_MANAGED_SAVE_REMOVE, domain.args().u32(0)).await.map(drop)
    }

    pub async fn has_managed_save(&self, domain: &Domain) -> Result<bool> {
        let reply = self.ask(p::DOMAIN_HAS_MANAGED_SAVE_IMAGE, domain.args().u32(0)).await?;
        Ok(Reader::new(&reply).i32()? > 0)
    }

    /// `(state, reason)`, see [`state`].
    pub async fn state(&self, domain: &Domain) -> Result<(i32, i32)> {
        let reply = self.ask(p::DOMAIN_GET_STATE, domain.args().u32(0)).await?;
        let mut r = Reader::new(&reply);
        Ok((r.i32()?, r.i32()?))
    }

    /// The definition; `stored` asks for the one of the next start.
    pub async fn xml(&self, domain: &Domain, stored: bool) -> Result<String> {
        let flags = if stored { XML_SECURE_INACTIVE } else { 0 };
        let reply = self.ask(p::DOMAIN_GET_XML_DESC, domain.args().u32(flags)).await?;
        Reader::new(&reply).string()
    }

    pub async fn attach(&self, domain: &Domain, xml: &str, scope: Scope) -> Result<()> {
        self.ask(p::DOMAIN_ATTACH_DEVICE_FLAGS, domain.args().string(xml).u32(scope.flags())).await.map(drop)
    }

    pub async fn detach(&self, domain: &Domain, xml: &str, scope: Scope) -> Result<()> {
        self.ask(p::DOMAIN_DETACH_DEVICE_FLAGS, domain.args().string(xml).u32(scope.flags())).await.map(drop)
    }

    /// Tells the guest that disk `name` (`vdb`) has `size_bytes` now.
    pub async fn block_resize(&self, domain: &Domain, name: &str, size_bytes: u64) -> Result<()> {
        let args = domain.args().string(name).u64(size_bytes).u32(RESIZE_BYTES);
        self.ask(p::DOMAIN_BLOCK_RESIZE, args).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_there_and_back() {
        let id = "0a1b2c3d-0000-4000-8000-00000000ffff";
        let d = Domain { name: "x".into(), uuid: uuid_bytes(id).unwrap(), id: -1 };
        assert_eq!(d.guest_id(), id);
        for bad in ["", "zz", "0a1b2c3d-0000-4000-8000-00000000fff\u{e9}"] {
            assert!(uuid_bytes(bad).is_err());
        }
    }
}
