//! One history: what happens by chance, and what must be so in the end.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Entry, Link, Node, NodeKind, ObjectId, Overlay, RelPath, SignedState, Version, Writer,
    empty_directory, entries, heads, join, shown,
};
use ark_folder::scan::FoundNode;

use super::dice::Dice;
use super::disk::{Disk, Thing};
use super::store::{Absent, Durable};
use super::weather::{Fault, Weather};
use super::world::{Counts, Device, World};
use super::{Finding, Report, trace::Trace};

/// Things that happen.
const STEPS: (u64, u64) = (20, 110);
/// After the last trouble: longer than every backoff and retry together, less than the safety
/// timer, so that nothing is left for that to find.
const QUIET_MS: u64 = 150_000;
/// How long it is watched that nothing happens any more: two rounds of the safety timer at least.
const REST_MS: u64 = 15 * 60_000;
/// Messages per direction of a link in [`REST_MS`]: a summary and a `Have` each time that the
/// safety timer of one of both ends.
const REST_MESSAGES: u64 = 16;
/// How far clocks jump, in seconds.
const CLOCK_JUMP_S: u64 = 3 * 86_400;

/// What of a disk must be the same everywhere.
type Tree = BTreeMap<RelPath, (Thing, u32)>;

/// Runs the history of a seed.
pub(super) fn run(seed: u64, fault: Option<Fault>, trace: Trace) -> Result<Report, Finding> {
    let mut dice = Dice::new(seed);
    let weather = Weather::draw(&mut dice, fault);
    let count = usize::try_from(dice.between((2, 7))).unwrap_or(2);
    // Two folders at least; of the others some only hold the repo, as mirrors do.
    let mut folders: Vec<bool> = (0..count).map(|at| at < 2 || dice.percent(70)).collect();
    let turn = dice.index(count);
    folders.rotate_left(turn);
    let edges = topology(count, &mut dice);
    let mut history = History {
        steps: dice.between(STEPS),
        world: World::new(&folders, edges, weather, dice, trace),
        restored: false,
    };
    history.world.note(|| format!("seed {seed}, folders {folders:?}, {weather:?}"));
    history.happen();
    history.settle();
    history.rest();
    let World { now_ms, counts, trace, finding, .. } = history.world;
    match finding {
        Some(what) => Err(Finding { seed, what }),
        None => Ok(Report {
            devices: count,
            publications: counts.publications,
            messages: counts.messages,
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

struct History {
    steps: u64,
    world: World,
    /// Whether a store was put back: what only the lost copy knew is lost with it, deletions too.
    restored: bool,
}

impl History {
    fn happen(&mut self) {
        let count = self.world.devices.len();
        for at in 0..count {
            self.world.start_later(at, 3_000);
        }
        for _ in 0..self.steps {
            self.step(count);
            let longer = if self.world.dice.percent(5) { 50 } else { 1 };
            let pause_ms = self.world.dice.between(self.world.weather.pause_ms) * longer;
            self.world.run(pause_ms);
            if self.world.finding.is_some() {
                return;
            }
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
        world.devices[at].store.restore(copy);
        world.note(|| format!("the store of {at} is put back"));
        // What a plan had removed, to write it elsewhere, only the lost store may have known.
        let devices = &world.devices;
        world.oracle.keep(|node| {
            let on_disk = |disk: &Disk| disk.places().values().any(|place| place.node == node);
            devices.iter().any(|it| on_disk(&it.disk) || holds(it.store.durable(), node))
        });
        world.start_later(at, 3_000);
        self.restored = true;
    }

    /// All troubles end; all come out the same, and nothing is missing.
    fn settle(&mut self) {
        let world = &mut self.world;
        world.note(|| "now it is quiet".to_owned());
        for at in 0..world.devices.len() {
            world.start_later(at, 1_000);
        }
        world.run(1_000);
        world.heal();
        let end_ms = world.now_ms + QUIET_MS;
        while let Err(why) = is_settled(world, self.restored) {
            if world.finding.is_some() {
                return;
            }
            if world.now_ms >= end_ms {
                return world.find(why);
            }
            world.run(1_000);
        }
        if let Err(why) = is_whole(world, self.restored) {
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
        let is_restless = |device: &Device| !device.store.durable().staged().is_empty();
        let orphans = world.devices.iter().any(is_restless);
        // What is lost is asked for again now and then.
        let requests = if orphans { after.requests } else { before.requests };
        let expected = Counts { messages: after.messages, requests, ..before };
        if after != expected || said > 2 * links * REST_MESSAGES {
            world.find(format!("not at rest: {before:?}, later {after:?}"));
        }
        if let Err(why) = is_settled(world, self.restored) {
            world.find(format!("not settled any more: {why}"));
        }
    }
}

/// Whether a store has a content.
fn holds(durable: &Durable, node: FoundNode) -> bool {
    let link = match node {
        FoundNode::File { content, .. } => content.link(),
        FoundNode::Symlink { target, .. } => Link::raw(target),
        FoundNode::Directory => return true,
    };
    durable.serve(link).is_some()
}

/// The root of the merge of all heads.
fn joined_root(durable: &Durable) -> Result<ObjectId, String> {
    let mut overlay = Overlay::new(durable);
    let states = durable.joined().values().map(SignedState::state);
    let merged = join(&mut overlay, &heads(states)).map_err(|error| error.to_string())?;
    if let Some((path, dot)) = merged.equivocations.first() {
        return Err(format!("{path} was written twice under {dot:?}"));
    }
    Ok(merged.tree.root)
}

fn tree(disk: &Disk) -> Tree {
    let places = disk.places().iter();
    places.map(|(path, place)| (path.clone(), (place.thing.clone(), place.bits))).collect()
}

/// Whether the writer is what a device is now.
fn is_living(world: &World, writer: Writer) -> bool {
    world.devices.iter().any(|device| device.store.writer() == writer)
}

/// Whether all devices are connected as they can be, have the same, and show it. A state of which
/// the rest is lost with its maker's store stays staged, and keeps older ones of that writer from
/// being joined: what that was is taken in by what the device wrote since.
fn is_settled(world: &World, restored: bool) -> Result<(), String> {
    let first = &world.devices[0].store;
    let root = joined_root(first.durable())?;
    let mut shown: Option<(usize, Tree)> = None;
    for &(a, b) in &world.edges {
        if !world.is_connected(a, b) {
            return Err(format!("{a} and {b} are not connected"));
        }
    }
    let has_orphans = world.devices.iter().any(|it| !it.store.durable().staged().is_empty());
    for (at, device) in world.devices.iter().enumerate() {
        let Some(running) = &device.running else { return Err(format!("{at} is off")) };
        let durable = device.store.durable();
        let living = |durable: &Durable| -> BTreeMap<Writer, SignedState> {
            let joined = durable.joined().iter().filter(|(writer, _)| is_living(world, **writer));
            joined.map(|(writer, state)| (*writer, state.clone())).collect()
        };
        let is_same = durable.joined() == first.durable().joined();
        let is_excused = restored && living(durable) == living(first.durable());
        if !is_same && !is_excused {
            let theirs = durable.joined().values().collect::<Vec<_>>();
            let ours = first.durable().joined().values().collect::<Vec<_>>();
            let view = running.engine.view();
            return Err(format!("{at} has joined {theirs:?}, 0 has {ours:?}; {view:?}"));
        }
        let mut staged = durable.staged().values();
        let is_orphan = |state: &&SignedState| restored && !is_living(world, state.state().writer);
        if let Some(staged) = staged.find(|state| !is_orphan(state)) {
            let view = running.engine.view();
            return Err(format!("{at} has staged {staged:?} still: {view:?}"));
        }
        if joined_root(durable)? != root {
            return Err(format!("{at} joins the same states to another tree"));
        }
        if let Some(why) = running.folder.as_ref().and_then(super::folder::Folder::unrest) {
            return Err(format!("{at}: {why}"));
        }
        if device.has_folder {
            let tree = tree(&device.disk);
            let (first, same) = shown.get_or_insert_with(|| (at, tree.clone()));
            if let Some(what) = difference(same, &tree) {
                return Err(format!("{first} and {at} show other things: {what}"));
            }
        }
        if !has_orphans {
            all_is_known(world, at)?;
        }
    }
    Ok(())
}

fn difference(a: &Tree, b: &Tree) -> Option<String> {
    let mut paths = a.keys().chain(b.keys());
    let path = paths.find(|path| a.get(*path) != b.get(*path))?;
    Some(format!("{path}: {:?} and {:?}", a.get(path), b.get(path)))
}

/// Whether a device knows of its neighbours that they have and show all.
fn all_is_known(world: &World, at: usize) -> Result<(), String> {
    let Some(running) = &world.devices[at].running else { return Ok(()) };
    let view = running.engine.view();
    if view.staged > 0 || view.missing.objects > 0 || view.requests > 0 {
        return Err(format!("{at} waits for something: {view:?}"));
    }
    if running.folder.is_some() && view.applied != view.durable {
        return Err(format!("{at} does not say that all is applied: {view:?}"));
    }
    for &(a, b) in world.edges.iter().filter(|(a, b)| *a == at || *b == at) {
        let other = if a == at { b } else { a };
        let Some(peer) = view.peers.get(&world.devices[other].store.writer().device) else {
            return Err(format!("{at} does not know {other}"));
        };
        let shows = !peer.folder || peer.applied == view.durable;
        if !peer.in_touch || !peer.scanned || peer.durable != view.durable || !shows {
            let what = format!("does not know that {other} has all");
            return Err(format!("{at} {what}: here {:?}, there {peer:?}", view.durable));
        }
    }
    Ok(())
}

/// Whether the tree shows all that it must, and nothing that was knowingly dropped.
fn is_whole(world: &World, restored: bool) -> Result<(), String> {
    let Some(device) = world.devices.iter().find(|device| device.has_folder) else { return Ok(()) };
    let there: BTreeSet<String> =
        device.disk.places().values().map(|place| format!("{:?}", place.node)).collect();
    let lost: Vec<&str> = world
        .oracle
        .live()
        .filter(|written| !there.contains(&format!("{:?}", written.node)))
        .map(|written| written.words.as_str())
        .collect();
    if !lost.is_empty() {
        return Err(format!("lost: {lost:?}"));
    }
    let durable = device.store.durable();
    let mut overlay = Overlay::new(durable);
    overlay.put(empty_directory());
    let walked = walk(world, &overlay, joined_root(durable)?, restored);
    let expected = walked.map_err(|error| error.to_string())??;
    let disk = &device.disk;
    let found = disk.places().iter().map(|(path, place)| (path.clone(), (place.node, place.bits)));
    let found: Nodes = found.collect();
    let mut paths = expected.keys().chain(found.keys());
    match paths.find(|path| expected.get(*path) != found.get(*path)) {
        Some(path) => {
            let (wanted, is) = (expected.get(path), found.get(path));
            Err(format!("{path} shows {is:?}, but is to show {wanted:?}"))
        }
        None => Ok(()),
    }
}

/// What paths show, with their bits.
type Nodes = BTreeMap<RelPath, (FoundNode, u32)>;

/// What a tree is to show; or what of it should not be there.
fn walk(
    world: &World,
    read: &Overlay<&Durable>,
    root: ObjectId,
    restored: bool,
) -> Result<Result<Nodes, String>, ark_core::TreeError<Absent>> {
    let mut nodes = Nodes::new();
    let mut open = vec![(RelPath::root(), root)];
    while let Some((parent, root)) = open.pop() {
        for entry in entries(read, root) {
            let Entry { name, versions } = entry?;
            let path = parent.join(name);
            let files = versions.iter().filter(|it| it.node.kind() != NodeKind::Directory);
            let back = files
                .flat_map(|version| &version.dots)
                .find(|dot| world.oracle.is_dropped(**dot, &path));
            if let Some(dot) = back.filter(|_| !restored) {
                return Ok(Err(format!("{dot:?} of {path} is back")));
            }
        }
        for copy in shown(read, root)? {
            let path = parent.join(copy.name);
            if let Node::Directory { root, .. } = copy.version.node {
                open.push((path.clone(), root));
            }
            nodes.insert(path, node(&copy.version));
        }
    }
    Ok(Ok(nodes))
}

fn node(version: &Version) -> (FoundNode, u32) {
    let bits = u32::from(version.permissions.bits());
    match version.node {
        Node::File { content, size } => (FoundNode::File { content, size }, bits),
        Node::Symlink { target, size } => {
            (FoundNode::Symlink { target, size }, super::disk::SYMLINK_BITS)
        }
        Node::Directory { .. } => (FoundNode::Directory, bits),
    }
}
