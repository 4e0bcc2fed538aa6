CREATE TABLE images (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, visibility TEXT NOT NULL, status TEXT NOT NULL, size BIGINT NOT NULL, disk_format TEXT NOT NULL, container_format TEXT NOT NULL, os_hidden BIGINT NOT NULL, protected BIGINT NOT NULL, min_disk BIGINT NOT NULL, min_ram BIGINT NOT NULL, checksum TEXT NOT NULL, os_hash_value TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE INDEX images_owner ON images (owner, created_at);
CREATE INDEX images_visibility ON images (visibility, created_at);
CREATE TABLE image_facets (image_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (image_id, kind, name));
CREATE INDEX image_facets_name ON image_facets (kind, name, image_id);
CREATE TABLE retired_images (id TEXT PRIMARY KEY);
CREATE TABLE tasks (id TEXT PRIMARY KEY, generation BIGINT NOT NULL, body TEXT NOT NULL, image_id TEXT NOT NULL, owner TEXT NOT NULL, type TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, expires_at BIGINT NOT NULL);
CREATE INDEX tasks_image ON tasks (image_id);
CREATE INDEX tasks_expiry ON tasks (expires_at);
