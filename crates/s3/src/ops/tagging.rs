//! Tags of objects and buckets, as operations.

use super::object::{change, head};
use super::{nothing, tell, xml};
use crate::context::{Cx, Need, Rights};
use crate::errors::{S3Result, err};
use crate::state::{Bucket, Setting};
use crate::tags::{self, MAX_BUCKET_TAGS, MAX_OBJECT_TAGS, OBJECT_TAGS};
use caelum_object::env::Resp;

const MAX_BODY: usize = 65_536;

pub async fn get_bucket(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:GetBucketTagging", None, Need::Owner).await?;
    let stored = state.setting(Setting::Tagging).ok_or_else(|| err("NoSuchTagSet").with("BucketName", cx.bucket()))?;
    Ok(xml(tags::to_xml(&crate::auth::query_pairs(Some(stored)))))
}

pub async fn put_bucket(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:PutBucketTagging", None, Need::Owner).await?;
    let body = cx.read_body(MAX_BODY).await?;
    let text = tags::to_query(&tags::from_xml(&body, MAX_BUCKET_TAGS)?);
    let text = crate::state::storable(&text, true)?;
    cx.store_settings(cx.bucket(), &[(Setting::Tagging, text)], &[]).await?;
    Ok(nothing(204))
}

pub async fn delete_bucket(cx: &mut Cx) -> S3Result<Resp> {
    cx.authorize("s3:PutBucketTagging", None, Need::Owner).await?;
    cx.store_settings(cx.bucket(), &[(Setting::Tagging, String::new())], &[]).await?;
    Ok(nothing(204))
}

/// Nothing but a policy gives others a right to tags.
async fn allowed(cx: &mut Cx, action: &str) -> S3Result<Bucket> {
    let key = cx.key().to_string();
    let state = cx.authorize(action, Some(&key), Need::Owner).await?;
    if cx.rights == Rights::Granted { Ok(state) } else { Err(err("AccessDenied")) }
}

pub async fn get_object(cx: &mut Cx) -> S3Result<Resp> {
    let state = allowed(cx, "s3:GetObjectTagging").await?;
    let headers = head(cx, &state).await?;
    Ok(xml(tags::to_xml(&tags::of_object(&headers))))
}

pub async fn put_object(cx: &mut Cx) -> S3Result<Resp> {
    let body = cx.read_body(MAX_BODY).await?;
    let state = allowed(cx, "s3:PutObjectTagging").await?;
    let text = tags::to_query(&tags::from_xml(&body, MAX_OBJECT_TAGS)?);
    let headers = head(cx, &state).await?;
    change(cx, &state, &headers, &[(OBJECT_TAGS, Some(text).filter(|t| !t.is_empty()))]).await?;
    tell(cx, &state, "ObjectTagging:Put", cx.key(), (None, None, None)).await;
    Ok(nothing(200))
}

pub async fn delete_object(cx: &mut Cx) -> S3Result<Resp> {
    let state = allowed(cx, "s3:DeleteObjectTagging").await?;
    let headers = head(cx, &state).await?;
    change(cx, &state, &headers, &[(OBJECT_TAGS, None)]).await?;
    tell(cx, &state, "ObjectTagging:Delete", cx.key(), (None, None, None)).await;
    Ok(nothing(204))
}
