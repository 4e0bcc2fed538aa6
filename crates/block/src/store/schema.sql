-- Every table: id, the columns queries need, generation, body.
CREATE TABLE volumes (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, user_id TEXT NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL, size BIGINT NOT NULL, bootable BIGINT NOT NULL, availability_zone TEXT NOT NULL,
    volume_type_id TEXT NOT NULL, snapshot_id TEXT, source_volid TEXT, group_id TEXT, host TEXT NOT NULL,
    created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX volumes_project ON volumes (project_id, created_at);
CREATE INDEX volumes_group ON volumes (group_id);
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, volume_id TEXT NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL, size BIGINT NOT NULL, volume_type_id TEXT NOT NULL, group_snapshot_id TEXT,
    created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX snapshots_project ON snapshots (project_id, created_at);
CREATE INDEX snapshots_volume ON snapshots (volume_id);
CREATE TABLE attachments (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, volume_id TEXT NOT NULL, instance_uuid TEXT,
    status TEXT NOT NULL, created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX attachments_volume ON attachments (volume_id);
CREATE INDEX attachments_instance ON attachments (instance_uuid);
CREATE TABLE volume_types (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_public BIGINT NOT NULL, qos_specs_id TEXT,
    created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE qos_specs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at BIGINT NOT NULL,
    generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE quotas (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE default_types (id TEXT PRIMARY KEY, volume_type_id TEXT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE services (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE messages (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, resource_uuid TEXT NOT NULL, resource_type TEXT NOT NULL,
    event_id TEXT NOT NULL, request_id TEXT NOT NULL, message_level TEXT NOT NULL, guaranteed_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX messages_project ON messages (project_id, created_at);
CREATE TABLE transfers (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, volume_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE backups (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, volume_id TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL,
    status TEXT NOT NULL, size BIGINT NOT NULL, created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX backups_project ON backups (project_id, created_at);
CREATE TABLE group_types (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_public BIGINT NOT NULL, created_at BIGINT NOT NULL,
    generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE volume_groups (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL, group_type_id TEXT NOT NULL,
    created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE group_snapshots (
    id TEXT PRIMARY KEY, project_id TEXT NOT NULL, group_id TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL,
    created_at BIGINT NOT NULL, generation BIGINT NOT NULL, body TEXT NOT NULL
);
