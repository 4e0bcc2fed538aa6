-- Console tokens, as hashes: who reads the database cannot open a console.
CREATE TABLE console_tokens (
    id TEXT PRIMARY KEY,
    server_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX console_tokens_expires ON console_tokens (expires_at);
CREATE INDEX console_tokens_server ON console_tokens (server_id);
