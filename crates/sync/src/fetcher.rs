//! Which object is asked of whom, and when. Nothing is asked for twice at once, and nothing that
//! was stored is asked for again.
//!
//! A *lane* is what one staged state needs; lanes share what both need. Requests belong to the
//! lane that made them: what their objects link is wanted by that lane. Where that leaves out
//! another lane which needs the same, its join says so. Structured objects go before raw ones,
//! so that closures unfold early.

mod lane;
mod peer;
mod remembered;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ark_core::{DeviceId, Link, ObjectId};

use self::lane::Lanes;
use self::peer::Peer;
use self::remembered::Remembered;
use self::schedule::Stream;
use crate::effect::RequestId;
use crate::view::Amount;

pub(crate) use self::lane::LaneId;
pub(crate) use self::schedule::{Mode, Providers};

/// The most objects wanted at once, flying ones included; so many can be named by the store when
/// it says what is missing. What does not fit is found again by the join, when few of these are
/// left.
pub const MAX_WANTED: usize = 1 << 18;
/// How many of the objects stored last are remembered at least: more than can be on their way
/// through the store while it works out what else is missing.
const REMEMBERED: usize = 1 << 16;
/// What a structured object is taken to have: nodes of search trees are a few kilobytes.
const STRUCTURED_ESTIMATE: u64 = 8 << 10;
/// What a raw object is taken to have before any was seen.
const RAW_ESTIMATE: u64 = 64 << 10;
/// The estimate moves towards what is seen by one part in this many.
const ESTIMATE_INERTIA: u64 = 16;

/// What nothing came for in so long is not waited for by others.
pub(crate) const STALL_MS: u64 = 10_000;

/// A point in the order in which objects were stored, to tell what the store may have overlooked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Moment(u64);

/// Who says that something is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// An announcement, unsigned: whoever asks in vain forgets it.
    Hinted,
    /// An object links it.
    Linked,
    /// The store, which was asked at this moment: what was stored before and is missing all the
    /// same is needed again.
    Missing(Moment),
}

/// What became of a wish for objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wished {
    /// Objects that the lane now waits for.
    pub(crate) awaited: usize,
    /// Objects that were stored lately, and not seen by who says that they are needed.
    pub(crate) stored: usize,
}

/// Where a lane stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LaneStatus {
    /// Nothing is awaited.
    Drained,
    /// Objects are on their way, or will be asked for.
    Working,
    /// Every provider answered that it does not have this object.
    Unavailable(ObjectId),
}

/// What the arrival of objects meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Arrival {
    /// The lane that the request was made for, while it is open.
    pub(crate) lane: Option<LaneId>,
    /// What came.
    pub(crate) amount: Amount,
    /// Lanes that cannot do without an object that was rejected.
    pub(crate) broken: Vec<LaneId>,
}

#[derive(Debug)]
struct Request {
    peer: DeviceId,
    lane: LaneId,
    /// What was asked for, then what is expected ahead.
    links: Vec<Link>,
    asked: usize,
    ahead: bool,
    /// Whether anything that it brought was stored.
    brought: bool,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Fetcher {
    lanes: Lanes,
    requests: BTreeMap<RequestId, Request>,
    peers: BTreeMap<DeviceId, Peer>,
    stored: Remembered<Link>,
    /// Counts the answers of the store.
    moment: u64,
    next_id: u64,
    /// The request whose answer streams a closure: structured objects are left to it while it
    /// moves.
    streaming: Option<Stream>,
    raw_estimate: u64,
    /// Objects that providers did not have.
    pub(crate) refused: u64,
}

impl Fetcher {
    /// Nothing wanted, nobody to ask.
    pub(crate) fn new() -> Self {
        Self {
            lanes: Lanes::default(),
            requests: BTreeMap::new(),
            peers: BTreeMap::new(),
            stored: Remembered::new(REMEMBERED),
            moment: 0,
            next_id: 1,
            streaming: None,
            raw_estimate: RAW_ESTIMATE,
            refused: 0,
        }
    }

    /// A peer can be asked.
    pub(crate) fn connected(&mut self, peer: DeviceId) {
        self.peers.entry(peer).or_insert_with(Peer::new);
        self.lanes.forgive(Some(peer));
    }

