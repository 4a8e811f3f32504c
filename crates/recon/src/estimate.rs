//! How many differences a bucket may have, from its counts on both sides.
//!
//! Only what it costs hangs on it: cells that are too few are asked for once more, and cells that
//! are too many were for nothing.

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

/// By how many links each bucket is larger here; 0 where its tags are equal. `own` are the counts
/// here, `theirs` the low `bits` of those there, `total` by how many links all of them together are
/// larger here.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "an estimate: large numbers saturate"
)]
pub(crate) fn differences(
    own: &[u64],
    (theirs, bits): (&[u16], u32),
    differs: &[bool],
    total: f64,
) -> Vec<f64> {
    if own.len() == 1 {
        return vec![total];
    }
    // Of the numbers that fit, the one nearest to what is usual: the mean, where most differ.
    let differing = differs.iter().filter(|differs| **differs).count();
    let usual = if 2 * differing < own.len() { 0.0 } else { (total / own.len() as f64).round() };
    let differ = |((own, theirs), differs): ((&u64, &u16), &bool)| {
        if !differs {
            return 0.0;
        }
        let low =
            (*own as u16).wrapping_sub(*theirs).wrapping_sub((usual as i64).cast_unsigned() as u16);
        let unknown = u16::BITS - bits;
        usual + f64::from((low << unknown).cast_signed() >> unknown)
    };
    own.iter().zip(theirs).zip(differs).map(differ).collect()
}

/// Per bucket the differences to expect; 0 where the tags are equal. `differences` are those of the
/// counts, as [`differences`] makes them of the same `total`.
///
/// If one side only lacks links, the counts differ by exactly those. If both do, at random, the
/// sum of the squared deviations of the counts' differences from their mean is, on average, the
/// number of differences (as in the tug-of-war sketch of Alon, Matias and Szegedy). Their median
/// stands for the mean, which a few buckets could move.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub(crate) fn expected(differences: &[f64], differs: &[bool], total: f64) -> Vec<f64> {
    let differing = || differences.iter().zip(differs).filter(|(_, differs)| **differs);
    // What is not told by the counts' low bits is somewhere among those that differ, which differ
    // by two at least where the counts are equal.
    let untold = (total - differences.iter().sum::<f64>()) / differing().count().max(1) as f64;
    let least = |(difference, differs): (&f64, &bool)| match *differs {
        false => 0.0,
        true if *difference == 0.0 => untold.abs().max(2.0),
        true => (difference + untold).abs().max(1.0),
    };
    let mut expected: Vec<f64> = differences.iter().zip(differs).map(least).collect();
    let one_lacks_all = differing().all(|(d, _)| *d > 0.0) || differing().all(|(d, _)| *d < 0.0);
    if differences.len() >= MIN_BUCKETS && !one_lacks_all {
        let mut sorted = differences.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let mut squares: Vec<f64> = differences.iter().map(|d| (d - median).powi(2)).collect();
        squares.sort_unstable_by(f64::total_cmp);
        squares.truncate(differences.len() - differences.len() / TRIMMED);
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
