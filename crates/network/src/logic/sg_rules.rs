//! What a security group rule may say. Pure: what passes here the host can load.

use super::net::parse_prefix;
use crate::store::Rule;
use caelum_base::{Error, Result};

/// Protocol names and numbers (IANA) that rules may use by name.
const PROTOCOLS: [(&str, u8); 25] = [
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
    ("ip", 0),
];

fn bad(code: &'static str, message: String) -> Error {
    Error::invalid(message).code(code)
}

/// The protocol number of a stored protocol text.
pub fn protocol_number(text: &str) -> Option<u8> {
    text.parse().ok().or_else(|| PROTOCOLS.iter().find(|(n, _)| *n == text).map(|(_, v)| *v))
}

/// Spellings of one protocol have one identity.
pub fn protocol_identity(text: &str) -> String {
    protocol_number(text).map_or_else(|| text.to_string(), |n| n.to_string())
}

/// Reads a protocol: a name in any case, a number as text or number; `any` means none.
pub fn protocol(value: &serde_json::Value) -> Result<Option<String>> {
    let text = match value {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::String(s) => s.trim().to_ascii_lowercase(),
        v => v.to_string(),
    };
    if text == "any" {
        return Ok(None);
    }
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain && text.parse::<u8>().is_ok() {
        return Ok(Some(text.trim_start_matches('0').to_string()).map(|t| if t.is_empty() { "0".into() } else { t }));
    }
    if PROTOCOLS.iter().any(|(n, _)| *n == text) {
        return Ok(Some(text));
    }
    let names: Vec<&str> = PROTOCOLS.iter().map(|(n, _)| *n).collect();
    let m = format!(
        "Security group rule protocol {text} not supported. Only protocol values {names:?} and integer representations [0 to 255] are supported."
    );
    Err(bad("SecurityGroupRuleInvalidProtocol", m))
}

/// Checks a rule as a whole; `min` and `max` are as the caller gave them.
pub fn check(rule: &mut Rule, min: Option<i64>, max: Option<i64>) -> Result<()> {
    if !matches!(rule.direction.as_str(), "ingress" | "egress") {
        let m = format!("Invalid input for direction. Reason: '{}' is not in ['ingress', 'egress'].", rule.direction);
        return Err(bad("HTTPBadRequest", m));
    }
    rule.ethertype = match rule.ethertype.to_ascii_lowercase().as_str() {
        "ipv4" => "IPv4".to_string(),
        "ipv6" => "IPv6".to_string(),
        other => {
            let m = format!("Security group rule for ethertype '{other}' not supported. Allowed values are ['IPv4', 'IPv6'].");
            return Err(bad("SecurityGroupRuleInvalidEtherType", m));
        }
    };
    if rule.remote_ip_prefix.is_some() && rule.remote_group_id.is_some() {
        let m = "Only remote_ip_prefix, remote_group_id or remote_address_group_id may be provided.";
        return Err(bad("SecurityGroupMultipleRemoteEntites", m.into()));
    }
    check_prefix(rule)?;
    let number = rule.protocol.as_deref().and_then(protocol_number);
    let only_v6 = matches!(number, Some(43 | 44 | 58 | 59 | 60)) && rule.protocol.as_deref() != Some("icmp");
    if only_v6 && rule.ethertype == "IPv4" {
        let m = format!("Invalid ethertype {} for protocol {}.", rule.ethertype, rule.protocol.as_deref().unwrap_or(""));
        return Err(bad("SecurityGroupEthertypeConflictWithProtocol", m));
    }
    check_ports(rule, number, min, max)
}

fn check_prefix(rule: &mut Rule) -> Result<()> {
    let Some(text) = &rule.remote_ip_prefix else { return Ok(()) };
    let Some(net) = parse_prefix(text) else {
        return Err(bad("InvalidCIDR", format!("Invalid CIDR {text} given as IP prefix.")));
    };
    let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    if family != rule.ethertype {
        let m = format!("Conflicting value ethertype {} for CIDR {text}", rule.ethertype);
        return Err(bad("SecurityGroupRuleParameterConflict", m));
    }
    if !text.contains('/') {
        rule.remote_ip_prefix = Some(net.to_string());
    }
    Ok(())
}

fn check_ports(rule: &mut Rule, number: Option<u8>, min: Option<i64>, max: Option<i64>) -> Result<()> {
    if min.is_none() && max.is_none() {
        return Ok(());
    }
    let Some(number) = number else {
        return Err(bad("SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.".into()));
    };
    match number {
        6 | 17 | 33 | 132 | 136 => transport_ports(rule, min, max),
        1 | 58 => icmp(rule, min, max),
        _ => {
            let valid = ["dccp", "sctp", "tcp", "udp", "udplite", "icmp", "ipv6-icmp"];
            let m = format!("Invalid protocol {} for port range, only supported for {valid:?}.", rule.protocol.as_deref().unwrap_or(""));
            Err(bad("SecurityGroupInvalidProtocolForPort", m))
        }
    }
}

