//! Object lock: versions that may not be deleted for a time, or until a hold is lifted.
//!
//! The lock is metadata of the version that a POST may change. This layer decides what S3's clients may; for those of
//! Swift's API, [`caelum_object::middleware::ObjectLock`] does.

use super::object::{change, head};
use super::{nothing, xml, xml_seconds};
use crate::context::{Cx, Need};
use crate::errors::{S3Result, err, invalid_request};
use crate::state::{Bucket, Setting, storable};
use crate::xml::{Xml, parse};
use caelum_base::Timestamp;
use caelum_object::env::Resp;
use caelum_object::http::{set, text};
use caelum_object::middleware::object_lock::{HOLD, MODE, Protection, UNTIL, default_retention};
use http::{HeaderMap, Method};
use std::time::Duration;

/// The setting of a bucket whose versions can be locked, without a default.
pub const ENABLED: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
const MAX_BODY: usize = 10_240;
const MAX_YEARS: u64 = 100;

fn time(text: &str) -> S3Result<i64> {
    let t = Timestamp::parse(text).ok_or_else(|| err("MalformedXML"))?;
    Ok(t.secs() + i64::from(t.0.rem_euclid(1_000_000) > 0))
}

fn check_retention(mode: &str, until: i64, now: Timestamp) -> S3Result<()> {
    if !matches!(mode, "GOVERNANCE" | "COMPLIANCE") {
        return Err(err("MalformedXML"));
    }
    if until <= now.secs() {
        return Err(crate::errors::invalid_argument(
            "RetainUntilDate",
            &xml_seconds(until),
            "The retain until date must be in the future!",
        ));
    }
    if until > now.plus(Duration::from_secs(MAX_YEARS * 366 * 86_400)).secs() {
        return Err(err("InvalidRetentionPeriod"));
    }
    Ok(())
}

/// The bucket's default: mode and seconds.
fn default_of(state: &Bucket) -> Option<(String, u64)> {
    default_retention(state.setting(Setting::ObjectLock)?)
}

fn not_locked() -> crate::errors::S3Error {
    invalid_request("Bucket is missing Object Lock Configuration")
}

/// What headers and the bucket's default say of a new object.
pub async fn of_new_object(cx: &Cx, state: &Bucket, out: &mut HeaderMap) -> S3Result<()> {
    let is_locked = state.setting(Setting::ObjectLock).is_some();
    let (mode, until) = (cx.header("x-amz-object-lock-mode"), cx.header("x-amz-object-lock-retain-until-date"));
    let hold = cx.header("x-amz-object-lock-legal-hold");
    if !is_locked {
        return if mode.is_some() || until.is_some() || hold.is_some() { Err(not_locked()) } else { Ok(()) };
    }
    if let Some(hold) = hold {
        cx.decide("s3:PutObjectLegalHold", cx.bucket(), Some(cx.key()), state, Need::Owner).await?;
        if !matches!(hold, "ON" | "OFF") {
            return Err(crate::errors::invalid_argument(
                "x-amz-object-lock-legal-hold",
                hold,
                "Legal Hold must be either of 'ON' or 'OFF'",
            ));
        }
        set(out, HOLD, hold);
    }
    let retention = match (mode, until) {
        (Some(mode), Some(until)) => {
            cx.decide("s3:PutObjectRetention", cx.bucket(), Some(cx.key()), state, Need::Owner).await?;
            let bad =
                |_| crate::errors::invalid_argument("x-amz-object-lock-retain-until-date", until, "The retain until date is not a date.");
            let until = time(until).map_err(bad)?;
            check_retention(mode, until, cx.now()).map_err(|e| {
                if e.code == "MalformedXML" {
                    crate::errors::invalid_argument("x-amz-object-lock-mode", mode, "Unknown wormMode directive.")
                } else {
                    e
                }
            })?;
            Some((mode.to_string(), until))
        }
        (None, None) => default_of(state).map(|(m, s)| (m, cx.now().plus(Duration::from_secs(s)).secs())),
        _ => {
            let text = "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied";
            return Err(crate::errors::invalid_argument("x-amz-object-lock-mode", mode.unwrap_or_default(), text));
        }
    };
    if let Some((mode, until)) = retention {
        set(out, MODE, mode);
        set(out, UNTIL, until.to_string());
    }
    let expires = ["x-delete-at", "x-delete-after"].iter().any(|n| cx.header(n).is_some());
    if expires && Protection::of(out).forbids(cx.now(), false) {
        return Err(invalid_request("An object that is locked cannot expire."));
    }
    Ok(())
}

