//! A store in memory that keeps the invariants of the real one: indexed means that the closure
//! is indexed, staged states are joined whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ark_core::{Link, Object, ObjectKind, RepoKind, SignedState, Writer};
use ark_sync::{JoinOutcome, StageOutcome};
use bytes::Bytes;

/// Makes a structured object that links `links`. The engine never looks into objects, so the
/// simulation has a form of its own: a count, the links, then anything.
pub fn structured(kind: ObjectKind, links: &[Link], salt: &[u8]) -> Object {
    let mut bytes = u32::try_from(links.len()).unwrap().to_le_bytes().to_vec();
    for link in links {
        bytes.push(link.kind as u8);
        bytes.extend_from_slice(link.id.as_bytes());
    }
    bytes.extend_from_slice(salt);
    Object::new(kind, bytes)
}

/// What an object links.
pub fn links_of(link: Link, bytes: &[u8]) -> Vec<Link> {
    if !link.kind.is_structured() {
        return Vec::new();
    }
    let (count, rest) = bytes.split_at(4);
    let count = u32::from_le_bytes(count.try_into().unwrap()) as usize;
    let link = |part: &[u8]| Link {
        kind: ObjectKind::from_u8(part[0]).unwrap(),
        id: ark_core::ObjectId::from_bytes(part[1..].try_into().unwrap()),
    };
    rest.chunks(33).take(count).map(link).collect()
}

/// The store of one repo on one device.
#[derive(Default)]
pub struct Store {
    pub objects: HashMap<Link, Bytes>,
    pub indexed: HashSet<Link>,
    pub pending: HashSet<Link>,
    pub joined: BTreeMap<Writer, SignedState>,
    pub staged: BTreeMap<Writer, SignedState>,
    /// How often each object was received from a peer.
    pub received: HashMap<Link, u32>,
    /// While set, every step fails.
    pub is_full: bool,
}

/// As the real store's.
const MAX_MISSING: usize = 64;

impl Store {
    /// Objects made here, children first.
    pub fn put(&mut self, objects: Vec<Object>) -> Vec<Link> {
        let mut new = Vec::new();
        for object in objects {
            let link = object.link();
            self.objects.insert(link, object.into_bytes());
            self.pending.remove(&link);
            if self.indexed.insert(link) {
                new.push(link);
            }
        }
        new
    }

    pub fn serve(&self, link: Link) -> Option<&Bytes> {
        let here = self.indexed.contains(&link) || self.pending.contains(&link);
        here.then(|| &self.objects[&link])
    }

    pub fn missing(&self, roots: &[Link], limit: usize) -> Vec<Link> {
        let mut missing = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut walk = roots.to_vec();
        while let Some(link) = walk.pop() {
            if missing.len() == limit || self.indexed.contains(&link) || !seen.insert(link) {
                continue;
            }
            if self.pending.contains(&link) {
                walk.extend(links_of(link, &self.objects[&link]));
            } else {
                missing.insert(link);
            }
        }
        missing.into_iter().collect()
    }

    pub fn receive(&mut self, objects: &[(Link, Bytes)]) -> Vec<Link> {
        for (link, bytes) in objects {
            assert_eq!(Object::new(link.kind, bytes.clone()).link(), *link);
            *self.received.entry(*link).or_insert(0) += 1;
            if !self.indexed.contains(link) {
                self.objects.insert(*link, bytes.clone());
                self.pending.insert(*link);
            }
        }
        let mut next = BTreeSet::new();
        for (link, bytes) in objects {
            let links = links_of(*link, bytes);
            next.extend(links.into_iter().filter(|link| self.serve(*link).is_none()));
        }
        next.into_iter().collect()
    }

    /// What the heads of the joined states reach.
    pub fn reached(&self) -> BTreeSet<Link> {
        let heads = ark_core::heads(self.joined.values().map(SignedState::state));
        let Some(kind) = self.joined.values().next().map(|state| state.state().kind) else {
            return BTreeSet::new();
        };
        let mut walk: Vec<Link> = heads.into_iter().map(|head| kind.head_link(head.id)).collect();
        let mut reached = BTreeSet::new();
        while let Some(link) = walk.pop() {
            if let Some(bytes) = self.objects.get(&link).filter(|_| reached.insert(link)) {
                walk.extend(links_of(link, bytes));
            }
        }
        reached
    }

    pub fn stage(&mut self, state: &SignedState, replacing: bool) -> StageOutcome {
        let writer = state.state().writer;
        if replacing {
            self.staged.remove(&writer);
        }
        let found = state.state().kind;
        if self.is_of_another(found) {
            return StageOutcome::WrongKind { found };
        }
        let known = self.joined.get(&writer).into_iter().chain(self.staged.get(&writer));
        if known.into_iter().any(|known| !state.replaces(known)) {
            return StageOutcome::Old { joined: self.joined.get(&writer).cloned() };
        }
        assert!(!self.staged.contains_key(&writer), "the engine finishes one before the next");
        self.staged.insert(writer, state.clone());
        match self.needed(state) {
            missing if missing.is_empty() => StageOutcome::Complete,
            missing => StageOutcome::Staged { missing },
        }
    }

    /// What joining `state` takes: nothing for heads that a joined state has taken in and does not
    /// hold.
    fn needed(&self, state: &SignedState) -> Vec<Link> {
        let state = state.state();
        let others = self.joined.values().map(SignedState::state);
        let after = others.filter(|it| it.writer != state.writer).chain([state]);
        let heads = ark_core::heads(after);
        let roots: Vec<Link> =
            heads.into_iter().map(|head| state.kind.head_link(head.id)).collect();
        self.missing(&roots, MAX_MISSING)
    }

    /// Whether what is joined is of another kind.
    fn is_of_another(&self, kind: RepoKind) -> bool {
        self.joined.values().any(|state| state.state().kind != kind)
    }

    pub fn join(&mut self, writer: Writer) -> JoinOutcome {
        let Some(state) = self.staged.get(&writer).cloned() else {
            return JoinOutcome::NothingStaged { joined: self.joined.get(&writer).cloned() };
        };
        if self.is_of_another(state.state().kind) {
            self.staged.remove(&writer);
            return JoinOutcome::NothingStaged { joined: None };
        }
        let missing = self.needed(&state);
        if !missing.is_empty() {
            return JoinOutcome::Missing(missing);
        }
        let mut walk = state.state().head_links();
        while let Some(link) = walk.pop() {
            if self.pending.remove(&link) {
                self.indexed.insert(link);
                walk.extend(links_of(link, &self.objects[&link]));
            }
        }
        self.staged.remove(&writer);
        self.joined.insert(writer, state.clone());
        JoinOutcome::Joined(state)
    }
}
