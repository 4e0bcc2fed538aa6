//! Names the format of a disk image while its bytes stream by, without running any other program.
//!
//! Rule: every known signature is looked for at once. Exactly one container may match, it must be
//! the declared one, and all its safety checks must pass; two matches, an unknown feature or any
//! reference to another file refuse the image. Partition tables are content of a raw disk, not
//! containers, so a bootable ISO (which carries one) is still just an ISO.
//!
//! Memory is bounded: the first [`HEAD_MAX`] bytes, one window named by the header, and the last
//! few sectors. Input bytes can refuse an image but never panic or grow memory.

mod bytes;
mod other;
mod qcow2;
#[cfg(test)]
mod tests;
mod vmdk;

use std::fmt;
use std::io::Read;
use std::path::Path;

use caelum_base::{Error, Result};

use bytes::{Image, le32};

/// Bytes kept from the start.
pub const HEAD_MAX: usize = 512 * 1024;
/// Bytes kept from wherever the header points to (VHDX metadata, LUKS payload).
const WINDOW_MAX: usize = 192 * 1024;
/// Bytes kept from the end.
const TAIL_MAX: usize = 4096;
/// Largest virtual size believed; qemu itself stops at 2⁶³.
pub const VIRTUAL_SIZE_MAX: u64 = 1 << 56;

/// Image formats by the names the image API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Raw,
    Qcow2,
    Qed,
    Vmdk,
    Vdi,
    Vhd,
    Vhdx,
    Iso,
    Luks,
    Ami,
    Aki,
    Ari,
    /// Recognised so that it can be refused: Parallels, Bochs, cloop, DMG, tar.
    Unsupported,
}

impl Format {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Iso => "iso",
            Self::Luks => "luks",
            Self::Ami => "ami",
            Self::Aki => "aki",
            Self::Ari => "ari",
            Self::Unsupported => "unsupported",
        }
    }

    /// The format of an API `disk_format`; `None` for names the API does not know.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [
            Self::Raw,
            Self::Qcow2,
            Self::Qed,
            Self::Vmdk,
            Self::Vdi,
            Self::Vhd,
            Self::Vhdx,
            Self::Iso,
            Self::Luks,
            Self::Ami,
            Self::Aki,
            Self::Ari,
        ];
        all.into_iter().find(|f| f.as_str() == name)
    }

    /// What the bytes must look like: the Amazon kernel, ramdisk and machine formats are plain bytes.
    const fn on_disk(self) -> Self {
        match self {
            Self::Ami | Self::Aki | Self::Ari => Self::Raw,
            other => other,
        }
    }
}

/// The partition table of a raw disk or hybrid ISO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionTable {
    None,
    Mbr,
    Gpt,
}

/// A safe image. It has no backing file, external data file or parent: such images are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub format: Format,
    pub partition_table: PartitionTable,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// Bytes of the image file.
    pub actual_size: u64,
}

/// Why an image was refused, fit to show to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(r: Refusal) -> Self {
        Self::invalid(format!("The image was refused: {}.", r.reason))
    }
}

pub(crate) type Verdict<T> = std::result::Result<T, Refusal>;

pub(crate) fn refuse<T>(reason: impl Into<String>) -> Verdict<T> {
    Err(Refusal::new(reason))
}

pub(crate) fn ensure(ok: bool, reason: &str) -> Verdict<()> {
    if ok { Ok(()) } else { refuse(reason) }
}

/// Watches an image go by.
pub struct Inspector {
    declared: Option<Format>,
    image: Image,
}

impl Inspector {
    /// `declared` is the format the user named; `None` accepts any format that is safe.
    pub fn new(declared: Option<Format>) -> Self {
        Self { declared, image: Image::default() }
    }

    /// Takes the next bytes, in chunks of any size.
    pub fn feed(&mut self, mut chunk: &[u8]) {
        let room = HEAD_MAX - self.image.head.len();
        if room > 0 {
            let (now, later) = chunk.split_at(room.min(chunk.len()));
            self.image.absorb(now);
            chunk = later;
            if self.image.head.len() == HEAD_MAX {
                self.image.window_at = window_start(&self.image);
                self.image.fill_window_from_head();
            }
        }
        self.image.absorb(chunk);
    }

