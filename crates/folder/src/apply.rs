//! Carries a plan out, a batch at a time.
//!
//! Content goes into temporaries beside its targets and is synced once for the batch. Then each
//! target is looked at again: only what is still as base says is replaced, by an exchange where
//! the system has it, and what was displaced is looked at, too, and put back if it is not what
//! was expected. So a local edit is kept whenever it falls. The names are synced, and only then
//! is base told (by the caller): whatever a crash leaves, base never claims more than the disk has.
//!
//! What fails, fails by itself: its base stays, it is to be tried again, and the rest goes on.

pub(crate) mod aside;
mod change;
mod content;
mod finish;
mod place;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ark_core::{Read, RelPath};

use crate::base::{BaseError, BaseRead, Cache, Hold, Record, Records, Retry};
use crate::durable::{MAX_SINGLE_SYNCS, Unsynced};
use crate::fs::{Dir, FsError, FsErrorKind, Granularity, Root, Stat};
use crate::plan::Action;
use crate::scan::FoundNode;

/// Bytes of content per batch: what is under way when the power fails is written again, and
/// temporaries take this much room beside what they replace.
pub const MAX_BATCH_BYTES: u64 = 256 << 20;
/// Files written per batch: one sync and one transaction each.
pub const MAX_BATCH_WRITES: usize = 4096;
/// Actions per batch in all: bounds the transaction where nothing is written.
pub const MAX_BATCH_ACTIONS: usize = 16_384;

/// How far applying is, and whether it is to end.
#[derive(Debug, Default)]
pub struct Control {
    /// Actions attempted.
    pub actions: AtomicU64,
    /// Bytes of content written.
    pub bytes: AtomicU64,
    /// Set to end as soon as nothing is left half done.
    pub stop: AtomicBool,
}

/// What a batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Actions attempted, from the first on; fewer than given only if it was stopped.
    pub attempted: usize,
    /// What base is to say now.
    pub records: BTreeMap<RelPath, Option<Record>>,
    /// Paths that were not as base says: to be scanned.
    pub dirty: BTreeSet<RelPath>,
    /// Paths that are not as wanted, with the reason.
    pub retries: BTreeMap<RelPath, Retry>,
}

/// Why a batch could not be carried out: nothing of it may be recorded. What it did on disk is
/// found by the next scan to be what the joined tree says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Base could not be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// What was written could not be made durable.
    #[error("cannot make the folder's files durable")]
    Sync(#[source] FsError),
}

/// Adds what a batch failed at to what those of the same plan before it did. Of two failures of a
/// path the one that is tried again the soonest counts: that a directory waits for what is in it is
/// not forgotten where the file that is wanted in its place cannot be written, then, either. If it
/// has no reason to show, that of the other is shown.
pub fn add_failing(failing: &mut BTreeMap<RelPath, Retry>, batch: BTreeMap<RelPath, Retry>) {
    for (path, mut retry) in batch {
        match failing.entry(path) {
            Entry::Vacant(entry) => {
                entry.insert(retry);
            }
            Entry::Occupied(entry) => {
                let counts = entry.into_mut();
                if retry.hold < counts.hold {
                    std::mem::swap(counts, &mut retry);
                }
                if counts.reason.is_empty() {
                    counts.reason = retry.reason;
                }
            }
        }
    }
}

/// How many of `actions` make the next batch; at least one, if there are any.
pub fn batch_length(actions: &[Action]) -> usize {
    let (mut bytes, mut writes) = (0u64, 0);
    for (count, action) in actions.iter().enumerate().take(MAX_BATCH_ACTIONS) {
        bytes = bytes.saturating_add(action.bytes());
        writes += usize::from(matches!(action, Action::Write { .. }));
        if count > 0 && (bytes > MAX_BATCH_BYTES || writes > MAX_BATCH_WRITES) {
            return count;
        }
    }
    actions.len().min(MAX_BATCH_ACTIONS)
}

