//! Sessions with a side that does not keep to the rules: they end, in order or as a violation,
//! within ceilings of bytes, rounds, memory and links read.

use ark_recon::message::{
    Answer, Cells, Compared, MAX_GROUP_CELLS, MAX_PART_CELLS, More, OneLess, OneMore, Opening,
    Part, Verdict, What,
};
use ark_recon::{Answerer, End, Message, Opener, Prefix, SessionError, Step, Violation};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::support::{Set, answer, key, link, links};
use crate::watched::{Counted, Ended, against, asked, asked_of, ended};

/// An answer in frames of one part each, as large ones come.
fn framed(parts: Vec<Part>) -> Vec<Message> {
    let count = parts.len();
    let frame = |(at, part)| Message::Answer(Answer { parts: vec![part], last: at + 1 == count });
    parts.into_iter().enumerate().map(frame).collect()
}

fn garbage(group: u8, count: usize) -> Vec<Part> {
    let cell = |n: usize| {
        let mut cell = [0; 14];
        cell.copy_from_slice(&link(9, n as u64).id.as_bytes()[..14]);
        cell
    };
    let cells: Vec<_> = (0..count).map(cell).collect();
    let part = |cells: &[_]| Part::Cells(Cells { group, cells: cells.to_vec() });
    cells.chunks(MAX_PART_CELLS).map(part).collect()
}

/// The same verdict on all buckets of a comparison.
fn verdicts(spans: &[Compared], what: What) -> Part {
    let tags = spans.iter().map(|span| span.tags.len()).sum::<usize>();
    let at = |at| Verdict { at: u16::try_from(at).unwrap(), what };
    Part::Verdicts((0..tags).map(at).collect())
}

/// The buckets of a comparison.
fn buckets(spans: &[Compared]) -> Vec<Prefix> {
    let buckets = |span: &Compared| {
        let (prefix, tags) = (span.prefix, span.tags.len());
        let bits = prefix.bits() + u8::try_from(tags.ilog2()).unwrap();
        let shift = (64 - u32::from(bits)) % 64;
        (0..tags as u64).map(move |at| Prefix::new(prefix.start() | at << shift, bits).unwrap())
    };
    spans.iter().flat_map(buckets).collect()
}

/// Answers comparisons by `verdict`, and everything else with nothing.
fn comparing(
    mut parts: impl FnMut(&[Compared]) -> Vec<Part>,
) -> impl FnMut(Message) -> Vec<Message> {
    move |question| match question {
        Message::Compare(spans) => vec![answer(parts(&spans))],
        Message::Offer(_) | Message::End(_) | Message::Incomplete => Vec::new(),
        _ => vec![answer(Vec::new())],
    }
}

#[test]
fn always_deeper_ends() {
    let ended = against(
        20_000,
        comparing(|spans| {
            let fits = |prefix: &Prefix| prefix.bits() <= 56;
            let what = if buckets(spans).iter().all(fits) { What::Deeper } else { What::Listed };
            let lists = if what == What::Deeper { 0 } else { buckets(spans).len() };
            let mut parts = vec![verdicts(spans, what)];
            parts.extend(vec![Part::Listed(Vec::new()); lists]);
            parts
        }),
    );
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
    let below = against(1_000, comparing(|spans| vec![verdicts(spans, What::Deeper)]));
    assert!(matches!(below, Ended::By(Violation::Unfitting(_))), "{below:?}");
}

#[test]
fn always_later_ends_after_two_messages() {
    let mut answers = 0;
    let ended = against(
        1_000,
        comparing(|spans| {
            answers += 1;
            vec![verdicts(spans, What::Later)]
        }),
    );
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
    assert_eq!(answers, 2);
}

#[test]
fn garbage_cells_end() {
    for first in [1, 5_000] {
        let ended = against(5_000, |question| match question {
            Message::Compare(spans) => {
                let mut parts = vec![verdicts(&spans, What::Group(0))];
                parts.extend(garbage(0, first));
                framed(parts)
            }
            Message::More(more) => framed(garbage(0, usize::from(more.to - more.from))),
            _ => Vec::new(),
        });
        assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
    }
}

