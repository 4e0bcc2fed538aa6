//! Keys made from a root secret and a path: nothing but the root secret has to be kept.
//!
//! `key(path) = HMAC-SHA256(root secret, path)`, with the path `/account/container` for a container and
//! `/account/container/object` for an object. There may be several root secrets; new data is encrypted
//! with keys of the active one, and what is stored names the one that was used.

use super::cipher::Key;
use super::meta::CryptoError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_base::{Error, Result, Secret};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::sync::Arc;

/// Shortest root secret in bytes.
const MIN_SECRET: usize = 32;
/// Root secrets at most; each conditional request is checked against keys of every one.
const MAX_SECRETS: usize = 32;

/// How the path is written into what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdVersion {
    /// Upstream's oldest form; for object names that begin with a slash it held the name alone.
    V1,
    /// As written by default: each byte of the path as one character.
    V2,
    /// The path as text.
    V3,
}

impl IdVersion {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "1" => Self::V1,
            "2" => Self::V2,
            "3" => Self::V3,
            _ => return None,
        })
    }

    fn text(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
        }
    }
}

/// Keys for one request.
#[derive(Clone)]
pub struct Keys {
    pub container: Key,
    /// `None` for requests that name no object.
    pub object: Option<Key>,
    /// Goes into what is stored, so that the same keys can be made again.
    pub id: Value,
    /// The ids that other root secrets would have given, this one's included.
    pub all_ids: Vec<Value>,
}

impl Keys {
    pub fn object(&self) -> std::result::Result<&Key, CryptoError> {
        self.object.as_ref().ok_or_else(|| CryptoError::NoKeys("the request names no object".into()))
    }
}

/// Makes keys. Knows the root secrets.
pub struct Keymaster {
    secrets: Vec<(Option<String>, Secret<Vec<u8>>)>,
    active: Option<String>,
    version: IdVersion,
    fallback: Option<Arc<Keymaster>>,
}