/// What a batch is to heed besides what base says.
pub struct Heed<'a> {
    /// Says of a path that base does not have, and whether it is a directory, if it stays as it is
    /// for as long as it is there.
    pub is_left_alone: &'a mut dyn FnMut(&RelPath, bool) -> bool,
    /// Paths that are to be scanned, or tried again, whatever comes of this batch: no directory
    /// above them is closed to that.
    pub awaited: &'a BTreeSet<RelPath>,
}

/// Carries out `actions`, one batch. Blocking.
///
/// # Errors
/// See [`ApplyError`]; what fails about one path is in the result.
pub fn apply<R, B>(
    root: &Root,
    reader: &R,
    base: &B,
    granularity: Granularity,
    actions: &[Action],
    control: &Control,
    heed: Heed<'_>,
) -> Result<Applied, ApplyError>
where
    R: Read + Sync,
    B: BaseRead,
{
    let disk = Disk { base, now: HashMap::new() };
    let Heed { is_left_alone, awaited } = heed;
    let mut batch = Batch {
        root,
        granularity,
        disk,
        is_left_alone,
        awaited,
        touched: BTreeMap::new(),
        moved: BTreeSet::new(),
        unsynced: Unsynced::default(),
        before_bits: HashMap::new(),
        failed: BTreeMap::new(),
        applied: Applied::default(),
    };
    let mut rest = actions;
    while let Some(first) = rest.first() {
        if control.stop.load(Ordering::Relaxed) {
            break;
        }
        let writes = rest.iter().take_while(|action| matches!(action, Action::Write { .. }));
        let count = match writes.count() {
            0 => {
                batch.act(first)?;
                1
            }
            count => batch.write(&rest[..count], reader, control)?,
        };
        batch.applied.attempted += count;
        control.actions.fetch_add(count as u64, Ordering::Relaxed);
        rest = &rest[count.max(1)..];
    }
    batch.finish()
}

/// What is on disk as far as ark knows: base, and what this batch did since.
#[derive(Debug)]
struct Disk<'a, B> {
    base: &'a B,
    now: HashMap<RelPath, Option<Record>>,
}

impl<B: BaseRead> BaseRead for Disk<'_, B> {
    fn get(&self, path: &RelPath) -> Result<Option<Record>, BaseError> {
        match self.now.get(path) {
            Some(record) => Ok(record.clone()),
            None => self.base.get(path),
        }
    }

    fn below(&self, path: &RelPath) -> Result<Records<'_>, BaseError> {
        let records = self.base.below(path)?;
        Ok(Box::new(records.filter(|item| match item {
            Ok((path, _)) => !matches!(self.now.get(path), Some(None)),
            Err(_) => true,
        })))
    }
}

/// One batch under way.
struct Batch<'a, B> {
    root: &'a Root,
    granularity: Granularity,
    disk: Disk<'a, B>,
    /// See [`Heed`].
    is_left_alone: &'a mut dyn FnMut(&RelPath, bool) -> bool,
    awaited: &'a BTreeSet<RelPath>,
    /// Directories in which names were changed.
    touched: BTreeMap<RelPath, Touched>,
    /// Those of them that were found not to be where they were.
    moved: BTreeSet<RelPath>,
    /// Paths that are not what they should be by now: what is below them fails with them.
    failed: BTreeMap<RelPath, Hold>,
    applied: Applied,
    /// What is to be made durable before base is told.
    unsynced: Unsynced,
    /// Files whose bits were set, as they were before that.
    before_bits: HashMap<RelPath, Record>,
}

/// A directory in which names were changed.
#[derive(Debug)]
enum Touched {
    /// Always this one.
    One(Stat),
    /// Different ones at different times.
    Several,
}

/// What came of an action.
#[derive(Debug)]
enum Outcome {
    /// Done; base is to say this of these paths.
    Done(Vec<(RelPath, Option<Record>)>),
    /// The disk is not as base says: these paths are to be scanned.
    Dirty(Vec<RelPath>),
    /// It could not be done.
    Failed(Retry),
}

