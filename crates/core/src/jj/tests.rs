//! What jj repos are made of has one encoding, whatever order it came in, and nothing else is read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use strategies::{commits, entries, operations, views};

use super::*;
use crate::codec;
use crate::entry::Content;
use crate::object::{DecodeError, Link, Object, ObjectKind};
use crate::{Checked, Summary, check, links};

mod strategies;

fn id(text: &str) -> ObjectId {
    ObjectId::of(text.as_bytes())
}

fn link(kind: ObjectKind, id: ObjectId) -> Link {
    Link { kind, id }
}

/// Nodes by id, and what the index would keep of them.
#[derive(Default)]
struct Objects {
    bytes: BTreeMap<Link, Bytes>,
    summaries: BTreeMap<Link, Summary>,
}

impl Objects {
    /// Takes nodes in, children first, each checked.
    fn take(&mut self, objects: Vec<Object>) -> Result<(), DecodeError> {
        for object in objects {
            match self.check(&object)? {
                Checked::Complete(summary) => {
                    let again = Summary::from_bytes(&summary.to_bytes());
                    assert_eq!(again.as_ref(), Some(&summary));
                    self.summaries.insert(object.link(), summary);
                }
                Checked::Missing(missing) => panic!("{missing:?} is missing"),
            }
            self.bytes.insert(object.link(), object.into_bytes());
        }
        Ok(())
    }

    /// Checks an object. What is not of rows is there, whatever it is.
    fn check(&self, object: &Object) -> Result<Checked, DecodeError> {
        check(object.link(), object.bytes(), |link| {
            let is_node =
                matches!(link.kind, ObjectKind::Tree | ObjectKind::View | ObjectKind::Predecessors);
            match self.summaries.get(&link) {
                None if !is_node => Some(summary_of_another(link.kind)),
                found => found.cloned(),
            }
        })
    }

    /// The rows under a root, opened level by level.
    fn open<R>(
        &self,
        kind: ObjectKind,
        root: ObjectId,
        open: impl Fn(Option<u8>, &[Bytes]) -> Result<Opened<R>, DecodeError>,
    ) -> Vec<R> {
        let (mut level, mut nodes) = (None, vec![root]);
        loop {
            let bytes: Vec<Bytes> =
                nodes.iter().map(|&id| self.bytes[&Link { kind, id }].clone()).collect();
            match open(level, &bytes).unwrap() {
                Opened::Rows(rows) => return rows,
                Opened::Nodes(below, ids) => (level, nodes) = (Some(below), ids),
            }
        }
    }
}

/// The summary of some object of this kind.
fn summary_of_another(kind: ObjectKind) -> Summary {
    let bytes = match kind {
        ObjectKind::Raw => [&[0][..], &5_u64.to_le_bytes()].concat(),
        kind => vec![kind as u8],
    };
    Summary::from_bytes(&bytes).unwrap()
}

fn entries_of(objects: &Objects, root: ObjectId) -> Vec<TreeEntry> {
    objects.open(ObjectKind::Tree, root, |level, nodes| {
        open_tree(level, nodes.iter().map(AsRef::as_ref))
    })
}

fn file(name: &str) -> TreeEntry {
    let content = Content::Raw(id(name));
    TreeEntry {
        name: name.into(),
        value: TreeValue::File { content, is_executable: false, copy: None },
    }
}

/// A directory of so many files.
fn files(count: usize) -> Vec<TreeEntry> {
    (0..count).map(|number| file(&format!("file {number:05}"))).collect()
}

/// That nothing but `bytes` themselves is read as what they are: every bit flipped, every length.
/// `again` reads and writes.
fn no_bit_is_free(bytes: &[u8], again: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    assert_eq!(again(bytes).as_deref(), Some(bytes));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Some(again) = again(&flipped) {
            assert_eq!(again, flipped, "bit {bit} says nothing");
        }
    }
    for length in 0..bytes.len() {
        assert_eq!(again(&bytes[..length]), None);
    }
    assert_eq!(again(&[bytes, &[0]].concat()), None);
}

fn node_again<R: Row>(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(R::encode(&R::decode(bytes).ok()?))
}

