//! What is known of peers and progress at a moment: all that `ark status` and `ark wait` ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::SystemTime;

use ark_core::{DeviceId, TopicId, Writer};
use ark_sync::{Counters, Reconciliations, Role};

/// A picture of the network side. Cheap to take; taken as a whole, so its parts agree.
#[derive(Clone, PartialEq, Debug)]
pub struct NetStatus {
    /// This device.
    pub device: DeviceId,
    /// The addresses listened on, with the ports that were given.
    pub local_addrs: Vec<SocketAddr>,
    /// Every device that any repo lists, in order of id.
    pub peers: Vec<PeerStatus>,
    /// Every repo, in the order of the options.
    pub repos: Vec<RepoStatus>,
    /// Devices that were refused, latest last; bounded, oldest forgotten first.
    pub refused: Vec<Refused>,
}

/// A listed device, over all repos.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// The device.
    pub device: DeviceId,
    /// Its name in the config.
    pub name: String,
    /// Whether a connection for the sync protocol stands.
    pub connected: bool,
    /// How it is reached.
    pub path: PathKind,
    /// Round-trip time of that path in milliseconds.
    pub rtt_ms: Option<f64>,
    /// When it was last connected: now, while it is. `None`: not since the start.
    pub last_seen: Option<SystemTime>,
    /// Stream and gossip payload received since the start, over all connections, discarded
    /// payload included. In bytes.
    pub rx_bytes: u64,
    /// Likewise sent.
    pub tx_bytes: u64,
    /// Connections for the sync protocol that came to stand since the start.
    pub connections: u64,
    /// Why no connection comes about, where that is known: say, that it does not list us.
    pub problem: Option<String>,
}

/// By which kind of path packets travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    /// Straight to an address of the device.
    Direct,
    /// Through a relay server.
    Relay,
    /// There is no connection.
    None,
}

/// What moves in one repo.
#[derive(Clone, PartialEq, Debug)]
pub struct RepoStatus {
    /// The id in the config.
    pub id: String,
    /// The id on the wire.
    pub topic: TopicId,
    /// The remotes of the repo, in order of device id.
    pub remotes: Vec<RemoteStatus>,
    /// Newest revision known of every listed writer, whether joined or not.
    pub known: BTreeMap<Writer, u64>,
    /// Newest revision joined (durable) here of every writer.
    pub durable: BTreeMap<Writer, u64>,
    /// Newest revision applied here of every writer, as [`Net::applied`](crate::Net::applied)
    /// was told.
    pub applied: BTreeMap<Writer, u64>,
    /// States that are staged, or wait to be.
    pub staged: usize,
    /// The writers whose state to come nobody connected can give: nothing is owed for these beyond
    /// what is durable.
    pub stuck: BTreeSet<Writer>,
    /// Requests for objects under way.
    pub requests: usize,
    /// What is known to be missing here; bytes are estimated.
    pub behind: Behind,
    /// What was received since the start.
    pub received: Behind,
    /// Sessions of reconciliation since the start, begun by either side.
    pub reconciliation: Reconciliations,
    /// How often something was ignored since the start: forged, stale, unlisted and so on.
    pub ignored: Counters,
    /// Sentences to show, each naming what would help; bounded.
    pub problems: Vec<String>,
}

/// One remote of one repo: what it said and how far it is. What it said last stays when it
/// disconnects.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, shown as such")]
pub struct RemoteStatus {
    /// The device.
    pub device: DeviceId,
    /// Its name in the config.
    pub name: String,
    /// Its stream for this repo stands and it has said hello: it lists this device too.
    pub connected: bool,
    /// Both sides know each other's states, and it has said what it has. A peer that is
    /// connected and not in touch is owed an answer yet.
    pub in_touch: bool,
    /// It is connected, but does not list this device for this repo.
    pub refuses_us: bool,
    /// Whether it has said that its first scan is done, or it has no folder to scan.
    pub scanned: bool,
    /// Whether it has a folder for the repo, and so owes `applied`.
    pub has_folder: bool,
    /// What it lets this device do; `None` until it said.
    pub granted: Option<Role>,
    /// The devices whose states it takes, itself included; `None` until it said. It owes nothing
    /// for others.
    pub listed: Option<BTreeSet<DeviceId>>,
    /// Per writer the newest revision durable there.
    pub durable: BTreeMap<Writer, u64>,
    /// Per writer the newest revision applied there.
    pub applied: BTreeMap<Writer, u64>,
    /// What it is known to lack.
    pub behind: Behind,
}

impl RemoteStatus {
    /// Whether it takes states of this writer. Until it said, it is taken to.
    pub fn lists(&self, writer: Writer) -> bool {
        self.listed.as_ref().is_none_or(|listed| listed.contains(&writer.device))
    }
}

/// An amount of data, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Behind {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A device that wanted to connect and is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The device, authenticated.
    pub device: DeviceId,
    /// When it last tried.
    pub last_seen: SystemTime,
}
