//! Reconciliation over the sync connection: what it costs after a partition, that nothing else
//! begins it, and devices that misuse it.

mod siege;
mod support;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ark_core::{Head, Link, ObjectId, Overlay, Read, SignedState, Snapshot, Vector};
use ark_net::{NetStatus, Reconciliations};
use ark_recon::message::{Answer, Message as Frame, Part, Verdict, What};
use ark_recon::{Links, MAX_FRAME_BYTES, Prefix};
use ark_store::Repo;
use ark_sync::Message;
use bytes::Bytes;
use iroh::SecretKey;
use iroh::endpoint::{ReadError, ReadExactError, RecvStream, SendStream, VarInt};
use siege::{Siege, meet, topic};
use support::{Device, Running, device_id, files, frame, guarded, log, publish, read_frame};

/// The most bytes of reconciliation after a partition in which a hundred objects changed.
const MAX_BYTES: u64 = 20_000;
/// The most round trips.
const MAX_ROUND_TRIPS: u64 = 2;
/// Of two hundred sessions one takes a round trip more, or the bytes of one, because its key says
/// little of how much differs: measured with the sizes of these tests. Of so many partitions with
/// keys of their own one at most is dear.
const PARTITIONS: usize = 3;

/// A directory as a device holds it in memory, to be edited.
#[derive(Clone)]
struct Tree {
    nodes: HashMap<ObjectId, Bytes>,
    root: ObjectId,
    vector: Vector,
}

