//! XDR (RFC 4506) as far as libvirt's protocol needs it: big-endian 4-byte units, strings and
//! byte strings padded to 4, optional values behind a boolean.

use caelum_base::{Error, Result};

/// Longest string accepted from the daemon, in bytes (libvirt's own limit for XML is 4 MiB).
const MAX_STRING: usize = 16 << 20;

/// Builds the arguments of a call.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[must_use]
    pub fn u32(mut self, v: u32) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }

    #[must_use]
    pub fn i32(mut self, v: i32) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }

    #[must_use]
    pub fn u64(mut self, v: u64) -> Self {
        self.0.extend_from_slice(&v.to_be_bytes());
        self
    }

    /// Bytes without a length, as UUIDs are sent.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.pad();
        self
    }

    #[must_use]
    pub fn string(mut self, text: &str) -> Self {
        // A string longer than 4 GiB cannot be: callers send documents they built.
        self.0.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.pad();
        self
    }

    #[must_use]
    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            None => self.u32(0),
            Some(t) => self.u32(1).string(t),
        }
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().div_ceil(4) * 4, 0);
    }
}

/// Reads a reply; every read checks the bounds.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(|| Error::internal("libvirt's reply is too short"))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let mut out = [0; 4];
        out.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(out))
    }

    pub fn i32(&mut self) -> Result<i32> {
        Ok(self.u32()?.cast_signed())
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        self.take(N.div_ceil(4) * 4 - N)?;
        Ok(out)
    }

    pub fn string(&mut self) -> Result<String> {
        let n = self.u32()? as usize;
        if n > MAX_STRING {
            return Err(Error::internal("a string in libvirt's reply is too long"));
        }
        let text = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.take(n.div_ceil(4) * 4 - n)?;
        Ok(text)
    }

    pub fn optional(&mut self) -> Result<Option<String>> {
        if self.u32()? == 0 { Ok(None) } else { self.string().map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_with_padding() {
        let bytes =
            Writer::new().u32(7).i32(-2).u64(1 << 40).string("abcde").optional(None).optional(Some("x")).fixed(&[1, 2, 3]).into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let mut r = Reader::new(&bytes);
        assert_eq!((r.u32().unwrap(), r.i32().unwrap(), r.u64().unwrap()), (7, -2, 1 << 40));
        assert_eq!(r.string().unwrap(), "abcde");
        assert_eq!((r.optional().unwrap(), r.optional().unwrap()), (None, Some("x".to_owned())));
        assert_eq!(r.fixed::<3>().unwrap(), [1, 2, 3]);
        assert!(r.u32().is_err());
    }

    #[test]
    fn a_lying_length_is_an_error() {
        assert!(Reader::new(&[0, 0, 0, 9, 1, 2]).string().is_err());
        assert!(Reader::new(&[255, 255, 255, 255]).string().is_err());
    }
}
