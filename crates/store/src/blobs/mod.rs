//! The blob store under ark: imports that are written once, bounded and held by temporary tags,
//! the sync that makes them durable, tags, and reads that are checked.

mod disk;
mod import;
mod living;
mod read;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ark_core::{Object, ObjectId};
use iroh_blobs::api::RequestError;
use iroh_blobs::{Hash, HashAndFormat};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::{Counts, count};
use crate::create;
use crate::error::{BlobError, OpenError};
use crate::failpoint::Failpoints;
use crate::space::{IMPORT_RESERVE_BYTES, Space};

use disk::{MAX_NAMED_SYNCS, blocking, sweep, sync_everything, sync_to_disk};
pub(crate) use import::Import;
use import::{Imports, Writing, Written};
use living::{Life, Living};

/// File and directory names of the store below, as it lays them out.
const DATABASE: &str = "blobs.db";
const DATA: &str = "data";
const TEMP: &str = "temp";
/// Bytes and outboards up to this size are kept inside `blobs.db`. With the default of 16 KiB
/// that database's cache, which cannot be bounded, grows to hundreds of megabytes.
const INLINE_BYTES: u64 = 1024;
/// Imports under way, in units of [`IMPORT_UNIT_BYTES`]: so many small objects at once are as
/// fast as the store gets, and of the largest sixteen make 64 MiB in memory.
const IMPORT_UNITS: u32 = 256;
/// An object takes one unit for each so many bytes it has.
const IMPORT_UNIT_BYTES: usize = 256 << 10;

/// The blob store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    inner: Arc<Inner>,
}

/// A tag that was set: in which life of the store, and as which of all tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    life: u64,
    number: u64,
}

/// What became of a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It is durable.
    Durable,
    /// It is set; the next sync makes it durable.
    Set,
    /// The store ended before it was durable.
    Lost,
}

#[derive(Debug)]
struct Inner {
    living: Living,
    root: PathBuf,
    space: Space,
    permits: Arc<Semaphore>,
    imports: Arc<Imports>,
    /// Tags set so far.
    tags_set: AtomicU64,
    /// Per life of the store the highest number of a tag that a sync has covered.
    tags_durable: Mutex<HashMap<u64, u64>>,
    /// Bytes of imports that are being written.
    writing_bytes: AtomicU64,
    /// Whether an import failed, and may have left a file, since the last sweep.
    unswept: AtomicBool,
    counts: Arc<Counts>,
    failpoints: Failpoints,
}

