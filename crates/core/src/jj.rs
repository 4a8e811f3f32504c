//! What a jj repo is made of: commits, trees, copies, views and operations, as objects.
//!
//! These are jj's own values, said with ark's ids and in ark's one encoding; `ark-jj` converts
//! between both. What may grow without bound (the entries of a directory, the refs of a view, the
//! predecessors of an operation) is *rows*, sorted and distinct, under a tree that is cut where the
//! rows' keys say so: the order in which a map gave them decides nothing, and one change among many
//! makes few new nodes.
//!
//! jj's root commit, root operation, root view and empty tree are virtual: their id is
//! [`VIRTUAL`], no object has it, and nothing links it.

mod commit;
mod operation;
mod rows;
mod tree;
mod view;

pub use commit::{Commit, Copy, Person, Signing, Time};
pub use operation::{Operation, Predecessor, Predecessors, open_predecessors, predecessors};
pub use rows::{MAX_ROW_KEY, MAX_ROW_WEIGHT, Opened};
pub use tree::{TreeEntry, TreeValue, open_tree, tree};
pub use view::{RefState, Target, ViewRow, open_view, view};

pub(crate) use rows::{Node, Row, RowsSummary, check_depth, check_rows};

use crate::id::ObjectId;

/// The id of what every repo has and none stores.
pub const VIRTUAL: ObjectId = ObjectId::from_bytes([0; 32]);

/// The ids that are not [`VIRTUAL`].
fn stored<'a>(
    ids: impl IntoIterator<Item = &'a ObjectId> + 'a,
) -> impl Iterator<Item = ObjectId> + 'a {
    ids.into_iter().copied().filter(|id| *id != VIRTUAL)
}

#[cfg(test)]
mod tests;
