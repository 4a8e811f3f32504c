//! States that cannot be finished with those who are connected, and the older ones of the same
//! writer that others have.

use ark_core::Link;
use ark_sync::{Effect, Input, JoinOutcome, Problem, StageOutcome};

use crate::alone::{Alone, state_of, writer};
use crate::world::{Manners, SECOND_MS, Weather, World};

/// The first device's fourth state is staged at the second, and its objects are nowhere; the third
/// has joined the second state. Only these two are connected, as of now.
fn lost(seed: u64) -> World {
    let mut world = World::new(3, seed, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.connect_all();
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    part(&mut world);
    edit(&mut world, "second");
    world.connect(0, 2);
    world.run(10 * SECOND_MS);
    part(&mut world);
    edit(&mut world, "third");
    edit(&mut world, "fourth");
    world.devices[0].manners = Manners::HasNothing;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    part(&mut world);
    assert_eq!(revisions(&world), (1, 2));
    world.connect(1, 2);
    world
}

fn edit(world: &mut World, content: &str) {
    world.devices[0].tree.entry(0).or_default().push(content.as_bytes().to_vec());
    world.publish(0);
}

fn part(world: &mut World) {
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.disconnect(a, b);
    }
}

/// The first device's revision that the second and the third have joined.
fn revisions(world: &World) -> (u64, u64) {
    let of = |at: usize| {
        let joined = &world.devices[at].store.joined;
        joined.get(&world.devices[0].writer).map_or(0, |it| it.state().revision)
    };
    (of(1), of(2))
}

/// The revisions of the first device's states that the second has joined, in order.
fn joins(world: &World) -> Vec<u64> {
    world.devices[1].joins.iter().map(|(_, revision)| *revision).collect()
}

#[test]
fn a_state_that_nobody_has_keeps_no_older_one_away() {
    let mut world = lost(1);
    world.run(SECOND_MS);
    assert_eq!(revisions(&world), (2, 2));
    // What others owe is settled.
    let view = world.devices[2].engine.view();
    assert_eq!(view.peers[&world.id(1)].durable, view.durable);
    let view = world.devices[1].engine.view();
    assert_eq!((view.missing.objects, view.requests), (0, 0));
    assert_eq!(view.stuck, [world.devices[0].writer].into());
    // And it is quiet.
    let (requests, sent) = (world.devices[1].requests.len(), world.sent.len());
    world.run(60 * SECOND_MS);
    assert_eq!((world.devices[1].requests.len(), world.sent.len()), (requests, sent));
}

#[test]
fn the_newer_state_wins_once_somebody_has_it() {
    let mut world = lost(2);
    world.run(SECOND_MS);
    world.devices[0].manners = Manners::Honest;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(joins(&world), [1, 2, 4], "what is joined never goes back");
    let received = &world.devices[1].store.received;
    assert!(received.values().all(|&times| times == 1), "nothing is sent twice");
}

#[test]
fn a_newer_state_that_is_sent_over_and_over_takes_no_turns() {
    let mut world = lost(3);
    // Slow enough for the other to come in between.
    world.weather.slowness = 1_000;
    for _ in 0..20 {
        world.connect(0, 1);
        world.run(100);
    }
    world.run(10 * SECOND_MS);
    assert_eq!(revisions(&world), (2, 2));
    assert_eq!(joins(&world), [1, 2]);
    let requests = world.devices[1].requests.len();
    assert!(requests < 80, "{requests}");
}

#[test]
fn an_older_state_that_nobody_has_either_is_not_asked_for_in_a_loop() {
    let mut world = lost(4);
    world.devices[2].manners = Manners::HasNothing;
    let requests = world.devices[1].requests.len();
    world.run(60 * SECOND_MS);
    assert_eq!(joins(&world), [1]);
    let more = world.devices[1].requests.len() - requests;
    assert!((1..=3).contains(&more), "{more}");
    let problems = world.devices[1].engine.view().problems;
    assert!(problems.iter().any(|it| matches!(it, Problem::Unavailable { .. })), "{problems:?}");
    world.devices[2].manners = Manners::Honest;
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    assert_eq!(joins(&world), [1, 2]);
}

