//! Erasure coding: k data and m parity fragments, any k of which give the data back.
//!
//! Fragments are, byte for byte, those of liberasurecode with the same scheme, so that a cluster's nodes of
//! both kinds read each other's. What it does on damaged headers, missing fragments or unsolvable choices is an
//! [`Error`]; nothing here panics on input. Source: liberasurecode 1.8, ISA-L.

mod field;
mod fragment;
mod matrix;

use field::Field;
pub use fragment::{Checksum, FragmentInfo, HEADER_SIZE};
use matrix::Matrix;

/// A way to compute parities, by the names that `ec_type` in `swift.conf` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    IsaLRsVand,
    IsaLRsVandInv,
    IsaLRsCauchy,
    LiberasurecodeRsVand,
}

impl Scheme {
    pub const ALL: [Self; 4] = [Self::IsaLRsVand, Self::IsaLRsVandInv, Self::IsaLRsCauchy, Self::LiberasurecodeRsVand];

    /// `None`: not a scheme that this program has.
    pub fn from_name(ec_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == ec_type)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::IsaLRsVand => "isa_l_rs_vand",
            Self::IsaLRsVandInv => "isa_l_rs_vand_inv",
            Self::IsaLRsCauchy => "isa_l_rs_cauchy",
            Self::LiberasurecodeRsVand => "liberasurecode_rs_vand",
        }
    }

    fn field(self) -> Field {
        if self == Self::LiberasurecodeRsVand { Field::Gf16 } else { Field::Gf8 }
    }

    fn backend_id(self) -> u8 {
        match self {
            Self::IsaLRsVand => 4,
            Self::LiberasurecodeRsVand => 6,
            Self::IsaLRsCauchy => 7,
            Self::IsaLRsVandInv => 9,
        }
    }

    fn backend_version(self) -> u32 {
        match self {
            Self::IsaLRsVand => 0x0002_0d00,
            Self::IsaLRsCauchy => 0x0002_0e01,
            Self::IsaLRsVandInv | Self::LiberasurecodeRsVand => 0x0001_0000,
        }
    }
}

/// Why fragments were not made or not put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Unknown scheme or impossible k and m.
    Unsupported(String),
    /// A fragment's header is damaged or is of another scheme, or its payload is short.
    BadHeader(&'static str),
    /// Fragments do not belong to one segment.
    Mismatch(&'static str),
    /// Fewer than k different usable fragments.
    TooFew { have: usize, need: usize },
    /// A segment beyond what a header can tell (4 GiB per fragment).
    TooLarge,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(what) => write!(f, "erasure coding: {what}"),
            Self::BadHeader(what) => write!(f, "bad fragment header: {what}"),
            Self::Mismatch(what) => write!(f, "fragments of different segments: {what}"),
            Self::TooFew { have, need } => write!(f, "{have} usable fragments where {need} are needed"),
            Self::TooLarge => f.write_str("segment too large"),
        }
    }
}

impl std::error::Error for Error {}

/// Most fragments: what a field of 256 elements distinguishes; liberasurecode's own limit is 32 per segment for
/// some schemes, ISA-L's this.
const MAX_FRAGMENTS: usize = 255;

/// How a body of some length is cut, as `get_segment_info` of pyeclib tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub segment_size: usize,
    pub last_segment_size: usize,
    /// Of a full segment, header included.
    pub fragment_size: usize,
    pub last_fragment_size: usize,
    pub num_segments: usize,
}

/// Encoder and decoder of one scheme with its k and m. Cheap to share, holds no state.
#[derive(Clone, Debug)]
pub struct Codec {
    scheme: Scheme,
    k: usize,
    m: usize,
    /// Coefficients of the parities.
    parity: Matrix,
}

/// A fragment that passed its checks.
struct Usable<'a> {
    index: usize,
    payload: &'a [u8],
}

