//! When links are reconciled, and what becomes of what that finds.

use ark_core::{Link, ObjectId};
use ark_sync::{
    Effect, Have, HaveEntry, Input, JoinOutcome, MAX_WANTED, Message, Reconciliation, StageOutcome,
    Violation,
};

use crate::alone::{Alone, writer};
use crate::world::{Manners, SECOND_MS, Weather, World, in_step};

/// Two devices that have the same and more than nothing, the second with a state of its own.
fn both_publishing(seed: u64) -> World {
    let mut world = in_step(seed);
    world.publish(1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 0], "an empty side gets the closure streamed");
    world
}

fn edit(world: &mut World, at: usize, content: &str) {
    world.devices[at].tree.entry(0).or_default().push(content.as_bytes().to_vec());
    world.publish(at);
}

/// How many reconciliations each device began.
fn begun(world: &World) -> Vec<usize> {
    world.devices.iter().map(|device| device.reconciliations.len()).collect()
}

#[test]
fn who_lacks_something_after_a_partition_reconciles_once() {
    let mut world = both_publishing(1);
    world.disconnect(0, 1);
    for round in 0..5 {
        world.fill(0, 3, 10 + round, round);
        world.publish(0);
    }
    world.devices[1].requests.clear();
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 1]);
    let [zero, one] = [0, 1].map(|at| world.devices[at].engine.view().reconciliations);
    assert_eq!((zero.sessions, zero.round_trips, zero.last_round_trips), (1, 0, 0));
    assert_eq!((one.sessions, one.round_trips, one.last_round_trips), (1, 2, 2));
    assert!(one.received_bytes > 500 && one.sent_bytes == 500, "{one:?}");
    assert!(world.devices[1].store.received.values().all(|&times| times == 1));
}

#[test]
fn both_sides_of_a_partition_come_to_the_same() {
    let mut world = both_publishing(2);
    world.disconnect(0, 1);
    edit(&mut world, 0, "here");
    edit(&mut world, 1, "there");
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    let begun = begun(&world);
    assert!(begun.iter().sum::<usize>() > 0 && begun.iter().all(|&it| it <= 1), "{begun:?}");
}

#[test]
fn the_normal_flow_needs_none() {
    let mut world = both_publishing(3);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    edit(&mut world, 0, "announced");
    world.run(10 * SECOND_MS);
    // Where gossip is lost, states come on the stream.
    world.weather.gossip_lost = 1_000;
    edit(&mut world, 0, "asked for");
    edit(&mut world, 1, "asked for, too");
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert!(world.sent.iter().any(|sent| matches!(sent.message, Message::WantStates(_))));
    assert_eq!(begun(&world), [0, 0]);
}

#[test]
fn an_empty_side_is_streamed_the_closure() {
    let mut world = World::new(3, 4, Weather::CALM);
    for at in [0, 1] {
        world.fill(at, 3, 10, at);
        world.publish(at);
    }
    world.connect(0, 2);
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    assert_eq!(world.devices[2].engine.view().durable.len(), 2);
    assert_eq!(world.devices[2].reconciliations, []);
}

#[test]
fn it_is_due_after_a_lag_and_begun_by_the_slow_timer_where_something_is_lacking() {
    let mut world = both_publishing(5);
    world.weather.gossip_lost = 1_000;
    world.feed(1, Input::Lagged);
    edit(&mut world, 0, "missed");
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 1]);
    edit(&mut world, 0, "the normal flow");
    world.run(10 * SECOND_MS);
    assert_eq!(begun(&world), [0, 1]);
    world.run(15 * 60 * SECOND_MS);
    edit(&mut world, 0, "the normal flow after the timer");
    edit(&mut world, 1, "and back");
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 1]);
    // Nothing new comes to begin it.
    world.devices[0].manners = Manners::HasNothing;
    edit(&mut world, 0, "damaged");
    world.run(10 * SECOND_MS);
    assert_eq!(begun(&world), [0, 1]);
    world.devices[0].manners = Manners::Honest;
    world.run(15 * 60 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 2]);
}

#[test]
fn a_long_pull_is_reconciled_by_the_slow_timer_only_where_it_stands_still() {
    let mut alone = Alone::warm();
    let writer = writer(&alone.key, 1);
    let entry = HaveEntry { writer, durable: 1, applied: 0 };
    alone.say(Message::Have(Have { writers: vec![entry], scanned: true }));
    let state = alone.state(1, 1);
    alone.send(&state);
    let missing = invented(1_000).into_iter().map(|link| Link::directory(link.id)).collect();
    let outcome = StageOutcome::Staged { missing };
    let mut begun = reconciles(&alone.feed(Input::Staged { writer, outcome }));
    // An object in six seconds, for twenty minutes.
    let asked = alone.asked.clone();
    let each = asked.iter().flat_map(|(id, links)| links.iter().map(|link| (*id, *link)));
    for (request, link) in each.take(200) {
        alone.now_ms += 6_000;
        let received = vec![(link, 1_000)];
        let (next, rejected) = (Vec::new(), Vec::new());
        begun |= reconciles(&alone.feed(Input::Stored { request, received, next, rejected }));
    }
    assert_eq!(alone.engine.view().missing.objects, 800);
    assert!(!begun, "it gets on");
    for _ in 0..100 {
        alone.now_ms += 6_000;
        begun |= reconciles(&alone.feed(Input::Timer));
    }
    assert!(begun, "it stands still");
}

