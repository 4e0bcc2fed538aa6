//! A body for each operation that gets past decoding, so that what answers is the authorization.

use super::{Estate, PUBLIC_KEY};
use caelum_rest::OpInfo;
use serde_json::{Value, json};

/// `None` for operations that take no body.
pub fn body(op: &OpInfo, e: &Estate) -> Option<Value> {
    if let Some(action) = op.action {
        return Some(json!({action: action_body(action, e)}));
    }
    if !matches!(op.method.as_str(), "POST" | "PUT" | "PATCH") {
        return None;
    }
    let found = match op.service {
        "identity" => identity(op.name, e),
        "image" => image(op.name, e),
        "placement" => placement(op.name),
        "network" => network(op.name, e),
        "volume" => volume(op.name, e),
        "object" => None,
        _ => compute(op.name, e),
    };
    Some(found.unwrap_or_else(|| json!({})))
}

fn action_body(action: &str, e: &Estate) -> Value {
    match action {
        "reboot" => json!({"type": "SOFT"}),
        "os-getConsoleOutput" | "unshelve" | "lock" => json!({}),
        "rebuild" => json!({"imageRef": e.id("image", "images")}),
        "createImage" => json!({"name": "snap"}),
        "resize" => json!({"flavorRef": e.id("compute", "flavors")}),
        "changePassword" => json!({"adminPass": "secret-word"}),
        "os-resetState" => json!({"state": "active"}),
        "addSecurityGroup" | "removeSecurityGroup" => json!({"name": e.id("network", "security-groups")}),
        "addFixedIp" => json!({"networkId": e.id("network", "networks")}),
        "removeFixedIp" => json!({"address": "10.9.0.250"}),
        "addTenantAccess" | "removeTenantAccess" => json!({"tenant": e.id("identity", "projects")}),
        "addProjectAccess" | "removeProjectAccess" => json!({"project": e.id("identity", "projects")}),
        "add_host" | "remove_host" => json!({"host": "test-host"}),
        "set_metadata" => json!({"metadata": {"a": "b"}}),
        "os-getVNCConsole" => json!({"type": "novnc"}),
        "os-attach" => json!({"instance_uuid": e.id("compute", "servers"), "mountpoint": "/dev/vdz"}),
        "os-detach" | "os-force_detach" => json!({"attachment_id": super::NOBODY}),
        "os-initialize_connection" | "os-terminate_connection" => json!({"connector": {"host": "h", "initiator": "i"}}),
        "os-extend" => json!({"new_size": 2}),
        "os-update_readonly_flag" => json!({"readonly": false}),
        "os-set_bootable" => json!({"bootable": false}),
        "os-reset_status" => json!({"status": "available"}),
        "os-update_snapshot_status" => json!({"status": "available"}),
        "os-retype" => json!({"new_type": e.id("volume", "types"), "migration_policy": "never"}),
        "os-volume_upload_image" => json!({"image_name": "up", "container_format": "bare", "disk_format": "raw"}),
        "revert" => json!({"snapshot_id": e.id("volume", "snapshots")}),
        "os-set_image_metadata" => json!({"metadata": {"a": "b"}}),
        "os-unset_image_metadata" => json!({"key": "a"}),
        "os-complete" => json!({}),
        _ => Value::Null,
    }
}

