//! What an image's attributes may hold, and who may write them.

use crate::store::Image;
use caelum_base::{Error, Result, is_uuid};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub const DISK_FORMATS: [&str; 11] = ["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"];
pub const CONTAINER_FORMATS: [&str; 8] = ["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"];
pub const VISIBILITIES: [&str; 4] = ["community", "public", "private", "shared"];
/// Source: `image_property_quota`, `image_tag_quota`, `image_member_quota`.
pub const MAX_PROPERTIES: usize = 128;
pub const MAX_TAGS: usize = 128;
pub const MAX_MEMBERS: usize = 128;
const MAX_TEXT: usize = 255;
const MAX_PROPERTY_VALUE: usize = 65_535;

/// May not be sent at all.
const DISALLOWED: [&str; 5] = ["direct_url", "self", "file", "schema", "stores"];
const READ_ONLY: [&str; 8] = ["created_at", "updated_at", "status", "checksum", "size", "virtual_size", "os_hash_algo", "os_hash_value"];
const RESERVED: [&str; 4] = ["location", "locations", "deleted", "deleted_at"];
/// Attributes every image has.
const BASE: [&str; 10] =
    ["name", "owner", "visibility", "disk_format", "container_format", "min_disk", "min_ram", "protected", "os_hidden", "tags"];

pub fn is_base(key: &str) -> bool {
    BASE.contains(&key)
}

/// Refuses names that only the service may write. Errors: `Forbidden`.
pub fn check_writable(key: &str) -> Result<()> {
    if DISALLOWED.contains(&key) || READ_ONLY.contains(&key) {
        return Err(Error::forbidden(format!("Attribute '{key}' is read-only.")));
    }
    if RESERVED.contains(&key) || key.starts_with("os_glance_") {
        return Err(Error::forbidden(format!("Attribute '{key}' is reserved.")));
    }
    Ok(())
}

fn mismatch(key: &str, value: &Value, wanted: &str) -> Error {
    let mut shown = value.to_string();
    if shown.len() > 200 {
        let cut = (0..=200).rev().find(|i| shown.is_char_boundary(*i)).unwrap_or(0);
        shown.truncate(cut);
    }
    Error::invalid(format!("Provided object does not match schema 'image': {shown} is not {wanted} for property '{key}'"))
}

fn text(key: &str, value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(s) if s.chars().count() <= MAX_TEXT => Ok(Some(s.clone())),
        _ => Err(mismatch(key, value, "null or a string of at most 255 characters")),
    }
}

fn one_of(key: &str, value: &Value, allowed: &[&str]) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(s) if allowed.contains(&s.as_str()) => Ok(Some(s.clone())),
        _ => Err(mismatch(key, value, &format!("one of {allowed:?}"))),
    }
}

fn size(key: &str, value: &Value) -> Result<i64> {
    let n = value.as_i64().ok_or_else(|| mismatch(key, value, "an integer"))?;
    if (0..=i64::from(i32::MAX)).contains(&n) { Ok(n) } else { Err(mismatch(key, value, "between 0 and 2147483647")) }
}

fn flag(key: &str, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| mismatch(key, value, "a boolean"))
}

pub fn check_tag(tag: &str) -> Result<()> {
    if tag.chars().count() > MAX_TEXT {
        return Err(Error::invalid("Provided object does not match schema 'image': a tag is longer than 255 characters"));
    }
    Ok(())
}

fn tags(value: &Value) -> Result<BTreeSet<String>> {
    let list = value.as_array().ok_or_else(|| mismatch("tags", value, "an array"))?;
    let mut out = BTreeSet::new();
    for t in list {
        let t = t.as_str().ok_or_else(|| mismatch("tags", t, "a string"))?;
        check_tag(t)?;
        out.insert(t.to_string());
    }
    Ok(out)
}

/// Checks one attribute without writing it.
pub fn check(key: &str, value: &Value) -> Result<()> {
    let mut scratch = blank();
    assign(&mut scratch, key, value)
}

/// Writes one attribute. Errors: `Invalid` for a value the schema does not take, `Forbidden` for a
/// format that is fixed by now.
pub fn set(image: &mut Image, key: &str, value: &Value) -> Result<()> {
    let fixed = !matches!(image.status.as_str(), "queued" | "importing");
    if fixed && matches!(key, "disk_format" | "container_format") {
        return Err(Error::forbidden(format!("Attribute {key} can be only replaced for a queued image.")));
    }
    assign(image, key, value)
}

