//! How far the time stamps of a file system can be believed (git calls the problem "racy").
//!
//! A file hashed in the same clock tick in which it was last changed may be changed once more
//! within that tick, and then no time stamp tells. Such a hash is not *settled*: the next scan
//! hashes the file again although its `Stat` is unchanged.

use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ark_core::Mtime;

use super::{Dir, FsError, Stat, Temporary};

/// Tick of the kernel's coarse clock, doubled: `CONFIG_HZ=100` is the slowest in use.
const TICK: Duration = Duration::from_millis(20);
/// For stamps that carry no fraction of a second: ext3, HFS+, and 2 s on FAT.
const COARSE: Duration = Duration::from_secs(2);

/// How long after a change another one may leave the same time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granularity(Option<Duration>);

impl Granularity {
    /// Stamps that are distinct whenever somebody looked in between (Linux 6.13 and later, on
    /// file systems with multigrain time stamps).
    pub const fn exact() -> Self {
        Self(Some(Duration::ZERO))
    }

    /// The kernel's tick, or two seconds where a stamp has no fraction.
    pub const fn tick() -> Self {
        Self(None)
    }

    /// Whether a hash begun at `now` of a file that `stat` describes can be believed as long as
    /// the stat stays the same. A stamp of the future is believed: another change would
    /// have to meet it exactly.
    pub fn settled(self, stat: &Stat, now: Mtime) -> bool {
        let window = self.0.unwrap_or(if stat.ctime.nanos == 0 { COARSE } else { TICK });
        window.is_zero() || since(now, stat.ctime).unsigned_abs() > window.as_nanos()
    }
}

/// The time of the system's clock. Only ever compared with time stamps of files.
pub fn now() -> Mtime {
    let (seconds, nanos) = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(_) => (0, 0),
    };
    Mtime { seconds, nanos }
}

/// Nanoseconds from `then` to `now`.
pub(crate) fn since(now: Mtime, then: Mtime) -> i128 {
    let nanos = |time: Mtime| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    nanos(now) - nanos(then)
}

/// Changes per measurement.
const PROBES: usize = 6;
/// A measurement that took longer proves nothing: on a coarse clock the changes may have fallen
/// into different ticks. The finest tick in use is 1 ms.
const MAX_PROBING: Duration = Duration::from_millis(3);
/// Measurements before the clock is taken for coarse: a busy machine may disturb some.
const ATTEMPTS: usize = 5;

/// Writes, looks, writes, looks: distinct stamps each time mean that looking makes them so.
pub(super) fn measure(dir: &Dir) -> Result<Granularity, FsError> {
    let mut temporary = dir.create_temp()?;
    let is_exact = (0..ATTEMPTS).any(|_| stamps_differ(dir, &mut temporary));
    dir.unlink(&temporary.name)?;
    Ok(if is_exact { Granularity::exact() } else { Granularity::tick() })
}

fn stamps_differ(dir: &Dir, temporary: &mut Temporary) -> bool {
    let begun = Instant::now();
    let mut stamps = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        match (temporary.file.write_all(b"."), dir.stat(&temporary.name)) {
            (Ok(()), Ok(stat)) => stamps.push(stat.ctime),
            _ => return false,
        }
    }
    begun.elapsed() < MAX_PROBING && stamps.windows(2).all(|pair| pair[0] != pair[1])
}
