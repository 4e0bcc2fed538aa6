//! PUT.
//!
//! A small object is checked, written and named in one job on a blocking thread. Of a large one, one piece
//! is written while the next is received.

use super::input::Input;
use super::mime::Mime;
use super::target::{Target, next_part_power};
use super::update::{self, Origin};
use super::{Answer, Req, Resp, Shared, blocking, disk_failure, headers, respond};
use bytes::Bytes;
use caelum_diskfile::{DiskError, DiskFile, DiskResult, Ext, FragWish, Look, Metadata, Pending, Writer};
use caelum_swiftkit::{MAX_FILE_SIZE, Timestamp, UploadDigest};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use std::io::IoSlice;
use std::sync::Arc;

/// Received before anything is written.
const SMALL: usize = 128 << 10;
/// Written at once.
const BATCH: usize = 1 << 20;

/// The object's bytes, plain or as the first part of a MIME document.
enum Source {
    Plain(Input),
    Mime(Box<Mime>),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Resp> {
        match self {
            Self::Plain(i) => i.next().await,
            Self::Mime(m) => m.chunk().await,
        }
    }

    /// Pieces until there are `limit` bytes; the flag tells that there is no more.
    async fn batch(&mut self, limit: usize, total: &mut u64) -> Result<(Vec<Bytes>, bool), Resp> {
        let (mut out, mut size) = (Vec::new(), 0);
        while size < limit {
            match self.next().await? {
                Some(b) => {
                    size += b.len();
                    *total += b.len() as u64;
                    if *total > MAX_FILE_SIZE {
                        return Err(respond::text(413, "Your request is too large."));
                    }
                    out.push(b);
                }
                None => return Ok((out, true)),
            }
        }
        Ok((out, false))
    }
}

/// What stood in the object's place.
struct Before {
    metadata: Metadata,
}

pub(super) async fn handle(server: Arc<Shared>, req: Req) -> Answer {
    let (mut parts, body) = req.into_parts();
    let target = Target::parse(&parts, &server.disks)?;
    let at = headers::timestamp(&parts.headers)?;
    let input = Input::new(body, server.config.client_timeout).until(server.config.max_upload_time);
    let size = check_creation(&mut parts, &target, at, &input)?;
    let parts = Arc::new(parts);
    let place = Place { server: server.clone(), parts: parts.clone(), target: target.clone(), at, size };

    // Whoever waits for `100 Continue` is refused before sending the body.
    let mut before = None;
    if headers::text(&parts.headers, "expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue")) {
        let p = place.clone();
        before = Some(blocking(move || p.check()).await??);
    }
    let two_phases = headers::is_true(&parts.headers, "x-backend-obj-multiphase-commit");
    let has_footer = headers::is_true(&parts.headers, "x-backend-obj-metadata-footer");
    let mut source = source(&parts, input, two_phases, has_footer).await?;

    let device = target.device.clone();
    let mut footers = Vec::new();
    let stored = match receive(&place, &mut source, before).await? {
        Received::Whole(stored) => *stored,
        Received::Written(writing) => {
            if let (Source::Mime(m), true) = (&mut source, has_footer) {
                footers = m.footer().await?;
            }
            let (place, footers) = (place.clone(), footers.clone());
            blocking(move || place.finish(*writing, &footers)).await??
        }
    };
    let Stored { object, before, pending, metadata } = stored;
    let fragment = metadata.get("X-Object-Sysmeta-Ec-Frag-Index").and_then(|i| i.trim().parse().ok());
    let etag = metadata.get("ETag").unwrap_or_default().to_string();
    durable(pending, &device).await?;
    if let Source::Mime(m) = &mut source {
        if two_phases {
            parts.extensions.get::<caelum_rest::Interim>().map(caelum_rest::Interim::send);
            if !m.commit().await? {
                return Err(respond::error(500));
            }
        }
        m.drain().await?;
    }
    if object.policy().is_ec() && !headers::is_true(&parts.headers, "x-backend-no-commit") {
        let pending = blocking(move || object.commit(at, fragment)).await?;
        durable(pending.map_err(|e| disk_failure(&device, e))?, &device).await?;
    }
    let origin = Origin { server, parts, target, at };
    announce(&origin, &before.metadata, &footers, &metadata).await;
    let mut created = respond::error_text(201, "");
    respond::set(created.headers_mut(), "etag", &format!("\"{etag}\""));
    Ok(created)
}

pub(super) async fn durable(pending: Pending, device: &str) -> Result<(), Resp> {
    pending.wait().await.map_err(|e| disk_failure(device, DiskError::from_write(e)))
}

