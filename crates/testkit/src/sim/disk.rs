//! A folder in memory: files, directories and symlinks with bits and times, of which a power
//! failure loses what ark did since the last sync.
//!
//! Every operation is one step: what falls between the look at a target and its replacement is
//! held by the tests on real folders. Names and content that users change count as durable at
//! once, and with them all that was done before, as in a journal.

use std::collections::BTreeMap;
use std::io::Cursor;

use ark_core::{Cutter, FileTree, Mtime, Object, ObjectId, ObjectKind, Permissions, RelPath};
use ark_folder::fs::{Stat, StatKind};
use ark_folder::scan::FoundNode;
use bytes::Bytes;

use super::oracle::Tokens;

/// Bits of a symlink.
pub(super) const SYMLINK_BITS: u32 = 0o777;

/// What may stand at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
    File(Bytes),
    Symlink(Bytes),
    Directory,
}

/// What stands at a path.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) thing: Thing,
    /// What a scan finds of it: hashed when it is written, so that looking is cheap.
    pub(super) node: FoundNode,
    pub(super) bits: u32,
    pub(super) mtime: Mtime,
    /// The acts of writing that it stands for. Ark sees nothing of them.
    pub(super) tokens: Tokens,
    ino: u64,
    ctime: Mtime,
}

/// All places, by path.
pub(super) type Places = BTreeMap<RelPath, Place>;

/// The folder of one device.
#[derive(Debug, Default)]
pub(super) struct Disk {
    places: Places,
    /// What there was before each step that is not synced, oldest first.
    unsynced: Vec<Places>,
    next_ino: u64,
    next_tick: u32,
}

impl Thing {
    /// What a scan finds, and the objects of the content, children first.
    pub(super) fn hash(&self) -> (FoundNode, Vec<Object>) {
        match self {
            Self::Directory => (FoundNode::Directory, Vec::new()),
            Self::Symlink(target) => {
                let object = Object::new(ObjectKind::Raw, target.clone());
                let node = FoundNode::Symlink { target: object.id(), size: target.len() as u64 };
                (node, vec![object])
            }
            Self::File(bytes) => {
                let mut objects = Vec::new();
                let mut tree = FileTree::new();
                for piece in Cutter::new(Cursor::new(bytes)) {
                    let piece = Object::new(ObjectKind::Raw, piece.expect("memory is readable"));
                    tree.push(piece.id(), piece.bytes().len() as u64);
                    objects.push(piece);
                }
                let (content, size, nodes) = tree.finish();
                objects.extend(nodes);
                (FoundNode::File { content, size }, objects)
            }
        }
    }
}

impl Place {
    /// What the file system says of it.
    pub(super) fn stat(&self) -> Stat {
        let (kind, size) = match &self.thing {
            Thing::File(bytes) => (StatKind::File, bytes.len()),
            Thing::Symlink(target) => (StatKind::Symlink, target.len()),
            Thing::Directory => (StatKind::Directory, 0),
        };
        let (mode, mtime, ctime) = (self.bits, self.mtime, self.ctime);
        Stat { kind, dev: 1, ino: self.ino, size: size as u64, mode, mtime, ctime }
    }

    /// Its bits, as a scan finds them.
    pub(super) const fn permissions(&self) -> Permissions {
        Permissions::from_mode(self.bits)
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.thing == Thing::Directory
    }

    /// What it is, in words.
    pub(super) fn words(&self) -> String {
        let text = |bytes: &Bytes| match bytes.len() {
            0..40 => String::from_utf8_lossy(bytes).into_owned(),
            length => format!("{length} bytes {}", ObjectId::of(bytes).short()),
        };
        match &self.thing {
            Thing::File(bytes) => format!("{:o} {}", self.bits, text(bytes)),
            Thing::Symlink(target) => format!("-> {}", text(target)),
            Thing::Directory => format!("{:o} directory", self.bits),
        }
    }
}

impl Disk {
    /// All that there is.
    pub(super) const fn places(&self) -> &Places {
        &self.places
    }

    /// What is at a path.
    pub(super) fn at(&self, path: &RelPath) -> Option<&Place> {
        self.places.get(path)
    }

    /// The same, to change what ark does not see.
    pub(super) fn at_mut(&mut self, path: &RelPath) -> Option<&mut Place> {
        self.places.get_mut(path)
    }

    /// What stands for any of `tokens` stands for `more` too. Whether anything does.
    pub(super) fn extend(&mut self, tokens: &Tokens, more: &Tokens) -> bool {
        let mut any = false;
        for place in self.places.values_mut().filter(|it| !it.tokens.is_disjoint(tokens)) {
            place.tokens.extend(more);
            any = true;
        }
        any
    }

