//! What a folder says of itself, written by its actor and read by anybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ark_core::{RelPath, Totals, Writer};
use tokio::sync::watch;

use crate::apply::Control;
use crate::folder::{FolderState, FolderStatus, Phase, Progress};
use crate::scan::ScanProgress;

/// The most conflict copies that a status lists: they are for people to read.
pub(crate) const MAX_CONFLICTS_LISTED: usize = 1000;
/// The most problems that a status lists, as above.
pub(crate) const MAX_PROBLEMS_LISTED: usize = 100;

/// Between a folder's actor and its handle.
#[derive(Debug)]
pub(crate) struct Shared {
    said: Mutex<Said>,
    changed: watch::Sender<u64>,
    stopping: AtomicBool,
}

/// The parts of a status that stand until the actor says otherwise.
#[derive(Debug)]
pub(crate) struct Said {
    pub state: FolderState,
    pub totals: Totals,
    pub conflicts: Vec<RelPath>,
    pub problems: Vec<String>,
    pub scanned: bool,
    pub applied: BTreeMap<Writer, u64>,
    held_up: Vec<RelPath>,
    work: Option<(Work, Instant)>,
}

/// What is under way, with its counters.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Scanning(Arc<ScanProgress>),
    Publishing { paths: u64 },
    Applying { control: Arc<Control>, actions: u64, bytes: u64 },
}

impl Shared {
    pub(crate) fn new() -> Self {
        let said = Said {
            state: FolderState::Busy,
            totals: Totals::default(),
            conflicts: Vec::new(),
            problems: Vec::new(),
            scanned: false,
            applied: BTreeMap::new(),
            held_up: Vec::new(),
            work: None,
        };
        Self {
            said: Mutex::new(said),
            changed: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// Changes what is said.
    pub(crate) fn say(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Says what is being worked on, from now on; and ends it at once if all is to end.
    pub(crate) fn begin(&self, work: Option<Work>) {
        self.say_if(|said| {
            let is_new = work.is_some() || said.work.is_some();
            if work.is_some() {
                said.state = FolderState::Busy;
            }
            said.work = work.map(|work| (work, Instant::now()));
            is_new
        });
        if self.is_stopping() {
            self.stop();
        }
    }

    /// Says how things stand while nothing is worked on.
    pub(crate) fn rest(&self, state: FolderState, problems: Vec<String>) {
        self.say_if(|said| {
            let is_new = said.state != state || said.problems != problems;
            (said.state, said.problems) = (state, problems);
            is_new
        });
    }

    /// Says which files those wait for who wait for all to be taken up.
    pub(crate) fn held_up(&self, paths: Vec<RelPath>) {
        self.say_if(|said| {
            let is_new = said.held_up != paths;
            said.held_up = paths;
            is_new
        });
    }

    /// Changes what is said, and rings if that is news.
    fn say_if(&self, change: impl FnOnce(&mut Said) -> bool) {
        if change(&mut self.said()) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Everything is to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        match &self.said().work {
            Some((Work::Scanning(progress), _)) => progress.cancel(),
            Some((Work::Applying { control, .. }, _)) => {
                control.stop.store(true, Ordering::Relaxed);
            }
            Some((Work::Publishing { .. }, _)) | None => {}
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn status(&self) -> FolderStatus {
        let said = self.said();
        FolderStatus {
            state: said.state.clone(),
            files: said.totals.files,
            bytes: said.totals.bytes,
            conflicts: said.conflicts.clone(),
            problems: said.problems.clone(),
            scanned: said.scanned,
            progress: said.work.as_ref().map(|(work, started)| work.progress(*started)),
            applied: said.applied.clone(),
            held_up: said.held_up.clone(),
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn progress(&self, started: Instant) -> Progress {
        match self {
            Self::Scanning(progress) => {
                let counts = progress.counts();
                let hashing = counts.files_hashed > 0;
                Progress {
                    phase: Phase::Scanning,
                    files_done: if hashing { counts.files_hashed } else { counts.files_seen },
                    files_total: if hashing { counts.files_to_hash } else { 0 },
                    bytes_done: counts.bytes_hashed,
                    bytes_total: if hashing { counts.bytes_to_hash } else { 0 },
                    started,
                }
            }
            Self::Publishing { paths } => Progress {
                phase: Phase::Publishing,
                files_done: 0,
                files_total: *paths,
                bytes_done: 0,
                bytes_total: 0,
                started,
            },
            Self::Applying { control, actions, bytes } => Progress {
                phase: Phase::Applying,
                files_done: control.actions.load(Ordering::Relaxed),
                files_total: *actions,
                bytes_done: control.bytes.load(Ordering::Relaxed),
                bytes_total: *bytes,
                started,
            },
        }
    }
}
