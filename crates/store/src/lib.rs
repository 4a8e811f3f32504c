//! iroh-blobs `FsStore` plus the redb index: what makes objects and states durable, closed and
//! told in the right order.
//!
//! - An object is in a repo's index only when its bytes are durable and all that it links is in
//!   the same repo's index. Presence is asked of the index alone, never of the blob store.
//! - A state is staged until the closure of its heads is indexed, then joined in one transaction.
//! - What is published is durable before anyone hears of it, and no crash leads to a second
//!   state of one revision.
//! - A store that cannot prove to be the one last open takes a new incarnation.
//!
//! Nothing is ever collected by this version.

mod barrier;
mod base;
mod batch;
mod blobs;
mod cache;
mod closure;
mod counters;
mod create;
mod equivocations;
mod error;
mod failpoint;
mod importer;
mod index;
mod jj;
mod join;
mod mend;
mod open;
mod publish;
mod reader;
mod rebuild;
mod receive;
mod repo;
mod rollback;
mod space;
mod stage;
mod states;
mod store;
mod tags;
mod trie;

pub use base::{Base, BaseRange, BaseSnapshot};
pub use batch::Batch;
pub use counters::Counters;
pub use error::{
    AddError, BlobError, CommitError, IndexError, LeaseError, OpenError, PublishError, PullError,
    PutError, ReadError, ReceiveError, RepoError, UpdateError,
};
#[cfg(feature = "failpoints")]
pub use failpoint::FailpointHook;
pub use jj::{JjRepo, Lease};
pub use join::Join;
pub use publish::Publisher;
pub use reader::Reader;
pub use receive::Received;
pub use repo::Repo;
pub use states::{Change, Equivocation, Staged, States};
pub use store::{DEFAULT_INDEX_CACHE_BYTES, NewIncarnation, Options, Recovery, Store};
pub use trie::Trie;

/// The most links that [`Staged::Staged`] and [`Join::Missing`] name at once: as many as an engine
/// wants at once, so that a large pull walks what it has a few times only. Nine megabytes.
pub const MAX_MISSING: usize = 1 << 18;
/// The most new links that a publication names: an announcement holds a hundred, and a first
/// scan must not hold millions in memory.
pub const MAX_NEW_LINKS: usize = 4096;
