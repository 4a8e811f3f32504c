//! Peers that are slow, that fall silent or that go away in the middle.

#[path = "support/provider.rs"]
mod provider;
mod support;

use std::net::UdpSocket;
use std::time::Duration;

use ark_core::SignedState;
use ark_sync::ItemHeader;
use iroh::EndpointAddr;
use iroh::endpoint::ReadError;
use provider::{Provider, SYNC, hello};
use support::{
    Device, Running, Stranger, assert_has, device_id, files, guarded, log, publish, read_frame,
};

/// Publishes these files where nobody listens, as the device that is to offer them.
async fn home_of(device: &mut Device, files: &[(String, Vec<u8>)]) -> (Running, SignedState) {
    device.share("repo", &[]);
    let home = device.start().await;
    let state = publish(home.repo("repo"), files).await;
    (home, state)
}

/// A running device that is offered these files by the only one that it lists; and the home of
/// what is offered.
async fn offered(files: &[(String, Vec<u8>)]) -> (Device, Running, Provider, Running) {
    log();
    let (mut a, mut other) = (Device::new("a"), Device::new("other"));
    a.share("repo", &[&other]);
    let running = a.start().await;
    let (home, state) = home_of(&mut other, files).await;
    let provider = Provider::offer(&other.key, &a, home.repo("repo"), &state).await;
    (a, running, provider, home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_drips_holds_up_nobody_else() {
    log();
    let (mut a, mut honest, mut dripping) =
        (Device::new("a"), Device::new("honest"), Device::new("dripping"));
    a.share("repo", &[&honest, &dripping]);
    let running = a.start().await;
    honest.share("repo", &[&a]);
    let running_honest = honest.start().await;

    let (home, state) = home_of(&mut dripping, &files(1, 160, 10)).await;
    let provider = Provider::offer(&dripping.key, &a, home.repo("repo"), &state).await;
    let mut drips = Vec::new();
    for _ in 0..5 {
        // The largest object there is, of which a byte comes now and then.
        let (mut send, links) = provider.asked_for_content().await;
        let header = ItemHeader::Present { link: links[0], length: 4 << 20 }.encode();
        send.write_all(&header).await.unwrap();
        drips.push(tokio::spawn(async move {
            while send.write_all(&[0]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    let content = files(2, 3, 1 << 20);
    let state = publish(running_honest.repo("repo"), &content).await;
    running.until_durable("repo", &state).await;
    assert_has(running.repo("repo"), &content).await;
    assert!(drips.iter().all(|drip| !drip.is_finished()), "they drip all the while");
    running.stop().await;
    running_honest.stop().await;
    home.stop().await;
}

/// On a line so slow that requests beside each other take longer than anybody waits, one alone
/// may get through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_whose_answers_break_is_asked_less_at_once() {
    const FILES: usize = 100;
    let (_a, running, provider, home) = offered(&files(1, FILES, 10)).await;
    let (mut send, links) = provider.asked_for_content().await;
    assert!(links.len() < FILES, "several requests share the work");
    send.reset(8_u8.into()).unwrap();
    let alone = async {
        loop {
            let (mut send, links) = provider.asked_for_content().await;
            if links.len() == FILES {
                return (send, links);
            }
            send.reset(8_u8.into()).unwrap();
        }
    };
    let (mut send, links) = guarded("one request for all", alone).await;
    provider.answer(&mut send, &links).await;
    send.finish().unwrap();
    running.until("all of it", |status| status.repos[0].received.objects > FILES as u64).await;
    running.stop().await;
    home.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_is_kept_when_its_peer_goes() {
    let (_a, running, provider, home) = offered(&files(1, 20, 1000)).await;
    let (mut send, links) = provider.asked_for_content().await;
    let before = running.net.status().peers[0].rx_bytes;
    let mut bytes = Vec::new();
    for &link in &links[..10] {
        bytes.extend_from_slice(&provider.item(link).await);
    }
    // A beginning of the next one: when it is read, those before have been read whole.
    bytes.extend_from_slice(&provider.item(links[10]).await[..500]);
    send.write_all(&bytes).await.unwrap();
    let read = async {
        while running.net.status().peers[0].rx_bytes < before + bytes.len() as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    guarded("all of it being read", read).await;
    provider.sync.close(0_u8.into(), b"gone");

    running.until("the peer being gone", |status| !status.peers[0].connected).await;
    let repo = running.repo("repo");
    let kept = async {
        while repo.indexed(&links[..10]).await.unwrap() != [true; 10] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    guarded("what was read being kept", kept).await;
    running.until("it being told", |status| status.repos[0].received.objects > 10).await;
    assert_eq!(repo.indexed(&links[10..]).await.unwrap(), [false; 10]);
    running.stop().await;
    home.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repo_that_is_not_listed_is_refused_also_when_all_others_are_open() {
    log();
    let (mut a, friend) = (Device::new("a"), Device::new("friend"));
    a.share("x", &[&friend]);
    let running = a.start().await;
    let friend = Stranger::new(friend.key.clone()).await;
    let sync = friend.connect(&a, SYNC).await;
    let (_send_x, mut recv_x) = Stranger::send(&sync, &hello("x", device_id(&friend.key))).await;
    assert!(read_frame(&mut recv_x).await.is_some(), "it is open");
    for id in ["y", "z"] {
        let (_send, mut recv) = Stranger::send(&sync, &hello(id, device_id(&friend.key))).await;
        match guarded("a refusal", recv.read(&mut [0])).await {
            Err(ReadError::Reset(code)) => assert_eq!(code.into_inner(), 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(sync.close_reason().is_none());
    running.stop().await;
}

/// The one test here that takes as long as the patience which it is about: twenty seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_says_hello_is_given_up() {
    log();
    let (mut a, mut mute) = (Device::new("a"), Device::new("mute"));
    let stranger = Stranger::new(mute.key.clone()).await;
    stranger.endpoint.set_alpns(vec![SYNC.to_vec()]);
    mute.listens_on(stranger.endpoint.bound_sockets()[0]);
    a.share("repo", &[&mute]);
    let running = a.start().await;
    let incoming = guarded("a dial", stranger.endpoint.accept()).await.unwrap();
    let connection = guarded("a connection", incoming.accept().unwrap()).await.unwrap();
    let (_send, mut recv) = guarded("a stream", connection.accept_bi()).await.unwrap();
    assert!(read_frame(&mut recv).await.is_some(), "its hello");
    match guarded("the end of patience", connection.closed()).await {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), 8);
        }
        other => panic!("closed otherwise: {other:?}"),
    }
    running.stop().await;
}

/// First packets whose senders never hear an answer, as from forged addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_from_forged_addresses_shut_nobody_out() {
    log();
    let (mut a, friend) = (Device::new("a"), Device::new("friend"));
    a.share("repo", &[&friend]);
    let running = a.start().await;
    // Forwards what comes, and nothing back.
    let one_way = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (inlet, outlet) = (one_way.local_addr().unwrap(), a.addr());
    let onwards = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (counted, mut count) = tokio::sync::watch::channel(0_usize);
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        // Ends with the test's process.
        while let Ok((length, _)) = one_way.recv_from(&mut packet) {
            let _ = onwards.send_to(&packet[..length], outlet);
            counted.send_modify(|count| *count += 1);
        }
    });
    let forger = Stranger::new(iroh::SecretKey::generate()).await;
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..128 {
        let endpoint = forger.endpoint.clone();
        let addr = EndpointAddr::new(a.key.public()).with_ip_addr(inlet);
        dials.spawn(async move { endpoint.connect(addr, SYNC).await.is_ok() });
    }
    guarded("the packets", count.wait_for(|&count| count >= 256)).await.unwrap();

    let friend = Stranger::new(friend.key.clone()).await;
    let sync = friend.connect(&a, SYNC).await;
    let (_send, mut recv) = Stranger::send(&sync, &hello("repo", device_id(&friend.key))).await;
    assert!(read_frame(&mut recv).await.is_some());
    dials.shutdown().await;
    running.stop().await;
}
