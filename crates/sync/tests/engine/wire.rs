//! The bytes of every message: pinned by fixtures, and decoded strictly.
//!
//! A fixture is `fixtures/<protocol>-<what>.hex`: lower hex, 32 bytes a line.

use ark_core::{DeviceId, Incarnation, Link, ObjectId, ObjectKind, RepoKind, TopicId, Writer};
use ark_sync::{
    Announced, Announcement, AnswerCheck, AnswerViolation, Expected, Have, HaveEntry, Hello,
    ITEM_HEADER_BYTES, ItemHeader, ItemHeaderError, MAX_FRAME_BYTES, MAX_REQUEST_BYTES,
    MAX_REQUEST_LINKS, Message, ObjectsRequest, Role, SummaryEntry, WireError,
};
use proptest::prelude::*;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    data_encoding::HEXLOWER.decode(text.replace('\n', "").as_bytes()).unwrap()
}

/// That `bytes` are what the fixture says; otherwise shows what the fixture would have to be.
fn pin(name: &str, bytes: &[u8]) {
    let lines: Vec<_> = bytes.chunks(32).map(|line| data_encoding::HEXLOWER.encode(line)).collect();
    assert!(fixture(name) == bytes, "fixture {name} is not\n{}\n", lines.join("\n"));
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

fn writer(n: u8) -> Writer {
    Writer { device: device(n), incarnation: Incarnation::new(0x0123_4567_89ab_cdef) }
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 32])
}

fn links() -> Vec<Link> {
    vec![Link::snapshot(id(4)), Link::directory(id(3)), Link::file(id(2)), Link::raw(id(1))]
}

fn messages() -> Vec<(&'static str, Message)> {
    let topic = TopicId::derive("my-project", None);
    let hello = Hello {
        protocol: 1,
        topic,
        kind: Some(RepoKind::Folder),
        role: Role::Peer,
        folder: true,
        listed: vec![device(1), device(2)],
    };
    let summary = [1, 2].map(|n| SummaryEntry {
        writer: writer(n),
        revision: 300 + u64::from(n),
        hash: id(n),
    });
    let have = Have {
        writers: vec![HaveEntry { writer: writer(1), durable: 301, applied: 300 }],
        scanned: true,
    };
    vec![
        ("sync-v1-hello", Message::Hello(hello)),
        ("sync-v1-summary", Message::Summary(summary.to_vec())),
        ("sync-v1-want-states", Message::WantStates(vec![writer(1), writer(2)])),
        ("sync-v1-states", Message::States(vec![b"a state".to_vec(), b"another".to_vec()])),
        ("sync-v1-have", Message::Have(have.clone())),
        ("sync-v1-reconcile", Message::Reconcile { topic, epoch: 0x0123_4567_89ab_cdef }),
        ("sync-v1-ask", Message::Ask(topic)),
        ("sync-v1-listed", Message::Listed(vec![device(1), device(2)])),
        ("sync-v1-have-changed", Message::HaveChanged(have)),
    ]
}

fn announcements() -> Vec<(&'static str, Announcement)> {
    let named = SummaryEntry { writer: writer(1), revision: 9, hash: id(1) };
    let state = Announced::State(b"a state".to_vec());
    vec![
        ("gossip-v1-state", Announcement { state, new: links() }),
        ("gossip-v1-named", Announcement { state: Announced::Named(named), new: Vec::new() }),
    ]
}

fn request(ahead: bool) -> ObjectsRequest {
    ObjectsRequest { topic: TopicId::derive("my-project", None), links: links(), ahead }
}

#[test]
fn messages_are_pinned() {
    for (name, message) in messages() {
        pin(name, &message.encode());
        assert_eq!(Message::decode(&fixture(name)), Ok(message));
    }
}

#[test]
fn a_kind_is_told_by_its_number_and_others_are_refused() {
    let says = |kind| Message::Hello(Hello { kind, ..greeting() }).encode();
    let kinds = [Some(RepoKind::Folder), Some(RepoKind::Jj), None];
    let numbers = [0, 1, u8::MAX];
    let folder = says(kinds[0]);
    let jj = says(kinds[1]);
    let at = folder.iter().zip(&jj).position(|(a, b)| a != b).unwrap();
    for (kind, number) in kinds.into_iter().zip(numbers) {
        let mut bytes = folder.clone();
        bytes[at] = number;
        assert_eq!(says(kind), bytes);
        let hello = Message::Hello(Hello { kind, ..greeting() });
        assert_eq!(Message::decode(&bytes), Ok(hello));
    }
    for number in 2..u8::MAX {
        let mut bytes = folder.clone();
        bytes[at] = number;
        assert!(matches!(Message::decode(&bytes), Err(WireError::Archive(_))));
    }
}

