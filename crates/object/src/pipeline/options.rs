use crate::auth::{KeystoneOptions, TempAuthOptions};
use crate::middleware::cname_lookup::{CnameLookupOptions, Resolver};
use crate::middleware::crypto::Keymaster;
use crate::middleware::digest::AllowedDigests;
use crate::middleware::domain_remap::DomainRemapOptions;
use crate::middleware::ratelimit::RateLimitOptions;
use crate::middleware::tempurl::TempUrlOptions;
use crate::middleware::{BulkConfig, Pace, SloConfig};
use crate::middleware::{InfoOptions, NameCheckOptions};
use crate::proxy::ProxyOptions;
use caelum_swiftkit::SwiftConf;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// The release of Swift whose API this is. Clients choose by it what they may ask for.
const API_VERSION: &str = "2.38.0";

/// The options of every layer, upstream's defaults by default.
#[derive(Clone, Default)]
pub struct Options {
    pub proxy: ProxyOptions,
    pub info: InfoOptions,
    pub keystone: KeystoneOptions,
    pub tempauth: Option<TempAuthOptions>,
    pub trans_id_suffix: String,
    /// `/healthcheck` answers 503 while this file is there.
    pub disable_path: Option<PathBuf>,
    pub cross_domain_policy: Option<String>,
    /// `None`: names are not checked beyond what the store needs.
    pub name_check: Option<NameCheckOptions>,
    pub allow_reserved_names_header: bool,
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
    /// Objects are encrypted at rest with keys derived from its.
    pub keymaster: Option<Arc<Keymaster>>,
    pub disable_encryption: bool,
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
