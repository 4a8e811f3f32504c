//! The storage over a socket.

use std::error::Error as _;
use std::sync::Arc;

use ark_control::{Response, read_request, write_response};
use ark_core::{Link, Object, ObjectId, ObjectKind};
use ark_jj::{ArkBackend, ArkOpHeadsStore, ArkOpStore, Client, ClientError, Storage, StorageError};
use futures::future::try_join_all;
use futures::io::{AsyncReadExt as _, Cursor};
use jj_lib::backend::{Backend as _, BackendError, CommitId};
use jj_lib::merge::Merge;
use jj_lib::object_id::ObjectId as _;
use jj_lib::op_heads_store::OpHeadsStore as _;
use jj_lib::op_store::{OpStore as _, Operation, OperationId, RootOperationData, View};
use pollster::FutureExt as _;

use crate::daemon::{Daemon, REFUSED};
use crate::support::{commit, path};

fn raw(n: usize, length: usize) -> Object {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(length, 7);
    Object::new(ObjectKind::Raw, bytes)
}

fn op_store(client: &Arc<Client>) -> ArkOpStore {
    let root_commit_id = CommitId::from_bytes(&[0; 32]);
    ArkOpStore::new(client.clone(), RootOperationData { root_commit_id })
}

/// An operation of its own, on `parents`, and the commit that its view has.
fn operate(client: &Arc<Client>, text: &str, parents: Vec<OperationId>) -> (OperationId, CommitId) {
    let backend = ArkBackend::new(client.clone());
    let (id, _) = backend.write_commit(commit(&backend, text), None).block_on().unwrap();
    let store = op_store(client);
    let mut view = View::make_root(backend.root_commit_id().clone());
    view.head_ids = [id.clone()].into();
    let view_id = store.write_view(&view).block_on().unwrap();
    let root = store.read_operation(store.root_operation_id()).block_on().unwrap();
    let operation = Operation { view_id, parents, ..root };
    (store.write_operation(&operation).block_on().unwrap(), id)
}

fn failure(error: StorageError) -> ClientError {
    match error {
        StorageError::Failed(error) => error.downcast_ref::<ClientError>().unwrap().clone(),
        error => panic!("{error}"),
    }
}

#[test]
fn what_one_writes_another_reads() {
    let daemon = Daemon::start();
    let writer = daemon.client();
    let backend = ArkBackend::new(writer.clone());
    // One of a few chunks, and a small one.
    let large: Vec<u8> = (0..9_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let mut files = Vec::new();
    for content in [large.as_slice(), b"small"] {
        files.push(backend.write_file(path(), &mut Cursor::new(content)).block_on().unwrap());
    }
    let symlink = backend.write_symlink(path(), "target").block_on().unwrap();
    let store = op_store(&writer);
    let root = store.root_operation_id().clone();
    let (operation, commit) = operate(&writer, "described", vec![root.clone()]);
    let heads = ArkOpHeadsStore::new(writer.clone());
    assert_eq!(heads.get_op_heads().block_on().unwrap(), std::slice::from_ref(&root));
    heads.update_op_heads(&[root], &operation).block_on().unwrap();
    drop((backend, heads, store, writer));

    let reader = daemon.client();
    let backend = ArkBackend::new(reader.clone());
    for (id, content) in files.iter().zip([large.as_slice(), b"small"]) {
        let mut read = Vec::new();
        let mut from = backend.read_file(path(), id).block_on().unwrap();
        from.read_to_end(&mut read).block_on().unwrap();
        assert!(read == content);
    }
    assert_eq!(backend.read_symlink(path(), &symlink).block_on().unwrap(), "target");
    assert_eq!(backend.read_commit(&commit).block_on().unwrap().description, "described");
    let heads = ArkOpHeadsStore::new(reader.clone()).get_op_heads().block_on().unwrap();
    assert_eq!(heads, std::slice::from_ref(&operation));
    let store = op_store(&reader);
    let read = store.read_operation(&operation).block_on().unwrap();
    let view = store.read_view(&read.view_id).block_on().unwrap();
    assert!(view.head_ids.iter().eq([&commit]));
    let prefix = jj_lib::object_id::HexPrefix::from_id(&operation);
    let found = store.resolve_operation_id_prefix(&prefix).block_on().unwrap();
    assert!(
        matches!(found, jj_lib::object_id::PrefixResolution::SingleMatch(id) if id == operation)
    );
    // What is read again is not asked for again.
    let gets = daemon.memory.gets();
    backend.read_commit(&commit).block_on().unwrap();
    assert_eq!(daemon.memory.gets(), gets);
}

#[test]
fn what_is_not_there_is_told_from_what_failed() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let link = raw(1, 10).link();
    let absent = client.get(link).block_on();
    assert!(matches!(absent, Err(StorageError::NotFound { link: it }) if it == link));
    daemon.memory.fail(true);
    let failed = failure(client.get(link).block_on().unwrap_err());
    assert!(matches!(&failed, ClientError::Failed(why) if why.contains("fire")), "{failed}");
    let backend = ArkBackend::new(client.clone());
    let failed = backend.read_commit(&CommitId::from_bytes(&[7; 32])).block_on();
    assert!(matches!(failed, Err(BackendError::ReadObject { .. })));
    daemon.memory.fail(false);
    let absent = backend.read_commit(&CommitId::from_bytes(&[7; 32])).block_on();
    assert!(matches!(absent, Err(BackendError::ObjectNotFound { .. })));
    let heads = [ObjectId::from_bytes([1; 32])];
    assert!(!client.replace_heads(&heads, heads[0]).block_on().unwrap());
    let refused = Client::connect(daemon.store(), "another").unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
}

