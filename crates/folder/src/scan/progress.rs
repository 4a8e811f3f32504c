//! How far a scan is, readable from any thread, and the way to end it early.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one scan. Each is exact; together they are not of one moment.
#[derive(Debug, Default)]
pub struct ScanProgress {
    files_seen: AtomicU64,
    bytes_seen: AtomicU64,
    files_to_hash: AtomicU64,
    bytes_to_hash: AtomicU64,
    files_hashed: AtomicU64,
    bytes_hashed: AtomicU64,
    cancelled: AtomicBool,
}

/// What a [`ScanProgress`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanCounts {
    /// Files and symlinks walked past so far.
    pub files_seen: u64,
    /// Bytes that they have.
    pub bytes_seen: u64,
    /// Files known to need hashing; final once the first is hashed.
    pub files_to_hash: u64,
    /// Bytes that they had.
    pub bytes_to_hash: u64,
    /// Files hashed, or given up, so far.
    pub files_hashed: u64,
    /// Bytes hashed so far.
    pub bytes_hashed: u64,
}

impl ScanProgress {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts of now.
    pub fn counts(&self) -> ScanCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ScanCounts {
            files_seen: load(&self.files_seen),
            bytes_seen: load(&self.bytes_seen),
            files_to_hash: load(&self.files_to_hash),
            bytes_to_hash: load(&self.bytes_to_hash),
            files_hashed: load(&self.files_hashed),
            bytes_hashed: load(&self.bytes_hashed),
        }
    }

    /// Ends the scan soon, with an error.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`ScanProgress::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn saw(&self, bytes: u64) {
        self.files_seen.fetch_add(1, Ordering::Relaxed);
        self.bytes_seen.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn will_hash(&self, bytes: u64) {
        self.files_to_hash.fetch_add(1, Ordering::Relaxed);
        self.bytes_to_hash.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn hashed_bytes(&self, bytes: u64) {
        self.bytes_hashed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn hashed_file(&self) {
        self.files_hashed.fetch_add(1, Ordering::Relaxed);
    }
}
