//! Writing `.ring.gz`. The plain bytes equal upstream's for the same ring; compressed they differ only
//! in the choices of the compressor. Version 2 promises more about the compressed bytes: sections begin
//! at full flushes and the file ends in uncompressed blocks of known size, so that a reader finds the
//! index from the end without reading the rest.

use crate::python;
use crate::runtime::{Device, NO_DEVICE, Ring};
use caelum_base::{Error, Result};
use caelum_swiftkit::python::json_quoted;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use sha2::{Digest, Sha256};
use std::io::Write as _;
use std::path::Path;

/// Layout of a ring file. Upstream before 2.36 reads only version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// Upstream's fixed time in the gzip header: equal rings make equal files.
const MTIME: u32 = 1_300_507_380;
const MAGIC: &[u8; 4] = b"R1NG";

/// Writes a ring file in place of what is there, whole or not at all. Blocks. Errors: `Invalid` when
/// version 1 cannot hold the ring's device ids, `Unavailable` when the disk refuses.
pub fn save(ring: &Ring, path: &Path, version: Version, wide_ids: bool) -> Result<()> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("ring");
    let bytes = encode(ring, version, wide_ids, name)?;
    replace(path, &bytes)
}

/// Replaces a file by way of a synced temporary one beside it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::unavailable(format!("{}: {e}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(fail(e));
    }
    // The rename itself is durable once the directory is.
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(fail)
}

/// The bytes of a ring file. `wide_ids`: four bytes per device id even when two suffice (version 2).
/// `file_name` stands in the gzip header.
pub fn encode(ring: &Ring, version: Version, wide_ids: bool, file_name: &str) -> Result<Vec<u8>> {
    let highest = ring.devices.len().saturating_sub(1);
    let width = if wide_ids || highest >= usize::from(u16::MAX) { 4 } else { 2 };
    let mut out = Gzip::new(file_name);
    match version {
        Version::One if width != 2 => return Err(Error::invalid("Ring v1 only supports 2-byte dev IDs")),
        Version::One => {
            out.stored(&[&MAGIC[..], &[0, 1]].concat());
            out.compressed(&plain_v1(ring));
        }
        Version::Two => write_v2(ring, width, &mut out),
    }
    Ok(out.finish())
}

fn plain_v1(ring: &Ring) -> Vec<u8> {
    let next = ring.next_part_power.map(|n| format!("\"next_part_power\": {n}, ")).unwrap_or_default();
    let head = format!(
        "{{\"byteorder\": \"little\", \"devs\": {}, {next}\"part_shift\": {}, \"replica_count\": {}, \"version\": {}}}",
        devices(&ring.devices),
        ring.part_shift,
        ring.replica2part2dev.len(),
        ring.version,
    );
    let mut out = (head.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(head.as_bytes());
    for row in &ring.replica2part2dev {
        for id in row {
            out.extend_from_slice(&narrow(*id).to_le_bytes());
        }
    }
    out
}

fn narrow(id: u32) -> u16 {
    if id == NO_DEVICE { u16::MAX } else { u16::try_from(id).unwrap_or(u16::MAX) }
}

fn write_v2(ring: &Ring, width: usize, out: &mut Gzip) {
    out.stored(&[&MAGIC[..], &[0, 2]].concat());
    let next = ring.next_part_power.map(|n| format!("\"next_part_power\": {n}, ")).unwrap_or_default();
    let metadata = format!(
        "{{\"dev_id_bytes\": {width}, {next}\"part_shift\": {}, \"replica_count\": {}, \"version\": {}}}",
        ring.part_shift,
        python_number(ring),
        ring.version,
    );
    let mut table = Vec::new();
    for id in ring.replica2part2dev.iter().flatten() {
        match width {
            2 => table.extend_from_slice(&narrow(*id).to_be_bytes()),
            _ => table.extend_from_slice(&id.to_be_bytes()),
        }
    }
    let sections = [
        ("swift/ring/metadata", metadata.into_bytes()),
        ("swift/ring/devices", devices(&ring.devices).into_bytes()),
        ("swift/ring/assignments", table),
    ];
    let mut index = Vec::new();
    for (name, data) in &sections {
        let block = with_length(data);
        let (from, plain_from) = (out.bytes.len(), out.plain);
        out.compressed(&block);
        let sum = caelum_swiftkit::to_hex(&Sha256::digest(&block));
        let (to, plain_to) = (out.bytes.len(), out.plain);
        index.push((name, format!("\"{name}\": [{from}, {plain_from}, {to}, {plain_to}, \"sha256\", \"{sum}\"]")));
    }
    index.sort();
    let text: Vec<String> = index.into_iter().map(|(_, entry)| entry).collect();
    let (from, plain_from) = (out.bytes.len() as u64, out.plain);
    out.compressed(&with_length(format!("{{{}}}", text.join(", ")).as_bytes()));
    out.stored(&plain_from.to_be_bytes());
    out.stored(&from.to_be_bytes());
}

/// Upstream writes 0 for an empty table and a float otherwise.
fn python_number(ring: &Ring) -> String {
    if ring.replica2part2dev.is_empty() { "0".into() } else { python::float(ring.replicas()) }
}

fn with_length(data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u64).to_be_bytes().to_vec();
    out.extend_from_slice(data);
    out
}

