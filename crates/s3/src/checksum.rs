//! Checksums that clients send with what they upload. Source: Amazon S3's user guide, "Checking object integrity".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

pub const ALL: [Algorithm; 5] = [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

impl Algorithm {
    /// The header, and the trailer, of this checksum.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// `CRC32`
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The XML element of this checksum.
    pub fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc32c => "ChecksumCRC32C",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
            Self::Sha1 => "ChecksumSHA1",
            Self::Sha256 => "ChecksumSHA256",
        }
    }

    pub fn by_header(name: &str) -> Option<Self> {
        ALL.into_iter().find(|a| a.header().eq_ignore_ascii_case(name))
    }

    pub fn by_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Whether a text can be a value of this checksum.
    pub fn accepts(self, value: &str) -> bool {
        STANDARD.decode(value).is_ok_and(|b| b.len() == self.length())
    }

    pub fn hasher(self) -> Hasher {
        match self {
            Self::Crc32 => Hasher::Crc32(!0, table32(0xedb8_8320)),
            Self::Crc32c => Hasher::Crc32(!0, table32(0x82f6_3b78)),
            Self::Crc64Nvme => Hasher::Crc64(!0, table64(0x9a6c_9329_ac4b_c9b5)),
            Self::Sha1 => Hasher::Sha1(Sha1::new()),
            Self::Sha256 => Hasher::Sha256(Sha256::new()),
        }
    }
}

type Table<T> = [[T; 256]; 8];

/// A checksum being computed.
pub enum Hasher {
    Crc32(u32, &'static Table<u32>),
    Crc64(u64, &'static Table<u64>),
    Sha1(Sha1),
    Sha256(Sha256),
}

/// Tables for eight bytes at a time, made once for each polynomial (in reversed bit order).
fn table32(poly: u32) -> &'static Table<u32> {
    static CRC32: std::sync::OnceLock<Table<u32>> = std::sync::OnceLock::new();
    static CRC32C: std::sync::OnceLock<Table<u32>> = std::sync::OnceLock::new();
    let cell = if poly == 0xedb8_8320 { &CRC32 } else { &CRC32C };
    cell.get_or_init(|| {
        let mut t = [[0_u32; 256]; 8];
        for (i, slot) in (0_u32..).zip(t[0].iter_mut()) {
            *slot = (0..8).fold(i, |c, _| if c & 1 == 1 { poly ^ (c >> 1) } else { c >> 1 });
        }
        for k in 1..8 {
            for i in 0..256 {
                let c = t[k - 1][i];
                t[k][i] = t[0][(c & 0xff) as usize] ^ (c >> 8);
            }
        }
        t
    })
}

fn table64(poly: u64) -> &'static Table<u64> {
    static CRC64: std::sync::OnceLock<Table<u64>> = std::sync::OnceLock::new();
    CRC64.get_or_init(|| {
        let mut t = [[0_u64; 256]; 8];
        for (i, slot) in (0_u64..).zip(t[0].iter_mut()) {
            *slot = (0..8).fold(i, |c, _| if c & 1 == 1 { poly ^ (c >> 1) } else { c >> 1 });
        }
        for k in 1..8 {
            for i in 0..256 {
                let c = t[k - 1][i];
                t[k][i] = t[0][(c & 0xff) as usize] ^ (c >> 8);
            }
        }
        t
    })
}

