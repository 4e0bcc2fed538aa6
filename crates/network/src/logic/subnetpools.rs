//! Subnet pools: prefixes from which subnets are cut without overlap.

use super::networks::{check_revision, set};
use super::subnets::{SubnetInput, bad};
use super::{State, Work, net, not_found, quota};
use crate::store::{Std, Subnet, SubnetPool};
use caelum_base::{Error, Result};
use caelum_store::{Filter, Query, Stored};
use ipnet::IpNet;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub struct PoolInput {
    pub project_id: String,
    pub name: String,
    pub description: String,
    pub prefixes: Vec<IpNet>,
    pub default_prefixlen: Option<u8>,
    pub min_prefixlen: Option<u8>,
    pub max_prefixlen: Option<u8>,
    pub default_quota: Option<i64>,
    pub shared: bool,
    pub is_default: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PoolChange {
    pub name: Option<String>,
    pub description: Option<String>,
    pub prefixes: Option<Vec<IpNet>>,
    pub default_prefixlen: Option<u8>,
    pub min_prefixlen: Option<u8>,
    pub max_prefixlen: Option<u8>,
    pub default_quota: Option<Option<i64>>,
    pub is_default: Option<bool>,
    pub if_revision: Option<i64>,
}

/// Sorted, merged prefixes of one family. Errors: `Invalid` when mixed or empty.
pub fn compact(prefixes: &[IpNet]) -> Result<Vec<IpNet>> {
    let Some(first) = prefixes.first() else { return Err(Error::invalid("Empty subnet prefix list.").code("EmptySubnetPoolPrefixList")) };
    if prefixes.iter().any(|p| p.addr().is_ipv4() != first.addr().is_ipv4()) {
        return Err(Error::invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool.").code("PrefixVersionMismatch"));
    }
    let truncated: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
    let mut out = IpNet::aggregate(&truncated);
    out.sort();
    Ok(out)
}

fn check_lengths(p: &SubnetPool) -> Result<()> {
    let longest = if p.ip_version == 4 { 32 } else { 128 };
    let ordered = p.min_prefixlen <= p.default_prefixlen && p.default_prefixlen <= p.max_prefixlen && p.max_prefixlen <= longest;
    if ordered && p.min_prefixlen >= if p.ip_version == 4 { 8 } else { 1 } {
        return Ok(());
    }
    let m = format!(
        "Illegal prefix bounds: min_prefixlen={}, default_prefixlen={}, max_prefixlen={}.",
        p.min_prefixlen, p.default_prefixlen, p.max_prefixlen
    );
    Err(Error::invalid(m).code("IllegalSubnetPoolPrefixBounds"))
}

fn one_default(w: &mut Work<'_, '_>, pool: &SubnetPool) -> Result<()> {
    let q =
        Query::new().eq("is_default", true).eq("ip_version", i64::from(pool.ip_version)).filter(Filter::Ne("id", pool.id.as_str().into()));
    if pool.is_default && w.tx.count::<SubnetPool>(&q)? > 0 {
        let m = "A default subnetpool for this IP family has already been set.";
        return Err(bad(m));
    }
    Ok(())
}

/// Finds a prefix for a subnet that names a pool (or just the IP version, with a default pool).
pub fn carve(w: &mut Work<'_, '_>, s: &SubnetInput) -> Result<IpNet> {
    let Some(pool_id) = &s.subnetpool_id else { return Err(bad("a subnetpool must be specified in the absence of a cidr")) };
    let pool = w.tx.get::<SubnetPool>(pool_id)?.ok_or_else(|| not_found("subnetpool", pool_id))?;
    let len = s.prefixlen.unwrap_or(pool.default_prefixlen);
    if len < pool.min_prefixlen {
        let m = format!("Unable to allocate subnet with prefix length {len}, minimum allowed prefix is {}.", pool.min_prefixlen);
        return Err(Error::invalid(m).code("MinPrefixSubnetAllocationError"));
    }
    if len > pool.max_prefixlen {
        let m = format!("Unable to allocate subnet with prefix length {len}, maximum allowed prefix is {}.", pool.max_prefixlen);
        return Err(Error::invalid(m).code("MaxPrefixSubnetAllocationError"));
    }
    let taken: Vec<IpNet> =
        w.tx.list::<Subnet>(&Query::new().eq("subnetpool_id", pool_id.as_str()))?.into_iter().map(|s| s.value.cidr).collect();
    first_free(&pool.prefixes, &taken, len).ok_or_else(|| {
        let m = format!("Failed to allocate subnet: Insufficient prefix space to allocate subnet size /{len}.");
        Error::status(503, m).code("SubnetAllocationError")
    })
}

/// The lowest prefix of this length inside `prefixes` that overlaps nothing in `taken`.
fn first_free(prefixes: &[IpNet], taken: &[IpNet], len: u8) -> Option<IpNet> {
    let mut taken: Vec<(u128, u128)> = taken.iter().map(net::range).collect();
    taken.sort_unstable();
    for p in prefixes.iter().filter(|p| p.prefix_len() <= len) {
        let (mut at, end) = net::range(p);
        let width = u32::from(p.max_prefix_len() - len);
        let size = 1u128.checked_shl(width).unwrap_or(u128::MAX);
        while at.checked_add(size - 1).is_some_and(|last| last <= end) {
            let last = at + (size - 1);
            let clash = taken.iter().find(|(a, b)| *a <= last && *b >= at);
            let Some((_, b)) = clash else { return IpNet::new(net::address(at, p.network()), len).ok() };
            // The next multiple of the size after the clash.
            at = (b / size + 1).checked_mul(size)?;
        }
    }
    None
}

impl State {
    pub async fn subnetpool_create(self: &Arc<Self>, i: PoolInput) -> Result<SubnetPool> {
        self.write(move |w| {
            quota::require(w.tx, quota::SUBNETPOOL, &i.project_id, 1)?;
            let prefixes = compact(&i.prefixes)?;
            let v4 = prefixes.first().is_none_or(|p| p.addr().is_ipv4());
            let min = i.min_prefixlen.unwrap_or(if v4 { 8 } else { 64 });
            let pool = SubnetPool {
                id: w.st.env.uuid(),
                project_id: i.project_id.clone(),
                name: i.name.clone(),
                ip_version: if v4 { 4 } else { 6 },
                prefixes,
                default_prefixlen: i.default_prefixlen.unwrap_or(min),
                min_prefixlen: min,
                max_prefixlen: i.max_prefixlen.unwrap_or(if v4 { 32 } else { 128 }),
                default_quota: i.default_quota,
                shared: i.shared,
                is_default: i.is_default,
                std: Std::new(w.now, i.description.clone()),
            };
            check_lengths(&pool)?;
            one_default(w, &pool)?;
            w.tx.insert(&pool)?;
            Ok(pool)
        })
        .await
    }

    pub async fn subnetpool_update(self: &Arc<Self>, id: String, c: PoolChange) -> Result<SubnetPool> {
        self.write(move |w| {
            let mut p = w.tx.get::<SubnetPool>(&id)?.ok_or_else(|| not_found("subnetpool", &id))?;
            check_revision(c.if_revision, &p.std)?;
            if let Some(new) = &c.prefixes {
                let new = compact(new)?;
                let kept = p.prefixes.iter().all(|old| new.iter().any(|n| n.contains(old)));
                if !kept {
                    let m = "Illegal subnetpool update : Existing prefixes must be a subset of the new prefixes.";
                    return Err(Error::invalid(m).code("IllegalSubnetPoolUpdate"));
                }
                p.prefixes = compact(&new)?;
            }
            set(&mut p.value.name, &c.name);
            set(&mut p.value.std.description, &c.description);
            set(&mut p.value.default_prefixlen, &c.default_prefixlen);
            set(&mut p.value.min_prefixlen, &c.min_prefixlen);
            set(&mut p.value.max_prefixlen, &c.max_prefixlen);
            set(&mut p.value.default_quota, &c.default_quota);
            set(&mut p.value.is_default, &c.is_default);
            check_lengths(&p)?;
            one_default(w, &p)?;
            p.std.touch(w.now);
            w.tx.update(&mut p)?;
            Ok(p.into_inner())
        })
        .await
    }

    pub async fn subnetpool_delete(self: &Arc<Self>, id: String) -> Result<()> {
        self.write(move |w| {
            let p: Stored<SubnetPool> = w.tx.get(&id)?.ok_or_else(|| not_found("subnetpool", &id))?;
            if w.tx.count::<Subnet>(&Query::new().eq("subnetpool_id", id.as_str()))? > 0 {
                let m = "Unable to complete operation on subnet pool. Subnet pool has existing allocations.";
                return Err(Error::conflict(m).code("SubnetPoolDeleteError"));
            }
            w.tx.delete(&p)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_the_lowest_free_prefix() {
        let net = |t: &str| t.parse::<IpNet>().unwrap();
        let pool = [net("10.0.0.0/23"), net("10.9.0.0/24")];
        let cut = |taken: &[IpNet], len| first_free(&pool, taken, len).map(|n| n.to_string());
        assert_eq!(cut(&[], 24).as_deref(), Some("10.0.0.0/24"));
        assert_eq!(cut(&[net("10.0.0.0/26")], 24).as_deref(), Some("10.0.1.0/24"));
        assert_eq!(cut(&[net("10.0.0.0/26"), net("10.0.1.128/30")], 24).as_deref(), Some("10.9.0.0/24"));
        assert_eq!(cut(&[net("10.0.0.0/23"), net("10.9.0.0/24")], 24), None);
        assert_eq!(cut(&[], 22), None);
    }
}
