//! The service's state: database, keys, caches.

use crate::logic::catalog::CatalogRows;
use crate::logic::passwords::Hasher;
use crate::store;
use crate::token::keys::KeyRepository;
use crate::token::resolve::{invalid, resolve};
use crate::token::{Facts, Scope, TokenCache, TokenEntry};
use bytes::Bytes;
use caelum_base::{Env, Error, Result, Timestamp};
use caelum_store::{Db, Tx};
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Password rules and lock-out.
#[derive(Clone, Debug)]
pub struct Compliance {
    /// Failed attempts that lock an account; 0 never locks.
    pub lockout_failure_attempts: i64,
    pub lockout_duration: Duration,
    /// A new password must differ from this many former ones; 0 allows any.
    pub unique_last_password_count: usize,
}

impl Default for Compliance {
    fn default() -> Self {
        Self { lockout_failure_attempts: 2, lockout_duration: Duration::from_secs(5), unique_last_password_count: 2 }
    }
}

/// Longest string that can be a token, with room for tokens of older keys.
const MAX_TOKEN: usize = 512;

pub struct Identity {
    pub env: Env,
    pub db: Db,
    pub keys: KeyRepository,
    /// Encrypts stored credentials.
    pub credential_keys: KeyRepository,
    pub hasher: Hasher,
    pub compliance: Compliance,
    pub token_ttl: Duration,
    pub max_active_keys: usize,
    /// `http://host:5000/identity`, without a trailing slash.
    pub public_url: String,
    cache: TokenCache,
    epoch: Arc<AtomicU64>,
    catalog: RwLock<Option<(u64, Arc<CatalogRows>)>>,
}

/// Parts of an [`Identity`] that the caller of [`Identity::new`] has made.
pub struct Parts {
    pub env: Env,
    pub db: Db,
    pub keys: KeyRepository,
    pub credential_keys: KeyRepository,
    pub hasher: Hasher,
    pub compliance: Compliance,
    pub token_ttl: Duration,
    pub max_active_keys: usize,
    pub public_url: String,
    pub cached_tokens: usize,
}

impl Identity {
    pub fn new(p: Parts) -> Self {
        Self {
            env: p.env,
            db: p.db,
            keys: p.keys,
            credential_keys: p.credential_keys,
            hasher: p.hasher,
            compliance: p.compliance,
            token_ttl: p.token_ttl,
            max_active_keys: p.max_active_keys,
            public_url: p.public_url,
            cache: TokenCache::new(p.cached_tokens),
            epoch: Arc::new(AtomicU64::new(1)),
            catalog: RwLock::new(None),
        }
    }

    /// One writing transaction; whatever was derived from the tables counts no more afterwards.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Result<T> + Send + Sync + 'static,
    {
        let epoch = self.epoch.clone();
        let write = move |tx: &mut Tx<'_>| {
            let out = f(tx)?;
            store::bump_epoch(tx)?;
            let epoch = epoch.clone();
            tx.after_commit(move || {
                epoch.fetch_add(1, Ordering::SeqCst);
            });
            Ok(out)
        };
        self.db.write(write).await
    }

    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.db.read(f).await
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Called when another process wrote, or when that cannot be known.
    pub fn distrust_caches(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    pub async fn catalog_rows(&self) -> Result<Arc<CatalogRows>> {
        let epoch = self.epoch();
        if let Some((at, rows)) = &*self.catalog.read().unwrap_or_else(PoisonError::into_inner)
            && *at == epoch
        {
            return Ok(rows.clone());
        }
        let rows = Arc::new(self.read(CatalogRows::read).await?);
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Some((epoch, rows.clone()));
        Ok(rows)
    }

    /// Seals facts into a token.
    pub fn seal(&self, facts: &Facts) -> Result<String> {
        let secs = u64::try_from(facts.issued_at.secs()).unwrap_or(0);
        self.keys.seal(&facts.pack()?, secs, &self.env)
    }

    /// What a token means now. Errors: `Unauthenticated` for any token that is not valid now.
    pub async fn validate(&self, token: &str) -> Result<Arc<TokenEntry>> {
        let epoch = self.epoch();
        if let Some(e) = self.cache.get(token, epoch) {
            return if e.facts.expires_at > self.env.now() { Ok(e) } else { Err(invalid("token expired")) };
        }
        if token.len() > MAX_TOKEN {
            return Err(invalid("too long for a token"));
        }
        let opened = self.keys.open_sealed(token);
        let (data, secs) = opened.ok_or_else(|| invalid("not sealed by any key of ours"))?;
        let issued = i64::try_from(secs).map_err(|_| invalid("issued in the far future"))?;
        let facts = Facts::unpack(&data, issued).ok_or_else(|| invalid("not a token payload"))?;
        self.understand(token, facts, epoch).await
    }

    /// Resolves facts, makes the views and keeps them. `epoch` is the one read before.
    pub async fn understand(&self, token: &str, facts: Facts, epoch: u64) -> Result<Arc<TokenEntry>> {
        let (now, wanted) = (self.env.now(), facts.clone());
        let resolved = self.read(move |tx| resolve(tx, &wanted, now)).await?;
        let catalog = match facts.scope {
            Scope::Unscoped => None,
            Scope::Domain(_) | Scope::Project(_) | Scope::System => Some(self.catalog_rows().await?.view(&facts.user_id, &facts.scope)),
        };
        let entry = Arc::new(TokenEntry {
            auth: Arc::new(resolved.auth(&facts, token)),
            body: json_bytes(&resolved.body(&facts, catalog.as_ref())),
            body_without_catalog: json_bytes(&resolved.body(&facts, None)),
            facts,
            epoch,
        });
        self.cache.put(token, entry.clone());
        Ok(entry)
    }

    /// A new audit id: 16 random bytes as text.
    pub fn audit_id(&self) -> String {
        crate::token::fernet::b64(&self.env.bytes(16))
    }

    /// When a token issued now ends; tokens end on whole seconds.
    pub fn expiry(&self) -> Timestamp {
        Timestamp::from_secs(self.env.now().plus(self.token_ttl).secs())
    }

    pub fn encrypt(&self, text: &str) -> Result<String> {
        let secs = u64::try_from(self.env.now().secs()).unwrap_or(0);
        self.credential_keys.seal(text.as_bytes(), secs, &self.env)
    }

    pub fn decrypt(&self, sealed: &str) -> Result<String> {
        let opened = self.credential_keys.open_sealed(sealed);
        let (data, _) = opened.ok_or_else(|| Error::internal("a stored secret is sealed by no key of ours"))?;
        String::from_utf8(data).map_err(|e| Error::internal("a stored secret is not text").caused_by(e))
    }
}

fn json_bytes(v: &Value) -> Bytes {
    Bytes::from(v.to_string())
}
