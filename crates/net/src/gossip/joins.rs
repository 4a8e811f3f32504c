//! Whom to ask into the overlay, and when: a schedule without clock, dice or wire of its own.
//!
//! iroh-gossip tries a join once and says nothing of its failure. So whoever is met is joined again
//! until it was a neighbour once, or while it is none and neighbours are few: however often that
//! fails, and boundedly, however often it comes and goes:
//! - a device once in [`REJOIN_INTERVAL`], whatever asks for it;
//! - beside those just met, whom a new life of iroh-gossip is told all at once, [`JOINS_AT_ONCE`]
//!   devices in a [`REJOIN_INTERVAL`], those first that were joined longest ago: none that cannot be
//!   reached keeps others out.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use ark_core::DeviceId;
use tokio::time::Instant;

use crate::session::SessionId;

/// The same device is joined again no sooner than this, and the overlay not looked at more often.
pub(super) const REJOIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is asked whether devices that are connected are missing in the overlay.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// With so many neighbours the overlay is left alone, but for those whom it never reached: it keeps
/// five at most.
const ENOUGH_NEIGHBOURS: usize = 3;
/// Devices joined at one look.
const JOINS_AT_ONCE: usize = 2;

/// Devices that the sync protocol is connected with, and in which session: another one means that
/// the device was met anew.
pub(crate) type Met = BTreeMap<DeviceId, SessionId>;

/// The joins of one repo, over all lives of iroh-gossip.
#[derive(Debug)]
pub(crate) struct Joins {
    met: Met,
    /// Those who were no neighbours since they were met: though there are enough others, these may
    /// all be on this side of a gap that only a join of one of them closes.
    unreached: BTreeSet<DeviceId>,
    /// When each was last joined.
    joined: BTreeMap<DeviceId, Instant>,
    look_at: Instant,
}

impl Joins {
    /// Nobody is met yet.
    pub(crate) const fn new(now: Instant) -> Self {
        let unreached = BTreeSet::new();
        Self { met: Met::new(), unreached, joined: BTreeMap::new(), look_at: now }
    }

    /// The sync protocol is connected with these from now on. Whom to join now; on those for whom it
    /// is too soon a look follows.
    pub(super) fn meet(&mut self, met: Met, now: Instant) -> Vec<DeviceId> {
        let before = mem::replace(&mut self.met, met);
        let is_anew = |device: &DeviceId| before.get(device) != self.met.get(device);
        let anew: Vec<DeviceId> = self.met.keys().copied().filter(is_anew).collect();
        self.unreached.retain(|device| self.met.contains_key(device));
        self.unreached.extend(&anew);
        self.take(anew, now)
    }

    /// This device is a neighbour.
    pub(super) fn reached(&mut self, device: DeviceId) {
        self.unreached.remove(&device);
    }

    /// iroh-gossip begins anew and knows nobody: whom it is told first.
    pub(super) fn begun(&mut self, now: Instant) -> Vec<DeviceId> {
        self.unreached = self.met.keys().copied().collect();
        let met = self.unreached.iter().copied().collect();
        self.take(met, now)
    }

    /// A neighbour is gone: others may have to take its place.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.look_at = self.look_at.min(now + REJOIN_INTERVAL);
    }

    /// When to call [`Joins::look`] next.
    pub(super) const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Whom to join so that those who are met are in the overlay, which has these neighbours here.
    /// `random` is uniform in `0.0..1.0`.
    pub(super) fn look(
        &mut self,
        neighbours: &BTreeSet<DeviceId>,
        now: Instant,
        random: f64,
    ) -> Vec<DeviceId> {
        self.look_at = now + LOOK_INTERVAL.mul_f64(random.mul_add(0.5, 0.75));
        // Of those that are gone only what bounds them is kept.
        self.joined.retain(|device, at| self.met.contains_key(device) || is_recent(*at, now));
        self.unreached.retain(|device| !neighbours.contains(device));
        let mut missing: Vec<DeviceId> = if neighbours.len() < ENOUGH_NEIGHBOURS {
            self.met.keys().filter(|device| !neighbours.contains(device)).copied().collect()
        } else {
            self.unreached.iter().copied().collect()
        };
        missing.sort_by_key(|device| self.joined.get(device).copied());
        missing.truncate(JOINS_AT_ONCE);
        self.take(missing, now)
    }

    /// Those of `devices` that may be joined now; they count as joined. A look follows soon on the
    /// others.
    fn take(&mut self, mut devices: Vec<DeviceId>, now: Instant) -> Vec<DeviceId> {
        let asked = devices.len();
        devices.retain(|device| !self.joined.get(device).is_some_and(|&at| is_recent(at, now)));
        if devices.len() < asked {
            self.look_soon(now);
        }
        self.joined.extend(devices.iter().map(|&device| (device, now)));
        devices
    }
}

