//! Gossip of one repo: announcements, sealed. A hint only: losing every one costs latency.
//!
//! iroh-gossip tries a join once and does not heal a partition, so whoever is met by the sync
//! protocol is joined again here, boundedly (see [`joins`]). Its actor may end or get stuck on one
//! slow peer; it is then started anew.

mod joins;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ark_core::{DeviceId, TopicId};
use ark_sync::Announcement;
use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::Connection;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use iroh_gossip::net::Gossip;
use n0_future::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::access::gossip_alpn;
use crate::repo::RepoInput;
use crate::seal::{SEAL_OVERHEAD, Sealer};
use crate::shared::Shared;

pub(crate) use joins::{Joins, Met};

/// Accepted connections that wait for the task.
pub(crate) const ACCEPTED_CAPACITY: usize = 8;
/// Announcements that wait for the task; more are dropped, because they are hints.
pub(crate) const ANNOUNCEMENT_CAPACITY: usize = 64;
/// The most bytes of a sealed announcement: iroh-gossip silently drops messages over 4,096 bytes
/// with its own header, and ends that neighbour's send loop.
const MAX_SEALED_BYTES: usize = 3_900;
const _: () = assert!(ark_sync::MAX_ANNOUNCEMENT_BYTES + SEAL_OVERHEAD <= MAX_SEALED_BYTES);
/// A command that iroh-gossip does not take for this long means that it is stuck.
const STUCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before an ended iroh-gossip is started anew.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long its shutdown may take: it tells the neighbours that it leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// The gossip of one repo.
pub(crate) struct GossipTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) end: CancellationToken,
    pub(crate) topic: TopicId,
    pub(crate) sealer: Sealer,
    pub(crate) accepted: mpsc::Receiver<Connection>,
    /// To be broadcast.
    pub(crate) announcements: mpsc::Receiver<Announcement>,
    /// Whom the sync protocol has met.
    pub(crate) met: watch::Receiver<Met>,
    /// Whom to join, and when.
    pub(crate) joins: Joins,
    /// How often a device was joined.
    pub(crate) joined: Arc<AtomicU64>,
}

/// Why a life of iroh-gossip ended.
enum End {
    Shutdown,
    Restart(&'static str),
}

impl GossipTask {
    /// Runs until shutdown, or until the repo is listed no more.
    pub(crate) async fn run(mut self) {
        loop {
            let alpn = gossip_alpn(self.topic);
            let gossip = Gossip::builder().alpn(alpn).spawn(self.shared.endpoint.clone());
            let end = self.live(&gossip).await;
            // A dead or stuck actor does not answer: then dropping it is all that is left.
            let _ = timeout(LEAVE_TIMEOUT, gossip.shutdown()).await;
            match end {
                End::Shutdown => return,
                End::Restart(why) => warn!(why, "gossip is started anew"),
            }
            tokio::select! {
                () = self.end.cancelled() => return,
                () = sleep(RESTART_DELAY) => {}
            }
        }
    }

