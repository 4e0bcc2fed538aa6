//! Object rows: how a newer report of an object and the stored one become one.

use crate::pending;
use caelum_swiftkit::Timestamp;
use caelum_swiftkit::pickle::Value;
use serde::{Deserialize, Deserializer, Serialize};

/// A row of a container's `object` table, or a report on its way there. Its JSON form is the one
/// replicas exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    #[serde(rename = "ROWID", default)]
    pub row_id: i64,
    pub name: String,
    /// Time of the data, with those of content type and metadata as differences.
    pub created_at: String,
    #[serde(deserialize_with = "loose_int")]
    pub size: i64,
    pub content_type: String,
    pub etag: String,
    #[serde(deserialize_with = "loose_int")]
    pub deleted: i64,
    #[serde(default, deserialize_with = "loose_int")]
    pub storage_policy_index: i64,
    #[serde(default, skip_serializing)]
    pub ctype_timestamp: Option<String>,
    #[serde(default, skip_serializing)]
    pub meta_timestamp: Option<String>,
    #[serde(default, skip_serializing)]
    pub data_timestamp: Option<String>,
}

/// Numbers that upstream's writers sometimes send as text.
pub(crate) fn loose_int<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    match serde_json::Value::deserialize(d)? {
        serde_json::Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        serde_json::Value::String(s) => s.trim().parse().ok(),
        serde_json::Value::Bool(b) => Some(i64::from(b)),
        serde_json::Value::Null => Some(0),
        _ => None,
    }
    .ok_or_else(|| serde::de::Error::custom("not a number"))
}

impl ObjectRow {
    /// A deletion.
    pub fn tombstone(name: &str, timestamp: &str, policy: i64) -> Self {
        Self {
            name: name.into(),
            created_at: timestamp.into(),
            content_type: "application/deleted".into(),
            etag: "noetag".into(),
            deleted: 1,
            storage_policy_index: policy,
            ..Self::default()
        }
    }

    pub(crate) fn to_pending(&self) -> Vec<Value> {
        let optional = |v: &Option<String>| v.as_ref().map_or(Value::None, Value::str);
        vec![
            Value::str(&self.name),
            Value::str(&self.created_at),
            Value::Int(self.size),
            Value::str(&self.content_type),
            Value::str(&self.etag),
            Value::Int(self.deleted),
            Value::Int(self.storage_policy_index),
            optional(&self.ctype_timestamp),
            optional(&self.meta_timestamp),
        ]
    }

    pub(crate) fn from_pending(f: &[Value]) -> Option<Self> {
        Some(Self {
            name: pending::text(f, 0)?,
            created_at: pending::text(f, 1)?,
            size: pending::int(f, 2)?,
            content_type: pending::text(f, 3)?,
            etag: pending::text(f, 4)?,
            deleted: pending::int(f, 5)?,
            storage_policy_index: pending::int(f, 6).unwrap_or(0),
            ctype_timestamp: pending::text(f, 7).filter(|t| !t.is_empty()),
            meta_timestamp: pending::text(f, 8).filter(|t| !t.is_empty()),
            ..Self::default()
        })
    }

    /// Takes over what is newer in `existing`. False when nothing in `self` is new, so that there is
    /// nothing to store.
    pub(crate) fn combine(&mut self, existing: Option<&ObjectRow>) -> bool {
        let encoded = self.data_timestamp.get_or_insert_with(|| self.created_at.clone());
        let Some((mut data, mut ctype, mut meta)) = Timestamp::decode(encoded) else { return false };
        if let Some(t) = self.ctype_timestamp.as_deref().and_then(Timestamp::parse) {
            ctype = t;
            meta = t;
        }
        if let Some(t) = self.meta_timestamp.as_deref().and_then(Timestamp::parse) {
            meta = t;
        }
        let mut new = [true; 3];
        if let Some(old) = existing
            && let Some((old_data, old_ctype, old_meta)) = Timestamp::decode(&old.created_at)
        {
            // The size a segmented object claims belongs to its data, the type to its type's time;
            // both stand in one column.
            let (mut content_type, mut bytes) = extract_swift_bytes(&self.content_type);
            let (old_type, old_bytes) = extract_swift_bytes(&old.content_type);
            if old_data >= data {
                (self.size, self.etag, self.deleted, bytes) = (old.size, old.etag.clone(), old.deleted, old_bytes);
                data = old_data;
                new[0] = false;
            }
            if old_ctype >= ctype {
                content_type = old_type;
                ctype = old_ctype;
                new[1] = false;
            }
            if old_meta >= meta {
                meta = old_meta;
                new[2] = false;
            }
            self.content_type = content_type;
            if let Some(bytes) = bytes.filter(|b| !b.is_empty()) {
                self.content_type.push_str(";swift_bytes=");
                self.content_type.push_str(&bytes);
            }
        }
        self.created_at = Timestamp::encode(data, Some(ctype), Some(meta));
        new.contains(&true)
    }
}

