//! A disk that fails or is full: nothing is told, nothing is lost, and the store goes on.

use std::io;
use std::sync::{Arc, Mutex};

use ark_core::{Object, ObjectKind};
use ark_store::{BlobError, CommitError, IndexError, PublishError};

use crate::support::{Dice, Faults, Machine, files, own_head, publish, repo, try_publish};

#[tokio::test]
async fn a_full_disk_fails_imports_in_words_until_there_is_room() {
    let faults = Faults::of(io::ErrorKind::StorageFull);
    let (_machine, _store, repo) = faults.open().await;
    publish(&repo, &[("x", b"one")]).await;
    faults.set(&["import"]);
    let error = try_publish(&repo, &[("x", b"two")]).await.unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
    let received = repo.receive(vec![Object::new(ObjectKind::Raw, vec![1; 9])]).await;
    assert!(received.unwrap_err().to_string().contains("no space left"));
    let mut batch = repo.batch();
    // An import runs on its own: its failure surfaces here or at the end.
    let added = batch.add(Object::new(ObjectKind::Raw, vec![2; 9])).await;
    let outcome = match added {
        Ok(()) => batch.commit().await.map(|_| ()),
        Err(error) => Err(error.into()),
    };
    assert!(outcome.unwrap_err().to_string().contains("no space left"));
    assert_eq!(own_head(&repo).unwrap().state().revision, 1);

    faults.set(&[]);
    let state = publish(&repo, &[("x", b"two")]).await;
    assert_eq!(own_head(&repo), Some(state));
    repo.receive(vec![Object::new(ObjectKind::Raw, vec![1; 9])]).await.unwrap();
}

#[tokio::test]
async fn a_failed_barrier_tells_nothing_and_burns_the_revision() {
    for place in ["tagged", "sync-db", "sync-files", "index", "index-commit"] {
        let faults = Faults::default();
        let (machine, store, repo) = faults.open().await;
        let first = publish(&repo, &[("x", &[1; 5000])]).await;
        let mut changes = repo.subscribe();
        faults.set(&[place]);
        let error = try_publish(&repo, &[("x", &[2; 5000])]).await.unwrap_err();
        assert!(matches!(error, PublishError::Commit(CommitError::Add(_))), "{place}: {error:?}");
        assert!(changes.try_recv().is_err(), "{place}");
        assert_eq!(own_head(&repo), Some(first), "{place}");
        faults.set(&[]);
        let third = publish(&repo, &[("x", &[3; 5000])]).await;
        assert_eq!((third.state().revision, third.state().heads[0].sequence), (3, 3), "{place}");
        assert_eq!(files(&repo).await["x"], [3; 5000], "{place}");
        drop(repo);
        store.close().await.unwrap();
        let store = machine.open().await;
        let repo = crate::support::repo(&store).await;
        assert_eq!(own_head(&repo), Some(third), "{place}");
        assert_eq!(repo.publisher().await.dot().sequence, 4, "{place}");
    }
}

#[tokio::test]
async fn the_index_is_opened_again_after_it_failed() {
    let faults = Faults::of(io::ErrorKind::StorageFull);
    let (_machine, _store, repo) = faults.open().await;
    let base = repo.base();
    base.apply(vec![(b"a".to_vec(), Some(vec![1]))], vec![]).await.unwrap();
    faults.set(&["index-commit"]);
    for _ in 0..3 {
        let error = base.apply(vec![(b"a".to_vec(), Some(vec![2]))], vec![]).await.unwrap_err();
        assert!(matches!(error, IndexError::Database(_)), "{error:?}");
    }
    assert_eq!(base.snapshot().unwrap().get(b"a").unwrap(), Some(vec![1]));
    faults.set(&[]);
    base.apply(vec![(b"a".to_vec(), Some(vec![3]))], vec![]).await.unwrap();
    assert_eq!(base.snapshot().unwrap().get(b"a").unwrap(), Some(vec![3]));
}

