//! Joining a staged state: its closure is checked from the leaves up and indexed, and the state
//! moves, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use ark_core::{
    DecodeError, Link, ObjectId, ObjectKind, RepoKind, SignedState, Snapshot, Summary, Writer,
};

use crate::MAX_MISSING;
use crate::blobs::Standing;
use crate::closure::{Closure, Fetched, Source, close};
use crate::counters::count;
use crate::error::{BlobError, IndexError, PullError};
use crate::index::{STATES, Slot, View, insert_objects, remove_pending, state_key};
use crate::jj::JjRepo;
use crate::repo::{Pulls, RepoInner};
use crate::rollback::is_forked;
use crate::stage;
use crate::states::{Change, check_heads, roots_with};
use crate::tags::StateTag;

/// The outcome of [`Repo::join`](crate::Repo::join).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Join {
    /// Joined, durably. If a newer state of the writer waited, it is staged now.
    Joined(SignedState),
    /// Not all of its closure is here: some of what is missing.
    Missing(Vec<Link>),
    /// No state of this writer is staged; one of another kind than the repo has become is dropped.
    NothingStaged,
    /// An object of its closure is not what its link says. The state was dropped and will not be
    /// staged again; a newer one that waited is staged now.
    Invalid {
        /// The object, or the head whose snapshot says other than the state.
        link: Link,
        /// What is wrong with it.
        error: DecodeError,
    },
}

/// What the walk over the closure found.
enum Walked {
    Whole(Vec<(Link, Summary)>),
    Missing { missing: Vec<Link>, done: Vec<(Link, Summary)>, lost: Vec<Link> },
    Invalid { link: Link, error: DecodeError },
}

/// See [`Repo::join`](crate::Repo::join).
pub(crate) async fn join(repo: &Arc<RepoInner>, writer: Writer) -> Result<Join, PullError> {
    let mut pulls = repo.deciding.lock().await;
    let states = repo.states();
    let Some(state) = states.staged.get(&writer).cloned() else { return Ok(Join::NothingStaged) };
    if repo.kind().is_some_and(|kind| kind != state.state().kind) {
        return drop_foreign(repo, &mut pulls, &state).await;
    }
    let (inner, given) = (Arc::clone(repo), state.clone());
    let walked = tokio::task::spawn_blocking(move || walk(&inner, &states.joined, &given));
    let stopped = |error| PullError::Blob(BlobError::Stopped { source: Arc::new(error) });
    match walked.await.map_err(stopped)?? {
        Walked::Whole(objects) => {
            if repo.decide(state.state().kind).is_err() {
                return drop_foreign(repo, &mut pulls, &state).await;
            }
            keep_own(repo, &state).await?;
            commit(repo, &mut pulls, &state, objects).await?;
            settle(repo, &mut pulls, &state).await;
            Ok(Join::Joined(state))
        }
        Walked::Missing { missing, done, lost } => {
            pulls.begun.insert(writer);
            keep_done(repo, done, lost).await?;
            Ok(Join::Missing(missing))
        }
        Walked::Invalid { link, error } => {
            tracing::warn!(%writer, ?link, %error, "dropping a state whose closure is invalid");
            pulls.invalid.insert(writer, state.hash());
            stage::drop_staged(repo, &mut pulls, writer).await?;
            repo.tell(Change::Invalid { writer, link, error: error.clone() });
            stage::promote(repo, &mut pulls, writer).await?;
            Ok(Join::Invalid { link, error })
        }
    }
}

/// Drops a state that was staged before the repo became one of another kind.
async fn drop_foreign(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    state: &SignedState,
) -> Result<Join, PullError> {
    let writer = state.state().writer;
    tracing::warn!(%writer, "dropping a state of another kind of repo");
    stage::drop_staged(repo, pulls, writer).await?;
    repo.update_states(|states| drop(states.waiting.remove(&writer)));
    Ok(Join::NothingStaged)
}

/// Lists again, as the writer that this device is now, what it did in a jj repo as one that another
/// machine writes as, too, before a state of that other is joined in the place of its own. A folder
/// publishes anew what it has.
async fn keep_own(repo: &Arc<RepoInner>, state: &SignedState) -> Result<(), PullError> {
    let (writer, own) = (state.state().writer, repo.store.writer());
    if writer.device != own.device || writer == own || repo.kind() != Some(RepoKind::Jj) {
        return Ok(());
    }
    if !is_forked(&repo.store.index.begin_read()?, writer.incarnation)? {
        return Ok(());
    }
    let Ok(jj) = JjRepo::new(repo) else { return Ok(()) };
    let listed = jj.list_again(state.state()).await;
    listed.map_err(|source| PullError::Own { source: Box::new(source) })
}

