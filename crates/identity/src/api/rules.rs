//! Check strings of identity's rules, by who they admit. Names of rules stand at the operations.

use caelum_policy::{RuleDefault, Scope, personas};
use caelum_rest::Access;

/// Any scope, and tokens without one (a user reads itself with an unscoped token).
pub const ANY: &[Scope] = &[];

pub const ADMIN: &str = "rule:admin_required";
pub const ADMIN_OR_SYSTEM_READER: &str = "rule:admin_required or (role:reader and system_scope:all)";
pub const ADMIN_OR_OWNER: &str = "rule:admin_required or rule:owner";
pub const OWNER: &str = "rule:owner";
pub const ADMIN_SYSTEM_READER_OR_OWNER: &str = "rule:admin_required or (role:reader and system_scope:all) or rule:owner";

pub const USER_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and token.domain.id:%(target.user.domain_id)s) or user_id:%(target.user.id)s";
pub const DOMAIN_LIST: &str =
    "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.domain_id)s)";
pub const USER_WRITE: &str = "rule:admin_required or (role:manager and token.domain.id:%(target.user.domain_id)s)";
pub const USER_PROJECTS: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(target.user.id)s";
pub const USER_GROUPS: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(user_id)s";

pub const PROJECT_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.project.domain_id)s) or project_id:%(target.project.id)s";
pub const PROJECT_WRITE: &str = "rule:admin_required or (role:manager and domain_id:%(target.project.domain_id)s)";

pub const DOMAIN_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or token.domain.id:%(target.domain.id)s or token.project.domain.id:%(target.domain.id)s";
pub const DOMAINS_LIST: &str =
    "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.domain.id)s)";

pub const GROUP_SHOW: &str =
    "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.group.domain_id)s)";
pub const GROUP_WRITE: &str = "rule:admin_required or (role:manager and domain_id:%(target.group.domain_id)s)";
pub const MEMBER_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)";
pub const MEMBER_WRITE: &str =
    "rule:admin_required or (role:manager and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)";

pub const ROLE_SHOW: &str =
    "rule:admin_required or (role:reader and system_scope:all) or (role:manager and rule:domain_managed_target_role)";
pub const ROLE_LIST: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:manager and not domain_id:None)";

pub const GRANT_SHOW: &str =
    "rule:admin_required or (role:reader and system_scope:all) or (role:reader and rule:grant_in_domain and rule:grant_role_in_domain)";
pub const GRANT_LIST: &str = "rule:admin_required or (role:reader and system_scope:all) or (role:reader and rule:grant_in_domain)";
pub const GRANT_WRITE: &str =
    "rule:admin_required or (role:manager and rule:grant_in_domain and rule:grant_role_in_domain and rule:domain_managed_target_role)";

pub const CREDENTIAL_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or user_id:%(target.credential.user_id)s";
pub const CREDENTIAL_WRITE: &str = "rule:admin_required or user_id:%(target.credential.user_id)s";
pub const EC2_WRITE: &str = "rule:admin_required or (role:member and user_id:%(target.credential.user_id)s)";

pub const ACCESS_RULE_SHOW: &str = "(role:reader and system_scope:all) or user_id:%(target.user.id)s";
pub const ACCESS_RULE_WRITE: &str = "(role:admin and system_scope:all) or user_id:%(target.user.id)s";

pub const TRUSTOR: &str = "user_id:%(target.trust.trustor_user_id)s";
pub const TRUST_WRITE: &str = "rule:admin_required or user_id:%(target.trust.trustor_user_id)s";
pub const TRUST_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s";

pub const TOKEN_CHECK: &str = "rule:admin_required or (role:reader and system_scope:all) or rule:token_subject";
pub const TOKEN_VALIDATE: &str = "rule:admin_required or (role:reader and system_scope:all) or rule:service_role or rule:token_subject";
pub const TOKEN_REVOKE: &str = "rule:admin_required or rule:token_subject";
pub const LIMIT_SHOW: &str = "rule:admin_required or (role:reader and system_scope:all) or domain_id:%(target.limit.domain_id)s or domain_id:%(target.limit.project_domain_id)s or project_id:%(target.limit.project_id)s";
pub const ANYONE: &str = "@";

/// Helper rules besides the common ones.
pub const HELPERS: &[RuleDefault] = &[
    RuleDefault::helper(
        "domain_managed_target_role",
        "'manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s",
    ),
    RuleDefault::helper(
        "grant_in_domain",
        "(domain_id:%(target.user.domain_id)s or domain_id:%(target.group.domain_id)s) and (domain_id:%(target.project.domain_id)s or domain_id:%(target.domain.id)s)",
    ),
    RuleDefault::helper("grant_role_in_domain", "domain_id:%(target.role.domain_id)s or 'None':%(target.role.domain_id)s"),
];

pub fn all_helpers() -> Vec<RuleDefault> {
    personas::IDENTITY.iter().chain(HELPERS).copied().collect()
}

/// An operation guarded by a rule, for any scope.
pub const fn ruled(name: &'static str, check: &'static str) -> Access {
    Access::rule(name, check, ANY)
}
