//! What an engine is told: what happened, and what became of its effects.

use std::collections::BTreeMap;

use ark_core::{DeviceId, Link, RepoKind, SignedState, Writer};

use crate::announce::Announcement;
use crate::effect::RequestId;
use crate::engine::Remote;
use crate::message::Message;
use crate::session::Violation;

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// The stream with a peer stands, and is new.
    PeerConnected {
        /// The peer, one of the remotes.
        peer: DeviceId,
    },
    /// The stream is gone. Requests with the peer need not be reported any more.
    PeerDisconnected {
        /// The peer.
        peer: DeviceId,
    },
    /// A message came on the stream.
    Message {
        /// From whom.
        peer: DeviceId,
        /// What it says, decoded.
        message: Message,
    },
    /// Gossip brought an announcement, unsealed and decoded.
    Announced {
        /// Who delivered it: not necessarily who made it.
        from: DeviceId,
        /// What it says.
        announcement: Announcement,
    },
    /// Gossip lagged or skipped: announcements may have been lost.
    Lagged,
    /// This device published a state; it is durable.
    Published {
        /// The state.
        state: SignedState,
        /// The objects new since the previous one; may be empty if there are many.
        new: Vec<Link>,
    },
    /// This device took a new incarnation.
    Renewed {
        /// The writer that it is now.
        writer: Writer,
    },
    /// Result of [`Effect::Lookup`](crate::Effect::Lookup).
    LookedUp {
        /// As in the effect.
        writer: Writer,
        /// As in the effect.
        revision: u64,
        /// What is neither indexed nor pending here.
        absent: Vec<Link>,
    },
    /// Result of [`Effect::Stage`](crate::Effect::Stage).
    Staged {
        /// As in the effect.
        writer: Writer,
        /// What became of the state.
        outcome: StageOutcome,
    },
    /// Objects of a request were verified and stored; comes as often as it happens.
    Stored {
        /// The request.
        request: RequestId,
        /// The objects with their lengths in bytes.
        received: Vec<(Link, u32)>,
        /// What they link that is neither indexed nor pending here.
        next: Vec<Link>,
        /// Objects that are not what their link says, and why: not stored.
        rejected: Vec<(Link, String)>,
    },
    /// Objects that were to be asked for turned out to be here: this device made them itself since
    /// they were found to be missing.
    Found {
        /// Which, all indexed.
        links: Vec<Link>,
    },
    /// A request was answered whole. Comes after all its [`Input::Stored`].
    RequestEnded {
        /// The request.
        request: RequestId,
        /// Those of its links that the peer does not have.
        missing: Vec<Link>,
    },
    /// A request was not answered whole. Comes after all its [`Input::Stored`].
    RequestFailed {
        /// The request.
        request: RequestId,
        /// Whose fault it is.
        failure: Failure,
    },
    /// Result of [`Effect::Abandon`](crate::Effect::Abandon): nothing of the writer is staged.
    Abandoned {
        /// As in the effect.
        writer: Writer,
    },
    /// Result of [`Effect::Join`](crate::Effect::Join).
    JoinResult {
        /// As in the effect.
        writer: Writer,
        /// What became of the staged state.
        outcome: JoinOutcome,
    },
    /// The store could not carry out an effect.
    StoreFailed {
        /// Which.
        step: StoreStep,
        /// What the store says, in words for the user.
        reason: String,
    },
    /// The folder shows these revisions now, per writer. Writers that are not named keep theirs.
    Applied {
        /// Newest revision shown.
        revisions: BTreeMap<Writer, u64>,
    },
    /// The first scan of the folder is done and what it found is published.
    Scanned,
    /// The folder begins anew, perhaps as another one: it is to be scanned, and shows nothing yet.
    FolderBegun,
    /// The config lists these remotes from now on. The streams of those that it lists no more, or
    /// grants something else, are gone already.
    Listed {
        /// All of them.
        remotes: BTreeMap<DeviceId, Remote>,
    },
    /// A reconciliation with a peer, opened by either side, found that it has these and this side
    /// not. Its word only. Comes as often as frames come.
    Lacking {
        /// The peer.
        peer: DeviceId,
        /// What it says it has.
        links: Vec<Link>,
    },
    /// A reconciliation ended, however. Once for each [`Effect::Reconcile`](crate::Effect::Reconcile), at once and
    /// empty where none was begun; and once for each that the peer opened and this side answered.
    Reconciled {
        /// The peer.
        peer: DeviceId,
        /// How it went.
        reconciliation: Reconciliation,
    },
    /// The driver saw a breach of the protocol by a peer, and closes the connection: nothing the
    /// peer says counts until it connects anew.
    Breach {
        /// The peer.
        peer: DeviceId,
        /// What it did.
        violation: Violation,
    },
    /// [`Engine::wake_at`](crate::Engine::wake_at) has come. Harmless at any time.
    Timer,
}

