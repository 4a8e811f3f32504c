//! The bytes of each kind of object, pinned: what a released version wrote is read for ever, and
//! equal things have equal bytes on every machine.
//!
//! A fixture is `fixtures/<kind>-v<version>-<what>.hex`: lower hex, 32 bytes a line. A new
//! version adds fixtures; the old ones stay, and stay readable.

use ark_core::{
    Content, DeviceId, Dot, FileTree, Head, Incarnation, Object, ObjectId, RepoKind, SignedState,
    Snapshot, State, TopicId, Vector, Writer,
};
use ed25519_dalek::SigningKey;

/// The bytes of a fixture.
fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    data_encoding::HEXLOWER
        .decode(text.replace('\n', "").as_bytes())
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// That `bytes` are what the fixture says; otherwise shows what the fixture would have to be.
fn pin(name: &str, bytes: &[u8]) {
    let lines: Vec<_> = bytes.chunks(32).map(|line| data_encoding::HEXLOWER.encode(line)).collect();
    assert!(fixture(name) == bytes, "fixture {name} is not\n{}\n", lines.join("\n"));
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn id(text: &str) -> ObjectId {
    ObjectId::of(text.as_bytes())
}

fn own() -> Writer {
    let device = DeviceId::from_bytes(key().verifying_key().to_bytes());
    Writer { device, incarnation: Incarnation::new(0x0123_4567_89ab_cdef) }
}

fn other() -> Writer {
    Writer { device: DeviceId::from_bytes([0x22; 32]), incarnation: Incarnation::new(2) }
}

fn vector() -> Vector {
    [(own(), 300), (other(), 2)].into_iter().collect()
}

fn pin_state(name: &str, state: &State) {
    let signed = SignedState::sign(state.clone(), &key()).unwrap();
    pin(name, signed.bytes());
    assert_eq!(SignedState::decode(&fixture(name)).unwrap().state(), state);
}

#[test]
fn state_of_a_folder() {
    let state = State {
        topic: TopicId::derive("my-project", None),
        kind: RepoKind::Folder,
        writer: own(),
        revision: 299,
        heads: vec![Head { id: id("snapshot"), sequence: 300 }],
        vector: vector(),
        held: Vec::new(),
    };
    pin_state("state-v1-folder", &state);
}

#[test]
fn state_of_a_jj_repo() {
    let state = State {
        topic: TopicId::derive("my-project", Some("secret")),
        kind: RepoKind::Jj,
        writer: own(),
        revision: 1,
        heads: vec![Head { id: id("a"), sequence: 7 }, Head { id: id("b"), sequence: 9 }],
        vector: vector(),
        held: vec![Dot { writer: other(), sequence: 1 }, Dot { writer: other(), sequence: 2 }],
    };
    pin_state("state-v1-jj", &state);
}

#[test]
fn state_of_nothing_yet() {
    let state = State {
        topic: TopicId::derive("my-project", None),
        kind: RepoKind::Folder,
        writer: own(),
        revision: 1,
        heads: Vec::new(),
        vector: Vector::empty(),
        held: Vec::new(),
    };
    pin_state("state-v1-empty", &state);
}

#[test]
fn snapshot() {
    let snapshot = Snapshot { root: id("root"), vector: vector(), wall_time_ms: 1_700_000_000_123 };
    let object = snapshot.encode();
    pin("snapshot-v1-two-writers", object.bytes());
    assert_eq!(Snapshot::decode(&fixture("snapshot-v1-two-writers")).unwrap(), snapshot);
}

/// A content of `count` chunks: its root and all its nodes.
fn content(count: u64) -> (Content, Vec<Object>) {
    let mut tree = FileTree::new();
    for i in 0..count {
        tree.push(id(&format!("chunk {i}")), (1 << 20) + i);
    }
    let (content, size, nodes) = tree.finish();
    assert_eq!(size, (count << 20) + count * (count - 1) / 2);
    (content, nodes)
}

fn pin_root(name: &str, content: Content, nodes: &[Object]) {
    let root = nodes.iter().find(|node| node.link() == content.link()).unwrap();
    pin(name, root.bytes());
    let links = ark_core::links(content.link(), &fixture(name)).unwrap();
    assert!(links.len() > 1);
}

#[test]
fn file_node_over_chunks() {
    let (content, nodes) = content(3);
    assert_eq!(nodes.len(), 1);
    pin_root("file-v1-leaf", content, &nodes);
}

#[test]
fn file_node_over_nodes() {
    let (content, nodes) = content(600);
    assert!(nodes.len() > 3);
    pin_root("file-v1-inner", content, &nodes);
}
