//! Address allocations: which port has which address of which subnet.

use super::{FixedIp, Port};
use caelum_base::{Error, Result};
use caelum_store::{Tx, Value, params};
use std::net::IpAddr;

/// Sortable text of an address: 8 hex digits for IPv4, 32 for IPv6.
pub fn ip_key(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(a) => format!("{:08x}", u32::from(a)),
        IpAddr::V6(a) => format!("{:032x}", u128::from(a)),
    }
}

fn key_number(key: &str) -> Result<u128> {
    u128::from_str_radix(key, 16).map_err(|e| Error::internal("unreadable address key").caused_by(e))
}

/// Takes an address. `false` when another port has it.
pub fn take_address(tx: &mut Tx<'_>, subnet_id: &str, ip: IpAddr, port_id: &str) -> Result<bool> {
    let sql = "INSERT INTO ip_allocations (subnet_id, ip_key, port_id, address) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    Ok(tx.exec(sql, params![subnet_id, ip_key(ip), port_id, ip.to_string()])? > 0)
}

/// Gives one address of a port back.
pub fn release_address(tx: &mut Tx<'_>, subnet_id: &str, ip: IpAddr, port_id: &str) -> Result<()> {
    let sql = "DELETE FROM ip_allocations WHERE subnet_id = $1 AND ip_key = $2 AND port_id = $3";
    tx.exec(sql, params![subnet_id, ip_key(ip), port_id]).map(drop)
}

/// Gives all addresses of a port back.
pub fn release_port(tx: &mut Tx<'_>, port_id: &str) -> Result<()> {
    tx.exec("DELETE FROM ip_allocations WHERE port_id = $1", params![port_id]).map(drop)
}

/// Up to `limit` taken addresses of a subnet from `from` to `to` inclusive, as numbers, ascending.
pub fn taken_between(tx: &mut Tx<'_>, subnet_id: &str, from: IpAddr, to: IpAddr, limit: usize) -> Result<Vec<u128>> {
    let sql =
        format!("SELECT ip_key FROM ip_allocations WHERE subnet_id = $1 AND ip_key >= $2 AND ip_key <= $3 ORDER BY ip_key LIMIT {limit}");
    let rows = tx.query(&sql, params![subnet_id, ip_key(from), ip_key(to)])?;
    rows.iter().map(|r| key_number(&r.text("ip_key")?)).collect()
}

/// The port that has this address in the subnet.
pub fn address_holder(tx: &mut Tx<'_>, subnet_id: &str, ip: IpAddr) -> Result<Option<String>> {
    let sql = "SELECT port_id FROM ip_allocations WHERE subnet_id = $1 AND ip_key = $2";
    tx.query_opt(sql, params![subnet_id, ip_key(ip)])?.map(|r| r.text("port_id")).transpose()
}

/// Ids of the ports that have addresses in the subnet.
pub fn ports_in_subnet(tx: &mut Tx<'_>, subnet_id: &str) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT port_id FROM ip_allocations WHERE subnet_id = $1";
    tx.query(sql, params![subnet_id])?.iter().map(|r| r.text("port_id")).collect()
}

/// A port with an address in the subnet that is neither DHCP's nor follows from its MAC.
pub fn subnet_user(tx: &mut Tx<'_>, subnet_id: &str, auto: bool) -> Result<Option<String>> {
    let owners = if auto { "('network:router_interface', 'network:router_gateway')" } else { "(p.device_owner)" };
    let sql = format!(
        "SELECT a.port_id FROM ip_allocations a JOIN ports p ON p.id = a.port_id \
         WHERE a.subnet_id = $1 AND p.device_owner <> 'network:dhcp' AND p.device_owner IN {owners} LIMIT 1"
    );
    tx.query_opt(&sql, params![subnet_id])?.map(|r| r.text("port_id")).transpose()
}

/// Ports that have one of these addresses; text of the addresses as stored.
pub fn ports_with_addresses(tx: &mut Tx<'_>, addresses: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for a in addresses {
        let rows = tx.query("SELECT port_id FROM ip_allocations WHERE address = $1", params![a.as_str()])?;
        for r in &rows {
            out.push(r.text("port_id")?);
        }
    }
    Ok(out)
}

/// Ports with an address that contains one of these texts.
pub fn ports_with_substring(tx: &mut Tx<'_>, parts: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for p in parts {
        let pattern = format!("%{}%", p.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        let rows = tx.query("SELECT port_id FROM ip_allocations WHERE address LIKE $1 ESCAPE '\\'", params![pattern])?;
        for r in &rows {
            out.push(r.text("port_id")?);
        }
    }
    Ok(out)
}

