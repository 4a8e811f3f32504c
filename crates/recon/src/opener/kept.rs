//! What the opener makes of kept cells. They are of a key that is known, so links can be made that
//! hide each other in them: what they say is believed once the set that it gives is the other
//! side's, by its tag, which no link that was made can have known. Where it is not, buckets are
//! compared as if nothing had been said.

use std::sync::Arc;

use ark_core::Link;

use crate::cells::{Cell, Difference, decode};
use crate::draft::digests_with;
use crate::key::{NameKey, ShortId};
use crate::message::{KEPT_CELLS, MAX_SHORT_IDS, Message, Part};
use crate::meter::Halt;
use crate::prefix::Prefix;
use crate::session::{MAX_ANSWER_LINKS, Source, Step, Violation, find, link_from, sketch_of};
use crate::sketch::Sketch;

use super::opened::Found;
use super::{FIRST_GROWTH, GROWTH, Opener, Question};

/// How often more kept cells are asked for: for eight times the differences that were expected.
/// Links that were made to hide each other may be such that no number of cells gives them.
const MAX_WIDENED: u8 = 2;

/// What kept cells say, until it is settled.
#[derive(Debug)]
pub(super) struct Kept {
    /// The source's, or one that is made for this session.
    sketch: Arc<Sketch>,
    /// Of the buckets of the opening.
    bits: u8,
    /// The other side's tag over all of them.
    whole: [u8; 8],
    /// What it has more, and less, as far as that is told.
    more: Vec<Link>,
    less: Vec<Link>,
    theirs: Vec<Cell>,
    /// How often more were asked for.
    widened: u8,
    /// To be asked for.
    wants: Vec<ShortId>,
    /// Wanted links were not given, or not those alone.
    is_wrong: bool,
}

impl Kept {
    /// As [`Opener::held_bytes`].
    pub(super) fn held_bytes(&self) -> usize {
        (usize::from(KEPT_CELLS) + self.theirs.len()) * size_of::<Cell>()
            + (self.more.len() + self.less.len()) * size_of::<Link>()
            + self.wants.len() * size_of::<ShortId>()
    }
}

impl Opener {
    /// Sees to it that there is a sketch, if the source gives one.
    pub(super) fn need_sketch<S: Source>(
        &mut self,
        source: &S,
        otherwise: u64,
    ) -> Result<(), Halt<S::Failure>> {
        if self.sketch.is_none() && otherwise > 0 {
            self.sketch = sketch_of(source, self.root, otherwise)?;
        }
        Ok(())
    }

    /// Takes the kept cells of the answer to the opening, with what is said besides. Whether
    /// anything is better known.
    pub(super) fn kept_opened<S: Source>(
        &mut self,
        source: &S,
        bits: u8,
        (whole, (more, less)): ([u8; 8], Found),
        parts: Vec<Part>,
        step: &mut Step,
    ) -> Result<bool, Halt<S::Failure>> {
        self.need_sketch(source, self.root.count)?;
        let sketch = match &self.sketch {
            Some(sketch) => sketch.clone(),
            None if self.root.count <= MAX_ANSWER_LINKS => {
                let source = self.meter.over(source);
                Arc::new(Sketch::with_key(&source, self.key.kept.clone())?)
            }
            None => {
                self.open.push((Prefix::ROOT, bits));
                return Ok(true);
            }
        };
        let mut kept = Box::new(Kept {
            sketch,
            bits,
            whole,
            more,
            less,
            theirs: Vec::new(),
            widened: 0,
            wants: Vec::new(),
            is_wrong: false,
        });
        take_cells(&mut kept.theirs, parts)?;
        self.look_into_kept(source, kept, step)?;
        Ok(true)
    }

    /// Takes more kept cells.
    pub(super) fn kept_widened<S: Source>(
        &mut self,
        source: &S,
        parts: Vec<Part>,
        step: &mut Step,
    ) -> Result<bool, Halt<S::Failure>> {
        let Some(mut kept) = self.kept.take() else { return Ok(false) };
        kept.widened += 1;
        let before = kept.theirs.len();
        take_cells(&mut kept.theirs, parts)?;
        let progressed = kept.theirs.len() > before;
        self.look_into_kept(source, kept, step)?;
        Ok(progressed)
    }

