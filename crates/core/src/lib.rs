//! Ids, objects and their canonical encoding, links, chunking, directories, what a jj repo is made
//! of, states and the heads they make, the merge of snapshots.
//!
//! Pure: no clock, no randomness, no IO. Bytes of objects are read through [`Read`] and new ones
//! collected in an [`Overlay`]; both are plain blocking calls that a driver implements.

pub mod change;
pub mod check;
pub mod chunk;
pub mod dir;
pub mod entry;
pub mod id;
pub mod jj;
pub mod merge;
pub mod object;
pub mod shown;
pub mod snapshot;
pub mod state;

mod codec;
mod words;

pub use change::{Behind, LocalChange, Put, What, put_in};
pub use check::{Checked, Summary, check, links};
pub use chunk::{Chunks, Cutter, FileTree, Pieces, chunk_list, file_parts};
pub use dir::{
    Diff, Difference, Entries, MAX_ENTRY_WEIGHT, diff, directory_totals, edit, empty_directory,
    entries, entries_aside, get,
};
pub use entry::{
    Content, Entry, MAX_NAME_BYTES, MAX_PATH_DEPTH, MAX_RAW_CONTENT, MAX_SYMLINK_TARGET,
    MAX_TREE_LEVEL, Mtime, Name, NameError, Node, NodeKind, Permissions, RESERVED_NAME,
    RESERVED_PREFIX, RelPath, Totals, Version,
};
pub use id::{
    DeviceId, Dot, Incarnation, MAX_WRITERS, ObjectId, ParseIdError, SealingKey, TopicId, Vector,
    Writer,
};
pub use merge::{Merged, Tree, join, merge};
pub use object::{
    DecodeError, Link, MAX_OBJECT_BYTES, Object, ObjectKind, Overlay, Read, TreeError,
};
pub use shown::{Shown, conflicts, copy_names, shown, shown_aside};
pub use snapshot::Snapshot;
pub use state::{
    Head, JoinedHead, MAX_HEADS, MAX_HELD, MAX_STATE_BYTES, RepoKind, Said, SignedState, State,
    heads, list_again, take_over, update_heads,
};
pub use words::in_words;
