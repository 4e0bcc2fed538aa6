//! An account's listing: a container has the bytes of its versions too.

use super::names::{reserved_name, user_container, versions_container};
use super::{Context, Inner};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{Params, error_plain, read_all};
use crate::middleware::common::{MAX_LISTING_BYTES, allow_reserved, listing_rows, with_json};
use caelum_swiftkit::LISTING_LIMIT;
use http::Method;
use serde_json::Value;
use std::collections::BTreeMap;

/// The rows in order, at most `limit` of them.
pub(super) fn sorted(mut rows: Vec<Value>, reverse: bool, limit: usize) -> Value {
    let key = |v: &Value| v.get("subdir").or_else(|| v.get("name")).and_then(Value::as_str).unwrap_or_default().to_string();
    rows.sort_by(|a, b| if reverse { key(b).cmp(&key(a)) } else { key(a).cmp(&key(b)) });
    rows.truncate(limit);
    Value::Array(rows)
}

/// A listing's limit. Errors: 412 above the largest.
pub(super) fn limit_of(params: &Params) -> Result<usize, Resp> {
    match params.get("limit").filter(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit())) {
        None => Ok(LISTING_LIMIT),
        Some(l) => match l.parse() {
            Ok(n) if n <= LISTING_LIMIT => Ok(n),
            _ => Err(error_plain(412, format!("Maximum limit is {LISTING_LIMIT}"))),
        },
    }
}

pub(super) async fn account(layer: &Inner, req: Req, path: &SwiftPath) -> Result<Resp, Resp> {
    if req.method() != Method::GET {
        return Ok(layer.next.call(req).await);
    }
    let (cx, params) = (Context::new(&layer.next, &req, "OV"), Params::of(&req));
    let (resp, mut rows) = match listing_rows(layer.next.call(req).await, "").await {
        Ok(found) => found,
        Err(resp) => return Ok(resp),
    };
    let mut hidden = hidden(&cx, path, &params).await;
    for row in &mut rows {
        let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
        if let Some(more) = hidden.remove(name) {
            let bytes = |v: &Value| v.get("bytes").and_then(Value::as_u64).unwrap_or(0);
            let sum = bytes(row).saturating_add(bytes(&more));
            row["bytes"] = sum.into();
        }
    }
    // Versions whose container is gone should not be; their owner sees them and can clean up.
    for (name, mut row) in hidden {
        row["name"] = name.into();
        row["count"] = 0.into();
        rows.push(row);
    }
    let limit = limit_of(&params)?;
    Ok(with_json(resp, &sorted(rows, params.is_true("reverse"), limit)))
}

/// The hidden containers of the page, by the name of the one they belong to.
async fn hidden(cx: &Context, path: &SwiftPath, params: &Params) -> BTreeMap<String, Value> {
    let mut params = params.clone();
    let prefix = match params.get("prefix") {
        Some(p) => versions_container(p).unwrap_or_else(|| p.to_string()),
        None => reserved_name(&["versions"]).unwrap_or_default(),
    };
    params.set("prefix", prefix);
    for name in ["marker", "end_marker"] {
        if let Some(container) = params.get(name).and_then(versions_container) {
            params.set(name, container);
        }
    }
    params.set("format", "json");
    let target = format!("/v1/{}?{}", crate::env::quote(&path.account), params.encode());
    let mut req = cx.request(Method::GET, &target);
    allow_reserved(&mut req);
    let resp = cx.call(req).await;
    if !resp.status().is_success() {
        super::done(resp).await;
        return BTreeMap::new();
    }
    let body = read_all(resp.into_body(), MAX_LISTING_BYTES).await.unwrap_or_default();
    let rows: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
    let named = rows.into_iter().filter_map(|r| Some((user_container(r.get("name")?.as_str()?).to_string(), r)));
    named.collect()
}
