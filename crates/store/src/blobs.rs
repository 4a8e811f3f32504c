//! The blob store under ark: imports that are written once, bounded and held by temporary tags,
//! the sync that makes them durable, and reads that are checked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ark_core::{Link, MAX_OBJECT_BYTES, Object, ObjectId};
use bytes::Bytes;
use iroh_blobs::api::{ExportBaoError, RequestError, TempTag};
use iroh_blobs::store::fs::{FsStore, options};
use iroh_blobs::{Hash, HashAndFormat};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::counters::{Counts, count};
use crate::error::{BlobError, OpenError, ReadError};
use crate::failpoint::Failpoints;
use crate::space::{IMPORT_RESERVE_BYTES, Space};

/// Bytes and outboards up to this size are kept inside `blobs.db`. With the default of 16 KiB
/// that database's cache, which cannot be bounded, grows to hundreds of megabytes.
const INLINE_BYTES: u64 = 1024;
/// The store's hash trees have a leaf for each so many bytes.
const OUTBOARD_LEAF_BYTES: u64 = 16 * 1024;
/// Bytes that one inner node of a hash tree takes.
const OUTBOARD_NODE_BYTES: u64 = 64;
/// Imports under way, in units of [`IMPORT_UNIT_BYTES`]: so many small objects at once are as
/// fast as the store gets, and of the largest sixteen make 64 MiB in memory.
const IMPORT_UNITS: u32 = 256;
/// An object takes one unit for each so many bytes it has.
const IMPORT_UNIT_BYTES: usize = 256 << 10;
/// So many new files are synced one by one; for more, the whole file system is cheaper.
const MAX_NAMED_SYNCS: usize = 32;
/// Files are synced on so many threads: what a journal needs to commit them together.
#[cfg(target_os = "linux")]
const SYNC_THREADS: usize = 7;
/// How long the files of an ended store of this process may take to be released.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is asked.
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// The blob store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: FsStore,
    root: PathBuf,
    space: Space,
    permits: Arc<Semaphore>,
    imports: Arc<Mutex<Imports>>,
    /// Tags set so far, and how many of those a sync has covered.
    tags_set: AtomicU64,
    tags_durable: AtomicU64,
    counts: Arc<Counts>,
    failpoints: Failpoints,
}

/// Imports that someone still holds, so that no two write the same file: the later would replace
/// the earlier's synced file by one that is not.
type Imports = HashMap<ObjectId, Weak<Import>>;

/// An object in the blob store, kept there while this is held.
#[derive(Debug)]
pub(crate) struct Import {
    id: ObjectId,
    length: u64,
    tag: OnceCell<Option<TempTag>>,
    durable: AtomicBool,
    imports: Weak<Mutex<Imports>>,
}

impl Import {
    /// The object's own file and its hash tree's, if they are not inside `blobs.db`.
    fn files(&self, data: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        let outboard = (self.length.div_ceil(OUTBOARD_LEAF_BYTES).max(1) - 1) * OUTBOARD_NODE_BYTES;
        let path = |suffix| data.join(format!("{}.{suffix}", self.id));
        let data = (self.length > INLINE_BYTES).then(|| path("data"));
        let outboard = (outboard > INLINE_BYTES).then(|| path("obao4"));
        data.into_iter().chain(outboard)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let Some(imports) = self.imports.upgrade() else { return };
        let mut imports = imports.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone may have begun anew since the last holder let go.
        if imports.get(&self.id).is_some_and(|import| import.strong_count() == 0) {
            imports.remove(&self.id);
        }
    }
}

