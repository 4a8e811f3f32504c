//! Named cases of what is fetched: closures streamed and walked, providers that come and go, pulls
//! beside each other.

use std::collections::BTreeSet;

use crate::world::{Manners, SECOND_MS, Weather, World, in_step};

#[test]
fn an_empty_side_gets_the_closure_streamed() {
    let mut world = World::new(2, 7, Weather::CALM);
    world.fill(0, 20, 30, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    let (streams, others): (Vec<_>, Vec<_>) =
        world.devices[1].requests.iter().partition(|(_, _, request)| request.ahead);
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].2.links.len(), 1, "the snapshot names the rest");
    let raw = |request: &ark_sync::ObjectsRequest| {
        request.links.iter().all(|link| !link.kind.is_structured())
    };
    assert!(others.iter().all(|(_, _, request)| raw(request)), "structure was asked for by id");
}

#[test]
fn a_side_that_has_something_walks() {
    let mut world = in_step(8);
    world.devices[1].requests.clear();
    world.disconnect(0, 1);
    world.fill(0, 20, 30, 2);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert!(world.devices[1].requests.iter().all(|(_, _, request)| !request.ahead));
}

#[test]
fn two_filled_sides_walk() {
    let mut world = World::new(2, 24, Weather::CALM);
    for at in [0, 1] {
        world.fill(at, 3, 10, at);
        world.publish(at);
    }
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    for device in &world.devices {
        assert!(device.requests.iter().all(|(_, _, request)| !request.ahead));
    }
}

#[test]
fn a_side_that_holds_an_empty_folder_still_gets_the_closure_streamed() {
    let mut world = World::new(2, 25, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.publish(1);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert!(world.devices[1].requests[0].2.ahead);
}

#[test]
fn a_stream_that_was_cut_is_walked_on_from() {
    let mut world = World::new(2, 26, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 100, 20, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run_until(|world| world.devices[1].store.received.len() > 20);
    world.connect(0, 1);
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    let device = &world.devices[1];
    assert_eq!(device.requests.iter().filter(|(_, _, request)| request.ahead).count(), 1);
    assert!(device.store.received.values().all(|&times| times == 1));
}

#[test]
fn a_provider_that_dies_is_replaced_by_another() {
    let mut world = World::new(3, 9, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 10, 40, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(60 * SECOND_MS);
    world.connect(0, 2);
    world.run_until(|world| world.devices[2].store.received.len() > 50);
    world.disconnect(0, 2);
    world.connect(1, 2);
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    let device = &world.devices[2];
    assert!(device.requests.iter().any(|(_, of, _)| *of == 1));
    assert!(device.store.received.values().all(|&times| times == 1), "nothing was re-sent");
}

#[test]
fn a_restarted_receiver_goes_on_where_it_was() {
    let mut world = World::new(2, 10, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 10, 40, 1);
    world.publish(0);
    world.connect(0, 1);
    for part in 1..4 {
        world.run_until(|world| world.devices[1].store.received.len() > 50 * part);
        world.restart(1);
        assert!(!world.devices[1].store.pending.is_empty());
        world.connect(0, 1);
    }
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    assert!(world.devices[1].store.received.values().all(|&times| times == 1));
}

#[test]
fn several_providers_share_the_work() {
    let mut world = World::new(4, 11, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 10, 40, 1);
    world.publish(0);
    for at in [1, 2] {
        world.connect(0, at);
    }
    world.run(60 * SECOND_MS);
    for at in [0, 1, 2] {
        world.connect(at, 3);
    }
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    let asked: BTreeSet<_> = world.devices[3].requests.iter().map(|(_, of, _)| *of).collect();
    assert_eq!(asked, [0, 1, 2].into());
    assert!(world.devices[3].store.received.values().all(|&times| times == 1));
}

#[test]
fn a_pull_that_has_begun_is_finished_before_a_newer_state() {
    let mut world = World::new(2, 12, Weather { slowness: 20, ..Weather::CALM });
    world.fill(0, 10, 40, 1);
    let writer = world.publish(0).state().writer;
    world.connect(0, 1);
    world.run_until(|world| !world.devices[1].store.received.is_empty());
    for content in [b"second", b"third!"] {
        world.add_file(0, content);
        world.publish(0);
        world.run(50);
    }
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    // The one that came between was replaced while it waited.
    assert_eq!(world.devices[1].joins, [(writer, 1), (writer, 3)]);
}

#[test]
fn a_pull_that_has_not_begun_gives_way() {
    let mut world = World::new(3, 13, Weather::CALM);
    world.fill(0, 3, 3, 1);
    world.connect(0, 1);
    world.connect(1, 2);
    world.devices[1].store.is_full = true;
    let writer = world.publish(0).state().writer;
    // Gossip reaches 2, but nobody who has the objects does.
    world.run(SECOND_MS);
    assert_eq!(world.devices[2].engine.view().staged, 1);
    world.add_file(0, b"newer");
    world.publish(0);
    world.run(SECOND_MS);
    world.devices[1].store.is_full = false;
    world.run(200 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(world.devices[2].joins, [(writer, 2)]);
}

#[test]
fn an_edit_is_not_behind_a_bulk_transfer() {
    let mut world = World::new(3, 14, Weather { slowness: 50, ..Weather::CALM });
    world.publish(2);
    world.connect_all();
    world.run(SECOND_MS);
    world.fill(0, 20, 40, 1);
    let bulk = world.publish(0).state().writer;
    world.run(SECOND_MS);
    world.fill(1, 1, 1, 2);
    let edit = world.publish(1).state().writer;
    world.run(2 * SECOND_MS);
    let joins = &world.devices[2].joins;
    assert!(joins.iter().any(|(writer, _)| *writer == edit), "{joins:?}");
    assert!(!joins.iter().any(|(writer, _)| *writer == bulk), "the bulk is under way");
    world.run(120 * SECOND_MS);
    world.converged().unwrap();
}

#[test]
fn what_a_newer_state_of_another_has_taken_in_is_not_fetched() {
    let mut world = World::new(3, 15, Weather::CALM);
    world.fill(0, 3, 30, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    // What 1 publishes takes in the state of 0 and has nothing of its content.
    world.fill(1, 1, 1, 2);
    world.devices[1].tree.remove(&1);
    world.devices[1].tree.remove(&2);
    world.publish(1);
    world.run(10 * SECOND_MS);
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert!(world.devices[2].store.received.len() <= 4, "only what is still a head");
}

#[test]
fn a_provider_that_never_answers_is_not_asked_in_a_loop() {
    let mut world = World::new(3, 17, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.devices[1].manners = Manners::Silent;
    world.connect(1, 2);
    world.run(60 * SECOND_MS);
    let requests = world.devices[2].requests.len();
    assert!((2..=12).contains(&requests), "{requests} requests in a minute");
    world.connect(0, 2);
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
}
