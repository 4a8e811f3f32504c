//! Devices, what connects them, and time.
//!
//! What goes from device to device goes through the real encodings. To the world the messages of
//! the engines are opaque.

mod folders;
mod links;
mod messages;
mod objects;
mod processes;
mod reconciling;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ark_core::{DeviceId, Link, Writer};
use ark_sync::{
    Announcement, Effect, Engine, Input, JoinOutcome, Message, Problem, RequestId, Role,
    StageOutcome,
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::dice::Dice;
use super::disk::Disk;
use super::folder::{Extent, Folder};
use super::oracle::Oracle;
use super::store::{Durable, Store};
use super::trace::Trace;
use super::weather::{Fault, Weather};
use reconciling::Reconciling;

/// What a request that nobody answers takes to fail.
const BROKEN_AFTER_MS: u64 = 2_000;

/// One device: what outlives its process, and what runs.
pub(super) struct Device {
    pub(super) store: Store,
    pub(super) disk: Disk,
    pub(super) has_folder: bool,
    /// What the others let it do.
    pub(super) role: Role,
    /// The others that its config lists.
    pub(super) listed: BTreeSet<usize>,
    /// The others drop it, or have.
    pub(super) has_left: bool,
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
    Frame { from: usize, to: usize, epoch: u64, session: u64, frame: reconciling::Frame },
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
    /// Those of them that say what is known.
    pub(super) summaries: u64,
    /// Announcements, each counted once.
    pub(super) announcements: u64,
    pub(super) requests: u64,
    /// Sessions of reconciliation that were begun, and the rounds of questions in those that were
    /// brought to their end.
    pub(super) reconciliations: u64,
    pub(super) round_trips: u64,
    pub(super) publications: u64,
    pub(super) joins: u64,
    pub(super) applied: u64,
    pub(super) sessions: u64,
}

/// What was sent, in bytes of payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Messages on streams.
    pub(super) messages: u64,
    /// Announcements, once per device that they were sent to.
    pub(super) gossip: u64,
    /// Requests for objects, and their answers.
    pub(super) objects: u64,
    /// Frames of reconciliation.
    pub(super) reconciliation: u64,
}

/// See the module.
pub(super) struct World {
    pub(super) devices: Vec<Device>,
    pub(super) now_ms: u64,
    pub(super) dice: Dice,
    /// For what came to the simulation later: the histories of older seeds stay as they are.
    pub(super) more_dice: Dice,
    pub(super) weather: Weather,
    /// Whether devices take up a changed config while they run, too.
    pub(super) relists: bool,
    pub(super) oracle: Oracle,
    /// Of what nobody else takes: what readers write.
    unheard: Oracle,
    pub(super) counts: Counts,
    pub(super) traffic: Traffic,
    pub(super) trace: Trace,
    /// The first thing that went wrong.
    pub(super) finding: Option<String>,
    /// Who has whose address, lesser first.
    pub(super) edges: BTreeSet<(usize, usize)>,
    /// Edges that are broken until they are healed.
    cut: BTreeSet<(usize, usize)>,
    /// Pairs that are connected, with the number of their connection.
    connected: BTreeMap<(usize, usize), u64>,
    next_epoch: u64,
    last_arrival: BTreeMap<(usize, usize), u64>,
    reconciling: Reconciling,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_content: u64,
}

/// One of the devices: what it is, and what the others let it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) folder: bool,
    pub(super) role: Role,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Part {
    /// One that reads and writes, if it has a folder.
    pub(super) const fn peer(folder: bool) -> Self {
        Self { folder, role: Role::Peer }
    }
}

