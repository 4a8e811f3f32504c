//! Named cases with devices that are hostile, broken, or not listed.

use ark_core::{
    DeviceId, Dot, Head, Incarnation, ObjectId, RepoKind, SignedState, State, TopicId, Vector,
    Writer,
};
use ark_sync::{
    Effect, Have, HaveEntry, Hello, Input, JoinOutcome, Message, PROTOCOL, Problem, Role,
    StageOutcome, SummaryEntry, Violation,
};
use ed25519_dalek::SigningKey;

use crate::world::{Manners, SECOND_MS, Weather, World, topic};

fn hello(world: &World, at: usize) -> Hello {
    Hello {
        protocol: PROTOCOL,
        topic: topic(),
        kind: Some(RepoKind::Folder),
        role: Role::Peer,
        folder: true,
        listed: vec![world.id(at)],
    }
}

/// A state of `key` with nothing in it but a head.
fn state(key: &SigningKey, topic: TopicId, kind: RepoKind, revision: u64) -> SignedState {
    let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
    let writer = Writer { device, incarnation: Incarnation::new(1) };
    let heads = vec![Head { id: ObjectId::of(&revision.to_le_bytes()), sequence: revision }];
    let vector: Vector = [(writer, revision)].into_iter().collect();
    let held = Vec::new();
    SignedState::sign(State { topic, kind, writer, revision, heads, vector, held }, key).unwrap()
}

/// Two devices; the test speaks for the second.
fn puppet() -> (World, DeviceId) {
    let mut world = World::new(2, 1, Weather::CALM);
    world.connect(0, 1);
    // The real one is silenced: its messages are lost with its connection.
    world.run(SECOND_MS);
    world.disconnect(0, 1);
    let peer = world.id(1);
    (world, peer)
}

fn say(world: &mut World, peer: DeviceId, message: Message) -> Vec<Effect> {
    let now_ms = world.now_ms;
    world.devices[0].engine.handle(Input::Message { peer, message }, now_ms)
}

fn breach(effects: &[Effect]) -> Option<Violation> {
    effects.iter().find_map(|effect| match effect {
        Effect::Misbehaved { violation, .. } => Some(*violation),
        _ => None,
    })
}

fn meet(world: &mut World, peer: DeviceId) {
    let now_ms = world.now_ms;
    world.devices[0].engine.handle(Input::PeerConnected { peer }, now_ms);
    let greeting = hello(world, 1);
    let effects = say(world, peer, Message::Hello(greeting));
    assert_eq!(breach(&effects), None);
}

#[test]
fn a_session_begins_with_one_hello_for_this_repo() {
    let (mut world, peer) = puppet();
    let connect = |world: &mut World| {
        let now_ms = world.now_ms;
        world.devices[0].engine.handle(Input::PeerConnected { peer }, now_ms);
    };
    connect(&mut world);
    let effects = say(&mut world, peer, Message::Summary(Vec::new()));
    assert_eq!(breach(&effects), Some(Violation::NoHello));
    // Until it connects anew it is not listened to.
    let greeting = hello(&world, 1);
    assert!(say(&mut world, peer, Message::Hello(greeting.clone())).is_empty());
    assert!(!world.devices[0].engine.view().peers[&peer].connected);

    connect(&mut world);
    say(&mut world, peer, Message::Hello(greeting.clone()));
    assert!(world.devices[0].engine.view().peers[&peer].connected);
    let effects = say(&mut world, peer, Message::Hello(greeting.clone()));
    assert_eq!(breach(&effects), Some(Violation::SecondHello));

    connect(&mut world);
    let other = Hello { topic: TopicId::derive("another", None), ..greeting };
    let effects = say(&mut world, peer, Message::Hello(other));
    assert_eq!(breach(&effects), Some(Violation::WrongTopic));
    assert_eq!(world.devices[0].engine.view().counters.violations, 3);
}