fn identity(name: &str, e: &Estate) -> Option<Value> {
    let id = |kind| e.id("identity", kind);
    Some(match name {
        "domain_create" => json!({"domain": {"name": "matrix"}}),
        "domain_update" => json!({"domain": {"description": "d"}}),
        "project_create" => json!({"project": {"name": "matrix"}}),
        "project_update" => json!({"project": {"description": "d"}}),
        "project_tag_replace" => json!({"tags": ["a"]}),
        "user_create" => json!({"user": {"name": "matrix"}}),
        "user_update" => json!({"user": {"description": "d"}}),
        "user_password_change" => json!({"user": {"password": "b", "original_password": "a"}}),
        "group_create" => json!({"group": {"name": "matrix"}}),
        "group_update" => json!({"group": {"description": "d"}}),
        "role_create" => json!({"role": {"name": "matrix"}}),
        "role_update" => json!({"role": {"description": "d"}}),
        "region_create" => json!({"region": {"description": "matrix"}}),
        "region_create_named" | "region_update" => json!({"region": {"description": "d"}}),
        "service_create" => json!({"service": {"type": "matrix"}}),
        "service_update" => json!({"service": {"name": "d"}}),
        "endpoint_create" => json!({"endpoint": {"service_id": id("services"), "interface": "admin", "url": "http://127.0.0.1/"}}),
        "endpoint_update" => json!({"endpoint": {"url": "http://127.0.0.1/x"}}),
        "credential_create" => json!({"credential": {"type": "totp", "blob": "GEZDGNBW", "user_id": id("users")}}),
        "credential_update" => json!({"credential": {"blob": "GEZDGNBX"}}),
        "ec2_credential_create" => json!({"tenant_id": id("projects")}),
        "application_credential_create" => json!({"application_credential": {"name": "matrix"}}),
        "trust_create" => json!({"trust": {"trustor_user_id": id("users"), "trustee_user_id": id("users"), "impersonation": false,
            "project_id": id("projects"), "roles": [{"id": id("roles")}]}}),
        "policy_create" => json!({"policy": {"type": "application/json", "blob": "{}"}}),
        "policy_update" => json!({"policy": {"blob": "{}"}}),
        "consumer_create" => json!({"consumer": {"description": "d"}}),
        "consumer_update" => json!({"consumer": {"description": "e"}}),
        "endpoint_group_create" => json!({"endpoint_group": {"name": "matrix", "filters": {"interface": "public"}}}),
        "endpoint_group_update" => json!({"endpoint_group": {"name": "m"}}),
        "domain_config_create" | "domain_config_update" => json!({"config": {"identity": {"driver": "sql"}}}),
        "registered_limit_create" => {
            json!({"registered_limits": [{"service_id": id("services"), "resource_name": "matrix", "default_limit": 1}]})
        }
        "registered_limit_update" => json!({"registered_limit": {"default_limit": 2}}),
        "limit_create" => json!({"limits": [{"service_id": id("services"), "project_id": id("projects"), "resource_name": "matrix",
            "resource_limit": 1}]}),
        "limit_update" => json!({"limit": {"resource_limit": 1}}),
        _ => return None,
    })
}

fn image(name: &str, e: &Estate) -> Option<Value> {
    Some(match name {
        "image_create" => json!({"name": "matrix", "disk_format": "raw", "container_format": "bare"}),
        "image_update" => json!([{"op": "replace", "path": "/name", "value": "renamed"}]),
        "image_upload" | "image_stage" => json!("data"),
        "image_member_create" => json!({"member": e.id("identity", "projects")}),
        "image_member_update" => json!({"status": "accepted"}),
        "image_import" => json!({"method": {"name": "glance-direct"}}),
        "task_create" => json!({"type": "import", "input": {}}),
        "namespace_create" | "namespace_update" => json!({"namespace": "Matrix"}),
        "object_create" | "object_update" => json!({"name": "o"}),
        "property_create" | "property_update" => json!({"name": "p", "title": "p", "type": "string"}),
        "metadef_tags_create" => json!({"tags": [{"name": "t"}]}),
        "metadef_tag_update" => json!({"name": "t"}),
        "resource_type_associate" => json!({"name": "OS::Nova::Server"}),
        _ => return None,
    })
}

