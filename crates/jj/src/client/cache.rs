//! What was read or written lately: jj's own caches hold some hundred commits and trees, and no
//! views and operations.

use std::collections::hash_map::RandomState;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use ark_core::Link;
use bytes::Bytes;
use clru::{CLruCache, CLruCacheConfig, WeightScale};

/// The most that it holds, in bytes.
const CAPACITY_BYTES: NonZeroUsize = NonZeroUsize::new(32 << 20).expect("not zero");
/// Larger objects are contents of files, which are read once.
const MAX_OBJECT_BYTES: usize = 256 << 10;
/// What an object takes beside its bytes.
const ENTRY_BYTES: usize = 128;

/// Objects by their links; those used least recently go.
#[derive(Debug)]
pub(super) struct Cache(Mutex<CLruCache<Link, Bytes, RandomState, Weight>>);

#[derive(Debug)]
struct Weight;

impl WeightScale<Link, Bytes> for Weight {
    fn weight(&self, _link: &Link, bytes: &Bytes) -> usize {
        ENTRY_BYTES + bytes.len()
    }
}

impl Default for Cache {
    fn default() -> Self {
        let config = CLruCacheConfig::new(CAPACITY_BYTES).with_scale(Weight);
        Self(Mutex::new(CLruCache::with_config(config)))
    }
}

impl Cache {
    pub(super) fn get(&self, link: Link) -> Option<Bytes> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&link).cloned()
    }

    pub(super) fn insert(&self, link: Link, bytes: Bytes) {
        if bytes.len() <= MAX_OBJECT_BYTES {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // It is lighter than all the room there is.
            drop(held.put_with_weight(link, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use ark_core::ObjectId;

    use super::*;

    #[test]
    fn it_holds_what_is_used_and_stays_bounded() {
        let cache = Cache::default();
        let link = |n: u32| Link::raw(ObjectId::of(&n.to_le_bytes()));
        let bytes = Bytes::from(vec![0; 64 << 10]);
        for n in 0..2000 {
            cache.insert(link(n), bytes.clone());
            assert!(cache.get(link(0)).is_some());
        }
        let held = (0..2000).filter(|&n| cache.get(link(n)).is_some()).count();
        assert!((300..=512).contains(&held), "{held}");
        cache.insert(link(2001), Bytes::from(vec![0; MAX_OBJECT_BYTES + 1]));
        assert!(cache.get(link(2001)).is_none());
    }
}
