//! Devices, what connects them, and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use ark_core::{
    DeviceId, Dot, Head, Incarnation, Link, Object, ObjectKind, RepoKind, SignedState, State,
    TopicId, Vector, Writer,
};
use ark_sync::{
    Announcement, AnswerCheck, Effect, Engine, EngineOptions, Failure, Input, ItemHeader, Known,
    MAX_ANNOUNCEMENT_BYTES, MAX_FRAME_BYTES, MAX_REQUEST_BYTES, Message, ObjectsRequest, Problem,
    Reconciliation, Remote, RequestId, Role, StoreStep,
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use crate::store::{Store, links_of, structured};

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

/// How a device answers requests for objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Honest,
    /// Says of everything that it does not have it.
    HasNothing,
    /// Sends an object that nobody asked for.
    Unasked,
    /// Sends other bytes than the hash says.
    WrongBytes,
    /// Takes requests and never answers; the driver gives up after a while.
    Silent,
}

pub struct Device {
    pub key: SigningKey,
    pub writer: Writer,
    pub engine: Engine,
    pub store: Store,
    pub manners: Manners,
    pub problems: Vec<Problem>,
    /// Everything asked for: when, of whom, how much, whether ahead.
    pub requests: Vec<(u64, usize, ObjectsRequest)>,
    /// Every join, in order.
    pub joins: Vec<(Writer, u64)>,
    /// How many states were staged.
    pub staged: usize,
    /// Every reconciliation that it began: when, and with whom.
    pub reconciliations: Vec<(u64, usize)>,
    pub tree: BTreeMap<u32, Vec<Vec<u8>>>,
    /// Further writers that its states have taken in.
    pub padding: Vec<Writer>,
    /// Whether the first scan is done when an engine begins.
    pub scanned: bool,
    /// Whether it has a folder.
    pub folder: bool,
    listed: BTreeMap<usize, Role>,
    life: u64,
    timer_ms: Option<u64>,
    /// What is asked for and not answered, with the request.
    flying: HashMap<Link, RequestId>,
    /// What this life's engine was told is stored.
    told: HashSet<Link>,
    cancelled: HashSet<RequestId>,
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

pub fn topic() -> TopicId {
    TopicId::derive("simulated", None)
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
        let devices = listed.into_iter().zip(&keys).enumerate().map(|(at, (listed, key))| {
            let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
            let writer = Writer { device, incarnation: Incarnation::new(1) };
            let mut listed = listed;
            listed.remove(&at);
            Device {
                key: key.clone(),
                writer,
                engine: engine(writer, &keys, &listed, &Store::default(), (true, true, at as u64)),
                store: Store::default(),
                manners: Manners::Honest,
                problems: Vec::new(),
                requests: Vec::new(),
                joins: Vec::new(),
                staged: 0,
                reconciliations: Vec::new(),
                tree: BTreeMap::new(),
                padding: Vec::new(),
                scanned: true,
                folder: true,
                listed,
                life: 0,
                timer_ms: None,
                flying: HashMap::new(),
                told: HashSet::new(),
                cancelled: HashSet::new(),
            }
        });
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

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(&epoch) = self.connected.get(&pair(from, to)) else { return };
        let bytes = message.encode();
        assert!(bytes.len() <= MAX_FRAME_BYTES);
        assert_eq!(Message::decode(&bytes).as_ref(), Ok(&message));
        self.sent.push(Sent { at_ms: self.now_ms, from, to, bytes: bytes.len(), message });
        // In order on a stream, but not between streams.
        let last_ms = self.last_arrival.get(&(from, to)).copied().unwrap_or(0);
        let at_ms = self.delay(self.weather.delay_ms).max(last_ms);
        self.last_arrival.insert((from, to), at_ms);
        self.schedule(at_ms, Event::Message { from, to, epoch, bytes });
    }

