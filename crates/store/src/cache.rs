//! A bounded cache of structured objects, which walks and merges read again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ark_core::Link;
use bytes::Bytes;

use crate::index::TopicNumber;

/// Bytes of objects that the cache may hold.
const CAPACITY_BYTES: usize = 16 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 128;

type Key = (TopicNumber, Link);

/// Two generations: the older is dropped when the younger is full; what is read moves to the
/// younger. What stays is what was used recently, at the cost of two lookups.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Bytes>,
    young_bytes: usize,
    old: HashMap<Key, Bytes>,
}

impl Cache {
    /// The bytes, if a repo read or kept them here recently. Presence is per repo.
    pub(crate) fn get(&self, topic: TopicNumber, link: Link) -> Option<Bytes> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (topic, link);
        if let Some(bytes) = generations.young.get(&key) {
            return Some(bytes.clone());
        }
        let bytes = generations.old.remove(&key)?;
        generations.insert(key, bytes.clone());
        Some(bytes)
    }

    /// Keeps a structured object that this repo has.
    pub(crate) fn insert(&self, topic: TopicNumber, link: Link, bytes: Bytes) {
        if link.kind.is_structured() {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            generations.insert((topic, link), bytes);
        }
    }
}

impl Generations {
    fn insert(&mut self, key: Key, bytes: Bytes) {
        let cost = bytes.len() + ENTRY_BYTES;
        if self.young_bytes + cost > CAPACITY_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, bytes).is_none() {
            self.young_bytes += cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use ark_core::ObjectId;

    use super::*;

    fn link(number: usize) -> Link {
        Link::directory(ObjectId::of(&number.to_le_bytes()))
    }

    #[test]
    fn holds_what_is_used_and_stays_bounded() {
        let cache = Cache::default();
        let bytes = Bytes::from(vec![0; 1 << 20]);
        cache.insert(0, link(0), bytes.clone());
        for number in 1..100 {
            cache.insert(0, link(number), bytes.clone());
            assert!(cache.get(0, link(0)).is_some(), "used again and again");
        }
        let held = (0..100).filter(|&number| cache.get(0, link(number)).is_some()).count();
        assert!(held <= 16, "{held} MiB held");
        assert!(cache.get(1, link(0)).is_none(), "presence is per repo");
    }

    #[test]
    fn content_is_not_held() {
        let cache = Cache::default();
        let id = ObjectId::of(b"x");
        cache.insert(0, Link::raw(id), Bytes::from_static(b"x"));
        assert!(cache.get(0, Link::raw(id)).is_none());
    }
}
