//! Large closures and many states: what costs as much as it brings, and what is bounded.

use ark_core::{Dot, Head, Incarnation, ObjectId, RepoKind, SignedState, State, Vector, Writer};
use ark_store::{Join, PublishError, Repo, Staged};
use ed25519_dalek::SigningKey;

use crate::support::{Machine, fetch, publish, repo, topic, try_publish};

/// A state of a device's that no store published.
fn forge(key: &SigningKey, incarnation: u64, revision: u64) -> State {
    let device = ark_core::DeviceId::from_bytes(key.verifying_key().to_bytes());
    let writer = Writer { device, incarnation: Incarnation::new(incarnation) };
    let heads = vec![Head { id: ObjectId::of(&revision.to_le_bytes()), sequence: revision }];
    let mut vector = Vector::empty();
    vector.take_in(Dot { writer, sequence: revision });
    let (kind, held) = (RepoKind::Folder, vec![]);
    State { topic: topic(), kind, writer, revision, heads, vector, held }
}

#[tokio::test]
async fn what_is_whole_of_a_closure_is_looked_at_once() {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (sa, sb) = (a.open().await, b.open().await);
    let (ra, rb) = (repo(&sa).await, repo(&sb).await);
    let names: Vec<String> = (0..12_000).map(|n| format!("{n:05}")).collect();
    let same = b"the same in all but one".as_slice();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), same)).collect();
    files[7_000].1 = b"this one";
    let state = publish(&ra, &files).await;
    let writer = state.state().writer;
    let Staged::Staged { missing } = rb.stage(state).await.unwrap() else { panic!() };
    // All that is structured first, then all content but one.
    let mut wanted = missing;
    let mut contents = Vec::new();
    while !wanted.is_empty() {
        let mut objects = Vec::new();
        for link in wanted.drain(..) {
            if link.kind.is_structured() {
                let bytes = ra.read(link).await.unwrap();
                objects.push(ark_core::Object::new(link.kind, bytes));
            } else {
                contents.push(link);
            }
        }
        wanted = rb.receive(objects).await.unwrap().next;
    }
    contents.sort_unstable();
    contents.dedup();
    let last = ark_core::Link::raw(ObjectId::of(b"this one"));
    contents.retain(|link| *link != last);
    fetch(&ra, &rb, contents).await;
    let reads = async |repo: &Repo| {
        let before = sb.counters();
        let joined = repo.join(writer).await.unwrap();
        assert!(matches!(joined, Join::Missing(missing) if missing == [last]));
        let now = sb.counters();
        now.blob_reads + now.cache_hits - before.blob_reads - before.cache_hits
    };
    let first = reads(&rb).await;
    assert!(first > 80, "{first} nodes");
    // Only what is on the way to what is missing, each node twice.
    let second = reads(&rb).await;
    assert!(second <= 12, "{second} nodes again");
    fetch(&ra, &rb, vec![last]).await;
    assert!(matches!(rb.join(writer).await.unwrap(), Join::Joined(_)));
}

#[tokio::test]
async fn the_same_state_again_and_again_is_no_key_elsewhere() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repos = [repo(&store).await];
    for _ in 0..200 {
        let state = SignedState::sign(forge(&machine.key, 77, 5), &machine.key).unwrap();
        repos[0].stage(state.clone()).await.unwrap();
        repos[0].abandon(state.state().writer).await.unwrap();
    }
    // Nor are many incarnations that are met for the first time.
    for incarnation in 100..300 {
        let state = forge(&machine.key, incarnation, 5);
        repos[0].stage(SignedState::sign(state, &machine.key).unwrap()).await.unwrap();
    }
    assert!(!store.key_in_use_elsewhere());
    publish(&repos[0], &[("x", b"one")]).await;
}

#[tokio::test]
async fn anothers_word_makes_one_incarnation_and_stops_nothing() {
    let (machine, liar) = (Machine::new(1), SigningKey::from_bytes(&[7; 32]));
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut seen = std::collections::BTreeSet::new();
    for revision in 1..100 {
        seen.insert(repo.writer());
        let mut state = forge(&liar, 5, revision);
        state.vector.take_in(Dot { writer: repo.writer(), sequence: u64::MAX });
        let state = SignedState::sign(state, &liar).unwrap();
        let staged = repo.stage(state.clone()).await.unwrap();
        assert_eq!(revision > 1, matches!(staged, Staged::Invalid), "{staged:?}");
        repo.abandon(state.state().writer).await.unwrap();
    }
    assert_eq!(seen.len(), 2);
    assert!(!store.key_in_use_elsewhere());
    publish(&repo, &[("x", b"two")]).await;
}

#[tokio::test]
async fn the_own_signature_makes_a_few_incarnations_and_then_stops_publishing() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut seen = std::collections::BTreeSet::new();
    for revision in 1..100 {
        seen.insert(repo.writer());
        let incarnation = repo.writer().incarnation.get();
        let state = forge(&machine.key, incarnation, revision);
        let state = SignedState::sign(state, &machine.key).unwrap();
        repo.stage(state.clone()).await.unwrap();
        repo.abandon(state.state().writer).await.unwrap();
    }
    assert_eq!(seen.len(), 5);
    assert!(store.key_in_use_elsewhere());
    let refused = try_publish(&repo, &[("x", b"two")]).await;
    assert!(matches!(refused, Err(PublishError::KeyInUseElsewhere)));
}
