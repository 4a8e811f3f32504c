//! From a state's arrival to its join: what the store and the peers say, and what it means.

use ark_core::{DeviceId, Link, ObjectId, SignedState, Writer};

use super::{Engine, Leaving, MAX_TRIED, place};
use crate::effect::{Effect, RequestId};
use crate::fetcher::{Need, STALL_MS};
use crate::input::{Failure, JoinOutcome, StageOutcome, StoreStep};
use crate::pull::{Arrived, Phase, Pull, Step};
use crate::session::Violation;
use crate::view::Problem;

impl Engine {
    /// Takes in a state that is news: it is staged, or waits for the one before it, or takes the
    /// place of a newer one that cannot be finished.
    pub(super) fn admit(&mut self, arrived: Arrived) {
        let writer = arrived.state.state().writer;
        self.wishes.came(writer, self.now_ms);
        match self.pulls.get_mut(&writer) {
            Some(pull) if arrived.state.replaces(pull.newest()) => pull.succeed(arrived),
            Some(_) => self.fall_back(arrived),
            None => self.begin(Pull::new(arrived)),
        }
    }

    /// Whether the current state of `writer` cannot be finished with those who are connected: an
    /// object of it is invalid, or nobody has the rest. Perhaps its writer lost it with a store. One
    /// that was begun is not given up where a connection breaks for a moment.
    pub(super) fn is_stuck(&self, writer: Writer) -> bool {
        let Some(pull) = self.pulls.get(&writer) else { return false };
        match pull.phase {
            Phase::Broken => true,
            Phase::Waiting(_) if pull.lane.is_none() => {
                let providers = self.providers(writer);
                let is_left = self.now_ms >= pull.progressed_ms.saturating_add(STALL_MS);
                if providers.is_empty() { is_left || !pull.begun } else { pull.is_vain(&providers) }
            }
            _ => false,
        }
    }

    /// Takes a state that others have joined in the place of a newer one that cannot be finished.
    /// It is finished before any newer one, which can be staged again only when it is joined, or
    /// when it is sent anew: so the two do not take turns.
    fn fall_back(&mut self, arrived: Arrived) {
        let writer = arrived.state.state().writer;
        let Some(mut stuck) = self.pulls.remove(&writer) else { return };
        self.keep_vain(&mut stuck);
        let is_broken = stuck.phase == Phase::Broken;
        if is_broken {
            self.dead.insert(writer, place(&stuck.current.state));
        }
        let shelved = newest(stuck.shelved, (!is_broken).then_some(stuck.current));
        let next = stuck.next;
        let phase = Phase::Staging { replacing: true };
        self.begin(Pull { phase, begun: true, next, shelved, ..Pull::new(arrived) });
    }

    /// A state that is known came again: its sender has all of it, and gossip may bring hints
    /// that the stream did not.
    pub(super) fn corroborate(&mut self, arrived: Arrived) {
        let writer = arrived.state.state().writer;
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if pull.current.state == arrived.state {
            pull.current.senders.extend(arrived.senders);
            pull.current.due.extend(arrived.due);
            if pull.current.hints.is_empty() && !arrived.hints.is_empty() && !pull.begun {
                pull.current.hints = arrived.hints;
                self.look_up(writer);
            }
            self.reconcile_for(writer);
        } else if let Some(next) = pull.next.as_mut().filter(|next| next.state == arrived.state) {
            next.senders.extend(arrived.senders);
            next.due.extend(arrived.due);
            if next.hints.is_empty() {
                next.hints = arrived.hints;
            }
        }
    }

    /// Remembers who was asked in vain for a state that another is taken in the place of: where
    /// somebody only says that it has it, the two would take turns.
    pub(super) fn keep_vain(&mut self, pull: &mut Pull) {
        let Some(vain) = pull.vain.take() else { return };
        let tried = self.tried.entry(pull.current.state.state().writer).or_default();
        tried.insert(place(&pull.current.state), vain);
        if tried.len() > MAX_TRIED {
            tried.pop_first();
        }
    }

