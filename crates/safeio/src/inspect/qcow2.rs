//! qcow2 versions 2 and 3. Field offsets follow the published format description.

use super::bytes::{Image, be32, be64};
use super::{Verdict, ensure, refuse};

/// Dirty (0), compression type (3), extended L2 entries (4). Corrupt (1) and external data file (2)
/// are known but refused.
const ALLOWED_INCOMPATIBLE: u64 = 1 | 1 << 3 | 1 << 4;
const L1_BYTES_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
const SNAPSHOTS_MAX: u32 = 256;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_CRYPTO: u32 = 0x0537_be77;

pub(super) fn check(image: &Image) -> Verdict<u64> {
    let h = image.head.as_slice();
    ensure(h.len() >= 104, "its qcow2 header is cut short")?;
    let u32_at = |o| be32(h, o).unwrap_or(0);
    let u64_at = |o| be64(h, o).unwrap_or(0);
    let version = u32_at(4);
    ensure(version == 2 || version == 3, "its qcow2 version is not 2 or 3")?;
    ensure(u64_at(8) == 0 && u32_at(16) == 0, "it has a backing file")?;
    ensure(u32_at(32) == 0, "it is encrypted")?;
    let cluster_bits = u32_at(20);
    ensure((9..=21).contains(&cluster_bits), "its qcow2 cluster size is out of range")?;
    let cluster = 1_u64 << cluster_bits;
    let header_length = match version {
        2 => 72,
        _ => check_v3(h, cluster)?,
    };
    check_extensions(h, header_length, cluster)?;
    let extended_l2 = version == 3 && u64_at(72) & 1 << 4 != 0;
    let size = u64_at(24);
    check_tables(h, image.total, cluster, size, extended_l2)?;
    Ok(size)
}

/// The version 3 fields; returns the header length.
fn check_v3(h: &[u8], cluster: u64) -> Verdict<usize> {
    let incompatible = be64(h, 72).unwrap_or(u64::MAX);
    ensure(incompatible & 1 << 1 == 0, "it is marked corrupt")?;
    ensure(incompatible & 1 << 2 == 0, "it has an external data file")?;
    ensure(incompatible & !ALLOWED_INCOMPATIBLE == 0, "it uses unknown qcow2 features")?;
    ensure(be32(h, 96).is_some_and(|order| order <= 6), "its refcount width is out of range")?;
    let length = be32(h, 100).unwrap_or(0);
    ensure(length >= 104 && length.is_multiple_of(8) && u64::from(length) <= cluster, "its qcow2 header length is wrong")?;
    let compression = if length > 104 { h.get(104).copied().unwrap_or(0xff) } else { 0 };
    ensure(compression <= 1, "it uses an unknown compression")?;
    ensure((compression != 0) == (incompatible & 1 << 3 != 0), "its compression fields disagree")?;
    Ok(length as usize)
}

fn check_extensions(h: &[u8], start: usize, cluster: u64) -> Verdict<()> {
    let end = h.len().min(cluster as usize);
    let mut at = start;
    while at + 8 <= end {
        let (Some(kind), Some(len)) = (be32(h, at), be32(h, at + 4)) else { break };
        match kind {
            0 => return Ok(()),
            EXTENSION_DATA_FILE => return refuse("it names an external data file"),
            EXTENSION_CRYPTO => return refuse("it is encrypted"),
            _ => {}
        }
        let len = len as usize;
        ensure(len <= end - at - 8, "a qcow2 header extension is too long")?;
        at += 8 + len.div_ceil(8) * 8;
    }
    Ok(())
}

fn check_tables(h: &[u8], total: u64, cluster: u64, size: u64, extended_l2: bool) -> Verdict<()> {
    let u64_at = |o| be64(h, o).unwrap_or(0);
    let l1_entries = u64::from(be32(h, 36).unwrap_or(0));
    ensure(l1_entries * 8 <= L1_BYTES_MAX, "its L1 table is too large")?;
    let l2_entries = cluster / if extended_l2 { 16 } else { 8 };
    ensure(size.div_ceil(cluster).div_ceil(l2_entries) <= l1_entries, "its L1 table does not cover its virtual size")?;
    let refcount_bytes = u64::from(be32(h, 56).unwrap_or(0)) * cluster;
    ensure(refcount_bytes > 0 && refcount_bytes <= REFCOUNT_TABLE_BYTES_MAX, "its refcount table has a wrong size")?;
    let snapshots = be32(h, 60).unwrap_or(u32::MAX);
    ensure(snapshots <= SNAPSHOTS_MAX, "it holds too many internal snapshots")?;
    let (l1, refcounts) = (u64_at(40), u64_at(48));
    for (offset, used) in [(l1, l1_entries > 0), (refcounts, true), (u64_at(64), snapshots > 0)] {
        let placed = offset >= cluster && offset % cluster == 0 && offset < total;
        ensure(placed || !used, "a qcow2 table lies outside the file or over the header")?;
    }
    let apart = l1_entries == 0 || l1 + l1_entries * 8 <= refcounts || refcounts + refcount_bytes <= l1;
    ensure(apart, "its qcow2 tables overlap")
}