#[test]
fn another_kind_or_protocol_is_shown_and_nothing_is_exchanged() {
    let (mut world, peer) = puppet();
    let fits = hello(&world, 1);
    for (greeting, problem) in [
        (
            Hello { kind: Some(RepoKind::Jj), ..fits.clone() },
            Problem::WrongKind { device: peer, found: RepoKind::Jj },
        ),
        (Hello { protocol: 9, ..fits.clone() }, Problem::Protocol { device: peer, found: 9 }),
    ] {
        let now_ms = world.now_ms;
        world.devices[0].engine.handle(Input::PeerConnected { peer }, now_ms);
        let effects = say(&mut world, peer, Message::Hello(greeting));
        assert_eq!(effects, [Effect::Problem(problem.clone())]);
        assert!(say(&mut world, peer, Message::Summary(Vec::new())).is_empty());
        let view = world.devices[0].engine.view();
        assert_eq!(view.problems, [problem], "the one before was settled by this hello");
        assert!(!view.peers[&peer].connected);
    }
    meet(&mut world, peer);
    assert!(world.devices[0].engine.view().problems.is_empty());
}

#[test]
fn who_takes_nothing_of_what_is_written_here_is_shown() {
    let (mut world, peer) = puppet();
    let now_ms = world.now_ms;
    world.devices[0].engine.handle(Input::PeerConnected { peer }, now_ms);
    let greeting = Hello { role: Role::Reader, ..hello(&world, 1) };
    let effects = say(&mut world, peer, Message::Hello(greeting));
    let problem = Problem::Role { device: peer, granted: Role::Reader };
    assert!(effects.contains(&Effect::Problem(problem)));
    assert!(world.devices[0].engine.view().peers[&peer].connected);
}

#[test]
fn forged_states_are_counted_and_too_many_end_the_session() {
    let (mut world, peer) = puppet();
    meet(&mut world, peer);
    let mut forged = state(&world.devices[1].key, topic(), RepoKind::Folder, 1).bytes().to_vec();
    forged[0] ^= 1;
    for _ in 0..16 {
        let effects = say(&mut world, peer, Message::States(vec![forged.clone()]));
        assert!(effects.is_empty(), "{effects:?}");
    }
    let effects = say(&mut world, peer, Message::States(vec![b"garbage".to_vec()]));
    assert_eq!(breach(&effects), Some(Violation::ForgedStates));
    assert_eq!(world.devices[0].engine.view().counters.forged, 17);
}

#[test]
fn replayed_reordered_and_foreign_states_are_ignored_and_counted() {
    let (mut world, peer) = puppet();
    meet(&mut world, peer);
    let key = world.devices[1].key.clone();
    let bytes = |state: SignedState| state.bytes().to_vec();
    let newest = bytes(state(&key, topic(), RepoKind::Folder, 5));
    let effects = say(&mut world, peer, Message::States(vec![newest.clone()]));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Stage { .. })));
    let older = bytes(state(&key, topic(), RepoKind::Folder, 4));
    let elsewhere = bytes(state(&key, TopicId::derive("x", None), RepoKind::Folder, 9));
    let jj = bytes(state(&key, topic(), RepoKind::Jj, 9));
    let effects = say(&mut world, peer, Message::States(vec![newest, older, elsewhere, jj]));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Stage { .. })));
    let counters = world.devices[0].engine.view().counters;
    assert_eq!((counters.stale, counters.foreign), (2, 2));
}

#[test]
fn of_two_states_of_one_revision_the_greater_hash_stands_and_it_is_shown() {
    let (mut world, peer) = puppet();
    meet(&mut world, peer);
    let key = world.devices[1].key.clone();
    let mut both = [1, 2].map(|sequence| {
        let at = state(&key, topic(), RepoKind::Folder, sequence);
        SignedState::sign(State { revision: 7, ..at.state().clone() }, &key).unwrap()
    });
    both.sort_by_key(SignedState::hash);
    let staged =
        |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Stage { .. }));
    let [lesser, greater] = both.map(|state| state.bytes().to_vec());
    let effects = say(&mut world, peer, Message::States(vec![greater]));
    assert!(staged(&effects));
    let effects = say(&mut world, peer, Message::States(vec![lesser]));
    assert!(!staged(&effects));
    let problems = world.devices[0].engine.view().problems;
    assert!(matches!(problems[..], [Problem::Equivocation { revision: 7, .. }]));
}

