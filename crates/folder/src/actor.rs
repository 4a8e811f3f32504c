//! The actor of a folder: one loop that takes local changes up before it applies others'.
//!
//! Its inputs are hints of the watch, changes of the store, commands and timers; all of them
//! only mark what is to be done. The loop then does one bounded thing at a time: open the folder,
//! take up what is due (scan, publish), or apply one batch of a plan.

mod applying;
mod taking_up;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ark_core::{ObjectId, RelPath, SignedState, Writer};
use ark_store::{Change, Repo};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::base::{
    BaseView, Disowned, Hold, INCARNATION_META, Incarnations, Retry, encode_incarnations,
};
use crate::folder::{Command, FenceError, FolderState, Options, StartError};
use crate::ignore::Rules;
use crate::opening::{self, MARKER_META, Opened};
use crate::scan::{Extent, Hashers, Kept};
use crate::status::{MAX_PROBLEMS_LISTED, Shared};
use crate::watch::{Touch, Watch};
use applying::UnderWay;

/// How often a halted folder is looked for.
const HALT_RECHECK: Duration = Duration::from_secs(5);
/// The first pause after a failure; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Rounds of applying in a row that may do nothing but find paths dirty, before a pause.
const MAX_FUTILE_ROUNDS: u32 = 3;
/// How long the state of another machine that runs under this device's key is waited for.
const OTHER_MACHINE_PATIENCE: Duration = Duration::from_mins(1);
/// More dirty paths than this are as well looked for by a scan of everything.
const MAX_DUE_PATHS: usize = 50_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Actor {
    options: Options,
    repo: Repo,
    rules: Arc<Rules>,
    hashers: Arc<Hashers>,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    changes: broadcast::Receiver<Change>,
    incarnations: Incarnations,
    /// The last state that this device made in its incarnation.
    own_state: Option<ObjectId>,
    awaited: Option<Awaited>,
    /// The folder, unless it is halted.
    home: Option<Home>,
    /// What is to be scanned.
    due: Due,
    /// Paths whose hash could not be taken yet, because they are being written.
    in_flux: BTreeSet<RelPath>,
    /// Paths that the scan leaves alone.
    kept: BTreeMap<RelPath, Kept>,
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
    /// Pauses after failures that concern the whole folder.
    taking_up: Pause,
    applying: Pause,
    /// Until paths that failed are tried again.
    retrying: Pause,
    futile_rounds: u32,
    rescan_at: Instant,
    /// The last failure that concerns the whole folder.
    trouble: Option<String>,
}

/// A folder that is being synced.
#[derive(Debug, Clone)]
struct Home {
    opened: Opened,
    watch: Arc<Watch>,
}

/// What to scan next.
#[derive(Debug)]
enum Due {
    Everything,
    Paths(BTreeMap<RelPath, Touch>),
}

/// Which of the retries a plan is to include besides those that were only blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tries {
    None,
    Failed,
    All,
}

/// Somebody waits for what was written so far to be published.
#[derive(Debug)]
struct Fence {
    reply: oneshot::Sender<Result<(), FenceError>>,
    /// Whether everything was looked at since it was asked for.
    scanned: bool,
}

/// A state of another machine that runs under this device's key.
#[derive(Debug)]
struct Awaited {
    writer: Writer,
    /// The last state that this machine made as that writer.
    ours: Option<ObjectId>,
    until: Instant,
}

/// When to try again.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    length: Duration,
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
}

impl Setback {
    fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{what}: {}", in_words(error)))
    }
}

/// An error with its causes in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

impl Pause {
    /// Begins a pause twice as long as the last.
    fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.until = Some(Instant::now() + self.length);
    }

    fn end(&mut self) {
        self.until = None;
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

impl Due {
    const fn nothing() -> Self {
        Self::Paths(BTreeMap::new())
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Paths(paths) if paths.is_empty())
    }

    fn add(&mut self, extent: Extent) {
        match (&mut *self, extent) {
            (Self::Everything, _) => {}
            (Self::Paths(due), Extent::Paths(paths)) => {
                for (path, touch) in paths {
                    let known = due.entry(path).or_insert(touch);
                    *known = touch.max(*known);
                }
                if due.len() > MAX_DUE_PATHS {
                    *self = Self::Everything;
                }
            }
            (Self::Paths(_), Extent::Everything) => *self = Self::Everything,
        }
    }

    fn take(&mut self) -> Extent {
        match std::mem::replace(self, Self::nothing()) {
            Self::Everything => Extent::Everything,
            Self::Paths(paths) => Extent::Paths(paths),
        }
    }
}

