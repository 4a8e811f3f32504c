//! Range-based set reconciliation over hash prefixes: trie, messages in, messages out.
//!
//! Two stores of a repo find out which links each has that the other lacks, at a cost that follows
//! the difference: in bytes always, in links read where a [`Sketch`] of a large set is kept from one
//! session to the next. Pure: no clock, no randomness, no IO; what is read comes through [`Links`],
//! [`Nodes`] and [`Source`].

pub mod message;

mod answerer;
mod cells;
mod draft;
mod estimate;
mod key;
mod meter;
mod opener;
mod prefix;
mod session;
mod sketch;
mod trie;

pub use answerer::Answerer;
pub use key::SessionKey;
pub use message::{MAX_FRAME_BYTES, Message, WireError};
pub use opener::Opener;
pub use prefix::{MAX_PREFIX_BITS, Prefix};
pub use session::{End, MAX_ROUNDS, SessionError, Source, Step, Violation};
pub use sketch::Sketch;
pub use trie::{
    Digest, LEAF_LINKS, Links, LinksUnder, NODE_BYTES, Node, Nodes, NodesMut, digest, rebuild,
    update,
};
