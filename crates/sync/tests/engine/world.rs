//! Devices, what connects them, and time.

mod device;
mod lines;
mod storing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use ark_core::{DeviceId, Link, SignedState};
use ark_sync::{Announcement, Effect, Input, Message, Remote, RequestId, Role, StoreStep};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

pub use self::device::{Device, Manners, topic};

/// A second of virtual time.
pub const SECOND_MS: u64 = 1_000;

/// Chance, repeatable.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }

    pub fn pick(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("it is below a usize")
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
}

enum Event {
    Message {
        from: usize,
        to: usize,
        epoch: u64,
        bytes: Vec<u8>,
    },
    Gossip {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Step {
        at: usize,
        life: u64,
        step: Effect,
    },
    Tell {
        at: usize,
        life: u64,
        input: Box<Input>,
    },
    Ask {
        at: usize,
        from: usize,
        life: u64,
        id: RequestId,
        bytes: Vec<u8>,
    },
    Items {
        at: usize,
        life: u64,
        id: RequestId,
        items: Vec<(Link, Bytes)>,
    },
    Timer {
        at: usize,
        life: u64,
    },
    /// What a reconciliation with `with` tells `at`, while their connection stands.
    Reconciled {
        at: usize,
        with: usize,
        epoch: u64,
        input: Box<Input>,
    },
}

/// How the world behaves.
#[derive(Clone, Copy)]
pub struct Weather {
    /// One way, in milliseconds.
    pub delay_ms: (u64, u64),
    /// What a step of the store takes.
    pub store_ms: (u64, u64),
    /// Of a thousand announcements, so many are lost, each receiver by itself.
    pub gossip_lost: u64,
    /// Milliseconds per thousand bytes of objects, per request.
    pub slowness: u64,
}

impl Weather {
    pub const CALM: Self =
        Self { delay_ms: (10, 10), store_ms: (1, 3), gossip_lost: 0, slowness: 0 };
}

/// What one device sent another on its stream.
pub struct Sent {
    pub at_ms: u64,
    pub from: usize,
    pub to: usize,
    pub bytes: usize,
    pub message: Message,
}

pub struct World {
    pub devices: Vec<Device>,
    pub now_ms: u64,
    pub dice: Dice,
    pub weather: Weather,
    pub sent: Vec<Sent>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    next_event: u64,
    /// Pairs that are connected, lesser first, with the number of their connection.
    connected: BTreeMap<(usize, usize), u64>,
    next_epoch: u64,
    last_arrival: HashMap<(usize, usize), u64>,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    /// Devices that all list each other, none connected.
    pub fn new(count: usize, seed: u64, weather: Weather) -> Self {
        let everybody: BTreeSet<usize> = (0..count).collect();
        Self::listing(vec![everybody; count], seed, weather)
    }

    /// Devices that each list these, as peers.
    pub fn listing(listed: Vec<BTreeSet<usize>>, seed: u64, weather: Weather) -> Self {
        let as_peers = |of: BTreeSet<usize>| of.into_iter().map(|at| (at, Role::Peer)).collect();
        Self::granting(listed.into_iter().map(as_peers).collect(), seed, weather)
    }

    /// Devices that each list these.
    pub fn granting(listed: Vec<BTreeMap<usize, Role>>, seed: u64, weather: Weather) -> Self {
        let keys: Vec<_> =
            (1..).take(listed.len()).map(|n: u8| SigningKey::from_bytes(&[n; 32])).collect();
        let devices =
            listed.into_iter().enumerate().map(|(at, listed)| Device::new(at, &keys, listed));
        Self {
            devices: devices.collect(),
            now_ms: 0,
            dice: Dice(seed),
            weather,
            sent: Vec::new(),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next_event: 0,
            connected: BTreeMap::new(),
            next_epoch: 0,
            last_arrival: HashMap::new(),
        }
    }

    pub fn id(&self, at: usize) -> DeviceId {
        self.devices[at].writer.device
    }

    fn at(&self, device: DeviceId) -> usize {
        self.devices.iter().position(|it| it.writer.device == device).unwrap()
    }

    fn schedule(&mut self, at_ms: u64, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.events.insert(number, event);
        self.queue.push(Reverse((at_ms.max(self.now_ms), number)));
    }

    fn delay(&mut self, (low, high): (u64, u64)) -> u64 {
        self.now_ms + self.dice.between(low, high)
    }