proptest! {
    #[test]
    fn commits_are_read_as_they_were_written(commit in commits()) {
        let object = commit.encode().unwrap();
        prop_assert_eq!(&Commit::decode(object.bytes()).unwrap(), &commit);
        let linked = links(object.link(), object.bytes()).unwrap();
        prop_assert!(linked.iter().all(|link| link.id != VIRTUAL));
        for tree in commit.trees.iter().filter(|tree| **tree != VIRTUAL) {
            prop_assert!(linked.contains(&link(ObjectKind::Tree, *tree)));
        }
        for parent in commit.parents.iter().filter(|parent| **parent != VIRTUAL) {
            prop_assert!(linked.contains(&link(ObjectKind::Commit, *parent)));
        }
    }

    #[test]
    fn operations_are_read_as_they_were_written(operation in operations()) {
        let object = operation.encode().unwrap();
        prop_assert_eq!(&Operation::decode(object.bytes()).unwrap(), &operation);
        let linked = links(object.link(), object.bytes()).unwrap();
        prop_assert!(linked.iter().all(|link| link.id != VIRTUAL));
        if let Predecessors::Listed(rows) = &operation.predecessors {
            for row in rows {
                prop_assert!(linked.contains(&link(ObjectKind::Commit, row.commit)));
            }
        }
    }

    #[test]
    fn the_order_of_entries_decides_nothing(
        sorted in entries(300),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let (root, nodes) = tree(sorted.clone()).unwrap();
        let mut turned = sorted.clone();
        if !turned.is_empty() {
            let at = shuffled.index(turned.len());
            turned.rotate_left(at);
            turned.reverse();
        }
        prop_assert_eq!(tree(turned).unwrap().0, root);
        prop_assert_eq!(sorted.is_empty(), root == VIRTUAL);
        if root != VIRTUAL {
            // Not checked, which would take the directories in it.
            let mut objects = Objects::default();
            objects.bytes.extend(nodes.into_iter().map(|node| (node.link(), node.into_bytes())));
            prop_assert_eq!(entries_of(&objects, root), sorted);
        }
    }

    #[test]
    fn views_are_read_as_they_were_written(rows in views()) {
        let (root, nodes) = view(rows.clone()).unwrap();
        let mut reversed = rows.clone();
        reversed.reverse();
        prop_assert_eq!(view(reversed).unwrap().0, root);
        let mut objects = Objects::default();
        objects.take(nodes).unwrap();
        let mut found = objects.open(ObjectKind::View, root, |level, nodes| {
            open_view(level, nodes.iter().map(AsRef::as_ref))
        });
        let mut rows = rows;
        rows.sort_by_cached_key(Row::key);
        found.sort_by_cached_key(Row::key);
        prop_assert_eq!(found, rows);
    }
}

#[test]
fn no_bit_of_an_encoding_is_free() {
    let commit = Commit {
        parents: vec![id("parent"), VIRTUAL],
        predecessors: vec![id("before")],
        trees: vec![id("add"), id("remove"), VIRTUAL],
        labels: vec!["a".into(), String::new(), "a label of more than eight bytes".into()],
        change: [7; 16],
        description: "what\nwas done".into(),
        author: Person {
            name: "A".into(),
            email: "a@b".into(),
            time: Time { millis: -1, offset_minutes: 60 },
        },
        committer: Person {
            name: "C".into(),
            email: String::new(),
            time: Time { millis: 1, offset_minutes: -60 },
        },
        signing: Some(Signing { data: Some(vec![1, 2, 3]), signature: vec![4, 5] }),
    };
    no_bit_is_free(commit.encode().unwrap().bytes(), |bytes| {
        Some(Commit::decode(bytes).ok()?.encode().unwrap().bytes().to_vec())
    });
    let mut some = files(2);
    some.push(TreeEntry { name: "sub".into(), value: TreeValue::Submodule(vec![1; 20]) });
    some.push(TreeEntry { name: "link".into(), value: TreeValue::Symlink(id("target")) });
    some.push(TreeEntry { name: "tree".into(), value: TreeValue::Tree(id("tree")) });
    no_bit_is_free(tree(some).unwrap().1[0].bytes(), node_again::<TreeEntry>);
    let target = Target(vec![Some(id("a")), None, Some(id("b"))]);
    let rows = vec![
        ViewRow::Head(id("head")),
        ViewRow::Bookmark("main".into(), target.clone()),
        ViewRow::Remote("origin".into()),
        ViewRow::RemoteBookmark("origin".into(), "main".into(), target, RefState::Tracked),
        ViewRow::WorkingCopy("default".into(), VIRTUAL),
    ];
    no_bit_is_free(view(rows).unwrap().1[0].bytes(), node_again::<ViewRow>);
}

