//! How many requests a peer may have, and when.

/// The most requests to one peer at once. One streams while others are being looked up, verified,
/// stored.
pub(super) const MAX_REQUESTS_PER_PEER: usize = 8;
/// A peer whose request broke is left alone for this long, then twice as long, and so on.
pub(super) const FIRST_PAUSE_MS: u64 = 250;
/// The longest such pause.
pub(super) const LONGEST_PAUSE_MS: u64 = 30_000;

/// What is asked of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    flying: usize,
    /// Requests that it may have at once, from 1 to [`MAX_REQUESTS_PER_PEER`]: fewer after some
    /// broke before a whole object came. On a slow line they take each other's share, and none
    /// would ever bring one.
    allowed: usize,
    failures: u32,
    paused_until_ms: u64,
}

impl Peer {
    /// Nothing was asked of it.
    pub(super) fn new() -> Self {
        Self { flying: 0, allowed: MAX_REQUESTS_PER_PEER, failures: 0, paused_until_ms: 0 }
    }

    /// How many more requests it may have.
    pub(super) fn free(&self) -> usize {
        self.allowed.saturating_sub(self.flying)
    }

    /// Whether it may have one more, of several.
    pub(super) fn is_last_slot(&self) -> bool {
        self.free() == 1 && self.allowed > 1
    }

    /// Until when it is left alone.
    pub(super) fn paused_until_ms(&self) -> u64 {
        self.paused_until_ms
    }

    /// A request was made.
    pub(super) fn begun(&mut self) {
        self.flying += 1;
    }

    /// A request is over, however it went.
    pub(super) fn ended(&mut self) {
        self.flying = self.flying.saturating_sub(1);
    }

    /// Something that it sent was stored.
    pub(super) fn brought(&mut self) {
        self.failures = 0;
        self.allowed = MAX_REQUESTS_PER_PEER.min(self.allowed + 1);
    }

    /// A request broke: it is left alone for a while, and has fewer at once if that one had not
    /// `brought` even one object. Requests that broke together are one failure.
    pub(super) fn failed(&mut self, brought: bool, now_ms: u64) {
        if self.paused_until_ms > now_ms {
            return;
        }
        let pause_ms = FIRST_PAUSE_MS.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.paused_until_ms = now_ms.saturating_add(pause_ms.min(LONGEST_PAUSE_MS));
        if !brought {
            self.allowed = (self.allowed / 2).max(1);
        }
    }
}
