//! That estimates are near the truth where differences lie at random, and no worse than the
//! counts where somebody has placed them.

use super::*;

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
    let theirs_low = theirs.map(|count| u16::try_from(count & 0x7f).unwrap());
    let sum = |counts: [u64; 64]| counts.iter().sum::<u64>().cast_signed();
    let total = f64::from(i32::try_from(sum(own) - sum(theirs)).unwrap());
    let differences = differences(&own, (&theirs_low, 7), &differs, total);
    let expected = expected(&differences, &differs, total);
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

/// A few bits of the counts tell all, as long as buckets deviate by less than half of what the
/// bits can tell.
#[test]
fn differences_are_those_nearest_their_mean() {
    for bits in [7, 16] {
        let low = u16::try_from(5_000_u32 % (1 << bits)).unwrap();
        let differences =
            |own: &[u64], total| super::differences(own, (&[low; 2], bits), &[true; 2], total);
        assert_eq!(differences(&[6_063, 5_937], 2_000.0), [1_063.0, 937.0]);
        assert_eq!(differences(&[3_937, 4_063], -2_000.0), [-1_063.0, -937.0]);
        assert_eq!(differences(&[7], -3.0), [-3.0]);
    }
}

/// One bucket has it all, more than the bits can tell: then it is in those that differ.
#[test]
fn what_the_bits_do_not_tell_is_among_those_that_differ() {
    let mut own = [5_000; 64];
    own[3] = 14_000;
    own[9] = 5_001;
    let low = [5_000 % 128; 64];
    let mut differs = [false; 64];
    (differs[3], differs[9]) = (true, true);
    let expected = expected(&differences(&own, (&low, 7), &differs, 9_001.0), &differs, 9_001.0);
    assert!((expected.iter().sum::<f64>() - 9_001.0).abs() < 0.5, "{expected:?}");
    assert!(expected[3] > 4_500.0 && expected[4] == 0.0, "{expected:?}");
}

/// Whatever a tag says, nothing here panics, and no estimate is negative or not a number.
#[test]
fn absurd_counts_give_absurd_but_harmless_estimates() {
    for total in [0.0, 1.0, -1.0, f64::MAX, f64::MIN, 1.8e19] {
        for (own, bits) in [([0; 16], 7), ([u64::MAX; 16], 16)] {
            let differences = differences(&own, (&[u16::MAX; 16], bits), &[true; 16], total);
            let expected = expected(&differences, &[true; 16], total);
            assert!(expected.iter().all(|expected| *expected > 0.0));
            let alone = super::differences(&own[..1], (&[0], bits), &[true], total);
            assert!(super::expected(&alone, &[true], total)[0] >= 0.0);
        }
    }
}