#[test]
fn it_is_so_after_a_restart_too() {
    let mut world = lost(5);
    part(&mut world);
    world.restart(1);
    assert_eq!(world.devices[1].engine.view().staged, 1);
    world.connect(1, 2);
    world.run(11 * SECOND_MS);
    assert_eq!(revisions(&world), (2, 2));
}

#[test]
fn a_connection_that_breaks_for_a_moment_gives_up_nothing() {
    let mut world = lost(7);
    part(&mut world);
    world.devices[0].manners = Manners::Honest;
    world.weather.slowness = 20_000;
    world.connect(0, 1);
    world.run(SECOND_MS);
    assert!(world.devices[1].engine.view().requests > 0);
    world.connect(1, 2);
    for _ in 0..5 {
        world.disconnect(0, 1);
        world.run(2 * SECOND_MS);
        world.connect(0, 1);
        world.run(SECOND_MS);
    }
    world.run(300 * SECOND_MS);
    assert_eq!(joins(&world), [1, 4]);
}

#[test]
fn two_states_that_are_only_claimed_take_no_turns() {
    let mut world = lost(8);
    world.devices[2].manners = Manners::HasNothing;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let (requests, sent) = (world.devices[1].requests.len(), world.sent.len());
    assert!(requests < 20, "{requests}");
    world.run(60 * SECOND_MS);
    assert_eq!((world.devices[1].requests.len(), world.sent.len()), (requests, sent));
    assert_eq!(joins(&world), [1]);
    // Whoever comes and has one is asked.
    world.devices[2].manners = Manners::Honest;
    world.connect(1, 2);
    world.run(10 * SECOND_MS);
    assert_eq!(joins(&world), [1, 2]);
    world.devices[0].manners = Manners::Honest;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    assert_eq!(joins(&world), [1, 2, 4]);
}

#[test]
fn states_that_are_sent_unasked_and_not_delivered_take_no_turns() {
    let mut world = lost(9);
    world.devices[2].manners = Manners::HasNothing;
    world.connect(0, 1);
    world.run(10 * SECOND_MS);
    let state = |at: usize| {
        let joined = &world.devices[at].store.joined;
        joined[&world.devices[0].writer].bytes().to_vec()
    };
    let (peer, states) = (world.id(2), [state(0), state(2)]);
    let mut stagings = 0;
    for state in states.iter().cycle().take(50) {
        let message = ark_sync::Message::States(vec![state.clone()]);
        let device = &mut world.devices[1];
        device.staged = 0;
        world.feed(1, Input::Message { peer, message });
        world.run(SECOND_MS);
        stagings += world.devices[1].staged;
    }
    assert!(stagings <= 4, "{stagings}");
}

#[test]
fn who_comes_to_have_what_it_lacked_is_asked_again() {
    let mut world = lost(10);
    world.run(SECOND_MS);
    assert_eq!(joins(&world), [1, 2]);
    // The third lacks the fourth state, too, until it meets the first; all on one connection.
    let state = world.devices[0].store.joined[&world.devices[0].writer].bytes().to_vec();
    let (peer, message) = (world.id(2), ark_sync::Message::States(vec![state]));
    world.feed(1, Input::Message { peer, message });
    world.run(SECOND_MS);
    assert_eq!(joins(&world), [1, 2]);
    world.weather.gossip_lost = 1_000;
    world.devices[0].manners = Manners::Honest;
    world.connect(0, 2);
    world.run(10 * SECOND_MS);
    assert_eq!(joins(&world), [1, 2, 4]);
}

#[test]
fn a_state_that_is_under_way_gives_way_to_no_older_one() {
    let mut world = lost(6);
    part(&mut world);
    world.devices[0].manners = Manners::Honest;
    world.weather.slowness = 20_000;
    world.connect(0, 1);
    world.connect(1, 2);
    world.run(60 * SECOND_MS);
    world.run(60 * SECOND_MS);
    world.converged().unwrap();
    assert_eq!(joins(&world), [1, 4]);
}

