//! The proxy's own knowledge of accounts and containers, from its cache or the servers.

use super::Proxy;
use super::backend::{Core, is_success};
use super::getter::{Getter, Kind, Wanted};
use super::info::{AccountInfo, ContainerInfo, InfoSource, ObjectInfo};
use super::request::own_headers;
use super::state::container_key;
use crate::env::{Environ, Resp, quote};
use crate::http::text;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use std::sync::Arc;
use std::time::Duration;

impl Core {
    async fn head(self: &Arc<Self>, environ: &Environ, account: &str, container: Option<&str>) -> Resp {
        let (kind, ring, hash, entity) = match container {
            None => (Kind::Account, self.rings.account(), self.swift.hash.account(account), format!("/{}", quote(account))),
            Some(c) => {
                // A container's name holds no slash, so `quote` suits it.
                let entity = format!("/{}/{}", quote(account), quote(c));
                (Kind::Container, self.rings.container(), self.swift.hash.container(account, c), entity)
            }
        };
        let headers = own_headers(self, environ);
        let wanted = Wanted { kind, method: Method::HEAD, part: ring.partition(&hash), entity, headers, policy: None };
        Getter::new(self, &ring, wanted).respond().await
    }

    /// How long an answer about an account or container is believed. `None`: not at all.
    fn ttl(status: u16, usual: Duration) -> Option<Duration> {
        match status {
            404 | 410 => Some(usual / 10),
            s if is_success(s) => Some(usual),
            _ => None,
        }
    }

    fn account_facts(&self, status: u16, headers: &HeaderMap) -> AccountInfo {
        AccountInfo::from_headers(status, headers, self.swift.policies.iter().map(|p| (p.index, p.name.as_str())))
    }

    /// What becomes of an account's 404: 410 for a deleted one, success for one that its first write makes.
    pub(crate) fn absent_account(&self, headers: &HeaderMap) -> u16 {
        if text(headers, "x-account-status").is_some_and(|s| s.eq_ignore_ascii_case("deleted")) {
            410
        } else if self.options.account_autocreate {
            200
        } else {
            404
        }
    }

    /// Remembers what a server said of an account.
    pub(crate) async fn learn_account(&self, account: &str, moment: u64, status: u16, headers: &HeaderMap) -> Arc<AccountInfo> {
        let info = match status {
            404 if self.absent_account(headers) == 200 => AccountInfo::absent(200),
            404 => AccountInfo::absent(self.absent_account(headers)),
            s => self.account_facts(s, headers),
        };
        let info = Arc::new(info);
        if let Some(ttl) = Self::ttl(info.status, self.options.recheck_account_existence).filter(|_| moment == self.infos.moment()) {
            self.infos.accounts.set(account, info.clone(), self.infos.local_ttl(ttl));
            self.infos.share_account(account, &info, ttl).await;
        }
        info
    }

    pub(crate) async fn account_info(self: &Arc<Self>, environ: &Environ, account: &str) -> Arc<AccountInfo> {
        if let Some(known) = self.infos.accounts.get(account) {
            return known;
        }
        if let Some(known) = self.infos.shared_account(account).await {
            let known = Arc::new(known);
            self.infos.accounts.set(account, known.clone(), self.infos.local_ttl(Duration::MAX));
            return known;
        }
        let moment = self.infos.moment();
        let resp = self.head(environ, account, None).await;
        let status = resp.status().as_u16();
        let info = self.learn_account(account, moment, status, resp.headers()).await;
        if Self::ttl(info.status, Duration::ZERO).is_some() { info } else { Arc::new(AccountInfo::absent(503)) }
    }

    /// Remembers what a server said of a container.
    pub(crate) async fn learn_container(
        self: &Arc<Self>,
        environ: &Environ,
        account: &str,
        container: &str,
        moment: u64,
        status: u16,
        headers: &HeaderMap,
    ) -> Arc<ContainerInfo> {
        let Some(ttl) = Self::ttl(status, self.options.recheck_container_existence) else {
            return Arc::new(ContainerInfo::absent(503));
        };
        let info = ContainerInfo::from_headers(status, headers);
        let ttl = if moment == self.infos.moment() { ttl } else { Duration::ZERO };
        if !ttl.is_zero() {
            self.infos.share_container(account, container, &info, ttl).await;
        }
        self.keep_container(environ, account, container, info, ttl).await
    }

    /// Adds what the container's old versions take, and keeps the facts.
    async fn keep_container(
        self: &Arc<Self>,
        environ: &Environ,
        account: &str,
        container: &str,
        mut info: ContainerInfo,
        ttl: Duration,
    ) -> Arc<ContainerInfo> {
        if let Some(versions) = info.sysmeta("versions-container") {
            let name = percent_encoding::percent_decode_str(versions).decode_utf8_lossy().into_owned();
            let name = name.split('/').next().unwrap_or_default();
            if name != container && !name.is_empty() {
                info.bytes += self.container_info_boxed(environ, account, name).await.bytes;
            }
        }
        let info = Arc::new(info);
        self.infos.containers.set(&container_key(account, container), info.clone(), self.infos.local_ttl(ttl));
        info
    }

    fn container_info_boxed<'a>(
        self: &'a Arc<Self>,
        environ: &'a Environ,
        account: &'a str,
        container: &'a str,
    ) -> BoxFuture<'a, Arc<ContainerInfo>> {
        Box::pin(self.container_info(environ, account, container))
    }

    pub(crate) async fn container_info(self: &Arc<Self>, environ: &Environ, account: &str, container: &str) -> Arc<ContainerInfo> {
        if let Some(known) = self.infos.containers.get(&container_key(account, container)) {
            return known;
        }
        if let Some(known) = self.infos.shared_container(account, container).await {
            return self.keep_container(environ, account, container, known, Duration::MAX).await;
        }
        if !account.starts_with(&self.options.auto_create_account_prefix) {
            let of = self.account_info(environ, account).await;
            if !of.exists() {
                return Arc::new(ContainerInfo::absent(if of.status == 503 { 503 } else { 0 }));
            }
        }
        let moment = self.infos.moment();
        let resp = self.head(environ, account, Some(container)).await;
        self.learn_container(environ, account, container, moment, resp.status().as_u16(), resp.headers()).await
    }
}

#[async_trait]
impl InfoSource for Proxy {
    async fn account_info(&self, environ: &Environ, account: &str) -> Arc<AccountInfo> {
        self.core.account_info(environ, account).await
    }

    async fn container_info(&self, environ: &Environ, account: &str, container: &str) -> Arc<ContainerInfo> {
        self.core.container_info(environ, account, container).await
    }

    async fn object_info(&self, environ: &Environ, account: &str, container: &str, object: &str) -> Arc<ObjectInfo> {
        let path = format!("/v1/{}/{}/{}", quote(account), quote(container), quote(object));
        let mut req = http::Request::new(caelum_rest::empty());
        *req.method_mut() = Method::HEAD;
        let Ok(uri) = path.parse() else { return Arc::new(ObjectInfo { status: 404, ..ObjectInfo::default() }) };
        *req.uri_mut() = uri;
        req.extensions_mut().insert(super::preauthorized(environ, "GET_OBJECT_INFO"));
        let resp = caelum_rest::HttpService::call(self, req).await;
        Arc::new(ObjectInfo::from_headers(resp.status().as_u16(), resp.headers()))
    }

    fn forget(&self, account: &str, container: Option<&str>) {
        self.core.infos.forget_soon(account, container);
    }
}
