//! Access control lists: the first form (`.r:*,.rlistings,account:user`), which stands on containers, and the
//! second (JSON), which tempauth keeps on accounts.

use crate::proxy::acl::{parse_acl, referrer_allowed};
use serde_json::Value;

/// A parsed list of the first form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// Hosts after `.r:`, in order; a leading `-` takes away again.
    pub referrers: Vec<String>,
    pub groups: Vec<String>,
}

impl Acl {
    pub fn parse(text: Option<&str>) -> Self {
        let (referrers, groups) = parse_acl(text.unwrap_or_default());
        Self { referrers, groups }
    }

    pub fn has_group(&self, name: &str) -> bool {
        self.groups.iter().any(|g| g == name)
    }

    /// Whether a request with this `Referer` may read. Later entries win over earlier ones.
    pub fn admits_referrer(&self, referer: Option<&str>) -> bool {
        referrer_allowed(referer, &self.referrers)
    }
}

/// Who has what on a whole account (`X-Account-Access-Control`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountAcl {
    pub admin: Vec<String>,
    pub read_write: Vec<String>,
    pub read_only: Vec<String>,
}

impl AccountAcl {
    /// From what is stored. `None` when nothing is granted or the text is no such list.
    pub fn stored(text: Option<&str>) -> Option<Self> {
        let value: Value = serde_json::from_str(text.filter(|t| !t.is_empty())?).ok()?;
        let names = |key: &str| -> Vec<String> {
            let list = value.get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_string).collect()
        };
        let out = Self { admin: names("admin"), read_write: names("read-write"), read_only: names("read-only") };
        (out != Self::default()).then_some(out)
    }
}

/// Checks what a client sends as a list of the second form; an empty text takes the list away.
///
/// Errors: what is wrong with it, in tempauth's words.
pub fn check_account_acl(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let Ok(Value::Object(map)) = serde_json::from_str(text) else { return Err(format!("Syntax error in input ('{text}')")) };
    for key in map.keys() {
        if !matches!(key.as_str(), "admin" | "read-write" | "read-only") {
            return Err(format!("Key {} not recognized", Value::from(key.as_str())));
        }
    }
    for key in ["admin", "read-write", "read-only"] {
        match map.get(key) {
            None => {}
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {}
            Some(Value::Array(_)) => return Err(format!("Elements of \"{key}\" list must be strings")),
            Some(_) => return Err(format!("Value for key \"{key}\" must be a list")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_lists() {
        assert!(check_account_acl(r#"{"admin":["a"],"read-only":[]}"#).is_ok());
        assert!(check_account_acl("").is_ok());
        assert_eq!(check_account_acl("[]").unwrap_err(), "Syntax error in input ('[]')");
        assert_eq!(check_account_acl(r#"{"x":[]}"#).unwrap_err(), "Key \"x\" not recognized");
        assert_eq!(check_account_acl(r#"{"admin":"a"}"#).unwrap_err(), "Value for key \"admin\" must be a list");
        assert_eq!(check_account_acl(r#"{"admin":[1]}"#).unwrap_err(), "Elements of \"admin\" list must be strings");
        let acl = AccountAcl::stored(Some(r#"{"admin":["x"]}"#)).unwrap();
        assert_eq!(acl.admin, ["x"]);
        assert_eq!(AccountAcl::stored(Some("{}")), None);
        assert_eq!(AccountAcl::stored(Some("nonsense")), None);
    }
}
