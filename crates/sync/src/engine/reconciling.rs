//! Reconciliation of object ids with peers: when it is due, and what is made of what it finds.
//!
//! It replaces nothing: the walk of a pull goes on beside it, and what it finds fills the same lane
//! sooner, as hints do. It is *due* with a peer from when they connect, when gossip lagged, and where
//! a state could not be finished. The first state that such a peer sends on
//! its stream and that lacks something begins it, or one that a break interrupted and that it has.
//! A peer that had nothing newer to send when it connected is in step, and what comes later is the
//! normal flow, which needs none. (After a lag nothing says that all was sent: a state that comes
//! later on the stream begins one then, for some hundred bytes.) By the slow timer what is lacking
//! and does not get on is reconciled at once, and nothing is due afterwards: a session names all that
//! differs, which for a long pull that gets on is all of it.

use std::collections::{BTreeMap, VecDeque};

use ark_core::{DeviceId, Link, Writer};

use super::Engine;
use crate::effect::Effect;
use crate::fetcher::MAX_WANTED;
use crate::input::Reconciliation;
use crate::pull::Pull;
use crate::session::Peer;
use crate::view::Reconciliations;

/// Links looked up at once: some ten milliseconds of the store's time.
const PORTION: usize = 4096;
/// Links that wait to be looked up, of all peers. More cannot be wanted at once; what is beyond is
/// found by the walk.
const MAX_LACKING: usize = MAX_WANTED;

/// Raw objects that are wanted on somebody's word, for each state that is joined: they link nothing,
/// so they are indexed as they come, whether anything will link them or not. A gibibyte at worst.
/// The walk names those beyond, a round trip later.
const MAX_RAW: usize = 256;

/// Where reconciliation with one peer stands.
#[derive(Debug, Default)]
struct Standing {
    /// The next state that comes on its stream and lacks something begins one.
    due: bool,
    /// One was begun here and has not ended.
    begun: bool,
    found: Found,
}

/// What was found since something was last joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Found {
    #[default]
    Nothing,
    /// Something, as far as it came.
    Something,
    /// Something, and it ended before it was all: once more when that is in.
    NotAll,
}

/// The machine. Bounded by the remotes, and by [`MAX_LACKING`] links.
#[derive(Debug, Default)]
pub(super) struct Reconciling {
    /// Of each peer that is connected.
    peers: BTreeMap<DeviceId, Standing>,
    /// What peers are said to have, in portions, and how much that is.
    lacking: VecDeque<(DeviceId, Vec<Link>)>,
    waiting: usize,
    /// The pull that a portion is being looked up for.
    looking_up: Option<(Writer, u64)>,
    /// Raw objects that were wanted on somebody's word since something was last joined.
    raw: usize,
    counts: Reconciliations,
}

impl Reconciling {
    /// What reconciliations cost so far.
    pub(super) const fn counts(&self) -> Reconciliations {
        self.counts
    }

    pub(super) fn connected(&mut self, peer: DeviceId) {
        self.peers.insert(peer, Standing { due: true, ..Standing::default() });
    }

    pub(super) fn disconnected(&mut self, peer: DeviceId) {
        self.peers.remove(&peer);
        self.lacking.retain(|(of, _)| *of != peer);
        self.waiting = self.lacking.iter().map(|(_, links)| links.len()).sum();
    }

    /// It is due with these, where they are connected.
    pub(super) fn due(&mut self, peers: &[DeviceId]) {
        for peer in peers {
            if let Some(standing) = self.peers.get_mut(peer) {
                standing.due = true;
            }
        }
    }

    /// It is due with all that are connected.
    pub(super) fn all_due(&mut self) {
        for standing in self.peers.values_mut() {
            standing.due = true;
        }
    }

    pub(super) fn is_due(&self, peer: DeviceId) -> bool {
        self.peers.get(&peer).is_some_and(|standing| standing.due)
    }

    /// It is due no more.
    fn settled(&mut self, peer: DeviceId) {
        if let Some(standing) = self.peers.get_mut(&peer) {
            standing.due = false;
        }
    }

    /// Of what is absent here, what is wanted on somebody's word.
    pub(super) fn believed(&mut self, absent: &[Link]) -> Vec<Link> {
        let is_believed = |link: &&Link| {
            if link.kind.is_structured() {
                return true;
            }
            let has_room = self.raw < MAX_RAW;
            self.raw += usize::from(has_room);
            has_room
        };
        absent.iter().filter(is_believed).copied().collect()
    }

    /// The store has answered, perhaps about another's hints: then two are under way for once.
    pub(super) fn looked_up(&mut self, writer: Writer, revision: u64) {
        self.looking_up = self.looking_up.filter(|it| *it != (writer, revision));
    }

    /// The store could not look it up.
    pub(super) fn not_looked_up(&mut self, writer: Writer) {
        self.looking_up = self.looking_up.filter(|(of, _)| *of != writer);
    }
}

impl Engine {
    /// Begins what is due with those that sent the current state of `writer`, if it lacks
    /// something.
    pub(super) fn reconcile_for(&mut self, writer: Writer) {
        let Some(pull) = self.pulls.get_mut(&writer).filter(|pull| pull.lacks()) else { return };
        for peer in std::mem::take(&mut pull.current.due) {
            self.reconcile(peer);
        }
    }

