//! Time-based one-time passwords (RFC 6238: SHA-1, 30 seconds, six digits).

use caelum_base::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const STEP: i64 = 30;

/// RFC 4648 base 32, padding and case ignored.
fn unbase32(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut have) = (Vec::new(), 0u32, 0u32);
    for c in text.trim().trim_end_matches('=').bytes() {
        let v = match c.to_ascii_uppercase() {
            c @ b'A'..=b'Z' => c - b'A',
            c @ b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u32::from(v);
        have += 5;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have & 0xff) as u8);
        }
    }
    Some(out)
}

fn code(key: &[u8], counter: i64) -> String {
    let mut m = <Hmac<Sha1> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    m.update(&counter.to_be_bytes());
    let h = m.finalize().into_bytes();
    let at = usize::from(h[19] & 0x0f);
    let word = u32::from_be_bytes([h[at] & 0x7f, h[at + 1], h[at + 2], h[at + 3]]);
    format!("{:06}", word % 1_000_000)
}

/// Whether `passcode` is the one of now or of the step before.
pub fn accepts(secret: &str, passcode: &str, now: Timestamp) -> bool {
    let Some(key) = unbase32(secret) else { return false };
    let counter = now.secs().div_euclid(STEP);
    [counter, counter - 1].iter().any(|c| subtle::ConstantTimeEq::ct_eq(code(&key, *c).as_bytes(), passcode.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 6238, last six digits.
    #[test]
    fn agrees_with_the_specification() {
        let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        for (secs, want) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert!(accepts(secret, want, Timestamp::from_secs(secs)), "{secs}");
            assert!(!accepts(secret, "000000", Timestamp::from_secs(secs)));
        }
        assert!(!accepts("1", "287082", Timestamp::from_secs(59)));
    }
}
