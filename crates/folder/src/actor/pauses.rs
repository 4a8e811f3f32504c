//! When what failed is tried again, and what else an actor does by the clock.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause after a failure; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// When to try again.
#[derive(Debug, Default)]
pub(super) struct Pause {
    pub(super) until: Option<Instant>,
    length: Duration,
}

/// All that an actor waits for by the clock.
#[derive(Debug)]
pub(super) struct Pauses {
    /// After failures that concern the whole folder; while there is none, until it is looked for.
    pub(super) taking_up: Pause,
    /// The same of applying.
    pub(super) applying: Pause,
    /// Until paths that failed are tried again.
    pub(super) retrying: Pause,
    /// When everything is looked at though no event came.
    pub(super) rescan_at: Instant,
}

/// What the clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Over {
    pub(super) rescan: bool,
    pub(super) retry: bool,
}

impl Pause {
    /// Begins a pause twice as long as the last.
    pub(super) fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        self.until = Some(Instant::now() + self.length);
    }

    /// Begins a pause that says nothing of the next ones.
    pub(super) fn rest(&mut self, length: Duration) {
        self.until = Some(Instant::now() + length);
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether it ends now.
    fn end(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }
}

impl Pauses {
    pub(super) fn new(rescan_interval: Duration) -> Self {
        Self {
            taking_up: Pause::default(),
            applying: Pause::default(),
            retrying: Pause::default(),
            rescan_at: Instant::now() + jittered(rescan_interval),
        }
    }

    /// When the first is over.
    pub(super) fn next(&self) -> Instant {
        let pauses = [&self.taking_up, &self.applying, &self.retrying];
        pauses.iter().filter_map(|pause| pause.until).fold(self.rescan_at, Instant::min)
    }

    /// Ends all that is over, so that [`Pauses::next`] is yet to come: whoever waits for it would
    /// otherwise spin.
    pub(super) fn end(&mut self, now: Instant, rescan_interval: Duration) -> Over {
        self.taking_up.end(now);
        self.applying.end(now);
        let rescan = self.rescan_at <= now;
        if rescan {
            self.rescan_at = now + jittered(rescan_interval);
        }
        Over { rescan, retry: self.retrying.end(now) }
    }
}

/// A fifth more or less, so that many folders do not work in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_waited_for_again() {
        let mut pauses = Pauses::new(HOUR);
        pauses.taking_up.rest(Duration::from_secs(5));
        pauses.applying.lengthen();
        pauses.retrying.lengthen();
        for expected in [true, false, false] {
            let next = pauses.next();
            tokio::time::sleep_until(next).await;
            let over = pauses.end(Instant::now(), HOUR);
            assert_eq!(over.retry, expected);
            assert!(pauses.next() > next, "it would be waited for again at once");
        }
        assert!(pauses.taking_up.is_over() && pauses.applying.is_over());
        assert_eq!(pauses.end(pauses.rescan_at, HOUR), Over { rescan: true, retry: false });
        assert!(pauses.next() > Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_minute() {
        let mut pause = Pause::default();
        let mut lengths = Vec::new();
        for _ in 0..8 {
            pause.lengthen();
            lengths.push(pause.length.as_secs());
            pause.end(Instant::now() + pause.length);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
