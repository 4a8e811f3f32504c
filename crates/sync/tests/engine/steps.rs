//! What the store says late, or otherwise than it was expected to.

use ark_core::{DeviceId, Head, Incarnation, Link, ObjectId, RepoKind, SignedState, State, Writer};
use ark_sync::{
    Effect, Engine, EngineOptions, Have, HaveEntry, Hello, Input, JoinOutcome, Known, MAX_WANTED,
    Message, PROTOCOL, Role, StageOutcome, StoreStep,
};
use ed25519_dalek::SigningKey;

use crate::world::topic;

/// An engine whose only remote is a puppet, and the remote's key.
struct Alone {
    engine: Engine,
    key: SigningKey,
    now_ms: u64,
}

fn writer(key: &SigningKey, incarnation: u64) -> Writer {
    let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
    Writer { device, incarnation: Incarnation::new(incarnation) }
}

impl Alone {
    fn new() -> Self {
        let (own, key) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let peer = writer(&key, 1).device;
        let options = EngineOptions {
            topic: topic(),
            kind: RepoKind::Folder,
            writer: writer(&own, 1),
            folder: true,
            remotes: [(peer, "puppet".to_owned())].into(),
            seed: 1,
        };
        let engine = Engine::new(options, Known { scanned: true, ..Known::default() });
        let mut alone = Self { engine, key, now_ms: 0 };
        alone.feed(Input::PeerConnected { peer });
        let (protocol, topic, kind) = (PROTOCOL, topic(), RepoKind::Folder);
        let hello = Hello { protocol, topic, kind, role: Role::Peer, folder: true, listed: vec![] };
        alone.say(Message::Hello(hello));
        alone
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.now_ms += 1;
        self.engine.handle(input, self.now_ms)
    }

    fn say(&mut self, message: Message) -> Vec<Effect> {
        let peer = writer(&self.key, 1).device;
        self.feed(Input::Message { peer, message })
    }

    /// A state of the remote; what its head is does not matter.
    fn state(&self, incarnation: u64, revision: u64) -> SignedState {
        let writer = writer(&self.key, incarnation);
        let vector = [(writer, revision)].into_iter().collect();
        let (topic, kind) = (topic(), RepoKind::Folder);
        let heads = vec![Head { id: ObjectId::of(&[]), sequence: revision }];
        let held = Vec::new();
        let state = State { topic, kind, writer, revision, heads, vector, held };
        SignedState::sign(state, &self.key).unwrap()
    }

    fn send(&mut self, state: &SignedState) -> Vec<Effect> {
        self.say(Message::States(vec![state.bytes().to_vec()]))
    }

    fn has_joined(&self, state: &SignedState) -> bool {
        let State { writer, revision, .. } = state.state();
        self.engine.view().durable.get(writer) == Some(revision)
    }
}

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
