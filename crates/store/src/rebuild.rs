//! Making a lost index anew: from the signed states, which are kept as tagged blobs, and the
//! blobs themselves. Unites and deletes nothing; the folder's base is lost, so folders unite too.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ark_core::{DeviceId, Link, RepoKind, SignedState, Summary, TopicId, Writer};
use tokio::runtime::Handle;

use crate::blobs::Blobs;
use crate::closure::{Closure, Fetched, Source, close};
use crate::error::{BlobError, IndexError, OpenError, ReadError};
use crate::failpoint::Failpoints;
use crate::index::{
    Index, STATES, Slot, TopicNumber, View, clear_objects_and_states, insert_objects, number_topic,
    state_key,
};
use crate::states::roots_with;
use crate::tags::{self, StateTag};

/// What a rebuild made.
pub(crate) struct Rebuilt {
    pub(crate) joined: usize,
    pub(crate) staged: usize,
    pub(crate) objects: usize,
}

/// Per repo and writer its states, newest first.
type Found = BTreeMap<(TopicId, RepoKind), BTreeMap<Writer, Vec<SignedState>>>;

/// Why a walk over the blobs stopped.
#[derive(Debug)]
enum WalkError {
    Read(ReadError),
    Index(IndexError),
}

impl From<IndexError> for WalkError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<WalkError> for OpenError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Index(error) | WalkError::Read(ReadError::Index(error)) => error.into(),
            WalkError::Read(ReadError::Blob { source, .. }) => source.into(),
            WalkError::Read(error) => Self::Blob(BlobError::Io {
                what: "rebuilding the index",
                source: std::sync::Arc::new(std::io::Error::other(error)),
            }),
        }
    }
}

/// Rebuilds the index if there is anything to rebuild it from. Ended early, it begins anew at
/// the next opening, because the store's record is written last.
pub(crate) async fn rebuild(
    device: DeviceId,
    blobs: &Blobs,
    index: &Index,
    failpoints: &Failpoints,
) -> Result<Option<Rebuilt>, OpenError> {
    let found = find_states(blobs).await?;
    if found.is_empty() {
        return Ok(None);
    }
    tracing::warn!(repos = found.len(), "rebuilding the index from states and blobs");
    // The walk reads, and then indexes, what may never have been synced.
    blobs.sync_all().await?;
    // An attempt that did not end may have indexed what a power cut took since.
    index.write(clear_objects_and_states).await?;
    let mut rebuilt = Rebuilt { joined: 0, staged: 0, objects: 0 };
    // Where nothing was joined states of either kind may have been staged: the kind is that of what
    // this device wrote, or of what is whole.
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|((topic, kind), writers)| {
        let is_own = writers.keys().any(|writer| writer.device == device);
        (*topic, !is_own, *kind)
    });
    let mut decided = None;
    for ((topic, _), writers) in found {
        if decided == Some(topic) {
            continue;
        }
        failpoints.hit("rebuild").map_err(|source| {
            OpenError::Blob(BlobError::Io { what: "rebuild", source: source.into() })
        })?;
        let numbered = index.write(move |write| number_topic(write, topic));
        let (number, _) = numbered.await?;
        let source = Blobbed {
            blobs: blobs.clone(),
            index: index.clone(),
            topic: number,
            objects: 0,
            runtime: Handle::current(),
        };
        let walked = tokio::task::spawn_blocking(move || rebuild_repo(source, &writers));
        let walked = walked
            .await
            .map_err(|error| BlobError::Stopped { source: std::sync::Arc::new(error) })?;
        let repo = walked?;
        decided = (repo.joined > 0).then_some(topic);
        rebuilt.joined += repo.joined;
        rebuilt.staged += repo.staged;
        rebuilt.objects += repo.objects;
    }
    Ok(Some(rebuilt))
}

