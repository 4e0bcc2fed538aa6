//! Passwords: bcrypt over a SHA-256 digest, so that no byte of a long password is cut off, on a
//! bounded number of threads.

use crate::store::{PasswordHash, User};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_base::{Env, Error, Result, Secret};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Longest password, as upstream's `max_password_length`.
pub const MAX_PASSWORD: usize = 4096;
/// Marks hashes of the digest, not of the bare password.
const PREFIX: &str = "sha256:";
/// Requests that may wait for a hashing thread; more are told to come back.
const MAX_WAITING: usize = 512;

/// Hashes and checks passwords.
pub struct Hasher {
    cost: u32,
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    env: Env,
    /// Checked against when there is no user, so that this takes as long as a wrong password.
    dummy: String,
}

fn digest(password: &str) -> String {
    STANDARD.encode(Sha256::digest(password.as_bytes()))
}

fn hash_now(password: &str, cost: u32, salt: [u8; 16]) -> Result<String> {
    let parts = bcrypt::hash_with_salt(digest(password), cost, salt);
    Ok(format!("{PREFIX}{}", parts.map_err(|e| Error::internal("bcrypt").caused_by(e))?))
}

impl Hasher {
    /// `cost` is bcrypt's, 4 to 31; each step doubles the time.
    pub fn new(env: Env, cost: u32) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let dummy = hash_now("dummy", cost.clamp(4, 31), [0; 16])?;
        Ok(Self { cost: cost.clamp(4, 31), threads: Arc::new(Semaphore::new(threads)), waiting: AtomicUsize::new(0), env, dummy })
    }

    /// Errors: `Unavailable` when too many wait already.
    async fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::unavailable("Too many requests wait for authentication; try again."));
        }
        let permit = self.threads.clone().acquire_owned().await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = permit.map_err(|e| Error::internal("hashing ended").caused_by(e))?;
        let done = tokio::task::spawn_blocking(move || {
            let out = f();
            drop(permit);
            out
        });
        done.await.map_err(|e| Error::internal("hashing failed").caused_by(e))
    }

    pub async fn hash(&self, password: &Secret<String>) -> Result<String> {
        let (password, cost) = (password.clone(), self.cost);
        let mut salt = [0; 16];
        self.env.rng.fill(&mut salt);
        self.run(move || hash_now(password.expose(), cost, salt)).await?
    }

    /// Whether `password` is the one of `hash`. Without a hash it takes as long and is `false`.
    pub async fn verify(&self, password: &Secret<String>, hash: Option<String>) -> Result<bool> {
        if password.expose().len() > MAX_PASSWORD {
            return Ok(false);
        }
        let (known, hash) = (hash.is_some(), hash.unwrap_or_else(|| self.dummy.clone()));
        let password = password.clone();
        let matches = self.run(move || bcrypt::verify(digest(password.expose()), hash.trim_start_matches(PREFIX)).unwrap_or(false)).await?;
        Ok(known && matches)
    }

    /// Whether `password` is among the last `n` of `user`.
    pub async fn used_lately(&self, user: &User, password: &Secret<String>, n: usize) -> Result<bool> {
        for old in user.passwords.iter().rev().take(n) {
            if self.verify(password, Some(old.hash.clone())).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Passwords kept per user, for the history.
const KEPT: usize = 24;

/// Makes `hash` the password in force.
pub fn set(user: &mut User, hash: String, env: &Env) {
    user.passwords.push(PasswordHash { hash, created_at: env.now() });
    let surplus = user.passwords.len().saturating_sub(KEPT);
    user.passwords.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_passwords_count_to_the_last_byte() {
        let h = Hasher::new(Env::system(), 4).unwrap();
        let long = |end: &str| Secret::new(format!("{}{end}", "x".repeat(100)));
        let hash = h.hash(&long("a")).await.unwrap();
        assert!(h.verify(&long("a"), Some(hash.clone())).await.unwrap());
        assert!(!h.verify(&long("b"), Some(hash.clone())).await.unwrap());
        assert!(!h.verify(&Secret::new("x".repeat(5000)), Some(hash)).await.unwrap());
        assert!(!h.verify(&Secret::new("dummy".to_string()), None).await.unwrap());
    }
}
