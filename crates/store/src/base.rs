//! The records of what was last applied to a repo's folder: opaque bytes by opaque keys.

use crate::error::IndexError;

/// The base of a repo. Keys and values are the folder's; keys sort by bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Base {}

impl Base {
    /// Sets (`Some`) and removes (`None`) records, and small named ones with them, in one
    /// durable transaction. Of equal keys the last counts.
    ///
    /// # Errors
    /// The index failed; nothing was changed.
    pub async fn apply(
        &self,
        _changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        _meta: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<(), IndexError> {
        todo!()
    }

    /// The records as they are now, unmoved by later changes. Holding it long keeps the space of
    /// what was replaced since.
    ///
    /// # Errors
    /// The index failed.
    pub fn snapshot(&self) -> Result<BaseSnapshot, IndexError> {
        todo!()
    }

    /// A small named record (applied root, marker, first scan done). A tiny blocking read.
    ///
    /// # Errors
    /// The index failed.
    pub fn meta(&self, _key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        todo!()
    }

    /// Sets or removes a small named record, durably.
    ///
    /// # Errors
    /// The index failed; nothing was changed.
    pub async fn set_meta(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), IndexError> {
        self.apply(Vec::new(), vec![(key.to_owned(), value)]).await
    }
}

/// The base as of one moment. Blocking reads of a local database.
#[derive(Debug)]
pub struct BaseSnapshot {}

impl BaseSnapshot {
    /// The record of `key`.
    ///
    /// # Errors
    /// The index failed.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        todo!()
    }

    /// The records whose key begins with `prefix`, in order of key. Empty: all.
    ///
    /// # Errors
    /// The index failed.
    pub fn range(&self, _prefix: &[u8]) -> Result<BaseRange, IndexError> {
        todo!()
    }

    /// A small named record, as of the same moment.
    ///
    /// # Errors
    /// The index failed.
    pub fn meta(&self, _key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        todo!()
    }
}

/// Records in order of key.
#[derive(Debug)]
pub struct BaseRange {}

impl Iterator for BaseRange {
    type Item = Result<(Vec<u8>, Vec<u8>), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
