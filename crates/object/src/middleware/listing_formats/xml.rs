//! Listings as XML, as ElementTree writes them.

use serde_json::{Map, Value};

type Row = Map<String, Value>;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // A parser would make a line feed of it.
            '\r' => out.push_str("&#13;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#09;"),
            c => out.push(c),
        }
    }
}

fn open(tag: &str, name: &str, out: &mut String) {
    out.push('<');
    out.push_str(tag);
    out.push_str(" name=\"");
    escape(name, true, out);
    out.push('"');
}

fn field(row: &Row, tag: &str, out: &mut String) -> Option<()> {
    let text = match row.get(tag)? {
        Value::String(s) => s.clone(),
        Value::Null => "None".into(),
        other => other.to_string(),
    };
    if text.is_empty() {
        out.push_str(&format!("<{tag} />"));
    } else {
        out.push_str(&format!("<{tag}>"));
        escape(&text, false, out);
        out.push_str(&format!("</{tag}>"));
    }
    Some(())
}

/// The containers of an account. `None` when a row lacks a field.
pub fn account(rows: &[Row], name: &str) -> Option<String> {
    let mut out = DECLARATION.to_string();
    open("account", name, &mut out);
    out.push_str(">\n");
    for row in rows {
        if let Some(subdir) = row.get("subdir") {
            open("subdir", subdir.as_str()?, &mut out);
            out.push_str(" />\n");
            continue;
        }
        out.push_str("<container>");
        for tag in ["name", "count", "bytes", "last_modified"] {
            field(row, tag, &mut out)?;
        }
        if row.contains_key("storage_policy") {
            field(row, "storage_policy", &mut out)?;
        }
        out.push_str("</container>\n");
    }
    out.push_str("</account>");
    Some(out)
}

/// The objects of a container. `None` when a row lacks a field.
pub fn container(rows: &[Row], name: &str) -> Option<String> {
    let mut out = DECLARATION.to_string();
    open("container", name, &mut out);
    if rows.is_empty() {
        out.push_str(" />");
        return Some(out);
    }
    out.push('>');
    for row in rows {
        if let Some(subdir) = row.get("subdir") {
            open("subdir", subdir.as_str()?, &mut out);
            out.push_str("><name>");
            escape(subdir.as_str()?, false, &mut out);
            out.push_str("</name></subdir>");
            continue;
        }
        out.push_str("<object>");
        for tag in ["name", "hash", "bytes", "content_type", "last_modified"] {
            field(row, tag, &mut out)?;
        }
        out.push_str("</object>");
    }
    out.push_str("</container>");
    Some(out)
}
