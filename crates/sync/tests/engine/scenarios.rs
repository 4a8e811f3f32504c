//! Named cases among devices that mean well.

use ark_core::{DeviceId, Incarnation, Writer};
use ark_sync::{Input, Message, Problem};

use crate::world::{SECOND_MS, Weather, World, in_step};

#[test]
fn equal_states_take_one_round_trip_and_a_few_hundred_bytes() {
    let mut world = in_step(1);
    world.publish(1);
    world.run(10 * SECOND_MS);
    world.disconnect(0, 1);
    world.sent.clear();
    let began_ms = world.now_ms;
    world.connect(0, 1);
    world.run(60 * SECOND_MS);
    let (delay_ms, _) = Weather::CALM.delay_ms;
    // The greeting goes out at once and is answered when it comes; nothing is left to be said.
    assert!(world.sent.iter().all(|sent| sent.at_ms <= began_ms + delay_ms));
    let silent = |sent: &crate::world::Sent| {
        !matches!(sent.message, Message::States(_) | Message::WantStates(_))
    };
    assert!(world.sent.iter().all(silent), "states were exchanged that both have");
    let bytes = world.bytes_between(0, 1);
    assert!(bytes < 1_200, "{bytes} bytes both ways");
    assert!(world.devices[0].engine.view().peers[&world.id(1)].in_touch);
}

#[test]
fn an_edit_is_one_request() {
    let mut world = in_step(2);
    world.devices[1].requests.clear();
    world.add_file(0, b"one more");
    let began_ms = world.now_ms;
    let state = world.publish(0);
    world.run(SECOND_MS);
    world.converged().unwrap();
    let [(asked_ms, 0, request)] = &world.devices[1].requests[..] else {
        panic!("{} requests", world.devices[1].requests.len());
    };
    // The content, its directory, the root, the snapshot.
    assert_eq!(request.links.len(), 4);
    assert!(!request.ahead);
    // As soon as the announcement came and the hints were looked up: staging is not waited for.
    let (_, delay_ms) = Weather::CALM.delay_ms;
    assert!(*asked_ms <= began_ms + delay_ms + 2 * Weather::CALM.store_ms.1);
    assert_eq!(world.devices[1].joins.last(), Some(&(state.state().writer, 2)));
}

#[test]
fn what_a_device_makes_itself_is_not_fetched() {
    let mut world = in_step(3);
    world.add_file(0, b"the same on both");
    world.add_file(1, b"the same on both");
    world.publish(1);
    world.run(10 * SECOND_MS);
    let before = world.devices[1].store.received.len();
    world.publish(0);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    // Only what differs: directories and snapshot, never the content.
    let received = &world.devices[1].store.received;
    assert!(received.len() <= before + 3);
    let content = ark_core::Object::new(ark_core::ObjectKind::Raw, b"the same on both".to_vec());
    assert!(!received.contains_key(&content.link()));
}

/// Two devices, one of which has begun and not scanned its folder yet.
fn before_the_first_scan(seed: u64) -> World {
    let mut world = World::new(2, seed, Weather::CALM);
    world.devices[1].scanned = false;
    world.restart(1);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(5 * SECOND_MS);
    let requests = &world.devices[1].requests;
    assert!(!requests.is_empty(), "structured objects come at once");
    let links = requests.iter().flat_map(|(_, _, request)| &request.links);
    assert_eq!(links.filter(|link| !link.kind.is_structured()).count(), 0);
    world
}

#[test]
fn content_that_the_first_scan_finds_is_not_fetched() {
    let mut world = before_the_first_scan(31);
    // It has all of it but one file.
    world.fill(1, 3, 10, 1);
    let only_there = world.devices[1].tree.get_mut(&0).unwrap().pop().unwrap();
    world.publish(1);
    world.feed(1, Input::Scanned);
    world.run(5 * SECOND_MS);
    world.converged().unwrap();
    let requests = world.devices[1].requests.iter();
    let content: Vec<_> = requests
        .flat_map(|(_, _, request)| &request.links)
        .filter(|link| !link.kind.is_structured())
        .collect();
    let chunks = only_there
        .chunks(2_000)
        .map(|chunk| ark_core::Object::new(ark_core::ObjectKind::Raw, chunk.to_vec()).link());
    assert!(chunks.eq(content.into_iter().copied()));
}

