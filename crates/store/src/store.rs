//! The store of a device: its options, its life, and the repos in it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use ark_core::{DeviceId, Incarnation, RepoKind, TopicId, Writer};
use ed25519_dalek::SigningKey;

use crate::barrier::Barrier;
use crate::blobs::Blobs;
use crate::cache::Cache;
use crate::counters::{Counters, Counts};
use crate::error::{BlobError, IndexError, OpenError, RepoError};
use crate::failpoint::Failpoints;
use crate::index::{Index, TopicNumber};
use crate::repo::{Issued, Repo, RepoInner};
use crate::rollback::{draw_incarnation, fork};
use crate::states::Change;

/// The index keeps this many bytes of its file in memory unless told otherwise; the system's cache
/// of files has the rest. Measured with 20,000 files: with eight times as much a daemon at rest is
/// 8 to 13 MB larger, and a first copy takes no less processor time and writes 3 % less.
pub const DEFAULT_INDEX_CACHE_BYTES: usize = 4 << 20;
/// So many revisions by which another incarnation of this device grows in a repo, within one run,
/// and the key is taken to be running elsewhere. A store restored from a backup sees its earlier
/// incarnations grow a little, too, where each peer shows a later state than the one before.
const KEY_ELSEWHERE_GROWTHS: u32 = 64;
/// Other incarnations of this device whose growth is followed: far more than are admitted.
const MAX_FOREIGN: usize = 4096;
/// Incarnations taken within one run because of states with this device's own signature: one
/// where a machine image was rolled back. Where more are shown the key is running elsewhere; each
/// costs every device of the repo a writer for good.
const MAX_RENEWALS: usize = 4;

/// Where a store is and whose it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; created if its parent exists.
    pub path: PathBuf,
    /// Where the witness is kept: a directory outside the store, so that a copy of the store put
    /// back is noticed. Created with its parents.
    pub witness_dir: PathBuf,
    /// The device's key, which signs its states.
    pub signing_key: SigningKey,
    /// Bytes of the index kept in memory, see [`DEFAULT_INDEX_CACHE_BYTES`].
    pub index_cache_bytes: usize,
}

/// What opening the store found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// The store that was last open: its incarnation goes on.
    Same,
    /// A new incarnation.
    NewIncarnation {
        /// Why.
        why: NewIncarnation,
    },
    /// The index was lost or could not be opened, and was made anew from the signed states and
    /// the blobs. Also a new incarnation.
    Rebuilt {
        /// States that were found whole and joined.
        joined: usize,
        /// States whose closure is not whole here.
        staged: usize,
        /// Objects indexed.
        objects: usize,
    },
}

/// Why a new incarnation was taken when the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NewIncarnation {
    /// A new store.
    NewStore,
    /// The witness is missing.
    NoWitness,
    /// The witness speaks of another opening than the index: one of them was put back.
    OtherToken,
    /// The index is another file than it was: the store was copied.
    OtherFile,
    /// The key of the device is another.
    OtherDevice,
    /// A state of this device was found in a repo that the index does not know.
    UnknownRepo,
}

/// The store of a device. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// An incarnation of this device in a repo that is not the living one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign {
    /// Its newest revision seen.
    revision: u64,
    /// How often a newer one came since the first.
    growths: u32,
}

