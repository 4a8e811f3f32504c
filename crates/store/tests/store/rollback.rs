//! Whose life a store goes on with: a copy, a restored backup, a lost witness.

use std::path::Path;

use ark_store::{NewIncarnation, OpenError, Recovery, Store};

use crate::support::{Machine, options, own_head, publish, repo};

/// Copies a directory of a closed store.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn why(store: &Store) -> NewIncarnation {
    match store.recovered() {
        Recovery::NewIncarnation { why } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_copy_put_back_takes_a_new_incarnation_and_keeps_what_it_has() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let before = publish(&repo(&store).await, &[("x", b"one")]).await;
    store.close().await.unwrap();
    let backup = machine.dir.path().join("backup");
    copy(&machine.store_path(), &backup);

    let store = machine.open().await;
    publish(&repo(&store).await, &[("x", b"two")]).await;
    store.close().await.unwrap();

    // Put back over the files that are there: the inode stays.
    copy(&backup, &machine.store_path());
    let store = machine.open().await;
    assert_eq!(why(&store), NewIncarnation::OtherToken);
    let restored = repo(&store).await;
    let old = before.state().writer;
    assert_ne!(restored.writer(), old);
    assert_eq!(restored.states().joined[&old], before);
    assert!(own_head(&restored).is_none());
    let state = publish(&restored, &[("y", b"three")]).await;
    assert_eq!(state.state().revision, 1);
    drop(restored);
    store.close().await.unwrap();

    // Put back as a new directory.
    std::fs::remove_dir_all(machine.store_path()).unwrap();
    copy(&backup, &machine.store_path());
    let store = machine.open().await;
    assert_eq!(why(&store), NewIncarnation::OtherFile);
}

#[tokio::test]
async fn a_copy_beside_the_original_is_noticed_and_so_is_the_original_after_it() {
    let machine = Machine::new(1);
    machine.open().await.close().await.unwrap();
    let mut options = options(machine.dir.path(), &machine.key);
    options.path = machine.dir.path().join("copy");
    copy(&machine.store_path(), &options.path);
    let store = Store::open(options).await.unwrap();
    assert_eq!(why(&store), NewIncarnation::OtherFile);
    store.close().await.unwrap();
    assert_eq!(why(&machine.open().await), NewIncarnation::OtherToken);
}

#[tokio::test]
async fn without_its_witness_a_store_takes_a_new_incarnation_once() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let old = store.incarnation();
    store.close().await.unwrap();
    for damage in [None, Some(&b"nonsense"[..]), Some(&[0xff; 10_000][..])] {
        match damage {
            None => std::fs::remove_file(machine.witness_path()).unwrap(),
            Some(bytes) => std::fs::write(machine.witness_path(), bytes).unwrap(),
        }
        let store = machine.open().await;
        assert_eq!(why(&store), NewIncarnation::NoWitness);
        let new = store.incarnation();
        assert_ne!(new, old);
        store.close().await.unwrap();
        let store = machine.open().await;
        assert_eq!((store.recovered(), store.incarnation()), (Recovery::Same, new));
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn another_device_on_the_same_store_is_another_writer() {
    let mut machine = Machine::new(1);
    let store = machine.open().await;
    let state = publish(&repo(&store).await, &[("x", b"one")]).await;
    store.close().await.unwrap();
    machine.key = Machine::new(2).key;
    let store = machine.open().await;
    assert_eq!(why(&store), NewIncarnation::OtherDevice);
    let repo = repo(&store).await;
    assert_eq!(repo.states().joined.values().collect::<Vec<_>>(), [&state]);
    publish(&repo, &[("x", b"two")]).await;
}

#[tokio::test]
async fn a_newer_format_is_refused_in_words_and_left_alone() {
    let machine = Machine::new(1);
    machine.open().await.close().await.unwrap();
    let index = machine.store_path().join("index.redb");
    let database = redb::Database::open(&index).unwrap();
    let write = database.begin_write().unwrap();
    let format = redb::TableDefinition::<&str, u64>::new("format");
    write.open_table(format).unwrap().insert("store", 99).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = Store::open(machine.options()).await.unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert!(!machine.store_path().join("index.redb.damaged").exists());
}

#[tokio::test]
async fn an_older_format_is_migrated_once() {
    let machine = Machine::new(1);
    machine.open().await.close().await.unwrap();
    let index = machine.store_path().join("index.redb");
    let format = redb::TableDefinition::<&str, u64>::new("format");
    let newest = {
        let database = redb::Database::open(&index).unwrap();
        let write = database.begin_write().unwrap();
        let newest = write.open_table(format).unwrap().insert("store", 1).unwrap().unwrap().value();
        write.commit().unwrap();
        newest
    };
    let store = machine.open().await;
    assert_eq!(store.recovered(), Recovery::Same);
    store.close().await.unwrap();
    let database = redb::Database::open(&index).unwrap();
    let read = redb::ReadableDatabase::begin_read(&database).unwrap();
    let found = read.open_table(format).unwrap().get("store").unwrap().unwrap().value();
    assert_eq!((newest, found), (2, 2));
}

#[tokio::test]
async fn a_store_whose_parent_is_missing_is_not_made() {
    let machine = Machine::new(1);
    let mut options = machine.options();
    options.path = machine.dir.path().join("not mounted").join("store");
    assert!(matches!(Store::open(options).await, Err(OpenError::Path { .. })));
}

#[tokio::test]
async fn what_is_kept_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new(1);
    let _store = machine.open().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    assert_eq!(mode(&machine.store_path()), 0);
    assert_eq!(mode(&machine.witness_path()), 0);
}
