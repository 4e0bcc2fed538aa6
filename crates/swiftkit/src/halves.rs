//! A bounded memory of what was used lately.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Values with a weight (mostly bytes), in two halves: the older half goes when the younger one is full, and what
/// is asked for moves to the younger. Cheap, and close enough to "the least recently used goes".
pub struct Halves<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    /// Weight of the younger half.
    weight: usize,
    most: usize,
}

impl<K: Hash + Eq, V: Clone> Halves<K, V> {
    /// `most`: weight of all values together; one value has at most half of it.
    pub fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), weight: 0, most }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, weight)) = self.old.remove_entry(key)?;
        self.insert(key, value.clone(), weight);
        Some(value)
    }

    /// A value that is too heavy is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        if weight > self.most / 2 {
            self.remove(&key);
            return;
        }
        self.old.remove(&key);
        self.weight += weight;
        if let Some((_, before)) = self.young.insert(key, (value, weight)) {
            self.weight -= before;
        }
        if self.weight > self.most / 2 {
            self.weight = 0;
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.old.remove(key);
        if let Some((_, weight)) = self.young.remove(key) {
            self.weight -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let mut h = Halves::new(8);
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            h.insert(key, i, 1);
        }
        assert_eq!(h.get("a"), Some(0));
        for i in 0..100 {
            h.insert("x", i, 1);
            assert_eq!(h.get("x"), Some(i), "replaced in place, no heavier for it");
        }
        for key in ["d", "e", "f", "g", "h"] {
            h.insert(key, 9, 1);
            assert_eq!(h.get("a"), Some(0));
        }
        assert_eq!(h.get("b"), None);
    }

    #[test]
    fn too_heavy_a_value_replaces_by_nothing() {
        let mut h = Halves::new(8);
        h.insert("a", 1, 4);
        h.insert("a", 2, 5);
        assert_eq!(h.get("a"), None);
        h.insert("a", 3, 5);
        h.insert("b", 4, 1);
        assert_eq!(h.get("b"), Some(4));
    }
}
