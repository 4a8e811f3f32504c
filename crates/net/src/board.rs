//! The board on which tasks leave what `status` shows, and the bell that says it changed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use ark_core::DeviceId;
use iroh::endpoint::{Connection, Path, WeakConnectionHandle};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::access::Access;
use crate::status::{NetStatus, PathKind, PeerStatus, RepoStatus};

/// Rung whenever the status may have changed in more than its byte counts.
#[derive(Clone, Debug)]
pub(crate) struct Bell(watch::Sender<u64>);

impl Bell {
    /// A bell that was never rung.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Wakes whoever watches.
    pub(crate) fn ring(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A watch on it.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// Payload bytes exchanged with one device since the start.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    rx: AtomicU64,
    tx: AtomicU64,
}

impl Traffic {
    /// Counts received bytes.
    pub(crate) fn received(&self, bytes: usize) {
        self.rx.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts sent bytes.
    pub(crate) fn sent(&self, bytes: usize) {
        self.tx.fetch_add(bytes as u64, Relaxed);
    }
}

/// What is shown of a device whether it is connected or not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerPast {
    rx_bytes: u64,
    tx_bytes: u64,
    connections: u64,
    last_seen: Option<SystemTime>,
}

/// What is shown of one device.
#[derive(Debug)]
pub(crate) struct PeerBoard {
    device: DeviceId,
    name: String,
    /// Its payload bytes.
    pub(crate) traffic: Traffic,
    connections: AtomicU64,
    live: Mutex<Live>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Live {
    connection: Option<WeakConnectionHandle>,
    last_seen: Option<SystemTime>,
    problem: Option<String>,
}

impl PeerBoard {
    /// A device that is not connected, with what was known of it before.
    pub(crate) fn new(device: DeviceId, name: String, past: PeerPast, bell: Bell) -> Self {
        let traffic = Traffic { rx: past.rx_bytes.into(), tx: past.tx_bytes.into() };
        let live = Live { last_seen: past.last_seen, ..Live::default() };
        let connections = past.connections.into();
        Self { device, name, traffic, connections, live: Mutex::new(live), bell }
    }

    /// What goes on when the network side is started anew.
    pub(crate) fn past(&self) -> PeerPast {
        PeerPast {
            rx_bytes: self.traffic.rx.load(Relaxed),
            tx_bytes: self.traffic.tx.load(Relaxed),
            connections: self.connections.load(Relaxed),
            last_seen: self.live().last_seen,
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync connection stands.
    pub(crate) fn met(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A sync connection stands, and the device has spoken on it: it does not refuse us.
    pub(crate) fn connected(&self, connection: &Connection) {
        if connection.close_reason().is_some() {
            return;
        }
        let now = SystemTime::now();
        let handle = Some(connection.weak_handle());
        let live = Live { connection: handle, last_seen: Some(now), problem: None };
        if std::mem::replace(&mut *self.live(), live).connection.is_none() {
            info!(peer = %self.device.short(), name = self.name, "connected");
        }
        self.bell.ring();
    }

    /// The sync connection is gone. Whether the device had spoken on it.
    pub(crate) fn disconnected(&self) -> bool {
        let mut live = self.live();
        let had_spoken = live.connection.take().is_some();
        if had_spoken {
            info!(peer = %self.device.short(), name = self.name, "disconnected");
            live.last_seen = Some(SystemTime::now());
        }
        drop(live);
        self.bell.ring();
        had_spoken
    }

    /// Why no connection comes about, in words; `None`: nothing wrong.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        let changed = {
            let mut live = self.live();
            let changed = live.problem != problem;
            live.problem.clone_from(&problem);
            changed
        };
        if let Some(problem) = problem.filter(|_| changed) {
            warn!(peer = %self.device.short(), name = self.name, "{problem}");
        }
        if changed {
            self.bell.ring();
        }
    }

    fn status(&self) -> PeerStatus {
        let live = self.live();
        let connection = live.connection.as_ref().and_then(WeakConnectionHandle::upgrade);
        let connection = connection.filter(|connection| connection.close_reason().is_none());
        let (path, rtt_ms) = connection.as_ref().map_or((PathKind::None, None), path_of);
        let connected = live.connection.is_some();
        PeerStatus {
            device: self.device,
            name: self.name.clone(),
            connected,
            path,
            rtt_ms,
            last_seen: if connected { Some(SystemTime::now()) } else { live.last_seen },
            rx_bytes: self.traffic.rx.load(Relaxed),
            tx_bytes: self.traffic.tx.load(Relaxed),
            connections: self.connections.load(Relaxed),
            problem: live.problem.clone(),
        }
    }
}

/// The path that carries the data of `connection`, and its round-trip time.
fn path_of(connection: &Connection) -> (PathKind, Option<f64>) {
    let paths = connection.paths();
    let selected = paths.iter().find(Path::is_selected);
    let Some(path) = selected.or_else(|| paths.iter().next()) else {
        return (PathKind::None, None);
    };
    let kind = if path.is_relay() { PathKind::Relay } else { PathKind::Direct };
    (kind, Some(path.rtt().as_secs_f64() * 1e3))
}

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct Board {
    device: DeviceId,
    access: Arc<Access>,
    boards: RwLock<Boards>,
}

/// Those of devices and repos, in the order in which they are shown.
#[derive(Debug, Default)]
pub(crate) struct Boards {
    /// Of the devices.
    pub(crate) peers: Vec<Arc<PeerBoard>>,
    /// Of the repos.
    pub(crate) repos: Vec<Arc<RepoBoard>>,
}

/// What is shown of one repo: replaced whole by the repo's task.
#[derive(Debug)]
pub(crate) struct RepoBoard {
    status: Mutex<RepoStatus>,
    bell: Bell,
}

impl RepoBoard {
    /// A board with a first status.
    pub(crate) fn new(status: RepoStatus, bell: Bell) -> Self {
        Self { status: Mutex::new(status), bell }
    }

    /// Shows `status` from now on.
    pub(crate) fn show(&self, status: RepoStatus) {
        {
            let mut shown = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if *shown == status {
                return;
            }
            *shown = status;
        }
        self.bell.ring();
    }

    /// The repo's task ended: what is shown is not brought up to date any more.
    pub(crate) fn failed(&self, problem: String) {
        let mut status = self.status();
        status.problems.push(problem);
        self.show(status);
    }

    fn status(&self) -> RepoStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Board {
    /// The board of this device.
    pub(crate) fn new(device: DeviceId, access: Arc<Access>) -> Self {
        Self { device, access, boards: RwLock::default() }
    }

    /// Shows these from now on.
    pub(crate) fn list(&self, boards: Boards) {
        *self.boards.write().unwrap_or_else(PoisonError::into_inner) = boards;
    }

    /// What it shows now.
    pub(crate) fn status(&self, local_addrs: Vec<SocketAddr>) -> NetStatus {
        let boards = self.boards.read().unwrap_or_else(PoisonError::into_inner);
        NetStatus {
            device: self.device,
            local_addrs,
            peers: boards.peers.iter().map(|peer| peer.status()).collect(),
            repos: boards.repos.iter().map(|repo| repo.status()).collect(),
            refused: self.access.refused(),
        }
    }
}