/// What the store and its repos share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) device: DeviceId,
    pub(crate) key: SigningKey,
    pub(crate) blobs: Blobs,
    pub(crate) index: Index,
    pub(crate) barrier: Barrier,
    pub(crate) cache: Cache,
    pub(crate) counts: Arc<Counts>,
    pub(crate) failpoints: Failpoints,
    pub(crate) runtime: tokio::runtime::Handle,
    /// How many topics have numbers: those below.
    pub(crate) topics: AtomicU32,
    /// The living incarnation.
    pub(crate) incarnation: RwLock<Incarnation>,
    /// The devices whose states made this one take a new incarnation in this run. Held while one
    /// is taken.
    pub(crate) renewal: tokio::sync::Mutex<Vec<DeviceId>>,
    /// Open repos. Weak: a repo holds the store.
    pub(crate) repos: Mutex<HashMap<TopicId, Weak<RepoInner>>>,
    /// What each repo issued or burnt in this run: kept although nobody holds the repo open.
    pub(crate) issued: Mutex<HashMap<TopicId, Arc<Mutex<Issued>>>>,
    /// Held while a repo is opened, so that it is opened once.
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// How other incarnations of this device grow.
    pub(crate) foreign: Mutex<HashMap<(TopicNumber, Writer), Foreign>>,
    pub(crate) key_elsewhere: AtomicBool,
    pub(crate) recovery: Recovery,
    /// Keeps other processes out. Given back with the last handle of the store, which may be
    /// before its threads have ended: the databases have locks of their own, which an opener of
    /// this process or another waits for.
    pub(crate) lock: std::fs::File,
}

