//! Members of a tar archive: ustar, GNU (long names, sparse files) and pax.
//!
//! Nothing in a header is trusted: numbers are bounded, extended headers have a size limit, names are bytes.

use super::archive::{Archive, Broken};
use std::collections::BTreeMap;

const BLOCK: usize = 512;
/// Bytes of an extended header: a name or a set of records.
const MAX_EXTENDED: u64 = 1_048_576;
/// Extended headers before a member.
const MAX_CHAIN: usize = 16;
/// Pieces of a sparse file.
const MAX_PIECES: usize = 65_536;

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// Directories, links, devices: nothing that could be an object.
    Other,
}

/// A member whose data comes next in the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub kind: Kind,
    pub name: Vec<u8>,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of data in the archive, without padding.
    pub stored: u64,
    /// Offset and length of the data's pieces in the file; `None`: the file is its data.
    pub pieces: Option<Vec<(u64, u64)>>,
    /// Extended attributes and the like; values need not be UTF-8.
    pub pax: Pax,
}

pub(super) type Pax = BTreeMap<String, Vec<u8>>;

/// What a header block says.
struct Header {
    name: Vec<u8>,
    kind: u8,
    size: u64,
    block: Vec<u8>,
}

enum Block {
    Header(Header),
    /// Zeros, or nothing.
    End,
    Bad(&'static str),
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// An octal number, or a base-256 one. `None` for anything else and for negative ones.
fn number(field: &[u8]) -> Option<u64> {
    match field.first()? {
        0x80 => field[1..].iter().try_fold(0_u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b))),
        0xff => None,
        _ => {
            let digits = std::str::from_utf8(text(field)).ok()?.trim();
            if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
        }
    }
}

fn parse_block(block: Vec<u8>) -> Block {
    if block.is_empty() || (block.len() == BLOCK && block.iter().all(|b| *b == 0)) {
        return Block::End;
    }
    if block.len() != BLOCK {
        return Block::Bad("truncated header");
    }
    let outside = |i: usize| !(148..156).contains(&i);
    let unsigned: i64 = 256 + block.iter().enumerate().filter(|(i, _)| outside(*i)).map(|(_, b)| i64::from(*b)).sum::<i64>();
    let signed: i64 = 256 + block.iter().enumerate().filter(|(i, _)| outside(*i)).map(|(_, b)| i64::from(b.cast_signed())).sum::<i64>();
    let Some(sum) = number(&block[148..156]).and_then(|n| i64::try_from(n).ok()) else { return Block::Bad("invalid header") };
    if sum != unsigned && sum != signed {
        return Block::Bad("bad checksum");
    }
    let Some(size) = number(&block[124..136]).filter(|s| i64::try_from(*s).is_ok()) else { return Block::Bad("invalid header") };
    let (mut name, kind) = (text(&block[..100]).to_vec(), block[156]);
    let prefix = text(&block[345..500]);
    if !prefix.is_empty() && !b"LKSVMNDx".contains(&kind) && block.starts_with_ustar() {
        name = [prefix, b"/", &name].concat();
    }
    Block::Header(Header { name, kind, size, block })
}

trait Ustar {
    fn starts_with_ustar(&self) -> bool;
}

impl Ustar for Vec<u8> {
    /// POSIX's mark; GNU's own uses the prefix's place for other things.
    fn starts_with_ustar(&self) -> bool {
        self[257..263] == *b"ustar\0"
    }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64) * BLOCK as u64
}

