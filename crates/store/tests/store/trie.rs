//! The trie by which repos are compared: always as if made anew from what the heads reach.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use ark_core::{Link, SignedState};
use ark_recon::{Digest, Links, LinksUnder, Node, Nodes, NodesMut, Prefix};
use ark_store::{Join, Recovery, Repo};

use crate::support::{Dice, Faults, Machine, publish, pull, repo};

/// A set of links and its trie, in memory.
#[derive(Default)]
struct Anew {
    links: BTreeSet<(ark_core::ObjectId, u8, Link)>,
}

#[derive(Default)]
struct AnewNodes(BTreeMap<Prefix, Node>);

impl Links for Anew {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let under = self.links.iter().filter(move |(id, _, _)| prefix.contains(*id));
        Ok(Box::new(under.map(|(_, _, link)| Ok(*link))))
    }
}

impl Nodes for AnewNodes {
    type Error = Infallible;

    fn node(&self, prefix: Prefix) -> Result<Option<Node>, Infallible> {
        Ok(self.0.get(&prefix).cloned())
    }
}

impl NodesMut for AnewNodes {
    fn put(&mut self, prefix: Prefix, node: &Node) -> Result<(), Infallible> {
        self.0.insert(prefix, node.clone());
        Ok(())
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), Infallible> {
        self.0.remove(&prefix);
        Ok(())
    }
}

/// The links that the heads of the joined states reach.
async fn reached(repo: &Repo) -> Anew {
    let states = repo.states();
    let heads = ark_core::heads(states.joined.values().map(SignedState::state));
    let mut stack: Vec<Link> = heads.into_iter().map(|head| Link::snapshot(head.id)).collect();
    let mut anew = Anew::default();
    while let Some(link) = stack.pop() {
        if anew.links.insert((link.id, link.kind as u8, link)) && link.kind.is_structured() {
            stack.extend(ark_core::links(link, &repo.read(link).await.unwrap()).unwrap());
        }
    }
    anew
}

/// Checks the trie against one made anew, all nodes of it.
pub async fn assert_trie(repo: &Repo) -> Digest {
    let anew = reached(repo).await;
    let mut nodes = AnewNodes::default();
    let root = ark_recon::rebuild(&anew, &mut nodes).unwrap();
    let trie = repo.trie().unwrap().expect("it is kept");
    let links: Vec<Link> = trie.links(Prefix::ROOT).unwrap().map(Result::unwrap).collect();
    let expected: Vec<Link> = anew.links.iter().map(|(_, _, link)| *link).collect();
    assert_eq!(links, expected);
    for (prefix, node) in &nodes.0 {
        assert_eq!(trie.node(*prefix).unwrap().as_ref(), Some(node), "{prefix:?}");
    }
    assert_eq!(ark_recon::digest(&trie, &trie, Prefix::ROOT).unwrap(), root);
    root
}

#[tokio::test]
async fn whatever_is_published_and_joined_the_trie_is_that_of_the_heads() {
    let machines = [Machine::new(1), Machine::new(2)];
    let mut stores = Vec::new();
    for machine in &machines {
        stores.push(machine.open().await);
    }
    let repos = [repo(&stores[0]).await, repo(&stores[1]).await];
    assert_eq!(assert_trie(&repos[0]).await, Digest::EMPTY);
    let mut dice = Dice(7);
    for step in 0..40 {
        let at = usize::try_from(dice.roll(2)).unwrap();
        // Names and contents that come again, so that links are shared and come back.
        let count = if step == 20 { 600 } else { dice.roll(40) };
        let files: Vec<(String, Vec<u8>)> = (0..count)
            .map(|_| (format!("f{}", dice.roll(900)), dice.roll(700).to_le_bytes().to_vec()))
            .collect();
        let files: BTreeMap<&str, &[u8]> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let files: Vec<(&str, &[u8])> = files.into_iter().collect();
        let state = publish(&repos[at], &files).await;
        let roots = [assert_trie(&repos[0]).await, assert_trie(&repos[1]).await];
        if dice.roll(2) == 0 {
            assert!(matches!(pull(&repos[at], &repos[1 - at], &state).await, Join::Joined(_)));
            let now = assert_trie(&repos[1 - at]).await;
            assert_ne!(roots[1 - at], now);
        }
    }
    // With the same states, the same trie.
    for (from, to) in [(0, 1), (1, 0)] {
        if let Some(state) = crate::support::own_head(&repos[from])
            && repos[to].states().joined.get(&state.state().writer) != Some(&state)
        {
            pull(&repos[from], &repos[to], &state).await;
        }
    }
    assert_eq!(assert_trie(&repos[0]).await, assert_trie(&repos[1]).await);
}

