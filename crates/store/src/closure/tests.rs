//! Closures as walks find them: what is long is no fault, what is deep is, and neither takes more
//! memory than it may.

use std::collections::BTreeMap;

use ark_core::jj::{
    Commit, Operation, Person, Predecessors, Time, TreeEntry, TreeValue, VIRTUAL, tree,
};
use ark_core::{Object, ObjectId};
use redb::{Database, ReadableDatabase as _};

use super::*;
use crate::index::{create_tables, insert_objects};

const TOPIC: TopicNumber = 3;

/// What was received, over an index in memory.
struct Received {
    database: Database,
    objects: HashMap<Link, Bytes>,
    fetched: usize,
}

impl Received {
    fn new(objects: impl IntoIterator<Item = Object>) -> Self {
        let memory = redb::backends::InMemoryBackend::new();
        let database = redb::Builder::new().create_with_backend(memory).unwrap();
        let transaction = database.begin_write().unwrap();
        create_tables(&transaction).unwrap();
        transaction.commit().unwrap();
        let objects = objects.into_iter().map(|it| (it.link(), it.into_bytes())).collect();
        Self { database, objects, fetched: 0 }
    }

    fn view(&self) -> View {
        View::new(&self.database.begin_read().unwrap()).unwrap()
    }

    fn index(&self, objects: &[(Link, Summary)]) {
        let transaction = self.database.begin_write().unwrap();
        insert_objects(&transaction, TOPIC, objects).unwrap();
        transaction.commit().unwrap();
    }

    fn close(&mut self, root: Link, most: usize) -> Closure {
        let view = self.view();
        close_holding(TOPIC, view, self, &[root], (10, most)).unwrap()
    }

    /// Closes it and indexes what is whole; whether that is all.
    fn is_whole(&mut self, root: Link, most: usize) -> bool {
        let (done, is_whole) = match self.close(root, most) {
            Closure::Whole(done) => (done, true),
            Closure::Missing { done, .. } => (done, false),
            Closure::Invalid { error, .. } => panic!("{error}"),
        };
        self.index(&done);
        is_whole
    }

    fn is_indexed(&self, link: Link) -> bool {
        self.view().is_indexed(TOPIC, link).unwrap()
    }
}

impl Source for Received {
    type Error = IndexError;

    fn fetch(&mut self, _view: &View, link: Link) -> Result<Fetched, IndexError> {
        self.fetched += 1;
        Ok(self.objects.get(&link).map_or(Fetched::Absent, |bytes| Fetched::Here(bytes.clone())))
    }

    fn flush(&mut self, objects: Vec<(Link, Summary)>) -> Result<View, IndexError> {
        self.index(&objects);
        Ok(self.view())
    }
}

const TIME: Time = Time { millis: 0, offset_minutes: 0 };

/// Commits, each with the one before it for a parent.
fn commits(count: usize) -> Vec<Object> {
    let person = || Person { name: "n".into(), email: "n@example.org".into(), time: TIME };
    let mut parent = VIRTUAL;
    let commit = |_| {
        let commit = Commit {
            parents: vec![parent],
            predecessors: Vec::new(),
            trees: vec![VIRTUAL],
            labels: Vec::new(),
            change: [1; 16],
            description: String::new(),
            author: person(),
            committer: person(),
            signing: None,
        };
        let object = commit.encode().unwrap();
        parent = object.id();
        object
    };
    (0..count).map(commit).collect()
}

fn operation(parents: Vec<ObjectId>, text: &str) -> Object {
    let operation = Operation {
        view: VIRTUAL,
        parents,
        start: TIME,
        end: TIME,
        description: text.into(),
        hostname: String::new(),
        username: String::new(),
        is_snapshot: false,
        workspace: None,
        attributes: Vec::new(),
        predecessors: Predecessors::Unknown,
    };
    operation.encode().unwrap()
}

