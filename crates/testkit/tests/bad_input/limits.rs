//! Limits at their maximum and one beyond; names that are stored exactly or refused.

use super::common::{Estate, PUBLIC_KEY, estate};
use caelum_testkit::TestCloud;
use http::Method;
use serde_json::{Map, Value, json};

/// A creation by name: path, wrapper key (empty for none), further fields.
fn creations(e: &Estate) -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("/network/v2.0/networks", "network", json!({})),
        ("/network/v2.0/routers", "router", json!({})),
        ("/network/v2.0/security-groups", "security_group", json!({})),
        ("/network/v2.0/ports", "port", json!({"network_id": e.id("network", "networks")})),
        ("/image/v2/images", "", json!({})),
        ("/volume/v3/volumes", "volume", json!({"size": 1})),
        ("/volume/v3/types", "volume_type", json!({})),
        ("/compute/v2.1/os-server-groups", "server_group", json!({"policy": "affinity"})),
        ("/compute/v2.1/flavors", "flavor", json!({"ram": 1, "vcpus": 1, "disk": 0})),
        ("/compute/v2.1/os-keypairs", "keypair", json!({"type": "ssh", "public_key": PUBLIC_KEY})),
        (
            "/compute/v2.1/servers",
            "server",
            json!({"imageRef": e.id("image", "images"), "flavorRef": e.id("compute", "flavors"), "networks": "none"}),
        ),
        ("/identity/v3/projects", "project", json!({})),
        ("/identity/v3/users", "user", json!({})),
        ("/identity/v3/groups", "group", json!({})),
        ("/identity/v3/roles", "role", json!({})),
        ("/identity/v3/domains", "domain", json!({})),
        ("/placement/resource_providers", "", json!({})),
    ]
}

