//! The conversation of a jj process with the daemon, about one repo.
//!
//! It begins as any other on the socket, with one request: [`Request::Jj`](crate::Request::Jj) names
//! the repo and the version of this conversation. Once that is granted, both sides send frames until
//! the connection ends:
//!
//! - A frame is the length of a header and the length of a body (`u32` each, little endian), the
//!   header, an rkyv archive, and the body: the bytes of an object, or nothing.
//! - Questions have numbers, which answers bear; answers come in any order. A [`Ask::Put`] has no
//!   answer: that one failed is said by the next [`Ask::Barrier`].
//! - What writes is done in the order in which it came, what reads meanwhile.
//! - Who does not read what was asked for is not read from any more, and so the other way round: on
//!   each side a bounded number of bytes waits.

mod connect;
mod frame;
mod serve;

use std::ops::RangeInclusive;

use ark_core::{Link, Object, ObjectId, ObjectKind};
use bytes::Bytes;

pub use connect::{JjReader, JjWriter, connect_jj};
pub use frame::MAX_HEADER_BYTES;
pub use serve::{MAX_ANSWERS_AT_ONCE, PutFailure, Repository, serve_jj};

/// The version of the conversation.
pub const JJ_VERSION: u16 = 1;
/// The most ids that one question of [`Ask::Ids`] is answered with: 128 KiB. Whoever wants more asks
/// again, from the last one on.
pub const MAX_IDS: usize = 4096;

/// What a jj process asks.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The bytes of an object: [`Answer::Object`] or [`Answer::Absent`].
    Get(Link),
    /// Takes an object in. No answer.
    Put(Object),
    /// [`Answer::Done`] once all that was put before is durable. After [`Answer::Failed`] or
    /// [`Answer::Refused`] none of what was put since the last one that was done need be there: it
    /// is put again, in the second case but for what was refused.
    Barrier,
    /// The lowest `limit` ids of a kind in a range, at most [`MAX_IDS`]: [`Answer::Ids`].
    Ids {
        /// Of which kind.
        kind: ObjectKind,
        /// From which one to which one.
        range: RangeInclusive<ObjectId>,
        /// How many at most.
        limit: usize,
    },
    /// The repo's heads, in order: [`Answer::Ids`].
    Heads,
    /// Drops and makes heads, durably and in one act: [`Answer::Done`]. Asked twice it is as asked
    /// once where nobody acts in between; where somebody dropped `new` meanwhile, it is a head
    /// again.
    UpdateHeads {
        /// Those to be dropped.
        old: Vec<ObjectId>,
        /// The one to be made.
        new: Option<ObjectId>,
    },
    /// The same, but only where all of `old` are heads: [`Answer::Done`] or [`Answer::Changed`],
    /// which asked twice may mean that it was done the first time.
    ReplaceHeads {
        /// Those to be dropped.
        old: Vec<ObjectId>,
        /// The one to be made.
        new: ObjectId,
    },
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The bytes of the object asked for.
    Object(Bytes),
    /// The repo has no such object.
    Absent,
    /// It is done, and durable.
    Done,
    /// Nothing was done: the heads are others.
    Changed,
    /// In order.
    Ids(Vec<ObjectId>),
    /// It could not be done; why, in words.
    Failed(String),
    /// Of a barrier: it could not be done, for this object will never be taken in; why, in words.
    Refused(Link, String),
}
