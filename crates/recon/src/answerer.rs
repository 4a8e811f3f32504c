//! The side that is asked. Between questions it remembers only what it has spent.

use ark_core::Link;

use crate::cells::{CELL_BYTES, Cell, Row, cells_for};
use crate::estimate::expected;
use crate::key::{SessionKey, ShortId, Tag};
use crate::message::{
    Answer, Cells, Compared, MAX_FRAME_BYTES, MAX_FRAME_LINKS, MAX_GROUPS, MAX_PART_CELLS,
    MAX_SHORT_IDS, Message, More, Part, Verdict, What,
};
use crate::meter::{Halt, Meter};
use crate::prefix::{LEVEL_BITS, MAX_PREFIX_BITS, Prefix};
use crate::session::{
    End, MAX_ANSWER_LINKS, MAX_FRUITLESS, SessionError, Source, Step, Violation, each_short_id,
    fatal, find, link_from,
};
use crate::trie::{digest, digests, link_bytes};

/// The most differences to expect in a group: enough that cells cost 1.4 times as much, few
/// enough for one answer.
const MAX_GROUP_DIFFERENCES: f64 = 4096.0;
/// The most links in a bucket that is answered at once: what one tag may make both sides read.
pub(crate) const MAX_BUCKET_LINKS: u64 = 1 << 16;
/// The most bytes of short ids and cells in one answer: four groups of the most differences.
const MAX_ANSWER_BYTES: f64 = 384.0 * 1024.0;
/// What an expected difference costs in cells, in bytes: many have 1.4 cells each, of 14.
const CELLS_BYTES_EACH: f64 = 20.0;
/// What an archive adds to a part's bytes, at most.
const PART_OVERHEAD: usize = 16;

/// The side that is asked.
#[derive(Debug)]
pub struct Answerer {
    key: SessionKey,
    enumerate_threshold: u64,
    meter: Meter,
    /// Expected differences per link here, as the last comparison of many buckets showed.
    density: f64,
    began: bool,
    fruitless: u8,
    ended: bool,
}

/// A bucket that differs.
struct Bucket {
    at: u16,
    prefix: Prefix,
    count: u64,
    expected: f64,
}

/// What is to be answered to a comparison.
#[derive(Default)]
struct Plan {
    verdicts: Vec<Verdict>,
    listed: Vec<Prefix>,
    groups: Vec<(Vec<Prefix>, f64)>,
    bytes: f64,
    links: u64,
}

impl Answerer {
    /// Begins to wait for questions. A bucket of at most `enumerate_threshold` links is always
    /// answered by listing them.
    ///
    /// # Errors
    /// [`SessionError::Source`].
    pub fn new<S: Source>(
        source: &S,
        key: SessionKey,
        enumerate_threshold: usize,
    ) -> Result<Self, SessionError<S::Failure>> {
        let count = digest(source, source, Prefix::ROOT).map_err(SessionError::Source)?.count;
        Ok(Self {
            key,
            enumerate_threshold: enumerate_threshold.min(MAX_SHORT_IDS) as u64,
            meter: Meter::new(count),
            density: 0.0,
            began: false,
            fruitless: 0,
            ended: false,
        })
    }

    /// Answers a frame. `source` must be as of the moment that [`Answerer::new`] saw.
    ///
    /// # Errors
    /// [`SessionError`]; the session is then over.
    pub fn handle<S: Source>(
        &mut self,
        source: &S,
        frame: &[u8],
    ) -> Result<Step, SessionError<S::Failure>> {
        match self.answer(source, frame) {
            Ok(step) => {
                self.ended = step.end.is_some();
                Ok(step)
            }
            Err(halt) => {
                self.ended = true;
                fatal(halt)?;
                Ok(Step { end: Some(End::Incomplete), ..Step::default() })
            }
        }
    }

