//! Blocking reads of a repo's objects, for walks and merges; and how much there is to read.

use std::sync::Arc;

use ark_core::{Link, MAX_OBJECT_BYTES, Read};
use bytes::Bytes;

use crate::error::{IndexError, ReadError};
use crate::repo::{Repo, RepoInner, blocking};

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

impl Repo {
    /// How many bytes each of `links` has at most, where it is indexed here: a raw object just so
    /// many; a structured one as many as any object, because that is known only once it is read.
    ///
    /// # Errors
    /// The index failed.
    pub async fn lengths(&self, links: &[Link]) -> Result<Vec<Option<usize>>, IndexError> {
        let (inner, links) = (Arc::clone(&self.inner), links.to_vec());
        blocking(move || {
            let view = inner.store.index.view()?;
            let length = |link: Link| {
                let known = view.summary(inner.number, link)?;
                Ok(known.map(|summary| match usize::try_from(summary.totals().bytes) {
                    Ok(bytes) if !link.kind.is_structured() => bytes.min(MAX_OBJECT_BYTES),
                    _ => MAX_OBJECT_BYTES,
                }))
            };
            links.into_iter().map(length).collect()
        })
        .await
    }
}
