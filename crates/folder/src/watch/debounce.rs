//! When a changed path is taken up: at once if its change is complete, else when it is quiet,
//! and never more often than it is worth. Pure: the clock is passed in.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ark_core::RelPath;

use crate::scan::Extent;

/// How long complete changes wait for more of the same act (the two halves of a rename, the
/// files of one `git checkout`). It is part of every edit's latency.
pub const COALESCE: Duration = Duration::from_millis(2);
/// A file that is never quiet is taken up after this long all the same.
pub const MAX_HOLD: Duration = Duration::from_secs(2);
/// The least time between two complete changes of one path: twenty a second.
pub const COMPLETE_GAP: Duration = Duration::from_millis(50);
/// The least time between two incomplete changes of one path, at first; it doubles each time.
pub const FIRST_OPEN_GAP: Duration = Duration::from_millis(250);
/// What the gap between incomplete changes of one path grows to.
pub const MAX_OPEN_GAP: Duration = Duration::from_secs(10);
/// A path that was not taken up for this long begins anew with the least gap.
const RATE_MEMORY: Duration = Duration::from_secs(20);
/// The most paths whose rate is remembered; others go at full rate until some are forgotten.
const MAX_RATES: usize = 4096;
/// The most paths pending (some 10 MB); beyond it a full scan is cheaper and says the same.
pub const MAX_PENDING: usize = 50_000;

/// What a scan is to do about a path. Of two, the greater does for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Touch {
    /// Something happened to it: compare its stat.
    Changed,
    /// It was closed after writing: mistrust an unchanged stat if the change is recent.
    Written,
    /// A directory that has to be walked whole.
    Subtree,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Written or created, and perhaps still open, or its attributes changed.
    Modified,
    /// Closed after writing.
    Closed,
    /// Renamed from or to this name, or removed.
    Replaced,
    /// A directory made here or moved here.
    NewDirectory,
}

/// Collects signals and gives out the paths that are due. Times are counted from any one moment.
#[derive(Debug)]
pub struct Debounce {
    quiet_period: Duration,
    pending: BTreeMap<RelPath, Pending>,
    /// Whether everything has to be looked at, which is due at once.
    everything: bool,
    rates: HashMap<RelPath, Rate>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    touch: Touch,
    first: Duration,
    due: Duration,
    /// Whether the change is complete, so that later writes do not put it off.
    complete: bool,
}

/// When a path was last given out and how long it has to rest.
#[derive(Debug, Clone, Copy)]
struct Rate {
    last: Duration,
    complete_gap: Duration,
    open_gap: Duration,
}

impl Debounce {
    /// Nothing pending. An incomplete change is due when nothing came for `quiet_period`.
    pub fn new(quiet_period: Duration) -> Self {
        Self { quiet_period, pending: BTreeMap::new(), everything: false, rates: HashMap::new() }
    }

    /// Takes note of what happened to `path`.
    pub fn event(&mut self, path: RelPath, signal: Signal, now: Duration) {
        if self.everything {
            return;
        }
        let rate = self.rates.get(&path);
        let (touch, complete) = match signal {
            Signal::Modified => (Touch::Changed, false),
            Signal::Closed => (Touch::Written, true),
            Signal::Replaced => (Touch::Changed, true),
            Signal::NewDirectory => (Touch::Subtree, true),
        };
        let known = self.pending.get(&path).copied();
        let first = known.map_or(now, |known| known.first);
        let due = if complete {
            (now + COALESCE).max(rate.map_or(now, |rate| rate.last + rate.complete_gap))
        } else {
            let quiet = (now + self.quiet_period).min(first + MAX_HOLD.max(self.quiet_period));
            quiet.max(rate.map_or(now, |rate| rate.last + rate.open_gap))
        };
        let pending = match known {
            None => Pending { touch, first, due, complete },
            Some(known) => Pending {
                touch: known.touch.max(touch),
                first,
                due: match (known.complete, complete) {
                    (false, false) => due,
                    (true, false) => known.due,
                    (_, true) => due.min(known.due),
                },
                complete: known.complete || complete,
            },
        };
        self.pending.insert(path, pending);
        if self.pending.len() > MAX_PENDING {
            self.everything();
        }
    }

    /// Everything has to be looked at: single paths need no more remembering.
    pub fn everything(&mut self) {
        self.pending.clear();
        self.everything = true;
    }

    /// Gives out what is due, once.
    pub fn due(&mut self, now: Duration) -> Option<Extent> {
        self.take(now, |pending| pending.due <= now)
    }

    /// Gives out all that is pending, due or not.
    pub fn take_all(&mut self, now: Duration) -> Option<Extent> {
        self.take(now, |_| true)
    }

    /// When something is due next, if anything is pending.
    pub fn next_due(&self) -> Option<Duration> {
        if self.everything {
            return Some(Duration::ZERO);
        }
        self.pending.values().map(|pending| pending.due).min()
    }

    fn take(&mut self, now: Duration, take: impl Fn(&Pending) -> bool) -> Option<Extent> {
        if std::mem::take(&mut self.everything) {
            return Some(Extent::Everything);
        }
        let due: BTreeMap<_, _> = self.pending.extract_if(.., |_, pending| take(pending)).collect();
        self.rates.retain(|_, rate| now.saturating_sub(rate.last) < RATE_MEMORY);
        for (path, pending) in &due {
            self.rest(path, pending.complete, now);
        }
        let paths: BTreeMap<_, _> =
            due.into_iter().map(|(path, pending)| (path, pending.touch)).collect();
        (!paths.is_empty()).then_some(Extent::Paths(paths))
    }

    /// Remembers that `path` was given out.
    fn rest(&mut self, path: &RelPath, complete: bool, now: Duration) {
        let known = self.rates.get(path);
        if known.is_none() && self.rates.len() >= MAX_RATES {
            return;
        }
        let open_gap = match known {
            Some(rate) if !complete => (rate.open_gap * 2).min(MAX_OPEN_GAP),
            _ => FIRST_OPEN_GAP,
        };
        self.rates.insert(path.clone(), Rate { last: now, complete_gap: COMPLETE_GAP, open_gap });
    }
}