impl World {
    /// Devices that all list each other, none running.
    pub(super) fn new(
        cast: &[Part],
        edges: BTreeSet<(usize, usize)>,
        weather: Weather,
        (dice, more_dice): (Dice, Dice),
        trace: Trace,
    ) -> Self {
        let keys = (1..).map(|n: u8| SigningKey::from_bytes(&[n; 32]));
        let devices = cast.iter().zip(keys).enumerate().map(|(at, (part, key))| Device {
            store: Store::new(key),
            disk: Disk::default(),
            has_folder: part.folder,
            role: part.role,
            listed: (0..cast.len()).filter(|other| *other != at).collect(),
            has_left: false,
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
            more_dice,
            weather,
            relists: false,
            oracle: Oracle::default(),
            unheard: Oracle::default(),
            counts: Counts::default(),
            traffic: Traffic::default(),
            trace,
            finding: None,
            edges,
            cut: BTreeSet::new(),
            connected: BTreeMap::new(),
            next_epoch: 0,
            last_arrival: BTreeMap::new(),
            reconciling: Reconciling::default(),
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

    /// The device that a writer is, or was.
    pub(super) fn device_of(&self, writer: Writer) -> usize {
        self.at(writer.device)
    }

    /// The devices that have not left.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        (0..self.devices.len()).filter(|at| !self.devices[*at].has_left)
    }

    /// Those of them whose users are heard.
    pub(super) fn heard(&self) -> impl Iterator<Item = usize> {
        self.members().filter(|at| {
            let device = &self.devices[*at];
            device.has_folder && device.role == Role::Peer
        })
    }

    /// The edges between them.
    pub(super) fn links(&self) -> impl Iterator<Item = (usize, usize)> {
        let is_member = |at: usize| !self.devices[at].has_left;
        self.edges.iter().copied().filter(move |&(a, b)| is_member(a) && is_member(b))
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
            Event::Lagged { at, life } if self.is_alive(at, life) => self.lag(at),
            Event::Step { at, life, step } if self.is_alive(at, life) => self.step(at, step),
            Event::Tell { at, life, input } if self.is_alive(at, life) => self.told(at, *input),
            Event::Ask { at, from, life, id, bytes } => self.answer(at, from, life, id, &bytes),
            Event::Items { at, from, life, id, items } if self.is_alive(at, life) => {
                self.receive(at, from, id, &items);
            }
            Event::Frame { from, to, epoch, session, frame }
                if self.connected.get(&pair(from, to)) == Some(&epoch) =>
            {
                self.reconcile_further(to, from, session, frame);
            }
            Event::Timer { at, life } if self.is_alive(at, life) => self.timer(at),
            Event::Folder { at, life, turn } if self.is_alive(at, life) => self.folder(at, turn),
            Event::Hint { at, life, extent } if self.is_alive(at, life) => self.hint(at, extent),
            Event::Connect { a, b } => self.connect(a, b),
            Event::Start { at } => self.start(at),
            _ => {}
        }
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
            Effect::Reconcile { peer } => self.reconcile(at, self.at(peer)),
            Effect::Problem(problem) if self.is_expected(at, &problem) => {
                self.note(|| format!("{at} says: {problem}"));
            }
            Effect::Problem(problem) => self.find(format!("{at} has a problem: {problem}")),
            step => {
                let at_ms = self.after(self.weather.store_ms);
                self.schedule(at_ms, Event::Step { at, life, step });
            }
        }
    }

    /// Whether a problem is what its config is to bring.
    fn is_expected(&self, at: usize, problem: &Problem) -> bool {
        match problem {
            Problem::UnlistedWriter { device } => {
                !self.devices[at].listed.contains(&self.at(*device))
            }
            Problem::NotAWriter { device, .. } => self.devices[self.at(*device)].role != Role::Peer,
            Problem::Role { .. } => self.devices[at].role != Role::Peer,
            _ => false,
        }
    }

    /// A step of the store, durable now and told a little later.
    fn step(&mut self, at: usize, step: Effect) {
        let device = &mut self.devices[at];
        let (life, before) = (device.life, device.store.writer());
        let at_once = if self.weather.is_walk_slow() { 1 } else { usize::MAX };
        let input = match step {
            Effect::Lookup { writer, revision, links } => {
                let absent = device.store.durable().missing(&links);
                Input::LookedUp { writer, revision, absent }
            }
            Effect::Stage { state, replacing } => {
                let mut outcome = device.store.stage(&state, replacing, &mut self.dice);
                if let StageOutcome::Staged { missing } = &mut outcome {
                    missing.truncate(at_once);
                }
                if let StageOutcome::Equivocation { .. } | StageOutcome::Invalid = outcome {
                    self.find(format!("{at} stages {state:?}: {outcome:?}"));
                }
                Input::Staged { writer: state.state().writer, outcome }
            }
            Effect::Abandon { writer } => {
                device.store.abandon(writer);
                Input::Abandoned { writer }
            }
            Effect::Join { writer } => {
                let mut outcome = device.store.join(writer);
                if let JoinOutcome::Missing(missing) = &mut outcome {
                    missing.truncate(at_once);
                }
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
        if let Input::JoinResult { outcome: JoinOutcome::Joined(state), .. } = &input {
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
}
