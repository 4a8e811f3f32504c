//! What the opener makes of answers.

use crate::answerer::MAX_BUCKET_LINKS;
use crate::cells::{Cell, Difference, Row, decode};
use crate::key::{SHORT_PREFIX_BITS, ShortId};
use crate::message::{Cells, MAX_GROUP_CELLS, MAX_GROUPS, Part, What};
use crate::meter::Halt;
use crate::prefix::{LEVEL_BITS, MAX_PREFIX_BITS, Prefix};
use crate::session::{MAX_ANSWER_LINKS, Source, Step, Violation, each_short_id, find, link_from};

use super::{Group, Opener};

/// Links offered in a round, above which buckets wait for the next: bounds what is held.
const MAX_ROUND_OFFERS: usize = 1 << 16;

/// The answer to a comparison, taken apart.
#[derive(Default)]
struct Sorted {
    /// Whether anything is said but that it is to be asked again.
    progressed: bool,
    /// With the number of links here.
    listed: Vec<(Prefix, u64, Vec<ShortId>)>,
    groups: [Group; MAX_GROUPS as usize],
}

impl Opener {
    /// Takes the answer to a comparison. Whether anything is better known.
    pub(super) fn compared<S: Source>(
        &mut self,
        source: &S,
        buckets: &[(Prefix, u64)],
        parts: Vec<Part>,
    ) -> Result<bool, Halt<S::Failure>> {
        let Some(answer) = self.sort_out(buckets, parts)? else {
            return Ok(false);
        };
        for (prefix, count, ids) in answer.listed {
            if count > MAX_BUCKET_LINKS {
                self.divide(prefix);
            } else if self.next.offers.len() > MAX_ROUND_OFFERS {
                self.open.push((prefix, 0));
            } else {
                self.listed(source, prefix, &ids)?;
            }
        }
        for group in answer.groups.into_iter().filter(|group| !group.prefixes.is_empty()) {
            if group.links > MAX_ANSWER_LINKS {
                group.prefixes.iter().for_each(|prefix| self.divide(*prefix));
            } else {
                self.look_for_difference(source, group)?;
            }
        }
        Ok(answer.progressed)
    }

    /// Takes an answer apart, and opens again what it has put off. `None` if nothing differs.
    fn sort_out(
        &mut self,
        buckets: &[(Prefix, u64)],
        parts: Vec<Part>,
    ) -> Result<Option<Sorted>, Violation> {
        let mut answer = Sorted::default();
        let mut parts = parts.into_iter();
        let verdicts = match parts.next() {
            None => return Ok(None),
            Some(Part::Verdicts(verdicts)) => verdicts,
            Some(_) => return Err(Violation::Unfitting("it does not begin with what differs")),
        };
        for verdict in verdicts {
            let Some(&(prefix, count)) = buckets.get(usize::from(verdict.at)) else {
                return Err(Violation::Unfitting("a bucket that was not compared"));
            };
            answer.progressed |= verdict.what != What::Later;
            match verdict.what {
                What::Later => self.open.push((prefix, 0)),
                What::Deeper if prefix.bits() + LEVEL_BITS > MAX_PREFIX_BITS => {
                    return Err(Violation::Unfitting("it goes below the deepest level"));
                }
                What::Deeper => self.divide(prefix),
                What::Listed => {
                    let Some(Part::Listed(ids)) = parts.next() else {
                        return Err(Violation::Unfitting("a list is missing"));
                    };
                    let ids: Vec<ShortId> = ids.into_iter().map(ShortId).collect();
                    if !ids.iter().all(|id| covers(&[prefix], *id)) {
                        return Err(Violation::Unfitting("a list of what is elsewhere"));
                    }
                    answer.listed.push((prefix, count, ids));
                }
                What::Group(group) => {
                    let group = &mut answer.groups[usize::from(group)];
                    group.prefixes.push(prefix);
                    group.links = group.links.saturating_add(count);
                }
            }
        }
        for part in parts {
            let Part::Cells(Cells { group, cells }) = part else {
                return Err(Violation::Unfitting("something else than cells after the lists"));
            };
            answer.groups[usize::from(group)]
                .theirs
                .extend(cells.into_iter().map(Cell::from_bytes));
        }
        let fits = |group: &Group| {
            group.prefixes.is_empty() == group.theirs.is_empty()
                && group.theirs.len() <= MAX_GROUP_CELLS.into()
        };
        if !answer.groups.iter().all(fits) {
            return Err(Violation::Unfitting("a group without cells, or with too many"));
        }
        Ok(Some(answer))
    }