/// Shows a version's lock.
pub fn show(from: &HeaderMap, out: &mut HeaderMap) {
    let p = Protection::of(from);
    if let Some((mode, until)) = p.retention {
        set(out, "x-amz-object-lock-mode", mode);
        set(out, "x-amz-object-lock-retain-until-date", xml_seconds(until));
    }
    if let Some(hold) = text(from, HOLD) {
        set(out, "x-amz-object-lock-legal-hold", hold);
    }
}

async fn bypasses(cx: &Cx, state: &Bucket, key: &str) -> bool {
    let wants = cx.header("x-amz-bypass-governance-retention").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    wants && cx.decide("s3:BypassGovernanceRetention", cx.bucket(), Some(key), state, Need::Owner).await.is_ok()
}

/// Refuses to delete a protected version. Without a version id a bucket with versions only gets a delete marker.
pub async fn check_delete(cx: &Cx, state: &Bucket, key: &str, version: Option<&str>) -> S3Result<()> {
    if state.setting(Setting::ObjectLock).is_none() || (version.is_none() && state.versioning() == Some(true)) {
        return Ok(());
    }
    let mut call = cx.call(Method::HEAD, cx.bucket(), key).granted().header("x-newest", "true");
    if let Some(v) = version {
        call = call.query("version-id", v);
    }
    let resp = call.send().await;
    match resp.status().as_u16() {
        404 => return Ok(()),
        200..300 => {}
        _ => return Err(err("ServiceUnavailable")),
    }
    if Protection::of(resp.headers()).forbids(cx.now(), bypasses(cx, state, key).await) {
        return Err(err("AccessDenied").text("Access Denied because object protected by object lock."));
    }
    Ok(())
}

/// Where versions are not kept (suspended by another API), a write would replace what is protected.
pub async fn check_overwrite(cx: &Cx, state: &Bucket, key: &str) -> S3Result<()> {
    if state.setting(Setting::ObjectLock).is_none() || state.versioning() == Some(true) {
        return Ok(());
    }
    check_delete(cx, state, key, None).await
}

pub async fn get_configuration(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:GetBucketObjectLockConfiguration", None, Need::Owner).await?;
    let text =
        state.setting(Setting::ObjectLock).ok_or_else(|| err("ObjectLockConfigurationNotFoundError").with("BucketName", cx.bucket()))?;
    Ok(super::config::document(text, "ObjectLockConfiguration"))
}

pub async fn put_configuration(cx: &mut Cx) -> S3Result<Resp> {
    let state = cx.authorize("s3:PutBucketObjectLockConfiguration", None, Need::Owner).await?;
    let body = cx.read_body(MAX_BODY).await?;
    let bad = || err("MalformedXML");
    let e = parse(&body, "ObjectLockConfiguration").map_err(|_| bad())?;
    if e.text_of("ObjectLockEnabled") != Some("Enabled") {
        return Err(bad());
    }
    if state.versioning() != Some(true) {
        return Err(err("InvalidBucketState").text("Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"));
    }
    if let Some(rule) = e.child("Rule") {
        let d = rule.child("DefaultRetention").ok_or_else(bad)?;
        if !matches!(d.text_of("Mode"), Some("GOVERNANCE" | "COMPLIANCE")) {
            return Err(bad());
        }
        let number = |n: &str| d.text_of(n).map(|t| t.parse::<u64>().map_err(|_| bad())).transpose();
        match (number("Days")?, number("Years")?) {
            (Some(1..=36_500), None) | (None, Some(1..=MAX_YEARS)) => {}
            (Some(_), None) | (None, Some(_)) => return Err(err("InvalidRetentionPeriod")),
            _ => return Err(bad()),
        }
    }
    cx.store_settings(cx.bucket(), &[(Setting::ObjectLock, storable(&e.to_text(), false)?)], &[]).await?;
    Ok(nothing(200))
}

