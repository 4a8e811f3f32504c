//! Directories and snapshots of honest makers pass from the bottom up; what says something
//! untrue of its children does not.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::check::tests::{Index, imagined};
use crate::check::{About, Checked, FileSummary, Summary, links};
use crate::chunk::FileTree;
use crate::dir::{edit, empty_directory};
use crate::entry::{Entry, MAX_RAW_CONTENT, Mtime, Permissions};
use crate::id::{DeviceId, Incarnation, Writer};
use crate::object::{Link, Object, ObjectKind, Overlay, Read};

fn id(text: &str) -> ObjectId {
    ObjectId::of(text.as_bytes())
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn dot(n: u8, sequence: u64) -> Dot {
    let device = DeviceId::from_bytes([n; 32]);
    Dot { writer: Writer { device, incarnation: Incarnation::new(0) }, sequence }
}

fn version(node: Node) -> Version {
    Version {
        node,
        dots: vec![dot(1, 1)],
        permissions: Permissions::from_mode(0o777),
        permissions_dot: dot(1, 1),
        mtime: Mtime::default(),
        aside: false,
    }
}

fn entry(text: &str, node: Node) -> Entry {
    Entry { name: name(text), versions: vec![version(node)] }
}

fn file(text: &str, size: u64) -> Entry {
    entry(text, Node::File { content: Content::Raw(id(text)), size })
}

fn directory(text: &str, root: &Object, totals: Totals) -> Entry {
    entry(text, Node::Directory { root: root.id(), totals })
}

fn leaf_node(entries: Vec<Entry>) -> DirNode {
    DirNode { level: 0, entries, children: Vec::new() }
}

fn inner_node(level: u8, children: Vec<Child>) -> DirNode {
    DirNode { level, entries: Vec::new(), children }
}

fn leaf(entries: Vec<Entry>) -> Object {
    leaf_node(entries).encode()
}

fn child(object: &Object) -> Child {
    let node = DirNode::decode(object.bytes()).unwrap();
    Child { last: node.last().unwrap().clone(), id: object.id(), totals: node.totals() }
}

fn imagine(index: &mut Index, entries: &[Entry]) {
    for version in entries.iter().flat_map(|entry| &entry.versions) {
        if let Node::File { size: length, .. } | Node::Symlink { size: length, .. } = version.node {
            index.insert(version.node.link(), Summary(About::Raw { length }));
        }
    }
}

/// The nodes over these parts by the cut rule, children first; the root is the last.
fn tree(entries: &[Entry]) -> Vec<Object> {
    let leaf = |entries: &[Entry]| leaf_node(entries.to_vec());
    let mut nodes = level(entries, leaf);
    let mut below = nodes.clone();
    for number in 1.. {
        if below.len() == 1 {
            return nodes;
        }
        let children: Vec<Child> = below.iter().map(child).collect();
        below = level(&children, |children| inner_node(number, children.to_vec()));
        nodes.extend(below.clone());
    }
    unreachable!("each level is shorter than the one below it")
}

fn level<T>(items: &[T], node: impl Fn(&[T]) -> DirNode) -> Vec<Object> {
    let (mut nodes, mut from) = (Vec::new(), 0);
    for to in 1..=items.len() {
        let node = node(&items[from..to]);
        if node.closed() || to == items.len() {
            nodes.push(node.encode());
            from = to;
        }
    }
    if items.is_empty() { vec![node(items).encode()] } else { nodes }
}

/// `count` files, all indexed, with the nodes over them.
fn large(index: &mut Index, count: u64) -> Vec<Object> {
    let entries: Vec<_> = (0..count).map(|i| file(&format!("file {i:06}"), i % 1000)).collect();
    imagine(index, &entries);
    tree(&entries)
}

fn totals(files: u64, bytes: u64) -> Totals {
    Totals { files, bytes, aside: 0 }
}

#[test]
fn a_directory_is_checked_from_the_bottom_up() {
    let mut index = Index::default();
    let nodes = large(&mut index, 5_000);
    let (root, below) = nodes.split_last().unwrap();
    assert!(DirNode::decode(root.bytes()).unwrap().level() >= 2);
    assert!(matches!(index.check(root), Ok(Checked::Missing(missing)) if missing.len() > 1));
    for node in below {
        index.add(node);
    }
    assert_eq!(index.add(root).totals(), totals(5_000, 5 * 999 * 1000 / 2));
    let empty = leaf(Vec::new());
    assert_eq!(index.add(&empty).totals(), Totals::default());

    let top = leaf(vec![
        directory("empty", &empty, Totals::default()),
        directory("large", root, totals(5_000, 5 * 999 * 1000 / 2)),
    ]);
    let expected = [empty.link(), root.link()];
    assert_eq!(links(top.link(), top.bytes()).unwrap(), expected);
    index.add(&top);
    let vector: Vector = [(dot(1, 1).writer, 1)].into_iter().collect();
    let snapshot = Snapshot { root: top.id(), vector, wall_time_ms: 0 };
    assert_eq!(index.add(&snapshot.encode()).totals().files, 5_000);
}

#[test]
fn an_entry_that_says_what_is_not_so_of_its_content_is_refused() {
    let mut index = Index::default();
    let good = [file("a", 5), entry("b", Node::Symlink { target: id("b"), size: 7 })];
    imagine(&mut index, &good);
    let summary = index.add(&leaf(good.to_vec()));
    assert_eq!(summary.totals(), totals(2, 5));
    index.refuses(&leaf(vec![file("a", 6)]));
    index.refuses(&leaf(vec![entry("b", Node::Symlink { target: id("b"), size: 8 })]));

    let chunks = imagined(300);
    index.imagine(&chunks);
    let mut content = FileTree::new();
    for &(id, length) in &chunks {
        content.push(id, length);
    }
    let (content, size, nodes) = content.finish();
    let large = |content, size| leaf(vec![entry("c", Node::File { content, size })]);
    let Ok(Checked::Missing(missing)) = index.check(&large(content, size)) else { panic!() };
    assert_eq!(missing, [content.link()]);
    for node in &nodes {
        index.add(node);
    }
    index.add(&large(content, size));
    index.refuses(&large(content, size + 1));
    // A part of a content is not a content of its own where more than it says belongs to it.
    let single = FileSummary {
        level: 1,
        length: 2 * MAX_RAW_CONTENT,
        last: id("chunk"),
        is_closed: false,
        is_root: false,
    };
    index.insert(Link::file(id("part")), Summary(About::File(single)));
    index.refuses(&large(Content::Chunked(id("part")), 2 * MAX_RAW_CONTENT));
}

#[test]
fn a_directory_that_says_what_is_not_so_of_another_is_refused() {
    let mut index = Index::default();
    let files = vec![file("a", 5), file("b", 6)];
    imagine(&mut index, &files);
    let inside = leaf(files);
    index.add(&inside);
    index.add(&leaf(vec![directory("d", &inside, totals(2, 11))]));
    for wrong in [totals(2, 12), totals(1, 11), Totals { aside: 1, ..totals(2, 11) }] {
        index.refuses(&leaf(vec![directory("d", &inside, wrong)]));
    }
    // Below an inner node of one child nothing else can be: the child is the root itself.
    let above = inner_node(1, vec![child(&inside)]).encode();
    index.add(&above);
    let refusal = index.refuses(&leaf(vec![directory("d", &above, totals(2, 11))]));
    assert!(refusal.contains("not the root"), "{refusal}");
    let vector: Vector = [(dot(1, 1).writer, 1)].into_iter().collect();
    let snapshot = Snapshot { root: above.id(), vector, wall_time_ms: 0 };
    assert!(index.refuses(&snapshot.encode()).contains("not the root"));
}

#[test]
fn an_inner_node_that_says_what_is_not_so_is_refused() {
    let mut index = Index::default();
    let nodes = large(&mut index, 5_000);
    for node in &nodes {
        index.add(node);
    }
    let of_level = |level| {
        let found = nodes.iter().map(|object| (DirNode::decode(object.bytes()).unwrap(), object));
        let found = found.filter(move |(node, _)| node.level() == level);
        found.map(|(_, object)| child(object)).collect::<Vec<_>>()
    };
    let (leaves, inner) = (of_level(0), of_level(1));
    assert!(leaves.len() > 20 && inner.len() > 2);
    let node = |level, children: &[Child]| inner_node(level, children.to_vec()).encode();

    index.add(&node(1, &leaves[..2]));
    index.add(&node(1, &[leaves[0].clone(), leaves[2].clone()]));
    let mut more = leaves[..2].to_vec();
    more[1].totals.bytes += 1;
    assert!(index.refuses(&node(1, &more)).contains("totals"));
    let mut renamed = leaves[..2].to_vec();
    renamed[1].last = name("file 9");
    assert!(index.refuses(&node(1, &renamed)).contains("last name"));
    assert!(index.refuses(&node(2, &leaves[..2])).contains("level"));
    assert!(
        index
            .refuses(&node(2, &[inner[0].clone(), leaves.last().unwrap().clone()]))
            .contains("level")
    );

    // Only what its own cut ends may be followed, on every level below.
    let open = leaf(vec![file("file 000000", 0)]);
    index.add(&open);
    let followed = [child(&open), leaves[1].clone()];
    assert!(index.refuses(&node(1, &followed)).contains("not closed"));
    let above = node(1, &[child(&open)]);
    index.add(&above);
    assert!(index.refuses(&node(2, &[child(&above), inner[1].clone()])).contains("not closed"));

    // A child that begins before the one before it ends.
    let entries: Vec<_> = (0..5_000).map(|i| file(&format!("file {i:06}"), i % 1000)).collect();
    let spread: Vec<Entry> = (0..2_000).map(|i| entries[i * 2 + 1].clone()).collect();
    let spread = tree(&spread);
    for node in &spread {
        index.add(node);
    }
    let overlapping = spread.iter().map(child).find(|child| child.last > leaves[0].last).unwrap();
    let refusal = index.refuses(&node(1, &[leaves[0].clone(), overlapping]));
    assert!(refusal.contains("too early"), "{refusal}");
}

#[test]
fn paths_are_bounded() {
    let mut index = Index::default();
    let mut inner = leaf(Vec::new());
    for _ in 0..MAX_PATH_DEPTH {
        index.add(&inner);
        inner = leaf(vec![directory("d", &inner, Totals::default())]);
    }
    index.add(&inner);
    let refusal = index.refuses(&leaf(vec![directory("d", &inner, Totals::default())]));
    assert!(refusal.contains("paths of"), "{refusal}");
}

#[test]
fn a_snapshot_has_taken_in_every_dot_of_its_tree() {
    let mut index = Index::default();
    let mut written = file("a", 5);
    written.versions[0].dots = vec![dot(1, 4), dot(2, 7)];
    written.versions[0].permissions_dot = dot(3, 2);
    imagine(&mut index, std::slice::from_ref(&written));
    let inside = leaf(vec![written]);
    index.add(&inside);
    let top = leaf(vec![directory("d", &inside, totals(1, 5))]);
    index.add(&top);
    let snapshot = |dots: [(u8, u64); 3]| {
        let vector = dots.into_iter().map(|(n, sequence)| (dot(n, 0).writer, sequence)).collect();
        Snapshot { root: top.id(), vector, wall_time_ms: 0 }.encode()
    };
    assert_eq!(index.add(&snapshot([(1, 4), (2, 8), (3, 2)])).totals(), totals(1, 5));
    for lacking in [[(1, 3), (2, 7), (3, 2)], [(1, 4), (2, 0), (3, 2)], [(1, 4), (2, 7), (3, 1)]] {
        assert!(index.refuses(&snapshot(lacking)).contains("lacks"));
    }
    // A directory is not a snapshot, whatever the link says.
    let misnamed = Object::new(ObjectKind::Snapshot, top.bytes().clone());
    index.refuses(&misnamed);
}

/// Reads nothing: whatever an edit needs, it has made itself or it is the empty directory.
struct Nothing;

impl Read for Nothing {
    type Error = std::io::Error;
    fn read(&self, link: Link) -> Result<bytes::Bytes, Self::Error> {
        let empty = empty_directory();
        let is_empty = link == empty.link();
        is_empty.then(|| empty.into_bytes()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_edits_make_is_fit_to_be_indexed(
        first in prop::collection::btree_map(0u32..2_000, 0u64..100, 0..700),
        second in prop::collection::btree_map(0u32..2_000, prop::option::of(0u64..100), 0..60),
    ) {
        let mut index = Index::default();
        let named = |number: &u32, size| file(&format!("file {number}"), size);
        let mut all = BTreeMap::new();
        let mut overlay = Overlay::new(Nothing);
        let mut root = empty_directory().id();
        index.add(&empty_directory());
        for edits in [first.into_iter().map(|(n, size)| (n, Some(size))).collect(), second] {
            let edits: BTreeMap<_, _> = edits.iter()
                .map(|(n, size)| (named(n, 0).name, size.map(|size| named(n, size))))
                .collect();
            for (name, entry) in &edits {
                match entry {
                    Some(entry) => all.insert(name.clone(), entry.clone()),
                    None => all.remove(name),
                };
            }
            root = edit(&mut overlay, root, edits).unwrap().0;
            let entries: Vec<_> = all.values().cloned().collect();
            prop_assert_eq!(root, tree(&entries).last().unwrap().id());
        }
        for node in overlay.into_made() {
            let links = links(node.link(), node.bytes()).unwrap();
            let decoded = DirNode::decode(node.bytes()).unwrap();
            imagine(&mut index, decoded.entries());
            let absent = links.iter().filter(|link| index.get(**link).is_none()).count();
            prop_assert_eq!(absent, 0, "children come before parents");
            index.add(&node);
        }
        let expected = all.values().map(|entry| entry.versions[0].totals());
        let expected = expected.fold(Totals::default(), Totals::plus);
        prop_assert_eq!(index.get(Link::directory(root)).unwrap().totals(), expected);
    }
}

proptest! {
    #[test]
    fn mutated_directory_nodes_are_refused_or_canonical(
        count in 0u64..9,
        is_inner: bool,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut entries: Vec<_> = (0..count).map(|i| file(&format!("file {i}"), i)).collect();
        entries.push(directory("sub", &leaf(Vec::new()), Totals::default()));
        entries[0].versions[0].dots = vec![dot(1, 4), dot(2, 7)];
        let node = leaf(entries);
        let node = if is_inner { inner_node(1, vec![child(&node)]).encode() } else { node };
        let mut bytes = node.bytes().to_vec();
        for (at, with) in edits {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(node) = DirNode::decode(&bytes) {
            let again = node.encode();
            prop_assert!(again.bytes() == &bytes);
        }
        let object = Object::new(ObjectKind::Directory, bytes);
        let _ = crate::check::check(object.link(), object.bytes(), |_| {
            Some(Summary(About::Raw { length: 3 }))
        });
    }
}
