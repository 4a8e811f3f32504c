//! Writes content into temporaries, several at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use ark_core::{Content, Link, ObjectId, Read, RelPath, TreeError, chunk_list, in_words};
use bytes::Bytes;

use super::Control;
use crate::base::{Hold, Retry};
use crate::fs::{Dir, FsError, FsErrorKind, Root, Stat, StatKind, Temporary, temporary_name};
use crate::scan::FoundNode;
use crate::wants::Want;

/// Threads that write: each waits for the store and for the disk in turn.
const WRITERS: usize = 4;
/// Zeros of this many bytes, at an offset that is a multiple of it, become a hole: the block of
/// nearly every file system.
const HOLE_BLOCK: usize = 4096;

/// A content to write beside its target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub path: &'a RelPath,
    pub want: &'a Want,
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum Written {
    /// It is in the directory of its target under this name.
    Temporary(Made),
    /// The file system failed; nothing is left of it.
    Fs(FsError),
    /// The content could not be had; nothing is left of it.
    Failed(Retry),
    /// There was no job.
    Skipped,
    /// Not attempted: applying is to end.
    Stopped,
}

/// A temporary with content, bits and mtime as wanted.
#[derive(Debug)]
pub(super) struct Made {
    pub dir: Dir,
    pub name: Vec<u8>,
    pub stat: Stat,
}

impl Written {
    /// Makes what was written durable by itself, or fails by itself.
    pub(super) fn sync(&mut self, root: &Root) {
        let Self::Temporary(Made { dir, name, stat }) = self else { return };
        // What a symlink says is in its directory.
        if stat.kind == StatKind::File
            && let Err(error) = sync(root, dir, name)
        {
            remove(dir, name);
            *self = Self::Fs(error);
        }
    }

    /// Removes what was written and is not wanted after all.
    pub(super) fn discard(self) {
        if let Self::Temporary(made) = self {
            remove(&made.dir, &made.name);
        }
    }
}

fn sync(root: &Root, dir: &Dir, name: &[u8]) -> Result<(), FsError> {
    match dir.sync_file(name) {
        // By the bits that it has been given it cannot be opened.
        Err(error) if error.kind() == FsErrorKind::Denied => root.sync_file_system(),
        synced => synced,
    }
}

/// Writes all jobs; the results in their order.
pub(super) fn write_all<R: Read + Sync>(
    root: &Root,
    reader: &R,
    jobs: &[Option<Job<'_>>],
    sync_each: bool,
    control: &Control,
) -> Vec<Written> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Written)>> = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        let mut writer = Writer { root, reader, sync_each, control, last_chunk: None };
        let mut written = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else { break };
            written.push((at, writer.run(job.as_ref())));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut written);
    };
    let threads = WRITERS.min(jobs.iter().flatten().count());
    if threads <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, written)| written).collect()
}

/// One thread's work.
struct Writer<'a, R> {
    root: &'a Root,
    reader: &'a R,
    sync_each: bool,
    control: &'a Control,
    /// The chunk read last: long runs of zeros are one chunk over and over.
    last_chunk: Option<(ObjectId, Bytes)>,
}

/// Why a content was not written.
enum Failure<E: std::error::Error + 'static> {
    Fs(FsError),
    Tree(TreeError<E>),
    Stopped,
}

impl<E: std::error::Error> From<FsError> for Failure<E> {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

impl<R: Read> Writer<'_, R> {
    fn run(&mut self, job: Option<&Job<'_>>) -> Written {
        let Some(job) = job else { return Written::Skipped };
        if self.control.stop.load(Ordering::Relaxed) {
            return Written::Stopped;
        }
        match self.make(job) {
            Ok(made) => Written::Temporary(made),
            Err(Failure::Fs(error)) => Written::Fs(error),
            Err(Failure::Stopped) => Written::Stopped,
            Err(Failure::Tree(error)) => {
                let reason = format!("cannot write {:?}: {}", job.path, in_words(&error));
                Written::Failed(Retry { hold: Hold::Failed, reason })
            }
        }
    }

