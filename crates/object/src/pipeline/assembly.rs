//! Puts the layers one before another.

use super::{Around, BeforeAuth, Filter, Operations, Options};
use crate::auth::{Auth, AuthDeps, AuthToken, Keystone};
use crate::middleware::account_quotas::AccountQuotas;
use crate::middleware::cname_lookup::CnameLookup;
use crate::middleware::container_quotas::ContainerQuotas;
use crate::middleware::container_sync::{ContainerSync, Realms, RealmsFile};
use crate::middleware::crypto::Encryption;
use crate::middleware::domain_remap::DomainRemap;
use crate::middleware::etag_quoter::EtagQuoter;
use crate::middleware::formpost::FormPost;
use crate::middleware::list_endpoints::ListEndpoints;
use crate::middleware::ratelimit::RateLimit;
use crate::middleware::read_only::ReadOnly;
use crate::middleware::staticweb::StaticWeb;
use crate::middleware::tempurl::TempUrl;
use crate::middleware::{About, AccessLog, CatchErrors, CrossDomain, Gatekeeper, HealthCheck, Info, ListingFormats, NameCheck};
use crate::middleware::{Bulk, Copy, Dlo, ObjectLock, ObjectVersioning, Slo, Symlink, VersionedWrites};
use caelum_base::Result;
use caelum_rest::{HttpService, TokenValidator};
use caelum_ring::Rings;
use serde_json::{Map, Value, json};
use std::sync::{Arc, OnceLock};

type Layer = Arc<dyn HttpService>;

/// What the layers are made from, and what is known while they are being made.
pub(super) struct Assembly<'a> {
    o: &'a Options,
    a: &'a mut Around,
    rings: Rings,
    order: &'a [Filter],
    keystone: Option<Arc<Keystone>>,
    hook: Option<BeforeAuth>,
    /// Both ways of authentication are one layer, which stands where the inner one is named.
    has_auth: bool,
}

impl<'a> Assembly<'a> {
    pub fn new(
        o: &'a Options,
        a: &'a mut Around,
        order: &'a [Filter],
        rings: Rings,
        validator: Option<Arc<dyn TokenValidator>>,
        hook: Option<BeforeAuth>,
    ) -> Self {
        let wanted = order.contains(&Filter::KeystoneAuth) || order.contains(&Filter::AuthToken);
        let keystone = wanted.then(|| Arc::new(Keystone::new(validator, o.keystone.clone())));
        Self { o, a, rings, order, keystone, hook, has_auth: false }
    }

    /// From the last layer to the first; `app` is what all of them lead to. Errors: `Invalid` for an option.
    pub fn build(mut self, app: Layer) -> Result<Layer> {
        let about = Arc::new(OnceLock::new());
        let mut at: Layer = Arc::new(ObjectLock::new(app, self.a.info.clone(), self.a.env.clone()));
        at = Arc::new(Info::new(at, about.clone()));
        for filter in self.order.iter().rev() {
            at = self.layer(*filter, at)?;
        }
        // Every layer has been made and has said what it can do.
        let _ = about.set(About::new(self.a.env.clone(), self.o.info.clone(), self.a.sections.clone(), Map::new()));
        Ok(at)
    }

    /// For requests of the program's own: every method goes through, and nobody asks what the store can do.
    pub fn build_internal(mut self, mut at: Layer) -> Result<Layer> {
        for filter in self.order.iter().rev().filter(|f| **f != Filter::CatchErrors) {
            at = self.layer(*filter, at)?;
        }
        Ok(at)
    }

    fn tell(&mut self, section: &str, value: Value) {
        self.a.sections.insert(section.into(), value);
    }

