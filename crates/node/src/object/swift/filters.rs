//! The options of a proxy's filters, by upstream's names and with upstream's defaults.

use super::{Common, Conf, Section};
use crate::object::embedded::s3_layer;
use caelum_base::{Result, Secret};
use caelum_object::auth::{AuthTokenOptions, KeystoneOptions, ServiceRoles, TempAuthOptions};
use caelum_object::middleware::cname_lookup::{CnameLookupOptions, Dns};
use caelum_object::middleware::crypto::Keymaster;
use caelum_object::middleware::digest::AllowedDigests;
use caelum_object::middleware::domain_remap::DomainRemapOptions;
use caelum_object::middleware::ratelimit::{RateLimitOptions, Rates};
use caelum_object::middleware::tempurl::{HeaderList, TempUrlOptions};
use caelum_object::middleware::{BulkConfig, NameCheckOptions, Pace, SloConfig};
use caelum_object::pipeline::{BeforeAuth, Filter, Options, VersionOptions};
use caelum_s3::{EventOptions, S3Options};
use http::Method;
use std::sync::Arc;

/// What the filters of a pipeline and the application's `/info` are set to. A filter that the proxy adds by itself has
/// the options of `[DEFAULT]`. Errors: `Invalid` naming file, section and option.
pub fn options(c: &Common, filters: &[(Filter, Section)], app: &Section) -> Result<Options> {
    let mut o = Options { versions: VersionOptions { versioned_writes: None, object_versioning: false }, ..Options::default() };
    o.info.hidden = !app.yes("expose_info", true);
    o.info.disallowed = app.list("disallowed_sections").unwrap_or_default();
    o.info.admin_key = app.given("admin_key").map(|k| Secret::new(k.to_string()));
    for (filter, s) in filters {
        set(c, &mut o, *filter, s)?;
    }
    Ok(o)
}

fn set(c: &Common, o: &mut Options, filter: Filter, s: &Section) -> Result<()> {
    match filter {
        Filter::CatchErrors => o.trans_id_suffix = s.str("trans_id_suffix", ""),
        Filter::Gatekeeper => {
            o.allow_reserved_names_header = s.yes("allow_reserved_names_header", false);
            o.keep_inbound_timestamps = !s.yes("shunt_inbound_x_timestamp", true);
        }
        Filter::HealthCheck => o.disable_path = s.given("disable_path").map(Into::into),
        Filter::CrossDomain => o.cross_domain_policy = s.get("cross_domain_policy").map(str::to_string),
        Filter::ListEndpoints => o.list_endpoints_path = s.given("list_endpoints_path").map(str::to_string),
        Filter::NameCheck | Filter::DomainRemap | Filter::CnameLookup => names(c, o, filter, s)?,
        Filter::EtagQuoter => o.etag_quoter = Some(s.yes("enable_by_default", false)),
        Filter::ContainerSync => {
            o.sync_realms = Some(c.swift_dir.join("container-sync-realms.conf"));
            o.sync_realms_only = !s.yes("allow_full_urls", true);
            o.sync_current = s.given("current").map(str::to_string);
        }
        Filter::TempUrl => o.tempurl = tempurl(s)?,
        Filter::FormPost => o.formpost_digests = AllowedDigests::parse(s.get("allowed_digests").unwrap_or_default())?,
        Filter::RateLimit => o.ratelimit = Some(ratelimit(s)?),
        Filter::ReadOnly => o.read_only = Some((s.yes("read_only", false), s.yes("allow_deletes", false))),
        Filter::AuthToken => o.authtoken = authtoken(s),
        Filter::KeystoneAuth => {
            o.keystone = KeystoneOptions::from_options(&s.options);
            o.ignore_overrides |= !s.yes("allow_overrides", true);
        }
        Filter::TempAuth => {
            o.tempauth = Some(TempAuthOptions::from_options(&s.options).map_err(|e| s.about(e))?);
            o.ignore_overrides |= !s.yes("allow_overrides", true);
        }
        Filter::StaticWeb => o.staticweb_url_base = s.given("url_base").map(str::to_string),
        Filter::Copy => o.copy_yield_frequency = s.seconds("yield_frequency", o.copy_yield_frequency)?,
        Filter::Bulk => o.bulk = bulk(s)?,
        Filter::Slo => o.slo = slo(s)?,
        Filter::Dlo => o.dlo_pace = pace(s)?,
        Filter::VersionedWrites => {
            let given = s.given("allow_versioned_writes").is_some();
            o.versions.versioned_writes = given.then(|| s.yes("allow_versioned_writes", false));
            o.versions.object_versioning = s.yes("allow_object_versioning", false);
        }
        Filter::Symlink => o.symloop_max = s.number("symloop_max", o.symloop_max)?,
        Filter::Keymaster => o.keymaster = Some(keymaster(s)?),
        Filter::Encryption => o.disable_encryption = s.yes("disable_encryption", false),
        // These have no options, or theirs concern logs and where the cache is.
        Filter::AccountQuotas | Filter::Cache | Filter::ContainerQuotas | Filter::ListingFormats | Filter::ProxyLogging | Filter::S3Api => {
        }
    }
    Ok(())
}

