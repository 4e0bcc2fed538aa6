//! `proxy-server.conf`: the pipeline of a proxy, and of the daemons' own requests.

use super::filters::{options, s3};
use super::pipeline::Pipeline;
use super::tokens::RemoteTokens;
use super::{Common, Conf, Section};
use caelum_base::{Error, Result};
use caelum_object::pipeline::{self, Filter, with_required};
use caelum_object::proxy::{Affinity, Cache, Count, Limits, Memcache, PolicyOptions, ProxyOptions, Sorting, learn_types};
use caelum_rest::{HttpService, TokenValidator};
use std::sync::Arc;

/// Where upstream expects memcached when nothing is said.
const MEMCACHED: &str = "127.0.0.1:11211";

/// A pipeline's filters in order, each with its section, and the application's section.
struct Wanted {
    filters: Vec<(Filter, Section)>,
    app: Section,
}

/// The filters that `[pipeline:main]` names. Errors: `Invalid` naming file, section and filter for one that this
/// program does not have, or one that stands twice.
fn wanted(conf: &Conf) -> Result<Wanted> {
    let pipeline = Pipeline::read(conf)?;
    let mut filters: Vec<(Filter, Section)> = Vec::new();
    for entry in pipeline.filters {
        let filter = Filter::of_factory(&entry.factory).ok_or_else(|| entry.unknown())?;
        // Upstream's own sample has the log twice: the inner one for requests that layers make.
        let often = matches!(filter, Filter::ProxyLogging | Filter::Cache);
        if !often && filters.iter().any(|(f, _)| *f == filter) {
            return Err(entry.error("the filter stands in the pipeline twice"));
        }
        filters.push((filter, entry.section));
    }
    if pipeline.app.factory != "egg:swift#proxy" && pipeline.app.factory != "swift.proxy.server:app_factory" {
        return Err(pipeline.app.unknown());
    }
    let has = |f| filters.iter().any(|(g, _)| *g == f);
    if has(Filter::Encryption) && !has(Filter::Keymaster) {
        return Err(Error::invalid(format!("{} [pipeline:main]: encryption needs a keymaster before it", conf.path.display())));
    }
    Ok(Wanted { filters, app: pipeline.app.section })
}

/// The proxy's pipeline as `proxy-server.conf` describes it, with the filters that every proxy has.
pub fn start(c: &Common) -> Result<Arc<dyn HttpService>> {
    let wanted = wanted(&c.conf)?;
    learn_types(&c.swift_dir);
    let named: Vec<Filter> = wanted.filters.iter().map(|(f, _)| *f).collect();
    let order = with_required(named.clone());
    if order != named {
        tracing::info!(?order, "filters that every proxy needs are put into the pipeline");
    }
    let knows_callers = [Filter::TempAuth, Filter::KeystoneAuth, Filter::S3Api].iter().any(|f| order.contains(f));
    if !knows_callers {
        tracing::warn!("nothing in the pipeline finds out who calls: nobody is admitted");
    }
    Ok(pipeline::start(deps(c, &c.conf, wanted, order)?)?.api())
}

fn deps(c: &Common, conf: &Conf, wanted: Wanted, order: Vec<Filter>) -> Result<pipeline::Deps> {
    let Wanted { filters, app } = wanted;
    let of = |filter| filters.iter().find(|(f, _)| *f == filter).map(|(_, s)| s);
    let validator: Option<Arc<dyn TokenValidator>> = match of(Filter::AuthToken) {
        Some(s) => Some(Arc::new(RemoteTokens::new(s, c.env.clone())?)),
        None => None,
    };
    let mut options = options(c, &filters, &app)?;
    options.proxy = proxy_options(c, conf, &app)?;
    options.order = Some(order);
    Ok(pipeline::Deps {
        env: c.env.clone(),
        rings: c.rings.clone(),
        nodes: c.nodes.clone(),
        swift: c.swift.clone(),
        cache: of(Filter::Cache).map(|s| cache(c, s)).transpose()?.flatten(),
        validator,
        before_auth: of(Filter::S3Api).map(|s| s3(s, &options)).transpose()?,
        options,
    })
}