#[tokio::test]
async fn those_who_share_a_barrier_share_its_failure() {
    let faults = Faults::default();
    let (_machine, _store, repo) = faults.open().await;
    faults.set(&["sync-db"]);
    let tasks: Vec<_> = (0..8u8)
        .map(|number| {
            let repo = repo.clone();
            tokio::spawn(async move {
                repo.receive(vec![Object::new(ObjectKind::Raw, vec![number; 10])]).await
            })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, ark_store::ReceiveError::Blob(BlobError::Io { .. })));
    }
}

#[tokio::test]
async fn the_steps_of_the_barrier_are_in_order() {
    let machine = Machine::new(1);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&steps);
    let hook = move |name| {
        noted.lock().unwrap().push(name);
        Ok(())
    };
    let store = machine.open_with(Arc::new(hook)).await;
    let repo = repo(&store).await;
    steps.lock().unwrap().clear();
    publish(&repo, &[("x", &[1; 5000])]).await;
    let steps = steps.lock().unwrap().clone();
    let at = |name| steps.iter().rposition(|step| *step == name).unwrap();
    // The state's own import is the last of the imports.
    assert!(at("publish") < at("import"));
    assert!(at("import") < at("tagged"));
    assert!(at("tagged") < at("sync-db").min(at("sync-files")));
    assert!(at("sync-db").max(at("sync-files")) < at("index"));
    assert!(at("index") < at("index-commit"));
    assert!(at("index-commit") < at("committed"));
}

#[tokio::test]
async fn leftovers_of_imports_are_swept() {
    let machine = Machine::new(1);
    machine.open().await.close().await.unwrap();
    let temp = machine.store_path().join("blobs").join("temp");
    let leftover = temp.join("0123.temp");
    std::fs::write(&leftover, [0; 100]).unwrap();
    let store = machine.open().await;
    assert!(!leftover.exists());
    drop(store);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let state = publish(&repo, &[("x", b"one")]).await;
    store.close().await.unwrap();
    assert!(try_publish(&repo, &[("x", b"two")]).await.is_err());
    assert!(repo.base().set_meta("a", None).await.is_err());
    assert!(repo.indexed(&state.state().head_links()).await.is_err());
    // Although a handle is still held.
    let store = machine.open().await;
    assert_eq!(own_head(&crate::support::repo(&store).await), Some(state));
}

