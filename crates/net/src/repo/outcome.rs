//! What the store says, as the engine takes it.

use std::error::Error;

use ark_core::{Link, SignedState, Writer, in_words};
use ark_store::{Join, MAX_MISSING, PullError, Repo, Staged};
use ark_sync::{Input, JoinOutcome, StageOutcome, StoreStep};
use tracing::warn;

/// What the store names as missing is taken for all there is where it is less than an engine wants.
const _: () = assert!(MAX_MISSING >= ark_sync::MAX_WANTED);

/// What of `links` and their closures is neither indexed nor pending.
pub(super) async fn lookup(repo: Repo, writer: Writer, revision: u64, links: Vec<Link>) -> Input {
    match repo.missing(&links, MAX_MISSING).await {
        Ok(absent) => Input::LookedUp { writer, revision, absent },
        Err(error) => failed(StoreStep::Lookup { writer }, &error),
    }
}

/// Drops all that is staged of a writer.
pub(super) async fn abandon(repo: Repo, writer: Writer) -> Input {
    match clear(&repo, writer).await {
        Ok(()) => Input::Abandoned { writer },
        Err(error) => failed(StoreStep::Abandon { writer }, &error),
    }
}

/// Drops what is staged of a writer, and what waited behind that, which is staged in its place.
async fn clear(repo: &Repo, writer: Writer) -> Result<(), PullError> {
    while repo.abandon(writer).await?.is_some() {}
    Ok(())
}

/// Stages a state; if `replacing`, in the place of all that is staged.
pub(super) async fn stage(repo: Repo, state: SignedState, replacing: bool) -> Input {
    let writer = state.state().writer;
    let result = async {
        if replacing {
            clear(&repo, writer).await?;
        }
        let staged = repo.stage(state.clone()).await?;
        known_as_staged(&repo, &state, staged).await
    };
    match result.await {
        Ok(staged) => {
            let joined = repo.states().joined.get(&writer).cloned();
            Input::Staged { writer, outcome: stage_outcome(staged, joined) }
        }
        Err(error) => failed(StoreStep::Stage { writer }, &error),
    }
}

/// A state that the store has staged already is old to it, but the engine wants to know what it
/// still needs.
async fn known_as_staged(
    repo: &Repo,
    state: &SignedState,
    staged: Staged,
) -> Result<Staged, PullError> {
    let writer = state.state().writer;
    let is_staged = repo.states().staged.get(&writer).is_some_and(|one| one == state);
    if !matches!(staged, Staged::Old) || !is_staged {
        return Ok(staged);
    }
    Ok(match repo.staged_missing(writer, MAX_MISSING).await? {
        Some(missing) if missing.is_empty() => Staged::Complete,
        Some(missing) => Staged::Staged { missing },
        None => Staged::Old,
    })
}

/// `joined`: what the store has joined of the state's writer.
fn stage_outcome(staged: Staged, joined: Option<SignedState>) -> StageOutcome {
    match staged {
        Staged::Staged { missing } => StageOutcome::Staged { missing },
        Staged::Complete => StageOutcome::Complete,
        Staged::Waiting => StageOutcome::Waiting,
        Staged::Equivocation { stands, .. } => {
            StageOutcome::Equivocation { then: Box::new(stage_outcome(*stands, joined)) }
        }
        Staged::OwnFork { then } => {
            StageOutcome::OwnFork { then: Box::new(stage_outcome(*then, joined)) }
        }
        Staged::WrongKind { found } => StageOutcome::WrongKind { found },
        Staged::WrongTopic => StageOutcome::WrongTopic,
        Staged::Invalid => StageOutcome::Invalid,
        Staged::Old => StageOutcome::Old { joined },
        other => {
            warn!(?other, "an outcome of staging that this version does not know");
            StageOutcome::Old { joined }
        }
    }
}

/// Joins the staged state of a writer.
pub(super) async fn join(repo: Repo, writer: Writer) -> Input {
    let joined = || repo.states().joined.get(&writer).cloned();
    let outcome = match repo.join(writer).await {
        Ok(Join::Joined(state)) => JoinOutcome::Joined(state),
        Ok(Join::Missing(missing)) => JoinOutcome::Missing(missing),
        Ok(Join::NothingStaged) => JoinOutcome::NothingStaged { joined: joined() },
        Ok(Join::Invalid { link, error }) => {
            JoinOutcome::Invalid { link, reason: error.to_string() }
        }
        Ok(other) => {
            warn!(?other, "an outcome of joining that this version does not know");
            JoinOutcome::NothingStaged { joined: joined() }
        }
        Err(error) => return failed(StoreStep::Join { writer }, &error),
    };
    Input::JoinResult { writer, outcome }
}

fn failed(step: StoreStep, error: &(dyn Error + 'static)) -> Input {
    Input::StoreFailed { step, reason: in_words(error) }
}
