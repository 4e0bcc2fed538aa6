//! A small cache with an age limit, for lookups that every create repeats.

use caelum_base::{Env, Timestamp};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Entries kept; the whole cache is dropped beyond it.
const MAX_ENTRIES: usize = 4_096;

pub struct Cache<T> {
    env: Env,
    age: Duration,
    map: Mutex<HashMap<String, (Timestamp, T)>>,
}

impl<T: Clone> Cache<T> {
    pub fn new(env: Env, age: Duration) -> Self {
        Self { env, age, map: Mutex::default() }
    }

    pub fn get(&self, key: &str) -> Option<T> {
        let now = self.env.now();
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).filter(|(at, _)| now.since(*at) < self.age).map(|(_, v)| v.clone())
    }

    pub fn put(&self, key: &str, value: T) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_ENTRIES {
            map.clear();
        }
        map.insert(key.to_string(), (self.env.now(), value));
    }

    pub fn remove(&self, key: &str) {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
