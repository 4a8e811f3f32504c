//! Operations on the files of a synced folder, all relative to open directories.
//!
//! A path is never handed to the system whole and followed: directories on the way are opened
//! with `O_NOFOLLOW`, and the last name is used relative to its directory's descriptor. So
//! nothing outside of the folder is ever read or written, whatever happens to the tree meanwhile.
//! Nothing here caches a descriptor behind the caller's back (a cached one would go on naming a
//! directory that was moved away); who works much in one directory holds its [`Dir`].

mod change;
mod clock;
mod dir;
mod error;
mod gate;
mod root;
mod stat;
#[cfg(test)]
mod tests;

pub use change::{TEMPORARY_PREFIX, Temporary, clone_content, temporary_name};
pub use clock::{Granularity, now};
pub use dir::{Dir, DirEntry};
pub use error::{FsError, FsErrorKind};
pub use gate::Gate;
pub use root::{Root, Space};
pub use stat::{Stat, StatKind};

pub(crate) use clock::since;
pub(crate) use dir::to_system_path;
