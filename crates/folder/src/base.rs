//! What was last known to be the same on disk and in the joined tree, per shown path.
//!
//! A record says which versions stand behind a shown path (so that a local change drops exactly
//! those), what the path held, and the stat by which a scan sees that it still does. Beside it a
//! path may have a *retry*: it could not be brought to what the joined tree says, and why.
//!
//! Keys are the names of a path joined by NUL, so that a directory's subtree is one range in the
//! order of [`RelPath`]. A key that begins with NUL is no path: retries have a prefix of their own.

use std::collections::BTreeMap;

use ark_core::{
    Behind, Content, Dot, Mtime, Name, NameError, ObjectId, Permissions, RelPath, Writer,
};
use ark_store::BaseSnapshot;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use crate::fs::{Stat, StatKind};
use crate::scan::FoundNode;

/// First byte of every record and retry: the version of their format.
const FORMAT_VERSION: u8 = 1;
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

    /// The root of the tree that was being applied, if what was done for it may not be recorded.
    ///
    /// # Errors
    /// The record could not be read.
    pub fn applying(&self) -> Result<Option<ObjectId>, BaseError> {
        let value = self.snapshot.meta(APPLYING_META).map_err(store_error)?;
        let decode = |value: Vec<u8>| {
            decode(&value).map_err(|reason| damaged(APPLYING_META.as_bytes(), reason))
        };
        value.map(decode).transpose()
    }

    /// Whether a tree was applied in part since one was applied whole.
    ///
    /// # Errors
    /// The index failed.
    pub fn is_unfinished(&self) -> Result<bool, BaseError> {
        Ok(self.meta(UNFINISHED_META)?.is_some())
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

/// The archive of a [`Record`]. What is nearly always implied is left out.
#[derive(Archive, Serialize, Deserialize)]
struct RecordWire {
    /// One of [`node_tag`].
    node: u8,
    id: ObjectId,
    size: u64,
    permissions: u16,
    mtime: TimeWire,
    /// Where the entry has another name than the path shows (conflict copies).
    name: Option<Vec<u8>>,
    dots: Vec<Dot>,
    /// Where it is not the first of `dots`.
    permissions_dot: Option<Dot>,
    cache: Option<CacheWire>,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy)]
struct TimeWire {
    seconds: i64,
    nanos: u32,
}

/// A [`Stat`] but for its kind, which is the record's.
#[derive(Archive, Serialize, Deserialize)]
struct CacheWire {
    dev: u64,
    ino: u64,
    size: u64,
    mode: u32,
    mtime: TimeWire,
    ctime: TimeWire,
    settled: bool,
}

#[derive(Archive, Serialize, Deserialize)]
struct RetryWire {
    hold: u8,
    reason: String,
}