    /// Has a state staged.
    pub(super) fn begin(&mut self, mut pull: Pull) {
        pull.asked = self.fetcher.moment();
        pull.progressed_ms = self.now_ms;
        let writer = pull.current.state.state().writer;
        let tried = self.tried.get_mut(&writer);
        pull.vain = tried.and_then(|tried| tried.remove(&place(&pull.current.state)));
        let state = pull.current.state.clone();
        let replacing = pull.phase == Phase::Staging { replacing: true };
        self.pulls.insert(writer, pull);
        self.look_up(writer);
        self.effects.push(Effect::Stage { state, replacing });
    }

    /// Asks which of the hints are needed: at once, so that an edit is fetched while it is staged.
    fn look_up(&mut self, writer: Writer) {
        let Some(pull) = self.pulls.get(&writer) else { return };
        let links = pull.current.hints.clone();
        if !links.is_empty() {
            let revision = pull.current.state.state().revision;
            self.effects.push(Effect::Lookup { writer, revision, links });
        }
    }

    pub(super) fn looked_up(&mut self, writer: Writer, revision: u64, absent: &[Link]) {
        self.reconciling.looked_up(writer, revision);
        if absent.is_empty() || self.providers(writer).is_empty() {
            return;
        }
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if pull.current.state.state().revision == revision && pull.takes_hints() {
            let absent = &self.reconciling.believed(absent);
            pull.lane = pull.lane.or_else(|| self.fetcher.open());
            if let Some(lane) = pull.lane {
                self.fetcher.want(lane, absent, Need::Hinted);
            }
        }
    }

    pub(super) fn staged(&mut self, writer: Writer, outcome: StageOutcome) {
        let is_staging = |pull: &Pull| matches!(pull.phase, Phase::Staging { .. });
        if !self.pulls.get(&writer).is_some_and(is_staging) {
            return;
        }
        if self.is_dropped(writer) {
            self.let_go(writer);
            return self.store_worked();
        }
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        match outcome {
            StageOutcome::Staged { .. } if std::mem::take(&mut pull.uncovered) => {
                pull.phase = Phase::Unchecked;
            }
            StageOutcome::Staged { missing } => {
                pull.wait(missing);
                self.reconcile_for(writer);
            }
            StageOutcome::Complete | StageOutcome::Waiting => pull.phase = Phase::Unchecked,
            StageOutcome::Old { joined } => self.not_staged(writer, joined),
            StageOutcome::Equivocation { then } => {
                let revision = pull.current.state.state().revision;
                self.problem(Problem::Equivocation { writer, revision });
                return self.staged(writer, *then);
            }
            StageOutcome::OwnFork { then } => {
                self.problem(Problem::OwnFork { writer });
                return self.staged(writer, *then);
            }
            StageOutcome::WrongKind { found } => {
                self.problem(Problem::WrongKind { device: writer.device, found });
                self.bury(writer);
            }
            StageOutcome::WrongTopic | StageOutcome::Invalid => self.bury(writer),
        }
        self.store_worked();
    }

    /// The store will not take the current state of `writer`, now or later.
    fn bury(&mut self, writer: Writer) {
        if let Some(pull) = self.pulls.get(&writer) {
            self.dead.insert(writer, place(&pull.current.state));
        }
        self.finish(writer);
    }

    /// Is done with the current state of `writer`; the next one begins.
    fn finish(&mut self, writer: Writer) -> Option<Pull> {
        let mut pull = self.pulls.remove(&writer)?;
        if let Some(lane) = pull.lane {
            self.fetcher.close(lane);
        }
        let joined = self.joined.get(&writer);
        let is_newer = |it: &Arrived| joined.is_none_or(|joined| it.state.replaces(joined));
        let shelved = pull.shelved.take().filter(is_newer);
        if let Some(next) = newest(pull.next.take(), shelved) {
            self.begin(Pull::new(next));
        }
        Some(pull)
    }

