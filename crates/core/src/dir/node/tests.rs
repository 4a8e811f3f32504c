//! What a node's bytes may not say. Where nodes of a tree end is tested by trees.

use proptest::prelude::*;

use super::*;
use crate::id::{DeviceId, Incarnation};

fn writer(number: u8) -> Writer {
    Writer { device: DeviceId::from_bytes([number; 32]), incarnation: Incarnation::new(1) }
}

fn dot(of: u8, sequence: u64) -> Dot {
    Dot { writer: writer(of), sequence }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn raw(text: &str) -> Node {
    Node::File { content: Content::Raw(ObjectId::of(text.as_bytes())), size: 4 }
}

fn version(node: Node) -> Version {
    let (permissions, permissions_dot) = match node {
        Node::Symlink { .. } => (0o777, dot(1, 1)),
        _ => (0o640, dot(3, 9)),
    };
    Version {
        node,
        dots: vec![dot(1, 1), dot(2, 5)],
        permissions: Permissions::from_mode(permissions),
        permissions_dot,
        mtime: Mtime::default(),
        aside: false,
    }
}

fn aside(node: Node) -> Version {
    Version { aside: true, ..version(node) }
}

fn symlink(size: u64) -> Node {
    Node::Symlink { target: ObjectId::of(b"target"), size }
}

fn directory() -> Node {
    let totals = Totals { files: 7, bytes: 1 << 40, aside: 2 };
    Node::Directory { root: ObjectId::of(b"root"), totals }
}

/// Contents of which the first is the greatest.
fn ranked() -> [Node; 2] {
    let mut nodes = [raw("a"), raw("b")];
    nodes.sort_by_key(|node| std::cmp::Reverse(node.link().id));
    nodes
}

/// A leaf with one of everything.
fn everything() -> DirNode {
    let large =
        Node::File { content: Content::Chunked(ObjectId::of(b"large")), size: MAX_RAW_CONTENT + 1 };
    let timed = Mtime { seconds: -5, nanos: 999_999_999 };
    let entry = |text: &str, versions: Vec<Version>| Entry { name: name(text), versions };
    DirNode::leaf(vec![
        entry("a", vec![Version { mtime: timed, ..version(raw("a")) }]),
        entry("b", vec![version(directory()), aside(large), aside(symlink(9))]),
        entry("c", vec![aside(ranked()[0]), aside(ranked()[1])]),
        entry("d", vec![version(symlink(MAX_SYMLINK_TARGET)), aside(raw("a"))]),
        entry("e", vec![version(large)]),
    ])
}

fn bytes_of(node: &DirNode) -> Vec<u8> {
    codec::encode(&Wire::new(node))
}

#[test]
fn a_node_is_read_as_it_was_made() {
    let leaf = everything();
    assert_eq!(DirNode::decode(leaf.encode().bytes()).as_ref(), Ok(&leaf));
    let totals = leaf.totals();
    assert_eq!((totals.files, totals.aside), (7 + 8, 2 + 5));
    assert_eq!((leaf.first(), leaf.last()), (Some(&name("a")), Some(&name("e"))));
    let child = |last: &str| Child { last: name(last), id: ObjectId::of(last.as_bytes()), totals };
    let inner = DirNode { level: 3, entries: Vec::new(), children: vec![child("x"), child("y")] };
    assert_eq!(DirNode::decode(inner.encode().bytes()).as_ref(), Ok(&inner));
    assert_eq!(inner.totals(), totals.plus(totals));
    assert!(!inner.closed());
}

/// Changes one thing in a leaf that is right, so that its bytes must be refused.
fn refused(what: &str, spoil: impl FnOnce(&mut DirNode)) {
    let mut node = everything();
    spoil(&mut node);
    let decoded = DirNode::decode(&bytes_of(&node));
    assert!(matches!(decoded, Err(DecodeError::Invalid { .. })), "{what}: {decoded:?}");
}

#[test]
fn entries_out_of_order_are_refused() {
    refused("order of names", |node| node.entries.swap(0, 1));
    refused("a name twice", |node| node.entries[1].name = name("a"));
    refused("no versions", |node| node.entries[0].versions.clear());
    refused("order of versions", |node| node.entries[2].versions.swap(0, 1));
    refused("one in place after one aside", |node| node.entries[3].versions.swap(0, 1));
    refused("two in place", |node| node.entries[3].versions[1].aside = false);
    refused("a content twice", |node| {
        let again = aside(node.entries[0].versions[0].node);
        node.entries[0].versions.push(again);
    });
}

#[test]
fn impossible_versions_are_refused() {
    let spoil = |what: &str, at: usize, spoil: fn(&mut Version)| {
        refused(what, |node| spoil(&mut node.entries[at].versions[0]));
    };
    spoil("order of dots", 0, |version| version.dots.swap(0, 1));
    spoil("a dot twice", 0, |version| version.dots[1] = version.dots[0]);
    spoil("sequence 0", 0, |version| version.dots[0].sequence = 0);
    spoil("sequence 0 of the bits", 0, |version| version.permissions_dot.sequence = 0);
    spoil("nanoseconds", 0, |version| version.mtime.nanos = 1_000_000_000);
    spoil("large content as raw", 0, |version| {
        let content = Content::Raw(version.node.link().id);
        version.node = Node::File { content, size: MAX_RAW_CONTENT + 1 };
    });
    spoil("small content in chunks", 4, |version| {
        let content = Content::Chunked(version.node.link().id);
        version.node = Node::File { content, size: MAX_RAW_CONTENT };
    });
    spoil("an empty symlink", 3, |version| version.node = symlink(0));
    spoil("a long symlink", 3, |version| version.node = symlink(MAX_SYMLINK_TARGET + 1));
    spoil("bits of a symlink", 3, |v| v.permissions = Permissions::from_mode(0o755));
    spoil("a dot of a symlink's bits", 3, |version| version.permissions_dot = dot(2, 5));
    spoil("a time of a directory", 1, |version| version.mtime.seconds = 1);
    spoil("a directory aside", 1, |version| version.aside = true);
}

#[test]
fn impossible_nodes_are_refused() {
    refused("an entry too heavy", |node| {
        node.entries[0].versions[0].dots = (1..=40_000).map(|sequence| dot(1, sequence)).collect();
    });
    refused("a node that goes on", |node| {
        let entry = node.entries[0].clone();
        let named = |i| Entry { name: name(&format!("n{i:04}")), ..entry.clone() };
        node.entries = (0..500).map(named).collect();
    });
    refused("a leaf above the leaves", |node| node.level = 1);
    let child = |last: &str| Child {
        last: name(last),
        id: ObjectId::of(last.as_bytes()),
        totals: Totals::default(),
    };
    refused("children in a leaf", |node| node.children = vec![child("x")]);
    refused("an inner node without children", |node| {
        (node.level, node.entries) = (1, Vec::new());
    });
    refused("order of children", |node| {
        *node = DirNode { level: 1, entries: vec![], children: vec![child("y"), child("x")] };
    });
    refused("level", |node| {
        let level = MAX_TREE_LEVEL + 1;
        *node = DirNode { level, entries: vec![], children: vec![child("x")] };
    });
}

fn refused_wire(what: &str, spoil: impl FnOnce(&mut Wire)) {
    let mut wire = Wire::new(&everything());
    spoil(&mut wire);
    let decoded = DirNode::decode(&codec::encode(&wire));
    assert!(matches!(decoded, Err(DecodeError::Invalid { .. })), "{what}: {decoded:?}");
}

#[test]
fn bytes_that_say_the_same_in_another_way_are_refused() {
    refused_wire("a writer of no dot", |wire| wire.writers.push(writer(9)));
    refused_wire("no such writer", |wire| wire.entries[0].versions[0].dots[0].writer = 3);
    refused_wire("order of writers", |wire| wire.writers.swap(0, 1));
    refused_wire("a writer twice", |wire| wire.writers[1] = wire.writers[0]);
    refused_wire("the first dot named again", |wire| {
        let first = WireDot { writer: 0, sequence: 1 };
        wire.entries[0].versions[0].permissions_dot = Some(Box::new(first));
    });
    refused_wire("no dots", |wire| wire.entries[0].versions[0].dots.clear());
    refused_wire("special bits", |wire| wire.entries[0].versions[0].permissions = 0o4755);
    refused_wire("an unknown kind", |wire| wire.entries[0].versions[0].what = 4);
    refused_wire("counts of a file", |wire| {
        wire.entries[0].versions[0].counts = Some(Box::new((0, 0)));
    });
    refused_wire("a directory without", |wire| wire.entries[1].versions[0].counts = None);
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", b".ark", b".ark-x"] {
        refused_wire("a name", |wire| wire.entries[0].name = bad.to_vec());
    }
}

#[test]
fn an_archive_takes_no_more_than_it_weighs() {
    let node = everything();
    let bytes_of_all = bytes_of(&node).len();
    let weight: usize = node.entries.iter().map(entry_weight).sum();
    assert!(bytes_of_all <= weight + 64, "{bytes_of_all} bytes, weight {weight}");
    let bare = bytes_of(&DirNode::leaf(Vec::new())).len();
    for entry in node.entries {
        let weight = entry_weight(&entry);
        let bytes = bytes_of(&DirNode::leaf(vec![entry])).len() - bare;
        assert!(bytes <= weight, "{bytes} bytes, weight {weight}");
    }
    let child = Child { last: name("x"), id: ObjectId::of(b"x"), totals: Totals::default() };
    let bytes = bytes_of(&DirNode { level: 1, entries: vec![], children: vec![child] }).len();
    assert!(bytes - bare <= child_weight(&name("x")));
}

proptest! {
    #[test]
    fn mutated_nodes_are_refused_or_canonical(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes_of(&everything());
        for (at, with) in edits {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        if let Ok(node) = DirNode::decode(&bytes) {
            let again = node.encode();
            prop_assert_eq!(&again.bytes()[..], &bytes[..]);
        }
    }
}
