//! The `.pending` file: rows not yet in the database, each a pickled tuple in base64 after a colon.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_swiftkit::pickle::{self, Value};

/// Beyond this size in bytes the file is merged into the database (upstream: `PENDING_CAP`).
pub const PENDING_CAP: u64 = 131_072;

/// One entry with its leading colon.
pub(crate) fn encode(fields: Vec<Value>) -> String {
    let mut out = String::from(":");
    STANDARD.encode_string(pickle::dumps(&Value::Tuple(fields)), &mut out);
    out
}

/// All readable entries in order. A torn entry (the machine went down in the middle of a write) is
/// skipped and reported, as upstream does.
pub(crate) fn decode(data: &[u8], path: &std::path::Path) -> Vec<Vec<Value>> {
    let mut out = Vec::new();
    for entry in data.split(|b| *b == b':').filter(|e| !e.is_empty()) {
        let value = STANDARD.decode(entry).ok().and_then(|bytes| pickle::loads(&bytes).ok());
        match value.as_ref().and_then(Value::items) {
            Some(items) => out.push(items.to_vec()),
            None => tracing::error!(file = %path.display(), bytes = entry.len(), "unreadable pending entry skipped"),
        }
    }
    out
}

/// Text of a field; upstream's files carry numbers and text interchangeably.
pub(crate) fn text(fields: &[Value], at: usize) -> Option<String> {
    match fields.get(at)? {
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(format!("{f:.5}")),
        other => other.text(),
    }
}

pub(crate) fn int(fields: &[Value], at: usize) -> Option<i64> {
    match fields.get(at)? {
        Value::Float(f) => Some(*f as i64),
        other => other.int().or_else(|| other.text()?.trim().parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let one = encode(vec![Value::str("a:b"), Value::Int(1)]);
        let two = encode(vec![Value::str("ü"), Value::str("12"), Value::None]);
        let file = format!("{one}{two}:garbage");
        let all = decode(file.as_bytes(), std::path::Path::new("x"));
        assert_eq!(all.len(), 2);
        assert_eq!(text(&all[0], 0).as_deref(), Some("a:b"));
        assert_eq!(int(&all[1], 1), Some(12));
        assert_eq!(text(&all[1], 2), None);
        assert_eq!(text(&all[1], 9), None);
    }

    #[test]
    fn what_upstream_writes() {
        // (name, created_at, size, content_type, etag, deleted, policy, None, None) in protocol 2.
        let file = b":gAIoWAEAAABvcQBYEAAAADE0MDI0NjM5NDIuMDU1MzVxAUsFWAEAAAB0cQJYAQAAAGVxA0sASwBOTnRxBC4=";
        let all = decode(file, std::path::Path::new("x"));
        assert_eq!(text(&all[0], 1).as_deref(), Some("1402463942.05535"));
        assert_eq!((int(&all[0], 2), int(&all[0], 6), text(&all[0], 7)), (Some(5), Some(0), None));
    }
}
