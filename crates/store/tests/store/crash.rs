//! The process ends at every step of the barrier. Whatever is there afterwards is whole, and no
//! revision is ever signed twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ark_core::SignedState;
use ark_store::{FailpointHook, NewIncarnation, Recovery, Store};
use ed25519_dalek::SigningKey;

use crate::support::{self, contents, files, own_head, publish, repo};
use crate::trie::assert_trie;

/// Tell a child of this test binary that it is one: where its store is, what it does, at which
/// place it ends.
const DIR: &str = "ARK_TEST_CRASH_DIR";
const ACT: &str = "ARK_TEST_CRASH_ACT";
const PLACE: &str = "ARK_TEST_CRASH_PLACE";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// Ends the process, as a kill does, when `place` is passed the `count`th time.
fn end_at(place: String, count: usize) -> FailpointHook {
    let passed = AtomicUsize::new(0);
    Arc::new(move |name| {
        if name == place && passed.fetch_add(1, Ordering::SeqCst) + 1 == count {
            std::process::abort();
        }
        Ok(())
    })
}

async fn open(dir: &Path) -> Store {
    Store::open(support::options(dir, &key())).await.unwrap()
}

/// Runs `act` in a child that ends at `place`.
fn run_child(dir: &Path, act: &str, place: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(DIR, dir)
        .env(ACT, act)
        .env(PLACE, place)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{act} did not end at {place}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
}

/// Not a test of its own: what a child does.
#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let (act, place) = (std::env::var(ACT).unwrap(), std::env::var(PLACE).unwrap());
    let options = support::options(&dir, &key());
    match act.as_str() {
        "publish" => {
            let store = Store::open(options).await.unwrap();
            publish(&repo(&store).await, &[("x", &[1; 5000])]).await;
            store.close().await.unwrap();
            let count = if place == "import" { 3 } else { 1 };
            let options = support::options(&dir, &key());
            // Places that opening passes too are counted from here.
            let hook = after_opening(end_at(place, count));
            let store = Store::open_with_failpoints(options, hook.1).await.unwrap();
            let repo = repo(&store).await;
            hook.0.store(1, Ordering::SeqCst);
            publish(&repo, &[("x", &[2; 5000]), ("y", &[3; 40])]).await;
        }
        "open" => {
            Store::open_with_failpoints(options, end_at(place, 1)).await.unwrap();
        }
        "receive" => {
            let hook = after_opening(end_at(place, 1));
            let store = Store::open_with_failpoints(options, hook.1).await.unwrap();
            let repo = repo(&store).await;
            hook.0.store(1, Ordering::SeqCst);
            let objects =
                (0..40u8).map(|n| ark_core::Object::new(ark_core::ObjectKind::Raw, vec![n; 3000]));
            repo.receive(objects.collect()).await.unwrap();
        }
        other => panic!("{other}"),
    }
}

fn after_opening(hook: FailpointHook) -> (Arc<AtomicUsize>, FailpointHook) {
    let on = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&on);
    let armed = move |name| if seen.load(Ordering::SeqCst) == 0 { Ok(()) } else { hook(name) };
    (on, Arc::new(armed))
}

