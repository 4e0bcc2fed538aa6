//! The way in: bodies, metadata and ETags are encrypted, ETags of conditions are masked.

use super::bodies::{Digests, Encrypting, Finish};
use super::{
    BODY_META, ETAG, ETAG_MAC, Encryption, LISTING_ETAG, META_KEYS, META_PREFIX, Place, USER_PREFIX, encrypt_value, joined, mask_etag,
    no_keys,
};
use super::{CryptoMeta, Ctr, Iv, Key, Keys};
use crate::env::{Footers, Req, Resp};
use crate::http::{error, error_plain, set, text, unquote_etag};
use caelum_base::Env;
use caelum_rest::BoxError;
use http::{HeaderMap, HeaderName, header};
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};

const MD5_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// Limits of user metadata, before encryption makes it longer.
const MAX_ITEMS: usize = 90;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 256;
const MAX_TOTAL: usize = 4_096;
/// Tags of a condition that are masked; each costs an HMAC per root secret.
const MAX_TAGS: usize = 256;

/// The proxy checks user metadata too, but sees none of what has been encrypted here.
fn check_metadata(headers: &HeaderMap) -> Result<(), Resp> {
    let bad = |why: String| Err(error_plain(400, why));
    let (mut count, mut size) = (0, 0);
    for name in headers.keys() {
        let Some(short) = name.as_str().strip_prefix(USER_PREFIX) else { continue };
        let value = joined(headers, name);
        if short.is_empty() {
            return bad("Metadata name cannot be empty".into());
        }
        count += 1;
        size += short.len() + value.len();
        if short.len() > MAX_NAME {
            return bad(format!("Metadata name too long: {USER_PREFIX}{short}"));
        }
        if value.len() > MAX_VALUE {
            return bad(format!("Metadata value longer than {MAX_VALUE}: {USER_PREFIX}{short}"));
        }
        if count > MAX_ITEMS {
            return bad(format!("Too many metadata items; max {MAX_ITEMS}"));
        }
        if size > MAX_TOTAL {
            return bad(format!("Total metadata too large; max {MAX_TOTAL}"));
        }
    }
    Ok(())
}

/// What the layer learns from the body while the request is under way.
#[derive(Default)]
struct Outcome {
    digests: Option<(String, String)>,
    /// The client's ETag is not that of the data.
    mismatch: bool,
}

impl Encryption {
    /// Each `X-Object-Meta-<name>` becomes `X-Object-Transient-Sysmeta-Crypto-Meta-<name>`. Empty values,
    /// which delete, stay.
    fn encrypt_user_metadata(&self, headers: &mut HeaderMap, keys: &Keys, key: &Key) {
        let names: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with(USER_PREFIX)).cloned().collect();
        let mut any = false;
        for name in names {
            let value = joined(headers, &name);
            let Some(short) = name.as_str().strip_prefix(USER_PREFIX) else { continue };
            if value.is_empty() {
                continue;
            }
            let (value, meta) = encrypt_value(&value, key, self.iv());
            set(headers, &format!("{META_PREFIX}{short}"), meta.append_to(&value));
            headers.remove(&name);
            any = true;
        }
        if any {
            let meta = CryptoMeta { cipher: Some(super::meta::CIPHER.into()), key_id: Some(keys.id.clone()), ..CryptoMeta::default() };
            set(headers, META_KEYS, meta.dump());
        }
    }

    pub(super) async fn post(&self, mut req: Req, at: &Place) -> Result<Resp, Resp> {
        check_metadata(req.headers())?;
        let keys = self.keys(at)?;
        let key = *keys.object().map_err(|e| no_keys(&e))?;
        self.encrypt_user_metadata(req.headers_mut(), &keys, &key);
        Ok(self.next.call(req).await)
    }

    pub(super) async fn put(&self, mut req: Req, at: &Place) -> Result<Resp, Resp> {
        check_metadata(req.headers())?;
        let keys = self.keys(at)?;
        let key = *keys.object().map_err(|e| no_keys(&e))?;
        self.encrypt_user_metadata(req.headers_mut(), &keys, &key);

        let mut body_key = [0; super::cipher::KEY_LEN];
        self.env.rng.fill(&mut body_key);
        let iv = self.iv();
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        // The client's ETag is the plain data's; the ciphertext's follows as a footer.
        let client_etag = text(req.headers(), "etag").map(|t| unquote_etag(t).to_string());
        req.headers_mut().remove(header::ETAG);
        let seal = Seal {
            keys,
            key,
            body_key,
            iv,
            client_etag,
            listing_etag: text(req.headers(), LISTING_ETAG).map(str::to_string),
            env: self.env.clone(),
            outcome: outcome.clone(),
        };
        let finish: Finish = Box::new(move |digests, footers| seal.footers(digests, footers));
        req.extensions_mut().insert(Footers);
        let ctr = Ctr::new(&body_key, &iv);
        let mut resp = self.next.call(req.map(|b| Encrypting::new(b, ctr, finish).boxed_unsync())).await;

        let outcome = std::mem::take(&mut *outcome.lock().expect("no holder of this lock panics"));
        if outcome.mismatch {
            return Err(error(422));
        }
        if let (true, Some((plain, cipher))) = (resp.status().is_success(), outcome.digests)
            && text(resp.headers(), "etag").is_some_and(|t| unquote_etag(t) == cipher)
        {
            set(resp.headers_mut(), "etag", plain);
        }
        Ok(resp)
    }

    /// A tag of a condition is also sent as its HMAC, under the keys of every root secret, and stays
    /// beside it for objects that are not encrypted.
    pub(super) fn mask_conditions(&self, req: &mut Req, at: &Place) -> Result<(), Resp> {
        let mut masked = false;
        for name in ["if-match", "if-none-match"] {
            let Some(old) = text(req.headers(), name) else { continue };
            let tags: Vec<&str> = old.split(',').map(str::trim).filter(|t| !t.is_empty()).map(unquote_etag).collect();
            if tags.len() > MAX_TAGS {
                return Err(error(400));
            }
            let all = self.keymaster.all_keys(&at.account, &at.container, at.object.as_deref()).map_err(|e| no_keys(&e))?;
            let mut out: Vec<String> = Vec::new();
            for tag in tags {
                if tag == "*" {
                    out.push("*".into());
                    continue;
                }
                out.push(format!("\"{tag}\""));
                for keys in &all {
                    out.push(format!("\"{}\"", mask_etag(keys.object().map_err(|e| no_keys(&e))?, tag.as_bytes())));
                }
                masked = true;
            }
            set(req.headers_mut(), name, out.join(", "));
        }
        if masked {
            let at = text(req.headers(), "x-backend-etag-is-at").map(|old| format!("{old},"));
            set(req.headers_mut(), "x-backend-etag-is-at", format!("{}X-Object-Sysmeta-Crypto-Etag-Mac", at.unwrap_or_default()));
        }
        Ok(())
    }
}

