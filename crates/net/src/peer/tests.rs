//! The task of a device against an endpoint that a test drives.

use std::net::SocketAddr;
use std::sync::Mutex;

use ark_core::TopicId;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{ConnectOptions, IdleTimeout, QuicTransportConfig, VarInt};
use iroh::{Endpoint, EndpointAddr, SecretKey};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::access::{Access, gossip_alpn};
use crate::board::{Bell, PeerBoard, PeerPast};
use crate::endpoint;
use crate::lane::Lane;
use crate::options::Options;
use crate::shared::{Handles, Life, Listing};

/// Guards against waiting forever; nothing is asserted about time.
const GUARD: Duration = Duration::from_mins(3);
/// What nobody waits for.
const NEVER: Duration = Duration::from_hours(24);

/// Waits for what is sure to come.
async fn guarded<T>(what: impl Future<Output = T>) -> T {
    timeout(GUARD, what).await.expect("it comes")
}

fn topic() -> TopicId {
    TopicId::derive("x", None)
}

/// A device with one peer, whose task is not running yet, and the peer's endpoint.
struct Met {
    peer: Peer,
    accepted: mpsc::Receiver<Connection>,
    cancel: CancellationToken,
    hints: MemoryLookup,
    there: Endpoint,
}

/// An endpoint that lets nobody but `device` in.
async fn open(key: &SecretKey, device: DeviceId) -> (Endpoint, Arc<Access>, MemoryLookup) {
    let options = Options::on_loopback(key.clone());
    let access = Arc::new(Access::new(Vec::new(), Bell::new()));
    access.list([(topic(), vec![device])]);
    let hints = MemoryLookup::new();
    (endpoint::open(&options, &access, hints.clone()).await.unwrap(), access, hints)
}

fn addr(endpoint: &Endpoint) -> EndpointAddr {
    let addr: SocketAddr = endpoint.bound_sockets()[0];
    EndpointAddr::new(endpoint.id()).with_ip_addr(addr)
}

impl Met {
    /// They know nothing of where they are, and nobody is to dial.
    async fn new() -> Self {
        let [here, there] = [1, 2].map(|_| SecretKey::generate());
        let [id, device] =
            [&here, &there].map(|key| DeviceId::from_bytes(*key.public().as_bytes()));
        let (endpoint, access, hints) = open(&here, device).await;
        let (there, ..) = open(&there, id).await;
        let cancel = CancellationToken::new();
        let shared = Arc::new(Shared {
            device: id,
            endpoint: endpoint.clone(),
            access,
            peers: Handles::new(),
            repos: Handles::new(),
            cancel: cancel.clone(),
            tasks: TaskTracker::new(),
            reconcilers: Arc::new(Semaphore::new(1)),
            enumerate_threshold: crate::DEFAULT_ENUMERATE_THRESHOLD,
            lose_gossip: false,
        });
        let board = PeerBoard::new(device, String::new(), PeerPast::default(), Bell::new());
        let (accepting, accepted) = mpsc::channel(ACCEPTED_CAPACITY);
        let handle = Arc::new(PeerHandle {
            board: Arc::new(board),
            lane: Arc::new(Lane::new(device, endpoint)),
            allowances: Mutex::default(),
            accepted: accepting,
            listing: Listing::default(),
            moved: Notify::new(),
            life: Life::within(&cancel),
        });
        let peer = Peer {
            shared,
            device,
            handle,
            current: None,
            dial: None,
            dial_since: Instant::now(),
            next_dial: Instant::now() + NEVER,
            backoff: Backoff::new(),
            sessions: JoinSet::new(),
            addresses: BTreeSet::new(),
        };
        Self { peer, accepted, cancel, hints, there }
    }

    /// Likewise; it is known here where the other one is.
    async fn hinted() -> Self {
        let met = Self::new().await;
        met.hints.set_endpoint_info(addr(&met.there));
        met
    }

    /// A connection that is dialled here, and its other end.
    async fn dial(&self, alpn: &[u8], options: ConnectOptions) -> (Connection, Connection) {
        let here = &self.peer.shared.endpoint;
        let dial = async {
            let dial = here.connect_with_opts(addr(&self.there), alpn, options).await;
            dial.unwrap().await.unwrap()
        };
        guarded(async { tokio::join!(dial, self.dialled()) }).await
    }

