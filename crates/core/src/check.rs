//! What is checked of an object before it is indexed: that it is canonical, and that what it
//! says of its children is true of them.
//!
//! An object is checked when all that it links is indexed. Each indexed object leaves a
//! [`Summary`], which is all that its parents are checked against: so a whole tree is checked
//! bottom-up, each object once, and no object is read again.

use std::collections::{HashMap, HashSet};

use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use crate::chunk::{FileNode, MIN_CHUNK, ends_node};
use crate::codec;
use crate::dir::node::DirNode;
use crate::entry::{MAX_RAW_CONTENT, Totals};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, MAX_OBJECT_BYTES, ObjectKind};
use crate::snapshot::Snapshot;

mod directory;
mod repository;

use directory::{DirectorySummary, check_directory, check_snapshot};
use repository::{Part, PartSummary};

/// What a parent must know of an indexed child. Kept by the store beside the index entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary(About);

#[derive(Clone, PartialEq, Eq, Debug)]
enum About {
    Raw { length: u64 },
    File(FileSummary),
    Directory(DirectorySummary),
    Snapshot(Totals),
    Part(PartSummary),
}

/// Of a node of a content's tree.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
struct FileSummary {
    level: u8,
    length: u64,
    /// The last chunk below it: decides where the levels above are cut.
    last: ObjectId,
    /// Whether another node may stand after it on its level.
    is_closed: bool,
    /// Whether it may be the root of a tree: the lowest node that has everything below it.
    is_root: bool,
}

/// The first byte of a summary: what it is of, in which version.
mod tag {
    pub(super) const RAW: u8 = 0;
    pub(super) const FILE: u8 = 1;
    pub(super) const DIRECTORY: u8 = 2;
    pub(super) const SNAPSHOT: u8 = 3;
}

impl Summary {
    /// Its one encoding, for the index. 9 bytes for a raw object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (tag, rest) = match &self.0 {
            About::Raw { length } => (tag::RAW, length.to_le_bytes().to_vec()),
            About::File(file) => (tag::FILE, codec::archive(file).to_vec()),
            About::Directory(directory) => (tag::DIRECTORY, codec::archive(directory).to_vec()),
            About::Snapshot(Totals { files, bytes, aside }) => {
                (tag::SNAPSHOT, codec::archive(&(*files, *bytes, *aside)).to_vec())
            }
            About::Part(part) => part.to_bytes(),
        };
        [vec![tag], rest].concat()
    }

    /// Reads what [`Summary::to_bytes`] made; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        let about = match tag {
            tag::RAW => About::Raw { length: u64::from_le_bytes(rest.try_into().ok()?) },
            tag::FILE => About::File(rkyv::from_bytes::<_, ArchiveError>(rest).ok()?),
            tag::DIRECTORY => About::Directory(rkyv::from_bytes::<_, ArchiveError>(rest).ok()?),
            tag::SNAPSHOT => {
                let (files, bytes, aside) = rkyv::from_bytes::<_, ArchiveError>(rest).ok()?;
                About::Snapshot(Totals { files, bytes, aside })
            }
            tag => About::Part(PartSummary::from_bytes(tag, rest)?),
        };
        Some(Self(about))
    }

    /// Files and bytes below the object: of a directory all that is in it, of content its
    /// bytes as one file, of a snapshot its root directory's. What only jj repos have counts
    /// nothing: what its heads reach is a history, not so many files.
    pub fn totals(&self) -> Totals {
        match &self.0 {
            About::Raw { length } | About::File(FileSummary { length, .. }) => {
                Totals { files: 1, bytes: *length, aside: 0 }
            }
            About::Directory(directory) => directory.totals(),
            About::Snapshot(totals) => *totals,
            About::Part(_) => Totals::default(),
        }
    }
}

/// The outcome of [`check`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checked {
    /// All that it links is indexed and is what the object says: it may be indexed too.
    Complete(Summary),
    /// What it links that is not indexed yet: distinct, in order of appearance.
    Missing(Vec<Link>),
}

/// What an object links: distinct, in order of appearance. A raw object links nothing.
///
/// # Errors
/// Bytes that are not a canonical object of that kind.
pub fn links(link: Link, bytes: &[u8]) -> Result<Vec<Link>, DecodeError> {
    Ok(Decoded::new(link.kind, bytes)?.links())
}

/// Checks an object whose hash was verified against `link`. `child` gives the summary of an
/// object that is indexed, and `None` for one that is not.
///
/// # Errors
/// Bytes that are not a canonical object of that kind, or that say what is not true of their
/// children: such an object is never indexed, and whoever sent it is at fault.
pub fn check(
    link: Link,
    bytes: &[u8],
    mut child: impl FnMut(Link) -> Option<Summary>,
) -> Result<Checked, DecodeError> {
    let decoded = Decoded::new(link.kind, bytes)?;
    let mut children = Children(HashMap::new());
    let mut missing = Vec::new();
    for link in decoded.links() {
        match child(link) {
            Some(Summary(about)) => drop(children.0.insert(link, about)),
            None => missing.push(link),
        }
    }
    if !missing.is_empty() {
        return Ok(Checked::Missing(missing));
    }
    let about = match &decoded {
        Decoded::Raw { length } => Ok(About::Raw { length: *length }),
        Decoded::File(node) => check_file(node, &children).map(About::File),
        Decoded::Directory(node) => check_directory(node, &children).map(About::Directory),
        Decoded::Snapshot(snapshot) => check_snapshot(snapshot, &children).map(About::Snapshot),
        Decoded::Part(part) => part.check(&children).map(About::Part),
    };
    match about {
        Ok(about) => Ok(Checked::Complete(Summary(about))),
        Err(reason) => Err(DecodeError::Invalid { kind: link.kind, reason }),
    }
}

