//! What a writer of a jj repo says after it changed the heads.

use std::collections::{BTreeMap, BTreeSet};

use super::{Head, State, heads};
use crate::id::{Dot, ObjectId, Vector, Writer};

/// What a state says of heads, beside who says it: the fields of [`State`] of these names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Its writer's own heads.
    pub heads: Vec<Head>,
    /// What it has taken in.
    pub vector: Vector,
    /// The dots of others that it holds.
    pub held: Vec<Dot>,
}

/// What the writer of `dot` says once it has, under that dot, dropped those heads of `old` that are
/// heads, `new` aside, and made `new` one unless it is one already. `None`: that changes nothing,
/// and nothing is to be said.
///
/// A head is dropped with all its dots, of whichever writer, and none but those: what this writer
/// has not joined it cannot drop. All that the joined states have taken in is taken in; a dot of
/// another that one of them holds stays held though its writer's state is not here, because that
/// writer may list it, and to take it in without holding it would be to drop it.
///
/// `joined` is as for [`heads`], of a jj repo, with what this writer said last among them.
pub fn update_heads<'a>(
    joined: impl IntoIterator<Item = &'a State>,
    dot: Dot,
    old: &[ObjectId],
    new: Option<ObjectId>,
) -> Option<Said> {
    let joined: Vec<&State> = joined.into_iter().collect();
    let now = heads(joined.iter().copied());
    let replaced = now.iter().filter(|head| old.contains(&head.id) && Some(head.id) != new);
    let dropped: BTreeSet<Dot> = replaced.flat_map(|head| head.dots.iter().copied()).collect();
    let new = new.filter(|new| now.iter().all(|head| head.id != *new));
    (new.is_some() || !dropped.is_empty()).then(|| say(&joined, dot, &dropped, new))
}

/// What the writer of `dot` says once it has made one of the heads of writers that are `gone` its
/// own, under that dot. `None`: it has none to make its own. One at a time, because each head of a
/// writer's has a dot of its own: to be asked again until then.
pub fn take_over<'a>(
    joined: impl IntoIterator<Item = &'a State>,
    dot: Dot,
    gone: impl Fn(Writer) -> bool,
) -> Option<Said> {
    let joined: Vec<&State> = joined.into_iter().collect();
    let now = heads(joined.iter().copied());
    let is_gone = |dot: &Dot| gone(dot.writer);
    let head = now.iter().find(|head| head.dots.iter().any(is_gone))?;
    // Who made the same head and is not gone keeps it.
    let new = head.dots.iter().all(is_gone).then_some(head.id);
    let dropped = head.dots.iter().copied().filter(is_gone).collect();
    Some(say(&joined, dot, &dropped, new))
}

/// What the writer of `dot` says once it lists, beside what it said, one of the heads of the joined
/// state of another writer, the one of `instead`, that `instead` does not list under the same dot;
/// none is dropped. `None`: there is none, or it lists all of them.
///
/// For a device that is another writer now, because what it wrote as the one before was also written
/// elsewhere: of two states of that writer one is lost, here where `instead` is joined. A dot of that
/// writer may stand for two heads, so it is not known to be had, and not dropped.
pub fn list_again<'a>(
    joined: impl IntoIterator<Item = &'a State>,
    dot: Dot,
    instead: &State,
) -> Option<Said> {
    let joined: Vec<&State> = joined.into_iter().collect();
    let said_by = |writer: Writer| joined.iter().find(|state| state.writer == writer);
    let own = said_by(dot.writer).map_or(&[][..], |state| &state.heads);
    let now = heads(joined.iter().copied());
    let is_lost = |head: &&Head| {
        !instead.heads.contains(head)
            && !own.iter().any(|listed| listed.id == head.id)
            && now.iter().any(|it| it.id == head.id)
    };
    let new = said_by(instead.writer)?.heads.iter().find(is_lost)?.id;
    Some(say(&joined, dot, &BTreeSet::new(), Some(new)))
}

/// After `dropped` were dropped and `new` was made a head.
fn say(joined: &[&State], dot: Dot, dropped: &BTreeSet<Dot>, new: Option<ObjectId>) -> Said {
    let own = dot.writer;
    let by_writer: BTreeMap<Writer, &State> =
        joined.iter().map(|state| (state.writer, *state)).collect();
    let stays =
        |dot: &Dot| !dropped.contains(dot) && !joined.iter().any(|state| state.has_dropped(*dot));

    let mut heads: Vec<Head> = Vec::new();
    if let Some(said) = by_writer.get(&own) {
        let kept = said.heads.iter().zip(said.head_dots()).filter(|(_, dot)| stays(dot));
        heads.extend(kept.map(|(head, _)| *head));
    }
    heads.extend(new.map(|id| Head { id, sequence: dot.sequence }));

    let others = joined.iter().filter(|state| state.writer != own);
    let listed = others.flat_map(|state| state.head_dots());
    // Where a writer's own state knows of a dot, that state alone says whether it is a head.
    let is_known = |dot: &Dot| by_writer.get(&dot.writer).is_some_and(|it| it.vector.has(*dot));
    let held = joined.iter().flat_map(|state| state.held.iter().copied());
    let held = held.filter(|dot| dot.writer != own && !is_known(dot));
    let held: BTreeSet<Dot> = listed.chain(held).filter(stays).collect();

    let mut vector = Vector::empty();
    for state in joined {
        vector.take_in_all(&state.vector);
    }
    vector.take_in(dot);
    Said { heads, vector, held: held.into_iter().collect() }
}
