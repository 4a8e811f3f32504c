//! Why operations fail: one enum per operation, over two shared causes: the blob store and the
//! index.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ark_core::{DecodeError, Link, RepoKind};

/// A failure of the blob store. Cheap to clone: callers that share a sync share its failure.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The disk is full, or nearly: the store refuses imports before it is, because its
    /// databases do not survive a failed write in place. Goes away when there is room.
    #[error(
        "no space left for the store at {path}: {available} bytes are free, which it needs itself"
    )]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// Bytes that were free when it was asked.
        available: u64,
    },
    /// The file system failed.
    #[error("{what} failed")]
    Io {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The blob store failed and was opened again; what it was given before and had not yet made
    /// durable is lost, and has to be given again.
    #[error("the blob store had to be opened again")]
    Reopened,
    /// The blob store has ended, because it was closed or after an error that it logged. It is
    /// opened again with the next operation if that can be.
    #[error("the blob store has stopped")]
    Stopped {
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The blob store named the bytes differently than they were named before.
    #[error("the blob store hashed {} differently: memory or disk is failing", .link.id)]
    Hash {
        /// What was imported.
        link: Link,
    },
}

/// A failure of the index.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The database failed. Shared, because one transaction serves many callers.
    #[error("the store's index failed")]
    Database(#[source] Arc<redb::Error>),
    /// A record that no version of ark wrote.
    #[error("the store's index has a damaged record in {table}")]
    Damaged {
        /// The table.
        table: &'static str,
    },
    /// The disk is full, or nearly: nothing is committed before there is room.
    #[error(
        "no space left for the store at {path}: {available} bytes are free, which it needs itself"
    )]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// Bytes that were free when it was asked.
        available: u64,
    },
    /// It failed before and could not be opened again yet; that is tried again and again.
    #[error("the store's index failed and could not be opened again yet")]
    Unavailable,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Either of the two, on its way to the error of an operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Lets the errors of operations take it apart.
macro_rules! from_disk {
    ($($error:ty),* $(,)?) => {
        $(impl From<DiskError> for $error {
            fn from(error: DiskError) -> Self {
                match error {
                    DiskError::Blob(error) => error.into(),
                    DiskError::Index(error) => error.into(),
                }
            }
        })*
    };
}

