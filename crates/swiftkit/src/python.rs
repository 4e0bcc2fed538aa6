//! Texts as Python prints them. Rings, listings, manifests and encrypted metadata carry the same bytes as
//! upstream's, and hashes of some are seen by clients.

use serde_json::Value;

/// Appends a text as `json.dumps` writes it: in quotes, everything outside printable ASCII escaped.
pub fn json_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    // Nearly all names are plain: copied whole. Looking at every byte, without stopping at the first, is done many at a time.
    let special = |b: u8| !(0x20..0x7f).contains(&b) || b == b'"' || b == b'\\';
    if !bytes.iter().fold(false, |found, b| found | special(*b)) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            ' '..='~' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(b"\\u");
                    for shift in [12, 8, 4, 0] {
                        out.push(HEX[usize::from(*unit >> shift & 15)]);
                    }
                }
            }
        }
    }
    out.push(b'"');
}

/// Appends a value as `json.dumps` writes it: `", "` and `": "` between things.
pub fn json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(s) => json_text(out, s),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                out.extend_from_slice(if i == 0 { b"" } else { b", " });
                json(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (i, (k, v)) in map.iter().enumerate() {
                out.extend_from_slice(if i == 0 { b"" } else { b", " });
                json_text(out, k);
                out.extend_from_slice(b": ");
                json(out, v);
            }
            out.push(b'}');
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

/// As [`json_text`], alone.
pub fn json_quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    json_text(&mut out, text);
    ascii(out)
}

/// As [`json()`], alone.
pub fn json_string(value: &Value) -> String {
    let mut out = Vec::new();
    json(&mut out, value);
    ascii(out)
}

fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("everything outside ASCII is escaped")
}

/// `repr` of a text: in single quotes unless it holds one and no double quote.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_python_writes_it() {
        assert_eq!(json_quoted("a\"\\\n\u{1}\u{7f}ü😀/"), "\"a\\\"\\\\\\n\\u0001\\u007f\\u00fc\\ud83d\\ude00/\"");
        assert_eq!(json_quoted("a\"\\ö😀\n\u{7f}"), r#""a\"\\\u00f6\ud83d\ude00\n\u007f""#);
        assert_eq!(json_string(&json!([1, true, null, {"a": {}, "b": 1.5}])), "[1, true, null, {\"a\": {}, \"b\": 1.5}]");
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("a\\b\n"), r"'a\\b\n'");
    }
}