#[test]
fn one_change_among_many_makes_few_nodes_and_every_shape_is_checked() {
    let mut objects = Objects::default();
    let (root, nodes) = tree(files(20_000)).unwrap();
    assert!(nodes.len() > 60, "{} nodes", nodes.len());
    let before: BTreeSet<ObjectId> = nodes.iter().map(Object::id).collect();
    objects.take(nodes).unwrap();
    assert_eq!(entries_of(&objects, root), files(20_000));
    let mut changed = files(20_000);
    changed[7_777] =
        TreeEntry { name: changed[7_777].name.clone(), value: TreeValue::Symlink(id("x")) };
    let (_, nodes) = tree(changed).unwrap();
    let new: Vec<Object> = nodes.into_iter().filter(|node| !before.contains(&node.id())).collect();
    let bytes: usize = new.iter().map(|node| node.bytes().len()).sum();
    assert!(new.len() <= 3 && bytes < 150_000, "{} nodes of {bytes} bytes", new.len());
    objects.take(new).unwrap();
}

/// The leaves of a directory of two levels, in order.
fn leaves(objects: &Objects, root: ObjectId) -> Vec<ObjectId> {
    let bytes = &objects.bytes[&Link { kind: ObjectKind::Tree, id: root }];
    let opened = open_tree(None, [bytes.as_ref()]).unwrap();
    let Opened::Nodes(0, leaves) = opened else { panic!("not of two levels") };
    leaves
}

fn refused(objects: &Objects, object: &Object) {
    assert!(objects.check(object).is_err(), "{object:?}");
}

fn node<R: Row>(level: u8, rows: Vec<R>, children: Vec<ObjectId>) -> Object {
    Object::new(R::KIND, R::encode(&Node { level, rows, children }))
}

#[test]
fn nodes_of_another_shape_are_refused() {
    let mut objects = Objects::default();
    let (root, nodes) = tree(files(1000)).unwrap();
    objects.take(nodes).unwrap();
    let leaves = leaves(&objects, root);
    assert!(leaves.len() > 3);
    let inner = |children: Vec<ObjectId>| node::<TreeEntry>(1, Vec::new(), children);
    assert!(matches!(objects.check(&inner(leaves.clone())), Ok(Checked::Complete(_))));
    let mut swapped = leaves.clone();
    swapped.swap(0, 1);
    refused(&objects, &inner(swapped));
    refused(&objects, &inner(vec![leaves[0], leaves[0]]));
    refused(&objects, &inner(Vec::new()));
    // The last leaf ended with the entries, not where its name said so: nothing may follow it.
    let (later, nodes) = tree(vec![file("zzz")]).unwrap();
    objects.take(nodes).unwrap();
    refused(&objects, &inner([leaves.as_slice(), &[later]].concat()));
    // Part of a directory is no directory, nor is a node with a single child.
    assert!(matches!(objects.check(&commit_of(root).encode().unwrap()), Ok(Checked::Complete(_))));
    let single = inner(vec![leaves[0]]);
    let single_id = single.id();
    refused(&objects, &node::<TreeEntry>(2, Vec::new(), vec![leaves[0]]));
    refused(&objects, &node(0, files(1), vec![leaves[0]]));
    refused(&objects, &node::<TreeEntry>(0, Vec::new(), Vec::new()));
    let mut wide = files(1000);
    refused(&objects, &node(0, wide.clone(), Vec::new()));
    wide.truncate(20);
    wide.reverse();
    refused(&objects, &node(0, wide, Vec::new()));
    refused(&objects, &node(0, vec![file("a"), file("a")], Vec::new()));
    objects.take(vec![single]).unwrap();
    assert!(objects.check(&commit_of(single_id).encode().unwrap()).is_err());
}

