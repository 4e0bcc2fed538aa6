//! Takes the bytes of an image in once: writes, hashes and inspects them as they come.
//!
//! Blocking; callers run it on threads that may block. Memory is bounded by the inspector's windows.

use crate::store::{Facts, Staged};
use caelum_base::{Error, Result};
use caelum_safeio::inspect::{Format, Inspector};
use md5::Md5;
use sha2::{Digest, Sha512};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind as IoKind, Seek, SeekFrom, Write};

/// Runs of zeros at least this long, in bytes, become holes in the file.
const HOLE: usize = 64 * 1024;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// A file being filled.
pub struct Ingest {
    file: File,
    md5: Md5,
    sha512: Sha512,
    /// `None` when the formats say that the bytes cannot be checked; they are refused at the end.
    inspector: Result<Inspector, String>,
    total: u64,
    /// Most bytes taken.
    limit: u64,
}

impl Ingest {
    /// `limit` is in bytes; the formats are those the image declares.
    pub fn new(file: File, limit: u64, disk_format: &str, container_format: &str) -> Self {
        Self { file, md5: Md5::new(), sha512: Sha512::new(), inspector: inspector(disk_format, container_format), total: 0, limit }
    }

    /// Takes the next bytes. Errors: `TooLarge` beyond the limit or when the disk is full.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.total += chunk.len() as u64;
        if self.total > self.limit {
            return Err(Error::too_large(format!("The incoming image is too large: at most {} bytes are allowed.", self.limit)));
        }
        self.md5.update(chunk);
        self.sha512.update(chunk);
        if let Ok(i) = &mut self.inspector {
            i.feed(chunk);
        }
        for piece in chunk.chunks(HOLE) {
            if piece == ZEROS {
                self.file.seek(SeekFrom::Current(HOLE as i64)).map_err(failed)?;
            } else {
                self.file.write_all(piece).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Makes the file durable and says what it is.
    pub fn finish(self) -> Result<Staged> {
        self.file.set_len(self.total).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        let verdict = self.inspector.and_then(|i| i.finish(self.total).map_err(|r| r.reason));
        Ok(match verdict {
            Err(reason) => Staged::Refused(reason),
            Ok(info) => Staged::Good(Facts {
                size: self.total,
                virtual_size: info.virtual_size,
                checksum: hex(&self.md5.finalize()),
                sha512: hex(&self.sha512.finalize()),
            }),
        })
    }
}

/// Archives are not looked into, so they are not taken: what cannot be checked must not reach a
/// host that will open it.
fn inspector(disk_format: &str, container_format: &str) -> Result<Inspector, String> {
    if matches!(container_format, "ova" | "docker" | "compressed") {
        return Err(format!("data in container format {container_format} cannot be checked"));
    }
    let format = Format::parse(disk_format).ok_or_else(|| format!("data in disk format {disk_format} cannot be checked"))?;
    Ok(Inspector::new(Some(format)))
}

fn failed(e: std::io::Error) -> Error {
    if matches!(e.kind(), IoKind::StorageFull | IoKind::QuotaExceeded) {
        return Error::too_large("Image storage media is full.").caused_by(e);
    }
    Error::internal("write image data").caused_by(e)
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(out, "{b:02x}");
    }
    out
}
