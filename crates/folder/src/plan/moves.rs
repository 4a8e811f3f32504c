//! The order in which content moves from path to path.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ark_core::RelPath;

use super::Action;
use crate::wants::Want;

/// Takes the rings out of `moves` (from target to source): of a pair both moves, which it
/// returns; of a longer ring one, whose content is written anew.
pub(super) fn break_rings(moves: &mut BTreeMap<RelPath, RelPath>) -> Vec<(RelPath, RelPath)> {
    let mut pairs = Vec::new();
    let mut seen: BTreeSet<RelPath> = BTreeSet::new();
    let targets: Vec<RelPath> = moves.keys().cloned().collect();
    for first in targets {
        let mut length = 0;
        let mut at = &first;
        // From target to source. A path seen before is not in a ring with this one: rings were
        // seen whole.
        while let Some(from) = moves.get(at).filter(|_| seen.insert(at.clone())) {
            length += 1;
            at = from;
        }
        if length > 0
            && *at == first
            && let Some(from) = moves.remove(&first).filter(|_| length == 2)
        {
            moves.remove(&from);
            pairs.push((first, from));
        }
    }
    pairs
}

/// Moves in an order in which each finds its target free or done with: chains from their end.
/// There are no rings.
pub(super) fn order_moves(
    moves: &BTreeMap<RelPath, RelPath>,
    wants: &BTreeMap<RelPath, Want>,
) -> Vec<Action> {
    let by_source: HashMap<&RelPath, &RelPath> =
        moves.iter().map(|(to, from)| (from, to)).collect();
    let mut done: BTreeSet<&RelPath> = BTreeSet::new();
    let mut actions = Vec::with_capacity(moves.len());
    for first in moves.keys() {
        // From target to target, as long as what is there moves on itself.
        let mut chain = Vec::new();
        let mut next = Some(first);
        while let Some(to) = next.filter(|&to| done.insert(to)) {
            chain.push(to);
            next = by_source.get(to).copied();
        }
        actions.extend(chain.iter().rev().map(|&to| Action::Move {
            from: moves[to].clone(),
            to: to.clone(),
            want: wants[to].clone(),
        }));
    }
    actions
}
