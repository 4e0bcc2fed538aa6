//! Unpacking an archive into objects.

use super::archive::{Archive, Packing};
use super::delete::quote_bytes;
use super::tar::{Kind, Member, Tar};
use super::{Bulk, MAX_PATH, Refusal, begin};
use crate::env::{Req, Resp, SwiftPath, quote};
use crate::http::{BodyReader, Origin, drain, report, set, split_path, status_line, text};
use bytes::Bytes;
use caelum_rest::{BoxError, stream_channel};
use caelum_swiftkit::MAX_FILE_SIZE;
use http::{HeaderMap, Method};
use serde_json::Map;
use std::collections::HashSet;
use tokio::sync::mpsc;

/// Zeros of a hole that are sent at once.
const ZEROS: &[u8] = &[0; 65_536];

/// The work on one archive.
struct Extraction {
    bulk: Bulk,
    origin: Origin,
    /// `/v1/account`, encoded.
    account: String,
    /// What stands before every name: a container, perhaps with the beginning of names.
    base: Vec<u8>,
    /// Of the request, for every object.
    headers: HeaderMap,
    created: u64,
    containers_created: usize,
    known: HashSet<String>,
    failed: Vec<(String, String)>,
    gateway: bool,
}

fn shown(name: &[u8]) -> String {
    quote_bytes(&name[..name.len().min(MAX_PATH)])
}

/// The header that an extended attribute becomes.
fn pax_header(key: &str) -> Option<String> {
    let name = key.strip_prefix("SCHILY.xattr.user.").or_else(|| key.strip_prefix("LIBARCHIVE.xattr.user."))?;
    match name {
        "mime_type" => Some("content-type".into()),
        // WSGI does not tell the two apart.
        _ => name.strip_prefix("meta.").map(|m| format!("x-object-meta-{m}").to_lowercase().replace('_', "-")),
    }
}

impl Extraction {
    /// The path of a member's object, `None` for what lies in no container.
    fn path(&self, name: &[u8]) -> Option<Vec<u8>> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let start = name.iter().position(|b| *b != b'/').unwrap_or(name.len());
        let mut path = self.base.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name[start..]);
        path.contains(&b'/').then_some(path)
    }

    /// Makes sure that there is a container. `Ok(Some)`: it could not be made, with the status; the PUT may work still.
    async fn container(&mut self, name: &str) -> Result<Option<u16>, Refusal> {
        let target = format!("{}/{}", self.account, quote(name));
        let head = self.bulk.next.call(self.origin.request(Method::HEAD, &target, "EA", "")).await;
        let mut status = head.status().as_u16();
        drain(head.into_body()).await;
        if (200..300).contains(&status) {
            return Ok(None);
        }
        if status == 404 {
            let mut put = self.origin.request(Method::PUT, &target, "EA", "");
            set(put.headers_mut(), "content-length", "0");
            let made = self.bulk.next.call(put).await;
            status = made.status().as_u16();
            drain(made.into_body()).await;
            if (200..300).contains(&status) {
                self.containers_created += 1;
                let max = self.bulk.config.max_containers_per_extraction;
                if self.containers_created > max {
                    return Err(Refusal::new(400, format!("More than {max} containers to create from tar.")));
                }
                return Ok(None);
            }
        }
        if status == 401 { Err(Refusal::new(401, "")) } else { Ok(Some(status)) }
    }

    fn put_request(&self, path: &str, member: &Member, body: caelum_rest::Body) -> Req {
        let target = format!("{}/{}", self.account, quote(path));
        let mut req = self.origin.request_with(Method::PUT, &target, "EA", "BulkExpand", body);
        let h = req.headers_mut();
        for (name, value) in &self.headers {
            h.insert(name.clone(), value.clone());
        }
        for (key, value) in &member.pax {
            if let Some(name) = pax_header(key) {
                set(h, &name, value);
            }
        }
        set(h, "content-length", member.size.to_string());
        req
    }

    /// Puts a member whose data comes next. Takes that data in any case.
    async fn file(&mut self, archive: &mut Archive, member: &Member) -> Result<(), Failure> {
        let padding = member.stored.div_ceil(512) * 512 - member.stored;
        let Some(path) = self.path(&member.name) else { return skip(archive, member.stored + padding).await };
        let text = std::str::from_utf8(&path).ok().filter(|t| !t.contains('\0')).map(str::to_string);
        let refused = match &text {
            None => Some(412),
            Some(_) if member.size > MAX_FILE_SIZE => Some(413),
            Some(_) => None,
        };
        let (Some(name), None) = (text, refused) else {
            self.failed.push((shown(&path), status_line(refused.unwrap_or(412))));
            return skip(archive, member.stored + padding).await;
        };
        let container = name.split('/').next().unwrap_or_default().to_string();
        let mut no_container = None;
        if !self.known.contains(&container) {
            no_container = self.container(&container).await?;
        }
        let (tx, body) = stream_channel(1);
        let put = self.bulk.next.call(self.put_request(&name, member, body));
        let (resp, fed) = tokio::join!(put, feed(archive, member, tx));
        self.known.insert(container.clone());
        let status = resp.status().as_u16();
        drain(resp.into_body()).await;
        if (200..300).contains(&status) {
            self.created += 1;
        } else {
            if let Some(status) = no_container {
                let full = format!("{}/{}", super::super::common::unquote(&self.account), container);
                self.failed.push((shown(full.as_bytes()), status_line(status)));
            }
            self.failed.push((shown(&path), status_line(status)));
            if status == 401 {
                return Err(Refusal::new(401, "").into());
            }
            self.gateway |= status >= 500;
        }
        fed?;
        skip(archive, padding).await
    }

    async fn run(&mut self, archive: &mut Archive) -> Result<(), Failure> {
        let mut tar = Tar::new();
        while self.failed.len() < self.bulk.config.max_failed_extractions {
            let Some(member) = tar.next(archive).await? else { break };
            match member.kind {
                Kind::File => self.file(archive, &member).await?,
                Kind::Other => skip(archive, member.stored.div_ceil(512) * 512).await?,
            }
        }
        Ok(())
    }

    fn report(&self, format: Option<&str>, outcome: Result<(), Failure>) -> String {
        let (status, text) = match outcome {
            Err(Failure::Refused(r)) => (r.status, r.text),
            Err(Failure::Broken(why)) => (400, format!("Invalid Tar File: {why}")),
            Ok(()) if !self.failed.is_empty() => (if self.gateway { 502 } else { 400 }, String::new()),
            Ok(()) if self.created == 0 => (400, "Invalid Tar File: No Valid Files".into()),
            Ok(()) => (201, String::new()),
        };
        let mut facts = Map::new();
        facts.insert("Response Status".into(), status_line(status).into());
        facts.insert("Response Body".into(), text.into());
        facts.insert("Number Files Created".into(), self.created.into());
        report(format.unwrap_or_default(), &facts, &self.failed, "extract")
    }
}

