//! Lists: filters, order, pages, links.

use super::fields::Cx;
use caelum_base::{Error, Result};
use caelum_rest::{Page, Reply, next_link};
use caelum_store::{Filter, Query, Record};
use serde_json::{Value, json};

/// Where links begin: the URL the client used.
pub fn base(cx: &Cx) -> &str {
    if cx.base_url.is_empty() { &cx.state.public_url } else { &cx.base_url }
}

/// `http://host/identity/v3/<path>`
pub fn url(cx: &Cx, path: &str) -> String {
    format!("{}/v3/{path}", base(cx))
}

/// Records whose columns equal the query parameters of the same name.
pub async fn load<R: Record>(cx: &Cx, columns: &[(&str, &'static str)], fixed: Vec<Filter>) -> Result<Vec<R>> {
    let mut q = Query { filters: fixed, ..Query::default() };
    for (param, column) in columns {
        let Some(v) = cx.query.get(param) else { continue };
        q = match cx.query.bool(param) {
            Some(b) if *param == "enabled" || *param == "is_domain" => q.eq(column, b),
            _ => q.eq(column, v),
        };
    }
    Ok(cx.state.db.list::<R>(q).await?.into_iter().map(|r| r.value).collect())
}

const COMPARATORS: [&str; 6] = ["contains", "icontains", "startswith", "istartswith", "endswith", "iendswith"];

/// Whether a view fits the `attribute=value` and `attribute__comparator=value` parameters.
fn fits(view: &Value, attribute: &str, comparator: Option<&str>, wanted: &str) -> bool {
    let Some(have) = view.get(attribute) else { return false };
    match (have, comparator) {
        (Value::Bool(b), None) => !matches!(wanted.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off" | "f" | "n") == *b,
        (Value::Null, _) => wanted.is_empty() || wanted == "None" || wanted == "null",
        (Value::String(s), None) => s == wanted,
        (Value::String(s), Some(c)) => {
            let (s, w) = if c.starts_with('i') { (s.to_lowercase(), wanted.to_lowercase()) } else { (s.clone(), wanted.to_string()) };
            match c {
                "contains" | "icontains" => s.contains(&w),
                "startswith" | "istartswith" => s.starts_with(&w),
                _ => s.ends_with(&w),
            }
        }
        (Value::Number(n), None) => n.to_string().as_str() == wanted,
        _ => false,
    }
}

/// The answer to a list request: `views` filtered by the parameters named in `attributes`, cut to a
/// page, with links.
pub fn reply(cx: &Cx, key: &str, views: Vec<Value>, attributes: &[&str]) -> Result<Reply> {
    let mut rows = views;
    for (k, v) in cx.query.iter() {
        let (attribute, comparator) = match k.split_once("__") {
            Some((a, c)) if COMPARATORS.contains(&c) => (a, Some(c)),
            Some(_) => continue,
            None => (k, None),
        };
        if attributes.contains(&attribute) {
            rows.retain(|row| fits(row, attribute, comparator, v));
        }
    }
    page(cx, key, rows)
}

/// A page of rows that are filtered already.
pub fn page(cx: &Cx, key: &str, mut rows: Vec<Value>) -> Result<Reply> {
    let here = format!("{}{}", base(cx), cx.path);
    let mut self_link = here.clone();
    if !cx.query.is_empty() {
        let q: Vec<String> = cx.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self_link = format!("{here}?{}", q.join("&"));
    }
    let page = Page::from_query(&cx.query, 1_000)?;
    let id = |row: &Value| row.get("id").and_then(Value::as_str).unwrap_or_default().to_string();
    if let Some(marker) = &page.marker {
        let at = rows.iter().position(|r| id(r) == *marker);
        let at = at.ok_or_else(|| Error::invalid(format!("Marker could not be found: {marker}")))?;
        rows.drain(..=at);
    }
    let more = rows.len() > page.limit;
    rows.truncate(page.limit);
    let next = rows.last().filter(|_| more).map(|last| next_link(&here, &cx.query, &id(last)));
    let mut body = json!({key: rows, "links": {"next": next, "previous": null, "self": self_link}});
    if more {
        body["truncated"] = json!(true);
    }
    Reply::ok(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparators_and_booleans() {
        let v = json!({"name": "Alpha", "enabled": true, "x": null});
        for (a, c, w, want) in [
            ("name", None, "Alpha", true),
            ("name", None, "alpha", false),
            ("name", Some("icontains"), "LPH", true),
            ("name", Some("startswith"), "Al", true),
            ("name", Some("endswith"), "Al", false),
            ("enabled", None, "True", true),
            ("enabled", None, "false", false),
            ("missing", None, "x", false),
        ] {
            assert_eq!(fits(&v, a, c, w), want, "{a} {c:?} {w}");
        }
    }
}
