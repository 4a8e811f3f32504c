//! One open directory and what may be done in it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ark_core::{Name, RelPath};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::NOT_A_FILE;
use super::root::READABLE;
use super::{FsError, Gate, Space, Stat, StatKind};

/// How directories on the way are opened: on Linux without the right to read them, which a
/// search through them does not need.
#[cfg(target_os = "linux")]
pub(super) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How directories on the way are opened.
#[cfg(not(target_os = "linux"))]
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Longer paths are walked name by name: the kernel takes at most 4,096 bytes at once.
#[cfg(target_os = "linux")]
const MAX_PATH_AT_ONCE: usize = 4000;
/// Tries of a resolution that a concurrent rename disturbed, before it goes name by name.
#[cfg(target_os = "linux")]
const RESOLVE_TRIES: usize = 3;

/// What all directories of one root have in common.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// The root's device; directories on another one are not entered.
    pub dev: u64,
    /// Whether the kernel resolves several names at once safely (`openat2`).
    pub beneath: bool,
    /// Who stands before every change; see [`Root::open_behind`](super::Root::open_behind).
    pub gate: Option<Gate>,
}

/// An open directory of a folder. Cheap to clone; usable from any thread. It goes on naming the
/// same directory when that is moved or deleted.
///
/// Names are bytes and not [`Name`]s, because temporaries have reserved names; a name that would
/// lead out of the directory (empty, `.`, `..`, a slash or NUL in it) is refused as `NotRepresentable`.
#[derive(Debug, Clone)]
pub struct Dir {
    pub(super) fd: Arc<OwnedFd>,
    path: RelPath,
    shared: Shared,
}

/// A name in a directory and, where the file system says so for nothing, what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name as the system has it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Option<StatKind>,
}

/// Whether the kernel has `openat2` and lets this process use it: containers may forbid it.
#[cfg(target_os = "linux")]
pub(super) fn has_openat2(fd: &OwnedFd) -> bool {
    open_beneath(fd, Path::new(".")).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn has_openat2(_fd: &OwnedFd) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn open_beneath(fd: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(fd, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// `path` below `base` in the system's terms.
pub(crate) fn to_system_path(base: &Path, path: &RelPath) -> PathBuf {
    let mut whole = base.to_path_buf();
    whole.extend(path.names().iter().map(|name| OsStr::from_bytes(name.as_bytes())));
    whole
}

/// Opening and looking.
impl Dir {
    pub(super) fn new(fd: OwnedFd, path: RelPath, shared: Shared) -> Self {
        Self { fd: Arc::new(fd), path, shared }
    }

    /// Makes every directory below seem to be on another device.
    #[cfg(test)]
    pub(super) fn pretend_device(&mut self, dev: u64) {
        self.shared.dev = dev;
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// The directory at `path` below this one.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory` (a symlink too), `OtherDevice`.
    pub fn descend(&self, path: &RelPath) -> Result<Self, FsError> {
        if path.is_root() {
            return Ok(self.clone());
        }
        #[cfg(target_os = "linux")]
        if self.shared.beneath {
            let whole = to_system_path(Path::new(""), path);
            if whole.as_os_str().len() <= MAX_PATH_AT_ONCE {
                for _ in 0..RESOLVE_TRIES {
                    match open_beneath(&self.fd, &whole) {
                        Ok(fd) => return self.child(fd, path),
                        Err(Errno::AGAIN) => {}
                        Err(errno) => return Err(self.below("open directory", path, errno)),
                    }
                }
            }
        }
        let mut dir = self.clone();
        for name in path.names() {
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    /// The directory `name` in this one.
    ///
    /// # Errors
    /// As [`Dir::descend`].
    pub fn open_dir(&self, name: &Name) -> Result<Self, FsError> {
        let path = RelPath::from(vec![name.clone()]);
        #[cfg(target_os = "linux")]
        if self.shared.beneath {
            match open_beneath(&self.fd, &to_system_path(Path::new(""), &path)) {
                Ok(fd) => return self.child(fd, &path),
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(self.below("open directory", &path, errno)),
            }
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty())
            .map_err(|errno| self.failed("open directory", name.as_bytes(), errno))?;
        self.child(fd, &path)
    }

    /// The directory of a reserved name in this one, which is no path of the folder.
    pub(crate) fn open_reserved(&self, name: &str) -> Result<Self, FsError> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|errno| self.failed("open directory", name.as_bytes(), errno))?;
        self.child(fd, &RelPath::root())
    }

    fn child(&self, fd: OwnedFd, below: &RelPath) -> Result<Self, FsError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.below("stat", below, errno))?;
        if Stat::from_system(&stat).dev != self.shared.dev {
            return Err(self.below("enter", below, Errno::XDEV));
        }
        let names = [self.path.names(), below.names()].concat();
        Ok(Self::new(fd, RelPath::from(names), self.shared.clone()))
    }

    /// The directory's own stat.
    ///
    /// # Errors
    /// The file system failed.
    pub fn stat_self(&self) -> Result<Stat, FsError> {
        match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Ok(Stat::from_system(&stat)),
            Err(errno) => Err(self.below("stat", &RelPath::root(), errno)),
        }
    }

    /// What `name` is; a symlink itself, not where it leads.
    ///
    /// # Errors
    /// `NotFound` where nothing is.
    pub fn stat(&self, name: &[u8]) -> Result<Stat, FsError> {
        self.checked("stat", name)?;
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| Stat::from_system(&stat))
            .map_err(|errno| self.failed("stat", name, errno))
    }

    /// All names but `.` and `..`, in no order. Whole or an error: a listing cut short would
    /// read as deletions.
    ///
    /// # Errors
    /// The directory cannot be read, or not to its end.
    pub fn entries(&self) -> Result<Vec<DirEntry>, FsError> {
        let failed = |errno| self.below("list", &RelPath::root(), errno);
        let listing = rustix::fs::Dir::new(self.readable().map_err(failed)?).map_err(failed)?;
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = match StatKind::of(entry.file_type()) {
                    StatKind::Other("unknown") => None,
                    kind => Some(kind),
                };
                entries.push(DirEntry { name: name.to_vec(), kind });
            }
        }
        Ok(entries)
    }

    /// Opens the regular file `name` for reading, and says what was opened. Never blocks on a
    /// FIFO or a device and never follows a symlink.
    ///
    /// # Errors
    /// `NotAFile` for anything but a regular file (`NotADirectory` for a symlink).
    pub fn open_file(&self, name: &[u8]) -> Result<(File, Stat), FsError> {
        self.checked("open", name)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let failed = |errno| self.failed("open", name, errno);
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(failed)?;
        let stat = Stat::from_system(&rustix::fs::fstat(&fd).map_err(failed)?);
        match stat.kind {
            StatKind::File => Ok((File::from(fd), stat)),
            _ => Err(failed(NOT_A_FILE)),
        }
    }

    /// Where the symlink `name` points, as it stands there.
    ///
    /// # Errors
    /// `NotFound`, or it is no symlink (`NotRepresentable`).
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>, FsError> {
        self.checked("read link", name)?;
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|errno| self.failed("read link", name, errno))
    }
}