fn transport_ports(rule: &mut Rule, min: Option<i64>, max: Option<i64>) -> Result<()> {
    let range = || bad("SecurityGroupInvalidPortRange", "For TCP/UDP protocols, port_range_min must be <= port_range_max".into());
    let (Some(min), Some(max)) = (min, max) else { return Err(range()) };
    let port = |n: i64| {
        let p = u16::try_from(n).ok().filter(|p| *p > 0);
        p.ok_or_else(|| bad("SecurityGroupInvalidPortValue", format!("Invalid value for port {n}")))
    };
    let (low, high) = (port(min)?, port(max)?);
    if low > high {
        return Err(range());
    }
    (rule.port_range_min, rule.port_range_max) = (Some(low), Some(high));
    Ok(())
}

fn icmp(rule: &mut Rule, kind: Option<i64>, code: Option<i64>) -> Result<()> {
    let byte = |field: &str, attr: &str, n: i64| {
        let m = || format!("Invalid value for ICMP {field} ({attr}) {n}. It must be 0 to 255.");
        u8::try_from(n).map(u16::from).map_err(|_| bad("SecurityGroupInvalidIcmpValue", m()))
    };
    rule.port_range_min = kind.map(|n| byte("type", "port_range_min", n)).transpose()?;
    rule.port_range_max = code.map(|n| byte("code", "port_range_max", n)).transpose()?;
    if let (None, Some(code)) = (rule.port_range_min, rule.port_range_max) {
        let m = format!("ICMP code (port-range-max) {code} is provided but ICMP type (port-range-min) is missing.");
        return Err(bad("SecurityGroupMissingIcmpType", m));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Std;
    use serde_json::json;

    fn rule(ethertype: &str, proto: serde_json::Value, prefix: Option<&str>) -> Result<Rule> {
        Ok(Rule {
            id: "r".into(),
            project_id: "p".into(),
            security_group_id: "g".into(),
            direction: "ingress".into(),
            ethertype: ethertype.into(),
            protocol: protocol(&proto)?,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: prefix.map(Into::into),
            remote_group_id: None,
            std: Std::default(),
        })
    }

    #[test]
    fn accepts_what_the_host_can_load_and_nothing_else() {
        let cases = [
            ("IPv4", json!("TCP"), None, Some(1), Some(65_535), ""),
            ("IPv4", json!("tcp"), None, Some(0), Some(10), "SecurityGroupInvalidPortValue"),
            ("IPv4", json!("tcp"), None, Some(10), Some(65_536), "SecurityGroupInvalidPortValue"),
            ("IPv4", json!("tcp"), None, Some(80), None, "SecurityGroupInvalidPortRange"),
            ("IPv4", json!("tcp"), None, Some(81), Some(80), "SecurityGroupInvalidPortRange"),
            ("IPv4", json!(null), None, Some(80), Some(80), "SecurityGroupProtocolRequiredWithPorts"),
            ("IPv4", json!("vrrp"), None, Some(80), Some(80), "SecurityGroupInvalidProtocolForPort"),
            ("IPv4", json!(112), None, None, None, ""),
            ("IPv4", json!("icmp"), None, Some(8), None, ""),
            ("IPv4", json!("icmp"), None, Some(256), None, "SecurityGroupInvalidIcmpValue"),
            ("IPv4", json!("icmp"), None, None, Some(1), "SecurityGroupMissingIcmpType"),
            ("IPv4", json!("ipv6-icmp"), None, None, None, "SecurityGroupEthertypeConflictWithProtocol"),
            ("IPv6", json!("ipv6-icmp"), None, None, None, ""),
            ("IPv6", json!("tcp"), Some("10.0.0.0/8"), None, None, "SecurityGroupRuleParameterConflict"),
            ("IPv4", json!("tcp"), Some("10.0.0.0/33"), None, None, "InvalidCIDR"),
            ("IPv4", json!("tcp"), Some("0.0.0.0/0"), None, None, ""),
            ("ipx", json!("tcp"), None, None, None, "SecurityGroupRuleInvalidEtherType"),
        ];
        for (ether, proto, prefix, min, max, want) in cases {
            let mut r = rule(ether, proto.clone(), prefix).unwrap();
            let got = check(&mut r, min, max).err().map_or("", |e| e.code);
            assert_eq!(got, want, "{ether} {proto} {prefix:?} {min:?} {max:?}");
        }
        for bad in [json!("foo"), json!(256), json!(-1), json!("")] {
            assert_eq!(protocol(&bad).map_err(|e| e.code), Err("SecurityGroupRuleInvalidProtocol"), "{bad}");
        }
    }

    #[test]
    fn spellings_of_one_rule_are_one_rule() {
        let a = rule("IPv4", json!("tcp"), Some("10.0.0.7/8")).unwrap();
        let b = rule("IPv4", json!(6), Some("10.0.0.0/8")).unwrap();
        assert_eq!(a.identity(), b.identity());
        assert_eq!(rule("IPv4", json!("tcp"), Some("0.0.0.0/0")).unwrap().identity(), rule("IPv4", json!(6), None).unwrap().identity());
    }
}
