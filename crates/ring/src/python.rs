//! Texts as Python prints them: our ring files carry the same bytes as upstream's, and our tables and
//! messages the same numbers.

use std::fmt::Write;

/// `repr` of a float: the shortest digits that read back the same, at least one after the point.
pub(crate) fn float(v: f64) -> String {
    if v.is_nan() {
        return "nan".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let size = v.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{v:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{v:?}")
}

/// `json.dumps` of a text, everything beyond ASCII escaped.
pub(crate) fn json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// `repr` of a text: in single quotes unless it holds one and no double quote.
pub(crate) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 32 || u32::from(c) == 127 => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `str(timedelta(seconds=…))`.
pub(crate) fn duration(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 | -1 => format!("{days} day, {clock}"),
        _ => format!("{days} days, {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_prints() {
        for (v, text) in [
            (100.0, "100.0"),
            (0.1, "0.1"),
            (0.0, "0.0"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (3.25, "3.25"),
            (1e22, "1e+22"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
        ] {
            assert_eq!(float(v), text);
        }
        let mut out = String::new();
        json_text("a\"\\ö😀\n\u{7f}", &mut out);
        assert_eq!(out, r#""a\"\\\u00f6\ud83d\ude00\n\u007f""#);
        assert_eq!(repr("it's"), "\"it's\"");
        assert_eq!(repr("a\\b\n"), r"'a\\b\n'");
        assert_eq!(duration(3_599), "0:59:59");
        assert_eq!(duration(86_400), "1 day, 0:00:00");
        assert_eq!(duration(200_000), "2 days, 7:33:20");
    }
}
