//! What lies on the disks of a store that encrypts, and that clients see none of it.

use super::cluster::Cloud;
use caelum_object::middleware::crypto::Keymaster;
use std::sync::Arc;

const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn cloud() -> Cloud {
    Cloud::with(|o| o.keymaster = Some(Arc::new(Keymaster::from_options([("encryption_root_secret", SECRET)]).unwrap()))).await
}

fn walk(dir: &std::path::Path, needle: &[u8], found: &mut Vec<String>, files: &mut usize) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, needle, found, files);
        } else {
            *files += 1;
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(needle.len()).any(|w| w == needle) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// The canary stands in data, metadata and (as its hash) in ETags and listings.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_readable_reaches_the_disks() {
    let cloud = cloud().await;
    let canary = "canary-5a1f0c";
    let data = format!("{canary} {}", "0123456789".repeat(20_000));
    let etag = caelum_swiftkit::md5_hex(data.as_bytes());
    let put = cloud.as_a("PUT", "/v1/AUTH_a/c/o", &[("x-object-meta-note", canary), ("etag", &etag)], data.clone()).await;
    assert_eq!((put.status, put.header("etag")), (201, Some(etag.as_str())));
    assert_eq!(cloud.as_a("POST", "/v1/AUTH_a/c/o", &[("x-object-meta-note", canary), ("x-object-meta-more", "1")], "").await.status, 202);
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/copy", &[("x-copy-from", "c/o")], "").await.status, 201);
    let (mut found, mut files) = (Vec::new(), 0);
    for needle in [canary.as_bytes(), etag.as_bytes(), b"01234567890123456789"] {
        walk(cloud.dir.path(), needle, &mut found, &mut files);
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(files > 20, "{files} files looked at");

    for name in ["o", "copy"] {
        let target = format!("/v1/AUTH_a/c/{name}");
        let got = cloud.as_a("GET", &target, &[], "").await;
        assert!(got.text() == data && got.header("x-object-meta-note") == Some(canary), "{name}");
        assert_eq!(got.header("etag").map(|e| e.trim_matches('"')), Some(etag.as_str()));
        assert!(!got.headers.keys().any(|k| k.as_str().contains("crypto") || k.as_str().contains("sysmeta")), "{:?}", got.headers);
        let part = cloud.as_a("GET", &target, &[("range", "bytes=100017-100040")], "").await;
        assert_eq!((part.status, part.text()), (206, data[100_017..=100_040].to_string()));
        let parts = cloud.as_a("GET", &target, &[("range", "bytes=0-12,150000-150019")], "").await;
        assert!(parts.text().contains(canary) && parts.text().contains(&data[150_000..=150_019]), "{}", parts.text());
        assert_eq!(cloud.as_a("GET", &target, &[("if-none-match", &etag)], "").await.status, 304);
        assert_eq!(cloud.as_a("GET", &target, &[("if-match", "\"0\"")], "").await.status, 412);
    }
    let listing = cloud.as_a("GET", "/v1/AUTH_a/c?format=json", &[], "").await.text();
    assert_eq!(listing.matches(&etag).count(), 2, "{listing}");
    assert!(!listing.contains("swift_meta"));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_links_work_on_encrypted_objects() {
    let cloud = cloud().await;
    for (name, data) in [("s/1", "first "), ("s/2", "second")] {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &[], data).await;
    }
    let manifest = r#"[{"path":"/c/s/1"},{"path":"/c/s/2"}]"#;
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/slo?multipart-manifest=put", &[], manifest).await.status, 201);
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/dlo", &[("x-object-manifest", "c/s/")], "").await.status, 201);
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/link", &[("x-symlink-target", "c/slo")], "").await.status, 201);
    for name in ["slo", "dlo", "link"] {
        let target = format!("/v1/AUTH_a/c/{name}");
        assert_eq!(cloud.as_a("GET", &target, &[], "").await.text(), "first second", "{name}");
        assert_eq!(cloud.as_a("GET", &target, &[("range", "bytes=4-8")], "").await.text(), "t sec", "{name}");
        let etag = cloud.as_a("HEAD", &target, &[], "").await.header("etag").unwrap().to_string();
        assert_eq!(cloud.as_a("GET", &target, &[("if-match", &etag)], "").await.status, 200, "{name}");
        assert_eq!(cloud.as_a("GET", &target, &[("if-none-match", &etag)], "").await.status, 304, "{name}");
    }
    let wrong = cloud.as_a("PUT", "/v1/AUTH_a/c/x", &[("etag", "d41d8cd98f00b204e9800998ecf8427e")], "data").await;
    assert_eq!(wrong.status, 422);
    assert_eq!(cloud.as_a("HEAD", "/v1/AUTH_a/c/x", &[], "").await.status, 404);
    let empty = cloud.as_a("PUT", "/v1/AUTH_a/c/empty", &[], "").await;
    assert_eq!((empty.status, empty.header("etag")), (201, Some("d41d8cd98f00b204e9800998ecf8427e")));
    assert_eq!(cloud.as_a("GET", "/v1/AUTH_a/c/empty", &[], "").await.status, 200);
}
