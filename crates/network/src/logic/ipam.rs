//! Which address a port gets. Runs inside the transaction that writes the port: the primary key
//! (subnet, address) decides races, so of any number of writers one gets the last address.

use super::net::{self, eui64};
use crate::store::{self, FixedIp, Subnet};
use caelum_base::{Error, Result};
use caelum_store::Tx;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Where to look first, by subnet. A hint only: lost on restart, wrong on another replica, and the
/// table decides all the same.
#[derive(Default)]
pub struct Hints(Mutex<HashMap<String, u128>>);

impl Hints {
    fn get(&self, subnet_id: &str) -> Option<u128> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(subnet_id).copied()
    }

    fn set(&self, subnet_id: &str, next: u128) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(subnet_id.to_string(), next);
    }

    pub fn forget(&self, subnet_id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(subnet_id);
    }
}

/// One wanted address: in a subnet, exactly this one, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub subnet_id: Option<String>,
    pub ip_address: Option<IpAddr>,
}

/// For whom addresses are taken.
pub struct Claimant<'a> {
    pub port_id: &'a str,
    pub network_id: &'a str,
    pub mac: &'a str,
    pub device_owner: &'a str,
}

impl Claimant<'_> {
    fn is_router(&self) -> bool {
        matches!(self.device_owner, "network:router_interface" | "network:router_gateway")
    }
}

/// Rows fetched at once while looking for a gap.
const CHUNK: usize = 256;

/// Takes the next free address of the subnet's pools; `None` when there is none.
pub fn next_free(tx: &mut Tx<'_>, hints: &Hints, subnet: &Subnet, port_id: &str) -> Result<Option<IpAddr>> {
    let start = hints.get(&subnet.id);
    if let Some(ip) = from_here(tx, subnet, start.unwrap_or(0), port_id)? {
        hints.set(&subnet.id, net::number(ip) + 1);
        return Ok(Some(ip));
    }
    let Some(_) = start else { return Ok(None) };
    let found = from_here(tx, subnet, 0, port_id)?;
    match found {
        Some(ip) => hints.set(&subnet.id, net::number(ip) + 1),
        None => hints.forget(&subnet.id),
    }
    Ok(found)
}

fn from_here(tx: &mut Tx<'_>, subnet: &Subnet, from: u128, port_id: &str) -> Result<Option<IpAddr>> {
    for pool in &subnet.pools {
        let (first, last) = (net::number(pool.start).max(from), net::number(pool.end));
        if first > last {
            continue;
        }
        let first = net::address(first, pool.start);
        if let Some(ip) = gap(tx, &subnet.id, first, pool.end)?
            && store::take_address(tx, &subnet.id, ip, port_id)?
        {
            return Ok(Some(ip));
        }
    }
    Ok(None)
}

/// The lowest untaken address from `first` to `last`.
fn gap(tx: &mut Tx<'_>, subnet_id: &str, first: IpAddr, last: IpAddr) -> Result<Option<IpAddr>> {
    let mut candidate = net::number(first);
    let end = net::number(last);
    // Most of the time the first candidate is free, so the first look fetches one row.
    let mut limit = 1;
    while candidate <= end {
        let taken = store::taken_between(tx, subnet_id, net::address(candidate, first), last, limit)?;
        for t in &taken {
            if *t != candidate {
                return Ok(Some(net::address(candidate, first)));
            }
            candidate += 1;
        }
        if taken.len() < limit {
            return Ok((candidate <= end).then(|| net::address(candidate, first)));
        }
        limit = CHUNK;
    }
    Ok(None)
}

/// Takes the addresses of a new port. `wanted` is `None` when the caller left the choice to us.
pub fn assign(tx: &mut Tx<'_>, hints: &Hints, who: &Claimant<'_>, subnets: &[Subnet], wanted: Option<&[Wanted]>) -> Result<Vec<FixedIp>> {
    let mut out = Vec::new();
    match wanted {
        Some(list) => {
            for w in list {
                out.push(one(tx, hints, who, subnets, w)?);
            }
            if list.is_empty() {
                return Ok(out);
            }
        }
        None => {
            let usable = |s: &&Subnet| s.service_types.is_empty() || s.service_types.iter().any(|t| t == who.device_owner);
            let candidates: Vec<&Subnet> = subnets.iter().filter(usable).filter(|s| !s.is_auto_address()).collect();
            for version in [4, 6] {
                let family: Vec<&Subnet> = candidates.iter().copied().filter(|s| s.ip_version == version).collect();
                if !family.is_empty() {
                    out.push(any_of(tx, hints, who, &family)?);
                }
            }
            if candidates.is_empty() && subnets.iter().any(|s| !s.is_auto_address()) {
                return Err(exhausted_network(who.network_id));
            }
        }
    }
    if !who.is_router() {
        for s in subnets.iter().filter(|s| s.is_auto_address()) {
            if !out.iter().any(|f| f.subnet_id == s.id) {
                out.push(automatic(tx, who, s)?);
            }
        }
    }
    Ok(out)
}

