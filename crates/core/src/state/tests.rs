//! States: what is signed is read back, what breaks a rule is refused, and heads are what the
//! acts of all writers leave.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::id::{DeviceId, Incarnation, MAX_WRITERS};

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn writer(n: u8) -> Writer {
    let device = DeviceId::from_bytes(key(n).verifying_key().to_bytes());
    Writer { device, incarnation: Incarnation::new(u64::from(n)) }
}

fn dot(n: u8, sequence: u64) -> Dot {
    Dot { writer: writer(n), sequence }
}

fn id(text: &str) -> ObjectId {
    ObjectId::of(text.as_bytes())
}

fn vector(dots: &[(u8, u64)]) -> Vector {
    dots.iter().map(|&(n, sequence)| (writer(n), sequence)).collect()
}

fn folder(n: u8, head: Option<u64>, taken_in: &[(u8, u64)]) -> State {
    State {
        topic: TopicId::derive("test", None),
        kind: RepoKind::Folder,
        writer: writer(n),
        revision: 1,
        heads: head.iter().map(|&sequence| Head { id: id("head"), sequence }).collect(),
        vector: vector(taken_in),
        held: Vec::new(),
    }
}

fn jj(n: u8, heads: &[(&str, u64)], taken_in: &[(u8, u64)], held: &[(u8, u64)]) -> State {
    State {
        kind: RepoKind::Jj,
        heads: heads.iter().map(|&(name, sequence)| Head { id: id(name), sequence }).collect(),
        held: held.iter().map(|&(n, sequence)| dot(n, sequence)).collect(),
        ..folder(n, None, taken_in)
    }
}

/// Signs whatever is in `wire`, as a hostile writer may.
fn forge(wire: &Wire, by: u8) -> Vec<u8> {
    sign_raw(&[&HEADER[..], &codec::archive(wire)[..]].concat(), by)
}

fn sign_raw(body: &[u8], by: u8) -> Vec<u8> {
    let signature = key(by).sign(&[SIGNATURE_CONTEXT, body].concat());
    [&signature.to_bytes()[..], body].concat()
}

#[test]
fn a_signed_state_is_read_back_verbatim() {
    let folder = folder(1, Some(3), &[(1, 3), (2, 9)]);
    let jj = jj(2, &[("a", 4), ("b", 6)], &[(1, 7), (2, 6), (3, 1)], &[(1, 5), (1, 7), (3, 1)]);
    for (state, by) in [(folder, 1), (jj, 2)] {
        let signed = SignedState::sign(state.clone(), &key(by)).unwrap();
        let read = SignedState::decode(signed.bytes()).unwrap();
        let held = {
            let mut held = state.held.clone();
            held.sort_unstable();
            held
        };
        assert_eq!(read.state(), &State { held, ..state });
        assert_eq!((read.bytes(), read.hash()), (signed.bytes(), signed.hash()));
        assert_eq!(signed.hash(), ObjectId::of(signed.bytes()));
    }
}

