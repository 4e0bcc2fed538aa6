//! Lists: filters, sorting, fields and paging, one mechanism for all resources.
//!
//! Filters and sort keys that are columns go to SQL with the page; any other attribute is compared
//! in memory, then the page is cut in memory too.

use super::View;
use crate::logic::State;
use crate::store::{Standard, tag_needle};
use caelum_base::{Error, Result, limits};
use caelum_rest::{Ctx, Reply};
use caelum_store::{Dir, Filter, Query, Record, Stored, Value as Sql};
use percent_encoding_lite::encode;
use serde_json::{Map, Value, json};

/// How a column's text form is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Absent is stored as an empty text.
    Bool,
    Int,
}

/// What can be listed by what.
pub struct Spec {
    pub singular: &'static str,
    pub plural: &'static str,
    /// Attribute, column, kind.
    pub columns: &'static [(&'static str, &'static str, Kind)],
    /// Other attributes that may be filtered by.
    pub others: &'static [&'static str],
    /// Filters the resource has already turned into SQL conditions.
    pub handled: &'static [&'static str],
}

/// Parsed list parameters.
struct Asked {
    filters: Vec<Filter>,
    /// Attribute and accepted values, to be compared in memory.
    rest: Vec<(String, Vec<String>)>,
    sort: Vec<(String, Dir)>,
    limit: Option<usize>,
    marker: Option<String>,
    reverse: bool,
}

const CONTROL: [&str; 6] = ["fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"];

fn bad(message: String) -> Error {
    Error::invalid(message).code("HTTPBadRequest")
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn column(spec: &Spec, attr: &str) -> Option<(&'static str, Kind)> {
    let attr = if attr == "tenant_id" { "project_id" } else { attr };
    spec.columns.iter().find(|(a, _, _)| *a == attr).map(|(_, c, k)| (*c, *k))
}

fn column_filter(attr: &str, col: &'static str, kind: Kind, values: &[String]) -> Result<Filter> {
    let read = |v: &String| -> Result<Sql> {
        Ok(match kind {
            Kind::Text => Sql::from(v.as_str()),
            Kind::Bool => Sql::from(truth(v).ok_or_else(|| bad(format!("Invalid input for {attr}: '{v}' is not a boolean.")))?),
            Kind::Int => Sql::Int(v.parse().map_err(|_| bad(format!("Invalid input for {attr}: '{v}' is not an integer.")))?),
        })
    };
    let values = values.iter().map(read).collect::<Result<Vec<Sql>>>()?;
    Ok(match values.as_slice() {
        [one] => Filter::Eq(col, one.clone()),
        _ => Filter::In(col, values),
    })
}

/// `tags` and its relatives.
fn tag_filter(key: &str, values: &[String]) -> Option<Filter> {
    let each: Vec<Filter> = values.iter().flat_map(|v| v.split(',')).map(|t| Filter::Contains("tags", tag_needle(t))).collect();
    match key {
        "tags" => Some(Filter::All(each)),
        "tags-any" => Some(Filter::Any(each)),
        _ => None,
    }
}

fn parse(cx: &Ctx<State>, spec: &Spec) -> Result<Asked> {
    let mut asked = Asked { filters: Vec::new(), rest: Vec::new(), sort: Vec::new(), limit: None, marker: None, reverse: false };
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for (k, v) in cx.query.iter().filter(|(k, _)| !CONTROL.contains(k) && !spec.handled.contains(k)) {
        match grouped.iter_mut().find(|(g, _)| g == k) {
            Some((_, vs)) => vs.push(v.to_string()),
            None => grouped.push((k.to_string(), vec![v.to_string()])),
        }
    }
    for (key, values) in grouped {
        if matches!(key.as_str(), "not-tags" | "not-tags-any") {
            asked.rest.push((key, values));
        } else if let Some(f) = tag_filter(&key, &values) {
            asked.filters.push(f);
        } else if let Some((col, kind)) = column(spec, &key) {
            asked.filters.push(column_filter(&key, col, kind, &values)?);
        } else if spec.others.contains(&key.as_str()) || key == "changed_since" {
            asked.rest.push((key, values));
        } else {
            return Err(bad(format!("['{key}'] is invalid attribute for filtering")));
        }
    }
    let dirs: Vec<&str> = cx.query.all("sort_dir").collect();
    for (i, key) in cx.query.all("sort_key").enumerate() {
        let dir = dirs.get(i).copied().unwrap_or("asc");
        let dir = Dir::parse(dir).ok_or_else(|| bad(format!("'{dir}' is not a valid sort direction")))?;
        if column(spec, key).is_none() && !spec.others.contains(&key) {
            return Err(bad(format!("'{key}' is an invalid attribute for sort keys")));
        }
        asked.sort.push((key.to_string(), dir));
    }
    asked.limit = match cx.query.get("limit") {
        None | Some("") => None,
        Some(t) => {
            let n: i64 = t.parse().map_err(|_| bad(format!("Limit must be an integer 0 or greater and not '{t}'")))?;
            let n = usize::try_from(n).map_err(|_| bad(format!("Limit must be an integer 0 or greater and not '{t}'")))?;
            Some(n).filter(|n| *n > 0).map(|n| n.min(limits::MAX_PAGE_ROWS))
        }
    };
    asked.marker = cx.query.get("marker").filter(|m| !m.is_empty()).map(String::from);
    asked.reverse = cx.query.get("page_reverse").and_then(truth).unwrap_or(false);
    Ok(asked)
}

fn scalar(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        v => v.to_string(),
    }
}