fn crc32(mut crc: u32, t: &Table<u32>, data: &[u8]) -> u32 {
    let mut words = data.chunks_exact(8);
    for w in &mut words {
        let low = crc ^ u32::from_le_bytes([w[0], w[1], w[2], w[3]]);
        let at = |k: usize, v: u32| t[k][(v & 0xff) as usize];
        crc = at(7, low)
            ^ at(6, low >> 8)
            ^ at(5, low >> 16)
            ^ at(4, low >> 24)
            ^ at(3, u32::from(w[4]))
            ^ at(2, u32::from(w[5]))
            ^ at(1, u32::from(w[6]))
            ^ at(0, u32::from(w[7]));
    }
    words.remainder().iter().fold(crc, |c, b| t[0][((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

fn crc64(mut crc: u64, t: &Table<u64>, data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    for w in &mut words {
        let v = crc ^ u64::from_le_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]);
        crc = (0..8).fold(0, |c, k| c ^ t[7 - k][((v >> (8 * k)) & 0xff) as usize]);
    }
    words.remainder().iter().fold(crc, |c, b| t[0][((c ^ u64::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

/// Over GF(2): a matrix of `N` columns times a vector.
fn times(matrix: &[u64], mut v: u64) -> u64 {
    let mut sum = 0;
    for column in matrix {
        if v & 1 == 1 {
            sum ^= column;
        }
        v >>= 1;
    }
    sum
}

/// The CRC of two pieces of data one after the other, from the CRC of each and the second one's length in bytes. That
/// many zero bytes are appended to the first by squaring the operator that appends one bit.
fn combined(poly: u64, bits: usize, first: u64, second: u64, length: u64) -> u64 {
    let mut operator: Vec<u64> = (0..bits).map(|i| if i == 0 { poly } else { 1 << (i - 1) }).collect();
    let mut crc = first;
    let mut left = u128::from(length) * 8;
    while left > 0 {
        if left & 1 == 1 {
            crc = times(&operator, crc);
        }
        operator = operator.iter().map(|c| times(&operator, *c)).collect();
        left >>= 1;
    }
    crc ^ second
}

const POLY_CRC32: u64 = 0xedb8_8320;
const POLY_CRC32C: u64 = 0x82f6_3b78;
const POLY_CRC64: u64 = 0x9a6c_9329_ac4b_c9b5;

/// The checksum of a whole from those of its parts in order, each with its length. `None`: the algorithm cannot, or a
/// value is malformed.
pub fn of_parts<'a>(algorithm: Algorithm, parts: impl Iterator<Item = (&'a str, u64)>) -> Option<String> {
    let (poly, bits) = match algorithm {
        Algorithm::Crc32 => (POLY_CRC32, 32),
        Algorithm::Crc32c => (POLY_CRC32C, 32),
        Algorithm::Crc64Nvme => (POLY_CRC64, 64),
        Algorithm::Sha1 | Algorithm::Sha256 => return None,
    };
    let mut whole = 0;
    for (value, length) in parts {
        let bytes = STANDARD.decode(value).ok().filter(|b| b.len() == bits / 8)?;
        let crc = bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        whole = combined(poly, bits, whole, crc, length);
    }
    Some(STANDARD.encode(&whole.to_be_bytes()[8 - bits / 8..]))
}

impl Hasher {
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32(c, t) => *c = crc32(*c, t, data),
            Self::Crc64(c, t) => *c = crc64(*c, t, data),
            Self::Sha1(h) => h.update(data),
            Self::Sha256(h) => h.update(data),
        }
    }

    /// In base 64, as it travels.
    pub fn finish(self) -> String {
        match self {
            Self::Crc32(c, _) => STANDARD.encode((!c).to_be_bytes()),
            Self::Crc64(c, _) => STANDARD.encode((!c).to_be_bytes()),
            Self::Sha1(h) => STANDARD.encode(h.finalize()),
            Self::Sha256(h) => STANDARD.encode(h.finalize()),
        }
    }
}

/// Of a whole piece of data.
#[cfg(test)]
pub fn of(algorithm: Algorithm, data: &[u8]) -> String {
    let mut h = algorithm.hasher();
    h.update(data);
    h.finish()
}

/// The checksums that stand in headers.
pub fn in_headers(headers: &HeaderMap) -> Vec<(Algorithm, String)> {
    let value = |a: Algorithm| headers.get(a.header()).and_then(|v| v.to_str().ok()).map(|v| (a, v.trim().to_string()));
    ALL.into_iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_check_values() {
        // The catalogue of CRC algorithms gives these for the nine digits.
        let digits = b"123456789";
        let b64 = |hex: &[u8]| STANDARD.encode(hex);
        assert_eq!(of(Algorithm::Crc32, digits), b64(&0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(of(Algorithm::Crc32c, digits), b64(&0xe306_9283_u32.to_be_bytes()));
        assert_eq!(of(Algorithm::Crc64Nvme, digits), b64(&0xae8b_1486_0a79_9888_u64.to_be_bytes()));
        assert_eq!(of(Algorithm::Sha1, b"abc"), "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
        assert_eq!(of(Algorithm::Sha256, b""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn parts_make_the_whole() {
        let data: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        for a in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            for sizes in [&[100_000][..], &[1, 99_999], &[99_999, 1], &[50_000, 0, 50_000], &[65_536, 30_000, 4464]] {
                let mut rest = &data[..];
                let parts: Vec<(String, u64)> = sizes
                    .iter()
                    .map(|n| {
                        let (part, after) = rest.split_at(*n);
                        rest = after;
                        (of(a, part), *n as u64)
                    })
                    .collect();
                let made = of_parts(a, parts.iter().map(|(c, n)| (c.as_str(), *n)));
                assert_eq!(made.as_deref(), Some(of(a, &data).as_str()), "{a:?} {sizes:?}");
            }
        }
        assert_eq!(of_parts(Algorithm::Sha256, std::iter::empty()), None);
        assert_eq!(of_parts(Algorithm::Crc32, [("AAA", 1)].into_iter()), None);
    }

    #[test]
    fn pieces_do_not_matter() {
        let data: Vec<u8> = (0..1000_u32).map(|i| (i * 7 % 251) as u8).collect();
        for a in ALL {
            let mut h = a.hasher();
            for piece in data.chunks(13) {
                h.update(piece);
            }
            let whole = of(a, &data);
            assert_eq!(h.finish(), whole);
            assert!(a.accepts(&whole) && !a.accepts("AAA") && !a.accepts(""));
            assert_eq!(Algorithm::by_header(a.header()), Some(a));
        }
    }
}
