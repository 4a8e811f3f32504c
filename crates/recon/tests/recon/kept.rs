//! Sessions with sketches, on either side or both, find exactly the difference, read little for it,
//! and believe nothing that only a sketch says.

use std::sync::Arc;

use ark_core::{Link, ObjectId, ObjectKind};
use ark_recon::message::{Answer, KEPT_CELLS, MAX_PART_CELLS, OneMore, Part};
use ark_recon::{Answerer, Digest, End, Message, Opener, Violation};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{
    Outcome, Set, answer, assert_found, assert_reconciles, ground, key, link, links, reconcile,
};
use crate::watched::{Counted, Ended, against, asked, asked_of};

fn family(family: u8, count: u64) -> impl Iterator<Item = Link> {
    (0..count).map(move |n| link(family, n))
}

/// Whether the opening's answer had kept cells.
fn is_kept(a: &Set, b: &Set, epoch: u64) -> bool {
    let (_, step) = Opener::open(a, key(epoch)).unwrap();
    let mut answerer = Answerer::new(b, key(epoch), 8).unwrap();
    let answer = answerer.handle(b, &step.frames[0]).unwrap();
    answer.frames.iter().any(|frame| match Message::decode(frame).unwrap() {
        Message::Answer(answer) => answer.parts.iter().any(|part| matches!(part, Part::Kept(_))),
        _ => false,
    })
}

/// The same with a sketch on either side, and on both.
fn all_reconcile(a: &Set, b: &Set, epoch: u64) -> [Outcome; 3] {
    let (with_a, with_b) = (a.clone().sketched(), b.clone().sketched());
    [(&with_a, b), (a, &with_b), (&with_a, &with_b)].map(|(a, b)| assert_reconciles(a, b, epoch))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn sessions_with_sketches_find_exactly_the_difference(
        common in 0u64..4_000,
        (left, right) in prop_oneof![(0u64..12, 0u64..12), (0u64..700, 0u64..700), Just((3_000, 1))],
        grinding in prop_oneof![4 => Just(0u64), 1 => 0u64..400],
        epoch: u64,
    ) {
        let deep = |family| (0..grinding).map(move |n| ground(&[0xab, 0xcd], family, n));
        let a = Set::of(family(0, common).chain(family(1, left)).chain(deep(3)));
        let b = Set::of(family(0, common).chain(family(2, right)).chain(deep(4)));
        for outcome in all_reconcile(&a, &b, epoch) {
            prop_assert!(outcome.rounds <= 24, "{} rounds", outcome.rounds);
        }
    }

    /// What is kept goes on with the set, and is used.
    #[test]
    fn a_sketch_that_goes_on_with_its_set_serves_as_well(
        steps in vec((0u64..300, 0u64..300), 1..4),
        epoch: u64,
    ) {
        let other = Set::of(family(0, 3_000)).sketched();
        let mut set = other.clone();
        for (at, (comes, goes)) in (1..).zip(steps) {
            set.insert(family(at, comes));
            let most = 3_000 - goes;
            set.remove((most..3_000).map(|n| link(0, n)));
            let anew = set.clone().sketched();
            let (kept, made) = (reconcile(&set, &other, epoch), reconcile(&anew, &other, epoch));
            assert_found(&set, &other, &kept);
            prop_assert_eq!((kept.bytes(), kept.rounds), (made.bytes(), made.rounds));
        }
    }
}

/// Which side lacks how much must not matter much; nor that the cells are over all.
#[test]
fn the_cost_is_no_greater_than_without() {
    let base = Set::of(family(0, 20_000)).sketched();
    let with = |of, d| {
        let mut set = base.clone();
        set.insert(family(of, d));
        set
    };
    for (d, most) in [(1, 241), (10, 1_300), (100, 8_500), (1_000, 70_000)] {
        let (more, left, right) = (with(1, d), with(1, d / 2), with(2, d - d / 2));
        for (a, b) in [(&base, &more), (&more, &base), (&left, &right)] {
            for (a, b) in [(a, b), (&a.clone().plain(), b), (a, &b.clone().plain())] {
                let outcome = assert_reconciles(a, b, d);
                assert!(outcome.bytes() <= most, "{} bytes with {d}", outcome.bytes());
                assert!(outcome.rounds <= 3, "{} rounds with {d}", outcome.rounds);
            }
        }
        assert!(reconcile(&base, &more, 0).rounds <= 2);
        assert_eq!(reconcile(&more, &base, 0).rounds, 1);
        assert_eq!(is_kept(&more, &base, 0), d >= 100);
    }
}

