//! Generated from the operation registry: every operation × every persona against a golden file, and
//! every id-bearing path and body field with another project's ids.
//!
//! `CAELUM_BLESS=1 cargo test -p caelum-testkit --test matrix` rewrites `conformance/authorization.tsv`.

mod common;

use caelum_rest::{Access, OpInfo};
use caelum_testkit::{PASSWORD, TestCloud};
use common::bodies::body;
use common::{Estate, NOBODY, ask, estate, operations, title};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Name, roles in the estate's project, roles in another project. Without either the token is special.
const PERSONAS: &[(&str, &[&str], &[&str])] = &[
    ("anonymous", &[], &[]),
    ("forged", &[], &[]),
    ("revoked", &[], &[]),
    ("no-role", &["unrelated"], &[]),
    ("reader", &["reader"], &[]),
    ("member", &["member"], &[]),
    ("manager", &["manager"], &[]),
    ("admin", &["admin"], &[]),
    ("service", &["service"], &[]),
    ("other-reader", &[], &["reader"]),
    ("other-member", &[], &["member"]),
    ("other-manager", &[], &["manager"]),
    ("other-admin", &[], &["admin"]),
    ("system-reader", &[], &[]),
    ("system-admin", &[], &[]),
    ("domain-reader", &[], &[]),
    ("domain-admin", &[], &[]),
    ("app-credential-reader", &[], &[]),
    ("trust-reader", &[], &[]),
];

/// Columns of the golden file by operation.
type Table = BTreeMap<String, Vec<(&'static str, String)>>;

/// Things are read and changed first, then deleted, children before parents; what ends a server is last.
fn in_order(ops: &[OpInfo]) -> Vec<&OpInfo> {
    let (mut late, mut out): (Vec<&OpInfo>, Vec<&OpInfo>) =
        ops.iter().partition(|o| o.method == Method::DELETE || matches!(o.action, Some("forceDelete" | "os-force_delete")));
    // The event is for a server that a host runs; later operations take it off its host for a while.
    out.sort_by_key(|o| o.name != "server_external_events");
    late.reverse();
    late.sort_by_key(|o| (o.action.is_some(), std::cmp::Reverse(o.path.matches('/').count())));
    out.extend(late);
    out
}

/// 501 is what a host that cannot do a thing answers (no password can be set without a guest agent).
fn is_bug(status: u16) -> bool {
    status >= 500 && status != 501
}

fn verdict(status: u16) -> String {
    match status {
        401 | 403 | 404 => status.to_string(),
        s if is_bug(s) => format!("BUG {s}"),
        // Beyond authorization; what follows may depend on the state that operations before left.
        _ => "ok".into(),
    }
}

async fn token_of(cloud: &TestCloud, name: &'static str, own: &[&str], other: &[&str]) -> String {
    let user = format!("{name}-user");
    match (own.is_empty(), other.is_empty()) {
        (false, _) => cloud.persona(&format!("matrix-{name}"), &user, own).await,
        (_, false) => cloud.persona(&format!("elsewhere-{name}"), &user, other).await,
        _ if name == "forged" => format!("gAAAAAB{}", "x".repeat(180)),
        _ if name == "revoked" => {
            let token = cloud.persona("matrix-revoked", &user, &["admin"]).await;
            let headers = [("x-subject-token", token.as_str())];
            cloud.call_with(Method::DELETE, "/identity/v3/auth/tokens", &token, &headers, None).await.expect(204);
            token
        }
        _ if name == "anonymous" => String::new(),
        _ => special(cloud, name, &user).await,
    }
}

/// Tokens with a scope other than a project, and such as an administrator has handed on with less.
async fn special(cloud: &TestCloud, name: &str, user: &str) -> String {
    let id = cloud.user(user).await;
    if let Some(role) = name.strip_prefix("system-") {
        cloud.grant("system", &id, &[role]).await;
        return cloud.login_scoped(user, PASSWORD, json!({"system": {"all": true}})).await;
    }
    if let Some(role) = name.strip_prefix("domain-") {
        cloud.grant("domains/default", &id, &[role]).await;
        return cloud.login_scoped(user, PASSWORD, json!({"domain": {"id": "default"}})).await;
    }
    let project_id = cloud.project(&format!("matrix-{name}")).await;
    cloud.grant(&format!("projects/{project_id}"), &id, &["admin", "reader"]).await;
    let admin = cloud.login(user, PASSWORD, &format!("matrix-{name}")).await;
    if name == "app-credential-reader" {
        let wanted = json!({"application_credential": {"name": "less", "roles": [{"name": "reader"}]}});
        let made =
            cloud.call(Method::POST, &format!("/identity/v3/users/{id}/application_credentials"), &admin, Some(wanted)).await.expect(201);
        let credential = json!({"id": made.str("/application_credential/id"), "secret": made.str("/application_credential/secret")});
        return cloud
            .authenticate(json!({"identity": {"methods": ["application_credential"], "application_credential": credential}}))
            .await;
    }
    let trustee = cloud.user("trustee").await;
    let wanted = json!({"trust": {"trustor_user_id": id, "trustee_user_id": trustee, "project_id": project_id,
        "impersonation": false, "roles": [{"name": "reader"}]}});
    let made = cloud.call(Method::POST, "/identity/v3/OS-TRUST/trusts", &admin, Some(wanted)).await.expect(201);
    cloud.login_scoped("trustee", PASSWORD, json!({"OS-TRUST:trust": {"id": made.str("/trust/id")}})).await
}

async fn column(cloud: Arc<TestCloud>, name: &'static str, token: String, estate: Estate) -> (&'static str, Vec<(String, u16, String)>) {
    let mut out = Vec::new();
    for op in in_order(operations().await) {
        let (path, _) = estate.fill(op);
        let answer = ask(&cloud, op, &path, &token, body(op, &estate)).await;
        if name == "no-role" && op.service != "identity" && answer.status < 300 {
            let mine = |k: &(&str, &str)| {
                k.0 != "identity"
                    && !GLOBAL.iter().any(|g| g.ends_with(k.1))
                    && !matches!(k.1, "os-keypairs" | "os-quota-sets" | "quotas" | "default-types")
            };
            let seen = estate.ids.iter().find(|(k, id)| mine(k) && answer.text.contains(id.as_str()));
            assert!(seen.is_none(), "without a role {} shows {seen:?}", title(op));
        }
        out.push((key(op), answer.status, answer.text));
    }
    (name, out)
}

fn key(op: &OpInfo) -> String {
    format!("{}\t{}\t{}", op.service, op.name, title(op))
}

fn golden_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/authorization.tsv")
}

