//! Objects, links and the traits by which their bytes are read and written.
//!
//! A structured object is a header (kind, version), then an rkyv archive. Its bytes are
//! canonical: decoding validates, re-encodes and refuses what is not equal. A raw object is any
//! bytes. A link says what kind it expects; bytes are never classified by looking at them.

use bytes::Bytes;

use crate::id::{DeviceId, ObjectId};

/// The most bytes one object may have: 4 MiB.
pub const MAX_OBJECT_BYTES: usize = 4 << 20;

/// What an object is. The numbers are part of the format and of index keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ObjectKind {
    /// Content or a chunk of content: any bytes, no header, no links.
    Raw = 0,
    /// A node of the search tree over the chunks of a large file.
    File = 1,
    /// A node of the search tree over a directory's entries.
    Directory = 2,
    /// A folder writer's head: root directory, vector, wall time.
    Snapshot = 3,
    /// A commit of a jj repo.
    Commit = 4,
    /// A node of the tree over the entries of a directory of a jj repo.
    Tree = 5,
    /// Where a file of a jj repo was copied from.
    Copy = 6,
    /// A node of the tree over what a view of a jj repo says.
    View = 7,
    /// A node of the tree over the predecessors that an operation of a jj repo records, where
    /// they are many.
    Predecessors = 8,
    /// An operation of a jj repo: a jj writer's head.
    Operation = 9,
}

impl ObjectKind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::File),
            2 => Some(Self::Directory),
            3 => Some(Self::Snapshot),
            4 => Some(Self::Commit),
            5 => Some(Self::Tree),
            6 => Some(Self::Copy),
            7 => Some(Self::View),
            8 => Some(Self::Predecessors),
            9 => Some(Self::Operation),
            _ => None,
        }
    }

    /// Whether objects of this kind have a header and may have links.
    pub const fn is_structured(self) -> bool {
        !matches!(self, Self::Raw)
    }
}

/// A reference to an object, with the kind it must have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// What the object is.
    pub kind: ObjectKind,
    /// Its hash.
    pub id: ObjectId,
}

impl Link {
    /// A link to the raw object `id`.
    pub const fn raw(id: ObjectId) -> Self {
        Self { kind: ObjectKind::Raw, id }
    }

    /// A link to the directory node `id`.
    pub const fn directory(id: ObjectId) -> Self {
        Self { kind: ObjectKind::Directory, id }
    }

    /// A link to the file node `id`.
    pub const fn file(id: ObjectId) -> Self {
        Self { kind: ObjectKind::File, id }
    }

    /// A link to the snapshot `id`.
    pub const fn snapshot(id: ObjectId) -> Self {
        Self { kind: ObjectKind::Snapshot, id }
    }
}

/// An object in hand: its bytes and what they are. The id is computed, so it is always true.
#[derive(Clone, Debug)]
pub struct Object {
    link: Link,
    bytes: Bytes,
}

impl Object {
    /// Names `bytes`. It does not check that structured bytes decode: see [`check`](crate::check()) and [`links`](crate::links).
    pub fn new(kind: ObjectKind, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { link: Link { kind, id: ObjectId::of(&bytes) }, bytes }
    }

    /// Kind and id.
    pub fn link(&self) -> Link {
        self.link
    }

