//! The network side as its user sees it: start, status, shutdown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ark_core::{DeviceId, TopicId, Writer};
use ark_sync::View;
use iroh::address_lookup::EndpointInfo;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{EndpointAddr, EndpointId, TransportAddr};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::access::Access;
use crate::board::{Bell, Board, Boards, PeerBoard, PeerPast, RepoBoard};
use crate::error::StartError;
use crate::gossip::{self, GossipTask, Joins};
use crate::lane::Lane;
use crate::objects::fetch::Budget;
use crate::options::{Options, RepoOptions};
use crate::repo::{self, FolderNews, RepoInput, RepoTask, show};
use crate::seal::Sealer;
use crate::shared::{Handles, Life, Listing, PeerHandle, RepoHandle, Shared};
use crate::status::{NetStatus, Refused, RepoStatus};
use crate::{accept, endpoint, network, peer, reconcile};

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

/// What goes on when the network side is started anew with other options.
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
    /// Where the config says that devices are.
    hints: MemoryLookup,
    /// The addresses of this machine; rung when it comes to another network.
    network: watch::Receiver<BTreeSet<IpAddr>>,
    /// Of all repos.
    budget: Arc<Budget>,
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
        let hints = MemoryLookup::from_endpoint_info(check(device, &repos)?);
        let bell = Bell::new();
        let access = Arc::new(Access::new(past.refused, bell.clone()));
        access.list(lists(&repos));
        let endpoint = endpoint::open(&options, &access, hints.clone()).await?;
        info!(device = %device, addrs = ?endpoint.bound_sockets(), "listening");
        let shared = Arc::new(Shared {
            device,
            endpoint,
            access: access.clone(),
            peers: Handles::new(),
            repos: Handles::new(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            reconcilers: Arc::new(Semaphore::new(reconcile::READERS)),
            enumerate_threshold: options.enumerate_threshold,
            lose_gossip: options.lose_gossip,
        });
        let network = network::watch(&shared);
        let board = Arc::new(Board::new(device, access));
        let budget = Arc::new(Budget::new());
        let net = Self { shared, board, bell, hints, network, budget };
        net.begin(repos, past.peers);
        net.shared.tasks.spawn(accept::accept_loop(net.shared.clone()));
        Ok(net)
    }

    /// Keeps `repos` in step from now on, in the place of those before. What is the same goes on:
    /// the task of each repo that differs at most in its remotes, which tells those that stay whose
    /// states count now; and the connections with each device that is listed for the same repos
    /// in the same way. What changed ends, and begins anew where it is listed still.
    ///
    /// # Errors
    /// The options contradict themselves; then nothing has changed.
    pub async fn relist(&mut self, repos: Vec<RepoOptions>) -> Result<(), StartError> {
        let shared = &self.shared;
        let hints = check(shared.device, &repos)?;
        let listings = listings(&repos);
        let goes_on = |topic: &TopicId, handle: &RepoHandle| {
            repos.iter().any(|repo| repo.topic == *topic && handle.is_for(repo))
        };
        let (kept, ended): (Vec<_>, Vec<_>) =
            shared.repos.all().into_iter().partition(|(topic, handle)| goes_on(topic, handle));
        let is_met_anew = |(device, peer): &(DeviceId, Arc<PeerHandle>)| {
            listings.get(device) != Some(&peer.listing)
                || ended.iter().any(|(topic, _)| peer.listing.repos.contains_key(topic))
        };
        let peers = shared.peers.all();
        let known: Vec<DeviceId> = peers.iter().map(|(device, _)| *device).collect();
        let peers: Vec<_> = peers.into_iter().filter(is_met_anew).collect();

        // From here on nobody comes in by the old lists.
        shared.access.list(lists(&repos));
        shared.endpoint.set_alpns(shared.access.alpns());
        for (topic, repo) in &ended {
            shared.repos.remove(topic);
            repo.life.end.cancel();
        }
        for (device, peer) in &peers {
            shared.peers.remove(device);
            peer.life.end.cancel();
            shared.access.cut(*device);
        }
        let moved = self.take_hints(&known, hints);
        let ends = async {
            for (_, repo) in &ended {
                repo.life.ended().await;
            }
            for (_, peer) in &peers {
                peer.life.ended().await;
            }
        };
        if timeout(TASKS_TIMEOUT, ends).await.is_err() {
            warn!("some tasks of what the config lists no more did not end in time");
        }
        for (topic, handle) in kept {
            let remotes = repos.iter().find(|repo| repo.topic == topic);
            let remotes = remotes.map(|repo| repo.remotes.clone()).unwrap_or_default();
            // The task is gone only at shutdown.
            let _ = handle.input.send(RepoInput::Listed(remotes)).await;
        }
        let pasts = peers.iter().map(|(device, peer)| (*device, peer.board.past())).collect();
        self.begin(repos, pasts);
        for peer in moved.iter().filter_map(|device| self.shared.peers.get(device)) {
            peer.moved.notify_one();
        }
        self.bell.ring();
        Ok(())
    }

    /// Takes up where devices are, in the place of what was said of those `known` before. Those of
    /// them of whom something else is said now.
    fn take_hints(&self, known: &[DeviceId], hints: Vec<EndpointAddr>) -> Vec<DeviceId> {
        let mut moved = Vec::new();
        for &device in known {
            let Ok(id) = EndpointId::from_bytes(device.as_bytes()) else { continue };
            let before = self.hints.remove_endpoint_info(id);
            let now = hints.iter().find(|hint| hint.id == id);
            if before.map(EndpointInfo::into_endpoint_addr).as_ref() != now {
                moved.push(device);
            }
        }
        for hint in hints {
            self.hints.set_endpoint_info(hint);
        }
        moved
    }

    /// Begins what does not run yet, and shows all of it.
    fn begin(&self, repos: Vec<RepoOptions>, mut pasts: BTreeMap<DeviceId, PeerPast>) {
        let shared = &self.shared;
        let listings = listings(&repos);
        let names = names(&repos);
        let mut boards = Boards::default();
        for repo in repos {
            let running = shared.repos.get(&repo.topic);
            let handle = running.unwrap_or_else(|| self.begin_repo(repo));
            boards.repos.push(handle.board.clone());
        }
        for (device, listing) in listings {
            let running = shared.peers.get(&device);
            let handle = running.unwrap_or_else(|| {
                let past = pasts.remove(&device).unwrap_or_default();
                let name = names.get(&device).cloned().unwrap_or_default();
                let board = PeerBoard::new(device, name, past, self.bell.clone());
                self.begin_peer(device, listing, board)
            });
            boards.peers.push(handle.board.clone());
        }
        self.board.list(boards);
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

    /// The folder of `topic` begins anew, perhaps as another one: what was said of it is void.
    pub fn folder_begun(&self, topic: TopicId) {
        self.tell(topic, |news| {
            *news = FolderNews { beginnings: news.beginnings + 1, ..FolderNews::default() };
        });
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
        let peers = shared.peers.all().into_iter();
        let peers = peers.map(|(device, peer)| (device, peer.board.past()));
        let past = Past { peers: peers.collect(), refused: shared.access.refused() };
        drop(self);
        if timeout(FREE_TIMEOUT, freed(&addrs)).await.is_err() {
            warn!(?addrs, "the ports were not free in time");
        }
        past
    }

    /// For tests: how often a device was asked into the gossip of `topic` since the start.
    #[doc(hidden)]
    pub fn gossip_joins(&self, topic: TopicId) -> u64 {
        self.shared.repos.get(&topic).map_or(0, |repo| repo.joined.load(Relaxed))
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

/// Per repo the devices that it lists.
fn lists(repos: &[RepoOptions]) -> impl Iterator<Item = (TopicId, Vec<DeviceId>)> {
    let devices = |repo: &RepoOptions| repo.remotes.iter().map(|remote| remote.device).collect();
    repos.iter().map(move |repo| (repo.topic, devices(repo)))
}

/// How each device is listed, over all repos.
fn listings(repos: &[RepoOptions]) -> BTreeMap<DeviceId, Listing> {
    let mut listings: BTreeMap<DeviceId, Listing> = BTreeMap::new();
    for (repo, remote) in
        repos.iter().flat_map(|repo| repo.remotes.iter().map(move |it| (repo, it)))
    {
        let listing = listings.entry(remote.device).or_default();
        listing.names.insert(remote.name.clone());
        listing.repos.insert(repo.topic, remote.role);
    }
    listings
}

/// The name of each device: the one that the first repo gives it.
fn names(repos: &[RepoOptions]) -> BTreeMap<DeviceId, String> {
    let remotes = repos.iter().flat_map(|repo| &repo.remotes).rev();
    remotes.map(|remote| (remote.device, remote.name.clone())).collect()
}

impl Net {
    /// Begins the tasks of a repo of which nothing is known yet.
    fn begin_repo(&self, repo: RepoOptions) -> Arc<RepoHandle> {
        let shared = &self.shared;
        let (input, input_end) = mpsc::channel(repo::INPUT_CAPACITY);
        let (accepted, accepted_end) = mpsc::channel(gossip::ACCEPTED_CAPACITY);
        let (folder, folder_end) = watch::channel(FolderNews::default());
        let status = show::status(&repo, &View::default(), |_| false);
        let board = Arc::new(RepoBoard::new(status, self.bell.clone()));
        let handle = Arc::new(RepoHandle {
            input,
            gossip: accepted,
            folder,
            store: repo.repo.clone(),
            board: board.clone(),
            id: repo.id.clone(),
            has_folder: repo.has_folder,
            joined: Arc::default(),
            life: Life::within(&shared.cancel),
        });
        // It is found by its tasks.
        shared.repos.add(repo.topic, handle.clone());
        let (announce, announcements) = mpsc::channel(gossip::ANNOUNCEMENT_CAPACITY);
        let (meets, met) = watch::channel(BTreeMap::new());
        let gossip = GossipTask {
            shared: shared.clone(),
            end: handle.life.end.clone(),
            topic: repo.topic,
            sealer: Sealer::new(&repo.sealing),
            accepted: accepted_end,
            announcements,
            met,
            joins: Joins::new(Instant::now()),
            joined: handle.joined.clone(),
        };
        shared.tasks.spawn(handle.life.tasks.track_future(gossip.run()));
        let task = RepoTask {
            shared: shared.clone(),
            end: handle.life.end.clone(),
            board: board.clone(),
            input: input_end,
            folder: folder_end,
            announce,
            meets,
            budget: self.budget.clone(),
        };
        shared.tasks.spawn(handle.life.tasks.track_future(async move {
            // A task of its own, so that a panic in it ends nothing but this repo, visibly.
            if let Err(error) = tokio::spawn(repo::run(repo, task)).await {
                error!(%error, "the task of a repo failed");
                board.failed("stopped by an internal error; start ark again".to_owned());
            }
        }));
        handle
    }

    /// Begins the task of a device.
    fn begin_peer(&self, device: DeviceId, listing: Listing, board: PeerBoard) -> Arc<PeerHandle> {
        let shared = &self.shared;
        let (accepted, queue) = mpsc::channel(peer::ACCEPTED_CAPACITY);
        let handle = Arc::new(PeerHandle {
            board: Arc::new(board),
            lane: Arc::new(Lane::new(device, shared.endpoint.clone())),
            allowances: Mutex::default(),
            accepted,
            listing,
            moved: Notify::new(),
            life: Life::within(&shared.cancel),
        });
        shared.peers.add(device, handle.clone());
        let of = (device, handle.clone());
        let task = peer::run(shared.clone(), of, queue, self.network.clone());
        shared.tasks.spawn(handle.life.tasks.track_future(task));
        handle
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    #[tokio::test]
    async fn who_is_said_to_be_elsewhere_is_told_from_who_is_not() {
        let options = Options::on_loopback(SecretKey::generate());
        let net = Net::start(options, Vec::new(), Past::default()).await.unwrap();
        let [here, there, new] = [1, 2, 3].map(|_| SecretKey::generate().public());
        let at = |id, port: u16| EndpointAddr::new(id).with_ip_addr(([127, 0, 0, 1], port).into());
        let known = [here, there].map(|id| DeviceId::from_bytes(*id.as_bytes()));
        assert_eq!(net.take_hints(&[], vec![at(here, 1)]), []);
        assert_eq!(net.take_hints(&known, vec![at(here, 1), at(there, 2), at(new, 3)]), known[1..]);
        assert_eq!(net.take_hints(&known, vec![at(here, 2), at(there, 2)]), known[..1]);
        assert_eq!(net.take_hints(&known, vec![at(here, 2), at(there, 2)]), []);
        assert_eq!(net.take_hints(&known, vec![at(there, 2)]), known[..1]);
        net.shutdown().await;
    }
}