    /// Looks for the difference in as many cells as came. If they are too few, more are to be
    /// asked for, unless that was done in vain.
    fn look_into_kept<S: Source>(
        &mut self,
        source: &S,
        mut kept: Box<Kept>,
        step: &mut Step,
    ) -> Result<(), Halt<S::Failure>> {
        let key = &self.key.kept;
        let ours = kept.sketch.first_cells_with(kept.theirs.len(), &kept.more, &kept.less);
        let Some(Difference { mut theirs, mut ours }) = decode(key, &kept.theirs, &ours) else {
            if kept.widened < MAX_WIDENED && kept.theirs.len() < KEPT_CELLS.into() {
                self.kept = Some(kept);
            } else {
                self.open.push((Prefix::ROOT, kept.bits));
            }
            return Ok(());
        };
        take_back(key, &mut kept.more, &mut ours);
        take_back(key, &mut kept.less, &mut theirs);
        ours.sort_unstable();
        let less = find(&self.meter.over(source), key, &ours)?;
        kept.is_wrong = less.len() != ours.len();
        kept.less.extend(less);
        theirs.sort_unstable();
        theirs.dedup();
        kept.wants = theirs;
        if kept.is_wrong || kept.wants.is_empty() {
            return self.settle(source, *kept, step).map(drop);
        }
        self.kept = Some(kept);
        Ok(())
    }

    /// Asks for what kept cells call for: links, or more of them.
    pub(super) fn ask_kept<E>(&mut self, step: &mut Step) -> Result<(), Halt<E>> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let wants = std::mem::take(&mut kept.wants);
        if wants.is_empty() {
            let growth = if kept.widened > 0 { GROWTH } else { FIRST_GROWTH };
            let to = (kept.theirs.len() * growth).min(KEPT_CELLS.into());
            self.asked.push_back(Question::MoreKept);
            return self.say(&Message::MoreKept(u16::try_from(to).unwrap_or(KEPT_CELLS)), step);
        }
        for ids in wants.chunks(MAX_SHORT_IDS) {
            self.say(&Message::WantKept(ids.iter().map(|id| id.0).collect()), step)?;
            self.asked.push_back(Question::WantKept(ids.to_vec()));
        }
        Ok(())
    }

    /// Takes links that were asked for by the short ids of kept cells. Of one short id there may
    /// be several, if somebody looked for such.
    pub(super) fn kept_given<S: Source>(
        &mut self,
        source: &S,
        ids: &[ShortId],
        parts: Vec<Part>,
        step: &mut Step,
    ) -> Result<bool, Halt<S::Failure>> {
        let links = links_of(parts)?;
        let is_wanted = |link| ids.binary_search(&self.key.kept.short_id(link)).is_ok();
        if !links.iter().all(|link| is_wanted(*link)) {
            return Err(Violation::Unfitting("links that were not asked for").into());
        }
        let Some(mut kept) = self.kept.take() else { return Ok(false) };
        let progressed = !links.is_empty();
        if links.len() == ids.len() {
            kept.more.extend(links);
        } else {
            kept.is_wrong = true;
        }
        if self.asked.is_empty() {
            self.settle(source, *kept, step)?;
        } else {
            self.kept = Some(kept);
        }
        Ok(progressed)
    }

    /// Takes what was told for true if it gives the other side's set; compares buckets otherwise.
    fn settle<S: Source>(
        &mut self,
        source: &S,
        kept: Kept,
        step: &mut Step,
    ) -> Result<(), Halt<S::Failure>> {
        let Kept { bits, whole, more, less, is_wrong, .. } = kept;
        let is_true = !is_wrong && {
            let source = self.meter.over(source);
            let after = digests_with(&source, bits, &more, &less)?;
            let after = after.into_iter().enumerate();
            self.key.tag_over(after.map(|(at, it)| (Prefix::ROOT.narrowed(bits, at), it))) == whole
        };
        if is_true {
            step.lacking.extend(more);
            self.next.offers.extend(less);
        } else {
            self.open.push((Prefix::ROOT, bits));
        }
        Ok(())
    }
}

/// Takes kept cells, of which there are no more than are kept.
fn take_cells(cells: &mut Vec<Cell>, parts: Vec<Part>) -> Result<(), Violation> {
    for part in parts {
        let Part::Kept(more) = part else {
            return Err(Violation::Unfitting("something else than kept cells"));
        };
        cells.extend(more.into_iter().map(Cell::from_bytes));
    }
    if cells.len() > KEPT_CELLS.into() {
        return Err(Violation::Unfitting("more cells than are kept"));
    }
    Ok(())
}

fn links_of(parts: Vec<Part>) -> Result<Vec<Link>, Violation> {
    let mut all = Vec::new();
    for part in parts {
        let Part::Links(links) = part else {
            return Err(Violation::Unfitting("something else than links"));
        };
        all.extend(links.iter().map(link_from));
    }
    Ok(all)
}

/// Takes out of both which of `named` the difference takes back: a bucket that seemed to differ in
/// one link alone and did not.
fn take_back(key: &NameKey, named: &mut Vec<Link>, ids: &mut Vec<ShortId>) {
    named.retain(|link| {
        let id = key.short_id(*link);
        let place = ids.iter().position(|it| *it == id);
        place.map(|place| ids.swap_remove(place)).is_none()
    });
}
