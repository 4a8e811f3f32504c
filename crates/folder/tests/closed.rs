//! Directories that are closed by their bits to a user who is not root: what others do in them, and
//! that they open them, arrives.

mod stopped;
mod syncing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_core::RelPath;
use ark_folder::fs::Gate;
use rustix::io::Errno;
use syncing::moment::Moment;
use syncing::{Device, eventually, pull, settle, two_with};

/// Bits of directories that keep their owner from searching or from listing them.
const CLOSED: [u32; 3] = [0o644, 0o311, 0o000];

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_in_a_closed_directory_arrives() {
    if !stopped::by_bits("what_others_do_in_a_closed_directory_arrives") {
        return;
    }
    let files = [("d/.arkignore", "*.log"), ("d/e/f", "1"), ("d/g", "1"), ("h", "1")];
    let (a, mut b) = two_with(&files).await;
    for (round, bits) in CLOSED.into_iter().enumerate() {
        let said = format!("round {round}");
        a.chmod("d/e", bits);
        a.rest().await;
        a.chmod("d", bits);
        settle(&[&a, &b]).await;
        assert_eq!(b.mode("d"), bits);
        // Not only what is known of it since before counts.
        b.restart().await;
        b.rest().await;
        // Both know that it is closed, while things change below.
        a.chmod("d", 0o755);
        a.chmod("d/e", 0o755);
        a.write("d/e/f", &said);
        a.remove("d/g");
        a.rest().await;
        a.chmod("d/e", bits);
        a.rest().await;
        a.chmod("d", bits);
        a.write("h", &said);
        settle(&[&a, &b]).await;
        assert_eq!((b.mode("d"), b.read("h")), (bits, said.clone()));
        // It is opened again.
        a.chmod("d", 0o755);
        a.chmod("d/e", 0o750);
        a.write("d/g", &said);
        settle(&[&a, &b]).await;
        assert_eq!((b.mode("d/e"), b.read("d/e/f"), b.read("d/g")), (0o750, said.clone(), said));
        assert_eq!((b.published(), b.conflicts().len()), (0, 0), "{:?}", b.status());
        b.until("well again", |status| status.problems.is_empty()).await;
    }
}

/// It is not recorded that ark closed it itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_closed_right_before_a_crash_is_opened_again() {
    if !stopped::by_bits("a_directory_closed_right_before_a_crash_is_opened_again") {
        return;
    }
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    b.start().await;
    a.write("d/f", "1");
    settle(&[&a, &b]).await;
    a.chmod("d", 0o644);
    a.rest().await;
    moment.expect(1, |operation, _, _| operation.starts_with("sync"));
    pull(&a, &b).await;
    moment.met().await;
    assert_eq!(b.mode("d"), 0o644);
    b.kill_in(&moment).await;
    b.start().await;
    b.rest().await;
    a.chmod("d", 0o755);
    a.write("d/f", "2");
    settle(&[&a, &b]).await;
    assert_eq!((b.mode("d"), b.read("d/f"), b.published()), (0o755, "2".to_owned(), 0));
}

/// The bits that a user gives to a directory of his own are seen by others, also those that keep
/// himself out.
#[tokio::test(flavor = "multi_thread")]
async fn who_closes_a_directory_does_so_for_all() {
    if !stopped::by_bits("who_closes_a_directory_does_so_for_all") {
        return;
    }
    let (a, b) = two_with(&[("d/f", "1")]).await;
    b.chmod("d", 0o000);
    settle(&[&a, &b]).await;
    assert_eq!(a.mode("d"), 0o000);
    b.until("saying what it cannot see", |status| status.problems.len() == 1).await;
    a.chmod("d", 0o755);
    settle(&[&a, &b]).await;
    assert_eq!((b.mode("d"), b.read("d/f").as_str()), (0o755, "1"));
}

/// A device that wrote `file`, and one that has it, too, and then behaves as if some of its disk
/// failed while that is set.
async fn two_of_which_one_fails<P>(file: &str, is_it: P) -> (Device, Device, Arc<AtomicBool>)
where
    P: Fn(&str, &RelPath, &[u8]) -> bool + Send + Sync + 'static,
{
    let (a, mut b) = (Device::started(1).await, Device::new(2));
    let fails = Arc::new(AtomicBool::new(false));
    let is_failing = Arc::clone(&fails);
    b.gate = Some(Gate::new(move |operation, directory, name| {
        let is_refused = is_failing.load(Ordering::SeqCst) && is_it(operation, directory, name);
        if is_refused { Err(Errno::IO) } else { Ok(()) }
    }));
    b.start().await;
    a.write(file, "1");
    settle(&[&a, &b]).await;
    fails.store(true, Ordering::SeqCst);
    (a, b, fails)
}

/// The device has something to do with `file`, which fails.
async fn until_it_failed(device: &Device, file: &str) {
    let is_shown = |problem: &String| problem.contains(file);
    device.until("waiting for the file", |status| status.problems.iter().any(is_shown)).await;
}

/// `d` is as it was, `open`, on `b`, and is closed there once nothing `fails` in it any more.
async fn assert_closed_in_the_end(a: &Device, b: &Device, open: u32, fails: &AtomicBool) {
    // None but what they are about is tried again by two more plans.
    for name in ["x", "y"] {
        a.write(name, name);
        a.rest().await;
        pull(a, b).await;
        // When the second is there the first plan is carried out whole.
        eventually("given more", || b.path(name).exists()).await;
    }
    assert_eq!(b.mode("d"), open);
    fails.store(false, Ordering::SeqCst);
    settle(&[a, b]).await;
    assert_eq!(b.mode("d"), 0o644);
}

/// What could not be written in it is not tried again by the next plans yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_closed_over_what_failed_before() {
    let (a, b, fails) = two_of_which_one_fails("d/f", |operation, directory, _| {
        operation == "create" && directory.to_string() == "d"
    })
    .await;
    let open = b.mode("d");
    a.write("d/f", "2");
    a.rest().await;
    a.chmod("d", 0o644);
    a.rest().await;
    pull(&a, &b).await;
    until_it_failed(&b, "d/f").await;
    assert_closed_in_the_end(&a, &b, open, &fails).await;
    a.chmod("d", 0o755);
    settle(&[&a, &b]).await;
    assert_eq!(b.read("d/f"), "2");
}

/// What its user wrote in it cannot be made durable, and so is not published yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_not_closed_over_what_cannot_be_synced() {
    let (a, b, fails) =
        two_of_which_one_fails("d/bad", |operation, _, name| operation == "sync" && name == b"bad")
            .await;
    let open = b.mode("d");
    b.write("d/bad", "edited");
    until_it_failed(&b, "bad").await;
    a.chmod("d", 0o644);
    a.rest().await;
    pull(&a, &b).await;
    assert_closed_in_the_end(&a, &b, open, &fails).await;
    b.chmod("d", 0o755);
    settle(&[&a, &b]).await;
    assert_eq!(a.read("d/bad"), "edited");
}
