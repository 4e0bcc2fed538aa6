//! Small pieces of request bodies that upstream reads loosely: booleans and numbers as text.

use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Version};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// `true`, `"True"`, `"yes"`, `1`, … as oslo's strict boolean reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseBool(pub bool);

impl<'de> Deserialize<'de> for LooseBool {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let v = Value::deserialize(d)?;
        let parsed = match &v {
            Value::Bool(b) => Some(*b),
            Value::String(t) => match t.to_ascii_lowercase().as_str() {
                "true" | "1" | "on" | "yes" | "t" | "y" => Some(true),
                "false" | "0" | "off" | "no" | "f" | "n" => Some(false),
                _ => None,
            },
            _ => None,
        };
        parsed.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{v} is not a boolean")))
    }
}

/// A non-negative integer, as a number or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseInt(pub i64);

impl<'de> Deserialize<'de> for LooseInt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let v = Value::deserialize(d)?;
        let parsed = match &v {
            Value::Number(n) => n.as_i64(),
            Value::String(t) if t.bytes().all(|b| b.is_ascii_digit()) => t.parse().ok(),
            _ => None,
        };
        parsed.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{v} is not an integer")))
    }
}

/// Text, or a number taken as text (flavor ids).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooseText(pub String);

impl<'de> Deserialize<'de> for LooseText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(t) => Ok(Self(t)),
            Value::Number(n) if n.is_u64() => Ok(Self(n.to_string())),
            v => Err(serde::de::Error::custom(format!("{v} is not a string or integer"))),
        }
    }
}

/// For `Option<Option<T>>`: tells an explicit null from an absent key.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

/// Fields that came or went with a version. Errors: `Invalid` in the words of upstream's schema.
pub fn gate<S>(cx: &Ctx<S>, field: &str, present: bool, since: u32, until: u32) -> Result<()> {
    if present && (cx.version < Version(2, since) || cx.version > Version(2, until)) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{field}' was unexpected)")));
    }
    Ok(())
}

/// A name: 1 to 255 printable characters without spaces around them.
pub fn name(field: &str, text: &str) -> Result<String> {
    let n = text.chars().count();
    if n == 0 || n > 255 || text.trim() != text || text.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "Invalid input for field/attribute {field}. It must be 1 to 255 printable characters and must not start or end with a space."
        )));
    }
    Ok(text.to_string())
}

/// A description: at most 255 printable characters; absent stays absent.
pub fn description(text: Option<String>) -> Result<Option<String>> {
    if let Some(t) = &text
        && (t.chars().count() > 255 || t.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')))
    {
        return Err(Error::invalid("Invalid input for field/attribute description. It must be at most 255 printable characters."));
    }
    Ok(text)
}

/// Metadata: keys of 1–255 characters from upstream's set, values up to 255 characters.
pub fn metadata(map: &std::collections::BTreeMap<String, String>) -> Result<()> {
    for (k, v) in map {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.' | ' ');
        if k.is_empty() || k.chars().count() > 255 || !k.chars().all(good) {
            return Err(Error::invalid(format!("Invalid metadata key {k:?}.")));
        }
        if v.chars().count() > 255 {
            return Err(Error::invalid(format!("The value of metadata key {k:?} is longer than 255 characters.")));
        }
    }
    Ok(())
}

/// A tag: 1–60 characters without `/` and `,`.
pub fn tag(text: &str) -> Result<()> {
    let n = text.chars().count();
    if n == 0 || n > 60 || text.contains(['/', ',']) {
        return Err(Error::invalid(format!("Invalid tag {text:?}: 1 to 60 characters without '/' and ','.")));
    }
    Ok(())
}

/// A valid host name from a server's name, as upstream makes it.
pub fn hostname_of(name: &str, id: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            ' ' | '_' | '.' => out.push('-'),
            c if c.is_ascii_alphanumeric() || c == '-' => out.push(c.to_ascii_lowercase()),
            _ => {}
        }
    }
    let out: String = out.trim_matches('-').chars().take(63).collect();
    let out = out.trim_end_matches('-');
    if out.is_empty() { format!("server-{id}") } else { out.to_string() }
}

/// A host name given by a user: an RFC 1123 label, or from 2.94 a domain name.
pub fn hostname(text: &str, dots: bool) -> Result<String> {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.starts_with('-') && !l.ends_with('-')
    };
    let fine = if dots { text.len() <= 255 && text.split('.').all(label) } else { label(text) && text.len() >= 2 };
    if !fine {
        return Err(Error::invalid(format!("Invalid input for field/attribute hostname. Value: {text}.")));
    }
    Ok(text.to_string())
}
