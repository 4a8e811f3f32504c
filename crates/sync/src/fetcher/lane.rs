//! The table of wanted objects and the lanes that wait for them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ark_core::{DeviceId, Link};

use super::{LaneStatus, MAX_WANTED};
use crate::effect::RequestId;

/// The most lanes at once: one bit each in [`Wanted::lanes`]. States beyond wait their turn.
pub(crate) const MAX_LANES: usize = 32;

/// What a lane may wait for even if too much is wanted in all: so each gets on.
const ALWAYS_AWAITED: usize = 64;

/// A lane that awaits fewer objects than this, of more that are missing, is filled up: while the
/// store works out what is missing, the line has work for a while.
const LOW_WATER: usize = 8 * 1024;

/// Names a lane, for the life of the fetcher.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LaneId(u64);

/// Where a wanted object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the queue of each lane that waits for it.
    Queued,
    /// Asked for.
    Flying(RequestId),
}

/// A wanted object.
#[derive(Debug)]
pub(super) struct Wanted {
    /// A bit for the slot of each lane that waits. None: the lane was closed while it flew.
    pub(super) lanes: u32,
    place: Place,
    /// Only an announcement says that it is needed.
    pub(super) hinted: bool,
    /// Peers that do not have it.
    refused: Vec<DeviceId>,
}

#[derive(Debug)]
struct Lane {
    slot: usize,
    structured: VecDeque<Link>,
    raw: VecDeque<Link>,
    /// Objects that somebody did not have.
    difficult: VecDeque<Link>,
    awaited: usize,
    flying: usize,
    /// More is missing than is awaited, as far as is known.
    more: bool,
}

/// All lanes. Queues may hold links that are queued no more: those are skipped.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    wanted: HashMap<Link, Wanted>,
    structured: usize,
    open: BTreeMap<LaneId, Lane>,
    slots: [Option<LaneId>; MAX_LANES],
    next_id: u64,
}

