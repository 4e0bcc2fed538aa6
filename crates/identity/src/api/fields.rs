//! Reading request bodies: `{"user": {…}}` with known fields, checked as upstream's schemas do, and
//! whatever else the client adds.

use crate::state::Identity;
use crate::store::Extra;
use caelum_base::{Error, Result};
use caelum_rest::Ctx;
use serde_json::{Map, Value};

pub type Cx = Ctx<Identity>;

/// The object under one key of the body; each known field is taken out once.
pub struct Fields {
    map: Map<String, Value>,
}

fn bad(field: &str, value: &Value, why: &str) -> Error {
    let shown: String = value.to_string().chars().take(80).collect();
    Error::invalid(format!("Invalid input for field '{field}': {shown} {why}"))
}

/// Most attributes a client may add to a resource.
const MAX_EXTRA: usize = 64;

impl Fields {
    pub async fn read(cx: &mut Cx, key: &str) -> Result<Self> {
        let mut body: Map<String, Value> = cx.json().await?;
        match body.remove(key) {
            Some(Value::Object(map)) => Ok(Self { map }),
            Some(_) => Err(Error::invalid(format!("'{key}' is not an object"))),
            None => Err(Error::invalid(format!("'{key}' is a required property"))),
        }
    }

    pub fn new(map: Map<String, Value>) -> Self {
        Self { map }
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A string of 1 to `max` characters that is not only spaces.
    pub fn name(&mut self, key: &str, max: usize) -> Result<Option<String>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::String(s)) if !s.trim().is_empty() && s.chars().count() <= max && !s.contains('\0') => Ok(Some(s)),
            Some(v) => Err(bad(key, &v, &format!("is not a name of 1 to {max} characters"))),
        }
    }

    pub fn require_name(&mut self, key: &str, max: usize) -> Result<String> {
        self.name(key, max)?.ok_or_else(|| Error::invalid(format!("'{key}' is a required property")))
    }

    /// `Some(None)` for an explicit null.
    pub fn text(&mut self, key: &str) -> Result<Option<Option<String>>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::String(s)) if s.len() <= 65_535 && !s.contains('\0') => Ok(Some(Some(s))),
            Some(v) => Err(bad(key, &v, "is not of type 'string', 'null'")),
        }
    }

    /// An id: letters, digits, `-` and `_`, at most 64 (255 for regions).
    pub fn id(&mut self, key: &str) -> Result<Option<Option<String>>> {
        match self.text(key)? {
            Some(Some(s)) if s.is_empty() || s.chars().count() > 255 => Err(bad(key, &Value::String(s), "is not an id")),
            other => Ok(other),
        }
    }

    pub fn require_id(&mut self, key: &str) -> Result<String> {
        self.id(key)?.flatten().ok_or_else(|| Error::invalid(format!("'{key}' is a required property")))
    }

    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(v) => Err(bad(key, &v, "is not of type 'boolean'")),
        }
    }

    pub fn int(&mut self, key: &str) -> Result<Option<i64>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => v.as_i64().map(Some).ok_or_else(|| bad(key, &v, "is not of type 'integer'")),
        }
    }

    pub fn object(&mut self, key: &str) -> Result<Option<Extra>> {
        match self.map.remove(key) {
            None => Ok(None),
            Some(Value::Object(m)) => Ok(Some(m)),
            Some(v) => Err(bad(key, &v, "is not of type 'object'")),
        }
    }

    pub fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(a)) if a.len() <= 1_000 => Ok(Some(a)),
            Some(v) => Err(bad(key, &v, "is not an array of at most 1000 items")),
        }
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key)
    }

    /// What the API does not define. `id` and `links` are the server's to say.
    pub fn extra(mut self) -> Result<Extra> {
        self.map.remove("id");
        self.map.remove("links");
        if self.map.len() > MAX_EXTRA {
            return Err(Error::invalid(format!("At most {MAX_EXTRA} additional attributes are allowed.")));
        }
        if let Some(k) = self.map.keys().find(|k| k.chars().count() > 255) {
            return Err(Error::invalid(format!("The attribute name {k} is too long.")));
        }
        Ok(self.map)
    }

    /// Errors: `Invalid` when an unknown field is left.
    pub fn finish(self) -> Result<()> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(k) => Err(Error::invalid(format!("Additional properties are not allowed ('{k}' was unexpected)"))),
        }
    }
}

/// Merges changed extra attributes; a null takes one away.
pub fn merge_extra(old: &mut Extra, new: Extra) {
    for (k, v) in new {
        if v.is_null() {
            old.remove(&k);
        } else {
            old.insert(k, v);
        }
    }
}

/// Merges resource options: a null takes one away. Errors: `Invalid` for one that is not known.
pub fn merge_options(old: &mut Extra, new: Extra, known: &[&str]) -> Result<()> {
    for (k, v) in new {
        if !known.contains(&k.as_str()) {
            return Err(Error::invalid(format!("Additional properties are not allowed ('{k}' was unexpected)")));
        }
        let fits = match k.as_str() {
            "multi_factor_auth_rules" => v.is_array() || v.is_null(),
            _ => v.is_boolean() || v.is_null(),
        };
        if !fits {
            return Err(bad(&k, &v, "is not of the option's type"));
        }
        if v.is_null() {
            old.remove(&k);
        } else {
            old.insert(k, v);
        }
    }
    Ok(())
}
