//! What the unit tests of several modules use.

use ark_core::{
    Content, DeviceId, Dot, Incarnation, Link, Mtime, ObjectId, Permissions, Read, RelPath, Writer,
};
use bytes::Bytes;

use crate::fs::{Stat, StatKind};
use crate::scan::{Found, FoundNode};

/// A store without any object.
pub(crate) struct Nothing;

impl Read for Nothing {
    type Error = std::io::Error;

    fn read(&self, _link: Link) -> Result<Bytes, std::io::Error> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).expect("a path")
}

/// An act of the first device's.
pub(crate) fn dot(sequence: u64) -> Dot {
    let device = DeviceId::from_bytes([1; 32]);
    Dot { writer: Writer { device, incarnation: Incarnation::new(1) }, sequence }
}

/// A file with this content, as a scan finds it.
pub(crate) fn found(content: &str) -> Found {
    let (mtime, size) = (Mtime::default(), content.len() as u64);
    let (dev, ino, mode) = (1, 2, 0o100_644);
    let stat = Stat { kind: StatKind::File, dev, ino, size, mode, mtime, ctime: mtime };
    let content = Content::Raw(ObjectId::of(content.as_bytes()));
    let node = FoundNode::File { content, size };
    Found { node, permissions: Permissions::from_mode(0o644), mtime, stat, settled: true }
}
