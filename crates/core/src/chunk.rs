//! How the content of files is cut into raw objects, and the search tree over the chunks.
//!
//! Content up to [`MAX_RAW_CONTENT`] bytes is one raw object. Larger content is cut by `FastCDC`
//! (the 2020 variant) into chunks under a tree of `File` nodes, which is itself cut where the
//! chunks' ids say so: a change in one place makes a few new chunks and one new node per level.
//! Every constant here is part of the format: it decides the ids of equal content.

use std::io;

use fastcdc::v2020::{FastCDC, Normalization};
use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, Body};
use crate::entry::{Content, MAX_RAW_CONTENT, MAX_TREE_LEVEL};
use crate::id::ObjectId;
use crate::object::{DecodeError, Link, Object, ObjectKind, Read, TreeError};

/// The least bytes of a chunk, the last one of a file aside.
pub const MIN_CHUNK: usize = 256 << 10;
/// The bytes around which the lengths of chunks lie.
pub const AVERAGE_CHUNK: usize = 1 << 20;
/// The most bytes of a chunk: the most that an object may have.
pub const MAX_CHUNK: usize = 4 << 20;
/// How strongly lengths are drawn to the average.
const NORMALIZATION: Normalization = Normalization::Level1;
/// Mixed into the gear table; 0 leaves it as published.
const GEAR_SEED: u64 = 0;

/// The least children of a node that a hash may cut off, so that every level is at most half
/// as long as the one below it, whatever the content.
const MIN_FILE_CHILDREN: usize = 2;
/// The most children of a node: bounds a node to about 40 kB.
pub const MAX_FILE_CHILDREN: usize = 1024;
/// Low zero bits of a chunk's id that end a node, per level: 128 children in the mean.
const FILE_CUT_BITS: u32 = 7;

/// Bytes that [`Cutter`] buffers: twice [`MAX_CHUNK`], so that each byte is moved about once.
const CUTTER_BUFFER: usize = 2 * MAX_CHUNK;

/// The pieces of a content: one of at most [`MAX_RAW_CONTENT`] bytes (none at all is one empty
/// piece), or its chunks. Reads ahead at most 8 MiB. Ends after the first error.
#[derive(Debug)]
pub struct Cutter<R: io::Read> {
    from: R,
    pieces: Pieces,
}

impl<R: io::Read> Cutter<R> {
    /// Cuts what `from` gives, from here to its end.
    pub fn new(from: R) -> Self {
        Self { from, pieces: Pieces::new() }
    }

    fn cut(&mut self) -> io::Result<Option<Vec<u8>>> {
        use io::Read as _;
        while let Some((buffer, more)) = self.pieces.wanted() {
            let read = self.from.by_ref().take(more as u64).read_to_end(buffer)?;
            self.pieces.filled(read == more);
        }
        Ok(self.pieces.cut())
    }
}

impl<R: io::Read> Iterator for Cutter<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let cut = self.cut();
        if cut.is_err() {
            self.pieces.progress = Progress::Ended;
        }
        cut.transpose()
    }
}

/// How a content is cut, whoever reads it: as long as it wants bytes, it is given them; then it
/// cuts. Holds at most 8 MiB. See [`Cutter`], which is this for what blocks.
#[derive(Debug)]
pub struct Pieces {
    buffer: Vec<u8>,
    /// Where in `buffer` the bytes not yet given out begin.
    start: usize,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    NothingRead,
    Reading,
    /// All of a content that is one piece.
    AllReadSmall,
    AllRead,
    Ended,
}

impl Default for Pieces {
    fn default() -> Self {
        Self::new()
    }
}

impl Pieces {
    /// Of a content of which nothing is given yet.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, progress: Progress::NothingRead }
    }

    /// Where the next bytes of the content are to be added and how many, which is at least one;
    /// `None` where the next piece can be cut. Say [`Pieces::filled`] afterwards.
    pub fn wanted(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let limit = match self.progress {
            Progress::NothingRead => usize::try_from(MAX_RAW_CONTENT).unwrap_or(usize::MAX) + 1,
            Progress::Reading if self.buffer.len() - self.start < MAX_CHUNK => CUTTER_BUFFER,
            _ => return None,
        };
        self.buffer.drain(..self.start);
        self.start = 0;
        let more = limit - self.buffer.len();
        if limit == CUTTER_BUFFER {
            self.buffer.reserve_exact(more);
        }
        Some((&mut self.buffer, more))
    }

    /// All bytes that were wanted were added, or (`is_more` is not so) the content ended before.
    pub fn filled(&mut self, is_more: bool) {
        self.progress = match (is_more, self.progress) {
            (true, _) => Progress::Reading,
            (false, Progress::NothingRead) => Progress::AllReadSmall,
            (false, _) => Progress::AllRead,
        };
    }

    /// The next piece; `None` after the last.
    pub fn cut(&mut self) -> Option<Vec<u8>> {
        if self.progress == Progress::AllReadSmall {
            self.progress = Progress::Ended;
            return Some(std::mem::take(&mut self.buffer));
        }
        let rest = &self.buffer[self.start..];
        if rest.is_empty() || self.progress == Progress::Ended {
            self.progress = Progress::Ended;
            return None;
        }
        let chunk = rest[..first_cut(rest)].to_vec();
        self.start += chunk.len();
        Some(chunk)
    }
}

