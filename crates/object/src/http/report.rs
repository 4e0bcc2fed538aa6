use serde_json::{Map, Value};

/// What bulk operations and heartbeats answer: facts and a list of (quoted name, status), as JSON, XML or text.
/// XML has no declaration. `root` names the outermost XML element.
pub fn report(content_type: &str, facts: &Map<String, Value>, errors: &[(String, String)], root: &str) -> String {
    if content_type == "application/json" {
        let mut all = facts.clone();
        let errors = errors.iter().map(|(n, s)| Value::from(vec![n.as_str(), s.as_str()])).collect();
        all.insert("Errors".into(), Value::Array(errors));
        return Value::Object(all).to_string();
    }
    let shown = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let mut keys: Vec<&String> = facts.keys().collect();
    keys.sort();
    let mut out = String::new();
    if content_type.ends_with("/xml") {
        out.push_str(&format!("<{root}>\n"));
        for key in keys {
            let tag = key.replace(' ', "_").to_lowercase();
            out.push_str(&format!("<{tag}>{}</{tag}>\n", escape(&shown(&facts[key]))));
        }
        out.push_str("<errors>\n");
        for (name, status) in errors {
            out.push_str(&format!("<object><name>{}</name><status>{}</status></object>\n", escape(name), escape(status)));
        }
        out.push_str(&format!("</errors>\n</{root}>\n"));
        return out;
    }
    for key in keys {
        out.push_str(&format!("{key}: {}\n", shown(&facts[key])));
    }
    out.push_str("Errors:\n");
    for (name, status) in errors {
        out.push_str(&format!("{name}, {status}\n"));
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
