//! Headers by which parts of the store talk to each other, sent by clients.

use super::cluster::Cloud;
use caelum_object::pipeline::Filter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Names that identity layers and proxies of other systems trust.
const IDENTITY: [(&str, &str); 34] = [
    ("x-user-id", "root"),
    ("x-user-name", "root"),
    ("x-user", "a:owner"),
    ("x-roles", "admin"),
    ("x-role", "admin"),
    ("x-project-id", "a"),
    ("x-project-name", "a"),
    ("x-tenant-id", "a"),
    ("x-tenant-name", "a"),
    ("x-domain-id", "default"),
    ("x-user-domain-id", "default"),
    ("x-project-domain-id", "default"),
    ("x-identity-status", "Confirmed"),
    ("x-service-identity-status", "Confirmed"),
    ("x-is-admin-project", "True"),
    ("x-service-roles", "service"),
    ("x-service-user-id", "root"),
    ("x-service-project-id", "a"),
    ("x-system-scope", "all"),
    ("x-auth-user", "a:owner"),
    ("remote-user", "a,a:owner,AUTH_a"),
    ("x-remote-user", "a:owner"),
    ("remote_user", "a:owner"),
    ("x_roles", "admin"),
    ("x_user_id", "root"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-user", "root"),
    ("x-forwarded-host", "evil.example"),
    ("forwarded", "for=127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("x-instance-id", "1"),
    ("x-original-url", "/v1/AUTH_a/c/o"),
    ("x-rewrite-url", "/v1/AUTH_a/c/o"),
    ("x-openstack-request-id", "req-1"),
];

/// Names that only parts of the store may use.
const INTERNAL: [(&str, &str); 30] = [
    ("x-backend-allow-reserved-names", "true"),
    ("x-backend-allow-private-methods", "true"),
    ("x-backend-storage-policy-index", "0"),
    ("x-backend-timestamp", "1.00000"),
    ("x-backend-override-deleted", "true"),
    ("x-backend-record-type", "shard"),
    ("x-backend-replication", "true"),
    ("x-backend-use-replication-network", "true"),
    ("x-backend-no-timestamp-update", "true"),
    ("x-backend-fragment-preferences", "[]"),
    ("x-backend-next-part-power", "5"),
    ("x-backend-obj-metadata-footer", "yes"),
    ("x-backend-obj-multipart-mime-boundary", "x"),
    ("x-backend-obj-content-length", "1"),
    ("x-backend-obj-multiphase-commit", "yes"),
    ("x-backend-etag-is-at", "x-object-meta-x"),
    ("x-backend-open-expired", "true"),
    ("x-backend-ignore-range-if-metadata-present", "x"),
    ("x-object-sysmeta-evil", "1"),
    ("x-object-transient-sysmeta-evil", "1"),
    ("x-object-transient-sysmeta-crypto-meta-x", "1"),
    ("x-object-sysmeta-symlink-target", "c/secret"),
    ("x-object-sysmeta-slo-etag", "x"),
    ("x-object-sysmeta-container-update-override-size", "9"),
    ("x-container-sysmeta-evil", "1"),
    ("x-container-sysmeta-versions-container", "x"),
    ("x-account-sysmeta-core-access-control", "{}"),
    ("x-account-sysmeta-quota-bytes", "0"),
    ("x-account-sysmeta-project-domain-id", "x"),
    ("x-container-update-override-etag", "x"),
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_somebody_by_a_header() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "private").await;
    for (name, value) in IDENTITY {
        for (method, target) in [
            ("GET", "/v1/AUTH_a/c/o"),
            ("PUT", "/v1/AUTH_a/c/o"),
            ("DELETE", "/v1/AUTH_a/c/o"),
            ("GET", "/v1/AUTH_a"),
            ("DELETE", "/v1/AUTH_a/c"),
        ] {
            let answer = cloud.call(method, target, &[(name, value)], "").await;
            assert_eq!(answer.status, 401, "{name} {method} {target}");
            let answer = cloud.as_b(method, target, &[(name, value)], "").await;
            assert_eq!(answer.status, 403, "{name} {method} {target} of another account");
        }
    }
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c/o", &[], "").await.text(), "private");
    let twice = [("x-auth-token", cloud.b.as_str()), ("x-auth-token", cloud.a.as_str())];
    assert!(cloud.call("GET", "/v1/AUTH_a/c/o", &twice, "").await.status >= 400, "two tokens are none");
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_headers_mean_nothing_from_outside() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/secret", &[], "secret").await;
    for (name, value) in INTERNAL {
        let put = cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[(name, value)], "plain").await;
        assert_eq!(put.status, 201, "{name}");
        for (method, target) in [("POST", "/v1/AUTH_a/c/o"), ("POST", "/v1/AUTH_a/c"), ("POST", "/v1/AUTH_a")] {
            let post = cloud.as_a(method, target, &[(name, value)], "").await;
            assert!(matches!(post.status, 202 | 204), "{name} {target}: {}", post.status);
        }
        for (method, target) in [("GET", "/v1/AUTH_a/c/o"), ("HEAD", "/v1/AUTH_a/c"), ("HEAD", "/v1/AUTH_a")] {
            let got = cloud.as_a(method, target, &[(name, value)], "").await;
            assert!(got.status < 300, "{name} {method} {target}: {}", got.status);
            assert!(!target.ends_with("/o") || got.text() == "plain", "{name}: {}", got.text());
            let private = |n: &str| n.contains("sysmeta") || n.starts_with("x-backend") || n.ends_with("override-etag");
            let leaked: Vec<_> = got.headers.keys().filter(|k| private(k.as_str())).collect();
            assert!(leaked.is_empty(), "{name} {target}: {leaked:?}");
        }
    }
    let sizes = cloud.as_a("GET", "/v1/AUTH_a/c?format=json", &[], "").await.text();
    assert!(sizes.contains("\"bytes\": 5"), "{sizes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reserved_namespace_is_closed() {
    let cloud = Cloud::new().await;
    let allow = [("x-backend-allow-reserved-names", "true"), ("x-allow-reserved-names", "true")];
    for (method, target) in [
        ("PUT", "/v1/AUTH_a/%00reserved"),
        ("GET", "/v1/AUTH_a/%00reserved"),
        ("PUT", "/v1/AUTH_a/c/%00reserved"),
        ("GET", "/v1/AUTH_a/c/%00reserved"),
        ("PUT", "/v1/AUTH_a/c/a%00b"),
        ("POST", "/v1/.shards_AUTH_a/c"),
        ("GET", "/v1/.expiring_objects/1"),
        ("GET", "/v1/.misplaced_objects/1"),
        ("PUT", "/v1/%00a/c"),
    ] {
        let answer = cloud.as_a(method, target, &allow, "").await;
        assert!(matches!(answer.status, 403 | 404 | 412), "{method} {target}: {}", answer.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_secrets_are_the_owners() {
    let cloud = Cloud::new().await;
    let keys = [("x-container-meta-temp-url-key", "k1"), ("x-container-read", ".r:*,b:owner"), ("x-container-sync-key", "k2")];
    assert_eq!(cloud.as_a("POST", "/v1/AUTH_a/c", &keys, "").await.status, 204);
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "x").await;
    let own = cloud.as_a("HEAD", "/v1/AUTH_a/c", &[], "").await;
    assert_eq!(own.header("x-container-meta-temp-url-key"), Some("k1"));
    let reader = cloud.as_b("HEAD", "/v1/AUTH_a/c", &[], "").await;
    assert_eq!(reader.status, 204);
    for name in ["x-container-meta-temp-url-key", "x-container-read", "x-container-write", "x-container-sync-key", "x-container-sync-to"] {
        assert_eq!(reader.header(name), None, "{name}");
    }
    assert_eq!(cloud.as_b("GET", "/v1/AUTH_a/c/o", &[], "").await.text(), "x");
    for (method, target) in [
        ("PUT", "/v1/AUTH_a/c/o"),
        ("POST", "/v1/AUTH_a/c/o"),
        ("DELETE", "/v1/AUTH_a/c/o"),
        ("POST", "/v1/AUTH_a/c"),
        ("DELETE", "/v1/AUTH_a/c"),
    ] {
        assert_eq!(cloud.as_b(method, target, &[], "").await.status, 403, "{method} {target}");
    }
}

/// One account's objects, containers and metadata from another's point of view.
#[tokio::test(flavor = "multi_thread")]
async fn other_accounts_look_like_nothing() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "private").await;
    let guest = cloud.guest.clone();
    for (method, target) in [
        ("GET", "/v1/AUTH_a"),
        ("HEAD", "/v1/AUTH_a"),
        ("POST", "/v1/AUTH_a"),
        ("GET", "/v1/AUTH_a/c"),
        ("PUT", "/v1/AUTH_a/c"),
        ("PUT", "/v1/AUTH_a/new"),
        ("POST", "/v1/AUTH_a/c"),
        ("DELETE", "/v1/AUTH_a/c"),
        ("GET", "/v1/AUTH_a/c/o"),
        ("HEAD", "/v1/AUTH_a/c/o"),
        ("PUT", "/v1/AUTH_a/c/o"),
        ("POST", "/v1/AUTH_a/c/o"),
        ("DELETE", "/v1/AUTH_a/c/o"),
        ("GET", "/v1/AUTH_a/c?format=json&prefix=o"),
        ("POST", "/v1/AUTH_a/?bulk-delete"),
        ("PUT", "/v1/AUTH_a/c/m?multipart-manifest=put"),
        ("DELETE", "/v1/AUTH_a/c/o?multipart-manifest=delete"),
    ] {
        let what = format!("{method} {target}");
        let body = if target.contains("=put") { r#"[{"path":"/c/o"}]"# } else { "c/o" };
        let there = cloud.as_b(method, target, &[("content-type", "text/plain")], body).await;
        let missing = cloud.as_b(method, &target.replace("/c", "/none"), &[("content-type", "text/plain")], body).await;
        // Bulk operations answer 200 and tell in the report.
        let told = ["403 Forbidden", "Unable to load SLO manifest"];
        let refused =
            |a: &super::cluster::Answer| a.status == 403 || (matches!(a.status, 200 | 400) && told.iter().any(|t| a.text().contains(t)));
        assert!(refused(&there) && refused(&missing), "{what}: {} {}", there.status, there.text());
        assert_eq!(there.status, missing.status, "{what}: what is there and what is not look the same");
        let stranger = cloud.call(method, target, &[("x-auth-token", &guest)], body).await;
        assert!(refused(&stranger), "{what}: {}", stranger.status);
    }
    for (headers, target) in [
        ([("destination", "c/o"), ("destination-account", "AUTH_a")], "/v1/AUTH_b/c/own"),
        ([("destination", "c/stolen"), ("destination-account", "AUTH_b")], "/v1/AUTH_a/c/o"),
    ] {
        cloud.as_b("PUT", "/v1/AUTH_b/c/own", &[], "own").await;
        assert_eq!(cloud.as_b("COPY", target, &headers, "").await.status, 403);
    }
    let manifest = r#"[{"path":"/../AUTH_a/c/o"}]"#;
    let slo = cloud.as_b("PUT", "/v1/AUTH_b/c/slo?multipart-manifest=put", &[], manifest).await;
    assert!(slo.status == 400 || slo.status == 403, "{}", slo.status);
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c/o", &[], "").await.text(), "private");
    assert_eq!(cloud.names("c").await, ["o"]);
}

/// Bulk operations act with the rights of who sends them, in the account that the path names.
#[tokio::test(flavor = "multi_thread")]
async fn bulk_operations_are_the_callers() {
    let cloud = Cloud::new().await;
    for name in ["o", "p"] {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &[], "x").await;
        cloud.as_b("PUT", &format!("/v1/AUTH_b/c/{name}"), &[], "x").await;
    }
    let kind = [("content-type", "text/plain")];
    let deleted = cloud.as_a("POST", "/v1/AUTH_a?bulk-delete", &kind, "c/o\n../AUTH_b/c/p\n/../AUTH_b/c/p\nAUTH_b/c/p").await;
    assert!(deleted.text().contains("Number Deleted: 1"), "{}", deleted.text());
    assert_eq!(cloud.names("c").await, ["p"]);
    let mut tar = vec![0; 512];
    tar[..4].copy_from_slice(b"c2/x");
    tar[100..108].copy_from_slice(b"0000644\0");
    tar[124..136].copy_from_slice(b"00000000001\0");
    tar[148..156].copy_from_slice(b"        ");
    tar[156] = b'0';
    tar[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = tar.iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend([b'y'; 1]);
    tar.resize(512 * 4, 0);
    let stolen = cloud.as_b("PUT", "/v1/AUTH_a?extract-archive=tar", &[], tar.clone()).await;
    assert!(stolen.text().contains("Number Files Created: 0") && stolen.text().contains("403"), "{}", stolen.text());
    let unpacked = cloud.as_a("PUT", "/v1/AUTH_a?extract-archive=tar", &[], tar).await;
    assert!(unpacked.text().contains("Number Files Created: 1"), "{}", unpacked.text());
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c2/x", &[], "").await.text(), "y");
    let left = cloud.as_b("GET", "/v1/AUTH_b/c", &[], "").await.text();
    assert_eq!(left, "o\np\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_are_what_they_are() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[], "x").await;
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        cloud.as_a("POST", "/v1/AUTH_a/c/o", &[(name, "DELETE")], "").await;
        cloud.as_a("GET", "/v1/AUTH_a/c/o", &[(name, "DELETE")], "").await;
    }
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c/o", &[], "").await.status, 200);
    for method in ["REPLICATE", "SSYNC", "UPDATE", "TRACE", "CONNECT", "PATCH", "GETPUT", "get", "_GET"] {
        let answer = cloud.as_a(method, "/v1/AUTH_a/c/o", &[], "").await;
        assert!(matches!(answer.status, 400 | 403 | 405 | 412 | 501), "{method}: {}", answer.status);
    }
    for target in [
        "/v1/AUTH_b/../AUTH_a/c/o",
        "/v1/AUTH_b/%2e%2e/AUTH_a/c/o",
        "/v1/AUTH_b/c/../../AUTH_a/c/o",
        "//v1/AUTH_a/c/o",
        "/v1//AUTH_a/c/o",
        "/v2/AUTH_a/c/o",
    ] {
        let answer = cloud.as_b("GET", target, &[], "").await;
        assert!(matches!(answer.status, 400 | 403 | 404 | 405 | 412), "{target}: {}", answer.status);
        assert_ne!(answer.text(), "x", "{target}");
    }
}

/// The layer that queues the segments asks the proxy with a method of its own, which clients cannot.
#[tokio::test(flavor = "multi_thread")]
async fn private_methods_are_for_layers_only() {
    let cloud = Cloud::new().await;
    cloud.as_a("PUT", "/v1/AUTH_a/c/part", &[], "part").await;
    let manifest = r#"[{"path": "/c/part"}]"#;
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/large?multipart-manifest=put", &[], manifest).await.status, 201);
    for headers in [&[][..], &[("x-backend-allow-private-methods", "True")]] {
        for target in ["/v1/AUTH_a/c", "/v1/AUTH_a/c/large", "/v1/.expiring_objects/1"] {
            let answer = cloud.as_a("UPDATE", target, headers, "[]").await;
            assert!(matches!(answer.status, 403 | 405), "{target} {headers:?}: {}", answer.status);
        }
    }
    assert_eq!(cloud.as_a("UPDATE", "/v1/AUTH_a/c", &[("x-backend-allow-private-methods", "True")], "[]").await.status, 405);
    let deleted = cloud.as_a("DELETE", "/v1/AUTH_a/c/large?multipart-manifest=delete&async=on", &[], "").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(cloud.as_a("HEAD", "/v1/AUTH_a/c/large", &[], "").await.status, 404);
}

#[tokio::test]
async fn nobody_speaks_for_foreign_accounts() {
    let keystone = [Filter::AuthToken, Filter::KeystoneAuth];
    let cloud = Cloud::with(|o| o.order = Some(Filter::ALL.iter().copied().filter(|f| !keystone.contains(f)).collect())).await;
    for (path, want) in [("/v1/AUTH_a/c", 200), ("/v1/AUTH_b/c/o", 200), ("/v1/FOREIGN_a", 401), ("/v1/FOREIGN_a/c", 401)] {
        assert_eq!(cloud.call("OPTIONS", path, &[], "").await.status, want, "{path}");
    }
    assert_eq!(cloud.as_a("OPTIONS", "/v1/FOREIGN_a/c", &[], "").await.status, 403);
}

/// Names that the HTTP library does not take reach the store and come back, and none is taken for another.
#[tokio::test]
async fn odd_names_are_nothing_else() {
    let cloud = Cloud::new().await;
    let server = cloud.serve().await;
    let addr = server.addr;
    let exchange = |head: String| async move {
        let mut s = TcpStream::connect(addr).await.unwrap();
        s.write_all(head.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        s.read_to_end(&mut out).await.unwrap();
        String::from_utf8_lossy(&out).into_owned()
    };
    let lines = [
        "X-Object-Meta-Gr\u{fc}n: 1",
        "X-Object-Meta-A=5Fb: 2",
        "X-Object-Meta-C_d: 3",
        "X-Object_Sysmeta-X: 4",
        "X-Object-Sysmeta=5FX: 6",
        "X-Object-Sysmeta-=5F: 7",
        "X-Object-Transient-Sysmeta-Crypto-Meta-A=5Fb: 8",
        "X-Object-Meta-E^0d^0aX-Injected^3a: 9",
    ];
    let put = format!(
        "PUT /v1/AUTH_a/c/odd HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Auth-Token: {}\r\n{}\r\nContent-Length: 1\r\n\r\nx",
        cloud.a,
        lines.join("\r\n")
    );
    assert!(exchange(put).await.starts_with("HTTP/1.1 201 "));
    let head = format!("HEAD /v1/AUTH_a/c/odd HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Auth-Token: {}\r\n\r\n", cloud.a);
    let got = exchange(head).await;
    let mut names: Vec<&str> =
        got.lines().filter_map(|l| l.split_once(':')).map(|(n, _)| n).filter(|n| n.starts_with("x-object")).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-object-meta-a=5Fb", "x-object-meta-e^0d^0ax-injected^3a", "x-object-meta-gr\u{fc}n"], "{got}");
}
