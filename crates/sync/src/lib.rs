//! The engine: decides whom to pull what from, what to stage, join and announce:
//! `handle(Input, now) -> Effects`.
//!
//! Pure: no clock, no randomness of its own, no IO. One [`Engine`] per repo. A driver feeds it
//! [`Input`]s with the time in milliseconds, carries out the [`Effect`]s, returns each result as
//! an input, and gives [`Input::Timer`] when [`Engine::wake_at`] has come.
//!
//! The messages of the three protocols are here too, because what they may say is decided here:
//! [`Message`] of `ark/sync/1`, [`ObjectsRequest`] and [`ItemHeader`] of `ark/objects/1`, and the
//! [`Announcement`] that gossip carries.

pub mod announce;
pub mod effect;
pub mod engine;
pub mod input;
pub mod objects;
pub mod told;
mod view;

mod admission;
mod fetcher;
mod gate;
mod message;
mod pull;
mod random;
mod session;
mod wire;
mod wishes;

pub use announce::{Announced, Announcement, MAX_ANNOUNCEMENT_BYTES};
pub use effect::{Effect, RequestId};
pub use engine::{Engine, EngineOptions, Known, Remote};
pub use fetcher::MAX_WANTED;
pub use input::{Failure, Input, JoinOutcome, Reconciliation, StageOutcome, StoreStep};
pub use message::{
    Have, HaveEntry, Hello, MAX_FRAME_BYTES, MAX_LISTED, Message, PROTOCOL, Role, SummaryEntry,
};
pub use objects::{
    AnswerCheck, AnswerViolation, Expected, ITEM_HEADER_BYTES, ItemHeader, ItemHeaderError,
    MAX_AHEAD_OBJECTS, MAX_REQUEST_BYTES, MAX_REQUEST_LINKS, ObjectsRequest,
};
pub use session::Violation;
pub use view::{Amount, Counters, PeerView, Problem, Reconciliations, View};
pub use wire::WireError;
