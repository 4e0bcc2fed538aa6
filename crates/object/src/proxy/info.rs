//! What layers may know of accounts and containers without making a request of their own.
//!
//! A layer keeps an `Arc<dyn InfoSource>` (the [`super::Proxy`] is one) and asks it. Answers come from a
//! bounded cache or from the storage servers. Asking bypasses authorization: knowing does not mean that the
//! caller may. Source: Swift's documentation, `development_middleware` and `proxy.controllers.base`.

use crate::env::Environ;
use async_trait::async_trait;
use http::HeaderMap;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, RwLock};

/// Header values by name: lower case, without the prefix (`x-container-meta-`, `x-container-sysmeta-` …).
pub type Meta = BTreeMap<String, String>;

/// A container's CORS settings (`X-Container-Meta-Access-Control-*`).
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Cors {
    pub allow_origin: Option<String>,
    pub expose_headers: Option<String>,
    pub max_age: Option<String>,
}

/// Facts about a container.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ContainerInfo {
    /// 2xx: it exists. 404 or 410: it does not. 0: its account does not exist or the path is not a
    /// container's. 503: nobody could tell.
    pub status: u16,
    pub read_acl: Option<String>,
    pub write_acl: Option<String>,
    pub sync_to: Option<String>,
    pub sync_key: Option<String>,
    pub object_count: u64,
    /// Bytes used, those of its versions container included.
    pub bytes: u64,
    /// `X-Versions-Location`.
    pub versions: Option<String>,
    pub storage_policy: u32,
    pub cors: Cors,
    pub meta: Meta,
    pub sysmeta: Meta,
    /// `unsharded`, `sharding`, `sharded`, `collapsed`.
    pub sharding_state: String,
    pub created_at: Option<String>,
    pub put_timestamp: Option<String>,
    pub delete_timestamp: Option<String>,
    pub status_changed_at: Option<String>,
}

/// What an account holds in one storage policy.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PolicyUsage {
    pub container_count: u64,
    pub object_count: u64,
    pub bytes: u64,
}

/// Facts about an account.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccountInfo {
    /// As [`ContainerInfo::status`]; 2xx also for an account that will be made by its first write.
    pub status: u16,
    /// False for an account that would be made by its first write.
    pub really_exists: bool,
    pub container_count: u64,
    pub total_object_count: u64,
    pub bytes: u64,
    /// By policy index; policies in which the account holds nothing may be absent.
    pub storage_policies: BTreeMap<u32, PolicyUsage>,
    pub meta: Meta,
    pub sysmeta: Meta,
}

/// Facts about an object, from a HEAD.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    pub status: u16,
    pub length: u64,
    pub content_type: Option<String>,
    /// Without quotes.
    pub etag: Option<String>,
    pub meta: Meta,
    pub sysmeta: Meta,
    pub transient_sysmeta: Meta,
}

fn success(status: u16) -> bool {
    (200..300).contains(&status)
}

impl ContainerInfo {
    pub fn exists(&self) -> bool {
        success(self.status)
    }

    /// Of a container that does not exist.
    pub fn absent(status: u16) -> Self {
        Self { status, sharding_state: "unsharded".into(), ..Self::default() }
    }

    /// `X-Container-Meta-<name>`; empty values count as absent.
    pub fn meta(&self, name: &str) -> Option<&str> {
        value(&self.meta, name)
    }

    /// `X-Container-Sysmeta-<name>`; empty values count as absent.
    pub fn sysmeta(&self, name: &str) -> Option<&str> {
        value(&self.sysmeta, name)
    }

    /// `X-Container-Meta-Quota-Bytes`; `None` when unset or not a number.
    pub fn quota_bytes(&self) -> Option<u64> {
        self.meta("quota-bytes")?.parse().ok()
    }

    /// `X-Container-Meta-Quota-Count`.
    pub fn quota_count(&self) -> Option<u64> {
        self.meta("quota-count")?.parse().ok()
    }

