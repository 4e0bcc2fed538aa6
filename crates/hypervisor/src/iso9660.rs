//! Writes small ISO 9660 images with Rock Ridge names: the config drive.
//!
//! Linux reads the POSIX names from Rock Ridge's `NM` entries; the plain ISO names beneath are
//! generated and unique. Everything else is as small as the standard (ECMA-119) permits: one volume
//! descriptor, one path table in both byte orders, directories, files. Same input, same bytes.

use caelum_base::{Error, Result};
use std::collections::BTreeMap;

const SECTOR: usize = 2048;
/// Largest config drive, in bytes of file content.
const MAX_CONTENT: usize = 64 << 20;
/// `DIR` record without a name: fixed part.
const RECORD: usize = 33;

/// A directory while the image is laid out.
#[derive(Default)]
struct Dir<'a> {
    dirs: BTreeMap<&'a str, usize>,
    files: BTreeMap<&'a str, &'a [u8]>,
    parent: usize,
    sector: u32,
    sectors: u32,
}

/// Makes an image with `files` by path (`openstack/latest/meta_data.json`).
pub fn image(label: &str, files: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut dirs = tree(files)?;
    let mut next = 18_u32;
    let path_table = path_table_order(&dirs);
    let table_bytes: usize = path_table.iter().map(|i| 8 + dir_id(*i).len().div_ceil(2) * 2).sum();
    let table_sectors = sectors(table_bytes);
    let (table_le, table_be) = (next, next + table_sectors);
    next += 2 * table_sectors;
    for d in &mut dirs {
        d.sector = next;
        d.sectors = sectors(dir_size(d));
        next += d.sectors;
    }
    let mut file_sectors = BTreeMap::new();
    for (i, d) in dirs.iter().enumerate() {
        for (name, content) in &d.files {
            file_sectors.insert((i, *name), next);
            next += sectors(content.len());
        }
    }
    let mut out = vec![0_u8; next as usize * SECTOR];
    volume_descriptor(&mut out, label, next, table_bytes, (table_le, table_be), &dirs[0]);
    write_tables(&mut out, &dirs, &path_table, (table_le, table_be));
    for i in 0..dirs.len() {
        write_dir(&mut out, &dirs, i, &file_sectors);
    }
    for (i, d) in dirs.iter().enumerate() {
        for (name, content) in &d.files {
            let at = file_sectors[&(i, *name)] as usize * SECTOR;
            out[at..at + content.len()].copy_from_slice(content);
        }
    }
    Ok(out)
}

fn tree(files: &BTreeMap<String, String>) -> Result<Vec<Dir<'_>>> {
    let mut dirs = vec![Dir::default()];
    if files.values().map(String::len).sum::<usize>() > MAX_CONTENT {
        return Err(Error::too_large("The config drive's content is too large."));
    }
    for (path, content) in files {
        let mut at = 0;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() || part == "." || part == ".." || part.len() > 128 || part.contains('\0') {
                return Err(Error::invalid(format!("The config drive cannot hold a file named {path:?}.")));
            }
            if parts.peek().is_none() {
                dirs[at].files.insert(part, content.as_bytes());
            } else if let Some(child) = dirs[at].dirs.get(part) {
                at = *child;
            } else {
                let child = dirs.len();
                dirs[at].dirs.insert(part, child);
                dirs.push(Dir { parent: at, ..Dir::default() });
                at = child;
            }
        }
    }
    if dirs.len() > 1000 || dirs.iter().any(|d| d.files.keys().any(|f| d.dirs.contains_key(f))) {
        return Err(Error::invalid("The config drive's paths contradict each other."));
    }
    Ok(dirs)
}

fn sectors(bytes: usize) -> u32 {
    bytes.div_ceil(SECTOR) as u32
}

/// The ISO name of directory number `index`; Rock Ridge carries the real one.
fn dir_id(index: usize) -> Vec<u8> {
    if index == 0 { vec![0] } else { format!("D{index:04}").into_bytes() }
}

fn file_id(index: usize) -> Vec<u8> {
    format!("F{index:04}.;1").into_bytes()
}

