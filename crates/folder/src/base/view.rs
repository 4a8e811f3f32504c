//! Base in the index.
//!
//! Keys are the names of a path joined by NUL, so that a directory's subtree is one range in the
//! order of [`RelPath`]. A key that begins with NUL is no path: retries have a prefix of their own.

use std::collections::BTreeMap;

use ark_core::{Name, NameError, ObjectId, RelPath};
use ark_store::BaseSnapshot;

use super::format::{
    decode, decode_applied, decode_applying, decode_incarnations, decode_record, decode_retry,
    encode_record, encode_retry,
};
use super::{Applied, Applying, BaseError, BaseRead, Incarnations, Record, Records, Retry};

/// What the keys of retries begin with.
const RETRY_PREFIX: &[u8] = b"\0r";
/// The name of the record that says which joined tree was applied.
pub(crate) const APPLIED_META: &str = "folder-applied";
/// The name of the record that says which tree is being applied: there while what was done on
/// disk for it may not be recorded.
pub(crate) const APPLYING_META: &str = "folder-applying";
/// The name of the record that is there while base may have of a tree, of which a part was
/// applied, what is in neither the tree last applied whole nor the one wanted now.
pub(crate) const UNFINISHED_META: &str = "folder-unfinished";
/// The name of the record that says which incarnation base was written under.
pub(crate) const INCARNATION_META: &str = "folder-incarnation";

/// Base as the index has it, as of one moment.
#[derive(Debug)]
pub struct BaseView {
    snapshot: BaseSnapshot,
}

impl BaseView {
    /// Reads through `snapshot`.
    pub fn new(snapshot: BaseSnapshot) -> Self {
        Self { snapshot }
    }

    /// The paths that are not yet what the joined tree says.
    ///
    /// # Errors
    /// They could not be read.
    pub fn retries(&self) -> Result<BTreeMap<RelPath, Retry>, BaseError> {
        let range = self.snapshot.range(RETRY_PREFIX).map_err(store_error)?;
        range
            .map(|item| {
                let (key, value) = item.map_err(store_error)?;
                let path = key_path(key.get(RETRY_PREFIX.len()..).unwrap_or_default())?;
                let retry = decode_retry(&value).map_err(|reason| damaged(&key, reason))?;
                Ok((path, retry))
            })
            .collect()
    }

    /// The joined tree that was last applied.
    ///
    /// # Errors
    /// The record could not be read.
    pub fn applied(&self) -> Result<Option<Applied>, BaseError> {
        let value = self.snapshot.meta(APPLIED_META).map_err(store_error)?;
        let decode = |value: Vec<u8>| {
            decode_applied(&value).map_err(|reason| damaged(APPLIED_META.as_bytes(), reason))
        };
        value.map(decode).transpose()
    }

    /// The tree that was being applied, if what was done for it may not be recorded.
    ///
    /// # Errors
    /// The record could not be read.
    pub fn applying(&self) -> Result<Option<Applying>, BaseError> {
        let value = self.snapshot.meta(APPLYING_META).map_err(store_error)?;
        let decode = |value: Vec<u8>| {
            decode_applying(&value).map_err(|reason| damaged(APPLYING_META.as_bytes(), reason))
        };
        value.map(decode).transpose()
    }

    /// The roots of the trees that were applied in part, or published here, since one was applied
    /// whole, if any were.
    /// None of them: it is not known which.
    ///
    /// # Errors
    /// The index failed.
    pub(crate) fn unfinished(&self) -> Result<Option<Vec<ObjectId>>, BaseError> {
        // Whatever cannot be read is not known.
        Ok(self.meta(UNFINISHED_META)?.map(|value| decode(&value).unwrap_or_default()))
    }

    /// Under which incarnation base was written; `None`: it was not.
    ///
    /// # Errors
    /// The record could not be read.
    pub(crate) fn incarnations(&self) -> Result<Option<Incarnations>, BaseError> {
        let value = self.snapshot.meta(INCARNATION_META).map_err(store_error)?;
        let decode = |value: Vec<u8>| {
            decode_incarnations(&value)
                .map_err(|reason| damaged(INCARNATION_META.as_bytes(), reason))
        };
        value.map(decode).transpose()
    }

    /// A small named record, as it stands there.
    ///
    /// # Errors
    /// The index failed.
    pub(crate) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, BaseError> {
        self.snapshot.meta(key).map_err(store_error)
    }

    /// Whether nothing was ever recorded.
    ///
    /// # Errors
    /// The index failed.
    pub fn is_empty(&self) -> Result<bool, BaseError> {
        Ok(self.applied()?.is_none() && self.below(&RelPath::root())?.next().is_none())
    }
}

impl BaseRead for BaseView {
    fn get(&self, path: &RelPath) -> Result<Option<Record>, BaseError> {
        let key = path_key(path);
        let value = self.snapshot.get(&key).map_err(store_error)?;
        value.map(|value| record_at(&key, path, &value)).transpose()
    }

