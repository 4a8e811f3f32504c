//! The daemon: puts the crates together, keeps them going, takes them apart in order.
//!
//! Everything that could refuse to start is asked before anything is written: the config, a
//! daemon on the same store, busy ports. Ending goes from the outside in: no more questions on
//! the control socket, folders come to rest, peers are told, the store is closed last.

#[cfg(test)]
mod fixtures;
mod house;
mod jj;
mod pace;
mod ports;
mod rereading;
mod running;
mod server;
mod status;
mod wait;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ark_control::{Client, SocketError};
use ark_store::Store;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::key::{Key, KeyError};
use house::Kept;
use running::Running;

/// The longest an orderly end may take; then the process ends as it is. A crash loses nothing
/// that was published, so waiting longer is of no use to anybody.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the daemon did not start, or not end cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// A daemon answers on this store's socket.
    #[error("the store {} is in use by another daemon", .path.display())]
    AlreadyRunning {
        /// The store.
        path: PathBuf,
    },
    /// An address of the config is taken, or none of this machine's.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody says where a user's state is kept.
    #[error("the home directory is not known: set HOME or XDG_STATE_HOME")]
    NoStateDirectory,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] ark_store::OpenError),
    /// A repo in the store cannot be opened.
    #[error("cannot open repo {id:?} in the store")]
    Repo {
        /// The repo.
        id: String,
        /// Why.
        #[source]
        source: ark_store::RepoError,
    },
    /// The network side does not start.
    #[error(transparent)]
    Net(#[from] ark_net::StartError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The store did not close cleanly.
    #[error("the store did not close cleanly")]
    Close(#[source] ark_store::BlobError),
    /// The store's index failed for good. A new start puts it aside and makes it anew.
    #[error("the store's index is lost ({0}): start ark again, which makes it anew")]
    StoreLost(String),
    /// The end took too long.
    #[error("not everything came to rest within {STOP_TIMEOUT:?}; ended without waiting")]
    StopTimeout,
}

/// Runs the daemon until SIGTERM or SIGINT, or until its store is lost. SIGHUP has it take up its
/// config anew.
///
/// # Errors
/// See [`DaemonError`].
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    refuse_what_cannot_work(&config).await?;
    raise_open_file_limit();
    let (ending, re_read) = (CancellationToken::new(), Notify::new());
    let mut life = std::pin::pin!(live(config, &ending, &re_read));
    tokio::select! {
        ended = &mut life => return ended,
        () = signals.end(&re_read) => ending.cancel(),
        () = ending.cancelled() => {}
        never = watchdog() => match never {},
    }
    info!("ending");
    notify(&[NotifyState::Stopping]);
    tokio::select! {
        stopped = tokio::time::timeout(STOP_TIMEOUT, life) => {
            stopped.unwrap_or(Err(DaemonError::StopTimeout))
        }
        () = signals.end(&re_read) => {
            warn!("asked to end again: not waiting any longer");
            Err(DaemonError::StopTimeout)
        }
    }
}

/// Starts, goes on until `ending`, which it sets itself where it cannot go on, and stops. Reads the
/// config anew when it is told to, also where that was before the start was done.
async fn live(
    config: Config,
    ending: &CancellationToken,
    re_read: &Notify,
) -> Result<(), DaemonError> {
    let Some(started) = ending.run_until_cancelled(Box::pin(Daemon::start(config))).await else {
        return Ok(());
    };
    let mut daemon = started?;
    notify(&[NotifyState::Ready]);
    let failed = loop {
        tokio::select! {
            () = ending.cancelled() => break None,
            () = re_read.notified() => {
                if let Err(error) = daemon.re_read(ending).await {
                    break Some(error);
                }
            }
            why = daemon.store.lost() => break Some(DaemonError::StoreLost(why)),
        }
    };
    // From here on whoever waits for the end does so for a while only.
    ending.cancel();
    let stopped = daemon.stop().await;
    failed.map_or(stopped, Err)
}

/// What can be told before anything is written.
async fn refuse_what_cannot_work(config: &Config) -> Result<(), DaemonError> {
    if Client::connect(&config.store_path).await.is_ok() {
        return Err(DaemonError::AlreadyRunning { path: config.store_path.clone() });
    }
    match ports::first_refused(&config.network.bind, &[]) {
        Some((address, source)) => Err(DaemonError::Address { address, source }),
        None => Ok(()),
    }
}

/// A large tree needs many files open at once; the usual soft limit is for programs that use
/// `select`, which nothing here does.
fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!("the limit of open files stays at the system's default: {error}");
    }
}

/// The signals that a daemon heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the daemon is asked to end; until then passes on to `re_read` what else it is
    /// asked.
    async fn end(&mut self, re_read: &Notify) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => re_read.notify_one(),
            }
        }
    }
}

/// Tells the service manager, where there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("cannot notify the service manager: {error}");
    }
}

/// A running daemon.
struct Daemon {
    config: Config,
    key: Key,
    store: Store,
    listener: Arc<UnixListener>,
    running: Running,
}

impl Daemon {
    async fn start(config: Config) -> Result<Self, DaemonError> {
        let key = Key::read_or_create(&config.store_path)?;
        let witness_dir = witness_directory().ok_or(DaemonError::NoStateDirectory)?;
        info!(device = key.device().short(), store = %config.store_path.display(), "opening");
        let store = Store::open(ark_store::Options {
            path: config.store_path.clone(),
            witness_dir,
            signing_key: key.signing_key(),
            index_cache_bytes: ark_store::DEFAULT_INDEX_CACHE_BYTES,
        })
        .await?;
        key.write_id(&config.store_path)?;
        match Self::start_on(&config, &key, &store).await {
            Ok((listener, running)) => Ok(Self { config, key, store, listener, running }),
            Err(error) => {
                // The error is what the user must see; the store is closed as far as it goes.
                if let Err(close) = store.close().await {
                    warn!("the store did not close cleanly: {close}");
                }
                Err(error)
            }
        }
    }

    async fn start_on(
        config: &Config,
        key: &Key,
        store: &Store,
    ) -> Result<(Arc<UnixListener>, Running), DaemonError> {
        let listener = Arc::new(ark_control::bind(&config.store_path)?);
        let kept = &mut Kept::default();
        let running = Running::start(config, key, store, Arc::clone(&listener), kept).await?;
        Ok((listener, running))
    }

    /// Ends in order, from the outside in.
    async fn stop(mut self) -> Result<(), DaemonError> {
        self.running.stop(false, |_| false).await;
        // While the lock is still held: afterwards the socket may be another daemon's.
        if let Err(error) = std::fs::remove_file(ark_control::socket_path(&self.config.store_path))
        {
            warn!("the control socket stays behind: {error}");
        }
        self.store.close().await.map_err(DaemonError::Close)
    }
}

/// Tells the service manager, where it wants to know, again and again that the daemon still turns.
async fn watchdog() -> Infallible {
    let Some(interval) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(interval / 2).await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Where the proof is kept that the store is the one last open: outside the store, so that a
/// restored copy is noticed.
fn witness_directory() -> Option<PathBuf> {
    let state_home = std::env::var_os("XDG_STATE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state_home.join("ark"))
}
