//! Reading the kernel's links, addresses and routes of the calling thread's namespace.
//!
//! Only dumps: one request, one answer of several messages. Writing goes through `ip -batch`.
//! A dump costs well under a millisecond per hundred objects, so every apply looks at the kernel
//! and none trusts memory.

use super::exec::Outcome;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
pub(super) const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Bytes of `ifinfomsg`, `ifaddrmsg` and `rtmsg`.
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub mac: String,
    pub mtu: u32,
    /// Name of the bridge it is in, or empty.
    pub master: String,
    /// `bridge`, `veth`, `tun`, `vxlan`, … or empty for hardware.
    pub kind: String,
    pub up: bool,
}

/// An address on a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Addr {
    pub dev: String,
    pub address: IpAddr,
    pub prefix: u8,
    pub link_scope: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub protocol: u8,
    pub to: Option<IpAddr>,
    pub prefix: u8,
    pub via: Option<IpAddr>,
    pub v6: bool,
}

pub(super) type Attrs<'a> = HashMap<u16, &'a [u8]>;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn attrs(mut bytes: &[u8]) -> Attrs<'_> {
    let mut out = HashMap::new();
    while let (Some(len), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let len = usize::from(len);
        let Some(value) = bytes.get(4..len) else { break };
        // The top two bits mark nesting and byte order.
        out.insert(kind & 0x3fff, value);
        let Some(rest) = bytes.get(len.div_ceil(4) * 4..) else { break };
        bytes = rest;
    }
    out
}

fn text(value: Option<&&[u8]>) -> String {
    value.map(|v| String::from_utf8_lossy(v).trim_end_matches('\0').to_string()).unwrap_or_default()
}

pub(super) fn ip(value: Option<&&[u8]>) -> Option<IpAddr> {
    let value: &[u8] = value?;
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

/// A netlink message: header, a fixed part of zeros but for its first byte, attributes.
pub(super) fn message(kind: u16, flags: u16, body: usize, family: u8, attributes: &[u8]) -> Outcome<Vec<u8>> {
    let total = u32::try_from(HEADER + body + attributes.len()).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(HEADER + body + attributes.len());
    out.extend(total.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.resize(HEADER + body, 0);
    if let Some(first) = out.get_mut(HEADER) {
        *first = family;
    }
    out.extend(attributes);
    Ok(out)
}

/// Opens a netlink socket in the calling thread's namespace.
pub(super) fn open(protocol: SockProtocol) -> Outcome<OwnedFd> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(fail)?;
    // Large dumps need room; a refusal only costs speed.
    let _ = setsockopt(&fd, sockopt::RcvBuf, &(1 << 20));
    Ok(fd)
}

fn fail(e: nix::Error) -> String {
    format!("netlink: {e}")
}

pub(super) fn send(fd: &OwnedFd, request: &[u8]) -> Outcome<()> {
    sendto(fd.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(fail).map(drop)
}

fn dump(kind: u16, body: usize, each: impl FnMut(&[u8], &Attrs<'_>)) -> Outcome<()> {
    let fd = open(SockProtocol::NetlinkRoute)?;
    send(&fd, &message(kind, NLM_F_REQUEST_DUMP, body, 0, &[])?)?;
    answers(&fd, body, each)
}

/// Reads the answers to a request up to its end, or to its acknowledgement.
pub(super) fn answers(fd: &OwnedFd, body: usize, mut each: impl FnMut(&[u8], &Attrs<'_>)) -> Outcome<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(fail)?;
        let mut rest = &buffer[..n];
        while let (Some(len), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let len = len as usize;
            let Some(message) = rest.get(HEADER..len) else { return Err("netlink: short message".to_string()) };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = u32_at(message, 0).map_or(0, |c| i32::from_ne_bytes(c.to_ne_bytes()));
                    return if code == 0 { Ok(()) } else { Err(fail(nix::Error::from_raw(-code))) };
                }
                _ => {
                    if let (Some(head), Some(tail)) = (message.get(..body), message.get(body..)) {
                        each(head, &attrs(tail));
                    }
                }
            }
            rest = rest.get(len.div_ceil(4) * 4..).unwrap_or_default();
        }
    }
}

/// All devices by name.
pub(super) fn links() -> Outcome<HashMap<String, Link>> {
    let mut masters: HashMap<u32, String> = HashMap::new();
    let mut found: Vec<(Link, u32)> = Vec::new();
    dump(RTM_GETLINK, IFINFO, |head, a| {
        let index = u32_at(head, 4).unwrap_or(0);
        let kind = a.get(&18).map(|info| text(attrs(info).get(&1))).unwrap_or_default();
        let mac = a.get(&1).map(|m| m.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
        let name = text(a.get(&3));
        masters.insert(index, name.clone());
        let link = Link {
            index,
            name,
            alias: text(a.get(&20)),
            mac: mac.unwrap_or_default(),
            mtu: a.get(&4).and_then(|v| u32_at(v, 0)).unwrap_or(0),
            master: String::new(),
            kind,
            up: u32_at(head, 8).unwrap_or(0) & 1 == 1,
        };
        found.push((link, a.get(&10).and_then(|v| u32_at(v, 0)).unwrap_or(0)));
    })?;
    Ok(found
        .into_iter()
        .map(|(mut link, master)| {
            link.master = masters.get(&master).cloned().unwrap_or_default();
            (link.name.clone(), link)
        })
        .collect())
}

/// All addresses, with device names.
pub(super) fn addresses() -> Outcome<Vec<Addr>> {
    let names: HashMap<u32, String> = links()?.into_values().map(|l| (l.index, l.name)).collect();
    let mut out = Vec::new();
    dump(RTM_GETADDR, IFADDR, |head, a| {
        // IFA_LOCAL is the own address where it differs from the prefix's address.
        let address = ip(a.get(&2)).or_else(|| ip(a.get(&1)));
        let dev = u32_at(head, 4).and_then(|i| names.get(&i)).cloned();
        if let (Some(address), Some(dev)) = (address, dev) {
            let scope = head.get(3).copied().unwrap_or(0);
            out.push(Addr { dev, address, prefix: head.get(1).copied().unwrap_or(0), link_scope: scope >= 253 });
        }
    })?;
    Ok(out)
}

/// All routes of the main table.
pub(super) fn routes() -> Outcome<Vec<Route>> {
    const MAIN: u32 = 254;
    let mut out = Vec::new();
    dump(RTM_GETROUTE, RTMSG, |head, a| {
        let byte = |at: usize| head.get(at).copied().unwrap_or(0);
        let table = a.get(&15).and_then(|v| u32_at(v, 0)).unwrap_or_else(|| u32::from(byte(4)));
        let v6 = i32::from(byte(0)) == nix::libc::AF_INET6;
        if table == MAIN && (v6 || i32::from(byte(0)) == nix::libc::AF_INET) {
            out.push(Route { protocol: byte(5), to: ip(a.get(&1)), prefix: byte(1), via: ip(a.get(&5)), v6 });
        }
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_loopback_device() {
        let links = links().unwrap();
        assert!(links.contains_key("lo"));
        addresses().unwrap();
        routes().unwrap();
    }

    #[test]
    fn attributes_of_any_bytes_do_not_panic() {
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).map(|i| i.wrapping_mul(37)).collect();
            attrs(&bytes);
        }
        assert_eq!(attrs(&[5, 0, 3, 0, 65, 0, 0, 0])[&3], b"A");
    }
}
