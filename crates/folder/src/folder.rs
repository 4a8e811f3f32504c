//! A synced folder: one actor that takes local changes up, publishes them, and applies what
//! others wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ark_core::{DeviceId, RelPath, Writer};
use ark_store::Repo;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::actor::Actor;
use crate::fs::Gate;
use crate::status::Shared;

/// What a folder is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder. Absolute.
    pub path: PathBuf,
    /// Ignore rules of the config, gitignore syntax, before those of `.arkignore` files.
    pub ignore: Vec<String>,
    /// A changed file is taken up once it was quiet this long, or closed after writing.
    pub quiet_period: Duration,
    /// How often the whole folder is looked at even if no event came (jittered).
    pub rescan_interval: Duration,
    /// The other devices that write here. A head of one that is none of them, because it was
    /// dropped from the config, is taken over: published as this device's own.
    pub writers: BTreeSet<DeviceId>,
}

/// Why a folder could not be started. A folder that is missing, unreadable or another one's is
/// not among these: it starts halted and says so in its status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An ignore rule of the config that is not gitignore syntax.
    #[error("ignore rule {rule:?}: {reason}")]
    Ignore {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No threads to hash with.
    #[error("cannot start the threads that hash")]
    Threads(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store could not give what was recorded about this folder.
    #[error("cannot read what the store recorded about {path}")]
    Base {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a fence could not be passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The folder is halted: nothing is taken up from it. The text says why.
    #[error("the folder is halted: {0}")]
    Halted(String),
    /// The scan or the publication failed; it is retried, and the text is among the problems.
    #[error("{0}")]
    Failed(String),
    /// The folder was stopped before the fence was passed.
    #[error("the folder was stopped")]
    Stopped,
}

/// What a folder is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderState {
    /// Nothing is taken up, applied or deleted, for the reason in the text.
    Halted(String),
    /// Looking at files, publishing or applying.
    Busy,
    /// Everything joined is applied, and nothing local is known to be unpublished.
    InStep,
    /// As in step as it can be: some paths failed and wait for another try (see the problems).
    Waiting,
}

/// The part of its work that a folder is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking at files and hashing those that may have changed.
    Scanning,
    /// Making local changes durable and public.
    Publishing,
    /// Writing what others changed.
    Applying,
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub phase: Phase,
    /// Paths done.
    pub files_done: u64,
    /// Paths in all; 0 where that is not known.
    pub files_total: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all; 0 where that is not known.
    pub bytes_total: u64,
    /// When the phase began.
    pub started: Instant,
}

/// What a folder says of itself. Cheap to take; always there, from before the first scan on.
#[derive(Debug, Clone)]
pub struct FolderStatus {
    /// What it is doing.
    pub state: FolderState,
    /// Files of the tree last applied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Shown paths of versions set aside, the first `MAX_CONFLICTS_LISTED` of them.
    pub conflicts: Vec<RelPath>,
    /// What the user should know: failed and skipped paths with the reason, watch limits.
    pub problems: Vec<String>,
    /// Whether a whole scan was finished and published since the start.
    pub scanned: bool,
    /// What is under way, if anything.
    pub progress: Option<Progress>,
    /// Per writer, the revision of the newest state whose tree is applied here. Paths skipped
    /// for a lasting, reported reason count as applied.
    pub applied: BTreeMap<Writer, u64>,
    /// Files for which a [fence](Folder::fence) still waits, because they are being written to
    /// all the time; not all of them where they are very many.
    pub held_up: Vec<RelPath>,
}

/// A running folder. Dropping it ends it without waiting, as a crash would.
#[derive(Debug)]
pub struct Folder {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    actor: Option<JoinHandle<()>>,
}

/// What is asked of the actor.
#[derive(Debug)]
pub(crate) enum Command {
    /// See [`Folder::fence`].
    Fence(oneshot::Sender<Result<(), FenceError>>),
    /// See [`Folder::stop`].
    Stop,
}

/// Commands that wait at most; more wait with their callers.
const COMMAND_QUEUE: usize = 16;

impl Folder {
    /// Starts the folder's actor. Returns at once: the first scan goes on behind it.
    ///
    /// # Errors
    /// See [`StartError`]; a missing folder is none.
    pub async fn start(options: Options, repo: Repo) -> Result<Self, StartError> {
        Self::start_with(options, repo, None).await
    }

    /// As [`Folder::start`], for tests: every change of the folder passes `gate` first.
    ///
    /// # Errors
    /// As [`Folder::start`].
    pub async fn start_behind(
        options: Options,
        repo: Repo,
        gate: Gate,
    ) -> Result<Self, StartError> {
        Self::start_with(options, repo, Some(gate)).await
    }

    async fn start_with(
        options: Options,
        repo: Repo,
        gate: Option<Gate>,
    ) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new());
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let actor = Actor::new(options, gate, repo, Arc::clone(&shared), queue).await?;
        let actor = Some(tokio::spawn(actor.run()));
        Ok(Self { shared, commands, actor })
    }

    /// What it says of itself now.
    pub fn status(&self) -> FolderStatus {
        self.shared.status()
    }

    /// A number that rises whenever [`Folder::status`] may say something else. Progress within a
    /// phase does not raise it.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.watch()
    }

    /// Returns when everything written to the folder before the call is published. Waits for
    /// the first scan, and for files to come to rest that are being written to at the time of the
    /// call. Where the folder is halted, or pauses after a failure, it says so at once and tries
    /// nothing: ask again when the status changed.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn fence(&self) -> Result<(), FenceError> {
        let (reply, passed) = oneshot::channel();
        let sent = self.commands.send(Command::Fence(reply)).await;
        sent.map_err(|_| FenceError::Stopped)?;
        passed.await.unwrap_or(Err(FenceError::Stopped))
    }

    /// Ends the actor: what is under way is finished up to its next safe point, files that
    /// wait to be taken up are found at the next start.
    pub async fn stop(mut self) {
        self.shared.stop();
        // The queue is closed if the actor ended by itself: as good.
        let _ = self.commands.send(Command::Stop).await;
        if let Some(actor) = self.actor.take()
            && let Err(error) = actor.await
        {
            tracing::error!(%error, "the folder's actor failed");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(actor) = self.actor.take() {
            self.shared.stop();
            actor.abort();
        }
    }
}