    /// Lets `span_ms` go by.
    pub fn run(&mut self, span_ms: u64) {
        let end_ms = self.now_ms + span_ms;
        while let Some(&Reverse((at_ms, number))) = self.queue.peek() {
            if at_ms > end_ms {
                break;
            }
            self.queue.pop();
            self.now_ms = at_ms;
            let event = self.events.remove(&number).unwrap();
            self.happen(event);
        }
        self.now_ms = end_ms;
    }

    /// Lets time go by until something is so.
    pub fn run_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let end_ms = self.now_ms + 60_000;
        while !is_so(self) {
            assert!(self.now_ms < end_ms, "it did not come about");
            self.run(5);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Message { from, to, epoch, bytes }
                if self.connected.get(&pair(from, to)) == Some(&epoch) =>
            {
                let message = Message::decode(&bytes).expect("engines send what decodes");
                self.feed(to, Input::Message { peer: self.id(from), message });
            }
            Event::Gossip { from, to, bytes } => {
                let announcement = Announcement::decode(&bytes).expect("it decodes");
                self.feed(to, Input::Announced { from: self.id(from), announcement });
            }
            Event::Step { at, life, step } if self.devices[at].life == life => self.step(at, step),
            Event::Tell { at, life, input } if self.devices[at].life == life => {
                self.feed(at, *input);
            }
            Event::Ask { at, from, life, id, bytes } => self.answer(at, from, life, id, &bytes),
            Event::Reconciled { at, with, epoch, input }
                if self.connected.get(&pair(at, with)) == Some(&epoch) =>
            {
                self.feed(at, *input);
            }
            Event::Items { at, life, id, items } if self.devices[at].life == life => {
                self.receive(at, id, &items);
            }
            Event::Timer { at, life }
                if self.devices[at].life == life
                    && self.devices[at].timer_ms.is_some_and(|at_ms| at_ms <= self.now_ms) =>
            {
                self.devices[at].timer_ms = None;
                self.feed(at, Input::Timer);
            }
            _ => {}
        }
    }