    pub(super) fn stored(
        &mut self,
        request: RequestId,
        received: &[(Link, u32)],
        next: &[Link],
        rejected: Vec<(Link, String)>,
    ) {
        let bad: Vec<_> = rejected.iter().map(|(link, _)| *link).collect();
        let arrival = self.fetcher.stored(request, received, next, &bad);
        self.received = self.received.plus(arrival.amount);
        if !received.is_empty() {
            self.cold = false;
            self.store_worked();
        }
        let mut broken = Vec::new();
        for (&writer, pull) in &mut self.pulls {
            let Some(lane) = pull.lane else { continue };
            if arrival.lane == Some(lane) {
                pull.received = pull.received.plus(arrival.amount);
                pull.progressed_ms = self.now_ms;
            }
            if arrival.broken.contains(&lane) {
                self.fetcher.close(lane);
                pull.lane = None;
                pull.phase = Phase::Broken;
                broken.push(writer);
            }
        }
        if !received.is_empty() {
            self.came(|id| received.iter().any(|(link, _)| link.id == id));
        }
        if let Some((link, reason)) = rejected.into_iter().next() {
            for writer in broken {
                self.problem(Problem::Invalid { writer, link, reason: reason.clone() });
            }
        }
    }

    /// Objects are here that were not, `came` says which; the fetcher was told. A state that nobody
    /// can be asked for may lack no more now: its writer lost it with a store, perhaps, and wrote
    /// the same anew. One that others can be asked for is asked about when its time comes.
    pub(super) fn came(&mut self, came: impl Fn(ObjectId) -> bool) {
        for pull in self.pulls.values_mut().filter(|pull| pull.may_have_got(&came)) {
            pull.outdated = true;
        }
    }

    /// The same of objects that nobody knows the names of: what is being asked for may be here.
    pub(super) fn something_came(&mut self) {
        self.came(|_| true);
        for pull in self.pulls.values_mut().filter(|pull| pull.is_asking()) {
            pull.outdated = true;
        }
    }

    pub(super) fn request_failed(&mut self, request: RequestId, failure: Failure) {
        match failure {
            Failure::Broken => {
                if self.fetcher.failed(request, self.now_ms).is_some() {
                    self.counters.requests_failed += 1;
                }
            }
            Failure::Violation => {
                if let Some(peer) = self.fetcher.violated(request) {
                    self.counters.requests_failed += 1;
                    self.misbehaved(peer, Violation::WrongObjects);
                }
            }
        }
    }

    pub(super) fn join_result(&mut self, writer: Writer, outcome: JoinOutcome) {
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if pull.phase != Phase::Joining {
            return;
        }
        let is_dropped = self.is_dropped(writer);
        match outcome {
            JoinOutcome::Joined(state) => self.joined(writer, state),
            JoinOutcome::Missing(_) if is_dropped => self.let_go(writer),
            JoinOutcome::Missing(links) => self.still_missing(writer, links),
            JoinOutcome::NothingStaged { joined } => self.not_staged(writer, joined),
            JoinOutcome::Invalid { link, reason } => {
                self.problem(Problem::Invalid { writer, link, reason });
                self.bury(writer);
            }
        }
        self.store_worked();
    }

    /// The store has no use for the current state of `writer`: it has joined a newer one, or this
    /// one, which it could not say; or somebody abandoned it, and it will be offered again.
    fn not_staged(&mut self, writer: Writer, joined: Option<SignedState>) {
        let is_news =
            |state: &SignedState| self.joined.get(&writer).is_none_or(|it| state.replaces(it));
        match joined.filter(is_news) {
            Some(state) => self.joined(writer, state),
            None => drop(self.finish(writer)),
        }
    }