    /// Announcements reach everybody whom connections reach, unless they are lost.
    fn gossip(&mut self, from: usize, announcement: &Announcement) {
        let bytes = announcement.encode();
        assert!(bytes.len() <= MAX_ANNOUNCEMENT_BYTES);
        let mut reached = BTreeSet::from([from]);
        loop {
            let more: Vec<_> = self
                .connected
                .keys()
                .flat_map(|&(a, b)| [(a, b), (b, a)])
                .filter(|(a, b)| reached.contains(a) && !reached.contains(b))
                .map(|(_, b)| b)
                .collect();
            if more.is_empty() {
                break;
            }
            reached.extend(more);
        }
        for to in reached.into_iter().filter(|&to| to != from) {
            if self.dice.below(1000) >= self.weather.gossip_lost {
                let at_ms = self.delay(self.weather.delay_ms);
                self.schedule(at_ms, Event::Gossip { from, to, bytes: bytes.clone() });
            }
        }
    }

    /// After a round trip both know what the other's joined heads reach and theirs do not, as the
    /// real thing finds it.
    fn reconcile(&mut self, at: usize, with: usize) {
        let now_ms = self.now_ms;
        self.devices[at].reconciliations.push((now_ms, with));
        let Some(&epoch) = self.connected.get(&pair(at, with)) else {
            panic!("a reconciliation with somebody who is not connected")
        };
        let at_ms = now_ms + 2 * self.weather.delay_ms.1;
        let sets = [at, with].map(|at| self.devices[at].store.reached());
        for (place, (to, from)) in [(at, with), (with, at)].into_iter().enumerate() {
            let links: Vec<Link> = sets[1 - place].difference(&sets[place]).copied().collect();
            let (peer, bytes) = (self.id(from), 500 + 40 * links.len() as u64);
            let reconciliation = Reconciliation {
                round_trips: if place == 0 { 2 } else { 0 },
                sent_bytes: 500,
                received_bytes: bytes,
                complete: true,
            };
            for input in
                [Input::Lacking { peer, links }, Input::Reconciled { peer, reconciliation }]
            {
                let input = Box::new(input);
                self.schedule(at_ms, Event::Reconciled { at: to, with: from, epoch, input });
            }
        }
    }

    fn ask(&mut self, at: usize, of: usize, id: RequestId, mut request: ObjectsRequest) {
        let device = &mut self.devices[at];
        let indexed = &device.store.indexed;
        let (found, links) = request.links.into_iter().partition(|link| indexed.contains(link));
        request.links = links;
        let life = device.life;
        if !Vec::is_empty(&found) {
            self.tell(at, life, self.now_ms, Input::Found { links: found });
        }
        if request.links.is_empty() {
            let missing = Vec::new();
            return self.tell(at, life, self.now_ms, Input::RequestEnded { request: id, missing });
        }
        let device = &mut self.devices[at];
        for &link in &request.links {
            let twice = device.flying.insert(link, id);
            assert_eq!(twice, None, "{link:?} is asked for twice at once");
            assert!(!device.told.contains(&link), "{link:?} was stored and is asked for");
        }
        let bytes = request.encode();
        assert!(bytes.len() <= MAX_REQUEST_BYTES);
        assert_eq!(ObjectsRequest::decode(&bytes).as_ref(), Ok(&request));
        device.requests.push((self.now_ms, of, request));
        let at_ms = self.delay(self.weather.delay_ms);
        self.schedule(at_ms, Event::Ask { at: of, from: at, life, id, bytes });
    }