#[test]
fn it_is_due_where_a_state_could_not_be_finished() {
    let mut world = both_publishing(6);
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.weather.gossip_lost = 1_000;
    world.devices[0].manners = Manners::HasNothing;
    edit(&mut world, 0, "damaged");
    world.run(10 * SECOND_MS);
    assert_eq!(begun(&world), [0, 0]);
    world.devices[0].manners = Manners::Honest;
    edit(&mut world, 0, "mended");
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 1]);
}

#[test]
fn a_pull_that_a_break_interrupted_is_reconciled() {
    let mut world = both_publishing(7);
    world.weather.slowness = 5_000;
    edit(&mut world, 0, &"long".repeat(500));
    world.run(2 * SECOND_MS);
    assert!(world.devices[1].engine.view().requests > 0);
    assert_eq!(begun(&world), [0, 0]);
    world.connect(0, 1);
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(begun(&world), [0, 1]);
}

#[test]
fn raw_objects_that_nothing_links_are_wanted_in_small_numbers() {
    let mut alone = Alone::warm();
    let (peer, staged) = (writer(&alone.key, 1).device, writer(&alone.key, 1));
    stage(&mut alone, 1);
    for _ in 0..20 {
        alone.feed(Input::Lacking { peer, links: invented(4_000) });
        let absent = invented(4_000);
        alone.feed(Input::LookedUp { writer: staged, revision: 1, absent });
    }
    assert!(alone.engine.view().missing.objects <= 257);
}

/// Links that nobody has.
fn invented(count: usize) -> Vec<Link> {
    let link = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Link::raw(ObjectId::from_bytes(id))
    };
    (0..count).map(link).collect()
}

fn ended(complete: bool) -> Reconciliation {
    Reconciliation { round_trips: 1, sent_bytes: 300, received_bytes: 300, complete }
}

/// What the state of an incarnation lacks.
fn head(incarnation: u64) -> Link {
    Link::snapshot(ObjectId::of(&incarnation.to_le_bytes()))
}

/// A state of the peer is staged and lacks its head; what was to be done about that.
fn stage(alone: &mut Alone, incarnation: u64) -> Vec<Effect> {
    let state = alone.state(incarnation, 1);
    let writer = state.state().writer;
    alone.send(&state);
    let missing = vec![head(incarnation)];
    alone.feed(Input::Staged { writer, outcome: StageOutcome::Staged { missing } })
}

fn reconciles(effects: &[Effect]) -> bool {
    effects.iter().any(|it| matches!(it, Effect::Reconcile { .. }))
}