/// Records `length key=value\n`.
fn parse_pax(mut data: &[u8], sparse: &mut Vec<(u64, u64)>) -> Result<Pax, Broken> {
    let bad = || "missing or bad subsequent header".to_string();
    let (mut out, mut offset) = (Pax::new(), None);
    while data.first().is_some_and(|b| *b != 0) {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&data[..space]).ok().and_then(|t| t.parse().ok()).ok_or_else(bad)?;
        let record = data.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let key = String::from_utf8_lossy(&record[..equals]).into_owned();
        let value = &record[equals + 1..];
        let numeral = || std::str::from_utf8(value).ok()?.parse().ok();
        // The oldest form of sparse files repeats these.
        match key.as_str() {
            "GNU.sparse.offset" => offset = numeral(),
            "GNU.sparse.numbytes" if sparse.len() < MAX_PIECES => {
                sparse.push((offset.take().ok_or_else(bad)?, numeral().ok_or_else(bad)?));
            }
            _ => drop(out.insert(key, value.to_vec())),
        }
        data = &data[length..];
    }
    Ok(out)
}

/// Reads members one after another.
pub(super) struct Tar {
    global: Pax,
}

/// What extended headers said of the member that follows.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    pax: Pax,
    sparse: Vec<(u64, u64)>,
}

impl Tar {
    pub fn new() -> Self {
        Self { global: Pax::new() }
    }

    /// The next member; `None` at the end. Its data must be taken or skipped, with the padding, before the one after.
    pub async fn next(&mut self, archive: &mut Archive) -> Result<Option<Member>, Broken> {
        let first = archive.position == 0;
        let mut extended = Extended::default();
        for chain in 0..=MAX_CHAIN {
            let header = match parse_block(archive.take(BLOCK).await?) {
                Block::Header(h) => h,
                Block::End if first && archive.position == 0 => return Err("empty file".into()),
                // As Python's reader: garbage behind members ends the archive.
                Block::End | Block::Bad(_) if chain == 0 && !first => return Ok(None),
                Block::End if chain == 0 => return Ok(None),
                Block::Bad(why) if chain == 0 => return Err(why.into()),
                Block::End | Block::Bad(_) => return Err("missing or bad subsequent header".into()),
            };
            if !matches!(header.kind, b'L' | b'K' | b'x' | b'X' | b'g') {
                return self.member(archive, header, extended).await.map(Some);
            }
            if header.size > MAX_EXTENDED {
                return Err("missing or bad subsequent header".into());
            }
            let data = archive.take(usize::try_from(padded(header.size)).unwrap_or(0)).await?;
            let data = data.get(..usize::try_from(header.size).unwrap_or(0)).ok_or("unexpected end of data")?;
            match header.kind {
                b'L' => extended.name = Some(text(data).to_vec()),
                b'K' => {}
                b'g' => self.global.extend(parse_pax(data, &mut Vec::new())?),
                _ => extended.pax.extend(parse_pax(data, &mut extended.sparse)?),
            }
        }
        Err("missing or bad subsequent header".into())
    }

    async fn member(&self, archive: &mut Archive, header: Header, extended: Extended) -> Result<Member, Broken> {
        let mut pax = self.global.clone();
        pax.extend(extended.pax);
        let text_of = |key: &str| std::str::from_utf8(pax.get(key)?).ok();
        let number_of = |key: &str| text_of(key)?.parse::<u64>().ok();
        let mut stored = number_of("size").filter(|s| i64::try_from(*s).is_ok()).unwrap_or(header.size);
        let name = pax.get("GNU.sparse.name").or_else(|| pax.get("path")).cloned();
        let name = name.or(extended.name).unwrap_or(header.name);
        let directory = header.kind == 0 && name.ends_with(b"/");
        let kind = match header.kind {
            0 | b'0' | b'7' | b'S' if !directory => Kind::File,
            _ => Kind::Other,
        };
        // Types that are known to have no data have none whatever their size says.
        if matches!(header.kind, b'1'..=b'6') || directory {
            stored = 0;
        }
        let (mut size, mut pieces) = (stored, None);
        if header.kind == b'S' {
            size = number(&header.block[483..495]).ok_or("invalid header")?;
            pieces = Some(old_sparse(archive, &header.block).await?);
        } else if !extended.sparse.is_empty() {
            pieces = Some(extended.sparse);
        } else if let Some(map) = text_of("GNU.sparse.map") {
            pieces = Some(sparse_map(map)?);
        } else if text_of("GNU.sparse.major") == Some("1") {
            let (map, used) = new_sparse(archive).await?;
            stored = stored.checked_sub(used).ok_or("invalid header")?;
            pieces = Some(map);
        }
        if pieces.is_some() && header.kind != b'S' {
            size = number_of("GNU.sparse.realsize").or_else(|| number_of("GNU.sparse.size")).ok_or("invalid header")?;
        }
        if let Some(p) = &pieces {
            check_pieces(p, size, stored)?;
        }
        Ok(Member { kind, name, size, stored, pieces, pax })
    }
}

