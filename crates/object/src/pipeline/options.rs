use super::Filter;
use crate::auth::{AuthTokenOptions, KeystoneOptions, TempAuthOptions};
use crate::middleware::cname_lookup::{CnameLookupOptions, Resolver};
use crate::middleware::crypto::Keymaster;
use crate::middleware::digest::AllowedDigests;
use crate::middleware::domain_remap::DomainRemapOptions;
use crate::middleware::ratelimit::RateLimitOptions;
use crate::middleware::tempurl::TempUrlOptions;
use crate::middleware::{BulkConfig, Pace, SYMLOOP_MAX, SloConfig};
use crate::middleware::{InfoOptions, NameCheckOptions};
use crate::proxy::ProxyOptions;
use caelum_swiftkit::SwiftConf;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The release of Swift whose API this is. Clients choose by it what they may ask for.
const API_VERSION: &str = "2.38.0";

/// Which ways of keeping earlier contents there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionOptions {
    /// `allow_versioned_writes`; `None`: only for containers that were set up before that option existed.
    pub versioned_writes: Option<bool>,
    /// `allow_object_versioning`.
    pub object_versioning: bool,
}

impl Default for VersionOptions {
    fn default() -> Self {
        Self { versioned_writes: Some(true), object_versioning: true }
    }
}

/// The options of every layer, upstream's defaults by default.
#[derive(Clone)]
pub struct Options {
    /// The layers, outermost first; `None`: all of them ([`Filter::ALL`]).
    pub order: Option<Vec<Filter>>,
    pub proxy: ProxyOptions,
    pub info: InfoOptions,
    pub keystone: KeystoneOptions,
    pub authtoken: AuthTokenOptions,
    pub tempauth: Option<TempAuthOptions>,
    /// Layers before the authentication cannot settle who may do what (`allow_overrides = no`).
    pub ignore_overrides: bool,
    pub trans_id_suffix: String,
    /// `/healthcheck` answers 503 while this file is there.
    pub disable_path: Option<PathBuf>,
    pub cross_domain_policy: Option<String>,
    /// `None`: names are not checked beyond what the store needs.
    pub name_check: Option<NameCheckOptions>,
    pub allow_reserved_names_header: bool,
    /// Clients' `X-Timestamp` goes on as it is (`shunt_inbound_x_timestamp = no`).
    pub keep_inbound_timestamps: bool,
    /// Where places of data are asked for; `None`: `/endpoints/`.
    pub list_endpoints_path: Option<String>,
    pub bulk: BulkConfig,
    pub tempurl: TempUrlOptions,
    pub formpost_digests: AllowedDigests,
    /// `container-sync-realms.conf`; `None`: containers are kept in step by full URLs only.
    pub sync_realms: Option<PathBuf>,
    /// `//REALM/CLUSTER` of this cluster, for `/info`.
    pub sync_current: Option<String>,
    /// Containers may be kept in step within realms only, not with any URL (`allow_full_urls = no`).
    pub sync_realms_only: bool,
    /// `None`: requests are not slowed down.
    pub ratelimit: Option<RateLimitOptions>,
    /// No writes: to the whole cluster, and whether deletes are allowed all the same. `None`: accounts cannot be made
    /// read-only either.
    pub read_only: Option<(bool, bool)>,
    /// Accounts and containers in the host's name.
    pub domain_remap: Option<DomainRemapOptions>,
    /// Customers' domains, and who looks them up.
    pub cname_lookup: Option<(CnameLookupOptions, Arc<dyn Resolver>)>,
    /// Scheme and host of redirects to static web sites.
    pub staticweb_url_base: Option<String>,
    /// ETags are quoted unless an account or container says otherwise; `None`: never.
    pub etag_quoter: Option<bool>,
    pub slo: SloConfig,
    pub dlo_pace: Pace,
    pub versions: VersionOptions,
    /// Links from link to link, at most.
    pub symloop_max: usize,
    /// Between two blanks that keep a slow copy's answer alive.
    pub copy_yield_frequency: Duration,
    /// Objects are encrypted at rest with keys derived from its.
    pub keymaster: Option<Arc<Keymaster>>,
    pub disable_encryption: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            order: None,
            proxy: ProxyOptions::default(),
            info: InfoOptions::default(),
            keystone: KeystoneOptions::default(),
            authtoken: AuthTokenOptions::default(),
            tempauth: None,
            ignore_overrides: false,
            trans_id_suffix: String::new(),
            disable_path: None,
            cross_domain_policy: None,
            name_check: None,
            allow_reserved_names_header: false,
            keep_inbound_timestamps: false,
            list_endpoints_path: None,
            bulk: BulkConfig::default(),
            tempurl: TempUrlOptions::default(),
            formpost_digests: AllowedDigests::default(),
            sync_realms: None,
            sync_current: None,
            sync_realms_only: false,
            ratelimit: None,
            read_only: None,
            domain_remap: None,
            cname_lookup: None,
            staticweb_url_base: None,
            etag_quoter: None,
            slo: SloConfig::default(),
            dlo_pace: Pace::default(),
            versions: VersionOptions::default(),
            symloop_max: SYMLOOP_MAX,
            copy_yield_frequency: Duration::from_secs(10),
            keymaster: None,
            disable_encryption: false,
        }
    }
}

impl Options {
    /// The section `swift` of `/info`.
    pub fn swift_section(&self, swift: &SwiftConf) -> Value {
        let (p, l) = (&self.proxy, &self.proxy.limits);
        let policies: Vec<Value> = swift
            .policies
            .iter()
            .filter(|p| !p.is_deprecated)
            .map(|p| {
                let names: Vec<&str> = std::iter::once(p.name.as_str()).chain(p.aliases.iter().map(String::as_str)).collect();
                match p.is_default {
                    true => json!({"name": p.name, "aliases": names.join(", "), "default": true}),
                    false => json!({"name": p.name, "aliases": names.join(", ")}),
                }
            })
            .collect();
        json!({
            "version": API_VERSION,
            "strict_cors_mode": p.strict_cors_mode,
            "policies": policies,
            "allow_account_management": p.allow_account_management,
            "account_autocreate": p.account_autocreate,
            "allow_open_expired": p.allow_open_expired,
            "max_file_size": l.max_file_size,
            "max_meta_name_length": l.max_meta_name_length,
            "max_meta_value_length": l.max_meta_value_length,
            "max_meta_count": l.max_meta_count,
            "max_meta_overall_size": l.max_meta_overall_size,
            "max_header_size": l.max_header_size,
            "max_request_line": caelum_base::limits::MAX_LINE_BYTES,
            "max_object_name_length": l.max_object_name_length,
            "container_listing_limit": l.container_listing_limit,
            "account_listing_limit": l.account_listing_limit,
            "max_account_name_length": l.max_account_name_length,
            "max_container_name_length": l.max_container_name_length,
            "extra_header_count": 0,
        })
    }
}
