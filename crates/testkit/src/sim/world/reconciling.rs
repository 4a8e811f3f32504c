//! Reconciliation between two devices, as `net` drives it: the real sessions over a stream of
//! their own, each side over a set as of the moment when it began, frames in order, lost with
//! their connection.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use ark_core::{Link, ObjectId, SignedState, heads, links};
use ark_recon::{
    Answerer, End, Links, LinksUnder, MAX_FRAME_BYTES, Node, Nodes, Opener, Prefix, SessionError,
    SessionKey, Sketch, Source, Step, rebuild,
};
use ark_sync::{Input, Message, Reconciliation};

use super::{Event, World, pair};
use crate::sim::dice::Dice;
use crate::sim::store::{Durable, topic};
use crate::sim::weather::Fault;

/// As in the config, unless it says otherwise.
const ENUMERATE_THRESHOLD: usize = 8;
/// Length of a frame's length.
const LENGTH_BYTES: usize = 4;
/// The most links that a liar invents, and in how many he leaves one out.
const INVENTED: u64 = 40;
const LEFT_OUT: u64 = 4;

/// What goes over the stream of a session.
pub(super) enum Frame {
    /// The first: a message of `ark/sync/1`.
    First(Vec<u8>),
    Next(Vec<u8>),
    /// The stream ends, or is refused.
    End,
}

/// The sessions under way, each by its number and the device whose side it is.
#[derive(Default)]
pub(super) struct Reconciling {
    next: u64,
    sides: BTreeMap<(u64, usize), Side>,
    /// When the last frame of a side arrives: they do not overtake each other.
    arrivals: BTreeMap<(u64, usize), u64>,
}

impl Reconciling {
    /// The session that `at` opened with `with` and that is not over.
    fn opened(&self, at: usize, with: usize) -> Option<u64> {
        let is_it = |side: &Side| side.with == with && matches!(side.machine, Machine::Opener(_));
        let mut sides = self.sides.iter().filter(|((_, whose), side)| *whose == at && is_it(side));
        sides.next().map(|(&(session, _), _)| session)
    }

    /// The sessions of `at` with `with` that are not over.
    fn between(&self, at: usize, with: usize) -> Vec<u64> {
        let sides = self.sides.iter();
        let theirs = sides.filter(|((_, whose), side)| (*whose, side.with) == (at, with));
        theirs.map(|(&(session, _), _)| session).collect()
    }
}

struct Side {
    with: usize,
    set: Set,
    machine: Machine,
    sent_bytes: u64,
    received_bytes: u64,
}

enum Machine {
    Opener(Opener),
    Answerer(Answerer),
}

/// What the heads of the joined states reach, with its trie.
struct Set {
    links: Sorted,
    nodes: BTreeMap<Prefix, Node>,
    sketch: Option<Arc<Sketch>>,
}

struct Sorted(Vec<Link>);

impl Links for Sorted {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let from = self.0.partition_point(|link| link.id < prefix.first());
        let to = self.0.partition_point(|link| link.id <= prefix.last());
        Ok(Box::new(self.0[from..to].iter().copied().map(Ok)))
    }
}

impl Links for Set {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        self.links.links(prefix)
    }
}

impl Nodes for Set {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        self.nodes.node(prefix)
    }
}

impl Source for Set {
    type Failure = Infallible;

    fn sketch(&self, _: u64) -> Result<Option<Arc<Sketch>>, Infallible> {
        Ok(self.sketch.clone())
    }
}

