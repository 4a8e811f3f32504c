//! Repos of jj: heads are operations, and a repo is of one kind.

use ark_core::{
    Dot, Link, ObjectId, ObjectKind, RepoKind, SignedState, State, heads, update_heads,
};
use ark_sync::{Input, Problem};

use crate::store::structured;
use crate::world::{Weather, World, topic};

/// Devices that hold whatever it is, all connected.
fn holding(count: usize, weather: Weather) -> World {
    let mut world = World::new(count, 7, weather);
    for at in 0..count {
        world.devices[at].folder = false;
        world.restart(at);
    }
    world.connect_all();
    world.run(1_000);
    world
}

fn heads_at(world: &World, at: usize) -> Vec<ObjectId> {
    let now = heads(world.devices[at].store.joined.values().map(SignedState::state));
    let mut ids: Vec<ObjectId> = now.into_iter().map(|head| head.id).collect();
    ids.sort_unstable();
    ids
}

/// An operation on all heads that a device sees, with a view, a commit and a tree of its own.
fn act(world: &mut World, at: usize, text: &str) -> ObjectId {
    let old = heads_at(world, at);
    let device = &mut world.devices[at];
    let tree = structured(ObjectKind::Tree, &[], text.as_bytes());
    let commit = structured(ObjectKind::Commit, &[tree.link()], text.as_bytes());
    let view = structured(ObjectKind::View, &[commit.link()], &[]);
    let parents = old.iter().map(|&id| Link { kind: ObjectKind::Operation, id });
    let links: Vec<Link> = [view.link()].into_iter().chain(parents).collect();
    let operation = structured(ObjectKind::Operation, &links, text.as_bytes());
    let id = operation.id();
    let new = device.store.put(vec![tree, commit, view, operation]);

    let writer = device.writer;
    let revision = device.store.joined.get(&writer).map_or(0, |it| it.state().revision) + 1;
    let joined = device.store.joined.values().map(SignedState::state);
    let said = update_heads(joined, Dot { writer, sequence: revision }, &old, Some(id)).unwrap();
    let (topic, kind) = (topic(), RepoKind::Jj);
    let state = State {
        topic,
        kind,
        writer,
        revision,
        heads: said.heads,
        vector: said.vector,
        held: said.held,
    };
    let state = SignedState::sign(state, &device.key).unwrap();
    device.store.joined.insert(writer, state.clone());
    world.feed(at, Input::Published { state, new });
    id
}

#[test]
fn what_one_does_the_other_has_as_a_head_once_it_is_joined() {
    let mut world = holding(2, Weather::CALM);
    let first = act(&mut world, 0, "first");
    world.run_until(|world| heads_at(world, 1) == [first]);
    assert_eq!(world.devices[1].problems, []);
    let second = act(&mut world, 1, "second");
    world.run_until(|world| heads_at(world, 0) == [second]);
    assert_eq!(heads_at(&world, 1), [second]);
    // Gossip named all of it: one request, for the ids.
    assert_eq!(world.devices[0].requests.len(), 1);
    assert_eq!(world.devices[0].requests[0].2.links.len(), 4);
}

#[test]
fn while_it_is_half_fetched_the_heads_are_the_old_ones() {
    let mut world = holding(2, Weather { slowness: 1_000, ..Weather::CALM });
    let first = act(&mut world, 0, "first");
    world.run_until(|world| heads_at(world, 1) == [first]);
    world.disconnect(0, 1);
    for number in 0..10 {
        act(&mut world, 0, &number.to_string());
    }
    world.connect(0, 1);
    let last = heads_at(&world, 0);
    // Something of it is here, and the line breaks.
    let is_half = |world: &World| !world.devices[1].store.pending.is_empty();
    world.run_until(is_half);
    world.disconnect(0, 1);
    world.run(60_000);
    assert!(is_half(&world));
    assert_eq!(heads_at(&world, 1), [first]);
    // What it does meanwhile is done on what it has.
    let own = act(&mut world, 1, "own");
    assert_eq!(heads_at(&world, 1), [own]);
    world.restart(1);
    world.connect(0, 1);
    let mut both = vec![last[0], own];
    both.sort_unstable();
    world.run_until(|world| heads_at(world, 1) == both && heads_at(world, 0) == both);
}

