//! The daemon: puts the crates together, keeps them going, takes them apart in order.
//!
//! Everything that could refuse to start is asked before anything is written: the config, a
//! daemon on the same store, busy ports. Ending goes from the outside in: no more questions on
//! the control socket, folders come to rest, peers are told, the store is closed last.

mod house;
mod pace;
mod ports;
mod server;
mod status;
mod wait;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ark_control::{Client, SocketError};
use ark_core::{RepoKind, SealingKey, TopicId};
use ark_folder::Folder;
use ark_net::{Net, RepoOptions};
use ark_store::Store;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::{self, Config, Repo, Surroundings};
use crate::key::{Key, KeyError};
use house::{House, RunningFolder, RunningRepo};

/// The longest an orderly end may take; then the process ends as it is. A crash loses nothing
/// that was published, so waiting longer is of no use to anybody.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The index keeps this much of its file in memory. The kernel caches the file as well, so more
/// would buy little, and an idle daemon is to be small.
const INDEX_CACHE_BYTES: usize = 16 << 20;

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
    /// A port of the config is taken.
    #[error("cannot listen on {address}: the port is in use by another program")]
    BusyPort {
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

/// Runs the daemon until SIGTERM or SIGINT, or until its store is lost.
///
/// # Errors
/// See [`DaemonError`].
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    refuse_what_cannot_work(&config).await?;
    raise_open_file_limit();
    let daemon = tokio::select! {
        started = Daemon::start(&config) => started?,
        () = signals.end() => return Ok(()),
    };
    notify(&[NotifyState::Ready]);
    let lost = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::ReRead => re_read(&config),
                Asked::End => break None,
            },
            why = daemon.store.lost() => break Some(DaemonError::StoreLost(why)),
        }
    };
    info!("ending");
    notify(&[NotifyState::Stopping]);
    let stopped = tokio::select! {
        stopped = tokio::time::timeout(STOP_TIMEOUT, daemon.stop()) => {
            stopped.unwrap_or(Err(DaemonError::StopTimeout))
        }
        () = signals.end() => {
            warn!("asked to end again: not waiting any longer");
            Err(DaemonError::StopTimeout)
        }
    };
    lost.map_or(stopped, Err)
}

/// What can be told before anything is written.
async fn refuse_what_cannot_work(config: &Config) -> Result<(), DaemonError> {
    if Client::connect(&config.store_path).await.is_ok() {
        return Err(DaemonError::AlreadyRunning { path: config.store_path.clone() });
    }
    match ports::first_busy(&config.network.bind) {
        Some((address, source)) => Err(DaemonError::BusyPort { address, source }),
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

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::ReRead,
        }
    }

    /// Returns when the daemon is asked to end.
    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    End,
    ReRead,
}

/// Tells the service manager, where there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("cannot notify the service manager: {error}");
    }
}

/// On SIGHUP: says what is wrong with the config, or that it takes a restart to use it.
fn re_read(running: &Config) {
    let surroundings = Surroundings { home: std::env::home_dir(), device_at: None };
    match config::load(&running.file, &surroundings) {
        Ok(config) if config == *running => info!("the config has not changed"),
        Ok(_) => warn!("the config has changed: restart ark to use it"),
        Err(error) => {
            error!("the config was changed and is wrong; going on with the old one\n{error}");
        }
    }
}

/// A running daemon.
struct Daemon {
    store: Store,
    house: Arc<House>,
    tasks: TaskTracker,
    stop: CancellationToken,
    socket: PathBuf,
}

impl Daemon {
    async fn start(config: &Config) -> Result<Self, DaemonError> {
        let key = Key::read_or_create(&config.store_path)?;
        let witness_dir = witness_directory().ok_or(DaemonError::NoStateDirectory)?;
        info!(device = key.device().short(), store = %config.store_path.display(), "opening");
        let store = Store::open(ark_store::Options {
            path: config.store_path.clone(),
            witness_dir,
            signing_key: key.signing_key(),
            index_cache_bytes: INDEX_CACHE_BYTES,
        })
        .await?;
        key.write_id(&config.store_path)?;
        match Self::start_on(config, &key, store.clone()).await {
            Ok(daemon) => Ok(daemon),
            Err(error) => {
                // The error is what the user must see; the store is closed as far as it goes.
                if let Err(close) = store.close().await {
                    warn!("the store did not close cleanly: {close}");
                }
                Err(error)
            }
        }
    }

