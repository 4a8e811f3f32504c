//! The side that asks, in rounds: it sends all the questions it has, and the next ones once they
//! are answered.

mod answers;
mod kept;
mod opened;

use std::collections::VecDeque;
use std::sync::Arc;

use ark_core::Link;

use self::kept::Kept;
use crate::answerer::MAX_BUCKET_LINKS;
use crate::cells::Cell;
use crate::key::{SessionKey, ShortId};
use crate::message::{
    Answer, Compared, KEPT_CELLS, MAX_FRAME_LINKS, MAX_GROUP_CELLS, MAX_SHORT_IDS, MAX_TAGS,
    Message, More, Opening, Part,
};
use crate::meter::{Halt, Meter};
use crate::prefix::{MAX_OPENING_BITS, Prefix};
use crate::session::{
    End, MAX_FRUITLESS, MAX_ROUNDS, SessionError, Source, Step, Violation, fatal, sketch_of,
};
use crate::sketch::Sketch;
use crate::trie::{Digest, LINK_BYTES, count_of, digest, digests, link_bytes};

/// Bits of the buckets of an opening: 64 short tags, which a set that is the same costs.
/// More of them, up to [`MAX_OPENING_BITS`], where they would have more links than are answered
/// at once.
const OPENING_BITS: u8 = 6;
/// A set of at most so many links is compared as a whole.
const MAX_WHOLE: u64 = 64;
/// The most bytes of an answer: what is held of one until it is whole.
const MAX_ANSWER_BYTES: usize = 512 << 10;
/// By how much a row that was too short grows: twofold at first, as it was meant to do, then
/// fourfold, so that an estimate that is far off costs few rounds.
const FIRST_GROWTH: usize = 2;
const GROWTH: usize = 4;

/// The side that asks.
#[derive(Debug)]
pub struct Opener {
    key: SessionKey,
    /// Of the set.
    root: Digest,
    /// What there is of one before anything is known to differ.
    sketch: Option<Arc<Sketch>>,
    meter: Meter,
    /// Prefixes that may differ, each with the bits by which to divide it. The last is asked
    /// first, so that there are never more than a round's for each level.
    open: Vec<(Prefix, u8)>,
    asked: VecDeque<Question>,
    /// What came of the answer to the first question.
    parts: Vec<Part>,
    parts_bytes: usize,
    next: Round,
    /// What the answer to the opening had, until it is settled. There is nothing else to ask then.
    kept: Option<Box<Kept>>,
    rounds: u32,
    fruitless: u8,
    /// The other side has said that the sets are the same, and knows that this ends it.
    is_same: bool,
    complete: bool,
    ended: bool,
}

/// What is not answered yet.
#[derive(Debug)]
enum Question {
    /// The first: the buckets of all, with what is there.
    Open(Vec<(Prefix, Digest)>),
    /// With the number of links here.
    Compare(Vec<(Prefix, u64)>),
    More(Group),
    Want(Vec<ShortId>),
    MoreKept,
    WantKept(Vec<ShortId>),
}

impl Question {
    fn group(&self) -> Option<&Group> {
        match self {
            Self::More(group) => Some(group),
            _ => None,
        }
    }

    /// How many buckets or ids it is about.
    fn items(&self) -> usize {
        match self {
            Self::Open(buckets) => buckets.len(),
            Self::Compare(buckets) => buckets.len(),
            Self::More(group) => group.prefixes.len(),
            Self::Want(ids) | Self::WantKept(ids) => ids.len(),
            Self::MoreKept => 0,
        }
    }
}

/// What is to be said in the next round, besides comparing.
#[derive(Debug, Default)]
struct Round {
    wants: Vec<ShortId>,
    offers: Vec<Link>,
    groups: Vec<Group>,
}

/// Buckets whose difference is looked for together, and equally many cells of both sides.
#[derive(Debug, Default)]
struct Group {
    prefixes: Vec<Prefix>,
    /// Links here.
    links: u64,
    theirs: Vec<Cell>,
    ours: Vec<Cell>,
    /// Whether more cells were asked for before.
    is_widened: bool,
}

impl Opener {
    /// Begins a session.
    ///
    /// # Errors
    /// [`SessionError::Source`].
    pub fn open<S: Source>(
        source: &S,
        key: SessionKey,
    ) -> Result<(Self, Step), SessionError<S::Failure>> {
        let root = digest(source, source, Prefix::ROOT).map_err(SessionError::Source)?;
        let mut opener = Self {
            key,
            root,
            sketch: None,
            meter: Meter::new(root.count),
            open: Vec::new(),
            asked: VecDeque::new(),
            parts: Vec::new(),
            parts_bytes: 0,
            next: Round::default(),
            kept: None,
            rounds: 1,
            fruitless: 0,
            is_same: false,
            complete: true,
            ended: false,
        };
        let mut step = Step::default();
        let outcome = opener.say_first(source, opening_bits(root.count), &mut step);
        let step = opener.ended_by(outcome, step)?;
        Ok((opener, step))
    }

