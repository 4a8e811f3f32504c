//! What the store says late, or otherwise than it was expected to.

use ark_core::{DeviceId, Incarnation, Link, ObjectId, SignedState, Writer};
use ark_sync::{
    Effect, Have, HaveEntry, Input, JoinOutcome, MAX_WANTED, Message, Remote, Role, StageOutcome,
    StoreStep,
};
use ed25519_dalek::SigningKey;

use crate::alone::{Alone, remote, writer};

#[test]
fn a_failure_of_staging_that_is_told_late_forgets_no_join() {
    let mut alone = Alone::new();
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    assert_eq!(alone.send(&state), [Effect::Stage { state: state.clone(), replacing: false }]);
    let effects = alone.feed(Input::Staged { writer, outcome: StageOutcome::Complete });
    assert_eq!(effects, [Effect::Join { writer }]);
    let step = StoreStep::Stage { writer };
    alone.feed(Input::StoreFailed { step, reason: "a read".to_owned() });
    alone.feed(Input::JoinResult { writer, outcome: JoinOutcome::Joined(state.clone()) });
    assert!(alone.has_joined(&state));
    assert_eq!(alone.engine.view().staged, 0);
}

#[test]
fn what_the_store_has_joined_already_is_taken_in() {
    let mut alone = Alone::new();
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    alone.send(&state);
    let joined = Some(state.clone());
    alone.feed(Input::Staged { writer, outcome: StageOutcome::Old { joined } });
    assert!(alone.has_joined(&state));

    let newer = alone.state(1, 2);
    alone.send(&newer);
    alone.feed(Input::Staged { writer, outcome: StageOutcome::Complete });
    let joined = Some(newer.clone());
    alone.feed(Input::JoinResult { writer, outcome: JoinOutcome::NothingStaged { joined } });
    assert!(alone.has_joined(&newer));
    // What the store says of older ones takes nothing back, and does not go round in circles.
    let newest = alone.state(1, 3);
    alone.send(&newest);
    let outcome = StageOutcome::Old { joined: Some(state) };
    assert_eq!(alone.feed(Input::Staged { writer, outcome }), []);
    assert!(alone.has_joined(&newer));
    assert_eq!(alone.engine.view().staged, 0);
}

#[test]
fn what_did_not_fit_is_asked_for_before_the_line_is_idle() {
    let mut alone = Alone::new();
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    alone.send(&state);
    let link = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Link::raw(ObjectId::from_bytes(id))
    };
    let links: Vec<Link> = (0..MAX_WANTED + 5_000).map(link).collect();
    let (missing, rest) = links.split_at(MAX_WANTED);
    let is_asked = |effects: &[Effect]| effects.contains(&Effect::Join { writer });
    let outcome = StageOutcome::Staged { missing: missing.to_vec() };
    assert!(!is_asked(&alone.feed(Input::Staged { writer, outcome })));
    let found = |part: &[Link]| Input::Found { links: part.to_vec() };
    assert!(!is_asked(&alone.feed(found(&missing[10_000..]))));
    assert!(is_asked(&alone.feed(found(&missing[4_000..10_000]))), "while a few are wanted");
    assert!(alone.engine.view().requests > 0);
    // Once: while the store walks, what is wanted is fetched.
    assert!(!is_asked(&alone.feed(found(&missing[3_000..4_000]))));
    let outcome = JoinOutcome::Missing([&missing[..3_000], rest].concat());
    assert!(!is_asked(&alone.feed(Input::JoinResult { writer, outcome })));
    assert_eq!(alone.engine.view().missing.objects, 8_000);
    // That is all now: the next question is the last.
    assert!(!is_asked(&alone.feed(found(&missing[..3_000]))));
    assert!(!is_asked(&alone.feed(found(&rest[1..]))));
    assert!(is_asked(&alone.feed(found(&rest[..1]))));
    let outcome = JoinOutcome::Joined(state.clone());
    alone.feed(Input::JoinResult { writer, outcome });
    assert!(alone.has_joined(&state));
}