impl Lanes {
    /// Whether a slot is free.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < MAX_LANES
    }

    /// Opens a lane, if a slot is free.
    pub(super) fn open(&mut self) -> Option<LaneId> {
        let slot = self.slots.iter().position(Option::is_none)?;
        let id = LaneId(self.next_id);
        self.next_id += 1;
        self.slots[slot] = Some(id);
        let lane = Lane {
            slot,
            structured: VecDeque::new(),
            raw: VecDeque::new(),
            difficult: VecDeque::new(),
            awaited: 0,
            flying: 0,
            more: false,
        };
        self.open.insert(id, lane);
        Some(id)
    }

    /// Closes a lane. What flies only for it is kept until it lands, so that it is not asked for
    /// twice.
    pub(super) fn close(&mut self, id: LaneId) {
        let Some(lane) = self.open.remove(&id) else { return };
        self.slots[lane.slot] = None;
        if lane.awaited == 0 {
            return self.give_back();
        }
        let bit = 1 << lane.slot;
        let structured = &mut self.structured;
        self.wanted.retain(|link, wanted| {
            wanted.lanes &= !bit;
            let keep = wanted.lanes != 0 || wanted.place != Place::Queued;
            *structured -= usize::from(!keep && link.kind.is_structured());
            keep
        });
        self.give_back();
    }

    /// Once a table of many objects is empty its memory is of no more use.
    fn give_back(&mut self) {
        if self.wanted.is_empty() {
            self.wanted = HashMap::new();
        }
    }

    /// Whether no lane is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a lane is open.
    pub(super) fn is_open(&self, id: LaneId) -> bool {
        self.open.contains_key(&id)
    }

    /// The lanes of these bits.
    pub(super) fn of(&self, bits: u32) -> impl Iterator<Item = LaneId> + '_ {
        (0..MAX_LANES).filter(move |slot| bits >> slot & 1 == 1).filter_map(|slot| self.slots[slot])
    }

    /// How many structured and how many raw objects are wanted.
    pub(super) fn wanted(&self) -> (usize, usize) {
        (self.structured, self.wanted.len() - self.structured)
    }

    /// How many links are in a lane's queues, about.
    pub(super) fn queued(&self, id: LaneId) -> usize {
        let count = |lane: &Lane| lane.structured.len() + lane.raw.len() + lane.difficult.len();
        self.open.get(&id).map_or(0, count)
    }

    /// How many objects are on their way for a lane.
    pub(super) fn flying(&self, id: LaneId) -> usize {
        self.open.get(&id).map_or(0, |lane| lane.flying)
    }

    /// Notes whether more is missing for a lane than it awaits.
    pub(super) fn set_more(&mut self, id: LaneId, more: bool) {
        if let Some(lane) = self.open.get_mut(&id) {
            lane.more = more;
        }
    }

    /// Whether a lane awaits so little that it is time to ask what else is missing for it. What
    /// there is no room for need not be asked for.
    pub(super) fn is_low(&self, id: LaneId) -> bool {
        let has_room = self.wanted.len() + LOW_WATER <= MAX_WANTED;
        self.open.get(&id).is_none_or(|lane| {
            lane.awaited == 0 || (lane.more && has_room && lane.awaited < LOW_WATER)
        })
    }

    /// Lets a lane wait for an object. Whether it does: no if too many are wanted already.
    pub(super) fn want(&mut self, id: LaneId, link: Link, hinted: bool) -> bool {
        let Some(lane) = self.open.get_mut(&id) else { return false };
        let bit = 1 << lane.slot;
        if let Some(wanted) = self.wanted.get_mut(&link) {
            wanted.hinted &= hinted;
            if wanted.lanes & bit != 0 {
                return true;
            }
            wanted.lanes |= bit;
            lane.awaited += 1;
            match wanted.place {
                Place::Flying(_) => lane.flying += 1,
                Place::Queued => lane.queue(link, !wanted.refused.is_empty(), false),
            }
            return true;
        }
        if self.wanted.len() >= MAX_WANTED && lane.awaited >= ALWAYS_AWAITED {
            lane.more = true;
            return false;
        }
        let wanted = Wanted { lanes: bit, place: Place::Queued, hinted, refused: Vec::new() };
        self.wanted.insert(link, wanted);
        self.structured += usize::from(link.kind.is_structured());
        lane.awaited += 1;
        lane.queue(link, false, false);
        true
    }

    /// Calls `act` on each lane of these bits.
    fn each(&mut self, bits: u32, mut act: impl FnMut(&mut Lane)) {
        for lane in self.open.values_mut().filter(|lane| bits >> lane.slot & 1 == 1) {
            act(lane);
        }
    }

    /// An object is wanted no more: it is here, or will never be.
    pub(super) fn remove(&mut self, link: Link) -> Option<Wanted> {
        let wanted = self.wanted.remove(&link)?;
        self.structured -= usize::from(link.kind.is_structured());
        let flew = usize::from(wanted.place != Place::Queued);
        self.each(wanted.lanes, |lane| {
            lane.awaited -= 1;
            lane.flying -= flew;
        });
        Some(wanted)
    }

    /// A queued object is asked for. Whether it was queued.
    pub(super) fn fly(&mut self, link: Link, id: RequestId) -> bool {
        let Some(wanted) = self.wanted.get_mut(&link) else { return false };
        if wanted.place != Place::Queued {
            return false;
        }
        wanted.place = Place::Flying(id);
        let bits = wanted.lanes;
        self.each(bits, |lane| lane.flying += 1);
        true
    }

    /// An object that request `id` was to bring did not come: it is queued again, at the front;
    /// not for `refused_by`, if somebody does not have it.
    pub(super) fn land(&mut self, link: Link, id: RequestId, refused_by: Option<DeviceId>) {
        let Some(wanted) = self.wanted.get_mut(&link) else { return };
        if wanted.place != Place::Flying(id) {
            return;
        }
        if wanted.lanes == 0 || (wanted.hinted && refused_by.is_some()) {
            self.remove(link);
            return;
        }
        wanted.place = Place::Queued;
        if let Some(peer) = refused_by.filter(|peer| !wanted.refused.contains(peer)) {
            wanted.refused.push(peer);
        }
        let (bits, difficult) = (wanted.lanes, !wanted.refused.is_empty());
        self.each(bits, |lane| {
            lane.flying -= 1;
            lane.queue(link, difficult, true);
        });
    }

    /// Forgets who did not have what: all of it, or what one peer did not have.
    pub(super) fn forgive(&mut self, peer: Option<DeviceId>) {
        let Self { wanted, open, .. } = self;
        for lane in open.values_mut() {
            for link in std::mem::take(&mut lane.difficult) {
                let Some(wanted) = wanted.get_mut(&link) else { continue };
                match peer {
                    Some(peer) => wanted.refused.retain(|other| *other != peer),
                    None => wanted.refused.clear(),
                }
                if wanted.place == Place::Queued {
                    lane.queue(link, !wanted.refused.is_empty(), true);
                }
            }
        }
    }

    /// Takes the next object that `peer` may be asked for out of a lane's queues: what others did
    /// not have first, then structured, then raw.
    pub(super) fn pop(
        &mut self,
        id: LaneId,
        peer: DeviceId,
        structured: bool,
        raw: bool,
    ) -> Option<Link> {
        let Self { wanted, open, .. } = self;
        let lane = open.get_mut(&id)?;
        let allowed = |link: &Link| if link.kind.is_structured() { structured } else { raw };
        for _ in 0..lane.difficult.len() {
            let Some(link) = lane.difficult.pop_front() else { break };
            match wanted.get(&link).filter(|wanted| wanted.place == Place::Queued) {
                None => {}
                Some(wanted) if allowed(&link) && !wanted.refused.contains(&peer) => {
                    return Some(link);
                }
                Some(_) => lane.difficult.push_back(link),
            }
        }
        let easy = |link: &Link| {
            wanted
                .get(link)
                .is_some_and(|wanted| wanted.place == Place::Queued && wanted.refused.is_empty())
        };
        let queues = [(&mut lane.structured, structured), (&mut lane.raw, raw)];
        for (queue, _) in queues.into_iter().filter(|(_, allowed)| *allowed) {
            while let Some(link) = queue.pop_front() {
                if easy(&link) {
                    return Some(link);
                }
            }
        }
        None
    }

    /// Where a lane stands, if these can be asked.
    pub(super) fn status(&mut self, id: LaneId, providers: &[DeviceId]) -> LaneStatus {
        let Self { wanted, open, .. } = self;
        let Some(lane) = open.get_mut(&id).filter(|lane| lane.awaited > 0) else {
            return LaneStatus::Drained;
        };
        let unavailable = |link: &&Link| {
            let queued = wanted.get(link).filter(|wanted| wanted.place == Place::Queued);
            queued.is_some_and(|wanted| providers.iter().all(|peer| wanted.refused.contains(peer)))
        };
        match lane.difficult.iter().find(unavailable) {
            Some(link) if !providers.is_empty() => LaneStatus::Unavailable(link.id),
            _ => LaneStatus::Working,
        }
    }
}

impl Lane {
    fn queue(&mut self, link: Link, difficult: bool, front: bool) {
        let queue = match (difficult, link.kind.is_structured()) {
            (true, _) => &mut self.difficult,
            (false, true) => &mut self.structured,
            (false, false) => &mut self.raw,
        };
        if front { queue.push_front(link) } else { queue.push_back(link) }
    }
}
