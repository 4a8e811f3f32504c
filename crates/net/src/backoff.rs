//! How long to wait before dialling a device again.

use std::time::Duration;

/// The first wait: a peer that restarts is back within a second.
const FIRST_MS: u64 = 200;
/// The longest wait: short enough that a partition is healed within seconds of its end.
const LONGEST_MS: u64 = 30_000;

/// Waits that grow by half each time, each jittered by a quarter, so that after an outage of
/// some length the next dial comes within about a third of that length.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    /// Starts with the shortest wait.
    pub(crate) const fn new() -> Self {
        Self { next_ms: FIRST_MS }
    }

    /// The next wait. `random` is uniform in `0.0..1.0`.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let wait_ms = self.next_ms;
        self.next_ms = (wait_ms + wait_ms / 2).min(LONGEST_MS);
        Duration::from_millis(wait_ms).mul_f64(random.mul_add(0.5, 0.75))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_stays_jittered() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(0.5), Duration::from_millis(FIRST_MS));
        let mut longest = Duration::ZERO;
        for n in 0..100 {
            longest = longest.max(backoff.next(f64::from(n % 10) / 10.0));
        }
        assert!(longest <= Duration::from_millis(LONGEST_MS).mul_f64(1.25));
        assert!(longest >= Duration::from_millis(LONGEST_MS));
    }
}
