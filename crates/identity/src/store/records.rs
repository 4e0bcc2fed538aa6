use caelum_base::Timestamp;
use caelum_store::{Record, Table, Value};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Attributes a client added that the API does not define; returned as they came.
pub type Extra = Map<String, Json>;

macro_rules! record {
    ($t:ty, $table:literal, [$($col:literal => |$s:ident| $v:expr),* $(,)?]) => {
        impl Record for $t {
            const TABLE: Table = Table { name: $table, columns: &[$($col),*] };
            fn id(&self) -> &str {
                &self.id
            }
            fn columns(&self) -> Vec<Value> {
                vec![$({ let $s = self; Value::from($v) }),*]
            }
        }
    };
}

/// A project, or a domain when `is_domain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub id: String,
    /// Empty for a domain.
    pub domain_id: String,
    /// The parent project or the domain; `None` for a domain.
    pub parent_id: Option<String>,
    pub name: String,
    pub description: String,
    pub enabled: bool,
    pub is_domain: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub options: Extra,
    #[serde(default)]
    pub extra: Extra,
}

record!(Project, "projects", [
    "domain_id" => |s| &s.domain_id,
    "parent_id" => |s| &s.parent_id,
    "name" => |s| &s.name,
    "is_domain" => |s| s.is_domain,
    "enabled" => |s| s.enabled,
]);

/// A password a user has or had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasswordHash {
    pub hash: String,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub domain_id: String,
    pub name: String,
    pub enabled: bool,
    pub default_project_id: Option<String>,
    /// The last one is in force.
    #[serde(default)]
    pub passwords: Vec<PasswordHash>,
    #[serde(default)]
    pub options: Extra,
    #[serde(default)]
    pub extra: Extra,
}

record!(User, "users", [
    "domain_id" => |s| &s.domain_id,
    "name" => |s| &s.name,
    "enabled" => |s| s.enabled,
    "default_project_id" => |s| &s.default_project_id,
]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub id: String,
    pub domain_id: String,
    pub name: String,
    pub description: String,
    #[serde(default)]
    pub extra: Extra,
}

record!(Group, "groups_", ["domain_id" => |s| &s.domain_id, "name" => |s| &s.name]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub id: String,
    /// Empty for a role of the whole cloud.
    pub domain_id: String,
    pub name: String,
    pub description: Option<String>,
    #[serde(default)]
    pub options: Extra,
    #[serde(default)]
    pub extra: Extra,
}

record!(Role, "roles", ["domain_id" => |s| &s.domain_id, "name" => |s| &s.name]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    pub id: String,
    pub parent_region_id: Option<String>,
    pub description: String,
    #[serde(default)]
    pub extra: Extra,
}

record!(Region, "regions", ["parent_region_id" => |s| &s.parent_region_id]);

/// A kind of service in the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatalogService {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Empty when the client gave none.
    pub name: String,
    pub enabled: bool,
    pub description: Option<String>,
    #[serde(default)]
    pub extra: Extra,
}

record!(CatalogService, "services", ["type" => |s| &s.kind, "name" => |s| &s.name]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub service_id: String,
    pub region_id: Option<String>,
    pub interface: String,
    pub url: String,
    pub enabled: bool,
    #[serde(default)]
    pub extra: Extra,
}

record!(Endpoint, "endpoints", [
    "service_id" => |s| &s.service_id,
    "region_id" => |s| &s.region_id,
    "interface" => |s| &s.interface,
]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointGroup {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub filters: Extra,
}

record!(EndpointGroup, "endpoint_groups", ["name" => |s| &s.name]);

/// A secret kept for a user; the blob is encrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    pub id: String,
    pub user_id: String,
    pub project_id: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    pub encrypted_blob: String,
    #[serde(default)]
    pub extra: Extra,
}

record!(Credential, "credentials", [
    "user_id" => |s| &s.user_id,
    "type" => |s| &s.kind,
    "project_id" => |s| &s.project_id,
]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplicationCredential {
    pub id: String,
    pub user_id: String,
    pub project_id: String,
    pub name: String,
    pub description: Option<String>,
    pub secret_hash: String,
    pub role_ids: Vec<String>,
    pub expires_at: Option<Timestamp>,
    pub unrestricted: bool,
    pub system: Option<String>,
    /// Ids of access rules; `None` when requests are not limited.
    #[serde(default)]
    pub access_rules: Option<Vec<String>>,
}

record!(ApplicationCredential, "application_credentials", [
    "user_id" => |s| &s.user_id,
    "project_id" => |s| &s.project_id,
    "name" => |s| &s.name,
]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessRule {
    pub id: String,
    pub user_id: String,
    pub service: String,
    pub method: String,
    pub path: String,
}

record!(AccessRule, "access_rules", [
    "user_id" => |s| &s.user_id,
    "service" => |s| &s.service,
    "method" => |s| &s.method,
    "path" => |s| &s.path,
]);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    pub id: String,
    pub trustor_user_id: String,
    pub trustee_user_id: String,
    pub project_id: Option<String>,
    pub impersonation: bool,
    pub expires_at: Option<Timestamp>,
    pub remaining_uses: Option<i64>,
    pub role_ids: Vec<String>,
    pub redelegation_count: i64,
    pub redelegated_trust_id: Option<String>,
    #[serde(default)]
    pub extra: Extra,
}

record!(Trust, "trusts", [
    "trustor_user_id" => |s| &s.trustor_user_id,
    "trustee_user_id" => |s| &s.trustee_user_id,
    "project_id" => |s| &s.project_id,
]);

/// A policy document kept for others; identity itself does not read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub blob: Json,
    #[serde(default)]
    pub extra: Extra,
}

record!(Policy, "policies", ["type" => |s| &s.kind]);

/// An OAuth 1 consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    pub id: String,
    pub description: Option<String>,
    pub encrypted_secret: String,
    #[serde(default)]
    pub extra: Extra,
}

record!(Consumer, "consumers", []);

/// Options of one domain; `id` is the domain's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainConfig {
    pub id: String,
    /// Group → option → value.
    pub groups: Extra,
}

record!(DomainConfig, "domain_configs", []);

/// The default of a resource's limit; `region_id` is empty when there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisteredLimit {
    pub id: String,
    pub service_id: String,
    pub region_id: String,
    pub resource_name: String,
    pub default_limit: i64,
    pub description: Option<String>,
}

record!(RegisteredLimit, "registered_limits", [
    "service_id" => |s| &s.service_id,
    "region_id" => |s| &s.region_id,
    "resource_name" => |s| &s.resource_name,
]);

/// A project's or domain's own limit; the other id is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub id: String,
    pub service_id: String,
    pub region_id: String,
    pub resource_name: String,
    pub project_id: String,
    pub domain_id: String,
    pub resource_limit: i64,
    pub description: Option<String>,
}

record!(Limit, "limits", [
    "service_id" => |s| &s.service_id,
    "region_id" => |s| &s.region_id,
    "resource_name" => |s| &s.resource_name,
    "project_id" => |s| &s.project_id,
    "domain_id" => |s| &s.domain_id,
]);
