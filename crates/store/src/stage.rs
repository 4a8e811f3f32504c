//! Deciding what a state from a peer is: news, known, a fork of this device, or nonsense.

use std::sync::Arc;

use ark_core::{Link, Object, ObjectKind, SignedState, Writer};

use crate::MAX_MISSING;
use crate::blobs::Tag;
use crate::equivocations;
use crate::error::{BlobError, IndexError, PullError};
use crate::index::{STATES, Slot, state_key};
use crate::repo::{Pulls, RepoInner};
use crate::states::{Change, Equivocation, Staged, roots_with};
use crate::tags::StateTag;

/// See [`Repo::stage`](crate::Repo::stage).
pub(crate) async fn stage(repo: &Arc<RepoInner>, given: SignedState) -> Result<Staged, PullError> {
    let state = given.state();
    if state.topic != repo.topic {
        return Ok(Staged::WrongTopic);
    }
    let mut pulls = repo.deciding.lock().await;
    if repo.kind().is_some_and(|kind| kind != state.kind) {
        return Ok(Staged::WrongKind { found: state.kind });
    }
    if !is_fork(repo, &given) {
        return decide(repo, &mut pulls, given).await;
    }
    let by = given.state().writer;
    let renewed = repo.store.renew_incarnation(repo.store.writer(), by.device).await?;
    if !renewed && by.device != repo.store.device {
        // Only its word, which a liar can repeat for each new incarnation.
        tracing::error!(%by, "refused: it says again what this device never wrote");
        return Ok(Staged::Invalid);
    }
    let then = decide(repo, &mut pulls, given).await?;
    Ok(if renewed { Staged::OwnFork { then: Box::new(then) } } else { then })
}

/// Whether the state shows what the living incarnation of this device never issued.
fn is_fork(repo: &RepoInner, given: &SignedState) -> bool {
    let (state, own, issued) = (given.state(), repo.store.writer(), repo.issued());
    if state.vector.get(own) > issued.sequence {
        return true;
    }
    if state.writer != own {
        return false;
    }
    // A revision below the last is taken for a state of this device's of before. One that was
    // burnt was told to nobody.
    let states = repo.states();
    match states.joined.get(&own) {
        Some(joined) => joined != given && state.revision >= issued.revision,
        None => true,
    }
}

/// Stages the state unless it is known, older, or has to wait.
async fn decide(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    given: SignedState,
) -> Result<Staged, PullError> {
    let writer = given.state().writer;
    let states = repo.states();
    for known in [states.joined.get(&writer), states.staged.get(&writer)].into_iter().flatten() {
        if let Some(seen) = equivocation(known, &given) {
            equivocations::record(repo, seen).await?;
            let stands = if seen.stands == given.hash() {
                place(repo, pulls, given).await?
            } else {
                Staged::Old
            };
            return Ok(Staged::Equivocation { seen, stands: Box::new(stands) });
        }
        if !given.replaces(known) {
            return Ok(Staged::Old);
        }
    }
    place(repo, pulls, given).await
}

fn equivocation(known: &SignedState, given: &SignedState) -> Option<Equivocation> {
    let (writer, revision) = (given.state().writer, given.state().revision);
    let (a, b) = (known.hash(), given.hash());
    (known.state().revision == revision && a != b).then(|| Equivocation {
        writer,
        revision,
        stands: a.max(b),
        dropped: a.min(b),
    })
}

/// Stages news, or lets it wait for the state of its writer that is being pulled.
async fn place(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    given: SignedState,
) -> Result<Staged, PullError> {
    let writer = given.state().writer;
    if pulls.invalid.get(&writer) == Some(&given.hash()) {
        return Ok(Staged::Invalid);
    }
    let states = repo.states();
    let pulled = states.staged.contains_key(&writer) && pulls.begun.contains(&writer);
    let waiting = states.waiting.get(&writer).filter(|_| pulled);
    if waiting.is_some_and(|waiting| !given.replaces(waiting)) {
        return Ok(Staged::Old);
    }
    let revision = given.state().revision;
    let placed = if pulled {
        repo.update_states(|states| drop(states.waiting.insert(writer, given)));
        Staged::Waiting
    } else {
        put_staged(repo, pulls, given).await?
    };
    if writer.device == repo.store.device && writer != repo.store.writer() {
        repo.store.note_foreign_state(repo.number, writer, revision);
    }
    Ok(placed)
}

