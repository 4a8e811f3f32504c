//! The bytes of every message: pinned by fixtures, and decoded strictly.
//!
//! A fixture is `fixtures/recon-v3-<what>.hex`: lower hex, 32 bytes a line.

use ark_recon::message::{
    Cells, Compared, KEPT_CELLS, MAX_FRAME_LINKS, MAX_GROUP_CELLS, MAX_PART_CELLS, MAX_SHORT_IDS,
    MAX_TAGS, More, OneLess, OneMore, Opening, Part, Verdict, What,
};
use ark_recon::{MAX_FRAME_BYTES, Message, Opener, Prefix, WireError};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{Set, answer, key, link, links};

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/recon-v3-{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    data_encoding::HEXLOWER.decode(text.replace('\n', "").as_bytes()).unwrap()
}

/// That `bytes` are what the fixture says; otherwise shows what the fixture would have to be.
fn pin(name: &str, bytes: &[u8]) {
    let lines: Vec<_> = bytes.chunks(32).map(|line| data_encoding::HEXLOWER.encode(line)).collect();
    assert!(fixture(name) == bytes, "fixture {name} is not\n{}\n", lines.join("\n"));
}

fn prefix(start: u64, bits: u8) -> Prefix {
    Prefix::new(start, bits).unwrap()
}

fn compare(spans: &[(Prefix, usize)]) -> Message {
    let span = |&(prefix, tags)| Compared { prefix, count: 300, tags: vec![[7; 8]; tags] };
    Message::Compare(spans.iter().map(span).collect())
}

fn more(prefixes: &[Prefix], from: u16, to: u16) -> Message {
    Message::More(Box::new(More { prefixes: prefixes.to_vec(), from, to }))
}

fn kept(count: usize) -> Part {
    Part::Kept(vec![[3; 14]; count])
}

fn verdicts(verdicts: &[(u16, What)]) -> Part {
    Part::Verdicts(verdicts.iter().map(|&(at, what)| Verdict { at, what }).collect())
}

fn cells(group: u8, count: usize) -> Part {
    Part::Cells(Cells { group, cells: vec![[3; 14]; count] })
}

fn one_more(at: impl IntoIterator<Item = u16>) -> Part {
    Part::OneMore(at.into_iter().map(|at| OneMore { at, sum: [9; 33] }).collect())
}

fn messages() -> Vec<(&'static str, Message)> {
    let (deep, low) = (prefix(0x1230_0000_0000_0000, 12), prefix(0x4000_0000_0000_0000, 6));
    let all = [(0, What::Later), (1, What::Deeper), (3, What::Listed), (9, What::Group(1))];
    vec![
        ("compare", compare(&[(deep, 2), (low, 1)])),
        ("more", more(&[deep, low], 10, 300)),
        ("want", Message::Want(vec![1, 0x0102_0304_0506_0708])),
        ("offer", Message::Offer(links(0..2))),
        ("end", Message::End(links(2..3))),
        ("incomplete", Message::Incomplete),
        ("answer-to-compare", answer(vec![verdicts(&all), Part::Listed(vec![5, 6]), cells(1, 2)])),
        (
            "answer-to-opening",
            answer(vec![
                Part::Rest([8; 8]),
                one_more([4, 6]),
                Part::OneLess(OneLess { at: 5, sum: [1; 7] }),
                verdicts(&all),
            ]),
        ),
        ("answer-to-want", answer(vec![Part::Links(links(0..1))])),
        ("answer-nothing", answer(Vec::new())),
        ("more-kept", Message::MoreKept(KEPT_CELLS)),
        ("want-kept", Message::WantKept(vec![1, 0x0102_0304_0506_0708])),
        ("answer-kept", answer(vec![Part::Rest([8; 8]), one_more([4]), kept(2)])),
    ]
}

#[test]
fn messages_are_pinned() {
    for (name, message) in messages() {
        pin(name, &message.encode());
        assert_eq!(Message::decode(&fixture(name)), Ok(message));
    }
}

/// Key, tags and what they are over.
#[test]
fn an_opening_is_pinned() {
    let set = Set::of((0..70).map(|n| link(0, n)));
    let (_, step) = Opener::open(&set, key(3)).unwrap();
    pin("opening-of-70", &step.frames[0]);
    let opening = Opening::decode(&step.frames[0]).unwrap();
    assert_eq!((opening.count, opening.tags.len()), (70, 64));
}

