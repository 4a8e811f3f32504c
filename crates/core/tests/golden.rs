//! The bytes of each kind of object, pinned: what a released version wrote is read for ever, and
//! equal things have equal bytes on every machine.
//!
//! A fixture is `fixtures/<kind>-v<version>-<what>.hex`: lower hex, 32 bytes a line. A new
//! version adds fixtures; the old ones stay, and stay readable.

mod pinned;

use ark_core::{
    Content, DeviceId, Dot, Entry, FileTree, Head, Incarnation, Link, Mtime, Name, Node, Object,
    ObjectId, ObjectKind, Overlay, Permissions, Read, RepoKind, SignedState, Snapshot, State,
    TopicId, Totals, Vector, Version, Writer, edit, empty_directory, entries,
};
use ed25519_dalek::SigningKey;
use pinned::{fixture, pin};

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

/// A leaf with a version of each kind, one aside, several dots, bits set by an act of their own.
fn directory_entries() -> Vec<Entry> {
    let (first, second) =
        (Dot { writer: own(), sequence: 3 }, Dot { writer: other(), sequence: 2 });
    let version = |node, permissions, aside| Version {
        node,
        dots: vec![second, first],
        permissions: Permissions::from_mode(permissions),
        permissions_dot: second,
        mtime: Mtime { seconds: 1_700_000_000, nanos: 5 },
        aside,
    };
    let small = Node::File { content: Content::Raw(id("small")), size: 5 };
    let large = Node::File { content: Content::Chunked(id("large")), size: 1 << 30 };
    let link = Node::Symlink { target: id("target"), size: 6 };
    let totals = Totals { files: 3, bytes: 99, aside: 1 };
    let directory = Node::Directory { root: id("root"), totals };
    let changed = Version { permissions_dot: first, ..version(small, 0o755, false) };
    let directory = Version { mtime: Mtime::default(), ..version(directory, 0o750, false) };
    let entry =
        |name: &str, versions| Entry { name: Name::new(name.as_bytes()).unwrap(), versions };
    vec![
        entry("changed", vec![changed]),
        entry("directory", vec![directory, version(small, 0o644, true)]),
        entry("large", vec![version(large, 0o644, false)]),
        entry("link", vec![version(link, 0o777, false)]),
    ]
}

/// The root of a directory of these entries.
fn directory(entries: Vec<Entry>) -> Object {
    let edits = entries.into_iter().map(|entry| (entry.name.clone(), Some(entry))).collect();
    let mut overlay = Overlay::new(Nothing);
    let (root, _) = edit(&mut overlay, empty_directory().id(), edits).unwrap();
    overlay.into_made().into_iter().find(|object| object.id() == root).unwrap()
}

/// A reader of nothing: all is in the overlay.
struct Nothing;

impl Read for Nothing {
    type Error = std::io::Error;
    fn read(&self, _: Link) -> Result<bytes::Bytes, Self::Error> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

#[test]
fn directory_without_entries() {
    pin("directory-v1-empty", empty_directory().bytes());
}

#[test]
fn directory_of_each_kind() {
    let object = directory(directory_entries());
    pin("directory-v1-leaf", object.bytes());
    let mut overlay = Overlay::new(Nothing);
    overlay.put(Object::new(ObjectKind::Directory, fixture("directory-v1-leaf")));
    let found: Vec<_> = entries(&overlay, object.id()).collect::<Result<_, _>>().unwrap();
    assert_eq!(found, directory_entries());
}

#[test]
fn directory_node_over_nodes() {
    let template = directory_entries().remove(0);
    let named =
        |i| Entry { name: Name::new(format!("{i:04}").as_bytes()).unwrap(), ..template.clone() };
    let object = directory((0..60).map(named).collect());
    pin("directory-v1-inner", object.bytes());
    let links = ark_core::links(object.link(), &fixture("directory-v1-inner")).unwrap();
    assert!(links.len() > 1 && links.iter().all(|link| link.kind == ObjectKind::Directory));
}