/// Addresses used in a subnet.
pub fn used_in_subnet(tx: &mut Tx<'_>, subnet_id: &str) -> Result<i64> {
    let row = tx.query_opt("SELECT COUNT(*) AS n FROM ip_allocations WHERE subnet_id = $1", params![subnet_id])?;
    row.map_or(Ok(0), |r| r.int("n"))
}

/// Writes a port's security group memberships.
pub fn set_port_groups(tx: &mut Tx<'_>, port_id: &str, groups: &[String], fresh: bool) -> Result<()> {
    if !fresh {
        tx.exec("DELETE FROM port_security_groups WHERE port_id = $1", params![port_id])?;
    }
    for g in groups {
        tx.exec("INSERT INTO port_security_groups (port_id, security_group_id) VALUES ($1, $2)", params![port_id, g])?;
    }
    Ok(())
}

/// Whether a port is a member of the group.
pub fn group_in_use(tx: &mut Tx<'_>, group_id: &str) -> Result<bool> {
    let sql = "SELECT port_id FROM port_security_groups WHERE security_group_id = $1 LIMIT 1";
    Ok(tx.query_opt(sql, params![group_id])?.is_some())
}

/// Member ports of groups, as ids.
pub fn group_ports(tx: &mut Tx<'_>, groups: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for g in groups {
        for r in tx.query("SELECT port_id FROM port_security_groups WHERE security_group_id = $1", params![g])? {
            out.push(r.text("port_id")?);
        }
    }
    Ok(out)
}

/// Addresses of the bound members of a group.
pub fn group_addresses(tx: &mut Tx<'_>, group_id: &str) -> Result<Vec<IpAddr>> {
    let sql = "SELECT a.address AS address FROM port_security_groups g JOIN ports p ON p.id = g.port_id \
               JOIN ip_allocations a ON a.port_id = p.id WHERE g.security_group_id = $1 AND p.host_id > '' ORDER BY a.ip_key";
    let rows = tx.query(sql, params![group_id])?;
    rows.iter().map(|r| r.text("address")?.parse().map_err(|e| Error::internal("unreadable address").caused_by(e))).collect()
}

/// Allocations and memberships that no port's body backs, and bodies without their rows. With
/// `heal`, the rows are made equal to the bodies.
pub fn audit_allocations(tx: &mut Tx<'_>, heal: bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let orphans = tx.query(
        "SELECT a.subnet_id AS s, a.ip_key AS k, a.port_id AS p, a.address AS i FROM ip_allocations a \
         LEFT JOIN ports p ON p.id = a.port_id WHERE p.id IS NULL",
        &[],
    )?;
    for r in &orphans {
        found.push(format!("address {} is held by port {}, which does not exist", r.text("i")?, r.text("p")?));
        if heal {
            tx.exec("DELETE FROM ip_allocations WHERE subnet_id = $1 AND ip_key = $2", &[r.text("s")?.into(), r.text("k")?.into()])?;
        }
    }
    for port in tx.list::<Port>(&caelum_store::Query::new())? {
        let rows = tx.query("SELECT subnet_id, address FROM ip_allocations WHERE port_id = $1", params![port.id.as_str()])?;
        let same = rows.len() == port.fixed_ips.len() && port.fixed_ips.iter().all(|f| rows.iter().any(|r| holds(r, f)));
        if same {
            continue;
        }
        found.push(format!("port {} and its address allocations differ", port.id));
        if heal {
            release_port(tx, &port.id)?;
            for f in &port.fixed_ips {
                take_address(tx, &f.subnet_id, f.ip_address, &port.id)?;
            }
        }
    }
    Ok(found)
}

fn holds(row: &caelum_store::Row, f: &FixedIp) -> bool {
    let text = |c: &str| row.text(c).unwrap_or_default();
    text("subnet_id") == f.subnet_id && text("address") == f.ip_address.to_string()
}

/// Highest MAC-independent counter value reserved so far, raised by `by`: returns the new value.
pub fn raise_counter(tx: &mut Tx<'_>, name: &str, by: i64) -> Result<i64> {
    let sql = "INSERT INTO counters (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = counters.value + $2";
    tx.exec(sql, &[name.into(), Value::Int(by)])?;
    let row = tx.query_opt("SELECT value FROM counters WHERE name = $1", params![name])?;
    row.ok_or_else(|| Error::internal("a counter vanished"))?.int("value")
}