/// Directories by level, then parent: the order the standard demands of a path table.
fn path_table_order(dirs: &[Dir<'_>]) -> Vec<usize> {
    let mut order = vec![0];
    let mut at = 0;
    while at < order.len() {
        let mut children: Vec<usize> = dirs[order[at]].dirs.values().copied().collect();
        children.sort_unstable();
        order.extend(children);
        at += 1;
    }
    order
}

/// Rock Ridge entries of one directory record.
fn system_use(name: Option<&str>, mode: u32, links: u32, root_dot: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if root_dot {
        out.extend_from_slice(b"SP\x07\x01\xbe\xef\x00");
    }
    out.extend_from_slice(b"PX\x24\x01");
    for v in [mode, links, 0, 0] {
        both32(&mut out, v);
    }
    if let Some(name) = name {
        out.extend_from_slice(b"NM");
        out.push((5 + name.len()) as u8);
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(name.as_bytes());
    }
    if root_dot {
        // Names the extension, as the standard demands once per volume.
        const ID: &[u8] = b"RRIP_1991A";
        out.extend_from_slice(b"ER");
        out.push((8 + ID.len()) as u8);
        out.extend_from_slice(&[1, ID.len() as u8, 0, 0, 1]);
        out.extend_from_slice(ID);
    }
    out
}

fn both32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_le_bytes());
    out.extend_from_slice(&v.to_be_bytes());
}

fn both16(out: &mut Vec<u8>, v: u16) {
    out.extend_from_slice(&v.to_le_bytes());
    out.extend_from_slice(&v.to_be_bytes());
}

/// 1980-01-01: a fixed date keeps the image a function of its files.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

fn record(id: &[u8], sector: u32, bytes: u32, is_dir: bool, system_use: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    both32(&mut out, sector);
    both32(&mut out, bytes);
    out.extend_from_slice(&DATE);
    out.extend_from_slice(&[if is_dir { 2 } else { 0 }, 0, 0]);
    both16(&mut out, 1);
    out.push(id.len() as u8);
    out.extend_from_slice(id);
    if !out.len().is_multiple_of(2) {
        out.push(0);
    }
    out.extend_from_slice(system_use);
    if !out.len().is_multiple_of(2) {
        out.push(0);
    }
    out[0] = out.len() as u8;
    out
}

