//! What was stored lately.

use std::collections::HashSet;
use std::hash::Hash;

/// Remembers at least the last `half` and at most twice as many. The store says in its results
/// what it lacked when it looked; what came in meanwhile is recognised here.
#[derive(Debug)]
pub(crate) struct Remembered<T> {
    half: usize,
    young: HashSet<T>,
    old: HashSet<T>,
}

impl<T: Eq + Hash> Remembered<T> {
    /// Nothing yet.
    pub(crate) fn new(half: usize) -> Self {
        Self { half, young: HashSet::new(), old: HashSet::new() }
    }

    /// Remembers `item`.
    pub(crate) fn insert(&mut self, item: T) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(item);
    }

    /// Whether `item` is remembered.
    pub(crate) fn contains(&self, item: &T) -> bool {
        self.young.contains(item) || self.old.contains(item)
    }

    /// Forgets `item`.
    pub(crate) fn remove(&mut self, item: &T) {
        self.young.remove(item);
        self.old.remove(item);
    }

    /// Forgets everything and gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.young = HashSet::new();
        self.old = HashSet::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_memory_is_bounded() {
        let mut remembered = Remembered::new(100);
        for n in 0..10_000_u32 {
            remembered.insert(n);
            assert!(remembered.contains(&n));
            assert!(remembered.contains(&n.saturating_sub(99)));
            assert!(remembered.young.len() + remembered.old.len() <= 200);
        }
        remembered.remove(&9_999);
        assert!(!remembered.contains(&9_999));
    }
}
