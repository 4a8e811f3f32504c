//! One history: what happens by chance, until it is quiet.

use std::collections::BTreeSet;

use ark_sync::Role;

use super::dice::Dice;
use super::settled::{holds, is_settled, is_whole, knows, orphans};
use super::weather::Weather;
use super::world::{Counts, Part, World};
use super::{Age, Finding, Report, Simulation, trace::Trace};

/// Things that happen.
const STEPS: (u64, u64) = (20, 110);
/// Things that happen while a device is dropped from the others' configs.
const LAST_STEPS: (u64, u64) = (10, 40);
/// After the last trouble: longer than every backoff and retry together, less than the safety
/// timer, so that nothing is left for that to find.
const QUIET_MS: u64 = 150_000;
/// How long it is watched that nothing happens any more: two rounds of the safety timer at least.
const REST_MS: u64 = 15 * 60_000;
/// Messages per direction of a link in [`REST_MS`]: a summary and a `Have` each time that the
/// safety timer of one of both ends.
const REST_MESSAGES: u64 = 16;
/// What the safety timer had asked for is answered within this.
const LAST_MS: u64 = 10_000;
/// Of a hundred deeds of users, those that settle a conflict.
const SETTLES: [u64; 3] = [0, 5, 30];
/// How far clocks jump, in seconds.
const CLOCK_JUMP_S: u64 = 3 * 86_400;

/// Who takes part in a history besides those that are there from the beginning to the end.
#[derive(Debug, Clone, Copy, Default)]
struct Guests {
    /// The others list it one after the other, in the course of the history.
    newcomer: Option<usize>,
    /// The others drop it in the end.
    leaver: Option<usize>,
}

/// Runs the history of a seed; if early, as it was when all devices were peers for all the time.
pub(super) fn run(simulation: Simulation, trace: Trace) -> Result<Report, Finding> {
    let Simulation { seed, fault, age, .. } = simulation;
    let mut dice = Dice::new(seed);
    let mut more_dice = Dice::new(!seed);
    let mut weather = Weather::draw(&mut dice, fault);
    let count = usize::try_from(dice.between((2, 7))).unwrap_or(2);
    // Two folders at least; of the others some only hold the repo.
    let mut folders: Vec<bool> = (0..count).map(|at| at < 2 || dice.percent(70)).collect();
    let turn = dice.index(count);
    folders.rotate_left(turn);
    let edges = topology(count, &mut dice);
    let mut cast: Vec<Part> = folders.into_iter().map(Part::peer).collect();
    let mut guests = Guests::default();
    if age != Age::Early {
        grant(&mut cast, &mut more_dice);
        guests = invite(&cast, &mut more_dice);
        weather.settles = *more_dice.pick(&SETTLES).unwrap_or(&0);
    }
    let mut history = History {
        steps: dice.between(STEPS),
        world: World::new(&cast, edges, weather, (dice, more_dice), trace),
        guests,
    };
    history.world.relists = age == Age::Now;
    history.world.note(|| format!("seed {seed}, {cast:?}, {guests:?}, {weather:?}"));
    history.happen();
    history.settle();
    history.leave();
    history.rest();
    let World { now_ms, counts, trace, finding, .. } = history.world;
    match finding {
        Some(what) => Err(Finding { seed, what }),
        None => Ok(Report {
            devices: count,
            publications: counts.publications,
            messages: counts.messages,
            reconciliations: counts.reconciliations,
            virtual_ms: now_ms,
            digest: trace.digest(),
        }),
    }
}

/// A line, a star, all with all, or anything connected.
fn topology(count: usize, dice: &mut Dice) -> BTreeSet<(usize, usize)> {
    let all = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    match dice.below(4) {
        0 => (1..count).map(|at| (at - 1, at)).collect(),
        1 => (1..count).map(|at| (0, at)).collect(),
        2 => all.collect(),
        _ => {
            let mut edges: BTreeSet<_> = (1..count).map(|at| (dice.index(at), at)).collect();
            edges.extend(all.filter(|_| dice.percent(25)));
            edges
        }
    }
}

