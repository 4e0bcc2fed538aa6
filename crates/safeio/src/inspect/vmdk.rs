//! VMDK, of which only self-contained single files are allowed: `monolithicSparse` and
//! `streamOptimized`. The embedded descriptor is read line by line against a list of known lines.

use super::bytes::{Image, le16, le32, le64};
use super::{Verdict, ensure, refuse};

const SECTOR: u64 = 512;
const GD_AT_END: u64 = u64::MAX;
/// Largest descriptor read, in sectors.
const DESCRIPTOR_SECTORS_MAX: u64 = 512;
const MARKER_FOOTER: u32 = 3;

pub(super) fn looks_like(head: &[u8]) -> bool {
    if head.starts_with(b"KDMV") || head.starts_with(b"COWD") {
        return true;
    }
    // A text descriptor may stand anywhere a lenient reader would still find it.
    let text = &head[..head.len().min(4096)];
    let needle = b"# disk descriptorfile";
    text.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle)) && !text.contains(&0)
        || text.trim_ascii_start().get(..needle.len()).is_some_and(|w| w.eq_ignore_ascii_case(needle))
}

pub(super) fn check(image: &Image) -> Verdict<u64> {
    let h = image.head.as_slice();
    ensure(h.starts_with(b"KDMV"), "it is a VMDK descriptor without its data")?;
    ensure(h.len() >= 1024, "its VMDK header is cut short")?;
    let version = le32(h, 4).unwrap_or(0);
    ensure((1..=3).contains(&version), "its VMDK version is unknown")?;
    ensure(h[73..77] == *b"\n \r\n", "its VMDK header is damaged")?;
    let (capacity, grain) = (le64(h, 12).unwrap_or(0), le64(h, 20).unwrap_or(0));
    ensure(grain.is_power_of_two() && (1..=2048).contains(&grain), "its VMDK grain size is out of range")?;
    let (at, sectors) = (le64(h, 28).unwrap_or(0), le64(h, 36).unwrap_or(0));
    ensure(at == 1, "its VMDK descriptor is not after the header")?;
    ensure((1..=DESCRIPTOR_SECTORS_MAX).contains(&sectors), "its VMDK descriptor has a wrong size")?;
    let Some(descriptor) = image.at(at * SECTOR, (sectors * SECTOR) as usize) else {
        return refuse("its VMDK descriptor is cut short");
    };
    let stream = check_descriptor(descriptor)?;
    ensure(le16(h, 77).is_some_and(|c| c <= 1), "its VMDK compression is unknown")?;
    check_footer(image, stream)?;
    match capacity.checked_mul(SECTOR) {
        Some(size) => Ok(size),
        None => refuse("its virtual size is absurd"),
    }
}

/// Returns whether it is stream-optimised.
fn check_descriptor(descriptor: &[u8]) -> Verdict<bool> {
    let end = descriptor.iter().position(|b| *b == 0).unwrap_or(descriptor.len());
    let (text, padding) = descriptor.split_at(end);
    ensure(padding.iter().all(|b| *b == 0), "its VMDK descriptor has data after its end")?;
    let text = match std::str::from_utf8(text) {
        Ok(text) if text.is_ascii() => text,
        _ => return refuse("its VMDK descriptor is not ASCII"),
    };
    let (mut kind, mut extents) = (None, 0);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("RW ") || line.starts_with("RDONLY ") {
            check_extent(line)?;
            extents += 1;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return refuse("its VMDK descriptor has an unknown line");
        };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "createType" if kind.is_none() => kind = Some(value),
            "parentCID" => ensure(value.eq_ignore_ascii_case("ffffffff"), "it has a parent VMDK")?,
            "version" | "encoding" | "CID" | "isNativeSnapshot" => {}
            key if key.starts_with("ddb.") => {}
            _ => return refuse("its VMDK descriptor has an unknown line"),
        }
    }
    ensure(extents == 1, "its VMDK descriptor does not name exactly one extent")?;
    match kind {
        Some("monolithicSparse") => Ok(false),
        Some("streamOptimized") => Ok(true),
        _ => refuse("its VMDK type is not monolithicSparse or streamOptimized"),
    }
}

/// `RW 2048 SPARSE "disk.vmdk"`: one sparse extent, in this very file, named without a path.
fn check_extent(line: &str) -> Verdict<()> {
    let mut parts = line.splitn(4, ' ');
    let (_, sectors, kind, name) = (parts.next(), parts.next(), parts.next(), parts.next());
    ensure(sectors.is_some_and(|s| s.parse::<u64>().is_ok()), "a VMDK extent is malformed")?;
    ensure(kind == Some("SPARSE"), "a VMDK extent is not inside the file")?;
    let name = name.and_then(|n| n.strip_prefix('"')).and_then(|n| n.strip_suffix('"')).unwrap_or("");
    let plain = !name.is_empty() && !name.contains(['/', '\\', '"']) && name != "..";
    ensure(plain, "a VMDK extent name is not a plain file name")
}

/// A stream-optimised file whose header says "directory at the end" ends in footer marker, footer
/// and end marker; the footer repeats the header but for the directory offset.
fn check_footer(image: &Image, stream: bool) -> Verdict<()> {
    let h = image.head.as_slice();
    let last = image.last(3 * SECTOR as usize).unwrap_or_default();
    let has_footer = last.get(512..516) == Some(b"KDMV");
    if le64(h, 56) != Some(GD_AT_END) {
        return ensure(!has_footer || image.total <= 2048, "it has an unexpected VMDK footer");
    }
    ensure(stream, "its VMDK directory is at the end but it is not streamOptimized")?;
    ensure(has_footer, "its VMDK footer is missing")?;
    let (marker, footer, end) = (&last[..512], &last[512..1024], &last[1024..]);
    let sound = le64(marker, 0) == Some(1) && le32(marker, 8) == Some(0) && le32(marker, 12) == Some(MARKER_FOOTER);
    ensure(sound && marker[16..].iter().all(|b| *b == 0), "its VMDK footer marker is wrong")?;
    ensure(end.iter().all(|b| *b == 0), "its VMDK end marker is wrong")?;
    let same = footer[..48] == h[..48] && footer[64..79] == h[64..79];
    ensure(same, "its VMDK footer differs from its header")?;
    let directory = le64(footer, 56).unwrap_or(GD_AT_END);
    let inside = directory.checked_mul(SECTOR).is_some_and(|at| at >= SECTOR && at < image.total);
    ensure(inside, "its VMDK directory lies outside the file")
}