/// Durability and room.
impl Dir {
    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// The device failed. A file system that cannot sync a directory is no error: it is synced as
    /// a whole.
    pub fn sync(&self) -> Result<(), FsError> {
        let failed = |errno| self.below("sync", &RelPath::root(), errno);
        let readable = self.readable().map_err(failed)?;
        self.sync_open(readable, b"")
    }

    /// Syncs what is open: the file `name`, or this directory where there is no name.
    pub(super) fn sync_open(&self, open: impl AsFd, name: &[u8]) -> Result<(), FsError> {
        let synced = self.allowed("sync", name).and_then(|()| {
            rustix::fs::fsync(open).map_err(|errno| self.failed("sync", name, errno))
        });
        match synced {
            Err(error) if error.is_no_sync() => self.sync_file_system(),
            synced => synced,
        }
    }

    /// Syncs the file system; one that cannot be synced is left as it is.
    pub(super) fn sync_file_system(&self) -> Result<(), FsError> {
        match self.sync_whole() {
            Err(error) if error.is_no_sync() => Ok(()),
            synced => synced,
        }
    }

    fn sync_whole(&self) -> Result<(), FsError> {
        self.allowed("sync file system of", b"")?;
        #[cfg(target_os = "linux")]
        {
            let failed = |errno| self.below("sync file system of", &RelPath::root(), errno);
            let readable = self.readable().map_err(failed)?;
            rustix::fs::syncfs(&readable).map_err(failed)
        }
        #[cfg(not(target_os = "linux"))]
        {
            rustix::fs::sync();
            let failed = |errno| self.below("sync file system of", &RelPath::root(), errno);
            let readable = self.readable().map_err(failed)?;
            rustix::fs::fsync(&readable).map_err(failed)
        }
    }

    pub(super) fn space(&self) -> Result<Space, FsError> {
        let stat = rustix::fs::fstatvfs(&self.fd)
            .map_err(|errno| self.below("measure", &RelPath::root(), errno))?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn readable(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.fd.as_fd(), ".", READABLE, Mode::empty())
    }

    pub(super) fn checked(&self, operation: &'static str, name: &[u8]) -> Result<(), FsError> {
        let leads_out = matches!(name, b"" | b"." | b"..")
            || name.iter().any(|&byte| byte == b'/' || byte == 0);
        if leads_out { Err(self.failed(operation, name, Errno::INVAL)) } else { Ok(()) }
    }

    /// Whether the gate lets a change through.
    pub(super) fn allowed(&self, operation: &'static str, name: &[u8]) -> Result<(), FsError> {
        let Some(gate) = &self.shared.gate else { return Ok(()) };
        gate.pass(operation, &self.path, name).map_err(|errno| self.failed(operation, name, errno))
    }

    /// [`Dir::checked`] and [`Dir::allowed`].
    pub(super) fn may(&self, operation: &'static str, name: &[u8]) -> Result<(), FsError> {
        self.checked(operation, name)?;
        self.allowed(operation, name)
    }

    pub(super) fn failed(&self, operation: &'static str, name: &[u8], errno: Errno) -> FsError {
        let mut path = self.path.to_bytes();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        FsError::new(operation, String::from_utf8_lossy(&path).into_owned(), errno)
    }

    fn below(&self, operation: &'static str, below: &RelPath, errno: Errno) -> FsError {
        let path = RelPath::from([self.path.names(), below.names()].concat());
        let shown = if path.is_root() { ".".to_owned() } else { path.to_string() };
        FsError::new(operation, shown, errno)
    }
}