/// Makes mirrors of some that only hold the repo, and readers of some that have a folder: two
/// stay whose users are heard.
fn grant(cast: &mut [Part], dice: &mut Dice) {
    for at in 0..cast.len() {
        let heard = cast.iter().filter(|part| part.folder && part.role == Role::Peer).count();
        if !cast[at].folder && dice.percent(60) {
            cast[at].role = Role::Mirror;
        } else if cast[at].folder && heard > 2 && dice.percent(25) {
            cast[at].role = Role::Reader;
        }
    }
}

/// Who comes, who goes: one whose user is heard stays.
fn invite(cast: &[Part], dice: &mut Dice) -> Guests {
    let mut draw = |chance| dice.percent(chance).then(|| dice.index(cast.len()));
    let (newcomer, leaver) = (draw(30), draw(25));
    let stays = |at: usize| {
        cast.iter()
            .enumerate()
            .any(|(other, part)| other != at && part.folder && part.role == Role::Peer)
    };
    Guests {
        newcomer: newcomer.filter(|_| cast.len() > 2),
        leaver: leaver.filter(|at| cast.len() > 2 && newcomer != Some(*at) && stays(*at)),
    }
}

struct History {
    steps: u64,
    world: World,
    guests: Guests,
}

impl History {
    fn happen(&mut self) {
        let count = self.world.devices.len();
        if let Some(newcomer) = self.guests.newcomer {
            for device in &mut self.world.devices {
                device.listed.remove(&newcomer);
            }
        }
        for at in 0..count {
            self.world.start_later(at, 3_000);
        }
        for _ in 0..self.steps {
            self.step(count);
            if let Some(newcomer) = self.guests.newcomer {
                self.list_newcomer(newcomer);
            }
            self.pause();
            if self.world.finding.is_some() {
                return;
            }
        }
    }

    fn pause(&mut self) {
        let world = &mut self.world;
        let longer = if world.dice.percent(5) { 50 } else { 1 };
        let pause_ms = world.dice.between(world.weather.pause_ms) * longer;
        world.run(pause_ms);
    }

    /// Now and then one of the others lists the newcomer.
    fn list_newcomer(&mut self, newcomer: usize) {
        let world = &mut self.world;
        if !world.more_dice.percent(10) {
            return;
        }
        let at = world.more_dice.index(world.devices.len());
        if at != newcomer && !world.devices[at].listed.contains(&newcomer) {
            world.list(at, |listed| listed.insert(newcomer));
        }
    }

    fn step(&mut self, count: usize) {
        let world = &mut self.world;
        let at = world.dice.index(count);
        let other = world.dice.index(count);
        let troubles = world.weather.troubles;
        match world.dice.below(100) {
            0..70 => {
                for _ in 0..world.dice.between((1, 3)) {
                    world.use_folder(at);
                }
            }
            70..76 if at != other => world.flap(at, other),
            76..81 if troubles.partitions => self.part(),
            81..85 => world.heal(),
            85..92 if troubles.crashes => {
                let power_fails = world.dice.percent(50);
                world.end(at, power_fails);
                let within_ms = *world.dice.pick(&[50, 2_000, 30_000]).unwrap_or(&50);
                world.start_later(at, within_ms);
            }
            92..94 => {
                let days = i64::try_from(world.dice.below(CLOCK_JUMP_S)).unwrap_or(0);
                let back = if world.dice.percent(50) { -1 } else { 1 };
                world.devices[at].clock_off += back * days;
                world.note(|| format!("the clock of {at} jumps"));
            }
            94..97 if troubles.restores => {
                let copy = world.devices[at].store.durable().clone();
                world.note(|| format!("the store of {at} is copied"));
                world.devices[at].copy = Some(copy);
            }
            97..100 if troubles.restores => self.put_back(at),
            _ => {}
        }
    }

    /// Some devices are apart from the others.
    fn part(&mut self) {
        let world = &mut self.world;
        let side: Vec<bool> = world.devices.iter().map(|_| world.dice.percent(50)).collect();
        world.note(|| format!("parted: {side:?}"));
        for (a, b) in world.edges.clone() {
            if side[a] != side[b] {
                world.cut(a, b);
            }
        }
    }

