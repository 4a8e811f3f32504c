//! The folder's records: sorted, by prefix, per repo, durable together.

use ark_core::{Head, RepoKind, TopicId};
use ark_store::{BaseSnapshot, IndexError};

use crate::support::{Faults, Machine, repo};

fn rows(base: &BaseSnapshot, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    base.range(prefix).unwrap().collect::<Result<_, IndexError>>().unwrap()
}

fn set(key: &[u8], value: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.to_vec(), Some(value.to_vec()))
}

#[tokio::test]
async fn records_are_sorted_and_ranged_by_prefix() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let base = repo.base();
    let changes = vec![set(b"b", b"2"), set(b"a\0x", b"1x"), set(b"a", b"1"), set(b"\xff", b"3")];
    base.apply(changes, vec![("applied".into(), Some(b"root".to_vec()))]).await.unwrap();
    let before = base.snapshot().unwrap();
    let all: Vec<_> = rows(&before, b"").into_iter().map(|row| row.0).collect();
    assert_eq!(all, [&b"a"[..], b"a\0x", b"b", b"\xff"]);
    assert_eq!(rows(&before, b"a\0"), [(b"a\0x".to_vec(), b"1x".to_vec())]);
    assert_eq!(rows(&before, b"\xff").len(), 1);
    assert_eq!(before.get(b"b").unwrap().unwrap(), b"2");
    assert_eq!(before.meta("applied").unwrap().unwrap(), b"root");

    let changes = vec![(b"b".to_vec(), None), set(b"c", b"old"), set(b"c", b"new")];
    base.apply(changes, vec![("applied".into(), None)]).await.unwrap();
    // A snapshot stays as it was.
    assert_eq!(rows(&before, b"").len(), 4);
    let after = base.snapshot().unwrap();
    assert_eq!(after.get(b"b").unwrap(), None);
    assert_eq!(after.get(b"c").unwrap().unwrap(), b"new");
    assert_eq!(base.meta("applied").unwrap(), None);
}

#[tokio::test]
async fn each_repo_has_its_own_and_keeps_it() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let one = repo(&store).await;
    let other = store.repo(TopicId::derive("another", None), RepoKind::Folder).await.unwrap();
    one.base().apply(vec![set(b"k", b"one")], vec![]).await.unwrap();
    other.base().apply(vec![set(b"k", b"other"), set(b"l", b"")], vec![]).await.unwrap();
    assert_eq!(rows(&one.base().snapshot().unwrap(), b""), [(b"k".to_vec(), b"one".to_vec())]);
    drop((one, other));
    store.close().await.unwrap();
    let store = machine.open().await;
    let other = store.repo(TopicId::derive("another", None), RepoKind::Folder).await.unwrap();
    assert_eq!(rows(&other.base().snapshot().unwrap(), b"").len(), 2);
    assert_eq!(repo(&store).await.base().snapshot().unwrap().get(b"k").unwrap().unwrap(), b"one");
}

#[tokio::test]
async fn many_records_are_one_commit() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let before = store.counters().commits;
    let changes = (0..20_000u32).rev().map(|n| set(&n.to_be_bytes(), &[7; 60])).collect();
    repo.base().apply(changes, vec![]).await.unwrap();
    assert_eq!(store.counters().commits - before, 1);
    let snapshot = repo.base().snapshot().unwrap();
    assert_eq!(rows(&snapshot, b"").len(), 20_000);
    assert_eq!(rows(&snapshot, &[0, 0, 1]).len(), 256);
}

#[tokio::test]
async fn a_publication_changes_the_base_if_and_only_if_it_succeeds() {
    let faults = Faults::default();
    let (_machine, store, repo) = faults.open().await;
    for fail in [true, false] {
        faults.set(if fail { &["index"] } else { &[] });
        let commits = store.counters().commits;
        let publisher = repo.publisher().await;
        let dot = publisher.dot();
        let mut batch = repo.batch();
        let files: &[(&str, &[u8])] = &[("a", b"x")];
        let put = crate::support::put_files(&repo, &mut batch, dot, files, None).await;
        let (head, vector) = put.unwrap();
        let heads = vec![Head { id: head.id, sequence: dot.sequence }];
        let publisher = publisher
            .with_base(vec![set(b"a", b"1")], vec![("applied".into(), Some(b"root".to_vec()))]);
        let outcome = publisher.publish(batch, heads, vector, vec![]).await;
        assert_eq!(outcome.is_err(), fail);
        let base = repo.base().snapshot().unwrap();
        assert_eq!(base.get(b"a").unwrap().is_none(), fail);
        assert_eq!(base.meta("applied").unwrap().is_none(), fail);
        assert_eq!(store.counters().commits - commits, u64::from(!fail));
    }
}
