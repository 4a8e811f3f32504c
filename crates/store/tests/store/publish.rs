//! Publishing and committing: what is durable, what is told, what is refused.

use std::sync::Arc;

use ark_core::{Head, Link, Object, ObjectId, ObjectKind, Read, RepoKind, TopicId, Vector};
use ark_store::{
    AddError, Change, CommitError, NewIncarnation, PublishError, ReadError, Recovery, RepoError,
};

use crate::support::{Machine, contents, files, own_head, publish, put_files, repo, topic};

#[tokio::test]
async fn what_is_published_is_told_and_stays() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    assert_eq!(store.recovered(), Recovery::NewIncarnation { why: NewIncarnation::NewStore },);
    let repo = repo(&store).await;
    let mut changes = repo.subscribe();
    let state = publish(&repo, &[("a", b"one"), ("b", &[7; 5000])]).await;
    assert_eq!((state.state().revision, state.state().heads[0].sequence), (1, 1));

    let Change::Published { state: told, new } = changes.recv().await.unwrap() else {
        panic!("not told")
    };
    assert_eq!(told, state);
    let links: Vec<Link> = new.to_vec();
    assert!(links.contains(&Link::raw(ObjectId::of(b"one"))));
    assert!(links.contains(&state.state().head_links()[0]));
    assert!(repo.indexed(&links).await.unwrap().into_iter().all(|indexed| indexed));

    let second = publish(&repo, &[("a", b"two")]).await;
    assert_eq!(second.state().revision, 2);
    let writer = repo.writer();
    drop(repo);
    store.close().await.unwrap();

    let store = machine.open().await;
    assert_eq!(store.recovered(), Recovery::Same);
    let repo = crate::support::repo(&store).await;
    assert_eq!(repo.writer(), writer);
    assert_eq!(own_head(&repo).unwrap(), second);
    assert_eq!(files(&repo).await, contents(&[("a", b"two"), ("b", &[7; 5000])]));
    assert_eq!(publish(&repo, &[]).await.state().revision, 3);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let machine = Machine::new(1);
    let _store = machine.open().await;
    let error = ark_store::Store::open(machine.options()).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(error.to_string().contains(machine.store_path().to_str().unwrap()));
}

#[tokio::test]
async fn a_store_opens_right_after_another_was_dropped() {
    let machine = Machine::new(1);
    for round in 0..5u8 {
        let store = machine.open().await;
        let repo = repo(&store).await;
        publish(&repo, &[("a", &[round; 3000])]).await;
    }
    assert_eq!(own_head(&repo(&machine.open().await).await).unwrap().state().revision, 5);
}

#[tokio::test]
async fn one_publisher_at_a_time_and_a_dropped_one_leaves_no_gap() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let first = repo.publisher().await;
    let dot = first.dot();
    let other = repo.clone();
    let second = tokio::spawn(async move { other.publisher().await.dot() });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.await.unwrap(), dot);
}

#[tokio::test]
async fn what_is_not_closed_is_not_committed() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let publisher = repo.publisher().await;
    let dot = publisher.dot();
    // Everything but the content.
    let reader = repo.reader();
    let mut vector = Vector::empty();
    vector.take_in(dot);
    let objects = crate::support::make(reader, None, dot, &vector, &[("a".into(), vec![1; 10])]);
    let mut batch = repo.batch();
    for object in &objects[1..] {
        batch.add(object.clone()).await.unwrap();
    }
    let head = Head { id: objects.last().unwrap().id(), sequence: dot.sequence };
    let error = publisher.publish(batch, vec![head], vector.clone(), vec![]).await.unwrap_err();
    let PublishError::Commit(CommitError::NotClosed { missing }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(missing, [objects[0].link()]);
    assert!(repo.states().joined.is_empty());
    // The dot was not used.
    assert_eq!(repo.publisher().await.dot(), dot);

    // A head that is not here.
    let publisher = repo.publisher().await;
    let head = Head { id: ObjectId::of(b"nothing"), sequence: dot.sequence };
    let outcome = publisher.publish(repo.batch(), vec![head], vector, vec![]).await;
    assert!(matches!(
        outcome.unwrap_err(),
        PublishError::Commit(CommitError::NotClosed { missing }) if missing.len() == 1
    ));
}

