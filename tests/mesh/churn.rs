//! Scenario 52: many machines that come and go, without a word of farewell.

use std::collections::BTreeMap;
use std::time::Duration;

use ark_testkit::daemon::{Daemon, Machine, assert_all_same};
use ark_testkit::noise::noise;
use ark_testkit::tree::await_condition;

use super::{LIMIT, mesh};

/// Things that happen.
const ROUNDS: usize = 40;
/// The longest pause between two of them: kills are to meet daemons at any moment of their lives.
const LONGEST_PAUSE_MS: usize = 250;
/// Says what happens when; `ARK_SEED=n` in the environment is another history.
const SEED: u64 = 1;

/// A number below `limit` for each call.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut numbers = noise(seed).map(u64::from_le_bytes);
    move |limit| {
        let number = numbers.next().expect("noise has no end");
        // The low bits of the generator are its weakest.
        usize::try_from((number >> 32) % limit as u64).expect("it is below a usize")
    }
}

#[test]
fn machines_that_are_killed_and_started_at_any_moment_are_the_same_in_the_end() {
    let machines = mesh(["a", "b", "c", "d", "e", "f"]);
    let mut daemons: Vec<Option<Daemon<'_>>> = machines.iter().map(|_| None).collect();
    let seed = std::env::var("ARK_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    println!("ARK_SEED={seed}");
    let mut roll = dice(seed);
    let mut expected: BTreeMap<String, Option<String>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let at = roll(machines.len());
        match daemons[at].take() {
            Some(daemon) => daemon.kill(),
            None => daemons[at] = Some(machines[at].start_unawaited()),
        }
        let writer = &machines[roll(machines.len())];
        // Of each of these one machine alone decides; of the last all do.
        let path = format!("of {}/{}", writer.name(), roll(4));
        let content = format!("{} in round {round}", writer.name());
        match roll(3) {
            0 if writer.read(&path).is_some() => {
                std::fs::remove_file(writer.folder().join(&path)).unwrap();
                expected.insert(path, None);
            }
            0 | 1 => {
                writer.write(&path, &content);
                expected.insert(path, Some(content));
            }
            _ => writer.write("shared", content),
        }
        std::thread::sleep(Duration::from_millis(roll(LONGEST_PAUSE_MS) as u64));
    }
    for (machine, daemon) in machines.iter().zip(&mut daemons) {
        daemon.get_or_insert_with(|| machine.start_unawaited());
        await_condition("it answers", LIMIT, || machine.try_status());
    }
    for machine in &machines {
        for (path, content) in &expected {
            machine.await_file(path, content.as_deref(), LIMIT);
        }
    }
    assert_all_same(&machines.iter().collect::<Vec<&Machine>>(), LIMIT);
    for (machine, daemon) in machines.iter().zip(daemons.into_iter().flatten()) {
        assert!(daemon.is_running(), "{}", machine.log());
        assert!(!machine.log().contains("panicked"), "{}", machine.log());
    }
}
