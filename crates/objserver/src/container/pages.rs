//! Pages of listings that were made a moment ago: clients who watch a container ask for the same page again and
//! again, and putting one together costs far more than sending it.

use bytes::Bytes;
use caelum_broker::RowsVersion;
use caelum_swiftkit::Halves;
use std::sync::{Mutex, PoisonError};

/// Bytes kept at most; a full page in JSON takes some 2 MiB.
const MAX_BYTES: usize = 16 << 20;
/// What a page takes beside its text, roughly.
const OVERHEAD: usize = 512;

/// Pages by the database's file and the question.
pub(super) struct Pages(Mutex<Halves<String, (RowsVersion, Bytes)>>);

impl Default for Pages {
    fn default() -> Self {
        Self(Mutex::new(Halves::new(MAX_BYTES)))
    }
}

impl Pages {
    /// The page, if the rows have not changed since it was made.
    pub fn get(&self, key: &str, now: &RowsVersion) -> Option<Bytes> {
        let (made_of, page) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?;
        (made_of == *now).then_some(page)
    }

    /// Keeps a page. `made_of`: the rows' version before they were read.
    pub fn insert(&self, key: String, made_of: RowsVersion, page: Bytes) {
        let weight = page.len() + key.len() + OVERHEAD;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (made_of, page), weight);
    }
}