    /// Puts one layer before those that are there.
    fn layer(&mut self, filter: Filter, at: Layer) -> Result<Layer> {
        let o = self.o;
        Ok(match filter {
            Filter::CatchErrors => Arc::new(CatchErrors::new(at, self.a.env.clone(), &o.trans_id_suffix)),
            Filter::Gatekeeper => {
                Arc::new(Gatekeeper::new(at, o.allow_reserved_names_header).keeping_timestamps(o.keep_inbound_timestamps))
            }
            Filter::HealthCheck => Arc::new(HealthCheck::new(at, o.disable_path.clone())),
            Filter::ProxyLogging => Arc::new(AccessLog::new(at)),
            Filter::CrossDomain => {
                self.tell("crossdomain", json!({}));
                Arc::new(CrossDomain::new(at, o.cross_domain_policy.as_deref()))
            }
            Filter::ListingFormats => Arc::new(ListingFormats::new(at)),
            Filter::NameCheck | Filter::DomainRemap | Filter::CnameLookup | Filter::ListEndpoints => self.names(filter, at)?,
            Filter::Bulk | Filter::TempUrl | Filter::FormPost | Filter::ContainerSync => self.before_auth(filter, at),
            Filter::RateLimit | Filter::ReadOnly => self.limits(filter, at),
            Filter::S3Api => match self.hook.take() {
                Some(hook) => hook(at, self.a),
                None => at,
            },
            Filter::AuthToken => match &self.keystone {
                Some(k) if k.has_validator() => Arc::new(AuthToken::new(at, k.clone(), self.a.tempauth.clone(), o.authtoken.clone())),
                _ => at,
            },
            Filter::KeystoneAuth | Filter::TempAuth => self.auth(filter, at),
            Filter::Cache | Filter::Keymaster => at,
            other => self.behind_auth(other, at),
        })
    }

    /// Names in paths and hosts.
    fn names(&mut self, filter: Filter, at: Layer) -> Result<Layer> {
        let o = self.o;
        Ok(match (filter, &o.name_check, &o.domain_remap, &o.cname_lookup) {
            (Filter::NameCheck, Some(options), ..) => Arc::new(NameCheck::new(at, options.clone())?),
            (Filter::DomainRemap, _, Some(options), _) => {
                self.tell("domain_remap", options.info());
                Arc::new(DomainRemap::new(at, options.clone()))
            }
            (Filter::CnameLookup, _, _, Some((options, resolver))) => {
                self.tell("cname_lookup", options.info());
                Arc::new(CnameLookup::new(at, self.a.cache.clone(), resolver.clone(), options))
            }
            (Filter::ListEndpoints, ..) => {
                let path = o.list_endpoints_path.as_deref().unwrap_or("/endpoints/");
                Arc::new(ListEndpoints::new(at, self.a.info.clone(), self.rings.clone(), self.a.swift.clone(), path))
            }
            _ => at,
        })
    }

    /// Requests that prove by themselves what they may do, or stand for several.
    fn before_auth(&mut self, filter: Filter, at: Layer) -> Layer {
        let (o, info, env) = (self.o, self.a.info.clone(), self.a.env.clone());
        match filter {
            Filter::Bulk => {
                for (name, section) in o.bulk.info() {
                    self.tell(name, section);
                }
                Arc::new(Bulk::new(at, o.bulk))
            }
            Filter::TempUrl => {
                self.tell("tempurl", o.tempurl.info());
                Arc::new(TempUrl::new(at, info, o.tempurl.clone(), env))
            }
            Filter::FormPost => {
                self.tell("formpost", FormPost::info(&o.formpost_digests));
                Arc::new(FormPost::new(at, info, o.formpost_digests.clone(), env))
            }
            _ => {
                let Some(file) = &o.sync_realms else { return at };
                let known = Realms::parse(&std::fs::read_to_string(file).unwrap_or_default());
                self.tell("container_sync", ContainerSync::info(&known, o.sync_current.as_deref()));
                let realms = Arc::new(RealmsFile::new(file.clone(), env));
                Arc::new(ContainerSync::new(at, info, realms, !o.sync_realms_only))
            }
        }
    }

