//! The tables by themselves, with so few links counted in a transaction that some changes are too
//! many.

use std::collections::{BTreeMap, HashMap};

use ark_core::{
    Content, DeviceId, Dot, Entry, Incarnation, Mtime, Name, Object, Overlay, Permissions,
    Snapshot, Vector, Version, Writer,
};
use redb::{Database, ReadableDatabase};

use super::*;
use crate::index::{create_tables, object_key};

const TOPIC: TopicNumber = 7;

fn database() -> Database {
    let memory = redb::backends::InMemoryBackend::new();
    let database = redb::Builder::new().create_with_backend(memory).unwrap();
    let transaction = database.begin_write().unwrap();
    create_tables(&transaction).unwrap();
    transaction.commit().unwrap();
    database
}

/// Has no object.
struct Nothing;

impl ark_core::Read for Nothing {
    type Error = ReadError;

    fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        Err(ReadError::Absent { link })
    }
}

/// All that was ever made, by link.
#[derive(Default)]
struct World(HashMap<Link, Bytes>);

impl World {
    fn keep(&mut self, object: Object) -> Link {
        let link = object.link();
        self.0.insert(link, object.into_bytes());
        link
    }

    /// A snapshot with these contents under the names of their places.
    fn snapshot(&mut self, contents: &[u64]) -> Link {
        let device = DeviceId::from_bytes([1; 32]);
        let dot = Dot { writer: Writer { device, incarnation: Incarnation::new(1) }, sequence: 1 };
        let mut overlay = Overlay::new(Nothing);
        let mut edits = BTreeMap::new();
        for (at, content) in contents.iter().enumerate() {
            let name = Name::new(format!("{at:04}").as_bytes()).unwrap();
            let raw = self.keep(Object::new(ObjectKind::Raw, content.to_le_bytes().to_vec()));
            let version = Version {
                node: ark_core::Node::File { content: Content::Raw(raw.id), size: 8 },
                dots: vec![dot],
                permissions: Permissions::from_mode(0o644),
                permissions_dot: dot,
                mtime: Mtime::default(),
                aside: false,
            };
            edits.insert(name.clone(), Some(Entry { name, versions: vec![version] }));
        }
        let empty = overlay.put(ark_core::empty_directory());
        let (root, _) = ark_core::edit(&mut overlay, empty, edits).unwrap();
        for object in overlay.into_made() {
            self.keep(object);
        }
        let mut vector = Vector::empty();
        vector.take_in(dot);
        self.keep(Snapshot { root, vector, wall_time_ms: 0 }.encode())
    }

    fn read(&self, link: Link) -> Result<Bytes, ReadError> {
        self.0.get(&link).cloned().ok_or(ReadError::Absent { link })
    }

    /// How many links lead to each link that the heads reach.
    fn counts(&self, heads: &[Link]) -> BTreeMap<ObjectKey, u32> {
        let mut counts = BTreeMap::new();
        let mut stack = heads.to_vec();
        while let Some(link) = stack.pop() {
            let count = counts.entry(object_key(TOPIC, link)).or_insert(0);
            *count += 1;
            if *count == 1 {
                stack.extend(ark_core::links(link, &self.0[&link]).unwrap());
            }
        }
        counts
    }
}

type Rows = (BTreeMap<ObjectKey, u32>, BTreeMap<NodeKey, Vec<u8>>);

fn rows(database: &Database) -> Rows {
    let read = database.begin_read().unwrap();
    let links = read.open_table(LINKS).unwrap();
    let links = links.iter().unwrap().map(Result::unwrap);
    let nodes = read.open_table(NODES).unwrap();
    let nodes = nodes.iter().unwrap().map(Result::unwrap);
    (
        links.map(|(key, count)| (*key.value(), count.value())).collect(),
        nodes.map(|(key, node)| (*key.value(), node.value().to_vec())).collect(),
    )
}

/// The nodes over these links, made at once.
fn nodes_of(links: &BTreeMap<ObjectKey, u32>) -> BTreeMap<NodeKey, Vec<u8>> {
    let database = database();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(LINKS).unwrap();
        for (key, count) in links {
            table.insert(key, count).unwrap();
        }
        let nodes = transaction.open_table(NODES).unwrap();
        let mut nodes = WritingNodes { topic: TOPIC, nodes };
        ark_recon::rebuild(&LinksOf { topic: TOPIC, links: &table }, &mut nodes).unwrap();
    }
    transaction.commit().unwrap();
    rows(&database).1
}

