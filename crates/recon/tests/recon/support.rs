//! Sets in memory, and sessions between them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use ark_core::{Link, ObjectId, ObjectKind, TopicId};
use ark_recon::message::{Answer, Part};
use ark_recon::{
    Answerer, Digest, End, Links, LinksUnder, MAX_FRAME_BYTES, Message, Node, Nodes, NodesMut,
    Opener, Prefix, SessionKey, Sketch, Source, Step,
};

/// What a frame costs besides its bytes: its length in front.
pub const FRAME_HEADER_BYTES: usize = 4;

/// The nodes of a trie, and how often each was written since last asked.
#[derive(Clone, Default)]
pub struct Rows {
    pub rows: BTreeMap<Prefix, Node>,
    pub written: BTreeMap<Prefix, usize>,
}

impl Nodes for Rows {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        Ok(self.rows.get(&prefix).cloned())
    }
}

impl NodesMut for Rows {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), Infallible> {
        *self.written.entry(prefix).or_default() += 1;
        // Through the encoding, as a store would.
        self.rows.insert(prefix, Node::from_bytes(&node.to_bytes()).unwrap());
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), Infallible> {
        *self.written.entry(prefix).or_default() += 1;
        self.rows.remove(&prefix);
        Ok(())
    }
}

/// Links by id and kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Members(pub BTreeSet<(ObjectId, ObjectKind)>);

impl Links for Members {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let from = Bound::Included((prefix.first(), ObjectKind::Raw));
        let to = Bound::Included((prefix.last(), ObjectKind::Operation));
        Ok(Box::new(self.0.range((from, to)).map(|&(id, kind)| Ok(Link { kind, id }))))
    }
}

/// A set with its trie.
#[derive(Clone, Default)]
pub struct Set {
    pub members: Members,
    pub rows: Rows,
    /// Brought after by what changes the set.
    pub sketch: Option<Arc<Sketch>>,
}

impl Links for Set {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        self.members.links(prefix)
    }
}

impl Nodes for Set {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        self.rows.node(prefix)
    }
}

impl Source for Set {
    type Failure = Infallible;

    fn sketch(&self, _: u64) -> Result<Option<Arc<Sketch>>, Infallible> {
        Ok(self.sketch.clone())
    }
}

impl Set {
    /// The set of these links.
    pub fn of(links: impl IntoIterator<Item = Link>) -> Self {
        let mut set = Self::default();
        set.insert(links);
        set
    }

    /// The same, with its sketch.
    #[must_use]
    pub fn sketched(mut self) -> Self {
        let Ok(sketch) = Sketch::of(&self, topic());
        self.sketch = Some(Arc::new(sketch));
        self
    }

    /// The same without one.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { sketch: None, ..self }
    }

    /// Puts links in.
    pub fn insert(&mut self, links: impl IntoIterator<Item = Link>) -> Digest {
        let is_new = |link: &Link| self.members.0.insert((link.id, link.kind));
        let comes: Vec<Link> = links.into_iter().filter(is_new).collect();
        self.changed(&comes, &[])
    }

    /// Takes links out.
    pub fn remove(&mut self, links: impl IntoIterator<Item = Link>) -> Digest {
        let was_there = |link: &Link| self.members.0.remove(&(link.id, link.kind));
        let goes: Vec<Link> = links.into_iter().filter(was_there).collect();
        self.changed(&[], &goes)
    }

    fn changed(&mut self, comes: &[Link], goes: &[Link]) -> Digest {
        let ids = comes.iter().chain(goes).map(|link| link.id);
        let Ok(root) = ark_recon::update(&self.members, &mut self.rows, ids);
        if let Some(sketch) = &mut self.sketch {
            Arc::make_mut(sketch).change(comes, goes, root);
        }
        root
    }

    /// Those of its links that `other` has not.
    pub fn lacked_by(&self, other: &Self) -> BTreeSet<Link> {
        self.members.0.difference(&other.members.0).map(|&(id, kind)| Link { kind, id }).collect()
    }
}

/// The `n`-th link of a family.
pub fn link(family: u8, n: u64) -> Link {
    let mut seed = [family; 9];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    let id = ObjectId::of(&seed);
    Link { kind: if n.is_multiple_of(5) { ObjectKind::Directory } else { ObjectKind::Raw }, id }
}