    /// Takes a frame. `source` must be as of the moment that [`Opener::open`] saw.
    ///
    /// # Errors
    /// [`SessionError`]; the session is then over.
    pub fn handle<S: Source>(
        &mut self,
        source: &S,
        frame: &[u8],
    ) -> Result<Step, SessionError<S::Failure>> {
        let mut step = Step::default();
        let outcome = self.take(source, frame, &mut step);
        self.ended_by(outcome, step)
    }

    /// Rounds of questions so far.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// About how many bytes it holds of what is to be asked, waits for an answer or came of one:
    /// a few megabytes at the most, whatever the other side says.
    pub fn held_bytes(&self) -> usize {
        let groups = self.next.groups.iter().chain(self.asked.iter().filter_map(Question::group));
        let cells = groups.map(|group| group.theirs.len() + group.ours.len()).sum::<usize>();
        let buckets = self.asked.iter().map(Question::items).sum::<usize>() + self.open.len();
        cells * size_of::<Cell>()
            + buckets * size_of::<(Prefix, u64)>()
            + self.next.wants.len() * size_of::<ShortId>()
            + self.next.offers.len() * size_of::<Link>()
            + self.kept.as_ref().map_or(0, |kept| kept.held_bytes())
            + self.sketch.as_ref().map_or(0, |_| usize::from(KEPT_CELLS) * size_of::<Cell>())
            + self.parts_bytes
    }

    /// The step to be done, whether or not the session stopped in it.
    fn ended_by<E>(
        &mut self,
        outcome: Result<(), Halt<E>>,
        mut step: Step,
    ) -> Result<Step, SessionError<E>> {
        if let Err(halt) = outcome {
            self.ended = true;
            fatal(halt)?;
            step.frames = vec![Message::Incomplete.encode()];
            step.end = Some(End::Incomplete);
        }
        Ok(step)
    }

    fn take<S: Source>(
        &mut self,
        source: &S,
        frame: &[u8],
        step: &mut Step,
    ) -> Result<(), Halt<S::Failure>> {
        if self.ended {
            return Err(Violation::AfterEnd.into());
        }
        self.meter.receive(frame.len())?;
        let Message::Answer(Answer { parts, last }) =
            Message::decode(frame).map_err(Violation::from)?
        else {
            return Err(Violation::Unexpected.into());
        };
        self.parts_bytes += frame.len();
        self.parts.extend(parts);
        if self.asked.is_empty() {
            return Err(Violation::Unasked.into());
        }
        if self.parts_bytes > MAX_ANSWER_BYTES {
            return Err(Violation::Unfitting("it is too long").into());
        }
        if !last {
            return Ok(());
        }
        self.parts_bytes = 0;
        let parts = std::mem::take(&mut self.parts);
        let progressed = match self.asked.pop_front() {
            Some(Question::Open(buckets)) => self.opened(source, &buckets, parts, step)?,
            Some(Question::Compare(buckets)) => self.compared(source, &buckets, parts)?,
            Some(Question::More(group)) => self.widened(source, group, parts)?,
            Some(Question::Want(ids)) => self.given(&ids, parts, step)?,
            Some(Question::MoreKept) => self.kept_widened(source, parts, step)?,
            Some(Question::WantKept(ids)) => self.kept_given(source, &ids, parts, step)?,
            None => false,
        };
        self.fruitless = if progressed { 0 } else { self.fruitless + 1 };
        if self.fruitless >= MAX_FRUITLESS {
            return Err(Halt::Ceiling);
        }
        if self.asked.is_empty() { self.ask(source, step) } else { Ok(()) }
    }

    /// Says what there is in all.
    fn say_first<S: Source>(
        &mut self,
        source: &S,
        bits: u8,
        step: &mut Step,
    ) -> Result<(), Halt<S::Failure>> {
        let digests = {
            let source = self.meter.over(source);
            digests(&source, &source, Prefix::ROOT, bits)?
        };
        // Taken now, since what is kept may go on to later moments until there is an answer.
        self.sketch = sketch_of(source, self.root, 0)?;
        let prefix = |at| Prefix::ROOT.narrowed(bits, at);
        let buckets: Vec<_> =
            digests.iter().enumerate().map(|(at, digest)| (prefix(at), *digest)).collect();
        let tag = |&(prefix, digest)| self.key.short_tag(prefix, digest).0;
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is what is meant")]
        let opening = Opening {
            count: count_of(&digests) as u32,
            whole: self.key.tag_over(buckets.iter().copied()),
            tags: buckets.iter().map(tag).collect(),
        };
        self.asked.push_back(Question::Open(buckets));
        self.send(opening.encode(), step)
    }

