//! `/extensions`: the names under which parts of this API were once optional.

use crate::State;
use caelum_base::{Error, Result};
use caelum_policy::personas::{ANYONE, PROJECT};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

const RULE: Access = Access::rule("os_compute_api:extensions", ANYONE, PROJECT);

pub const OPS: &[Op<State>] =
    &[Op::get("extension_list", "/extensions", RULE, h!(list)), Op::get("extension_show", "/extensions/{alias}", RULE, h!(show))];

/// Alias, name, what it gives.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    ("os-admin-actions", "AdminActions", "Administrators' actions on servers."),
    ("os-aggregates", "Aggregates", "Groups of hosts."),
    ("os-availability-zone", "AvailabilityZone", "Availability zones."),
    ("os-console-auth-tokens", "ConsoleAuthTokens", "What a console token leads to."),
    ("os-console-output", "ConsoleOutput", "The serial console's log."),
    ("os-consoles", "Consoles", "Remote consoles."),
    ("os-extended-availability-zone", "ExtendedAvailabilityZone", "Availability zone of servers."),
    ("os-extended-server-attributes", "ExtendedServerAttributes", "Host and names of servers, for administrators."),
    ("os-extended-status", "ExtendedStatus", "Task, VM and power states of servers."),
    ("os-extended-volumes", "ExtendedVolumes", "Volumes of servers."),
    ("os-flavor-access", "FlavorAccess", "Flavors for some projects only."),
    ("os-flavor-extra-specs", "FlavorExtraSpecs", "Extra specs of flavors."),
    ("os-flavor-manage", "FlavorManage", "Creation and deletion of flavors."),
    ("os-hosts", "Hosts", "Hosts, for administrators."),
    ("os-hypervisors", "Hypervisors", "Hypervisors, for administrators."),
    ("os-instance-actions", "InstanceActions", "What happened to servers."),
    ("os-keypairs", "Keypairs", "Key pairs of users."),
    ("os-migrations", "Migrations", "Migrations of servers."),
    ("os-quota-class-sets", "QuotaClasses", "Default quota."),
    ("os-quota-sets", "Quotas", "Quota of projects."),
    ("os-remote-consoles", "Consoles", "Remote consoles."),
    ("os-security-groups", "SecurityGroups", "Security groups."),
    ("os-server-groups", "ServerGroups", "Affinity of servers."),
    ("os-services", "Services", "Compute's services."),
    ("os-simple-tenant-usage", "SimpleTenantUsage", "What projects use."),
    ("servers", "Servers", "Servers."),
];

fn view((alias, name, description): &(&str, &str, &str)) -> Value {
    json!({
        "alias": alias, "name": name, "description": description, "links": [], "updated": "2014-12-03T00:00:00Z",
        "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
    })
}

async fn list(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    Reply::ok(&json!({"extensions": EXTENSIONS.iter().map(view).collect::<Vec<_>>()}))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let alias = cx.param("alias");
    let found = EXTENSIONS.iter().find(|e| e.0 == alias);
    let e = found.ok_or_else(|| Error::not_found(format!("Extension {alias} could not be found.")))?;
    Reply::ok(&json!({"extension": view(e)}))
}
