//! The token as the API and the policy see it.

use super::resolve::Resolved;
use super::{Delegation, Facts, Scope};
use crate::store::{Project, Role};
use caelum_base::{Secret, Timestamp};
use caelum_policy::Credentials;
use caelum_rest::{Auth, Named};
use serde_json::{Map, Value, json};

fn named(p: &Project) -> Named {
    Named { id: p.id.clone(), name: p.name.clone() }
}

fn pair(n: &Project) -> Value {
    json!({"id": n.id, "name": n.name})
}

fn time(t: Timestamp) -> String {
    t.iso_micros_z()
}

impl Resolved {
    /// The `token` object; `catalog` is left out when `None`.
    pub fn body(&self, facts: &Facts, catalog: Option<&Value>) -> Value {
        let user = json!({
            "id": self.user.id, "name": self.user.name, "domain": pair(&self.user_domain),
            "password_expires_at": self.password_expires_at.map(Timestamp::iso_micros),
        });
        let mut t = Map::new();
        t.insert("methods".into(), json!(facts.methods));
        t.insert("user".into(), user);
        t.insert("audit_ids".into(), json!(facts.audit_ids));
        t.insert("expires_at".into(), json!(time(facts.expires_at)));
        t.insert("issued_at".into(), json!(time(facts.issued_at)));
        if let Some((p, d)) = &self.project {
            t.insert("project".into(), json!({"id": p.id, "name": p.name, "domain": pair(d)}));
            t.insert("is_domain".into(), json!(p.is_domain));
        }
        if let Some(d) = &self.domain {
            t.insert("domain".into(), pair(d));
        }
        if facts.scope == Scope::System {
            t.insert("system".into(), json!({"all": true}));
        }
        if facts.scope != Scope::Unscoped {
            t.insert("roles".into(), self.roles.iter().map(|r| json!({"id": r.id, "name": r.name})).collect());
            if let Some(c) = catalog {
                t.insert("catalog".into(), c.clone());
            }
        }
        self.delegation(&mut t);
        json!({"token": t})
    }

    fn delegation(&self, t: &mut Map<String, Value>) {
        if let Some(trust) = &self.trust {
            t.insert(
                "OS-TRUST:trust".into(),
                json!({
                    "id": trust.id, "impersonation": trust.impersonation,
                    "trustor_user": {"id": trust.trustor_user_id}, "trustee_user": {"id": trust.trustee_user_id},
                }),
            );
        }
        if let Some(ac) = &self.application_credential {
            let mut v = json!({"id": ac.id, "name": ac.name, "restricted": !ac.unrestricted});
            if ac.access_rules.is_some() {
                let rules: Value = self
                    .access_rules
                    .iter()
                    .map(|r| json!({"id": r.id, "service": r.service, "path": r.path, "method": r.method}))
                    .collect();
                v["access_rules"] = rules;
            }
            t.insert("application_credential".into(), v);
        }
    }

    /// Access rules, as every service's front checks them.
    fn limits(&self) -> Map<String, Value> {
        let limited = self.application_credential.as_ref().is_some_and(|a| a.access_rules.is_some());
        let rules = || self.access_rules.iter().map(|r| json!({"service": r.service, "path": r.path, "method": r.method})).collect();
        if limited { Map::from_iter([("access_rules".to_string(), rules())]) } else { Map::new() }
    }

    /// What policy and the other services get.
    pub fn auth(&self, facts: &Facts, token: &str) -> Auth {
        let creds = Credentials {
            user_id: self.user.id.clone(),
            user_domain_id: Some(self.user.domain_id.clone()),
            project_id: self.project.as_ref().map(|(p, _)| p.id.clone()),
            project_domain_id: self.project.as_ref().map(|(_, d)| d.id.clone()),
            domain_id: self.domain.as_ref().map(|d| d.id.clone()),
            system_scope: (facts.scope == Scope::System).then(|| "all".to_string()),
            roles: self.roles.iter().map(|r| r.name.clone()).collect(),
            service_roles: Vec::new(),
            is_admin_project: true,
            extra: self.limits(),
        };
        Auth {
            creds,
            user: Named { id: self.user.id.clone(), name: self.user.name.clone() },
            user_domain: named(&self.user_domain),
            project: self.project.as_ref().map(|(p, _)| named(p)),
            project_domain: self.project.as_ref().map(|(_, d)| named(d)),
            domain: self.domain.as_ref().map(named),
            expires_at: facts.expires_at,
            issued_at: facts.issued_at,
            token: Secret::new(token.to_string()),
            methods: facts.methods.clone(),
            roles: self.roles.iter().map(role).collect(),
            audit_ids: facts.audit_ids.clone(),
            application_credential_id: match &facts.delegation {
                Delegation::ApplicationCredential(id) => Some(id.clone()),
                Delegation::Trust(_) | Delegation::None => None,
            },
            trust_id: self.trust.as_ref().map(|t| t.id.clone()),
        }
    }
}

fn role(r: &Role) -> Named {
    Named { id: r.id.clone(), name: r.name.clone() }
}
