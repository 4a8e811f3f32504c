//! One repo of a store: its objects, states and base.

use std::sync::Arc;

use ark_core::{DecodeError, Link, Object, RepoKind, SignedState, TopicId, Writer};
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::base::Base;
use crate::batch::Batch;
use crate::error::{IndexError, JoinError, ReadError, ReceiveError, StageError};
use crate::publish::Publisher;
use crate::reader::Reader;
use crate::states::{Change, Equivocation, Staged, States};

/// What became of received objects.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// What the structured ones link that is neither indexed nor pending here: to be fetched.
    /// Distinct.
    pub next: Vec<Link>,
    /// Structured ones that are not what their link says: not kept.
    pub rejected: Vec<(Link, DecodeError)>,
}

/// The outcome of [`Repo::join`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Join {
    /// Joined, durably. If a newer state of the writer waited, it is staged now.
    Joined(SignedState),
    /// Not all of its closure is here: some of what is missing.
    Missing(Vec<Link>),
    /// No state of this writer is staged.
    NothingStaged,
    /// An object of its closure is not what its link says. The state was dropped and will not be
    /// staged again; a newer one that waited is staged now.
    Invalid {
        /// The object, or the head whose snapshot says other than the state.
        link: Link,
        /// What is wrong with it.
        error: DecodeError,
    },
}

/// A repo in the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repo {}

impl Repo {
    /// Its topic.
    pub fn topic(&self) -> TopicId {
        todo!()
    }

    /// Its kind.
    pub fn kind(&self) -> RepoKind {
        todo!()
    }

    /// This device as a writer, in its incarnation of now: it may be renewed, see
    /// [`Change::Incarnation`].
    pub fn writer(&self) -> Writer {
        todo!()
    }

    /// Reads objects for the merge and its like. Blocking: only from threads that may block
    /// (`spawn_blocking`, own threads). Must be called within a tokio runtime.
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// The bytes of an object that this repo has indexed or pending, checked against its id.
    ///
    /// # Errors
    /// It is not here, or not readable.
    pub async fn read(&self, _link: Link) -> Result<Bytes, ReadError> {
        todo!()
    }

    /// Which of `links` are indexed here: their closure is, too, and durable. In the same order.
    ///
    /// # Errors
    /// The index failed.
    pub async fn indexed(&self, _links: &[Link]) -> Result<Vec<bool>, IndexError> {
        todo!()
    }

    /// A batch of new objects.
    pub fn batch(&self) -> Batch {
        todo!()
    }

    /// Waits for the right to publish, one at a time per repo.
    pub async fn publisher(&self) -> Publisher {
        todo!()
    }

    /// Takes a verified state from a peer: decides whether it is news and, if so, stages it.
    /// Whether its writer is listed for the repo is the caller's to check.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn stage(&self, _state: SignedState) -> Result<Staged, StageError> {
        todo!()
    }

    /// Every provider of the staged state of `writer` answered *missing*: drops it. The one that
    /// waited, if there is one, is staged in its place, and that is the outcome.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn abandon(&self, _writer: Writer) -> Result<Option<Staged>, StageError> {
        todo!()
    }

    /// What the staged state of `writer` still needs, at most `limit`. `None`: nothing is staged.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn staged_missing(
        &self,
        _writer: Writer,
        _limit: usize,
    ) -> Result<Option<Vec<Link>>, StageError> {
        todo!()
    }

    /// Keeps objects that were asked for: those whose closure is indexed are indexed, the others
    /// are pending until [`Repo::join`]. Durable when it returns. Give it many at once, and run
    /// several calls at a time: they share one barrier.
    ///
    /// # Errors
    /// The disk failed or is full. Some objects may have been kept.
    pub async fn receive(&self, _objects: Vec<Object>) -> Result<Received, ReceiveError> {
        todo!()
    }

    /// Walks the closure of `links`, stops at what is indexed, goes through what is pending:
    /// what is neither, at most `limit`. Empty: all is here.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn missing(&self, _links: &[Link], _limit: usize) -> Result<Vec<Link>, ReadError> {
        todo!()
    }

    /// Joins the staged state of `writer` if the closure of its heads is here: indexes what is
    /// pending of it and moves the state, durably.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn join(&self, _writer: Writer) -> Result<Join, JoinError> {
        todo!()
    }

    /// The states of now.
    pub fn states(&self) -> Arc<States> {
        todo!()
    }

    /// What happens from now on. A receiver that lags re-reads [`Repo::states`].
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        todo!()
    }

    /// Writers that made two states of one revision, ever. Bounded.
    ///
    /// # Errors
    /// The index failed.
    pub async fn equivocations(&self) -> Result<Vec<Equivocation>, IndexError> {
        todo!()
    }

    /// The records of what was last applied to the folder.
    pub fn base(&self) -> Base {
        todo!()
    }
}