/// The records of directory `i`: itself, its parent, then children in the order of their ISO names.
fn records(dirs: &[Dir<'_>], i: usize, file_sectors: Option<&BTreeMap<(usize, &str), u32>>) -> Vec<Vec<u8>> {
    const DIR_MODE: u32 = 0o040_555;
    const FILE_MODE: u32 = 0o100_444;
    let d = &dirs[i];
    let span = |d: &Dir<'_>| d.sectors * SECTOR as u32;
    let parent = &dirs[d.parent];
    let mut out = vec![
        record(&[0], d.sector, span(d), true, &system_use(None, DIR_MODE, 2, i == 0)),
        record(&[1], parent.sector, span(parent), true, &system_use(None, DIR_MODE, 2, false)),
    ];
    let mut children: Vec<(&str, usize)> = d.dirs.iter().map(|(n, c)| (*n, *c)).collect();
    children.sort_unstable_by_key(|(_, c)| *c);
    for (name, child) in children {
        let c = &dirs[child];
        out.push(record(&dir_id(child), c.sector, span(c), true, &system_use(Some(name), DIR_MODE, 2, false)));
    }
    for (n, (name, content)) in d.files.iter().enumerate() {
        let sector = file_sectors.and_then(|m| m.get(&(i, *name))).copied().unwrap_or(0);
        out.push(record(&file_id(n), sector, content.len() as u32, false, &system_use(Some(name), FILE_MODE, 1, false)));
    }
    out
}

/// Bytes a directory takes: a record never crosses a sector.
fn dir_size(d: &Dir<'_>) -> usize {
    let mut lengths = vec![RECORD + 1 + 7 + 36 + 18, RECORD + 1 + 36];
    let with_name = |id: usize, name: &str| (RECORD + id).div_ceil(2) * 2 + (36 + 5 + name.len()).div_ceil(2) * 2;
    lengths.extend(d.dirs.keys().map(|n| with_name(5, n)));
    lengths.extend(d.files.keys().map(|n| with_name(8, n)));
    let mut at = 0;
    for n in lengths {
        let n = n.div_ceil(2) * 2;
        if at % SECTOR + n > SECTOR {
            at = at.div_ceil(SECTOR) * SECTOR;
        }
        at += n;
    }
    at
}

fn write_dir(out: &mut [u8], dirs: &[Dir<'_>], i: usize, file_sectors: &BTreeMap<(usize, &str), u32>) {
    let base = dirs[i].sector as usize * SECTOR;
    let mut at = 0;
    for r in records(dirs, i, Some(file_sectors)) {
        if at % SECTOR + r.len() > SECTOR {
            at = at.div_ceil(SECTOR) * SECTOR;
        }
        out[base + at..base + at + r.len()].copy_from_slice(&r);
        at += r.len();
    }
}

fn write_tables(out: &mut [u8], dirs: &[Dir<'_>], order: &[usize], (le, be): (u32, u32)) {
    let mut little = Vec::new();
    let mut big = Vec::new();
    for &i in order {
        let id = dir_id(i);
        let parent = order.iter().position(|o| *o == dirs[i].parent).unwrap_or(0) as u16 + 1;
        for (table, is_le) in [(&mut little, true), (&mut big, false)] {
            table.extend_from_slice(&[id.len() as u8, 0]);
            if is_le {
                table.extend_from_slice(&dirs[i].sector.to_le_bytes());
                table.extend_from_slice(&parent.to_le_bytes());
            } else {
                table.extend_from_slice(&dirs[i].sector.to_be_bytes());
                table.extend_from_slice(&parent.to_be_bytes());
            }
            table.extend_from_slice(&id);
            if !id.len().is_multiple_of(2) {
                table.push(0);
            }
        }
    }
    for (at, table) in [(le, little), (be, big)] {
        let at = at as usize * SECTOR;
        out[at..at + table.len()].copy_from_slice(&table);
    }
}

fn volume_descriptor(out: &mut [u8], label: &str, total: u32, table_bytes: usize, (le, be): (u32, u32), root: &Dir<'_>) {
    let mut v = Vec::with_capacity(SECTOR);
    v.extend_from_slice(b"\x01CD001\x01\x00");
    v.extend_from_slice(&[b' '; 32]);
    let mut name = label.as_bytes().to_vec();
    name.resize(32, b' ');
    v.extend_from_slice(&name);
    v.extend_from_slice(&[0; 8]);
    both32(&mut v, total);
    v.extend_from_slice(&[0; 32]);
    both16(&mut v, 1);
    both16(&mut v, 1);
    both16(&mut v, SECTOR as u16);
    both32(&mut v, table_bytes as u32);
    v.extend_from_slice(&le.to_le_bytes());
    v.extend_from_slice(&[0; 4]);
    v.extend_from_slice(&be.to_be_bytes());
    v.extend_from_slice(&[0; 4]);
    v.extend_from_slice(&record(&[0], root.sector, root.sectors * SECTOR as u32, true, &[]));
    // Set, publisher, preparer, application; copyright, abstract and bibliographic file.
    v.extend_from_slice(&[b' '; 128 * 4 + 37 * 3]);
    for _ in 0..4 {
        v.extend_from_slice(b"0000000000000000\x00");
    }
    v.push(1);
    v.resize(SECTOR, 0);
    out[16 * SECTOR..17 * SECTOR].copy_from_slice(&v);
    let end = &mut out[17 * SECTOR..17 * SECTOR + 7];
    end.copy_from_slice(b"\xffCD001\x01");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = (0..60)
            .map(|i| (format!("openstack/content/a_long_name_that_fills_directories_{i:04}.txt"), format!("{i}").repeat(i)))
            .collect();
        files.insert("openstack/latest/meta_data.json".into(), "{\"uuid\": 1}".repeat(400));
        files.insert("openstack/latest/user_data".into(), "#!/bin/sh\n".into());
        files.insert("ec2/latest/meta-data.json".into(), String::new());
        files
    }

    #[test]
    fn isoinfo_reads_every_file_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.iso");
        std::fs::write(&path, image("config-2", &files()).unwrap()).unwrap();
        let run = |args: &[&str]| std::process::Command::new("isoinfo").args(args).arg("-i").arg(&path).output();
        let Ok(out) = run(&["-d"]) else { return };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("Volume id: config-2") && text.contains("Rock Ridge"), "{text}");
        let names = String::from_utf8(run(&["-R", "-f"]).unwrap().stdout).unwrap();
        for (name, content) in files() {
            assert!(names.lines().any(|l| l == format!("/{name}")), "{name} in {names}");
            let got = run(&["-R", "-x", &format!("/{name}")]).unwrap().stdout;
            assert_eq!(String::from_utf8(got).unwrap(), content, "{name}");
        }
    }

    #[test]
    fn paths_that_mean_nothing_are_refused() {
        for bad in ["", "/a", "a/../b", "a//b", "a/", "n\0"] {
            assert!(image("x", &[(bad.to_owned(), String::new())].into()).is_err(), "{bad}");
        }
        assert!(image("x", &[("a".to_owned(), String::new()), ("a/b".to_owned(), String::new())].into()).is_err());
    }
}
