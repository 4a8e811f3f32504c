//! What is on disk, as far as it differs from base.
//!
//! A walk compares stats with those in base, then the files that may have changed are hashed in
//! parallel, and their content is handed to a [`Sink`]. A file that changes meanwhile is in flux:
//! it is reported and nothing is said of its content. What is ignored, skipped or unreadable is
//! *kept*: neither found nor gone. A known directory that is unreadable by its own bits is *closed*:
//! its bits are found as any others, and of what base has in it nothing is said.

mod compare;
mod hash;
mod progress;
mod touched;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use ark_core::{Content, Link, Mtime, Object, ObjectId, Permissions, RelPath};

use crate::base::{BaseError, BaseRead};
use crate::fs::{FsError, Granularity, Root, Stat};
use crate::ignore::{Learned, Rules, RulesError, Used};
use crate::watch::Touch;

use walk::Walked;

pub use hash::{Hashers, HashersError};
pub use progress::{ScanCounts, ScanProgress};

/// Kind and content of what is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundNode {
    /// A regular file.
    File {
        /// Its content.
        content: Content,
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// The raw object that holds the target's bytes.
        target: ObjectId,
        /// Length of the target in bytes.
        size: u64,
    },
    /// A directory; what is in it has paths of its own.
    Directory,
}

/// What a scan found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Kind and content.
    pub node: FoundNode,
    /// The permission bits; of a symlink always 0o777.
    pub permissions: Permissions,
    /// When the content was last modified; zero for directories.
    pub mtime: Mtime,
    /// The stat, equal before and after hashing.
    pub stat: Stat,
    /// Whether the content is known for as long as the stat stays unchanged. If not, the file
    /// was hashed so soon after its last change that another one may have left the same stat:
    /// the next scan must hash it again.
    pub settled: bool,
}

/// Why a path, and all below it, keeps what it has in the joined tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kept {
    /// A socket, FIFO or device: what it is called.
    Special(&'static str),
    /// A directory on another device.
    MountPoint,
    /// It cannot be read: in words, why. For a directory: its listing or its ignore rules.
    Unreadable(String),
    /// It cannot be made durable: in words, why.
    Unsyncable(String),
    /// More than [`MAX_PATH_DEPTH`](ark_core::MAX_PATH_DEPTH) names in its path.
    TooDeep,
    /// A symlink whose target has more than [`MAX_SYMLINK_TARGET`](ark_core::MAX_SYMLINK_TARGET) bytes.
    TargetTooLong,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special(what) => write!(f, "a {what} is not synced"),
            Self::MountPoint => f.write_str("another file system is mounted here; not synced"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::Unsyncable(why) => write!(f, "cannot be made durable, so not synced: {why}"),
            Self::TooDeep => f.write_str("nested too deeply; not synced"),
            Self::TargetTooLong => f.write_str("the symlink's target is too long; not synced"),
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// The whole folder.
    Everything,
    /// These paths. A directory that base does not have is walked whole, and so is what a
    /// changed `.arkignore` governs.
    Paths(BTreeMap<RelPath, Touch>),
}

/// What a scan saw. No path is in two of its collections, but that a file may be found where
/// base has a directory whose entries are gone, and that the bits of a closed directory may be.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// What base does not have, or has with another kind, content, permissions or stat.
    pub found: BTreeMap<RelPath, Found>,
    /// What base has and is no longer there, directories with all that was in them; in order.
    /// Never a path that is ignored or kept, nor one below such.
    pub gone: Vec<RelPath>,
    /// What base has, is no longer there, and is or was ignored when it went, so that nobody
    /// says that it is to be removed: base should forget it, and write it again when no rule
    /// holds it back any more. Directories with all that was in them; in order.
    pub forgotten: Vec<RelPath>,
    /// What keeps its joined entry, with all below it.
    pub kept: BTreeMap<RelPath, Kept>,
    /// Directories that base has and that keep this user out by their own bits. What base has in
    /// them is neither found nor gone.
    pub closed: BTreeSet<RelPath>,
    /// Files that changed while they were looked at: neither found nor gone. Scan them again.
    pub in_flux: BTreeSet<RelPath>,
    /// Files, symlinks and directories that are as base has them.
    pub unchanged: u64,
    /// Temporaries seen in directories that were listed: the directory and the name there. Those
    /// that nobody works on were left by a crash. At most [`MAX_LEFTOVERS`].
    pub leftovers: Vec<(RelPath, Vec<u8>)>,
    /// What the user should know besides: names that cannot be synced, lines of `.arkignore`
    /// that are no patterns. At most [`MAX_NOTES`].
    pub notes: Vec<String>,
    /// The rules that were used: to be [learned](Rules::learn) once all of this is recorded.
    pub learned: Learned,
}

