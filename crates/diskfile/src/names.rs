//! Names of an object's files: `TIMESTAMP.data`, `TIMESTAMP#FRAGMENT[#d].data`, `TIMESTAMP[±DELTA].meta`,
//! `TIMESTAMP.ts`, `TIMESTAMP.durable`.

use caelum_swiftkit::{PolicyKind, StoragePolicy, Timestamp};

/// What a file is by its extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ext {
    Data,
    Meta,
    Tombstone,
    /// Older clusters mark fragments as durable with a file of their own.
    Durable,
    /// Any other; its files are kept and ignored.
    Other,
}

impl Ext {
    /// With the dot, as suffix hashes use it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => ".data",
            Self::Meta => ".meta",
            Self::Tombstone => ".ts",
            Self::Durable => ".durable",
            Self::Other => "",
        }
    }
}

/// One file of an object's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    pub name: String,
    pub timestamp: Timestamp,
    pub ext: Ext,
    /// Of `.meta` files that tell it: when the content type was set.
    pub ctype_timestamp: Option<Timestamp>,
    /// Of an erasure-coded policy's `.data` files.
    pub frag_index: Option<u32>,
    /// Of fragments: may be served. Always true for whole objects.
    pub durable: bool,
}

/// A fragment number, checked against the policy's count. Errors: a text for the log.
pub fn frag_index(text: &str, policy: Option<&StoragePolicy>) -> Result<u32, String> {
    let n: i64 = text.trim().parse().map_err(|_| format!("Bad fragment index: {text}"))?;
    let n = u32::try_from(n).map_err(|_| format!("Fragment index must not be negative: {text}"))?;
    if let Some(PolicyKind::ErasureCoding { data, parity, .. }) = policy.map(|p| &p.kind)
        && n as usize >= data + parity
    {
        return Err(format!("Fragment index must be less than {} for a {data}+{parity} policy: {n}", data + parity));
    }
    Ok(n)
}

impl FileInfo {
    /// Errors: the name is none of an object's files (an rsync in progress, an operator's leftover).
    pub fn parse(name: &str, policy: &StoragePolicy) -> Result<Self, String> {
        let bad = || format!("Invalid Timestamp value in filename '{name}'");
        // As Python splits: a leading dot belongs to the stem.
        let (stem, ext) = match name.rfind('.') {
            Some(at) if name.bytes().take(at).any(|b| b != b'.') => name.split_at(at),
            _ => (name, ""),
        };
        let mut info = Self {
            name: name.to_string(),
            timestamp: Timestamp::ZERO,
            ext: Ext::Other,
            ctype_timestamp: None,
            frag_index: None,
            durable: true,
        };
        match ext {
            ".data" if policy.is_ec() => {
                let mut parts = stem.split('#');
                info.ext = Ext::Data;
                info.timestamp = parts.next().and_then(Timestamp::parse).ok_or_else(bad)?;
                info.frag_index = Some(frag_index(parts.next().unwrap_or("None"), Some(policy))?);
                info.durable = parts.next() == Some("d");
                return Ok(info);
            }
            ".meta" => {
                let cut = stem.find(['+', '-']).unwrap_or(stem.len());
                let (t1, delta) = stem.split_at(cut);
                info.ext = Ext::Meta;
                info.timestamp = Timestamp::parse(t1).ok_or_else(bad)?;
                if !delta.is_empty() {
                    info.ctype_timestamp = Some(shift(info.timestamp, delta).ok_or_else(bad)?);
                }
                return Ok(info);
            }
            ".data" => info.ext = Ext::Data,
            ".ts" => info.ext = Ext::Tombstone,
            ".durable" => info.ext = Ext::Durable,
            _ => {}
        }
        info.timestamp = Timestamp::parse(stem).ok_or_else(bad)?;
        Ok(info)
    }
}

/// `+1a`, `-1a`, in 10 µs; zero keeps the offset. Whatever follows a second sign says nothing here.
fn shift(t: Timestamp, delta: &str) -> Option<Timestamp> {
    let digits = delta.get(1..)?;
    let digits = digits.split(['+', '-']).next()?;
    let d = u64::from_str_radix(digits, 16).ok()?;
    let raw = if delta.starts_with('-') { t.raw.checked_sub(d)? } else { t.raw.checked_add(d)? };
    Some(if d == 0 { t } else { Timestamp { raw, offset: 0 } })
}

/// `TIMESTAMP.data`, or with a fragment's number and mark.
pub fn data_name(t: Timestamp, fragment: Option<u32>, durable: bool) -> String {
    match fragment {
        Some(n) if durable => format!("{}#{n}#d.data", t.internal()),
        Some(n) => format!("{}#{n}.data", t.internal()),
        None => format!("{}.data", t.internal()),
    }
}

/// `TIMESTAMP.meta`, with the difference to the content type's time where that is told.
pub fn meta_name(t: Timestamp, ctype: Option<Timestamp>) -> String {
    let Some(c) = ctype else { return format!("{}.meta", t.internal()) };
    if c.raw < t.raw { format!("{}-{:x}.meta", t.internal(), t.raw - c.raw) } else { format!("{}+{:x}.meta", t.internal(), c.raw - t.raw) }
}

pub fn tombstone_name(t: Timestamp) -> String {
    format!("{}.ts", t.internal())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn ec() -> StoragePolicy {
        StoragePolicy {
            index: 1,
            name: "ec".into(),
            kind: PolicyKind::ErasureCoding { ec_type: "isa_l_rs_vand".into(), data: 4, parity: 2, segment_size: 1 << 20, duplication: 1 },
            ..StoragePolicy::zero()
        }
    }

    #[test]
    fn there_and_back() {
        let t = Timestamp::parse("1402463942.05535").unwrap();
        let c = Timestamp::from_raw(t.raw - 0x20);
        let zero = StoragePolicy::zero();
        assert_eq!(meta_name(t, Some(c)), "1402463942.05535-20.meta");
        assert_eq!(meta_name(t, Some(t)), "1402463942.05535+0.meta");
        assert_eq!(FileInfo::parse("1402463942.05535-20.meta", &zero).unwrap().ctype_timestamp, Some(c));
        assert_eq!(FileInfo::parse("1402463942.05535+0.meta", &zero).unwrap().ctype_timestamp, Some(t));
        assert_eq!(FileInfo::parse("1402463942.05535.meta", &zero).unwrap().ctype_timestamp, None);
        let o = t.with_offset(0x1f);
        assert_eq!(FileInfo::parse(&data_name(o, None, false), &zero).unwrap().timestamp, o);
        assert_eq!(data_name(t, Some(5), true), "1402463942.05535#5#d.data");
        let f = FileInfo::parse("1402463942.05535#5#d.data", &ec()).unwrap();
        assert_eq!((f.frag_index, f.durable), (Some(5), true));
        assert!(!FileInfo::parse("1402463942.05535#5.data", &ec()).unwrap().durable);
        for bad in ["1402463942.05535.data", "1402463942.05535#6.data", "1402463942.05535#-1.data", "1402463942.05535#x.data"] {
            assert!(FileInfo::parse(bad, &ec()).is_err(), "{bad}");
        }
        for bad in ["x.data", "1402463942.05535#1.data", ".1402463942.05535.data.Xy095a", "", "1402463942.05535+x.meta", "backup"] {
            assert!(FileInfo::parse(bad, &zero).is_err(), "{bad}");
        }
        assert_eq!(FileInfo::parse("1402463942.05535.durable", &ec()).unwrap().ext, Ext::Durable);
    }
}