#[test]
fn announcements_are_pinned() {
    for (name, announcement) in announcements() {
        pin(name, &announcement.encode());
        assert_eq!(Announcement::decode(&fixture(name)), Ok(announcement));
    }
}

#[test]
fn requests_and_items_are_pinned() {
    pin("objects-v1-request", &request(true).encode());
    assert_eq!(ObjectsRequest::decode(&fixture("objects-v1-request")), Ok(request(true)));
    let present = ItemHeader::Present { link: Link::directory(id(7)), length: 0x0001_0203 };
    pin("objects-v1-item-present", &present.encode());
    let missing = ItemHeader::Missing { link: Link::raw(id(7)) };
    pin("objects-v1-item-missing", &missing.encode());
}

#[test]
fn what_no_message_may_say_is_refused() {
    let refused = [
        Message::Summary(vec![SummaryEntry { writer: writer(1), revision: 0, hash: id(1) }]),
        Message::Summary([2, 1].map(entry).to_vec()),
        Message::Summary([1, 1].map(entry).to_vec()),
        Message::WantStates(vec![writer(2), writer(1)]),
        Message::WantStates((0..=1024).map(many).collect()),
        Message::States(Vec::new()),
        Message::States(vec![vec![0; ark_core::MAX_STATE_BYTES + 1]]),
        Message::Have(have(0, 0)),
        Message::Have(have(1, 2)),
        Message::HaveChanged(have(0, 0)),
        Message::HaveChanged(have(1, 2)),
        Message::Hello(Hello { listed: vec![device(2), device(1)], ..greeting() }),
        Message::Hello(Hello {
            listed: (0..=1024).map(|n| many(n).device).collect(),
            ..greeting()
        }),
    ];
    for message in refused {
        let result = Message::decode(&message.encode());
        assert!(matches!(result, Err(WireError::Invalid(_))), "{result:?}");
    }
}

fn entry(n: u8) -> SummaryEntry {
    SummaryEntry { writer: writer(n), revision: 1, hash: id(n) }
}

fn have(durable: u64, applied: u64) -> Have {
    Have { writers: vec![HaveEntry { writer: writer(1), durable, applied }], scanned: false }
}