#[test]
fn a_first_scan_is_not_waited_for_without_end() {
    let mut world = before_the_first_scan(32);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn all_gossip_lost_costs_only_latency() {
    let mut world = in_step(4);
    world.weather.gossip_lost = 1_000;
    world.sent.clear();
    world.add_file(0, b"unheard of");
    world.publish(0);
    world.run(SECOND_MS);
    world.converged().unwrap();
    assert!(world.sent.iter().any(|sent| matches!(sent.message, Message::WantStates(_))));
}

#[test]
fn gossip_is_waited_for_before_a_state_is_asked_for() {
    let mut world = in_step(5);
    world.sent.clear();
    world.add_file(0, b"announced");
    world.publish(0);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    let asked = |message: &Message| matches!(message, Message::WantStates(_) | Message::States(_));
    assert!(!world.sent.iter().any(|sent| asked(&sent.message)));
}

#[test]
fn a_state_too_large_to_be_announced_is_asked_for() {
    let mut world = in_step(6);
    let writer = |n: u8| Writer {
        device: DeviceId::from_bytes([n; 32]),
        incarnation: Incarnation::new(u64::from(n)),
    };
    world.devices[0].padding = (0..120).map(writer).collect();
    world.sent.clear();
    let state = world.publish(0);
    assert!(state.bytes().len() > ark_sync::MAX_ANNOUNCEMENT_BYTES);
    let began_ms = world.now_ms;
    world.run(SECOND_MS);
    world.converged().unwrap();
    let asked = world.sent.iter().find(|it| matches!(it.message, Message::WantStates(_))).unwrap();
    assert_eq!(asked.at_ms, began_ms + Weather::CALM.delay_ms.0, "at once");
}

#[test]
fn who_comes_back_is_told_what_is_newer_without_asking() {
    let mut world = in_step(27);
    world.disconnect(0, 1);
    world.add_file(0, b"while you were away");
    world.publish(0);
    world.sent.clear();
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert!(!world.sent.iter().any(|sent| matches!(sent.message, Message::WantStates(_))));
}

#[test]
fn a_full_store_is_shown_and_tried_again() {
    let mut world = World::new(2, 16, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.devices[1].store.is_full = true;
    world.publish(0);
    world.connect(0, 1);
    world.run(30 * SECOND_MS);
    let view = world.devices[1].engine.view();
    assert!(view.problems.iter().any(|it| matches!(it, Problem::Store { .. })));
    world.devices[1].store.is_full = false;
    world.run(120 * SECOND_MS);
    world.converged().unwrap();
    let view = world.devices[1].engine.view();
    assert!(!view.problems.iter().any(|it| matches!(it, Problem::Store { .. })));
}

#[test]
fn have_is_said_at_once_and_then_together() {
    let mut world = in_step(18);
    world.sent.clear();
    for round in 0..50 {
        world.feed(1, if round % 2 == 0 { Input::FolderBegun } else { Input::Scanned });
        world.run(1);
    }
    world.run(SECOND_MS);
    let haves: Vec<_> =
        world.sent.iter().filter(|sent| matches!(sent.message, Message::HaveChanged(_))).collect();
    assert!((1..=4).contains(&haves.len()), "{} messages", haves.len());
}

#[test]
fn only_what_changed_is_told_again_and_all_of_it_to_who_comes_anew() {
    let mut world = World::new(4, 21, Weather::CALM);
    for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        world.connect(one, other);
    }
    for at in 0..4 {
        world.fill(at, 2, 5, 10 + at);
        world.publish(at);
    }
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    world.sent.clear();
    world.fill(2, 2, 5, 3);
    world.publish(2);
    world.run(10 * SECOND_MS);
    let entries = |message: &Message| match message {
        Message::HaveChanged(have) => Some(have.writers.len()),
        Message::Have(_) => panic!("all is told again"),
        _ => None,
    };
    let told: Vec<_> = world.sent.iter().filter_map(|sent| entries(&sent.message)).collect();
    assert!(told.len() >= 12 && told.iter().all(|&count| count == 1), "{told:?}");
    world.connect(0, 1);
    world.run(SECOND_MS);
    let view = world.devices[0].engine.view();
    assert_eq!(view.peers[&world.id(1)].durable, world.devices[1].engine.view().durable);
}

#[test]
fn applied_and_scanned_are_told() {
    let mut world = in_step(19);
    world.devices[1].scanned = false;
    world.restart(1);
    world.connect(0, 1);
    world.run(SECOND_MS);
    let (writer, device) = (world.devices[0].writer, world.id(1));
    let peer = |world: &World| world.devices[0].engine.view().peers[&device].clone();
    assert_eq!(peer(&world).durable.get(&writer), Some(&1));
    assert_eq!(peer(&world).applied.get(&writer), Some(&0));
    assert!(!peer(&world).scanned);
    world.feed(1, Input::Applied { revisions: [(writer, 1)].into() });
    world.feed(1, Input::Scanned);
    world.run(SECOND_MS);
    assert_eq!(peer(&world).applied.get(&writer), Some(&1));
    assert!(peer(&world).scanned && peer(&world).folder);
    assert_eq!(peer(&world).behind, ark_sync::Amount::default());
    // What was said in an earlier session is not taken for said in this one.
    world.connect(0, 1);
    assert!(!peer(&world).scanned && !peer(&world).in_touch);
    world.run(SECOND_MS);
    assert!(peer(&world).scanned && peer(&world).in_touch);
}

#[test]
fn what_a_peer_lacks_is_shown() {
    let mut world = in_step(20);
    world.disconnect(0, 1);
    world.add_file(0, b"not there yet");
    world.publish(0);
    let view = world.devices[0].engine.view();
    assert_eq!(view.peers[&world.id(1)].behind.objects, 4);
    world.connect(0, 1);
    world.run(SECOND_MS);
    let view = world.devices[0].engine.view();
    assert_eq!(view.peers[&world.id(1)].behind.objects, 0);
}

#[test]
fn progress_is_shown_while_a_pull_is_under_way() {
    let mut world = World::new(2, 21, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 10, 40, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(300);
    let early = world.devices[1].engine.view();
    assert!(early.missing.objects > 0 && early.missing.bytes > 0 && early.requests > 0);
    assert_eq!(early.staged, 1);
    world.run(60 * SECOND_MS);
    let late = world.devices[1].engine.view();
    assert!(late.received.bytes > early.received.bytes);
    assert_eq!((late.missing.objects, late.requests, late.staged), (0, 0, 0));
}

#[test]
fn states_reach_devices_that_never_meet_their_writer() {
    let mut world = World::new(4, 22, Weather { gossip_lost: 1_000, ..Weather::CALM });
    for at in 0..3 {
        world.connect(at, at + 1);
    }
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn the_halves_of_a_partition_are_the_same_within_seconds_of_its_end() {
    let mut world = World::new(5, 24, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.connect_all();
    world.run(10 * SECOND_MS);
    for (a, b) in [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)] {
        world.disconnect(a, b);
    }
    // Longer than any timer: both halves go on, and stay in step by themselves.
    for round in 0..10 {
        for at in 0..5 {
            world.add_file(at, format!("{at} in round {round}").as_bytes());
            world.publish(at);
        }
        world.run(60 * SECOND_MS);
    }
    assert!(world.converged().is_err());
    // Gossip does not find together again; one connection does.
    world.weather.gossip_lost = 1_000;
    world.connect(1, 2);
    world.run(3 * SECOND_MS);
    world.converged().unwrap();
    let received = world.devices.iter().flat_map(|device| device.store.received.values());
    assert!(received.copied().all(|times| times == 1), "nothing is sent twice");
}

#[test]
fn states_are_asked_for_when_gossip_lagged_and_by_the_slow_timer() {
    let mut world = in_step(23);
    world.sent.clear();
    world.feed(0, Input::Lagged);
    assert!(world.sent.iter().any(|sent| matches!(sent.message, Message::Summary(_))));
    world.sent.clear();
    world.run(15 * 60 * SECOND_MS);
    let summaries = world.sent.iter().filter(|it| matches!(it.message, Message::Summary(_)));
    assert!((2..=12).contains(&summaries.count()));
}