/// Pieces follow one another, lie within the file and use the data that there is.
fn check_pieces(pieces: &[(u64, u64)], size: u64, stored: u64) -> Result<(), Broken> {
    let (mut at, mut used) = (0_u64, 0_u64);
    for (offset, length) in pieces {
        let end = offset.checked_add(*length).filter(|e| *offset >= at && *e <= size).ok_or("invalid header")?;
        at = end;
        used += length;
    }
    if used > stored { Err("invalid header".into()) } else { Ok(()) }
}

fn sparse_entries(mut field: &[u8], pieces: &mut Vec<(u64, u64)>) -> Result<(), Broken> {
    while field.len() >= 24 {
        let (offset, length) = (number(&field[..12]).ok_or("invalid header")?, number(&field[12..24]).ok_or("invalid header")?);
        if length > 0 {
            pieces.push((offset, length));
        }
        field = &field[24..];
    }
    if pieces.len() > MAX_PIECES { Err("invalid header".into()) } else { Ok(()) }
}

/// GNU's first form: four pieces in the header, more in blocks behind it.
async fn old_sparse(archive: &mut Archive, block: &[u8]) -> Result<Vec<(u64, u64)>, Broken> {
    let mut pieces = Vec::new();
    sparse_entries(&block[386..482], &mut pieces)?;
    let mut more = block[482] != 0;
    while more {
        let block = archive.take(BLOCK).await?;
        if block.len() != BLOCK {
            return Err("unexpected end of data".into());
        }
        sparse_entries(&block[..504], &mut pieces)?;
        more = block[504] != 0;
    }
    Ok(pieces)
}

/// `offset,length,offset,length…`.
fn sparse_map(map: &str) -> Result<Vec<(u64, u64)>, Broken> {
    let numbers: Option<Vec<u64>> = map.split(',').take(MAX_PIECES * 2 + 1).map(|n| n.trim().parse().ok()).collect();
    let numbers = numbers.filter(|n| n.len().is_multiple_of(2) && n.len() <= MAX_PIECES * 2).ok_or("invalid header")?;
    Ok(numbers.chunks(2).map(|p| (p[0], p[1])).collect())
}

/// The newest form: the count and the numbers, a line each, in blocks before the data. Also the bytes they take.
async fn new_sparse(archive: &mut Archive) -> Result<(Vec<(u64, u64)>, u64), Broken> {
    let start = archive.position;
    let mut buffer: Vec<u8> = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = 1;
    while numbers.len() < wanted {
        let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
            let block = archive.take(BLOCK).await?;
            if block.len() != BLOCK || buffer.len() > 64 {
                return Err("unexpected end of data".into());
            }
            buffer.extend_from_slice(&block);
            continue;
        };
        let line: Vec<u8> = buffer.drain(..=end).collect();
        let line = std::str::from_utf8(&line[..end]).ok().and_then(|l| l.parse().ok()).ok_or("invalid header")?;
        numbers.push(line);
        if numbers.len() == 1 {
            wanted = usize::try_from(line).ok().filter(|n| *n <= MAX_PIECES).ok_or("invalid header")? * 2 + 1;
        }
    }
    Ok((numbers[1..].chunks(2).map(|p| (p[0], p[1])).collect(), archive.position - start))
}