/// Why an action was not done.
#[derive(Debug)]
enum Stopped {
    Fs(FsError),
    /// As [`Outcome::Dirty`].
    Dirty(Vec<RelPath>),
    /// As [`Outcome::Failed`].
    Failed(Retry),
    /// What is at this path is perhaps not seen yet, perhaps never will be: it is to be scanned,
    /// and counts as skipped until that finds something.
    Covered {
        path: RelPath,
        reason: String,
    },
    Base(BaseError),
}

impl From<FsError> for Stopped {
    fn from(error: FsError) -> Self {
        Self::Fs(error)
    }
}

impl From<BaseError> for Stopped {
    fn from(error: BaseError) -> Self {
        Self::Base(error)
    }
}

impl<B: BaseRead> Batch<'_, B> {
    /// Carries out one action that writes no content.
    fn act(&mut self, action: &Action) -> Result<(), ApplyError> {
        let outcome = match self.failed_above(action) {
            Some(hold) => Ok(Outcome::Failed(Retry { hold, reason: String::new() })),
            None => self.change(action),
        };
        self.take(action, outcome)
    }

    /// Carries out actions that write content; how many were attempted.
    fn write<R: Read + Sync>(
        &mut self,
        actions: &[Action],
        reader: &R,
        control: &Control,
    ) -> Result<usize, ApplyError> {
        let jobs: Vec<Option<content::Job<'_>>> = actions
            .iter()
            .map(|action| match action {
                Action::Write { path, want } if self.failed_above(action).is_none() => {
                    Some(content::Job { path, want })
                }
                _ => None,
            })
            .collect();
        let count = jobs.iter().flatten().count();
        let sync_each = count <= MAX_SINGLE_SYNCS;
        let mut written = content::write_all(self.root, reader, &jobs, sync_each, control);
        if !sync_each && let Err(error) = self.root.sync_file_system() {
            tracing::warn!(error = %error.in_words(), "what was written is synced one by one");
            for written in &mut written {
                written.sync(self.root);
            }
        }
        let mut attempted = 0;
        let mut written = written.into_iter();
        for action in actions {
            let Some(next) = written.next() else { break };
            let outcome = match next {
                content::Written::Stopped => break,
                content::Written::Skipped => {
                    let hold = self.failed_above(action).unwrap_or(Hold::Blocked);
                    Ok(Outcome::Failed(Retry { hold, reason: String::new() }))
                }
                content::Written::Failed(retry) => Ok(Outcome::Failed(retry)),
                content::Written::Fs(error) => Err(Stopped::Fs(error)),
                content::Written::Temporary(made) => self.place(action, &made),
            };
            self.take(action, outcome)?;
            attempted += 1;
        }
        written.for_each(content::Written::discard);
        Ok(attempted)
    }

    fn take(
        &mut self,
        action: &Action,
        outcome: Result<Outcome, Stopped>,
    ) -> Result<(), ApplyError> {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Stopped::Base(error)) => return Err(error.into()),
            Err(Stopped::Dirty(paths)) => Outcome::Dirty(paths),
            Err(Stopped::Failed(retry)) => Outcome::Failed(retry),
            Err(Stopped::Covered { path, reason }) => {
                self.applied.dirty.insert(path);
                Outcome::Failed(Retry { hold: Hold::Skipped, reason })
            }
            Err(Stopped::Fs(error)) => {
                tracing::debug!(error = %error.in_words(), "an action failed");
                of_error(action, &error)
            }
        };
        match &outcome {
            Outcome::Done(_) => tracing::trace!(?action, "done"),
            outcome => tracing::debug!(?action, ?outcome, "not done"),
        }
        match outcome {
            Outcome::Done(records) => {
                for (path, record) in records {
                    self.applied.records.insert(path.clone(), record.clone());
                    self.disk.now.insert(path, record);
                }
            }
            Outcome::Dirty(paths) => {
                self.applied.dirty.extend(paths);
                self.fail(action, &Retry { hold: Hold::Blocked, reason: String::new() });
            }
            Outcome::Failed(retry) => self.fail(action, &retry),
        }
        Ok(())
    }

    fn fail(&mut self, action: &Action, retry: &Retry) {
        for path in action.paths() {
            self.failed.insert(path.clone(), retry.hold);
            // The source of a move shows its own want's failure only if nothing else did.
            self.applied.retries.entry(path.clone()).or_insert_with(|| retry.clone());
        }
    }

    /// How a directory that the action's paths are in failed.
    fn failed_above(&self, action: &Action) -> Option<Hold> {
        if self.failed.is_empty() {
            return None;
        }
        action.paths().find_map(|path| {
            (1..path.names().len()).find_map(|depth| {
                self.failed.get(&RelPath::from(path.names()[..depth].to_vec())).copied()
            })
        })
    }

    /// The directory that holds `path`, and the name there. Looked for anew each time: an open
    /// directory goes on naming one that was moved away.
    fn parent<'p>(&self, path: &'p RelPath) -> Result<(Dir, &'p [u8]), FsError> {
        let (dir, name) = self.root.parent(path)?;
        Ok((dir, name.as_bytes()))
    }

    /// Base's record of what was just made at a path.
    fn cache(&self, stat: Stat) -> Cache {
        let now = crate::fs::now();
        // A later write moves the mtime to the clock's time: where that is far from the mtime
        // that was set, it shows however coarse the clock is.
        let is_dated = stat.ctime.seconds.abs_diff(stat.mtime.seconds) > MAX_TICK_SECONDS;
        let settled = stat.kind == crate::fs::StatKind::Directory
            || is_dated
            || self.granularity.settled(&stat, now);
        Cache { stat, settled }
    }
}

