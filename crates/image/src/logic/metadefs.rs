//! What namespaces of metadata definitions and their parts may hold.

use crate::store::{Namespace, Part, Parts};
use caelum_base::{Error, Result, Timestamp};
use serde_json::{Map, Value, json};

/// Longest name of a namespace, object, property, tag or resource type, in characters.
const MAX_NAME: usize = 80;
/// Parts of one kind in one namespace.
const MAX_PARTS: usize = 1_000;

/// Resource types that exist without anybody having made them.
pub const RESOURCE_TYPES: [&str; 7] = [
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Instance",
    "OS::Nova::Server",
    "OS::Trove::Instance",
];

const PROPERTY_KEYS: [&str; 18] = [
    "title",
    "description",
    "operators",
    "type",
    "required",
    "minimum",
    "maximum",
    "maxLength",
    "minLength",
    "pattern",
    "enum",
    "readonly",
    "default",
    "items",
    "uniqueItems",
    "minItems",
    "maxItems",
    "additionalItems",
];

/// Kinds of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Property,
    Tag,
    ResourceType,
}

impl Kind {
    /// Name in sentences.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Property => "property",
            Self::Tag => "tag",
            Self::ResourceType => "resource type association",
        }
    }

    pub fn of(self, n: &Namespace) -> &Parts {
        match self {
            Self::Object => &n.objects,
            Self::Property => &n.properties,
            Self::Tag => &n.tags,
            Self::ResourceType => &n.resource_types,
        }
    }

    pub fn of_mut(self, n: &mut Namespace) -> &mut Parts {
        match self {
            Self::Object => &mut n.objects,
            Self::Property => &mut n.properties,
            Self::Tag => &mut n.tags,
            Self::ResourceType => &mut n.resource_types,
        }
    }
}

fn wrong(key: &str) -> Error {
    Error::invalid(format!("Provided object does not match schema: the value of '{key}' is wrong or missing"))
}

fn text(body: &Map<String, Value>, key: &str, max: usize) -> Result<Option<String>> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.chars().count() <= max => Ok(Some(s.clone())),
        Some(_) => Err(wrong(key)),
    }
}

pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.chars().count() > MAX_NAME { Err(wrong("name")) } else { Ok(()) }
}

fn name(body: &Map<String, Value>, key: &str) -> Result<String> {
    let name = text(body, key, MAX_NAME)?.ok_or_else(|| wrong(key))?;
    check_name(&name)?;
    Ok(name)
}

