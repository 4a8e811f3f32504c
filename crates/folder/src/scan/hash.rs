//! Reading and hashing the files that may have changed, in parallel and with bounded memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};

use ark_core::chunk::{Cutter, FileTree};
use ark_core::{Content, MAX_RAW_CONTENT, Mtime, Object, ObjectId, ObjectKind, RelPath};
use rayon::prelude::*;

use super::compare::Candidate;
use super::walk::Gone;
use super::{Entering, Found, FoundNode, Kept, Scan, ScanError, ScanResult, Sink, SinkClosed};
use crate::base::BaseRead;
use crate::fs::{self, FsError, FsErrorKind, Stat};

/// The most threads that hash: each may hold about 13 MB, and disks gain nothing beyond.
const MAX_HASHERS: usize = 8;

/// The threads that hash, apart from those of everybody else, so that a large scan starves
/// nobody. One set serves all folders of a process.
#[derive(Debug)]
pub struct Hashers(rayon::ThreadPool);

/// The system gives no more threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start threads for hashing")]
pub struct HashersError(#[from] rayon::ThreadPoolBuildError);

impl Hashers {
    /// As many as there are processors, at most eight.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new() -> Result<Self, HashersError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(processors.min(MAX_HASHERS))
            .thread_name(|index| format!("ark-hash-{index}"))
            .build()?;
        Ok(Self(pool))
    }
}

/// What came of hashing one file.
enum Hashed {
    Found(Found),
    InFlux,
    Kept(Kept),
}

/// Hashes `candidates` and puts what comes of it into `result`.
pub(super) fn hash<B, S, E>(
    scan: &Scan<'_, B, S, E>,
    candidates: Vec<Candidate>,
    gone: &[Gone],
    result: &mut ScanResult,
) -> Result<(), ScanError>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    let moved = moved(gone);
    let mut to_hash = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match moved.get(&candidate.stat.ino) {
            Some((stat, node)) if candidate.stat.unchanged(stat) => {
                let found = found(*node, &candidate.stat, true);
                result.found.insert(candidate.path, found);
            }
            _ => {
                scan.progress.will_hash(candidate.stat.size);
                to_hash.push(candidate);
            }
        }
    }
    let reader = Reader {
        root: scan.root,
        sink: scan.sink,
        granularity: scan.granularity,
        progress: scan.progress,
    };
    let hashed: Vec<(RelPath, Hashed)> = scan.hashers.0.install(|| {
        to_hash
            .into_par_iter()
            .map(|candidate| {
                let hashed = reader.hash(&candidate)?;
                scan.progress.hashed_file();
                Ok((candidate.path, hashed))
            })
            .collect::<Result<_, ScanError>>()
    })?;
    for (path, hashed) in hashed {
        match hashed {
            Hashed::Found(found) => {
                result.found.insert(path, found);
            }
            Hashed::InFlux => {
                result.in_flux.insert(path);
            }
            Hashed::Kept(kept) => {
                result.kept.insert(path, kept);
            }
        }
    }
    Ok(())
}

/// Files that are gone from where base has them, by inode: if one turns up elsewhere with the
/// same stat, the directory that it is in was moved, and its content is known.
fn moved(gone: &[Gone]) -> HashMap<u64, (Stat, FoundNode)> {
    let files = gone.iter().filter_map(|gone| {
        let cache = gone.cache.as_ref().filter(|cache| cache.settled)?;
        Some((cache.stat.ino, (cache.stat, gone.node)))
    });
    files.collect()
}

pub(super) fn found(node: FoundNode, stat: &Stat, settled: bool) -> Found {
    Found { node, permissions: stat.permissions(), mtime: stat.mtime, stat: *stat, settled }
}

/// What the hashing threads share.
struct Reader<'a, S: ?Sized> {
    root: &'a fs::Root,
    sink: &'a S,
    granularity: fs::Granularity,
    progress: &'a super::ScanProgress,
}

/// Why a content was not read to its end.
enum ReadFailed {
    Io(io::Error),
    Changed,
    Sink(SinkClosed),
    Cancelled,
}

impl From<io::Error> for ReadFailed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SinkClosed> for ReadFailed {
    fn from(closed: SinkClosed) -> Self {
        Self::Sink(closed)
    }
}

