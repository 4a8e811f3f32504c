//! Jitter from a seed, so that a run can be repeated.

/// `SplitMix64` (Steele, Lea, Flood 2014): good enough to spread timers, and nothing else.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence that `seed` begins.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A span between half and one and a half of `mean_ms`.
    pub(crate) fn around(&mut self, mean_ms: u64) -> u64 {
        mean_ms / 2 + self.next() % mean_ms.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_spread_around_their_mean() {
        let mut random = Random::new(7);
        let spans: Vec<_> = (0..1000).map(|_| random.around(1000)).collect();
        assert!(spans.iter().all(|span| (500..1500).contains(span)));
        assert!(spans.iter().any(|&span| span < 600) && spans.iter().any(|&span| span > 1400));
    }
}
