//! From a state's arrival to its join: staging, what to fetch, from whom, and what comes first.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{DeviceId, Link, SignedState, Writer};

use super::Engine;
use crate::effect::{Effect, RequestId};
use crate::fetcher::{LaneId, LaneStatus, Mode, Need, Providers, STALL_MS};
use crate::input::{Failure, JoinOutcome, StageOutcome, StoreStep};
use crate::objects::ObjectsRequest;
use crate::pull::{Arrived, Phase, Pull, Step, Succession};
use crate::session::Violation;
use crate::view::{Amount, Problem};

impl Engine {
    /// Takes in a state that is news: it is staged, or waits for the one before it.
    pub(super) fn admit(&mut self, arrived: Arrived) {
        let writer = arrived.state.state().writer;
        self.wishes.came(writer, self.now_ms);
        match self.pulls.get_mut(&writer) {
            Some(pull) => pull.succeed(arrived),
            None => self.begin(Pull::new(arrived)),
        }
    }

    /// A state that is known came again: its sender has all of it, and gossip may bring hints
    /// that the stream did not.
    pub(super) fn corroborate(&mut self, arrived: Arrived) {
        let writer = arrived.state.state().writer;
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if pull.current.state == arrived.state {
            pull.current.senders.extend(arrived.senders);
            if pull.current.hints.is_empty() && !arrived.hints.is_empty() && !pull.begun {
                pull.current.hints = arrived.hints;
                self.look_up(writer);
            }
        } else if let Some(next) = pull.next.as_mut().filter(|next| next.state == arrived.state) {
            next.senders.extend(arrived.senders);
            if next.hints.is_empty() {
                next.hints = arrived.hints;
            }
        }
    }

    fn begin(&mut self, mut pull: Pull) {
        pull.asked = self.fetcher.moment();
        pull.progressed_ms = self.now_ms;
        let writer = pull.current.state.state().writer;
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
        if absent.is_empty() || self.providers(writer).is_empty() {
            return;
        }
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        let fits = pull.current.state.state().revision == revision;
        if fits && matches!(pull.phase, Phase::Staging { .. } | Phase::Pulling) {
            pull.lane = pull.lane.or_else(|| self.fetcher.open());
            if let Some(lane) = pull.lane {
                self.fetcher.want(lane, absent, Need::Hinted);
            }
        }
    }

    pub(super) fn staged(&mut self, writer: Writer, outcome: StageOutcome) {
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        if !matches!(pull.phase, Phase::Staging { .. }) {
            return;
        }
        match outcome {
            StageOutcome::Staged { missing } => pull.phase = Phase::Waiting(Some(missing)),
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
            let state = &pull.current.state;
            self.dead.insert(writer, (state.state().revision, state.hash()));
        }
        self.finish(writer);
    }

