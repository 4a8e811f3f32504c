//! The blob store below, which ends for good when its database fails, and is then opened again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use iroh_blobs::store::fs::{FsStore, options};

use super::disk::sweep;
use super::{DATABASE, INLINE_BYTES, TEMP};
use crate::error::BlobError;

/// How long the files of an ended store of this process may take to be released.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is asked.
const RELEASE_POLL: Duration = Duration::from_millis(5);

/// One life of the store below. What was not durable when a life ended is lost with it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// Counts lives.
    pub(super) number: u64,
    pub(super) store: FsStore,
}

/// The store below, whichever life it is in.
#[derive(Debug)]
pub(super) struct Living {
    root: PathBuf,
    life: RwLock<Life>,
    /// Whether something failed as it does when the store has ended.
    suspect: AtomicBool,
    reviving: tokio::sync::Mutex<()>,
    closed: AtomicBool,
}

impl Living {
    /// Opens the store in `root`, whose lock the caller holds.
    pub(super) async fn open(root: &Path) -> Result<Self, Arc<io::Error>> {
        let store = load(root).await?;
        Ok(Self {
            root: root.to_owned(),
            life: RwLock::new(Life { number: 1, store }),
            suspect: AtomicBool::new(false),
            reviving: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// The store of now.
    pub(super) fn life(&self) -> Life {
        self.life.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something failed, perhaps because the store has ended.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::Release);
    }

    /// The store of now; if it is suspected to have ended, and has, it is opened again.
    pub(super) async fn checked(&self) -> Result<Life, BlobError> {
        if self.suspect.load(Ordering::Acquire) {
            self.revive().await?;
        }
        Ok(self.life())
    }

    async fn revive(&self) -> Result<(), BlobError> {
        let _reviving = self.reviving.lock().await;
        let life = self.life();
        if !self.suspect.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whatever lives answers this.
        if let Err(error) = life.store.sync_db().await {
            if self.closed.load(Ordering::Acquire) {
                return Err(BlobError::Stopped { source: Arc::new(error) });
            }
            tracing::error!(%error, "the blob store has ended; opening it again");
            let failed = |source| BlobError::Io { what: "opening the blob store again", source };
            let store = load(&self.root).await.map_err(failed)?;
            let next = Life { number: life.number + 1, store };
            *self.life.write().unwrap_or_else(PoisonError::into_inner) = next;
        }
        self.suspect.store(false, Ordering::Release);
        Ok(())
    }

    /// Ends the store for good, after all that was given to it.
    pub(super) async fn close(&self) -> Result<(), BlobError> {
        self.closed.store(true, Ordering::Release);
        let store = self.life().store;
        store.sync_db().await.map_err(|e| BlobError::Stopped { source: Arc::new(e) })?;
        store.shutdown().await.map_err(|e| BlobError::Stopped { source: Arc::new(e) })
    }

    /// Ends the store below as a failure of its database does.
    #[cfg(feature = "failpoints")]
    pub(super) async fn kill(&self) {
        drop(self.life().store.shutdown().await);
        self.suspect();
    }
}

async fn load(root: &Path) -> Result<FsStore, Arc<io::Error>> {
    std::fs::create_dir_all(root)?;
    wait_for_release(&root.join(DATABASE)).await;
    sweep(&root.join(TEMP))?;
    let mut options = options::Options::new(root);
    options.inline = options::InlineOptions {
        max_data_inlined: INLINE_BYTES,
        max_outboard_inlined: INLINE_BYTES,
    };
    // Its error type is not a standard error; the text has the causes.
    let loaded = FsStore::load_with_opts(root.join(DATABASE), options).await;
    loaded.map_err(|error| Arc::new(io::Error::other(format!("{error:#}"))))
}

/// Waits until an ended store of this process has let go of its database, which happens on
/// threads of its own. The caller holds the lock that keeps other processes out.
async fn wait_for_release(database: &Path) {
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        match redb::ReadOnlyDatabase::open(database) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                tokio::time::sleep(RELEASE_POLL).await;
            }
            _ => return,
        }
    }
}
