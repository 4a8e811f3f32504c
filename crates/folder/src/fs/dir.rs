//! One open directory and what may be done in it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ark_core::{Mtime, Name, Permissions, RelPath};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::error::NOT_A_FILE;
use super::root::READABLE;
use super::{FsError, Space, Stat, StatKind};

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
/// Tries to find a free temporary name; a second one is never needed but by ill luck.
const TEMPORARY_TRIES: usize = 16;
/// Tries of a resolution that a concurrent rename disturbed, before it goes name by name.
#[cfg(target_os = "linux")]
const RESOLVE_TRIES: usize = 3;

/// What all directories of one root have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    /// The root's device; directories on another one are not entered.
    pub dev: u64,
    /// Whether the kernel resolves several names at once safely (`openat2`).
    pub beneath: bool,
}

/// An open directory of a folder. Cheap to clone; usable from any thread. It goes on naming the
/// same directory when that is moved or deleted.
///
/// Names are bytes and not [`Name`]s, because temporaries have reserved names; a name that would
/// lead out of the directory (empty, `.`, `..`, a slash or NUL in it) is refused as `NotRepresentable`.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
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

/// A file made under a temporary name, open for reading and writing, mode 0600.
#[derive(Debug)]
pub struct Temporary {
    /// The file, empty.
    pub file: File,
    /// Its name in the directory: `.ark-tmp-` and 16 hex digits.
    pub name: Vec<u8>,
}

/// What the names of temporaries begin with; such names are reserved and never synced.
pub const TEMPORARY_PREFIX: &[u8] = b".ark-tmp-";

/// A name for a temporary that nobody else uses: `.ark-tmp-` and 16 random hex digits.
pub fn temporary_name() -> Vec<u8> {
    let random = format!("{:016x}", rand::random::<u64>());
    [TEMPORARY_PREFIX, random.as_bytes()].concat()
}

/// Makes `to`, which is empty, share the content of `from` without copying it.
///
/// # Errors
/// `Unsupported` or `OtherDevice` where the file systems cannot: copy instead.
#[cfg(target_os = "linux")]
pub fn clone_content(from: &File, to: &File) -> Result<(), FsError> {
    rustix::fs::ioctl_ficlone(to, from).map_err(|errno| {
        // INVAL: the file system knows clones, but not of these two.
        let errno = if errno == Errno::INVAL { Errno::OPNOTSUPP } else { errno };
        FsError::new("clone", "a temporary file".to_owned(), errno)
    })
}

