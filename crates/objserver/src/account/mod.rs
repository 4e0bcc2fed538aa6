//! The account server: `/DEVICE/PARTITION/ACCOUNT[/CONTAINER]`. A path with a container is a container
//! server's report.

mod read;
mod write;

use crate::db::{
    Answer, DbServerConfig, Disks, Fail, MAX_DISK_WORK, Params, Resp, Target, blocking, push, read_body, rpc, set, status, text_reply,
    timestamp,
};
use caelum_broker::{AccountBroker, storage_directory};
use caelum_rest::{Body, HttpService};
use caelum_swiftkit::to_hex;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How an account server is set up.
pub type AccountServerConfig = DbServerConfig;

/// Serves the accounts of this node's devices.
#[derive(Clone)]
pub struct AccountServer(Arc<Inner>);

struct Inner {
    config: AccountServerConfig,
    disks: Disks,
    /// Bounds the threads that work on disks for this server.
    work: Arc<Semaphore>,
}

impl AccountServer {
    pub fn new(config: AccountServerConfig) -> Self {
        let disks = Disks { devices: config.devices.clone(), mount_check: config.mount_check, reserve: config.reserve };
        Self(Arc::new(Inner { disks, work: Arc::new(Semaphore::new(MAX_DISK_WORK)), config }))
    }

    pub fn service(self) -> Arc<dyn HttpService> {
        Arc::new(self)
    }
}

impl HttpService for AccountServer {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.serve(req).await.unwrap_or_else(|Fail(r)| *r) })
    }
}

impl Inner {
    async fn serve(self: Arc<Self>, req: Request<Body>) -> Answer {
        let (parts, body) = req.into_parts();
        let path = parts.uri.path().to_string();
        let parse = |max| Target::parse(&path, 3, max, "Invalid UTF8");
        match parts.method.as_str() {
            "REPLICATE" => {
                let target = parse(3)?;
                let body = read_body(body).await?;
                self.run(move |s| rpc::serve::<AccountBroker>(&s.disks, &s.config.pool, &target, &body)).await
            }
            "PUSH" => push::receive(self.disks.clone(), parse(3)?, body).await,
            "GET" | "HEAD" => {
                let target = parse(3)?;
                target.check_reserved()?;
                let params = Params::parse(&parts);
                self.run(move |s| read::get(s, &parts, &target, &params)).await
            }
            "PUT" => {
                let target = parse(4)?;
                target.check_reserved()?;
                self.run(move |s| write::put(s, &parts.headers, &target)).await
            }
            "DELETE" => {
                let target = parse(3)?;
                target.check_reserved()?;
                self.run(move |s| write::delete(s, &parts.headers, &target)).await
            }
            "POST" => {
                let target = parse(3)?;
                target.check_reserved()?;
                let at = timestamp(&parts.headers)?;
                self.run(move |s| write::post(s, &parts.headers, &target, at)).await
            }
            "OPTIONS" => Ok(crate::db::options("account-server", "DELETE, GET, HEAD, OPTIONS, POST, PUT, REPLICATE")),
            _ => Err(status(405).into()),
        }
    }

    async fn run<T: Send + 'static>(self: &Arc<Self>, f: impl FnOnce(&Self) -> Answer<T> + Send + 'static) -> Answer<T> {
        let inner = self.clone();
        blocking(self.work.clone(), move || f(&inner)).await
    }

    fn broker(&self, device: &Path, target: &Target) -> AccountBroker {
        let hash = to_hex(&self.config.swift.hash.account(&target.account));
        let dir = device.join(storage_directory(caelum_broker::ACCOUNT_DIR, &target.partition, &hash));
        AccountBroker::new(&self.config.pool, &dir.join(format!("{hash}.db")))
    }
}

/// An answer about an account that is gone: says whether it was deleted on request.
fn gone(broker: &AccountBroker, code: u16, body: &'static str) -> Answer<Resp> {
    let mut r = text_reply(code, "text/html; charset=utf-8", body);
    if broker.db().exists() && broker.get_info()?.is_status_deleted() {
        set(&mut r, "X-Account-Status", "Deleted");
    }
    Ok(r)
}
