//! DER by hand: the self-signed certificate of an `x509` key pair (RFC 5280) and its private key
//! (RFC 5915 inside RFC 5208). Lengths here stay below 64 KiB.

use caelum_base::Timestamp;
use p256::ecdsa::{Signature, SigningKey, signature::Signer};

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
/// Microsoft's user principal name, which WinRM maps to a local user.
const UPN: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

fn seq(parts: &[&[u8]]) -> Vec<u8> {
    der(SEQUENCE, parts)
}

fn oid(id: &[u8]) -> Vec<u8> {
    der(OID, &[id])
}

/// A bit string of whole bytes.
fn bits(bytes: &[u8]) -> Vec<u8> {
    der(BIT_STRING, &[&[0], bytes])
}

fn name(common: &str) -> Vec<u8> {
    seq(&[&der(SET, &[&seq(&[&oid(COMMON_NAME), &der(UTF8, &[common.as_bytes()])])])])
}

/// GeneralizedTime from 2050 on, UTCTime before, as RFC 5280 wants.
fn time(t: Timestamp) -> Vec<u8> {
    let (y, mo, d, h, mi, s, _) = t.civil();
    let rest = format!("{mo:02}{d:02}{h:02}{mi:02}{s:02}Z");
    if y < 2050 { der(0x17, &[format!("{:02}{rest}", y % 100).as_bytes()]) } else { der(0x18, &[format!("{y:04}{rest}").as_bytes()]) }
}

fn algorithm() -> Vec<u8> {
    seq(&[&oid(ECDSA_SHA256)])
}

fn extensions(upn: &str) -> Vec<u8> {
    let usage = seq(&[&oid(EXT_KEY_USAGE), &der(OCTETS, &[&seq(&[&oid(CLIENT_AUTH)])])]);
    let other = der(0xa0, &[&oid(UPN), &der(0xa0, &[&der(UTF8, &[upn.as_bytes()])])]);
    let alt = seq(&[&oid(SUBJECT_ALT_NAME), &der(OCTETS, &[&seq(&[&other])])]);
    der(0xa3, &[&seq(&[&usage, &alt])])
}

/// Uncompressed point of a key.
pub fn point(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
}

/// A certificate for ten years from `now`. `serial` is 16 random bytes.
pub fn certificate(key: &SigningKey, user: &str, serial: &[u8], now: Timestamp) -> Vec<u8> {
    // Common names have at most 64 characters.
    let subject = name(&user.chars().take(64).collect::<String>());
    let end = Timestamp(now.0 + 10 * 365 * 86_400 * 1_000_000);
    let public = seq(&[&seq(&[&oid(EC_PUBLIC_KEY), &oid(PRIME256V1)]), &bits(&point(key))]);
    // A leading 1 keeps the serial positive and of fixed length.
    let serial = der(INTEGER, &[&[1], serial]);
    let body = seq(&[
        &der(0xa0, &[&der(INTEGER, &[&[2]])]),
        &serial,
        &algorithm(),
        &subject,
        &seq(&[&time(now), &time(end)]),
        &subject,
        &public,
        &extensions(&format!("{user}@localhost")),
    ]);
    let signature: Signature = key.sign(&body);
    seq(&[&body, &algorithm(), &bits(signature.to_der().as_bytes())])
}

/// The private key, PKCS #8.
pub fn private_key(key: &SigningKey) -> Vec<u8> {
    let inner = seq(&[&der(INTEGER, &[&[1]]), &der(OCTETS, &[&key.to_bytes()]), &der(0xa1, &[&bits(&point(key))])]);
    seq(&[&der(INTEGER, &[&[0]]), &seq(&[&oid(EC_PUBLIC_KEY), &oid(PRIME256V1)]), &der(OCTETS, &[&inner])])
}
