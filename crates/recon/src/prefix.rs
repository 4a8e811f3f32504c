//! Prefixes of hashes: the places in the trie, and the buckets that are compared.

use std::fmt;

use ark_core::ObjectId;
use rkyv::{Archive, Deserialize, Serialize};

/// Bits by which one level of the trie divides.
pub(crate) const LEVEL_BITS: u8 = 4;
/// The longest prefix, in bits. More than a leaf's worth of hashes that share so many cannot be
/// found, so what lies deeper is one leaf.
pub const MAX_PREFIX_BITS: u8 = 60;

/// The most bits of the buckets of an opening: 1,024 tags.
pub(crate) const MAX_OPENING_BITS: u8 = 10;

/// The ids that begin with certain bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize)]
pub struct Prefix {
    /// The bits, left-aligned; the others are 0.
    start: u64,
    bits: u8,
}

impl Prefix {
    /// What all ids begin with.
    pub const ROOT: Self = Self { start: 0, bits: 0 };

    /// The prefix of `bits` bits that begins like `start`, whose other bits must be 0. `None` where
    /// they are not, and for more than [`MAX_PREFIX_BITS`].
    pub fn new(start: u64, bits: u8) -> Option<Self> {
        let prefix = Self { start, bits };
        (bits <= MAX_PREFIX_BITS && start & prefix.rest() == 0).then_some(prefix)
    }

    /// The first `bits` bits of `id`, at most [`MAX_PREFIX_BITS`].
    pub(crate) fn of(id: ObjectId, bits: u8) -> Self {
        let prefix = Self { start: 0, bits };
        Self { start: start_of(id) & !prefix.rest(), bits }
    }

    /// Whether it is what [`Prefix::new`] makes: one that was decoded need not be.
    pub(crate) fn is_valid(self) -> bool {
        Self::new(self.start, self.bits).is_some()
    }

    /// The bits, left-aligned.
    pub fn start(self) -> u64 {
        self.start
    }

    /// How many bits; at most [`MAX_PREFIX_BITS`].
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The bits that it leaves open.
    fn rest(self) -> u64 {
        u64::MAX.checked_shr(self.bits.into()).unwrap_or(0)
    }

    /// The lowest id that may be under it.
    pub fn first(self) -> ObjectId {
        padded(self.start, 0)
    }

    /// The highest id that may be under it.
    pub fn last(self) -> ObjectId {
        padded(self.start | self.rest(), u8::MAX)
    }

    /// Whether `id` begins so.
    pub fn contains(self, id: ObjectId) -> bool {
        self.contains_start(start_of(id))
    }

    /// Whether ids that begin with these 64 bits begin so.
    pub(crate) fn contains_start(self, start: u64) -> bool {
        start & !self.rest() == self.start
    }

    /// The last of the 64-bit beginnings under it.
    pub(crate) fn last_start(self) -> u64 {
        self.start | self.rest()
    }

    /// The `at`-th of the prefixes that are `bits` bits longer.
    pub(crate) fn narrowed(self, bits: u8, at: usize) -> Self {
        debug_assert!(self.bits + bits <= MAX_PREFIX_BITS && at >> bits == 0);
        if bits == 0 {
            return self;
        }
        let bits = self.bits + bits;
        Self { start: self.start | (at as u64) << (64 - u32::from(bits)), bits }
    }

    /// Its first `bits` bits, at most as many as it has.
    pub(crate) fn shortened(self, bits: u8) -> Self {
        let shorter = Self { start: 0, bits: bits.min(self.bits) };
        Self { start: self.start & !shorter.rest(), ..shorter }
    }

    /// Which of the prefixes of its length under `ancestor` it is.
    pub(crate) fn place_under(self, ancestor: Self) -> usize {
        let place = (self.start & ancestor.rest()).checked_shr(64 - u32::from(self.bits));
        usize::try_from(place.unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// Nine bytes that sort as the prefixes do, each before what lies under it: the bits
    /// big-endian, then how many. For keys of tables.
    pub fn to_key(self) -> [u8; 9] {
        let mut key = [self.bits; 9];
        key[..8].copy_from_slice(&self.start.to_be_bytes());
        key
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}", self.start, self.bits)
    }
}

/// The first 64 bits of an id, as a number.
pub(crate) fn start_of(id: ObjectId) -> u64 {
    let mut start = [0; 8];
    start.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_be_bytes(start)
}

fn padded(start: u64, fill: u8) -> ObjectId {
    let mut bytes = [fill; 32];
    bytes[..8].copy_from_slice(&start.to_be_bytes());
    ObjectId::from_bytes(bytes)
}