/// How a reconciliation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reconciliation {
    /// Round trips, as the side that opened it counts them; 0 on the other.
    pub round_trips: u32,
    /// Bytes that this side sent on the session's stream, lengths of frames included.
    pub sent_bytes: u64,
    /// Bytes that it received, likewise.
    pub received_bytes: u64,
    /// Whether all that differs was found. If not, a ceiling was reached, the stream broke, or it
    /// was not begun.
    pub complete: bool,
}

/// What became of a state that was to be staged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StageOutcome {
    /// Staged; some of what is missing.
    Staged {
        /// Objects neither indexed nor pending here.
        missing: Vec<Link>,
    },
    /// Staged, and all of its closure is here.
    Complete,
    /// Known already, or older than what is known.
    Old {
        /// What the store has joined of the writer.
        joined: Option<SignedState>,
    },
    /// The store holds an older staged state of the writer and finishes that first.
    Waiting,
    /// The writer made two states of one revision.
    Equivocation {
        /// What became of the state given.
        then: Box<StageOutcome>,
    },
    /// It shows that this device's incarnation was used elsewhere; [`Input::Renewed`] comes too.
    OwnFork {
        /// What became of the state given, now that it is another writer's.
        then: Box<StageOutcome>,
    },
    /// Of another kind than the repo.
    WrongKind {
        /// The kind that it says.
        found: RepoKind,
    },
    /// Of another repo.
    WrongTopic,
    /// Found invalid before.
    Invalid,
}

/// What became of a staged state that was to be joined.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JoinOutcome {
    /// Joined, durably.
    Joined(SignedState),
    /// Not all of its closure is here: some of what is missing.
    Missing(Vec<Link>),
    /// Nothing of this writer is staged.
    NothingStaged {
        /// What the store has joined of the writer.
        joined: Option<SignedState>,
    },
    /// An object of its closure is not what its link says: the state was dropped.
    Invalid {
        /// The object.
        link: Link,
        /// What is wrong.
        reason: String,
    },
}

/// Why a request was not answered whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The stream or the connection could not be opened, broke, or stood still: nobody's fault.
    Broken,
    /// The peer sent what it may not: bytes of another hash, objects unasked, a bad header.
    Violation,
}

/// An effect that the store could not carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreStep {
    /// [`Effect::Lookup`](crate::Effect::Lookup).
    Lookup {
        /// As in the effect.
        writer: Writer,
    },
    /// [`Effect::Stage`](crate::Effect::Stage).
    Stage {
        /// As in the effect.
        writer: Writer,
    },
    /// Storing objects of a request, which ended with this.
    Receive {
        /// The request.
        request: RequestId,
    },
    /// [`Effect::Abandon`](crate::Effect::Abandon).
    Abandon {
        /// As in the effect.
        writer: Writer,
    },
    /// [`Effect::Join`](crate::Effect::Join).
    Join {
        /// As in the effect.
        writer: Writer,
    },
}
