//! Ends in the middle of applying: what was put on disk and not recorded is nobody's edit, also
//! when others have gone on before it is seen.

mod syncing;

use std::os::unix::net::UnixListener;
use std::time::Duration;

use ark_core::RelPath;
use ark_folder::FolderStatus;
use ark_folder::apply::MAX_BATCH_WRITES;
use ark_folder::base::{BaseRead as _, BaseView};
use ark_folder::scan::FoundNode;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use syncing::moment::Moment;
use syncing::{Device, pull, pull_repo, revisions, settle};

/// Files of each kind in a batch that is met half done.
const FILES: usize = 40;

/// Two devices that have `files`, the second one with moments.
async fn two_with(files: &[(&str, &str)]) -> (Device, Device, Moment) {
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    b.start().await;
    for (path, content) in files {
        a.write(path, content);
    }
    settle(&[&a, &b]).await;
    (a, b, moment)
}

/// Has `b` apply what `a` has now and ends it in the middle: right before the `FILES / 2`th time
/// that it does this.
async fn killed_while_applying(
    a: &Device,
    b: &mut Device,
    moment: &Moment,
    operation: &'static str,
) {
    a.rest().await;
    moment.expect(FILES / 2, move |it, _, _| it == operation);
    pull(a, b).await;
    moment.met().await;
    b.kill_in(moment).await;
}

/// Of how many files that hold `content` base does not say so.
async fn unrecorded(b: &Device, content: &str) -> usize {
    let (store, repo) = b.open_store().await;
    let base = BaseView::new(repo.base().snapshot().unwrap());
    let known = |path: &str| {
        let record = base.get(&RelPath::parse(path.as_bytes()).unwrap()).unwrap();
        record.is_some_and(|record| match record.node {
            FoundNode::File { size, .. } => size == content.len() as u64,
            _ => false,
        })
    };
    let tree = b.tree();
    let placed = tree.iter().filter(|(_, what)| what.ends_with(content));
    let count = placed.filter(|(path, _)| !known(path)).count();
    drop((base, repo));
    store.close().await.unwrap();
    count
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
    let (a, mut b, moment) = two_with(&[]).await;
    // What it replaces, then what is new there.
    for (operation, placed) in [("exchange with", 0), ("rename to", FILES)] {
        for file in 0..FILES {
            a.write(&format!("d/{file}"), "before");
        }
        settle(&[&a, &b]).await;
        for file in 0..FILES {
            a.write(&format!("d/{file}"), "put on disk");
            a.write(&format!("d/new-{file}"), "put on disk");
        }
        killed_while_applying(&a, &mut b, &moment, operation).await;
        assert_eq!(unrecorded(&b, "put on disk").await, placed + FILES / 2 - 1);
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
    }
}

/// A batch that moves files, and a newer state that moves them back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_batch_moved_is_not_deleted() {
    let (a, mut b, moment) = two_with(&[]).await;
    for file in 0..FILES {
        a.write(&format!("d/{file}"), format!("content of {file:03}"));
    }
    settle(&[&a, &b]).await;
    let wanted = a.tree();
    a.rename("d", "e");
    a.write("e/sign", "moved");
    killed_while_applying(&a, &mut b, &moment, "rename to").await;
    let moved = b.tree().keys().filter(|path| path.starts_with("e/")).count();
    assert_eq!(moved, FILES / 2 - 1);
    a.remove("e/sign");
    a.rename("e", "d");
    joins_while_off(&a, &b).await;
    b.start().await;
    settle(&[&a, &b]).await;
    assert!(a.tree() == wanted, "what was moved there came back");
    assert_eq!(b.published(), 0, "nothing was moved there");
}

/// A plan of several batches, of which only the first is carried out: what it wrote is gone from
/// the tree by then, as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_plan_wrote_is_removed() {
    let (a, b, moment) = two_with(&[("kept", "kept")]).await;
    let before = a.tree();
    for file in 0..=MAX_BATCH_WRITES {
        a.write(&format!("d/{file}"), "");
    }
    a.rest().await;
    // The last of the first batch: it is told while this is under way.
    moment.expect(MAX_BATCH_WRITES, |it, _, _| it == "rename to");
    pull(&a, &b).await;
    moment.met().await;
    a.remove("d");
    a.rest().await;
    pull(&a, &b).await;
    moment.over();
    settle(&[&a, &b]).await;
    assert!(b.tree() == before, "what the abandoned plan wrote stays");
    assert_eq!(b.published(), 0, "nothing was written there");
}