impl Keymaster {
    /// From a filter's or `keymaster.conf`'s options: `encryption_root_secret`, `encryption_root_secret_<id>`
    /// (base64 of at least 32 bytes), `active_root_secret_id`, `meta_version_to_write` (default 2). Errors:
    /// `Invalid` naming the option, never its value.
    pub fn from_options<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut this = Self { secrets: Vec::new(), active: None, version: IdVersion::V2, fallback: None };
        for (name, value) in options {
            if let Some(rest) = name.strip_prefix("encryption_root_secret") {
                let id = match rest.strip_prefix('_') {
                    None if rest.is_empty() => None,
                    Some(id) if !id.is_empty() => Some(id.to_string()),
                    _ => return Err(Error::invalid(format!("Malformed multi-key option name {name}"))),
                };
                let short = || Error::invalid(format!("{name} option must be a base64 encoding of at least {MIN_SECRET} raw bytes"));
                let clean: String = value.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                let bytes = STANDARD.decode(clean).map_err(|_| short())?;
                if bytes.len() < MIN_SECRET {
                    return Err(short());
                }
                this.secrets.push((id, Secret::new(bytes)));
            } else if name == "active_root_secret_id" {
                this.active = (!value.is_empty()).then(|| value.to_string());
            } else if name == "meta_version_to_write" && !value.is_empty() {
                let bad = || Error::invalid(format!("Unknown/unsupported metadata version: '{value}'"));
                this.version = IdVersion::parse(value).ok_or_else(bad)?;
            }
        }
        this.secrets.sort_by(|a, b| a.0.cmp(&b.0));
        if this.secrets.len() > MAX_SECRETS {
            return Err(Error::invalid(format!("more than {MAX_SECRETS} encryption root secrets")));
        }
        if this.secret(this.active.as_deref()).is_none() {
            let id = this.active.as_deref().unwrap_or("None");
            return Err(Error::invalid(format!("No secret loaded for active_root_secret_id {id}")));
        }
        Ok(this)
    }

    /// A second keymaster for data that was encrypted with its secrets.
    #[must_use]
    pub fn with_fallback(mut self, other: Arc<Keymaster>) -> Self {
        self.fallback = Some(other);
        self
    }

    fn secret(&self, id: Option<&str>) -> Option<&Secret<Vec<u8>>> {
        self.secrets.iter().find(|(i, _)| i.as_deref() == id).map(|(_, s)| s)
    }

    /// Keys for writing to `/account/container[/object]`.
    pub fn keys(&self, account: &str, container: &str, object: Option<&str>) -> std::result::Result<Keys, CryptoError> {
        self.make(self.active.as_deref(), self.version, account, container, object, object.is_some())
    }

    /// Keys for reading what was written with `id`, for a request to `/account/container[/object]`.
    /// Where the id's path is another one than the request's (the object was copied as ciphertext), the
    /// id's path counts. Errors: `UnknownSecret`, `NoKeys`.
    pub fn keys_for(&self, id: &Value, account: &str, container: &str, object: Option<&str>) -> std::result::Result<Keys, CryptoError> {
        let none = |why: &str| CryptoError::NoKeys(why.to_string());
        let field = |name| id.get(name).and_then(Value::as_str);
        let version = field("v").and_then(IdVersion::parse).ok_or_else(|| none("unknown key_id version"))?;
        let path = field("path").ok_or_else(|| none("key_id has no path"))?;
        let secret_id = field("secret_id");
        let (acc, cont, obj) = self.locate(version, path, account, container, object)?;
        match self.make(secret_id, version, &acc, &cont, obj.as_deref(), object.is_some()) {
            Err(CryptoError::UnknownSecret(_)) if self.fallback.is_some() => match &self.fallback {
                Some(other) => other.keys_for(id, account, container, object),
                None => Err(none("no fallback")),
            },
            result => result,
        }
    }

    /// Keys of all root secrets, the active one's first: which of them an object's ETag was masked with
    /// cannot be known before it is read.
    pub fn all_keys(&self, account: &str, container: &str, object: Option<&str>) -> std::result::Result<Vec<Keys>, CryptoError> {
        let first = self.keys(account, container, object)?;
        let mut out = vec![];
        for id in first.all_ids.iter().filter(|id| **id != first.id) {
            out.push(self.keys_for(id, account, container, object)?);
        }
        out.insert(0, first);
        Ok(out)
    }

    /// Account, container and object that keys are made from.
    fn locate(
        &self,
        version: IdVersion,
        path: &str,
        account: &str,
        container: &str,
        object: Option<&str>,
    ) -> std::result::Result<(String, String, Option<String>), CryptoError> {
        let own = (account.to_string(), container.to_string());
        if version == IdVersion::V1 && !path.starts_with(&format!("/{account}/")) {
            return Ok((own.0, own.1, Some(path.to_string())));
        }
        let mut parts = path.strip_prefix('/').unwrap_or("").splitn(3, '/');
        let (Some(acc), Some(cont)) = (parts.next().filter(|p| !p.is_empty()), parts.next().filter(|p| !p.is_empty())) else {
            return Err(CryptoError::NoKeys("key_id's path names no container".into()));
        };
        let obj = parts.next().filter(|p| !p.is_empty());
        let same_object = |obj: Option<&str>| object.is_none() || object == obj;
        if version != IdVersion::V3 && !(acc == account && cont == container && same_object(obj)) {
            let text = |p: &str| narrow(p).and_then(|b| String::from_utf8(b).ok());
            if let (Some(a), Some(c), Some(o)) = (text(acc), text(cont), text(obj.unwrap_or("")))
                && a == account
                && c == container
                && same_object(Some(&o))
            {
                return Ok((a, c, obj.is_some().then_some(o)));
            }
        }
        if (acc, cont) != (account, container) || !same_object(obj) {
            tracing::info!("the path stored with encrypted data is not the request's; using the stored one");
        }
        Ok((acc.to_string(), cont.to_string(), obj.map(str::to_string)))
    }

    fn make(
        &self,
        secret_id: Option<&str>,
        version: IdVersion,
        account: &str,
        container: &str,
        object: Option<&str>,
        want_object: bool,
    ) -> std::result::Result<Keys, CryptoError> {
        let secret = self.secret(secret_id).ok_or_else(|| CryptoError::UnknownSecret(secret_id.unwrap_or("None").into()))?;
        let mut path = format!("/{account}/{container}");
        let container_key = derive(secret, &path);
        let mut object_key = None;
        if let (true, Some(object)) = (want_object, object) {
            path = if object.starts_with('/') && version == IdVersion::V1 { object.to_string() } else { format!("{path}/{object}") };
            object_key = Some(derive(secret, &path));
        }
        let id = |secret_id: Option<&str>| {
            let path = if version == IdVersion::V3 { path.clone() } else { widen(&path) };
            let mut id = serde_json::json!({"v": version.text(), "path": path});
            if let Some(s) = secret_id {
                id["secret_id"] = s.into();
            }
            id
        };
        let mut all_ids: Vec<Value> = self.secrets.iter().map(|(s, _)| id(s.as_deref())).collect();
        if let Some(other) = &self.fallback {
            all_ids.extend(other.keys(account, container, object)?.all_ids);
        }
        Ok(Keys { container: container_key, object: object_key, id: id(secret_id), all_ids })
    }
}

fn derive(secret: &Secret<Vec<u8>>, path: &str) -> Key {
    hmac_sha256(secret.expose(), path.as_bytes())
}

