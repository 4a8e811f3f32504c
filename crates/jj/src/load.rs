//! Reading what is made of rows, and telling what is not there from what could not be read.

use ark_core::jj::Opened;
use ark_core::{DecodeError, Link, ObjectId, ObjectKind};
use bytes::Bytes;

use crate::convert::ConvertError;
use crate::id::IdError;
use crate::storage::{Storage, StorageError, get_all};

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// It is not there.
    #[error(transparent)]
    NotFound(StorageError),
    /// It is, but something of it is missing, or the store failed.
    #[error(transparent)]
    Storage(StorageError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

impl LoadError {
    /// The same of a part of what was asked for: that is there, though this is not.
    pub(crate) fn of_part(self) -> Self {
        match self {
            Self::NotFound(error) => Self::Storage(error),
            error => error,
        }
    }
}

impl From<IdError> for LoadError {
    fn from(error: IdError) -> Self {
        Self::Convert(error.into())
    }
}

impl From<DecodeError> for LoadError {
    fn from(error: DecodeError) -> Self {
        Self::Convert(error.into())
    }
}

/// The bytes of what was asked for.
pub(crate) async fn load(storage: &dyn Storage, link: Link) -> Result<Bytes, LoadError> {
    storage.get(link).await.map_err(|error| match error {
        StorageError::NotFound { .. } => LoadError::NotFound(error),
        error => LoadError::Storage(error),
    })
}

/// The rows under a root, level by level, the nodes of a level all at once.
pub(crate) async fn load_rows<R>(
    storage: &dyn Storage,
    kind: ObjectKind,
    root: ObjectId,
    open: impl Fn(Option<u8>, &[Bytes]) -> Result<Opened<R>, DecodeError>,
) -> Result<Vec<R>, LoadError> {
    let mut nodes = vec![load(storage, Link { kind, id: root }).await?];
    let mut level = None;
    loop {
        match open(level, &nodes)? {
            Opened::Rows(rows) => return Ok(rows),
            Opened::Nodes(below, ids) => {
                level = Some(below);
                let links = ids.into_iter().map(|id| Link { kind, id });
                nodes = get_all(storage, links).await.map_err(LoadError::Storage)?;
            }
        }
    }
}
