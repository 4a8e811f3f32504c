//! The side that is asked. Between questions it remembers only what it has spent, and what it
//! answered the opening from.

mod plan;

use std::sync::Arc;

use ark_core::Link;

use self::plan::{Bucket, KeptPlan, Named, Plan};
use crate::cells::{CELL_BYTES, Cell, Row, cells_for};
use crate::estimate::{differences, expected};
use crate::key::{NameKey, SHORT_COUNT_BITS, SessionKey, ShortId, ShortTag, Tag};
use crate::message::{
    Answer, Cells, Compared, MAX_FRAME_BYTES, MAX_FRAME_LINKS, MAX_PART_CELLS, MAX_SHORT_IDS,
    Message, More, OneLess, OneMore, Opening, Part,
};
use crate::meter::{Halt, Meter};
use crate::prefix::Prefix;
use crate::session::{
    End, MAX_ANSWER_LINKS, MAX_FRUITLESS, SessionError, Source, Step, Violation, each_short_id,
    fatal, find, link_from, sketch_of, sum_of,
};
use crate::sketch::Sketch;
use crate::trie::{Digest, LINK_BYTES, count_of, digest, digests, link_bytes};

/// The most links in a bucket that is answered at once: what one tag may make both sides read.
pub(crate) const MAX_BUCKET_LINKS: u64 = 1 << 16;
/// What an archive adds to a part's bytes, at most.
const PART_OVERHEAD: usize = 16;

/// The side that is asked.
#[derive(Debug)]
pub struct Answerer {
    key: SessionKey,
    enumerate_threshold: u64,
    /// Of the set.
    root: Digest,
    /// What the opening was answered from, and how many of its cells were given.
    kept: Option<(Arc<Sketch>, usize)>,
    /// What the source gave at the beginning.
    sketch: Option<Arc<Sketch>>,
    meter: Meter,
    /// Expected differences per link here, as the last comparison of many buckets showed.
    density: f64,
    began: bool,
    fruitless: u8,
    ended: bool,
}

