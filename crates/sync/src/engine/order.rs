//! Which states are pulled, in which order, and from whom.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{DeviceId, Writer};

use super::Engine;
use crate::effect::Effect;
use crate::fetcher::{LaneId, LaneStatus, Mode, Need, Providers, STALL_MS};
use crate::objects::ObjectsRequest;
use crate::pull::{Phase, Pull, Step, Succession};

impl Engine {
    /// Does all that has become possible.
    pub(super) fn advance_pulls(&mut self) {
        let paused = self.store_is_paused();
        if !paused {
            self.abandon();
            self.retry();
        }
        if self.pulls.is_empty() {
            return self.fetcher.forget();
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
        if self.park(&providers) {
            self.check();
        }
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
            self.keep_vain(&mut pull);
            if let Some(next) = pull.next.take() {
                let phase = Phase::Staging { replacing: true };
                let shelved = pull.shelved.take().filter(|it| it.state.replaces(&next.state));
                self.begin(Pull { phase, shelved, ..Pull::new(next) });
            }
        }
    }

    /// Gives lanes to the states that wait: those that have taken in most first, and not those
    /// that one being pulled makes needless.
    fn activate(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) {
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
            let missing = match &pull.phase {
                Phase::Waiting(Some(missing)) => missing.first().copied(),
                _ => None,
            };
            // What came while the store worked that out is not missing any more.
            pull.outdated |=
                missing.is_some_and(|link| self.fetcher.may_have_come(link, pull.asked));
            if may_go_on(&writer, pull) {
                waiting.push((std::cmp::Reverse(pull.extent()), writer));
                continue;
            }
            let here = &providers[&writer];
            let is_alone = here.is_empty() || pull.is_vain(here);
            // Else it is asked for anew when its time has come: by then it may be less.
            let is_to_be_asked = is_alone && pull.outdated;
            pull.phase = if is_to_be_asked { Phase::Unchecked } else { Phase::Waiting(None) };
        }
        waiting.sort_unstable();
        let mut ahead = self.under_way(providers);
        for (_, writer) in waiting {
            let lane = self.lane_for(writer, &ahead);
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

    /// When a state that waits is to be looked at again: because nothing came for another, the
    /// pull of which it waits for, or because nobody came who has the rest of it.
    pub(super) fn stalls_at(&self) -> Option<u64> {
        let waits = |pull: &Pull| matches!(pull.phase, Phase::Waiting(_));
        if !self.pulls.values().any(waits) {
            return None;
        }
        let begun = self.pulls.values().filter(|pull| pull.lane.is_some() || pull.begun);
        let stalls = begun.map(|pull| pull.progressed_ms.saturating_add(STALL_MS));
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
    fn lane_for(&mut self, writer: Writer, ahead: &[Writer]) -> Option<LaneId> {
        let pull = self.pulls.get(&writer)?;
        // Begun by hints.
        if pull.lane.is_some() {
            return pull.lane;
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
                (pull.uncovered, pull.outdated) = (false, false);
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

    /// Takes the lanes from pulls that nobody can go on with. Whether the store is to be asked about
    /// one of them, because something came that is not known.
    fn park(&mut self, providers: &BTreeMap<Writer, Vec<DeviceId>>) -> bool {
        let mut is_any_unchecked = false;
        for (writer, pull) in &mut self.pulls {
            let (Some(lane), Some(here)) = (pull.lane, providers.get(writer)) else { continue };
            if pull.phase != Phase::Pulling || self.fetcher.is_flying(lane) {
                continue;
            }
            match self.fetcher.status(lane, here) {
                LaneStatus::Unavailable(object) => {
                    let (_, asked) = pull.vain.get_or_insert((object, BTreeSet::new()));
                    asked.extend(here.iter().copied());
                    pull.lacking = Some(object);
                    self.reconciling.due(here);
                }
                // From now on it is waited for that somebody comes. What is missing of what was so
                // when the store was last asked is not known here.
                LaneStatus::Working if here.is_empty() => {
                    pull.progressed_ms = self.now_ms;
                    pull.lacking = None;
                }
                _ => continue,
            }
            self.fetcher.close(lane);
            pull.lane = None;
            pull.phase = if pull.outdated { Phase::Unchecked } else { Phase::Waiting(None) };
            is_any_unchecked |= pull.outdated;
        }
        is_any_unchecked
    }
}
