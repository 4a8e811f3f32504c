//! The network side as its user sees it: start, status, shutdown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ark_core::{DeviceId, TopicId, Writer};
use ark_sync::View;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr, Watcher};
use n0_future::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::access::Access;
use crate::board::{Bell, Board, PeerBoard, PeerPast, RepoBoard};
use crate::error::StartError;
use crate::gossip::{self, GossipTask};
use crate::lane::Lane;
use crate::objects::fetch::Budget;
use crate::options::{Options, RepoOptions};
use crate::repo::{self, FolderNews, RepoInput, RepoTask, show};
use crate::seal::Sealer;
use crate::shared::{PeerHandle, RepoHandle, Shared};
use crate::status::{NetStatus, Refused, RepoStatus};
use crate::{accept, endpoint, peer, reconcile};

/// How long a shutdown waits for the tasks: they end at once, unless the disk hangs.
const TASKS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shutdown waits for connections to drain. Peers are told at once; a dial that nobody
/// answers drains for three of QUIC's probe timeouts, and the sockets are free only then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a shutdown waits for its ports: iroh lets go of its sockets a moment after it says that
/// it is closed.
const FREE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it looks whether they are free.
const FREE_INTERVAL: Duration = Duration::from_millis(5);

/// What goes on when the network side is started anew with another list of repos.
#[derive(Clone, Debug, Default)]
pub struct Past {
    peers: BTreeMap<DeviceId, PeerPast>,
    refused: Vec<Refused>,
}

/// The running network side. Dropping it without [`Net::shutdown`] stops it rudely.
#[derive(Debug)]
pub struct Net {
    shared: Arc<Shared>,
    board: Arc<Board>,
    bell: Bell,
}

impl Net {
    /// Opens the endpoint and begins to keep `repos` in step. Counts go on from those of `past`.
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    /// A port is busy, an address cannot be listened on, or the options contradict themselves.
    pub async fn start(
        options: Options,
        repos: Vec<RepoOptions>,
        past: Past,
    ) -> Result<Self, StartError> {
        let device = DeviceId::from_bytes(*options.secret_key.public().as_bytes());
        let hints = check(device, &repos)?;
        let bell = Bell::new();
        let access = Arc::new(access(&repos, past.refused, &bell));
        let endpoint = endpoint::open(&options, &access, hints).await?;
        info!(device = %device, addrs = ?endpoint.bound_sockets(), "listening");

        let (peers, accepted) = peers(&repos, past.peers, &endpoint, &bell);
        let (handles, ends): (BTreeMap<_, _>, Vec<_>) = repos
            .iter()
            .map(|repo| {
                let (handle, ends) = repo_ends(repo);
                ((repo.topic, handle), ends)
            })
            .unzip();
        let boards: Vec<Arc<RepoBoard>> =
            repos.iter().map(|repo| Arc::new(repo_board(repo, &bell))).collect();
        let peer_boards =
            peers.iter().map(|(&device, peer)| (device, peer.board.clone())).collect();
        let board = Arc::new(Board::new(device, access.clone(), peer_boards, boards.clone()));
        let shared = Arc::new(Shared {
            device,
            endpoint,
            access,
            peers,
            repos: handles,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            reconcilers: Arc::new(Semaphore::new(reconcile::READERS)),
            enumerate_threshold: options.enumerate_threshold,
            lose_gossip: options.lose_gossip,
        });
        spawn_repos(&shared, repos, ends, boards);
        spawn_peers(&shared, accepted);
        shared.tasks.spawn(accept::accept_loop(shared.clone()));
        Ok(Self { shared, board, bell })
    }

    /// Per writer the revision that is applied to the folder of `topic` here, to be told to the
    /// remotes. Writers that are not named keep theirs.
    pub fn applied(&self, topic: TopicId, applied: BTreeMap<Writer, u64>) {
        self.tell(topic, |news| news.applied.extend(applied));
    }

    /// The first scan of the folder of `topic` is done, and what it found is published.
    pub fn scanned(&self, topic: TopicId) {
        self.tell(topic, |news| news.scanned = true);
    }

    fn tell(&self, topic: TopicId, news: impl FnOnce(&mut FolderNews)) {
        if let Some(repo) = self.shared.repos.get(&topic) {
            repo.folder.send_modify(news);
        } else {
            warn!(topic = %topic.short(), "news of a repo that is not here");
        }
    }

    /// The picture of now.
    pub fn status(&self) -> NetStatus {
        self.board.status(self.shared.endpoint.bound_sockets())
    }

    /// How a repo stands now: all that had come in by the call is in it, while [`Net::status`] is
    /// of a moment ago where much happens. `None`: there is no such repo, or it came to its end.
    pub async fn repo_status(&self, topic: TopicId) -> Option<RepoStatus> {
        let (answer, status) = oneshot::channel();
        let repo = self.shared.repos.get(&topic)?;
        repo.input.send(RepoInput::Look(answer)).await.ok()?;
        status.await.ok()
    }