/// Brings the tables after heads of which too many links changed, in windows of so few.
fn by_windows(database: &Database, world: &World, heads: &[Link]) {
    const MOST: usize = 300;
    let before = database.begin_read().unwrap();
    let (links, new) = (before.open_table(LINKS).unwrap(), Roots(heads.iter().copied().collect()));
    let old = roots_in(&before.open_table(ROOTS).unwrap(), TOPIC).unwrap().unwrap();
    let transaction = database.begin_write().unwrap();
    let (mut first, mut windows) = (ObjectId::from_bytes([0; 32]), 0);
    let mut last = None;
    loop {
        let window = Window::From { first, until: None, most: MOST };
        let mut counting = Counting::new(TOPIC, Some(&links), |link| world.read(link), window);
        assert!(counting.turn(&old, &new).is_ok());
        let until = counting.until();
        let mut table = transaction.open_table(LINKS).unwrap();
        let rows = counting.into_rows();
        assert!(rows.len() <= MOST);
        for row in rows {
            assert!(last < Some(object_key(TOPIC, row.link)), "in order");
            last = Some(object_key(TOPIC, row.link));
            row.write(&mut table, TOPIC).unwrap();
        }
        windows += 1;
        match until {
            Some(until) => first = until,
            None => break,
        }
    }
    assert!(windows > 1);
    {
        let links = transaction.open_table(LINKS).unwrap();
        let mut nodes =
            WritingNodes { topic: TOPIC, nodes: transaction.open_table(NODES).unwrap() };
        clear_nodes(&mut nodes.nodes, TOPIC).unwrap();
        ark_recon::rebuild(&LinksOf { topic: TOPIC, links: &links }, &mut nodes).unwrap();
        let mut roots = transaction.open_table(ROOTS).unwrap();
        roots.insert(TOPIC, new.to_bytes().as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn counts_and_nodes_are_those_of_the_heads_however_many_change() {
    let mut world = World::default();
    let many: Vec<u64> = (0..2_000).map(|n| n % 1_500).collect();
    let mut edited = many.clone();
    edited[700] = 90_000;
    let other: Vec<u64> = (1_000..1_300).collect();
    let [many, edited, other, few] =
        [&many[..], &edited, &other, &[1, 2]].map(|contents| world.snapshot(contents));
    let database = database();
    let mut later = 0;
    // By turns more at once than is counted, and less; with and without what was there.
    for heads in [
        vec![few],
        vec![few, many],
        vec![few, edited],
        vec![edited, other],
        vec![other],
        vec![],
        vec![few],
        vec![few, other],
        vec![other],
        vec![other, few, many],
    ] {
        let transaction = database.begin_write().unwrap();
        let before = rows(&database);
        let followed =
            follow(&transaction, TOPIC, heads.iter().copied(), |link| world.read(link)).unwrap();
        transaction.commit().unwrap();
        if followed == Followed::Later {
            assert_eq!(rows(&database), before, "nothing is done by half");
            later += 1;
            by_windows(&database, &world, &heads);
        }
        let (links, nodes) = rows(&database);
        assert_eq!(links, world.counts(&heads));
        assert_eq!(nodes, nodes_of(&links));
        assert!(nodes.is_empty() == (links.len() <= ark_recon::LEAF_LINKS));
    }
    assert_eq!(later, 3);
}

#[test]
fn heads_of_any_kind_come_back_from_their_row() {
    for kind in [ObjectKind::Snapshot, ObjectKind::Directory] {
        let link = |n: u8| Link { id: ObjectId::from_bytes([n; 32]), kind };
        let roots = Roots([link(1), link(2)].into());
        assert_eq!(Roots::read(&roots.to_bytes()), Some(roots));
    }
    assert_eq!(Roots::read(&Roots::default().to_bytes()), Some(Roots::default()));
    assert_eq!(Roots::read(UNKNOWN), None);
}

#[test]
fn repos_do_not_see_each_other() {
    let mut world = World::default();
    let contents: Vec<u64> = (0..400).collect();
    let head = world.snapshot(&contents);
    let database = database();
    let transaction = database.begin_write().unwrap();
    for topic in [TOPIC - 1, TOPIC, TOPIC + 1] {
        follow(&transaction, topic, [head], |link| world.read(link)).unwrap();
    }
    // One is emptied, another is given up, and the third is as it was.
    follow(&transaction, TOPIC, [], |link| world.read(link)).unwrap();
    let nothing = |link| Err(ReadError::Absent { link });
    follow(&transaction, TOPIC + 1, [world.snapshot(&[1])], nothing).unwrap();
    transaction.commit().unwrap();
    let read = database.begin_read().unwrap();
    assert!(Trie::read(&read, TOPIC + 1).unwrap().is_none());
    let trie = Trie::read(&read, TOPIC - 1).unwrap().unwrap();
    let links = ark_recon::Links::links(&trie, Prefix::ROOT).unwrap().count();
    assert_eq!(links, world.counts(&[head]).len());
    let (links, nodes) = rows(&database);
    assert!(links.keys().all(|key| key[..4] != TOPIC.to_be_bytes()));
    assert!(nodes.keys().all(|key| key[..4] != TOPIC.to_be_bytes()));
}

#[test]
fn damaged_rows_stop_comparisons_and_nothing_else() {
    let mut world = World::default();
    let contents: Vec<u64> = (0..400).collect();
    let (head, next) = (world.snapshot(&contents), world.snapshot(&contents[1..]));
    for damage in ["links", "nodes", "kind"] {
        let database = database();
        let transaction = database.begin_write().unwrap();
        follow(&transaction, TOPIC, [head], |link| world.read(link)).unwrap();
        {
            let mut links = transaction.open_table(LINKS).unwrap();
            let mut nodes = transaction.open_table(NODES).unwrap();
            match damage {
                "links" => drop(links.insert(&object_key(TOPIC, head), 0).unwrap()),
                "nodes" => {
                    let root = node_key(TOPIC, Prefix::ROOT);
                    nodes.insert(&root, [1, 2].as_slice()).unwrap();
                }
                _ => {
                    let (_, last) = object_keys(TOPIC, next.id);
                    links.insert(&last, 1).unwrap();
                }
            }
        }
        follow(&transaction, TOPIC, [next], |link| world.read(link)).unwrap();
        transaction.commit().unwrap();
        let read = database.begin_read().unwrap();
        assert!(Trie::read(&read, TOPIC).unwrap().is_none(), "{damage}");
    }
}
