use caelum_base::{Error, Result};

/// How the bytes of a policy's objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    Replication,
    /// `duplication` copies of each of `data + parity` fragments.
    ErasureCoding {
        ec_type: String,
        data: usize,
        parity: usize,
        segment_size: u64,
        duplication: usize,
    },
}

/// One `[storage-policy:N]` of `swift.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoragePolicy {
    pub index: u32,
    pub name: String,
    pub aliases: Vec<String>,
    pub is_default: bool,
    pub is_deprecated: bool,
    pub kind: PolicyKind,
}

impl StoragePolicy {
    /// The policy of a cluster whose `swift.conf` declares none.
    pub fn zero() -> Self {
        Self {
            index: 0,
            name: "Policy-0".into(),
            aliases: Vec::new(),
            is_default: true,
            is_deprecated: false,
            kind: PolicyKind::Replication,
        }
    }

    /// `objects`, `objects-1`: with `base` as upstream names a policy's directories, queues and rings
    /// (`objects`, `async_pending`, `tmp`, `object`).
    pub fn dir(&self, base: &str) -> String {
        if self.index == 0 { base.to_string() } else { format!("{base}-{}", self.index) }
    }

    pub fn is_ec(&self) -> bool {
        matches!(self.kind, PolicyKind::ErasureCoding { .. })
    }

    /// How many of `replicas` nodes must have stored an object before it is acknowledged.
    pub fn quorum(&self, replicas: usize) -> usize {
        match self.kind {
            PolicyKind::Replication => quorum_size(replicas),
            PolicyKind::ErasureCoding { data, duplication, .. } => data * duplication.max(1) + 1,
        }
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
    }
}

/// At least half: 2 of 3, 2 of 4, 1 of 2, 1 of 1.
pub fn quorum_size(n: usize) -> usize {
    n.div_ceil(2)
}

/// All policies of a cluster, by index.
#[derive(Clone, Debug)]
pub struct Policies(Vec<StoragePolicy>);

impl Default for Policies {
    fn default() -> Self {
        Self(vec![StoragePolicy::zero()])
    }
}

impl Policies {
    /// Errors: `Invalid` when indexes or names repeat, policy 0 is absent, or not exactly one is the
    /// default.
    pub fn new(mut all: Vec<StoragePolicy>) -> Result<Self> {
        all.sort_by_key(|p| p.index);
        if all.is_empty() {
            return Ok(Self::default());
        }
        for (i, p) in all.iter().enumerate() {
            let names = || std::iter::once(&p.name).chain(&p.aliases);
            if all.iter().skip(i + 1).any(|q| q.index == p.index || names().any(|n| q.has_name(n))) {
                return Err(Error::invalid(format!("storage policy {} ({}) is declared twice", p.index, p.name)));
            }
            let plain = |n: &String| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !names().all(plain) {
                return Err(Error::invalid(format!("storage policy {}: names are letters, digits and dashes", p.index)));
            }
            if p.is_default && p.is_deprecated {
                return Err(Error::invalid(format!("storage policy {} is deprecated and cannot be the default", p.index)));
            }
        }
        if all.first().is_none_or(|p| p.index != 0) {
            return Err(Error::invalid("storage policy 0 is missing"));
        }
        match all.iter().filter(|p| p.is_default).count() {
            1 => {}
            0 if all.len() == 1 => all[0].is_default = true,
            _ => return Err(Error::invalid("exactly one storage policy must be the default")),
        }
        Ok(Self(all))
    }

    pub fn get(&self, index: u32) -> Option<&StoragePolicy> {
        self.0.iter().find(|p| p.index == index)
    }

    pub fn by_name(&self, name: &str) -> Option<&StoragePolicy> {
        self.0.iter().find(|p| p.has_name(name))
    }

    pub fn default_policy(&self) -> &StoragePolicy {
        self.0.iter().find(|p| p.is_default).unwrap_or(&self.0[0])
    }

    pub fn iter(&self) -> impl Iterator<Item = &StoragePolicy> {
        self.0.iter()
    }
}
