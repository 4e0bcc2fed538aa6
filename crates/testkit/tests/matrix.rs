//! Generated from the operation registry: every operation × every persona, and every id-bearing path with
//! another project's ids. Findings are listed together.

use caelum_rest::{Access, OpInfo};
use caelum_testkit::TestCloud;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Front-door path of each service.
const PREFIX: &[(&str, &str)] = &[
    ("identity", "/identity"),
    ("image", "/image"),
    ("placement", "/placement"),
    ("compute", "/compute"),
    ("network", "/network"),
    ("block-storage", "/volume"),
];

fn prefix(service: &str) -> &'static str {
    PREFIX.iter().find(|(s, _)| *s == service).map_or("", |(_, p)| p)
}

/// The version header that selects an operation: its newest one that is in range.
fn version(op: &OpInfo) -> (&'static str, String) {
    let name = match op.service {
        "block-storage" => "volume",
        other => other,
    };
    let newest = match op.service {
        "compute" => (2, 104),
        "placement" => (1, 39),
        _ => (3, 71),
    };
    let (major, minor) = (newest.0, op.until.1.min(newest.1));
    ("openstack-api-version", format!("{name} {major}.{minor}"))
}

/// Fills path parameters: with the id of the resource the segment before names, or a stand-in.
fn fill(path: &str, ids: &BTreeMap<&str, String>, stand_in: &str) -> (String, bool) {
    let (mut out, mut used, mut before) = (String::new(), false, "");
    for segment in path.split('/').skip(1) {
        out.push('/');
        if segment.starts_with('{') {
            match ids.get(before) {
                Some(id) => {
                    out.push_str(id);
                    used = true;
                }
                None => out.push_str(stand_in),
            }
        } else {
            out.push_str(segment);
        }
        before = segment;
    }
    (out, used)
}

fn body(op: &OpInfo) -> Option<Value> {
    match (op.action, op.method.as_str()) {
        (Some(a), _) => Some(json!({a: null})),
        (None, "POST" | "PUT" | "PATCH") => Some(json!({})),
        _ => None,
    }
}

async fn ask(cloud: &TestCloud, op: &OpInfo, path: &str, token: &str) -> (u16, String) {
    let (name, value) = version(op);
    let answer = cloud.call_with(op.method.clone(), path, token, &[(name, &value)], body(op)).await;
    (answer.status, answer.text)
}

