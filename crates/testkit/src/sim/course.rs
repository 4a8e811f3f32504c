//! Courses: histories without troubles in which what something costs is measured.

use std::collections::BTreeSet;

use ark_core::RelPath;
use ark_sync::Role;
use bytes::Bytes;

use super::Finding;
use super::dice::Dice;
use super::settled::{is_settled, is_whole};
use super::trace::Trace;
use super::weather::{Fault, Weather};
use super::world::{Counts, Part, Traffic, World};

/// Within which devices that nothing troubles are in step.
const PATIENCE_MS: u64 = 5 * 60_000;
/// How often it is looked whether they are.
const LOOK_MS: u64 = 10;
/// What is said after everybody shows an edit is said within this.
const AFTERMATH_MS: u64 = 3_000;

/// What something took among all devices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Pairs of devices that are connected.
    pub links: u64,
    /// Messages on streams.
    pub messages: u64,
    /// Their bytes.
    pub message_bytes: u64,
    /// Bytes of announcements, once per device that they were sent to.
    pub gossip_bytes: u64,
    /// Requests for objects.
    pub requests: u64,
    /// Bytes of requests for objects and of their answers.
    pub object_bytes: u64,
    /// Sessions of reconciliation that were begun; of two that met one gave way.
    pub reconciliations: u64,
    /// Rounds of questions in those that were brought to their end.
    pub round_trips: u64,
    /// Bytes of their frames.
    pub reconciliation_bytes: u64,
    /// Until the last device showed it, by the virtual clock.
    pub last_ms: u64,
}

/// What is measured from.
struct Mark {
    counts: Counts,
    traffic: Traffic,
    now_ms: u64,
}

struct Course {
    seed: u64,
    world: World,
}

/// Devices with folders, each in touch with about four others, of which one after the other
/// writes a file that is to come to all: what each of these edits takes. `gossip_lost` of a
/// hundred announcements are lost, each receiver by itself.
///
/// # Errors
/// An edit does not arrive, or the devices are not at rest after it.
pub fn crowd(
    seed: u64,
    devices: usize,
    edits: usize,
    gossip_lost: u64,
) -> Result<Vec<Cost>, Finding> {
    let mut dice = Dice::new(seed);
    let mut edges: BTreeSet<(usize, usize)> = (1..devices).map(|at| (dice.index(at), at)).collect();
    while edges.len() < 2 * devices.saturating_sub(1) {
        let (a, b) = (dice.index(devices), dice.index(devices));
        edges.extend((a < b).then_some((a, b)));
    }
    let cast = vec![Part { folder: true, role: Role::Peer }; devices];
    let weather = Weather::calm(gossip_lost, None);
    let world = World::new(&cast, edges, weather, (dice, Dice::new(!seed)), Trace::default());
    let mut course = Course { seed, world };
    course.start()?;
    (0..edits).map(|number| course.edit(number)).collect()
}

/// A device goes on writing while the queue of gossip of one that it is in touch with runs over,
/// again and again: what each of these edits takes.
///
/// # Errors
/// As of [`crowd`].
pub fn lagging(seed: u64, edits: usize, fault: Option<Fault>) -> Result<Vec<Cost>, Finding> {
    let weather = Weather { gossip_lags: 100, ..Weather::calm(100, fault) };
    let dice = (Dice::new(seed), Dice::new(!seed));
    let cast = [Part::peer(true); 2];
    let world = World::new(&cast, [(0, 1)].into(), weather, dice, Trace::default());
    let mut course = Course { seed, world };
    for at in 0..cast.len() {
        // An empty one would have all streamed.
        course.write(at, &format!("of-{at}"), "as it was");
    }
    course.start()?;
    (0..edits).map(|number| course.edit(number)).collect()
}

