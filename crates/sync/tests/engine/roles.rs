//! What devices may do as readers and mirrors, and what is shown where two do not agree.

use std::collections::BTreeMap;

use ark_sync::{Input, Message, Problem, Role};

use crate::world::{SECOND_MS, Weather, World};

/// Each device grants the others these.
fn granting<const N: usize>(grants: [[Role; N]; N], seed: u64) -> World {
    let listed = grants.iter().map(|row| (0..N).zip(row.iter().copied()).collect());
    World::granting(listed.collect::<Vec<BTreeMap<_, _>>>(), seed, Weather::CALM)
}

#[test]
fn a_reader_gets_all_and_what_it_writes_is_refused_and_shown() {
    use Role::{Peer, Reader};
    let mut world = granting([[Peer, Reader], [Peer, Peer]], 1);
    world.fill(0, 2, 5, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let (writer, reader) = (world.devices[0].writer, world.devices[1].writer);
    assert_eq!(world.devices[1].engine.view().durable[&writer], 1);
    world.fill(1, 2, 6, 2);
    world.publish(1);
    world.run(10 * SECOND_MS);

    let view = world.devices[0].engine.view();
    assert!(!view.known.contains_key(&reader), "{view:?}");
    assert!(view.counters.unlisted > 0);
    let [problem] = &view.problems[..] else { panic!("{:?}", view.problems) };
    let text = problem.to_string();
    let line =
        format!("{{ name = \"device 1\", node_id = \"{}\", role = \"peer\" }}", reader.device);
    assert!(text.contains("listed here as reader") && text.contains(&line), "{text}");

    // The reader is told that what it writes goes nowhere, and nothing is owed for it.
    let view = world.devices[1].engine.view();
    let granted = Problem::Role { device: writer.device, granted: Role::Reader };
    assert_eq!(view.problems, std::slice::from_ref(&granted));
    assert!(granted.to_string().contains("lists this device as reader"), "{granted}");
    let remote = &view.peers[&writer.device];
    assert_eq!(remote.granted, Some(Role::Reader));
    assert!(remote.lists(writer) && !remote.lists(reader));
    assert_eq!(remote.behind.objects, 0);

    // Nor is it sent over and over.
    world.connect(0, 1);
    world.run(SECOND_MS);
    let refused = world.devices[0].engine.view().counters.unlisted;
    world.run(60 * 60 * SECOND_MS);
    assert_eq!(world.devices[0].engine.view().counters.unlisted, refused);
}

#[test]
fn states_pass_through_a_mirror_that_holds_them_for_others() {
    use Role::{Mirror, Peer};
    // The two that write never meet.
    let mut world = granting([[Peer, Mirror, Peer], [Peer; 3], [Peer, Mirror, Peer]], 2);
    world.devices[1].folder = false;
    world.restart(1);
    world.fill(0, 2, 5, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.disconnect(0, 1);
    world.fill(2, 2, 5, 2);
    world.publish(2);
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    world.disconnect(1, 2);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    for device in &world.devices {
        assert_eq!(device.problems, [], "a mirror has nothing to be taken");
    }
    let view = world.devices[0].engine.view();
    let mirror = &view.peers[&world.id(1)];
    assert!(mirror.scanned && !mirror.folder && mirror.connected);
    let written: BTreeMap<_, _> =
        [(world.devices[0].writer, 1), (world.devices[2].writer, 1)].into();
    assert_eq!(mirror.durable, written);
}

#[test]
fn who_has_nothing_to_write_is_shown_only_once_it_writes() {
    use Role::{Mirror, Peer};
    let mut world = granting([[Peer, Mirror], [Peer, Peer]], 3);
    world.devices[1].folder = false;
    world.restart(1);
    world.connect(0, 1);
    world.run(SECOND_MS);
    assert_eq!(world.devices[1].engine.view().problems, []);
    world.publish(1);
    let problem = Problem::Role { device: world.id(0), granted: Mirror };
    assert_eq!(world.devices[1].engine.view().problems, [problem]);
    world.feed(1, Input::Timer);
    assert_eq!(world.devices[1].problems.len(), 1, "it is said once");
}

#[test]
fn a_staged_state_of_who_may_write_no_more_is_not_pulled() {
    use Role::{Peer, Reader};
    let mut world = granting([[Peer; 2]; 2], 4);
    world.devices[1].manners = crate::world::Manners::HasNothing;
    world.fill(1, 2, 5, 1);
    world.publish(1);
    world.connect(0, 1);
    world.run(SECOND_MS);
    assert_eq!(world.devices[0].engine.view().staged, 1);
    world.grant(0, 1, Reader);
    world.restart(0);
    assert_eq!(world.devices[0].engine.view().staged, 0);
    world.run(SECOND_MS);
    assert!(world.devices[0].store.staged.is_empty(), "nothing of it stays");
    world.devices[1].manners = crate::world::Manners::Honest;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    assert_eq!(world.devices[0].joins, []);
}

#[test]
fn who_was_dropped_is_not_passed_on_once_its_heads_were_taken_over() {
    let mut world = World::new(3, 5, Weather::CALM);
    world.fill(2, 2, 5, 1);
    world.publish(2);
    world.connect(0, 2);
    world.run(10 * SECOND_MS);
    world.disconnect(0, 2);
    // The first and the second do not list the third any more, and the second never met it.
    for at in [0, 1] {
        world.drop_remote(at, 2);
        world.restart(at);
    }
    let dropped = world.devices[2].writer;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let view = world.devices[1].engine.view();
    assert!(view.counters.unlisted > 0, "until then it is needed, and shown");
    world.publish(0);
    world.restart(1);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let view = world.devices[1].engine.view();
    assert_eq!((view.counters.unlisted, view.problems), (0, Vec::new()));
    assert!(!view.peers[&world.id(0)].durable.contains_key(&dropped));
    assert_eq!(view.durable[&world.devices[0].writer], 1);
}

#[test]
fn what_was_staged_of_who_is_dropped_is_not_in_the_way_when_it_is_listed_again() {
    for (seed, is_full) in [(6, false), (7, true)] {
        let mut world = World::new(3, seed, Weather { slowness: 1_000, ..Weather::CALM });
        world.fill(2, 3, 30, 1);
        world.publish(2);
        world.connect(0, 2);
        world.run_until(|world| {
            let store = &world.devices[0].store;
            store.staged.len() == 1 && store.pending.len() > 3
        });
        // The writer is dropped in mid-pull.
        world.devices[0].store.is_full = is_full;
        world.list(0, &[1]);
        assert_eq!(world.devices[0].engine.view().missing.objects, 0);
        world.weather.slowness = 0;
        // Another gets only the next one, which has nothing of that.
        world.fill(2, 3, 30, 1_000);
        world.publish(2);
        world.connect(1, 2);
        world.run(10 * SECOND_MS);
        world.disconnect(1, 2);
        world.devices[0].store.is_full = false;
        world.connect(0, 1);
        if !is_full {
            world.run(10 * SECOND_MS);
            assert_eq!(world.devices[0].engine.view().staged, 0);
            assert!(world.devices[0].store.staged.is_empty());
        }
        world.list(0, &[1, 2]);
        world.run(90 * SECOND_MS);
        world.converged().unwrap();
    }
}

#[test]
fn a_changed_list_is_told_on_the_stream_that_stands() {
    use ark_sync::Remote;
    // A line: 0 and 2 meet 1 only, and 0 does not list 2 at first.
    let listed = [[1].as_slice(), &[0, 2], &[0, 1]];
    let listed = listed.map(|of| of.iter().map(|&other| (other, Role::Peer)).collect());
    let mut world = World::granting(listed.to_vec(), 5, Weather::CALM);
    world.fill(2, 2, 5, 1);
    world.publish(2);
    world.connect(0, 1);
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    let [zero, one, two] = [0, 1, 2].map(|n| world.devices[n].writer);
    assert!(!world.devices[0].engine.view().known.contains_key(&two));
    let remote = |n: usize| Remote { name: format!("device {n}"), role: Role::Peer };
    let sent = world.sent.len();
    world.feed(
        0,
        Input::Listed {
            remotes: [1, 2].map(|n| (world.devices[n].writer.device, remote(n))).into(),
        },
    );
    world.run(10 * SECOND_MS);
    let view = world.devices[0].engine.view();
    assert_eq!(view.durable.get(&two), Some(&1), "{view:?}");
    assert!(view.peers.contains_key(&two.device) && view.problems.is_empty(), "{view:?}");
    assert!(world.devices[1].engine.view().peers[&zero.device].lists(two));
    assert!(world.sent[sent..].iter().all(|sent| !matches!(sent.message, Message::Hello(_))));

    // It goes again: what it writes from now on is not taken.
    world.feed(0, Input::Listed { remotes: [(one.device, remote(1))].into() });
    world.fill(2, 2, 6, 2);
    world.publish(2);
    world.run(10 * SECOND_MS);
    let view = world.devices[0].engine.view();
    assert_eq!(view.durable.get(&two), Some(&1), "{view:?}");
    assert!(!view.peers.contains_key(&two.device));
    assert!(!world.devices[1].engine.view().peers[&zero.device].lists(two));
    assert_eq!(world.devices[1].engine.view().durable.get(&two), Some(&2));
}
