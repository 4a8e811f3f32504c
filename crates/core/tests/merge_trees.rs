//! Properties of merging nested trees, which the flat model does not have: random work of users
//! on several disks, published late and against what was applied earlier, exchanged in any order.
//!
//! At the end, all devices are the same; the files of the tree are exactly those that were
//! written and that nobody who saw them overwrote or removed; and directories stand as long as
//! they were not removed knowingly or anything is in them.

mod device;
mod memory;

use std::collections::BTreeSet;

use ark_core::{
    Dot, Link, NodeKind, RelPath, Tree, conflicts, dir, empty_directory, merge, put_in,
};
use device::{Device, Oracle, Thing, check_all, synchronise, versions};
use memory::{Memory, Random, name};

/// What a user does to a disk.
fn work(random: &mut Random, device: &mut Device, written: &mut u32) {
    let paths: Vec<_> = device.disk.keys().cloned().collect();
    let some = |random: &mut Random| (!paths.is_empty()).then(|| random.choose(&paths).clone());
    let directories: Vec<_> = std::iter::once(RelPath::root())
        .chain(paths.iter().filter(|path| device.disk[*path].0 == Thing::Directory).cloned())
        .filter(|path| path.names().len() < 4)
        .collect();
    let place = |random: &mut Random| {
        random.choose(&directories).join(name(random.choose(&["a", "b.txt", "c"])))
    };
    *written += 1;
    match random.below(100) {
        0..35 => {
            let text = if random.percent(80) {
                format!("text {written}")
            } else {
                format!("same {}", random.below(3))
            };
            // Over something that is there, as often as not: copies as well.
            let at = some(random).filter(|_| random.percent(50)).unwrap_or_else(|| place(random));
            let is_directory = device.disk.get(&at).is_some_and(|old| old.0 == Thing::Directory);
            if !is_directory || random.percent(15) {
                let bits = device.disk.get(&at).filter(|old| old.0.kind() == NodeKind::File);
                let bits = bits.map_or(0o644, |old| old.1);
                device.put(&at, Thing::File(text), bits);
            }
        }
        35..50 => device.put(&place(random), Thing::Directory, 0o755),
        50..55 => {
            let target = format!("target {}", random.below(4));
            device.put(&place(random), Thing::Symlink(target), 0o777);
        }
        55..70 => {
            if let Some(at) = some(random) {
                device.remove_path(&at);
            }
        }
        70..85 => {
            if let Some(from) = some(random) {
                device.rename(&from, &place(random));
            }
        }
        _ => {
            let bits = *random.choose(&[0o600, 0o644, 0o700, 0o755]);
            if let Some(at) = some(random)
                && let Some(place) = device.disk.get_mut(&at)
                && place.0.kind() != NodeKind::Symlink
            {
                place.1 = bits;
            }
        }
    }
}

/// What must hold of any trees that devices have.
fn check_merges(memory: &Memory, trees: &[Tree]) {
    for a in trees {
        assert_eq!(merged(memory, a, a), *a, "not idempotent");
        for b in trees {
            let both = merged(memory, a, b);
            assert_eq!(merged(memory, b, a), both, "not commutative");
            assert_eq!(merged(memory, &both, &both), both);
            let (files, _) = versions(memory, both.root);
            for old in [a, b] {
                let (again, _) = versions(memory, merged(memory, &both, old).root);
                assert_eq!(again, files, "merging again changes what is there");
            }
        }
    }
}

fn merged(memory: &Memory, a: &Tree, b: &Tree) -> Tree {
    let (merged, _) = memory.with(|overlay| merge(overlay, a, b).unwrap());
    assert_eq!(merged.equivocations, []);
    merged.tree
}

/// That the tree has what the users wrote and nobody dropped, and nothing else.
fn check_against(memory: &Memory, oracle: &Oracle, tree: &Tree) {
    let (files, directories) = versions(memory, tree.root);
    let expected = oracle.written.iter().filter(|(at, _)| !oracle.dropped.contains(at));
    let is_file = |thing: &Thing| thing.kind() != NodeKind::Directory;
    let wanted = expected.clone().filter(|(_, thing)| is_file(thing));
    assert_eq!(files, wanted.map(|(at, thing)| (at.clone(), thing.clone())).collect());
    for ((path, _), _) in expected.filter(|(_, thing)| !is_file(thing)) {
        assert!(directories.contains_key(path), "the directory {path} is lost");
    }
    for (path, (root, dots)) in &directories {
        let is_dropped = |dot: &Dot| oracle.dropped.contains(&(path.clone(), *dot));
        let is_wanted = !dots.iter().all(is_dropped) || *root != empty_directory().id();
        assert!(is_wanted || oracle.held_up.contains(path), "the directory {path} is back");
    }
    // What is shown aside is counted, listed once, and no entry's.
    let totals = dir::directory_totals(memory, tree.root).unwrap();
    assert_eq!(totals.files, {
        let by_content: BTreeSet<_> =
            files.iter().map(|((path, _), thing)| (path, format!("{thing:?}"))).collect();
        by_content.len() as u64
    });
    let copies = conflicts(memory, tree.root, usize::MAX).unwrap();
    assert_eq!(copies.len() as u64, totals.aside);
    assert_eq!(copies.iter().collect::<BTreeSet<_>>().len(), copies.len());
    check_all(memory, Link::directory(tree.root));
}

fn run(seed: u64, count: u8, steps: usize) {
    let mut random = Random(seed);
    let memory = Memory::default();
    let mut oracle = Oracle::default();
    let mut devices: Vec<_> = (0..count).map(Device::new).collect();
    let mut written = 0;
    for _ in 0..steps {
        let at = random.below(devices.len());
        match random.below(100) {
            0..50 => work(&mut random, &mut devices[at], &mut written),
            50..75 => devices[at].publish(&memory, &mut oracle),
            _ => {
                let from = random.below(devices.len());
                let states = devices[from].states.clone();
                let only = random.below(states.len().max(1));
                let all = random.percent(50);
                let states = states.into_iter().enumerate().filter(|(n, _)| all || *n == only);
                devices[at].receive(&states.map(|(_, state)| state).collect());
            }
        }
    }
    let trees: Vec<_> = devices.iter().map(|device| device.joined(&memory)).collect();
    check_merges(&memory, &trees);
    let root = synchronise(&memory, &mut oracle, &mut devices);
    let tree = devices[0].joined(&memory);
    check_against(&memory, &oracle, &tree);
    // At rest nothing changes any more.
    let (same, made) =
        memory.with(|overlay| put_in(overlay, &tree, memory::dot(9, 1), &[]).unwrap());
    assert_eq!(same, root);
    assert!(made.iter().all(|object| *object.bytes() == *empty_directory().bytes()));
    assert_eq!(synchronise(&memory, &mut oracle, &mut devices), root);
}

fn run_all(count: u8, steps: usize, histories: u64) {
    let times = std::env::var("ARK_TEST_HISTORIES").map_or(1, |text| text.parse().unwrap());
    for seed in 0..histories * times {
        let outcome = std::panic::catch_unwind(|| run(seed, count, steps));
        assert!(outcome.is_ok(), "history {seed} of {count} devices");
    }
}

#[test]
fn two_disks() {
    run_all(2, 60, 150);
}

#[test]
fn three_disks() {
    run_all(3, 90, 80);
}

#[test]
fn five_disks() {
    run_all(5, 150, 30);
}