fn devices(all: &[Option<Device>]) -> String {
    let items: Vec<String> = all.iter().map(|d| d.as_ref().map_or_else(|| "null".into(), device)).collect();
    format!("[{}]", items.join(", "))
}

fn device(d: &Device) -> String {
    let mut out = String::from("{\"device\": ");
    out.push_str(&json_quoted(&d.device));
    out.push_str(&format!(", \"id\": {}, \"ip\": ", d.id));
    out.push_str(&json_quoted(&d.ip));
    out.push_str(", \"meta\": ");
    out.push_str(&json_quoted(&d.meta));
    out.push_str(&format!(", \"port\": {}, \"region\": {}, \"replication_ip\": ", d.port, d.region));
    out.push_str(&json_quoted(&d.replication_ip));
    out.push_str(&format!(
        ", \"replication_port\": {}, \"weight\": {}, \"zone\": {}}}",
        d.replication_port,
        python::float(d.weight),
        d.zone
    ));
    out
}

/// A gzip stream put together from separately made deflate blocks.
struct Gzip {
    bytes: Vec<u8>,
    crc: Crc,
    /// Plain bytes so far.
    plain: u64,
}

impl Gzip {
    fn new(file_name: &str) -> Self {
        let mut bytes = vec![0x1f, 0x8b, 8, 8];
        bytes.extend_from_slice(&MTIME.to_le_bytes());
        // Best compression; operating system not told.
        bytes.extend_from_slice(&[2, 255]);
        let name = file_name.strip_suffix(".gz").unwrap_or(file_name);
        bytes.extend(name.bytes().filter(|b| *b != 0));
        bytes.push(0);
        Self { bytes, crc: Crc::new(), plain: 0 }
    }

    fn count(&mut self, data: &[u8]) {
        self.crc.update(data);
        self.plain += data.len() as u64;
    }

    /// Data of up to 65,535 bytes as an uncompressed block, then an empty one as a full flush leaves it:
    /// ten bytes more than the data.
    fn stored(&mut self, data: &[u8]) {
        self.count(data);
        let n = u16::try_from(data.len()).unwrap_or(u16::MAX);
        self.bytes.push(0);
        self.bytes.extend_from_slice(&n.to_le_bytes());
        self.bytes.extend_from_slice(&(!n).to_le_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    }

    /// Compressed data up to and with a full flush: a reader may begin right after it.
    fn compressed(&mut self, data: &[u8]) {
        self.count(data);
        let mut deflate = Compress::new(Compression::best(), false);
        let mut rest = data;
        loop {
            self.bytes.reserve(64 * 1024);
            let before = deflate.total_in();
            let room_before = self.bytes.capacity() - self.bytes.len();
            let status = deflate.compress_vec(rest, &mut self.bytes, FlushCompress::Full);
            let used = usize::try_from(deflate.total_in() - before).unwrap_or(rest.len());
            rest = &rest[used.min(rest.len())..];
            let left = self.bytes.capacity() - self.bytes.len();
            // Room left over means that everything, the flush included, has been put out.
            if rest.is_empty() && (left > 0 || left == room_before) || !matches!(status, Ok(Status::Ok)) {
                return;
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        // An empty last block: with checksum and length the 13 bytes that readers count on.
        self.bytes.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
        self.bytes.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.bytes.extend_from_slice(&(self.plain as u32).to_le_bytes());
        self.bytes
    }
}
