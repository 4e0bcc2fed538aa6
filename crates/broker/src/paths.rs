//! Where databases lie: `DEVICE/containers/PARTITION/SUFFIX/HASH/HASH.db`, and with an epoch
//! (`HASH_1234567890.12345.db`) once a container has been sharded.

use crate::error::{At, Result};
use std::path::{Path, PathBuf};

pub const ACCOUNT_DIR: &str = "accounts";
pub const CONTAINER_DIR: &str = "containers";

/// The directory of a database below its device. `hash` is 32 hexadecimal digits.
pub fn storage_directory(datadir: &str, partition: &str, hash: &str) -> PathBuf {
    let suffix = hash.get(hash.len().saturating_sub(3)..).unwrap_or(hash);
    [datadir, partition, suffix, hash].iter().collect()
}

/// Hash, epoch and extension (with its dot) of a database's file name.
pub fn parse_db_filename(path: &Path) -> (String, Option<String>, String) {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // A leading dot is no extension.
    let (stem, ext) = match name.rfind('.') {
        Some(at) if at > 0 => (name[..at].to_string(), name[at..].to_string()),
        _ => (name, String::new()),
    };
    let mut parts = stem.split('_').map(str::to_string);
    let hash = parts.next().unwrap_or_default();
    (hash, parts.next(), ext)
}

/// The path with this epoch in place of its own.
pub fn with_epoch(path: &Path, epoch: Option<&str>) -> PathBuf {
    let (hash, _, ext) = parse_db_filename(path);
    path.with_file_name(match epoch {
        None => format!("{hash}{ext}"),
        Some(epoch) => format!("{hash}_{epoch}{ext}"),
    })
}

/// All database files of one hash, oldest epoch first. Empty when the directory is not there.
/// Errors: the directory cannot be read.
pub fn db_files(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(dir) = path.parent() else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).at(dir),
    };
    let (hash, _, _) = parse_db_filename(path);
    let mut out = Vec::new();
    for entry in entries {
        let file = entry.at(dir)?.path();
        let (h, _, ext) = parse_db_filename(&file);
        if ext == ".db" && h == hash {
            out.push(file);
        }
    }
    out.sort();
    Ok(out)
}

/// The device's directory: five levels above the database. `None` for a file that lies elsewhere.
pub(crate) fn device_of(path: &Path) -> Option<&Path> {
    let datadir = path.ancestors().nth(4)?.file_name()?;
    (datadir == ACCOUNT_DIR || datadir == CONTAINER_DIR).then(|| path.ancestors().nth(5))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let p = Path::new("/srv/node/sdb/containers/7/abc/0123456789abc/0123456789abc.db");
        assert_eq!(parse_db_filename(p), ("0123456789abc".into(), None, ".db".into()));
        assert_eq!(device_of(p), Some(Path::new("/srv/node/sdb")));
        assert_eq!(device_of(Path::new("/srv/a/b/node/sdb/tmp/x")), None);
        let e = with_epoch(p, Some("1234567890.12345"));
        assert_eq!(e.file_name().unwrap(), "0123456789abc_1234567890.12345.db");
        assert_eq!(parse_db_filename(&e), ("0123456789abc".into(), Some("1234567890.12345".into()), ".db".into()));
        assert_eq!(with_epoch(&e, None), p);
        assert_eq!(storage_directory(CONTAINER_DIR, "7", "0123456789abc"), Path::new("containers/7/abc/0123456789abc"));
        assert_eq!(parse_db_filename(Path::new("x.db.pending")).2, ".pending");
    }
}
