//! Devices that know nothing of each other's addresses and meet through a relay of the test's own.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ark_net::{NetStatus, PathKind};
use iroh::RelayUrl;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use support::{Device, Running, assert_has, files, log, publish};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A relay on loopback, without TLS.
async fn relay() -> (RelayUrl, Server) {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::spawn(config).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap()).parse().unwrap();
    (url, server)
}

/// Two devices that list each other with the relay and nothing else.
async fn pair(relay: &RelayUrl, a_at: IpAddr, b_at: IpAddr) -> [(Device, Running); 2] {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    a.behind(relay, a_at);
    b.behind(relay, b_at);
    a.share("repo", &[&b]);
    b.share("repo", &[&a]);
    let running_a = a.start().await;
    let running_b = b.start().await;
    [(a, running_a), (b, running_b)]
}

async fn exchange(a: &Running, b: &Running, seed: u64) {
    for (from, to, seed) in [(a, b, seed), (b, a, seed + 1)] {
        let content = files(seed, 20, 100_000);
        let state = publish(from.repo("repo"), &content).await;
        to.until_durable("repo", &state).await;
        assert_has(to.repo("repo"), &content).await;
    }
}

fn path(status: &NetStatus) -> PathKind {
    status.peers[0].path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_cannot_reach_each_other_meet_at_a_relay() {
    let (url, server) = relay().await;
    // Sockets of two families: no packet goes from one to the other.
    let [(_a, a), (_b, b)] = pair(&url, V4, V6).await;
    exchange(&a, &b, 1).await;
    for running in [&a, &b] {
        // Both dial: for a moment the connection that stays may not be the one that is shown.
        running.until("the relay's path", |status| path(status) == PathKind::Relay).await;
    }
    a.stop().await;
    b.stop().await;
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_met_at_a_relay_find_the_direct_path() {
    let (url, server) = relay().await;
    let [(_a, a), (_b, b)] = pair(&url, V4, V4).await;
    exchange(&a, &b, 1).await;
    for running in [&a, &b] {
        running.until("a direct path", |status| path(status) == PathKind::Direct).await;
    }
    // It stands without the relay.
    server.shutdown().await.unwrap();
    exchange(&a, &b, 3).await;
    a.stop().await;
    b.stop().await;
}
