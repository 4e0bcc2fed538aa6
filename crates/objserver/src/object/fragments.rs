//! Looking at erasure-coded fragments while they are served: a damaged one is quarantined like a whole object whose
//! checksum is wrong.

use caelum_diskfile::Inspector;
use caelum_erasure::{Codec, FragmentInfo};
use caelum_swiftkit::{PolicyKind, StoragePolicy};

/// Cuts an archive into its fragments and checks each.
struct FragmentCheck {
    size: usize,
    buf: Vec<u8>,
    offset: u64,
}

/// For a policy's archives; `None` for whole objects and codes that are not known here.
pub(super) fn inspector(policy: &StoragePolicy) -> Option<Box<dyn Inspector>> {
    let PolicyKind::ErasureCoding { ec_type, data, parity, segment_size, .. } = &policy.kind else { return None };
    let codec = Codec::new(ec_type, *data, *parity).ok()?;
    let size = codec.fragment_size(usize::try_from(*segment_size).ok()?);
    Some(Box::new(FragmentCheck { size, buf: Vec::new(), offset: 0 }))
}

impl FragmentCheck {
    fn check(&self, fragment: &[u8]) -> Result<(), String> {
        match FragmentInfo::parse(fragment) {
            Ok(info) if !info.checksum_mismatch => Ok(()),
            _ => Err(format!("Invalid EC metadata at offset {:#x}", self.offset)),
        }
    }
}

impl Inspector for FragmentCheck {
    fn update(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.buf.extend_from_slice(chunk);
        let mut at = 0;
        while let Some(fragment) = self.buf.get(at..at + self.size) {
            self.check(fragment)?;
            at += self.size;
            self.offset += self.size as u64;
        }
        self.buf.drain(..at);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        if self.buf.is_empty() { Ok(()) } else { self.check(&self.buf) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_byte() {
        let policy = StoragePolicy {
            kind: PolicyKind::ErasureCoding { ec_type: "isa_l_rs_vand".into(), data: 2, parity: 1, segment_size: 1000, duplication: 1 },
            ..StoragePolicy::zero()
        };
        let codec = Codec::new("isa_l_rs_vand", 2, 1).unwrap();
        let mut archive = Vec::new();
        for segment in [&[1_u8; 1000][..], &[2; 1000], &[3; 123]] {
            archive.extend_from_slice(&codec.encode(segment).unwrap()[1]);
        }
        let pass = |archive: &[u8]| {
            let mut i = inspector(&policy).unwrap();
            archive.chunks(333).try_for_each(|c| i.update(c)).and_then(|()| i.finish())
        };
        assert_eq!(pass(&archive), Ok(()));
        for at in [0, 4, 59, codec.fragment_size(1000) + 59] {
            let mut bad = archive.clone();
            bad[at] ^= 1;
            assert!(pass(&bad).is_err(), "{at}");
        }
        assert!(inspector(&StoragePolicy::zero()).is_none());
    }
}