fn is_recent(joined: Instant, now: Instant) -> bool {
    now.saturating_duration_since(joined) < REJOIN_INTERVAL
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the clock goes between two things that happen.
    const STEP: Duration = Duration::from_millis(10);

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 32])
    }

    /// These are met, beside those who are, each in a session of its own.
    fn meet(
        joins: &mut Joins,
        devices: impl IntoIterator<Item = DeviceId>,
        now: Instant,
    ) -> Vec<DeviceId> {
        let mut met = joins.met.clone();
        met.extend(devices.into_iter().map(|device| (device, SessionId::next())));
        joins.meet(met, now)
    }

    /// One is met no more.
    fn lose(joins: &mut Joins, device: DeviceId, now: Instant) {
        let mut met = joins.met.clone();
        met.remove(&device);
        assert!(joins.meet(met, now).is_empty());
    }

    /// All joins, in order of time.
    #[derive(Default)]
    struct Counted(Vec<(Instant, DeviceId)>);

    impl Counted {
        fn add(&mut self, now: Instant, devices: impl IntoIterator<Item = DeviceId>) {
            self.0.extend(devices.into_iter().map(|device| (now, device)));
        }

        fn of(&self, device: DeviceId) -> Vec<Instant> {
            self.0.iter().filter(|join| join.1 == device).map(|join| join.0).collect()
        }

        /// None twice within the interval.
        fn assert_bounded(&self) {
            let devices: BTreeSet<DeviceId> = self.0.iter().map(|join| join.1).collect();
            for device in devices {
                for pair in self.of(device).windows(2) {
                    assert!(pair[1] - pair[0] >= REJOIN_INTERVAL, "{device}: {pair:?}");
                }
            }
        }
    }

    #[test]
    fn who_comes_and_goes_is_joined_boundedly_and_again_and_again() {
        let start = Instant::now();
        let (mut joins, mut counted) = (Joins::new(start), Counted::default());
        let devices = [1, 2, 3].map(device);
        let steps = 6_000;
        for step in 0..steps {
            let now = start + STEP * step;
            // Each comes and goes, neighbours go, and iroh-gossip ends and begins, all the time.
            for device in devices {
                counted.add(now, meet(&mut joins, [device], now));
            }
            joins.look_soon(now);
            if step % 100 == 0 {
                counted.add(now, joins.begun(now));
            }
            if joins.look_at() <= now {
                counted.add(now, joins.look(&BTreeSet::new(), now, 0.5));
            }
            lose(&mut joins, devices[step as usize % 3], now);
        }
        counted.assert_bounded();
        let most = (STEP * steps).as_secs() / REJOIN_INTERVAL.as_secs() + 1;
        for device in devices {
            let joined = counted.of(device).len() as u64;
            assert!((most / 2..=most).contains(&joined), "{joined} joins, not {most}");
        }
    }

    #[test]
    fn looks_are_bounded_and_join_few() {
        let start = Instant::now();
        let (mut joins, mut looks) = (Joins::new(start), 0);
        // None is left out, however many come at once.
        let all: Vec<DeviceId> = (0..100).map(device).collect();
        assert_eq!(meet(&mut joins, all.clone(), start), all);
        let steps = 6_000;
        for step in 0..steps {
            let now = start + STEP * step;
            joins.look_soon(now);
            if joins.look_at() <= now {
                looks += 1;
                assert!(joins.look(&BTreeSet::new(), now, 0.0).len() <= JOINS_AT_ONCE);
            }
        }
        assert!(looks <= (STEP * steps).as_secs() / REJOIN_INTERVAL.as_secs() + 1, "{looks} looks");
        // Where nothing happens they are rare.
        assert!(joins.look_at() - start <= STEP * steps + REJOIN_INTERVAL);
        let now = start + STEP * steps;
        joins.look(&BTreeSet::new(), now, 0.0);
        assert!(joins.look_at() - now > 2 * REJOIN_INTERVAL);
    }

    #[test]
    fn none_that_cannot_be_reached_keeps_others_out() {
        let mut now = Instant::now();
        let (mut joins, mut counted) = (Joins::new(now), Counted::default());
        let devices: Vec<DeviceId> = (0..9).map(device).collect();
        for &device in &devices {
            counted.add(now, meet(&mut joins, [device], now));
        }
        // Nobody comes; after so many looks each was joined again.
        for _ in 0..devices.len().div_ceil(JOINS_AT_ONCE) {
            now = joins.look_at().max(now + REJOIN_INTERVAL);
            counted.add(now, joins.look(&BTreeSet::new(), now, 0.9));
        }
        counted.assert_bounded();
        for device in devices {
            assert!(counted.of(device).len() >= 2, "{device}");
        }
    }

    #[test]
    fn what_comes_too_soon_is_made_good() {
        let now = Instant::now();
        let mut joins = Joins::new(now);
        joins.look(&BTreeSet::new(), now, 0.5);
        assert_eq!(meet(&mut joins, [device(1)], now), [device(1)]);
        assert!(meet(&mut joins, [device(1)], now).is_empty());
        assert!(joins.begun(now).is_empty());
        let soon = joins.look_at();
        assert_eq!(soon, now + REJOIN_INTERVAL);
        assert_eq!(joins.look(&BTreeSet::new(), soon, 0.5), [device(1)]);
        // Those who are there, and those who are gone, are not asked for.
        let later = joins.look_at();
        assert!(joins.look(&BTreeSet::from([device(1)]), later, 0.5).is_empty());
        let later = joins.look_at();
        let enough = (2..5).map(device).collect();
        assert!(joins.look(&enough, later, 0.5).is_empty());
        lose(&mut joins, device(1), later);
        let later = joins.look_at();
        assert!(joins.look(&BTreeSet::new(), later, 0.5).is_empty());
        assert!(joins.joined.is_empty(), "nothing is remembered of who is gone");
    }

    #[test]
    fn who_was_never_reached_is_joined_though_there_are_enough_others() {
        let mut now = Instant::now();
        let mut joins = Joins::new(now);
        let others: BTreeSet<DeviceId> = (1..9).map(device).take(ENOUGH_NEIGHBOURS).collect();
        let beyond = device(9);
        meet(&mut joins, others.iter().copied().chain([beyond]), now);
        // Its joins fail.
        for _ in 0..5 {
            now = joins.look_at().max(now + REJOIN_INTERVAL);
            assert_eq!(joins.look(&others, now, 0.5), [beyond]);
        }
        let look = |joins: &mut Joins| {
            let now = joins.look_at();
            (joins.look(&others, now, 0.5), now)
        };
        // Once it was a neighbour, the overlay does without.
        joins.reached(beyond);
        let (joined, now) = look(&mut joins);
        assert!(joined.is_empty());
        // What stands is no new meeting.
        assert!(joins.meet(joins.met.clone(), now).is_empty());
        assert!(look(&mut joins).0.is_empty());
        // It may be beyond a gap again: it is met anew, though nobody saw it go.
        let now = joins.look_at();
        assert_eq!(meet(&mut joins, [beyond], now), [beyond]);
        assert_eq!(joins.look(&others, now + REJOIN_INTERVAL, 0.5), [beyond]);
        // So are all, when iroh-gossip begins anew.
        joins.reached(beyond);
        assert!(look(&mut joins).0.is_empty());
        let now = joins.look_at();
        joins.begun(now);
        assert_eq!(joins.look(&others, now + REJOIN_INTERVAL, 0.5), [beyond]);
        // Who is gone is not asked for.
        lose(&mut joins, beyond, now);
        assert!(look(&mut joins).0.is_empty());
    }
}