/// What is needed to describe an encryption once the data has passed.
struct Seal {
    keys: Keys,
    key: Key,
    body_key: Key,
    iv: Iv,
    client_etag: Option<String>,
    listing_etag: Option<String>,
    env: Env,
    outcome: Arc<Mutex<Outcome>>,
}

impl Seal {
    fn new_iv(&self) -> Iv {
        let mut iv = [0; super::cipher::IV_LEN];
        self.env.rng.fill(&mut iv);
        iv
    }

    fn footers(self, digests: Option<Digests>, mut footers: HeaderMap) -> Result<HeaderMap, BoxError> {
        let plain = digests.as_ref().map(|d| d.plain.clone());
        match digests {
            Some(digests) => self.seal_body(digests, &mut footers)?,
            // Nothing was encrypted, so the client's ETag holds again.
            None => {
                if let (Some(tag), false) = (&self.client_etag, footers.contains_key(header::ETAG)) {
                    set(&mut footers, "etag", tag);
                }
            }
        }
        let listing = text(&footers, LISTING_ETAG).map(str::to_string).or_else(|| self.listing_etag.clone()).or_else(|| plain.clone());
        // The ETag of nothing says nothing, unless it stands in the listing for some data.
        if let Some(tag) = listing.filter(|t| !t.is_empty() && (t != MD5_OF_NOTHING || plain.is_some())) {
            let (value, mut meta) = encrypt_value(tag.as_bytes(), &self.keys.container, self.new_iv());
            meta.key_id = Some(self.keys.id.clone());
            set(&mut footers, LISTING_ETAG, meta.append_to(&value));
        }
        Ok(footers)
    }

    fn seal_body(&self, digests: Digests, footers: &mut HeaderMap) -> Result<(), BoxError> {
        let expected = text(footers, "etag").filter(|t| !t.is_empty()).map(str::to_string).or_else(|| self.client_etag.clone());
        if expected.is_some_and(|e| unquote_etag(&e) != digests.plain) {
            self.outcome.lock().expect("no holder of this lock panics").mismatch = true;
            return Err("the data does not have the ETag that was given".into());
        }
        set(footers, "etag", &digests.cipher);
        let (value, meta) = encrypt_value(digests.plain.as_bytes(), &self.key, self.new_iv());
        set(footers, ETAG, meta.append_to(&value));
        let mut wrapped = self.body_key;
        let wrap_iv = self.new_iv();
        Ctr::new(&self.key, &wrap_iv).apply(&mut wrapped);
        let mut meta = CryptoMeta::new(self.iv);
        meta.body_key = Some((wrapped.to_vec(), wrap_iv.to_vec()));
        meta.key_id = Some(self.keys.id.clone());
        set(footers, BODY_META, meta.dump());
        set(footers, ETAG_MAC, mask_etag(&self.key, digests.plain.as_bytes()));
        self.outcome.lock().expect("no holder of this lock panics").digests = Some((digests.plain, digests.cipher));
        Ok(())
    }
}
