//! The trie against sets kept in memory: its shape and hashes depend on the set alone.

use std::collections::BTreeMap;

use ark_core::{Link, ObjectId};
use ark_recon::{Digest, LEAF_LINKS, Node, Prefix};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{Members, Rows, Set, ground, link};

fn rebuilt(set: &Members) -> (Digest, BTreeMap<Prefix, Node>) {
    let mut rows = Rows::default();
    let Ok(root) = ark_recon::rebuild(set, &mut rows);
    (root, rows.rows)
}

/// Applies a batch: each link changes its presence.
fn toggle(Set { members: set, rows, .. }: &mut Set, batch: &[Link]) -> Digest {
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
        3 => (0u64..2_000).prop_map(|n| link(0, n)),
        3 => (0u64..700).prop_map(|n| ground(&[0x5a; 2], 0, n)),
        1 => (0u64..300).prop_map(|n| ground(&[0x5a; 8], 0, n)),
    ];
    vec(vec(links, 0..900), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_trie_equals_a_rebuild_and_each_node_is_written_once(batches in batches()) {
        let mut set = Set::default();
        for batch in batches {
            let root = toggle(&mut set, &batch);
            prop_assert!(set.rows.written.values().all(|times| *times == 1));
            let (rebuilt_root, rebuilt_rows) = rebuilt(&set.members);
            prop_assert_eq!(root, rebuilt_root);
            prop_assert_eq!(root.count, set.members.0.len() as u64);
            prop_assert!(set.rows.rows == rebuilt_rows);
        }
    }

    #[test]
    fn ids_that_did_not_change_do_no_harm(batch in batches(), others in batches()) {
        let mut set = Set::of(batch.into_iter().flatten());
        let (rows, root) = (set.rows.rows.clone(), set.insert([]));
        let unchanged = others.into_iter().flatten().map(|link| link.id);
        let Ok(again) = ark_recon::update(&set.members, &mut set.rows, unchanged);
        prop_assert_eq!(again, root);
        prop_assert!(set.rows.rows == rows);
    }
}

#[test]
fn only_more_than_a_leaf_has_a_node_and_it_goes_with_the_last_link_too_many() {
    let mut set = Set::default();
    let links: Vec<Link> = (0..).map(|n| link(0, n)).take(LEAF_LINKS + 1).collect();
    let full = toggle(&mut set, &links[..LEAF_LINKS]);
    assert!(set.rows.rows.is_empty());
    toggle(&mut set, &links[LEAF_LINKS..]);
    assert!(set.rows.rows.keys().eq([&Prefix::ROOT]));
    assert_eq!(toggle(&mut set, &links[LEAF_LINKS..]), full);
    assert!(set.rows.rows.is_empty());
}

#[test]
fn the_kind_of_a_link_counts() {
    let mut set = Set::default();
    let id = ObjectId::of(b"both");
    let raw = toggle(&mut set, &[Link::raw(id)]);
    let both = toggle(&mut set, &[Link::file(id)]);
    let file = toggle(&mut set, &[Link::raw(id)]);
    assert_eq!((raw.count, both.count, file.count), (1, 2, 1));
    assert!(raw.hash != both.hash && raw.hash != file.hash && both.hash != file.hash);
}

/// The digest of a prefix is of what is under it, wherever nodes are kept.
#[test]
fn a_digest_depends_on_what_is_under_the_prefix_alone() {
    let mut set = Set::of((0..3_000).map(|n| link(0, n)));
    set.insert((0..400).map(|n| ground(&[0x12, 0x34, 0x56], 0, n)));
    for bits in 0..=24 {
        let prefix = Prefix::new(0x1234_5600_0000_0000 & !(u64::MAX >> bits), bits).unwrap();
        let under = |link: &Link| prefix.contains(link.id);
        let all = set.members.0.iter().map(|&(id, kind)| Link { kind, id });
        let part = Set::of(all.filter(under));
        let (Ok(whole), Ok(alone)) =
            (ark_recon::digest(&set, &set, prefix), ark_recon::digest(&part, &part, prefix));
        assert_eq!(whole, alone, "{prefix:?}");
        assert_eq!(whole.count, part.members.0.len() as u64);
    }
}

/// The hashes are part of the protocol.
#[test]
fn roots_are_pinned() {
    let root = |count| {
        let mut set = Set::default();
        let root = set.insert((0..count).map(|n| link(0, n)));
        data_encoding::HEXLOWER.encode(&root.hash[..8])
    };
    assert_eq!(
        [root(0), root(1), root(256), root(257)],
        ["0000000000000000", "c54bfd97961458d5", "cfdac8e645939f7e", "181add36c0dc7990"]
    );
}

/// What is kept of a million links, as the documentation of the module says it.
#[test]
fn few_nodes_are_kept() {
    let set = Set::of((0..100_000).map(|n| link(0, n)));
    assert!(set.rows.rows.len() < 100_000 / LEAF_LINKS * 2, "{}", set.rows.rows.len());
    assert_eq!(set.rows.rows.values().next().map(|node| node.to_bytes().len()), Some(640));
    assert_eq!(Node::from_bytes(&[0; 639]), None);
}