/// The most temporaries that one scan lists; the next one finds more.
pub const MAX_LEFTOVERS: usize = 10_000;
/// The most notes that one scan collects: they are for people to read.
pub const MAX_NOTES: usize = 100;
/// How often a scan that waits looks whether it was cancelled.
const WAIT_STEP: Duration = Duration::from_millis(10);

/// Why a scan ended without a result. Nothing may be concluded from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The folder's root could not be read.
    #[error("cannot read the folder")]
    Root(#[source] FsError),
    /// The ignore rules in the root could not be read.
    #[error("cannot tell what to ignore in the folder")]
    Rules(#[source] RulesError),
    /// Ignore rules changed while they were looked at, so that what was seen may be nobody's
    /// business: scan the same again, after a pause.
    #[error("the ignore rules in {directory:?} are being changed")]
    RulesInFlux {
        /// The directory that holds them; empty for the root.
        directory: RelPath,
    },
    /// Base could not be read.
    #[error("cannot compare the folder with what was recorded about it")]
    Base(#[from] BaseError),
    /// The sink takes no more objects; whoever owns it knows why.
    #[error("what was found could not be stored")]
    Sink(#[from] SinkClosed),
    /// [`ScanProgress::cancel`] was called.
    #[error("the scan was cancelled")]
    Cancelled,
}

/// A sink takes no more objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sink of the scan is closed")]
pub struct SinkClosed;

/// Where a scan's objects go. Called from several threads at once.
pub trait Sink: Sync {
    /// Whether the object is stored already, with all it links, so that it need not be put.
    fn known(&self, link: Link) -> bool;

    /// Takes an object; blocks while there is no room. Children come before what links them.
    ///
    /// # Errors
    /// It takes no more.
    fn put(&self, object: Object) -> Result<(), SinkClosed>;
}

/// Hears of each directory right before it is listed, so that a watch stands before the
/// listing and nothing that is made in between is missed.
pub trait Entering: Sync {
    /// `directory` is about to be listed.
    fn entering(&self, directory: &RelPath);
}

/// Nobody watches.
impl Entering for () {
    fn entering(&self, _directory: &RelPath) {}
}

/// One scan: everything that it works with. Blocks; run it on a thread that may.
#[derive(Debug)]
pub struct Scan<'a, B: ?Sized, S: ?Sized, E: ?Sized> {
    /// The folder.
    pub root: &'a Root,
    /// What was last recorded, and the stats under which it was.
    pub base: &'a B,
    /// What to leave alone.
    pub rules: &'a Rules,
    /// Where objects go.
    pub sink: &'a S,
    /// Who watches directories; `&()` for nobody.
    pub watch: &'a E,
    /// The threads that hash.
    pub hashers: &'a Hashers,
    /// What [`Root::granularity`] said.
    pub granularity: Granularity,
    /// Counts along, and cancels.
    pub progress: &'a ScanProgress,
}

impl<B, S, E> Scan<'_, B, S, E>
where
    B: BaseRead + ?Sized,
    S: Sink + ?Sized,
    E: Entering + ?Sized,
{
    /// Looks at `extent`.
    ///
    /// # Errors
    /// It could not be finished; what could not be read below the root is no error, but kept.
    pub fn run(&self, extent: &Extent) -> Result<ScanResult, ScanError> {
        let Walked { mut result, candidates, gone, governing, passed, mut absent, is_all } =
            walk::walk(self, extent)?;
        if governing.iter().chain(&passed).any(Used::is_changed) {
            self.wait(self.rules.quiet())?;
        }
        hash::hash(self, candidates, &gone, &mut result)?;
        let mut used = governing.iter().chain(&passed);
        if let Some(directory) = used.find_map(|used| used.if_changed(self.root)) {
            return Err(ScanError::RulesInFlux { directory: directory.clone() });
        }
        let directories = gone.iter().filter(|gone| gone.node == FoundNode::Directory);
        absent.extend(directories.map(|gone| gone.path.clone()));
        if is_all {
            absent.extend(self.rules.lost(self.root));
        }
        result.learned = Learned::new(governing, absent, is_all);
        result.gone = gone.into_iter().map(|gone| gone.path).collect();
        Ok(result)
    }

    fn wait(&self, time: Duration) -> Result<(), ScanError> {
        let until = Instant::now() + time;
        loop {
            if self.progress.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(WAIT_STEP));
        }
    }
}

impl<B: ?Sized, S: ?Sized, E: ?Sized> Clone for Scan<'_, B, S, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: ?Sized, S: ?Sized, E: ?Sized> Copy for Scan<'_, B, S, E> {}
