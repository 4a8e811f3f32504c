//! Devices, what connects them, and time.
//!
//! What goes from device to device goes through the real encodings. To the world the messages of
//! the engines are opaque.

mod messages;
mod objects;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ark_core::{DeviceId, Link, RelPath, RepoKind};
use ark_sync::{
    Announcement, Effect, Engine, EngineOptions, Input, Known, Message, RequestId, StageOutcome,
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::dice::Dice;
use super::disk::Disk;
use super::folder::{Context, Extent, Folder, Said};
use super::oracle::Oracle;
use super::store::{Durable, Store, topic};
use super::trace::Trace;
use super::user::User;
use super::weather::{Fault, Weather};

/// Seconds that a device's clock shows at the start.
const EPOCH_S: i64 = 1_700_000_000;
/// What a request that nobody answers takes to fail.
const BROKEN_AFTER_MS: u64 = 2_000;

/// One device: what outlives its process, and what runs.
pub(super) struct Device {
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) has_folder: bool,
    pub(super) copy: Option<Durable>,
    /// What is outside of the store: the token of its last opening.
    witness: Option<u64>,
    /// How far its clock is off, in seconds.
    pub(super) clock_off: i64,
    pub(super) running: Option<Running>,
    /// Counts its processes: what was meant for another one is lost.
    life: u64,
    before_publication: Option<Durable>,
}

/// A device's process.
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) folder: Option<Folder>,
    timer_ms: Option<u64>,
    /// Counts the times at which the folder's next step was set: the last counts.
    turn: u64,
    cancelled: BTreeSet<RequestId>,
}

enum Event {
    Message { from: usize, to: usize, epoch: u64, bytes: Vec<u8> },
    Gossip { to: usize, from: usize, life: u64, bytes: Vec<u8> },
    Lagged { at: usize, life: u64 },
    Step { at: usize, life: u64, step: Effect },
    Tell { at: usize, life: u64, input: Box<Input> },
    Ask { at: usize, from: usize, life: u64, id: RequestId, bytes: Vec<u8> },
    Items { at: usize, from: usize, life: u64, id: RequestId, items: Vec<(Link, Bytes)> },
    Timer { at: usize, life: u64 },
    Folder { at: usize, life: u64, turn: u64 },
    Hint { at: usize, life: u64, extent: Extent },
    Connect { a: usize, b: usize },
    Start { at: usize },
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Messages on streams.
    pub(super) messages: u64,
    /// Those of them that carry states.
    pub(super) states: u64,
    /// Announcements, each counted once.
    pub(super) announcements: u64,
    pub(super) requests: u64,
    pub(super) publications: u64,
    pub(super) joins: u64,
    pub(super) applied: u64,
    pub(super) sessions: u64,
}

/// See the module.
pub(super) struct World {
    pub(super) devices: Vec<Device>,
    pub(super) now_ms: u64,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    pub(super) oracle: Oracle,
    pub(super) counts: Counts,
    pub(super) trace: Trace,
    /// The first thing that went wrong.
    pub(super) finding: Option<String>,
    keys: Vec<SigningKey>,
    /// Who has whose address, lesser first.
    pub(super) edges: BTreeSet<(usize, usize)>,
    /// Edges that are broken until they are healed.
    cut: BTreeSet<(usize, usize)>,
    /// Pairs that are connected, with the number of their connection.
    connected: BTreeMap<(usize, usize), u64>,
    next_epoch: u64,
    last_arrival: BTreeMap<(usize, usize), u64>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_content: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    /// Devices that all list each other, none running.
    pub(super) fn new(
        folders: &[bool],
        edges: BTreeSet<(usize, usize)>,
        weather: Weather,
        dice: Dice,
        trace: Trace,
    ) -> Self {
        let keys: Vec<_> =
            (1..).take(folders.len()).map(|n: u8| SigningKey::from_bytes(&[n; 32])).collect();
        let devices = folders.iter().zip(&keys).map(|(&has_folder, key)| Device {
            store: Store::new(key.clone()),
            disk: Disk::default(),
            has_folder,
            copy: None,
            witness: None,
            clock_off: 0,
            running: None,
            life: 0,
            before_publication: None,
        });
        Self {
            devices: devices.collect(),
            now_ms: 0,
            dice,
            weather,
            oracle: Oracle::default(),
            counts: Counts::default(),
            trace,
            finding: None,
            keys,
            edges,
            cut: BTreeSet::new(),
            connected: BTreeMap::new(),
            next_epoch: 0,
            last_arrival: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_content: 0,
        }
    }