    /// A peer cannot be asked any more: what it was asked for is wanted again. The requests that
    /// it had.
    pub(crate) fn disconnected(&mut self, peer: DeviceId) -> Vec<RequestId> {
        let ids: Vec<_> = self
            .requests
            .iter()
            .filter_map(|(id, request)| (request.peer == peer).then_some(*id))
            .collect();
        for &id in &ids {
            self.release(id, |_, _| Released::Again);
        }
        self.peers.remove(&peer);
        ids
    }

    /// Asks everybody again for what they did not have.
    pub(crate) fn forgive_all(&mut self) {
        self.lanes.forgive(None);
    }

    /// Whether a lane is free.
    pub(crate) fn has_room(&self) -> bool {
        self.lanes.has_room()
    }

    /// Opens a lane, if one is free.
    pub(crate) fn open(&mut self) -> Option<LaneId> {
        self.lanes.open()
    }

    /// Closes a lane: what only it wanted is wanted no more.
    pub(crate) fn close(&mut self, lane: LaneId) {
        self.lanes.close(lane);
    }

    /// Nothing is staged: nothing that the store said is older than what was stored. What was
    /// stored need not be remembered, and in time it may be collected.
    pub(crate) fn forget(&mut self) {
        self.stored.clear();
    }

    /// The moment of now.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.moment)
    }

    /// `lane` needs `links`.
    pub(crate) fn want(&mut self, lane: LaneId, links: &[Link], need: Need) -> Wished {
        let mut wished = Wished::default();
        for &link in links {
            let is_overlooked = match (self.stored.get(&link), need) {
                (None, _) => false,
                (Some(_), Need::Hinted | Need::Linked) => true,
                (Some(moment), Need::Missing(asked)) => moment > asked.0,
            };
            if is_overlooked {
                wished.stored += 1;
                continue;
            }
            self.stored.remove(&link);
            if self.lanes.want(lane, link, need == Need::Hinted) {
                wished.awaited += 1;
            }
        }
        if links.len() >= MAX_WANTED {
            self.lanes.set_more(lane, true);
        }
        wished
    }

    /// Whether it is time to ask the store what else is missing for a lane. If so, it is taken to
    /// be asked.
    pub(crate) fn ask_more(&mut self, lane: LaneId) -> bool {
        let is_low = self.lanes.is_low(lane);
        if is_low {
            self.lanes.set_more(lane, false);
        }
        is_low
    }

    /// Objects of a request were stored, and link `next`.
    pub(crate) fn stored(
        &mut self,
        id: RequestId,
        received: &[(Link, u32)],
        next: &[Link],
        rejected: &[Link],
    ) -> Arrival {
        let mut arrival = Arrival::default();
        self.moment += 1;
        for &(link, length) in received {
            arrival.amount = arrival.amount.plus(Amount { objects: 1, bytes: u64::from(length) });
            if !link.kind.is_structured() {
                let seen = u64::from(length) / ESTIMATE_INERTIA;
                self.raw_estimate += seen;
                self.raw_estimate -= self.raw_estimate / ESTIMATE_INERTIA;
            }
            self.lanes.remove(link);
            self.stored.insert(link, self.moment);
        }
        for &link in rejected {
            if let Some(wanted) = self.lanes.remove(link).filter(|wanted| !wanted.hinted) {
                arrival.broken.extend(self.lanes.of(wanted.lanes));
            }
        }
        if let Some(stream) = self.streaming.as_mut().filter(|stream| stream.id == id) {
            stream.arrivals += u64::from(!received.is_empty());
        }
        if let Some(request) = self.requests.get_mut(&id) {
            request.brought = true;
            if let Some(peer) = self.peers.get_mut(&request.peer) {
                peer.brought();
            }
            let lane = request.lane;
            if self.lanes.is_open(lane) {
                arrival.lane = Some(lane);
                self.unfold(id, lane, next);
            }
        }
        arrival
    }

