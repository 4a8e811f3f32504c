//! The actor of a folder: one loop that takes local changes up before it applies others'.
//!
//! Its inputs are hints of the watch, changes of the store, commands and timers; all of them
//! only mark what is to be done. The loop then does one bounded thing at a time: open the folder,
//! take up what is due (scan, publish), or apply one batch of a plan.

mod applying;
mod due;
mod fences;
mod home;
mod incarnation;
mod pauses;
mod taking_up;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ark_core::{ObjectId, RelPath, in_words};
use ark_store::{Change, Repo};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::base::{Applying, BaseView, Hold, Incarnations, Retry};
use crate::durable::Unsyncable;
use crate::folder::{Command, FenceError, FolderState, Options, StartError};
use crate::fs::Gate;
use crate::ignore::{FormerRules, Rules};
use crate::scan::{Extent, Hashers, Kept};
use crate::status::{MAX_PROBLEMS_LISTED, Shared};
use crate::watch::Touch;
use applying::UnderWay;
use due::Due;
use fences::Fence;
use home::Home;
use incarnation::{Awaited, hash_of, recorded_incarnations};
use pauses::Pauses;

/// How often a halted folder is looked for.
const HALT_RECHECK: Duration = Duration::from_secs(2);
/// Rounds of applying in a row that may do nothing but find paths dirty, before a pause.
const MAX_FUTILE_ROUNDS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Actor {
    options: Options,
    gate: Option<Gate>,
    repo: Repo,
    rules: Arc<Rules>,
    /// By which rules the folder was last looked at, as it is recorded.
    recorded_rules: Option<Vec<u8>>,
    hashers: Arc<Hashers>,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    changes: broadcast::Receiver<Change>,
    incarnations: Incarnations,
    /// The last state that this device made in its incarnation.
    own_state: Option<ObjectId>,
    awaited: Option<Awaited>,
    /// The tree of which a batch was carried out that may not be recorded: as base has it.
    /// While there is one everything is due.
    interrupted: Option<Applying>,
    /// The folder, unless it is halted.
    home: Option<Home>,
    /// What is to be scanned.
    due: Due,
    /// Whether something is to be published though nothing is to be scanned.
    take_over: bool,
    /// Paths whose hash could not be taken yet, because they are being written.
    in_flux: BTreeSet<RelPath>,
    /// Paths that the scan leaves alone.
    kept: BTreeMap<RelPath, Kept>,
    /// Directories that keep ark out by their bits.
    closed: BTreeSet<RelPath>,
    /// Files that could not be made durable: left out of what is taken up until they are tried
    /// again.
    unsyncable: Unsyncable,
    notes: Vec<String>,
    equivocations: Vec<String>,
    fences: Vec<Fence>,
    /// Whether the joined tree may have changed since it was last planned for.
    stale: bool,
    /// Paths to be planned for though the joined tree did not change there.
    revisit: BTreeSet<RelPath>,
    /// Whether paths that failed, or were skipped, are to be planned for, too.
    retry: Tries,
    under_way: Option<UnderWay>,
    /// Paths that are not as wanted.
    retries: BTreeMap<RelPath, Retry>,
    pauses: Pauses,
    /// Whether the last that was done was to take something up: where there is always more of it,
    /// applying has its turn in between.
    was_taken_up: bool,
    futile_rounds: u32,
    /// Why the folder is halted.
    halted: Option<String>,
    /// The last failure that concerns the whole folder.
    trouble: Option<String>,
}

/// Which of the retries a plan is to include besides those that were only blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tries {
    None,
    Failed,
    All,
}

/// Why a step was not finished.
#[derive(Debug)]
enum Setback {
    /// The folder must not be touched.
    Halt(String),
    /// To be tried again after a pause.
    Failed(String),
    /// To be tried again at once: the circumstances changed.
    Again,
    /// To be tried again when it was quiet this long.
    Later(Duration),
}

impl Setback {
    fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{what}: {}", in_words(error)))
    }
}

