use crate::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::{Deref, DerefMut};

/// A table of records: `id TEXT PRIMARY KEY`, the named columns, `generation BIGINT`, `body TEXT`.
///
/// `body` holds the whole record as JSON; `columns` repeats the fields that queries filter, sort or
/// constrain by. Columns used for sorting must be `NOT NULL`.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [&'static str],
}

/// A stored resource. New fields need `#[serde(default)]` so that old bodies stay readable.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    const TABLE: Table;

    fn id(&self) -> &str;

    /// Values of [`Table::columns`], in their order.
    fn columns(&self) -> Vec<Value>;
}

/// A record with the generation it was read at.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<R> {
    pub value: R,
    pub generation: i64,
}

impl<R> Stored<R> {
    pub fn into_inner(self) -> R {
        self.value
    }
}

impl<R> Deref for Stored<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.value
    }
}

impl<R> DerefMut for Stored<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.value
    }
}