#[tokio::test]
async fn objects_may_be_added_parents_first() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let publisher = repo.publisher().await;
    let mut vector = Vector::empty();
    vector.take_in(publisher.dot());
    let files = [("a".into(), vec![1; 10]), ("b".into(), vec![2; 9000])];
    let objects = crate::support::make(repo.reader(), None, publisher.dot(), &vector, &files);
    let head = Head { id: objects.last().unwrap().id(), sequence: publisher.dot().sequence };
    let mut batch = repo.batch();
    for object in objects.into_iter().rev() {
        batch.add(object).await.unwrap();
    }
    publisher.publish(batch, vec![head], vector, vec![]).await.unwrap();
    assert_eq!(crate::support::files(&repo).await.len(), 2);
}

#[tokio::test]
async fn damaged_structured_bytes_are_refused() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut batch = repo.batch();
    let object = Object::new(ObjectKind::Directory, vec![9; 40]);
    assert!(matches!(batch.add(object).await, Err(AddError::Decode { .. })));
    let object = Object::new(ObjectKind::Raw, vec![0; ark_core::MAX_OBJECT_BYTES + 1]);
    assert!(matches!(batch.add(object).await, Err(AddError::TooLarge { .. })));
}

#[tokio::test]
async fn presence_is_per_repo_and_bytes_are_written_once() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    publish(&repo, &[("a", &vec![3; 20_000])]).await;
    let link = Link::raw(ObjectId::of(&vec![3; 20_000]));
    let other = store.repo(TopicId::derive("another", None), RepoKind::Folder).await.unwrap();

    assert_eq!(other.indexed(&[link]).await.unwrap(), [false]);
    assert!(matches!(other.read(link).await, Err(ReadError::Absent { .. })));
    assert_eq!(other.missing(&[link], 10).await.unwrap(), [link]);
    let reader = other.reader();
    let read = tokio::task::spawn_blocking(move || reader.read(link)).await.unwrap();
    assert!(matches!(read, Err(ReadError::Absent { .. })));

    let before = store.counters();
    let mut batch = other.batch();
    batch.add(Object::new(ObjectKind::Raw, vec![3; 20_000])).await.unwrap();
    assert_eq!(batch.commit().await.unwrap(), [link]);
    assert_eq!(store.counters().imports, before.imports);
    assert_eq!(store.counters().fsyncs, before.fsyncs);
    assert_eq!(other.indexed(&[link]).await.unwrap(), [true]);
    assert_eq!(other.read(link).await.unwrap(), vec![3; 20_000]);
}

#[tokio::test]
async fn a_topic_keeps_its_kind() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let folder = repo(&store).await;
    publish(&folder, &[("x", b"one")]).await;
    drop(folder);
    let error = store.repo(topic(), RepoKind::Jj).await.unwrap_err();
    assert!(matches!(error, RepoError::OtherKind { .. }));
}

#[tokio::test]
async fn objects_of_every_size_come_back() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    // Around the limits of what is kept inside the database, of outboards, and of objects.
    let sizes = [0, 1, 1023, 1024, 1025, 16_384, 16_385, 278_528, 278_529, 1 << 20, 4 << 20];
    let mut batch = repo.batch();
    for size in sizes {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        batch.add(Object::new(ObjectKind::Raw, bytes)).await.unwrap();
    }
    let links = batch.commit().await.unwrap();
    assert_eq!(links.len(), sizes.len());
    drop(repo);
    store.close().await.unwrap();
    let store = machine.open().await;
    let repo = crate::support::repo(&store).await;
    let reader = repo.reader();
    for link in links {
        let bytes = repo.read(link).await.unwrap();
        assert_eq!(ObjectId::of(&bytes), link.id);
        let reader = reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(link)).await.unwrap();
        assert_eq!(read.unwrap(), bytes);
    }
}

#[tokio::test]
async fn the_barrier_syncs_few_files_by_name_and_many_at_once() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut batch = repo.batch();
    // Inside the database; one file; a file and its outboard.
    for size in [100, 5000, 1 << 20] {
        batch.add(Object::new(ObjectKind::Raw, vec![1; size])).await.unwrap();
    }
    batch.commit().await.unwrap();
    let counters = store.counters();
    assert_eq!((counters.fsyncs, counters.syncfs, counters.imports), (4, 0, 3));

    let mut batch = repo.batch();
    for number in 0..200u32 {
        let mut bytes = vec![2; 3000];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        batch.add(Object::new(ObjectKind::Raw, bytes)).await.unwrap();
    }
    batch.commit().await.unwrap();
    let counters = store.counters();
    assert_eq!((counters.fsyncs, counters.syncfs, counters.imports), (4, 1, 203));
}

