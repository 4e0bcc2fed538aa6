use std::sync::Mutex;

/// Where random bytes come from.
pub trait Rng: Send + Sync {
    fn fill(&self, out: &mut [u8]);

    fn u64(&self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }

    /// A number in `0..n`; 0 when `n` is 0. The bias is below 2⁻³² for the small `n` used here.
    fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.u64() % n }
    }
}

/// The operating system's cryptographic source.
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system always gives random bytes");
    }
}

/// A repeatable source for tests and simulation (splitmix64). Never for secrets.
pub struct SeededRng(Mutex<u64>);

impl SeededRng {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Rng for SeededRng {
    fn fill(&self, out: &mut [u8]) {
        let mut state = self.0.lock().expect("no holder of this lock panics");
        for chunk in out.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
        }
    }
}
