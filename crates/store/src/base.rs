//! The records of what was last applied to a repo's folder: opaque bytes by opaque keys.

use std::sync::Arc;

use redb::ReadOnlyTable;

use crate::error::IndexError;
use crate::index::{BASE, BASE_META, TopicNumber, base_key};
use crate::repo::RepoInner;

type Records = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The base of a repo. Keys and values are the folder's; keys sort by bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Base {
    repo: Arc<RepoInner>,
}

impl Base {
    pub(crate) fn new(repo: Arc<RepoInner>) -> Self {
        Self { repo }
    }

    /// Sets (`Some`) and removes (`None`) records, and small named ones with them, in one
    /// durable transaction. Of equal keys the last counts.
    ///
    /// # Errors
    /// The index failed; nothing was changed.
    pub async fn apply(
        &self,
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        meta: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<(), IndexError> {
        let number = self.repo.number;
        let changes = BaseChanges { records: changes, meta };
        self.repo.store.index.write(move |transaction| changes.write(transaction, number)).await
    }

    /// The records as they are now, unmoved by later changes. Holding it long keeps the space of
    /// what was replaced since.
    ///
    /// # Errors
    /// The index failed.
    pub fn snapshot(&self) -> Result<BaseSnapshot, IndexError> {
        let read = self.repo.store.index.begin_read()?;
        let records = read.open_table(BASE)?;
        let meta = read.open_table(BASE_META)?;
        Ok(BaseSnapshot { number: self.repo.number, records, meta })
    }

    /// A small named record (applied root, marker, first scan done). A tiny blocking read.
    ///
    /// # Errors
    /// The index failed.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        self.snapshot()?.meta(key)
    }

    /// Sets or removes a small named record, durably.
    ///
    /// # Errors
    /// The index failed; nothing was changed.
    pub async fn set_meta(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), IndexError> {
        self.apply(Vec::new(), vec![(key.to_owned(), value)]).await
    }
}

/// Changes of a base: records, and small named ones.
#[derive(Debug, Default)]
pub(crate) struct BaseChanges {
    pub(crate) records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) meta: Vec<(String, Option<Vec<u8>>)>,
}

impl BaseChanges {
    /// Makes the changes in `transaction`.
    pub(crate) fn write(
        mut self,
        transaction: &redb::WriteTransaction,
        number: TopicNumber,
    ) -> Result<(), IndexError> {
        // In order of key, neighbours share pages. Stable: of equal keys the last stays last.
        self.records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut table = transaction.open_table(BASE)?;
        for (key, value) in self.records {
            set(&mut table, &base_key(number, &key), value.as_deref())?;
        }
        let mut table = transaction.open_table(BASE_META)?;
        for (key, value) in self.meta {
            set(&mut table, &base_key(number, key.as_bytes()), value.as_deref())?;
        }
        Ok(())
    }
}

fn set(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<(), IndexError> {
    match value {
        Some(value) => drop(table.insert(key, value)?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}

fn get(table: &Records, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

/// The base as of one moment. Blocking reads of a local database.
pub struct BaseSnapshot {
    number: TopicNumber,
    records: Records,
    meta: Records,
}

impl BaseSnapshot {
    /// The record of `key`.
    ///
    /// # Errors
    /// The index failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        get(&self.records, &base_key(self.number, key))
    }

    /// The records whose key begins with `prefix`, in order of key. Empty: all.
    ///
    /// # Errors
    /// The index failed.
    pub fn range(&self, prefix: &[u8]) -> Result<BaseRange, IndexError> {
        let prefix = base_key(self.number, prefix);
        let rows = self.records.range(prefix.as_slice()..)?;
        Ok(BaseRange { prefix, rows })
    }

    /// A small named record, as of the same moment.
    ///
    /// # Errors
    /// The index failed.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        get(&self.meta, &base_key(self.number, key.as_bytes()))
    }
}

impl std::fmt::Debug for BaseSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseSnapshot").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Records in order of key.
pub struct BaseRange {
    prefix: Vec<u8>,
    rows: redb::Range<'static, &'static [u8], &'static [u8]>,
}

impl Iterator for BaseRange {
    type Item = Result<(Vec<u8>, Vec<u8>), IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = match self.rows.next()? {
            Ok(row) => row,
            Err(error) => return Some(Err(error.into())),
        };
        if !key.value().starts_with(&self.prefix) {
            return None;
        }
        let key = key.value().get(size_of::<TopicNumber>()..).unwrap_or_default().to_vec();
        Some(Ok((key, value.value().to_vec())))
    }
}

impl std::fmt::Debug for BaseRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseRange").finish_non_exhaustive()
    }
}
