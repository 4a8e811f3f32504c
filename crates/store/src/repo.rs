//! One repo of a store: its objects, states and base.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use ark_core::{
    Incarnation, Link, Object, ObjectId, ObjectKind, RepoKind, SignedState, TopicId, Writer,
};
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::base::Base;
use crate::batch::Batch;
use crate::blobs::Tag;
use crate::closure::{self, Fetched};
use crate::counters::count;
use crate::equivocations;
use crate::error::{BlobError, IndexError, PullError, ReadError, ReceiveError, RepoError};
use crate::index::{
    ISSUED, STATES, Slot, TOPICS, TopicNumber, View, issued_key, number_topic, remove_pending,
};
use crate::jj::JjRepo;
use crate::join::Join;
use crate::publish::Publisher;
use crate::reader::Reader;
use crate::receive::Received;
use crate::states::{Change, Equivocation, Staged, StateRow, States, heads_in, heads_of};
use crate::store::Inner;
use crate::trie::{self, Followed, Kept, Trie, catch_up};

/// Changes that a subscriber may lag behind before it must re-read the states.
const CHANGES: usize = 256;

/// A repo in the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repo {
    pub(crate) inner: Arc<RepoInner>,
}

/// A repo that is open.
#[derive(Debug)]
pub(crate) struct RepoInner {
    pub(crate) store: Arc<Inner>,
    pub(crate) topic: TopicId,
    pub(crate) number: TopicNumber,
    /// Of which kind it is: of that of its joined states. Where none are joined it may be decided
    /// by whoever opens it; and if by nobody, by the first state that is joined or published.
    kind: OnceLock<RepoKind>,
    states: RwLock<Arc<States>>,
    changes: broadcast::Sender<Change>,
    /// What this device issued under its living incarnation.
    issued: Arc<Mutex<Issued>>,
    /// Held while a state is staged or joined.
    pub(crate) deciding: tokio::sync::Mutex<Pulls>,
    /// Held by the publisher.
    pub(crate) publishing: Arc<tokio::sync::Mutex<()>>,
    /// How far it is with bringing the trie after the heads.
    pub(crate) course: Mutex<catch_up::Course>,
    /// What sessions of reconciliation leave for those after them.
    pub(crate) kept: Arc<Kept>,
}

/// The highest revision and sequence issued or burnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Issued {
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: u64,
    pub(crate) sequence: u64,
}

/// What is remembered of states being pulled, while the process lives.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    /// Writers whose staged state is being pulled: it is not replaced by a newer one.
    pub(crate) begun: HashSet<Writer>,
    /// Staged states found invalid: not to be pulled again.
    pub(crate) invalid: HashMap<Writer, ObjectId>,
    /// The tag of the staged state, where it was set in this run.
    pub(crate) tagged: HashMap<Writer, Tag>,
}

impl Repo {
    /// Its topic.
    pub fn topic(&self) -> TopicId {
        self.inner.topic
    }

    /// Its kind; `None` while nothing has decided it: see [`Store::held`](crate::Store::held).
    pub fn kind(&self) -> Option<RepoKind> {
        self.inner.kind()
    }

