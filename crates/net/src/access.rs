//! Who may connect, and for which repos: decided on the authenticated id, in both directions.
//!
//! A device that no repo lists is turned away right after the handshake, before any stream of
//! its is read, and is remembered so that it can be shown. Gossip has one ALPN per repo (see
//! [`gossip_alpn`]), because iroh-gossip itself knows no access control per topic: so a device
//! listed for one repo never joins the gossip of another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use ark_core::{DeviceId, TopicId};
use iroh::EndpointAddr;
use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, LocalTransportAddr,
    VarInt, WeakConnectionHandle,
};
use tracing::{debug, info};

use crate::blobs;
use crate::board::Bell;
use crate::shared::{CODE_REPLACED, close};
use crate::status::Refused;

/// The sync protocol: states and what is where.
pub(crate) const SYNC_ALPN: &[u8] = b"ark/sync/1";
/// The object protocol: bulk transfer.
pub(crate) const OBJECTS_ALPN: &[u8] = b"ark/objects/1";
/// What the gossip ALPNs begin with.
const GOSSIP_ALPN_PREFIX: &[u8] = b"ark/gossip/1/";
/// Context under which a topic becomes the rest of its gossip ALPN, so that an observer of the
/// handshake learns nothing that is used elsewhere. Part of the protocol.
const GOSSIP_ALPN_CONTEXT: &str = "ark gossip alpn v1";
/// Bytes of the derived part: enough that repos of one device never meet by chance.
const GOSSIP_ALPN_BYTES: usize = 8;

/// Refused devices that are remembered. Whoever tries with ever new keys must not fill memory.
const MAX_REFUSED: usize = 64;

/// Connections with one device at a time: some for each protocol, and those of earlier lives of it
/// that nobody has missed yet. What each may have that nobody reads is bounded by its window.
const MAX_CONNECTIONS: usize = 64;
/// So many more for each repo that lists it: gossip has connections of its own, dialled by either
/// side, in this life of it and in the one before.
const MAX_CONNECTIONS_PER_REPO: usize = 4;

/// The connection was closed because the device is not listed.
pub(crate) const CODE_NOT_LISTED: VarInt = VarInt::from_u32(1);
/// Reason sent with [`CODE_NOT_LISTED`].
const REASON_NOT_LISTED: &[u8] = b"this device is not listed here";

/// The connection was closed because the device has too many.
const CODE_TOO_MANY: VarInt = VarInt::from_u32(7);

/// The ALPN under which the devices of one repo gossip.
pub(crate) fn gossip_alpn(topic: TopicId) -> Vec<u8> {
    let derived = blake3::derive_key(GOSSIP_ALPN_CONTEXT, topic.as_bytes());
    let mut alpn = GOSSIP_ALPN_PREFIX.to_vec();
    for byte in &derived[..GOSSIP_ALPN_BYTES] {
        alpn.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    alpn
}

/// Whether a connection may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Admitted {
    /// It may.
    Yes,
    /// Its device is not listed, or not for the repo that it asks for.
    NotListed,
    /// Its device has too many.
    TooMany,
}

/// The lists of the config, by device and by ALPN.
#[derive(Debug, Default)]
struct Lists {
    listed: BTreeMap<DeviceId, BTreeSet<TopicId>>,
    gossip: BTreeMap<Vec<u8>, TopicId>,
}

/// The lists of the config, and who was refused.
#[derive(Debug)]
pub(crate) struct Access {
    lists: RwLock<Lists>,
    refused: Mutex<VecDeque<Refused>>,
    /// The connections with each listed device, those that are gone included until the next one.
    standing: Mutex<BTreeMap<DeviceId, Vec<WeakConnectionHandle>>>,
    bell: Bell,
}

impl Access {
    /// Access for nobody. `refused`: who was refused before.
    pub(crate) fn new(refused: Vec<Refused>, bell: Bell) -> Self {
        let refused = Mutex::new(refused.into());
        Self { lists: RwLock::default(), refused, standing: Mutex::default(), bell }
    }

