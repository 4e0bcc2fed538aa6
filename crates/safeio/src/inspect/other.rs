//! VDI, VHD, VHDX, LUKS, and the partition tables of raw disks.

use super::bytes::{Image, be16, be32, be64, le16, le32, le64};
use super::{Format, PartitionTable, Verdict, ensure, refuse};

const REGION_TABLE_AT: u64 = 192 * 1024;
const VHDX_ENTRIES_MAX: usize = 2047;
const GUID_BAT: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const GUID_METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const GUID_FILE_PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const GUID_VIRTUAL_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const GUID_PARENT_LOCATOR: [u8; 16] = *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";

/// Dynamic and static VDI; differencing images (a parent) are refused.
pub(super) fn vdi(image: &Image) -> Verdict<u64> {
    let h = image.head.as_slice();
    ensure(h.len() >= 512, "its VDI header is cut short")?;
    ensure(le32(h, 0x44) == Some(0x0001_0001), "its VDI version is unknown")?;
    ensure(matches!(le32(h, 0x4c), Some(1 | 2)), "it is a VDI with a parent")?;
    ensure(h[0x1a8..0x1c8].iter().all(|b| *b == 0), "it is a VDI with a parent")?;
    let (size, block, blocks) = (le64(h, 0x170).unwrap_or(0), le32(h, 0x178), le32(h, 0x180).unwrap_or(0));
    ensure(block == Some(1 << 20), "its VDI block size is not 1 MiB")?;
    ensure(u64::from(blocks) << 20 >= size, "its VDI block map does not cover its virtual size")?;
    Ok(size)
}

/// Fixed and dynamic VHD; differencing images are refused.
pub(super) fn vhd(image: &Image) -> Verdict<u64> {
    let head = image.head.as_slice();
    let Some(footer) = image.last(512).filter(|f| f.starts_with(b"conectix")) else {
        return refuse("its VHD footer is missing");
    };
    ensure(be32(footer, 12) == Some(0x0001_0000), "its VHD version is unknown")?;
    let sum = footer.iter().enumerate().filter(|(i, _)| !(64..68).contains(i)).fold(0_u32, |s, (_, b)| s + u32::from(*b));
    ensure(be32(footer, 64) == Some(!sum), "its VHD footer checksum is wrong")?;
    let size = be64(footer, 48).unwrap_or(0);
    match be32(footer, 60) {
        Some(2) => {
            ensure(!head.starts_with(b"conectix"), "it is a fixed VHD with a second footer")?;
            ensure(size.checked_add(512) == Some(image.total), "its VHD size differs from the file")?;
            Ok(size)
        }
        Some(3) => {
            ensure(head.get(..512) == Some(footer), "its two VHD footers differ")?;
            let Some(dynamic) = be64(footer, 16).and_then(|at| image.at(at, 1024)) else {
                return refuse("its VHD header lies outside the file");
            };
            ensure(dynamic.starts_with(b"cxsparse"), "its VHD header is damaged")?;
            let parentless = dynamic[40..56].iter().chain(&dynamic[64..768]).all(|b| *b == 0);
            ensure(parentless, "it is a VHD with a parent")?;
            Ok(size)
        }
        _ => refuse("its VHD type is not fixed or dynamic"),
    }
}

/// Offset and length of the VHDX metadata region.
pub(super) fn vhdx_metadata_region(image: &Image) -> Verdict<(u64, u32)> {
    let Some(table) = image.at(REGION_TABLE_AT, 64 * 1024).filter(|t| t.starts_with(b"regi")) else {
        return refuse("its VHDX region table is missing");
    };
    let count = le32(table, 8).unwrap_or(u32::MAX) as usize;
    ensure(count <= VHDX_ENTRIES_MAX, "its VHDX region table is too large")?;
    let mut metadata = None;
    for entry in table[16..].chunks_exact(32).take(count) {
        let (offset, len) = (le64(entry, 16).unwrap_or(0), le32(entry, 24).unwrap_or(0));
        if entry[..16] == GUID_METADATA {
            ensure(metadata.replace((offset, len)).is_none(), "its VHDX region table repeats a region")?;
        } else if entry[..16] != GUID_BAT {
            return refuse("it uses an unknown VHDX region");
        }
    }
    match metadata {
        Some((offset, len)) if offset >= 1 << 20 && len >= 64 * 1024 => Ok((offset, len)),
        _ => refuse("its VHDX metadata is missing"),
    }
}

