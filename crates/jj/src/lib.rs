//! A jujutsu repository as objects of ark: jj-lib's `Backend`, `OpStore` and `OpHeadsStore`.
//!
//! jj's values become the objects of [`ark_core::jj`] and back; where those are kept is a
//! [`Storage`], which says when they are durable and which operations are the repo's heads. No
//! runtime is assumed: jj polls the futures from whatever thread it likes, and so may anybody.
//!
//! - [`ArkBackend`]: commits, trees, files, symlinks, copies.
//! - [`ArkOpStore`]: operations and views, with the one barrier behind which they are durable.
//! - [`ArkOpHeadsStore`]: the repo's heads.
//! - [`resolve_heads`]: several heads become one, the same on every machine.
//! - [`Client`]: the storage that a daemon keeps.

mod backend;
mod client;
mod content;
mod convert;
mod id;
mod load;
mod op_heads;
mod op_store;
mod operation;
mod resolve;
mod storage;
mod view;

pub use backend::ArkBackend;
pub use client::{Client, ClientError};
pub use id::CHANGE_ID_BYTES;
pub use op_heads::ArkOpHeadsStore;
pub use op_store::ArkOpStore;
pub use resolve::{ResolveError, resolve_heads};
pub use storage::{Storage, StorageError};
