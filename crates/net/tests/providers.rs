//! Several devices provide one thing.

#[path = "support/provider.rs"]
mod provider;
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use ark_core::{Link, SignedState};
use ark_sync::Message;
use iroh::EndpointAddr;
use iroh::endpoint::{ConnectOptions, QuicTransportConfig, VarInt};
use provider::{OBJECTS, Provider, SYNC, hello};
use support::{Device, Running, Stranger, assert_has, files, frame, guarded, log, publish};

type Files = Vec<(String, Vec<u8>)>;

/// A device that lists a writer which it cannot reach, and two that provide what that wrote.
struct Scene {
    a: Device,
    running: Running,
    providers: [Device; 2],
    home: Running,
    state: SignedState,
    content: Files,
}

impl Scene {
    async fn new(content: Files) -> Self {
        log();
        let [mut a, mut writer, one, other] = ["a", "writer", "one", "other"].map(Device::new);
        writer.share("repo", &[]);
        let home = writer.start().await;
        let state = publish(home.repo("repo"), &content).await;
        let unreachable = Device::with_key("writer", writer.key.clone());
        a.share("repo", &[&unreachable, &one, &other]);
        let running = a.start().await;
        Self { a, running, providers: [one, other], home, state, content }
    }

    async fn offer(&self, n: usize) -> Provider {
        let key = &self.providers[n].key;
        Provider::offer(key, &self.a, self.home.repo("repo"), &self.state).await
    }

    /// Bytes that came on streams.
    fn received(&self) -> u64 {
        self.running.net.status().peers.iter().map(|peer| peer.rx_bytes).sum()
    }

    async fn until_received(&self, bytes: u64) {
        let received = async {
            while self.received() < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        guarded("the bytes being read", received).await;
    }

    async fn ends(self) {
        self.running.until_durable("repo", &self.state).await;
        assert_has(self.running.repo("repo"), &self.content).await;
        self.running.stop().await;
        self.home.stop().await;
    }
}

/// What had arrived is not durable yet: it waits for more to fill its batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrived_from_one_that_went_is_not_asked_of_another() {
    const WHOLE: usize = 10;
    let scene = Scene::new(files(1, 20, 1000)).await;
    let first = scene.offer(0).await;
    let (mut send, links) = first.asked_for_content().await;
    assert_eq!(links.len(), 20, "few are not divided");
    let second = scene.offer(1).await;
    scene
        .running
        .until("the second", |status| {
            status.peers.iter().filter(|peer| peer.connected).count() == 2
        })
        .await;

    let before = scene.received();
    first.answer(&mut send, &links[..WHOLE]).await;
    let part = &first.item(links[WHOLE]).await[..500];
    send.write_all(part).await.unwrap();
    let mut bytes = part.len();
    for &link in &links[..WHOLE] {
        bytes += first.item(link).await.len();
    }
    scene.until_received(before + bytes as u64).await;
    first.sync.close(0_u8.into(), b"gone");

    let mut asked = BTreeSet::new();
    while asked.len() < links.len() - WHOLE {
        let (mut send, links) = second.asked_for_content().await;
        second.answer(&mut send, &links).await;
        send.finish().unwrap();
        asked.extend(links);
    }
    assert_eq!(asked, links[WHOLE..].iter().copied().collect::<BTreeSet<Link>>());
    scene.ends().await;
}

/// It takes requests and answers none. Takes as long as the patience with it: twenty seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_still_provider_was_asked_is_asked_of_another() {
    let scene = Scene::new(files(2, 100, 1000)).await;
    let still = scene.offer(0).await;
    let mut held = vec![still.asked_for_content().await];
    let willing = scene.offer(1).await;
    let answers = async {
        loop {
            let (mut send, links) = willing.asked_for_content().await;
            willing.answer(&mut send, &links).await;
            send.finish().unwrap();
        }
    };
    let holds = async {
        loop {
            held.push(still.asked_for_content().await);
        }
    };
    let durable = scene.running.until_durable("repo", &scene.state);
    tokio::select! {
        () = answers => {}
        () = holds => {}
        () = durable => {}
    }
    assert!(still.sync.close_reason().is_none(), "it is slow, and no enemy");
    scene.ends().await;
}

/// It takes no request at all: it grants no stream. Takes as long as the patience with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_is_not_even_asked_is_asked_of_another() {
    let scene = Scene::new(files(4, 20, 1000)).await;
    let (a, state) = (&scene.a, &scene.state);
    let closed = Stranger::new(scene.providers[0].key.clone()).await;
    let none = VarInt::from_u32(0);
    let transport = QuicTransportConfig::builder().max_concurrent_bidi_streams(none).build();
    let options = ConnectOptions::new().with_transport_config(transport);
    let addr = EndpointAddr::new(a.key.public()).with_ip_addr(a.addr());
    let objects = closed.endpoint.connect_with_opts(addr, OBJECTS, options).await.unwrap();
    let _objects = guarded("a connection", objects).await.unwrap();
    let sync = closed.connect(a, SYNC).await;
    let mut offer = hello("repo", state.state().writer.device);
    offer.extend_from_slice(&frame(&Message::States(vec![state.bytes().to_vec()]).encode()));
    let _streams = Stranger::send(&sync, &offer).await;
    scene.running.until("a request", |status| status.repos[0].requests > 0).await;

    let willing = scene.offer(1).await;
    let answers = async {
        loop {
            let (mut send, links) = willing.asked_for_content().await;
            willing.answer(&mut send, &links).await;
            send.finish().unwrap();
        }
    };
    tokio::select! {
        () = answers => {}
        () = scene.running.until_durable("repo", state) => {}
    }
    assert!(sync.close_reason().is_none(), "it breaks no rule");
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_have_it_share_the_work() {
    log();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(Device::new);
    a.share("repo", &[&b, &c]);
    let running_a = a.start().await;
    b.share("repo", &[&a, &c]);
    let running_b = b.start().await;
    let content = files(3, 200, 256 << 10);
    let state = publish(running_a.repo("repo"), &content).await;
    running_b.until_durable("repo", &state).await;
    // It asks for content only when its folder is scanned: when it has met both.
    c.share("repo", &[&a, &b]).with_folder();
    let running_c = c.start().await;
    running_c.until_met("repo", a.id()).await;
    running_c.until_met("repo", b.id()).await;
    running_c.net.scanned(running_c.repo("repo").topic());
    running_c.until_durable("repo", &state).await;
    assert_has(running_c.repo("repo"), &content).await;
    let peers = running_c.net.status().peers;
    let from: Vec<u64> = peers.iter().map(|peer| peer.rx_bytes).collect();
    let bytes: u64 = content.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(from.iter().all(|&from| from > bytes / 4), "{from:?} of {bytes}");
    assert!(from.iter().sum::<u64>() < bytes + bytes / 50, "none twice: {from:?} of {bytes}");
    for running in [running_a, running_b, running_c] {
        running.stop().await;
    }
}