fn placement(name: &str) -> Option<Value> {
    let inventory = json!({"total": 1, "resource_provider_generation": 0});
    let allocation = json!({"allocations": {super::NOBODY: {"resources": {"VCPU": 1}}}, "project_id": "p", "user_id": "u",
        "consumer_generation": null, "consumer_type": "INSTANCE"});
    Some(match name {
        "resource_provider_create" => json!({"name": "matrix"}),
        "resource_provider_update" => json!({"name": "matrix-renamed"}),
        "aggregate_update" => json!({"aggregates": [], "resource_provider_generation": 0}),
        "provider_trait_update" => json!({"traits": [], "resource_provider_generation": 0}),
        "inventory_create" => json!({"resource_class": "VCPU", "total": 1}),
        "inventory_replace" => json!({"inventories": {"VCPU": {"total": 1}}, "resource_provider_generation": 0}),
        "inventory_update" => inventory,
        "resource_class_create" => json!({"name": "CUSTOM_MATRIX"}),
        "allocation_update" => allocation,
        "allocation_manage" => json!({super::NOBODY: allocation}),
        "reshaper" => json!({"inventories": {}, "allocations": {}}),
        _ => return None,
    })
}

fn network(name: &str, e: &Estate) -> Option<Value> {
    let id = |kind| e.id("network", kind);
    if name.ends_with("_tag_replace") {
        return Some(json!({"tags": ["present"]}));
    }
    Some(match name {
        "network_create" => json!({"network": {"name": "m"}}),
        "network_update" => json!({"network": {"name": "m2"}}),
        "subnet_create" => json!({"subnet": {"network_id": id("networks"), "ip_version": 4, "cidr": "10.10.0.0/24"}}),
        "subnet_update" => json!({"subnet": {"name": "m2"}}),
        "subnetpool_create" => json!({"subnetpool": {"name": "m", "prefixes": ["10.210.0.0/16"]}}),
        "subnetpool_update" => json!({"subnetpool": {"name": "m2"}}),
        "port_create" => json!({"port": {"network_id": id("networks")}}),
        "port_update" => json!({"port": {"name": "m2"}}),
        "security_group_create" => json!({"security_group": {"name": "m"}}),
        "security_group_update" => json!({"security_group": {"name": "m2"}}),
        "security_group_rule_create" => {
            json!({"security_group_rule": {"security_group_id": id("security-groups"), "direction": "egress", "protocol": "tcp"}})
        }
        "router_create" => json!({"router": {"name": "m"}}),
        "router_update" => json!({"router": {"name": "m2"}}),
        "router_interface_add" | "router_interface_remove" => json!({"subnet_id": id("subnets")}),
        "router_routes_add" | "router_routes_remove" => json!({"router": {"routes": []}}),
        "floatingip_create" => json!({"floatingip": {"floating_network_id": id("networks")}}),
        "floatingip_update" => json!({"floatingip": {"description": "m"}}),
        "rbac_policy_create" => json!({"rbac_policy": {"object_type": "network", "object_id": id("networks"),
            "action": "access_as_shared", "target_tenant": "e".repeat(32)}}),
        "rbac_policy_update" => json!({"rbac_policy": {"target_tenant": "d".repeat(32)}}),
        "quota_update" => json!({"quota": {"network": 100}}),
        "agent_dhcp_network_add" => json!({"network_id": id("networks")}),
        "agent_l3_router_add" => json!({"router_id": id("routers")}),
        _ => return None,
    })
}

