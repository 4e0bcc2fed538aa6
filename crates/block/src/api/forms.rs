//! Reading request bodies: the types Cinder's schemas accept, which are laxer than JSON's.

use crate::store::Metadata;
use caelum_base::{Error, Result, is_uuid};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Metadata items of one resource.
const MAX_ITEMS: usize = 128;

pub fn invalid(field: &str, value: impl std::fmt::Display, why: &str) -> Error {
    Error::invalid(format!("Invalid input for field/attribute {field}. Value: {value}. {why}"))
}

/// A whole number, also as text.
pub fn int(field: &str, v: &Value, least: i64, most: i64) -> Result<i64> {
    let n = match v {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    let n = n.ok_or_else(|| invalid(field, v, "It is not an integer."))?;
    if n < least || n > most {
        return Err(invalid(field, v, &format!("{n} is not between {least} and {most}.")));
    }
    Ok(n)
}

/// A boolean, also as text or number.
pub fn boolean(field: &str, v: &Value) -> Result<bool> {
    match v {
        Value::Bool(b) => return Ok(*b),
        Value::Number(n) if n.as_i64() == Some(0) => return Ok(false),
        Value::Number(n) if n.as_i64() == Some(1) => return Ok(true),
        Value::String(s) => match s.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => return Ok(true),
            "0" | "f" | "false" | "off" | "n" | "no" => return Ok(false),
            _ => {}
        },
        _ => {}
    }
    Err(invalid(field, v, "It is not a boolean."))
}

/// Text of at most 255 characters; null is none. Names are trimmed as upstream does.
pub fn text(field: &str, v: Option<&Value>) -> Result<Option<String>> {
    match v {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.chars().count() <= 255 => Ok(Some(s.trim().to_string())),
        Some(Value::String(s)) => Err(invalid(field, s.chars().take(32).collect::<String>(), "It is longer than 255 characters.")),
        Some(v) => Err(invalid(field, v, "It is not text.")),
    }
}

/// Text of 1 to 255 characters that is not blank.
pub fn name(field: &str, v: Option<&Value>) -> Result<String> {
    let found = text(field, v)?.filter(|t| !t.is_empty());
    found.ok_or_else(|| invalid(field, v.unwrap_or(&Value::Null), "It must have at least one character."))
}

pub fn uuid(field: &str, v: &Value) -> Result<String> {
    let text = v.as_str().filter(|t| is_uuid(t));
    text.map(String::from).ok_or_else(|| invalid(field, v, "It is not a UUID."))
}

/// A UUID or nothing; empty text counts as nothing.
pub fn opt_uuid(field: &str, v: Option<&Value>) -> Result<Option<String>> {
    match v {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(v) => uuid(field, v).map(Some),
    }
}

/// Keys of 1 to 255 characters with text values of at most 255.
pub fn metadata(field: &str, v: Option<&Value>) -> Result<Metadata> {
    let map = match v {
        None | Some(Value::Null) => return Ok(Metadata::new()),
        Some(Value::Object(m)) => m,
        Some(v) => return Err(invalid(field, v, "It is not an object.")),
    };
    if map.len() > MAX_ITEMS {
        return Err(Error::over_quota(format!("MetadataLimitExceeded: Maximum number of metadata items allowed ({MAX_ITEMS}) exceeded")));
    }
    let mut out = Metadata::new();
    for (k, v) in map {
        let count = k.chars().count();
        if !(1..=255).contains(&count) || k.chars().any(char::is_control) {
            return Err(invalid(field, k.chars().take(32).collect::<String>(), "A key has 1 to 255 characters."));
        }
        let value = match v {
            Value::String(s) if s.chars().count() <= 255 => s.clone(),
            Value::String(_) => return Err(invalid(field, k, "Its value is longer than 255 characters.")),
            v => return Err(invalid(field, v, "It is not text.")),
        };
        out.insert(k.clone(), value);
    }
    Ok(out)
}

/// Errors: `Invalid` when the object has a key not in `allowed`.
pub fn only(map: &serde_json::Map<String, Value>, allowed: &[&str]) -> Result<()> {
    match map.keys().find(|k| !allowed.contains(&k.as_str())) {
        Some(k) => Err(Error::invalid(format!("Additional properties are not allowed ('{k}' was unexpected)"))),
        None => Ok(()),
    }
}

pub type Map = serde_json::Map<String, Value>;

/// The object under the body's only key. Errors: `Invalid`.
pub fn inner(body: &Value, key: &str) -> Result<Map> {
    let found = body.get(key).ok_or_else(|| Error::invalid(format!("Missing required element '{key}' in request body.")))?;
    found.as_object().cloned().ok_or_else(|| invalid(key, found, "It is not an object."))
}

/// The object under an action's key; null counts as empty.
pub fn action(body: &Value, key: &str) -> Result<Map> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(m)) => Ok(m.clone()),
        Some(v) => Err(invalid(key, v, "It is not an object.")),
    }
}

/// `{"metadata": {…}}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataBody {
    #[serde(deserialize_with = "items")]
    pub metadata: Metadata,
}

/// `{"meta": {"key": "value"}}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaBody {
    #[serde(deserialize_with = "items")]
    pub meta: Metadata,
}

fn items<'de, D: Deserializer<'de>>(d: D) -> Result<Metadata, D::Error> {
    let v = Value::deserialize(d)?;
    if v.is_null() {
        return Err(serde::de::Error::custom("None is not of type 'object'"));
    }
    metadata("metadata", Some(&v)).map_err(|e| serde::de::Error::custom(e.message))
}
