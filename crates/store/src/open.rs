//! Opening a store: its lock, its databases, whose life it goes on with, and what a crash left.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use ark_core::{DeviceId, Object, ObjectKind, SignedState, TopicId};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError};

use crate::barrier::Barrier;
use crate::blobs::Blobs;
use crate::counters::Counts;
use crate::create;
use crate::error::{IndexError, OpenError};
use crate::failpoint::Failpoints;
use crate::index::{self, FORMAT_VERSION, ISSUED, Index, STATES, TOPICS, TopicNumber, issued_key};
use crate::mend;
use crate::rebuild::{self, Rebuilt};
use crate::rollback::{FileIdentity, Record, Witness, draw_incarnation, draw_token};
use crate::space::Space;
use crate::states::StateRow;
use crate::store::{Inner, NewIncarnation, Options, Recovery, Store};
use crate::tags::{self, StateTag};

const LOCK: &str = "lock";
const INDEX: &str = "index.redb";
/// Where an index that cannot be opened is put, for whoever wants to look at it.
const DAMAGED_INDEX: &str = "index.redb.damaged";
const BLOBS: &str = "blobs";
/// How long the index of an ended store of this process may take to be released.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is asked.
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// Opens the store.
pub(crate) async fn open(options: Options, failpoints: Failpoints) -> Result<Store, OpenError> {
    let device = DeviceId::from_bytes(options.signing_key.verifying_key().to_bytes());
    make_directory(&options.path, false)?;
    make_directory(&options.witness_dir, true)?;
    let lock = take_lock(&options.path)?;
    let counts = Arc::new(Counts::default());
    let index_path = options.path.join(INDEX);
    let OpenIndex { database, alarm, record } =
        open_index(&options.path, &index_path, options.index_cache_bytes, &failpoints).await?;
    let blobs =
        Blobs::open(&options.path.join(BLOBS), Arc::clone(&counts), failpoints.clone()).await?;
    let space = Space::new(&options.path);
    let handle = index::Handle::new(
        index_path.clone(),
        options.index_cache_bytes,
        space,
        failpoints.clone(),
        database,
        alarm,
    );
    let index = index::start(handle, Arc::clone(&counts))
        .map_err(|source| path_error(&options.path, source))?;

    let witness = Witness::read(&options.witness_dir, device)
        .map_err(|source| path_error(&options.witness_dir, source))?;
    let file = FileIdentity::of(&index_path).map_err(|source| path_error(&index_path, source))?;
    let judged = record.judge(device, file, &witness);
    // Without a record of an incarnation the index is new, or its rebuild did not end.
    let rebuilt = match record.incarnation {
        None => rebuild::rebuild(device, &blobs, &index, &failpoints).await?,
        Some(_) => None,
    };
    let (incarnation, recovery) = match (judged, rebuilt) {
        (_, Some(Rebuilt { joined, staged, objects })) => {
            (draw_incarnation(), Recovery::Rebuilt { joined, staged, objects })
        }
        (Ok(incarnation), None) => (incarnation, Recovery::Same),
        (Err(why), None) => (draw_incarnation(), Recovery::NewIncarnation { why }),
    };
    let mut inner = Inner {
        device,
        key: options.signing_key,
        barrier: Barrier::start(blobs.clone(), index.writer().clone(), failpoints.clone()),
        blobs,
        index,
        cache: crate::cache::Cache::default(),
        counts,
        failpoints,
        runtime: tokio::runtime::Handle::current(),
        topics: AtomicU32::new(0),
        incarnation: incarnation.into(),
        renewal: tokio::sync::Mutex::default(),
        repos: std::sync::Mutex::default(),
        issued: std::sync::Mutex::default(),
        opening: tokio::sync::Mutex::default(),
        foreign: std::sync::Mutex::default(),
        key_elsewhere: AtomicBool::new(false),
        recovery,
        lock,
    };
    reconcile(&mut inner).await?;
    let incarnation = inner.incarnation();
    let token = draw_token();
    let last = witness.clone();
    let renewed = inner.index.write(move |transaction| {
        Record::renew(transaction, device, incarnation, file, &last, &token)
    });
    renewed.await?;
    hit(&inner, "witness", &options.witness_dir)?;
    witness.renew(&token).map_err(|source| path_error(&options.witness_dir, source))?;
    tracing::info!(%device, recovery = ?inner.recovery, "store opened");
    let inner = Arc::new(inner);
    mend::start(&inner);
    Ok(Store { inner })
}

