//! Buckets themselves: list, create, head, delete, location, access list.

use super::{nothing, xml, xml_time};
use crate::acl::{AccessList, MAX_XML};
use crate::context::{Cx, Need, Rights, Subject, discard};
use crate::errors::{S3Result, err};
use crate::state::Setting;
use crate::target::is_bucket_name;
use crate::xml::{Xml, parse};
use caelum_object::env::Resp;
use caelum_object::http::set;
use http::Method;
use serde_json::Value;

const MAX_CREATE: usize = 10_240;
/// Containers read for one answer at most.
const MAX_BUCKETS: usize = 10_000;

pub async fn list(cx: &mut Cx) -> S3Result<Resp> {
    if cx.caller.is_none() {
        return Err(err("AccessDenied"));
    }
    cx.rights = if cx.is_owner { Rights::Granted } else { Rights::Caller };
    let prefix = cx.params.get("prefix").unwrap_or_default().to_string();
    let page = super::number(cx, "max-buckets", MAX_BUCKETS as u64)?.clamp(1, MAX_BUCKETS as u64);
    let mut marker = cx.params.get("continuation-token").unwrap_or_default().to_string();
    let mut found: Vec<(String, String)> = Vec::new();
    let mut is_truncated = false;
    'pages: loop {
        let call = cx.call(Method::GET, "", "").query("prefix", &prefix).query("marker", &marker);
        let (rows, _) = call.json(Subject::Bucket("")).await?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let Some(last) = rows.last().and_then(|r| r.get("name")).and_then(Value::as_str) else { break };
        marker = last.to_string();
        for row in &rows {
            let Some(name) = row.get("name").and_then(Value::as_str).filter(|n| is_bucket_name(n, cx.inner.deps.options.dns_names)) else {
                continue;
            };
            if found.len() as u64 >= page {
                is_truncated = true;
                break 'pages;
            }
            let made = row.get("last_modified").and_then(Value::as_str).unwrap_or("2009-02-03T16:45:09");
            found.push((name.to_string(), xml_time(made)));
        }
    }
    let user = cx.user();
    let mut x = Xml::document("ListAllMyBucketsResult", true);
    x.open("Owner").leaf("ID", &user).leaf("DisplayName", &user).close().open("Buckets");
    for (name, made) in &found {
        x.open("Bucket").leaf("Name", name).leaf("CreationDate", made).close();
    }
    x.close();
    if is_truncated {
        x.leaf_if("ContinuationToken", found.last().map(|(n, _)| n.as_str()));
    }
    Ok(xml(x.finish()))
}

fn check_location(cx: &Cx, body: &[u8]) -> S3Result<()> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let e = parse(body, "CreateBucketConfiguration").map_err(|_| err("MalformedXML"))?;
    let region = &cx.inner.deps.options.region;
    match e.text_of("LocationConstraint") {
        None => Ok(()),
        Some(l) if region.is_empty() || l.eq_ignore_ascii_case(region) => Ok(()),
        Some(l) => Err(err("InvalidLocationConstraint").with("LocationConstraint", l)),
    }
}

pub async fn create(cx: &mut Cx) -> S3Result<Resp> {
    if cx.caller.is_none() {
        return Err(err("AccessDenied"));
    }
    let body = cx.read_body(MAX_CREATE).await?;
    check_location(cx, &body)?;
    let user = cx.user();
    let list = AccessList::of_headers(&cx.headers, &user, &user)?;
    let locked = cx.header("x-amz-bucket-object-lock-enabled").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    cx.rights = if cx.is_owner { Rights::Granted } else { Rights::Caller };
    let bucket = cx.bucket().to_string();
    if cx.container_info(&bucket).await?.is_some() {
        let state = cx.bucket_state().await?;
        let own = cx.is_owner && state.acl.owner.as_ref().is_none_or(|o| *o == user);
        return Err(err(if own { "BucketAlreadyOwnedByYou" } else { "BucketAlreadyExists" }).with("BucketName", bucket));
    }
    let list = list.map_or_else(|| AccessList::canned("private", &user, &user), Ok)?;
    // The container's own lists stay empty: they would open every object, where S3's list opens the listing alone.
    let mut call = cx.call(Method::PUT, &bucket, "").header(&Setting::Acl.header(), &list.to_stored()?);
    if locked {
        call = call.header("x-versions-enabled", "true").header(&Setting::ObjectLock.header(), super::lock::ENABLED);
    }
    if let Some(policy) = cx.header("x-storage-policy") {
        call = call.header("x-storage-policy", policy);
    }
    let resp = call.send().await;
    let status = resp.status().as_u16();
    discard(cx.expect(resp, Subject::Bucket(&bucket)).await?).await;
    if let Some(info) = &cx.inner.deps.info {
        info.forget(&cx.account, Some(&bucket));
    }
    if status == 202 {
        return Err(err("BucketAlreadyOwnedByYou").with("BucketName", bucket));
    }
    let mut r = nothing(200);
    set(r.headers_mut(), "location", format!("/{bucket}"));
    Ok(r)
}

