//! What a user sees in a folder: every path with its kind, permission bits, time and content.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a condition is looked at: often enough for a test to feel immediate.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks until `condition` gives a value, and gives up after `limit`.
///
/// # Panics
/// When the limit is over; the message names `what`.
#[track_caller]
pub fn await_condition<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    try_condition(limit, condition).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// Looks until `condition` gives a value; `None` after `limit`.
pub fn try_condition<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let value = condition();
        if value.is_some() || start.elapsed() >= limit {
            return value;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What stands at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file: length and BLAKE3 of its content.
    File(u64, [u8; 32]),
    /// A symbolic link: its target.
    Symlink(PathBuf),
    /// A directory.
    Directory,
    /// Anything else (socket, FIFO, device).
    Other,
}

/// One path of a folder, as far as ark keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Kind and content.
    pub kind: Kind,
    /// The nine permission bits; 0 for symlinks, whose bits mean nothing.
    pub mode: u32,
    /// Modification time in nanoseconds since 1970; 0 for directories, whose time is not kept.
    pub mtime_ns: i128,
}

/// A folder as it is: relative paths to items, ark's own `.ark` left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree(pub BTreeMap<PathBuf, Item>);

impl Tree {
    /// Reads the folder. Paths that vanish meanwhile are left out: compare when at rest.
    pub fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.read_below(root, Path::new(""));
        tree
    }

    fn read_below(&mut self, root: &Path, below: &Path) {
        let Ok(listing) = std::fs::read_dir(root.join(below)) else { return };
        for entry in listing.flatten() {
            let name = entry.file_name();
            if name == OsStr::new(".ark") || name.as_bytes().starts_with(b".ark-") {
                continue;
            }
            let path = below.join(&name);
            let Some(item) = Item::read(&root.join(&path)) else { continue };
            let is_directory = item.kind == Kind::Directory;
            self.0.insert(path.clone(), item);
            if is_directory {
                self.read_below(root, &path);
            }
        }
    }

    /// The paths, as text.
    pub fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// How many regular files it has.
    pub fn files(&self) -> usize {
        self.0.values().filter(|item| matches!(item.kind, Kind::File(..))).count()
    }

    /// The first differences from `other`, a line each; empty if they are the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        const SHOWN: usize = 20;
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        paths
            .into_iter()
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| {
                format!("{}: {:?} / {:?}", path.display(), self.0.get(path), other.0.get(path))
            })
            .take(SHOWN)
            .collect()
    }
}

impl Item {
    fn read(path: &Path) -> Option<Self> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        let time = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let bits = meta.permissions().mode() & 0o777;
        let (kind, mode, mtime_ns) = if meta.is_symlink() {
            (Kind::Symlink(std::fs::read_link(path).ok()?), 0, time)
        } else if meta.is_dir() {
            (Kind::Directory, bits, 0)
        } else if meta.is_file() {
            let mut hasher = blake3::Hasher::new();
            let mut file = std::fs::File::open(path).ok()?;
            std::io::copy(&mut file, &mut hasher).ok()?;
            (Kind::File(meta.len(), *hasher.finalize().as_bytes()), bits, time)
        } else {
            (Kind::Other, bits, 0)
        };
        Some(Self { kind, mode, mtime_ns })
    }
}
