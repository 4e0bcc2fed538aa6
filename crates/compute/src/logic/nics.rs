//! Which network interfaces a new server gets.

use crate::State;
use crate::flows::create::NicRequest;
use crate::logic::network::{self, Network};
use caelum_base::{Error, Result, Secret};
use serde::Deserialize;
use std::net::IpAddr;

/// One entry of `networks`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicIn {
    #[serde(default)]
    pub uuid: Option<String>,
    #[serde(default)]
    pub port: Option<String>,
    #[serde(default)]
    pub fixed_ip: Option<String>,
    #[serde(default)]
    pub tag: Option<String>,
}

/// What the user said about networks.
#[derive(Clone, Debug)]
pub enum NicsIn {
    /// Nothing: the only network there is, if any.
    Default,
    Auto,
    None,
    List(Vec<NicIn>),
}

/// Who asks.
pub struct Asker<'a> {
    pub state: &'a State,
    pub token: &'a Secret<String>,
    pub project_id: &'a str,
    /// May use external networks that are not shared.
    pub external: bool,
}

/// Interfaces to make, every network and port checked with the user's own rights.
pub async fn resolve(a: &Asker<'_>, wanted: &NicsIn) -> Result<Vec<NicRequest>> {
    match wanted {
        NicsIn::None => Ok(Vec::new()),
        NicsIn::Default => default(a).await,
        NicsIn::Auto => {
            let found = default(a).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            let network_id = network::auto_topology(a.state, a.token, a.project_id).await?;
            Ok(vec![NicRequest { network_id, ..NicRequest::default() }])
        }
        NicsIn::List(list) => {
            let mut out = Vec::with_capacity(list.len());
            for nic in list {
                out.push(one(a, nic).await?);
            }
            unique_ports(&out)?;
            Ok(out)
        }
    }
}

async fn default(a: &Asker<'_>) -> Result<Vec<NicRequest>> {
    let mut found = network::networks_for_auto(a.state, a.token, a.project_id).await?;
    if found.len() > 1 {
        return Err(Error::conflict("Multiple possible networks found, use a Network ID to be more specific."));
    }
    let Some(net) = found.pop() else { return Ok(Vec::new()) };
    let network_id = usable(a, net)?.id;
    Ok(vec![NicRequest { network_id, ..NicRequest::default() }])
}

fn usable(a: &Asker<'_>, net: Network) -> Result<Network> {
    if net.external && !net.shared && !a.external {
        return Err(Error::forbidden(format!("It is not allowed to create an interface on external network {}", net.id)));
    }
    if net.subnets.is_empty() {
        return Err(Error::invalid(format!("Network {} requires a subnet in order to boot instances on.", net.id)));
    }
    Ok(net)
}

/// Checks one entry.
pub async fn one(a: &Asker<'_>, nic: &NicIn) -> Result<NicRequest> {
    if let Some(t) = &nic.tag
        && (t.is_empty() || t.chars().count() > 60 || t.contains(['/', ',']))
    {
        return Err(Error::invalid("Invalid input for field/attribute tag."));
    }
    if let Some(id) = &nic.port {
        if let Some(ip) = &nic.fixed_ip {
            return Err(Error::invalid(format!(
                "Specified Fixed IP '{ip}' cannot be used with port '{id}': the two cannot be specified together."
            )));
        }
        let port = network::port_of_user(a.state, a.token, id).await?;
        if port.project_id != a.project_id {
            return Err(Error::invalid(format!("Port {id} not usable for instance.")));
        }
        if !port.owner().is_empty() {
            return Err(Error::conflict(format!("Port {id} is still in use.")));
        }
        if port.fixed_ips.is_empty() {
            return Err(Error::invalid(format!("Port {id} requires a FixedIP in order to be used.")));
        }
        return Ok(NicRequest { port_id: Some(port.id), network_id: port.network_id, fixed_ip: None, tag: nic.tag.clone() });
    }
    let Some(id) = &nic.uuid else { return Err(Error::invalid("Bad network format: missing 'uuid'")) };
    if let Some(ip) = &nic.fixed_ip {
        ip.parse::<IpAddr>().map_err(|_| Error::invalid(format!("Fixed IP {ip} is not a valid ip address for network {id}.")))?;
    }
    let net = usable(a, network::network_of_user(a.state, a.token, id).await?)?;
    Ok(NicRequest { port_id: None, network_id: net.id, fixed_ip: nic.fixed_ip.clone(), tag: nic.tag.clone() })
}

fn unique_ports(list: &[NicRequest]) -> Result<()> {
    for (i, a) in list.iter().enumerate() {
        if a.port_id.is_some() && list.iter().skip(i + 1).any(|b| b.port_id == a.port_id) {
            return Err(Error::invalid("The same port was given twice."));
        }
    }
    Ok(())
}
