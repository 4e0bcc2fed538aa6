//! AES-256 in counter mode, as a stream that can start at any byte.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};

pub const KEY_LEN: usize = 32;
pub const IV_LEN: usize = 16;
const BLOCK: usize = 16;
/// Blocks whose key stream is made at once; enough to keep the hardware's pipelines full.
const BATCH: usize = 64;

pub type Key = [u8; KEY_LEN];
pub type Iv = [u8; IV_LEN];

/// Encryption and decryption are the same operation.
pub struct Ctr {
    aes: Aes256,
    counter: u128,
    stream: [u8; BATCH * BLOCK],
    /// Bytes of `stream` already used; all of them at first.
    used: usize,
}

impl Ctr {
    pub fn new(key: &Key, iv: &Iv) -> Self {
        Self::at(key, iv, 0)
    }

    /// Positioned `offset` bytes into the message. The counter is the whole IV as one big-endian
    /// number and wraps around at 2¹²⁸.
    pub fn at(key: &Key, iv: &Iv, offset: u64) -> Self {
        let counter = u128::from_be_bytes(*iv).wrapping_add(u128::from(offset / BLOCK as u64));
        let mut this = Self { aes: Aes256::new(&Array::from(*key)), counter, stream: [0; BATCH * BLOCK], used: BATCH * BLOCK };
        let skip = (offset % BLOCK as u64) as usize;
        if skip > 0 {
            this.refill();
            this.used = skip;
        }
        this
    }

    fn refill(&mut self) {
        let mut blocks = [Array::from([0; BLOCK]); BATCH];
        for block in &mut blocks {
            *block = Array::from(self.counter.to_be_bytes());
            self.counter = self.counter.wrapping_add(1);
        }
        self.aes.encrypt_blocks(&mut blocks);
        for (out, block) in self.stream.chunks_exact_mut(BLOCK).zip(&blocks) {
            out.copy_from_slice(block);
        }
        self.used = 0;
    }

    /// Turns the next bytes of the message into ciphertext, or back.
    pub fn apply(&mut self, mut data: &mut [u8]) {
        while !data.is_empty() {
            if self.used == self.stream.len() {
                self.refill();
            }
            let n = data.len().min(self.stream.len() - self.used);
            let (now, later) = data.split_at_mut(n);
            for (d, k) in now.iter_mut().zip(&self.stream[self.used..]) {
                *d ^= k;
            }
            self.used += n;
            data = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caelum_swiftkit::to_hex;

    #[test]
    fn sp800_38a_f55() {
        let hex = |s: &str| (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect::<Vec<u8>>();
        let key: Key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").try_into().unwrap();
        let iv: Iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let mut data = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        Ctr::new(&key, &iv).apply(&mut data);
        assert_eq!(to_hex(&data), "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5");
    }

    #[test]
    fn any_offset_and_any_pieces() {
        let (key, iv) = ([7; KEY_LEN], [0xff; IV_LEN]);
        let mut whole: Vec<u8> = (0..5_000u32).map(|i| i as u8).collect();
        let plain = whole.clone();
        Ctr::new(&key, &iv).apply(&mut whole);
        for start in [0usize, 1, 15, 16, 17, 1_023, 1_024, 1_025, 4_999] {
            let mut part = whole[start..].to_vec();
            let mut ctr = Ctr::at(&key, &iv, start as u64);
            for piece in part.chunks_mut(313) {
                ctr.apply(piece);
            }
            assert_eq!(part, plain[start..], "from {start}");
        }
    }
}