    /// From the response to a HEAD of the container.
    pub fn from_headers(status: u16, headers: &HeaderMap) -> Self {
        let (meta, sysmeta) = (prefixed(headers, "x-container-meta-"), prefixed(headers, "x-container-sysmeta-"));
        let get = |name: &str| text(headers, name);
        let cors = |name: &str| meta.get(name).cloned();
        Self {
            status,
            read_acl: get("x-container-read"),
            write_acl: get("x-container-write"),
            sync_to: get("x-container-sync-to"),
            sync_key: get("x-container-sync-key"),
            object_count: number(headers, "x-container-object-count"),
            bytes: number(headers, "x-container-bytes-used"),
            versions: get("x-versions-location"),
            storage_policy: u32::try_from(number(headers, "x-backend-storage-policy-index")).unwrap_or(0),
            cors: Cors {
                allow_origin: cors("access-control-allow-origin"),
                expose_headers: cors("access-control-expose-headers"),
                max_age: cors("access-control-max-age"),
            },
            sharding_state: get("x-backend-sharding-state").unwrap_or_else(|| "unsharded".into()),
            created_at: get("x-backend-timestamp"),
            put_timestamp: get("x-backend-put-timestamp"),
            delete_timestamp: get("x-backend-delete-timestamp"),
            status_changed_at: get("x-backend-status-changed-at"),
            meta,
            sysmeta,
        }
    }
}

impl AccountInfo {
    pub fn exists(&self) -> bool {
        success(self.status)
    }

    /// Of an account that does not exist.
    pub fn absent(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// `X-Account-Meta-<name>`; empty values count as absent.
    pub fn meta(&self, name: &str) -> Option<&str> {
        value(&self.meta, name)
    }

    /// `X-Account-Sysmeta-<name>`; empty values count as absent.
    pub fn sysmeta(&self, name: &str) -> Option<&str> {
        value(&self.sysmeta, name)
    }

    /// From the response to a HEAD of the account; `policies` are the cluster's, by index and name.
    pub fn from_headers<'a>(status: u16, headers: &HeaderMap, policies: impl Iterator<Item = (u32, &'a str)>) -> Self {
        let usage = |name: &str| {
            let of = |what: &str| number(headers, &format!("x-account-storage-policy-{}-{what}", name.to_ascii_lowercase()));
            PolicyUsage { container_count: of("container-count"), object_count: of("object-count"), bytes: of("bytes-used") }
        };
        let fake = text(headers, "x-backend-fake-account-listing").is_some_and(|v| v.eq_ignore_ascii_case("yes"));
        Self {
            status,
            really_exists: success(status) && !fake,
            container_count: number(headers, "x-account-container-count"),
            total_object_count: number(headers, "x-account-object-count"),
            bytes: number(headers, "x-account-bytes-used"),
            storage_policies: policies.map(|(i, name)| (i, usage(name))).filter(|(_, u)| *u != PolicyUsage::default()).collect(),
            meta: prefixed(headers, "x-account-meta-"),
            sysmeta: prefixed(headers, "x-account-sysmeta-"),
        }
    }
}

impl ObjectInfo {
    pub fn exists(&self) -> bool {
        success(self.status)
    }

    /// From the response to a HEAD of the object.
    pub fn from_headers(status: u16, headers: &HeaderMap) -> Self {
        Self {
            status,
            length: number(headers, "content-length"),
            content_type: text(headers, "content-type"),
            etag: text(headers, "etag").map(|e| e.trim_matches('"').to_string()),
            meta: prefixed(headers, "x-object-meta-"),
            sysmeta: prefixed(headers, "x-object-sysmeta-"),
            transient_sysmeta: prefixed(headers, "x-object-transient-sysmeta-"),
        }
    }
}

// Values may be secrets (sync keys, temp URL keys): only names are shown.
fn show(f: &mut fmt::Formatter<'_>, what: &str, status: u16, meta: &Meta, sysmeta: &Meta) -> fmt::Result {
    let names = |m: &Meta| m.keys().cloned().collect::<Vec<_>>();
    f.debug_struct(what).field("status", &status).field("meta", &names(meta)).field("sysmeta", &names(sysmeta)).finish_non_exhaustive()
}