/// The same, with an id that begins with `bytes`.
pub fn ground(bytes: &[u8], family: u8, n: u64) -> Link {
    let Link { kind, id } = link(family, n);
    let mut id = *id.as_bytes();
    id[..bytes.len()].copy_from_slice(bytes);
    Link { kind, id: ObjectId::from_bytes(id) }
}

/// Links of the first family as they travel, in order.
pub fn links(numbers: impl IntoIterator<Item = u64>) -> Vec<[u8; 33]> {
    let bytes_of = |n| {
        let Link { kind, id } = link(0, n);
        let mut bytes = [kind as u8; 33];
        bytes[..32].copy_from_slice(id.as_bytes());
        bytes
    };
    let mut links: Vec<_> = numbers.into_iter().map(bytes_of).collect();
    links.sort_unstable();
    links
}

/// A whole answer.
pub fn answer(parts: Vec<Part>) -> Message {
    Message::Answer(Answer { parts, last: true })
}

pub fn topic() -> TopicId {
    TopicId::derive("my-project", None)
}

pub fn key(epoch: u64) -> SessionKey {
    SessionKey::derive(&[7; 32], topic(), epoch)
}

/// What a session came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the opener learnt that it lacks.
    pub opener: BTreeSet<Link>,
    /// What the answerer learnt that it lacks.
    pub answerer: BTreeSet<Link>,
    /// Bytes of frames with their lengths, by the opener and by the answerer.
    pub sent: [usize; 2],
    pub frames: usize,
    pub rounds: u32,
    pub end: Option<End>,
}

impl Outcome {
    pub fn bytes(&self) -> usize {
        self.sent[0] + self.sent[1]
    }
}

/// What is read without fail.
pub trait Memory: Source<Failure = Infallible> {}

impl<S: Source<Failure = Infallible>> Memory for S {}

/// Runs a session until it ends, or until `cut` frames were delivered. Panics where a side finds
/// fault with the other.
pub fn reconcile_cut<A: Memory, B: Memory>(a: &A, b: &B, epoch: u64, cut: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut opener, step) = Opener::open(a, key(epoch)).unwrap();
    let mut answerer = Answerer::new(b, key(epoch), 8).unwrap();
    let mut ends = [None, None];
    let mut queue = std::collections::VecDeque::new();
    let take = |step: Step, side: usize, outcome: &mut Outcome, ends: &mut [Option<End>; 2]| {
        let lacking = if side == 0 { &mut outcome.opener } else { &mut outcome.answerer };
        lacking.extend(step.lacking);
        for frame in &step.frames {
            assert!(frame.len() <= MAX_FRAME_BYTES);
            outcome.sent[side] += frame.len() + FRAME_HEADER_BYTES;
        }
        ends[side] = ends[side].or(step.end);
        step.frames.into_iter().map(move |frame| (side, frame)).collect::<Vec<_>>()
    };
    queue.extend(take(step, 0, &mut outcome, &mut ends));
    while let Some((from, frame)) = queue.pop_front() {
        if outcome.frames == cut {
            return outcome;
        }
        outcome.frames += 1;
        if ends[1 - from].is_some() {
            continue;
        }
        let step = match from {
            0 => answerer.handle(b, &frame),
            _ => opener.handle(a, &frame),
        };
        queue.extend(take(step.unwrap(), 1 - from, &mut outcome, &mut ends));
    }
    outcome.rounds = opener.rounds();
    // An answerer at its ceiling falls silent, which its driver shows by ending the stream.
    assert!(ends[0] == ends[1] || ends == [None, Some(End::Incomplete)], "{ends:?}");
    outcome.end = ends[1];
    outcome
}

/// Runs a session between honest sides.
pub fn reconcile<A: Memory, B: Memory>(a: &A, b: &B, epoch: u64) -> Outcome {
    reconcile_cut(a, b, epoch, usize::MAX)
}

/// The same, and that it found exactly the difference.
pub fn assert_reconciles(a: &Set, b: &Set, epoch: u64) -> Outcome {
    let outcome = reconcile(a, b, epoch);
    assert_found(a, b, &outcome);
    outcome
}

/// That a session found exactly the difference.
pub fn assert_found(a: &Set, b: &Set, outcome: &Outcome) {
    assert_eq!(outcome.end, Some(End::Complete));
    assert_eq!(outcome.opener, b.lacked_by(a));
    assert_eq!(outcome.answerer, a.lacked_by(b));
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a set of {}", self.members.0.len())
    }
}
