//! Opening the folder, and leaving it alone where it must not be touched.

use std::sync::Arc;

use super::{Actor, Due, HALT_RECHECK, Setback, Tries, blocking};
use ark_core::in_words;

use crate::base::{Applied, BaseView};
use crate::folder::{FenceError, FolderState};
use crate::opening::{self, History, MARKER_META, Opened};
use crate::watch::Watch;

/// A folder that is being synced.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) opened: Opened,
    pub(super) watch: Arc<Watch>,
}

impl Actor {
    /// The folder must not be touched. It is looked for again and again; the same reason is told
    /// once.
    pub(super) fn halt(&mut self, why: String) {
        if self.halted.as_ref() != Some(&why) {
            tracing::error!(folder = %self.options.path.display(), "halted: {why}");
        }
        self.home = None;
        self.under_way = None;
        self.due = Due::Everything;
        self.pauses.taking_up.rest(HALT_RECHECK);
        self.fail_fences(&FenceError::Halted(why.clone()));
        self.halted = Some(why);
    }

    /// Opens the folder, and begins anew with a scan of everything.
    pub(super) async fn open(&mut self) -> Result<(), Setback> {
        let (path, topic) = (self.options.path.clone(), self.repo.topic());
        let gate = self.gate.clone();
        let base = self.repo.base();
        let opened = blocking(move || {
            let snapshot = base.snapshot().map_err(|error| in_words(&error))?;
            opening::open(&path, gate.as_ref(), topic, &BaseView::new(snapshot))
                .map_err(|error| in_words(&error))
        });
        let opened = opened.await?.map_err(Setback::Halt)?;
        self.take_down(&opened).await?;
        let applied = self.applied_before()?;
        let rules = Arc::clone(&self.rules);
        let watch = Watch::start(&opened.root, rules, self.options.quiet_period);
        self.home = Some(Home { opened, watch: Arc::new(watch) });
        self.halted = None;
        self.due = Due::Everything;
        self.stale = true;
        self.retry = Tries::All;
        self.shared.say(|said| {
            said.state = FolderState::Busy;
            said.problems.clear();
            said.applied = applied.map(|applied| applied.revisions).unwrap_or_default();
        });
        Ok(())
    }

    /// Records what base has to learn of a folder that was opened.
    async fn take_down(&mut self, opened: &Opened) -> Result<(), Setback> {
        let what = "cannot record the folder's marker";
        let token = opened.marker.token.to_vec();
        match opened.history {
            History::Known => {}
            History::New => {
                let set = self.repo.base().set_meta(MARKER_META, Some(token)).await;
                set.map_err(|error| Setback::failed(what, &error))?;
            }
            History::Anew => {
                tracing::warn!(folder = %self.options.path.display(), "united with what others have");
                let (base, opened) = (self.repo.base(), opened.clone());
                let (changes, meta) = blocking(move || {
                    let snapshot =
                        base.snapshot().map_err(|error| Setback::failed(what, &error))?;
                    opening::anew(&BaseView::new(snapshot), &opened.marker)
                        .map_err(|error| Setback::failed(what, &error))
                })
                .await??;
                let applied = self.repo.base().apply(changes.into_records(), meta).await;
                applied.map_err(|error| Setback::failed(what, &error))?;
                self.retries.clear();
                self.revisit.clear();
                self.interrupted = None;
                // If this is not reached, all of it is done once more.
                let written = blocking(move || opened.marker.write(&opened.root)).await?;
                written.map_err(|halt| Setback::Halt(in_words(&halt)))?;
            }
        }
        Ok(())
    }

    fn applied_before(&self) -> Result<Option<Applied>, Setback> {
        let what = "cannot read what was applied";
        let snapshot = self.repo.base().snapshot();
        let snapshot = snapshot.map_err(|error| Setback::failed(what, &error))?;
        BaseView::new(snapshot).applied().map_err(|error| Setback::failed(what, &error))
    }

    pub(super) fn home(&self) -> Result<Home, Setback> {
        self.home.clone().ok_or(Setback::Again)
    }
}
