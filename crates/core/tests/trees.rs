//! A directory's tree depends on the set of its entries alone; one change costs a few nodes, and
//! a comparison reads only what differs.

mod memory;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Entry, MAX_ENTRY_WEIGHT, MAX_OBJECT_BYTES, Name, ObjectId, Totals, TreeError, dir,
    empty_directory,
};
use memory::{Memory, dot, entry, file, name};
use proptest::prelude::*;

type Edits = BTreeMap<Name, Option<Entry>>;

fn edit(memory: &Memory, root: ObjectId, edits: Edits) -> (ObjectId, Totals) {
    memory.with(|overlay| dir::edit(overlay, root, edits).unwrap()).0
}

fn build(memory: &Memory, entries: impl IntoIterator<Item = Entry>) -> ObjectId {
    let edits = entries.into_iter().map(|entry| (entry.name.clone(), Some(entry))).collect();
    edit(memory, empty_directory().id(), edits).0
}

fn all(memory: &Memory, root: ObjectId) -> Vec<Entry> {
    dir::entries(memory, root).collect::<Result<_, _>>().unwrap()
}

/// Names of about twelve bytes, half of them counted as a camera does.
fn many(count: u64) -> impl Iterator<Item = Entry> {
    (0..count).map(|i| {
        let text = match i % 2 {
            0 => format!("IMG_{i:06}.jp"),
            _ => format!("{}.txt", &ObjectId::of(&i.to_le_bytes()).to_string()[..10]),
        };
        entry(&text, file(&format!("content {i}"), dot((i % 3) as u8, 1 + i / 100)))
    })
}

fn rewritten(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.versions = vec![file("another content", dot(1, 5_000))];
    entry
}

#[test]
fn one_change_among_200_000_makes_a_few_small_nodes_and_is_found_by_few_reads() {
    let memory = Memory::default();
    let entries: Vec<_> = many(200_000).collect();
    let root = build(&memory, entries.iter().cloned());
    let (mut nodes, mut bytes, mut count) = (0, 0, 0);
    for old in entries.iter().step_by(3_999) {
        let new = rewritten(old);
        let edits = BTreeMap::from([(new.name.clone(), Some(new.clone()))]);
        let ((changed, _), made) = memory.with(|overlay| dir::edit(overlay, root, edits).unwrap());
        let (found, reads) = memory
            .reads_of(|| dir::diff(&memory, root, changed).collect::<Result<Vec<_>, _>>().unwrap());
        assert_eq!(found, [(new.name.clone(), Some(old.clone()), Some(new.clone()))]);
        assert!(reads <= 2 * made.len() && reads <= 16, "{reads} reads for one difference");
        let (found, reads) = memory.reads_of(|| dir::get(&memory, changed, &new.name).unwrap());
        assert_eq!((found, reads), (Some(new), made.len()));
        nodes += made.len();
        bytes += made.iter().map(|object| object.bytes().len()).sum::<usize>();
        count += 1;
    }
    let (nodes, bytes) = (nodes.div_ceil(count), bytes / count);
    assert!(nodes <= 6 && bytes <= 8_000, "{nodes} nodes of {bytes} bytes for one change");
    // What is in it is counted without reading more than the root.
    let (totals, reads) = memory.reads_of(|| dir::directory_totals(&memory, root).unwrap());
    assert_eq!((totals.files, totals.aside, reads), (200_000, 0, 1));
}

#[test]
fn copies_are_found_without_reading_what_has_none() {
    let memory = Memory::default();
    let mut entries: Vec<_> = many(5_000).collect();
    let conflict = &mut entries[1_234];
    let mut version = file("set aside", dot(4, 1));
    version.aside = true;
    conflict.versions.push(version);
    let conflict = conflict.clone();
    let root = build(&memory, entries);
    let (found, reads) = memory
        .reads_of(|| dir::entries_aside(&memory, root).collect::<Result<Vec<_>, _>>().unwrap());
    assert_eq!(found, [conflict]);
    assert!(reads <= 6, "{reads} reads");
}

