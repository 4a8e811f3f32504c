//! That a sketch which is brought after its set is the one that is made of it.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ark_core::{ObjectId, ObjectKind};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cells::cells_for;
use crate::message::{MAX_FRAME_BYTES, MAX_KEPT_DIFFERENCES};
use crate::session::sum_of;
use crate::trie::{LinksUnder, Node, rebuild};

/// Links in order, with their nodes.
#[derive(Default)]
struct Set(Vec<Link>, BTreeMap<Prefix, Node>);

impl Set {
    fn of(numbers: impl Iterator<Item = u16>) -> Self {
        let mut links: Vec<Link> = numbers.map(link).collect();
        links.sort_unstable_by_key(|link| link.id);
        links.dedup();
        let (mut set, mut nodes) = (Self(links, BTreeMap::new()), BTreeMap::new());
        let Ok(_) = rebuild(&set, &mut nodes);
        set.1 = nodes;
        set
    }
}

impl Links for Set {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let from = self.0.partition_point(|link| link.id < prefix.first());
        let to = self.0.partition_point(|link| link.id <= prefix.last());
        Ok(Box::new(self.0[from..to].iter().copied().map(Ok)))
    }
}

impl Nodes for Set {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        self.1.node(prefix)
    }
}

fn link(n: u16) -> Link {
    Link { kind: ObjectKind::Raw, id: ObjectId::of(&n.to_le_bytes()) }
}

fn topic() -> TopicId {
    TopicId::derive("my-project", None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_sketch_that_is_brought_after_is_one_made_anew(
        sizes in vec(0u16..900, 1..6),
        shift in 0u16..300,
    ) {
        let empty = Set::default();
        let Ok(mut kept) = Sketch::of(&empty, topic());
        let mut before = empty;
        for (step, size) in (0_u16..).zip(sizes) {
            let set = Set::of(step * shift..step * shift + size);
            let without = |a: &Set, b: &Set| -> Vec<Link> {
                a.0.iter().filter(|link| !b.0.contains(link)).copied().collect()
            };
            let Ok(root) = digest(&set, &set, Prefix::ROOT);
            kept.change(&without(&set, &before), &without(&before, &set), root);
            let Ok(anew) = Sketch::of(&set, topic());
            prop_assert!(kept == anew);
            before = set;
        }
    }
}

/// Of buckets of any size that an opening may have.
#[test]
fn sums_are_those_of_the_links() {
    let set = Set::of(0..5_000);
    let Ok(sketch) = Sketch::of(&set, topic());
    for bits in [0, 6, 9, 10] {
        for at in 0..1 << bits {
            let bucket = Prefix::ROOT.narrowed(bits, at);
            let Ok(sum) = sum_of(&set, bucket);
            assert_eq!(sketch.sum(bucket), sum);
        }
    }
}

#[test]
fn what_is_kept_is_enough_for_what_is_answered_from_it() {
    assert!(cells_for(MAX_KEPT_DIFFERENCES) <= KEPT_CELLS.into());
    assert!(usize::from(KEPT_CELLS) < 6 * MAX_FRAME_BYTES);
}

/// Cells go on where they were cut.
#[test]
fn cells_are_those_of_the_row() {
    let set = Set::of(0..300);
    let Ok(sketch) = Sketch::of(&set, topic());
    let whole = sketch.cells(0, usize::MAX);
    assert_eq!(whole.len(), usize::from(KEPT_CELLS));
    assert_eq!([sketch.cells(0, 70), sketch.cells(70, 200)].concat(), whole[..200]);
    let (first, last) = (set.0[0], set.0[299]);
    let moved = sketch.first_cells_with(200, &[first], &[last]);
    assert_ne!(moved, whole[..200]);
    let fewer = Set::of((0..300).filter(|n| link(*n) != last));
    let Ok(mut fewer) = Sketch::of(&fewer, topic());
    fewer.change(&[first], &[], Digest::EMPTY);
    assert_eq!(fewer.cells(0, 200), moved);
}
