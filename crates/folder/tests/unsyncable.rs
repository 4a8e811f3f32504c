//! A file that cannot be made durable is not taken up, and holds nothing else back.

mod syncing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_folder::FolderState;
use ark_folder::fs::Gate;
use rustix::io::Errno;
use syncing::{Device, eventually, pull, settle};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_synced_stops_nothing_else() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let mut a = Device::new(1);
    a.gate = Some(Gate::new(move |operation, _, name| {
        let is_refused = operation == "sync" && name == b"bad" && failing.load(Ordering::SeqCst);
        if is_refused { Err(Errno::IO) } else { Ok(()) }
    }));
    a.write("bad", "bad");
    a.write("good", "good");
    a.start().await;
    let b = Device::started(2).await;
    b.write("of-b", "of b");
    b.rest().await;
    // Also right after a start, and in both directions.
    a.folder().fence().await.expect("what can be published is");
    let said = |status: &ark_folder::FolderStatus| {
        status.state == FolderState::Waiting
            && status.problems.iter().any(|problem| problem.contains("bad"))
    };
    a.until("waiting for the bad file", said).await;
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
