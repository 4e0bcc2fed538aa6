//! Signatures as temporary URLs and forms carry them, and the keys they are made with.

use crate::proxy::{AccountInfo, ContainerInfo};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use caelum_base::{Error, Result, Secret};
use caelum_swiftkit::to_hex;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

/// A hash function that signatures may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestName {
    Sha1,
    Sha256,
    Sha512,
}

impl DigestName {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha512].into_iter().find(|d| d.name() == text)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// HMAC in hexadecimal.
    pub fn hmac(self, key: &[u8], message: &[u8]) -> String {
        fn mac<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> String {
            let mut m = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            m.update(message);
            to_hex(&m.finalize().into_bytes())
        }
        match self {
            Self::Sha1 => mac::<Hmac<Sha1>>(key, message),
            Self::Sha256 => mac::<Hmac<Sha256>>(key, message),
            Self::Sha512 => mac::<Hmac<Sha512>>(key, message),
        }
    }
}

/// Which hash functions a layer takes (`allowed_digests`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedDigests(Vec<DigestName>);

impl Default for AllowedDigests {
    /// All three, as in Swift 2.38, which calls SHA-1 deprecated (see [`Self::deprecated`]) and still takes it.
    fn default() -> Self {
        Self(vec![DigestName::Sha1, DigestName::Sha256, DigestName::Sha512])
    }
}

impl AllowedDigests {
    /// From names separated by blanks; what is not supported is left out. Errors: `Invalid` when nothing is
    /// left.
    pub fn parse(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut all: Vec<DigestName> = text.split_whitespace().filter_map(|t| DigestName::parse(&t.to_ascii_lowercase())).collect();
        all.sort();
        all.dedup();
        if all.is_empty() {
            return Err(Error::invalid("No valid digest algorithms are configured"));
        }
        Ok(Self(all))
    }

    pub fn has(&self, digest: DigestName) -> bool {
        self.0.contains(&digest)
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|d| d.name()).collect()
    }

    /// Those that clients should stop using.
    pub fn deprecated(&self) -> Vec<&'static str> {
        self.0.iter().filter(|d| **d == DigestName::Sha1).map(|d| d.name()).collect()
    }
}

/// A signature that a client sent, as `<hexadecimal>` or `<algorithm>:<base64>` (both alphabets, with or
/// without padding). `None` for any other text.
pub fn parse_signature(text: &str) -> Option<(DigestName, String)> {
    let Some((name, value)) = text.split_once(':') else {
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let digest = match text.len() {
            40 => DigestName::Sha1,
            64 => DigestName::Sha256,
            128 => DigestName::Sha512,
            _ => return None,
        };
        return Some((digest, text.to_string()));
    };
    let digest = DigestName::parse(name)?;
    let url_safe = value.contains(['-', '_']) && !value.contains(['+', '/']);
    let value = if url_safe { value.replace('-', "+").replace('_', "/") } else { value.to_string() };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, config).decode(value.trim_end_matches('=')).ok()?;
    Some((digest, to_hex(&bytes)))
}

/// In constant time for texts of equal length.
pub fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// How far a key reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Account,
    Container,
}

/// The keys that may sign for a container: two of its account and two of its own.
pub fn signing_keys(account: &AccountInfo, container: &ContainerInfo) -> Vec<(Secret<String>, Scope)> {
    const NAMES: [&str; 2] = ["temp-url-key", "temp-url-key-2"];
    let of_account = NAMES.iter().filter_map(|n| account.meta(n)).map(|k| (k, Scope::Account));
    let of_container = NAMES.iter().filter_map(|n| container.meta(n)).map(|k| (k, Scope::Container));
    of_account.chain(of_container).map(|(k, s)| (Secret::new(k.to_string()), s)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let hex = "0f".repeat(32);
        assert_eq!(parse_signature(&hex), Some((DigestName::Sha256, hex.clone())));
        assert_eq!(parse_signature(&"0f".repeat(20)).unwrap().0, DigestName::Sha1);
        assert_eq!(parse_signature(&"0f".repeat(64)).unwrap().0, DigestName::Sha512);
        for text in ["sha256:+/8=", "sha256:+/8", "sha256:-_8", "sha256:-_8=="] {
            assert_eq!(parse_signature(text), Some((DigestName::Sha256, "fbff".into())), "{text}");
        }
        for bad in ["", "0", "xyz", "sha3:AAAA", "md5:AAAA", "sha256:*", "sha256:+_8", "sha256:A", ":", &"g0".repeat(32)] {
            assert_eq!(parse_signature(bad), None, "{bad}");
        }
        assert_eq!(parse_signature("sha256:").unwrap().1, "");
    }

    #[test]
    fn known_macs() {
        // RFC 4231, test case 2; the SHA-1 figure from RFC 2202.
        let mac = |d: DigestName| d.hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(mac(DigestName::Sha1), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(mac(DigestName::Sha256), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(mac(DigestName::Sha512).starts_with("164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd6"));
    }

    #[test]
    fn allowed() {
        for (all, why) in [(AllowedDigests::default(), "default"), (AllowedDigests::parse(" ").unwrap(), "nothing named")] {
            assert_eq!((all.names(), all.deprecated()), (vec!["sha1", "sha256", "sha512"], vec!["sha1"]), "{why}");
        }
        let all = AllowedDigests::parse("SHA512 sha1 md5").unwrap();
        assert_eq!((all.names(), all.deprecated()), (vec!["sha1", "sha512"], vec!["sha1"]));
        assert!(AllowedDigests::parse("md5").is_err());
        assert!(same("abc", "abc") && !same("abc", "abd") && !same("abc", "abcd"));
    }
}