impl Actor {
    pub(crate) async fn new(
        options: Options,
        repo: Repo,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, StartError> {
        let rules = Rules::new(&options.ignore)
            .map_err(|error| StartError::Ignore { rule: error.pattern, reason: error.reason })?;
        let hashers = Hashers::new().map_err(|error| StartError::Threads(Box::new(error)))?;
        // Before anything is read: what changes meanwhile is heard of.
        let changes = repo.subscribe();
        let failed = |source| StartError::Base { path: options.path.clone(), source };
        let incarnations = recorded_incarnations(&repo).await.map_err(failed)?;
        let own_state = hash_of(&repo, incarnations.writer);
        let rescan_at = Instant::now() + jittered(options.rescan_interval);
        Ok(Self {
            options,
            repo,
            rules: Arc::new(rules),
            hashers: Arc::new(hashers),
            shared,
            commands,
            changes,
            incarnations,
            own_state,
            awaited: None,
            home: None,
            due: Due::Everything,
            in_flux: BTreeSet::new(),
            kept: BTreeMap::new(),
            notes: Vec::new(),
            equivocations: Vec::new(),
            fences: Vec::new(),
            stale: true,
            revisit: BTreeSet::new(),
            retry: Tries::All,
            under_way: None,
            retries: BTreeMap::new(),
            taking_up: Pause::default(),
            applying: Pause::default(),
            retrying: Pause::default(),
            futile_rounds: 0,
            rescan_at,
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
                Ok(true) => {}
                Ok(false) => {
                    self.rest();
                    self.wait().await;
                }
                Err(Setback::Again) => tokio::task::yield_now().await,
                Err(Setback::Halt(why)) => self.halt(why),
                Err(Setback::Failed(why)) => {
                    tracing::warn!(folder = %self.options.path.display(), "{why}");
                    for fence in self.fences.drain(..) {
                        let _ = fence.reply.send(Err(FenceError::Failed(why.clone())));
                    }
                    self.trouble = Some(why);
                }
            }
        }
        for fence in self.fences.drain(..) {
            let _ = fence.reply.send(Err(FenceError::Stopped));
        }
    }

    /// Does one thing that is to be done; `false`: there is none.
    async fn step(&mut self) -> Result<bool, Setback> {
        if self.home.is_none() {
            if !self.taking_up.is_over() {
                return Ok(false);
            }
            self.taking_up.until = Some(Instant::now() + HALT_RECHECK);
            self.open().await?;
            self.taking_up.reset();
            return Ok(true);
        }
        self.notice_incarnation().await?;
        if self.awaits_other_machine() {
            return Ok(false);
        }
        if !self.due.is_nothing() && self.taking_up.is_over() {
            let extent = self.due.take();
            let again = extent.clone();
            let taken_up = self.take_up(extent).await;
            match &taken_up {
                Ok(()) => {
                    self.taking_up.reset();
                    self.trouble = None;
                }
                Err(setback) => {
                    self.due.add(again);
                    if matches!(setback, Setback::Failed(_)) {
                        self.taking_up.lengthen();
                    }
                }
            }
            return taken_up.map(|()| true);
        }
        // What waits to be taken up is dirty, and holds nothing else back.
        if matches!(self.due, Due::Everything) {
            return Ok(false);
        }
        let has_work = self.stale || self.under_way.is_some() || !self.revisit.is_empty();
        if has_work && self.applying.is_over() {
            let applied = self.apply_some().await;
            match &applied {
                Ok(()) => self.applying.reset(),
                Err(setback) => {
                    self.under_way = None;
                    self.stale = true;
                    if matches!(setback, Setback::Failed(_)) {
                        self.applying.lengthen();
                    }
                }
            }
            return applied.map(|()| true);
        }
        Ok(false)
    }

    /// Takes everything that already came in, without waiting.
    fn drain(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.command(command);
        }
        loop {
            match self.changes.try_recv() {
                Ok(change) => self.change(&change),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.stale = true,
                Err(_) => break,
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Stop => self.shared.stop(),
            Command::Fence(reply) => {
                self.fences.push(Fence { reply, scanned: false });
                self.due.add(Extent::Everything);
                self.taking_up.end();
            }
        }
    }

    fn change(&mut self, change: &Change) {
        if matches!(change, Change::Joined { .. } | Change::Published { .. }) {
            self.stale = true;
        }
    }

    /// Says how things stand when there is nothing to do.
    fn rest(&mut self) {
        let is_waiting = self.trouble.is_some()
            || !self.in_flux.is_empty()
            || self.retries.values().any(|retry| retry.hold != Hold::Skipped);
        let problems = self.problems();
        self.shared.say(|said| {
            if !matches!(said.state, FolderState::Halted(_)) {
                said.state = if is_waiting { FolderState::Waiting } else { FolderState::InStep };
            }
            said.problems = problems;
        });
    }

    fn problems(&self) -> Vec<String> {
        let kept = self.kept.iter().map(|(path, kept)| format!("{path:?}: {kept}"));
        let failed = self.retries.values().map(|retry| retry.reason.clone());
        let watch = self.home.as_ref().and_then(|home| home.watch.problem());
        self.trouble
            .iter()
            .cloned()
            .chain(watch)
            .chain(self.equivocations.iter().cloned())
            .chain(failed.filter(|reason| !reason.is_empty()))
            .chain(kept)
            .chain(self.notes.iter().cloned())
            .take(MAX_PROBLEMS_LISTED)
            .collect()
    }

    /// Waits for an input or a timer.
    async fn wait(&mut self) {
        let pauses = [self.taking_up.until, self.applying.until, self.retrying.until];
        let awaited = self.awaited.as_ref().map(|awaited| awaited.until);
        let pauses = pauses.into_iter().chain([awaited]).flatten();
        let next = pauses.fold(self.rescan_at, Instant::min);
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
                Err(broadcast::error::RecvError::Lagged(_)) => self.stale = true,
                // The store was closed: nothing works from here on.
                Err(broadcast::error::RecvError::Closed) => self.shared.stop(),
            },
            () = tokio::time::sleep_until(next) => self.timers(),
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        if self.rescan_at <= now {
            self.rescan_at = now + jittered(self.options.rescan_interval);
            self.due.add(Extent::Everything);
        }
        if self.applying.until.is_some_and(|until| until <= now) {
            self.applying.end();
        }
        if self.retrying.until.is_some_and(|until| until <= now) {
            self.retrying.end();
            self.futile_rounds = 0;
            self.retry = self.retry.max(Tries::Failed);
            self.stale = true;
        }
    }

