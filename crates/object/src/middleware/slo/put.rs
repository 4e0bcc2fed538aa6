//! Storing a manifest: every segment is looked at first.

use super::manifest::{Entry, Wanted, encode_data, parse_wanted, store_form};
use super::{SYSMETA_ETAG, SYSMETA_SIZE, Slo};
use crate::env::{Req, Resp, SwiftPath, quote};
use crate::http::{
    ByteRange, ContentTypeOverridden, ManifestHook, Origin, Params, best_match, content_length, discard, error, error_html, error_plain,
    etag, guess_type, is_true, parse_http_date, reason, report, respond, set, status_line, streamed, text, unquote_etag,
};
use crate::middleware::common::OVERRIDE_ETAG;
use crate::middleware::heartbeat::Beat;
use bytes::Bytes;
use caelum_rest::HttpService;
use caelum_swiftkit::{md5_hex, to_hex};
use futures_util::StreamExt;
use http::{Method, header};
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

pub(super) const FORMATS: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];

/// What a HEAD told of a segment.
struct Found {
    status: u16,
    length: u64,
    etag: String,
    content_type: String,
    last_modified: i64,
    is_slo: bool,
}

impl Found {
    fn of(resp: &Resp) -> Self {
        let h = resp.headers();
        let kind = text(h, "content-type").unwrap_or_default();
        Self {
            status: resp.status().as_u16(),
            length: content_length(resp).unwrap_or(0),
            etag: etag(h).unwrap_or_default(),
            content_type: kind.split(';').next().unwrap_or_default().to_string(),
            last_modified: text(h, "last-modified").and_then(parse_http_date).unwrap_or(0),
            is_slo: is_true(h, "x-static-large-object"),
        }
    }
}

/// A manifest with its segments looked up.
#[derive(Default)]
struct Checked {
    entries: Vec<Entry>,
    /// `None`: more bytes than can be counted.
    size: Option<u64>,
    problems: Vec<(String, String)>,
}

/// A range as it is stored and the bytes it has; `Ok(None)` for the whole object.
fn cut(range: &crate::http::Ranges, length: u64) -> Result<Option<ByteRange>, ()> {
    match range.for_length(length).first() {
        None => Err(()),
        Some(r) if *r == (0, length) => Ok(None),
        Some(r) => Ok(Some(*r)),
    }
}

impl Checked {
    fn data(&mut self, data: &[u8]) {
        self.entries.push(Entry { value: json!({"data": encode_data(data)}) });
        self.size = self.size.and_then(|s| s.checked_add(data.len() as u64));
    }

    fn problem(&mut self, path: &str, why: impl Into<String>) {
        self.problems.push((quote(path), why.into()));
    }

    fn object(&mut self, wanted: (&str, Option<&String>, Option<i64>, Option<&crate::http::Ranges>), found: &Found, last: bool) {
        let (path, etag, size, range) = wanted;
        if !(200..300).contains(&found.status) {
            return self.problem(path, status_line(found.status));
        }
        let mut length = found.length;
        let mut stored_range = None;
        match range.map(|r| cut(r, found.length)) {
            Some(Err(())) => self.problem(path, "Unsatisfiable Range"),
            Some(Ok(Some((a, b)))) => {
                stored_range = Some(format!("{a}-{}", b - 1));
                length = b - a;
            }
            Some(Ok(None)) | None => {}
        }
        if length < 1 && !last {
            self.problem(path, "Too small; each segment must be at least 1 byte.");
        }
        if size.is_some_and(|s| u64::try_from(s).ok() != Some(found.length)) {
            self.problem(path, "Size Mismatch");
        }
        if etag.is_some_and(|e| *e != found.etag) {
            self.problem(path, "Etag Mismatch");
        }
        let modified = caelum_base::Timestamp(found.last_modified.saturating_mul(1_000_000)).iso_micros();
        let mut value = json!({
            "name": format!("/{}", path.trim_start_matches('/')),
            "bytes": found.length,
            "hash": found.etag,
            "content_type": found.content_type,
            "last_modified": modified,
        });
        if let Some(r) = stored_range {
            value["range"] = r.into();
        }
        if found.is_slo {
            value["sub_slo"] = true.into();
        }
        self.entries.push(Entry { value });
        self.size = self.size.and_then(|s| s.checked_add(length));
    }

