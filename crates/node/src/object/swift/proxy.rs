use super::tokens::RemoteTokens;
use super::{Common, Conf, Section};
use crate::object::embedded::s3_layer;
use caelum_base::{Error, Result, Secret};
use caelum_object::auth::{KeystoneOptions, TempAuthOptions};
use caelum_object::middleware::crypto::Keymaster;
use caelum_object::middleware::digest::AllowedDigests;
use caelum_object::middleware::ratelimit::{RateLimitOptions, Rates};
use caelum_object::pipeline::{self, BeforeAuth, Options, Service};
use caelum_object::proxy::{Affinity, Cache, Count, Memcache, PolicyOptions, ProxyOptions, Sorting};
use caelum_rest::{HttpService, TokenValidator};
use caelum_s3::S3Options;
use std::sync::Arc;

/// The proxy's pipeline as `proxy-server.conf` describes it. Its order is fixed; filters that the file does not name
/// keep their defaults, and those that have to be asked for (tempauth, authtoken, ratelimit, encryption) are off.
pub fn start(c: &Common) -> Result<Arc<dyn HttpService>> {
    Ok(service(c)?.api())
}

pub fn service(c: &Common) -> Result<Service> {
    let validator: Option<Arc<dyn TokenValidator>> = match c.conf.filter("authtoken") {
        Some(s) if in_pipeline(&c.conf, "authtoken") => Some(Arc::new(RemoteTokens::new(&s)?)),
        _ => None,
    };
    let options = options(c)?;
    let s3 = c.conf.filter("s3api").filter(|_| in_pipeline(&c.conf, "s3api")).map(|s| s3(&s, &options)).transpose()?;
    if validator.is_none() && options.tempauth.is_none() {
        tracing::warn!("neither tempauth nor authtoken is in the pipeline: only what is open to all can be reached");
    }
    pipeline::start(pipeline::Deps {
        env: c.env.clone(),
        rings: c.rings.clone(),
        nodes: c.nodes.clone(),
        swift: c.swift.clone(),
        cache: cache(c),
        validator,
        options,
        before_auth: s3,
    })
}

/// S3 with the keys of tempauth's users.
fn s3(s: &Section, o: &Options) -> Result<BeforeAuth> {
    let d = S3Options::default();
    let options = S3Options {
        region: s.str("location", "us-east-1"),
        storage_domains: s.list("storage_domain").unwrap_or_default(),
        dns_names: s.yes("dns_compliant_bucket_names", d.dns_names),
        max_listing: s.number("max_bucket_listing", d.max_listing)?,
        min_part_size: s.number("min_segment_size", d.min_part_size)?,
        max_parts: s.number("max_upload_part_num", d.max_parts)?,
        is_encrypted: o.keymaster.is_some() && !o.disable_encryption,
        ..d
    };
    Ok(s3_layer(Vec::new(), options))
}

fn in_pipeline(conf: &Conf, filter: &str) -> bool {
    conf.section("pipeline:main").get("pipeline").is_some_and(|p| p.split_whitespace().any(|f| f == filter))
}

/// The memcached servers of `[filter:cache]` or `memcache.conf`; without any, this process's memory.
fn cache(c: &Common) -> Option<Arc<dyn Cache>> {
    let of = |s: Option<Section>| s.and_then(|s| s.list("memcache_servers")).filter(|l| !l.is_empty());
    let file = || Conf::read(&c.swift_dir.join("memcache.conf")).ok().map(|m| m.section("memcache"));
    let servers = of(c.conf.filter("cache")).or_else(|| of(file()))?;
    Some(Arc::new(Memcache::new(c.env.clone(), &servers)))
}

fn options(c: &Common) -> Result<Options> {
    let conf = &c.conf;
    let mut o = Options { proxy: proxy_options(c)?, ..Options::default() };
    let app = conf.section("app:proxy-server");
    o.info.hidden = !app.yes("expose_info", true);
    o.info.disallowed = app.list("disallowed_sections").unwrap_or_default();
    o.info.admin_key = app.get("admin_key").filter(|k| !k.is_empty()).map(|k| Secret::new(k.to_string()));
    o.trans_id_suffix = conf.filter("catch_errors").map(|s| s.str("trans_id_suffix", "")).unwrap_or_default();
    o.sync_realms = Some(c.swift_dir.join("container-sync-realms.conf"));
    let filter = |name: &str| conf.filter(name).filter(|_| in_pipeline(conf, name));
    if let Some(s) = filter("tempauth") {
        o.tempauth = Some(TempAuthOptions::from_options(&s.options)?);
    }
    if let Some(s) = filter("keystoneauth") {
        o.keystone = KeystoneOptions::from_options(&s.options);
    }
    if let Some(s) = filter("healthcheck") {
        o.disable_path = s.get("disable_path").filter(|p| !p.is_empty()).map(Into::into);
    }
    if let Some(s) = filter("container_sync") {
        o.sync_realms_only = !s.yes("allow_full_urls", true);
        o.sync_current = s.get("current").map(str::to_string);
    }
    if let Some(s) = filter("gatekeeper") {
        o.allow_reserved_names_header = s.yes("allow_reserved_names_header", false);
    }
    if let Some(digests) = filter("formpost").and_then(|s| s.get("allowed_digests").map(str::to_string)) {
        o.formpost_digests = AllowedDigests::parse(&digests)?;
    }
    if let Some(digests) = filter("tempurl").and_then(|s| s.get("allowed_digests").map(str::to_string)) {
        o.tempurl.allowed_digests = AllowedDigests::parse(&digests)?;
    }
    if let Some(s) = filter("ratelimit") {
        o.ratelimit = Some(ratelimit(&s)?);
    }
    if let Some(s) = filter("slo") {
        o.slo.max_manifest_segments = s.number("max_manifest_segments", o.slo.max_manifest_segments)?;
        o.slo.max_manifest_size = s.number("max_manifest_size", o.slo.max_manifest_size)?;
    }
    encryption(c, &mut o)?;
    Ok(o)
}

