//! Addresses, prefixes and MACs as the API writes them. Pure.

use caelum_base::{Env, Error, Result};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

/// An address in its usual spelling; IPv4-mapped IPv6 and zone ids are refused, since other parts
/// of a system read them differently.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let ip: IpAddr = text.parse().ok()?;
    match ip {
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

/// A prefix with its host bits cleared; an address alone means the longest prefix.
pub fn parse_prefix(text: &str) -> Option<IpNet> {
    if let Some(ip) = parse_ip(text) {
        return Some(IpNet::from(ip));
    }
    let (address, _) = text.split_once('/')?;
    parse_ip(address)?;
    text.parse::<IpNet>().ok().map(|n| n.trunc())
}

/// `aa:bb:cc:dd:ee:ff` in lower case; `None` for anything that is no unicast MAC.
pub fn parse_mac(text: &str) -> Option<String> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = Vec::with_capacity(6);
    for part in text.split(separator) {
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(part, 16).ok()?);
    }
    let multicast = bytes.first()? & 1 == 1;
    if bytes.len() != 6 || multicast || bytes.iter().all(|b| *b == 0) {
        return None;
    }
    Some(format_mac(&bytes))
}

fn format_mac(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// A random MAC with the prefix clouds of this family use.
pub fn random_mac(env: &Env) -> String {
    let tail = env.bytes(3);
    format_mac(&[&[0xfa, 0x16, 0x3e], &tail[..]].concat())
}

/// The address a host with this MAC gives itself in a /64 (RFC 4291, modified EUI-64).
pub fn eui64(prefix: &IpNet, mac: &str) -> Option<IpAddr> {
    let IpNet::V6(net) = prefix else { return None };
    let bytes: Vec<u8> = mac.split(':').map(|p| u8::from_str_radix(p, 16)).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, e, f] = bytes.try_into().ok()?;
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let high = u128::from(net.network()) >> 64 << 64;
    Some(IpAddr::V6(Ipv6Addr::from(high | u128::from(low))))
}

/// The address as a number.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The number as an address of the same family as `like`; numbers beyond the family wrap.
pub fn address(n: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(n & 0xffff_ffff).unwrap_or_default().into()),
        IpAddr::V6(_) => IpAddr::V6(n.into()),
    }
}

/// 4 or 6.
pub fn version(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 4 } else { 6 }
}

/// First and last number of a prefix.
pub fn range(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// Usable for a host: not the network or broadcast address (IPv4) or the anycast address (IPv6),
/// where the prefix is long enough to have such.
pub fn is_host_of(net: &IpNet, ip: IpAddr) -> bool {
    if !net.contains(&ip) {
        return false;
    }
    let (first, last) = range(net);
    let n = number(ip);
    match net {
        IpNet::V4(v) if v.prefix_len() < 31 => n != first && n != last,
        IpNet::V4(_) => true,
        IpNet::V6(v) if v.prefix_len() < 127 => n != first,
        IpNet::V6(_) => true,
    }
}

/// 400 in the words clients know.
pub fn invalid_input(field: &str, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid input for {field}. Reason: {reason}.")).code("HTTPBadRequest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_macs_and_refuses_what_is_none() {
        assert_eq!(parse_mac("FA:16:3E:00:00:01").as_deref(), Some("fa:16:3e:00:00:01"));
        assert_eq!(parse_mac("fa-16-3e-00-00-01").as_deref(), Some("fa:16:3e:00:00:01"));
        for bad in ["", "x", "fa:16:3e:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "fa:16:3e:00:00:1"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn eui64_as_in_the_rfc() {
        let net: IpNet = "2001:db8::/64".parse().unwrap();
        let want: IpAddr = "2001:db8::f816:3eff:fe00:1".parse().unwrap();
        assert_eq!(eui64(&net, "fa:16:3e:00:00:01"), Some(want));
    }

    #[test]
    fn host_addresses_leave_out_the_special_ones() {
        let net: IpNet = "10.0.0.0/24".parse().unwrap();
        for (ip, want) in [("10.0.0.0", false), ("10.0.0.1", true), ("10.0.0.255", false), ("10.0.1.1", false)] {
            assert_eq!(is_host_of(&net, ip.parse().unwrap()), want, "{ip}");
        }
        assert!(is_host_of(&"10.0.0.0/31".parse().unwrap(), "10.0.0.0".parse().unwrap()));
        assert!(parse_ip("::ffff:10.0.0.1").is_none());
        assert!(parse_prefix("10.0.0.7/24").is_some_and(|n| n.to_string() == "10.0.0.0/24"));
    }
}
