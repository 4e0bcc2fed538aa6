//! What a list of images asks for.

use super::attributes::VISIBILITIES;
use caelum_base::{Error, Result, Timestamp};
use caelum_rest::QueryParams;
use caelum_store::{Dir, Filter, Query, Value};

const DEFAULT_LIMIT: usize = 25;
const MAX_LIMIT: usize = 1_000;
const SORT_KEYS: [&str; 8] = ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"];
/// Values one `in:` filter may name.
const MAX_IN: usize = 500;

/// Who asks.
pub struct Asker<'a> {
    pub project_id: Option<&'a str>,
    pub admin: bool,
}

/// Reads the query string. `None` when a limit of zero was asked for.
pub fn query(q: &QueryParams, asker: &Asker<'_>) -> Result<Option<Query>> {
    let limit = match q.last("limit") {
        None => DEFAULT_LIMIT,
        Some(text) => {
            let n: i64 = text.trim().parse().map_err(|_| Error::invalid("limit param must be an integer"))?;
            usize::try_from(n).map_err(|_| Error::invalid("limit param must be positive"))?.min(MAX_LIMIT)
        }
    };
    let member_status = q.last("member_status").unwrap_or("accepted");
    if !["pending", "accepted", "rejected", "all"].contains(&member_status) {
        return Err(Error::invalid(format!("Invalid status: {member_status}")));
    }
    let mut out = Query { sort: sorting(q)?, marker: q.last("marker").map(String::from), ..Query::new() };
    visible(&mut out, q, asker, member_status)?;
    let mut hidden = false;
    for (key, value) in q.iter() {
        match key {
            "limit" | "marker" | "member_status" | "visibility" | "sort" | "sort_key" | "sort_dir" => {}
            "os_hidden" => hidden = boolean(key, value)?,
            "tag" => out = out.filter(facet("tag", value.trim(), None)),
            _ => out = out.filter(filter(key, value)?),
        }
    }
    Ok((limit > 0).then(|| out.eq("os_hidden", hidden).limit(limit)))
}

fn facet(kind: &'static str, name: &str, value: Option<&str>) -> Filter {
    let mut eq = vec![("kind", Value::from(kind)), ("name", name.into())];
    eq.extend(value.map(|v| ("value", v.into())));
    Filter::Exists { table: "image_facets", on: "image_id", eq }
}

/// Adds who may see what, and the `visibility` filter.
fn visible(out: &mut Query, q: &QueryParams, asker: &Asker<'_>, member_status: &str) -> Result<()> {
    let is = |v: &str| Filter::Eq("visibility", v.into());
    let own = asker.project_id.map(|p| Filter::Eq("owner", p.into()));
    if !asker.admin {
        let mut any = vec![is("public"), is("community")];
        if let Some(p) = asker.project_id {
            any.push(Filter::Eq("owner", p.into()));
            let status = Some(member_status).filter(|s| *s != "all");
            any.push(Filter::All(vec![is("shared"), facet("member", p, status)]));
        }
        out.filters.push(Filter::Any(any));
    }
    match q.last("visibility").filter(|v| !v.is_empty()) {
        Some("all") => {}
        Some(v) if VISIBILITIES.contains(&v) => out.filters.push(is(v)),
        Some(v) => return Err(Error::invalid(format!("Invalid visibility value: {v}"))),
        // Other projects' community images are shown only to those who ask for them.
        None => {
            let mut any = vec![Filter::Ne("visibility", "community".into())];
            any.extend(own);
            out.filters.push(Filter::Any(any));
        }
    }
    Ok(())
}

fn boolean(key: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid(format!("Invalid value '{value}' for '{key}' filter. Valid values are 'true' or 'false'."))),
    }
}

fn number(key: &str, value: &str) -> Result<Value> {
    let n: i64 = value.parse().map_err(|_| Error::invalid(format!("Unable to filter on '{key}' with a non-numeric value.")))?;
    Ok(n.into())
}