#[test]
fn three_that_act_apart_have_the_same_heads_in_the_end_and_one_merges_them() {
    let mut world = holding(3, Weather::CALM);
    act(&mut world, 0, "first");
    world.run(5_000);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.disconnect(a, b);
    }
    let mut apart: Vec<ObjectId> =
        (0..3).map(|at| act(&mut world, at, &format!("by {at}"))).collect();
    apart.sort_unstable();
    // The ends of a line, which never meet.
    world.connect(0, 1);
    world.connect(1, 2);
    world.run_until(|world| (0..3).all(|at| heads_at(world, at) == apart));
    let merge = act(&mut world, 0, "merge");
    world.run_until(|world| (0..3).all(|at| heads_at(world, at) == [merge]));
}

#[test]
fn who_holds_a_repo_takes_the_kind_that_it_joins_first_and_shows_the_other() {
    let mut world = World::new(3, 3, Weather::CALM);
    for at in [1, 2] {
        world.devices[at].folder = false;
        world.restart(at);
    }
    world.add_file(0, b"of a folder");
    let _ = world.publish(0);
    let done = act(&mut world, 1, "of jj");
    world.connect(1, 2);
    world.run_until(|world| heads_at(world, 2) == [done]);
    world.connect(0, 2);
    world.connect(0, 1);
    world.run(10_000);
    let (folder, jj) = (world.id(0), world.id(1));
    let shown = |at: usize, device, found| {
        let problem = Problem::WrongKind { device, found };
        assert!(world.devices[at].problems.contains(&problem), "{:?}", world.devices[at].problems);
    };
    shown(2, folder, RepoKind::Folder);
    shown(1, folder, RepoKind::Folder);
    shown(0, jj, RepoKind::Jj);
    for (at, count) in [(0, 1), (1, 1), (2, 1)] {
        assert_eq!(world.devices[at].store.joined.len(), count);
        assert!(world.devices[at].store.staged.is_empty());
    }
    assert_eq!(heads_at(&world, 2), [done]);
}

#[test]
fn of_two_kinds_that_come_at_once_one_is_joined() {
    for seed in 0..20 {
        let mut world = World::new(3, seed, Weather { delay_ms: (1, 60), ..Weather::CALM });
        for at in [1, 2] {
            world.devices[at].folder = false;
            world.restart(at);
        }
        for file in 0..3 {
            world.add_file(0, &[file]);
        }
        let _ = world.publish(0);
        act(&mut world, 1, "of jj");
        world.connect(0, 2);
        world.connect(1, 2);
        world.run(30_000);
        let device = &world.devices[2];
        assert_eq!(device.store.joined.len(), 1, "seed {seed}");
        assert!(device.store.staged.is_empty(), "seed {seed}");
        assert_eq!(device.engine.view().staged, 0, "seed {seed}");
        let joined = device.store.joined.values().next().unwrap().state().kind;
        let is_shown = |problem: &Problem| matches!(problem, Problem::WrongKind { found, .. } if *found != joined);
        assert!(device.problems.iter().any(is_shown), "seed {seed}: {:?}", device.problems);
    }
}

#[test]
fn what_a_folder_cannot_have_is_not_asked_for() {
    let mut world = World::new(2, 5, Weather::CALM);
    world.connect(0, 1);
    world.run(1_000);
    let strange = structured(ObjectKind::Operation, &[], b"strange").link();
    world.add_file(0, b"of a folder");
    let (state, mut new) = world.devices[0].publish();
    new.push(strange);
    world.feed(0, Input::Published { state, new });
    world.run_until(|world| world.devices[1].engine.view().staged > 0);
    let peer = world.id(0);
    world.feed(1, Input::Lacking { peer, links: vec![strange] });
    world.run(10_000);
    world.converged().unwrap();
    let mut asked = world.devices[1].requests.iter().flat_map(|(_, _, request)| &request.links);
    assert!(!asked.any(|link| *link == strange));
}