async fn operations() -> Vec<OpInfo> {
    let all = caelum_node::operations().await.expect("operations");
    assert!(all.len() > 300, "the registry must not be empty: {}", all.len());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_refuses_whom_it_must() {
    let cloud = TestCloud::start().await.expect("cloud");
    let none = cloud.persona("matrix-a", "nobody", &["ResellerAdmin"]).await;
    let reader = cloud.persona("matrix-a", "reader-a", &["reader"]).await;
    let mut findings = Vec::new();
    for op in operations().await {
        let (path, _) = fill(&op.path, &BTreeMap::new(), "7f3e1c52-0000-4000-8000-000000000000");
        let path = format!("{}{path}", prefix(op.service));
        let what = format!("{} {path} {}", op.method, op.action.unwrap_or(""));
        let public = matches!(op.access, Access::Public);
        for (persona, token) in [("anonymous", ""), ("forged", "gAAAAA-forged")] {
            let (status, _) = ask(&cloud, &op, &path, token).await;
            if status >= 500 || (!public && status != 401) {
                findings.push(format!("{persona}: {what} → {status}"));
            }
        }
        let writes = !matches!(op.method.as_str(), "GET" | "HEAD");
        for (persona, token) in [("no useful role", &none), ("reader", &reader)] {
            let (status, text) = ask(&cloud, &op, &path, token).await;
            let refused = status >= 400 || public || !matches!(op.access, Access::Rule(_)) || (persona == "reader" && !writes);
            // Identity lets everyone read some of what concerns themselves.
            let lenient = op.service == "identity" && !writes;
            if status >= 500 || !(refused || lenient || status == 300) {
                findings.push(format!("{persona}: {what} → {status} {}", text.chars().take(120).collect::<String>()));
            }
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    cloud.stop().await;
}

/// One of each thing a project owns, by the path segment that precedes its id.
async fn estate(cloud: &TestCloud, token: &str) -> BTreeMap<&'static str, String> {
    let mut ids = BTreeMap::new();
    let post = async |path: &str, body: Value, at: &str| {
        let a = cloud.call_with(Method::POST, path, token, &[("openstack-api-version", "compute 2.60")], Some(body)).await;
        assert!((200..300).contains(&a.status), "{path}: {}", a.text);
        a.str(at)
    };
    ids.insert("networks", post("/network/v2.0/networks", json!({"network": {"name": "n"}}), "/network/id").await);
    let subnet = json!({"subnet": {"network_id": ids["networks"], "ip_version": 4, "cidr": "10.9.0.0/24"}});
    ids.insert("subnets", post("/network/v2.0/subnets", subnet, "/subnet/id").await);
    ids.insert("ports", post("/network/v2.0/ports", json!({"port": {"network_id": ids["networks"]}}), "/port/id").await);
    ids.insert("routers", post("/network/v2.0/routers", json!({"router": {"name": "r"}}), "/router/id").await);
    ids.insert(
        "security-groups",
        post("/network/v2.0/security-groups", json!({"security_group": {"name": "g"}}), "/security_group/id").await,
    );
    ids.insert("os-security-groups", ids["security-groups"].clone());
    let rule = json!({"security_group_rule": {"security_group_id": ids["security-groups"], "direction": "ingress"}});
    ids.insert("security-group-rules", post("/network/v2.0/security-group-rules", rule, "/security_group_rule/id").await);
    ids.insert(
        "images",
        post("/image/v2/images", json!({"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "private"}), "/id")
            .await,
    );
    ids.insert("volumes", post("/volume/v3/volumes", json!({"volume": {"size": 1, "name": "v"}}), "/volume/id").await);
    ids.insert("os-keypairs", "nobodys-key".into());
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn another_projects_things_do_not_exist() {
    let cloud = TestCloud::start().await.expect("cloud");
    let owner = cloud.persona("estate-a", "owner", &["member"]).await;
    let stranger = cloud.persona("estate-b", "stranger", &["manager"]).await;
    let ids = estate(&cloud, &owner).await;
    let random = "7f3e1c52-1111-4000-8000-000000000000";
    let nobody: BTreeMap<&str, String> = ids.keys().map(|k| (*k, random.to_string())).collect();
    let mut findings = Vec::new();
    for op in operations().await {
        if matches!(op.access, Access::Public) {
            continue;
        }
        let (path, used) = fill(&op.path, &ids, random);
        if !used {
            // Lists: nothing of the owner's may be in them.
            if op.method == Method::GET && !op.path.contains('{') {
                let (_, text) = ask(&cloud, &op, &format!("{}{path}", prefix(op.service)), &stranger).await;
                for (kind, id) in ids.iter().filter(|(_, id)| text.contains(id.as_str())) {
                    findings.push(format!("{} {path} shows {kind} {id}", op.method));
                }
            }
            continue;
        }
        let (twin, _) = fill(&op.path, &nobody, random);
        let (status, text) = ask(&cloud, &op, &format!("{}{path}", prefix(op.service)), &stranger).await;
        let (twin_status, twin_text) = ask(&cloud, &op, &format!("{}{twin}", prefix(op.service)), &stranger).await;
        let mut same = text.clone();
        ids.values().for_each(|id| same = same.replace(id.as_str(), random));
        if (200..300).contains(&status) && twin_status != status
            || status >= 500
            || status != twin_status
            || strip(&same) != strip(&twin_text)
        {
            findings.push(format!("{} {} {}: {status} {text} but {twin_status} {twin_text}", op.method, op.path, op.action.unwrap_or("")));
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    for (kind, id) in &ids {
        let path = match *kind {
            "networks" | "subnets" | "ports" | "routers" | "security-groups" | "security-group-rules" => {
                format!("/network/v2.0/{kind}/{id}")
            }
            "images" => format!("/image/v2/images/{id}"),
            "volumes" => format!("/volume/v3/volumes/{id}"),
            _ => continue,
        };
        cloud.call(Method::GET, &path, &owner, None).await.expect(200);
    }
    cloud.stop().await;
}

/// Without request ids, which differ by nature.
fn strip(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("req-") {
        out.push_str(&rest[..at]);
        rest = rest.get(at + 40..).unwrap_or("");
    }
    out + rest
}
