//! Every operation with a body × malformed bodies, and its own valid body with each value replaced.

use super::common::bodies::body;
use super::common::{Estate, estate, operations, title, version};
use super::{HANG, alive, wrong};
use caelum_rest::OpInfo;
use caelum_testkit::TestCloud;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// The top key of an operation's body, so that malformed values get past it.
fn wrapper(op: &OpInfo, valid: &Value) -> String {
    let first = valid.as_object().and_then(|o| o.keys().next().cloned());
    op.action.map(String::from).or(first).unwrap_or_else(|| "name".into())
}

fn malformed(key: &str) -> Vec<Vec<u8>> {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let mut out: Vec<Vec<u8>> = [
        "",
        "null",
        "[]",
        "\"text\"",
        "1",
        "{",
        "{}",
        "{} trailing",
        "{}{}",
        "\u{feff}{}",
        "{\"__proto__\": {\"a\": 1}}",
        "a=b&c=d",
        "<xml/>",
    ]
    .iter()
    .map(|t| t.as_bytes().to_vec())
    .collect();
    out.push(deep.clone().into_bytes());
    for inner in [
        deep.as_str(),
        &deep_object,
        "NaN",
        "Infinity",
        "1e309",
        "-1",
        "99999999999999999999999999",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "{\"a\": 1, \"a\": 2}",
        "{\"no_such_field\": true}",
        "[1, 2]",
        "null",
        "true",
        "\"text\"",
        "{\"name\": [], \"id\": {}}",
    ] {
        out.push(format!("{{\"{key}\": {inner}}}").into_bytes());
    }
    out.push(format!("{{\"{key}\": {{}}, \"{key}\": {{}}}}").into_bytes());
    out.push(format!("{{\"{key}\": {}}}", "9".repeat(60_000)).into_bytes());
    out.push(b"{\"a\": \"\xff\xfe\"}".to_vec());
    out.push("{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect());
    out.push(vec![b' '; 120_000]);
    out
}

/// The valid body with one value after the other replaced by something else.
fn mutated(valid: &Value) -> Vec<Vec<u8>> {
    let others = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("\0"),
        json!("a\nb"),
        json!("x".repeat(70_000)),
        json!("%00' OR 1=1"),
        json!([]),
        json!([null]),
        json!({}),
        json!({"a": {"b": [1]}}),
    ];
    let mut pointers = Vec::new();
    collect(valid, String::new(), &mut pointers);
    let mut out = Vec::new();
    for at in pointers {
        for other in &others {
            let mut changed = valid.clone();
            if let Some(place) = changed.pointer_mut(&at) {
                *place = other.clone();
                out.push(changed.to_string().into_bytes());
            }
        }
    }
    out
}

fn collect(v: &Value, at: String, out: &mut Vec<String>) {
    match v {
        Value::Object(o) => o.iter().for_each(|(k, v)| collect(v, format!("{at}/{}", k.replace('/', "~1")), out)),
        Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| collect(v, format!("{at}/{i}"), out)),
        _ => {}
    }
    if !at.is_empty() {
        out.push(at);
    }
}

async fn fuzz(cloud: &TestCloud, op: &OpInfo, token: &str, things: &Estate) -> Vec<String> {
    let valid = body(op, things).unwrap_or_else(|| json!({}));
    let (name, value) = version(op);
    let path = format!("/{}{}", op.service, things.fill(op).0);
    let media = if op.name == "image_update" { "application/openstack-images-v2.1-json-patch" } else { "application/json" };
    let mut findings = Vec::new();
    let all = malformed(&wrapper(op, &valid)).into_iter().chain(mutated(&valid)).map(|b| (media, b));
    let odd_media = ["text/plain", "application/x-www-form-urlencoded", "application/xml", ";;;"];
    for (media, bytes) in all.chain(odd_media.map(|m| (m, valid.to_string().into_bytes()))) {
        let shown = String::from_utf8_lossy(&bytes).chars().take(120).collect::<String>();
        // A server may close a link with an unread body; the next request shall not meet that.
        let link = if bytes.len() > 10_000 { "close" } else { "keep-alive" };
        let headers = [(name, value.as_str()), ("content-type", media), ("connection", link)];
        // Operations that take JSON refuse what is none.
        let no_json = valid != json!({}) && serde_json::from_slice::<Value>(&bytes).is_err() && !bytes.is_empty();
        let call = cloud.call_bytes(op.method.clone(), &path, token, &headers, Some(bytes));
        let answer = tokio::time::timeout(HANG, call).await;
        if let Ok(a) = &answer
            && (a.status == 401 || no_json && a.status < 400)
        {
            findings.push(format!("{} {shown}: {} {}", title(op), a.status, a.text));
        }
        findings.extend(wrong(answer).map(|w| format!("{} {shown}: {w}", title(op))));
    }
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_breaks_an_operation() {
    let cloud = Arc::new(TestCloud::start().await.expect("cloud"));
    let admin = cloud.persona("fuzz", "fuzz-admin", &["admin"]).await;
    let things = Arc::new(estate(&cloud, &admin, &admin, "fuzz").await);
    let ops = operations().await.iter().filter(|o| matches!(o.method, Method::POST | Method::PUT | Method::PATCH));
    // A changed password ends the token.
    let ops: Vec<&OpInfo> = ops.filter(|o| !matches!(o.name, "user_password_change" | "user_update")).collect();
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (cloud, admin, things) = (cloud.clone(), admin.clone(), things.clone());
        let mine: Vec<&OpInfo> = ops.iter().skip(n).step_by(4).copied().collect();
        workers.spawn(async move {
            let mut findings = Vec::new();
            for op in mine {
                findings.extend(fuzz(&cloud, op, &admin, &things).await);
            }
            findings
        });
    }
    let findings: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    alive(&cloud).await;
    Arc::into_inner(cloud).expect("the workers are done").stop().await;
}
