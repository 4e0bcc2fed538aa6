//! The way out: bodies, metadata, ETags and listings are decrypted.

use super::bodies::{Decrypting, DecryptingParts, content_range};
use super::{BODY_META, ETAG, Encryption, LISTING_ETAG, META_KEYS, META_PREFIX, Place, USER_PREFIX, decrypt_value, no_keys};
use super::{CryptoError, CryptoMeta, Ctr, Iv, Key, Keys};
use crate::env::{Req, Resp};
use crate::http::{error_plain, read_all, set, text};
use caelum_swiftkit::python::json_string;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;

/// Largest listing in bytes: 10,000 names of 1,024 bytes, each of which may take six in JSON, and the rest.
const MAX_LISTING: usize = 128 << 20;

fn broken(what: &str, error: &CryptoError) -> Resp {
    tracing::error!(%error, "decrypting {what}");
    error_plain(500, format!("Error decrypting {what}"))
}

/// The description in a header. Only answers about an object that exists have one worth reading.
fn stored_meta(resp: &Resp, name: &str, check: bool) -> Result<Option<CryptoMeta>, Resp> {
    let told = resp.status().is_success() || matches!(resp.status().as_u16(), 304 | 412);
    let Some(value) = text(resp.headers(), name).filter(|_| told) else { return Ok(None) };
    let meta = CryptoMeta::load(value).and_then(|m| if check { m.checked_iv().map(|_| m) } else { Ok(m) });
    meta.map(Some).map_err(|e| broken("object", &e))
}

/// A value with its description behind it; `None` when it has none.
fn header_value(value: &str, key: &Key) -> Result<Option<HeaderValue>, CryptoError> {
    let (value, Some(meta)) = CryptoMeta::extract(value)? else { return Ok(None) };
    let plain = if value.is_empty() { Vec::new() } else { decrypt_value(value, key, &meta)? };
    let bad = |_| CryptoError::Bad("the decrypted value is no header".into());
    HeaderValue::from_bytes(&plain).map(Some).map_err(bad)
}

impl Encryption {
    pub(super) async fn read(&self, mut req: Req, at: &Place) -> Result<Resp, Resp> {
        self.mask_conditions(&mut req, at)?;
        let get = req.method() == Method::GET;
        let cors = text(req.headers(), "origin").is_some_and(|o| !o.is_empty());
        let mut resp = self.next.call(req).await;

        let put_meta = stored_meta(&resp, BODY_META, true)?;
        let put_keys = self.keys_of(put_meta.as_ref(), at)?;
        let post_meta = stored_meta(&resp, META_KEYS, false)?;
        let post_keys = self.keys_of(post_meta.as_ref(), at)?;
        decrypt_headers(resp.headers_mut(), &put_keys, &post_keys, cors)?;
        let secret = |n: &HeaderName| {
            n.as_str().starts_with("x-object-transient-sysmeta-crypto-") || n.as_str().starts_with("x-object-sysmeta-crypto-")
        };
        let gone: Vec<HeaderName> = resp.headers().keys().filter(|n| secret(n)).cloned().collect();
        for name in gone {
            resp.headers_mut().remove(&name);
        }
        let Some(meta) = put_meta.filter(|_| resp.status().is_success()) else { return Ok(resp) };
        set(resp.headers_mut(), "x-backend-crypto-cipher", meta.cipher.as_deref().unwrap_or_default());
        if get { decrypt_body(resp, &meta, &put_keys) } else { Ok(resp) }
    }

    /// The keys that a description names; the active ones when it names none.
    fn keys_of(&self, meta: Option<&CryptoMeta>, at: &Place) -> Result<Keys, Resp> {
        let Some(id) = meta.and_then(|m| m.key_id.as_ref()) else { return self.keys(at) };
        match self.keymaster.keys_for(id, &at.account, &at.container, at.object.as_deref()) {
            Ok(keys) => Ok(keys),
            Err(e @ CryptoError::UnknownSecret(_)) => Err(broken("object", &e)),
            Err(e) => Err(no_keys(&e)),
        }
    }

    /// The ETags in a container's listing.
    pub(super) async fn list(&self, req: Req, at: &Place) -> Result<Resp, Resp> {
        let resp = self.next.call(req).await;
        let json = text(resp.headers(), "content-type").is_some_and(|t| t.split(';').next() == Some("application/json"));
        if !resp.status().is_success() || !json {
            return Ok(resp);
        }
        let (mut parts, body) = resp.into_parts();
        let Some(bytes) = read_all(body, MAX_LISTING).await else { return Err(crate::http::error(503)) };
        let marked = memchr::memmem::find(&bytes, b"swift_meta=").is_some();
        let entries = if marked { serde_json::from_slice::<Value>(&bytes).ok() } else { None };
        let body = match entries {
            Some(Value::Array(mut entries)) => {
                entries.iter_mut().for_each(|e| self.decrypt_entry(e, at));
                json_string(&Value::Array(entries)).into()
            }
            _ => bytes,
        };
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        Ok(Resp::from_parts(parts, caelum_rest::full(body)))
    }