#[test]
fn an_opening_has_a_power_of_two_of_tags() {
    for tags in [0, 1, 2, 3, 64, 65, MAX_TAGS, MAX_TAGS + 1, 2 * MAX_TAGS] {
        let opening = Opening { count: 300, whole: [1; 8], tags: vec![[2; 2]; tags] };
        let decoded = Opening::decode(&opening.encode());
        if tags.is_power_of_two() && tags <= MAX_TAGS {
            assert_eq!(decoded, Ok(opening));
        } else {
            assert!(matches!(decoded, Err(WireError::Invalid(_))), "{tags}: {decoded:?}");
        }
    }
}

#[test]
fn what_no_message_may_say_is_refused() {
    let (root, half) = (Prefix::ROOT, prefix(0, 1));
    let deepest = prefix(0x10, 60);
    let refused = [
        compare(&[]),
        compare(&[(root, 0)]),
        compare(&[(root, 3)]),
        compare(&[(root, 2 * MAX_TAGS)]),
        compare(&[(half, MAX_TAGS), (prefix(1 << 63, 1), 1)]),
        compare(&[(deepest, 2)]),
        compare(&[(root, 1), (half, 1)]),
        compare(&[(half, 1), (root, 1)]),
        compare(&[(half, 1), (half, 1)]),
        more(&[], 0, 1),
        more(&[half, half], 0, 1),
        more(&[half], 1, 1),
        more(&[half], 0, MAX_GROUP_CELLS + 1),
        Message::Want(Vec::new()),
        Message::Want(vec![2, 1]),
        Message::Want(vec![1, 1]),
        Message::Want((0..=MAX_SHORT_IDS as u64).collect()),
        Message::MoreKept(KEPT_CELLS + 1),
        Message::WantKept(Vec::new()),
        Message::WantKept(vec![1, 1]),
        Message::WantKept((0..=MAX_SHORT_IDS as u64).collect()),
        Message::Offer(Vec::new()),
        Message::Offer(links(0..=MAX_FRAME_LINKS as u64)),
        Message::Offer(links(0..2).into_iter().rev().collect()),
        Message::Offer(vec![[0xff; 33]]),
        Message::End(links(0..=MAX_FRAME_LINKS as u64)),
        Message::End(links(0..2).into_iter().rev().collect()),
        answer(vec![one_more([])]),
        answer(vec![one_more([2, 2])]),
        answer(vec![one_more(0..=1024)]),
        answer(vec![verdicts(&[(1, What::Later), (1, What::Deeper)])]),
        answer(vec![verdicts(&[(0, What::Group(4))])]),
        answer(vec![Part::Listed(vec![1, 1])]),
        answer(vec![Part::Listed((0..=MAX_SHORT_IDS as u64).collect())]),
        answer(vec![cells(4, 1)]),
        answer(vec![cells(0, 0)]),
        answer(vec![cells(0, MAX_PART_CELLS + 1)]),
        answer(vec![Part::Links(Vec::new())]),
        answer(vec![kept(0)]),
        answer(vec![kept(MAX_PART_CELLS + 1)]),
    ];
    for message in refused {
        let decoded = Message::decode(&message.encode());
        assert!(matches!(decoded, Err(WireError::Invalid(_))), "{message:?}: {decoded:?}");
    }
}

#[test]
fn the_largest_messages_fit_a_frame() {
    let tags = vec![[7; 8]; MAX_TAGS];
    let single: Vec<_> = (0..MAX_TAGS as u64).map(|n| (prefix(n << 54, 10), 1)).collect();
    let largest = [
        Message::Compare(vec![Compared { prefix: Prefix::ROOT, count: u64::MAX, tags }]),
        compare(&single),
        more(&single.iter().map(|(prefix, _)| *prefix).collect::<Vec<_>>(), 0, MAX_GROUP_CELLS),
        Message::Want((0..MAX_SHORT_IDS as u64).collect()),
        Message::Offer(links(0..MAX_FRAME_LINKS as u64)),
        answer(vec![cells(3, MAX_PART_CELLS)]),
        answer(vec![kept(MAX_PART_CELLS)]),
        answer(vec![one_more(0..1024)]),
    ];
    for message in largest {
        let bytes = message.encode();
        assert!(bytes.len() <= MAX_FRAME_BYTES, "{} bytes", bytes.len());
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
    let too_long = vec![0; MAX_FRAME_BYTES + 1];
    assert_eq!(Message::decode(&too_long), Err(WireError::TooLong { length: too_long.len() }));
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(
        at in 0usize..13,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut bytes = messages()[at].1.encode();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn noise_is_refused_or_canonical(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn an_opening_that_decodes_encodes_to_the_same_bytes(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = Opening { count: 9, whole: [1; 8], tags: vec![[2; 2]; 4] }.encode();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(opening) = Opening::decode(&bytes) {
            prop_assert_eq!(opening.encode(), bytes);
        }
    }
}
