//! What is kept of a large set from one session to the next, so that what a session costs follows
//! the difference and not the set.
//!
//! It is the same for every session of a repo, so whoever makes objects can look for some that
//! hide each other in it. Nothing is believed that only a sketch says: see
//! [`Part::Kept`](crate::message::Part::Kept).

use std::fmt;

use ark_core::{Link, TopicId};

use crate::cells::{Cell, Row};
use crate::key::NameKey;
use crate::message::KEPT_CELLS;
use crate::prefix::{MAX_OPENING_BITS, Prefix};
use crate::session::add_to_sum;
use crate::trie::{Digest, LINK_BYTES, Links, Nodes, digest};

/// The first cells of the row over a whole set, and the XOR of the links of each of the smallest
/// buckets that an opening may have. About 600 kB, whatever the set.
#[derive(Clone, PartialEq, Eq)]
pub struct Sketch {
    key: NameKey,
    digest: Digest,
    row: Row,
    /// By the first [`MAX_OPENING_BITS`] bits.
    sums: Vec<[u8; LINK_BYTES]>,
}

impl Sketch {
    /// Of a set of fewer links none is worth its memory: to read them all takes a few
    /// hundredths of a second.
    pub const LEAST_LINKS: u64 = 1 << 16;

    /// Makes the sketch of a set in the repo of `topic`: reads all of it, which for a million links
    /// is most of a second.
    ///
    /// # Errors
    /// What reading fails with.
    pub fn of<E, S>(set: &S, topic: TopicId) -> Result<Self, E>
    where
        S: Links<Error = E> + Nodes<Error = E>,
    {
        Self::with_key(set, NameKey::kept(topic))
    }

    pub(crate) fn with_key<E, S>(set: &S, key: NameKey) -> Result<Self, E>
    where
        S: Links<Error = E> + Nodes<Error = E>,
    {
        let digest = digest(set, set, Prefix::ROOT)?;
        let row = Row::new(&key, 0, KEPT_CELLS.into());
        let mut sketch =
            Self { key, digest, row, sums: vec![[0; LINK_BYTES]; 1 << MAX_OPENING_BITS] };
        for link in set.links(Prefix::ROOT)? {
            let link = link?;
            sketch.row.insert(sketch.key.short_id(link));
            sketch.add_to_sums(link);
        }
        Ok(sketch)
    }

    /// The digest of the set's root.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Brings it after a change of the set: `comes` were not in it and are, `goes` were and are
    /// not, and its root's digest is `digest` then.
    pub fn change(&mut self, comes: &[Link], goes: &[Link], digest: Digest) {
        for link in comes {
            self.row.insert(self.key.short_id(*link));
            self.add_to_sums(*link);
        }
        for link in goes {
            self.row.remove(self.key.short_id(*link));
            self.add_to_sums(*link);
        }
        self.digest = digest;
    }

    fn add_to_sums(&mut self, link: Link) {
        let bucket = Prefix::of(link.id, MAX_OPENING_BITS);
        add_to_sum(&mut self.sums[bucket.place_under(Prefix::ROOT)], link);
    }

    /// The XOR of all links under a bucket of an opening, as bytes.
    pub(crate) fn sum(&self, bucket: Prefix) -> [u8; LINK_BYTES] {
        debug_assert!(bucket.bits() <= MAX_OPENING_BITS, "no opening has such buckets");
        let bits = MAX_OPENING_BITS.saturating_sub(bucket.bits());
        let first = bucket.place_under(Prefix::ROOT) << bits;
        let mut sum = [0; LINK_BYTES];
        for part in self.sums.iter().skip(first).take(1 << bits) {
            sum.iter_mut().zip(part).for_each(|(sum, byte)| *sum ^= byte);
        }
        sum
    }

    /// Cells `from .. to`, as far as there are so many.
    pub(crate) fn cells(&self, from: usize, to: usize) -> &[Cell] {
        self.row.cells().get(from..to.min(KEPT_CELLS.into())).unwrap_or_default()
    }

    /// The first cells, of the set as it would be with some links more and some less.
    pub(crate) fn first_cells_with(&self, to: usize, comes: &[Link], goes: &[Link]) -> Vec<Cell> {
        let mut row = self.row.first(to);
        for link in comes {
            row.insert(self.key.short_id(*link));
        }
        for link in goes {
            row.remove(self.key.short_id(*link));
        }
        row.into_cells()
    }
}

impl fmt::Debug for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sketch").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