#[test]
fn what_keeps_no_rule_is_neither_written_nor_read() {
    let good = commit_of(VIRTUAL);
    let own = Signing { data: Some(good.unsigned_bytes()), signature: vec![1] };
    let at =
        |offset_minutes| Person { time: Time { millis: 0, offset_minutes }, ..good.author.clone() };
    // In seconds the most that 32 bits hold, and one more.
    let (most, more) = (35_791_394, 35_791_395);
    for offset in [most, -most] {
        assert!(Commit { author: at(offset), ..good.clone() }.encode().is_ok());
    }
    for bad in [
        Commit { parents: Vec::new(), ..good.clone() },
        Commit { trees: Vec::new(), ..good.clone() },
        Commit { trees: vec![VIRTUAL; 2], ..good.clone() },
        Commit { labels: vec![String::new()], ..good.clone() },
        Commit { trees: vec![VIRTUAL; 3], labels: vec![String::new(); 2], ..good.clone() },
        Commit { signing: Some(own), ..good.clone() },
        Commit { author: at(more), ..good.clone() },
        Commit { committer: at(-more), ..good.clone() },
        Commit { committer: at(i32::MIN), ..good.clone() },
    ] {
        assert!(bad.encode().is_err(), "{bad:?}");
        assert!(Commit::decode(&codec::encode(&bad)).is_err(), "{bad:?}");
    }
    let long = Commit { description: "x".repeat(crate::MAX_OBJECT_BYTES), ..good };
    assert!(matches!(long.encode(), Err(DecodeError::TooLarge { .. })));
    for (bad, path) in
        [("", true), ("a", true), ("a/b", true), ("/", false), ("a//b", false), ("a/", false)]
    {
        let copy = Copy { path: bad.into(), parents: vec![id("copy")], salt: vec![1] };
        assert_eq!(copy.encode().is_ok(), path, "{bad:?}");
        assert_eq!(Copy::decode(&codec::encode(&copy)).is_ok(), path, "{bad:?}");
    }
    let named = |name: &str, value: TreeValue| TreeEntry { name: name.into(), value };
    for bad in [
        named("", TreeValue::Symlink(id("x"))),
        named("a/b", TreeValue::Symlink(id("x"))),
        named("a", TreeValue::Symlink(VIRTUAL)),
        named("a", TreeValue::Submodule(vec![0; 65])),
        named(&"x".repeat(MAX_ROW_KEY + 1), TreeValue::Symlink(id("x"))),
    ] {
        assert!(tree(vec![bad.clone()]).is_err(), "{bad:?}");
        assert!(TreeEntry::decode(&TreeEntry::encode(&Node::leaf(vec![bad]))).is_err());
    }
    assert!(tree(vec![file("a"), file("a")]).is_err());
    let beside_a_head = |rows: &[ViewRow]| view([&[ViewRow::Head(VIRTUAL)], rows].concat());
    let bookmark = |terms| ViewRow::Bookmark("x".into(), Target(terms));
    assert!(beside_a_head(&[bookmark(vec![None])]).is_ok());
    assert!(beside_a_head(&[bookmark(vec![None; 2])]).is_err());
    assert!(beside_a_head(&[bookmark(Vec::new())]).is_err());
    let without_remote =
        ViewRow::RemoteTag("r".into(), "t".into(), Target(vec![None]), RefState::New);
    assert!(beside_a_head(std::slice::from_ref(&without_remote)).is_err());
    assert!(beside_a_head(&[ViewRow::Remote("r2".into()), without_remote.clone()]).is_err());
    assert!(beside_a_head(&[ViewRow::Remote("r".into()), without_remote]).is_ok());
}

