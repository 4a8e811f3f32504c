//! Hints from the system about what changed.
//!
//! A hint says where to look and never what is there; a scan decides. On Linux each directory
//! has a watch of its own, put there by the scan right before it lists the directory (see
//! [`Entering`]), so that what is made in a new directory before its watch stands is seen by the
//! listing. Events go straight into a [`Debounce`] of bounded size; there is no queue to fill.
//! An overflow of the system's queue, or a limit on watches, turns into scans of everything.

mod debounce;
mod event;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ark_core::RelPath;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, oneshot};

use crate::fs::Root;
use crate::ignore::Rules;
use crate::scan::{Entering, Extent};

pub use debounce::{
    COALESCE, COMPLETE_GAP, Debounce, FIRST_OPEN_GAP, MAX_HOLD, MAX_OPEN_GAP, MAX_PENDING, Signal,
    Touch,
};

/// How often everything is looked at while not all of the folder is watched.
pub const UNWATCHED_RESCAN: Duration = Duration::from_mins(1);
/// How long a fence waits for its event before a scan of everything takes its place. Events
/// come within milliseconds unless the machine is overloaded.
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// The file systems of which the system tells all that happens there, as `statfs` has them: ext2
/// to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs, tmpfs, overlayfs. On one that other machines or
/// programs write to behind its back no event tells that nothing happened.
#[cfg(target_os = "linux")]
const TELLING: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x0102_1994,
    0x794c_7630,
];
/// Where the files of fences are made: the one directory that is never synced.
const FENCE_DIRECTORY: &str = ".ark";

/// Watches a folder. One consumer takes what is due; anybody may note or fence.
#[derive(Debug)]
pub struct Watch {
    root: Root,
    shared: Arc<Shared>,
    /// Apart from the state: adding a watch waits for the thread that delivers events, which
    /// takes the state's lock.
    watcher: Mutex<Option<RecommendedWatcher>>,
    /// Whether no events mean that nothing happened, where all is watched.
    tells_all: bool,
}

/// What the thread that delivers events works on.
#[derive(Debug)]
struct Shared {
    /// The folder's path in events: absolute.
    path: PathBuf,
    rules: Arc<Rules>,
    started: Instant,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    debounce: Debounce,
    /// Directories believed to have a watch. One that has one and is not in here is harmless.
    watched: BTreeSet<RelPath>,
    health: Health,
    /// When everything was last given out to be looked at.
    last_everything: Duration,
    fences: HashMap<Vec<u8>, oneshot::Sender<()>>,
}

/// Whether all directories have a watch.
#[derive(Debug, Default)]
struct Health {
    /// The system gives no watches at all: in words, why.
    broken: Option<String>,
    /// Why a watch was refused since everything was last looked at.
    refused: Option<String>,
    /// The same, in the time before that.
    refused_before: Option<String>,
}

impl Health {
    fn problem(&self) -> Option<&String> {
        self.broken.as_ref().or(self.refused.as_ref()).or(self.refused_before.as_ref())
    }
}