pub async fn head(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:ListBucket", None, Need::Bucket("READ")).await?;
    let resp = cx.on_target(Method::HEAD).send().await;
    cx.expect(resp, Subject::Bucket(cx.bucket())).await?;
    let mut r = nothing(200);
    set(r.headers_mut(), "x-amz-bucket-region", cx.region());
    Ok(r)
}

pub async fn location(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:GetBucketLocation", None, Need::Bucket("READ")).await?;
    let resp = cx.on_target(Method::HEAD).send().await;
    cx.expect(resp, Subject::Bucket(cx.bucket())).await?;
    let mut x = Xml::document("LocationConstraint", true);
    let region = cx.region();
    // The first region has no name here.
    let text = if region == "us-east-1" { "" } else { region };
    x.close();
    let made = x.finish();
    Ok(xml(made.replace("></LocationConstraint>", &format!(">{text}</LocationConstraint>"))))
}

pub async fn delete(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:DeleteBucket", None, Need::Owner).await?;
    let bucket = cx.bucket().to_string();
    // The bucket goes first: once it is gone, nothing can be completed from its segments.
    let resp = cx.call(Method::DELETE, &bucket, "").send().await;
    discard(cx.expect(resp, Subject::Bucket(&bucket)).await?).await;
    if let Some(info) = &cx.inner.deps.info {
        info.forget(&cx.account, Some(&bucket));
    }
    delete_segments(cx).await;
    crate::lifecycle::unregister(cx).await;
    Ok(nothing(204))
}

/// Removes the parts of uploads that were never completed. What stays behind costs space only.
async fn delete_segments(cx: &Cx) {
    let segments = cx.segments();
    for _ in 0..1000 {
        let rows = match cx.call(Method::GET, &segments, "").granted().json(Subject::Bucket(&segments)).await {
            Ok((rows, _)) => rows.as_array().cloned().unwrap_or_default(),
            Err(_) => return,
        };
        if rows.is_empty() {
            break;
        }
        for name in rows.iter().filter_map(|r| r.get("name")?.as_str()) {
            let resp = cx.call(Method::DELETE, &segments, name).granted().send().await;
            let status = resp.status().as_u16();
            discard(resp).await;
            if status >= 500 {
                return;
            }
        }
    }
    discard(cx.call(Method::DELETE, &segments, "").granted().send().await).await;
}

pub async fn get_acl(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:GetBucketAcl", None, Need::Bucket("READ_ACP")).await?;
    if cx.rights == Rights::Caller {
        return Err(err("AccessDenied"));
    }
    Ok(xml(state.acl.to_xml(&cx.user())))
}

pub async fn put_acl(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:PutBucketAcl", None, Need::Bucket("WRITE_ACP")).await?;
    if cx.rights == Rights::Caller {
        return Err(err("AccessDenied"));
    }
    let owner = state.acl.owner.clone().unwrap_or_else(|| cx.user());
    let body = cx.read_body(MAX_XML).await?;
    let list = match AccessList::of_headers(&cx.headers, &owner, &owner)? {
        Some(list) if body.is_empty() => list,
        Some(_) => return Err(err("InvalidRequest").text("Headers and a document cannot both give a list.")),
        None if body.is_empty() => return Err(err("MissingSecurityHeader").with("MissingHeaderName", "x-amz-acl")),
        None => AccessList::from_xml(&body, &owner)?,
    };
    // What Swift's s3api has set for a public bucket ends with a list that is not public any more.
    let was_public = state.info.read_acl.as_deref() == Some(".r:*,.rlistings");
    let more: &[(&str, &str)] = if was_public && !list.grants(None, "READ") { &[("x-container-read", "")] } else { &[] };
    cx.store_settings(cx.bucket(), &[(Setting::Acl, list.to_stored()?)], more).await?;
    Ok(nothing(200))
}
