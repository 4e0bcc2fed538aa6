use caelum_base::{Error, Result, Timestamp};
use std::sync::Arc;

/// A SQL value. Booleans are `Int` 0 or 1, timestamps `Int` microseconds, JSON is `Text`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

macro_rules! from {
    ($($t:ty => |$v:ident| $e:expr),* $(,)?) => { $(impl From<$t> for Value { fn from($v: $t) -> Self { $e } })* };
}

from! {
    i64 => |v| Self::Int(v),
    i32 => |v| Self::Int(v.into()),
    u32 => |v| Self::Int(v.into()),
    // Counts and sizes fit: nothing stored here exceeds 2^63.
    u64 => |v| Self::Int(i64::try_from(v).unwrap_or(i64::MAX)),
    usize => |v| Self::Int(i64::try_from(v).unwrap_or(i64::MAX)),
    bool => |v| Self::Int(v.into()),
    f64 => |v| Self::Real(v),
    String => |v| Self::Text(v),
    &String => |v| Self::Text(v.clone()),
    &str => |v| Self::Text(v.to_string()),
    Vec<u8> => |v| Self::Blob(v),
    Timestamp => |v| Self::Int(v.0),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

impl From<&Option<String>> for Value {
    fn from(v: &Option<String>) -> Self {
        v.as_deref().map_or(Self::Null, Into::into)
    }
}

/// One result row; columns by name.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) names: Arc<[String]>,
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// The value of a column; a column the query did not select is a bug of ours.
    pub fn value(&self, name: &str) -> Result<&Value> {
        let at = self.names.iter().position(|n| n == name);
        at.and_then(|i| self.values.get(i)).ok_or_else(|| Error::internal(format!("no column {name} in the result")))
    }

    pub fn text(&self, name: &str) -> Result<String> {
        match self.value(name)? {
            Value::Text(t) => Ok(t.clone()),
            v => Err(wrong(name, "text", v)),
        }
    }

    pub fn opt_text(&self, name: &str) -> Result<Option<String>> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::Text(t) => Ok(Some(t.clone())),
            v => Err(wrong(name, "text", v)),
        }
    }

    pub fn int(&self, name: &str) -> Result<i64> {
        match self.value(name)? {
            Value::Int(i) => Ok(*i),
            v => Err(wrong(name, "integer", v)),
        }
    }

    pub fn opt_int(&self, name: &str) -> Result<Option<i64>> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::Int(i) => Ok(Some(*i)),
            v => Err(wrong(name, "integer", v)),
        }
    }

    pub fn bool(&self, name: &str) -> Result<bool> {
        self.int(name).map(|i| i != 0)
    }

    pub fn real(&self, name: &str) -> Result<f64> {
        match self.value(name)? {
            Value::Real(r) => Ok(*r),
            // Counts are far below 2^53.
            Value::Int(i) => Ok(*i as f64),
            v => Err(wrong(name, "real", v)),
        }
    }

    pub fn blob(&self, name: &str) -> Result<Vec<u8>> {
        match self.value(name)? {
            Value::Blob(b) => Ok(b.clone()),
            v => Err(wrong(name, "blob", v)),
        }
    }

    pub fn time(&self, name: &str) -> Result<Timestamp> {
        self.int(name).map(Timestamp)
    }
}

fn wrong(name: &str, wanted: &str, got: &Value) -> Error {
    let kind = match got {
        Value::Null => "null",
        Value::Int(_) => "integer",
        Value::Real(_) => "real",
        Value::Text(_) => "text",
        Value::Blob(_) => "blob",
    };
    Error::internal(format!("column {name} is {kind}, not {wanted}"))
}