#[tokio::test]
async fn a_rebuilt_index_has_the_same_trie() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let before = {
        let repo = repo(&store).await;
        publish(&repo, &[("x", &[1; 5000]), ("y", b"two")]).await;
        publish(&repo, &[("x", b"three")]).await;
        assert_trie(&repo).await
    };
    assert_eq!(before.count, 4, "snapshot, directory, two contents");
    store.close().await.unwrap();
    std::fs::remove_file(machine.store_path().join("index.redb")).unwrap();
    let store = machine.open().await;
    assert!(matches!(store.recovered(), Recovery::Rebuilt { .. }));
    assert_eq!(assert_trie(&repo(&store).await).await, before);
}

#[tokio::test]
async fn after_a_read_that_fails_it_is_behind_until_the_next_change_or_start() {
    let faults = Faults::default();
    let (machine, store, opened) = faults.open().await;
    publish(&opened, &[("x", b"one")]).await;
    let root = |repo: &Repo| {
        let trie = repo.trie().unwrap().unwrap();
        ark_recon::digest(&trie, &trie, Prefix::ROOT).unwrap()
    };
    let before = assert_trie(&opened).await;
    faults.set(&["trie"]);
    publish(&opened, &[("x", b"two")]).await;
    assert_eq!(root(&opened), before);
    faults.set(&[]);
    publish(&opened, &[("x", b"three")]).await;
    let before = assert_trie(&opened).await;
    faults.set(&["trie"]);
    publish(&opened, &[("x", b"four")]).await;
    assert_eq!(root(&opened), before);
    drop(opened);
    store.close().await.unwrap();
    assert_trie(&repo(&machine.open().await).await).await;
}

#[tokio::test]
async fn a_damaged_object_stops_comparisons_and_nothing_else() {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (sa, sb) = (a.open().await, b.open().await);
    let (ra, rb) = (repo(&sa).await, repo(&sb).await);
    let names: Vec<String> = (0..40).map(|n| format!("{n:0200}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let first = publish(&ra, &files).await;
    pull(&ra, &rb, &first).await;
    drop(rb);
    sb.close().await.unwrap();
    let snapshot = ra.read(first.state().head_links()[0]).await.unwrap();
    let root = ark_core::Snapshot::decode(&snapshot).unwrap().root;
    let data = b.store_path().join("blobs").join("data").join(format!("{root}.data"));
    let bytes = std::fs::read(&data).unwrap();
    std::fs::write(&data, vec![0; bytes.len()]).unwrap();

    // What is left behind cannot be read; what comes is joined all the same.
    let sb = b.open().await;
    let rb = repo(&sb).await;
    let second = publish(&ra, &[(names[0].as_str(), b"two")]).await;
    assert!(matches!(pull(&ra, &rb, &second).await, Join::Joined(_)));
    assert!(rb.trie().unwrap().is_none());
    let third = publish(&ra, &[(names[0].as_str(), b"three")]).await;
    assert!(matches!(pull(&ra, &rb, &third).await, Join::Joined(_)));
    assert!(rb.trie().unwrap().is_none());
    drop(rb);
    sb.close().await.unwrap();
    // After a start it is made anew.
    let sb = b.open().await;
    let rb = repo(&sb).await;
    assert_eq!(assert_trie(&rb).await, assert_trie(&ra).await);
}
