//! Devices on loopback with real stores in temporary directories, and a stranger that speaks the
//! protocols by hand.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ark_core::{
    Content, DeviceId, Dot, Entry, Head, Link, Mtime, Name, Node, Object, ObjectKind, Overlay,
    Permissions, Read, RepoKind, SealingKey, SignedState, Snapshot, TopicId, Vector, Version,
    Writer,
};
use ark_net::{Net, NetStatus, Options, Past, Relay, Remote, RepoOptions, RepoStatus, Role};
use ark_store::{Repo, Store};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayUrl, SecretKey};
use tempfile::TempDir;

/// Guards against waiting forever, on a machine that is busy with much else, too; nothing is
/// asserted about time.
const GUARD: Duration = Duration::from_mins(3);

/// Prints the daemon's log of a failing test, where `RUST_LOG` asks for it.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Waits for a future that is sure to end.
pub async fn guarded<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(GUARD, future).await;
    result.unwrap_or_else(|_| panic!("gave up waiting for: {what}"))
}

/// A device: its key and store outlive its runs.
pub struct Device {
    pub name: &'static str,
    pub key: SecretKey,
    dir: TempDir,
    addr: SocketAddr,
    relay: Option<RelayUrl>,
    repos: Vec<Listing>,
    /// All gossip that arrives is dropped.
    pub loses_gossip: bool,
}

struct Listing {
    id: &'static str,
    has_folder: bool,
    remotes: Vec<Remote>,
}

/// A device with its store open and its network running.
pub struct Running {
    pub id: DeviceId,
    pub store: Store,
    pub repos: BTreeMap<&'static str, Repo>,
    pub net: Net,
}

pub fn device_id(key: &SecretKey) -> DeviceId {
    DeviceId::from_bytes(*key.public().as_bytes())
}

impl Device {
    /// A device with a new key that has no repo yet. It listens on a free port of loopback.
    pub fn new(name: &'static str) -> Self {
        Self::with_key(name, SecretKey::generate())
    }

    pub fn with_key(name: &'static str, key: SecretKey) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = "127.0.0.1:0".parse().unwrap();
        Self { name, key, dir, addr, relay: None, repos: Vec::new(), loses_gossip: false }
    }

    pub fn id(&self) -> DeviceId {
        device_id(&self.key)
    }

    /// Lists `others` for a repo; those that run already with their address.
    pub fn share(&mut self, id: &'static str, others: &[&Device]) -> &mut Self {
        let remotes = others.iter().map(|other| other.as_remote()).collect();
        self.repos.push(Listing { id, has_folder: false, remotes });
        self
    }

    /// Lists `other` for a repo, in this role.
    pub fn share_as(&mut self, id: &'static str, other: &Device, role: Role) -> &mut Self {
        let remotes = vec![Remote { role, ..other.as_remote() }];
        self.repos.push(Listing { id, has_folder: false, remotes });
        self
    }

    /// Has a folder for the repo listed last: it asks for no content before that is scanned.
    pub fn with_folder(&mut self) -> &mut Self {
        self.repos.last_mut().unwrap().has_folder = true;
        self
    }

    /// Is met through `relay` and listens on a free port of `ip`; others are not told which.
    pub fn behind(&mut self, relay: &RelayUrl, ip: IpAddr) -> &mut Self {
        self.relay = Some(relay.clone());
        self.addr = SocketAddr::new(ip, 0);
        self
    }

    /// Lists nobody for a repo, which it does not have any more.
    pub fn unshare(&mut self, id: &str) -> &mut Self {
        self.repos.retain(|listing| listing.id != id);
        self
    }

    fn as_remote(&self) -> Remote {
        let known = self.addr.port() != 0 && self.relay.is_none();
        Remote {
            name: self.name.to_owned(),
            device: self.id(),
            role: Role::Peer,
            addrs: known.then_some(self.addr).into_iter().collect(),
            relay: self.relay.clone(),
        }
    }

    pub fn options(&self) -> Options {
        Options {
            secret_key: self.key.clone(),
            bind: vec![self.addr],
            relay: self
                .relay
                .as_ref()
                .map_or(Relay::Disabled, |url| Relay::Urls(vec![url.clone()])),
            discovery: Vec::new(),
            port_mapping: false,
            enumerate_threshold: ark_net::DEFAULT_ENUMERATE_THRESHOLD,
            lose_gossip: self.loses_gossip,
        }
    }

    /// Where it listens; known once it ran.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Somebody else listens there in its place.
    pub fn listens_on(&mut self, addr: SocketAddr) {
        self.addr = addr;
    }

