//! The trie by which repos are compared: always as if made anew from what the heads reach.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ark_core::{Link, Object, SignedState};
use ark_recon::{Digest, Links, LinksUnder, Node, Nodes, Prefix};
use ark_store::{Join, PullError, Recovery, Repo, Staged, Store, Trie};

use crate::rollback::copy;
use crate::support::{Dice, Faults, Machine, publish, pull, repo, try_publish};

/// A set of links and its trie, in memory.
#[derive(Default)]
struct Anew {
    links: BTreeSet<(ark_core::ObjectId, u8, Link)>,
}

impl Links for Anew {
    type Error = Infallible;

    fn links(&self, prefix: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        let under = self.links.iter().filter(move |(id, _, _)| prefix.contains(*id));
        Ok(Box::new(under.map(|(_, _, link)| Ok(*link))))
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

/// Waits until there is something.
async fn awaited<T>(look: impl Fn() -> Option<T>) -> T {
    let found = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), found).await.expect("it comes")
}

/// Checks the trie against one made anew, all nodes of it.
pub async fn assert_trie(repo: &Repo) -> Digest {
    let anew = reached(repo).await;
    let mut nodes: BTreeMap<Prefix, Node> = BTreeMap::new();
    let root = ark_recon::rebuild(&anew, &mut nodes).unwrap();
    // Much is caught up with later; little is there as soon as it is joined.
    let is_much = anew.links.len() > AT_ONCE;
    let is_made = |trie: &Trie| ark_recon::digest(trie, trie, Prefix::ROOT).unwrap() == root;
    let trie = awaited(|| repo.trie().unwrap().filter(|it| !is_much || is_made(it))).await;
    let links: Vec<Link> = trie.links(Prefix::ROOT).unwrap().map(Result::unwrap).collect();
    let expected: Vec<Link> = anew.links.iter().map(|(_, _, link)| *link).collect();
    assert_eq!(links, expected);
    for (prefix, node) in &nodes {
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
    // With the next change it is made anew, without looking at what was left.
    let third = publish(&ra, &[(names[0].as_str(), b"three")]).await;
    assert!(matches!(pull(&ra, &rb, &third).await, Join::Joined(_)));
    assert_eq!(assert_trie(&rb).await, assert_trie(&ra).await);
}

/// So many links are counted in the transaction of a joined state.
const AT_ONCE: usize = 4_096;
/// Some more files than that.
const MANY: u32 = 5_000;

async fn publish_many(repo: &Repo, content: u32) -> SignedState {
    let files: Vec<(String, [u8; 8])> = (0..MANY)
        .map(|n| (format!("f{n}"), (u64::from(content) << 32 | u64::from(n)).to_le_bytes()))
        .collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    publish(repo, &files).await
}

#[tokio::test]
async fn what_changes_much_is_caught_up_with_whatever_comes_meanwhile() {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (sa, sb) = (a.open().await, b.open().await);
    let (ra, rb) = (repo(&sa).await, repo(&sb).await);
    // Other heads come while it is made, little of them and much.
    publish_many(&ra, 1).await;
    publish(&ra, &[("x", b"little")]).await;
    let root = assert_trie(&ra).await;
    assert!(root.count > u64::from(MANY));
    let first = publish_many(&ra, 2).await;
    let second = publish(&ra, &[("x", b"less")]).await;
    pull(&ra, &rb, &first).await;
    pull(&ra, &rb, &second).await;
    assert_eq!(assert_trie(&ra).await, assert_trie(&rb).await);
    // Little is followed at once.
    let third = publish(&ra, &[("x", b"least")]).await;
    assert!(ra.trie().unwrap().is_some());
    pull(&ra, &rb, &third).await;
    assert!(rb.trie().unwrap().is_some());
    assert_eq!(assert_trie(&ra).await, assert_trie(&rb).await);
    // As if there had never been one.
    drop(rb);
    sb.close().await.unwrap();
    std::fs::remove_file(b.store_path().join("index.redb")).unwrap();
    let sb = b.open().await;
    let rb = repo(&sb).await;
    assert_eq!(assert_trie(&ra).await, assert_trie(&rb).await);
}

/// How many transactions it takes, or one less: whether there is more is looked for after it.
async fn parts_of_catching_up() -> usize {
    let machine = Machine::new(1);
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&passed);
    let hook = move |name| {
        counted.fetch_add(usize::from(name == "trie-part"), Ordering::SeqCst);
        Ok(())
    };
    let store = machine.open_with(Arc::new(hook)).await;
    let opened = repo(&store).await;
    publish_many(&opened, 1).await;
    assert_trie(&opened).await;
    passed.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_catching_up_that_fails_anywhere_begins_anew_at_the_next_change_or_start() {
    // The place, and how often it is passed when it fails: in the walk; before it begins, its first
    // part and its last ones, before the nodes go, before they come, and before what says what the
    // trie is of.
    let all = parts_of_catching_up().await;
    let parts = (1..=2).chain(all - 4..=all).map(|count| ("trie-part", count));
    for (place, count) in parts.chain([("trie", 60)]) {
        let at_a_start = count % 2 == 0;
        let machine = Machine::new(1);
        let passed = Arc::new(AtomicUsize::new(0));
        let hook = {
            let passed = Arc::clone(&passed);
            move |name| {
                if name == place && passed.fetch_add(1, Ordering::SeqCst) + 1 == count {
                    return Err(std::io::ErrorKind::Other.into());
                }
                Ok(())
            }
        };
        let store = machine.open_with(Arc::new(hook)).await;
        let opened = repo(&store).await;
        publish(&opened, &[("x", b"little")]).await;
        let root = assert_trie(&opened).await;
        passed.store(0, Ordering::SeqCst);
        publish_many(&opened, 1).await;
        awaited(|| (passed.load(Ordering::SeqCst) >= count).then_some(())).await;
        if at_a_start {
            drop(opened);
            store.close().await.unwrap();
            let store = machine.open().await;
            assert_ne!(assert_trie(&repo(&store).await).await, root, "{place} {count}");
        } else {
            publish(&opened, &[("x", b"less")]).await;
            assert_ne!(assert_trie(&opened).await, root, "{place} {count}");
        }
    }
}

/// Pulls all that is joined there.
async fn try_pull(from: &Repo, to: &Repo) -> Result<(), PullError> {
    for state in from.states().joined.values() {
        let staged = match to.stage(state.clone()).await? {
            Staged::OwnFork { then } => *then,
            staged => staged,
        };
        let mut wanted = match staged {
            Staged::Staged { missing } => missing,
            Staged::Complete => Vec::new(),
            _ => continue,
        };
        while !wanted.is_empty() {
            let mut objects = Vec::new();
            for link in wanted {
                objects.push(Object::new(link.kind, from.read(link).await.unwrap()));
            }
            match to.receive(objects).await {
                Ok(received) => wanted = received.next,
                Err(_) => return Ok(()),
            }
        }
        to.join(state.state().writer).await?;
    }
    Ok(())
}

/// A store that can be closed, opened and put back, over a disk with faults.
struct Endangered {
    machine: Machine,
    faults: Faults,
    open: Option<(Store, Repo)>,
}

impl Endangered {
    async fn new(number: u8) -> Self {
        let machine = Machine::new(number);
        let mut new = Self { machine, faults: Faults::default(), open: None };
        new.open().await;
        new
    }

    async fn open(&mut self) {
        let store = self.machine.open_with(self.faults.hook()).await;
        let repo = repo(&store).await;
        self.open = Some((store, repo));
    }

    async fn close(&mut self) {
        let (store, repo) = self.open.take().unwrap();
        drop(repo);
        store.close().await.unwrap();
    }

    fn repo(&self) -> &Repo {
        &self.open.as_ref().unwrap().1
    }

    fn backup(&self) -> std::path::PathBuf {
        self.machine.dir.path().join("backup")
    }
}

/// Where a publication or a pull may fail.
const PLACES: [&str; 6] = ["import", "publish", "sync-db", "sync-files", "index", "index-commit"];

#[tokio::test]
async fn whatever_fails_or_is_put_back_the_trie_is_that_of_the_heads() {
    for seed in 1..=4 {
        let mut dice = Dice(0x9e37_79b9 * seed);
        let mut stores = [Endangered::new(1).await, Endangered::new(2).await];
        for step in 0..40 {
            let at = usize::try_from(dice.roll(2)).unwrap();
            if dice.roll(3) == 0 {
                let place = PLACES[usize::try_from(dice.roll(6)).unwrap()];
                stores[at].faults.set(&[place]);
            }
            match dice.roll(8) {
                0..=3 => {
                    let count = if dice.roll(8) == 0 { 400 } else { 1 + dice.roll(30) };
                    let files: BTreeMap<String, Vec<u8>> = (0..count)
                        .map(|_| {
                            (format!("f{}", dice.roll(600)), dice.roll(500).to_le_bytes().to_vec())
                        })
                        .collect();
                    let files: Vec<(&str, &[u8])> = files
                        .iter()
                        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
                        .collect();
                    // It may fail; what is durable all the same is told.
                    drop(try_publish(stores[at].repo(), &files).await);
                }
                4 | 5 => drop(try_pull(stores[1 - at].repo(), stores[at].repo()).await),
                6 => {
                    stores[at].faults.set(&[]);
                    let backup = stores[at].backup();
                    stores[at].close().await;
                    if backup.exists() && dice.roll(2) == 0 {
                        std::fs::remove_dir_all(stores[at].machine.store_path()).unwrap();
                        copy(&backup, &stores[at].machine.store_path());
                    } else if !backup.exists() {
                        copy(&stores[at].machine.store_path(), &backup);
                    }
                    stores[at].open().await;
                }
                _ => {
                    stores[at].faults.set(&[]);
                    stores[at].close().await;
                    stores[at].open().await;
                }
            }
            stores[at].faults.set(&[]);
            for store in &stores {
                eprintln!("seed {seed} step {step}");
                assert_trie(store.repo()).await;
            }
        }
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 0)] {
                try_pull(stores[from].repo(), stores[to].repo()).await.unwrap();
            }
        }
        let joined = stores.each_ref().map(|store| store.repo().states().joined.clone());
        assert_eq!(joined[0], joined[1], "seed {seed}");
        // With the same states, the same trie.
        let roots = [assert_trie(stores[0].repo()).await, assert_trie(stores[1].repo()).await];
        assert_eq!(roots[0], roots[1], "seed {seed}");
    }
}

