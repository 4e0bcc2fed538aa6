//! The filters that a pipeline may be made of, by Swift's names. Source: Swift's packaging metadata (entry points of
//! `paste.filter_factory`) and `swift/proxy/server.py` (filters that a proxy cannot do without).

/// A layer of the pipeline.
// The path: `Copy` alone would be the filter.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    AccountQuotas,
    /// keystonemiddleware's `auth_token`: finds out whose a token of the identity service is.
    AuthToken,
    Bulk,
    /// No layer: the cache is given to those that need it.
    Cache,
    CatchErrors,
    CnameLookup,
    ContainerQuotas,
    ContainerSync,
    Copy,
    CrossDomain,
    Dlo,
    DomainRemap,
    Encryption,
    EtagQuoter,
    FormPost,
    Gatekeeper,
    HealthCheck,
    /// No layer: [`Filter::Encryption`] takes its keys.
    Keymaster,
    KeystoneAuth,
    ListEndpoints,
    ListingFormats,
    NameCheck,
    ProxyLogging,
    RateLimit,
    ReadOnly,
    S3Api,
    Slo,
    StaticWeb,
    Symlink,
    TempAuth,
    TempUrl,
    VersionedWrites,
}

use Filter::{
    AccountQuotas, AuthToken, Bulk, Cache, CatchErrors, CnameLookup, ContainerQuotas, ContainerSync, Copy, CrossDomain, Dlo, DomainRemap,
    Encryption, EtagQuoter, FormPost, Gatekeeper, HealthCheck, Keymaster, KeystoneAuth, ListEndpoints, ListingFormats, NameCheck,
    ProxyLogging, RateLimit, ReadOnly, S3Api, Slo, StaticWeb, Symlink, TempAuth, TempUrl, VersionedWrites,
};

/// Entry point, and module below `swift.common.middleware` where that is named otherwise.
const NAMES: &[(Filter, &str, &str)] = &[
    (AccountQuotas, "account_quotas", ""),
    (Bulk, "bulk", ""),
    (Cache, "memcache", ""),
    (CatchErrors, "catch_errors", ""),
    (CnameLookup, "cname_lookup", ""),
    (ContainerQuotas, "container_quotas", ""),
    (ContainerSync, "container_sync", ""),
    (Copy, "copy", ""),
    (CrossDomain, "crossdomain", ""),
    (Dlo, "dlo", ""),
    (DomainRemap, "domain_remap", ""),
    (Encryption, "encryption", "crypto"),
    (EtagQuoter, "etag_quoter", ""),
    (FormPost, "formpost", ""),
    (Gatekeeper, "gatekeeper", ""),
    (HealthCheck, "healthcheck", ""),
    (Keymaster, "keymaster", "crypto.keymaster"),
    (KeystoneAuth, "keystoneauth", ""),
    (ListEndpoints, "list_endpoints", ""),
    (ListingFormats, "listing_formats", ""),
    (NameCheck, "name_check", ""),
    (ProxyLogging, "proxy_logging", ""),
    (RateLimit, "ratelimit", ""),
    (ReadOnly, "read_only", ""),
    (S3Api, "s3api", "s3api.s3api"),
    (Slo, "slo", ""),
    (StaticWeb, "staticweb", ""),
    (Symlink, "symlink", ""),
    (TempAuth, "tempauth", ""),
    (TempUrl, "tempurl", ""),
    (VersionedWrites, "versioned_writes", ""),
];

impl Filter {
    /// From what `use` says (`egg:swift#bulk`), or `paste.filter_factory` (`swift.common.middleware.bulk:filter_factory`).
    /// `None`: a filter that this program does not have.
    pub fn of_factory(text: &str) -> Option<Self> {
        if matches!(text, "egg:keystonemiddleware#auth_token" | "keystonemiddleware.auth_token:filter_factory") {
            return Some(AuthToken);
        }
        if let Some(name) = text.strip_prefix("egg:swift#") {
            return NAMES.iter().find(|(_, n, _)| *n == name).map(|(f, _, _)| *f);
        }
        let module = text.strip_prefix("swift.common.middleware.")?.strip_suffix(":filter_factory")?;
        NAMES.iter().find(|(_, n, m)| *m == module || (m.is_empty() && *n == module)).map(|(f, _, _)| *f)
    }