#[test]
fn one_device_does_not_use_up_the_writers_of_a_repo() {
    let mut alone = Alone::new();
    for incarnation in 1..=200 {
        let state = alone.state(incarnation, 1);
        let writer = state.state().writer;
        let effects = alone.send(&state);
        if incarnation <= 64 {
            assert_eq!(effects, [Effect::Stage { state: state.clone(), replacing: false }]);
            alone.feed(Input::Staged { writer, outcome: StageOutcome::Complete });
            let outcome = JoinOutcome::Joined(state.clone());
            alone.feed(Input::JoinResult { writer, outcome });
            assert!(alone.has_joined(&state));
        } else {
            assert!(effects.iter().all(|it| matches!(it, Effect::Problem(_))), "{effects:?}");
        }
    }
    let view = alone.engine.view();
    assert_eq!(view.durable.len(), 64);
    let [problem] = &view.problems[..] else { panic!("{:?}", view.problems) };
    assert!(problem.to_string().contains("is refused"));
    // It is not asked for either, and what is known goes on.
    let writers = (1..=200).map(|incarnation| HaveEntry {
        writer: writer(&alone.key, incarnation),
        durable: 1,
        applied: 0,
    });
    let have = Have { writers: writers.collect(), scanned: true };
    alone.say(Message::Have(have));
    alone.now_ms += 1_000;
    let effects = alone.feed(Input::Timer);
    assert!(
        !effects
            .iter()
            .any(|it| { matches!(it, Effect::Send { message: Message::WantStates(_), .. }) })
    );
    let newer = alone.state(7, 2);
    assert_eq!(alone.send(&newer), [Effect::Stage { state: newer, replacing: false }]);
}

#[test]
fn a_change_that_names_nothing_has_nothing_gone_through_again() {
    let mut alone = Alone::new();
    let absent = SigningKey::from_bytes(&[9; 32]);
    let entry = |revision| HaveEntry { writer: writer(&absent, 1), durable: revision, applied: 0 };
    let have = |writers| Have { writers, scanned: true };
    let asks = |alone: &mut Alone| {
        alone.now_ms += 1_000;
        let effects = alone.feed(Input::Timer);
        effects.iter().any(|effect| {
            matches!(effect, Effect::Send { message: Message::WantStates(of), .. }
                if *of == [writer(&absent, 1)])
        })
    };
    // Nobody lists its writer yet.
    alone.say(Message::Have(have(vec![entry(1)])));
    assert!(!asks(&mut alone));
    let devices = [&alone.key, &absent].map(|key| writer(key, 1).device);
    let remotes = devices.map(|device| (device, remote("one")));
    alone.feed(Input::Listed { remotes: remotes.into() });
    // The summary that was sent brings it.
    alone.say(Message::HaveChanged(have(Vec::new())));
    assert!(!asks(&mut alone), "what was said before is gone through again");
    alone.say(Message::HaveChanged(have(vec![entry(2)])));
    assert!(asks(&mut alone));
}

/// A pull of the remote's first state, which lacks its head and has asked for it; the writer.
fn pulling(alone: &mut Alone) -> Writer {
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    alone.send(&state);
    let missing = state.state().head_links();
    let effects = alone.feed(Input::Staged { writer, outcome: StageOutcome::Staged { missing } });
    assert!(effects.iter().any(is_request), "{effects:?}");
    writer
}

fn is_request(effect: &Effect) -> bool {
    matches!(effect, Effect::Request { .. })
}

/// Lists the remote of the test alone, in this role.
fn list(alone: &mut Alone, role: Role) -> Vec<Effect> {
    let one = Remote { role, ..remote("puppet") };
    let remotes = [(writer(&alone.key, 1).device, one)].into();
    alone.feed(Input::Listed { remotes })
}

#[test]
fn who_may_write_no_more_is_not_pulled_on_when_the_store_answers() {
    let head = Link::snapshot(ObjectId::of(&[]));
    let results: [fn(Writer) -> Input; 2] = [
        |writer| {
            let missing = (0..9_u8).map(|n| Link::raw(ObjectId::of(&[n]))).collect();
            Input::JoinResult { writer, outcome: JoinOutcome::Missing(missing) }
        },
        |writer| {
            let step = StoreStep::Join { writer };
            Input::StoreFailed { step, reason: "no space".to_owned() }
        },
    ];
    for result in results {
        let mut alone = Alone::warm();
        let writer = pulling(&mut alone);
        assert!(alone.feed(Input::Found { links: vec![head] }).contains(&Effect::Join { writer }));
        list(&mut alone, Role::Reader);
        let mut effects = alone.feed(result(writer));
        assert_eq!(alone.engine.view().staged, 0);
        // Where the store failed, it is told when its pause is over, once.
        alone.now_ms += 60_000;
        effects.extend(alone.feed(Input::Timer));
        let is_told = |it: &&Effect| **it == Effect::Abandon { writer };
        assert_eq!(effects.iter().filter(is_told).count(), 1, "{effects:?}");
        let is_at_work = |it: &Effect| matches!(it, Effect::Join { .. } | Effect::Request { .. });
        assert!(!effects.iter().any(is_at_work), "{effects:?}");
        assert_eq!(alone.engine.view().missing.objects, 0);
    }
    // What is whole is joined, and who may write again by then is pulled on.
    let mut alone = Alone::warm();
    let writer = pulling(&mut alone);
    alone.feed(Input::Found { links: vec![head] });
    list(&mut alone, Role::Reader);
    list(&mut alone, Role::Peer);
    let outcome = JoinOutcome::Missing(vec![Link::raw(ObjectId::of(&[1]))]);
    let effects = alone.feed(Input::JoinResult { writer, outcome });
    assert!(effects.iter().any(is_request), "{effects:?}");
}

