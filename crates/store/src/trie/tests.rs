//! The tables by themselves, with so few links counted in a transaction that some changes are too
//! many.

use std::collections::{BTreeMap, HashMap};

use ark_core::{
    Content, DeviceId, Dot, Entry, Incarnation, Mtime, Name, Object, Overlay, Permissions,
    Snapshot, TopicId, Vector, Version, Writer,
};
use redb::{Database, ReadableDatabase};

use super::kept::Look;
use super::*;
use crate::index::{create_tables, object_key};

const TOPIC: TopicNumber = 7;

fn topic() -> TopicId {
    TopicId::derive("my-project", None)
}

fn kept() -> Arc<Kept> {
    Arc::new(Kept::new(topic()))
}

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
            follow(&transaction, TOPIC, &kept(), heads.iter().copied(), |link| world.read(link))
                .unwrap();
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
        follow(&transaction, topic, &kept(), [head], |link| world.read(link)).unwrap();
    }
    // One is emptied, another is given up, and the third is as it was.
    follow(&transaction, TOPIC, &kept(), [], |link| world.read(link)).unwrap();
    let nothing = |link| Err(ReadError::Absent { link });
    follow(&transaction, TOPIC + 1, &kept(), [world.snapshot(&[1])], nothing).unwrap();
    transaction.commit().unwrap();
    let read = database.begin_read().unwrap();
    assert!(Trie::read(&read, TOPIC + 1, &kept()).unwrap().is_none());
    let trie = Trie::read(&read, TOPIC - 1, &kept()).unwrap().unwrap();
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
        follow(&transaction, TOPIC, &kept(), [head], |link| world.read(link)).unwrap();
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
        follow(&transaction, TOPIC, &kept(), [next], |link| world.read(link)).unwrap();
        transaction.commit().unwrap();
        let read = database.begin_read().unwrap();
        assert!(Trie::read(&read, TOPIC, &kept()).unwrap().is_none(), "{damage}");
    }
}

/// A trie as of now, with what is kept beside it.
fn trie(database: &Database, kept: &Arc<Kept>) -> Trie {
    Trie::read(&database.begin_read().unwrap(), TOPIC, kept).unwrap().unwrap()
}

/// Whether `sketch` is what would be made of `trie` now.
fn is_of(sketch: &Sketch, trie: &Trie) -> bool {
    let anew = Sketch::of(trie, topic()).unwrap();
    let same = anew == *sketch;
    assert_eq!(same, anew.digest() == sketch.digest(), "the digest says of which set it is");
    same
}

#[test]
fn a_sketch_goes_on_with_what_transactions_change() {
    let mut world = World::default();
    let mut contents: Vec<u64> = (0..450).collect();
    let (database, kept) = (database(), kept());
    let mut heads = vec![world.snapshot(&contents)];
    let follow_to = |world: &World, heads: &[Link], commits: bool| {
        let transaction = database.begin_write().unwrap();
        let heads = heads.iter().copied();
        let followed = follow(&transaction, TOPIC, &kept, heads, |link| world.read(link)).unwrap();
        assert_eq!(followed, Followed::Done);
        if commits {
            transaction.commit().unwrap();
        }
    };
    follow_to(&world, &heads, true);
    // Sessions that would read little do without, until all of them would have read half of all.
    let first = trie(&database, &kept);
    assert!(kept.sketch(&first, 0).unwrap().is_none());
    for _ in 0..2 {
        assert!(kept.sketch(&first, 110).unwrap().is_none());
    }
    let made = kept.sketch(&first, 40).unwrap().unwrap();
    assert!(is_of(&made, &first));
    let mut most_noted = 0;
    for step in 0..40_u64 {
        for change in 0..=step % 9 {
            contents[usize::try_from((7 * step + change) % 400).unwrap()] =
                1_000 + step * step % 90;
        }
        let next = world.snapshot(&contents);
        let next = if step % 5 == 0 { vec![heads[0], next] } else { vec![next] };
        if step % 4 == 1 {
            // What is not committed is left behind.
            follow_to(&world, &next[..1], false);
            let mut other = contents.clone();
            other[430] = 70_000 + step;
            let other = world.snapshot(&other);
            follow_to(&world, &[other], false);
        }
        let before = trie(&database, &kept);
        follow_to(&world, &next, true);
        heads = next;
        let now = trie(&database, &kept);
        if step % 3 == 0 {
            // As of before the last change, then of after it.
            let old = kept.sketch(&before, 0).unwrap().expect("all since is noted");
            assert!(is_of(&old, &before) && !is_of(&old, &now));
            let sketch = kept.sketch(&now, 0).unwrap().unwrap();
            assert!(is_of(&sketch, &now));
            // What went by is not to be had, and nothing else instead.
            assert!(kept.sketch(&before, 0).unwrap().is_none());
        }
        most_noted = most_noted.max(kept.kept().unwrap().1);
    }
    assert!(most_noted >= 2, "{most_noted}");
    let now = trie(&database, &kept);
    assert!(is_of(&kept.sketch(&now, 0).unwrap().unwrap(), &now));
    assert!(is_of(&made, &first), "what a session has stays as it is");
}