#[tokio::test]
async fn a_publication_that_ends_anywhere_is_there_whole_or_not_at_all() {
    // The place, the revision found afterwards, the next one.
    let places = [
        ("import", 1, 2),
        ("publish", 1, 2),
        ("tagged", 1, 3),
        ("sync-db", 1, 3),
        ("sync-files", 1, 3),
        ("index", 1, 3),
        ("index-commit", 1, 3),
        ("committed", 2, 3),
    ];
    for (place, found, next) in places {
        let dir = tempfile::tempdir().unwrap();
        run_child(dir.path(), "publish", place);
        let store = open(dir.path()).await;
        assert_eq!(store.recovered(), Recovery::Same, "{place}");
        let repo = repo(&store).await;
        let own = own_head(&repo).unwrap();
        assert_eq!(own.state().revision, found, "{place}");
        let expected: Vec<(&str, &[u8])> = match found {
            1 => vec![("x", &[1; 5000])],
            _ => vec![("x", &[2; 5000]), ("y", &[3; 40])],
        };
        assert_eq!(files(&repo).await, contents(&expected), "{place}");
        assert_trie(&repo).await;
        // A tag that was set and perhaps not yet durable may be lost: then nothing of that
        // revision was told, and it may be signed again. A killed process loses none.
        let state = publish(&repo, &[("x", b"after")]).await;
        assert!(state.state().revision > found, "{place}");
        if place != "tagged" && place != "sync-db" && place != "sync-files" {
            assert_eq!(state.state().revision, next, "{place}");
        }
        assert_eq!(state.state().revision, state.state().heads[0].sequence, "{place}");
        assert_only_tags_of(&store, &repo, &state).await;
        assert_trie(&repo).await;
    }
}

/// Restarting finds the state and nothing to burn.
async fn assert_only_tags_of(store: &Store, repo: &ark_store::Repo, state: &SignedState) {
    assert_eq!(own_head(repo), Some(state.clone()));
    assert_eq!(store.recovered(), Recovery::Same);
    let dot = repo.publisher().await.dot();
    assert_eq!(dot.sequence, state.state().revision + 1);
}

/// redb refuses what it had half made: such a store would never open again.
#[tokio::test]
async fn a_first_start_that_ends_anywhere_leaves_no_half_made_database() {
    for (place, database) in [("index-made", "index.redb"), ("blobs-made", "blobs/blobs.db")] {
        let dir = tempfile::tempdir().unwrap();
        run_child(dir.path(), "open", place);
        let path = support::options(dir.path(), &key()).path.join(database);
        assert!(!path.exists(), "{place}: it has its name before it is whole");
        // What was killed earlier still.
        let unfinished = path.with_added_extension("new");
        assert!(unfinished.exists(), "{place}");
        std::fs::write(&unfinished, vec![0; 1 << 20]).unwrap();

        let store = open(dir.path()).await;
        let new = Recovery::NewIncarnation { why: NewIncarnation::NewStore };
        assert_eq!(store.recovered(), new, "{place}");
        assert!(!unfinished.exists(), "{place}");
        publish(&repo(&store).await, &[("x", &[1; 5000])]).await;
        store.close().await.unwrap();
        let store = open(dir.path()).await;
        assert_eq!(files(&repo(&store).await).await, contents(&[("x", &[1; 5000])]), "{place}");
    }
}

#[tokio::test]
async fn an_end_between_index_and_witness_keeps_the_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let incarnation = store.incarnation();
    store.close().await.unwrap();
    for _ in 0..3 {
        run_child(dir.path(), "open", "witness");
    }
    let store = open(dir.path()).await;
    assert_eq!((store.recovered(), store.incarnation()), (Recovery::Same, incarnation));
}

#[tokio::test]
async fn objects_received_when_the_process_ends_are_there_whole_or_not_at_all() {
    for place in ["sync-db", "sync-files", "index", "index-commit"] {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).await.close().await.unwrap();
        run_child(dir.path(), "receive", place);
        let store = open(dir.path()).await;
        let repo = repo(&store).await;
        let objects: Vec<_> = (0..40u8)
            .map(|n| ark_core::Object::new(ark_core::ObjectKind::Raw, vec![n; 3000]))
            .collect();
        let links: Vec<_> = objects.iter().map(ark_core::Object::link).collect();
        assert_eq!(repo.indexed(&links).await.unwrap(), [false; 40], "{place}");
        repo.receive(objects).await.unwrap();
        for (n, link) in links.into_iter().enumerate() {
            assert_eq!(repo.read(link).await.unwrap()[0], u8::try_from(n).unwrap());
        }
    }
}
