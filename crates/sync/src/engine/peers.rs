//! The sessions: who is told what, and what is made of what they say.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{DeviceId, MAX_STATE_BYTES, MAX_WRITERS, SignedState, Writer};

use super::{Engine, MAX_FORGIVEN, SAFETY_MS, place};
use crate::admission::{Admission, may_write};
use crate::announce::{Announced, Announcement};
use crate::effect::Effect;
use crate::message::{HaveEntry, Hello, MAX_LISTED, Message, PROTOCOL, Role, SummaryEntry};
use crate::pull::{Arrived, Vain};
use crate::session::{First, Heard, Peer, Violation};
use crate::view::Problem;

impl Engine {
    pub(super) fn send(&mut self, peer: DeviceId, message: Message) {
        self.effects.push(Effect::Send { peer, message });
    }

    pub(super) fn connected(&mut self, peer: DeviceId) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        // What the last stream was asked for may be lost.
        self.disconnected(peer);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        session.connect();
        self.fetcher.connected(peer);
        self.reconciling.connected(peer);
        for pull in self.pulls.values_mut() {
            if let Some((_, asked)) = &mut pull.vain {
                asked.remove(&peer);
            }
        }
        self.forgiven.retain(|(of, ..)| *of != peer);
        for (_, asked) in self.tried.values_mut().flat_map(BTreeMap::values_mut) {
            asked.remove(&peer);
        }
        let hello = Hello {
            protocol: PROTOCOL,
            topic: self.options.topic,
            kind: self.options.kind,
            role: self.options.remotes.get(&peer).map_or(Role::Reader, |remote| remote.role),
            folder: self.options.folder,
            listed: self.taken(),
        };
        self.send(peer, Message::Hello(hello));
        self.send(peer, Message::Summary(self.summary()));
    }

    /// The devices whose states are taken here, sorted.
    pub(super) fn taken(&self) -> Vec<DeviceId> {
        let own = self.options.writer.device;
        let writing = self.options.remotes.iter().filter(|(_, remote)| remote.role == Role::Peer);
        let mut taken: Vec<_> = writing.map(|(&device, _)| device).chain([own]).collect();
        taken.sort_unstable();
        taken.dedup();
        taken.truncate(MAX_LISTED);
        taken
    }

    pub(super) fn disconnected(&mut self, peer: DeviceId) {
        let Some(session) = self.peers.get_mut(&peer) else { return };
        session.disconnect();
        for id in self.fetcher.disconnected(peer) {
            self.effects.push(Effect::Cancel { id });
        }
        self.reconciling.disconnected(peer);
        self.wishes.disconnected(peer, self.now_ms);
    }

    /// The peer broke the protocol: its session is to be ended.
    pub(super) fn misbehaved(&mut self, peer: DeviceId, violation: Violation) {
        self.breached(peer, violation);
        self.effects.push(Effect::Misbehaved { peer, violation });
    }

    /// The peer broke the protocol: nothing it says counts until it connects anew.
    pub(super) fn breached(&mut self, peer: DeviceId, violation: Violation) {
        self.counters.violations += 1;
        self.disconnected(peer);
        if let Some(session) = self.peers.get_mut(&peer) {
            session.end();
        }
        self.problem(Problem::Misbehaved { device: peer, violation });
    }

    pub(super) fn heard(&mut self, peer: DeviceId, message: Message) {
        let repo = (self.options.topic, self.options.kind);
        let risen = self.risen(peer, &message);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        match session.hear(peer, message, repo) {
            Err(violation) => self.misbehaved(peer, violation),
            Ok(Heard::Hello(problem)) => self.greeted(peer, problem),
            Ok(Heard::Summary(entries, first)) => self.answer_summary(peer, &entries, first),
            Ok(Heard::Want(writers)) => {
                let states = writers.iter().filter_map(|writer| self.joined.get(writer));
                let states = states.filter(|state| self.is_relayed(state));
                let states: Vec<_> = states.map(|state| state.bytes().to_vec()).collect();
                self.send_states(peer, states);
            }
            Ok(Heard::States(states)) => self.states_came(peer, &states),
            Ok(Heard::Have(entries, first)) => {
                if first == First::Yes {
                    self.compared(peer);
                }
                self.forgive(peer, &risen);
                self.note_wishes(peer, &entries);
            }
            Ok(Heard::Ignored) => {}
        }
    }

    /// The writers of which a `Have` says that the peer has more than it said before: how much that
    /// was, and is.
    fn risen(&self, peer: DeviceId, message: &Message) -> Vec<(Writer, u64, u64)> {
        let (Message::Have(have) | Message::HaveChanged(have)) = message else { return Vec::new() };
        let Some(session) = self.peers.get(&peer) else { return Vec::new() };
        let before = |writer: &Writer| session.writers.get(writer).map_or(0, |entry| entry.durable);
        let pulled = have.writers.iter().filter(|entry| self.pulls.contains_key(&entry.writer));
        let risen = pulled.map(|entry| (entry.writer, before(&entry.writer), entry.durable));
        risen.filter(|(_, before, now)| before < now).collect()
    }

    /// Whoever did not have what it was asked for, and says now that it has, is asked again; once a
    /// connection, because that is easily said.
    fn forgive(&mut self, peer: DeviceId, risen: &[(Writer, u64, u64)]) {
        for &(writer, before, now) in risen {
            let current = self.pulls.get_mut(&writer);
            let current = current
                .and_then(|pull| Some((pull.current.state.state().revision, pull.vain.as_mut()?)));
            let tried = self.tried.get_mut(&writer).into_iter().flatten();
            let tried = tried.map(|((revision, _), vain)| (*revision, vain));
            for (revision, (_, asked)) in tried.chain(current) {
                let came = before < revision && revision <= now && asked.contains(&peer);
                let has_room = self.forgiven.len() < MAX_FORGIVEN;
                if came && has_room && self.forgiven.insert((peer, writer, revision)) {
                    asked.remove(&peer);
                }
            }
        }
    }

    /// A hello settles what was wrong with an earlier one.
    fn greeted(&mut self, peer: DeviceId, problem: Option<Problem>) {
        let hello = self.peers.get(&peer).and_then(|session| session.hello.as_ref());
        let role = hello.map(|hello| hello.role);
        self.problems.retain(|old| match old {
            Problem::Protocol { device, .. } | Problem::WrongKind { device, .. } => {
                *device != peer || problem.as_ref() == Some(old)
            }
            Problem::Role { device, granted } => *device != peer || role == Some(*granted),
            _ => true,
        });
        match problem {
            Some(problem) => self.problem(problem),
            None => self.check_roles(),
        }
    }

    /// Shows who takes nothing of what this device writes, if it does, or may.
    pub(super) fn check_roles(&mut self) {
        let has_published = self.joined.contains_key(&self.options.writer);
        if !self.options.folder && !has_published {
            return;
        }
        let granted = |(&device, peer): (&DeviceId, &Peer)| {
            let granted = peer.hello.as_ref().filter(|_| peer.is_open())?.role;
            (granted != Role::Peer).then_some(Problem::Role { device, granted })
        };
        let problems: Vec<_> = self.peers.iter().filter_map(granted).collect();
        for problem in problems {
            self.problem(problem);
        }
    }

    /// Sends what the peer lacks or has older; then, the first time, what is here. What it says it
    /// does not take is sent that once, so that it can show what it refuses.
    fn answer_summary(&mut self, peer: DeviceId, entries: &[SummaryEntry], first: First) {
        let theirs = |writer: Writer| {
            let at = entries.binary_search_by(|entry| entry.writer.cmp(&writer)).ok()?;
            Some((entries[at].revision, entries[at].hash))
        };
        let hello = self.peers.get(&peer).and_then(|session| session.hello.as_ref());
        let takes = |writer: Writer| {
            hello.is_some_and(|hello| hello.listed.binary_search(&writer.device).is_ok())
        };
        let told = self.joined.iter().filter(|(writer, _)| first == First::Yes || takes(**writer));
        let lacking = told.filter(|(writer, state)| {
            theirs(**writer) < Some((state.state().revision, state.hash()))
                && self.is_relayed(state)
        });
        let states: Vec<_> = lacking.map(|(_, state)| state.bytes().to_vec()).collect();
        self.send_states(peer, states);
        if first == First::Yes {
            self.ask_have(peer);
        }
    }

    /// Whether others are told of a joined state. Not of one whose device may not write here (the
    /// config dropped it), once all of its heads were taken over: nothing of it is left to know.
    pub(super) fn is_relayed(&self, signed: &SignedState) -> bool {
        let state = signed.state();
        let has_taken = |by: &SignedState, dot| {
            let by = by.state();
            by.writer != state.writer && by.vector.has(dot) && !by.held.contains(&dot)
        };
        let is_left = |dot| !self.joined.values().any(|by| has_taken(by, dot));
        let own = self.options.writer.device;
        may_write(own, &self.options.remotes, state.writer.device) || state.head_dots().any(is_left)
    }

    fn send_states(&mut self, peer: DeviceId, states: Vec<Vec<u8>>) {
        for message in Message::states(states) {
            self.send(peer, message);
        }
    }

    fn states_came(&mut self, peer: DeviceId, states: &[Vec<u8>]) {
        for bytes in states {
            if let Ok(state) = SignedState::decode(bytes) {
                // Only what is joined is relayed: the sender has all of it.
                let due = (!self.cold && self.reconciling.is_due(peer)).then_some(peer);
                let (hints, senders) = (Vec::new(), [peer].into());
                self.arrived(Arrived { state, hints, senders, due: due.into_iter().collect() });
                continue;
            }
            self.counters.forged += 1;
            if let Some(Err(violation)) = self.peers.get_mut(&peer).map(Peer::forged) {
                return self.misbehaved(peer, violation);
            }
        }
    }

    pub(super) fn announced(&mut self, announcement: Announcement) {
        match announcement.state {
            Announced::State(bytes) => match SignedState::decode(&bytes) {
                // Gossip relays by itself: only who made the state has it for sure.
                Ok(state) => {
                    let senders = [state.state().writer.device].into();
                    let (mut hints, due) = (announcement.new, BTreeSet::new());
                    hints.retain(|link| state.state().kind.has(link.kind));
                    self.arrived(Arrived { state, hints, senders, due });
                }
                Err(_) => self.counters.forged += 1,
            },
            Announced::Named(SummaryEntry { writer, revision, hash }) => {
                let device = writer.device;
                let is_open = self.peers.get(&device).is_some_and(Peer::is_open);
                let is_news = self.known(writer) < Some((revision, hash))
                    && self.held(writer).all(|held| held != (revision, hash));
                if is_open && is_news {
                    self.wishes.named(writer, device, self.now_ms);
                }
            }
        }
    }

    /// A signed state came, from anywhere.
    fn arrived(&mut self, arrived: Arrived) {
        debug_assert!(arrived.state.bytes().len() <= MAX_STATE_BYTES);
        let state = arrived.state.state();
        let (writer, revision) = (state.writer, state.revision);
        let here = place(&arrived.state);
        let tried = self.tried.get(&writer).and_then(|tried| tried.get(&here));
        let is_vain = |(_, asked): &Vain| arrived.senders.is_subset(asked);
        let is_held = self.held(writer).any(|held| held == here)
            || tried.is_some_and(is_vain)
            || self.leaving.contains_key(&writer);
        let admitting = self.admitting(writer, self.count_writers());
        let admission = match admitting.decide(&arrived.state) {
            Admission::Newer | Admission::Equivocating | Admission::OwnUnknown if is_held => {
                Admission::Known
            }
            admission => admission,
        };
        let is_news =
            matches!(admission, Admission::Newer | Admission::Equivocating | Admission::OwnUnknown);
        if is_news && self.names_too_many(&arrived.state) {
            return self.problem(Problem::TooManyNamed { device: writer.device });
        }
        match admission {
            Admission::Newer => self.admit(arrived),
            Admission::Equivocating => {
                self.problem(Problem::Equivocation { writer, revision });
                self.admit(arrived);
            }
            Admission::EquivocatingLess => {
                self.counters.stale += 1;
                self.problem(Problem::Equivocation { writer, revision });
            }
            Admission::OwnUnknown => {
                self.problem(Problem::OwnFork { writer });
                self.admit(arrived);
            }
            Admission::Known => {
                self.counters.stale += 1;
                self.corroborate(arrived);
            }
            Admission::Older => self.counters.stale += 1,
            Admission::Unlisted => {
                self.counters.unlisted += 1;
                self.problem(Problem::UnlistedWriter { device: writer.device });
            }
            Admission::NotAWriter => {
                self.counters.unlisted += 1;
                let device = writer.device;
                if let Some(remote) = self.options.remotes.get(&device) {
                    let (name, role) = (remote.name.clone(), remote.role);
                    self.problem(Problem::NotAWriter { device, name, role });
                }
            }
            Admission::WrongKind(found) => {
                self.counters.foreign += 1;
                self.problem(Problem::WrongKind { device: writer.device, found });
            }
            Admission::WrongTopic => self.counters.foreign += 1,
            Admission::TooMany => self.problem(Problem::TooManyWriters),
            Admission::TooManyIncarnations => {
                self.problem(Problem::TooManyIncarnations { device: writer.device });
            }
        }
    }

    /// Whether a state names more writers than can be taken in. All writers that are named are
    /// gathered only where it names one that no other state does: with many writers, each of whom
    /// names all others, that is dear.
    fn names_too_many(&self, signed: &SignedState) -> bool {
        let state = signed.state();
        state.vector.iter().any(|(writer, _)| !self.is_named(writer))
            && self
                .admitting(state.writer, self.count_writers())
                .names_too_many(signed, &self.named())
    }

    /// Notes the states that `peer` has just said it has and that are not known here. What it said
    /// before is not gone through again: a message that says little is little work.
    fn note_wishes(&mut self, peer: DeviceId, entries: &[HaveEntry]) {
        if entries.is_empty() {
            return;
        }
        let writers = self.count_writers();
        for &HaveEntry { writer, durable, .. } in entries {
            if self.is_wanted(peer, (writer, durable), writers) {
                self.wishes.heard(writer, self.now_ms);
            }
        }
    }

    /// Whether `peer` is to be asked for a state that it says it has, while `writers` are known.
    fn is_wanted(&self, peer: DeviceId, (writer, revision): (Writer, u64), writers: usize) -> bool {
        let tried = self.tried.get(&writer).into_iter().flatten();
        let mut in_vain =
            tried.filter(|((of, _), (_, asked))| *of == revision && asked.contains(&peer));
        self.known(writer).is_none_or(|(known, _)| known < revision)
            && self.held(writer).all(|(held, _)| held != revision)
            && in_vain.next().is_none()
            && self.admitting(writer, writers).takes(writer)
    }

    /// Where the state to come of a writer cannot be finished, an older one is wished for that
    /// others have joined.
    pub(super) fn wish_for_older(&mut self) {
        let stuck = self.pulls.keys().copied().filter(|&writer| self.is_stuck(writer));
        let stuck: Vec<_> = stuck.collect();
        if stuck.is_empty() {
            return;
        }
        let writers = self.count_writers();
        let has_older = |writer: &Writer| {
            let mut open = self.peers.iter().filter(|(_, session)| session.is_open());
            open.any(|(&peer, session)| {
                let entry = session.writers.get(writer);
                entry.is_some_and(|it| self.is_wanted(peer, (*writer, it.durable), writers))
            })
        };
        let wished: Vec<_> = stuck.into_iter().filter(has_older).collect();
        for writer in wished {
            self.wishes.heard(writer, self.now_ms);
        }
    }

    pub(super) fn send_wishes(&mut self) {
        if self.wishes.due_at().is_none_or(|due_ms| due_ms > self.now_ms) {
            return;
        }
        let mut wishes = std::mem::take(&mut self.wishes);
        let writers = self.count_writers();
        let asks = wishes.due(self.now_ms, |writer, named| {
            let open = self.peers.iter().filter(|(_, session)| session.is_open());
            let having = open.filter(|(device, session)| {
                let entry = session.writers.get(&writer);
                let is_wanted =
                    |it: &HaveEntry| self.is_wanted(**device, (writer, it.durable), writers);
                let has_newer = entry.is_some_and(is_wanted);
                has_newer || named == Some(**device)
            });
            having.map(|(&device, _)| device).collect()
        });
        self.wishes = wishes;
        for (peer, writers) in asks {
            self.send(peer, Message::WantStates(writers));
        }
    }

    /// Tells `peer` what is here when its gate lets it.
    fn ask_have(&mut self, peer: DeviceId) {
        if let Some(gate) = self.peers.get_mut(&peer).and_then(|session| session.have_gate()) {
            gate.ask();
        }
    }

    /// Tells everybody what is here when their gates let it.
    pub(super) fn ask_haves(&mut self) {
        for session in self.peers.values_mut() {
            if let Some(gate) = session.have_gate() {
                gate.ask();
            }
        }
    }

    pub(super) fn send_haves(&mut self) {
        let now_ms = self.now_ms;
        let passes = |session: &mut Peer| session.have_gate().is_some_and(|gate| gate.pass(now_ms));
        let peers: Vec<_> = self
            .peers
            .iter_mut()
            .filter_map(|(&peer, session)| passes(session).then_some(peer))
            .collect();
        if peers.is_empty() {
            return;
        }
        let entry = |(&writer, state): (&Writer, &SignedState)| {
            let durable = state.state().revision;
            let applied = self.applied.get(&writer).copied().unwrap_or(0).min(durable);
            HaveEntry { writer, durable, applied }
        };
        let here = self.joined.iter().filter(|(_, state)| self.is_relayed(state));
        let here: Vec<_> = here.take(MAX_WRITERS).map(entry).collect();
        self.told.update(here, self.scanned);
        for peer in peers {
            let Some(told) = self.peers.get_mut(&peer).and_then(Peer::told) else { continue };
            let (message, now) = self.told.since(*told);
            *told = Some(now);
            if let Some(message) = message {
                self.send(peer, message);
            }
        }
    }

    pub(super) fn send_summaries(&mut self) {
        let audible: Vec<_> = self
            .peers
            .iter()
            .filter_map(|(&peer, session)| session.is_audible().then_some(peer))
            .collect();
        for peer in audible {
            self.send(peer, Message::Summary(self.summary()));
        }
    }

    /// The slow timer under everything, while anybody is connected.
    pub(super) fn keep_safe(&mut self) {
        if !self.peers.values().any(Peer::is_audible) {
            self.safety_ms = None;
            return;
        }
        if self.safety_ms.is_some_and(|safety_ms| safety_ms > self.now_ms) {
            return;
        }
        if self.safety_ms.is_some() {
            self.reconcile_stalled();
            self.send_summaries();
            // All of it once more.
            for told in self.peers.values_mut().filter_map(Peer::told) {
                *told = None;
            }
            self.ask_haves();
            self.fetcher.forgive_all();
            for pull in self.pulls.values_mut() {
                pull.vain = None;
            }
            self.tried.clear();
            self.advance_pulls();
        }
        self.safety_ms = Some(self.now_ms.saturating_add(self.random.around(SAFETY_MS)));
    }
}
