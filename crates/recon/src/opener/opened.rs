//! What the opener makes of the answer to its opening: which buckets differ in one link, and
//! whether those that seem to be equal are.

use ark_core::{Link, ObjectKind};

use crate::draft::digests_with;
use crate::message::{OneLess, OneMore, Part};
use crate::meter::Halt;
use crate::prefix::Prefix;
use crate::session::{Source, Step, Violation, link_from, sum_of};
use crate::trie::{Digest, LINK_BYTES, Links};

use super::Opener;

/// Bits of the first bytes by which a link is found.
const FOUND_BY_BITS: u8 = 56;

/// The answer to an opening, as far as it is about buckets without a verdict.
#[derive(Default)]
struct Named {
    rest: [u8; 8],
    more: Vec<OneMore>,
    less: Vec<OneLess>,
    /// Which have one.
    told: Vec<u16>,
}

impl Named {
    /// Takes it off the front of an answer; `None` if that is empty.
    fn take(parts: &mut Vec<Part>, buckets: usize) -> Result<Option<Self>, Violation> {
        let mut named = Self::default();
        let mut rest = std::mem::take(parts).into_iter().peekable();
        match rest.next() {
            None => return Ok(None),
            Some(Part::Rest(tag)) => named.rest = tag,
            Some(_) => return Err(Violation::Unfitting("it does not begin with the rest")),
        }
        if let Some(Part::OneMore(more)) = rest.next_if(|part| matches!(part, Part::OneMore(_))) {
            named.more = more;
        }
        while let Some(Part::OneLess(less)) = rest.next_if(|it| matches!(it, Part::OneLess(_))) {
            named.less.push(less);
        }
        parts.extend(rest);
        if let Some(Part::Verdicts(verdicts)) = parts.first() {
            named.told = verdicts.iter().map(|verdict| verdict.at).collect();
        }
        let at = named.more.iter().map(|it| it.at).chain(named.less.iter().map(|it| it.at));
        let mut at: Vec<u16> = at.chain(named.told.iter().copied()).collect();
        let count = at.len();
        at.sort_unstable();
        at.dedup();
        if at.len() < count || at.last().is_some_and(|last| usize::from(*last) >= buckets) {
            return Err(Violation::Unfitting("a bucket twice, or one that was not compared"));
        }
        Ok(Some(named))
    }

    fn is_told(&self, at: usize) -> bool {
        u16::try_from(at).is_ok_and(|at| self.told.binary_search(&at).is_ok())
    }
}

impl Opener {
    /// Takes the answer to the opening. Whether anything is better known.
    pub(super) fn opened<S: Source>(
        &mut self,
        source: &S,
        buckets: &[(Prefix, Digest)],
        mut parts: Vec<Part>,
        step: &mut Step,
    ) -> Result<bool, Halt<S::Failure>> {
        let Some(named) = Named::take(&mut parts, buckets.len())? else {
            self.is_same = true;
            return Ok(true);
        };
        let links = self.find_named(source, buckets, &named)?;
        if let Some(Part::Kept(_)) = parts.first() {
            let (bits, named) = (buckets[0].0.bits(), (named.rest, links.unwrap_or_default()));
            return self.kept_opened(source, bits, named, parts, step);
        }
        let untold = || (0..).zip(buckets).filter(|(at, _)| !named.is_told(*at));
        let after = match &links {
            Some((more, less)) if !more.is_empty() || !less.is_empty() => {
                let bits = buckets[0].0.bits();
                digests_with(&self.meter.over(source), bits, more, less)?
            }
            _ => buckets.iter().map(|(_, digest)| *digest).collect(),
        };
        let rest = untold().map(|(at, (prefix, _))| (*prefix, after[at]));
        let mut progressed = false;
        match links {
            Some((more, less)) if self.key.tag_over(rest) == named.rest => {
                if more.is_empty() && less.is_empty() && parts.is_empty() {
                    return Err(Violation::Unfitting("nothing differs, and yet all").into());
                }
                progressed = !more.is_empty() || !less.is_empty();
                step.lacking.extend(more);
                self.next.offers.extend(less);
            }
            // Some that seemed to differ in one link, or in none, differ in more: the tags that
            // tell are longer.
            _ if parts.is_empty() => self.open.push((Prefix::ROOT, buckets[0].0.bits())),
            _ => self.open.extend(untold().map(|(_, (prefix, _))| (*prefix, 0))),
        }
        if !parts.is_empty() {
            let counts: Vec<_> =
                buckets.iter().map(|(prefix, digest)| (*prefix, digest.count)).collect();
            progressed |= self.compared(source, &counts, parts)?;
        }
        Ok(progressed)
    }

    /// The links that buckets are said to differ in. `None` where they do not differ so.
    fn find_named<S: Source>(
        &mut self,
        source: &S,
        buckets: &[(Prefix, Digest)],
        named: &Named,
    ) -> Result<Option<Found>, Halt<S::Failure>> {
        let (mut more, mut less) = (Vec::new(), Vec::new());
        let at = named.more.iter().map(|it| it.at).chain(named.less.iter().map(|it| it.at));
        let counts = at.map(|at| buckets[usize::from(at)].1.count);
        self.need_sketch(source, counts.fold(0, u64::saturating_add))?;
        let sketch = self.sketch.clone();
        let source = self.meter.over(source);
        let sum = |prefix| match &sketch {
            Some(sketch) => Ok(sketch.sum(prefix)),
            None => sum_of(&source, prefix),
        };
        for OneMore { at, sum: theirs } in &named.more {
            let (prefix, _) = buckets[usize::from(*at)];
            let link = link_of(xor(sum(prefix)?, theirs));
            let Some(link) = link.filter(|link| prefix.contains(link.id)) else { return Ok(None) };
            more.push(link);
        }
        for OneLess { at, sum: theirs } in &named.less {
            let (prefix, _) = buckets[usize::from(*at)];
            let first = xor(sum(prefix)?, theirs);
            let mut start = [0; 8];
            start[..theirs.len()].copy_from_slice(&first[..theirs.len()]);
            let found_by = Prefix::new(u64::from_be_bytes(start), FOUND_BY_BITS);
            let found_by = found_by.filter(|it| prefix.contains_start(it.start()));
            let Some(found_by) = found_by else { return Ok(None) };
            let mut found = source.links(found_by)?;
            match (found.next().transpose()?, found.next().transpose()?) {
                (Some(link), None) => less.push(link),
                _ => return Ok(None),
            }
        }
        Ok(Some((more, less)))
    }
}

/// What the other side has more, and less.
pub(super) type Found = (Vec<Link>, Vec<Link>);

/// The link of these bytes, if they are one.
fn link_of(bytes: [u8; LINK_BYTES]) -> Option<Link> {
    ObjectKind::from_u8(bytes[LINK_BYTES - 1]).map(|_| link_from(&bytes))
}

/// Where `other` is shorter, the rest is as it was.
fn xor(mut bytes: [u8; LINK_BYTES], other: &[u8]) -> [u8; LINK_BYTES] {
    bytes.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
    bytes
}