/// More seconds than any file system's clock stands still for.
const MAX_TICK_SECONDS: u64 = 4;

/// What a failed operation of the file system means.
fn of_error(action: &Action, error: &FsError) -> Outcome {
    match error.kind() {
        // A directory on the way may be what is not as base says.
        FsErrorKind::NotFound | FsErrorKind::NotADirectory => {
            let above = |path: &RelPath| {
                let names = path.names().to_vec();
                (1..=names.len()).map(move |depth| RelPath::from(names[..depth].to_vec()))
            };
            Outcome::Dirty(action.paths().flat_map(above).collect())
        }
        FsErrorKind::Exists | FsErrorKind::NotAFile | FsErrorKind::NotEmpty => {
            Outcome::Dirty(action.paths().cloned().collect())
        }
        kind => {
            // What failed was a temporary, of which nobody knows.
            let reason = match action {
                Action::Write { path, .. } => format!("cannot write {path:?}: {}", error.source),
                _ => error.in_words(),
            };
            Outcome::Failed(Retry { hold: hold(kind), reason })
        }
    }
}

/// Whether a failure may pass by itself.
fn hold(kind: FsErrorKind) -> Hold {
    match kind {
        FsErrorKind::Denied
        | FsErrorKind::NameTooLong
        | FsErrorKind::NotRepresentable
        | FsErrorKind::TooLarge
        | FsErrorKind::OtherDevice
        | FsErrorKind::Unsupported => Hold::Skipped,
        _ => Hold::Failed,
    }
}

/// Whether what is there now is what `before` saw, but for a rename since, which moves the ctime.
fn same_content(now: &Stat, before: &Stat) -> bool {
    now.kind == before.kind
        && now.ino == before.ino
        && now.size == before.size
        && now.mtime == before.mtime
}

/// Whether a node is one that has bits of its own.
const fn has_permissions(node: FoundNode) -> bool {
    !matches!(node, FoundNode::Symlink { .. })
}