    /// One life of iroh-gossip.
    async fn live(&mut self, gossip: &Gossip) -> End {
        let topic = iroh_gossip::TopicId::from_bytes(*self.topic.as_bytes());
        let bootstrap = self.joins.begun(Instant::now());
        let bootstrap = self.count_joins(bootstrap);
        let (sender, mut receiver) = match gossip.subscribe(topic, bootstrap).await {
            Ok(topic) => topic.split(),
            Err(_) => return End::Restart("it does not take a subscription"),
        };
        let end = self.end.clone();
        loop {
            let result = tokio::select! {
                () = end.cancelled() => return End::Shutdown,
                event = receiver.next() => match event {
                    Some(Ok(event)) => self.event(event, &receiver).await,
                    Some(Err(_)) | None => Err(End::Restart("its events ended")),
                },
                Some(connection) = self.accepted.recv() => {
                    match timeout(STUCK_TIMEOUT, gossip.handle_connection(connection)).await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) | Err(_) => Err(End::Restart("it takes no connection")),
                    }
                }
                Some(announcement) = self.announcements.recv() => {
                    self.announce(&announcement, &sender, &receiver).await
                }
                Ok(()) = self.met.changed() => self.meet(&sender).await,
                () = sleep_until(self.joins.look_at()) => self.look(&sender, &receiver).await,
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn event(&mut self, event: Event, receiver: &GossipReceiver) -> Result<(), End> {
        match event {
            Event::NeighborUp(id) => {
                debug!(neighbour = %id.fmt_short(), "gossip neighbour up");
                self.joins.reached(DeviceId::from_bytes(*id.as_bytes()));
            }
            Event::NeighborDown(id) => {
                debug!(neighbour = %id.fmt_short(), "gossip neighbour down");
                self.joins.look_soon(Instant::now());
            }
            Event::Lagged => self.tell(RepoInput::GossipLagged).await?,
            Event::Received(message) => {
                let from = DeviceId::from_bytes(*message.delivered_from.as_bytes());
                self.count(&message.content, from, receiver);
                if self.shared.lose_gossip {
                    return Ok(());
                }
                let opened = self.sealer.open(&message.content);
                match opened.map(|payload| Announcement::decode(&payload)) {
                    Some(Ok(announcement)) => {
                        self.tell(RepoInput::Announced { from, announcement }).await?;
                    }
                    Some(Err(error)) => debug!(%error, "an announcement that is none"),
                    None => debug!(from = %from.short(), "gossip that is not sealed for this repo"),
                }
            }
        }
        Ok(())
    }

    /// Counts a message from `from`, which iroh-gossip hands on to the other neighbours.
    fn count(&self, content: &Bytes, from: DeviceId, receiver: &GossipReceiver) {
        if let Some(peer) = self.shared.peers.get(&from) {
            peer.board.traffic.received(content.len());
        }
        self.count_sent(content.len(), Some(from), receiver);
    }

    /// Counts bytes as sent to every neighbour but `except`: an upper bound, because iroh-gossip
    /// does not say to whom it sent only the message's id.
    fn count_sent(&self, bytes: usize, except: Option<DeviceId>, receiver: &GossipReceiver) {
        for id in receiver.neighbors() {
            let device = DeviceId::from_bytes(*id.as_bytes());
            if let Some(peer) = self.shared.peers.get(&device).filter(|_| Some(device) != except) {
                peer.board.traffic.sent(bytes);
            }
        }
    }

    async fn tell(&self, input: RepoInput) -> Result<(), End> {
        match self.shared.repos.get(&self.topic) {
            Some(repo) => repo.input.send(input).await.map_err(|_| End::Shutdown),
            None => Err(End::Shutdown),
        }
    }

    async fn announce(
        &self,
        announcement: &Announcement,
        sender: &GossipSender,
        receiver: &GossipReceiver,
    ) -> Result<(), End> {
        let Some(sealed) = self.sealer.seal(&announcement.encode()) else { return Ok(()) };
        self.count_sent(sealed.len(), None, receiver);
        taken(sender.broadcast(sealed.into())).await
    }

    /// Joins those whom the sync protocol has met anew.
    async fn meet(&mut self, sender: &GossipSender) -> Result<(), End> {
        let met = self.met.borrow_and_update().clone();
        let due = self.joins.meet(met, Instant::now());
        self.join(due, sender).await
    }

    /// Joins devices that are connected and missing in the overlay.
    async fn look(&mut self, sender: &GossipSender, receiver: &GossipReceiver) -> Result<(), End> {
        let neighbours: BTreeSet<DeviceId> =
            receiver.neighbors().map(|id| DeviceId::from_bytes(*id.as_bytes())).collect();
        let missing = self.joins.look(&neighbours, Instant::now(), rand::random());
        self.join(missing, sender).await
    }

    async fn join(
        &self,
        devices: impl IntoIterator<Item = DeviceId>,
        sender: &GossipSender,
    ) -> Result<(), End> {
        let peers = self.count_joins(devices);
        if peers.is_empty() {
            return Ok(());
        }
        taken(sender.join_peers(peers)).await
    }

    /// The devices as iroh-gossip is told to join them.
    fn count_joins(&self, devices: impl IntoIterator<Item = DeviceId>) -> Vec<EndpointId> {
        let peers: Vec<EndpointId> = devices.into_iter().filter_map(endpoint_id).collect();
        self.joined.fetch_add(peers.len() as u64, Relaxed);
        peers
    }
}

fn endpoint_id(device: DeviceId) -> Option<EndpointId> {
    EndpointId::from_bytes(device.as_bytes()).ok()
}

/// Waits until iroh-gossip took a command.
async fn taken<E>(command: impl Future<Output = Result<(), E>>) -> Result<(), End> {
    match timeout(STUCK_TIMEOUT, command).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Restart("it ended")),
        Err(_) => Err(End::Restart("it is stuck")),
    }
}
