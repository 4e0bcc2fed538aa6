//! Fernet: authenticated, encrypted, time-stamped messages (version 0x80 of the Fernet specification:
//! AES-128-CBC with PKCS#7, HMAC-SHA-256 over everything before it).

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const VERSION: u8 = 0x80;
const IV: usize = 16;
const HEAD: usize = 1 + 8 + IV;
const TAG: usize = 32;

const B64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// URL-safe base 64 without padding.
pub fn b64(bytes: &[u8]) -> String {
    B64.encode(bytes)
}

/// The inverse of [`b64`]; padding may be there or not.
pub fn unb64(text: &str) -> Option<Vec<u8>> {
    B64.decode(text).ok()
}

/// A 256-bit key: the first half signs, the second encrypts.
#[derive(Clone)]
pub struct FernetKey {
    sign: [u8; 16],
    encrypt: [u8; 16],
}

impl FernetKey {
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sign, encrypt) = bytes.split_at_checked(16)?;
        Some(Self { sign: sign.try_into().ok()?, encrypt: encrypt.try_into().ok()? })
    }

    fn mac(&self, data: &[u8]) -> Hmac<Sha256> {
        let mut m = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.sign).expect("HMAC takes keys of any length");
        m.update(data);
        m
    }

    /// `iv` must be random and new.
    pub fn encrypt(&self, data: &[u8], secs: u64, iv: [u8; IV]) -> String {
        let mut out = Vec::with_capacity(HEAD + data.len() + 16 + TAG);
        out.push(VERSION);
        out.extend_from_slice(&secs.to_be_bytes());
        out.extend_from_slice(&iv);
        let cipher = cbc::Encryptor::<aes::Aes128>::new(&self.encrypt.into(), &iv.into());
        out.extend_from_slice(&cipher.encrypt_padded_vec::<Pkcs7>(data));
        let tag = self.mac(&out).finalize().into_bytes();
        out.extend_from_slice(&tag);
        b64(&out)
    }

    /// The message and its time in seconds; `None` unless the signature is this key's.
    pub fn decrypt(&self, raw: &[u8]) -> Option<(Vec<u8>, u64)> {
        if raw.len() < HEAD + 16 + TAG || raw.first() != Some(&VERSION) {
            return None;
        }
        let (signed, tag) = raw.split_at(raw.len() - TAG);
        // Constant-time comparison.
        self.mac(signed).verify_slice(tag).ok()?;
        let secs = u64::from_be_bytes(signed.get(1..9)?.try_into().ok()?);
        let iv: [u8; IV] = signed.get(9..HEAD)?.try_into().ok()?;
        let cipher = cbc::Decryptor::<aes::Aes128>::new(&self.encrypt.into(), &iv.into());
        let data = cipher.decrypt_padded_vec::<Pkcs7>(signed.get(HEAD..)?).ok()?;
        Some((data, secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own example.
    #[test]
    fn agrees_with_the_specification() {
        let key = FernetKey::from_bytes(&unb64("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").unwrap()).unwrap();
        let iv: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let token = key.encrypt(b"hello", 499_162_800, iv);
        assert_eq!(token, "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA");
        let raw = unb64(&token).unwrap();
        assert_eq!(key.decrypt(&raw), Some((b"hello".to_vec(), 499_162_800)));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let key = FernetKey::from_bytes(&[3; 32]).unwrap();
        let raw = unb64(&key.encrypt(b"data", 5, [1; 16])).unwrap();
        for i in 0..raw.len() {
            let mut bad = raw.clone();
            bad[i] ^= 1;
            assert_eq!(key.decrypt(&bad), None);
        }
        assert_eq!(FernetKey::from_bytes(&[4; 32]).unwrap().decrypt(&raw), None);
        for n in 0..raw.len() {
            assert_eq!(key.decrypt(&raw[..n]), None);
        }
    }
}
