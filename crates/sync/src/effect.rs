//! What an engine wants done.

use ark_core::{DeviceId, Link, SignedState, Writer};

use crate::announce::Announcement;
use crate::message::Message;
use crate::objects::ObjectsRequest;
use crate::session::Violation;
use crate::view::Problem;

/// Names one request for objects, for the life of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub(crate) u64);

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
    /// Say which of these, and of what those that are pending link, are neither indexed nor
    /// pending here: [`Input::LookedUp`](crate::Input::LookedUp). To be done at once, beside an
    /// [`Effect::Stage`] for the same state.
    Lookup {
        /// Whose state brought them.
        writer: Writer,
        /// Its revision.
        revision: u64,
        /// The objects.
        links: Vec<Link>,
    },
    /// Stage a state: [`Input::Staged`](crate::Input::Staged).
    Stage {
        /// The state.
        state: SignedState,
        /// Whether all that is staged of the writer is abandoned first.
        replacing: bool,
    },
    /// Drop all that is staged of a writer: [`Input::Abandoned`](crate::Input::Abandoned).
    Abandon {
        /// Whose.
        writer: Writer,
    },
    /// Join the staged state of a writer: [`Input::JoinResult`](crate::Input::JoinResult).
    Join {
        /// Whose.
        writer: Writer,
    },
    /// Ask a peer for objects: [`Input::Stored`](crate::Input::Stored), then one of [`Input::RequestEnded`](crate::Input::RequestEnded),
    /// [`Input::RequestFailed`](crate::Input::RequestFailed), [`Input::StoreFailed`](crate::Input::StoreFailed).
    Request {
        /// Names it.
        id: RequestId,
        /// Whom to ask.
        peer: DeviceId,
        /// What for.
        request: ObjectsRequest,
    },
    /// Begin a reconciliation with a peer, as the one who opens it: [`Input::Lacking`](crate::Input::Lacking) as
    /// often as something is found, then [`Input::Reconciled`](crate::Input::Reconciled), once.
    Reconcile {
        /// With whom.
        peer: DeviceId,
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
    /// A problem that is new: for the log. [`View::problems`](crate::View::problems) has it too.
    Problem(Problem),
}
