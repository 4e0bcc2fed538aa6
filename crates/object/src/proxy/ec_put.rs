//! Storing an object of an erasure-coded policy: each node gets one fragment of every segment, and once a
//! quorum has them all, the word to make them durable.

use super::backend::{Core, Reply};
use super::object::Place;
use super::put::{ClientBody, Mime, Putter, Upload, footer_json, put_response};
use super::quorum::best_response;
use super::request::Rq;
use crate::env::Resp;
use crate::http::{Ranges, error, set, text};
use bytes::{Bytes, BytesMut};
use caelum_erasure::Codec;
use caelum_swiftkit::{PolicyKind, to_hex};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, header};
use md5::{Digest, Md5};
use std::sync::{Arc, Mutex};

/// What a policy says about its fragments.
pub(crate) struct Coding {
    pub codec: Arc<Codec>,
    pub segment: usize,
    /// Different fragments: k + m.
    pub unique: usize,
    pub duplication: usize,
    /// `isa_l_rs_vand 4+2`, as upstream notes it in metadata.
    pub scheme: String,
}

impl Coding {
    /// `None`: not an erasure-coded policy, or one that this program cannot code.
    pub(crate) fn of(kind: &PolicyKind) -> Option<Self> {
        let PolicyKind::ErasureCoding { ec_type, data, parity, segment_size, duplication } = kind else { return None };
        let codec = Codec::new(ec_type, *data, *parity).map_err(|e| tracing::error!(error = %e, "storage policy")).ok()?;
        Some(Self {
            codec: Arc::new(codec),
            segment: usize::try_from(*segment_size).ok().filter(|s| *s > 0)?,
            unique: data + parity,
            duplication: (*duplication).max(1),
            scheme: format!("{ec_type} {data}+{parity}"),
        })
    }

    /// Length of a whole segment's fragment.
    pub(crate) fn fragment(&self) -> u64 {
        self.codec.fragment_size(self.segment) as u64
    }

    /// The bytes of archives that hold one range of an object whose length is not known. `None`: several ranges, or
    /// one that holds nothing.
    pub(crate) fn fragment_range(&self, wanted: &Ranges) -> Option<String> {
        let [one] = wanted.0.as_slice() else { return None };
        let (size, fragment) = (self.segment as u64, self.fragment());
        match *one {
            (Some(first), Some(last)) => {
                Some(format!("bytes={}-{}", (first / size).checked_mul(fragment)?, (last / size + 1).checked_mul(fragment)? - 1))
            }
            (Some(first), None) => Some(format!("bytes={}-", (first / size).checked_mul(fragment)?)),
            (None, Some(0)) | (None, None) => None,
            // The last segment may be shorter, so that one more is touched.
            (None, Some(n)) => Some(format!("bytes=-{}", (n.div_ceil(size) + 1).checked_mul(fragment)?)),
        }
    }

    /// Length of each fragment archive of an object.
    pub(crate) fn archive_length(&self, object: u64) -> u64 {
        let segment = self.segment as u64;
        let rest = usize::try_from(object % segment).unwrap_or(0);
        let tail = if rest == 0 { 0 } else { self.codec.fragment_size(rest) };
        object / segment * self.codec.fragment_size(self.segment) as u64 + tail as u64
    }
}

/// Cuts data into segments.
struct Cutter {
    buffer: BytesMut,
    segment: usize,
}