#[test]
fn what_breaks_a_rule_is_refused_though_signed() {
    let good = folder(1, Some(3), &[(1, 3), (2, 9)]).to_wire();
    assert!(SignedState::decode(&forge(&good, 1)).is_ok());
    let good_jj = jj(1, &[("a", 2), ("b", 3)], &[(1, 3), (2, 9)], &[(2, 8), (2, 9)]).to_wire();
    assert!(SignedState::decode(&forge(&good_jj, 1)).is_ok());
    let head = |name, sequence| Head { id: id(name), sequence };

    let folders: [fn(&mut Wire); 8] = [
        |wire| wire.kind = 2,
        |wire| wire.revision = 0,
        |wire| wire.heads.push(Head { id: id("second"), sequence: 4 }),
        |wire| wire.held.push(dot(2, 9)),
        |wire| wire.heads.clear(),
        |wire| wire.heads[0].sequence = 4,
        |wire| wire.heads[0].sequence = 2,
        |wire| wire.vector.reverse(),
    ];
    for (case, broken) in folders.into_iter().enumerate() {
        let mut wire = folder(1, Some(3), &[(1, 3), (2, 9)]).to_wire();
        broken(&mut wire);
        let error = SignedState::decode(&forge(&wire, 1)).expect_err(&format!("case {case}"));
        assert!(matches!(error, DecodeError::State { .. }), "case {case}: {error}");
    }

    let heads = good_jj.heads.clone();
    let cases: [(&str, Vec<Head>, Vec<Dot>); 9] = [
        ("out of order", vec![head("b", 3), head("a", 2)], vec![]),
        ("one sequence twice", vec![head("a", 3), head("b", 3)], vec![]),
        ("one id twice", vec![head("a", 2), head("a", 3)], vec![]),
        ("sequence 0", vec![head("a", 0)], vec![]),
        ("not taken in", vec![head("a", 4)], vec![]),
        ("held out of order", heads.clone(), vec![dot(2, 9), dot(2, 8)]),
        ("held twice", heads.clone(), vec![dot(2, 9), dot(2, 9)]),
        ("held of its own", heads.clone(), vec![dot(1, 1)]),
        ("held not taken in", heads, vec![dot(2, 10)]),
    ];
    for (what, heads, held) in cases {
        let mut wire = jj(1, &[], &[(1, 3), (2, 9)], &[]).to_wire();
        (wire.heads, wire.held) = (heads, held);
        assert!(SignedState::decode(&forge(&wire, 1)).is_err(), "{what}");
    }
}

#[test]
fn counts_are_bounded() {
    let mut wire = jj(1, &[], &[(1, 2_000)], &[]).to_wire();
    let heads = |count: u64| -> Vec<Head> {
        (1..=count).map(|n| Head { id: ObjectId::of(&n.to_le_bytes()), sequence: n }).collect()
    };
    wire.heads = heads(MAX_HEADS as u64);
    assert!(SignedState::decode(&forge(&wire, 1)).is_ok());
    wire.heads = heads(MAX_HEADS as u64 + 1);
    assert!(SignedState::decode(&forge(&wire, 1)).is_err());

    // The largest state that the rules allow stays below the bound on bytes.
    wire.heads = heads(MAX_HEADS as u64);
    let others = |count: usize| {
        let device = writer(2).device;
        let writer = move |n| Writer { device, incarnation: Incarnation::new(n as u64) };
        (0..count).map(move |n| Dot { writer: writer(n), sequence: u64::MAX })
    };
    let own = wire.vector[0];
    wire.vector = others(MAX_WRITERS - 1).chain([own]).collect();
    wire.vector.sort_unstable();
    wire.held =
        others(MAX_WRITERS - 1).chain([Dot { sequence: 5, ..others(1).next().unwrap() }]).collect();
    wire.held.sort_unstable();
    assert_eq!(wire.held.len(), MAX_HELD);
    let bytes = forge(&wire, 1);
    assert!(bytes.len() < MAX_STATE_BYTES, "{} bytes", bytes.len());
    assert!(SignedState::decode(&bytes).is_ok());

    wire.held.clear();
    wire.vector = others(MAX_WRITERS).chain([own]).collect();
    wire.vector.sort_unstable();
    assert!(SignedState::decode(&forge(&wire, 1)).is_err());
    assert!(SignedState::decode(&vec![0; MAX_STATE_BYTES + 1]).is_err());
}