    fn answer<S: Source>(&mut self, source: &S, frame: &[u8]) -> Result<Step, Halt<S::Failure>> {
        if self.ended {
            return Err(Violation::AfterEnd.into());
        }
        self.meter.receive(frame.len())?;
        let mut step = Step::default();
        let first = !std::mem::replace(&mut self.began, true);
        let parts = match Message::decode(frame).map_err(Violation::from)? {
            Message::Compare(spans) => {
                let parts = self.compare(source, &spans)?;
                if parts.is_empty() && first {
                    step.end = Some(End::Complete);
                }
                parts
            }
            Message::More(More { prefixes, from, to }) => {
                self.cells(source, 0, &prefixes, from.into(), to.into())?
            }
            Message::Want(ids) => self.links(source, ids)?,
            Message::Offer(links) => {
                step.lacking = links.iter().map(link_from).collect();
                return Ok(step);
            }
            Message::End(complete) => {
                step.end = Some(End::of(complete));
                return Ok(step);
            }
            Message::Answer(_) => return Err(Violation::Unexpected.into()),
        };
        self.fruitless = if parts.is_empty() { self.fruitless + 1 } else { 0 };
        if self.fruitless >= MAX_FRUITLESS {
            return Err(Halt::Ceiling);
        }
        for message in packed(parts) {
            let frame = message.encode();
            self.meter.answer(frame.len())?;
            step.frames.push(frame);
        }
        Ok(step)
    }

    /// Which buckets differ, and what can be said about them at once. Empty if none does.
    fn compare<S: Source>(
        &mut self,
        source: &S,
        spans: &[Compared],
    ) -> Result<Vec<Part>, Halt<S::Failure>> {
        let mut plan = Plan::default();
        for bucket in self.differing(source, spans)? {
            let what = plan.decide(&bucket, self.enumerate_threshold);
            plan.verdicts.push(Verdict { at: bucket.at, what });
        }
        let mut parts = Vec::new();
        if plan.verdicts.is_empty() {
            return Ok(parts);
        }
        parts.push(Part::Verdicts(plan.verdicts));
        for prefix in plan.listed {
            let mut ids = Vec::new();
            let source = self.meter.over(source);
            each_short_id(&source, &self.key, &[prefix], |id, _| ids.push(id.0))?;
            ids.sort_unstable();
            ids.dedup();
            if ids.len() > MAX_SHORT_IDS {
                // The own trie counts fewer than there are: it is damaged, and this no answer.
                return Err(Halt::Ceiling);
            }
            parts.push(Part::Listed(ids));
        }
        for (number, (prefixes, expected)) in (0..).zip(plan.groups) {
            parts.extend(self.cells(source, number, &prefixes, 0, cells_for(expected))?);
        }
        Ok(parts)
    }

    /// The buckets that differ, with what is to be expected of them.
    fn differing<S: Source>(
        &mut self,
        source: &S,
        spans: &[Compared],
    ) -> Result<Vec<Bucket>, Halt<S::Failure>> {
        let source = self.meter.over(source);
        let (mut buckets, mut first) = (Vec::new(), 0);
        for span in spans {
            let fan = span.fan();
            let digests = digests(&source, &source, span.prefix, fan)?;
            let tags: Vec<Tag> = span.tags.iter().map(|tag| Tag(*tag)).collect();
            let prefix = |at| span.prefix.narrowed(fan, at);
            let own = || digests.iter().enumerate();
            let differs: Vec<bool> =
                own().map(|(at, own)| self.key.tag(prefix(at), *own) != tags[at]).collect();
            let counts: Vec<u64> = digests.iter().map(|digest| digest.count).collect();
            let mut expected = expected(&counts, &tags, span.count, &differs);
            self.density = spread_out(&mut expected, &counts, self.density);
            buckets.extend(own().filter(|(at, _)| differs[*at]).map(|(at, digest)| Bucket {
                at: u16::try_from(first + at).expect("fewer than a message's tags"),
                prefix: prefix(at),
                count: digest.count,
                expected: expected[at],
            }));
            first += tags.len();
        }
        Ok(buckets)
    }

