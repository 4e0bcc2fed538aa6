//! Which accounts this cluster's authentication speaks for, and which roles count on them.

use caelum_swiftkit::parse_ini;

/// What holds for the accounts of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reseller {
    /// With the underscore: `AUTH_`; may be empty.
    pub prefix: String,
    /// Roles that own a project's account.
    pub operator_roles: Vec<String>,
    /// When not empty, an owner needs one of these from a service token, too.
    pub service_roles: Vec<String>,
    /// Roles that may read everything in a project's account.
    pub project_reader_roles: Vec<String>,
    /// Tempauth: owners need this group, too.
    pub require_group: String,
}

impl Reseller {
    fn new(prefix: &str, operator_roles: &[&str]) -> Self {
        Self {
            prefix: prefix.into(),
            operator_roles: operator_roles.iter().map(|r| (*r).to_string()).collect(),
            service_roles: Vec::new(),
            project_reader_roles: Vec::new(),
            require_group: String::new(),
        }
    }
}

/// The resellers of a cluster, the first one being the one new accounts are named by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resellers(pub Vec<Reseller>);

impl Default for Resellers {
    /// `AUTH_`; the roles `admin` and `member` own, `reader` reads.
    fn default() -> Self {
        let mut auth = Reseller::new("AUTH_", &["admin", "member"]);
        auth.project_reader_roles = vec!["reader".into()];
        Self(vec![auth])
    }
}

impl Resellers {
    /// From the options of a filter section of `proxy-server.conf`.
    pub fn from_options(options: &[(String, String)]) -> Self {
        let get = |key: &str| options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let mut out: Vec<Reseller> = Vec::new();
        for name in get("reseller_prefix").unwrap_or("AUTH").split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let prefix = match name {
                "''" => String::new(),
                n if n.ends_with('_') => n.to_string(),
                n => format!("{n}_"),
            };
            if out.iter().any(|r| r.prefix == prefix) {
                continue;
            }
            let mut r = Reseller::new(&prefix, &["admin", "swiftoperator"]);
            let quoted = if prefix.is_empty() { "''" } else { prefix.as_str() };
            let own = |key: &str| get(&format!("{quoted}{key}")).or_else(|| get(key));
            let roles = |v: &str| v.split(',').map(|r| r.trim().to_lowercase()).filter(|r| !r.is_empty()).collect::<Vec<_>>();
            if let Some(v) = own("operator_roles") {
                r.operator_roles = roles(v);
            }
            r.service_roles = own("service_roles").map(roles).unwrap_or_default();
            r.project_reader_roles = own("project_reader_roles").map(roles).unwrap_or_default();
            r.require_group = own("require_group").unwrap_or_default().to_string();
            out.push(r);
        }
        if out.is_empty() {
            out.push(Reseller::new("", &["admin", "swiftoperator"]));
        }
        Self(out)
    }

    /// The same from a whole file.
    pub fn from_section(text: &str, section: &str) -> Self {
        let found = parse_ini(text).into_iter().find(|(name, _)| name == section);
        Self::from_options(&found.map(|(_, o)| o).unwrap_or_default())
    }

    pub fn first_prefix(&self) -> &str {
        self.0.first().map_or("", |r| r.prefix.as_str())
    }

    /// The reseller of an account. An empty prefix matches what no other does.
    pub fn of(&self, account: &str) -> Option<&Reseller> {
        let named = self.0.iter().find(|r| !r.prefix.is_empty() && account.starts_with(&r.prefix));
        named.or_else(|| self.0.iter().find(|r| r.prefix.is_empty()))
    }

    /// Whether the account is this project's.
    pub fn is_account_of(&self, account: &str, project_id: &str) -> bool {
        !project_id.is_empty() && self.0.iter().any(|r| account.strip_prefix(r.prefix.as_str()) == Some(project_id))
    }

    /// Whether the text is one of the prefixes itself, which is nobody's account.
    pub fn is_prefix(&self, account: &str) -> bool {
        self.0.iter().any(|r| r.prefix == account)
    }

    /// Accounts such as `AUTH_.system` are reserved.
    pub fn is_dot_account(&self, account: &str) -> bool {
        self.of(account).is_some_and(|r| account[r.prefix.len()..].starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let text = "[filter:keystoneauth]\nreseller_prefix = AUTH, SERVICE_\noperator_roles = Admin, op\nSERVICE_service_roles = service\n";
        let r = Resellers::from_section(text, "filter:keystoneauth");
        assert_eq!(r.of("AUTH_x").unwrap().operator_roles, ["admin", "op"]);
        assert!(r.of("AUTH_x").unwrap().service_roles.is_empty());
        assert_eq!(r.of("SERVICE_x").unwrap().service_roles, ["service"]);
        assert!(r.is_account_of("SERVICE_x", "x") && r.is_account_of("AUTH_x", "x"));
        assert!(!r.is_account_of("AUTH_", "") && !r.is_account_of("AUTH_xy", "x"));
        assert!(r.of("OTHER_x").is_none());
        assert!(r.is_dot_account("AUTH_.expiring") && !r.is_dot_account("AUTH_a.b"));
        let r = Resellers::from_options(&[("reseller_prefix".into(), "'', A".into())]);
        assert_eq!(r.of("A_x").unwrap().prefix, "A_");
        assert_eq!(r.of("x").unwrap().prefix, "");
    }
}