#[test]
fn an_edit_that_changes_nothing_makes_nothing() {
    let memory = Memory::default();
    let entries: Vec<_> = many(3_000).collect();
    let root = build(&memory, entries.clone());
    let mut edits: Edits =
        entries.into_iter().step_by(7).map(|entry| (entry.name.clone(), Some(entry))).collect();
    edits.insert(name("never there"), None);
    for edits in [Edits::new(), edits] {
        let ((same, _), made) = memory.with(|overlay| dir::edit(overlay, root, edits).unwrap());
        assert_eq!((same, made.len()), (root, 0));
    }
}

/// As a copy of a large tree fills a directory while it is taken up: each edit adds after the last
/// name, where a node may have ended with the entries alone.
#[test]
fn a_tree_that_grows_at_its_end_is_the_tree_made_anew() {
    let entries: Vec<_> = (0..2_400)
        .map(|i| entry(&format!("{i:05}"), file(&format!("content {i}"), dot(0, 1))))
        .collect();
    for step in [1, 7, 40] {
        let memory = Memory::default();
        let mut root = empty_directory().id();
        for (count, added) in entries.chunks(step).enumerate() {
            let edits = added.iter().map(|entry| (entry.name.clone(), Some(entry.clone())));
            root = edit(&memory, root, edits.collect()).0;
            let so_far = count * step + added.len();
            if so_far.is_multiple_of(40) {
                let anew = build(&memory, entries[..so_far].iter().cloned());
                assert_eq!(root, anew, "{so_far} entries, {step} at a time");
            }
        }
    }
}

#[test]
fn removing_everything_leaves_the_empty_directory() {
    let memory = Memory::default();
    let entries: Vec<_> = many(500).collect();
    let root = build(&memory, entries.clone());
    let edits = entries.into_iter().map(|entry| (entry.name, None)).collect();
    assert_eq!(edit(&memory, root, edits), (empty_directory().id(), Totals::default()));
    assert_eq!(all(&Memory::default(), empty_directory().id()), []);
}

/// Names by whose hashes no leaf ends, so that it ends where it is full.
fn endless(count: usize) -> Vec<Entry> {
    (0..)
        .map(|i| format!("endless {i:06}"))
        .filter(|text| ObjectId::of(text.as_bytes()).as_bytes()[0] & 7 != 0)
        .take(count)
        .map(|text| entry(&text, file(&text, dot(1, 1))))
        .collect()
}

/// Entries of thousands of dots, so that a leaf ends where it is heavy.
fn heavy(count: u64, dots: u64) -> Vec<Entry> {
    let heavy = |i| {
        let mut version = file("equal", dot(0, 1));
        version.dots = (1..=dots).map(|sequence| dot((sequence % 7) as u8, sequence)).collect();
        version.dots.sort();
        version.permissions_dot = version.dots[0];
        entry(&format!("heavy {i:03}"), version)
    };
    (0..count).map(heavy).collect()
}

#[test]
fn full_nodes_end_alike_however_they_were_filled() {
    for entries in [endless(2_200), heavy(40, 1_500)] {
        let memory = Memory::default();
        let root = build(&memory, entries.iter().cloned());
        assert_eq!(all(&memory, root), entries);
        // In front, in the middle and at the end, each way round.
        for at in [0, 1, entries.len() / 2, entries.len() - 1] {
            let (mut less, removed) = (entries.clone(), entries[at].name.clone());
            let back = less.remove(at);
            let without = build(&memory, less);
            let edited = edit(&memory, root, BTreeMap::from([(removed.clone(), None)]));
            assert_eq!(edited.0, without, "without {at}");
            let edited = edit(&memory, without, BTreeMap::from([(removed, Some(back))]));
            assert_eq!(edited.0, root, "with {at}");
        }
    }
}

#[test]
fn the_heaviest_entries_fit_into_nodes_and_heavier_ones_are_refused() {
    let dots = (MAX_ENTRY_WEIGHT as u64 - 300) / 64;
    let memory = Memory::default();
    let entries = heavy(3, dots);
    let edits = |entries: Vec<Entry>| -> Edits {
        entries.into_iter().map(|entry| (entry.name.clone(), Some(entry))).collect()
    };
    let empty = empty_directory().id();
    let ((root, _), made) =
        memory.with(|overlay| dir::edit(overlay, empty, edits(entries.clone())).unwrap());
    assert!(made.iter().all(|object| object.bytes().len() < MAX_OBJECT_BYTES));
    assert_eq!(all(&memory, root), entries);
    let (refused, made) =
        memory.with(|overlay| dir::edit(overlay, empty, edits(heavy(1, dots + 9))));
    assert!(matches!(refused, Err(TreeError::EntryTooLarge { .. })), "{refused:?}");
    assert!(made.is_empty());
}