#[test]
fn only_the_writers_device_signs() {
    let state = folder(1, Some(3), &[(1, 3)]);
    let wrong =
        |error| matches!(error, DecodeError::Signature { device } if device == writer(1).device);
    assert!(wrong(SignedState::sign(state.clone(), &key(2)).unwrap_err()));
    assert!(wrong(SignedState::decode(&forge(&state.to_wire(), 2)).unwrap_err()));
    // A signature over the same bytes without the context is another statement.
    let body = [&HEADER[..], &codec::archive(&state.to_wire())[..]].concat();
    let bytes = [&key(1).sign(&body).to_bytes()[..], &body[..]].concat();
    assert!(wrong(SignedState::decode(&bytes).unwrap_err()));
    // Neither another version nor anything after the end.
    let good = SignedState::sign(state, &key(1)).unwrap();
    let newer = [&[HEADER[0], 2][..], &body[2..]].concat();
    assert!(SignedState::decode(&sign_raw(&newer, 1)).is_err());
    assert!(SignedState::decode(&[good.bytes(), &[0][..]].concat()).is_err());
    assert!(SignedState::decode(&good.bytes()[..40]).is_err());
}

#[test]
fn what_cannot_be_read_is_not_signed() {
    assert!(SignedState::sign(folder(1, None, &[(2, 1)]), &key(1)).is_err());
    assert!(SignedState::sign(folder(1, Some(1), &[(1, 2)]), &key(1)).is_err());
    assert!(SignedState::sign(folder(1, None, &[]), &key(1)).is_ok());
}

#[test]
fn a_later_revision_replaces_and_the_greater_hash_decides_between_equals() {
    let revision = |revision, head| {
        SignedState::sign(State { revision, ..folder(1, Some(head), &[(1, head)]) }, &key(1))
            .unwrap()
    };
    let (first, second) = (revision(1, 9), revision(2, 3));
    assert!(second.replaces(&first) && !first.replaces(&second) && !first.replaces(&first));
    let (a, b) = (revision(3, 1), revision(3, 2));
    assert_eq!(a.replaces(&b), a.hash() > b.hash());
    assert_ne!(a.replaces(&b), b.replaces(&a));
}

#[test]
fn a_state_and_its_snapshot_say_the_same() {
    let state = folder(1, Some(3), &[(1, 3), (2, 9)]);
    let snapshot = Snapshot { root: id("root"), vector: state.vector.clone(), wall_time_ms: -5 };
    assert!(state.check_snapshot(&snapshot).is_ok());
    let other = Snapshot { vector: vector(&[(1, 3)]), ..snapshot };
    assert!(state.check_snapshot(&other).is_err());
}

#[test]
fn heads_of_equal_id_are_one_head_with_all_dots() {
    let first = jj(1, &[("x", 1), ("y", 2)], &[(1, 2)], &[]);
    let second = jj(2, &[("x", 1)], &[(2, 1)], &[]);
    let mut shared = vec![dot(1, 1), dot(2, 1)];
    shared.sort_unstable();
    let mut expected = vec![
        JoinedHead { id: id("x"), dots: shared },
        JoinedHead { id: id("y"), dots: vec![dot(1, 2)] },
    ];
    expected.sort_by(|a, b| a.dots.cmp(&b.dots));
    assert_eq!(heads([&first, &second]), expected);
    // Whoever drops one writer's dot of an id leaves the other's.
    let third = jj(3, &[], &[(1, 1)], &[]);
    let left = heads([&first, &second, &third]).into_iter().flat_map(|head| head.dots);
    assert_eq!(left.collect::<BTreeSet<_>>(), BTreeSet::from([dot(2, 1), dot(1, 2)]));
}

#[test]
fn a_head_stays_while_everyone_who_took_it_in_holds_it() {
    let a = jj(1, &[("x", 1)], &[(1, 1)], &[]);
    let holding = jj(2, &[], &[(1, 1)], &[(1, 1)]);
    let dropping = jj(3, &[], &[(1, 1)], &[]);
    assert_eq!(heads([&a, &holding]).len(), 1);
    assert_eq!(heads([&a, &holding, &dropping]), []);
    // Without its writer's state a held dot is no head: nobody here knows its id.
    assert_eq!(heads([&holding]), []);
}

