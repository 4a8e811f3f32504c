//! Directories that others deleted, and what is in them that others do not know of.

mod syncing;

use syncing::moment::Moment;
use syncing::{Device, eventually, pull, settle, two_with};

/// Two devices that have `d/f`. The first deletes `d`, and the second is right before removing it,
/// without anything left in it.
async fn about_to_remove() -> (Device, Device, Moment) {
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    b.start().await;
    a.write("d/f", "1");
    settle(&[&a, &b]).await;
    a.remove("d");
    a.rest().await;
    moment.expect(1, |it, _, name| it == "remove" && name == b"d");
    pull(&a, &b).await;
    moment.met().await;
    (a, b, moment)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_just_now_keeps_its_directory() {
    let (a, b, moment) = about_to_remove().await;
    b.write("d/new", "of b");
    moment.over();
    settle(&[&a, &b]).await;
    assert_eq!(a.read("d/new"), "of b");
    assert!(!b.path("d/f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_goes_though_something_was_in_it_for_a_moment() {
    let (a, b, moment) = about_to_remove().await;
    b.write("d/new", "of b");
    // The names are synced when all has been tried.
    moment.expect(1, |it, _, name| it == "sync" && name.is_empty());
    moment.met().await;
    b.remove("d/new");
    moment.over();
    // By itself: nobody asks for anything to be tried again.
    eventually("gone", || !b.path("d").exists()).await;
    settle(&[&a, &b]).await;
    assert_eq!(b.published(), 0, "nothing is said of it");
}

/// It stays for what is ignored in it, however deep, and that is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_holds_what_is_ignored_counts_as_gone() {
    let (a, b) = two_with(&[(".arkignore", "*.log\n"), ("d/sub/f", "1")]).await;
    b.write("d/sub/of-b.log", "of b");
    b.rest().await;
    a.remove("d");
    a.rest().await;
    pull(&a, &b).await;
    b.rest().await;
    assert_eq!(b.read("d/sub/of-b.log"), "of b");
    assert!(!b.path("d/sub/f").exists());
    // And when it is gone, so are they.
    b.remove("d/sub/of-b.log");
    settle(&[&a, &b]).await;
    assert!(!b.path("d").exists());
    assert_eq!(b.published(), 0);
}

/// While what was in it is moved elsewhere, and a file is to take its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_its_user_renames_in_the_moment_is_seen_to_be_gone() {
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    b.start().await;
    a.write("d/sub/f", "1");
    settle(&[&a, &b]).await;
    a.rename("d/sub/f", "g");
    a.remove("d");
    a.write("d", "a file");
    a.write("new/f", "2");
    a.rest().await;
    // Directories are made before anything is moved.
    moment.expect(1, |it, _, name| it == "make directory" && name == b"new");
    pull(&a, &b).await;
    moment.met().await;
    b.rename("d", "renamed");
    moment.over();
    settle(&[&a, &b]).await;
    assert_eq!((a.read("d"), a.read("renamed/sub/f")), ("a file".to_owned(), "1".to_owned()));
}
