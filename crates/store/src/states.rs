//! The states of a repo as the store holds them, and what is told when they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use ark_core::{DecodeError, Link, ObjectId, RepoKind, SignedState, Writer};

/// The newest states of all writers of a repo.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Joined: their closures are indexed, durably. This device's own state is among them, and
    /// so are those of its earlier incarnations.
    pub joined: BTreeMap<Writer, SignedState>,
    /// Staged: newer than the writer's joined state, still being pulled.
    pub staged: BTreeMap<Writer, SignedState>,
    /// Newer than the writer's staged state, which is finished first. In memory only.
    pub waiting: BTreeMap<Writer, SignedState>,
}

/// The outcome of [`Repo::stage`](crate::Repo::stage).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Staged {
    /// Staged; these objects, and what they link, are to be fetched, then
    /// [`Repo::join`](crate::Repo::join) is to be called.
    Staged {
        /// Some of what is missing, at most [`MAX_MISSING`](crate::MAX_MISSING).
        missing: Vec<Link>,
    },
    /// Staged, and all that it needs is here: call [`Repo::join`](crate::Repo::join).
    Complete,
    /// Known already, or older than what is known.
    Old,
    /// An older state of this writer is being pulled and is finished first; this one waits. It
    /// is staged when that one is joined or [abandoned](crate::Repo::abandon), which
    /// [`Change::Staged`] tells.
    Waiting,
    /// The writer made two states of one revision. The greater hash stands: `stands` says what
    /// became of it. Recorded durably, see [`Repo::equivocations`](crate::Repo::equivocations).
    Equivocation {
        /// The two hashes.
        seen: Equivocation,
        /// The outcome for the state that was given: `Old` if it has the lesser hash.
        stands: Box<Staged>,
    },
    /// Of another kind than the repo here: to be shown, not joined.
    WrongKind {
        /// The kind it says.
        found: RepoKind,
    },
    /// Of another repo: the peer mixed something up.
    WrongTopic,
    /// It says that the living incarnation of this device wrote what it never issued: a machine
    /// image was rolled back, or the key runs twice. The device has taken a new incarnation
    /// ([`Change::Incarnation`]); the old one is one more writer.
    OwnFork {
        /// The outcome for the state that was given.
        then: Box<Staged>,
    },
    /// Its closure was pulled and found invalid before; it is not pulled again.
    Invalid,
}

/// Two states of one writer and revision: its key signs on two machines, or its store was rolled
/// back and not noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Equivocation {
    /// Who made them.
    pub writer: Writer,
    /// Their revision.
    pub revision: u64,
    /// The hash that stands.
    pub stands: ObjectId,
    /// The lesser hash.
    pub dropped: ObjectId,
}

/// What happened in a repo.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// This device published; the state is durable.
    Published {
        /// The state.
        state: SignedState,
        /// The objects that it brought into the index; empty if there are more than
        /// [`MAX_NEW_LINKS`](crate::MAX_NEW_LINKS).
        new: Arc<[Link]>,
    },
    /// A state of `writer` was joined, durably.
    Joined {
        /// Whose.
        writer: Writer,
    },
    /// A state of `writer` was staged.
    Staged {
        /// Whose.
        writer: Writer,
    },
    /// The closure of a staged state is not valid: the state was dropped.
    Invalid {
        /// Whose.
        writer: Writer,
        /// The object found invalid.
        link: Link,
        /// Why.
        error: DecodeError,
    },
    /// The device took a new incarnation. Whoever publishes in this repo must publish anew what
    /// was written since it was started: the old incarnation's dots may collide.
    Incarnation {
        /// The writer that this device was.
        old: Writer,
        /// The writer that it is now.
        new: Writer,
    },
}
