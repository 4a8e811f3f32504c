//! How many differences a bucket may have, from its counts on both sides.
//!
//! Only what it costs hangs on it: cells that are too few are asked for once more, and cells that
//! are too many were for nothing.

use crate::key::Tag;

/// From so many buckets on, their variance says something.
const MIN_BUCKETS: usize = 16;
/// The share of the buckets, of greatest deviation, that do not count: someone may have ground
/// hashes for a few.
const TRIMMED: usize = 16;
/// By how much the variance of what remains is too small then, for normal deviations.
const UNTRIMMED: f64 = 1.35;
/// By how much more is expected, since the estimate has a relative error of about a fifth: where
/// there are few differences another round trip is dearer than their cells.
const SAFETY: f64 = 1.3;
const SAFETY_OF_FEW: f64 = 1.6;
const FEW: f64 = 2_000.0;

/// Per bucket the differences to expect; 0 where the tags are equal. `own` are the counts here,
/// `tags` the other side's tags, `count` its number of links in all of the buckets.
///
/// If one side only lacks links, the counts differ by exactly those. If both do, at random, the
/// sum of the squared deviations of the counts' differences from their mean is, on average, the
/// number of differences (as in the tug-of-war sketch of Alon, Matias and Szegedy). Their median
/// stands for the mean, which a few buckets could move.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate: large numbers saturate"
)]
pub(crate) fn expected(own: &[u64], tags: &[Tag], count: u64, differs: &[bool]) -> Vec<f64> {
    let total = own.iter().map(|count| *count as f64).sum::<f64>();
    let mean = (total - count as f64) / own.len() as f64;
    let near = mean.round() as i64;
    let differences: Vec<f64> = if own.len() == 1 {
        vec![mean]
    } else {
        // The tags have 16 bits of each count: of the numbers that fit, the one nearest the mean.
        let differ = |(own, tag): (&u64, &Tag)| {
            let low = (*own as u16).wrapping_sub(tag.count()).wrapping_sub(near as u16);
            near as f64 + f64::from(low.cast_signed())
        };
        own.iter().zip(tags).map(differ).collect()
    };
    // What differs with equal counts differs by two at least.
    let least = |(difference, differs): (&f64, &bool)| match *differs {
        false => 0.0,
        true if *difference == 0.0 => 2.0,
        true => difference.abs(),
    };
    let mut expected: Vec<f64> = differences.iter().zip(differs).map(least).collect();
    let differing = || differences.iter().zip(differs).filter(|(_, differs)| **differs);
    let one_lacks_all = differing().all(|(d, _)| *d > 0.0) || differing().all(|(d, _)| *d < 0.0);
    if own.len() >= MIN_BUCKETS && !one_lacks_all {
        let mut sorted = differences.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let mut squares: Vec<f64> = differences.iter().map(|d| (d - median).powi(2)).collect();
        squares.sort_unstable_by(f64::total_cmp);
        squares.truncate(own.len() - own.len() / TRIMMED);
        let all = squares.iter().sum::<f64>() * UNTRIMMED;
        let all = all * if all <= FEW { SAFETY_OF_FEW } else { SAFETY };
        let each = all / differing().count() as f64;
        for (expected, _) in expected.iter_mut().zip(differs).filter(|(_, differs)| **differs) {
            *expected = expected.max(each);
        }
    }
    expected
}

#[cfg(test)]
mod tests;