    async fn open_store(&self) -> Store {
        Store::open(ark_store::Options {
            path: self.dir.path().join("store"),
            witness_dir: self.dir.path().join("witness"),
            signing_key: ed25519_dalek::SigningKey::from_bytes(&self.key.to_bytes()),
            index_cache_bytes: ark_store::DEFAULT_INDEX_CACHE_BYTES,
        })
        .await
        .unwrap()
    }

    /// Opens the store with nobody near, for what is written while the device is off the network.
    pub async fn open_alone(&self, id: &str) -> (Store, Repo) {
        let store = self.open_store().await;
        let repo = store.repo(TopicId::derive(id, None), RepoKind::Folder).await.unwrap();
        (store, repo)
    }

    /// Opens the store and starts the network. From the second time on, on the same port.
    pub async fn start(&mut self) -> Running {
        let store = self.open_store().await;
        let (repos, options) = self.open_repos(&store).await;
        let net = Net::start(self.options(), options, Past::default()).await.unwrap();
        self.addr = net.status().local_addrs[0];
        Running { id: self.id(), store, repos, net }
    }

    /// Has a running device take up what it lists now.
    pub async fn relist(&self, running: &mut Running) {
        let (repos, options) = self.open_repos(&running.store).await;
        guarded("the list is taken up", running.net.relist(options)).await.unwrap();
        running.repos = repos;
    }

    async fn open_repos(&self, store: &Store) -> (BTreeMap<&'static str, Repo>, Vec<RepoOptions>) {
        let mut repos = BTreeMap::new();
        let mut options = Vec::new();
        for listing in &self.repos {
            let topic = TopicId::derive(listing.id, None);
            let repo = store.repo(topic, RepoKind::Folder).await.unwrap();
            repos.insert(listing.id, repo.clone());
            options.push(RepoOptions {
                id: listing.id.to_owned(),
                topic,
                sealing: SealingKey::derive(listing.id, None),
                repo,
                remotes: listing.remotes.clone(),
                has_folder: listing.has_folder,
            });
        }
        (repos, options)
    }
}

impl Running {
    pub fn repo(&self, id: &str) -> &Repo {
        &self.repos[id]
    }

    /// Stops in order.
    pub async fn stop(self) {
        let Self { store, repos, net, .. } = self;
        guarded("shutdown", net.shutdown()).await;
        drop(repos);
        store.close().await.unwrap();
    }

    pub fn repo_status(&self, id: &str) -> RepoStatus {
        let status = self.net.status();
        status.repos.into_iter().find(|repo| repo.id == id).unwrap()
    }

    /// Waits until the status is so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&NetStatus) -> bool) {
        let mut watch = self.net.watch();
        let wait = async {
            loop {
                watch.borrow_and_update();
                if is_so(&self.net.status()) {
                    return;
                }
                watch.changed().await.unwrap();
            }
        };
        let result = tokio::time::timeout(GUARD, wait).await;
        assert!(result.is_ok(), "gave up waiting for: {what}; status: {:#?}", self.net.status());
    }

    /// Waits until the stream of a repo with a device stands.
    pub async fn until_met(&self, repo: &str, other: DeviceId) {
        let met = |status: &NetStatus| {
            let repo = status.repos.iter().find(|one| one.id == repo).unwrap();
            repo.remotes.iter().any(|remote| remote.device == other && remote.in_touch)
        };
        self.until("being in touch", met).await;
    }

    /// Waits until it is known that `other` does not list this device for a repo.
    pub async fn until_refused(&self, repo: &str, other: DeviceId) {
        let told = |status: &NetStatus| {
            let repo = status.repos.iter().find(|one| one.id == repo).unwrap();
            repo.remotes.iter().any(|remote| remote.device == other && remote.refuses_us)
        };
        self.until("being told that it is not listed", told).await;
    }

    /// Waits until a state is joined here.
    pub async fn until_durable(&self, repo: &str, state: &SignedState) {
        let (writer, revision) = (state.state().writer, state.state().revision);
        let joined = |status: &NetStatus| durable(status, repo, writer) >= revision;
        self.until("a state being joined", joined).await;
    }

    /// Waits until a device has said that a state is durable there.
    pub async fn until_told_durable(&self, repo: &str, other: DeviceId, state: &SignedState) {
        let (writer, revision) = (state.state().writer, state.state().revision);
        let told = |status: &NetStatus| {
            let repo = status.repos.iter().find(|one| one.id == repo).unwrap();
            let remote = repo.remotes.iter().find(|remote| remote.device == other).unwrap();
            remote.durable.get(&writer).is_some_and(|&durable| durable >= revision)
        };
        self.until("a device saying that it has a state", told).await;
    }
}