#[test]
fn a_node_that_is_not_what_its_parent_says_ends_the_walk() {
    let memory = Memory::default();
    let root = build(&memory, many(2_000));
    // A node of a tree in place of the leaves: the same bytes under another id.
    let other = build(&memory, many(1_000));
    let lying = ark_core::links(ark_core::Link::directory(root), &read(&memory, root)).unwrap();
    let substitute = read(&memory, other);
    let broken = Memory::default();
    broken.put_as(ark_core::Link::directory(root), &read(&memory, root));
    for link in lying {
        broken.put_as(link, &substitute);
    }
    let mut walk = dir::entries(&broken, root);
    assert!(matches!(walk.next(), Some(Err(TreeError::Decode { .. }))));
    assert!(walk.next().is_none());
    let mut walk = dir::diff(&broken, root, empty_directory().id());
    assert!(matches!(walk.next(), Some(Err(TreeError::Decode { .. }))));
    assert!(walk.next().is_none());
    let absent = dir::get(&Memory::default(), root, &name("x"));
    assert!(matches!(absent, Err(TreeError::Read { .. })));
}

fn read(memory: &Memory, root: ObjectId) -> bytes::Bytes {
    ark_core::Read::read(memory, ark_core::Link::directory(root)).unwrap()
}

/// Sets of entries: which of 300 names, with which of a few contents.
fn sets() -> impl Strategy<Value = BTreeMap<u16, u8>> {
    let dense = prop::collection::btree_map(0u16..300, 0u8..3, 0..300);
    let sparse = prop::collection::btree_map(0u16..300, 0u8..3, 0..12);
    prop_oneof![dense, sparse]
}

fn entry_of(number: u16, content: u8) -> Entry {
    let text = format!("{}-{number}", ObjectId::of(&number.to_le_bytes()).short());
    entry(&text, file(&content.to_string(), dot(content, u64::from(number) + 1)))
}

fn entries_of(set: &BTreeMap<u16, u8>) -> BTreeMap<Name, Entry> {
    set.iter().map(|(n, c)| entry_of(*n, *c)).map(|entry| (entry.name.clone(), entry)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_tree_is_the_tree_made_anew(from in sets(), to in sets()) {
        let memory = Memory::default();
        let (from, to) = (entries_of(&from), entries_of(&to));
        let old = build(&memory, from.values().cloned());
        let new = build(&memory, to.values().cloned());
        prop_assert_eq!(all(&memory, new), to.values().cloned().collect::<Vec<_>>());
        prop_assert_eq!(dir::directory_totals(&memory, new).unwrap().files, to.len() as u64);

        let names: BTreeSet<&Name> = from.keys().chain(to.keys()).collect();
        let differing: Vec<_> = names
            .into_iter()
            .filter(|name| from.get(name) != to.get(name))
            .map(|name| (name.clone(), from.get(name).cloned(), to.get(name).cloned()))
            .collect();
        let found: Vec<_> = dir::diff(&memory, old, new).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&found, &differing);

        // All at once, then one after another, from either end.
        let edits = differing.iter().map(|(name, _, to)| (name.clone(), to.clone())).collect();
        prop_assert_eq!(edit(&memory, old, edits).0, new);
        let (mut root, mut back) = (old, new);
        for (name, from, to) in differing.into_iter().take(12) {
            root = edit(&memory, root, BTreeMap::from([(name.clone(), to)])).0;
            back = edit(&memory, back, BTreeMap::from([(name, from)])).0;
        }
        prop_assert_eq!(root, build(&memory, all(&memory, root)));
        prop_assert_eq!(back, build(&memory, all(&memory, back)));
    }

    #[test]
    fn lookups_find_what_is_there(set in sets(), wanted in prop::collection::vec(0u16..300, 1..20)) {
        let memory = Memory::default();
        let entries = entries_of(&set);
        let root = build(&memory, entries.values().cloned());
        for number in wanted {
            let name = entry_of(number, 0).name;
            prop_assert_eq!(dir::get(&memory, root, &name).unwrap(), entries.get(&name).cloned());
        }
    }
}
