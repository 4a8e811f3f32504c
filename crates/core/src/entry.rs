//! Names, paths, and the versions that an entry of a directory has.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use crate::id::{Dot, ObjectId};
use crate::object::Link;

/// The most bytes of a name. More than Linux's 255, because macOS counts 255 UTF-16 units.
pub const MAX_NAME_BYTES: usize = 1024;
/// The most names in a path: bounds every recursion over directories.
pub const MAX_PATH_DEPTH: usize = 512;
/// The most levels of one search tree: 1,024-way nodes would hold 2^64 entries in seven; the mean cut needs more.
pub const MAX_TREE_LEVEL: u8 = 24;
/// Content up to this many bytes is one raw object; larger content is chunked.
pub const MAX_RAW_CONTENT: u64 = 1 << 20;
/// The most bytes of a symlink's target (Linux's `PATH_MAX`).
pub const MAX_SYMLINK_TARGET: u64 = 4096;
/// The one name reserved whole: the marker directory of a synced folder.
pub const RESERVED_NAME: &[u8] = b".ark";
/// Names that begin so are ark's own temporaries: never published, refused from peers.
pub const RESERVED_PREFIX: &[u8] = b".ark-";

/// Why bytes cannot be a name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No bytes.
    #[error("an empty name")]
    Empty,
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("a name of {0} bytes, more than {MAX_NAME_BYTES}")]
    TooLong(usize),
    /// `.`, `..`, or with a slash or NUL.
    #[error("the name {0:?} would lead out of its directory")]
    NotAName(String),
    /// `.ark` or `.ark-*`.
    #[error("the name {0:?} is reserved for ark")]
    Reserved(String),
}

/// A name in a directory: 1 to [`MAX_NAME_BYTES`] bytes, no slash, no NUL, not `.`, `..`,
/// `.ark` or `.ark-*`. Not necessarily UTF-8; ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and takes `bytes`.
    ///
    /// # Errors
    /// Bytes that no directory may hold as a synced name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        if bytes.is_empty() {
            Err(NameError::Empty)
        } else if bytes.len() > MAX_NAME_BYTES {
            Err(NameError::TooLong(bytes.len()))
        } else if bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            Err(NameError::NotAName(shown()))
        } else if bytes == RESERVED_NAME || bytes.starts_with(RESERVED_PREFIX) {
            Err(NameError::Reserved(shown()))
        } else {
            Ok(Self(bytes.into()))
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A path below the root of a repo: names joined by `/`. The root itself is the empty path.
/// Ordered by bytes of the joined form with `/` lowest, so that a directory stands right before
/// what is in it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<Name>);

impl RelPath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Parses names joined by `/`; no leading, trailing or doubled slash. Empty is the root.
    ///
    /// # Errors
    /// A part that is not a [`Name`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        bytes.split(|&b| b == b'/').map(Name::new).collect::<Result<_, _>>().map(Self)
    }

    /// The joined form: the inverse of [`RelPath::parse`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
    }

    /// Its names, outermost first.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of `name` in this directory.
    #[must_use]
    pub fn join(&self, name: Name) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }

    /// The directory it is in and its name there; `None` for the root.
    pub fn split_last(&self) -> Option<(Self, &Name)> {
        self.0.split_last().map(|(name, parents)| (Self(parents.to_vec()), name))
    }

    /// Whether it is `other` or below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl From<Vec<Name>> for RelPath {
    fn from(names: Vec<Name>) -> Self {
        Self(names)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.to_bytes()))
    }
}

/// How many files a tree holds and how many bytes they have. Versions set aside count as files;
/// symlinks count as files of no bytes; directories count nothing themselves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Totals {
    /// Files and symlinks.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Of the files and symlinks, those that a conflict set aside.
    pub aside: u64,
}

impl Totals {
    /// The sum, saturating: totals come from peers before they are checked.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
            aside: self.aside.saturating_add(other.aside),
        }
    }
}

