//! Pieces of request bodies and answers that several resources share.

use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Page, Version, next_link};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Largest value of an integer column upstream.
pub const MAX_INT: i64 = 2_147_483_647;
/// Rows of a page at most (`max_limit`).
pub const MAX_LIMIT: usize = 1_000;

/// An integer that may come as decimal text.
pub fn int_or_text<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<i64, D::Error> {
    let value = Value::deserialize(d)?;
    integer(&value).ok_or_else(|| serde::de::Error::custom(format!("{value} is not an integer")))
}

/// As [`int_or_text`], where the field may be missing. A null is refused, as upstream does.
pub fn opt_int_or_text<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<i64>, D::Error> {
    int_or_text(d).map(Some)
}

/// An integer, or text that is one.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64(),
        Value::String(t) if !t.is_empty() && t.len() <= 20 => t.parse().ok(),
        _ => None,
    }
}

/// A boolean as upstream's schemas take it: JSON, or one of the usual words.
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(t) => match t.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
            "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
            _ => None,
        },
        Value::Number(n) => match n.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// An optional boolean field, see [`boolean`].
pub fn opt_bool<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<bool>, D::Error> {
    let value = Value::deserialize(d)?;
    boolean(&value).map(Some).ok_or_else(|| serde::de::Error::custom(format!("{value} is not a boolean")))
}

/// A field that may be missing (`None`) or null (`Some(None)`).
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

fn bad(field: &str, value: &str, why: &str) -> Error {
    Error::invalid(format!("Invalid input for field/attribute {field}. Value: {value}. {why}"))
}

/// Whether a name is 1 to 255 printable characters without space at its ends.
pub fn check_name(field: &str, name: &str) -> Result<()> {
    let n = name.chars().count();
    if n == 0 || n > 255 {
        return Err(bad(field, name, "It must have 1 to 255 characters."));
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Err(bad(field, name, "It must be printable, without leading or trailing whitespace."));
    }
    Ok(())
}

pub fn check_range(field: &str, value: i64, min: i64) -> Result<i64> {
    if (min..=MAX_INT).contains(&value) {
        return Ok(value);
    }
    Err(bad(field, &value.to_string(), &format!("It must be an integer from {min} to {MAX_INT}.")))
}

/// From 2.75 on unknown query parameters are refused.
pub fn known_params<S>(cx: &Ctx<S>, since: Version, known: &[&str]) -> Result<()> {
    if cx.version < since {
        return Ok(());
    }
    match cx.query.iter().find(|(k, _)| !known.contains(k)) {
        None => Ok(()),
        Some((k, _)) => Err(Error::invalid(format!("Additional properties are not allowed ('{k}' was unexpected)"))),
    }
}

/// URL of a collection below the version: `http://host/compute/v2.1/flavors`.
pub fn url<S>(cx: &Ctx<S>, path: &str) -> String {
    format!("{}/v2.1{path}", cx.base_url)
}

/// `self` and `bookmark` links of a resource.
pub fn links<S>(cx: &Ctx<S>, path: &str) -> Value {
    json!([
        {"rel": "self", "href": url(cx, path)},
        {"rel": "bookmark", "href": format!("{}{path}", cx.base_url)},
    ])
}

/// The rows of one page and whether more may follow. `key` is what a marker names.
///
/// Errors: `Invalid` for a marker that names no row.
pub fn page_of<T>(rows: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Result<(Vec<T>, Option<String>)> {
    let mut rows = rows;
    if let Some(marker) = &page.marker {
        let at = rows.iter().position(|r| key(r) == *marker);
        let at = at.ok_or_else(|| Error::invalid(format!("marker [{marker}] not found")))?;
        rows.drain(..=at);
    }
    rows.truncate(page.limit);
    let next = rows.last().filter(|_| rows.len() == page.limit).map(key);
    Ok((rows, next))
}

/// Adds `<name>_links` with the next page to a list's body.
pub fn add_next<S>(cx: &Ctx<S>, body: &mut Value, name: &str, path: &str, next: Option<String>) {
    if let Some(marker) = next {
        body[format!("{name}_links")] = json!([{"rel": "next", "href": next_link(&url(cx, path), &cx.query, &marker)}]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert!(check_name("name", "m1.tiny").is_ok());
        for name in ["", " a", "a ", "a\tb", &"x".repeat(256)] {
            assert!(check_name("name", name).is_err(), "{name:?}");
        }
        assert_eq!(integer(&json!("12")), Some(12));
        assert_eq!(integer(&json!(1.5)), None);
        assert_eq!(boolean(&json!("True")), Some(true));
        assert_eq!(boolean(&json!("maybe")), None);
    }
}
