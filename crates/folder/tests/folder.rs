//! Scenarios on real folders: what must come out on all devices.

mod syncing;

use std::os::unix::fs::{MetadataExt as _, symlink};

use syncing::moment::Moment;
use syncing::{Device, Payload, pull, settle, two, two_with};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_writes_the_other_gets() {
    let (a, b) = two().await;
    a.write("docs/a.txt", "hello");
    a.write("empty.txt", "");
    a.chmod("docs/a.txt", 0o640);
    a.write("bin/run", "#!/bin/sh");
    a.chmod("bin/run", 0o755);
    std::fs::create_dir(a.path("nothing in it")).unwrap();
    symlink("docs/a.txt", a.path("link")).unwrap();
    symlink("/nowhere/at all", a.path("dangling")).unwrap();
    settle(&[&a, &b]).await;
    assert_eq!(b.read("docs/a.txt"), "hello");
    assert_eq!(b.tree().len(), 8);
    let mtime = |device: &Device| device.path("docs/a.txt").metadata().unwrap().mtime_nsec();
    assert_eq!(mtime(&a), mtime(&b));
    assert_eq!(b.published(), 0, "who only receives publishes nothing");
    assert_eq!(a.status().files, 5);
    assert_eq!(b.status().bytes, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_edit_one_file_while_apart() {
    let (a, b) = two_with(&[("f.txt", "before")]).await;
    a.write("f.txt", "of a");
    b.write("f.txt", "of b");
    settle(&[&a, &b]).await;
    let tree = a.tree();
    let contents: Vec<String> = tree.values().map(|what| what[4..].to_owned()).collect();
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert!(contents.contains(&"of a".to_owned()) && contents.contains(&"of b".to_owned()));
    assert_eq!(a.conflicts().len(), 1);
    assert_eq!(a.conflicts(), b.conflicts());
    assert!(a.path(a.conflicts().first().unwrap()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_edit_on_both_is_no_conflict() {
    let (a, b) = two_with(&[("f.txt", "before")]).await;
    a.write("f.txt", "after");
    b.write("f.txt", "after");
    settle(&[&a, &b]).await;
    assert_eq!(a.tree().len(), 1);
    assert!(a.conflicts().is_empty());
    // And what both wrote is one file: an edit replaces it, a delete removes it.
    a.write("f.txt", "once more");
    settle(&[&a, &b]).await;
    assert_eq!((b.tree().len(), b.read("f.txt")), (1, "once more".to_owned()));
    b.remove("f.txt");
    settle(&[&a, &b]).await;
    assert!(a.tree().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_ways_one_stays_and_two_are_copies() {
    let (a, b, c) = (Device::started(1).await, Device::started(2).await, Device::started(3).await);
    for (device, content) in [(&a, "of a"), (&b, "of b"), (&c, "of c")] {
        device.write("f", content);
    }
    settle(&[&a, &b, &c]).await;
    assert_eq!(a.tree().len(), 3);
    assert_eq!(a.conflicts().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn edit_against_delete_keeps_the_edit_and_two_deletes_are_one() {
    let (a, b) = two_with(&[("edited", "1"), ("gone", "2")]).await;
    a.write("edited", "of a");
    b.remove("edited");
    a.remove("gone");
    b.remove("gone");
    settle(&[&a, &b]).await;
    assert_eq!(b.read("edited"), "of a");
    assert_eq!(b.tree().len(), 1);
    assert!(b.conflicts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_copy_that_is_edited_or_removed_is_settled() {
    let (a, b) = two_with(&[("f.txt", "before")]).await;
    a.write("f.txt", "of a");
    b.write("f.txt", "of b");
    settle(&[&a, &b]).await;
    let copy = a.conflicts().first().unwrap().clone();
    // Edited on both sides: a conflict of its own, whose copy has one mark in its name.
    a.write(&copy, "copy, by a");
    b.write(&copy, "copy, by b");
    settle(&[&a, &b]).await;
    let names: Vec<String> = a.tree().into_keys().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.matches(".conflict-").count() <= 1), "{names:?}");
    let copies = a.conflicts();
    assert_eq!(copies.len(), 1, "{copies:?}");
    for copy in copies {
        b.remove(&copy);
    }
    settle(&[&a, &b]).await;
    assert!(a.conflicts().is_empty());
    assert_eq!(a.tree().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn resolving_on_both_sides_leaves_no_duplicates() {
    let (a, b) = two_with(&[("f", "before")]).await;
    a.write("f", "of a");
    b.write("f", "of b");
    settle(&[&a, &b]).await;
    let copy = a.conflicts().first().unwrap().clone();
    for device in [&a, &b] {
        device.write("f", "merged by hand");
        device.remove(&copy);
    }
    settle(&[&a, &b]).await;
    assert_eq!(a.tree().len(), 1);
    assert_eq!(a.read("f"), "merged by hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_by_a_directory_and_edited_elsewhere() {
    let (a, b) = two_with(&[("thing", "a file")]).await;
    a.remove("thing");
    a.write("thing/inside", "new");
    b.write("thing", "edited");
    settle(&[&a, &b]).await;
    assert_eq!(b.read("thing/inside"), "new");
    let copy = b.conflicts().first().unwrap().clone();
    assert_eq!(a.read(&copy), "edited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_deleted_while_a_file_is_made_in_it() {
    let (a, b) = two_with(&[("d/old", "1"), ("d/deep/old", "2")]).await;
    a.remove("d");
    b.write("d/deep/new", "3");
    settle(&[&a, &b]).await;
    assert_eq!(a.read("d/deep/new"), "3");
    assert!(!b.path("d/old").exists() && !b.path("d/deep/old").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn types_change_back_and_forth() {
    let (a, b) = two_with(&[("x", "file"), ("y/in", "dir"), ("z", "file")]).await;
    a.remove("x");
    a.write("x/deep/in", "now a directory");
    a.remove("y");
    a.write("y", "now a file");
    a.remove("z");
    symlink("y", a.path("z")).unwrap();
    settle(&[&a, &b]).await;
    assert_eq!(b.read("x/deep/in"), "now a directory");
    b.remove("x");
    b.write("x", "a file again");
    b.remove("y");
    std::fs::create_dir(b.path("y")).unwrap();
    settle(&[&a, &b]).await;
    assert_eq!(a.read("x"), "a file again");
    assert!(a.path("y").is_dir());
    assert!(a.conflicts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_against_a_file_keeps_both() {
    let (a, b) = two().await;
    a.write("n", "a file");
    symlink("target", b.path("n")).unwrap();
    settle(&[&a, &b]).await;
    assert_eq!(a.read("n"), "a file");
    let copy = a.conflicts().first().unwrap().clone();
    assert_eq!(std::fs::read_link(a.path(&copy)).unwrap().to_str(), Some("target"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_here_and_content_there_are_both_kept() {
    let (a, b) = two_with(&[("f", "before")]).await;
    a.chmod("f", 0o600);
    b.write("f", "after");
    settle(&[&a, &b]).await;
    for device in [&a, &b] {
        assert_eq!((device.mode("f"), device.read("f")), (0o600, "after".to_owned()));
    }
    assert!(a.conflicts().is_empty());
    a.chmod("f", 0o755);
    settle(&[&a, &b]).await;
    assert_eq!(b.mode("f"), 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_alone_is_no_change() {
    let (a, b) = two_with(&[("f", "same"), ("d/g", "same")]).await;
    let published = a.published();
    let file = std::fs::File::options().write(true).open(a.path("f")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    a.write("d/g", "same");
    a.rest().await;
    assert_eq!(a.published(), published);
    assert_eq!(pull(&a, &b).await, Payload::default());
    // It was taken note of all the same: a real edit later is one.
    a.write("f", "other");
    settle(&[&a, &b]).await;
    assert_eq!(b.read("f"), "other");
    assert!(b.conflicts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_sends_no_content_and_meets_an_edit() {
    let (a, b) = two().await;
    for number in 0..1000 {
        a.write(&format!("old/{}/{number}", number % 7), format!("content {number}").repeat(100));
    }
    settle(&[&a, &b]).await;
    a.rename("old", "new");
    b.write("old/3/500", "edited meanwhile");
    a.rest().await;
    b.rest().await;
    let inode = |path: &str| b.path(path).metadata().unwrap().ino();
    let before = inode("old/3/10");
    let payload = pull(&a, &b).await;
    assert!(payload.bytes < 500_000, "{payload:?}");
    settle(&[&a, &b]).await;
    assert_eq!(inode("new/3/10"), before, "renamed, not written");
    let tree = a.tree();
    assert!(tree.values().any(|what| what.ends_with("edited meanwhile")), "{tree:?}");
    assert_eq!(tree.keys().filter(|path| path.starts_with("new/")).count(), 1007);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_is_applied_as_one_and_rings_too() {
    let (a, b) = two_with(&[("a", "was a"), ("b", "was b"), ("c", "was c"), ("d", "was d")]).await;
    let inodes = |device: &Device| -> Vec<u64> {
        ["a", "b", "c", "d"].map(|f| device.path(f).metadata().unwrap().ino()).to_vec()
    };
    let before = inodes(&b);
    a.rename("a", "t");
    a.rename("d", "a");
    a.rename("c", "d");
    a.rename("b", "c");
    a.rename("t", "b");
    a.rest().await;
    assert!(pull(&a, &b).await.bytes < 5000);
    settle(&[&a, &b]).await;
    assert_eq!(b.read("a"), "was d");
    assert_eq!(b.read("b"), "was a");
    // Of a ring one is written anew, so that each file is at any time as it was or as wanted.
    let after = inodes(&b);
    assert_eq!(after[1..], before[..3]);
    b.rename("a", "t");
    b.rename("b", "a");
    b.rename("t", "b");
    let before = inodes(&a);
    settle(&[&a, &b]).await;
    let after = inodes(&a);
    assert_eq!(after[..2], [before[1], before[0]]);
    assert!(b.conflicts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_ignored_files_is_renamed_and_they_survive() {
    let (mut a, mut b) = (Device::new(1), Device::new(2));
    b.ignore = vec!["*.o".into()];
    a.ignore = b.ignore.clone();
    a.start().await;
    b.start().await;
    a.write("src/main.c", "int main;");
    settle(&[&a, &b]).await;
    b.write("src/main.o", "object code");
    b.rest().await;
    a.rename("src", "source");
    a.rest().await;
    pull(&a, &b).await;
    b.rest().await;
    assert_eq!(b.read("source/main.c"), "int main;");
    assert_eq!(b.read("src/main.o"), "object code");
    b.rest().await;
    assert_eq!(b.published(), 0, "the directory that had to stay is not published anew");
    // Not even after a restart, nor when it goes at last.
    b.restart().await;
    b.rest().await;
    b.remove("src");
    b.rest().await;
    assert_eq!(b.published(), 0);
    settle(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editors_save_is_one_update() {
    let (mut a, b, moment) = (Device::new(1), Device::started(2).await, Moment::default());
    a.gate = Some(moment.gate());
    a.write("text", "one");
    a.start().await;
    settle(&[&a, &b]).await;
    let published = a.published();
    // While something else is taken up, so that nothing looks between the two.
    moment.expect(1, |it, _, name| it == "sync" && name == b"other");
    a.write("../other", "whole when it comes");
    a.rename("../other", "other");
    moment.met().await;
    a.write(".text.swp", "two");
    a.rename(".text.swp", "text");
    moment.over();
    settle(&[&a, &b]).await;
    assert_eq!(b.read("text"), "two");
    assert_eq!(b.tree().into_keys().collect::<Vec<_>>(), ["other", "text"]);
    assert_eq!(a.published() - published, 2, "one for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_it_was_off_is_found_and_nothing_comes_back() {
    let (mut a, b) = two_with(&[("kept", "1"), ("gone", "2"), ("moved", "3"), ("d/e", "4")]).await;
    a.stop().await;
    a.remove("gone");
    a.rename("moved", "d/moved");
    a.write("made", "5");
    a.write("kept", "edited");
    a.start().await;
    settle(&[&a, &b]).await;
    let expected = ["d", "d/e", "d/moved", "kept", "made"];
    assert_eq!(b.tree().into_keys().collect::<Vec<_>>(), expected);
    assert_eq!(b.read("kept"), "edited");
    assert!(b.conflicts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_make_no_echo() {
    let (a, b) = two().await;
    for number in 0..200 {
        a.write(&format!("d{}/{number}", number % 5), format!("{number}"));
    }
    settle(&[&a, &b]).await;
    assert_eq!(b.published(), 0);
    a.write("d1/1", "changed");
    a.remove("d2");
    settle(&[&a, &b]).await;
    b.rest().await;
    assert_eq!(b.published(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_new_tree_is_complete() {
    let (a, b) = two().await;
    a.rest().await;
    for number in 0..60 {
        let names: Vec<String> = (0..30).map(|depth| format!("{number}-{depth}")).collect();
        a.write(&format!("{}/leaf", names.join("/")), "x");
    }
    settle(&[&a, &b]).await;
    assert_eq!(b.tree().len(), 60 * 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn union_at_the_first_meeting() {
    let (a, b) = (Device::new(1), Device::new(2));
    for (device, own) in [(&a, "a's"), (&b, "b's")] {
        device.write("same", "same content");
        device.write("differs", own);
        device.write(own, "only here");
        device.write("d/same", "same content");
    }
    let (mut a, mut b) = (a, b);
    a.start().await;
    b.start().await;
    a.rest().await;
    b.rest().await;
    let payload = pull(&a, &b).await;
    assert!(payload.bytes < 6000, "{payload:?}");
    settle(&[&a, &b]).await;
    assert_eq!(a.conflicts().len(), 1);
    assert_eq!(a.tree().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filled_folder_that_others_have_already_publishes_nothing() {
    let (a, mut b) = (Device::started(1).await, Device::new(2));
    for device in [&a, &b] {
        device.write("x/1", "one");
        device.write("x/2", "two");
    }
    a.rest().await;
    let (store, repo) = b.open_store().await;
    syncing::pull_repo(a.repo(), &repo).await;
    drop(repo);
    store.close().await.unwrap();
    b.start().await;
    settle(&[&a, &b]).await;
    assert_eq!(b.published(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn special_files_are_skipped_without_a_hang() {
    let (a, b) = two().await;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        a.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(a.path("socket")).unwrap();
    a.write("file", "beside them");
    a.rest().await;
    pull(&a, &b).await;
    b.rest().await;
    assert_eq!(b.tree().into_keys().collect::<Vec<_>>(), ["file"]);
    let problems = a.status().problems.join("\n");
    assert!(problems.contains("pipe") && problems.contains("socket"), "{problems}");
    // What others want where one stands is skipped and said, and counts as applied.
    b.write("pipe", "a file");
    b.rest().await;
    pull(&b, &a).await;
    a.rest().await;
    assert_eq!(a.tree()["pipe"], "special");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_replaced_by_a_symlink_does_not_lead_out() {
    let (a, mut b) = two_with(&[("d/f", "1")]).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("f"), "not ours").unwrap();
    a.write("d/f", "2");
    a.write("d/g", "3");
    a.rest().await;
    pull(&a, &b).await;
    b.kill().await;
    b.remove("d");
    symlink(outside.path(), b.path("d")).unwrap();
    b.start().await;
    settle(&[&a, &b]).await;
    assert_eq!(std::fs::read(outside.path().join("f")).unwrap(), b"not ours");
    assert!(!outside.path().join("g").exists());
    let tree = b.tree();
    assert!(tree.values().any(|what| what.starts_with("->")), "{tree:?}");
    assert_eq!((b.read("d/f"), b.read("d/g")), ("2".to_owned(), "3".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_stays_sparse() {
    let (a, b) = two().await;
    let file = std::fs::File::create(a.path("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 30 << 20).unwrap();
    drop(file);
    settle(&[&a, &b]).await;
    let found = b.path("sparse").metadata().unwrap();
    assert_eq!(found.len(), 64 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
}

#[tokio::test(flavor = "multi_thread")]
async fn ignore_rules_hold_back_and_let_go() {
    let (a, b) = two_with(&[("kept.log", "1"), ("f", "2")]).await;
    b.write(".arkignore", "*.log\n");
    settle(&[&a, &b]).await;
    assert_eq!(a.read(".arkignore"), "*.log\n");
    // Both ignore it now: it stays on both, and is sent no more.
    a.write("kept.log", "of a");
    a.write("other.log", "of a");
    settle_ignoring(&a, &b).await;
    assert_eq!((a.read("kept.log"), b.read("kept.log")), ("of a".to_owned(), "1".to_owned()));
    assert!(!b.path("other.log").exists());
    a.remove(".arkignore");
    settle(&[&a, &b]).await;
    assert_eq!((b.read("kept.log"), b.read("other.log")), ("of a".to_owned(), "of a".to_owned()));
    assert!(b.conflicts().is_empty());
}

/// One exchange; the folders may differ in what is ignored.
async fn settle_ignoring(a: &Device, b: &Device) {
    a.rest().await;
    b.rest().await;
    pull(a, b).await;
    pull(b, a).await;
    a.rest().await;
    b.rest().await;
}