/// VHDX without a parent.
pub(super) fn vhdx(image: &Image) -> Verdict<u64> {
    let (offset, _) = vhdx_metadata_region(image)?;
    let Some(table) = image.at(offset, 64 * 1024).filter(|t| t.starts_with(b"metadata")) else {
        return refuse("its VHDX metadata lies outside the file");
    };
    let count = usize::from(le16(table, 10).unwrap_or(u16::MAX));
    ensure(count <= VHDX_ENTRIES_MAX, "its VHDX metadata table is too large")?;
    let (mut size, mut parameters) = (None, None);
    for entry in table[32..].chunks_exact(32).take(count) {
        let at = offset.saturating_add(u64::from(le32(entry, 16).unwrap_or(0)));
        if entry[..16] == GUID_PARENT_LOCATOR {
            return refuse("it is a VHDX with a parent");
        } else if entry[..16] == GUID_VIRTUAL_SIZE {
            size = image.at(at, 8).and_then(|b| le64(b, 0));
        } else if entry[..16] == GUID_FILE_PARAMETERS {
            parameters = image.at(at, 8).and_then(|b| le32(b, 4));
        }
    }
    let (Some(size), Some(parameters)) = (size, parameters) else {
        return refuse("its VHDX metadata is incomplete");
    };
    ensure(parameters & 2 == 0, "it is a VHDX with a parent")?;
    Ok(size)
}

/// LUKS version 1 whose payload is not itself a readable image.
pub(super) fn luks(image: &Image) -> Verdict<u64> {
    let h = image.head.as_slice();
    ensure(be16(h, 6) == Some(1), "its LUKS version is not 1")?;
    ensure(h.len() >= 592, "its LUKS header is cut short")?;
    let payload = u64::from(be32(h, 104).unwrap_or(0)) * 512;
    ensure(payload >= 592 && payload < image.total, "its LUKS payload lies outside the file")?;
    let inner = image.at(payload, 8).unwrap_or_default();
    let readable = [&b"QFI\xfb"[..], b"QED\0", b"KDMV", b"COWD", b"conectix", b"vhdxfile", b"LUKS\xba\xbe"];
    ensure(!readable.iter().any(|magic| inner.starts_with(magic)), "it holds another image inside LUKS")?;
    Ok(image.total - payload)
}

/// Reads the partition table; a malformed one refuses a raw disk. ISO files carry odd but harmless
/// hybrid tables, which nothing on the host reads.
pub(super) fn partition_table(image: &Image, format: Format) -> Verdict<PartitionTable> {
    let h = image.head.as_slice();
    let gpt = h.get(512..520) == Some(b"EFI PART");
    if h.get(510..512) != Some(b"\x55\xaa") || is_file_system_boot_sector(h) {
        return Ok(if gpt { PartitionTable::Gpt } else { PartitionTable::None });
    }
    let strict = format == Format::Raw;
    let entries: Vec<&[u8]> = h[446..510].chunks_exact(16).filter(|e| e[4] != 0).collect();
    if entries.is_empty() {
        return Ok(if gpt { PartitionTable::Gpt } else { PartitionTable::None });
    }
    let flags_ok = h[446..510].chunks_exact(16).all(|e| matches!(e[0], 0 | 0x80));
    ensure(flags_ok || !strict, "its partition table has a bad boot flag")?;
    let Some(protective) = entries.iter().find(|e| e[4] == 0xee) else {
        let placed = entries.iter().all(|e| le32(e, 8).is_some_and(|lba| lba > 0));
        ensure(placed || !strict, "its partition table has a partition over itself")?;
        return Ok(if gpt { PartitionTable::Gpt } else { PartitionTable::Mbr });
    };
    if strict {
        ensure(entries.len() == 1, "its protective partition table has extra partitions")?;
        let chs_ok = matches!(protective[1..4], [0, 2, 0] | [0, 1, 0] | [0, 0, 0]);
        ensure(chs_ok && le32(protective, 8) == Some(1), "its protective partition starts at a wrong place")?;
    }
    Ok(PartitionTable::Gpt)
}

/// FAT, exFAT and NTFS boot sectors share the partition table's signature but hold code there.
fn is_file_system_boot_sector(h: &[u8]) -> bool {
    h.get(54..57) == Some(b"FAT") || h.get(82..85) == Some(b"FAT") || matches!(h.get(3..8), Some(b"EXFAT" | b"NTFS "))
}
