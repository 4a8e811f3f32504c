//! The framing of `ark/objects/1`: one request per stream, then its answer.
//!
//! The request is one frame: a 32-bit little-endian length (at most [`MAX_REQUEST_BYTES`]), then
//! [`ObjectsRequest::encode`]. The answer is a sequence of items, each an [`ItemHeader`] of
//! [`ITEM_HEADER_BYTES`] bytes and, where the object is present, its bytes; the stream ends after
//! the last. Every link asked for is answered once, in any order. With `ahead`, structured
//! objects that the ones sent link to may follow unasked, each once.

use std::collections::HashMap;

use ark_core::{Link, MAX_OBJECT_BYTES, ObjectId, ObjectKind, TopicId};
use rkyv::with::Map;
use rkyv::{Archive, Deserialize, Serialize};

use crate::wire::{self, Body, LinkWire, WireError};

/// The most links of one request: its frame stays under [`MAX_REQUEST_BYTES`], and losing a
/// stream loses little.
pub const MAX_REQUEST_LINKS: usize = 1024;
/// The most bytes of a request's frame: 33 for each link and a few for the archive.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Bytes of an [`ItemHeader`]: tag, kind, id, length.
pub const ITEM_HEADER_BYTES: usize = 1 + 1 + 32 + 4;
/// The most objects that may be streamed ahead in one answer. A repo with more structured objects
/// is walked on from there.
pub const MAX_AHEAD_OBJECTS: usize = 1 << 16;

const TAG_MISSING: u8 = 0;
const TAG_PRESENT: u8 = 1;

/// Asks for objects of one repo.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ObjectsRequest {
    /// The repo.
    pub topic: TopicId,
    /// What is asked for: distinct, in the order in which it is wanted, at least one, at most
    /// [`MAX_REQUEST_LINKS`].
    #[rkyv(with = Map<LinkWire>)]
    pub links: Vec<Link>,
    /// Whether the structured objects that those asked for link to, and so on, may follow
    /// unasked: wanted by a side that has nothing of the repo.
    pub ahead: bool,
}

impl ObjectsRequest {
    /// The encoding, without the frame's length.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Decodes a frame's body: strictly what [`ObjectsRequest::encode`] makes of a valid request.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes)
    }
}

impl Body for ObjectsRequest {
    const LIMIT: usize = MAX_REQUEST_BYTES;

    fn validate(&self) -> Result<(), WireError> {
        if self.links.is_empty() || self.links.len() > MAX_REQUEST_LINKS {
            return Err(WireError::Invalid("a request for nothing, or for too much"));
        }
        let mut sorted = self.links.clone();
        sorted.sort_unstable();
        if !sorted.is_sorted_by(|a, b| a < b) {
            return Err(WireError::Invalid("a request that names an object twice"));
        }
        Ok(())
    }
}

/// What stands in front of each object of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemHeader {
    /// The object's bytes follow.
    Present {
        /// Which object.
        link: Link,
        /// How many bytes follow, at most [`MAX_OBJECT_BYTES`].
        length: u32,
    },
    /// The object is not in this repo there. Nothing follows.
    Missing {
        /// Which object.
        link: Link,
    },
}

/// Bytes that are not an item's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemHeaderError {
    /// Neither present nor missing.
    #[error("an item with tag {0}")]
    Tag(u8),
    /// No kind of object.
    #[error("an item of kind {0}")]
    Kind(u8),
    /// More bytes than an object may have, or bytes after *missing*.
    #[error("an item of {0} bytes")]
    Length(u32),
}

impl ItemHeader {
    /// Which object.
    pub const fn link(&self) -> Link {
        match *self {
            Self::Present { link, .. } | Self::Missing { link } => link,
        }
    }

    /// How many bytes follow.
    pub const fn length(&self) -> usize {
        match *self {
            Self::Present { length, .. } => length as usize,
            Self::Missing { .. } => 0,
        }
    }