    fn joined(&mut self, writer: Writer, state: SignedState) {
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        let received = std::mem::take(&mut pull.received);
        let is_current = pull.current.state == state;
        if !state.state().heads.is_empty() {
            self.cold = false;
        }
        self.decided(state.state().kind);
        self.tried.remove(&writer);
        self.grew(writer, state.state().revision, received);
        self.problems.retain(
            |problem| !matches!(problem, Problem::Invalid { writer: of, .. } if *of == writer),
        );
        self.joined.insert(writer, state);
        self.ask_haves();
        self.reconcile_on();
        if is_current {
            if let Some(joined) = self.finish(writer) {
                self.uncover(&joined);
            }
        } else if let Some(mut pull) = self.finish(writer) {
            // The store finished an older state first.
            if pull.current.state.replaces(&self.joined[&writer])
                && !self.pulls.contains_key(&writer)
            {
                pull.lane = None;
                pull.phase = Phase::Staging { replacing: false };
                self.begin(pull);
            }
        }
    }

    /// What `joined` makes needless can be joined now, whatever of it is still missing: it may have
    /// waited for that, or its objects may be nowhere. What the store is being asked about is asked
    /// again, because the answer may be older than the join.
    fn uncover(&mut self, joined: &Pull) {
        for pull in self.pulls.values_mut().filter(|pull| joined.covers_some(pull)) {
            match pull.phase {
                Phase::Waiting(_) | Phase::Pulling => pull.phase = Phase::Unchecked,
                Phase::Staging { .. } | Phase::Joining => pull.uncovered = true,
                Phase::Unchecked | Phase::Failed(_) | Phase::Broken => {}
            }
        }
    }

    fn still_missing(&mut self, writer: Writer, links: Vec<Link>) {
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if std::mem::take(&mut pull.uncovered) {
            pull.phase = Phase::Unchecked;
            return;
        }
        let Some(lane) = pull.lane else {
            pull.wait(links);
            return self.reconcile_for(writer);
        };
        let wished = self.fetcher.want(lane, &links, Need::Missing(pull.asked));
        // Where all of it has been stored since, the store is asked again.
        pull.phase = if wished.awaited > 0 { Phase::Pulling } else { Phase::Unchecked };
        self.reconcile_for(writer);
    }

    pub(super) fn step_failed(&mut self, step: StoreStep) {
        let (writer, step) = match step {
            // A hint not taken up.
            StoreStep::Lookup { writer } => return self.reconciling.not_looked_up(writer),
            StoreStep::Stage { writer } => (writer, Step::Stage),
            StoreStep::Join { writer } => (writer, Step::Join),
            StoreStep::Abandon { writer } => {
                self.leaving.insert(writer, Leaving::Due);
                return;
            }
            StoreStep::Receive { request } => return self.fetcher.unkept(request),
        };
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        // What is under way since has a result of its own.
        let fits = match step {
            Step::Stage => matches!(pull.phase, Phase::Staging { .. }),
            Step::Join => pull.phase == Phase::Joining,
        };
        if fits {
            pull.phase = Phase::Failed(step);
            if self.is_dropped(writer) {
                self.let_go(writer);
            }
        }
    }

    /// Connected peers that should have the whole current state of `writer`.
    pub(super) fn providers(&self, writer: Writer) -> Vec<DeviceId> {
        let Some(pull) = self.pulls.get(&writer) else { return Vec::new() };
        let revision = pull.current.state.state().revision;
        self.peers
            .iter()
            .filter(|(device, peer)| {
                let sent = pull.current.senders.contains(device);
                peer.is_open() && (sent || peer.has(writer, revision))
            })
            .map(|(&device, _)| device)
            .collect()
    }
}

/// The newer of two states of one writer.
fn newest(a: Option<Arrived>, b: Option<Arrived>) -> Option<Arrived> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.state.replaces(&a.state) { b } else { a }),
        (a, b) => a.or(b),
    }
}
