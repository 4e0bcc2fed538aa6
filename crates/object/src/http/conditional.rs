use super::{Ranges, content_range, multipart_body, multipart_length, parse_http_date, text, unquote_etag};
use crate::env::{Req, Resp};
use bytes::Bytes;
use caelum_base::Env;
use caelum_rest::Body;
use http::{HeaderMap, Method, StatusCode, header};

/// The tags of `If-Match` and `If-None-Match`.
#[derive(Clone, Debug, Default)]
pub struct EtagSet(Vec<String>);

impl EtagSet {
    fn of(headers: &HeaderMap, name: &str) -> Option<Self> {
        let tags = text(headers, name)?.split(',').map(str::trim).filter(|t| !t.is_empty());
        Some(Self(tags.map(|t| unquote_etag(t).to_string()).collect()))
    }

    pub fn has(&self, tag: &str) -> bool {
        self.any() || self.0.iter().any(|t| t == unquote_etag(tag))
    }

    pub fn any(&self) -> bool {
        self.0.iter().any(|t| t == "*")
    }
}

/// What of a request decides over 206, 304, 412 and 416.
#[derive(Clone, Debug)]
pub struct Conditions {
    pub method: Method,
    pub if_match: Option<EtagSet>,
    pub if_none_match: Option<EtagSet>,
    /// Seconds since 1970.
    pub if_modified_since: Option<i64>,
    pub if_unmodified_since: Option<i64>,
    pub range: Option<Ranges>,
    /// Names of headers that carry the etag conditions are about, most important first
    /// (`X-Backend-Etag-Is-At`).
    pub etag_is_at: Vec<String>,
}

impl Conditions {
    pub fn of(req: &Req) -> Self {
        let h = req.headers();
        let date = |name| text(h, name).and_then(parse_http_date);
        let names = text(h, "x-backend-etag-is-at").unwrap_or_default();
        Self {
            method: req.method().clone(),
            if_match: EtagSet::of(h, "if-match"),
            if_none_match: EtagSet::of(h, "if-none-match"),
            if_modified_since: date("if-modified-since"),
            if_unmodified_since: date("if-unmodified-since"),
            range: Ranges::of(h),
            etag_is_at: names.split(',').map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect(),
        }
    }

    /// The etag that conditions are compared with: the first alternative the headers have, else `ETag`.
    pub fn etag_of(&self, headers: &HeaderMap) -> Option<String> {
        let alternative = self.etag_is_at.iter().find_map(|n| text(headers, n).filter(|t| !t.is_empty())).map(str::to_string);
        alternative.or_else(|| super::etag(headers))
    }

    /// 304 or 412 when a condition is not met.
    pub fn unmet(&self, status: StatusCode, headers: &HeaderMap) -> Option<StatusCode> {
        let tag = self.etag_of(headers);
        if let Some(tag) = &tag {
            if self.if_none_match.as_ref().is_some_and(|m| m.has(tag)) {
                return Some(StatusCode::NOT_MODIFIED);
            }
            if self.if_match.as_ref().is_some_and(|m| !m.has(tag)) {
                return Some(StatusCode::PRECONDITION_FAILED);
            }
        }
        if status == StatusCode::NOT_FOUND && self.if_match.as_ref().is_some_and(EtagSet::any) {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
        let modified = text(headers, "last-modified").and_then(parse_http_date)?;
        if self.if_modified_since.is_some_and(|t| modified <= t) {
            return Some(StatusCode::NOT_MODIFIED);
        }
        self.if_unmodified_since.is_some_and(|t| modified > t).then_some(StatusCode::PRECONDITION_FAILED)
    }
}

/// Where the bytes of a conditional answer come from.
pub enum Source {
    /// The whole content.
    Bytes(Bytes),
    /// A stream that already yields the bytes of the wanted ranges, one after another.
    Ranged(Body),
    /// A stream of the whole content that cannot be cut; ranges are ignored.
    Whole(Body),
}

fn body_of(source: Source) -> Body {
    match source {
        Source::Bytes(b) => caelum_rest::full(b),
        Source::Ranged(b) | Source::Whole(b) => b,
    }
}

/// Finishes a successful answer: `resp` has the status and headers of the whole content (`Content-Length` is its
/// length, `ETag`, `Last-Modified`); conditions and ranges are applied to it.
pub fn conditional(cx: &Conditions, mut resp: Resp, source: Source, env: &Env) -> Resp {
    if let Some(status) = cx.unmet(resp.status(), resp.headers()) {
        *resp.status_mut() = status;
        super::set(resp.headers_mut(), "content-length", "0");
        return resp.map(|_| caelum_rest::empty());
    }
    if cx.method == Method::HEAD {
        return resp.map(|_| caelum_rest::empty());
    }
    let length = super::text(resp.headers(), "content-length").and_then(|t| t.parse::<u64>().ok());
    let (Some(length), Some(ranges)) = (length, &cx.range) else { return resp.map(|_| body_of(source)) };
    if resp.headers().contains_key(header::CONTENT_RANGE) {
        return resp.map(|_| body_of(source));
    }
    let ranges = ranges.for_length(length);
    if ranges.is_empty() {
        let mut r = super::error(416);
        let page = r.headers().get(header::CONTENT_LENGTH).cloned();
        *r.headers_mut() = std::mem::take(resp.headers_mut());
        if let Some(page) = page {
            r.headers_mut().insert(header::CONTENT_LENGTH, page);
        }
        super::set(r.headers_mut(), "content-range", format!("bytes */{length}"));
        return r;
    }
    // A suffix range of nothing: there are no positions to name, so the whole of nothing is sent.
    if length == 0 || matches!(source, Source::Whole(_)) {
        return resp.map(|_| body_of(source));
    }
    let data = match source {
        Source::Bytes(all) => {
            let cut = |r: &(u64, u64)| all.slice(usize::try_from(r.0).unwrap_or(0)..usize::try_from(r.1).unwrap_or(0));
            let parts: Vec<Bytes> = ranges.iter().map(cut).collect();
            caelum_rest::full(parts.concat())
        }
        Source::Ranged(b) | Source::Whole(b) => b,
    };
    *resp.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let [one] = ranges.as_slice() {
        super::set(resp.headers_mut(), "content-range", content_range(*one, length));
        super::set(resp.headers_mut(), "content-length", (one.1 - one.0).to_string());
        return resp.map(|_| data);
    }
    let boundary = env.hex_id();
    let content_type = super::text(resp.headers(), "content-type").unwrap_or_default().to_string();
    let total = multipart_length(&ranges, &content_type, &boundary, length);
    super::set(resp.headers_mut(), "content-type", format!("multipart/byteranges;boundary={boundary}"));
    super::set(resp.headers_mut(), "content-length", total.to_string());
    resp.map(|_| multipart_body(data, ranges, content_type, boundary, length))
}
