//! A lost index is made anew from states and blobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ark_core::{Link, ObjectId};
use ark_store::{Join, Recovery, Staged, Store};

use crate::support::{Machine, contents, fetch, files, publish, pull, repo};

/// A device that published, joined another's state, and has a third's staged in part.
async fn filled() -> (Machine, Machine, Machine) {
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    let (sa, sb, sc) = (a.open().await, b.open().await, c.open().await);
    let (ra, rb, rc) = (repo(&sa).await, repo(&sb).await, repo(&sc).await);
    publish(&ra, &[("own", &[1; 5000])]).await;
    publish(&ra, &[("own", &[2; 5000])]).await;
    let from_b = publish(&rb, &[("b", &[3; 500]), ("big", &vec![4; 70_000])]).await;
    assert!(matches!(pull(&rb, &ra, &from_b).await, Join::Joined(_)));
    let from_c = publish(&rc, &[("c", &[5; 5000])]).await;
    let Staged::Staged { missing } = ra.stage(from_c).await.unwrap() else { panic!() };
    let bytes = rc.read(missing[0]).await.unwrap();
    ra.receive(vec![ark_core::Object::new(missing[0].kind, bytes)]).await.unwrap();
    ra.base().set_meta("applied", Some(vec![1])).await.unwrap();
    drop((ra, rb, rc));
    sa.close().await.unwrap();
    sb.close().await.unwrap();
    sc.close().await.unwrap();
    (a, b, c)
}

async fn assert_rebuilt(store: &Store, c: &Machine) {
    let Recovery::Rebuilt { joined, staged, .. } = store.recovered() else {
        panic!("{:?}", store.recovered())
    };
    assert_eq!((joined, staged), (2, 1));
    let repo = repo(store).await;
    let expected = contents(&[("own", &[2; 5000]), ("b", &[3; 500]), ("big", &vec![4; 70_000])]);
    assert_eq!(files(&repo).await, expected);
    // The base is gone, so the folder unites.
    assert_eq!(repo.base().meta("applied").unwrap(), None);
    // What was staged goes on.
    let store_c = c.open().await;
    let from = crate::support::repo(&store_c).await;
    let missing = repo.staged_missing(from.writer(), 100).await.unwrap().unwrap();
    fetch(&from, &repo, missing).await;
    assert!(matches!(repo.join(from.writer()).await.unwrap(), Join::Joined(_)));
    assert_eq!(files(&repo).await.len(), 4);
    // And the device writes on, under a new incarnation.
    let state = publish(&repo, &[("own", b"three")]).await;
    assert_eq!(state.state().revision, 1);
    drop(from);
    store_c.close().await.unwrap();
}

#[tokio::test]
async fn a_deleted_index_is_rebuilt() {
    let (a, _b, c) = filled().await;
    std::fs::remove_file(a.store_path().join("index.redb")).unwrap();
    let store = a.open().await;
    assert_rebuilt(&store, &c).await;
    store.close().await.unwrap();
    assert_eq!(a.open().await.recovered(), Recovery::Same);
}

