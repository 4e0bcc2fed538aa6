//! `?versions`: all versions of a container's objects in one listing.

use super::account::{limit_of, sorted};
use super::names::{RESERVED, parse_version, reserved_name, split_reserved, version_object};
use super::{Context, DELETE_MARKER, Inner, done, info_of};
use crate::env::{Req, Resp, SwiftPath};
use crate::http::{ListingAsIs, Params, best_match, error, error_html, read_all, text};
use crate::middleware::common::{MAX_LISTING_BYTES, allow_reserved, container_path, with_json};
use caelum_swiftkit::Timestamp;
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is needed of the request once it has gone on.
pub(super) struct Request {
    params: Params,
    accept: Option<String>,
}

impl Request {
    pub fn of(req: &Req) -> Self {
        Self { params: Params::of(req), accept: text(req.headers(), "accept").map(str::to_string) }
    }

    pub fn versions(&self) -> bool {
        self.params.has("versions")
    }
}

/// The user's marker as one in the hidden container. Errors: 400.
fn marker(params: &Params) -> Result<Option<String>, Resp> {
    let Some(marker) = params.get("marker") else {
        return match params.has("version_marker") {
            true => Err(error_html(400, "version_marker param requires marker")),
            false => Ok(None),
        };
    };
    let bad = || error_html(400, "Invalid reserved-namespace marker");
    let all = reserved_name(&[marker, ""]).ok_or_else(bad)?;
    Ok(Some(match params.get("version_marker") {
        // After every time there is; before every one.
        None => format!("{all}:"),
        Some("null") => all,
        Some(version) => {
            let version = Timestamp::parse(version).ok_or_else(|| error_html(400, "invalid version_marker param"))?;
            version_object(marker, version).ok_or_else(bad)?
        }
    }))
}

fn field(row: &Value, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_string()
}

/// What the container itself shows, sorted by kind.
#[derive(Default)]
struct Primary {
    /// Written while versioning was off.
    plain: Vec<Value>,
    subdirs: BTreeSet<String>,
    /// Links to versions, by the version's name.
    current: BTreeMap<String, Value>,
    /// Names whose latest version is known.
    latest: BTreeSet<String>,
}

impl Primary {
    fn of(rows: Vec<Value>) -> Self {
        let mut out = Self::default();
        for mut row in rows {
            if row.get("name").is_none() {
                out.subdirs.insert(field(&row, "subdir"));
            } else if row.get("version_symlink").is_some() {
                let target = SwiftPath::parse(&field(&row, "symlink_path")).and_then(|p| p.object);
                out.current.insert(target.unwrap_or_default(), row);
            } else {
                row["version_id"] = "null".into();
                row["is_latest"] = true.into();
                out.latest.insert(field(&row, "name"));
                out.plain.push(row);
            }
        }
        out
    }

    /// A row of the hidden container as the user sees it.
    fn version(&mut self, mut row: Value) -> Option<Value> {
        let full = field(&row, "name");
        let (name, id) = parse_version(&full)?;
        let linked = self.current.remove(&full).is_some();
        let deleted = field(&row, "content_type") == DELETE_MARKER && !self.latest.contains(name);
        if linked || deleted {
            self.latest.insert(name.to_string());
        }
        row["is_latest"] = (linked || deleted).into();
        row["name"] = name.into();
        row["version_id"] = id.into();
        Some(row)
    }

    /// Links to versions that are not there.
    fn broken(&mut self) -> Vec<Value> {
        let mut out = Vec::new();
        for (target, row) in std::mem::take(&mut self.current) {
            let Some((name, id)) = parse_version(&target) else { continue };
            let is_latest = self.latest.insert(name.to_string());
            out.push(json!({
                "name": name,
                "is_latest": is_latest,
                "version_id": id,
                "content_type": row.get("content_type"),
                "bytes": row.get("bytes"),
                "hash": row.get("hash"),
                "last_modified": row.get("last_modified"),
            }));
        }
        out
    }
}

/// The hidden container's page. `Ok(None)`: there is no such container. Errors: its answer.
async fn hidden(
    layer: &Inner,
    cx: &Context,
    path: &SwiftPath,
    location: &str,
    params: &Params,
    marker: Option<String>,
) -> Result<Option<Vec<Value>>, Resp> {
    let info = info_of(&*layer.info, cx.own.environ.clone(), &path.account, location).await;
    if info.status == 404 {
        // Cheaper to know than to ask for: a missing container is looked for everywhere.
        return Ok(None);
    }
    let mut ours = Params::default();
    ours.set("format", "json");
    if let Some(prefix) = params.get("prefix") {
        ours.set("prefix", reserved_name(&[prefix]).unwrap_or_default());
    }
    if let Some(m) = marker {
        ours.set("marker", m);
    }
    for name in ["limit", "delimiter", "reverse"] {
        if let Some(v) = params.get(name) {
            ours.set(name, v);
        }
    }
    let target = format!("{}?{}", container_path("v1", &path.account, location), ours.encode());
    let mut req = cx.request(Method::GET, &target);
    allow_reserved(&mut req);
    let resp = cx.call(req).await;
    match resp.status().as_u16() {
        404 => {
            done(resp).await;
            Ok(None)
        }
        200..=299 => {
            let body = read_all(resp.into_body(), MAX_LISTING_BYTES).await.ok_or_else(|| error(503))?;
            if body.is_empty() {
                return Ok(Some(Vec::new()));
            }
            serde_json::from_slice(&body).map(Some).map_err(|_| error(503))
        }
        _ => Err(resp),
    }
}

pub(super) async fn list(
    layer: &Inner,
    cx: &Context,
    mut resp: Resp,
    path: &SwiftPath,
    location: &str,
    rows: Vec<Value>,
    request: Request,
) -> Result<Resp, Resp> {
    let params = &request.params;
    if best_match(request.accept.as_deref(), &["application/json"]) != Ok(Some("application/json")) {
        return Err(error(406));
    }
    let marker = marker(params)?;
    let delimiter = params.get("delimiter").unwrap_or_default();
    if delimiter.contains(|c: char| c.is_ascii_digit() || c == '.' || c == RESERVED) {
        return Err(error_html(400, "invalid delimiter param"));
    }
    let mut primary = Primary::of(rows);
    let mut all = Vec::new();
    for row in hidden(layer, cx, path, location, params, marker).await?.unwrap_or_default() {
        if row.get("name").is_some() {
            all.extend(primary.version(row));
        } else if let Some(subdir) = split_reserved(&field(&row, "subdir")).and_then(|p| p.first().map(|s| (*s).to_string())) {
            primary.subdirs.insert(subdir);
        }
    }
    let broken = primary.broken();
    let subdirs = primary.subdirs.iter().map(|s| json!({"subdir": s}));
    let rows = primary.plain.iter().cloned().chain(all).chain(subdirs).chain(broken).collect();
    let limit = limit_of(params)?;
    resp.extensions_mut().insert(ListingAsIs);
    Ok(with_json(resp, &sorted(rows, params.is_true("reverse"), limit)))
}
