//! The short forms in which operators name devices: `r1z2-10.0.0.1:6200R10.1.0.1:6200/sda_note` to add one,
//! parts of `d3r1z2-10.0.0.1:6200/sda_note` to search.

use crate::builder::{Builder, BuilderDevice};
use crate::runtime::Device;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An IP address in the form rings keep it. Errors: upstream's text.
pub(super) fn ip(text: &str) -> Result<String, String> {
    let lower = text.to_lowercase();
    if lower.parse::<Ipv4Addr>().is_ok() {
        return Ok(lower);
    }
    lower.parse::<Ipv6Addr>().map(|a| a.to_string()).map_err(|_| format!("Invalid ip {text}"))
}

/// An IP address, with or without brackets, or a host name.
pub(super) fn address(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if text.starts_with('[') && text.ends_with(']') {
        return ip(bare);
    }
    ip(bare).or_else(|_| if is_host_name(bare) { Ok(bare.to_lowercase()) } else { Err(format!("Invalid address {text}")) })
}

/// RFC 1123.
fn is_host_name(name: &str) -> bool {
    let label = |l: &str| {
        let plain = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (1..=63).contains(&l.len()) && plain && !l.starts_with('-') && !l.ends_with('-')
    };
    (1..=255).contains(&name.len()) && name.strip_suffix('.').unwrap_or(name).split('.').all(label)
}

/// Reads a text from the left.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn eat(&mut self, c: char) -> bool {
        self.0.strip_prefix(c).map(|rest| self.0 = rest).is_some()
    }

    fn until(&mut self, stop: impl Fn(char) -> bool) -> &'a str {
        let (head, rest) = self.0.split_at(self.0.find(stop).unwrap_or(self.0.len()));
        self.0 = rest;
        head
    }

    /// Digits after a letter that has been eaten. Errors: none, or too many of them.
    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let digits = self.until(|c| !c.is_ascii_digit());
        digits.parse().map_err(|_| format!("invalid number {}", caelum_swiftkit::python::repr(digits)))
    }

    /// An IPv4 address or an IPv6 address in brackets, when one is next.
    fn ip(&mut self) -> Result<Option<String>, String> {
        if self.0.starts_with(|c: char| c.is_ascii_digit()) {
            return ip(self.until(|c| !c.is_ascii_digit() && c != '.')).map(Some);
        }
        if self.eat('[') {
            let inner = self.until(|c| c == ']');
            self.eat(']');
            return ip(inner).map(Some);
        }
        Ok(None)
    }

    /// `IP:PORT`, both optional.
    fn endpoint(&mut self, ip: &mut Option<String>, port: &mut Option<u16>) -> Result<(), String> {
        if let Some(found) = self.ip()? {
            *ip = Some(found);
        }
        if self.eat(':') {
            *port = Some(self.number()?);
        }
        Ok(())
    }
}

/// What a device must match; absent parts match any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Search {
    pub id: Option<u32>,
    pub region: Option<u32>,
    pub zone: Option<u32>,
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub replication_ip: Option<String>,
    pub replication_port: Option<u16>,
    pub device: Option<String>,
    pub weight: Option<f64>,
    pub meta: Option<String>,
}

impl Search {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut s, mut at) = (Self::default(), Cursor(text));
        if at.eat('d') {
            s.id = Some(at.number()?);
        }
        if at.eat('r') {
            s.region = Some(at.number()?);
        }
        if at.eat('z') {
            s.zone = Some(at.number()?);
        }
        at.eat('-');
        at.endpoint(&mut s.ip, &mut s.port)?;
        if at.eat('R') {
            at.endpoint(&mut s.replication_ip, &mut s.replication_port)?;
        }
        if at.eat('/') {
            s.device = Some(at.until(|c| c == '_').to_string());
        }
        if at.eat('_') {
            s.meta = Some(std::mem::take(&mut at.0).to_string());
        }
        if at.0.is_empty() { Ok(s) } else { Err(format!("Invalid <search-value>: {}", caelum_swiftkit::python::repr(text))) }
    }

    pub fn matches(&self, d: &Device) -> bool {
        fn is<T: PartialEq>(want: &Option<T>, have: &T) -> bool {
            want.as_ref().is_none_or(|w| w == have)
        }
        let at = |want: &Option<String>, have: &str| want.as_ref().is_none_or(|w| address(have).is_ok_and(|h| h == *w));
        is(&self.id, &d.id)
            && is(&self.region, &d.region)
            && is(&self.zone, &d.zone)
            && at(&self.ip, &d.ip)
            && is(&self.port, &d.port)
            && at(&self.replication_ip, &d.replication_ip)
            && is(&self.replication_port, &d.replication_port)
            && is(&self.device, &d.device)
            && is(&self.weight, &d.weight)
            && self.meta.as_ref().is_none_or(|m| d.meta.contains(m.as_str()))
    }

    pub fn find<'a>(&self, builder: &'a Builder) -> Vec<&'a BuilderDevice> {
        builder.iter().filter(|d| self.matches(&d.device)).collect()
    }
}

