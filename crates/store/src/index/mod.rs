//! The redb index: what each repo has, the states, the folder's base, and the store's own
//! records. One thread writes and lets callers share transactions; anyone reads.

mod disk;
mod tables;
mod writer;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use ark_core::{Link, ObjectId, ObjectKind, Summary};
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};

use crate::counters::Counts;
use crate::error::IndexError;
use crate::failpoint::Failpoints;
use crate::space::{COMMIT_RESERVE_BYTES, Space};

pub(crate) use disk::{Alarm, Health, damage, open_file};
pub(crate) use tables::{
    BASE, BASE_META, EQUIVOCATIONS, FORMAT_VERSION, ISSUED, LINKS, META, NODES, NodeKey, ObjectKey,
    ROOTS, Slot, StateKey, TOPICS, TopicNumber, base_key, clear_objects_and_states, create_tables,
    equivocation_key, id_in, issued_key, newest_format, node_key, number_topic, object_key,
    object_keys, state_key, state_keys, writer_in,
};
pub(crate) use tables::{OBJECTS, PENDING, STATES};
pub(crate) use writer::{Apply, Group, WeakWriter, Writer, with_result};

/// Any error of the database as the index's own.
pub(crate) fn database_error(error: impl Into<redb::Error>) -> IndexError {
    IndexError::Database(Arc::new(error.into()))
}

/// Conversions of redb's many error types, so that `?` works on all of them.
macro_rules! from_redb {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for IndexError {
            fn from(error: $error) -> Self {
                database_error(error)
            }
        })*
    };
}

from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::CursorError,
    redb::DatabaseError,
    redb::SetDurabilityError,
);

/// The open database, replaceable after it failed.
#[derive(Debug)]
pub(crate) struct Handle {
    path: PathBuf,
    cache_bytes: usize,
    space: Space,
    failpoints: Failpoints,
    alarm: Alarm,
    database: RwLock<Opened>,
}

/// Whether there is a database to ask.
#[derive(Debug)]
enum Opened {
    Open(Database),
    /// It failed and could not be opened again yet.
    Failed,
    /// The store was closed.
    Closed,
}

impl Handle {
    pub(crate) fn new(
        path: PathBuf,
        cache_bytes: usize,
        space: Space,
        failpoints: Failpoints,
        database: Database,
        alarm: Alarm,
    ) -> Self {
        let database = RwLock::new(Opened::Open(database));
        Self { path, cache_bytes, space, failpoints, alarm, database }
    }

    /// Does something with the database.
    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Opened::Open(database) => f(database),
            Opened::Failed => Err(IndexError::Unavailable),
            Opened::Closed => Err(IndexError::Closed),
        }
    }

    /// Whether a commit can be expected to find room: one that does not costs a reopening.
    fn check_space(&self) -> Result<(), IndexError> {
        self.space.check(COMMIT_RESERVE_BYTES).map_err(|available| IndexError::NoSpace {
            path: self.space.path().to_owned(),
            available,
        })
    }

    /// Closes and opens the file again if it failed since it was opened, when there had been
    /// `opened_at` failures: redb refuses everything after an IO error, although the file is as
    /// of its last commit.
    fn mend(&self, opened_at: &mut u64) -> Result<(), IndexError> {
        if self.alarm.is_lost() {
            return Err(IndexError::Unavailable);
        }
        if self.alarm.failures() == *opened_at {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Closed before it is opened: it has a lock.
        *database = Opened::Failed;
        let failures = self.alarm.failures();
        let (alarm, failpoints) = (self.alarm.clone(), self.failpoints.clone());
        let opened = open_file(&self.path, self.cache_bytes, alarm, failpoints);
        if let Some(damage) = opened.as_ref().err().and_then(damage) {
            self.alarm.give_up(damage);
        }
        *database = Opened::Open(opened?);
        *opened_at = failures;
        Ok(())
    }

    /// Closes the file for good.
    fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Opened::Closed;
    }
}

/// The index of an open store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    handle: Arc<Handle>,
    writer: Writer,
}

impl Index {
    pub(crate) fn new(handle: Arc<Handle>, writer: Writer) -> Self {
        Self { handle, writer }
    }

    /// The state of the last commit.
    pub(crate) fn view(&self) -> Result<View, IndexError> {
        self.handle.with(|database| View::new(&database.begin_read()?))
    }

    /// A read transaction, for tables that [`View`] has not.
    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, IndexError> {
        self.handle.with(|database| Ok(database.begin_read()?))
    }

    /// Hears of every failure from now on.
    pub(crate) fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        self.handle.alarm.listen()
    }

    /// The writing thread.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Runs `change` in a transaction that it may share with others, and waits until that is
    /// durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.writer.write(change).await
    }
}

impl Index {
    /// Runs `change` in some transaction to come. A failure is logged.
    pub(crate) async fn write_unheard(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), IndexError> + Send + 'static,
    ) {
        let mut group = Group::default();
        group.push(Box::new(change), tokio::sync::oneshot::channel().0);
        self.writer.submit(group).await;
    }
}

