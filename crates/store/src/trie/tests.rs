//! The tables by themselves, with so few counts held that they are written in parts.

use std::collections::BTreeMap;

use ark_core::{
    Content, DeviceId, Dot, Entry, Incarnation, Mtime, Name, Object, Overlay, Permissions,
    Snapshot, Vector, Version, Writer,
};
use redb::{Database, ReadableDatabase};

use super::*;
use crate::index::create_tables;

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
        ark_recon::rebuild(&Writing { topic: TOPIC, links: &table }, &mut nodes).unwrap();
    }
    transaction.commit().unwrap();
    rows(&database).1
}

#[test]
fn counts_and_nodes_are_those_of_the_heads_however_many_change() {
    let mut world = World::default();
    let many: Vec<u64> = (0..2_000).map(|n| n % 1_500).collect();
    let mut edited = many.clone();
    edited[700] = 90_000;
    let other: Vec<u64> = (1_000..1_900).collect();
    let [many, edited, other, few] =
        [&many[..], &edited, &other, &[1, 2]].map(|contents| world.snapshot(contents));
    let database = database();
    // By turns more at once than is held, and less; with and without what was there.
    for heads in [
        vec![few],
        vec![few, many],
        vec![few, edited],
        vec![edited, other],
        vec![other],
        vec![],
        vec![few],
        vec![other, few, many],
    ] {
        let transaction = database.begin_write().unwrap();
        follow(&transaction, TOPIC, heads.iter().copied(), |link| world.read(link)).unwrap();
        transaction.commit().unwrap();
        let (links, nodes) = rows(&database);
        assert_eq!(links, world.counts(&heads));
        assert_eq!(nodes, nodes_of(&links));
        assert!(nodes.is_empty() == (links.len() <= ark_recon::LEAF_LINKS));
    }
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
    // Given up, one is empty and the others are as they were.
    let nothing = |link| Err(ReadError::Absent { link });
    follow(&transaction, TOPIC, [world.snapshot(&[1])], nothing).unwrap();
    transaction.commit().unwrap();
    let read = database.begin_read().unwrap();
    assert!(Trie::read(&read, TOPIC).unwrap().is_none());
    let (links, nodes) = rows(&database);
    assert_eq!(links.len(), 2 * world.counts(&[head]).len());
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
        assert_eq!(rows(&database), Rows::default(), "{damage}");
    }
}

/// What the tables cost: `cargo test --release -p ark-store --lib figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures_of_a_first_copy_and_of_edits() {
    use redb::ReadableTableMetadata;
    let mut world = World::default();
    let mut contents: Vec<u64> = (0..20_000).collect();
    let mut heads = vec![world.snapshot(&contents)];
    for n in 0..100_u64 {
        contents[usize::try_from(n).unwrap() * 190] = 1_000_000 + n;
        heads.push(world.snapshot(&contents));
    }
    let database = database();
    let mut spent = Vec::new();
    for &head in &heads {
        let transaction = database.begin_write().unwrap();
        let began = std::time::Instant::now();
        follow(&transaction, TOPIC, [head], |link| world.read(link)).unwrap();
        spent.push(began.elapsed());
        transaction.commit().unwrap();
    }
    let read = database.begin_read().unwrap();
    let links = read.open_table(LINKS).unwrap();
    let (count, links) = (links.len().unwrap(), links.stats().unwrap());
    let nodes = read.open_table(NODES).unwrap().stats().unwrap();
    let bytes =
        [&links, &nodes].map(|it| it.stored_bytes() + it.metadata_bytes() + it.fragmented_bytes());
    let (first, edits) = spent.split_first().unwrap();
    println!("{count} links: {first:?}, {bytes:?} bytes in links and nodes");
    println!("an edit: {:?}", edits.iter().sum::<std::time::Duration>() / 100);
}