    /// Cells `from .. to` over all that is under `prefixes`.
    fn cells<S: Source>(
        &self,
        source: &S,
        group: u8,
        prefixes: &[Prefix],
        from: usize,
        to: usize,
    ) -> Result<Vec<Part>, Halt<S::Failure>> {
        let source = self.meter.over(source);
        let mut links = 0_u64;
        for prefix in prefixes {
            links = links.saturating_add(digest(&source, &source, *prefix)?.count);
        }
        if links > MAX_ANSWER_LINKS {
            return Err(Violation::TooMuch.into());
        }
        let mut row = Row::new(&self.key, from, to);
        each_short_id(&source, &self.key, prefixes, |id, _| row.insert(id))?;
        let cells: Vec<_> = row.into_cells().into_iter().map(Cell::to_bytes).collect();
        let part = |cells: &[_]| Part::Cells(Cells { group, cells: cells.to_vec() });
        Ok(cells.chunks(MAX_PART_CELLS).map(part).collect())
    }

    /// The links with these short ids.
    fn links<S: Source>(&self, source: &S, ids: Vec<u64>) -> Result<Vec<Part>, Halt<S::Failure>> {
        let ids: Vec<ShortId> = ids.into_iter().map(ShortId).collect();
        let links: Vec<Link> = find(&self.meter.over(source), &self.key, &ids)?;
        let links: Vec<_> = links.into_iter().map(link_bytes).collect();
        Ok(links.chunks(MAX_FRAME_LINKS).map(|links| Part::Links(links.to_vec())).collect())
    }
}

impl Plan {
    /// What is to be said of a bucket that differs; what that takes is noted.
    fn decide(&mut self, bucket: &Bucket, enumerate_threshold: u64) -> What {
        let &Bucket { prefix, count, expected, .. } = bucket;
        let can_divide = prefix.bits() + LEVEL_BITS <= MAX_PREFIX_BITS;
        let is_much = count > MAX_BUCKET_LINKS || expected > MAX_GROUP_DIFFERENCES;
        if is_much && can_divide {
            return What::Deeper;
        }
        let expected = expected.min(MAX_GROUP_DIFFERENCES);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let listing = 8.0 * count as f64;
        let is_listed = count <= enumerate_threshold
            || listing <= CELLS_BYTES_EACH * expected && count <= MAX_SHORT_IDS as u64;
        let bytes = if is_listed { listing } else { CELLS_BYTES_EACH * expected };
        let is_full = self.bytes + bytes > MAX_ANSWER_BYTES
            || self.links.saturating_add(count) > MAX_ANSWER_LINKS;
        if is_full && !self.verdicts.is_empty() {
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

/// What many buckets show holds for single ones asked about later: `density` differences per link
/// are to be expected at least. Returns the density that `expected` shows, if it can.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn spread_out(expected: &mut [f64], counts: &[u64], density: f64) -> f64 {
    if let ([expected], [count]) = (&mut *expected, counts) {
        *expected = expected.max(density * *count as f64);
        return density;
    }
    let links = counts.iter().fold(1, |sum: u64, count| sum.saturating_add(*count));
    expected.iter().sum::<f64>() / links as f64
}

/// Puts parts into as few frames as they need.
fn packed(parts: Vec<Part>) -> Vec<Message> {
    let (mut messages, mut frame, mut length) = (Vec::new(), Vec::new(), PART_OVERHEAD);
    for part in parts {
        let more = PART_OVERHEAD
            + match &part {
                Part::Verdicts(verdicts) => 4 * verdicts.len(),
                Part::Listed(ids) => 8 * ids.len(),
                Part::Cells(Cells { cells, .. }) => CELL_BYTES * cells.len(),
                Part::Links(links) => 33 * links.len(),
            };
        if length + more > MAX_FRAME_BYTES {
            messages
                .push(Message::Answer(Answer { parts: std::mem::take(&mut frame), last: false }));
            length = PART_OVERHEAD;
        }
        length += more;
        frame.push(part);
    }
    messages.push(Message::Answer(Answer { parts: frame, last: true }));
    messages
}
