//! Blocking reads of a repo's objects, for walks and merges.

use std::sync::Arc;

use ark_core::{Link, Read};
use bytes::Bytes;

use crate::error::ReadError;
use crate::repo::RepoInner;

/// Reads what a repo has indexed or pending. Structured objects are cached. Blocking: never call
/// it from a thread that drives async tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    repo: Arc<RepoInner>,
}

impl Reader {
    pub(crate) fn new(repo: Arc<RepoInner>) -> Self {
        Self { repo }
    }
}

impl Read for Reader {
    type Error = ReadError;

    fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.repo.cached(link) {
            return Ok(bytes);
        }
        let view = self.repo.store.index.view()?;
        if !self.repo.has(&view, link)? {
            return Err(ReadError::Absent { link });
        }
        drop(view);
        self.repo.read_stored(link)
    }
}
