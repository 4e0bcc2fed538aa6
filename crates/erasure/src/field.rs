//! Arithmetic in GF(2^8) and GF(2^16): single elements for matrices, whole buffers for data.
//!
//! Buffers are multiplied by bits instead of tables: a constant's product is the sum of the doublings of
//! the data that the constant's bits select. Doubling works on all lanes of a vector register at once, so
//! that plain loops run at memory speed where a table look-up per byte would not.

/// A field of 2^8 or 2^16 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Reduced by x^8 + x^4 + x^3 + x^2 + 1 (0x11d), as in ISA-L.
    Gf8,
    /// Reduced by x^16 + x^12 + x^3 + x + 1 (0x1100b), as in liberasurecode. Little-endian in memory.
    Gf16,
}

/// Bytes worked on at a time: eight doublings and a few sums of it fit the first-level cache.
const BLOCK: usize = 1_024;

impl Field {
    pub fn bits(self) -> usize {
        match self {
            Self::Gf8 => 8,
            Self::Gf16 => 16,
        }
    }

    fn double(self, a: u32) -> u32 {
        let (top, poly) = match self {
            Self::Gf8 => (0x100, 0x11d),
            Self::Gf16 => (0x1_0000, 0x1_100b),
        };
        let d = a << 1;
        if d & top != 0 { d ^ poly } else { d }
    }

    pub fn mul(self, a: u16, b: u16) -> u16 {
        let (mut sum, mut power) = (0, u32::from(a));
        for bit in 0..self.bits() {
            if b >> bit & 1 == 1 {
                sum ^= power;
            }
            power = self.double(power);
        }
        // Both fields' elements fit.
        sum as u16
    }

    /// The inverse of a non-zero element: a^(2^bits − 2).
    pub fn inv(self, a: u16) -> u16 {
        let (mut out, mut square) = (1, a);
        for _ in 1..self.bits() {
            square = self.mul(square, square);
            out = self.mul(out, square);
        }
        out
    }

    /// Adds `coefficients[i] · input` to `outputs[i]` for all i. All buffers have one length, a multiple of
    /// the element's size.
    pub fn multiply_add(self, input: &[u8], coefficients: &[u16], outputs: &mut [&mut [u8]]) {
        let highest = coefficients.iter().fold(0, |all, c| all | c);
        let needed = 16 - highest.leading_zeros() as usize;
        let mut powers = [[0_u8; BLOCK]; 2];
        for (at, block) in input.chunks(BLOCK).enumerate().map(|(i, b)| (i * BLOCK, b)) {
            let n = block.len();
            powers[0][..n].copy_from_slice(block);
            for bit in 0..needed {
                let [even, odd] = &mut powers;
                let (now, next) = if bit % 2 == 0 { (even, odd) } else { (odd, even) };
                for (c, out) in coefficients.iter().zip(outputs.iter_mut()) {
                    if c >> bit & 1 == 1 {
                        xor(&mut out[at..at + n], &now[..n]);
                    }
                }
                if bit + 1 < needed {
                    self.double_all(&now[..n], &mut next[..n]);
                }
            }
        }
    }

    fn double_all(self, from: &[u8], to: &mut [u8]) {
        match self {
            Self::Gf8 => {
                for (t, f) in to.iter_mut().zip(from) {
                    // The sign bit spread over the byte selects the reduction.
                    *t = (f << 1) ^ (((*f as i8) >> 7) as u8 & 0x1d);
                }
            }
            Self::Gf16 => {
                let (to, _) = to.as_chunks_mut::<2>();
                let (from, _) = from.as_chunks::<2>();
                for (t, f) in to.iter_mut().zip(from) {
                    let v = u16::from_le_bytes(*f);
                    *t = ((v << 1) ^ (((v as i16) >> 15) as u16 & 0x100b)).to_le_bytes();
                }
            }
        }
    }
}

fn xor(to: &mut [u8], from: &[u8]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t ^= f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements() {
        assert_eq!(Field::Gf8.mul(0x80, 2), 0x1d);
        assert_eq!(Field::Gf16.mul(3, 61_447), 2);
        for f in [Field::Gf8, Field::Gf16] {
            for a in [1, 2, 3, 77, 142, 255] {
                assert_eq!(f.mul(a, f.inv(a)), 1, "{f:?} {a}");
            }
        }
    }

    #[test]
    fn buffers_agree_with_elements() {
        for f in [Field::Gf8, Field::Gf16] {
            let step = f.bits() / 8;
            let input: Vec<u8> = (0..3_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let coefficients = [0, 1, 0x1d, if step == 1 { 0xff } else { 0xf00d }];
            let mut outputs = vec![vec![7_u8; input.len()]; coefficients.len()];
            f.multiply_add(&input, &coefficients, &mut outputs.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
            for (c, out) in coefficients.iter().zip(&outputs) {
                for i in (0..input.len()).step_by(step) {
                    let read = |b: &[u8]| b[i..i + step].iter().rev().fold(0, |acc, x| acc << 8 | u16::from(*x));
                    let seven = if step == 1 { 7 } else { 0x0707 };
                    assert_eq!(read(out), f.mul(*c, read(&input)) ^ seven);
                }
            }
        }
    }
}