    /// jj's side of it.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn jj(&self) -> Result<JjRepo, RepoError> {
        JjRepo::new(&self.inner)
    }

    /// This device as a writer, in its incarnation of now: it may be renewed, see
    /// [`Change::Incarnation`].
    pub fn writer(&self) -> Writer {
        self.inner.store.writer()
    }

    /// Reads objects for the merge and its like. Blocking: only for threads that may block
    /// (`spawn_blocking`, own threads).
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.inner))
    }

    /// The bytes of an object that this repo has indexed or pending, checked against its id.
    ///
    /// # Errors
    /// It is not here, or not readable.
    pub async fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        let inner = &self.inner;
        if let Some(bytes) = inner.cached(link) {
            return Ok(bytes);
        }
        if !inner.has(&inner.store.index.view()?, link)? {
            return Err(ReadError::Absent { link });
        }
        let bytes = inner.store.blobs.read(link).await?;
        inner.store.cache.insert(inner.number, link, bytes.clone());
        Ok(bytes)
    }

    /// Which of `links` are indexed here: their closure is, too, and durable. In the same order.
    ///
    /// # Errors
    /// The index failed.
    pub async fn indexed(&self, links: &[Link]) -> Result<Vec<bool>, IndexError> {
        let (inner, links) = (Arc::clone(&self.inner), links.to_vec());
        blocking(move || {
            let view = inner.store.index.view()?;
            links.iter().map(|&link| view.is_indexed(inner.number, link)).collect()
        })
        .await
    }

    /// A batch of new objects.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.inner))
    }

    /// Waits for the right to publish, one at a time per repo.
    pub async fn publisher(&self) -> Publisher {
        let kind = self.kind().unwrap_or(RepoKind::Folder);
        Publisher::acquire(Arc::clone(&self.inner), kind).await
    }

    /// Takes a verified state from a peer: decides whether it is news and, if so, stages it.
    /// Whether its writer is listed for the repo, and whether there is a place for one more writer,
    /// is the caller's to check.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn stage(&self, state: SignedState) -> Result<Staged, PullError> {
        crate::stage::stage(&self.inner, state).await
    }

    /// Every provider of the staged state of `writer` answered *missing*: drops it. The one that
    /// waited, if there is one, is staged in its place, and that is the outcome.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn abandon(&self, writer: Writer) -> Result<Option<Staged>, PullError> {
        crate::stage::abandon(&self.inner, writer).await
    }

    /// What the staged state of `writer` still needs, at most `limit`. `None`: nothing is staged.
    /// From now on its pull has begun: it is finished before a newer one.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn staged_missing(
        &self,
        writer: Writer,
        limit: usize,
    ) -> Result<Option<Vec<Link>>, PullError> {
        crate::stage::staged_missing(&self.inner, writer, limit).await
    }

    /// Keeps objects that were asked for: those whose closure is indexed are indexed, the others
    /// are pending until [`Repo::join`]. Durable when it returns. Give it many at once, and run
    /// several calls at a time: they share one barrier.
    ///
    /// # Errors
    /// The disk failed or is full. Some objects may have been kept.
    pub async fn receive(&self, objects: Vec<Object>) -> Result<Received, ReceiveError> {
        crate::receive::receive(&self.inner, objects).await
    }

    /// Walks the closure of `links`, stops at what is indexed, goes through what is pending:
    /// what is neither, at most `limit`. Empty: all is here.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn missing(&self, links: &[Link], limit: usize) -> Result<Vec<Link>, ReadError> {
        self.inner.missing(links.to_vec(), limit).await
    }

    /// Joins the staged state of `writer` if the closure of its heads is here: indexes what is
    /// pending of it and moves the state, durably.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn join(&self, writer: Writer) -> Result<Join, PullError> {
        crate::join::join(&self.inner, writer).await
    }

    /// What the repo is compared with a peer's by; `None` while it is made, as after a first copy
    /// of very much, and where the store could not keep it.
    ///
    /// # Errors
    /// The index failed.
    pub fn trie(&self) -> Result<Option<Trie>, IndexError> {
        let inner = &self.inner;
        Trie::read(&inner.store.index.begin_read()?, inner.number, &inner.kept)
    }

    /// The states of now.
    pub fn states(&self) -> Arc<States> {
        self.inner.states()
    }

    /// What happens from now on. A receiver that lags re-reads [`Repo::states`].
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.inner.subscribe()
    }

    /// Writers that made two states of one revision, ever. Bounded.
    ///
    /// # Errors
    /// The index failed.
    pub async fn equivocations(&self) -> Result<Vec<Equivocation>, IndexError> {
        equivocations::known(&self.inner).await
    }

    /// The records of what was last applied to the folder.
    pub fn base(&self) -> Base {
        Base::new(Arc::clone(&self.inner))
    }
}

