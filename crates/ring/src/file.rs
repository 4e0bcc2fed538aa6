//! `.ring.gz`: gzip around either of two layouts.
//!
//! Version 1: `R1NG`, the version in two bytes, a JSON head with its length in four bytes, then for
//! each replica the device ids in two bytes each in the order the head's `byteorder` names. Version 2:
//! the same magic, then sections, each with its length in eight bytes, all big-endian; the last is an
//! index of the others with SHA-256 sums, and two eight-byte numbers say where the index begins in the
//! plain and in the compressed data. Source: Swift's documentation, `overview_ring` and `ring_v2`.

use crate::runtime::{Device, NO_DEVICE, Ring};
use caelum_base::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8; 4] = b"R1NG";
/// Largest ring in plain bytes: 2^23 partitions, 8 replicas, wide ids, and room.
const MAX_PLAIN: u64 = 1 << 30;
const MAX_DEVICES: usize = 1 << 22;

/// Reads a ring file of version 1 or 2. Blocks. Errors: `Unavailable` when the file cannot be read,
/// `Invalid` when it is not a ring.
pub fn load(path: &Path) -> Result<Ring> {
    let compressed = std::fs::read(path).map_err(|e| Error::unavailable(format!("{}: {e}", path.display())))?;
    parse(&compressed).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

/// A ring file's version, bytes per device id, and the ring. Blocks. Errors as [`load`].
pub fn describe(path: &Path) -> Result<(u64, usize, Ring)> {
    let compressed = std::fs::read(path).map_err(|e| Error::unavailable(format!("{}: {e}", path.display())))?;
    parse_whole(&compressed).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

/// Reads the bytes of a ring file. Errors: `Invalid`.
pub fn parse(compressed: &[u8]) -> Result<Ring> {
    parse_whole(compressed).map(|(_, _, ring)| ring)
}

fn parse_whole(compressed: &[u8]) -> Result<(u64, usize, Ring)> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(compressed)
        .take(MAX_PLAIN + 1)
        .read_to_end(&mut plain)
        .map_err(|e| Error::invalid(format!("not a whole gzip file: {e}")))?;
    if plain.len() as u64 > MAX_PLAIN {
        return Err(Error::invalid("larger than a ring can be"));
    }
    let mut rest = plain.as_slice();
    if take(&mut rest, 4)? != MAGIC {
        return Err(Error::invalid("not a ring file"));
    }
    match number(&mut rest, 2)? {
        1 => Ok((1, 2, parse_v1(rest)?)),
        2 => parse_v2(&plain).map(|(width, ring)| (2, width, ring)),
        n => Err(Error::invalid(format!("ring version {n} is not known"))),
    }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    let Some((head, tail)) = rest.split_at_checked(n) else { return Err(Error::invalid("the ring ends early")) };
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8], width: usize) -> Result<u64> {
    Ok(take(rest, width)?.iter().fold(0, |acc, b| acc << 8 | u64::from(*b)))
}

fn blob<'a>(rest: &mut &'a [u8], width: usize) -> Result<&'a [u8]> {
    let n = usize::try_from(number(rest, width)?).unwrap_or(usize::MAX);
    take(rest, n)
}

fn json(data: &[u8]) -> Result<Value> {
    serde_json::from_slice(data).map_err(|e| Error::invalid(format!("the ring's head is not JSON: {e}")))
}

fn parse_v1(mut rest: &[u8]) -> Result<Ring> {
    let head = json(blob(&mut rest, 4)?)?;
    let little = head.get("byteorder").and_then(Value::as_str).unwrap_or("little") == "little";
    let replicas = head.get("replica_count").and_then(Value::as_u64).unwrap_or(0);
    let mut ring = from_head(&head, head.get("devs"))?;
    let rows = table(rest, 2, little, ring.partition_count())?;
    if rows.len() as u64 != replicas {
        return Err(Error::invalid("the ring ends early"));
    }
    ring.replica2part2dev = rows;
    checked(ring)
}

fn parse_v2(plain: &[u8]) -> Result<(usize, Ring)> {
    // The index is found from the end; sections lie where it says.
    let mut tail = plain.get(plain.len().saturating_sub(16)..).unwrap_or(&[]);
    let start = usize::try_from(number(&mut tail, 8)?).unwrap_or(usize::MAX);
    let mut rest = plain.get(start..).ok_or_else(|| Error::invalid("the ring's index is missing"))?;
    let index = json(blob(&mut rest, 8)?)?;
    let section = |name: &str| section(plain, &index, name);
    let head = json(section("swift/ring/metadata")?)?;
    let mut ring = from_head(&head, Some(&json(section("swift/ring/devices")?)?))?;
    let width = match head.get("dev_id_bytes").and_then(Value::as_u64) {
        Some(4) => 4,
        Some(2) | None => 2,
        Some(n) => return Err(Error::invalid(format!("device ids of {n} bytes"))),
    };
    ring.replica2part2dev = table(section("swift/ring/assignments")?, width, false, ring.partition_count())?;
    Ok((width, checked(ring)?))
}

