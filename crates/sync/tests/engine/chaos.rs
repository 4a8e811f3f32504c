//! Random histories: whatever happened, once it is quiet all devices have joined all states.

use std::ops::Range;

use crate::world::{Weather, World};

/// After the last trouble: long enough for every backoff and retry, less than the safety timer.
const QUIET_MS: u64 = 100_000;

fn weather(seed: u64) -> Weather {
    Weather {
        delay_ms: (1, 5 + seed % 7 * 20),
        store_ms: (1, 2 + seed % 5 * 10),
        gossip_lost: [0, 300, 1000][(seed % 3) as usize],
        slowness: seed % 4,
    }
}

fn others(count: usize, is_one: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..count).filter(|&at| is_one(at)).collect()
}

fn edit(world: &mut World, at: usize) {
    let directory = [0, 1, 2, 3][world.dice.pick(4)];
    let salt = world.dice.below(40);
    let length = 10 + world.dice.pick(3_000);
    // Contents come from few, so that devices often make the same.
    let content = format!("{salt}").into_bytes().repeat(length / 4 + 1);
    let tree = &mut world.devices[at].tree;
    let contents = tree.entry(directory).or_default();
    if contents.len() > 12 {
        contents.remove(0);
    }
    contents.push(content);
    world.publish(at);
}

#[test]
fn connected_devices_converge_and_nothing_is_sent_twice() {
    for seed in 0..40 {
        let count = 2 + (seed % 4) as usize;
        let mut world = World::new(count, seed, weather(seed));
        for at in 0..count {
            if world.dice.below(3) > 0 {
                let salt = world.dice.pick(3);
                world.fill(at, 4, 10, salt);
                world.publish(at);
            }
        }
        world.connect_all();
        for _ in 0..20 {
            let at = world.dice.pick(count);
            edit(&mut world, at);
            let pause_ms = world.dice.below(400);
            world.run(pause_ms);
        }
        world.run(QUIET_MS);
        world.converged().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        for device in &world.devices {
            assert!(device.store.received.values().all(|&times| times == 1), "seed {seed}");
            assert_eq!(device.engine.view().missing, ark_sync::Amount::default());
        }
    }
}

#[test]
fn devices_converge_after_any_trouble() {
    troubled(1000..1100, false);
}

#[test]
fn devices_converge_after_any_trouble_and_changes_of_whom_they_list() {
    troubled(2000..2060, true);
}

fn troubled(seeds: Range<u64>, lists_change: bool) {
    for seed in seeds {
        let count = 2 + (seed % 4) as usize;
        let mut world = World::new(count, seed, weather(seed));
        for at in 0..count {
            let salt = world.dice.pick(3);
            world.fill(at, 4, 10, salt);
            world.publish(at);
        }
        for _ in 0..60 {
            let (a, b) = (world.dice.pick(count), world.dice.pick(count));
            match world.dice.below(if lists_change { 13 } else { 10 }) {
                0..=3 => edit(&mut world, a),
                4 | 5 if world.list_each_other(a, b) => world.connect(a, b),
                6 => world.disconnect(a, b),
                7 => world.restart(a),
                8 => {
                    let is_full = world.devices[a].store.is_full;
                    world.devices[a].store.is_full = !is_full;
                }
                10 | 11 => world.list(a, &others(count, |other| other != a && other != b)),
                12 => world.list(a, &others(count, |other| other != a)),
                _ => world.connect_all(),
            }
            let pause_ms = world.dice.below(300);
            world.run(pause_ms);
        }
        for device in &mut world.devices {
            device.store.is_full = false;
        }
        for at in (0..count).filter(|_| lists_change) {
            world.list(at, &others(count, |other| other != at));
        }
        world.connect_all();
        world.run(QUIET_MS);
        world.converged().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
