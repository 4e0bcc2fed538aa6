//! Ids, clock, randomness, secrets, errors and limits: what every crate shares. No I/O beyond
//! asking the operating system for the time and for random bytes.
//!
//! Architecture invariant: nothing outside [`SystemClock`] and [`SystemRng`] asks the system for
//! time or randomness; both travel as parameters inside [`Env`], so that tests can replay them.

mod clock;
mod error;
mod id;
pub mod limits;
mod rng;
mod secret;
mod wire;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{Error, ErrorKind, Result};
pub use id::{is_hex_id, is_uuid};
pub use rng::{Rng, SeededRng, SystemRng};
pub use secret::Secret;
pub use wire::WireError;

use std::sync::Arc;

/// The outside world as a parameter: time and randomness.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

impl Env {
    /// The real clock and the operating system's random source.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), rng: Arc::new(SystemRng) }
    }

    /// Current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A random version-4 UUID with hyphens, the form of Nova, Neutron, Glance and Cinder ids.
    pub fn uuid(&self) -> String {
        id::uuid(&*self.rng)
    }

    /// A random UUID without hyphens, the form of Keystone ids.
    pub fn hex_id(&self) -> String {
        id::hex_id(&*self.rng)
    }

    /// `req-<uuid>`, the form of OpenStack request ids.
    pub fn request_id(&self) -> String {
        format!("req-{}", self.uuid())
    }

    /// `n` random bytes.
    pub fn bytes(&self, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        self.rng.fill(&mut out);
        out
    }

    /// A random password of 32 characters from `[A-Za-z0-9]` (≈ 190 bits).
    pub fn password(&self) -> Secret<String> {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut out = String::with_capacity(32);
        while out.len() < 32 {
            for byte in self.bytes(32) {
                // Rejection keeps the distribution uniform: 248 is the largest multiple of 62.
                if byte < 248 && out.len() < 32 {
                    out.push(char::from(ALPHABET[usize::from(byte % 62)]));
                }
            }
        }
        Secret::new(out)
    }
}
