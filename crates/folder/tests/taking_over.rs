//! A writer that is dropped from the config: what it wrote is published as one's own, once.

mod syncing;

use std::collections::BTreeSet;

use ark_core::{SignedState, heads};
use ark_store::Repo;
use syncing::{Device, pull, revisions, settle};

/// Three devices at rest; the third wrote last, so that its head is joined by all.
async fn three() -> [Device; 3] {
    let devices = [Device::started(1).await, Device::started(2).await, Device::started(3).await];
    let [a, b, c] = &devices;
    a.write("of-a", "a");
    b.write("of-b", "b");
    settle(&[a, b, c]).await;
    c.write("of-c", "c");
    c.write("d/of-c", "c");
    settle(&[a, b, c]).await;
    devices
}

/// The numbers of the devices whose heads `repo` has.
fn writers_of_heads(repo: &Repo) -> Vec<u8> {
    let states = repo.states();
    let heads = heads(states.joined.values().map(SignedState::state));
    let devices = heads.iter().flat_map(|head| &head.dots).map(|dot| dot.writer.device);
    let number = |device| (1..=3).find(|&number| syncing::device_id(number) == device).unwrap();
    let numbers: BTreeSet<u8> = devices.map(number).collect();
    numbers.into_iter().collect()
}

async fn drop_third(device: &mut Device) {
    device.stop().await;
    device.writers.remove(&3);
    device.start().await;
    device.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dropped_writer_wrote_is_taken_over_once() {
    let [mut a, b, c] = three().await;
    let (tree, before) = (a.tree(), a.published());
    let before_of_b = b.published();
    a.restart().await;
    a.rest().await;
    assert_eq!((a.published(), writers_of_heads(a.repo())), (before, vec![3]), "it is listed");
    drop_third(&mut a).await;
    assert_eq!((a.published(), writers_of_heads(a.repo())), (before + 1, vec![1]));
    // Whoever hears of nobody but `a` has it all.
    let mut d = Device::new(4);
    d.writers = [1].into();
    d.start().await;
    syncing::pull_of(a.repo(), d.repo(), a.repo().writer()).await;
    d.rest().await;
    assert_eq!(d.tree(), tree);
    assert_eq!(d.published(), 0);
    settle(&[&a, &b, &c]).await;
    assert_eq!(a.tree(), tree);
    assert_eq!(b.published(), before_of_b, "it has nothing to answer");
    // And never again.
    a.restart().await;
    settle(&[&a, &b, &c]).await;
    assert_eq!(a.published(), before + 1);
    assert!(a.conflicts().is_empty());
}

/// They do not answer each other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_drop_it_both_take_over_and_come_to_rest() {
    let [mut a, mut b, c] = three().await;
    let (tree, before) = (a.tree(), [a.published(), b.published()]);
    drop_third(&mut a).await;
    drop_third(&mut b).await;
    settle(&[&a, &b]).await;
    assert_eq!([a.published(), b.published()], before.map(|before| before + 1));
    assert_eq!((a.tree(), writers_of_heads(a.repo())), (tree, vec![1, 2]));
    // Nor does the second where it hears of it from the first, which has.
    c.write("later", "c");
    c.rest().await;
    pull(&c, &a).await;
    a.until("taken over", |_| writers_of_heads(a.repo()) == [1]).await;
    pull(&a, &b).await;
    settle(&[&a, &b]).await;
    assert_eq!([a.published(), b.published()], [before[0] + 2, before[1] + 1]);
}

/// What comes in on the way while it runs, and with what was changed here at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_joined_later_is_taken_over_too() {
    let [mut a, b, c] = three().await;
    drop_third(&mut a).await;
    c.write("of-c", "edited");
    c.remove("d/of-c");
    c.rest().await;
    let before = a.published();
    pull(&c, &a).await;
    a.until("taken over", |_| a.published() > before).await;
    a.rest().await;
    assert_eq!((a.published(), writers_of_heads(a.repo())), (before + 1, vec![1]));
    assert_eq!(a.read("of-c"), "edited");
    settle(&[&a, &b, &c]).await;
    // Also where nothing is to be done to the files, whose events would have them looked at.
    for device in [&a, &c] {
        device.write("same", "written on both");
        device.rest().await;
    }
    let before = a.published();
    pull(&c, &a).await;
    a.until("taken over", |_| a.published() > before).await;
    assert_eq!((a.published(), writers_of_heads(a.repo())), (before + 1, vec![1]));
    settle(&[&a, &b, &c]).await;
    // An edit of its own in the same moment is one publication with it, and no conflict.
    a.stop().await;
    c.write("of-c", "edited again");
    a.write("of-a", "edited, too");
    settle(&[&b, &c]).await;
    let (store, repo) = a.open_store().await;
    syncing::pull_repo(c.repo(), &repo).await;
    let before = revisions(&repo)[&repo.writer()];
    drop(repo);
    store.close().await.unwrap();
    a.start().await;
    settle(&[&a, &b, &c]).await;
    assert_eq!(a.published(), before + 1);
    assert_eq!((b.read("of-a"), b.read("of-c")), ("edited, too".into(), "edited again".into()));
    assert!(a.conflicts().is_empty());
}

/// Ended before it was published, it is done at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_dropped_while_it_was_off_is_taken_over_at_the_start() {
    let [mut a, b, c] = three().await;
    let (tree, before) = (a.tree(), a.published());
    for _ in 0..3 {
        a.kill().await;
        a.writers.remove(&3);
        a.start().await;
    }
    a.rest().await;
    assert_eq!((a.published(), writers_of_heads(a.repo())), (before + 1, vec![1]));
    settle(&[&a, &b, &c]).await;
    assert_eq!(b.tree(), tree);
}