    /// Whether a path is the root or a directory.
    pub(super) fn is_directory(&self, path: &RelPath) -> bool {
        path.is_root() || self.at(path).is_some_and(Place::is_directory)
    }

    /// The number of the directory at a path.
    pub(super) fn directory_ino(&self, path: &RelPath) -> Option<u64> {
        if path.is_root() {
            return Some(0);
        }
        self.at(path).filter(|place| place.is_directory()).map(|place| place.ino)
    }

    /// Whether anything is in the directory at a path.
    pub(super) fn any_below(&self, path: &RelPath) -> bool {
        self.places.keys().any(|below| below != path && below.starts_with(path))
    }

    /// A step of ark's begins: until the next sync a power failure may undo it.
    pub(super) fn begin_step(&mut self) {
        self.unsynced.push(self.places.clone());
    }

    /// All that was done is durable.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// Steps that are not synced.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The power fails: only this many of the steps that are not synced reached the disk.
    pub(super) fn lose_power(&mut self, kept: usize) {
        if let Some(before) = self.unsynced.drain(..).nth(kept) {
            self.places = before;
        }
        self.unsynced.clear();
    }

    /// The time of a change: no two changes have the same, however the clock jumps.
    fn tick(&mut self, seconds: i64) -> Mtime {
        self.next_tick += 1;
        Mtime { seconds, nanos: self.next_tick }
    }

    /// Puts something where nothing is, or in the place of a file, as a new file.
    pub(super) fn put(
        &mut self,
        path: &RelPath,
        thing: Thing,
        bits: u32,
        clock: i64,
        mtime: Option<Mtime>,
    ) -> &mut Place {
        let ctime = self.tick(clock);
        self.next_ino += 1;
        let (node, _) = thing.hash();
        let mtime =
            if thing == Thing::Directory { Mtime::default() } else { mtime.unwrap_or(ctime) };
        let (tokens, ino) = (Tokens::new(), self.next_ino);
        let place = Place { thing, node, bits, mtime, tokens, ino, ctime };
        self.places.insert(path.clone(), place);
        self.places.get_mut(path).expect("it was just put there")
    }

    /// Gives a file other content in place.
    pub(super) fn rewrite(&mut self, path: &RelPath, bytes: Bytes, clock: i64) {
        let now = self.tick(clock);
        if let Some(place) = self.places.get_mut(path) {
            place.thing = Thing::File(bytes);
            (place.node, _) = place.thing.hash();
            (place.mtime, place.ctime) = (now, now);
        }
    }

    /// Sets the bits.
    pub(super) fn set_bits(&mut self, path: &RelPath, bits: u32, clock: i64) {
        let now = self.tick(clock);
        if let Some(place) = self.places.get_mut(path) {
            place.bits = bits;
            place.ctime = now;
        }
    }

    /// Sets the mtime; to the clock's if none is given.
    pub(super) fn set_mtime(&mut self, path: &RelPath, mtime: Option<Mtime>, clock: i64) {
        let now = self.tick(clock);
        if let Some(place) = self.places.get_mut(path).filter(|place| !place.is_directory()) {
            (place.mtime, place.ctime) = (mtime.unwrap_or(now), now);
        }
    }

    /// Removes what is at a path with all below it, and gives it.
    pub(super) fn remove(&mut self, path: &RelPath) -> Places {
        let paths: Vec<RelPath> =
            self.places.keys().filter(|at| at.starts_with(path)).cloned().collect();
        paths
            .into_iter()
            .filter_map(|at| {
                let place = self.places.remove(&at)?;
                Some((at, place))
            })
            .collect()
    }

    /// Moves what is at a path, with all below it, to where nothing is.
    pub(super) fn rename(&mut self, from: &RelPath, to: &RelPath, clock: i64) {
        let now = self.tick(clock);
        for (path, mut place) in self.remove(from) {
            let below = path.names()[from.names().len()..].iter().cloned();
            if path == *from {
                place.ctime = now;
            }
            self.places.insert(below.fold(to.clone(), |path, name| path.join(name)), place);
        }
    }

    /// Swaps two files.
    pub(super) fn exchange(&mut self, a: &RelPath, b: &RelPath, clock: i64) {
        let now = self.tick(clock);
        if let (Some(mut at_a), Some(mut at_b)) = (self.places.remove(a), self.places.remove(b)) {
            (at_a.ctime, at_b.ctime) = (now, now);
            self.places.insert(a.clone(), at_b);
            self.places.insert(b.clone(), at_a);
        }
    }
}
