//! What jj processes put, get and look for.

use std::time::Instant;

use ark_core::jj::VIRTUAL;
use ark_core::{Link, Object, ObjectId, ObjectKind};
use ark_store::{Change, Lease, LeaseError, PutError, ReadError};

use crate::jj::{Device, operation, put, step};
use crate::support::{Faults, Machine, topic};

#[tokio::test]
async fn what_is_put_can_be_got_and_one_commit_indexes_all_of_it() {
    let a = Device::new(1).await;
    let lease = a.jj().lease();
    let before = a.store.counters();
    let mut all = Vec::new();
    let mut last = VIRTUAL;
    for number in 0..200 {
        let objects = step(&number.to_string(), VIRTUAL, &[last]);
        last = put(&lease, objects.clone()).await;
        all.extend(objects);
    }
    let raw = Object::new(ObjectKind::Raw, vec![7; 100_000]);
    lease.put(raw.clone()).await.unwrap();
    assert_eq!(lease.get(raw.link()).await.unwrap(), raw.bytes());
    for object in &all {
        assert_eq!(lease.get(object.link()).await.unwrap(), object.bytes());
    }
    let links: Vec<Link> = all.iter().map(Object::link).collect();
    assert_eq!(a.repo.indexed(&links).await.unwrap(), vec![false; links.len()]);
    lease.barrier().await.unwrap();
    assert_eq!(a.repo.indexed(&links).await.unwrap(), vec![true; links.len()]);
    let after = a.store.counters();
    assert_eq!((after.commits - before.commits, after.blob_syncs - before.blob_syncs), (1, 1));
    // What is there is neither written nor synced again.
    put(&lease, all.clone()).await;
    lease.barrier().await.unwrap();
    assert_eq!(a.store.counters().commits, after.commits);
    assert_eq!(a.store.counters().imports, after.imports);

    let mut changes = a.jj().subscribe();
    lease.update_heads(&[], Some(last)).await.unwrap();
    let Change::Published { new, .. } = changes.recv().await.unwrap() else { panic!() };
    assert_eq!(new.len(), links.len() + 1, "all that nobody was told of");
    let next = put(&lease, step("next", VIRTUAL, &[last])).await;
    lease.update_heads(&[last], Some(next)).await.unwrap();
    let Change::Published { new, .. } = changes.recv().await.unwrap() else { panic!() };
    assert_eq!(new.len(), 3);
    assert!(new.contains(&operation(next)));
}