#[test]
fn an_invalid_state_keeps_no_older_one_away() {
    let mut alone = Alone::warm();
    let (older, invalid) = (alone.state(1, 1), alone.state(1, 2));
    let writer = older.state().writer;
    alone.send(&invalid);
    let link = Link::snapshot(ark_core::ObjectId::of(b"head"));
    let outcome = StageOutcome::Staged { missing: vec![link] };
    alone.feed(Input::Staged { writer, outcome });
    let (request, _) = alone.asked[0];
    let rejected = vec![(link, "no snapshot".to_owned())];
    let (received, next) = (Vec::new(), Vec::new());
    alone.feed(Input::Stored { request, received, next, rejected });
    let effects = alone.send(&older);
    assert!(effects.contains(&Effect::Stage { state: older.clone(), replacing: true }));
    // The invalid one does not come back; and one that the store found invalid is the same.
    assert_eq!(alone.send(&invalid), []);
    alone.feed(Input::Staged { writer, outcome: StageOutcome::Invalid });
    assert_eq!(alone.engine.view().staged, 0);
    assert_eq!(alone.send(&older), []);
}

/// A state of another writer that has taken in the first of the remote.
fn covering(alone: &Alone) -> (ark_core::SignedState, ark_core::SignedState) {
    let theirs = alone.state(1, 1);
    let covering = state_of(&alone.key, 2, 1, [(theirs.state().writer, 1)]);
    (theirs, covering)
}

#[test]
fn a_state_that_becomes_needless_while_it_is_pulled_is_joined_at_once() {
    let mut alone = Alone::new();
    let (theirs, covering) = covering(&alone);
    let a = theirs.state().writer;
    alone.send(&theirs);
    let missing = vec![Link::snapshot(ark_core::ObjectId::of(b"nowhere"))];
    let effects =
        alone.feed(Input::Staged { writer: a, outcome: StageOutcome::Staged { missing } });
    assert!(matches!(effects[..], [Effect::Request { .. }]), "{effects:?}");
    let effects = join(&mut alone, &covering);
    assert!(effects.contains(&Effect::Join { writer: a }), "{effects:?}");
}

#[test]
fn what_the_store_said_before_a_join_is_asked_again() {
    let missing = || vec![Link::snapshot(ark_core::ObjectId::of(b"nowhere"))];
    // It was staging, or joining, the one when the other was joined.
    for is_joining in [false, true] {
        let mut alone = Alone::new();
        let (theirs, covering) = covering(&alone);
        let a = theirs.state().writer;
        alone.send(&theirs);
        if is_joining {
            let outcome = StageOutcome::Complete;
            let effects = alone.feed(Input::Staged { writer: a, outcome });
            assert_eq!(effects, [Effect::Join { writer: a }]);
        }
        assert!(!join(&mut alone, &covering).contains(&Effect::Join { writer: a }));
        let effects = alone.feed(if is_joining {
            Input::JoinResult { writer: a, outcome: JoinOutcome::Missing(missing()) }
        } else {
            Input::Staged { writer: a, outcome: StageOutcome::Staged { missing: missing() } }
        });
        assert_eq!(effects, [Effect::Join { writer: a }]);
        // Once: then it is fetched.
        let outcome = JoinOutcome::Missing(missing());
        let effects = alone.feed(Input::JoinResult { writer: a, outcome });
        assert!(matches!(effects[..], [Effect::Request { .. }]), "{effects:?}");
    }
}

fn join(alone: &mut Alone, state: &ark_core::SignedState) -> Vec<Effect> {
    let writer = state.state().writer;
    assert_eq!(writer, self::writer(&alone.key, 2));
    alone.send(state);
    alone.feed(Input::Staged { writer, outcome: StageOutcome::Complete });
    alone.feed(Input::JoinResult { writer, outcome: JoinOutcome::Joined(state.clone()) })
}

fn raw(what: &str) -> Link {
    Link::raw(ark_core::ObjectId::of(what.as_bytes()))
}

/// How objects come to be here though nobody was asked for them for the sake of a state.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Coming {
    Published,
    /// So many that they are not named.
    Unnamed,
    Found,
}

impl Coming {
    const ALL: [Self; 3] = [Self::Published, Self::Unnamed, Self::Found];

