//! Waiting for what was written so far to be published, and what goes on beside it.

mod syncing;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ark_core::RelPath;
use ark_folder::{FenceError, FolderState};
use syncing::moment::Moment;
use syncing::{Device, PATIENCE, eventually, pull, two};

/// Appends to a file without a pause until it is dropped. The file is so long that no scan reads
/// it between two writes.
struct Writing {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writing {
    fn to(device: &Device, path: &str) -> Self {
        let file = std::fs::File::create(device.path(path)).unwrap();
        file.set_len(128 << 20).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(device.path(path)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(b".").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_waits_for_files_in_flux_at_its_call_alone_and_names_them() {
    let a = Device::started(1).await;
    a.rest().await;
    let first = Writing::to(&a, "first");
    let fence = a.folder().fence();
    let others = async {
        a.until("held up", |status| status.held_up == [path("first")]).await;
        let second = Writing::to(&a, "second");
        // A later fence waits for both.
        let later = a.folder().fence();
        let both =
            a.until("held up by both", |status| status.held_up == [path("first"), path("second")]);
        tokio::select! {
            fenced = later => panic!("{fenced:?}"),
            () = both => {}
        }
        drop(first);
        second
    };
    let (fenced, _second) = tokio::time::timeout(PATIENCE, async { tokio::join!(fence, others) })
        .await
        .expect("the first fence does not wait for the second file");
    fenced.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_where_nothing_happened_looks_at_nothing() {
    let a = Device::started(1).await;
    for number in 0..20 {
        a.write(&format!("d{number}/f"), "1");
    }
    a.rest().await;
    // Events of what was done before may still come in for a moment.
    for _ in 0..100 {
        let news = a.folder().watch();
        a.folder().fence().await.unwrap();
        if !news.has_changed().unwrap() {
            return;
        }
    }
    panic!("every fence makes the folder work");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_before_a_fence_is_published_after_it() {
    let a = Device::started(1).await;
    a.rest().await;
    for round in 0..20 {
        let before = a.published();
        a.write(&format!("d{round}/deep/f"), "1");
        a.write("f", format!("{round}"));
        a.folder().fence().await.unwrap();
        assert!(a.published() > before);
    }
    let b = Device::started(2).await;
    pull(&a, &b).await;
    b.rest().await;
    assert_eq!(b.tree(), a.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_a_halted_folder_makes_it_do_nothing() {
    let a = Device::started(1).await;
    a.write("f", "1");
    a.rest().await;
    a.rename("", "../elsewhere");
    a.until("halted", |status| matches!(status.state, FolderState::Halted(_))).await;
    let news = a.folder().watch();
    for _ in 0..3 {
        let fenced = a.folder().fence().await;
        assert!(matches!(fenced, Err(FenceError::Halted(_))), "{fenced:?}");
    }
    let Err(FenceError::Halted(why)) = a.folder().fence().await else { panic!("halted") };
    let status = a.status();
    assert_eq!((status.problems, status.state), (vec![why.clone()], FolderState::Halted(why)));
    assert!(!news.has_changed().unwrap(), "asking is no news");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_applied_however_much_is_written_here() {
    let (a, b) = two().await;
    a.write("of a", "1");
    a.rest().await;
    b.rest().await;
    // So many files, each closed after writing, that one of them is always due.
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, root) = (Arc::clone(&stop), b.root());
    let writing = std::thread::spawn(move || {
        for round in 0_u64.. {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            let file = root.join(format!("busy {}", round % 64));
            std::fs::write(file, round.to_string()).unwrap();
        }
    });
    let published = b.published();
    eventually("taken up", || b.published() >= published + 3).await;
    pull(&a, &b).await;
    b.until("applied meanwhile", |_| b.path("of a").exists()).await;
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
}

/// More than one batch.
const MANY: usize = ark_folder::apply::MAX_BATCH_WRITES + 100;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plan_skipped_is_planned_for_when_the_rule_goes_under_it() {
    let (a, mut b, moment) = (Device::started(1).await, Device::new(2), Moment::default());
    b.gate = Some(moment.gate());
    // The rules themselves are local: that they change is published by nobody.
    b.ignore = vec![".arkignore".to_owned()];
    b.write(".arkignore", "late\n");
    b.start().await;
    b.rest().await;
    for number in 0..MANY {
        a.write(&format!("d/{number}"), "");
    }
    a.write("late", "at last");
    a.rest().await;
    // In the first batch of its plan.
    moment.expect(1, |it, directory, _| it == "rename to" && *directory == path("d"));
    pull(&a, &b).await;
    moment.met().await;
    b.remove(".arkignore");
    moment.over();
    // By the events alone: a fence would try again what was skipped.
    b.until("applied", |status| status.state == FolderState::InStep && b.path("late").exists())
        .await;
    assert_eq!(b.read("late"), "at last");
}