impl Watch {
    /// Begins to watch. Nothing is reported until a scan entered directories, but for files
    /// right in the root. If the system refuses, hints to look at everything come periodically
    /// and [`Watch::problem`] says why.
    pub fn start(root: &Root, rules: Arc<Rules>, quiet_period: Duration) -> Self {
        let path = std::path::absolute(root.path()).unwrap_or_else(|_| root.path().to_path_buf());
        let state = State {
            debounce: Debounce::new(quiet_period),
            watched: BTreeSet::new(),
            health: Health::default(),
            last_everything: Duration::ZERO,
            fences: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            path,
            rules,
            started: Instant::now(),
            state: Mutex::new(state),
            wake: Notify::new(),
        });
        let handler = Arc::clone(&shared);
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(move |event| handler.event(event), config);
        let watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                shared.state().health.broken = Some(event::in_words(&error));
                None
            }
        };
        let tells_all = tells_all(root);
        let watch = Self { root: root.clone(), shared, watcher: Mutex::new(watcher), tells_all };
        if cfg!(not(target_os = "linux")) {
            watch.add(&RelPath::root(), RecursiveMode::Recursive);
        }
        watch.entering(&RelPath::root());
        watch
    }

    /// The next hint, if one is due now.
    pub fn due(&self) -> Option<Extent> {
        let now = self.shared.now();
        self.shared.state().due(now)
    }

    /// The next hint, when one is due. Cancel-safe.
    pub async fn next(&self) -> Extent {
        loop {
            let woken = self.shared.wake.notified();
            let now = self.shared.now();
            let next_due = {
                let mut state = self.shared.state();
                if let Some(due) = state.due(now) {
                    return due;
                }
                state.next_due()
            };
            match next_due {
                Some(due) => {
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep(due.saturating_sub(now)) => {}
                    }
                }
                None => woken.await,
            }
        }
    }

    /// Where to look so that everything written before this call is seen, be it due or not. A
    /// file made in `.ark` shows when all earlier events have come; without that, everything.
    /// What went on before the last scan of everything began is that scan's to see.
    pub async fn fence(&self) -> Extent {
        let is_whole = self.tells_all && self.shared.state().health.problem().is_none();
        let passed = is_whole && self.pass_fence().await;
        let now = self.shared.now();
        let mut state = self.shared.state();
        if !passed {
            state.debounce.everything();
        }
        let taken = state.debounce.take_all(now);
        state.gave_out(taken.as_ref(), now);
        taken.unwrap_or(Extent::Paths(std::collections::BTreeMap::new()))
    }

    async fn pass_fence(&self) -> bool {
        let Ok(dir) = self.root.top().open_reserved(FENCE_DIRECTORY) else { return false };
        let path = self.shared.path.join(FENCE_DIRECTORY);
        if self.watch_path(&path, RecursiveMode::NonRecursive).is_err() {
            return false;
        }
        let (name, seen) = {
            let name = crate::fs::temporary_name();
            let (sender, seen) = oneshot::channel();
            self.shared.state().fences.insert(name.clone(), sender);
            (name, seen)
        };
        let made = dir.make_dir(&name, ark_core::Permissions::from_mode(0o700));
        let passed =
            made.is_ok() && matches!(tokio::time::timeout(FENCE_TIMEOUT, seen).await, Ok(Ok(())));
        self.shared.state().fences.remove(&name);
        if made.is_ok() && dir.remove_dir(&name).is_err() {
            tracing::debug!("a fence was left behind in .ark");
        }
        passed
    }

    /// Looks at `path` again when it was quiet: it was in flux when it was scanned.
    pub fn again(&self, path: RelPath) {
        let now = self.shared.now();
        self.shared.state().debounce.event(path, Signal::Modified, now);
        self.shared.wake.notify_one();
    }

    /// Everything is to be looked at.
    pub fn look_at_everything(&self) {
        self.shared.state().debounce.everything();
        self.shared.wake.notify_one();
    }

    /// What the user should know: not all of the folder is watched, so changes are found late.
    pub fn problem(&self) -> Option<String> {
        let why = self.shared.state().health.problem().cloned()?;
        Some(format!(
            "not all of {} is watched, so changes are found only every {} s: {why}",
            self.shared.path.display(),
            UNWATCHED_RESCAN.as_secs()
        ))
    }

    fn add(&self, directory: &RelPath, mode: RecursiveMode) {
        {
            let mut state = self.shared.state();
            if state.health.broken.is_some() || state.health.refused.is_some() {
                return;
            }
            // Before the watch is asked for: if the directory goes meanwhile, its event takes it
            // out again, and the worst is to ask twice.
            if !state.watched.insert(directory.clone()) {
                return;
            }
        }
        let path = self.shared.absolute(directory);
        if let Err(error) = self.watch_path(&path, mode) {
            let mut state = self.shared.state();
            state.watched.remove(directory);
            if !event::is_out_of_reach(&error) {
                state.health.refused = Some(event::in_words(&error));
                drop(state);
                self.shared.wake.notify_one();
            }
        }
    }

    fn watch_path(&self, path: &std::path::Path, mode: RecursiveMode) -> notify::Result<()> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        match watcher.as_mut() {
            Some(watcher) => watcher.watch(path, mode),
            None => Err(notify::Error::generic("no watcher")),
        }
    }
}

#[cfg(target_os = "linux")]
fn tells_all(root: &Root) -> bool {
    let is_telling = |kind| TELLING.iter().any(|&telling| u64::try_from(kind) == Ok(telling));
    rustix::fs::statfs(root.path()).is_ok_and(|found| is_telling(found.f_type))
}

#[cfg(not(target_os = "linux"))]
fn tells_all(_root: &Root) -> bool {
    false
}

impl Entering for Watch {
    fn entering(&self, directory: &RelPath) {
        if cfg!(target_os = "linux") {
            self.add(directory, RecursiveMode::NonRecursive);
        }
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn due(&mut self, now: Duration) -> Option<Extent> {
        let overdue = self.rescan_due().is_some_and(|due| due <= now);
        if overdue {
            self.debounce.everything();
        }
        let due = self.debounce.due(now);
        self.gave_out(due.as_ref(), now);
        due
    }

    fn next_due(&self) -> Option<Duration> {
        [self.debounce.next_due(), self.rescan_due()].into_iter().flatten().min()
    }

    /// When everything has to be looked at because not all is watched.
    fn rescan_due(&self) -> Option<Duration> {
        self.health.problem().map(|_| self.last_everything + UNWATCHED_RESCAN)
    }

    fn gave_out(&mut self, extent: Option<&Extent>, now: Duration) {
        if extent == Some(&Extent::Everything) {
            self.last_everything = now;
            // The scan that follows asks for the missing watches once more.
            self.health.refused_before = self.health.refused.take();
        }
    }

    /// `path` and what was below it have no watches any more.
    fn forget(&mut self, path: &RelPath) {
        while let Some(watched) = self.watched.range(path..).next() {
            if !watched.starts_with(path) {
                break;
            }
            let watched = watched.clone();
            self.watched.remove(&watched);
        }
    }
}
