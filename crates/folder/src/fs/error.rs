//! What goes wrong with files, told apart as far as somebody acts on it.

use std::io;

use rustix::io::Errno;

/// A failure of one operation on one path. [`FsError::kind`] says what may be done about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path:?}")]
#[non_exhaustive]
pub struct FsError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// The path below the folder's root, shown lossily; the root's own path for the root.
    pub path: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// The outcomes of a failed operation that somebody acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FsErrorKind {
    /// There is nothing of that name.
    NotFound,
    /// A component that had to be a directory is a file, or a symlink, which is never followed.
    NotADirectory,
    /// The name is taken.
    Exists,
    /// A directory that has to be empty is not.
    NotEmpty,
    /// A regular file was wanted and something else is there.
    NotAFile,
    /// No space, or no quota, left.
    Full,
    /// Not allowed: permissions, an immutable file, or a read-only file system.
    Denied,
    /// Name, path or target longer than this file system takes.
    NameTooLong,
    /// A name whose bytes this file system does not take.
    NotRepresentable,
    /// Larger than this file system takes.
    TooLarge,
    /// The path leads onto another file system, where ark does not go.
    OtherDevice,
    /// In use by another process in a way that forbids this.
    Busy,
    /// This system or file system has no such operation: do it another way.
    Unsupported,
    /// Too many open files or too little memory: try again later.
    Exhausted,
    /// Anything else.
    Other,
}

impl FsError {
    pub(crate) fn new(operation: &'static str, path: String, errno: Errno) -> Self {
        Self { operation, path, source: errno.into() }
    }

    /// What may be done about it.
    pub fn kind(&self) -> FsErrorKind {
        let Some(errno) = self.source.raw_os_error().map(Errno::from_raw_os_error) else {
            return match self.source.kind() {
                io::ErrorKind::NotFound => FsErrorKind::NotFound,
                io::ErrorKind::StorageFull => FsErrorKind::Full,
                io::ErrorKind::PermissionDenied => FsErrorKind::Denied,
                _ => FsErrorKind::Other,
            };
        };
        match errno {
            Errno::NOENT => FsErrorKind::NotFound,
            Errno::NOTDIR | Errno::LOOP => FsErrorKind::NotADirectory,
            Errno::EXIST => FsErrorKind::Exists,
            Errno::NOTEMPTY => FsErrorKind::NotEmpty,
            Errno::ISDIR | NOT_A_FILE => FsErrorKind::NotAFile,
            Errno::NOSPC | Errno::DQUOT => FsErrorKind::Full,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => FsErrorKind::Denied,
            Errno::NAMETOOLONG => FsErrorKind::NameTooLong,
            Errno::ILSEQ | Errno::INVAL => FsErrorKind::NotRepresentable,
            Errno::FBIG => FsErrorKind::TooLarge,
            Errno::XDEV => FsErrorKind::OtherDevice,
            Errno::BUSY | Errno::TXTBSY => FsErrorKind::Busy,
            Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => FsErrorKind::Unsupported,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => FsErrorKind::Exhausted,
            _ => FsErrorKind::Other,
        }
    }

    /// Whether nothing is at the path: no such name, or no such directory on the way to it.
    /// Anything else is *could not tell*, never *not there*.
    pub fn is_absent(&self) -> bool {
        matches!(self.kind(), FsErrorKind::NotFound | FsErrorKind::NotADirectory)
    }

    /// Whether a sync failed because there is none of that kind here.
    pub(crate) fn is_no_sync(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
    }

    /// Operation, path and cause in one line, as a person should read it.
    pub fn in_words(&self) -> String {
        format!("{self}: {}", self.source)
    }
}

/// The number by which "there, but not a regular file" travels as an `io::Error`: what opening
/// a socket gives, which nothing else here does.
pub(crate) const NOT_A_FILE: Errno = Errno::NXIO;
