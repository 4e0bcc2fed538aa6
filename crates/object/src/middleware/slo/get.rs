//! Reading a large object or its manifest.

use super::manifest::{MAX_STORED, Segment, etag_and_size, parse_stored, raw_form};
use super::pieces::SloPieces;
use super::{Inner, SYSMETA_ETAG, SYSMETA_SIZE};
use crate::env::{Req, Resp, SwiftPath, quote};
use crate::http::{
    Conditions, Origin, Params, Ranges, Source, conditional, drain, error, error_html, is_true, read_all, set, text, unquote_etag,
};
use crate::middleware::common::append_csv;
use crate::middleware::segments::{Fetch, open_expired, segmented};
use bytes::Bytes;
use caelum_swiftkit::{Timestamp, md5_hex};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// What a response's headers say about the large object behind it.
struct Attributes {
    is_slo: bool,
    timestamp: Timestamp,
    /// Of the manifest as stored.
    manifest_etag: String,
    /// Etag and length of the whole, where the manifest was stored with them.
    whole: Option<(String, u64)>,
}

impl Attributes {
    fn of(h: &HeaderMap) -> Self {
        let etag = text(h, SYSMETA_ETAG).filter(|e| !e.is_empty());
        let size = text(h, SYSMETA_SIZE).and_then(|s| s.parse().ok());
        Self {
            is_slo: is_true(h, "x-static-large-object"),
            timestamp: text(h, "x-backend-timestamp").and_then(Timestamp::parse).unwrap_or(Timestamp::ZERO),
            manifest_etag: text(h, "etag").map(unquote_etag).unwrap_or_default().to_string(),
            whole: etag.map(str::to_string).zip(size),
        }
    }
}

/// The part that a `part-number` asks for.
///
/// Errors: 400 for a number that is none, or together with a range.
fn part_number(params: &Params, cx: &Conditions) -> Result<Option<usize>, Resp> {
    let Some(value) = params.get("part-number") else { return Ok(None) };
    match value.trim().parse::<i64>() {
        Ok(n) if n > 0 && cx.range.is_some() => Err(error_html(400, "Range requests are not supported with part number queries")),
        Ok(n) if n > 0 => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
        _ => Err(error_html(400, "Part number must be an integer greater than 0")),
    }
}

/// Whether the range that came is all there is of the manifest.
fn is_complete(h: &HeaderMap) -> bool {
    let parts = || {
        let (range, length) = text(h, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, length.parse::<u64>().ok()?))
    };
    parts().is_some_and(|(first, last, length)| first == 0 && last + 1 == length)
}

/// Whether the segments are needed, and whether the manifest must be asked for again to have them.
fn needs(cx: &Conditions, resp: &Resp, modern: bool, part: bool) -> (bool, bool) {
    if cx.method == Method::HEAD {
        let needed = !modern || part;
        return (needed, needed);
    }
    match resp.status().as_u16() {
        // Conditions that were decided by the etag of the whole stand; by the manifest's, they say nothing.
        304 | 412 => (!modern, !modern),
        416 => (true, true),
        206 => (true, !is_complete(resp.headers())),
        _ => (true, false),
    }
}

/// One request's way through.
struct Get<'a> {
    slo: &'a Inner,
    path: &'a SwiftPath,
    cx: Conditions,
    params: Params,
    origin: Origin,
    open_expired: Option<HeaderValue>,
    target: String,
}

pub(super) async fn get(slo: &Inner, mut req: Req, path: &SwiftPath) -> Resp {
    let params = Params::of(&req);
    let is_manifest = params.get("multipart-manifest") == Some("get");
    if !is_manifest {
        // The storage server compares conditions with the etag of the whole, and sends a manifest whole.
        append_csv(req.headers_mut(), "x-backend-etag-is-at", SYSMETA_ETAG);
        append_csv(req.headers_mut(), "x-backend-ignore-range-if-metadata-present", "X-Static-Large-Object");
    }
    let target = req.uri().path_and_query().map(|p| p.as_str().to_string()).unwrap_or_default();
    let get = Get { slo, path, cx: Conditions::of(&req), params, origin: Origin::of(&req), open_expired: open_expired(&req), target };
    let resp = slo.next.call(req).await;
    let attributes = Attributes::of(resp.headers());
    if !attributes.is_slo {
        return resp;
    }
    if is_manifest {
        return get.manifest(resp).await;
    }
    get.whole(resp, attributes).await.unwrap_or_else(|refusal| refusal)
}