impl Read for Tree {
    type Error = std::io::Error;
    fn read(&self, link: Link) -> Result<Bytes, Self::Error> {
        self.nodes.get(&link.id).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

impl Tree {
    /// Nothing yet.
    fn new() -> Self {
        let empty = ark_core::dir::empty_directory();
        let root = empty.id();
        Self {
            nodes: HashMap::from([(root, empty.bytes().clone())]),
            root,
            vector: Vector::empty(),
        }
    }

    /// Puts these files in place of those of their names, and publishes.
    async fn publish(&mut self, repo: &Repo, files: &[(String, Vec<u8>)]) -> SignedState {
        let publisher = repo.publisher().await;
        let dot = publisher.dot();
        let mut batch = repo.batch();
        let mut edits = BTreeMap::new();
        for (name, bytes) in files {
            let (entry, object) = support::file(name, bytes, dot);
            edits.insert(entry.name.clone(), Some(entry));
            batch.add(object).await.unwrap();
        }
        let mut overlay = Overlay::new(&*self);
        let (root, _) = ark_core::dir::edit(&mut overlay, self.root, edits).unwrap();
        let mut made = overlay.into_made();
        if !self.nodes.contains_key(&self.root) || self.vector == Vector::empty() {
            made.push(ark_core::dir::empty_directory());
        }
        for object in made {
            self.nodes.insert(object.id(), object.bytes().clone());
            batch.add(object).await.unwrap();
        }
        self.root = root;
        self.vector.take_in(dot);
        let snapshot = Snapshot { root, vector: self.vector.clone(), wall_time_ms: 0 }.encode();
        let head = Head { id: snapshot.id(), sequence: dot.sequence };
        batch.add(snapshot).await.unwrap();
        publisher.publish(batch, vec![head], self.vector.clone(), Vec::new()).await.unwrap()
    }
}

/// After very much was joined, the store makes what is compared beside everything else: waits until
/// it is of this state.
async fn until_comparable(running: &Running, state: &SignedState) {
    let head = state.state().heads[0].id;
    let is_of_it = || {
        let Some(trie) = running.repo("repo").trie().unwrap() else { return false };
        trie.links(Prefix::ROOT).unwrap().any(|link| link.unwrap().id == head)
    };
    let made = async {
        while !is_of_it() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    guarded("the store's trie", made).await;
}

fn reconciliation(running: &Running) -> Reconciliations {
    running.repo_status("repo").reconciliation
}

/// Two devices with the same `count` files part; `changed_a` and `changed_b` of them change. When
/// they meet again, they come in step; returns what each reconciled.
async fn after_a_partition(
    count: usize,
    changed_a: usize,
    changed_b: usize,
) -> [Reconciliations; 2] {
    log();
    // Of two that dial at a time the one of the greater id gives its dial up: what one of two
    // connections begins would be begun again on the other.
    let mut keys = [SecretKey::generate(), SecretKey::generate()];
    keys.sort_by_key(device_id);
    let [lesser, greater] = keys;
    let (mut a, mut b) = (Device::with_key("a", greater), Device::with_key("b", lesser));
    a.share("repo", &[&b]);
    let running_a = a.start().await;
    b.share("repo", &[&a]);
    let running_b = b.start().await;
    let mut tree_a = Tree::new();
    let first = tree_a.publish(running_a.repo("repo"), &files(1, count, 16)).await;
    running_b.until_durable("repo", &first).await;
    running_a.until_told_durable("repo", running_b.id, &first).await;
    // The closure was streamed: there was nothing to compare.
    for running in [&running_a, &running_b] {
        assert_eq!(reconciliation(running), Reconciliations::default());
    }
    // Nor is anything compared where all goes its normal way.
    let second = tree_a.publish(running_a.repo("repo"), &files(2, 3, 16)).await;
    running_b.until_durable("repo", &second).await;
    assert_eq!(reconciliation(&running_b), Reconciliations::default());
    for running in [&running_a, &running_b] {
        until_comparable(running, &second).await;
    }
    running_b.stop().await;
    running_a.until("the peer being gone", |status| !status.peers[0].connected).await;

    let mut tree_b = tree_a.clone();
    let of_a = tree_a.publish(running_a.repo("repo"), &files(3, changed_a, 16)).await;
    let of_b = if changed_b == 0 {
        None
    } else {
        let (store, repo) = b.open_alone("repo").await;
        let changed = files(4, count, 16).split_off(count - changed_b);
        let state = tree_b.publish(&repo, &changed).await;
        drop(repo);
        store.close().await.unwrap();
        Some(state)
    };
    // Where the other does not know it, so that its own dial does not come about first.
    b.listens_on((Ipv4Addr::LOCALHOST, 0).into());
    let running_b = b.start().await;
    running_b.until_durable("repo", &of_a).await;
    if let Some(of_b) = &of_b {
        running_a.until_durable("repo", of_b).await;
    }
    let is_told = |status: &NetStatus| status.repos[0].reconciliation.sessions > 0;
    running_a.until("a reconciliation being counted", is_told).await;
    running_b.until("a reconciliation being counted", is_told).await;
    let counted = [reconciliation(&running_a), reconciliation(&running_b)];
    running_a.stop().await;
    running_b.stop().await;
    counted
}

fn is_cheap(counted: &[Reconciliations; 2]) -> bool {
    let round_trips: u64 = counted.iter().map(|it| it.round_trips).sum();
    (1..=MAX_ROUND_TRIPS).contains(&round_trips)
        && counted.iter().all(|one| one.sent_bytes + one.received_bytes <= MAX_BYTES)
}

/// See [`after_a_partition`].
async fn assert_cheap(count: usize, changed_a: usize, changed_b: usize) {
    let (mut cheap, mut dear) = (0, Vec::new());
    while cheap < PARTITIONS - 1 {
        let counted = after_a_partition(count, changed_a, changed_b).await;
        println!("{counted:?}");
        if is_cheap(&counted) {
            cheap += 1;
        } else {
            dear.push(counted);
        }
        assert!(dear.len() <= 1, "{dear:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_on_one_side_is_found_cheaply() {
    assert_cheap(4_000, 100, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_on_both_sides_is_found_cheaply() {
    assert_cheap(4_000, 50, 50).await;
}

/// `cargo nextest run -p ark-net --test reconcile --run-ignored only --no-capture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute or more: 100,000 objects"]
async fn a_hundred_of_a_hundred_thousand_are_found_cheaply() {
    assert_cheap(100_000, 100, 0).await;
}

/// Likewise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute or more: 100,000 objects"]
async fn fifty_on_either_side_of_a_hundred_thousand_are_found_cheaply() {
    assert_cheap(100_000, 50, 50).await;
}

/// Scenario 54: who may have missed something compares, though nothing tells it what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_lagged_is_put_right() {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    (a.loses_gossip, b.loses_gossip) = (true, true);
    a.share("repo", &[&b]);
    let running_a = a.start().await;
    b.share("repo", &[&a]);
    let running_b = b.start().await;
    let mut tree = Tree::new();
    let first = tree.publish(running_a.repo("repo"), &files(1, 600, 16)).await;
    running_b.until_durable("repo", &first).await;
    let second = tree.publish(running_a.repo("repo"), &files(2, 10, 16)).await;
    running_b.until_durable("repo", &second).await;
    assert_eq!(reconciliation(&running_b).sessions, 0);

    running_b.net.lag_gossip(topic()).await;
    let third = tree.publish(running_a.repo("repo"), &files(3, 10, 16)).await;
    running_b.until_durable("repo", &third).await;
    let is_told = |status: &NetStatus| status.repos[0].reconciliation.sessions > 0;
    running_b.until("a reconciliation being counted", is_told).await;
    running_a.stop().await;
    running_b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_learns_what_it_lacks() {
    let siege = Siege::new().await;
    let told = siege.converse(1).await;
    // 500 files, their snapshot, and their directory.
    assert!(told.len() > 501, "{}", told.len());
    assert!(siege.running.repo("repo").indexed(&told).await.unwrap().iter().all(|it| *it));
    assert_eq!(siege.converse(2).await.len(), told.len());
    let is_counted = |status: &NetStatus| status.repos[0].reconciliation.sessions == 2;
    siege.running.until("both being counted", is_counted).await;
    siege.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_rules_close_the_connection() {
    let too_long = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_le_bytes();
    let answer = Frame::Answer(Answer { parts: Vec::new(), last: true }).encode();
    for (what, bytes) in [
        ("noise", frame(&[0x5a; 300])),
        ("nothing", frame(&[])),
        ("too long a frame", too_long.to_vec()),
        ("the longest frame", u32::MAX.to_le_bytes().to_vec()),
        ("an answer to nothing", frame(&answer)),
    ] {
        let siege = Siege::new().await;
        let _streams = siege.begin(1, &bytes).await;
        siege.assert_closed(what).await;
        // What is honest goes on.
        let (_connection, _stream) = meet(&siege.a, &siege.hostile).await;
        siege.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_used_twice() {
    let siege = Siege::new().await;
    siege.converse(7).await;
    let _streams = siege.begin(7, &[]).await;
    siege.assert_closed("the same number again").await;
    siege.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_without_end_are_refused_then_closed() {
    let siege = Siege::new().await;
    let (mut answered, mut refused) = (0, 0);
    for epoch in 1.. {
        let Ok(Ok((mut send, mut recv))) =
            tokio::time::timeout(Duration::from_secs(20), siege.connection.open_bi()).await
        else {
            break;
        };
        let first = frame(&Message::Reconcile { topic: topic(), epoch }.encode());
        if send.write_all(&first).await.is_err() {
            break;
        }
        let _ = send.finish();
        // An end without an answer, or a reset.
        let mut length = [0; 4];
        match guarded("an answer", recv.read_exact(&mut length)).await {
            Err(ReadExactError::FinishedEarly(0)) => answered += 1,
            Err(ReadExactError::ReadError(ReadError::Reset(_))) => refused += 1,
            Err(_) => break,
            Ok(()) => panic!("an answer to no question"),
        }
        assert!(epoch < 1000, "there is no end");
    }
    siege.assert_closed("the end of it").await;
    assert!((1..=20).contains(&answered), "{answered}");
    assert!((1..=100).contains(&refused), "{refused}");
    siege.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_says_nothing_holds_up_itself_alone() {
    let siege = Siege::new().await;
    let (one, two) = (siege.begin(1, &[]).await, siege.begin(2, &[]).await);
    let (mut silent, mut refused) = (one, two);
    // One at a time, whichever is taken up first: the other is refused, because that one does not end.
    let refusal = tokio::select! {
        refusal = guarded("a refusal", refused.1.read_to_end(0)) => refusal,
        refusal = guarded("a refusal", silent.1.read_to_end(0)) => {
            std::mem::swap(&mut silent, &mut refused);
            refusal
        }
    };
    let reset = ReadError::Reset(VarInt::from_u32(8));
    assert_eq!(refusal, Err(iroh::endpoint::ReadToEndError::Read(reset)));
    drop(silent);
    assert!(siege.converse(3).await.len() > 501);
    siege.running.stop().await;
}

/// What a state of a listed device makes the besieged one ask.
async fn asked(siege: &mut Siege) -> (u64, SendStream, RecvStream) {
    // The state is a real one, made where nobody listens.
    let mut home = Device::with_key("hostile", siege.hostile.key.clone());
    home.share("repo", &[]);
    let running = home.start().await;
    let state = publish(running.repo("repo"), &files(9, 300, 10)).await;
    running.stop().await;
    let mut bytes = frame(&Message::Summary(Vec::new()).encode());
    bytes.extend_from_slice(&frame(&Message::States(vec![state.bytes().to_vec()]).encode()));
    siege.stream.0.write_all(&bytes).await.unwrap();
    loop {
        let (send, mut recv) = guarded("a session", siege.connection.accept_bi()).await.unwrap();
        match Message::decode(&read_frame(&mut recv).await.unwrap()).unwrap() {
            Message::Reconcile { epoch, .. } => return (epoch, send, recv),
            // Whether it is listed there: the end of the stream says so.
            Message::Ask(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_lie_close_the_connection() {
    let verdict = |at| Part::Verdicts(vec![Verdict { at, what: What::Deeper }]);
    let answer = |parts, last| frame(&Frame::Answer(Answer { parts, last }).encode());
    let endless = answer(vec![Part::Listed((0..4000).collect())], false).repeat(40);
    for (what, bytes) in [
        ("noise", frame(&[0x5a; 300])),
        ("a question", frame(&Frame::Want(vec![1]).encode())),
        ("of a bucket that was not asked about", answer(vec![verdict(u16::MAX)], true)),
        ("without end", endless),
    ] {
        let mut siege = Siege::new().await;
        let (_, mut send, _recv) = asked(&mut siege).await;
        // It may be closed before all is written.
        let _ = send.write_all(&bytes).await;
        siege.assert_closed(what).await;
        siege.running.stop().await;
    }
}

/// Both begin a session: that of the smaller id stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sessions_at_once_one_stands() {
    for theirs_stands in [true, false] {
        // A key below or above that of the besieged, whatever that is.
        let mut key = SecretKey::generate();
        let is_extreme = |key: &SecretKey| {
            let first = key.public().as_bytes()[0];
            if theirs_stands { first < 8 } else { first >= 248 }
        };
        while !is_extreme(&key) {
            key = SecretKey::generate();
        }
        let mut siege = Siege::with_key(key).await;
        let stands = device_id(&siege.hostile.key) < siege.running.id;
        let (_, _send, mut recv) = asked(&mut siege).await;
        if stands {
            assert!(siege.converse(1).await.len() > 501);
            // What was begun here is given up, in order.
            while read_frame(&mut recv).await.is_some() {}
        } else {
            let (_send, mut recv) = siege.begin(1, &[]).await;
            let refused = guarded("a refusal", recv.read_to_end(0)).await.unwrap_err();
            let reset = ReadError::Reset(VarInt::from_u32(2));
            assert_eq!(refused, iroh::endpoint::ReadToEndError::Read(reset));
        }
        assert!(siege.connection.close_reason().is_none());
        siege.running.stop().await;
    }
}
