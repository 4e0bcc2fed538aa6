//! Policy rules of attributes, with upstream's names.

use caelum_policy::{RuleDefault, personas};

const ADMIN: &str = "rule:admin_only";
/// The network's owner, another service, or an administrator.
const NETWORK_OWNER: &str = "rule:admin_only or role:service or (role:member and rule:network_owner)";
const ADMIN_OR_SERVICE: &str = "rule:admin_only or role:service";
const MEMBER: &str = personas::PROJECT_MEMBER_OR_ADMIN;

const fn rule(name: &'static str, check: &'static str) -> RuleDefault {
    RuleDefault { name, check, scopes: personas::PROJECT }
}

/// Attribute rules no operation carries itself.
pub const ATTRIBUTES: &[RuleDefault] = &[
    rule("create_network:shared", ADMIN),
    rule("create_network:router:external", ADMIN),
    rule("create_network:is_default", ADMIN),
    rule("create_network:port_security_enabled", MEMBER),
    rule("create_network:provider:network_type", ADMIN),
    rule("create_network:provider:physical_network", ADMIN),
    rule("create_network:provider:segmentation_id", ADMIN),
    rule("get_network:provider:network_type", ADMIN),
    rule("get_network:provider:physical_network", ADMIN),
    rule("get_network:provider:segmentation_id", ADMIN),
    rule("update_network:shared", ADMIN),
    rule("update_network:router:external", ADMIN),
    rule("update_network:is_default", ADMIN),
    rule("update_network:port_security_enabled", MEMBER),
    rule("create_subnet:service_types", ADMIN),
    rule("update_subnet:service_types", ADMIN),
    rule("create_subnetpool:shared", ADMIN),
    rule("create_subnetpool:is_default", ADMIN),
    rule("update_subnetpool:is_default", ADMIN),
    rule("create_port:device_owner", "not field:port:device_owner=~^network: or rule:admin_only or role:service"),
    rule("create_port:mac_address", NETWORK_OWNER),
    rule("create_port:fixed_ips", "rule:admin_only or role:service or (role:member and (rule:network_owner or rule:shared))"),
    rule("create_port:fixed_ips:ip_address", NETWORK_OWNER),
    rule("create_port:port_security_enabled", NETWORK_OWNER),
    rule("create_port:allowed_address_pairs", NETWORK_OWNER),
    rule("create_port:binding:host_id", ADMIN_OR_SERVICE),
    rule("create_port:binding:profile", ADMIN_OR_SERVICE),
    rule("create_port:binding:vnic_type", MEMBER),
    rule("get_port:binding:host_id", ADMIN_OR_SERVICE),
    rule("get_port:binding:profile", ADMIN_OR_SERVICE),
    rule("get_port:binding:vif_type", ADMIN_OR_SERVICE),
    rule("get_port:binding:vif_details", ADMIN_OR_SERVICE),
    rule("update_port:device_owner", "not field:port:device_owner=~^network: or rule:admin_only or role:service"),
    rule("update_port:mac_address", ADMIN_OR_SERVICE),
    rule("update_port:fixed_ips", "rule:admin_only or role:service or (role:member and (rule:network_owner or rule:shared))"),
    rule("update_port:fixed_ips:ip_address", NETWORK_OWNER),
    rule("update_port:port_security_enabled", NETWORK_OWNER),
    rule("update_port:allowed_address_pairs", NETWORK_OWNER),
    rule("update_port:binding:host_id", ADMIN_OR_SERVICE),
    rule("update_port:binding:profile", ADMIN_OR_SERVICE),
    rule("update_port:binding:vnic_type", "rule:admin_only or role:service or (role:member and project_id:%(project_id)s)"),
    rule("create_router:external_gateway_info", MEMBER),
    rule("create_router:external_gateway_info:enable_snat", ADMIN),
    rule("create_router:external_gateway_info:external_fixed_ips", ADMIN),
    rule("update_router:external_gateway_info", MEMBER),
    rule("update_router:external_gateway_info:enable_snat", ADMIN),
    rule("update_router:external_gateway_info:external_fixed_ips", ADMIN),
    rule("create_floatingip:floating_ip_address", ADMIN),
    rule("create_rbac_policy:target_tenant", "rule:admin_only or not field:rbac_policy:target_tenant=*"),
    rule("update_rbac_policy:target_tenant", "rule:admin_only or not field:rbac_policy:target_tenant=*"),
];
