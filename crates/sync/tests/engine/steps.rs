//! What the store says late, or otherwise than it was expected to.

use std::collections::{BTreeSet, VecDeque};

use ark_core::{DeviceId, Head, Incarnation, Link, ObjectId, RepoKind, SignedState, State, Writer};
use ark_sync::{
    Effect, Engine, EngineOptions, Have, HaveEntry, Hello, Input, JoinOutcome, Known, MAX_WANTED,
    Message, PROTOCOL, RequestId, Role, StageOutcome, StoreStep,
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

/// Answers a request with all that it asked for.
fn bring(alone: &mut Alone, request: RequestId, links: &[Link]) -> Vec<Effect> {
    let received = links.iter().map(|&link| (link, 100)).collect();
    let (next, rejected) = (Vec::new(), Vec::new());
    let mut effects = alone.feed(Input::Stored { request, received, next, rejected });
    effects.extend(alone.feed(Input::RequestEnded { request, missing: Vec::new() }));
    effects
}

#[test]
fn what_did_not_fit_is_asked_for_before_the_line_is_idle() {
    let mut alone = Alone::new();
    let state = alone.state(1, 1);
    let writer = state.state().writer;
    alone.send(&state);
    let link = |n: usize| Link::raw(ObjectId::of(&n.to_le_bytes()));
    let mut missing: BTreeSet<Link> = (0..2 * MAX_WANTED).map(link).collect();
    let named = |missing: &BTreeSet<Link>| missing.iter().copied().take(MAX_WANTED).collect();
    let outcome = StageOutcome::Staged { missing: named(&missing) };
    let mut effects = VecDeque::from(alone.feed(Input::Staged { writer, outcome }));
    let (mut joins, mut asked) = (0, None);
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Request { id, request, .. } => {
                for link in &request.links {
                    assert!(missing.remove(link), "asked for twice");
                }
                effects.extend(bring(&mut alone, id, &request.links));
            }
            Effect::Join { .. } if asked.is_none() => {
                joins += 1;
                asked = Some(JoinOutcome::Missing(named(&missing)));
                assert!(missing.is_empty() || alone.engine.view().missing.objects > 1_000);
            }
            other => panic!("{other:?}"),
        }
        // The store takes as long as a few requests do.
        if effects.len() < 4
            && let Some(outcome) = asked.take()
        {
            let outcome =
                if missing.is_empty() { JoinOutcome::Joined(state.clone()) } else { outcome };
            effects.extend(alone.feed(Input::JoinResult { writer, outcome }));
        }
    }
    assert!(alone.has_joined(&state));
    assert!(joins <= 4, "{joins} walks");
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