impl Get<'_> {
    /// The manifest itself, as stored or as a client would send it.
    async fn manifest(&self, mut resp: Resp) -> Resp {
        if self.params.get("format") != Some("raw") {
            set(resp.headers_mut(), "content-type", "application/json; charset=utf-8");
            return resp;
        }
        if !resp.status().is_success() || self.cx.method == Method::HEAD {
            return resp;
        }
        let (parts, body) = resp.into_parts();
        let Some(body) = read_all(body, MAX_STORED).await else { return error(503) };
        let raw = match raw_form(&body) {
            Ok(v) => caelum_swiftkit::python::json_string(&v),
            Err(refusal) => return refusal,
        };
        let mut resp = Resp::from_parts(parts, caelum_rest::empty());
        set(resp.headers_mut(), "content-length", raw.len().to_string());
        set(resp.headers_mut(), "etag", md5_hex(raw.as_bytes()));
        conditional(&self.cx, resp, Source::Whole(caelum_rest::full(raw)), &self.slo.env)
    }

    async fn refetch(&self, resp: Resp, old: &Attributes) -> Result<(Resp, Attributes), Resp> {
        drain(resp.into_body()).await;
        let mut req = self.origin.request(Method::GET, &self.target, "SLO", "SLO MultipartGET");
        if let Some(v) = &self.open_expired {
            req.headers_mut().insert("x-open-expired", v.clone());
        }
        let resp = self.slo.next.call(req).await;
        let new = Attributes::of(resp.headers());
        // Newer data said that it is a manifest; an older answer that it is none cannot be trusted.
        if new.timestamp < old.timestamp && !new.is_slo {
            return Err(error(503));
        }
        Ok((resp, new))
    }

    async fn whole(self, mut resp: Resp, mut attributes: Attributes) -> Result<Resp, Resp> {
        let part = part_number(&self.params, &self.cx)?;
        let (needed, again) = needs(&self.cx, &resp, attributes.whole.is_some(), part.is_some());
        if again {
            (resp, attributes) = self.refetch(resp, &attributes).await?;
            if !attributes.is_slo {
                if resp.status() != StatusCode::OK {
                    return Ok(resp);
                }
                let (parts, body) = resp.into_parts();
                let resp = Resp::from_parts(parts, caelum_rest::empty());
                return Ok(conditional(&self.cx, resp, Source::Whole(body), &self.slo.env));
            }
        }
        let (mut parts, body) = resp.into_parts();
        parts.headers.remove("content-range");
        set(&mut parts.headers, "x-manifest-etag", &attributes.manifest_etag);
        let resp = |etag: &str, size: u64| {
            let mut r = Resp::from_parts(parts, caelum_rest::empty());
            set(r.headers_mut(), "etag", format!("\"{etag}\""));
            set(r.headers_mut(), "content-length", size.to_string());
            r
        };
        if !needed {
            drain(body).await;
            let (etag, size) = attributes.whole.unwrap_or_default();
            let mut r = resp(&etag, size);
            if matches!(r.status().as_u16(), 304 | 412) {
                set(r.headers_mut(), "content-length", "0");
                return Ok(r);
            }
            return Ok(conditional(&self.cx, r, Source::Bytes(Bytes::new()), &self.slo.env));
        }
        let body = read_all(body, MAX_STORED).await.ok_or_else(|| error(503))?;
        let segments = parse_stored(&body)?;
        let (etag, size) = match attributes.whole {
            Some(known) => known,
            None => {
                let (etag, size) = etag_and_size(&segments);
                (etag, size.ok_or_else(|| error(500))?)
            }
        };
        let mut resp = resp(&etag, size);
        *resp.status_mut() = StatusCode::OK;
        match part {
            Some(n) => self.part(resp, segments, n, size).await,
            None => {
                let range = self.cx.range.clone();
                self.content(resp, segments, range, size).await
            }
        }
    }

    async fn part(self, mut resp: Resp, segments: Vec<Segment>, part: usize, size: u64) -> Result<Resp, Resp> {
        let head = self.cx.method == Method::HEAD;
        set(resp.headers_mut(), "x-parts-count", segments.len().to_string());
        let Some(segment) = segments.get(part - 1) else {
            let body: &[u8] = if head { b"" } else { b"The requested part number is not satisfiable" };
            *resp.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            set(resp.headers_mut(), "content-range", format!("bytes */{size}"));
            set(resp.headers_mut(), "content-length", body.len().to_string());
            return Ok(resp.map(|_| caelum_rest::full(body)));
        };
        let start: u64 = segments[..part - 1].iter().map(|s| s.length).sum();
        let length = segment.length;
        if head || length == 0 {
            if let Some(status) = self.cx.unmet(resp.status(), resp.headers()) {
                *resp.status_mut() = status;
                set(resp.headers_mut(), "content-length", "0");
                return Ok(resp);
            }
            *resp.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(resp.headers_mut(), "content-length", length.to_string());
            // As upstream writes it, also for a last part that is empty.
            let last = i128::from(start) + i128::from(length) - 1;
            set(resp.headers_mut(), "content-range", format!("bytes {start}-{last}/{size}"));
            return Ok(resp);
        }
        let range = Ranges(vec![(Some(start), Some(start + length - 1))]);
        self.content(resp, segments, Some(range), size).await
    }

    /// The segments' bytes.
    async fn content(mut self, resp: Resp, segments: Vec<Segment>, range: Option<Ranges>, size: u64) -> Result<Resp, Resp> {
        if self.cx.method == Method::HEAD {
            return Ok(conditional(&self.cx, resp, Source::Bytes(Bytes::new()), &self.slo.env));
        }
        let ranges = match &range {
            Some(r) => r.for_length(size),
            None => vec![(0, size)],
        };
        self.cx.range = range;
        let wanted: u64 = ranges.iter().map(|(a, b)| b - a).sum();
        let account = format!("/{}/{}", self.path.version, quote(&self.path.account));
        let name = self.path.encode();
        let (next, origin) = (self.slo.next.clone(), self.origin.clone());
        let mut pieces = SloPieces::new(next.clone(), origin.clone(), account, name.clone(), segments, ranges);
        pieces.open_expired = self.open_expired.clone();
        pieces.rate_limit_under_size = self.slo.config.rate_limit_under_size;
        let fetch = Fetch {
            next,
            origin,
            source: "SLO",
            agent: "SLO MultipartGET",
            open_expired: self.open_expired,
            name,
            pace: self.slo.config.pace,
        };
        // A manifest may say more of a segment than it has; then bytes are missing, and the client must notice.
        let body = segmented(fetch, Box::new(pieces), Some(wanted)).await.map_err(|f| f.response())?;
        Ok(conditional(&self.cx, resp, Source::Ranged(body), &self.slo.env))
    }
}
