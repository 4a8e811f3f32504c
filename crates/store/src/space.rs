//! Free space on the store's disk. The databases below do not survive a write that fails for
//! want of space without being opened again, so the store stops short of that.

use std::path::{Path, PathBuf};

use crate::error::BlobError;

/// Imports leave this much free: what the databases need to commit what was begun.
pub(crate) const IMPORT_RESERVE_BYTES: u64 = 64 << 20;
/// Commits of the index leave this much free: removals and states go on when imports may not.
pub(crate) const COMMIT_RESERVE_BYTES: u64 = 16 << 20;

/// The free space of the file system that a directory is on.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    path: PathBuf,
}

impl Space {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Whether `needed` bytes are free for this process.
    ///
    /// # Errors
    /// The bytes that are free.
    pub(crate) fn check(&self, needed: u64) -> Result<(), u64> {
        let available = self.available();
        if available < needed { Err(available) } else { Ok(()) }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The error for a disk that turned out to be full.
    pub(crate) fn full(&self) -> BlobError {
        BlobError::NoSpace { path: self.path.clone(), available: self.available() }
    }

    /// Free bytes. A file system that does not say has enough: the write itself will tell.
    fn available(&self) -> u64 {
        rustix::fs::statvfs(&self.path)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
