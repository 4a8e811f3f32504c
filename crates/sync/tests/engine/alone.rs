//! An engine whose store and whose only connected remote are the test.

use ark_core::{DeviceId, Head, Incarnation, Link, ObjectId, RepoKind, SignedState, State, Writer};
use ark_sync::{
    Effect, Engine, EngineOptions, Hello, Input, Known, Message, PROTOCOL, Remote, RequestId, Role,
};
use ed25519_dalek::SigningKey;

use crate::world::topic;

/// An engine whose only remote is a puppet, and the remote's key.
pub struct Alone {
    pub engine: Engine,
    pub key: SigningKey,
    pub now_ms: u64,
    /// What was asked for and not answered.
    pub asked: Vec<(RequestId, Vec<Link>)>,
}

pub fn writer(key: &SigningKey, incarnation: u64) -> Writer {
    let device = DeviceId::from_bytes(key.verifying_key().to_bytes());
    Writer { device, incarnation: Incarnation::new(incarnation) }
}

pub fn remote(name: &str) -> Remote {
    Remote { name: name.to_owned(), role: Role::Peer }
}

/// A state of `key`, with these writers in its vector besides its own; what its head is does not
/// matter.
pub fn state_of(
    key: &SigningKey,
    incarnation: u64,
    revision: u64,
    others: impl IntoIterator<Item = (Writer, u64)>,
) -> SignedState {
    let writer = writer(key, incarnation);
    let vector = others.into_iter().chain([(writer, revision)]).collect();
    let heads = vec![Head { id: ObjectId::of(&[]), sequence: revision }];
    let (topic, kind, held) = (topic(), RepoKind::Folder, Vec::new());
    let state = State { topic, kind, writer, revision, heads, vector, held };
    SignedState::sign(state, key).unwrap()
}

impl Alone {
    /// Of a device that holds nothing.
    pub fn new() -> Self {
        Self::holding(&[])
    }

    /// Of a device that has joined a state of its own.
    pub fn warm() -> Self {
        let key = SigningKey::from_bytes(&[1; 32]);
        Self::holding(&[state_of(&key, 1, 1, [])])
    }

    fn holding(joined: &[SignedState]) -> Self {
        let (own, key) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let peer = writer(&key, 1).device;
        let other = writer(&SigningKey::from_bytes(&[3; 32]), 1).device;
        let options = EngineOptions {
            topic: topic(),
            kind: Some(RepoKind::Folder),
            writer: writer(&own, 1),
            folder: true,
            remotes: [(peer, remote("puppet")), (other, remote("another"))].into(),
            seed: 1,
        };
        let engine = Engine::new(
            options,
            Known { joined: joined.to_vec(), scanned: true, ..Known::default() },
        );
        let mut alone = Self { engine, key, now_ms: 0, asked: Vec::new() };
        alone.feed(Input::PeerConnected { peer });
        let hello = Alone::hello();
        alone.say(hello);
        alone
    }

    pub fn hello() -> Message {
        let (protocol, topic, kind) = (PROTOCOL, topic(), Some(RepoKind::Folder));
        let hello = Hello { protocol, topic, kind, role: Role::Peer, folder: true, listed: vec![] };
        Message::Hello(hello)
    }

    pub fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.now_ms += 1;
        let effects = self.engine.handle(input, self.now_ms);
        for effect in &effects {
            if let Effect::Request { id, request, .. } = effect {
                self.asked.push((*id, request.links.clone()));
            }
        }
        effects
    }

    pub fn say(&mut self, message: Message) -> Vec<Effect> {
        let peer = writer(&self.key, 1).device;
        self.feed(Input::Message { peer, message })
    }

    /// A state of the remote.
    pub fn state(&self, incarnation: u64, revision: u64) -> SignedState {
        self.state_that_names(incarnation, revision, [])
    }

    /// The same, with these writers in its vector besides its own.
    pub fn state_that_names(
        &self,
        incarnation: u64,
        revision: u64,
        others: impl IntoIterator<Item = (Writer, u64)>,
    ) -> SignedState {
        state_of(&self.key, incarnation, revision, others)
    }

    pub fn send(&mut self, state: &SignedState) -> Vec<Effect> {
        self.say(Message::States(vec![state.bytes().to_vec()]))
    }

    pub fn has_joined(&self, state: &SignedState) -> bool {
        let State { writer, revision, .. } = state.state();
        self.engine.view().durable.get(writer) == Some(revision)
    }
}