fn render(table: &Table) -> String {
    let mut out = String::from("service\toperation\trequest");
    PERSONAS.iter().for_each(|(n, ..)| out += &format!("\t{n}"));
    out.push('\n');
    for (op, cells) in table {
        out += op;
        for (name, ..) in PERSONAS {
            let cell = cells.iter().find(|(n, _)| n == name).map_or("-", |(_, v)| v);
            out += &format!("\t{cell}");
        }
        out.push('\n');
    }
    out
}

fn compare(now: &str) -> Vec<String> {
    let path = golden_path();
    if std::env::var_os("CAELUM_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("conformance directory");
        std::fs::write(&path, now).expect("write the golden file");
        return Vec::new();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let before: std::collections::BTreeSet<&str> = golden.lines().collect();
    let after: std::collections::BTreeSet<&str> = now.lines().collect();
    let gone = before.difference(&after).map(|l| format!("- {l}"));
    gone.chain(after.difference(&before).map(|l| format!("+ {l}"))).collect()
}

/// Personas that only read.
const READERS: &[&str] = &["no-role", "reader", "other-reader", "system-reader", "domain-reader", "app-credential-reader", "trust-reader"];

/// One's own key pairs need no role in a project; the other one reads with a POST.
const EVERYONES: &[&str] = &["keypair_create", "volume_image_metadata_show"];

/// What must hold whatever the golden file says.
fn invariants(op: &OpInfo, persona: &str, status: u16) -> Option<&'static str> {
    let public = matches!(op.access, Access::Public);
    let writes = !matches!(op.method.as_str(), "GET" | "HEAD") && !public;
    let done = (200..300).contains(&status);
    let Access::Rule(rule) = op.access else {
        return (!public && status != 401 && matches!(persona, "anonymous" | "forged" | "revoked")).then_some("must be 401");
    };
    match persona {
        "anonymous" | "forged" | "revoked" if status != 401 => Some("must be 401"),
        p if READERS.contains(&p) && writes && done && !EVERYONES.contains(&op.name) => Some("must not change anything"),
        p if !p.ends_with("admin") && rule.check == "rule:context_is_admin" && done => Some("is the administrator's"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_refuses_whom_it_must() {
    let cloud = Arc::new(TestCloud::start().await.expect("cloud"));
    let admin = cloud.bootstrap_token("admin").await;
    cloud.call(Method::POST, "/identity/v3/roles", &admin, Some(json!({"role": {"name": "unrelated"}}))).await.expect(201);
    let mut columns = tokio::task::JoinSet::new();
    for (name, own, other) in PERSONAS {
        let (cloud, admin) = (cloud.clone(), admin.clone());
        columns.spawn(async move {
            let owner = cloud.persona(&format!("matrix-{name}"), &format!("{name}-owner"), &["member"]).await;
            let token = token_of(&cloud, name, own, other).await;
            let things = estate(&cloud, &owner, &admin, name).await;
            column(cloud, name, token, things).await
        });
    }
    let (mut table, mut findings) = (Table::new(), Vec::new());
    let known: BTreeMap<String, &OpInfo> = operations().await.iter().map(|op| (key(op), op)).collect();
    while let Some(done) = columns.join_next().await {
        let (name, rows) = done.expect("a persona's column");
        for (op, status, text) in rows {
            let broken = if is_bug(status) { Some("is our bug") } else { invariants(known[&op], name, status) };
            if let Some(why) = broken {
                findings.push(format!("{name}: {op} → {status} {why}: {}", text.chars().take(160).collect::<String>()));
            }
            table.entry(op).or_default().push((name, verdict(status)));
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    let differences = compare(&render(&table));
    assert!(differences.is_empty(), "authorization changed; CAELUM_BLESS=1 accepts it\n{}", differences.join("\n"));
    Arc::into_inner(cloud).expect("all columns are done").stop().await;
}

/// Without request ids, which differ by nature.
fn strip(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("req-") {
        out.push_str(&rest[..at]);
        rest = rest.get(at + 40..).unwrap_or("");
    }
    out + rest
}

/// The owner's view of everything, to see whether anything changed.
async fn snapshot(cloud: &TestCloud, owner: &str) -> BTreeMap<&'static str, Value> {
    let mut out = BTreeMap::new();
    for path in [
        "/network/v2.0/networks",
        "/network/v2.0/subnets",
        "/network/v2.0/ports",
        "/network/v2.0/routers",
        "/network/v2.0/subnetpools",
        "/network/v2.0/security-groups",
        "/network/v2.0/security-group-rules",
        "/network/v2.0/floatingips",
        "/network/v2.0/rbac-policies",
        "/image/v2/images",
        "/volume/v3/volumes/detail",
        "/volume/v3/snapshots/detail",
        "/volume/v3/backups/detail",
        "/volume/v3/volume-transfers/detail",
        "/compute/v2.1/servers/detail",
        "/compute/v2.1/os-server-groups",
        "/compute/v2.1/os-keypairs",
    ] {
        let headers = [("openstack-api-version", if path.starts_with("/compute") { "compute 2.90" } else { "volume 3.70" })];
        out.insert(path, cloud.call_with(Method::GET, path, owner, &headers, None).await.expect(200).body);
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn another_projects_things_do_not_exist() {
    let cloud = TestCloud::start().await.expect("cloud");
    let admin = cloud.bootstrap_token("admin").await;
    let owner = cloud.persona("estate-a", "owner", &["member"]).await;
    let stranger = cloud.persona("estate-b", "stranger", &["manager"]).await;
    let things = estate(&cloud, &owner, &admin, "foreign").await;
    let nobodys = things.nobodys();
    let before = snapshot(&cloud, &owner).await;
    let mut findings = Vec::new();
    for op in operations().await.iter().filter(|o| !matches!(o.access, Access::Public)) {
        let (path, used) = things.fill(op);
        // What has no owner (flavors, types) exists for everyone.
        // A transfer is offered to whoever holds its id and key.
        if used && (GLOBAL.iter().any(|g| op.path.starts_with(g)) || op.name.ends_with("transfer_accept")) {
            continue;
        }
        let answer = ask(&cloud, op, &path, &stranger, body(op, &things)).await;
        if is_bug(answer.status) {
            findings.push(format!("{}: {} {}", title(op), answer.status, answer.text));
        }
        if used {
            let twin = ask(&cloud, op, &nobodys.fill(op).0, &stranger, body(op, &nobodys)).await;
            let same = things.ids.values().fold(answer.text.clone(), |t, id| t.replace(id.as_str(), NOBODY));
            if answer.status != twin.status || strip(&same) != strip(&twin.text) {
                findings.push(format!("{}: {} {} but {} {}", title(op), answer.status, answer.text, twin.status, twin.text));
            }
        } else if op.method == Method::GET {
            let owned = things.ids.iter().filter(|((s, k), _)| *s != "identity" && !GLOBAL.iter().any(|g| g.ends_with(k)));
            findings.extend(owned.filter(|(_, id)| answer.text.contains(id.as_str())).map(|(k, _)| format!("{} shows {k:?}", title(op))));
        }
    }
    for (path, then) in &before {
        let now = &snapshot(&cloud, &owner).await[path];
        if now != then {
            findings.push(format!("{path} changed: {then} → {now}"));
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    cloud.stop().await;
}

/// Paths of things that belong to no project.
const GLOBAL: &[&str] =
    &["/v2.1/flavors", "/v3/types", "/v3/qos-specs", "/v3/group_types", "/v2/metadefs", "/resource_providers", "/v3/regions"];

type Borrowing = (Method, String, Value);

fn post(path: &str, body: Value) -> Borrowing {
    (Method::POST, path.to_string(), body)
}

fn put(path: String, body: Value) -> Borrowing {
    (Method::PUT, path, body)
}

/// Creations and updates of the stranger's own that name something of the owner's.
fn borrowings(o: &Estate, mine: &Estate) -> Vec<Borrowing> {
    [borrowed_networks(o, mine), borrowed_volumes(o, mine), borrowed_by_servers(o, mine), servers_with(o, mine)].concat()
}

fn borrowed_networks(o: &Estate, mine: &Estate) -> Vec<Borrowing> {
    let n = |k| o.id("network", k).to_string();
    let own = |k| mine.id("network", k).to_string();
    vec![
        post("/network/v2.0/ports", json!({"port": {"network_id": n("networks")}})),
        post("/network/v2.0/ports", json!({"port": {"network_id": own("networks"), "security_groups": [n("security-groups")]}})),
        post("/network/v2.0/ports", json!({"port": {"network_id": own("networks"), "fixed_ips": [{"subnet_id": n("subnets")}]}})),
        post("/network/v2.0/subnets", json!({"subnet": {"network_id": n("networks"), "ip_version": 4, "cidr": "10.77.0.0/24"}})),
        post(
            "/network/v2.0/subnets",
            json!({"subnet": {"network_id": own("networks"), "ip_version": 4, "subnetpool_id": n("subnetpools"), "prefixlen": 26}}),
        ),
        post(
            "/network/v2.0/security-group-rules",
            json!({"security_group_rule": {"security_group_id": n("security-groups"), "direction": "ingress"}}),
        ),
        post(
            "/network/v2.0/security-group-rules",
            json!({"security_group_rule": {"security_group_id": own("security-groups"), "direction": "ingress", "remote_group_id": n("security-groups")}}),
        ),
        post("/network/v2.0/routers", json!({"router": {"external_gateway_info": {"network_id": n("networks")}}})),
        post(
            "/network/v2.0/rbac-policies",
            json!({"rbac_policy": {"object_type": "network", "object_id": n("networks"), "action": "access_as_shared", "target_tenant": "*"}}),
        ),
        post(
            "/network/v2.0/rbac-policies",
            json!({"rbac_policy": {"object_type": "security_group", "object_id": n("security-groups"), "action": "access_as_shared", "target_tenant": "a"}}),
        ),
        put(format!("/network/v2.0/routers/{}/add_router_interface", own("routers")), json!({"subnet_id": n("subnets")})),
        put(format!("/network/v2.0/routers/{}/add_router_interface", own("routers")), json!({"port_id": n("ports")})),
        put(format!("/network/v2.0/floatingips/{}", own("floatingips")), json!({"floatingip": {"port_id": n("ports")}})),
        put(format!("/network/v2.0/ports/{}", own("ports")), json!({"port": {"security_groups": [n("security-groups")]}})),
    ]
}

fn borrowed_volumes(o: &Estate, mine: &Estate) -> Vec<Borrowing> {
    let v = |k| o.id("volume", k).to_string();
    let image = o.id("image", "images");
    vec![
        post("/volume/v3/volumes", json!({"volume": {"size": 1, "snapshot_id": v("snapshots")}})),
        post("/volume/v3/volumes", json!({"volume": {"size": 1, "source_volid": v("volumes")}})),
        post("/volume/v3/volumes", json!({"volume": {"size": 1, "imageRef": image}})),
        post("/volume/v3/volumes", json!({"volume": {"size": 1, "backup_id": v("backups")}})),
        post("/volume/v3/snapshots", json!({"snapshot": {"volume_id": v("volumes")}})),
        post("/volume/v3/backups", json!({"backup": {"volume_id": v("volumes")}})),
        post("/volume/v3/backups", json!({"backup": {"volume_id": mine.id("volume", "volumes"), "snapshot_id": v("snapshots")}})),
        post(&format!("/volume/v3/backups/{}/restore", mine.id("volume", "backups")), json!({"restore": {"volume_id": v("volumes")}})),
        post("/volume/v3/volume-transfers", json!({"transfer": {"volume_id": v("volumes")}})),
        post(
            "/volume/v3/attachments",
            json!({"attachment": {"volume_uuid": v("volumes"), "instance_uuid": mine.id("compute", "servers")}}),
        ),
        post(&format!("/volume/v3/volumes/{}/action", mine.id("volume", "volumes")), json!({"revert": {"snapshot_id": v("snapshots")}})),
    ]
}

fn borrowed_by_servers(o: &Estate, mine: &Estate) -> Vec<Borrowing> {
    let n = |k| o.id("network", k).to_string();
    let v = |k| o.id("volume", k).to_string();
    let image = o.id("image", "images");
    let servers = "/compute/v2.1/servers";
    vec![
        post(&format!("/image/v2/images/{image}/members"), json!({"member": "estate-b"})),
        post(&format!("{servers}/{}/os-interface", mine.id("compute", "servers")), json!({"interfaceAttachment": {"port_id": n("ports")}})),
        post(
            &format!("{servers}/{}/os-interface", mine.id("compute", "servers")),
            json!({"interfaceAttachment": {"net_id": n("networks")}}),
        ),
        post(
            &format!("{servers}/{}/os-volume_attachments", mine.id("compute", "servers")),
            json!({"volumeAttachment": {"volumeId": v("volumes")}}),
        ),
        post(&format!("{servers}/{}/action", mine.id("compute", "servers")), json!({"addSecurityGroup": {"name": n("security-groups")}})),
        post(&format!("{servers}/{}/action", mine.id("compute", "servers")), json!({"rebuild": {"imageRef": image}})),
        post(
            "/compute/v2.1/os-security-group-rules",
            json!({"security_group_rule": {"parent_group_id": n("security-groups"), "ip_protocol": "tcp", "from_port": 1, "to_port": 2}}),
        ),
    ]
}

fn servers_with(o: &Estate, mine: &Estate) -> Vec<Borrowing> {
    let n = |k| o.id("network", k).to_string();
    let own = |k| mine.id("network", k).to_string();
    let v = |k| o.id("volume", k).to_string();
    let image = o.id("image", "images");
    let servers = "/compute/v2.1/servers";
    let server = |extra: Value| {
        let mut s = json!({"name": "thief", "imageRef": mine.id("image", "images"), "flavorRef": mine.id("compute", "flavors"), "networks": "none"});
        s.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        json!({"server": s})
    };
    let mut out = Vec::new();
    for extra in [
        json!({"networks": [{"uuid": n("networks")}]}),
        json!({"networks": [{"port": n("ports")}]}),
        json!({"imageRef": image}),
        json!({"key_name": o.id("compute", "os-keypairs")}),
        json!({"networks": [{"uuid": own("networks")}], "security_groups": [{"name": n("security-groups")}]}),
        json!({"imageRef": "", "block_device_mapping_v2": [{"boot_index": 0, "uuid": v("volumes"), "source_type": "volume", "destination_type": "volume"}]}),
        json!({"imageRef": "", "block_device_mapping_v2": [{"boot_index": 0, "uuid": v("snapshots"), "source_type": "snapshot", "destination_type": "volume", "volume_size": 1}]}),
        json!({"imageRef": "", "block_device_mapping_v2": [{"boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "volume", "volume_size": 1}]}),
    ] {
        out.push(post(servers, server(extra)));
    }
    let mut hinted = server(json!({}));
    hinted["os:scheduler_hints"] = json!({"group": o.id("compute", "os-server-groups")});
    out.push(post(servers, hinted));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_another_projects_things_is_as_naming_nothing() {
    let cloud = TestCloud::start().await.expect("cloud");
    let admin = cloud.bootstrap_token("admin").await;
    let owner = cloud.persona("lender", "owner", &["member"]).await;
    let stranger = cloud.persona("borrower", "stranger", &["manager"]).await;
    let things = estate(&cloud, &owner, &admin, "lent").await;
    let mine = estate(&cloud, &stranger, &admin, "mine").await;
    let before = snapshot(&cloud, &owner).await;
    let mut findings = Vec::new();
    for ((method, path, body), (_, twin_path, twin_body)) in
        borrowings(&things, &mine).into_iter().zip(borrowings(&things.nobodys(), &mine))
    {
        let headers = [("openstack-api-version", if path.starts_with("/compute") { "compute 2.60" } else { "volume 3.70" })];
        let answer = cloud.call_with(method.clone(), &path, &stranger, &headers, Some(body.clone())).await;
        let twin = cloud.call_with(method, &twin_path, &stranger, &headers, Some(twin_body)).await;
        let same = things.ids.values().fold(answer.text.clone(), |t, id| t.replace(id.as_str(), NOBODY));
        if !matches!(answer.status, 400 | 403 | 404) || answer.status != twin.status || strip(&same) != strip(&twin.text) {
            findings.push(format!("{path} {body}: {} {} but {} {}", answer.status, answer.text, twin.status, twin.text));
        }
    }
    // A child of the owner's below a parent of the stranger's.
    for op in operations().await.iter().filter(|o| o.path.matches('{').count() > 1 && !GLOBAL.iter().any(|g| o.path.starts_with(g))) {
        let (path, twin_path) = (things.fill_below(op, &mine).0, things.nobodys().fill_below(op, &mine).0);
        let answer = ask(&cloud, op, &path, &stranger, body(op, &things)).await;
        let twin = ask(&cloud, op, &twin_path, &stranger, body(op, &things.nobodys())).await;
        let same = things.ids.values().fold(answer.text.clone(), |t, id| t.replace(id.as_str(), NOBODY));
        if path != twin_path && (answer.status != twin.status || strip(&same) != strip(&twin.text)) {
            findings.push(format!("{} {path}: {} {} but {} {}", title(op), answer.status, answer.text, twin.status, twin.text));
        }
    }
    let after = snapshot(&cloud, &owner).await;
    findings.extend(before.iter().filter(|(p, then)| after[*p] != **then).map(|(p, then)| format!("{p}: {then} → {}", after[p])));
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    cloud.stop().await;
}
