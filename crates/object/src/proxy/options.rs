//! The proxy's settings, with upstream's names and defaults (`proxy-server.conf-sample`).

use caelum_base::{Error, Result};
use caelum_ring::Device;
use std::collections::BTreeMap;
use std::time::Duration;

/// In which order nodes are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sorting {
    #[default]
    Shuffle,
    /// Fastest to answer first.
    Timing,
    /// Nearest first, by `read_affinity`.
    Affinity,
    /// As the ring names them: each object is read from one device, which keeps it in memory once. For servers that are
    /// all in this process.
    Ring,
}

/// One `r1z2=100` of `read_affinity`, or `r1z2` of `write_affinity`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    region: u32,
    zone: Option<u32>,
    priority: u64,
}

/// Regions and zones that are preferred. Empty: none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity(Vec<Place>);

impl Affinity {
    /// `r1z1=100, r2=200`: smaller numbers are nearer. Errors: `Invalid`.
    pub fn read(text: &str) -> Result<Self> {
        Self::parse(text, true)
    }

    /// `r1z1, r2`. Errors: `Invalid`.
    pub fn write(text: &str) -> Result<Self> {
        Self::parse(text, false)
    }

    fn parse(text: &str, priorities: bool) -> Result<Self> {
        let mut out = Vec::new();
        for piece in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let bad = || Error::invalid(format!("Invalid affinity value: {piece:?}"));
            let (place, priority) = match (priorities, piece.split_once('=')) {
                (true, Some((p, n))) => (p.trim(), n.trim().parse().map_err(|_| bad())?),
                (false, None) => (piece, 0),
                _ => return Err(bad()),
            };
            let place = place.strip_prefix('r').ok_or_else(bad)?;
            let (region, zone) = place.split_once('z').map_or((place, None), |(r, z)| (r, Some(z)));
            let zone = zone.map(|z| z.parse().map_err(|_| bad())).transpose()?;
            out.push(Place { region: region.parse().map_err(|_| bad())?, zone, priority });
        }
        Ok(Self(out))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn matching(&self, d: &Device) -> impl Iterator<Item = &Place> {
        self.0.iter().filter(|p| p.region == d.region && p.zone.is_none_or(|z| z == d.zone))
    }

    /// Smaller is nearer. A zone's own entry wins over its region's.
    pub fn distance(&self, d: &Device) -> u64 {
        let zone = self.matching(d).find(|p| p.zone.is_some());
        zone.or_else(|| self.matching(d).next()).map_or(u64::MAX, |p| p.priority)
    }

    pub fn is_local(&self, d: &Device) -> bool {
        self.matching(d).next().is_some()
    }
}

/// A number, or a multiple of a ring's replicas (`2 * replicas`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Fixed(usize),
    PerReplica(usize),
}

impl Count {
    /// Errors: `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |w: &str| w.parse().map_err(|_| Error::invalid(format!("Invalid count {text:?}")));
        match words.as_slice() {
            [n] => Ok(Self::Fixed(number(n)?)),
            [n, "*", r] if r.eq_ignore_ascii_case("replicas") => Ok(Self::PerReplica(number(n)?)),
            _ => Err(Error::invalid(format!("Invalid count {text:?}"))),
        }
    }

    pub fn of(self, replicas: usize) -> usize {
        match self {
            Self::Fixed(n) => n,
            Self::PerReplica(n) => n * replicas,
        }
    }
}

/// What may differ between storage policies (`[proxy-server:policy:N]`).
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    pub sorting_method: Sorting,
    pub read_affinity: Affinity,
    pub write_affinity: Affinity,
    pub write_affinity_node_count: Count,
    /// `None`: as many as there are primaries elsewhere (`auto`).
    pub write_affinity_handoff_delete_count: Option<usize>,
    /// How many primaries may lack an object before that counts: during a rebalance data is late.
    pub rebalance_missing_suppression_count: usize,
    pub concurrent_gets: bool,
    pub concurrency_timeout: Duration,
    /// Fragments asked for beyond those needed, with `concurrent_gets`.
    pub concurrent_ec_extra_requests: usize,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            sorting_method: Sorting::Shuffle,
            read_affinity: Affinity::default(),
            write_affinity: Affinity::default(),
            write_affinity_node_count: Count::PerReplica(2),
            write_affinity_handoff_delete_count: None,
            rebalance_missing_suppression_count: 1,
            concurrent_gets: false,
            concurrency_timeout: Duration::from_millis(500),
            concurrent_ec_extra_requests: 0,
        }
    }
}