    /// Decides. `total_size` is the length the storage reports; it must equal the bytes seen.
    pub fn finish(self, total_size: u64) -> Verdict<ImageInfo> {
        let image = self.image;
        ensure(image.total == total_size, "its length differs from the bytes received")?;
        ensure(total_size > 0, "it is empty")?;
        let found = matches(&image);
        let format = match found.as_slice() {
            [] => Format::Raw,
            [one] => *one,
            many => {
                let names: Vec<_> = many.iter().map(|f| f.as_str()).collect();
                return refuse(format!("it looks like several formats at once ({})", names.join(", ")));
            }
        };
        if let Some(declared) = self.declared
            && declared.on_disk() != format
        {
            return refuse(format!("it was declared as {} but looks like {}", declared.as_str(), format.as_str()));
        }
        let table = other::partition_table(&image, format)?;
        ensure(
            table == PartitionTable::None || matches!(format, Format::Raw | Format::Iso | Format::Vhd),
            "it holds both a partition table and an image header",
        )?;
        let virtual_size = check(&image, format, self.declared)?;
        ensure(virtual_size > 0, "its virtual size is zero")?;
        ensure(virtual_size <= VIRTUAL_SIZE_MAX, "its virtual size is absurd")?;
        let format = self.declared.unwrap_or(format);
        Ok(ImageInfo { format, partition_table: table, virtual_size, actual_size: total_size })
    }
}

/// Inspects a whole file from its current start to its end.
pub fn inspect_reader(mut reader: impl Read, declared: Option<Format>) -> Result<ImageInfo> {
    let mut inspector = Inspector::new(declared);
    let mut chunk = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                inspector.feed(&chunk[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::internal("read an image").caused_by(e)),
        }
    }
    Ok(inspector.finish(total)?)
}

/// Inspects the file at a trusted path.
pub fn inspect_file(path: &Path, declared: Option<Format>) -> Result<ImageInfo> {
    let file = std::fs::File::open(path).map_err(|e| Error::internal(format!("open image {}", path.display())).caused_by(e))?;
    inspect_reader(file, declared)
}

/// All containers whose signature is present, each once.
fn matches(image: &Image) -> Vec<Format> {
    let head = image.head.as_slice();
    let last_sector = image.last(512).unwrap_or_default();
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    let iso = [0x8001, 0x8801, 0x9001].into_iter().any(|o| at(o, b"CD001"));
    let vhd = at(0, b"conectix") || last_sector.starts_with(b"conectix");
    let unsupported = at(0, b"WithoutFreeSpace")
        || at(0, b"WithouFreSpacExt")
        || at(0, b"Bochs Virtual HD Image")
        || at(0, b"#!/bin/sh\n#V2.0 Format")
        || at(257, b"ustar")
        || last_sector.starts_with(b"koly");
    let signatures = [
        (Format::Qcow2, at(0, b"QFI\xfb")),
        (Format::Qed, at(0, b"QED\0")),
        (Format::Vmdk, vmdk::looks_like(head)),
        (Format::Vdi, le32(head, 0x40) == Some(0xbeda_107f)),
        (Format::Vhd, vhd),
        (Format::Vhdx, at(0, b"vhdxfile")),
        (Format::Iso, iso),
        (Format::Luks, at(0, b"LUKS\xba\xbe")),
        (Format::Unsupported, unsupported),
        // Compressed data is fine as plain bytes (ramdisks are), but not in front of an ISO.
        (Format::Unsupported, at(0, b"\x1f\x8b") && iso),
    ];
    signatures.into_iter().filter(|(_, hit)| *hit).map(|(f, _)| f).collect()
}

/// The safety checks of one format; returns the virtual size.
fn check(image: &Image, format: Format, declared: Option<Format>) -> Verdict<u64> {
    match format {
        Format::Qcow2 => qcow2::check(image),
        Format::Vmdk => vmdk::check(image),
        Format::Vdi => other::vdi(image),
        Format::Vhd => other::vhd(image),
        Format::Vhdx => other::vhdx(image),
        Format::Luks => other::luks(image),
        Format::Iso => Ok(image.total),
        Format::Qed => refuse("the QED format is not supported"),
        Format::Unsupported => refuse("its format is not supported"),
        Format::Raw | Format::Ami | Format::Aki | Format::Ari => {
            let plain_bytes = declared.is_some_and(|d| d != Format::Raw);
            ensure(plain_bytes || image.total >= 512, "it is smaller than one disk sector")?;
            Ok(image.total)
        }
    }
}

/// Where the header says that more bytes must be looked at.
fn window_start(image: &Image) -> Option<u64> {
    let head = image.head.as_slice();
    if head.starts_with(b"vhdxfile") {
        return other::vhdx_metadata_region(image).ok().map(|(offset, _)| offset);
    }
    if head.starts_with(b"LUKS\xba\xbe") {
        return bytes::be32(head, 104).map(|sectors| u64::from(sectors) * 512);
    }
    if head.starts_with(b"conectix") {
        return bytes::be64(head, 16);
    }
    None
}