proptest! {
    #[test]
    fn no_mutation_is_accepted(at: prop::sample::Index, with: u8) {
        let signed = SignedState::sign(folder(1, Some(3), &[(1, 3), (2, 9)]), &key(1)).unwrap();
        let mut bytes = signed.bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        prop_assert!(SignedState::decode(&bytes).is_err());
    }

    #[test]
    fn whatever_a_writer_signs_is_refused_or_canonical(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let state = jj(1, &[("a", 4), ("b", 6)], &[(1, 6), (2, 7)], &[(2, 5)]);
        let mut body = [&HEADER[..], &codec::archive(&state.to_wire())[..]].concat();
        for (at, with) in edits {
            let at = at.index(body.len());
            body[at] = with;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        if let Ok(decoded) = SignedState::decode(&sign_raw(&body, 1)) {
            let again = SignedState::sign(decoded.state().clone(), &key(1)).unwrap();
            prop_assert_eq!(again.bytes(), decoded.bytes());
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SignedState::decode(&bytes).is_err());
    }
}

mod histories {
    //! Writers that act on what they know, with partial and reordered exchange.

    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Clone)]
    pub(super) enum Step {
        /// A writer drops the heads at these places of its list, and adds one.
        Act { writer: u8, drop: u8, add: Option<u8> },
        /// A writer gets another's states: all, or the one at a place of its list.
        Exchange { from: u8, to: u8, only: Option<u8> },
    }

    pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
        let act = (0u8..4, any::<u8>(), prop::option::weighted(0.8, 0u8..6))
            .prop_map(|(writer, drop, add)| Step::Act { writer, drop, add });
        let exchange = (0u8..4, 0u8..4, prop::option::of(any::<u8>()))
            .prop_map(|(from, to, only)| Step::Exchange { from, to, only });
        prop::collection::vec(prop_oneof![act, exchange], 1..60)
    }

    type Known = BTreeMap<u8, State>;

    fn receive(known: &mut Known, n: u8, me: u8, state: &State) {
        let is_newer = known.get(&n).is_none_or(|old| old.revision < state.revision);
        if n != me && is_newer {
            known.insert(n, state.clone());
        }
    }

    fn exchange(devices: &mut [Known], from: u8, to: u8, only: Option<u8>) {
        let states = devices[usize::from(from)].clone();
        let chosen = only.map(|only| usize::from(only) % states.len().max(1));
        for (place, (&n, state)) in states.iter().enumerate() {
            if chosen.is_none_or(|chosen| chosen == place) {
                receive(&mut devices[usize::from(to)], n, to, state);
            }
        }
    }

    fn exchange_all(devices: &mut [Known]) {
        for _ in 0..2 {
            for (from, to) in (0..4).flat_map(|from| (0..4).map(move |to| (from, to))) {
                exchange(devices, from, to, None);
            }
        }
    }

    /// A writer's act in a jj repo, as DESIGN 1 has it. Returns the dots dropped and added.
    fn act(known: &mut Known, n: u8, drop: u8, add: Option<u8>) -> (Vec<Dot>, Option<Dot>) {
        let joined = heads(known.values());
        let is_dropped = |place: usize| drop >> (place % 8) & 1 == 1;
        let dropped: Vec<Dot> = joined
            .iter()
            .enumerate()
            .filter(|&(place, _)| is_dropped(place))
            .flat_map(|(_, head)| head.dots.clone())
            .collect();
        let old = known.get(&n);
        let mut taken_in = Vector::empty();
        for state in known.values() {
            taken_in.take_in_all(&state.vector);
        }
        let sequence = taken_in.get(writer(n)) + 1;
        let new_id = add.map(|name| id(&name.to_string()));
        let listed = |id| joined.iter().any(|head| head.id == id);
        let added = new_id.filter(|&id| !listed(id)).map(|id| Head { id, sequence });
        let alive = |dot: Dot| {
            !dropped.contains(&dot) && !known.values().any(|state| state.has_dropped(dot))
        };
        let own = old.into_iter().flat_map(|state| state.heads.iter().copied());
        let own = own.filter(|head| alive(Dot { writer: writer(n), sequence: head.sequence }));
        let dots = known.values().flat_map(|state| state.head_dots().chain(state.held.clone()));
        let others: BTreeSet<Dot> =
            dots.filter(|&dot| dot.writer != writer(n) && alive(dot)).collect();
        taken_in.take_in(dot(n, sequence));
        let state = State {
            revision: old.map_or(1, |state| state.revision + 1),
            heads: own.chain(added).collect(),
            vector: taken_in,
            held: others.into_iter().collect(),
            ..jj(n, &[], &[], &[])
        };
        state.validate().expect("an act makes a valid state");
        known.insert(n, state);
        (dropped, added.map(|head| dot(n, head.sequence)))
    }

    fn dots_of(known: &Known) -> BTreeSet<Dot> {
        heads(known.values()).into_iter().flat_map(|head| head.dots).collect()
    }

    /// After everyone has met everyone, the heads are exactly the dots that nobody dropped.
    pub(super) fn nothing_is_lost_or_comes_back(steps: Vec<Step>) {
        let mut devices = vec![Known::new(); 4];
        let mut alive = BTreeSet::new();
        for step in steps {
            match step {
                Step::Exchange { from, to, only } => exchange(&mut devices, from, to, only),
                Step::Act { writer, drop, add } => {
                    let (dropped, added) =
                        act(&mut devices[usize::from(writer)], writer, drop, add);
                    alive.extend(added);
                    alive.retain(|dot| !dropped.contains(dot));
                }
            }
        }
        exchange_all(&mut devices);
        for known in &devices {
            assert_eq!(dots_of(known), alive);
            let mut reversed: Vec<_> = known.values().collect();
            reversed.reverse();
            assert_eq!(heads(reversed), heads(known.values()));
        }
    }

    /// In a folder repo each act takes in every head: no state is ever without a head that has
    /// taken it in, and the heads are those of the flat model.
    pub(super) fn every_folder_state_is_in_a_head(steps: Vec<Step>) {
        let mut devices = vec![Known::new(); 4];
        for step in steps {
            match step {
                Step::Exchange { from, to, only } => exchange(&mut devices, from, to, only),
                Step::Act { writer: n, .. } => {
                    let known = &mut devices[usize::from(n)];
                    let mut vector = Vector::empty();
                    for head in heads(known.values()) {
                        let of = head.dots[0].writer;
                        let state = known.values().find(|state| state.writer == of);
                        vector.take_in_all(&state.unwrap().vector);
                    }
                    let sequence = vector.get(writer(n)) + 1;
                    vector.take_in(dot(n, sequence));
                    let name = format!("{n} {sequence}");
                    let heads = vec![Head { id: id(&name), sequence }];
                    let revision = sequence;
                    let state = State { revision, heads, vector, ..folder(n, None, &[]) };
                    state.validate().expect("an act makes a valid state");
                    known.insert(n, state);
                }
            }
            devices.iter().for_each(check_folder);
        }
    }

    fn check_folder(known: &Known) {
        let heads = dots_of(known);
        let head_states: Vec<_> = known
            .values()
            .filter(|state| state.head_dots().all(|dot| heads.contains(&dot)))
            .collect();
        for state in known.values() {
            let own = state.head_dots().next().unwrap();
            let taken = |other: &&State| other.writer != state.writer && other.vector.has(own);
            assert_eq!(heads.contains(&own), !known.values().any(|other| taken(&other)));
            assert!(head_states.iter().any(|head| head.vector.has_all(&state.vector)));
        }
    }
}

proptest! {
    #[test]
    fn heads_are_the_dots_that_nobody_dropped(steps in histories::steps()) {
        histories::nothing_is_lost_or_comes_back(steps);
    }

    #[test]
    fn a_folder_head_has_taken_in_every_state(steps in histories::steps()) {
        histories::every_folder_state_is_in_a_head(steps);
    }
}
