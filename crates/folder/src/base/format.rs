//! The bytes of what base records: a version, then an archive that is validated when it is read.

use ark_core::{Behind, Content, Dot, Mtime, Name, ObjectId, Permissions, RelPath, Writer};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error as ArchiveError;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::{Applied, Applying, Cache, Disowned, Hold, Incarnations, Record, Retry};
use crate::fs::{Stat, StatKind};
use crate::scan::FoundNode;

/// First byte of every record and retry: the version of their format.
const FORMAT_VERSION: u8 = 1;
/// Bytes of paths that are recorded as held while a batch is carried out: it is written before
/// each of them.
const MAX_HELD_BYTES: usize = 64 << 10;

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
struct ApplyingWire {
    root: ObjectId,
    held: Vec<Vec<u8>>,
}

impl ApplyingWire {
    fn of_root(root: ObjectId) -> Self {
        Self { root, held: Vec::new() }
    }
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

pub(super) fn encode_record(path: &RelPath, record: &Record) -> Vec<u8> {
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

pub(super) fn decode_record(path: &RelPath, value: &[u8]) -> Result<Record, String> {
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

pub(super) fn encode_retry(retry: &Retry) -> Vec<u8> {
    encode(&RetryWire { hold: retry.hold as u8, reason: retry.reason.clone() })
}

pub(super) fn decode_retry(value: &[u8]) -> Result<Retry, String> {
    let RetryWire { hold, reason } = decode(value)?;
    let hold = match hold {
        0 => Hold::Blocked,
        1 => Hold::Failed,
        2 => Hold::Skipped,
        other => return Err(format!("a retry of unknown kind {other}")),
    };
    Ok(Retry { hold, reason })
}

/// The record of the applied tree, for [`APPLIED_META`](super::APPLIED_META).
pub(crate) fn encode_applied(applied: &Applied) -> Vec<u8> {
    let revisions = applied.revisions.iter().map(|(&writer, &revision)| (writer, revision));
    encode(&AppliedWire { root: applied.root, revisions: revisions.collect() })
}

pub(super) fn decode_applied(value: &[u8]) -> Result<Applied, String> {
    let AppliedWire { root, revisions } = decode(value)?;
    Ok(Applied { root, revisions: revisions.into_iter().collect() })
}

/// The record of trees applied in part, for [`UNFINISHED_META`](super::UNFINISHED_META).
pub(crate) fn encode_unfinished(roots: &Vec<ObjectId>) -> Vec<u8> {
    encode(roots)
}

/// The record for [`APPLYING_META`](super::APPLYING_META). Where too much is held nothing of it is
/// recorded.
pub(crate) fn encode_applying(applying: &Applying) -> Vec<u8> {
    let held: Vec<Vec<u8>> = applying.held.iter().map(RelPath::to_bytes).collect();
    let is_small = held.iter().map(Vec::len).sum::<usize>() <= MAX_HELD_BYTES;
    encode(&ApplyingWire { root: applying.root, held: if is_small { held } else { Vec::new() } })
}

pub(super) fn decode_applying(value: &[u8]) -> Result<Applying, String> {
    let ApplyingWire { root, held } = decode(value)
        // As it was recorded before it said what is held.
        .or_else(|error| decode(value).map(ApplyingWire::of_root).map_err(|_| error))?;
    let held = held.iter().map(|path| RelPath::parse(path).map_err(|error| error.to_string()));
    Ok(Applying { root, held: held.collect::<Result<_, _>>()? })
}

/// The record for [`INCARNATION_META`](super::INCARNATION_META).
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

pub(super) fn decode_incarnations(value: &[u8]) -> Result<Incarnations, String> {
    let IncarnationsWire { writer, started_at, disowned } = decode(value)?;
    let disown =
        |(dot, reissue): (Dot, bool)| Disowned { writer: dot.writer, after: dot.sequence, reissue };
    Ok(Incarnations { writer, started_at, disowned: disowned.into_iter().map(disown).collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
    fn what_is_being_applied_comes_back_with_what_is_held() {
        let root = ObjectId::of(b"x");
        let paths = |length: usize| -> std::collections::BTreeSet<RelPath> {
            [b"a".to_vec(), [b"b/".as_slice(), &vec![b'c'; length]].concat()]
                .map(|path| RelPath::parse(&path).unwrap())
                .into()
        };
        let several = Applying { root, held: paths(255) };
        assert_eq!(decode_applying(&encode_applying(&several)).unwrap(), several);
        let none = Applying { root, held: [].into() };
        assert_eq!(decode_applying(&encode_applying(&none)).unwrap(), none);
        assert_eq!(decode_applying(&encode(&root)).unwrap(), none, "as it was before");
        let name = |number| RelPath::parse(format!("{number:0>250}").as_bytes()).unwrap();
        let too_many = Applying { root, held: (0..300).map(name).collect() };
        assert_eq!(decode_applying(&encode_applying(&too_many)).unwrap(), none);
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
}