/// A namespace from a creation or replacement; owner and times are the caller's to set.
pub fn namespace(body: &Map<String, Value>, now: Timestamp) -> Result<Namespace> {
    let known = [
        "namespace",
        "display_name",
        "description",
        "visibility",
        "protected",
        "owner",
        "resource_type_associations",
        "objects",
        "properties",
        "tags",
        "self",
        "schema",
        "created_at",
        "updated_at",
    ];
    if let Some(other) = body.keys().find(|k| !known.contains(&k.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    let visibility = match body.get("visibility") {
        None => "private",
        Some(Value::String(v)) if v == "public" || v == "private" => v,
        Some(_) => return Err(wrong("visibility")),
    };
    let protected = body.get("protected").map_or(Ok(false), |v| v.as_bool().ok_or_else(|| wrong("protected")))?;
    let mut n = Namespace {
        name: name(body, "namespace")?,
        display_name: text(body, "display_name", MAX_NAME)?,
        description: text(body, "description", 500)?,
        visibility: visibility.to_string(),
        protected,
        owner: text(body, "owner", 255)?,
        created_at: now,
        updated_at: now,
        resource_types: Parts::new(),
        objects: Parts::new(),
        properties: Parts::new(),
        tags: Parts::new(),
    };
    for (key, kind) in [("resource_type_associations", Kind::ResourceType), ("objects", Kind::Object), ("tags", Kind::Tag)] {
        let list = body.get(key).map_or(Ok(&[][..]), |v| v.as_array().map(Vec::as_slice).ok_or_else(|| wrong(key)))?;
        for item in list {
            let (part_name, part) = part(kind, item.as_object().ok_or_else(|| wrong(key))?, None, now)?;
            insert(&mut n, kind, part_name, part)?;
        }
    }
    let properties = body.get("properties").map_or(Ok(None), |v| v.as_object().map(Some).ok_or_else(|| wrong("properties")))?;
    for (key, item) in properties.into_iter().flatten() {
        let (part_name, part) = part(Kind::Property, item.as_object().ok_or_else(|| wrong(key))?, Some(key), now)?;
        insert(&mut n, Kind::Property, part_name, part)?;
    }
    Ok(n)
}

/// A part with its name, which the body gives unless `named`.
pub fn part(kind: Kind, body: &Map<String, Value>, named: Option<&str>, now: Timestamp) -> Result<(String, Part)> {
    let part_name = match named {
        Some(n) => n.to_string(),
        None => name(body, "name")?,
    };
    check_name(&part_name)?;
    let mut kept = Map::new();
    match kind {
        Kind::Tag => {}
        Kind::ResourceType => {
            for key in ["prefix", "properties_target"] {
                kept.extend(text(body, key, MAX_NAME)?.map(|v| (key.to_string(), json!(v))));
            }
        }
        Kind::Property => kept = property(body)?,
        Kind::Object => {
            kept.insert("description".into(), json!(text(body, "description", 4_096)?));
            let required = body.get("required").cloned().unwrap_or_else(|| json!([]));
            if !required.as_array().is_some_and(|r| r.iter().all(Value::is_string)) {
                return Err(wrong("required"));
            }
            kept.insert("required".into(), required);
            let mut properties = Map::new();
            let given = body.get("properties").map_or(Ok(None), |v| v.as_object().map(Some).ok_or_else(|| wrong("properties")))?;
            for (key, item) in given.into_iter().flatten() {
                check_name(key)?;
                properties.insert(key.clone(), Value::Object(property(item.as_object().ok_or_else(|| wrong(key))?)?));
            }
            kept.insert("properties".into(), Value::Object(properties));
        }
    }
    Ok((part_name, Part { body: kept, created_at: now, updated_at: now }))
}

fn property(body: &Map<String, Value>) -> Result<Map<String, Value>> {
    let kinds = ["array", "boolean", "integer", "number", "object", "string", "null"];
    if !body.get("type").and_then(Value::as_str).is_some_and(|t| kinds.contains(&t)) {
        return Err(wrong("type"));
    }
    if !body.get("title").is_some_and(Value::is_string) {
        return Err(wrong("title"));
    }
    if let Some(other) = body.keys().find(|k| *k != "name" && !PROPERTY_KEYS.contains(&k.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{other}' was unexpected)")));
    }
    Ok(body.iter().filter(|(k, _)| *k != "name").map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Adds a part. Errors: `Conflict` when the name is taken, `TooLarge` when there are too many.
pub fn insert(n: &mut Namespace, kind: Kind, part_name: String, part: Part) -> Result<()> {
    let parts = kind.of_mut(n);
    if parts.contains_key(&part_name) {
        return Err(Error::conflict(format!("A metadata definition {} with name={part_name} already exists.", kind.noun())));
    }
    if parts.len() >= MAX_PARTS {
        return Err(Error::too_large(format!("A namespace has at most {MAX_PARTS} parts of one kind.")));
    }
    parts.insert(part_name, part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_definitions_are_refused() {
        for bad in [
            json!({}),
            json!({"namespace": ""}),
            json!({"namespace": "n".repeat(81)}),
            json!({"namespace": "n", "visibility": "shared"}),
            json!({"namespace": "n", "protected": "yes"}),
            json!({"namespace": "n", "x": 1}),
            json!({"namespace": "n", "tags": [1]}),
            json!({"namespace": "n", "properties": {"p": {"type": "string"}}}),
            json!({"namespace": "n", "objects": [{"name": "o", "required": [1]}]}),
            json!({"namespace": "n", "properties": {"p": {"type": "thing", "title": "t"}}}),
            json!({"namespace": "n", "properties": {"p": {"type": "string", "title": "t", "y": 1}}}),
        ] {
            assert!(namespace(bad.as_object().unwrap(), Timestamp(0)).is_err(), "{bad}");
        }
        let twice = json!({"namespace": "n", "tags": [{"name": "t"}, {"name": "t"}]});
        assert!(namespace(twice.as_object().unwrap(), Timestamp(0)).is_err());
    }
}