pub(super) fn hmac_sha256(key: &[u8], data: &[u8]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// Each byte of the text as one character.
fn widen(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

/// The inverse of [`widen`]; `None` when some character is no byte.
fn narrow(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(c).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_swiftkit::to_hex;

    fn options(extra: &[(&'static str, &'static str)]) -> Result<Keymaster> {
        // base64 of 32 and 33 bytes.
        let mut all = vec![
            ("encryption_root_secret", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            ("encryption_root_secret_new", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
        ];
        all.extend(extra);
        Keymaster::from_options(all)
    }

    fn hex(key: &Key) -> String {
        to_hex(key)
    }

    // Figures from Swift 2.38.3's KeyMaster with the same secrets.
    #[test]
    fn keys_are_upstreams() {
        let km = options(&[]).unwrap();
        let keys = km.keys("a", "c", Some("o")).unwrap();
        assert_eq!(hex(&keys.container), "81adaa9a88df39d4336e46a1376f8d40d9e8092c20f3e1b79752761802f95166");
        assert_eq!(hex(keys.object().unwrap()), "378e76c95a19a4a5be1c0ef7cd441d0846dba28c6544bed43cedeb1ca8adda95");
        let km = options(&[("active_root_secret_id", "new")]).unwrap();
        let keys = km.keys("a", "c", Some("å")).unwrap();
        assert_eq!(hex(&keys.container), "0d5fe2caea403b8f28db5f24a34ff60b261540069c3acd724051ee7dc162b51e");
        assert_eq!(hex(keys.object().unwrap()), "c92cd939a4d240654f39741e2e2236e662c9dce8e6e172660890de719fabf0e8");
        assert_eq!(keys.id, serde_json::json!({"v": "2", "path": "/a/c/\u{c3}\u{a5}", "secret_id": "new"}));
    }

    #[test]
    fn paths_in_ids() {
        for (version, path) in [("1", "/a/c/\u{c3}\u{a5}"), ("2", "/a/c/\u{c3}\u{a5}"), ("3", "/a/c/å")] {
            let km = options(&[("meta_version_to_write", version)]).unwrap();
            let keys = km.keys("a", "c", Some("å")).unwrap();
            assert_eq!(keys.id, serde_json::json!({"v": version, "path": path}));
            assert_eq!(keys.all_ids.len(), 2);
            let again = km.keys_for(&keys.id, "a", "c", Some("å")).unwrap();
            assert_eq!(again.object, keys.object, "version {version}");
            let listing = km.keys_for(&keys.id, "a", "c", None).unwrap();
            assert_eq!((listing.container, listing.object), (keys.container, None), "version {version}");
        }
    }

    #[test]
    fn names_that_begin_with_a_slash() {
        let v1 = options(&[("meta_version_to_write", "1")]).unwrap();
        let keys = v1.keys("a", "c", Some("/o")).unwrap();
        assert_eq!(keys.id["path"], "/o");
        assert_eq!(v1.keys_for(&keys.id, "a", "c", Some("/o")).unwrap().object, keys.object);
        let v2 = options(&[]).unwrap().keys("a", "c", Some("/o")).unwrap();
        assert_eq!(v2.id["path"], "/a/c//o");
        assert_ne!(v2.object, keys.object);
    }

    #[test]
    fn other_secrets_and_moved_ciphertext() {
        let old = options(&[]).unwrap().keys("a", "c", Some("o")).unwrap();
        let km = options(&[("active_root_secret_id", "new")]).unwrap();
        let new = km.keys("a", "c", Some("o")).unwrap();
        assert_ne!(new.object, old.object);
        assert_eq!(km.keys_for(&old.id, "a", "c", Some("o")).unwrap().object, old.object);
        assert_eq!(km.keys_for(&old.id, "a", "other", Some("p")).unwrap().object, old.object);
        assert_eq!(km.all_keys("a", "c", Some("o")).unwrap().len(), 2);
        let unknown = serde_json::json!({"v": "2", "path": "/a/c/o", "secret_id": "gone"});
        assert_eq!(km.keys_for(&unknown, "a", "c", Some("o")).err(), Some(CryptoError::UnknownSecret("gone".into())));
        for id in
            [serde_json::json!({"v": "4", "path": "/a/c/o"}), serde_json::json!({"v": "2"}), serde_json::json!({"v": "2", "path": "x"})]
        {
            assert!(matches!(km.keys_for(&id, "a", "c", Some("o")), Err(CryptoError::NoKeys(_))), "{id}");
        }
        let first = Arc::new(options(&[("encryption_root_secret_gone", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")]).unwrap());
        let both = options(&[]).unwrap().with_fallback(first);
        assert!(both.keys_for(&unknown, "a", "c", Some("o")).is_ok());
    }

    #[test]
    fn options_are_checked() {
        for bad in [
            vec![("encryption_root_secret", "AAAA")],
            vec![("encryption_root_secret", "not base64 at all, not base64 at all, not base64 at all")],
            vec![("encryption_root_secretx", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")],
            vec![],
        ] {
            assert!(Keymaster::from_options(bad.clone()).is_err(), "{bad:?}");
        }
        assert!(options(&[("active_root_secret_id", "nope")]).is_err());
        assert!(options(&[("meta_version_to_write", "4")]).is_err());
        assert!(options(&[("encryption_root_secret_", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")]).is_err());
    }
}
