//! What is acted on, as `%(key)s` in a check string names it.

use crate::credentials::python_bool;
use serde_json::Value;
use std::borrow::Cow;

/// Attributes of the thing acted on. Built by the handler from the stored row, or from the
/// caller's own scope when creating; never from an unchecked request body.
///
/// Keys are looked up as written first (`project_id`, `target.user.domain_id`,
/// `network:tenant_id`), then by dots through the added objects. `tenant_id` and `project_id` name
/// the same attribute, as upstream's do.
#[derive(Clone, Debug, Default)]
pub struct Target<'a> {
    pairs: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    objects: Vec<(&'a str, &'a Value)>,
}

/// The answer to a key lookup.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'t> {
    Text(Cow<'t, str>),
    /// Present without a value; reads as `None`.
    None,
    Missing,
}

impl<'a> Target<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// The most common target: something a project owns.
    pub fn project(project_id: impl Into<Cow<'a, str>>) -> Self {
        Self::new().with("project_id", project_id)
    }

    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.pairs.push((key.into(), Some(value.into())));
        self
    }

    /// A key that may have no value. Absent values match only the literal `None`.
    #[must_use]
    pub fn with_opt(mut self, key: impl Into<Cow<'a, str>>, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        self.pairs.push((key.into(), value.map(Into::into)));
        self
    }

    #[must_use]
    pub fn with_bool(self, key: impl Into<Cow<'a, str>>, value: bool) -> Self {
        self.with(key, python_bool(value))
    }

    /// A whole object: `with_object("target", v)` answers `%(target.user.id)s` from `v["user"]["id"]`.
    #[must_use]
    pub fn with_object(mut self, name: &'a str, value: &'a Value) -> Self {
        self.objects.push((name, value));
        self
    }

    pub(crate) fn get(&self, key: &str) -> Found<'_> {
        match self.lookup(key) {
            Found::Missing => self.alias(key),
            found => found,
        }
    }

    /// The flat pair that spells the project the other way: `network:tenant_id` for
    /// `network:project_id`.
    fn alias(&self, key: &str) -> Found<'_> {
        let other = |suffix: &str, with: &str| {
            let prefix = key.strip_suffix(suffix)?;
            self.pairs.iter().find(|(k, _)| k.strip_suffix(with) == Some(prefix))
        };
        match other("tenant_id", "project_id").or_else(|| other("project_id", "tenant_id")) {
            Some((_, Some(v))) => Found::Text(Cow::Borrowed(v)),
            Some((_, None)) => Found::None,
            None => Found::Missing,
        }
    }

    fn lookup(&self, key: &str) -> Found<'_> {
        if let Some((_, value)) = self.pairs.iter().find(|(k, _)| k == key) {
            return match value {
                Some(v) => Found::Text(Cow::Borrowed(v)),
                None => Found::None,
            };
        }
        for (name, object) in &self.objects {
            let Some(path) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let mut at = Some(*object);
            for segment in path.split('.') {
                at = at.and_then(|v| v.get(segment));
            }
            match at {
                Some(Value::String(s)) => return Found::Text(Cow::Borrowed(s)),
                Some(Value::Bool(b)) => return Found::Text(Cow::Borrowed(python_bool(*b))),
                Some(Value::Number(n)) => return Found::Text(Cow::Owned(n.to_string())),
                Some(Value::Null) => return Found::None,
                Some(Value::Array(_) | Value::Object(_)) | None => {}
            }
        }
        Found::Missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_keys_win_over_objects_and_aliases_hold() {
        let json = serde_json::json!({"user": {"id": "u", "enabled": true, "n": 3, "none": null, "list": ["x"]}});
        let t = Target::project("p").with_object("target", &json).with("target.user.id", "flat").with_opt("o", None::<&str>);
        let t = t.with("network:tenant_id", "n");
        let text = |s: &'static str| Found::Text(Cow::Borrowed(s));
        for (key, want) in [
            ("project_id", text("p")),
            ("tenant_id", text("p")),
            ("network:project_id", text("n")),
            ("router:project_id", Found::Missing),
            ("target.user.id", text("flat")),
            ("target.user.enabled", text("True")),
            ("target.user.n", text("3")),
            ("target.user.none", Found::None),
            ("target.user.list", Found::Missing),
            ("target.user", Found::Missing),
            ("target.user.id.x", Found::Missing),
            ("o", Found::None),
            ("", Found::Missing),
        ] {
            assert_eq!(t.get(key), want, "{key}");
        }
    }
}