fn encryption(c: &Common, o: &mut Options) -> Result<()> {
    if !in_pipeline(&c.conf, "encryption") {
        return Ok(());
    }
    let mut s = c.conf.filter("keymaster").ok_or_else(|| Error::invalid("[filter:keymaster] is missing"))?;
    if let Some(path) = s.get("keymaster_config_path") {
        s = Conf::read(path.as_ref())?.section("keymaster");
    }
    let pairs = s.options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    o.keymaster = Some(Arc::new(Keymaster::from_options(pairs)?));
    o.disable_encryption = c.conf.filter("encryption").is_some_and(|s| s.yes("disable_encryption", false));
    Ok(())
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

fn proxy_options(c: &Common) -> Result<ProxyOptions> {
    let s = c.conf.section("app:proxy-server");
    let d = ProxyOptions::default();
    let node_timeout = s.seconds("node_timeout", d.node_timeout)?;
    let mut o = ProxyOptions {
        node_timeout,
        recoverable_node_timeout: s.seconds("recoverable_node_timeout", node_timeout)?,
        client_timeout: s.seconds("client_timeout", d.client_timeout)?,
        post_quorum_timeout: s.seconds("post_quorum_timeout", d.post_quorum_timeout)?,
        error_suppression_interval: s.seconds("error_suppression_interval", d.error_suppression_interval)?,
        error_suppression_limit: s.number("error_suppression_limit", d.error_suppression_limit)?,
        recheck_account_existence: s.seconds("recheck_account_existence", d.recheck_account_existence)?,
        recheck_container_existence: s.seconds("recheck_container_existence", d.recheck_container_existence)?,
        recheck_updating_shard_ranges: s.seconds("recheck_updating_shard_ranges", d.recheck_updating_shard_ranges)?,
        recheck_listing_shard_ranges: s.seconds("recheck_listing_shard_ranges", d.recheck_listing_shard_ranges)?,
        request_node_count: s.get("request_node_count").map_or(Ok(d.request_node_count), Count::parse)?,
        allow_account_management: s.yes("allow_account_management", false),
        account_autocreate: s.yes("account_autocreate", false),
        max_containers_per_account: s.number("max_containers_per_account", d.max_containers_per_account)?,
        max_containers_whitelist: s.list("max_containers_whitelist").unwrap_or_default(),
        deny_host_headers: s.list("deny_host_headers").unwrap_or_default(),
        cors_allow_origin: s.list("cors_allow_origin").unwrap_or_default(),
        cors_expose_headers: s.list("cors_expose_headers").unwrap_or_default(),
        strict_cors_mode: s.yes("strict_cors_mode", true),
        allow_open_expired: s.yes("allow_open_expired", false),
        policy_defaults: policy_options(&s, &d.policy_defaults)?,
        ..d
    };
    if let Some(names) = s.list("swift_owner_headers") {
        o.swift_owner_headers = names.iter().map(|n| n.to_lowercase()).collect();
    }
    for policy in c.swift.policies.iter() {
        let section = format!("proxy-server:policy:{}", policy.index);
        if c.conf.has(&section) {
            let own = policy_options(&c.conf.section(&section), &o.policy_defaults)?;
            o.policy_options.insert(policy.index, own);
        }
    }
    Ok(o)
}

fn policy_options(s: &Section, d: &PolicyOptions) -> Result<PolicyOptions> {
    let sorting = match s.get("sorting_method") {
        None => d.sorting_method,
        Some("shuffle") => Sorting::Shuffle,
        Some("timing") => Sorting::Timing,
        Some("affinity") => Sorting::Affinity,
        Some(other) => return Err(Error::invalid(format!("sorting_method = {other}: shuffle, timing or affinity"))),
    };
    let delete_count = match s.get("write_affinity_handoff_delete_count") {
        None => d.write_affinity_handoff_delete_count,
        Some("auto") => None,
        Some(_) => Some(s.number("write_affinity_handoff_delete_count", 0)?),
    };
    Ok(PolicyOptions {
        sorting_method: sorting,
        read_affinity: s.get("read_affinity").map_or_else(|| Ok(d.read_affinity.clone()), Affinity::read)?,
        write_affinity: s.get("write_affinity").map_or_else(|| Ok(d.write_affinity.clone()), Affinity::write)?,
        write_affinity_node_count: s.get("write_affinity_node_count").map_or(Ok(d.write_affinity_node_count), Count::parse)?,
        write_affinity_handoff_delete_count: delete_count,
        rebalance_missing_suppression_count: s.number("rebalance_missing_suppression_count", d.rebalance_missing_suppression_count)?,
        concurrent_gets: s.yes("concurrent_gets", d.concurrent_gets),
        concurrency_timeout: s.seconds("concurrency_timeout", d.concurrency_timeout)?,
        concurrent_ec_extra_requests: s.number("concurrent_ec_extra_requests", d.concurrent_ec_extra_requests)?,
    })
}
