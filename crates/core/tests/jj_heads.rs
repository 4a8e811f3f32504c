//! The heads of a jj repo over random histories of several writers, who learn of each other's
//! states in any order: whoever has the same states has the same heads, and at rest a head is gone
//! if and only if somebody dropped it who had it.

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    DeviceId, Dot, Head, Incarnation, ObjectId, RepoKind, Said, SignedState, State, TopicId,
    Vector, Writer, heads, take_over, update_heads,
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

/// What happens: numbers, taken modulo what there is to choose from.
#[derive(Clone, Debug)]
enum Step {
    /// A device changes heads: of those that it sees it replaces those whose bits are set.
    Act { device: usize, replaced: u8, new: New },
    /// A device makes the heads of another its own.
    TakeOver { device: usize, gone: usize },
    /// A device joins a state that was ever published, unless it has a newer one of its writer.
    Join { device: usize, state: usize },
}

/// What a device makes a head.
#[derive(Clone, Debug)]
enum New {
    /// An operation that nobody has.
    Fresh,
    /// The same that every device makes of the heads that it sees.
    Merge,
    /// One that was a head at some time.
    Known(usize),
    Nothing,
}

fn steps(devices: usize) -> impl Strategy<Value = Vec<Step>> {
    let new = prop_oneof![
        4 => Just(New::Fresh),
        2 => Just(New::Merge),
        1 => any::<usize>().prop_map(New::Known),
        1 => Just(New::Nothing),
    ];
    let act = (0..devices, any::<u8>(), new).prop_map(|(device, replaced, new)| Step::Act {
        device,
        replaced,
        new,
    });
    // Mostly what is new: of all that was ever published nearly everything is old.
    let state = prop_oneof![3 => 0..6_usize, 1 => any::<usize>()];
    let join = (0..devices, state).prop_map(|(device, state)| Step::Join { device, state });
    let take_over =
        (0..devices, 0..devices).prop_map(|(device, gone)| Step::TakeOver { device, gone });
    proptest::collection::vec(prop_oneof![6 => act, 9 => join, 1 => take_over], 1..80)
}

/// What devices have, and what was done to each dot.
struct World {
    keys: Vec<SigningKey>,
    joined: Vec<BTreeMap<Writer, SignedState>>,
    published: Vec<SignedState>,
    added: BTreeMap<Dot, ObjectId>,
    dropped: BTreeSet<Dot>,
}

impl World {
    fn new(devices: u8) -> Self {
        let keys: Vec<_> = (1..=devices).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
        Self {
            joined: vec![BTreeMap::new(); keys.len()],
            keys,
            published: Vec::new(),
            added: BTreeMap::new(),
            dropped: BTreeSet::new(),
        }
    }

    fn writer(&self, device: usize) -> Writer {
        let device = DeviceId::from_bytes(self.keys[device].verifying_key().to_bytes());
        Writer { device, incarnation: Incarnation::new(1) }
    }

    /// The heads that a device sees: their ids with their dots.
    fn seen(&self, device: usize) -> BTreeMap<ObjectId, Vec<Dot>> {
        let states = self.joined[device].values().map(SignedState::state);
        heads(states).into_iter().map(|head| (head.id, head.dots)).collect()
    }