    fn limits(&mut self, filter: Filter, at: Layer) -> Layer {
        let (o, info) = (self.o, self.a.info.clone());
        match (filter, &o.ratelimit, o.read_only) {
            (Filter::RateLimit, Some(options), _) => {
                self.tell("ratelimit", options.info());
                Arc::new(RateLimit::new(at, info, self.a.cache.clone(), options.clone(), self.a.env.clone()))
            }
            (Filter::ReadOnly, _, Some((all, allow_deletes))) => {
                if all {
                    self.tell("read_only", json!({}));
                }
                Arc::new(ReadOnly::new(at, info, all, allow_deletes))
            }
            _ => at,
        }
    }

    fn auth(&mut self, filter: Filter, at: Layer) -> Layer {
        if filter == Filter::TempAuth && self.a.tempauth.is_some() {
            self.tell("tempauth", json!({"account_acls": true}));
        }
        if self.has_auth {
            return at;
        }
        self.has_auth = true;
        let keystone = self.keystone.clone().filter(|_| self.order.contains(&Filter::KeystoneAuth));
        let deps =
            AuthDeps { info: self.a.info.clone(), keystone, tempauth: self.a.tempauth.clone(), ignore_overrides: self.o.ignore_overrides };
        Arc::new(Auth::new(Arc::new(Operations::new(at)), deps))
    }

    /// What is done with objects and containers once it is allowed.
    fn behind_auth(&mut self, filter: Filter, at: Layer) -> Layer {
        let (o, info, env) = (self.o, self.a.info.clone(), self.a.env.clone());
        let policies = || Arc::new(self.a.swift.policies.clone());
        let (layer, section, value): (Layer, _, _) = match filter {
            Filter::StaticWeb => (Arc::new(StaticWeb::new(at, info, o.staticweb_url_base.as_deref())), "staticweb", json!({})),
            Filter::Copy => return Arc::new(Copy::new(at).yielding(o.copy_yield_frequency)),
            Filter::ContainerQuotas => (Arc::new(ContainerQuotas::new(at, info)), "container_quotas", json!({})),
            Filter::AccountQuotas => (Arc::new(AccountQuotas::new(at, info, policies())), "account_quotas", json!({})),
            Filter::Slo => (Arc::new(Slo::new(at, info, self.a.swift.hash.clone(), env, o.slo.clone())), "slo", o.slo.info()),
            // As upstream, nothing about it in `/info`.
            Filter::Dlo => return Arc::new(Dlo::new(at, env, o.dlo_pace)),
            Filter::VersionedWrites => return self.versions(at),
            Filter::Symlink => (Arc::new(Symlink::with_max(at, o.symloop_max)), "symlink", Symlink::info(o.symloop_max)),
            Filter::EtagQuoter => {
                let Some(by_default) = o.etag_quoter else { return at };
                (Arc::new(EtagQuoter::new(at, info, by_default)), "etag_quoter", EtagQuoter::info(by_default))
            }
            Filter::Encryption => {
                let Some(keymaster) = &o.keymaster else { return at };
                let layer = Encryption::new(at, keymaster.clone(), env);
                let layer = if o.disable_encryption { layer.read_only() } else { layer };
                (Arc::new(layer), "encryption", json!({"enabled": !o.disable_encryption}))
            }
            _ => return at,
        };
        self.tell(section, value);
        layer
    }

    fn versions(&mut self, mut at: Layer) -> Layer {
        let (o, info, env) = (self.o, self.a.info.clone(), self.a.env.clone());
        if o.versions.object_versioning {
            at = Arc::new(ObjectVersioning::new(at, info.clone(), Arc::new(self.a.swift.policies.clone()), env.clone()));
            self.tell("object_versioning", json!({}));
        }
        if o.versions.versioned_writes == Some(true) {
            self.tell("versioned_writes", VersionedWrites::info());
        }
        Arc::new(VersionedWrites::new(at, info, env).enabled(o.versions.versioned_writes))
    }
}
