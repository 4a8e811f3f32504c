//! The accept loop. Each connection is handled in a task of its own, so nothing that goes wrong
//! in one of them ends the loop.

use std::sync::Arc;
use std::time::Duration;

use ark_core::DeviceId;
use iroh::endpoint::{Connection, Incoming};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use crate::access::{OBJECTS_ALPN, SYNC_ALPN};
use crate::shared::{CODE_PROTOCOL, Shared, close};
use crate::{blobs, lane};

/// Handshakes under way at once; more are turned away. Each costs a signature and some memory,
/// and anybody can start one.
const MAX_HANDSHAKES: usize = 64;
/// With fewer than so many to spare, only those are begun whose address is proved by a packet
/// that came back from it: packets with forged addresses alone do not shut out anybody.
const SPARE_HANDSHAKES: usize = MAX_HANDSHAKES / 2;
/// A handshake that takes longer is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts until the endpoint closes or shutdown begins.
pub(crate) async fn accept_loop(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            () = shared.cancel.cancelled() => break,
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => break,
            },
        };
        let is_busy = handshakes.available_permits() < SPARE_HANDSHAKES;
        if is_busy && !incoming.remote_addr_validated() {
            // What cannot be asked to come again is dropped, and refused by that.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let shared = shared.clone();
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let connection = tokio::select! {
                () = shared.cancel.cancelled() => None,
                connection = timeout(HANDSHAKE_TIMEOUT, handshake(incoming)) => {
                    connection.ok().flatten()
                }
            };
            drop(permit);
            if let Some(connection) = connection {
                dispatch(&shared, connection).await;
            }
        });
    }
}

/// Runs the handshake, and with it the access check.
async fn handshake(incoming: Incoming) -> Option<Connection> {
    let accepting = match incoming.accept() {
        Ok(accepting) => accepting,
        Err(error) => {
            debug!(%error, "an incoming connection failed");
            return None;
        }
    };
    match accepting.await {
        Ok(connection) => Some(connection),
        Err(error) => {
            debug!(%error, "a handshake failed or was refused");
            None
        }
    }
}

/// Hands a connection that passed the access check to whom its ALPN names.
async fn dispatch(shared: &Arc<Shared>, connection: Connection) {
    let device = DeviceId::from_bytes(*connection.remote_id().as_bytes());
    let Some(peer) = shared.peers.get(&device) else {
        close(&connection, CODE_PROTOCOL, b"unknown device");
        return;
    };
    // A receiver that is gone means shutdown: the connection is closed by being dropped.
    match connection.alpn() {
        SYNC_ALPN => _ = peer.accepted.send(connection).await,
        OBJECTS_ALPN => lane::accepted(shared, device, connection),
        blobs::ALPN => blobs::accepted(shared, device, connection),
        alpn => match shared.access.gossip_topic(alpn).and_then(|topic| shared.repos.get(&topic)) {
            Some(repo) => _ = repo.gossip.send(connection).await,
            None => close(&connection, CODE_PROTOCOL, b"unknown protocol"),
        },
    }
}