/// Upstream's conditions on a new object. Gives its size where the request tells.
fn check_creation(parts: &mut Parts, target: &Target, at: Timestamp, input: &Input) -> Result<Option<u64>, Resp> {
    let chunked = headers::text(&parts.headers, "transfer-encoding");
    if chunked.as_deref().is_some_and(|t| !t.eq_ignore_ascii_case("chunked")) {
        return Err(respond::text(501, "Unsupported Transfer-Coding header value specified in Transfer-Encoding header"));
    }
    let length = match headers::text(&parts.headers, CONTENT_LENGTH.as_str()) {
        _ if chunked.is_some() => None,
        Some(l) => Some(l.trim().parse::<u64>().map_err(|_| respond::text(400, "Invalid Content-Length header value"))?),
        // Callers in this process may stream without saying how.
        None if input.exact_length() == Some(0) => return Err(respond::text(411, "Missing Content-Length header.")),
        None => None,
    };
    if length.is_some_and(|l| l > MAX_FILE_SIZE) {
        return Err(respond::text(413, "Your request is too large."));
    }
    target.check_name_length()?;
    let content_type = parts.headers.get("content-type").ok_or_else(|| respond::text(400, "No content type"))?;
    if std::str::from_utf8(content_type.as_bytes()).is_err() {
        return Err(respond::text(400, "Invalid Content-Type"));
    }
    headers::check_delete_headers(&mut parts.headers, at)?;
    headers::check_metadata(&parts.headers)?;
    if length.is_some() {
        return Ok(length);
    }
    match headers::text(&parts.headers, "x-backend-obj-content-length") {
        Some(l) => l.trim().parse().map(Some).map_err(|_| respond::text(400, "Invalid Content-Length header value")),
        None => Ok(None),
    }
}

async fn source(parts: &Parts, input: Input, two_phases: bool, has_footer: bool) -> Result<Source, Resp> {
    if !two_phases && !has_footer {
        return Ok(Source::Plain(input));
    }
    let boundary = headers::text(&parts.headers, "x-backend-obj-multipart-mime-boundary").filter(|b| !b.is_empty());
    let boundary = boundary.ok_or_else(|| respond::error_text(400, "no MIME boundary"))?;
    if let Some(interim) = parts.extensions.get::<caelum_rest::Interim>() {
        let mut told = Vec::new();
        if two_phases {
            told.push(("X-Obj-Multiphase-Commit", "yes"));
            // Here the commit is a part of the one body; upstream reads it from a second message.
            told.push(("X-Obj-Commit-Inline", "yes"));
        }
        if has_footer {
            told.push(("X-Obj-Metadata-Footer", "yes"));
        }
        if two_phases {
            interim.join_bodies();
        }
        interim.announce(&told);
    }
    let mut mime = Mime::new(input, &boundary);
    mime.next_part().await?.ok_or_else(|| respond::error_text(400, "no object in the MIME document"))?;
    Ok(Source::Mime(Box::new(mime)))
}

#[derive(Clone)]
struct Place {
    server: Arc<Shared>,
    parts: Arc<Parts>,
    target: Target,
    at: Timestamp,
    size: Option<u64>,
}

impl Place {
    fn object(&self) -> Result<DiskFile, Resp> {
        let h = &self.parts.headers;
        let index = match headers::text(h, "x-backend-ssync-frag-index") {
            Some(i) => Some(caelum_diskfile::names::frag_index(&i, None).map_err(|e| respond::text(400, &e))?),
            None => None,
        };
        let look = Look { wish: FragWish { index, prefs: None }, open_expired: false, next_part_power: next_part_power(&self.parts) };
        self.target.object(&self.server.disks, look).map_err(|e| disk_failure(&self.target.device, e))
    }

    /// Whether the object may be written over what is there. Blocks.
    fn check(&self) -> Result<(DiskFile, Before), Resp> {
        let object = self.object()?;
        let (metadata, known) = match object.open(self.at) {
            Ok(o) => (o.metadata.clone(), o.data_timestamp()),
            Err(DiskError::Deleted { timestamp } | DiskError::Expired { timestamp, .. }) => (Metadata::new(), timestamp),
            Err(DiskError::NotExist | DiskError::Quarantined { .. } | DiskError::StateChanged) => (Metadata::new(), Timestamp::ZERO),
            Err(e) => return Err(disk_failure(&self.target.device, e)),
        };
        if let Some(m) = headers::text(&self.parts.headers, "if-none-match").filter(|_| !metadata.is_empty())
            && headers::matches(&m, metadata.get("ETag").unwrap_or_default())
        {
            return Err(respond::error(412));
        }
        if known >= self.at {
            return Err(respond::with(respond::error(409), "x-backend-timestamp", &known.internal()));
        }
        Ok((object, Before { metadata }))
    }

    /// Opens the file and writes the first pieces. Blocks.
    fn begin(&self, checked: Option<(DiskFile, Before)>, chunks: &[Bytes]) -> Result<Writing, Resp> {
        let (object, before) = match checked {
            Some(c) => c,
            None => self.check()?,
        };
        let fail = |e| disk_failure(&self.target.device, e);
        let mut writer = object.writer(self.size, Ext::Data).map_err(fail)?;
        let digest = self.parts.extensions.get::<UploadDigest>().cloned();
        if digest.is_some() {
            writer = writer.unhashed();
        }
        write(&mut writer, chunks).map_err(fail)?;
        Ok(Writing { object, before, writer, digest, device: self.target.device.clone() })
    }