impl<S: Sink + ?Sized> Reader<'_, S> {
    fn hash(&self, candidate: &Candidate) -> Result<Hashed, ScanError> {
        if self.progress.is_cancelled() {
            return Err(ScanError::Cancelled);
        }
        let (dir, name) = match self.root.parent(&candidate.path) {
            Ok(parent) => parent,
            Err(error) => return Ok(unread(&error)),
        };
        let begun = fs::now();
        let (file, before) = match dir.open_file(name.as_bytes()) {
            Ok(opened) => opened,
            Err(error) => return Ok(self.unopened(candidate, begun, &error)),
        };
        let content = match self.content(file, before.size) {
            Ok(content) => content,
            Err(ReadFailed::Changed) => return Ok(Hashed::InFlux),
            Err(ReadFailed::Io(error)) => {
                return Ok(Hashed::Kept(Kept::Unreadable(error.to_string())));
            }
            Err(ReadFailed::Sink(closed)) => return Err(closed.into()),
            Err(ReadFailed::Cancelled) => return Err(ScanError::Cancelled),
        };
        match dir.stat(name.as_bytes()) {
            Ok(after) if after.unchanged(&before) => {
                let node = FoundNode::File { content, size: before.size };
                let settled = self.granularity.settled(&before, begun);
                Ok(Hashed::Found(found(node, &after, settled)))
            }
            Ok(_) => Ok(Hashed::InFlux),
            Err(error) => Ok(unread(&error)),
        }
    }

    /// A file that could not be opened at `begun`. If base has it with this stat ark gave it the
    /// bits that keep this user out, who so wrote nothing to it since.
    fn unopened(&self, candidate: &Candidate, begun: Mtime, error: &FsError) -> Hashed {
        match candidate.known {
            Some(node) if error.kind() == FsErrorKind::Denied => {
                let settled = self.granularity.settled(&candidate.stat, begun);
                Hashed::Found(found(node, &candidate.stat, settled))
            }
            _ => unread(error),
        }
    }

    /// Reads the content of `file`, which is `size` bytes long if it does not change, and puts
    /// its objects. At most about 13 MB are held: the cutter's buffer, a chunk, open nodes.
    fn content(&self, file: File, size: u64) -> Result<Content, ReadFailed> {
        if size <= MAX_RAW_CONTENT {
            let length = usize::try_from(size).map_err(|_| ReadFailed::Changed)?;
            let mut bytes = Vec::with_capacity(length + 1);
            file.take(size + 1).read_to_end(&mut bytes)?;
            if bytes.len() != length {
                return Err(ReadFailed::Changed);
            }
            self.progress.hashed_bytes(size);
            let object = Object::new(ObjectKind::Raw, bytes);
            let id = object.id();
            self.put(object)?;
            return Ok(Content::Raw(id));
        }
        let mut tree = FileTree::new();
        let mut read = 0;
        for chunk in Cutter::new(file) {
            let chunk = chunk?;
            let length = chunk.len() as u64;
            read += length;
            // One that grows without end is given up once it is longer than it was.
            if read > size {
                return Err(ReadFailed::Changed);
            }
            let object = Object::new(ObjectKind::Raw, chunk);
            tree.push(object.id(), length);
            self.put(object)?;
            for node in tree.take_finished() {
                self.put(node)?;
            }
            self.progress.hashed_bytes(length);
        }
        if read != size {
            return Err(ReadFailed::Changed);
        }
        let (content, _, nodes) = tree.finish();
        for node in nodes {
            self.put(node)?;
        }
        Ok(content)
    }

    fn put(&self, object: Object) -> Result<(), ReadFailed> {
        if self.progress.is_cancelled() {
            return Err(ReadFailed::Cancelled);
        }
        put(self.sink, object)?;
        Ok(())
    }
}

/// Puts `object` unless it is there already; its id.
pub(super) fn put<S: Sink + ?Sized>(sink: &S, object: Object) -> Result<ObjectId, SinkClosed> {
    let id = object.id();
    if !sink.known(object.link()) {
        sink.put(object)?;
    }
    Ok(id)
}

/// A file that was there when its directory was listed and cannot be opened now.
fn unread(error: &FsError) -> Hashed {
    if error.is_absent() || error.kind() == FsErrorKind::NotAFile {
        Hashed::InFlux
    } else {
        Hashed::Kept(Kept::Unreadable(error.source.to_string()))
    }
}