#[tokio::test]
async fn what_no_barrier_covered_goes_with_its_lease() {
    let a = Device::new(1).await;
    let [commit, shown, done] = step("one", VIRTUAL, &[VIRTUAL]);
    let lease = a.jj().lease();
    lease.put(commit.clone()).await.unwrap();
    let error = lease.put(done.clone()).await.unwrap_err();
    assert!(matches!(&error, PutError::NotClosed { missing, .. } if *missing == [shown.link()]));
    // That put alone failed.
    lease.put(shown.clone()).await.unwrap();
    lease.put(done.clone()).await.unwrap();
    drop(lease);
    let lease = a.jj().lease();
    for object in [&commit, &shown, &done] {
        let absent = lease.get(object.link()).await;
        assert!(matches!(absent, Err(ReadError::Absent { .. })));
    }
    drop(lease);
    let a = a.reopen().await;
    let lease = a.jj().lease();
    for object in [&commit, &shown, &done] {
        let absent = lease.get(object.link()).await;
        assert!(matches!(absent, Err(ReadError::Absent { .. })));
    }
    assert!(matches!(lease.put(done.clone()).await, Err(PutError::NotClosed { .. })));
    put(&lease, [commit, shown, done]).await;
    lease.barrier().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_failed_takes_nothing_more_and_another_begins_anew() {
    let faults = Faults::default();
    let machine = Machine::new(1);
    let store = machine.open_with(faults.hook()).await;
    let repo = store.held(topic()).await.unwrap();
    let jj = repo.jj().unwrap();
    for place in ["import", "sync-db", "index-commit"] {
        let objects = step(place, VIRTUAL, &[VIRTUAL]);
        let lease = jj.lease();
        faults.set(&[place]);
        let mut failed = false;
        for object in objects.clone() {
            failed |= lease.put(object).await.is_err();
        }
        failed |= lease.barrier().await.is_err();
        assert!(failed, "{place}");
        faults.set(&[]);
        assert!(matches!(lease.barrier().await, Err(LeaseError::Broken)), "{place}");
        let again = lease.put(objects[0].clone()).await;
        assert!(matches!(again, Err(PutError::Lease(LeaseError::Broken))), "{place}");
        assert!(lease.update_heads(&[], Some(objects[2].id())).await.is_err());
        assert!(jj.heads().is_empty());

        let lease = jj.lease();
        put(&lease, objects.clone()).await;
        lease.barrier().await.unwrap();
        let links: Vec<Link> = objects.iter().map(Object::link).collect();
        assert_eq!(repo.indexed(&links).await.unwrap(), [true; 3], "{place}");
    }
}

#[tokio::test]
async fn ids_are_found_by_kind_in_a_range() {
    let a = Device::new(1).await;
    let lease = a.jj().lease();
    let mut operations = Vec::new();
    for number in 0..60 {
        operations.push(put(&lease, step(&number.to_string(), VIRTUAL, &[VIRTUAL])).await);
        if number == 30 {
            lease.barrier().await.unwrap();
        }
    }
    operations.sort_unstable();
    let ids =
        async |from, to, limit| lease.ids(ObjectKind::Operation, from..=to, limit).await.unwrap();
    let (first, last) = (ObjectId::from_bytes([0; 32]), ObjectId::from_bytes([255; 32]));
    assert_eq!(ids(first, last, 100).await, operations);
    assert_eq!(ids(first, last, 3).await, operations[..3]);
    assert_eq!(ids(operations[10], operations[20], 100).await, operations[10..=20]);
    assert_eq!(ids(operations[10], operations[20], 2).await, operations[10..12]);
    assert_eq!(ids(operations[20], operations[10], 2).await, []);
    // Another process sees what is indexed.
    let other = a.jj().lease();
    let indexed = other.ids(ObjectKind::Operation, first..=last, 100).await.unwrap();
    assert_eq!(indexed.len(), 31);
}

/// What a jj process waits for:
/// `cargo test --release -p ark-store --test store -- --ignored --nocapture figures_of_a_lease`.
#[tokio::test]
#[ignore = "prints figures"]
async fn figures_of_a_lease() {
    let a = Device::new(1).await;
    let lease = a.jj().lease();
    let begun = Instant::now();
    for number in 0_u32..20_000 {
        lease.put(Object::new(ObjectKind::Raw, number.to_le_bytes().repeat(250))).await.unwrap();
    }
    let put = begun.elapsed();
    lease.barrier().await.unwrap();
    println!("20,000 objects of 1 kB: put in {put:?}, durable after {:?}", begun.elapsed());
    for number in 0..3 {
        let begun = Instant::now();
        let operation = put_small(&lease, number).await;
        let put = begun.elapsed();
        lease.barrier().await.unwrap();
        let durable = begun.elapsed();
        lease.update_heads(&a.heads(), Some(operation)).await.unwrap();
        let all = begun.elapsed();
        println!(
            "a step of 35 objects: put in {put:?}, durable after {durable:?}, a head after {all:?}"
        );
    }
}

/// A step beside 32 contents.
async fn put_small(lease: &Lease, number: u8) -> ObjectId {
    for content in 0_u8..32 {
        lease.put(Object::new(ObjectKind::Raw, vec![number, content])).await.unwrap();
    }
    put(lease, step(&number.to_string(), VIRTUAL, &[VIRTUAL])).await
}
