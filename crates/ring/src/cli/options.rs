//! Command line options in the forms that scripts for `swift-ring-builder` use: `-r 1`, `-r1`,
//! `--region 1`, `--region=1`, long ones shortened as far as they stay unambiguous, anywhere among the
//! other arguments.

use super::address::{Change, Search, address, device_name};
use crate::runtime::Device;
use std::collections::BTreeMap;

/// An option: its letter, its name, and whether it takes a value.
pub(super) type Known = (char, &'static str, bool);

pub(super) const DEVICE_OPTIONS: &[Known] = &[
    ('u', "id", true),
    ('r', "region", true),
    ('z', "zone", true),
    ('i', "ip", true),
    ('p', "port", true),
    ('j', "replication-ip", true),
    ('q', "replication-port", true),
    ('d', "device", true),
    ('w', "weight", true),
    ('m', "meta", true),
    ('I', "change-ip", true),
    ('P', "change-port", true),
    ('J', "change-replication-ip", true),
    ('Q', "change-replication-port", true),
    ('D', "change-device", true),
    ('M', "change-meta", true),
    ('y', "yes", false),
];

/// Parsed arguments.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    given: BTreeMap<&'static str, String>,
    pub args: Vec<String>,
}

impl Options {
    pub fn parse(known: &[Known], argv: &[String]) -> Result<Self, String> {
        let mut out = Self::default();
        let mut rest = argv.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                out.args.extend(rest.cloned());
                break;
            } else if let Some(long) = arg.strip_prefix("--") {
                let (name, inline) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_string())));
                let found = find(known, name)?;
                out.take(found, inline, &mut rest, &format!("--{}", found.1))?;
            } else if let Some(letters) = arg.strip_prefix('-').filter(|l| !l.is_empty()) {
                let mut letters = letters.chars();
                while let Some(c) = letters.next() {
                    let found = known.iter().find(|k| k.0 == c).ok_or_else(|| format!("no such option: -{c}"))?;
                    let inline = Some(letters.as_str().to_string()).filter(|s| found.2 && !s.is_empty());
                    let stop = found.2;
                    out.take(found, inline, &mut rest, &format!("-{c}"))?;
                    if stop {
                        break;
                    }
                }
            } else {
                out.args.push(arg.clone());
            }
        }
        Ok(out)
    }

    fn take(&mut self, known: &Known, inline: Option<String>, rest: &mut std::slice::Iter<'_, String>, shown: &str) -> Result<(), String> {
        let value = match (known.2, inline) {
            (false, Some(_)) => return Err(format!("{shown} option does not take a value")),
            (false, None) => String::new(),
            (true, Some(v)) => v,
            (true, None) => rest.next().cloned().ok_or_else(|| format!("{shown} option requires 1 argument"))?,
        };
        self.given.insert(known.1, value);
        Ok(())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let wrong = |v: &str| format!("option --{name}: invalid value: {}", caelum_swiftkit::python::repr(v));
        self.text(name).map(|v| v.parse().map_err(|_| wrong(v))).transpose()
    }

    /// Devices are named by options rather than by short forms.
    pub fn names_devices(&self) -> bool {
        let names = ["id", "region", "zone", "ip", "port", "replication-ip", "replication-port", "device", "weight", "meta"];
        names.iter().any(|n| self.flag(n))
    }

    fn host(&self, name: &str) -> Result<Option<String>, String> {
        self.text(name).filter(|t| !t.is_empty()).map(address).transpose()
    }

    pub fn search(&self) -> Result<Search, String> {
        Ok(Search {
            id: self.number("id")?,
            region: self.number("region")?,
            zone: self.number("zone")?,
            ip: self.host("ip")?,
            port: self.number("port")?,
            replication_ip: self.host("replication-ip")?,
            replication_port: self.number("replication-port")?,
            device: self.text("device").map(str::to_string),
            weight: self.number("weight")?,
            meta: self.text("meta").map(str::to_string),
        })
    }

    pub fn change(&self) -> Result<Change, String> {
        let text = |n: &str| self.text(n).filter(|t| !t.is_empty()).map(str::to_string);
        Ok(Change {
            ip: self.host("change-ip")?,
            port: self.number("change-port")?,
            replication_ip: self.host("change-replication-ip")?,
            replication_port: self.number("change-replication-port")?,
            device: text("change-device"),
            meta: text("change-meta"),
        })
    }

    pub fn new_device(&self) -> Result<Device, String> {
        let required = ["region", "zone", "ip", "port", "device", "weight"];
        if let Some(name) = required.iter().find(|n| !self.flag(n)) {
            return Err(format!("Required argument -{}/--{name} not specified.", &name[..1]));
        }
        let ip = self.host("ip")?.unwrap_or_default();
        let port = self.number("port")?.unwrap_or(0);
        Ok(Device {
            id: 0,
            region: self.number("region")?.unwrap_or(1),
            zone: self.number("zone")?.unwrap_or(0),
            replication_ip: self.host("replication-ip")?.unwrap_or_else(|| ip.clone()),
            replication_port: self.number("replication-port")?.unwrap_or(port),
            ip,
            port,
            device: device_name(self.text("device").unwrap_or(""))?,
            weight: self.number("weight")?.unwrap_or(0.0),
            meta: self.text("meta").unwrap_or("").to_string(),
        })
    }
}

fn find<'a>(known: &'a [Known], name: &str) -> Result<&'a Known, String> {
    if let Some(exact) = known.iter().find(|k| k.1 == name) {
        return Ok(exact);
    }
    let mut fits = known.iter().filter(|k| !name.is_empty() && k.1.starts_with(name));
    match (fits.next(), fits.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("no such option: --{name}")),
        (Some(_), Some(_)) => Err(format!("ambiguous option: --{name}")),
    }
}
