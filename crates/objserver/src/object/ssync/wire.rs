//! Lines of the protocol.

use caelum_diskfile::ObjectTimes;
use caelum_swiftkit::Timestamp;

/// An object on offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// 32 hex digits.
    pub hash: String,
    pub data: Timestamp,
    pub meta: Timestamp,
    pub ctype: Timestamp,
    pub durable: bool,
}

/// What the receiver lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub data: bool,
    pub meta: bool,
}

fn is_hash(s: &str) -> bool {
    s.len() == 32 && s.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

/// `HASH TIME [m:DELTA[__OFFSET][,t:DELTA]][,durable:False]`, differences in 10 µs, hexadecimal.
pub fn encode_missing(hash: &str, t: &ObjectTimes) -> String {
    let mut extra: Vec<String> = Vec::new();
    let delta = |key: char, at: Timestamp| {
        let d = i128::from(at.raw) - i128::from(t.data.raw);
        let sign = if d < 0 { "-" } else { "" };
        let offset = if at.offset == 0 { String::new() } else { format!("__{:x}", at.offset) };
        format!("{key}:{sign}{:x}{offset}", d.unsigned_abs())
    };
    if let Some(meta) = t.meta.filter(|m| *m != t.data) {
        extra.push(delta('m', meta));
        extra.extend(t.ctype.filter(|c| *c != t.data).map(|c| delta('t', c)));
    }
    if t.durable == Some(false) {
        extra.push("durable:False".into());
    }
    let line = format!("{hash} {}", t.data.internal());
    if extra.is_empty() { line } else { format!("{line} {}", extra.join(",")) }
}

fn shifted(base: Timestamp, text: &str) -> Option<Timestamp> {
    let (delta, offset) = text.split_once("__").unwrap_or((text, "0"));
    let (negative, digits) = delta.strip_prefix('-').map_or((false, delta), |d| (true, d));
    let d = u64::from_str_radix(digits, 16).ok()?;
    let raw = if negative { base.raw.checked_sub(d)? } else { base.raw.checked_add(d)? };
    Some(Timestamp { raw, offset: u64::from_str_radix(offset, 16).ok()? })
}

/// `None` for a line that is no offer.
pub fn parse_missing(line: &str) -> Option<Missing> {
    let line = percent_encoding::percent_decode_str(line).decode_utf8().ok()?;
    let mut words = line.split_whitespace();
    let hash = words.next().filter(|h| is_hash(h))?.to_string();
    let data = Timestamp::parse(words.next()?)?;
    let mut out = Missing { hash, data, meta: data, ctype: data, durable: true };
    for item in words.next().unwrap_or_default().split(',') {
        let Some((key, value)) = item.split_once(':') else { continue };
        match key {
            "m" => out.meta = shifted(data, value)?,
            "t" => out.ctype = shifted(data, value)?,
            "durable" => out.durable = super::super::headers::truth(value),
            // For newer senders.
            _ => {}
        }
    }
    Some(out)
}

/// What is wanted of an offer, given what is here: `HASH [d][m]`; `None` when nothing is.
pub fn encode_wanted(remote: &Missing, local: Option<&Missing>) -> Option<String> {
    let want = match local {
        None => Wanted { data: true, meta: true },
        Some(l) => {
            Wanted { data: remote.data > l.data, meta: remote.meta > l.meta || remote.ctype > l.ctype && remote.ctype > remote.data }
        }
    };
    if !want.data && !want.meta {
        return None;
    }
    Some(format!("{} {}{}", remote.hash, if want.data { "d" } else { "" }, if want.meta { "m" } else { "" }))
}

/// Hash and what is wanted of it. Receivers of old name the hash alone and want the data.
pub fn parse_wanted(line: &str) -> Option<(String, Wanted)> {
    let mut words = line.split_whitespace();
    let hash = words.next().filter(|h| is_hash(h))?.to_string();
    let parts = words.next().unwrap_or_default();
    let want = Wanted { data: parts.contains('d'), meta: parts.contains('m') };
    let legacy = !want.data && !want.meta;
    Some((hash, Wanted { data: want.data || legacy, ..want }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        // As upstream's encode_missing writes them.
        let hash = "9d41d8cd98f00b204e9800998ecf0abc";
        let data = Timestamp::parse("1234567890.00000").unwrap();
        let t = ObjectTimes {
            data,
            meta: Some(Timestamp::from_raw(data.raw + 0xa)),
            ctype: Some(Timestamp::from_raw(data.raw + 5)),
            durable: Some(false),
        };
        let line = format!("{hash} 1234567890.00000 m:a,t:5,durable:False");
        assert_eq!(encode_missing(hash, &t), line);
        let m = parse_missing(&line).unwrap();
        assert_eq!((m.meta.raw - data.raw, m.ctype.raw - data.raw, m.durable), (10, 5, false));
        let plain = ObjectTimes { data: data.with_offset(1), meta: None, ctype: None, durable: None };
        assert_eq!(encode_missing(hash, &plain), format!("{hash} 1234567890.00000_0000000000000001"));
        assert!(parse_missing("../../etc/passwd 1").is_none() && parse_missing("").is_none());
    }

    #[test]
    fn wanted() {
        let m = parse_missing("9d41d8cd98f00b204e9800998ecf0abc 2").unwrap();
        assert_eq!(encode_wanted(&m, None).unwrap(), "9d41d8cd98f00b204e9800998ecf0abc dm");
        assert_eq!(encode_wanted(&m, Some(&m)), None);
        let newer_meta = Missing { meta: m.meta.next(), ..m.clone() };
        assert_eq!(encode_wanted(&newer_meta, Some(&m)).unwrap(), "9d41d8cd98f00b204e9800998ecf0abc m");
        assert_eq!(parse_wanted("9d41d8cd98f00b204e9800998ecf0abc").unwrap().1, Wanted { data: true, meta: false });
    }
}
