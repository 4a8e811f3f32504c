//! What the unit tests of several modules use.

use ark_core::{Link, Read, RelPath};
use bytes::Bytes;

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