    /// The other end of the next connection that is dialled here.
    async fn dialled(&self) -> Connection {
        let incoming = guarded(self.there.accept()).await.expect("the endpoint is open");
        guarded(incoming.accept().unwrap()).await.unwrap()
    }

    /// The task runs until it has dialled.
    async fn dials_anew(self) {
        let Self { peer, accepted, cancel, there, .. } = self;
        let endpoint = peer.shared.endpoint.clone();
        let (_network, changes) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(peer.run(accepted, changes));
        let incoming = guarded(there.accept()).await;
        assert!(incoming.is_some());
        cancel.cancel();
        guarded(task).await.expect("it ends");
        endpoint.close().await;
        there.close().await;
    }
}

fn gossip() -> Vec<u8> {
    gossip_alpn(topic())
}

fn plain() -> ConnectOptions {
    ConnectOptions::new()
}

#[tokio::test]
async fn who_is_elsewhere_is_dialled_there_whatever_is_waited_for() {
    let mut met = Met::new().await;
    // One dial hangs, and the next is far off.
    met.peer.dial = Some(Box::pin(std::future::pending()));
    met.hints.set_endpoint_info(addr(&met.there));
    met.peer.handle.moved.notify_one();
    met.dials_anew().await;
}

#[tokio::test]
async fn what_leaves_from_an_address_that_is_gone_is_cut_and_dialled_anew() {
    let mut met = Met::hinted().await;
    let [own, other] = ["127.0.0.1", "10.0.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    met.peer.network_changed([own, other].into());
    let (sync, _there) = met.dial(SYNC_ALPN, plain()).await;
    let (announcements, _there) = met.dial(&gossip(), plain()).await;
    met.peer.offer(sync.clone(), true);

    met.peer.network_changed([own].into());
    met.peer.network_changed([own, other].into());
    for connection in [&sync, &announcements] {
        assert_eq!(connection.close_reason(), None, "another address was gone");
    }
    // A dial that began there would hang.
    met.peer.dial = Some(Box::pin(std::future::pending()));
    met.peer.network_changed([other].into());
    for connection in [&sync, &announcements] {
        assert_eq!(connection.close_reason(), Some(ConnectionError::LocallyClosed));
    }
    met.dials_anew().await;
}

#[tokio::test]
async fn who_dials_anew_has_none_of_its_older_connections() {
    let mut met = Met::hinted().await;
    let (first, _there) = met.dial(SYNC_ALPN, plain()).await;
    let (older, _there) = met.dial(&gossip(), plain()).await;
    met.peer.offer(first.clone(), false);
    let current = met.peer.current.as_mut().unwrap();
    current.since -= SAME_MEETING;
    let (second, _there) = met.dial(SYNC_ALPN, plain()).await;
    let (newer, _there) = met.dial(&gossip(), plain()).await;
    met.peer.offer(second.clone(), false);
    for connection in [first, older] {
        assert_eq!(connection.close_reason(), Some(ConnectionError::LocallyClosed));
    }
    for connection in [second, newer] {
        assert_eq!(connection.close_reason(), None);
    }
    met.there.close().await;
}

#[tokio::test]
async fn what_stands_beside_a_connection_that_was_lost_is_cut() {
    let mut met = Met::hinted().await;
    // Nobody says anything on it; in milliseconds, far more than it takes to stand.
    let soon = IdleTimeout::from(VarInt::from_u32(2_000));
    let transport = QuicTransportConfig::builder().max_idle_timeout(Some(soon)).build();
    let lost = plain().with_transport_config(transport);
    let (sync, _there) = met.dial(SYNC_ALPN, lost).await;
    let (announcements, _there) = met.dial(&gossip(), plain()).await;
    met.peer.offer(sync, true);
    let Met { peer, accepted, cancel, there, .. } = met;
    let (_network, changes) = watch::channel(BTreeSet::new());
    let task = tokio::spawn(peer.run(accepted, changes));
    assert_eq!(guarded(announcements.closed()).await, ConnectionError::LocallyClosed);
    cancel.cancel();
    guarded(task).await.expect("it ends");
    there.close().await;
}