    /// Tells an engine something and carries out what it wants.
    pub fn feed(&mut self, at: usize, input: Input) {
        if let Input::Stored { received, .. } = &input {
            let device = &mut self.devices[at];
            for (link, _) in received {
                device.flying.remove(link);
                device.told.insert(*link);
            }
        }
        if let Input::RequestEnded { request, .. }
        | Input::RequestFailed { request, .. }
        | Input::StoreFailed { step: StoreStep::Receive { request }, .. } = &input
        {
            self.devices[at].flying.retain(|_, id| id != request);
        }
        let effects = self.devices[at].engine.handle(input, self.now_ms);
        for effect in effects {
            self.carry_out(at, effect);
        }
        let device = &mut self.devices[at];
        if let Some(wake_ms) = device.engine.wake_at() {
            // A timer in the past would be a loop without end.
            assert!(wake_ms > self.now_ms, "woken at {} for {wake_ms}", self.now_ms);
            if device.timer_ms.is_none_or(|timer_ms| timer_ms > wake_ms) {
                device.timer_ms = Some(wake_ms);
                let life = device.life;
                self.schedule(wake_ms, Event::Timer { at, life });
            }
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let life = self.devices[at].life;
        match effect {
            Effect::Send { peer, message } => self.send(at, self.at(peer), message),
            Effect::Announce(announcement) => self.gossip(at, &announcement),
            Effect::Request { id, peer, request } => self.ask(at, self.at(peer), id, request),
            Effect::Cancel { id } => {
                self.devices[at].cancelled.insert(id);
                self.devices[at].flying.retain(|_, request| *request != id);
            }
            Effect::Misbehaved { peer, .. } => self.disconnect(at, self.at(peer)),
            Effect::Reconcile { peer } => self.reconcile(at, self.at(peer)),
            Effect::Problem(problem) => {
                assert!(!problem.to_string().is_empty());
                self.devices[at].problems.push(problem);
            }
            step => {
                let at_ms = self.delay(self.weather.store_ms);
                self.schedule(at_ms, Event::Step { at, life, step });
            }
        }
    }

    fn tell(&mut self, at: usize, life: u64, at_ms: u64, input: Input) {
        self.schedule(at_ms, Event::Tell { at, life, input: Box::new(input) });
    }

    pub fn is_connected(&self, a: usize, b: usize) -> bool {
        self.connected.contains_key(&pair(a, b))
    }

    pub fn list_each_other(&self, a: usize, b: usize) -> bool {
        let lists = |a: usize, b: usize| self.devices[a].listed.contains_key(&b);
        lists(a, b) && lists(b, a)
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        assert!(self.list_each_other(a, b));
        self.disconnect(a, b);
        self.next_epoch += 1;
        self.connected.insert(pair(a, b), self.next_epoch);
        self.feed(a, Input::PeerConnected { peer: self.id(b) });
        self.feed(b, Input::PeerConnected { peer: self.id(a) });
    }

    /// From its next start on, a device grants another this.
    pub fn grant(&mut self, at: usize, other: usize, role: Role) {
        self.devices[at].listed.insert(other, role);
    }

    /// A device lists these from now on, all as peers, while it runs. Connections with those that
    /// it lists no more are gone.
    pub fn list(&mut self, at: usize, others: &[usize]) {
        for other in 0..self.devices.len() {
            if !others.contains(&other) {
                self.disconnect(at, other);
            }
        }
        self.devices[at].listed = others.iter().map(|&other| (other, Role::Peer)).collect();
        let remote = |&other: &usize| {
            (self.id(other), Remote { name: format!("device {other}"), role: Role::Peer })
        };
        let remotes = others.iter().map(remote).collect();
        self.feed(at, Input::Listed { remotes });
    }

    /// From its next start on, a device does not list another.
    pub fn drop_remote(&mut self, at: usize, other: usize) {
        self.devices[at].listed.remove(&other);
    }

    pub fn connect_all(&mut self) {
        for a in 0..self.devices.len() {
            for b in a + 1..self.devices.len() {
                if !self.is_connected(a, b) && self.list_each_other(a, b) {
                    self.connect(a, b);
                }
            }
        }
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        if self.connected.remove(&pair(a, b)).is_some() {
            self.feed(a, Input::PeerDisconnected { peer: self.id(b) });
            self.feed(b, Input::PeerDisconnected { peer: self.id(a) });
        }
    }

    /// The engine is lost with all that was under way; the store stays.
    pub fn restart(&mut self, at: usize) {
        for other in 0..self.devices.len() {
            self.disconnect(at, other);
        }
        let keys: Vec<_> = self.devices.iter().map(|device| device.key.clone()).collect();
        let seed = self.dice.below(u64::MAX);
        self.devices[at].restart(&keys, seed);
        self.feed(at, Input::Timer);
    }

    /// Publishes the tree as it is now, with all that was joined taken in.
    pub fn publish(&mut self, at: usize) -> SignedState {
        let (state, new) = self.devices[at].publish();
        self.feed(at, Input::Published { state: state.clone(), new });
        state
    }

    /// Fills a device's tree with contents that differ from those of other `salt`s.
    pub fn fill(&mut self, at: usize, directories: u32, files: usize, salt: usize) {
        for directory in 0..directories {
            let contents = (0..files).map(|file| {
                let length = 20 + (salt + file * 37) % 3_000;
                format!("{salt}.{directory}.{file}.").into_bytes().repeat(length / 8)
            });
            self.devices[at].tree.insert(directory, contents.collect());
        }
    }

    /// Adds a file to a device's tree.
    pub fn add_file(&mut self, at: usize, content: &[u8]) {
        self.devices[at].tree.entry(0).or_default().push(content.to_vec());
    }

    /// Whether every device has joined the newest state of every device, whole.
    pub fn converged(&self) -> Result<(), String> {
        let newest: Vec<&SignedState> =
            self.devices.iter().filter_map(|it| it.store.joined.get(&it.writer)).collect();
        for (at, device) in self.devices.iter().enumerate() {
            for state in &newest {
                let writer = state.state().writer;
                if device.store.joined.get(&writer) != Some(state) {
                    let view = device.engine.view();
                    return Err(format!("{at} lacks {state:?} at {}: {view:#?}", self.now_ms));
                }
            }
            for head in ark_core::heads(device.store.joined.values().map(SignedState::state)) {
                let root = Link::snapshot(head.id);
                let missing = device.store.missing(&[root], 1);
                if !missing.is_empty() || !device.store.indexed.contains(&root) {
                    return Err(format!("{at} lacks {missing:?}"));
                }
            }
            if !device.store.staged.is_empty() {
                return Err(format!("{at} has staged {:?}", device.store.staged));
            }
        }
        Ok(())
    }

    /// Bytes on the stream between two devices, both ways, frames' lengths included.
    pub fn bytes_between(&self, a: usize, b: usize) -> usize {
        let between = self.sent.iter().filter(|sent| pair(sent.from, sent.to) == pair(a, b));
        between.map(|sent| sent.bytes + 4).sum()
    }
}

/// Two devices that have the same.
pub fn in_step(seed: u64) -> World {
    let mut world = World::new(2, seed, Weather::CALM);
    world.fill(0, 3, 10, 1);
    world.publish(0);
    world.connect(0, 1);
    world.run(10_000);
    world.converged().unwrap();
    world
}
