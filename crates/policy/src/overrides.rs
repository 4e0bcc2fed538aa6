//! `policy.yaml` and `policy.json`: one flat mapping of rule name to check string.
//!
//! Only the subset of YAML such files use is read, and anything else is an error with its line: a
//! misread policy file is worse than a refused one. In particular a name without a value, which
//! YAML reads as null and upstream as "allow all", is refused.

use caelum_base::{Error, Result};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Largest accepted file, in bytes.
const MAX_FILE: usize = 1024 * 1024;

/// Parses the text of a policy file. `origin` (its path) starts every error message.
pub fn parse_overrides(origin: &str, text: &str) -> Result<BTreeMap<String, String>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_FILE {
        return Err(Error::invalid(format!("{origin}: the policy file is larger than {MAX_FILE} bytes")));
    }
    if text.trim_start().starts_with('{') {
        return parse_json(text).map_err(|e| Error::invalid(format!("{origin}: {e}")));
    }
    let mut out = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |why: String| Error::invalid(format!("{origin}:{}: {why}", number + 1));
        let Some((name, check)) = parse_line(line, out.is_empty()).map_err(fail)? else { continue };
        if out.contains_key(&name) {
            return Err(fail(format!("rule {name:?} is given twice")));
        }
        out.insert(name, check);
    }
    Ok(out)
}

fn parse_line(line: &str, at_start: bool) -> Result<Option<(String, String)>, String> {
    let content = line.trim_end();
    let bare = content.trim_start();
    if bare.is_empty() || bare.starts_with('#') || (at_start && content == "---") {
        return Ok(None);
    }
    if bare.len() != content.len() {
        return Err("an indented line; write each rule on one line".into());
    }
    let (name, rest) = parse_key(content)?;
    if name.is_empty() {
        return Err("the rule name is empty".into());
    }
    Ok(Some((name, parse_value(rest.trim_start())?)))
}

/// The key and what follows its colon. A plain key may hold colons itself; it ends at the first
/// one before white space.
fn parse_key(line: &str) -> Result<(String, &str), String> {
    if line.starts_with(['"', '\'']) {
        let (key, rest) = quoted(line)?;
        let rest = rest.trim_start().strip_prefix(':').ok_or("expected ':' after the rule name")?;
        if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
            return Err("expected a space after the ':'".into());
        }
        return Ok((key, rest));
    }
    if line.starts_with(|c: char| "-?@!&*[]{}|>%`,".contains(c)) {
        return Err("expected a line of the form \"rule name\": \"check string\"".into());
    }
    let end = line.char_indices().find(|(i, c)| *c == ':' && line[i + 1..].chars().next().is_none_or(|n| n == ' ' || n == '\t'));
    match end {
        Some((i, _)) => {
            let key = line[..i].trim_end();
            if key.contains(" #") {
                return Err("a comment where a rule name is expected".into());
            }
            Ok((key.to_owned(), &line[i + 1..]))
        }
        None => Err("expected a line of the form \"rule name\": \"check string\"".into()),
    }
}

fn parse_value(text: &str) -> Result<String, String> {
    if text.starts_with(['"', '\'']) {
        let (value, rest) = quoted(text)?;
        only_comment(rest)?;
        return Ok(value);
    }
    if text.starts_with('[') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(_)) | None => return Err("the list is not complete on this line".into()),
        };
        only_comment(&text[values.byte_offset()..])?;
        return Ok(value.to_string());
    }
    let end = text.find(" #").or_else(|| text.find("\t#")).unwrap_or(text.len());
    let value = if text.starts_with('#') { "" } else { text[..end].trim_end() };
    match value {
        "" => Err("the rule has no value; write \"\" or \"@\" to allow, \"!\" to deny".into()),
        "~" | "null" | "Null" | "NULL" => Err("null is not a check string; quote what is meant".into()),
        v if v.starts_with(|c: char| "@!&*{}]|>%`,-?".contains(c)) => {
            Err(format!("an unquoted value cannot start with {:?}; put it in quotes", v.chars().next().unwrap_or(' ')))
        }
        v if v.contains(": ") || v.ends_with(':') => Err("an unquoted value cannot hold ': '; put it in quotes".into()),
        v => Ok(v.to_owned()),
    }
}

fn only_comment(rest: &str) -> Result<(), String> {
    let trimmed = rest.trim_start();
    if trimmed.is_empty() || (trimmed.starts_with('#') && trimmed.len() < rest.len()) {
        Ok(())
    } else {
        Err(format!("unexpected {trimmed:?} after the value"))
    }
}

/// A quoted scalar at the start of `text`, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    let quote = chars.next().map_or('"', |(_, c)| c);
    while let Some((i, c)) = chars.next() {
        if c == quote {
            if quote == '\'' && text[i + 1..].starts_with('\'') {
                out.push('\'');
                chars.next();
                continue;
            }
            return Ok((out, &text[i + 1..]));
        }
        if c != '\\' || quote == '\'' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some((_, c @ ('"' | '\\' | '/' | ' '))) => c,
            Some((_, 'n')) => '\n',
            Some((_, 't')) => '\t',
            Some((_, other)) => return Err(format!("the escape \\{other} is not supported")),
            None => break,
        });
    }
    Err("a quoted text is not closed on its line".into())
}