async fn locked_object(cx: &mut Cx, action: &str) -> S3Result<(Bucket, HeaderMap)> {
    let key = cx.key().to_string();
    let state = cx.authorize(action, Some(&key), Need::Owner).await?;
    if state.setting(Setting::ObjectLock).is_none() {
        return Err(not_locked());
    }
    let headers = head(cx, &state).await?;
    Ok((state, headers))
}

pub async fn get_retention(cx: &mut Cx) -> S3Result<Resp> {
    let (_, headers) = locked_object(cx, "s3:GetObjectRetention").await?;
    let (mode, until) = Protection::of(&headers).retention.ok_or_else(|| err("NoSuchObjectLockConfiguration"))?;
    let mut x = Xml::document("Retention", true);
    x.leaf("Mode", mode).leaf("RetainUntilDate", xml_seconds(until));
    Ok(xml(x.finish()))
}

pub async fn put_retention(cx: &mut Cx) -> S3Result<Resp> {
    let body = cx.read_body(MAX_BODY).await?;
    let (state, headers) = locked_object(cx, "s3:PutObjectRetention").await?;
    let e = parse(&body, "Retention").map_err(|_| err("MalformedXML"))?;
    let wanted = match (e.text_of("Mode"), e.text_of("RetainUntilDate")) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let until = time(until)?;
            check_retention(mode, until, cx.now())?;
            Some((mode.to_string(), until))
        }
        _ => return Err(err("MalformedXML")),
    };
    let old = Protection { is_held: false, ..Protection::of(&headers) };
    // Longer and no weaker is always allowed.
    let stronger = match (&old.retention, &wanted) {
        (Some((om, ou)), Some((nm, nu))) => nu >= ou && (om == nm || nm == "COMPLIANCE"),
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !stronger && old.forbids(cx.now(), bypasses(cx, &state, cx.key()).await) {
        return Err(err("AccessDenied").text("Access Denied because object protected by object lock."));
    }
    let (mode, until) = wanted.map_or((None, None), |(m, u)| (Some(m), Some(u.to_string())));
    change(cx, &state, &headers, &[(MODE, mode), (UNTIL, until)]).await?;
    Ok(nothing(200))
}

pub async fn get_hold(cx: &mut Cx) -> S3Result<Resp> {
    let (_, headers) = locked_object(cx, "s3:GetObjectLegalHold").await?;
    let status = text(&headers, HOLD).ok_or_else(|| err("NoSuchObjectLockConfiguration"))?;
    let mut x = Xml::document("LegalHold", true);
    x.leaf("Status", status);
    Ok(xml(x.finish()))
}

pub async fn put_hold(cx: &mut Cx) -> S3Result<Resp> {
    let body = cx.read_body(MAX_BODY).await?;
    let (state, headers) = locked_object(cx, "s3:PutObjectLegalHold").await?;
    let e = parse(&body, "LegalHold").map_err(|_| err("MalformedXML"))?;
    let status = e.text_of("Status").filter(|s| matches!(*s, "ON" | "OFF")).ok_or_else(|| err("MalformedXML"))?;
    change(cx, &state, &headers, &[(HOLD, Some(status.to_string()))]).await?;
    Ok(nothing(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_forbids() {
        let now = Timestamp::from_secs(1000);
        assert!(check_retention("COMPLIANCE", 1000, now).is_err());
        assert!(check_retention("OTHER", 2000, now).is_err());
        assert_eq!(check_retention("GOVERNANCE", i64::MAX, now).unwrap_err().code, "InvalidRetentionPeriod");
    }
}