from_disk!(AddError, CommitError, LeaseError, OpenError, PublishError, PullError, ReceiveError);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the store at {path} is in use by another process")]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// Written by a newer version of ark.
    #[error(
        "the store at {path} has format {found}; this version of ark knows formats up to {known}. \
         Use the newer version, or another store"
    )]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The newest format known here.
        known: u64,
    },
    /// A file or directory of the store, or the witness, cannot be used.
    #[error("cannot use {path}")]
    Path {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob store does not open.
    #[error("cannot open the blob store at {path}")]
    Blobs {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The blob store failed while the store was opened.
    #[error("cannot read the blob store")]
    Blob(#[from] BlobError),
    /// The index failed in a way that a rebuild does not mend.
    #[error("cannot open the index")]
    Index(#[from] IndexError),
}

/// Why a repo could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// It is a repo of another kind: such states are joined in it, or it is in use as such.
    #[error("this repo is {}, not {}", kind_in_words(*.found), kind_in_words(*.asked))]
    OtherKind {
        /// The kind that it is of.
        found: RepoKind,
        /// The kind asked for.
        asked: RepoKind,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why the bytes of an object could not be had. *Absent* is never *could not read*.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// This repo neither has it indexed nor pending, whatever the store holds for others.
    #[error("object {} is not in this repo", .link.id)]
    Absent {
        /// What was asked for.
        link: Link,
    },
    /// It is recorded as here, but its bytes are gone or are not what its name says.
    #[error("object {} is damaged on disk: {reason}", .link.id)]
    Damaged {
        /// What was asked for.
        link: Link,
        /// What was found.
        reason: String,
    },
    /// The disk or the blob store failed.
    #[error("cannot read object {}", .link.id)]
    Blob {
        /// What was asked for.
        link: Link,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why an object could not be added to a batch. The batch cannot be committed any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// A repo of this kind has no such objects.
    #[error("object {} is a {:?}, which such a repo has not", .link.id, .link.kind)]
    OtherKind {
        /// The object.
        link: Link,
    },
    /// More bytes than any object may have.
    #[error("object {} has {length} bytes, more than any may have", .link.id)]
    TooLarge {
        /// The object.
        link: Link,
        /// Its bytes.
        length: usize,
    },
    /// Structured bytes that are not canonical, or say of their children what is not true.
    #[error("object {} is not valid", .link.id)]
    Decode {
        /// The object.
        link: Link,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The blob store failed. [`BlobError::NoSpace`] goes away when there is room.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why a batch could not be committed. Nothing of it was told; it may be made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// An object could not be added.
    #[error(transparent)]
    Add(#[from] AddError),
    /// Objects of the batch, or the heads published with it, link what is neither in the batch
    /// nor in the repo's index.
    #[error("{} objects that are linked are missing", .missing.len())]
    NotClosed {
        /// Some of what is missing.
        missing: Vec<Link>,
    },
}

impl From<BlobError> for CommitError {
    fn from(error: BlobError) -> Self {
        Self::Add(error.into())
    }
}

impl From<IndexError> for CommitError {
    fn from(error: IndexError) -> Self {
        Self::Add(error.into())
    }
}

/// Why a state could not be published. Its dot is burnt if it may have reached the disk: take a
/// new publisher and make the state again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The objects could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The state breaks a rule: no peer would accept it.
    #[error("the state to publish is not valid")]
    State(#[from] DecodeError),
    /// The device took a new incarnation since the publisher was made: its dot is of the old
    /// one. Make the state again under the new one.
    #[error("the device took a new incarnation meanwhile")]
    Incarnation,
    /// The repo is of another kind than what is published: states of that were joined first.
    #[error("this repo is {}", kind_in_words(*.found))]
    OtherKind {
        /// The kind that it is of.
        found: RepoKind,
    },
    /// The device's key is running elsewhere too, and keeps writing: nothing is published until
    /// ark is started again.
    #[error("this device's key is in use on another machine, which keeps publishing")]
    KeyInUseElsewhere,
}

impl From<BlobError> for PublishError {
    fn from(error: BlobError) -> Self {
        Self::Commit(error.into())
    }
}

impl From<IndexError> for PublishError {
    fn from(error: IndexError) -> Self {
        Self::Commit(error.into())
    }
}

/// Why a state could be neither staged nor joined nor found wanting: not what it says, but the
/// disk. A step that ends another state may begin the next, so all steps fail in these ways.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The blob store failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What this device did as the writer of the state, which another machine writes as, too, could
    /// not be told again as the writer that it is now: until then the state is not joined.
    #[error("what was done here cannot be told again under the new incarnation")]
    Own {
        /// Why.
        #[source]
        source: Box<PublishError>,
    },
    /// An object on the way to what is missing could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why received objects could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The blob store failed. [`BlobError::NoSpace`] goes away when there is room.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why an object was not taken in by a [`Lease`](crate::Lease).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// More bytes than any object may have.
    #[error("object {} has {length} bytes, more than any may have", .link.id)]
    TooLarge {
        /// The object.
        link: Link,
        /// Its bytes.
        length: usize,
    },
    /// jj repos have no such objects.
    #[error("object {} is a {:?}, which no jj repo has", .link.id, .link.kind)]
    OtherKind {
        /// The object.
        link: Link,
    },
    /// Bytes that are not canonical, or say of what they link what is not true.
    #[error("object {} is not valid", .link.id)]
    Decode {
        /// The object.
        link: Link,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// It links what neither the repo has nor the lease took in before.
    #[error("object {} links {} objects that are missing", .link.id, .missing.len())]
    NotClosed {
        /// The object.
        link: Link,
        /// What is missing.
        missing: Vec<Link>,
    },
    /// The lease takes nothing any more.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// Why a lease is broken: what it took in and no barrier covered may be lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// It failed before. What was put since the last barrier is to be put again, by another lease.
    #[error("what was put since the last barrier is lost")]
    Broken,
    /// The blob store failed. [`BlobError::NoSpace`] goes away when there is room.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why the heads of a jj repo were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// What was put before is not durable.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The state that says so could not be published.
    #[error("the heads could not be published")]
    Publish(#[from] PublishError),
}

fn kind_in_words(kind: RepoKind) -> &'static str {
    match kind {
        RepoKind::Folder => "a folder",
        RepoKind::Jj => "a jj repository",
    }
}
