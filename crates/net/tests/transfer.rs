//! Objects and states between devices on loopback.

mod support;

use ark_net::{NetStatus, Role};
use support::{Device, assert_has, files, log, publish};

/// Two devices that list each other for `repo`; the second knows where the first is.
async fn pair() -> (Device, support::Running, Device, support::Running) {
    pair_that(false).await
}

/// Likewise; all gossip is lost, or none.
async fn pair_that(loses_gossip: bool) -> (Device, support::Running, Device, support::Running) {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    (a.loses_gossip, b.loses_gossip) = (loses_gossip, loses_gossip);
    a.share("repo", &[&b]);
    let running_a = a.start().await;
    b.share("repo", &[&a]);
    let running_b = b.start().await;
    (a, running_a, b, running_b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_publishes_the_other_joins() {
    let (_a, a, _b, b) = pair().await;
    // Before they meet, and after.
    let first = files(1, 300, 4096);
    let state = publish(a.repo("repo"), &first).await;
    b.until_durable("repo", &state).await;
    assert_has(b.repo("repo"), &first).await;

    let second = files(2, 5, 1 << 20);
    let state = publish(b.repo("repo"), &second).await;
    a.until_durable("repo", &state).await;
    assert_has(a.repo("repo"), &second).await;
    b.until_told_durable("repo", a.id, &state).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_in_a_row_arrive() {
    let (_a, a, _b, b) = pair().await;
    a.until_met("repo", b.id).await;
    let mut last = None;
    for n in 0..20 {
        let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let state = publish(from.repo("repo"), &files(n, 3, 1000)).await;
        to.until_durable("repo", &state).await;
        last = Some(state);
    }
    assert_eq!(last.unwrap().state().revision, 10);
    let newest = |status: &NetStatus| status.repos[0].durable.values().eq(&[10, 10]);
    for running in [&a, &b] {
        running.until("all of it", newest).await;
    }
    assert_eq!(a.repo_status("repo").durable, b.repo_status("repo").durable);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrives_though_all_gossip_is_lost() {
    let (_a, a, _b, b) = pair_that(true).await;
    a.until_met("repo", b.id).await;
    b.until_met("repo", a.id).await;
    for n in 0..4 {
        let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let content = files(n, 10, 5000);
        let state = publish(from.repo("repo"), &content).await;
        to.until_durable("repo", &state).await;
        assert_has(to.repo("repo"), &content).await;
        from.until_told_durable("repo", to.id, &state).await;
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_writes_stays_there_and_both_say_so() {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    a.share_as("repo", &b, Role::Reader);
    let a_runs = a.start().await;
    b.share("repo", &[&a]);
    let b_runs = b.start().await;
    let content = files(1, 10, 5000);
    let state = publish(a_runs.repo("repo"), &content).await;
    b_runs.until_durable("repo", &state).await;
    let granted = |status: &NetStatus| status.repos[0].remotes[0].granted;
    b_runs.until("what it may", |status| granted(status) == Some(Role::Reader)).await;
    a_runs.until("what it may", |status| granted(status) == Some(Role::Peer)).await;

    publish(b_runs.repo("repo"), &files(2, 10, 5000)).await;
    let shown = |status: &NetStatus| !status.repos[0].problems.is_empty();
    a_runs.until("the refusal", shown).await;
    b_runs.until("being told", shown).await;
    assert_eq!(a_runs.repo_status("repo").durable.len(), 1);
    a_runs.stop().await;
    b_runs.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_device_relays() {
    log();
    // a and c list each other but cannot reach each other: b holds for both.
    let (mut a, mut b, mut c) = (Device::new("a"), Device::new("b"), Device::new("c"));
    b.share("repo", &[&a, &c]);
    let running_b = b.start().await;
    a.share("repo", &[&b, &c]);
    let running_a = a.start().await;
    c.share("repo", &[&a, &b]);
    let running_c = c.start().await;
    let content = files(7, 50, 3000);
    let state = publish(running_a.repo("repo"), &content).await;
    running_c.until_durable("repo", &state).await;
    running_b.until_durable("repo", &state).await;
    assert_has(running_c.repo("repo"), &content).await;
    running_a.stop().await;
    running_b.stop().await;
    running_c.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_met_again() {
    let (a, running_a, mut b, running_b) = pair().await;
    running_a.until_met("repo", b.id()).await;
    running_b.stop().await;
    running_a.until("the peer being gone", |status| !status.peers[0].connected).await;
    let state = publish(running_a.repo("repo"), &files(3, 4, 100)).await;
    let running_b = b.start().await;
    running_b.until_durable("repo", &state).await;
    assert!(running_a.net.status().peers[0].last_seen.is_some());
    running_a.until_told_durable("repo", b.id(), &state).await;
    drop(a);
    running_a.stop().await;
    running_b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_mid_transfer_gets_the_rest_only() {
    let (_a, a, mut b, running_b) = pair().await;
    let count = 1500;
    let content = files(5, 1500, 64 << 10);
    let state = publish(a.repo("repo"), &content).await;
    let total = count * (64 << 10);
    running_b
        .until("a fifth having arrived", |status| status.repos[0].received.objects > count / 5)
        .await;
    let arrived = running_b.repo_status("repo").received;
    assert!(arrived.bytes < total, "too fast to be cut off: {arrived:?}");
    running_b.stop().await;

    let running_b = b.start().await;
    running_b.until_durable("repo", &state).await;
    assert_has(running_b.repo("repo"), &content).await;
    let rest = running_b.repo_status("repo").received;
    // Each content object once over both lives; of the few structured ones any number.
    assert!(rest.objects + arrived.objects < count + 200, "{arrived:?} then {rest:?}");
    let sent = a.net.status().peers[0].tx_bytes;
    assert!(sent < total + total * 3 / 10, "{sent} bytes sent for {total}");
    a.stop().await;
    running_b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialling_makes_one_connection() {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    // A first run to learn the port, so that each knows where the other is.
    a.share("repo", &[]);
    a.start().await.stop().await;
    b.share("repo", &[&a]);
    b.start().await.stop().await;
    let mut again = Device::with_key("a", a.key.clone());
    again.share("repo", &[&b]);
    let (a, b) = tokio::join!(again.start(), b.start());
    a.until_met("repo", b.id).await;
    b.until_met("repo", a.id).await;
    let state = publish(a.repo("repo"), &files(1, 2, 10)).await;
    b.until_durable("repo", &state).await;
    let state = publish(b.repo("repo"), &files(2, 2, 10)).await;
    a.until_durable("repo", &state).await;
    a.stop().await;
    b.stop().await;
}

#[test]
fn a_peer_that_died_without_a_word_is_met_as_soon_as_it_dials() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (here, there) = (runtime(), runtime());
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    let key = b.key.clone();
    a.share("repo", &[&b]);
    let running_a = here.block_on(a.start());
    b.share("repo", &[&a]);
    let running_b = there.block_on(b.start());
    here.block_on(running_a.until_met("repo", b.id()));
    // Its tasks stop where they are; nobody is told.
    there.shutdown_background();
    std::mem::forget(running_b);
    assert!(running_a.net.status().peers[0].connected);

    // A new life of the same device, elsewhere.
    let mut again = Device::with_key("b", key);
    again.share("repo", &[&a]);
    here.block_on(async {
        let running = again.start().await;
        let state = publish(running.repo("repo"), &files(1, 2, 10)).await;
        running_a.until_durable("repo", &state).await;
        running_a.stop().await;
        running.stop().await;
    });
}
