//! How slow a provider may be before another one is asked.

use std::time::Duration;

/// The time spent waiting for an answer's bytes is judged in spans of this length. A provider that
/// sends nothing in one is given up.
pub(super) const SPAN: Duration = Duration::from_secs(20);
/// So many bytes a provider must bring in a span, over all that it was asked: less than half of
/// what a line throttled to 64 kbit/s does. One that drips holds what it was asked for from others.
const LEAST_BYTES: u64 = 64 << 10;

/// The patience with one answer.
#[derive(Debug)]
pub(super) struct Patience {
    waited: Duration,
    own_bytes: u64,
    /// What the provider had brought, over all its answers, when the span began.
    arrived_before: u64,
}

impl Patience {
    /// A span begins. `arrived`: what the provider has brought over all its answers.
    pub(super) fn new(arrived: u64) -> Self {
        Self { waited: Duration::ZERO, own_bytes: 0, arrived_before: arrived }
    }

    /// How much longer to wait at most before [`Patience::ends`] is asked.
    pub(super) fn left(&self) -> Duration {
        SPAN.saturating_sub(self.waited)
    }

    /// After waiting for `time`, `bytes` of the answer came, and `arrived` over all answers of the
    /// provider: whether that was too little for too long.
    pub(super) fn ends(&mut self, time: Duration, bytes: u64, arrived: u64) -> bool {
        self.waited += time;
        self.own_bytes += bytes;
        if self.waited < SPAN {
            return false;
        }
        let brought = arrived.saturating_sub(self.arrived_before);
        let ends = self.own_bytes == 0 || brought < LEAST_BYTES;
        *self = Self::new(arrived);
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether an answer of `bytes` each second, of `all` from its provider, is given up.
    fn is_given_up(bytes: u64, all: u64) -> bool {
        let mut patience = Patience::new(7);
        (1..=100).any(|second| patience.ends(SECOND, bytes, 7 + second * all))
    }

    #[test]
    fn a_drip_is_given_up_and_a_slow_line_is_not() {
        assert!(is_given_up(0, 0));
        assert!(is_given_up(1, 1), "a byte now and then is not enough");
        assert!(is_given_up(0, 1 << 20), "nor is what other answers bring");
        assert!(!is_given_up(1 << 10, 8 << 10), "a slow line has several answers");
        assert!(!is_given_up(8 << 10, 8 << 10));
    }

    #[test]
    fn only_waiting_counts() {
        let mut patience = Patience::new(0);
        for _ in 0..1_000 {
            assert!(!patience.ends(Duration::from_micros(1), 1, 1));
        }
        assert!(patience.left() + SECOND > SPAN);
        assert!(!patience.ends(SPAN / 2, 1, LEAST_BYTES));
        assert!(!patience.ends(patience.left(), 1, LEAST_BYTES), "enough came in this span");
        assert!(patience.ends(SPAN, 1, LEAST_BYTES), "and not in the next");
    }
}
