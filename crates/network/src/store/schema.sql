CREATE TABLE networks (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  admin_state_up BIGINT NOT NULL,
  shared BIGINT NOT NULL,
  external BIGINT NOT NULL,
  is_default BIGINT NOT NULL,
  network_type TEXT NOT NULL,
  physical_network TEXT NOT NULL,
  segmentation_id BIGINT,
  mtu BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX networks_project ON networks (project_id);
CREATE UNIQUE INDEX networks_segment ON networks (network_type, segmentation_id) WHERE segmentation_id IS NOT NULL;
CREATE UNIQUE INDEX networks_flat ON networks (physical_network) WHERE network_type = 'flat';

CREATE TABLE subnets (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  network_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  ip_version BIGINT NOT NULL,
  cidr TEXT NOT NULL,
  gateway_ip TEXT NOT NULL,
  enable_dhcp BIGINT NOT NULL,
  subnetpool_id TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX subnets_network ON subnets (network_id);
CREATE INDEX subnets_project ON subnets (project_id);
CREATE INDEX subnets_pool ON subnets (subnetpool_id);

CREATE TABLE ports (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  network_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  mac TEXT NOT NULL,
  device_id TEXT NOT NULL,
  device_owner TEXT NOT NULL,
  host_id TEXT NOT NULL,
  status TEXT NOT NULL,
  admin_state_up BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE UNIQUE INDEX ports_mac ON ports (network_id, mac);
CREATE INDEX ports_project ON ports (project_id);
CREATE INDEX ports_device ON ports (device_id);
CREATE INDEX ports_owner ON ports (network_id, device_owner);
CREATE INDEX ports_host ON ports (host_id, status);

CREATE TABLE ip_allocations (
  subnet_id TEXT NOT NULL,
  ip_key TEXT NOT NULL,
  port_id TEXT NOT NULL,
  address TEXT NOT NULL,
  PRIMARY KEY (subnet_id, ip_key)
);
CREATE INDEX ip_allocations_port ON ip_allocations (port_id);
CREATE INDEX ip_allocations_address ON ip_allocations (address);

CREATE TABLE port_security_groups (
  port_id TEXT NOT NULL,
  security_group_id TEXT NOT NULL,
  PRIMARY KEY (port_id, security_group_id)
);
CREATE INDEX port_security_groups_group ON port_security_groups (security_group_id);

CREATE TABLE security_groups (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  is_default BIGINT NOT NULL,
  stateful BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX security_groups_project ON security_groups (project_id);
CREATE UNIQUE INDEX security_groups_default ON security_groups (project_id) WHERE is_default = 1;

CREATE TABLE security_group_rules (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  security_group_id TEXT NOT NULL,
  direction TEXT NOT NULL,
  ethertype TEXT NOT NULL,
  protocol TEXT NOT NULL,
  remote_group_id TEXT NOT NULL,
  remote_ip_prefix TEXT NOT NULL,
  port_range_min BIGINT,
  port_range_max BIGINT,
  description TEXT NOT NULL,
  identity TEXT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX security_group_rules_identity ON security_group_rules (security_group_id, identity);
CREATE INDEX security_group_rules_project ON security_group_rules (project_id);
CREATE INDEX security_group_rules_remote ON security_group_rules (remote_group_id);

CREATE TABLE routers (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  admin_state_up BIGINT NOT NULL,
  status TEXT NOT NULL,
  gateway_network_id TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX routers_project ON routers (project_id);
CREATE INDEX routers_gateway ON routers (gateway_network_id);

CREATE TABLE floating_ips (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  description TEXT NOT NULL,
  floating_network_id TEXT NOT NULL,
  floating_ip_address TEXT NOT NULL,
  fixed_ip_address TEXT,
  port_id TEXT,
  router_id TEXT,
  status TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX floating_ips_project ON floating_ips (project_id);
CREATE INDEX floating_ips_router ON floating_ips (router_id);
CREATE INDEX floating_ips_address ON floating_ips (floating_ip_address);
CREATE UNIQUE INDEX floating_ips_fixed ON floating_ips (port_id, fixed_ip_address) WHERE port_id IS NOT NULL;

CREATE TABLE subnetpools (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  ip_version BIGINT NOT NULL,
  shared BIGINT NOT NULL,
  is_default BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  tags TEXT NOT NULL
);
CREATE INDEX subnetpools_project ON subnetpools (project_id);

CREATE TABLE rbac_policies (
  id TEXT PRIMARY KEY,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL,
  project_id TEXT NOT NULL,
  object_type TEXT NOT NULL,
  object_id TEXT NOT NULL,
  target_project TEXT NOT NULL,
  action TEXT NOT NULL
);
CREATE UNIQUE INDEX rbac_policies_key ON rbac_policies (object_type, object_id, target_project, action);
CREATE INDEX rbac_policies_target ON rbac_policies (target_project);

CREATE TABLE quotas (
  project_id TEXT NOT NULL,
  resource TEXT NOT NULL,
  amount BIGINT NOT NULL,
  PRIMARY KEY (project_id, resource)
);

CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  value BIGINT NOT NULL
);