fn filter(key: &str, value: &str) -> Result<Filter> {
    let column = |names: &[&'static str], key: &str| names.iter().find(|n| **n == key).copied();
    if let Some(c) = column(&["name", "id", "status", "container_format", "disk_format"], key) {
        return match value.split_once(':') {
            None => Ok(Filter::Eq(c, value.into())),
            Some(("eq", v)) => Ok(Filter::Eq(c, v.into())),
            Some(("in", list)) => Ok(Filter::In(c, split_list(list)?.into_iter().map(Value::from).collect())),
            Some((op, _)) => Err(Error::invalid(format!("Unable to filter by unknown operator '{op}'."))),
        };
    }
    if let Some(c) = column(&["created_at", "updated_at"], key) {
        return time_filter(c, value);
    }
    if let Some(c) = column(&["owner", "checksum", "os_hash_value"], key) {
        return Ok(Filter::Eq(c, value.into()));
    }
    if let Some(c) = column(&["size", "min_disk", "min_ram"], key) {
        return Ok(Filter::Eq(c, number(key, value)?));
    }
    let ranged = |suffix: &str| key.strip_suffix(suffix).and_then(|k| column(&["size", "min_disk", "min_ram"], k));
    if let Some(c) = ranged("_min") {
        return Ok(Filter::Ge(c, number(key, value)?));
    }
    if let Some(c) = ranged("_max") {
        let max = number(key, value)?;
        // An unknown size is stored as −1 and is not below any bound.
        return Ok(if c == "size" { Filter::All(vec![Filter::Ge(c, 0.into()), Filter::Le(c, max)]) } else { Filter::Le(c, max) });
    }
    match key {
        "protected" => Ok(Filter::Eq("protected", boolean(key, value)?.into())),
        "changes-since" => Err(Error::invalid("The \"changes-since\" filter is no longer available on v2.")),
        _ => Ok(facet("property", key, Some(value))),
    }
}

fn time_filter(c: &'static str, value: &str) -> Result<Filter> {
    let (op, text) = match value.split_once(':') {
        Some((op, t)) if Timestamp::parse(value).is_none() => (op, t),
        _ => ("eq", value),
    };
    let at = Timestamp::parse(text)
        .ok_or_else(|| Error::invalid(format!("Bad \"{c}\" query filter format. Use ISO 8601 DateTime notation.")))?;
    // Users see whole seconds, so a second is what they compare with.
    let (start, end) = (Timestamp::from_secs(at.secs()), Timestamp::from_secs(at.secs() + 1));
    Ok(match op {
        "eq" => Filter::All(vec![Filter::Ge(c, start.into()), Filter::Lt(c, end.into())]),
        "neq" => Filter::Any(vec![Filter::Lt(c, start.into()), Filter::Ge(c, end.into())]),
        "gt" => Filter::Ge(c, end.into()),
        "gte" => Filter::Ge(c, start.into()),
        "lt" => Filter::Lt(c, start.into()),
        "lte" => Filter::Lt(c, end.into()),
        _ => return Err(Error::invalid(format!("Unable to filter using the specified operator: {op}"))),
    })
}

/// Splits `a,"b,c",d`.
fn split_list(text: &str) -> Result<Vec<String>> {
    let (mut out, mut now, mut quoted, mut chars) = (Vec::new(), String::new(), false, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => now.extend(chars.next()),
            ',' if !quoted => out.push(std::mem::take(&mut now)),
            c => now.push(c),
        }
    }
    out.push(now);
    if quoted || out.len() > MAX_IN {
        return Err(Error::invalid(format!("Invalid filter value {text}. The quote is not closed or there are too many values.")));
    }
    Ok(out)
}

fn sorting(q: &QueryParams) -> Result<Vec<(&'static str, Dir)>> {
    let key = |t: &str| {
        SORT_KEYS.iter().find(|k| **k == t.trim()).copied().ok_or_else(|| {
            Error::invalid(format!("Invalid sort key: {}. It must be one of the following: {}.", t.trim(), SORT_KEYS.join(", ")))
        })
    };
    let dir = |t: &str| Dir::parse(t.trim()).ok_or_else(|| Error::invalid(format!("Invalid sort direction: {}", t.trim())));
    if let Some(sort) = q.last("sort") {
        if q.has("sort_key") || q.has("sort_dir") {
            return Err(Error::invalid("Old and new sorting syntax cannot be combined"));
        }
        let pairs = sort.split(',').map(|part| match part.split_once(':') {
            Some((k, d)) => Ok((key(k)?, dir(d)?)),
            None => Ok((key(part)?, Dir::Desc)),
        });
        return pairs.collect();
    }
    let keys: Vec<_> = q.all("sort_key").map(key).collect::<Result<_>>()?;
    let dirs: Vec<_> = q.all("sort_dir").map(dir).collect::<Result<_>>()?;
    if dirs.len() > 1 && dirs.len() != keys.len() {
        return Err(Error::invalid("Number of sort dirs does not match the number of sort keys"));
    }
    let keys = if keys.is_empty() { vec!["created_at"] } else { keys };
    let default = dirs.first().copied().unwrap_or(Dir::Desc);
    Ok(keys.into_iter().enumerate().map(|(i, k)| (k, dirs.get(i).copied().unwrap_or(default))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_queries_are_refused() {
        let asker = Asker { project_id: Some("p"), admin: false };
        for bad in [
            "limit=x",
            "limit=-1",
            "sort=size:up",
            "sort=owner",
            "sort=name&sort_key=size",
            "sort_key=a",
            "sort_dir=x",
            "sort_key=name&sort_dir=asc&sort_dir=desc",
            "visibility=x",
            "member_status=x",
            "os_hidden=1",
            "size_min=a",
            "created_at=gt:x",
            "created_at=after:2020-01-01",
            "name=like:x",
            "name=in:\"a",
            "protected=maybe",
            "changes-since=x",
        ] {
            assert!(query(&QueryParams::parse(Some(bad)).unwrap(), &asker).is_err(), "{bad}");
        }
        for good in ["limit=0", "name=in:a,%22b,c%22", "created_at=2020-01-01T00:00:00Z", "sort=name,size:asc", "foo=bar", "size_max=3"] {
            assert!(query(&QueryParams::parse(Some(good)).unwrap(), &asker).is_ok(), "{good}");
        }
        assert_eq!(split_list("a,\"b,\\\"c\",d").unwrap(), ["a", "b,\"c", "d"]);
    }
}
