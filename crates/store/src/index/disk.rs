//! The index's file as redb sees it. After any IO error, of a read too, redb answers nothing any
//! more until the file was opened again; here such an error is noticed whoever met it.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend};
use tokio::sync::watch;

use crate::failpoint::Failpoints;

/// How an index fares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// How often something failed after which the file has to be opened again.
    pub(crate) failures: u64,
    /// Why it cannot be opened again by this process, if it cannot.
    pub(crate) lost: Option<String>,
}

/// Raised where the index fails. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarm {
    health: watch::Sender<Health>,
}

impl Alarm {
    /// The file has to be opened again.
    pub(super) fn raise(&self) {
        self.health.send_modify(|health| health.failures += 1);
    }

    /// This process cannot mend it: a new opening of the store may, by a rebuild.
    pub(super) fn give_up(&self, why: String) {
        self.health.send_modify(|health| {
            health.lost.get_or_insert(why);
        });
    }

    /// Whether this process has given up.
    pub(super) fn is_lost(&self) -> bool {
        self.health.borrow().lost.is_some()
    }

    /// How often it was raised.
    pub(super) fn failures(&self) -> u64 {
        self.health.borrow().failures
    }

    /// Hears of every alarm from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}

/// Opens the database file, which was [made](crate::create::database) before; whatever fails in it
/// raises the alarm.
pub(crate) fn open_file(
    path: &Path,
    cache_bytes: usize,
    alarm: Alarm,
    failpoints: Failpoints,
) -> Result<Database, DatabaseError> {
    let file = File::options().read(true).write(true).open(path)?;
    let disk = Disk { file: FileBackend::new(file)?, alarm, failpoints };
    redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(disk)
}

/// What opening found that only a rebuild mends; `None`: it may go away.
pub(crate) fn damage(error: &DatabaseError) -> Option<String> {
    use redb::StorageError::{Corrupted, Io};
    match error {
        DatabaseError::Storage(Corrupted(reason)) => Some(reason.clone()),
        DatabaseError::RepairAborted => Some("it cannot be repaired".into()),
        DatabaseError::Storage(Io(source)) => {
            // What a file cut short or overwritten makes, not a failing disk.
            let kind = source.kind();
            let damaged = matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
            damaged.then(|| source.to_string())
        }
        _ => None,
    }
}

#[derive(Debug)]
struct Disk {
    file: FileBackend,
    alarm: Alarm,
    failpoints: Failpoints,
}

impl Disk {
    fn run<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&FileBackend) -> io::Result<T>,
    ) -> io::Result<T> {
        let done = self.failpoints.hit(name).and_then(|()| act(&self.file));
        if done.is_err() {
            self.alarm.raise();
        }
        done
    }
}

type Edge = Bound<u64>;

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.run("index-read", FileBackend::len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.run("index-read", |file| file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run("index-write", |file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.run("index-sync", FileBackend::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.run("index-write", |file| file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