    fn act(&mut self, device: usize, replaced: u8, new: &New) {
        let writer = self.writer(device);
        let revision = self.joined[device].get(&writer).map_or(0, |it| it.state().revision) + 1;
        let dot = Dot { writer, sequence: revision };
        let before = self.seen(device);
        let is_replaced =
            |(at, id): (usize, &ObjectId)| (replaced >> (at % 8) & 1 == 1).then_some(*id);
        let mut old: Vec<ObjectId> = before.keys().enumerate().filter_map(is_replaced).collect();
        // Somebody may name one that is no head, or not here.
        old.extend(self.added.values().next().filter(|_| replaced >= 128));
        let new = match new {
            New::Fresh => Some(ObjectId::of(format!("{dot:?}").as_bytes())),
            New::Merge => {
                let ids: Vec<u8> = before.keys().flat_map(|id| *id.as_bytes()).collect();
                Some(ObjectId::of(&ids))
            }
            New::Known(at) => {
                let ids: Vec<&ObjectId> = self.added.values().collect();
                (!ids.is_empty()).then(|| *ids[at % ids.len()])
            }
            New::Nothing => None,
        };
        let states = self.joined[device].values().map(SignedState::state);
        let said = update_heads(states, dot, &old, new);

        let mut expected = before.clone();
        expected.retain(|id, _| !old.contains(id) || Some(*id) == new);
        if let Some(new) = new {
            expected.entry(new).or_insert_with(|| vec![dot]);
        }
        assert_eq!(said.is_some(), expected != before);
        let Some(said) = said else { return };
        let dropped = before.iter().filter(|(id, _)| !expected.contains_key(*id));
        self.dropped.extend(dropped.flat_map(|(_, dots)| dots));
        self.publish(device, dot, said);
        assert_eq!(self.seen(device), expected, "it did something else than it was asked to");
    }

    /// A device says something.
    fn publish(&mut self, device: usize, dot: Dot, said: Said) {
        let (writer, revision) = (dot.writer, dot.sequence);
        let new = said.heads.iter().filter(|head| head.sequence == revision);
        self.added.extend(new.map(|head| (dot, head.id)));
        let (topic, kind) = (TopicId::derive("random", None), RepoKind::Jj);
        let (heads, vector, held) = (said.heads, said.vector, said.held);
        let state = State { topic, kind, writer, revision, heads, vector, held };
        let signed = SignedState::sign(state, &self.keys[device]).expect("what is said is valid");
        self.joined[device].insert(writer, signed.clone());
        self.published.push(signed);
    }

    fn take_over(&mut self, device: usize, gone: usize) {
        let (writer, gone) = (self.writer(device), self.writer(gone));
        if writer == gone {
            return;
        }
        let before = self.seen(device);
        let mut taken = 0;
        loop {
            let revision = self.joined[device].get(&writer).map_or(0, |it| it.state().revision) + 1;
            let dot = Dot { writer, sequence: revision };
            let states = self.joined[device].values().map(SignedState::state);
            let Some(said) = take_over(states, dot, |writer| writer == gone) else { break };
            self.publish(device, dot, said);
            taken += 1;
        }
        let of_gone = |dots: &&Vec<Dot>| dots.iter().any(|dot| dot.writer == gone);
        assert_eq!(before.values().filter(of_gone).count(), taken);
        let after = self.seen(device);
        assert!(before.keys().eq(after.keys()), "no head came or went");
        assert!(!after.values().any(|dots| of_gone(&dots)));
        let dots = before.values().flatten().filter(|dot| dot.writer == gone);
        self.dropped.extend(dots);
    }

    /// Joins the state that was published so many states ago.
    fn join(&mut self, device: usize, ago: usize) {
        let count = self.published.len();
        if count == 0 {
            return;
        }
        let state = self.published[count - 1 - ago % count].clone();
        self.take(device, state);
    }

    fn take(&mut self, device: usize, state: SignedState) {
        let writer = state.state().writer;
        let joined = &mut self.joined[device];
        if joined.get(&writer).is_none_or(|known| state.replaces(known)) {
            joined.insert(writer, state);
        }
    }