/// Cells that are of this session, and name what the opener does not have.
#[test]
fn cells_of_what_is_not_there_are_a_violation() {
    let (few, many) = (Counted::of(0), Counted::of(300));
    let mut answerer = Answerer::new(&many, key(0), 0).unwrap();
    let (_, opening) = Opener::open(&few, key(0)).unwrap();
    let cells = {
        answerer.handle(&many, &opening.frames[0]).unwrap();
        let more = More { prefixes: vec![Prefix::ROOT], from: 0, to: 600 };
        let step = answerer.handle(&many, &Message::More(Box::new(more)).encode()).unwrap();
        let Ok(Message::Answer(answer)) = Message::decode(&step.frames[0]) else { panic!() };
        answer.parts
    };
    assert_eq!(opening.frames.len(), 1);
    // Their number turned around: as if the opener had them all, and the answerer none.
    let turned = |part: Part| match part {
        Part::Cells(Cells { group, mut cells }) => {
            for cell in &mut cells {
                cell[13] = cell[13].wrapping_neg();
            }
            Part::Cells(Cells { group, cells })
        }
        part => part,
    };
    let cells: Vec<Part> = cells.into_iter().map(turned).collect();
    let ended = against(
        0,
        comparing(|spans| {
            let mut parts = vec![verdicts(spans, What::Group(0))];
            parts.extend(cells.clone());
            parts
        }),
    );
    assert!(matches!(ended, Ended::By(Violation::Cells)), "{ended:?}");
}

/// Makes the parts of an answer to a comparison.
type Answering = Box<dyn Fn(&[Compared]) -> Vec<Part>>;

fn rest() -> Part {
    Part::Rest([0; 8])
}

fn more(at: &[u16]) -> Part {
    Part::OneMore(at.iter().map(|at| OneMore { at: *at, sum: [7; 33] }).collect())
}

fn less(at: u16) -> Part {
    Part::OneLess(OneLess { at, sum: [7; 7] })
}

#[test]
fn answers_that_do_not_fit_are_violations() {
    let list = |spans: &[Compared], bytes: u64| {
        let mut parts = vec![verdicts(spans, What::Listed)];
        let lists =
            buckets(spans).into_iter().map(|bucket| Part::Listed(vec![bucket.start() ^ bytes]));
        parts.extend(lists);
        parts
    };
    let cases: Vec<(&str, Answering)> = vec![
        (
            "a bucket beyond the last",
            Box::new(|_| vec![Part::Verdicts(vec![Verdict { at: 64, what: What::Later }])]),
        ),
        ("no verdicts first", Box::new(|_| vec![Part::Listed(Vec::new())])),
        ("verdicts twice", Box::new(|s| vec![verdicts(s, What::Later), verdicts(s, What::Later)])),
        ("a list is missing", Box::new(|s| vec![verdicts(s, What::Listed)])),
        ("a list too many", Box::new(|s| vec![verdicts(s, What::Later), Part::Listed(Vec::new())])),
        ("a list of what is elsewhere", Box::new(move |s| list(s, 1 << 63))),
        ("a group without cells", Box::new(|s| vec![verdicts(s, What::Group(0))])),
        (
            "cells without a group",
            Box::new(|s| {
                let mut parts = vec![verdicts(s, What::Later)];
                parts.extend(garbage(1, 1));
                parts
            }),
        ),
        (
            "more cells than a group has",
            Box::new(|s| {
                let mut parts = vec![verdicts(s, What::Group(0))];
                parts.extend(garbage(0, 1));
                parts.extend(garbage(0, usize::from(MAX_GROUP_CELLS)));
                parts
            }),
        ),
        ("links", Box::new(|_| vec![Part::Links(vec![[0; 33]])])),
        ("a bucket named that is not there", Box::new(|_| vec![rest(), more(&[64])])),
        ("a bucket named twice", Box::new(|_| vec![rest(), more(&[3]), less(3)])),
        ("one less, twice", Box::new(|_| vec![rest(), less(3), less(3)])),
        ("a bucket named and told", Box::new(|s| vec![rest(), less(3), verdicts(s, What::Later)])),
        ("names at the end", Box::new(|s| vec![rest(), verdicts(s, What::Later), less(3)])),
        ("the rest twice", Box::new(|_| vec![rest(), rest()])),
    ];
    for (what, parts) in cases {
        let ended = against(1_000, |question| {
            let Message::Compare(spans) = question else { return Vec::new() };
            framed(parts(&spans))
        });
        assert!(matches!(ended, Ended::By(Violation::Unfitting(_))), "{what}: {ended:?}");
    }
}

/// What an answer to an opening over 1,000 links leads to.
fn opened(parts: impl FnOnce(&Opening) -> Vec<Part>) -> Result<Step, Ended> {
    let own = Counted::of(1_000);
    let (mut opener, step) = Opener::open(&own, key(0)).unwrap();
    let opening = Opening::decode(&step.frames[0]).unwrap();
    opener.handle(&own, &answer(parts(&opening)).encode()).map_err(ended)
}