    fn below(&self, path: &RelPath) -> Result<Records<'_>, BaseError> {
        let mut prefix = path_key(path);
        if !path.is_root() {
            prefix.push(0);
        }
        let range = self.snapshot.range(&prefix).map_err(store_error)?;
        // Of the keys that begin with NUL none is a path; they are in the range of the root.
        let records = range.filter(|item| !matches!(item, Ok((key, _)) if key.starts_with(b"\0")));
        Ok(Box::new(records.map(|item| {
            let (key, value) = item.map_err(store_error)?;
            let path = key_path(&key)?;
            let record = record_at(&key, &path, &value)?;
            Ok((path, record))
        })))
    }
}

/// A small named record that is set or removed.
pub(crate) type MetaChange = (String, Option<Vec<u8>>);

/// Changes of base that belong together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Changes {
    records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Changes {
    /// Sets the record of `path`, or removes it.
    pub(crate) fn record(&mut self, path: &RelPath, record: Option<&Record>) {
        let value = record.map(|record| encode_record(path, record));
        self.records.push((path_key(path), value));
    }

    /// Sets the retry of `path`, or removes it.
    pub(crate) fn retry(&mut self, path: &RelPath, retry: Option<&Retry>) {
        let key = [RETRY_PREFIX, &path_key(path)].concat();
        self.records.push((key, retry.map(encode_retry)));
    }

    /// Removes all records and retries that `base` has.
    ///
    /// # Errors
    /// They could not be read.
    pub(crate) fn forget_all(&mut self, base: &BaseView) -> Result<(), BaseError> {
        for item in base.snapshot.range(&[]).map_err(store_error)? {
            self.records.push((item.map_err(store_error)?.0, None));
        }
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Keys and values for the store.
    pub(crate) fn into_records(self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.records
    }
}

/// The key of a path's record: its names joined by NUL, which no name has.
fn path_key(path: &RelPath) -> Vec<u8> {
    path.names().iter().map(Name::as_bytes).collect::<Vec<_>>().join(&0)
}

fn key_path(key: &[u8]) -> Result<RelPath, BaseError> {
    let names: Result<Vec<Name>, NameError> = key.split(|&byte| byte == 0).map(Name::new).collect();
    names.map(RelPath::from).map_err(|error| damaged(key, error.to_string()))
}

fn record_at(key: &[u8], path: &RelPath, value: &[u8]) -> Result<Record, BaseError> {
    decode_record(path, value).map_err(|reason| damaged(key, reason))
}

fn damaged(key: &[u8], reason: String) -> BaseError {
    BaseError::Record { path: String::from_utf8_lossy(key).replace('\0', "/"), reason }
}

fn store_error(error: ark_store::IndexError) -> BaseError {
    BaseError::Store(Box::new(error))
}

/// Trees applied in part that are remembered. After more of them the next plan looks at
/// everything. Equal subtrees cost nothing, and a plan that is carried out forgets them all.
const MAX_UNFINISHED: usize = 64;

/// The trees applied in part or published, of which `root` is now one; `None`: they are as they were.
pub(crate) fn with_one_more(
    unfinished: Option<&[ObjectId]>,
    root: ObjectId,
) -> Option<Vec<ObjectId>> {
    match unfinished {
        None => Some(vec![root]),
        // It is not known which: all the same.
        Some([]) => None,
        Some(roots) if roots.contains(&root) => None,
        Some(roots) if roots.len() < MAX_UNFINISHED => Some([roots, &[root]].concat()),
        Some(_) => Some(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_trees_applied_in_part_only_some_are_remembered() {
        let root = |number: usize| ObjectId::of(&number.to_le_bytes());
        let mut unfinished = with_one_more(None, root(0)).unwrap();
        assert_eq!(with_one_more(Some(&unfinished), root(0)), None);
        for number in 1..MAX_UNFINISHED {
            unfinished = with_one_more(Some(&unfinished), root(number)).unwrap();
        }
        assert_eq!(unfinished.len(), MAX_UNFINISHED);
        unfinished = with_one_more(Some(&unfinished), root(MAX_UNFINISHED)).unwrap();
        assert!(unfinished.is_empty(), "not known");
        assert_eq!(with_one_more(Some(&unfinished), root(0)), None, "and never known again");
    }

    #[test]
    fn keys_are_in_the_order_of_paths() {
        let mut paths: Vec<RelPath> = ["a", "a!", "a/b", "a/b/c", "ab", "b"]
            .iter()
            .map(|path| RelPath::parse(path.as_bytes()).unwrap())
            .collect();
        paths.sort();
        let mut keys: Vec<Vec<u8>> = paths.iter().map(path_key).collect();
        assert_eq!(keys.iter().map(|key| key_path(key).unwrap()).collect::<Vec<_>>(), paths);
        let in_order = keys.clone();
        keys.sort();
        assert_eq!(keys, in_order);
    }
}
