//! What was stored lately.

use std::collections::HashMap;
use std::hash::Hash;

/// Remembers of at least the last `half` items, and at most twice as many, when they came. The
/// store says in its results what it lacked when it looked; what came in meanwhile is recognised
/// here.
#[derive(Debug)]
pub(crate) struct Remembered<T> {
    half: usize,
    young: HashMap<T, u64>,
    old: HashMap<T, u64>,
    /// When the last of those came that are not remembered any more.
    forgotten: u64,
}

impl<T: Eq + Hash> Remembered<T> {
    /// Nothing yet.
    pub(crate) fn new(half: usize) -> Self {
        Self { half, young: HashMap::new(), old: HashMap::new(), forgotten: 0 }
    }

    /// Remembers that `item` came at `moment`.
    pub(crate) fn insert(&mut self, item: T, moment: u64) {
        if self.young.len() >= self.half {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.forgotten = old.into_values().fold(self.forgotten, u64::max);
        }
        self.young.insert(item, moment);
    }

    /// When `item` came, if it is remembered.
    pub(crate) fn get(&self, item: &T) -> Option<u64> {
        self.young.get(item).or_else(|| self.old.get(item)).copied()
    }

    /// Whether `item` came after `moment`, as far as that is remembered: if not, it may have.
    pub(crate) fn may_have_come(&self, item: &T, moment: u64) -> bool {
        self.get(item).unwrap_or(self.forgotten) > moment
    }

    /// Forgets `item`.
    pub(crate) fn remove(&mut self, item: &T) {
        self.young.remove(item);
        self.old.remove(item);
    }

    /// Forgets everything and gives the memory back.
    pub(crate) fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_memory_is_bounded() {
        let mut remembered = Remembered::new(100);
        for n in 0..10_000_u32 {
            remembered.insert(n, u64::from(n));
            assert_eq!(remembered.get(&n), Some(u64::from(n)));
            assert!(remembered.get(&n.saturating_sub(99)).is_some());
            assert!(remembered.young.len() + remembered.old.len() <= 200);
        }
        let came = |n: u32, moment| remembered.may_have_come(&n, moment);
        assert!(came(9_999, 9_998) && !came(9_999, 9_999));
        assert!(!came(10_001, 9_999), "nothing of so late is forgotten");
        assert!(came(10_001, 5_000), "it may be among what is");
        remembered.remove(&9_999);
        assert_eq!(remembered.get(&9_999), None);
    }
}