#[test]
fn an_unlisted_writer_is_refused_and_shown_with_the_line_that_admits_it() {
    let listed = vec![[0, 1].into(), [0, 1, 2].into(), [1, 2].into()];
    let mut world = World::listing(listed, 1, Weather::CALM);
    world.fill(2, 2, 2, 1);
    let writer = world.publish(2).state().writer;
    world.connect(1, 2);
    world.run(SECOND_MS);
    assert_eq!(world.devices[1].joins, [(writer, 1)]);
    world.connect(0, 1);
    world.run(60 * SECOND_MS);
    let device = &world.devices[0];
    assert!(device.joins.is_empty() && device.requests.is_empty());
    let [problem @ Problem::UnlistedWriter { .. }] = &device.problems[..] else {
        panic!("{:?}", device.problems);
    };
    let line = format!("{{ name = \"...\", node_id = \"{}\" }}", writer.device);
    assert!(problem.to_string().contains(&line), "{problem}");
    assert!(device.engine.view().counters.unlisted > 0);
    // The other side knows that nothing is owed for that writer.
    let view = world.devices[1].engine.view();
    assert!(!view.peers[&world.id(0)].lists(writer));
    assert_eq!(view.peers[&world.id(0)].behind.objects, 0);
}

#[test]
fn a_peer_that_has_nothing_is_shown_and_does_not_hold_up_what_is_newer() {
    let mut world = World::new(2, 2, Weather::CALM);
    world.devices[0].manners = Manners::HasNothing;
    world.fill(0, 2, 5, 1);
    let writer = world.publish(0).state().writer;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let view = world.devices[1].engine.view();
    assert!(view.problems.iter().any(|it| matches!(it, Problem::Unavailable { .. })));
    assert!(world.devices[1].requests.len() <= 3, "it is not asked over and over");
    world.devices[0].manners = Manners::Honest;
    world.fill(0, 2, 6, 2);
    world.publish(0);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(world.devices[1].joins, [(writer, 2)], "the first was given up for the second");
    assert!(world.devices[1].engine.view().problems.is_empty());
}

