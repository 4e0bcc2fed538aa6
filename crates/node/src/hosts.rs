//! This machine as compute and network host.

use crate::{DataDir, Settings};
use caelum_base::{Env, Error, Result, Secret};
use caelum_hypervisor::{Hypervisor, LibvirtConfig, LibvirtHost, SimConfig, SimHost};
use caelum_netplane::{LinuxPlane, NetworkHost, PhysicalNetwork, PlaneConfig, SimPlane};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Name of the external network's physical network.
pub const PUBLIC: &str = "public";

/// This machine.
pub struct Host {
    pub name: String,
    pub driver: String,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub plane: Arc<dyn NetworkHost>,
}

/// A data directory keeps the driver it was first used with: guests of one are unknown to the other.
fn settle_driver(settings: &Settings) -> Result<&str> {
    let wanted = settings.config.str("hypervisor.driver");
    let path = settings.data.join("driver");
    let chosen =
        settings.config.show().iter().any(|r| r.name == "hypervisor.driver" && !matches!(r.source, caelum_config::Source::Default));
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == wanted => Ok(wanted),
        Ok(text) if !chosen && text.trim() == "sim" => Ok("sim"),
        Ok(text) if !chosen && text.trim() == "libvirt" => Ok("libvirt"),
        Ok(text) => Err(Error::invalid(format!(
            "{} holds guests of the driver {}; use that one or another --data directory",
            settings.data.root().display(),
            text.trim()
        ))),
        Err(_) => {
            settings.data.write("driver", wanted)?;
            Ok(wanted)
        }
    }
}

fn host_name(settings: &Settings) -> Result<String> {
    if let Some(n) = settings.config.opt_str("host.name").filter(|n| !n.is_empty()) {
        return Ok(n.to_string());
    }
    let name = nix::unistd::gethostname().map_err(|e| Error::unavailable("host name").caused_by(e))?;
    Ok(name.to_string_lossy().into_owned())
}

fn sim_plane(settings: &Settings, driver: &str) -> bool {
    match settings.config.str("network.plane") {
        "auto" => driver == "sim",
        other => other == "sim",
    }
}

fn need_root(what: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::unavailable(format!("{what} needs root; run as root, or try everything without it: caelum up --hypervisor sim")))
}

/// Range of the external network and this host's address in it.
pub fn public_range(settings: &Settings) -> Result<(ipnet::IpNet, std::net::IpAddr)> {
    let bad = |name: &str| Error::invalid(format!("{name} is not a valid address or address range"));
    let cidr: ipnet::IpNet = settings.config.str("network.public_cidr").parse().map_err(|_| bad("network.public_cidr"))?;
    let gateway: std::net::IpAddr = settings.config.str("network.public_gateway").parse().map_err(|_| bad("network.public_gateway"))?;
    if cidr.contains(&gateway) {
        Ok((cidr.trunc(), gateway))
    } else {
        Err(Error::invalid("network.public_gateway is not in network.public_cidr"))
    }
}

/// The plane's configuration; `metadata` is where guests' metadata requests go.
fn plane_config(settings: &Settings, env: &Env, metadata: SocketAddr, secret: Secret<String>) -> Result<PlaneConfig> {
    let c = &settings.config;
    let (cidr, gateway) = public_range(settings)?;
    let tag = settings.data.tag(env)?;
    let physical = match c.opt_str("network.public_device").filter(|d| !d.is_empty()) {
        Some(d) => PhysicalNetwork::HostDevice { device: d.to_string() },
        None => {
            let address = ipnet::IpNet::new(gateway, cidr.prefix_len()).map_err(|_| Error::invalid("network.public_cidr is not valid"))?;
            PhysicalNetwork::OwnBridge {
                bridge: format!("caelum{tag}"),
                host_addresses: vec![address],
                masquerade: c.bool("network.masquerade"),
            }
        }
    };
    let run_dir = settings.data.join("run/net");
    Ok(PlaneConfig { run_dir, tag, physical: BTreeMap::from([(PUBLIC.to_string(), physical)]), metadata, metadata_secret: secret })
}

