//! An object's metadata and its place in extended attributes.
//!
//! On disk: a pickle (protocol 2) of a dict of bytes to bytes, cut in pieces of 64 KiB over `user.swift.metadata`, `user.swift.metadata1`, …; its MD5 in hex in
//! `user.swift.metadata_checksum`. Keys and values are header text: each byte of a header stands
//! as one character, encoded as UTF-8 (so `é`, two bytes in the header, takes four on disk). The
//! exception is `name`, which is plain UTF-8. Pickles written under Python 2 hold the header's bytes as
//! they are.

use crate::{DiskError, DiskResult};
use caelum_swiftkit::pickle::{self, Value};
use caelum_swiftkit::{Timestamp, md5_hex};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

const KEY: &str = "user.swift.metadata";
const CHECKSUM: &str = "user.swift.metadata_checksum";
const PIECE: usize = 65_536;
/// Largest metadata read: upstream's limits on headers stay far below.
const MAX_BYTES: usize = 4 << 20;

/// Metadata of an object: names in title case as `X-Object-Meta-Colour`, values as header text where each
/// character stands for one byte. `name` alone is UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, String)>);

impl Metadata {
    pub fn new() -> Self {
        Self::default()
    }

    /// By name, letter case ignored (the stored case is upstream's, of which `ETag` is irregular).
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    pub fn timestamp(&self, key: &str) -> Option<Timestamp> {
        self.get(key).and_then(Timestamp::parse)
    }

    /// Sets or replaces, letter case of the name ignored.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        match self.0.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(key)) {
            Some(entry) => *entry = (key.to_string(), value.into()),
            None => self.0.push((key.to_string(), value.into())),
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, _)| k.eq_ignore_ascii_case(key))?;
        Some(self.0.remove(at).1)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `/account/container/object`.
    pub fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// Text in ASCII is written as Python 2 did, in two thirds of the room, which then mostly is within the inode;
    /// all versions read it. Of the name, more may be written so: it is UTF-8 either way. The rest is written
    /// as Python 3 does: text of one character per byte, and the call that makes bytes of it.
    fn to_pickle(&self) -> Vec<u8> {
        let plain = self.0.iter().all(|(k, v)| k.is_ascii() && (v.is_ascii() || k == "name"));
        let mut out = b"\x80\x02}(".to_vec();
        let mut first = true;
        for s in self.0.iter().flat_map(|(k, v)| [k, v]) {
            if plain {
                put_plain(s, &mut out);
            } else {
                put_encoded(s, std::mem::take(&mut first), &mut out);
            }
        }
        out.extend_from_slice(b"u.");
        out
    }

    /// What [`put_plain`] wrote, without the general reader.
    fn from_plain(raw: &[u8]) -> Option<Self> {
        let mut rest = raw.strip_prefix(b"\x80\x02}(")?;
        let mut texts = Vec::with_capacity(32);
        while let Some((op, tail)) = rest.split_first() {
            let (n, tail) = match op {
                b'U' => tail.split_first().map(|(n, t)| (usize::from(*n), t))?,
                b'T' => tail.split_first_chunk().map(|(n, t)| (u32::from_le_bytes(*n) as usize, t))?,
                b'u' if tail == b"." => break,
                _ => return None,
            };
            let (text, tail) = tail.split_at_checked(n)?;
            texts.push(text);
            rest = tail;
        }
        let mut out = Vec::with_capacity(texts.len() / 2);
        for pair in texts.chunks(2) {
            let [k, v] = pair else { return None };
            let value = if *k == b"name" { String::from_utf8(v.to_vec()).ok()? } else { latin1(v) };
            out.push((latin1(k), value));
        }
        Some(Self(out))
    }

    fn from_pickle(raw: &[u8]) -> Result<Self, String> {
        if let Some(m) = Self::from_plain(raw) {
            return Ok(m);
        }
        // What Python 3 wrote begins with the call that makes bytes of text.
        let py3 = raw.get(..raw.len().min(32)).unwrap_or(&[]).windows(14).any(|w| w == b"_codecs\nencode");
        let Value::Dict(items) = pickle::loads(raw).map_err(|e| e.to_string())? else {
            return Err("not a dict".into());
        };
        let mut out = Vec::with_capacity(items.len());
        for (k, v) in items {
            let name = matches!(&k, Value::Bytes(b) if b == b"name") || matches!(&k, Value::Str(s) if s == "name");
            out.push((text(k, py3)?, text(v, py3 || name)?));
        }
        Ok(Self(out))
    }
}

