//! Directories: search trees over entries in byte order of names.
//!
//! The shape of a tree depends on the set of its entries alone (`cut`), so equal directories
//! have equal roots on every machine, one changed entry makes one new node per level, and what
//! two directories have in common is skipped by comparing ids.

pub(crate) mod cut;
mod edit;
pub(crate) mod node;
mod read;

pub use cut::MAX_ENTRY_WEIGHT;
pub(crate) use cut::content_order;
pub use edit::edit;
pub(crate) use edit::edit_into;
pub(crate) use read::get_all;
pub use read::{
    Diff, Difference, Entries, diff, directory_totals, empty_directory, entries, entries_aside, get,
};