/// Splits `;swift_bytes=N` (the size of a segmented object) off a content type. The other parameters
/// are written as `;name=value` without spaces around.
pub fn extract_swift_bytes(content_type: &str) -> (String, Option<String>) {
    let Some((kind, rest)) = content_type.split_once(';') else { return (content_type.to_string(), None) };
    let (mut out, mut bytes) = (kind.to_string(), None);
    for (name, value) in params(rest) {
        if name == "swift_bytes" {
            bytes = Some(value);
        } else {
            out.push(';');
            out.push_str(&name);
            out.push('=');
            out.push_str(&value);
        }
    }
    (out, bytes)
}

/// `; name=value; name="quoted \" value"`: tokens and quoted strings; quotes are kept.
fn params(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for part in split_outside_quotes(text) {
        let Some((name, value)) = part.split_once('=') else {
            let name = part.trim();
            if !name.is_empty() && name.bytes().all(token) {
                out.push((name.to_string(), String::new()));
            }
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        if !name.is_empty() && name.bytes().all(token) && (quoted || value.bytes().all(token)) {
            out.push((name.to_string(), value.to_string()));
        }
    }
    out
}

fn token(b: u8) -> bool {
    b > b' ' && b < 127 && !b"()<>@,;:\\\"/[]?={}".contains(&b)
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(created_at: &str, size: i64, content_type: &str) -> ObjectRow {
        ObjectRow {
            name: "o".into(),
            created_at: created_at.into(),
            size,
            content_type: content_type.into(),
            etag: format!("e{size}"),
            ..ObjectRow::default()
        }
    }

    #[test]
    fn newer_data_wins_and_newer_type_stays() {
        let old = row("0000000010.00000+7a120+0", 1, "text/new;swift_bytes=9");
        let mut new = row("0000000012.00000", 2, "text/old;swift_bytes=8");
        assert!(new.combine(Some(&old)));
        // Data at 12, type at 15 (10 + 500000 * 10 µs).
        assert_eq!(new.created_at, "0000000012.00000+493e0+0");
        assert_eq!((new.size, new.content_type.as_str()), (2, "text/new;swift_bytes=8"));
        let mut same = old.clone();
        assert!(!same.combine(Some(&old)));
        let mut older = row("0000000009.00000", 3, "x/y");
        assert!(!older.combine(Some(&old)));
        assert_eq!(older.size, 1);
    }

    #[test]
    fn separate_times() {
        let mut new = row("0000000010.00000", 1, "a/b");
        new.ctype_timestamp = Some("0000000010.00002".into());
        new.meta_timestamp = Some("0000000010.00003".into());
        assert!(new.combine(None));
        assert_eq!(new.created_at, "0000000010.00000+2+1");
        // Seen again in a second attempt it is the same.
        assert!(new.combine(None));
        assert_eq!(new.created_at, "0000000010.00000+2+1");
    }

    #[test]
    fn content_types() {
        let e = |t: &str| extract_swift_bytes(t);
        assert_eq!(e("text/plain"), ("text/plain".into(), None));
        assert_eq!(e("text/plain; charset=UTF-8;swift_bytes=12"), ("text/plain;charset=UTF-8".into(), Some("12".into())));
        assert_eq!(e("a/b;x=\"q;\\\"r\";swift_bytes=1"), ("a/b;x=\"q;\\\"r\"".into(), Some("1".into())));
    }

    #[test]
    fn pending_form() {
        let mut r = row("0000000010.00000", 1, "a/b");
        r.meta_timestamp = Some("0000000011.00000".into());
        assert_eq!(ObjectRow::from_pending(&r.to_pending()), Some(r));
        assert_eq!(ObjectRow::from_pending(&[Value::str("o")]), None);
    }

    #[test]
    fn json_form() {
        let r: ObjectRow = serde_json::from_str(
            r#"{"ROWID": 3, "name": "n", "created_at": "1", "size": "7", "content_type": "t", "etag": "e", "deleted": 0}"#,
        )
        .unwrap();
        assert_eq!((r.row_id, r.size, r.storage_policy_index), (3, 7, 0));
    }
}