/// The states that tags name and that are what they say.
async fn find_states(blobs: &Blobs) -> Result<Found, OpenError> {
    let mut found = Found::new();
    for (name, hash) in blobs.tags(tags::PREFIX).await? {
        let Some(tag) = StateTag::parse(&name) else { continue };
        let state = match blobs.read(Link::raw(hash)).await {
            Ok(bytes) => SignedState::decode(&bytes),
            Err(ReadError::Blob { source, .. }) => return Err(source.into()),
            Err(error) => {
                tracing::warn!(name, %error, "a state is lost");
                continue;
            }
        };
        match state {
            Ok(state) if StateTag::new(&state, tag.sequence) == tag => {
                let State { topic, kind, writer } = State::of(&state);
                found.entry((topic, kind)).or_default().entry(writer).or_default().push(state);
            }
            Ok(_) => tracing::warn!(name, "a state is not what its tag says"),
            Err(error) => tracing::warn!(name, %error, "a state is damaged"),
        }
    }
    for states in found.values_mut().flat_map(BTreeMap::values_mut) {
        states.sort_by_key(|state| Reverse((state.state().revision, state.hash())));
    }
    Ok(found)
}

/// Whose a state is.
struct State {
    topic: TopicId,
    kind: RepoKind,
    writer: Writer,
}

impl State {
    fn of(state: &SignedState) -> Self {
        let state = state.state();
        Self { topic: state.topic, kind: state.kind, writer: state.writer }
    }
}

/// Joins of each writer the newest state that is whole here, and stages the newest of all where
/// that is another.
fn rebuild_repo(
    mut source: Blobbed,
    writers: &BTreeMap<Writer, Vec<SignedState>>,
) -> Result<Rebuilt, WalkError> {
    let mut joined = BTreeMap::new();
    for (writer, states) in writers {
        for state in states {
            if source.is_whole(&state.state().head_links())? {
                joined.insert(*writer, state.clone());
                break;
            }
        }
    }
    // A head that a joined state has taken in without holding was perhaps never pulled, and need
    // not be: with more states joined, more states are whole.
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for newest in writers.values().filter_map(|states| states.first()) {
            let writer = newest.state().writer;
            if joined.get(&writer) != Some(newest)
                && source.is_whole(&roots_with(&joined, newest))?
            {
                joined.insert(writer, newest.clone());
                changed = true;
            }
        }
    }
    let newest = writers.values().filter_map(|states| states.first());
    let staged: Vec<_> =
        newest.filter(|state| joined.get(&state.state().writer) != Some(*state)).collect();
    let rebuilt = Rebuilt { joined: joined.len(), staged: staged.len(), objects: source.objects };
    let rows: Vec<_> = joined
        .values()
        .map(|state| (Slot::Joined, state.clone()))
        .chain(staged.into_iter().map(|state| (Slot::Staged, state.clone())))
        .collect();
    let topic = source.topic;
    source.runtime.block_on(source.index.write(move |transaction| {
        let mut table = transaction.open_table(STATES)?;
        for (slot, state) in rows {
            let key = state_key(topic, slot, state.state().writer);
            table.insert(&key, state.bytes().as_ref())?;
        }
        Ok(())
    }))?;
    Ok(rebuilt)
}

/// Every blob that is here and undamaged.
struct Blobbed {
    blobs: Blobs,
    index: Index,
    topic: TopicNumber,
    objects: usize,
    runtime: Handle,
}

impl Blobbed {
    /// Whether the closures of `roots` are here; if so, indexes them.
    fn is_whole(&mut self, roots: &[Link]) -> Result<bool, WalkError> {
        let view = self.index.view()?;
        match close(self.topic, view, self, roots, 1)? {
            Closure::Whole(objects) => self.flush(objects).map(|_| true),
            Closure::Missing { .. } | Closure::Invalid { .. } => Ok(false),
        }
    }
}

impl Source for Blobbed {
    type Error = WalkError;

    fn fetch(&mut self, _view: &View, link: Link) -> Result<Fetched, WalkError> {
        match self.blobs.read_blocking(&self.runtime, link) {
            Ok(bytes) => Ok(Fetched::Here(bytes)),
            Err(ReadError::Absent { .. } | ReadError::Damaged { .. }) => Ok(Fetched::Absent),
            Err(error) => Err(WalkError::Read(error)),
        }
    }

    fn flush(&mut self, objects: Vec<(Link, Summary)>) -> Result<View, WalkError> {
        self.objects += objects.len();
        let topic = self.topic;
        self.runtime
            .block_on(self.index.write(move |transaction| {
                insert_objects(transaction, topic, &objects).map(|_| ())
            }))?;
        Ok(self.index.view()?)
    }
}