fn put_plain(s: &str, out: &mut Vec<u8>) {
    match u8::try_from(s.len()) {
        Ok(n) => out.extend_from_slice(&[b'U', n]),
        Err(_) => {
            out.push(b'T');
            out.extend_from_slice(&u32::try_from(s.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    out.extend_from_slice(s.as_bytes());
}

fn put_encoded(s: &str, first: bool, out: &mut Vec<u8>) {
    let chars = latin1(s.as_bytes());
    if first {
        out.extend_from_slice(b"c_codecs\nencode\nq\x00");
    } else {
        out.extend_from_slice(b"h\x00");
    }
    let text_of = |s: &str, out: &mut Vec<u8>| {
        out.push(b'X');
        out.extend_from_slice(&u32::try_from(s.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(s.as_bytes());
    };
    text_of(&chars, out);
    if first {
        text_of("latin1", out);
        out.extend_from_slice(b"q\x01");
    } else {
        out.extend_from_slice(b"h\x01");
    }
    out.extend_from_slice(b"\x86R");
}

impl FromIterator<(String, String)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(items: I) -> Self {
        let mut out = Self::new();
        for (k, v) in items {
            out.set(&k, v);
        }
        out
    }
}

fn text(v: Value, utf8: bool) -> Result<String, String> {
    match v {
        Value::Str(s) => Ok(s),
        // Bytes that are not UTF-8 predate upstream's rule; each becomes one character.
        Value::Bytes(b) if utf8 => Ok(String::from_utf8(b).unwrap_or_else(|e| latin1(e.as_bytes()))),
        Value::Bytes(b) => Ok(latin1(&b)),
        Value::Int(i) => Ok(i.to_string()),
        other => Err(format!("neither text nor bytes: {other:?}")),
    }
}

/// Header bytes as text of one character per byte.
pub fn latin1(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.is_ascii()
    {
        return text.to_string();
    }
    bytes.iter().map(|b| char::from(*b)).collect()
}

/// The inverse of [`latin1`]; characters beyond are written as UTF-8.
pub fn header_bytes(text: &str) -> Vec<u8> {
    if text.is_ascii() {
        return text.as_bytes().to_vec();
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(u32::from(c)) {
            Ok(b) => out.push(b),
            Err(_) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Why metadata was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    NotSupported,
    /// Checksum or pickle: the file is to be quarantined.
    Bad(String),
    Io(Errno),
}

fn get_attr(fd: impl AsFd, key: &str, out: &mut Vec<u8>) -> Result<(), Errno> {
    let mut piece = [0_u8; 2048];
    match fgetxattr(&fd, key, &mut piece[..]) {
        Ok(n) => {
            out.extend_from_slice(piece.get(..n).unwrap_or(&[]));
            Ok(())
        }
        Err(Errno::RANGE) => {
            let mut piece = vec![0_u8; PIECE];
            let n = fgetxattr(&fd, key, piece.as_mut_slice())?;
            out.extend_from_slice(piece.get(..n).unwrap_or(&[]));
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// The pickle of an open file, checked against its checksum where there is one.
fn read_raw(fd: impl AsFd) -> Result<Vec<u8>, ReadError> {
    let mut sum = Vec::new();
    match get_attr(&fd, CHECKSUM, &mut sum) {
        Ok(()) | Err(Errno::NODATA) => {}
        Err(Errno::NOTSUP) => return Err(ReadError::NotSupported),
        Err(e) => return Err(ReadError::Io(e)),
    }
    let mut raw = Vec::new();
    let mut computed = String::new();
    let mut i = 0;
    while raw.len() <= MAX_BYTES {
        let result = if i == 0 { get_attr(&fd, KEY, &mut raw) } else { get_attr(&fd, &format!("{KEY}{i}"), &mut raw) };
        match result {
            Ok(()) => {}
            Err(Errno::NODATA) => break,
            Err(e) => return Err(ReadError::Io(e)),
        }
        // A matching checksum saves asking for another piece.
        if !sum.is_empty() {
            computed = md5_hex(&raw);
            if computed.as_bytes() == sum {
                return Ok(raw);
            }
        }
        i += 1;
    }
    if sum.is_empty() {
        return Ok(raw);
    }
    let stored = String::from_utf8_lossy(&sum);
    Err(ReadError::Bad(format!("Metadata checksum mismatch: stored checksum='{stored}', computed='{computed}'")))
}

/// Reads the metadata of an open file.
pub(crate) fn read(fd: impl AsFd) -> Result<Metadata, ReadError> {
    Metadata::from_pickle(&read_raw(fd)?).map_err(|e| ReadError::Bad(format!("Exception reading metadata: {e}")))
}

/// Whether two files are copies of one version: as large and with the same readable metadata, checksum included.
/// Errors: one cannot be opened.
pub fn same_version(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    let alike = a.metadata()?.len() == b.metadata()?.len();
    Ok(alike && matches!((read(&a), read(&b)), (Ok(x), Ok(y)) if x == y))
}

/// Below this no file system refuses the size: a refusal means that the device is full.
const ALWAYS_FITS: usize = 700;

/// Of a refused attribute: whether the device is full, or the attributes are too large for its file system, which many
/// file systems say with the same error.
fn refused(fd: impl AsFd, size: usize, e: Errno) -> DiskError {
    let room = || rustix::fs::fstatvfs(&fd).is_ok_and(|st| st.f_bavail > 16);
    match e {
        Errno::NOSPC if size > ALWAYS_FITS && room() => DiskError::MetadataTooLarge(size),
        Errno::TOOBIG | Errno::RANGE | Errno::OVERFLOW => DiskError::MetadataTooLarge(size),
        e => DiskError::from_write(e.into()),
    }
}

/// Writes metadata to an open file.
///
/// Errors: `MetadataTooLarge` where the file system keeps less for a file; the file is of no use then.
pub(crate) fn write(fd: impl AsFd, metadata: &Metadata) -> DiskResult<()> {
    let raw = metadata.to_pickle();
    let set = |key: &str, value: &[u8]| fsetxattr(&fd, key, value, XattrFlags::empty()).map_err(|e| refused(&fd, raw.len(), e));
    for (i, piece) in raw.chunks(PIECE).enumerate() {
        if i == 0 {
            set(KEY, piece)?;
        } else {
            set(&format!("{KEY}{i}"), piece)?;
        }
    }
    set(CHECKSUM, md5_hex(&raw).as_bytes())
}

/// Adds the checksum to a file that predates it; `false` when it has one.
pub(crate) fn add_checksum(fd: impl AsFd) -> DiskResult<bool> {
    if get_attr(&fd, CHECKSUM, &mut Vec::new()).is_ok() {
        return Ok(false);
    }
    let Ok(raw) = read_raw(&fd) else { return Ok(false) };
    fsetxattr(&fd, CHECKSUM, md5_hex(&raw).as_bytes(), XattrFlags::empty())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let items = [
            ("X-Timestamp", "1700000000.12345"),
            ("Content-Type", "text/plain"),
            ("Content-Length", "3"),
            ("ETag", "900150983cd24fb0d6963f7d28e17f72"),
            ("X-Object-Meta-K", "v\u{c3}\u{bc}"),
            ("name", "/AUTH_a/c/ö"),
        ];
        items.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn as_swift_writes_it() {
        // Written by Swift 2.38.3 under Python 3 for the sample.
        let golden = b"\x80\x02}q\x00(c_codecs\nencode\nq\x01X\x0b\x00\x00\x00X-Timestampq\x02X\x06\x00\x00\x00latin1q\x03\x86q\x04Rq\x05h\x01X\x10\x00\x00\x001700000000.12345q\x06h\x03\x86q\x07Rq\x08h\x01X\x0c\x00\x00\x00Content-Typeq\th\x03\x86q\nRq\x0bh\x01X\n\x00\x00\x00text/plainq\x0ch\x03\x86q\rRq\x0eh\x01X\x0e\x00\x00\x00Content-Lengthq\x0fh\x03\x86q\x10Rq\x11h\x01X\x01\x00\x00\x003q\x12h\x03\x86q\x13Rq\x14h\x01X\x04\x00\x00\x00ETagq\x15h\x03\x86q\x16Rq\x17h\x01X \x00\x00\x00900150983cd24fb0d6963f7d28e17f72q\x18h\x03\x86q\x19Rq\x1ah\x01X\x0f\x00\x00\x00X-Object-Meta-Kq\x1bh\x03\x86q\x1cRq\x1dh\x01X\t\x00\x00\x00v\xc3\x83\xc2\x83\xc3\x82\xc2\xbcq\x1eh\x03\x86q\x1fRq h\x01X\x04\x00\x00\x00nameq!h\x03\x86q\"Rq#h\x01X\x0e\x00\x00\x00/AUTH_a/c/\xc3\x83\xc2\xb6q$h\x03\x86q%Rq&u.";
        assert_eq!(Metadata::from_pickle(golden).unwrap(), sample());
        let ours = sample().to_pickle();
        assert!(ours[..32].windows(14).any(|w| w == b"_codecs\nencode"), "how Swift tells what wrote it");
        assert_eq!(Metadata::from_pickle(&ours).unwrap(), sample());
    }

    #[test]
    fn plain_text_is_short_and_old_pickles_are_read() {
        let mut m = sample();
        m.set("x-object-meta-k", "w".repeat(300));
        let raw = m.to_pickle();
        assert!(raw.starts_with(b"\x80\x02}(U\x0bX-Timestamp"));
        assert_eq!(Metadata::from_pickle(&raw).unwrap(), m);
        // Python 2: header bytes as they are, the name in UTF-8.
        let old = b"\x80\x02}q\x01(U\x04nameq\x02U\x05/a/\xc3\xb6U\x05otherU\x02\xc3\xbcu.";
        let m = Metadata::from_pickle(old).unwrap();
        assert_eq!((m.name(), m.get("other")), (Some("/a/ö"), Some("\u{c3}\u{bc}")));
        assert_eq!(header_bytes(m.get("other").unwrap()), "ü".as_bytes());
        assert!(Metadata::from_pickle(b"\x80\x02]q\x00.").is_err());
        assert!(Metadata::from_pickle(b"").is_err());
    }

    #[test]
    fn what_the_file_system_cannot_keep_is_told_apart_from_a_full_device() {
        let of = |n: usize| {
            let mut m = sample();
            m.set("X-Object-Meta-Big", "v".repeat(n));
            m
        };
        let store = |m: &Metadata| {
            let file = tempfile::tempfile().unwrap();
            write(&file, m).map(|()| read(&file).unwrap())
        };
        assert_eq!(store(&of(3_000)).unwrap(), of(3_000));
        // ext4 keeps one block of 4,096 bytes for all of it, other file systems pieces of 64 KiB.
        for n in [4_096, 5_000, 150_000] {
            match store(&of(n)) {
                Ok(m) => assert_eq!(m, of(n)),
                Err(DiskError::MetadataTooLarge(size)) => assert!(size > n, "{size}"),
                Err(e) => panic!("{n}: {e}"),
            }
        }
    }
}
