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

/// What is asked of one limit: method, path, a body for a size, the largest size that is fine.
type Limit = (&'static str, Method, String, Box<dyn Fn(usize) -> Value + Send + Sync>, usize);

fn limits(e: &Estate) -> Vec<Limit> {
    let (image, flavor) = (e.id("image", "images").to_string(), e.id("compute", "flavors").to_string());
    let server = move |extra: Value| {
        let mut s = json!({"name": "l", "imageRef": image, "flavorRef": flavor, "networks": "none"});
        s.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        json!({"server": s})
    };
    let net = e.id("network", "networks").to_string();
    let (net2, net3, net4) = (net.clone(), net.clone(), net.clone());
    let (s1, s2, s3, s4, s5) = (server.clone(), server.clone(), server.clone(), server.clone(), server.clone());
    let post = || Method::POST;
    let servers = || "/compute/v2.1/servers".to_string();
    let of = |path: &str, id: &str, rest: &str| format!("{path}/{id}{rest}");
    vec![
        ("server metadata items", post(), servers(), Box::new(move |n| s1(json!({"metadata": pairs(n)}))), 128),
        ("server metadata key", post(), servers(), Box::new(move |n| s2(json!({"metadata": {"k".repeat(n): "v"}}))), 255),
        ("server metadata value", post(), servers(), Box::new(move |n| s3(json!({"metadata": {"k": "v".repeat(n)}}))), 255),
        ("user data", post(), servers(), Box::new(move |n| s4(json!({"user_data": "QUFB".repeat(n)}))), 16_383),
        ("server tags", post(), servers(), Box::new(move |n| s5(json!({"tags": list(n, |i| json!(format!("t{i}")))}))), 50),
        (
            "server tag length",
            Method::PUT,
            of("/compute/v2.1/servers", e.id("compute", "servers"), "/tags"),
            Box::new(|n| json!({"tags": ["t".repeat(n)]})),
            60,
        ),
        (
            "server description",
            Method::PUT,
            of("/compute/v2.1/servers", e.id("compute", "servers"), ""),
            Box::new(|n| json!({"server": {"description": "d".repeat(n)}})),
            255,
        ),
        (
            "flavor description",
            post(),
            "/compute/v2.1/flavors".into(),
            Box::new(|n| json!({"flavor": {"name": format!("d{n}"), "ram": 1, "vcpus": 1, "disk": 0, "description": "d".repeat(n)}})),
            65_535,
        ),
        (
            "DNS servers",
            post(),
            "/network/v2.0/subnets".into(),
            Box::new(
                move |n| json!({"subnet": {"network_id": net, "ip_version": 4, "cidr": "10.31.0.0/24", "dns_nameservers": list(n, |i| json!(format!("10.0.0.{}", i + 1)))}}),
            ),
            5,
        ),
        (
            "host routes",
            post(),
            "/network/v2.0/subnets".into(),
            Box::new(
                move |n| json!({"subnet": {"network_id": net2, "ip_version": 4, "cidr": "10.32.0.0/24", "host_routes": list(n, |i| json!({"destination": format!("10.99.{i}.0/24"), "nexthop": "10.32.0.9"}))}}),
            ),
            20,
        ),
        (
            "address pairs",
            post(),
            "/network/v2.0/ports".into(),
            Box::new(
                move |n| json!({"port": {"network_id": net3, "allowed_address_pairs": list(n, |i| json!({"ip_address": format!("10.88.0.{}", i + 1)}))}}),
            ),
            10,
        ),
        (
            "port name",
            post(),
            "/network/v2.0/ports".into(),
            Box::new(move |n| json!({"port": {"network_id": net4, "name": "p".repeat(n)}})),
            255,
        ),
        (
            "network description",
            post(),
            "/network/v2.0/networks".into(),
            Box::new(|n| json!({"network": {"description": "d".repeat(n)}})),
            255,
        ),
        (
            "image tags",
            post(),
            "/image/v2/images".into(),
            Box::new(|n| json!({"name": "t", "tags": list(n, |i| json!(format!("t{i}")))})),
            128,
        ),
        ("image properties", post(), "/image/v2/images".into(), Box::new(|n| pairs(n)), 128),
        ("volume name", post(), "/volume/v3/volumes".into(), Box::new(|n| json!({"volume": {"size": 1, "name": "v".repeat(n)}})), 255),
        (
            "volume description",
            post(),
            "/volume/v3/volumes".into(),
            Box::new(|n| json!({"volume": {"size": 1, "description": "v".repeat(n)}})),
            255,
        ),
        (
            "volume metadata key",
            post(),
            "/volume/v3/volumes".into(),
            Box::new(|n| json!({"volume": {"size": 1, "metadata": {"k".repeat(n): "v"}}})),
            255,
        ),
        (
            "volume metadata value",
            post(),
            "/volume/v3/volumes".into(),
            Box::new(|n| json!({"volume": {"size": 1, "metadata": {"k": "v".repeat(n)}}})),
            255,
        ),
        (
            "key pair name",
            post(),
            "/compute/v2.1/os-keypairs".into(),
            Box::new(|n| json!({"keypair": {"name": "k".repeat(n), "type": "ssh", "public_key": PUBLIC_KEY}})),
            255,
        ),
        ("user name", post(), "/identity/v3/users".into(), Box::new(|n| json!({"user": {"name": "u".repeat(n)}})), 255),
        ("project name", post(), "/identity/v3/projects".into(), Box::new(|n| json!({"project": {"name": "u".repeat(n)}})), 64),
        ("domain name", post(), "/identity/v3/domains".into(), Box::new(|n| json!({"domain": {"name": "u".repeat(n)}})), 64),
        (
            "project tags",
            Method::PUT,
            of("/identity/v3/projects", e.id("identity", "projects"), "/tags"),
            Box::new(|n| json!({"tags": list(n, |i| json!(format!("t{i}")))})),
            80,
        ),
        (
            "password",
            post(),
            "/identity/v3/users".into(),
            Box::new(|n| json!({"user": {"name": format!("pw{n}"), "password": "p".repeat(n)}})),
            4_096,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_at_the_maximum_and_one_beyond() {
    let cloud = TestCloud::start().await.expect("cloud");
    let admin = cloud.bootstrap_token("admin").await;
    let things = estate(&cloud, &admin, &admin, "limits").await;
    widen(&cloud, &admin).await;
    let mut findings = Vec::new();
    for (what, method, path, body, max) in limits(&things) {
        let headers = [("openstack-api-version", "compute 2.64")];
        let at = cloud.call_with(method.clone(), &path, &admin, &headers, Some(body(max))).await;
        if !(200..300).contains(&at.status) {
            findings.push(format!("{what} {max}: {} {}", at.status, at.text));
        }
        if let Some(id) = at.body["server"]["id"].as_str().filter(|_| method == Method::POST) {
            cloud.call(Method::DELETE, &format!("/compute/v2.1/servers/{id}"), &admin, None).await.expect(204);
        }
        let beyond = cloud.call_with(method, &path, &admin, &headers, Some(body(max + 1))).await;
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
