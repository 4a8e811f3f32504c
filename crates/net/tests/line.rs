//! Two devices that meet by a slow line alone.

#[path = "support/slow_line.rs"]
mod slow_line;
mod support;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ark_core::SignedState;
use slow_line::{Line, Quality};
use support::{Device, Running, assert_has, files, guarded, log, publish};

/// Four megabits a second and a round trip of 60 ms; a queue of a tenth of a second.
const SLOW: Quality = Quality {
    bytes_per_s: 500_000,
    delay: Duration::from_millis(30),
    queue_bytes: 50_000,
    one_lost_of: 0,
    seed: 1,
};
/// Bytes that both sides send for some content, in percent of it: packets' headers, answers, and
/// what is dropped before the line included.
const MOST_SENT_PERCENT: u64 = 130;
/// Bytes that come on streams, in percent of the content: what arrived is not sent again.
const MOST_RECEIVED_PERCENT: u64 = 110;

type Files = Vec<(String, Vec<u8>)>;

/// A device that has published something, and one that knows it by the line's address only.
struct Scene {
    a: Running,
    b: Running,
    line: Line,
    state: SignedState,
    content: Files,
    _devices: [Device; 2],
}

impl Scene {
    async fn new(quality: Quality, content: Files) -> Self {
        log();
        let (mut a, mut b) = (Device::new("a"), Device::new("b"));
        // Of two families, so that no packet finds a way beside the line.
        let on_v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        b.listens_on(SocketAddr::new(on_v6, 0));
        a.share("repo", &[&b]);
        let running_a = a.start().await;
        let state = publish(running_a.repo("repo"), &content).await;
        let line = Line::new(a.addr(), on_v6, quality);
        a.listens_on(line.addr());
        b.share("repo", &[&a]);
        let running_b = b.start().await;
        Self { a: running_a, b: running_b, line, state, content, _devices: [a, b] }
    }

    fn content_bytes(&self) -> u64 {
        self.content.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Waits until so much of the content, in percent, has crossed the line.
    async fn until_crossed(&self, percent: u64) {
        let bytes = self.content_bytes() * percent / 100;
        let crossed = async {
            while self.line.sent_bytes() < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        guarded("a part crossing the line", crossed).await;
    }

    async fn ends(self) {
        self.b.until_durable("repo", &self.state).await;
        let sent = self.line.sent_bytes() * 100 / self.content_bytes();
        let received = self.b.net.status().peers[0].rx_bytes * 100 / self.content_bytes();
        assert_has(self.b.repo("repo"), &self.content).await;
        println!("of the content {sent} % were sent, {received} % received on streams");
        assert!(sent < MOST_SENT_PERCENT, "{sent} %");
        assert!(received < MOST_RECEIVED_PERCENT, "{received} %");
        self.a.stop().await;
        self.b.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_files_cross_a_slow_line() {
    let scene = Scene::new(SLOW, files(1, 500, 4 << 10)).await;
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_large_files_cross_a_slow_line() {
    let scene = Scene::new(SLOW, files(2, 3, 1 << 20)).await;
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_cross_a_line_that_loses_packets() {
    let far = Quality { delay: Duration::from_millis(50), one_lost_of: 100, ..SLOW };
    let scene = Scene::new(far, files(3, 60, 32 << 10)).await;
    scene.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_break_costs_little() {
    let scene = Scene::new(SLOW, files(4, 60, 32 << 10)).await;
    scene.until_crossed(50).await;
    scene.line.cut(true);
    // Long enough to be noticed and short of the idle timeout: nothing is asserted about it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.line.cut(false);
    scene.ends().await;
}

/// An object of each request under way is begun anew, and nothing else. Takes as long as the idle
/// timeout, thirty seconds, after which both sides miss the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_that_ends_the_connection_costs_little() {
    let mut content = files(5, 600, 4 << 10);
    let larger = files(6, 60, 32 << 10);
    content.extend(larger.into_iter().map(|(name, bytes)| (name + ".larger", bytes)));
    let scene = Scene::new(SLOW, content).await;
    scene.until_crossed(50).await;
    scene.line.cut(true);
    scene.a.until("a missing it", |status| !status.peers[0].connected).await;
    scene.b.until("b missing it", |status| !status.peers[0].connected).await;
    scene.line.cut(false);
    scene.ends().await;
}
