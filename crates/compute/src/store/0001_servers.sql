-- Servers, what happened to them, and what is too big to rewrite with every change of state.
CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    project_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    hostname TEXT NOT NULL,
    host TEXT,
    image_id TEXT,
    flavor_id TEXT NOT NULL,
    group_id TEXT,
    vm_state TEXT NOT NULL,
    task TEXT,
    status TEXT NOT NULL,
    power BIGINT NOT NULL,
    vcpus BIGINT NOT NULL,
    ram_mb BIGINT NOT NULL,
    locked BIGINT NOT NULL,
    reservation_id TEXT NOT NULL,
    key_name TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX servers_project ON servers (project_id, created_at);
CREATE INDEX servers_created ON servers (created_at);
CREATE INDEX servers_host ON servers (host);
CREATE INDEX servers_group ON servers (group_id);
CREATE INDEX servers_task ON servers (task);

-- user_data and injected files: read when a config drive is made or the metadata service asks.
CREATE TABLE server_data (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);

-- Ports and volumes of a server, for lookups by port, address or volume.
CREATE TABLE server_refs (
    server_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    ref TEXT NOT NULL,
    PRIMARY KEY (kind, ref, server_id)
);
CREATE INDEX server_refs_server ON server_refs (server_id);

CREATE TABLE instance_actions (
    id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX instance_actions_server ON instance_actions (server_id, started_at);
CREATE INDEX instance_actions_started ON instance_actions (started_at);
