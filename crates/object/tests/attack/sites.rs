//! Static web sites for strangers: escaped, and no more than their container lets them see.

use super::cluster::Cloud;

#[tokio::test(flavor = "multi_thread")]
async fn pages_run_no_foreign_script() {
    let cloud = Cloud::new().await;
    let evil = "\"><script>alert(1)</script>";
    let meta = [
        ("x-container-read", ".r:*,.rlistings"),
        ("x-container-meta-web-listings", "true"),
        ("x-container-meta-web-listings-label", evil),
        ("x-container-meta-web-listings-css", "javascript:\"><script>alert(2)</script>"),
    ];
    assert_eq!(cloud.as_a("POST", "/v1/AUTH_a/c", &meta, "").await.status, 204);
    for name in ["%22%3E%3Cscript%3Ealert(3)%3C%2Fscript%3E", "javascript%3Aalert(4)", "d%3Cb%3E/x"] {
        let kind = [("content-type", "text/\"><script>alert(5)</script>")];
        assert_eq!(cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &kind, "x").await.status, 201);
    }
    for target in ["/v1/AUTH_a/c/", "/v1/AUTH_a/c/d%3Cb%3E/", "/v1/AUTH_a/c/%3Cscript%3E"] {
        let page = cloud.call("GET", target, &[], "").await;
        assert!(matches!(page.status, 200 | 404), "{target}: {}", page.status);
        let text = page.text().to_lowercase();
        assert!(!text.contains("<script") && !text.contains("href=\"javascript:"), "{target}: {text}");
    }
    let listing = cloud.call("GET", "/v1/AUTH_a/c/", &[], "").await;
    assert!(listing.text().contains("href=\"./javascript%3Aalert%284%29\""), "{}", listing.text());
    let moved = cloud.call("GET", "/v1/AUTH_a/c", &[], "").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("http://store.example/v1/AUTH_a/c/")));
    let disabled = [("x-container-meta-web-listings", ""), ("x-container-meta-web-index", evil)];
    assert_eq!(cloud.as_a("POST", "/v1/AUTH_a/c", &disabled, "").await.status, 204);
    let page = cloud.call("GET", "/v1/AUTH_a/c/", &[], "").await;
    assert!(page.status == 404 && !page.text().contains("<script"), "{}", page.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_what_the_list_allows() {
    let cloud = Cloud::new().await;
    for (name, data) in [("index.html", "index"), ("401error.html", "error page")] {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &[], data).await;
    }
    let site = [
        ("x-container-meta-web-index", "index.html"),
        ("x-container-meta-web-error", "error.html"),
        ("x-container-meta-web-listings", "true"),
    ];
    cloud.as_a("POST", "/v1/AUTH_a/c", &site, "").await;
    for target in ["/v1/AUTH_a/c/", "/v1/AUTH_a/c/index.html", "/v1/AUTH_a/c/sub/", "/v1/AUTH_a/c"] {
        let page = cloud.call("GET", target, &[], "").await;
        assert_eq!(page.status, 401, "{target}");
        assert!(!page.text().contains("index") && !page.text().contains("error page"), "{target}: {}", page.text());
        assert_eq!(cloud.as_b("GET", target, &[("x-web-mode", "true")], "").await.status, 403, "{target}");
    }
    cloud.as_a("POST", "/v1/AUTH_a/c", &[("x-container-read", ".r:*")], "").await;
    assert_eq!(cloud.call("GET", "/v1/AUTH_a/c/index.html", &[], "").await.text(), "index");
    for target in ["/v1/AUTH_a/c/", "/v1/AUTH_a/c/none/"] {
        let page = cloud.call("GET", target, &[], "").await;
        assert!(matches!(page.status, 401 | 404) && !page.text().contains("index"), "no listings without .rlistings: {}", page.text());
    }
    cloud.as_a("POST", "/v1/AUTH_a/c", &[("x-container-read", ".r:*,.rlistings")], "").await;
    assert_eq!(cloud.call("GET", "/v1/AUTH_a/c/", &[], "").await.text(), "index");
    assert_eq!(cloud.call("PUT", "/v1/AUTH_a/c/index.html", &[], "x").await.status, 401);
}

/// Temporary URLs for a whole folder show it as a site, and nothing beside it.
#[tokio::test(flavor = "multi_thread")]
async fn folders_by_temporary_url() {
    let cloud = Cloud::new().await;
    cloud.set_key().await;
    for name in ["in/a", "in/sub/b", "out/secret"] {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{name}"), &[], "x").await;
    }
    cloud.as_a("POST", "/v1/AUTH_a/c", &[("x-container-meta-web-listings", "true")], "").await;
    let expires = super::cluster::now() + 600;
    let sig = caelum_object::middleware::tempurl::sign(
        caelum_object::middleware::digest::DigestName::Sha256,
        "key",
        "GET",
        "prefix:/v1/AUTH_a/c/in/",
        expires,
        None,
    );
    let query = format!("temp_url_sig={sig}&temp_url_expires={expires}&temp_url_prefix=in/");
    let page = cloud.call("GET", &format!("/v1/AUTH_a/c/in/?{query}"), &[], "").await;
    assert_eq!((page.status, page.header("content-disposition")), (200, Some("inline")), "{}", page.text());
    assert!(page.text().contains("href=\"./a?temp_url_prefix=in/&amp;") && !page.text().contains("../</a>"), "{}", page.text());
    assert_eq!(cloud.call("GET", &format!("/v1/AUTH_a/c/in/sub/b?{query}"), &[], "").await.text(), "x");
    for target in ["/v1/AUTH_a/c/out/secret", "/v1/AUTH_a/c/out/", "/v1/AUTH_a/c/", "/v1/AUTH_a/c", "/v1/AUTH_a/c/in"] {
        assert_eq!(cloud.call("GET", &format!("{target}?{query}"), &[], "").await.status, 401, "{target}");
    }
}