/// Writes to the index until `is_over`: how long the middle one, the 99th of a hundred and the last
/// took, by length.
async fn writes(repo: &Repo, mut is_over: impl FnMut() -> bool) -> [Duration; 3] {
    let mut waits = vec![Duration::ZERO];
    while !is_over() {
        let began = Instant::now();
        repo.base().apply(Vec::new(), vec![("x".into(), Some(vec![1]))]).await.unwrap();
        waits.push(began.elapsed());
    }
    waits.sort_unstable();
    [50, 99, 100].map(|percent| waits[(waits.len() - 1) * percent / 100])
}

/// How long others wait for the index while very much is published and caught up with, first of
/// nothing and then where half changed: `cargo test --release -p ark-store --test store figures --
/// --ignored --nocapture`, with `ARK_OBJECTS=1000000` for more than 100,000.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn figures_of_who_waits_for_the_index() {
    let count = std::env::var("ARK_OBJECTS").ok().and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(100_000);
    let machine = Machine::new(1);
    let store = machine.open().await;
    let opened = repo(&store).await;
    let root = || {
        let trie = opened.trie().unwrap();
        trie.map(|trie| ark_recon::digest(&trie, &trie, Prefix::ROOT).unwrap())
    };
    for (what, first) in [("all of it new", 0), ("half of it", count / 2)] {
        let before = root();
        let files: Vec<(String, [u8; 8])> =
            (0..count).map(|n| (format!("f{n}"), (first + n).to_le_bytes())).collect();
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let is_published = Arc::new(AtomicBool::new(false));
        let (probed, published) = (opened.clone(), is_published.clone());
        let probe =
            tokio::spawn(async move { writes(&probed, || published.load(Ordering::SeqCst)).await });
        publish(&opened, &files).await;
        is_published.store(true, Ordering::SeqCst);
        let publishing = probe.await.unwrap();
        let began = Instant::now();
        let catching_up = writes(&opened, || root().is_some_and(|it| Some(it) != before));
        let (catching_up, made) = (catching_up.await, began.elapsed());
        let mut left = 200;
        let at_rest = writes(&opened, || {
            left -= 1;
            left == 0
        });
        let at_rest = at_rest.await;
        println!(
            "{count} objects, {what}; median, 99 of 100 and longest: {publishing:.0?} while \
             publishing, {catching_up:.0?} while catching up (in {made:.1?}), {at_rest:.0?} at rest"
        );
    }
}