fn durable(status: &NetStatus, repo: &str, writer: Writer) -> u64 {
    let repo = status.repos.iter().find(|one| one.id == repo).unwrap();
    repo.durable.get(&writer).copied().unwrap_or(0)
}

/// Nothing lies below: a directory is built from the empty one.
struct Nothing;

impl Read for Nothing {
    type Error = std::io::Error;
    fn read(&self, _: Link) -> Result<Bytes, Self::Error> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// Files of `size` bytes each that differ from all others of another `seed`.
pub fn files(seed: u64, count: usize, size: usize) -> Vec<(String, Vec<u8>)> {
    let file = |n: usize| {
        let mut bytes = vec![0; size];
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes()).update(&(n as u64).to_le_bytes());
        hash.finalize_xof().fill(&mut bytes);
        (format!("file-{n:06}"), bytes)
    };
    (0..count).map(file).collect()
}

/// A file written by one act, at most 1 MiB, and its content.
pub fn file(name: &str, bytes: &[u8], dot: Dot) -> (Entry, Object) {
    let object = Object::new(ObjectKind::Raw, bytes.to_vec());
    let version = Version {
        node: Node::File { content: Content::Raw(object.id()), size: bytes.len() as u64 },
        dots: vec![dot],
        permissions: Permissions::from_mode(0o644),
        permissions_dot: dot,
        mtime: Mtime::default(),
        aside: false,
    };
    (Entry { name: Name::new(name.as_bytes()).unwrap(), versions: vec![version] }, object)
}

/// Publishes a directory with just these files, each at most 1 MiB.
pub async fn publish(repo: &Repo, files: &[(String, Vec<u8>)]) -> SignedState {
    publish_named(repo, files, 0).await
}

/// Likewise, with so many other writers in the vector: a long state.
pub async fn publish_named(repo: &Repo, files: &[(String, Vec<u8>)], others: usize) -> SignedState {
    let publisher = repo.publisher().await;
    let dot = publisher.dot();
    let mut batch = repo.batch();
    let mut edits = BTreeMap::new();
    for (name, bytes) in files {
        let (entry, object) = file(name, bytes, dot);
        edits.insert(entry.name.clone(), Some(entry));
        batch.add(object).await.unwrap();
    }
    let mut overlay = Overlay::new(Nothing);
    let empty = overlay.put(ark_core::dir::empty_directory());
    let (root, _) = ark_core::dir::edit(&mut overlay, empty, edits).unwrap();
    let mut vector = Vector::empty();
    vector.take_in(dot);
    for other in 0..others {
        let device = DeviceId::from_bytes(*blake3::hash(&other.to_le_bytes()).as_bytes());
        let incarnation = dot.writer.incarnation;
        vector.take_in(Dot { writer: Writer { device, incarnation }, sequence: 1 });
    }
    let snapshot = Snapshot { root, vector: vector.clone(), wall_time_ms: 0 }.encode();
    let head = Head { id: snapshot.id(), sequence: dot.sequence };
    overlay.put(snapshot);
    for object in overlay.into_made() {
        batch.add(object).await.unwrap();
    }
    publisher.publish(batch, vec![head], vector, Vec::new()).await.unwrap()
}

/// The contents of these files are in the repo, byte for byte.
pub async fn assert_has(repo: &Repo, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let link = Object::new(ObjectKind::Raw, bytes.clone()).link();
        assert_eq!(repo.indexed(&[link]).await.unwrap(), [true], "{name}");
        assert!(repo.read(link).await.unwrap() == bytes, "{name}");
    }
}

/// A stranger: an endpoint with a key and nothing else.
pub struct Stranger {
    pub endpoint: Endpoint,
    pub key: SecretKey,
}

impl Stranger {
    pub async fn new(key: SecretKey) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(key.clone())
            .portmapper_config(iroh::endpoint::PortmapperConfig::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { endpoint, key }
    }

    pub async fn connect(&self, device: &Device, alpn: &[u8]) -> Connection {
        let addr = EndpointAddr::new(device.key.public()).with_ip_addr(device.addr());
        guarded("a connection", self.endpoint.connect(addr, alpn)).await.unwrap()
    }

    /// Opens a stream and writes `bytes` on it as they are.
    pub async fn send(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = guarded("a stream", connection.open_bi()).await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }
}

/// A body with its length in front.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The next frame of a stream.
pub async fn read_frame(recv: &mut RecvStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    guarded("a frame", recv.read_exact(&mut length)).await.ok()?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    guarded("a frame's body", recv.read_exact(&mut body)).await.ok()?;
    Some(body)
}

/// The devices that a status shows as refused.
pub fn refused(status: &NetStatus) -> BTreeSet<DeviceId> {
    status.refused.iter().map(|one| one.device).collect()
}
