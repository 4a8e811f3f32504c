//! Under which incarnation this device writes, and what follows when it takes a new one.

use std::time::Duration;

use ark_core::{ObjectId, SignedState, Writer};
use ark_store::Repo;
use tokio::time::Instant;

use super::{Actor, Due, Setback, StoreFailed};
use crate::base::{BaseView, Disowned, INCARNATION_META, Incarnations, encode_incarnations};

/// How long the state of another machine that runs under this device's key is waited for.
const OTHER_MACHINE_PATIENCE: Duration = Duration::from_mins(1);

/// A state of another machine that runs under this device's key.
#[derive(Debug)]
pub(super) struct Awaited {
    writer: Writer,
    /// The last state that this machine made as that writer.
    ours: Option<ObjectId>,
    pub(super) until: Instant,
}

impl Actor {
    /// If the device took a new incarnation, what was written since the start is to be
    /// published anew: noted durably, done with the next scan, and nothing is applied before.
    /// `false`: that it could be noted is waited for.
    pub(super) async fn notice_incarnation(&mut self) -> Result<bool, Setback> {
        let writer = self.repo.writer();
        if writer == self.incarnations.writer {
            return Ok(true);
        }
        if !self.pauses.taking_up.is_over() {
            return Ok(false);
        }
        let old = self.incarnations.writer;
        let renewed = renew(&self.incarnations, writer, true);
        if let Err(error) = record_incarnations(&self.repo, &renewed).await {
            self.pauses.taking_up.lengthen();
            return Err(Setback::failed("cannot record the new incarnation", &*error));
        }
        self.incarnations = renewed;
        self.under_way = None;
        self.due = Due::Everything;
        self.awaited = Some(Awaited {
            writer: old,
            ours: self.own_state.take(),
            until: Instant::now() + OTHER_MACHINE_PATIENCE,
        });
        Ok(true)
    }

    /// Whether the state of the machine that issued our dots, too, is not joined yet: what is
    /// published before would claim to know what it wrote.
    pub(super) fn awaits_other_machine(&mut self) -> bool {
        let Some(Awaited { writer, ours, until }) = &self.awaited else { return false };
        let is_ours = hash_of(&self.repo, *writer) == *ours;
        if is_ours && *until > Instant::now() {
            return true;
        }
        self.awaited = None;
        false
    }
}

/// What is recorded of incarnations, brought up to this start.
pub(super) async fn recorded_incarnations(repo: &Repo) -> Result<Incarnations, StoreFailed> {
    let view = BaseView::new(repo.base().snapshot()?);
    let writer = repo.writer();
    let recorded = view.incarnations()?;
    let started_at = own_sequence(repo, writer);
    let incarnations = match &recorded {
        Some(recorded) if recorded.writer == writer => {
            Incarnations { started_at, ..recorded.clone() }
        }
        Some(recorded) => renew(recorded, writer, false),
        None => Incarnations { writer, started_at, disowned: Vec::new() },
    };
    if recorded.as_ref() != Some(&incarnations) {
        record_incarnations(repo, &incarnations).await?;
    }
    Ok(incarnations)
}

/// The highest sequence that `writer` is known to have issued.
fn own_sequence(repo: &Repo, writer: Writer) -> u64 {
    let states = repo.states();
    states.joined.get(&writer).map_or(0, |state| state.state().vector.get(writer))
}

/// The state of `writer` that is joined.
pub(super) fn hash_of(repo: &Repo, writer: Writer) -> Option<ObjectId> {
    repo.states().joined.get(&writer).map(SignedState::hash)
}

fn renew(old: &Incarnations, writer: Writer, reissue: bool) -> Incarnations {
    let mut disowned = old.disowned.clone();
    disowned.push(Disowned { writer: old.writer, after: old.started_at, reissue });
    Incarnations { writer, started_at: 0, disowned }
}

async fn record_incarnations(repo: &Repo, incarnations: &Incarnations) -> Result<(), StoreFailed> {
    let record = encode_incarnations(incarnations);
    Ok(repo.base().set_meta(INCARNATION_META, Some(record)).await?)
}
