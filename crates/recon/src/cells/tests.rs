//! That rows give differences, whatever was put in, and that what is no row gives none and ends.

use ark_core::TopicId;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

fn key() -> NameKey {
    NameKey::kept(TopicId::derive("x", None))
}

fn row(ids: impl IntoIterator<Item = u64>, from: usize, to: usize) -> Vec<Cell> {
    let mut row = Row::new(&key(), from, to);
    ids.into_iter().for_each(|id| row.insert(ShortId(id)));
    row.into_cells()
}

fn sorted(ids: Vec<ShortId>) -> Vec<u64> {
    let mut ids: Vec<u64> = ids.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

proptest! {
    #[test]
    fn enough_cells_give_the_difference_and_too_few_nothing_false(
        common in btree_set(any::<u64>(), 0..300),
        theirs in btree_set(any::<u64>(), 0..60),
        ours in btree_set(any::<u64>(), 0..60),
        cells in 0usize..700,
    ) {
        let theirs: Vec<u64> = theirs.difference(&common).copied().collect();
        let ours: Vec<u64> = ours.into_iter().filter(|id| !common.contains(id) && !theirs.contains(id)).collect();
        let a = row(common.iter().chain(&theirs).copied(), 0, cells);
        let b = row(common.iter().chain(&ours).copied(), 0, cells);
        let differ = theirs.len() + ours.len();
        match decode(&key(), &a, &b) {
            Some(found) => {
                prop_assert_eq!(sorted(found.theirs), theirs);
                prop_assert_eq!(sorted(found.ours), ours);
            }
            // Few ids that share their places need many: one case in millions needs more.
            None => prop_assert!(cells < 2 * differ + 300),
        }
    }

    #[test]
    fn a_row_continues_where_it_was_cut(ids in btree_set(any::<u64>(), 0..50), cut in 0usize..200) {
        let whole = row(ids.iter().copied(), 0, 200);
        let parts = [row(ids.iter().copied(), 0, cut), row(ids.iter().copied(), cut, 200)].concat();
        prop_assert_eq!(&whole, &parts);
        for cell in whole {
            prop_assert_eq!(Cell::from_bytes(cell.to_bytes()), cell);
        }
    }

    #[test]
    fn what_is_no_row_gives_nothing_and_ends(
        garbage in vec(any::<[u8; CELL_BYTES]>(), 1..100),
        ids in vec(any::<u64>(), 1..4),
        twice in vec(any::<(u8, bool)>(), 0..20),
    ) {
        let mut cells: Vec<Cell> = garbage.into_iter().map(Cell::from_bytes).collect();
        let none = vec![Cell::EMPTY; cells.len()];
        prop_assert_eq!(decode(&key(), &cells, &none), None);
        // Ids where they do not belong, to and fro, so that peeling one makes another pure.
        cells.fill(Cell::EMPTY);
        for (at, sign) in twice {
            let id = ShortId(ids[usize::from(at) % ids.len()]);
            let at = usize::from(at) % cells.len();
            cells[at].toggle(id, check(key().mix, id), if sign { 1 } else { u8::MAX });
        }
        if let Some(found) = decode(&key(), &cells, &none) {
            prop_assert!(found.theirs.len() + found.ours.len() <= cells.len());
        }
    }
}

#[test]
fn as_many_cells_as_are_sent_give_the_difference_nearly_always() {
    for (differ, runs) in
        [(1_u32, 200), (2, 200), (5, 200), (10, 200), (30, 200), (100, 100), (1_000, 20)]
    {
        let cells = cells_for(f64::from(differ));
        let failed = (0..runs).filter(|run| {
            let ids = (0..differ).map(|n| scrambled(u64::from(n) << 32 | run));
            decode(&key(), &row(ids, 0, cells), &vec![Cell::EMPTY; cells]).is_none()
        });
        let failed = failed.count();
        assert!(failed as u64 * 25 < runs, "{failed} of {runs} with {differ}");
    }
}

/// The places are part of the protocol.
#[test]
fn places_are_pinned() {
    let places: Vec<usize> = places([1, 2], ShortId(3)).take(8).collect();
    assert_eq!(places, [0, 2, 3, 6, 8, 12, 13, 14]);
}