impl RepoInner {
    /// Opens the repo: gives it a number if it has none, reads its states.
    pub(crate) async fn open(store: Arc<Inner>, topic: TopicId) -> Result<Arc<Self>, RepoError> {
        let known = store.index.begin_read()?;
        let known = known.open_table(TOPICS).map_err(IndexError::from)?;
        let known = known.get(topic.as_bytes()).map_err(IndexError::from)?;
        let known = known.map(|value| value.value());
        let (number, _) = if let Some(known) = known {
            known
        } else {
            store.index.write(move |write| number_topic(write, topic)).await?
        };
        store.topics.fetch_max(number + 1, Ordering::AcqRel);
        let writer = store.writer();
        let (states, (revision, sequence)) = load(&store, number, writer)?;
        let kind = states.joined.values().next().map(|state| OnceLock::from(state.state().kind));
        let issued = Issued { incarnation: writer.incarnation, revision, sequence };
        let issued = {
            let mut all = store.issued.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(topic).or_insert_with(|| Arc::new(Mutex::new(issued))))
        };
        let heads = heads_of(states.joined.values());
        let is_behind = trie::is_behind(&store.index.begin_read()?, number, heads)?;
        let repo = Arc::new(Self {
            store,
            topic,
            number,
            kind: kind.unwrap_or_default(),
            states: RwLock::new(Arc::new(states)),
            changes: broadcast::Sender::new(CHANGES),
            issued,
            deciding: tokio::sync::Mutex::default(),
            publishing: Arc::default(),
            course: Mutex::default(),
            kept: Arc::new(Kept::new(topic)),
        });
        if is_behind {
            let following = Arc::clone(&repo);
            let followed = move |transaction: &_| following.follow_heads(transaction);
            repo.store.index.write(followed).await?;
        }
        Ok(repo)
    }

    pub(crate) fn states(&self) -> Arc<States> {
        Arc::clone(&self.states.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn kind(&self) -> Option<RepoKind> {
        self.kind.get().copied()
    }

    /// Has it be of this kind if it is of none yet.
    ///
    /// # Errors
    /// The other kind that it is of.
    pub(crate) fn decide(&self, kind: RepoKind) -> Result<(), RepoKind> {
        match *self.kind.get_or_init(|| kind) {
            found if found == kind => Ok(()),
            found => Err(found),
        }
    }

    /// Whether there may be objects of this kind in it.
    pub(crate) fn takes(&self, kind: ObjectKind) -> bool {
        self.kind().is_none_or(|repo| repo.has(kind))
    }

    /// Changes the states in memory. What is joined was committed before.
    pub(crate) fn update_states(&self, change: impl FnOnce(&mut States)) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut states));
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(crate) fn tell(&self, change: Change) {
        // Nobody may be listening.
        drop(self.changes.send(change));
    }

    /// What was issued under the living incarnation.
    pub(crate) fn issued(&self) -> Issued {
        let incarnation = self.store.incarnation();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.incarnation != incarnation {
            *issued = Issued { incarnation, revision: 0, sequence: 0 };
        }
        *issued
    }

    /// Takes a revision and a sequence as issued: from here on they are never given out again.
    /// `false` if the incarnation is no longer that.
    pub(crate) fn issue(&self, next: Issued) -> bool {
        if self.issued().incarnation != next.incarnation {
            return false;
        }
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = next;
        true
    }

    /// Whether the repo has the object, indexed or pending.
    pub(crate) fn has(&self, view: &View, link: Link) -> Result<bool, IndexError> {
        Ok(view.is_indexed(self.number, link)? || view.is_pending(self.number, link)?)
    }

    /// The object from the cache.
    pub(crate) fn cached(&self, link: Link) -> Option<Bytes> {
        let bytes = self.store.cache.get(self.number, link)?;
        count(&self.store.counts.cache_hits, 1);
        Some(bytes)
    }

    /// Reads an object that is recorded as being here. Blocking.
    pub(crate) fn read_stored(&self, link: Link) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.cached(link) {
            return Ok(bytes);
        }
        let bytes = self.store.blobs.read_blocking(&self.store.runtime, link)?;
        self.store.cache.insert(self.number, link, bytes.clone());
        Ok(bytes)
    }

    /// Brings the trie after the joined states that `transaction` has; where that is much, later.
    pub(crate) fn follow_heads(
        self: &Arc<Self>,
        transaction: &redb::WriteTransaction,
    ) -> Result<(), IndexError> {
        let heads = heads_in(transaction, self.number, &self.states())?;
        let read = |link| self.read_reached(link);
        if trie::follow(transaction, self.number, &self.kept, heads, read)? == Followed::Later {
            catch_up::start(self);
        }
        Ok(())
    }

    /// Reads an object that a head reaches, for the trie. Blocking.
    pub(crate) fn read_reached(&self, link: Link) -> Result<Bytes, ReadError> {
        let hit = self.store.failpoints.hit("trie");
        let failed = |error| BlobError::Io { what: "trie", source: Arc::new(error) };
        hit.map_err(|error| ReadError::Blob { link, source: failed(error) })?;
        self.read_stored(link)
    }

    /// The bytes of a pending object. Blocking.
    pub(crate) fn fetch_pending(&self, view: &View, link: Link) -> Result<Fetched, ReadError> {
        if !view.is_pending(self.number, link)? {
            return Ok(Fetched::Absent);
        }
        match self.read_stored(link) {
            Ok(bytes) => Ok(Fetched::Here(bytes)),
            Err(ReadError::Damaged { reason, .. }) => {
                tracing::warn!(?link, reason, "a pending object is lost and fetched again");
                Ok(Fetched::Lost)
            }
            Err(error) => Err(error),
        }
    }

    /// See [`Repo::missing`].
    pub(crate) async fn missing(
        self: &Arc<Self>,
        links: Vec<Link>,
        limit: usize,
    ) -> Result<Vec<Link>, ReadError> {
        let inner = Arc::clone(self);
        let walked = tokio::task::spawn_blocking(move || {
            let view = inner.store.index.view()?;
            let mut lost = Vec::new();
            let fetch = |view: &View, link| {
                let fetched = inner.fetch_pending(view, link)?;
                if matches!(fetched, Fetched::Lost) {
                    lost.push(link);
                }
                Ok(fetched)
            };
            let missing = closure::missing(inner.number, &view, fetch, &links, limit)?;
            Ok::<_, ReadError>((missing, lost))
        });
        let (missing, lost) = walked.await.map_err(|_| IndexError::Closed)??;
        self.forget_pending(lost).await?;
        Ok(missing)
    }

    /// Takes lost objects out of the pending table, so that they are taken in again.
    pub(crate) async fn forget_pending(&self, links: Vec<Link>) -> Result<(), IndexError> {
        if links.is_empty() {
            return Ok(());
        }
        let number = self.number;
        let forgotten =
            self.store.index.write(move |transaction| remove_pending(transaction, number, &links));
        forgotten.await
    }
}

/// The states of a topic, and the highest revision and sequence that `writer` issued.
fn load(
    store: &Inner,
    number: TopicNumber,
    writer: Writer,
) -> Result<(States, (u64, u64)), IndexError> {
    let read = store.index.begin_read()?;
    let mut states = States::default();
    let mut first = [0; 45];
    first[..4].copy_from_slice(&number.to_be_bytes());
    let mut last = [u8::MAX; 45];
    last[..4].copy_from_slice(&number.to_be_bytes());
    for row in read.open_table(STATES)?.range::<&[u8; 45]>(&first..=&last)? {
        let (key, value) = row?;
        let StateRow { slot, state } = StateRow::read(key.value(), value.value())?;
        let slot: &mut BTreeMap<_, _> = match slot {
            Slot::Joined => &mut states.joined,
            Slot::Staged => &mut states.staged,
        };
        slot.insert(state.state().writer, state);
    }
    let issued = read.open_table(ISSUED)?.get(&issued_key(number, writer))?;
    Ok((states, issued.map_or((0, 0), |value| value.value())))
}

/// Runs a read of the index where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| IndexError::Closed)?
}
