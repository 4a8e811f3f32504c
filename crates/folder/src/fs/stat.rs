//! What a file system says of a path without opening what is there.

use ark_core::{Mtime, Permissions};
use rustix::fs::FileType;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// What ark does not keep: "FIFO", "socket", "block device", "character device", "unknown".
    Other(&'static str),
}

impl StatKind {
    /// The kind that the system calls `file_type`.
    pub(crate) const fn of(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::Directory => Self::Directory,
            FileType::Fifo => Self::Other("FIFO"),
            FileType::Socket => Self::Other("socket"),
            FileType::BlockDevice => Self::Other("block device"),
            FileType::CharacterDevice => Self::Other("character device"),
            FileType::Unknown => Self::Other("unknown"),
        }
    }
}

/// One `lstat`. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    /// What is there.
    pub kind: StatKind,
    /// The device it is on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// Length of the content; of a symlink, of its target; of a directory, meaningless.
    pub size: u64,
    /// Type and permission bits as the system has them.
    pub mode: u32,
    /// When the content was last modified, or what somebody set.
    pub mtime: Mtime,
    /// When content or attributes last changed. Nobody can set it.
    pub ctime: Mtime,
}

impl Stat {
    // The fields' types differ between systems, so that a cast is needless on some of them.
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "field types differ between systems; times have 0..10^9 nanos, sizes are >= 0"
    )]
    pub(crate) fn from_system(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: StatKind::of(FileType::from_raw_mode(stat.st_mode as _)),
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mode: stat.st_mode.into(),
            mtime: Mtime { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Mtime { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
        }
    }

    /// The nine permission bits.
    pub const fn permissions(&self) -> Permissions {
        Permissions::from_mode(self.mode)
    }

    /// Whether what is there now is what `cached` saw, content included: kind, size, mtime,
    /// ctime and inode are equal. Every write moves ctime, also one that puts the mtime back,
    /// and a file renamed into place has another inode. The device is not compared: its number
    /// changes over restarts on some systems, and directories that became another device are
    /// not walked at all. Permissions change only with ctime, so they are compared with it.
    ///
    /// Two writes within one tick of the file system's clock look alike: see
    /// [`Granularity`](crate::fs::Granularity) for the case in which equality proves nothing.
    #[must_use]
    pub fn unchanged(&self, cached: &Self) -> bool {
        self.kind == cached.kind
            && self.ino == cached.ino
            && self.size == cached.size
            && self.mtime == cached.mtime
            && self.ctime == cached.ctime
    }

    /// Whether it is the same object of the file system, whatever happened to its content.
    #[must_use]
    pub const fn same_object(&self, other: &Self) -> bool {
        self.dev == other.dev && self.ino == other.ino
    }
}
