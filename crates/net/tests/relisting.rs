//! A list of repos and remotes that changes under a running network side.

mod support;

use ark_core::DeviceId;
use support::{Device, Running, assert_has, files, log, publish};

/// How often `running` was connected with `other` since the start.
fn connections(running: &Running, other: DeviceId) -> u64 {
    let status = running.net.status();
    let peer = status.peers.iter().find(|peer| peer.device == other);
    peer.map_or(0, |peer| peer.connections)
}

/// Sends an edit each way.
async fn assert_in_step(a: &Running, b: &Running, seed: u64) {
    for (from, to, seed) in [(a, b, seed), (b, a, seed + 1)] {
        let content = files(seed, 3, 1000);
        let state = publish(from.repo("repo"), &content).await;
        to.until_durable("repo", &state).await;
        assert_has(to.repo("repo"), &content).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_listed_stays_connected_while_others_come_and_go() {
    log();
    let (mut a, mut b, mut c) = (Device::new("a"), Device::new("b"), Device::new("c"));
    a.share("repo", &[&b]);
    let mut on_a = a.start().await;
    b.share("repo", &[&a]);
    let on_b = b.start().await;
    on_a.until_met("repo", b.id()).await;
    on_b.until_met("repo", a.id()).await;
    assert_in_step(&on_a, &on_b, 10).await;
    let before = (connections(&on_a, b.id()), connections(&on_b, a.id()));

    // A remote comes; b is told that a takes its states now.
    c.share("repo", &[&a]);
    let on_c = c.start().await;
    a.unshare("repo").share("repo", &[&b, &c]);
    a.relist(&mut on_a).await;
    on_a.until_met("repo", c.id()).await;
    let (a_id, c_id) = (a.id(), c.id());
    let takes_c = |of: &Running| {
        let repo = of.repo_status("repo");
        let remote = repo.remotes.iter().find(|remote| remote.device == a_id).unwrap();
        remote.listed.as_ref().is_some_and(|listed| listed.contains(&c_id))
    };
    on_b.until("a takes the states of c", |_| takes_c(&on_b)).await;
    assert_in_step(&on_a, &on_b, 20).await;
    assert_in_step(&on_a, &on_c, 30).await;

    // A repo comes that b is not listed for.
    a.share("other", &[&c]);
    a.relist(&mut on_a).await;
    on_a.until_refused("other", c.id()).await;
    assert_in_step(&on_a, &on_b, 40).await;

    // Both go.
    a.unshare("other").unshare("repo").share("repo", &[&b]);
    a.relist(&mut on_a).await;
    on_b.until("a takes the states of c no more", |_| !takes_c(&on_b)).await;
    on_c.until("it is not listed", |status| {
        status.peers.iter().any(|peer| !peer.connected && peer.problem.is_some())
    })
    .await;
    on_a.until("it is refused", |status| support::refused(status).contains(&c.id())).await;
    assert_in_step(&on_a, &on_b, 50).await;

    assert_eq!((connections(&on_a, b.id()), connections(&on_b, a.id())), before);
    assert_eq!(on_a.net.status().repos.len(), 1);
    assert_eq!(on_a.net.status().peers.len(), 1);
    for running in [on_a, on_b, on_c] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrected_address_is_dialled() {
    log();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    // The second does not know where the first is.
    b.share("repo", &[&a]);
    let on_b = b.start().await;
    let addr = b.addr();
    b.listens_on(silent.local_addr().unwrap());
    a.share("repo", &[&b]);
    let mut on_a = a.start().await;
    b.listens_on(addr);
    a.unshare("repo").share("repo", &[&b]);
    a.relist(&mut on_a).await;
    on_a.until_met("repo", b.id()).await;
    on_b.until_met("repo", a.id()).await;
    assert_in_step(&on_a, &on_b, 10).await;
    for running in [on_a, on_b] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_listed_for_more_is_met_anew() {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    a.share("repo", &[&b]);
    let mut on_a = a.start().await;
    b.share("repo", &[&a]).share("other", &[&a]);
    let on_b = b.start().await;
    on_b.until_met("repo", a.id()).await;
    on_b.until_refused("other", a.id()).await;
    // It is not told where the other one is: of two dials that cross both may be counted.
    a.share("other", &[&Device::with_key("b", b.key.clone())]);
    a.relist(&mut on_a).await;
    on_b.until_met("other", a.id()).await;
    on_b.until_met("repo", a.id()).await;
    assert_in_step(&on_a, &on_b, 10).await;
    let state = publish(on_b.repo("other"), &files(1, 3, 1000)).await;
    on_a.until_durable("other", &state).await;
    // The same list changes nothing.
    let before = connections(&on_a, b.id());
    a.relist(&mut on_a).await;
    assert_in_step(&on_a, &on_b, 20).await;
    assert_eq!(connections(&on_a, b.id()), before);
    for running in [on_a, on_b] {
        running.stop().await;
    }
}