#[tokio::test]
async fn concurrent_batches_share_imports_and_barriers() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let before = store.counters();
    let tasks: Vec<_> = (0..16u8)
        .map(|number| {
            let repo = repo.clone();
            tokio::spawn(async move {
                let mut batch = repo.batch();
                batch.add(Object::new(ObjectKind::Raw, vec![1; 50_000])).await.unwrap();
                batch.add(Object::new(ObjectKind::Raw, vec![number; 2000])).await.unwrap();
                batch.commit().await.unwrap()
            })
        })
        .collect();
    let mut new = Vec::new();
    for task in tasks {
        new.extend(task.await.unwrap());
    }
    let shared = Link::raw(ObjectId::of(&vec![1; 50_000]));
    assert_eq!(new.iter().filter(|link| **link == shared).count(), 1);
    assert_eq!(store.counters().imports - before.imports, 17);
}

#[tokio::test]
async fn a_batch_dropped_half_way_leaves_nothing_and_can_be_made_again() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let object = Object::new(ObjectKind::Raw, vec![5; 100_000]);
    for _ in 0..10 {
        let mut batch = repo.batch();
        batch.add(object.clone()).await.unwrap();
        drop(batch);
    }
    assert_eq!(repo.indexed(&[object.link()]).await.unwrap(), [false]);
    let mut batch = repo.batch();
    batch.add(object.clone()).await.unwrap();
    batch.commit().await.unwrap();
    assert_eq!(repo.read(object.link()).await.unwrap(), object.bytes());
}

#[tokio::test]
async fn a_batch_of_another_repo_is_refused() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let other = store.repo(TopicId::derive("another", None), RepoKind::Folder).await.unwrap();
    let publisher = repo.publisher().await;
    let mut batch = other.batch();
    let (head, vector) =
        put_files(&other, &mut batch, publisher.dot(), &[("a", b"x")], None).await.unwrap();
    let heads = vec![Head { id: head.id, sequence: publisher.dot().sequence }];
    assert!(publisher.publish(batch, heads, vector, vec![]).await.is_err());
}

#[tokio::test]
async fn a_large_batch_is_indexed_as_it_grows() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut batch = repo.batch();
    for number in 0..16_400u32 {
        let object = Object::new(ObjectKind::Raw, number.to_le_bytes().to_vec());
        batch.add(object).await.unwrap();
    }
    let first = Link::raw(ObjectId::of(&0u32.to_le_bytes()));
    assert_eq!(repo.indexed(&[first]).await.unwrap(), [true]);
    // Too many to name.
    assert_eq!(batch.commit().await.unwrap(), []);
    assert_eq!(store.counters().indexed, 16_400);
    assert!(store.counters().commits < 10);
}

#[tokio::test]
async fn structured_objects_are_cached() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let state = publish(&repo, &[("a", b"x")]).await;
    let before = store.counters();
    let reader = Arc::new(repo.reader());
    let head = state.state().head_links()[0];
    tokio::task::spawn_blocking(move || reader.read(head).unwrap()).await.unwrap();
    assert_eq!(store.counters().blob_reads, before.blob_reads);
    assert_eq!(store.counters().cache_hits, before.cache_hits + 1);
}

#[tokio::test]
async fn a_publication_goes_on_when_nobody_waits_for_it() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut changes = repo.subscribe();
    let publisher = repo.publisher().await;
    let mut batch = repo.batch();
    let dot = publisher.dot();
    let (head, vector) = put_files(&repo, &mut batch, dot, &[("a", b"x")], None).await.unwrap();
    let heads = vec![Head { id: head.id, sequence: dot.sequence }];
    let mut publishing = Box::pin(publisher.publish(batch, heads, vector, vec![]));
    // Begun, then dropped.
    let begun = std::future::poll_fn(|context| {
        std::task::Poll::Ready(publishing.as_mut().poll(context).is_pending())
    });
    assert!(begun.await);
    drop(publishing);
    let Change::Published { state, .. } = changes.recv().await.unwrap() else { panic!() };
    assert_eq!(own_head(&repo), Some(state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_read_one_small_object() {
    let machine = Machine::new(1);
    let store = machine.open().await;
    let repo = repo(&store).await;
    let mut batch = repo.batch();
    batch.add(Object::new(ObjectKind::Raw, vec![1; 20])).await.unwrap();
    let link = batch.commit().await.unwrap()[0];
    let tasks: Vec<_> = (0..300)
        .map(|_| {
            let repo = repo.clone();
            tokio::spawn(async move { repo.read(link).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), vec![1; 20]);
    }
}