/// Keeps a state that is or will be staged as a tagged blob.
pub(crate) async fn tag(
    repo: &RepoInner,
    pulls: &mut Pulls,
    state: &SignedState,
) -> Result<Tag, BlobError> {
    let object = Object::new(ObjectKind::Raw, state.bytes().clone());
    let (_import, tag) = repo.store.blobs.tag(&StateTag::of(state).name(), object).await?;
    pulls.tagged.insert(state.state().writer, tag);
    Ok(tag)
}

/// Puts a state into the staged slot, whatever was there.
pub(crate) async fn put_staged(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    given: SignedState,
) -> Result<Staged, PullError> {
    let writer = given.state().writer;
    tag(repo, pulls, &given).await?;
    let replaced = repo.states().staged.get(&writer).cloned();
    let (number, bytes) = (repo.number, given.bytes().clone());
    // Not waited for: a staged state that a crash forgets is sent again.
    repo.store
        .index
        .write_unheard(move |transaction| {
            let mut table = transaction.open_table(STATES)?;
            table.insert(&state_key(number, Slot::Staged, writer), bytes.as_ref())?;
            Ok(())
        })
        .await;
    repo.update_states(|states| {
        states.waiting.remove(&writer);
        states.staged.insert(writer, given.clone());
    });
    pulls.begun.remove(&writer);
    if let Some(replaced) = replaced.filter(|replaced| *replaced != given) {
        repo.store.blobs.untag(&StateTag::of(&replaced).name()).await?;
    }
    repo.tell(Change::Staged { writer });
    let missing = missing(repo, &given, MAX_MISSING).await?;
    if missing.is_empty() {
        return Ok(Staged::Complete);
    }
    pulls.begun.insert(writer);
    Ok(Staged::Staged { missing })
}

/// What a state still needs to be joined beside what is joined now.
async fn missing(
    repo: &Arc<RepoInner>,
    state: &SignedState,
    limit: usize,
) -> Result<Vec<Link>, PullError> {
    let roots = roots_with(&repo.states().joined, state);
    Ok(repo.missing(roots, limit).await?)
}

/// See [`Repo::staged_missing`](crate::Repo::staged_missing).
pub(crate) async fn staged_missing(
    repo: &Arc<RepoInner>,
    writer: Writer,
    limit: usize,
) -> Result<Option<Vec<Link>>, PullError> {
    let mut pulls = repo.deciding.lock().await;
    let Some(state) = repo.states().staged.get(&writer).cloned() else { return Ok(None) };
    pulls.begun.insert(writer);
    missing(repo, &state, limit).await.map(Some)
}

/// See [`Repo::abandon`](crate::Repo::abandon).
pub(crate) async fn abandon(
    repo: &Arc<RepoInner>,
    writer: Writer,
) -> Result<Option<Staged>, PullError> {
    let mut pulls = repo.deciding.lock().await;
    drop_staged(repo, &mut pulls, writer).await?;
    promote(repo, &mut pulls, writer).await
}

/// Empties the staged slot.
pub(crate) async fn drop_staged(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    writer: Writer,
) -> Result<(), PullError> {
    let Some(state) = repo.states().staged.get(&writer).cloned() else { return Ok(()) };
    let number = repo.number;
    let removed = repo.store.index.write(move |transaction| {
        let mut table = transaction.open_table(STATES)?;
        table.remove(&state_key(number, Slot::Staged, writer))?;
        Ok::<_, IndexError>(())
    });
    removed.await?;
    repo.update_states(|states| drop(states.staged.remove(&writer)));
    pulls.begun.remove(&writer);
    pulls.tagged.remove(&writer);
    repo.store.blobs.untag(&StateTag::of(&state).name()).await?;
    Ok(())
}

/// Stages the state that waited for the slot.
pub(crate) async fn promote(
    repo: &Arc<RepoInner>,
    pulls: &mut Pulls,
    writer: Writer,
) -> Result<Option<Staged>, PullError> {
    let fits = |state: &SignedState| repo.kind().is_none_or(|kind| kind == state.state().kind);
    match repo.states().waiting.get(&writer).cloned().filter(fits) {
        Some(waiting) => put_staged(repo, pulls, waiting).await.map(Some),
        None => Ok(None),
    }
}
