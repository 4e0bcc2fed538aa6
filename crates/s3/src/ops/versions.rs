//! Versions: whether they are kept, and the listing of them.

use super::listing::{Encoding, etag_of, row_name, rows_of, write_owner};
use super::{number, xml, xml_time};
use crate::context::{Cx, Need, Subject};
use crate::errors::{S3Result, err, invalid_argument, not_implemented};
use crate::state::Setting;
use crate::xml::{Xml, parse};
use caelum_object::env::Resp;
use caelum_swiftkit::Timestamp;
use http::Method;
use serde_json::Value;

const DELETE_MARKER: &str = "application/x-deleted;swift_versions_deleted=1";
const MAX_BODY: usize = 10_240;

pub async fn get(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:GetBucketVersioning", None, Need::Owner).await?;
    let mut x = Xml::document("VersioningConfiguration", true);
    if let Some(on) = state.versioning() {
        x.leaf("Status", if on { "Enabled" } else { "Suspended" });
    }
    Ok(xml(x.finish()))
}

pub async fn put(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:PutBucketVersioning", None, Need::Owner).await?;
    let body = cx.read_body(MAX_BODY).await?;
    let e = parse(&body, "VersioningConfiguration").map_err(|_| err("MalformedXML"))?;
    if e.text_of("MfaDelete") == Some("Enabled") {
        return Err(not_implemented("MFA Delete is not supported."));
    }
    let on = match e.text_of("Status") {
        Some("Enabled") => true,
        Some("Suspended") => false,
        _ => return Err(err("IllegalVersioningConfigurationException")),
    };
    if !on && state.setting(Setting::ObjectLock).is_some() {
        return Err(err("InvalidBucketState")
            .text("An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."));
    }
    cx.store_settings(cx.bucket(), &[], &[("x-versions-enabled", if on { "true" } else { "false" })]).await?;
    Ok(super::nothing(200))
}

fn check_markers(cx: &Cx) -> S3Result<()> {
    let Some(version) = cx.params.get("version-id-marker").filter(|v| !v.is_empty()) else { return Ok(()) };
    if cx.params.get("key-marker").is_none_or(str::is_empty) {
        return Err(invalid_argument("version-id-marker", version, "A version-id marker cannot be specified without a key marker."));
    }
    if version != "null" && Timestamp::parse(version).is_none() {
        return Err(invalid_argument("version-id-marker", version, "Invalid version id specified"));
    }
    Ok(())
}

pub async fn list(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:ListBucketVersions", None, Need::Bucket("READ")).await?;
    let encoding = Encoding::of(cx)?;
    check_markers(cx)?;
    let max = cx.inner.deps.options.max_listing as u64;
    let asked = number(cx, "max-keys", max)?;
    let keys = asked.min(max);
    let mut call = cx.on_target(Method::GET).query("versions", "").query("limit", &(keys + 1).to_string());
    for (param, name) in
        [("prefix", "prefix"), ("delimiter", "delimiter"), ("key-marker", "marker"), ("version-id-marker", "version_marker")]
    {
        if let Some(v) = cx.params.get(param).filter(|v| !v.is_empty()) {
            call = call.query(name, v);
        }
    }
    let (rows, _) = call.json(Subject::Bucket(cx.bucket())).await?;
    let mut rows = rows_of(rows);
    let keys = usize::try_from(keys).unwrap_or(0);
    let is_truncated = keys > 0 && rows.len() > keys;
    rows.truncate(keys);
    let owner = state.acl.owner.clone().unwrap_or_else(|| cx.user());
    Ok(xml(write(cx, &encoding, &rows, (asked, is_truncated), &owner)))
}

fn write(cx: &Cx, encoding: &Encoding, rows: &[Value], (asked, is_truncated): (u64, bool), owner: &str) -> String {
    let name = |t: &str| encoding.apply(t);
    let param = |n: &str| cx.params.get(n).map(&name);
    let text = |row: &Value, n: &str| row.get(n).and_then(Value::as_str).unwrap_or_default().to_string();
    let version = |row: &Value| row.get("version_id").and_then(Value::as_str).unwrap_or("null").to_string();
    let mut x = Xml::document("ListVersionsResult", true);
    x.leaf("Name", cx.bucket()).leaf("Prefix", param("prefix").unwrap_or_default());
    x.leaf("KeyMarker", param("key-marker").unwrap_or_default());
    x.leaf("VersionIdMarker", cx.params.get("version-id-marker").unwrap_or_default());
    if let Some(last) = rows.last().filter(|_| is_truncated) {
        x.leaf("NextKeyMarker", name(row_name(last))).leaf("NextVersionIdMarker", version(last));
    }
    x.leaf("MaxKeys", asked.to_string());
    x.leaf_if("Delimiter", param("delimiter").filter(|d| !d.is_empty()).as_deref());
    encoding.write(&mut x);
    x.leaf("IsTruncated", is_truncated.to_string());
    for row in rows.iter().filter(|r| r.get("subdir").is_none()) {
        let is_marker = text(row, "content_type") == DELETE_MARKER;
        x.open(if is_marker { "DeleteMarker" } else { "Version" });
        x.leaf("Key", name(row_name(row))).leaf("VersionId", version(row));
        // Without versions every row is the latest.
        x.leaf("IsLatest", row.get("is_latest").and_then(Value::as_bool).unwrap_or(true).to_string());
        x.leaf("LastModified", xml_time(&text(row, "last_modified")));
        if !is_marker {
            x.leaf("ETag", etag_of(row)).leaf("Size", row.get("bytes").and_then(Value::as_u64).unwrap_or(0).to_string());
        }
        write_owner(&mut x, owner);
        if !is_marker {
            x.leaf("StorageClass", "STANDARD");
        }
        x.close();
    }
    for row in rows.iter().filter(|r| r.get("subdir").is_some()) {
        x.open("CommonPrefixes").leaf("Prefix", name(row_name(row))).close();
    }
    x.finish()
}