/// What is read hangs on the difference, and for one link each on a leaf at most.
#[test]
fn links_read_grow_with_the_difference_and_not_with_the_set() {
    // With the links of a leaf, of which there are 16 to the power of 2 or 3; and differences that
    // are in few of them.
    for (size, leaf, most_d) in [(18_000, 18_000 >> 8, 100), (200_000, 200_000 >> 12, 1_000)] {
        let whole = Counted::from(Set::of(family(0, size)).sketched());
        for d in [1, 10, 100, 1_000].into_iter().filter(|d| *d <= most_d) {
            let mut lacking = whole.set().clone();
            lacking.remove(family(0, d));
            let lacking = Counted::from(lacking);
            for (a, b) in [(&lacking, &whole), (&whole, &lacking)] {
                let before = a.reads() + b.reads();
                assert_found(a.set(), b.set(), &reconcile(a, b, d));
                let read = a.reads() + b.reads() - before;
                // Its leaf, and what begins with the same 16 bits; at first a root's children.
                // Leaves are not all the same.
                let most = d * (leaf + leaf / 2 + (size >> 16) + 8) + 64;
                assert!(most < size && read <= most, "{read} of {size} read for {d} that differ");
            }
        }
    }
}

/// As if links had been looked for that hide others, or as by a fault of the store: what it lacks
/// or has too much, on either side, with the digest of the set all the same.
#[test]
fn what_only_a_sketch_says_is_not_believed() {
    let common = Set::of(family(0, 5_000));
    let wrong = |set: &Set, comes: &[Link], goes: &[Link]| {
        let mut set = set.clone().sketched();
        let sketch = Arc::make_mut(set.sketch.as_mut().unwrap());
        let digest: Digest = sketch.digest();
        sketch.change(comes, goes, digest);
        set
    };
    let (hidden, other): (Vec<Link>, Vec<Link>) = (family(7, 3).collect(), family(8, 3).collect());
    let (mut a, mut b) = (common.clone(), common.clone());
    a.insert(family(1, 150).chain(hidden.iter().copied()));
    b.insert(family(2, 150).chain(other.iter().copied()));
    let strange: Vec<Link> = family(9, 20).collect();
    let known: Vec<Link> = family(0, 20).collect();
    let cases = [
        // What differs and is not seen.
        (wrong(&a, &[], &hidden), wrong(&b, &[], &other)),
        // What is on both sides, or on neither, and is said to differ.
        (a.clone(), wrong(&b, &[], &known)),
        (wrong(&a, &[], &known), b.clone().sketched()),
        (a.clone(), wrong(&b, &strange, &[])),
        (wrong(&a, &strange, &[]), b.clone().sketched()),
    ];
    for (a, b) in cases {
        assert!(is_kept(&a, &b, 0));
        let outcome = assert_reconciles(&a, &b, 0);
        assert!((3..=5).contains(&outcome.rounds), "{} rounds", outcome.rounds);
    }
    // Of few that are named, too.
    for (hidden, other) in hidden.iter().zip(&other) {
        let (mut a, mut b) = (common.clone(), common.clone());
        a.insert([*hidden]);
        b.insert([*other]);
        let b = wrong(&b, &strange, &[]);
        assert_reconciles(&a, &b, 0);
        assert_reconciles(&b, &a, 0);
    }
}

/// A sketch of another set than the source's is not used.
#[test]
fn a_sketch_of_another_moment_is_left_alone() {
    let (mut a, mut b) =
        (Set::of(family(0, 4_000)).sketched(), Set::of(family(0, 4_300)).sketched());
    let stale = [a.sketch.clone(), b.sketch.clone()];
    a.insert(family(1, 200));
    b.remove(family(0, 200));
    let plain = [&a, &b].map(|set| set.clone().plain());
    [a.sketch, b.sketch] = stale;
    assert!(!is_kept(&a, &b, 0));
    let (with, without) =
        (assert_reconciles(&a, &b, 0), assert_reconciles(&plain[0], &plain[1], 0));
    assert_eq!((with.bytes(), with.rounds), (without.bytes(), without.rounds));
}

