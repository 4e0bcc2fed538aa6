-- A project's usage is summed in the transaction of every create: from this index alone.
CREATE INDEX servers_usage ON servers (project_id, vcpus, ram_mb);