impl fmt::Debug for ContainerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, "ContainerInfo", self.status, &self.meta, &self.sysmeta)
    }
}

impl fmt::Debug for AccountInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, "AccountInfo", self.status, &self.meta, &self.sysmeta)
    }
}

impl fmt::Debug for ObjectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, "ObjectInfo", self.status, &self.meta, &self.sysmeta)
    }
}

fn value<'a>(meta: &'a Meta, name: &str) -> Option<&'a str> {
    meta.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

fn prefixed(headers: &HeaderMap, prefix: &str) -> Meta {
    let pairs = headers.iter().filter_map(|(k, v)| Some((k.as_str().strip_prefix(prefix)?, v)));
    pairs.map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

/// Where layers learn about accounts and containers. Names are decoded.
#[async_trait]
pub trait InfoSource: Send + Sync {
    async fn account_info(&self, environ: &Environ, account: &str) -> Arc<AccountInfo>;

    async fn container_info(&self, environ: &Environ, account: &str, container: &str) -> Arc<ContainerInfo>;

    /// An object as a HEAD sees it (never cached).
    async fn object_info(&self, environ: &Environ, account: &str, container: &str, object: &str) -> Arc<ObjectInfo>;

    /// Forgets what is cached of an account, or of one of its containers, after a write that did not pass
    /// through this proxy's own controllers.
    fn forget(&self, account: &str, container: Option<&str>);
}

/// Asks `source` about a container.
pub async fn container_info(source: &dyn InfoSource, environ: &Environ, account: &str, container: &str) -> Arc<ContainerInfo> {
    source.container_info(environ, account, container).await
}

/// Asks `source` about an account.
pub async fn account_info(source: &dyn InfoSource, environ: &Environ, account: &str) -> Arc<AccountInfo> {
    source.account_info(environ, account).await
}

/// An [`InfoSource`] that knows what it was told: for tests of layers. Unknown names are 404.
#[derive(Default)]
pub struct FixedInfo {
    accounts: RwLock<HashMap<String, Arc<AccountInfo>>>,
    containers: RwLock<HashMap<(String, String), Arc<ContainerInfo>>>,
    objects: RwLock<HashMap<(String, String, String), Arc<ObjectInfo>>>,
}

impl FixedInfo {
    pub fn set_account(&self, account: &str, info: AccountInfo) {
        self.accounts.write().expect("no holder of this lock panics").insert(account.into(), Arc::new(info));
    }

    pub fn set_container(&self, account: &str, container: &str, info: ContainerInfo) {
        let key = (account.into(), container.into());
        self.containers.write().expect("no holder of this lock panics").insert(key, Arc::new(info));
    }

    pub fn set_object(&self, account: &str, container: &str, object: &str, info: ObjectInfo) {
        let key = (account.into(), container.into(), object.into());
        self.objects.write().expect("no holder of this lock panics").insert(key, Arc::new(info));
    }
}

#[async_trait]
impl InfoSource for FixedInfo {
    async fn account_info(&self, _: &Environ, account: &str) -> Arc<AccountInfo> {
        let known = self.accounts.read().expect("no holder of this lock panics").get(account).cloned();
        known.unwrap_or_else(|| Arc::new(AccountInfo::absent(404)))
    }

    async fn container_info(&self, _: &Environ, account: &str, container: &str) -> Arc<ContainerInfo> {
        let key = (account.to_string(), container.to_string());
        let known = self.containers.read().expect("no holder of this lock panics").get(&key).cloned();
        known.unwrap_or_else(|| Arc::new(ContainerInfo::absent(404)))
    }

    async fn object_info(&self, _: &Environ, account: &str, container: &str, object: &str) -> Arc<ObjectInfo> {
        let key = (account.to_string(), container.to_string(), object.to_string());
        let known = self.objects.read().expect("no holder of this lock panics").get(&key).cloned();
        known.unwrap_or_else(|| Arc::new(ObjectInfo { status: 404, ..ObjectInfo::default() }))
    }

    fn forget(&self, _: &str, _: Option<&str>) {}
}