    /// Is done with the current state of `writer`; the next one begins.
    fn finish(&mut self, writer: Writer) -> Option<Pull> {
        let mut pull = self.pulls.remove(&writer)?;
        if let Some(lane) = pull.lane {
            self.fetcher.close(lane);
        }
        if let Some(next) = pull.next.take() {
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
        if let Some((link, reason)) = rejected.into_iter().next() {
            for writer in broken {
                self.problem(Problem::Invalid { writer, link, reason: reason.clone() });
            }
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
        match outcome {
            JoinOutcome::Joined(state) => self.joined(writer, state),
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
        self.grew(writer, state.state().revision, received);
        self.problems.retain(
            |problem| !matches!(problem, Problem::Invalid { writer: of, .. } if *of == writer),
        );
        self.joined.insert(writer, state);
        self.ask_haves();
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

    /// What waited for `joined`, because that makes it needless, can be joined now.
    fn uncover(&mut self, joined: &Pull) {
        for pull in self.pulls.values_mut() {
            if matches!(pull.phase, Phase::Waiting(_)) && joined.covers(pull) {
                pull.phase = Phase::Unchecked;
            }
        }
    }

    fn still_missing(&mut self, writer: Writer, links: Vec<Link>) {
        let Some(pull) = self.pulls.get_mut(&writer) else { return };
        let Some(lane) = pull.lane else {
            pull.phase = Phase::Waiting(Some(links));
            return;
        };
        let wished = self.fetcher.want(lane, &links, Need::Missing(pull.asked));
        // Where all of it has been stored since, the store is asked again.
        pull.phase = if wished.awaited > 0 { Phase::Pulling } else { Phase::Unchecked };
    }

    pub(super) fn step_failed(&mut self, step: StoreStep) {
        let (writer, step) = match step {
            // A hint not taken up.
            StoreStep::Lookup { .. } => return,
            StoreStep::Stage { writer } => (writer, Step::Stage),
            StoreStep::Join { writer } => (writer, Step::Join),
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
        }
    }

    /// Connected peers that should have the whole current state of `writer`.
    fn providers(&self, writer: Writer) -> Vec<DeviceId> {
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

    /// Does all that has become possible.
    pub(super) fn advance_pulls(&mut self) {
        if self.pulls.is_empty() {
            return self.fetcher.forget();
        }
        let paused = self.store_is_paused();
        if !paused {
            self.retry();
        }
        let providers: BTreeMap<Writer, Vec<DeviceId>> =
            self.pulls.keys().map(|&writer| (writer, self.providers(writer))).collect();
        self.replace(&providers);
        self.activate(&providers);
        if paused {
            return;
        }
        self.check();
        self.request(&providers);
        self.park(&providers);
    }

    /// Gives the store's failed steps another chance.
    fn retry(&mut self) {
        for pull in self.pulls.values_mut() {
            match pull.phase {
                Phase::Failed(Step::Stage) => {
                    pull.phase = Phase::Staging { replacing: true };
                    pull.asked = self.fetcher.moment();
                    let state = pull.current.state.clone();
                    self.effects.push(Effect::Stage { state, replacing: true });
                }
                Phase::Failed(Step::Join) => pull.phase = Phase::Unchecked,
                _ => {}
            }
        }
    }

    /// Lets newer states take the place of those whose pull has not begun or cannot be finished.
    fn replace(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) {
        let mut replaced = Vec::new();
        for (&writer, pull) in &mut self.pulls {
            if pull.next.is_none() {
                continue;
            }
            let providers = &providers[&writer];
            let is_unavailable = pull.is_vain(providers)
                || pull.lane.is_some_and(|lane| {
                    matches!(self.fetcher.status(lane, providers), LaneStatus::Unavailable(_))
                });
            if pull.succession(is_unavailable) == Succession::Replaces {
                replaced.push(writer);
            }
        }
        for writer in replaced {
            let Some(mut pull) = self.pulls.remove(&writer) else { continue };
            if let Some(lane) = pull.lane {
                self.fetcher.close(lane);
            }
            if let Some(next) = pull.next.take() {
                let phase = Phase::Staging { replacing: true };
                self.begin(Pull { phase, ..Pull::new(next) });
            }
        }
    }

    /// Gives lanes to the states that wait: those that have taken in most first, and not those
    /// that one being pulled makes needless.
    fn activate(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) {
        let total = |state: &SignedState| {
            state.state().vector.iter().fold(0_u64, |sum, (_, it)| sum.saturating_add(it))
        };
        let has_room = self.fetcher.has_room();
        let may_go_on = |writer: &Writer, pull: &Pull| {
            let here = &providers[writer];
            pull.lane.is_some() || (has_room && !here.is_empty() && !pull.is_vain(here))
        };
        let mut waiting = Vec::new();
        for (&writer, pull) in &mut self.pulls {
            if !matches!(pull.phase, Phase::Waiting(_)) {
                continue;
            }
            if may_go_on(&writer, pull) {
                waiting.push((std::cmp::Reverse(total(&pull.current.state)), writer));
            } else {
                // It is asked for anew when its time has come: by then it may be less.
                pull.phase = Phase::Waiting(None);
            }
        }
        waiting.sort_unstable();
        let mut ahead = self.under_way(providers);
        for (_, writer) in waiting {
            let lane = self.lane_for(writer, providers, &ahead);
            if lane.is_some() {
                ahead.push(writer);
            }
            let Some(pull) = self.pulls.get_mut(&writer) else { continue };
            let Phase::Waiting(missing) = &mut pull.phase else { continue };
            let missing = missing.take();
            if lane.is_some() {
                pull.lane = lane;
                pull.progressed_ms = self.now_ms;
            }
            match (pull.lane, missing) {
                (Some(lane), Some(missing)) => {
                    self.fetcher.want(lane, &missing, Need::Missing(pull.asked));
                    pull.phase = Phase::Pulling;
                }
                // What was missing may be here by now.
                (Some(_), None) => pull.phase = Phase::Unchecked,
                (None, _) => {}
            }
        }
    }

    /// When a state that waits for another's pull is to be looked at again, because nothing came
    /// for that one.
    pub(super) fn stalls_at(&self) -> Option<u64> {
        let waits = |pull: &Pull| matches!(pull.phase, Phase::Waiting(_));
        if !self.pulls.values().any(waits) {
            return None;
        }
        let pulling = self.pulls.values().filter(|pull| pull.lane.is_some());
        let stalls = pulling.map(|pull| pull.progressed_ms.saturating_add(STALL_MS));
        stalls.filter(|&at_ms| at_ms > self.now_ms).min()
    }

    /// The states that are being pulled, or may be at once: nothing that they make needless is
    /// pulled beside them. Those for which nothing comes hold up nobody.
    fn under_way(&self, providers: &BTreeMap<Writer, Vec<DeviceId>>) -> Vec<Writer> {
        let is_under_way = |pull: &Pull| {
            let undecided =
                matches!(pull.phase, Phase::Staging { .. } | Phase::Unchecked | Phase::Joining);
            let moves = self.now_ms < pull.progressed_ms.saturating_add(STALL_MS);
            (pull.lane.is_some() && moves) || undecided
        };
        self.pulls
            .iter()
            .filter(|(writer, pull)| is_under_way(pull) && !providers[*writer].is_empty())
            .map(|(&writer, _)| writer)
            .collect()
    }

    /// A lane for a state that waits, if its time has come.
    fn lane_for(
        &mut self,
        writer: Writer,
        providers: &BTreeMap<Writer, Vec<DeviceId>>,
        ahead: &[Writer],
    ) -> Option<LaneId> {
        let pull = self.pulls.get(&writer)?;
        // Begun by hints.
        if pull.lane.is_some() {
            return pull.lane;
        }
        let here = providers.get(&writer)?;
        if !self.fetcher.has_room() || here.is_empty() || pull.is_vain(here) {
            return None;
        }
        let covers = |by: &Writer| *by != writer && self.pulls[by].covers(pull);
        if ahead.iter().any(covers) { None } else { self.fetcher.open() }
    }

    /// Asks the store to join what may be complete, or to say what else is missing.
    fn check(&mut self) {
        for (&writer, pull) in &mut self.pulls {
            let is_low = pull.phase == Phase::Pulling
                && pull.lane.is_none_or(|lane| self.fetcher.ask_more(lane));
            if is_low || pull.phase == Phase::Unchecked {
                pull.phase = Phase::Joining;
                pull.asked = self.fetcher.moment();
                self.effects.push(Effect::Join { writer });
            }
        }
    }

    /// Asks for objects.
    fn request(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) {
        let by_lane: Providers = self
            .pulls
            .iter()
            .filter_map(|(writer, pull)| Some((pull.lane?, providers.get(writer)?.clone())))
            .collect();
        let mode = Mode { cold: self.cold, structured_only: self.awaits_scan() };
        for dispatch in self.fetcher.schedule(&by_lane, mode, self.now_ms) {
            let lane = Some(dispatch.lane);
            if let Some(pull) = self.pulls.values_mut().find(|pull| pull.lane == lane) {
                pull.begun = true;
            }
            let topic = self.options.topic;
            let request = ObjectsRequest { topic, links: dispatch.links, ahead: dispatch.ahead };
            self.effects.push(Effect::Request { id: dispatch.id, peer: dispatch.peer, request });
        }
    }

    /// Takes the lanes from pulls that nobody can go on with.
    fn park(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) {
        for (writer, pull) in &mut self.pulls {
            let (Some(lane), Some(here)) = (pull.lane, providers.get(writer)) else { continue };
            if pull.phase != Phase::Pulling || self.fetcher.is_flying(lane) {
                continue;
            }
            match self.fetcher.status(lane, here) {
                LaneStatus::Unavailable(object) => {
                    let (_, asked) = pull.vain.get_or_insert((object, BTreeSet::new()));
                    asked.extend(here.iter().copied());
                }
                LaneStatus::Working if here.is_empty() => {}
                _ => continue,
            }
            self.fetcher.close(lane);
            pull.lane = None;
            pull.phase = Phase::Waiting(None);
        }
    }

    /// What was received since the start.
    pub(super) fn received(&self) -> Amount {
        self.received
    }
}
