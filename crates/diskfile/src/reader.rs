//! Reading an object's data, its checksum verified while it is read whole.

use crate::buffers::{BUFFER, Buffer};
use crate::file::Content;
use crate::{DiskError, DiskFile, DiskResult, Opened};
use bytes::Bytes;
use caelum_swiftkit::to_hex;
use md5::{Digest, Md5};
use rustix::io::{ReadWriteFlags, preadv2};
use std::io::ErrorKind::WouldBlock;
use std::io::IoSliceMut;

/// Looks at an object's bytes in order as they are read from its beginning; an error means that they are damaged.
pub trait Inspector: Send {
    fn update(&mut self, chunk: &[u8]) -> Result<(), String>;
    /// At the object's end.
    fn finish(&mut self) -> Result<(), String>;
}

/// Reads an opened object in pieces. Blocks, but for [`Self::read_cached`].
pub struct Reader {
    object: DiskFile,
    opened: Opened,
    at: u64,
    end: u64,
    check: Check,
    inspector: Option<Box<dyn Inspector>>,
    keep_cache: bool,
    dropped: u64,
}

/// What is known of the bytes that are read.
enum Check {
    /// A part of the object: nothing can be said.
    None,
    /// The whole object was right and is in memory still.
    Known,
    /// It was, but this is no longer in memory: what has been read so far has to be read again.
    Again,
    Md5(Md5),
}

/// Read between two hints to drop pages from the cache.
const DROP_WINDOW: u64 = 1 << 20;
/// Larger objects never stay in the page cache: when part of one had to be read anew, checking all of it would take long.
const LARGEST_KEPT: u64 = 256 << 20;
/// Objects up to this are checked each time they are read from their files.
const SMALL: u64 = crate::recent::LARGEST;

impl Reader {
    pub fn new(object: DiskFile, opened: Opened) -> Self {
        let keep_cache = opened.size <= object.manager.config.keep_cache_size || object.manager.verified.contains(&opened.id);
        let end = opened.size;
        let mut out = Self { object, opened, at: 0, end, check: Check::None, inspector: None, keep_cache, dropped: 0 };
        out.range(0, end);
        out
    }

    /// A client asks for this. Large objects that are asked for again soon stay in the page cache, which others of their
    /// size only pass through.
    #[must_use]
    pub fn wanted(mut self) -> Self {
        self.keep_cache = self.keep_cache || self.opened.size <= LARGEST_KEPT && self.object.manager.verified.wanted_again(self.opened.id);
        self
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
        if start != 0 {
            self.inspector = None;
        }
        let memory = matches!(self.opened.content, Content::Memory(_));
        self.check = if memory || start != 0 || self.end != self.opened.size {
            Check::None
        } else if self.opened.size > SMALL && self.object.manager.verified.contains(&self.opened.id) {
            Check::Known
        } else {
            Check::Md5(Md5::new())
        };
    }

    /// What follows may wait for the disk, whatever [`DiskFile::in_memory`] said.
    #[must_use]
    pub fn from_disk(mut self) -> Self {
        self.object.in_memory = false;
        self
    }

    /// As [`Self::range`], but reading on from where it is keeps what has been checked so far.
    pub fn go_on(&mut self, at: u64, end: u64) {
        if at != self.at || end != self.end {
            self.range(at, end);
        }
    }

    /// Whether all of the object is to be read, was found right a moment ago, and is in memory as far as known.
    pub fn is_known_right(&self) -> bool {
        matches!(self.check, Check::Known)
    }

    pub fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The next bytes if they need no check and are in memory. Does not block. `None`: [`Self::read`] has to do it.
    pub fn read_cached(&mut self) -> Option<Bytes> {
        if self.inspector.is_some() || !matches!(self.check, Check::None | Check::Known) || !self.keep_cache {
            return None;
        }
        let want = self.remaining().min(BUFFER as u64) as usize;
        let file = match &self.opened.content {
            Content::File(file) => file,
            Content::Memory(all) => {
                let at = usize::try_from(self.at).ok()?;
                self.at += want as u64;
                return (want > 0).then(|| all.slice(at..at + want));
            }
        };
        let mut buffer = Buffer::new();
        let space = &mut [IoSliceMut::new(buffer.space().get_mut(..want)?)];
        match preadv2(file, space, self.at, ReadWriteFlags::NOWAIT) {
            Ok(n) if n > 0 => {
                self.at += n as u64;
                Some(buffer.filled(n))
            }
            _ => {
                if matches!(self.check, Check::Known) {
                    self.object.manager.verified.remove(&self.opened.id);
                    self.check = Check::Again;
                }
                None
            }
        }
    }

