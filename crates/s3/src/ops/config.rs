//! Settings of buckets that are stored and returned: policy, lifecycle, CORS, website, notification; and what other
//! settings answer when nobody can set them.

use super::{nothing, xml};
use crate::context::{Cx, Need};
use crate::errors::{S3Result, err, not_implemented};
use crate::policy::{MAX_POLICY, Policy};
use crate::state::{Setting, storable};
use crate::xml::Xml;
use crate::{cors, lifecycle, notify, website};
use caelum_object::env::Resp;
use caelum_object::http::respond;

const MAX_BODY: usize = 65_536;

struct Kind {
    name: &'static str,
    setting: Setting,
    get: &'static str,
    put: &'static str,
    root: &'static str,
    /// What is answered when there is none.
    absent: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "cors",
        setting: Setting::Cors,
        get: "s3:GetBucketCORS",
        put: "s3:PutBucketCORS",
        root: "CORSConfiguration",
        absent: "NoSuchCORSConfiguration",
    },
    Kind {
        name: "lifecycle",
        setting: Setting::Lifecycle,
        get: "s3:GetLifecycleConfiguration",
        put: "s3:PutLifecycleConfiguration",
        root: "LifecycleConfiguration",
        absent: "NoSuchLifecycleConfiguration",
    },
    Kind {
        name: "website",
        setting: Setting::Website,
        get: "s3:GetBucketWebsite",
        put: "s3:PutBucketWebsite",
        root: "WebsiteConfiguration",
        absent: "NoSuchWebsiteConfiguration",
    },
    Kind {
        name: "notification",
        setting: Setting::Notification,
        get: "s3:GetBucketNotification",
        put: "s3:PutBucketNotification",
        root: "NotificationConfiguration",
        absent: "",
    },
];

/// A stored document with its declaration and namespace.
pub fn document(stored: &str, root: &str) -> Resp {
    let begin = format!("<{root}>");
    let body = stored.replacen(&begin, &format!("<{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"), 1);
    xml(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{body}"))
}

fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == name)
}

pub async fn get(cx: &mut Cx, name: &str) -> S3Result<Resp> {
    if let Some(k) = kind(name) {
        let state = cx.authorize(k.get, None, Need::Owner).await?;
        return match state.setting(k.setting) {
            Some(text) => Ok(document(text, k.root)),
            None if k.absent.is_empty() => Ok(document(&format!("<{0}></{0}>", k.root), k.root)),
            None => Err(err(k.absent).with("BucketName", cx.bucket())),
        };
    }
    let missing = |code: &'static str, text: &str| Err(crate::errors::S3Error { status: 404, code, ..err("InternalError").text(text) });
    match name {
        "policy" => {
            let state = cx.authorize("s3:GetBucketPolicy", None, Need::Owner).await?;
            let text = state.setting(Setting::Policy).ok_or_else(|| err("NoSuchBucketPolicy").with("BucketName", cx.bucket()))?;
            Ok(respond(200, "application/json", text.to_string()))
        }
        "policyStatus" => {
            let state = cx.authorize("s3:GetBucketPolicyStatus", None, Need::Owner).await?;
            let policy = state.policy.ok_or_else(|| err("NoSuchBucketPolicy").with("BucketName", cx.bucket()))?;
            let mut x = Xml::document("PolicyStatus", true);
            x.leaf("IsPublic", policy.is_ok_and(|p| p.is_public()).to_string());
            Ok(xml(x.finish()))
        }
        "logging" => {
            cx.authorize("s3:GetBucketLogging", None, Need::Owner).await?;
            Ok(xml(Xml::document("BucketLoggingStatus", true).finish()))
        }
        "encryption" => {
            cx.authorize("s3:GetEncryptionConfiguration", None, Need::Owner).await?;
            if !cx.inner.deps.options.is_encrypted {
                return missing("ServerSideEncryptionConfigurationNotFoundError", "The server side encryption configuration was not found");
            }
            let mut x = Xml::document("ServerSideEncryptionConfiguration", true);
            x.open("Rule").open("ApplyServerSideEncryptionByDefault").leaf("SSEAlgorithm", "AES256");
            Ok(xml(x.finish()))
        }
        "ownershipControls" => {
            cx.authorize("s3:GetBucketOwnershipControls", None, Need::Owner).await?;
            missing("OwnershipControlsNotFoundError", "The bucket ownership controls were not found")
        }
        "publicAccessBlock" => {
            cx.authorize("s3:GetBucketPublicAccessBlock", None, Need::Owner).await?;
            missing("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")
        }
        _ => Err(not_implemented(&format!("The sub-resource {name} cannot be read."))),
    }
}

pub async fn put(cx: &mut Cx, name: &str) -> S3Result<Resp> {
    let bucket = cx.bucket().to_string();
    if name == "policy" {
        cx.authorize("s3:PutBucketPolicy", None, Need::Owner).await?;
        let body = cx.read_body(MAX_BODY).await?;
        let bad = |m: String| err("MalformedPolicy").text(m);
        let text = std::str::from_utf8(&body).map_err(|_| bad("Policies must be valid JSON".into()))?;
        let value: serde_json::Value = serde_json::from_str(text).map_err(|_| bad("This policy contains invalid Json".into()))?;
        let text = storable(&value.to_string(), true)?;
        if text.len() > MAX_POLICY {
            return Err(bad(format!("Policies are limited to {MAX_POLICY} bytes")));
        }
        Policy::parse(&text, &bucket).map_err(bad)?;
        cx.store_settings(&bucket, &[(Setting::Policy, text)], &[]).await?;
        return Ok(nothing(204));
    }
    let k = kind(name).ok_or_else(|| not_implemented(&format!("The sub-resource {name} cannot be set.")))?;
    let state = cx.authorize(k.put, None, Need::Owner).await?;
    let body = cx.read_body(MAX_BODY).await?;
    let element = match k.setting {
        Setting::Cors => cors::check(&body)?,
        Setting::Lifecycle => lifecycle::check(&body)?,
        Setting::Website => website::check(&body)?,
        _ => notify::check(&body, cx.inner.notifier.options())?,
    };
    // An empty notification configuration takes the old one away.
    let text = if element.children.is_empty() { String::new() } else { storable(&element.to_text(), false)? };
    cx.store_settings(&bucket, &[(k.setting, text)], &[]).await?;
    if k.setting == Setting::Lifecycle {
        lifecycle::register(cx).await?;
    }
    if k.setting == Setting::Notification && cx.header("x-amz-skip-destination-validation") != Some("true") {
        super::tell_first(cx, &state, &element).await;
    }
    Ok(nothing(200))
}

pub async fn delete(cx: &mut Cx, name: &str) -> S3Result<Resp> {
    let (setting, action) = match (name, kind(name)) {
        ("policy", _) => (Setting::Policy, "s3:DeleteBucketPolicy"),
        (_, Some(k)) if k.setting != Setting::Notification => (k.setting, k.put),
        _ => return Err(not_implemented(&format!("The sub-resource {name} cannot be deleted."))),
    };
    cx.authorize(action, None, Need::Owner).await?;
    cx.store_settings(cx.bucket(), &[(setting, String::new())], &[]).await?;
    if setting == Setting::Lifecycle {
        lifecycle::unregister(cx).await;
    }
    Ok(nothing(204))
}
