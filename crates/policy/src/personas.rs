//! The standard personas (admin, manager, member, reader; project, domain, system; service) as
//! check strings, and the helper rules each service's own rule names refer to.
//!
//! The plain check strings need no helper rules. The per-service lists carry the helper names
//! operators' policy files refer to; register the list together with the service's rules.

use crate::{RuleDefault, Scope};

pub const PROJECT: &[Scope] = &[Scope::Project];
pub const SYSTEM: &[Scope] = &[Scope::System];
pub const DOMAIN: &[Scope] = &[Scope::Domain];
pub const SYSTEM_PROJECT: &[Scope] = &[Scope::System, Scope::Project];
pub const DOMAIN_PROJECT: &[Scope] = &[Scope::Domain, Scope::Project];
pub const SYSTEM_DOMAIN: &[Scope] = &[Scope::System, Scope::Domain];
pub const ANY_SCOPE: &[Scope] = &[Scope::System, Scope::Domain, Scope::Project];

pub const ANYONE: &str = "@";
pub const NOBODY: &str = "!";
pub const ADMIN: &str = "role:admin";
pub const SERVICE: &str = "role:service";
pub const ADMIN_OR_SERVICE: &str = "role:admin or role:service";
/// The user acted on is the caller.
pub const OWNER: &str = "user_id:%(user_id)s";
pub const ADMIN_OR_OWNER: &str = "role:admin or user_id:%(user_id)s";

pub const PROJECT_MANAGER: &str = "role:manager and project_id:%(project_id)s";
pub const PROJECT_MEMBER: &str = "role:member and project_id:%(project_id)s";
pub const PROJECT_READER: &str = "role:reader and project_id:%(project_id)s";
pub const PROJECT_MANAGER_OR_ADMIN: &str = "role:admin or (role:manager and project_id:%(project_id)s)";
pub const PROJECT_MEMBER_OR_ADMIN: &str = "role:admin or (role:member and project_id:%(project_id)s)";
pub const PROJECT_READER_OR_ADMIN: &str = "role:admin or (role:reader and project_id:%(project_id)s)";

pub const SYSTEM_ADMIN: &str = "role:admin and system_scope:all";
pub const SYSTEM_READER: &str = "role:reader and system_scope:all";
pub const SYSTEM_READER_OR_ADMIN: &str = "role:admin or (role:reader and system_scope:all)";
pub const SYSTEM_READER_OR_OWNER_OR_ADMIN: &str = "role:admin or (role:reader and system_scope:all) or user_id:%(target.user.id)s";

pub const DOMAIN_MANAGER: &str = "role:manager and domain_id:%(target.domain_id)s";
pub const DOMAIN_READER: &str = "role:reader and domain_id:%(target.domain_id)s";

const fn helper(name: &'static str, check: &'static str) -> RuleDefault {
    RuleDefault::helper(name, check)
}

/// Helper rules of compute.
pub const COMPUTE: &[RuleDefault] = &[
    helper("context_is_admin", ADMIN),
    helper("admin_api", "is_admin:True"),
    helper("admin_or_owner", "is_admin:True or project_id:%(project_id)s"),
    helper("service_api", SERVICE),
    helper("project_manager_api", PROJECT_MANAGER),
    helper("project_member_api", PROJECT_MEMBER),
    helper("project_reader_api", PROJECT_READER),
    helper("project_manager_or_admin", "rule:project_manager_api or rule:context_is_admin"),
    helper("project_member_or_admin", "rule:project_member_api or rule:context_is_admin"),
    helper("project_reader_or_admin", "rule:project_reader_api or rule:context_is_admin"),
    helper("service_or_admin", "rule:service_api or rule:context_is_admin"),
];

/// Helper rules of network. Targets carry `network:project_id` and `ext_parent:project_id` of the
/// owning network or parent resource.
pub const NETWORK: &[RuleDefault] = &[
    helper("context_is_admin", ADMIN),
    helper("context_is_advsvc", "role:advsvc"),
    helper("service_api", SERVICE),
    helper("owner", "project_id:%(project_id)s"),
    helper("admin_or_owner", "rule:context_is_admin or rule:owner"),
    helper("admin_only", "rule:context_is_admin"),
    helper("regular_user", ""),
    helper("default", "rule:admin_or_owner"),
    helper("admin_or_data_plane_int", "rule:context_is_admin or role:data_plane_integrator"),
    helper("shared", "field:networks:shared=True"),
    helper("external", "field:networks:router:external=True"),
    helper("network_owner", "project_id:%(network:project_id)s"),
    helper("admin_or_network_owner", "rule:context_is_admin or rule:network_owner"),
    helper("admin_owner_or_network_owner", "rule:owner or rule:admin_or_network_owner"),
    helper("network_owner_or_service", "rule:network_owner or rule:service_api"),
    helper("ext_parent_owner", "project_id:%(ext_parent:project_id)s"),
    helper("admin_or_ext_parent_owner", "rule:context_is_admin or rule:ext_parent_owner"),
    helper("sg_owner", "project_id:%(security_group:project_id)s"),
    helper("admin_or_sg_owner", "rule:context_is_admin or rule:sg_owner"),
];

/// Helper rules of block storage.
pub const BLOCK: &[RuleDefault] = &[
    helper("context_is_admin", ADMIN),
    helper("admin_api", "is_admin:True or (role:admin and is_admin_project:True)"),
    helper("admin_or_owner", "is_admin:True or (role:admin and is_admin_project:True) or project_id:%(project_id)s"),
    helper("xena_system_admin_or_project_reader", "(role:admin) or (role:reader and project_id:%(project_id)s)"),
    helper("xena_system_admin_or_project_member", "(role:admin) or (role:member and project_id:%(project_id)s)"),
];

/// Helper rules of image.
pub const IMAGE: &[RuleDefault] = &[helper("default", ""), helper("context_is_admin", ADMIN), helper("service_api", SERVICE)];

/// Helper rules of identity.
pub const IDENTITY: &[RuleDefault] = &[
    helper("admin_required", "role:admin or is_admin:1"),
    helper("service_role", SERVICE),
    helper("service_or_admin", "rule:admin_required or rule:service_role"),
    helper("owner", OWNER),
    helper("admin_or_owner", "rule:admin_required or rule:owner"),
    helper("token_subject", "user_id:%(target.token.user_id)s"),
    helper("admin_or_token_subject", "rule:admin_required or rule:token_subject"),
    helper("service_admin_or_token_subject", "rule:service_or_admin or rule:token_subject"),
];

/// Helper rules of placement.
pub const PLACEMENT: &[RuleDefault] = &[
    helper("admin_api", ADMIN),
    helper("service_api", SERVICE),
    helper("admin_or_service_api", "rule:admin_api or rule:service_api"),
    helper("system_admin_api", SYSTEM_ADMIN),
    helper("system_reader_api", SYSTEM_READER),
    helper("project_reader_api", PROJECT_READER),
    helper("admin_or_project_reader_or_service_api", "rule:admin_api or rule:project_reader_api or rule:service_api"),
];
