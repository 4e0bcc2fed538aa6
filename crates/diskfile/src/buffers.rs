//! Buffers for reading that are used again: fresh ones cost a page fault for every 4 KiB.

use bytes::Bytes;
use std::sync::{Mutex, PoisonError};

/// Size of a buffer, and the most that one read gives.
pub(crate) const BUFFER: usize = 256 << 10;
/// Kept for reuse at most: 16 MiB.
const MAX_KEPT: usize = 64;

static KEPT: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer that goes back to the others when nobody needs its bytes any more.
pub(crate) struct Buffer(Box<[u8]>);

impl Buffer {
    pub fn new() -> Self {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()))
    }

    pub fn space(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Its first `n` bytes.
    pub fn filled(self, n: usize) -> Bytes {
        Bytes::from_owner(self).slice(..n)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT && buffer.len() == BUFFER {
            kept.push(buffer);
        }
    }
}