/// Starts the writing thread over an open database.
pub(crate) fn start(handle: Handle, counts: Arc<Counts>) -> std::io::Result<Index> {
    let handle = Arc::new(handle);
    let writer = Writer::start(Arc::clone(&handle), counts)?;
    Ok(Index::new(handle, writer))
}

/// What is indexed and pending as of one moment.
pub(crate) struct View {
    objects: ReadOnlyTable<&'static ObjectKey, &'static [u8]>,
    pending: ReadOnlyTable<&'static ObjectKey, ()>,
}

impl View {
    pub(crate) fn new(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        let objects = transaction.open_table(OBJECTS)?;
        let pending = transaction.open_table(PENDING)?;
        Ok(Self { objects, pending })
    }

    /// What is known of `link` if the repo has it indexed.
    pub(crate) fn summary(
        &self,
        topic: TopicNumber,
        link: Link,
    ) -> Result<Option<Summary>, IndexError> {
        match self.objects.get(&object_key(topic, link))? {
            Some(value) => summary_from(value.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Whether the repo has `link` indexed.
    pub(crate) fn is_indexed(&self, topic: TopicNumber, link: Link) -> Result<bool, IndexError> {
        Ok(self.objects.get(&object_key(topic, link))?.is_some())
    }

    /// Whether the repo has `link` pending.
    pub(crate) fn is_pending(&self, topic: TopicNumber, link: Link) -> Result<bool, IndexError> {
        Ok(self.pending.get(&object_key(topic, link))?.is_some())
    }

    /// The ids of this kind that the repo has indexed in a range, in order: the lowest, `limit` at
    /// most.
    pub(crate) fn ids(
        &self,
        topic: TopicNumber,
        kind: ObjectKind,
        range: &RangeInclusive<ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, IndexError> {
        let (first, _) = object_keys(topic, *range.start());
        let (_, last) = object_keys(topic, *range.end());
        let mut ids = Vec::new();
        if range.is_empty() {
            return Ok(ids);
        }
        for row in self.objects.range::<&ObjectKey>(&first..=&last)? {
            if ids.len() >= limit {
                break;
            }
            let row = row?;
            let (id, number) = id_in(row.0.value());
            if number == kind as u8 {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Whether the bytes of `id` are durable in the blob store for whichever repo, as whatever
    /// kind: an import would only write them again. Says nothing about what a repo has.
    pub(crate) fn is_stored(&self, topics: TopicNumber, id: ObjectId) -> Result<bool, IndexError> {
        for topic in 0..topics {
            let (first, last) = object_keys(topic, id);
            if self.objects.range::<&ObjectKey>(&first..=&last)?.next().transpose()?.is_some()
                || self.pending.range::<&ObjectKey>(&first..=&last)?.next().transpose()?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("View")
    }
}

fn summary_from(bytes: &[u8]) -> Result<Summary, IndexError> {
    Summary::from_bytes(bytes).ok_or(IndexError::Damaged { table: "objects" })
}

/// Records `objects` as indexed in the repo, and no longer pending. Returns those that were not
/// indexed before.
pub(crate) fn insert_objects(
    transaction: &redb::WriteTransaction,
    topic: TopicNumber,
    objects: &[(Link, Summary)],
) -> Result<Vec<Link>, IndexError> {
    let mut rows: Vec<(ObjectKey, usize)> =
        objects.iter().enumerate().map(|(at, (link, _))| (object_key(topic, *link), at)).collect();
    // In order of key, neighbours share pages: several times faster than as they came.
    rows.sort_unstable();
    let mut new = Vec::new();
    let mut table = transaction.open_table(OBJECTS)?;
    let mut pending = transaction.open_table(PENDING)?;
    for (key, at) in rows {
        let (link, summary) = &objects[at];
        if table.insert(&key, summary.to_bytes().as_slice())?.is_none() {
            new.push(*link);
            pending.remove(&key)?;
        }
    }
    Ok(new)
}

/// Records `links` as pending, but for those that are indexed. Returns how many are new.
pub(crate) fn insert_pending(
    transaction: &redb::WriteTransaction,
    topic: TopicNumber,
    links: &[Link],
) -> Result<usize, IndexError> {
    let mut keys: Vec<ObjectKey> = links.iter().map(|link| object_key(topic, *link)).collect();
    keys.sort_unstable();
    let objects = transaction.open_table(OBJECTS)?;
    let mut pending = transaction.open_table(PENDING)?;
    let mut new = 0;
    for key in keys {
        if objects.get(&key)?.is_none() && pending.insert(&key, ())?.is_none() {
            new += 1;
        }
    }
    Ok(new)
}

/// Takes `links` out of the pending table.
pub(crate) fn remove_pending(
    transaction: &redb::WriteTransaction,
    topic: TopicNumber,
    links: &[Link],
) -> Result<(), IndexError> {
    let mut pending = transaction.open_table(PENDING)?;
    for &link in links {
        pending.remove(&object_key(topic, link))?;
    }
    Ok(())
}
