//! Encryption at rest, in upstream's formats: what either side has written the other can read.
//!
//! A body is encrypted with a random key of its own, which is stored encrypted with the object's key. The ETag
//! and each piece of user metadata are encrypted with the object's key, the ETag in the container's listing with
//! the container's key, each with an initialisation vector of its own. Object names, sizes, content types and
//! system metadata stay readable. Beside the encrypted ETag stands an HMAC of it, which conditional requests
//! are decided by on the storage node.
//!
//! The layer stands last before the proxy's controllers, so that everything before it sees plain data.
//! Counter mode does not authenticate: it protects disks that leave the house, not data against who can
//! write to them.

mod bodies;
mod cipher;
mod decrypter;
mod encrypter;
mod keymaster;
mod meta;

pub use cipher::{Ctr, Iv, Key};
pub use keymaster::{Keymaster, Keys};
pub use meta::{CryptoError, CryptoMeta};

use crate::env::{Req, Resp, SwiftPath};
use caelum_base::Env;
use caelum_rest::{Body, HttpService};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use std::sync::Arc;

/// Where encrypted user metadata is stored: `x-object-transient-sysmeta-crypto-meta-<name>`.
const META_PREFIX: &str = "x-object-transient-sysmeta-crypto-meta-";
const USER_PREFIX: &str = "x-object-meta-";
/// Cipher and key of the user metadata.
const META_KEYS: &str = "x-object-transient-sysmeta-crypto-meta";
const ETAG: &str = "x-object-sysmeta-crypto-etag";
const ETAG_MAC: &str = "x-object-sysmeta-crypto-etag-mac";
const BODY_META: &str = "x-object-sysmeta-crypto-body-meta";
/// The ETag that the container's listing shows in place of the object's own.
const LISTING_ETAG: &str = "x-object-sysmeta-container-update-override-etag";

/// Request extension: read and write the ciphertext as it is.
#[derive(Clone, Copy, Debug)]
pub struct CryptoOverride;

/// The layer.
#[derive(Clone)]
pub struct Encryption {
    next: Arc<dyn HttpService>,
    keymaster: Arc<Keymaster>,
    env: Env,
    /// New data is encrypted. What is encrypted can be read either way.
    encrypt: bool,
}

impl Encryption {
    pub fn new(next: Arc<dyn HttpService>, keymaster: Arc<Keymaster>, env: Env) -> Self {
        Self { next, keymaster, env, encrypt: true }
    }

    /// `disable_encryption`: new data is stored plain, old data stays readable.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { encrypt: false, ..self }
    }

    async fn handle(self, req: Req) -> Resp {
        let path = SwiftPath::parse(req.uri().path()).filter(|p| matches!(p.version.as_str(), "v1" | "v1.0"));
        let Some(path) = path else { return self.next.call(req).await };
        if req.extensions().get::<CryptoOverride>().is_some() {
            return self.next.call(req).await;
        }
        let (Some(container), object) = (path.container, path.object) else { return self.next.call(req).await };
        let at = Place { account: path.account, container, object };
        let object = at.object.is_some();
        let method = req.method().clone();
        let result = match method {
            Method::GET | Method::HEAD if object => self.read(req, &at).await,
            Method::GET => self.list(req, &at).await,
            Method::PUT if object && self.encrypt => self.put(req, &at).await,
            Method::POST if object && self.encrypt => self.post(req, &at).await,
            _ => return self.next.call(req).await,
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    fn keys(&self, at: &Place) -> Result<Keys, Resp> {
        self.keymaster.keys(&at.account, &at.container, at.object.as_deref()).map_err(|e| no_keys(&e))
    }

    fn iv(&self) -> Iv {
        let mut iv = [0; cipher::IV_LEN];
        self.env.rng.fill(&mut iv);
        iv
    }
}

impl HttpService for Encryption {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.clone().handle(req))
    }
}

/// What a request is about, names decoded.
struct Place {
    account: String,
    container: String,
    object: Option<String>,
}

fn no_keys(error: &CryptoError) -> Resp {
    tracing::error!(%error, "encryption keys");
    crate::http::error_html(500, "Unable to retrieve encryption keys.")
}

/// Encrypts a value and describes how; the value comes out in base64.
fn encrypt_value(value: &[u8], key: &Key, iv: Iv) -> (String, CryptoMeta) {
    use base64::Engine;
    let mut data = value.to_vec();
    Ctr::new(key, &iv).apply(&mut data);
    (base64::engine::general_purpose::STANDARD.encode(data), CryptoMeta::new(iv))
}

/// The inverse of [`encrypt_value`].
fn decrypt_value(value: &str, key: &Key, meta: &CryptoMeta) -> Result<Vec<u8>, CryptoError> {
    use base64::Engine;
    let iv = meta.checked_iv()?;
    let bad = |_| CryptoError::Bad("the value is not base64".into());
    let mut data = base64::engine::general_purpose::STANDARD.decode(value.trim()).map_err(bad)?;
    Ctr::new(key, &iv).apply(&mut data);
    Ok(data)
}

/// An ETag as the storage node compares it with those of a conditional request.
fn mask_etag(key: &Key, etag: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(keymaster::hmac_sha256(key, etag))
}

/// A header of several lines as one.
fn joined(headers: &HeaderMap, name: &http::HeaderName) -> Vec<u8> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    values.join(&b","[..])
}

#[cfg(test)]
mod tests;