    fn halt(&mut self, why: String) {
        tracing::error!(folder = %self.options.path.display(), "halted: {why}");
        self.home = None;
        self.under_way = None;
        self.due = Due::Everything;
        self.taking_up.until = Some(Instant::now() + HALT_RECHECK);
        for fence in self.fences.drain(..) {
            let _ = fence.reply.send(Err(FenceError::Halted(why.clone())));
        }
        self.shared.say(|said| {
            said.problems = vec![why.clone()];
            said.state = FolderState::Halted(why);
        });
    }

    /// Opens the folder, and begins anew with a scan of everything.
    async fn open(&mut self) -> Result<(), Setback> {
        let (path, topic) = (self.options.path.clone(), self.repo.topic());
        let base = self.repo.base();
        let opened = blocking(move || {
            let snapshot = base.snapshot().map_err(|error| in_words(&error))?;
            let view = BaseView::new(snapshot);
            let opened = opening::open(&path, topic, &view).map_err(|error| in_words(&error))?;
            let applied = view.applied().map_err(|error| in_words(&error))?;
            Ok((opened, applied))
        });
        let (opened, applied) = opened.await?.map_err(Setback::Halt)?;
        if opened.is_new {
            let token = opened.marker.token.to_vec();
            let set = self.repo.base().set_meta(MARKER_META, Some(token)).await;
            set.map_err(|error| Setback::failed("cannot record the folder's marker", &error))?;
        }
        let rules = Arc::clone(&self.rules);
        let watch = Watch::start(&opened.root, rules, self.options.quiet_period);
        self.home = Some(Home { opened, watch: Arc::new(watch) });
        self.due = Due::Everything;
        self.stale = true;
        self.retry = Tries::All;
        self.shared.say(|said| {
            said.state = FolderState::Busy;
            said.problems.clear();
            if let Some(applied) = applied {
                said.applied = applied.revisions;
            }
        });
        Ok(())
    }

    fn home(&self) -> Result<Home, Setback> {
        self.home.clone().ok_or(Setback::Again)
    }

    /// If the device took a new incarnation, what was written since the start is to be
    /// published anew: noted durably, done with the next scan, and nothing is applied before.
    async fn notice_incarnation(&mut self) -> Result<(), Setback> {
        let writer = self.repo.writer();
        if writer == self.incarnations.writer {
            return Ok(());
        }
        let old = self.incarnations.writer;
        let renewed = renew(&self.incarnations, writer, true);
        record_incarnations(&self.repo, &renewed)
            .await
            .map_err(|error| Setback::failed("cannot record the new incarnation", &*error))?;
        self.incarnations = renewed;
        self.under_way = None;
        self.due = Due::Everything;
        self.awaited = Some(Awaited {
            writer: old,
            ours: self.own_state.take(),
            until: Instant::now() + OTHER_MACHINE_PATIENCE,
        });
        Ok(())
    }

    /// Whether the state of the machine that issued our dots, too, is not joined yet: what is
    /// published before would claim to know what it wrote.
    fn awaits_other_machine(&mut self) -> bool {
        let Some(Awaited { writer, ours, until }) = &self.awaited else { return false };
        let is_ours = hash_of(&self.repo, *writer) == *ours;
        if is_ours && *until > Instant::now() {
            return true;
        }
        self.awaited = None;
        false
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Setback> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Setback::failed("a step failed in a way that it should not", &error))
}

/// A fifth more or less, so that many folders do not work in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.8..1.2))
}

type StoreFailed = Box<dyn std::error::Error + Send + Sync>;

/// What is recorded of incarnations, brought up to this start.
async fn recorded_incarnations(repo: &Repo) -> Result<Incarnations, StoreFailed> {
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

fn hash_of(repo: &Repo, writer: Writer) -> Option<ObjectId> {
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