fn section<'a>(plain: &'a [u8], index: &Value, name: &str) -> Result<&'a [u8]> {
    let wrong = |what: &str| Error::invalid(format!("section {name}: {what}"));
    let entry = index.get(name).and_then(Value::as_array).ok_or_else(|| wrong("missing"))?;
    let at = |i: usize| entry.get(i).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let whole = plain.get(at(1)..at(3)).ok_or_else(|| wrong("outside of the file"))?;
    let mut rest = whole;
    let data = blob(&mut rest, 8)?;
    if !rest.is_empty() {
        return Err(wrong("its length differs from the index"));
    }
    let text = |i: usize| entry.get(i).and_then(Value::as_str).unwrap_or("");
    // Other methods are allowed by the format and written by nobody.
    if text(4) == "sha256" && caelum_swiftkit::to_hex(&Sha256::digest(whole)) != text(5) {
        return Err(wrong("damaged, its checksum differs"));
    }
    Ok(data)
}

fn table(data: &[u8], width: usize, little: bool, partitions: u32) -> Result<Vec<Vec<u32>>> {
    if !data.len().is_multiple_of(width) {
        return Err(Error::invalid("the ring ends early"));
    }
    let absent = if width == 2 { u32::from(u16::MAX) } else { u32::MAX };
    let id = |c: &[u8]| {
        let fold = |acc: u32, b: &u8| acc << 8 | u32::from(*b);
        let v = if little { c.iter().rev().fold(0, fold) } else { c.iter().fold(0, fold) };
        if v == absent { NO_DEVICE } else { v }
    };
    let row = (partitions as usize).saturating_mul(width);
    Ok(data.chunks(row).map(|r| r.chunks_exact(width).map(id).collect()).collect())
}

fn from_head(head: &Value, devices: Option<&Value>) -> Result<Ring> {
    let shift = head.get("part_shift").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let part_shift = shift.filter(|s| (1..=32).contains(s)).ok_or_else(|| Error::invalid("part_shift is missing"))?;
    let list = devices.and_then(Value::as_array).ok_or_else(|| Error::invalid("devices are missing"))?;
    if list.len() > MAX_DEVICES {
        return Err(Error::invalid("too many devices"));
    }
    let mut ring = Ring::new(list.iter().map(device).collect::<Result<_>>()?, Vec::new(), 32 - part_shift);
    ring.next_part_power = head.get("next_part_power").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    ring.version = head.get("version").and_then(Value::as_u64).unwrap_or(0);
    Ok(ring)
}

/// Absent fields as upstream fills them: rings of old releases lack regions and replication addresses.
fn device(v: &Value) -> Result<Option<Device>> {
    if v.is_null() {
        return Ok(None);
    }
    let text = |k: &str| v.get(k).and_then(Value::as_str).map(str::to_string);
    let int = |k: &str| v.get(k).and_then(Value::as_u64);
    let small = |k: &str, default: u64| {
        u32::try_from(int(k).unwrap_or(default)).map_err(|_| Error::invalid(format!("a device's {k} is too large")))
    };
    let port = |k: &str| int(k).map(u16::try_from).transpose().map_err(|_| Error::invalid(format!("a device's {k} is too large")));
    let id = int("id").and_then(|n| u32::try_from(n).ok()).ok_or_else(|| Error::invalid("a device without an id"))?;
    let ip = text("ip").ok_or_else(|| Error::invalid("a device without an address"))?;
    let own_port = port("port")?.ok_or_else(|| Error::invalid("a device without a port"))?;
    Ok(Some(Device {
        id,
        region: small("region", 1)?,
        zone: small("zone", 0)?,
        replication_ip: text("replication_ip").unwrap_or_else(|| ip.clone()),
        ip,
        replication_port: port("replication_port")?.unwrap_or(own_port),
        port: own_port,
        device: text("device").unwrap_or_default(),
        weight: v.get("weight").and_then(Value::as_f64).unwrap_or(0.0),
        meta: text("meta").unwrap_or_default(),
    }))
}

/// Ids stand where they say and every assigned one exists: lookups rely on it.
fn checked(ring: Ring) -> Result<Ring> {
    let misplaced = |(i, d): (usize, &Option<Device>)| d.as_ref().is_some_and(|d| d.id as usize != i);
    if ring.devices.iter().enumerate().any(misplaced) {
        return Err(Error::invalid("a device's id differs from its place"));
    }
    let full = ring.partition_count() as usize;
    let rows = &ring.replica2part2dev;
    // Upstream writes rings that were never balanced: no rows.
    if rows.iter().rev().skip(1).any(|r| r.len() != full) {
        return Err(Error::invalid("the ring ends early"));
    }
    let known: Vec<bool> = ring.devices.iter().map(Option::is_some).collect();
    let unknown = |id: &u32| *id != NO_DEVICE && !known.get(*id as usize).copied().unwrap_or(false);
    if rows.iter().any(|r| r.iter().any(unknown)) {
        return Err(Error::invalid("a partition is on a device that does not exist"));
    }
    Ok(ring)
}