    /// A provider's answer, as it looks when the request arrives.
    fn answer(&mut self, at: usize, to: usize, life: u64, id: RequestId, bytes: &[u8]) {
        let request = ObjectsRequest::decode(bytes).unwrap();
        let manners = self.devices[at].manners;
        if !self.connected.contains_key(&pair(at, to)) || manners == Manners::Silent {
            let broken = Input::RequestFailed { request: id, failure: Failure::Broken };
            return self.tell(to, life, self.now_ms + 5_000, broken);
        }
        let store = &self.devices[at].store;
        let serve = |link| store.serve(link).filter(|_| manners != Manners::HasNothing);
        let mut items: Vec<(Link, Bytes)> = Vec::new();
        let mut missing = Vec::new();
        for &link in &request.links {
            match serve(link) {
                Some(bytes) => items.push((link, bytes.clone())),
                None => missing.push(link),
            }
        }
        if request.ahead {
            let mut sent: HashSet<Link> = request.links.iter().copied().collect();
            let mut next = 0;
            while next < items.len() {
                let (link, bytes) = &items[next];
                let links = links_of(*link, bytes);
                let ahead = links.into_iter().filter(|link| link.kind.is_structured());
                for link in ahead.filter(|link| sent.insert(*link)).collect::<Vec<_>>() {
                    items.extend(serve(link).map(|bytes| (link, bytes.clone())));
                }
                next += 1;
            }
        }
        if manners == Manners::Unasked {
            let object = Object::new(ObjectKind::Raw, b"have this".to_vec());
            items.insert(0, (object.link(), object.into_bytes()));
        }
        if manners == Manners::WrongBytes {
            for (_, bytes) in &mut items {
                *bytes = Bytes::from_static(b"something else");
            }
        }
        let mut check = AnswerCheck::new(&request);
        let is_good = items.iter().all(|(link, bytes)| {
            let length = u32::try_from(bytes.len()).unwrap();
            check.expect(&ItemHeader::Present { link: *link, length }).is_ok()
                && Object::new(link.kind, bytes.clone()).link() == *link
        });
        if !is_good {
            let violation = Input::RequestFailed { request: id, failure: Failure::Violation };
            return self.tell(to, life, self.now_ms + 1, violation);
        }
        let mut at_ms = self.delay(self.weather.delay_ms);
        while !items.is_empty() {
            let some: Vec<_> = items.drain(..items.len().min(16)).collect();
            let length: usize = some.iter().map(|(_, bytes)| bytes.len()).sum();
            at_ms += length as u64 * self.weather.slowness / 1000;
            self.schedule(at_ms, Event::Items { at: to, life, id, items: some });
        }
        at_ms += self.weather.store_ms.1;
        self.tell(to, life, at_ms, Input::RequestEnded { request: id, missing });
    }

    fn tell(&mut self, at: usize, life: u64, at_ms: u64, input: Input) {
        self.schedule(at_ms, Event::Tell { at, life, input: Box::new(input) });
    }