    /// Access for these repos from now on, each with the devices it lists.
    pub(crate) fn list(&self, repos: impl IntoIterator<Item = (TopicId, Vec<DeviceId>)>) {
        let mut listed: BTreeMap<DeviceId, BTreeSet<TopicId>> = BTreeMap::new();
        let mut gossip = BTreeMap::new();
        for (topic, devices) in repos {
            gossip.insert(gossip_alpn(topic), topic);
            for device in devices {
                listed.entry(device).or_default().insert(topic);
            }
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|one| !listed.contains_key(&one.device));
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = Lists { listed, gossip };
    }

    fn lists(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes every connection with `device`: it is listed otherwise, or no more, or the way to it is
    /// lost.
    pub(crate) fn cut(&self, device: DeviceId) {
        let code = if self.is_listed(device) { CODE_REPLACED } else { CODE_NOT_LISTED };
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner).remove(&device);
        for connection in standing.iter().flatten().filter_map(WeakConnectionHandle::upgrade) {
            close(&connection, code, b"all connections end");
        }
    }

    /// Closes the connections with `device` that go straight to it from addresses that are `gone`
    /// from this machine, and in no other way. As long as one of them stands, iroh takes its path to
    /// be the way to the device, and closes those that work.
    ///
    /// A path is taken to leave from where it left when it was opened, as iroh says no more. One
    /// that QUIC has moved since may be cut though it works, or stand until it is idle for too long.
    pub(crate) fn cut_gone(&self, device: DeviceId, gone: &BTreeSet<IpAddr>) {
        for connection in self.standing(device) {
            let paths = connection.paths();
            if goes_nowhere(paths.iter().map(|path| path.local_addr().clone()), gone) {
                close(&connection, CODE_REPLACED, b"an address is gone");
            }
        }
    }

    /// Closes the connections with `device` that are older than this one: it has them no more, or
    /// it would not have dialled anew.
    pub(crate) fn cut_older(&self, device: DeviceId, newer: &Connection) {
        let standing = self.standing(device);
        let at = standing.iter().position(|one| one.stable_id() == newer.stable_id());
        for older in &standing[..at.unwrap_or(0)] {
            close(older, CODE_REPLACED, b"the devices met anew");
        }
    }

    /// The connections with `device`, oldest first.
    fn standing(&self, device: DeviceId) -> Vec<Connection> {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = standing.get(&device).into_iter().flatten();
        handles.filter_map(WeakConnectionHandle::upgrade).collect()
    }

    fn is_listed(&self, device: DeviceId) -> bool {
        self.lists().listed.contains_key(&device)
    }

    /// Every ALPN that is answered.
    pub(crate) fn alpns(&self) -> Vec<Vec<u8>> {
        let fixed = [SYNC_ALPN, OBJECTS_ALPN, blobs::ALPN].map(<[u8]>::to_vec);
        fixed.into_iter().chain(self.lists().gossip.keys().cloned()).collect()
    }

    /// The repo whose gossip has this ALPN.
    pub(crate) fn gossip_topic(&self, alpn: &[u8]) -> Option<TopicId> {
        self.lists().gossip.get(alpn).copied()
    }

    /// Whether `device` is listed for `topic`: whether it may read or be told anything of it.
    pub(crate) fn may_see(&self, device: DeviceId, topic: TopicId) -> bool {
        self.lists().listed.get(&device).is_some_and(|topics| topics.contains(&topic))
    }

    /// The repos that `device` is listed for.
    pub(crate) fn topics_of(&self, device: DeviceId) -> Vec<TopicId> {
        self.lists().listed.get(&device).into_iter().flatten().copied().collect()
    }

    /// Whether a connection with `device` under `alpn` may stand.
    fn may_connect(&self, device: DeviceId, alpn: &[u8]) -> bool {
        match self.gossip_topic(alpn) {
            Some(topic) => self.may_see(device, topic),
            None => self.is_listed(device),
        }
    }

