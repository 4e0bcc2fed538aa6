//! The two JSON patch dialects of the image API.

use super::attributes;
use crate::store::Image;
use caelum_base::{Error, Result};
use serde_json::Value;

pub const DRAFT_4: &str = "application/openstack-images-v2.0-json-patch";
pub const DRAFT_10: &str = "application/openstack-images-v2.1-json-patch";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Remove,
    Replace,
}

/// One operation on one top-level attribute.
#[derive(Clone, Debug)]
pub struct Change {
    pub verb: Verb,
    pub key: String,
    /// Null for a removal.
    pub value: Value,
    /// In draft 4 adding what is there already is a conflict.
    draft_4: bool,
}

/// Reads a patch document and checks all that can be checked without the image.
pub fn parse(body: &Value, draft_4: bool) -> Result<Vec<Change>> {
    let list = body.as_array().ok_or_else(|| Error::invalid("Request body must be a JSON array of operation objects."))?;
    list.iter().map(|raw| change(raw, draft_4)).collect()
}

fn change(raw: &Value, draft_4: bool) -> Result<Change> {
    let raw = raw.as_object().ok_or_else(|| Error::invalid("Operations must be JSON objects."))?;
    let names = [("add", Verb::Add), ("remove", Verb::Remove), ("replace", Verb::Replace)];
    let (verb, path) = if draft_4 {
        let mut found = names.iter().filter(|(n, _)| raw.contains_key(*n));
        match (found.next(), found.next()) {
            (Some((n, v)), None) => (*v, raw.get(*n)),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("Operation objects must contain only one member named \"add\", \"remove\", or \"replace\"."));
            }
            (None, _) => {
                return Err(Error::invalid("Operation objects must contain exactly one member named \"add\", \"remove\", or \"replace\"."));
            }
        }
    } else {
        let op = raw.get("op").and_then(Value::as_str).ok_or_else(|| {
            Error::invalid("Unable to find `op` in JSON Schema change. It must be one of the following: add, remove, replace.")
        })?;
        let verb = names
            .iter()
            .find(|(n, _)| *n == op)
            .ok_or_else(|| Error::invalid(format!("Invalid operation: `{op}`. It must be one of the following: add, remove, replace.")))?;
        (verb.1, raw.get("path"))
    };
    let path = path.and_then(Value::as_str).ok_or_else(|| Error::invalid("Unable to find '/path' in JSON Schema change"))?;
    let key = pointer(path)?;
    let value = match (verb, raw.get("value")) {
        (Verb::Remove, _) => Value::Null,
        (_, Some(v)) => v.clone(),
        (_, None) => return Err(Error::invalid(format!("Operation \"{}\" requires a member named \"value\".", name(verb)))),
    };
    if key == "id" {
        return Err(Error::forbidden("Attribute 'id' is read-only."));
    }
    attributes::check_writable(&key)?;
    if verb != Verb::Remove {
        attributes::check(&key, &value)?;
    }
    Ok(Change { verb, key, value, draft_4 })
}

const fn name(v: Verb) -> &'static str {
    match v {
        Verb::Add => "add",
        Verb::Remove => "remove",
        Verb::Replace => "replace",
    }
}

/// A JSON pointer to a top-level member.
fn pointer(text: &str) -> Result<String> {
    let bad = |why: &str| Err(Error::invalid(format!("Pointer `{text}` {why}.")));
    let Some(rest) = text.strip_prefix('/') else { return bad("does not start with \"/\"") };
    let escaped = rest.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if !escaped {
        return bad("contains \"~\" not part of a recognized escape sequence");
    }
    let parts: Vec<&str> = rest.split('/').collect();
    if parts.len() > 1 && parts.iter().any(|p| p.trim().is_empty()) {
        return bad(if rest.ends_with('/') { "end with \"/\"" } else { "contains adjacent \"/\"" });
    }
    let root = parts.first().map_or("", |p| p.trim());
    if parts.len() > 1 && !matches!(root, "locations") {
        return Err(Error::invalid(format!("Invalid JSON pointer for this resource: '/{rest}'")));
    }
    Ok(root.replace("~1", "/").replace("~0", "~"))
}

