//! When to say something that changes often: at once where it was quiet, else after a gap.

/// The least time between two `Have` of one session. Joins and applies come in bursts; what a
/// `Have` says replaces the one before, so those in between need not be said.
pub(crate) const HAVE_GAP_MS: u64 = 20;

/// Lets the first through at once and the following ones together, [`HAVE_GAP_MS`] apart.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    waiting: bool,
    last_ms: Option<u64>,
}

impl Gate {
    /// There is something new to say.
    pub(crate) fn ask(&mut self) {
        self.waiting = true;
    }

    /// When it may be said, if there is anything.
    pub(crate) fn due_at(&self) -> Option<u64> {
        self.waiting.then(|| self.last_ms.map_or(0, |last_ms| last_ms.saturating_add(HAVE_GAP_MS)))
    }

    /// Whether it is to be said now. If so, it is taken for said.
    pub(crate) fn pass(&mut self, now_ms: u64) -> bool {
        let passes = self.due_at().is_some_and(|due_ms| due_ms <= now_ms);
        if passes {
            *self = Self { waiting: false, last_ms: Some(now_ms) };
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_passes_at_once_and_a_burst_together() {
        let mut gate = Gate::default();
        assert!(!gate.pass(0), "nothing was asked");
        gate.ask();
        assert!(gate.pass(5));
        gate.ask();
        gate.ask();
        assert!(!gate.pass(6));
        assert_eq!(gate.due_at(), Some(5 + HAVE_GAP_MS));
        assert!(gate.pass(5 + HAVE_GAP_MS));
        assert_eq!(gate.due_at(), None);
    }
}