#[tokio::test]
async fn a_damaged_index_is_put_aside_and_rebuilt() {
    let (a, _b, c) = filled().await;
    let index = a.store_path().join("index.redb");
    let length = std::fs::metadata(&index).unwrap().len();
    std::fs::write(&index, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    let store = a.open().await;
    assert_rebuilt(&store, &c).await;
    assert!(a.store_path().join("index.redb.damaged").exists());
}

#[tokio::test]
async fn an_index_cut_short_is_rebuilt_or_opens() {
    let (a, _b, _c) = filled().await;
    let index = a.store_path().join("index.redb");
    let whole = std::fs::read(&index).unwrap();
    for length in [0, 1, 100, 4096, whole.len() / 2] {
        std::fs::write(&index, &whole[..length]).unwrap();
        let store = a.open().await;
        assert!(matches!(store.recovered(), Recovery::Rebuilt { .. }), "{length} bytes");
        assert_eq!(files(&repo(&store).await).await.len(), 3);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_damaged_is_not_joined() {
    let (a, b, _c) = filled().await;
    let big = ObjectId::of(&vec![4; 70_000]);
    let data = a.store_path().join("blobs").join("data").join(format!("{big}.data"));
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    std::fs::remove_file(a.store_path().join("index.redb")).unwrap();

    let store = a.open().await;
    let Recovery::Rebuilt { joined, staged, .. } = store.recovered() else { panic!() };
    assert_eq!((joined, staged), (1, 2));
    let repo = repo(&store).await;
    assert_eq!(files(&repo).await, contents(&[("own", &[2; 5000])]));
    // Pulled again, it is whole.
    let store_b = b.open().await;
    let from = crate::support::repo(&store_b).await;
    let missing = repo.staged_missing(from.writer(), 100).await.unwrap().unwrap();
    fetch(&from, &repo, missing).await;
    assert!(matches!(repo.join(from.writer()).await.unwrap(), Join::Joined(_)));
    assert_eq!(repo.read(Link::raw(big)).await.unwrap(), vec![4; 70_000]);
}

#[tokio::test]
async fn a_rebuild_that_fails_begins_anew() {
    let (a, _b, c) = filled().await;
    std::fs::remove_file(a.store_path().join("index.redb")).unwrap();
    let hits = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&hits);
    let hook = move |name: &'static str| {
        if matches!(name, "rebuild" | "sync-db") && seen.fetch_add(1, Ordering::SeqCst) == 1 {
            return Err(std::io::Error::other("test"));
        }
        Ok(())
    };
    assert!(Store::open_with_failpoints(a.options(), Arc::new(hook)).await.is_err());
    assert_eq!(hits.load(Ordering::SeqCst), 2);
    let store = a.open().await;
    assert_rebuilt(&store, &c).await;
}

#[tokio::test]
async fn a_state_whose_head_was_taken_in_is_joined_without_it() {
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    let (sa, sb, sc) = (a.open().await, b.open().await, c.open().await);
    let (ra, rb, rc) = (repo(&sa).await, repo(&sb).await, repo(&sc).await);
    let from_a = publish(&ra, &[("x", b"of a")]).await;
    pull(&ra, &rb, &from_a).await;
    let from_b = publish(&rb, &[("y", b"of b")]).await;
    pull(&rb, &rc, &from_b).await;
    rc.stage(from_a.clone()).await.unwrap();
    assert!(matches!(rc.join(ra.writer()).await.unwrap(), Join::Joined(_)));
    drop(rc);
    sc.close().await.unwrap();
    std::fs::remove_file(c.store_path().join("index.redb")).unwrap();
    let sc = c.open().await;
    let Recovery::Rebuilt { joined, staged, .. } = sc.recovered() else { panic!() };
    assert_eq!((joined, staged), (2, 0));
}

#[tokio::test]
async fn a_rebuild_that_did_not_end_is_not_believed() {
    let a = Machine::new(1);
    let store = a.open().await;
    let topics = ["first", "second"].map(|name| ark_core::TopicId::derive(name, None));
    for topic in topics {
        let repo = store.repo(topic, ark_core::RepoKind::Folder).await.unwrap();
        let publisher = repo.publisher().await;
        let dot = publisher.dot();
        let mut batch = repo.batch();
        let files: [(&str, &[u8]); 1] = [("x", &[1; 5000])];
        let made = crate::support::put_files(&repo, &mut batch, dot, &files, None).await;
        let (head, vector) = made.unwrap();
        let head = ark_core::Head { id: head.id, sequence: dot.sequence };
        publisher.publish(batch, vec![head], vector, vec![]).await.unwrap();
    }
    store.close().await.unwrap();
    std::fs::remove_file(a.store_path().join("index.redb")).unwrap();
    let hits = AtomicUsize::new(0);
    let hook = move |name: &'static str| {
        if name == "rebuild" && hits.fetch_add(1, Ordering::SeqCst) == 1 {
            return Err(std::io::Error::other("test"));
        }
        Ok(())
    };
    assert!(Store::open_with_failpoints(a.options(), Arc::new(hook)).await.is_err());
    // What the first repo's rebuild had indexed is gone with a power cut.
    let content = ObjectId::of(&[1; 5000]);
    let data = a.store_path().join("blobs").join("data").join(format!("{content}.data"));
    std::fs::remove_file(data).unwrap();
    let store = a.open().await;
    let Recovery::Rebuilt { joined, staged, .. } = store.recovered() else { panic!() };
    assert_eq!((joined, staged), (0, 2));
    for topic in topics {
        let repo = store.repo(topic, ark_core::RepoKind::Folder).await.unwrap();
        assert_eq!(repo.indexed(&[Link::raw(content)]).await.unwrap(), [false]);
    }
}

#[tokio::test]
async fn a_tag_that_died_with_the_blob_store_is_set_again() {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let (sa, sb) = (a.open().await, b.open().await);
    let (ra, rb) = (repo(&sa).await, repo(&sb).await);
    let from_b = publish(&rb, &[("x", &[1; 5000])]).await;
    let Staged::Staged { missing } = ra.stage(from_b).await.unwrap() else { panic!() };
    sa.kill_blobs().await;
    fetch(&rb, &ra, missing).await;
    let before = sa.counters();
    assert!(matches!(ra.join(rb.writer()).await.unwrap(), Join::Joined(_)));
    let after = sa.counters();
    assert_eq!((after.imports, after.blob_syncs), (before.imports + 1, before.blob_syncs + 1));
    drop(ra);
    sa.close().await.unwrap();
    std::fs::remove_file(a.store_path().join("index.redb")).unwrap();
    let Recovery::Rebuilt { joined, .. } = a.open().await.recovered() else { panic!() };
    assert_eq!(joined, 1);
}