    /// Objects are here without having been received.
    pub(crate) fn found(&mut self, links: &[Link]) {
        self.moment += 1;
        for &link in links {
            self.lanes.remove(link);
            self.stored.insert(link, self.moment);
        }
    }

    /// Whether an object came after `asked`, or may have.
    pub(crate) fn may_have_come(&self, link: Link, asked: Moment) -> bool {
        self.stored.may_have_come(&link, asked.0)
    }

    /// What the objects of a request link is wanted, unless the same answer brings it.
    fn unfold(&mut self, id: RequestId, lane: LaneId, next: &[Link]) {
        self.want(lane, next, Need::Linked);
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.ahead) else {
            return;
        };
        for &link in next.iter().filter(|link| link.kind.is_structured()) {
            if self.lanes.fly(link, id) {
                request.links.push(link);
            }
        }
    }

    /// A request was answered whole; the peer does not have `missing`.
    pub(crate) fn ended(&mut self, id: RequestId, missing: &[Link]) {
        self.refused += missing.len() as u64;
        // What was asked for and neither stored nor missing was not answered: the same to us.
        self.release(
            id,
            |at, request| {
                if at < request.asked { Released::Refused } else { Released::Again }
            },
        );
    }

    /// A request broke: its peer is left alone for a while, and asked less at once if not even
    /// one object came.
    pub(crate) fn failed(&mut self, id: RequestId, now_ms: u64) -> Option<DeviceId> {
        let brought = self.requests.get(&id).is_some_and(|request| request.brought);
        let peer = self.release(id, |_, _| Released::Again)?;
        self.peers.get_mut(&peer)?.failed(brought, now_ms);
        Some(peer)
    }

    /// A request was answered with what was not asked: what is left of it is asked of others.
    pub(crate) fn violated(&mut self, id: RequestId) -> Option<DeviceId> {
        self.release(id, |_, _| Released::Refused)
    }

    /// The store could not keep what a request brought: nobody's fault.
    pub(crate) fn unkept(&mut self, id: RequestId) {
        self.release(id, |_, _| Released::Again);
    }

    /// Ends a request; what of it did not come goes where `fate` says.
    fn release(
        &mut self,
        id: RequestId,
        fate: impl Fn(usize, &Request) -> Released,
    ) -> Option<DeviceId> {
        let request = self.requests.remove(&id)?;
        self.streaming = self.streaming.filter(|stream| stream.id != id);
        if let Some(peer) = self.peers.get_mut(&request.peer) {
            peer.ended();
        }
        // Backwards, because what is asked for again goes to the front.
        for (at, &link) in request.links.iter().enumerate().rev() {
            match fate(at, &request) {
                Released::Again => self.lanes.land(link, id, None),
                Released::Refused => self.lanes.land(link, id, Some(request.peer)),
            }
        }
        Some(request.peer)
    }

    /// Where a lane stands, if these can be asked.
    pub(crate) fn status(&mut self, lane: LaneId, providers: &[DeviceId]) -> LaneStatus {
        self.lanes.status(lane, providers)
    }

    /// Whether anything is on its way for a lane.
    pub(crate) fn is_flying(&self, lane: LaneId) -> bool {
        self.lanes.flying(lane) > 0
    }

    /// How many requests are under way.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// What is wanted and not here; bytes are estimated.
    pub(crate) fn missing(&self) -> Amount {
        let (structured, raw) = self.lanes.wanted();
        let bytes = (structured as u64 * STRUCTURED_ESTIMATE)
            .saturating_add((raw as u64).saturating_mul(self.raw_estimate));
        Amount { objects: (structured + raw) as u64, bytes }
    }

    /// When a peer may be asked again that is left alone until then.
    pub(crate) fn wake_at(&self, now_ms: u64) -> Option<u64> {
        if self.lanes.is_empty() {
            return None;
        }
        let stalls = self.streaming.as_ref().map(Stream::stalls_at);
        let pauses = self.peers.values().map(Peer::paused_until_ms);
        pauses.chain(stalls).filter(|&at| at > now_ms).min()
    }
}

/// What becomes of an object that a request did not bring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Released {
    /// It is asked for again, of anybody.
    Again,
    /// It is asked for again, of others.
    Refused,
}