impl Blobs {
    /// Opens or makes the blob store in `root`, whose lock the caller holds.
    pub(crate) async fn open(
        root: &Path,
        counts: Arc<Counts>,
        failpoints: Failpoints,
    ) -> Result<Self, OpenError> {
        let path_error = |source| OpenError::Path { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(path_error)?;
        wait_for_release(&root.join(DATABASE)).await;
        let mut options = options::Options::new(root);
        options.inline = options::InlineOptions {
            max_data_inlined: INLINE_BYTES,
            max_outboard_inlined: INLINE_BYTES,
        };
        sweep(&root.join(TEMP)).map_err(path_error)?;
        let store = FsStore::load_with_opts(root.join(DATABASE), options).await.map_err(|e| {
            OpenError::Blobs { path: root.to_owned(), source: format!("{e:#}").into() }
        })?;
        let inner = Inner {
            store,
            root: root.to_owned(),
            space: Space::new(root),
            permits: Arc::new(Semaphore::new(IMPORT_UNITS as usize)),
            imports: Arc::default(),
            tags_set: AtomicU64::new(0),
            tags_durable: AtomicU64::new(0),
            counts,
            failpoints,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends the blob store after all that was given to it.
    pub(crate) async fn close(&self) -> Result<(), BlobError> {
        self.inner.store.sync_db().await.map_err(stopped)?;
        self.inner.store.shutdown().await.map_err(stopped)
    }

    /// Takes an object on: the returned import is to be [run](Blobs::import).
    pub(crate) fn register(&self, object: &Object) -> Arc<Import> {
        let mut imports = self.inner.imports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(import) = imports.get(&object.id()).and_then(Weak::upgrade) {
            return import;
        }
        let import = Arc::new(Import {
            id: object.id(),
            length: object.bytes().len() as u64,
            tag: OnceCell::new(),
            durable: AtomicBool::new(false),
            imports: Arc::downgrade(&self.inner.imports),
        });
        imports.insert(object.id(), Arc::downgrade(&import));
        import
    }

    /// Waits until so many bytes may be imported.
    pub(crate) async fn permit(&self, length: usize) -> Result<OwnedSemaphorePermit, BlobError> {
        let units = length.div_ceil(IMPORT_UNIT_BYTES).clamp(1, IMPORT_UNITS as usize);
        let units = u32::try_from(units).unwrap_or(IMPORT_UNITS);
        Arc::clone(&self.inner.permits).acquire_many_owned(units).await.map_err(stopped)
    }

    /// Marks an import whose bytes are durable already: there is nothing to write.
    pub(crate) fn skip(import: &Import) {
        // A set cell stays as it is: then another wrote the bytes, and knows of their durability.
        if import.tag.set(None).is_ok() {
            import.durable.store(true, Ordering::Release);
        }
    }

    /// Writes the object, once, whoever asks. On return the blob store has it, not durably.
    pub(crate) async fn import(&self, import: &Import, object: Object) -> Result<(), BlobError> {
        import
            .tag
            .get_or_try_init(|| async {
                let result = self.write(object).await;
                if result.is_err() {
                    self.sweep_if_idle();
                }
                result.map(Some)
            })
            .await
            .map(|_| ())
    }

    async fn write(&self, object: Object) -> Result<TempTag, BlobError> {
        let inner = &self.inner;
        let (link, length) = (object.link(), object.bytes().len());
        if inner.space.check(length as u64 + IMPORT_RESERVE_BYTES).is_err() {
            return Err(inner.space.full());
        }
        inner.failpoints.hit("import").map_err(|e| self.io("import", e))?;
        // Awaiting the import itself would leave a permanent tag.
        let added = inner.store.blobs().add_bytes(object.into_bytes()).temp_tag().await;
        let tag = added.map_err(|error| self.request("import", error))?;
        if tag.hash().as_bytes() != link.id.as_bytes() {
            return Err(BlobError::Hash { link });
        }
        count(&inner.counts.imports, 1);
        count(&inner.counts.import_bytes, length);
        Ok(tag)
    }

    /// Makes imports durable, and, if `tagged`, all tags set before.
    pub(crate) async fn sync(
        &self,
        imports: &[Arc<Import>],
        tagged: bool,
    ) -> Result<(), BlobError> {
        let data = self.inner.root.join(DATA);
        let new: Vec<_> =
            imports.iter().filter(|import| !import.durable.load(Ordering::Acquire)).collect();
        if new.is_empty() && !tagged {
            return Ok(());
        }
        let files: Vec<PathBuf> = new.iter().flat_map(|import| import.files(&data)).collect();
        // Neither needs the other: what counts is that both end before the index commits.
        let (database, files) = tokio::join!(self.sync_database(), self.sync_files(data, files));
        database?;
        files?;
        for import in new {
            import.durable.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes everything durable that was ever given to the blob store.
    pub(crate) async fn sync_all(&self) -> Result<(), BlobError> {
        self.sync_database().await?;
        count(&self.inner.counts.syncfs, 1);
        let data = self.inner.root.join(DATA);
        blocking(move || sync_everything(&data)).await.map_err(|e| self.io("sync", e))
    }

    async fn sync_database(&self) -> Result<(), BlobError> {
        self.inner.failpoints.hit("sync-db").map_err(|e| self.io("sync", e))?;
        count(&self.inner.counts.blob_syncs, 1);
        let set = self.inner.tags_set.load(Ordering::Acquire);
        self.inner.store.sync_db().await.map_err(|error| self.request("sync", error))?;
        self.inner.tags_durable.fetch_max(set, Ordering::AcqRel);
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
        blocking(move || sync_to_disk(&data, files)).await.map_err(|e| self.io("sync", e))
    }

    /// Tags an object under a permanent name. Durable after the next [`Blobs::sync`]; the number
    /// asks [`Blobs::is_tag_durable`] whether there was one.
    pub(crate) async fn tag(
        &self,
        name: &str,
        object: Object,
    ) -> Result<(Arc<Import>, u64), BlobError> {
        let id = object.id();
        let import = self.register(&object);
        self.import(&import, object).await?;
        let value = HashAndFormat::raw(Hash::from_bytes(*id.as_bytes()));
        let set = self.inner.store.tags().set(name, value).await;
        set.map_err(|error| self.request("tag", error))?;
        Ok((import, self.inner.tags_set.fetch_add(1, Ordering::AcqRel) + 1))
    }

    /// Whether a tag became durable since it was set.
    pub(crate) fn is_tag_durable(&self, number: u64) -> bool {
        self.inner.tags_durable.load(Ordering::Acquire) >= number
    }

    /// Removes the tags whose names begin with `prefix`.
    pub(crate) async fn untag_all(&self, prefix: &str) -> Result<(), BlobError> {
        let deleted = self.inner.store.tags().delete_prefix(prefix).await;
        deleted.map(|_| ()).map_err(|error| self.request("untag", error))
    }

    /// Removes a tag, if it is there.
    pub(crate) async fn untag(&self, name: &str) -> Result<(), BlobError> {
        let deleted = self.inner.store.tags().delete(name).await;
        deleted.map(|_| ()).map_err(|error| self.request("untag", error))
    }

    /// The names that begin with `prefix`, and what they name.
    pub(crate) async fn tags(&self, prefix: &str) -> Result<Vec<(String, ObjectId)>, BlobError> {
        use n0_future::StreamExt;
        let mut found = Vec::new();
        let tags = self.inner.store.tags().list_prefix(prefix).await.map_err(stopped)?;
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

    /// The bytes of an object that is recorded as being here, checked against its id. Blocking.
    pub(crate) fn read_blocking(
        &self,
        runtime: &tokio::runtime::Handle,
        link: Link,
    ) -> Result<Bytes, ReadError> {
        match self.read_file(link)? {
            Some(bytes) => Ok(bytes),
            None => runtime.block_on(self.read_blob(link)),
        }
    }

    /// As [`Blobs::read_blocking`], from async code.
    pub(crate) async fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        let blobs = self.clone();
        let read = tokio::task::spawn_blocking(move || blobs.read_file(link)).await;
        match read.map_err(|e| ReadError::Blob { link, source: stopped(e) })?? {
            Some(bytes) => Ok(bytes),
            None => self.read_blob(link).await,
        }
    }

    /// Reads the object's own file, several times faster than by way of the store's messages.
    /// `None`: it has none, or not these bytes; the store is to be asked.
    fn read_file(&self, link: Link) -> Result<Option<Bytes>, ReadError> {
        use io::Read;
        let path = self.inner.root.join(DATA).join(format!("{}.data", link.id));
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(ReadError::Blob { link, source: self.io("read", error) });
            }
        };
        count(&self.inner.counts.blob_reads, 1);
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let bound = MAX_OBJECT_BYTES as u64;
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(bound)).unwrap_or(0));
        let read = file.by_ref().take(bound + 1).read_to_end(&mut bytes);
        read.map_err(|e| ReadError::Blob { link, source: self.io("read", e) })?;
        Ok((ObjectId::of(&bytes) == link.id).then(|| bytes.into()))
    }

    /// Reads by way of the store, which checks the bytes against their hash.
    async fn read_blob(&self, link: Link) -> Result<Bytes, ReadError> {
        count(&self.inner.counts.blob_reads, 1);
        let hash = Hash::from_bytes(*link.id.as_bytes());
        let damaged = |reason: String| Err(ReadError::Damaged { link, reason });
        let error = match self.inner.store.blobs().get_bytes(hash).await {
            Ok(bytes) if bytes.is_empty() && hash != Hash::EMPTY => {
                return damaged("it has no bytes".into());
            }
            Ok(bytes) => return Ok(bytes),
            Err(ExportBaoError::ExportBaoInner { source, .. }) => io::Error::from(source),
            Err(ExportBaoError::ExportBaoIo { source, .. }) => source,
            Err(error) => return Err(ReadError::Blob { link, source: stopped(error) }),
        };
        match error.kind() {
            io::ErrorKind::NotFound => damaged("its bytes are gone".into()),
            // What the operating system did not say is the store's verdict on the bytes.
            _ if error.raw_os_error().is_none() => damaged(error.to_string()),
            _ => Err(ReadError::Blob { link, source: self.io("read", error) }),
        }
    }

    /// Removes half-written files when no import is under way: after a full disk they would
    /// hold the space that is missing.
    fn sweep_if_idle(&self) {
        // The failed import holds its own permit; that file is its own leftover.
        let free = self.inner.permits.available_permits() + IMPORT_UNITS as usize / 16;
        if free >= IMPORT_UNITS as usize {
            drop(sweep(&self.inner.root.join(TEMP)));
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> BlobError {
        if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded
        {
            self.inner.space.full()
        } else {
            BlobError::Io { what, source: Arc::new(source) }
        }
    }

    fn request(&self, what: &'static str, error: RequestError) -> BlobError {
        match error {
            RequestError::Inner { source: iroh_blobs::api::Error::Io(source), .. } => {
                self.io(what, source)
            }
            error => stopped(error),
        }
    }
}

/// File and directory names of the store below, as it lays them out.
const DATABASE: &str = "blobs.db";
const DATA: &str = "data";
const TEMP: &str = "temp";

fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> BlobError {
    BlobError::Stopped { source: Arc::new(error) }
}

/// Runs `f` where blocking is allowed; a panic in it becomes an error.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(io::Error::other)?
}

/// Syncs new files and the directory that names them, or the whole file system.
#[cfg(target_os = "linux")]
fn sync_to_disk(data: &Path, files: Vec<PathBuf>) -> io::Result<()> {
    if files.len() > MAX_NAMED_SYNCS {
        return sync_everything(data);
    }
    sync_named(&files)?;
    File::open(data)?.sync_all()
}

/// Syncs the whole file system that `data` is on.
#[cfg(target_os = "linux")]
fn sync_everything(data: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(data)?)?;
    Ok(())
}

/// Hands everything to the drives, then tells the one that `data` is on to keep it.
#[cfg(not(target_os = "linux"))]
fn sync_everything(data: &Path) -> io::Result<()> {
    rustix::fs::sync();
    File::open(data)?.sync_all()
}

/// Syncs new files and the directory that names them. Each file is handed to the drive, then the
/// drive is told once to keep what it has (`F_FULLFSYNC`, which is what `sync_all` asks for).
#[cfg(not(target_os = "linux"))]
fn sync_to_disk(data: &Path, files: Vec<PathBuf>) -> io::Result<()> {
    for file in files {
        rustix::fs::fsync(File::open(file)?)?;
    }
    File::open(data)?.sync_all()
}

/// Syncs files side by side, so that the file system's journal commits fewer times.
#[cfg(target_os = "linux")]
fn sync_named(files: &[PathBuf]) -> io::Result<()> {
    let sync = |path: &PathBuf| File::open(path)?.sync_all();
    let Some((first, rest)) = files.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let threads: Vec<_> = rest
            .chunks(rest.len().div_ceil(SYNC_THREADS).max(1))
            .map(|chunk| scope.spawn(move || chunk.iter().try_for_each(sync)))
            .collect();
        let mut outcome = sync(first);
        for thread in threads {
            let joined = thread.join().unwrap_or_else(|_| Err(io::Error::other("sync panicked")));
            outcome = outcome.and(joined);
        }
        outcome
    })
}

/// Removes what imports left unfinished: the store below never does.
fn sweep(temp: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(temp) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "temp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Waits until an ended store of this process has let go of its database, which happens on
/// threads of its own. The caller holds the lock that keeps other processes out.
async fn wait_for_release(database: &Path) {
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        match redb::ReadOnlyDatabase::open(database) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                tokio::time::sleep(RELEASE_POLL).await;
            }
            _ => return,
        }
    }
}