    /// Counts a connection in, where it may stand.
    fn admit(&self, connection: &Connection) -> Admitted {
        let device = DeviceId::from_bytes(*connection.remote_id().as_bytes());
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: lists change before [`Access::cut`] takes it, so that each
        // connection is seen by one of the two.
        if !self.may_connect(device, connection.alpn()) {
            return Admitted::NotListed;
        }
        let repos = self.lists().listed.get(&device).map_or(0, BTreeSet::len);
        let most = MAX_CONNECTIONS + MAX_CONNECTIONS_PER_REPO * repos;
        let handles = standing.entry(device).or_default();
        let is_open = |connection: Connection| connection.close_reason().is_none();
        handles.retain(|handle| handle.upgrade().is_some_and(is_open));
        if handles.len() >= most {
            return Admitted::TooMany;
        }
        handles.push(connection.weak_handle());
        Admitted::Yes
    }

    /// The devices refused so far, latest last.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn refuse(&self, device: DeviceId) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        // A listed device that asks for a repo that does not list it is no news to show as refused:
        // the peers' repos in the status say it. Asked under the lock: a list that changes takes it,
        // so that nobody is shown whom it lists.
        if self.is_listed(device) {
            return;
        }
        let known = refused.iter().position(|one| one.device == device);
        if let Some(at) = known {
            refused.remove(at);
        } else if refused.len() < MAX_REFUSED {
            info!(device = %device, "refused a device that no repo lists");
        } else {
            // Ever new keys are not to fill the log either.
            debug!(device = %device, "refused one more device that no repo lists");
        }
        if refused.len() == MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back(Refused { device, last_seen: SystemTime::now() });
        drop(refused);
        self.bell.ring();
    }
}

/// Whether a connection with these ways out has lost all: each is an address that is `gone`. A relay
/// may be reached from another one, and a way that is not known may be a good one.
fn goes_nowhere(
    ways: impl IntoIterator<Item = LocalTransportAddr>,
    gone: &BTreeSet<IpAddr>,
) -> bool {
    let mut ways = ways.into_iter().peekable();
    ways.peek().is_some()
        && ways.all(|way| match way {
            LocalTransportAddr::Ip(Some(ip)) => gone.contains(&ip.to_canonical()),
            _ => false,
        })
}

/// [`Access`] as iroh asks it: at every connection, of every protocol.
#[derive(Debug)]
pub(crate) struct Gate(pub(crate) Arc<Access>);

