//! The metadata service as the network's proxies call it, and the config drive.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use caelum_base::Secret;
use caelum_rest::{full, read_limited};
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use serde_json::{Value, json};
use support::{Cloud, cloud_with, server};

const ID: &str = "bbbbbbbb-0000-4000-8000-000000000001";

fn sign(secret: &str, text: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

async fn ask(c: &Cloud, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut b = Request::builder().method(method).uri(path);
    for (k, v) in headers {
        b = b.header(*k, *v);
    }
    let r = c.service.metadata().call(b.body(full(body.to_string())).unwrap()).await;
    let status = r.status().as_u16();
    (status, String::from_utf8(read_limited(r.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap())
}

async fn get(c: &Cloud, path: &str) -> (u16, String) {
    let signature = sign("s3cret", "10.0.0.5|router1");
    let headers = [("x-forwarded-for", "10.0.0.5"), ("x-neutron-router-id", "router1"), ("x-metadata-proxy-signature", signature.as_str())];
    ask(c, "GET", path, &headers, "").await
}

async fn ready() -> Cloud {
    let c = cloud_with(|config| config.metadata_secret = Secret::new("s3cret".to_string())).await;
    c.put(server(ID)).await;
    let router = json!({"ports": [{"network_id": "net1", "device_id": "router1"}]});
    c.network.answer("GET /v2.0/ports?device_id=router1", 200, router);
    let port = json!({"ports": [{"network_id": "net1", "device_id": ID}]});
    c.network.answer("GET /v2.0/ports?network_id=net1&fixed_ips=ip_address%3D10.0.0.5", 200, port);
    let subnet = json!({"id": "sub1", "cidr": "10.0.0.0/24", "enable_dhcp": true, "ip_version": 4});
    c.network.answer("GET /v2.0/subnets?id=sub1", 200, json!({"subnets": [subnet]}));
    c
}

#[tokio::test]
async fn openstack_documents() {
    let c = ready().await;
    let (status, text) = get(&c, "/openstack/latest/meta_data.json").await;
    assert_eq!(status, 200, "{text}");
    let m: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&m["uuid"], &m["hostname"], &m["meta"]), (&json!(ID), &json!("web.novalocal"), &json!({"role": "db"})));
    assert_eq!(m["public_keys"], json!({"mykey": "ssh-ed25519 AAAA me"}));
    let old: Value = serde_json::from_str(&get(&c, "/openstack/2012-08-10/meta_data.json").await.1).unwrap();
    assert!(old.get("project_id").is_none() && old.get("random_seed").is_none());
    assert_eq!(get(&c, "/openstack/latest/user_data").await, (200, "#!/bin/sh".into()));
    assert!(get(&c, "/openstack/").await.1.ends_with("2020-10-14/\nlatest/"));
    let (_, names) = get(&c, "/openstack/latest").await;
    assert_eq!(names, "meta_data.json\nnetwork_data.json\npassword\nuser_data\nvendor_data.json\nvendor_data2.json");
    assert!(get(&c, "/openstack/latest/network_data.json").await.1.contains("ipv4_dhcp"));
    assert_eq!(get(&c, "/openstack/1999-01-01").await.0, 404);
}

#[tokio::test]
async fn ec2_tree() {
    let c = ready().await;
    assert!(get(&c, "/").await.1.starts_with("1.0/\n2007-01-19/\n"));
    assert_eq!(get(&c, "/2009-04-04/").await.1, "meta-data/\nuser-data");
    let (_, names) = get(&c, "/2009-04-04/meta-data/").await;
    assert!(names.starts_with("ami-id\nami-launch-index\nami-manifest-path\nblock-device-mapping/\nhostname\n"), "{names}");
    assert_eq!(get(&c, "/latest/meta-data/instance-id").await, (200, "i-00000001".into()));
    assert_eq!(get(&c, "/latest/meta-data/local-ipv4").await.1, "10.0.0.5");
    assert_eq!(get(&c, "/latest/meta-data/public-ipv4").await.1, "198.51.100.7");
    assert_eq!(get(&c, "/latest/meta-data/public-keys/").await.1, "0=mykey");
    assert_eq!(get(&c, "/latest/meta-data/public-keys/0").await.1, "openssh-key");
    assert_eq!(get(&c, "/latest/meta-data/public-keys/0/openssh-key").await.1, "ssh-ed25519 AAAA me");
    assert_eq!(get(&c, "/latest/user-data").await.1, "#!/bin/sh");
    assert_eq!(get(&c, "/latest/meta-data/nope").await.0, 404);
}

#[tokio::test]
async fn only_a_right_signature_counts() {
    let c = ready().await;
    let path = "/openstack/latest/meta_data.json";
    let right = sign("s3cret", "10.0.0.5|router1");
    let other = sign("guess", "10.0.0.5|router1");
    let unknown = sign("s3cret", "10.0.0.9|router1");
    for (status, headers) in [
        (403, vec![("x-forwarded-for", "10.0.0.5"), ("x-neutron-router-id", "router1")]),
        (403, vec![("x-forwarded-for", "10.0.0.5"), ("x-neutron-router-id", "router1"), ("x-metadata-proxy-signature", &other)]),
        (403, vec![("x-forwarded-for", "10.0.0.6"), ("x-neutron-router-id", "router1"), ("x-metadata-proxy-signature", &right)]),
        (403, vec![("x-forwarded-for", "10.0.0.5"), ("x-neutron-network-id", "net1"), ("x-metadata-proxy-signature", &right)]),
        (
            403,
            vec![
                ("x-forwarded-for", "10.0.0.5"),
                ("x-forwarded-for", "10.0.0.6"),
                ("x-neutron-router-id", "router1"),
                ("x-metadata-proxy-signature", &right),
            ],
        ),
        (404, vec![("x-forwarded-for", "10.0.0.9"), ("x-neutron-router-id", "router1"), ("x-metadata-proxy-signature", &unknown)]),
    ] {
        assert_eq!(ask(&c, "GET", path, &headers, "").await.0, status, "{headers:?}");
    }
    let empty = cloud_with(|_| ()).await;
    let signature = sign("", "10.0.0.5|router1");
    let headers = [("x-forwarded-for", "10.0.0.5"), ("x-neutron-router-id", "router1"), ("x-metadata-proxy-signature", signature.as_str())];
    assert_eq!(ask(&empty, "GET", path, &headers, "").await.0, 403);
}

#[tokio::test]
async fn a_guest_posts_its_password_once() {
    let c = ready().await;
    let signature = sign("s3cret", "10.0.0.5|net1");
    let headers = [("x-forwarded-for", "10.0.0.5"), ("x-neutron-network-id", "net1"), ("x-metadata-proxy-signature", signature.as_str())];
    assert_eq!(ask(&c, "POST", "/openstack/latest/password", &headers, &"x".repeat(1025)).await.0, 400);
    assert_eq!(ask(&c, "POST", "/openstack/latest/password", &headers, "crypted").await.0, 200);
    assert_eq!(ask(&c, "POST", "/openstack/latest/password", &headers, "again").await.0, 409);
    assert_eq!(get(&c, "/openstack/latest/password").await, (200, "crypted".into()));
}

#[tokio::test]
async fn config_drive() {
    let c = ready().await;
    let s = server(ID);
    let data = caelum_compute::store::servers::ServerData {
        id: ID.into(),
        user_data: Some("//79".into()),
        files: vec![("/etc/motd".into(), "aGk=".into())],
    };
    let files = caelum_compute::metadata::config_drive_files(c.service.state(), &s, &data).await.unwrap();
    assert_eq!(files["openstack/latest/user_data"], "//79");
    assert_eq!(files["openstack/content/0000"], "hi");
    assert!(files["openstack/latest/meta_data.json"].contains("\"content_path\":\"/content/0000\""));
    let ec2: Value = serde_json::from_str(&files["ec2/latest/meta-data.json"]).unwrap();
    assert_eq!(ec2["placement"]["availability-zone"], "nova");
}