fn path_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Path { path: path.to_owned(), source }
}

fn hit(inner: &Inner, name: &'static str, path: &Path) -> Result<(), OpenError> {
    inner.failpoints.hit(name).map_err(|source| path_error(path, source))
}

/// Makes a directory for this user alone; with its parents only where asked, because a store
/// whose parent is missing is more likely a disk that is not mounted.
fn make_directory(path: &Path, parents: bool) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().recursive(parents).mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        outcome => outcome.map_err(|source| path_error(path, source)),
    }
}

fn take_lock(store: &Path) -> Result<File, OpenError> {
    let path = store.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| path_error(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: store.to_owned() }),
        Err(TryLockError::Error(source)) => Err(path_error(&path, source)),
    }
}

/// The index, and what it says of itself: nothing where it was made.
struct OpenIndex {
    database: Database,
    alarm: index::Alarm,
    record: Record,
}

/// Opens the index, or makes a new one where it is missing or damaged.
async fn open_index(
    store: &Path,
    path: &Path,
    cache_bytes: usize,
    failpoints: &Failpoints,
) -> Result<OpenIndex, OpenError> {
    if let Some(opened) = try_open_index(store, path, cache_bytes, failpoints).await? {
        return Ok(opened);
    }
    let aside = store.join(DAMAGED_INDEX);
    tracing::error!(?path, ?aside, "the index is damaged; put aside and made anew");
    fs::rename(path, &aside).map_err(|source| path_error(path, source))?;
    let opened = try_open_index(store, path, cache_bytes, failpoints).await?;
    opened.ok_or_else(|| path_error(path, io::Error::other("a new index is damaged")))
}

/// `None`: the file is damaged.
async fn try_open_index(
    store: &Path,
    path: &Path,
    cache_bytes: usize,
    failpoints: &Failpoints,
) -> Result<Option<OpenIndex>, OpenError> {
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    loop {
        let (owned, path_of_store) = (path.to_owned(), store.to_owned());
        let failpoints = failpoints.clone();
        let opened = tokio::task::spawn_blocking(move || {
            create::database(&owned, || failpoints.hit("index-made"))
                .map_err(|source| Unopened::Error(path_error(&owned, source)))?;
            read_index(&path_of_store, &owned, cache_bytes, failpoints)
        });
        return match opened.await {
            Ok(Err(Unopened::InUse)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(RELEASE_POLL).await;
                continue;
            }
            Ok(Err(Unopened::InUse)) => Err(OpenError::Locked { path: store.to_owned() }),
            Ok(Ok(opened)) => Ok(Some(opened)),
            Ok(Err(Unopened::Error(error))) => Err(error),
            Ok(Err(Unopened::Damaged(reason))) => {
                tracing::error!(?path, reason, "cannot open the index");
                Ok(None)
            }
            // redb has panicked on files cut short by a full disk (its issue 620).
            Err(error) if error.is_panic() => Ok(None),
            Err(error) => Err(path_error(path, io::Error::other(error))),
        };
    }
}

enum Unopened {
    /// By a store of this process that is ending: the lock is held here.
    InUse,
    Damaged(String),
    Error(OpenError),
}

impl From<IndexError> for Unopened {
    fn from(error: IndexError) -> Self {
        match &error {
            IndexError::Damaged { .. } => Self::Damaged(error.to_string()),
            IndexError::Database(cause) => match &**cause {
                redb::Error::Corrupted(reason) => Self::Damaged(reason.clone()),
                redb::Error::TableTypeMismatch { .. } => Self::Damaged(cause.to_string()),
                _ => Self::Error(error.into()),
            },
            _ => Self::Error(error.into()),
        }
    }
}

