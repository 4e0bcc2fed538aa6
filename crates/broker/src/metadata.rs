//! The `metadata` column: a JSON object of name → [value, time]. An empty value is a deletion that
//! other replicas have yet to learn of.

use crate::db::{Db, stamp};
use crate::error::{BrokerError, Result};
use caelum_swiftkit::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;

/// Name (as sent: `X-Container-Meta-Color`) → (value, internal time).
pub type Metadata = BTreeMap<String, (String, String)>;

/// Largest number of user metadata items of an account or container.
pub const MAX_META_COUNT: usize = 90;
/// Largest total of user metadata names and values in characters.
pub const MAX_META_OVERALL_SIZE: usize = 4_096;

/// Reads the column. Items of another form are ignored.
pub fn parse(text: &str) -> Metadata {
    let Ok(serde_json::Value::Object(map)) = serde_json::from_str(text) else { return Metadata::new() };
    let pair = |v: serde_json::Value| {
        let items = v.as_array()?;
        let text = |i: usize| match items.get(i)? {
            serde_json::Value::String(s) => Some(s.clone()),
            serde_json::Value::Number(n) => Some(n.to_string()),
            _ => None,
        };
        Some((text(0)?, text(1)?))
    };
    map.into_iter().filter_map(|(k, v)| Some((k, pair(v)?))).collect()
}

/// Errors: `Invalid` with upstream's words.
fn validate(metadata: &Metadata) -> Result<()> {
    let (mut count, mut size) = (0, 0);
    for (key, (value, _)) in metadata {
        let key = key.to_ascii_lowercase();
        let name = key.strip_prefix("x-account-meta-").or_else(|| key.strip_prefix("x-container-meta-"));
        if let Some(name) = name.filter(|_| !value.is_empty()) {
            count += 1;
            size += name.chars().count() + value.chars().count();
        }
    }
    if count > MAX_META_COUNT {
        return Err(BrokerError::Invalid(format!("Too many metadata items; max {MAX_META_COUNT}")));
    }
    if size > MAX_META_OVERALL_SIZE {
        return Err(BrokerError::Invalid(format!("Total metadata too large; max {MAX_META_OVERALL_SIZE}")));
    }
    Ok(())
}

impl Db {
    /// The column's text, as replicas exchange it.
    pub fn raw_metadata(&self) -> Result<String> {
        let text = self.with(|c| self.read_metadata(c))?;
        match text {
            Some(text) => Ok(text),
            None => Err(self.quarantine(&format!("missing row in {} table", self.kind.stat()))?),
        }
    }

    fn read_metadata(&self, c: &Connection) -> Result<Option<String>> {
        let sql = format!("SELECT metadata FROM {}", self.kind.stat());
        let row = c.prepare_cached(&sql)?.query_row([], |r| Ok(crate::pool::value_text(r.get_ref(0)?)));
        Ok(row.optional()?)
    }

    pub fn metadata(&self) -> Result<Metadata> {
        Ok(parse(&self.raw_metadata()?))
    }

    /// Sets each item whose time is later than the stored one's. Errors: with `check`, `Invalid` when
    /// the result is too much.
    pub fn update_metadata(&self, updates: &Metadata, check: bool) -> Result<()> {
        let newer = |stored: &Metadata| updates.iter().any(|(k, (_, time))| stored.get(k).is_none_or(|(_, old)| time > old));
        if !newer(&self.metadata()?) {
            return Ok(());
        }
        self.write(|c| {
            let mut stored = parse(&self.read_metadata(c)?.unwrap_or_default());
            for (k, (value, time)) in updates {
                if stored.get(k).is_none_or(|(_, old)| time > old) {
                    stored.insert(k.clone(), (value.clone(), time.clone()));
                }
            }
            if check {
                validate(&stored)?;
            }
            self.write_metadata(c, &stored)
        })
    }

    fn write_metadata(&self, c: &Connection, metadata: &Metadata) -> Result<()> {
        let text = serde_json::to_string(metadata).map_err(|e| BrokerError::Invalid(e.to_string()))?;
        c.execute(&format!("UPDATE {} SET metadata = ?", self.kind.stat()), [text])?;
        Ok(())
    }

    /// Empties every item but those named (in lower case), as of the database's deletion.
    pub(crate) fn clear_metadata(&self, timestamp: &str, keep: &[&str]) -> Result<()> {
        let cleared: Metadata = self
            .metadata()?
            .into_keys()
            .filter(|k| !keep.contains(&k.to_ascii_lowercase().as_str()))
            .map(|k| (k, (String::new(), timestamp.to_string())))
            .collect();
        self.update_metadata(&cleared, false)
    }

    /// Forgets deleted items and sync points older than the given times.
    pub(crate) fn reclaim_facts(&self, c: &Connection, age: Timestamp, sync_age: Timestamp) -> Result<()> {
        let seconds = sync_age.as_f64();
        for table in ["outgoing_sync", "incoming_sync"] {
            // The column is text; so is the parameter once SQLite has applied its affinity.
            c.execute(&format!("DELETE FROM {table} WHERE updated_at < ?"), [seconds])?;
        }
        let stored = parse(&self.read_metadata(c)?.unwrap_or_default());
        let kept: Metadata =
            stored.iter().filter(|(_, (v, t))| !(v.is_empty() && stamp(t) < age)).map(|(k, v)| (k.clone(), v.clone())).collect();
        if kept.len() < stored.len() {
            self.write_metadata(c, &kept)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let item = |n: usize, len: usize| (format!("X-Container-Meta-{n}"), ("v".repeat(len), "1".to_string()));
        let ok: Metadata = (0..90).map(|n| item(n, 40)).collect();
        validate(&ok).unwrap();
        let many: Metadata = (0..91).map(|n| item(n, 1)).collect();
        assert!(validate(&many).unwrap_err().to_string().starts_with("Too many metadata items"));
        let deleted: Metadata = (0..91).map(|n| item(n, 0)).collect();
        validate(&deleted).unwrap();
        let long: Metadata = [item(1, 4_096)].into();
        assert!(validate(&long).is_err());
        let exact: Metadata = [item(1, 4_095)].into();
        validate(&exact).unwrap();
    }

    #[test]
    fn the_column() {
        let m = parse(r#"{"X-Container-Meta-\u00dc": ["v\u00e4", "0000000001.00000"], "odd": 1}"#);
        assert_eq!(m.len(), 1);
        assert_eq!(m["X-Container-Meta-Ü"].0, "vä");
        assert!(parse("").is_empty());
    }
}