/// Another cloud or network of this machine that uses the external range already: traffic to floating
/// IPs would go there.
fn range_is_free(config: &PlaneConfig, cidr: ipnet::IpNet) -> Result<()> {
    if !matches!(config.physical.get(PUBLIC), Some(PhysicalNetwork::OwnBridge { .. })) {
        return Ok(());
    }
    let all = nix::ifaddrs::getifaddrs().map_err(|e| Error::unavailable("network interfaces").caused_by(e))?;
    for i in all.filter(|i| !i.interface_name.contains(&config.tag)) {
        let v4 = i.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| std::net::IpAddr::V4(a.ip()));
        let v6 = i.address.as_ref().and_then(|a| a.as_sockaddr_in6()).map(|a| std::net::IpAddr::V6(a.ip()));
        if v4.or(v6).is_some_and(|a| cidr.contains(&a)) {
            return Err(Error::conflict(format!(
                "the external network {cidr} is in use by {} of this machine; choose another with network.public_cidr and network.public_gateway",
                i.interface_name
            )));
        }
    }
    Ok(())
}

/// Opens the machine as configuration says.
pub async fn open(settings: &Settings, env: &Env, metadata: SocketAddr, secret: Secret<String>) -> Result<Host> {
    let driver = settle_driver(settings)?;
    let name = host_name(settings)?;
    let plane: Arc<dyn NetworkHost> = if sim_plane(settings, driver) {
        Arc::new(SimPlane::new())
    } else {
        need_root("a real network")?;
        let config = plane_config(settings, env, metadata, secret)?;
        range_is_free(&config, public_range(settings)?.0)?;
        let plane = LinuxPlane::new(config);
        let missing = plane.check().await;
        if !missing.is_empty() {
            return Err(Error::unavailable(missing.join("\n  ")));
        }
        Arc::new(plane)
    };
    if driver == "sim" {
        let config = sim_config(&settings.data, settings, name.clone())?;
        let hypervisor = Arc::new(SimHost::open(config, env.clone())?);
        return Ok(Host { name, driver: "sim".into(), hypervisor, plane });
    }
    need_root("libvirt with real guests")?;
    let host = LibvirtHost::open(
        LibvirtConfig { hostname: Some(name.clone()), ..LibvirtConfig::new(settings.data.root().to_path_buf()) },
        env.clone(),
    )
    .await?;
    let driver = format!("libvirt ({})", host.virt_type());
    Ok(Host { name, driver, hypervisor: Arc::new(host), plane })
}

fn sim_config(data: &DataDir, settings: &Settings, hostname: String) -> Result<SimConfig> {
    let number = |name: &str| u64::try_from(settings.config.int(name)).map_err(|_| Error::invalid(format!("{name} is out of range")));
    let vcpus = u32::try_from(number("hypervisor.sim_vcpus")?).map_err(|_| Error::invalid("hypervisor.sim_vcpus is out of range"))?;
    Ok(SimConfig {
        hostname,
        vcpus,
        memory_mib: number("hypervisor.sim_memory_mib")?,
        disk_gib: number("hypervisor.sim_disk_gib")?,
        state_dir: Some(data.join("sim")),
    })
}

/// Removes everything of ours from the machine.
pub async fn wipe(settings: &Settings, env: &Env) -> Result<()> {
    let driver = settle_driver(settings)?;
    if driver != "sim" {
        need_root("removing guests")?;
        let host = LibvirtHost::open(LibvirtConfig::new(settings.data.root().to_path_buf()), env.clone()).await?;
        host.wipe().await?;
    }
    if !sim_plane(settings, driver) {
        need_root("removing networks")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        LinuxPlane::new(plane_config(settings, env, nowhere, Secret::default())?).wipe().await?;
    }
    Ok(())
}