impl EndpointHooks for Gate {
    async fn before_connect<'a>(
        &'a self,
        remote: &'a EndpointAddr,
        alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        // Gossip learns of devices from its neighbours: those not listed here are not dialled.
        if self.0.may_connect(DeviceId::from_bytes(*remote.id.as_bytes()), alpn) {
            BeforeConnectOutcome::Accept
        } else {
            BeforeConnectOutcome::Reject
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        let reject = |error_code, reason: &[u8]| AfterHandshakeOutcome::Reject {
            error_code,
            reason: reason.to_vec(),
        };
        match self.0.admit(connection) {
            Admitted::Yes => AfterHandshakeOutcome::Accept,
            Admitted::TooMany => reject(CODE_TOO_MANY, b"too many connections"),
            Admitted::NotListed => {
                self.0.refuse(DeviceId::from_bytes(*connection.remote_id().as_bytes()));
                reject(CODE_NOT_LISTED, REASON_NOT_LISTED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh::Endpoint;
    use iroh::endpoint::{PortmapperConfig, presets};

    use super::*;

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 32])
    }

    #[test]
    fn a_device_sees_only_what_lists_it() {
        let (x, y) = (TopicId::derive("x", None), TopicId::derive("y", None));
        let access = Access::new(Vec::new(), Bell::new());
        access.list([(x, vec![device(1)]), (y, vec![device(2)])]);
        assert!(access.may_see(device(1), x));
        assert!(!access.may_see(device(1), y));
        assert!(access.may_connect(device(1), SYNC_ALPN));
        assert!(access.may_connect(device(1), &gossip_alpn(x)));
        assert!(!access.may_connect(device(1), &gossip_alpn(y)));
        assert!(!access.may_connect(device(3), OBJECTS_ALPN));
    }

    #[test]
    fn only_what_has_lost_all_its_ways_goes_nowhere() {
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let gone = BTreeSet::from([ip("192.0.2.1"), ip("192.0.2.2")]);
        let from = |it: &str| LocalTransportAddr::Ip(Some(ip(it)));
        let lost = || vec![from("192.0.2.1"), from("::ffff:192.0.2.2")];
        assert!(goes_nowhere(lost(), &gone));
        assert!(!goes_nowhere(lost(), &BTreeSet::new()));
        assert!(!goes_nowhere(Vec::new(), &gone));
        let relay = LocalTransportAddr::Relay("https://relay.example".parse().unwrap());
        for other in [from("192.0.2.3"), LocalTransportAddr::Ip(None), relay] {
            // Whichever comes first.
            for at in 0..3 {
                let mut ways = lost();
                ways.insert(at, other.clone());
                assert!(!goes_nowhere(ways, &gone), "{other:?}");
            }
            assert!(!goes_nowhere([other], &gone));
        }
    }

    async fn open() -> Endpoint {
        let builder = Endpoint::builder(presets::Minimal)
            .alpns(vec![SYNC_ALPN.to_vec()])
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports();
        builder.bind_addr("127.0.0.1:0").unwrap().bind().await.unwrap()
    }

    /// A connection, as the one has it that dials, and the one that is dialled.
    async fn connect(from: &Endpoint, to: &Endpoint) -> (Connection, Connection) {
        let addr = EndpointAddr::new(to.id()).with_ip_addr(to.bound_sockets()[0]);
        let accept = async { to.accept().await.unwrap().accept().unwrap().await };
        let (dialled, accepted) = tokio::join!(from.connect(addr, SYNC_ALPN), accept);
        (dialled.unwrap(), accepted.unwrap())
    }

    #[tokio::test]
    async fn one_device_has_only_so_many_connections() {
        let (here, there) = (open().await, open().await);
        let access = Access::new(Vec::new(), Bell::new());
        let device = DeviceId::from_bytes(*there.id().as_bytes());
        access.list(["x", "y"].map(|id| (TopicId::derive(id, None), vec![device])));
        let mut connections = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 2 * MAX_CONNECTIONS_PER_REPO {
            let (dialled, accepted) = connect(&there, &here).await;
            assert_eq!(access.admit(&accepted), Admitted::Yes);
            connections.push((dialled, accepted));
        }
        let (_dialled, last) = connect(&there, &here).await;
        assert_eq!(access.admit(&last), Admitted::TooMany);
        connections[0].1.close(VarInt::from_u32(0), b"enough");
        assert_eq!(access.admit(&last), Admitted::Yes);
        here.close().await;
        there.close().await;
    }

    #[tokio::test]
    async fn lists_that_change_in_a_handshake_leave_no_connection_behind() {
        let (here, there) = (open().await, open().await);
        let (_dialled, connection) = connect(&there, &here).await;

        let access = Access::new(Vec::new(), Bell::new());
        let device = DeviceId::from_bytes(*there.id().as_bytes());
        let listed = || [(TopicId::derive("x", None), vec![device])];
        access.list(listed());
        assert!(access.may_connect(device, SYNC_ALPN), "it was asked before, too");
        access.list([]);
        access.cut(device);
        assert_eq!(access.admit(&connection), Admitted::NotListed);
        assert!(connection.close_reason().is_none(), "that is for who asked");

        access.list(listed());
        assert_eq!(access.admit(&connection), Admitted::Yes);
        access.list([]);
        access.cut(device);
        assert!(connection.close_reason().is_some());
        here.close().await;
        there.close().await;
    }

    #[test]
    fn refused_devices_are_remembered_boundedly() {
        let access = Access::new(Vec::new(), Bell::new());
        for n in 0..=u8::MAX {
            access.refuse(device(n));
        }
        access.refuse(device(250));
        let refused = access.refused();
        assert_eq!(refused.len(), MAX_REFUSED);
        assert_eq!(refused.last().map(|one| one.device), Some(device(250)));
        assert_eq!(refused.iter().filter(|one| one.device == device(250)).count(), 1);
        // Who is listed from now on is refused no more.
        access.list([(TopicId::derive("x", None), vec![device(250)])]);
        assert_eq!(access.refused(), refused[..MAX_REFUSED - 1]);
        access.refuse(device(250));
        assert_eq!(access.refused(), refused[..MAX_REFUSED - 1], "it was looked at before");
    }
}
