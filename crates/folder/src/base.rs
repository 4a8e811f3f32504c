//! What was last known to be the same on disk and in the joined tree, per shown path.
//!
//! A record says which versions stand behind a shown path (so that a local change drops exactly
//! those), what the path held, and the stat by which a scan sees that it still does. Beside it a
//! path may have a *retry*: it could not be brought to what the joined tree says, and why.

mod format;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{Behind, Mtime, ObjectId, Permissions, RelPath, Writer};

use crate::fs::Stat;
use crate::scan::FoundNode;

pub use view::BaseView;

pub(crate) use format::{
    decode, encode, encode_applied, encode_applying, encode_incarnations, encode_unfinished,
};
pub(crate) use view::{
    APPLIED_META, APPLYING_META, Changes, INCARNATION_META, MetaChange, UNFINISHED_META,
    with_one_more,
};

/// What base knows of one shown path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The versions of the joined tree that are shown here.
    pub behind: Behind,
    /// Kind and content.
    pub node: FoundNode,
    /// The permission bits.
    pub permissions: Permissions,
    /// The modification time on disk; zero for directories.
    pub mtime: Mtime,
    /// The stat under which the content was last known; `None`: hash it when it is next seen.
    pub cache: Option<Cache>,
}

/// A stat that stands for a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The stat.
    pub stat: Stat,
    /// Whether the clock had moved on since the last change when it was taken, so that any
    /// later change shows in the stat.
    pub settled: bool,
}

/// Why a path is not yet what the joined tree says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How it is treated.
    pub hold: Hold,
    /// For the user; empty where there is nothing to report.
    pub reason: String,
}

/// How a path that could not be applied is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hold {
    /// Waits for a scan or for another path: tried again at once when that is done.
    Blocked = 0,
    /// Failed for a reason that may pass: tried again after a pause.
    Failed = 1,
    /// Failed for a reason that lasts: counts as applied, tried again at every full scan.
    Skipped = 2,
}

/// The joined tree that was last applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its root directory.
    pub root: ObjectId,
    /// Per writer the revision of the state that it stands for.
    pub revisions: BTreeMap<Writer, u64>,
}

/// The joined tree that is being applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applying {
    /// Its root directory.
    pub root: ObjectId,
    /// Paths at and below which it is left as it is, whatever is wanted there. There may be more
    /// of them.
    pub held: BTreeSet<RelPath>,
}

/// Under which incarnation base is written, and what of it is to be published anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incarnations {
    /// The writer that this device is.
    pub writer: Writer,
    /// The sequence that it had when the folder was started.
    pub started_at: u64,
    /// Earlier ones whose dots may have been issued twice.
    pub disowned: Vec<Disowned>,
}

/// Dots that this device issued under an incarnation that another machine used, too: what was
/// written under them may be unknown to the joined tree although its vector has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disowned {
    /// The writer that this device was.
    pub writer: Writer,
    /// The last sequence that is surely this machine's own.
    pub after: u64,
    /// Whether it was seen that the other machine issued them, so that what the joined tree
    /// still has of this machine's will not stay. Otherwise the store was only put back.
    pub reissue: bool,
}

/// Why base could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The index failed.
    #[error("cannot read what was recorded about the folder")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record that this build cannot read.
    #[error("the record of {path:?} is damaged or of a newer version: {reason}")]
    Record {
        /// The key, as text.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads base: the index's records, or a map in tests and simulations.
pub trait BaseRead {
    /// The record of `path`.
    ///
    /// # Errors
    /// It could not be read.
    fn get(&self, path: &RelPath) -> Result<Option<Record>, BaseError>;

    /// The records below `path`, its own not included, in order of path.
    ///
    /// # Errors
    /// They could not be read; each of them may fail by itself, too.
    fn below(&self, path: &RelPath) -> Result<Records<'_>, BaseError>;
}

/// Records with their paths.
pub type Records<'a> = Box<dyn Iterator<Item = Result<(RelPath, Record), BaseError>> + 'a>;

impl BaseRead for BTreeMap<RelPath, Record> {
    fn get(&self, path: &RelPath) -> Result<Option<Record>, BaseError> {
        Ok(BTreeMap::get(self, path).cloned())
    }

    fn below(&self, path: &RelPath) -> Result<Records<'_>, BaseError> {
        let top = path.clone();
        let after = (std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded);
        let records = self.range::<RelPath, _>(after);
        Ok(Box::new(
            records
                .take_while(move |(path, _)| path.starts_with(&top))
                .map(|(path, record)| Ok((path.clone(), record.clone()))),
        ))
    }
}

#[cfg(test)]
mod tests {
    use ark_core::{DeviceId, Dot, Incarnation, Name};

    use super::*;

    #[test]
    fn a_map_gives_what_is_below() {
        let device = DeviceId::from_bytes([7; 32]);
        let dot = Dot { writer: Writer { device, incarnation: Incarnation::new(3) }, sequence: 1 };
        let record = Record {
            behind: Behind {
                name: Name::new(b"x").unwrap(),
                dots: vec![dot],
                permissions_dot: dot,
            },
            node: FoundNode::Directory,
            permissions: Permissions::from_mode(0o755),
            mtime: Mtime::default(),
            cache: None,
        };
        let base: BTreeMap<RelPath, Record> = ["a", "a/b", "a/b/c", "ab", "b"]
            .iter()
            .map(|path| RelPath::parse(path.as_bytes()).unwrap())
            .map(|path| (path, record.clone()))
            .collect();
        let below: Vec<String> = base
            .below(&RelPath::parse(b"a").unwrap())
            .unwrap()
            .map(|item| item.unwrap().0.to_string())
            .collect();
        assert_eq!(below, ["a/b", "a/b/c"]);
        assert_eq!(base.below(&RelPath::root()).unwrap().count(), 5);
    }
}
