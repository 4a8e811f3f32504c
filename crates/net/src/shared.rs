//! What the tasks of the network side share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ark_core::{DeviceId, TopicId};
use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::board::{PeerBoard, RepoBoard};
use crate::lane::Lane;
use crate::options::{RepoOptions, Role};
use crate::reconcile::Allowance;
use crate::repo::{FolderNews, RepoInput};

/// The connection was closed because another one with the same device stays.
pub(crate) const CODE_DUPLICATE: VarInt = VarInt::from_u32(2);
/// The connection was closed because the other side broke the protocol.
pub(crate) const CODE_PROTOCOL: VarInt = VarInt::from_u32(3);
/// The connection was closed because the other side does not read what it is sent.
pub(crate) const CODE_TOO_SLOW: VarInt = VarInt::from_u32(4);
/// The connection was closed because the daemon ends.
pub(crate) const CODE_SHUTDOWN: VarInt = VarInt::from_u32(5);
/// The connection was closed because a newer life of the same device took its place.
pub(crate) const CODE_REPLACED: VarInt = VarInt::from_u32(6);

/// A stream was reset, or a connection closed, because this side could not go on with it.
pub(crate) const CODE_GAVE_UP: VarInt = VarInt::from_u32(8);

/// Closes a connection, unless it is closed already: closing it again would hide why.
pub(crate) fn close(connection: &Connection, code: VarInt, reason: &[u8]) {
    if connection.close_reason().is_none() {
        connection.close(code, reason);
    }
}

/// Handles on everything that runs.
#[derive(Debug)]
pub(crate) struct Shared {
    /// This device.
    pub(crate) device: DeviceId,
    /// The one endpoint.
    pub(crate) endpoint: Endpoint,
    /// Who may what.
    pub(crate) access: Arc<Access>,
    /// Every listed device.
    pub(crate) peers: Handles<DeviceId, PeerHandle>,
    /// Every repo.
    pub(crate) repos: Handles<TopicId, RepoHandle>,
    /// Cancelled at shutdown.
    pub(crate) cancel: CancellationToken,
    /// Every task that is not owned by another.
    pub(crate) tasks: TaskTracker,
    /// Bounds how many sessions of reconciliation read their sets at a time.
    pub(crate) reconcilers: Arc<Semaphore>,
    /// A bucket of at most so many links that differs is listed.
    pub(crate) enumerate_threshold: usize,
    /// For tests: gossip that arrives is dropped.
    pub(crate) lose_gossip: bool,
}

/// The task of a listed device.
#[derive(Debug)]
pub(crate) struct PeerHandle {
    /// What is shown of it.
    pub(crate) board: Arc<PeerBoard>,
    /// Its connections for objects.
    pub(crate) lane: Arc<Lane>,
    /// The sessions of reconciliation that it and this device may still have, per repo.
    pub(crate) allowances: Mutex<BTreeMap<TopicId, Allowance>>,
    /// Accepted sync connections go here.
    pub(crate) accepted: mpsc::Sender<Connection>,
    /// How the config lists it.
    pub(crate) listing: Listing,
    /// Rung when the config says that it is elsewhere.
    pub(crate) moved: Notify,
    /// Ends the task.
    pub(crate) life: Life,
}

/// How the config lists a device. Where that changes, it is met anew; where it may be met is
/// another thing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Listing {
    /// Under which names.
    pub(crate) names: BTreeSet<String>,
    /// For which repos, and what it may do there.
    pub(crate) repos: BTreeMap<TopicId, Role>,
}

/// The life of a task that may end before all others.
#[derive(Debug)]
pub(crate) struct Life {
    /// Ends it.
    pub(crate) end: CancellationToken,
    /// Counts the task, and those that are to have ended with it.
    pub(crate) tasks: TaskTracker,
}

impl Life {
    /// One that ends with `all` at the latest.
    pub(crate) fn within(all: &CancellationToken) -> Self {
        Self { end: all.child_token(), tasks: TaskTracker::new() }
    }

    /// Returns when it has come to its end, which it was told before.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What runs, by its name. A changed config takes some away and adds others.
#[derive(Debug)]
pub(crate) struct Handles<K, V>(RwLock<BTreeMap<K, Arc<V>>>);

impl<K: Ord + Copy, V> Handles<K, V> {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// What runs under this name.
    pub(crate) fn get(&self, name: &K) -> Option<Arc<V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of it, in order.
    pub(crate) fn all(&self) -> Vec<(K, Arc<V>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(&name, handle)| (name, handle.clone())).collect()
    }

    /// This runs, too.
    pub(crate) fn add(&self, name: K, handle: Arc<V>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, handle);
    }

    /// This does not any more.
    pub(crate) fn remove(&self, name: &K) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// The task of a repo.
#[derive(Debug)]
pub(crate) struct RepoHandle {
    /// What happened to it.
    pub(crate) input: mpsc::Sender<RepoInput>,
    /// Accepted gossip connections go here.
    pub(crate) gossip: mpsc::Sender<Connection>,
    /// What its folder says of itself.
    pub(crate) folder: watch::Sender<FolderNews>,
    /// Its objects.
    pub(crate) store: ark_store::Repo,
    /// What is shown of it.
    pub(crate) board: Arc<RepoBoard>,
    /// The id in the config.
    pub(crate) id: String,
    /// Whether there is a folder here.
    pub(crate) has_folder: bool,
    /// How often a device was asked into its gossip.
    pub(crate) joined: Arc<AtomicU64>,
    /// Ends its tasks.
    pub(crate) life: Life,
}

impl RepoHandle {
    /// Whether these options differ from its own in the remotes alone.
    pub(crate) fn is_for(&self, options: &RepoOptions) -> bool {
        self.id == options.id && self.has_folder == options.has_folder
    }
}
