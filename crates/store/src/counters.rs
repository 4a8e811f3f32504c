//! What the store has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Objects given to the blob store.
    pub imports: u64,
    /// Their bytes.
    pub import_bytes: u64,
    /// Transactions of the index.
    pub commits: u64,
    /// Times that the blob store's database was made durable.
    pub blob_syncs: u64,
    /// Files and directories synced one by one.
    pub fsyncs: u64,
    /// Times that the whole file system was synced instead.
    pub syncfs: u64,
    /// Objects added to a repo's index.
    pub indexed: u64,
    /// Objects put into a repo's pending table.
    pub pending: u64,
    /// Reads answered from the cache of structured objects.
    pub cache_hits: u64,
    /// Reads that went to the blob store.
    pub blob_reads: u64,
}

macro_rules! counts {
    ($($name:ident),* $(,)?) => {
        /// The living counts behind [`Counters`].
        #[derive(Debug, Default)]
        pub(crate) struct Counts {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counts {
            /// The counts of now; each is exact, together they are not of one moment.
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counts!(
    imports,
    import_bytes,
    commits,
    blob_syncs,
    fsyncs,
    syncfs,
    indexed,
    pending,
    cache_hits,
    blob_reads,
);

/// Adds `n`, which nothing else waits for.
pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