#[tokio::test]
async fn a_damaged_object_is_told_from_an_absent_one() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut batch = repo.batch();
    batch.add(Object::new(ObjectKind::Raw, vec![7; 5000])).await.unwrap();
    batch.add(Object::new(ObjectKind::Raw, vec![8; 5000])).await.unwrap();
    let links = batch.commit().await.unwrap();
    drop(repo);
    store.close().await.unwrap();
    let data = machine.store_path().join("blobs").join("data");
    let file = |at: usize| data.join(format!("{}.data", links[at].id));
    std::fs::write(file(0), vec![0; 5000]).unwrap();
    std::fs::remove_file(file(1)).unwrap();
    let store = machine.open().await;
    let repo = crate::support::repo(&store).await;
    for link in links {
        let error = repo.read(link).await.unwrap_err();
        assert!(matches!(error, ark_store::ReadError::Damaged { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_blob_store_that_ended_is_opened_again() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    publish(&repo, &[("x", &[1; 5000]), ("small", b"one")]).await;
    // What was imported and not yet durable is lost with it, and never indexed.
    let object = Object::new(ObjectKind::Raw, vec![2; 5000]);
    let mut batch = repo.batch();
    batch.add(object.clone()).await.unwrap();
    let other = Object::new(ObjectKind::Raw, vec![3; 50]);
    batch.add(other.clone()).await.unwrap();
    // Its imports end before the store does.
    let mut seen = store.counters().imports;
    while seen < 8 {
        tokio::task::yield_now().await;
        seen = store.counters().imports;
    }
    store.kill_blobs().await;
    let read = repo.read(ark_core::Link::raw(ark_core::ObjectId::of(b"one"))).await.unwrap();
    assert_eq!(read, b"one"[..]);
    let error = batch.commit().await.unwrap_err();
    assert!(error.to_string().contains("opened again"), "{error}");
    assert_eq!(repo.indexed(&[object.link(), other.link()]).await.unwrap(), [false; 2]);

    let mut batch = repo.batch();
    batch.add(object.clone()).await.unwrap();
    batch.add(other.clone()).await.unwrap();
    batch.commit().await.unwrap();
    assert_eq!(repo.read(object.link()).await.unwrap(), object.bytes());
    assert_eq!(repo.read(other.link()).await.unwrap(), other.bytes());
    publish(&repo, &[("x", b"after")]).await;
    assert_eq!(files(&repo).await.len(), 2);
    drop(repo);
    store.close().await.unwrap();
    assert_eq!(machine.open().await.recovered(), ark_store::Recovery::Same);
}

#[tokio::test]
async fn whatever_fails_and_restarts_no_revision_is_used_twice_and_what_is_told_is_there() {
    const PLACES: [&str; 8] = [
        "import",
        "publish",
        "tagged",
        "sync-db",
        "sync-files",
        "index",
        "index-commit",
        "committed",
    ];
    for seed in 1..=4 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        let machine = Machine::new(1);
        let faults = Faults::default();
        let mut store = machine.open_with(faults.hook()).await;
        let mut repo = repo(&store).await;
        let mut told: Vec<ark_core::SignedState> = Vec::new();
        let mut content = std::collections::BTreeMap::new();
        for step in 0..60u64 {
            if dice.roll(3) == 0 {
                faults.set(&[PLACES[usize::try_from(dice.roll(8)).unwrap()]]);
            }
            let name = format!("f{}", dice.roll(5));
            let bytes =
                vec![u8::try_from(step).unwrap(); usize::try_from(dice.roll(4000)).unwrap()];
            if let Ok(state) = try_publish(&repo, &[(&name, &bytes)]).await {
                told.push(state);
                content.insert(name, bytes);
            }
            faults.set(&[]);
            if let Some(own) = own_head(&repo).filter(|own| told.last() != Some(own)) {
                // A commit that answered an error was durable, and is told now.
                assert!(told.last().is_none_or(|last| own.replaces(last)), "seed {seed}");
                content = files(&repo).await;
                told.push(own);
            }
            match dice.roll(8) {
                0 => {
                    drop(repo);
                    drop(store);
                    store = machine.open_with(faults.hook()).await;
                    assert_eq!(store.recovered(), ark_store::Recovery::Same);
                    repo = crate::support::repo(&store).await;
                    if let (Some(own), Some(last)) = (own_head(&repo), told.last()) {
                        // What was durable and not told may have come to light.
                        assert!(own == *last || own.replaces(last), "seed {seed} step {step}");
                        if own != *last {
                            content = files(&repo).await;
                            told.push(own);
                        }
                    }
                }
                1 => store.kill_blobs().await,
                _ => {}
            }
            assert!(files(&repo).await == content, "seed {seed} step {step}");
            crate::trie::assert_trie(&repo).await;
        }
        let issued = |state: &ark_core::SignedState| {
            (state.state().revision, state.state().heads[0].sequence)
        };
        assert!(told.is_sorted_by(|a, b| issued(a) < issued(b)), "seed {seed}");
        assert!(told.len() > 20, "seed {seed}: {}", told.len());
    }
}

#[tokio::test]
async fn what_was_burnt_stays_burnt_when_the_repo_is_opened_again() {
    let faults = Faults::default();
    let (_machine, store, opened) = faults.open().await;
    faults.set(&["index"]);
    try_publish(&opened, &[("x", b"one")]).await.unwrap_err();
    faults.set(&[]);
    drop(opened);
    let opened = repo(&store).await;
    assert_eq!(publish(&opened, &[("x", b"two")]).await.state().revision, 2);
}