fn parse_json(text: &str) -> Result<BTreeMap<String, String>, serde_json::Error> {
    struct Flat;
    impl<'de> Visitor<'de> for Flat {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one object of rule names and check strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            use serde::de::Error as _;
            let mut out = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                let check = match value {
                    Value::String(s) => s,
                    list @ Value::Array(_) => list.to_string(),
                    other => return Err(A::Error::custom(format!("rule {name:?} has the value {other}, not a check string"))),
                };
                if out.contains_key(&name) {
                    return Err(A::Error::custom(format!("rule {name:?} is given twice")));
                }
                out.insert(name, check);
            }
            Ok(out)
        }
    }
    let mut de = serde_json::Deserializer::from_str(text);
    let out = de.deserialize_map(Flat)?;
    de.end()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subset_is_read() {
        let text = "\u{feff}---\n# comment\n\n\"os_compute_api:servers:create\": \"rule:admin_api\" # why\n\
            os_compute_api:servers:index: role:reader and project_id:%(project_id)s\n\
            'single': 'it''s:%(x)s'\n\"esc\": \"\\\"public\\\":%(visibility)s\"\nallow: \"\"\n\
            old: [[\"role:admin\"], [\"role:a\", \"role:b\"]] # legacy\r\nplain: rule:x # c\n";
        let got = parse_overrides("p.yaml", text).unwrap();
        let want = [
            ("allow", ""),
            ("esc", "\"public\":%(visibility)s"),
            ("old", "[[\"role:admin\"],[\"role:a\",\"role:b\"]]"),
            ("os_compute_api:servers:create", "rule:admin_api"),
            ("os_compute_api:servers:index", "role:reader and project_id:%(project_id)s"),
            ("plain", "rule:x"),
            ("single", "it's:%(x)s"),
        ];
        assert_eq!(got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
        assert!(parse_overrides("p", "").unwrap().is_empty());
        assert!(parse_overrides("p", "{}").unwrap().is_empty());
        let json = parse_overrides("p", "{\"a\": \"role:x\",\n \"b\": [[\"@\"]]}").unwrap();
        assert_eq!((json["a"].as_str(), json["b"].as_str()), ("role:x", "[[\"@\"]]"));
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        for (text, line) in [
            ("a: \"x\"\nb:\n", "p:2:"),
            ("a: # comment\n", "p:1:"),
            ("a: @\n", "p:1:"),
            ("a: !\n", "p:1:"),
            ("a: !!str x\n", "p:1:"),
            ("a: ~\n", "p:1:"),
            ("a: null\n", "p:1:"),
            ("a: >-\n  role:x\n", "p:1:"),
            ("a: role:x\n  and role:y\n", "p:2:"),
            ("a: \"role:x\n", "p:1:"),
            ("a: \"role:x\" role:y\n", "p:1:"),
            ("a: \"role:x\"#c\n", "p:1:"),
            ("a: \"\\q\"\n", "p:1:"),
            ("a: \"\\", "p:1:"),
            ("a: [[\"x\"]\n", "p:1:"),
            ("a: b: c\n", "p:1:"),
            ("- a: b\n", "p:1:"),
            ("\"a\" \"b\"\n", "p:1:"),
            ("\"a\":b\n", "p:1:"),
            ("\"\": \"@\"\n", "p:1:"),
            ("just text\n", "p:1:"),
            ("a: x\n\n# c\n'a': y\n", "p:4:"),
            ("a: x\n---\nb: y\n", "p:2:"),
            ("&x a: b\n", "p:1:"),
            ("{\"a\": 1}", "line 1"),
            ("{\"a\": null}", "line 1"),
            ("{\"a\": \"x\",\n\"a\": \"y\"}", "line 2"),
            ("{\"a\": \"x\"} trailing", "line 1"),
            ("{\"a\": ", "line 1"),
        ] {
            let e = parse_overrides("p", text).expect_err(text);
            assert!(e.message.starts_with("p:") && e.message.contains(line), "{text:?} gave {}", e.message);
        }
    }

    #[test]
    fn large_and_odd_input_does_not_panic() {
        assert!(parse_overrides("p", &"x".repeat(MAX_FILE + 1)).is_err());
        assert!(parse_overrides("p", &"[".repeat(10_000)).is_err());
        assert!(parse_overrides("p", &format!("a: {}", "[".repeat(10_000))).is_err());
        assert!(parse_overrides("p", &format!("{{\"a\": {}", "[".repeat(10_000))).is_err());
        for text in ["\"", "'", ":", ": ", "é:", "é: é", "\"é\": 'é'", "\u{0}", "a: 'é''"] {
            let _ = parse_overrides("p", text);
        }
    }
}