    fn id(&self, at: usize) -> DeviceId {
        self.devices[at].store.writer().device
    }

    fn at(&self, device: DeviceId) -> usize {
        let at = self.devices.iter().position(|it| it.store.writer().device == device);
        at.expect("engines speak of the devices that they were given")
    }

    /// Something is not as it must be. The first counts.
    pub(super) fn find(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.trace.note(self.now_ms, || format!("FINDING {what}"));
        self.finding.get_or_insert(what);
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.now_ms, what);
    }

    fn schedule(&mut self, at_ms: u64, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.events.insert(number, event);
        self.queue.push(Reverse((at_ms.max(self.now_ms), number)));
    }

    fn after(&mut self, range: (u64, u64)) -> u64 {
        self.now_ms + self.dice.between(range)
    }

    /// Lets time go by.
    pub(super) fn run(&mut self, span_ms: u64) {
        let end_ms = self.now_ms + span_ms;
        while let Some(&Reverse((at_ms, number))) = self.queue.peek() {
            if at_ms > end_ms || self.finding.is_some() {
                break;
            }
            self.queue.pop();
            self.now_ms = at_ms;
            let event = self.events.remove(&number).expect("what is queued is kept");
            self.happen(event);
        }
        self.now_ms = end_ms;
    }

    fn is_alive(&self, at: usize, life: u64) -> bool {
        self.devices[at].life == life && self.devices[at].running.is_some()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message { from, to, epoch, bytes }
                if self.connected.get(&pair(from, to)) == Some(&epoch) =>
            {
                match Message::decode(&bytes) {
                    Ok(message) => self.feed(to, Input::Message { peer: self.id(from), message }),
                    Err(error) => self.find(format!("{from} sent what is no message: {error}")),
                }
            }
            Event::Gossip { to, from, life, bytes } if self.is_alive(to, life) => {
                match Announcement::decode(&bytes) {
                    Ok(announcement) => {
                        self.feed(to, Input::Announced { from: self.id(from), announcement });
                    }
                    Err(error) => self.find(format!("{from} announced nonsense: {error}")),
                }
            }
            Event::Lagged { at, life } if self.is_alive(at, life) => self.feed(at, Input::Lagged),
            Event::Step { at, life, step } if self.is_alive(at, life) => self.step(at, step),
            Event::Tell { at, life, input } if self.is_alive(at, life) => self.told(at, *input),
            Event::Ask { at, from, life, id, bytes } => self.answer(at, from, life, id, &bytes),
            Event::Items { at, from, life, id, items } if self.is_alive(at, life) => {
                self.receive(at, from, id, &items);
            }
            Event::Timer { at, life } if self.is_alive(at, life) => self.timer(at),
            Event::Folder { at, life, turn } if self.is_alive(at, life) => self.folder(at, turn),
            Event::Hint { at, life, extent } if self.is_alive(at, life) => self.hint(at, extent),
            Event::Connect { a, b } => self.connect(a, b),
            Event::Start { at } => self.start(at),
            _ => {}
        }
    }

    // Processes.

    /// Starts a device that is off.
    pub(super) fn start(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if device.running.is_some() {
            return;
        }
        device.life += 1;
        if self.weather.fault == Some(Fault::SequencesTwice) {
            device.store.forge(&mut device.witness);
        }
        let is_new = device.store.open(&mut device.witness, &mut self.dice);
        let writer = device.store.writer();
        if self.weather.fault == Some(Fault::InterruptionForgotten) {
            device.store.base().applying = None;
        }
        let folder = device.has_folder.then(|| Folder::new(&mut device.store));
        let durable = device.store.durable();
        let known = Known {
            joined: durable.joined().values().cloned().collect(),
            staged: durable.staged().values().cloned().collect(),
            pending: !durable.staged().is_empty(),
            applied: BTreeMap::new(),
            scanned: false,
        };
        let applied = folder.as_ref().map(|folder| folder.applied().clone());
        let others = self.keys.iter().enumerate().filter(|(other, _)| *other != at);
        let remotes = others.map(|(other, key)| {
            let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
            (device, format!("device {other}"))
        });
        let options = EngineOptions {
            topic: topic(),
            kind: RepoKind::Folder,
            writer,
            folder: device.has_folder,
            remotes: remotes.collect(),
            seed: self.dice.any(),
        };
        device.running = Some(Running {
            engine: Engine::new(options, known),
            folder,
            timer_ms: None,
            turn: 0,
            cancelled: BTreeSet::new(),
        });
        self.note(|| format!("{at} starts as {writer:?}{}", if is_new { ", anew" } else { "" }));
        self.feed(at, Input::Timer);
        if let Some(revisions) = applied {
            self.feed(at, Input::Applied { revisions });
        }
        self.wake_folder(at);
        self.meet(at, 2_000);
    }

    /// Ends a device's process where it is; perhaps the power fails, too.
    pub(super) fn end(&mut self, at: usize, power_fails: bool) {
        if self.devices[at].running.is_none() {
            return;
        }
        for other in 0..self.devices.len() {
            self.disconnect(at, other);
        }
        let device = &mut self.devices[at];
        device.running = None;
        device.life += 1;
        device.store.crash(&mut self.dice);
        if let Some(before) = device.before_publication.take() {
            device.store.lose(before);
        }
        let unsynced = device.disk.unsynced();
        let kept = self.dice.index(unsynced + 1);
        if power_fails {
            device.disk.lose_power(kept);
        }
        self.note(|| {
            let power = if power_fails {
                format!("power, {kept} of {unsynced} kept")
            } else {
                "kill".into()
            };
            format!("{at} ends: {power}")
        });
    }

    /// Lets a device come back in a while.
    pub(super) fn start_later(&mut self, at: usize, within_ms: u64) {
        let at_ms = self.after((0, within_ms));
        self.schedule(at_ms, Event::Start { at });
    }

    /// Tells the engine something and carries out what it wants.
    fn feed(&mut self, at: usize, input: Input) {
        let now_ms = self.now_ms;
        let Some(running) = &mut self.devices[at].running else { return };
        for effect in running.engine.handle(input, now_ms) {
            self.carry_out(at, effect);
        }
        let Some(running) = &mut self.devices[at].running else { return };
        let Some(wake_ms) = running.engine.wake_at() else { return };
        if wake_ms <= now_ms {
            return self.find(format!("{at} would be woken without end"));
        }
        if running.timer_ms.is_none_or(|timer_ms| timer_ms > wake_ms) {
            running.timer_ms = Some(wake_ms);
            let life = self.devices[at].life;
            self.schedule(wake_ms, Event::Timer { at, life });
        }
    }

    fn timer(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let Some(running) = &mut self.devices[at].running else { return };
        if running.timer_ms.take_if(|timer_ms| *timer_ms <= now_ms).is_some() {
            self.feed(at, Input::Timer);
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let life = self.devices[at].life;
        match effect {
            Effect::Send { peer, message } => self.send(at, self.at(peer), &message),
            Effect::Announce(announcement) => self.gossip(at, &announcement),
            Effect::Request { id, peer, request } => self.ask(at, self.at(peer), id, request),
            Effect::Cancel { id } => {
                if let Some(running) = &mut self.devices[at].running {
                    running.cancelled.insert(id);
                }
            }
            Effect::Misbehaved { peer, violation } => {
                self.find(format!("{at} takes {} for a cheat: {violation}", self.at(peer)));
            }
            Effect::Problem(problem) => self.find(format!("{at} has a problem: {problem}")),
            step => {
                let at_ms = self.after(self.weather.store_ms);
                self.schedule(at_ms, Event::Step { at, life, step });
            }
        }
    }

    // Effects on the store.

    /// A step of the store, durable now and told a little later.
    fn step(&mut self, at: usize, step: Effect) {
        let device = &mut self.devices[at];
        let (life, before) = (device.life, device.store.writer());
        let input = match step {
            Effect::Lookup { writer, revision, links } => {
                let absent = device.store.durable().missing(&links);
                Input::LookedUp { writer, revision, absent }
            }
            Effect::Stage { state, replacing } => {
                let outcome = device.store.stage(&state, replacing, &mut self.dice);
                if let StageOutcome::Equivocation { .. } | StageOutcome::Invalid = outcome {
                    self.find(format!("{at} stages {state:?}: {outcome:?}"));
                }
                Input::Staged { writer: state.state().writer, outcome }
            }
            Effect::Join { writer } => {
                let outcome = device.store.join(writer);
                Input::JoinResult { writer, outcome }
            }
            other => return self.find(format!("{at} wants what nobody knows: {other:?}")),
        };
        self.note(|| format!("{at}'s store: {input:?}"));
        let writer = self.devices[at].store.writer();
        if writer != before {
            self.note(|| format!("{at} is {writer:?} from now on"));
            self.feed(at, Input::Renewed { writer });
            self.wake_folder(at);
        }
        if let Input::JoinResult { outcome: ark_sync::JoinOutcome::Joined(state), .. } = &input {
            self.counts.joins += 1;
            self.note(|| format!("{at} joins {state:?}"));
            let running = self.devices[at].running.as_mut();
            if let Some(folder) = running.and_then(|running| running.folder.as_mut()) {
                folder.joined();
                self.wake_folder(at);
            }
        }
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, input);
    }

    // Folders.

    /// Lets an idle folder look at once whether there is something to do.
    fn wake_folder(&mut self, at: usize) {
        let device = &mut self.devices[at];
        let life = device.life;
        let Some(running) = &mut device.running else { return };
        if running.folder.as_ref().is_some_and(Folder::is_idle) {
            running.turn += 1;
            let turn = running.turn;
            self.schedule(self.now_ms, Event::Folder { at, life, turn });
        }
    }

    fn hint(&mut self, at: usize, extent: Extent) {
        let running = self.devices[at].running.as_mut();
        if let Some(folder) = running.and_then(|running| running.folder.as_mut()) {
            folder.hint(extent);
            self.wake_folder(at);
        }
    }

    fn clock(&self, at: usize) -> i64 {
        EPOCH_S + i64::try_from(self.now_ms / 1000).unwrap_or(0) + self.devices[at].clock_off
    }

    fn folder(&mut self, at: usize, turn: u64) {
        let clock = self.clock(at);
        let device = &mut self.devices[at];
        let life = device.life;
        let Some(running) = device.running.as_mut().filter(|it| it.turn == turn) else { return };
        let Some(folder) = &mut running.folder else { return };
        let loses = self.weather.fault == Some(Fault::ToldBeforeDurable);
        let before = loses.then(|| device.store.durable().clone());
        let mut cx = Context {
            store: &mut device.store,
            disk: &mut device.disk,
            oracle: &mut self.oracle,
            dice: &mut self.dice,
            weather: &self.weather,
            now_ms: self.now_ms,
            clock,
            said: Vec::new(),
        };
        let next = folder.step(&mut cx);
        let said = cx.said;
        running.turn += 1;
        let turn = running.turn;
        match next {
            Ok(Some(at_ms)) => self.schedule(at_ms, Event::Folder { at, life, turn }),
            Ok(None) => {}
            Err(why) => return self.find(format!("the folder of {at}: {why}")),
        }
        if said.iter().any(|said| matches!(said, Said::Published(..))) {
            self.devices[at].before_publication = before;
        }
        for said in said {
            self.hear(at, said);
        }
    }

    fn hear(&mut self, at: usize, said: Said) {
        match said {
            Said::Published(state, new) => {
                self.counts.publications += 1;
                self.feed(at, Input::Published { state, new });
            }
            Said::Applied(revisions) => {
                self.counts.applied += 1;
                self.feed(at, Input::Applied { revisions });
            }
            Said::Scanned => self.feed(at, Input::Scanned),
            Said::Touched(paths) => self.see(at, paths),
            Said::Note(text) => self.note(|| format!("{at} {text}")),
        }
    }

    /// The watch sees something, sometimes in parts, sometimes only that it lost count.
    fn see(&mut self, at: usize, paths: BTreeSet<RelPath>) {
        let life = self.devices[at].life;
        let mut extents = Vec::new();
        if self.dice.percent(1) {
            extents.push(Extent::Everything);
        } else if self.dice.percent(20) {
            extents.extend(paths.into_iter().map(|path| Extent::Paths([path].into())));
        } else {
            extents.push(Extent::Paths(paths));
        }
        for extent in extents {
            let at_ms = self.after(self.weather.quiet_ms);
            self.schedule(at_ms, Event::Hint { at, life, extent });
        }
    }

    /// The user of a device does something.
    pub(super) fn use_folder(&mut self, at: usize) {
        let clock = self.clock(at);
        let device = &mut self.devices[at];
        if !device.has_folder {
            return;
        }
        let mut user = User {
            disk: &mut device.disk,
            oracle: &mut self.oracle,
            dice: &mut self.dice,
            clock,
            next: &mut self.next_content,
        };
        let Some((words, paths)) = user.act() else { return };
        self.note(|| format!("{at} {words}"));
        self.see(at, paths);
    }

    // Links.

    fn connect(&mut self, a: usize, b: usize) {
        let is_off = |at: usize| self.devices[at].running.is_none();
        let key = pair(a, b);
        if is_off(a) || is_off(b) || self.cut.contains(&key) || self.connected.contains_key(&key) {
            return;
        }
        self.next_epoch += 1;
        self.counts.sessions += 1;
        self.connected.insert(key, self.next_epoch);
        self.note(|| format!("{a} and {b} connect"));
        self.feed(a, Input::PeerConnected { peer: self.id(b) });
        self.feed(b, Input::PeerConnected { peer: self.id(a) });
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        if self.connected.remove(&pair(a, b)).is_some() {
            self.note(|| format!("{a} and {b} lose each other"));
            self.feed(a, Input::PeerDisconnected { peer: self.id(b) });
            self.feed(b, Input::PeerDisconnected { peer: self.id(a) });
        }
    }

    /// A connection breaks; whoever has the other's address tries again.
    pub(super) fn flap(&mut self, a: usize, b: usize) {
        self.disconnect(a, b);
        if self.edges.contains(&pair(a, b)) {
            let at_ms = self.after((1, 3_000));
            self.schedule(at_ms, Event::Connect { a, b });
        }
    }

    /// These are apart until the links are healed.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert(pair(a, b));
        self.disconnect(a, b);
    }

    /// All links work again.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.devices.len() {
            self.meet(at, 3_000);
        }
    }

    fn meet(&mut self, at: usize, within_ms: u64) {
        let edges: Vec<_> =
            self.edges.iter().copied().filter(|&(a, b)| a == at || b == at).collect();
        for (a, b) in edges {
            let at_ms = self.after((1, within_ms));
            self.schedule(at_ms, Event::Connect { a, b });
        }
    }

    /// Whether two devices are connected.
    pub(super) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.connected.contains_key(&pair(a, b))
    }
}
