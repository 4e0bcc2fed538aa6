//! The description of an encryption that is stored beside what was encrypted: JSON, quoted, in a
//! header or behind a value.

use super::cipher::{Iv, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_swiftkit::python::json_string;
use serde_json::Value;

/// The only cipher there is.
pub const CIPHER: &str = "AES_CTR_256";

/// Why something stored cannot be decrypted; for the log, without key material.
#[derive(Debug, PartialEq, Eq)]
pub enum CryptoError {
    /// The description is not readable or does not fit.
    Bad(String),
    /// The root secret that it names is not configured.
    UnknownSecret(String),
    /// The keymaster can make no keys from what is stored.
    NoKeys(String),
}

impl std::fmt::Display for CryptoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bad(why) => write!(f, "bad crypto meta: {why}"),
            Self::UnknownSecret(id) => write!(f, "unknown root secret id {id}"),
            Self::NoKeys(why) => write!(f, "no keys: {why}"),
        }
    }
}

impl std::error::Error for CryptoError {}

/// What was used to encrypt a value or a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CryptoMeta {
    pub cipher: Option<String>,
    pub iv: Option<Vec<u8>>,
    /// A body's own random key, encrypted with the object's key: `(key, iv)`.
    pub body_key: Option<(Vec<u8>, Vec<u8>)>,
    /// The keymaster's name of the keys; only it knows what it means.
    pub key_id: Option<Value>,
}

impl CryptoMeta {
    pub fn new(iv: Iv) -> Self {
        Self { cipher: Some(CIPHER.into()), iv: Some(iv.to_vec()), body_key: None, key_id: None }
    }

    /// The initialisation vector, if cipher and vector are as they must be.
    pub fn checked_iv(&self) -> Result<Iv, CryptoError> {
        match self.cipher.as_deref() {
            Some(CIPHER) => {}
            Some(_) => return Err(CryptoError::Bad(format!("cipher must be {CIPHER}"))),
            None => return Err(CryptoError::Bad("no cipher".into())),
        }
        let iv = self.iv.as_deref().ok_or_else(|| CryptoError::Bad("no iv".into()))?;
        iv.try_into().map_err(|_| CryptoError::Bad("the iv must have 16 bytes".into()))
    }

    /// As it stands in headers: JSON with sorted keys, quoted like a form's field.
    pub fn dump(&self) -> String {
        let mut map = serde_json::Map::new();
        let text = |b: &[u8]| Value::String(STANDARD.encode(b));
        if let Some((key, iv)) = &self.body_key {
            map.insert("body_key".into(), serde_json::json!({"iv": text(iv), "key": text(key)}));
        }
        if let Some(cipher) = &self.cipher {
            map.insert("cipher".into(), cipher.as_str().into());
        }
        if let Some(iv) = &self.iv {
            map.insert("iv".into(), text(iv));
        }
        if let Some(id) = &self.key_id {
            map.insert("key_id".into(), id.clone());
        }
        // Upstream sorts the keys; so does this map.
        quote_plus(&json_string(&Value::Object(map)))
    }

    /// The inverse of [`Self::dump`]; fields that are absent stay absent.
    pub fn load(text: &str) -> Result<Self, CryptoError> {
        let bad = |why: &str| CryptoError::Bad(why.to_string());
        let json = unquote_plus(text);
        let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(&json) else { return Err(bad("not a JSON object")) };
        let bytes = |v: Option<&Value>| match v {
            None => Ok(None),
            Some(Value::String(s)) => lenient_base64(s).map(Some).ok_or_else(|| bad("not base64")),
            Some(_) => Err(bad("not a string")),
        };
        let body_key = match map.get("body_key") {
            None => None,
            Some(Value::Object(inner)) => bytes(inner.get("key"))?.zip(bytes(inner.get("iv"))?),
            Some(_) => return Err(bad("body_key")),
        };
        let cipher = map.get("cipher").and_then(Value::as_str).map(str::to_string);
        Ok(Self { cipher, iv: bytes(map.get("iv"))?, body_key, key_id: map.get("key_id").cloned() })
    }

    /// `value; swift_meta=…`.
    pub fn append_to(&self, value: &str) -> String {
        format!("{value}; swift_meta={}", self.dump())
    }