    /// Sends the questions of a round, or ends.
    fn ask<S: Source>(&mut self, source: &S, step: &mut Step) -> Result<(), Halt<S::Failure>> {
        let Round { mut wants, offers, groups } = std::mem::take(&mut self.next);
        let mut offers: Vec<_> = offers.into_iter().map(link_bytes).collect();
        offers.sort_unstable();
        offers.dedup();
        let is_settled = groups.is_empty() && self.open.is_empty() && self.kept.is_none();
        if wants.is_empty() && is_settled {
            return self.end(offers, step);
        }
        self.offer(&offers, step)?;
        self.ask_kept(step)?;
        wants.sort_unstable();
        wants.dedup();
        for ids in wants.chunks(MAX_SHORT_IDS) {
            self.say(&Message::Want(ids.iter().map(|id| id.0).collect()), step)?;
            self.asked.push_back(Question::Want(ids.to_vec()));
        }
        let is_widening = !groups.is_empty();
        for group in groups {
            self.widen(group, step)?;
        }
        if !is_widening && !self.open.is_empty() {
            self.compare(source, step)?;
        }
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS { Err(Halt::Ceiling) } else { Ok(()) }
    }

    /// There is nothing more to ask.
    fn end<E>(
        &mut self,
        mut offers: Vec<[u8; LINK_BYTES]>,
        step: &mut Step,
    ) -> Result<(), Halt<E>> {
        self.ended = true;
        step.end = Some(End::of(self.complete));
        if self.is_same {
            return Ok(());
        }
        if !self.complete {
            self.offer(&offers, step)?;
            return self.say(&Message::Incomplete, step);
        }
        let last = offers.split_off(offers.len().saturating_sub(MAX_FRAME_LINKS));
        self.offer(&offers, step)?;
        self.say(&Message::End(last), step)
    }

    fn offer<E>(&mut self, links: &[[u8; LINK_BYTES]], step: &mut Step) -> Result<(), Halt<E>> {
        let mut frames = links.chunks(MAX_FRAME_LINKS);
        frames.try_for_each(|links| self.say(&Message::Offer(links.to_vec()), step))
    }

    fn say<E>(&mut self, message: &Message, step: &mut Step) -> Result<(), Halt<E>> {
        self.send(message.encode(), step)
    }

    fn send<E>(&mut self, frame: Vec<u8>, step: &mut Step) -> Result<(), Halt<E>> {
        self.meter.send(frame.len())?;
        step.frames.push(frame);
        Ok(())
    }

    /// Compares as much of what is open as one message holds.
    fn compare<S: Source>(&mut self, source: &S, step: &mut Step) -> Result<(), Halt<S::Failure>> {
        let mut chosen = Vec::new();
        let mut tags = 0;
        while let Some(&(prefix, fan)) = self.open.last() {
            tags += 1 << fan;
            if tags > MAX_TAGS {
                break;
            }
            self.open.pop();
            chosen.push((prefix, fan));
        }
        chosen.sort_unstable();
        let (mut spans, mut buckets) = (Vec::new(), Vec::new());
        let source = self.meter.over(source);
        for (prefix, fan) in chosen {
            let digests = digests(&source, &source, prefix, fan)?;
            let count = count_of(&digests);
            let each = || digests.iter().enumerate();
            let prefix_of = |at| prefix.narrowed(fan, at);
            let tags = each().map(|(at, digest)| self.key.tag(prefix_of(at), *digest).0).collect();
            buckets.extend(each().map(|(at, digest)| (prefix_of(at), digest.count)));
            spans.push(Compared { prefix, count, tags });
        }
        self.asked.push_back(Question::Compare(buckets));
        self.say(&Message::Compare(spans), step)
    }

    /// Asks for more cells of a group, as many as it has several times over.
    fn widen<E>(&mut self, group: Group, step: &mut Step) -> Result<(), Halt<E>> {
        let from = group.theirs.len();
        let growth = if group.is_widened { GROWTH } else { FIRST_GROWTH };
        let to = (from * growth).min(MAX_GROUP_CELLS.into());
        let number = |cells: usize| u16::try_from(cells).expect("no more cells than a group has");
        let prefixes = group.prefixes.clone();
        self.asked.push_back(Question::More(group));
        let more = More { prefixes, from: number(from), to: number(to) };
        self.say(&Message::More(Box::new(more)), step)
    }
}

/// Into how many buckets, in bits, a set of `count` links is divided first.
fn opening_bits(count: u64) -> u8 {
    if count <= MAX_WHOLE {
        return 0;
    }
    (OPENING_BITS..MAX_OPENING_BITS)
        .find(|bits| count >> bits <= MAX_BUCKET_LINKS / 2)
        .unwrap_or(MAX_OPENING_BITS)
}
