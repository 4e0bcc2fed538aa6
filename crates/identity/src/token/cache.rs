//! Tokens already understood, so that a hit costs microseconds. Bounded: two halves, the older one
//! is dropped when the younger is full. An entry counts only while the epoch it was derived at is the
//! current one.

use super::Facts;
use bytes::Bytes;
use caelum_rest::Auth;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A valid token and all that is said about it.
pub struct TokenEntry {
    pub facts: Facts,
    pub auth: Arc<Auth>,
    /// The response body of `GET /v3/auth/tokens`, with and without the catalog.
    pub body: Bytes,
    pub body_without_catalog: Bytes,
    pub epoch: u64,
}

const SHARDS: usize = 16;

#[derive(Default)]
struct Halves {
    young: HashMap<String, Arc<TokenEntry>>,
    old: HashMap<String, Arc<TokenEntry>>,
}

pub struct TokenCache {
    shards: Vec<Mutex<Halves>>,
    half: usize,
}

impl TokenCache {
    /// Keeps at most about `capacity` tokens.
    pub fn new(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, half: (capacity / SHARDS / 2).max(1) }
    }

    fn shard(&self, token: &str) -> &Mutex<Halves> {
        // The end of a token is its signature: evenly spread.
        let h = token.bytes().rev().take(8).fold(0usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
        &self.shards[h % SHARDS]
    }

    pub fn get(&self, token: &str, epoch: u64) -> Option<Arc<TokenEntry>> {
        let mut halves = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(e) = halves.young.get(token) {
            return (e.epoch == epoch).then(|| e.clone());
        }
        let e = halves.old.remove(token).filter(|e| e.epoch == epoch)?;
        self.insert(&mut halves, token, e.clone());
        Some(e)
    }

    pub fn put(&self, token: &str, entry: Arc<TokenEntry>) {
        let mut halves = self.shard(token).lock().unwrap_or_else(PoisonError::into_inner);
        self.insert(&mut halves, token, entry);
    }

    fn insert(&self, halves: &mut Halves, token: &str, entry: Arc<TokenEntry>) {
        if halves.young.len() >= self.half {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(token.to_string(), entry);
    }
}