    async fn start_on(config: &Config, key: &Key, store: Store) -> Result<Self, DaemonError> {
        let listener = ark_control::bind(&config.store_path)?;
        let mut opened = Vec::with_capacity(config.repos.len());
        for repo in &config.repos {
            let topic = TopicId::derive(&repo.id, secret(repo));
            let held = store
                .repo(topic, RepoKind::Folder)
                .await
                .map_err(|source| DaemonError::Repo { id: repo.id.clone(), source })?;
            opened.push((repo, held));
        }
        let net_repos = opened.iter().map(|(repo, held)| net_repo(repo, held.clone())).collect();
        let net = Net::start(net_options(config, key), net_repos).await?;
        let mut repos = Vec::with_capacity(opened.len());
        for (repo, held) in opened {
            repos.push(running_repo(config, repo, held).await);
        }
        let house = Arc::new(House::new(key.device(), net, repos));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        house.spawn(&tasks, &stop);
        tasks.spawn(server::serve(listener, Arc::clone(&house), tasks.clone(), stop.clone()));
        if let Some(interval) = sd_notify::watchdog_enabled() {
            tasks.spawn(stop.clone().run_until_cancelled_owned(watchdog(interval / 2)));
        }
        let socket = ark_control::socket_path(&config.store_path);
        Ok(Self { store, house, tasks, stop, socket })
    }

    /// Ends in order, from the outside in.
    async fn stop(self) -> Result<(), DaemonError> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(house) = Arc::into_inner(self.house) {
            house.stop().await;
        } else {
            error!("something still runs; the store is closed under it");
        }
        // While the lock is still held: afterwards the socket may be another daemon's.
        if let Err(error) = std::fs::remove_file(&self.socket) {
            warn!("the control socket stays behind: {error}");
        }
        self.store.close().await.map_err(DaemonError::Close)
    }
}

/// Tells the service manager again and again that the daemon still turns.
async fn watchdog(interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
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

fn secret(repo: &Repo) -> Option<&str> {
    repo.secret.as_ref().map(config::Secret::reveal)
}

fn net_options(config: &Config, key: &Key) -> ark_net::Options {
    ark_net::Options {
        secret_key: key.endpoint_key(),
        bind: config.network.bind.clone(),
        relay: config.network.relay.clone(),
        discovery: config.network.discovery.clone(),
        port_mapping: config.network.port_mapping,
        resync_interval: config.rescan_interval,
    }
}

fn net_repo(repo: &Repo, held: ark_store::Repo) -> RepoOptions {
    RepoOptions {
        id: repo.id.clone(),
        topic: held.topic(),
        sealing: SealingKey::derive(&repo.id, secret(repo)),
        repo: held,
        remotes: repo.remotes.clone(),
        has_folder: repo.folder.is_some(),
    }
}

/// Starts the repo's folder, if it has one. One that does not start stops that repo only.
async fn running_repo(config: &Config, repo: &Repo, held: ark_store::Repo) -> RunningRepo {
    let folder = match &repo.folder {
        None => RunningFolder::None,
        Some(folder) => {
            let options = ark_folder::Options {
                path: folder.path.clone(),
                ignore: folder.ignore.clone(),
                quiet_period: config.quiet_period,
                rescan_interval: config.rescan_interval,
            };
            match Folder::start(options, held.clone()).await {
                Ok(running) => RunningFolder::Running(running, folder.path.clone()),
                Err(start_error) => {
                    let text = crate::report::chain(&start_error);
                    error!(repo = repo.id, "the folder does not start: {text}");
                    RunningFolder::Failed(text, folder.path.clone())
                }
            }
        }
    };
    RunningRepo { id: repo.id.clone(), held, folder, remotes: repo.remotes.clone() }
}
