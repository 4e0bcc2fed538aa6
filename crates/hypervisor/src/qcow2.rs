//! Writes empty qcow2 files: a header, an empty L1 table and the refcounts of those clusters.
//!
//! An overlay is an empty file that names its backing file *and* its backing format, so that
//! nobody ever probes guest-written bytes for a format. Writing the header here takes well under a
//! millisecond where starting `qemu-img` takes tens. Format: QEMU's docs/interop/qcow2.txt, version 3.

use caelum_base::{Error, Result};
use std::io::Write;
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const HEADER_LENGTH: u32 = 104;
const EXT_BACKING_FORMAT: u32 = 0xE279_2ACA;

/// What an overlay stands on.
pub struct Backing<'a> {
    pub path: &'a Path,
    /// `raw` or `qcow2`.
    pub format: &'a str,
}

/// The bytes of an empty qcow2 file of `size_bytes` (rounded up to 512).
pub fn empty(size_bytes: u64, backing: Option<&Backing<'_>>) -> Result<Vec<u8>> {
    let size = size_bytes.div_ceil(512) * 512;
    // One L2 table of one cluster holds CLUSTER / 8 entries of one cluster each.
    let l1_entries = size.div_ceil(CLUSTER * (CLUSTER / 8)).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let clusters = 3 + l1_clusters;
    if clusters > CLUSTER / 2 {
        return Err(Error::invalid(format!("A disk of {size_bytes} bytes is too large.")));
    }
    let mut out = vec![0_u8; usize::try_from(clusters * CLUSTER).map_err(|e| Error::internal(e.to_string()))?];
    let (refcount_table, refcount_block, l1) = (CLUSTER, 2 * CLUSTER, 3 * CLUSTER);
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"QFI\xfb");
    head.extend_from_slice(&3_u32.to_be_bytes());
    let backing_at = head.len();
    head.extend_from_slice(&[0; 12]);
    head.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
    head.extend_from_slice(&size.to_be_bytes());
    head.extend_from_slice(&0_u32.to_be_bytes());
    head.extend_from_slice(&u32::try_from(l1_entries).map_err(|e| Error::internal(e.to_string()))?.to_be_bytes());
    head.extend_from_slice(&l1.to_be_bytes());
    head.extend_from_slice(&refcount_table.to_be_bytes());
    head.extend_from_slice(&1_u32.to_be_bytes());
    // No snapshots; no incompatible, compatible or auto-clear features; 16-bit refcounts.
    head.extend_from_slice(&[0; 4 + 8 + 8 + 8 + 8]);
    head.extend_from_slice(&4_u32.to_be_bytes());
    head.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
    if let Some(b) = backing {
        extension(&mut head, EXT_BACKING_FORMAT, b.format.as_bytes());
    }
    extension(&mut head, 0, &[]);
    if let Some(b) = backing {
        use std::os::unix::ffi::OsStrExt;
        let name = b.path.as_os_str().as_bytes();
        if name.len() > 1023 {
            return Err(Error::internal("the backing file's path is longer than qcow2 permits"));
        }
        let offset = head.len() as u64;
        head[backing_at..backing_at + 8].copy_from_slice(&offset.to_be_bytes());
        let length = u32::try_from(name.len()).map_err(|e| Error::internal(e.to_string()))?;
        head[backing_at + 8..backing_at + 12].copy_from_slice(&length.to_be_bytes());
        head.extend_from_slice(name);
    }
    out[..head.len()].copy_from_slice(&head);
    put_u64(&mut out, refcount_table, refcount_block);
    for i in 0..clusters {
        let at = (refcount_block + i * 2) as usize;
        out[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    Ok(out)
}

fn put_u64(out: &mut [u8], at: u64, value: u64) {
    let at = at as usize;
    out[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn extension(head: &mut Vec<u8>, kind: u32, data: &[u8]) {
    head.extend_from_slice(&kind.to_be_bytes());
    head.extend_from_slice(&(data.len() as u32).to_be_bytes());
    head.extend_from_slice(data);
    head.resize(head.len().div_ceil(8) * 8, 0);
}

/// Writes an empty qcow2 file with mode 0600. An existing file is an error.
pub fn create(path: &Path, size_bytes: u64, backing: Option<&Backing<'_>>) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let bytes = empty(size_bytes, backing)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::internal(format!("cannot create {}", path.display())).caused_by(e))?;
    file.write_all(&bytes).map_err(|e| Error::internal(format!("cannot write {}", path.display())).caused_by(e))
}

/// The virtual size of an image that refers to no other file; else `Invalid`.
///
/// Images come from users. A backing file or an external data file named inside one would give the
/// guest whatever file of the host it names.
pub fn self_contained_size(path: &Path) -> Result<u64> {
    use std::io::Read;
    const EXTERNAL_DATA: u64 = 1 << 2;
    let mut head = [0_u8; 80];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head));
    let invalid = || Error::invalid("The image is no qcow2 file, or refers to other files.");
    read.map_err(|e| invalid().caused_by(e))?;
    let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap_or_default());
    let version = u32::from_be_bytes(head[4..8].try_into().unwrap_or_default());
    let external = version >= 3 && word(72) & EXTERNAL_DATA != 0;
    if &head[..4] != b"QFI\xfb" || !(2..=3).contains(&version) || word(8) != 0 || external {
        return Err(invalid());
    }
    Ok(word(24))
}

