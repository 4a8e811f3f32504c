//! Blocking reads of a repo's objects, for walks and merges.

use ark_core::{Link, Read};
use bytes::Bytes;

use crate::error::ReadError;

/// Reads what a repo has indexed or pending. Structured objects are cached. Blocking: never call
/// it from a thread that drives async tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {}

impl Read for Reader {
    type Error = ReadError;

    fn read(&self, _link: Link) -> Result<Bytes, ReadError> {
        todo!()
    }
}
