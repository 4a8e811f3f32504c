//! Database files that are there whole or not at all.
//!
//! redb makes a file in several steps and writes its magic number last. A process that is killed
//! between them leaves a file that is no database, and that redb refuses ever after.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, StorageError};

/// What the name of a file ends with until it is whole.
const UNFINISHED: &str = ".new";

/// Makes an empty database at `path` if nothing is there, durably. `made` is called before the file
/// gets its name. Blocks. The caller holds the lock of the store.
pub(crate) fn database(path: &Path, made: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let unfinished = unfinished(path);
    // Of a process that was killed while it made it.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    drop(Database::create(&unfinished).map_err(into_io)?);
    made()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(UNFINISHED);
    PathBuf::from(name)
}

fn into_io(error: DatabaseError) -> io::Error {
    match error {
        DatabaseError::Storage(StorageError::Io(error)) => error,
        error => io::Error::other(error),
    }
}
