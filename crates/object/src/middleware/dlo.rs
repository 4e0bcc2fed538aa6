//! Dynamic large objects: `X-Object-Manifest: container/prefix` names segments by what a listing shows.
//!
//! Source: Swift's documentation, `overview_large_objects`.

use super::common::container_path;
use super::segments::{Fault, Fetch, ObjectPiece, Pace, Piece, Pieces, open_expired, segmented};
use crate::env::{Req, Resp, SwiftPath, quote};
use crate::http::{
    Conditions, Origin, Params, Source, conditional, content_length, drain, error, error_html, read_all, set, split_path, text,
    unquote_etag,
};
use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::Env;
use caelum_rest::HttpService;
use caelum_swiftkit::{LISTING_LIMIT, to_hex};
use futures_util::future::BoxFuture;
use http::{Method, StatusCode, header};
use md5::{Digest, Md5};
use serde::Deserialize;
use std::sync::Arc;

/// Bytes of one page of a listing that are read at most.
const MAX_PAGE: usize = 64 * 1024 * 1024;

/// The layer.
#[derive(Clone)]
pub struct Dlo {
    next: Arc<dyn HttpService>,
    env: Env,
    pace: Pace,
    /// Rows of a full page; a shorter page is the last.
    page: usize,
}

/// A row of a listing.
#[derive(Clone, Deserialize)]
struct Row {
    #[serde(default)]
    name: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    hash: String,
}

/// Where a manifest's segments are.
#[derive(Clone)]
struct Place {
    next: Arc<dyn HttpService>,
    origin: Origin,
    path: SwiftPath,
    container: String,
    prefix: String,
}

impl Place {
    /// A page of segments. Errors: the container's answer.
    async fn page(&self, marker: &str) -> Result<Vec<Row>, Resp> {
        let mut target = container_path(&self.path.version, &self.path.account, &self.container);
        target.push_str(&format!("?format=json&prefix={}", quote(&self.prefix)));
        if !marker.is_empty() {
            target.push_str(&format!("&marker={}", quote(marker)));
        }
        let resp = self.next.call(self.origin.request(Method::GET, &target, "DLO", "DLO MultipartGET")).await;
        if !resp.status().is_success() {
            return Err(resp);
        }
        let body = read_all(resp.into_body(), MAX_PAGE).await.ok_or_else(|| error(503))?;
        if body.is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&body).map_err(|_| error(503))
    }
}

struct DloPieces {
    place: Place,
    rows: std::vec::IntoIter<Row>,
    full: bool,
    page: usize,
    marker: String,
    /// Wanted bytes, counted from the next segment's first.
    first: i128,
    last: i128,
}

#[async_trait]
impl Pieces for DloPieces {
    async fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            if self.last < 0 {
                return Ok(None);
            }
            let Some(row) = self.rows.next() else {
                if !self.full {
                    return Ok(None);
                }
                let rows = self.place.page(&self.marker).await.map_err(|r| {
                    Fault::Broken(format!("status {} listing /{}/{}", r.status().as_u16(), self.place.path.account, self.place.container))
                })?;
                self.full = rows.len() >= self.page;
                self.rows = rows.into_iter();
                continue;
            };
            let length = i128::from(row.bytes);
            self.marker.clone_from(&row.name);
            let (first, last) = (self.first, self.last);
            self.first -= length;
            self.last -= length;
            if first >= length {
                continue;
            }
            let path = &self.place.path;
            let target = super::common::object_path(&path.version, &path.account, &self.place.container, &row.name);
            return Ok(Some(Piece::Object(ObjectPiece {
                path: target,
                // Only names count: a segment may have been replaced since the manifest was made.
                etag: None,
                bytes: None,
                first: u64::try_from(first.max(0)).unwrap_or(0),
                last: (last < length - 1).then(|| u64::try_from(last).unwrap_or(0)),
                limited: true,
            })));
        }
    }
}

impl Dlo {
    pub fn new(next: Arc<dyn HttpService>, env: Env, pace: Pace) -> Self {
        Self { next, env, pace, page: LISTING_LIMIT }
    }

    async fn handle(self, req: Req) -> Resp {
        let Some(path) = split_path(&req).filter(|p| p.object.is_some()) else { return self.next.call(req).await };
        match *req.method() {
            Method::GET | Method::HEAD if Params::of(&req).get("multipart-manifest") != Some("get") => self.get(req, path).await,
            Method::PUT => match check_manifest(&req) {
                Some(refusal) => refusal,
                None => self.next.call(req).await,
            },
            _ => self.next.call(req).await,
        }
    }