fn any_of(tx: &mut Tx<'_>, hints: &Hints, who: &Claimant<'_>, family: &[&Subnet]) -> Result<FixedIp> {
    for s in family {
        if let Some(ip) = next_free(tx, hints, s, who.port_id)? {
            return Ok(FixedIp { subnet_id: s.id.clone(), ip_address: ip });
        }
    }
    Err(exhausted_network(who.network_id))
}

/// The MAC-derived address in a SLAAC or stateless subnet.
pub fn automatic(tx: &mut Tx<'_>, who: &Claimant<'_>, subnet: &Subnet) -> Result<FixedIp> {
    let ip = eui64(&subnet.cidr, who.mac).ok_or_else(|| Error::internal("an automatic subnet without a /64"))?;
    take(tx, who, subnet, ip)
}

fn take(tx: &mut Tx<'_>, who: &Claimant<'_>, subnet: &Subnet, ip: IpAddr) -> Result<FixedIp> {
    if store::take_address(tx, &subnet.id, ip, who.port_id)? {
        return Ok(FixedIp { subnet_id: subnet.id.clone(), ip_address: ip });
    }
    Err(Error::conflict(format!("IP address {ip} already allocated in subnet {}", subnet.id)).code("IpAddressAlreadyAllocated"))
}

fn one(tx: &mut Tx<'_>, hints: &Hints, who: &Claimant<'_>, subnets: &[Subnet], w: &Wanted) -> Result<FixedIp> {
    let subnet = match (&w.subnet_id, w.ip_address) {
        (Some(id), ip) => {
            let found = subnets.iter().find(|s| s.id == *id);
            let s = found.ok_or_else(|| {
                let m = format!("Failed to create port on network {}, because fixed_ips included invalid subnet {id}", who.network_id);
                Error::invalid(format!("Invalid input for operation: {m}.")).code("InvalidInput")
            })?;
            if let Some(ip) = ip
                && !net::is_host_of(&s.cidr, ip)
            {
                return Err(
                    Error::invalid(format!("IP address {ip} is not a valid IP for the specified subnet.")).code("InvalidIpForSubnet")
                );
            }
            s
        }
        (None, Some(ip)) => subnets.iter().find(|s| net::is_host_of(&s.cidr, ip)).ok_or_else(|| {
            Error::invalid(format!("IP address {ip} is not a valid IP for any of the subnets on the specified network."))
                .code("InvalidIpForNetwork")
        })?,
        (None, None) => return Err(Error::invalid("IP allocation requires subnet_id or ip_address.").code("HTTPBadRequest")),
    };
    if subnet.is_auto_address() && !who.is_router() {
        let own = eui64(&subnet.cidr, who.mac);
        if w.ip_address.is_some() && w.ip_address != own {
            let ip = w.ip_address.map(|i| i.to_string()).unwrap_or_default();
            let m = format!(
                "IPv6 address {ip} can not be directly assigned to a port on subnet {} as the subnet is configured for automatic addresses",
                subnet.id
            );
            return Err(Error::invalid(m).code("AllocationOnAutoAddressSubnet"));
        }
        return automatic(tx, who, subnet);
    }
    if let Some(ip) = w.ip_address {
        return take(tx, who, subnet, ip);
    }
    let ip = next_free(tx, hints, subnet, who.port_id)?.ok_or_else(|| exhausted_subnet(&subnet.id))?;
    Ok(FixedIp { subnet_id: subnet.id.clone(), ip_address: ip })
}

pub fn exhausted_network(network_id: &str) -> Error {
    Error::conflict(format!("No more IP addresses available on network {network_id}.")).code("IpAddressGenerationFailure")
}

fn exhausted_subnet(subnet_id: &str) -> Error {
    Error::conflict(format!("No more IP addresses available for subnet {subnet_id}.")).code("IpAddressGenerationFailureForSubnet")
}
