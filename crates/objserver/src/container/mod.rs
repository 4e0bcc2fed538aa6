//! The container server: `/DEVICE/PARTITION/ACCOUNT/CONTAINER[/OBJECT]`.
//!
//! All state is in the container's database. Reports of objects arriving at the same time for one
//! container are written together.

mod objects;
mod pages;
mod read;
mod write;

use crate::db::{
    Answer, DbServerConfig, Disks, Fail, MAX_DISK_WORK, Params, Resp, SyncRealms, Target, bad_request, blocking, push, read_body, rpc,
    status, timestamp,
};
use caelum_broker::{ContainerBroker, storage_directory};
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::to_hex;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use objects::Coalescer;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How a container server is set up.
pub type ContainerServerConfig = DbServerConfig;

/// Serves the containers of this node's devices.
#[derive(Clone)]
pub struct ContainerServer(Arc<Inner>);

struct Inner {
    config: ContainerServerConfig,
    disks: Disks,
    realms: SyncRealms,
    /// Bounds the threads that work on disks for this server.
    work: Arc<Semaphore>,
    coalescer: Coalescer,
    pages: pages::Pages,
}

/// Headers kept as metadata beside `X-Container-Meta-…` and `X-Container-Sysmeta-…`.
const SAVED: [&str; 4] = ["x-container-read", "x-container-write", "x-container-sync-key", "x-container-sync-to"];
/// Accounts that come into being by being used.
const AUTO_CREATE: &str = ".";
/// … except those of shards, which the sharder makes.
const SHARDS: &str = ".shards_";

fn is_saved(name: &str) -> bool {
    SAVED.contains(&name.to_ascii_lowercase().as_str()) || crate::db::is_meta("container", name)
}

impl ContainerServer {
    pub fn new(config: ContainerServerConfig) -> Self {
        let disks = Disks { devices: config.devices.clone(), mount_check: config.mount_check, reserve: config.reserve };
        Self(Arc::new(Inner {
            disks,
            realms: SyncRealms::parse(&config.sync_realms),
            work: Arc::new(Semaphore::new(MAX_DISK_WORK)),
            coalescer: Coalescer::default(),
            pages: pages::Pages::default(),
            config,
        }))
    }

    pub fn service(self) -> Arc<dyn HttpService> {
        Arc::new(self)
    }
}

impl HttpService for ContainerServer {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.serve(req).await.unwrap_or_else(|Fail(r)| *r) })
    }
}

const UTF8_TEXT: &str = "Invalid UTF8 or contains NULL";

impl Inner {
    async fn serve(self: Arc<Self>, req: Request<Body>) -> Answer {
        let (parts, body) = req.into_parts();
        let path = parts.uri.path().to_string();
        let parse = |min, max| Target::parse(&path, min, max, UTF8_TEXT);
        match parts.method.as_str() {
            "REPLICATE" => {
                let target = parse(3, 3)?;
                let body = read_body(body).await?;
                self.run(move |s| rpc::serve::<ContainerBroker>(&s.disks, &s.config.pool, &target, &body)).await
            }
            "PUSH" => push::receive(self.disks.clone(), parse(3, 3)?, body).await,
            "GET" | "HEAD" => {
                let target = parse(4, 5)?;
                target.check_reserved()?;
                let params = Params::parse(&parts);
                self.run(move |s| read::get(s, &parts, &target, &params)).await
            }
            "PUT" | "DELETE" => {
                let target = parse(4, 5)?;
                target.check_reserved()?;
                let at = timestamp(&parts.headers)?;
                if target.object.is_some() {
                    objects::report(self, parts, target, at).await
                } else {
                    write::put_or_delete(self, parts, target, at, body).await
                }
            }
            "POST" => {
                let target = parse(4, 4)?;
                target.check_reserved()?;
                let at = timestamp(&parts.headers)?;
                self.run(move |s| write::post(s, &parts.headers, &target, at)).await
            }
            "UPDATE" => {
                let target = parse(4, 4)?;
                target.check_reserved()?;
                let at = timestamp(&parts.headers)?;
                let body = read_body(body).await?;
                self.run(move |s| write::update(s, &parts.headers, &target, at, &body)).await
            }
            "OPTIONS" => Ok(crate::db::options("container-server", "DELETE, GET, HEAD, OPTIONS, POST, PUT, REPLICATE, UPDATE")),
            _ => Err(status(405).into()),
        }
    }

    /// Runs disk work on a thread of its own, a bounded number at a time.
    async fn run<T: Send + 'static>(self: &Arc<Self>, f: impl FnOnce(&Self) -> Answer<T> + Send + 'static) -> Answer<T> {
        let inner = self.clone();
        blocking(self.work.clone(), move || f(&inner)).await
    }

    fn db_path(&self, device: &std::path::Path, target: &Target) -> PathBuf {
        let container = target.container.as_deref().unwrap_or_default();
        let hash = to_hex(&self.config.swift.hash.container(&target.account, container));
        device.join(storage_directory(caelum_broker::CONTAINER_DIR, &target.partition, &hash)).join(format!("{hash}.db"))
    }

    fn broker(&self, device: &std::path::Path, target: &Target) -> Answer<ContainerBroker> {
        Ok(ContainerBroker::new(&self.config.pool, &self.db_path(device, target))?)
    }

    /// `X-Backend-Storage-Policy-Index`. Errors: 400 for one that is not declared.
    fn policy_index(&self, headers: &http::HeaderMap) -> Answer<Option<i64>> {
        const NAME: &str = "X-Backend-Storage-Policy-Index";
        let Some(text) = crate::db::header(headers, NAME) else { return Ok(None) };
        match text.trim().parse::<u32>().ok().and_then(|i| self.config.swift.policies.get(i)) {
            Some(policy) => Ok(Some(i64::from(policy.index))),
            // Upstream shows a number as such and anything else quoted.
            None if text.trim().parse::<i64>().is_ok() => Err(bad_request(format!("Invalid {NAME} {}", text.trim()))),
            None => Err(bad_request(format!("Invalid {NAME} '{text}'"))),
        }
    }
}

/// An answer whose text is the standard one.
fn answer(code: u16) -> Resp {
    status(code)
}
