//! A session: two sides that find out which links each has that the other lacks.
//!
//! The [`Opener`](crate::Opener) asks, the [`Answerer`](crate::Answerer) answers each question
//! from its set alone, and both say what they learn they lack. Nothing is kept of a session: what is
//! the same by the next is not looked at again. An answerer that ends without being asked to
//! says nothing: whoever carries the frames ends the stream, which the opener's driver takes as
//! [`End::Incomplete`].

use std::sync::Arc;

use ark_core::{Link, ObjectId, ObjectKind};

use crate::key::{NameKey, ShortId};
use crate::message::WireError;
use crate::meter::Halt;
use crate::prefix::Prefix;
use crate::sketch::Sketch;
use crate::trie::{Digest, LINK_BYTES, Links, Nodes, link_bytes};

/// The most rounds of questions in a session. One may settle 16,000 differences, so that an honest
/// session reaches its ceiling of bytes first.
pub const MAX_ROUNDS: u32 = 256;
/// Messages in a row after which nothing is better known than before: the last one ends it.
pub(crate) const MAX_FRUITLESS: u8 = 2;
/// The most links that one question makes its answerer read: a fraction of a second.
pub(crate) const MAX_ANSWER_LINKS: u64 = 1 << 21;

/// A set with its trie, as of one moment.
pub trait Source: Links<Error = Self::Failure> + Nodes<Error = Self::Failure> {
    /// Why it cannot be read.
    type Failure;

    /// A sketch of the set. One that has another digest than the set is not used. Where there is
    /// none, the session will read up to `otherwise` links for want of it. Each side asks once when
    /// it begins, with 0: whoever keeps one can follow the set from then on.
    ///
    /// # Errors
    /// What the store's reading fails with.
    fn sketch(&self, otherwise: u64) -> Result<Option<Arc<Sketch>>, Self::Failure> {
        let _ = otherwise;
        Ok(None)
    }
}

/// What a side is to do after a message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Frames for the other side, in order.
    pub frames: Vec<Vec<u8>>,
    /// Links that the other side has and this one lacks: its word only.
    pub lacking: Vec<Link>,
    /// Set once there is nothing more to do.
    pub end: Option<End>,
}

/// How a session ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Every difference was found.
    Complete,
    /// A ceiling was reached, or no progress was made. What was found stands; another session, with
    /// another key, goes on from there.
    Incomplete,
}

impl End {
    pub(crate) fn of(complete: bool) -> Self {
        if complete { Self::Complete } else { Self::Incomplete }
    }
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError<E> {
    /// The own set cannot be read.
    #[error("the own set cannot be read")]
    Source(#[source] E),
    /// The other side broke the rules.
    #[error("the other side broke the rules of reconciliation")]
    Violation(#[source] Violation),
}

/// What the other side did that it must not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame that is no message.
    #[error("a frame that is no message")]
    Wire(#[from] WireError),
    /// A message that this side never gets.
    #[error("a message that only the other side gets")]
    Unexpected,
    /// A message after the end.
    #[error("a message after the end")]
    AfterEnd,
    /// An answer to nothing.
    #[error("an answer without a question")]
    Unasked,
    /// An answer that does not fit its question.
    #[error("an answer that does not fit its question: {0}")]
    Unfitting(&'static str),
    /// A question whose answer would have to read too much.
    #[error("a question about more links than one may be about")]
    TooMuch,
    /// A question about kept cells where none were given, or for more where all were.
    #[error("a question about kept cells that were not given, or for none")]
    NotKept,
    /// Cells that name what this side does not have.
    #[error("cells that no two sets give")]
    Cells,
}

/// What a session stopped with, where it is no ceiling.
pub(crate) fn fatal<E>(halt: Halt<E>) -> Result<(), SessionError<E>> {
    match halt {
        Halt::Source(error) => Err(SessionError::Source(error)),
        Halt::Violation(violation) => Err(SessionError::Violation(violation)),
        Halt::Ceiling => Ok(()),
    }
}

/// The links with these short ids, sorted; of those that there are.
pub(crate) fn find<L: Links>(
    source: &L,
    key: &NameKey,
    ids: &[ShortId],
) -> Result<Vec<Link>, L::Error> {
    let mut found = Vec::new();
    for ids in ids.chunk_by(|a, b| a.prefix() == b.prefix()) {
        for link in source.links(ids[0].prefix())? {
            let link = link?;
            if ids.binary_search(&key.short_id(link)).is_ok() {
                found.push(link);
            }
        }
    }
    Ok(found)
}

/// Hands every link under the prefixes to `each`, with its short id.
pub(crate) fn each_short_id<L: Links>(
    source: &L,
    key: &NameKey,
    prefixes: &[Prefix],
    mut each: impl FnMut(ShortId, Link),
) -> Result<(), L::Error> {
    for prefix in prefixes {
        for link in source.links(*prefix)? {
            let link = link?;
            each(key.short_id(link), link);
        }
    }
    Ok(())
}

/// The XOR of all links under `prefix`, as bytes.
pub(crate) fn sum_of<L: Links>(source: &L, prefix: Prefix) -> Result<[u8; LINK_BYTES], L::Error> {
    let mut sum = [0; LINK_BYTES];
    for link in source.links(prefix)? {
        add_to_sum(&mut sum, link?);
    }
    Ok(sum)
}

/// Puts a link into an XOR of links, or takes it out.
pub(crate) fn add_to_sum(sum: &mut [u8; LINK_BYTES], link: Link) {
    for (sum, byte) in sum.iter_mut().zip(link_bytes(link)) {
        *sum ^= byte;
    }
}

/// The sketch of a source, if it is of the set with this digest.
pub(crate) fn sketch_of<S: Source>(
    source: &S,
    digest: Digest,
    otherwise: u64,
) -> Result<Option<Arc<Sketch>>, Halt<S::Failure>> {
    let sketch = source.sketch(otherwise).map_err(Halt::Source)?;
    Ok(sketch.filter(|sketch| sketch.digest() == digest))
}

/// The link of these bytes, whose kind is known to be one.
pub(crate) fn link_from(bytes: &[u8; LINK_BYTES]) -> Link {
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[..32]);
    let kind = ObjectKind::from_u8(bytes[32]).expect("the kind was checked when it was decoded");
    Link { kind, id: ObjectId::from_bytes(id) }
}
