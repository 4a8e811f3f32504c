//! The network side as its user sees it: start, status, shutdown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ark_core::{DeviceId, TopicId, Writer};
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use tokio::sync::watch;
use tracing::warn;

use crate::access::Access;
use crate::board::{Bell, Board, PeerBoard, RepoBoard};
use crate::endpoint;
use crate::error::StartError;
use crate::options::{Options, RepoOptions};
use crate::status::{Behind, NetStatus, RemoteStatus, RepoStatus};

/// How long a shutdown waits for peers to acknowledge that connections are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The running network side. Dropping it without [`Net::shutdown`] closes the endpoint rudely.
#[derive(Debug)]
pub struct Net {
    endpoint: Endpoint,
    board: Arc<Board>,
    bell: Bell,
}

impl Net {
    /// Opens the endpoint and begins to keep `repos` in step. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// A port is busy, an address cannot be listened on, or the options contradict themselves.
    pub async fn start(options: Options, repos: Vec<RepoOptions>) -> Result<Self, StartError> {
        let device = DeviceId::from_bytes(*options.secret_key.public().as_bytes());
        let hints = check(device, &repos)?;
        let bell = Bell::new();
        let listed: Vec<(TopicId, Vec<DeviceId>)> = repos
            .iter()
            .map(|repo| (repo.topic, repo.remotes.iter().map(|remote| remote.device).collect()))
            .collect();
        let listed = listed.iter().map(|(topic, devices)| (*topic, &devices[..]));
        let access = Arc::new(Access::new(listed, bell.clone()));
        let endpoint = endpoint::open(&options, &access, hints).await?;

        let peers = peer_boards(&repos, &bell);
        let boards = repos
            .iter()
            .map(|repo| Arc::new(RepoBoard::new(first_status(repo), bell.clone())))
            .collect();
        let board = Arc::new(Board::new(device, access, peers, boards));
        Ok(Self { endpoint, board, bell })
    }

    /// Per writer the revision that is applied to the folder of `topic` here, to be told to the
    /// remotes. Later calls replace earlier ones.
    pub fn applied(&self, topic: TopicId, applied: BTreeMap<Writer, u64>) {
        let _ = (topic, applied);
    }

    /// The first scan of the folder of `topic` is done.
    pub fn scanned(&self, topic: TopicId) {
        let _ = topic;
    }

    /// The picture of now.
    pub fn status(&self) -> NetStatus {
        self.board.status(self.endpoint.bound_sockets())
    }

    /// Changes whenever [`Net::status`] may have changed in more than byte counts.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.watch()
    }

    /// Stops accepting, tells the peers, closes the endpoint. Bounded in time.
    pub async fn shutdown(self) {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.close()).await.is_err() {
            warn!("the endpoint did not close in time");
        }
    }
}

/// Refuses options that contradict themselves; returns the address hints of all remotes.
fn check(device: DeviceId, repos: &[RepoOptions]) -> Result<Vec<EndpointAddr>, StartError> {
    let mut topics = BTreeSet::new();
    let mut hints: BTreeMap<EndpointId, EndpointAddr> = BTreeMap::new();
    for repo in repos {
        if !topics.insert(repo.topic) {
            return Err(StartError::SameTopic(repo.topic));
        }
        for remote in &repo.remotes {
            let name = remote.name.clone();
            if remote.device == device {
                return Err(StartError::OwnDevice { repo: repo.id.clone(), name });
            }
            let id = EndpointId::from_bytes(remote.device.as_bytes())
                .map_err(|_| StartError::NotADevice { name, device: remote.device })?;
            let hint = hints.entry(id).or_insert_with(|| EndpointAddr::new(id));
            hint.addrs.extend(remote.addrs.iter().copied().map(TransportAddr::Ip));
            hint.addrs.extend(remote.relay.iter().cloned().map(TransportAddr::Relay));
        }
    }
    Ok(hints.into_values().filter(|hint| !hint.addrs.is_empty()).collect())
}

/// A board per listed device, under the name that the first repo gives it.
fn peer_boards(repos: &[RepoOptions], bell: &Bell) -> BTreeMap<DeviceId, Arc<PeerBoard>> {
    let mut boards = BTreeMap::new();
    for remote in repos.iter().flat_map(|repo| &repo.remotes) {
        boards.entry(remote.device).or_insert_with(|| {
            Arc::new(PeerBoard::new(remote.device, remote.name.clone(), bell.clone()))
        });
    }
    boards
}

/// The status of a repo of which nothing is known yet.
fn first_status(repo: &RepoOptions) -> RepoStatus {
    let mut remotes: Vec<RemoteStatus> = repo
        .remotes
        .iter()
        .map(|remote| RemoteStatus {
            device: remote.device,
            name: remote.name.clone(),
            connected: false,
            scanned: false,
            has_folder: false,
            durable: BTreeMap::new(),
            applied: BTreeMap::new(),
            unlisted: Vec::new(),
            behind: Behind::default(),
        })
        .collect();
    remotes.sort_by_key(|remote| remote.device);
    RepoStatus {
        id: repo.id.clone(),
        topic: repo.topic,
        remotes,
        known: BTreeMap::new(),
        durable: BTreeMap::new(),
        behind: Behind::default(),
        problems: Vec::new(),
    }
}