    /// Changes whenever [`Net::status`] may have changed in more than byte counts.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.bell.watch()
    }

    /// Stops accepting and asking, tells the peers, closes the endpoint. Bounded in time. The
    /// store may be closed afterwards, and the ports are free. Returns what the next one goes on
    /// from.
    pub async fn shutdown(self) -> Past {
        let shared = &self.shared;
        shared.cancel.cancel();
        shared.tasks.close();
        if timeout(TASKS_TIMEOUT, shared.tasks.wait()).await.is_err() {
            warn!(tasks = shared.tasks.len(), "some tasks of the network did not end in time");
        }
        let addrs = shared.endpoint.bound_sockets();
        if timeout(CLOSE_TIMEOUT, shared.endpoint.close()).await.is_err() {
            warn!("the endpoint did not close in time");
        }
        let peers = shared.peers.iter().map(|(&device, peer)| (device, peer.board.past()));
        let past = Past { peers: peers.collect(), refused: shared.access.refused() };
        drop(self);
        if timeout(FREE_TIMEOUT, freed(&addrs)).await.is_err() {
            warn!(?addrs, "the ports were not free in time");
        }
        past
    }

    /// For tests: as if gossip of `topic` had come faster than it could be read.
    #[doc(hidden)]
    pub async fn lag_gossip(&self, topic: TopicId) {
        if let Some(repo) = self.shared.repos.get(&topic) {
            // The task is gone only at shutdown.
            let _ = repo.input.send(RepoInput::GossipLagged).await;
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

/// Returns when all of these addresses can be listened on.
async fn freed(addrs: &[SocketAddr]) {
    while !addrs.iter().all(|addr| UdpSocket::bind(addr).is_ok()) {
        sleep(FREE_INTERVAL).await;
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

fn access(repos: &[RepoOptions], refused: Vec<Refused>, bell: &Bell) -> Access {
    let listed: Vec<(TopicId, Vec<DeviceId>)> = repos
        .iter()
        .map(|repo| (repo.topic, repo.remotes.iter().map(|remote| remote.device).collect()))
        .collect();
    let listed = listed.iter().map(|(topic, devices)| (*topic, &devices[..]));
    Access::new(listed, refused, bell.clone())
}

/// A device and the sync connections accepted from it.
type PeerQueue = (DeviceId, mpsc::Receiver<Connection>);

/// A handle per listed device, under the name that the first repo gives it, and the queues of
/// their tasks.
fn peers(
    repos: &[RepoOptions],
    mut past: BTreeMap<DeviceId, PeerPast>,
    endpoint: &Endpoint,
    bell: &Bell,
) -> (BTreeMap<DeviceId, PeerHandle>, Vec<PeerQueue>) {
    let mut peers = BTreeMap::new();
    let mut queues = Vec::new();
    for remote in repos.iter().flat_map(|repo| &repo.remotes) {
        let device = remote.device;
        peers.entry(device).or_insert_with(|| {
            let (accepted, queue) = mpsc::channel(peer::ACCEPTED_CAPACITY);
            queues.push((device, queue));
            let past = past.remove(&device).unwrap_or_default();
            PeerHandle {
                board: Arc::new(PeerBoard::new(device, remote.name.clone(), past, bell.clone())),
                lane: Arc::new(Lane::new(device, endpoint.clone())),
                allowances: Mutex::default(),
                accepted,
            }
        });
    }
    (peers, queues)
}

/// The queues of a repo's tasks, from their side.
struct RepoEnds {
    input: mpsc::Receiver<RepoInput>,
    gossip: mpsc::Receiver<Connection>,
    folder: watch::Receiver<FolderNews>,
}

fn repo_ends(repo: &RepoOptions) -> (RepoHandle, RepoEnds) {
    let (input, input_end) = mpsc::channel(repo::INPUT_CAPACITY);
    let (gossip, gossip_end) = mpsc::channel(gossip::ACCEPTED_CAPACITY);
    let (folder, folder_end) = watch::channel(FolderNews::default());
    let handle = RepoHandle { input, gossip, folder, store: repo.repo.clone() };
    (handle, RepoEnds { input: input_end, gossip: gossip_end, folder: folder_end })
}

/// The board of a repo of which nothing is known yet.
fn repo_board(repo: &RepoOptions, bell: &Bell) -> RepoBoard {
    RepoBoard::new(show::status(repo, &View::default(), |_| false), bell.clone())
}

fn spawn_repos(
    shared: &Arc<Shared>,
    repos: Vec<RepoOptions>,
    ends: Vec<RepoEnds>,
    boards: Vec<Arc<RepoBoard>>,
) {
    let budget = Arc::new(Budget::new());
    for ((options, ends), board) in repos.into_iter().zip(ends).zip(boards) {
        let (hints, commands) = mpsc::channel(gossip::COMMAND_CAPACITY);
        let gossip = GossipTask {
            shared: shared.clone(),
            topic: options.topic,
            sealer: Sealer::new(&options.sealing),
            accepted: ends.gossip,
            commands,
            met: BTreeSet::new(),
            joined: BTreeMap::new(),
            heal_at: Instant::now(),
        };
        shared.tasks.spawn(gossip.run());
        let task = RepoTask {
            shared: shared.clone(),
            board: board.clone(),
            input: ends.input,
            folder: ends.folder,
            gossip: hints,
            budget: budget.clone(),
        };
        shared.tasks.spawn(async move {
            // A task of its own, so that a panic in it ends nothing but this repo, visibly.
            if let Err(error) = tokio::spawn(repo::run(options, task)).await {
                error!(%error, "the task of a repo failed");
                board.failed("stopped by an internal error; start ark again".to_owned());
            }
        });
    }
}

fn spawn_peers(shared: &Arc<Shared>, queues: Vec<PeerQueue>) {
    let (changed, network) = watch::channel(());
    for (device, queue) in queues {
        shared.tasks.spawn(peer::run(shared.clone(), device, queue, network.clone()));
    }
    let (mut addrs, cancel) =
        (shared.endpoint.watch_addr().stream_updates_only(), shared.cancel.clone());
    shared.tasks.spawn(async move {
        // Ends with the endpoint, too.
        let watch = async {
            while addrs.next().await.is_some() {
                changed.send_replace(());
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = watch => {}
        }
    });
}