/// One that is not there any more, one that is here, one of no kind, one that is elsewhere: none
/// is believed before the tag over all says so, and all is compared by tags that are long enough.
#[test]
fn names_that_are_wrong_are_not_believed() {
    let sums = [[0; 33], [1; 33], links(0..1)[0], links(1_000..1_001)[0]];
    for sum in sums {
        for at in [0, 17, 63] {
            let wrong = OneMore { at, sum };
            let step = opened(|_| vec![rest(), Part::OneMore(vec![wrong.clone()])]).unwrap();
            assert_eq!((step.lacking, step.end), (Vec::new(), None));
            let Message::Compare(spans) = Message::decode(&step.frames[0]).unwrap() else {
                panic!("it goes on otherwise");
            };
            assert_eq!(buckets(&spans).len(), 64);
            let mut first = [0; 7];
            first.copy_from_slice(&sum[..7]);
            let step = opened(|_| vec![rest(), Part::OneLess(OneLess { at, sum: first })]).unwrap();
            assert_eq!((step.frames.len(), step.end), (1, None));
        }
    }
}

#[test]
fn an_answer_that_all_is_the_same_and_is_not_is_a_violation() {
    let same = opened(|opening| vec![Part::Rest(opening.whole)]);
    assert!(matches!(same, Err(Ended::By(Violation::Unfitting(_)))), "{same:?}");
    // A tag over the others that is wrong makes it ask, for the same price as one that is right.
    let step = opened(|_| vec![rest()]).unwrap();
    assert!(matches!(Message::decode(&step.frames[0]), Ok(Message::Compare(_))));
}

/// Lists name links that are never given, or others are given instead.
#[test]
fn links_that_were_not_asked_for_are_a_violation_and_none_are_no_progress() {
    let listing = |spans: &[Compared]| {
        let mut parts = vec![verdicts(spans, What::Listed)];
        parts.extend(buckets(spans).into_iter().map(|bucket| Part::Listed(vec![bucket.start()])));
        parts
    };
    let none = against(1_000, comparing(listing));
    assert!(matches!(none, Ended::InOrder(End::Incomplete)), "{none:?}");
    let others = against(1_000, |question| match question {
        Message::Compare(spans) => vec![answer(listing(&spans))],
        _ => vec![answer(vec![Part::Links(vec![[0; 33]])])],
    });
    assert!(matches!(others, Ended::By(Violation::Unfitting(_))), "{others:?}");
}

#[test]
fn an_answer_without_end_ends() {
    let endless = (0..).map(|_| Message::Answer(Answer { parts: garbage(0, 4_000), last: false }));
    let ended = against(1_000, |_| endless.clone().take(100).collect());
    assert!(matches!(ended, Ended::By(Violation::Unfitting(_))), "{ended:?}");
    let unasked = against(1_000, |_| vec![answer(Vec::new()), answer(Vec::new())]);
    assert!(matches!(unasked, Ended::InOrder(End::Complete)), "{unasked:?}");
    let turned = against(1_000, |question| vec![question]);
    assert!(matches!(turned, Ended::By(Violation::Unexpected)), "{turned:?}");
}

/// An answerer that says it has nothing gets everything, in portions.
#[test]
fn claiming_to_have_nothing_costs_no_memory() {
    let mut got = 0;
    let ended = against(130_000, |question| match question {
        Message::Compare(spans) => {
            let mut parts = vec![verdicts(&spans, What::Listed)];
            parts.extend(buckets(&spans).iter().map(|_| Part::Listed(Vec::new())));
            vec![answer(parts)]
        }
        Message::Offer(links) | Message::End(links) => {
            got += links.len();
            Vec::new()
        }
        _ => Vec::new(),
    });
    assert!(matches!(ended, Ended::InOrder(End::Complete)), "{ended:?}");
    assert_eq!(got, 130_000);
}

fn opening(tag: u64, count: u64) -> Message {
    let tags = (0..64_u64).map(|at| (tag + at).to_le_bytes()).collect();
    Message::Compare(vec![Compared { prefix: Prefix::ROOT, count, tags }])
}

#[test]
fn endless_comparisons_end() {
    for count in [5_000, u64::MAX] {
        let ended = asked(5_000, (0..).map(|n| opening(n, count)));
        assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
    }
    let deepest = Prefix::new(0x10, 60).unwrap();
    let one = |n: u64| Compared { prefix: deepest, count: u64::MAX, tags: vec![n.to_le_bytes()] };
    let ended = asked(100, (0..).map(|n| Message::Compare(vec![one(n)])));
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
}

#[test]
fn endless_wishes_for_cells_end() {
    let more = |from, to| Message::More(Box::new(More { prefixes: vec![Prefix::ROOT], from, to }));
    let ended = asked(5_000, std::iter::repeat(more(0, MAX_GROUP_CELLS)));
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
    let ended = asked(5_000, std::iter::repeat(more(0, 1)));
    assert!(matches!(ended, Ended::InOrder(End::Incomplete)), "{ended:?}");
}

