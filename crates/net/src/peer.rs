//! One task per listed device: keeps one sync connection with it, dials again when it is lost.
//!
//! Both sides dial. Where both succeed at about the same time, the connection dialled by the
//! device with the smaller id stays, and both see it so. Otherwise the newer one stays: a peer
//! that dials again no longer has the old one, whatever this side still believes of it.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ark_core::DeviceId;
use iroh::EndpointId;
use iroh::endpoint::{Connection, ConnectionError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, debug, error_span};

use crate::access::{CODE_NOT_LISTED, SYNC_ALPN};
use crate::backoff::Backoff;
use crate::session;
use crate::shared::{CODE_DUPLICATE, CODE_REPLACED, CODE_SHUTDOWN, PeerHandle, Shared, close};

/// Accepted connections that wait for the task. It only ever decides, so they do not wait long.
pub(crate) const ACCEPTED_CAPACITY: usize = 8;
/// A dial that takes longer is given up. iroh itself gives up after some ten seconds.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections of both directions made within this time are one meeting, dialled from both
/// sides: longer than a handshake takes, short against how soon a restarted peer is missed.
const SAME_MEETING: Duration = Duration::from_secs(3);
/// A connection that lasted this long was a good one: the next dial comes at once.
const GOOD_AFTER: Duration = Duration::from_secs(3);

type Dial = Pin<Box<dyn Future<Output = Result<Connection, String>> + Send>>;

/// The sync connection that stands.
struct Current {
    connection: Connection,
    dialled_here: bool,
    since: Instant,
    session: AbortHandle,
}

struct Peer {
    shared: Arc<Shared>,
    device: DeviceId,
    handle: Arc<PeerHandle>,
    current: Option<Current>,
    dial: Option<Dial>,
    dial_since: Instant,
    next_dial: Instant,
    backoff: Backoff,
    /// Sessions of the current connection and of those just replaced.
    sessions: JoinSet<()>,
    /// Of this machine.
    addresses: BTreeSet<IpAddr>,
}

/// Runs until shutdown, or until the device is listed no more.
pub(crate) async fn run(
    shared: Arc<Shared>,
    (device, handle): (DeviceId, Arc<PeerHandle>),
    accepted: mpsc::Receiver<Connection>,
    network: watch::Receiver<BTreeSet<IpAddr>>,
) {
    let span = error_span!("peer", peer = %device.short());
    let peer = Peer {
        shared,
        device,
        handle,
        current: None,
        dial: None,
        dial_since: Instant::now(),
        next_dial: Instant::now(),
        backoff: Backoff::new(),
        sessions: JoinSet::new(),
        addresses: network.borrow().clone(),
    };
    peer.run(accepted, network).instrument(span).await;
}

impl Peer {
    async fn run(
        mut self,
        mut accepted: mpsc::Receiver<Connection>,
        mut network: watch::Receiver<BTreeSet<IpAddr>>,
    ) {
        let end = self.handle.life.end.clone();
        loop {
            let may_dial = self.current.is_none() && self.dial.is_none();
            tokio::select! {
                () = end.cancelled() => break,
                Some(connection) = accepted.recv() => self.accepted(connection),
                result = dialled(&mut self.dial) => {
                    self.dial = None;
                    match result {
                        Ok(connection) => self.offer(connection, true),
                        Err(reason) => self.dial_failed(&reason),
                    }
                }
                () = sleep_until(self.next_dial), if may_dial => self.start_dial(),
                Ok(()) = network.changed() => {
                    let addresses = network.borrow_and_update().clone();
                    self.network_changed(addresses);
                }
                () = self.handle.moved.notified() => {
                    // So has a dial that is under way: it does not know of the other place.
                    self.dial = None;
                    self.dial_soon();
                }
                Some(result) = self.sessions.join_next_with_id() => {
                    self.session_ended(result.map(|(id, ())| id));
                }
            }
        }
        let is_shutdown = self.shared.cancel.is_cancelled();
        let (code, reason): (_, &[u8]) = if is_shutdown {
            (CODE_SHUTDOWN, b"shutting down")
        } else {
            (CODE_REPLACED, b"the config has changed")
        };
        if let Some(current) = self.current.take() {
            close(&current.connection, code, reason);
        }
        self.handle.lane.end(code, reason);
        if !is_shutdown {
            // They end by themselves and tell their repos, some of which go on.
            let sessions = async { while self.sessions.join_next().await.is_some() {} };
            tokio::select! {
                () = sessions => {}
                () = self.shared.cancel.cancelled() => {}
            }
        }
        self.sessions.shutdown().await;
        self.handle.board.disconnected();
    }

