//! Gossip of one repo: announcements, sealed. A hint only: losing every one costs latency.
//!
//! iroh-gossip tries a join once and does not heal a partition, so whoever is met by the sync
//! protocol is joined again here, boundedly. Its actor may end or get stuck on one slow peer; it
//! is then started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ark_core::{DeviceId, TopicId};
use ark_sync::Announcement;
use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::Connection;
use iroh_gossip::api::{Event, GossipReceiver, GossipSender};
use iroh_gossip::net::Gossip;
use n0_future::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::access::gossip_alpn;
use crate::repo::RepoInput;
use crate::seal::{SEAL_OVERHEAD, Sealer};
use crate::shared::Shared;

/// Accepted connections that wait for the task.
pub(crate) const ACCEPTED_CAPACITY: usize = 8;
/// What the repo's task wants of this one; more is dropped, because all of it is a hint.
pub(crate) const COMMAND_CAPACITY: usize = 64;
/// The most bytes of a sealed announcement: iroh-gossip silently drops messages over 4,096 bytes
/// with its own header, and ends that neighbour's send loop.
const MAX_SEALED_BYTES: usize = 3_900;
const _: () = assert!(ark_sync::MAX_ANNOUNCEMENT_BYTES + SEAL_OVERHEAD <= MAX_SEALED_BYTES);
/// The same device is joined again no sooner than this.
const REJOIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is asked whether devices that are connected are missing in the overlay.
const HEAL_INTERVAL: Duration = Duration::from_secs(30);
/// With so many neighbours the overlay is left alone: it keeps five at most.
const ENOUGH_NEIGHBOURS: usize = 3;
/// Devices joined at one healing.
const JOINS_AT_ONCE: usize = 2;
/// A command that iroh-gossip does not take for this long means that it is stuck.
const STUCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before an ended iroh-gossip is started anew.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long its shutdown may take: it tells the neighbours that it leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the repo's task wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// Broadcast it.
    Announce(Announcement),
    /// The sync protocol has met this device: it should be in the overlay.
    Met(DeviceId),
    /// It has lost it.
    Lost(DeviceId),
}

/// The gossip of one repo.
pub(crate) struct GossipTask {
    pub(crate) shared: Arc<Shared>,
    pub(crate) end: CancellationToken,
    pub(crate) topic: TopicId,
    pub(crate) sealer: Sealer,
    pub(crate) accepted: mpsc::Receiver<Connection>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Devices that the sync protocol is connected with.
    pub(crate) met: BTreeSet<DeviceId>,
    /// When each was last joined.
    pub(crate) joined: BTreeMap<DeviceId, Instant>,
    /// When the overlay is looked at next.
    pub(crate) heal_at: Instant,
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
        let bootstrap = self.met.iter().copied().filter_map(endpoint_id).collect();
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
                Some(command) = self.commands.recv() => {
                    self.command(command, &sender, &receiver).await
                }
                () = sleep_until(self.heal_at) => {
                    let jitter = 0.75 + rand::random::<f64>() / 2.0;
                    self.heal_at = Instant::now() + HEAL_INTERVAL.mul_f64(jitter);
                    self.heal(&sender, &receiver).await
                }
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    async fn event(&mut self, event: Event, receiver: &GossipReceiver) -> Result<(), End> {
        match event {
            Event::NeighborUp(id) => debug!(neighbour = %id.fmt_short(), "gossip neighbour up"),
            Event::NeighborDown(id) => {
                debug!(neighbour = %id.fmt_short(), "gossip neighbour down");
                self.heal_soon();
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

    async fn command(
        &mut self,
        command: Command,
        sender: &GossipSender,
        receiver: &GossipReceiver,
    ) -> Result<(), End> {
        match command {
            Command::Announce(announcement) => {
                let Some(sealed) = self.sealer.seal(&announcement.encode()) else { return Ok(()) };
                self.count_sent(sealed.len(), None, receiver);
                taken(sender.broadcast(sealed.into())).await
            }
            Command::Met(device) => {
                self.met.insert(device);
                self.join(vec![device], sender).await
            }
            Command::Lost(device) => {
                self.met.remove(&device);
                Ok(())
            }
        }
    }

    /// Joins devices that are connected but missing among too few neighbours.
    async fn heal(&mut self, sender: &GossipSender, receiver: &GossipReceiver) -> Result<(), End> {
        let neighbours: BTreeSet<DeviceId> =
            receiver.neighbors().map(|id| DeviceId::from_bytes(*id.as_bytes())).collect();
        if neighbours.len() >= ENOUGH_NEIGHBOURS {
            return Ok(());
        }
        let missing = self.met.difference(&neighbours).copied().take(JOINS_AT_ONCE).collect();
        self.join(missing, sender).await
    }

    fn heal_soon(&mut self) {
        self.heal_at = self.heal_at.min(Instant::now() + REJOIN_INTERVAL);
    }

    async fn join(&mut self, devices: Vec<DeviceId>, sender: &GossipSender) -> Result<(), End> {
        let now = Instant::now();
        let mut peers = Vec::new();
        for device in devices {
            let recently = |at: &Instant| now.duration_since(*at) < REJOIN_INTERVAL;
            if self.joined.get(&device).is_some_and(recently) {
                self.heal_soon();
            } else {
                self.joined.insert(device, now);
                peers.extend(endpoint_id(device));
            }
        }
        if peers.is_empty() {
            return Ok(());
        }
        taken(sender.join_peers(peers)).await
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
