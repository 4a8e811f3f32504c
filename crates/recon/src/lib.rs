//! Range-based set reconciliation over hash prefixes: trie, messages in, messages out.
//!
//! Two stores of a repo find out which links each has that the other lacks, at a cost that follows
//! the difference. Pure: no clock, no randomness, no IO; what is read comes through [`Links`] and
//! [`Nodes`].

pub mod prefix;
pub mod trie;

pub use prefix::{MAX_PREFIX_BITS, Prefix};
pub use trie::{
    Digest, LEAF_LINKS, Links, LinksUnder, NODE_BYTES, Node, Nodes, NodesMut, digest, rebuild,
    update,
};