/// More than is kept unacknowledged, and more ids than one answer has.
#[test]
fn much_is_written_and_listed_without_a_word_in_between() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for n in 0..5_000 {
        client.put(raw(n, if n % 100 == 0 { 2 << 20 } else { 8 })).block_on().unwrap();
    }
    client.barrier().block_on().unwrap();
    assert!(daemon.memory.is_durable());
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 5_000);
    let (first, last) = (ObjectId::from_bytes([0; 32]), ObjectId::from_bytes([255; 32]));
    let ids = client.ids(ObjectKind::Raw, first..=last, usize::MAX).block_on().unwrap();
    assert!(ids.len() == 5_000 && ids.is_sorted());
    let some = client.ids(ObjectKind::Raw, ids[10]..=ids[4_990], 4_500).block_on().unwrap();
    assert!(some == ids[10..4_510]);
    assert!(client.ids(ObjectKind::Copy, first..=last, 7).block_on().unwrap().is_empty());
    let other = daemon.client();
    let links = (0..5_000).map(|n| raw(n, if n % 100 == 0 { 2 << 20 } else { 8 }).link());
    let all = try_join_all(links.map(|link| other.get(link))).block_on().unwrap();
    assert_eq!(all.len(), 5_000);
}

#[test]
fn what_no_barrier_acknowledged_outlives_a_daemon() {
    let mut daemon = Daemon::start();
    let client = daemon.client();
    client.put(raw(0, 100)).block_on().unwrap();
    client.barrier().block_on().unwrap();
    let (operation, _) = operate(&client, "first", vec![OperationId::from_bytes(&[0; 32])]);
    for n in 1..200 {
        client.put(raw(n, 10_000)).block_on().unwrap();
    }
    daemon.kill();
    for n in 200..300 {
        client.put(raw(n, 10_000)).block_on().unwrap();
    }
    assert!(client.get(raw(5, 10_000).link()).block_on().is_ok(), "it is here still");
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 1);
    daemon.restart();
    let id = ObjectId::from_bytes(operation.as_bytes().try_into().unwrap());
    client.barrier().block_on().unwrap();
    client.update_heads(&[], Some(id)).block_on().unwrap();
    assert!(daemon.memory.is_durable());
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 300);
    // Killed while questions are under way, too.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            (0..300).all(|_| client.heads().block_on().unwrap() == [id])
                && (1..300).all(|n| client.get(raw(n, 10_000).link()).block_on().is_ok())
        });
        for _ in 0..3 {
            daemon.kill();
            daemon.restart();
        }
        assert!(asking.join().unwrap());
    });
    daemon.kill();
    drop(client);
    assert_eq!(daemon.memory.heads().block_on().unwrap(), [id]);
}