impl Codec {
    /// Errors: `Unsupported` for other schemes, and unless k ≥ 1, m ≥ 1, k + m ≤ 255.
    pub fn new(ec_type: &str, k: usize, m: usize) -> Result<Self, Error> {
        let scheme = Scheme::from_name(ec_type).ok_or_else(|| Error::Unsupported(format!("{ec_type} is not a known ec_type")))?;
        if k == 0 || m == 0 || k + m > MAX_FRAGMENTS {
            return Err(Error::Unsupported(format!("{k} data and {m} parity fragments")));
        }
        let parity = match scheme {
            Scheme::IsaLRsVand => Some(matrix::isa_l_vandermonde(k, m)),
            Scheme::IsaLRsCauchy => Some(matrix::isa_l_cauchy(k, m)),
            Scheme::IsaLRsVandInv => matrix::isa_l_vandermonde_inverse(k, m),
            Scheme::LiberasurecodeRsVand => matrix::liberasurecode_vandermonde(k, m),
        };
        let parity = parity.ok_or_else(|| Error::Unsupported(format!("{ec_type} with {k} data and {m} parity fragments")))?;
        Ok(Self { scheme, k, m, parity })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Data fragments: k.
    pub fn data(&self) -> usize {
        self.k
    }

    /// Parity fragments: m.
    pub fn parity(&self) -> usize {
        self.m
    }

    fn element(&self) -> usize {
        self.scheme.field().bits() / 8
    }

    /// Bytes of payload in each fragment of a segment.
    fn payload_size(&self, segment: usize) -> usize {
        segment.div_ceil(self.k * self.element()) * self.element()
    }

    /// Bytes of each fragment of a segment, header included.
    pub fn fragment_size(&self, segment: usize) -> usize {
        HEADER_SIZE + self.payload_size(segment)
    }

    /// As pyeclib tells it: a rest smaller than one element per fragment joins the segment before it. Only
    /// `fragment_size` describes what proxies store, who cut at every `segment_size` whatever remains.
    pub fn segment_info(&self, data_len: usize, segment_size: usize) -> SegmentInfo {
        let segment_size = segment_size.max(1);
        let least = self.k * self.element();
        let whole = |size: usize, last: usize, num_segments: usize| SegmentInfo {
            segment_size: size,
            last_segment_size: last,
            fragment_size: self.fragment_size(size),
            last_fragment_size: self.fragment_size(last),
            num_segments,
        };
        match data_len {
            0 => whole(segment_size, segment_size, 0),
            n if n <= segment_size => whole(n, n, 1),
            n => {
                let count = n.div_ceil(segment_size);
                let last = n - segment_size * (count - 1);
                if last >= least {
                    whole(segment_size, last, count)
                } else if count == 2 {
                    whole(n, n, 1)
                } else {
                    whole(segment_size, last + segment_size, count - 1)
                }
            }
        }
    }

    /// The k + m fragments of a segment, data first, each with its header. Errors: `TooLarge`.
    pub fn encode(&self, segment: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let size = self.payload_size(segment.len());
        if u32::try_from(size).is_err() {
            return Err(Error::TooLarge);
        }
        let make = |index: usize| {
            let header = FragmentInfo::new(self.scheme, index, size, segment.len()).encode();
            let mut out = Vec::with_capacity(HEADER_SIZE + size);
            out.extend_from_slice(&header);
            if let Some(from) = segment.get(index * size..).filter(|_| index < self.k) {
                out.extend_from_slice(&from[..size.min(from.len())]);
            }
            out.resize(HEADER_SIZE + size, 0);
            out
        };
        let mut all: Vec<Vec<u8>> = (0..self.k + self.m).map(make).collect();
        let (data, parities) = all.split_at_mut(self.k);
        let mut outputs: Vec<&mut [u8]> = parities.iter_mut().map(|p| &mut p[HEADER_SIZE..]).collect();
        for (j, input) in data.iter().enumerate() {
            let column: Vec<u16> = self.parity.iter().map(|row| row[j]).collect();
            self.scheme.field().multiply_add(&input[HEADER_SIZE..], &column, &mut outputs);
        }
        Ok(all)
    }

    /// The row of the generator matrix that makes a fragment.
    fn row(&self, index: usize) -> Vec<u16> {
        if index < self.k { (0..self.k).map(|j| u16::from(j == index)).collect() } else { self.parity[index - self.k].clone() }
    }

    /// Checks headers and leaves out repeated fragments. Gives the payload size and the segment's size as well.
    fn usable<'a>(&self, fragments: &[&'a [u8]]) -> Result<(Vec<Usable<'a>>, usize, usize), Error> {
        let mut out: Vec<Usable<'a>> = Vec::with_capacity(fragments.len());
        let mut of: Option<(u32, u64)> = None;
        for fragment in fragments {
            let info = FragmentInfo::parse(fragment)?;
            if info.backend_id != self.scheme.backend_id() {
                return Err(Error::BadHeader("another scheme's"));
            }
            let index = info.index as usize;
            if index >= self.k + self.m {
                return Err(Error::BadHeader("its index is too high"));
            }
            if *of.get_or_insert((info.size, info.orig_data_size)) != (info.size, info.orig_data_size) {
                return Err(Error::Mismatch("their sizes differ"));
            }
            let payload = fragment.get(HEADER_SIZE..HEADER_SIZE + info.size as usize);
            let payload = payload.ok_or(Error::BadHeader("its payload is short"))?;
            if !out.iter().any(|u| u.index == index) {
                out.push(Usable { index, payload });
            }
        }
        let Some((size, orig)) = of else { return Err(Error::TooFew { have: 0, need: self.k }) };
        let orig = usize::try_from(orig).map_err(|_| Error::BadHeader("its segment is too large"))?;
        if orig > self.k * size as usize || !(size as usize).is_multiple_of(self.element()) {
            return Err(Error::BadHeader("its sizes contradict each other"));
        }
        // Data fragments first: they need no arithmetic.
        out.sort_by_key(|u| u.index);
        Ok((out, size as usize, orig))
    }

    /// Computes the payloads of `wanted` fragments from usable ones.
    fn solve(&self, have: &[Usable<'_>], wanted: &[usize], size: usize) -> Result<Vec<Vec<u8>>, Error> {
        let field = self.scheme.field();
        let rows: Vec<Vec<u16>> = have.iter().map(|u| self.row(u.index)).collect();
        let chosen = matrix::independent(field, &rows, self.k);
        let too_few = Error::TooFew { have: chosen.len(), need: self.k };
        if chosen.len() < self.k {
            return Err(too_few);
        }
        let square: Matrix = chosen.iter().map(|i| rows[*i].clone()).collect();
        let inverse = matrix::invert(field, &square).ok_or(too_few)?;
        // Each wanted fragment as a sum of the chosen ones.
        let recipes: Matrix = wanted.iter().map(|w| matrix::combine(field, &self.row(*w), &inverse)).collect();
        let mut out = vec![vec![0_u8; size]; wanted.len()];
        let mut outputs: Vec<&mut [u8]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        for (j, i) in chosen.iter().enumerate() {
            let column: Vec<u16> = recipes.iter().map(|r| r[j]).collect();
            field.multiply_add(have[*i].payload, &column, &mut outputs);
        }
        Ok(out)
    }

    /// The segment from any k of its fragments, in any order; more are allowed. Errors: `TooFew`, `BadHeader`,
    /// `Mismatch`.
    pub fn decode(&self, fragments: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let (have, size, orig) = self.usable(fragments)?;
        let missing: Vec<usize> = (0..self.k).filter(|i| !have.iter().any(|u| u.index == *i)).collect();
        let solved = if missing.is_empty() { Vec::new() } else { self.solve(&have, &missing, size)? };
        let mut out = Vec::with_capacity(self.k * size);
        for i in 0..self.k {
            match (have.iter().find(|u| u.index == i), missing.iter().position(|m| *m == i)) {
                (Some(u), _) => out.extend_from_slice(u.payload),
                (None, Some(at)) => out.extend_from_slice(&solved[at]),
                (None, None) => {}
            }
        }
        out.truncate(orig);
        Ok(out)
    }

    /// One fragment, header included, from any k others. Errors as [`Self::decode`]; `Unsupported` when there
    /// is no such index.
    pub fn reconstruct(&self, fragments: &[&[u8]], index: usize) -> Result<Vec<u8>, Error> {
        if index >= self.k + self.m {
            return Err(Error::Unsupported(format!("there is no fragment {index}")));
        }
        let (have, size, orig) = self.usable(fragments)?;
        let mut out = FragmentInfo::new(self.scheme, index, size, orig).encode().to_vec();
        match have.iter().find(|u| u.index == index) {
            Some(u) => out.extend_from_slice(u.payload),
            None => out.extend_from_slice(&self.solve(&have, &[index], size)?.concat()),
        }
        Ok(out)
    }

    /// Which fragments to fetch to make the `missing` ones, none of `exclude` among them: the first k others
    /// that suffice. Errors: `TooFew`.
    pub fn fragments_needed(&self, missing: &[usize], exclude: &[usize]) -> Result<Vec<usize>, Error> {
        let left: Vec<usize> = (0..self.k + self.m).filter(|i| !missing.contains(i) && !exclude.contains(i)).collect();
        let rows: Vec<Vec<u16>> = left.iter().map(|i| self.row(*i)).collect();
        let chosen = matrix::independent(self.scheme.field(), &rows, self.k);
        if chosen.len() < self.k {
            return Err(Error::TooFew { have: chosen.len(), need: self.k });
        }
        Ok(chosen.into_iter().map(|i| left[i]).collect())
    }
}

#[cfg(test)]
mod tests;
