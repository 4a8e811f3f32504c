//! A device: its engine, its store, and the tree that it publishes.

use std::collections::{BTreeMap, HashMap, HashSet};

use ark_core::{
    DeviceId, Dot, Head, Incarnation, Link, Object, ObjectKind, RepoKind, SignedState, State,
    TopicId, Vector, Writer,
};
use ark_sync::{Engine, EngineOptions, Known, ObjectsRequest, Problem, Remote, RequestId, Role};
use ed25519_dalek::SigningKey;

use crate::store::{Store, structured};

/// How a device answers requests for objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Honest,
    /// Says of everything that it does not have it.
    HasNothing,
    /// Sends an object that nobody asked for.
    Unasked,
    /// Sends other bytes than the hash says.
    WrongBytes,
    /// Takes requests and never answers; the driver gives up after a while.
    Silent,
}

pub struct Device {
    pub key: SigningKey,
    pub writer: Writer,
    pub engine: Engine,
    pub store: Store,
    pub manners: Manners,
    pub problems: Vec<Problem>,
    /// Everything asked for: when, of whom, how much, whether ahead.
    pub requests: Vec<(u64, usize, ObjectsRequest)>,
    /// Every join, in order.
    pub joins: Vec<(Writer, u64)>,
    /// How many states were staged.
    pub staged: usize,
    /// Every reconciliation that it began: when, and with whom.
    pub reconciliations: Vec<(u64, usize)>,
    pub tree: BTreeMap<u32, Vec<Vec<u8>>>,
    /// Further writers that its states have taken in.
    pub padding: Vec<Writer>,
    /// Whether the first scan is done when an engine begins.
    pub scanned: bool,
    /// Whether it has a folder.
    pub folder: bool,
    pub(super) listed: BTreeMap<usize, Role>,
    pub(super) life: u64,
    pub(super) timer_ms: Option<u64>,
    /// What is asked for and not answered, with the request.
    pub(super) flying: HashMap<Link, RequestId>,
    /// What this life's engine was told is stored.
    pub(super) told: HashSet<Link>,
    pub(super) cancelled: HashSet<RequestId>,
}

impl Device {
    /// One whose key is the one of its number, and that lists these.
    pub(super) fn new(at: usize, keys: &[SigningKey], mut listed: BTreeMap<usize, Role>) -> Self {
        let key = keys[at].clone();
        let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
        let writer = Writer { device, incarnation: Incarnation::new(1) };
        listed.remove(&at);
        Self {
            key,
            writer,
            engine: engine(writer, keys, &listed, &Store::default(), (true, true, at as u64)),
            store: Store::default(),
            manners: Manners::Honest,
            problems: Vec::new(),
            requests: Vec::new(),
            joins: Vec::new(),
            staged: 0,
            reconciliations: Vec::new(),
            tree: BTreeMap::new(),
            padding: Vec::new(),
            scanned: true,
            folder: true,
            listed,
            life: 0,
            timer_ms: None,
            flying: HashMap::new(),
            told: HashSet::new(),
            cancelled: HashSet::new(),
        }
    }

    /// The engine is lost with all that was under way; the store stays.
    pub(super) fn restart(&mut self, keys: &[SigningKey], seed: u64) {
        self.life += 1;
        self.timer_ms = None;
        self.flying.clear();
        self.cancelled.clear();
        self.told.clear();
        let chance = (self.scanned, self.folder, seed);
        self.engine = engine(self.writer, keys, &self.listed, &self.store, chance);
    }

    /// Puts the tree as it is now into the store, and a state of it with all that was joined taken
    /// in. The state, and what is new.
    pub fn publish(&mut self) -> (SignedState, Vec<Link>) {
        let revision = self.store.joined.get(&self.writer).map_or(0, |it| it.state().revision);
        let sequence = revision + 1;
        let (snapshot, objects) = build(&self.tree, &self.writer, sequence);
        let mut vector = Vector::empty();
        for joined in self.store.joined.values() {
            vector.take_in_all(&joined.state().vector);
        }
        for &writer in &self.padding {
            vector.take_in(Dot { writer, sequence: 1 });
        }
        vector.take_in(Dot { writer: self.writer, sequence });
        let state = State {
            topic: topic(),
            kind: RepoKind::Folder,
            writer: self.writer,
            revision: sequence,
            heads: vec![Head { id: snapshot.id, sequence }],
            vector,
            held: Vec::new(),
        };
        let state = SignedState::sign(state, &self.key).unwrap();
        let new = self.store.put(objects);
        self.store.joined.insert(self.writer, state.clone());
        (state, new)
    }
}

pub fn topic() -> TopicId {
    TopicId::derive("simulated", None)
}

fn engine(
    writer: Writer,
    keys: &[SigningKey],
    listed: &BTreeMap<usize, Role>,
    store: &Store,
    (scanned, folder, seed): (bool, bool, u64),
) -> Engine {
    let device = |at: usize| DeviceId::from_bytes(keys[at].verifying_key().to_bytes());
    let joined = store.joined.values().next().map(|state| state.state().kind);
    let options = EngineOptions {
        topic: topic(),
        kind: joined.or(folder.then_some(RepoKind::Folder)),
        writer,
        folder,
        remotes: listed
            .iter()
            .map(|(&at, &role)| (device(at), Remote { name: format!("device {at}"), role }))
            .collect(),
        seed,
    };
    let known = Known {
        joined: store.joined.values().cloned().collect(),
        staged: store.staged.values().cloned().collect(),
        pending: !store.pending.is_empty(),
        applied: BTreeMap::new(),
        scanned,
    };
    Engine::new(options, known)
}

/// The objects of a tree, children first, and the snapshot's link.
fn build(
    tree: &BTreeMap<u32, Vec<Vec<u8>>>,
    writer: &Writer,
    sequence: u64,
) -> (Link, Vec<Object>) {
    let mut objects = Vec::new();
    let mut directories = Vec::new();
    for contents in tree.values() {
        let mut links = Vec::new();
        for content in contents {
            // Contents over 2,000 bytes are chunked, so that there are file nodes too.
            let chunks: Vec<_> = content
                .chunks(2_000)
                .map(|chunk| Object::new(ObjectKind::Raw, chunk.to_vec()))
                .collect();
            let parts: Vec<_> = chunks.iter().map(Object::link).collect();
            objects.extend(chunks);
            if let [part] = parts[..] {
                links.push(part);
            } else {
                let file = structured(ObjectKind::File, &parts, b"");
                links.push(file.link());
                objects.push(file);
            }
        }
        let directory = structured(ObjectKind::Directory, &links, b"");
        directories.push(directory.link());
        objects.push(directory);
    }
    let root = structured(ObjectKind::Directory, &directories, b"root");
    let salt = [writer.device.as_bytes().as_slice(), &sequence.to_le_bytes()].concat();
    let snapshot = structured(ObjectKind::Snapshot, &[root.link()], &salt);
    let link = snapshot.link();
    objects.extend([root, snapshot]);
    (link, objects)
}