    /// A damaged or foreign entry does not spoil the listing: its ETag is shown as unknown.
    fn decrypt_entry(&self, entry: &mut Value, at: &Place) {
        let Some(hash) = entry.get("hash").and_then(Value::as_str) else { return };
        let plain = match self.listed_etag(hash, at) {
            Ok(None) => return,
            Ok(Some(plain)) => plain,
            Err(error) => {
                tracing::error!(%error, account = at.account, container = at.container, "decrypting a container's listing");
                "<unknown>".to_string()
            }
        };
        entry["hash"] = plain.into();
    }

    fn listed_etag(&self, hash: &str, at: &Place) -> Result<Option<String>, CryptoError> {
        let (value, Some(meta)) = CryptoMeta::extract(hash)? else { return Ok(None) };
        meta.checked_iv()?;
        let keys = match &meta.key_id {
            Some(id) => self.keymaster.keys_for(id, &at.account, &at.container, None)?,
            None => self.keymaster.keys(&at.account, &at.container, None)?,
        };
        let plain = decrypt_value(value, &keys.container, &meta)?;
        String::from_utf8(plain).map(Some).map_err(|_| CryptoError::Bad("the ETag is no text".into()))
    }
}

fn decrypt_headers(headers: &mut HeaderMap, put: &Keys, post: &Keys, cors: bool) -> Result<(), Resp> {
    let missing = || CryptoError::Bad("the value has no crypto meta".into());
    let header = |e: CryptoError| broken("header", &e);
    if let Some(value) = text(headers, ETAG).filter(|v| !v.is_empty()) {
        let key = put.object().map_err(|e| no_keys(&e))?;
        let plain = header_value(value, key).and_then(|v| v.ok_or_else(missing)).map_err(header)?;
        headers.insert(header::ETAG, plain);
    }
    if let Some(value) = text(headers, LISTING_ETAG).filter(|v| !v.is_empty())
        && let Some(plain) = header_value(value, &put.container).map_err(header)?
    {
        headers.insert(HeaderName::from_static(LISTING_ETAG), plain);
    }
    let mut shown = Vec::new();
    let names: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with(META_PREFIX)).cloned().collect();
    for name in names {
        let Some(value) = text(headers, name.as_str()).filter(|v| !v.is_empty()) else { continue };
        let key = post.object().map_err(|e| no_keys(&e))?;
        let plain = header_value(value, key).and_then(|v| v.ok_or_else(missing)).map_err(header)?;
        let user = format!("{USER_PREFIX}{}", &name.as_str()[META_PREFIX.len()..]);
        if let Ok(user) = HeaderName::from_bytes(user.as_bytes()) {
            headers.insert(user.clone(), plain);
            shown.push(user.to_string());
        }
    }
    let old = text(headers, "access-control-expose-headers").map(|v| format!("{v}, "));
    if old.is_some() || cors {
        set(headers, "access-control-expose-headers", format!("{}{}", old.unwrap_or_default(), shown.join(", ")));
    }
    Ok(())
}

fn decrypt_body(resp: Resp, meta: &CryptoMeta, keys: &Keys) -> Result<Resp, Resp> {
    let key = keys.object().and_then(|k| meta.unwrap_body_key(k)).map_err(|e| broken("object", &e))?;
    let iv: Iv = meta.checked_iv().map_err(|e| broken("object", &e))?;
    let multipart = resp.status() == StatusCode::PARTIAL_CONTENT
        && text(resp.headers(), "content-type").is_some_and(|t| t.starts_with("multipart/byteranges"));
    if multipart {
        return Ok(resp.map(|b| DecryptingParts::new(b, move |offset| Ctr::at(&key, &iv, offset)).boxed_unsync()));
    }
    let offset = match text(resp.headers(), "content-range") {
        Some(range) => content_range(range).ok_or_else(|| CryptoError::Bad("content-range".into())).map_err(|e| broken("object", &e))?.0,
        None => 0,
    };
    Ok(resp.map(|b| Decrypting::new(b, Ctr::at(&key, &iv, offset)).boxed_unsync()))
}