impl Cutter {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// A full segment; at the end also what is left.
    fn next(&mut self, ended: bool) -> Option<Bytes> {
        if self.buffer.len() >= self.segment {
            return Some(self.buffer.split_to(self.segment).freeze());
        }
        (ended && !self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

/// Which fragment each node gets: primaries their own, handoffs those of primaries that are missing.
fn destinations(putters: &[Putter], coding: &Coding) -> Vec<Option<usize>> {
    let mut out: Vec<Option<usize>> = putters.iter().map(|p| p.node.index.map(|i| i % coding.unique)).collect();
    let mut lacking: Vec<usize> = Vec::new();
    for tier in (0..coding.duplication).rev() {
        for index in 0..coding.unique {
            let have = out.iter().filter(|o| **o == Some(index)).count();
            if coding.duplication.saturating_sub(have) > tier {
                lacking.push(index);
            }
        }
    }
    let mut lacking = lacking.into_iter();
    for slot in out.iter_mut().filter(|o| o.is_none()) {
        *slot = lacking.next();
    }
    out
}

/// An upload of fragments under way.
struct Fragments {
    upload: Upload,
    coding: Arc<Coding>,
    /// Parallel to the upload's nodes.
    index: Vec<Option<usize>>,
    archives: Vec<Md5>,
    whole: Md5,
    length: u64,
}

impl Fragments {
    /// Encodes a segment (on a thread of its own: it is arithmetic over a megabyte) and sends the fragments.
    async fn send(&mut self, segment: Bytes, min: usize) -> Result<(), Resp> {
        let coding = self.coding.clone();
        let (mut archives, mut whole) = (std::mem::take(&mut self.archives), std::mem::take(&mut self.whole));
        self.length += segment.len() as u64;
        let work = move || {
            whole.update(&segment);
            let fragments = coding.codec.encode(&segment)?;
            for (md5, fragment) in archives.iter_mut().zip(&fragments) {
                md5.update(fragment);
            }
            Ok((fragments, archives, whole))
        };
        let done: Result<_, caelum_erasure::Error> = tokio::task::spawn_blocking(work).await.map_err(|e| {
            tracing::error!(error = %e, "encoding");
            error(500)
        })?;
        let (fragments, archives, whole) = done.map_err(|e| {
            tracing::error!(error = %e, "encoding");
            error(500)
        })?;
        (self.archives, self.whole) = (archives, whole);
        let fragments: Vec<Bytes> = fragments.into_iter().map(Bytes::from).collect();
        let pieces: Vec<Option<Bytes>> = self.index.iter().map(|i| i.and_then(|i| fragments.get(i).cloned())).collect();
        self.upload.send_each(pieces).await;
        self.upload.enough(min)
    }

    fn footers(&self, index: usize, etag: &str, others: &HeaderMap) -> serde_json::Value {
        let archive = self.archives.get(index).cloned().unwrap_or_default();
        let mut out = HeaderMap::new();
        set(&mut out, "x-object-sysmeta-ec-etag", etag);
        set(&mut out, "x-object-sysmeta-ec-content-length", self.length.to_string());
        set(&mut out, "x-backend-container-update-override-etag", etag);
        set(&mut out, "x-backend-container-update-override-size", self.length.to_string());
        set(&mut out, "x-object-sysmeta-ec-frag-index", index.to_string());
        set(&mut out, "x-object-sysmeta-ec-scheme", &self.coding.scheme);
        set(&mut out, "x-object-sysmeta-ec-segment-size", self.coding.segment.to_string());
        for (name, value) in others.iter().filter(|(n, _)| !n.as_str().starts_with("x-object-sysmeta-ec-")) {
            out.insert(name.clone(), value.clone());
        }
        set(&mut out, "etag", to_hex(&archive.finalize()));
        footer_json(&out)
    }

    async fn run(&mut self, rq: &Rq, body: &mut ClientBody, mime: &Mime, min: usize) -> Result<String, Resp> {
        let head = mime.head();
        let heads = self.index.iter().map(|i| i.map(|_| head.clone())).collect();
        self.upload.send_each(heads).await;
        let mut cutter = Cutter { buffer: BytesMut::new(), segment: self.coding.segment };
        while let Some(piece) = body.next().await? {
            cutter.push(&piece);
            while let Some(segment) = cutter.next(false) {
                self.send(segment, min).await?;
            }
        }
        if let Some(segment) = cutter.next(true) {
            self.send(segment, min).await?;
        }
        let footers = body.tail().unwrap_or_default();
        let etag = to_hex(&self.whole.clone().finalize());
        let expected = text(&footers, "etag").or_else(|| text(rq.headers(), "etag")).map(|e| e.trim_matches('"').to_ascii_lowercase());
        // With a footer the data is no longer what the client sent, and its own ETag is checked above.
        if expected.is_some_and(|e| !e.is_empty() && e != etag) {
            return Err(error(422));
        }
        let tails = self.index.iter().map(|i| i.map(|i| mime.footer(&self.footers(i, &etag, &footers), false))).collect();
        self.upload.send_each(tails).await;
        let ends = self.index.iter().map(|i| i.map(|_| Bytes::new())).collect();
        self.upload.send_each(ends).await;
        self.upload.enough(min)?;
        Ok(etag)
    }
}

impl Core {
    pub(crate) async fn store_fragments(
        self: Arc<Self>,
        rq: &Rq,
        place: &Place,
        coding: Coding,
        mut headers: Vec<HeaderMap>,
        body: &mut ClientBody,
    ) -> Resp {
        let (mime, min) = (Mime::new(&self), place.policy.quorum(place.n));
        for h in &mut headers {
            h.remove(header::CONTENT_LENGTH);
            h.remove(header::ETAG);
            if let Some(n) = body.expected.filter(|n| *n > 0) {
                h.insert("x-backend-obj-content-length", HeaderValue::from(coding.archive_length(n)));
            }
            mime.announce(h, true);
        }
        let nodes = Arc::new(Mutex::new(self.put_nodes(place)));
        let putters = self.connect(rq, place.part, &nodes, headers, None).await;
        let index = destinations(&putters, &coding);
        let upload = Upload::new(self.clone(), putters);
        if let Err(refusal) = upload.refused_early(rq, min) {
            return refusal;
        }
        let archives = vec![Md5::new(); coding.unique];
        let mut fragments = Fragments { upload, coding: Arc::new(coding), index, archives, whole: Md5::new(), length: 0 };
        let etag = match fragments.run(rq, body, &mime, min).await {
            Ok(etag) => etag,
            Err(refusal) => {
                fragments.upload.abort().await;
                return refusal;
            }
        };
        if let Err(refusal) = fragments.upload.commit(&mime, min).await {
            return refusal;
        }
        let replies = fragments.upload.finish(place.n, min).await;
        fragments_response(rq, &replies, min, &etag)
    }
}

/// The nodes' ETags are those of their fragments; the client gets the object's.
fn fragments_response(rq: &Rq, replies: &[Reply], min: usize, etag: &str) -> Resp {
    let mut resp = best_response(replies, min, &[], Some(etag), "Object PUT");
    if resp.status().is_success() {
        super::getter::set_last_modified(resp.headers_mut(), rq.timestamp);
    } else if resp.status().is_client_error() {
        // What clients do wrong was settled before the commit.
        resp = put_response(rq, replies);
    }
    resp
}

impl Upload {
    /// Waits until a quorum has data and metadata on disk, then tells all to make it durable. Errors: 503.
    async fn commit(&mut self, mime: &Mime, min: usize) -> Result<(), Resp> {
        let time = self.core.options.node_timeout;
        let waits = self.putters.iter_mut().filter(|p| !p.failed).map(|p| p.stored(time));
        let stored = join_all(waits).await.into_iter().filter(|s| *s).count();
        if stored < min {
            tracing::error!(stored, min, "Object PUT: too few storage servers have the data");
            self.abort().await;
            return Err(error(503));
        }
        let word = mime.commit();
        let words = self.putters.iter().map(|p| (!p.failed).then(|| word.clone())).collect();
        self.send_each(words).await;
        for p in &mut self.putters {
            p.end();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coding() -> Coding {
        let kind = PolicyKind::ErasureCoding { ec_type: "isa_l_rs_vand".into(), data: 4, parity: 2, segment_size: 1_000, duplication: 1 };
        Coding::of(&kind).unwrap()
    }

    #[test]
    fn lengths_and_segments() {
        let c = coding();
        let full = c.codec.fragment_size(1_000) as u64;
        assert_eq!(c.archive_length(0), 0);
        assert_eq!(c.archive_length(1_000), full);
        assert_eq!(c.archive_length(2_001), 2 * full + c.codec.fragment_size(1) as u64);
        assert_eq!(c.scheme, "isa_l_rs_vand 4+2");
        let mut cut = Cutter { buffer: BytesMut::new(), segment: 4 };
        cut.push(b"abcdefghi");
        let all: Vec<Bytes> = std::iter::from_fn(|| cut.next(true)).collect();
        assert_eq!(all, ["abcd", "efgh", "i"]);
        assert!(Coding::of(&PolicyKind::Replication).is_none());
        let of = |range: &str| c.fragment_range(&Ranges::parse(range).unwrap());
        assert_eq!(of("bytes=0-999"), Some(format!("bytes=0-{}", full - 1)));
        assert_eq!(of("bytes=999-1000"), Some(format!("bytes=0-{}", 2 * full - 1)));
        assert_eq!(of("bytes=2000-"), Some(format!("bytes={}-", 2 * full)));
        assert_eq!(of("bytes=-1"), Some(format!("bytes=-{}", 2 * full)));
        assert_eq!(of("bytes=-1001"), Some(format!("bytes=-{}", 3 * full)));
        assert_eq!((of("bytes=0-1,2-3"), of("bytes=-0")), (None, None));
    }
}