fn names(c: &Common, o: &mut Options, filter: Filter, s: &Section) -> Result<()> {
    match filter {
        Filter::NameCheck => {
            let d = NameCheckOptions::default();
            o.name_check = Some(NameCheckOptions {
                forbidden_chars: s.str("forbidden_chars", &d.forbidden_chars),
                maximum_length: s.number("maximum_length", d.maximum_length)?,
                forbidden_regexp: s.str("forbidden_regexp", &d.forbidden_regexp),
            });
        }
        Filter::DomainRemap => {
            let d = DomainRemapOptions::default();
            o.domain_remap = Some(DomainRemapOptions {
                storage_domain: s.str("storage_domain", &d.storage_domain),
                path_root: s.str("path_root", &d.path_root).trim_matches('/').to_string(),
                reseller_prefixes: s.list("reseller_prefixes").unwrap_or(d.reseller_prefixes),
                default_reseller_prefix: s.get("default_reseller_prefix").map(str::to_string),
                mangle_client_paths: s.yes("mangle_client_paths", false),
            });
        }
        _ => {
            let d = CnameLookupOptions::default();
            let options = CnameLookupOptions {
                storage_domain: s.str("storage_domain", &d.storage_domain),
                lookup_depth: s.number("lookup_depth", d.lookup_depth)?,
            };
            let system = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let resolver = Dns::new(&s.list("nameservers").unwrap_or_default(), &system, c.env.clone()).map_err(|e| s.about(e))?;
            o.cname_lookup = Some((options, Arc::new(resolver)));
        }
    }
    Ok(())
}

fn authtoken(s: &Section) -> AuthTokenOptions {
    let uri = s.given("www_authenticate_uri").or_else(|| s.given("auth_uri"));
    AuthTokenOptions {
        delay_auth_decision: s.yes("delay_auth_decision", false),
        www_authenticate_uri: uri.or_else(|| s.given("auth_url")).map(str::to_string),
        services: ServiceRoles {
            roles: s.list("service_token_roles").unwrap_or_else(|| ServiceRoles::default().roles),
            required: s.yes("service_token_roles_required", false),
        },
    }
}

fn tempurl(s: &Section) -> Result<TempUrlOptions> {
    let d = TempUrlOptions::default();
    let list = |key: &str, default: HeaderList| s.get(key).map_or(default, HeaderList::parse);
    let methods = match s.get("methods") {
        Some(text) => {
            let method = |m: &str| Method::from_bytes(m.as_bytes()).map_err(|_| s.bad("methods", "not a method"));
            text.split_whitespace().map(method).collect::<Result<_>>()?
        }
        None => d.methods,
    };
    Ok(TempUrlOptions {
        methods,
        incoming_remove_headers: list("incoming_remove_headers", d.incoming_remove_headers),
        incoming_allow_headers: list("incoming_allow_headers", d.incoming_allow_headers),
        outgoing_remove_headers: list("outgoing_remove_headers", d.outgoing_remove_headers),
        outgoing_allow_headers: list("outgoing_allow_headers", d.outgoing_allow_headers),
        allowed_digests: AllowedDigests::parse(s.get("allowed_digests").unwrap_or_default()).map_err(|e| s.about(e))?,
    })
}

fn bulk(s: &Section) -> Result<BulkConfig> {
    let d = BulkConfig::default();
    Ok(BulkConfig {
        max_containers_per_extraction: s.number("max_containers_per_extraction", d.max_containers_per_extraction)?,
        max_failed_extractions: s.number("max_failed_extractions", d.max_failed_extractions)?,
        max_deletes_per_request: s.number("max_deletes_per_request", d.max_deletes_per_request)?,
        max_failed_deletes: s.number("max_failed_deletes", d.max_failed_deletes)?,
        yield_frequency: s.seconds("yield_frequency", d.yield_frequency)?,
        delete_concurrency: s.number("delete_concurrency", d.delete_concurrency)?.clamp(1, 1_000),
    })
}

fn pace(s: &Section) -> Result<Pace> {
    let d = Pace::default();
    Ok(Pace {
        free: s.number("rate_limit_after_segment", d.free)?,
        per_second: s.number("rate_limit_segments_per_sec", d.per_second)?,
        max_time: s.seconds("max_get_time", d.max_time)?,
    })
}