    /// One of them comes.
    fn come(self, alone: &mut Alone, link: Link) -> Vec<Effect> {
        let state = alone.state(2, alone.now_ms);
        alone.feed(match self {
            Self::Published => Input::Published { state, new: vec![link] },
            Self::Unnamed => Input::Published { state, new: vec![] },
            Self::Found => Input::Found { links: vec![link] },
        })
    }
}

/// A state whose only sender is gone, while the store stages it, or joins it.
fn deserted(is_joining: bool) -> (Alone, ark_core::Writer) {
    let mut alone = Alone::warm();
    let lost = alone.state(1, 1);
    let writer = lost.state().writer;
    alone.send(&lost);
    if is_joining {
        let outcome = StageOutcome::Complete;
        let effects = alone.feed(Input::Staged { writer, outcome });
        assert_eq!(effects, [Effect::Join { writer }]);
    }
    alone.feed(Input::PeerDisconnected { peer: writer.device });
    (alone, writer)
}

#[test]
fn what_comes_while_the_store_is_asked_is_not_waited_for() {
    let missing = || vec![raw("lost")];
    for (is_joining, coming) in
        [false, true].into_iter().flat_map(|it| Coming::ALL.map(|c| (it, c)))
    {
        let (mut alone, writer) = deserted(is_joining);
        coming.come(&mut alone, raw("lost"));
        let effects = alone.feed(if is_joining {
            Input::JoinResult { writer, outcome: JoinOutcome::Missing(missing()) }
        } else {
            Input::Staged { writer, outcome: StageOutcome::Staged { missing: missing() } }
        });
        assert_eq!(effects, [Effect::Join { writer }], "{coming:?}, {is_joining}");
        // Once: what the store was asked about since is missing.
        let outcome = JoinOutcome::Missing(missing());
        assert_eq!(alone.feed(Input::JoinResult { writer, outcome }), []);
        assert_eq!(coming.come(&mut alone, raw("lost")).last(), Some(&Effect::Join { writer }));
    }
}

#[test]
fn something_else_that_comes_meanwhile_is_no_reason_to_ask_again() {
    for coming in [Coming::Published, Coming::Found] {
        let (mut alone, writer) = deserted(true);
        coming.come(&mut alone, raw("something"));
        let outcome = JoinOutcome::Missing(vec![raw("lost")]);
        assert_eq!(alone.feed(Input::JoinResult { writer, outcome }), [], "{coming:?}");
    }
}

#[test]
fn what_comes_while_somebody_is_asked_for_it_is_not_waited_for() {
    for coming in Coming::ALL {
        let mut alone = Alone::warm();
        let lost = alone.state(1, 1);
        let writer = lost.state().writer;
        alone.send(&lost);
        let outcome = StageOutcome::Staged { missing: vec![raw("lost")] };
        alone.feed(Input::Staged { writer, outcome });
        let (request, links) = alone.asked.pop().expect("it is asked for");
        assert_eq!(links, [raw("lost")]);
        let mut effects = coming.come(&mut alone, raw("lost"));
        effects.extend(alone.feed(Input::RequestEnded { request, missing: links }));
        let joins = effects.iter().filter(|it| **it == Effect::Join { writer }).count();
        assert_eq!(joins, 1, "{coming:?}: {effects:?}");
        let outcome = JoinOutcome::Missing(vec![raw("lost")]);
        let effects = alone.feed(Input::JoinResult { writer, outcome });
        assert!(!effects.contains(&Effect::Join { writer }), "{effects:?}");
    }
}

#[test]
fn what_comes_for_a_state_that_waits_for_another_is_asked_about_when_nobody_is_there() {
    // Before the store said that this is missing, or after that.
    for is_late in [false, true] {
        let mut alone = Alone::new();
        let (theirs, covering) = covering(&alone);
        let (writer, by) = (theirs.state().writer, covering.state().writer);
        // The one that makes it needless is pulled first.
        alone.send(&covering);
        let outcome = StageOutcome::Staged { missing: vec![raw("of both"), raw("of the other")] };
        alone.feed(Input::Staged { writer: by, outcome });
        let (request, _) = alone.asked[0];
        alone.send(&theirs);
        let outcome = StageOutcome::Staged { missing: vec![raw("of both")] };
        let (next, rejected) = (Vec::new(), Vec::new());
        let stored = Input::Stored { request, received: vec![(raw("of both"), 1)], next, rejected };
        let mut inputs = [Input::Staged { writer, outcome }, stored];
        if is_late {
            inputs.reverse();
        }
        let effects: Vec<_> = inputs.into_iter().flat_map(|input| alone.feed(input)).collect();
        assert!(!effects.contains(&Effect::Join { writer }), "its time has not come: {effects:?}");
        let effects = alone.feed(Input::PeerDisconnected { peer: writer.device });
        assert!(effects.contains(&Effect::Join { writer }), "{is_late}: {effects:?}");
    }
}

