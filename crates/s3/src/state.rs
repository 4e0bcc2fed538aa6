//! What is known of a bucket: its container's metadata, with S3's own settings in system metadata.

use crate::acl::AccessList;
use crate::errors::{S3Result, invalid_request};
use crate::policy::Policy;
use caelum_object::http::is_true_text;
use caelum_object::proxy::ContainerInfo;
use std::sync::Arc;

/// Longest setting in bytes: one header on the way to the container servers.
pub const MAX_SETTING: usize = 7_000;

/// A setting of a bucket that stands in the container's system metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Acl,
    Policy,
    Lifecycle,
    ObjectLock,
    Cors,
    Website,
    Notification,
    Tagging,
}

impl Setting {
    /// Behind `x-container-sysmeta-`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acl => "s3api-acl",
            Self::Policy => "s3api-policy",
            Self::Lifecycle => "s3api-lifecycle",
            Self::ObjectLock => "s3api-object-lock",
            Self::Cors => "s3api-cors",
            Self::Website => "s3api-website",
            Self::Notification => "s3api-notification",
            Self::Tagging => "s3api-tagging",
        }
    }

    pub fn header(self) -> String {
        format!("x-container-sysmeta-{}", self.name())
    }
}

/// A setting's text in ASCII: characters beyond it become XML or JSON references. Errors: too long.
pub fn storable(text: &str, is_json: bool) -> S3Result<String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' if is_json => out.push(' '),
            '\n' | '\r' | '\t' => out.push_str(&format!("&#{};", c as u32)),
            c if c.is_ascii() => out.push(c),
            c if is_json => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}")));
            }
            c => out.push_str(&format!("&#x{:x};", c as u32)),
        }
    }
    if out.len() > MAX_SETTING {
        return Err(invalid_request(&format!("The configuration is too large: at most {MAX_SETTING} bytes can be stored.")));
    }
    Ok(out)
}

/// A bucket's state as it was a moment ago.
#[derive(Clone)]
pub struct Bucket {
    pub info: Arc<ContainerInfo>,
    pub acl: AccessList,
    /// `Err`: a policy is stored that cannot be read; nothing is allowed by it, and only its owner gets in.
    pub policy: Option<Result<Policy, ()>>,
}

impl Bucket {
    pub fn new(info: Arc<ContainerInfo>, name: &str) -> Self {
        let acl = AccessList::stored(info.sysmeta(Setting::Acl.name()).or_else(|| info.sysmeta("swift3-acl")));
        let policy = info.sysmeta(Setting::Policy.name()).map(|t| Policy::parse(t, name).map_err(|_| ()));
        Self { info, acl, policy }
    }

    pub fn setting(&self, s: Setting) -> Option<&str> {
        self.info.sysmeta(s.name())
    }

    /// `None`: versions were never kept; else whether they are now.
    pub fn versioning(&self) -> Option<bool> {
        self.info.sysmeta("versions-enabled").map(is_true_text)
    }

    /// There may be versions.
    pub fn has_versions(&self) -> bool {
        self.info.sysmeta("versions-container").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_ascii_and_short() {
        assert_eq!(storable("<a>é\n</a>", false).unwrap(), "<a>&#xe9;&#10;</a>");
        assert_eq!(storable("{\"a\":\n\"😀\"}", true).unwrap(), "{\"a\": \"\\ud83d\\ude00\"}");
        assert!(storable(&"x".repeat(MAX_SETTING), true).is_ok());
        assert_eq!(storable(&"x".repeat(MAX_SETTING + 1), true).unwrap_err().status, 400);
    }
}
