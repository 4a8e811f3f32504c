//! A file that cannot be made durable is not taken up, and holds nothing else back.

mod syncing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_folder::fs::Gate;
use ark_folder::{FolderState, FolderStatus};
use rustix::io::Errno;
use syncing::{Device, eventually, pull, settle};

/// A device on whose disk the file `bad` cannot be made durable while that is set.
fn failing(number: u8) -> (Device, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let mut device = Device::new(number);
    device.gate = Some(Gate::new(move |operation, _, name| {
        let is_refused = operation == "sync" && name == b"bad" && failing.load(Ordering::SeqCst);
        if is_refused { Err(Errno::IO) } else { Ok(()) }
    }));
    (device, fails)
}

/// It waits for the file, and says so.
fn is_said(status: &FolderStatus) -> bool {
    status.state == FolderState::Waiting
        && status.problems.iter().any(|problem| problem.contains("bad"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_synced_stops_nothing_else() {
    let (mut a, fails) = failing(1);
    a.write("bad", "bad");
    a.write("good", "good");
    a.start().await;
    let b = Device::started(2).await;
    b.write("of-b", "of b");
    b.rest().await;
    // Also right after a start, and in both directions.
    a.folder().fence().await.expect("what can be published is");
    a.until("waiting for the bad file", is_said).await;
    pull(&a, &b).await;
    pull(&b, &a).await;
    b.rest().await;
    assert_eq!(b.read("good"), "good");
    assert!(!b.path("bad").exists(), "nobody is told of what may be lost");
    eventually("given what others wrote", || a.path("of-b").exists()).await;
    // Nobody touches it: it is tried again by itself.
    fails.store(false, Ordering::SeqCst);
    a.until("well again", |status| status.problems.is_empty()).await;
    settle(&[&a, &b]).await;
    assert_eq!(b.read("bad"), "bad");
}

/// The same for what others did to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_did_to_such_a_file_stops_nothing_else() {
    let (mut b, fails) = failing(2);
    fails.store(false, Ordering::SeqCst);
    b.start().await;
    let a = Device::started(1).await;
    for path in ["bad", "good", "from"] {
        a.write(path, path);
    }
    settle(&[&a, &b]).await;
    fails.store(true, Ordering::SeqCst);
    a.chmod("bad", 0o600);
    a.chmod("good", 0o600);
    a.write("new", "new");
    a.rest().await;
    pull(&a, &b).await;
    b.until("waiting for the bad file", is_said).await;
    assert_eq!((b.mode("good"), b.read("new").as_str()), (0o600, "new"));
    // What is applied goes on, too.
    a.write("more", "more");
    a.rest().await;
    pull(&a, &b).await;
    eventually("given more", || b.path("more").exists()).await;
    fails.store(false, Ordering::SeqCst);
    b.until("well again", |status| status.problems.is_empty()).await;
    settle(&[&a, &b]).await;
    assert_eq!((b.mode("bad"), b.published()), (0o600, 0));
}

/// Nobody made of it what it is here, whatever others go on to do before it can be made durable.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_to_such_a_file_is_no_edit() {
    let changes: [fn(&Device); 3] = [
        |a| a.write("bad", "edited"),
        |a| a.chmod("bad", 0o640),
        |a| {
            a.write("bad", "edited");
            a.chmod("bad", 0o640);
        },
    ];
    for is_moved in [false, true] {
        for change in changes {
            let (mut b, fails) = failing(2);
            fails.store(false, Ordering::SeqCst);
            b.start().await;
            let a = Device::started(1).await;
            let name = if is_moved { "from" } else { "bad" };
            a.write(name, "content");
            settle(&[&a, &b]).await;
            fails.store(true, Ordering::SeqCst);
            if is_moved {
                a.rename(name, "bad");
            }
            a.chmod("bad", 0o600);
            a.rest().await;
            pull(&a, &b).await;
            b.until("waiting for the bad file", is_said).await;
            change(&a);
            a.rest().await;
            pull(&a, &b).await;
            fails.store(false, Ordering::SeqCst);
            b.until("well again", |status| status.problems.is_empty()).await;
            settle(&[&a, &b]).await;
            assert_eq!((b.published(), b.conflicts().len()), (0, 0), "{:?}", b.tree());
        }
    }
}
