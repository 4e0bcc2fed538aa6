//! Header names that the HTTP library does not take.
//!
//! Swift's metadata names may hold bytes that RFC 9110 does not allow in a header's name: UTF-8 text, brackets, and
//! `=`, by which upstream's S3 layer writes an underscore (`X-Object-Meta-My=5Fkey` for `x-amz-meta-my_key`, because
//! WSGI drops names with an underscore). They stand like that on the wire between nodes and on disks. Inside this
//! program such a name is written with legal characters only:
//!
//! - `=5F` is `_`: what S3's clients call their key;
//! - any other byte that is not allowed, and `^` itself, is `^` and two hexadecimal digits;
//! - an underscore as such, which Swift does not let in, is `^5f` where it comes from a client.
//!
//! Only names of the families in [`FAMILIES`] are read so. Reading yields no letter, digit or `-`, and no name with a
//! meaning of its own holds `_` or `^`: nobody can spell a header that is kept from clients in another way. Writing yields
//! no colon, blank or control character, whatever stands after `^`: nobody can end a header's line.

use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

const FAMILIES: [&[u8]; 4] = [b"x-object-", b"x-container-", b"x-account-", b"x-remove-"];
/// Bytes that are allowed in names by Swift and not by RFC 9110, ASCII's part of them.
const SEPARATORS: &[u8] = b"\"(),/;<=>?@[\\]{}";

/// What a byte means in a name on the wire.
const PLAIN: u8 = 0;
const ODD: u8 = 1;
const COLON: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut out = [ODD; 256];
    let mut i = 0;
    while i < 128 {
        let b = i as u8;
        if b.is_ascii_alphanumeric()
            || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'`' | b'|' | b'~')
        {
            out[i] = PLAIN;
        }
        i += 1;
    }
    out[b':' as usize] = COLON;
    out
};

/// Finds the colon after a name; the flag tells whether the name may have to be read (it holds more than letters,
/// digits and common marks).
pub(crate) fn colon(line: &[u8]) -> Option<(usize, bool)> {
    let mut odd = false;
    for (at, b) in line.iter().enumerate() {
        match CLASSES[usize::from(*b)] {
            PLAIN => {}
            COLON => return Some((at, odd)),
            _ => odd = true,
        }
    }
    None
}

fn of_family(name: &[u8]) -> bool {
    FAMILIES.iter().any(|f| name.get(..f.len()).is_some_and(|p| p.eq_ignore_ascii_case(f)))
}

fn hex(out: &mut Vec<u8>, b: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[b'^', DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
}

/// A name as it stands on the wire or on disk, in this program's spelling. `None`: it stays as it is, or cannot be a
/// name at all. `from_client`: an underscore is none of S3's.
fn read(name: &[u8], from_client: bool) -> Option<Vec<u8>> {
    if !of_family(name) || name.iter().all(|b| CLASSES[usize::from(*b)] == PLAIN) {
        return None;
    }
    let mut out = Vec::with_capacity(name.len() + 16);
    let mut rest = name;
    while let [b, after @ ..] = rest {
        rest = after;
        match b {
            b'=' if after.get(..2).is_some_and(|x| x.eq_ignore_ascii_case(b"5f")) => {
                out.push(b'_');
                rest = &after[2..];
            }
            b'_' if !from_client => out.push(b'_'),
            b'_' | b'^' => hex(&mut out, *b),
            b if *b >= 0x80 || SEPARATORS.contains(b) => hex(&mut out, *b),
            b if CLASSES[usize::from(*b)] == PLAIN => out.push(*b),
            _ => return None,
        }
    }
    (out != name).then_some(out)
}

/// A name as it stands on disk. `None`: no header can be called so.
pub fn name_from_wire(name: &[u8]) -> Option<HeaderName> {
    match read(name, false) {
        Some(n) => HeaderName::from_bytes(&n).ok(),
        None => HeaderName::from_bytes(name).ok(),
    }
}

/// Whether the name is written in another way on the wire and on disk.
pub fn is_odd(name: &str) -> bool {
    name.starts_with("x-") && name.bytes().any(|b| matches!(b, b'_' | b'^')) && of_family(name.as_bytes())
}

/// Whether any name is (see [`is_odd`]).
pub fn any_odd(headers: &HeaderMap) -> bool {
    headers.keys().any(|n| is_odd(n.as_str()))
}

/// A name of this program's spelling as it is written on the wire and on disk.
pub fn name_to_wire(name: &str) -> Cow<'_, [u8]> {
    if !is_odd(name) {
        return Cow::Borrowed(name.as_bytes());
    }
    let mut out = Vec::with_capacity(name.len() + 8);
    let mut rest = name.as_bytes();
    while let [b, after @ ..] = rest {
        rest = after;
        let escaped = || {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            let b = u8::from_str_radix(digits, 16).ok()?;
            (b >= 0x80 || matches!(b, b'^' | b'_') || SEPARATORS.contains(&b)).then_some(b)
        };
        match b {
            b'_' => out.extend_from_slice(b"=5F"),
            b'^' => match escaped() {
                Some(b) => {
                    out.push(b);
                    rest = &after[2..];
                }
                None => out.push(b'^'),
            },
            b => out.push(*b),
        }
    }
    Cow::Owned(out)
}