    /// The peer has said what it has, after all the states that were newer there when it connected:
    /// those are marked. What was staged before is not sent again, and is reconciled, too.
    pub(super) fn compared(&mut self, peer: DeviceId) {
        if self.reconciling.is_due(peer) {
            self.reconcile_lacking(peer, |_| true);
        }
        self.reconciling.settled(peer);
    }

    /// What is lacking still, and for which nothing comes, is reconciled with all who have it.
    pub(super) fn reconcile_stalled(&mut self) {
        let now_ms = self.now_ms;
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.reconcile_lacking(peer, |pull| pull.is_stalled(now_ms));
        }
    }

    /// Begins one where the peer says that it has a state that lacks something here, and is meant.
    fn reconcile_lacking(&mut self, peer: DeviceId, is_meant: impl Fn(&Pull) -> bool) {
        let has = |writer: &Writer, pull: &Pull| {
            let revision = pull.current.state.state().revision;
            self.peers.get(&peer).is_some_and(|it| it.has(*writer, revision))
        };
        let mut pulls = self.pulls.iter();
        let is_lacking = |pull: &Pull| pull.lacks() && is_meant(pull);
        if !self.cold && pulls.any(|(writer, pull)| is_lacking(pull) && has(writer, pull)) {
            self.reconcile(peer);
        }
    }

    fn reconcile(&mut self, peer: DeviceId) {
        let is_open = self.peers.get(&peer).is_some_and(Peer::is_open);
        let Some(standing) = self.reconciling.peers.get_mut(&peer) else { return };
        if is_open && !standing.begun {
            standing.begun = true;
            self.is_reconciled(peer);
            self.effects.push(Effect::Reconcile { peer });
        }
    }

    /// It is due no more with this peer, whoever began it.
    fn is_reconciled(&mut self, peer: DeviceId) {
        self.reconciling.settled(peer);
        for pull in self.pulls.values_mut() {
            pull.current.due.remove(&peer);
            if let Some(next) = &mut pull.next {
                next.due.remove(&peer);
            }
        }
    }

    /// A peer is said to have these. They are queued until the store has looked them up.
    pub(super) fn lacking(&mut self, peer: DeviceId, links: &[Link]) {
        if links.is_empty() || !self.peers.get(&peer).is_some_and(Peer::is_open) {
            return;
        }
        self.is_reconciled(peer);
        let links: Vec<Link> = links.iter().copied().filter(|link| self.takes(*link)).collect();
        let here = &mut self.reconciling;
        let Some(standing) = here.peers.get_mut(&peer) else { return };
        if standing.found == Found::Nothing {
            standing.found = Found::Something;
        }
        let room = MAX_LACKING.saturating_sub(here.waiting).min(links.len());
        for portion in links[..room].chunks(PORTION) {
            here.lacking.push_back((peer, portion.to_vec()));
        }
        here.waiting += room;
    }

    /// Has the next portion looked up for the most advanced state that its peer provides: what the
    /// heads of the others hold is mostly in that.
    pub(super) fn look_up_lacking(&mut self) {
        while self.reconciling.looking_up.is_none() {
            let Some((peer, links)) = self.reconciling.lacking.pop_front() else { return };
            self.reconciling.waiting -= links.len();
            let pulls = self.pulls.iter().filter(|(_, pull)| pull.takes_hints());
            let provided = pulls.filter(|(writer, _)| self.providers(**writer).contains(&peer));
            let Some((&writer, pull)) = provided.max_by_key(|(_, pull)| pull.extent()) else {
                continue;
            };
            let revision = pull.current.state.state().revision;
            self.reconciling.looking_up = Some((writer, revision));
            self.effects.push(Effect::Lookup { writer, revision, links });
        }
    }

    /// A reconciliation ended. One in which nothing was said is as if it had not been asked for:
    /// the driver has its reasons, and is not asked again before there is news.
    pub(super) fn reconciled(&mut self, peer: DeviceId, ended: Reconciliation) {
        let Reconciliation { round_trips, sent_bytes, received_bytes, complete } = ended;
        let was_held = sent_bytes > 0 || received_bytes > 0;
        let counts = &mut self.reconciling.counts;
        if was_held {
            counts.sessions += 1;
            counts.round_trips += u64::from(round_trips);
            counts.sent_bytes = counts.sent_bytes.saturating_add(sent_bytes);
            counts.received_bytes = counts.received_bytes.saturating_add(received_bytes);
            if round_trips > 0 {
                counts.last_round_trips = round_trips;
            }
        }
        let Some(standing) = self.reconciling.peers.get_mut(&peer) else { return };
        standing.begun = false;
        standing.found = match standing.found {
            Found::Something if complete => Found::Nothing,
            Found::Something | Found::NotAll => Found::NotAll,
            Found::Nothing => Found::Nothing,
        };
        if was_held && complete {
            self.is_reconciled(peer);
        }
    }

    /// Something was joined, so there is less to find: where a ceiling ended a reconciliation, and
    /// its peer provides for what is lacking still, it goes on.
    pub(super) fn reconcile_on(&mut self) {
        self.reconciling.raw = 0;
        let mut again = Vec::new();
        for (&peer, standing) in &mut self.reconciling.peers {
            if standing.found == Found::NotAll {
                standing.found = Found::Nothing;
                again.push(peer);
            }
        }
        for peer in again {
            let mut lacking = self.pulls.iter().filter(|(_, pull)| pull.lacks());
            if lacking.any(|(&writer, _)| self.providers(writer).contains(&peer)) {
                self.reconcile(peer);
            }
        }
    }
}
