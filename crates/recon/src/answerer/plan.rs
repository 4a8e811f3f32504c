//! What is to be said of the buckets that differ: as much as one answer holds.

use crate::answerer::MAX_BUCKET_LINKS;
use crate::message::{MAX_GROUPS, MAX_KEPT_DIFFERENCES, MAX_SHORT_IDS, Verdict, What};
use crate::prefix::{LEVEL_BITS, MAX_PREFIX_BITS, Prefix};
use crate::session::MAX_ANSWER_LINKS;

/// The most differences to expect in a group: enough that cells cost 1.4 times as much, few
/// enough for one answer.
const MAX_GROUP_DIFFERENCES: f64 = 4096.0;
/// The most bytes of short ids and cells in one answer: four groups of the most differences.
const MAX_ANSWER_BYTES: f64 = 384.0 * 1024.0;
/// What an expected difference costs in cells, in bytes: many have 1.4 cells each, of 14.
const CELLS_BYTES_EACH: f64 = 20.0;
/// What a bucket that differs in one link costs at most, in bytes.
const NAMED_BYTES: f64 = 35.0;
/// How many differences may be expected in a bucket that has one link more or less by the counts,
/// for it to be taken to differ in that alone. Where one side only lacks links that is what is
/// expected; where both do, at random, it is wrong in one of some fifty buckets at this bound, and
/// costs a round.
const MAX_NAMED: f64 = 1.5;

/// A bucket that differs.
pub(super) struct Bucket {
    pub(super) at: u16,
    pub(super) prefix: Prefix,
    /// Links here, and by how many that is more.
    pub(super) count: u64,
    pub(super) difference: f64,
    /// How many differ.
    pub(super) expected: f64,
}

impl Bucket {
    /// Whether it may be taken to differ in one link alone.
    fn is_one(&self) -> bool {
        (0.5..1.5).contains(&self.difference.abs()) && self.expected <= MAX_NAMED
    }
}

/// Buckets that have one link more, and one less.
#[derive(Default)]
pub(super) struct Named {
    pub(super) more: Vec<(u16, Prefix)>,
    pub(super) less: Vec<(u16, Prefix)>,
}

impl Named {
    fn take(&mut self, bucket: &Bucket) {
        let named = if bucket.difference > 0.0 { &mut self.more } else { &mut self.less };
        named.push((bucket.at, bucket.prefix));
    }
}

/// What is to be answered to an opening from what is kept, which reads no links.
pub(super) struct KeptPlan {
    pub(super) named: Named,
    /// Differences to expect besides.
    pub(super) expected: f64,
    /// How many links there are in buckets that differ.
    pub(super) links: u64,
}

impl KeptPlan {
    /// `None` where what is kept cannot tell so many differences.
    pub(super) fn new(buckets: &[Bucket]) -> Option<Self> {
        let mut plan = Self { named: Named::default(), expected: 0.0, links: 0 };
        for bucket in buckets {
            plan.links = plan.links.saturating_add(bucket.count);
            if bucket.is_one() {
                plan.named.take(bucket);
            } else {
                plan.expected += bucket.expected;
            }
        }
        (plan.expected <= MAX_KEPT_DIFFERENCES).then_some(plan)
    }
}

/// What is to be answered to a comparison.
pub(super) struct Plan {
    enumerate_threshold: u64,
    /// Whether buckets may be named that have one link more or less.
    may_name: bool,
    pub(super) named: Named,
    /// In order.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) listed: Vec<Prefix>,
    /// With the differences to expect.
    pub(super) groups: Vec<(Vec<Prefix>, f64)>,
    bytes: f64,
    links: u64,
}

impl Plan {
    /// Of nothing yet. A bucket of at most `enumerate_threshold` links is always listed, if it is
    /// not named.
    pub(super) fn new(enumerate_threshold: u64, may_name: bool) -> Self {
        Self {
            enumerate_threshold,
            may_name,
            named: Named::default(),
            verdicts: Vec::new(),
            listed: Vec::new(),
            groups: Vec::new(),
            bytes: 0.0,
            links: 0,
        }
    }

    /// Plans what is to be said of a bucket that differs, after those before it.
    pub(super) fn take(&mut self, bucket: &Bucket) {
        let &Bucket { at, count, .. } = bucket;
        let may_name = self.may_name && count <= MAX_BUCKET_LINKS;
        if may_name && bucket.is_one() && !self.is_full(NAMED_BYTES, count) {
            self.named.take(bucket);
            self.bytes += NAMED_BYTES;
            self.links = self.links.saturating_add(count);
            return;
        }
        let what = self.decide(bucket);
        self.verdicts.push(Verdict { at, what });
    }

    /// Also looks into a bucket that seems to be equal: cells over it cost no bytes.
    pub(super) fn look_into(&mut self, at: u16, prefix: Prefix, count: u64) {
        let Ok(group) = u8::try_from(self.groups.len()) else { return };
        if self.links.saturating_add(count) > MAX_ANSWER_LINKS || count > MAX_BUCKET_LINKS {
            return;
        }
        let Some((prefixes, _)) = self.groups.last_mut() else { return };
        prefixes.push(prefix);
        self.links += count;
        let place = self.verdicts.partition_point(|verdict| verdict.at < at);
        self.verdicts.insert(place, Verdict { at, what: What::Group(group - 1) });
    }

    /// Whether so much does not fit in any more. Something does always.
    fn is_full(&self, bytes: f64, count: u64) -> bool {
        let is_much = self.bytes + bytes > MAX_ANSWER_BYTES
            || self.links.saturating_add(count) > MAX_ANSWER_LINKS;
        let Named { more, less } = &self.named;
        is_much && !(self.verdicts.is_empty() && more.is_empty() && less.is_empty())
    }

    /// What is to be said of a bucket that differs; what that takes is noted.
    fn decide(&mut self, bucket: &Bucket) -> What {
        let &Bucket { prefix, count, expected, .. } = bucket;
        let can_divide = prefix.bits() + LEVEL_BITS <= MAX_PREFIX_BITS;
        let is_much = count > MAX_BUCKET_LINKS || expected > MAX_GROUP_DIFFERENCES;
        if is_much && can_divide {
            return What::Deeper;
        }
        let expected = expected.min(MAX_GROUP_DIFFERENCES);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let listing = 8.0 * count as f64;
        let is_listed = count <= self.enumerate_threshold
            || listing <= CELLS_BYTES_EACH * expected && count <= MAX_SHORT_IDS as u64;
        let bytes = if is_listed { listing } else { CELLS_BYTES_EACH * expected };
        if self.is_full(bytes, count) {
            return What::Later;
        }
        let what = if is_listed {
            self.listed.push(prefix);
            What::Listed
        } else {
            match self.group_for(expected) {
                Some(group) => {
                    let (prefixes, sum) = &mut self.groups[usize::from(group)];
                    prefixes.push(prefix);
                    *sum += expected;
                    What::Group(group)
                }
                None => return What::Later,
            }
        };
        self.bytes += bytes;
        self.links = self.links.saturating_add(count);
        what
    }

    /// The group that takes so many differences more.
    fn group_for(&mut self, expected: f64) -> Option<u8> {
        let last = self.groups.last();
        if last.is_none_or(|(_, sum)| sum + expected > MAX_GROUP_DIFFERENCES) {
            if self.groups.len() == usize::from(MAX_GROUPS) {
                return None;
            }
            self.groups.push((Vec::new(), 0.0));
        }
        u8::try_from(self.groups.len() - 1).ok()
    }
}