#[test]
fn what_is_lacking_is_looked_up_and_wanted() {
    let mut alone = Alone::warm();
    let peer = writer(&alone.key, 1).device;
    assert!(reconciles(&stage(&mut alone, 1)));
    let links = invented(10_000);
    let effects = alone.feed(Input::Lacking { peer, links: links.clone() });
    let [Effect::Lookup { writer, revision: 1, links: portion }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let (writer, length) = (*writer, portion.len());
    assert_eq!(portion[..], links[..length]);
    assert!(length < links.len(), "in portions");
    // One at a time; and what is here already is not wanted.
    assert!(!alone.feed(Input::Timer).iter().any(|it| matches!(it, Effect::Lookup { .. })));
    let absent = links[..7].to_vec();
    let effects = alone.feed(Input::LookedUp { writer, revision: 1, absent: absent.clone() });
    assert!(effects.iter().any(|it| matches!(it, Effect::Lookup { .. })));
    let asked = effects.iter().find_map(|it| match it {
        Effect::Request { request, .. } => Some(request.links.clone()),
        _ => None,
    });
    assert_eq!(asked, Some(absent));
    // What nobody needs any more is not looked up.
    let effects = alone.feed(Input::Found { links: [invented(7), vec![head(1)]].concat() });
    assert!(effects.contains(&Effect::Join { writer }), "{effects:?}");
    let outcome = JoinOutcome::Joined(alone.state(1, 1));
    alone.feed(Input::JoinResult { writer, outcome });
    assert_eq!(alone.feed(Input::LookedUp { writer, revision: 1, absent: Vec::new() }), []);
    assert_eq!(alone.feed(Input::Lacking { peer, links }), []);
}

#[test]
fn invented_links_cost_bounded_work_and_delay_nothing_for_long() {
    let mut alone = Alone::warm();
    let peer = writer(&alone.key, 1).device;
    let staged = writer(&alone.key, 1);
    stage(&mut alone, 1);
    let links = invented(4 * MAX_WANTED).into_iter().map(|link| Link::directory(link.id));
    let mut effects = alone.feed(Input::Lacking { peer, links: links.collect() });
    let mut looked_up = 0;
    let lookup = |effects: &[Effect]| {
        effects.iter().find_map(|it| match it {
            Effect::Lookup { links, .. } => Some(links.clone()),
            _ => None,
        })
    };
    while let Some(absent) = lookup(&effects) {
        looked_up += absent.len();
        effects = alone.feed(Input::LookedUp { writer: staged, revision: 1, absent });
        assert!(alone.engine.view().missing.objects <= MAX_WANTED as u64);
    }
    assert_eq!(looked_up, MAX_WANTED);
    // The peer answers that it does not have them: each is forgotten at once.
    let (mut answered, mut is_asked) = (0, false);
    while let Some((request, missing)) = alone.asked.pop() {
        if !missing.contains(&head(1)) {
            answered += missing.len();
            let effects = alone.feed(Input::RequestEnded { request, missing });
            is_asked |= effects.contains(&Effect::Join { writer: staged });
        }
    }
    assert!(answered <= MAX_WANTED, "{answered}");
    assert_eq!(alone.engine.view().missing.objects, 1, "the head is awaited still");
    assert!(is_asked, "as soon as there is room, the store is asked what else is missing");
}

#[test]
fn it_goes_on_only_after_progress() {
    for (found, again) in [(10, true), (0, false)] {
        let mut alone = Alone::warm();
        let peer = writer(&alone.key, 1).device;
        assert!(reconciles(&stage(&mut alone, 1)));
        assert!(!reconciles(&stage(&mut alone, 2)), "one finds what both lack");
        alone.feed(Input::Lacking { peer, links: invented(found) });
        let reconciliation = ended(false);
        assert!(!reconciles(&alone.feed(Input::Reconciled { peer, reconciliation })));
        assert!(!reconciles(&alone.feed(Input::Timer)));
        let joined = alone.state(1, 1);
        let writer = joined.state().writer;
        let effects = alone.feed(Input::Found { links: vec![head(1)] });
        assert!(effects.contains(&Effect::Join { writer }), "{effects:?}");
        let outcome = JoinOutcome::Joined(joined);
        let effects = alone.feed(Input::JoinResult { writer, outcome });
        assert_eq!(reconciles(&effects), again, "{effects:?}");
    }
}

#[test]
fn one_that_the_peer_began_is_as_good() {
    for (reconciliation, is_due) in [(ended(true), false), (Reconciliation::default(), true)] {
        let mut alone = Alone::warm();
        let peer = writer(&alone.key, 1).device;
        alone.feed(Input::Reconciled { peer, reconciliation });
        assert_eq!(reconciles(&stage(&mut alone, 1)), is_due);
    }
    let counted = |reconciliation| {
        let mut alone = Alone::warm();
        let peer = writer(&alone.key, 1).device;
        alone.feed(Input::Reconciled { peer, reconciliation });
        alone.engine.view().reconciliations.sessions
    };
    assert_eq!((counted(ended(false)), counted(Reconciliation::default())), (1, 0));
}

#[test]
fn a_breach_that_the_driver_saw_ends_the_session() {
    let mut alone = Alone::warm();
    let peer = writer(&alone.key, 1).device;
    let violation = Violation::Reconciliation;
    alone.feed(Input::Breach { peer, violation });
    let view = alone.engine.view();
    assert!(!view.peers[&peer].connected);
    assert_eq!(view.counters.violations, 1);
    assert!(view.problems[0].to_string().contains("reconciliation"), "{:?}", view.problems);
    let state = alone.state(1, 1);
    assert_eq!(alone.send(&state), []);
    assert_eq!(alone.feed(Input::Lacking { peer, links: invented(9) }), []);
}

#[test]
fn what_has_a_stream_of_its_own_is_a_breach_on_the_repos_stream() {
    let topic = crate::world::topic();
    for message in [Message::Reconcile { topic, epoch: 1 }, Message::Ask(topic)] {
        let mut alone = Alone::warm();
        let effects = alone.say(message);
        let violation = Violation::Misplaced;
        let is_breach = |it: &Effect| matches!(it, Effect::Misbehaved { violation: of, .. } if *of == violation);
        assert!(effects.iter().any(is_breach), "{effects:?}");
    }
}
