//! The 80 bytes before each fragment's payload.
//!
//! All numbers little-endian: index (4), payload size (4), size of the backend's own metadata (4), size of the
//! original data (8), checksum type (1), checksum (32), checksum mismatch (1), backend (1), backend version
//! (4); then the magic number (4), the library's version (4), CRC-32 of the first 59 bytes (4), padding (9).
//! Source: liberasurecode, `erasurecode.h` and `erasurecode_helpers.h`.

use crate::{Error, Scheme};

pub const HEADER_SIZE: usize = 80;
const METADATA_SIZE: usize = 59;
const MAGIC: u32 = 0x0b0c_5ecc;
/// liberasurecode 1.8.0: the version whose fragments ours are equal to.
const LIBRARY_VERSION: u32 = 0x0001_0800;
/// Before 1.2.0 headers carried no checksum.
const FIRST_WITH_CHECKSUM: u32 = 0x0001_0200;

/// What is known of a fragment's payload beyond the header's own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    None,
    Crc32(u32),
    /// Of a kind that no release writes.
    Other(u8),
}

/// A fragment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Data fragments are 0 … k−1, parities k … k+m−1.
    pub index: u32,
    /// Bytes of payload after the header.
    pub size: u32,
    /// Bytes of the segment that was encoded.
    pub orig_data_size: u64,
    pub checksum: Checksum,
    /// The payload does not have `checksum`.
    pub checksum_mismatch: bool,
    pub backend_id: u8,
    pub backend_version: u32,
    pub library_version: u32,
}

impl FragmentInfo {
    pub(crate) fn new(scheme: Scheme, index: usize, size: usize, orig_data_size: usize) -> Self {
        Self {
            index: index as u32,
            size: size as u32,
            orig_data_size: orig_data_size as u64,
            checksum: Checksum::None,
            checksum_mismatch: false,
            backend_id: scheme.backend_id(),
            backend_version: scheme.backend_version(),
            library_version: LIBRARY_VERSION,
        }
    }

    /// Reads the header of a fragment and, when it tells a checksum, looks at the payload. Errors: `BadHeader`.
    pub fn parse(fragment: &[u8]) -> Result<Self, Error> {
        let header = fragment.get(..HEADER_SIZE).ok_or(Error::BadHeader("shorter than a header"))?;
        let u32_at = |i: usize| header[i..i + 4].iter().rev().fold(0, |acc, b| acc << 8 | u32::from(*b));
        if u32_at(METADATA_SIZE) != MAGIC {
            return Err(Error::BadHeader("no magic number"));
        }
        let library_version = u32_at(63);
        if library_version >= FIRST_WITH_CHECKSUM && u32_at(67) != crc32(&header[..METADATA_SIZE]) {
            return Err(Error::BadHeader("its checksum differs"));
        }
        let size = u32_at(4);
        let payload = &fragment[HEADER_SIZE..];
        let payload = payload.get(..size as usize).unwrap_or(payload);
        let checksum = match header[20] {
            0 | 1 => Checksum::None,
            2 => Checksum::Crc32(u32_at(21)),
            other => Checksum::Other(other),
        };
        Ok(Self {
            index: u32_at(0),
            size,
            orig_data_size: u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32,
            checksum,
            checksum_mismatch: matches!(checksum, Checksum::Crc32(sum) if sum != crc32(payload)),
            backend_id: header[54],
            backend_version: u32_at(55),
            library_version,
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.index.to_le_bytes());
        put(4, &self.size.to_le_bytes());
        put(12, &self.orig_data_size.to_le_bytes());
        match self.checksum {
            Checksum::None => put(20, &[1]),
            Checksum::Crc32(sum) => {
                put(20, &[2]);
                put(21, &sum.to_le_bytes());
            }
            Checksum::Other(kind) => put(20, &[kind]),
        }
        put(53, &[u8::from(self.checksum_mismatch)]);
        put(54, &[self.backend_id]);
        put(55, &self.backend_version.to_le_bytes());
        let sum = crc32(&out[..METADATA_SIZE]);
        out[METADATA_SIZE..63].copy_from_slice(&MAGIC.to_le_bytes());
        out[63..67].copy_from_slice(&self.library_version.to_le_bytes());
        out[67..71].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// CRC-32 as in gzip.
fn crc32(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}
