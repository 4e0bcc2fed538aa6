//! Forms of keys: OpenSSH public and private keys, certificates, fingerprints. Private keys are made
//! here, returned once and never kept.

use super::x509;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_base::{Env, Error, Result, Secret};
use md5::{Digest, Md5};
use p256::ecdsa::SigningKey;
use sha1::Sha1;

/// Longest public key or certificate.
const MAX_PUBLIC: usize = 16_384;

const SSH_TYPES: &[&str] = &[
    "ssh-rsa",
    "ssh-dss",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// What a key pair consists of.
pub struct Material {
    pub public_key: String,
    pub fingerprint: String,
    /// Only of a generated pair.
    pub private_key: Option<Secret<String>>,
}

fn invalid() -> Error {
    Error::invalid("Keypair data is invalid: failed to generate fingerprint")
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn pem(label: &str, der: &[u8], width: usize) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(width));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out + &format!("-----END {label}-----\n")
}

/// A public key from a user. Errors: `Invalid` for anything that is no key of `kind`.
pub fn import(kind: &str, public_key: &str) -> Result<Material> {
    if public_key.len() > MAX_PUBLIC {
        return Err(invalid());
    }
    let fingerprint = if kind == "x509" { x509_fingerprint(public_key)? } else { ssh_fingerprint(public_key)? };
    Ok(Material { public_key: public_key.to_string(), fingerprint, private_key: None })
}

/// MD5 of the key blob, whose own type must be the one written before it.
fn ssh_fingerprint(text: &str) -> Result<String> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return Err(invalid());
    }
    let mut words = text.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return Err(invalid()) };
    let blob = STANDARD.decode(blob).map_err(|_| invalid())?;
    let mut fields = Fields(&blob);
    let own = fields.next().ok_or_else(invalid)?;
    if !SSH_TYPES.contains(&kind) || own != kind.as_bytes() {
        return Err(invalid());
    }
    // Every type has at least one more field, and nothing follows the last one.
    let mut count = 0;
    while let Some(field) = fields.next() {
        count += usize::from(!field.is_empty());
    }
    if count == 0 || !fields.0.is_empty() {
        return Err(invalid());
    }
    Ok(colons(&Md5::digest(&blob)))
}

/// Length-prefixed fields of an SSH blob (RFC 4251 §5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (field, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }
}

/// SHA-1 of the certificate, as WinRM names certificates.
fn x509_fingerprint(text: &str) -> Result<String> {
    let body = text.trim().strip_prefix("-----BEGIN CERTIFICATE-----").and_then(|t| t.split_once("-----END CERTIFICATE-----"));
    let (body, _) = body.ok_or_else(invalid)?;
    let packed: String = body.split_whitespace().collect();
    let der = STANDARD.decode(packed).map_err(|_| invalid())?;
    // A certificate is one DER sequence with a length of two bytes.
    let whole = match der.as_slice() {
        [0x30, 0x82, hi, lo, rest @ ..] => rest.len() == usize::from(*hi) * 256 + usize::from(*lo),
        _ => false,
    };
    if !whole {
        return Err(invalid());
    }
    Ok(colons(&Sha1::digest(&der)))
}

/// Makes a pair: ECDSA on P-256 for `ssh`, with a self-signed certificate for `x509`.
pub fn generate(env: &Env, kind: &str, user_id: &str) -> Result<Material> {
    let key = random_key(env)?;
    if kind == "x509" {
        let der = x509::certificate(&key, user_id, &env.bytes(16), env.now());
        let public = pem("CERTIFICATE", &der, 64);
        let mut m = import(kind, &public)?;
        m.private_key = Some(Secret::new(pem("PRIVATE KEY", &x509::private_key(&key), 64)));
        return Ok(m);
    }
    let blob = ssh_blob(&key);
    let mut m = import(kind, &format!("ecdsa-sha2-nistp256 {} Generated-by-Nova", STANDARD.encode(&blob)))?;
    let check = env.bytes(4);
    m.private_key = Some(Secret::new(pem("OPENSSH PRIVATE KEY", &openssh_private(&key, &blob, &check), 70)));
    Ok(m)
}

fn random_key(env: &Env) -> Result<SigningKey> {
    // A random number is no valid scalar with a chance of 2^-32.
    let found = (0..16).find_map(|_| SigningKey::from_slice(&env.bytes(32)).ok());
    found.ok_or_else(|| Error::internal("no random scalar was valid"))
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    // Fields here are a few hundred bytes.
    out.extend(u32::try_from(field.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(field);
}

fn ssh_blob(key: &SigningKey) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [b"ecdsa-sha2-nistp256".as_slice(), b"nistp256", &x509::point(key)] {
        put(&mut out, field);
    }
    out
}

/// OpenSSH's `openssh-key-v1` container without encryption.
fn openssh_private(key: &SigningKey, blob: &[u8], check: &[u8]) -> Vec<u8> {
    let mut inner = [check, check].concat();
    inner.extend_from_slice(blob);
    let d = key.to_bytes();
    let digits = &d[d.iter().take_while(|b| **b == 0).count()..];
    let negative = digits.first().is_some_and(|b| *b >= 0x80);
    put(&mut inner, &[if negative { &[0][..] } else { &[] }, digits].concat());
    put(&mut inner, b"");
    let padding = (8 - inner.len() % 8) % 8;
    inner.extend((1..=padding).map(|i| i as u8));
    let mut out = b"openssh-key-v1\0".to_vec();
    for field in [b"none".as_slice(), b"none", b""] {
        put(&mut out, field);
    }
    out.extend(1u32.to_be_bytes());
    put(&mut out, blob);
    put(&mut out, &inner);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_no_key() {
        for text in ["", " ", "ssh-rsa JUNK nova@ubuntu", &format!("ssh-rsa {} x", "A".repeat(2048)), "ssh-rsa", "ssh-rsa AAAAB3NzaC1yc2E="]
        {
            assert!(import("ssh", text).is_err(), "{text}");
        }
        assert!(import("x509", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----").is_err());
    }

    #[test]
    fn generated_pairs_have_known_forms() {
        let env = Env::system();
        let ssh = generate(&env, "ssh", "u").unwrap();
        assert_eq!(ssh.fingerprint.len(), 47);
        assert!(ssh.private_key.unwrap().expose().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA"));
        let cert = generate(&env, "x509", "u").unwrap();
        assert_eq!(cert.fingerprint.len(), 59);
        assert!(cert.public_key.starts_with("-----BEGIN CERTIFICATE-----\nMII"));
        assert!(cert.private_key.unwrap().expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }
}
