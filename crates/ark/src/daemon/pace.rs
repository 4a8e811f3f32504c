//! How fast something shrinks: rate and time left for what is still to be moved.

use std::collections::VecDeque;
use std::time::Duration;

use ark_control::Progress;
use tokio::time::Instant;

/// Over how long a rate is measured: long enough to be steady, short enough to follow a change.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples kept in the window: two a second, and some more when it is looked at in between.
const MAX_SAMPLES: usize = 32;

/// Watches an amount that is to become zero.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Since it was last zero; `None` while it is.
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    began: Instant,
    /// What went away since then. The amount may also grow, as more is found to be missing.
    done: Moved,
    left: Moved,
    /// Times, and the bytes done by then.
    samples: VecDeque<(Instant, u64)>,
}

/// Objects and bytes.
pub(super) type Moved = ark_control::Amount;

impl Meter {
    /// The amount is `left` now.
    pub(super) fn sample(&mut self, left: Moved, now: Instant) {
        if left.objects == 0 && left.bytes == 0 {
            self.run = None;
            return;
        }
        let run = self.run.get_or_insert_with(|| Run {
            began: now,
            done: Moved::default(),
            left,
            samples: VecDeque::from([(now, 0)]),
        });
        run.done.bytes += run.left.bytes.saturating_sub(left.bytes);
        run.done.objects += run.left.objects.saturating_sub(left.objects);
        run.left = left;
        while run.samples.len() >= MAX_SAMPLES
            || run.samples.get(1).is_some_and(|&(time, _)| now - time >= WINDOW)
        {
            run.samples.pop_front();
        }
        run.samples.push_back((now, run.done.bytes));
    }

    /// How far it is; `None` while there is nothing to do.
    pub(super) fn progress(&self, phase: &str, now: Instant) -> Option<Progress> {
        let run = self.run.as_ref()?;
        let bytes_per_second = run
            .samples
            .front()
            .map_or(0, |&(time, done)| per_second(run.done.bytes.saturating_sub(done), now - time));
        Some(Progress {
            phase: phase.to_owned(),
            items_done: run.done.objects,
            items_total: run.done.objects + run.left.objects,
            bytes_done: run.done.bytes,
            bytes_total: run.done.bytes + run.left.bytes,
            elapsed_ms: milliseconds(now - run.began),
            bytes_per_second,
            seconds_left: seconds_left(run.left.bytes, bytes_per_second),
        })
    }
}

/// Bytes per second.
pub(super) fn per_second(bytes: u64, time: Duration) -> u64 {
    let milliseconds = milliseconds(time).max(1);
    u64::try_from(u128::from(bytes) * 1_000 / u128::from(milliseconds)).unwrap_or(u64::MAX)
}

/// Whole seconds until `left` bytes are moved; `None` where nothing moves.
pub(super) fn seconds_left(left: u64, bytes_per_second: u64) -> Option<u64> {
    (bytes_per_second > 0).then(|| left.div_ceil(bytes_per_second))
}

/// A time in whole milliseconds.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_rate_and_a_time_left() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let left = |bytes: u64| Moved { objects: 1, bytes };
        let mut meter = Meter::default();
        assert_eq!(meter.progress("receiving", start), None);
        meter.sample(left(1_000), at(0));
        meter.sample(left(900), at(1));
        let progress = meter.progress("receiving", at(1)).expect("it runs");
        assert_eq!((progress.bytes_done, progress.bytes_total), (100, 1_000));
        assert_eq!((progress.bytes_per_second, progress.seconds_left), (100, Some(9)));
        // More is found to be missing; later the rate is that of the window alone.
        meter.sample(left(1_900), at(2));
        for second in 3..=30 {
            meter.sample(left(1_900 - (second - 2) * 10), at(second));
        }
        let progress = meter.progress("receiving", at(30)).expect("it runs");
        assert_eq!((progress.bytes_done, progress.bytes_total), (380, 2_000));
        assert_eq!((progress.bytes_per_second, progress.seconds_left), (10, Some(162)));
        meter.sample(Moved::default(), at(31));
        assert_eq!(meter.progress("receiving", at(31)), None);
    }

    #[test]
    fn nothing_overflows() {
        let now = Instant::now();
        let mut meter = Meter::default();
        meter.sample(Moved { objects: u64::MAX, bytes: u64::MAX }, now);
        meter.sample(Moved { objects: 1, bytes: 1 }, now);
        let progress = meter.progress("receiving", now).expect("it runs");
        assert_eq!(progress.bytes_total, u64::MAX);
    }
}