/// New values for a device; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub replication_ip: Option<String>,
    pub replication_port: Option<u16>,
    pub device: Option<String>,
    pub meta: Option<String>,
}

impl Change {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut c, mut at) = (Self::default(), Cursor(text));
        at.endpoint(&mut c.ip, &mut c.port)?;
        if at.eat('R') {
            at.endpoint(&mut c.replication_ip, &mut c.replication_port)?;
        }
        if at.eat('/') {
            c.device = Some(at.until(|c| c == '_').to_string());
        }
        if at.eat('_') {
            c.meta = Some(std::mem::take(&mut at.0).to_string());
        }
        if !at.0.is_empty() || c == Self::default() {
            return Err(format!("Invalid set info change value: {}", caelum_swiftkit::python::repr(text)));
        }
        Ok(c)
    }

    pub fn apply(&self, d: &mut Device) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(v) = from {
                to.clone_from(v);
            }
        }
        set(&mut d.ip, &self.ip);
        set(&mut d.port, &self.port);
        set(&mut d.replication_ip, &self.replication_ip);
        set(&mut d.replication_port, &self.replication_port);
        set(&mut d.device, &self.device);
        set(&mut d.meta, &self.meta);
    }
}

/// A device from its short form; the flag tells that no region was given (it is 1 then).
pub(super) fn new_device(text: &str) -> Result<(Device, bool), String> {
    let invalid = || format!("Invalid add value: {text}");
    let mut at = Cursor(text);
    let region = if at.eat('r') { Some(at.number()?) } else { None };
    if !at.eat('z') {
        return Err(invalid());
    }
    let zone = at.number()?;
    if !at.eat('-') {
        return Err(invalid());
    }
    let (ip, port) = required_endpoint(&mut at)?;
    let (replication_ip, replication_port) = if at.eat('R') { required_endpoint(&mut at)? } else { (ip.clone(), port) };
    if !at.eat('/') {
        return Err(invalid());
    }
    let device = device_name(at.until(|c| c == '_'))?;
    let meta = if at.eat('_') { at.0.to_string() } else { String::new() };
    let region_given = region.is_some();
    let region = region.unwrap_or(1);
    let d = Device { id: 0, region, zone, ip, port, replication_ip, replication_port, device, weight: 0.0, meta };
    Ok((d, !region_given))
}

fn required_endpoint(at: &mut Cursor<'_>) -> Result<(String, u16), String> {
    let text = at.until(|c| c == 'R' || c == '/');
    let (host, port) = text.rsplit_once(':').ok_or("Invalid port in add value")?;
    let number = port.parse().map_err(|_| format!("Invalid port :{port} in add value"))?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok((ip(host)?, number))
}

pub(super) fn device_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.starts_with(' ') || name.ends_with(' ') {
        return Err("Invalid device name".into());
    }
    Ok(name.to_string())
}

/// The long form that messages use.
pub(super) fn show(d: &Device) -> String {
    let ip = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    format!(
        "d{}r{}z{}-{}:{}R{}:{}/{}_\"{}\"",
        d.id,
        d.region,
        d.zone,
        ip(&d.ip),
        d.port,
        ip(&d.replication_ip),
        d.replication_port,
        d.device,
        d.meta
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        let (d, defaulted) = new_device("r1z2-[2001:DB8::0:1]:6200R10.1.0.1:6300/sd a_some _note").unwrap();
        assert!(!defaulted);
        assert_eq!(show(&d), "d0r1z2-[2001:db8::1]:6200R10.1.0.1:6300/sd a_\"some _note\"");
        assert!(new_device("z2-10.0.0.1:6200/sda").unwrap().1);
        for bad in ["", "r1z1", "r1z1-10.0.0.1/sda", "r1z1-10.0.0.1:x/sda", "r1z1-10.0.0.256:1/sda", "r1z1-10.0.0.1:1/", "rz1-1.1.1.1:1/a"]
        {
            assert!(new_device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn searches() {
        let (d, _) = new_device("r4z1-1.2.3.4:5678R5.6.7.8:99/sdb1_snet: 5.6.7.8").unwrap();
        let yes = [
            "d0",
            "r4",
            "z1",
            "z1-1.2.3.4",
            "1.2.3.4",
            "z1:5678",
            ":5678",
            "R5.6.7.8",
            "R:99",
            "/sdb1",
            "_snet",
            "",
            "d0r4z1-1.2.3.4:5678R5.6.7.8:99/sdb1_snet: 5",
        ];
        for text in yes {
            assert!(Search::parse(text).unwrap().matches(&d), "{text}");
        }
        for text in ["d1", "r3", "z1-1.2.3.5", ":1", "/sdb", "_x"] {
            assert!(!Search::parse(text).unwrap().matches(&d), "{text}");
        }
        for text in ["q", "d", "1.2.3", "r1x"] {
            assert!(Search::parse(text).is_err(), "{text}");
        }
        assert!(Change::parse("").is_err());
        assert_eq!(Change::parse("10.0.0.9:1/x_").unwrap().meta, Some(String::new()));
    }
}
