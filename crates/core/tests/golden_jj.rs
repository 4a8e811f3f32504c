//! The bytes of each kind of object of a jj repo, pinned as `golden.rs` says.

mod pinned;

use ark_core::jj::{
    Commit, Copy, Operation, Person, Predecessor, Predecessors, RefState, Signing, Target, Time,
    TreeEntry, TreeValue, VIRTUAL, ViewRow, open_predecessors, open_tree, open_view, predecessors,
    tree, view,
};
use ark_core::{Content, Object, ObjectId, ObjectKind};
use pinned::fixture;

/// That `object` is what the fixture says.
fn pin(name: &str, object: &Object) {
    pinned::pin(name, object.bytes());
}

fn id(text: &str) -> ObjectId {
    ObjectId::of(text.as_bytes())
}

fn person(name: &str, millis: i64, offset_minutes: i32) -> Person {
    let email = format!("{name}@example.org");
    Person { name: name.into(), email, time: Time { millis, offset_minutes } }
}

fn commit() -> Commit {
    Commit {
        parents: vec![id("parent"), VIRTUAL],
        predecessors: vec![id("predecessor")],
        trees: vec![id("tree")],
        labels: Vec::new(),
        change: *b"sixteen of these",
        description: "what was done\n".into(),
        author: person("author", 1_700_000_000_123, 60),
        committer: person("committer", -1, -570),
        signing: None,
    }
}

#[test]
fn commit_plain() {
    pin("commit-v1-plain", &commit().encode().unwrap());
    assert_eq!(Commit::decode(&fixture("commit-v1-plain")).unwrap(), commit());
}

#[test]
fn commit_in_conflict_and_signed() {
    let commit = Commit {
        trees: vec![id("ours"), id("base"), VIRTUAL],
        labels: vec!["ours".into(), String::new(), "a label that is longer".into()],
        signing: Some(Signing { data: None, signature: b"a signature".to_vec() }),
        ..commit()
    };
    pin("commit-v1-conflict-signed", &commit.encode().unwrap());
    assert_eq!(Commit::decode(&fixture("commit-v1-conflict-signed")).unwrap(), commit);
}