fn greeting() -> Hello {
    match messages().remove(0).1 {
        Message::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

/// One of many writers, in order.
fn many(n: u32) -> Writer {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Writer { device: DeviceId::from_bytes(bytes), incarnation: Incarnation::new(1) }
}

#[test]
fn the_largest_messages_fit_a_frame() {
    let writers: Vec<_> = (0..1024).map(many).collect();
    let entry = |&writer: &Writer| SummaryEntry { writer, revision: u64::MAX, hash: id(1) };
    let have = |&writer: &Writer| HaveEntry { writer, durable: u64::MAX, applied: u64::MAX };
    let listed = writers.iter().map(|writer| writer.device).collect();
    for message in [
        Message::Summary(writers.iter().map(entry).collect()),
        Message::Have(Have { writers: writers.iter().map(have).collect(), scanned: true }),
        Message::Hello(Hello { listed, ..greeting() }),
        Message::WantStates(writers),
    ] {
        assert!(message.encode().len() <= MAX_FRAME_BYTES);
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let links = (0..MAX_REQUEST_LINKS).map(|n| Link::raw(ObjectId::of(&n.to_le_bytes())));
    let request = ObjectsRequest { links: links.collect(), ..request(false) };
    assert!(request.encode().len() <= MAX_REQUEST_BYTES);
    assert_eq!(ObjectsRequest::decode(&request.encode()), Ok(request));
}

#[test]
fn a_request_asks_for_something_and_for_nothing_twice() {
    let many = (0..=MAX_REQUEST_LINKS).map(|n| Link::raw(ObjectId::of(&n.to_le_bytes())));
    for links in [Vec::new(), vec![Link::raw(id(1)); 2], many.collect()] {
        let request = ObjectsRequest { links, ..request(false) };
        let result = ObjectsRequest::decode(&request.encode());
        assert!(matches!(result, Err(WireError::Invalid(_))), "{result:?}");
    }
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let long = vec![0; MAX_FRAME_BYTES + 1];
    let error = WireError::TooLong { length: long.len(), limit: MAX_FRAME_BYTES };
    assert_eq!(Message::decode(&long), Err(error));
    assert!(matches!(ObjectsRequest::decode(&long), Err(WireError::TooLong { .. })));
    assert!(matches!(Announcement::decode(&long), Err(WireError::TooLong { .. })));
}

#[test]
fn item_headers_are_decoded_strictly() {
    let link = Link::raw(id(7));
    for header in [
        ItemHeader::Missing { link },
        ItemHeader::Present { link, length: 0 },
        ItemHeader::Present { link, length: 4 << 20 },
    ] {
        assert_eq!(ItemHeader::decode(&header.encode()), Ok(header));
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = ItemHeader::Missing { link }.encode();
        bytes[at] = byte;
        ItemHeader::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(ItemHeaderError::Tag(2)));
    assert_eq!(with(1, 99), Err(ItemHeaderError::Kind(99)));
    assert_eq!(with(34, 1), Err(ItemHeaderError::Length(1)));
    let long = ItemHeader::Present { link, length: (4 << 20) + 1 };
    assert_eq!(ItemHeader::decode(&long.encode()), Err(ItemHeaderError::Length((4 << 20) + 1)));
}

#[test]
fn an_answer_brings_what_was_asked_once() {
    let present = |link| ItemHeader::Present { link, length: 1 };
    let mut check = AnswerCheck::new(&request(false));
    let stranger = Link::directory(id(9));
    assert_eq!(check.expect(&present(stranger)), Err(AnswerViolation::Unasked(stranger)));
    for link in links() {
        assert!(!check.is_complete());
        assert_eq!(check.expect(&present(link)), Ok(Expected::Asked));
        assert_eq!(check.expect(&present(link)), Err(AnswerViolation::Twice(link)));
    }
    assert!(check.is_complete());

    let mut check = AnswerCheck::new(&request(true));
    assert_eq!(check.expect(&present(stranger)), Ok(Expected::Ahead));
    assert_eq!(check.expect(&present(stranger)), Err(AnswerViolation::Twice(stranger)));
    let raw = Link::raw(id(9));
    assert_eq!(check.expect(&present(raw)), Err(AnswerViolation::Unasked(raw)));
    let missing = ItemHeader::Missing { link: Link::file(id(9)) };
    assert_eq!(check.expect(&missing), Err(AnswerViolation::Unasked(Link::file(id(9)))));
}

/// Every valid encoding, to be damaged.
fn encodings() -> Vec<Vec<u8>> {
    let messages = messages().into_iter().map(|(_, message)| message.encode());
    let announcements = announcements().into_iter().map(|(_, it)| it.encode());
    messages.chain(announcements).chain([request(true).encode()]).collect()
}

/// No bytes make a decoder panic, and what it takes encodes back to the same bytes.
fn decode_all(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
    if let Ok(announcement) = Announcement::decode(bytes) {
        assert_eq!(announcement.encode(), bytes);
    }
    if let Ok(request) = ObjectsRequest::decode(bytes) {
        assert_eq!(request.encode(), bytes);
    }
    if let Some(header) = bytes.first_chunk::<ITEM_HEADER_BYTES>()
        && let Ok(decoded) = ItemHeader::decode(header)
    {
        assert_eq!(&decoded.encode(), header);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_bytes_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let all = encodings();
        let mut bytes = which.get(&all).clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        decode_all(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn links_survive_a_round_trip(
        kinds in prop::collection::vec(0_u8..10, 1..200),
        ahead in any::<bool>(),
    ) {
        let link = |(at, kind): (usize, u8)| Link {
            kind: ObjectKind::from_u8(kind).unwrap(),
            id: ObjectId::of(&at.to_le_bytes()),
        };
        let links = kinds.into_iter().enumerate().map(link).collect();
        let request = ObjectsRequest { links, ..request(ahead) };
        prop_assert_eq!(ObjectsRequest::decode(&request.encode()), Ok(request));
    }
}
