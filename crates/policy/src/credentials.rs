//! What is known about the caller, and how check strings name it.

use serde_json::{Map, Value};

/// What a token is scoped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    System,
    Domain,
    Project,
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Domain => "domain",
            Self::Project => "project",
        }
    }
}

/// The caller, as the authentication chain established it. Never filled from a request body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credentials {
    pub user_id: String,
    pub user_domain_id: Option<String>,
    pub project_id: Option<String>,
    pub project_domain_id: Option<String>,
    pub domain_id: Option<String>,
    /// `Some("all")` for a system-scoped token.
    pub system_scope: Option<String>,
    /// Role names with implied roles included; compared without regard to case.
    pub roles: Vec<String>,
    /// Role names of the service token sent along, if any.
    pub service_roles: Vec<String>,
    /// True unless the deployment names an admin project and this is another one.
    pub is_admin_project: bool,
    /// Further attributes a check string may name, nested by dots.
    pub extra: Map<String, Value>,
}

impl Credentials {
    /// The token's scope; `None` for an unscoped token.
    pub fn scope(&self) -> Option<Scope> {
        if self.system_scope.is_some() {
            Some(Scope::System)
        } else if self.domain_id.is_some() {
            Some(Scope::Domain)
        } else if self.project_id.is_some() {
            Some(Scope::Project)
        } else {
            None
        }
    }

    pub fn has_role(&self, name: &str) -> bool {
        self.roles.iter().any(|r| same_role(r, name))
    }

    pub fn has_service_role(&self, name: &str) -> bool {
        self.service_roles.iter().any(|r| same_role(r, name))
    }
}

pub(crate) fn same_role(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
}

/// A credential attribute, resolved from its name when the rule is compiled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attribute {
    UserId,
    UserDomainId,
    ProjectId,
    ProjectDomainId,
    DomainId,
    SystemScope,
    Roles,
    ServiceRoles,
    IsAdminProject,
    Extra(Vec<String>),
}

impl Attribute {
    pub fn parse(name: &str) -> Self {
        match name {
            "user_id" | "user" | "token.user.id" => Self::UserId,
            "user_domain_id" | "user_domain" | "token.user.domain.id" => Self::UserDomainId,
            "project_id" | "tenant_id" | "tenant" | "token.project.id" => Self::ProjectId,
            "project_domain_id" | "project_domain" | "token.project.domain.id" => Self::ProjectDomainId,
            "domain_id" | "domain" | "token.domain.id" => Self::DomainId,
            "system_scope" | "system" => Self::SystemScope,
            "roles" => Self::Roles,
            "service_roles" => Self::ServiceRoles,
            "is_admin_project" | "token.is_admin_project" => Self::IsAdminProject,
            other => Self::Extra(other.split('.').map(str::to_owned).collect()),
        }
    }

    /// Whether `test` accepts the attribute's text, or that of any element if it is a list. An
    /// absent attribute accepts nothing, and neither does an empty text: it identifies nobody.
    pub fn any(&self, creds: &Credentials, test: &dyn Fn(&str) -> bool) -> bool {
        let test = &|text: &str| !text.is_empty() && test(text);
        let opt = |v: &Option<String>| v.as_deref().is_some_and(test);
        match self {
            Self::UserId => test(&creds.user_id),
            Self::UserDomainId => opt(&creds.user_domain_id),
            Self::ProjectId => opt(&creds.project_id),
            Self::ProjectDomainId => opt(&creds.project_domain_id),
            Self::DomainId => opt(&creds.domain_id),
            Self::SystemScope => opt(&creds.system_scope),
            Self::Roles => creds.roles.iter().any(|r| test(r)),
            Self::ServiceRoles => creds.service_roles.iter().any(|r| test(r)),
            Self::IsAdminProject => test(python_bool(creds.is_admin_project)),
            Self::Extra(path) => match path.split_first() {
                Some((first, rest)) => creds.extra.get(first).is_some_and(|v| any_value(v, rest, test)),
                None => false,
            },
        }
    }

    /// Whether the attribute has no value, which a check string may ask for as `name:None`.
    pub fn is_none(&self, creds: &Credentials) -> bool {
        match self {
            Self::UserDomainId => creds.user_domain_id.is_none(),
            Self::ProjectId => creds.project_id.is_none(),
            Self::ProjectDomainId => creds.project_domain_id.is_none(),
            Self::DomainId => creds.domain_id.is_none(),
            Self::SystemScope => creds.system_scope.is_none(),
            Self::UserId | Self::Roles | Self::ServiceRoles | Self::IsAdminProject => false,
            Self::Extra(path) => match path.as_slice() {
                [name] => creds.extra.get(name).is_some_and(Value::is_null),
                _ => false,
            },
        }
    }
}

fn any_value(value: &Value, path: &[String], test: &dyn Fn(&str) -> bool) -> bool {
    match (value, path.split_first()) {
        (Value::Array(items), _) => items.iter().any(|v| any_value(v, path, test)),
        (Value::Object(map), Some((key, rest))) => map.get(key).is_some_and(|v| any_value(v, rest, test)),
        (_, Some(_)) | (Value::Null | Value::Object(_), None) => false,
        (Value::String(s), None) => test(s),
        (Value::Bool(b), None) => test(python_bool(*b)),
        (Value::Number(n), None) => test(&n.to_string()),
    }
}

/// Booleans as check strings spell them: `True:%(is_public)s`.
pub(crate) const fn python_bool(b: bool) -> &'static str {
    if b { "True" } else { "False" }
}