impl Blobs {
    /// Opens or makes the blob store in `root`, whose lock the caller holds.
    pub(crate) async fn open(
        root: &Path,
        counts: Arc<Counts>,
        failpoints: Failpoints,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Blobs { path: root.to_owned(), source };
        let (owned, made) = (root.to_owned(), failpoints.clone());
        let create = move || {
            fs::create_dir_all(&owned)?;
            // The index must not outlive a power cut without it.
            if let Some(store) = owned.parent() {
                File::open(store)?.sync_all()?;
            }
            create::database(&owned.join(DATABASE), || made.hit("blobs-made"))
        };
        blocking(create).await.map_err(|error| failed(Arc::new(error)))?;
        let living = Living::open(root).await.map_err(failed)?;
        let inner = Inner {
            living,
            root: root.to_owned(),
            space: Space::new(root),
            permits: Arc::new(Semaphore::new(IMPORT_UNITS as usize)),
            imports: Arc::default(),
            tags_set: AtomicU64::new(0),
            tags_durable: Mutex::default(),
            writing_bytes: AtomicU64::new(0),
            unswept: AtomicBool::new(false),
            counts,
            failpoints,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends the blob store after all that was given to it.
    pub(crate) async fn close(&self) -> Result<(), BlobError> {
        self.inner.living.close().await
    }

    /// Ends the store below as a failure of its database does.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn kill(&self) {
        self.inner.living.kill().await;
    }

    /// Takes an object on: the returned import is to be [run](Blobs::import).
    pub(crate) fn register(&self, object: &Object) -> Arc<Import> {
        Import::register(&self.inner.imports, object, self.inner.living.life().number)
    }

    /// Waits until so many bytes may be imported.
    pub(crate) async fn permit(&self, length: usize) -> Result<OwnedSemaphorePermit, BlobError> {
        if self.inner.unswept.load(Ordering::Acquire) {
            self.sweep_if_idle();
        }
        let units = length.div_ceil(IMPORT_UNIT_BYTES).clamp(1, IMPORT_UNITS as usize);
        let units = u32::try_from(units).unwrap_or(IMPORT_UNITS);
        Arc::clone(&self.inner.permits).acquire_many_owned(units).await.map_err(stopped)
    }

    /// Writes the object, once, whoever asks. On return the blob store has it, not durably.
    pub(crate) async fn import(&self, import: &Import, object: Object) -> Result<(), BlobError> {
        let write = || async {
            let written = self.write(object).await;
            self.inner.unswept.fetch_or(written.is_err(), Ordering::AcqRel);
            written
        };
        import.written.get_or_try_init(write).await.map(|_| ())
    }

    async fn write(&self, object: Object) -> Result<Written, BlobError> {
        let inner = &self.inner;
        let (link, length) = (object.link(), object.bytes().len());
        let writing = Writing::begin(&inner.writing_bytes, length as u64);
        // What others are writing may not be on the disk yet.
        if inner.space.check(writing.total + IMPORT_RESERVE_BYTES).is_err() {
            return Err(inner.space.full());
        }
        inner.failpoints.hit("import").map_err(|e| self.io("import", e))?;
        // Awaiting the import itself would leave a permanent tag.
        let life = inner.living.checked().await?;
        let added = life.store.blobs().add_bytes(object.into_bytes()).temp_tag().await;
        let tag = added.map_err(|error| self.request("import", error))?;
        if tag.hash().as_bytes() != link.id.as_bytes() {
            return Err(BlobError::Hash { link });
        }
        count(&inner.counts.imports, 1);
        count(&inner.counts.import_bytes, length);
        Ok(Written::Now { life: life.number, _tag: tag })
    }

    /// Makes imports and tags durable.
    pub(crate) async fn sync(
        &self,
        imports: &[Arc<Import>],
        tags: &[Tag],
    ) -> Result<(), BlobError> {
        let data = self.inner.root.join(DATA);
        let new: Vec<_> = imports.iter().filter(|import| !import.is_durable()).collect();
        if new.is_empty() && tags.iter().all(|tag| self.standing(*tag) == Standing::Durable) {
            return Ok(());
        }
        let life = self.inner.living.life();
        if new.iter().any(|import| import.is_lost(life.number))
            || tags.iter().any(|tag| self.standing(*tag) == Standing::Lost)
        {
            return Err(BlobError::Reopened);
        }
        let files: Vec<PathBuf> = new.iter().flat_map(|import| import.files(&data)).collect();
        // Neither needs the other: what counts is that both end before the index commits.
        let (database, files) =
            tokio::join!(self.sync_database(&life), self.sync_files(data, files));
        database?;
        files?;
        for import in new {
            import.set_durable();
        }
        Ok(())
    }

    /// Makes everything durable that was ever given to the blob store.
    pub(crate) async fn sync_all(&self) -> Result<(), BlobError> {
        self.sync_database(&self.inner.living.checked().await?).await?;
        count(&self.inner.counts.syncfs, 1);
        let data = self.inner.root.join(DATA);
        blocking(move || sync_everything(&data)).await.map_err(|e| self.io("sync", e))
    }

    async fn sync_database(&self, life: &Life) -> Result<(), BlobError> {
        self.inner.failpoints.hit("sync-db").map_err(|e| self.io("sync", e))?;
        count(&self.inner.counts.blob_syncs, 1);
        let set = self.inner.tags_set.load(Ordering::Acquire);
        life.store.sync_db().await.map_err(|error| self.request("sync", error))?;
        let mut durable = self.inner.tags_durable.lock().unwrap_or_else(PoisonError::into_inner);
        let covered = durable.entry(life.number).or_default();
        *covered = set.max(*covered);
        Ok(())
    }

    async fn sync_files(&self, data: PathBuf, files: Vec<PathBuf>) -> Result<(), BlobError> {
        self.inner.failpoints.hit("sync-files").map_err(|e| self.io("sync", e))?;
        if files.is_empty() {
            return Ok(());
        }
        if files.len() > MAX_NAMED_SYNCS {
            count(&self.inner.counts.syncfs, 1);
        } else {
            count(&self.inner.counts.fsyncs, files.len() + 1);
        }
        blocking(move || sync_to_disk(&data, &files)).await.map_err(|e| self.io("sync", e))
    }

    /// Tags an object under a permanent name. Durable after the next [`Blobs::sync`] of this life
    /// of the store.
    pub(crate) async fn tag(
        &self,
        name: &str,
        object: Object,
    ) -> Result<(Arc<Import>, Tag), BlobError> {
        let id = object.id();
        let import = self.register(&object);
        let permit = self.permit(object.bytes().len()).await?;
        self.import(&import, object).await?;
        drop(permit);
        let value = HashAndFormat::raw(Hash::from_bytes(*id.as_bytes()));
        let life = self.inner.living.checked().await?;
        let set = life.store.tags().set(name, value).await;
        set.map_err(|error| self.request("tag", error))?;
        let number = self.inner.tags_set.fetch_add(1, Ordering::AcqRel) + 1;
        Ok((import, Tag { life: life.number, number }))
    }

    /// What became of a tag since it was set.
    pub(crate) fn standing(&self, tag: Tag) -> Standing {
        let durable = self.inner.tags_durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.get(&tag.life).is_some_and(|&covered| covered >= tag.number) {
            Standing::Durable
        } else if tag.life == self.inner.living.life().number {
            Standing::Set
        } else {
            Standing::Lost
        }
    }

    /// Removes the tags whose names begin with `prefix`.
    pub(crate) async fn untag_all(&self, prefix: &str) -> Result<(), BlobError> {
        let life = self.inner.living.checked().await?;
        let deleted = life.store.tags().delete_prefix(prefix).await;
        deleted.map(|_| ()).map_err(|error| self.request("untag", error))
    }

    /// Removes a tag, if it is there.
    pub(crate) async fn untag(&self, name: &str) -> Result<(), BlobError> {
        let life = self.inner.living.checked().await?;
        let deleted = life.store.tags().delete(name).await;
        deleted.map(|_| ()).map_err(|error| self.request("untag", error))
    }

    /// The names that begin with `prefix`, and what they name.
    pub(crate) async fn tags(&self, prefix: &str) -> Result<Vec<(String, ObjectId)>, BlobError> {
        use n0_future::StreamExt;
        let mut found = Vec::new();
        let life = self.inner.living.checked().await?;
        let tags = life.store.tags().list_prefix(prefix).await.map_err(stopped)?;
        let mut tags = std::pin::pin!(tags);
        while let Some(tag) = tags.next().await {
            let tag = tag.map_err(|e| self.request("list tags", e.into()))?;
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = std::str::from_utf8(&tag.name.0) {
                found.push((name.to_owned(), ObjectId::from_bytes(*tag.hash.as_bytes())));
            }
        }
        Ok(found)
    }

    /// Removes what failed imports left, if none is under way: after a full disk that may be the
    /// very space that is missing.
    fn sweep_if_idle(&self) {
        let Ok(_all) = self.inner.permits.try_acquire_many(IMPORT_UNITS) else { return };
        if self.inner.unswept.swap(false, Ordering::AcqRel)
            && let Err(error) = sweep(&self.inner.root.join(TEMP))
        {
            tracing::warn!(%error, "cannot remove what failed imports left");
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> BlobError {
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            self.inner.space.full()
        } else {
            self.inner.living.suspect();
            BlobError::Io { what, source: Arc::new(source) }
        }
    }

    fn request(&self, what: &'static str, error: RequestError) -> BlobError {
        match error {
            RequestError::Inner { source: iroh_blobs::api::Error::Io(source), .. } => {
                self.io(what, source)
            }
            error => {
                self.inner.living.suspect();
                stopped(error)
            }
        }
    }
}

fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> BlobError {
    BlobError::Stopped { source: Arc::new(error) }
}