    /// This machine came to another network, or it has these addresses now.
    fn network_changed(&mut self, addresses: BTreeSet<IpAddr>) {
        let gone: BTreeSet<IpAddr> = self.addresses.difference(&addresses).copied().collect();
        if self.addresses != addresses {
            self.addresses = addresses;
            // So is a dial that is under way: it may have begun where nothing could come back.
            self.dial = None;
        }
        self.shared.access.cut_gone(self.device, &gone);
        // Waiting has lost its reason.
        self.dial_soon();
    }

    /// Dials at once, where no connection stands.
    fn dial_soon(&mut self) {
        self.backoff = Backoff::new();
        self.next_dial = Instant::now();
    }

    fn start_dial(&mut self) {
        let endpoint = self.shared.endpoint.clone();
        let device = self.device;
        self.dial_since = Instant::now();
        self.dial = Some(Box::pin(async move {
            let id = EndpointId::from_bytes(device.as_bytes()).map_err(|e| e.to_string())?;
            match timeout(DIAL_TIMEOUT, endpoint.connect(id, SYNC_ALPN)).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("no answer".to_owned()),
            }
        }));
    }

    fn dial_failed(&mut self, reason: &str) {
        debug!(reason, "dialling failed");
        self.wait_to_dial();
    }

    fn wait_to_dial(&mut self) {
        self.next_dial = Instant::now() + self.backoff.next(rand::random());
    }

    fn accepted(&mut self, connection: Connection) {
        // Of two dials at a time that of the smaller id stays. One that has been going nowhere for
        // long is no longer of this meeting: it would only take the place of a good connection.
        let stale = self.dial_since.elapsed() >= SAME_MEETING / 2;
        if self.shared.device > self.device || stale {
            self.dial = None;
        }
        self.offer(connection, false);
    }

    /// A connection came about: keeps it or the one that stands.
    fn offer(&mut self, connection: Connection, dialled_here: bool) {
        if let Some(current) = &self.current {
            let one_meeting = current.since.elapsed() < SAME_MEETING
                && current.dialled_here != dialled_here
                && current.connection.close_reason().is_none();
            let ours_stays = self.shared.device < self.device;
            if one_meeting && current.dialled_here == ours_stays {
                debug!(dialled_here, "closing a second connection");
                close(&connection, CODE_DUPLICATE, b"another connection stays");
                return;
            }
            let code = if one_meeting { CODE_DUPLICATE } else { CODE_REPLACED };
            close(&current.connection, code, b"a newer connection stays");
            if !one_meeting {
                // The peer started anew: what it had open is gone.
                self.handle.lane.close(CODE_REPLACED, b"the devices met anew");
                self.shared.access.cut_older(self.device, &connection);
            }
        }
        debug!(dialled_here, "a connection stands");
        self.handle.lane.met(dialled_here);
        self.handle.board.met();
        let of = (self.device, self.handle.clone());
        let session = session::run(self.shared.clone(), of, connection.clone(), dialled_here);
        let session = self.sessions.spawn(session.in_current_span());
        self.current = Some(Current { connection, dialled_here, since: Instant::now(), session });
    }

    fn session_ended(&mut self, result: Result<tokio::task::Id, JoinError>) {
        let id = result.unwrap_or_else(|error| error.id());
        // Sessions of replaced connections end on their own; nothing depends on them.
        let Some(current) = self.current.take_if(|current| current.session.id() == id) else {
            return;
        };
        let reason = current.connection.close_reason();
        close(&current.connection, CODE_REPLACED, b"the session ended");
        debug!(reason = ?reason, "the connection is gone");
        let PeerHandle { board, lane, .. } = &*self.handle;
        if reason.as_ref().is_some_and(is_lost) {
            // What is open beside it goes the same way, and iroh would dial along it, too.
            self.shared.access.cut(self.device);
        }
        // A connection on which nothing was said left nothing open beside it.
        if board.disconnected() {
            lane.close(CODE_REPLACED, b"the devices parted");
        }
        let refused = matches!(&reason, Some(ConnectionError::ApplicationClosed(close))
            if close.error_code == CODE_NOT_LISTED);
        if refused {
            board.set_problem(Some("it does not list this device".to_owned()));
        }
        if current.since.elapsed() >= GOOD_AFTER {
            self.backoff = Backoff::new();
        }
        self.wait_to_dial();
    }
}

/// Whether a connection ended without a word of either side.
const fn is_lost(reason: &ConnectionError) -> bool {
    matches!(
        reason,
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::TransportError(_)
    )
}

/// The end of the dial under way; never, where there is none.
async fn dialled(dial: &mut Option<Dial>) -> Result<Connection, String> {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
