//! Listings of unfinished uploads and of their parts.

use super::listing::{Encoding, row_name, rows_of, write_owner};
use super::multipart::{no_such_upload, upload, upload_id};
use super::{number, xml, xml_time};
use crate::context::{Cx, Need, Subject};
use crate::errors::S3Result;
use crate::xml::Xml;
use caelum_object::env::Resp;
use http::Method;
use serde_json::Value;

const MAX_UPLOADS: u64 = 1000;
/// Rows of the segments' container that are looked through for one page at most.
const MAX_ROWS: usize = 200_000;

fn is_part(name: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(_, n)| !n.is_empty() && n.len() <= 5 && n.bytes().all(|b| b.is_ascii_digit()))
}

struct Upload {
    key: String,
    id: String,
    at: String,
}

/// Uploads in order of key and id, at most `max` + 1, with the prefixes that stand for more.
async fn uploads(cx: &Cx, max: usize) -> S3Result<(Vec<Upload>, Vec<String>)> {
    let get = |n: &str| cx.params.get(n).unwrap_or_default();
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let mut marker = match (get("key-marker"), get("upload-id-marker")) {
        ("", _) => String::new(),
        (k, "") => format!("{k}/~"),
        (k, id) => format!("{k}/{id}"),
    };
    let (mut found, mut prefixes): (Vec<Upload>, Vec<String>) = (Vec::new(), Vec::new());
    let mut seen = 0;
    while found.len() + prefixes.len() <= max && seen < MAX_ROWS {
        let call = cx.call(Method::GET, &cx.segments(), "").granted().query("prefix", prefix).query("marker", &marker);
        let rows = match call.json(Subject::Bucket(cx.bucket())).await {
            Ok((rows, _)) => rows_of(rows),
            // No upload was ever begun.
            Err(e) if e.code == "NoSuchBucket" => break,
            Err(e) => return Err(e),
        };
        let Some(last) = rows.last() else { break };
        seen += rows.len();
        marker = row_name(last).to_string();
        for row in rows.iter().filter(|r| !is_part(row_name(r))) {
            let Some((key, id)) = row_name(row).rsplit_once('/') else { continue };
            let sub = key.get(prefix.len()..).and_then(|rest| (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten());
            if let Some(at) = sub {
                let p = key[..prefix.len() + at + delimiter.len()].to_string();
                if prefixes.last() != Some(&p) {
                    prefixes.push(p);
                }
            } else {
                let at = row.get("last_modified").and_then(Value::as_str).unwrap_or_default().to_string();
                found.push(Upload { key: key.into(), id: id.into(), at });
            }
            if found.len() + prefixes.len() > max {
                break;
            }
        }
    }
    Ok((found, prefixes))
}

pub async fn list_uploads(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:ListBucketMultipartUploads", None, Need::Bucket("READ")).await?;
    let encoding = Encoding::of(cx)?;
    let asked = number(cx, "max-uploads", MAX_UPLOADS)?.min(MAX_UPLOADS);
    let max = usize::try_from(asked).unwrap_or(1000);
    let (mut found, prefixes) = uploads(cx, max).await?;
    let is_truncated = max > 0 && found.len() + prefixes.len() > max;
    found.truncate(max.saturating_sub(prefixes.len()));
    let param = |n: &str| encoding.apply(cx.params.get(n).unwrap_or_default());
    let mut x = Xml::document("ListMultipartUploadsResult", true);
    x.leaf("Bucket", cx.bucket()).leaf("KeyMarker", param("key-marker"));
    x.leaf("UploadIdMarker", cx.params.get("upload-id-marker").unwrap_or_default());
    if let Some(last) = found.last().filter(|_| is_truncated) {
        x.leaf("NextKeyMarker", encoding.apply(&last.key)).leaf("NextUploadIdMarker", &last.id);
    }
    if cx.params.has("delimiter") {
        x.leaf("Delimiter", param("delimiter"));
    }
    x.leaf("Prefix", param("prefix")).leaf("MaxUploads", asked.to_string());
    encoding.write(&mut x);
    x.leaf("IsTruncated", is_truncated.to_string());
    let user = cx.user();
    for u in &found {
        x.open("Upload").leaf("Key", encoding.apply(&u.key)).leaf("UploadId", &u.id);
        x.open("Initiator").leaf("ID", &user).leaf("DisplayName", &user).close();
        write_owner(&mut x, &user);
        x.leaf("StorageClass", "STANDARD").leaf("Initiated", xml_time(&u.at)).close();
    }
    for p in &prefixes {
        x.open("CommonPrefixes").leaf("Prefix", encoding.apply(p)).close();
    }
    Ok(xml(x.finish()))
}

/// Every unfinished upload of a bucket: key, id, time of its begin.
pub async fn all_uploads(cx: &Cx, max: usize) -> S3Result<Vec<(String, String, String)>> {
    let (found, _) = uploads(cx, max).await?;
    Ok(found.into_iter().map(|u| (u.key, u.id, u.at)).collect())
}

pub async fn list_parts(cx: &mut Cx) -> S3Result<Resp> {
    let key = cx.key().to_string();
    cx.authorize("s3:ListMultipartUploadParts", Some(&key), Need::Bucket("READ")).await?;
    let encoding = Encoding::of(cx)?;
    let id = upload_id(cx)?;
    let (_, is_marker) = upload(cx).await?;
    if !is_marker {
        return Err(no_such_upload(&id));
    }
    let asked = number(cx, "max-parts", 1000)?.min(1000);
    let after = number(cx, "part-number-marker", 0)?;
    let mut parts = parts_of(cx, &format!("{key}/{id}/")).await?;
    parts.retain(|(n, _)| *n > after);
    let max = usize::try_from(asked).unwrap_or(1000);
    let is_truncated = parts.len() > max;
    parts.truncate(max);
    let user = cx.user();
    let mut x = Xml::document("ListPartsResult", true);
    x.leaf("Bucket", cx.bucket()).leaf("Key", encoding.apply(&key)).leaf("UploadId", &id);
    x.open("Initiator").leaf("ID", &user).leaf("DisplayName", &user).close();
    write_owner(&mut x, &user);
    x.leaf("StorageClass", "STANDARD").leaf("PartNumberMarker", after.to_string());
    x.leaf("NextPartNumberMarker", parts.last().map_or(0, |(n, _)| *n).to_string()).leaf("MaxParts", asked.to_string());
    encoding.write(&mut x);
    x.leaf("IsTruncated", is_truncated.to_string());
    for (n, row) in &parts {
        x.open("Part").leaf("PartNumber", n.to_string());
        x.leaf("LastModified", xml_time(row.get("last_modified").and_then(Value::as_str).unwrap_or_default()));
        x.leaf("ETag", super::listing::etag_of(row));
        x.leaf("Size", row.get("bytes").and_then(Value::as_u64).unwrap_or(0).to_string()).close();
    }
    Ok(xml(x.finish()))
}

/// Names sort as text, so that all parts are read before they can be put in order.
async fn parts_of(cx: &Cx, prefix: &str) -> S3Result<Vec<(u64, Value)>> {
    let mut out = Vec::new();
    let mut marker = String::new();
    loop {
        let call =
            cx.call(Method::GET, &cx.segments(), "").granted().query("prefix", prefix).query("delimiter", "/").query("marker", &marker);
        let (rows, _) = call.json(Subject::Bucket(cx.bucket())).await?;
        let rows = rows_of(rows);
        let Some(last) = rows.last() else { break };
        marker = row_name(last).to_string();
        for row in rows {
            if let Some(n) = row_name(&row).strip_prefix(prefix).and_then(|n| n.parse().ok()) {
                out.push((n, row));
            }
        }
        if out.len() > 20_000 {
            break;
        }
    }
    out.sort_by_key(|(n, _)| *n);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_markers() {
        assert!(is_part("k/YWJj/12") && is_part("k/YWJj/10000"));
        assert!(!is_part("k/YWJj") && !is_part("k") && !is_part("k/YWJj/") && !is_part("k/123456"));
    }
}
