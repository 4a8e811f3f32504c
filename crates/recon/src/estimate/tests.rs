//! That estimates are near the truth where differences lie at random, and no worse than the
//! counts where somebody has placed them.

use ark_core::TopicId;

use super::*;
use crate::key::SessionKey;
use crate::prefix::Prefix;
use crate::trie::Digest;

/// Numbers that are as good as random.
fn random(seed: u64, n: u64) -> u64 {
    let hash = *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes();
    u64::from_le_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

/// What 64 buckets of 15,000 links are expected to differ in, where one side lacks `a` links of
/// them and the other `b`, by a random number of the bucket.
fn estimated(a: u64, b: u64, bucket: impl Fn(u64) -> usize) -> f64 {
    let (mut own, mut theirs) = ([15_000_u64; 64], [15_000_u64; 64]);
    let mut differs = [false; 64];
    for n in 0..a + b {
        let at = bucket(n);
        differs[at] = true;
        if n < a { own[at] -= 1 } else { theirs[at] -= 1 }
    }
    let key = SessionKey::derive(&[0; 32], TopicId::derive("x", None), 0);
    let tag = |count: &u64| key.tag(Prefix::ROOT, Digest { count: *count, hash: [0; 32] });
    let tags: Vec<Tag> = theirs.iter().map(tag).collect();
    let expected = expected(&own, &tags, theirs.iter().sum(), &differs);
    assert!(expected.iter().zip(differs).all(|(expected, differs)| (*expected > 0.0) == differs));
    expected.iter().sum()
}

#[test]
fn what_one_side_lacks_is_known_exactly() {
    for d in [1_u16, 10, 1_000, 50_000] {
        for seed in 0..5 {
            let bucket = |n| usize::try_from(random(seed, n) % 64).unwrap();
            let count = u64::from(d);
            assert!((estimated(count, 0, bucket) - f64::from(d)).abs() < 0.5);
            assert!((estimated(0, count, bucket) - f64::from(d)).abs() < 0.5);
        }
    }
}

#[test]
fn what_both_lack_is_seldom_underestimated_and_never_much_overestimated() {
    for (d, runs, most) in [(100_u32, 100, 10), (200, 100, 10), (1_000, 100, 10), (20_000, 20, 5)] {
        let estimate = |seed| {
            let bucket = |n| usize::try_from(random(seed, n) % 64).unwrap();
            estimated(u64::from(d / 2), u64::from(d / 2), bucket) / f64::from(d)
        };
        let estimates: Vec<f64> = (0..runs).map(estimate).collect();
        let too_low = estimates.iter().filter(|estimate| **estimate < 0.95).count();
        assert!(too_low <= most, "{d}: {too_low} too low");
        assert!(estimates.iter().all(|estimate| *estimate < 3.0), "{d}: {estimates:?}");
    }
}

#[test]
fn what_is_placed_in_few_buckets_is_not_taken_for_everywhere() {
    assert!(estimated(9_000, 20, |n| if n < 9_000 { 5 } else { 9 }) < 10_000.0);
}

/// Whatever a tag says, nothing here panics, and no estimate is negative or not a number.
#[test]
fn absurd_counts_give_absurd_but_harmless_estimates() {
    for count in [0, 1, u64::MAX] {
        for own in [[0; 16], [u64::MAX; 16]] {
            let expected = expected(&own, &[Tag([255; 8]); 16], count, &[true; 16]);
            assert!(expected.iter().all(|expected| *expected > 0.0));
            let alone = super::expected(&own[..1], &[Tag([0; 8])], count, &[true]);
            assert!(alone[0] > 0.0);
        }
    }
}