impl Answerer {
    /// Begins to wait for questions. A bucket of at most `enumerate_threshold` links is always
    /// answered by listing them, where there is no sketch to answer from.
    ///
    /// # Errors
    /// [`SessionError::Source`].
    pub fn new<S: Source>(
        source: &S,
        key: SessionKey,
        enumerate_threshold: usize,
    ) -> Result<Self, SessionError<S::Failure>> {
        let root = digest(source, source, Prefix::ROOT).map_err(SessionError::Source)?;
        // Asked now, since what is kept may go on to later moments until there is a question.
        let sketch = source.sketch(0).map_err(SessionError::Source)?;
        Ok(Self {
            key,
            enumerate_threshold: enumerate_threshold.min(MAX_SHORT_IDS) as u64,
            root,
            sketch: sketch.filter(|sketch| sketch.digest() == root),
            kept: None,
            meter: Meter::new(root.count),
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
        if !std::mem::replace(&mut self.began, true) {
            let opening = Opening::decode(frame).map_err(Violation::from)?;
            let parts = self.open(source, &opening)?;
            if parts.is_empty() {
                step.end = Some(End::Complete);
            }
            self.say(parts, &mut step)?;
            return Ok(step);
        }
        let parts = match Message::decode(frame).map_err(Violation::from)? {
            Message::Compare(spans) => self.compare(source, &spans)?,
            Message::More(more) => {
                let More { prefixes, from, to } = *more;
                self.cells(source, 0, &prefixes, from.into(), to.into())?
            }
            Message::Want(ids) => self.links(source, &self.key.names, ids)?,
            Message::MoreKept(to) => self.kept_cells(to.into())?,
            Message::WantKept(_) if self.kept.is_none() => return Err(Violation::NotKept.into()),
            Message::WantKept(ids) => self.links(source, &self.key.kept, ids)?,
            Message::Offer(links) => {
                step.lacking = links.iter().map(link_from).collect();
                return Ok(step);
            }
            Message::End(links) => {
                step.lacking = links.iter().map(link_from).collect();
                step.end = Some(End::Complete);
                return Ok(step);
            }
            Message::Incomplete => {
                step.end = Some(End::Incomplete);
                return Ok(step);
            }
            Message::Answer(_) => return Err(Violation::Unexpected.into()),
        };
        self.fruitless = if parts.is_empty() { self.fruitless + 1 } else { 0 };
        if self.fruitless >= MAX_FRUITLESS {
            return Err(Halt::Ceiling);
        }
        self.say(parts, &mut step)?;
        Ok(step)
    }

    fn say<E>(&mut self, parts: Vec<Part>, step: &mut Step) -> Result<(), Halt<E>> {
        for message in packed(parts) {
            let frame = message.encode();
            self.meter.answer(frame.len())?;
            step.frames.push(frame);
        }
        Ok(())
    }

    /// Which buckets of an opening differ, and what can be said about them at once. Empty if none
    /// does.
    fn open<S: Source>(
        &mut self,
        source: &S,
        opening: &Opening,
    ) -> Result<Vec<Part>, Halt<S::Failure>> {
        let bits = opening.bits();
        let own = {
            let source = self.meter.over(source);
            digests(&source, &source, Prefix::ROOT, bits)?
        };
        let buckets = || each_under(Prefix::ROOT, bits, &own);
        let whole = self.key.tag_over(buckets());
        if whole == opening.whole {
            return Ok(Vec::new());
        }
        let tags: Vec<ShortTag> = opening.tags.iter().map(|tag| ShortTag(*tag)).collect();
        // If there is one only, it is what differs.
        let is_other = |((prefix, own), tag): ((Prefix, Digest), &ShortTag)| {
            bits == 0 || self.key.short_tag(prefix, own) != *tag
        };
        let differs: Vec<bool> = buckets().zip(&tags).map(is_other).collect();
        let theirs: Vec<u16> = tags.iter().map(|tag| tag.count()).collect();
        let counts = Counts { theirs, bits: SHORT_COUNT_BITS, total: surplus(&own, opening.count) };
        let differing: Vec<Bucket> = self.differing(buckets(), &counts, &differs).collect();
        if let Some(parts) = self.kept(source, whole, &differing)? {
            return Ok(parts);
        }
        let mut plan = Plan::new(self.enumerate_threshold, true);
        for bucket in &differing {
            plan.take(bucket);
        }
        let equal = || (0..).zip(buckets()).zip(&differs).filter(|(_, differs)| !**differs);
        // Where most differ, some of the others do, too, and are equal by chance.
        if equal().count() <= own.len() / 4 {
            equal().for_each(|((at, (prefix, own)), _)| plan.look_into(at, prefix, own.count));
        }
        let is_said = |at: &u16| plan.verdicts.binary_search_by_key(at, |it| it.at).is_ok();
        let rest = (0..).zip(buckets()).filter(|(at, _)| !is_said(at)).map(|(_, bucket)| bucket);
        let mut parts = vec![Part::Rest(self.key.tag_over(rest))];
        let sum = |prefix| sum_of(&self.meter.over(source), prefix);
        parts.extend(told_by_sums(&plan.named, sum)?);
        parts.extend(self.told(source, plan)?);
        Ok(parts)
    }

    /// What is said of an opening that differs, if it can be from what is kept. `whole` is the tag
    /// over all buckets.
    fn kept<S: Source>(
        &mut self,
        source: &S,
        whole: [u8; 8],
        differing: &[Bucket],
    ) -> Result<Option<Vec<Part>>, Halt<S::Failure>> {
        let Some(KeptPlan { named, expected, links }) = KeptPlan::new(differing) else {
            return Ok(None);
        };
        let sketch = match self.sketch.take() {
            Some(sketch) => Some(sketch),
            None => sketch_of(source, self.root, links)?,
        };
        let Some(sketch) = sketch else { return Ok(None) };
        let mut parts = vec![Part::Rest(whole)];
        parts.extend(told_by_sums(&named, |prefix| Ok::<_, Halt<_>>(sketch.sum(prefix)))?);
        self.kept = Some((sketch, 0));
        // Where buckets seem to differ in one link each, or in none, the tag says whether they do.
        if expected > 0.0 {
            parts.extend(self.kept_cells(cells_for(expected))?);
        }
        Ok(Some(parts))
    }

    /// The kept cells that come after what was given, up to so many in all.
    fn kept_cells(&mut self, to: usize) -> Result<Vec<Part>, Violation> {
        let (sketch, given) = self.kept.as_mut().ok_or(Violation::NotKept)?;
        let cells = sketch.cells(*given, to);
        if cells.is_empty() {
            return Err(Violation::NotKept);
        }
        *given += cells.len();
        let part = |cells: &[Cell]| Part::Kept(cells.iter().map(|cell| cell.to_bytes()).collect());
        Ok(cells.chunks(MAX_PART_CELLS).map(part).collect())
    }

    /// Which buckets differ, and what can be said about them at once. Empty if none does.
    fn compare<S: Source>(
        &mut self,
        source: &S,
        spans: &[Compared],
    ) -> Result<Vec<Part>, Halt<S::Failure>> {
        let mut plan = Plan::new(self.enumerate_threshold, false);
        let mut first = 0;
        for span in spans {
            let fan = span.fan();
            let own = {
                let source = self.meter.over(source);
                digests(&source, &source, span.prefix, fan)?
            };
            let tags: Vec<Tag> = span.tags.iter().map(|tag| Tag(*tag)).collect();
            let buckets = || each_under(span.prefix, fan, &own);
            let is_other =
                |((prefix, own), tag): ((Prefix, Digest), &Tag)| self.key.tag(prefix, own) != *tag;
            let differs: Vec<bool> = buckets().zip(&tags).map(is_other).collect();
            let theirs: Vec<u16> = tags.iter().map(|tag| tag.count()).collect();
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let total = count_of(&own) as f64 - span.count as f64;
            let counts = Counts { theirs, bits: u16::BITS, total };
            for mut bucket in self.differing(buckets(), &counts, &differs) {
                bucket.at += first;
                plan.take(&bucket);
            }
            first += u16::try_from(tags.len()).expect("no more than a message's tags");
        }
        self.told(source, plan)
    }

    /// The buckets that differ, with what is to be expected of them.
    fn differing(
        &mut self,
        own: impl Iterator<Item = (Prefix, Digest)> + Clone,
        counts: &Counts,
        differs: &[bool],
    ) -> impl Iterator<Item = Bucket> {
        let own_counts: Vec<u64> = own.clone().map(|(_, digest)| digest.count).collect();
        let theirs = (&counts.theirs[..], counts.bits);
        let differences = differences(&own_counts, theirs, differs, counts.total);
        let mut expected = expected(&differences, differs, counts.total);
        self.density = spread_out(&mut expected, &own_counts, self.density);
        let buckets = (0..).zip(own).zip(differences.into_iter().zip(expected));
        let buckets = buckets.zip(differs).filter(|(_, differs)| **differs);
        buckets.map(|(((at, (prefix, own)), (difference, expected)), _)| Bucket {
            at,
            prefix,
            count: own.count,
            difference,
            expected,
        })
    }

    /// The verdicts of a plan, and what they are about. Empty if there is none.
    fn told<S: Source>(&self, source: &S, plan: Plan) -> Result<Vec<Part>, Halt<S::Failure>> {
        let mut parts = Vec::new();
        if plan.verdicts.is_empty() {
            return Ok(parts);
        }
        parts.push(Part::Verdicts(plan.verdicts));
        for prefix in plan.listed {
            let mut ids = Vec::new();
            let source = self.meter.over(source);
            each_short_id(&source, &self.key.names, &[prefix], |id, _| ids.push(id.0))?;
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
        let mut row = Row::new(&self.key.names, from, to);
        each_short_id(&source, &self.key.names, prefixes, |id, _| row.insert(id))?;
        let cells: Vec<_> = row.into_cells().into_iter().map(Cell::to_bytes).collect();
        let part = |cells: &[_]| Part::Cells(Cells { group, cells: cells.to_vec() });
        Ok(cells.chunks(MAX_PART_CELLS).map(part).collect())
    }

    /// The links with these short ids.
    fn links<S: Source>(
        &self,
        source: &S,
        key: &NameKey,
        ids: Vec<u64>,
    ) -> Result<Vec<Part>, Halt<S::Failure>> {
        let ids: Vec<ShortId> = ids.into_iter().map(ShortId).collect();
        let links: Vec<Link> = find(&self.meter.over(source), key, &ids)?;
        let links: Vec<_> = links.into_iter().map(link_bytes).collect();
        Ok(links.chunks(MAX_FRAME_LINKS).map(|links| Part::Links(links.to_vec())).collect())
    }
}

/// What is said of buckets that have one link more or less, by the sums of their links.
fn told_by_sums<E>(
    named: &Named,
    sum: impl Fn(Prefix) -> Result<[u8; LINK_BYTES], E>,
) -> Result<Vec<Part>, E> {
    let mut more = Vec::with_capacity(named.more.len());
    for &(at, prefix) in &named.more {
        more.push(OneMore { at, sum: sum(prefix)? });
    }
    let mut parts = Vec::new();
    if !more.is_empty() {
        parts.push(Part::OneMore(more));
    }
    for &(at, prefix) in &named.less {
        let mut first = [0; 7];
        first.copy_from_slice(&sum(prefix)?[..7]);
        parts.push(Part::OneLess(OneLess { at, sum: first }));
    }
    Ok(parts)
}

/// What the other side says of its counts in some buckets.
struct Counts {
    /// The low `bits` of each.
    theirs: Vec<u16>,
    bits: u32,
    /// By how much all of them together are more here.
    total: f64,
}

/// Prefixes that are `fan` bits longer than `prefix`, in order, with their digests.
fn each_under(
    prefix: Prefix,
    fan: u8,
    digests: &[Digest],
) -> impl Iterator<Item = (Prefix, Digest)> + Clone {
    digests.iter().enumerate().map(move |(at, digest)| (prefix.narrowed(fan, at), *digest))
}

/// How many links more are here than a `count` modulo 2^32 says that there are elsewhere.
#[expect(clippy::cast_possible_truncation, reason = "all that is known is the remainder")]
fn surplus(own: &[Digest], count: u32) -> f64 {
    f64::from((count_of(own) as u32).wrapping_sub(count).cast_signed())
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
                Part::Rest(_) | Part::OneLess(_) => 0,
                Part::OneMore(buckets) => 35 * buckets.len(),
                Part::Verdicts(verdicts) => 4 * verdicts.len(),
                Part::Listed(ids) => 8 * ids.len(),
                Part::Cells(Cells { cells, .. }) | Part::Kept(cells) => CELL_BYTES * cells.len(),
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