/// A header's line from the wire, its colon at `colon`, with its name in this program's spelling. `None`: as it is.
pub(crate) fn read_line(line: &[u8], colon: usize, from_client: bool) -> Option<Vec<u8>> {
    let (name, rest) = line.split_at(colon);
    let mut out = read(name, from_client)?;
    out.extend_from_slice(rest);
    Some(out)
}

/// The head of a message of our own with its names as on the wire. `None`: as it is.
pub(crate) fn write_head(head: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(head.len() + 32);
    let mut changed = false;
    for (n, line) in head.split_inclusive(|b| *b == b'\n').enumerate() {
        // The first is no header.
        let name = colon(line).filter(|(_, odd)| *odd && n > 0).and_then(|(at, _)| Some((std::str::from_utf8(&line[..at]).ok()?, at)));
        match name {
            Some((name, at)) => {
                let wire = name_to_wire(name);
                changed |= matches!(wire, Cow::Owned(_));
                out.extend_from_slice(&wire);
                out.extend_from_slice(&line[at..]);
            }
            None => out.extend_from_slice(line),
        }
    }
    changed.then_some(out)
}

/// Length of a head that is there as a whole.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (wire, own) in [
            (&b"x-object-meta-my=5Fkey"[..], "x-object-meta-my_key"),
            (b"x-object-meta-a=3db", "x-object-meta-a^3d3db"),
            (b"x-object-meta-=5F=5F", "x-object-meta-__"),
            (b"x-object-meta-\xc3\xbc(", "x-object-meta-^c3^bc^28"),
            (b"x-object-meta-a^5fb", "x-object-meta-a^5e5fb"),
            (b"x-object-transient-sysmeta-crypto-meta-a=5Fb", "x-object-transient-sysmeta-crypto-meta-a_b"),
            (b"x-remove-container-meta-=", "x-remove-container-meta-^3d"),
            (b"x-object-meta-plain", "x-object-meta-plain"),
            (b"content_type", "content_type"),
        ] {
            assert_eq!(name_from_wire(wire).unwrap().as_str(), own);
            assert_eq!(&*name_to_wire(own), wire, "{own}");
        }
        assert_eq!(name_from_wire(b"X-Object-Meta-Foo=5fBar").unwrap().as_str(), "x-object-meta-foo_bar");
        // What was written before `=5F` was.
        assert_eq!(name_from_wire(b"X-Object-Meta-Foo_Bar").unwrap().as_str(), "x-object-meta-foo_bar");
        assert_eq!(read(b"x-object-meta-a_b", true).unwrap(), b"x-object-meta-a^5fb");
        for bad in [&b"x-object-meta-a b"[..], b"x-object-meta-a\x7f=", b"x-object-meta-\0", b"a=b", b"x-amz-meta-a=5Fb", b""] {
            assert_eq!(name_from_wire(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_name_writes_a_line_of_its_own() {
        for name in [
            "x-object-meta-a^0d^0ax",
            "x-object-meta-a^3ab",
            "x-object-meta-^20^09^00^7f",
            "x-object-meta-^",
            "x-object-meta-^4",
            "x-object-meta-^zz^+1",
        ] {
            assert_eq!(&*name_to_wire(name), name.as_bytes());
        }
        // And none reads as what clients may not say.
        for b in 0..=255_u8 {
            let name = [&b"x-object-"[..], &[b], b"sysmeta-"].concat();
            if let Some(n) = read(&name, true) {
                assert!(n[9..].starts_with(b"^"), "{b}");
            }
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for b in 0..=255_u8 {
            for tail in ["", "5f", "=5F", "^"] {
                let wire = [&b"x-object-meta-"[..], &[b], tail.as_bytes(), b"z"].concat().to_ascii_lowercase();
                let Some(own) = read(&wire, true) else { continue };
                let name = HeaderName::from_bytes(&own).unwrap();
                assert_eq!(name_to_wire(name.as_str()).to_ascii_lowercase(), wire);
            }
        }
    }

    #[test]
    fn heads() {
        let head = b"PUT /a_b^5f: HTTP/1.1\r\nx-object-meta-a_b: c_d\r\nx-amz-meta-a_b: 1\r\nhost: x_y\r\n\r\n";
        let want = b"PUT /a_b^5f: HTTP/1.1\r\nx-object-meta-a=5Fb: c_d\r\nx-amz-meta-a_b: 1\r\nhost: x_y\r\n\r\n";
        assert_eq!(write_head(head).unwrap(), want);
        assert_eq!(write_head(b"GET / HTTP/1.1\r\nhost: x_y\r\n\r\n"), None);
        assert_eq!(head_length(b"a\r\n\r\nb"), Some(5));
    }
}