#[test]
fn a_daemon_that_stays_away_is_missed_in_clear_words() {
    let mut daemon = Daemon::start();
    let client = daemon.client();
    client.put(raw(1, 10)).block_on().unwrap();
    daemon.kill();
    let gone = failure(client.barrier().block_on().unwrap_err());
    assert!(matches!(gone, ClientError::Gone { .. }));
    assert!(gone.to_string().contains("start it"), "{gone}");
    assert!(gone.source().unwrap().to_string().contains("no daemon runs"));
    let gone = Client::connect(daemon.store(), "repo").unwrap_err();
    assert!(matches!(gone, ClientError::Gone { .. }));
    // What was put is not forgotten with it.
    daemon.restart();
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 1);
}

#[test]
fn a_store_that_fails_fails_the_barrier_and_is_written_to_again() {
    let daemon = Daemon::start();
    let client = daemon.client();
    daemon.memory.fail(true);
    client.put(raw(1, 10)).block_on().unwrap();
    let failed = failure(client.barrier().block_on().unwrap_err());
    assert!(matches!(failed, ClientError::Failed(_)), "{failed}");
    client.put(raw(2, 10)).block_on().unwrap();
    failure(client.barrier().block_on().unwrap_err());
    daemon.memory.fail(false);
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 2);
    // So is one that fails while so much is written that nobody asks for the barrier.
    daemon.memory.fail(true);
    let failed = (3..100).find_map(|n| client.put(raw(n, 2 << 20)).block_on().err());
    assert!(matches!(failure(failed.unwrap()), ClientError::Failed(_)));
    daemon.memory.fail(false);
    client.barrier().block_on().unwrap();
    let written = daemon.memory.len_of(ObjectKind::Raw);
    assert!((10..40).contains(&written), "{written}");
}

#[test]
fn what_is_never_taken_in_fails_one_barrier_and_is_let_go() {
    let daemon = Daemon::start();
    let client = daemon.client();
    client.put(raw(1, 10)).block_on().unwrap();
    client.put(Object::new(ObjectKind::Raw, REFUSED.to_vec())).block_on().unwrap();
    client.put(raw(2, 10)).block_on().unwrap();
    let failed = failure(client.barrier().block_on().unwrap_err());
    assert!(matches!(&failed, ClientError::Failed(why) if why.contains("nobody")), "{failed}");
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 2);
}

/// As a daemon does that takes up another config.
#[test]
fn who_is_let_go_before_the_first_answer_asks_again() {
    let store = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(async { ark_control::bind(store.path()).unwrap() });
    let letting_go = runtime.spawn(async move {
        // At once, after the question, and granted.
        drop(listener.accept().await.unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        write_response(&mut stream, &Response::Jj).await.unwrap();
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    Client::connect(store.path(), "repo").unwrap();
    let silent = Client::connect(store.path(), "repo").unwrap_err();
    assert!(matches!(silent, ClientError::Silent { .. }), "{silent}");
    assert!(silent.to_string().contains("restart"), "{silent}");
    letting_go.abort();
}

/// It hears nothing more, is sent more, and only then says that what it heard is done.
#[test]
fn what_a_daemon_did_that_is_ending_is_not_asked_of_the_next() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let (operation, _) = operate(&client, "first", vec![OperationId::from_bytes(&[0; 32])]);
    let id = ObjectId::from_bytes(operation.as_bytes().try_into().unwrap());
    client.barrier().block_on().unwrap();
    daemon.deafen_on_update();
    std::thread::scope(|scope| {
        let updating = scope.spawn(|| client.update_heads(&[], Some(id)).block_on().unwrap());
        daemon.await_deaf();
        client.put(raw(1, 10)).block_on().unwrap();
        updating.join().unwrap();
    });
    assert_eq!(daemon.updates(), 1);
    client.barrier().block_on().unwrap();
    assert!(daemon.memory.is_durable());
}

#[test]
fn connections_that_break_again_and_again_are_an_error() {
    let store = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(async { ark_control::bind(store.path()).unwrap() });
    // It grants the repo, and ends.
    let breaking = runtime.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await.unwrap();
            write_response(&mut stream, &Response::Jj).await.unwrap();
        }
    });
    let client = Client::connect(store.path(), "repo").unwrap();
    for _ in 0..2 {
        let error = failure(client.heads().block_on().unwrap_err());
        assert!(matches!(error, ClientError::Breaking), "{error}");
    }
    breaking.abort();
}