/// Published, and ended before a plan that knows of it: others delete it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_last_can_be_deleted_elsewhere() {
    let (a, mut b, moment) = two_with(&[("kept", "kept")]).await;
    let published = b.published();
    moment.expect(1, |it, _, name| it == "sync" && name == b"of-b");
    b.write("of-b", "of b");
    moment.met().await;
    // Whoever asks for a fence while it is being published has it made before the next plan is.
    let asked = tokio::time::timeout(Duration::ZERO, b.folder().fence()).await;
    asked.expect_err("it is asked for, and waited for no more");
    moment.expect(1, |it, _, _| it == "make directory");
    moment.met().await;
    assert_eq!(b.published(), published + 1);
    b.kill_in(&moment).await;
    let (store, repo) = b.open_store().await;
    let applied = BaseView::new(repo.base().snapshot().unwrap()).applied().unwrap();
    let own = applied.and_then(|applied| applied.revisions.get(&repo.writer()).copied());
    assert_ne!(own, revisions(&repo).get(&repo.writer()).copied(), "no plan knows of it");
    pull_repo(&repo, a.repo()).await;
    a.rest().await;
    a.remove("of-b");
    a.rest().await;
    pull_repo(a.repo(), &repo).await;
    drop(repo);
    store.close().await.unwrap();
    b.start().await;
    settle(&[&a, &b]).await;
    assert!(!b.path("of-b").exists(), "it stays");
}

/// What stood at a path is replaced by what a scan cannot take up, and only later by what it can:
/// then nobody knows any more that the batch had put something else there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_batch_set_aside_outlives_what_cannot_be_looked_at_there() {
    let (a, mut b, moment) = two_with(&[]).await;
    b.write("d", "of b");
    b.rest().await;
    a.write("d/f", "of a");
    a.rest().await;
    // All is placed, and nothing recorded.
    moment.expect(1, |it, _, name| it == "sync" && name.is_empty());
    pull(&a, &b).await;
    moment.met().await;
    b.kill_in(&moment).await;
    assert!(b.path("d/f").exists() && b.tree().len() == 3, "{:?}", b.tree());
    b.remove("d");
    let socket = UnixListener::bind(b.path("d")).unwrap();
    b.start().await;
    let is_said =
        |status: &FolderStatus| status.problems.iter().any(|problem| problem.contains("socket"));
    b.until("saying so", |status| status.scanned && is_said(status)).await;
    drop(socket);
    b.remove("d");
    b.write("d", "again of b");
    settle(&[&a, &b]).await;
    let tree = a.tree();
    let is_there = |content| tree.values().any(|what| what.ends_with(content));
    assert!(is_there("644 of b") && is_there("644 again of b"), "{tree:?}");
}

/// What could not be looked at when the batch was planned either was not touched by it: base goes
/// on standing for it, however long others' changes to it have waited.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_batch_was_held_back_from_is_as_base_says() {
    let (a, mut b, moment) = two_with(&[("d/f", "old"), ("d/gone", "old")]).await;
    let beside = b.home.path().join("beside");
    let _socket = UnixListener::bind(&beside).unwrap();
    let exchange = |b: &Device| {
        renameat_with(CWD, &beside, CWD, b.path("d"), RenameFlags::EXCHANGE).unwrap();
    };
    exchange(&b);
    let is_said = |status: &FolderStatus| {
        status.scanned && status.problems.iter().any(|problem| problem.contains("socket"))
    };
    b.until("saying so", is_said).await;
    a.remove("d/gone");
    a.write("d/f", "new");
    a.write("elsewhere", "of a");
    a.rest().await;
    let wanted = a.tree();
    moment.expect(1, |it, _, name| it == "sync" && name.is_empty());
    pull(&a, &b).await;
    moment.met().await;
    b.kill_in(&moment).await;
    b.start().await;
    b.until("saying so again", is_said).await;
    exchange(&b);
    settle(&[&a, &b]).await;
    assert!(b.tree() == wanted && a.tree() == wanted, "{:?}", a.tree());
    assert_eq!(b.published(), 0, "nothing was written there");
}
