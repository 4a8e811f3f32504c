//! Making, moving and removing the names of a directory.

use std::fs::File;

use ark_core::{Mtime, Permissions};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::error::NOT_A_FILE;
use super::{Dir, FsError, Stat, StatKind};

/// Tries to find a free temporary name; a second one is never needed but by ill luck.
const TEMPORARY_TRIES: usize = 16;

/// A file made under a temporary name, open for reading and writing, mode 0600.
#[derive(Debug)]
pub struct Temporary {
    /// The file, empty.
    pub file: File,
    /// Its name in the directory: `.ark-tmp-` and 16 hex digits.
    pub name: Vec<u8>,
    dir: Dir,
}

impl Temporary {
    /// Gives it these bits and this mtime.
    ///
    /// # Errors
    /// `Denied` and the like.
    pub fn dress(&self, permissions: Permissions, mtime: Mtime) -> Result<(), FsError> {
        self.dir.allowed("set mode and time of", &self.name)?;
        let mode = Mode::from_bits_truncate(permissions.bits().into());
        rustix::fs::fchmod(&self.file, mode)
            .and_then(|()| rustix::fs::futimens(&self.file, &modified(mtime)))
            .map_err(|errno| self.dir.failed("set mode and time of", &self.name, errno))
    }

    /// Makes its content, bits and times durable; not its name.
    ///
    /// # Errors
    /// The device failed.
    pub fn sync(&self) -> Result<(), FsError> {
        self.dir.sync_open(&self.file, &self.name)
    }
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

impl Dir {
    /// Makes the directory `name` with these bits, less the process's umask.
    ///
    /// # Errors
    /// `Exists` where anything is.
    pub fn make_dir(&self, name: &[u8], permissions: Permissions) -> Result<(), FsError> {
        self.may("make directory", name)?;
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
        self.allowed("create", TEMPORARY_PREFIX)?;
        let mut tries = 0;
        loop {
            let name = temporary_name();
            tries += 1;
            match rustix::fs::openat(&self.fd, &name[..], flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => return Ok(Temporary { file: File::from(fd), name, dir: self.clone() }),
                Err(Errno::EXIST) if tries < TEMPORARY_TRIES => {}
                Err(errno) => return Err(self.failed("create", &name, errno)),
            }
        }
    }

    /// Makes content, bits and times of the file `name` durable.
    ///
    /// # Errors
    /// As [`Dir::open_file`]; the device failed.
    pub fn sync_file(&self, name: &[u8]) -> Result<(), FsError> {
        let (file, _) = self.open_file(name)?;
        self.sync_open(&file, name)
    }

    /// Makes the symlink `name` pointing to `target`.
    ///
    /// # Errors
    /// `Exists`; `NameTooLong` for a target that this file system does not take.
    pub fn make_symlink(&self, target: &[u8], name: &[u8]) -> Result<(), FsError> {
        self.may("make symlink", name)?;
        rustix::fs::symlinkat(target, &self.fd, name)
            .map_err(|errno| self.failed("make symlink", name, errno))
    }

    /// Moves `name` to `to_name` in `to`, replacing a file that is there.
    ///
    /// # Errors
    /// `NotFound`; `NotEmpty` or `Exists` where a filled directory would be replaced; `OtherDevice`.
    pub fn rename(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.may("rename", name)?;
        to.may("rename over", to_name)?;
        rustix::fs::renameat(&self.fd, name, &to.fd, to_name)
            .map_err(|errno| to.failed("rename over", to_name, errno))
    }

    /// Moves `name` to `to_name` in `to`, where nothing may be.
    ///
    /// # Errors
    /// `Exists`; `Unsupported` where the file system cannot tell in one step.
    pub fn rename_new(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.rename_with("rename to", name, to, to_name, RenameFlags::NOREPLACE)
    }

    /// Swaps `name` and `to_name` in `to` in one step; both must be there.
    ///
    /// # Errors
    /// `NotFound` where one is not; `Unsupported` where the file system cannot.
    pub fn exchange(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), FsError> {
        self.rename_with("exchange with", name, to, to_name, RenameFlags::EXCHANGE)
    }

    fn rename_with(
        &self,
        operation: &'static str,
        name: &[u8],
        to: &Self,
        to_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), FsError> {
        self.may("rename", name)?;
        to.may(operation, to_name)?;
        rustix::fs::renameat_with(&self.fd, name, &to.fd, to_name, flags).map_err(|errno| {
            // What a file system without these flags answers. A directory moved into itself
            // gives the same number, and gives it once more to the plain rename tried instead.
            let errno = if errno == Errno::INVAL { Errno::OPNOTSUPP } else { errno };
            to.failed(operation, to_name, errno)
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
        self.may("remove", name)?;
        rustix::fs::unlinkat(&self.fd, name, flags)
            .map_err(|errno| self.failed("remove", name, errno))
    }

    /// Sets the nine permission bits of a file or directory; its other mode bits stay. Does
    /// nothing where they are right: to set mode bits that are there may be forbidden, where one
    /// of them is set-group-id.
    ///
    /// # Errors
    /// `NotADirectory` for a symlink, which has no bits of its own; `NotAFile` for a device.
    pub fn set_permissions(&self, name: &[u8], permissions: Permissions) -> Result<(), FsError> {
        let stat = self.stat(name)?;
        let has_bits = matches!(stat.kind, StatKind::File | StatKind::Directory);
        if has_bits && stat.permissions() == permissions {
            return Ok(());
        }
        self.allowed("change mode of", name)?;
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
        self.may("set time of", name)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&self.fd, name, &modified(mtime), flags)
            .map_err(|errno| self.failed("set time of", name, errno))
    }
}

fn modified(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
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
