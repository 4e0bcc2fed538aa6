//! Image (Glance v2): metadata, data, sharing, staging and imports.
//!
//! Invariants: the bytes of an active image never change and never appear under another id; an
//! image is active only after its bytes were inspected, hashed and made durable; a file in the data
//! directory is named by exactly one image row; `locations` and `direct_url` do not exist.
//!
//! On a crash: uploads under way are lost and their images queued again at the next start, accepted
//! imports are taken up again, files no row names are removed.

mod api;
mod imports;
mod logic;
mod store;
mod transfer;

use async_trait::async_trait;
use caelum_base::{Env, Result};
use caelum_rest::{Api, HttpService, OpInfo, TokenValidator};
use caelum_safeio::fetch::FetchPolicy;
use caelum_safeio::root::SafeRoot;
use caelum_store::{Db, Query, StoreUrl};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the image service needs from the node.
pub struct Deps {
    pub env: Env,
    pub store: StoreUrl,
    pub validator: Arc<dyn TokenValidator>,
    pub policy: BTreeMap<String, String>,
    pub auth_url: String,
    /// Holds the image files; used by one process at a time.
    pub dir: PathBuf,
    /// Largest image file in bytes; upstream's `image_size_cap` is 1 TiB.
    pub max_size: u64,
}

/// What an operator may also set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes one project may store; `None` is unlimited.
    pub project_quota_bytes: Option<u64>,
    /// What `web-download` may reach.
    pub fetch: FetchPolicy,
}

/// Upstream's limit for [`Deps::max_size`].
pub const IMAGE_SIZE_CAP_BYTES: u64 = 1 << 40;

/// Shared by the handlers.
pub(crate) struct State {
    pub db: Db,
    pub env: Env,
    pub root: SafeRoot,
    pub transfers: transfer::Transfers,
    pub image_size_max_bytes: u64,
    pub project_quota_bytes: Option<u64>,
    pub fetch: FetchPolicy,
}

/// The running image service.
pub struct Service {
    api: Api<State>,
    state: Arc<State>,
}

/// Image bytes for programs on the same host, without going through the API. Callers check for
/// themselves that the user may use the image.
#[async_trait]
pub trait ImageFiles: Send + Sync {
    /// Path of an active image's file. It is never written again; it may be linked or copied, and
    /// it goes away when the image is deleted.
    async fn local_path(&self, image_id: &str) -> Result<Option<PathBuf>>;
}

/// [`start_with`] default options.
pub async fn start(deps: Deps) -> Result<Service> {
    start_with(deps, Options::default()).await
}

/// Opens database and directory, clears what a crash left, takes up accepted imports.
pub async fn start_with(deps: Deps, options: Options) -> Result<Service> {
    let db = Db::open(&deps.store, "image", store::MIGRATIONS).await?;
    let root = SafeRoot::open(&deps.dir)?;
    root.create_dir(transfer::INCOMING)?;
    let state = Arc::new(State {
        db,
        env: deps.env.clone(),
        root,
        transfers: transfer::Transfers::new(),
        image_size_max_bytes: deps.max_size,
        project_quota_bytes: options.project_quota_bytes,
        fetch: options.fetch,
    });
    transfer::recover(&state).await?;
    imports::resume(&state).await?;
    let api = api::build(state.clone(), deps.env, deps.validator, deps.policy, deps.auth_url)?;
    Ok(Service { api, state })
}

impl Service {
    pub fn api(&self) -> Arc<dyn HttpService> {
        Arc::new(self.api.clone())
    }

    pub fn operations(&self) -> Vec<OpInfo> {
        self.api.operations().to_vec()
    }

    /// For programs on the same host.
    pub fn files(&self) -> Arc<dyn ImageFiles> {
        Arc::new(Files(self.state.clone()))
    }

    /// See [`ImageFiles::local_path`].
    pub async fn local_path(&self, image_id: &str) -> Result<Option<PathBuf>> {
        Files(self.state.clone()).local_path(image_id).await
    }

    /// The bytes of an active image, opened for reading, and their number.
    pub async fn open_data(&self, image_id: &str) -> Result<Option<(std::fs::File, u64)>> {
        let Some(image) = self.state.db.get::<store::Image>(image_id).await? else { return Ok(None) };
        let (Some(facts), Some(file)) = (&image.data, &image.file) else { return Ok(None) };
        Ok(Some((self.state.root.open_read(file)?, facts.size)))
    }

    /// Ends transfers and waits for them; imports go on after the next start.
    pub async fn stop(&self) {
        self.state.transfers.stop().await;
    }

    /// Compares files with rows: files no row names, and rows whose file is missing or has another
    /// length. `heal` removes the former; lost bytes cannot be healed and are only reported.
    pub async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        let strays = transfer::strays(&self.state, heal).await?;
        let mut out: Vec<String> = strays.iter().map(|f| format!("image: file {f} belongs to no image")).collect();
        for image in self.state.db.list::<store::Image>(Query::new()).await? {
            let (Some(facts), Some(file)) = (&image.data, &image.file) else { continue };
            match self.state.root.metadata(file) {
                Ok(m) if m.size == facts.size => {}
                Ok(m) => out.push(format!("image: {} should have {} bytes, its file has {}", image.id, facts.size, m.size)),
                Err(_) => out.push(format!("image: the file of {} is missing", image.id)),
            }
        }
        Ok(out)
    }
}

struct Files(Arc<State>);

#[async_trait]
impl ImageFiles for Files {
    async fn local_path(&self, image_id: &str) -> Result<Option<PathBuf>> {
        let image = self.0.db.get::<store::Image>(image_id).await?;
        let file = image.filter(|i| i.data.is_some()).and_then(|i| i.file.clone());
        file.map(|f| self.0.root.full_path(&f)).transpose()
    }
}