    /// Gives the object its metadata and name. Blocks.
    fn finish(&self, mut writing: Writing, footers: &[(String, String)]) -> Result<Stored, Resp> {
        let (length, etag) = writing.length_and_etag();
        let Some(etag) = etag.filter(|_| self.size.is_none_or(|s| s == length)) else {
            return Err(respond::error(499));
        };
        let metadata = metadata(&self.server, &self.parts, self.at, length, &etag, footers)?;
        let pending = writing.writer.put(metadata.clone()).map_err(|e| disk_failure(&writing.device, e))?;
        Ok(Stored { object: writing.object, before: writing.before, pending, metadata })
    }
}

/// What came of receiving.
enum Received {
    /// A small object, which took one job.
    Whole(Box<Stored>),
    /// Metadata may follow.
    Written(Box<Writing>),
}

/// An object that has its name; that is not durable yet.
struct Stored {
    object: DiskFile,
    before: Before,
    pending: Pending,
    metadata: Metadata,
}

struct Writing {
    object: DiskFile,
    before: Before,
    writer: Writer,
    /// Whoever sends the data computes this for all of the process.
    digest: Option<UploadDigest>,
    device: String,
}

impl Writing {
    /// `None`: the upload was broken off.
    fn length_and_etag(&mut self) -> (u64, Option<String>) {
        let (length, own) = self.writer.finish();
        (length, own.or_else(|| self.digest.as_ref()?.of(length)))
    }
}

fn write(writer: &mut Writer, chunks: &[Bytes]) -> DiskResult<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|c| IoSlice::new(c)).collect();
    writer.write_batch(&mut slices)
}

/// Receives and writes the object's bytes.
async fn receive(place: &Place, source: &mut Source, checked: Option<(DiskFile, Before)>) -> Result<Received, Resp> {
    let mut total = 0;
    let (first, mut ended) = source.batch(SMALL, &mut total).await?;
    let p = place.clone();
    if ended && matches!(source, Source::Plain(_)) {
        let whole = blocking(move || p.finish(p.begin(checked, &first)?, &[])).await??;
        return Ok(Received::Whole(Box::new(whole)));
    }
    let mut job = tokio::task::spawn_blocking(move || p.begin(checked, &first));
    let broken = |e: tokio::task::JoinError| {
        tracing::error!(error = %e, "disk job");
        respond::error(500)
    };
    while !ended {
        // Received while the batch before is being written.
        let (chunks, last) = source.batch(BATCH, &mut total).await?;
        let mut writing = job.await.map_err(broken)??;
        job = tokio::task::spawn_blocking(move || {
            write(&mut writing.writer, &chunks).map_err(|e| disk_failure(&writing.device, e))?;
            Ok(writing)
        });
        ended = last;
    }
    Ok(Received::Written(Box::new(job.await.map_err(broken)??)))
}

/// What is kept with the object.
fn metadata(
    server: &Shared,
    parts: &Parts,
    at: Timestamp,
    length: u64,
    etag: &str,
    footers: &[(String, String)],
) -> Result<Metadata, Resp> {
    let h = &parts.headers;
    let mut out = Metadata::new();
    out.set("X-Timestamp", at.internal());
    out.set("Content-Type", headers::text(h, "content-type").unwrap_or_default());
    out.set("Content-Length", length.to_string());
    out.set("ETag", etag);
    headers::keep(h, &server.config.allowed_headers, true, &mut out);
    // Replicated headers may repeat these; what was received counts.
    out.set("Content-Length", length.to_string());
    out.set("ETag", etag);
    for (k, v) in footers {
        if headers::is_user_meta(k) || headers::is_sys_meta(k) || headers::is_transient(k) {
            out.set(k, v);
        }
    }
    let footer_etag = footers.iter().find(|(k, _)| k.eq_ignore_ascii_case("etag")).map(|(_, v)| v.to_ascii_lowercase());
    let expected = footer_etag.filter(|e| !e.is_empty()).or_else(|| headers::text(h, "etag").map(|e| e.into_owned()));
    if expected.as_deref().map(headers::bare_etag).is_some_and(|e| !e.is_empty() && e != etag) {
        return Err(respond::error(422));
    }
    Ok(out)
}

/// Tells the container and the queue of expiring objects.
async fn announce(origin: &Origin, before: &Metadata, footers: &[(String, String)], metadata: &Metadata) {
    let old = before.get("X-Delete-At").and_then(|v| v.trim().parse().ok());
    let new = headers::delete_at(&origin.parts.headers).ok().flatten();
    update::delete_at_changed(origin, metadata, old, new).await;
    let get = |k| metadata.get(k).unwrap_or_default().to_string();
    let mut out = vec![
        ("X-Size".to_string(), get("Content-Length")),
        ("X-Content-Type".to_string(), get("Content-Type")),
        ("X-Timestamp".to_string(), get("X-Timestamp")),
        ("X-Etag".to_string(), get("ETag")),
    ];
    let own: Vec<(String, String)> =
        origin.parts.headers.iter().map(|(k, v)| (k.as_str().to_string(), headers::value_text(v).into_owned())).collect();
    update::apply_overrides(&mut out, own.iter().map(|(k, v)| (k.as_str(), v.as_str())), footers);
    update::container(origin, "PUT", out).await;
}
