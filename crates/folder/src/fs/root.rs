//! The root of a synced folder, held open: everything is reached from its descriptor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ark_core::{Name, RelPath};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::dir::{DIRECTORY, Dir, Shared};
use super::{FsError, Gate, Granularity, Stat, clock};

/// The root directory of a folder. Cheap to clone; usable from any thread. Every path is
/// resolved below it without following a symlink in any component and without leaving its
/// device, so a parent that is replaced by a symlink or covered by a mount never leads out.
#[derive(Debug, Clone)]
pub struct Root {
    path: Arc<Path>,
    dir: Dir,
}

/// Room on the file system of a folder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still write.
    pub free: u64,
    /// The whole.
    pub total: u64,
}

impl Root {
    /// Opens the directory at `path`, which may itself lie behind symlinks.
    ///
    /// # Errors
    /// It is not there, not a directory, or not allowed.
    pub fn open(path: &Path) -> Result<Self, FsError> {
        Self::open_with(path, None)
    }

    /// As [`Root::open`], for tests: every change of the folder passes `gate` first.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_behind(path: &Path, gate: Gate) -> Result<Self, FsError> {
        Self::open_with(path, Some(gate))
    }

    fn open_with(path: &Path, gate: Option<Gate>) -> Result<Self, FsError> {
        let failed = |errno| FsError::new("open folder", path.display().to_string(), errno);
        let fd = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(failed)?;
        let dev = Stat::from_system(&rustix::fs::fstat(&fd).map_err(failed)?).dev;
        let shared = Shared { dev, beneath: super::dir::has_openat2(&fd), gate };
        let dir = Dir::new(fd, RelPath::root(), shared);
        Ok(Self { path: path.into(), dir })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path of this folder as the system names it. For words and for watches only: operations
    /// go through descriptors.
    pub fn absolute(&self, path: &RelPath) -> PathBuf {
        super::dir::to_system_path(&self.path, path)
    }

    /// Whether the path it was opened at still leads to the directory that is held open. If not
    /// it was replaced, unmounted, or something was mounted over it.
    ///
    /// # Errors
    /// Other than that nothing is there, which is `false`.
    pub fn in_place(&self) -> Result<bool, FsError> {
        let held = self.dir.stat_self()?;
        match rustix::fs::statat(CWD, &*self.path, AtFlags::empty()) {
            Ok(stat) => Ok(Stat::from_system(&stat).same_object(&held)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(FsError::new("stat", self.path.display().to_string(), errno)),
        }
    }

    /// The root itself as a directory.
    pub fn top(&self) -> &Dir {
        &self.dir
    }

    /// The directory at `path`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory` (a symlink too), `OtherDevice` for what lies on another
    /// file system than the root.
    pub fn dir(&self, path: &RelPath) -> Result<Dir, FsError> {
        self.dir.descend(path)
    }

    /// The directory that holds `path`, and the name there. The root is held by none and gives
    /// an error of kind `Exists`.
    ///
    /// # Errors
    /// As [`Root::dir`].
    pub fn parent<'a>(&self, path: &'a RelPath) -> Result<(Dir, &'a Name), FsError> {
        let Some(name) = path.names().last() else {
            return Err(FsError::new("change", self.path.display().to_string(), Errno::EXIST));
        };
        let parents = RelPath::from(path.names()[..path.names().len() - 1].to_vec());
        Ok((self.dir(&parents)?, name))
    }

    /// What is at `path`; a symlink itself, not where it leads.
    ///
    /// # Errors
    /// `NotFound` and `NotADirectory` where nothing is.
    pub fn stat(&self, path: &RelPath) -> Result<Stat, FsError> {
        if path.is_root() {
            return self.dir.stat_self();
        }
        let (dir, name) = self.parent(path)?;
        dir.stat(name.as_bytes())
    }

    /// Makes all that was written to this file system durable. Elsewhere than on Linux it syncs
    /// the whole system.
    ///
    /// # Errors
    /// The device failed, also earlier and unnoticed.
    pub fn sync_file_system(&self) -> Result<(), FsError> {
        self.dir.sync_file_system()
    }

    /// Room on its file system.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn space(&self) -> Result<Space, FsError> {
        self.dir.space()
    }

    /// Measures how finely this file system stamps changes, by changing a temporary file a few
    /// times. Where it cannot be measured the kernel's tick is assumed.
    pub fn granularity(&self) -> Granularity {
        clock::measure(&self.dir).unwrap_or(Granularity::tick())
    }
}

/// Flags with which a directory is opened to be read or synced.
pub(super) const READABLE: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
