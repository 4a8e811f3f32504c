//! The trie against sets kept in memory: its shape and hashes depend on the set alone.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ark_core::{Link, ObjectId, ObjectKind};
use ark_recon::{Digest, LEAF_LINKS, Links, LinksUnder, Node, Nodes, NodesMut, Prefix};
use proptest::collection::vec;
use proptest::prelude::*;

/// The set, by id and kind.
#[derive(Clone, Default)]
struct Set(BTreeSet<(ObjectId, ObjectKind)>);

impl Links for Set {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let range = (prefix.first(), ObjectKind::Raw)..=(prefix.last(), ObjectKind::Snapshot);
        Ok(Box::new(self.0.range(range).map(|&(id, kind)| Ok(Link { kind, id }))))
    }
}

/// The nodes, and how often each was written since last asked.
#[derive(Clone, Default)]
struct Rows {
    rows: BTreeMap<Prefix, Node>,
    written: BTreeMap<Prefix, usize>,
}

impl Nodes for Rows {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        // Through the encoding, as a store would.
        Ok(self.rows.get(&prefix).map(|node| Node::from_bytes(&node.to_bytes()).unwrap()))
    }
}

impl NodesMut for Rows {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), Infallible> {
        *self.written.entry(prefix).or_default() += 1;
        self.rows.insert(prefix, node.clone());
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), Infallible> {
        *self.written.entry(prefix).or_default() += 1;
        self.rows.remove(&prefix);
        Ok(())
    }
}

fn rebuilt(set: &Set) -> (Digest, BTreeMap<Prefix, Node>) {
    let mut rows = Rows::default();
    let Ok(root) = ark_recon::rebuild(set, &mut rows);
    (root, rows.rows)
}

/// The `n`-th of many ids; `deep` of them share their first bits.
fn link(n: u32, deep: u8) -> Link {
    let mut bytes = *ObjectId::of(&n.to_le_bytes()).as_bytes();
    bytes[..usize::from(deep)].fill(0x5a);
    let kind = if n.is_multiple_of(7) { ObjectKind::Directory } else { ObjectKind::Raw };
    Link { kind, id: ObjectId::from_bytes(bytes) }
}

/// Applies a batch: each link changes its presence.
fn toggle(set: &mut Set, rows: &mut Rows, batch: &[Link]) -> Digest {
    for &Link { kind, id } in batch {
        if !set.0.remove(&(id, kind)) {
            set.0.insert((id, kind));
        }
    }
    rows.written.clear();
    let Ok(root) = ark_recon::update(set, rows, batch.iter().map(|link| link.id));
    root
}

/// Batches of links, most of them from few ids, so that they come and go again.
fn batches() -> impl Strategy<Value = Vec<Vec<Link>>> {
    let links = prop_oneof![
        3 => (0u32..2_000).prop_map(|n| link(n, 0)),
        3 => (0u32..700).prop_map(|n| link(n, 2)),
        1 => (0u32..300).prop_map(|n| link(n, 8)),
    ];
    vec(vec(links, 0..900), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_trie_equals_a_rebuild_and_each_node_is_written_once(batches in batches()) {
        let (mut set, mut rows) = (Set::default(), Rows::default());
        for batch in batches {
            let root = toggle(&mut set, &mut rows, &batch);
            prop_assert!(rows.written.values().all(|times| *times == 1));
            let (rebuilt_root, rebuilt_rows) = rebuilt(&set);
            prop_assert_eq!(root, rebuilt_root);
            prop_assert_eq!(root.count, set.0.len() as u64);
            prop_assert!(rows.rows == rebuilt_rows);
        }
    }
}

#[test]
fn only_more_than_a_leaf_has_a_node_and_it_goes_with_the_last_link_too_many() {
    let (mut set, mut rows) = (Set::default(), Rows::default());
    let links: Vec<Link> = (0..).map(|n| link(n, 0)).take(LEAF_LINKS + 1).collect();
    let full = toggle(&mut set, &mut rows, &links[..LEAF_LINKS]);
    assert!(rows.rows.is_empty());
    toggle(&mut set, &mut rows, &links[LEAF_LINKS..]);
    assert!(rows.rows.keys().eq([&Prefix::ROOT]));
    assert_eq!(toggle(&mut set, &mut rows, &links[LEAF_LINKS..]), full);
    assert!(rows.rows.is_empty());
}

#[test]
fn the_kind_of_a_link_counts() {
    let (mut set, mut rows) = (Set::default(), Rows::default());
    let id = ObjectId::of(b"both");
    let raw = toggle(&mut set, &mut rows, &[Link::raw(id)]);
    let both = toggle(&mut set, &mut rows, &[Link::file(id)]);
    let file = toggle(&mut set, &mut rows, &[Link::raw(id)]);
    assert_eq!((raw.count, both.count, file.count), (1, 2, 1));
    assert!(raw.hash != both.hash && raw.hash != file.hash && both.hash != file.hash);
}
