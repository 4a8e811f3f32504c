//! Sessions between honest sides find exactly the difference, at the cost that is meant.

use std::collections::BTreeSet;

use ark_core::Link;
use ark_recon::message::Part;
use ark_recon::{Answerer, End, Message, Opener};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{
    Set, assert_found, assert_reconciles, ground, key, link, reconcile, reconcile_cut,
};

/// Links of which several share beginnings of some length.
fn links(most: u64) -> impl Strategy<Value = Link> {
    prop_oneof![
        4 => (0..most).prop_map(|n| link(0, n)),
        1 => (0..most).prop_map(|n| ground(&[0xab], 0, n)),
        1 => (0..most).prop_map(|n| ground(&[0xab, 0xcd, 0xef], 0, n)),
        1 => (0..most / 8).prop_map(|n| ground(&[0xab, 0xcd, 0xef, 1, 2, 3, 4, 5, 6], 0, n)),
    ]
}

/// Two sets that share some, little or all.
fn pairs(most: u64, size: usize) -> impl Strategy<Value = (Set, Set)> {
    let part = move |size| vec(links(most), 0..size);
    let sizes = prop_oneof![
        Just((size, 10, 10)),
        Just((size, 300, 1)),
        Just((1, size, size)),
        Just((20, 70, 1))
    ];
    sizes.prop_flat_map(move |(common, a, b)| (part(common), part(a + 1), part(b + 1))).prop_map(
        |(common, a, b)| {
            let both = Set::of(common);
            let with = |more| {
                let mut set = both.clone();
                set.insert(more);
                set
            };
            (with(a), with(b))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_session_finds_exactly_the_difference((a, b) in pairs(20_000, 4_000), epoch: u64) {
        let outcome = assert_reconciles(&a, &b, epoch);
        prop_assert!(outcome.rounds <= 24, "{} rounds", outcome.rounds);
        // As negentropy finds it, by ids.
        let (have, need) = negentropy(&a, &b);
        let ids = |links: &BTreeSet<Link>| links.iter().map(|l| *l.id.as_bytes()).collect::<BTreeSet<_>>();
        prop_assert_eq!(ids(&outcome.answerer), have);
        prop_assert_eq!(ids(&outcome.opener), need);
    }

    /// Whatever is lost, the next session needs nothing of the one before but what it found.
    #[test]
    fn a_session_that_is_cut_is_taken_up_by_the_next((a, b) in pairs(3_000, 1_000), cut in 0usize..8) {
        let (mut a, mut b) = (a, b);
        let first = reconcile_cut(&a, &b, 0, cut);
        prop_assert!(first.opener.is_subset(&b.lacked_by(&a)));
        prop_assert!(first.answerer.is_subset(&a.lacked_by(&b)));
        a.insert(first.opener);
        b.insert(first.answerer);
        let second = assert_reconciles(&a, &b, 1);
        a.insert(second.opener);
        b.insert(second.answerer);
        prop_assert_eq!(a.members, b.members);
    }
}

/// What the client has and needs, by ids.
fn negentropy(a: &Set, b: &Set) -> (BTreeSet<[u8; 32]>, BTreeSet<[u8; 32]>) {
    let stored = |set: &Set| {
        let mut storage = NegentropyStorageVector::new();
        for (id, _) in &set.members.0 {
            storage.insert(0, Id::from_byte_array(*id.as_bytes())).unwrap();
        }
        storage.seal().unwrap();
        storage
    };
    let (a, b) = (stored(a), stored(b));
    let mut client = Negentropy::borrowed(&a, 0).unwrap();
    let mut server = Negentropy::borrowed(&b, 0).unwrap();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut query = Some(client.initiate().unwrap());
    while let Some(question) = query {
        let answer = server.reconcile(&question).unwrap();
        query = client.reconcile_with_ids(&answer, &mut have, &mut need).unwrap();
    }
    let ids = |ids: Vec<Id>| ids.into_iter().map(|id| *id).collect();
    (ids(have), ids(need))
}

fn family(family: u8, count: u64) -> impl Iterator<Item = Link> {
    (0..count).map(move |n| link(family, n))
}

#[test]
fn sets_that_are_equal_cost_one_round_trip_and_170_bytes() {
    for count in [0, 1, 64, 65, 5_000, 60_000] {
        let set = Set::of(family(0, count));
        let outcome = assert_reconciles(&set, &set, 0);
        assert_eq!((outcome.rounds, outcome.frames), (1, 2));
        assert!(outcome.bytes() <= 170, "{} bytes", outcome.bytes());
    }
}

#[test]
fn an_empty_side_learns_everything() {
    let (none, some) = (Set::default(), Set::of(family(0, 24_000)));
    let outcome = assert_reconciles(&none, &some, 0);
    // Two short ids and a link each: no cells, which would be too few for so many.
    assert!(outcome.bytes() <= 24_000 * (8 + 8 + 33 + 1), "{} bytes", outcome.bytes());
    assert_reconciles(&some, &none, 0);
    assert_reconciles(&none, &none, 0);
}

/// A cold start against 24,000 objects of which few are here: more than one answer holds.
#[test]
fn a_cold_start_with_24_000_objects() {
    let whole = Set::of(family(0, 24_000));
    let begun = Set::of(family(0, 100).chain(family(1, 10)));
    for (a, b) in [(&begun, &whole), (&whole, &begun)] {
        let outcome = assert_reconciles(a, b, 0);
        assert!(outcome.rounds <= 6, "{} rounds", outcome.rounds);
        assert!(outcome.bytes() <= 24_000 * 60, "{} bytes", outcome.bytes());
    }
}

/// Which side lacks how much must not matter much.
#[test]
fn the_cost_follows_the_difference_whoever_lacks_it() {
    let common = || family(0, 40_000);
    let base = Set::of(common());
    for (d, most) in [(1, 241), (10, 1_300), (100, 8_500), (1_000, 70_000)] {
        let more = Set::of(common().chain(family(1, d)));
        let left = Set::of(common().chain(family(1, d / 2)));
        let right = Set::of(common().chain(family(2, d - d / 2)));
        for (a, b) in [(&base, &more), (&more, &base), (&left, &right)] {
            let outcome = assert_reconciles(a, b, d);
            assert!(outcome.bytes() <= most, "{} bytes with {d}", outcome.bytes());
            assert!(outcome.rounds <= 3, "{} rounds with {d}", outcome.rounds);
        }
        // The opener knows after one round trip; the second brings the ids that it wants, where
        // they were not named.
        assert!(reconcile(&base, &more, 0).rounds <= 2);
        assert_eq!(reconcile(&more, &base, 0).rounds, 1);
    }
}

/// One link is found by its sum, whatever its place: also where its leaf becomes a node.
#[test]
fn one_link_costs_one_round_trip_and_a_tenth_of_what_negentropy_takes() {
    for count in [0, 1, 64, 65, 255, 256, 257, 1_300, 5_000] {
        for n in 0..30 {
            let less = Set::of(family(0, count));
            let one = if n < 10 { ground(&[0xab, 0xcd], 1, n) } else { link(1, n) };
            let more = Set::of(family(0, count).chain([one]));
            for (a, b) in [(&less, &more), (&more, &less)] {
                let outcome = assert_reconciles(a, b, n);
                assert_eq!(outcome.rounds, 1, "{count} links");
                assert!(outcome.bytes() <= 241, "{} bytes", outcome.bytes());
            }
        }
    }
}

/// By the counts they are one, so one is named: that it is not all is noticed.
#[test]
fn several_that_look_like_one_are_all_found() {
    let ground = |family, count| (0..count).map(move |n| ground(&[0xab], family, n));
    let common = Set::of(family(0, 3_000));
    for (here, there) in [(1, 2), (2, 1), (3, 4), (5, 4)] {
        let (mut a, mut b) = (common.clone(), common.clone());
        a.insert(ground(1, here));
        b.insert(ground(2, there));
        let outcome = assert_reconciles(&a, &b, here);
        assert!((2..=4).contains(&outcome.rounds), "{} rounds", outcome.rounds);
        // Beside others that are one, and others that are many.
        b.insert([link(3, 0), link(3, 1)]);
        assert_reconciles(&a, &b, here);
        b.insert(family(4, 500));
        assert_reconciles(&a, &b, here);
    }
}

/// Which buckets of an opening an answer is about, besides by the tag over the others.
fn told(answer: &Message) -> Vec<u16> {
    let Message::Answer(answer) = answer else { panic!("{answer:?}") };
    let at = |part: &Part| match part {
        Part::OneMore(buckets) => buckets.iter().map(|it| it.at).collect(),
        Part::OneLess(bucket) => vec![bucket.at],
        Part::Verdicts(verdicts) => verdicts.iter().map(|it| it.at).collect(),
        _ => Vec::new(),
    };
    answer.parts.iter().flat_map(at).collect()
}

/// A bucket of as many links has, by chance, the same short tag, though they are others: alone,
/// beside one that is named, and beside one that is told at length.
#[test]
fn what_a_short_tag_hides_is_found_by_the_tag_over_all() {
    let hidden = u16::from(link(1, 0).id.as_bytes()[0] >> 2);
    let same_bucket = |link: &Link| u16::from(link.id.as_bytes()[0] >> 2) == hidden;
    let other = (0..1_000).map(|n| link(2, n)).find(same_bucket).unwrap();
    let a = Set::of(family(0, 200).chain([link(1, 0)]));
    let elsewhere = (0..1_000).map(|n| link(3, n)).filter(|link| !same_bucket(link));
    for count in [0, 1, 20] {
        let b = Set::of(family(0, 200).chain([other]).chain(elsewhere.clone().take(count)));
        let is_hidden = |epoch: &u64| {
            let (_, step) = Opener::open(&a, key(*epoch)).unwrap();
            let mut answerer = Answerer::new(&b, key(*epoch), 8).unwrap();
            let answer = answerer.handle(&b, &step.frames[0]).unwrap();
            assert_eq!(answer.end, None, "it is never taken for the same");
            !told(&Message::decode(&answer.frames[0]).unwrap()).contains(&hidden)
        };
        let epoch = (0..20_000).find(is_hidden).expect("one in 512");
        let outcome = assert_reconciles(&a, &b, epoch);
        assert!(outcome.rounds <= 3, "{} rounds", outcome.rounds);
    }
}

/// A partition in which both sides went on: what the daemon's counters are to show.
#[test]
fn a_partition_costs_two_round_trips_and_20_kb() {
    let common = Set::of(family(0, 20_000));
    let more = (0..24).filter(|n| {
        let (mut a, mut b) = (common.clone(), common.clone());
        a.insert(family(1 + 2 * n, 100));
        b.insert(family(2 + 2 * n, 100));
        let outcome = assert_reconciles(&a, &b, u64::from(*n));
        assert!(outcome.bytes() <= 20_000, "{} bytes", outcome.bytes());
        outcome.rounds > 2
    });
    // How many there are can only be estimated.
    assert!(more.count() <= 1);
}

/// The size of the target; in the bench too:
/// `cargo test --release -p ark-recon --test recon -- --ignored`.
#[test]
#[ignore = "slow without optimisation: run with --release"]
fn d_2200_at_one_million() {
    let a = Set::of((0..1_000_000 - 1_100).map(|n| link(0, n)));
    let b = Set::of((1_100..1_000_000).map(|n| link(0, n)));
    let outcome = assert_reconciles(&a, &b, 0);
    assert!(outcome.rounds <= 3, "{} rounds", outcome.rounds);
    assert!(outcome.bytes() <= 2_200 * 75, "{} bytes", outcome.bytes());
}

/// Somebody ground thousands of hashes that begin alike: on either side, or other ones on both.
#[test]
fn ground_prefixes_that_make_one_bucket_deep() {
    for length in [1, 2, 4, 7, 8] {
        let deep = |family, count| (0..count).map(move |n| ground(&[0x77; 8][..length], family, n));
        let plain = Set::of(family(0, 3_000));
        let one = Set::of(family(0, 3_000).chain(deep(1, 9_000)));
        let other = Set::of(family(0, 3_000).chain(deep(1, 6_000)).chain(deep(2, 3_000)));
        for (a, b) in [(&plain, &one), (&one, &plain), (&one, &other), (&other, &one)] {
            let outcome = assert_reconciles(a, b, length as u64);
            assert!(outcome.rounds <= 24, "{} rounds, {length} bytes alike", outcome.rounds);
            assert!(outcome.bytes() <= 9_000 * 80, "{} bytes", outcome.bytes());
        }
    }
}

/// Every boundary between frames, for a session with lists, groups and several rounds.
#[test]
fn cuts_at_every_boundary() {
    let common = || family(0, 2_000);
    let a =
        Set::of(common().chain(family(1, 400)).chain((0..3_000).map(|n| ground(&[9; 3], 3, n))));
    let b = Set::of(common().chain(family(2, 7_000)));
    let whole = assert_reconciles(&a, &b, 0);
    assert!(whole.frames > 10);
    for cut in 0..whole.frames {
        let (mut a, mut b) = (a.clone(), b.clone());
        let first = reconcile_cut(&a, &b, 0, cut);
        a.insert(first.opener);
        b.insert(first.answerer);
        let second = assert_reconciles(&a, &b, 1);
        let found = first.sent[0] + first.sent[1];
        assert!(second.bytes() <= whole.bytes() * 5 / 4, "{} after {found}", second.bytes());
    }
}

/// A link that a key hides, by chance or because ids were looked for that collide with it, is
/// found with the next.
#[test]
fn every_session_has_its_own_short_ids() {
    let a = Set::of(family(0, 500));
    let b = Set::of(family(0, 500).chain(family(1, 20)));
    let frames = |epoch| {
        let key = crate::support::key(epoch);
        let (_, step) = ark_recon::Opener::open(&a, key.clone()).unwrap();
        let mut answerer = ark_recon::Answerer::new(&b, key, 8).unwrap();
        (step.frames.clone(), answerer.handle(&b, &step.frames[0]).unwrap().frames)
    };
    assert_eq!(frames(1), frames(1));
    assert_ne!(frames(1).0, frames(2).0);
    assert_ne!(frames(1).1, frames(2).1);
}

/// More than a session takes: it says so, and the next one goes on. Run as above.
#[test]
#[ignore = "slow without optimisation: run with --release"]
fn what_is_too_much_for_one_session_takes_several() {
    let (mut a, b) = (Set::default(), Set::of(family(0, 1_900_000)));
    let first = reconcile(&a, &b, 0);
    assert_eq!(first.end, Some(End::Incomplete));
    assert!(first.opener.len() > 500_000);
    a.insert(first.opener);
    assert_found(&a, &b, &reconcile(&a, &b, 1));
}