/// Checks the closure of every head that there will be.
fn walk(
    repo: &RepoInner,
    joined: &BTreeMap<Writer, SignedState>,
    state: &SignedState,
) -> Result<Walked, PullError> {
    let roots = roots_with(joined, state);
    let mut source = Pending { repo, lost: Vec::new() };
    let view = repo.store.index.view()?;
    let objects = match close(repo.number, view, &mut source, &roots, MAX_MISSING)? {
        Closure::Whole(objects) => objects,
        Closure::Missing { missing, done } => {
            return Ok(Walked::Missing { missing, done, lost: source.lost });
        }
        Closure::Invalid { link, error } => return Ok(Walked::Invalid { link, error }),
    };
    let mut snapshots = BTreeMap::<ObjectId, Snapshot>::new();
    for link in roots.into_iter().filter(|link| link.kind == ObjectKind::Snapshot) {
        match Snapshot::decode(&repo.read_stored(link)?) {
            Ok(snapshot) => drop(snapshots.insert(link.id, snapshot)),
            Err(error) => return Ok(Walked::Invalid { link, error }),
        }
    }
    if let Err((link, error)) = check_heads(joined, state, &snapshots) {
        return Ok(Walked::Invalid { link, error });
    }
    Ok(Walked::Whole(objects))
}

/// Indexes what is whole of a closure that is not, so that the next walk stops there, and takes
/// what was lost out of the pending table.
async fn keep_done(
    repo: &RepoInner,
    done: Vec<(Link, Summary)>,
    lost: Vec<Link>,
) -> Result<(), IndexError> {
    if done.is_empty() && lost.is_empty() {
        return Ok(());
    }
    let (number, counts) = (repo.number, Arc::clone(&repo.store.counts));
    let kept = repo.store.index.write(move |transaction| {
        count(&counts.indexed, insert_objects(transaction, number, &done)?.len());
        remove_pending(transaction, number, &lost)
    });
    kept.await
}

/// Indexes the rest of the closure and moves the state, durably. The objects' bytes were durable
/// when they became pending.
async fn commit(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    state: &SignedState,
    objects: Vec<(Link, Summary)>,
) -> Result<(), PullError> {
    let (number, writer) = (repo.number, state.state().writer);
    let (bytes, counts) = (state.bytes().clone(), Arc::clone(&repo.store.counts));
    let joining = Arc::clone(repo);
    let change = move |transaction: &redb::WriteTransaction| {
        let new = insert_objects(transaction, number, &objects)?;
        count(&counts.indexed, new.len());
        let mut table = transaction.open_table(STATES)?;
        table.remove(&state_key(number, Slot::Staged, writer))?;
        table.insert(&state_key(number, Slot::Joined, writer), bytes.as_ref())?;
        drop(table);
        joining.follow_heads(transaction)
    };
    let blobs = &repo.store.blobs;
    // Tagged in an earlier run: it was tagged again when the store was opened.
    let Some(mut tag) = pulls.tagged.get(&writer).copied() else {
        return Ok(repo.store.index.write(change).await?);
    };
    if blobs.standing(tag) == Standing::Lost {
        tag = stage::tag(repo, pulls, state).await?;
    }
    if blobs.standing(tag) == Standing::Durable {
        return Ok(repo.store.index.write(change).await?);
    }
    Ok(repo.store.barrier.pass(Vec::new(), Some(tag), change).await?)
}

/// Brings memory and tags after a commit, and stages what waited. The state is joined whatever
/// fails here.
async fn settle(repo: &Arc<RepoInner>, pulls: &mut Pulls, state: &SignedState) {
    let writer = state.state().writer;
    let mut replaced = None;
    repo.update_states(|states| {
        states.staged.remove(&writer);
        replaced = states.joined.insert(writer, state.clone());
    });
    pulls.begun.remove(&writer);
    pulls.tagged.remove(&writer);
    pulls.invalid.remove(&writer);
    repo.tell(Change::Joined { writer });
    if let Some(replaced) = replaced
        && let Err(error) = repo.store.blobs.untag(&StateTag::of(&replaced).name()).await
    {
        tracing::warn!(%error, "the tag of a replaced state stays until the store is opened again");
    }
    if let Err(error) = stage::promote(repo, pulls, writer).await {
        tracing::warn!(%error, %writer, "the state that waited is not staged; it will come again");
    }
}

/// What is pending in a repo, as the source of a walk.
struct Pending<'a> {
    repo: &'a RepoInner,
    lost: Vec<Link>,
}

impl Source for Pending<'_> {
    type Error = PullError;

    fn fetch(&mut self, view: &View, link: Link) -> Result<Fetched, PullError> {
        let fetched = self.repo.fetch_pending(view, link)?;
        if matches!(fetched, Fetched::Lost) {
            self.lost.push(link);
        }
        Ok(fetched)
    }

    fn flush(&mut self, objects: Vec<(Link, Summary)>) -> Result<View, PullError> {
        let (store, number) = (&self.repo.store, self.repo.number);
        let counts = Arc::clone(&store.counts);
        let flushed = store.index.write(move |transaction| {
            let new = insert_objects(transaction, number, &objects)?;
            count(&counts.indexed, new.len());
            Ok::<_, IndexError>(())
        });
        store.runtime.block_on(flushed)?;
        Ok(store.index.view()?)
    }
}
