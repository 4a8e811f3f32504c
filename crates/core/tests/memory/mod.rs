//! Objects in memory that count how they are read, and short ways to make names, dots, versions.

#![allow(dead_code, reason = "each test uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use ark_core::{
    Content, DeviceId, Dot, Entry, Incarnation, Link, Mtime, Name, Node, Object, ObjectId, Overlay,
    Permissions, Read, RelPath, Version, Writer,
};
use bytes::Bytes;

/// What is stored, and how often it was read.
#[derive(Default)]
pub struct Memory {
    objects: RefCell<HashMap<Link, Bytes>>,
    reads: Cell<usize>,
}

/// There is no such object.
#[derive(Debug, thiserror::Error)]
#[error("no object {0:?}")]
pub struct Absent(Link);

impl Read for Memory {
    type Error = Absent;

    fn read(&self, link: Link) -> Result<Bytes, Absent> {
        self.reads.set(self.reads.get() + 1);
        self.objects.borrow().get(&link).cloned().ok_or(Absent(link))
    }
}

impl Memory {
    /// Runs `act` over what is stored, stores what it makes, and gives that too.
    pub fn with<T>(&self, act: impl FnOnce(&mut Overlay<&Self>) -> T) -> (T, Vec<Object>) {
        let mut overlay = Overlay::new(self);
        let outcome = act(&mut overlay);
        let made = overlay.into_made();
        for object in &made {
            self.put(object);
        }
        (outcome, made)
    }

    pub fn put(&self, object: &Object) {
        self.objects.borrow_mut().insert(object.link(), object.bytes().clone());
    }

    /// Stores bytes that are not those of `link`.
    pub fn put_as(&self, link: Link, bytes: &Bytes) {
        self.objects.borrow_mut().insert(link, bytes.clone());
    }

    /// How many reads `act` does.
    pub fn reads_of<T>(&self, act: impl FnOnce() -> T) -> (T, usize) {
        let before = self.reads.get();
        let outcome = act();
        (outcome, self.reads.get() - before)
    }
}

pub fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text.as_ref()).unwrap()
}

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

pub fn writer(number: u8) -> Writer {
    let device = DeviceId::from_bytes([number; 32]);
    Writer { device, incarnation: Incarnation::new(number.into()) }
}

pub fn dot(of: u8, sequence: u64) -> Dot {
    Dot { writer: writer(of), sequence }
}

/// A small file's node.
pub fn content(text: &str) -> Node {
    let id = ObjectId::of(text.as_bytes());
    Node::File { content: Content::Raw(id), size: text.len() as u64 }
}

/// A version of a small file, written by one act.
pub fn file(text: &str, dot: Dot) -> Version {
    Version {
        node: content(text),
        dots: vec![dot],
        permissions: Permissions::from_mode(0o644),
        permissions_dot: dot,
        mtime: Mtime::default(),
        aside: false,
    }
}

pub fn entry(text: &str, version: Version) -> Entry {
    Entry { name: name(text), versions: vec![version] }
}

/// A generator of which a seed gives the same numbers everywhere (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    pub fn percent(&mut self, of: usize) -> bool {
        self.below(100) < of
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