fn assign(image: &mut Image, key: &str, value: &Value) -> Result<()> {
    match key {
        "name" => image.name = text(key, value)?,
        "owner" => image.owner = text(key, value)?,
        "visibility" => {
            image.visibility = one_of(key, value, &VISIBILITIES)?.ok_or_else(|| mismatch(key, value, "a visibility"))?;
        }
        "disk_format" => image.disk_format = one_of(key, value, &DISK_FORMATS)?,
        "container_format" => image.container_format = one_of(key, value, &CONTAINER_FORMATS)?,
        "min_disk" => image.min_disk = size(key, value)?,
        "min_ram" => image.min_ram = size(key, value)?,
        "protected" => image.protected = flag(key, value)?,
        "os_hidden" => image.os_hidden = flag(key, value)?,
        "tags" => image.tags = tags(value)?,
        _ => {
            let v = value.as_str().filter(|v| v.len() <= MAX_PROPERTY_VALUE).ok_or_else(|| mismatch(key, value, "a string"))?;
            if key.is_empty() || key.chars().count() > MAX_TEXT {
                return Err(Error::invalid("Custom property should not be greater than 255 characters."));
            }
            image.properties.insert(key.to_string(), v.to_string());
        }
    }
    Ok(())
}

/// Errors: `TooLarge` when tags or properties are over their limits.
pub fn check_limits(image: &Image) -> Result<()> {
    let over = |n: usize, max: usize| Err(Error::too_large(format!("Attempted: {n}, Maximum: {max}")));
    if image.properties.len() > MAX_PROPERTIES {
        return over(image.properties.len(), MAX_PROPERTIES);
    }
    if image.tags.len() > MAX_TAGS {
        return over(image.tags.len(), MAX_TAGS);
    }
    Ok(())
}

/// An image without attributes.
pub fn blank() -> Image {
    Image {
        id: String::new(),
        name: None,
        owner: None,
        visibility: "shared".into(),
        status: "queued".into(),
        disk_format: None,
        container_format: None,
        min_disk: 0,
        min_ram: 0,
        protected: false,
        os_hidden: false,
        created_at: caelum_base::Timestamp(0),
        updated_at: caelum_base::Timestamp(0),
        tags: BTreeSet::new(),
        properties: std::collections::BTreeMap::new(),
        members: std::collections::BTreeMap::new(),
        data: None,
        file: None,
        staged: None,
        transfer: None,
        import_task: None,
        import_failed: false,
    }
}

/// The image a creation asks for; id, owner and times are filled in by the caller where absent.
pub fn from_create(body: &Map<String, Value>) -> Result<Image> {
    let mut image = blank();
    for (key, value) in body {
        check_writable(key)?;
        if key == "id" {
            let id = value.as_str().filter(|t| t.len() == 36 && is_uuid(t));
            image.id = id.ok_or_else(|| mismatch(key, value, "a UUID"))?.to_ascii_lowercase();
        } else {
            assign(&mut image, key, value)?;
        }
    }
    check_limits(&image)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_base::ErrorKind;
    use serde_json::json;

    #[test]
    fn creation_takes_what_the_schema_takes() {
        let kind = |v: Value| from_create(v.as_object().unwrap()).map(|_| ()).map_err(|e| e.kind);
        assert_eq!(kind(json!({"name": null, "disk_format": "raw", "x": "y", "tags": ["a", "a"]})), Ok(()));
        for bad in [
            json!({"name": "n".repeat(256)}),
            json!({"disk_format": "wrong"}),
            json!({"container_format": "wrong"}),
            json!({"min_disk": -1}),
            json!({"min_ram": "1"}),
            json!({"min_ram": true}),
            json!({"protected": "true"}),
            json!({"x": null}),
            json!({"x": 1}),
            json!({"id": "x"}),
            json!({"visibility": null}),
            json!({"tags": "a"}),
            json!({"tags": ["t".repeat(256)]}),
            json!({"k".repeat(256): "v"}),
            json!({"min_disk": 1_i64 << 40}),
        ] {
            assert_eq!(kind(bad.clone()), Err(ErrorKind::Invalid), "{bad}");
        }
        for bad in ["status", "checksum", "self", "file", "direct_url", "locations", "deleted", "os_glance_foo", "size"] {
            assert_eq!(kind(json!({bad: "x"})), Err(ErrorKind::Forbidden), "{bad}");
        }
        let many: Map<String, Value> = (0..129).map(|i| (format!("k{i}"), json!("v"))).collect();
        assert_eq!(kind(Value::Object(many)), Err(ErrorKind::TooLarge));
    }
}
