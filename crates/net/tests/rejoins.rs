//! A member that comes and goes, and whom gossip never reaches.

#[path = "support/provider.rs"]
mod provider;
mod support;

use std::time::{Duration, Instant};

use ark_core::TopicId;
use provider::{OBJECTS, SYNC, hello};
use support::{Device, Stranger, device_id, guarded, log, read_frame};

/// Of `ark_net`: the same device is joined again no sooner than this.
const REJOIN_INTERVAL: Duration = Duration::from_secs(5);
/// Many more than joins may come of them in the time that they take.
const MEETINGS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_goes_is_joined_boundedly() {
    log();
    let (mut a, mut deaf) = (Device::new("a"), Device::new("deaf"));
    let stranger = Stranger::new(deaf.key.clone()).await;
    // Not for gossip: no join succeeds.
    stranger.endpoint.set_alpns(vec![OBJECTS.to_vec()]);
    deaf.listens_on(stranger.endpoint.bound_sockets()[0]);
    a.share("repo", &[&deaf]);
    let running = a.start().await;
    let topic = TopicId::derive("repo", None);
    let began = Instant::now();
    for _ in 0..MEETINGS {
        let sync = stranger.connect(&a, SYNC).await;
        let (_send, mut recv) = Stranger::send(&sync, &hello("repo", device_id(&deaf.key))).await;
        assert!(read_frame(&mut recv).await.is_some(), "its hello");
        running
            .until("it being met", |status| {
                status.repos.iter().any(|repo| repo.remotes.iter().any(|remote| remote.connected))
            })
            .await;
        sync.close(0_u8.into(), b"again");
        running.until("it being missed", |status| !status.peers[0].connected).await;
    }
    let joined = async {
        while running.net.gossip_joins(topic) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    guarded("a first join", joined).await;
    let joins = running.net.gossip_joins(topic);
    let took = began.elapsed();
    println!("{joins} joins of {MEETINGS} meetings in {took:?}");
    assert!(joins <= took.as_secs() / REJOIN_INTERVAL.as_secs() + 1, "{joins} in {took:?}");
    running.stop().await;
}
