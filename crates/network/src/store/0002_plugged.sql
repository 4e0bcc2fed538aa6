-- What a host is told is computed from its networks' plugged ports and its groups' members: both from
-- indexes alone, because a network may have thousands of ports.
CREATE INDEX ports_plugged ON ports (network_id, host_id);
CREATE INDEX ports_bound ON ports (id, host_id);
CREATE INDEX port_security_groups_members ON port_security_groups (security_group_id, port_id);