    /// The id.
    pub fn id(&self) -> ObjectId {
        self.link.id
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, by value.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Where the bytes of objects come from. Blocking; an absent object is an error of the
/// implementation's, because a walk only follows links of objects whose closure is there.
pub trait Read {
    /// Why an object could not be read. Absent and unreadable are told apart there.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The bytes of `link`, whole.
    ///
    /// # Errors
    /// As the implementation says.
    fn read(&self, link: Link) -> Result<Bytes, Self::Error>;
}

impl<R: Read + ?Sized> Read for &R {
    type Error = R::Error;
    fn read(&self, link: Link) -> Result<Bytes, Self::Error> {
        (**self).read(link)
    }
}

/// Reads from objects made in this act first, then from what lay there before: the working set
/// of a merge or an edit, until the store takes the new objects in.
#[derive(Debug)]
pub struct Overlay<R> {
    below: R,
    made: std::collections::HashMap<Link, Bytes>,
    order: Vec<Link>,
}

impl<R: Read> Overlay<R> {
    /// Nothing made yet, over `below`.
    pub fn new(below: R) -> Self {
        Self { below, made: std::collections::HashMap::new(), order: Vec::new() }
    }

    /// Adds an object; the same one twice is one.
    pub fn put(&mut self, object: Object) -> ObjectId {
        let link = object.link();
        if self.made.insert(link, object.into_bytes()).is_none() {
            self.order.push(link);
        }
        link.id
    }

    /// What was made, children before parents (the order in which it was put).
    pub fn into_made(mut self) -> Vec<Object> {
        let made = &mut self.made;
        self.order
            .iter()
            .filter_map(|link| Some(Object { link: *link, bytes: made.remove(link)? }))
            .collect()
    }
}

impl<R: Read> Read for Overlay<R> {
    type Error = R::Error;
    fn read(&self, link: Link) -> Result<Bytes, R::Error> {
        match self.made.get(&link) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.below.read(link),
        }
    }
}

/// Bytes that are not a canonical object of the kind expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than any object may have.
    #[error("{kind:?} object of {length} bytes, more than {MAX_OBJECT_BYTES}")]
    TooLarge {
        /// The kind expected.
        kind: ObjectKind,
        /// Bytes found.
        length: usize,
    },
    /// The header names another kind, or a version this build does not know.
    #[error("{kind:?} object with header {found:?}: not of this kind, or of a newer version")]
    Header {
        /// The kind expected.
        kind: ObjectKind,
        /// The first two bytes, or fewer.
        found: Vec<u8>,
    },
    /// Not a valid archive.
    #[error("{kind:?} object is not a valid archive: {reason}")]
    Archive {
        /// The kind expected.
        kind: ObjectKind,
        /// What the validator said.
        reason: String,
    },
    /// A valid archive that says what no such object may say.
    #[error("{kind:?} object is invalid: {reason}")]
    Invalid {
        /// The kind expected.
        kind: ObjectKind,
        /// The rule that it breaks.
        reason: String,
    },
    /// Valid, but not the one encoding that it may have.
    #[error("{kind:?} object is not in canonical form")]
    NotCanonical {
        /// The kind expected.
        kind: ObjectKind,
    },
    /// A state that says what no state may say, or not in its one encoding.
    #[error("a state is invalid: {reason}")]
    State {
        /// The rule that it breaks.
        reason: String,
    },
    /// A state whose signature is not its writer's.
    #[error("the signature of a state of {device} is wrong")]
    Signature {
        /// The device that the state names.
        device: DeviceId,
    },
}

/// A failure while walking objects: the bytes could not be read, or they are not what the link
/// to them said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError<E: std::error::Error + 'static> {
    /// The reader failed.
    #[error("cannot read object {}", .link.id)]
    Read {
        /// What was asked for.
        link: Link,
        /// Why.
        #[source]
        source: E,
    },
    /// The bytes are not a canonical object of that kind.
    #[error("object {} is damaged", .link.id)]
    Decode {
        /// What was asked for.
        link: Link,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// Deeper than [`MAX_TREE_LEVEL`](crate::MAX_TREE_LEVEL) or [`MAX_PATH_DEPTH`](crate::MAX_PATH_DEPTH), so not walked on.
    #[error("object {} is nested too deeply", .link.id)]
    TooDeep {
        /// Where the walk stopped.
        link: Link,
    },
    /// A name would get more versions than one entry may have, so the directory cannot be made.
    #[error("the name {name:?} has versions of weight {weight}, more than one may have")]
    EntryTooLarge {
        /// The name.
        name: crate::Name,
        /// What its entry would weigh; the most is [`MAX_ENTRY_WEIGHT`](crate::MAX_ENTRY_WEIGHT).
        weight: usize,
    },
}
