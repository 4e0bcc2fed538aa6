//! What all lists have in common: paging, sorting, tenants, links.

use crate::State;
use caelum_base::{Error, Result, limits};
use caelum_policy::Target;
use caelum_rest::{Ctx, QueryParams, next_link};
use caelum_store::{Dir, Query};
use serde_json::{Value, json};

/// API names of sort keys with their columns.
pub type SortKeys = &'static [(&'static str, &'static str)];

/// How many rows, from where.
#[derive(Clone, Debug)]
pub struct Paging {
    /// Rows on a page.
    pub limit: usize,
    pub explicit: bool,
    pub offset: Option<usize>,
    pub marker: Option<String>,
    pub sort: Vec<(&'static str, Dir)>,
}

impl Paging {
    /// Errors: `Invalid` for numbers that are none, unknown sort keys and directions.
    pub fn read(q: &QueryParams, keys: SortKeys) -> Result<Self> {
        let number = |name: &str| -> Result<Option<usize>> {
            match q.get(name) {
                None | Some("") => Ok(None),
                Some(text) => match text.parse::<i64>().ok().and_then(|n| usize::try_from(n).ok()) {
                    Some(n) if i64::try_from(n).is_ok_and(|n| n <= i64::from(i32::MAX)) => Ok(Some(n)),
                    _ => Err(Error::invalid(format!(
                        "Invalid input for query parameters {name}. Value: {text}. It must be a non-negative integer."
                    ))),
                },
            }
        };
        let asked = number("limit")?;
        Ok(Self {
            limit: asked.unwrap_or(limits::MAX_PAGE_ROWS).min(limits::MAX_PAGE_ROWS),
            explicit: asked.is_some(),
            offset: number("offset")?,
            marker: q.get("marker").filter(|m| !m.is_empty()).map(String::from),
            sort: sort(q, keys)?,
        })
    }

    pub fn query(&self) -> Query {
        Query { sort: self.sort.clone(), marker: self.marker.clone(), limit: Some(self.limit), offset: self.offset, ..Query::new() }
    }

    /// Takes a page out of rows that were filtered in memory.
    pub fn cut<T>(&self, rows: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
        let at = self.marker.as_deref().and_then(|m| rows.iter().position(|r| id(r) == m)).map_or(0, |i| i + 1);
        rows.into_iter().skip(at + self.offset.unwrap_or(0)).take(self.limit).collect()
    }
}

fn sort(q: &QueryParams, keys: SortKeys) -> Result<Vec<(&'static str, Dir)>> {
    let column = |key: &str| {
        let found = keys.iter().find(|(k, _)| *k == key).map(|(_, c)| *c);
        found.ok_or_else(|| Error::invalid(format!("Invalid input received: Sort key {key} is invalid.")))
    };
    let dir = |text: &str| {
        Dir::parse(text)
            .ok_or_else(|| Error::invalid(format!("Invalid input received: Unknown sort direction {text}, must be one of asc, desc.")))
    };
    let mut out = Vec::new();
    if let Some(text) = q.get("sort") {
        if q.has("sort_key") || q.has("sort_dir") {
            return Err(Error::invalid(
                "The \"sort_key\" and \"sort_dir\" parameters are deprecated and cannot be used with the \"sort\" parameter.",
            ));
        }
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, d) = part.split_once(':').unwrap_or((part, "desc"));
            out.push((column(key.trim())?, dir(d.trim())?));
        }
    } else {
        let d = q.get("sort_dir").map_or(Ok(Dir::Desc), |t| dir(t.trim()))?;
        out.push((column(q.get("sort_key").unwrap_or("created_at").trim())?, d));
    }
    Ok(out)
}

/// The project whose rows are listed; `None` for all. Only those `rule` admits see others.
pub fn tenant(cx: &Ctx<State>, rule: &str) -> Result<Option<String>> {
    let own = cx.auth().project_id()?.to_string();
    let all =
        cx.query.get("all_tenants").is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false" | "f" | "no" | "off" | "n"));
    if let Some(v) = cx.query.get("all_tenants")
        && !v.is_empty()
        && cx.query.bool("all_tenants").is_none()
    {
        return Err(Error::invalid(format!("Invalid value '{v}' for all_tenants.")));
    }
    if !all || !cx.allows(rule, &Target::new()) {
        return Ok(Some(own));
    }
    Ok(cx.query.get("project_id").filter(|p| !p.is_empty()).map(String::from))
}

/// `http://host/volume/v3/<project>`, where this request's resources are.
pub fn home(cx: &Ctx<State>) -> String {
    format!("{}/v3/{}", cx.base_url, cx.auth().creds.project_id.as_deref().unwrap_or(""))
}

/// `links` of a resource.
pub fn links(cx: &Ctx<State>, collection: &str, id: &str) -> Value {
    let project = cx.auth().creds.project_id.as_deref().unwrap_or("");
    json!([
        {"rel": "self", "href": format!("{}/{collection}/{id}", home(cx))},
        {"rel": "bookmark", "href": format!("{}/{project}/{collection}/{id}", cx.base_url)},
    ])
}

/// The body of a list, with the next page's link when this one is full.
pub fn page(cx: &Ctx<State>, key: &str, items: Vec<Value>, last: Option<String>, paging: &Paging, count: Option<i64>) -> Value {
    let full = items.len() >= paging.limit && paging.limit > 0;
    let mut body = json!({key: items});
    if let Some(last) = last.filter(|_| full) {
        let below = cx.path.strip_prefix("/v3").unwrap_or(&cx.path);
        // Exactly the URL the client came by, which names its project or does not.
        let project = cx.url_project.as_ref().map(|p| format!("/{p}")).unwrap_or_default();
        let href = next_link(&format!("{}/v3{project}{below}", cx.base_url), &cx.query, &last);
        body[format!("{key}_links")] = json!([{"rel": "next", "href": href}]);
    }
    if let Some(n) = count {
        body["count"] = json!(n);
    }
    body
}

/// Whether the caller wants the number of all matches (3.45).
pub fn with_count(cx: &Ctx<State>) -> bool {
    cx.version >= caelum_rest::Version(3, 45) && cx.query.bool("with_count") == Some(true)
}

/// An unknown marker is a resource that is not found.
pub fn marker_missing(what: &str, marker: Option<&str>) -> impl FnOnce(Error) -> Error {
    let text = format!("{what} {} could not be found.", marker.unwrap_or(""));
    move |e| if e.code == "marker" { Error::not_found(text) } else { e }
}

/// `{'key': 'value'}` or JSON, as clients write metadata filters.
pub fn metadata_filter(text: &str) -> Option<crate::store::Metadata> {
    serde_json::from_str(text)
        .ok()
        .or_else(|| serde_json::from_str(&text.replace('\'', "\"").replace(": u\"", ": \"").replace("{u\"", "{\"")).ok())
}