    fn make(&mut self, job: &Job<'_>) -> Result<Made, Failure<R::Error>> {
        let (dir, _) = self.root.parent(job.path)?;
        let (made, name) = match job.want.node {
            FoundNode::Symlink { target, .. } => {
                let target = self.read(Link::raw(target))?;
                let name = temporary_name();
                let made = dir.make_symlink(&target, &name);
                (made.and_then(|()| dir.set_mtime(&name, job.want.mtime)), name)
            }
            FoundNode::File { content, size } => {
                let temporary = dir.create_temp()?;
                match self.fill(&temporary, job, content, size) {
                    Ok(()) => (Ok(()), temporary.name),
                    Err(failure) => {
                        remove(&dir, &temporary.name);
                        return Err(failure);
                    }
                }
            }
            // Directories are made, not written.
            FoundNode::Directory => (Ok(()), temporary_name()),
        };
        match made.and_then(|()| dir.stat(&name)) {
            Ok(stat) => Ok(Made { dir, name, stat }),
            Err(error) => {
                remove(&dir, &name);
                Err(error.into())
            }
        }
    }

    /// Content, then bits and mtime, then durable: nothing of it changes afterwards.
    fn fill(
        &mut self,
        temporary: &Temporary,
        job: &Job<'_>,
        content: Content,
        size: u64,
    ) -> Result<(), Failure<R::Error>> {
        let failed = |source: io::Error| {
            Failure::Fs(FsError { operation: "write", path: job.path.to_string(), source })
        };
        let file = &temporary.file;
        let mut offset = 0;
        for chunk in chunk_list(self.reader, content, size) {
            if self.control.stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            let (link, length) = chunk.map_err(Failure::Tree)?;
            let bytes = self.read(link)?;
            if bytes.len() as u64 != length {
                let kind = io::ErrorKind::InvalidData;
                return Err(failed(io::Error::new(kind, "a chunk of another length than stated")));
            }
            write_with_holes(file, &bytes, offset).map_err(failed)?;
            offset += length;
            self.control.bytes.fetch_add(length, Ordering::Relaxed);
        }
        file.set_len(size).map_err(failed)?;
        temporary.dress(job.want.permissions, job.want.mtime)?;
        if self.sync_each {
            temporary.sync()?;
        }
        Ok(())
    }

    fn read(&mut self, link: Link) -> Result<Bytes, Failure<R::Error>> {
        if let Some((id, bytes)) = &self.last_chunk
            && *id == link.id
        {
            return Ok(bytes.clone());
        }
        let bytes = self
            .reader
            .read(link)
            .map_err(|source| Failure::Tree(TreeError::Read { link, source }))?;
        self.last_chunk = Some((link.id, bytes.clone()));
        Ok(bytes)
    }
}

/// Removes a temporary. What cannot be removed now is removed when the folder is next opened.
pub(super) fn remove(dir: &Dir, name: &[u8]) {
    if let Err(error) = dir.unlink(name)
        && !error.is_absent()
    {
        tracing::debug!(error = %error.in_words(), "a temporary is left for the next start");
    }
}

/// Writes `bytes` at `offset` but for whole blocks of zeros. The file ends where it is told to
/// afterwards.
fn write_with_holes(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let to_boundary = (HOLE_BLOCK as u64 - offset % HOLE_BLOCK as u64) % HOLE_BLOCK as u64;
    let head = usize::try_from(to_boundary).unwrap_or(0).min(bytes.len());
    let is_hole = |block: &[u8]| block.len() == HOLE_BLOCK && block.iter().all(|&byte| byte == 0);
    // From where on nothing was written yet, and where the scan is.
    let (mut start, mut at) = (0, head);
    while at < bytes.len() {
        let end = (at + HOLE_BLOCK).min(bytes.len());
        if is_hole(&bytes[at..end]) {
            file.write_all_at(&bytes[start..at], offset + start as u64)?;
            start = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[start..], offset + start as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn zeros_become_holes_wherever_chunks_begin() {
        let mut content = vec![0u8; 1 << 20];
        content[..100].fill(1);
        content[500_000..500_100].fill(2);
        for cut in [0, 1, 4095, 4096, 5000, 700_001] {
            let file = tempfile::tempfile().unwrap();
            write_with_holes(&file, &content[..cut], 0).unwrap();
            write_with_holes(&file, &content[cut..], cut as u64).unwrap();
            file.set_len(content.len() as u64).unwrap();
            let mut back = vec![9; content.len()];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == content, "cut at {cut}");
            let blocks = file.metadata().unwrap().blocks();
            assert!(blocks * 512 < 100_000, "{blocks} blocks");
        }
    }
}