/// Why an extraction ended.
enum Failure {
    Refused(Refusal),
    Broken(String),
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Self {
        Self::Refused(r)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

async fn skip(archive: &mut Archive, n: u64) -> Result<(), Failure> {
    if archive.skip(n).await? { Ok(()) } else { Err(Failure::Broken("unexpected end of data".into())) }
}

type Sender = mpsc::Sender<caelum_base::Result<Bytes, BoxError>>;

async fn zeros(tx: &Sender, mut n: u64) -> bool {
    while n > 0 {
        let piece = Bytes::from_static(&ZEROS[..usize::try_from(n).unwrap_or(ZEROS.len()).min(ZEROS.len())]);
        n -= piece.len() as u64;
        if tx.send(Ok(piece)).await.is_err() {
            return false;
        }
    }
    true
}

/// Gives a member's data to the PUT; what that does not want is passed over.
async fn feed(archive: &mut Archive, member: &Member, tx: Sender) -> Result<(), Failure> {
    let whole = [(0, member.stored)];
    let pieces = member.pieces.as_deref().unwrap_or(&whole);
    let (mut at, mut used, mut wanted) = (0, 0, true);
    for (offset, length) in pieces {
        wanted = wanted && zeros(&tx, offset - at).await;
        let mut left = *length;
        while left > 0 {
            let chunk = archive.chunk(usize::try_from(left).unwrap_or(usize::MAX)).await;
            let data = match chunk {
                Ok(Some(data)) => data,
                other => {
                    // The object must not be stored short.
                    let _ = tx.send(Err(BoxError::from("archive ends early"))).await;
                    return Err(Failure::Broken(other.err().unwrap_or_else(|| "unexpected end of data".into())));
                }
            };
            left -= data.len() as u64;
            used += data.len() as u64;
            wanted = wanted && tx.send(Ok(data)).await.is_ok();
        }
        at = offset + length;
    }
    if wanted {
        zeros(&tx, member.size - at).await;
    }
    drop(tx);
    skip(archive, member.stored - used).await
}

/// Where the request's objects go: the account's path and what stands before names.
fn base_of(req: &Req) -> Option<(SwiftPath, Vec<u8>)> {
    let path = split_path(req)?;
    let parts: Vec<&str> = [&path.container, &path.object].into_iter().flatten().map(String::as_str).collect();
    let base = parts.join("/");
    let base = base.trim_end_matches('/').as_bytes().to_vec();
    Some((SwiftPath { container: None, object: None, ..path }, base))
}

/// Headers of the request that every object gets.
fn object_headers(req: &Req) -> HeaderMap {
    let wanted = |n: &str| matches!(n, "x-delete-at" | "x-delete-after") || n.starts_with("x-object-meta-");
    req.headers().iter().filter(|(n, _)| wanted(n.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

pub(super) fn extract(bulk: &Bulk, req: Req, packing: Packing) -> Resp {
    let (format, mut beat, resp) = begin(&req, bulk.config.yield_frequency);
    let base = base_of(&req);
    let chunked = text(req.headers(), "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked"));
    let measured = text(req.headers(), "content-length").is_some() || chunked;
    let refusal = match (format, measured, &base) {
        (None, _, _) => Some(406),
        (_, false, _) => Some(411),
        (_, _, None) => Some(404),
        _ => None,
    };
    let (account, base) = base.map(|(p, b)| (p.encode(), b)).unwrap_or_default();
    let mut work = Extraction {
        bulk: bulk.clone(),
        origin: Origin::of(&req).with_token_of(&req),
        account,
        base,
        headers: object_headers(&req),
        created: 0,
        containers_created: 0,
        known: HashSet::new(),
        failed: Vec::new(),
        gateway: false,
    };
    tokio::spawn(async move {
        let mut archive = Archive::new(BodyReader::new(req.into_body()), packing);
        let outcome = match refusal {
            Some(status) => Some(Err(Refusal::new(status, "").into())),
            None => beat.during(work.run(&mut archive)).await,
        };
        if let Some(outcome) = outcome {
            beat.finish(work.report(format, outcome)).await;
        }
    });
    resp
}
