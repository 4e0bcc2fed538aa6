use crate::Rng;

/// A random RFC 9562 version-4 UUID with hyphens.
pub(crate) fn uuid(rng: &dyn Rng) -> String {
    text(random(rng), true)
}

/// As [`uuid`], without hyphens.
pub(crate) fn hex_id(rng: &dyn Rng) -> String {
    text(random(rng), false)
}

fn random(rng: &dyn Rng) -> [u8; 16] {
    let mut b = [0u8; 16];
    rng.fill(&mut b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    b
}

/// Every request has one of these: no formatting machinery.
fn text(bytes: [u8; 16], hyphens: bool) -> String {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'a' + n - 10 });
    let mut out = String::with_capacity(36);
    for (i, byte) in bytes.into_iter().enumerate() {
        if hyphens && matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(digit(byte >> 4));
        out.push(digit(byte & 0x0f));
    }
    out
}

/// Whether `text` is a UUID as OpenStack accepts it: 32 hexadecimal digits, with or without
/// hyphens, in any case.
pub fn is_uuid(text: &str) -> bool {
    let digits = text.bytes().filter(|b| *b != b'-').count();
    digits == 32 && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// Whether `text` looks like a Keystone id: 32 or 64 hexadecimal digits.
pub fn is_hex_id(text: &str) -> bool {
    matches!(text.len(), 32 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRng;

    #[test]
    fn uuids_are_well_formed_and_differ() {
        let rng = SeededRng::new(1);
        let (a, b) = (uuid(&rng), uuid(&rng));
        assert_ne!(a, b);
        assert!(is_uuid(&a) && a.len() == 36 && a.as_bytes()[14] == b'4');
        assert_eq!(hex_id(&SeededRng::new(1)), a.replace('-', ""));
        assert!(!is_uuid("nope") && !is_uuid(&a[1..]));
    }
}