#[test]
fn what_one_peer_does_not_have_is_asked_of_the_next() {
    let mut world = World::new(3, 3, Weather::CALM);
    world.fill(0, 3, 20, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.devices[1].manners = Manners::HasNothing;
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    assert!(world.devices[2].store.received.is_empty());
    world.connect(0, 2);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn a_peer_that_comes_back_with_what_it_lacked_is_asked_again() {
    let mut world = World::new(2, 4, Weather::CALM);
    world.devices[0].manners = Manners::HasNothing;
    world.fill(0, 2, 5, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    assert!(world.converged().is_err());
    world.devices[0].manners = Manners::Honest;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn a_peer_that_lacked_something_is_asked_again_in_time() {
    let mut world = World::new(2, 4, Weather::CALM);
    world.devices[0].manners = Manners::HasNothing;
    world.fill(0, 2, 5, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.devices[0].manners = Manners::Honest;
    world.run(10 * 60 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn objects_nobody_asked_for_end_the_session_and_others_are_asked() {
    for manners in [Manners::Unasked, Manners::WrongBytes] {
        let mut world = World::new(3, 5, Weather::CALM);
        world.fill(0, 3, 20, 1);
        world.publish(0);
        world.connect(0, 1);
        world.run(10 * SECOND_MS);
        world.devices[1].manners = manners;
        world.connect(1, 2);
        world.run(10 * SECOND_MS);
        assert!(world.devices[2].store.received.is_empty());
        assert!(!world.is_connected(1, 2));
        let shown = Problem::Misbehaved { device: world.id(1), violation: Violation::WrongObjects };
        assert!(world.devices[2].problems.contains(&shown));
        world.connect(0, 2);
        world.run(10 * SECOND_MS);
        world.converged().unwrap();
    }
}

#[test]
fn a_peer_that_claims_what_nobody_has_costs_little() {
    let (mut world, peer) = puppet();
    meet(&mut world, peer);
    let writer = world.devices[1].writer;
    say(&mut world, peer, Message::Summary(Vec::new()));
    let have =
        Have { writers: vec![HaveEntry { writer, durable: u64::MAX, applied: 0 }], scanned: true };
    let mut asked = 0;
    say(&mut world, peer, Message::Have(have));
    for _ in 0..600 {
        world.now_ms += 100;
        let now_ms = world.now_ms;
        let effects = world.devices[0].engine.handle(Input::Timer, now_ms);
        asked += effects.len();
    }
    assert!((1..=12).contains(&asked), "{asked} messages in a minute");
}

#[test]
fn changes_of_nothing_or_of_too_much_end_the_session() {
    let (mut world, peer) = puppet();
    let device = |n: u16| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        DeviceId::from_bytes(bytes)
    };
    let have = |writers: std::ops::Range<u16>| {
        let entry = |n| {
            let writer = Writer { device: device(n), ..world.devices[1].writer };
            HaveEntry { writer, durable: 1, applied: 0 }
        };
        Have { writers: writers.map(entry).collect(), scanned: true }
    };
    let (all, some, one) = (have(0..1_000), have(1_000..1_024), have(1_024..1_025));
    let is_ended = |effects: &[Effect]| {
        let violation = Violation::Changes;
        effects.contains(&Effect::Misbehaved { peer, violation })
    };
    meet(&mut world, peer);
    assert!(is_ended(&say(&mut world, peer, Message::HaveChanged(one.clone()))));
    meet(&mut world, peer);
    say(&mut world, peer, Message::Have(all));
    assert!(!is_ended(&say(&mut world, peer, Message::HaveChanged(some))));
    assert!(is_ended(&say(&mut world, peer, Message::HaveChanged(one))));
}

#[test]
fn an_object_that_is_invalid_stops_its_state_and_only_that() {
    let (mut world, peer) = puppet();
    meet(&mut world, peer);
    let key = world.devices[1].key.clone();
    let bad = state(&key, topic(), RepoKind::Folder, 1);
    let (writer, head) = (bad.state().writer, bad.state().head_links()[0]);
    say(&mut world, peer, Message::States(vec![bad.bytes().to_vec()]));
    let now_ms = world.now_ms;
    let engine = &mut world.devices[0].engine;
    let outcome = StageOutcome::Staged { missing: vec![head] };
    let effects = engine.handle(Input::Staged { writer, outcome }, now_ms);
    let [Effect::Request { id, .. }] = effects[..] else { panic!("{effects:?}") };
    let rejected = vec![(head, "not an archive".to_owned())];
    let (received, next) = (Vec::new(), Vec::new());
    let stored = Input::Stored { request: id, received, next, rejected };
    let effects = engine.handle(stored, now_ms);
    assert!(matches!(effects[..], [Effect::Problem(Problem::Invalid { .. })]));
    let effects = engine.handle(Input::RequestEnded { request: id, missing: vec![] }, now_ms);
    assert!(effects.is_empty(), "it is not asked for again: {effects:?}");
    let newer = state(&key, topic(), RepoKind::Folder, 2);
    let effects = say(&mut world, peer, Message::States(vec![newer.bytes().to_vec()]));
    assert_eq!(effects, [Effect::Stage { state: newer, replacing: true }]);
}

#[test]
fn a_state_of_this_device_that_it_never_made_goes_to_the_store() {
    let (mut world, peer) = puppet();
    world.publish(0);
    meet(&mut world, peer);
    let key = world.devices[0].key.clone();
    let mine = state(&key, topic(), RepoKind::Folder, 9);
    let writer = mine.state().writer;
    let effects = say(&mut world, peer, Message::States(vec![mine.bytes().to_vec()]));
    assert!(effects.contains(&Effect::Stage { state: mine.clone(), replacing: false }));
    assert!(effects.contains(&Effect::Problem(Problem::OwnFork { writer })));

    // The store has taken a new incarnation: the old one is one more writer.
    let now_ms = world.now_ms;
    let engine = &mut world.devices[0].engine;
    let renewed = Writer { incarnation: Incarnation::new(2), ..writer };
    let effects = engine.handle(Input::Renewed { writer: renewed }, now_ms);
    let summary = vec![SummaryEntry::of(&mine)];
    assert!(effects.contains(&Effect::Send { peer, message: Message::Summary(summary) }));
    let then = Box::new(StageOutcome::Staged { missing: mine.state().head_links() });
    let outcome = StageOutcome::OwnFork { then };
    let effects = engine.handle(Input::Staged { writer, outcome }, now_ms);
    assert!(matches!(effects[..], [Effect::Request { .. }]), "{effects:?}");
}

#[test]
fn a_peer_is_not_told_more_than_fits_a_frame() {
    let mut world = World::new(8, 6, Weather::CALM);
    // Many incarnations of each device, each with a state of some size.
    for number in 0..400_u64 {
        let at = usize::try_from(number % 8).unwrap();
        let (key, device) = (world.devices[at].key.clone(), world.id(at));
        let writer = Writer { device, incarnation: Incarnation::new(2 + number / 8) };
        let other = world.id((at + 1) % 8);
        let padding = (0..100).map(|n| Dot {
            writer: Writer {
                device: if n % 2 == 0 { device } else { other },
                incarnation: Incarnation::new(2 + n / 2),
            },
            sequence: 1,
        });
        let mut vector: Vector = padding.map(|dot| (dot.writer, dot.sequence)).collect();
        vector.take_in(Dot { writer, sequence: 5 });
        let heads = vec![Head { id: ObjectId::of(&number.to_le_bytes()), sequence: 5 }];
        let (topic, kind, revision, held) = (topic(), RepoKind::Folder, 1, Vec::new());
        let state = State { topic, kind, writer, revision, heads, vector, held };
        let state = SignedState::sign(state, &key).unwrap();
        world.devices[0].store.joined.insert(writer, state);
    }
    world.restart(0);
    world.connect(0, 1);
    // `World` asserts the size of every message.
    world.run(10 * SECOND_MS);
    let messages = world.sent.iter().filter(|it| matches!(it.message, Message::States(_)));
    assert!(messages.count() > 1);
    assert_eq!(world.devices[1].engine.view().staged, 400);
}

#[test]
fn a_state_that_nobody_here_can_provide_is_joined_once_another_has_taken_it_in() {
    let mut world = World::new(3, 7, Weather::CALM);
    let peer = world.id(1);
    meet(&mut world, peer);
    let absent = state(&world.devices[2].key, topic(), RepoKind::Folder, 1);
    let now_ms = world.now_ms;
    let engine = &mut world.devices[0].engine;
    let announcement = ark_sync::Announcement::fitting(&absent, &[]);
    engine.handle(Input::Announced { from: peer, announcement }, now_ms);
    let writer = absent.state().writer;
    let outcome = StageOutcome::Staged { missing: absent.state().head_links() };
    assert!(engine.handle(Input::Staged { writer, outcome }, now_ms).is_empty());

    let key = world.devices[1].key.clone();
    let mut taken_in = state(&key, topic(), RepoKind::Folder, 1).state().clone();
    taken_in.vector.take_in_all(&absent.state().vector);
    let taken_in = SignedState::sign(taken_in, &key).unwrap();
    let by = taken_in.state().writer;
    say(&mut world, peer, Message::States(vec![taken_in.bytes().to_vec()]));
    let engine = &mut world.devices[0].engine;
    let complete = Input::Staged { writer: by, outcome: StageOutcome::Complete };
    assert_eq!(engine.handle(complete, now_ms), [Effect::Join { writer: by }]);
    let outcome = JoinOutcome::Joined(taken_in);
    let effects = engine.handle(Input::JoinResult { writer: by, outcome }, now_ms);
    assert!(effects.contains(&Effect::Join { writer }), "{effects:?}");
}