fn slo(s: &Section) -> Result<SloConfig> {
    let d = SloConfig::default();
    Ok(SloConfig {
        max_manifest_segments: s.number("max_manifest_segments", d.max_manifest_segments)?,
        max_manifest_size: s.number("max_manifest_size", d.max_manifest_size)?,
        yield_frequency: s.seconds("yield_frequency", d.yield_frequency)?,
        allow_async_delete: s.yes("allow_async_delete", d.allow_async_delete),
        pace: pace(s)?,
        rate_limit_under_size: s.number("rate_limit_under_size", d.rate_limit_under_size)?,
        concurrency: s.number("concurrency", d.concurrency)?.clamp(1, 1_000),
    })
}

fn keymaster(s: &Section) -> Result<Arc<Keymaster>> {
    let file;
    let s = match s.given("keymaster_config_path") {
        Some(path) => {
            file = Conf::read(path.as_ref())?.section("keymaster")?;
            &file
        }
        None => s,
    };
    let pairs = s.options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    Keymaster::from_options(pairs).map(Arc::new).map_err(|e| s.about(e))
}

/// S3 with the keys of tempauth's users.
pub fn s3(s: &Section, o: &Options) -> Result<BeforeAuth> {
    let d = S3Options::default();
    let options = S3Options {
        region: s.str("location", "us-east-1"),
        storage_domains: s.list("storage_domain").unwrap_or_default(),
        dns_names: s.yes("dns_compliant_bucket_names", d.dns_names),
        max_listing: s.number("max_bucket_listing", d.max_listing)?,
        min_part_size: s.number("min_segment_size", d.min_part_size)?,
        max_parts: s.number("max_upload_part_num", d.max_parts)?,
        is_encrypted: o.keymaster.is_some() && !o.disable_encryption,
        events: events(s)?,
        ..d
    };
    Ok(s3_layer(Vec::new(), options))
}

/// Where events of buckets go: options of this program, which another Swift does not look at.
fn events(s: &Section) -> Result<EventOptions> {
    let webhooks = s.list("caelum_event_webhooks").unwrap_or_default();
    let (brokers, authorities) = (s.str("caelum_event_brokers", ""), s.str("caelum_event_authorities", ""));
    let spool = s.given("caelum_event_spool").map(std::path::PathBuf::from);
    // What is wrong is named without the value: brokers' URLs hold passwords.
    crate::object::events::events(&webhooks, &brokers, &authorities, spool).map_err(|e| s.about(e))
}

fn ratelimit(s: &Section) -> Result<RateLimitOptions> {
    let d = RateLimitOptions::default();
    let pairs = || s.options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    // Names of sizes only: `container_listing_ratelimit_…` begins otherwise.
    let sizes =
        |prefix: &'static str| pairs().filter(move |(k, _)| k.strip_prefix(prefix).is_some_and(|r| r.bytes().all(|b| b.is_ascii_digit())));
    Ok(RateLimitOptions {
        account_ratelimit: s.number("account_ratelimit", d.account_ratelimit)?,
        max_sleep_time_seconds: s.number("max_sleep_time_seconds", d.max_sleep_time_seconds)?,
        log_sleep_time_seconds: s.number("log_sleep_time_seconds", d.log_sleep_time_seconds)?,
        clock_accuracy: s.number("clock_accuracy", d.clock_accuracy)?,
        rate_buffer_seconds: s.number("rate_buffer_seconds", d.rate_buffer_seconds)?,
        account_whitelist: s.list("account_whitelist").unwrap_or_default(),
        account_blacklist: s.list("account_blacklist").unwrap_or_default(),
        container_ratelimits: Rates::from_options(sizes("container_ratelimit_"), "container_ratelimit_")?,
        container_listing_ratelimits: Rates::from_options(sizes("container_listing_ratelimit_"), "container_listing_ratelimit_")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(lines: &str) -> Section {
        Conf::parse("/x.conf".as_ref(), &format!("[filter:s3api]\nuse = egg:swift#s3api\n{lines}\n")).paste("filter:s3api").unwrap()
    }

    #[test]
    fn events_of_buckets() {
        let none = events(&section("")).unwrap();
        assert!(none.webhooks.is_none() && none.brokers.is_empty() && none.spool.is_none());
        let some = events(&section(
            "caelum_event_webhooks = hooks.example, 10.0.0.0/8\ncaelum_event_brokers = q = amqp://u:p%%40@h/v exchange key\ncaelum_event_spool = /s",
        ));
        let some = some.unwrap();
        assert!(some.webhooks.is_some() && some.brokers.contains_key("q") && some.spool == Some("/s".into()));
        for bad in ["caelum_event_webhooks = http://x", "caelum_event_brokers = q = amqp://u:hidden@"] {
            let e = events(&section(bad)).unwrap_err().message;
            assert!(e.starts_with("/x.conf [filter:s3api] ") && !e.contains("hidden"), "{e}");
        }
    }
}