/// Whoever writes much all the while lets others' states come nevertheless.
#[test]
fn what_the_store_says_is_of_use_whatever_is_published_meanwhile() {
    for is_joining in [false, true] {
        let mut alone = Alone::warm();
        let state = alone.state(1, 1);
        let writer = state.state().writer;
        alone.send(&state);
        if is_joining {
            alone.feed(Input::Staged { writer, outcome: StageOutcome::Complete });
        }
        Coming::Unnamed.come(&mut alone, raw("one of many"));
        let missing = vec![raw("missing")];
        let effects = alone.feed(if is_joining {
            Input::JoinResult { writer, outcome: JoinOutcome::Missing(missing) }
        } else {
            Input::Staged { writer, outcome: StageOutcome::Staged { missing } }
        });
        let is_request = |effect: &Effect| matches!(effect, Effect::Request { .. });
        assert!(effects.iter().any(is_request), "{is_joining}: {effects:?}");
        assert!(!effects.contains(&Effect::Join { writer }));
    }
}

/// More states than are pulled at once: one that waits until there is room.
#[test]
fn what_comes_for_a_state_that_waits_for_room_is_no_reason_to_ask() {
    const STATES: u64 = 40;
    let mut alone = Alone::warm();
    let writers: Vec<_> = (1..=STATES)
        .map(|incarnation| {
            let state = alone.state(incarnation, 1);
            let writer = state.state().writer;
            alone.send(&state);
            let missing = vec![raw(&incarnation.to_string())];
            alone.feed(Input::Staged { writer, outcome: StageOutcome::Staged { missing } });
            writer
        })
        .collect();
    let last = Effect::Join { writer: writers[writers.len() - 1] };
    let links = vec![raw(&STATES.to_string())];
    let effects = alone.feed(Input::Found { links });
    assert!(!effects.contains(&last), "its time has not come: {effects:?}");
    let effects = alone.feed(Input::PeerDisconnected { peer: writers[0].device });
    assert!(effects.contains(&last), "{effects:?}");
}

#[test]
fn a_state_that_nobody_has_is_joined_once_what_it_lacks_came_for_another() {
    for is_published in [false, true] {
        let mut alone = Alone::new();
        let lost = alone.state(1, 1);
        let a = lost.state().writer;
        let requested = |alone: &mut Alone, state: &ark_core::SignedState, missing| {
            alone.send(state);
            let outcome = StageOutcome::Staged { missing: vec![missing] };
            let effects = alone.feed(Input::Staged { writer: state.state().writer, outcome });
            let mut requests = effects.iter().filter_map(|effect| match effect {
                Effect::Request { id, .. } => Some(*id),
                _ => None,
            });
            requests.next().expect("what is missing is asked for")
        };
        let request = requested(&mut alone, &lost, raw("lost"));
        alone.feed(Input::RequestEnded { request, missing: vec![raw("lost")] });
        // One thing after the other comes, of which only the last is what it lacks.
        for (incarnation, what) in [(2, "something"), (3, "lost")] {
            let state = alone.state(incarnation, 1);
            let effects = if is_published {
                alone.feed(Input::Published { state, new: vec![raw(what)] })
            } else {
                let asked = raw(&format!("beside {what}"));
                let request = requested(&mut alone, &state, asked);
                let received = vec![(asked, 1), (raw(what), 1)];
                let (next, rejected) = (Vec::new(), Vec::new());
                alone.feed(Input::Stored { request, received, next, rejected })
            };
            let is_asked = effects.contains(&Effect::Join { writer: a });
            assert_eq!(is_asked, what == "lost", "{effects:?}");
        }
    }
}
