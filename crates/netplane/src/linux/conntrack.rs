//! Cutting tracked connections that a change no longer allows.
//!
//! Filters let established connections pass, so taking a rule, a group member or a floating address
//! away must also end what it had let in. A cut connection that is still allowed is tracked anew with
//! its next packet.

use super::Core;
use super::exec::{self, Outcome};
use super::netlink::{self, Attrs, answers, attrs, message};
use crate::HostState;
use nix::sys::socket::SockProtocol;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Connection tracking's messages: subsystem 1, get 1, delete 2.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const NLM_F_REQUEST_ACK: u16 = 0x5;
/// Bytes of `nfgenmsg`.
const NFGEN: usize = 4;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;

/// A tracked connection.
pub(super) struct Flow {
    pub zone: u16,
    /// Source and destination, original direction first, then the reply's.
    pub original: (IpAddr, IpAddr),
    pub reply: (IpAddr, IpAddr),
}

impl Flow {
    /// Whether the address is an end of the connection in its original direction.
    pub fn has(&self, address: IpAddr) -> bool {
        self.original.0 == address || self.original.1 == address
    }
}

fn ends(all: &Attrs<'_>, which: u16) -> Option<(IpAddr, IpAddr)> {
    let tuple = attrs(all.get(&which)?);
    let addresses = attrs(tuple.get(&1)?);
    let get = |four, six| netlink::ip(addresses.get(&four)).or_else(|| netlink::ip(addresses.get(&six)));
    Some((get(1, 3)?, get(2, 4)?))
}

fn push(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().div_ceil(4) * 4, 0);
}

/// Ends the flows of the calling thread's namespace that `pick` chooses; returns how many.
pub(super) fn cut(pick: impl Fn(&Flow) -> bool) -> Outcome<usize> {
    let fd = netlink::open(SockProtocol::NetlinkNetFilter)?;
    netlink::send(&fd, &message(GET, netlink::NLM_F_REQUEST_DUMP, NFGEN, 0, &[])?)?;
    let mut chosen: Vec<(u8, Vec<u8>)> = Vec::new();
    answers(&fd, NFGEN, |head, all| {
        let zone = all.get(&ZONE).and_then(|z| Some(u16::from_be_bytes(z.get(..2)?.try_into().ok()?))).unwrap_or(0);
        let (Some(original), Some(reply)) = (ends(all, TUPLE_ORIG), ends(all, TUPLE_REPLY)) else { return };
        if !pick(&Flow { zone, original, reply }) {
            return;
        }
        let mut request = Vec::new();
        if let Some(tuple) = all.get(&TUPLE_ORIG) {
            push(&mut request, TUPLE_ORIG | NESTED, tuple);
        }
        if zone != 0 {
            push(&mut request, ZONE, &zone.to_be_bytes());
        }
        chosen.push((head.first().copied().unwrap_or(0), request));
    })?;
    let mut done = 0;
    for (family, request) in &chosen {
        netlink::send(&fd, &message(DELETE, NLM_F_REQUEST_ACK, NFGEN, *family, request)?)?;
        // One that ended by itself meanwhile is no failure.
        match answers(&fd, NFGEN, |_, _| {}) {
            Ok(()) => done += 1,
            Err(why) => tracing::debug!(reason = %why, "connection not cut"),
        }
    }
    Ok(done)
}

impl Core {
    /// Ends connections that the change no longer allows. A failure is logged: the filters already
    /// refuse new ones.
    pub(super) fn cut_flows(&self, old: &HostState, new: &HostState, routers: &BTreeSet<String>) {
        let mut ends: BTreeSet<(u16, IpAddr)> = BTreeSet::new();
        let shrunk: BTreeSet<&String> = old
            .groups
            .iter()
            .filter(|(id, was)| was.iter().any(|a| !new.groups.get(*id).is_some_and(|now| now.contains(a))))
            .map(|(id, _)| id)
            .collect();
        for was in old.ports.values().filter(|p| p.port_security || !new.ports.contains_key(&p.id)) {
            if shrunk.is_empty() && new.ports.get(&was.id) == Some(was) {
                continue;
            }
            let loses = match new.ports.get(&was.id) {
                None => true,
                Some(now) => {
                    now.port_security && was.rules.iter().any(|r| !now.rules.contains(r))
                        || was.addresses.iter().any(|a| !now.addresses.contains(a))
                        || was.rules.iter().filter_map(|r| r.remote_group.as_ref()).any(|g| shrunk.contains(g))
                }
            };
            // A network that went took its zone along; so did its bridge, and nothing passes.
            let Some(zone) = self.kept.zones.get(&was.network_id).copied().filter(|_| loses) else { continue };
            ends.extend(was.addresses.iter().map(|a| (zone, *a)));
        }
        if !ends.is_empty() {
            match cut(|f| f.zone != 0 && (ends.contains(&(f.zone, f.original.0)) || ends.contains(&(f.zone, f.original.1)))) {
                Ok(n) => tracing::debug!(flows = n, "connections cut"),
                Err(why) => tracing::warn!(reason = %why, "connections cannot be cut"),
            }
        }
        for id in routers {
            let (Some(was), Some(now)) = (old.routers.get(id), new.routers.get(id)) else { continue };
            let gone: Vec<_> = was.floating_ips.iter().filter(|f| !now.floating_ips.contains(f)).map(|f| f.floating).collect();
            if gone.is_empty() {
                continue;
            }
            let touched = |f: &Flow| gone.iter().any(|a| f.has(*a) || f.reply.0 == *a || f.reply.1 == *a);
            if let Err(why) = exec::in_ns(&self.names.ns_router(id), || cut(touched)) {
                tracing::warn!(router = %id, reason = %why, "connections cannot be cut");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_directions_of_a_flow() {
        let mut addresses = Vec::new();
        push(&mut addresses, 1, &[10, 0, 0, 1]);
        push(&mut addresses, 2, &[10, 0, 0, 2]);
        let mut tuple = Vec::new();
        push(&mut tuple, 1 | NESTED, &addresses);
        let mut all = Vec::new();
        push(&mut all, TUPLE_ORIG | NESTED, &tuple);
        let all = attrs(&all);
        assert_eq!(ends(&all, TUPLE_ORIG), Some(("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())));
        assert_eq!(ends(&all, TUPLE_REPLY), None);
    }
}