/// Length of the first chunk of `bytes`, which are [`MAX_CHUNK`] or more, or all to the end.
fn first_cut(bytes: &[u8]) -> usize {
    let (least, mean, most) = (MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK);
    FastCDC::with_level_and_seed(bytes, least, mean, most, NORMALIZATION, GEAR_SEED)
        .cut(0, bytes.len())
        .1
}

/// A child of a [`FileNode`]: a chunk at level 0, a node of the level below otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct FileChild {
    pub id: ObjectId,
    /// Bytes of content below it.
    pub length: u64,
}

/// The archive of a `File` object.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct FileNode {
    pub level: u8,
    /// In order of the content.
    pub children: Vec<FileChild>,
}

impl Body for FileNode {
    const KIND: ObjectKind = ObjectKind::File;

    fn validate(&self) -> Result<(), String> {
        let count = self.children.len();
        if self.level > MAX_TREE_LEVEL {
            return Err(format!("level {}, more than {MAX_TREE_LEVEL}", self.level));
        }
        if count == 0 || count > MAX_FILE_CHILDREN {
            return Err(format!("{count} children, not 1 to {MAX_FILE_CHILDREN}"));
        }
        if self.children.iter().any(|child| child.length == 0) {
            return Err("a child of no bytes".into());
        }
        if self.children.iter().try_fold(0, |sum: u64, c| sum.checked_add(c.length)).is_none() {
            return Err("more than 2^64 bytes".into());
        }
        if self.level == 0 { self.validate_chunks() } else { Ok(()) }
    }
}

impl FileNode {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// The rules of a leaf. Where its chunks were cut is not checked, because that takes their
    /// bytes: content cut in another way is whole all the same, only not shared.
    fn validate_chunks(&self) -> Result<(), String> {
        let Some((last, before)) = self.children.split_last() else { return Ok(()) };
        if self.children.iter().any(|chunk| chunk.length > MAX_CHUNK as u64) {
            return Err(format!("a chunk of more than {MAX_CHUNK} bytes"));
        }
        if before.iter().any(|chunk| chunk.length < MIN_CHUNK as u64) {
            return Err(format!("a chunk of less than {MIN_CHUNK} bytes before {:?}", last.id));
        }
        if before.iter().zip(1..).any(|(chunk, count)| ends_node(0, count, &chunk.id)) {
            return Err("it goes on where it should have ended".into());
        }
        Ok(())
    }

    /// Bytes of content below it.
    pub(crate) fn length(&self) -> u64 {
        self.children.iter().fold(0, |sum, child| sum.saturating_add(child.length))
    }

    pub(crate) fn encode(&self) -> Object {
        Object::new(ObjectKind::File, codec::encode(self))
    }

    /// Kind and id of a child.
    pub(crate) fn link(&self, child: &FileChild) -> Link {
        if self.level == 0 { Link::raw(child.id) } else { Link::file(child.id) }
    }
}

/// Whether a node of `level` ends after its child number `count`, below which `last` is the
/// last chunk. It depends on what the node has so far and on nothing after it.
pub(crate) fn ends_node(level: u8, count: usize, last: &ObjectId) -> bool {
    let low = u128::from_le_bytes(*last.as_bytes().first_chunk().expect("an id is 32 bytes"));
    let needed = (FILE_CUT_BITS * (u32::from(level) + 1)).min(u128::BITS);
    count >= MAX_FILE_CHILDREN || (count >= MIN_FILE_CHILDREN && low.trailing_zeros() >= needed)
}

/// Builds the content of a file from its pieces, in order. See [`Cutter`].
#[derive(Debug, Default)]
pub struct FileTree {
    /// Per level the children of the node that is open there.
    open: Vec<Vec<FileChild>>,
    made: Vec<Object>,
    size: u64,
    last: Option<FileChild>,
}