#[test]
fn a_history_may_be_long() {
    let history = commits(100_000);
    let (first, last) = (history[0].link(), history.last().unwrap().link());
    let mut received = Received::new(history);
    assert!(received.is_whole(last, MAX_WAITING));
    assert!(received.is_indexed(first) && received.is_indexed(last));
    assert!(received.fetched <= 200_000, "{} reads", received.fetched);
}

#[test]
fn of_a_history_longer_than_what_is_held_the_beginning_is_checked_first() {
    let history = commits(1_000);
    let links: Vec<Link> = history.iter().map(Object::link).collect();
    let mut received = Received::new(history.clone());
    assert!(received.is_whole(links[999], 100));
    assert!(links.iter().all(|link| received.is_indexed(*link)));
    // Ten times the whole way down, and each once more to finish it.
    assert!(received.fetched <= 10 * 1_000 + 1_000, "{} reads", received.fetched);

    // Where the beginning is not here it is said once, and nothing is walked again.
    let mut received = Received::new(history.into_iter().skip(1));
    match received.close(links[999], 100) {
        Closure::Missing { missing, done } => {
            assert_eq!((missing, done.len()), (vec![links[0]], 0));
        }
        _ => panic!("it is neither whole nor invalid"),
    }
    assert!(received.fetched <= 2_000, "{} reads", received.fetched);
}

/// Each step of a history links much that was not looked at yet.
#[test]
fn what_waits_is_bounded_by_links() {
    let sides: Vec<Object> =
        (0..20).map(|side| operation(vec![VIRTUAL], &format!("side {side}"))).collect();
    let mut all = vec![operation(vec![VIRTUAL], "first")];
    for step in 0..100 {
        // What is last is looked at first.
        let parents = sides.iter().chain(all.last()).map(Object::id).collect();
        all.push(operation(parents, &step.to_string()));
    }
    let last = all.last().unwrap().link();
    let mut received = Received::new(all.into_iter().chain(sides));
    assert!(received.is_whole(last, 210));
    let reads = received.fetched;
    // More than once each to look and to finish, as the line did not fit at first.
    assert!((280..1_000).contains(&reads), "{reads} reads");
}

/// Operations that part and meet again and again, so that each is come to by many ways.
#[test]
fn a_history_that_parts_and_meets_is_walked_once() {
    let mut all = vec![operation(vec![VIRTUAL], "first")];
    for step in 0..200 {
        let from = vec![all.last().unwrap().id()];
        let sides = ["a", "b"].map(|side| operation(from.clone(), &format!("{step}{side}")));
        let merge = operation(sides.iter().map(Object::id).collect(), "merge");
        all.extend(sides.into_iter().chain([merge]));
    }
    let links: Vec<Link> = all.iter().map(Object::link).collect();
    for most in [MAX_WAITING, 50] {
        let mut received = Received::new(all.clone());
        assert!(received.is_whole(*links.last().unwrap(), most));
        assert!(links.iter().all(|link| received.is_indexed(*link)));
        assert!(received.fetched <= 20 * links.len(), "{} reads", received.fetched);
    }
}

#[test]
fn what_nests_is_bounded() {
    let mut objects: BTreeMap<Link, Object> = BTreeMap::new();
    let mut inner = None;
    for _ in 0..=MAX_DEPTH + 1 {
        let value = inner.map_or(
            TreeValue::File {
                content: ark_core::Content::Raw(ObjectId::of(b"")),
                is_executable: false,
                copy: None,
            },
            TreeValue::Tree,
        );
        let (root, nodes) = tree(vec![TreeEntry { name: "d".into(), value }]).unwrap();
        objects.extend(nodes.into_iter().map(|node| (node.link(), node)));
        inner = Some(root);
    }
    let root = Link { kind: ObjectKind::Tree, id: inner.unwrap() };
    let mut received = Received::new(objects.into_values());
    match received.close(root, MAX_WAITING) {
        Closure::Invalid { error, .. } => assert!(error.to_string().contains("nested"), "{error}"),
        _ => panic!("it was walked to its end"),
    }
}
