use super::Inner;
use crate::env::{Req, Resp};
use crate::middleware::common::{listing_rows, parse_header, with_json};
use serde_json::Value;

/// A container's listing: the large object's etag, kept behind the manifest's, becomes a field of its own.
pub(super) async fn list(slo: &Inner, req: Req) -> Resp {
    let (resp, mut rows) = match listing_rows(slo.next.call(req).await, "slo_etag").await {
        Ok(found) => found,
        Err(resp) => return resp,
    };
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        let Some(hash) = row.get("hash").and_then(Value::as_str) else { continue };
        let (etag, params) = parse_header(hash);
        let Some((_, slo_etag)) = params.iter().find(|(k, _)| k == "slo_etag") else { continue };
        let slo_etag = format!("\"{slo_etag}\"");
        let rest: String = params.iter().filter(|(k, _)| k != "slo_etag").map(|(k, v)| format!("; {k}={v}")).collect();
        row.insert("slo_etag".into(), slo_etag.into());
        row.insert("hash".into(), format!("{etag}{rest}").into());
    }
    with_json(resp, &Value::Array(rows))
}