impl FileTree {
    /// A content of no pieces so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece: the raw object `chunk` of `length` bytes.
    pub fn push(&mut self, chunk: ObjectId, length: u64) {
        let child = FileChild { id: chunk, length };
        self.size += length;
        self.last = Some(child);
        self.add(0, child, &chunk);
    }

    /// The nodes finished so far, children first; each is given out once. For long contents:
    /// what was taken here is not in what [`FileTree::finish`] returns.
    pub fn take_finished(&mut self) -> Vec<Object> {
        std::mem::take(&mut self.made)
    }

    /// The content, its size in bytes, and its `File` nodes, children first: none where the
    /// content is small enough to be raw.
    pub fn finish(mut self) -> (Content, u64, Vec<Object>) {
        let Some(last) = self.last else {
            return (Content::Raw(ObjectId::of(b"")), 0, Vec::new());
        };
        if self.size <= MAX_RAW_CONTENT && self.size == last.length {
            return (Content::Raw(last.id), self.size, Vec::new());
        }
        for level in 0.. {
            let children = std::mem::take(&mut self.open[level]);
            let is_top = level + 1 == self.open.len();
            if is_top && level > 0 && children.len() == 1 {
                return (Content::Chunked(children[0].id), self.size, self.made);
            }
            if !children.is_empty() {
                self.close(level, children, &last.id);
            }
        }
        unreachable!("the topmost level ends with one node")
    }

    fn add(&mut self, level: usize, child: FileChild, last: &ObjectId) {
        if self.open.len() == level {
            self.open.push(Vec::new());
        }
        self.open[level].push(child);
        if ends_node(level_number(level), self.open[level].len(), last) {
            let children = std::mem::take(&mut self.open[level]);
            self.close(level, children, last);
        }
    }

    fn close(&mut self, level: usize, children: Vec<FileChild>, last: &ObjectId) {
        let length = children.iter().map(|child| child.length).sum();
        let node = FileNode { level: level_number(level), children }.encode();
        let id = node.id();
        self.made.push(node);
        self.add(level + 1, FileChild { id, length }, last);
    }
}

fn level_number(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// What the `File` node of these bytes says: its level, and what it names in order, each with its
/// length in bytes; at level 0 chunks, otherwise nodes of the level below. For whoever reads a
/// content without blocking; [`chunk_list`] for all others.
///
/// # Errors
/// Bytes that are not a canonical `File` node.
pub fn file_parts(bytes: &[u8]) -> Result<(u8, Vec<(Link, u64)>), DecodeError> {
    let node = FileNode::decode(bytes)?;
    let parts = node.children.iter().map(|child| (node.link(child), child.length)).collect();
    Ok((node.level, parts))
}

/// The raw objects of a content in order, each with its length in bytes.
pub fn chunk_list<R: Read>(read: &R, content: Content, size: u64) -> Chunks<'_, R> {
    let pending = vec![(content.link(), size, None)];
    Chunks { read, pending }
}

/// See [`chunk_list`]. Ends after the first error.
#[derive(Debug)]
pub struct Chunks<'a, R> {
    read: &'a R,
    /// What is still to be given out or opened, the next one last; nodes with the level that
    /// they must have, where that is known.
    pending: Vec<(Link, u64, Option<u8>)>,
}

impl<R: Read> Iterator for Chunks<'_, R> {
    type Item = Result<(Link, u64), TreeError<R::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((link, length, level)) = self.pending.pop() {
            if link.kind == ObjectKind::Raw {
                return Some(Ok((link, length)));
            }
            if let Err(error) = self.open(link, length, level) {
                self.pending.clear();
                return Some(Err(error));
            }
        }
        None
    }
}

impl<R: Read> Chunks<'_, R> {
    fn open(
        &mut self,
        link: Link,
        length: u64,
        level: Option<u8>,
    ) -> Result<(), TreeError<R::Error>> {
        let bytes = self.read.read(link).map_err(|source| TreeError::Read { link, source })?;
        let decode = |source| TreeError::Decode { link, source };
        let node = FileNode::decode(&bytes).map_err(decode)?;
        if node.length() != length || level.is_some_and(|level| level != node.level) {
            let reason = "its length or level is not what the link to it said".into();
            return Err(decode(DecodeError::Invalid { kind: ObjectKind::File, reason }));
        }
        let below = node.level.checked_sub(1);
        self.pending.extend(
            node.children.iter().rev().map(|child| (node.link(child), child.length, below)),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