    /// MD5 over the segments' etags.
    fn etag(&self) -> String {
        let mut md5 = Md5::new();
        for entry in &self.entries {
            let field = |n: &str| entry.value.get(n).and_then(Value::as_str).unwrap_or_default();
            match (entry.value.get("data"), entry.value.get("range")) {
                (Some(_), _) => {
                    let data = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, field("data")).unwrap_or_default();
                    md5.update(md5_hex(&data));
                }
                (None, Some(_)) => md5.update(format!("{}:{};", field("hash"), field("range"))),
                (None, None) => md5.update(field("hash")),
            }
        }
        to_hex(&md5.finalize())
    }
}

/// The segments and how to look at them.
struct Lookup {
    slo: Slo,
    /// `/v1/account`, encoded.
    account: String,
    origin: Origin,
    hook: Option<ManifestHook>,
    wanted: Vec<Wanted>,
}

/// A PUT that stores a manifest, from validation to the write.
struct Put {
    lookup: Lookup,
    req: Req,
    format: &'static str,
    object: String,
}

pub(super) async fn put(slo: &Slo, req: Req, path: &SwiftPath, container: &str, object: &str) -> Resp {
    let heartbeat = Params::of(&req).is_true("heartbeat");
    let put = match prepare(slo, req, path, container, object).await {
        Ok(p) => p,
        Err(refusal) => return refusal,
    };
    if !heartbeat {
        return put.run().await.unwrap_or_else(|refusal| refusal);
    }
    let format = put.format;
    let (mut beat, body) = Beat::new(slo.0.config.yield_frequency, None);
    tokio::spawn(async move {
        if beat.beat().await
            && let Some(outcome) = beat.during(put.run_reported()).await
        {
            beat.finish(outcome).await;
        }
    });
    streamed(202, format, body)
}

