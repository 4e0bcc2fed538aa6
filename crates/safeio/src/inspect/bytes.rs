//! The kept parts of an image, and bounds-checked integer reads.

use super::{HEAD_MAX, TAIL_MAX, WINDOW_MAX};

#[derive(Default)]
pub(super) struct Image {
    pub head: Vec<u8>,
    pub window_at: Option<u64>,
    window: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes seen.
    pub total: u64,
}

impl Image {
    pub fn absorb(&mut self, chunk: &[u8]) {
        let room = HEAD_MAX - self.head.len();
        self.head.extend_from_slice(&chunk[..room.min(chunk.len())]);
        self.fill_window(self.total, chunk);
        self.tail.extend_from_slice(&chunk[chunk.len().saturating_sub(TAIL_MAX)..]);
        if self.tail.len() > 4 * TAIL_MAX {
            self.tail.drain(..self.tail.len() - TAIL_MAX);
        }
        self.total += chunk.len() as u64;
    }

    pub fn fill_window_from_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.fill_window(0, &head);
        self.head = head;
    }

    /// Copies what the window still lacks from `chunk`, which lies at `offset` of the image.
    fn fill_window(&mut self, offset: u64, chunk: &[u8]) {
        let Some(start) = self.window_at else { return };
        let missing = WINDOW_MAX - self.window.len();
        let Some(next) = start.checked_add(self.window.len() as u64) else { return };
        if missing > 0 && next >= offset && next - offset < chunk.len() as u64 {
            let from = &chunk[(next - offset) as usize..];
            self.window.extend_from_slice(&from[..missing.min(from.len())]);
        }
    }

    /// `len` bytes at `offset` of the image, when they were kept.
    pub fn at(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let inside = |start: u64, kept: &'_ [u8]| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            Some(from..from.checked_add(len)?).filter(|r| r.end <= kept.len())
        };
        if let Some(range) = inside(0, &self.head) {
            return self.head.get(range);
        }
        if let Some(start) = self.window_at
            && let Some(range) = inside(start, &self.window)
        {
            return self.window.get(range);
        }
        None
    }

    /// The last `n` bytes.
    pub fn last(&self, n: usize) -> Option<&[u8]> {
        self.tail.get(self.tail.len().checked_sub(n)?..)
    }
}

macro_rules! readers {
    ($($name:ident $int:ty, $from:ident;)*) => {
        $(pub(super) fn $name(bytes: &[u8], offset: usize) -> Option<$int> {
            let end = offset.checked_add(size_of::<$int>())?;
            Some(<$int>::$from(bytes.get(offset..end)?.try_into().ok()?))
        })*
    };
}

readers! {
    be16 u16, from_be_bytes;
    be32 u32, from_be_bytes;
    be64 u64, from_be_bytes;
    le16 u16, from_le_bytes;
    le32 u32, from_le_bytes;
    le64 u64, from_le_bytes;
}