    /// The store of a device is put back from its copy. Its folder and its witness stay.
    fn put_back(&mut self, at: usize) {
        let world = &mut self.world;
        let Some(copy) = world.devices[at].copy.clone() else { return };
        world.end(at, false);
        let lost = world.devices[at].store.durable().clone();
        world.devices[at].store.restore(copy);
        world.note(|| format!("the store of {at} is put back"));
        // What a plan had removed, to write it elsewhere, only the lost store may have had; and
        // only its states may have told of a deletion.
        let devices = &world.devices;
        let places = || devices.iter().flat_map(|it| it.disk.places().values());
        let on_disk = |node| places().any(|place| place.node == node);
        let in_store = |node| devices.iter().any(|it| holds(it.store.durable(), node));
        world.oracle.lose(
            |node| holds(&lost, node) && !on_disk(node) && !in_store(node),
            |dot| devices.iter().any(|it| knows(it.store.durable(), dot)),
            &places().flat_map(|place| &place.tokens).copied().collect(),
        );
        world.start_later(at, 3_000);
    }

    /// All troubles end; all come out the same, and nothing is missing.
    fn settle(&mut self) {
        let world = &mut self.world;
        if world.finding.is_some() {
            return;
        }
        world.note(|| "now it is quiet".to_owned());
        if let Some(newcomer) = self.guests.newcomer {
            for at in (0..world.devices.len()).filter(|at| *at != newcomer) {
                if !world.devices[at].listed.contains(&newcomer) && !world.devices[at].has_left {
                    world.list(at, |listed| listed.insert(newcomer));
                }
            }
        }
        for at in 0..world.devices.len() {
            world.start_later(at, 1_000);
        }
        world.run(1_000);
        world.heal();
        let end_ms = world.now_ms + QUIET_MS;
        while let Err(why) = is_settled(world) {
            if world.finding.is_some() {
                return;
            }
            if world.now_ms >= end_ms {
                return world.find(why);
            }
            world.run(1_000);
        }
        if let Err(why) = is_whole(world) {
            world.find(why);
        }
        // Each of these is told on each link of its device once; states go where they are asked.
        let counts = world.counts;
        let degree = world.devices.len() as u64 - 1;
        let told = counts.joins + counts.applied + counts.publications;
        let bound = 16 * counts.sessions + 4 * degree * told;
        if counts.messages > bound {
            world.find(format!("{} messages, more than {bound}: {counts:?}", counts.messages));
        }
    }

    /// The others drop a device, one after the other, while their users go on: what it wrote
    /// before stays.
    fn leave(&mut self) {
        let world = &mut self.world;
        let Some(leaver) = self.guests.leaver.filter(|_| world.finding.is_none()) else { return };
        world.note(|| format!("{leaver} is to go"));
        world.devices[leaver].has_left = true;
        world.bridge(leaver);
        let count = world.devices.len();
        for _ in 0..world.more_dice.between(LAST_STEPS) {
            let world = &mut self.world;
            let at = world.more_dice.index(count);
            let is_to_drop = world.devices[at].listed.contains(&leaver);
            if at != leaver && is_to_drop && world.more_dice.percent(40) {
                world.list(at, |listed| listed.remove(&leaver));
            } else if at != leaver {
                world.use_folder(at);
            }
            self.pause();
        }
        for at in (0..count).filter(|at| *at != leaver) {
            if self.world.devices[at].listed.contains(&leaver) {
                self.world.list(at, |listed| listed.remove(&leaver));
            }
        }
        self.settle();
    }

    /// Nothing happens any more but what keeps it safe.
    fn rest(&mut self) {
        let world = &mut self.world;
        if world.finding.is_some() {
            return;
        }
        let before = world.counts;
        world.run(REST_MS);
        let after = world.counts;
        let links = world.edges.len() as u64;
        let said = after.messages - before.messages;
        // What is lost is asked for again with each end of the safety timer.
        let asked = (orphans(world) * world.devices.len()) as u64 * REST_MESSAGES;
        let requests = after.requests.min(before.requests + asked);
        // A session that was under way may come to its end.
        let Counts { messages, summaries, round_trips, .. } = after;
        let expected = Counts { messages, summaries, requests, round_trips, ..before };
        if after != expected || said > 2 * links * REST_MESSAGES {
            world.find(format!("not at rest: {before:?}, later {after:?}"));
        }
        // What is lost may just be asked for.
        let end_ms = world.now_ms + LAST_MS;
        while let Err(why) = is_settled(world) {
            if world.now_ms >= end_ms {
                return world.find(format!("not settled any more: {why}"));
            }
            world.run(1_000);
        }
    }
}