impl Set {
    /// What is joined; a liar invents some of it and leaves some out.
    fn of(durable: &Durable, liar: Option<&mut Dice>) -> Self {
        let heads = heads(durable.joined().values().map(SignedState::state));
        let mut open: Vec<Link> = heads.into_iter().map(|head| Link::snapshot(head.id)).collect();
        let mut reached = BTreeSet::new();
        while let Some(link) = open.pop() {
            if reached.insert(link) {
                let bytes = durable.serve(link).expect("the closures of heads are whole");
                open.extend(links(link, bytes).unwrap_or_default());
            }
        }
        let mut all: Vec<Link> = reached.into_iter().collect();
        if let Some(dice) = liar {
            all.retain(|_| dice.below(LEFT_OUT) > 0);
            let kinds: Vec<_> = all.iter().map(|link| link.kind).collect();
            let invent = |_| {
                let id = ObjectId::of(&dice.any().to_le_bytes());
                Some(Link { kind: *dice.pick(&kinds)?, id })
            };
            all.extend((0..INVENTED).filter_map(invent).collect::<Vec<_>>());
        }
        all.sort_unstable_by_key(|link| (link.id, link.kind as u8));
        let (links, mut nodes) = (Sorted(all), BTreeMap::new());
        let Ok(_) = rebuild(&links, &mut nodes);
        Self { links, nodes, sketch: None }
    }

    /// The same, with its sketch: a store has one of large sets only.
    fn sketched(mut self) -> Self {
        let Ok(sketch) = Sketch::of(&self, topic());
        self.sketch = Some(Arc::new(sketch));
        self
    }
}

impl World {
    /// Begins a session with `of`, if none is under way between the two.
    pub(super) fn reconcile(&mut self, at: usize, of: usize) {
        let is_busy = !self.reconciling.between(at, of).is_empty();
        let connection = self.connected.get(&pair(at, of)).copied();
        let Some(epoch) = connection.filter(|_| !is_busy) else {
            let (life, peer) = (self.devices[at].life, self.id(of));
            let reconciliation = reconciliation(0, (0, 0), false);
            let nothing = Input::Reconciled { peer, reconciliation };
            return self.tell(at, life, self.now_ms, nothing);
        };
        self.reconciling.next += 1;
        self.counts.reconciliations += 1;
        let session = self.reconciling.next;
        self.note(|| format!("{at} begins reconciliation {session} with {of}"));
        let set = self.set(at, session);
        let key = key(epoch, session);
        let Ok((opener, step)) = Opener::open(&set, key) else {
            return self.find(format!("{at} cannot open a session"));
        };
        let machine = Machine::Opener(opener);
        let side = Side { with: of, set, machine, sent_bytes: 0, received_bytes: 0 };
        self.reconciling.sides.insert((session, at), side);
        let first = Message::Reconcile { topic: topic(), epoch: session }.encode();
        self.send_frame(at, of, session, Frame::First(first));
        self.do_step(at, of, session, step);
    }

    /// Of three sessions with the same devices each side has a sketch in two: by turns either or
    /// both.
    fn set(&mut self, at: usize, session: u64) -> Set {
        let lies = self.weather.fault == Some(Fault::LyingReconciliation);
        let liar = lies.then_some(&mut self.more_dice);
        let set = Set::of(self.devices[at].store.durable(), liar);
        if (session + at as u64).is_multiple_of(3) { set } else { set.sketched() }
    }

    fn send_frame(&mut self, from: usize, to: usize, session: u64, frame: Frame) {
        let Some(&epoch) = self.connected.get(&pair(from, to)) else { return };
        if let Frame::First(bytes) | Frame::Next(bytes) = &frame {
            if bytes.len() > MAX_FRAME_BYTES {
                return self.find(format!("{from} sends a frame of {} bytes", bytes.len()));
            }
            let length = (bytes.len() + LENGTH_BYTES) as u64;
            self.traffic.reconciliation += length;
            if let Some(side) = self.reconciling.sides.get_mut(&(session, from)) {
                side.sent_bytes += length;
            }
        }
        let delay_ms = self.more_dice.between(self.weather.delay_ms);
        let last_ms = self.reconciling.arrivals.get(&(session, from)).copied().unwrap_or(0);
        let at_ms = (self.now_ms + delay_ms).max(last_ms);
        self.reconciling.arrivals.insert((session, from), at_ms);
        self.schedule(at_ms, Event::Frame { from, to, epoch, session, frame });
    }