    fn receive(&mut self, at: usize, id: RequestId, items: &[(Link, Bytes)]) {
        let device = &mut self.devices[at];
        if device.cancelled.contains(&id) {
            return;
        }
        let (life, is_full) = (device.life, device.store.is_full);
        let input = if is_full {
            device.cancelled.insert(id);
            let step = StoreStep::Receive { request: id };
            Input::StoreFailed { step, reason: "no space".to_owned() }
        } else {
            let next = device.store.receive(items);
            let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap();
            let received = items.iter().map(|(link, bytes)| (*link, length(bytes))).collect();
            Input::Stored { request: id, received, next, rejected: Vec::new() }
        };
        // What the store found is old by the time it is told.
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, input);
    }

    fn step(&mut self, at: usize, step: Effect) {
        let device = &mut self.devices[at];
        let (life, is_full) = (device.life, device.store.is_full);
        let input = match step {
            Effect::Lookup { writer, revision, links } => {
                let absent = device.store.missing(&links, usize::MAX);
                Input::LookedUp { writer, revision, absent }
            }
            Effect::Stage { state, .. } if is_full => Input::StoreFailed {
                step: StoreStep::Stage { writer: state.state().writer },
                reason: "no space".to_owned(),
            },
            Effect::Join { writer } if is_full => Input::StoreFailed {
                step: StoreStep::Join { writer },
                reason: "no space".to_owned(),
            },
            Effect::Abandon { writer } if is_full => Input::StoreFailed {
                step: StoreStep::Abandon { writer },
                reason: "no space".to_owned(),
            },
            Effect::Abandon { writer } => {
                device.store.staged.remove(&writer);
                Input::Abandoned { writer }
            }
            Effect::Stage { state, replacing } => {
                device.staged += 1;
                let outcome = device.store.stage(&state, replacing);
                Input::Staged { writer: state.state().writer, outcome }
            }
            Effect::Join { writer } => {
                let outcome = device.store.join(writer);
                if let ark_sync::JoinOutcome::Joined(state) = &outcome {
                    device.joins.push((writer, state.state().revision));
                }
                Input::JoinResult { writer, outcome }
            }
            other => panic!("no step of the store: {other:?}"),
        };
        let at_ms = self.now_ms + self.dice.below(self.weather.store_ms.1);
        self.tell(at, life, at_ms, input);
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
        let device = &mut self.devices[at];
        device.life += 1;
        device.timer_ms = None;
        device.flying.clear();
        device.cancelled.clear();
        device.told.clear();
        let chance = (device.scanned, device.folder, self.dice.below(u64::MAX));
        device.engine = engine(device.writer, &keys, &device.listed, &device.store, chance);
        self.feed(at, Input::Timer);
    }

    /// Publishes the tree as it is now, with all that was joined taken in.
    pub fn publish(&mut self, at: usize) -> SignedState {
        let device = &mut self.devices[at];
        let revision = device.store.joined.get(&device.writer).map_or(0, |it| it.state().revision);
        let sequence = revision + 1;
        let (snapshot, objects) = build(&device.tree, &device.writer, sequence);
        let mut vector = Vector::empty();
        for joined in device.store.joined.values() {
            vector.take_in_all(&joined.state().vector);
        }
        for &writer in &device.padding {
            vector.take_in(Dot { writer, sequence: 1 });
        }
        vector.take_in(Dot { writer: device.writer, sequence });
        let state = State {
            topic: topic(),
            kind: RepoKind::Folder,
            writer: device.writer,
            revision: sequence,
            heads: vec![Head { id: snapshot.id, sequence }],
            vector,
            held: Vec::new(),
        };
        let state = SignedState::sign(state, &device.key).unwrap();
        let new = device.store.put(objects);
        device.store.joined.insert(device.writer, state.clone());
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

fn engine(
    writer: Writer,
    keys: &[SigningKey],
    listed: &BTreeMap<usize, Role>,
    store: &Store,
    (scanned, folder, seed): (bool, bool, u64),
) -> Engine {
    let device = |at: usize| DeviceId::from_bytes(keys[at].verifying_key().to_bytes());
    let options = EngineOptions {
        topic: topic(),
        kind: RepoKind::Folder,
        writer,
        folder,
        remotes: listed
            .iter()
            .map(|(&at, &role)| (device(at), Remote { name: format!("device {at}"), role }))
            .collect(),
        seed,
    };
    let known = Known {
        joined: store.joined.values().cloned().collect(),
        staged: store.staged.values().cloned().collect(),
        pending: !store.pending.is_empty(),
        applied: BTreeMap::new(),
        scanned,
    };
    Engine::new(options, known)
}

/// The objects of a tree, children first, and the snapshot's link.
fn build(
    tree: &BTreeMap<u32, Vec<Vec<u8>>>,
    writer: &Writer,
    sequence: u64,
) -> (Link, Vec<Object>) {
    let mut objects = Vec::new();
    let mut directories = Vec::new();
    for contents in tree.values() {
        let mut links = Vec::new();
        for content in contents {
            // Contents over 2,000 bytes are chunked, so that there are file nodes too.
            let chunks: Vec<_> = content
                .chunks(2_000)
                .map(|chunk| Object::new(ObjectKind::Raw, chunk.to_vec()))
                .collect();
            let parts: Vec<_> = chunks.iter().map(Object::link).collect();
            objects.extend(chunks);
            if let [part] = parts[..] {
                links.push(part);
            } else {
                let file = structured(ObjectKind::File, &parts, b"");
                links.push(file.link());
                objects.push(file);
            }
        }
        let directory = structured(ObjectKind::Directory, &links, b"");
        directories.push(directory.link());
        objects.push(directory);
    }
    let root = structured(ObjectKind::Directory, &directories, b"root");
    let salt = [writer.device.as_bytes().as_slice(), &sequence.to_le_bytes()].concat();
    let snapshot = structured(ObjectKind::Snapshot, &[root.link()], &salt);
    let link = snapshot.link();
    objects.extend([root, snapshot]);
    (link, objects)
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
