//! The engine of one repo: its inputs and effects, and the order in which its machines are asked.

use std::collections::BTreeMap;

use ark_core::{DeviceId, Link, RepoKind, SignedState, TopicId, Writer};

use crate::announce::Announcement;
use crate::message::Message;
use crate::objects::ObjectsRequest;
use crate::session::Violation;
use crate::view::{Problem, View};

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The repo.
    pub topic: TopicId,
    /// What it is here.
    pub kind: RepoKind,
    /// This device in its incarnation of now.
    pub writer: Writer,
    /// Whether there is a folder here, so that `applied` and `scanned` will be said.
    pub folder: bool,
    /// The other devices that the config lists for the repo, with their names.
    pub remotes: BTreeMap<DeviceId, String>,
    /// Randomness for jitter.
    pub seed: u64,
}

/// What the store holds at the start.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Joined states, this device's own among them.
    pub joined: Vec<SignedState>,
    /// Staged states.
    pub staged: Vec<SignedState>,
    /// Whether objects are pending: a pull was begun before.
    pub pending: bool,
    /// What the folder shows, per writer.
    pub applied: BTreeMap<Writer, u64>,
    /// Whether the first scan is done already.
    pub scanned: bool,
}

/// Names one request for objects, for the life of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub(crate) u64);

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
    /// Result of [`Effect::Lookup`].
    LookedUp {
        /// As in the effect.
        writer: Writer,
        /// As in the effect.
        revision: u64,
        /// Those of the links that are not indexed here.
        absent: Vec<Link>,
    },
    /// Result of [`Effect::Stage`].
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
    /// Result of [`Effect::Join`].
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
    /// [`Engine::wake_at`] has come. Harmless at any time.
    Timer,
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
    Old,
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
    NothingStaged,
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
    /// [`Effect::Lookup`].
    Lookup {
        /// As in the effect.
        writer: Writer,
    },
    /// [`Effect::Stage`].
    Stage {
        /// As in the effect.
        writer: Writer,
    },
    /// Storing objects of a request, which ended with this.
    Receive {
        /// The request.
        request: RequestId,
    },
    /// [`Effect::Join`].
    Join {
        /// As in the effect.
        writer: Writer,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Send on the stream with the peer, in order.
    Send {
        /// To whom.
        peer: DeviceId,
        /// What.
        message: Message,
    },
    /// Gossip it.
    Announce(Announcement),
    /// Say which of these are not indexed here: [`Input::LookedUp`]. To be done at once, beside
    /// an [`Effect::Stage`] for the same state.
    Lookup {
        /// Whose state brought them.
        writer: Writer,
        /// Its revision.
        revision: u64,
        /// The objects.
        links: Vec<Link>,
    },
    /// Stage a state: [`Input::Staged`].
    Stage {
        /// The state.
        state: SignedState,
        /// Whether the writer's staged state is abandoned first.
        replacing: bool,
    },
    /// Join the staged state of a writer: [`Input::JoinResult`].
    Join {
        /// Whose.
        writer: Writer,
    },
    /// Ask a peer for objects: [`Input::Stored`], then one of [`Input::RequestEnded`],
    /// [`Input::RequestFailed`], [`Input::StoreFailed`].
    Request {
        /// Names it.
        id: RequestId,
        /// Whom to ask.
        peer: DeviceId,
        /// What for.
        request: ObjectsRequest,
    },
    /// Stop a request: what it still brings is not needed. Nothing has to be reported of it; what
    /// arrived may be.
    Cancel {
        /// Which.
        id: RequestId,
    },
    /// End the session: the peer broke the protocol.
    Misbehaved {
        /// Who.
        peer: DeviceId,
        /// What it did.
        violation: Violation,
    },
    /// A problem that is new: for the log. [`View::problems`] has it too.
    Problem(Problem),
}

/// One repo's engine.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// An engine over what the store holds. The first [`Engine::handle`] makes the first effects:
    /// give it [`Input::Timer`].
    pub fn new(options: EngineOptions, known: Known) -> Self {
        let _ = known;
        Self { options }
    }

    /// Takes in what happened at `now_ms` and says what is to be done, in order. `now_ms` never
    /// goes back.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        let _ = (input, now_ms, &self.options);
        Vec::new()
    }

    /// When [`Input::Timer`] is to be given, if nothing else happens before. In milliseconds, on
    /// the clock of [`Engine::handle`].
    pub fn wake_at(&self) -> Option<u64> {
        None
    }

    /// What is known now.
    pub fn view(&self) -> View {
        View::default()
    }
}
