//! Names of every kind are stored and listed as they are, or refused; never changed.

use super::cluster::Cloud;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

fn quote(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

const ODD: &[&str] = &[
    ".",
    "..",
    "...",
    "../..",
    "../../etc/passwd",
    "./x",
    "x/.",
    "x/..",
    "/",
    "//",
    "/x",
    "x/",
    "x//y",
    "x///",
    "\\..\\x",
    "~",
    "~root",
    "-rf",
    "--",
    " ",
    "   ",
    " x",
    "x ",
    "\t",
    "\n",
    "\r\n",
    "a\nb",
    "\u{1}",
    "\u{7f}",
    "\u{1b}[31m",
    "a\u{8}b",
    "%",
    "%2e%2e",
    "%00",
    "%zz",
    "%252f",
    "+",
    "a+b",
    "a&b=c",
    "?x=y",
    "#frag",
    ";a",
    "a:b",
    "*",
    "[a]",
    "{{7*7}}",
    "${x}",
    "$(id)",
    "`id`",
    "%s%n%d",
    "' OR 1=1 --",
    "\"; DROP TABLE object; --",
    "<script>alert(1)</script>",
    "]]>",
    "&amp;",
    "\"quoted\"",
    "'single'",
    "null",
    "None",
    "0",
    "-1",
    "true",
    "nan",
    "1e309",
    "CON",
    "aux.txt",
    "index.html",
    "manifest",
    "é",
    "e\u{301}",
    "ÅÄÖ",
    "A\u{30a}",
    "ﬁ",
    "ſ",
    "K",
    "İ",
    "ı",
    "ß",
    "ẞ",
    "日本語",
    "한글",
    "עברית",
    "\u{202e}txt.exe",
    "\u{200d}",
    "\u{feff}bom",
    "\u{fffd}",
    "\u{10ffff}",
    "😀",
    "👩\u{200d}👩\u{200d}👧",
    "a\u{0300}\u{0301}\u{0302}",
    "\u{e000}",
    "\u{fdd0}",
    "аbc",
    "abс",
];

/// Legal names, however odd.
fn odd_names() -> Vec<String> {
    let long = ["x".repeat(1_024), "😀".repeat(256), "../".repeat(341)];
    ODD.iter().map(|s| s.to_string()).chain(long).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_keep_their_names() {
    let cloud = Cloud::new().await;
    let names = odd_names();
    for name in &names {
        let target = format!("/v1/AUTH_a/c/{}", quote(name));
        let put = cloud.as_a("PUT", &target, &[], name.clone()).await;
        assert_eq!(put.status, 201, "{name:?}: {}", put.text());
    }
    for name in &names {
        let got = cloud.as_a("GET", &format!("/v1/AUTH_a/c/{}", quote(name)), &[], "").await;
        assert_eq!((got.status, got.text()), (200, name.clone()), "{name:?}");
    }
    let mut wanted = names.clone();
    wanted.sort();
    assert_eq!(cloud.names("c").await, wanted);
    // Nothing lies outside the devices, or under a name of the clients'.
    for entry in std::fs::read_dir(cloud.dir.path()).unwrap() {
        assert!(["n0", "n1", "n2"].contains(&entry.unwrap().file_name().to_str().unwrap()));
    }
    for name in &names {
        let gone = cloud.as_a("DELETE", &format!("/v1/AUTH_a/c/{}", quote(name)), &[], "").await;
        assert_eq!(gone.status, 204, "{name:?}");
    }
    assert_eq!(cloud.names("c").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_in_xml_parse_back_to_the_names() {
    let cloud = Cloud::new().await;
    let names: Vec<String> =
        ["<a>", "&lt;", "\"'", "]]>", "é", "e\u{301}", " x ", "\u{202e}x", "😀"].iter().map(|s| s.to_string()).collect();
    for name in &names {
        cloud.as_a("PUT", &format!("/v1/AUTH_a/c/{}", quote(name)), &[], "").await;
    }
    let xml = cloud.as_a("GET", "/v1/AUTH_a/c?format=xml", &[], "").await.text();
    let mut found: Vec<String> = xml.split("<name>").skip(1).map(|p| unescape(p.split("</name>").next().unwrap())).collect();
    found.sort();
    let mut wanted = names.clone();
    wanted.sort();
    assert_eq!(found, wanted, "{xml}");
    let plain = cloud.as_a("GET", "/v1/AUTH_a/c", &[], "").await.text();
    assert_eq!(plain.lines().count(), names.len());
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#x27;", "'")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_keep_their_names() {
    let cloud = Cloud::new().await;
    let mut made = vec!["c".to_string()];
    // A quoted slash is a slash: what stands behind it names an object.
    for name in odd_names().into_iter().filter(|n| !n.contains('/')) {
        let answer = cloud.as_a("PUT", &format!("/v1/AUTH_a/{}", quote(&name)), &[], "").await;
        // Swift counts characters.
        if name.chars().count() > 256 {
            assert!(matches!(answer.status, 400 | 404 | 405 | 412), "{name:?}: {}", answer.status);
        } else {
            assert_eq!(answer.status, 201, "{name:?}: {}", answer.text());
            let object = cloud.as_a("PUT", &format!("/v1/AUTH_a/{}/o", quote(&name)), &[], "x").await;
            assert_eq!(object.status, 201, "{name:?}");
            made.push(name);
        }
    }
    made.sort();
    let listing = cloud.as_a("GET", "/v1/AUTH_a?format=json", &[], "").await;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&listing.body).unwrap();
    let found: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(found, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_beyond_the_limits_are_refused() {
    let cloud = Cloud::new().await;
    for (target, status, text) in [
        (format!("/v1/AUTH_a/c/{}", "x".repeat(1_024)), 201, ""),
        (format!("/v1/AUTH_a/c/{}", "x".repeat(1_025)), 400, "Object name length of 1025 longer than 1024"),
        (format!("/v1/AUTH_a/c/{}", quote(&"é".repeat(512))), 201, ""),
        (format!("/v1/AUTH_a/c/{}", quote(&("é".repeat(512) + "x"))), 400, "Object name length of 1025 longer than 1024"),
        (format!("/v1/AUTH_a/{}", "x".repeat(256)), 201, ""),
        (format!("/v1/AUTH_a/{}", "x".repeat(257)), 400, "Container name length of 257 longer than 256"),
    ] {
        let answer = cloud.as_a("PUT", &target, &[], "").await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{} bytes", target.len());
    }
    for bytes in ["%ff", "%c3%28", "%ed%a0%80", "%c0%af", "%f8%88%80%80%80", "a%00b", "%00"] {
        for target in [format!("/v1/AUTH_a/c/{bytes}"), format!("/v1/AUTH_a/{bytes}"), format!("/v1/{bytes}/c/o")] {
            let answer = cloud.as_a("PUT", &target, &[], "").await;
            assert!(matches!(answer.status, 400 | 401 | 403 | 404 | 405 | 412), "{target}: {}", answer.status);
        }
    }
}

/// Metadata names and values come back as they were.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_keeps_its_bytes() {
    let cloud = Cloud::new().await;
    let values = ["<script>", "a b  c", "$(id)", "%s%n", "é", "😀", "\"q\"", "a,b;c=d", "' OR 1=1"];
    let names: Vec<String> = (0..values.len()).map(|i| format!("x-object-meta-n{i}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values).collect();
    assert_eq!(cloud.as_a("PUT", "/v1/AUTH_a/c/o", &headers, "").await.status, 201);
    let got = cloud.as_a("HEAD", "/v1/AUTH_a/c/o", &[], "").await;
    for (name, value) in names.iter().zip(values) {
        assert_eq!(got.headers[name.as_str()].as_bytes(), value.as_bytes(), "{name}");
    }
    assert!(http::HeaderValue::from_bytes(b"a\r\nset-cookie: x").is_err(), "line breaks never get here");
}
