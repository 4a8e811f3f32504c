//! An index whose disk fails, for a moment or for good: what was durable is found, whoever only
//! reads gets on, and what cannot be mended is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ark_store::{Change, FailpointHook, Repo};

use crate::support::{Faults, Machine, files, own_head, publish, repo, try_publish};

/// Waits for what must come, and not for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what).await.expect("it does not come")
}

/// Waits until something is so, which takes no writing.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn a_commit_that_answers_an_error_and_is_durable_is_told() {
    let faults = Faults::default();
    let (_machine, _store, repo) = faults.open().await;
    publish(&repo, &[("x", b"one")]).await;
    let mut changes = repo.subscribe();
    faults.set(&["index-durable"]);
    let state = try_publish(&repo, &[("x", b"two")]).await.unwrap();
    assert_eq!(own_head(&repo), Some(state.clone()));
    let Change::Published { state: told, .. } = soon(changes.recv()).await.unwrap() else {
        panic!()
    };
    assert_eq!(told, state);
    faults.set(&[]);
    publish(&repo, &[("y", b"three")]).await;
    assert_eq!(files(&repo).await["x"], b"two");
}

#[tokio::test]
async fn what_turns_out_to_be_durable_is_told_although_nobody_writes() {
    let faults = Faults::default();
    let (_machine, _store, repo) = faults.open().await;
    publish(&repo, &[("x", b"one")]).await;
    let mut changes = repo.subscribe();
    // It is durable, and the file cannot be read again yet.
    faults.set(&["index-durable", "index-read"]);
    try_publish(&repo, &[("x", b"two")]).await.unwrap_err();
    assert_eq!(own_head(&repo).unwrap().state().revision, 1);
    faults.set(&[]);
    let Change::Published { state, .. } = soon(changes.recv()).await.unwrap() else { panic!() };
    assert_eq!(state.state().revision, 2);
    assert_eq!(files(&repo).await["x"], b"two");
    assert_eq!(publish(&repo, &[("y", b"three")]).await.state().revision, 3);
    assert_eq!(files(&repo).await["x"], b"two");
}

/// Fails once, when the index writes for the `nth` time since it was armed (`Some(0)`).
fn nth_write(nth: usize) -> (Arc<Mutex<Option<usize>>>, FailpointHook) {
    let armed = Arc::new(Mutex::new(None::<usize>));
    let passed = Arc::clone(&armed);
    let hook = move |name| {
        let Some(passed) = &mut *passed.lock().unwrap() else { return Ok(()) };
        *passed += usize::from(matches!(name, "index-write" | "index-sync"));
        if *passed != nth {
            return Ok(());
        }
        *passed += 1;
        Err(io::Error::other("test"))
    };
    (armed, Arc::new(hook))
}

#[tokio::test]
async fn whichever_write_of_a_commit_fails_the_next_publication_has_what_is_durable() {
    let mut durable = 0;
    for n in 1.. {
        let machine = Machine::new(1);
        let (armed, hook) = nth_write(n);
        let store = machine.open_with(hook).await;
        let repo = repo(&store).await;
        publish(&repo, &[("x", b"one")]).await;
        *armed.lock().unwrap() = Some(0);
        let outcome = try_publish(&repo, &[("x", b"two")]).await;
        let passed = armed.lock().unwrap().take();
        let content: &[u8] = if outcome.is_ok() { b"two" } else { b"one" };
        assert_eq!(files(&repo).await["x"], content, "{n}");
        let last = publish(&repo, &[("y", b"three")]).await;
        assert_eq!((last.state().revision, last.state().heads[0].sequence), (3, 3), "{n}");
        assert_eq!(files(&repo).await["x"], content, "{n}");
        drop(repo);
        store.close().await.unwrap();
        let store = machine.open().await;
        assert_eq!(own_head(&crate::support::repo(&store).await), Some(last), "{n}");
        if passed < Some(n) {
            break;
        }
        durable += usize::from(outcome.is_ok());
    }
    assert!(durable > 0, "a write that failed and was durable all the same");
}

/// Fills a repo's base with more than the index keeps in memory.
async fn fill_base(repo: &Repo) {
    let row = |n: u32| (n.to_be_bytes().to_vec(), Some(vec![7; 1_000]));
    repo.base().apply((0..10_000).map(row).collect(), vec![]).await.unwrap();
}

#[tokio::test]
async fn whoever_only_reads_gets_on_after_a_failed_read() {
    let faults = Faults::default();
    let (_machine, store, repo) = faults.open().await;
    fill_base(&repo).await;
    let read = || -> Result<usize, ark_store::IndexError> {
        let mut rows = repo.base().snapshot()?.range(&[])?;
        rows.try_fold(0, |count, row| row.map(|_| count + 1))
    };
    assert_eq!(read().unwrap(), 10_000);
    let commits = store.counters().commits;
    faults.set(&["index-read"]);
    read().unwrap_err();
    // While the disk stays away, too.
    until("an index that is not there", || repo.base().snapshot().is_err()).await;
    faults.set(&[]);
    until("a read", || read().is_ok_and(|count| count == 10_000)).await;
    assert_eq!(store.counters().commits, commits, "nobody wrote");
}

#[tokio::test]
async fn a_panic_of_the_database_is_lived_through_and_a_second_is_told() {
    let machine = Machine::new(1);
    let panics = Arc::new(AtomicBool::new(false));
    let hook: FailpointHook = {
        let panics = Arc::clone(&panics);
        Arc::new(move |name| {
            assert!(name != "index-commit" || !panics.load(Ordering::SeqCst), "as redb does");
            Ok(())
        })
    };
    let store = machine.open_with(hook).await;
    let repo = repo(&store).await;
    for _ in 0..2 {
        panics.store(true, Ordering::SeqCst);
        repo.base().set_meta("a", Some(vec![1])).await.unwrap_err();
        panics.store(false, Ordering::SeqCst);
        repo.base().set_meta("a", Some(vec![2])).await.unwrap();
    }
    panics.store(true, Ordering::SeqCst);
    repo.base().set_meta("a", Some(vec![3])).await.unwrap_err();
    repo.base().set_meta("a", Some(vec![3])).await.unwrap_err();
    assert!(soon(store.lost()).await.contains("panics"));
    panics.store(false, Ordering::SeqCst);
    repo.base().set_meta("a", Some(vec![4])).await.unwrap_err();
    drop(repo);
    store.close().await.unwrap();
    let store = machine.open().await;
    let repo = crate::support::repo(&store).await;
    assert_eq!(repo.base().meta("a").unwrap(), Some(vec![2]));
}

#[tokio::test]
async fn an_index_that_cannot_be_opened_again_is_told() {
    let faults = Faults::default();
    let (machine, store, repo) = faults.open().await;
    let state = publish(&repo, &[("x", b"one")]).await;
    // Somebody else's bytes in the place of the file, while it is closed after a failure.
    faults.set(&["index-commit", "index-read"]);
    repo.base().set_meta("a", None).await.unwrap_err();
    until("a closed index", || repo.base().snapshot().is_err()).await;
    std::fs::write(machine.store_path().join("index.redb"), vec![0xa5; 50_000]).unwrap();
    faults.set(&[]);
    soon(store.lost()).await;
    drop(repo);
    store.close().await.unwrap();
    let store = machine.open().await;
    assert!(matches!(store.recovered(), ark_store::Recovery::Rebuilt { .. }));
    let repo = crate::support::repo(&store).await;
    assert_eq!(repo.states().joined.values().collect::<Vec<_>>(), [&state]);
    assert_eq!(files(&repo).await, BTreeMap::from([("x".to_owned(), b"one".to_vec())]));
}
