//! Disks that fail, ends at any moment, stores and folders that were lost or put back: no content
//! is lost, and nothing is done twice.

mod syncing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_core::{Content, Mtime, Object, ObjectKind, Put, SignedState};
use ark_folder::fs::Gate;
use ark_folder::{FolderState, FolderStatus};
use ark_store::Staged;
use rustix::io::Errno;
use syncing::{Device, forged, pull, revisions, settle, two, two_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_vanishes_halts_and_comes_back() {
    let (a, b) = two_with(&[("f", "1"), ("d/g", "2")]).await;
    a.rename("", "../elsewhere");
    let fenced = a.folder().fence().await;
    assert!(fenced.is_err(), "{fenced:?}");
    a.until("halted", |status| matches!(status.state, FolderState::Halted(_))).await;
    // An empty directory in its place, as when a disk is not mounted.
    std::fs::create_dir(a.root()).unwrap();
    b.write("f", "edited");
    b.rest().await;
    let published = a.published();
    pull(&b, &a).await;
    assert!(a.folder().fence().await.is_err());
    assert_eq!((a.published(), a.tree().len()), (published, 0), "nothing deleted, nothing written");
    std::fs::remove_dir(a.root()).unwrap();
    std::fs::rename(a.home.path().join("elsewhere"), a.root()).unwrap();
    a.until("back", |status| status.state == FolderState::InStep).await;
    settle(&[&a, &b]).await;
    assert_eq!(a.read("f"), "edited");
    assert_eq!(a.tree().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_made_once_and_never_again() {
    let mut a = Device::new(1);
    std::fs::remove_dir(a.root()).unwrap();
    a.start().await;
    // Writing makes the directories on the way: ark is to have made this one before.
    a.rest().await;
    assert!(a.root().is_dir());
    a.write("f", "1");
    a.rest().await;
    a.stop().await;
    std::fs::remove_dir_all(a.root()).unwrap();
    a.start().await;
    a.until("halted", |status| matches!(status.state, FolderState::Halted(_))).await;
    assert!(!a.root().exists());
    assert_eq!(a.published(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_edit_at_any_moment_of_applying_is_kept() {
    let (a, b) = two_with(&[("f", "before")]).await;
    for round in 0..40u64 {
        a.write("f", format!("of a, {round}"));
        a.rest().await;
        let path = b.path("f");
        let local = format!("of b, {round}");
        let edit = std::thread::spawn({
            let local = local.clone();
            move || {
                std::thread::sleep(std::time::Duration::from_micros(round * 431 % 17_000));
                // As an editor does it every other time.
                if round % 2 == 0 {
                    std::fs::write(path, local).unwrap();
                } else {
                    let beside = path.with_extension("swp");
                    std::fs::write(&beside, local).unwrap();
                    std::fs::rename(beside, path).unwrap();
                }
            }
        });
        pull(&a, &b).await;
        edit.join().unwrap();
        settle(&[&a, &b]).await;
        let tree = a.tree();
        assert!(tree.values().any(|what| what.ends_with(&local)), "{local} is not in {tree:?}");
        for copy in a.conflicts() {
            a.remove(&copy);
        }
        settle(&[&a, &b]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_neither_loses_nor_repeats() {
    let (a, mut b) = two().await;
    for number in 0..120 {
        a.write(&format!("d{}/{number}", number % 7), format!("content {number}"));
    }
    settle(&[&a, &b]).await;
    for number in 0..120 {
        match number % 4 {
            0 => a.write(&format!("d{}/{number}", number % 7), format!("edited {number}")),
            1 => a.remove(&format!("d{}/{number}", number % 7)),
            2 => a.rename(&format!("d{}/{number}", number % 7), &format!("d0/moved {number}")),
            _ => {}
        }
    }
    a.rename("d3", "e3");
    a.rest().await;
    pull(&a, &b).await;
    for pause_ms in (0..30).map(|round| round * 7 % 40) {
        b.kill().await;
        b.start().await;
        // Not waiting for anything: another moment to be killed at each time.
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
    }
    settle(&[&a, &b]).await;
    assert_eq!(b.published(), 0, "nothing of it was taken for a change made here");
    assert!(b.conflicts().is_empty());
    let leftovers = std::process::Command::new("find")
        .arg(b.root())
        .args(["-name", ".ark-tmp-*"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&leftovers.stdout), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_publishes_nothing_is_lost() {
    let (mut a, b) = two().await;
    for round in 0..12u64 {
        for number in 0..20 {
            a.write(&format!("{number}"), format!("round {round} of {number}"));
        }
        // As above.
        tokio::time::sleep(std::time::Duration::from_millis(round * 5 % 37)).await;
        a.kill().await;
        a.start().await;
    }
    settle(&[&a, &b]).await;
    assert_eq!(b.tree().len(), 20);
    assert_eq!(b.read("7"), "round 11 of 7");
    assert!(b.conflicts().is_empty());
}

/// One directory in which nothing can be done, and files with which nothing can be done in one
/// where all else can.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_errs_alone() {
    for errno in [Errno::PERM, Errno::ACCESS, Errno::ROFS, Errno::NOSPC, Errno::DQUOT, Errno::IO] {
        errs_alone(errno).await;
    }
}

/// What [`errs_alone`] cannot change.
const STUCK: [&str; 5] =
    ["closed/f", "closed/new", "open/stuck-edited", "open/stuck-removed", "open/stuck-bits"];

async fn errs_alone(errno: Errno) {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let (a, mut b) = (Device::started(1).await, Device::new(2));
    b.gate = Some(Gate::new(move |_, directory, name| {
        let is_stuck = directory.to_string() == "closed" || name.starts_with(b"stuck");
        if is_stuck && failing.load(Ordering::SeqCst) { Err(errno) } else { Ok(()) }
    }));
    b.start().await;
    for path in ["closed/f", "open/f", "open/stuck-edited", "open/stuck-removed", "open/stuck-bits"]
    {
        a.write(path, "1");
    }
    settle(&[&a, &b]).await;
    let before = b.tree();
    fails.store(true, Ordering::SeqCst);
    for path in ["closed/f", "closed/new", "open/f", "open/new", "open/stuck-edited"] {
        a.write(path, "2");
    }
    a.remove("open/stuck-removed");
    a.chmod("open/stuck-bits", 0o600);
    a.rest().await;
    pull(&a, &b).await;
    let is_told = |status: &FolderStatus| {
        STUCK.iter().all(|path| status.problems.iter().any(|problem| problem.contains(path)))
    };
    b.until("told", is_told).await;
    // What may pass by itself is waited for; the rest counts as applied.
    let lasts = matches!(errno, Errno::PERM | Errno::ACCESS | Errno::ROFS);
    let state = if lasts { FolderState::InStep } else { FolderState::Waiting };
    b.until("done with the rest", |status| status.state == state).await;
    assert_eq!(b.status().applied == revisions(b.repo()), lasts, "{errno}");
    let mut expected = before;
    for path in ["open/f", "open/new"] {
        expected.insert(path.to_owned(), a.tree()[path].clone());
    }
    assert_eq!(b.tree(), expected, "{errno}");
    // What failed was never taken for a change made here, and comes when it can.
    fails.store(false, Ordering::SeqCst);
    b.folder().fence().await.unwrap();
    b.until("written at last", |status| status.problems.is_empty()).await;
    settle(&[&a, &b]).await;
    assert_eq!(b.published(), 0, "{errno}");
    assert_eq!((b.read("closed/new"), b.mode("open/stuck-bits")), ("2".to_owned(), 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_of_the_store_loses_nothing() {
    let (mut a, b) = two_with(&[("f", "1"), ("g", "1"), ("h", "1")]).await;
    a.stop().await;
    let backup = a.home.path().join("backup");
    copy_tree(&a.home.path().join("store"), &backup);
    a.start().await;
    a.write("f", "2");
    a.write("new", "2");
    settle(&[&a, &b]).await;
    b.write("g", "of b");
    b.remove("h");
    settle(&[&a, &b]).await;
    a.stop().await;
    let store = a.home.path().join("store");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&backup, &store).unwrap();
    a.write("f", "3");
    a.start().await;
    settle(&[&a, &b]).await;
    assert_eq!(b.read("g"), "of b");
    assert_eq!(b.read("new"), "2");
    assert!(!b.path("h").exists());
    assert!(b.tree().values().any(|what| what.ends_with('3')), "{:?}", b.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_unites_and_deletes_nothing() {
    let (mut a, b) = two_with(&[("f", "1"), ("d/g", "1"), ("gone", "1")]).await;
    a.stop().await;
    std::fs::remove_file(a.home.path().join("store/index.redb")).unwrap();
    a.remove("gone");
    a.write("f", "2");
    b.write("d/g", "of b");
    a.start().await;
    settle(&[&a, &b]).await;
    assert_eq!(a.read("d/g"), "of b");
    // Nobody can tell that it was deleted, so it is back.
    assert_eq!(a.read("gone"), "1");
    assert!(b.tree().values().any(|what| what.ends_with('2')), "{:?}", b.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_on_two_machines_loses_nothing() {
    let (mut a, b) = two_with(&[("f", "1")]).await;
    a.stop().await;
    let mut twin = Device::new(1);
    for part in ["store", "witness"] {
        std::fs::rename(a.home.path().join(part), a.home.path().join("moved")).unwrap();
        copy_tree(&a.home.path().join("moved"), &a.home.path().join(part));
        std::fs::rename(a.home.path().join("moved"), twin.home.path().join(part)).unwrap();
    }
    std::fs::remove_dir(twin.root()).unwrap();
    copy_tree(&a.root(), &twin.root());
    // Only one of them proves to be the store last open; both may think so if the machine's
    // image was copied. Either way all that either writes must come out.
    a.start().await;
    twin.start().await;
    a.write("of a", "a");
    twin.write("of twin", "twin");
    a.write("f", "2 of a");
    twin.write("f", "2 of twin");
    settle(&[&a, &b]).await;
    settle(&[&a, &twin, &b]).await;
    let tree = b.tree();
    assert!(tree.contains_key("of a") && tree.contains_key("of twin"), "{tree:?}");
    assert!(tree.values().any(|what| what.ends_with("2 of a")), "{tree:?}");
    assert!(tree.values().any(|what| what.ends_with("2 of twin")), "{tree:?}");
}

/// What another machine with the same key and incarnation may have published: one file.
fn state_of_a_twin(device: &Device) -> (SignedState, Vec<Object>) {
    let states = device.repo().states();
    let own = states.joined[&device.repo().writer()].state();
    let content = Object::new(ObjectKind::Raw, "of the twin");
    let put = Put::File {
        content: Content::Raw(content.id()),
        size: content.bytes().len() as u64,
        mtime: Mtime::default(),
    };
    let (state, mut objects) = forged(device, own, 3, "of the twin", put);
    objects.push(content);
    (state, objects)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_under_dots_issued_twice_is_published_anew() {
    let (mut a, b) = two_with(&[("old", "1")]).await;
    a.restart().await;
    a.write("since the start", "2");
    a.write("old", "edited");
    a.rest().await;
    let (state, objects) = state_of_a_twin(&a);
    let writer = a.repo().writer();
    let staged = a.repo().stage(state).await.unwrap();
    assert!(matches!(staged, Staged::OwnFork { .. }), "{staged:?}");
    a.repo().receive(objects).await.unwrap();
    a.repo().join(writer).await.unwrap();
    settle(&[&a, &b]).await;
    assert_ne!(a.repo().writer(), writer);
    assert_eq!((b.read("since the start"), b.read("old")), ("2".to_owned(), "edited".to_owned()));
    assert_eq!(b.read("of the twin"), "of the twin");
    assert!(b.conflicts().is_empty());
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Makes all that is in a directory read-only, directories too, as module caches do.
fn close(device: &Device, top: &str) {
    for (path, what) in device.tree().iter().rev() {
        if path.starts_with(top) {
            let mode = if what.ends_with(" directory") { 0o555 } else { 0o444 };
            device.chmod(path, mode);
        }
    }
}

/// As root it cannot fail: nothing is closed to root. `tests/apply.rs` holds the same where
/// nobody is.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_tree_is_changed_and_deleted() {
    let (a, b) = two().await;
    a.write("cache/mod/v1/file", "1");
    a.write("cache/mod/v1/other", "2");
    close(&a, "cache");
    settle(&[&a, &b]).await;
    assert_eq!((b.mode("cache/mod/v1"), b.mode("cache/mod/v1/file")), (0o555, 0o444));
    a.chmod("cache/mod/v1", 0o755);
    a.remove("cache/mod/v1/other");
    a.write("cache/mod/v1/new", "3");
    a.chmod("cache/mod/v1", 0o555);
    settle(&[&a, &b]).await;
    assert_eq!((b.read("cache/mod/v1/new"), b.mode("cache/mod/v1")), ("3".to_owned(), 0o555));
    for path in ["cache", "cache/mod", "cache/mod/v1"] {
        a.chmod(path, 0o755);
    }
    a.remove("cache");
    settle(&[&a, &b]).await;
    assert!(b.tree().is_empty(), "{:?}", b.tree());
    assert_eq!(b.published(), 0, "nothing was done there");
}