#[test]
fn who_is_listed_again_is_taken_from_once_the_store_has_dropped_the_old() {
    let outcome = || StageOutcome::Staged { missing: vec![Link::raw(ObjectId::of(&[1]))] };
    let mut alone = Alone::warm();
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    alone.send(&state);
    // While it is being staged, nothing else is done for its writer.
    assert!(!list(&mut alone, Role::Reader).contains(&Effect::Abandon { writer }));
    let effects = alone.feed(Input::Staged { writer, outcome: outcome() });
    assert_eq!(effects, [Effect::Abandon { writer }]);
    list(&mut alone, Role::Peer);
    let newer = alone.state(1, 2);
    assert_eq!(alone.send(&newer), []);
    let effects = alone.feed(Input::Abandoned { writer });
    let is_summary = |it: &Effect| matches!(it, Effect::Send { message: Message::Summary(_), .. });
    assert!(effects.iter().any(is_summary), "{effects:?}");
    assert_eq!(alone.send(&newer), [Effect::Stage { state: newer, replacing: false }]);
    let effects = alone.feed(Input::Staged { writer, outcome: outcome() });
    assert!(effects.iter().any(is_request), "{effects:?}");
}

#[test]
fn a_pull_that_stands_still_holds_up_no_other() {
    let (mut alone, idle) = (Alone::new(), SigningKey::from_bytes(&[3; 32]));
    let theirs = alone.state(1, 1);
    let a = theirs.state().writer;
    let h = writer(&idle, 1);
    // What it makes has taken in the other's state, and it never delivers it.
    let mut covering = theirs.state().clone();
    covering.writer = h;
    covering.heads[0].id = ObjectId::of(b"never delivered");
    covering.vector = [(a, 1), (h, 1)].into_iter().collect();
    let covering = SignedState::sign(covering, &idle).unwrap();
    alone.feed(Input::PeerConnected { peer: h.device });
    let message = Alone::hello();
    alone.feed(Input::Message { peer: h.device, message });
    let message = Message::States(vec![covering.bytes().to_vec()]);
    alone.feed(Input::Message { peer: h.device, message });
    let missing = covering.state().head_links();
    let outcome = StageOutcome::Staged { missing };
    let effects = alone.feed(Input::Staged { writer: h, outcome });
    assert!(matches!(effects[..], [Effect::Request { peer, .. }] if peer == h.device));

    alone.send(&theirs);
    let outcome = StageOutcome::Staged { missing: theirs.state().head_links() };
    assert_eq!(alone.feed(Input::Staged { writer: a, outcome }), []);
    let wake_ms = alone.engine.wake_at().unwrap();
    assert!(wake_ms <= 11_000, "{wake_ms}");
    alone.now_ms = 11_000;
    let effects = alone.feed(Input::Timer);
    assert!(effects.contains(&Effect::Join { writer: a }), "{effects:?}");
    let outcome = JoinOutcome::Missing(theirs.state().head_links());
    let effects = alone.feed(Input::JoinResult { writer: a, outcome });
    assert!(
        matches!(effects[..], [Effect::Request { peer, .. }] if peer == a.device),
        "{effects:?}"
    );
}

#[test]
fn a_state_that_names_invented_writers_is_refused() {
    let mut alone = Alone::new();
    let own = writer(&alone.key, 1).device;
    let invented = |count: u16, of_own: bool| {
        (0..count).map(move |n| {
            let mut device = [7; 32];
            device[..2].copy_from_slice(&n.to_le_bytes());
            let device = if of_own { own } else { DeviceId::from_bytes(device) };
            (Writer { device, incarnation: Incarnation::new(100 + u64::from(n)) }, 1)
        })
    };
    for (revision, count, of_own) in [(1, 1_023, false), (2, 300, false), (3, 64, true)] {
        let state = alone.state_that_names(1, revision, invented(count, of_own));
        let effects = alone.send(&state);
        assert!(effects.iter().all(|it| matches!(it, Effect::Problem(_))), "{effects:?}");
    }
    let [problem] = &alone.engine.view().problems[..] else { panic!() };
    assert!(problem.to_string().contains("names more writers"), "{problem}");
    // A few are of devices that were dropped.
    let state = alone.state_that_names(1, 4, invented(200, false));
    assert_eq!(alone.send(&state), [Effect::Stage { state, replacing: false }]);
}