/// More than the counts show, so that more cells are asked for; more than are kept; and so much
/// that none are given.
#[test]
fn differences_that_are_more_than_expected_are_all_found() {
    let common = || family(0, 2_000);
    let alike = |family, count| (0..count).map(move |n| ground(&[0xab], family, n));
    for count in [20, 1_500, 12_000] {
        let a = Set::of(common().chain(alike(1, count))).sketched();
        let b = Set::of(common().chain(alike(2, count))).sketched();
        assert!(is_kept(&a, &b, 0));
        let outcome = assert_reconciles(&a, &b, 0);
        // Twice more cells, then links; or as without, after that.
        let plain = if count < 30 { 1 } else { reconcile(&a.plain(), &b.plain(), 0).rounds };
        assert!(outcome.rounds <= plain + 3, "{} rounds with {count}", outcome.rounds);
    }
    let a = Set::of(common().chain(family(1, 20_000))).sketched();
    let b = Set::of(common()).sketched();
    assert!(!is_kept(&a, &b, 0) && !is_kept(&b, &a, 0));
    all_reconcile(&a, &b, 0);
    all_reconcile(&b, &a, 0);
}

fn garbage(count: usize) -> Vec<Part> {
    let cell = |n: usize| {
        let mut cell = [0; 14];
        cell.copy_from_slice(&link(9, n as u64).id.as_bytes()[..14]);
        cell
    };
    let cells: Vec<_> = (0..count).map(cell).collect();
    cells.chunks(MAX_PART_CELLS).map(|cells| Part::Kept(cells.to_vec())).collect()
}

/// In frames of one part each, as large answers come.
fn framed(parts: Vec<Part>) -> Vec<Message> {
    let count = parts.len();
    let frame = |(at, part)| Message::Answer(Answer { parts: vec![part], last: at + 1 == count });
    parts.into_iter().enumerate().map(frame).collect()
}

/// Kept cells that say nothing: all of them are asked for, then buckets are compared.
#[test]
fn kept_cells_that_are_garbage_end_in_comparing() {
    for first in [1, 4_000] {
        let (mut began, mut given, mut widened, mut compared) = (false, first, 0, 0);
        let ended = against(5_000, |question| match question {
            Message::Compare(_) if !std::mem::replace(&mut began, true) => framed(garbage(first)),
            Message::Compare(_) => {
                compared += 1;
                vec![answer(Vec::new())]
            }
            Message::MoreKept(to) => {
                widened += 1;
                framed(garbage(usize::from(to) - std::mem::replace(&mut given, to.into())))
            }
            _ => Vec::new(),
        });
        assert!(matches!(ended, Ended::InOrder(_)), "{ended:?}");
        assert!(compared > 0 && (1..=2).contains(&widened), "{compared}, {widened}");
    }
}

#[test]
fn kept_cells_that_do_not_fit_are_violations() {
    let rest = || Part::Rest([0; 8]);
    let more = || Part::OneMore(vec![OneMore { at: 1, sum: [7; 33] }]);
    let too_many = || garbage(usize::from(KEPT_CELLS) + 1);
    let cases: Vec<Vec<Part>> = vec![
        [vec![rest()], too_many()].concat(),
        [vec![rest()], garbage(1), vec![more()]].concat(),
        [vec![rest()], garbage(1), vec![Part::Verdicts(Vec::new())]].concat(),
        [vec![rest(), Part::Verdicts(Vec::new())], garbage(1)].concat(),
        [vec![rest()], garbage(1), vec![Part::Links(links(0..1))]].concat(),
    ];
    for parts in cases {
        let ended = against(1_000, |_| framed(parts.clone()));
        assert!(matches!(ended, Ended::By(Violation::Unfitting(_))), "{ended:?}");
    }
    // To a comparison there are none.
    let mut began = false;
    let ended = against(1_000, |_| {
        let first = !std::mem::replace(&mut began, true);
        if first { vec![answer(vec![rest()])] } else { framed(garbage(1)) }
    });
    assert!(matches!(ended, Ended::By(Violation::Unfitting(_))), "{ended:?}");
}