async fn prepare(slo: &Slo, mut req: Req, path: &SwiftPath, container: &str, object: &str) -> Result<Put, Resp> {
    let config = &slo.0.config;
    let h = req.headers();
    if text(h, "x-copy-from").is_some_and(|v| !v.is_empty()) {
        return Err(error_html(405, "Multipart Manifest PUTs cannot be COPY requests"));
    }
    let too_large = || error_html(413, format!("Manifest File > {} bytes", config.max_manifest_size));
    match text(h, "content-length").and_then(|l| l.parse::<usize>().ok()) {
        Some(n) if n > config.max_manifest_size => {
            let body = std::mem::replace(req.body_mut(), caelum_rest::empty());
            let patience = std::time::Duration::from_secs(10);
            // Whether it all came makes no difference to the answer.
            let _ = tokio::time::timeout(patience, discard(body, config.max_manifest_size * 2)).await;
            return Err(too_large());
        }
        Some(_) => {}
        None if text(h, "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) => {}
        None => return Err(error(411)),
    }
    let format = match best_match(text(h, "accept"), &FORMATS) {
        Ok(Some(f)) => FORMATS.iter().copied().find(|k| *k == f).unwrap_or("text/plain"),
        _ => "text/plain",
    };
    let body = std::mem::replace(req.body_mut(), caelum_rest::empty());
    let body = match caelum_rest::read_limited(body, config.max_manifest_size).await {
        Ok(b) => b,
        Err(e) if e.kind.status() == 413 => return Err(too_large()),
        Err(_) => return Err(error(499)),
    };
    let wanted = parse_wanted(&body, (container, object))?;
    let objects = wanted.iter().filter(|w| matches!(w, Wanted::Object { .. })).count();
    if objects > config.max_manifest_segments {
        let text = format!("Number of object-backed segments must be <= {}", config.max_manifest_segments);
        return Err(error_html(413, text));
    }
    let account = format!("/{}/{}", path.version, quote(&path.account));
    let hook = req.extensions().get::<ManifestHook>().cloned();
    let lookup = Lookup { slo: slo.clone(), account, origin: Origin::of(&req), hook, wanted };
    Ok(Put { lookup, req, format, object: object.to_string() })
}

impl Lookup {
    /// HEADs of all segments, each object once.
    async fn look_up(&self) -> HashMap<String, Found> {
        let mut paths: Vec<String> = Vec::new();
        let mut known = std::collections::HashSet::new();
        for w in &self.wanted {
            if let Wanted::Object { path, .. } = w
                && known.insert(path.clone())
            {
                paths.push(path.clone());
            }
        }
        let heads = paths.into_iter().map(|path| {
            let (slo, origin) = (self.slo.clone(), self.origin.clone());
            let target = format!("{}/{}", self.account, quote(path.trim_start_matches('/')));
            async move {
                // Through this layer, so that a manifest among the segments shows its content's length and etag.
                let resp = slo.call(origin.request(Method::HEAD, &target, "SLO", "SLO MultipartPUT")).await;
                (path, Found::of(&resp))
            }
        });
        futures_util::stream::iter(heads).buffer_unordered(self.slo.0.config.concurrency.max(1)).collect().await
    }

    async fn check(&self) -> Checked {
        let found = self.look_up().await;
        let mut out = Checked { size: Some(0), ..Checked::default() };
        let count = self.wanted.len();
        for (i, w) in self.wanted.iter().enumerate() {
            match w {
                Wanted::Data(d) => out.data(d),
                Wanted::Object { path, etag, size, range } => {
                    let Some(f) = found.get(path) else { continue };
                    out.object((path, etag.as_ref(), *size, range.as_ref()), f, i + 1 == count);
                }
            }
        }
        if let Some(hook) = &self.hook {
            let mut values: Vec<Value> = out.entries.iter().map(|e| e.value.clone()).collect();
            out.problems.extend((hook.0)(&mut values));
            out.entries = values.into_iter().map(|value| Entry { value }).collect();
        }
        out
    }
}

impl Put {
    /// The write, or the refusal: with what is wrong when segments are.
    async fn write(self) -> Result<Resp, (Resp, Vec<(String, String)>)> {
        let checked = self.lookup.check().await;
        if !checked.problems.is_empty() {
            return Err((error(400), checked.problems));
        }
        let none = Vec::new;
        let Some(size) = checked.size.filter(|s| i64::try_from(*s).is_ok()) else {
            return Err((error_plain(413, "Your request is too large."), none()));
        };
        let slo_etag = checked.etag();
        let client = text(self.req.headers(), "etag").map(unquote_etag).filter(|e| !e.is_empty());
        if client.is_some_and(|e| e != slo_etag) {
            return Err((error(422), none()));
        }
        let json: Bytes = store_form(&checked.entries).into();
        let mut req = self.req;
        let manifest_etag = md5_hex(&json);
        let kind = text(req.headers(), "content-type").filter(|t| !t.is_empty()).unwrap_or_else(|| guess_type(&self.object));
        let kind = format!("{kind};swift_bytes={size}");
        let h = req.headers_mut();
        // Container listings get both etags; a layer further out may have put another first one there.
        let old = text(h, OVERRIDE_ETAG).unwrap_or_default().to_string();
        let (first, rest) = old.split_once(';').map_or((old.as_str(), String::new()), |(f, r)| (f, format!(";{r}")));
        let first = if first.is_empty() { manifest_etag.as_str() } else { first };
        let both = format!("{first}{rest}; slo_etag={slo_etag}");
        set(h, OVERRIDE_ETAG, both);
        set(h, SYSMETA_ETAG, &slo_etag);
        set(h, SYSMETA_SIZE, size.to_string());
        set(h, "x-static-large-object", "True");
        set(h, "etag", &manifest_etag);
        set(h, "content-type", kind);
        set(h, "content-length", json.len().to_string());
        h.remove(header::TRANSFER_ENCODING);
        req.extensions_mut().insert(ContentTypeOverridden);
        *req.body_mut() = caelum_rest::full(json);
        let mut resp = self.lookup.slo.0.next.call(req).await;
        if resp.status().is_success() {
            set(resp.headers_mut(), "etag", format!("\"{slo_etag}\""));
        }
        Ok(resp)
    }

    async fn run(self) -> Result<Resp, Resp> {
        let format = self.format;
        self.write().await.map_err(|(refusal, problems)| match problems.is_empty() {
            true => refusal,
            false => respond(400, format, report(format, &Map::new(), &problems, "upload")),
        })
    }

    /// As [`Self::run`], with the outcome as text behind blanks.
    async fn run_reported(self) -> String {
        let format = self.format;
        let mut facts = Map::new();
        let (resp, problems) = match self.write().await {
            Ok(resp) => (resp, Vec::new()),
            Err(refused) => refused,
        };
        let status = resp.status().as_u16();
        facts.insert("Response Status".into(), status_line(status).into());
        if resp.status().is_success() {
            for (fact, name) in [("Etag", "etag"), ("Last Modified", "last-modified")] {
                facts.insert(fact.into(), text(resp.headers(), name).unwrap_or_default().into());
            }
        }
        let body = if problems.is_empty() && status != 422 {
            let body = crate::http::read_all(resp.into_body(), 65_536).await.unwrap_or_default();
            String::from_utf8_lossy(&body).into_owned()
        } else {
            let (title, text) = reason(status);
            format!("{title}\n{text}")
        };
        facts.insert("Response Body".into(), body.into());
        report(format, &facts, &problems, "upload")
    }
}