/// Two devices with `files` files in step are parted; `changed` are changed on one side and as
/// many others on the other; then they meet. What it takes until they are in step.
///
/// # Errors
/// They do not come in step.
pub fn reunion(
    seed: u64,
    files: usize,
    changed: usize,
    fault: Option<Fault>,
) -> Result<Cost, Finding> {
    let cast = [Part::peer(true); 2];
    let dice = (Dice::new(seed), Dice::new(!seed));
    let weather = Weather::calm(100, fault);
    let world = World::new(&cast, [(0, 1)].into(), weather, dice, Trace::default());
    let mut course = Course { seed, world };
    let path = |at: usize| format!("{:02}/{}", at % 32, at / 32);
    for at in 0..files {
        course.write(0, &path(at), "as it was");
    }
    course.start()?;
    course.world.cut(0, 1);
    for at in 0..changed {
        course.write(0, &path(at), "changed here");
        course.write(1, &path(files - 1 - at), "changed there");
    }
    course.world.run(AFTERMATH_MS);
    let mark = course.mark();
    course.world.heal();
    course.settle()?;
    let last_ms = course.world.now_ms;
    Ok(course.cost(&mark, last_ms))
}

impl Course {
    fn found(&self, what: impl Into<String>) -> Finding {
        Finding { seed: self.seed, what: what.into() }
    }

    fn write(&mut self, at: usize, path: &str, content: &str) {
        let path = RelPath::parse(path.as_bytes()).expect("it is a path");
        let content = Bytes::from(format!("{content} {path}"));
        self.world.write(at, &path, content);
    }

    fn start(&mut self) -> Result<(), Finding> {
        for at in 0..self.world.devices.len() {
            self.world.start(at);
        }
        self.settle()
    }

    /// Lets time go by until all are in step.
    fn settle(&mut self) -> Result<(), Finding> {
        let end_ms = self.world.now_ms + PATIENCE_MS;
        while let Err(why) = is_settled(&self.world) {
            if let Some(what) = &self.world.finding {
                return Err(self.found(what));
            }
            if self.world.now_ms >= end_ms {
                return Err(self.found(why));
            }
            self.world.run(100);
        }
        is_whole(&self.world).map_err(|why| self.found(why))
    }

    /// Some device writes a file.
    fn edit(&mut self, number: usize) -> Result<Cost, Finding> {
        let mark = self.mark();
        let at = self.world.dice.index(self.world.devices.len());
        let name = format!("edit-{number}");
        self.write(at, &name, "this is what was written at");
        let path = RelPath::parse(name.as_bytes()).expect("it is a path");
        while self.world.devices.iter().any(|device| device.disk.at(&path).is_none()) {
            if self.world.now_ms >= mark.now_ms + PATIENCE_MS || self.world.finding.is_some() {
                let what = self.world.finding.clone();
                return Err(self.found(what.unwrap_or_else(|| format!("{name} does not arrive"))));
            }
            self.world.run(LOOK_MS);
        }
        let last_ms = self.world.now_ms;
        self.world.run(AFTERMATH_MS);
        is_settled(&self.world).map_err(|why| self.found(why))?;
        Ok(self.cost(&mark, last_ms))
    }

    fn mark(&self) -> Mark {
        let World { counts, traffic, now_ms, .. } = self.world;
        Mark { counts, traffic, now_ms }
    }

    fn cost(&self, since: &Mark, last_ms: u64) -> Cost {
        let World { counts, traffic, .. } = self.world;
        let Mark { counts: of, traffic: sent, now_ms } = since;
        Cost {
            links: self.world.links().count() as u64,
            messages: counts.messages - of.messages,
            message_bytes: traffic.messages - sent.messages,
            gossip_bytes: traffic.gossip - sent.gossip,
            requests: counts.requests - of.requests,
            object_bytes: traffic.objects - sent.objects,
            reconciliations: counts.reconciliations - of.reconciliations,
            round_trips: counts.round_trips - of.round_trips,
            reconciliation_bytes: traffic.reconciliation - sent.reconciliation,
            last_ms: last_ms - now_ms,
        }
    }
}
