//! Copies of files that share or skip what they can.
//!
//! With block sharing (`FICLONE`: XFS, Btrfs, bcachefs) a copy is one atomic step of the file
//! system, so a copy of a disk in use is what a power failure would have left. Elsewhere the data
//! is read from start to end: quick writers may be seen at different moments, which is why such a
//! copy of a disk in use is only for guests that do not write meanwhile.

use caelum_base::{Error, Result};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

const CHUNK: usize = 1 << 20;
/// Zeros are recognised in pieces of this size, a file system block.
const BLOCK: usize = 4096;

mod ioctl {
    // linux/fs.h: FICLONE is _IOW(0x94, 9, int).
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |e| {
        if e.kind() == ErrorKind::StorageFull {
            return Error::unavailable("The volume backend is full.").caused_by(e);
        }
        Error::internal(what).caused_by(e)
    }
}

/// Makes `to` share all blocks of `from`; `false` where the file system cannot.
pub fn reflink(from: &File, to: &File) -> bool {
    let source = nix::libc::c_ulong::try_from(from.as_raw_fd());
    let Ok(source) = source else { return false };
    // SAFETY: both descriptors are open files for the whole call; FICLONE takes a descriptor by
    // value and touches no memory of ours.
    unsafe { ioctl::ficlone(to.as_raw_fd(), source) }.is_ok()
}

/// Copies the content of `from` to the empty file `to`, keeping holes and making holes of zeros.
/// Ends early with an error once `stop` is set.
pub fn sparse(from: &File, to: &File, stop: &AtomicBool) -> Result<()> {
    let length = from.metadata().map_err(io("read a file's length"))?.len();
    to.set_len(length).map_err(io("set a file's length"))?;
    let mut at = 0u64;
    while at < length {
        let Some((start, end)) = data_extent(from, at, length) else { break };
        copy_range(from, to, start, end, stop)?;
        at = end;
    }
    Ok(())
}

/// Reflink if possible, else a sparse copy; the result is durable.
pub fn best(from: &File, to: &File, stop: &AtomicBool, share: bool) -> Result<()> {
    if !(share && reflink(from, to)) {
        sparse(from, to, stop)?;
    }
    to.sync_all().map_err(io("write a file to disk"))
}

/// The next stretch of data at or after `at`; `None` when only a hole is left.
fn data_extent(f: &File, at: u64, length: u64) -> Option<(u64, u64)> {
    let seek = |to: u64, whence| lseek(f, i64::try_from(to).ok()?, whence).ok().and_then(|n| u64::try_from(n).ok());
    match lseek(f, i64::try_from(at).ok()?, Whence::SeekData) {
        Ok(start) => {
            let start = u64::try_from(start).ok()?;
            let end = seek(start, Whence::SeekHole).unwrap_or(length).min(length);
            Some((start, end.max(start + 1)))
        }
        Err(nix::errno::Errno::ENXIO) => None,
        // A file system that knows no holes: everything is data.
        Err(_) => Some((at, length)),
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    let mut at = start;
    while at < end {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::unavailable("The copy was interrupted."));
        }
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let n = from.read_at(&mut buffer[..want], at).map_err(io("read a volume"))?;
        if n == 0 {
            break;
        }
        write_data(to, &buffer[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// Writes what is not zero; the rest stays a hole. The file must read as zeros there already.
pub fn write_data(to: &File, data: &[u8], offset: u64) -> Result<()> {
    let mut at = offset;
    let mut rest = data;
    while !rest.is_empty() {
        let zero = is_zero(&rest[..rest.len().min(BLOCK)]);
        let mut n = rest.len().min(BLOCK);
        while n < rest.len() && is_zero(&rest[n..rest.len().min(n + BLOCK)]) == zero {
            n = rest.len().min(n + BLOCK);
        }
        if !zero {
            to.write_all_at(&rest[..n], at).map_err(io("write a volume"))?;
        }
        at += n as u64;
        rest = &rest[n..];
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(b"middle", (32 << 20) + 17).unwrap();
        from.write_all_at(&[0; 65_536], 40 << 20).unwrap();
        sparse(&from, &to, &AtomicBool::new(false)).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        let mut text = [0; 6];
        to.read_exact_at(&mut text, (32 << 20) + 17).unwrap();
        assert_eq!(&text, b"middle");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "zeros and holes take no room");
        assert!(sparse(&from, &to, &AtomicBool::new(true)).is_err());
    }

    #[test]
    fn best_works_with_and_without_block_sharing() {
        for share in [true, false] {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all_at(b"data", 8192).unwrap();
            best(&from, &to, &AtomicBool::new(false), share).unwrap();
            let mut text = [0; 4];
            to.read_exact_at(&mut text, 8192).unwrap();
            assert_eq!(&text, b"data");
        }
    }
}