/// The limits that clients meet (`[swift-constraints]`).
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_file_size: u64,
    pub max_meta_name_length: usize,
    pub max_meta_value_length: usize,
    pub max_meta_count: usize,
    pub max_meta_overall_size: usize,
    pub max_header_size: usize,
    pub max_object_name_length: usize,
    pub max_account_name_length: usize,
    pub max_container_name_length: usize,
    pub container_listing_limit: usize,
    pub account_listing_limit: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_size: caelum_swiftkit::MAX_FILE_SIZE,
            max_meta_name_length: 128,
            max_meta_value_length: 256,
            max_meta_count: 90,
            max_meta_overall_size: 4_096,
            max_header_size: 8_192,
            max_object_name_length: caelum_swiftkit::MAX_OBJECT_NAME,
            max_account_name_length: caelum_swiftkit::MAX_ACCOUNT_NAME,
            max_container_name_length: caelum_swiftkit::MAX_CONTAINER_NAME,
            container_listing_limit: caelum_swiftkit::LISTING_LIMIT,
            account_listing_limit: caelum_swiftkit::LISTING_LIMIT,
        }
    }
}

/// `[app:proxy-server]`.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// A node answers, or takes or gives a piece of data, within this time.
    pub node_timeout: Duration,
    /// The same where another node can be asked instead (object reads).
    pub recoverable_node_timeout: Duration,
    /// A client sends the next piece of data within this time.
    pub client_timeout: Duration,
    /// How long late nodes are waited for once there is a quorum.
    pub post_quorum_timeout: Duration,
    pub error_suppression_interval: Duration,
    pub error_suppression_limit: u32,
    pub recheck_account_existence: Duration,
    pub recheck_container_existence: Duration,
    pub recheck_updating_shard_ranges: Duration,
    pub recheck_listing_shard_ranges: Duration,
    pub request_node_count: Count,
    /// Clients may PUT and DELETE accounts.
    pub allow_account_management: bool,
    /// Accounts come into being by their first write.
    pub account_autocreate: bool,
    pub auto_create_account_prefix: String,
    /// 0: no limit.
    pub max_containers_per_account: u64,
    pub max_containers_whitelist: Vec<String>,
    pub deny_host_headers: Vec<String>,
    pub cors_allow_origin: Vec<String>,
    pub cors_expose_headers: Vec<String>,
    pub strict_cors_mode: bool,
    /// `X-Open-Expired: true` reads objects that have expired and are still there.
    pub allow_open_expired: bool,
    /// Lower case; shown to and taken from owners only.
    pub swift_owner_headers: Vec<String>,
    pub limits: Limits,
    pub policy_defaults: PolicyOptions,
    /// By policy index.
    pub policy_options: BTreeMap<u32, PolicyOptions>,
}

const OWNER_HEADERS: &[&str] = &[
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
    "x-account-meta-temp-url-key",
    "x-account-meta-temp-url-key-2",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
    "x-account-access-control",
];

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            node_timeout: Duration::from_secs(10),
            recoverable_node_timeout: Duration::from_secs(10),
            client_timeout: Duration::from_secs(60),
            post_quorum_timeout: Duration::from_millis(500),
            error_suppression_interval: Duration::from_secs(60),
            error_suppression_limit: 10,
            recheck_account_existence: Duration::from_secs(60),
            recheck_container_existence: Duration::from_secs(60),
            recheck_updating_shard_ranges: Duration::from_secs(3_600),
            recheck_listing_shard_ranges: Duration::from_secs(600),
            request_node_count: Count::PerReplica(2),
            allow_account_management: false,
            account_autocreate: true,
            auto_create_account_prefix: ".".into(),
            max_containers_per_account: 0,
            max_containers_whitelist: Vec::new(),
            deny_host_headers: Vec::new(),
            cors_allow_origin: Vec::new(),
            cors_expose_headers: Vec::new(),
            strict_cors_mode: true,
            allow_open_expired: false,
            swift_owner_headers: OWNER_HEADERS.iter().map(|h| (*h).to_string()).collect(),
            limits: Limits::default(),
            policy_defaults: PolicyOptions::default(),
            policy_options: BTreeMap::new(),
        }
    }
}

impl ProxyOptions {
    /// Settings for a policy; `None` for accounts and containers.
    pub fn policy(&self, index: Option<u32>) -> &PolicyOptions {
        index.and_then(|i| self.policy_options.get(&i)).unwrap_or(&self.policy_defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_and_counts() {
        let d = |region, zone| Device { region, zone, ..Device::default() };
        let a = Affinity::read("r1=100, r1z1=50,r2z2=200").unwrap();
        assert_eq!((a.distance(&d(1, 1)), a.distance(&d(1, 2)), a.distance(&d(2, 2))), (50, 100, 200));
        assert_eq!(a.distance(&d(2, 1)), u64::MAX);
        let w = Affinity::write("r1z1, r2").unwrap();
        assert!(w.is_local(&d(1, 1)) && w.is_local(&d(2, 9)) && !w.is_local(&d(1, 2)));
        for bad in ["r1", "r=1", "z1=2", "r1z=3", "rxz1=1", "r1=x"] {
            assert!(Affinity::read(bad).is_err(), "{bad}");
        }
        assert!(Affinity::write("r1=2").is_err());
        assert_eq!(Count::parse("2 * replicas").unwrap().of(3), 6);
        assert_eq!(Count::parse("4").unwrap().of(3), 4);
        assert!(Count::parse("2 * x").is_err() && Count::parse("").is_err());
    }
}