fn read_index(
    store: &Path,
    path: &Path,
    cache_bytes: usize,
    failpoints: Failpoints,
) -> Result<OpenIndex, Unopened> {
    let alarm = index::Alarm::default();
    let database = index::open_file(path, cache_bytes, alarm.clone(), failpoints);
    let database = database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Unopened::InUse,
        error => match (index::damage(&error), error) {
            (Some(damage), _) => Unopened::Damaged(damage),
            (None, DatabaseError::Storage(StorageError::Io(source))) => {
                Unopened::Error(path_error(path, source))
            }
            (None, error) => Unopened::Error(IndexError::from(error).into()),
        },
    })?;
    let read = database.begin_read().map_err(IndexError::from)?;
    if let Some(found) = index::newest_format(&read)?.filter(|&found| found > FORMAT_VERSION) {
        let path = store.to_owned();
        let known = FORMAT_VERSION;
        return Err(Unopened::Error(OpenError::NewerFormat { path, found, known }));
    }
    drop(read);
    let write = database.begin_write().map_err(IndexError::from)?;
    index::create_tables(&write)?;
    write.commit().map_err(IndexError::from)?;
    let record = Record::read(&database.begin_read().map_err(IndexError::from)?)?;
    Ok(OpenIndex { database, alarm, record })
}

/// Brings tags and index together after whatever ended the last run: a state that was tagged and
/// not committed was never told; its revision and sequence are burnt, its tag goes.
async fn reconcile(inner: &mut Inner) -> Result<(), OpenError> {
    let topics = topics(&inner.index)?;
    let next = topics.values().map(|&number| number + 1).max().unwrap_or(0);
    inner.topics = AtomicU32::new(next);
    let mut known = known_states(&inner.index)?;
    let mut burnt = Vec::new();
    let mut unknown_repo = false;
    let rebuilt = matches!(inner.recovery, Recovery::Rebuilt { .. });
    for (name, _) in inner.blobs.tags(tags::PREFIX).await? {
        let Some(tag) = StateTag::parse(&name) else { continue };
        if known.remove(&tag.hash).is_some() || rebuilt {
            continue;
        }
        if tag.writer == inner.writer() {
            match topics.get(&tag.topic) {
                Some(&number) => burnt.push((number, tag)),
                None => unknown_repo = true,
            }
        }
        inner.blobs.untag(&name).await?;
    }
    // Tags that were not durable when their states were committed.
    for state in known.into_values() {
        let object = Object::new(ObjectKind::Raw, state.bytes().clone());
        inner.blobs.tag(&StateTag::of(&state).name(), object).await?;
    }
    if unknown_repo {
        inner.incarnation = draw_incarnation().into();
        inner.recovery = Recovery::NewIncarnation { why: NewIncarnation::UnknownRepo };
    }
    if !burnt.is_empty() {
        inner.index.write(move |transaction| burn(transaction, &burnt)).await?;
    }
    Ok(())
}

fn topics(index: &Index) -> Result<HashMap<TopicId, TopicNumber>, IndexError> {
    let read = index.begin_read()?;
    let mut topics = HashMap::new();
    for row in read.open_table(TOPICS)?.iter()? {
        let (topic, value) = row?;
        topics.insert(TopicId::from_bytes(*topic.value()), value.value().0);
    }
    Ok(topics)
}

/// The states in the index by hash.
fn known_states(index: &Index) -> Result<HashMap<ark_core::ObjectId, SignedState>, IndexError> {
    let read = index.begin_read()?;
    let mut known = HashMap::new();
    for row in read.open_table(STATES)?.iter()? {
        let (key, value) = row?;
        let row = StateRow::read(key.value(), value.value())?;
        known.insert(row.state.hash(), row.state);
    }
    Ok(known)
}

/// Takes revisions and sequences as issued that may have been signed.
fn burn(
    transaction: &redb::WriteTransaction,
    burnt: &[(TopicNumber, StateTag)],
) -> Result<(), IndexError> {
    let mut table = transaction.open_table(ISSUED)?;
    for (number, tag) in burnt {
        tracing::warn!(writer = %tag.writer, revision = tag.revision, "burning a lost revision");
        let key = issued_key(*number, tag.writer);
        let (revision, sequence) = table.get(&key)?.map_or((0, 0), |value| value.value());
        table.insert(&key, (revision.max(tag.revision), sequence.max(tag.sequence)))?;
    }
    Ok(())
}