#[derive(Archive, Serialize, Deserialize)]
struct AppliedWire {
    root: ObjectId,
    revisions: Vec<(Writer, u64)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct IncarnationsWire {
    writer: Writer,
    started_at: u64,
    /// The dots issued last before those disowned, and whether to reissue.
    disowned: Vec<(Dot, bool)>,
}

/// What a record is about; the numbers are part of the format.
mod node_tag {
    pub(super) const DIRECTORY: u8 = 0;
    pub(super) const RAW: u8 = 1;
    pub(super) const CHUNKED: u8 = 2;
    pub(super) const SYMLINK: u8 = 3;
}

const fn time_wire(time: Mtime) -> TimeWire {
    TimeWire { seconds: time.seconds, nanos: time.nanos }
}

const fn time(wire: TimeWire) -> Mtime {
    Mtime { seconds: wire.seconds, nanos: wire.nanos }
}

/// The version byte, then the archive of `wire`.
pub(crate) fn encode<T>(wire: &T) -> Vec<u8>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, ArchiveError>>,
{
    let archive = rkyv::to_bytes::<ArchiveError>(wire);
    let archive = archive.expect("a record of bounded size fits 32-bit pointers");
    let mut bytes = Vec::with_capacity(archive.len() + 1);
    bytes.push(FORMAT_VERSION);
    bytes.extend_from_slice(&archive);
    bytes
}

pub(crate) fn decode<T>(bytes: &[u8]) -> Result<T, String>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, ArchiveError>>
        + Deserialize<T, HighDeserializer<ArchiveError>>,
{
    match bytes.split_first() {
        Some((&FORMAT_VERSION, archive)) => {
            rkyv::from_bytes::<T, ArchiveError>(archive).map_err(|error| error.to_string())
        }
        Some((version, _)) => Err(format!("format version {version}")),
        None => Err("no bytes".into()),
    }
}

fn encode_record(path: &RelPath, record: &Record) -> Vec<u8> {
    let Record { behind, node, permissions, mtime, cache } = record;
    let (tag, id, size) = match *node {
        FoundNode::Directory => (node_tag::DIRECTORY, ObjectId::from_bytes([0; 32]), 0),
        FoundNode::File { content: Content::Raw(id), size } => (node_tag::RAW, id, size),
        FoundNode::File { content: Content::Chunked(id), size } => (node_tag::CHUNKED, id, size),
        FoundNode::Symlink { target, size } => (node_tag::SYMLINK, target, size),
    };
    let is_copy = path.names().last() != Some(&behind.name);
    let is_own = behind.dots.first() == Some(&behind.permissions_dot);
    encode(&RecordWire {
        node: tag,
        id,
        size,
        permissions: permissions.bits(),
        mtime: time_wire(*mtime),
        name: is_copy.then(|| behind.name.as_bytes().to_vec()),
        dots: behind.dots.clone(),
        permissions_dot: (!is_own).then_some(behind.permissions_dot),
        cache: cache.as_ref().map(cache_wire),
    })
}

fn cache_wire(cache: &Cache) -> CacheWire {
    let stat = &cache.stat;
    CacheWire {
        dev: stat.dev,
        ino: stat.ino,
        size: stat.size,
        mode: stat.mode,
        mtime: time_wire(stat.mtime),
        ctime: time_wire(stat.ctime),
        settled: cache.settled,
    }
}

fn decode_record(path: &RelPath, value: &[u8]) -> Result<Record, String> {
    let wire: RecordWire = decode(value)?;
    let (node, kind) = match wire.node {
        node_tag::DIRECTORY => (FoundNode::Directory, StatKind::Directory),
        node_tag::RAW => {
            let content = Content::Raw(wire.id);
            (FoundNode::File { content, size: wire.size }, StatKind::File)
        }
        node_tag::CHUNKED => {
            let content = Content::Chunked(wire.id);
            (FoundNode::File { content, size: wire.size }, StatKind::File)
        }
        node_tag::SYMLINK => {
            (FoundNode::Symlink { target: wire.id, size: wire.size }, StatKind::Symlink)
        }
        other => return Err(format!("a node of unknown kind {other}")),
    };
    let first = *wire.dots.first().ok_or("no dots")?;
    let shown = path.names().last().ok_or("a record of the root")?;
    let name = match wire.name {
        Some(bytes) => Name::new(&bytes).map_err(|error| error.to_string())?,
        None => shown.clone(),
    };
    let permissions_dot = wire.permissions_dot.unwrap_or(first);
    let cache = wire.cache.map(|cache| Cache {
        settled: cache.settled,
        stat: Stat {
            kind,
            dev: cache.dev,
            ino: cache.ino,
            size: cache.size,
            mode: cache.mode,
            mtime: time(cache.mtime),
            ctime: time(cache.ctime),
        },
    });
    Ok(Record {
        behind: Behind { name, dots: wire.dots, permissions_dot },
        node,
        permissions: Permissions::from_mode(u32::from(wire.permissions)),
        mtime: time(wire.mtime),
        cache,
    })
}

fn encode_retry(retry: &Retry) -> Vec<u8> {
    encode(&RetryWire { hold: retry.hold as u8, reason: retry.reason.clone() })
}

fn decode_retry(value: &[u8]) -> Result<Retry, String> {
    let RetryWire { hold, reason } = decode(value)?;
    let hold = match hold {
        0 => Hold::Blocked,
        1 => Hold::Failed,
        2 => Hold::Skipped,
        other => return Err(format!("a retry of unknown kind {other}")),
    };
    Ok(Retry { hold, reason })
}

/// The record of the applied tree, for [`APPLIED_META`].
pub(crate) fn encode_applied(applied: &Applied) -> Vec<u8> {
    let revisions = applied.revisions.iter().map(|(&writer, &revision)| (writer, revision));
    encode(&AppliedWire { root: applied.root, revisions: revisions.collect() })
}

fn decode_applied(value: &[u8]) -> Result<Applied, String> {
    let AppliedWire { root, revisions } = decode(value)?;
    Ok(Applied { root, revisions: revisions.into_iter().collect() })
}

/// The record of the tree that is being applied, for [`APPLYING_META`].
pub(crate) fn encode_applying(root: ObjectId) -> Vec<u8> {
    encode(&root)
}

/// The record for [`INCARNATION_META`].
pub(crate) fn encode_incarnations(incarnations: &Incarnations) -> Vec<u8> {
    let dot = |disowned: &Disowned| {
        let Disowned { writer, after, reissue } = *disowned;
        (Dot { writer, sequence: after }, reissue)
    };
    encode(&IncarnationsWire {
        writer: incarnations.writer,
        started_at: incarnations.started_at,
        disowned: incarnations.disowned.iter().map(dot).collect(),
    })
}

fn decode_incarnations(value: &[u8]) -> Result<Incarnations, String> {
    let IncarnationsWire { writer, started_at, disowned } = decode(value)?;
    let disown =
        |(dot, reissue): (Dot, bool)| Disowned { writer: dot.writer, after: dot.sequence, reissue };
    Ok(Incarnations { writer, started_at, disowned: disowned.into_iter().map(disown).collect() })
}

#[cfg(test)]
mod tests {
    use ark_core::{DeviceId, Incarnation};

