//! Starting and stopping the service.

use crate::api::{self, ec2_secret};
use crate::logic::authenticate::key_token;
use crate::logic::bootstrap::{self, Bootstrap};
use crate::logic::passwords::Hasher;
use crate::state::{Compliance, Identity, Parts};
use crate::store;
use crate::token::keys::KeyRepository;
use crate::tokens::{ServiceTokens, Validator};
use caelum_base::{Env, Result, Secret};
use caelum_client::TokenSource;
use caelum_rest::{Api, Auth, HttpService, OpInfo, TokenValidator};
use caelum_store::{Db, StoreUrl};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// What the service is made from.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    /// The operator's policy overrides.
    pub policy: BTreeMap<String, String>,
    /// `http://127.0.0.1:5000/identity`
    pub public_url: String,
    /// Directory of the key repositories; made when missing.
    pub data_dir: PathBuf,
    /// bcrypt's cost, 4 to 31; 12 is upstream's.
    pub bcrypt_cost: u32,
    pub compliance: Compliance,
    pub token_ttl: Duration,
    /// Fernet keys kept at rotation, the staged and the primary one included.
    pub max_active_keys: usize,
    /// Tokens kept understood.
    pub cached_tokens: usize,
}

impl Deps {
    /// Upstream's defaults.
    pub fn new(env: Env, store: StoreUrl, public_url: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            env,
            store,
            policy: BTreeMap::new(),
            public_url: public_url.into(),
            data_dir: data_dir.into(),
            bcrypt_cost: 12,
            compliance: Compliance::default(),
            token_ttl: Duration::from_secs(3600),
            max_active_keys: 3,
            cached_tokens: 50_000,
        }
    }
}

/// The running service.
pub struct Service {
    identity: Arc<Identity>,
    api: Api<Identity>,
    background: JoinHandle<()>,
}

/// Opens the database and the keys and starts watching for other processes' writes.
pub async fn start(deps: Deps) -> Result<Service> {
    let db = Db::open(&deps.store, "identity", store::MIGRATIONS).await?;
    let identity = Arc::new(Identity::new(Parts {
        hasher: Hasher::new(deps.env.clone(), deps.bcrypt_cost)?,
        keys: KeyRepository::open(&deps.data_dir.join("fernet-keys"), &deps.env)?,
        credential_keys: KeyRepository::open(&deps.data_dir.join("credential-keys"), &deps.env)?,
        env: deps.env.clone(),
        db,
        compliance: deps.compliance,
        token_ttl: deps.token_ttl,
        max_active_keys: deps.max_active_keys,
        public_url: deps.public_url.trim_end_matches('/').to_string(),
        cached_tokens: deps.cached_tokens,
    }));
    let validator = Arc::new(Validator(identity.clone()));
    let api = api::build(identity.clone(), deps.policy, validator)?;
    let background = tokio::spawn(watch(identity.clone()));
    Ok(Service { identity, api, background })
}

/// How often other processes' writes are looked for.
const WATCH_EVERY: Duration = Duration::from_millis(400);
/// Rounds between looking for rotated keys.
const KEYS_EVERY: u64 = 25;
/// Rounds between forgetting old revocations.
const PRUNE_EVERY: u64 = 2_000;

async fn watch(identity: Arc<Identity>) {
    let mut last = None;
    for round in 1u64.. {
        tokio::time::sleep(WATCH_EVERY).await;
        match identity.read(store::read_epoch).await {
            Ok(now) if last == Some(now) => {}
            Ok(now) => {
                last = Some(now);
                identity.distrust_caches();
            }
            Err(e) => {
                // Not knowing is as good as a change: answers must come from the database.
                tracing::warn!(error = e.chain(), "identity database");
                identity.distrust_caches();
            }
        }
        if round % KEYS_EVERY == 0
            && let Err(e) = identity.keys.reload()
        {
            tracing::warn!(error = e.chain(), "fernet keys");
        }
        if round % PRUNE_EVERY == 0 {
            let before = identity.env.now().minus(identity.token_ttl * 2).0;
            if let Err(e) = identity.db.write(move |tx| store::prune_revocations(tx, before)).await {
                tracing::warn!(error = e.chain(), "old revocations");
            }
        }
    }
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        Arc::new(self.api.clone())
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.api.operations().to_vec()
    }

    /// Checks tokens without a call over the network.
    pub fn validator(&self) -> Arc<dyn TokenValidator> {
        Arc::new(Validator(self.identity.clone()))
    }

    /// Tokens for a service's own user (`nova`, `neutron`, …) on the project `service`.
    pub fn token_source(&self, user_name: &str) -> Arc<dyn TokenSource> {
        Arc::new(ServiceTokens::new(self.identity.clone(), user_name))
    }

    /// Access keys, for S3 in the same process.
    pub fn keys(&self) -> Arc<Keys> {
        Arc::new(Keys(self.identity.clone()))
    }

    /// Makes what every cloud has; what is there already stays as it is.
    pub async fn bootstrap(&self, b: Bootstrap) -> Result<()> {
        bootstrap::run(&self.identity, b).await
    }

    /// Sets a user's password from outside the API (recovery). Old tokens of the user end.
    pub async fn set_password(&self, user_name: &str, password: &Secret<String>) -> Result<()> {
        bootstrap::set_password(&self.identity, user_name, password).await
    }

    /// Makes the staged Fernet key the signing one and stages a new one.
    pub fn rotate_keys(&self) -> Result<()> {
        self.identity.keys.rotate(&self.identity.env, self.identity.max_active_keys)
    }

    /// Ends background work.
    pub async fn stop(&self) {
        self.background.abort();
    }
}

/// Access keys (credentials of type `ec2`) and whom they stand for. Only for services in this process: a secret
/// never leaves it.
pub struct Keys(Arc<Identity>);

impl Keys {
    /// The secret of a key, and its user in its project as a token of now would say it. `None` when there is no such
    /// key, or it was made with a delegated token. Errors: `Unauthenticated` when its user or project may not be used.
    pub async fn ec2_key(&self, access: &str) -> Result<Option<(Secret<String>, Arc<Auth>)>> {
        let Some((secret, user, project)) = ec2_secret(&self.0, access).await? else { return Ok(None) };
        let (_, entry) = key_token(&self.0, user, project).await?;
        Ok(Some((secret, entry.auth.clone())))
    }
}

/// Rotates the Fernet keys in a data directory without a running service; running ones notice
/// within seconds.
pub fn rotate_keys(data_dir: &std::path::Path, env: &Env, max_active_keys: usize) -> Result<()> {
    KeyRepository::open(&data_dir.join("fernet-keys"), env)?.rotate(env, max_active_keys)
}
