//! Where the nodes of a directory's tree end.
//!
//! A node ends after an item when the hash of the last name below that item says so, or when the
//! node is full. Both look back only, to where the node began: so the shape depends on the set
//! of entries alone, and a node that ended goes on being one, whatever follows it.
//!
//! Every constant here is part of the format: it decides the ids of equal directories.

use crate::entry::{Entry, MAX_TREE_LEVEL, Name, Node, Version};

/// The least items of a node that a hash may end. It narrows the spread of sizes (without it, a
/// random entry lies in a node twice the mean), and makes each level shorter than the one below
/// it by this factor, whatever names someone chooses.
const MIN_ITEMS: usize = 9;
/// Zero bits of a name's hash that end a node, other bits on each level: with [`MIN_ITEMS`], 16
/// items in the mean.
///
/// One changed entry among 200,000 with names of 12 bytes makes, in the mean, 5 nodes of 7.0 kB
/// together (measured; a test holds it). By the same sizes and names, other means would cost:
/// 24: 9 kB, 32: 15 kB, 64: 20 kB, 128: 37 kB; and without [`MIN_ITEMS`] 16: 11 kB, 32: 17 kB,
/// 64: 32 kB, 128: 49 kB. The whole directory is 13,400 nodes and 25 MB, against 1,600 and 24 MB
/// with a mean of 128.
const CUT_BITS: usize = 3;
/// The most items of a node.
pub(crate) const MAX_ITEMS: usize = 1024;
/// A node ends with the item by which its weight reaches this. With [`MAX_ENTRY_WEIGHT`] it keeps
/// a node below the most bytes of an object.
const MAX_WEIGHT: usize = 1 << 20;

/// The most that one entry may weigh: about 6,000 versions of one name, or 30,000 dots.
pub const MAX_ENTRY_WEIGHT: usize = 2 << 20;
/// At least what the archive takes for an entry beside its name and its versions.
const ENTRY_WEIGHT: usize = 32;
/// At least what it takes for a version beside its dots, the dot of its permission bits included.
const VERSION_WEIGHT: usize = 192;
/// At least what it takes for a dot, with a line of the table of writers.
const DOT_WEIGHT: usize = 64;
/// At least what it takes for a child beside its name.
const CHILD_WEIGHT: usize = 96;

const _: () = assert!(MAX_WEIGHT + MAX_ENTRY_WEIGHT < crate::object::MAX_OBJECT_BYTES);
const _: () = assert!((MAX_TREE_LEVEL as usize + 1) * CUT_BITS <= 256, "a hash has 256 bits");

/// How much of a node there is so far.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Fill {
    items: usize,
    weight: usize,
}

impl Fill {
    pub(crate) fn is_empty(self) -> bool {
        self.items == 0
    }

    /// Takes in an item of this weight.
    pub(crate) fn add(&mut self, weight: usize) {
        self.items += 1;
        self.weight += weight;
    }

    /// Whether the node of `level` ends here. `last` is the last name below its last item.
    pub(crate) fn ends(self, level: u8, last: &Name) -> bool {
        let is_full = self.items >= MAX_ITEMS || self.weight >= MAX_WEIGHT;
        level < MAX_TREE_LEVEL && (is_full || (self.items >= MIN_ITEMS && is_boundary(level, last)))
    }
}

/// Whether the bits of `level` in the hash of `name` are zero.
fn is_boundary(level: u8, name: &Name) -> bool {
    let hash = blake3::hash(name.as_bytes());
    let from = usize::from(level) * CUT_BITS;
    (from..from + CUT_BITS).all(|bit| hash.as_bytes()[bit / 8] >> (bit % 8) & 1 == 0)
}

/// What an entry weighs: at least what its archive takes.
pub(crate) fn entry_weight(entry: &Entry) -> usize {
    let version = |version: &Version| VERSION_WEIGHT + DOT_WEIGHT * version.dots.len();
    let versions: usize = entry.versions.iter().map(version).sum();
    ENTRY_WEIGHT + entry.name.as_bytes().len() + versions
}

/// What a child weighs whose last name is `last`: at least what its archive takes.
pub(crate) fn child_weight(last: &Name) -> usize {
    CHILD_WEIGHT + last.as_bytes().len()
}

/// The order of versions set aside, greatest first; equal for equal content only.
pub(crate) fn content_order(node: &Node) -> impl Ord + Copy + use<> {
    let link = node.link();
    (node.kind(), link.id, link.kind)
}