    /// The next bytes, at most `max`; empty at the end. Errors: `Quarantined` when the object turned out damaged;
    /// what was read so far must then not pass as the whole object. So the last piece is only given once the
    /// checksum is right.
    pub fn read(&mut self, max: usize) -> DiskResult<Bytes> {
        if matches!(self.check, Check::Known | Check::Again) {
            self.check_again()?;
        }
        let out = self.piece(max)?;
        if !self.keep_cache && (self.at - self.dropped >= DROP_WINDOW || self.at == self.end) {
            if let Content::File(file) = &self.opened.content {
                crate::writer::drop_cache(file, self.dropped, self.at - self.dropped);
            }
            self.dropped = self.at;
        }
        Ok(out)
    }

    /// Reads and checks what comes next.
    fn piece(&mut self, max: usize) -> DiskResult<Bytes> {
        let want = self.remaining().min(max as u64).min(BUFFER as u64) as usize;
        if want == 0 {
            return Ok(Bytes::new());
        }
        let out: Bytes = if want as u64 <= SMALL {
            let mut small = vec![0; want];
            self.fill(&mut small)?;
            small.into()
        } else {
            let mut buffer = Buffer::new();
            self.fill(buffer.space().get_mut(..want).unwrap_or_default())?;
            buffer.filled(want)
        };
        self.at += want as u64;
        self.check(&out)?;
        Ok(out)
    }

    fn fill(&self, buf: &mut [u8]) -> DiskResult<()> {
        let file = match &self.opened.content {
            Content::File(file) => file,
            Content::Memory(all) => {
                let at = usize::try_from(self.at).unwrap_or(usize::MAX);
                let rest = all.get(at..).and_then(|r| r.get(..buf.len())).ok_or_else(|| DiskError::Invalid("past the end".into()))?;
                buf.copy_from_slice(rest);
                return Ok(());
            }
        };
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let at = self.at + done as u64;
            let read = if self.object.in_memory {
                preadv2(file, &mut [IoSliceMut::new(rest)], at, ReadWriteFlags::NOWAIT)
            } else {
                rustix::io::pread(file, rest, at)
            };
            match read {
                Ok(0) => return Err(self.damaged(format!("Bytes read: {at}, does not match metadata: {}", self.opened.size))),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                // A filesystem that cannot tell (tmpfs, NFS).
                Err(rustix::io::Errno::OPNOTSUPP) if self.object.in_memory => return Err(std::io::Error::from(WouldBlock).into()),
                Err(e) if crate::quarantine::is_corrupt(&e.into()) => return Err(self.damaged(format!("read failed: {e}"))),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Catches up with what was given out without a check.
    fn check_again(&mut self) -> DiskResult<()> {
        let at = std::mem::take(&mut self.at);
        self.check = Check::Md5(Md5::new());
        while self.at < at {
            let rest = usize::try_from(at - self.at).unwrap_or(usize::MAX);
            self.piece(rest)?;
        }
        Ok(())
    }

    fn check(&mut self, chunk: &Bytes) -> DiskResult<()> {
        let at_end = self.at == self.opened.size;
        if let Some(i) = &mut self.inspector {
            let result = i.update(chunk).and_then(|()| if at_end { i.finish() } else { Ok(()) });
            if let Err(reason) = result {
                return Err(self.damaged(reason));
            }
        }
        let Check::Md5(md5) = &mut self.check else { return Ok(()) };
        md5.update(chunk);
        if !at_end {
            return Ok(());
        }
        let sum = to_hex(&std::mem::take(md5).finalize());
        self.check = Check::None;
        let etag = self.opened.etag();
        if sum != etag {
            let reason = format!("ETag {etag} and file's md5 {sum} do not match");
            return Err(self.damaged(reason));
        }
        let manager = &self.object.manager;
        if self.inspector.is_some() || !self.keep_cache {
            return Ok(());
        }
        if self.opened.size > SMALL {
            manager.verified.insert(self.opened.id);
        } else if self.object.in_memory {
            manager.recent.insert(&self.object.dir, &self.opened, chunk.clone(), manager.config.env.now().0);
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
