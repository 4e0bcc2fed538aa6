//! Servers come and go in crowds, deletes overtake creates, the node stops in the middle; afterwards
//! nothing is stuck and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caelum_testkit::TestCloud;
use http::Method;
use serde_json::{Value, json};

const SERVERS: usize = 20;

struct Scene {
    network: String,
    flavor: String,
    image: String,
}

/// A project's network, and a flavor and an image for everybody.
async fn scene(cloud: &TestCloud, admin: &str, user: &str) -> Scene {
    let image = json!({"name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "public"});
    let image = cloud.call(Method::POST, "/image/v2/images", admin, Some(image)).await.expect(201).str("/id");
    let octets = [("content-type", "application/octet-stream")];
    let path = format!("/image/v2/images/{image}/file");
    cloud.call_with(Method::PUT, &path, admin, &octets, Some(json!("disk".repeat(512)))).await.expect(204);
    let flavor = json!({"flavor": {"name": "f", "ram": 64, "vcpus": 1, "disk": 1}});
    let flavor = cloud.call(Method::POST, "/compute/v2.1/flavors", admin, Some(flavor)).await.expect(200).str("/flavor/id");
    let network = cloud.call(Method::POST, "/network/v2.0/networks", user, Some(json!({"network": {"name": "n"}}))).await;
    let network = network.expect(201).str("/network/id");
    let subnet = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.9.0.0/24"}});
    cloud.call(Method::POST, "/network/v2.0/subnets", user, Some(subnet)).await.expect(201);
    let project = cloud.call(Method::GET, "/identity/v3/projects?name=demo", admin, None).await.expect(200).str("/projects/0/id");
    let quota = json!({"quota_set": {"instances": 100, "cores": 100}});
    cloud.call(Method::PUT, &format!("/compute/v2.1/os-quota-sets/{project}"), admin, Some(quota)).await.expect(200);
    Scene { network, flavor, image }
}

/// Creates a server; every third from a volume that goes with it. Every second is deleted at once.
async fn one(cloud: &TestCloud, scene: &Scene, user: &str, n: usize) -> String {
    let mut server = json!({"name": format!("s{n}"), "flavorRef": scene.flavor, "networks": [{"uuid": scene.network}]});
    if n.is_multiple_of(3) {
        server["block_device_mapping_v2"] = json!([{"uuid": scene.image, "source_type": "image", "destination_type": "volume",
            "volume_size": 1, "boot_index": 0, "delete_on_termination": true}]);
    } else {
        server["imageRef"] = json!(scene.image);
    }
    let made = cloud.call(Method::POST, "/compute/v2.1/servers", user, Some(json!({"server": server}))).await.expect(202);
    let id = made.str("/server/id");
    if n % 2 == 1 {
        cloud.call(Method::DELETE, &format!("/compute/v2.1/servers/{id}"), user, None).await.expect(204);
    }
    id
}

/// Runs `f` for every number below `SERVERS` at the same time.
async fn crowd<T, F: Future<Output = T>>(f: impl Fn(usize) -> F) -> Vec<T> {
    futures_util::future::join_all((0..SERVERS).map(f)).await
}

fn list(body: &Value, key: &str) -> Vec<Value> {
    body[key].as_array().cloned().unwrap_or_default()
}

/// What is left of servers, seen through the APIs.
async fn rest(cloud: &TestCloud, admin: &str) -> Vec<String> {
    let mut out = Vec::new();
    let all = [
        ("/volume/v3/volumes?all_tenants=1", "volumes"),
        ("/volume/v3/attachments?all_tenants=1", "attachments"),
        ("/compute/v2.1/servers?all_tenants=1", "servers"),
    ];
    for (path, key) in all {
        let version = [("openstack-api-version", "volume 3.59")];
        let answer = cloud.call_with(Method::GET, path, admin, &version, None).await.expect(200);
        out.extend(list(&answer.body, key).iter().map(|v| format!("{key}: {v}")));
    }
    let ports = cloud.call(Method::GET, "/network/v2.0/ports", admin, None).await.expect(200);
    let of_servers = |p: &&Value| p["device_owner"].as_str().is_some_and(|o| o.starts_with("compute:"));
    out.extend(list(&ports.body, "ports").iter().filter(of_servers).map(|p| format!("port: {p}")));
    let providers = cloud.call(Method::GET, "/placement/resource_providers", admin, None).await.expect(200);
    for p in list(&providers.body, "resource_providers") {
        let path = format!("/placement/resource_providers/{}/usages", p["uuid"].as_str().unwrap_or_default());
        let usages = cloud.call(Method::GET, &path, admin, None).await.expect(200).body["usages"].clone();
        out.extend(usages.as_object().into_iter().flatten().filter(|(_, n)| **n != json!(0)).map(|(k, n)| format!("usage: {k} {n}")));
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn crowds_of_servers_leave_nothing_behind() {
    let cloud = TestCloud::start().await.unwrap();
    let (admin, user) = (cloud.bootstrap_token("admin").await, cloud.bootstrap_token("demo").await);
    let scene = scene(&cloud, &admin, &user).await;
    let ids = crowd(|n| one(&cloud, &scene, &user, n)).await;

    // In the middle of it all. Tokens stay good.
    let cloud = cloud.restart(&[]).await.unwrap();

    let settled = |n: usize| {
        let (cloud, user, path) = (&cloud, &user, format!("/compute/v2.1/servers/{}", ids[n]));
        async move {
            if n % 2 == 1 {
                cloud.until(&path, user, |a| a.status == 404).await;
                return;
            }
            let end = cloud.until(&path, user, |a| matches!(a.body["server"]["status"].as_str(), Some("ACTIVE" | "ERROR"))).await;
            // A volume is made with the user's token, which is not kept over a restart.
            assert!(n.is_multiple_of(3) || end.str("/server/status") == "ACTIVE", "{end:?}");
        }
    };
    crowd(settled).await;
    assert_eq!(cloud.node.audit(false).await.unwrap(), Vec::<String>::new());

    crowd(|n| {
        let (cloud, user, path) = (&cloud, &user, format!("/compute/v2.1/servers/{}", ids[n]));
        async move {
            cloud.call(Method::DELETE, &path, user, None).await.expect(if n % 2 == 1 { 404 } else { 204 });
            cloud.until(&path, user, |a| a.status == 404).await;
        }
    })
    .await;
    // A volume goes after the answer to its delete.
    let volumes = "/volume/v3/volumes?all_tenants=1";
    cloud.until(volumes, &admin, |a| list(&a.body, "volumes").is_empty()).await;
    assert_eq!(rest(&cloud, &admin).await, Vec::<String>::new());
    assert_eq!(cloud.node.audit(false).await.unwrap(), Vec::<String>::new());
    cloud.stop().await;
}
