//! What a token says, in the payload versions of Fernet tokens.
//!
//! One tuple for every version: version, user, methods, scope, expiry, audit ids, delegation and the
//! fraction of the second of issue. The Fernet envelope keeps whole seconds only; with the fraction a
//! token issued right after a password change is told from one issued right before.

use caelum_base::{Error, Result, Timestamp};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Unscoped,
    Domain(String),
    Project(String),
    System,
}

impl Scope {
    /// The id that revocations name.
    pub fn target_id(&self) -> Option<&str> {
        match self {
            Self::Unscoped => None,
            Self::Domain(id) | Self::Project(id) => Some(id),
            Self::System => Some("system"),
        }
    }
}

/// Rights that come from something else than the user's own assignments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Delegation {
    None,
    Trust(String),
    ApplicationCredential(String),
}

/// The facts a token carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub user_id: String,
    pub methods: Vec<String>,
    pub scope: Scope,
    pub delegation: Delegation,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// The token's own id and, after rescoping, the first one's.
    pub audit_ids: Vec<String>,
}

/// Names of the bits in a payload's method field.
const METHODS: [&str; 8] = ["external", "password", "token", "oauth1", "mapped", "application_credential", "totp", "ec2credential"];

/// Bytes as msgpack `bin`; 32 hexadecimal digits travel as 16 bytes.
#[derive(Clone, PartialEq)]
struct Compact(bool, Vec<u8>);

struct Bin(Vec<u8>);

impl Serialize for Bin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bin {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Bin;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Bin, E> {
                Ok(Bin(v.to_vec()))
            }
        }
        d.deserialize_bytes(V)
    }
}

impl Serialize for Compact {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        (self.0, Bin(self.1.clone())).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Compact {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (hex, Bin(bytes)) = Deserialize::deserialize(d)?;
        Ok(Self(hex, bytes))
    }
}

impl Compact {
    fn new(id: &str) -> Self {
        match unhex(id) {
            Some(b) if b.len() == 16 => Self(true, b),
            _ => Self(false, id.as_bytes().to_vec()),
        }
    }

    fn text(self) -> Option<String> {
        if self.0 { Some(hex(&self.1)) } else { String::from_utf8(self.1).ok() }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !lower || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

#[derive(Serialize, Deserialize)]
struct Wire(u8, Compact, u8, Option<Compact>, f64, Vec<Bin>, Option<Compact>, u32);

impl Facts {
    fn version(&self) -> u8 {
        match (&self.scope, &self.delegation) {
            (_, Delegation::Trust(_)) => 3,
            (_, Delegation::ApplicationCredential(_)) => 9,
            (Scope::Unscoped, _) => 0,
            (Scope::Domain(_), _) => 1,
            (Scope::Project(_), _) => 2,
            (Scope::System, _) => 8,
        }
    }

    /// The packed payload. The time of issue goes into the envelope, its fraction in here.
    pub fn pack(&self) -> Result<Vec<u8>> {
        let mut bits = 0;
        for m in &self.methods {
            let at = METHODS.iter().position(|k| k == m);
            bits |= 1u8 << at.ok_or_else(|| Error::internal(format!("authentication method {m} has no bit")))?;
        }
        let scope = match &self.scope {
            Scope::Unscoped => None,
            Scope::Domain(id) | Scope::Project(id) => Some(Compact::new(id)),
            Scope::System => Some(Compact::new("all")),
        };
        let extra = match &self.delegation {
            Delegation::None => None,
            Delegation::Trust(id) | Delegation::ApplicationCredential(id) => Some(Compact::new(id)),
        };
        let audit = self.audit_ids.iter().map(|a| Bin(super::fernet::unb64(a).unwrap_or_default())).collect();
        // Seconds of this century and microseconds need 51 bits: a double holds them exactly.
        let expires = self.expires_at.0 as f64 / 1e6;
        let micros = u32::try_from(self.issued_at.0.rem_euclid(1_000_000)).unwrap_or(0);
        let wire = Wire(self.version(), Compact::new(&self.user_id), bits, scope, expires, audit, extra, micros);
        rmp_serde::to_vec(&wire).map_err(|e| Error::internal("token payload does not pack").caused_by(e))
    }

    /// `None` for bytes that are no payload of ours.
    pub fn unpack(bytes: &[u8], issued_secs: i64) -> Option<Self> {
        let Wire(version, user, bits, scope, expires, audit, extra, micros) = rmp_serde::from_slice(bytes).ok()?;
        let scope = scope.map(Compact::text);
        let extra = extra.map(Compact::text);
        let (scope, delegation) = match (version, scope, extra) {
            (0, None, None) => (Scope::Unscoped, Delegation::None),
            (1, Some(Some(id)), None) => (Scope::Domain(id), Delegation::None),
            (2, Some(Some(id)), None) => (Scope::Project(id), Delegation::None),
            (8, Some(Some(_)), None) => (Scope::System, Delegation::None),
            (3, scope, Some(Some(t))) => (scope.flatten().map_or(Scope::Unscoped, Scope::Project), Delegation::Trust(t)),
            (9, Some(Some(id)), Some(Some(a))) => (Scope::Project(id), Delegation::ApplicationCredential(a)),
            _ => return None,
        };
        let methods = METHODS.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, m)| (*m).to_string()).collect();
        Some(Self {
            user_id: user.text()?,
            methods,
            scope,
            delegation,
            issued_at: Timestamp(issued_secs.checked_mul(1_000_000)?.checked_add(i64::from(micros))?),
            expires_at: Timestamp((expires * 1e6).round() as i64),
            audit_ids: audit.iter().map(|Bin(b)| super::fernet::b64(b)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_and_stays_short() {
        let id = "0123456789abcdef0123456789abcdef";
        let base = Facts {
            user_id: id.into(),
            methods: vec!["password".into(), "token".into()],
            scope: Scope::Unscoped,
            delegation: Delegation::None,
            issued_at: Timestamp(1_795_173_300_123_456),
            expires_at: Timestamp(1_795_176_900_000_000),
            audit_ids: vec![super::super::fernet::b64(&[7; 16]), super::super::fernet::b64(&[8; 16])],
        };
        let project = Scope::Project(id.into());
        for (scope, delegation) in [
            (Scope::Unscoped, Delegation::None),
            (Scope::Domain("default".into()), Delegation::None),
            (project.clone(), Delegation::None),
            (Scope::System, Delegation::None),
            (project.clone(), Delegation::Trust(id.into())),
            (Scope::Unscoped, Delegation::Trust(id.into())),
            (project, Delegation::ApplicationCredential(id.into())),
        ] {
            let facts = Facts { scope, delegation, ..base.clone() };
            let packed = facts.pack().unwrap();
            assert!(packed.len() < 128, "{}", packed.len());
            assert_eq!(Facts::unpack(&packed, facts.issued_at.secs()), Some(facts));
        }
        assert_eq!(Facts::unpack(b"", 0), None);
        assert_eq!(Facts::unpack(&[0xff; 40], 0), None);
    }
}