/// What changes without being noted, by more than is counted at once or by another way.
#[test]
fn a_sketch_that_nothing_leads_to_is_dropped() {
    let mut world = World::default();
    let contents: Vec<u64> = (0..450).collect();
    let edited = |n| contents.iter().map(move |content| content + u64::from(*content < n) * 9_000);
    let heads = [0, 1, 2].map(|n| world.snapshot(&edited(n).collect::<Vec<_>>()));
    let few = world.snapshot(&[1, 2]);
    let (database, kept, elsewhere) = (database(), kept(), kept());
    let follow_to = |kept: &Kept, head: Link| {
        let transaction = database.begin_write().unwrap();
        let followed = follow(&transaction, TOPIC, kept, [head], |link| world.read(link)).unwrap();
        assert_eq!(followed, Followed::Done);
        transaction.commit().unwrap();
    };
    follow_to(&kept, heads[0]);
    let first = trie(&database, &kept);
    assert!(kept.sketch(&first, u64::MAX).unwrap().is_some());
    follow_to(&elsewhere, heads[1]);
    let second = trie(&database, &kept);
    assert!(kept.sketch(&second, 0).unwrap().is_none(), "it is of another set");
    assert!(kept.sketch(&first, 0).unwrap().is_some());
    follow_to(&kept, heads[2]);
    assert!(kept.kept().is_none());
    // It is made again when it is worth it.
    let third = trie(&database, &kept);
    let sketch = kept.sketch(&third, u64::MAX).unwrap().unwrap();
    assert!(is_of(&sketch, &third));
    kept.forget();
    assert!(kept.kept().is_none() && kept.sketch(&third, 0).unwrap().is_none());
    assert!(kept.sketch(&third, u64::MAX).unwrap().is_some());
    // Sessions that see a later set, to which nothing leads, do not go without for ever.
    follow_to(&elsewhere, heads[0]);
    let fourth = trie(&database, &kept);
    assert!(kept.sketch(&fourth, 100).unwrap().is_none());
    assert!(is_of(&kept.sketch(&fourth, 400).unwrap().unwrap(), &fourth));
    assert!(kept.sketch(&third, 0).unwrap().is_none());
    // Of a set that has become small none is kept.
    follow_to(&kept, few);
    assert!(kept.kept().is_none());
    assert!(kept.sketch(&trie(&database, &kept), u64::MAX).unwrap().is_none());
}

/// What is noted from the first session on leads from there to the set that a sketch is made of,
/// and from that on while it is made.
#[test]
fn a_sketch_is_made_while_the_set_changes() {
    let mut world = World::default();
    let contents: Vec<u64> = (0..450).collect();
    let edited = |n| contents.iter().map(move |content| content + u64::from(*content < n) * 9_000);
    let heads = [0, 1, 2, 3].map(|n| world.snapshot(&edited(n).collect::<Vec<_>>()));
    let (database, kept) = (database(), kept());
    let follow_to = |head: Link| {
        let transaction = database.begin_write().unwrap();
        let followed = follow(&transaction, TOPIC, &kept, [head], |link| world.read(link)).unwrap();
        assert_eq!(followed, Followed::Done);
        transaction.commit().unwrap();
        trie(&database, &kept)
    };
    let root = |trie: &Trie| ark_recon::digest(trie, trie, Prefix::ROOT).unwrap();
    let first = follow_to(heads[0]);
    assert!(matches!(kept.look(root(&first), 0), Look::Without));
    let second = follow_to(heads[1]);
    assert!(matches!(kept.look(root(&second), u64::MAX), Look::Make));
    // Only one makes it.
    assert!(matches!(kept.look(root(&second), u64::MAX), Look::Without));
    let third = follow_to(heads[2]);
    assert!(matches!(kept.look(root(&third), u64::MAX), Look::Without));
    let made = Arc::new(Sketch::of(&second, topic()).unwrap());
    // One of another set is not taken for it.
    kept.made(root(&first), Some(&made));
    assert!(matches!(kept.look(root(&second), 0), Look::Without));
    kept.made(root(&second), Some(&made));
    let fourth = follow_to(heads[3]);
    for trie in [&second, &third, &fourth] {
        let Look::Found(sketch) = kept.look(root(trie), 0) else { panic!("noted since the first") };
        assert!(is_of(&sketch, trie));
    }
    // Where it cannot be made, the next may try.
    kept.forget();
    assert!(matches!(kept.look(root(&fourth), u64::MAX), Look::Make));
    kept.made(root(&fourth), None);
    assert!(matches!(kept.look(root(&fourth), u64::MAX), Look::Make));
}