impl Store {
    /// Opens the store, or makes it; decides whether the incarnation goes on; rebuilds a lost
    /// index.
    ///
    /// # Errors
    /// It is in use, of a newer format, or its files cannot be read.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        crate::open::open(options, Failpoints::default()).await
    }

    /// As [`Store::open`], with a hook that is called at named places of the durability barrier
    /// and may fail or end the process: `import`, `publish`, `tagged`, `sync-db`, `sync-files`,
    /// `index`, `index-commit`, `index-durable`, `committed`, `trie`, `trie-part`, `witness`,
    /// `rebuild`; and under the index's database `index-read`, `index-write`, `index-sync`.
    ///
    /// # Errors
    /// As [`Store::open`].
    #[cfg(feature = "failpoints")]
    pub async fn open_with_failpoints(
        options: Options,
        hook: crate::failpoint::FailpointHook,
    ) -> Result<Self, OpenError> {
        crate::open::open(options, Failpoints { hook: Some(hook) }).await
    }

    /// Ends the blob store below as a failure of its database does.
    #[cfg(feature = "failpoints")]
    pub async fn kill_blobs(&self) {
        self.inner.blobs.kill().await;
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.inner.device
    }

    /// The incarnation of now.
    pub fn incarnation(&self) -> Incarnation {
        self.inner.incarnation()
    }

    /// What opening found.
    pub fn recovered(&self) -> Recovery {
        self.inner.recovery.clone()
    }

    /// Whether this device's key keeps writing on another machine: nothing is published any more
    /// until the store is opened again.
    pub fn key_in_use_elsewhere(&self) -> bool {
        self.inner.key_elsewhere.load(Ordering::Relaxed)
    }

    /// Returns, with the reason, when the index has failed in a way that only a new opening of the
    /// store may mend: nothing is written any more, and the process had better end.
    pub async fn lost(&self) -> String {
        let mut health = self.inner.index.health();
        let lost = health.wait_for(|health| health.lost.is_some()).await;
        match lost.ok().and_then(|health| health.lost.clone()) {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// The repo `topic`, made if it is not there, as one of this kind.
    ///
    /// # Errors
    /// It is of another kind, or the index failed.
    pub async fn repo(&self, topic: TopicId, kind: RepoKind) -> Result<Repo, RepoError> {
        let repo = self.open_or_make(topic).await?;
        repo.decide(kind).map_err(|found| RepoError::OtherKind { found, asked: kind })?;
        Ok(Repo { inner: repo })
    }

    /// The repo `topic`, made if it is not there, as whatever it is: of the kind of the states that
    /// are joined in it. Where there are none, the first that is joined or published decides.
    ///
    /// # Errors
    /// The index failed.
    pub async fn held(&self, topic: TopicId) -> Result<Repo, RepoError> {
        Ok(Repo { inner: self.open_or_make(topic).await? })
    }

    async fn open_or_make(&self, topic: TopicId) -> Result<Arc<RepoInner>, RepoError> {
        let _opening = self.inner.opening.lock().await;
        if let Some(repo) = self.inner.open_repo(topic) {
            return Ok(repo);
        }
        let repo = RepoInner::open(Arc::clone(&self.inner), topic).await?;
        self.inner.repos().insert(topic, Arc::downgrade(&repo));
        Ok(repo)
    }

    /// Counts since it was opened.
    pub fn counters(&self) -> Counters {
        self.inner.counts.snapshot()
    }

    /// Ends the store cleanly, after what was given to it before; other clones are dead after
    /// this. The files are released when it returns.
    ///
    /// # Errors
    /// What nobody was told of may not have become durable.
    pub async fn close(self) -> Result<(), BlobError> {
        self.inner.barrier.close().await;
        self.inner.index.writer().close().await;
        let closed = self.inner.blobs.close().await;
        // Repos and readers that are still held must not keep an opener out.
        if let Err(error) = self.inner.lock.unlock() {
            tracing::warn!(%error, "the store's lock is held until the process ends");
        }
        closed
    }
}

impl Inner {
    pub(crate) fn incarnation(&self) -> Incarnation {
        *self.incarnation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// This device as a writer, now.
    pub(crate) fn writer(&self) -> Writer {
        Writer { device: self.device, incarnation: self.incarnation() }
    }

    pub(crate) fn repos(&self) -> std::sync::MutexGuard<'_, HashMap<TopicId, Weak<RepoInner>>> {
        self.repos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_repo(&self, topic: TopicId) -> Option<Arc<RepoInner>> {
        self.repos().get(&topic).and_then(Weak::upgrade)
    }

    /// Takes a new incarnation in place of `old`, durably, and tells every open repo. If `old`
    /// is not the living one, another did it meanwhile. `by`: whose state shows that it is due.
    /// `false`: its states did so too often. Of another device that is its word alone, once; of
    /// this one it is its signature, and then nothing is published any more.
    pub(crate) async fn renew_incarnation(
        &self,
        old: Writer,
        by: DeviceId,
    ) -> Result<bool, IndexError> {
        let mut renewals = self.renewal.lock().await;
        if self.writer() != old {
            return Ok(true);
        }
        let before = renewals.iter().filter(|device| **device == by).count();
        if by == self.device && before >= MAX_RENEWALS {
            self.stop_publishing(old);
            return Ok(false);
        }
        if by != self.device && before > 0 {
            return Ok(false);
        }
        let incarnation = draw_incarnation();
        let renewed =
            self.index.write(move |transaction| fork(transaction, old.incarnation, incarnation));
        renewed.await?;
        renewals.push(by);
        *self.incarnation.write().unwrap_or_else(PoisonError::into_inner) = incarnation;
        self.tell_incarnation(old);
        Ok(true)
    }

    /// Tells every open repo that the device is another writer than `old` now.
    pub(crate) fn tell_incarnation(&self, old: Writer) {
        let new = self.writer();
        tracing::warn!(%old, %new, "taking a new incarnation: the old one was seen elsewhere");
        let repos: Vec<_> = self.repos().values().filter_map(Weak::upgrade).collect();
        for repo in repos {
            repo.tell(Change::Incarnation { old, new });
        }
    }

    /// Notes that a state by an incarnation of this device that is not the living one is staged.
    pub(crate) fn note_foreign_state(&self, topic: TopicNumber, writer: Writer, revision: u64) {
        let mut all = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_FOREIGN && !all.contains_key(&(topic, writer)) {
            return;
        }
        let first = Foreign { revision, growths: 0 };
        let foreign = all.entry((topic, writer)).or_insert(first);
        if revision > foreign.revision {
            *foreign = Foreign { revision, growths: foreign.growths.saturating_add(1) };
        }
        if foreign.growths >= KEY_ELSEWHERE_GROWTHS {
            self.stop_publishing(writer);
        }
    }

    fn stop_publishing(&self, writer: Writer) {
        if !self.key_elsewhere.swap(true, Ordering::Relaxed) {
            tracing::error!(%writer, "this device's key is in use elsewhere: it stops publishing");
        }
    }
}
