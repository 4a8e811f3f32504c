//! Letting those go on who wait for what was written so far to be published.
//!
//! Where all of the folder is watched, the events of all that was written before come before
//! that of a file which the fence makes; elsewhere everything is looked at. A fence then waits
//! for the files that could not be taken up at that time, and for no later ones.

use std::collections::BTreeSet;

use ark_core::RelPath;
use tokio::sync::oneshot;

use super::{Actor, Due, Setback, Tries};
use crate::folder::FenceError;
use crate::scan::Extent;
use crate::status::MAX_PROBLEMS_LISTED;
use crate::watch::Touch;

/// Somebody waits for what was written so far to be published.
#[derive(Debug)]
pub(super) struct Fence {
    reply: oneshot::Sender<Result<(), FenceError>>,
    stage: Stage,
}

/// How far a fence is.
#[derive(Debug)]
enum Stage {
    /// It is not known yet where to look.
    Asked,
    /// All that was written before it is due.
    Due,
    /// It was taken up but for these files, which were being written to.
    TakenUp(BTreeSet<RelPath>),
}

impl Fence {
    pub(super) fn new(reply: oneshot::Sender<Result<(), FenceError>>) -> Self {
        Self { reply, stage: Stage::Asked }
    }

    fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked)
    }

    fn answer(self, answer: Result<(), FenceError>) {
        // Who gave up waiting needs no answer.
        let _ = self.reply.send(answer);
    }
}

impl Actor {
    /// Finds out where to look for what was written before the fences asked for.
    pub(super) async fn look_for_fences(&mut self) -> Result<(), Setback> {
        if !self.fences.iter().any(Fence::is_asked) {
            return Ok(());
        }
        if !matches!(self.due, Due::Everything) {
            let home = self.home()?;
            // No event tells of a folder that went away with its disk.
            self.check_marker(&home).await?;
            let extent = home.watch.fence().await;
            self.due.add(extent);
            // What could not be looked at may be there by now without an event.
            let kept = self.kept.keys().map(|path| (path.clone(), Touch::Subtree));
            self.due.add(Extent::Paths(kept.collect()));
        }
        for fence in self.fences.iter_mut().filter(|fence| fence.is_asked()) {
            fence.stage = Stage::Due;
        }
        // Who waits wants to see, too, what was skipped; not at the price of a plan under way.
        if self.under_way.is_none() {
            self.try_again(Tries::All);
        }
        if self.due.is_nothing() {
            self.pass_fences();
        }
        Ok(())
    }

    /// All that was due is taken up: lets those go on for whom everything is.
    pub(super) fn pass_fences(&mut self) {
        let mut waiting = Vec::new();
        for mut fence in std::mem::take(&mut self.fences) {
            match &mut fence.stage {
                Stage::Asked => {}
                Stage::Due => fence.stage = Stage::TakenUp(self.in_flux.clone()),
                Stage::TakenUp(but_for) => but_for.retain(|path| self.in_flux.contains(path)),
            }
            match &fence.stage {
                Stage::TakenUp(but_for) if but_for.is_empty() => fence.answer(Ok(())),
                _ => waiting.push(fence),
            }
        }
        self.fences = waiting;
        let held_up: BTreeSet<&RelPath> = self.fences.iter().flat_map(Fence::held_up).collect();
        let held_up = held_up.into_iter().take(MAX_PROBLEMS_LISTED).cloned().collect();
        self.shared.held_up(held_up);
    }

    /// While nothing is tried because the last try failed, those who ask are told why.
    pub(super) fn answer_hopeless_fences(&mut self) {
        let why = match (&self.halted, &self.trouble) {
            (Some(why), _) => FenceError::Halted(why.clone()),
            (None, Some(why)) => FenceError::Failed(why.clone()),
            (None, None) => return,
        };
        self.fail_fences(&why);
    }

    /// Nobody who waits now is let go on.
    pub(super) fn fail_fences(&mut self, error: &FenceError) {
        for fence in self.fences.drain(..) {
            fence.answer(Err(error.clone()));
        }
        self.shared.held_up(Vec::new());
    }
}

impl Fence {
    /// The files that it waits for.
    fn held_up(&self) -> impl Iterator<Item = &RelPath> {
        match &self.stage {
            Stage::TakenUp(but_for) => Some(but_for.iter()),
            Stage::Asked | Stage::Due => None,
        }
        .into_iter()
        .flatten()
    }
}