#[test]
fn questions_that_find_nothing_end_after_two() {
    let want = |n| Message::Want(vec![n]);
    let mut count = 0;
    let wishes = (0..).map(|n| {
        count += 1;
        want(n)
    });
    assert!(matches!(asked(100, wishes), Ended::InOrder(End::Incomplete)));
    assert_eq!(count, 2);
    let set = Counted::of(1_000);
    let (_, opening) = Opener::open(&set, key(0)).unwrap();
    let mut answerer = Answerer::new(&set, key(0), 8).unwrap();
    let equal = answerer.handle(&set, &opening.frames[0]).unwrap();
    assert_eq!(equal.end, Some(End::Complete));
}

#[test]
fn messages_for_the_other_side_are_violations() {
    let ended = asked(10, [answer(Vec::new())].into_iter());
    assert!(matches!(ended, Ended::By(Violation::Unexpected)), "{ended:?}");
    let ended = asked(10, [Message::End(Vec::new()), Message::Incomplete].into_iter());
    assert!(matches!(ended, Ended::InOrder(End::Complete)), "{ended:?}");
    let set = Counted::of(10);
    let mut answerer = Answerer::new(&set, key(0), 8).unwrap();
    let refused = answerer.handle(&set, b"no message");
    assert!(matches!(refused, Err(SessionError::Violation(Violation::Wire(_)))));
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    (any::<u64>(), prop_oneof![0u8..12, 0u8..=60]).prop_map(|(start, bits)| {
        Prefix::new(start & !u64::MAX.checked_shr(bits.into()).unwrap_or(0), bits).unwrap()
    })
}

fn whats() -> impl Strategy<Value = What> {
    prop_oneof![
        Just(What::Later),
        Just(What::Deeper),
        Just(What::Listed),
        (0u8..4).prop_map(What::Group)
    ]
}

fn parts() -> impl Strategy<Value = Part> {
    prop_oneof![
        btree_set(0u16..70, 0..30).prop_flat_map(|at| {
            let whats = vec(whats(), at.len());
            (Just(at), whats).prop_map(|(at, whats)| {
                let pairs = at.into_iter().zip(whats);
                Part::Verdicts(pairs.map(|(at, what)| Verdict { at, what }).collect())
            })
        }),
        btree_set(any::<u64>(), 0..10).prop_map(|ids| Part::Listed(ids.into_iter().collect())),
        any::<[u8; 8]>().prop_map(Part::Rest),
        btree_set(0u16..70, 1..10).prop_map(|at| more(&at.into_iter().collect::<Vec<_>>())),
        (0u16..70).prop_map(less),
        (0u8..4, vec(any::<[u8; 14]>(), 1..50))
            .prop_map(|(group, cells)| Part::Cells(Cells { group, cells })),
        vec(any::<[u8; 14]>(), 1..50).prop_map(Part::Kept),
        btree_set(0u64..500, 1..10).prop_map(|numbers| Part::Links(links(numbers))),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    let compare =
        (prefixes(), any::<u64>(), 0u8..8).prop_filter_map("deep", |(prefix, count, fan)| {
            let tags = vec![count.to_le_bytes(); 1 << fan];
            (prefix.bits() + fan <= 60)
                .then(|| Message::Compare(vec![Compared { prefix, count, tags }]))
        });
    prop_oneof![
        4 => compare,
        2 => (prefixes(), 0u16..100, 1u16..1_000).prop_map(|(prefix, from, more)| {
            Message::More(Box::new(More { prefixes: vec![prefix], from, to: from + more }))
        }),
        2 => (btree_set(any::<u64>(), 1..10), any::<bool>()).prop_map(|(ids, is_kept)| {
            let ids = ids.into_iter().collect();
            if is_kept { Message::WantKept(ids) } else { Message::Want(ids) }
        }),
        1 => (0u16..200).prop_map(Message::MoreKept),
        1 => prop_oneof![Just(Message::Incomplete), Just(Message::End(Vec::new()))],
        6 => (vec(parts(), 0..4), any::<bool>())
            .prop_map(|(parts, last)| Message::Answer(Answer { parts, last })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_asked_costs_little(messages in vec(messages(), 1..40), is_sketched: bool) {
        let own = Set::of((0..3_000).map(|n| link(0, n)));
        let own = if is_sketched { own.sketched() } else { own };
        asked_of(&own.into(), messages.into_iter());
    }

    #[test]
    fn whatever_is_answered_costs_little(messages in vec(messages(), 1..40)) {
        let mut messages = messages.into_iter();
        against(3_000, |_| messages.by_ref().take(3).collect());
    }
}