/// Applies a change. `admin` may give images to other projects.
pub fn apply(image: &mut Image, change: &Change, admin: bool) -> Result<()> {
    let key = change.key.as_str();
    let base = attributes::is_base(key);
    let present = base || image.properties.contains_key(key);
    let missing = || Error::conflict(format!("Property {key} does not exist."));
    match change.verb {
        Verb::Remove if base => return Err(Error::forbidden(format!("Property {key} may not be removed."))),
        Verb::Remove => {
            image.properties.remove(key).ok_or_else(missing)?;
            return Ok(());
        }
        Verb::Add if present && change.draft_4 => return Err(Error::conflict(format!("Property {key} already present."))),
        Verb::Replace if !present => return Err(missing()),
        Verb::Add | Verb::Replace => {}
    }
    if key == "owner" && !admin && change.value.as_str() != image.owner.as_deref() {
        return Err(Error::forbidden("Owner can't be updated by non admin."));
    }
    attributes::set(image, key, &change.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::ErrorKind;
    use serde_json::json;

    #[test]
    fn malformed_changes_are_refused() {
        use ErrorKind::{Forbidden, Invalid};
        for (doc, kind) in [
            (json!({}), Invalid),
            (json!([1]), Invalid),
            (json!([{"op": "move", "path": "/name"}]), Invalid),
            (json!([{"path": "/name"}]), Invalid),
            (json!([{"op": "add", "path": "name", "value": "x"}]), Invalid),
            (json!([{"op": "add", "path": "/name"}]), Invalid),
            (json!([{"op": "add", "path": "/a/b", "value": "x"}]), Invalid),
            (json!([{"op": "add", "path": "/a//b", "value": "x"}]), Invalid),
            (json!([{"op": "add", "path": "/a~2", "value": "x"}]), Invalid),
            (json!([{"op": "add", "path": "/", "value": "x"}]), Invalid),
            (json!([{"op": "add", "path": 3, "value": "x"}]), Invalid),
            (json!([{"op": "replace", "path": "/status", "value": "active"}]), Forbidden),
            (json!([{"op": "replace", "path": "/id", "value": "x"}]), Forbidden),
            (json!([{"op": "add", "path": "/locations/-", "value": {"url": "file:///etc/passwd", "metadata": {}}}]), Forbidden),
            (json!([{"op": "add", "path": "/os_glance_foo", "value": "x"}]), Forbidden),
        ] {
            assert_eq!(parse(&doc, false).unwrap_err().kind, kind, "{doc}");
        }
        assert_eq!(parse(&json!([{"add": "/x", "remove": "/y", "value": "x"}]), true).unwrap_err().kind, Invalid);
    }

    #[test]
    fn changes_apply() {
        let mut image = attributes::blank();
        let mut run = |doc: Value, d4: bool| parse(&doc, d4).and_then(|cs| cs.iter().try_for_each(|c| apply(&mut image, c, false)));
        run(json!([{"op": "add", "path": "/a~1b", "value": "1"}, {"op": "replace", "path": "/a~1b", "value": "2"}]), false).unwrap();
        run(json!([{"replace": "/name", "value": "n"}]), true).unwrap();
        assert_eq!(run(json!([{"add": "/name", "value": "n"}]), true).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(run(json!([{"op": "replace", "path": "/c", "value": "1"}]), false).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(run(json!([{"op": "remove", "path": "/c"}]), false).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(run(json!([{"op": "remove", "path": "/name"}]), false).unwrap_err().kind, ErrorKind::Forbidden);
        assert_eq!(run(json!([{"op": "replace", "path": "/owner", "value": "x"}]), false).unwrap_err().kind, ErrorKind::Forbidden);
        run(json!([{"op": "add", "path": "/name", "value": null}]), false).unwrap();
        assert_eq!((image.name, image.properties.get("a/b").map(String::as_str)), (None, Some("2")));
    }
}