/// Whether a shown attribute has one of the values; a list has it when an item has.
fn matches(shown: Option<&Value>, values: &[String]) -> bool {
    let same = |v: &Value, text: &str| match v {
        Value::Bool(b) => truth(text) == Some(*b),
        v => scalar(v) == text,
    };
    values.iter().any(|text| match shown {
        Some(Value::Array(items)) => items.iter().any(|i| same(i, text)),
        Some(v) => same(v, text),
        None => text.is_empty(),
    })
}

fn keep<R: Standard>(row: &R, view: &View, rest: &[(String, Vec<String>)]) -> Result<bool> {
    for (key, values) in rest {
        let tags: Vec<&str> = values.iter().flat_map(|v| v.split(',')).collect();
        let has = |t: &&str| row.std().tags.iter().any(|x| x == t);
        let ok = match key.as_str() {
            "not-tags" => !tags.iter().all(has),
            "not-tags-any" => !tags.iter().any(has),
            "changed_since" => {
                let t = values.first().and_then(|v| caelum_base::Timestamp::parse(v));
                let t = t.ok_or_else(|| bad("changed_since is not a valid time".into()))?;
                row.std().updated_at.secs() >= t.secs()
            }
            _ => matches(view.get(key), values),
        };
        if !ok {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists what `visible` admits and the query asks for. `extra` are further SQL conditions a
/// resource derives from the query itself.
pub async fn list<R: Standard>(cx: &Ctx<State>, spec: &Spec, visible: Vec<Filter>, view: impl Fn(&R) -> View) -> Result<Reply> {
    let asked = parse(cx, spec)?;
    let mut q = Query::new();
    q.filters = visible;
    q.filters.extend(asked.filters.iter().cloned());
    let by_columns = asked.sort.iter().all(|(k, _)| column(spec, k).is_some());
    for (key, dir) in &asked.sort {
        if let Some((col, _)) = column(spec, key) {
            q = q.sort(col, *dir);
        }
    }
    let in_sql = asked.rest.is_empty() && by_columns;
    if in_sql {
        q.limit = asked.limit;
        q.marker = asked.marker.clone();
        q.reverse = asked.reverse;
    }
    let rows: Vec<Stored<R>> = cx.state.db.list(q).await?;
    let mut views: Vec<View> = Vec::with_capacity(rows.len());
    for row in &rows {
        let v = view(&row.value);
        if in_sql || keep(&row.value, &v, &asked.rest)? {
            views.push(v);
        }
    }
    if !in_sql {
        sort_views(&mut views, &asked.sort);
        views = page(views, &asked)?;
    }
    reply(cx, spec, views, &asked)
}

/// Lists things that are not stored records.
pub fn list_views(cx: &Ctx<State>, spec: &Spec, views: Vec<View>) -> Result<Reply> {
    let mut kept = Vec::new();
    let control = |k: &str| CONTROL.contains(&k);
    for v in views {
        let ok = cx.query.iter().filter(|(k, _)| !control(k)).all(|(k, _)| {
            // Upstream's database compares these without regard to case.
            let shown = v.get(k).map(|s| s.as_str().map_or_else(|| s.clone(), |t| Value::String(t.to_ascii_lowercase())));
            let values: Vec<String> = cx.query.all(k).map(str::to_ascii_lowercase).collect();
            matches(shown.as_ref(), &values)
        });
        if ok {
            kept.push(v);
        }
    }
    let empty = Spec { columns: &[], others: spec.others, handled: &[], singular: spec.singular, plural: spec.plural };
    let mut asked = Asked { filters: Vec::new(), rest: Vec::new(), sort: Vec::new(), limit: None, marker: None, reverse: false };
    asked.limit = cx.query.get("limit").and_then(|t| t.parse().ok()).filter(|n| *n > 0);
    asked.marker = cx.query.get("marker").map(String::from);
    let kept = page(kept, &asked)?;
    reply(cx, &empty, kept, &asked)
}

fn sort_views(views: &mut [View], keys: &[(String, Dir)]) {
    views.sort_by(|a, b| {
        for (k, d) in keys {
            let (x, y) = (a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null));
            let order = match (x.as_i64(), y.as_i64()) {
                (Some(x), Some(y)) => x.cmp(&y),
                _ => scalar(x).cmp(&scalar(y)),
            };
            let order = if *d == Dir::Desc { order.reverse() } else { order };
            if order.is_ne() {
                return order;
            }
        }
        scalar(a.get("id").unwrap_or(&Value::Null)).cmp(&scalar(b.get("id").unwrap_or(&Value::Null)))
    });
}

fn page(mut views: Vec<View>, asked: &Asked) -> Result<Vec<View>> {
    if asked.reverse {
        views.reverse();
    }
    if let Some(m) = &asked.marker {
        let at = views.iter().position(|v| v.get("id").and_then(Value::as_str) == Some(m));
        let at = at.ok_or_else(|| bad(format!("marker {m} could not be found")))?;
        views.drain(..=at);
    }
    if let Some(n) = asked.limit {
        views.truncate(n);
    }
    if asked.reverse {
        views.reverse();
    }
    Ok(views)
}

/// The attributes asked for by `fields`, or all.
pub fn pick(cx: &Ctx<State>, mut view: View) -> View {
    let fields: Vec<&str> = cx.query.all("fields").filter(|f| !f.is_empty()).collect();
    if !fields.is_empty() {
        view.retain(|k, _| fields.contains(&k.as_str()));
    }
    view
}

fn reply(cx: &Ctx<State>, spec: &Spec, views: Vec<View>, asked: &Asked) -> Result<Reply> {
    let mut body = Map::new();
    if let Some(limit) = asked.limit {
        let links = links(cx, &views, limit, asked.reverse);
        if !links.is_empty() {
            body.insert(format!("{}_links", spec.plural), Value::Array(links));
        }
    }
    let views: Vec<Value> = views.into_iter().map(|v| Value::Object(pick(cx, v))).collect();
    body.insert(spec.plural.to_string(), Value::Array(views));
    Reply::ok(&body)
}

fn links(cx: &Ctx<State>, views: &[View], limit: usize, reverse: bool) -> Vec<Value> {
    let id = |v: Option<&View>| v.and_then(|v| v.get("id")).and_then(Value::as_str).map(String::from);
    let url = |marker: Option<String>, back: bool| {
        let mut out = format!("{}{}?", cx.base_url, cx.path);
        for (k, v) in cx.query.iter().filter(|(k, _)| !matches!(*k, "marker" | "page_reverse")) {
            out.push_str(&format!("{}={}&", encode(k), encode(v)));
        }
        if let Some(m) = marker {
            out.push_str(&format!("marker={}&", encode(&m)));
        }
        if back {
            out.push_str("page_reverse=True&");
        }
        out.pop();
        out
    };
    let mut out = Vec::new();
    if views.len() >= limit || reverse {
        out.push(json!({"rel": "next", "href": url(id(views.last()), false)}));
    }
    if views.len() >= limit || !reverse {
        out.push(json!({"rel": "previous", "href": url(id(views.first()), true)}));
    }
    out
}

/// Percent-encoding of query parts.
mod percent_encoding_lite {
    pub fn encode(text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for b in text.bytes() {
            if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }
}

/// A record that is not [`Standard`] lists through its own view only.
pub async fn rows<R: Record>(cx: &Ctx<State>, filters: Vec<Filter>) -> Result<Vec<Stored<R>>> {
    let mut q = Query::new();
    q.filters = filters;
    cx.state.db.list(q).await
}