    async fn get(self, mut req: Req, path: SwiftPath) -> Resp {
        super::common::append_csv(req.headers_mut(), "x-backend-ignore-range-if-metadata-present", "X-Object-Manifest");
        let (cx, origin, expired) = (Conditions::of(&req), Origin::of(&req), open_expired(&req));
        let resp = self.next.call(req).await;
        let manifest = text(resp.headers(), "x-object-manifest").map(super::common::unquote);
        let Some((container, prefix)) = manifest.as_deref().and_then(|m| m.split_once('/')) else { return resp };
        let place = Place { next: self.next.clone(), origin, path, container: container.into(), prefix: prefix.into() };
        let (parts, body) = resp.into_parts();
        let resp = Resp::from_parts(parts, caelum_rest::empty());
        if content_length(&resp).is_some_and(|n| n < 1024) {
            drain(body).await;
        }
        self.whole(resp, place, cx, expired).await.unwrap_or_else(|r| r)
    }

    async fn whole(self, mut resp: Resp, place: Place, mut cx: Conditions, expired: Option<http::HeaderValue>) -> Result<Resp, Resp> {
        let head = cx.method == Method::HEAD;
        let rows = place.page("").await.map_err(|r| if head { without_body(r) } else { r })?;
        let complete = rows.len() < self.page;
        let total: u64 = rows.iter().fold(0, |n: u64, r| n.saturating_add(r.bytes));
        let range = cx.range.take().filter(|r| r.0.len() == 1);
        let (mut first, mut last, mut expect) = (0, i128::MAX, complete.then_some(total));
        let mut length = complete.then_some(total);
        if let Some(range) = range {
            let known = range.0.first().is_some_and(|r| matches!(r, (Some(_), Some(l)) if l + 1 < total));
            if complete || known {
                let Some(wanted) = range.for_length(total).first().copied() else {
                    let mut r = error(416);
                    set(r.headers_mut(), "accept-ranges", "bytes");
                    if complete {
                        set(r.headers_mut(), "content-range", format!("bytes */{total}"));
                    }
                    return Err(if head { without_body(r) } else { r });
                };
                (first, last) = (i128::from(wanted.0), i128::from(wanted.1) - 1);
                expect = Some(wanted.1 - wanted.0);
                length = Some(total);
                cx.range = Some(range);
            }
            // Else nobody can tell from one page whether there is such a range: all is sent.
        }
        let h = resp.headers_mut();
        h.remove(header::CONTENT_LENGTH);
        h.remove(header::CONTENT_RANGE);
        if let Some(n) = length {
            set(h, "content-length", n.to_string());
        }
        if complete {
            let mut md5 = Md5::new();
            rows.iter().for_each(|r| md5.update(unquote_etag(&r.hash)));
            set(h, "etag", format!("\"{}\"", to_hex(&md5.finalize())));
        }
        *resp.status_mut() = StatusCode::OK;
        if head {
            return Ok(conditional(&cx, resp, Source::Bytes(Bytes::new()), &self.env));
        }
        let fetch = Fetch {
            next: self.next.clone(),
            origin: place.origin.clone(),
            source: "DLO",
            agent: "DLO MultipartGET",
            open_expired: expired,
            name: place.path.encode(),
            pace: self.pace,
        };
        let pieces = DloPieces { place, rows: rows.into_iter(), full: !complete, page: self.page, marker: String::new(), first, last };
        let body = segmented(fetch, Box::new(pieces), expect).await.map_err(|f| f.response())?;
        Ok(conditional(&cx, resp, Source::Ranged(body), &self.env))
    }
}

fn without_body(mut resp: Resp) -> Resp {
    set(resp.headers_mut(), "content-length", "0");
    resp.map(|_| caelum_rest::empty())
}

fn check_manifest(req: &Req) -> Option<Resp> {
    let value = req.headers().get("x-object-manifest")?;
    let value = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    let good = value.split_once('/').is_some_and(|(container, prefix)| {
        !container.is_empty() && !prefix.is_empty() && !prefix.starts_with('/') && !value.contains(['?', '&'])
    });
    (!good).then(|| error_html(400, "X-Object-Manifest must be in the format container/prefix"))
}

impl HttpService for Dlo {
    fn call(&self, req: Req) -> BoxFuture<'static, Resp> {
        Box::pin(self.clone().handle(req))
    }
}

#[cfg(test)]
mod tests;
