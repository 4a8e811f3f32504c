//! The store of a device: opening, closing, and the repos in it.

use std::path::PathBuf;

use ark_core::{DeviceId, Incarnation, RepoKind, TopicId};
use ed25519_dalek::SigningKey;

use crate::counters::Counters;
use crate::error::{OpenError, RepoError};
use crate::repo::Repo;

/// The index keeps this many bytes of its file in memory unless told otherwise.
pub const DEFAULT_INDEX_CACHE_BYTES: usize = 32 << 20;

/// Where a store is and whose it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; created if its parent exists.
    pub path: PathBuf,
    /// Where the witness is kept: a directory outside the store, so that a copy of the store put
    /// back is noticed. Created with its parents.
    pub witness_dir: PathBuf,
    /// The device's key, which signs its states.
    pub signing_key: SigningKey,
    /// Bytes of the index kept in memory, see [`DEFAULT_INDEX_CACHE_BYTES`].
    pub index_cache_bytes: usize,
}

/// What opening the store found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// The store that was last open: its incarnation goes on.
    Same,
    /// A new incarnation.
    NewIncarnation {
        /// Why.
        why: NewIncarnation,
    },
    /// The index was lost or could not be opened, and was made anew from the signed states and
    /// the blobs. Also a new incarnation.
    Rebuilt {
        /// States that were found whole and joined.
        joined: usize,
        /// States whose closure is not whole here.
        staged: usize,
        /// Objects indexed.
        objects: usize,
    },
}

/// Why a new incarnation was taken when the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NewIncarnation {
    /// A new store.
    NewStore,
    /// The witness is missing.
    NoWitness,
    /// The witness speaks of another opening than the index: one of them was put back.
    OtherToken,
    /// The index is another file than it was: the store was copied.
    OtherFile,
    /// The key of the device is another.
    OtherDevice,
    /// A state of this device was found whose sequence cannot be told.
    UnknownSequence,
}

/// The store of a device. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {}

impl Store {
    /// Opens the store, or makes it; decides whether the incarnation goes on; rebuilds a lost
    /// index.
    ///
    /// # Errors
    /// It is in use, of a newer format, or its files cannot be read.
    pub async fn open(_options: Options) -> Result<Self, OpenError> {
        todo!()
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        todo!()
    }

    /// The incarnation of now.
    pub fn incarnation(&self) -> Incarnation {
        todo!()
    }

    /// What opening found.
    pub fn recovered(&self) -> Recovery {
        todo!()
    }

    /// The repo `topic`, made if it is not there.
    ///
    /// # Errors
    /// The store has it as another kind, or the index failed.
    pub async fn repo(&self, _topic: TopicId, _kind: RepoKind) -> Result<Repo, RepoError> {
        todo!()
    }

    /// Counts since it was opened.
    pub fn counters(&self) -> Counters {
        todo!()
    }

    /// Ends the store cleanly. Operations under way fail; other clones are dead after this.
    ///
    /// # Errors
    /// What was not yet durable could not be made so; nothing that was told is lost.
    pub async fn close(self) -> Result<(), crate::error::BlobError> {
        todo!()
    }
}
