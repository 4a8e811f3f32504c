//! What is at a path, by its stat, against what base has there.

use ark_core::{MAX_SYMLINK_TARGET, Mtime, Object, ObjectKind, Permissions, RelPath};

use super::hash::put;
use super::walk::{Walk, last};
use super::{Entering, Found, FoundNode, Kept, ScanError, Sink};
use crate::base::{BaseRead, Record};
use crate::fs::{self, Dir, FsErrorKind, Stat, StatKind};
use crate::watch::Touch;

/// How long after a change a file that was closed after writing is hashed though its stat is
/// the recorded one: stores into a mapped file are stamped when they first touch a page, and
/// again only after the page was written back (Linux: within 35 s).
const MAPPED_WINDOW_NANOS: i128 = 60_000_000_000;

/// A file that has to be hashed.
pub(super) struct Candidate {
    pub path: RelPath,
    pub stat: Stat,
    /// What base has there, where that is of the same stat, though others may have been, too.
    pub known: Option<FoundNode>,
}

impl<B, S, E> Walk<'_, '_, B, S, E>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    pub(super) fn is_directory(&mut self, path: &RelPath, stat: &Stat, record: Option<&Record>) {
        let is_known = record.is_some_and(|record| {
            record.node == FoundNode::Directory && record.permissions == stat.permissions()
        });
        if is_known {
            self.result.unchanged += 1;
            return;
        }
        let found = Found {
            node: FoundNode::Directory,
            permissions: stat.permissions(),
            mtime: Mtime::default(),
            stat: *stat,
            settled: true,
        };
        self.result.found.insert(path.clone(), found);
    }

    /// A file or symlink.
    pub(super) fn leaf(
        &mut self,
        dir: &Dir,
        path: RelPath,
        stat: &Stat,
        record: Option<&Record>,
        touch: Touch,
    ) -> Result<(), ScanError> {
        let is_link = stat.kind == StatKind::Symlink;
        self.scan.progress.saw(if is_link { 0 } else { stat.size });
        let cache = record.and_then(|record| record.cache.as_ref());
        if cache.is_some_and(|cache| {
            cache.settled && stat.unchanged(&cache.stat) && !may_be_mapped(stat, touch)
        }) {
            self.result.unchanged += 1;
        } else if is_link {
            self.symlink(dir, path, stat)?;
        } else {
            let is_same = cache.is_some_and(|cache| stat.unchanged(&cache.stat));
            let known = record.filter(|_| is_same).map(|record| record.node);
            self.candidates.push(Candidate { path, stat: *stat, known });
        }
        Ok(())
    }

    fn symlink(&mut self, dir: &Dir, path: RelPath, stat: &Stat) -> Result<(), ScanError> {
        let name = last(&path).as_bytes();
        let begun = fs::now();
        let read = dir.read_link(name).and_then(|target| Ok((target, dir.stat(name)?)));
        let (target, after) = match read {
            Ok(read) => read,
            Err(error) if error.is_absent() || error.kind() == FsErrorKind::NotRepresentable => {
                self.result.in_flux.insert(path);
                return Ok(());
            }
            Err(error) => {
                self.result.kept.insert(path, Kept::Unreadable(error.source.to_string()));
                return Ok(());
            }
        };
        if !after.unchanged(stat) {
            self.result.in_flux.insert(path);
            return Ok(());
        }
        let size = target.len() as u64;
        if size == 0 || size > MAX_SYMLINK_TARGET {
            self.result.kept.insert(path, Kept::TargetTooLong);
            return Ok(());
        }
        let target = put(self.scan.sink, Object::new(ObjectKind::Raw, target))?;
        let found = Found {
            node: FoundNode::Symlink { target, size },
            permissions: Permissions::from_mode(0o777),
            mtime: after.mtime,
            stat: after,
            settled: self.scan.granularity.settled(&after, begun),
        };
        self.result.found.insert(path, found);
        Ok(())
    }
}

fn may_be_mapped(stat: &Stat, touch: Touch) -> bool {
    touch == Touch::Written && fs::since(fs::now(), stat.ctime).abs() < MAPPED_WINDOW_NANOS
}
