-- Flavors, key pairs, groups, aggregates, services, quota.
CREATE TABLE flavors (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    is_public BIGINT NOT NULL,
    ram_mb BIGINT NOT NULL,
    vcpus BIGINT NOT NULL,
    root_gb BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE keypairs (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX keypairs_name ON keypairs (user_id, name);
CREATE TABLE server_groups (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX server_groups_project ON server_groups (project_id);
CREATE TABLE aggregates (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE services (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    binary_name TEXT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX services_host ON services (host, binary_name);
CREATE TABLE quota_sets (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