#[test]
fn commit_signed_in_another_form() {
    let data = Some(b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n".to_vec());
    let signing = Some(Signing { data, signature: b"a signature".to_vec() });
    let commit = Commit { signing, ..commit() };
    pin("commit-v1-signed-elsewhere", &commit.encode().unwrap());
    assert_eq!(Commit::decode(&fixture("commit-v1-signed-elsewhere")).unwrap(), commit);
}

#[test]
fn copy() {
    let copy = Copy { path: "a/b".into(), parents: vec![id("copied")], salt: vec![1, 2, 3] };
    pin("copy-v1", &copy.encode().unwrap());
    assert_eq!(Copy::decode(&fixture("copy-v1")).unwrap(), copy);
}

fn entries() -> Vec<TreeEntry> {
    let entry = |name: &str, value| TreeEntry { name: name.into(), value };
    let file = |content, is_executable, copy| TreeValue::File { content, is_executable, copy };
    vec![
        entry("directory", TreeValue::Tree(id("directory"))),
        entry("empty", TreeValue::Tree(VIRTUAL)),
        entry("large", file(Content::Chunked(id("large")), false, None)),
        entry("link", TreeValue::Symlink(id("target"))),
        entry("program", file(Content::Raw(id("program")), true, Some(id("copy")))),
        entry("submodule", TreeValue::Submodule(vec![5; 20])),
    ]
}

#[test]
fn tree_of_each_kind() {
    let (_, nodes) = tree(entries()).unwrap();
    pin("tree-v1-leaf", &nodes[0]);
    let opened = open_tree(None, [fixture("tree-v1-leaf").as_slice()]).unwrap();
    assert_eq!(opened, ark_core::jj::Opened::Rows(entries()));
}

#[test]
fn tree_node_over_nodes() {
    let template = entries().remove(0);
    let named = |n| TreeEntry { name: format!("{n:04}"), ..template.clone() };
    let (root, nodes) = tree((0..500).map(named).collect()).unwrap();
    pin("tree-v1-inner", nodes.iter().find(|node| node.id() == root).unwrap());
    let links = ark_core::links(nodes.last().unwrap().link(), &fixture("tree-v1-inner")).unwrap();
    assert!(links.len() > 1 && links.iter().all(|link| link.kind == ObjectKind::Tree));
}

#[test]
fn view_of_each_row() {
    let target = |terms: &[Option<&str>]| Target(terms.iter().map(|term| term.map(id)).collect());
    let (one, none) = (target(&[Some("commit")]), target(&[None]));
    let conflict = target(&[Some("ours"), None, Some("theirs")]);
    let rows = vec![
        ViewRow::Head(id("head")),
        ViewRow::Bookmark("main".into(), conflict),
        ViewRow::Tag("v1".into(), one.clone()),
        ViewRow::Remote("empty".into()),
        ViewRow::Remote("origin".into()),
        ViewRow::RemoteBookmark("origin".into(), "main".into(), one.clone(), RefState::Tracked),
        ViewRow::RemoteTag("origin".into(), "v1".into(), none, RefState::New),
        ViewRow::GitRef("refs/heads/main".into(), one.clone()),
        ViewRow::GitHead("default".into(), one),
        ViewRow::WorkingCopy("default".into(), VIRTUAL),
    ];
    let (_, nodes) = view(rows.clone()).unwrap();
    pin("view-v1-leaf", &nodes[0]);
    let opened = open_view(None, [fixture("view-v1-leaf").as_slice()]).unwrap();
    let ark_core::jj::Opened::Rows(found) = opened else { panic!("it is a leaf") };
    assert!(found.len() == rows.len() && rows.iter().all(|row| found.contains(row)));
}

#[test]
fn view_node_over_nodes() {
    let rows = (0..500).map(|n| ViewRow::Head(id(&format!("{n}")))).collect();
    let (root, nodes) = view(rows).unwrap();
    pin("view-v1-inner", nodes.iter().find(|node| node.id() == root).unwrap());
    let links = ark_core::links(nodes.last().unwrap().link(), &fixture("view-v1-inner")).unwrap();
    assert!(links.len() > 1 && links.iter().all(|link| link.kind == ObjectKind::View));
}

fn made(count: usize) -> (Predecessors, Vec<Object>) {
    let row = |n| Predecessor { commit: id(&format!("{n}")), of: vec![id("before"), VIRTUAL] };
    predecessors((0..count).map(row).collect()).unwrap()
}

fn operation(predecessors: Predecessors) -> Operation {
    Operation {
        view: id("view"),
        parents: vec![id("operation"), VIRTUAL],
        start: Time { millis: 1_700_000_000_000, offset_minutes: 60 },
        end: Time { millis: 1_700_000_000_250, offset_minutes: 60 },
        description: "describe commit".into(),
        hostname: "host".into(),
        username: "user".into(),
        is_snapshot: true,
        workspace: Some("default".into()),
        attributes: vec![("args".into(), "jj describe".into()), ("more".into(), String::new())],
        predecessors,
    }
}

#[test]
fn operation_with_its_predecessors_or_without() {
    let listed = operation(made(2).0);
    pin("operation-v1-listed", &listed.encode().unwrap());
    assert_eq!(Operation::decode(&fixture("operation-v1-listed")).unwrap(), listed);
    let unknown = Operation { workspace: None, ..operation(Predecessors::Unknown) };
    pin("operation-v1-unknown", &unknown.encode().unwrap());
    assert_eq!(Operation::decode(&fixture("operation-v1-unknown")).unwrap(), unknown);
}

#[test]
fn operation_with_many_predecessors() {
    let (many, nodes) = made(500);
    let many = operation(many);
    pin("operation-v1-many", &many.encode().unwrap());
    assert_eq!(Operation::decode(&fixture("operation-v1-many")).unwrap(), many);
    pin("predecessors-v1-inner", nodes.last().unwrap());
    open_predecessors(None, [fixture("predecessors-v1-inner").as_slice()]).unwrap();
}
