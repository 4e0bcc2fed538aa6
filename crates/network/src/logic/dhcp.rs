//! The DHCP port of a network: one per network, with an address in every DHCP-enabled subnet.
//!
//! Made and changed in the same transaction as the subnet that needs it. A network whose pools are
//! full gets no DHCP port; the next change of the network tries again.

use super::{State, Work, ipam, net, not_found, ports};
use crate::store::{self, FixedIp, Network, Port, Std, Subnet};
use caelum_base::{Error, Result};
use caelum_store::{Query, Stored};
use std::sync::Arc;

pub const OWNER: &str = "network:dhcp";

/// `dhcp<uuid of the host>-<network id>`; the uuid follows from the host's name.
fn device_id(host: &str, network_id: &str) -> String {
    // FNV-1a over the name with two seeds: stable, not secret.
    let fnv = |seed: u64| host.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let (a, b) = (fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4));
    let hex = format!("{a:016x}{b:016x}");
    format!("dhcp{}-{}-{}-{}-{}-{network_id}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The network's DHCP port.
pub fn find(tx: &mut caelum_store::Tx<'_>, network_id: &str) -> Result<Option<Stored<Port>>> {
    tx.first::<Port>(&Query::new().eq("network_id", network_id).eq("device_owner", OWNER))
}

/// Makes the DHCP port agree with the network's subnets.
pub fn sync(w: &mut Work<'_, '_>, network: &Network, subnets: &[Subnet]) -> Result<()> {
    let hosted = network.dhcp_hosted != Some(false);
    let wanted: Vec<&Subnet> = subnets.iter().filter(|s| hosted && s.enable_dhcp).collect();
    let existing = find(w.tx, &network.id)?;
    w.changes.networks.insert(network.id.clone());
    match existing {
        None if wanted.is_empty() => Ok(()),
        None => create(w, network, &wanted),
        Some(p) if wanted.is_empty() => ports::remove(w, &p),
        Some(p) => adjust(w, p, &wanted),
    }
}

fn claim(w: &mut Work<'_, '_>, who: &ipam::Claimant<'_>, s: &Subnet) -> Result<Option<FixedIp>> {
    if s.is_auto_address() {
        return ipam::automatic(w.tx, who, s).map(Some);
    }
    let ip = ipam::next_free(w.tx, &w.st.hints, s, who.port_id)?;
    if ip.is_none() {
        tracing::warn!(subnet = s.id, "no address left for DHCP");
    }
    Ok(ip.map(|ip_address| FixedIp { subnet_id: s.id.clone(), ip_address }))
}

fn create(w: &mut Work<'_, '_>, network: &Network, subnets: &[&Subnet]) -> Result<()> {
    let (id, mac) = (w.st.env.uuid(), net::random_mac(&w.st.env));
    let who = ipam::Claimant { port_id: &id, network_id: &network.id, mac: &mac, device_owner: OWNER };
    let mut fixed_ips = Vec::new();
    for s in subnets {
        fixed_ips.extend(claim(w, &who, s)?);
    }
    if fixed_ips.is_empty() {
        return Ok(());
    }
    let host = w.st.hosts.network_host().to_string();
    w.tx.insert(&Port {
        project_id: network.project_id.clone(),
        network_id: network.id.clone(),
        name: String::new(),
        admin_state_up: true,
        mac_address: mac.clone(),
        fixed_ips,
        device_id: device_id(&host, &network.id),
        device_owner: OWNER.into(),
        status: "DOWN".into(),
        security_groups: Vec::new(),
        allowed_address_pairs: Vec::new(),
        extra_dhcp_opts: Vec::new(),
        host_id: host,
        profile: serde_json::Map::new(),
        vnic_type: "normal".into(),
        port_security_enabled: false,
        dns_name: String::new(),
        std: Std::new(w.now, String::new()),
        id,
    })?;
    Ok(())
}

fn adjust(w: &mut Work<'_, '_>, mut port: Stored<Port>, subnets: &[&Subnet]) -> Result<()> {
    let (id, mac, network_id) = (port.id.clone(), port.mac_address.clone(), port.network_id.clone());
    let who = ipam::Claimant { port_id: &id, network_id: &network_id, mac: &mac, device_owner: OWNER };
    let mut fixed_ips = Vec::new();
    for f in &port.fixed_ips {
        if subnets.iter().any(|s| s.id == f.subnet_id) {
            fixed_ips.push(f.clone());
        } else {
            store::release_address(w.tx, &f.subnet_id, f.ip_address, &id)?;
        }
    }
    for s in subnets {
        if !fixed_ips.iter().any(|f| f.subnet_id == s.id) {
            fixed_ips.extend(claim(w, &who, s)?);
        }
    }
    if fixed_ips == port.fixed_ips {
        return Ok(());
    }
    port.fixed_ips = fixed_ips;
    port.std.touch(w.now);
    w.tx.update(&mut port)
}

impl State {
    /// Puts a network on the DHCP agent or takes it off. Errors: `Conflict` when it is so already.
    pub async fn dhcp_host(self: &Arc<Self>, network_id: String, on: bool) -> Result<()> {
        self.write(move |w| {
            let mut n = w.tx.get::<Network>(&network_id)?.ok_or_else(|| not_found("network", &network_id))?;
            let served = is_hosted(w.tx, &n)?;
            if served == on {
                let (code, word) = if on { ("NetworkHostedByDHCPAgent", "already") } else { ("NetworkNotHostedByDhcpAgent", "not") };
                return Err(Error::conflict(format!("The network {network_id} is {word} hosted by the DHCP agent.")).code(code));
            }
            n.dhcp_hosted = Some(on);
            w.tx.update(&mut n)?;
            let subnets = super::subnets::of_network(w, &network_id)?;
            sync(w, &n, &subnets)
        })
        .await
    }
}

/// Whether the DHCP agent has the network.
pub fn is_hosted(tx: &mut caelum_store::Tx<'_>, n: &Network) -> Result<bool> {
    match n.dhcp_hosted {
        Some(chosen) => Ok(chosen),
        None => Ok(find(tx, &n.id)?.is_some()),
    }
}