    /// The order of a store for which nothing is configured. Those that have to be asked for are in it, too: without
    /// their options they do nothing.
    pub const ALL: &[Self] = &[
        CatchErrors,
        Gatekeeper,
        HealthCheck,
        CrossDomain,
        ProxyLogging,
        CnameLookup,
        DomainRemap,
        NameCheck,
        EtagQuoter,
        ListingFormats,
        ContainerSync,
        Bulk,
        TempUrl,
        FormPost,
        RateLimit,
        ReadOnly,
        S3Api,
        AuthToken,
        KeystoneAuth,
        TempAuth,
        StaticWeb,
        Copy,
        ContainerQuotas,
        AccountQuotas,
        Slo,
        Dlo,
        VersionedWrites,
        Symlink,
        Keymaster,
        Encryption,
    ];
}

/// Filters without which a proxy does not start, last one first, each with those it is put behind.
const REQUIRED: &[(Filter, &[Filter])] = &[
    (VersionedWrites, &[Slo, Dlo, Copy, StaticWeb, TempAuth, KeystoneAuth, CatchErrors, Gatekeeper, ProxyLogging]),
    (Dlo, &[Copy, StaticWeb, TempAuth, KeystoneAuth, CatchErrors, Gatekeeper, ProxyLogging]),
    (Copy, &[StaticWeb, TempAuth, KeystoneAuth, CatchErrors, Gatekeeper, ProxyLogging]),
    (ListingFormats, &[CatchErrors, Gatekeeper, ProxyLogging, Cache]),
    (Gatekeeper, &[CatchErrors]),
    (CatchErrors, &[]),
];

/// The order with what is missing of the filters that every proxy has, where upstream puts them: behind the first of
/// each of those they follow.
#[must_use]
pub fn with_required(mut order: Vec<Filter>) -> Vec<Filter> {
    for (filter, after) in REQUIRED {
        if order.contains(filter) {
            continue;
        }
        // The gatekeeper follows error catching only where that comes first.
        let after: &[Filter] = if *filter == Gatekeeper && order.first() != Some(&CatchErrors) { &[] } else { after };
        let places = after.iter().filter_map(|a| order.iter().position(|f| f == a));
        let at = places.map(|i| i + 1).max().unwrap_or(0);
        order.insert(at, *filter);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factories() {
        for (filter, name, _) in NAMES {
            assert_eq!(Filter::of_factory(&format!("egg:swift#{name}")), Some(*filter));
        }
        assert_eq!(Filter::of_factory("swift.common.middleware.crypto:filter_factory"), Some(Encryption));
        assert_eq!(Filter::of_factory("swift.common.middleware.s3api.s3api:filter_factory"), Some(S3Api));
        assert_eq!(Filter::of_factory("keystonemiddleware.auth_token:filter_factory"), Some(AuthToken));
        for unknown in ["egg:swift#kms_keymaster", "egg:other#bulk", "swift.common.middleware.encryption:filter_factory", "bulk"] {
            assert_eq!(Filter::of_factory(unknown), None, "{unknown}");
        }
    }

    /// Orders as Swift 2.38 makes them.
    #[test]
    fn what_a_proxy_needs() {
        let check = |given: &[Filter], wanted: &[Filter]| assert_eq!(with_required(given.to_vec()), wanted);
        check(&[], &[CatchErrors, Gatekeeper, ListingFormats, Copy, Dlo, VersionedWrites]);
        check(
            &[CatchErrors, HealthCheck, ProxyLogging, Cache, TempAuth, ProxyLogging],
            &[
                CatchErrors,
                Gatekeeper,
                HealthCheck,
                ProxyLogging,
                Cache,
                ListingFormats,
                TempAuth,
                Copy,
                Dlo,
                VersionedWrites,
                ProxyLogging,
            ],
        );
        check(
            &[HealthCheck, CatchErrors, StaticWeb, Slo],
            &[Gatekeeper, HealthCheck, CatchErrors, ListingFormats, StaticWeb, Copy, Dlo, Slo, VersionedWrites],
        );
        check(&with_required(Filter::ALL.to_vec()), Filter::ALL);
    }
}
