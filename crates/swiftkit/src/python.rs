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

/// A number that is not negative as `int()` reads it: blanks around it, a sign and underscores between digits do not
/// matter. `limit` for one beyond it; `None` for what is no such number.
pub fn natural(text: &str, limit: u64) -> Option<u64> {
    // More than Python reads at once.
    const MAX_DIGITS: usize = 4_300;
    let text = text.trim_matches([' ', '\t', '\u{b}', '\u{c}', '\u{85}', '\u{a0}']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let mut digits = 0;
    let mut out = Some(0_u64);
    for group in text.split('_') {
        if group.is_empty() || !group.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits += group.len();
        out = group.bytes().fold(out, |n, b| n?.checked_mul(10)?.checked_add(u64::from(b - b'0')));
    }
    (digits <= MAX_DIGITS).then(|| out.unwrap_or(limit).min(limit))
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

    #[test]
    fn numbers() {
        for (text, n) in [("0", 0), ("+7", 7), ("1_0", 10), (" 5\t", 5), ("007", 7), ("99999999999999999999", 1_000), ("1001", 1_000)] {
            assert_eq!(natural(text, 1_000), Some(n), "{text}");
        }
        for bad in ["", "+", "-1", "1__0", "_1", "1_", "+ 1", "++1", "1.0", "0x1", "\u{b2}", "1e3"] {
            assert_eq!(natural(bad, 1_000), None, "{bad}");
        }
        assert!(natural(&"1".repeat(4_300), 9).is_some() && natural(&"1".repeat(4_301), 9).is_none());
    }
}