enum Decoded {
    Raw { length: u64 },
    File(FileNode),
    Directory(DirNode),
    Snapshot(Snapshot),
    Part(Box<Part>),
}

impl Decoded {
    fn new(kind: ObjectKind, bytes: &[u8]) -> Result<Self, DecodeError> {
        match kind {
            ObjectKind::Raw if bytes.len() > MAX_OBJECT_BYTES => {
                Err(DecodeError::TooLarge { kind, length: bytes.len() })
            }
            ObjectKind::Raw => Ok(Self::Raw { length: bytes.len() as u64 }),
            ObjectKind::File => FileNode::decode(bytes).map(Self::File),
            ObjectKind::Directory => DirNode::decode(bytes).map(Self::Directory),
            ObjectKind::Snapshot => Snapshot::decode(bytes).map(Self::Snapshot),
            ObjectKind::Commit
            | ObjectKind::Tree
            | ObjectKind::Copy
            | ObjectKind::View
            | ObjectKind::Predecessors
            | ObjectKind::Operation => {
                Part::decode(kind, bytes).map(|part| Self::Part(Box::new(part)))
            }
        }
    }

    fn links(&self) -> Vec<Link> {
        let mut links = match self {
            Self::Raw { .. } => Vec::new(),
            Self::File(node) => node.children.iter().map(|child| node.link(child)).collect(),
            Self::Directory(node) => {
                let versions = node.entries().iter().flat_map(|entry| &entry.versions);
                let children = node.children().iter().map(|child| Link::directory(child.id));
                versions.map(|version| version.node.link()).chain(children).collect()
            }
            Self::Snapshot(snapshot) => vec![snapshot.link()],
            Self::Part(part) => part.links(),
        };
        let mut seen = HashSet::new();
        links.retain(|&link| seen.insert(link));
        links
    }
}

/// The summaries of all that an object links. A summary of another kind than the link's is a
/// fault of the index; it reads as a child that is not what its parent says.
struct Children(HashMap<Link, About>);

impl Children {
    fn raw_length(&self, id: ObjectId) -> Result<u64, String> {
        match self.0.get(&Link::raw(id)) {
            Some(About::Raw { length }) => Ok(*length),
            _ => Err(format!("no raw object {id}")),
        }
    }

    fn file(&self, id: ObjectId) -> Result<&FileSummary, String> {
        match self.0.get(&Link::file(id)) {
            Some(About::File(summary)) => Ok(summary),
            _ => Err(format!("no file node {id}")),
        }
    }

    fn directory(&self, id: ObjectId) -> Result<&DirectorySummary, String> {
        match self.0.get(&Link::directory(id)) {
            Some(About::Directory(summary)) => Ok(summary),
            _ => Err(format!("no directory node {id}")),
        }
    }

    fn part(&self, link: Link) -> Result<&PartSummary, String> {
        match self.0.get(&link) {
            Some(About::Part(summary)) => Ok(summary),
            _ => Err(format!("no {:?} {}", link.kind, link.id)),
        }
    }

    /// That `id` is the root of a content of `size` bytes.
    fn check_content(&self, id: ObjectId, size: u64) -> Result<(), String> {
        ensure(self.content_length(id)? == size, || {
            format!("file node {id} is not the root of a content of {size} bytes")
        })
    }

    /// How long the content is whose root is `id`.
    fn content_length(&self, id: ObjectId) -> Result<u64, String> {
        let found = self.file(id)?;
        ensure(found.length > MAX_RAW_CONTENT && found.is_root, || {
            format!("file node {id} is not the root of a content")
        })?;
        Ok(found.length)
    }
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

fn check_file(node: &FileNode, children: &Children) -> Result<FileSummary, String> {
    let summary = |last: ObjectId, may_go_on: bool| FileSummary {
        level: node.level,
        length: node.length(),
        last,
        is_closed: may_go_on && ends_node(node.level, node.children.len(), &last),
        is_root: node.level == 0 || node.children.len() > 1,
    };
    if node.level == 0 {
        for chunk in &node.children {
            let (id, length) = (chunk.id, children.raw_length(chunk.id)?);
            ensure(length == chunk.length, || format!("chunk {id} has {length} bytes"))?;
        }
        let last = node.children.last().ok_or("no chunks")?;
        return Ok(summary(last.id, last.length >= MIN_CHUNK as u64));
    }
    let mut last: Option<&FileSummary> = None;
    for (count, child) in node.children.iter().enumerate() {
        if let Some(before) = last {
            ensure(before.is_closed, || format!("the node before {} is not closed", child.id))?;
            ensure(!ends_node(node.level, count, &before.last), || {
                "it goes on where it should have ended".into()
            })?;
        }
        let found = children.file(child.id)?;
        ensure(
            found.length == child.length && found.level.checked_add(1) == Some(node.level),
            || format!("node {} is of level {} and {} bytes", child.id, found.level, found.length),
        )?;
        last = Some(found);
    }
    let last = last.ok_or("no children")?;
    Ok(summary(last.last, last.is_closed))
}

#[cfg(test)]
mod tests;