    /// To be compared one level down; what is too deep for that stays unknown.
    fn divide(&mut self, prefix: Prefix) {
        if prefix.bits() + LEVEL_BITS > MAX_PREFIX_BITS {
            self.complete = false;
        } else {
            self.open.push((prefix, LEVEL_BITS));
        }
    }

    /// Compares the other side's list of what is under `prefix` with one's own.
    fn listed<S: Source>(
        &mut self,
        source: &S,
        prefix: Prefix,
        theirs: &[ShortId],
    ) -> Result<(), Halt<S::Failure>> {
        let mut ours = Vec::new();
        let (source, next) = (self.meter.over(source), &mut self.next);
        each_short_id(&source, &self.key.names, &[prefix], |id, link| {
            ours.push(id);
            if theirs.binary_search(&id).is_err() {
                next.offers.push(link);
            }
        })?;
        ours.sort_unstable();
        next.wants.extend(theirs.iter().filter(|id| ours.binary_search(id).is_err()));
        Ok(())
    }

    /// Takes more cells of a group.
    pub(super) fn widened<S: Source>(
        &mut self,
        source: &S,
        mut group: Group,
        parts: Vec<Part>,
    ) -> Result<bool, Halt<S::Failure>> {
        group.is_widened = true;
        for part in parts {
            let Part::Cells(Cells { group: 0, cells }) = part else {
                return Err(Violation::Unfitting("something else than cells").into());
            };
            group.theirs.extend(cells.into_iter().map(Cell::from_bytes));
        }
        if group.theirs.len() > MAX_GROUP_CELLS.into() {
            return Err(Violation::Unfitting("more cells than a group has").into());
        }
        let progressed = group.theirs.len() > group.ours.len();
        self.look_for_difference(source, group)?;
        Ok(progressed)
    }

    /// Looks for the difference of a group in as many cells as came; if they are too few, more
    /// are to be asked for, or it is to be divided.
    fn look_for_difference<S: Source>(
        &mut self,
        source: &S,
        mut group: Group,
    ) -> Result<(), Halt<S::Failure>> {
        let mut row = Row::new(&self.key.names, group.ours.len(), group.theirs.len());
        let source = self.meter.over(source);
        each_short_id(&source, &self.key.names, &group.prefixes, |id, _| row.insert(id))?;
        group.ours.extend(row.into_cells());
        match decode(&self.key.names, &group.theirs, &group.ours) {
            Some(Difference { theirs, mut ours }) => {
                ours.sort_unstable();
                let links = find(&source, &self.key.names, &ours)?;
                let is_known = theirs.iter().all(|id| covers(&group.prefixes, *id));
                if links.len() < ours.len() || !is_known {
                    return Err(Violation::Cells.into());
                }
                self.next.offers.extend(links);
                self.next.wants.extend(theirs);
            }
            None if group.theirs.len() < MAX_GROUP_CELLS.into() => self.next.groups.push(group),
            None => group.prefixes.iter().for_each(|prefix| self.divide(*prefix)),
        }
        Ok(())
    }

    /// Takes links that were asked for.
    pub(super) fn given(
        &mut self,
        ids: &[ShortId],
        parts: Vec<Part>,
        step: &mut Step,
    ) -> Result<bool, Violation> {
        let before = step.lacking.len();
        for part in parts {
            let Part::Links(links) = part else {
                return Err(Violation::Unfitting("something else than links"));
            };
            step.lacking.extend(links.iter().map(link_from));
        }
        let given = &step.lacking[before..];
        let is_wanted = |link| ids.binary_search(&self.key.names.short_id(link)).is_ok();
        if given.len() > ids.len() || !given.iter().all(|link| is_wanted(*link)) {
            return Err(Violation::Unfitting("links that were not asked for"));
        }
        if given.len() < ids.len() {
            self.complete = false;
        }
        Ok(!given.is_empty())
    }
}

/// Whether a link under one of the prefixes, which are in order, may have this short id.
fn covers(prefixes: &[Prefix], id: ShortId) -> bool {
    let range = id.prefix();
    let after = prefixes.partition_point(|prefix| prefix.start() <= range.last_start());
    after.checked_sub(1).is_some_and(|last| {
        prefixes[last].shortened(SHORT_PREFIX_BITS).contains_start(range.start())
    })
}
