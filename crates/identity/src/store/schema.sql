-- One row: counts writes, so that every process notices the others' within a moment.
CREATE TABLE meta (name TEXT PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO meta (name, value) VALUES ('epoch', 1);

-- Projects and domains; a domain has is_domain = 1 and an empty domain_id.
CREATE TABLE projects (id TEXT PRIMARY KEY, domain_id TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL, is_domain BIGINT NOT NULL, enabled BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX projects_name ON projects (is_domain, domain_id, name);
CREATE INDEX projects_parent ON projects (parent_id);

CREATE TABLE users (id TEXT PRIMARY KEY, domain_id TEXT NOT NULL, name TEXT NOT NULL, enabled BIGINT NOT NULL, default_project_id TEXT, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX users_name ON users (domain_id, name);
-- Failed attempts to log in; kept apart because they change without changing the user.
CREATE TABLE lockouts (user_id TEXT PRIMARY KEY, failures BIGINT NOT NULL, failed_at BIGINT NOT NULL);

CREATE TABLE groups_ (id TEXT PRIMARY KEY, domain_id TEXT NOT NULL, name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX groups_name ON groups_ (domain_id, name);
CREATE TABLE memberships (user_id TEXT NOT NULL, group_id TEXT NOT NULL, PRIMARY KEY (user_id, group_id));
CREATE INDEX memberships_group ON memberships (group_id);

-- A role without a domain has an empty domain_id.
CREATE TABLE roles (id TEXT PRIMARY KEY, domain_id TEXT NOT NULL, name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX roles_name ON roles (domain_id, name);
CREATE TABLE implied_roles (prior_id TEXT NOT NULL, implied_id TEXT NOT NULL, PRIMARY KEY (prior_id, implied_id));
-- actor: user or group; target: project, domain or system.
CREATE TABLE assignments (actor TEXT NOT NULL, actor_id TEXT NOT NULL, target TEXT NOT NULL, target_id TEXT NOT NULL, role_id TEXT NOT NULL, inherited BIGINT NOT NULL, PRIMARY KEY (actor_id, actor, target_id, target, role_id, inherited));
CREATE INDEX assignments_target ON assignments (target_id);
CREATE INDEX assignments_role ON assignments (role_id);

CREATE TABLE regions (id TEXT PRIMARY KEY, parent_region_id TEXT, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE services (id TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE endpoints (id TEXT PRIMARY KEY, service_id TEXT NOT NULL, region_id TEXT, interface TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE INDEX endpoints_service ON endpoints (service_id);
CREATE TABLE endpoint_groups (id TEXT PRIMARY KEY, name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
-- kind: endpoint or endpoint_group.
CREATE TABLE endpoint_projects (kind TEXT NOT NULL, id TEXT NOT NULL, project_id TEXT NOT NULL, PRIMARY KEY (kind, id, project_id));

CREATE TABLE credentials (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, type TEXT NOT NULL, project_id TEXT, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE INDEX credentials_user ON credentials (user_id);
CREATE TABLE application_credentials (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, project_id TEXT NOT NULL, name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX application_credentials_name ON application_credentials (user_id, name);
CREATE TABLE access_rules (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, service TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX access_rules_user ON access_rules (user_id, service, method, path);
CREATE TABLE trusts (id TEXT PRIMARY KEY, trustor_user_id TEXT NOT NULL, trustee_user_id TEXT NOT NULL, project_id TEXT, generation BIGINT NOT NULL, body TEXT NOT NULL);

CREATE TABLE policies (id TEXT PRIMARY KEY, type TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE consumers (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE domain_configs (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE registered_limits (id TEXT PRIMARY KEY, service_id TEXT NOT NULL, region_id TEXT NOT NULL, resource_name TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX registered_limits_resource ON registered_limits (service_id, region_id, resource_name);
CREATE TABLE limits (id TEXT PRIMARY KEY, service_id TEXT NOT NULL, region_id TEXT NOT NULL, resource_name TEXT NOT NULL, project_id TEXT NOT NULL, domain_id TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX limits_resource ON limits (service_id, region_id, resource_name, project_id, domain_id);

-- A token is revoked when every filled column of a row fits it and it was issued no later than
-- issued_before (microseconds). Rows go when no token that old can still be valid.
CREATE TABLE revocations (id TEXT PRIMARY KEY, audit_id TEXT, audit_chain_id TEXT, user_id TEXT, target_id TEXT, issued_before BIGINT NOT NULL);
CREATE INDEX revocations_age ON revocations (issued_before);
CREATE INDEX revocations_user ON revocations (user_id);
CREATE INDEX revocations_audit ON revocations (audit_id);
CREATE INDEX revocations_chain ON revocations (audit_chain_id);
