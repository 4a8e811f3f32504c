//! What the tasks of the network side share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ark_core::{DeviceId, TopicId};
use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::board::PeerBoard;
use crate::lane::Lane;
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
    pub(crate) peers: BTreeMap<DeviceId, PeerHandle>,
    /// Every repo.
    pub(crate) repos: BTreeMap<TopicId, RepoHandle>,
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
}
