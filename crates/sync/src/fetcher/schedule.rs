//! Which requests are made: of whom, how large, for which lane first.

use std::collections::{BTreeMap, HashMap};

use ark_core::{DeviceId, Link};

use super::lane::LaneId;
use super::peer::Peer;
use super::{Fetcher, Request, STALL_MS, STRUCTURED_ESTIMATE};
use crate::effect::RequestId;

/// Links in a request: below the protocol's limit, so that a lost stream loses little and several
/// peers get their share.
pub(super) const LINKS_PER_REQUEST: usize = 256;
/// Bytes that a request asks for, as far as they can be estimated.
pub(super) const BYTES_PER_REQUEST: u64 = 8 << 20;
/// So few links are not divided over requests: an edit is one round trip.
const UNDIVIDED_LINKS: usize = 32;

/// What may be asked for, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mode {
    /// Nothing of the repo is here, so the first request is for the whole closure.
    pub(crate) cold: bool,
    /// Content is not asked for yet.
    pub(crate) structured_only: bool,
}

/// A request to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dispatch {
    /// Its id.
    pub(crate) id: RequestId,
    /// Whom to ask.
    pub(crate) peer: DeviceId,
    /// What for.
    pub(crate) links: Vec<Link>,
    /// Whether structured objects may follow unasked.
    pub(crate) ahead: bool,
    /// For which lane.
    pub(crate) lane: LaneId,
}

/// Who provides what a lane needs.
pub(crate) type Providers = BTreeMap<LaneId, Vec<DeviceId>>;

/// The request whose answer streams a closure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) id: RequestId,
    /// How often it brought something, and how often that had been when it was last looked at.
    pub(super) arrivals: u64,
    seen: u64,
    /// When it last moved.
    moved_ms: u64,
}

impl Stream {
    /// From when on it is not waited for, unless something comes.
    pub(super) fn stalls_at(&self) -> u64 {
        self.moved_ms.saturating_add(STALL_MS)
    }
}

impl Fetcher {
    /// Makes as many requests as there is work and room for.
    pub(crate) fn schedule(
        &mut self,
        providers: &Providers,
        mode: Mode,
        now_ms: u64,
    ) -> Vec<Dispatch> {
        if let Some(stream) = self.streaming.as_mut().filter(|it| it.seen != it.arrivals) {
            stream.seen = stream.arrivals;
            stream.moved_ms = now_ms;
        }
        let mut dispatches = Vec::new();
        let shares = self.shares(providers);
        loop {
            let before = dispatches.len();
            let peers: Vec<_> = self.peers.keys().copied().collect();
            for peer in peers {
                dispatches.extend(self.dispatch(peer, providers, &shares, mode, now_ms));
            }
            if dispatches.len() == before {
                return dispatches;
            }
        }
    }

    /// How many links one request of each lane takes, so that all free slots get some.
    fn shares(&self, providers: &Providers) -> HashMap<LaneId, usize> {
        let free = |peer: &DeviceId| self.peers.get(peer).map_or(0, Peer::free);
        let share = |(&lane, peers): (&LaneId, &Vec<DeviceId>)| {
            let slots = peers.iter().map(free).sum::<usize>().max(1);
            let each = self.lanes.queued(lane).div_ceil(slots);
            (lane, each.clamp(UNDIVIDED_LINKS, LINKS_PER_REQUEST))
        };
        providers.iter().map(share).collect()
    }

    /// The next request to `peer`, if it has room and any lane has work for it. The lane with the
    /// fewest objects on their way goes first, so that a small one is not behind a large one.
    fn dispatch(
        &mut self,
        peer: DeviceId,
        providers: &Providers,
        shares: &HashMap<LaneId, usize>,
        mode: Mode,
        now_ms: u64,
    ) -> Option<Dispatch> {
        let state = self.peers.get(&peer)?;
        if state.free() == 0 || state.paused_until_ms() > now_ms {
            return None;
        }
        let last_slot = state.is_last_slot();
        let mut lanes: Vec<_> = providers
            .iter()
            .filter(|(_, peers)| peers.contains(&peer))
            .map(|(&lane, _)| (self.lanes.flying(lane), lane))
            .collect();
        lanes.sort_unstable();
        for (flying, lane) in lanes {
            // The last slot is kept for what unfolds a closure, and for lanes that have nothing
            // under way: an edit does not wait for a bulk transfer.
            let reserved = mode.structured_only || last_slot && flying > 0;
            let share = shares.get(&lane).copied().unwrap_or(UNDIVIDED_LINKS);
            let id = RequestId(self.next_id);
            let first = mode.cold && self.requests.is_empty();
            let mut links = self.take(id, lane, peer, share, reserved || first, now_ms);
            let ahead = first && !links.is_empty();
            if links.is_empty() && first {
                links = self.take(id, lane, peer, share, reserved, now_ms);
            }
            if links.is_empty() {
                continue;
            }
            if ahead {
                self.streaming = Some(Stream { id, arrivals: 0, seen: 0, moved_ms: now_ms });
            }
            self.next_id += 1;
            self.peers.entry(peer).or_insert_with(Peer::new).begun();
            let asked = links.len();
            let request =
                Request { peer, lane, links: links.clone(), asked, ahead, brought: false };
            self.requests.insert(id, request);
            return Some(Dispatch { id, peer, links, ahead, lane });
        }
        None
    }

    /// Takes links for one request out of a lane's queues.
    fn take(
        &mut self,
        id: RequestId,
        lane: LaneId,
        peer: DeviceId,
        share: usize,
        structured_only: bool,
        now_ms: u64,
    ) -> Vec<Link> {
        let mut links = Vec::new();
        let mut bytes = 0;
        while links.len() < share && bytes < BYTES_PER_REQUEST {
            let structured = self.streaming.is_none_or(|stream| stream.stalls_at() <= now_ms);
            let Some(link) = self.lanes.pop(lane, peer, structured, !structured_only) else {
                break;
            };
            bytes +=
                if link.kind.is_structured() { STRUCTURED_ESTIMATE } else { self.raw_estimate };
            self.lanes.fly(link, id);
            links.push(link);
        }
        links
    }
}
