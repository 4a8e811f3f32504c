//! Ends in the middle of applying: what was put on disk and not recorded is nobody's edit, also
//! when others have gone on before it is seen.

mod syncing;

use std::collections::BTreeMap;

use ark_core::RelPath;
use ark_folder::apply::MAX_BATCH_WRITES;
use ark_folder::base::{BaseRead as _, BaseView};
use syncing::{Device, eventually, pull, pull_repo, settle, two, two_with};

/// Files per batch: long enough under way to be met there.
const FILES: usize = 200;
/// Tries to meet it there.
const TRIES: usize = 20;

/// Has `b` apply what `a` has now and be killed when some of it is on disk and base does not know.
/// `content` is what `a` wrote last, in every file below `d`.
async fn killed_while_applying(a: &Device, b: &mut Device, content: &str) -> bool {
    a.rest().await;
    pull(a, b).await;
    eventually("applied", || b.tree().values().any(|what| what.ends_with(content))).await;
    b.kill().await;
    let (store, repo) = b.open_store().await;
    let is_unrecorded = {
        let base = BaseView::new(repo.base().snapshot().unwrap());
        let seen = b.tree();
        let placed = seen.iter().filter(|(_, what)| what.ends_with(content));
        let records: BTreeMap<&String, _> = placed
            .map(|(path, _)| (path, base.get(&RelPath::parse(path.as_bytes()).unwrap()).unwrap()))
            .collect();
        let size = content.len() as u64;
        let known = |record: &ark_folder::base::Record| match record.node {
            ark_folder::scan::FoundNode::File { size: there, .. } => there == size,
            _ => false,
        };
        records.values().any(|record| !record.as_ref().is_some_and(known))
    };
    drop(repo);
    store.close().await.unwrap();
    is_unrecorded
}

/// `b` joins what `a` has while its folder is off.
async fn joins_while_off(a: &Device, b: &Device) {
    a.rest().await;
    let (store, repo) = b.open_store().await;
    pull_repo(a.repo(), &repo).await;
    drop(repo);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_batch_wrote_is_no_edit() {
    let (a, mut b) = two().await;
    for attempt in 0..TRIES {
        for file in 0..FILES {
            a.write(&format!("d/{file}"), "before");
        }
        settle(&[&a, &b]).await;
        for file in 0..FILES {
            a.write(&format!("d/{file}"), "put on disk");
            a.write(&format!("d/new-{file}"), "put on disk");
        }
        let is_met = killed_while_applying(&a, &mut b, "put on disk").await;
        for file in 0..FILES {
            a.write(&format!("d/{file}"), "gone on meanwhile");
            a.remove(&format!("d/new-{file}"));
        }
        joins_while_off(&a, &b).await;
        let wanted = a.tree();
        b.start().await;
        settle(&[&a, &b]).await;
        assert!(b.tree() == wanted, "what was written there came back");
        assert_eq!(b.published(), 0, "nothing was written there");
        if is_met {
            return;
        }
        println!("try {attempt} came too late");
    }
    panic!("never killed between placing and recording");
}

/// A batch that moves files, and a newer state that moves them back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_batch_moved_is_not_deleted() {
    let (a, mut b) = two().await;
    for _ in 0..TRIES {
        for file in 0..FILES {
            a.write(&format!("d/{file}"), format!("content of {file:03}"));
        }
        settle(&[&a, &b]).await;
        let wanted = a.tree();
        a.rename("d", "e");
        a.write("e/sign", "moved");
        let is_met = {
            a.rest().await;
            pull(&a, &b).await;
            eventually("moved", || b.tree().contains_key("e/100")).await;
            b.kill().await;
            b.tree().keys().any(|path| path.starts_with("d/"))
        };
        a.remove("e/sign");
        a.rename("e", "d");
        joins_while_off(&a, &b).await;
        b.start().await;
        settle(&[&a, &b]).await;
        assert!(a.tree() == wanted, "what was moved there came back");
        assert_eq!(b.published(), 0, "nothing was moved there");
        if is_met {
            return;
        }
    }
    panic!("never killed between moving and recording");
}

/// A plan of several batches, of which only the first is carried out: what it wrote is gone from
/// the tree by then, as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_plan_wrote_is_removed() {
    let (a, mut b) = two_with(&[("kept", "kept")]).await;
    let before = a.tree();
    b.stop().await;
    for file in 0..=MAX_BATCH_WRITES {
        a.write(&format!("d/{file}"), "");
    }
    joins_while_off(&a, &b).await;
    a.remove("d");
    a.rest().await;
    b.start().await;
    // It is told while the first batch is under way.
    eventually("begun", || b.path("d").exists()).await;
    pull(&a, &b).await;
    settle(&[&a, &b]).await;
    assert!(b.tree() == before, "what the abandoned plan wrote stays");
    assert_eq!(b.published(), 0, "nothing was written there");
}

/// Published, and ended before a plan that knows of it: others delete it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_last_can_be_deleted_elsewhere() {
    let (a, mut b) = two_with(&[("kept", "kept")]).await;
    for attempt in 0..TRIES {
        let path = format!("of-b-{attempt}");
        let before = b.published();
        b.write(&path, "of b");
        eventually("published", || b.published() > before).await;
        b.kill().await;
        let (store, repo) = b.open_store().await;
        let applied = BaseView::new(repo.base().snapshot().unwrap()).applied().unwrap();
        let own = applied.and_then(|applied| applied.revisions.get(&repo.writer()).copied());
        let is_met = own != syncing::revisions(&repo).get(&repo.writer()).copied();
        pull_repo(&repo, a.repo()).await;
        a.rest().await;
        a.remove(&path);
        a.rest().await;
        pull_repo(a.repo(), &repo).await;
        drop(repo);
        store.close().await.unwrap();
        b.start().await;
        settle(&[&a, &b]).await;
        assert!(!b.path(&path).exists(), "it stays");
        if is_met {
            return;
        }
    }
    panic!("never killed between publishing and planning");
}