async fn create(cloud: &TestCloud, token: &str, path: &str, key: &str, mut fields: Value, name: &str) -> (u16, Option<String>) {
    fields["name"] = json!(name);
    let body = if key.is_empty() { fields } else { json!({key: fields}) };
    let version = if path.starts_with("/placement") { "placement 1.39" } else { "compute 2.64" };
    let a = cloud.call_with(Method::POST, path, token, &[("openstack-api-version", version)], Some(body)).await;
    let made = if key.is_empty() { &a.body } else { &a.body[key] };
    let mut stored = made["name"].as_str().map(String::from);
    if let (true, Some(id)) = (path.ends_with("/servers"), made["id"].as_str()) {
        let url = format!("{path}/{id}");
        stored = Some(cloud.call(Method::GET, &url, token, None).await.str("/server/name"));
        cloud.call(Method::DELETE, &url, token, None).await.expect(204);
    }
    assert!(a.status < 500, "{path} {name:?}: {}", a.text);
    (a.status, stored)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_stored_exactly_or_refused() {
    let cloud = TestCloud::start_with(&[]).await.expect("cloud");
    let admin = cloud.bootstrap_token("admin").await;
    let things = estate(&cloud, &admin, &admin, "names").await;
    widen(&cloud, &admin).await;
    let names = [
        "x".repeat(255),
        "\u{1f4a9}".repeat(64),
        "\u{1f4a9}".repeat(255),
        "a\0b".into(),
        "a\nb".into(),
        "a\u{1b}[31mb".into(),
        "a\u{202e}b".into(),
        "a\u{200d}b".into(),
        "   ".into(),
        " leading".into(),
        "trailing ".into(),
        "-leading-dash".into(),
        "<script>alert(1)</script>".into(),
        "{{7*7}}".into(),
        "$(id)`id`".into(),
        "%s%n%(x)s".into(),
        "' OR 1=1 --".into(),
        "e\u{301}".into(),
        "../../etc/passwd".into(),
        "123".into(),
    ];
    let mut findings = Vec::new();
    for (path, key, fields) in creations(&things) {
        for name in &names {
            let (status, stored) = create(&cloud, &admin, path, key, fields.clone(), name).await;
            // Block storage takes spaces off, as its clients expect.
            let expected = if path.starts_with("/volume") { name.trim() } else { name };
            let fine = if (200..300).contains(&status) { stored.as_deref() == Some(expected) } else { status == 400 };
            if !fine {
                findings.push(format!("{path} {name:?}: {status} {stored:?}"));
            }
        }
        let (status, _) = create(&cloud, &admin, path, key, fields.clone(), &"y".repeat(256)).await;
        if status != 400 && !path.starts_with("/placement") {
            findings.push(format!("{path} 256 characters: {status}"));
        }
    }
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    cloud.stop().await;
}

/// Quotas out of the way.
async fn widen(cloud: &TestCloud, admin: &str) {
    let headers = [("x-subject-token", admin)];
    let project = cloud.call_with(Method::GET, "/identity/v3/auth/tokens", admin, &headers, None).await.str("/token/project/id");
    for (path, body) in [
        (
            "/compute/v2.1/os-quota-sets",
            json!({"quota_set": {"instances": -1, "cores": -1, "ram": -1, "server_groups": -1, "key_pairs": -1}}),
        ),
        ("/volume/v3/os-quota-sets", json!({"quota_set": {"volumes": -1, "gigabytes": -1, "snapshots": -1}})),
        ("/network/v2.0/quotas", json!({"quota": {"network": -1, "router": -1, "security_group": -1, "port": -1, "subnet": -1}})),
    ] {
        cloud.call(Method::PUT, &format!("{path}/{project}"), admin, Some(body)).await.expect(200);
    }
}

fn pairs(n: usize) -> Value {
    Value::Object((0..n).map(|i| (format!("k{i}"), json!("v"))).collect::<Map<_, _>>())
}

fn list(n: usize, f: impl Fn(usize) -> Value) -> Value {
    (0..n).map(f).collect()
}

/// Limits that a `POST` to a collection meets: what, path, the largest size that is fine.
const LIMITS: &[(&str, &str, usize)] = &[
    ("server metadata items", "/compute/v2.1/servers", 128),
    ("server metadata key", "/compute/v2.1/servers", 255),
    ("server metadata value", "/compute/v2.1/servers", 255),
    // In groups of four characters: 65,532 and 65,536 of them.
    ("user data", "/compute/v2.1/servers", 16_383),
    ("server tags", "/compute/v2.1/servers", 50),
    ("server tag length", "/compute/v2.1/servers", 60),
    ("server description", "/compute/v2.1/servers", 255),
    ("flavor description", "/compute/v2.1/flavors", 65_535),
    ("key pair name", "/compute/v2.1/os-keypairs", 255),
    ("DNS servers", "/network/v2.0/subnets", 5),
    ("host routes", "/network/v2.0/subnets", 20),
    ("address pairs", "/network/v2.0/ports", 10),
    ("port name", "/network/v2.0/ports", 255),
    ("network description", "/network/v2.0/networks", 255),
    ("image tags", "/image/v2/images", 128),
    ("image properties", "/image/v2/images", 128),
    ("volume name", "/volume/v3/volumes", 255),
    ("volume description", "/volume/v3/volumes", 255),
    ("volume metadata key", "/volume/v3/volumes", 255),
    ("volume metadata value", "/volume/v3/volumes", 255),
    ("user name", "/identity/v3/users", 255),
    ("project name", "/identity/v3/projects", 64),
    ("domain name", "/identity/v3/domains", 64),
    ("project tags", "/identity/v3/projects", 80),
    ("password", "/identity/v3/users", 4_096),
];

/// A body with `n` of what is limited.
fn sized(what: &str, n: usize, e: &Estate) -> Value {
    let long = "x".repeat(n);
    let tags = list(n, |i| json!(format!("t{i}")));
    let server = |key: &str, value: Value| {
        let mut s = json!({"name": "l", "imageRef": e.id("image", "images"), "flavorRef": e.id("compute", "flavors"), "networks": "none"});
        s[key] = value;
        json!({"server": s})
    };
    let subnet = |key: &str, value: Value| {
        let mut s = json!({"network_id": e.id("network", "networks"), "ip_version": 4, "cidr": "10.31.0.0/24", "enable_dhcp": false});
        if key == "host_routes" {
            s["cidr"] = json!("10.32.0.0/24");
        }
        s[key] = value;
        json!({"subnet": s})
    };
    let port = |key: &str, value: Value| json!({"port": {"network_id": e.id("network", "networks"), key: value}});
    let volume = |key: &str, value: Value| json!({"volume": {"size": 1, key: value}});
    match what {
        "server metadata items" => server("metadata", pairs(n)),
        "server metadata key" => server("metadata", json!({long: "v"})),
        "server metadata value" => server("metadata", json!({"k": long})),
        "user data" => server("user_data", json!("QUFB".repeat(n))),
        "server tags" => server("tags", tags),
        "server tag length" => server("tags", json!([long])),
        "server description" => server("description", json!(long)),
        "flavor description" => json!({"flavor": {"name": "big", "ram": 1, "vcpus": 1, "disk": 0, "description": long}}),
        "key pair name" => json!({"keypair": {"name": long, "type": "ssh", "public_key": PUBLIC_KEY}}),
        "DNS servers" => subnet("dns_nameservers", list(n, |i| json!(format!("10.0.0.{}", i + 1)))),
        "host routes" => subnet("host_routes", list(n, |i| json!({"destination": format!("10.99.{i}.0/24"), "nexthop": "10.32.0.9"}))),
        "address pairs" => port("allowed_address_pairs", list(n, |i| json!({"ip_address": format!("10.88.0.{}", i + 1)}))),
        "port name" => port("name", json!(long)),
        "network description" => json!({"network": {"description": long}}),
        "image tags" => json!({"name": "t", "tags": tags}),
        "image properties" => pairs(n),
        "volume name" => volume("name", json!(long)),
        "volume description" => volume("description", json!(long)),
        "volume metadata key" => volume("metadata", json!({long: "v"})),
        "volume metadata value" => volume("metadata", json!({"k": long})),
        "user name" => json!({"user": {"name": long}}),
        "project name" => json!({"project": {"name": long}}),
        "domain name" => json!({"domain": {"name": long}}),
        "project tags" => json!({"project": {"name": format!("tagged-{n}"), "tags": tags}}),
        "password" => json!({"user": {"name": format!("pw{n}"), "password": long}}),
        other => unreachable!("no body for {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_at_the_maximum_and_one_beyond() {
    let cloud = TestCloud::start().await.expect("cloud");
    let admin = cloud.bootstrap_token("admin").await;
    let things = estate(&cloud, &admin, &admin, "limits").await;
    widen(&cloud, &admin).await;
    let mut findings = Vec::new();
    let headers = [("openstack-api-version", "compute 2.64")];
    for (what, path, max) in LIMITS {
        let at = cloud.call_with(Method::POST, path, &admin, &headers, Some(sized(what, *max, &things))).await;
        if !(200..300).contains(&at.status) {
            findings.push(format!("{what} {max}: {} {}", at.status, at.text));
        }
        if let Some(id) = at.body["server"]["id"].as_str() {
            cloud.call(Method::DELETE, &format!("{path}/{id}"), &admin, None).await.expect(204);
        }
        let beyond = cloud.call_with(Method::POST, path, &admin, &headers, Some(sized(what, max + 1, &things))).await;
        if !matches!(beyond.status, 400 | 403 | 409 | 413) {
            findings.push(format!("{what} {}: {} {}", max + 1, beyond.status, beyond.text));
        }
    }
    findings.extend(depth(&cloud, &admin).await);
    findings.extend(image_members(&cloud, &admin).await);
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    cloud.stop().await;
}

/// Projects below projects: five levels with the domain's counted, no more.
async fn depth(cloud: &TestCloud, admin: &str) -> Option<String> {
    let mut parent: Option<String> = None;
    for level in 1..=8 {
        let mut project = json!({"name": format!("level-{level}")});
        if let Some(p) = &parent {
            project["parent_id"] = json!(p);
        }
        let a = cloud.call(Method::POST, "/identity/v3/projects", admin, Some(json!({"project": project}))).await;
        match a.status {
            201 if level <= 5 => parent = Some(a.str("/project/id")),
            400 | 403 if level >= 5 => return None,
            other => return Some(format!("project level {level}: {other} {}", a.text)),
        }
    }
    Some("projects have no depth limit".into())
}

async fn image_members(cloud: &TestCloud, admin: &str) -> Option<String> {
    let image = json!({"name": "m", "visibility": "shared"});
    let id = cloud.call(Method::POST, "/image/v2/images", admin, Some(image)).await.expect(201).str("/id");
    for n in 1..=129 {
        let path = format!("/image/v2/images/{id}/members");
        let a = cloud.call(Method::POST, &path, admin, Some(json!({"member": format!("{n:032x}")}))).await;
        let fine = if n <= 128 { a.status == 200 } else { a.status == 413 };
        if !fine {
            return Some(format!("image member {n}: {} {}", a.status, a.text));
        }
    }
    None
}