#[test]
fn what_fits_into_no_frame_is_refused_and_hinders_nothing() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let too_large = client.put(raw(1, (4 << 20) + 1)).block_on().unwrap_err();
    assert!(matches!(failure(too_large), ClientError::TooLarge { .. }));
    let many = vec![ObjectId::from_bytes([1; 32]); 1 << 16];
    let too_many = client.update_heads(&many, None).block_on().unwrap_err();
    assert!(matches!(failure(too_many), ClientError::TooLarge { .. }));
    client.put(raw(1, 4 << 20)).block_on().unwrap();
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 1);
}

#[test]
fn a_client_that_ends_in_the_middle_leaves_nothing_and_hinders_nobody() {
    let daemon = Daemon::start();
    for _ in 0..5 {
        let client = daemon.client();
        for n in 0..500 {
            client.put(raw(n, 1_000)).block_on().unwrap();
        }
    }
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 0);
    let client = daemon.client();
    client.put(raw(1, 10)).block_on().unwrap();
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 1);
}

#[test]
fn twenty_at_once_lose_nothing() {
    let daemon = Daemon::start();
    let root = OperationId::from_bytes(&[0; 32]);
    let written: Vec<(OperationId, CommitId)> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let (daemon, root) = (&daemon, &root);
            move || {
                let client = daemon.client();
                let (first, _) = operate(&client, &format!("{n}, first"), vec![root.clone()]);
                let heads = ArkOpHeadsStore::new(client.clone());
                heads.update_op_heads(std::slice::from_ref(root), &first).block_on().unwrap();
                let second = operate(&client, &format!("{n}, second"), vec![first.clone()]);
                heads.update_op_heads(&[first], &second.0).block_on().unwrap();
                second
            }
        };
        let all: Vec<_> = (0..20).map(|n| scope.spawn(one(n))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let client = daemon.client();
    let mut expected: Vec<OperationId> = written.iter().map(|(id, _)| id.clone()).collect();
    expected.sort();
    assert_eq!(ArkOpHeadsStore::new(client.clone()).get_op_heads().block_on().unwrap(), expected);
    let backend = ArkBackend::new(client);
    for (_, commit) in written {
        let commit = backend.read_commit(&commit).block_on().unwrap();
        assert_eq!(commit.root_tree, Merge::resolved(backend.empty_tree_id().clone()));
    }
}

/// As jj does it: from many threads, each of which blocks.
#[test]
fn threads_share_a_client() {
    let daemon = Daemon::start();
    let client = daemon.client();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for n in 0..200 {
                    let object = raw(thread * 1000 + n, 500);
                    let link: Link = object.link();
                    client.put(object).block_on().unwrap();
                    if n % 50 == 0 {
                        client.barrier().block_on().unwrap();
                    }
                    assert_eq!(client.get(link).block_on().unwrap().len(), 500);
                }
            });
        }
    });
    client.barrier().block_on().unwrap();
    assert_eq!(daemon.memory.len_of(ObjectKind::Raw), 1_600);
}