    fn play(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Act { device, replaced, new } => self.act(*device, *replaced, new),
                Step::TakeOver { device, gone } => self.take_over(*device, *gone),
                Step::Join { device, state } => self.join(*device, *state),
            }
        }
    }

    /// Everybody gets everything, each in an order of its own.
    fn come_to_rest(&mut self) {
        let published = self.published.clone();
        for device in 0..self.keys.len() {
            let shift = device * 7 % published.len().max(1);
            for state in published[shift..].iter().chain(&published[..shift]) {
                self.take(device, state.clone());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_head_goes_only_where_somebody_drops_it_who_had_it(steps in steps(4)) {
        let mut world = World::new(4);
        world.play(&steps);
        world.come_to_rest();
        let mut left: BTreeMap<ObjectId, Vec<Dot>> = BTreeMap::new();
        for (dot, id) in world.added.iter().filter(|(dot, _)| !world.dropped.contains(dot)) {
            left.entry(*id).or_default().push(*dot);
        }
        for device in 0..4 {
            prop_assert_eq!(&world.seen(device), &left);
            // What it says next is of these and no others: nothing that is gone is held for ever.
            let dot = Dot { writer: world.writer(device), sequence: 1_000 };
            let states = world.joined[device].values().map(SignedState::state);
            let said = update_heads(states, dot, &[], Some(ObjectId::of(b"next"))).unwrap();
            let own = said.heads.iter().map(|head| Dot { sequence: head.sequence, ..dot });
            let said: BTreeSet<Dot> = own.chain(said.held).collect();
            let left: BTreeSet<Dot> = left.values().flatten().copied().chain([dot]).collect();
            prop_assert_eq!(said, left);
        }
    }
}

fn single(world: &World, device: usize) -> ObjectId {
    let seen = world.seen(device);
    assert_eq!(seen.len(), 1, "{seen:?}");
    *seen.keys().next().unwrap()
}

/// Two who make the same merge have one head, and who goes on from it has one.
#[test]
fn a_merge_that_two_make_is_one_head() {
    let mut world = World::new(3);
    for device in 0..2 {
        world.act(device, 0, &New::Fresh);
    }
    world.come_to_rest();
    assert_eq!(world.seen(2).len(), 2);
    for device in 0..2 {
        world.act(device, u8::MAX, &New::Merge);
    }
    world.come_to_rest();
    let merge = single(&world, 2);
    assert_eq!(world.seen(2)[&merge].len(), 2, "each of them made it one");
    world.act(2, u8::MAX, &New::Fresh);
    world.come_to_rest();
    assert_eq!(single(&world, 0), single(&world, 1));
    assert_ne!(single(&world, 0), merge);
}

/// What one only heard of is held, though its writer's state is not here: nobody drops it so.
#[test]
fn what_another_holds_is_not_dropped_by_who_never_had_it() {
    let mut world = World::new(3);
    world.act(0, 0, &New::Fresh);
    let (first, first_id) = (world.published[0].clone(), single(&world, 0));
    world.take(1, first);
    world.act(1, 0, &New::Fresh);
    // The last one joins the second's alone, and goes on from that.
    let second = world.published[1].clone();
    world.take(2, second);
    world.act(2, u8::MAX, &New::Fresh);
    let third = world.published[2].state().clone();
    let held: Vec<Dot> = world.published[0].state().head_dots().collect();
    assert_eq!(third.held, held);
    world.come_to_rest();
    assert!(world.seen(1).contains_key(&first_id));
    assert_eq!(world.seen(1).len(), 2);
    let vector: Vector = [0, 1, 2].map(|device| (world.writer(device), 1)).into_iter().collect();
    assert_eq!(third.vector, vector);
}

/// What was dropped stays so, though its writer, who does not know it, says more.
#[test]
fn what_was_dropped_does_not_come_back() {
    let mut world = World::new(2);
    world.act(0, 0, &New::Fresh);
    world.come_to_rest();
    world.act(1, u8::MAX, &New::Fresh);
    world.act(0, 0, &New::Fresh);
    let first = Head { ..world.published[0].state().heads[0] };
    assert!(world.published[2].state().heads.contains(&first), "it does not know better");
    world.come_to_rest();
    assert!(!world.seen(0).contains_key(&first.id));
    assert_eq!(world.seen(0).len(), 2);
    // The next that it says lists it no more.
    world.act(0, 0, &New::Fresh);
    assert!(!world.published[3].state().heads.contains(&first));
}