/// The content of a regular file. Equal content has equal `Content`: how bytes are cut depends
/// on the bytes alone.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Archive, Serialize, Deserialize,
)]
pub enum Content {
    /// One raw object: up to [`MAX_RAW_CONTENT`] bytes.
    Raw(ObjectId),
    /// The root of a `File` search tree: more than [`MAX_RAW_CONTENT`] bytes.
    Chunked(ObjectId),
}

impl Content {
    /// Kind and id of the object that holds it.
    pub const fn link(self) -> Link {
        match self {
            Self::Raw(id) => Link::raw(id),
            Self::Chunked(id) => Link::file(id),
        }
    }
}

/// What a version of a name is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    /// A regular file.
    File {
        /// Its content.
        content: Content,
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link, kept as a link, never followed.
    Symlink {
        /// The raw object that holds the target's bytes.
        target: ObjectId,
        /// Length of the target in bytes, 1 to [`MAX_SYMLINK_TARGET`].
        size: u64,
    },
    /// A directory.
    Directory {
        /// The root node of its search tree.
        root: ObjectId,
        /// What is in it, all the way down.
        totals: Totals,
    },
}

/// The kind of a [`Node`], in the order in which they win a name: the greatest stays in place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum NodeKind {
    /// A symbolic link.
    Symlink = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
}

impl Node {
    /// File, symlink or directory.
    pub const fn kind(&self) -> NodeKind {
        match self {
            Self::File { .. } => NodeKind::File,
            Self::Symlink { .. } => NodeKind::Symlink,
            Self::Directory { .. } => NodeKind::Directory,
        }
    }

    /// The object that holds the content.
    pub const fn link(&self) -> Link {
        match self {
            Self::File { content, .. } => content.link(),
            Self::Symlink { target, .. } => Link::raw(*target),
            Self::Directory { root, .. } => Link::directory(*root),
        }
    }
}

/// The nine permission bits `rwxrwxrwx`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Permissions(u16);

impl Permissions {
    /// The nine low bits of `mode`.
    pub const fn from_mode(mode: u32) -> Self {
        Self((mode & 0o777) as u16)
    }

    /// The bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// A modification time as the file system gave it: information, never a tie-break of content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// One version of a name. See DESIGN 5 for how versions of two snapshots meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// What it is, and its content.
    pub node: Node,
    /// The acts that wrote this content (for a directory: that made the name a directory).
    /// Sorted, distinct, never empty; several where equal content was written more than once.
    pub dots: Vec<Dot>,
    /// The permission bits. A symlink's are always 0o777.
    pub permissions: Permissions,
    /// The act that last set the permission bits; the first of `dots` where none did alone.
    pub permissions_dot: Dot,
    /// When the content was last modified. Zero for directories, whose time is not tracked.
    pub mtime: Mtime,
    /// Whether a conflict set it aside: shown as a copy, never in place. Never for directories.
    pub aside: bool,
}

impl Version {
    /// What it adds to the totals of the directory it is in.
    pub const fn totals(&self) -> Totals {
        let aside = self.aside as u64;
        match self.node {
            Node::File { size, .. } => Totals { files: 1, bytes: size, aside },
            Node::Symlink { .. } => Totals { files: 1, bytes: 0, aside },
            Node::Directory { totals, .. } => totals,
        }
    }
}

/// A name and its versions: nearly always one. At most one is not aside, and versions differ
/// in content (kind and link).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// In order: the one in place first, where there is one, then by kind and content hash,
    /// greatest first. Never empty.
    pub versions: Vec<Version>,
}

impl Entry {
    /// The version in place, if not all are aside.
    pub fn in_place(&self) -> Option<&Version> {
        self.versions.first().filter(|version| !version.aside)
    }

    /// The versions set aside.
    pub fn aside(&self) -> &[Version] {
        match self.in_place() {
            Some(_) => &self.versions[1..],
            None => &self.versions,
        }
    }
}
