//! How many sessions of reconciliation two devices have with each other in one repo: a peer that
//! begins ever new ones does not keep this device busy with them.

use std::time::Duration;

use tokio::time::Instant;

/// Sessions that may be begun here one after the other: what some lost connections and a repair
/// take.
const OPENED_AT_ONCE: u32 = 8;
/// One more is earned in this time. Rarer than what is granted to others, so that no honest device
/// is ever refused for what it was not told.
const OPENED_INTERVAL: Duration = Duration::from_mins(1);
/// Sessions that are answered one after the other.
const ANSWERED_AT_ONCE: u32 = 16;
/// One more is earned in this time: a session may make this side read its set some sixteen times,
/// which for a million links is some seconds of one processor.
const ANSWERED_INTERVAL: Duration = Duration::from_secs(30);
/// Sessions that are refused before it is taken for an attack. A device that started anew may have
/// forgotten what it has used up; one that is refused does not try again by itself.
const MAX_REFUSED: u32 = 64;

/// What is to become of a session that a device wants to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is answered.
    Granted,
    /// It is one too many for now.
    Refused,
    /// There is no end of them.
    Breach,
}

/// What is left of so many at once, with one more in each interval.
#[derive(Debug)]
struct Bucket {
    left: u32,
    full: u32,
    interval: Duration,
    /// Since when the next one is being earned.
    since: Instant,
}

impl Bucket {
    const fn new(full: u32, interval: Duration, now: Instant) -> Self {
        Self { left: full, full, interval, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.full && now.duration_since(self.since) >= self.interval {
            self.left += 1;
            self.since += self.interval;
        }
        if self.left == self.full {
            self.since = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// What one device and this one are allowed in one repo, over all their connections.
#[derive(Debug)]
pub(crate) struct Allowance {
    opened: Bucket,
    answered: Bucket,
    /// Sessions refused since one was granted.
    refused: u32,
}

impl Allowance {
    /// Nothing used up.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            opened: Bucket::new(OPENED_AT_ONCE, OPENED_INTERVAL, now),
            answered: Bucket::new(ANSWERED_AT_ONCE, ANSWERED_INTERVAL, now),
            refused: 0,
        }
    }

    /// Whether a session may be begun here.
    pub(crate) fn open(&mut self, now: Instant) -> bool {
        self.opened.take(now)
    }

    /// What is to become of one that the device wants to begin.
    pub(crate) fn answer(&mut self, now: Instant) -> Verdict {
        if self.answered.take(now) {
            self.refused = 0;
            return Verdict::Granted;
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused > MAX_REFUSED { Verdict::Breach } else { Verdict::Refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_then_one_at_a_time() {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..OPENED_AT_ONCE {
            assert!(allowance.open(now));
        }
        assert!(!allowance.open(now));
        now += OPENED_INTERVAL;
        assert!(allowance.open(now));
        assert!(!allowance.open(now));
        // A long rest earns no more than there may be at once.
        now += OPENED_INTERVAL * 1000;
        let granted = (0..OPENED_AT_ONCE * 2).filter(|_| allowance.open(now)).count();
        assert_eq!(granted, OPENED_AT_ONCE as usize);
    }

    #[test]
    fn who_goes_on_though_refused_breaks_the_rules() {
        let mut now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..ANSWERED_AT_ONCE {
            assert_eq!(allowance.answer(now), Verdict::Granted);
        }
        for _ in 0..MAX_REFUSED {
            assert_eq!(allowance.answer(now), Verdict::Refused);
        }
        assert_eq!(allowance.answer(now), Verdict::Breach);
        now += ANSWERED_INTERVAL;
        assert_eq!(allowance.answer(now), Verdict::Granted);
        assert_eq!(allowance.answer(now), Verdict::Refused, "it is forgiven");
    }
}