    /// A frame comes.
    pub(super) fn reconcile_further(&mut self, at: usize, from: usize, session: u64, frame: Frame) {
        let bytes = match frame {
            Frame::First(bytes) => return self.answer_session(at, from, session, &bytes),
            Frame::Next(bytes) => bytes,
            Frame::End => return self.end_session(at, session, false),
        };
        let Some(side) = self.reconciling.sides.get_mut(&(session, at)) else { return };
        side.received_bytes += (bytes.len() + LENGTH_BYTES) as u64;
        let step = match &mut side.machine {
            Machine::Opener(opener) => opener.handle(&side.set, &bytes),
            Machine::Answerer(answerer) => answerer.handle(&side.set, &bytes),
        };
        match step {
            Ok(step) => self.do_step(at, from, session, step),
            Err(SessionError::Violation(why)) => {
                self.find(format!("{from} reconciles with {at} as it may not: {why}"));
            }
            Err(error) => self.find(format!("{at} reconciles with {from}: {error}")),
        }
    }

    /// The first frame of a session: where one of this side's is under way, that of the smaller
    /// device stands.
    fn answer_session(&mut self, at: usize, from: usize, session: u64, bytes: &[u8]) {
        let epoch = match Message::decode(bytes) {
            Ok(Message::Reconcile { topic: of, epoch }) if of == topic() => epoch,
            other => return self.find(format!("{from} begins a session with {other:?}")),
        };
        let is_first = self.id(at) < self.id(from);
        if is_first && self.reconciling.opened(at, from).is_some() {
            return self.send_frame(at, from, session, Frame::End);
        }
        for number in self.reconciling.between(at, from) {
            self.send_frame(at, from, number, Frame::End);
            self.end_session(at, number, false);
        }
        let Some(&connection) = self.connected.get(&pair(at, from)) else { return };
        let set = self.set(at, session);
        let Ok(answerer) = Answerer::new(&set, key(connection, epoch), ENUMERATE_THRESHOLD) else {
            return self.find(format!("{at} cannot answer a session"));
        };
        let received_bytes = (bytes.len() + LENGTH_BYTES) as u64;
        let machine = Machine::Answerer(answerer);
        let side = Side { with: from, set, machine, sent_bytes: 0, received_bytes };
        self.reconciling.sides.insert((session, at), side);
    }

    fn do_step(&mut self, at: usize, with: usize, session: u64, step: Step) {
        for frame in step.frames {
            self.send_frame(at, with, session, Frame::Next(frame));
        }
        if !step.lacking.is_empty() {
            let links = step.lacking;
            self.note(|| format!("{at} learns of {} objects that it lacks", links.len()));
            if self.weather.fault != Some(Fault::SnailsWalkAlone) {
                self.feed(at, Input::Lacking { peer: self.id(with), links });
            }
        }
        if let Some(end) = step.end {
            self.send_frame(at, with, session, Frame::End);
            self.end_session(at, session, end == End::Complete);
        }
    }

    /// A side's session is over, however.
    fn end_session(&mut self, at: usize, session: u64, complete: bool) {
        let Some(side) = self.reconciling.sides.remove(&(session, at)) else { return };
        self.reconciling.arrivals.remove(&(session, at));
        let round_trips = match &side.machine {
            Machine::Opener(opener) => opener.rounds(),
            Machine::Answerer(_) => 0,
        };
        self.counts.round_trips += if complete { u64::from(round_trips) } else { 0 };
        let bytes = (side.sent_bytes, side.received_bytes);
        let reconciliation = reconciliation(round_trips, bytes, complete);
        self.note(|| format!("{at}'s side of reconciliation {session}: {reconciliation:?}"));
        self.feed(at, Input::Reconciled { peer: self.id(side.with), reconciliation });
    }

    /// The connection of two devices is gone, and their session with it.
    pub(super) fn break_sessions(&mut self, a: usize, b: usize) {
        for (at, with) in [(a, b), (b, a)] {
            for session in self.reconciling.between(at, with) {
                self.end_session(at, session, false);
            }
        }
    }
}

fn reconciliation(
    round_trips: u32,
    (sent_bytes, received_bytes): (u64, u64),
    complete: bool,
) -> Reconciliation {
    Reconciliation { round_trips, sent_bytes, received_bytes, complete }
}

fn key(connection: u64, session: u64) -> SessionKey {
    let mut material = [0; 32];
    material[..8].copy_from_slice(&connection.to_le_bytes());
    SessionKey::derive(&material, topic(), session)
}