/// An answer with kept cells of `theirs`, to an opener over 1,000 links.
fn kept_of(theirs: &Set) -> Vec<Part> {
    let (_, step) = Opener::open(&Set::of(family(0, 1_000)), key(0)).unwrap();
    let mut answerer = Answerer::new(theirs, key(0), 8).unwrap();
    let step = answerer.handle(theirs, &step.frames[0]).unwrap();
    let parts = step.frames.iter().map(|frame| match Message::decode(frame).unwrap() {
        Message::Answer(answer) => answer.parts,
        other => panic!("{other:?}"),
    });
    parts.flatten().collect()
}

/// Links that kept cells name are never given, or others are.
#[test]
fn links_wanted_by_kept_cells_are_not_taken_on_trust() {
    let theirs = Set::of(family(0, 1_000).chain(family(1, 60))).sketched();
    let cells = kept_of(&theirs);
    assert!(cells.iter().any(|part| matches!(part, Part::Kept(_))));
    for given in [Vec::new(), vec![Part::Links(links(0..1))]] {
        let (mut began, mut compared) = (false, 0);
        let ended = against(1_000, |question| match question {
            Message::Compare(_) if !std::mem::replace(&mut began, true) => framed(cells.clone()),
            Message::Compare(_) => {
                compared += 1;
                vec![answer(Vec::new())]
            }
            Message::WantKept(_) => vec![answer(given.clone())],
            _ => Vec::new(),
        });
        if given.is_empty() {
            // Not given, not believed, and nothing else learnt: it is no progress.
            assert!(matches!(ended, Ended::InOrder(_)), "{ended:?}");
            assert_eq!(compared, 1);
        } else {
            assert!(matches!(ended, Ended::By(Violation::Unfitting(_))), "{ended:?}");
        }
    }
}

#[test]
fn endless_wishes_for_kept_cells_end() {
    let ended = asked(5_000, [Message::MoreKept(1)].into_iter());
    assert!(matches!(ended, Ended::By(Violation::NotKept)), "{ended:?}");
    let sketched = Counted::from(Set::of(family(0, 5_000)).sketched());
    let ended = asked(5_000, [Message::WantKept(vec![1])].into_iter());
    assert!(matches!(ended, Ended::By(Violation::NotKept)), "{ended:?}");
    let all = || Message::MoreKept(KEPT_CELLS);
    let ended = asked_of(&sketched, [all()].into_iter());
    assert!(matches!(ended, Ended::Silence), "{ended:?}");
    let ended = asked_of(&sketched, [all(), all()].into_iter());
    assert!(matches!(ended, Ended::By(Violation::NotKept)), "{ended:?}");
    let ended = asked_of(&sketched, (0..).map(|n| Message::WantKept(vec![n])));
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
}

/// Two links that somebody looked for: in all sketches of this repo they have the same short id.
fn colliding() -> [Link; 2] {
    [0x515a_181c_d8c0, 0xf3bd_36b9_5195].map(|bytes: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(0xabcd << 48 | bytes).to_be_bytes());
        Link { kind: ObjectKind::Raw, id: ObjectId::from_bytes(id) }
    })
}

#[test]
fn links_that_were_made_to_hide_each_other_are_found() {
    let [one, other] = colliding();
    let base = Set::of(family(0, 2_000)).sketched();
    let with = |links: &[Link], of: u8, count: u64| {
        let mut set = base.clone();
        set.insert(family(of, count).chain(links.iter().copied()));
        set
    };
    for count in [0, 1, 80] {
        let (a, b) = (with(&[one], 1, count), with(&[other], 2, count));
        let (both, none) = (with(&[one, other], 3, count), with(&[], 4, count));
        let outcome = assert_reconciles(&a, &b, count);
        // They are no difference at all by the cells, nor by their number.
        assert!((2..=4).contains(&outcome.rounds), "{} rounds", outcome.rounds);
        for (a, b) in [(&a, &both), (&both, &b), (&none, &both), (&both, &none), (&b, &none)] {
            let outcome = assert_reconciles(a, b, count);
            assert!(outcome.rounds <= 5, "{} rounds", outcome.rounds);
        }
    }
}