/// Makes `to`, which is empty, share the content of `from` without copying it.
///
/// # Errors
/// Always `Unsupported` on this system: copy instead.
#[cfg(not(target_os = "linux"))]
pub fn clone_content(_from: &File, _to: &File) -> Result<(), FsError> {
    Err(FsError::new("clone", "a temporary file".to_owned(), Errno::OPNOTSUPP))
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
        Ok(Self::new(fd, RelPath::from(names), self.shared))
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

/// Making, moving and removing.
impl Dir {
    /// Makes the directory `name` with these bits, less the process's umask.
    ///
    /// # Errors
    /// `Exists` where anything is.
    pub fn make_dir(&self, name: &[u8], permissions: Permissions) -> Result<(), FsError> {
        self.checked("make directory", name)?;
        let mode = Mode::from_bits_truncate(permissions.bits().into());
        rustix::fs::mkdirat(&self.fd, name, mode)
            .map_err(|errno| self.failed("make directory", name, errno))
    }

    /// Makes an empty file under a temporary name.
    ///
    /// # Errors
    /// `Full`, `Denied` and the like.
    pub fn create_temp(&self) -> Result<Temporary, FsError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut tries = 0;
        loop {
            let name = temporary_name();
            tries += 1;
            match rustix::fs::openat(&self.fd, &name[..], flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => return Ok(Temporary { file: File::from(fd), name }),
                Err(Errno::EXIST) if tries < TEMPORARY_TRIES => {}
                Err(errno) => return Err(self.failed("create", &name, errno)),
            }
        }
    }

    /// Makes the symlink `name` pointing to `target`.
    ///
    /// # Errors
    /// `Exists`; `NameTooLong` for a target that this file system does not take.
    pub fn make_symlink(&self, target: &[u8], name: &[u8]) -> Result<(), FsError> {
        self.checked("make symlink", name)?;
        rustix::fs::symlinkat(target, &self.fd, name)
            .map_err(|errno| self.failed("make symlink", name, errno))
    }

    /// Moves `name` to `to_name` in `to`, replacing a file that is there.
    ///
    /// # Errors
    /// `NotFound`; `NotEmpty` or `Exists` where a filled directory would be replaced; `OtherDevice`.
    pub fn rename(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.checked("rename", name)?;
        to.checked("rename to", to_name)?;
        rustix::fs::renameat(&self.fd, name, &to.fd, to_name)
            .map_err(|errno| to.failed("rename to", to_name, errno))
    }

    /// Moves `name` to `to_name` in `to`, where nothing may be.
    ///
    /// # Errors
    /// `Exists`; `Unsupported` where the file system cannot tell in one step.
    pub fn rename_new(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.rename_with(name, to, to_name, RenameFlags::NOREPLACE)
    }

    /// Swaps `name` and `to_name` in `to` in one step; both must be there.
    ///
    /// # Errors
    /// `NotFound` where one is not; `Unsupported` where the file system cannot.
    pub fn exchange(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.rename_with(name, to, to_name, RenameFlags::EXCHANGE)
    }

    fn rename_with(
        &self,
        name: &[u8],
        to: &Self,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), FsError> {
        self.checked("rename", name)?;
        to.checked("rename to", to_name)?;
        rustix::fs::renameat_with(&self.fd, name, &to.fd, to_name, flags).map_err(|errno| {
            // What a file system without these flags answers. A directory moved into itself
            // gives the same number, and gives it once more to the plain rename tried instead.
            let errno = if errno == Errno::INVAL { Errno::OPNOTSUPP } else { errno };
            to.failed("rename to", to_name, errno)
        })
    }

    /// Removes the name of a file or symlink.
    ///
    /// # Errors
    /// `NotFound`; `NotAFile` for a directory.
    pub fn unlink(&self, name: &[u8]) -> Result<(), FsError> {
        self.remove(name, AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NotEmpty`.
    pub fn remove_dir(&self, name: &[u8]) -> Result<(), FsError> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, name: &[u8], flags: AtFlags) -> Result<(), FsError> {
        self.checked("remove", name)?;
        rustix::fs::unlinkat(&self.fd, name, flags)
            .map_err(|errno| self.failed("remove", name, errno))
    }

    /// Sets the nine permission bits of a file or directory; its other mode bits stay.
    ///
    /// # Errors
    /// `NotADirectory` for a symlink, which has no bits of its own; `NotAFile` for a device.
    pub fn set_permissions(&self, name: &[u8], permissions: Permissions) -> Result<(), FsError> {
        self.checked("change mode of", name)?;
        self.change_mode(name, permissions)
            .map_err(|errno| self.failed("change mode of", name, errno))
    }

    /// Linux cannot change a mode by name without following a symlink, so the name is pinned
    /// first and then changed through `/proc`, which needs no right to open the file.
    #[cfg(target_os = "linux")]
    fn change_mode(&self, name: &[u8], permissions: Permissions) -> rustix::io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let mode = new_mode(&Stat::from_system(&rustix::fs::fstat(&pinned)?), permissions)?;
        let link = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        match rustix::fs::chmodat(rustix::fs::CWD, link, mode, AtFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                // No /proc: then only what may be opened can be changed.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let open = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
                rustix::fs::fchmod(&open, mode)
            }
            result => result,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn change_mode(&self, name: &[u8], permissions: Permissions) -> rustix::io::Result<()> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = new_mode(&Stat::from_system(&stat), permissions)?;
        rustix::fs::chmodat(&self.fd, name, mode, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets when `name` was last modified; of a symlink its own time.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub fn set_mtime(&self, name: &[u8], mtime: Mtime) -> Result<(), FsError> {
        self.checked("set time of", name)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
        };
        rustix::fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed("set time of", name, errno))
    }
}

/// Durability and room.
impl Dir {
    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// The device failed. A file system that cannot sync a directory is no error.
    pub fn sync(&self) -> Result<(), FsError> {
        let failed = |errno| self.below("sync", &RelPath::root(), errno);
        let readable = self.readable().map_err(failed)?;
        match rustix::fs::fsync(&readable) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    pub(super) fn sync_file_system(&self) -> Result<(), FsError> {
        #[cfg(target_os = "linux")]
        {
            let failed = |errno| self.below("sync file system of", &RelPath::root(), errno);
            let readable = self.readable().map_err(failed)?;
            rustix::fs::syncfs(&readable).map_err(failed)
        }
        #[cfg(not(target_os = "linux"))]
        {
            rustix::fs::sync();
            self.sync()
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

    fn checked(&self, operation: &'static str, name: &[u8]) -> Result<(), FsError> {
        let leads_out = matches!(name, b"" | b"." | b"..")
            || name.iter().any(|&byte| byte == b'/' || byte == 0);
        if leads_out { Err(self.failed(operation, name, Errno::INVAL)) } else { Ok(()) }
    }

    fn failed(&self, operation: &'static str, name: &[u8], errno: Errno) -> FsError {
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

/// The whole mode that gives what `stat` describes these permission bits.
fn new_mode(stat: &Stat, permissions: Permissions) -> rustix::io::Result<Mode> {
    /// Set-user-id, set-group-id and sticky: on directories they are somebody's setup.
    const SPECIAL_BITS: u32 = 0o7000;
    match stat.kind {
        StatKind::File | StatKind::Directory => {
            let mode = (stat.mode & SPECIAL_BITS) | u32::from(permissions.bits());
            #[allow(clippy::useless_conversion, reason = "mode bits are u16 on some systems")]
            let mode = mode.try_into().map_err(|_| Errno::INVAL)?;
            Ok(Mode::from_bits_truncate(mode))
        }
        StatKind::Symlink => Err(Errno::LOOP),
        StatKind::Other(_) => Err(NOT_A_FILE),
    }
}