    use super::*;

    fn dot(sequence: u64) -> Dot {
        let device = DeviceId::from_bytes([7; 32]);
        Dot { writer: Writer { device, incarnation: Incarnation::new(3) }, sequence }
    }

    fn record(name: &str, node: FoundNode) -> Record {
        let kind = match node {
            FoundNode::Directory => StatKind::Directory,
            FoundNode::File { .. } => StatKind::File,
            FoundNode::Symlink { .. } => StatKind::Symlink,
        };
        let stat = Stat {
            kind,
            dev: 1,
            ino: 2,
            size: 3,
            mode: 0o100_644,
            mtime: Mtime { seconds: -4, nanos: 5 },
            ctime: Mtime { seconds: 6, nanos: 7 },
        };
        Record {
            behind: Behind {
                name: Name::new(name.as_bytes()).unwrap(),
                dots: vec![dot(1), dot(4)],
                permissions_dot: dot(4),
            },
            node,
            permissions: Permissions::from_mode(0o640),
            mtime: Mtime { seconds: -4, nanos: 5 },
            cache: Some(Cache { stat, settled: true }),
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let id = ObjectId::of(b"x");
        let path = RelPath::parse(b"a/b.conflict-1").unwrap();
        for node in [
            FoundNode::Directory,
            FoundNode::File { content: Content::Raw(id), size: 1 },
            FoundNode::File { content: Content::Chunked(id), size: 1 << 40 },
            FoundNode::Symlink { target: id, size: 9 },
        ] {
            let copy = record("b", node);
            assert_eq!(decode_record(&path, &encode_record(&path, &copy)).unwrap(), copy);
            let mut plain = record("b.conflict-1", node);
            plain.behind.permissions_dot = dot(1);
            plain.cache = None;
            assert_eq!(decode_record(&path, &encode_record(&path, &plain)).unwrap(), plain);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let path = RelPath::parse(b"a").unwrap();
        let good = encode_record(&path, &record("a", FoundNode::Directory));
        assert!(decode_record(&path, &[]).is_err());
        assert!(decode_record(&path, &good[..good.len() - 1]).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            // Whatever it says, it does not panic.
            let _ = decode_record(&path, &bad);
        }
        let mut newer = good;
        newer[0] = FORMAT_VERSION + 1;
        assert!(decode_record(&path, &newer).unwrap_err().contains("version"));
    }

    #[test]
    fn the_applied_tree_and_retries_come_back() {
        let applied =
            Applied { root: ObjectId::of(b"r"), revisions: BTreeMap::from([(dot(1).writer, 9)]) };
        assert_eq!(decode_applied(&encode_applied(&applied)).unwrap(), applied);
        for hold in [Hold::Blocked, Hold::Failed, Hold::Skipped] {
            let retry = Retry { hold, reason: "no space".into() };
            assert_eq!(decode_retry(&encode_retry(&retry)).unwrap(), retry);
        }
        assert!(decode_retry(&encode(&RetryWire { hold: 9, reason: String::new() })).is_err());
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

    #[test]
    fn a_map_gives_what_is_below() {
        let base: BTreeMap<RelPath, Record> = ["a", "a/b", "a/b/c", "ab", "b"]
            .iter()
            .map(|path| RelPath::parse(path.as_bytes()).unwrap())
            .map(|path| (path, record("x", FoundNode::Directory)))
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