#[test]
fn a_view_without_heads_is_neither_written_nor_read() {
    assert!(view(Vec::new()).is_err());
    let bookmark = ViewRow::Bookmark("x".into(), Target(vec![Some(id("commit"))]));
    assert!(view(vec![bookmark.clone()]).is_err());
    let mut objects = Objects::default();
    refused(&objects, &node::<ViewRow>(0, Vec::new(), Vec::new()));
    // Further on among the nodes of a view it could stand, but not for a view.
    let headless = node(0, vec![bookmark.clone()], Vec::new());
    assert!(open_view(None, [headless.bytes().as_ref()]).is_err());
    let (view, nodes) = view(vec![ViewRow::Head(id("head")), bookmark]).unwrap();
    objects.take(nodes).unwrap();
    let without = headless.id();
    objects.take(vec![headless]).unwrap();
    let check = |view| objects.check(&operation_of(view).encode().unwrap());
    assert!(matches!(check(view), Ok(Checked::Complete(_))));
    assert!(matches!(check(VIRTUAL), Ok(Checked::Complete(_))));
    assert!(check(without).is_err());
}

/// A commit that says nothing but what the files look like.
fn commit_of(tree: ObjectId) -> Commit {
    let person = Person {
        name: String::new(),
        email: String::new(),
        time: Time { millis: 0, offset_minutes: 0 },
    };
    Commit {
        parents: vec![VIRTUAL],
        predecessors: Vec::new(),
        trees: vec![tree],
        labels: Vec::new(),
        change: [0; 16],
        description: String::new(),
        author: person.clone(),
        committer: person,
        signing: None,
    }
}

/// An operation that says nothing but what the repo looks like.
fn operation_of(view: ObjectId) -> Operation {
    let time = Time { millis: 0, offset_minutes: 0 };
    Operation {
        view,
        parents: vec![VIRTUAL],
        start: time,
        end: time,
        description: String::new(),
        hostname: String::new(),
        username: String::new(),
        is_snapshot: false,
        workspace: None,
        attributes: Vec::new(),
        predecessors: Predecessors::Unknown,
    }
}

#[test]
fn an_operation_in_a_zone_that_no_seconds_tell_is_neither_written_nor_read() {
    let at = |offset_minutes| Time { millis: 0, offset_minutes };
    for bad in [at(35_791_395), at(i32::MIN)] {
        for bad in [
            Operation { start: bad, ..operation_of(VIRTUAL) },
            Operation { end: bad, ..operation_of(VIRTUAL) },
        ] {
            assert!(bad.encode().is_err(), "{bad:?}");
            assert!(Operation::decode(&codec::encode(&bad)).is_err(), "{bad:?}");
        }
    }
    assert!(Operation { end: at(-35_791_394), ..operation_of(VIRTUAL) }.encode().is_ok());
}

#[test]
fn many_predecessors_are_a_tree_of_their_own() {
    let rows: Vec<Predecessor> = (0..3000)
        .map(|n| Predecessor { commit: id(&n.to_string()), of: vec![id(&format!("before {n}"))] })
        .collect();
    let (many, nodes) = predecessors(rows.clone()).unwrap();
    let Predecessors::Tree(root) = many else { panic!("they are few") };
    let mut objects = Objects::default();
    let few = nodes[0].id();
    objects.take(nodes).unwrap();
    let found = objects.open(ObjectKind::Predecessors, root, |level, nodes| {
        open_predecessors(level, nodes.iter().map(AsRef::as_ref))
    });
    let sorted: BTreeMap<ObjectId, Vec<ObjectId>> =
        rows.into_iter().map(|row| (row.commit, row.of)).collect();
    assert_eq!(
        found.iter().map(|row| row.commit).collect::<Vec<_>>(),
        sorted.keys().copied().collect::<Vec<_>>()
    );
    let operation = |predecessors| Operation { predecessors, ..operation_of(VIRTUAL) };
    let object = operation(Predecessors::Tree(root)).encode().unwrap();
    assert!(matches!(objects.check(&object), Ok(Checked::Complete(_))));
    // A leaf is said in the operation itself.
    assert!(objects.check(&operation(Predecessors::Tree(few)).encode().unwrap()).is_err());
    assert!(operation(Predecessors::Listed(found)).encode().is_err());
}