/// Enlarges the virtual size of a file nobody has open; a smaller or equal size changes nothing.
///
/// The L1 table made by [`create`] has room up to its cluster's end; beyond that the caller gets `Invalid`.
pub fn grow(path: &Path, size_bytes: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let fail = |e: std::io::Error| Error::internal(format!("cannot resize {}", path.display())).caused_by(e);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    let mut head = [0_u8; 72];
    file.read_exact_at(&mut head, 0).map_err(fail)?;
    let size = size_bytes.div_ceil(512) * 512;
    let bits = u32::from_be_bytes(head[20..24].try_into().unwrap_or_default());
    if &head[..4] != b"QFI\xfb" || bits != CLUSTER_BITS {
        return Err(Error::invalid("The disk is not one this host made."));
    }
    if size <= u64::from_be_bytes(head[24..32].try_into().unwrap_or_default()) {
        return Ok(());
    }
    let entries = size.div_ceil(CLUSTER * (CLUSTER / 8));
    if entries * 8 > CLUSTER {
        return Err(Error::invalid(format!("A disk of {size_bytes} bytes is too large.")));
    }
    // The table first: entries beyond the old size are zero, so a crash in between changes nothing.
    file.write_all_at(&(entries as u32).to_be_bytes(), 36).map_err(fail)?;
    file.write_all_at(&size.to_be_bytes(), 24).map_err(fail)?;
    file.sync_all().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_overlay_is_valid_to_qemu_img() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::write(&base, vec![7_u8; 1 << 20]).unwrap();
        let disk = dir.path().join("disk");
        for (name, size) in [("a", 1_u64 << 20), ("b", 5 << 30), ("c", 20 << 40)] {
            let disk = disk.with_extension(name);
            create(&disk, size, Some(&Backing { path: &base, format: "raw" })).unwrap();
            assert!(self_contained_size(&disk).is_err(), "it has a backing file");
            let size = if name == "b" { size * 2 } else { size };
            if name == "b" {
                grow(&disk, size).unwrap();
                grow(&disk, 1).unwrap();
            }
            assert!(create(&disk, size, None).is_err(), "an existing file is kept");
            let Ok(out) = std::process::Command::new("qemu-img").arg("check").arg("-f").arg("qcow2").arg(&disk).output() else {
                return;
            };
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let info = std::process::Command::new("qemu-img").args(["info", "-f", "qcow2", "--output=json"]).arg(&disk).output().unwrap();
            let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["backing-filename-format"], "raw");
            assert_eq!(info["backing-filename"], base.to_str().unwrap());
        }
    }
}