    /// Parts a value from the description behind it, if there is one.
    pub fn extract(value: &str) -> Result<(&str, Option<Self>), CryptoError> {
        let Some((plain, params)) = value.split_once(';') else { return Ok((value, None)) };
        let meta = params.split(';').find_map(|p| p.trim().strip_prefix("swift_meta="));
        Ok((plain, meta.map(|m| Self::load(m.trim())).transpose()?))
    }

    /// The body's key, decrypted with the object's.
    pub fn unwrap_body_key(&self, object_key: &Key) -> Result<Key, CryptoError> {
        let (key, iv) = self.body_key.as_ref().ok_or_else(|| CryptoError::Bad("no body_key".into()))?;
        let mut key: Key = key.as_slice().try_into().map_err(|_| CryptoError::Bad("the body's key must have 32 bytes".into()))?;
        let iv: Iv = iv.as_slice().try_into().map_err(|_| CryptoError::Bad("the body key's iv must have 16 bytes".into()))?;
        super::cipher::Ctr::new(object_key, &iv).apply(&mut key);
        Ok(key)
    }
}

/// Python's decoder passes over characters that are not of the alphabet; so values with line breaks
/// in them stay readable.
fn lenient_base64(text: &str) -> Option<Vec<u8>> {
    let kept: String = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')).collect();
    STANDARD.decode(kept).ok()
}

const FORM: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b' ');

fn quote_plus(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, FORM).to_string().replace(' ', "+")
}

fn unquote_plus(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Written by Swift 2.38.3's dump_crypto_meta.
    const BODY: &str = "%7B%22body_key%22%3A+%7B%22iv%22%3A+%22ICEiIyQlJicoKSorLC0uLw%3D%3D%22%2C+%22key%22%3A+%22AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D%22%7D%2C+%22cipher%22%3A+%22AES_CTR_256%22%2C+%22iv%22%3A+%22AAECAwQFBgcICQoLDA0ODw%3D%3D%22%2C+%22key_id%22%3A+%7B%22path%22%3A+%22%2Fa%2Fc%2F%5Cu00c3%5Cu00a5+%5C%22%5C%5C%5Cn%5Cud83d%5Cude00~%22%2C+%22v%22%3A+%222%22%7D%7D";

    #[test]
    fn the_form_upstream_writes() {
        let mut meta = CryptoMeta::new(core::array::from_fn(|i| i as u8));
        meta.body_key = Some(((0..32).collect(), (32..48).collect()));
        meta.key_id = Some(serde_json::json!({"v": "2", "path": "/a/c/\u{c3}\u{a5} \"\\\n\u{1f600}~"}));
        assert_eq!(meta.dump(), BODY);
        assert_eq!(CryptoMeta::load(BODY).unwrap(), meta);
    }

    #[test]
    fn behind_a_value() {
        let meta = CryptoMeta::new([9; 16]);
        let text = meta.append_to("abc=");
        assert_eq!(CryptoMeta::extract(&text).unwrap(), ("abc=", Some(meta)));
        assert_eq!(CryptoMeta::extract("d41d").unwrap(), ("d41d", None));
        assert_eq!(CryptoMeta::extract("x; other=1").unwrap(), ("x", None));
        assert!(CryptoMeta::extract("x; swift_meta=%7B").is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, why) in [
            (r#"{"cipher":"AES_CTR_256"}"#, "no iv"),
            (r#"{"cipher":"x","iv":"AAAAAAAAAAAAAAAAAAAAAA=="}"#, "cipher"),
            (r#"{"iv":"AAAAAAAAAAAAAAAAAAAAAA=="}"#, "no cipher"),
            (r#"{"cipher":"AES_CTR_256","iv":"AAAA"}"#, "16 bytes"),
        ] {
            let meta = CryptoMeta::load(text).unwrap();
            assert!(meta.checked_iv().unwrap_err().to_string().contains(why), "{text}");
        }
        for text in ["", "[]", "1", "%7B%22iv%22%3A1%7D", "{\"iv\": \"A\"}"] {
            assert!(CryptoMeta::load(text).is_err(), "{text}");
        }
        assert!(CryptoMeta::new([0; 16]).unwrap_body_key(&[0; 32]).is_err());
    }
}
