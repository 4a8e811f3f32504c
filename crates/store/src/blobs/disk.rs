//! The blob store's files: syncing them, and removing what failed imports left.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// So many new files are synced one by one; for more, the whole file system is cheaper.
pub(super) const MAX_NAMED_SYNCS: usize = 32;
/// Files are synced on so many threads: what a journal needs to commit them together.
#[cfg(target_os = "linux")]
const SYNC_THREADS: usize = 7;

/// Runs `f` where blocking is allowed; a panic in it becomes an error.
pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(io::Error::other)?
}

/// Syncs new files and the directory that names them, or the whole file system.
#[cfg(target_os = "linux")]
pub(super) fn sync_to_disk(data: &Path, files: &[PathBuf]) -> io::Result<()> {
    if files.len() > MAX_NAMED_SYNCS {
        return sync_everything(data);
    }
    sync_named(files)?;
    File::open(data)?.sync_all()
}

/// Syncs the whole file system that `data` is on.
#[cfg(target_os = "linux")]
pub(super) fn sync_everything(data: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(data)?)?;
    Ok(())
}

/// Hands everything to the drives, then tells the one that `data` is on to keep it.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_everything(data: &Path) -> io::Result<()> {
    rustix::fs::sync();
    File::open(data)?.sync_all()
}

/// Syncs new files and the directory that names them. Each file is handed to the drive, then the
/// drive is told once to keep what it has (`F_FULLFSYNC`, which is what `sync_all` asks for).
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_to_disk(data: &Path, files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        rustix::fs::fsync(File::open(file)?)?;
    }
    File::open(data)?.sync_all()
}

/// Syncs files side by side, so that the file system's journal commits fewer times.
#[cfg(target_os = "linux")]
fn sync_named(files: &[PathBuf]) -> io::Result<()> {
    let sync = |path: &PathBuf| File::open(path)?.sync_all();
    let Some((first, rest)) = files.split_first() else { return Ok(()) };
    std::thread::scope(|scope| {
        let threads: Vec<_> = rest
            .chunks(rest.len().div_ceil(SYNC_THREADS).max(1))
            .map(|chunk| scope.spawn(move || chunk.iter().try_for_each(sync)))
            .collect();
        let mut outcome = sync(first);
        for thread in threads {
            let joined = thread.join().unwrap_or_else(|_| Err(io::Error::other("sync panicked")));
            outcome = outcome.and(joined);
        }
        outcome
    })
}

/// Removes what imports left unfinished: the store below never does.
pub(super) fn sweep(temp: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(temp) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "temp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
