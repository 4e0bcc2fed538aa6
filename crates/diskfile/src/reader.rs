//! Reading an object's data, its checksum verified while it is read whole.

use crate::{DiskError, DiskFile, DiskResult, Opened};
use bytes::Bytes;
use caelum_swiftkit::to_hex;
use md5::{Digest, Md5};
use rustix::buffer::spare_capacity;

/// Looks at an object's bytes in order as they are read from its beginning; an error means that they are damaged.
pub trait Inspector: Send {
    fn update(&mut self, chunk: &[u8]) -> Result<(), String>;
    /// At the object's end.
    fn finish(&mut self) -> Result<(), String>;
}

/// Reads an opened object in pieces. Blocks.
pub struct Reader {
    object: DiskFile,
    opened: Opened,
    at: u64,
    end: u64,
    /// While reading the whole object.
    md5: Option<Md5>,
    inspector: Option<Box<dyn Inspector>>,
    keep_cache: bool,
    dropped: u64,
}

/// Read between two hints to drop pages from the cache.
const DROP_WINDOW: u64 = 1 << 20;

impl Reader {
    pub fn new(object: DiskFile, opened: Opened) -> Self {
        let keep_cache = opened.size <= object.manager.config.keep_cache_size;
        let end = opened.size;
        let mut out = Self { object, opened, at: 0, end, md5: None, inspector: None, keep_cache, dropped: 0 };
        out.range(0, end);
        out
    }

    /// Looks at erasure-coded fragments while they are read from the beginning.
    #[must_use]
    pub fn inspected(mut self, inspector: Box<dyn Inspector>) -> Self {
        self.inspector = Some(inspector);
        self
    }

    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Continues at `start` and up to, not including, `end`. Only reading all of the object checks it.
    pub fn range(&mut self, start: u64, end: u64) {
        self.at = start;
        self.end = end.min(self.opened.size);
        self.dropped = start;
        self.md5 = (start == 0 && self.end == self.opened.size).then(Md5::new);
        if start != 0 {
            self.inspector = None;
        }
    }

    /// As [`Self::range`], but reading on from where it is keeps what has been checked so far.
    pub fn go_on(&mut self, at: u64, end: u64) {
        if at != self.at || end != self.end {
            self.range(at, end);
        }
    }

    pub fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The next bytes, at most `max`; empty at the end. Errors: `Quarantined` when the object turned out damaged;
    /// what was read so far must then not pass as the whole object. So the last piece is only given once the
    /// checksum is right.
    pub fn read(&mut self, max: usize) -> DiskResult<Bytes> {
        let want = self.remaining().min(max as u64) as usize;
        if want == 0 {
            return Ok(Bytes::new());
        }
        let mut buf = Vec::with_capacity(want);
        while buf.len() < want {
            let before = buf.len();
            let at = self.at + before as u64;
            let n = match rustix::io::pread(&self.opened.file, spare_capacity(&mut buf), at) {
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) if crate::quarantine::is_corrupt(&e.into()) => return Err(self.damaged(format!("read failed: {e}"))),
                Err(e) => return Err(e.into()),
            };
            if n == 0 {
                return Err(self.damaged(format!("Bytes read: {at}, does not match metadata: {}", self.opened.size)));
            }
        }
        buf.truncate(want);
        self.at += want as u64;
        if !self.keep_cache && (self.at - self.dropped >= DROP_WINDOW || self.at == self.end) {
            crate::writer::drop_cache(&self.opened.file, self.dropped, self.at - self.dropped);
            self.dropped = self.at;
        }
        self.check(&buf)?;
        Ok(buf.into())
    }

    fn check(&mut self, chunk: &[u8]) -> DiskResult<()> {
        let at_end = self.at == self.opened.size;
        if let Some(i) = &mut self.inspector {
            let result = i.update(chunk).and_then(|()| if at_end { i.finish() } else { Ok(()) });
            if let Err(reason) = result {
                return Err(self.damaged(reason));
            }
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(chunk);
        }
        if at_end && let Some(sum) = self.md5.take() {
            let sum = to_hex(&sum.finalize());
            let etag = self.opened.etag();
            if sum != etag {
                let reason = format!("ETag {etag} and file's md5 {sum} do not match");
                return Err(self.damaged(reason));
            }
        }
        Ok(())
    }

    fn damaged(&self, reason: String) -> DiskError {
        self.object.quarantine(&self.object.dir, reason)
    }
}

impl DiskFile {
    /// Opens for reading.
    pub fn reader(&self, now: caelum_swiftkit::Timestamp) -> DiskResult<Reader> {
        Ok(Reader::new(self.clone(), self.open(now)?))
    }
}