fn volume(name: &str, e: &Estate) -> Option<Value> {
    let id = |kind| e.id("volume", kind);
    Some(match name {
        "volume_create" => json!({"volume": {"size": 1}}),
        "volume_update" => json!({"volume": {"name": "m2"}}),
        "volume_metadata_create" | "volume_metadata_replace" | "snapshot_metadata_create" | "snapshot_metadata_replace" => {
            json!({"metadata": {"present": "yes"}})
        }
        "volume_metadata_set" | "snapshot_metadata_set" => json!({"meta": {"present": "yes"}}),
        "attachment_create" => json!({"attachment": {"volume_uuid": id("volumes"), "instance_uuid": e.id("compute", "servers")}}),
        "attachment_update" => json!({"attachment": {"connector": {"host": "h"}}}),
        "snapshot_create" => json!({"snapshot": {"volume_id": id("volumes")}}),
        "snapshot_update" => json!({"snapshot": {"name": "m2"}}),
        "volume_type_create" => json!({"volume_type": {"name": "matrix"}}),
        "volume_type_update" => json!({"volume_type": {"description": "m2"}}),
        "volume_type_specs_create" => json!({"extra_specs": {"present": "yes"}}),
        "volume_type_spec_update" => json!({"present": "yes"}),
        "default_type_set" => json!({"default_type": {"volume_type": id("types")}}),
        "quota_update" => json!({"quota_set": {"volumes": 10}}),
        "quota_class_update" => json!({"quota_class_set": {"volumes": 10}}),
        "qos_create" => json!({"qos_specs": {"name": "matrix"}}),
        "qos_set" => json!({"qos_specs": {"a": "b"}}),
        "qos_unset" => json!({"keys": ["a"]}),
        "transfer_create" | "volume_transfer_create" => json!({"transfer": {"volume_id": id("volumes")}}),
        "transfer_accept" | "volume_transfer_accept" => json!({"accept": {"auth_key": "0123456789abcdef"}}),
        "backup_create" => json!({"backup": {"volume_id": id("volumes"), "name": "m"}}),
        "backup_update" => json!({"backup": {"name": "m2"}}),
        "backup_restore" => json!({"restore": {}}),
        "group_type_create" => json!({"group_type": {"name": "matrix"}}),
        "group_type_update" => json!({"group_type": {"description": "m2"}}),
        "group_type_specs_create" => json!({"group_specs": {"present": "yes"}}),
        "group_type_spec_update" => json!({"present": "yes"}),
        _ => return None,
    })
}

fn compute(name: &str, e: &Estate) -> Option<Value> {
    Some(match name {
        "server_create" => json!({"server": {"name": "m", "imageRef": e.id("image", "images"), "flavorRef": e.id("compute", "flavors"),
            "networks": "none"}}),
        "server_update" => json!({"server": {"name": "m2"}}),
        "server_metadata_update" | "server_metadata_replace" | "image_metadata_create" | "image_metadata_update" => {
            json!({"metadata": {"present": "yes"}})
        }
        "server_metadata_set" | "image_metadata_put" => json!({"meta": {"present": "yes"}}),
        "server_tag_replace" => json!({"tags": ["present"]}),
        "interface_attach" => json!({"interfaceAttachment": {"net_id": e.id("network", "networks")}}),
        "volume_attachment_create" => json!({"volumeAttachment": {"volumeId": e.id("volume", "volumes")}}),
        "volume_attachment_update" => json!({"volumeAttachment": {"volumeId": e.id("volume", "volumes")}}),
        "server_external_events" => json!({"events": [{"name": "network-changed", "server_uuid": e.id("compute", "servers")}]}),
        "flavor_create" => json!({"flavor": {"name": "matrix", "ram": 64, "vcpus": 1, "disk": 1}}),
        "flavor_update" => json!({"flavor": {"description": "m"}}),
        "flavor_specs_create" => json!({"extra_specs": {"present": "yes"}}),
        "flavor_spec_update" => json!({"present": "yes"}),
        "keypair_create" => json!({"keypair": {"name": "m", "type": "ssh", "public_key": PUBLIC_KEY}}),
        "quota_update" => json!({"quota_set": {"cores": 20}}),
        "quota_class_update" => json!({"quota_class_set": {"cores": 20}}),
        "service_update" => json!({"status": "enabled"}),
        "aggregate_create" => json!({"aggregate": {"name": "matrix"}}),
        "aggregate_update" => json!({"aggregate": {"name": "m2"}}),
        "server_group_create" => json!({"server_group": {"name": "m", "policy": "affinity"}}),
        "security_group_create" => json!({"security_group": {"name": "m", "description": "d"}}),
        "security_group_update" => json!({"security_group": {"name": "m2", "description": "d"}}),
        "security_group_rule_create" => json!({"security_group_rule": {"parent_group_id": e.id("network", "security-groups"),
            "ip_protocol": "tcp", "from_port": 1, "to_port": 2}}),
        "remote_console_create" => json!({"remote_console": {"protocol": "vnc", "type": "novnc"}}),
        _ => return None,
    })
}