impl Actor {
    pub(crate) async fn new(
        options: Options,
        gate: Option<Gate>,
        repo: Repo,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, StartError> {
        let hashers = Hashers::new().map_err(|error| StartError::Threads(Box::new(error)))?;
        // Before anything is read: what changes meanwhile is heard of.
        let changes = repo.subscribe();
        let failed = |source| StartError::Base { path: options.path.clone(), source };
        let incarnations = recorded_incarnations(&repo).await.map_err(failed)?;
        let own_state = hash_of(&repo, incarnations.writer);
        let (former, interrupted) = recorded(&repo).map_err(failed)?;
        let recorded_rules = former.as_ref().map(FormerRules::encode);
        let rules = match former {
            Some(former) => Rules::with_former(&options.ignore, former),
            None => Rules::new(&options.ignore),
        };
        let rules = rules
            .map_err(|error| StartError::Ignore { rule: error.pattern, reason: error.reason })?;
        let pauses = Pauses::new(options.rescan_interval);
        Ok(Self {
            options,
            gate,
            repo,
            rules: Arc::new(rules),
            recorded_rules,
            hashers: Arc::new(hashers),
            shared,
            commands,
            changes,
            incarnations,
            own_state,
            awaited: None,
            interrupted,
            home: None,
            due: Due::Everything,
            take_over: false,
            in_flux: BTreeSet::new(),
            kept: BTreeMap::new(),
            closed: BTreeSet::new(),
            unsyncable: Unsyncable::new(),
            notes: Vec::new(),
            equivocations: Vec::new(),
            fences: Vec::new(),
            stale: true,
            revisit: BTreeSet::new(),
            retry: Tries::All,
            under_way: None,
            retries: BTreeMap::new(),
            pauses,
            was_taken_up: false,
            futile_rounds: 0,
            halted: None,
            trouble: None,
        })
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        loop {
            self.drain();
            if self.shared.is_stopping() {
                break;
            }
            let step = self.step().await;
            self.shared.begin(None);
            match step {
                // Whoever set it back to later has begun a pause.
                Ok(true) | Err(Setback::Later(_)) => {}
                Ok(false) => {
                    self.rest();
                    self.wait().await;
                }
                Err(Setback::Again) => tokio::task::yield_now().await,
                Err(Setback::Halt(why)) => self.halt(why),
                Err(Setback::Failed(why)) => self.failed(why),
            }
        }
        self.fail_fences(&FenceError::Stopped);
    }

    /// Does one thing that is to be done; `false`: there is none.
    async fn step(&mut self) -> Result<bool, Setback> {
        if self.home.is_none() {
            if !self.pauses.taking_up.is_over() {
                self.answer_hopeless_fences();
                return Ok(false);
            }
            self.pauses.taking_up.rest(HALT_RECHECK);
            self.open().await?;
            self.pauses.taking_up.reset();
            return Ok(true);
        }
        if !self.notice_incarnation().await? || self.awaits_other_machine() {
            return Ok(false);
        }
        if self.pauses.taking_up.is_over() {
            self.look_for_fences().await?;
        } else {
            self.answer_hopeless_fences();
        }
        // What waits to be taken up is dirty, and holds nothing else back.
        let can_apply = !matches!(self.due, Due::Everything)
            && (self.stale || self.under_way.is_some() || !self.revisit.is_empty())
            && self.pauses.applying.is_over();
        let is_due = self.take_over || !self.due.is_nothing();
        let can_take_up = is_due && self.pauses.taking_up.is_over();
        if can_take_up && !(can_apply && self.was_taken_up) {
            self.was_taken_up = true;
            return self.take_up_due().await.map(|()| true);
        }
        if can_apply {
            self.was_taken_up = false;
            let applied = self.apply_some().await;
            match &applied {
                Ok(()) => {
                    self.pauses.applying.reset();
                    // Unless it is a failure to take something up, which is tried again.
                    self.trouble.take_if(|_| self.pauses.taking_up.is_over());
                }
                Err(setback) => {
                    self.under_way = None;
                    self.stale = true;
                    if matches!(setback, Setback::Failed(_)) {
                        self.pauses.applying.lengthen();
                    }
                }
            }
            return applied.map(|()| true);
        }
        Ok(false)
    }

    /// Takes up all that is due.
    async fn take_up_due(&mut self) -> Result<(), Setback> {
        let extent = self.due.take();
        let again = (extent.clone(), std::mem::take(&mut self.take_over));
        let taken_up = self.take_up(extent).await;
        match &taken_up {
            Ok(()) => {
                self.pauses.taking_up.reset();
                self.trouble = None;
            }
            Err(setback) => {
                self.due.add(again.0);
                self.take_over |= again.1;
                match setback {
                    Setback::Failed(_) => self.pauses.taking_up.lengthen(),
                    Setback::Later(pause) => self.pauses.taking_up.rest(*pause),
                    Setback::Halt(_) | Setback::Again => {}
                }
            }
        }
        taken_up
    }

    /// Takes everything that already came in, without waiting: what is changed here while others'
    /// changes are applied is not to wait for the last batch of them.
    fn drain(&mut self) {
        while let Some(extent) = self.home.as_ref().and_then(|home| home.watch.due()) {
            self.due.add(extent);
        }
        while let Ok(command) = self.commands.try_recv() {
            self.command(command);
        }
        loop {
            match self.changes.try_recv() {
                Ok(change) => self.change(&change),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.heads_changed(),
                Err(_) => break,
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Stop => self.shared.stop(),
            Command::Fence(reply) => self.fences.push(Fence::new(reply)),
        }
    }

    fn change(&mut self, change: &Change) {
        if matches!(change, Change::Joined { .. } | Change::Published { .. }) {
            self.heads_changed();
        }
    }

    fn heads_changed(&mut self) {
        self.stale = true;
        self.take_over = self.is_to_take_over();
    }

    /// The next plan is to include these retries as well; one under way does not.
    fn try_again(&mut self, tries: Tries) {
        self.retry = self.retry.max(tries);
        self.stale |= self.under_way.is_some() || !self.retries.is_empty();
    }

    /// Says how things stand when there is nothing to do.
    fn rest(&mut self) {
        let is_waiting = self.trouble.is_some()
            || !self.due.is_nothing()
            || !self.in_flux.is_empty()
            || !self.unsyncable.is_empty()
            || self.retries.values().any(|retry| retry.hold != Hold::Skipped);
        let state = match &self.halted {
            Some(why) => FolderState::Halted(why.clone()),
            None if is_waiting => FolderState::Waiting,
            None => FolderState::InStep,
        };
        self.shared.rest(state, self.problems());
    }

    fn problems(&self) -> Vec<String> {
        let kept = self.kept.iter().map(|(path, kept)| format!("{path:?}: {kept}"));
        let closed = self.closed.iter().map(|path| {
            format!("{path:?}: closed by its bits; what is changed in it here is not seen")
        });
        let failed = self.retries.values().map(|retry| retry.reason.clone());
        let watch = self.home.as_ref().and_then(|home| home.watch.problem());
        let whole = self.halted.iter().chain(&self.trouble);
        whole
            .cloned()
            .chain(watch)
            .chain(self.equivocations.iter().cloned())
            .chain(failed.filter(|reason| !reason.is_empty()))
            .chain(kept)
            .chain(closed)
            .chain(self.notes.iter().cloned())
            .take(MAX_PROBLEMS_LISTED)
            .collect()
    }

    /// Waits for an input or a timer.
    async fn wait(&mut self) {
        let awaited = self.awaited.as_ref().map(|awaited| awaited.until);
        let next = awaited.into_iter().fold(self.pauses.next(), Instant::min);
        let watch = self.home.as_ref().map(|home| Arc::clone(&home.watch));
        let hint = async {
            match watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(command) => self.command(command),
                None => self.shared.stop(),
            },
            extent = hint => self.due.add(extent),
            change = self.changes.recv() => match change {
                Ok(change) => self.change(&change),
                Err(broadcast::error::RecvError::Lagged(_)) => self.heads_changed(),
                // The store was closed: nothing works from here on.
                Err(broadcast::error::RecvError::Closed) => self.shared.stop(),
            },
            () = tokio::time::sleep_until(next) => self.timers(),
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        let over = self.pauses.end(now, self.options.rescan_interval);
        self.awaited.take_if(|awaited| awaited.until <= now);
        if over.rescan {
            self.due.add(Extent::Everything);
        }
        if over.retry {
            self.futile_rounds = 0;
            let unsyncable = std::mem::take(&mut self.unsyncable);
            let tries = if unsyncable.is_empty() { Tries::Failed } else { Tries::All };
            self.try_again(tries);
            self.stale = true;
            let touched = unsyncable.into_keys().map(|path| (path, Touch::Changed));
            self.due.add(Extent::Paths(touched.collect()));
        }
    }

    /// A step failed; the same failure is told once.
    fn failed(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(folder = %self.options.path.display(), "{why}");
        }
        self.fail_fences(&FenceError::Failed(why.clone()));
        self.trouble = Some(why);
    }
}

type StoreFailed = Box<dyn std::error::Error + Send + Sync>;

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Setback> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Setback::failed("a step failed in a way that it should not", &error))
}

/// By which rules the folder was last looked at, and which tree was being applied.
fn recorded(repo: &Repo) -> Result<(Option<FormerRules>, Option<Applying>), StoreFailed> {
    let view = BaseView::new(repo.base().snapshot()?);
    Ok((FormerRules::recorded(&view)?, view.applying()?))
}