/// What daemons send their own requests through: the pipeline of `internal_client_conf_path`, of the daemon's own file
/// when that has one, of `internal-client.conf`, or symbolic links alone. Errors: `Invalid` for what cannot be in it.
pub fn internal(c: &Common, daemon: &Section) -> Result<Arc<dyn HttpService>> {
    let usual = c.swift_dir.join("internal-client.conf");
    let own;
    let conf = match daemon.given("internal_client_conf_path") {
        Some(path) => {
            own = Conf::read(path.as_ref())?;
            Some(&own)
        }
        None if is_proxys(&c.conf) => Some(&c.conf),
        None if usual.exists() => {
            own = Conf::read(&usual)?;
            Some(&own)
        }
        None => None,
    };
    let Some(conf) = conf else { return built_in(c) };
    let wanted = wanted(conf)?;
    let order: Vec<Filter> = wanted.filters.iter().map(|(f, _)| *f).collect();
    if order.contains(&Filter::Gatekeeper) {
        let text = "the gatekeeper keeps a program from its own requests' headers; it cannot be in this pipeline";
        return Err(Error::invalid(format!("{} [pipeline:main]: {text}", conf.path.display())));
    }
    pipeline::internal_client(deps(c, conf, wanted, order)?)
}

/// Whether the file of a daemon describes a proxy as well, as those of the expirer and the reconciler do.
fn is_proxys(conf: &Conf) -> bool {
    Pipeline::read(conf).is_ok_and(|p| p.app.factory == "egg:swift#proxy")
}

fn built_in(c: &Common) -> Result<Arc<dyn HttpService>> {
    let none = Conf::parse(&c.swift_dir.join("internal-client.conf"), "");
    let app = none.section("app:proxy-server")?;
    let filters = vec![(Filter::Symlink, app.clone())];
    let mut deps = deps(c, &none, Wanted { filters, app }, vec![Filter::Symlink])?;
    deps.options.proxy.account_autocreate = true;
    deps.options.proxy.allow_account_management = true;
    pipeline::internal_client(deps)
}

/// The memcached servers of the filter or of `memcache.conf`. Without any it is the usual one if somebody answers
/// there; otherwise this process keeps what it knows to itself.
fn cache(c: &Common, s: &Section) -> Result<Option<Arc<dyn Cache>>> {
    let file = c.swift_dir.join("memcache.conf");
    let common = if file.exists() { Some(Conf::read(&file)?.section("memcache")?) } else { None };
    let of = |s: &Section| s.list("memcache_servers").filter(|l| !l.is_empty());
    let servers = match of(s).or_else(|| common.as_ref().and_then(of)) {
        Some(servers) => servers,
        None => {
            let usual = MEMCACHED.parse().map_err(|_| Error::internal("the usual memcached has no address"))?;
            if std::net::TcpStream::connect_timeout(&usual, std::time::Duration::from_millis(300)).is_err() {
                tracing::warn!("no memcached at {MEMCACHED}: other proxies do not see what this one knows (tokens of tempauth, too)");
                return Ok(None);
            }
            vec![MEMCACHED.to_string()]
        }
    };
    Ok(Some(Arc::new(Memcache::new(c.env.clone(), &servers))))
}

/// `[swift-constraints]` of `swift.conf`.
fn limits(c: &Common) -> Result<Limits> {
    let file = c.swift_dir.join("swift.conf");
    if !file.exists() {
        return Ok(Limits::default());
    }
    let (s, d) = (Conf::read(&file)?.section("swift-constraints")?, Limits::default());
    Ok(Limits {
        max_file_size: s.number("max_file_size", d.max_file_size)?,
        max_meta_name_length: s.number("max_meta_name_length", d.max_meta_name_length)?,
        max_meta_value_length: s.number("max_meta_value_length", d.max_meta_value_length)?,
        max_meta_count: s.number("max_meta_count", d.max_meta_count)?,
        max_meta_overall_size: s.number("max_meta_overall_size", d.max_meta_overall_size)?,
        max_header_size: s.number("max_header_size", d.max_header_size)?,
        max_object_name_length: s.number("max_object_name_length", d.max_object_name_length)?,
        max_account_name_length: s.number("max_account_name_length", d.max_account_name_length)?,
        max_container_name_length: s.number("max_container_name_length", d.max_container_name_length)?,
        container_listing_limit: s.number("container_listing_limit", d.container_listing_limit)?,
        account_listing_limit: s.number("account_listing_limit", d.account_listing_limit)?,
    })
}

fn proxy_options(c: &Common, conf: &Conf, s: &Section) -> Result<ProxyOptions> {
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
        limits: limits(c)?,
        policy_defaults: policy_options(s, &d.policy_defaults)?,
        ..d
    };
    if let Some(names) = s.list("swift_owner_headers") {
        o.swift_owner_headers = names.iter().map(|n| n.to_lowercase()).collect();
    }
    for policy in c.swift.policies.iter() {
        let name = s.name.strip_prefix("app:").unwrap_or(&s.name);
        let section = format!("{name}:policy:{}", policy.index);
        if conf.has(&section) {
            let own = policy_options(&conf.own(&section)?, &o.policy_defaults)?;
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