    /// Tag (0 missing, 1 present), kind, id, length (little endian).
    pub fn encode(&self) -> [u8; ITEM_HEADER_BYTES] {
        let (tag, length) = match *self {
            Self::Present { length, .. } => (TAG_PRESENT, length),
            Self::Missing { .. } => (TAG_MISSING, 0),
        };
        let link = self.link();
        let mut bytes = [0; ITEM_HEADER_BYTES];
        bytes[0] = tag;
        bytes[1] = link.kind as u8;
        bytes[2..34].copy_from_slice(link.id.as_bytes());
        bytes[34..].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// The inverse of [`ItemHeader::encode`].
    ///
    /// # Errors
    /// Bytes that it does not make.
    pub fn decode(bytes: &[u8; ITEM_HEADER_BYTES]) -> Result<Self, ItemHeaderError> {
        let [tag, kind, rest @ ..] = bytes;
        let (id, length) = rest.split_at(32);
        let id = ObjectId::from_bytes(id.try_into().expect("32 bytes were split off"));
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes are left"));
        let kind = ObjectKind::from_u8(*kind).ok_or(ItemHeaderError::Kind(*kind))?;
        let link = Link { kind, id };
        match *tag {
            TAG_PRESENT if length as usize <= MAX_OBJECT_BYTES => {
                Ok(Self::Present { link, length })
            }
            TAG_MISSING if length == 0 => Ok(Self::Missing { link }),
            TAG_PRESENT | TAG_MISSING => Err(ItemHeaderError::Length(length)),
            tag => Err(ItemHeaderError::Tag(tag)),
        }
    }
}

/// What an item is to the request that it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It was asked for.
    Asked,
    /// It was not, but structured objects may be sent ahead.
    Ahead,
}

/// An answer that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerViolation {
    /// Nobody asked for it.
    #[error("object {} was sent unasked", .0.id.short())]
    Unasked(Link),
    /// It was answered before.
    #[error("object {} was answered twice", .0.id.short())]
    Twice(Link),
    /// More was sent ahead than [`MAX_AHEAD_OBJECTS`].
    #[error("more than {MAX_AHEAD_OBJECTS} objects were sent ahead")]
    TooManyAhead,
}

/// Follows one answer: which items may still come. Bounded by the request and
/// [`MAX_AHEAD_OBJECTS`].
#[derive(Debug)]
pub struct AnswerCheck {
    /// Whether each link that may not come again was answered.
    answered: HashMap<Link, bool>,
    open: usize,
    ahead: Option<usize>,
}

impl AnswerCheck {
    /// Nothing of `request` is answered yet.
    pub fn new(request: &ObjectsRequest) -> Self {
        let answered: HashMap<_, _> = request.links.iter().map(|&link| (link, false)).collect();
        let open = answered.len();
        Self { answered, open, ahead: request.ahead.then_some(0) }
    }

    /// Takes the next item's header.
    ///
    /// # Errors
    /// The item may not come: the answer is not to be read on.
    pub fn expect(&mut self, header: &ItemHeader) -> Result<Expected, AnswerViolation> {
        let link = header.link();
        match self.answered.get_mut(&link) {
            Some(true) => Err(AnswerViolation::Twice(link)),
            Some(answered) => {
                *answered = true;
                self.open -= 1;
                Ok(Expected::Asked)
            }
            None => {
                let present = matches!(header, ItemHeader::Present { .. });
                let Some(count) = self.ahead.as_mut().filter(|_| present) else {
                    return Err(AnswerViolation::Unasked(link));
                };
                if !link.kind.is_structured() {
                    return Err(AnswerViolation::Unasked(link));
                }
                if *count == MAX_AHEAD_OBJECTS {
                    return Err(AnswerViolation::TooManyAhead);
                }
                *count += 1;
                self.answered.insert(link, true);
                Ok(Expected::Ahead)
            }
        }
    }

    /// Whether every link asked for was answered: else the stream ended too early.
    pub fn is_complete(&self) -> bool {
        self.open == 0
    }
}
