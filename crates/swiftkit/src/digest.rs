use crate::to_hex;
use std::sync::{Arc, OnceLock};

/// The MD5 of an upload, computed once for all servers of this process that store it. It travels as an
/// extension of the request, which nothing that comes over a network can set.
#[derive(Clone, Default)]
pub struct UploadDigest(Arc<OnceLock<(u64, String)>>);

impl UploadDigest {
    /// Tells length (bytes) and MD5 of the whole upload, before its end is passed on. Only the first word counts.
    pub fn set(&self, length: u64, md5: &[u8]) {
        // Told once by the one who sends the data; a second word could only repeat it.
        let _ = self.0.set((length, to_hex(md5)));
    }

    /// The MD5 in hex of an upload of `length` bytes. `None`: it has not ended, or its length is another.
    pub fn of(&self, length: u64) -> Option<String> {
        self.0.get().filter(|(n, _)| *n == length).map(|(_, md5)| md5.clone())
    }
}

/// Extension of a response with an object: all of its bytes were found right a moment ago and are in memory, so
/// that what is sent needs no check. As an extension it says so only within one process.
#[derive(Clone, Copy, Debug)]
pub struct KnownRight;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_upload_has_one() {
        let digest = UploadDigest::default();
        let server = digest.clone();
        assert_eq!(server.of(0), None);
        digest.set(3, &[0xab, 0x01]);
        assert_eq!(server.of(3).as_deref(), Some("ab01"));
        assert_eq!(server.of(2), None, "what was received is not all of it");
    }
}
